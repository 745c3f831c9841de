//! Random requests for one instruction.

use rhea_riscv_translate::Encoding;

use crate::server::{PAGE, PAGE_LEN, Request};

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

    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }
}

const INTEGERS: &[u64] =
    &[0, 1, 2, 3, 7, 0x7f, 0x80, 0xff, 0x7fff, 0x8000, 0x7fff_ffff, 0x8000_0000, 1 << 63, u64::MAX];
const HALVES: &[u64] = &[
    0, 0x8000, 0x3c00, 0xbc00, 0x7c00, 0xfc00, 0x7e00, 0x7d01, 0x0001, 0x83ff, 0x7bff, 0x0400, 0x4248,
    0x3555, 0xc500,
];
const SINGLES: &[u64] = &[
    0,
    0x8000_0000,
    0x3f80_0000,
    0xbf80_0000,
    0x7f80_0000,
    0xff80_0000,
    0x7fc0_0000,
    0x7fa0_0001,
    1,
    0x807f_ffff,
    0x7f7f_ffff,
    0x0080_0000,
    0x4f00_0000,
    0xcf00_0000,
    0x5f80_0000,
    0x3eaa_aaab,
    0x0020_0000,
    0x7e00_0000,
    0x3f00_0000,
    0x477f_f000,
    0x3300_0001,
    0x4b80_0001,
    0x43ff_8000,
];
const DOUBLES: &[u64] = &[
    0,
    1 << 63,
    0x3ff0_0000_0000_0000,
    0xbff0_0000_0000_0000,
    0x7ff0_0000_0000_0000,
    0xfff0_0000_0000_0000,
    0x7ff8_0000_0000_0000,
    0x7ff4_0000_0000_0001,
    1,
    0x800f_ffff_ffff_ffff,
    0x7fef_ffff_ffff_ffff,
    0x0010_0000_0000_0000,
    0x43e0_0000_0000_0000,
    0xc3e0_0000_0000_0000,
    0x43f0_0000_0000_0000,
    0x3fd5_5555_5555_5555,
    0x0004_0000_0000_0000,
    0x7fd0_0000_0000_0000,
    0x41e0_0000_0000_0000,
    0x47ef_ffff_f000_0000,
    0x3690_0000_0000_0001,
    0x3ffe_0000_0000_0001,
];

/// An element of `width` (binary logarithm of bytes): anything, or something special.
fn element(r: &mut Random, width: u32) -> u64 {
    match r.below(8) {
        0 => r.pick(INTEGERS),
        1..=3 => match width {
            0 => r.bits(),
            1 => r.pick(HALVES),
            2 => r.pick(SINGLES),
            _ => r.pick(DOUBLES),
        },
        4 => match width {
            // Numbers of like magnitude.
            1 => r.bits() & 0x83ff | (12 + r.below(6)) << 10,
            2 => r.bits() & 0x807f_ffff | (124 + r.below(6)) << 23,
            3 => r.bits() & 0x800f_ffff_ffff_ffff | (1020 + r.below(6)) << 52,
            _ => r.bits(),
        },
        _ => r.bits(),
    }
}

/// A request with the instruction of `encoding` and everything else random. What it names as integer and
/// floating-point registers are a0, a1 and fa0, and a2 and fa2 for results.
pub fn request(r: &mut Random, encoding: &Encoding, vlen: u32) -> Request {
    let sew = r.below(4) as u32;
    let vtype = u64::from(sew) << 3 | r.pick(&[0, 0, 1, 2, 3, 5, 6, 7]) | r.below(4) << 6;
    let memory = matches!(encoding.value & 0x7f, 0x07 | 0x27);
    let word = word(r, encoding, vtype, memory);
    let width = if r.one_in(4) { r.below(4) as u32 } else { sew };
    let bytes = 4 * vlen as usize;
    let mut registers = Vec::with_capacity(bytes);
    while registers.len() < bytes {
        let value = element(r, width);
        registers.extend(&value.to_le_bytes()[..1 << width]);
    }
    let indexed = memory && word >> 26 & 1 != 0;
    if indexed {
        // Offsets that stay within the page, or go to where nothing is, of the width in the word.
        let wild = r.one_in(8);
        let width = [0, 1, 2, 3][(word >> 12 & 3) as usize];
        let at = (word >> 20 & 31) as usize * vlen as usize / 8;
        let end = (at + 8 * vlen as usize / 8).min(bytes);
        for chunk in registers[at..end].chunks_mut(1 << width) {
            let offset = if wild && r.one_in(4) { 0x2000 + r.below(0x4000) } else { r.below(2000) };
            let offset = offset.to_le_bytes();
            chunk.copy_from_slice(&offset[..chunk.len()]);
        }
    }
    let page = (0..PAGE_LEN / 8).flat_map(|_| r.bits().to_le_bytes()).collect();
    let a0 = if memory {
        PAGE + if r.one_in(6) { 4096 - r.below(300) } else { r.below(2000) }
    } else if r.one_in(2) {
        element(r, sew)
    } else {
        r.below(80)
    };
    let avl = match r.below(6) {
        0 => r.below(4),
        1 => 1 << r.below(8),
        2 | 3 => r.below(1 + u64::from(vlen)),
        _ => u64::MAX,
    };
    let avl = if encoding.value & 0x7f == 0x77 { avl & !7 } else { avl };
    Request {
        word,
        vtype,
        avl,
        vstart: if r.one_in(8) { r.below(10) } else { 0 },
        vcsr: r.below(8),
        fcsr: r.below(32) | if r.one_in(30) { r.below(8) } else { r.below(5) } << 5,
        a0,
        a1: if memory { r.below(64).wrapping_sub(if r.one_in(4) { 64 } else { 0 }) } else { r.bits() },
        fa0: match (r.below(6), sew) {
            (0, _) => element(r, sew),
            (_, 1) => element(r, 1) | !0xffff,
            (_, 2) => element(r, 2) | !0xffff_ffff,
            _ => element(r, 3),
        },
        registers,
        page,
    }
}

/// The instruction's word with registers that mostly fit the group size.
fn word(r: &mut Random, encoding: &Encoding, vtype: u64, memory: bool) -> u32 {
    let mut word = r.bits() as u32 | 1 << 25;
    if r.one_in(3) {
        word &= !(1 << 25);
    }
    let group = vtype & 7;
    let registers = if group < 4 { 1 << group } else { 1 };
    for field in [7, 15, 20] {
        let keep = match r.below(8) {
            0 => 1,
            1..=3 => 2 * registers,
            _ => registers,
        };
        word &= !((keep.min(8) as u32 - 1) << field);
    }
    if memory && !r.one_in(3) {
        // Few fields, so that they fit.
        word &= !(6 << 29);
    }
    let mut set = |at: u32, value: u32| word = word & !(31 << at) | value << at;
    let funct3 = encoding.value as u32 >> 12 & 7;
    let names_scalar = match encoding.value & 0x7f {
        0x07 | 0x27 => true,
        0x57 => matches!(funct3, 4..=7),
        _ => false,
    };
    if names_scalar && encoding.name != "vsetivli" {
        set(15, 10);
    }
    let strided = memory && encoding.value >> 26 & 3 == 2;
    if strided || encoding.name == "vsetvl" {
        set(20, 11);
    }
    let to_scalar = ["vmv.x.s", "vcpop.m", "vfirst.m", "vfmv.f.s"].contains(&encoding.name);
    if to_scalar || funct3 == 7 && !memory {
        set(7, 12);
    }
    let word = u64::from(word);
    (word & !encoding.mask | encoding.value) as u32
}
