//! Physical memory protection (privileged specification, "Physical Memory Protection"; Smepmp).

use rhea_riscv_state::RiscvState;
use rhea_riscv_state::state::Privilege;

/// Bits of a configuration byte.
pub mod cfg {
    #![allow(missing_docs, reason = "the names are the architecture's own")]
    pub const R: u8 = 1 << 0;
    pub const W: u8 = 1 << 1;
    pub const X: u8 = 1 << 2;
    pub const A_SHIFT: u32 = 3;
    pub const A: u8 = 3 << 3;
    pub const OFF: u8 = 0;
    pub const TOR: u8 = 1;
    pub const NA4: u8 = 2;
    pub const NAPOT: u8 = 3;
    pub const L: u8 = 1 << 7;
    /// All bits that can be set.
    pub const LEGAL: u8 = R | W | X | A | L;
}

/// Bits of mseccfg (Smepmp).
pub mod seccfg {
    #![allow(missing_docs, reason = "the names are the architecture's own")]
    pub const MML: u64 = 1 << 0;
    pub const MMWP: u64 = 1 << 1;
    pub const RLB: u64 = 1 << 2;
}

/// What may be done with a physical range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Permission {
    /// R.
    pub read: bool,
    /// W.
    pub write: bool,
    /// X.
    pub execute: bool,
}

impl Permission {
    const NONE: Self = Self { read: false, write: false, execute: false };
    const ALL: Self = Self { read: true, write: true, execute: true };

    const fn of_bits(bits: u8) -> Self {
        Self { read: bits & cfg::R != 0, write: bits & cfg::W != 0, execute: bits & cfg::X != 0 }
    }
}

/// The first and last byte of an entry's range; `None` where it matches nothing.
fn range(st: &RiscvState, entry: usize) -> Option<(u64, u64)> {
    let addr = st.pmp.addr[entry];
    match st.pmp.cfg[entry] >> cfg::A_SHIFT & 3 {
        cfg::TOR => {
            let low = if entry == 0 { 0 } else { st.pmp.addr[entry - 1] };
            (low < addr).then(|| (low << 2, (addr << 2).wrapping_sub(1)))
        }
        cfg::NA4 => Some((addr << 2, (addr << 2) + 3)),
        cfg::NAPOT => {
            // A run of n ones at the low end means 2^(n+3) bytes.
            let size_mask = (addr ^ addr.wrapping_add(1)) << 2 | 3;
            let low = (addr << 2) & !size_mask;
            Some((low, low | size_mask))
        }
        _ => None,
    }
}

/// What `mode` may do with the `len` bytes at `addr`: the lowest-numbered entry that matches any of them decides, and
/// must match all.
pub fn permission(st: &RiscvState, mode: Privilege, addr: u64, len: u64) -> Permission {
    let last = addr.saturating_add(len.max(1) - 1);
    for entry in 0..(st.config.pmp_regions as usize).min(64) {
        let Some((low, high)) = range(st, entry) else { continue };
        if last < low || addr > high {
            continue;
        }
        if addr < low || last > high {
            return Permission::NONE;
        }
        let byte = st.pmp.cfg[entry];
        if st.m.mseccfg & seccfg::MML != 0 {
            return lockdown(byte, mode == Privilege::Machine);
        }
        if mode == Privilege::Machine && byte & cfg::L == 0 {
            return Permission::ALL;
        }
        return Permission::of_bits(byte);
    }
    match mode {
        Privilege::Machine if st.m.mseccfg & seccfg::MMWP != 0 => Permission::NONE,
        // What no entry matches can be read and written, but no longer executed.
        Privilege::Machine => Permission { execute: st.m.mseccfg & seccfg::MML == 0, ..Permission::ALL },
        _ if st.config.pmp_regions == 0 => Permission::ALL,
        _ => Permission::NONE,
    }
}

/// What an entry allows while mseccfg.MML is set: L says whom it is for, and R=0 W=1 are regions that machine mode and the
/// others share (Smepmp, "Smepmp truth table").
const fn lockdown(byte: u8, machine: bool) -> Permission {
    let locked = byte & cfg::L != 0;
    let bits = match (byte & (cfg::R | cfg::W | cfg::X), locked, machine) {
        (SHARED, false, true) => cfg::R | cfg::W,
        (SHARED, false, false) => cfg::R,
        (SHARED_MORE, false, _) => cfg::R | cfg::W,
        (SHARED, true, _) | (SHARED_MORE, true, false) => cfg::X,
        (SHARED_MORE, true, true) => cfg::R | cfg::X,
        (EVERYTHING, true, _) => cfg::R,
        (own, _, _) if locked == machine => own,
        _ => 0,
    };
    Permission::of_bits(bits)
}

const SHARED: u8 = cfg::W;
const SHARED_MORE: u8 = cfg::W | cfg::X;
const EVERYTHING: u8 = cfg::R | cfg::W | cfg::X;

/// Log2 of the largest naturally aligned block from 4 KiB to `2^largest` bytes around `addr` in which no entry begins
/// or ends; less than 12 where one does within the 4 KiB page, so that a translation is good for one access only.
pub fn uniform_bits(st: &RiscvState, addr: u64, largest: u8) -> u8 {
    let mut bits = largest.min(60);
    for entry in 0..(st.config.pmp_regions as usize).min(64) {
        let Some((low, high)) = range(st, entry) else { continue };
        while bits >= 12 {
            let first = addr >> bits << bits;
            let last = first | ((1 << bits) - 1);
            let apart = last < low || first > high;
            let inside = low <= first && last <= high;
            if apart || inside {
                break;
            }
            bits -= 1;
        }
    }
    if bits < 12 { 2 } else { bits }
}

/// Whether an entry's L keeps it from being changed: not while mseccfg.RLB is set.
const fn is_locked(st: &RiscvState, byte: u8) -> bool {
    byte & cfg::L != 0 && st.m.mseccfg & seccfg::RLB == 0
}

/// Whether writes to an entry's address register are ignored: it is locked, or it is the bottom of a locked TOR range.
pub fn address_locked(st: &RiscvState, entry: usize) -> bool {
    let next = st.pmp.cfg.get(entry + 1).copied().unwrap_or(0);
    is_locked(st, st.pmp.cfg[entry]) || is_locked(st, next) && next >> cfg::A_SHIFT & 3 == cfg::TOR
}

/// Writes an entry's configuration. A locked entry keeps its own; the reserved R=0 W=1 keeps the old permissions. While
/// mseccfg.MML is set that is not reserved, but, without RLB, no region can be added that machine mode may execute.
pub fn write_config(st: &mut RiscvState, entry: usize, byte: u8) {
    let old = st.pmp.cfg[entry];
    if is_locked(st, old) {
        return;
    }
    let mut new = byte & cfg::LEGAL;
    if st.m.mseccfg & seccfg::MML != 0 {
        let executable = new & cfg::L != 0 && lockdown(new, true).execute;
        if executable && st.m.mseccfg & seccfg::RLB == 0 {
            return;
        }
    } else if new & (cfg::R | cfg::W) == cfg::W {
        let permissions = cfg::R | cfg::W | cfg::X;
        new = new & !permissions | old & permissions;
    }
    st.pmp.cfg[entry] = new;
}

/// Mseccfg after a write: MML and MMWP stay set, and RLB stays clear while an entry is locked.
pub fn written_security(st: &RiscvState, value: u64) -> u64 {
    let old = st.m.mseccfg;
    let any_locked = st.pmp.cfg.iter().any(|byte| byte & cfg::L != 0);
    let kept = if any_locked && old & seccfg::RLB == 0 { !seccfg::RLB } else { u64::MAX };
    value & kept | old & (seccfg::MML | seccfg::MMWP)
}
