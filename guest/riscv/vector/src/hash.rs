//! GHASH (Zvkg; NIST SP 800-38D) and SHA-2 (Zvknha, Zvknhb; FIPS 180-4).

use crate::aes::{block, each_group, put_block};
use crate::elements::{Body, Element};
use crate::operation::Op;

/// Reverses the bits of each byte, as GHASH numbers them.
fn reversed(x: u128) -> u128 {
    x.swap_bytes().reverse_bits()
}

/// The product in GF(2¹²⁸) modulo x¹²⁸ + x⁷ + x² + x + 1.
fn multiply(x: u128, y: u128) -> u128 {
    let (mut product, mut y) = (0, y);
    for i in 0..128 {
        if x >> i & 1 != 0 {
            product ^= y;
        }
        y = y << 1 ^ if y >> 127 != 0 { 0x87 } else { 0 };
    }
    product
}

pub(crate) fn ghash(b: &mut Body<'_>, op: Op) {
    let (d, a, vs1) = (b.d, b.a, b.b);
    each_group(b, 4, 4, |v, at| {
        let read = |at| u128::from_le_bytes(block(v, at));
        let y = read(d + at);
        let x = if op == Op::Vghsh { read(vs1 + at) } else { 0 };
        let product = multiply(reversed(y ^ x), reversed(read(a + at)));
        put_block(v, d + at, reversed(product).to_le_bytes());
    });
}

/// The functions of FIPS 180-4, 4.1.2 and 4.1.3, on words of one width: distances of Σ0, Σ1 (rotations), σ0, σ1
/// (rotations, and a shift last).
struct Functions {
    bits: u32,
    big: [[u32; 3]; 2],
    small: [[u32; 3]; 2],
}

const SHA256: Functions =
    Functions { bits: 32, big: [[2, 13, 22], [6, 11, 25]], small: [[7, 18, 3], [17, 19, 10]] };
const SHA512: Functions =
    Functions { bits: 64, big: [[28, 34, 39], [14, 18, 41]], small: [[1, 8, 7], [19, 61, 6]] };

impl Functions {
    /// The width's low bits.
    fn cut(&self, x: u64) -> u64 {
        x & u64::MAX >> (64 - self.bits)
    }

    fn rotated(&self, x: u64, by: u32) -> u64 {
        self.cut(x >> by | x << (self.bits - by))
    }

    fn big_sigma(&self, which: usize, x: u64) -> u64 {
        self.big[which].iter().fold(0, |sum, by| sum ^ self.rotated(x, *by))
    }

    fn small_sigma(&self, which: usize, x: u64) -> u64 {
        let [one, two, shift] = self.small[which];
        self.rotated(x, one) ^ self.rotated(x, two) ^ x >> shift
    }

    /// Words 16 to 19 of the schedule: from words 0 to 3; 4, 9, 10, 11; 12 to 15.
    fn schedule(&self, w: [u64; 4], middle: [u64; 4], late: [u64; 4]) -> [u64; 4] {
        let mut new = [0; 4];
        for i in 0..4 {
            let two_before = if i < 2 { late[i + 2] } else { new[i - 2] };
            let seven_before = if i < 3 { middle[i + 1] } else { late[0] };
            let fifteen_before = if i < 3 { w[i + 1] } else { middle[0] };
            new[i] = self.cut(
                self.small_sigma(1, two_before)
                    .wrapping_add(seven_before)
                    .wrapping_add(self.small_sigma(0, fifteen_before))
                    .wrapping_add(w[i]),
            );
        }
        new
    }

    /// Two rounds: from f, e, b, a and h, g, d, c with two words of the schedule (constants added) to the new f, e,
    /// b, a.
    fn compress(&self, feba: [u64; 4], hgdc: [u64; 4], words: [u64; 2]) -> [u64; 4] {
        let ([mut f, mut e, mut b, mut a], [mut h, mut g, mut d, mut c]) = (feba, hgdc);
        for w in words {
            let choice = e & f ^ !e & g;
            let majority = a & b ^ a & c ^ b & c;
            let t1 = h.wrapping_add(self.big_sigma(1, e)).wrapping_add(choice).wrapping_add(w);
            let t2 = self.big_sigma(0, a).wrapping_add(majority);
            (h, g, f, e) = (g, f, e, self.cut(d.wrapping_add(t1)));
            (d, c, b, a) = (c, b, a, self.cut(t1.wrapping_add(t2)));
        }
        [f, e, b, a]
    }
}

pub(crate) fn sha2(b: &mut Body<'_>, op: Op, sew: u8) {
    if sew == 2 { rounds::<u32>(b, op, &SHA256) } else { rounds::<u64>(b, op, &SHA512) }
}

fn rounds<E: Element>(b: &mut Body<'_>, op: Op, functions: &Functions) {
    let (d, a, vs1) = (b.d, b.a, b.b);
    each_group(b, 4, E::BYTES, |v, at| {
        let read =
            |from: usize| -> [u64; 4] { std::array::from_fn(|i| E::load(v, from + at + i * E::BYTES)) };
        let (x, y, z) = (read(d), read(a), read(vs1));
        let result = match op {
            Op::Vsha2ms => functions.schedule(x, y, z),
            Op::Vsha2cl => functions.compress(y, x, [z[0], z[1]]),
            _ => functions.compress(y, x, [z[2], z[3]]),
        };
        for (i, word) in result.into_iter().enumerate() {
            E::store(v, d + at + i * E::BYTES, word);
        }
    });
}
