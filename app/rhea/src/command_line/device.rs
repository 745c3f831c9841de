//! `-device`: virtio devices, and those for bare-metal programs.

use std::path::PathBuf;

use anyhow::{anyhow, bail};
use rhea_options::{FromOptions, Options, closest, options};

use super::virtio::{self, BlkOptions, VirtioRequest};
use super::{Builder, chardev};
use crate::config::{CharConfig, DebugExitConfig, DebugconConfig, LoaderConfig};

options! {
    /// `-device isa-debug-exit`
    struct DebugExitOptions {
        /// its name
        "id" => id: Option<String>,
        /// first I/O port (0x501)
        "iobase" => iobase: Option<u16>,
        /// number of ports, 1 to 8 (2)
        "iosize" => iosize: Option<u8>,
    }
}

options! {
    /// `-device isa-debugcon`
    struct DebugconOptions {
        /// its name
        "id" => id: Option<String>,
        /// I/O port (0xe9)
        "iobase" => iobase: Option<u16>,
        /// what the port answers when read (0xe9)
        "readback" => readback: Option<u8>,
        /// id of the -chardev it writes to
        "chardev" => chardev: String,
    }
}

options! {
    /// `-device loader`
    struct LoaderOptions {
        /// its name
        "id" => id: Option<String>,
        /// the file to place in guest memory
        "file" => file: PathBuf,
        /// the guest physical address it is placed at
        "addr" => addr: u64,
        /// place the bytes as they are (there is no other way yet)
        "force-raw" => force_raw: Option<bool>,
    }
}

const DEVICES: &[(&str, &str, fn() -> String)] = &[
    ("virtio-blk-pci", "a disk on the PCI bus", BlkOptions::help),
    ("virtio-blk-device", "a disk in a virtio-mmio slot", BlkOptions::help),
    ("virtio-blk", "a disk on the board's bus for virtio devices", BlkOptions::help),
    ("isa-debug-exit", "a write ends the emulator with status (value << 1) | 1", DebugExitOptions::help),
    ("isa-debugcon", "an I/O port whose writes are text for the host", DebugconOptions::help),
    ("loader", "places a file in guest memory at each reset", LoaderOptions::help),
];

/// One `-device`.
pub enum DeviceRequest {
    DebugExit(DebugExitConfig),
    Debugcon(DebugconConfig),
    Loader(LoaderConfig),
    Virtio(VirtioRequest),
}

/// The devices of a machine, by kind.
#[derive(Default)]
pub struct Devices {
    pub debug_exit: Option<DebugExitConfig>,
    pub debugcon: Option<DebugconConfig>,
    pub loaders: Vec<LoaderConfig>,
    pub virtio: Vec<VirtioRequest>,
}

/// `-device`.
pub fn take(builder: &mut Builder, text: &str) -> anyhow::Result<()> {
    let mut options = Options::parse(text, Some("driver"))?;
    let wants_help = options.wants_help();
    let Some(driver) = options.take::<String>("driver")? else {
        if wants_help {
            builder.say = Some(list());
            return Ok(());
        }
        bail!("parameter 'driver' is missing");
    };
    let Some((_, _, help)) = DEVICES.iter().find(|(name, ..)| *name == driver) else {
        return Err(unknown(&driver));
    };
    if wants_help {
        builder.say = Some(format!("{driver} options:\n{}", help()));
        return Ok(());
    }
    builder.devices.push(match driver.as_str() {
        "isa-debug-exit" => DeviceRequest::DebugExit(debug_exit(DebugExitOptions::from_options(options)?)?),
        "isa-debugcon" => {
            let o = DebugconOptions::from_options(options)?;
            DeviceRequest::Debugcon(DebugconConfig {
                iobase: o.iobase.unwrap_or(0xe9),
                readback: o.readback.unwrap_or(0xe9),
                chardev: CharConfig::Named(o.chardev),
            })
        }
        name if name.starts_with("virtio-") => DeviceRequest::Virtio(virtio::parse(name, options)?),
        _ => {
            let o = LoaderOptions::from_options(options)?;
            if o.force_raw == Some(false) {
                bail!("force-raw=off is not implemented yet: files are placed as they are");
            }
            DeviceRequest::Loader(LoaderConfig { file: o.file, addr: o.addr })
        }
    });
    Ok(())
}

fn debug_exit(options: DebugExitOptions) -> anyhow::Result<DebugExitConfig> {
    let config =
        DebugExitConfig { iobase: options.iobase.unwrap_or(0x501), iosize: options.iosize.unwrap_or(2) };
    if !(1..=8).contains(&config.iosize) {
        bail!("parameter 'iosize' expects 1 to 8, not '{}'", config.iosize);
    }
    if config.iobase.checked_add(u16::from(config.iosize) - 1).is_none() {
        bail!("the ports end beyond 0xffff");
    }
    Ok(config)
}

/// `-debugcon CHARDEV`: the same device at its usual port.
pub fn take_debugcon(builder: &mut Builder, text: &str) -> anyhow::Result<()> {
    let chardev = chardev::parse_short(text)?;
    builder.devices.push(DeviceRequest::Debugcon(DebugconConfig { iobase: 0xe9, readback: 0xe9, chardev }));
    Ok(())
}

fn unknown(driver: &str) -> anyhow::Error {
    match closest(driver, DEVICES.iter().map(|(name, ..)| *name)) {
        Some(near) => anyhow!("no device '{driver}'; did you mean '{near}'?"),
        None => anyhow!("device '{driver}' is not implemented yet; use -device help to list those that are"),
    }
}

fn list() -> String {
    let lines = DEVICES.iter().map(|(name, about, _)| format!("{name:<16} {about}\n"));
    format!("devices:\n{}", lines.collect::<String>())
}

/// Sorts the devices by kind; there is one of each debug device.
pub fn collect(requests: Vec<DeviceRequest>) -> anyhow::Result<Devices> {
    let mut devices = Devices::default();
    for request in requests {
        match request {
            DeviceRequest::DebugExit(config) => {
                if devices.debug_exit.replace(config).is_some() {
                    bail!("-device isa-debug-exit: only one is implemented");
                }
            }
            DeviceRequest::Debugcon(config) => {
                if devices.debugcon.replace(config).is_some() {
                    bail!("-device isa-debugcon: only one is implemented");
                }
            }
            DeviceRequest::Loader(config) => devices.loaders.push(config),
            DeviceRequest::Virtio(request) => devices.virtio.push(request),
        }
    }
    Ok(devices)
}
