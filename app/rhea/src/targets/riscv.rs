//! RISC-V: the board `virt`.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, bail};
use rhea_accel_translate::Vcpus;
use rhea_accel_translate::riscv::{self, RiscvSettings, RiscvWiring};
use rhea_device::{PowerControl, VirtualClock};
use rhea_engine::code::EngineConfig;
use rhea_options::{FromOptions, OnOffAuto, option_enum, options};
use rhea_pci::{PciAddress, SlotError};
use rhea_riscv_state::CpuModel;
use rhea_riscv_state::model::{list_extensions, list_models};
use rhea_riscv_virt::{
    Aia, Firmware, FlashConfig, HartTopology, LoaderRequest, NumaConfig, NumaNode, VirtConfig, VirtMachine,
};
use rhea_virtio::{MmioVersion, VirtioMmio, VirtioPci};

use super::{Board, BoardSpec, Built, CpuConfig, MachineConfig, Surroundings, TargetSpec, VirtioPart};
use crate::config::{BootConfig, RtcBase, RtcClock, SystemConfig, Topology, VirtioPlace};

option_enum! {
    /// `aia=`
    pub enum AiaKind {
        /// a PLIC
        None = "none",
        /// an APLIC that drives lines
        Aplic = "aplic",
        /// an APLIC that sends messages to IMSICs
        AplicImsic = "aplic-imsic",
    }
}

options! {
    /// `-machine virt`
    #[derive(Default)]
    pub struct VirtOptions {
        /// software interrupts by the ACLINT's devices, and a window of each kind (off)
        "aclint" => aclint: Option<bool>,
        /// the advanced interrupt architecture in the place of the PLIC (none)
        "aia" => aia: Option<AiaKind>,
        /// ACPI tables for firmware (on)
        "acpi" => acpi: Option<OnOffAuto>,
        /// the drive or node that the first bank of flash memory is on
        "pflash0" => pflash0: Option<String>,
        /// the same for the second bank
        "pflash1" => pflash1: Option<String>,
        /// write the device tree to this file and end
        "dumpdtb" => dumpdtb: Option<PathBuf>,
    }
}

const BOARDS: &[BoardSpec] = &[BoardSpec {
    name: "virt",
    about: "RISC-V VirtIO board",
    max_cpus: 512,
    has_dies: false,
    has_numa: true,
    flash_banks: 2,
    has_pci: true,
    take: |options| Ok(MachineConfig::RiscvVirt(VirtOptions::from_options(options)?)),
    help: VirtOptions::help,
}];

/// Boards of QEMU for these targets.
const NOT_YET: &[&str] = &[
    "spike",
    "sifive_e",
    "sifive_u",
    "shakti_c",
    "microchip-icicle-kit",
    "opentitan",
    "amd-microblaze-v-generic",
    "none",
];

const fn spec(
    name: &'static str,
    default_cpu: &'static str,
    parse_cpu: fn(&str) -> anyhow::Result<CpuConfig>,
    cpu_help: fn() -> String,
) -> TargetSpec {
    TargetSpec {
        name,
        default_cpu,
        boards: BOARDS,
        // QEMU's default, spike, is not there.
        default_board: None,
        board_not_yet: |name| NOT_YET.contains(&name),
        check_boot,
        parse_cpu,
        cpu_help,
        build,
    }
}

/// `qemu-system-riscv64`.
pub static RISCV64: TargetSpec = spec("riscv64", "rv64", |text| model(64, text), || help(64));

/// `qemu-system-riscv32`.
pub static RISCV32: TargetSpec = spec("riscv32", "rv32", |text| model(32, text), || help(32));

fn model(xlen: u32, text: &str) -> anyhow::Result<CpuConfig> {
    Ok(CpuConfig::Riscv(Box::new(CpuModel::parse_for(xlen, text)?)))
}

fn help(xlen: u32) -> String {
    let mut text = String::from("processor models:\n");
    for (name, about) in list_models(xlen) {
        text += &format!("  {name:<20} {about}\n");
    }
    text += "\nextensions (NAME=on|off):\n";
    super::wrapped(&mut text, list_extensions().map(|(name, _)| name));
    text += "\nproperties: vlen, elen, cbom_blocksize, cbop_blocksize, cboz_blocksize, sv32, sv39, sv48, sv57, mmu, pmp,\n\
             num-pmp-regions, pmu-mask, mvendorid, marchid, mimpid\n";
    text
}

/// Everything is there by itself: without a kernel the firmware says that it found none.
fn check_boot(_: &BootConfig) -> anyhow::Result<()> {
    Ok(())
}

fn build(config: &SystemConfig, surroundings: Surroundings<'_>) -> anyhow::Result<Built> {
    let (MachineConfig::RiscvVirt(options), CpuConfig::Riscv(model)) = (&config.machine, &config.cpu) else {
        bail!("a board and a processor of different families");
    };
    if config.debug_exit.is_some() || config.debugcon.is_some() {
        bail!("isa-debug-exit and isa-debugcon need a board with I/O ports; 'virt' has none");
    }
    let Surroundings { chardevs, clock, engine, virtio, flash } = surroundings;
    let serials = chardevs.connect_serials(&config.serials)?;
    let mut virt = virt_config(options, model, config, serials)?;
    for (bank, part) in flash {
        // The command line knows how many banks the board has.
        virt.flash[bank as usize] =
            Some(FlashConfig { contents: part.contents, read_only: part.store.is_none(), store: part.store });
    }
    let mut machine = rhea_riscv_virt::build(&virt, clock)?;
    virtio.into_iter().try_for_each(|part| plug(&mut machine, part))?;
    if let Some(path) = &options.dumpdtb {
        std::fs::write(path, machine.device_tree()).with_context(|| format!("dumpdtb={}", path.display()))?;
        return Ok(Built::Said(format!("device tree written to {}\n", path.display())));
    }
    let vcpus = vcpus(config, &machine, engine)?;
    Ok(Built::Machine { board: Box::new(machine), vcpus: vcpus.group })
}

/// Puts a virtio device where it belongs: into the first free slot in memory, or on the PCI bus.
fn plug(machine: &mut VirtMachine, part: VirtioPart) -> anyhow::Result<()> {
    let address = match part.place {
        VirtioPlace::Mmio(version) => return plug_mmio(machine, version, part),
        VirtioPlace::Pci(address) => address,
    };
    let (memory, msi) = (machine.memory.clone(), machine.msi.clone());
    let function = VirtioPci::new(part.device, machine.memory.root().topology(), memory, msi);
    let plugged = match address {
        Some(address) => machine.pci.plug(address, function.clone()).map(|()| address),
        None => machine.pci.plug_anywhere(function.clone()),
    };
    let PciAddress { device, function: number } = plugged.map_err(|error| {
        let reason = match error {
            SlotError::OutOfRange => "there is no such PCI address",
            SlotError::Taken => "the PCI address is taken",
            SlotError::Full => "the PCI bus is full",
        };
        anyhow::anyhow!("{}: {reason}", part.name)
    })?;
    machine.register(&format!("pci/{device:02x}.{number}"), function);
    Ok(())
}

fn plug_mmio(machine: &mut VirtMachine, version: MmioVersion, part: VirtioPart) -> anyhow::Result<()> {
    let Some(slot) = machine.free_virtio_slot() else {
        bail!("{}: all virtio-mmio slots are taken; use the device's -pci form", part.name)
    };
    let irq = machine.virtio_slots[slot].irq.clone();
    let transport = VirtioMmio::new(part.device, version, machine.memory.clone(), irq);
    machine.plug_virtio(slot, &format!("virtio-mmio/{slot}"), transport);
    Ok(())
}

fn virt_config(
    options: &VirtOptions,
    model: &CpuModel,
    config: &SystemConfig,
    serials: Vec<Arc<dyn rhea_chardev::Chardev>>,
) -> anyhow::Result<VirtConfig> {
    if serials.len() > 1 {
        bail!("-serial: machine 'virt' has one serial port ({} asked for)", serials.len());
    }
    let mut virt = VirtConfig::new(config.ram_size);
    virt.topology = topology(config.topology)?;
    virt.cpu = model.clone();
    virt.numa = config.numa.as_ref().map(|numa| NumaConfig {
        nodes: numa.nodes.iter().map(|n| NumaNode { memory: n.memory, cpus: n.cpus.clone() }).collect(),
        distances: numa.distances.clone(),
    });
    let boot = &config.boot;
    virt.firmware = match &boot.bios {
        None => Firmware::OpenSbi,
        Some(path) => match path.to_str() {
            Some("default") => Firmware::OpenSbi,
            Some("none") => Firmware::None,
            _ => Firmware::File(path.clone()),
        },
    };
    virt.kernel.clone_from(&boot.kernel);
    virt.initrd.clone_from(&boot.initrd);
    virt.dtb.clone_from(&boot.dtb);
    virt.append.clone_from(&boot.append);
    virt.serial = serials.into_iter().next();
    virt.rtc.base = match config.rtc.base {
        RtcBase::Utc => rhea_riscv_virt::RtcBase::Utc,
        RtcBase::LocalTime => rhea_riscv_virt::RtcBase::LocalTime(rhea_host::time::local_offset_seconds()),
        RtcBase::DateTime(seconds) => rhea_riscv_virt::RtcBase::Fixed(seconds),
    };
    virt.rtc.clock = match config.rtc.clock {
        RtcClock::Host => rhea_riscv_virt::RtcClock::Host,
        RtcClock::Rt => rhea_riscv_virt::RtcClock::Monotonic,
        RtcClock::Vm => rhea_riscv_virt::RtcClock::Virtual,
    };
    virt.aclint = options.aclint.unwrap_or(false);
    virt.aia = match options.aia {
        None | Some(AiaKind::None) => Aia::None,
        Some(AiaKind::Aplic) => Aia::Aplic,
        Some(AiaKind::AplicImsic) => Aia::AplicImsic,
    };
    virt.acpi = options.acpi != Some(OnOffAuto::Off);
    virt.loaders =
        config.loaders.iter().map(|l| LoaderRequest { file: l.file.clone(), addr: l.addr }).collect();
    Ok(virt)
}

fn topology(t: Topology) -> anyhow::Result<HartTopology> {
    if t.maxcpus != t.cpus {
        bail!("-smp maxcpus={}: harts cannot be added later", t.maxcpus);
    }
    Ok(HartTopology { harts: t.cpus, sockets: t.sockets, clusters: 1, cores: t.cores, threads: t.threads })
}

fn vcpus(config: &SystemConfig, machine: &VirtMachine, engine: EngineConfig) -> anyhow::Result<Vcpus> {
    let clock = machine.clock.clone();
    let settings = RiscvSettings {
        name: config.target.name,
        model: Arc::new(machine.cpu.clone()),
        engine,
        clock: Arc::new(move || clock.now()),
        reset_vector: rhea_riscv_virt::RESET_VECTOR,
    };
    let wiring = machine.harts.iter().map(|hart| RiscvWiring {
        hart_id: hart.hart_id,
        memory: hart.memory.clone(),
        lines: hart.lines.clone(),
        timer: hart.timer.clone(),
    });
    Ok(riscv::create(settings, wiring.collect())?)
}

impl Board for VirtMachine {
    fn clock(&self) -> &Arc<VirtualClock> {
        &self.clock
    }

    fn power(&self) -> &Arc<PowerControl> {
        &self.power
    }

    fn reset(&self) -> io::Result<()> {
        VirtMachine::reset(self)
    }

    fn power_button(&self) {
        VirtMachine::power_button(self);
    }
}
