//! The advanced platform-level interrupt controller: a machine-level domain and a supervisor-level one below it.
//!
//! Source: RISC-V Advanced Interrupt Architecture 1.0, chapter 4. Each domain delivers directly, to one line for each hart,
//! or by messages to the harts' incoming-MSI controllers; software chooses. Registers are little-endian only. Addresses for
//! messages are not locked at reset: firmware sets them.

use parking_lot::Mutex;
use rhea_device::{IrqLine, IrqSink, LoadError, MsiSink, Reset, ResetKind, SavedRecord, StateUnit};
use rhea_device::{load_record, save_record};
use rhea_memory::{AccessSizes, MmioHandler};
use std::sync::Arc;

mod saved;
mod spec;
#[cfg(test)]
mod tests;

use saved::{AplicDomainSavedV1, AplicSavedV1};

/// Bytes of a domain's registers for that many harts.
pub const fn aplic_size(harts: u64) -> u64 {
    let bytes = spec::IDC + spec::IDC_STRIDE * harts;
    if bytes < 0x8000 { 0x8000 } else { bytes.next_multiple_of(0x1000) }
}

/// Most sources, with the reserved source 0.
pub const APLIC_SOURCES: usize = 1024;

/// The machine-level domain.
const MACHINE: usize = 0;
/// The supervisor-level domain.
const SUPERVISOR: usize = 1;

#[derive(Clone, Debug, Default)]
struct Source {
    config: u32,
    pending: bool,
    enabled: bool,
    target: u32,
}

/// Interrupt delivery control of one hart, in direct mode.
#[derive(Clone, Debug, Default)]
struct Idc {
    delivery: bool,
    force: bool,
    threshold: u32,
}

#[derive(Clone, Debug)]
struct Domain {
    config: u32,
    sources: Vec<Source>,
    idcs: Vec<Idc>,
    genmsi: u32,
}

#[derive(Clone, Debug)]
struct State {
    domains: [Domain; 2],
    levels: Vec<bool>,
    /// mmsiaddrcfg, mmsiaddrcfgh, smsiaddrcfg, smsiaddrcfgh.
    addresses: [u32; 4],
}

impl Domain {
    fn new(sources: usize, harts: usize) -> Self {
        Self {
            config: 0,
            sources: vec![Source::default(); sources],
            idcs: vec![Idc::default(); harts],
            genmsi: 0,
        }
    }

    fn messages(&self) -> bool {
        self.config & spec::DOMAIN_DM != 0
    }

    fn mode(&self, source: usize) -> u32 {
        match self.sources.get(source) {
            Some(source) if source.config & spec::SOURCE_D == 0 => source.config & spec::SOURCE_MODE,
            _ => spec::MODE_INACTIVE,
        }
    }

    /// What a hart would claim: source number and priority; the lowest number of each is first.
    fn top(&self, hart: usize) -> Option<(usize, u32)> {
        let threshold = self.idcs.get(hart).map_or(0, |idc| idc.threshold);
        let waiting = self.sources.iter().enumerate().filter(|(_, source)| {
            source.pending && source.enabled && (source.target >> spec::TARGET_HART) as usize == hart
        });
        waiting
            .map(|(number, source)| (number, source.target & spec::TARGET_PRIORITY))
            .filter(|(_, priority)| threshold == 0 || *priority < threshold)
            .min_by_key(|(number, priority)| (*priority, *number))
    }
}

impl State {
    fn new(sources: usize, harts: usize) -> Self {
        let domain = Domain::new(sources, harts);
        Self { domains: [domain.clone(), domain], levels: vec![false; sources], addresses: [0; 4] }
    }

    /// The input as a domain sees it: high is active.
    fn rectified(&self, domain: usize, source: usize) -> bool {
        let level = self.levels.get(source).copied().unwrap_or(false);
        match self.domain(domain).mode(source) {
            spec::MODE_EDGE_RISING | spec::MODE_LEVEL_HIGH => level,
            spec::MODE_EDGE_FALLING | spec::MODE_LEVEL_LOW => !level,
            _ => false,
        }
    }

    fn domain(&self, index: usize) -> &Domain {
        let [machine, supervisor] = &self.domains;
        if index == MACHINE { machine } else { supervisor }
    }

    fn domain_mut(&mut self, index: usize) -> &mut Domain {
        let [machine, supervisor] = &mut self.domains;
        if index == MACHINE { machine } else { supervisor }
    }

    fn set_pending(&mut self, domain: usize, source: usize, pending: bool) {
        if let Some(source) = self.domain_mut(domain).sources.get_mut(source) {
            source.pending = pending;
        }
    }

    /// Software sets or clears a pending bit (AIA, section 4.7).
    fn write_pending(&mut self, domain: usize, source: usize, pending: bool) {
        let level = spec::is_level(self.domain(domain).mode(source));
        let allowed = match self.domain(domain).mode(source) {
            spec::MODE_INACTIVE => false,
            _ if !level => true,
            // A level-sensitive source in direct mode follows its input and nothing else.
            _ if !self.domain(domain).messages() => false,
            _ => !pending || self.rectified(domain, source),
        };
        if allowed && source != 0 {
            self.set_pending(domain, source, pending);
        }
    }

    /// The input of a source went to `level`.
    fn input(&mut self, source: usize, level: bool) {
        let before = [MACHINE, SUPERVISOR].map(|domain| self.rectified(domain, source));
        if let Some(known) = self.levels.get_mut(source) {
            *known = level;
        }
        for (domain, before) in before.into_iter().enumerate() {
            let now = self.rectified(domain, source);
            if now && !before {
                self.set_pending(domain, source, true);
            } else if !now && spec::is_level(self.domain(domain).mode(source)) {
                self.set_pending(domain, source, false);
            }
        }
    }

    /// Brings a source's bits in line with a new mode of it or of its domain.
    fn settle(&mut self, domain: usize, source: usize) {
        let mode = self.domain(domain).mode(source);
        let active = self.rectified(domain, source);
        if let Some(entry) = self.domain_mut(domain).sources.get_mut(source) {
            if mode == spec::MODE_INACTIVE {
                *entry = Source { config: entry.config, ..Source::default() };
            } else if spec::is_level(mode) {
                entry.pending = active;
            }
        }
    }

    /// Where a message for a hart goes (AIA, section 4.9.1); `guest` picks a guest's file.
    fn message_address(&self, domain: usize, hart: u64, guest: u64) -> u64 {
        let [low, high, supervisor_low, supervisor_high] = self.addresses.map(u64::from);
        let field = |shift: u32, bits: u32| high >> shift & ((1 << bits) - 1);
        let (hhxs, lhxs, hhxw, lhxw) = (field(24, 5), field(20, 3), field(16, 3), field(12, 4));
        let group = hart >> lhxw & ((1 << hhxw) - 1);
        let index = hart & ((1 << lhxw) - 1);
        let page = if domain == MACHINE {
            (high & 0xfff) << 32 | low | group << (hhxs + 12) | index << lhxs
        } else {
            let shift = supervisor_high >> 20 & 7;
            let base = (supervisor_high & 0xfff) << 32 | supervisor_low;
            base | group << (hhxs + 12) | index << shift | guest
        };
        page << 12
    }
}

/// The controller. As an [`IrqSink`] its pins are the sources.
pub struct Aplic {
    harts: usize,
    /// Lines by domain and hart.
    lines: [Vec<IrqLine>; 2],
    messages: Arc<dyn MsiSink>,
    state: Mutex<State>,
}

impl Aplic {
    /// A controller of sources 1 to `sources` whose domains drive `machine` and `supervisor`, a line for each hart, or send
    /// messages.
    ///
    /// # Panics
    /// With 1024 sources or more, or other numbers of lines: boards are built by us.
    pub fn new(
        sources: usize,
        machine: Vec<IrqLine>,
        supervisor: Vec<IrqLine>,
        messages: Arc<dyn MsiSink>,
    ) -> Arc<Self> {
        assert!(sources < APLIC_SOURCES, "more sources than the register map has");
        assert_eq!(machine.len(), supervisor.len(), "each hart has a line of both kinds");
        let harts = machine.len();
        let state = Mutex::new(State::new(sources + 1, harts));
        Arc::new(Self { harts, lines: [machine, supervisor], messages, state })
    }

    /// The input of a source. Nothing happens on that of source 0 or of one beyond the last.
    pub fn input(self: &Arc<Self>, source: u32) -> IrqLine {
        IrqLine::new(self.clone(), source)
    }

    /// Registers of the machine-level domain.
    pub fn machine_domain(self: &Arc<Self>) -> Arc<dyn MmioHandler> {
        Arc::new(DomainRegisters { aplic: self.clone(), domain: MACHINE })
    }

    /// Registers of the supervisor-level domain.
    pub fn supervisor_domain(self: &Arc<Self>) -> Arc<dyn MmioHandler> {
        Arc::new(DomainRegisters { aplic: self.clone(), domain: SUPERVISOR })
    }

    /// Sends the messages that are due, or drives the lines.
    fn sync(&self, state: &mut State) {
        for (index, lines) in self.lines.iter().enumerate() {
            let on = state.domain(index).config & spec::DOMAIN_IE != 0;
            if on && state.domain(index).messages() {
                self.send_all(state, index);
            }
            let domain = state.domain(index);
            let direct = on && !domain.messages();
            for (hart, (line, idc)) in lines.iter().zip(&domain.idcs).enumerate() {
                line.set(direct && idc.delivery && (idc.force || domain.top(hart).is_some()));
            }
        }
    }

    /// Forwards every source that waits, once.
    fn send_all(&self, state: &mut State, domain: usize) {
        let due: Vec<(usize, u32)> = (state.domain(domain).sources.iter().enumerate())
            .filter(|(_, source)| source.pending && source.enabled)
            .map(|(number, source)| (number, source.target))
            .collect();
        for (number, target) in due {
            state.set_pending(domain, number, false);
            self.send(state, domain, target);
        }
    }

    fn send(&self, state: &State, domain: usize, target: u32) {
        let hart = u64::from(target >> spec::TARGET_HART);
        let guest = if domain == MACHINE { 0 } else { u64::from(target >> 12 & 0x3f) };
        self.messages.send(state.message_address(domain, hart, guest), target & spec::TARGET_IDENTITY);
    }

    fn read(&self, domain: usize, offset: u64) -> u32 {
        let mut state = self.state.lock();
        let word = |base: u64| ((offset - base) / 4) as usize;
        match offset {
            spec::DOMAINCFG => spec::DOMAIN_FIXED | state.domain(domain).config,
            spec::SOURCECFG..spec::SOURCECFG_END => {
                let source = state.domain(domain).sources.get(word(spec::SOURCECFG) + 1);
                source.map_or(0, |source| source.config)
            }
            spec::MSIADDRCFG..spec::MSIADDRCFG_END if domain == MACHINE => {
                state.addresses.get(word(spec::MSIADDRCFG)).copied().unwrap_or(0)
            }
            spec::SETIP..spec::SETIP_END => {
                bits(word(spec::SETIP), |source| is(&state, domain, source, |s| s.pending))
            }
            spec::IN_CLRIP..spec::IN_CLRIP_END => {
                bits(word(spec::IN_CLRIP), |source| state.rectified(domain, source))
            }
            spec::SETIE..spec::SETIE_END => {
                bits(word(spec::SETIE), |source| is(&state, domain, source, |s| s.enabled))
            }
            spec::GENMSI => state.domain(domain).genmsi,
            spec::TARGET..spec::TARGET_END => {
                let source = state.domain(domain).sources.get(word(spec::TARGET) + 1);
                source.map_or(0, |source| source.target)
            }
            spec::IDC.. => {
                let at = offset - spec::IDC;
                let hart = (at / spec::IDC_STRIDE) as usize;
                let value = self.read_idc(&mut state, domain, hart, at % spec::IDC_STRIDE);
                self.sync(&mut state);
                value
            }
            _ => 0,
        }
    }

    fn read_idc(&self, state: &mut State, domain: usize, hart: usize, register: u64) -> u32 {
        let Some(idc) = state.domain(domain).idcs.get(hart) else { return 0 };
        let top = state.domain(domain).top(hart);
        let value = top.map_or(0, |(number, priority)| (number as u32) << 16 | priority);
        match register {
            spec::IDELIVERY => idc.delivery.into(),
            spec::IFORCE => idc.force.into(),
            spec::ITHRESHOLD => idc.threshold,
            spec::TOPI => value,
            spec::CLAIMI => {
                match top {
                    Some((number, _)) if !spec::is_level(state.domain(domain).mode(number)) => {
                        state.set_pending(domain, number, false);
                    }
                    Some(_) => {}
                    None => {
                        if let Some(idc) = state.domain_mut(domain).idcs.get_mut(hart) {
                            idc.force = false;
                        }
                    }
                }
                value
            }
            _ => 0,
        }
    }

    fn write(&self, domain: usize, offset: u64, value: u32) {
        let mut state = self.state.lock();
        let word = |base: u64| ((offset - base) / 4) as usize;
        match offset {
            spec::DOMAINCFG => self.write_domain(&mut state, domain, value),
            spec::SOURCECFG..spec::SOURCECFG_END => {
                write_source(&mut state, domain, word(spec::SOURCECFG) + 1, value);
            }
            spec::MSIADDRCFG..spec::MSIADDRCFG_END if domain == MACHINE => {
                let index = word(spec::MSIADDRCFG);
                if let (Some(register), Some(mask)) =
                    (state.addresses.get_mut(index), spec::MSIADDRCFG_MASKS.get(index))
                {
                    *register = value & mask;
                }
            }
            spec::SETIP..spec::SETIP_END => each_bit(word(spec::SETIP), value, |source| {
                state.write_pending(domain, source, true);
            }),
            spec::SETIPNUM | spec::SETIPNUM_LE => state.write_pending(domain, value as usize, true),
            spec::SETIPNUM_BE => state.write_pending(domain, value.swap_bytes() as usize, true),
            spec::IN_CLRIP..spec::IN_CLRIP_END => each_bit(word(spec::IN_CLRIP), value, |source| {
                state.write_pending(domain, source, false);
            }),
            spec::CLRIPNUM => state.write_pending(domain, value as usize, false),
            spec::SETIE..spec::SETIE_END => {
                each_bit(word(spec::SETIE), value, |source| enable(&mut state, domain, source, true));
            }
            spec::SETIENUM => enable(&mut state, domain, value as usize, true),
            spec::CLRIE..spec::CLRIE_END => {
                each_bit(word(spec::CLRIE), value, |source| enable(&mut state, domain, source, false));
            }
            spec::CLRIENUM => enable(&mut state, domain, value as usize, false),
            spec::GENMSI if state.domain(domain).messages() => {
                let message = value & (0xfffc_0000 | spec::TARGET_IDENTITY);
                state.domain_mut(domain).genmsi = message;
                self.send(&state, domain, message);
            }
            spec::TARGET..spec::TARGET_END => {
                self.write_target(&mut state, domain, word(spec::TARGET) + 1, value);
            }
            spec::IDC.. => {
                let at = offset - spec::IDC;
                let hart = (at / spec::IDC_STRIDE) as usize;
                if let Some(idc) = state.domain_mut(domain).idcs.get_mut(hart) {
                    match at % spec::IDC_STRIDE {
                        spec::IDELIVERY => idc.delivery = value & 1 != 0,
                        spec::IFORCE => idc.force = value & 1 != 0,
                        spec::ITHRESHOLD => idc.threshold = value & spec::TARGET_PRIORITY,
                        _ => {}
                    }
                }
            }
            _ => return,
        }
        self.sync(&mut state);
    }

    fn write_domain(&self, state: &mut State, domain: usize, value: u32) {
        let config = value & (spec::DOMAIN_IE | spec::DOMAIN_DM);
        let changed = (state.domain(domain).config ^ config) & spec::DOMAIN_DM != 0;
        state.domain_mut(domain).config = config;
        if changed {
            // Targets mean something else now; level-sensitive sources follow their inputs again.
            for source in 1..state.levels.len() {
                state.settle(domain, source);
                let target = state.domain(domain).sources.get(source).map_or(0, |source| source.target);
                self.write_target(state, domain, source, target);
            }
        }
    }

    fn write_target(&self, state: &mut State, domain: usize, source: usize, value: u32) {
        let mode = state.domain(domain).mode(source);
        let messages = state.domain(domain).messages();
        let hart = value >> spec::TARGET_HART;
        let Some(entry) = state.domain_mut(domain).sources.get_mut(source) else { return };
        if mode == spec::MODE_INACTIVE {
            return;
        }
        entry.target = if messages {
            // Machine-level targets have no guest.
            let guest = if domain == MACHINE { 0 } else { value & 0x3_f000 };
            hart << spec::TARGET_HART | guest | value & spec::TARGET_IDENTITY
        } else {
            let hart = if (hart as usize) < self.harts { hart } else { 0 };
            hart << spec::TARGET_HART | (value & spec::TARGET_PRIORITY).max(1)
        };
    }
}

/// A word of a bit map over sources.
fn bits(word: usize, test: impl Fn(usize) -> bool) -> u32 {
    (0..32).filter(|bit| test(32 * word + bit)).fold(0, |value, bit| value | 1 << bit)
}

/// Calls `act` for the sources whose bits are set in a word of such a map.
fn each_bit(word: usize, value: u32, mut act: impl FnMut(usize)) {
    (0..32).filter(|bit| value >> bit & 1 != 0).for_each(|bit| act(32 * word + bit));
}

fn is(state: &State, domain: usize, source: usize, test: impl Fn(&Source) -> bool) -> bool {
    state.domain(domain).sources.get(source).is_some_and(test)
}

fn enable(state: &mut State, domain: usize, source: usize, enabled: bool) {
    let active = state.domain(domain).mode(source) != spec::MODE_INACTIVE;
    if let Some(source) = state.domain_mut(domain).sources.get_mut(source).filter(|_| active && source != 0) {
        source.enabled = enabled;
    }
}

/// sourcecfg: delegated by the machine-level domain, or configured by the domain that has it.
fn write_source(state: &mut State, domain: usize, source: usize, value: u32) {
    let [machine, _] = &state.domains;
    let Some(root) = machine.sources.get(source) else { return };
    let config = if domain == MACHINE && value & spec::SOURCE_D != 0 {
        // There is one child, number 0.
        spec::SOURCE_D
    } else if domain == SUPERVISOR && root.config & spec::SOURCE_D == 0 {
        0
    } else {
        spec::legal_mode(value & spec::SOURCE_MODE)
    };
    if let Some(entry) = state.domain_mut(domain).sources.get_mut(source) {
        entry.config = config;
    }
    state.settle(domain, source);
    if domain == MACHINE && config & spec::SOURCE_D == 0 {
        // Taken back from the child.
        if let Some(entry) = state.domain_mut(SUPERVISOR).sources.get_mut(source) {
            *entry = Source::default();
        }
    }
    // An active source in direct mode has a priority of at least one.
    let domain = state.domain_mut(domain);
    let direct = !domain.messages() && domain.mode(source) != spec::MODE_INACTIVE;
    if let Some(entry) = domain.sources.get_mut(source).filter(|entry| direct && entry.target & 0xff == 0) {
        entry.target |= 1;
    }
}

impl IrqSink for Aplic {
    fn set_level(&self, pin: u32, level: bool) {
        let source = pin as usize;
        let mut state = self.state.lock();
        if source != 0 && source < state.levels.len() {
            state.input(source, level);
            self.sync(&mut state);
        }
    }
}

struct DomainRegisters {
    aplic: Arc<Aplic>,
    domain: usize,
}

impl MmioHandler for DomainRegisters {
    fn read(&self, offset: u64, _: usize) -> u64 {
        self.aplic.read(self.domain, offset).into()
    }

    fn write(&self, offset: u64, _: usize, value: u64) {
        self.aplic.write(self.domain, offset, value as u32);
    }

    fn access_sizes(&self) -> AccessSizes {
        AccessSizes::DWORD
    }
}

impl Reset for Aplic {
    /// The levels of the sources stay: they are the devices'.
    fn reset(&self, _: ResetKind) {
        let mut state = self.state.lock();
        let levels = std::mem::take(&mut state.levels);
        *state = State { levels: levels.clone(), ..State::new(levels.len(), self.harts) };
        self.sync(&mut state);
    }
}

impl StateUnit for Aplic {
    fn save(&self) -> SavedRecord {
        let state = self.state.lock();
        save_record(&AplicSavedV1 {
            levels: state.levels.clone(),
            addresses: state.addresses,
            domains: state.domains.iter().map(AplicDomainSavedV1::of).collect(),
        })
    }

    fn load(&self, record: &SavedRecord) -> Result<(), LoadError> {
        let saved: AplicSavedV1 = load_record(record)?;
        let mut state = self.state.lock();
        *state = saved.state(state.levels.len(), self.harts)?;
        self.sync(&mut state);
        Ok(())
    }
}
