//! The operations by name, and how an instruction's operands are handed over.

/// How wide an operation's operands are and which groups they may stand in; what [`crate::legality`] goes by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Sources and result have SEW.
    Same,
    /// As `Same`, with v0 as carry or choice whatever `masked` says.
    Carry,
    /// The result is a mask; sources have SEW.
    MaskResult,
    /// The result has twice SEW.
    Widen,
    /// The result and vs2 have twice SEW.
    WidenWide,
    /// vs2 has twice SEW.
    Narrow,
    /// vs2 has half, a quarter or an eighth of SEW; the binary logarithm of the factor.
    Extend(u8),
    /// vs1 and the result are scalars in element 0.
    Reduce,
    /// As `Reduce`, the scalars have twice SEW.
    WidenReduce,
    /// Masks only, never masked.
    MaskLogical,
    /// vs2 is a mask, the result an integer register.
    MaskScalar,
    /// Mask to mask.
    MaskToMask,
    /// Mask to elements of SEW.
    Iota,
    /// The result has SEW and there is no source.
    Index,
    /// The result must not overlap vs2.
    Up,
    /// The result must not overlap a source; indices have SEW.
    Gather,
    /// As `Gather`, indices have 16 bits.
    Gather16,
    /// As `Gather`, vs1 is a mask.
    Compress,
    /// Whole registers, as many as vs1 says.
    Whole,
    /// Element 0 and a scalar register.
    Scalar,
    /// Element groups; see [`Group`].
    ElementGroup(Group),
}

/// Shapes of element groups (Vector Cryptography, "Element Groups").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// Four elements of 32 bits, vd and vs2.
    Words,
    /// As `Words`, vs2 is one group for all of vd.
    WordsScalar,
    /// Four elements of 32 bits, vs1 too.
    ThreeWords,
    /// SHA-2: four elements of 32 or 64 bits.
    Sha2,
    /// SM3: eight elements of 32 bits, vd, vs2 and (for vsm3me) vs1.
    Sm3,
}

/// What an operation computes with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Numbers {
    /// Integers.
    Integer,
    /// Floating-point numbers of every width that takes part.
    Float,
    /// As `Float`, and there are forms for half precision that Zvfhmin has.
    FloatHalfConversion,
    /// Floating-point numbers on the wide side only; the narrow side is integers.
    WideFloat,
    /// Floating-point numbers on the narrow side only; the wide side is integers.
    NarrowFloat,
}

macro_rules! operations {
    ($($numbers:ident { $($shape:expr => $($op:ident)*;)* })*) => {
        /// An operation: the mnemonic without its operand form; `W` marks the forms with a wide second operand.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u16)]
        #[allow(missing_docs, reason = "the names are the specification's mnemonics")]
        pub enum Op { $($($($op,)*)*)* }

        impl Op {
            /// Every operation, by discriminant.
            pub const ALL: &'static [Op] = &[$($($(Op::$op,)*)*)*];

            /// Widths and places of its operands.
            pub const fn shape(self) -> Shape {
                use Shape::*;
                match self { $($($(Op::$op)|* => $shape,)*)* }
            }

            /// What it computes with.
            pub const fn numbers(self) -> Numbers {
                match self { $($($(Op::$op)|* => Numbers::$numbers,)*)* }
            }
        }
    };
}

operations! {
    Integer {
        Same => Vadd Vsub Vrsub Vminu Vmin Vmaxu Vmax Vand Vor Vxor Vsll Vsrl Vsra
            Vmul Vmulh Vmulhu Vmulhsu Vdivu Vdiv Vremu Vrem
            Vmacc Vnmsac Vmadd Vnmsub Vmv
            Vsaddu Vsadd Vssubu Vssub Vaaddu Vaadd Vasubu Vasub Vsmul Vssrl Vssra
            Vandn Vrol Vror Vclmul Vclmulh
            Vbrev8 Vrev8 Vbrev Vclz Vctz VcpopV
            Vslidedown Vslide1down;
        Carry => Vadc Vsbc Vmerge;
        MaskResult => Vmadc Vmsbc VmadcM VmsbcM Vmseq Vmsne Vmsltu Vmslt Vmsleu Vmsle Vmsgtu Vmsgt;
        Widen => Vwaddu Vwadd Vwsubu Vwsub Vwmulu Vwmulsu Vwmul Vwmaccu Vwmacc Vwmaccus Vwmaccsu Vwsll;
        WidenWide => VwadduW VwaddW VwsubuW VwsubW;
        Narrow => Vnsrl Vnsra Vnclipu Vnclip;
        Extend(1) => Vzext2 Vsext2;
        Extend(2) => Vzext4 Vsext4;
        Extend(3) => Vzext8 Vsext8;
        Reduce => Vredsum Vredand Vredor Vredxor Vredminu Vredmin Vredmaxu Vredmax;
        WidenReduce => Vwredsumu Vwredsum;
        MaskLogical => Vmandn Vmand Vmor Vmxor Vmorn Vmnand Vmnor Vmxnor;
        MaskScalar => VcpopM VfirstM;
        MaskToMask => Vmsbf Vmsof Vmsif;
        Iota => Viota;
        Index => Vid;
        Up => Vslideup Vslide1up;
        Gather => Vrgather;
        Gather16 => Vrgatherei16;
        Compress => Vcompress;
        Whole => VmvWhole;
        Scalar => VmvXS VmvSX;
        ElementGroup(Group::Words) => VaesdmVV VaesdfVV VaesemVV VaesefVV Vaeskf1 Vaeskf2 Vgmul Vsm4k Vsm4rVV;
        ElementGroup(Group::WordsScalar) => VaesdmVS VaesdfVS VaesemVS VaesefVS Vaesz Vsm4rVS;
        ElementGroup(Group::ThreeWords) => Vghsh;
        ElementGroup(Group::Sha2) => Vsha2ms Vsha2ch Vsha2cl;
        ElementGroup(Group::Sm3) => Vsm3me Vsm3c;
    }
    Float {
        Same => Vfadd Vfsub Vfrsub Vfmul Vfdiv Vfrdiv Vfmin Vfmax Vfsgnj Vfsgnjn Vfsgnjx
            Vfmadd Vfnmadd Vfmsub Vfnmsub Vfmacc Vfnmacc Vfmsac Vfnmsac
            Vfsqrt Vfrsqrt7 Vfrec7 Vfclass Vfmv Vfslide1down
            VfcvtXuF VfcvtXF VfcvtFXu VfcvtFX VfcvtRtzXuF VfcvtRtzXF;
        Carry => Vfmerge;
        MaskResult => Vmfeq Vmfle Vmflt Vmfne Vmfgt Vmfge;
        Widen => Vfwadd Vfwsub Vfwmul Vfwmacc Vfwnmacc Vfwmsac Vfwnmsac;
        WidenWide => VfwaddW VfwsubW;
        Narrow => VfncvtRodFF;
        Reduce => Vfredusum Vfredosum Vfredmin Vfredmax;
        WidenReduce => Vfwredusum Vfwredosum;
        Up => Vfslide1up;
        Scalar => VfmvFS VfmvSF;
    }
    FloatHalfConversion {
        Widen => VfwcvtFF;
        Narrow => VfncvtFF;
    }
    WideFloat {
        Widen => VfwcvtFXu VfwcvtFX;
        Narrow => VfncvtXuF VfncvtXF VfncvtRtzXuF VfncvtRtzXF;
    }
    NarrowFloat {
        Widen => VfwcvtXuF VfwcvtXF VfwcvtRtzXuF VfwcvtRtzXF;
        Narrow => VfncvtFXu VfncvtFX;
    }
}

impl Op {
    /// Only vs2 is a source (a conversion or the like): the field of vs1 chooses the operation.
    pub const fn is_unary(self) -> bool {
        use Op::*;
        matches!(
            self,
            Vbrev8
                | Vrev8
                | Vbrev
                | Vclz
                | Vctz
                | VcpopV
                | Vfsqrt
                | Vfrsqrt7
                | Vfrec7
                | Vfclass
                | VfcvtXuF
                | VfcvtXF
                | VfcvtFXu
                | VfcvtFX
                | VfcvtRtzXuF
                | VfcvtRtzXF
                | VfwcvtFF
                | VfwcvtFXu
                | VfwcvtFX
                | VfwcvtXuF
                | VfwcvtXF
                | VfwcvtRtzXuF
                | VfwcvtRtzXF
                | VfncvtFF
                | VfncvtRodFF
                | VfncvtFXu
                | VfncvtFX
                | VfncvtXuF
                | VfncvtXF
                | VfncvtRtzXuF
                | VfncvtRtzXF
        )
    }

    /// A multiply-add: vd is a source too.
    pub const fn reads_vd(self) -> bool {
        use Op::*;
        matches!(
            self,
            Vmacc
                | Vnmsac
                | Vmadd
                | Vnmsub
                | Vwmaccu
                | Vwmacc
                | Vwmaccus
                | Vwmaccsu
                | Vfmadd
                | Vfnmadd
                | Vfmsub
                | Vfnmsub
                | Vfmacc
                | Vfnmacc
                | Vfmsac
                | Vfnmsac
                | Vfwmacc
                | Vfwnmacc
                | Vfwmsac
                | Vfwnmsac
        )
    }

    /// vs2 is no source: the field is zero or chooses the operation.
    pub const fn ignores_vs2(self) -> bool {
        matches!(self, Op::Vmv | Op::Vfmv | Op::Vid | Op::VmvSX | Op::VfmvSF)
    }
}

/// One instruction's operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operation {
    /// What to do.
    pub op: Op,
    /// Destination register, and a source of multiply-adds. Unused where the result is a scalar register.
    pub vd: u8,
    /// First source register; the number of registers of [`Op::VmvWhole`]; unused if `scalar`.
    pub vs1: u8,
    /// Second source register.
    pub vs2: u8,
    /// Only elements whose bit in v0 is set are worked on (vm is 0). Not for carries and choices.
    pub masked: bool,
    /// The first source is the scalar handed to [`crate::execute`], not vs1: an integer register's value, an
    /// immediate, extended to 64 bits as the instruction says, or the bits of a floating-point register.
    pub scalar: bool,
}

impl Operation {
    /// As one number, to be passed on by translated code.
    pub const fn to_bits(self) -> u64 {
        self.op as u64
            | (self.vd as u64 & 31) << 16
            | (self.vs1 as u64 & 31) << 21
            | (self.vs2 as u64 & 31) << 26
            | (self.masked as u64) << 31
            | (self.scalar as u64) << 32
    }

    /// From [`Operation::to_bits`]; nothing if there is no such operation.
    pub fn from_bits(bits: u64) -> Option<Operation> {
        let register = |at: u32| (bits >> at & 31) as u8;
        Some(Operation {
            op: *Op::ALL.get(usize::from(bits as u16))?,
            vd: register(16),
            vs1: register(21),
            vs2: register(26),
            masked: bits >> 31 & 1 != 0,
            scalar: bits >> 32 & 1 != 0,
        })
    }
}
