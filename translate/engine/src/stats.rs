//! Counters of one vCPU, for `-d` and for tuning.

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
