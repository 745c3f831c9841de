//! Processor topology and the APIC IDs that follow from it.

/// How the processors are arranged. Each level's count is within the level above.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuTopology {
    /// Processors present at start.
    pub cpus: u32,
    /// Processors there is room for.
    pub maxcpus: u32,
    /// Sockets.
    pub sockets: u32,
    /// Dies a socket.
    pub dies: u32,
    /// Cores a die.
    pub cores: u32,
    /// Threads a core.
    pub threads: u32,
}

/// A topology that cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TopologyError {
    /// A count is zero.
    #[error("a CPU topology has at least one of each level")]
    Zero,
    /// The levels do not multiply to maxcpus.
    #[error("sockets ({sockets}) * dies ({dies}) * cores ({cores}) * threads ({threads}) is not maxcpus ({maxcpus})",
        sockets = .0.sockets, dies = .0.dies, cores = .0.cores, threads = .0.threads, maxcpus = .0.maxcpus)]
    Mismatch(CpuTopology),
    /// More processors than room.
    #[error("{cpus} CPUs do not fit into maxcpus ({maxcpus})", cpus = .0.cpus, maxcpus = .0.maxcpus)]
    TooMany(CpuTopology),
    /// More than the board can address.
    #[error("this machine has at most {limit} CPUs ({asked} asked for)")]
    BeyondLimit {
        /// Most the board takes.
        limit: u32,
        /// maxcpus asked for.
        asked: u32,
    },
    /// The APIC ID of the last processor does not fit.
    #[error("this CPU topology needs APIC IDs above {limit}")]
    ApicId {
        /// Highest APIC ID.
        limit: u32,
    },
}

/// Most processors: APIC IDs 0 to 254 are reached by every kind of interrupt message.
pub const CPU_LIMIT: u32 = 255;
const APIC_ID_LIMIT: u32 = 254;

impl CpuTopology {
    /// `count` sockets of one core each.
    pub fn flat(count: u32) -> Self {
        Self { cpus: count, maxcpus: count, sockets: count, dies: 1, cores: 1, threads: 1 }
    }

    /// The levels as the processor model takes them.
    pub fn levels(&self) -> rhea_x86_state::CpuTopology {
        let Self { sockets, dies, cores, threads, .. } = *self;
        rhea_x86_state::CpuTopology { sockets, dies, cores, threads }
    }

    /// APIC ID of processor `index`: thread, core, die and socket, each in its own bits (SDM vol. 3, 9.9.1).
    pub fn apic_id(&self, index: u32) -> u32 {
        self.levels().apic_id(index)
    }

    /// Checks that the levels agree and that the board can address all processors.
    ///
    /// # Errors
    /// See [`TopologyError`].
    pub fn check(&self) -> Result<(), TopologyError> {
        let levels = [self.sockets, self.dies, self.cores, self.threads];
        if self.cpus == 0 || levels.contains(&0) {
            return Err(TopologyError::Zero);
        }
        let product = levels.iter().try_fold(1u32, |product, level| product.checked_mul(*level));
        if product != Some(self.maxcpus) {
            return Err(TopologyError::Mismatch(*self));
        }
        if self.cpus > self.maxcpus {
            return Err(TopologyError::TooMany(*self));
        }
        if self.maxcpus > CPU_LIMIT {
            return Err(TopologyError::BeyondLimit { limit: CPU_LIMIT, asked: self.maxcpus });
        }
        if self.apic_id(self.maxcpus - 1) > APIC_ID_LIMIT {
            return Err(TopologyError::ApicId { limit: APIC_ID_LIMIT });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn apic_ids_have_a_field_for_each_level() {
        let t = CpuTopology { cpus: 12, maxcpus: 12, sockets: 2, dies: 1, cores: 3, threads: 2 };
        assert_eq!(t.check(), Ok(()));
        let ids: Vec<u32> = (0..12).map(|i| t.apic_id(i)).collect();
        assert_eq!(ids, [0, 1, 2, 3, 4, 5, 8, 9, 10, 11, 12, 13]);
    }

    #[test]
    fn impossible_topologies_are_refused() {
        let flat = CpuTopology::flat(4);
        assert_eq!(
            CpuTopology { cores: 2, ..flat }.check(),
            Err(TopologyError::Mismatch(CpuTopology { cores: 2, ..flat }))
        );
        assert_eq!(CpuTopology { threads: 0, ..flat }.check(), Err(TopologyError::Zero));
        assert!(matches!(CpuTopology { cpus: 5, ..flat }.check(), Err(TopologyError::TooMany(_))));
        assert!(matches!(CpuTopology::flat(256).check(), Err(TopologyError::BeyondLimit { .. })));
        let huge = CpuTopology { sockets: 65536, cores: 65536, ..flat };
        assert!(matches!(huge.check(), Err(TopologyError::Mismatch(_))));
    }
}
