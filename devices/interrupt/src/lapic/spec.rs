//! Registers of the local APIC.
//!
//! Source: Intel SDM vol. 3, chapter 11, tables 11-1 (memory-mapped) and 11-6 (x2APIC). Offsets are those of the
//! memory-mapped page; x2APIC MSR 800h + n is the register at offset n << 4.

pub const ID: u32 = 0x020;
pub const VERSION: u32 = 0x030;
pub const TPR: u32 = 0x080;
pub const APR: u32 = 0x090;
pub const PPR: u32 = 0x0a0;
pub const EOI: u32 = 0x0b0;
pub const LDR: u32 = 0x0d0;
pub const DFR: u32 = 0x0e0;
pub const SVR: u32 = 0x0f0;
pub const ESR: u32 = 0x280;
pub const ICR_LOW: u32 = 0x300;
pub const ICR_HIGH: u32 = 0x310;
pub const LVT_TIMER: u32 = 0x320;
pub const LVT_ERROR: u32 = 0x370;
pub const INITIAL_COUNT: u32 = 0x380;
pub const CURRENT_COUNT: u32 = 0x390;
pub const DIVIDE: u32 = 0x3e0;
pub const SELF_IPI: u32 = 0x3f0;

/// Version 14h with six LVT entries.
pub const VERSION_VALUE: u32 = 0x0005_0014;

/// SVR: the APIC is enabled by software.
pub const SVR_ENABLE: u32 = 1 << 8;
pub const SVR_WRITABLE: u32 = 0x0000_03ff;

/// LVT: interrupt masked.
pub const LVT_MASKED: u32 = 1 << 16;
/// LVT of LINT0 and LINT1: level-triggered.
pub const LVT_LEVEL: u32 = 1 << 15;
/// LVT of LINT0 and LINT1: level interrupt accepted, its end not yet signalled.
pub const LVT_REMOTE_IRR: u32 = 1 << 14;

/// Number of local vector table entries.
pub const LVT_COUNT: usize = 6;
/// Bits software can write, in order of the table: timer, thermal, performance, LINT0, LINT1, error.
pub const LVT_WRITABLE: [u32; LVT_COUNT] =
    [0x0007_00ff, 0x0001_07ff, 0x0001_07ff, 0x0001_a7ff, 0x0001_a7ff, 0x0001_00ff];
pub const TIMER: usize = 0;
pub const LINT0: usize = 3;
pub const LINT1: usize = 4;
pub const ERROR: usize = 5;

/// Timer mode field of the timer's LVT entry.
pub const TIMER_MODE: u32 = 3 << 17;
pub const TIMER_PERIODIC: u32 = 1 << 17;
pub const TIMER_TSC_DEADLINE: u32 = 2 << 17;

/// ICR: level assert.
pub const ICR_ASSERT: u32 = 1 << 14;
/// ICR: level-triggered.
pub const ICR_LEVEL: u32 = 1 << 15;
pub const ICR_LOGICAL: u32 = 1 << 11;
/// Bits of ICR's low half software can write.
pub const ICR_WRITABLE: u32 = 0x000c_cfff;

/// ESR: a vector below 16 was sent.
pub const ESR_SEND_ILLEGAL: u32 = 1 << 5;
/// ESR: a vector below 16 was received.
pub const ESR_RECEIVE_ILLEGAL: u32 = 1 << 6;
/// ESR: a reserved register was accessed (xAPIC).
pub const ESR_REGISTER: u32 = 1 << 7;

/// IA32_APIC_BASE.
pub const BASE_BSP: u64 = 1 << 8;
pub const BASE_X2APIC: u64 = 1 << 10;
pub const BASE_ENABLE: u64 = 1 << 11;
pub const BASE_DEFAULT: u64 = 0xfee0_0000;
