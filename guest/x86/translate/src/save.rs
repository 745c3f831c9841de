//! FXSAVE, FXRSTOR and the XSAVE family: their checks, and the calls of the helpers that do them.

use iced_x86::Mnemonic as M;
use rhea_ir::Type;
use rhea_x86_state::mode;

use crate::reasons::vector;
use crate::translator::Translator;
use crate::vector_helpers as vh;

/// Which of the family, in bits 0..=3 of the helpers' control word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum SaveKind {
    /// FXSAVE, FXRSTOR: 512 bytes.
    Legacy,
    /// XSAVE, XRSTOR: every requested component.
    Standard,
    /// XSAVEOPT: components in their initial state are not written.
    Optimized,
    /// XSAVEC: compacted.
    Compacted,
}

/// Control bit: REX.W, 64-bit instruction and data pointers.
pub const WIDE_POINTERS: u64 = 1 << 8;
/// Control bit: 64-bit mode, sixteen vector registers.
pub const LONG: u64 = 1 << 9;

impl SaveKind {
    /// From a control word.
    pub fn from_control(control: u64) -> SaveKind {
        match control & 0xf {
            0 => SaveKind::Legacy,
            1 => SaveKind::Standard,
            2 => SaveKind::Optimized,
            _ => SaveKind::Compacted,
        }
    }
}

impl Translator<'_> {
    /// Translates an instruction of the family; false if it is none.
    pub(crate) fn state_save(&mut self) -> bool {
        let (kind, wide, restore) = match self.insn.mnemonic() {
            M::Fxsave => (SaveKind::Legacy, false, false),
            M::Fxsave64 => (SaveKind::Legacy, true, false),
            M::Fxrstor => (SaveKind::Legacy, false, true),
            M::Fxrstor64 => (SaveKind::Legacy, true, true),
            M::Xsave => (SaveKind::Standard, false, false),
            M::Xsave64 => (SaveKind::Standard, true, false),
            M::Xsaveopt => (SaveKind::Optimized, false, false),
            M::Xsaveopt64 => (SaveKind::Optimized, true, false),
            M::Xsavec => (SaveKind::Compacted, false, false),
            M::Xsavec64 => (SaveKind::Compacted, true, false),
            M::Xrstor => (SaveKind::Standard, false, true),
            M::Xrstor64 => (SaveKind::Standard, true, true),
            _ => return false,
        };
        let legacy = kind == SaveKind::Legacy;
        if !legacy && self.mode & mode::OSXSAVE == 0 {
            self.undefined();
            return true;
        }
        if self.mode & mode::TS != 0 || (legacy && self.mode & mode::EM != 0) {
            self.raise(vector::NM);
            return true;
        }
        let bytes = if legacy { 512 } else { 576 };
        let addr = self.effective_address(bytes, !restore);
        let mut control = kind as u64 | u64::from(self.mem.index()) << 56;
        control |= if wide { WIDE_POINTERS } else { 0 } | if self.is64() { LONG } else { 0 };
        let control = self.b.iconst(Type::I64, control);
        if restore {
            let next = self.c64(self.next_pc);
            self.helper(vh::RESTORE_STATE, &[control, addr, next]);
        } else {
            self.helper(vh::SAVE_STATE, &[control, addr]);
        }
        true
    }
}
