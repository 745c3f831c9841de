//! `-drive`, `-blockdev` and `-snapshot`.

use anyhow::{anyhow, bail};
use rhea_block::OpenFlags;
use rhea_options::{FromOptions, Options, closest, options};

use super::Builder;
use crate::config::{DisksConfig, DriveConfig};
use crate::targets::{BoardSpec, MachineConfig};

options! {
    /// `-drive`, as far as it is not the block layer's
    struct DriveOptions {
        /// the image
        "file" => file: Option<String>,
        /// its format (guessed if not told)
        "format" => format: Option<String>,
        /// where the disk goes: virtio, pflash, or none for one that -device names
        "if" => interface: Option<String>,
        /// its name
        "id" => id: Option<String>,
        /// the bank of flash memory, with if=pflash (the first that is free)
        "unit" => unit: Option<u32>,
        /// disk (the only kind yet)
        "media" => media: Option<String>,
        /// the guest cannot write
        "readonly" => read_only: Option<bool>,
        /// none, writeback, writethrough, directsync or unsafe
        "cache" => cache: Option<String>,
        /// writes are safe only after a flush
        "cache.writeback" => writeback: Option<bool>,
        /// threads, native or io_uring
        "aio" => aio: Option<String>,
        /// write to a temporary file
        "snapshot" => snapshot: Option<bool>,
        /// copy what is read from the backing file
        "copy-on-read" => copy_on_read: Option<bool>,
        /// what happens when a write fails: report (the only way yet)
        "werror" => werror: Option<String>,
        /// what happens when a read fails: report (the only way yet)
        "rerror" => rerror: Option<String>,
    }
}

/// Keys of QEMU's that mean something this version does not have.
const NOT_YET: &[&str] = &["index", "bus", "addr"];

/// Banks of flash memory that a command line can name.
const BANKS: u32 = 2;

/// What becomes of a `-drive` by itself.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Interface {
    /// Nothing: a `-device` or a machine's property names it.
    None,
    /// A virtio disk.
    Virtio,
    /// A bank of flash memory.
    Flash,
}

/// Options of the block layer, for the help.
const NODE_OPTIONS: &str = "  read-only=<bool>, discard=ignore|unmap, detect-zeroes=off|on|unmap,\n  \
    cache.direct=<bool>, cache.no-flush=<bool>, and those of the format and (as file.…) of its file\n";

/// `-drive`.
pub fn take(builder: &mut Builder, text: &str) -> anyhow::Result<()> {
    let options = Options::parse(text, None)?;
    if options.wants_help() {
        builder.say = Some(format!("-drive parameters:\n{}{NODE_OPTIONS}", DriveOptions::help()));
        return Ok(());
    }
    take_options(builder, options)
}

fn take_options(builder: &mut Builder, mut options: Options) -> anyhow::Result<()> {
    if let Some(key) = NOT_YET.iter().find(|key| options.entries().iter().any(|e| e.key == **key)) {
        bail!("parameter '{key}' is not implemented yet; name a place with -device and drive=");
    }
    // What is not ours is the block layer's, which refuses what it does not know.
    let fields = DriveOptions::fields();
    let ours = |key: &str| fields.iter().any(|field| field.key == key);
    let (own, node): (Vec<_>, Vec<_>) = options.entries().iter().cloned().partition(|e| ours(&e.key));
    options = Options::from_entries(node);
    let own = DriveOptions::from_options(Options::from_entries(own))?;
    let interface = own.interface.as_deref();
    let interface = parse_interface(interface)?;
    if own.unit.is_some() && interface != Interface::Flash {
        bail!("parameter 'unit' is implemented for if=pflash only yet; name a place with -device and drive=");
    }
    if let Some(media) = own.media.as_deref().filter(|media| *media != "disk") {
        bail!("media={media} is not implemented yet; only disk is");
    }
    for (name, value) in [("werror", &own.werror), ("rerror", &own.rerror)] {
        if let Some(value) = value.as_deref().filter(|value| *value != "report") {
            bail!("{name}={value} is not implemented yet; errors are reported to the guest ({name}=report)");
        }
    }
    let mut flags = aio(own.aio.as_deref())? | OpenFlags::AUTO_READ_ONLY;
    flags.set(OpenFlags::COPY_ON_READ, own.copy_on_read == Some(true));
    let mut writethrough = false;
    if let Some(mode) = &own.cache {
        let cache = OpenFlags::cache(mode).ok_or_else(|| anyhow!("invalid cache mode '{mode}'"))?;
        writethrough = cache.contains(OpenFlags::WRITE_THROUGH);
        for (key, flag) in [("cache.direct", OpenFlags::DIRECT), ("cache.no-flush", OpenFlags::NO_FLUSH)] {
            if options.get(key).is_none() && cache.contains(flag) {
                options.set(key, "on");
            }
        }
    }
    if let Some(writeback) = own.writeback {
        writethrough = !writeback;
    }
    if let Some(read_only) = own.read_only {
        options.set("read-only", if read_only { "on" } else { "off" });
    }
    if let Some(format) = &own.format {
        options.set("driver", format);
    }
    let file = own.file.filter(|file| !file.is_empty());
    if file.is_none() && options.entries().iter().all(|e| !e.key.contains('.') && e.key != "driver") {
        bail!("parameter 'file' is missing: drives without a medium are not implemented yet");
    }
    let id = match own.id {
        Some(id) => id,
        None if interface == Interface::Virtio => format!("virtio{}", builder.virtio_drives.len()),
        None if interface == Interface::Flash => format!("pflash{}", builder.disks.flash.len()),
        None => format!("none{}", builder.disks.drives.len()),
    };
    if builder.disks.drives.iter().any(|drive| drive.id == id) {
        bail!("id '{id}' is taken by another -drive");
    }
    match interface {
        Interface::None => {}
        Interface::Virtio => builder.virtio_drives.push(id.clone()),
        Interface::Flash => take_bank(builder, own.unit, &id)?,
    }
    let snapshot = own.snapshot == Some(true);
    builder.disks.drives.push(DriveConfig { id, file, flags, snapshot, writethrough, options });
    Ok(())
}

/// `-pflash`: a drive for the next bank.
pub fn take_pflash(builder: &mut Builder, file: &str) -> anyhow::Result<()> {
    let mut options = Options::default();
    options.set("if", "pflash");
    options.set("file", file);
    take_options(builder, options)
}

/// Notes the drive as what a bank of flash memory is on.
fn take_bank(builder: &mut Builder, unit: Option<u32>, id: &str) -> anyhow::Result<()> {
    let flash = &mut builder.disks.flash;
    let is_free = |bank: &u32| flash.iter().all(|(taken, _)| taken != bank);
    let bank = match unit {
        Some(unit) if unit >= BANKS => bail!("unit={unit}: banks of flash memory have the numbers 0 and 1"),
        Some(unit) if !is_free(&unit) => bail!("unit={unit}: that bank of flash memory is taken"),
        Some(unit) => unit,
        None => (0..BANKS).find(is_free).ok_or_else(|| anyhow!("both banks of flash memory are taken"))?,
    };
    flash.push((bank, id.to_owned()));
    Ok(())
}

fn parse_interface(interface: Option<&str>) -> anyhow::Result<Interface> {
    const INTERFACES: &[&str] = &["none", "ide", "scsi", "floppy", "pflash", "virtio", "sd", "mtd", "xen"];
    match interface {
        Some("virtio") => Ok(Interface::Virtio),
        Some("pflash") => Ok(Interface::Flash),
        Some("none") => Ok(Interface::None),
        None => bail!(
            "parameter 'if' is missing; give if=virtio, or if=none with a -device (others are not implemented yet)"
        ),
        Some(name) if INTERFACES.contains(&name) => {
            bail!("if={name} is not implemented yet; use if=virtio, or if=none with a -device")
        }
        Some(name) => Err(match closest(name, INTERFACES.iter().copied()) {
            Some(near) => anyhow!("no interface '{name}'; did you mean '{near}'?"),
            None => anyhow!("no interface '{name}'; use virtio, pflash or none"),
        }),
    }
}

fn aio(mode: Option<&str>) -> anyhow::Result<OpenFlags> {
    Ok(match mode {
        None => OpenFlags::empty(),
        Some("threads") => OpenFlags::AIO_THREADS,
        Some("native") => OpenFlags::AIO_NATIVE,
        Some("io_uring") => OpenFlags::AIO_IO_URING,
        Some(other) => bail!("invalid aio mode '{other}'; use threads, native or io_uring"),
    })
}

/// `-blockdev`.
pub fn take_blockdev(builder: &mut Builder, text: &str) -> anyhow::Result<()> {
    let options = Options::parse(text, Some("driver"))?;
    if options.wants_help() {
        bail!("help is not available for this option");
    }
    builder.disks.blockdevs.push(options);
    Ok(())
}

/// With `-snapshot`, no image of a `-drive` is written. The machine's properties name banks of flash memory too.
pub fn finish(
    mut disks: DisksConfig,
    snapshot: bool,
    board: &BoardSpec,
    machine: &MachineConfig,
) -> anyhow::Result<DisksConfig> {
    for drive in &mut disks.drives {
        drive.snapshot |= snapshot;
    }
    for (bank, name) in (0..).zip(machine.flash()) {
        let Some(name) = name else { continue };
        if disks.flash.iter().any(|(taken, _)| *taken == bank) {
            bail!("pflash{bank}={name}: that bank of flash memory is taken by a -drive");
        }
        disks.flash.push((bank, name.to_owned()));
    }
    if let Some((bank, name)) = disks.flash.iter().find(|(bank, _)| *bank >= board.flash_banks) {
        match board.flash_banks {
            0 => bail!("machine '{}' has no flash memory yet; a flat ROM is given with -bios", board.name),
            banks => {
                bail!("{name}: machine '{}' has {banks} banks of flash memory, no bank {bank}", board.name)
            }
        }
    }
    Ok(disks)
}
