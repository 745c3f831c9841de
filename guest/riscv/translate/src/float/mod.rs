//! Floating point: the hart's flags and rounding mode beside the host's, and every instruction in software.
//!
//! Most instructions are translated inline ([`crate::instructions`]). What is rare (rounding modes that the host has not, half
//! precision, results that depend on NaNs) comes here.

mod soft;

use rhea_engine::{Env, FloatEnv};
use rhea_riscv_state::RiscvState;

pub use soft::execute;

/// Round to nearest, ties to max magnitude: the mode that the host does not have.
pub const RMM: u8 = 4;

/// The accrued flags of RISC-V (NX, UF, OF, DZ, NV from bit 0) for the engine's (invalid, denormal, divide by zero,
/// overflow, underflow, inexact from bit 0). RISC-V has no flag for denormal operands.
fn flags_from_host(flags: u32) -> u32 {
    let pairs = [(0, 4), (2, 3), (3, 2), (4, 1), (5, 0)];
    pairs.into_iter().filter(|(host, _)| flags >> host & 1 != 0).fold(0, |all, (_, bit)| all | 1 << bit)
}

/// Brings fflags up to date with what the host's registers have gathered.
pub fn gather_flags(st: &mut RiscvState, env: &mut Env) {
    st.fflags |= flags_from_host(env.take_float_flags());
}

/// The rounding field of the host's MXCSR that stands for frm; to nearest where the host has no such mode, which
/// translated code then does not use.
pub fn host_rounding(frm: u8) -> u8 {
    match frm {
        1 => 3,
        2 => 1,
        3 => 2,
        _ => 0,
    }
}

/// Loads frm for translated code.
pub fn load_rounding(st: &RiscvState, env: &mut Env) {
    let rounding = host_rounding(st.frm as u8);
    env.set_float_env(FloatEnv { rounding, ..FloatEnv::default() });
}
