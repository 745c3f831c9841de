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

/// Installs the newest QEMU that Debian has for this release, from its backports if need be: the system emulator of a
/// target. The system's own package sources stay as they are.
pub fn install_peer(target: &str) -> anyhow::Result<()> {
    if Path::new("/usr/bin").join(format!("qemu-system-{target}")).exists() {
        return Ok(());
    }
    let apt = Backports::update()?;
    let package = if target == "x86_64" { "qemu-system-x86" } else { "qemu-system-misc" };
    apt.install(package, &["-t", &apt.suite])
}

/// Installs what gcc needs for programs of 32 bits. Debian's package gcc-multilib itself cannot stand beside cross compilers;
/// that of the version can.
pub fn install_32_bit_compiler() -> anyhow::Result<()> {
    let version = debian::run(Command::new("gcc").arg("-dumpversion"))?;
    let major = version.trim().split('.').next().unwrap_or_default();
    install(&[&format!("gcc-{major}-multilib")])
}

/// Installs RISC-V's firmware, the newest that Debian has for this release: the one of Debian 12 itself does not know
/// all that newer kernels ask for.
pub fn install_opensbi() -> anyhow::Result<()> {
    install_newest("opensbi", "/usr/lib/riscv64-linux-gnu/opensbi/generic/fw_dynamic.bin")
}

/// Installs QEMU's user mode, under which programs of other architectures run on this host.
pub fn install_user_mode() -> anyhow::Result<()> {
    install_newest("qemu-user", "/usr/bin/qemu-riscv64")
}

fn install_newest(package: &str, file: &str) -> anyhow::Result<()> {
    if Path::new(file).exists() {
        return Ok(());
    }
    let apt = Backports::update()?;
    apt.install(package, &["-t", &apt.suite])
}

/// Installs QEMU's image tools, which the tests compare ours with: of the major version whose texts ours print, from
/// Debian's release or its backports. What is installed stays; tests that need another version say that they are
/// skipped.
pub fn install_image_tools() -> anyhow::Result<()> {
    const PACKAGE: &str = "qemu-utils";
    if is_installed(PACKAGE) {
        return Ok(());
    }
    let apt = Backports::update()?;
    match apt.versions(PACKAGE)?.iter().find(|(version, _)| version.starts_with("1:10.")) {
        Some((version, from_backports)) => {
            let suite = from_backports.then_some(["-t", &apt.suite]);
            apt.install(&format!("{PACKAGE}={version}"), suite.as_ref().map_or(&[], |s| s.as_slice()))
        }
        None => {
            println!("Debian has no {PACKAGE} 10 for {}: tests that compare texts are skipped", apt.codename);
            apt.install(PACKAGE, &[])
        }
    }
}

/// An apt that also knows the backports of this system's release.
struct Backports {
    codename: String,
    /// The backports' name, for apt's `-t`.
    suite: String,
    settings: Vec<String>,
}

impl Backports {
    /// Fetches the package lists.
    fn update() -> anyhow::Result<Self> {
        let release = fs::read_to_string("/etc/os-release").context("cannot tell this system's release")?;
        let codename = release
            .lines()
            .find_map(|line| line.strip_prefix("VERSION_CODENAME="))
            .context("this system's release has no name")?
            .to_owned();
        let settings = debian::sources_with_backports(&codename)?;
        let this = Self { suite: format!("{codename}-backports"), codename, settings };
        run(this.configure(as_root("apt-get")?).args(["-q", "update"]))?;
        Ok(this)
    }

    fn configure(&self, mut command: Command) -> Command {
        command.args(self.settings.iter().flat_map(|s| ["-o", s]));
        command
    }

    /// The versions of a package, the newest first, and whether it is the backports that have it.
    fn versions(&self, package: &str) -> anyhow::Result<Vec<(String, bool)>> {
        let mut command = self.configure(Command::new("apt-cache"));
        let table = debian::run(command.args(["madison", package]))?;
        // "package | version | mirror suite/component architecture Packages"
        let versions = table.lines().filter(|line| line.ends_with("Packages")).filter_map(|line| {
            let mut columns = line.split('|').skip(1);
            Some((columns.next()?.trim().to_owned(), columns.next()?.contains(&self.suite)))
        });
        Ok(versions.collect())
    }

    fn install(&self, package: &str, options: &[&str]) -> anyhow::Result<()> {
        let install = ["install", "-y", "-q", "--no-install-recommends"];
        run(self.configure(as_root("apt-get")?).args(install).args(options).arg(package))
            .with_context(|| format!("cannot install {package}"))
    }
}

/// Installs OpenSSH's server, which tests run as a program of their own. Where a service manager would also start it as
/// a service, the machine is left alone and those tests are skipped.
pub fn install_ssh_server() -> anyhow::Result<()> {
    if Path::new("/usr/sbin/sshd").exists() {
        return Ok(());
    }
    if Path::new("/run/systemd/system").exists() {
        println!("openssh-server is not installed: the tests of ssh are skipped");
        return Ok(());
    }
    install(&["openssh-server", "openssh-client"])
}
