//! What a PC is built from, and why it may not be possible.

use crate::topology::{CpuTopology, TopologyError};
use rhea_chardev::Chardev;
use rhea_chipset::{DebugConsoleProperties, DebugExitProperties};
use rhea_pci::PciAddress;
use rhea_timer::RtcConfig;
use rhea_virtio::{MmioVersion, VirtioDevice};
use std::path::PathBuf;
use std::sync::Arc;

/// Which board.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PcKind {
    /// Intel Q35 chipset with ICH9.
    Q35,
    /// Minimal board: no PCI, no HPET.
    Microvm,
}

/// `isa-debugcon` with its back end.
#[derive(Clone)]
pub struct DebugConsoleConfig {
    /// Properties.
    pub properties: DebugConsoleProperties,
    /// Back end that `properties.chardev` names.
    pub backend: Arc<dyn Chardev>,
}

/// A file to be copied into memory at reset (`-device loader,file=,addr=`).
#[derive(Clone, Debug)]
pub struct LoaderRequest {
    /// File.
    pub file: PathBuf,
    /// Guest physical address of its first byte.
    pub addr: u64,
}

/// Where a virtio device is plugged in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VirtioPlace {
    /// On the PCI bus: at this address, or wherever there is room.
    Pci(Option<PciAddress>),
    /// In the next free slot in memory, with registers of this version.
    Mmio(MmioVersion),
}

/// A virtio device to plug in.
#[derive(Clone)]
pub struct VirtioConfig {
    /// Its name in messages.
    pub name: String,
    /// Where.
    pub place: VirtioPlace,
    /// The device.
    pub device: Arc<dyn VirtioDevice>,
}

/// A PC to build.
#[derive(Clone)]
pub struct PcConfig {
    /// Which board.
    pub kind: PcKind,
    /// Guest RAM in bytes.
    pub ram_size: u64,
    /// Processors.
    pub topology: CpuTopology,
    /// Kernel to boot directly.
    pub kernel: Option<PathBuf>,
    /// Its initial RAM disk.
    pub initrd: Option<PathBuf>,
    /// Its device tree.
    pub dtb: Option<PathBuf>,
    /// Its command line.
    pub append: Option<String>,
    /// Flat ROM image ending at 4 GiB, instead of a kernel.
    pub bios: Option<PathBuf>,
    /// Back ends of the serial ports, COM1 first; at most four.
    pub serials: Vec<Arc<dyn Chardev>>,
    /// Real-time clock.
    pub rtc: RtcConfig,
    /// `isa-debug-exit` devices.
    pub debug_exit: Vec<DebugExitProperties>,
    /// `isa-debugcon` devices.
    pub debugcon: Vec<DebugConsoleConfig>,
    /// Files to copy into memory.
    pub loaders: Vec<LoaderRequest>,
    /// Virtio devices, in the order of their plugging in.
    pub virtio: Vec<VirtioConfig>,
    /// The processors have long mode.
    pub wide: bool,
    /// The processors offer x2APIC.
    pub x2apic: bool,
    /// Physical address bits of the processors.
    pub physical_address_bits: u32,
}

impl PcConfig {
    /// A board with `ram_size` bytes and one processor, nothing to boot and no serial port.
    pub fn new(kind: PcKind, ram_size: u64) -> Self {
        Self {
            kind,
            ram_size,
            topology: CpuTopology::flat(1),
            kernel: None,
            initrd: None,
            dtb: None,
            append: None,
            bios: None,
            serials: Vec::new(),
            rtc: RtcConfig::default(),
            debug_exit: Vec::new(),
            debugcon: Vec::new(),
            loaders: Vec::new(),
            virtio: Vec::new(),
            wide: true,
            x2apic: true,
            physical_address_bits: 40,
        }
    }
}

/// Why a PC cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// Impossible processor topology.
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
    /// The host has no room for guest RAM.
    #[error("cannot reserve {size:#x} bytes for guest memory")]
    Allocation {
        /// Bytes asked for.
        size: u64,
        /// Why.
        source: std::io::Error,
    },
    /// Kernel, initrd or device tree.
    #[error(transparent)]
    Load(#[from] rhea_loader::LoadError),
    /// Something goes with `-kernel` only.
    #[error("{0} needs a kernel (-kernel)")]
    WithoutKernel(&'static str),
    /// Kernel and ROM together.
    #[error("-kernel and -bios together need a firmware interface that is not there yet: give one of them")]
    KernelAndBios,
    /// Nothing to boot.
    #[error(
        "there is nothing to boot: give a kernel (-kernel) or a ROM image (-bios); firmware is not included yet"
    )]
    NothingToBoot,
    /// ROM file cannot be read.
    #[error("cannot read ROM image '{}'", path.display())]
    BiosFile {
        /// Path.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// ROM image of impossible size.
    #[error("ROM image '{}' has {size} bytes: it must be a multiple of 64 KiB, at most 16 MiB", path.display())]
    BiosSize {
        /// Path.
        path: PathBuf,
        /// Its size.
        size: u64,
    },
    /// Loader file cannot be read.
    #[error("cannot read '{}' for the loader device", path.display())]
    LoaderFile {
        /// Path.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Loader file does not fit into RAM or ROM.
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
    /// Too many serial ports.
    #[error("this machine has {limit} serial ports ({asked} asked for)")]
    SerialPorts {
        /// Ports there are.
        limit: usize,
        /// Ports asked for.
        asked: usize,
    },
    /// A device's ports are out of range.
    #[error("{device}: ports {base:#x} to {end:#x} are not in the I/O space, or there are none")]
    PortRange {
        /// Device.
        device: &'static str,
        /// First port.
        base: u64,
        /// Last port.
        end: u64,
    },
    /// A device for a bus that the board does not have.
    #[error("{device}: this machine has no {bus}")]
    NoBus {
        /// Device.
        device: String,
        /// Bus.
        bus: &'static str,
    },
    /// No room on a bus.
    #[error("{device}: {reason}")]
    NoRoom {
        /// Device.
        device: String,
        /// Why.
        reason: &'static str,
    },
    /// ACPI tables do not fit into the ROM.
    #[error("the ACPI tables need {size} bytes; there is room for {room}")]
    TablesTooLarge {
        /// Bytes needed.
        size: usize,
        /// Bytes there are.
        room: usize,
    },
}
