//! The register file of one hart, laid out for a translator.
//!
//! `RiscvState` is `repr(C)`: translated code reads and writes its fields at fixed offsets (slots), so the order of the
//! hot part is part of the contract: integer registers first. Everything after `v` is cold and only touched by Rust
//! code.
//!
//! Conventions:
//! - `x[0]` is always zero; nothing writes it.
//! - On a 32-bit hart integer registers are kept sign-extended to 64 bits, so that comparisons need no narrowing; `pc`
//!   and CSRs are kept zero-extended.
//! - Floating-point registers hold narrower values NaN-boxed (unprivileged specification, "NaN Boxing of Narrower
//!   Values").
//! - Vector register `i` starts at byte `i * vlen / 8` of `v`, so that a register group is one run of bytes.

use crate::extension::{Extension, ExtensionSet};

/// Bytes of vector registers at the largest VLEN, 1024.
pub const VECTOR_BYTES: usize = 32 * 1024 / 8;

/// Modes of satp (privileged specification, "Supervisor Address Translation and Protection (satp) Register").
pub mod satp {
    #![allow(missing_docs, reason = "the names are the architecture's own")]
    pub const BARE: u32 = 0;
    pub const SV32: u32 = 1;
    pub const SV39: u32 = 8;
    pub const SV48: u32 = 9;
    pub const SV57: u32 = 10;

    /// The mode's name in lower case.
    pub const fn name(mode: u32) -> &'static str {
        match mode {
            SV32 => "sv32",
            SV39 => "sv39",
            SV48 => "sv48",
            SV57 => "sv57",
            _ => "none",
        }
    }
}

/// A privilege mode by its encoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u32)]
pub enum Privilege {
    /// U.
    User = 0,
    /// S.
    Supervisor = 1,
    /// M.
    Machine = 3,
}

impl Privilege {
    /// The mode of a two-bit encoding; the reserved one is none.
    pub const fn from_bits(bits: u64) -> Option<Self> {
        match bits {
            0 => Some(Self::User),
            1 => Some(Self::Supervisor),
            3 => Some(Self::Machine),
            _ => None,
        }
    }
}

/// Bits of mstatus in its 64-bit form, and of its views (privileged specification, "Machine Status Registers").
pub mod mstatus {
    #![allow(missing_docs, reason = "the names are the architecture's own")]
    pub const SIE: u64 = 1 << 1;
    pub const MIE: u64 = 1 << 3;
    pub const SPIE: u64 = 1 << 5;
    pub const UBE: u64 = 1 << 6;
    pub const MPIE: u64 = 1 << 7;
    pub const SPP: u64 = 1 << 8;
    pub const VS: u64 = 3 << 9;
    pub const MPP_SHIFT: u32 = 11;
    pub const MPP: u64 = 3 << 11;
    pub const FS: u64 = 3 << 13;
    pub const XS: u64 = 3 << 15;
    pub const MPRV: u64 = 1 << 17;
    pub const SUM: u64 = 1 << 18;
    pub const MXR: u64 = 1 << 19;
    pub const TVM: u64 = 1 << 20;
    pub const TW: u64 = 1 << 21;
    pub const TSR: u64 = 1 << 22;
    pub const UXL_64: u64 = 2 << 32;
    pub const SXL_64: u64 = 2 << 34;
    /// Of the hypervisor extension: the trap value is a guest virtual address.
    pub const GVA: u64 = 1 << 38;
    /// V before the trap.
    pub const MPV: u64 = 1 << 39;
}

/// Bits of hstatus (privileged specification, "Hypervisor Status (hstatus) Register").
pub mod hstatus {
    #![allow(missing_docs, reason = "the names are the architecture's own")]
    pub const GVA: u64 = 1 << 6;
    pub const SPV: u64 = 1 << 7;
    pub const SPVP: u64 = 1 << 8;
    pub const HU: u64 = 1 << 9;
    pub const HUPMM_SHIFT: u32 = 48;
    pub const HUPMM: u64 = 3 << HUPMM_SHIFT;
    pub const VTVM: u64 = 1 << 20;
    pub const VTW: u64 = 1 << 21;
    pub const VTSR: u64 = 1 << 22;
    pub const VSXL_64: u64 = 2 << 32;
}

/// MMU indices: which rights an access has, as far as translations depend on them. Those from 4 on are for two-stage
/// address translation.
pub mod mmu {
    /// User mode.
    pub const USER: u8 = 0;
    /// Supervisor mode without SUM.
    pub const SUPERVISOR: u8 = 1;
    /// Supervisor mode with SUM.
    pub const SUPERVISOR_SUM: u8 = 2;
    /// Machine mode: no translation.
    pub const MACHINE: u8 = 3;
    /// Number of indices in use without the hypervisor extension.
    pub const COUNT: u8 = 4;
    /// Virtual user mode.
    pub const VIRTUAL_USER: u8 = 4;
    /// Virtual supervisor mode without vsstatus.SUM.
    pub const VIRTUAL_SUPERVISOR: u8 = 5;
    /// Virtual supervisor mode with vsstatus.SUM.
    pub const VIRTUAL_SUPERVISOR_SUM: u8 = 6;
    /// HLVX: a read that needs execute permission, with the rights of a hypervisor's access as hstatus has them. Never
    /// kept beyond the access.
    pub const HYPERVISOR_EXECUTE: u8 = 7;
    /// Number of indices with the hypervisor extension.
    pub const COUNT_VIRTUAL: u8 = 8;
}

/// The mode word that translations are specialized on.
pub mod mode {
    #![allow(missing_docs, reason = "each name says its field")]
    pub const PRIVILEGE: u64 = 3;
    /// Virtualization mode: V=1.
    pub const VIRTUAL: u64 = 1 << 2;
    /// mstatus.FS is not Off, nor is vsstatus.FS while V=1.
    pub const FP: u64 = 1 << 3;
    /// mstatus.VS is not Off, nor is vsstatus.VS while V=1.
    pub const VECTOR: u64 = 1 << 4;
    /// MMU index of data accesses.
    pub const DATA_SHIFT: u32 = 5;
    pub const DATA: u64 = 7 << DATA_SHIFT;
    /// The dynamic rounding mode.
    pub const FRM_SHIFT: u32 = 8;
    pub const FRM: u64 = 7 << FRM_SHIFT;
    /// mstatus.FS is Dirty, and so is vsstatus.FS while V=1.
    pub const FP_DIRTY: u64 = 1 << 11;
    /// mstatus.VS is Dirty, and so is vsstatus.VS while V=1.
    pub const VECTOR_DIRTY: u64 = 1 << 12;
    /// Pointer masking of data accesses: PMM, and whether addresses are virtual; see [`crate::masking`].
    pub const MASKING_SHIFT: u32 = 13;
    pub const MASKING: u64 = 7 << MASKING_SHIFT;
    pub(crate) const MASKING_VIRTUAL: u64 = 4;
}

/// What a hart is fixed to; see the properties of [`crate::CpuModel::parse`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct HartConfig {
    /// The extensions it has.
    pub extensions: ExtensionSet,
    /// 32 or 64.
    pub xlen: u32,
    /// Largest mode of satp ([`satp`]); smaller ones of the same width are there too.
    pub satp_max: u32,
    /// Bits of a vector register, 128 to 1024.
    pub vlen: u32,
    /// Bits of the widest vector element, 32 or 64.
    pub elen: u32,
    /// PMP entries: 0, 16 or 64.
    pub pmp_regions: u32,
    /// satp can hold more than Bare (1).
    pub mmu: u32,
    /// Bytes that cbo.clean, cbo.flush and cbo.inval work on.
    pub cbom_block: u32,
    /// Bytes that a prefetch works on.
    pub cbop_block: u32,
    /// Bytes that cbo.zero works on.
    pub cboz_block: u32,
    /// Programmable counters, by number (3 to 31).
    pub pmu_mask: u32,
    /// mvendorid.
    pub vendor_id: u64,
    /// marchid.
    pub arch_id: u64,
    /// mimpid.
    pub imp_id: u64,
    /// mhartid.
    pub hart_id: u64,
}

impl HartConfig {
    /// Whether it has an extension.
    #[inline]
    pub const fn has(&self, extension: Extension) -> bool {
        self.extensions.has(extension)
    }

    /// All ones of XLEN bits.
    #[inline]
    pub const fn mask(&self) -> u64 {
        if self.xlen == 32 { 0xffff_ffff } else { u64::MAX }
    }

    /// Instructions may start at any multiple of two bytes (IALIGN is 16).
    #[inline]
    pub const fn has_compressed(&self) -> bool {
        self.extensions.has(Extension::Zca)
    }
}

/// Registers of machine mode. Those with views of lower modes are kept here whole.
#[derive(Clone, Debug, Default)]
#[repr(C)]
#[allow(missing_docs, reason = "the names are the architecture's own")]
pub struct MachineCsrs {
    /// In its 64-bit form on any hart, without SD, SXL and UXL.
    pub mstatus: u64,
    pub mtvec: u64,
    pub mscratch: u64,
    pub mepc: u64,
    pub mcause: u64,
    pub mtval: u64,
    pub medeleg: u64,
    pub mideleg: u64,
    pub mie: u64,
    /// The bits that software writes; lines and timers are added when mip is read.
    pub mip: u64,
    pub mcounteren: u64,
    pub mcountinhibit: u64,
    pub menvcfg: u64,
    pub mseccfg: u64,
    pub mstateen: [u64; 4],
    pub miselect: u64,
    /// What reading mtopei, stopei, mireg and sireg gave last: a write by the same instruction refers to it.
    pub aia_read: [u64; 4],
    pub mtval2: u64,
    pub mtinst: u64,
}

/// Registers of supervisor mode that are no views.
#[derive(Clone, Debug, Default)]
#[repr(C)]
#[allow(missing_docs, reason = "the names are the architecture's own")]
pub struct SupervisorCsrs {
    pub stvec: u64,
    pub sscratch: u64,
    pub sepc: u64,
    pub scause: u64,
    pub stval: u64,
    pub satp: u64,
    pub scounteren: u64,
    pub senvcfg: u64,
    pub stimecmp: u64,
    pub sstateen: [u64; 4],
    pub siselect: u64,
}

/// Registers of the hypervisor extension that are no views; hie, hip and hvip are views of mie and mip, and there are no
/// guest external interrupts (GEILEN is 0).
#[derive(Clone, Debug, Default)]
#[repr(C)]
#[allow(missing_docs, reason = "the names are the architecture's own")]
pub struct HypervisorCsrs {
    /// Without VSXL.
    pub hstatus: u64,
    pub hedeleg: u64,
    pub hideleg: u64,
    pub hcounteren: u64,
    pub htimedelta: u64,
    pub htval: u64,
    pub htinst: u64,
    pub hgatp: u64,
    /// As it was written; bits that menvcfg has clear read as zero.
    pub henvcfg: u64,
    /// As they were written; bits that mstateen has clear read as zero.
    pub hstateen: [u64; 4],
    pub hvictl: u64,
}

/// Registers that take the place of supervisor mode's while V=1.
#[derive(Clone, Debug, Default)]
#[repr(C)]
#[allow(missing_docs, reason = "the names are the architecture's own")]
pub struct VirtualSupervisorCsrs {
    /// In the 64-bit form on any hart, without SD and UXL.
    pub vsstatus: u64,
    pub vstvec: u64,
    pub vsscratch: u64,
    pub vsepc: u64,
    pub vscause: u64,
    pub vstval: u64,
    pub vsatp: u64,
    pub vstimecmp: u64,
    pub vsiselect: u64,
}

/// Physical memory protection.
#[derive(Clone, Debug)]
#[repr(C)]
pub struct PmpCsrs {
    /// Configuration byte of each entry.
    pub cfg: [u8; 64],
    /// pmpaddr of each entry: address bits from 2 up.
    pub addr: [u64; 64],
}

/// Performance counters: 0 is cycle, 2 is instret, 3 to 31 are programmable; 1 is unused.
#[derive(Clone, Debug, Default)]
#[repr(C)]
pub struct CounterCsrs {
    /// Their values when `cycle_seen` and `instret_seen` were taken.
    pub value: [u64; 32],
    /// mhpmevent of each.
    pub event: [u64; 32],
    /// The machine's cycles up to which counters are current.
    pub cycle_seen: u64,
    /// The hart's instructions up to which counters are current.
    pub instret_seen: u64,
}

/// Everything translated code can name, plus the cold remainder.
#[derive(Clone, Debug)]
#[repr(C, align(64))]
pub struct RiscvState {
    // ---- hot: translated code uses these as slots ----
    /// Integer registers.
    pub x: [u64; 32],
    /// Address of the next instruction; bit 0 is the translator's and no part of it. Current only while no translated
    /// code runs, or where the translation stored it.
    pub pc: u64,
    /// Address of the reservation of LR; [`NO_RESERVATION`] where there is none.
    pub reservation: u64,
    /// What LR read, for an SC made of a compare-and-swap.
    pub reserved_value: u64,
    /// Floating-point registers, NaN-boxed.
    pub f: [u64; 32],
    /// Accrued exception flags: NX, UF, OF, DZ, NV from bit 0.
    pub fflags: u32,
    /// Dynamic rounding mode, 0 to 7.
    pub frm: u32,
    /// Vector length in elements.
    pub vl: u64,
    /// Vector type; vill is bit 63 on any hart.
    pub vtype: u64,
    /// First element to execute.
    pub vstart: u64,
    /// Fixed-point saturation flag, 0 or 1.
    pub vxsat: u32,
    /// Fixed-point rounding mode, 0 to 3.
    pub vxrm: u32,
    /// The mode word; see [`mode`].
    pub mode: u64,
    /// Scratch words for passing more operands to a helper than it has arguments.
    pub scratch: [u64; 8],
    /// The canonical NaN of double precision, and that of single precision in its low half: constants that translated
    /// code reads.
    pub canonical_nan: [u64; 2],
    /// Vector registers, in the byte order of memory.
    pub v: VectorFile,

    // ---- cold: Rust code only ----
    /// Privilege mode; see [`RiscvState::privilege`].
    pub privilege_bits: u32,
    /// Virtualization mode V; always 0 without H.
    pub virtualization: u32,
    /// WFI executed: waiting for an interrupt (1).
    pub waiting: u32,
    /// The board has not started the hart (1).
    pub stopped: u32,
    /// Machine mode.
    pub m: MachineCsrs,
    /// Supervisor mode.
    pub s: SupervisorCsrs,
    /// The hypervisor extension.
    pub h: HypervisorCsrs,
    /// Virtual supervisor mode.
    pub vs: VirtualSupervisorCsrs,
    /// Physical memory protection.
    pub pmp: PmpCsrs,
    /// Counters.
    pub counters: CounterCsrs,
    /// What the hart is fixed to.
    pub config: HartConfig,
}

/// The vector registers as bytes, aligned for the host's widest vectors.
#[derive(Clone, Debug)]
#[repr(C, align(64))]
pub struct VectorFile(pub [u8; VECTOR_BYTES]);

/// The values of [`RiscvState::canonical_nan`] (unprivileged specification, "NaN Generation and Propagation").
pub const CANONICAL_NAN: [u64; 2] = [0x7ff8_0000_0000_0000, 0x7fc0_0000];

/// No reservation is held: no aligned access has this address.
pub const NO_RESERVATION: u64 = u64::MAX;

/// vtype with vill alone.
pub const VILL: u64 = 1 << 63;

impl RiscvState {
    /// The state after reset (privileged specification, "Reset"): machine mode, MIE and MPRV clear, translation off,
    /// PMP entries off; the rest, which is the implementation's choice, is zero. Menvcfg.ADUE is set where the hart
    /// has Svadu and not Svade, so that software that knows neither sees A and D updated.
    pub fn reset(config: HartConfig, reset_vector: u64) -> Self {
        let mut m = MachineCsrs::default();
        if config.has(Extension::Svadu) && !config.has(Extension::Svade) {
            m.menvcfg |= 1 << 61;
        }
        if !config.has(Extension::U) {
            m.mstatus = mstatus::MPP;
        }
        if config.has(Extension::H) {
            // Interrupts of virtual supervisor mode and guest external ones are always handed down.
            m.mideleg = 0x1444;
        }
        let mut st = Self {
            x: [0; 32],
            pc: reset_vector & config.mask() & !1,
            reservation: NO_RESERVATION,
            reserved_value: 0,
            f: [0; 32],
            fflags: 0,
            frm: 0,
            vl: 0,
            vtype: VILL,
            vstart: 0,
            vxsat: 0,
            vxrm: 0,
            mode: 0,
            scratch: [0; 8],
            canonical_nan: CANONICAL_NAN,
            v: VectorFile([0; VECTOR_BYTES]),
            privilege_bits: Privilege::Machine as u32,
            virtualization: 0,
            waiting: 0,
            stopped: 0,
            m,
            s: SupervisorCsrs::default(),
            h: HypervisorCsrs::default(),
            vs: VirtualSupervisorCsrs::default(),
            pmp: PmpCsrs { cfg: [0; 64], addr: [0; 64] },
            counters: CounterCsrs::default(),
            config,
        };
        st.mode = st.compute_mode();
        st
    }

    /// The privilege mode. The reserved encoding, which nothing stores, reads as machine mode.
    #[inline]
    pub fn privilege(&self) -> Privilege {
        Privilege::from_bits(self.privilege_bits.into()).unwrap_or(Privilege::Machine)
    }

    /// Whether the hart has an extension.
    #[inline]
    pub const fn has(&self, extension: Extension) -> bool {
        self.config.has(extension)
    }

    /// MPP as a mode.
    #[inline]
    pub fn previous_privilege(&self) -> Privilege {
        Privilege::from_bits(self.m.mstatus >> mstatus::MPP_SHIFT & 3).unwrap_or(Privilege::Machine)
    }

    /// Whether V=1: the hart is in VS or VU mode.
    #[inline]
    pub const fn is_virtual(&self) -> bool {
        self.virtualization != 0
    }

    /// The mode whose rights loads and stores have, and whether V is 1 for them: those of MPP and MPV while MPRV is set,
    /// else the current ones (privileged specification, "Memory Privilege in mstatus Register").
    #[inline]
    pub fn data_privilege(&self) -> (Privilege, bool) {
        if self.m.mstatus & mstatus::MPRV == 0 {
            return (self.privilege(), self.is_virtual());
        }
        let privilege = self.previous_privilege();
        (privilege, self.m.mstatus & mstatus::MPV != 0 && privilege != Privilege::Machine)
    }

    /// MMU index of loads and stores.
    #[inline]
    pub fn data_index(&self) -> u8 {
        match self.data_privilege() {
            (Privilege::User, true) => mmu::VIRTUAL_USER,
            (_, true) => self.virtual_supervisor_index(),
            (Privilege::User, _) => mmu::USER,
            (Privilege::Supervisor, _) if self.m.mstatus & mstatus::SUM != 0 => mmu::SUPERVISOR_SUM,
            (Privilege::Supervisor, _) => mmu::SUPERVISOR,
            (Privilege::Machine, _) => mmu::MACHINE,
        }
    }

    fn virtual_supervisor_index(&self) -> u8 {
        if self.vs.vsstatus & mstatus::SUM != 0 {
            mmu::VIRTUAL_SUPERVISOR_SUM
        } else {
            mmu::VIRTUAL_SUPERVISOR
        }
    }

    /// MMU index of the accesses of HLV and HSV, as hstatus.SPVP says.
    pub fn hypervisor_index(&self) -> u8 {
        if self.h.hstatus & hstatus::SPVP != 0 { self.virtual_supervisor_index() } else { mmu::VIRTUAL_USER }
    }

    /// MMU index of instruction fetches: SUM and MPRV do not concern them.
    #[inline]
    pub fn fetch_index(&self) -> u8 {
        match (self.privilege(), self.is_virtual()) {
            (Privilege::User, false) => mmu::USER,
            (Privilege::Supervisor, false) => mmu::SUPERVISOR,
            (Privilege::User, true) => mmu::VIRTUAL_USER,
            (Privilege::Supervisor, true) => mmu::VIRTUAL_SUPERVISOR,
            (Privilege::Machine, _) => mmu::MACHINE,
        }
    }

    /// Whether a unit may be used: its `field` of mstatus, FS or VS, is not Off, and while V=1 neither is that of
    /// vsstatus.
    #[inline]
    pub const fn unit_on(&self, field: u64) -> bool {
        self.m.mstatus & field != 0 && (!self.is_virtual() || self.vs.vsstatus & field != 0)
    }

    /// Whether a unit's state counts as changed already wherever that is told.
    const fn unit_dirty(&self, field: u64) -> bool {
        self.m.mstatus & field == field && (!self.is_virtual() || self.vs.vsstatus & field == field)
    }

    /// Notes that a unit's state changed; the mode word is the caller's to compute anew.
    #[inline]
    pub const fn set_unit_dirty(&mut self, field: u64) {
        self.m.mstatus |= field;
        if self.is_virtual() {
            self.vs.vsstatus |= field;
        }
    }

    /// The mode word of the present state; whoever changes what it is made of stores it in `mode`.
    pub fn compute_mode(&self) -> u64 {
        let mut word = self.privilege() as u64
            | u64::from(self.data_index()) << mode::DATA_SHIFT
            | u64::from(self.frm & 7) << mode::FRM_SHIFT
            | self.masking().to_mode();
        for (on, bit) in [
            (self.is_virtual(), mode::VIRTUAL),
            (self.unit_on(mstatus::FS), mode::FP),
            (self.unit_on(mstatus::VS), mode::VECTOR),
            (self.unit_dirty(mstatus::FS), mode::FP_DIRTY),
            (self.unit_dirty(mstatus::VS), mode::VECTOR_DIRTY),
        ] {
            if on {
                word |= bit;
            }
        }
        word
    }

    /// Writes an integer register, in the form registers are kept in; writes to x0 have no effect.
    #[inline]
    pub fn set_x(&mut self, index: usize, value: u64) {
        let index = index % 32;
        if index != 0 {
            self.x[index] = if self.config.xlen == 32 { value as i32 as u64 } else { value };
        }
    }

    /// The bytes of a vector register.
    pub fn vector(&self, index: usize) -> &[u8] {
        let bytes = self.config.vlen as usize / 8;
        &self.v.0[index % 32 * bytes..][..bytes]
    }

    /// The bytes of a vector register, to be written.
    pub fn vector_mut(&mut self, index: usize) -> &mut [u8] {
        let bytes = self.config.vlen as usize / 8;
        &mut self.v.0[index % 32 * bytes..][..bytes]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::CpuModel;
    use std::mem::offset_of;

    #[test]
    fn slots_stand_where_translated_code_expects_them() {
        assert_eq!(offset_of!(RiscvState, x), 0);
        assert_eq!(offset_of!(RiscvState, pc), 256);
        assert_eq!(offset_of!(RiscvState, f), 280);
        assert_eq!(offset_of!(RiscvState, v) % 64, 0);
        assert!(offset_of!(RiscvState, privilege_bits) >= offset_of!(RiscvState, v) + VECTOR_BYTES);
    }

    #[test]
    fn a_register_group_is_one_run_of_bytes() {
        let mut st = CpuModel::parse("rv64,v=on,vlen=256").unwrap().reset_state(0, 0);
        for i in 0..32 {
            st.vector_mut(i).fill(i as u8);
        }
        assert_eq!(st.vector(5), [5; 32]);
        assert_eq!(st.v.0[8 * 32..12 * 32].chunks(32).map(|c| c[0]).collect::<Vec<_>>(), [8, 9, 10, 11]);
        // The largest VLEN fills the file exactly.
        let mut st = CpuModel::parse("rv64,v=on,vlen=1024").unwrap().reset_state(0, 0);
        st.vector_mut(31).fill(7);
        assert_eq!(st.v.0[VECTOR_BYTES - 1], 7);
    }

    #[test]
    fn x0_stays_zero_and_narrow_registers_are_sign_extended() {
        let mut st = CpuModel::named("rv32").unwrap().reset_state(0, 0x1000);
        st.set_x(0, 5);
        st.set_x(1, 0x8000_0000);
        assert_eq!((st.x[0], st.x[1]), (0, 0xffff_ffff_8000_0000));
        let mut st = CpuModel::named("rv64").unwrap().reset_state(0, 0x1000);
        st.set_x(1, 0x8000_0000);
        assert_eq!(st.x[1], 0x8000_0000);
    }

    #[test]
    fn data_rights_follow_mprv_and_sum() {
        let mut st = CpuModel::named("rv64").unwrap().reset_state(0, 0);
        assert_eq!((st.data_index(), st.fetch_index()), (mmu::MACHINE, mmu::MACHINE));
        st.m.mstatus = mstatus::MPRV | 1 << mstatus::MPP_SHIFT;
        assert_eq!((st.data_index(), st.fetch_index()), (mmu::SUPERVISOR, mmu::MACHINE));
        st.m.mstatus |= mstatus::SUM;
        assert_eq!(st.data_index(), mmu::SUPERVISOR_SUM);
        st.m.mstatus &= !mstatus::MPP;
        assert_eq!(st.data_index(), mmu::USER);
        assert_eq!(st.compute_mode() >> mode::DATA_SHIFT & 7, u64::from(mmu::USER));
        assert_eq!(st.compute_mode() & mode::PRIVILEGE, 3);
    }

    #[test]
    fn rights_of_virtual_modes_are_those_of_vsstatus_mpv_and_spvp() {
        let mut st = CpuModel::named("rv64").unwrap().reset_state(0, 0);
        st.m.mstatus = mstatus::MPRV | mstatus::MPV | 1 << mstatus::MPP_SHIFT | mstatus::SUM;
        assert_eq!((st.data_index(), st.fetch_index()), (mmu::VIRTUAL_SUPERVISOR, mmu::MACHINE));
        st.vs.vsstatus = mstatus::SUM;
        assert_eq!(st.data_index(), mmu::VIRTUAL_SUPERVISOR_SUM);
        st.m.mstatus |= mstatus::MPP;
        assert_eq!(st.data_index(), mmu::MACHINE, "machine mode is never virtual");
        assert_eq!(st.hypervisor_index(), mmu::VIRTUAL_USER);
        st.h.hstatus = hstatus::SPVP;
        assert_eq!(st.hypervisor_index(), mmu::VIRTUAL_SUPERVISOR_SUM);
        st.m.mstatus = 0;
        (st.virtualization, st.privilege_bits) = (1, 1);
        assert_eq!(
            (st.data_index(), st.fetch_index()),
            (mmu::VIRTUAL_SUPERVISOR_SUM, mmu::VIRTUAL_SUPERVISOR)
        );
        st.privilege_bits = 0;
        assert_eq!((st.data_index(), st.fetch_index()), (mmu::VIRTUAL_USER, mmu::VIRTUAL_USER));
    }

    #[test]
    fn a_unit_is_on_and_dirty_where_both_status_registers_say_so() {
        let mut st = CpuModel::named("rv64").unwrap().reset_state(0, 0);
        st.m.mstatus = mstatus::FS;
        let word = |st: &RiscvState| st.compute_mode() & (mode::FP | mode::FP_DIRTY);
        assert_eq!(word(&st), mode::FP | mode::FP_DIRTY);
        st.virtualization = 1;
        assert_eq!(word(&st), 0);
        st.vs.vsstatus = 1 << 13;
        assert_eq!(word(&st), mode::FP);
        st.set_unit_dirty(mstatus::FS);
        assert_eq!((word(&st), st.vs.vsstatus), (mode::FP | mode::FP_DIRTY, mstatus::FS));
    }

    #[test]
    fn reset_enables_hardware_updates_only_without_svade() {
        for (model, set) in [("rv64", true), ("max", false), ("rva22s64", false), ("rv64,svadu=off", false)] {
            let st = CpuModel::parse(model).unwrap().reset_state(0, 0);
            assert_eq!(st.m.menvcfg >> 61 & 1 != 0, set, "{model}");
        }
    }
}
