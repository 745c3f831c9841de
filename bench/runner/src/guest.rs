//! One round of one emulator: boot, memory at the prompt, idle cost, the suites.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use rhea_boot_tests::debian::run;
use rhea_boot_tests::guest;
use rhea_boot_tests::initramfs::{self, PROMPT, READY};
use rhea_boot_tests::kernels::{Emulator, Guest};
use rhea_boot_tests::session::Session;
use rhea_boot_tests::target_dir;

use crate::host;

const RAM: u64 = 1 << 30;
const LIMIT: Duration = Duration::from_secs(600);
/// How long an idle guest is watched, after it has had time to settle.
const SETTLE: Duration = Duration::from_secs(3);
const IDLE: Duration = Duration::from_secs(8);

/// A machine that is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Machine {
    /// A PC of 64 bits.
    Pc,
    /// RISC-V of 64 bits with vectors.
    Riscv64,
}

impl Machine {
    fn guest(self) -> Guest {
        match self {
            Self::Pc => Guest::Bookworm,
            Self::Riscv64 => Guest::TrixieRiscv64,
        }
    }

    /// The kernel's early console, so that its banner comes out when it is printed.
    fn append(self) -> &'static str {
        match self {
            Self::Pc => "earlyprintk=ttyS0",
            Self::Riscv64 => "earlycon",
        }
    }

    fn options(self) -> &'static [&'static str] {
        match self {
            Self::Pc => &["-m", "1G", "-smp", "1"],
            Self::Riscv64 => &["-m", "1G", "-smp", "1", "-cpu", "rv64,v=true"],
        }
    }
}

/// One case's result.
#[derive(Debug, Clone, PartialEq)]
pub struct Case {
    /// `integer`, `float` or `system`.
    pub suite: String,
    /// Its own clock.
    pub seconds: f64,
    /// What it computed.
    pub checksum: String,
}

/// What one run gave.
#[derive(Debug, Clone, Default)]
pub struct Round {
    /// From the emulator's start to the kernel's banner, in seconds: start-up code and unpacking.
    pub to_banner: f64,
    /// From the emulator's start to init.
    pub to_init: f64,
    /// Resident bytes beyond guest RAM at the prompt.
    pub resident: u64,
    /// Share of one host core that the idle guest takes.
    pub idle: f64,
    /// Nanoseconds of translation a guest instruction, and instructions translated; Rhea only.
    pub translation: Option<(f64, u64)>,
    /// Cases by name.
    pub cases: BTreeMap<String, Case>,
}

/// The emulator's name in reports.
pub fn name(emulator: &Emulator) -> &'static str {
    match emulator {
        Emulator::Rhea(_) => "Rhea",
        Emulator::Qemu(_) => "QEMU",
    }
}

/// Builds the benchmark program.
pub fn build(machine: Machine) -> anyhow::Result<PathBuf> {
    let (vectors, options): (_, &[&str]) = match machine {
        Machine::Pc => ("bench/vectors_x86.c", &[]),
        // Zba is in the default processor of either emulator.
        Machine::Riscv64 => ("bench/vectors_riscv.c", &["-march=rv64gcv_zba", "-mabi=lp64d"]),
    };
    let sources = ["bench/main.c", "bench/integer.c", "bench/float.c", vectors];
    guest::build("bench", &sources, machine.guest().architecture(), options)
}

/// The initramfs that every emulator boots.
pub fn initramfs(machine: Machine, program: &Path) -> anyhow::Result<PathBuf> {
    let busybox = machine.guest().busybox()?;
    let system = initramfs::busybox_system(&busybox, &[("bench".into(), fs::read(program)?)])?;
    let folder = target_dir().join("bench");
    fs::create_dir_all(&folder)?;
    let image = folder.join(format!("initramfs-{}.cpio", machine.guest().name()));
    fs::write(&image, system)?;
    Ok(image)
}

/// Boots once and measures everything.
pub fn measure(
    machine: Machine,
    emulator: &Emulator,
    image: &Path,
    cases: &[String],
) -> anyhow::Result<Round> {
    let mut command = emulator.boot(machine.guest(), image, machine.append())?;
    command.args(machine.options());
    let mut round = Round::default();
    let mut session = start(emulator, command)?;
    // The banner comes once the kernel has unpacked itself, where it is packed, on either emulator.
    session.expect("Linux version", LIMIT)?;
    round.to_banner = session.elapsed().as_secs_f64();
    session.expect(READY, LIMIT)?;
    round.to_init = session.elapsed().as_secs_f64();
    session.expect(PROMPT, LIMIT)?;
    round.resident = host::resident_beyond_guest(session.process_id(), RAM)?;
    std::thread::sleep(SETTLE);
    let (before, start) = (host::processor_seconds(session.process_id())?, Instant::now());
    std::thread::sleep(IDLE);
    let spent = host::processor_seconds(session.process_id())? - before;
    round.idle = spent / start.elapsed().as_secs_f64();
    let line = format!("{} /tests/bench {}", guest::TUNABLES, cases.join(" "));
    round.cases = parse(&session.command(line.trim(), PROMPT, LIMIT)?)?;
    if let Emulator::Rhea(_) = emulator {
        round.translation = translation_cost(&mut session)?;
    }
    session.send(b"poweroff -f\n")?;
    session.wait(Duration::from_secs(60))?;
    Ok(round)
}

fn start(emulator: &Emulator, command: Command) -> anyhow::Result<Session> {
    let Emulator::Rhea(path) = emulator else {
        let mut command = command;
        return Session::start(&mut command);
    };
    // The harness's command line, with the serial port shared with the monitor.
    let mut shared = Command::new(path);
    let mut arguments = command.get_args().peekable();
    while let Some(argument) = arguments.next() {
        let drops_next = ["-serial", "-monitor", "-chardev"].iter().any(|o| argument == *o);
        if drops_next {
            arguments.next();
        } else {
            shared.arg(argument);
        }
    }
    shared.args(["-serial", "mon:stdio"]);
    Session::start(&mut shared)
}

/// Asks Rhea's monitor for the translator's counters.
fn translation_cost(session: &mut Session) -> anyhow::Result<Option<(f64, u64)>> {
    const MONITOR: &str = "(rhea) ";
    let limit = Duration::from_secs(20);
    session.send(b"\x01c")?;
    session.expect(MONITOR, limit)?;
    session.send(b"info jit\n")?;
    session.expect("info jit", limit)?;
    let said = session.expect(MONITOR, limit)?;
    session.send(b"\x01c")?;
    let counter = |name: &str| -> Option<u64> {
        let at = said.find(&format!("{name}:"))?;
        said[at + name.len() + 1..].split([',', '\r', '\n']).next()?.trim().parse().ok()
    };
    Ok(match (counter("translate_ns"), counter("translated_insns")) {
        (Some(ns), Some(instructions)) if instructions > 0 => {
            Some((ns as f64 / instructions as f64, instructions))
        }
        _ => None,
    })
}

/// The same program on the host's own processor.
pub fn native(program: &Path, cases: &[String]) -> anyhow::Result<BTreeMap<String, Case>> {
    let (key, value) = guest::TUNABLES.split_once('=').unwrap_or_default();
    parse(&run(Command::new(program).args(cases).env(key, value))?)
}

fn parse(text: &str) -> anyhow::Result<BTreeMap<String, Case>> {
    ensure!(text.contains("BENCH-END"), "the benchmark program did not finish:\n{text}");
    let mut cases = BTreeMap::new();
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        if let ["BENCH", suite, name, seconds, checksum] = words[..] {
            let seconds = seconds.parse().with_context(|| format!("no time in {line:?}"))?;
            cases.insert(name.into(), Case { suite: suite.into(), seconds, checksum: checksum.into() });
        }
    }
    Ok(cases)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_read() {
        let cases = parse("noise\nBENCH integer sieve 1.500000 00ff\nBENCH-END\n").unwrap();
        assert_eq!(cases["sieve"], Case { suite: "integer".into(), seconds: 1.5, checksum: "00ff".into() });
        assert!(parse("BENCH integer sieve 1.5 00\n").is_err());
    }
}
