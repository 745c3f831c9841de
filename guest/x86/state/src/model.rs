//! CPU models: a name, a signature and a set of features, changed by the properties that follow it in `-cpu`.

use thiserror::Error;

use crate::X86State;
use crate::features::{self, Feature, FeatureName, FeatureSet};
use crate::models::{MODELS, ModelDefinition, PREREQUISITES};
use crate::state::gpr;
use crate::topology::CpuTopology;

/// Whose processor the model is: the vendors' architectures differ in a few instructions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Vendor {
    /// "GenuineIntel".
    Intel,
    /// "AuthenticAMD".
    #[default]
    Amd,
}

impl Vendor {
    /// The twelve bytes that CPUID leaf 0 returns in EBX, EDX, ECX.
    pub const fn id(self) -> &'static [u8; 12] {
        match self {
            Self::Intel => b"GenuineIntel",
            Self::Amd => b"AuthenticAMD",
        }
    }

    /// SYSCALL and SYSRET exist outside 64-bit mode (AMD APM vol. 3).
    pub const fn has_legacy_syscall(self) -> bool {
        matches!(self, Self::Amd)
    }

    /// SYSENTER and SYSEXIT exist in long mode (Intel SDM vol. 2).
    pub const fn has_long_sysenter(self) -> bool {
        matches!(self, Self::Intel)
    }
}

/// Why a `-cpu` argument is refused.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum ModelError {
    /// No such model.
    #[error("unknown CPU model '{0}' (`-cpu help` lists the models)")]
    UnknownModel(String),
    /// `host`, which only a hardware accelerator can give.
    #[error("CPU model 'host' needs a hardware accelerator; use 'max' with the translator")]
    Host,
    /// Neither a feature nor a property.
    #[error("unknown CPU feature or property '{0}' (`-cpu help` lists the features)")]
    UnknownProperty(String),
    /// A feature that exists on real processors and not here.
    #[error("CPU feature '{0}' is not implemented")]
    NotImplemented(&'static str),
    /// A value that the property cannot have.
    #[error("CPU property '{property}' cannot be '{value}': {expected}")]
    BadValue {
        /// The property's name.
        property: String,
        /// What was given.
        value: String,
        /// What is accepted.
        expected: &'static str,
    },
    /// A feature was asked for without one that it is built on.
    #[error("CPU feature '{feature}' needs '{needs}'")]
    Missing {
        /// What was asked for.
        feature: &'static str,
        /// What it needs.
        needs: &'static str,
    },
    /// More processors, or fewer, than can be numbered.
    #[error("impossible CPU topology: {0}")]
    Topology(&'static str),
}

/// A configured processor model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CpuModel {
    pub(crate) name: String,
    pub(crate) vendor: Vendor,
    pub(crate) family: u32,
    pub(crate) model: u32,
    pub(crate) stepping: u32,
    pub(crate) brand: [u8; 48],
    /// Highest basic leaf, before features raise it.
    pub(crate) level: u32,
    /// Highest extended leaf, before features raise it; 0 for none.
    pub(crate) xlevel: u32,
    pub(crate) features: FeatureSet,
    pub(crate) physical_bits: u32,
    pub(crate) topology: CpuTopology,
}

impl Default for CpuModel {
    /// `qemu64`.
    fn default() -> Self {
        Self::from_definition(&MODELS[0])
    }
}

fn brand(text: &str) -> [u8; 48] {
    let mut bytes = [0; 48];
    // The 48th byte stays zero.
    for (to, from) in bytes[..47].iter_mut().zip(text.bytes()) {
        *to = from;
    }
    bytes
}

fn bad(property: &str, value: &str, expected: &'static str) -> ModelError {
    ModelError::BadValue { property: property.into(), value: value.into(), expected }
}

fn number(property: &str, value: &str, max: u32, expected: &'static str) -> Result<u32, ModelError> {
    let parsed = match value.strip_prefix("0x") {
        Some(hex) => u32::from_str_radix(hex, 16),
        None => value.parse(),
    };
    parsed.ok().filter(|n| *n <= max).ok_or_else(|| bad(property, value, expected))
}

impl CpuModel {
    fn from_definition(d: &ModelDefinition) -> Self {
        let features = d.features.union(FeatureSet::of(&[Feature::HYPERVISOR]));
        Self {
            name: d.name.into(),
            vendor: d.vendor,
            family: d.family,
            model: d.model,
            stepping: d.stepping,
            brand: brand(d.brand),
            level: d.level,
            xlevel: d.xlevel,
            features,
            physical_bits: default_physical_bits(&features),
            topology: CpuTopology::default(),
        }
    }

    /// A model by its plain name.
    pub fn named(name: &str) -> Result<Self, ModelError> {
        if name == "host" {
            return Err(ModelError::Host);
        }
        MODELS
            .iter()
            .find(|d| d.name == name || d.aliases.contains(&name))
            .map(Self::from_definition)
            .ok_or_else(|| ModelError::UnknownModel(name.into()))
    }

    /// Parses a whole `-cpu` argument: a model, then `+feature`, `-feature`, `feature`, `feature=on|off` and the
    /// properties `vendor`, `family`, `model`, `stepping`, `model-id`, `level`, `xlevel`, `phys-bits`, `check` and
    /// `enforce`, from left to right.
    ///
    /// A feature that is switched off takes along those built on it; one that is asked for without what it is
    /// built on is refused.
    pub fn parse(argument: &str) -> Result<Self, ModelError> {
        let mut parts = argument.split(',');
        let mut model = Self::named(parts.next().unwrap_or_default())?;
        let mut wanted = Vec::new();
        let mut physical_bits = None;
        for part in parts {
            let (key, value) = if let Some(key) = part.strip_prefix('+') {
                (key, "on")
            } else if let Some(key) = part.strip_prefix('-') {
                (key, "off")
            } else {
                part.split_once('=').unwrap_or((part, "on"))
            };
            if let Some(f) = features::find(key) {
                model.set_feature(f, value, &mut wanted)?;
            } else if key == "phys-bits" {
                let bits = number(key, value, 52, "a number from 32 to 52")?;
                if bits < 32 {
                    return Err(bad(key, value, "a number from 32 to 52"));
                }
                physical_bits = Some(bits);
            } else {
                model.set_property(key, value)?;
            }
        }
        model.drop_dependents();
        for f in wanted {
            model.check_prerequisites(f)?;
        }
        model.physical_bits = physical_bits.unwrap_or_else(|| default_physical_bits(&model.features));
        Ok(model)
    }

    fn set_feature(
        &mut self,
        f: &'static FeatureName,
        value: &str,
        wanted: &mut Vec<Feature>,
    ) -> Result<(), ModelError> {
        let on = switch(f.name, value)?;
        if on && !f.implemented {
            return Err(ModelError::NotImplemented(f.name));
        }
        self.features.set(f.feature, on);
        wanted.retain(|w| *w != f.feature);
        if on {
            wanted.push(f.feature);
        }
        Ok(())
    }

    fn set_property(&mut self, key: &str, value: &str) -> Result<(), ModelError> {
        match key {
            "vendor" => {
                self.vendor = match value {
                    "GenuineIntel" => Vendor::Intel,
                    "AuthenticAMD" => Vendor::Amd,
                    _ => return Err(bad(key, value, "GenuineIntel or AuthenticAMD")),
                }
            }
            "family" => self.family = number(key, value, 0xff + 0xf, "a number up to 270")?,
            "model" => self.model = number(key, value, 0xff, "a number up to 255")?,
            "stepping" => self.stepping = number(key, value, 0xf, "a number up to 15")?,
            "level" => self.level = number(key, value, 0x1f, "a number up to 0x1f")?,
            "xlevel" => {
                self.xlevel = number(key, value, 0x8000_001f, "0x80000000 to 0x8000001f")?;
                if self.xlevel >> 31 == 0 {
                    return Err(bad(key, value, "0x80000000 to 0x8000001f"));
                }
            }
            "model-id" => {
                if !value.is_ascii() || value.len() > 47 {
                    return Err(bad(key, value, "up to 47 ASCII characters"));
                }
                self.brand = brand(value);
            }
            // Every feature that is on is implemented, so both checks always hold.
            "check" | "enforce" => {
                switch(key, value)?;
            }
            _ => return Err(ModelError::UnknownProperty(key.into())),
        }
        Ok(())
    }

    /// Switches off what lacks a prerequisite, until nothing changes.
    fn drop_dependents(&mut self) {
        let explicit = self.features;
        loop {
            let before = self.features;
            for &(f, needs) in PREREQUISITES {
                if !before.has(needs) {
                    self.features.set(f, false);
                }
            }
            if self.features == before {
                break;
            }
        }
        debug_assert_eq!(self.features.without(explicit), FeatureSet::default());
    }

    fn check_prerequisites(&self, wanted: Feature) -> Result<(), ModelError> {
        if self.features.has(wanted) {
            return Ok(());
        }
        let lacking = PREREQUISITES.iter().find(|(f, needs)| *f == wanted && !self.features.has(*needs));
        match lacking {
            Some((f, needs)) => {
                Err(ModelError::Missing { feature: features::name(*f), needs: features::name(*needs) })
            }
            None => Ok(()),
        }
    }

    /// Places the model in a machine. Every count must be at least 1; without x2APIC, APIC IDs end at 254.
    pub fn with_topology(mut self, topology: CpuTopology) -> Result<Self, ModelError> {
        let t = topology;
        if t.sockets == 0 || t.dies == 0 || t.cores == 0 || t.threads == 0 {
            return Err(ModelError::Topology("every count must be at least 1"));
        }
        if t.total() > 4096 {
            return Err(ModelError::Topology("more than 4096 processors"));
        }
        if t.apic_id(t.total() - 1) > 254 && !self.features.has(Feature::X2APIC) {
            return Err(ModelError::Topology("APIC IDs above 254 need the CPU feature x2apic"));
        }
        self.topology = t;
        Ok(self)
    }

    /// The model's name as given to `-cpu`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The vendor.
    pub const fn vendor(&self) -> Vendor {
        self.vendor
    }

    /// The features that are on.
    pub const fn features(&self) -> &FeatureSet {
        &self.features
    }

    /// Physical-address width in bits.
    pub const fn physical_bits(&self) -> u32 {
        self.physical_bits
    }

    /// The machine's processors.
    pub const fn topology(&self) -> &CpuTopology {
        &self.topology
    }

    /// Family, model and stepping as CPUID leaf 1 EAX encodes them.
    pub const fn signature(&self) -> u32 {
        let (base, extended) = if self.family > 0xf { (0xf, self.family - 0xf) } else { (self.family, 0) };
        extended << 20 | (self.model >> 4) << 16 | base << 8 | (self.model & 0xf) << 4 | self.stepping
    }

    /// The state of a processor of this model after RESET; application processors wait for a start-up IPI.
    pub fn reset_state(&self, bootstrap: bool) -> X86State {
        let mut st = X86State::reset();
        st.features = self.features;
        st.physical_bits = self.physical_bits;
        st.gpr[gpr::RDX] = u64::from(self.signature());
        st.wait_for_sipi = u32::from(!bootstrap);
        if self.features.has(Feature::MONITOR) {
            st.msr.misc_enable |= 1 << 18;
        }
        st.mode = st.compute_mode();
        st
    }
}

fn switch(property: &str, value: &str) -> Result<bool, ModelError> {
    match value {
        "on" | "yes" | "true" | "y" => Ok(true),
        "off" | "no" | "false" | "n" => Ok(false),
        _ => Err(bad(property, value, "on or off")),
    }
}

/// 40 bits with long mode (what a translator of this kind usually shows), 36 with PSE-36 or PAE, else 32.
fn default_physical_bits(features: &FeatureSet) -> u32 {
    if features.has(Feature::LM) {
        40
    } else if features.has(Feature::PSE36) || features.has(Feature::PAE) {
        36
    } else {
        32
    }
}

/// Names and descriptions of all models, for `-cpu help`.
pub fn list_models() -> impl Iterator<Item = (&'static str, &'static str)> {
    MODELS
        .iter()
        .flat_map(|d| std::iter::once((d.name, d.brand)).chain(d.aliases.iter().map(|a| (*a, "(alias)"))))
}

/// Names of the features that can be switched on, for `-cpu help`.
pub fn list_features() -> impl Iterator<Item = &'static str> {
    features::NAMES.iter().filter(|f| f.implemented).map(|f| f.name)
}
