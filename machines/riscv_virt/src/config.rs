//! What a machine is built from, and why it may not be possible.

use crate::memory_map::FLASH_SIZE;
use crate::topology::{HartTopology, TopologyError};
use rhea_chardev::Chardev;
use rhea_firmware_devices::{FlashStore, FwCfgItem};
use rhea_riscv_state::{CpuModel, Extension};
use rhea_timer::RtcConfig;
use std::path::PathBuf;
use std::sync::Arc;

/// What runs first (`-bios`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Firmware {
    /// OpenSBI, as the host's package has it.
    #[default]
    OpenSbi,
    /// Nothing: the kernel starts in machine mode.
    None,
    /// This file, an ELF file or a flat binary for the start of RAM.
    File(PathBuf),
}

/// One NUMA node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NumaNode {
    /// Its memory in bytes.
    pub memory: u64,
    /// Its harts, by their index.
    pub cpus: Vec<u32>,
}

/// NUMA: every byte of memory and every hart is in a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NumaConfig {
    /// The nodes in order of their numbers; memory follows the same order.
    pub nodes: Vec<NumaNode>,
    /// Distances row by row, 10 for a node to itself, if any were given.
    pub distances: Option<Vec<u8>>,
}

/// A file to be copied into memory at reset (`-device loader,file=,addr=`).
#[derive(Clone, Debug)]
pub struct LoaderRequest {
    /// File.
    pub file: PathBuf,
    /// Guest physical address of its first byte.
    pub addr: u64,
}

/// Which interrupt controllers (`aia=`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Aia {
    /// A PLIC.
    #[default]
    None,
    /// An APLIC that drives the harts' lines.
    Aplic,
    /// An APLIC that sends messages, and for each hart an IMSIC that takes them, from devices too.
    AplicImsic,
}

/// What a flash bank starts with.
#[derive(Clone)]
pub struct FlashConfig {
    /// Its bytes: 32 MiB.
    pub contents: Vec<u8>,
    /// Where changes go so that they last, if anywhere.
    pub store: Option<Arc<dyn FlashStore>>,
    /// Changes fail.
    pub read_only: bool,
}

/// A machine to build.
#[derive(Clone)]
pub struct VirtConfig {
    /// Guest RAM in bytes.
    pub ram_size: u64,
    /// Harts.
    pub topology: HartTopology,
    /// What each hart is.
    pub cpu: CpuModel,
    /// NUMA nodes, if there are any.
    pub numa: Option<NumaConfig>,
    /// What runs first.
    pub firmware: Firmware,
    /// Kernel.
    pub kernel: Option<PathBuf>,
    /// Its initial RAM disk.
    pub initrd: Option<PathBuf>,
    /// A device tree in place of the board's own.
    pub dtb: Option<PathBuf>,
    /// The kernel's command line.
    pub append: Option<String>,
    /// Back end of the serial port.
    pub serial: Option<Arc<dyn Chardev>>,
    /// Real-time clock.
    pub rtc: RtcConfig,
    /// The software interrupt devices and the timer are those of the ACLINT, with supervisor software interrupts
    /// (`aclint=on`), and not a CLINT.
    pub aclint: bool,
    /// Interrupt controllers.
    pub aia: Aia,
    /// There are ACPI tables in the firmware configuration device, for firmware that wants them.
    pub acpi: bool,
    /// Random bytes for the kernel; `None`: from the host, new ones at every reset.
    pub rng_seed: Option<[u8; 32]>,
    /// The two flash banks (`pflash0`, `pflash1`). With the first one, firmware goes on there instead of in a kernel, and
    /// hands the kernel on: it finds it in the firmware configuration device.
    pub flash: [Option<FlashConfig>; 2],
    /// Further files for the firmware configuration device (`-fw_cfg`).
    pub fw_cfg: Vec<(String, FwCfgItem)>,
    /// Files to copy into memory.
    pub loaders: Vec<LoaderRequest>,
}

impl VirtConfig {
    /// A machine with `ram_size` bytes, one hart of the default model, OpenSBI and no serial back end.
    pub fn new(ram_size: u64) -> Self {
        Self {
            ram_size,
            topology: HartTopology::flat(1),
            cpu: CpuModel::default(),
            numa: None,
            firmware: Firmware::OpenSbi,
            kernel: None,
            initrd: None,
            dtb: None,
            append: None,
            serial: None,
            rtc: RtcConfig::default(),
            aclint: false,
            aia: Aia::None,
            acpi: true,
            rng_seed: None,
            flash: [None, None],
            fw_cfg: Vec::new(),
            loaders: Vec::new(),
        }
    }
}

impl VirtConfig {
    /// What each hart is on this board: with IMSICs it has the extensions Smaia and Ssaia.
    pub fn cpu_model(&self) -> CpuModel {
        match self.aia {
            Aia::AplicImsic => self.cpu.clone().with(Extension::Smaia).with(Extension::Ssaia),
            Aia::None | Aia::Aplic => self.cpu.clone(),
        }
    }
}

/// Why a machine cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// Impossible arrangement of harts.
    #[error(transparent)]
    Topology(#[from] TopologyError),
    /// RAM size out of range.
    #[error("a RAM size of {size:#x} bytes is not possible: this machine takes {least:#x} to {most:#x}")]
    RamSize {
        /// Size asked for.
        size: u64,
        /// Least.
        least: u64,
        /// Most.
        most: u64,
    },
    /// NUMA nodes that do not hold the machine.
    #[error("impossible NUMA nodes: {0}")]
    Numa(&'static str),
    /// The host has no room for guest RAM.
    #[error("cannot reserve {size:#x} bytes for guest memory")]
    Allocation {
        /// Bytes asked for.
        size: u64,
        /// Why.
        source: std::io::Error,
    },
    /// The host has no random bytes.
    #[error("the host gives no random bytes: {0}")]
    Random(getrandom::Error),
    /// Firmware, kernel or initrd.
    #[error(transparent)]
    Load(#[from] rhea_loader::LoadError),
    /// OpenSBI is not installed.
    #[error(
        "OpenSBI is not installed: looked for {}. Install it (Debian's package opensbi), or give firmware (-bios FILE) or none (-bios none)",
        tried.iter().map(|path| format!("'{}'", path.display())).collect::<Vec<_>>().join(", ")
    )]
    NoOpenSbi {
        /// Where it could have been.
        tried: Vec<PathBuf>,
    },
    /// Something goes with `-kernel` only.
    #[error("{0} needs a kernel (-kernel)")]
    WithoutKernel(&'static str),
    /// Nothing to boot.
    #[error("there is nothing to boot: give a kernel (-kernel) or firmware (-bios FILE)")]
    NothingToBoot,
    /// Two things to load are in each other's way.
    #[error("the {first} and the {second} overlap in guest memory at {at:#x}")]
    Overlap {
        /// One.
        first: &'static str,
        /// The other.
        second: &'static str,
        /// First common address.
        at: u64,
    },
    /// The device tree file cannot be read.
    #[error("cannot read device tree '{}'", path.display())]
    DeviceTreeFile {
        /// Path.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The device tree file is not a device tree blob.
    #[error("'{}' is not a device tree", path.display())]
    BadDeviceTree {
        /// Path.
        path: PathBuf,
        /// Why.
        source: rhea_device_tree::DeviceTreeError,
    },
    /// The device tree cannot be written.
    #[error("cannot make the device tree")]
    DeviceTree(#[from] rhea_device_tree::DeviceTreeError),
    /// A flash image of another size.
    #[error("a flash image has {FLASH_SIZE} bytes, this one {size} (truncate -s 32M makes a short one fit)")]
    FlashSize {
        /// Its size.
        size: u64,
    },
    /// A firmware configuration file that cannot be added.
    #[error(transparent)]
    FwCfg(#[from] rhea_firmware_devices::fw_cfg::FwCfgError),
    /// Loader file cannot be read.
    #[error("cannot read '{}' for the loader device", path.display())]
    LoaderFile {
        /// Path.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Loader file does not fit into RAM.
    #[error("'{}' does not fit into guest memory at {addr:#x}", path.display())]
    LoaderRange {
        /// Path.
        path: PathBuf,
        /// Address asked for.
        addr: u64,
    },
    /// What is booted cannot be written into memory.
    #[error("cannot load what is booted")]
    BootFiles {
        /// Why.
        source: std::io::Error,
    },
}
