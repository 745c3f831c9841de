//! Real Debian kernels read and write virtio disks: what they read is what the host wrote, and the other way round.
//!
//! These need Debian's packages: `cargo xtask test` obtains them and runs them (`--include-ignored`).

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};
use rhea_boot_tests::initramfs::{self, PROMPT};
use rhea_boot_tests::kernels::{Emulator, Guest};
use rhea_boot_tests::modules::Modules;
use rhea_boot_tests::session::Session;
use rhea_boot_tests::target_dir;

/// For a loaded host of two cores.
const LIMIT: Duration = Duration::from_secs(100);

const MIB: usize = 1 << 20;
/// Size of the disk, and where the guest writes its payload.
const DISK: usize = 24 * MIB;
const PLACE: usize = 7 * MIB;

/// Loads the modules in order.
const START: &str =
    "for module in /tests/*.ko; do busybox insmod $module || echo \"cannot load $module\"; done\n";

/// Writes the payload at a sector, and flushes.
const WRITE: &str =
    "dd if=/tests/payload of=/dev/vda bs=512 seek=$1 conv=fsync 2>/dev/null && echo written\n";

/// Reads past the page cache, by several programs at once and in small pieces, and then the whole disk once more.
const READ_AGAIN: &str = "echo 3 > /proc/sys/vm/drop_caches
for i in 1 2 3 4; do dd if=/dev/vda of=/dev/null bs=4k iflag=direct 2>/dev/null & done
wait
sha256sum /dev/vda
";

/// Bytes without a pattern, the same for the same seed.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    std::iter::repeat_with(&mut next).flatten().take(len).collect()
}

/// A folder for one test's files.
fn folder(name: &str) -> anyhow::Result<PathBuf> {
    let folder = target_dir().join("disk-tests").join(format!("{name}-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    Ok(folder)
}

fn system(guest: Guest, payload: &[u8]) -> anyhow::Result<Vec<u8>> {
    let wanted = ["virtio_pci", "virtio_mmio", "virtio_blk", "virtio_rng", "virtio_console"];
    let modules = Modules::beside(&guest.kernel()?)?.with_dependencies(&wanted)?;
    let named = |(index, module): (usize, rhea_boot_tests::modules::Module)| {
        (format!("{index:02}-{}.ko", module.name), module.object)
    };
    let mut files: Vec<_> = modules.into_iter().enumerate().map(named).collect();
    for (name, script) in [("start", START), ("write.sh", WRITE), ("again.sh", READ_AGAIN)] {
        files.push((name.into(), script.into()));
    }
    files.push(("payload".into(), payload.to_vec()));
    initramfs::busybox_system(&guest.busybox()?, &files)
}

fn digest(path: &Path) -> anyhow::Result<String> {
    let output = Command::new("sha256sum").arg(path).output().context("sha256sum")?;
    ensure!(output.status.success(), "sha256sum {}", path.display());
    Ok(String::from_utf8_lossy(&output.stdout).split(' ').next().unwrap_or_default().to_owned())
}

/// Converts an image with the program under test.
fn convert(from: (&str, &Path), to: (&str, &Path)) -> anyhow::Result<()> {
    let mut command = match Emulator::under_test()? {
        Emulator::Rhea(path) => {
            let mut command = Command::new(path);
            command.arg("img");
            command
        }
        Emulator::Qemu(_) => Command::new("qemu-img"),
    };
    command.args(["convert", "-f", from.0, "-O", to.0]).args([from.1, to.1]);
    let output = command.output().context("img convert")?;
    ensure!(output.status.success(), "convert: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

struct Case<'a> {
    name: &'a str,
    guest: Guest,
    format: &'a str,
    cpus: u32,
    /// Options of the machine and the disk; `{image}` is the image's path.
    options: &'a [&'a str],
    serial: &'a str,
}

fn read_and_write(case: &Case<'_>) -> anyhow::Result<()> {
    let folder = folder(case.name)?;
    let raw = folder.join("disk.raw");
    let contents = noise(7, DISK);
    std::fs::write(&raw, &contents)?;
    let expected = digest(&raw)?;
    let image = match case.format {
        "raw" => raw.clone(),
        format => {
            let image = folder.join(format!("disk.{format}"));
            convert(("raw", &raw), (format, &image))?;
            image
        }
    };
    let payload = noise(99, 3 * MIB + 512);
    let initramfs = folder.join("initramfs.cpio");
    std::fs::write(&initramfs, system(case.guest, &payload)?)?;

    let mut command = Emulator::under_test()?.boot(case.guest, &initramfs, "quiet")?;
    command.args(["-m", "512M", "-smp", &case.cpus.to_string()]);
    command.args(case.options.iter().map(|option| option.replace("{image}", &image.to_string_lossy())));
    let mut session = Session::start(&mut command)?;
    let started = session.expect(PROMPT, LIMIT)?;
    ensure!(!started.contains("cannot load"), "a module is refused:\n{started}");
    let mut say = |line: &str| session.command(line, PROMPT, LIMIT);

    let size = say("cat /sys/block/vda/size")?;
    ensure!(size.trim() == (DISK / 512).to_string(), "the guest sees {size} sectors");
    let serial = say("cat /sys/block/vda/serial")?;
    ensure!(serial.trim() == case.serial, "the guest sees the serial number {serial:?}");
    let seen = say("sha256sum /dev/vda")?;
    ensure!(seen.starts_with(&expected), "the guest reads {seen:?}, the host wrote {expected}");
    let wrote = say(&format!("sh /tests/write.sh {}", PLACE / 512))?;
    ensure!(wrote.trim() == "written", "{wrote}");
    // What a flush made safe is there while the guest still runs.
    let on_disk = |image: &Path| -> anyhow::Result<Vec<u8>> {
        if case.format != "raw" {
            convert((case.format, image), ("raw", &raw))?;
        }
        Ok(std::fs::read(&raw)?)
    };
    let mut changed = contents;
    changed[PLACE..PLACE + payload.len()].copy_from_slice(&payload);
    if case.format == "raw" {
        ensure!(on_disk(&image)? == changed, "the flushed writes are not in the file");
    }
    let again = say("sh /tests/again.sh")?;
    std::fs::write(folder.join("changed.raw"), &changed)?;
    let expected = digest(&folder.join("changed.raw"))?;
    ensure!(again.starts_with(&expected), "the guest reads {again:?} again, not {expected}");
    session.send(b"poweroff -f\n")?;
    let status = session.wait(LIMIT)?;
    ensure!(status.success(), "the emulator ended with {status}:\n{}", session.transcript());
    ensure!(on_disk(&image)? == changed, "what the guest wrote is not in the image");
    std::fs::remove_dir_all(folder)?;
    Ok(())
}

#[test]
#[ignore = "needs Debian packages: run cargo xtask test"]
fn a_disk_on_pci() {
    let options = [
        "-drive",
        "file={image},if=none,id=d,format=raw,cache=writeback",
        "-device",
        "virtio-blk-pci,drive=d,serial=pci-disk",
    ];
    let case = Case {
        name: "pci",
        guest: Guest::Bookworm,
        format: "raw",
        cpus: 2,
        options: &options,
        serial: "pci-disk",
    };
    read_and_write(&case).unwrap();
}

#[test]
#[ignore = "needs Debian packages: run cargo xtask test"]
fn a_qcow2_disk_on_pci() {
    let options = ["-drive", "file={image},if=virtio,format=qcow2,discard=unmap"];
    let case = Case {
        name: "qcow2",
        guest: Guest::Bookworm,
        format: "qcow2",
        cpus: 1,
        options: &options,
        serial: "",
    };
    read_and_write(&case).unwrap();
}

#[test]
#[ignore = "needs Debian packages: run cargo xtask test"]
fn a_disk_in_a_slot_of_either_version() {
    for (name, legacy) in [("legacy", "on"), ("modern", "off")] {
        let force = format!("virtio-mmio.force-legacy={legacy}");
        let options = [
            "-M",
            "microvm",
            "-global",
            &force,
            "-blockdev",
            "driver=file,node-name=n,filename={image}",
            "-device",
            "virtio-blk-device,drive=n,serial=slot",
        ];
        let case =
            Case { name, guest: Guest::Bookworm, format: "raw", cpus: 1, options: &options, serial: "slot" };
        read_and_write(&case).unwrap();
    }
}

#[test]
#[ignore = "needs Debian packages: run cargo xtask test"]
fn a_disk_of_a_riscv_guest() {
    let options = [
        "-drive",
        "file={image},if=none,id=d,format=raw",
        "-device",
        "virtio-blk-device,drive=d,serial=virt",
    ];
    let case = Case {
        name: "riscv",
        guest: Guest::TrixieRiscv64,
        format: "raw",
        cpus: 2,
        options: &options,
        serial: "virt",
    };
    read_and_write(&case).unwrap();
}
