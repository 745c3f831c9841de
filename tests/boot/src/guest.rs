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

/// Word size of a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Width {
    /// `gcc -m64`.
    Bits64,
    /// `gcc -m32`, for a Pentium Pro and SSE2.
    Bits32,
}

/// Builds C sources (paths under `tests/guest`) to one static program and returns its path.
pub fn build(name: &str, sources: &[&str], width: Width, extra: &[&str]) -> anyhow::Result<PathBuf> {
    let folder = target_dir().join("guest-programs");
    fs::create_dir_all(&folder)?;
    let suffix = if width == Width::Bits64 { "64" } else { "32" };
    let output = folder.join(format!("{name}{suffix}"));
    // Tests run in parallel and share the output: each writes its own file and renames it.
    let staging =
        folder.join(format!("{name}{suffix}.{}.{:?}", std::process::id(), std::thread::current().id()));
    let mut gcc = Command::new("gcc");
    gcc.args(["-O2", "-static", "-Wall", "-Wextra", "-ffp-contract=off", "-fno-pie", "-no-pie", "-o"])
        .arg(&staging);
    match width {
        Width::Bits64 => gcc.arg("-m64"),
        Width::Bits32 => gcc.args(["-m32", "-march=i686", "-msse2"]),
    };
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
    pub name: &'static str,
    /// The shell command, with the check's files in the search path.
    pub command: String,
    /// What it printed on the host.
    pub expected: String,
}

/// The files for the guest and the checks that use them.
pub struct Suite {
    /// Name under `/tests` and contents.
    pub files: Vec<(&'static str, Vec<u8>)>,
    /// The checks in order.
    pub checks: Vec<Check>,
}

/// Builds the check programs for a guest of this width and runs them on the host. `busybox` is the guest's own, so
/// that both run the same shell.
pub fn suite(width: Width, busybox: &Path) -> anyhow::Result<Suite> {
    let mut suite = Suite { files: Vec::new(), checks: Vec::new() };
    let script = repository().join("tests/guest/programs/digests.sh");
    let expected = run(Command::new(busybox).arg("sh").arg(&script).env("PATH", applets(busybox)?))?;
    suite.files.push(("digests.sh", fs::read(&script)?));
    suite.checks.push(Check { name: "digests", command: "sh /tests/digests.sh".into(), expected });
    let mut programs = vec![("float_bits", width), ("processes", width)];
    if width == Width::Bits64 {
        // A 64-bit kernel runs 32-bit programs too.
        programs.push(("float_bits", Width::Bits32));
    }
    for (name, width) in programs {
        let program = build(name, &[&format!("programs/{name}.c")], width, &[])?;
        let tunables = TUNABLES.split_once('=').unwrap_or_default();
        let expected = run(Command::new(&program).env(tunables.0, tunables.1))?;
        let file: &'static str = match (name, width) {
            ("float_bits", Width::Bits64) => "float_bits64",
            ("float_bits", Width::Bits32) => "float_bits32",
            (_, Width::Bits64) => "processes64",
            (_, Width::Bits32) => "processes32",
        };
        suite.files.push((file, fs::read(&program)?));
        suite.checks.push(Check { name: file, command: format!("{TUNABLES} /tests/{file}"), expected });
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
