//! KVM in a guest: Debian's riscv64 kernel finds the hypervisor extension, and runs a virtual machine of its own.
//!
//! These need Debian's packages and gcc: `cargo xtask test` obtains both and runs them (`--include-ignored`).

use std::time::Duration;

use anyhow::ensure;
use rhea_boot_tests::guest::{self, Architecture};
use rhea_boot_tests::initramfs::{self, PROMPT};
use rhea_boot_tests::kernels::{Emulator, Guest};
use rhea_boot_tests::modules::Modules;
use rhea_boot_tests::session::Session;
use rhea_boot_tests::target_dir;

/// For a loaded host of two cores.
const LIMIT: Duration = Duration::from_secs(100);

/// What the virtual machine tells its device: a sum, the device's word plus one, that translation is on, the cause of a
/// page fault, and that of the timer's interrupt.
const SAID: &str = "10000000: 500500 in 4
10000000: 4711 in 8
10000000: 2 in 4
10000000: 13 in 4
10000004: 5 in 1
";

fn run_virtual_machine(name: &str, options: &[&str]) -> anyhow::Result<()> {
    let guest = Guest::TrixieRiscv64;
    let program = guest::build("kvm", &["kvm/riscv.c"], Architecture::Riscv64, &[])?;
    let modules = Modules::beside(&guest.kernel()?)?.with_dependencies(&["kvm"])?;
    let mut files: Vec<_> = modules.into_iter().map(|m| (format!("{}.ko", m.name), m.object)).collect();
    files.push(("kvm".into(), std::fs::read(program)?));
    let folder = target_dir().join("boot-tests");
    std::fs::create_dir_all(&folder)?;
    let initramfs = folder.join(format!("kvm-{name}-{}.cpio", std::process::id()));
    std::fs::write(&initramfs, initramfs::busybox_system(&guest.busybox()?, &files)?)?;
    let mut command = Emulator::under_test()?.boot(guest, &initramfs, "quiet")?;
    command.args(["-m", "512M"]).args(options);
    let mut session = Session::start(&mut command)?;
    session.expect(PROMPT, LIMIT)?;
    let mut say = |line: &str| session.command(line, PROMPT, LIMIT);
    say("busybox insmod /tests/kvm.ko")?;
    let log = say("dmesg | grep kvm")?;
    ensure!(log.contains("hypervisor extension available"), "the kernel says {log:?}");
    for _ in 0..2 {
        let said = say("/tests/kvm")?;
        ensure!(said == SAID, "the virtual machine says {said:?}");
    }
    session.send(b"poweroff -f\n")?;
    ensure!(session.wait(LIMIT)?.success(), "{}", session.transcript());
    std::fs::remove_file(initramfs)?;
    Ok(())
}

#[test]
#[ignore = "needs Debian packages: run cargo xtask test"]
fn a_virtual_machine_runs_under_kvm() {
    run_virtual_machine("plain", &[]).unwrap();
}

#[test]
#[ignore = "needs Debian packages: run cargo xtask test"]
fn a_virtual_machine_runs_under_kvm_with_advanced_interrupts() {
    run_virtual_machine("aia", &["-cpu", "rva23s64", "-M", "virt,aia=aplic-imsic", "-smp", "2"]).unwrap();
}
