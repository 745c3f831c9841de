//! Random requests for one instruction.

use rhea_riscv_translate::Encoding;

use crate::server::{PAGE, PAGE_LEN, State};

/// A small generator of pseudo-random numbers (xorshift64*).
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn bits(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        (self.bits() >> 11) % n
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }
}

const INTEGERS: &[u64] = &[
    0,
    1,
    2,
    3,
    31,
    32,
    63,
    64,
    0x7f,
    0x80,
    0xff,
    0x7fff,
    0x8000,
    0xffff,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    0x1_0000_0000,
    1 << 62,
    i64::MAX as u64,
    1 << 63,
    u64::MAX,
    u64::MAX - 1,
    0xffff_ffff_8000_0000,
    0x0123_4567_89ab_cdef,
];

/// Of half, single and double precision: zeros, subnormals, the ends of the range, small integers and what lies between,
/// the limits of integers, infinities, NaNs of both kinds.
const HALVES: &[u64] = &[
    0, 0x8000, 1, 0x83ff, 0x0400, 0x8400, 0x3c00, 0xbc00, 0x3e00, 0x4100, 0x3555, 0xc248, 0x7bff, 0xfbff,
    0x7c00, 0xfc00, 0x7e00, 0xfe01, 0x7d00, 0xfc01, 0x5bff, 0x3800, 0x3801, 0xb800,
];
const SINGLES: &[u64] = &[
    0,
    0x8000_0000,
    1,
    0x807f_ffff,
    0x0080_0000,
    0x8080_0001,
    0x3f80_0000,
    0xbf80_0000,
    0x3fc0_0000,
    0x4020_0000,
    0x3f00_0000,
    0xbf00_0000,
    0x3eaa_aaab,
    0xc049_0fdb,
    0x7f7f_ffff,
    0xff7f_ffff,
    0x7f80_0000,
    0xff80_0000,
    0x7fc0_0000,
    0xffc0_0001,
    0x7fa0_0000,
    0xff80_0001,
    0x4effffff,
    0x4f00_0000,
    0xcf00_0000,
    0xcf00_0001,
    0x4f7f_ffff,
    0x4f80_0000,
    0x5eff_ffff,
    0x5f00_0000,
    0xdf00_0000,
    0x5f7f_ffff,
    0x5f80_0000,
    0x3f7f_ffff,
    0xbf7f_ffff,
    0x3f80_0001,
    0x0040_0000,
    0x2000_0000,
];
const DOUBLES: &[u64] = &[
    0,
    1 << 63,
    1,
    0x800f_ffff_ffff_ffff,
    0x0010_0000_0000_0000,
    0x8010_0000_0000_0001,
    0x3ff0_0000_0000_0000,
    0xbff0_0000_0000_0000,
    0x3ff8_0000_0000_0000,
    0x4004_0000_0000_0000,
    0x3fe0_0000_0000_0000,
    0xbfe0_0000_0000_0000,
    0x3fd5_5555_5555_5555,
    0xc009_21fb_5444_2d18,
    0x7fef_ffff_ffff_ffff,
    0xffef_ffff_ffff_ffff,
    0x7ff0_0000_0000_0000,
    0xfff0_0000_0000_0000,
    0x7ff8_0000_0000_0000,
    0xfff8_0000_0000_0001,
    0x7ff4_0000_0000_0000,
    0xfff0_0000_0000_0001,
    0x41df_ffff_ffc0_0000,
    0x41df_ffff_ffe0_0000,
    0x41e0_0000_0000_0000,
    0xc1e0_0000_0000_0000,
    0xc1e0_0000_0010_0000,
    0x41ef_ffff_ffe0_0000,
    0x41ef_ffff_fff0_0000,
    0x41f0_0000_0000_0000,
    0x43df_ffff_ffff_ffff,
    0x43e0_0000_0000_0000,
    0xc3e0_0000_0000_0000,
    0x43ef_ffff_ffff_ffff,
    0x43f0_0000_0000_0000,
    0x3fef_ffff_ffff_ffff,
    0xbfef_ffff_ffff_ffff,
    0x3ff0_0000_0000_0001,
    0x36a0_0000_0000_0000,
    0x3690_0000_0000_0000,
    0x380f_ffff_ffff_ffff,
    0x47ef_ffff_f000_0000,
    0x3e60_0000_0000_0000,
    0x3f10_0000_0000_0000,
];

fn integer(r: &mut Random) -> u64 {
    match r.below(4) {
        0 => r.pick(INTEGERS),
        1 => r.bits() >> r.below(64),
        2 => !(r.bits() >> r.below(64)),
        // An address, mostly aligned.
        _ => {
            let at = 64 + r.below(PAGE_LEN as u64 - 128);
            PAGE + if r.below(4) == 0 { at } else { at & !15 }
        }
    }
}

fn float(r: &mut Random) -> u64 {
    let random = r.bits();
    match r.below(12) {
        0 => r.pick(DOUBLES),
        1 => random,
        2 | 3 => r.pick(DOUBLES),
        // Doubles near each other, so that sums cancel.
        4 => 0x3ff0_0000_0000_0000 | random >> 12 | random << 63,
        5 => r.pick(DOUBLES).wrapping_add(r.below(5)).wrapping_sub(2),
        6 | 7 => !0xffff_ffff | r.pick(SINGLES),
        8 => !0xffff_ffff | random & 0xffff_ffff,
        9 => !0xffff_ffff | u64::from(r.pick(SINGLES) as u32 ^ r.below(4) as u32),
        10 => !0xffff | r.pick(HALVES),
        _ => !0xffff | random & 0xffff,
    }
}

/// A word of the encoding, and registers to execute it with. x31 is not touched: it is the peer's.
pub fn request(r: &mut Random, e: &Encoding) -> State {
    let mut word = e.value | r.bits() & !e.mask & (u64::MAX >> (64 - e.width));
    let fields: &[u32] = if e.width == 32 { &[7, 15, 20] } else { &[2, 7] };
    for at in fields {
        if word >> at & 31 == 31 && e.mask >> at & 1 == 0 {
            word ^= 1 << at;
        }
    }
    if e.width == 16 {
        // c.nop behind it.
        word |= 1 << 16;
    }
    let mut x: [u64; 32] = std::array::from_fn(|_| integer(r));
    x[0] = 0;
    // Where memory is accessed: mostly at the base register of either width's formats.
    for at in [word >> 15 & 31, 8 + (word >> 7 & 7), 2] {
        if at != 0 && r.below(3) != 0 {
            x[at as usize] = PAGE + 2048 + 16 * r.below(8) + if r.below(8) == 0 { r.below(16) } else { 0 };
        }
    }
    let frm = if r.below(10) == 0 { r.below(8) } else { r.below(5) };
    State {
        word,
        fcsr: frm << 5 | if r.below(4) == 0 { r.below(32) } else { 0 },
        x,
        f: std::array::from_fn(|_| float(r)),
        page: (0..PAGE_LEN).map(|_| r.bits() as u8).collect(),
        cause: None,
    }
}
