//! Registers of a domain and their bits (AIA 1.0, section 4.5).

pub const DOMAINCFG: u64 = 0x0000;
pub const SOURCECFG: u64 = 0x0004;
pub const SOURCECFG_END: u64 = 0x1000;
/// mmsiaddrcfg, mmsiaddrcfgh, smsiaddrcfg, smsiaddrcfgh.
pub const MSIADDRCFG: u64 = 0x1bc0;
pub const MSIADDRCFG_END: u64 = 0x1bd0;
pub const SETIP: u64 = 0x1c00;
pub const SETIP_END: u64 = 0x1c80;
pub const SETIPNUM: u64 = 0x1cdc;
pub const IN_CLRIP: u64 = 0x1d00;
pub const IN_CLRIP_END: u64 = 0x1d80;
pub const CLRIPNUM: u64 = 0x1ddc;
pub const SETIE: u64 = 0x1e00;
pub const SETIE_END: u64 = 0x1e80;
pub const SETIENUM: u64 = 0x1edc;
pub const CLRIE: u64 = 0x1f00;
pub const CLRIE_END: u64 = 0x1f80;
pub const CLRIENUM: u64 = 0x1fdc;
pub const SETIPNUM_LE: u64 = 0x2000;
pub const SETIPNUM_BE: u64 = 0x2004;
pub const GENMSI: u64 = 0x3000;
pub const TARGET: u64 = 0x3004;
pub const TARGET_END: u64 = 0x4000;
pub const IDC: u64 = 0x4000;
pub const IDC_STRIDE: u64 = 32;

pub const IDELIVERY: u64 = 0x00;
pub const IFORCE: u64 = 0x04;
pub const ITHRESHOLD: u64 = 0x08;
pub const TOPI: u64 = 0x18;
pub const CLAIMI: u64 = 0x1c;

/// domaincfg: what always reads so.
pub const DOMAIN_FIXED: u32 = 0x80 << 24;
/// domaincfg: the domain delivers.
pub const DOMAIN_IE: u32 = 1 << 8;
/// domaincfg: by messages.
pub const DOMAIN_DM: u32 = 1 << 2;

/// sourcecfg: delegated to a child domain.
pub const SOURCE_D: u32 = 1 << 10;
pub const SOURCE_MODE: u32 = 7;
pub const MODE_INACTIVE: u32 = 0;
// Mode 1 is detached: active, with no input. Modes 2 and 3 are reserved.
pub const MODE_EDGE_RISING: u32 = 4;
pub const MODE_EDGE_FALLING: u32 = 5;
pub const MODE_LEVEL_HIGH: u32 = 6;
pub const MODE_LEVEL_LOW: u32 = 7;

/// target: shift of the hart index.
pub const TARGET_HART: u32 = 18;
/// target in direct mode.
pub const TARGET_PRIORITY: u32 = 0xff;
/// target in message mode.
pub const TARGET_IDENTITY: u32 = 0x7ff;

/// Bits that can be written: HHXS, LHXS, HHXW, LHXW and the high part of the page number; the lock bit stays clear.
pub const MSIADDRCFG_MASKS: [u32; 4] = [u32::MAX, 0x1f77_ffff, u32::MAX, 0x0070_0fff];

/// Whether a mode is level-sensitive.
pub const fn is_level(mode: u32) -> bool {
    mode == MODE_LEVEL_HIGH || mode == MODE_LEVEL_LOW
}

/// Reserved modes are inactive.
pub const fn legal_mode(mode: u32) -> u32 {
    if mode == 2 || mode == 3 { MODE_INACTIVE } else { mode }
}
