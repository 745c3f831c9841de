//! The processor families that a system emulator can stand for: for each, its boards, its processor models, and how a
//! machine is built from a [`SystemConfig`]. Everything else of the front ends is the same for all of them.
//!
//! A new family is a module here with one [`TargetSpec`] for each program name, which `dispatch` lists.

pub mod riscv;
pub mod x86;

use std::io;
use std::sync::Arc;

use rhea_accel_translate::TranslatedVcpus;
use rhea_device::{PowerControl, VirtualClock};
use rhea_engine::code::EngineConfig;
use rhea_options::Options;
use rhea_virtio::VirtioDevice;

use crate::chardevs::Chardevs;
use crate::config::{BootConfig, SystemConfig, VirtioPlace};
use crate::flash::FlashPart;

/// What a front end `qemu-system-NAME` stands for.
pub struct TargetSpec {
    /// QEMU's name of the target.
    pub name: &'static str,
    /// The processor model without `-cpu`.
    pub default_cpu: &'static str,
    /// Its boards.
    pub boards: &'static [BoardSpec],
    /// The board without `-machine`; nothing if one has to be named.
    pub default_board: Option<&'static str>,
    /// Whether QEMU has a board of this name that is not there, to tell "not yet" from "no such thing".
    pub board_not_yet: fn(&str) -> bool,
    /// What can be booted.
    pub check_boot: fn(&BootConfig) -> anyhow::Result<()>,
    /// Reads `-cpu`.
    pub parse_cpu: fn(&str) -> anyhow::Result<CpuConfig>,
    /// The text of `-cpu help`.
    pub cpu_help: fn() -> String,
    /// Builds the machine.
    pub build: fn(&SystemConfig, Surroundings<'_>) -> anyhow::Result<Built>,
}

/// One target of the table.
pub type Target = &'static TargetSpec;

impl std::fmt::Debug for TargetSpec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TargetSpec({})", self.name)
    }
}

impl PartialEq for TargetSpec {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl TargetSpec {
    /// The board of a name.
    pub fn board(&self, name: &str) -> Option<&'static BoardSpec> {
        self.boards.iter().find(|board| board.name == name)
    }
}

/// A board that can be chosen with `-machine`.
pub struct BoardSpec {
    /// Its name.
    pub name: &'static str,
    /// One line about it.
    pub about: &'static str,
    /// Processors at most.
    pub max_cpus: u32,
    /// Whether `-smp dies=` can be more than one.
    pub has_dies: bool,
    /// Whether it takes `-numa`.
    pub has_numa: bool,
    /// Banks of flash memory.
    pub flash_banks: u32,
    /// Whether it has a PCI bus, where virtio devices go that are not told where.
    pub has_pci: bool,
    /// Reads the board's own properties, and refuses what it does not know.
    pub take: fn(Options) -> anyhow::Result<MachineConfig>,
    /// The board's own properties, one line each.
    pub help: fn() -> String,
}

/// A board with its properties.
#[derive(Debug, Clone, PartialEq)]
pub enum MachineConfig {
    /// A PC.
    Pc(rhea_pc::PcKind),
    /// RISC-V's `virt`.
    RiscvVirt(riscv::VirtOptions),
}

impl MachineConfig {
    /// The drives or nodes that the board's properties name for banks of flash memory.
    pub fn flash(&self) -> [Option<&str>; 2] {
        match self {
            Self::Pc(_) => [None; 2],
            Self::RiscvVirt(options) => [options.pflash0.as_deref(), options.pflash1.as_deref()],
        }
    }
}

/// A processor model, not yet placed in a topology.
#[derive(Debug, Clone, PartialEq)]
pub enum CpuConfig {
    /// Of an x86 processor.
    X86(Box<rhea_x86_state::model::CpuModel>),
    /// Of a RISC-V hart.
    Riscv(Box<rhea_riscv_state::CpuModel>),
}

/// What a machine is built with.
pub struct Surroundings<'a> {
    /// Character back ends to connect its ports to.
    pub chardevs: &'a mut Chardevs,
    /// Virtual time.
    pub clock: Arc<VirtualClock>,
    /// Settings of the translator.
    pub engine: EngineConfig,
    /// Virtio devices to plug in.
    pub virtio: Vec<VirtioPart>,
    /// What banks of flash memory hold, with their numbers.
    pub flash: Vec<(u32, FlashPart)>,
}

/// A virtio device that is made, and where it is to be plugged in.
pub struct VirtioPart {
    /// Its name in messages.
    pub name: String,
    /// Where.
    pub place: VirtioPlace,
    /// The device.
    pub device: Arc<dyn VirtioDevice>,
}

/// What came of building.
pub enum Built {
    /// All that was asked for is done; this is to be printed.
    Said(String),
    /// A machine, ready to run.
    Machine {
        /// The board.
        board: Box<dyn Board>,
        /// Its processors, paused.
        vcpus: Arc<TranslatedVcpus>,
    },
}

/// A board, as run control drives it.
pub trait Board: Send + Sync {
    /// Virtual time.
    fn clock(&self) -> &Arc<VirtualClock>;

    /// Where the guest's requests come out.
    fn power(&self) -> &Arc<PowerControl>;

    /// Resets all devices and writes what is booted into memory again; the processors are stopped.
    ///
    /// # Errors
    /// A file that is booted cannot be read any more.
    fn reset(&self) -> io::Result<()>;

    /// Presses the power button.
    fn power_button(&self);
}

/// Appends words in lines of at most 90 columns.
fn wrapped<'a>(text: &mut String, words: impl Iterator<Item = &'a str>) {
    let mut column = 0;
    for word in words {
        if column + word.len() > 90 {
            text.push('\n');
            column = 0;
        }
        text.push_str(if column == 0 { "  " } else { " " });
        text.push_str(word);
        column += word.len() + 1;
    }
    text.push('\n');
}
