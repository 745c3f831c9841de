//! Running a case on every side and telling the differences.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};

use iced_x86::{Code, Formatter, InstructionInfoFactory, IntelFormatter};
use rhea_engine::Tier;

use crate::catalogue::{self, Group};
use crate::encode;
use crate::gaps;
use crate::generate::{self, Case};
use crate::place;
use crate::random::Random;
use crate::rhea::Rhea;
use crate::state::{Ended, Mode, differences};
use crate::stream;
use crate::undefined;

/// How many cases a test runs where it would run `normal`: scaled by the environment variable
/// `RHEA_LOCKSTEP_CASES`, a factor.
pub fn cases(normal: usize) -> usize {
    let factor = std::env::var("RHEA_LOCKSTEP_CASES").ok().and_then(|v| v.parse::<f64>().ok()).unwrap_or(1.0);
    ((normal as f64 * factor) as usize).max(1)
}

/// Two sides that came out differently.
#[derive(Debug)]
pub struct Mismatch {
    /// Which sides, left and right.
    pub sides: &'static str,
    /// The differences, one a line.
    pub differences: String,
}

/// Host, interpreter and compiled code. Sides that the machine cannot offer are left out.
pub struct Lockstep {
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    host: Option<crate::host::Host>,
    tiers: Vec<(Tier, Rhea)>,
}

impl Lockstep {
    /// With the host (if it is an x86-64) and `tiers` of Rhea.
    ///
    /// # Panics
    /// If the host is an x86-64 but its memory cannot be laid out as the guest's.
    pub fn new(tiers: &[Tier]) -> Self {
        Lockstep {
            #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
            host: Some(crate::host::Host::take().expect("the fixed addresses")),
            tiers: tiers.iter().map(|&t| (t, Rhea::new(t))).collect(),
        }
    }

    /// Without the host: only Rhea's tiers against each other.
    pub fn without_host(tiers: &[Tier]) -> Self {
        Self::of(tiers.iter().map(|&t| (t, Rhea::new(t))).collect())
    }

    /// Machines set up by the caller, without the host.
    pub fn of(tiers: Vec<(Tier, Rhea)>) -> Self {
        Lockstep {
            #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
            host: None,
            tiers,
        }
    }

    /// The vCPUs of Rhea's tiers.
    pub fn tiers(&self) -> impl Iterator<Item = (Tier, &Rhea)> {
        self.tiers.iter().map(|(t, r)| (*t, r))
    }

    /// Runs `case` on every side; the first two sides that differ are the answer.
    pub fn run(&mut self, case: &Case) -> Result<(), Mismatch> {
        let mut first: Option<(&'static str, Ended)> = None;
        #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
        if let Some(host) = &mut self.host {
            first = Some(("host", host.run(case.mode, &case.code, &case.state, &case.data)));
        }
        for (tier, rhea) in &mut self.tiers {
            let name = match tier {
                Tier::Interpreter => "interpreter",
                Tier::Baseline => "baseline",
            };
            let ended =
                catch_unwind(AssertUnwindSafe(|| rhea.run(case.mode, &case.code, &case.state, &case.data)));
            let Ok(mut ended) = ended else {
                *rhea = Rhea::new(*tier);
                return Err(Mismatch { sides: name, differences: "  panicked\n".into() });
            };
            let Some((left, expected)) = &first else {
                first = Some((name, ended));
                continue;
            };
            let sides = match (*left, name) {
                ("host", "interpreter") => "host / interpreter",
                ("host", _) => "host / baseline",
                _ => "interpreter / baseline",
            };
            let differs = compare(case, expected, &mut ended, *left == "host");
            if !differs.is_empty() {
                return Err(Mismatch { sides, differences: differs });
            }
        }
        Ok(())
    }
}

/// Differences that count.
fn compare(case: &Case, expected: &Ended, ended: &mut Ended, with_host: bool) -> String {
    if with_host && undefined::wraps(case, expected, ended) {
        return String::new();
    }
    if with_host {
        if let [insn] = case.instructions[..] {
            if undefined::depends_on_maker(&insn, &case.state, expected) {
                return String::new();
            }
            undefined::mask(&insn, &case.state, expected, ended);
            if gaps::known(case, &insn, expected, ended).is_some() {
                return String::new();
            }
        } else {
            undefined::mask_stream(case, expected, ended);
        }
    }
    differences(expected, ended)
}

/// What a person needs to see, and to run again, a case that came out differently.
pub fn report(case: &Case, mismatch: &Mismatch) -> String {
    let mut s = String::new();
    let bytes: Vec<String> = case.code.iter().map(|b| format!("{b:02x}")).collect();
    let _ = writeln!(s, "{} differ, {:?}: {}", mismatch.sides, case.mode, bytes.join(" "));
    let mut formatter = IntelFormatter::new();
    for insn in &case.instructions {
        let mut text = String::new();
        formatter.format(insn, &mut text);
        let _ = writeln!(s, "  {:x}: {text}   ({:?})", insn.ip(), insn.code());
    }
    let _ = writeln!(s, " (left / right)\n{} start:\n{}", mismatch.differences, start(case));
    for insn in &case.instructions {
        let address = insn.virtual_address(0, 0, |r, _, _| {
            if r.is_segment_register() {
                return Some(0);
            }
            let v = *case.state.gpr.get(r.full_register().number())?;
            r.is_gpr().then_some(if r.is_gpr32() { u64::from(v as u32) } else { v })
        });
        if let Some(a) = address
            && let Some(offset) = a.checked_sub(place::DATA)
            && let Some(d) = case.data.get(offset as usize..)
        {
            let _ = writeln!(s, " memory {a:x}: {:02x?}", &d[..d.len().min(32)]);
        }
    }
    s
}

/// The start registers that the instructions of `case` look at.
fn start(case: &Case) -> String {
    let mut info = InstructionInfoFactory::new();
    let (mut vectors, mut x87) = (Vec::new(), false);
    for insn in &case.instructions {
        for used in info.info(insn).used_registers() {
            let r = used.register();
            if r.is_vector_register() {
                vectors.push(r.number());
            }
            x87 |= r.is_mm() || r.is_st();
        }
        x87 |= undefined::is_x87(insn);
    }
    vectors.sort_unstable();
    vectors.dedup();
    case.state.describe(&vectors, x87)
}

/// Mismatches by instruction: how many of how many, and the first of each.
#[derive(Default)]
pub struct Tally {
    /// For each code: cases run, cases that differ, the first of these.
    pub codes: BTreeMap<String, (usize, usize, String)>,
    /// Cases run.
    pub run: usize,
    /// Cases that differ.
    pub failed: usize,
}

impl Tally {
    /// Adds the outcome of `case`.
    pub fn add(&mut self, case: &Case, result: Result<(), Mismatch>) {
        self.run += 1;
        let key = match &case.instructions[..] {
            [insn] => format!("{:?}", insn.code()),
            _ => "stream".into(),
        };
        let entry = self.codes.entry(key).or_default();
        entry.0 += 1;
        if let Err(m) = result {
            self.failed += 1;
            entry.1 += 1;
            if entry.2.is_empty() {
                entry.2 = report(case, &m);
            }
        }
    }

    /// The failures as text: a line for each instruction, and the first few in full.
    pub fn describe(&self, full: usize) -> String {
        let mut s = format!("{} of {} cases differ\n", self.failed, self.run);
        for (code, (run, failed, _)) in self.codes.iter().filter(|(_, e)| e.1 != 0) {
            let _ = writeln!(s, "{failed:>6} of {run:<6} {code}");
        }
        for (_, (_, _, text)) in self.codes.iter().filter(|(_, e)| e.1 != 0).take(full) {
            let _ = writeln!(s, "{text}");
        }
        s
    }
}

/// Runs `per_code` cases of every instruction of `group` in `mode`.
pub fn sweep(sides: &mut Lockstep, group: Group, mode: Mode, per_code: usize, seed: u64, tally: &mut Tally) {
    for (i, &code) in catalogue::codes(group, mode).iter().enumerate() {
        sweep_code(sides, code, mode, per_code, seed ^ (i as u64) << 32, tally);
    }
}

/// Runs `count` cases of the instruction `code`.
pub fn sweep_code(sides: &mut Lockstep, code: Code, mode: Mode, count: usize, seed: u64, tally: &mut Tally) {
    let mut random = Random::new(seed);
    for _ in 0..count {
        let Some(bytes) = encode::instruction_of(&mut random, code, mode) else { return };
        let case = generate::case_for(&mut random, bytes, mode);
        let result = sides.run(&case);
        tally.add(&case, result);
    }
}

/// Runs `count` streams of up to `length` instructions of `groups`.
pub fn sweep_streams(
    sides: &mut Lockstep,
    groups: &[Group],
    mode: Mode,
    length: usize,
    count: usize,
    seed: u64,
    tally: &mut Tally,
) {
    let mut random = Random::new(seed);
    for _ in 0..count {
        let length = 1 + random.below(length as u64) as usize;
        let case = stream::stream(&mut random, groups, mode, length);
        let result = sides.run(&case);
        tally.add(&case, result);
    }
}

/// As [`sweep_streams`], in loops with branches and calls.
pub fn sweep_loops(
    sides: &mut Lockstep,
    groups: &[Group],
    mode: Mode,
    length: usize,
    count: usize,
    seed: u64,
    tally: &mut Tally,
) {
    let mut random = Random::new(seed);
    for _ in 0..count {
        let length = 1 + random.below(length as u64) as usize;
        let case = stream::looped(&mut random, groups, mode, length);
        let result = sides.run(&case);
        tally.add(&case, result);
    }
}

/// Runs `count` instructions with random prefixes.
pub fn sweep_prefixes(sides: &mut Lockstep, mode: Mode, count: usize, seed: u64, tally: &mut Tally) {
    let mut random = Random::new(seed);
    for _ in 0..count {
        let case = generate::prefixed(&mut random, mode);
        let result = sides.run(&case);
        tally.add(&case, result);
    }
}
