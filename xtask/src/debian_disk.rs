//! `cargo xtask debian-disk`: a whole Debian for riscv64 on a virtio disk, made in the guest and booted to its login.
//!
//! debootstrap unpacks the packages here; the foreign stage, which runs their programs, runs in the guest. Then systemd
//! boots from the same disk. What is made stays under `target/debian-disk`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};
use rhea_boot_tests::debian;
use rhea_boot_tests::initramfs;
use rhea_boot_tests::kernels::{Emulator, Guest};
use rhea_boot_tests::modules::Modules;
use rhea_boot_tests::session::Session;
use rhea_boot_tests::target_dir;

use crate::cargo::{build_rhea, run};
use crate::packages;

const SUITE: &str = "trixie";
const SIZE: &str = "2G";
/// Limits are for a slow host; the times are printed.
const STAGE_LIMIT: Duration = Duration::from_secs(3600);
const BOOT_LIMIT: Duration = Duration::from_secs(900);

/// What the guest runs before any shell: mounts the disk, and finishes the installation or starts the system on it.
const START: &str = "
for m in $(cat /tests/modules); do /bin/busybox insmod /tests/$m.ko; done
/bin/busybox mkdir -p /disk
n=0
until mount -t ext4 /dev/vda /disk; do n=$((n+1)); [ $n -gt 20 ] && break; sleep 1; done
mount -t devtmpfs devtmpfs /disk/dev
if grep -q second-stage /proc/cmdline; then
  mount -t proc proc /disk/proc
  if /bin/busybox chroot /disk /usr/bin/env PATH=/usr/sbin:/usr/bin:/sbin:/bin /debootstrap/debootstrap --second-stage
  then echo rhea-disk: installed; else echo rhea-disk: failed; /bin/busybox tail -20 /disk/debootstrap/debootstrap.log; fi
  /bin/busybox chroot /disk /usr/bin/passwd -d root
  echo riscv > /disk/etc/hostname
  echo '/dev/vda / ext4 defaults 0 1' > /disk/etc/fstab
  sync
  /bin/busybox umount /disk/proc /disk/dev /disk
  poweroff -f
fi
exec /bin/busybox switch_root /disk /sbin/init
";

/// Makes the disk if it is not there, and boots it; with `peer` on QEMU.
pub fn run_disk(peer: bool) -> anyhow::Result<()> {
    packages::install(&["debootstrap", "e2fsprogs", "xz-utils"])?;
    packages::install_opensbi()?;
    let emulator = if peer {
        packages::install_peer("riscv64")?;
        Emulator::Qemu("/usr/bin/qemu-system-riscv64".into())
    } else {
        Emulator::Rhea(build_rhea()?)
    };
    let folder = target_dir().join("debian-disk");
    fs::create_dir_all(&folder)?;
    let unpacked = unpacked_disk(&folder)?;
    let initramfs = write_initramfs(&folder)?;
    let disk = folder.join(if peer { "peer.raw" } else { "disk.raw" });
    fs::copy(&unpacked, &disk)?;
    let mut session = start(&emulator, &initramfs, &disk, "quiet second-stage")?;
    session.expect("rhea-disk: installed", STAGE_LIMIT).context("the foreign stage did not finish")?;
    println!("debian-disk: installed after {:.0} s", session.elapsed().as_secs_f64());
    ensure!(session.wait(BOOT_LIMIT)?.success(), "the emulator failed:\n{}", session.transcript());
    let mut session = start(&emulator, &initramfs, &disk, "quiet")?;
    session.expect("riscv login: ", BOOT_LIMIT).context("no login")?;
    println!("debian-disk: at its login after {:.1} s", session.elapsed().as_secs_f64());
    session.send(b"root\n")?;
    session.expect("# ", BOOT_LIMIT)?;
    // Spelt so that the command's echo is not taken for its answer.
    session.send(b"systemctl is-system-running --wait; echo un'i'ts $?\n")?;
    let said = session.expect("units ", BOOT_LIMIT)?;
    println!("debian-disk: the system is {}", said.trim().lines().last().unwrap_or_default());
    session.send(b"systemctl poweroff\n")?;
    ensure!(session.wait(BOOT_LIMIT)?.success(), "the emulator failed:\n{}", session.transcript());
    println!("debian-disk: it powered off cleanly");
    Ok(())
}

fn start(emulator: &Emulator, initramfs: &Path, disk: &Path, append: &str) -> anyhow::Result<Session> {
    let mut command = emulator.boot(Guest::TrixieRiscv64, initramfs, append)?;
    command.args(["-m", "1G", "-smp", "2"]);
    command.arg("-drive").arg(format!("file={},format=raw,if=none,id=disk", disk.display()));
    command.args(["-device", "virtio-blk-device,drive=disk"]);
    Session::start(&mut command)
}

/// The disk as debootstrap's first stage leaves it.
fn unpacked_disk(folder: &Path) -> anyhow::Result<PathBuf> {
    let image = folder.join("unpacked.raw");
    if image.exists() {
        return Ok(image);
    }
    let root = folder.join("root");
    if root.exists() {
        fs::remove_dir_all(&root)?;
    }
    let packages = "--include=systemd-sysv,udev,dbus,login,passwd";
    let mirror = debian::mirror()?;
    println!("debian-disk: obtaining the packages");
    let mut debootstrap = Command::new("debootstrap");
    debootstrap.args(["--foreign", "--arch=riscv64", "--variant=minbase", packages, SUITE]);
    run(debootstrap.arg(&root).arg(mirror))?;
    let staging = folder.join("unpacked.raw.new");
    run(Command::new("mkfs.ext4").args(["-q", "-F", "-d"]).arg(&root).arg(&staging).arg(SIZE))?;
    fs::remove_dir_all(&root)?;
    fs::rename(staging, &image)?;
    Ok(image)
}

fn write_initramfs(folder: &Path) -> anyhow::Result<PathBuf> {
    let guest = Guest::TrixieRiscv64;
    let modules = Modules::beside(&guest.kernel()?)?;
    let modules = modules.with_dependencies(&["virtio_mmio", "virtio_blk", "crc32c_generic", "ext4"])?;
    let names: String = modules.iter().map(|m| format!("{}\n", m.name)).collect();
    let mut files =
        vec![("start".to_owned(), START.as_bytes().to_vec()), ("modules".into(), names.into_bytes())];
    files.extend(modules.into_iter().map(|m| (format!("{}.ko", m.name), m.object)));
    let path = folder.join("initramfs.cpio");
    fs::write(&path, initramfs::busybox_system(&guest.busybox()?, &files)?)?;
    Ok(path)
}
