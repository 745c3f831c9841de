//! Numbers that all transports and devices share (Virtual I/O Device 1.2).

/// Device status bits (section 2.1).
pub mod status {
    /// The driver has seen the device.
    pub const ACKNOWLEDGE: u8 = 1;
    /// The driver knows how to drive it.
    pub const DRIVER: u8 = 2;
    /// The driver is ready: the device is live.
    pub const DRIVER_OK: u8 = 4;
    /// Features are agreed upon.
    pub const FEATURES_OK: u8 = 8;
    /// The device has lost its way and waits for a reset.
    pub const NEEDS_RESET: u8 = 64;
    /// The driver has given up.
    pub const FAILED: u8 = 128;
}

/// Feature bits that are not of one device (section 6).
pub mod feature {
    /// Legacy: descriptors need no particular layout.
    pub const ANY_LAYOUT: u64 = 1 << 27;
    /// A descriptor may point to a table of descriptors.
    pub const INDIRECT_DESC: u64 = 1 << 28;
    /// Notifications are asked for by index.
    pub const EVENT_IDX: u64 = 1 << 29;
    /// The device follows the standard, as opposed to the legacy interface.
    pub const VERSION_1: u64 = 1 << 32;
    /// Rings may be packed ones.
    pub const RING_PACKED: u64 = 1 << 34;
}

/// Device IDs (section 5).
pub mod device_id {
    /// Nothing there.
    pub const NONE: u32 = 0;
    /// Block device.
    pub const BLOCK: u32 = 2;
    /// Console.
    pub const CONSOLE: u32 = 3;
    /// Entropy source.
    pub const ENTROPY: u32 = 4;
}

/// The most descriptors a queue may have (section 2.7).
pub const QUEUE_SIZE_LIMIT: u16 = 32768;
