//! Programs for a Linux guest: built by gcc from `tests/guest`, run on the host for the answer, run in the guest for
//! the comparison.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;

use crate::debian::run;
use crate::{repository, target_dir};

/// The C library picks its mathematical functions by processor features, and their last bits differ. Host and guest
/// must both take the plain ones.
pub const TUNABLES: &str =
    "GLIBC_TUNABLES=glibc.cpu.hwcaps=-AVX,-AVX2,-AVX2_Usable,-FMA,-FMA_Usable,-FMA4,-FMA4_Usable,-AVX512F";

/// What a program is built for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Architecture {
    /// x86-64.
    Amd64,
    /// x86 of 32 bits: a Pentium Pro with SSE2.
    I386,
    /// RV64GC.
    Riscv64,
}

impl Architecture {
    /// The suffix of its programs' names.
    fn suffix(self) -> &'static str {
        match self {
            Self::Amd64 => "64",
            Self::I386 => "32",
            Self::Riscv64 => "-riscv64",
        }
    }

    fn compiler(self) -> Command {
        let (gcc, options): (_, &[&str]) = match self {
            Self::Amd64 => ("gcc", &["-m64"]),
            // Debian keeps the headers that both widths share where only the one of 64 bits looks.
            Self::I386 => {
                ("gcc", &["-m32", "-march=i686", "-msse2", "-idirafter", "/usr/include/x86_64-linux-gnu"])
            }
            Self::Riscv64 => ("riscv64-linux-gnu-gcc", &[]),
        };
        let mut command = Command::new(gcc);
        command.args(options);
        command
    }

    /// A command that runs a program of it on this host, with the same C library functions as in the guest.
    fn run_here(self, program: &Path) -> Command {
        let mut command = match self {
            Self::Amd64 | Self::I386 => Command::new(program),
            Self::Riscv64 => {
                let mut command = Command::new("qemu-riscv64");
                command.arg(program);
                command
            }
        };
        let (key, value) = TUNABLES.split_once('=').unwrap_or_default();
        command.env(key, value);
        command
    }
}

/// Builds C sources (paths under `tests/guest`) to one static program and returns its path.
pub fn build(
    name: &str,
    sources: &[&str],
    architecture: Architecture,
    extra: &[&str],
) -> anyhow::Result<PathBuf> {
    let folder = target_dir().join("guest-programs");
    fs::create_dir_all(&folder)?;
    let file = format!("{name}{}", architecture.suffix());
    let output = folder.join(&file);
    // Tests run in parallel and share the output: each writes its own file and renames it.
    let staging = folder.join(format!("{file}.{}.{:?}", std::process::id(), std::thread::current().id()));
    let mut gcc = architecture.compiler();
    gcc.args(["-O2", "-static", "-Wall", "-Wextra", "-ffp-contract=off", "-fno-pie", "-no-pie", "-o"])
        .arg(&staging);
    gcc.args(extra);
    gcc.args(sources.iter().map(|s| repository().join("tests/guest").join(s)));
    gcc.arg("-lm");
    run(&mut gcc).with_context(|| format!("cannot build {name}"))?;
    fs::rename(&staging, &output)?;
    Ok(output)
}

/// One check: a command that must print in the guest what it prints on the host.
pub struct Check {
    /// What it is called in messages.
    pub name: String,
    /// The shell command, with the check's files in the search path.
    pub command: String,
    /// What it printed on the host.
    pub expected: String,
}

/// The files for the guest and the checks that use them.
pub struct Suite {
    /// Name under `/tests` and contents.
    pub files: Vec<(String, Vec<u8>)>,
    /// The checks in order.
    pub checks: Vec<Check>,
}

/// Builds the check programs for a guest and runs them on the host, those of another architecture under QEMU's user
/// mode. `host_busybox` is the guest's busybox, or its like for this host, so that both run the same shell.
pub fn suite(architecture: Architecture, host_busybox: &Path) -> anyhow::Result<Suite> {
    let mut suite = Suite { files: Vec::new(), checks: Vec::new() };
    let script = repository().join("tests/guest/programs/digests.sh");
    let expected =
        run(Command::new(host_busybox).arg("sh").arg(&script).env("PATH", applets(host_busybox)?))?;
    suite.files.push(("digests.sh".into(), fs::read(&script)?));
    suite.checks.push(Check { name: "digests".into(), command: "sh /tests/digests.sh".into(), expected });
    let mut programs = vec![("float_bits", architecture), ("processes", architecture)];
    if architecture == Architecture::Amd64 {
        // A 64-bit kernel runs 32-bit programs too.
        programs.push(("float_bits", Architecture::I386));
    }
    for (name, architecture) in programs {
        let program = build(name, &[&format!("programs/{name}.c")], architecture, &[])?;
        let expected = run(&mut architecture.run_here(&program))?;
        let file = format!("{name}{}", architecture.suffix());
        suite.files.push((file.clone(), fs::read(&program)?));
        suite.checks.push(Check { command: format!("{TUNABLES} /tests/{file}"), name: file, expected });
    }
    Ok(suite)
}

/// A folder with busybox's applets by name, so that the host's run uses them and not its own tools.
fn applets(busybox: &Path) -> anyhow::Result<PathBuf> {
    let name = busybox.to_string_lossy().replace('/', "_");
    let folder = target_dir().join("guest-programs").join(format!("applets{name}"));
    fs::create_dir_all(&folder)?;
    for applet in [
        "awk",
        "md5sum",
        "sha1sum",
        "sha256sum",
        "sort",
        "uniq",
        "head",
        "gzip",
        "gunzip",
        "seq",
        "yes",
        "tr",
        "sed",
    ] {
        let link = folder.join(applet);
        if !link.is_symlink() {
            // Another test may have made it just now.
            let _ = std::os::unix::fs::symlink(busybox, &link);
        }
    }
    Ok(folder)
}
