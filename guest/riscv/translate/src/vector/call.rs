//! A decoded vector instruction as `rhea-riscv-vector` takes it: which operation, on which registers, with which scalar.

use rhea_riscv_vector::memory::{Addressing, Transfer};
use rhea_riscv_vector::{Op, Operation};

use crate::{
    AccVf, AccVv, AccVx, CarryVf, CarryVi, CarryVv, CarryVx, Count, ExtractF, ExtractX, Index, Instruction,
    Mask, MaskVf, MaskVi, MaskVv, MaskVx, PlainV2, PlainVi, PlainVu, PlainVv, PlainVx, R, SplatF, SplatI,
    SplatV, SplatX, V2, VIndexed, VIndexedStore, VLoad, VStore, VStrided, VStridedStore, VWholeLoad,
    VWholeStore, Vf, Vi, Vreg, Vsetivli, Vsetvli, Vu, Vu6, Vv, Vx,
};

/// Where the first source comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// vs1, or there is none.
    Vector,
    /// An integer register.
    X(u8),
    /// A floating-point register.
    F(u8),
    /// The instruction, extended as it says.
    Immediate(u64),
}

/// Where the result goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destination {
    /// vd.
    Vector,
    /// An integer register.
    X(u8),
    /// A floating-point register.
    F(u8),
}

/// A vector instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VectorCall {
    /// vsetvli: `avl` by registers, vtype in the instruction.
    SetVl {
        /// Destination of vl.
        rd: u8,
        /// Register of AVL.
        rs1: u8,
        /// The new vtype.
        vtype: u64,
    },
    /// vsetivli: AVL and vtype in the instruction.
    SetVlImmediate {
        /// Destination of vl.
        rd: u8,
        /// AVL.
        avl: u64,
        /// The new vtype.
        vtype: u64,
    },
    /// vsetvl: AVL and vtype by registers.
    SetVlRegister {
        /// Destination of vl.
        rd: u8,
        /// Register of AVL.
        rs1: u8,
        /// Register of vtype.
        rs2: u8,
    },
    /// Between registers.
    Compute {
        /// What to do.
        operation: Operation,
        /// Where the first source comes from.
        source: Source,
        /// Where the result goes.
        destination: Destination,
    },
    /// A load.
    Load {
        /// What to move.
        transfer: Transfer,
        /// Register of the base address.
        rs1: u8,
        /// Register of the stride.
        rs2: u8,
    },
    /// A store.
    Store {
        /// What to move.
        transfer: Transfer,
        /// Register of the base address.
        rs1: u8,
        /// Register of the stride.
        rs2: u8,
    },
}

/// Operands of one format, made into a call by what the table says of the instruction.
pub(crate) trait Operands<K> {
    fn with(self, kind: K) -> VectorCall;
}

/// Marks the instructions that set vl.
pub(crate) struct SetVl;

/// vmv1r.v to vmv8r.v: how many registers they move.
pub(crate) struct Registers(pub u8);

/// Addressing, binary logarithm of the width in bytes, and registers of whole-register transfers.
type Move = (Addressing, u8, u8);

const NEVER: Mask = Mask(1);

fn compute(op: Op, vd: Vreg, vs2: Vreg, vm: Mask, vs1: u8, source: Source) -> VectorCall {
    let scalar = source != Source::Vector;
    let operation = Operation { op, vd: vd.0, vs1, vs2: vs2.0, masked: vm.is_masked(), scalar };
    VectorCall::Compute { operation, source, destination: Destination::Vector }
}

macro_rules! computes {
    ($($format:ident |$a:ident| $vs2:expr, $vm:expr, $vs1:expr, $source:expr;)*) => {$(
        impl Operands<Op> for $format {
            fn with(self, op: Op) -> VectorCall {
                let $a = self;
                compute(op, $a.vd, $vs2, $vm, $vs1, $source)
            }
        }
    )*};
}

computes! {
    Vv |a| a.vs2, a.vm, a.vs1.0, Source::Vector;
    Vx |a| a.vs2, a.vm, 0, Source::X(a.rs1.0);
    Vi |a| a.vs2, a.vm, 0, Source::Immediate(i64::from(a.simm5) as u64);
    Vu |a| a.vs2, a.vm, 0, Source::Immediate(a.uimm5.into());
    Vu6 |a| a.vs2, a.vm, 0, Source::Immediate(a.uimm6.into());
    Vf |a| a.vs2, a.vm, 0, Source::F(a.fs1.0);
    V2 |a| a.vs2, a.vm, 0, Source::Vector;
    AccVv |a| a.vs2, a.vm, a.vs1.0, Source::Vector;
    AccVx |a| a.vs2, a.vm, 0, Source::X(a.rs1.0);
    AccVf |a| a.vs2, a.vm, 0, Source::F(a.fs1.0);
    MaskVv |a| a.vs2, a.vm, a.vs1.0, Source::Vector;
    MaskVx |a| a.vs2, a.vm, 0, Source::X(a.rs1.0);
    MaskVi |a| a.vs2, a.vm, 0, Source::Immediate(i64::from(a.simm5) as u64);
    MaskVf |a| a.vs2, a.vm, 0, Source::F(a.fs1.0);
    CarryVv |a| a.vs2, NEVER, a.vs1.0, Source::Vector;
    CarryVx |a| a.vs2, NEVER, 0, Source::X(a.rs1.0);
    CarryVi |a| a.vs2, NEVER, 0, Source::Immediate(i64::from(a.simm5) as u64);
    CarryVf |a| a.vs2, NEVER, 0, Source::F(a.fs1.0);
    PlainVv |a| a.vs2, NEVER, a.vs1.0, Source::Vector;
    PlainVx |a| a.vs2, NEVER, 0, Source::X(a.rs1.0);
    PlainVi |a| a.vs2, NEVER, 0, Source::Immediate(i64::from(a.simm5) as u64);
    PlainV2 |a| a.vs2, NEVER, 0, Source::Vector;
    // The field of vs1 is a round number.
    PlainVu |a| a.vs2, NEVER, a.uimm5, Source::Vector;
    SplatV |a| Vreg(0), NEVER, a.vs1.0, Source::Vector;
    SplatX |a| Vreg(0), NEVER, 0, Source::X(a.rs1.0);
    SplatI |a| Vreg(0), NEVER, 0, Source::Immediate(i64::from(a.simm5) as u64);
    SplatF |a| Vreg(0), NEVER, 0, Source::F(a.fs1.0);
    Index |a| Vreg(0), a.vm, 0, Source::Vector;
}

impl Operands<Registers> for PlainV2 {
    fn with(self, Registers(count): Registers) -> VectorCall {
        compute(Op::VmvWhole, self.vd, self.vs2, NEVER, count, Source::Vector)
    }
}

fn extract(op: Op, vs2: Vreg, vm: Mask, destination: Destination) -> VectorCall {
    let operation = Operation { op, vd: 0, vs1: 0, vs2: vs2.0, masked: vm.is_masked(), scalar: false };
    VectorCall::Compute { operation, source: Source::Vector, destination }
}

impl Operands<Op> for ExtractX {
    fn with(self, op: Op) -> VectorCall {
        extract(op, self.vs2, NEVER, Destination::X(self.rd.0))
    }
}

impl Operands<Op> for ExtractF {
    fn with(self, op: Op) -> VectorCall {
        extract(op, self.vs2, NEVER, Destination::F(self.fd.0))
    }
}

impl Operands<Op> for Count {
    fn with(self, op: Op) -> VectorCall {
        extract(op, self.vs2, self.vm, Destination::X(self.rd.0))
    }
}

impl Operands<SetVl> for Vsetvli {
    fn with(self, _: SetVl) -> VectorCall {
        VectorCall::SetVl { rd: self.rd.0, rs1: self.rs1.0, vtype: self.vtype11.0.into() }
    }
}

impl Operands<SetVl> for Vsetivli {
    fn with(self, _: SetVl) -> VectorCall {
        VectorCall::SetVlImmediate { rd: self.rd.0, avl: self.avl.into(), vtype: self.vtype10.0.into() }
    }
}

impl Operands<SetVl> for R {
    fn with(self, _: SetVl) -> VectorCall {
        VectorCall::SetVlRegister { rd: self.rd.0, rs1: self.rs1.0, rs2: self.rs2.0 }
    }
}

macro_rules! moves {
    ($($format:ident $variant:ident |$a:ident| $vd:ident, $fields:expr, $vs2:expr, $rs2:expr, $vm:expr;)*) => {$(
        impl Operands<Move> for $format {
            fn with(self, (addressing, width, registers): Move) -> VectorCall {
                let $a = self;
                let _ = registers;
                let fields = if addressing == Addressing::Whole { registers } else { $fields };
                let (vd, vs2, masked) = ($a.$vd.0, $vs2, $vm.is_masked());
                let transfer = Transfer { addressing, width, fields, vd, vs2, masked };
                VectorCall::$variant { transfer, rs1: $a.rs1.0, rs2: $rs2 }
            }
        }
    )*};
}

moves! {
    VWholeLoad Load |a| vd, 1, 0, 0, NEVER;
    VWholeStore Store |a| vs3, 1, 0, 0, NEVER;
    VLoad Load |a| vd, a.nf, 0, 0, a.vm;
    VStore Store |a| vs3, a.nf, 0, 0, a.vm;
    VStrided Load |a| vd, a.nf, 0, a.rs2.0, a.vm;
    VStridedStore Store |a| vs3, a.nf, 0, a.rs2.0, a.vm;
    VIndexed Load |a| vd, a.nf, a.vs2.0, 0, a.vm;
    VIndexedStore Store |a| vs3, a.nf, a.vs2.0, 0, a.vm;
}

macro_rules! by_variant {
    ($($format:ident { $($method:ident $variant:ident $kind:expr;)* })*) => {
        fn find(instruction: Instruction) -> Option<VectorCall> {
            #[allow(unused_imports, reason = "each table uses some of these")]
            use {Op::*, rhea_riscv_vector::memory::Addressing::{FaultOnlyFirst, Indexed, Strided, UnitStride, Whole}};
            #[allow(unused_imports, reason = "each table uses some of these")]
            use rhea_riscv_vector::memory::Addressing::Mask as MaskBits;
            match instruction {
                $($(Instruction::$variant(a) => Some(a.with($kind)),)*)*
                _ => None,
            }
        }
    };
}

mod v {
    use super::{Instruction, Op, Operands, Registers, SetVl, VectorCall};
    crate::vector::table::instructions_of_v!(by_variant);
    pub(super) fn call(instruction: Instruction) -> Option<VectorCall> {
        find(instruction)
    }
}

mod zvk {
    use super::{Instruction, Op, Operands, VectorCall};
    crate::vector::table::instructions_of_zvk!(by_variant);
    pub(super) fn call(instruction: Instruction) -> Option<VectorCall> {
        find(instruction)
    }
}

impl VectorCall {
    /// The call that a vector instruction is; nothing for others.
    pub fn of(instruction: Instruction) -> Option<VectorCall> {
        let instruction = instruction.expanded();
        v::call(instruction).or_else(|| zvk::call(instruction))
    }
}
