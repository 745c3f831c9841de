//! Elements in the register file, and the loops over them.

use rhea_riscv_state::state::VECTOR_BYTES;

pub(crate) type File = [u8; VECTOR_BYTES];

/// An element width. Values travel zero-extended in 64 bits.
pub(crate) trait Element {
    const BITS: u32;
    const BYTES: usize;
    /// The element at a byte offset; zero outside, where nothing legal points.
    fn load(v: &[u8], at: usize) -> u64;
    fn store(v: &mut [u8], at: usize, value: u64);
    /// The low bits as a signed number.
    fn signed(value: u64) -> i64;
    /// The low bits as an unsigned number.
    fn unsigned(value: u64) -> u64;
}

macro_rules! elements {
    ($($unsigned:ident $signed:ident)*) => {$(
        impl Element for $unsigned {
            const BITS: u32 = $unsigned::BITS;
            const BYTES: usize = size_of::<$unsigned>();

            #[inline(always)]
            fn load(v: &[u8], at: usize) -> u64 {
                v.get(at..).and_then(|s| s.first_chunk()).map_or(0, |b| u64::from(<$unsigned>::from_le_bytes(*b)))
            }

            #[inline(always)]
            fn store(v: &mut [u8], at: usize, value: u64) {
                if let Some(bytes) = v.get_mut(at..).and_then(|s| s.first_chunk_mut()) {
                    *bytes = (value as $unsigned).to_le_bytes();
                }
            }

            #[inline(always)]
            fn signed(value: u64) -> i64 {
                i64::from(value as $signed)
            }

            #[inline(always)]
            fn unsigned(value: u64) -> u64 {
                u64::from(value as $unsigned)
            }
        }
    )*};
}

elements! { u8 i8 u16 i16 u32 i32 u64 i64 }

/// Bit `i` of the mask at a byte offset.
#[inline(always)]
pub(crate) fn bit(v: &File, at: usize, i: usize) -> bool {
    v.get(at + i / 8).is_some_and(|byte| byte >> (i % 8) & 1 != 0)
}

#[inline(always)]
pub(crate) fn set_bit(v: &mut File, at: usize, i: usize, value: bool) {
    if let Some(byte) = v.get_mut(at + i / 8) {
        *byte = *byte & !(1 << (i % 8)) | u8::from(value) << (i % 8);
    }
}

/// Calls a block with `$E` as the element type of SEW.
macro_rules! by_sew {
    ($sew:expr, $E:ident => $body:expr) => {
        match $sew {
            0 => {
                type $E = u8;
                $body
            }
            1 => {
                type $E = u16;
                $body
            }
            2 => {
                type $E = u32;
                $body
            }
            _ => {
                type $E = u64;
                $body
            }
        }
    };
}

/// As `by_sew`, with `$W` as the type of twice SEW.
macro_rules! by_wide_sew {
    ($sew:expr, $E:ident, $W:ident => $body:expr) => {
        match $sew {
            0 => {
                type $E = u8;
                type $W = u16;
                $body
            }
            1 => {
                type $E = u16;
                type $W = u32;
                $body
            }
            _ => {
                type $E = u32;
                type $W = u64;
                $body
            }
        }
    };
}

pub(crate) use {by_sew, by_wide_sew};

/// What one instruction works on: its elements and where its operands begin.
pub(crate) struct Body<'a> {
    pub v: &'a mut File,
    /// Byte offsets of the groups.
    pub d: usize,
    pub a: usize,
    pub b: usize,
    /// The first source if it is no vector.
    pub scalar: Option<u64>,
    pub masked: bool,
    /// First element.
    pub start: usize,
    /// Number of elements, the ones before `start` included.
    pub vl: usize,
    /// Elements of a group.
    pub vlmax: usize,
}

impl Body<'_> {
    /// Calls `f` for each active element, in order.
    #[inline(always)]
    pub fn each(&mut self, mut f: impl FnMut(&mut File, usize)) {
        if self.masked {
            for i in self.start..self.vl {
                if bit(self.v, 0, i) {
                    f(self.v, i);
                }
            }
        } else {
            for i in self.start..self.vl {
                f(self.v, i);
            }
        }
    }

    /// vd[i] = f(vs2[i], vs1[i] or the scalar, vd[i]), with elements of types `D`, `A` (vs2) and `B` (vs1).
    #[inline(always)]
    pub fn map<D: Element, A: Element, B: Element>(&mut self, mut f: impl FnMut(u64, u64, u64) -> u64) {
        let (d, a, b) = (self.d, self.a, self.b);
        match self.scalar {
            None => self.each(|v, i| {
                let at = d + i * D::BYTES;
                let r = f(A::load(v, a + i * A::BYTES), B::load(v, b + i * B::BYTES), D::load(v, at));
                D::store(v, at, r);
            }),
            Some(x) => {
                let x = B::unsigned(x);
                self.each(|v, i| {
                    let at = d + i * D::BYTES;
                    let r = f(A::load(v, a + i * A::BYTES), x, D::load(v, at));
                    D::store(v, at, r);
                });
            }
        }
    }

    /// Bit i of vd = f(vs2[i], vs1[i] or the scalar).
    #[inline(always)]
    pub fn test<E: Element>(&mut self, mut f: impl FnMut(u64, u64) -> bool) {
        let (d, a, b) = (self.d, self.a, self.b);
        match self.scalar {
            None => self.each(|v, i| {
                let r = f(E::load(v, a + i * E::BYTES), E::load(v, b + i * E::BYTES));
                set_bit(v, d, i, r);
            }),
            Some(x) => {
                let x = E::unsigned(x);
                self.each(|v, i| {
                    let r = f(E::load(v, a + i * E::BYTES), x);
                    set_bit(v, d, i, r);
                });
            }
        }
    }

    /// vd[0] = f over the active elements of vs2, from vs1[0]; unchanged if there is no element.
    #[inline(always)]
    pub fn fold<R: Element, A: Element>(&mut self, mut f: impl FnMut(u64, u64) -> u64) {
        if self.vl == 0 {
            return;
        }
        let mut acc = R::load(self.v, self.b);
        let a = self.a;
        self.each(|v, i| acc = f(acc, A::load(v, a + i * A::BYTES)));
        R::store(self.v, self.d, acc);
    }
}
