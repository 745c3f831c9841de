//! Offsets and bits of the configuration space header and capabilities (PCI 3.0, chapter 6).

/// Vendor ID.
pub const VENDOR_ID: usize = 0x00;
/// Device ID.
pub const DEVICE_ID: usize = 0x02;
/// Command register.
pub const COMMAND: usize = 0x04;
/// Status register.
pub const STATUS: usize = 0x06;
/// Revision; class code in the three bytes above.
pub const REVISION: usize = 0x08;
/// Cache line size.
pub const CACHE_LINE_SIZE: usize = 0x0c;
/// Header type.
pub const HEADER_TYPE: usize = 0x0e;
/// First base address register.
pub const BAR0: usize = 0x10;
/// Subsystem vendor ID.
pub const SUBSYSTEM_VENDOR_ID: usize = 0x2c;
/// Subsystem ID.
pub const SUBSYSTEM_ID: usize = 0x2e;
/// Pointer to the first capability.
pub const CAPABILITIES: usize = 0x34;
/// Interrupt line (kept for software).
pub const INTERRUPT_LINE: usize = 0x3c;
/// Interrupt pin: 1 to 4 for INTA to INTD.
pub const INTERRUPT_PIN: usize = 0x3d;

/// Command: respond to I/O accesses.
pub const COMMAND_IO: u16 = 1 << 0;
/// Command: respond to memory accesses.
pub const COMMAND_MEMORY: u16 = 1 << 1;
/// Command: may act as bus master.
pub const COMMAND_MASTER: u16 = 1 << 2;
/// Command: INTx is disabled.
pub const COMMAND_INTX_DISABLE: u16 = 1 << 10;
/// Bits of the command register that can be written.
pub const COMMAND_WRITABLE: u16 =
    COMMAND_IO | COMMAND_MEMORY | COMMAND_MASTER | 1 << 6 | 1 << 8 | COMMAND_INTX_DISABLE;

/// Status: INTx is asserted.
pub const STATUS_INTERRUPT: u16 = 1 << 3;
/// Status: there is a capability list.
pub const STATUS_CAPABILITIES: u16 = 1 << 4;
/// Status bits cleared by writing ones.
pub const STATUS_CLEARABLE: u16 = 0xf900;

/// Header type: the device has several functions.
pub const HEADER_MULTIFUNCTION: u8 = 0x80;

/// Capability ID of MSI.
pub const CAP_MSI: u8 = 0x05;
/// Capability ID of MSI-X.
pub const CAP_MSIX: u8 = 0x11;

/// Bytes of a function's extended configuration space.
pub const CONFIG_SIZE: usize = 4096;
/// Bytes of the part that PCI 3.0 knows.
pub const LEGACY_CONFIG_SIZE: usize = 256;
