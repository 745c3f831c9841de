//! AES rounds (FIPS 197), carry-less multiplication, SHA-1 and SHA-256 steps (FIPS 180-4), as the x86 instructions
//! divide them (Intel SDM vol. 2). Plain and table-driven: an oracle, not for secrets against timing.

use rhea_ir::{Inst, Op};

use crate::value::{Operands, Value};

/// Evaluates an operation from [`Op::AesEnc`] to [`Op::Sha256Msg2`].
pub(crate) fn evaluate(inst: &Inst, x: &Operands) -> Value {
    Value::from_halves(inst.ty, |h| {
        let (a, b, c) = (x.a.half(h), x.b.half(h), x.c.half(h));
        match inst.op {
            Op::AesEnc => mix_columns(substitute(shift_rows(a), &SBOX), &MIX) ^ b,
            Op::AesEncLast => substitute(shift_rows(a), &SBOX) ^ b,
            Op::AesDec => mix_columns(substitute(shift_rows_back(a), &SBOX_INVERSE), &MIX_INVERSE) ^ b,
            Op::AesDecLast => substitute(shift_rows_back(a), &SBOX_INVERSE) ^ b,
            Op::AesImc => mix_columns(a, &MIX_INVERSE),
            Op::AesKeygen => key_generation(a, inst.imm as u32 & 0xff),
            Op::Clmul => {
                let half = |value: u128, bit: u32| (value >> (64 * (inst.imm >> bit & 1))) as u64;
                carry_less_product(half(a, 0), half(b, 4))
            }
            Op::Sha1Rounds => sha1_rounds(a, b, inst.imm & 3),
            Op::Sha1NextE => {
                let [b0, b1, b2, b3] = split(b);
                join([b0, b1, b2, b3.wrapping_add(split(a)[3].rotate_left(30))])
            }
            Op::Sha1Msg1 => {
                let ([a0, a1, a2, a3], [_, _, b2, b3]) = (split(a), split(b));
                join([a0 ^ b2, a1 ^ b3, a2 ^ a0, a3 ^ a1])
            }
            Op::Sha1Msg2 => sha1_message_2(a, b),
            Op::Sha256Rounds => sha256_rounds(a, b, c),
            Op::Sha256Msg1 => {
                let ([a0, a1, a2, a3], [b0, ..]) = (split(a), split(b));
                let step = |w: u32, next| w.wrapping_add(small_sigma_0(next));
                join([step(a0, a1), step(a1, a2), step(a2, a3), step(a3, b0)])
            }
            Op::Sha256Msg2 => {
                let ([a0, a1, a2, a3], [_, _, b2, b3]) = (split(a), split(b));
                let w16 = a0.wrapping_add(small_sigma_1(b2));
                let w17 = a1.wrapping_add(small_sigma_1(b3));
                join([w16, w17, a2.wrapping_add(small_sigma_1(w16)), a3.wrapping_add(small_sigma_1(w17))])
            }
            op => unreachable!("{op:?} is not a cryptographic operation"),
        }
    })
}

/// The four 32-bit lanes, lowest first.
fn split(value: u128) -> [u32; 4] {
    [0, 32, 64, 96].map(|shift| (value >> shift) as u32)
}

fn join(lanes: [u32; 4]) -> u128 {
    lanes.iter().rev().fold(0, |value, &lane| value << 32 | u128::from(lane))
}

/// Product in GF(2^8) modulo x^8 + x^4 + x^3 + x + 1.
const fn field_product(a: u8, b: u8) -> u8 {
    let (mut a, mut b, mut product) = (a, b, 0);
    while b != 0 {
        if b & 1 != 0 {
            product ^= a;
        }
        a = a << 1 ^ if a & 0x80 != 0 { 0x1b } else { 0 };
        b >>= 1;
    }
    product
}

/// The substitution box (FIPS 197, 5.1.1): the inverse in the field, then an affine transformation.
const SBOX: [u8; 256] = {
    let mut table = [0; 256];
    let mut value = 0;
    while value < 256 {
        // a^254 is the inverse, and 0 for 0.
        let (mut power, mut inverse, mut exponent) = (value as u8, 1, 254);
        while exponent != 0 {
            if exponent & 1 != 0 {
                inverse = field_product(inverse, power);
            }
            power = field_product(power, power);
            exponent >>= 1;
        }
        let spread = inverse ^ inverse.rotate_left(1) ^ inverse.rotate_left(2);
        table[value] = spread ^ inverse.rotate_left(3) ^ inverse.rotate_left(4) ^ 0x63;
        value += 1;
    }
    table
};

const SBOX_INVERSE: [u8; 256] = {
    let mut table = [0; 256];
    let mut value = 0;
    while value < 256 {
        table[SBOX[value] as usize] = value as u8;
        value += 1;
    }
    table
};

/// First rows of the matrices of MixColumns and its inverse (FIPS 197, 5.1.3 and 5.3.3).
const MIX: [u8; 4] = [2, 3, 1, 1];
const MIX_INVERSE: [u8; 4] = [14, 11, 13, 9];

fn substitute(state: u128, table: &[u8; 256]) -> u128 {
    u128::from_le_bytes(state.to_le_bytes().map(|byte| table[usize::from(byte)]))
}

/// Row `r` of the state, bytes `r`, `r + 4`, …, moves left by `r` columns.
fn shift_rows(state: u128) -> u128 {
    let bytes = state.to_le_bytes();
    u128::from_le_bytes(std::array::from_fn(|i| bytes[(i + 4 * (i % 4)) % 16]))
}

fn shift_rows_back(state: u128) -> u128 {
    let bytes = state.to_le_bytes();
    u128::from_le_bytes(std::array::from_fn(|i| bytes[(i + 12 * (i % 4)) % 16]))
}

fn mix_columns(state: u128, matrix: &[u8; 4]) -> u128 {
    let bytes = state.to_le_bytes();
    u128::from_le_bytes(std::array::from_fn(|i| {
        let (column, row) = (i & !3, i & 3);
        (0..4).fold(0, |sum, j| sum ^ field_product(bytes[column + (row + j) % 4], matrix[j]))
    }))
}

fn key_generation(key: u128, round_constant: u32) -> u128 {
    let [_, x1, _, x3] = split(substitute(key, &SBOX));
    join([x1, x1.rotate_right(8) ^ round_constant, x3, x3.rotate_right(8) ^ round_constant])
}

fn carry_less_product(a: u64, b: u64) -> u128 {
    (0..64).filter(|bit| b >> bit & 1 != 0).fold(0, |product, bit| product ^ u128::from(a) << bit)
}

fn choose(x: u32, y: u32, z: u32) -> u32 {
    (x & y) ^ (!x & z)
}

fn majority(x: u32, y: u32, z: u32) -> u32 {
    (x & y) ^ (x & z) ^ (y & z)
}

fn sha1_rounds(state: u128, message: u128, group: u64) -> u128 {
    let [mut d, mut c, mut b, mut a] = split(state);
    let words = split(message);
    let constant = [0x5a82_7999, 0x6ed9_eba1, 0x8f1b_bcdc, 0xca62_c1d6u32][group as usize];
    // The first word already contains E.
    let mut e = 0;
    for word in words.into_iter().rev() {
        let mixed = match group {
            0 => choose(b, c, d),
            2 => majority(b, c, d),
            _ => b ^ c ^ d,
        };
        let sum = a.rotate_left(5).wrapping_add(mixed).wrapping_add(e);
        let next = sum.wrapping_add(word).wrapping_add(constant);
        (a, b, c, d, e) = (next, a, b.rotate_left(30), c, d);
    }
    join([d, c, b, a])
}

fn sha1_message_2(a: u128, b: u128) -> u128 {
    let ([a0, a1, a2, a3], [b0, b1, b2, _]) = (split(a), split(b));
    let w16 = (a3 ^ b2).rotate_left(1);
    let w17 = (a2 ^ b1).rotate_left(1);
    let w18 = (a1 ^ b0).rotate_left(1);
    let w19 = (a0 ^ w16).rotate_left(1);
    join([w19, w18, w17, w16])
}

fn small_sigma_0(x: u32) -> u32 {
    x.rotate_right(7) ^ x.rotate_right(18) ^ x >> 3
}

fn small_sigma_1(x: u32) -> u32 {
    x.rotate_right(17) ^ x.rotate_right(19) ^ x >> 10
}

fn sha256_rounds(cdgh: u128, abef: u128, words: u128) -> u128 {
    let ([mut h, mut g, mut d, mut c], [mut f, mut e, mut b, mut a]) = (split(cdgh), split(abef));
    for word in &split(words)[..2] {
        let sigma_1 = e.rotate_right(6) ^ e.rotate_right(11) ^ e.rotate_right(25);
        let sigma_0 = a.rotate_right(2) ^ a.rotate_right(13) ^ a.rotate_right(22);
        let t1 = h.wrapping_add(sigma_1).wrapping_add(choose(e, f, g)).wrapping_add(*word);
        let t2 = sigma_0.wrapping_add(majority(a, b, c));
        (a, b, c, d, e, f, g, h) = (t1.wrapping_add(t2), a, b, c, d.wrapping_add(t1), e, f, g);
    }
    join([f, e, b, a])
}
