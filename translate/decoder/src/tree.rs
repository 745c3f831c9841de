//! The decision tree: which bits to look at first, so that few instructions are left to be told apart.

use std::cell::Cell;
use std::collections::BTreeMap;

use crate::condition::Condition;
use crate::cube::Cube;
use crate::table::{Pattern, ones};

/// Bits of a switch at most: 256 ways.
const MAX_BITS: u32 = 8;

/// As few instructions as this are tried one after another.
const FEW: usize = 2;

/// Repetitions of instructions in the whole tree, for each instruction: a table of overlaps only must not grow a tree
/// without bound. A usual one has less than one.
const MAX_REPEATED: usize = 32;

/// What is done with a word of which some bits are known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Node {
    /// These are tried in turn. None: the word is no instruction.
    Try(Vec<Attempt>),
    /// The bits choose; where no arm has their value, the word is no instruction.
    Switch { low: u32, bits: u32, arms: Vec<(Vec<u64>, Node)> },
}

/// One instruction that the word may still be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Attempt {
    pub(crate) pattern: usize,
    /// The fixed bits that no switch has looked at.
    pub(crate) left: Cube,
}

impl Node {
    /// Instructions in all leaves, with repetitions.
    pub(crate) fn size(&self) -> usize {
        match self {
            Node::Try(attempts) => attempts.len(),
            Node::Switch { arms, .. } => arms.iter().map(|(_, node)| node.size()).sum(),
        }
    }
}

/// Builds the tree for all patterns of a width; `order` has those first that go before others.
pub(crate) fn build(patterns: &[Pattern], order: &[usize], width: u32) -> Node {
    let candidates: Vec<usize> =
        order.iter().copied().filter(|index| patterns[*index].width == width).collect();
    let builder = Builder { patterns, width, repeatable: Cell::new(candidates.len() * MAX_REPEATED) };
    builder.node(&candidates, Cube::ALL)
}

struct Builder<'a> {
    patterns: &'a [Pattern],
    width: u32,
    /// Repetitions that may still be made.
    repeatable: Cell<usize>,
}

impl Builder<'_> {
    fn node(&self, candidates: &[usize], known: Cube) -> Node {
        let Some((low, bits)) = self.choose(candidates, known.mask) else {
            return self.attempts(candidates, known);
        };
        let mut arms: Vec<(Vec<u64>, Node)> = Vec::new();
        for (value, candidates) in self.split(candidates, low, bits) {
            let chosen = Cube { mask: ones(bits) << low, value: value << low };
            let Some(known) = known.intersect(chosen) else { continue };
            let node = self.node(&candidates, known);
            // Values that lead to the same are one arm.
            match arms.iter_mut().find(|(_, other)| *other == node) {
                Some((values, _)) => values.push(value),
                None => arms.push((vec![value], node)),
            }
        }
        Node::Switch { low, bits, arms }
    }

    fn attempts(&self, candidates: &[usize], known: Cube) -> Node {
        let mut attempts = Vec::new();
        for index in candidates {
            let pattern = &self.patterns[*index];
            let mask = pattern.fixed.mask & !known.mask;
            attempts
                .push(Attempt { pattern: *index, left: Cube { mask, value: pattern.fixed.value & mask } });
            let certain = mask == 0 && pattern.limits.is_empty() && pattern.condition == Condition::Always;
            if certain {
                break;
            }
        }
        Node::Try(attempts)
    }

    /// The candidates of each value of the bits; one that leaves bits open is at several.
    fn split(&self, candidates: &[usize], low: u32, bits: u32) -> BTreeMap<u64, Vec<usize>> {
        let mut groups: BTreeMap<u64, Vec<usize>> = BTreeMap::new();
        for index in candidates {
            let fixed = self.patterns[*index].fixed;
            let (mask, value) = (fixed.mask >> low & ones(bits), fixed.value >> low & ones(bits));
            let open = !mask & ones(bits);
            // Every value of the open bits, by counting in them alone.
            let mut chosen = open;
            loop {
                groups.entry(value | chosen).or_default().push(*index);
                if chosen == 0 {
                    break;
                }
                chosen = (chosen - 1) & open;
            }
        }
        groups
    }

    /// The row of bits after which the fewest instructions are left on average.
    fn choose(&self, candidates: &[usize], known: u64) -> Option<(u32, u32)> {
        if candidates.len() <= FEW {
            return None;
        }
        // At first instructions that leave bits open may be repeated a little; if nothing tells enough apart, more.
        let most = candidates.len() + self.repeatable.get();
        let careful = candidates.len() + candidates.len() / 4;
        let (low, bits) = self.best(candidates, known, careful.min(most), MAX_BITS).or_else(|| {
            let single = candidates.len() + candidates.len() * 3 / 4;
            self.best(candidates, known, single.min(most), 1)
        })?;
        let repeated = self.repetitions(candidates, ones(bits) << low) - candidates.len();
        self.repeatable.set(self.repeatable.get().saturating_sub(repeated));
        Some((low, bits))
    }

    fn best(&self, candidates: &[usize], known: u64, repeated: usize, max_bits: u32) -> Option<(u32, u32)> {
        let mut best: Option<(usize, u32, u32)> = None;
        for low in 0..self.width {
            for bits in 1..=max_bits.min(self.width - low) {
                let window = ones(bits) << low;
                if window & known != 0 {
                    break;
                }
                if self.repetitions(candidates, window) > repeated {
                    continue;
                }
                let groups = self.split(candidates, low, bits);
                if groups.values().any(|group| group.len() == candidates.len()) && groups.len() > 1 {
                    continue;
                }
                let cost: usize = groups.values().map(|group| group.len() * group.len()).sum();
                // One arm only tells instructions from words that are none: worth it where nothing else helps.
                let cost = if groups.len() == 1 { candidates.len() * candidates.len() } else { cost };
                if best.is_none_or(|(least, _, _)| cost < least) {
                    best = Some((cost, low, bits));
                }
            }
        }
        let (cost, low, bits) = best?;
        (cost < candidates.len() * candidates.len()).then_some((low, bits))
    }

    fn repetitions(&self, candidates: &[usize], window: u64) -> usize {
        let copies = |index: &usize| 1usize << (window & !self.patterns[*index].fixed.mask).count_ones();
        candidates.iter().map(copies).sum()
    }
}
