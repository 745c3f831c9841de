//! How processors share sockets, dies and cores, and the APIC IDs that follow (SDM vol. 3, 10.9).

/// A machine's processors: how many of each part inside the next larger one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuTopology {
    /// Sockets (packages).
    pub sockets: u32,
    /// Dies in a socket.
    pub dies: u32,
    /// Cores in a die.
    pub cores: u32,
    /// Threads in a core.
    pub threads: u32,
}

impl Default for CpuTopology {
    fn default() -> Self {
        Self { sockets: 1, dies: 1, cores: 1, threads: 1 }
    }
}

/// Bits needed to number `n` things.
const fn width(n: u32) -> u32 {
    u32::BITS - n.saturating_sub(1).leading_zeros()
}

impl CpuTopology {
    /// Threads in a package. Saturates.
    pub const fn threads_per_package(&self) -> u32 {
        self.dies.saturating_mul(self.cores).saturating_mul(self.threads)
    }

    /// Threads in the machine. Saturates.
    pub const fn total(&self) -> u32 {
        self.sockets.saturating_mul(self.threads_per_package())
    }

    /// Lowest APIC ID bit that numbers cores.
    pub const fn core_shift(&self) -> u32 {
        width(self.threads)
    }

    /// Lowest APIC ID bit that numbers dies.
    pub const fn die_shift(&self) -> u32 {
        self.core_shift() + width(self.cores)
    }

    /// Lowest APIC ID bit that numbers packages.
    pub const fn package_shift(&self) -> u32 {
        self.die_shift() + width(self.dies)
    }

    /// The initial APIC ID of the processor with number `index`, 0 to [`CpuTopology::total`] - 1: threads are numbered
    /// first, then cores, dies, sockets.
    pub const fn apic_id(&self, index: u32) -> u32 {
        let (thread, rest) = (index % self.threads, index / self.threads);
        let (core, rest) = (rest % self.cores, rest / self.cores);
        let (die, socket) = (rest % self.dies, rest / self.dies);
        thread | core << self.core_shift() | die << self.die_shift() | socket << self.package_shift()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn apic_ids_leave_holes_where_counts_are_no_powers_of_two() {
        let t = CpuTopology { sockets: 2, dies: 1, cores: 3, threads: 2 };
        let ids: Vec<u32> = (0..t.total()).map(|i| t.apic_id(i)).collect();
        assert_eq!(ids, [0, 1, 2, 3, 4, 5, 8, 9, 10, 11, 12, 13]);
    }

    #[test]
    fn one_of_each_needs_no_bits() {
        assert_eq!(CpuTopology::default().package_shift(), 0);
    }
}
