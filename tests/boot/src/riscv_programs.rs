//! Bare-metal RISC-V programs: built from `tests/guest/riscv` for 64 and 32 bits with Debian's cross compiler, run in machine mode
//! on the board `virt`, judged by what they say on the serial port and by the status they leave with.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};

use crate::debian::run;
use crate::kernels::Emulator;
use crate::session::Session;
use crate::{repository, target_dir};

/// A program, which is the same for both widths.
#[derive(Debug, Clone, Copy)]
pub struct Program {
    /// Its source is `tests/guest/riscv/NAME.c`.
    pub name: &'static str,
    /// Harts it wants.
    pub harts: u32,
    /// `-cpu`; `XX` stands for the width.
    pub cpu: &'static str,
    /// Extensions after I, M, A, F and D that the compiler may use.
    pub march: &'static str,
    /// Checks that QEMU 10.0 fails, because the specifications leave it open or because it departs from them.
    pub differs_on_qemu: &'static [&'static str],
}

const PROGRAM: Program =
    Program { name: "", harts: 1, cpu: "max", march: "c_zicsr_zifencei", differs_on_qemu: &[] };

/// Every program.
pub const PROGRAMS: &[Program] = &[
    Program { name: "jumps", ..PROGRAM },
    Program {
        name: "whole_words",
        cpu: "rvXX,c=off",
        march: "_zicsr_zifencei",
        differs_on_qemu: &["mepc has no bit 1"],
        ..PROGRAM
    },
    Program {
        name: "exceptions",
        // Misaligned AMOs are load exceptions to it, and SC looks at the reservation first.
        differs_on_qemu: &["amo", "sc", "mepc has no bit 0", "mret in S", "mret in U"],
        ..PROGRAM
    },
    Program { name: "interrupts", harts: 4, differs_on_qemu: &["next in order of priority"], ..PROGRAM },
    Program {
        name: "paging",
        differs_on_qemu: &[
            "U has no sc, read only",
            "memory type without menvcfg.pbmte",
            "the reserved memory type",
        ],
        ..PROGRAM
    },
    Program {
        name: "protection",
        // It looks at the target of MRET before it goes there.
        differs_on_qemu: &["no entry: nothing for U"],
        ..PROGRAM
    },
    Program { name: "csrs", differs_on_qemu: &["mepc", "sepc", "mepc has no bit 0"], ..PROGRAM },
    Program {
        name: "unit_state",
        // Flags alone leave FS as it was.
        differs_on_qemu: &["a new flag"],
        ..PROGRAM
    },
    Program { name: "code_changes", harts: 4, ..PROGRAM },
    Program { name: "atomics", harts: 4, ..PROGRAM },
    Program {
        name: "cache_blocks",
        // mtval has no instruction there, which is allowed.
        differs_on_qemu: &[
            "zero in S",
            "clean in S",
            "inval in S",
            "zero in U without menvcfg",
            "zero in U without senvcfg",
            "clean in U without senvcfg",
            "inval in U without senvcfg",
            "flush in U still",
            "zero in U no more",
            "the reserved value of cbie",
            "clean in a hole",
        ],
        ..PROGRAM
    },
];

/// A program takes about a second, several minutes under the slowest settings on a busy host.
const LIMIT: Duration = Duration::from_secs(300);

impl Program {
    /// Compiles and links the program for `xlen` bits; the ELF file's path.
    pub fn build(&self, xlen: u32) -> anyhow::Result<PathBuf> {
        let sources = repository().join("tests/guest/riscv");
        let folder = target_dir().join("riscv-programs");
        fs::create_dir_all(&folder)?;
        // Tests run in parallel and may build the same program.
        let unique = format!("{}-{xlen}.{}.{:?}", self.name, std::process::id(), std::thread::current().id());
        let (staging, program) = (folder.join(unique), folder.join(format!("{}-{xlen}.elf", self.name)));
        let (abi, emulation) = if xlen == 64 { ("lp64", "elf64lriscv") } else { ("ilp32", "elf32lriscv") };
        run(Command::new("riscv64-linux-gnu-gcc")
            .arg(format!("-march=rv{xlen}imafd{}", self.march))
            .args([format!("-mabi={abi}"), format!("-Wl,-m{emulation}")])
            .args(["-O1", "-Wall", "-Wextra", "-Werror", "-ffreestanding", "-nostdlib", "-static"])
            .args(["-mcmodel=medany", "-fno-pic", "-mno-relax", "-msmall-data-limit=0"])
            .args(["-fno-stack-protector", "-fno-tree-loop-distribute-patterns"])
            .args(["-Wl,--build-id=none", "-Wl,--no-warn-rwx-segments", "-T"])
            .arg(sources.join("bare.ld"))
            .arg("-o")
            .arg(&staging)
            .args(["start.S", "report.c"].map(|f| sources.join(f)))
            .arg(sources.join(format!("{}.c", self.name))))
        .with_context(|| format!("cannot build {} for {xlen} bits", self.name))?;
        fs::rename(&staging, &program)?;
        Ok(program)
    }

    /// Runs the program and checks that it came to its end and that all checks held.
    pub fn check(&self, emulator: &Emulator, xlen: u32, options: &[&str]) -> anyhow::Result<()> {
        let mut command = emulator.system(&format!("riscv{xlen}"));
        command.args(["-M", "virt", "-m", "64M", "-bios", "none", "-no-reboot", "-serial", "stdio"]);
        command.args(["-smp", &self.harts.to_string(), "-cpu", &self.cpu.replace("XX", &xlen.to_string())]);
        command.arg("-kernel").arg(self.build(xlen)?).args(options);
        let mut session = Session::start(&mut command)?;
        let status = session.wait(LIMIT)?;
        let said = session.transcript_at_end();
        let expected: &[&str] =
            if matches!(emulator, Emulator::Qemu(_)) { self.differs_on_qemu } else { &[] };
        let fails = |line: &&str| {
            let name = line.strip_prefix("FAIL ").and_then(|l| l.split(" cause=").next());
            name.is_some_and(|name| !expected.contains(&name))
        };
        let failed: Vec<&str> = said.lines().filter(fails).collect();
        let what = format!("{} of {xlen} bits {options:?}", self.name);
        ensure!(failed.is_empty(), "{what}: checks failed:\n{}", failed.join("\n"));
        let held = said.lines().filter(|l| l.starts_with("ok ")).count();
        let wrong = said.lines().filter(|l| l.starts_with("FAIL ")).count();
        let last = said.lines().last().unwrap_or("(nothing)");
        let end = format!("{:#x} checks, failed: {wrong:#x}", held + wrong);
        ensure!(last == end && held > 0, "{what}: ended with {last:?}, not {end:?}:\n{said}");
        ensure!(status.code() == Some(i32::from(wrong > 0)), "{what}: ended with {status}");
        Ok(())
    }
}
