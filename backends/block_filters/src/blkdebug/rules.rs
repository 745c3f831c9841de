//! The rules of `blkdebug`: what happens at which event, and which requests fail then.

use rhea_block::{BlockError, Limits, Result, ResultExt};
use rhea_options::{Options, Size};

/// The events, named as in QAPI's BlkdebugEvent.
pub const EVENTS: &[&str] = &[
    "l1_update",
    "l1_grow_alloc_table",
    "l1_grow_write_table",
    "l1_grow_activate_table",
    "l2_load",
    "l2_update",
    "l2_update_compressed",
    "l2_alloc_cow_read",
    "l2_alloc_write",
    "read_aio",
    "read_backing_aio",
    "read_compressed",
    "write_aio",
    "write_compressed",
    "vmstate_load",
    "vmstate_save",
    "cow_read",
    "cow_write",
    "reftable_load",
    "reftable_grow",
    "reftable_update",
    "refblock_load",
    "refblock_update",
    "refblock_update_part",
    "refblock_alloc",
    "refblock_alloc_hookup",
    "refblock_alloc_write",
    "refblock_alloc_write_blocks",
    "refblock_alloc_write_table",
    "refblock_alloc_switch_table",
    "cluster_alloc",
    "cluster_alloc_bytes",
    "cluster_free",
    "flush_to_os",
    "flush_to_disk",
    "pwritev_rmw_head",
    "pwritev_rmw_after_head",
    "pwritev_rmw_tail",
    "pwritev_rmw_after_tail",
    "pwritev",
    "pwritev_zero",
    "pwritev_done",
    "empty_image_prepare",
    "l1_shrink_write_table",
    "l1_shrink_free_l2_clusters",
    "cor_write",
    "cluster_alloc_space",
    "none",
];

/// Kinds of requests, as in QAPI's BlkdebugIOType.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IoType {
    Read,
    Write,
    WriteZeroes,
    Discard,
    Flush,
    BlockStatus,
}

impl IoType {
    const ALL: [(&'static str, Self); 6] = [
        ("read", Self::Read),
        ("write", Self::Write),
        ("write-zeroes", Self::WriteZeroes),
        ("discard", Self::Discard),
        ("flush", Self::Flush),
        ("block-status", Self::BlockStatus),
    ];
}

#[derive(Debug, Clone)]
struct InjectError {
    event: String,
    /// Only in this state; 0: in any.
    state: i64,
    /// `None`: every kind but block-status.
    kind: Option<IoType>,
    errno: i32,
    /// Only requests that touch this sector of 512 bytes.
    sector: Option<u64>,
    once: bool,
    armed: bool,
    spent: bool,
}

#[derive(Debug, Clone)]
struct SetState {
    event: String,
    state: i64,
    new_state: i64,
}

/// All rules, and the state.
#[derive(Debug)]
pub struct Rules {
    errors: Vec<InjectError>,
    states: Vec<SetState>,
    state: i64,
}

fn event(options: &mut Options) -> Result<String> {
    let name: String =
        options.take("event")?.ok_or_else(|| BlockError::invalid("Missing event name for rule"))?;
    match EVENTS.contains(&name.as_str()) {
        true => Ok(name),
        false => Err(BlockError::invalid(format!("Invalid event name \"{name}\""))),
    }
}

fn number(options: &mut Options, key: &str) -> Result<Option<i64>> {
    let text: Option<String> = options.take(key)?;
    text.map(|t| t.parse().map_err(|_| BlockError::invalid(format!("Parameter '{key}' expects a number"))))
        .transpose()
}

fn refuse_rest(options: &Options, section: &str) -> Result<()> {
    match options.entries().first() {
        None => Ok(()),
        Some(entry) => Err(BlockError::invalid(format!("Invalid parameter '{section}.{}'", entry.key))),
    }
}

impl InjectError {
    fn parse(mut options: Options) -> Result<Self> {
        let kind = match options.take::<String>("iotype")? {
            None => None,
            Some(word) => Some(
                IoType::ALL
                    .iter()
                    .find(|(name, _)| *name == word)
                    .ok_or_else(|| BlockError::invalid(format!("Invalid iotype value: {word}")))?
                    .1,
            ),
        };
        let errno = number(&mut options, "errno")?.unwrap_or(i64::from(libc::EIO));
        let sector = number(&mut options, "sector")?.and_then(|s| u64::try_from(s).ok());
        let event = event(&mut options)?;
        let state = number(&mut options, "state")?.unwrap_or(0);
        let once = options.take::<bool>("once")?.unwrap_or(false);
        // Errors come back when the request is polled, which is as immediate as it gets.
        options.take::<bool>("immediately")?;
        refuse_rest(&options, "inject-error")?;
        let errno = i32::try_from(errno).ok().filter(|e| (1..4096).contains(e));
        let errno = errno.ok_or_else(|| BlockError::invalid("inject-error.errno is out of range"))?;
        let armed = event == "none";
        Ok(Self { event, state, kind, errno, sector, once, armed, spent: false })
    }
}

impl SetState {
    fn parse(mut options: Options) -> Result<Self> {
        let event = event(&mut options)?;
        let state = number(&mut options, "state")?.unwrap_or(0);
        let new_state = number(&mut options, "new_state")?
            .ok_or_else(|| BlockError::invalid("Missing new_state for set-state rule"))?;
        refuse_rest(&options, "set-state")?;
        Ok(Self { event, state, new_state })
    }
}

impl Rules {
    /// Takes the rules out of a node's options: `config`, `inject-error.N.…`, `set-state.N.…`.
    pub fn take(options: &mut Options) -> Result<Self> {
        let mut this = Self { errors: Vec::new(), states: Vec::new(), state: 1 };
        if let Some(config) = options.take::<String>("config")? {
            let text = std::fs::read_to_string(&config)
                .context(format!("Could not read blkdebug config file '{config}'"))?;
            this.read_config(&text).context(format!("Could not parse blkdebug config file '{config}'"))?;
        }
        for members in lists(options, "inject-error") {
            this.errors.push(InjectError::parse(members)?);
        }
        for members in lists(options, "set-state") {
            this.states.push(SetState::parse(members)?);
        }
        Ok(this)
    }

    fn read_config(&mut self, text: &str) -> Result<()> {
        let mut section: Option<(&str, Options)> = None;
        for line in text.lines().map(str::trim).chain(["[]"]) {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            if let Some(name) = line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
                match section.take() {
                    Some(("inject-error", options)) => self.errors.push(InjectError::parse(options)?),
                    Some(("set-state", options)) => self.states.push(SetState::parse(options)?),
                    Some((other, _)) => {
                        return Err(BlockError::invalid(format!("There is no option group '{other}'")));
                    }
                    None => {}
                }
                let name = name.split_whitespace().next().unwrap_or_default();
                section = (!name.is_empty()).then(|| (name, Options::default()));
            } else if let (Some((key, value)), Some((_, options))) = (line.split_once('='), &mut section) {
                options.set(key.trim(), value.trim().trim_matches('"'));
            } else {
                return Err(BlockError::invalid(format!(
                    "'{line}' is neither a section nor key = \"value\""
                )));
            }
        }
        Ok(())
    }

    /// An event: changes the state, and arms the rules that wait for it. They take the place of those that another event
    /// armed before.
    pub fn happen(&mut self, event: &str) {
        let state = self.state;
        let waits = |rule: &InjectError| {
            rule.event == event && !rule.spent && (rule.state == 0 || rule.state == state)
        };
        if self.errors.iter().any(waits) {
            for rule in &mut self.errors {
                rule.armed = waits(rule);
            }
        }
        for rule in &self.states {
            if rule.event == event && (rule.state == 0 || rule.state == state) {
                self.state = rule.new_state;
            }
        }
    }

    /// The error a request is to fail with.
    pub fn error_for(&mut self, offset: u64, len: u64, kind: IoType) -> Option<i32> {
        let touches = |sector: u64| {
            let start = sector.saturating_mul(512);
            offset < start.saturating_add(512) && start < offset.saturating_add(len)
        };
        let rule = self.errors.iter_mut().find(|rule| {
            let right_kind = match rule.kind {
                Some(wanted) => wanted == kind,
                None => kind != IoType::BlockStatus,
            };
            // A flush has no place.
            let right_place = rule.sector.is_none_or(|sector| len != 0 && touches(sector));
            rule.armed && !rule.spent && right_kind && right_place
        })?;
        if rule.once {
            rule.spent = true;
        }
        Some(rule.errno)
    }
}

/// The members of a list of objects: `name.0.…`, `name.1.…`.
fn lists(options: &mut Options, name: &str) -> Vec<Options> {
    let mut members = options.take_object(name);
    let mut indices: Vec<u32> =
        members.entries().iter().filter_map(|e| e.key.split('.').next()?.parse().ok()).collect();
    indices.sort_unstable();
    indices.dedup();
    indices.into_iter().map(|index| members.take_object(&index.to_string())).collect()
}

/// Limits that the node pretends to have.
#[derive(Debug, Clone, Copy, Default)]
pub struct Alignments {
    align: u32,
    max_transfer: u64,
    max_write_zeroes: u64,
    pub(super) write_zeroes: u32,
    discard: u32,
    max_discard: u64,
    optimal_transfer: u64,
}

impl Alignments {
    /// Takes `align`, `max-transfer` and the like out of a node's options.
    pub fn take(options: &mut Options) -> Result<Self> {
        let mut size = |key: &str| -> Result<u64> {
            let value = options.take::<Size>(key)?.map_or(0, |s| s.0);
            match value < 1 << 31 {
                true => Ok(value),
                false => Err(BlockError::invalid(format!("{key} is too large"))),
            }
        };
        Ok(Self {
            align: size("align")? as u32,
            max_transfer: size("max-transfer")?,
            max_write_zeroes: size("max-write-zero")?,
            write_zeroes: size("opt-write-zero")? as u32,
            discard: size("opt-discard")? as u32,
            max_discard: size("max-discard")?,
            optimal_transfer: size("opt-transfer").unwrap_or(0),
        })
    }

    /// Refuses what makes no sense.
    pub fn check(&self) -> Result<()> {
        let align = u64::from(self.align.max(1));
        if !align.is_power_of_two() {
            return Err(BlockError::invalid(format!("Cannot meet constraints with align {align}")));
        }
        let multiples = [
            ("max-transfer", self.max_transfer),
            ("opt-write-zero", u64::from(self.write_zeroes)),
            ("max-write-zero", self.max_write_zeroes),
            ("opt-discard", u64::from(self.discard)),
            ("max-discard", self.max_discard),
        ];
        match multiples.iter().find(|(_, value)| !value.is_multiple_of(align)) {
            Some((name, value)) => {
                Err(BlockError::invalid(format!("Cannot meet constraints with {name} {value}")))
            }
            None => Ok(()),
        }
    }

    /// The child's limits with these in place.
    pub fn apply(&self, below: Limits) -> Limits {
        let or = |mine: u32, theirs: u32| if mine == 0 { theirs } else { mine };
        let or64 = |mine: u64, theirs: u64| if mine == 0 { theirs } else { mine };
        Limits {
            request_alignment: or(self.align, below.request_alignment),
            max_transfer: or64(self.max_transfer, below.max_transfer),
            max_write_zeroes: or64(self.max_write_zeroes, below.max_write_zeroes),
            write_zeroes_alignment: or(self.write_zeroes, below.write_zeroes_alignment),
            discard_alignment: or(self.discard, below.discard_alignment),
            max_discard: or64(self.max_discard, below.max_discard),
            optimal_transfer: or64(self.optimal_transfer, below.optimal_transfer),
            ..below
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(text: &str) -> Rules {
        Rules::take(&mut Options::parse(text, None).unwrap()).unwrap()
    }

    #[test]
    fn a_rule_fails_requests_once_its_event_has_happened() {
        let mut r = rules("inject-error.0.event=l2_load,inject-error.0.errno=28,inject-error.0.once=on");
        assert_eq!(r.error_for(0, 512, IoType::Write), None);
        r.happen("l2_load");
        assert_eq!(r.error_for(0, 512, IoType::BlockStatus), None);
        assert_eq!(r.error_for(0, 512, IoType::Write), Some(28));
        r.happen("l2_load");
        assert_eq!(r.error_for(0, 512, IoType::Write), None);
    }

    #[test]
    fn an_event_disarms_the_rules_of_another() {
        let mut r = rules(
            "inject-error.0.event=l2_load,inject-error.0.errno=5,inject-error.1.event=read_aio,\
             inject-error.1.errno=28,inject-error.2.event=none,inject-error.2.errno=9",
        );
        assert_eq!(r.error_for(0, 512, IoType::Read), Some(9));
        r.happen("l2_load");
        assert_eq!(r.error_for(0, 512, IoType::Read), Some(5));
        r.happen("write_aio");
        assert_eq!(r.error_for(0, 512, IoType::Read), Some(5), "nobody waits for that one");
        r.happen("read_aio");
        assert_eq!(r.error_for(0, 512, IoType::Read), Some(28));
    }

    #[test]
    fn states_and_sectors_narrow_a_rule() {
        let mut r = rules(
            "set-state.0.event=write_aio,set-state.0.state=1,set-state.0.new_state=2,\
             inject-error.0.event=read_aio,inject-error.0.state=2,inject-error.0.sector=3",
        );
        r.happen("read_aio");
        assert_eq!(r.error_for(1536, 512, IoType::Read), None);
        r.happen("write_aio");
        r.happen("read_aio");
        assert_eq!(r.error_for(0, 1536, IoType::Read), None);
        assert_eq!(r.error_for(0, 1537, IoType::Read), Some(libc::EIO));
    }

    #[test]
    fn configuration_files_say_the_same() {
        let mut r = Rules { errors: vec![], states: vec![], state: 1 };
        r.read_config("# x\n[inject-error]\nevent = \"none\"\nerrno = \"5\"\n\n[set-state]\nevent = \"l2_load\"\nnew_state = \"3\"\n")
            .unwrap();
        assert_eq!(r.error_for(0, 1, IoType::Discard), Some(5));
        r.happen("l2_load");
        assert_eq!(r.state, 3);
        assert!(r.read_config("[bogus]\n").is_err() && r.read_config("x\n").is_err());
        assert!(r.read_config("[inject-error]\nevent = \"bogus\"\n").is_err());
    }
}
