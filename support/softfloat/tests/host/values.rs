//! Operands worth trying.

use rhea_softfloat::F80;

/// A xorshift generator: the same sequence on every run.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A significand with long runs of equal bits, where rounding is hard.
    fn runs(&mut self) -> u64 {
        let word = self.next();
        match word & 3 {
            0 => self.next(),
            1 => self.next() & (u64::MAX << (word >> 8 & 63)),
            2 => (u64::MAX << (word >> 8 & 63)) ^ (1 << (word >> 16 & 63)),
            _ => 1u64 << (word >> 8 & 63) | 1 << (word >> 16 & 63) | u64::from(word >> 24 & 1 != 0),
        }
    }

    /// An interchange encoding: exponents near each other and near the ends are likely.
    pub fn interchange(&mut self, exponent_bits: u32, fraction_bits: u32) -> u64 {
        let bias = (1u64 << (exponent_bits - 1)) - 1;
        let word = self.next();
        let small = word >> 8 & 63;
        let exponent = match word & 7 {
            0 => small % 4,
            1 => 2 * bias + 1 - small % 4,
            2 => small,
            3 | 4 => bias + small % 32 - 16,
            5 => bias / 2 + small,
            _ => self.next(),
        } & (2 * bias + 1);
        let fraction = self.runs() & ((1 << fraction_bits) - 1);
        (word >> 40 & 1) << (exponent_bits + fraction_bits) | exponent << fraction_bits | fraction
    }

    pub fn f32(&mut self) -> u32 {
        self.interchange(8, 23) as u32
    }

    pub fn f64(&mut self) -> u64 {
        self.interchange(11, 52)
    }

    pub fn f80(&mut self) -> F80 {
        let head = self.interchange(15, 1);
        let mut significand = self.runs();
        // Mostly valid encodings.
        if head >> 1 & 0x7fff != 0 && self.next() & 15 != 0 {
            significand |= 1 << 63;
        }
        F80 { sign_exponent: (head >> 1) as u16, significand }
    }
}

/// Edge values of an interchange format, of both signs.
fn interchange_edges(exponent_bits: u32, fraction_bits: u32) -> Vec<u64> {
    let one_fraction = 1u64 << fraction_bits;
    let top = one_fraction - 1;
    let bias = (1u64 << (exponent_bits - 1)) - 1;
    let max = 2 * bias + 1;
    let at = |exponent: u64, fraction: u64| exponent << fraction_bits | fraction;
    let mut values = vec![
        0,
        1,
        2,
        3,
        top / 2,
        one_fraction / 2,
        one_fraction / 2 + 1,
        top,
        at(1, 0),
        at(1, 1),
        at(1, top),
        at(2, 0),
        at(bias - 2, 5),
        at(bias - 1, 0),
        at(bias - 1, 1),
        at(bias - 1, top),
        at(bias, 0),
        at(bias, 1),
        at(bias, top),
        at(bias, one_fraction / 2),
        at(bias + 1, 0),
        at(bias + 1, one_fraction / 4),
        at(bias + 2, one_fraction / 4),
        at(bias + 3, top - 1),
        at(max - 1, 0),
        at(max - 1, top),
        at(max - 2, 1),
        at(max, 0),
        at(max, 1),
        at(max, one_fraction / 2),
        at(max, one_fraction / 2 + 5),
        at(max, one_fraction / 2 - 1),
        at(max, top),
        at(bias - u64::from(fraction_bits), 0),
        at(bias - u64::from(fraction_bits) - 1, 0),
        at(bias / 2, 0),
        at(bias / 2 + 1, top),
    ];
    for power in [7, 8, 15, 16, 30, 31, 32, 51, 52, 53, 62, 63, 64] {
        if power <= bias {
            values.extend([at(bias + power, 0), at(bias + power, 1), at(bias + power - 1, top)]);
        }
    }
    let sign = 1 << (exponent_bits + fraction_bits);
    values.iter().flat_map(|&value| [value, value | sign]).collect()
}

pub fn f16_all() -> impl Iterator<Item = u16> {
    0..=u16::MAX
}

pub fn f32_edges() -> Vec<u32> {
    interchange_edges(8, 23).into_iter().map(|bits| bits as u32).collect()
}

pub fn f64_edges() -> Vec<u64> {
    interchange_edges(11, 52)
}

pub fn f80_edges() -> Vec<F80> {
    const ONE: u64 = 1 << 63;
    let significands = [ONE, ONE | 1, u64::MAX, ONE | 1 << 62, ONE | 0x400, ONE | 1 << 39 | 1];
    let mut values = vec![];
    for exponent in [1, 2, 0x3ffe, 0x3fff, 0x4000, 0x401e, 0x403d, 0x403e, 0x403f, 0x7ffd, 0x7ffe, 0x7fff] {
        values.extend(significands.map(|significand| (exponent, significand)));
    }
    values.extend([0, 1, 2, ONE / 2, ONE - 1, ONE, ONE | 1, u64::MAX].map(|significand| (0, significand)));
    // Unnormals, pseudo-infinity, pseudo-NaNs, a signaling NaN.
    values.extend([
        (1, 0),
        (0x3fff, ONE - 1),
        (0x7fff, 0),
        (0x7fff, 1),
        (0x7fff, ONE / 2),
        (0x7fff, ONE | 7),
    ]);
    // The ends of the narrower formats.
    for exponent in [0x3f81, 0x3f80, 0x3f6a, 0x3f69, 0x407e, 0x407f, 0x3c01, 0x3c00, 0x3bcc, 0x43fe, 0x43ff] {
        values.extend([(exponent, ONE), (exponent, u64::MAX), (exponent, ONE | 1 << 40)]);
    }
    let both = |(exponent, significand): (u16, u64)| {
        [exponent, exponent | 0x8000].map(|sign_exponent| F80 { sign_exponent, significand })
    };
    values.into_iter().flat_map(both).collect()
}
