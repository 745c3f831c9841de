//! Encryption of disks: LUKS version 1, and the old AES of qcow images.
//!
//! * [`SectorCipher`] encrypts and decrypts sectors of 512 bytes in place, from any thread at once.
//! * [`LuksHeader`] is the header as it lies in an image; [`LuksVolume`] an open one, with its key slots and cipher. It
//!   reaches the header through [`HeaderStorage`], as it lies at the start of a file, in a file of its own, or in a qcow2
//!   image.
//! * [`LuksDriver`] is the image format `luks`.
//!
//! The layout, key splitting and key slots follow the "LUKS On-Disk Format Specification", version 1.2.3; the words for
//! algorithms are those of QEMU's options.

mod algorithm;
mod block_cipher;
mod driver;
pub mod fuzzing;
mod header;
mod luks_options;
mod node;
mod sector;
mod split;
mod volume;

pub use algorithm::{CipherAlgorithm, CipherMode, HashAlgorithm, IvGenerator};
pub use driver::LuksDriver;
pub use header::{KEY_SLOTS, KeySlot, LuksHeader, MAGIC};
pub use luks_options::{AmendOptions, LuksOptions, SlotState};
pub use sector::{SECTOR_SIZE, SectorCipher};
pub use volume::{FormattedLuks, HeaderStorage, LuksVolume};
