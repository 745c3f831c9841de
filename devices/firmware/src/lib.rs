//! Devices that firmware lives in and asks: parallel flash memory, and the firmware configuration device.
//!
//! Lock order: each device's own lock, then the memory topology's. Neither device holds its lock while it reaches another
//! device: what they read and write of guest memory is RAM only.

pub mod flash;
pub mod fw_cfg;

pub use flash::{Flash, FlashStore};
pub use fw_cfg::{FwCfg, FwCfgContents, FwCfgItem};
