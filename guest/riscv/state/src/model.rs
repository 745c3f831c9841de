//! CPU models: a name and a set of extensions, changed by the properties that follow it in `-cpu`.

use thiserror::Error;

use crate::RiscvState;
use crate::extension::{EXTENSIONS, Extension, Extension as X, ExtensionSet};
use crate::models::{MODELS, ModelDefinition};
use crate::rules::{BRINGS, GROUPS, NEEDS, PARTS};
use crate::state::{HartConfig, satp};

/// Largest number of PMP regions (privileged specification, "Physical Memory Protection CSRs").
pub const MAX_PMP_REGIONS: u32 = 64;

/// Programmable counters where nothing else is asked for: 3 to 18.
const DEFAULT_PMU_MASK: u32 = 0x7_fff8;

/// Why a `-cpu` argument is refused.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum ModelError {
    /// No such model.
    #[error("unknown CPU model '{0}' (`-cpu help` lists the models)")]
    UnknownModel(String),
    /// `host`, which only a hardware accelerator can give.
    #[error("CPU model 'host' needs a hardware accelerator; use 'max' with the translator")]
    Host,
    /// Neither an extension nor a property.
    #[error("unknown CPU extension or property '{0}' (`-cpu MODEL,help` lists them)")]
    UnknownProperty(String),
    /// An extension that the architecture has and this hart has not.
    #[error("CPU extension '{0}' ({1}) is not implemented")]
    NotImplemented(&'static str, &'static str),
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
    /// An extension was asked for without one that it is built on.
    #[error("CPU extension '{extension}' needs '{needs}'")]
    Missing {
        /// What was asked for.
        extension: &'static str,
        /// What it needs.
        needs: &'static str,
    },
    /// Two settings that exclude each other.
    #[error("{0}")]
    Conflict(String),
}

/// A configured hart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CpuModel {
    name: &'static str,
    profile: ExtensionSet,
    config: HartConfig,
}

impl Default for CpuModel {
    /// `rv64`.
    fn default() -> Self {
        Self::from_definition(&MODELS[0])
    }
}

fn bad(property: &str, value: &str, expected: &'static str) -> ModelError {
    ModelError::BadValue { property: property.into(), value: value.into(), expected }
}

fn number(property: &str, value: &str, expected: &'static str) -> Result<u64, ModelError> {
    let parsed = match value.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16),
        None => value.parse(),
    };
    parsed.map_err(|_| bad(property, value, expected))
}

fn switch(property: &str, value: &str) -> Result<bool, ModelError> {
    match value {
        "on" | "yes" | "true" | "y" => Ok(true),
        "off" | "no" | "false" | "n" => Ok(false),
        _ => Err(bad(property, value, "on or off")),
    }
}

/// A power of two between two bounds.
fn power(
    property: &str,
    value: &str,
    (low, high): (u64, u64),
    text: &'static str,
) -> Result<u32, ModelError> {
    let n = number(property, value, text)?;
    if !n.is_power_of_two() || n < low || n > high {
        return Err(bad(property, value, text));
    }
    Ok(n as u32)
}

/// What the properties asked for by name; the last word on a name counts.
#[derive(Default)]
struct Asked {
    on: ExtensionSet,
    off: ExtensionSet,
    /// satp modes by name, in the order given.
    satp: Vec<(u32, bool)>,
    vlen: bool,
    elen: bool,
}

impl CpuModel {
    fn from_definition(d: &ModelDefinition) -> Self {
        let mut model = Self {
            name: d.name,
            profile: d.profile,
            config: HartConfig {
                extensions: d.extensions,
                xlen: d.xlen,
                satp_max: d.satp,
                vlen: 128,
                elen: 64,
                pmp_regions: 16,
                mmu: 1,
                cbom_block: 64,
                cbop_block: 64,
                cboz_block: 64,
                pmu_mask: DEFAULT_PMU_MASK,
                vendor_id: 0,
                arch_id: 0,
                imp_id: 0,
                hart_id: 0,
            },
        };
        model.fill_groups();
        model
    }

    /// A model by its plain name.
    ///
    /// # Errors
    /// There is none of that name.
    pub fn named(name: &str) -> Result<Self, ModelError> {
        Self::find(name, None)
    }

    fn find(name: &str, xlen: Option<u32>) -> Result<Self, ModelError> {
        if name == "host" {
            return Err(ModelError::Host);
        }
        let mut named = MODELS.iter().filter(|d| d.name == name);
        named
            .find(|d| xlen.is_none_or(|xlen| d.xlen == xlen))
            .map(Self::from_definition)
            .ok_or_else(|| ModelError::UnknownModel(name.into()))
    }

    /// The model with an extension that a board brings along, such as the advanced interrupt architecture.
    #[must_use]
    pub fn with(mut self, extension: Extension) -> Self {
        self.config.extensions.set(extension, true);
        self.fill_groups();
        self
    }

    /// Parses a whole `-cpu` argument: a model, then `extension=on|off` (`true`, `false` and so on; `+x` and `-x` too)
    /// and the properties `vlen`, `elen`, `vext_spec`, `priv_spec`, `sv32`, `sv39`, `sv48`, `sv57`, `mmu`, `pmp`,
    /// `num-pmp-regions`, `pmu-mask`, `cbom_blocksize`, `cbop_blocksize`, `cboz_blocksize`, `mvendorid`, `marchid` and
    /// `mimpid`, from left to right.
    ///
    /// An extension that is asked for brings along what it is made of, as far as that is not switched off by name;
    /// one that is asked for without what it needs is refused; one that was only the model's default goes with it.
    ///
    /// # Errors
    /// Anything unknown, not implemented, or contradictory.
    pub fn parse(argument: &str) -> Result<Self, ModelError> {
        Self::parse_within(argument, None)
    }

    /// As [`CpuModel::parse`], among the models of harts of `xlen` bits, 32 or 64.
    ///
    /// # Errors
    /// As there; a model of another width is unknown.
    pub fn parse_for(xlen: u32, argument: &str) -> Result<Self, ModelError> {
        Self::parse_within(argument, Some(xlen))
    }

    fn parse_within(argument: &str, xlen: Option<u32>) -> Result<Self, ModelError> {
        let mut parts = argument.split(',');
        let mut model = Self::find(parts.next().unwrap_or_default(), xlen)?;
        let mut asked = Asked::default();
        for part in parts {
            let (key, value) = if let Some(key) = part.strip_prefix('+') {
                (key, "on")
            } else if let Some(key) = part.strip_prefix('-') {
                (key, "off")
            } else {
                part.split_once('=').unwrap_or((part, "on"))
            };
            match Extension::find(key) {
                Some(extension) => ask(&mut asked, extension, value)?,
                None => model.set_property(key, value, &mut asked)?,
            }
        }
        model.resolve(&asked)?;
        Ok(model)
    }

    fn set_property(&mut self, key: &str, value: &str, asked: &mut Asked) -> Result<(), ModelError> {
        const BLOCK: &str = "a power of two from 8 to 4096";
        let c = &mut self.config;
        match key {
            "vlen" => {
                c.vlen = power(key, value, (128, 1024), "a power of two from 128 to 1024")?;
                asked.vlen = true;
            }
            "elen" => {
                c.elen = power(key, value, (32, 64), "32 or 64")?;
                asked.elen = true;
            }
            "vext_spec" => only(key, value, &["v1.0"], "v1.0")?,
            "priv_spec" => only(key, value, &["v1.12.0", "v1.13.0"], "v1.12.0 or v1.13.0")?,
            "sv32" | "sv39" | "sv48" | "sv57" => {
                let mode = match key {
                    "sv32" => satp::SV32,
                    "sv39" => satp::SV39,
                    "sv48" => satp::SV48,
                    _ => satp::SV57,
                };
                if (mode == satp::SV32) != (c.xlen == 32) {
                    return Err(ModelError::Conflict(format!(
                        "'{key}' is not a mode of a {}-bit hart",
                        c.xlen
                    )));
                }
                asked.satp.push((mode, switch(key, value)?));
            }
            "mmu" => c.mmu = u32::from(switch(key, value)?),
            "pmp" => c.pmp_regions = if switch(key, value)? { c.pmp_regions.max(16) } else { 0 },
            "num-pmp-regions" => {
                c.pmp_regions = match number(key, value, "0, 16 or 64")? {
                    n @ (0 | 16 | 64) => n as u32,
                    _ => return Err(bad(key, value, "0, 16 or 64")),
                }
            }
            "pmu-mask" => {
                let text = "a mask of counters 3 to 31";
                let mask = number(key, value, text)?;
                if mask & 7 != 0 || mask >> 32 != 0 {
                    return Err(bad(key, value, text));
                }
                c.pmu_mask = mask as u32;
            }
            "cbom_blocksize" => c.cbom_block = power(key, value, (8, 4096), BLOCK)?,
            "cbop_blocksize" => c.cbop_block = power(key, value, (8, 4096), BLOCK)?,
            "cboz_blocksize" => c.cboz_block = power(key, value, (8, 4096), BLOCK)?,
            "mvendorid" => {
                c.vendor_id = number(key, value, "a 32-bit number")?;
                if c.vendor_id >> 32 != 0 {
                    return Err(bad(key, value, "a 32-bit number"));
                }
            }
            "marchid" => c.arch_id = number(key, value, "a number")?,
            "mimpid" => c.imp_id = number(key, value, "a number")?,
            _ => return Err(ModelError::UnknownProperty(key.into())),
        }
        Ok(())
    }

    /// Makes one consistent set of the defaults and of what was asked for.
    fn resolve(&mut self, asked: &Asked) -> Result<(), ModelError> {
        let mut set = self.config.extensions.union(asked.on).without(asked.off);
        // What was asked for brings its members, and these theirs.
        let mut wanted = asked.on;
        loop {
            let before = wanted;
            for (group, members) in BRINGS.iter().filter(|(group, _)| before.has(*group)) {
                for member in members.iter().filter(|m| !asked.off.has(**m)) {
                    debug_assert!(member.info().implemented, "{group:?}");
                    wanted.set(*member, true);
                }
            }
            if wanted == before {
                break;
            }
        }
        set = set.union(wanted);
        // Switching a group off switches off its members that nothing else wants.
        for (group, members) in GROUPS.iter().filter(|(group, _)| asked.off.has(*group)) {
            for member in members.iter().filter(|m| !wanted.has(**m)) {
                set.set(*member, false);
            }
            if members.iter().all(|m| set.has(*m)) {
                return Err(ModelError::Conflict(format!(
                    "CPU extension '{}' is off, but everything it is made of is on",
                    group.name()
                )));
            }
        }
        for (whole, parts) in PARTS.iter().filter(|(whole, _)| asked.off.has(*whole)) {
            debug_assert!(!set.has(*whole));
            for part in parts.iter().filter(|p| !wanted.has(**p)) {
                set.set(*part, false);
            }
        }
        self.config.extensions = drop_dependents(set);
        self.fill_groups();
        self.refuse_missing(asked.on, asked.off)?;
        self.complete_compressed(asked)?;
        self.fill_groups();
        let set = self.config.extensions;
        if set.has(X::Zve32x) && !set.has(X::Zve64x) && !asked.elen {
            self.config.elen = 32;
        }
        self.resolve_block_size(asked)?;
        self.resolve_satp(asked)?;
        self.check_conflicts(asked)
    }

    /// Refuses what was asked for by name and lost what it needs.
    fn refuse_missing(&self, on: ExtensionSet, off: ExtensionSet) -> Result<(), ModelError> {
        let set = self.config.extensions;
        for extension in on.iter().filter(|e| *e != X::G) {
            let member = BRINGS
                .iter()
                .filter(|(group, _)| *group == extension)
                .flat_map(|(_, members)| *members)
                .find(|m| off.has(**m) && !set.has(**m));
            let need =
                NEEDS.iter().find(|(e, needs)| *e == extension && !set.has(*needs)).map(|(_, needs)| needs);
            if let Some(needs) = need.or(member) {
                return Err(ModelError::Missing { extension: extension.name(), needs: needs.name() });
            }
            if !set.has(extension) {
                return Err(ModelError::Conflict(format!(
                    "CPU extension '{}' is on, but something it is built on is off",
                    extension.name()
                )));
            }
        }
        if on.has(X::G) {
            let members = BRINGS.iter().find(|(group, _)| *group == X::G).map_or(&[][..], |(_, m)| *m);
            if let Some(lacking) = members.iter().find(|m| !set.has(**m)) {
                return Err(ModelError::Missing { extension: "g", needs: lacking.name() });
            }
        }
        Ok(())
    }

    /// C is Zca, and Zcf (RV32 with F) and Zcd (with D) where there are the registers for them (unprivileged
    /// specification, "Zc*").
    fn complete_compressed(&mut self, asked: &Asked) -> Result<(), ModelError> {
        let c = &mut self.config;
        let parts = [(X::Zcf, c.xlen == 32 && c.extensions.has(X::F)), (X::Zcd, c.extensions.has(X::D))];
        if c.xlen == 64 && asked.on.has(X::Zcf) {
            return Err(ModelError::Conflict("CPU extension 'zcf' exists on 32-bit harts only".into()));
        }
        for (part, present) in parts {
            if c.extensions.has(X::C) && present {
                if asked.off.has(part) {
                    return Err(ModelError::Missing { extension: "c", needs: part.name() });
                }
                c.extensions.set(part, true);
            }
        }
        if c.extensions.has(X::C) && !c.extensions.has(X::Zca) {
            return Err(ModelError::Missing { extension: "c", needs: "zca" });
        }
        Ok(())
    }

    /// Marks groups whose members are all there, and unmarks the others.
    fn fill_groups(&mut self) {
        let set = &mut self.config.extensions;
        for (group, members) in GROUPS {
            let whole = members.iter().all(|m| set.has(*m));
            set.set(*group, whole);
        }
        let g = ExtensionSet::of(&[X::I, X::M, X::A, X::F, X::D, X::Zicsr, X::Zifencei]);
        set.set(X::G, g.without(*set) == ExtensionSet::default());
    }

    /// Zic64b says that all blocks have 64 bytes.
    fn resolve_block_size(&mut self, asked: &Asked) -> Result<(), ModelError> {
        let c = &mut self.config;
        if (c.cbom_block, c.cbop_block, c.cboz_block) == (64, 64, 64) {
            return Ok(());
        }
        if asked.on.has(X::Zic64b) {
            return Err(ModelError::Conflict("CPU extension 'zic64b' means cache blocks of 64 bytes".into()));
        }
        c.extensions.set(X::Zic64b, false);
        Ok(())
    }

    /// The largest mode named `on` counts; modes switched off take along those above (each mode of satp needs the
    /// smaller ones; privileged specification, "Sv48" and "Sv57").
    fn resolve_satp(&mut self, asked: &Asked) -> Result<(), ModelError> {
        let c = &mut self.config;
        if c.mmu == 0 || !c.extensions.has(X::S) {
            if asked.satp.iter().any(|(_, on)| *on) {
                return Err(ModelError::Conflict(
                    "a mode of satp needs the CPU properties 'mmu' and 's'".into(),
                ));
            }
            c.satp_max = satp::BARE;
            return Ok(());
        }
        let on = asked.satp.iter().filter(|(_, on)| *on).map(|(mode, _)| *mode).max();
        let off = asked.satp.iter().filter(|(_, on)| !*on).map(|(mode, _)| *mode).min();
        if let Some(mode) = on {
            c.satp_max = mode;
        }
        if let Some(mode) = off {
            if on.is_some_and(|on| on >= mode) {
                return Err(ModelError::Conflict(format!(
                    "'{}' is on, but '{}' is off, which it is built on",
                    satp::name(c.satp_max),
                    satp::name(mode)
                )));
            }
            let below = [satp::BARE, satp::SV32, satp::SV39, satp::SV48].into_iter();
            let below =
                below.filter(|m| *m < mode && (*m == satp::BARE || (*m == satp::SV32) == (c.xlen == 32)));
            c.satp_max = c.satp_max.min(below.max().unwrap_or(satp::BARE));
        }
        Ok(())
    }

    fn check_conflicts(&self, asked: &Asked) -> Result<(), ModelError> {
        let c = &self.config;
        let e = &c.extensions;
        let conflict = |text: &str| Err(ModelError::Conflict(text.into()));
        if !e.has(X::I) {
            return conflict("CPU extension 'i' cannot be switched off");
        }
        if !e.has(X::Zicsr) {
            return conflict(
                "CPU extension 'zicsr' cannot be switched off: the privileged architecture needs it",
            );
        }
        if asked.vlen && !e.has(X::Zve32x) {
            return conflict("CPU property 'vlen' needs vectors: add 'v=true' or one of 'zve*'");
        }
        if asked.elen && !e.has(X::Zve32x) {
            return conflict("CPU property 'elen' needs vectors: add 'v=true' or one of 'zve*'");
        }
        if e.has(X::Zve64x) && c.elen != 64 {
            return conflict("CPU property 'elen' must be 64 with 'v' or 'zve64*'");
        }
        let paged = [X::Svade, X::Svadu, X::Svinval, X::Svnapot, X::Svpbmt];
        if let Some(one) = paged.into_iter().find(|x| asked.on.has(*x) && c.satp_max == satp::BARE) {
            return Err(ModelError::Conflict(format!("CPU extension '{}' needs paging ('mmu')", one.name())));
        }
        let masking = [X::Smmpm, X::Smnpm, X::Ssnpm, X::Sspm, X::Supm];
        if let Some(one) = masking.into_iter().find(|x| asked.on.has(*x) && c.xlen == 32) {
            return Err(ModelError::Conflict(format!(
                "CPU extension '{}' exists on 64-bit harts only",
                one.name()
            )));
        }
        for one in [X::Svnapot, X::Svpbmt].into_iter().filter(|x| asked.on.has(*x)) {
            if c.xlen == 32 {
                return Err(ModelError::Conflict(format!(
                    "CPU extension '{}' needs Sv39 (64 bits)",
                    one.name()
                )));
            }
        }
        if asked.on.has(X::Ssu64xl) && c.xlen == 32 {
            return conflict("CPU extension 'ssu64xl' exists on 64-bit harts only");
        }
        Ok(())
    }

    /// Refuses what a translator lacks.
    ///
    /// # Errors
    /// Names the first extension that is on and not in `supported`.
    pub fn require_within(&self, supported: &ExtensionSet) -> Result<(), ModelError> {
        match self.config.extensions.without(*supported).iter().next() {
            Some(lacking) => Err(ModelError::NotImplemented(lacking.name(), lacking.info().summary)),
            None => Ok(()),
        }
    }

    /// What the profile the model is named for asks for and this hart has not.
    pub fn profile_gaps(&self) -> impl Iterator<Item = Extension> {
        self.profile.without(self.config.extensions).iter()
    }

    /// The model's name as given to `-cpu`.
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// The extensions that are on.
    pub const fn extensions(&self) -> &ExtensionSet {
        &self.config.extensions
    }

    /// Everything that a hart of this model is fixed to.
    pub const fn config(&self) -> &HartConfig {
        &self.config
    }

    /// The state of hart `hart_id` after reset, at `reset_vector` (privileged specification, "Reset").
    pub fn reset_state(&self, hart_id: u64, reset_vector: u64) -> RiscvState {
        RiscvState::reset(HartConfig { hart_id, ..self.config }, reset_vector)
    }
}

fn only(key: &str, value: &str, values: &[&str], expected: &'static str) -> Result<(), ModelError> {
    if values.contains(&value) { Ok(()) } else { Err(bad(key, value, expected)) }
}

fn ask(asked: &mut Asked, extension: Extension, value: &str) -> Result<(), ModelError> {
    let on = switch(extension.name(), value)?;
    let info = extension.info();
    if on && !info.implemented {
        return Err(ModelError::NotImplemented(info.name, info.summary));
    }
    if extension == X::Svbare && !on {
        return Err(ModelError::Conflict("CPU extension 'svbare' cannot be switched off".into()));
    }
    if extension == X::G && !on {
        return Err(ModelError::Conflict(
            "'g' stands for 'imafd', 'zicsr' and 'zifencei': switch these off".into(),
        ));
    }
    asked.on.set(extension, on);
    asked.off.set(extension, !on);
    Ok(())
}

/// Switches off what lacks something it needs, until nothing changes.
fn drop_dependents(mut set: ExtensionSet) -> ExtensionSet {
    loop {
        let before = set;
        for (extension, needs) in NEEDS {
            if !before.has(*needs) {
                set.set(*extension, false);
            }
        }
        if set == before {
            return set;
        }
    }
}

/// Names and descriptions of the models of harts of `xlen` bits, for `-cpu help`.
pub fn list_models(xlen: u32) -> impl Iterator<Item = (&'static str, &'static str)> {
    MODELS.iter().filter(move |d| d.xlen == xlen).map(|d| (d.name, d.summary))
}

/// Names and descriptions of the extensions that can be switched on, for `-cpu MODEL,help`.
pub fn list_extensions() -> impl Iterator<Item = (&'static str, &'static str)> {
    EXTENSIONS.iter().filter(|e| e.implemented).map(|e| (e.name, e.summary))
}
