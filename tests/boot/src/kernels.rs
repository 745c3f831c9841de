//! The kernels that the bars are stated for, and the command lines that boot them.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::debian::{Archive, busybox};

/// A guest system to boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Guest {
    /// Debian 12's 6.1 kernel for amd64.
    Bookworm,
    /// Debian 13's 6.12 kernel for amd64.
    Trixie,
    /// Debian 12's 6.1 kernel for i686 with PAE.
    BookwormI686,
}

impl Guest {
    /// Every guest.
    pub const ALL: [Self; 3] = [Self::Bookworm, Self::Trixie, Self::BookwormI686];

    /// A short name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bookworm => "debian12-amd64",
            Self::Trixie => "debian13-amd64",
            Self::BookwormI686 => "debian12-i686",
        }
    }

    fn archive(self) -> Archive {
        match self {
            Self::Bookworm => Archive::new("bookworm", "amd64"),
            Self::Trixie => Archive::new("trixie", "amd64"),
            Self::BookwormI686 => Archive::new("bookworm", "i386"),
        }
    }

    /// The kernel image, obtained if need be.
    pub fn kernel(self) -> anyhow::Result<PathBuf> {
        self.archive().kernel(if self == Self::BookwormI686 {
            "linux-image-686-pae"
        } else {
            "linux-image-amd64"
        })
    }

    /// The static busybox of the guest's architecture, obtained if need be.
    pub fn busybox(self) -> anyhow::Result<PathBuf> {
        match self {
            Self::BookwormI686 => busybox(&self.archive()),
            Self::Bookworm | Self::Trixie => busybox(&Self::Bookworm.archive()),
        }
    }

    /// True for a guest of 32 bits.
    pub fn is_32_bit(self) -> bool {
        self == Self::BookwormI686
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

    /// A command for a machine of 64 bits, with its serial port on standard input and output.
    pub fn command(&self) -> Command {
        let mut command = match self {
            Self::Rhea(path) => {
                let mut command = Command::new(path);
                command.arg("system-x86_64");
                command
            }
            Self::Qemu(path) => {
                let mut command = Command::new(path);
                command.args(["-accel", "tcg", "-nodefaults"]);
                command
            }
        };
        command.args(["-display", "none", "-monitor", "none"]);
        command
    }

    /// The same, booting a kernel with its console on the serial port.
    pub fn boot(&self, kernel: &Path, initramfs: &Path, append: &str) -> Command {
        let mut command = self.command();
        command.args(["-M", "q35", "-serial", "stdio", "-no-reboot"]);
        command.arg("-kernel").arg(kernel).arg("-initrd").arg(initramfs);
        command.arg("-append").arg(format!("console=ttyS0 panic=-1 {append}").trim_end());
        command
    }
}
