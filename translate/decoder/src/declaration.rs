//! A table as it was written: what each line declares, with names still unresolved.

use crate::error::Place;

/// Something declared, and where.
#[derive(Clone, Debug)]
pub(crate) struct Located<T> {
    pub(crate) place: Place,
    pub(crate) it: T,
}

/// What the lines of all files declare.
#[derive(Default, Debug)]
pub(crate) struct Declarations {
    pub(crate) features: Vec<Located<FeatureDeclaration>>,
    pub(crate) exclusive: Vec<Located<Vec<String>>>,
    pub(crate) kinds: Vec<Located<KindDeclaration>>,
    pub(crate) fields: Vec<Located<FieldDeclaration>>,
    pub(crate) formats: Vec<Located<FormatDeclaration>>,
    pub(crate) patterns: Vec<Located<PatternDeclaration>>,
    pub(crate) areas: Vec<Located<AreaDeclaration>>,
    /// How many `first` groups there are.
    pub(crate) groups: usize,
}

/// `feature zba "address generation"`.
#[derive(Clone, Debug)]
pub(crate) struct FeatureDeclaration {
    pub(crate) name: String,
    pub(crate) about: Option<String>,
}

/// `kind Xreg names zero ra` or `kind Csr custom`.
#[derive(Clone, Debug)]
pub(crate) struct KindDeclaration {
    pub(crate) name: String,
    /// None: the guest prints it.
    pub(crate) names: Option<Vec<String>>,
}

/// `field imm : target = signed 31 7 30:25 11:8 0b0`.
#[derive(Clone, Debug)]
pub(crate) struct FieldDeclaration {
    pub(crate) name: String,
    pub(crate) width: u32,
    pub(crate) kind: Option<String>,
    pub(crate) signed: bool,
    /// From the highest.
    pub(crate) slices: Vec<Slice>,
    pub(crate) steps: Vec<Step>,
    pub(crate) limits: Vec<Clause>,
}

/// Bits of a field's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Slice {
    /// Bits of the word, both inclusive.
    Bits { high: u32, low: u32 },
    /// Bits that are always the same.
    Fixed { bits: u32, value: u64 },
}

/// What happens to a field's value after its bits are put together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    ShiftLeft(u32),
    Add(i64),
    /// The number less the value.
    From(i64),
    /// The value's place in a list.
    Map(Vec<i64>),
}

/// `format r(rd, rs1, rs2) "@ {rd},{rs1},{rs2}"`.
#[derive(Clone, Debug)]
pub(crate) struct FormatDeclaration {
    pub(crate) name: String,
    pub(crate) width: u32,
    pub(crate) fields: Vec<String>,
    pub(crate) text: String,
    pub(crate) limits: Vec<Clause>,
}

/// Atoms of which one must hold.
pub(crate) type Clause = Vec<Atom>;

/// A comparison on a field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Atom {
    pub(crate) field: String,
    pub(crate) test: Test,
}

/// See [`Atom`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Test {
    In(Vec<i64>),
    NotIn(Vec<i64>),
    Same(String),
    Differs(String),
}

/// A line with a picture.
#[derive(Clone, Debug)]
pub(crate) struct PatternDeclaration {
    pub(crate) name: String,
    pub(crate) width: u32,
    /// Characters `0`, `1`, `.`, `x`, from the highest bit.
    pub(crate) picture: String,
    pub(crate) format: String,
    pub(crate) text: Option<String>,
    pub(crate) limits: Vec<Clause>,
    pub(crate) over: Vec<String>,
    pub(crate) condition: Expression,
    pub(crate) expansion: Option<ExpansionDeclaration>,
    /// The `first` group it is in, and its place there.
    pub(crate) group: Option<(usize, usize)>,
}

/// `as add(rs1=rd)`.
#[derive(Clone, Debug)]
pub(crate) struct ExpansionDeclaration {
    pub(crate) name: String,
    pub(crate) arguments: Vec<(String, Argument)>,
}

/// Where an argument of an expansion comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Argument {
    Field(String),
    Constant(i64),
}

/// A condition with names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Expression {
    Always,
    Name(String),
    Not(Box<Expression>),
    All(Vec<Expression>),
    Any(Vec<Expression>),
}

/// `cover PICTURE` and `reserved PICTURE`.
#[derive(Clone, Debug)]
pub(crate) struct AreaDeclaration {
    pub(crate) width: u32,
    pub(crate) picture: String,
    /// Every word of it must be an instruction's or reserved; otherwise none may be an instruction's.
    pub(crate) covered: bool,
}
