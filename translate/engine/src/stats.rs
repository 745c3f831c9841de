//! Counters of one vCPU, for the monitor and for tuning.

use std::fmt;

/// What a vCPU did. Only counted off the hot paths.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stats {
    /// Page-table walks on behalf of the soft TLB.
    pub tlb_walks: u64,
    /// Slow-path memory accesses from translated code.
    pub slow_accesses: u64,
    /// Units translated.
    pub units: u64,
    /// Guest instructions translated.
    pub translated_insns: u64,
    /// Bytes of host code emitted.
    pub code_bytes: u64,
    /// Nanoseconds spent in translation.
    pub translate_ns: u64,
    /// Returns to the dispatcher.
    pub dispatches: u64,
    /// Units left because the poll word was set.
    pub polls: u64,
    /// Jumps whose target the jump cache did not know.
    pub jump_misses: u64,
    /// Direct jumps that were not linked.
    pub chains: u64,
    /// Lookups that went to the shared map.
    pub lookups: u64,
    /// Times a segment of code space was emptied to make room.
    pub evictions: u64,
    /// Units dropped because their code was written.
    pub invalidated: u64,
    /// Units run by the interpreter because the back end does not support an operation in them.
    pub unsupported: u64,
}

impl fmt::Display for Stats {
    /// One line a counter: its value after its name.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines = [
            ("translated units", self.units),
            ("translated instructions", self.translated_insns),
            ("emitted code (bytes)", self.code_bytes),
            ("translation time (us)", self.translate_ns / 1000),
            ("units left to the interpreter", self.unsupported),
            ("evictions of code", self.evictions),
            ("units invalidated by writes", self.invalidated),
            ("returns to the dispatcher", self.dispatches),
            ("units left for a request", self.polls),
            ("jump cache misses", self.jump_misses),
            ("direct jumps not linked", self.chains),
            ("shared lookups", self.lookups),
            ("page walks", self.tlb_walks),
            ("slow memory accesses", self.slow_accesses),
        ];
        lines.iter().try_for_each(|(name, value)| writeln!(f, "  {name:<30}{value:>16}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_counter_has_its_line() {
        let text = Stats { units: 7, translate_ns: 2_500_000, ..Stats::default() }.to_string();
        assert_eq!(text.lines().count(), size_of::<Stats>() / 8);
        assert!(text.lines().any(|l| l.split_whitespace().eq(["translated", "units", "7"])), "{text}");
        assert!(text.lines().any(|l| l.ends_with(" 2500")), "{text}");
    }
}
