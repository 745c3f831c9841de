//! Why translated code leaves to the dispatcher: the numbers of `Exit::Leave`, of a helper's request to leave and of
//! [`Leave`](rhea_engine::Leave) errors. Unless something else is said, the PC is that of the instruction at hand.

/// Go on; the mode word may have changed, and interrupts are looked at. The PC is that of the next instruction.
pub const RESUME: u32 = 0;
/// An exception is recorded in the hart's data.
pub const EXCEPTION: u32 = 1;
/// Bytes that are no instruction; their bits are in scratch word 0.
pub const ILLEGAL: u32 = 2;
/// ECALL.
pub const ECALL: u32 = 3;
/// EBREAK.
pub const EBREAK: u32 = 4;
/// WFI.
pub const WFI: u32 = 5;
/// MRET.
pub const MRET: u32 = 6;
/// SRET.
pub const SRET: u32 = 7;
/// WRS.NTO and WRS.STO; the instruction's bits are in scratch word 0.
pub const WAIT_RESERVATION: u32 = 8;
/// A jump to an address that no instruction may have, which is in scratch word 0.
pub const MISALIGNED_TARGET: u32 = 9;
/// `SC_FAILED + rd`: a store conditional without a reservation.
pub const SC_FAILED: u32 = 0x100;
/// A floating-point instruction whose bits are in scratch word 0 is to be executed in software.
pub const FLOAT: u32 = 10;
