//! How harts are arranged. Hart IDs are consecutive whatever the arrangement; it is told in the device tree's cpu-map.

/// The levels of `-smp`. Each level's count is within the level above.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HartTopology {
    /// Harts.
    pub harts: u32,
    /// Sockets.
    pub sockets: u32,
    /// Clusters a socket.
    pub clusters: u32,
    /// Cores a cluster.
    pub cores: u32,
    /// Threads a core.
    pub threads: u32,
}

/// Most harts.
pub const HART_LIMIT: u32 = 512;

/// A topology that cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TopologyError {
    /// A count is zero.
    #[error("a CPU topology has at least one of each level")]
    Zero,
    /// The levels do not multiply to the number of harts or more.
    #[error("sockets ({sockets}) * clusters ({clusters}) * cores ({cores}) * threads ({threads}) have no room for {harts} harts",
        sockets = .0.sockets, clusters = .0.clusters, cores = .0.cores, threads = .0.threads, harts = .0.harts)]
    TooMany(HartTopology),
    /// More than the board has interrupt contexts for.
    #[error("this machine has at most {HART_LIMIT} harts ({0} asked for)")]
    BeyondLimit(u32),
}

/// Where a hart is, by number at each level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HartPlace {
    pub socket: u32,
    pub cluster: u32,
    pub core: u32,
    pub thread: u32,
}

impl HartTopology {
    /// `count` cores of one socket.
    pub fn flat(count: u32) -> Self {
        Self { harts: count, sockets: 1, clusters: 1, cores: count, threads: 1 }
    }

    /// Checks that there is a place for every hart and that the board can address all.
    ///
    /// # Errors
    /// See [`TopologyError`].
    pub fn check(&self) -> Result<(), TopologyError> {
        let levels = [self.sockets, self.clusters, self.cores, self.threads];
        if self.harts == 0 || levels.contains(&0) {
            return Err(TopologyError::Zero);
        }
        if self.harts > HART_LIMIT {
            return Err(TopologyError::BeyondLimit(self.harts));
        }
        let places = levels.iter().fold(1u64, |product, level| product.saturating_mul(u64::from(*level)));
        if places < u64::from(self.harts) { Err(TopologyError::TooMany(*self)) } else { Ok(()) }
    }

    /// Where a hart is.
    pub(crate) fn place(&self, hart: u32) -> HartPlace {
        let (threads, cores, clusters) = (self.threads.max(1), self.cores.max(1), self.clusters.max(1));
        HartPlace {
            thread: hart % threads,
            core: hart / threads % cores,
            cluster: hart / threads / cores % clusters,
            socket: hart / threads / cores / clusters,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn harts_fill_threads_then_cores_then_clusters_then_sockets() {
        let t = HartTopology { harts: 16, sockets: 2, clusters: 2, cores: 2, threads: 2 };
        assert_eq!(t.check(), Ok(()));
        assert_eq!(t.place(0), HartPlace { socket: 0, cluster: 0, core: 0, thread: 0 });
        assert_eq!(t.place(7), HartPlace { socket: 0, cluster: 1, core: 1, thread: 1 });
        assert_eq!(t.place(10), HartPlace { socket: 1, cluster: 0, core: 1, thread: 0 });
    }

    #[test]
    fn impossible_topologies_are_refused() {
        let t = HartTopology::flat(4);
        assert_eq!(HartTopology { threads: 0, ..t }.check(), Err(TopologyError::Zero));
        assert!(matches!(HartTopology { harts: 5, ..t }.check(), Err(TopologyError::TooMany(_))));
        assert_eq!(HartTopology::flat(513).check(), Err(TopologyError::BeyondLimit(513)));
    }
}
