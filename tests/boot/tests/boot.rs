//! Real Debian kernels boot to a shell, compute there what the host computes, and power off.
//!
//! These need Debian's packages and gcc: `cargo xtask test` obtains both and runs them (`--include-ignored`).
//! `RHEA_TEST_REPETITIONS` sets how often the plain boot is repeated, `RHEA_TEST_PEER` runs everything on a QEMU.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, ensure};
use rhea_boot_tests::guest::{self, Architecture};
use rhea_boot_tests::initramfs::{self, PROMPT};
use rhea_boot_tests::kernels::{Emulator, Guest};
use rhea_boot_tests::session::Session;
use rhea_boot_tests::target_dir;

/// Limits are for a loaded host of two cores, not for speed: that is the benchmark's business.
const BOOT_LIMIT: Duration = Duration::from_secs(300);
const CHECK_LIMIT: Duration = Duration::from_secs(300);
const OFF_LIMIT: Duration = Duration::from_secs(120);

fn write_initramfs(name: &str, bytes: &[u8]) -> anyhow::Result<PathBuf> {
    let folder = target_dir().join("boot-tests");
    std::fs::create_dir_all(&folder)?;
    let file = folder.join(format!("{name}-{}.cpio", std::process::id()));
    std::fs::write(&file, bytes)?;
    Ok(file)
}

fn boot(guest: Guest, cpus: u32, initramfs: &Path, options: &[&str]) -> anyhow::Result<Session> {
    let mut command = Emulator::under_test()?.boot(guest, initramfs, "quiet")?;
    command.args(["-m", "1G", "-smp", &cpus.to_string()]).args(options);
    let mut session = Session::start(&mut command)?;
    session.expect(PROMPT, BOOT_LIMIT)?;
    Ok(session)
}

fn power_off(mut session: Session) -> anyhow::Result<()> {
    session.send(b"poweroff -f\n")?;
    let status = session.wait(OFF_LIMIT)?;
    ensure!(status.success(), "the emulator ended with {status}:\n{}", session.transcript());
    Ok(())
}

/// Boots, runs every check of the suite, and powers off.
fn boot_and_check(guest: Guest, cpus: u32) -> anyhow::Result<()> {
    let busybox = guest.busybox()?;
    let suite = guest::suite(guest.architecture(), &guest.host_busybox()?)?;
    let initramfs = write_initramfs(
        &format!("{}-{cpus}", guest.name()),
        &initramfs::busybox_system(&busybox, &suite.files)?,
    )?;
    let mut session = boot(guest, cpus, &initramfs, &[])?;
    let is_peer = matches!(Emulator::under_test()?, Emulator::Qemu(_));
    let present = session.command("nproc", PROMPT, CHECK_LIMIT)?;
    ensure!(present.trim() == cpus.to_string(), "{present:?} processors instead of {cpus}");
    for check in suite.checks {
        let said = session.command(&check.command, PROMPT, CHECK_LIMIT)?;
        if is_peer && check.name.starts_with("float_bits") && guest.architecture() != Architecture::Riscv64 {
            // QEMU chooses between two NaNs by the x87's rule for SSE too (Intel SDM volume 1, 4.8.3.5 says otherwise).
            continue;
        }
        ensure!(said == check.expected, "{}: {}", check.name, first_difference(&said, &check.expected));
    }
    power_off(session)?;
    std::fs::remove_file(initramfs)?;
    Ok(())
}

fn first_difference(guest: &str, host: &str) -> String {
    let mut lines = guest.lines().zip(host.lines()).enumerate();
    match lines.find(|(_, (guest, host))| guest != host) {
        Some((line, (guest, host))) => {
            format!("line {}: the guest says {guest:?}, the host {host:?}", line + 1)
        }
        None => {
            format!("{} lines from the guest, {} from the host", guest.lines().count(), host.lines().count())
        }
    }
}

macro_rules! boots {
    ($($name:ident: $guest:ident, $cpus:literal;)*) => {$(
        #[test]
        #[ignore = "needs Debian packages and gcc: run cargo xtask test"]
        fn $name() {
            boot_and_check(Guest::$guest, $cpus).unwrap();
        }
    )*};
}

boots! {
    debian12_amd64_on_1_cpu: Bookworm, 1;
    debian12_amd64_on_2_cpus: Bookworm, 2;
    debian12_amd64_on_4_cpus: Bookworm, 4;
    debian13_amd64_on_1_cpu: Trixie, 1;
    debian13_amd64_on_2_cpus: Trixie, 2;
    debian13_amd64_on_4_cpus: Trixie, 4;
    debian12_i686_on_1_cpu: BookwormI686, 1;
    debian12_i686_on_2_cpus: BookwormI686, 2;
    debian12_i686_on_4_cpus: BookwormI686, 4;
    debian13_riscv64_on_1_cpu: TrixieRiscv64, 1;
    debian13_riscv64_on_4_cpus: TrixieRiscv64, 4;
}

#[test]
#[ignore = "needs Debian packages: run cargo xtask test"]
fn many_boots_in_a_row_all_succeed() {
    let repetitions: u32 = std::env::var("RHEA_TEST_REPETITIONS").map_or(3, |n| n.parse().expect("a number"));
    let guest = Guest::Bookworm;
    let system = initramfs::busybox_system(&guest.busybox().unwrap(), &[]).unwrap();
    let initramfs = write_initramfs("row", &system).unwrap();
    for round in 1..=repetitions {
        let cpus = [1, 2, 4][round as usize % 3];
        boot(guest, cpus, &initramfs, &[])
            .and_then(power_off)
            .with_context(|| format!("boot {round} of {repetitions}, -smp {cpus}"))
            .unwrap();
    }
    std::fs::remove_file(initramfs).unwrap();
}

#[test]
#[ignore = "needs Debian packages: run cargo xtask test"]
fn memory_above_4_gib_is_seen() {
    let guest = Guest::Bookworm;
    let system = initramfs::busybox_system(&guest.busybox().unwrap(), &[]).unwrap();
    let initramfs = write_initramfs("memory", &system).unwrap();
    let mut session = boot(guest, 1, &initramfs, &["-m", "8G"]).unwrap();
    let free = session.command(
        "awk '/MemTotal/ { print int($2 / 1048576 + 0.5) }' /proc/meminfo",
        PROMPT,
        CHECK_LIMIT,
    );
    assert_eq!(free.unwrap().trim(), "8");
    power_off(session).unwrap();
    std::fs::remove_file(initramfs).unwrap();
}

#[test]
#[ignore = "needs Debian packages: run cargo xtask test"]
fn a_reboot_starts_over_and_no_reboot_ends() {
    let guest = Guest::Bookworm;
    let system = initramfs::busybox_system(&guest.busybox().unwrap(), &[]).unwrap();
    let initramfs = write_initramfs("reboot", &system).unwrap();
    let mut session = boot(guest, 1, &initramfs, &[]).unwrap();
    // The harness starts machines with -no-reboot.
    session.send(b"reboot -f\n").unwrap();
    assert!(session.wait(OFF_LIMIT).unwrap().success());
    std::fs::remove_file(initramfs).unwrap();
}

#[test]
#[ignore = "needs Debian packages: run cargo xtask test"]
fn unusual_translator_settings_boot() {
    let guest = Guest::Bookworm;
    let system = initramfs::busybox_system(&guest.busybox().unwrap(), &[]).unwrap();
    let initramfs = write_initramfs("settings", &system).unwrap();
    let settings: [(u32, &[&str]); 3] = [
        (1, &["-icount", "shift=3"]),
        (1, &["-accel", "tcg,one-insn-per-tb=on"]),
        // Far less than the kernel needs: code is evicted all the time.
        (2, &["-accel", "tcg,tb-size=1"]),
    ];
    for (cpus, options) in settings {
        boot(guest, cpus, &initramfs, options)
            .and_then(power_off)
            .with_context(|| format!("{options:?}, -smp {cpus}"))
            .unwrap();
    }
    std::fs::remove_file(initramfs).unwrap();
}
