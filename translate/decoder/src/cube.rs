//! Sets of words, as unions of cubes: words that have given values at some bits and any at the others.

use std::fmt;

/// Cubes that an operation may make before it gives up.
pub(crate) const MAX_CUBES: usize = 20_000;

/// All words with `word & mask == value`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Cube {
    pub(crate) mask: u64,
    /// No bit outside the mask is set.
    pub(crate) value: u64,
}

impl Cube {
    /// Every word.
    pub(crate) const ALL: Cube = Cube { mask: 0, value: 0 };

    /// True for a word of the cube; tests ask.
    #[cfg(test)]
    pub(crate) fn contains(self, word: u64) -> bool {
        word & self.mask == self.value
    }

    /// The words in both.
    pub(crate) fn intersect(self, other: Cube) -> Option<Cube> {
        if (self.value ^ other.value) & self.mask & other.mask != 0 {
            return None;
        }
        Some(Cube { mask: self.mask | other.mask, value: self.value | other.value })
    }

    /// The words of this cube that are not in `other`, as disjoint cubes.
    pub(crate) fn minus(self, other: Cube) -> Vec<Cube> {
        if self.intersect(other).is_none() {
            return vec![self];
        }
        let mut left = Vec::new();
        let mut kept = self;
        let mut open = other.mask & !self.mask;
        while open != 0 {
            let bit = 1 << (63 - open.leading_zeros());
            open &= !bit;
            let same = other.value & bit;
            left.push(Cube { mask: kept.mask | bit, value: kept.value | (same ^ bit) });
            kept = Cube { mask: kept.mask | bit, value: kept.value | same };
        }
        left
    }

    /// The cube as a picture of `width` bits, highest bit first, in groups of four.
    pub(crate) fn picture(self, width: u32) -> Picture {
        Picture { cube: self, width }
    }
}

/// Words in both unions.
pub(crate) fn intersect(these: &[Cube], those: &[Cube]) -> Option<Cube> {
    these.iter().find_map(|a| those.iter().find_map(|b| a.intersect(*b)))
}

/// Every pair's intersection; nothing if there are too many.
pub(crate) fn product(these: &[Cube], those: &[Cube]) -> Option<Vec<Cube>> {
    if these.len().saturating_mul(those.len()) > MAX_CUBES {
        return None;
    }
    Some(these.iter().flat_map(|a| those.iter().filter_map(|b| a.intersect(*b))).collect())
}

/// What is left of `these` without `those`; nothing if it becomes too many cubes.
pub(crate) fn subtract<'a>(these: &[Cube], those: impl IntoIterator<Item = &'a Cube>) -> Option<Vec<Cube>> {
    let mut left = these.to_vec();
    for taken in those {
        left = left.into_iter().flat_map(|cube| cube.minus(*taken)).collect();
        if left.len() > MAX_CUBES {
            return None;
        }
        if left.is_empty() {
            break;
        }
    }
    Some(left)
}

/// See [`Cube::picture`].
pub(crate) struct Picture {
    cube: Cube,
    width: u32,
}

impl fmt::Display for Picture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for bit in (0..self.width).rev() {
            let at = |word: u64| word >> bit & 1;
            f.write_str(match (at(self.cube.mask), at(self.cube.value)) {
                (0, _) => ".",
                (_, 0) => "0",
                _ => "1",
            })?;
            if bit % 4 == 0 && bit > 0 {
                f.write_str(" ")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn cube() -> impl Strategy<Value = Cube> {
        (0u64..256, 0u64..256).prop_map(|(mask, value)| Cube { mask, value: value & mask })
    }

    proptest! {
        #[test]
        fn sets_behave_as_sets(a in cube(), b in cube()) {
            for word in 0..256 {
                prop_assert_eq!(a.intersect(b).is_some_and(|c| c.contains(word)), a.contains(word) && b.contains(word));
                let left = a.minus(b).iter().filter(|c| c.contains(word)).count();
                prop_assert_eq!(left, usize::from(a.contains(word) && !b.contains(word)));
            }
        }
    }

    #[test]
    fn a_picture_groups_by_four() {
        assert_eq!(Cube { mask: 0x81, value: 0x80 }.picture(8).to_string(), "1... ...0");
    }
}
