//! Bare-metal programs as ROMs: built from `tests/guest/rom` with gcc and ld, run from the reset vector, judged by what
//! they say on the debug console and by the status they leave with.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, ExitStatus};
use std::time::Duration;

use anyhow::{Context, bail, ensure};

use crate::debian::run;
use crate::kernels::Emulator;
use crate::session::Session;
use crate::{repository, target_dir};

/// A ROM program.
#[derive(Debug, Clone, Copy)]
pub struct Program {
    /// Its source is `tests/guest/rom/NAME.S`.
    pub name: &'static str,
    /// Processors it wants.
    pub cpus: u32,
    /// How many checks it makes: fewer mean that it ended early.
    pub checks: usize,
    /// True if QEMU 10.0's translator holds to what the program checks. It has no segment limits, for one.
    pub holds_on_qemu: bool,
}

/// Every program.
pub const PROGRAMS: &[Program] = &[
    Program { name: "real_mode", cpus: 1, checks: 48, holds_on_qemu: true },
    Program { name: "protected_mode", cpus: 1, checks: 99, holds_on_qemu: false },
    Program { name: "segment_limits", cpus: 1, checks: 75, holds_on_qemu: false },
    Program { name: "call_gates", cpus: 1, checks: 35, holds_on_qemu: true },
    Program { name: "task_switch", cpus: 1, checks: 32, holds_on_qemu: true },
    Program { name: "paging", cpus: 1, checks: 82, holds_on_qemu: false },
    Program { name: "self_modifying", cpus: 1, checks: 18, holds_on_qemu: true },
    Program { name: "single_step", cpus: 1, checks: 23, holds_on_qemu: false },
    Program { name: "long_mode", cpus: 1, checks: 82, holds_on_qemu: false },
    Program { name: "smp", cpus: 4, checks: 9, holds_on_qemu: true },
];

/// Prints what the time-stamp counter says; checks nothing itself.
pub const COUNTED_TIME: Program = Program { name: "counted_time", cpus: 1, checks: 0, holds_on_qemu: true };

/// `(EXIT_GOOD << 1) | 1`, see `rom.h`.
pub const GOOD_STATUS: i32 = 33;

/// A program takes well under a second on a fast host.
const LIMIT: Duration = Duration::from_secs(120);

impl Program {
    /// Assembles and links the program; the ROM's path.
    pub fn build(&self) -> anyhow::Result<PathBuf> {
        let sources = repository().join("tests/guest/rom");
        let folder = target_dir().join("roms");
        fs::create_dir_all(&folder)?;
        // Tests run in parallel and may build the same program.
        let unique = format!("{}.{}.{:?}", self.name, std::process::id(), std::thread::current().id());
        let (object, staging) = (folder.join(format!("{unique}.o")), folder.join(format!("{unique}.rom")));
        let rom = folder.join(format!("{}.rom", self.name));
        run(Command::new("gcc")
            .args(["-m64", "-c", "-x", "assembler-with-cpp", "-o"])
            .arg(&object)
            .arg(sources.join(format!("{}.S", self.name))))
        .with_context(|| format!("cannot assemble {}", self.name))?;
        run(Command::new("ld")
            .args(["-m", "elf_x86_64", "--oformat", "binary", "-T"])
            .arg(sources.join("rom.ld"))
            .arg("-o")
            .args([&staging, &object]))?;
        fs::rename(&staging, &rom)?;
        fs::remove_file(object)?;
        Ok(rom)
    }

    /// Runs the program to its end: its status and what it said.
    pub fn run(&self, emulator: &Emulator, options: &[&str]) -> anyhow::Result<(ExitStatus, String)> {
        let mut command = emulator.command();
        command.args(["-M", "q35", "-m", "64M", "-cpu", "max", "-no-reboot", "-serial", "none"]);
        command.args(["-smp", &self.cpus.to_string()]);
        command.args(["-device", "isa-debug-exit,iobase=0xf4,iosize=1", "-debugcon", "stdio"]);
        command.arg("-bios").arg(self.build()?).args(options);
        let mut session = Session::start(&mut command)?;
        let status = session.wait(LIMIT)?;
        Ok((status, session.transcript_at_end()))
    }

    /// Runs the program and checks that it made all its checks and that all held.
    pub fn check(&self, emulator: &Emulator, options: &[&str]) -> anyhow::Result<()> {
        let (status, said) = self.run(emulator, options)?;
        let failed: Vec<&str> = said.lines().filter(|l| !l.starts_with("ok ") && l.trim() != ".").collect();
        if !failed.is_empty() {
            bail!("{}: {} of {} checks failed:\n{}", self.name, failed.len(), self.checks, failed.join("\n"));
        }
        let held = said.lines().filter(|l| l.starts_with("ok ")).count();
        let last = said.lines().last().unwrap_or("(nothing)");
        ensure!(held == self.checks, "{}: ended after {held} of {} checks, {last:?}", self.name, self.checks);
        ensure!(status.code() == Some(GOOD_STATUS), "{}: ended with {status}", self.name);
        Ok(())
    }
}
