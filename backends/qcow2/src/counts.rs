//! A compact array of reference counts, one for each host cluster.
//!
//! Nearly all clusters of an image are referenced once or not at all, so a count takes two bits; the few larger ones
//! lie apart. Clusters come in chunks, and a chunk of which little is known is a short list. So the memory taken is
//! bounded by the number of references an image really holds (at most some ten bytes for each of its table entries),
//! and by a quarter of a byte for each cluster in an image that is full, whatever lengths its header claims.

use std::collections::{BTreeMap, HashMap};

/// Clusters in a chunk.
const CHUNK: u64 = 4096;
/// Counts in a word.
const PER_WORD: usize = 32;
/// Words in a chunk.
const WORDS: usize = CHUNK as usize / PER_WORD;
/// A list longer than this becomes an array.
const LIST: usize = 48;
/// The value that says: the count is apart.
const APART: u64 = 3;
/// The lower bit of every count in a word.
const LOW: u64 = 0x5555_5555_5555_5555;

#[derive(Clone)]
enum Chunk {
    /// Sorted by cluster.
    List(Vec<(u16, u64)>),
    Array {
        words: Box<[u64; WORDS]>,
        apart: BTreeMap<u16, u64>,
    },
}

impl Chunk {
    fn get(&self, at: u16) -> u64 {
        match self {
            Self::List(list) => list.binary_search_by_key(&at, |e| e.0).map_or(0, |i| list[i].1),
            Self::Array { words, apart } => {
                match words[usize::from(at) / PER_WORD] >> (usize::from(at) % PER_WORD * 2) & 3 {
                    APART => apart.get(&at).copied().unwrap_or(APART),
                    count => count,
                }
            }
        }
    }

    fn set(&mut self, at: u16, count: u64) {
        if let Self::List(list) = self {
            match list.binary_search_by_key(&at, |e| e.0) {
                Ok(index) if count == 0 => drop(list.remove(index)),
                Ok(index) => list[index].1 = count,
                Err(_) if count == 0 => {}
                Err(index) if list.len() < LIST => list.insert(index, (at, count)),
                Err(_) => {
                    self.spread();
                    self.set(at, count);
                }
            }
            return;
        }
        let Self::Array { words, apart } = self else { return };
        let shift = usize::from(at) % PER_WORD * 2;
        let word = &mut words[usize::from(at) / PER_WORD];
        if *word >> shift & 3 == APART {
            apart.remove(&at);
        }
        if count >= APART {
            apart.insert(at, count);
        }
        *word = *word & !(3 << shift) | count.min(APART) << shift;
    }

    /// 32 counts from `at` on (a multiple of 32), two bits each; 3 stands for any that is larger than 2.
    fn packed(&self, at: u16) -> u64 {
        match self {
            Self::Array { words, .. } => words[usize::from(at) / PER_WORD],
            Self::List(list) => {
                let from = list.partition_point(|e| e.0 < at);
                let mine = list[from..].iter().take_while(|e| usize::from(e.0) < usize::from(at) + PER_WORD);
                mine.fold(0, |word, &(i, count)| word | count.min(APART) << ((i - at) * 2))
            }
        }
    }

    /// Makes it an array.
    fn spread(&mut self) {
        if let Self::List(list) = self {
            let list = std::mem::take(list);
            *self = Self::Array { words: Box::new([0; WORDS]), apart: BTreeMap::new() };
            list.into_iter().for_each(|(at, count)| self.set(at, count));
        }
    }

    /// Calls back for every count that is not 0, in order, until told to stop.
    fn each(&self, mut found: impl FnMut(u16, u64) -> bool) {
        match self {
            Self::List(list) => {
                for &(at, count) in list {
                    if !found(at, count) {
                        return;
                    }
                }
            }
            Self::Array { words, .. } => {
                for (index, &word) in words.iter().enumerate() {
                    let mut any = (word | word >> 1) & LOW;
                    while any != 0 {
                        let at = (index * PER_WORD) as u16 + (any.trailing_zeros() / 2) as u16;
                        if !found(at, self.get(at)) {
                            return;
                        }
                        any &= any - 1;
                    }
                }
            }
        }
    }
}

/// A reference count for each cluster; those never mentioned are 0.
#[derive(Clone)]
pub(crate) struct Counts {
    index: HashMap<u64, usize>,
    chunks: Vec<Chunk>,
    /// The chunk used last, as the next one is mostly the same: its number and index.
    last: (u64, usize),
    /// The largest count.
    max: u64,
}

impl Counts {
    /// All counts 0. None will be larger than `max`.
    pub(crate) fn new(max: u64) -> Self {
        Self { index: HashMap::new(), chunks: Vec::new(), last: (u64::MAX, 0), max }
    }

    /// Counts will be no larger than this from now on; none is yet.
    pub(crate) fn set_max(&mut self, max: u64) {
        self.max = max;
    }

    fn find(&self, chunk: u64) -> Option<&Chunk> {
        let index = match self.last {
            (last, index) if last == chunk => index,
            _ => *self.index.get(&chunk)?,
        };
        self.chunks.get(index)
    }

    fn chunk(&mut self, chunk: u64) -> &mut Chunk {
        if self.last.0 != chunk {
            let chunks = &mut self.chunks;
            let index = *self.index.entry(chunk).or_insert_with(|| {
                chunks.push(Chunk::List(Vec::new()));
                chunks.len() - 1
            });
            self.last = (chunk, index);
        }
        &mut self.chunks[self.last.1]
    }

    /// The count of a cluster.
    pub(crate) fn get(&self, cluster: u64) -> u64 {
        self.find(cluster / CHUNK).map_or(0, |chunk| chunk.get((cluster % CHUNK) as u16))
    }

    /// Sets the count of a cluster.
    pub(crate) fn set(&mut self, cluster: u64, count: u64) {
        if count != 0 || self.index.contains_key(&(cluster / CHUNK)) {
            self.chunk(cluster / CHUNK).set((cluster % CHUNK) as u16, count);
        }
    }

    /// Adds references to a cluster. Those that would go beyond the largest count are not added; their number is
    /// returned.
    pub(crate) fn add(&mut self, cluster: u64, times: u64) -> u64 {
        let max = self.max;
        let at = (cluster % CHUNK) as u16;
        let chunk = self.chunk(cluster / CHUNK);
        let old = chunk.get(at);
        let new = old.saturating_add(times).min(max);
        chunk.set(at, new);
        times - (new - old)
    }

    /// Adds one reference to each of `len` clusters, the way [`Counts::add`] does: calls back for those that cannot have
    /// another.
    pub(crate) fn add_run(&mut self, first: u64, len: u64, mut full: impl FnMut(u64)) {
        let (mut at, end) = (first, first + len);
        while at < end {
            let in_chunk = (at % CHUNK) as usize;
            let stop = end.min(at - in_chunk as u64 + CHUNK);
            if stop - at > LIST as u64 {
                self.chunk(at / CHUNK).spread();
            }
            // Whole words that are empty are filled at once.
            while at < stop {
                let in_chunk = (at % CHUNK) as usize;
                if in_chunk.is_multiple_of(PER_WORD)
                    && stop - at >= PER_WORD as u64
                    && let Chunk::Array { words, .. } = self.chunk(at / CHUNK)
                    && words[in_chunk / PER_WORD] == 0
                {
                    words[in_chunk / PER_WORD] = LOW;
                    at += PER_WORD as u64;
                    continue;
                }
                if self.add(at, 1) != 0 {
                    full(at);
                }
                at += 1;
            }
        }
    }

    /// 32 counts from a cluster on whose number is a multiple of 32, two bits each, the first lowest; 3 stands for any that
    /// is larger than 2.
    pub(crate) fn packed(&self, cluster: u64) -> u64 {
        self.find(cluster / CHUNK).map_or(0, |chunk| chunk.packed((cluster % CHUNK) as u16))
    }

    /// Takes one reference of a cluster away; `false` if it had none.
    pub(crate) fn subtract(&mut self, cluster: u64) -> bool {
        let count = self.get(cluster);
        self.set(cluster, count.saturating_sub(1));
        count != 0
    }

    /// The numbers of the chunks that have counts, in order.
    fn numbers(&self) -> Vec<u64> {
        let mut numbers: Vec<u64> = self.index.keys().copied().collect();
        numbers.sort_unstable();
        numbers
    }

    /// Calls back for every cluster of a range whose count is not 0, in order, until told to stop.
    pub(crate) fn each_in(&self, from: u64, to: u64, mut found: impl FnMut(u64, u64) -> bool) {
        if from >= to {
            return;
        }
        // A short range is looked up directly, not by sorting all numbers.
        let (first, last) = (from / CHUNK, (to - 1) / CHUNK);
        let numbers = match last - first < 64 {
            true => (first..=last).collect(),
            false => self.numbers(),
        };
        let mut go_on = true;
        for number in numbers.into_iter().filter(|n| (first..=last).contains(n)) {
            let Some(chunk) = self.find(number) else { continue };
            chunk.each(|at, count| {
                let cluster = number * CHUNK + u64::from(at);
                if cluster >= from && cluster < to {
                    go_on = found(cluster, count);
                }
                go_on && cluster < to
            });
            if !go_on {
                return;
            }
        }
    }

    /// The first of `len` clusters in a row whose counts are all 0, at or after `from`.
    pub(crate) fn find_free(&self, from: u64, len: u64) -> u64 {
        let mut start = from;
        self.each_in(from, u64::MAX, |cluster, _| {
            if cluster - start >= len {
                return false;
            }
            start = cluster + 1;
            true
        });
        start
    }

    /// One more than the last cluster whose count is not 0.
    pub(crate) fn end(&self) -> u64 {
        for number in self.numbers().into_iter().rev() {
            let mut end = 0;
            if let Some(chunk) = self.find(number) {
                chunk.each(|at, _| {
                    end = number * CHUNK + u64::from(at) + 1;
                    true
                });
            }
            if end != 0 {
                return end;
            }
        }
        0
    }

    /// Whether every cluster with a count here has a count of exactly 1 there.
    pub(crate) fn all_are_one_in(&self, counts: &Self) -> bool {
        self.compare(counts, |mine, ones| mine & !ones == 0, |count| count == 1)
    }

    /// Whether no cluster with a count here has a count of exactly 1 there.
    pub(crate) fn none_is_one_in(&self, counts: &Self) -> bool {
        self.compare(counts, |mine, ones| mine & ones == 0, |count| count != 1)
    }

    fn compare(
        &self,
        counts: &Self,
        words_agree: fn(u64, u64) -> bool,
        count_agrees: fn(u64) -> bool,
    ) -> bool {
        self.index.iter().all(|(&number, &index)| {
            let chunk = &self.chunks[index];
            if let (Chunk::Array { words: mine, .. }, Some(Chunk::Array { words: other, .. })) =
                (chunk, counts.find(number))
            {
                return mine
                    .iter()
                    .zip(other.iter())
                    .all(|(&m, &o)| words_agree((m | m >> 1) & LOW, o & !(o >> 1) & LOW));
            }
            let mut agree = true;
            chunk.each(|at, _| {
                agree = count_agrees(counts.get(number * CHUNK + u64::from(at)));
                agree
            });
            agree
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn counts_stop_at_the_largest_and_say_so() {
        let mut counts = Counts::new(3);
        assert_eq!(counts.add(7, 2), 0);
        assert_eq!(counts.add(7, 5), 4);
        assert_eq!(counts.get(7), 3);
        counts.subtract(7);
        assert_eq!((counts.get(7), counts.get(8), counts.get(1 << 60)), (2, 0, 0));
        let mut counts = Counts::new(u64::MAX);
        assert_eq!(counts.add(1, u64::MAX), 0);
        assert_eq!(counts.add(1, 2), 2);
    }

    proptest! {
        #[test]
        fn counts_are_as_in_a_plain_map(
            ops in proptest::collection::vec((0u64..20_000, 0u64..6, 0u32..40), 1..600),
            spread in prop_oneof![Just(1u64), Just(37), Just(1 << 40)],
            from in 0u64..20_000,
        ) {
            let mut counts = Counts::new(1000);
            let mut model = BTreeMap::new();
            for (cluster, times, run) in ops {
                if spread == 1 && times == 1 {
                    counts.add_run(cluster, u64::from(run) * 5 + 1, |_| ());
                }
                for i in 0..if spread == 1 && times == 1 { u64::from(run) * 5 + 1 } else { u64::from(run) + 1 } {
                    let cluster = (cluster + i) * spread;
                    if spread != 1 || times != 1 {
                        counts.add(cluster, times);
                    }
                    let slot = model.entry(cluster).or_insert(0u64);
                    *slot = (*slot + times).min(1000);
                }
            }
            let all: Vec<(u64, u64)> = model.iter().filter(|e| *e.1 != 0).map(|(&c, &n)| (c, n)).collect();
            for &(cluster, count) in &all {
                prop_assert_eq!(counts.get(cluster), count);
            }
            for first in (0..20_000).step_by(32) {
                let expected = (0..32).fold(0, |w, i| w | model.get(&(first + i)).map_or(0, |n| *n.min(&3)) << (2 * i));
                prop_assert_eq!(counts.packed(first), expected);
            }
            let (from, to) = (from * spread, (from + 3000) * spread);
            let mut got = Vec::new();
            counts.each_in(from, to, |cluster, count| { got.push((cluster, count)); true });
            let expected: Vec<_> = all.iter().copied().filter(|e| e.0 >= from && e.0 < to).collect();
            prop_assert_eq!(got, expected);
            prop_assert_eq!(counts.end(), all.last().map_or(0, |e| e.0 + 1));
            let free = counts.find_free(from, 5);
            prop_assert!(free >= from && (free..free + 5).all(|c| counts.get(c) == 0));
            prop_assert!((from..free).all(|at| (at..at + 5).any(|c| counts.get(c) != 0)) || spread > 40);
            let (mut ones, mut others) = (Counts::new(1), Counts::new(1));
            for &(cluster, count) in &all {
                if count == 1 { ones.add(cluster, 1) } else { others.add(cluster, 1) };
            }
            prop_assert!(ones.all_are_one_in(&counts) && others.none_is_one_in(&counts));
            if let Some(&(cluster, count)) = all.first() {
                if count == 1 { others.add(cluster, 1) } else { ones.add(cluster, 1) };
                prop_assert!(!ones.all_are_one_in(&counts) || !others.none_is_one_in(&counts));
            }
        }
    }
}
