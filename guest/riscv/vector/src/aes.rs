//! AES rounds and key schedule (Zvkned; FIPS 197).

use crate::elements::{Body, File};
use crate::operation::Op;

/// Multiplies in GF(2⁸) modulo x⁸ + x⁴ + x³ + x + 1.
const fn multiply(a: u8, b: u8) -> u8 {
    let (mut a, mut b, mut product) = (a, b, 0);
    while b != 0 {
        if b & 1 != 0 {
            product ^= a;
        }
        a = a << 1 ^ if a >> 7 != 0 { 0x1b } else { 0 };
        b >>= 1;
    }
    product
}

/// The substitution box: the inverse, which is the 254th power, and an affine map (FIPS 197, 5.1.1).
const SBOX: [u8; 256] = {
    let mut table = [0; 256];
    let mut i = 0;
    while i < 256 {
        let x = i as u8;
        let (mut inverse, mut n) = (1, 0);
        while n < 254 {
            inverse = multiply(inverse, x);
            n += 1;
        }
        let b = if x == 0 { 0 } else { inverse };
        table[i] = b ^ b.rotate_left(1) ^ b.rotate_left(2) ^ b.rotate_left(3) ^ b.rotate_left(4) ^ 0x63;
        i += 1;
    }
    table
};

const INVERSE_SBOX: [u8; 256] = {
    let mut table = [0; 256];
    let mut i = 0;
    while i < 256 {
        table[SBOX[i] as usize] = i as u8;
        i += 1;
    }
    table
};

fn sub(x: u8) -> u8 {
    SBOX[usize::from(x)]
}

fn sub_word(x: u32) -> u32 {
    u32::from_le_bytes(x.to_le_bytes().map(sub))
}

/// Round constants (FIPS 197, 5.2).
const ROUND_CONSTANTS: [u32; 10] = [0x01, 0x02, 0x04, 0x08, 0x10, 0x20, 0x40, 0x80, 0x1b, 0x36];

type Block = [u8; 16];

fn shift_rows(s: Block) -> Block {
    std::array::from_fn(|i| s[(i + i % 4 * 4) % 16])
}

fn inverse_shift_rows(s: Block) -> Block {
    std::array::from_fn(|i| s[(i + (4 - i % 4) * 4) % 16])
}

/// Multiplies each column by the polynomial whose coefficients are the row.
fn mix(s: Block, row: [u8; 4]) -> Block {
    std::array::from_fn(|i| {
        let (column, r) = (i / 4 * 4, i % 4);
        (0..4).fold(0, |sum, j| sum ^ multiply(s[column + j], row[(j + 4 - r) % 4]))
    })
}

fn mix_columns(s: Block) -> Block {
    mix(s, [2, 3, 1, 1])
}

fn inverse_mix_columns(s: Block) -> Block {
    mix(s, [14, 11, 13, 9])
}

fn xor(a: Block, b: Block) -> Block {
    std::array::from_fn(|i| a[i] ^ b[i])
}

pub(crate) fn block(v: &File, at: usize) -> Block {
    v.get(at..).and_then(|s| s.first_chunk()).copied().unwrap_or_default()
}

pub(crate) fn put_block(v: &mut File, at: usize, block: Block) {
    if let Some(bytes) = v.get_mut(at..).and_then(|s| s.first_chunk_mut()) {
        *bytes = block;
    }
}

pub(crate) fn words(block: Block) -> [u32; 4] {
    std::array::from_fn(|i| block[4 * i..].first_chunk().map_or(0, |b| u32::from_le_bytes(*b)))
}

pub(crate) fn from_words(words: [u32; 4]) -> Block {
    std::array::from_fn(|i| words[i / 4].to_le_bytes()[i % 4])
}

/// Calls `f` with the byte offset of each group of `elements` elements of `bytes` bytes, relative to its operand.
pub(crate) fn each_group(
    b: &mut Body<'_>,
    elements: usize,
    bytes: usize,
    mut f: impl FnMut(&mut File, usize),
) {
    for group in b.start / elements..b.vl / elements {
        f(b.v, group * elements * bytes);
    }
}

pub(crate) fn aes(b: &mut Body<'_>, op: Op, immediate: u8) {
    use Op::*;
    let (d, a) = (b.d, b.a);
    let one_key = matches!(op, VaesdmVS | VaesdfVS | VaesemVS | VaesefVS | Vaesz);
    each_group(b, 4, 4, |v, at| {
        let s = block(v, d + at);
        let key = block(v, if one_key { a } else { a + at });
        let result = match op {
            VaesemVV | VaesemVS => xor(mix_columns(shift_rows(s).map(sub)), key),
            VaesefVV | VaesefVS => xor(shift_rows(s).map(sub), key),
            VaesdmVV | VaesdmVS => {
                let s = inverse_shift_rows(s).map(|x| INVERSE_SBOX[usize::from(x)]);
                inverse_mix_columns(xor(s, key))
            }
            VaesdfVV | VaesdfVS => xor(inverse_shift_rows(s).map(|x| INVERSE_SBOX[usize::from(x)]), key),
            Vaesz => xor(s, key),
            Vaeskf1 => from_words(next_key_128(words(key), immediate)),
            _ => from_words(next_key_256(words(s), words(key), immediate)),
        };
        put_block(v, d + at, result);
    });
}

/// Each word is the exclusive or of the ones up to it, the first with `first` too.
fn chained(words: [u32; 4], first: u32) -> [u32; 4] {
    let mut last = first;
    words.map(|w| {
        last ^= w;
        last
    })
}

/// vaeskf1: the next round key of AES-128. Rounds out of range act as another one.
fn next_key_128(key: [u32; 4], immediate: u8) -> [u32; 4] {
    let mut round = immediate & 15;
    if round == 0 || round > 10 {
        round ^= 8;
    }
    let constant = ROUND_CONSTANTS.get(usize::from(round) - 1).copied().unwrap_or_default();
    chained(key, sub_word(key[3].rotate_right(8)) ^ constant)
}

/// vaeskf2: the next round key of AES-256, from the one before the last and the last.
fn next_key_256(before: [u32; 4], last: [u32; 4], immediate: u8) -> [u32; 4] {
    let mut round = immediate & 15;
    if !(2..=14).contains(&round) {
        round ^= 8;
    }
    if round & 1 != 0 {
        return chained(before, sub_word(last[3]));
    }
    let constant = ROUND_CONSTANTS.get(usize::from(round / 2) - 1).copied().unwrap_or_default();
    chained(before, sub_word(last[3].rotate_right(8)) ^ constant)
}
