//! `-device virtio-…`, what `-drive if=virtio` stands for, and the defaults that `-global` changes.

use anyhow::{anyhow, bail};
use rhea_options::{FromOptions, OnOffAuto, Options, Size, options};
use rhea_pci::PciAddress;
use rhea_virtio::{BlkConfig, MmioVersion};

use super::Builder;
use crate::config::{VirtioBlkConfig, VirtioConfig, VirtioKind, VirtioPlace};
use crate::targets::BoardSpec;

options! {
    /// `-device virtio-blk-…`
    pub struct BlkOptions {
        /// its name
        "id" => id: Option<String>,
        /// the id of a -drive, or the node-name of a -blockdev
        "drive" => drive: String,
        /// on PCI: the bus (pcie.0)
        "bus" => bus: Option<String>,
        /// on PCI: slot and function, in hexadecimal (3 or 3.0)
        "addr" => addr: Option<String>,
        /// on PCI: without the legacy interface (there is none: on)
        "disable-legacy" => disable_legacy: Option<OnOffAuto>,
        /// on PCI: without the modern interface (off)
        "disable-modern" => disable_modern: Option<bool>,
        /// serial number, 20 bytes at most
        "serial" => serial: Option<String>,
        /// request queues (one for each processor on PCI, else 1)
        "num-queues" => queues: Option<u16>,
        /// descriptors of a queue (256)
        "queue-size" => queue_size: Option<u16>,
        /// bytes of a logical block (512)
        "logical_block_size" => logical_block_size: Option<Size>,
        /// bytes of a physical block (512, or that of a logical one)
        "physical_block_size" => physical_block_size: Option<Size>,
        /// bytes of the least I/O that is not slow
        "min_io_size" => min_io_size: Option<Size>,
        /// bytes of the best I/O
        "opt_io_size" => opt_io_size: Option<Size>,
        /// take discards (on)
        "discard" => discard: Option<bool>,
        /// take writes of zeroes (on)
        "write-zeroes" => write_zeroes: Option<bool>,
        /// let the guest choose the write cache's mode (on)
        "config-wce" => config_wce: Option<bool>,
        /// start with the write cache on (as the drive says)
        "write-cache" => write_cache: Option<OnOffAuto>,
        /// let others write, too (off)
        "share-rw" => share_rw: Option<bool>,
        /// what happens when a write fails: report (the only way yet)
        "werror" => werror: Option<String>,
        /// what happens when a read fails: report (the only way yet)
        "rerror" => rerror: Option<String>,
    }
}

/// Which bus a device asks for by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bus {
    Pci,
    Mmio,
    Any,
}

/// A device whose place is not known yet.
pub struct VirtioRequest {
    driver: String,
    id: Option<String>,
    bus: Bus,
    address: Option<PciAddress>,
    kind: VirtioKind,
}

/// Reads the options of `-device DRIVER,…`.
pub fn parse(driver: &str, options: Options) -> anyhow::Result<VirtioRequest> {
    let bus = match driver {
        name if name.ends_with("-pci") => Bus::Pci,
        name if name.ends_with("-device") => Bus::Mmio,
        _ => Bus::Any,
    };
    let o = BlkOptions::from_options(options)?;
    let pci_only = [
        ("bus", o.bus.is_some()),
        ("addr", o.addr.is_some()),
        ("disable-legacy", o.disable_legacy.is_some()),
        ("disable-modern", o.disable_modern.is_some()),
    ];
    if let Some((name, _)) = pci_only.iter().find(|(_, given)| *given && bus != Bus::Pci) {
        bail!("parameter '{name}' is only for virtio-blk-pci");
    }
    if let Some(bus) = o.bus.as_deref().filter(|bus| *bus != "pcie.0") {
        bail!("no bus '{bus}'; there is 'pcie.0'");
    }
    if o.disable_legacy == Some(OnOffAuto::Off) {
        bail!("disable-legacy=off is not implemented yet: there is only the modern interface");
    }
    if o.disable_modern == Some(true) {
        bail!("disable-modern=on is not implemented yet: there is only the modern interface");
    }
    let address = o.addr.as_deref().map(address).transpose()?;
    let id = o.id.clone();
    let kind = VirtioKind::Blk(Box::new(blk(o)?));
    Ok(VirtioRequest { driver: driver.into(), id, bus, address, kind })
}

fn blk(o: BlkOptions) -> anyhow::Result<VirtioBlkConfig> {
    for (name, value) in [("werror", &o.werror), ("rerror", &o.rerror)] {
        if let Some(value) = value.as_deref().filter(|value| !["report", "auto"].contains(value)) {
            bail!("{name}={value} is not implemented yet; errors are reported to the guest ({name}=report)");
        }
    }
    let size = |name: &str, size: Option<Size>, default: u32| match size {
        None => Ok(default),
        Some(Size(size)) => u32::try_from(size).map_err(|_| anyhow!("parameter '{name}' is out of range")),
    };
    let usual = BlkConfig::default();
    let logical_block_size = size("logical_block_size", o.logical_block_size, 512)?;
    let device = BlkConfig {
        name: o.id.unwrap_or(usual.name),
        share_rw: o.share_rw.unwrap_or(false),
        serial: o.serial.unwrap_or_default(),
        queue_size: o.queue_size.unwrap_or(usual.queue_size),
        logical_block_size,
        physical_block_size: size("physical_block_size", o.physical_block_size, logical_block_size)?,
        min_io_size: size("min_io_size", o.min_io_size, 0)?,
        opt_io_size: size("opt_io_size", o.opt_io_size, 0)?,
        discard: o.discard.unwrap_or(true),
        write_zeroes: o.write_zeroes.unwrap_or(true),
        config_wce: o.config_wce.unwrap_or(true),
        ..BlkConfig::default()
    };
    let write_cache = match o.write_cache {
        None | Some(OnOffAuto::Auto) => None,
        Some(choice) => Some(choice == OnOffAuto::On),
    };
    Ok(VirtioBlkConfig { drive: o.drive, queues: o.queues, write_cache, device })
}

/// `SLOT[.FUNCTION]`, hexadecimal.
fn address(text: &str) -> anyhow::Result<PciAddress> {
    let number = |text: &str| u8::from_str_radix(text.strip_prefix("0x").unwrap_or(text), 16).ok();
    let (slot, function) = text.split_once('.').unwrap_or((text, "0"));
    match (number(slot), number(function)) {
        (Some(device @ 0..=31), Some(function @ 0..=7)) => Ok(PciAddress { device, function }),
        _ => bail!("parameter 'addr' expects a slot up to 1f and a function up to 7, not '{text}'"),
    }
}

/// `-global`: the one default that can be changed.
pub fn take_global(builder: &mut Builder, text: &str) -> anyhow::Result<()> {
    if matches!(text, "help" | "?") {
        builder.say = Some(
            "-global:\n  virtio-mmio.force-legacy=on|off  registers of version 1 (on) or 2 (off) in virtio-mmio slots\n"
                .into(),
        );
        return Ok(());
    }
    let (driver, property, value) = match text.split_once('=') {
        Some((name, value)) if !name.is_empty() && name != "driver" => {
            let (driver, property) = name.split_once('.').unwrap_or((name, ""));
            (driver.to_owned(), property.to_owned(), value.to_owned())
        }
        _ => {
            let mut options = Options::parse(text, None)?;
            let mut word = |key| -> anyhow::Result<String> {
                options.take(key)?.ok_or_else(|| anyhow!("parameter '{key}' is missing"))
            };
            let words = (word("driver")?, word("property")?, word("value")?);
            options.finish(["driver", "property", "value"])?;
            words
        }
    };
    if (driver.as_str(), property.as_str()) != ("virtio-mmio", "force-legacy") {
        bail!("{driver}.{property} is not implemented yet; virtio-mmio.force-legacy is");
    }
    builder.mmio = match value.as_str() {
        "on" | "true" | "yes" => MmioVersion::Legacy,
        "off" | "false" | "no" => MmioVersion::Modern,
        _ => bail!("virtio-mmio.force-legacy expects 'on' or 'off', not '{value}'"),
    };
    Ok(())
}

/// Places all devices: those of `-device` first, then those of `-drive if=virtio`.
pub fn finish(
    requests: Vec<VirtioRequest>,
    drives: &[String],
    board: &BoardSpec,
    mmio: MmioVersion,
) -> anyhow::Result<Vec<VirtioConfig>> {
    let place = |bus, address| match bus {
        Bus::Pci => VirtioPlace::Pci(address),
        Bus::Any if board.has_pci => VirtioPlace::Pci(address),
        Bus::Mmio | Bus::Any => VirtioPlace::Mmio(mmio),
    };
    let named = requests.into_iter().map(|request| {
        let VirtioRequest { driver, id, bus, address, kind } = request;
        VirtioConfig { driver, id, place: place(bus, address), kind }
    });
    let of_drives = drives.iter().map(|drive| VirtioConfig {
        driver: "virtio-blk".into(),
        id: None,
        place: place(Bus::Any, None),
        kind: VirtioKind::Blk(Box::new(VirtioBlkConfig {
            drive: drive.clone(),
            queues: None,
            write_cache: None,
            device: BlkConfig::default(),
        })),
    });
    let all: Vec<_> = named.chain(of_drives).collect();
    let ids: Vec<_> = all.iter().filter_map(|config| config.id.as_ref()).collect();
    if let Some(id) = ids.iter().enumerate().find_map(|(i, id)| ids[..i].contains(id).then_some(id)) {
        bail!("id '{id}' is taken by another -device");
    }
    Ok(all)
}
