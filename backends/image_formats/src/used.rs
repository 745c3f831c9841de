//! Which clusters of a file are in use.

/// A set of numbers below a bound: a bit each.
pub(crate) struct UsedSet {
    words: Vec<u64>,
    bound: u64,
}

impl UsedSet {
    /// The most numbers a set holds: 48 MiB of memory.
    pub(crate) const MAX: u64 = 3 << 27;

    /// An empty set of numbers below `bound`, which is at most [`UsedSet::MAX`].
    pub(crate) fn new(bound: u64) -> Self {
        assert!(bound <= Self::MAX);
        Self { words: vec![0; bound.div_ceil(64) as usize], bound }
    }

    /// Adds a number below the bound; false: it was there already.
    pub(crate) fn insert(&mut self, number: u64) -> bool {
        assert!(number < self.bound);
        let word = &mut self.words[(number / 64) as usize];
        let fresh = *word >> (number % 64) & 1 == 0;
        *word |= 1 << (number % 64);
        fresh
    }

    /// The lowest number that is not in the set (the bound, if all are).
    pub(crate) fn first_free(&self) -> u64 {
        let full = self.words.iter().take_while(|&&w| w == u64::MAX).count();
        let rest = self.words.get(full).map_or(0, |w| w.trailing_ones());
        (full as u64 * 64 + u64::from(rest)).min(self.bound)
    }

    /// How many numbers are in the set.
    pub(crate) fn count(&self) -> u64 {
        self.words.iter().map(|w| u64::from(w.count_ones())).sum()
    }
}
