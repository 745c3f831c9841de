//! The register file of one logical processor, laid out for the translator.
//!
//! `X86State` is `repr(C)`: translated code reads and writes its fields at fixed offsets (slots), so the order of
//! the hot part is part of the contract with the translator: general registers first, within one signed byte of
//! displacement. Everything after `vec` is cold and only touched by Rust code.

use crate::features::FeatureSet;
use crate::flags::CcOp;
use crate::msr::Msrs;

/// Index of a general register in [`X86State::gpr`], as encoded in instructions (REX.B extends to 15).
pub mod gpr {
    #![allow(missing_docs, reason = "the names are the architecture's own")]
    pub const RAX: usize = 0;
    pub const RCX: usize = 1;
    pub const RDX: usize = 2;
    pub const RBX: usize = 3;
    pub const RSP: usize = 4;
    pub const RBP: usize = 5;
    pub const RSI: usize = 6;
    pub const RDI: usize = 7;
}

/// Index of a segment register in [`X86State::seg`], as encoded in the reg field of `MOV Sreg` (SDM vol. 2).
pub mod seg {
    #![allow(missing_docs, reason = "the names are the architecture's own")]
    pub const ES: usize = 0;
    pub const CS: usize = 1;
    pub const SS: usize = 2;
    pub const DS: usize = 3;
    pub const FS: usize = 4;
    pub const GS: usize = 5;
}

/// A segment register with its hidden part (SDM vol. 3, 3.4.3 and 3.4.5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Segment {
    /// Linear base address.
    pub base: u64,
    /// Limit in bytes, already scaled by the granularity bit: offset of the last valid byte (expand-up).
    pub limit: u32,
    /// Attribute bits of the descriptor's second doubleword in place (type 8..=11, S 12, DPL 13..=14, P 15,
    /// AVL 20, L 21, D/B 22, G 23); all other bits zero. See [`attr`].
    pub attr: u32,
    /// The visible selector; a segment loaded with a null selector has `attr & attr::P == 0`.
    pub selector: u16,
    /// Keeps the structure a multiple of eight bytes with no implicit padding.
    pub reserved: [u16; 3],
}

/// Bits of [`Segment::attr`] (SDM vol. 3, figure 3-8).
pub mod attr {
    #![allow(missing_docs, reason = "the names are the architecture's own")]
    pub const TYPE_SHIFT: u32 = 8;
    pub const TYPE_MASK: u32 = 0xf << 8;
    /// Accessed (code and data segments).
    pub const A: u32 = 1 << 8;
    /// Writable data / readable code.
    pub const RW: u32 = 1 << 9;
    /// Expand-down data / conforming code.
    pub const EC: u32 = 1 << 10;
    /// Code rather than data.
    pub const CODE: u32 = 1 << 11;
    pub const S: u32 = 1 << 12;
    pub const DPL_SHIFT: u32 = 13;
    pub const DPL_MASK: u32 = 3 << 13;
    pub const P: u32 = 1 << 15;
    pub const AVL: u32 = 1 << 20;
    pub const L: u32 = 1 << 21;
    pub const DB: u32 = 1 << 22;
    pub const G: u32 = 1 << 23;
}

/// GDTR or IDTR.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct DescriptorTable {
    /// Linear base address.
    pub base: u64,
    /// Offset of the last valid byte.
    pub limit: u32,
    /// Keeps the structure free of implicit padding.
    pub reserved: u32,
}

/// An x87 register: 64-bit significand, then sign and 15-bit exponent, as `FSTP m80` stores them; 6 bytes of zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C, align(16))]
pub struct X87Register {
    /// Significand with its explicit integer bit; also MMX register contents.
    pub significand: u64,
    /// Bit 15 sign, bits 0..=14 exponent (all ones after an MMX write).
    pub sign_exponent: u16,
    /// Zero.
    pub reserved: [u16; 3],
}

/// Everything translated code can name, plus the cold remainder.
#[derive(Clone, Debug)]
#[repr(C, align(64))]
pub struct X86State {
    // ---- hot: translated code uses these as slots ----
    /// General registers in encoding order. Outside 64-bit mode the upper halves are kept zero by convention of
    /// 32-bit writes zero-extending.
    pub gpr: [u64; 16],
    /// Instruction pointer: an offset in CS (RIP, EIP or IP). Current only while no translated code runs, or
    /// where the translation stored it.
    pub rip: u64,
    /// Result operand of the last flag-setting operation; see [`crate::flags`].
    pub cc_dst: u64,
    /// Source operand of the last flag-setting operation.
    pub cc_src: u64,
    /// Third operand (carry-in) of the last flag-setting operation.
    pub cc_src2: u64,
    /// Result of an INC or DEC after the operation that set CF; see [`crate::flags`].
    pub cc_inc: u64,
    /// Which operation `cc_dst`/`cc_src`/`cc_src2` describe: a [`CcOp`], and
    /// in bits 8..=15 that of an INC or DEC since.
    pub cc_op: u32,
    /// Direction flag as a step: 0 for forward (DF=0), 1 for backward (DF=1).
    pub df: u32,
    /// RFLAGS without CF, PF, AF, ZF, SF, OF and DF (those live above); bit 1 is always set.
    pub rflags: u64,
    /// Segment registers in encoding order.
    pub seg: [Segment; 6],
    /// Scratch words for passing more operands to a helper than it has arguments.
    pub scratch: [u64; 8],
    /// x87 top of stack, 0..=7.
    pub x87_top: u32,
    /// x87 tag bits: bit i set when *physical* register i is empty.
    pub x87_empty: u32,
    /// x87 control word.
    pub x87_cw: u32,
    /// x87 status word without TOP (bits 11..=13 zero here). Exception flags that the host's x87 accumulated are
    /// merged in by `FNSTSW` and friends, not eagerly.
    pub x87_sw: u32,
    /// MXCSR as last loaded; sticky flags are merged in when read.
    pub mxcsr: u32,
    /// Keeps the next field aligned without implicit padding.
    pub reserved0: u32,
    /// Physical x87 registers; ST(i) is `x87[(x87_top + i) & 7]`, MMi is `x87[i].significand`.
    pub x87: [X87Register; 8],
    /// Vector registers: YMM0..=YMM15, XMM in the low 16 bytes.
    pub vec: [[u64; 4]; 16],

    // ---- cold: Rust code only (the translator may read control registers as slots) ----
    /// CR0, CR2, CR3, CR4 by number; entry 1 is unused. CR8 is the local APIC's TPR.
    pub cr: [u64; 5],
    /// IA32_EFER.
    pub efer: u64,
    /// XCR0.
    pub xcr0: u64,
    /// DR0..=DR7 (DR4, DR5 unused).
    pub dr: [u64; 8],
    /// Global descriptor table register.
    pub gdtr: DescriptorTable,
    /// Interrupt descriptor table register.
    pub idtr: DescriptorTable,
    /// Local descriptor table register with hidden part.
    pub ldtr: Segment,
    /// Task register with hidden part.
    pub tr: Segment,
    /// The mode word the current translation runs under; see [`crate::mode`].
    pub mode: u64,
    /// Interrupts and debug traps are blocked for one instruction (STI, MOV SS, POP SS).
    pub interrupt_shadow: u32,
    /// HLT executed: waiting for an interrupt.
    pub halted: u32,
    /// In system management mode (1) or not (0).
    pub smm: u32,
    /// NMIs are blocked until the next IRET (1) or not (0).
    pub nmi_blocked: u32,
    /// FPU instruction and data pointers and opcode (FSTENV/FXSAVE): FIP, FDP.
    pub x87_ip: u64,
    /// x87 data pointer.
    pub x87_dp: u64,
    /// x87 selectors and opcode: FCS, FDS, FOP in three u32.
    pub x87_cs_ds_op: [u32; 4],
    /// PAE page-directory-pointer entries, loaded with CR3 (SDM vol. 3, 5.4.1). Used outside long mode only.
    pub pdpte: [u64; 4],
    /// What the processor model has; fixed after reset.
    pub features: FeatureSet,
    /// Model-specific registers.
    pub msr: Msrs,
    /// Added to the machine's counter to give the guest's TSC (wraps).
    pub tsc_offset: u64,
    /// SMBASE: where SMM state is saved (at SMBASE + FE00h), and SMM code starts (SMBASE + 8000h).
    pub smbase: u64,
    /// Physical-address width in bits, 32..=52.
    pub physical_bits: u32,
    /// INIT was taken and no start-up IPI yet (application processors start so).
    pub wait_for_sipi: u32,
    /// A triple fault happened: only NMI, SMI, INIT and RESET have an effect.
    pub shutdown: u32,
    /// `nmi_blocked` as it was when SMM was entered.
    pub smm_nmi_blocked: u32,
    /// An event waited when events were last looked at and could not be taken (1): what sets IF looks again.
    pub events_wait: u32,
}

impl X86State {
    /// The state after power-up or RESET (SDM vol. 3, table 9-1), apart from the CPUID signature in EDX, which the
    /// CPU model supplies.
    pub fn reset() -> Self {
        let data = Segment {
            base: 0,
            limit: 0xffff,
            attr: attr::P | attr::S | attr::RW | attr::A,
            selector: 0,
            reserved: [0; 3],
        };
        let mut seg = [data; 6];
        seg[seg::CS] = Segment {
            base: 0xffff_0000,
            attr: attr::P | attr::S | attr::RW | attr::A | attr::CODE,
            selector: 0xf000,
            ..data
        };
        let table = DescriptorTable { base: 0, limit: 0xffff, reserved: 0 };
        let system = |kind: u32| Segment { attr: attr::P | kind << attr::TYPE_SHIFT, ..data };
        let mut dr = [0; 8];
        dr[6] = 0xffff_0ff0;
        dr[7] = 0x400;
        Self {
            gpr: [0; 16],
            rip: 0xfff0,
            cc_dst: 0,
            cc_src: 0,
            cc_src2: 0,
            cc_inc: 0,
            cc_op: CcOp::Flags as u32,
            df: 0,
            rflags: 2,
            seg,
            scratch: [0; 8],
            x87_top: 0,
            x87_empty: 0,
            x87_cw: 0x40,
            x87_sw: 0,
            mxcsr: 0x1f80,
            reserved0: 0,
            x87: [X87Register::default(); 8],
            vec: [[0; 4]; 16],
            cr: [0x6000_0010, 0, 0, 0, 0],
            efer: 0,
            xcr0: 1,
            dr,
            gdtr: table,
            idtr: table,
            ldtr: system(2),
            tr: system(0xb),
            mode: 0,
            interrupt_shadow: 0,
            halted: 0,
            smm: 0,
            nmi_blocked: 0,
            x87_ip: 0,
            x87_dp: 0,
            x87_cs_ds_op: [0; 4],
            pdpte: [0; 4],
            features: FeatureSet::default(),
            msr: Msrs::default(),
            tsc_offset: 0,
            smbase: 0x3_0000,
            physical_bits: 40,
            wait_for_sipi: 0,
            shutdown: 0,
            smm_nmi_blocked: 0,
            events_wait: 0,
        }
    }
}
