//! What an x87 instruction does, apart from how it is executed: shared by the translator, which emits the common
//! ones, and by [`super::execute`], which performs any of them.

use iced_x86::{Instruction, MemorySize, Mnemonic as M, OpKind, Register};

macro_rules! operations {
    ($( $(#[doc = $doc:expr])* $name:ident, )*) => {
        /// An x87 operation. Arithmetic has its operand order in the name: `SubR` is source minus destination.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub enum Operation { $( $(#[doc = $doc])* $name, )* }
        const OPERATIONS: &[Operation] = &[ $( Operation::$name, )* ];
    };
}

operations! {
    /// FADD.
    Add,
    /// FMUL.
    Mul,
    /// FSUB: destination minus source.
    Sub,
    /// FSUBR.
    SubR,
    /// FDIV: destination by source.
    Div,
    /// FDIVR.
    DivR,
    /// FCOM, FICOM: to C0..C3, signalling.
    Compare,
    /// FUCOM: quiet.
    CompareQuiet,
    /// FCOMI: to ZF, PF, CF.
    CompareFlags,
    /// FUCOMI.
    CompareFlagsQuiet,
    /// FTST.
    Test,
    /// FXAM.
    Examine,
    /// FLD, FILD, FBLD.
    Load,
    /// FST, FIST, FBSTP.
    Store,
    /// FISTTP.
    StoreTruncated,
    /// FXCH.
    Exchange,
    /// FABS.
    Absolute,
    /// FCHS.
    ChangeSign,
    /// FLD1.
    LoadOne,
    /// FLDL2T: log2(10).
    LoadLog2Ten,
    /// FLDL2E: log2(e).
    LoadLog2E,
    /// FLDPI.
    LoadPi,
    /// FLDLG2: log10(2).
    LoadLog10Two,
    /// FLDLN2: ln(2).
    LoadLnTwo,
    /// FLDZ.
    LoadZero,
    /// FSQRT.
    SquareRoot,
    /// FRNDINT.
    RoundToInteger,
    /// FSCALE.
    Scale,
    /// F2XM1.
    Exp2Minus1,
    /// FYL2X.
    YLog2X,
    /// FYL2XP1.
    YLog2XPlus1,
    /// FPTAN.
    Tangent,
    /// FPATAN.
    ArcTangent,
    /// FSIN.
    Sine,
    /// FCOS.
    Cosine,
    /// FSINCOS.
    SineCosine,
    /// FXTRACT.
    Extract,
    /// FPREM.
    Remainder,
    /// FPREM1.
    RemainderNearest,
    /// FCMOVcc; the condition is in `destination`.
    Move,
    /// FDECSTP.
    DecrementTop,
    /// FINCSTP.
    IncrementTop,
    /// FFREE, FFREEP.
    Free,
    /// FNOP.
    Nothing,
    /// FWAIT.
    Wait,
    /// FLDCW.
    LoadControl,
    /// FNSTCW.
    StoreControl,
    /// FNSTSW.
    StoreStatus,
    /// FNCLEX.
    ClearExceptions,
    /// FNINIT.
    Initialize,
    /// FLDENV.
    LoadEnvironment,
    /// FNSTENV.
    StoreEnvironment,
    /// FNSAVE.
    Save,
    /// FRSTOR.
    Restore,
}

/// Where an operand is, and in which format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Operand {
    /// None, or AX for FNSTSW.
    None,
    /// ST(register).
    Stack,
    /// binary32 in memory.
    F32,
    /// binary64 in memory.
    F64,
    /// Double extended in memory.
    F80,
    /// 16-bit integer in memory.
    I16,
    /// 32-bit integer in memory.
    I32,
    /// 64-bit integer in memory.
    I64,
    /// Packed decimal in memory.
    Bcd,
    /// 16-bit word (control, status) in memory.
    Word,
    /// Environment or state in its 16-bit format.
    Short,
    /// Environment or state in its 32-bit format.
    Long,
}

const OPERANDS: &[Operand] = &[
    Operand::None,
    Operand::Stack,
    Operand::F32,
    Operand::F64,
    Operand::F80,
    Operand::I16,
    Operand::I32,
    Operand::I64,
    Operand::Bcd,
    Operand::Word,
    Operand::Short,
    Operand::Long,
];

/// A decoded x87 instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decoded {
    /// What it does.
    pub operation: Operation,
    /// The operand besides the destination (for stores: the destination).
    pub operand: Operand,
    /// i of the operand ST(i).
    pub register: u8,
    /// i of the destination ST(i) of arithmetic; the condition code of FCMOVcc; 1 for FSTPNCE, which does not check
    /// that ST(0) is in use.
    pub destination: u8,
    /// Registers popped at the end.
    pub pops: u8,
    /// Does not wait for pending exceptions.
    pub no_wait: bool,
}

impl Decoded {
    /// As one word, for helpers. The upper 32 bits are free.
    pub fn pack(self) -> u64 {
        self.operation as u64
            | (self.operand as u64) << 8
            | u64::from(self.register) << 16
            | u64::from(self.destination) << 20
            | u64::from(self.pops) << 24
            | u64::from(self.no_wait) << 27
    }

    /// The inverse of [`Decoded::pack`].
    pub fn unpack(word: u64) -> Decoded {
        let at = |pos: u32, len: u32| (word >> pos & ((1 << len) - 1)) as usize;
        Decoded {
            operation: OPERATIONS.get(at(0, 8)).copied().unwrap_or(Operation::Nothing),
            operand: OPERANDS.get(at(8, 8)).copied().unwrap_or(Operand::None),
            register: at(16, 3) as u8,
            destination: at(20, 3) as u8,
            pops: at(24, 2) as u8,
            no_wait: at(27, 1) != 0,
        }
    }

    /// Whether the operand is in memory.
    pub fn is_memory(self) -> bool {
        !matches!(self.operand, Operand::None | Operand::Stack)
    }

    /// Bytes of the memory operand.
    pub fn memory_bytes(self) -> u32 {
        match self.operand {
            Operand::None | Operand::Stack => 0,
            Operand::I16 | Operand::Word => 2,
            Operand::F32 | Operand::I32 => 4,
            Operand::F64 | Operand::I64 => 8,
            Operand::F80 | Operand::Bcd => 10,
            Operand::Short if self.has_registers() => 94,
            Operand::Short => 14,
            Operand::Long if self.has_registers() => 108,
            Operand::Long => 28,
        }
    }

    /// Alignment of the memory operand that #AC asks for (SDM vol. 3, table 6-7).
    pub fn alignment(self) -> u64 {
        match self.operand {
            Operand::None | Operand::Stack => 1,
            Operand::I16 | Operand::Word | Operand::Short => 2,
            Operand::F32 | Operand::I32 | Operand::Long => 4,
            _ => 8,
        }
    }

    /// FNSAVE and FRSTOR.
    fn has_registers(self) -> bool {
        matches!(self.operation, Operation::Save | Operation::Restore)
    }

    /// Whether the memory operand is written.
    pub fn stores(self) -> bool {
        use Operation as O;
        self.is_memory()
            && matches!(
                self.operation,
                O::Store
                    | O::StoreTruncated
                    | O::StoreControl
                    | O::StoreStatus
                    | O::StoreEnvironment
                    | O::Save
            )
    }
}

/// Control and administrative instructions leave the instruction and data pointers alone (SDM vol. 1, 8.1.8).
pub fn is_control(operation: Operation) -> bool {
    use Operation as O;
    matches!(
        operation,
        O::Wait
            | O::LoadControl
            | O::StoreControl
            | O::StoreStatus
            | O::ClearExceptions
            | O::Initialize
            | O::LoadEnvironment
            | O::StoreEnvironment
            | O::Save
            | O::Restore
    )
}

/// Operation and number of pops of a mnemonic.
fn operation(mnemonic: M) -> Option<(Operation, u8)> {
    use Operation as O;
    Some(match mnemonic {
        M::Fadd | M::Fiadd => (O::Add, 0),
        M::Faddp => (O::Add, 1),
        M::Fmul | M::Fimul => (O::Mul, 0),
        M::Fmulp => (O::Mul, 1),
        M::Fsub | M::Fisub => (O::Sub, 0),
        M::Fsubp => (O::Sub, 1),
        M::Fsubr | M::Fisubr => (O::SubR, 0),
        M::Fsubrp => (O::SubR, 1),
        M::Fdiv | M::Fidiv => (O::Div, 0),
        M::Fdivp => (O::Div, 1),
        M::Fdivr | M::Fidivr => (O::DivR, 0),
        M::Fdivrp => (O::DivR, 1),
        M::Fcom | M::Ficom => (O::Compare, 0),
        M::Fcomp | M::Ficomp => (O::Compare, 1),
        M::Fcompp => (O::Compare, 2),
        M::Fucom => (O::CompareQuiet, 0),
        M::Fucomp => (O::CompareQuiet, 1),
        M::Fucompp => (O::CompareQuiet, 2),
        M::Fcomi => (O::CompareFlags, 0),
        M::Fcomip => (O::CompareFlags, 1),
        M::Fucomi => (O::CompareFlagsQuiet, 0),
        M::Fucomip => (O::CompareFlagsQuiet, 1),
        M::Ftst => (O::Test, 0),
        M::Fxam => (O::Examine, 0),
        M::Fld | M::Fild | M::Fbld => (O::Load, 0),
        M::Fst | M::Fist => (O::Store, 0),
        M::Fstp | M::Fistp | M::Fbstp | M::Fstpnce => (O::Store, 1),
        M::Fisttp => (O::StoreTruncated, 1),
        M::Fxch => (O::Exchange, 0),
        M::Fabs => (O::Absolute, 0),
        M::Fchs => (O::ChangeSign, 0),
        M::Fld1 => (O::LoadOne, 0),
        M::Fldl2t => (O::LoadLog2Ten, 0),
        M::Fldl2e => (O::LoadLog2E, 0),
        M::Fldpi => (O::LoadPi, 0),
        M::Fldlg2 => (O::LoadLog10Two, 0),
        M::Fldln2 => (O::LoadLnTwo, 0),
        M::Fldz => (O::LoadZero, 0),
        M::Fsqrt => (O::SquareRoot, 0),
        M::Frndint => (O::RoundToInteger, 0),
        M::Fscale => (O::Scale, 0),
        M::F2xm1 => (O::Exp2Minus1, 0),
        M::Fyl2x => (O::YLog2X, 0),
        M::Fyl2xp1 => (O::YLog2XPlus1, 0),
        M::Fptan => (O::Tangent, 0),
        M::Fpatan => (O::ArcTangent, 0),
        M::Fsin => (O::Sine, 0),
        M::Fcos => (O::Cosine, 0),
        M::Fsincos => (O::SineCosine, 0),
        M::Fxtract => (O::Extract, 0),
        M::Fprem => (O::Remainder, 0),
        M::Fprem1 => (O::RemainderNearest, 0),
        M::Fcmovb | M::Fcmove | M::Fcmovbe | M::Fcmovu => (O::Move, 0),
        M::Fcmovnb | M::Fcmovne | M::Fcmovnbe | M::Fcmovnu => (O::Move, 0),
        M::Fdecstp => (O::DecrementTop, 0),
        M::Fincstp => (O::IncrementTop, 0),
        M::Ffree => (O::Free, 0),
        M::Ffreep => (O::Free, 1),
        // FENI, FDISI and FSETPM do nothing since the 80387 (SDM vol. 2, Opcode map; vol. 3, 22.18).
        M::Fnop | M::Fneni | M::Feni | M::Fndisi | M::Fdisi | M::Fnsetpm | M::Fsetpm => (O::Nothing, 0),
        M::Wait => (O::Wait, 0),
        M::Fldcw => (O::LoadControl, 0),
        M::Fnstcw | M::Fstcw => (O::StoreControl, 0),
        M::Fnstsw | M::Fstsw => (O::StoreStatus, 0),
        M::Fnclex | M::Fclex => (O::ClearExceptions, 0),
        M::Fninit | M::Finit => (O::Initialize, 0),
        M::Fldenv => (O::LoadEnvironment, 0),
        M::Fnstenv | M::Fstenv => (O::StoreEnvironment, 0),
        M::Fnsave | M::Fsave => (O::Save, 0),
        M::Frstor => (O::Restore, 0),
        _ => return None,
    })
}

/// Whether a mnemonic is one of those that do not wait.
fn does_not_wait(mnemonic: M) -> bool {
    matches!(
        mnemonic,
        M::Fnstcw
            | M::Fnstsw
            | M::Fnclex
            | M::Fninit
            | M::Fnstenv
            | M::Fnsave
            | M::Fneni
            | M::Fndisi
            | M::Fnsetpm
    )
}

/// Condition of FCMOVcc: 0 B, 1 E, 2 BE, 3 U; 4 more for the inverses.
fn condition(mnemonic: M) -> u8 {
    match mnemonic {
        M::Fcmovb => 0,
        M::Fcmove => 1,
        M::Fcmovbe => 2,
        M::Fcmovu => 3,
        M::Fcmovnb => 4,
        M::Fcmovne => 5,
        M::Fcmovnbe => 6,
        _ => 7,
    }
}

fn stack_index(register: Register) -> u8 {
    if register.is_st() { register.number() as u8 } else { 0 }
}

/// Decodes an x87 instruction.
pub fn decode(insn: &Instruction) -> Option<Decoded> {
    let mnemonic = insn.mnemonic();
    let in_range = mnemonic as usize >= M::F2xm1 as usize && mnemonic as usize <= M::Fyl2xp1 as usize;
    if !in_range && mnemonic != M::Wait {
        return None;
    }
    let (operation, pops) = operation(mnemonic)?;
    let mut d = Decoded {
        operation,
        operand: Operand::None,
        register: 0,
        destination: 0,
        pops,
        no_wait: does_not_wait(mnemonic),
    };
    if insn.op_count() > 0 && insn.op0_kind() == OpKind::Memory {
        d.operand = match insn.memory_size() {
            MemorySize::Float32 => Operand::F32,
            MemorySize::Float64 => Operand::F64,
            MemorySize::Float80 => Operand::F80,
            MemorySize::Int16 => Operand::I16,
            MemorySize::Int32 => Operand::I32,
            MemorySize::Int64 => Operand::I64,
            MemorySize::Bcd => Operand::Bcd,
            MemorySize::UInt16 => Operand::Word,
            MemorySize::FpuEnv14 | MemorySize::FpuState94 => Operand::Short,
            MemorySize::FpuEnv28 | MemorySize::FpuState108 => Operand::Long,
            _ => return None,
        };
        return Some(d);
    }
    let (first, second) = (stack_index(insn.op0_register()), stack_index(insn.op1_register()));
    match operation {
        Operation::Compare | Operation::CompareQuiet if pops == 2 => {
            d.operand = Operand::Stack;
            d.register = 1;
        }
        Operation::Store if mnemonic == M::Fstpnce => {
            d.operand = Operand::Stack;
            d.register = first;
            d.destination = 1;
        }
        Operation::Move => {
            d.operand = Operand::Stack;
            d.register = second;
            d.destination = condition(mnemonic);
        }
        _ if insn.op_count() == 2 && insn.op1_register().is_st() => {
            d.operand = Operand::Stack;
            d.register = second;
            d.destination = first;
        }
        _ if insn.op_count() > 0 && insn.op0_register().is_st() => {
            d.operand = Operand::Stack;
            d.register = first;
        }
        _ => {}
    }
    Some(d)
}
