//! The operations of the IR and what each means. This table is the contract between front ends, the interpreter
//! (which is its oracle) and the back ends.
//!
//! Notation: `a`, `b`, `c` are operands, `imm` the 64-bit immediate, `aux` the 8-bit attribute, `ty` the result type
//! (for stores and puts: the stored type), `lane` the lane type. "Per 128" means the operation works on each 128-bit
//! half of a V256 on its own. Shift and rotate counts of scalar operations are taken modulo the type's width and have
//! the same type as `a` or I8. Floating-point operations round, flush and set sticky flags as the vCPU's
//! floating-point environment says, raise nothing, and follow its NaN rule (x86: the first operand that is a NaN,
//! quieted; the default NaN for invalid operations).

macro_rules! ops {
    ($( $(#[doc = $doc:expr])* $name:ident = $text:literal, $kind:ident; )*) => {
        /// An operation. See the module documentation for notation.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum Op { $( $(#[doc = $doc])* $name, )* }

        impl Op {
            /// Every operation, in declaration order.
            pub const ALL: &'static [Op] = &[ $( Op::$name, )* ];
            /// Name in the text form.
            pub const fn name(self) -> &'static str { match self { $( Op::$name => $text, )* } }
            /// Operand shape.
            pub const fn shape(self) -> Shape { match self { $( Op::$name => Shape::$kind, )* } }
        }
    };
}

/// Which operands an operation takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// No operands, only `imm`.
    Imm,
    /// `a`.
    A,
    /// `a` and `imm`.
    AImm,
    /// `a`, `b`.
    AB,
    /// `a`, `b` and `imm`.
    ABImm,
    /// `a`, optional `b`, `aux` and `imm` (effective address).
    Lea,
    /// `a`, `b`, `c`.
    ABC,
    /// Memory: `a` address.
    MemLoad,
    /// Memory: `a` address, `b` value.
    MemStore,
    /// Memory: `a` address, `b` operand, `c` new value where used.
    MemAtomic,
    /// Helper call: arguments in the unit's argument pool.
    Call,
    /// Control: `a` condition, `imm` exit number.
    CondExit,
    /// Control: `imm` exit number; ends the unit.
    Exit,
}

ops! {
    // ---- structure ----
    /// Marks the start of a guest instruction: `imm` its PC, `aux` its length in bytes. Ops that follow belong to it;
    /// a fault reports this PC.
    InsnStart = "insn", Imm;
    /// The integer `imm`, or for V128/V256 `imm` repeated in every 64-bit lane.
    Const = "const", Imm;
    /// The guest state at byte offset `imm`.
    GetSlot = "get", Imm;
    /// Guest state at byte offset `imm` becomes `a`.
    PutSlot = "put", AImm;
    /// The guest state at byte offset `low32(imm) + a` (a: I64, a multiple of the type's size); `a` stays below
    /// `high32(imm)`, the size of the array.
    GetIndexed = "get_indexed", AImm;
    /// Guest state at byte offset `low32(imm) + a` becomes `b`; as `GetIndexed`.
    PutIndexed = "put_indexed", ABImm;

    // ---- integers ----
    /// a + b.
    Add = "add", AB;
    /// a - b.
    Sub = "sub", AB;
    /// Low half of a * b.
    Mul = "mul", AB;
    /// High half of the unsigned product (I8..I64).
    MulHiU = "mulhi_u", AB;
    /// High half of the signed product.
    MulHiS = "mulhi_s", AB;
    /// Bitwise and.
    And = "and", AB;
    /// Bitwise or.
    Or = "or", AB;
    /// Bitwise exclusive or.
    Xor = "xor", AB;
    /// a & !b.
    AndNot = "andnot", AB;
    /// a << b.
    Shl = "shl", AB;
    /// a >> b, zeros shifted in.
    Shr = "shr", AB;
    /// a >> b, sign shifted in.
    Sar = "sar", AB;
    /// Rotate left.
    Rotl = "rotl", AB;
    /// Rotate right.
    Rotr = "rotr", AB;
    /// -a.
    Neg = "neg", A;
    /// !a.
    Not = "not", A;
    /// Bytes reversed (I16, I32, I64).
    Bswap = "bswap", A;
    /// Leading zeros; the type's width for zero.
    Clz = "clz", A;
    /// Trailing zeros; the type's width for zero.
    Ctz = "ctz", A;
    /// Number of one bits.
    Popcnt = "popcnt", A;
    /// (a:b) / c unsigned, double-width dividend with high half `a`, low half `b` (I32, I64). Undefined value
    /// (but no trap) unless a < c: front ends exit first.
    DivWideU = "div_wide_u", ABC;
    /// Remainder of `DivWideU`.
    RemWideU = "rem_wide_u", ABC;
    /// (a:b) / c signed, truncated. Undefined value (but no trap) when c = 0 or the quotient does not fit.
    DivWideS = "div_wide_s", ABC;
    /// Remainder of `DivWideS`, sign of the dividend.
    RemWideS = "rem_wide_s", ABC;
    /// Parallel bit deposit of a under mask b (I32, I64).
    Pdep = "pdep", AB;
    /// Parallel bit extract of a under mask b (I32, I64).
    Pext = "pext", AB;
    /// CRC-32C of `b` (its own type I8..I64) accumulated on a (I32), result I32.
    Crc32c = "crc32c", AB;
    /// Zero extension of `a` (narrower integer type).
    Zext = "zext", A;
    /// Sign extension of `a` (narrower integer type).
    Sext = "sext", A;
    /// Low bits of `a` (wider integer type).
    Trunc = "trunc", A;
    /// a + (b << aux) + imm; `b` may be absent; aux 0..=3; I32 or I64.
    Lea = "lea", Lea;
    /// `a` with bits pos..pos+len replaced by the low bits of `b` (same type as `a`); pos = imm & 0xff,
    /// len = imm >> 8.
    Deposit = "deposit", ABImm;
    /// Bits pos..pos+len of `a`, zero-extended; pos = imm & 0xff, len = imm >> 8.
    Extract = "extract", AImm;
    /// 1 if `a` cond `b` else 0 (I8); aux is a [`Cond`](crate::Cond); the width compared is the type of `a`.
    Icmp = "icmp", AB;
    /// `b` if `a` (I8, 0 or 1) is 1, else `c`. Any type but F80.
    Select = "select", ABC;

    // ---- memory ----
    /// Loads from guest address `a` (I64); aux is [`MemFlags`](crate::MemFlags). I8..I64, F32, F64, V128, V256.
    Load = "load", MemLoad;
    /// Stores `b` at guest address `a`.
    Store = "store", MemStore;
    /// Atomically replaces memory at `a` by `old OP b`, OP = imm as [`Rmw`](crate::Rmw); result is the old value.
    AtomicRmw = "atomic_rmw", MemAtomic;
    /// Atomically compares memory at `a` with `b` and stores `c` if equal; result is the old value. I8..I64.
    AtomicCas = "atomic_cas", MemAtomic;
    /// Full memory fence.
    Fence = "fence", Imm;

    // ---- calls and exits ----
    /// Calls helper number `imm` with `aux` arguments from the argument pool at index `a.0`; result `ty`.
    Call = "call", Call;
    /// Leaves through exit `imm` if `a` (I8) is 1.
    ExitIf = "exit_if", CondExit;
    /// Leaves through exit `imm`; the last operation of every unit.
    Exit = "exit", Exit;

    // ---- vectors: bitwise and integer lanes ----
    /// a & b.
    VAnd = "vand", AB;
    /// a | b.
    VOr = "vor", AB;
    /// a ^ b.
    VXor = "vxor", AB;
    /// a & !b.
    VAndNot = "vandnot", AB;
    /// Lane-wise a + b.
    VAdd = "vadd", AB;
    /// Lane-wise a - b.
    VSub = "vsub", AB;
    /// Signed saturating add (I8, I16).
    VAddSatS = "vadd_sat_s", AB;
    /// Unsigned saturating add (I8, I16).
    VAddSatU = "vadd_sat_u", AB;
    /// Signed saturating subtract (I8, I16).
    VSubSatS = "vsub_sat_s", AB;
    /// Unsigned saturating subtract (I8, I16).
    VSubSatU = "vsub_sat_u", AB;
    /// Low half of the lane product (I16, I32).
    VMul = "vmul", AB;
    /// High half of the signed product (I16).
    VMulHiS = "vmulhi_s", AB;
    /// High half of the unsigned product (I16).
    VMulHiU = "vmulhi_u", AB;
    /// (a * b + 0x4000) >> 15 (I16).
    VMulHiRoundS = "vmulhi_round_s", AB;
    /// Unsigned 32x32→64 product of the even 32-bit lanes.
    VMulEvenU = "vmul_even_u", AB;
    /// Signed 32x32→64 product of the even 32-bit lanes.
    VMulEvenS = "vmul_even_s", AB;
    /// Signed 16-bit products, adjacent pairs added to 32-bit lanes.
    VMulAddPairs = "vmul_add_pairs", AB;
    /// Unsigned bytes of `a` times signed bytes of `b`, adjacent pairs added with signed saturation to 16-bit lanes.
    VMulAddPairsUS = "vmul_add_pairs_us", AB;
    /// Sums of absolute differences of unsigned bytes, one 16-bit sum in each 64-bit lane.
    VSad = "vsad", AB;
    /// (a + b + 1) >> 1 unsigned (I8, I16).
    VAvgU = "vavg_u", AB;
    /// Signed minimum (I8, I16, I32).
    VMinS = "vmin_s", AB;
    /// Unsigned minimum.
    VMinU = "vmin_u", AB;
    /// Signed maximum.
    VMaxS = "vmax_s", AB;
    /// Unsigned maximum.
    VMaxU = "vmax_u", AB;
    /// Absolute value (I8, I16, I32); the most negative value stays.
    VAbs = "vabs", A;
    /// a negated, zeroed or kept as b is negative, zero or positive (I8, I16, I32).
    VSign = "vsign", AB;
    /// Horizontal add of adjacent lanes: results of `a` low, of `b` high (I16, I32), per 128.
    VHAdd = "vhadd", AB;
    /// Horizontal subtract (even minus odd lane), per 128.
    VHSub = "vhsub", AB;
    /// Horizontal add with signed saturation (I16), per 128.
    VHAddSat = "vhadd_sat", AB;
    /// Horizontal subtract with signed saturation (I16), per 128.
    VHSubSat = "vhsub_sat", AB;
    /// All ones where equal.
    VCmpEq = "vcmp_eq", AB;
    /// All ones where a > b signed.
    VCmpGtS = "vcmp_gt_s", AB;
    /// Lanes shifted left by `imm`; zero when imm >= lane bits (I16, I32, I64).
    VShlImm = "vshl_imm", AImm;
    /// Lanes shifted right by `imm`, zeros in.
    VShrImm = "vshr_imm", AImm;
    /// Lanes shifted right by `imm`, sign in (I16, I32); sign fill when imm >= lane bits.
    VSarImm = "vsar_imm", AImm;
    /// All lanes of `a` shifted left by the low 64 bits of `b` (V128).
    VShl = "vshl", AB;
    /// As `VShl`, right, zeros in.
    VShr = "vshr", AB;
    /// As `VShl`, right, sign in (I16, I32).
    VSar = "vsar", AB;
    /// Each lane of `a` shifted left by the same lane of `b` (I32, I64).
    VShlVar = "vshl_var", AB;
    /// Each lane shifted right by its own count, zeros in (I32, I64).
    VShrVar = "vshr_var", AB;
    /// Each lane shifted right by its own count, sign in (I32).
    VSarVar = "vsar_var", AB;
    /// Whole 128-bit value shifted left by `imm` bytes, per 128.
    VShlBytes = "vshl_bytes", AImm;
    /// Whole 128-bit value shifted right by `imm` bytes, per 128.
    VShrBytes = "vshr_bytes", AImm;
    /// Low 128 bits of ((a << 128 | b) >> 8*imm), per 128.
    VAlign = "valign", ABImm;
    /// Interleaves the low halves of a and b, a first, per 128.
    VUnpackLo = "vunpack_lo", AB;
    /// Interleaves the high halves, per 128.
    VUnpackHi = "vunpack_hi", AB;
    /// Signed lanes (I16, I32: source lane) narrowed with signed saturation, a low, b high, per 128.
    VPackSS = "vpack_ss", AB;
    /// Signed lanes narrowed with unsigned saturation, per 128.
    VPackUS = "vpack_us", AB;
    /// Bytes of `a` selected by the low 4 bits of each byte of `b`; zero where bit 7 is set; per 128.
    VShuffleBytes = "vshuffle_bytes", AB;
    /// 32-bit lanes of `a` selected by 2-bit fields of `imm`, per 128.
    VShuffle32 = "vshuffle32", AImm;
    /// Low four 16-bit lanes selected by `imm`, high half kept, per 128.
    VShuffleLo16 = "vshuffle_lo16", AImm;
    /// High four 16-bit lanes selected by `imm`, low half kept, per 128.
    VShuffleHi16 = "vshuffle_hi16", AImm;
    /// Lane I32: two lanes of `a`, then two of `b`, by 2-bit fields of imm (SHUFPS). Lane I64: one of each by single
    /// bits (for V256 bits 2 and 3 serve the upper half; SHUFPD). Per 128.
    VShuffle2 = "vshuffle2", ABImm;
    /// 64-bit lanes of a V256 selected by 2-bit fields of `imm`, across halves.
    VPermute64 = "vpermute64", AImm;
    /// 32-bit lanes of V256 `a` selected by the low 3 bits of the lanes of `b`, across halves.
    VPermute32 = "vpermute32", AB;
    /// Halves of two V256 selected by `imm` (VPERM2I128: bits 0-1, 3 and 4-5, 7).
    VPermuteHalves = "vpermute_halves", ABImm;
    /// Lane I32: lanes of `a` by the low 2 bits of each lane of `b` (VPERMILPS); lane I64: by bit 1 (VPERMILPD);
    /// per 128.
    VPermuteIn = "vpermute_in", AB;
    /// Lane of `b` where the bit of `imm` is set, else of `a` (I16 per 128 with the same 8 bits, I32, I64).
    VBlendImm = "vblend_imm", ABImm;
    /// Lane of `b` where the top bit of the lane of `c` is set, else of `a` (I8, I32, I64).
    VBlendVar = "vblend_var", ABC;
    /// Lane 0 of vector `a` (any vector width) in every lane.
    VSplat = "vsplat", A;
    /// Lane `imm` of `a` as an integer of the lane's width (`ty`).
    VExtract = "vextract", AImm;
    /// `a` with lane `imm` replaced by integer `b`.
    VInsert = "vinsert", ABImm;
    /// Integer `a` (I32 or I64) zero-extended to a vector.
    VFromInt = "vfrom_int", A;
    /// Low part of V256 `a` as V128, or V128 `a` zero-extended to V256, or F32/F64 to and from V128 (zero-extended).
    VResize = "vresize", A;
    /// Half `imm` (0, 1) of V256 `a` as V128.
    VExtractHalf = "vextract_half", AImm;
    /// V256 `a` with half `imm` replaced by V128 `b`.
    VInsertHalf = "vinsert_half", ABImm;
    /// Top bits of the lanes (I8, I32, I64) as an integer I32, lane 0 in bit 0.
    VMoveMask = "vmove_mask", A;
    /// Low lanes of `a` (type `lane`) sign-extended to lanes of `aux` bytes.
    VExtendS = "vextend_s", A;
    /// Low lanes of `a` zero-extended to lanes of `aux` bytes.
    VExtendU = "vextend_u", A;
    /// I8: 1 if (a & b) = 0. Lane I32/I64: only the lanes' top bits count; lane None: all bits. The vector width is
    /// `a`'s type.
    VTestZero = "vtest_zero", AB;
    /// I8: 1 if (b & !a) = 0; lanes as `VTestZero`.
    VTestCarry = "vtest_carry", AB;
    /// Minimum unsigned 16-bit lane in bits 0..=15, its index in 16..=18, rest zero (V128).
    VMinPos = "vmin_pos", A;
    /// Multiple sums of absolute differences (MPSADBW): offsets from `imm`, per 128 (imm bits 3..=5 for the upper).
    VMultiSad = "vmulti_sad", ABImm;

    // ---- floating point: lanes F32, F64, S32, S64; or scalars with type F32, F64 ----
    /// a + b.
    FAdd = "fadd", AB;
    /// a - b.
    FSub = "fsub", AB;
    /// a * b.
    FMul = "fmul", AB;
    /// a / b.
    FDiv = "fdiv", AB;
    /// b when either is a NaN or both are zeros, else the smaller (invalid flag for any NaN): x86 MIN.
    FMin = "fmin", AB;
    /// As `FMin`, the larger: x86 MAX.
    FMax = "fmax", AB;
    /// Square root of `b`; `a` only gives the untouched lanes of S32/S64 (pass the same value otherwise).
    FSqrt = "fsqrt", AB;
    /// Lane mask of comparison aux ([`FloatCond`](crate::FloatCond), +16 flips signalling).
    FCmp = "fcmp", AB;
    /// Relation of lane 0 (S32/S64) or scalars as I32: 0 greater, 1 less, 2 equal, 3 unordered. aux 0: quiet (only
    /// signalling NaNs set invalid), 1: signalling.
    FRel = "frel", AB;
    /// I8: truth of FloatCond `aux & 15` on lane 0; aux bit 4: signalling on quiet NaNs, clear: quiet (this overrides
    /// the predicate's own default).
    FTest = "ftest", AB;
    /// a * b + c, one rounding. aux bit 0: negate the product; bit 1: negate c; bit 2: alternate, even lanes subtract
    /// c and odd lanes add (FMADDSUB), together with bit 1: even add, odd subtract (FMSUBADD). Untouched lanes of
    /// S32/S64 come from `a`.
    FMulAdd = "fmul_add", ABC;
    /// Even lanes a - b, odd lanes a + b (ADDSUBPS/PD).
    FAddSub = "fadd_sub", AB;
    /// Horizontal add, per 128: HADDPS/PD.
    FHAdd = "fhadd", AB;
    /// Horizontal subtract, per 128.
    FHSub = "fhsub", AB;
    /// Dot product DPPS/DPPD with `imm`, per 128.
    FDot = "fdot", ABImm;
    /// `b` rounded to integral with [`Rounding`](crate::Rounding) aux & 7; aux bit 3: do not set inexact. Untouched
    /// lanes of S32/S64 from `a`.
    FRound = "fround", AB;
    /// Lane 0 (S32/S64) or scalar `a` to signed integer I32/I64; aux [`Rounding`](crate::Rounding) (Zero or Current).
    /// Out of range or NaN: the most negative integer (x86 integer indefinite), invalid set.
    FToInt = "fto_int", A;
    /// Lane 0 of `a` replaced by signed integer `b` (I32/I64) converted (S32/S64).
    FFromInt = "ffrom_int", AB;
    /// Lane 0 of `b` converted between binary32 and binary64, put in lane 0 of `a`; `lane` is the destination S32 or
    /// S64, the source is the other.
    FConvert = "fconvert", AB;
    /// Packed conversions; aux is a [`Convert`](crate::Convert). `a` is the source.
    VConvert = "vconvert", A;

    // ---- cryptography, per 128 ----
    /// One AES encryption round of `a` with round key `b` (AESENC).
    AesEnc = "aes_enc", AB;
    /// Last AES encryption round.
    AesEncLast = "aes_enc_last", AB;
    /// One AES decryption round (AESDEC, equivalent inverse cipher).
    AesDec = "aes_dec", AB;
    /// Last AES decryption round.
    AesDecLast = "aes_dec_last", AB;
    /// Inverse mix columns.
    AesImc = "aes_imc", A;
    /// AESKEYGENASSIST with `imm`.
    AesKeygen = "aes_keygen", AImm;
    /// Carry-less product of the 64-bit halves chosen by imm bits 0 (of a) and 4 (of b).
    Clmul = "clmul", ABImm;
    /// SHA1RNDS4 a, b, imm (a: state ABCD, b: message plus E).
    Sha1Rounds = "sha1_rounds", ABImm;
    /// SHA1NEXTE a, b.
    Sha1NextE = "sha1_next_e", AB;
    /// SHA1MSG1 a, b.
    Sha1Msg1 = "sha1_msg1", AB;
    /// SHA1MSG2 a, b.
    Sha1Msg2 = "sha1_msg2", AB;
    /// SHA256RNDS2 a, b with c as XMM0.
    Sha256Rounds = "sha256_rounds", ABC;
    /// SHA256MSG1 a, b.
    Sha256Msg1 = "sha256_msg1", AB;
    /// SHA256MSG2 a, b.
    Sha256Msg2 = "sha256_msg2", AB;

    // ---- x87 double extended (F80), under the x87 environment (precision and rounding control) ----
    /// From significand `a` (I64) and sign-exponent `b` (I16), bit for bit.
    XFromParts = "xfrom_parts", AB;
    /// Significand of `a` (I64), bit for bit.
    XSignificand = "xsignificand", A;
    /// Sign and exponent of `a` (I16), bit for bit.
    XSignExponent = "xsign_exponent", A;
    /// Binary32 bits `a` (I32) widened (sets denormal/invalid as FLD m32 does).
    XFromF32 = "xfrom_f32", A;
    /// Binary64 bits `a` (I64) widened (as FLD m64).
    XFromF64 = "xfrom_f64", A;
    /// Signed integer `a` (I64), exact.
    XFromInt = "xfrom_int", A;
    /// Rounded to binary32 bits (I32).
    XToF32 = "xto_f32", A;
    /// Rounded to binary64 bits (I64).
    XToF64 = "xto_f64", A;
    /// To signed integer of type I16, I32 or I64; aux [`Rounding`](crate::Rounding) (Zero or Current); out of range
    /// gives the most negative integer and invalid.
    XToInt = "xto_int", A;
    /// a + b.
    XAdd = "xadd", AB;
    /// a - b.
    XSub = "xsub", AB;
    /// a * b.
    XMul = "xmul", AB;
    /// a / b.
    XDiv = "xdiv", AB;
    /// Square root.
    XSqrt = "xsqrt", A;
    /// Sign cleared; no flags.
    XAbs = "xabs", A;
    /// Sign inverted; no flags.
    XNeg = "xneg", A;
    /// Rounded to integral by the current rounding (FRNDINT).
    XRound = "xround", A;
    /// a * 2^trunc(b) (FSCALE).
    XScale = "xscale", AB;
    /// Relation as `FRel` (I32); aux 0 quiet (FUCOM), 1 signalling (FCOM).
    XRel = "xrel", AB;
}

impl Op {
    /// May leave the unit at this point (fault or exit): everything put before it must be visible.
    pub const fn may_exit(self) -> bool {
        matches!(self, Op::Load | Op::Store | Op::AtomicRmw | Op::AtomicCas | Op::ExitIf | Op::Exit)
    }

    /// Has an effect besides its result, so it must not be removed when the result is unused. (Calls depend on the
    /// helper; floating-point operations set sticky flags and count as having an effect.)
    pub const fn has_effect(self) -> bool {
        matches!(
            self,
            Op::InsnStart
                | Op::PutSlot
                | Op::PutIndexed
                | Op::Load
                | Op::Store
                | Op::AtomicRmw
                | Op::AtomicCas
                | Op::Fence
                | Op::Call
                | Op::ExitIf
                | Op::Exit
        ) || self.sets_float_flags()
    }

    /// May set sticky floating-point flags.
    pub const fn sets_float_flags(self) -> bool {
        let n = self as u8;
        (n >= Op::FAdd as u8 && n <= Op::VConvert as u8)
            || (n >= Op::XFromF32 as u8 && n <= Op::XFromF64 as u8)
            || (n >= Op::XToF32 as u8 && n <= Op::XSqrt as u8)
            || (n >= Op::XRound as u8 && n <= Op::XRel as u8)
    }
}

/// Packed conversions of [`Op::VConvert`], in `Inst::aux`. Sources and results fill the type from lane 0; where the
/// result is narrower than the source, the rest of a V128 result is zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Convert {
    /// Signed 32-bit lanes to binary32, same width.
    I32ToF32,
    /// Binary32 lanes to signed 32-bit, current rounding.
    F32ToI32,
    /// Binary32 lanes to signed 32-bit, truncated.
    F32ToI32Trunc,
    /// Low signed 32-bit lanes to binary64 (result type gives the count: 2 or 4).
    I32ToF64,
    /// Binary64 lanes (source type gives the count) to signed 32-bit in a V128, current rounding.
    F64ToI32,
    /// Binary64 lanes to signed 32-bit in a V128, truncated.
    F64ToI32Trunc,
    /// Low binary32 lanes to binary64.
    F32ToF64,
    /// Binary64 lanes to binary32 in a V128.
    F64ToF32,
    /// Low binary16 lanes to binary32.
    F16ToF32,
    /// Binary32 lanes to binary16 in a V128; rounding in `imm` ([`Rounding`](crate::Rounding)).
    F32ToF16,
}

impl Convert {
    /// Every conversion, in declaration order.
    pub const ALL: [Convert; 10] = [
        Convert::I32ToF32,
        Convert::F32ToI32,
        Convert::F32ToI32Trunc,
        Convert::I32ToF64,
        Convert::F64ToI32,
        Convert::F64ToI32Trunc,
        Convert::F32ToF64,
        Convert::F64ToF32,
        Convert::F16ToF32,
        Convert::F32ToF16,
    ];

    /// Name in the text form.
    pub const fn name(self) -> &'static str {
        match self {
            Convert::I32ToF32 => "i32_f32",
            Convert::F32ToI32 => "f32_i32",
            Convert::F32ToI32Trunc => "f32_i32_trunc",
            Convert::I32ToF64 => "i32_f64",
            Convert::F64ToI32 => "f64_i32",
            Convert::F64ToI32Trunc => "f64_i32_trunc",
            Convert::F32ToF64 => "f32_f64",
            Convert::F64ToF32 => "f64_f32",
            Convert::F16ToF32 => "f16_f32",
            Convert::F32ToF16 => "f32_f16",
        }
    }
}
