//! Deterministic random numbers, and values at which instructions tend to be wrong.

/// SplitMix64.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// A sequence of its own for each seed.
    pub const fn new(seed: u64) -> Self {
        Random(seed)
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// A number below `n`, which is not zero.
    pub fn below(&mut self, n: u64) -> u64 {
        ((u128::from(self.bits()) * u128::from(n)) >> 64) as u64
    }

    /// True once in `n`.
    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    /// One of `items`, which is not empty.
    pub fn pick<T: Copy>(&mut self, items: &[T]) -> T {
        items[self.below(items.len() as u64) as usize]
    }

    /// An integer: small, at a boundary, a single bit, or anything.
    pub fn integer(&mut self) -> u64 {
        const EDGES: [u64; 16] = [
            0,
            1,
            2,
            0x7f,
            0x80,
            0xff,
            0x7fff,
            0x8000,
            0xffff,
            0x7fff_ffff,
            0x8000_0000,
            0xffff_ffff,
            0x7fff_ffff_ffff_ffff,
            0x8000_0000_0000_0000,
            0xffff_ffff_ffff_ffff,
            0xaaaa_aaaa_5555_5555,
        ];
        match self.below(6) {
            0 => self.below(70),
            1 | 2 => self.pick(&EDGES).wrapping_add(self.below(3)).wrapping_sub(1),
            3 => 1 << self.below(64),
            4 => (self.bits() as i64 >> self.below(64)) as u64,
            _ => self.bits(),
        }
    }

    /// Bits of a binary32: special values, neighbours of powers of two, numbers of moderate size, or anything.
    pub fn binary32(&mut self) -> u32 {
        const SPECIAL: [u32; 12] = [
            0,
            1,
            0x007f_ffff,
            0x0080_0000,
            0x3f80_0000,
            0x7f7f_ffff,
            0x7f80_0000,
            0x7f80_0001,
            0x7fc0_0000,
            0x7fff_ffff,
            0x4f00_0000,
            0x5f00_0000,
        ];
        let sign = (self.bits() as u32) << 31;
        sign ^ match self.below(4) {
            0 => self.pick(&SPECIAL),
            1 => (127 + self.below(40) as u32 - 8) << 23 | self.bits() as u32 & 0x7f_ffff,
            2 => (self.below(255) as u32) << 23 | self.pick(&[0, 1, 0x40_0000, 0x7f_ffff]),
            _ => self.bits() as u32,
        }
    }

    /// Bits of a binary64, as [`Random::binary32`].
    pub fn binary64(&mut self) -> u64 {
        const SPECIAL: [u64; 14] = [
            0,
            1,
            0x000f_ffff_ffff_ffff,
            0x0010_0000_0000_0000,
            0x3ff0_0000_0000_0000,
            0x7fef_ffff_ffff_ffff,
            0x7ff0_0000_0000_0000,
            0x7ff0_0000_0000_0001,
            0x7ff8_0000_0000_0000,
            0x7fff_ffff_ffff_ffff,
            0x41df_ffff_ffc0_0000,
            0x41e0_0000_0000_0000,
            0x43e0_0000_0000_0000,
            0x47ef_ffff_f000_0000,
        ];
        let sign = self.bits() << 63;
        sign ^ match self.below(4) {
            0 => self.pick(&SPECIAL),
            1 => (1023 + self.below(80) - 8) << 52 | self.bits() & 0xf_ffff_ffff_ffff,
            2 => self.below(2047) << 52 | self.pick(&[0, 1, 0x8_0000_0000_0000, 0xf_ffff_ffff_ffff]),
            _ => self.bits(),
        }
    }

    /// An x87 register: significand, and sign with exponent; formats that the x87 does not support included.
    pub fn extended(&mut self) -> (u64, u16) {
        const SPECIAL: [(u64, u16); 14] = [
            (0, 0),
            (1, 0),
            (0x7fff_ffff_ffff_ffff, 0),
            (0x8000_0000_0000_0000, 0), // pseudo-denormal
            (0x8000_0000_0000_0000, 1),
            (0x8000_0000_0000_0000, 0x3fff),
            (0xffff_ffff_ffff_ffff, 0x7ffe),
            (0x8000_0000_0000_0000, 0x7fff),
            (0x8000_0000_0000_0001, 0x7fff),
            (0xc000_0000_0000_0000, 0x7fff),
            (0xffff_ffff_ffff_ffff, 0x7fff),
            (0x0000_0000_0000_0000, 0x7fff), // pseudo-infinity
            (0x4000_0000_0000_0000, 0x3fff), // unnormal
            (0xc90f_daa2_2168_c235, 0x4000), // pi
        ];
        let sign = (self.bits() as u16) << 15;
        let (significand, exponent) = match self.below(5) {
            0 => self.pick(&SPECIAL),
            1 => (1 << 63 | self.bits(), 0x3fff - 20 + self.below(90) as u16),
            2 => (1 << 63 | self.binary64() << 11, 0x3fff - 4 + self.below(8) as u16),
            3 => (1 << 63 | self.below(256) << 56, 0x3fff + self.below(12) as u16),
            _ => (1 << 63 | self.bits(), self.below(0x7fff) as u16),
        };
        (significand, exponent ^ sign)
    }

    /// 64 bits of a vector register or of data: integers, two binary32, a binary64, or bytes at boundaries.
    pub fn lane64(&mut self) -> u64 {
        match self.below(6) {
            0 => self.integer(),
            1 | 2 => u64::from(self.binary32()) << 32 | u64::from(self.binary32()),
            3 | 4 => self.binary64(),
            _ => {
                let mut v = 0;
                for _ in 0..8 {
                    v = v << 8 | self.pick(&[0u64, 1, 0x7f, 0x80, 0x81, 0xff, 0x5a, 0x3f]);
                }
                v
            }
        }
    }
}
