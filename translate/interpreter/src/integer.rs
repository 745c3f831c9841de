//! Scalar integer operations.

use rhea_ir::{Cond, Inst, Op, Rmw, Val};

use crate::value::{mask, signed};

/// Evaluates an operation from [`Op::Add`] to [`Op::Icmp`] on its operands; `width` gives the bits of an operand's
/// type.
#[inline]
pub(crate) fn evaluate(inst: &Inst, [a, b, c]: [u64; 3], width: impl Fn(Val) -> u32) -> u64 {
    let bits = inst.ty.bits();
    let result = match inst.op {
        Op::Add => a.wrapping_add(b),
        Op::Sub => a.wrapping_sub(b),
        Op::Mul => a.wrapping_mul(b),
        Op::MulHiU => ((u128::from(a) * u128::from(b)) >> bits) as u64,
        Op::MulHiS => ((i128::from(signed(a, bits)) * i128::from(signed(b, bits))) >> bits) as u64,
        Op::And => a & b,
        Op::Or => a | b,
        Op::Xor => a ^ b,
        Op::AndNot => a & !b,
        Op::Shl | Op::Shr | Op::Sar | Op::Rotl | Op::Rotr => shift(inst.op, bits, a, b),
        Op::Neg => a.wrapping_neg(),
        Op::Not => !a,
        Op::Bswap => a.swap_bytes() >> (64 - bits),
        Op::Clz => u64::from(a.leading_zeros() - (64 - bits)),
        Op::Ctz => u64::from(a.trailing_zeros().min(bits)),
        Op::Popcnt => u64::from(a.count_ones()),
        Op::DivWideU | Op::RemWideU | Op::DivWideS | Op::RemWideS => divide(inst.op, bits, a, b, c),
        Op::Pdep => deposit_bits(a, b),
        Op::Pext => extract_bits(a, b),
        Op::Crc32c => u64::from(crc32c(a as u32, b, width(inst.b))),
        Op::Zext | Op::Trunc => a,
        Op::Sext => signed(a, width(inst.a)) as u64,
        Op::Lea => a.wrapping_add(b << inst.aux).wrapping_add(inst.imm),
        Op::Deposit => {
            let (position, field) = bit_field(inst.imm);
            (a & !(field << position)) | (b & field) << position
        }
        Op::Extract => {
            let (position, field) = bit_field(inst.imm);
            a >> position & field
        }
        Op::Icmp => u64::from(Cond::ALL[usize::from(inst.aux)].eval(width(inst.a), a, b)),
        op => unreachable!("{op:?} is not an integer operation"),
    };
    result & mask(bits)
}

/// Position and unshifted mask of a bit field.
fn bit_field(imm: u64) -> (u32, u64) {
    ((imm & 0x3f) as u32, mask((imm >> 8) as u32))
}

fn shift(op: Op, bits: u32, a: u64, count: u64) -> u64 {
    let count = (count & u64::from(bits - 1)) as u32;
    let other = (bits - count) % bits;
    match op {
        Op::Shl => a << count,
        Op::Shr => a >> count,
        Op::Sar => (signed(a, bits) >> count) as u64,
        Op::Rotl => a << count | a >> other,
        _ => a >> count | a << other,
    }
}

/// Double-width division. Where the value is undefined, a zero divisor gives 0 and a quotient that does not fit is
/// cut.
fn divide(op: Op, bits: u32, high: u64, low: u64, divisor: u64) -> u64 {
    let dividend = u128::from(high) << bits | u128::from(low);
    if divisor == 0 {
        return 0;
    }
    if matches!(op, Op::DivWideU | Op::RemWideU) {
        let divisor = u128::from(divisor);
        return if op == Op::DivWideU { dividend / divisor } else { dividend % divisor } as u64;
    }
    let unused = 128 - 2 * bits;
    let dividend = (dividend << unused) as i128 >> unused;
    let divisor = i128::from(signed(divisor, bits));
    if op == Op::DivWideS {
        dividend.wrapping_div(divisor) as u64
    } else {
        dividend.wrapping_rem(divisor) as u64
    }
}

fn deposit_bits(source: u64, select: u64) -> u64 {
    let (mut result, mut left, mut source) = (0, select, source);
    while left != 0 {
        let lowest = left & left.wrapping_neg();
        if source & 1 != 0 {
            result |= lowest;
        }
        source >>= 1;
        left ^= lowest;
    }
    result
}

fn extract_bits(source: u64, select: u64) -> u64 {
    let (mut result, mut left, mut position) = (0, select, 0);
    while left != 0 {
        let lowest = left & left.wrapping_neg();
        if source & lowest != 0 {
            result |= 1 << position;
        }
        position += 1;
        left ^= lowest;
    }
    result
}

/// CRC-32C (RFC 3720, appendix B.4) of the low `bits` bits of `data`, without inversions.
fn crc32c(crc: u32, data: u64, bits: u32) -> u32 {
    const POLYNOMIAL_REFLECTED: u32 = 0x82f6_3b78;
    let mut crc = crc;
    for byte in &data.to_le_bytes()[..bits as usize / 8] {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 != 0 { crc >> 1 ^ POLYNOMIAL_REFLECTED } else { crc >> 1 };
        }
    }
    crc
}

/// What an atomic read-modify-write of `bits` bits leaves in memory.
pub(crate) fn read_modify_write(op: Rmw, bits: u32, old: u64, operand: u64) -> u64 {
    let (a, b) = (signed(old, bits), signed(operand, bits));
    let result = match op {
        Rmw::Xchg => operand,
        Rmw::Add => old.wrapping_add(operand),
        Rmw::Sub => old.wrapping_sub(operand),
        Rmw::And => old & operand,
        Rmw::Or => old | operand,
        Rmw::Xor => old ^ operand,
        Rmw::MinS => a.min(b) as u64,
        Rmw::MaxS => a.max(b) as u64,
        Rmw::MinU => old.min(operand),
        Rmw::MaxU => old.max(operand),
    };
    result & mask(bits)
}
