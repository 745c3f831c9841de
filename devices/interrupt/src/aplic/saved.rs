//! Saved state of the controller.

use super::{Domain, Idc, Source, State, spec};
use rhea_device::LoadError;

rhea_device::saved_record! { "aplic-domain", 1,
    /// Saved state of a domain.
    pub struct AplicDomainSavedV1 {
        /// domaincfg.
        config: u32,
        /// genmsi.
        genmsi: u32,
        /// sourcecfg by source.
        sources: Vec<u32>,
        /// target by source.
        targets: Vec<u32>,
        /// Pending bits.
        pending: Vec<bool>,
        /// Enable bits.
        enabled: Vec<bool>,
        /// idelivery and iforce by hart.
        idcs: Vec<[bool; 2]>,
        /// ithreshold by hart.
        thresholds: Vec<u32>,
    }
}

rhea_device::saved_record! { "riscv-aplic", 1,
    /// Saved state of the controller.
    pub struct AplicSavedV1 {
        /// Input levels.
        levels: Vec<bool>,
        /// Addresses for messages.
        addresses: [u32; 4],
        /// The machine-level domain and the supervisor-level one.
        domains: Vec<AplicDomainSavedV1>,
    }
}

impl AplicDomainSavedV1 {
    pub(super) fn of(domain: &Domain) -> Self {
        Self {
            config: domain.config,
            genmsi: domain.genmsi,
            sources: domain.sources.iter().map(|source| source.config).collect(),
            targets: domain.sources.iter().map(|source| source.target).collect(),
            pending: domain.sources.iter().map(|source| source.pending).collect(),
            enabled: domain.sources.iter().map(|source| source.enabled).collect(),
            idcs: domain.idcs.iter().map(|idc| [idc.delivery, idc.force]).collect(),
            thresholds: domain.idcs.iter().map(|idc| idc.threshold).collect(),
        }
    }

    fn domain(&self, sources: usize, harts: usize) -> Option<Domain> {
        let by_source = [self.sources.len(), self.targets.len(), self.pending.len(), self.enabled.len()];
        if by_source != [sources; 4] || [self.idcs.len(), self.thresholds.len()] != [harts; 2] {
            return None;
        }
        let legal_config = |config: &u32| {
            *config == spec::SOURCE_D || *config <= spec::SOURCE_MODE && spec::legal_mode(*config) == *config
        };
        if self.config & !(spec::DOMAIN_IE | spec::DOMAIN_DM) != 0 || !self.sources.iter().all(legal_config) {
            return None;
        }
        let bits = self.pending.iter().zip(&self.enabled);
        let rows = self.sources.iter().zip(&self.targets).zip(bits);
        let source = |((config, target), (pending, enabled)): ((&u32, &u32), (&bool, &bool))| Source {
            config: *config,
            pending: *pending,
            enabled: *enabled,
            target: *target,
        };
        let idc = |([delivery, force], threshold): (&[bool; 2], &u32)| Idc {
            delivery: *delivery,
            force: *force,
            threshold: *threshold & spec::TARGET_PRIORITY,
        };
        Some(Domain {
            config: self.config,
            genmsi: self.genmsi,
            sources: rows.map(source).collect(),
            idcs: self.idcs.iter().zip(&self.thresholds).map(idc).collect(),
        })
    }
}

impl AplicSavedV1 {
    pub(super) fn state(&self, sources: usize, harts: usize) -> Result<State, LoadError> {
        let bad = |field| LoadError::BadValue { device: "riscv-aplic", field };
        let [machine, supervisor] = self.domains.as_slice() else { return Err(bad("domains")) };
        if self.levels.len() != sources {
            return Err(bad("number of sources"));
        }
        let domain = |saved: &AplicDomainSavedV1| saved.domain(sources, harts).ok_or_else(|| bad("domain"));
        Ok(State {
            domains: [domain(machine)?, domain(supervisor)?],
            levels: self.levels.clone(),
            addresses: self.addresses,
        })
    }
}
