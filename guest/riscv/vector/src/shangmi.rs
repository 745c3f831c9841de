//! SM4 (Zvksed; GB/T 32907-2016) and SM3 (Zvksh; GB/T 32905-2016).

use crate::aes::{block, each_group, from_words, put_block, words};
use crate::elements::{Body, Element};
use crate::operation::Op;

/// Multiplies in GF(2⁸) modulo x⁸ + x⁷ + x⁶ + x⁵ + x⁴ + x² + 1.
const fn multiply(a: u8, b: u8) -> u8 {
    let (mut a, mut b, mut product) = (a, b, 0);
    while b != 0 {
        if b & 1 != 0 {
            product ^= a;
        }
        a = a << 1 ^ if a >> 7 != 0 { 0xf5 } else { 0 };
        b >>= 1;
    }
    product
}

/// The affine map around the inverse: row i of the matrix is 0xa7 rotated by i.
const fn affine(x: u8) -> u8 {
    let (mut result, mut i) = (0, 0);
    while i < 8 {
        let parity = (x & 0xa7u8.rotate_left(i)).count_ones() as u8 & 1;
        result |= parity << i;
        i += 1;
    }
    result ^ 0xd3
}

const SBOX: [u8; 256] = {
    let mut table = [0; 256];
    let mut i = 0;
    while i < 256 {
        let x = affine(i as u8);
        let (mut inverse, mut n) = (1, 0);
        while n < 254 {
            inverse = multiply(inverse, x);
            n += 1;
        }
        table[i] = affine(if x == 0 { 0 } else { inverse });
        i += 1;
    }
    table
};

fn sub_word(x: u32) -> u32 {
    u32::from_le_bytes(x.to_le_bytes().map(sm4_substitute))
}

/// Constant of the key schedule: byte j (from the highest) of number i is 7 × (4i + j) modulo 256.
fn key_constant(i: u32) -> u32 {
    u32::from_be_bytes(std::array::from_fn(|j| ((4 * i + j as u32) * 7) as u8))
}

/// The S-box of SM4.
pub fn sm4_substitute(x: u8) -> u8 {
    SBOX[usize::from(x)]
}

/// The linear map of SM4's rounds, of a word whose first byte is the highest.
pub const fn sm4_spread(s: u32) -> u32 {
    s ^ s.rotate_left(2) ^ s.rotate_left(10) ^ s.rotate_left(18) ^ s.rotate_left(24)
}

/// The linear map of its key schedule.
pub const fn sm4_spread_key(s: u32) -> u32 {
    s ^ s.rotate_left(13) ^ s.rotate_left(23)
}

fn key_round(x: [u32; 4], constant: u32) -> u32 {
    x[0] ^ sm4_spread_key(sub_word(x[1] ^ x[2] ^ x[3] ^ constant))
}

fn cipher_round(x: [u32; 4], key: u32) -> u32 {
    x[0] ^ sm4_spread(sub_word(x[1] ^ x[2] ^ x[3] ^ key))
}

/// Four rounds, each of which replaces the oldest word.
fn four(mut x: [u32; 4], round: impl Fn([u32; 4], usize) -> u32) -> [u32; 4] {
    for i in 0..4 {
        x = [x[1], x[2], x[3], round(x, i)];
    }
    x
}

pub(crate) fn sm4(b: &mut Body<'_>, op: Op, immediate: u8) {
    let (d, a) = (b.d, b.a);
    let first = u32::from(immediate & 7) * 4;
    each_group(b, 4, 4, |v, at| {
        let from = if op == Op::Vsm4rVS { a } else { a + at };
        let key = words(block(v, from));
        let result = if op == Op::Vsm4k {
            four(key, |x, i| key_round(x, key_constant(first + i as u32)))
        } else {
            four(words(block(v, d + at)), |x, i| cipher_round(x, key[i]))
        };
        put_block(v, d + at, from_words(result));
    });
}

fn p0(x: u32) -> u32 {
    x ^ x.rotate_left(9) ^ x.rotate_left(17)
}

fn p1(x: u32) -> u32 {
    x ^ x.rotate_left(15) ^ x.rotate_left(23)
}

/// Eight words of the message schedule from the sixteen before.
fn expand(early: [u32; 8], late: [u32; 8]) -> [u32; 8] {
    let mut w = [0; 24];
    w[..8].copy_from_slice(&early);
    w[8..16].copy_from_slice(&late);
    for i in 16..24 {
        w[i] = p1(w[i - 16] ^ w[i - 9] ^ w[i - 3].rotate_left(15)) ^ w[i - 13].rotate_left(7) ^ w[i - 6];
    }
    std::array::from_fn(|i| w[16 + i])
}

/// One round of the compression function, on a, b, c, d, e, f, g, h.
fn compress(s: [u32; 8], j: u32, w: u32, w_and_later: u32) -> [u32; 8] {
    let [a, b, c, d, e, f, g, h] = s;
    let t: u32 = if j < 16 { 0x79cc_4519 } else { 0x7a87_9d8a };
    let ss1 = a.rotate_left(12).wrapping_add(e).wrapping_add(t.rotate_left(j % 32)).rotate_left(7);
    let ss2 = ss1 ^ a.rotate_left(12);
    let ff = if j < 16 { a ^ b ^ c } else { a & b | a & c | b & c };
    let gg = if j < 16 { e ^ f ^ g } else { e & f | !e & g };
    let tt1 = ff.wrapping_add(d).wrapping_add(ss2).wrapping_add(w_and_later);
    let tt2 = gg.wrapping_add(h).wrapping_add(ss1).wrapping_add(w);
    [tt1, a, b.rotate_left(9), c, p0(tt2), e, f.rotate_left(19), g]
}

/// Two rounds. Of both the registers and the schedule, the group holds words 0, 1, 4 and 5 of use here; after the
/// rounds each pair is the newer and the older value.
fn two_rounds(state: [u32; 8], w: [u32; 8], immediate: u8) -> [u32; 8] {
    let j = 2 * u32::from(immediate & 31);
    let state = compress(state, j, w[0], w[0] ^ w[4]);
    compress(state, j + 1, w[1], w[1] ^ w[5])
}

pub(crate) fn sm3(b: &mut Body<'_>, op: Op, immediate: u8) {
    let (d, a, vs1) = (b.d, b.a, b.b);
    each_group(b, 8, 4, |v, at| {
        let read = |from: usize| -> [u32; 8] {
            std::array::from_fn(|i| (u32::load(v, from + at + 4 * i) as u32).swap_bytes())
        };
        let result = if op == Op::Vsm3me {
            expand(read(vs1), read(a))
        } else {
            two_rounds(read(d), read(a), immediate)
        };
        for (i, word) in result.into_iter().enumerate() {
            u32::store(v, d + at + 4 * i, word.swap_bytes().into());
        }
    });
}
