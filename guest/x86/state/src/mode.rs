//! The mode word: what of the processor's state a translation is specialized on.
//!
//! A translated unit is only valid under the mode word it was made for. The upper 32 bits are the CS base outside
//! 64-bit mode (zero in it), so that (mode, RIP) names a linear address.

use crate::X86State;
use crate::control::{cr0, cr4, efer};
use crate::flags;
use crate::state::{attr, seg};

/// Current privilege level, bits 0..=1.
pub const CPL: u64 = 3;
/// CR0.PE.
pub const PE: u64 = 1 << 2;
/// RFLAGS.VM (with PE).
pub const VM86: u64 = 1 << 3;
/// Default operand and address size is 32 (CS.D) – clear in 64-bit mode.
pub const CS32: u64 = 1 << 4;
/// 64-bit mode (EFER.LMA and CS.L).
pub const CS64: u64 = 1 << 5;
/// Stack pointer is 32 bits wide (SS.B); in 64-bit mode set as well, and unused.
pub const SS32: u64 = 1 << 6;
/// DS, ES or SS has a nonzero base (never in 64-bit mode). Clear: those bases need not be added.
pub const ADD_SEGMENT: u64 = 1 << 7;
/// EFER.LMA (64-bit or compatibility mode).
pub const LMA: u64 = 1 << 8;
/// RFLAGS.TF: every unit is one instruction and ends in a debug trap.
pub const TF: u64 = 1 << 9;
/// The instruction at hand runs in an interrupt shadow (STI, MOV SS): the unit is one instruction long and clears it.
pub const SHADOW: u64 = 1 << 10;
/// CR0.EM.
pub const EM: u64 = 1 << 11;
/// CR0.TS.
pub const TS: u64 = 1 << 12;
/// CR0.MP.
pub const MP: u64 = 1 << 13;
/// CR4.OSFXSR: SSE usable.
pub const OSFXSR: u64 = 1 << 14;
/// CR4.OSXSAVE with XCR0 enabling SSE and AVX state: VEX instructions usable.
pub const AVX: u64 = 1 << 15;
/// Data accesses of ring 0..=2 use the SMAP-checked MMU index (CR4.SMAP and not RFLAGS.AC).
pub const SMAP: u64 = 1 << 16;
/// System management mode.
pub const SMM: u64 = 1 << 17;
/// Some of CS, DS, ES, SS does not span 4 GiB or is not present, not writable or expand-down: data accesses
/// outside 64-bit mode must check the segment. Clear: flat segments, no checks needed.
pub const CHECK_SEGMENTS: u64 = 1 << 18;
/// MXCSR unmasks an exception: SSE arithmetic must check.
pub const SSE_UNMASKED: u64 = 1 << 19;
/// The x87 control word unmasks an exception, or one is pending (ES): x87 arithmetic must check.
pub const X87_UNMASKED: u64 = 1 << 20;
/// Breakpoints are armed in DR7 for I/O or data: accesses must be checked (slow mode).
pub const DATA_BREAKPOINTS: u64 = 1 << 21;
/// An instruction breakpoint is armed in DR7: units are one instruction long and check it.
pub const CODE_BREAKPOINTS: u64 = 1 << 22;
/// IOPL >= CPL or real mode: CLI/STI/PUSHF/POPF need no check.
pub const IOPL_OK: u64 = 1 << 23;
/// RFLAGS.AC with CR0.AM at CPL 3: data accesses check alignment.
pub const ALIGNMENT_CHECK: u64 = 1 << 24;
/// CR4.OSXSAVE (XGETBV, XSAVE usable).
pub const OSXSAVE: u64 = 1 << 25;
/// CR4.FSGSBASE.
pub const FSGSBASE: u64 = 1 << 26;
/// CR4.UMIP at CPL 3: SGDT, SIDT, SLDT, STR, SMSW fault.
pub const UMIP: u64 = 1 << 27;
/// CR4.PCE clear at CPL 3: RDPMC faults. (RDTSC under CR4.TSD is checked by its helper.)
pub const NO_PCE: u64 = 1 << 28;
/// FS cannot be used without a check outside 64-bit mode: it is not a writable data segment of 4 GiB (often null).
pub const CHECK_FS: u64 = 1 << 29;
/// As [`CHECK_FS`], for GS.
pub const CHECK_GS: u64 = 1 << 30;
/// Shift of the CS base in the upper half.
pub const CS_BASE_SHIFT: u32 = 32;

impl X86State {
    /// Current privilege level: SS.DPL is the architecture's home of CPL; in real mode 0, in virtual-8086 mode 3.
    pub fn cpl(&self) -> u8 {
        if self.cr[0] & cr0::PE == 0 {
            0
        } else if self.rflags & flags::VM != 0 {
            3
        } else {
            ((self.seg[seg::SS].attr & attr::DPL_MASK) >> attr::DPL_SHIFT) as u8
        }
    }

    /// Which segments' accesses must be checked one by one: [`CHECK_SEGMENTS`], [`CHECK_FS`], [`CHECK_GS`].
    fn segment_checks(&self) -> u64 {
        let flat = |i: usize| {
            let s = &self.seg[i];
            s.limit == u32::MAX && s.attr & attr::P != 0
        };
        let open = |i: usize| flat(i) && self.seg[i].attr & (attr::CODE | attr::EC | attr::RW) == attr::RW;
        let bit = |c: bool, m: u64| if c { 0 } else { m };
        let all = flat(seg::CS) && [seg::ES, seg::SS, seg::DS].iter().all(|&i| open(i));
        bit(all, CHECK_SEGMENTS) | bit(open(seg::FS), CHECK_FS) | bit(open(seg::GS), CHECK_GS)
    }

    /// Computes the mode word from the state (it does not store it).
    pub fn compute_mode(&self) -> u64 {
        let (cr0, cr4) = (self.cr[0], self.cr[4]);
        let pe = cr0 & cr0::PE != 0;
        let vm86 = pe && self.rflags & flags::VM != 0;
        let lma = self.efer & efer::LMA != 0;
        let cs = &self.seg[seg::CS];
        let code64 = lma && cs.attr & attr::L != 0;
        let cpl = u64::from(self.cpl());
        let iopl = (self.rflags & flags::IOPL) >> 12;
        let bit = |c: bool, m: u64| if c { m } else { 0 };
        let base = |i: usize| self.seg[i].base;
        let mut m = cpl;
        m |= bit(pe, PE) | bit(vm86, VM86) | bit(lma, LMA) | bit(code64, CS64);
        m |= bit(!code64 && cs.attr & attr::DB != 0, CS32);
        m |= bit(code64 || self.seg[seg::SS].attr & attr::DB != 0, SS32);
        m |= bit(!code64 && base(seg::DS) | base(seg::ES) | base(seg::SS) != 0, ADD_SEGMENT);
        m |= bit(self.rflags & flags::TF != 0, TF);
        m |= bit(self.interrupt_shadow != 0, SHADOW);
        m |= bit(cr0 & cr0::EM != 0, EM) | bit(cr0 & cr0::TS != 0, TS) | bit(cr0 & cr0::MP != 0, MP);
        m |= bit(cr4 & cr4::OSFXSR != 0, OSFXSR) | bit(cr4 & cr4::OSXSAVE != 0, OSXSAVE);
        m |= bit(cr4 & cr4::OSXSAVE != 0 && self.xcr0 & 6 == 6, AVX);
        m |= bit(cpl != 3 && cr4 & cr4::SMAP != 0 && self.rflags & flags::AC == 0, SMAP);
        m |= bit(self.smm != 0, SMM);
        m |= if code64 { 0 } else { self.segment_checks() };
        m |= bit(self.mxcsr >> 7 & 0x3f != 0x3f, SSE_UNMASKED);
        m |= bit(self.x87_cw & 0x3f != 0x3f || self.x87_sw & 0x80 != 0, X87_UNMASKED);
        let (data, code) = self.armed_breakpoints();
        m |= bit(data, DATA_BREAKPOINTS) | bit(code, CODE_BREAKPOINTS);
        m |= bit(!pe || (!vm86 && cpl <= iopl) || (vm86 && iopl == 3), IOPL_OK);
        m |= bit(cpl == 3 && cr0 & cr0::AM != 0 && self.rflags & flags::AC != 0, ALIGNMENT_CHECK);
        m |= bit(cr4 & cr4::FSGSBASE != 0, FSGSBASE);
        m |= bit(cpl == 3 && cr4 & cr4::UMIP != 0, UMIP);
        m |= bit(cpl == 3 && cr4 & cr4::PCE == 0, NO_PCE);
        if !code64 {
            m |= (cs.base & 0xffff_ffff) << CS_BASE_SHIFT;
        }
        m
    }

    /// Whether DR7 arms data or I/O breakpoints, and whether it arms instruction breakpoints (SDM vol. 3, 18.2.4).
    fn armed_breakpoints(&self) -> (bool, bool) {
        let dr7 = self.dr[7];
        let mut armed = (false, false);
        if dr7 & 0xff == 0 {
            return armed;
        }
        for i in 0..4 {
            if dr7 >> (2 * i) & 3 != 0 {
                if dr7 >> (16 + 4 * i) & 3 == 0 {
                    armed.1 = true;
                } else {
                    armed.0 = true;
                }
            }
        }
        armed
    }
}
