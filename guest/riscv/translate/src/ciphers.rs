//! AES by bytes and words, as Zknd and Zkne have it (FIPS 197), and SM4 as Zksed has it (GB/T 32907-2016).

use rhea_engine::VcpuContext;
use rhea_riscv_vector::shangmi;

/// Doubling in the field of AES.
const fn double(x: u8) -> u8 {
    x << 1 ^ if x & 0x80 != 0 { 0x1b } else { 0 }
}

const fn product(mut a: u8, mut b: u8) -> u8 {
    let mut sum = 0;
    while b != 0 {
        if b & 1 != 0 {
            sum ^= a;
        }
        a = double(a);
        b >>= 1;
    }
    sum
}

/// The S-box: the inverse in the field, then the affine map.
const FORWARD: [u8; 256] = {
    let mut table = [0; 256];
    let mut x = 0;
    while x < 256 {
        // The inverse is the 254th power: the multiplicative group has 255 elements.
        let mut inverse = 1;
        let mut n = 0;
        while n < 254 {
            inverse = product(inverse, x as u8);
            n += 1;
        }
        let i = inverse;
        let affine = i ^ i.rotate_left(1) ^ i.rotate_left(2) ^ i.rotate_left(3) ^ i.rotate_left(4) ^ 0x63;
        table[x] = affine;
        x += 1;
    }
    table
};

const INVERSE: [u8; 256] = {
    let mut table = [0; 256];
    let mut x = 0;
    while x < 256 {
        table[FORWARD[x] as usize] = x as u8;
        x += 1;
    }
    table
};

/// The column that MixColumns makes of one byte at row 0.
fn mixed(x: u8) -> u32 {
    u32::from_le_bytes([double(x), x, x, double(x) ^ x])
}

fn inverse_mixed(x: u8) -> u32 {
    u32::from_le_bytes([product(x, 14), product(x, 9), product(x, 13), product(x, 11)])
}

fn columns(x: u64, of: fn(u8) -> u32) -> u64 {
    let column = |word: u32| {
        word.to_le_bytes()
            .into_iter()
            .enumerate()
            .fold(0, |sum, (row, byte)| sum ^ of(byte).rotate_left(8 * row as u32))
    };
    u64::from(column(x as u32)) | u64::from(column((x >> 32) as u32)) << 32
}

// ---- harts of 32 bits: one byte a time ----

fn by_byte(rs1: u64, rs2: u64, byte: u64, of: impl Fn(u8) -> u32) -> u64 {
    let shift = 8 * (byte as u32 & 3);
    let term = of((rs2 >> shift) as u8).rotate_left(shift);
    (rs1 as u32 ^ term) as i32 as u64
}

pub extern "C" fn aes32dsi(_: &mut VcpuContext, rs1: u64, rs2: u64, byte: u64, _: u64) -> u64 {
    by_byte(rs1, rs2, byte, |x| INVERSE[usize::from(x)].into())
}

pub extern "C" fn aes32dsmi(_: &mut VcpuContext, rs1: u64, rs2: u64, byte: u64, _: u64) -> u64 {
    by_byte(rs1, rs2, byte, |x| inverse_mixed(INVERSE[usize::from(x)]))
}

pub extern "C" fn aes32esi(_: &mut VcpuContext, rs1: u64, rs2: u64, byte: u64, _: u64) -> u64 {
    by_byte(rs1, rs2, byte, |x| FORWARD[usize::from(x)].into())
}

pub extern "C" fn aes32esmi(_: &mut VcpuContext, rs1: u64, rs2: u64, byte: u64, _: u64) -> u64 {
    by_byte(rs1, rs2, byte, |x| mixed(FORWARD[usize::from(x)]))
}

// ---- SM4: one byte a time too, of words in the byte order of memory ----

/// What the first byte of a word adds to the result.
fn first_byte(x: u8, spread: fn(u32) -> u32) -> u32 {
    spread(u32::from(shangmi::sm4_substitute(x)) << 24).swap_bytes()
}

pub extern "C" fn sm4ed(_: &mut VcpuContext, rs1: u64, rs2: u64, byte: u64, _: u64) -> u64 {
    by_byte(rs1, rs2, byte, |x| first_byte(x, shangmi::sm4_spread))
}

pub extern "C" fn sm4ks(_: &mut VcpuContext, rs1: u64, rs2: u64, byte: u64, _: u64) -> u64 {
    by_byte(rs1, rs2, byte, |x| first_byte(x, shangmi::sm4_spread_key))
}

// ---- harts of 64 bits: rs1 holds columns 0 and 1, rs2 columns 2 and 3 ----

/// Half of the state after rows are shifted (by `step` columns a row) and bytes substituted.
fn shifted(rs1: u64, rs2: u64, step: usize, sbox: &[u8; 256]) -> u64 {
    let mut state = [0; 16];
    state[..8].copy_from_slice(&rs1.to_le_bytes());
    state[8..].copy_from_slice(&rs2.to_le_bytes());
    let byte = |i: usize| {
        let (column, row) = (i / 4, i % 4);
        sbox[usize::from(state[(column + step * row) % 4 * 4 + row])]
    };
    u64::from_le_bytes(std::array::from_fn(byte))
}

pub extern "C" fn aes64ds(_: &mut VcpuContext, rs1: u64, rs2: u64, _: u64, _: u64) -> u64 {
    shifted(rs1, rs2, 3, &INVERSE)
}

pub extern "C" fn aes64dsm(_: &mut VcpuContext, rs1: u64, rs2: u64, _: u64, _: u64) -> u64 {
    columns(shifted(rs1, rs2, 3, &INVERSE), inverse_mixed)
}

pub extern "C" fn aes64es(_: &mut VcpuContext, rs1: u64, rs2: u64, _: u64, _: u64) -> u64 {
    shifted(rs1, rs2, 1, &FORWARD)
}

pub extern "C" fn aes64esm(_: &mut VcpuContext, rs1: u64, rs2: u64, _: u64, _: u64) -> u64 {
    columns(shifted(rs1, rs2, 1, &FORWARD), mixed)
}

pub extern "C" fn aes64im(_: &mut VcpuContext, rs1: u64, _: u64, _: u64, _: u64) -> u64 {
    columns(rs1, inverse_mixed)
}

/// Round constants; round 10 has none, and does not rotate.
const ROUNDS: [u32; 11] = [1, 2, 4, 8, 0x10, 0x20, 0x40, 0x80, 0x1b, 0x36, 0];

pub extern "C" fn aes64ks1i(_: &mut VcpuContext, rs1: u64, round: u64, _: u64, _: u64) -> u64 {
    let word = (rs1 >> 32) as u32;
    let round = (round as usize).min(10);
    let word = if round == 10 { word } else { word.rotate_right(8) };
    let bytes = word.to_le_bytes().map(|x| FORWARD[usize::from(x)]);
    let word = u32::from_le_bytes(bytes) ^ ROUNDS[round];
    u64::from(word) << 32 | u64::from(word)
}

pub extern "C" fn aes64ks2(_: &mut VcpuContext, rs1: u64, rs2: u64, _: u64, _: u64) -> u64 {
    let low = (rs1 >> 32) as u32 ^ rs2 as u32;
    let high = low ^ (rs2 >> 32) as u32;
    u64::from(low) | u64::from(high) << 32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_boxes_are_the_standard_s() {
        assert_eq!(FORWARD[..4], [0x63, 0x7c, 0x77, 0x7b]);
        assert_eq!(FORWARD[0x53], 0xed);
        assert_eq!(INVERSE[0], 0x52);
        assert_eq!(mixed(1), 0x0301_0102);
    }

    #[test]
    fn mixing_and_its_inverse_cancel() {
        let x = 0x0123_4567_89ab_cdef;
        assert_eq!(columns(columns(x, mixed), inverse_mixed), x);
    }
}
