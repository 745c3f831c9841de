//! `-drive`, `-blockdev` and `-snapshot`.

use anyhow::{anyhow, bail};
use rhea_block::OpenFlags;
use rhea_options::{FromOptions, Options, closest, options};

use super::Builder;
use crate::config::{DisksConfig, DriveConfig};

options! {
    /// `-drive`, as far as it is not the block layer's
    struct DriveOptions {
        /// the image
        "file" => file: Option<String>,
        /// its format (guessed if not told)
        "format" => format: Option<String>,
        /// where the disk goes: virtio, or none for one that -device names
        "if" => interface: Option<String>,
        /// its name
        "id" => id: Option<String>,
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
const NOT_YET: &[&str] = &["index", "bus", "unit", "addr"];

/// Options of the block layer, for the help.
const NODE_OPTIONS: &str = "  read-only=<bool>, discard=ignore|unmap, detect-zeroes=off|on|unmap,\n  \
    cache.direct=<bool>, cache.no-flush=<bool>, and those of the format and (as file.…) of its file\n";

/// `-drive`.
pub fn take(builder: &mut Builder, text: &str) -> anyhow::Result<()> {
    let mut options = Options::parse(text, None)?;
    if options.wants_help() {
        builder.say = Some(format!("-drive parameters:\n{}{NODE_OPTIONS}", DriveOptions::help()));
        return Ok(());
    }
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
    let virtio = is_virtio(interface)?;
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
        None if virtio => format!("virtio{}", builder.virtio_drives.len()),
        None => format!("none{}", builder.disks.drives.len()),
    };
    if builder.disks.drives.iter().any(|drive| drive.id == id) {
        bail!("id '{id}' is taken by another -drive");
    }
    if virtio {
        builder.virtio_drives.push(id.clone());
    }
    let snapshot = own.snapshot == Some(true);
    builder.disks.drives.push(DriveConfig { id, file, flags, snapshot, writethrough, options });
    Ok(())
}

/// Whether the drive becomes a virtio disk by itself.
fn is_virtio(interface: Option<&str>) -> anyhow::Result<bool> {
    const INTERFACES: &[&str] = &["none", "ide", "scsi", "floppy", "pflash", "virtio", "sd", "mtd", "xen"];
    match interface {
        Some("virtio") => Ok(true),
        Some("none") => Ok(false),
        None => bail!(
            "parameter 'if' is missing; give if=virtio, or if=none with a -device (others are not implemented yet)"
        ),
        Some(name) if INTERFACES.contains(&name) => {
            bail!("if={name} is not implemented yet; use if=virtio, or if=none with a -device")
        }
        Some(name) => Err(match closest(name, INTERFACES.iter().copied()) {
            Some(near) => anyhow!("no interface '{name}'; did you mean '{near}'?"),
            None => anyhow!("no interface '{name}'; use virtio or none"),
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

/// With `-snapshot`, no image of a `-drive` is written.
pub fn finish(mut disks: DisksConfig, snapshot: bool) -> DisksConfig {
    for drive in &mut disks.drives {
        drive.snapshot |= snapshot;
    }
    disks
}
