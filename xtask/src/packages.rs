//! Debian packages that tests and bench need on this system.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, bail};
use rhea_boot_tests::debian;

use crate::cargo::{cargo, run};

/// Installs those of `packages` that are missing, with apt-get, as root or through sudo.
pub fn install(packages: &[&str]) -> anyhow::Result<()> {
    let missing: Vec<&str> = packages.iter().copied().filter(|p| !is_installed(p)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    println!("installing {}", missing.join(" "));
    let attempt =
        || run(as_root("apt-get")?.args(["install", "-y", "-q", "--no-install-recommends"]).args(&missing));
    if attempt().is_ok() {
        return Ok(());
    }
    // A fresh container has no package lists yet.
    run(as_root("apt-get")?.args(["-q", "update"]))?;
    attempt().with_context(|| format!("cannot install {}", missing.join(" ")))
}

/// Sees to it that `cargo SUBCOMMAND` exists: rustup's minimal profile comes without it.
pub fn install_component(subcommand: &str, component: &str) -> anyhow::Result<()> {
    let probe = cargo().args([subcommand, "--version"]).stdout(Stdio::null()).stderr(Stdio::null()).status();
    if probe.is_ok_and(|status| status.success()) {
        return Ok(());
    }
    run(Command::new("rustup").args(["component", "add", component]))
        .with_context(|| format!("this toolchain has no cargo {subcommand}"))
}

fn is_installed(package: &str) -> bool {
    Command::new("dpkg-query")
        .args(["-W", "-f", "${Status}", package])
        .stderr(Stdio::null())
        .output()
        .is_ok_and(|o| String::from_utf8_lossy(&o.stdout).ends_with("ok installed"))
}

fn as_root(program: &str) -> anyhow::Result<Command> {
    let mut command = if debian::run(Command::new("id").arg("-u"))?.trim() == "0" {
        Command::new(program)
    } else if Path::new("/usr/bin/sudo").exists() {
        let mut command = Command::new("sudo");
        command.arg(program);
        command
    } else {
        bail!("installing packages needs root");
    };
    command.env("DEBIAN_FRONTEND", "noninteractive").stdin(Stdio::null());
    Ok(command)
}

/// Installs the newest QEMU that Debian has for this release, from its backports if need be. The system's own package
/// sources stay as they are.
pub fn install_peer() -> anyhow::Result<()> {
    if Path::new("/usr/bin/qemu-system-x86_64").exists() {
        return Ok(());
    }
    let release = fs::read_to_string("/etc/os-release").context("cannot tell this system's release")?;
    let codename = release
        .lines()
        .find_map(|line| line.strip_prefix("VERSION_CODENAME="))
        .context("this system's release has no name")?
        .to_owned();
    let settings = debian::sources_with_backports(&codename)?;
    let apt = || -> anyhow::Result<Command> {
        let mut command = as_root("apt-get")?;
        command.args(settings.iter().flat_map(|s| ["-o", s]));
        Ok(command)
    };
    run(apt()?.args(["-q", "update"]))?;
    let suite = format!("{codename}-backports");
    let install = ["install", "-y", "-q", "--no-install-recommends", "-t", &suite, "qemu-system-x86"];
    run(apt()?.args(install)).context("cannot install qemu-system-x86")
}
