//! Value types, vector lanes, conditions and memory-access attributes.

/// Type of a value.
///
/// Integers live in general registers; bits above the type's width are undefined in storage, so an operation only
/// looks at the bits its type names. `F80` is the x87 extended format. `V128`/`V256` are untyped vectors: the lane
/// type is part of the operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Type {
    /// No value.
    Void,
    /// 8-bit integer; also the type of truth values, which are 0 or 1.
    I8,
    /// 16-bit integer.
    I16,
    /// 32-bit integer.
    I32,
    /// 64-bit integer.
    I64,
    /// IEEE binary32, for guests with scalar floating-point registers.
    F32,
    /// IEEE binary64.
    F64,
    /// x87 double extended; 10 bytes stored in 16.
    F80,
    /// 128-bit vector.
    V128,
    /// 256-bit vector.
    V256,
}

impl Type {
    /// Every type, in declaration order.
    pub const ALL: [Type; 10] = [
        Type::Void,
        Type::I8,
        Type::I16,
        Type::I32,
        Type::I64,
        Type::F32,
        Type::F64,
        Type::F80,
        Type::V128,
        Type::V256,
    ];

    /// Bytes a slot or a memory access of this type covers (`F80` slots take 16; `F80` is never loaded directly).
    pub const fn bytes(self) -> u32 {
        match self {
            Type::Void => 0,
            Type::I8 => 1,
            Type::I16 => 2,
            Type::I32 | Type::F32 => 4,
            Type::I64 | Type::F64 => 8,
            Type::F80 | Type::V128 => 16,
            Type::V256 => 32,
        }
    }

    /// Width in bits of an integer type (zero for others).
    pub const fn bits(self) -> u32 {
        if self.is_int() { self.bytes() * 8 } else { 0 }
    }

    /// True for I8..I64.
    pub const fn is_int(self) -> bool {
        matches!(self, Type::I8 | Type::I16 | Type::I32 | Type::I64)
    }

    /// True for values that live in vector registers on common hosts.
    pub const fn is_vector_class(self) -> bool {
        matches!(self, Type::F32 | Type::F64 | Type::V128 | Type::V256)
    }

    /// The integer type of `bytes` bytes (1, 2, 4 or 8).
    pub const fn int(bytes: u32) -> Type {
        match bytes {
            1 => Type::I8,
            2 => Type::I16,
            4 => Type::I32,
            _ => Type::I64,
        }
    }

    /// Name in the text form.
    pub const fn name(self) -> &'static str {
        match self {
            Type::Void => "void",
            Type::I8 => "i8",
            Type::I16 => "i16",
            Type::I32 => "i32",
            Type::I64 => "i64",
            Type::F32 => "f32",
            Type::F64 => "f64",
            Type::F80 => "f80",
            Type::V128 => "v128",
            Type::V256 => "v256",
        }
    }
}

/// Lane type of a vector operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Lane {
    /// Not a lane-wise operation.
    None,
    /// 8-bit integer lanes.
    I8,
    /// 16-bit integer lanes.
    I16,
    /// 32-bit integer lanes.
    I32,
    /// 64-bit integer lanes.
    I64,
    /// binary32 lanes (or the scalar, when the operation's type is F32).
    F32,
    /// binary64 lanes (or the scalar, when the operation's type is F64).
    F64,
    /// Only lane 0, as binary32; the other lanes of the result are those of operand `a`.
    S32,
    /// Only lane 0, as binary64; the other lanes of the result are those of operand `a`.
    S64,
}

impl Lane {
    /// Every lane kind, in declaration order.
    pub const ALL: [Lane; 9] =
        [Lane::None, Lane::I8, Lane::I16, Lane::I32, Lane::I64, Lane::F32, Lane::F64, Lane::S32, Lane::S64];

    /// Bytes of one lane.
    pub const fn bytes(self) -> u32 {
        match self {
            Lane::None => 0,
            Lane::I8 => 1,
            Lane::I16 => 2,
            Lane::I32 | Lane::F32 | Lane::S32 => 4,
            Lane::I64 | Lane::F64 | Lane::S64 => 8,
        }
    }

    /// True for S32 and S64.
    pub const fn is_scalar(self) -> bool {
        matches!(self, Lane::S32 | Lane::S64)
    }

    /// Name in the text form (empty for `None`).
    pub const fn name(self) -> &'static str {
        match self {
            Lane::None => "",
            Lane::I8 => "i8",
            Lane::I16 => "i16",
            Lane::I32 => "i32",
            Lane::I64 => "i64",
            Lane::F32 => "f32",
            Lane::F64 => "f64",
            Lane::S32 => "s32",
            Lane::S64 => "s64",
        }
    }
}

/// Integer comparison; `U` unsigned, `S` signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Cond {
    Eq,
    Ne,
    LtU,
    GeU,
    LeU,
    GtU,
    LtS,
    GeS,
    LeS,
    GtS,
}

impl Cond {
    /// Every condition, in declaration order (the value of `Inst::aux`).
    pub const ALL: [Cond; 10] = [
        Cond::Eq,
        Cond::Ne,
        Cond::LtU,
        Cond::GeU,
        Cond::LeU,
        Cond::GtU,
        Cond::LtS,
        Cond::GeS,
        Cond::LeS,
        Cond::GtS,
    ];

    /// The condition that is true exactly when this one is false.
    pub const fn invert(self) -> Cond {
        match self {
            Cond::Eq => Cond::Ne,
            Cond::Ne => Cond::Eq,
            Cond::LtU => Cond::GeU,
            Cond::GeU => Cond::LtU,
            Cond::LeU => Cond::GtU,
            Cond::GtU => Cond::LeU,
            Cond::LtS => Cond::GeS,
            Cond::GeS => Cond::LtS,
            Cond::LeS => Cond::GtS,
            Cond::GtS => Cond::LeS,
        }
    }

    /// The condition that holds for (b, a) when this one holds for (a, b).
    pub const fn swap(self) -> Cond {
        match self {
            Cond::Eq | Cond::Ne => self,
            Cond::LtU => Cond::GtU,
            Cond::GeU => Cond::LeU,
            Cond::LeU => Cond::GeU,
            Cond::GtU => Cond::LtU,
            Cond::LtS => Cond::GtS,
            Cond::GeS => Cond::LeS,
            Cond::LeS => Cond::GeS,
            Cond::GtS => Cond::LtS,
        }
    }

    /// Name in the text form.
    pub const fn name(self) -> &'static str {
        match self {
            Cond::Eq => "eq",
            Cond::Ne => "ne",
            Cond::LtU => "ltu",
            Cond::GeU => "geu",
            Cond::LeU => "leu",
            Cond::GtU => "gtu",
            Cond::LtS => "lts",
            Cond::GeS => "ges",
            Cond::LeS => "les",
            Cond::GtS => "gts",
        }
    }

    /// Evaluates the condition on the low `bits` bits of both operands.
    pub fn eval(self, bits: u32, a: u64, b: u64) -> bool {
        let shift = 64 - bits;
        let (ua, ub) = (a << shift >> shift, b << shift >> shift);
        let (sa, sb) = ((a << shift) as i64, (b << shift) as i64);
        match self {
            Cond::Eq => ua == ub,
            Cond::Ne => ua != ub,
            Cond::LtU => ua < ub,
            Cond::GeU => ua >= ub,
            Cond::LeU => ua <= ub,
            Cond::GtU => ua > ub,
            Cond::LtS => sa < sb,
            Cond::GeS => sa >= sb,
            Cond::LeS => sa <= sb,
            Cond::GtS => sa > sb,
        }
    }
}

/// Attributes of a memory access, packed in `Inst::aux`.
///
/// Guest memory accesses may fault; a fault leaves the unit with every slot as put so far and the PC of the
/// instruction at hand. Plain accesses of up to 8 bytes that are naturally aligned are single-copy atomic; x86 host
/// ordering (TSO) applies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct MemFlags(pub u8);

impl MemFlags {
    /// Big-endian access.
    pub const BIG_ENDIAN: u8 = 1 << 3;
    /// The address must be a multiple of the access size; otherwise the guest's alignment fault is raised.
    pub const ALIGNED: u8 = 1 << 4;
    /// A load that is checked as a store (first half of a read-modify-write): faults as a store does.
    pub const FOR_WRITE: u8 = 1 << 5;

    /// Little-endian access through MMU index `index` (0..=7).
    pub const fn new(index: u8) -> Self {
        MemFlags(index & 7)
    }

    /// The MMU index.
    pub const fn index(self) -> u8 {
        self.0 & 7
    }

    /// With more flag bits set.
    pub const fn with(self, bits: u8) -> Self {
        MemFlags(self.0 | bits)
    }

    /// Whether all of `bits` are set.
    pub const fn has(self, bits: u8) -> bool {
        self.0 & bits == bits
    }
}

/// Operation of an [`Op::AtomicRmw`](crate::Op::AtomicRmw), in `Inst::imm`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Rmw {
    Xchg,
    Add,
    Sub,
    And,
    Or,
    Xor,
    MinS,
    MaxS,
    MinU,
    MaxU,
}

impl Rmw {
    /// Every operation, in declaration order.
    pub const ALL: [Rmw; 10] = [
        Rmw::Xchg,
        Rmw::Add,
        Rmw::Sub,
        Rmw::And,
        Rmw::Or,
        Rmw::Xor,
        Rmw::MinS,
        Rmw::MaxS,
        Rmw::MinU,
        Rmw::MaxU,
    ];
    /// Name in the text form.
    pub const fn name(self) -> &'static str {
        match self {
            Rmw::Xchg => "xchg",
            Rmw::Add => "add",
            Rmw::Sub => "sub",
            Rmw::And => "and",
            Rmw::Or => "or",
            Rmw::Xor => "xor",
            Rmw::MinS => "mins",
            Rmw::MaxS => "maxs",
            Rmw::MinU => "minu",
            Rmw::MaxU => "maxu",
        }
    }
}

/// Rounding of a floating-point operation that names its own (`Inst::aux`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Rounding {
    /// To nearest, ties to even.
    Nearest = 0,
    /// Toward minus infinity.
    Down = 1,
    /// Toward plus infinity.
    Up = 2,
    /// Toward zero.
    Zero = 3,
    /// As the floating-point environment says.
    Current = 4,
}

/// Predicate of a floating-point comparison that yields a truth value or a lane mask (`Inst::aux`).
///
/// `Lt`, `Le`, `Gt`, `Ge` and their negations are IEEE signalling by default; add [`FloatCond::FLIP_SIGNALLING`] to
/// get the other behaviour on quiet NaNs. `Eq`, `Ne`, `Unordered`, `Ordered`, `EqUnordered`, `NeOrdered` are quiet by
/// default.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum FloatCond {
    /// a == b, ordered.
    Eq = 0,
    /// a < b, ordered.
    Lt = 1,
    /// a <= b, ordered.
    Le = 2,
    /// Either is a NaN.
    Unordered = 3,
    /// Not equal, or unordered.
    Ne = 4,
    /// Not less: a >= b or unordered.
    Nlt = 5,
    /// Not less or equal: a > b or unordered.
    Nle = 6,
    /// Neither is a NaN.
    Ordered = 7,
    /// Equal or unordered.
    EqUnordered = 8,
    /// a < b or unordered.
    Nge = 9,
    /// a <= b or unordered.
    Ngt = 10,
    /// Never.
    False = 11,
    /// Not equal, ordered.
    NeOrdered = 12,
    /// a >= b, ordered.
    Ge = 13,
    /// a > b, ordered.
    Gt = 14,
    /// Always.
    True = 15,
}

impl FloatCond {
    /// Added to the predicate's number: quiet becomes signalling and signalling becomes quiet.
    pub const FLIP_SIGNALLING: u8 = 16;
    /// Every predicate by number.
    pub const ALL: [FloatCond; 16] = [
        FloatCond::Eq,
        FloatCond::Lt,
        FloatCond::Le,
        FloatCond::Unordered,
        FloatCond::Ne,
        FloatCond::Nlt,
        FloatCond::Nle,
        FloatCond::Ordered,
        FloatCond::EqUnordered,
        FloatCond::Nge,
        FloatCond::Ngt,
        FloatCond::False,
        FloatCond::NeOrdered,
        FloatCond::Ge,
        FloatCond::Gt,
        FloatCond::True,
    ];

    /// Truth value for a relation code as [`Op::FRel`](crate::Op::FRel) defines it
    /// (0 greater, 1 less, 2 equal, 3 unordered).
    pub const fn holds(self, relation: u8) -> bool {
        let (gt, lt, eq, un) = (relation == 0, relation == 1, relation == 2, relation == 3);
        match self {
            FloatCond::Eq => eq,
            FloatCond::Lt => lt,
            FloatCond::Le => lt || eq,
            FloatCond::Unordered => un,
            FloatCond::Ne => !eq,
            FloatCond::Nlt => !lt,
            FloatCond::Nle => gt || un,
            FloatCond::Ordered => !un,
            FloatCond::EqUnordered => eq || un,
            FloatCond::Nge => lt || un,
            FloatCond::Ngt => !gt,
            FloatCond::False => false,
            FloatCond::NeOrdered => lt || gt,
            FloatCond::Ge => gt || eq,
            FloatCond::Gt => gt,
            FloatCond::True => true,
        }
    }

    /// Whether the predicate (without the flip) signals invalid on a quiet NaN.
    pub const fn signals_on_quiet_nan(self) -> bool {
        matches!(
            self,
            FloatCond::Lt
                | FloatCond::Le
                | FloatCond::Nlt
                | FloatCond::Nle
                | FloatCond::Nge
                | FloatCond::Ngt
                | FloatCond::Ge
                | FloatCond::Gt
        )
    }
}
