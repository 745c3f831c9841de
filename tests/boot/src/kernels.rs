//! The kernels that the bars are stated for, and the command lines that boot them.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::debian::{Archive, busybox};
use crate::guest::Architecture;

/// A guest system to boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Guest {
    /// Debian 12's 6.1 kernel for amd64.
    Bookworm,
    /// Debian 13's 6.12 kernel for amd64.
    Trixie,
    /// Debian 12's 6.1 kernel for i686 with PAE.
    BookwormI686,
    /// Debian 13's 6.12 kernel for riscv64.
    TrixieRiscv64,
}

impl Guest {
    /// Every guest.
    pub const ALL: [Self; 4] = [Self::Bookworm, Self::Trixie, Self::BookwormI686, Self::TrixieRiscv64];

    /// A short name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bookworm => "debian12-amd64",
            Self::Trixie => "debian13-amd64",
            Self::BookwormI686 => "debian12-i686",
            Self::TrixieRiscv64 => "debian13-riscv64",
        }
    }

    fn archive(self) -> Archive {
        match self {
            Self::Bookworm => Archive::new("bookworm", "amd64"),
            Self::Trixie => Archive::new("trixie", "amd64"),
            Self::BookwormI686 => Archive::new("bookworm", "i386"),
            Self::TrixieRiscv64 => Archive::new("trixie", "riscv64"),
        }
    }

    /// The kernel image, obtained if need be.
    pub fn kernel(self) -> anyhow::Result<PathBuf> {
        self.archive().kernel(match self {
            Self::Bookworm | Self::Trixie => "linux-image-amd64",
            Self::BookwormI686 => "linux-image-686-pae",
            Self::TrixieRiscv64 => "linux-image-riscv64",
        })
    }

    /// The static busybox of the guest's architecture, obtained if need be.
    pub fn busybox(self) -> anyhow::Result<PathBuf> {
        match self {
            Self::BookwormI686 | Self::TrixieRiscv64 => busybox(&self.archive()),
            Self::Bookworm | Self::Trixie => busybox(&Self::Bookworm.archive()),
        }
    }

    /// A static busybox that runs on this host: the guest's, or its like.
    pub fn host_busybox(self) -> anyhow::Result<PathBuf> {
        match self {
            Self::TrixieRiscv64 => Self::Trixie.busybox(),
            own => own.busybox(),
        }
    }

    /// What its programs are built for.
    pub fn architecture(self) -> Architecture {
        match self {
            Self::Bookworm | Self::Trixie => Architecture::Amd64,
            Self::BookwormI686 => Architecture::I386,
            Self::TrixieRiscv64 => Architecture::Riscv64,
        }
    }
}

/// The emulator's program: Rhea, or QEMU for comparison.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Emulator {
    /// Rhea at this path.
    Rhea(PathBuf),
    /// A QEMU program at this path.
    Qemu(PathBuf),
}

impl Emulator {
    /// The emulator that the tests run on: QEMU if `RHEA_TEST_PEER` names one (to prove the tests), else Rhea.
    pub fn under_test() -> anyhow::Result<Self> {
        match std::env::var_os("RHEA_TEST_PEER") {
            Some(path) => Ok(Self::Qemu(path.into())),
            None => Ok(Self::Rhea(crate::rhea_binary()?)),
        }
    }

    /// A command for a PC of 64 bits, with its serial port on standard input and output.
    pub fn command(&self) -> Command {
        self.system("x86_64")
    }

    /// A command for a machine of the target that QEMU calls `target`.
    pub fn system(&self, target: &str) -> Command {
        let mut command = match self {
            Self::Rhea(path) => {
                let mut command = Command::new(path);
                command.arg(format!("system-{target}"));
                command
            }
            Self::Qemu(path) => {
                // Named is one of QEMU's system emulators; the others lie beside it.
                let mut command = Command::new(path.with_file_name(format!("qemu-system-{target}")));
                command.args(["-accel", "tcg", "-nodefaults"]);
                command
            }
        };
        command.args(["-display", "none", "-monitor", "none"]);
        command
    }

    /// The same, booting a guest's kernel with its console on the serial port.
    pub fn boot(&self, guest: Guest, initramfs: &Path, append: &str) -> anyhow::Result<Command> {
        let (target, machine) = match guest.architecture() {
            Architecture::Amd64 | Architecture::I386 => ("x86_64", "q35"),
            Architecture::Riscv64 => ("riscv64", "virt"),
        };
        let mut command = self.system(target);
        command.args(["-M", machine, "-serial", "stdio", "-no-reboot"]);
        command.arg("-kernel").arg(guest.kernel()?).arg("-initrd").arg(initramfs);
        command.arg("-append").arg(format!("console=ttyS0 panic=-1 {append}").trim_end());
        Ok(command)
    }
}
