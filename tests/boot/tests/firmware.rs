//! Firmware that takes a machine from flash memory: EDK2 for RISC-V (Debian 13's `qemu-efi-riscv64`), with its variables in a
//! bank of their own, starts the kernel by the ACPI tables. These need Debian's packages: `cargo xtask test` runs them.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::ensure;
use rhea_boot_tests::firmware::edk2_riscv64;
use rhea_boot_tests::initramfs::{self, PROMPT};
use rhea_boot_tests::kernels::{Emulator, Guest};
use rhea_boot_tests::session::Session;
use rhea_boot_tests::target_dir;

/// For a loaded host of two cores.
const LIMIT: Duration = Duration::from_secs(150);

struct Files {
    folder: PathBuf,
    code: PathBuf,
    vars: PathBuf,
    initrd: PathBuf,
}

impl Files {
    fn new(name: &str) -> anyhow::Result<Self> {
        let folder = target_dir().join("firmware-tests").join(format!("{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder)?;
        let [code, fresh] = edk2_riscv64()?;
        let (vars, initrd) = (folder.join("vars.fd"), folder.join("initrd.cpio"));
        std::fs::copy(fresh, &vars)?;
        std::fs::write(&initrd, initramfs::busybox_system(&Guest::TrixieRiscv64.busybox()?, &[])?)?;
        Ok(Self { folder, code, vars, initrd })
    }

    /// Boots Linux with these options for the flash memory, looks how it was started, and powers off.
    fn boot(&self, flash: &[String]) -> anyhow::Result<()> {
        let mut command = Emulator::under_test()?.boot(Guest::TrixieRiscv64, &self.initrd, "")?;
        command.args(["-m", "512M", "-smp", "2"]).args(flash);
        let mut session = Session::start(&mut command)?;
        let log = session.expect(PROMPT, LIMIT)?;
        for line in ["RISC-V EDK2 firmware", "EFI stub: Booting Linux Kernel", "ACPI: Interpreter enabled"] {
            ensure!(log.contains(line), "no {line:?} in {log}");
        }
        let tables = session.command("echo /sys/firmware/acpi/tables/*", PROMPT, LIMIT)?;
        for table in ["APIC", "DSDT", "FACP", "MCFG", "RHCT", "SPCR"] {
            ensure!(tables.contains(table), "no {table} in {tables}");
        }
        session.send(b"poweroff -f\n")?;
        let status = session.wait(LIMIT)?;
        ensure!(status.success(), "ended with {status}:\n{}", session.transcript());
        Ok(())
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn differ(a: &Path, b: &Path) -> anyhow::Result<bool> {
    Ok(std::fs::read(a)? != std::fs::read(b)?)
}

#[test]
#[ignore = "needs Debian's packages: run cargo xtask test"]
fn edk2_boots_linux_from_drives() -> anyhow::Result<()> {
    let files = Files::new("drives")?;
    let drive = |unit: u32, file: &Path, more: &str| {
        format!("if=pflash,format=raw,unit={unit},file={}{more}", file.display())
    };
    let before = files.folder.join("before.fd");
    std::fs::copy(&files.vars, &before)?;
    // The second bank first: the numbers count, not the order.
    files.boot(&[
        "-drive".into(),
        drive(1, &files.vars, ""),
        "-drive".into(),
        drive(0, &files.code, ",readonly=on"),
    ])?;
    ensure!(differ(&files.vars, &before)?, "no variable was written");
    Ok(())
}

#[test]
#[ignore = "needs Debian's packages: run cargo xtask test"]
fn edk2_boots_linux_from_nodes() -> anyhow::Result<()> {
    let files = Files::new("nodes")?;
    let overlay = files.folder.join("vars.qcow2");
    let made = match Emulator::under_test()? {
        Emulator::Rhea(path) => Command::new(path).arg("img").args(create(&files.vars, &overlay)).status()?,
        Emulator::Qemu(_) => Command::new("qemu-img").args(create(&files.vars, &overlay)).status()?,
    };
    ensure!(made.success(), "the overlay could not be made");
    let (before, size) = (std::fs::read(&files.vars)?, std::fs::metadata(&overlay)?.len());
    files.boot(&[
        "-machine".into(),
        "pflash0=code,pflash1=vars".into(),
        "-blockdev".into(),
        format!("file,node-name=code,read-only=on,filename={}", files.code.display()),
        "-blockdev".into(),
        format!("qcow2,node-name=vars,file.driver=file,file.filename={}", overlay.display()),
    ])?;
    ensure!(std::fs::read(&files.vars)? == before, "the backing file was written");
    ensure!(std::fs::metadata(&overlay)?.len() > size, "no variable was written");
    Ok(())
}

/// An overlay on the variables.
fn create(vars: &Path, overlay: &Path) -> Vec<std::ffi::OsString> {
    let mut words: Vec<_> = ["create", "-q", "-f", "qcow2", "-F", "raw", "-b"].map(Into::into).into();
    words.extend([vars.into(), overlay.into()]);
    words
}
