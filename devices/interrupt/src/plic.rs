//! The platform-level interrupt controller (PLIC) of RISC-V boards.
//!
//! Source: RISC-V Platform-Level Interrupt Controller specification 1.0.0.
//!
//! All sources are level-triggered. A source whose level is high becomes pending unless it is being served, that is
//! claimed by a context that has not completed it; it stays pending when the level falls. Priorities have three bits.

use parking_lot::Mutex;
use rhea_device::{
    IrqLine, IrqSink, LoadError, Reset, ResetKind, SavedRecord, StateUnit, load_record, save_record,
};
use rhea_memory::{AccessSizes, MmioHandler};
use std::sync::Arc;

/// Offsets of the register blocks.
mod spec {
    pub const PENDING: u64 = 0x1000;
    pub const ENABLE: u64 = 0x2000;
    pub const ENABLE_STRIDE: u64 = 0x80;
    pub const CONTEXT: u64 = 0x20_0000;
    pub const CONTEXT_STRIDE: u64 = 0x1000;
    pub const THRESHOLD: u64 = 0;
    pub const CLAIM: u64 = 4;
    /// Writable bits of priorities and thresholds.
    pub const PRIORITY_MASK: u32 = 7;
}

/// Most sources, with source 0, which does not exist.
pub const PLIC_SOURCES: usize = 1024;

/// Bytes of the register window for a number of contexts.
pub const fn plic_size(contexts: u64) -> u64 {
    spec::CONTEXT + contexts * spec::CONTEXT_STRIDE
}

#[derive(Clone, PartialEq, Eq)]
struct Context {
    enabled: Vec<u32>,
    threshold: u32,
}

struct State {
    priority: Vec<u32>,
    level: Vec<u32>,
    pending: Vec<u32>,
    /// Claimed and not completed.
    claimed: Vec<u32>,
    contexts: Vec<Context>,
}

fn bit(words: &[u32], source: usize) -> bool {
    words.get(source / 32).is_some_and(|word| word >> (source % 32) & 1 != 0)
}

fn set_bit(words: &mut [u32], source: usize, on: bool) {
    if let Some(word) = words.get_mut(source / 32) {
        *word = *word & !(1 << (source % 32)) | u32::from(on) << (source % 32);
    }
}

impl State {
    fn new(sources: usize, contexts: usize) -> Self {
        let words = || vec![0; sources.div_ceil(32)];
        Self {
            priority: vec![0; sources],
            level: words(),
            pending: words(),
            claimed: words(),
            contexts: vec![Context { enabled: words(), threshold: 0 }; contexts],
        }
    }

    /// The gateway of a source: a high level makes a request unless one is being served.
    fn gate(&mut self, source: usize) {
        if bit(&self.level, source) && !bit(&self.claimed, source) {
            set_bit(&mut self.pending, source, true);
        }
    }

    /// Pending and enabled source of the highest priority, of equals the lowest number, with its priority; none of
    /// priority 0, which means "never interrupt".
    fn best(&self, context: &Context) -> Option<(usize, u32)> {
        let mut best: Option<(usize, u32)> = None;
        for (index, (pending, enabled)) in self.pending.iter().zip(&context.enabled).enumerate() {
            let mut both = pending & enabled;
            while both != 0 {
                let source = 32 * index + both.trailing_zeros() as usize;
                both &= both - 1;
                let priority = self.priority.get(source).copied().unwrap_or(0);
                if priority > best.map_or(0, |(_, priority)| priority) {
                    best = Some((source, priority));
                }
            }
        }
        best
    }

    /// Takes the best source. The threshold does not matter here (PLIC specification, "Interrupt Claim Process").
    fn claim(&mut self, context: usize) -> u32 {
        let best = self.contexts.get(context).and_then(|context| self.best(context));
        let Some((source, _)) = best else { return 0 };
        set_bit(&mut self.pending, source, false);
        set_bit(&mut self.claimed, source, true);
        source as u32
    }

    /// Ends the service of a source; ignored if the context has it not enabled.
    fn complete(&mut self, context: usize, source: usize) {
        if self.contexts.get(context).is_some_and(|context| bit(&context.enabled, source)) {
            set_bit(&mut self.claimed, source, false);
            self.gate(source);
        }
    }
}

/// The controller.
pub struct Plic {
    outputs: Vec<IrqLine>,
    sources: usize,
    state: Mutex<State>,
}

impl Plic {
    /// A controller of sources 1 to `sources` that drives one line for each context.
    ///
    /// # Panics
    /// With 1024 sources or more: boards are built by us.
    pub fn new(sources: usize, outputs: Vec<IrqLine>) -> Arc<Self> {
        assert!(sources < PLIC_SOURCES, "more sources than the register map has");
        let sources = sources + 1;
        let state = Mutex::new(State::new(sources, outputs.len()));
        Arc::new(Self { outputs, sources, state })
    }

    /// The input of a source. Nothing happens on that of source 0 or of one beyond the last.
    pub fn input(self: &Arc<Self>, source: u32) -> IrqLine {
        IrqLine::new(self.clone(), source)
    }

    fn sync(&self, state: &State) {
        for (line, context) in self.outputs.iter().zip(&state.contexts) {
            line.set(state.best(context).is_some_and(|(_, priority)| priority > context.threshold));
        }
    }

    /// Bits of a word that stand for a source there is.
    fn word_mask(&self, word: usize) -> u32 {
        let below = self.sources.saturating_sub(32 * word).min(32) as u32;
        let all = if below == 32 { u32::MAX } else { (1 << below) - 1 };
        if word == 0 { all & !1 } else { all }
    }
}

/// Context and offset within its block, for the blocks that repeat.
fn split(offset: u64, base: u64, stride: u64) -> (usize, u64) {
    (((offset - base) / stride) as usize, (offset - base) % stride)
}

impl MmioHandler for Plic {
    fn read(&self, offset: u64, _: usize) -> u64 {
        let mut state = self.state.lock();
        let value = if offset >= spec::CONTEXT {
            match split(offset, spec::CONTEXT, spec::CONTEXT_STRIDE) {
                (context, spec::THRESHOLD) => state.contexts.get(context).map(|context| context.threshold),
                (context, spec::CLAIM) => {
                    let source = state.claim(context);
                    self.sync(&state);
                    Some(source)
                }
                _ => None,
            }
        } else if offset >= spec::ENABLE {
            let (context, at) = split(offset, spec::ENABLE, spec::ENABLE_STRIDE);
            state.contexts.get(context).and_then(|context| context.enabled.get((at / 4) as usize)).copied()
        } else if offset >= spec::PENDING {
            state.pending.get(((offset - spec::PENDING) / 4) as usize).copied()
        } else {
            state.priority.get((offset / 4) as usize).copied()
        };
        value.unwrap_or(0).into()
    }

    fn write(&self, offset: u64, _: usize, value: u64) {
        let value = value as u32;
        let mut state = self.state.lock();
        if offset >= spec::CONTEXT {
            match split(offset, spec::CONTEXT, spec::CONTEXT_STRIDE) {
                (context, spec::THRESHOLD) => {
                    if let Some(context) = state.contexts.get_mut(context) {
                        context.threshold = value & spec::PRIORITY_MASK;
                    }
                }
                (context, spec::CLAIM) => state.complete(context, value as usize),
                _ => {}
            }
        } else if offset >= spec::ENABLE {
            let (context, at) = split(offset, spec::ENABLE, spec::ENABLE_STRIDE);
            let word = (at / 4) as usize;
            let mask = self.word_mask(word);
            let context = state.contexts.get_mut(context);
            if let Some(enabled) = context.and_then(|context| context.enabled.get_mut(word)) {
                *enabled = value & mask;
            }
        } else if offset < spec::PENDING
            && offset != 0
            && let Some(priority) = state.priority.get_mut((offset / 4) as usize)
        {
            *priority = value & spec::PRIORITY_MASK;
        }
        self.sync(&state);
    }

    fn access_sizes(&self) -> AccessSizes {
        AccessSizes::DWORD
    }
}

impl IrqSink for Plic {
    fn set_level(&self, pin: u32, level: bool) {
        let source = pin as usize;
        if source == 0 || source >= self.sources {
            return;
        }
        let mut state = self.state.lock();
        set_bit(&mut state.level, source, level);
        if level {
            state.gate(source);
            self.sync(&state);
        }
    }
}

impl Reset for Plic {
    /// The levels of the sources stay: they are the devices'.
    fn reset(&self, _: ResetKind) {
        let mut state = self.state.lock();
        let level = std::mem::take(&mut state.level);
        *state = State { level, ..State::new(self.sources, self.outputs.len()) };
        (1..self.sources).for_each(|source| state.gate(source));
        self.sync(&state);
    }
}

rhea_device::saved_record! { "plic-context", 1,
    /// Saved state of a context.
    pub struct PlicContextSavedV1 {
        /// Enable bits.
        enabled: Vec<u32>,
        /// Priority threshold.
        threshold: u32,
    }
}

rhea_device::saved_record! { "riscv-plic", 1,
    /// Saved state of the controller.
    pub struct PlicSavedV1 {
        /// Priority of each source.
        priority: Vec<u32>,
        /// Levels, pending bits, claimed bits.
        bits: [Vec<u32>; 3],
        /// Contexts.
        contexts: Vec<PlicContextSavedV1>,
    }
}

impl StateUnit for Plic {
    fn save(&self) -> SavedRecord {
        let s = self.state.lock();
        let context = |c: &Context| PlicContextSavedV1 { enabled: c.enabled.clone(), threshold: c.threshold };
        save_record(&PlicSavedV1 {
            priority: s.priority.clone(),
            bits: [s.level.clone(), s.pending.clone(), s.claimed.clone()],
            contexts: s.contexts.iter().map(context).collect(),
        })
    }

    fn load(&self, record: &SavedRecord) -> Result<(), LoadError> {
        let saved: PlicSavedV1 = load_record(record)?;
        let bad = |field| LoadError::BadValue { device: "riscv-plic", field };
        let words = self.sources.div_ceil(32);
        let legal = |bits: &Vec<u32>| {
            bits.len() == words && bits.iter().enumerate().all(|(i, word)| word & !self.word_mask(i) == 0)
        };
        if !saved.bits.iter().all(legal) || !saved.contexts.iter().all(|context| legal(&context.enabled)) {
            return Err(bad("bits of the sources"));
        }
        let beyond = |value: &u32| value & !spec::PRIORITY_MASK != 0;
        if saved.priority.len() != self.sources || saved.priority.iter().any(beyond) {
            return Err(bad("priorities"));
        }
        if saved.contexts.len() != self.outputs.len() || saved.contexts.iter().any(|c| beyond(&c.threshold)) {
            return Err(bad("contexts"));
        }
        let [level, pending, claimed] = saved.bits;
        let context = |c: PlicContextSavedV1| Context { enabled: c.enabled, threshold: c.threshold };
        let contexts = saved.contexts.into_iter().map(context).collect();
        let mut state = self.state.lock();
        *state = State { priority: saved.priority, level, pending, claimed, contexts };
        self.sync(&state);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn plic() -> (Arc<Plic>, Vec<IrqLine>) {
        let lines = vec![IrqLine::unconnected(), IrqLine::unconnected()];
        (Plic::new(40, lines.clone()), lines)
    }

    fn claim(plic: &Plic, context: u64) -> u64 {
        plic.read(spec::CONTEXT + context * spec::CONTEXT_STRIDE + spec::CLAIM, 4)
    }

    fn complete(plic: &Plic, context: u64, source: u64) {
        plic.write(spec::CONTEXT + context * spec::CONTEXT_STRIDE + spec::CLAIM, 4, source);
    }

    fn enable(plic: &Plic, context: u64, word: u64, bits: u64) {
        plic.write(spec::ENABLE + context * spec::ENABLE_STRIDE + 4 * word, 4, bits);
    }

    #[test]
    fn claims_come_by_priority_then_by_number() {
        let (plic, lines) = plic();
        for (source, priority) in [(3, 2), (9, 2), (33, 5), (7, 0)] {
            plic.write(4 * source, 4, priority);
            plic.input(source as u32).raise();
        }
        assert_eq!(plic.read(spec::PENDING, 4), 1 << 3 | 1 << 9 | 1 << 7);
        enable(&plic, 1, 0, u64::MAX);
        enable(&plic, 1, 1, u64::MAX);
        assert_eq!(plic.read(spec::ENABLE + spec::ENABLE_STRIDE, 4), 0xffff_fffe, "there is no source 0");
        assert_eq!(plic.read(spec::ENABLE + spec::ENABLE_STRIDE + 4, 4), 0x1ff, "40 is the last");
        assert_eq!((lines[0].level(), lines[1].level()), (false, true));
        assert_eq!([claim(&plic, 1), claim(&plic, 1), claim(&plic, 1), claim(&plic, 1)], [33, 3, 9, 0]);
        assert!(!lines[1].level());
        assert_eq!(claim(&plic, 0), 0);
    }

    #[test]
    fn a_level_that_stays_comes_again_after_completion_and_not_before() {
        let (plic, lines) = plic();
        let input = plic.input(5);
        plic.write(20, 4, 1);
        enable(&plic, 0, 0, 1 << 5);
        input.raise();
        assert_eq!(claim(&plic, 0), 5);
        input.lower();
        input.raise();
        assert!(!lines[0].level(), "being served");
        complete(&plic, 1, 5);
        assert!(!lines[0].level(), "not enabled for context 1: ignored");
        complete(&plic, 0, 5);
        assert!(lines[0].level());
        assert_eq!(claim(&plic, 0), 5);
        input.lower();
        complete(&plic, 0, 5);
        assert!(!lines[0].level());
        input.pulse();
        assert!(lines[0].level(), "a request that was accepted stays");
    }

    #[test]
    fn the_threshold_hides_but_does_not_prevent_a_claim() {
        let (plic, lines) = plic();
        plic.write(4, 4, 0xf3);
        assert_eq!(plic.read(4, 4), 3, "three bits");
        enable(&plic, 0, 0, 2);
        plic.input(1).raise();
        plic.write(spec::CONTEXT, 4, 3);
        assert!(!lines[0].level());
        assert_eq!(claim(&plic, 0), 1);
    }

    #[test]
    fn reset_and_saved_state() {
        let (plic, lines) = plic();
        plic.write(4, 4, 3);
        enable(&plic, 0, 0, 2);
        plic.input(1).raise();
        let record = plic.save();
        plic.reset(ResetKind::Warm);
        assert!(!lines[0].level());
        assert_eq!(plic.read(spec::PENDING, 4), 2, "the level is still high");
        plic.load(&record).unwrap();
        assert!(lines[0].level());
        assert!(Plic::new(41, lines.clone()).load(&record).is_err());
        assert!(Plic::new(40, vec![]).load(&record).is_err());
    }

    proptest! {
        #[test]
        fn any_access_is_survived_and_outputs_agree_with_the_state(
            steps in proptest::collection::vec((0u8..6, 0u64..64, any::<u32>()), 0..80),
        ) {
            let (plic, lines) = plic();
            let inputs: Vec<_> = (0..64).map(|source| plic.input(source)).collect();
            for (kind, at, value) in steps {
                let value = u64::from(value);
                match kind {
                    0 => inputs[at as usize].set(value & 1 != 0),
                    1 => plic.write(4 * at, 4, value),
                    2 => enable(&plic, at & 3, value & 3, value),
                    3 => plic.write(spec::CONTEXT + (at & 3) * spec::CONTEXT_STRIDE + (value & 8), 4, value),
                    4 => _ = claim(&plic, at & 3),
                    _ => complete(&plic, at & 3, value & 63),
                }
                let state = plic.state.lock();
                for (line, context) in lines.iter().zip(&state.contexts) {
                    let due = state.best(context).is_some_and(|(_, p)| p > context.threshold);
                    prop_assert_eq!(line.level(), due);
                }
                prop_assert!(!bit(&state.pending, 0) && !bit(&state.pending, 41));
            }
            let record = plic.save();
            plic.load(&record).unwrap();
            prop_assert_eq!(plic.save(), record);
        }
    }
}
