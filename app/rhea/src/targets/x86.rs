//! x86: the PC boards.

use std::io;
use std::sync::Arc;

use anyhow::{Context, bail};
use rhea_accel_translate::Vcpus;
use rhea_accel_translate::x86::{self, X86Settings, X86Wiring};
use rhea_device::{PowerControl, PowerRequest, VirtualClock};
use rhea_engine::code::EngineConfig;
use rhea_options::Options;
use rhea_pc::{
    CpuTopology, DebugConsoleConfig, DebugConsoleProperties, DebugExitProperties, LoaderRequest, PcConfig,
    PcKind, PcMachine, VirtioConfig,
};
use rhea_x86_state::features::Feature;
use rhea_x86_state::model::{CpuModel, list_features, list_models};
use rhea_x86_translate::cpu;

use super::{Board, BoardSpec, Built, CpuConfig, MachineConfig, Surroundings, TargetSpec, VirtioPart};
use crate::chardevs::Chardevs;
use crate::config::{BootConfig, RtcBase, RtcClock, SystemConfig, Topology, VirtioPlace};

/// Frequency of the guest's time-stamp counter: one tick for each nanosecond of virtual time.
const TSC_HZ: u64 = 1_000_000_000;

/// Processors at most: what 8-bit APIC identifiers can name (255 is the broadcast).
const MAX_CPUS: u32 = 255;

const fn board(
    name: &'static str,
    about: &'static str,
    has_pci: bool,
    take: fn(Options) -> anyhow::Result<MachineConfig>,
) -> BoardSpec {
    let (max_cpus, help) = (MAX_CPUS, String::new);
    BoardSpec { name, about, max_cpus, has_dies: true, has_numa: false, flash_banks: 0, has_pci, take, help }
}

const BOARDS: &[BoardSpec] = &[
    board("q35", "Standard PC (Q35 + ICH9)", true, |options| take(PcKind::Q35, options)),
    board("microvm", "minimal machine for direct kernel boot", false, |options| {
        take(PcKind::Microvm, options)
    }),
];

/// Boards of QEMU for these targets that people name most often.
const NOT_YET: &[&str] = &["pc", "isapc", "x-remote", "none", "nitro-enclave"];

const fn spec(
    name: &'static str,
    default_cpu: &'static str,
    parse_cpu: fn(&str) -> anyhow::Result<CpuConfig>,
) -> TargetSpec {
    TargetSpec {
        name,
        default_cpu,
        boards: BOARDS,
        default_board: Some("q35"),
        board_not_yet: |name| NOT_YET.contains(&name) || name.starts_with("pc-"),
        check_boot,
        parse_cpu,
        cpu_help,
        build,
    }
}

/// `qemu-system-x86_64`.
pub static X86_64: TargetSpec = spec("x86_64", "qemu64", |text| model(CpuModel::parse(text)));

/// `qemu-system-i386`: its processors have no long mode.
pub static I386: TargetSpec = spec("i386", "qemu32", |text| model(CpuModel::parse(&format!("{text},-lm"))));

fn model<E: Into<anyhow::Error>>(model: Result<CpuModel, E>) -> anyhow::Result<CpuConfig> {
    Ok(CpuConfig::X86(Box::new(model.map_err(Into::into)?)))
}

/// The boards have no properties of their own.
fn take(kind: PcKind, options: Options) -> anyhow::Result<MachineConfig> {
    options.finish(["type", "accel"])?;
    Ok(MachineConfig::Pc(kind))
}

fn check_boot(boot: &BootConfig) -> anyhow::Result<()> {
    match (&boot.kernel, &boot.bios) {
        (None, None) => bail!(
            "nothing to run: give a kernel with -kernel or a ROM with -bios (booting from disks needs firmware, \
             which is not included yet)"
        ),
        (Some(_), Some(_)) => {
            bail!("-bios: not implemented together with -kernel yet, which brings its own start-up code")
        }
        _ => Ok(()),
    }
}

fn cpu_help() -> String {
    let mut text = String::from("processor models:\n");
    for (name, about) in list_models() {
        text += &format!("  {name:<20} {about}\n");
    }
    text += "\nfeatures (+NAME, -NAME, NAME=on|off):\n";
    super::wrapped(&mut text, list_features());
    text
}

fn build(config: &SystemConfig, surroundings: Surroundings<'_>) -> anyhow::Result<Built> {
    let (MachineConfig::Pc(kind), CpuConfig::X86(model)) = (&config.machine, &config.cpu) else {
        bail!("a board and a processor of different families");
    };
    // No flash: the board has no bank, which the command line knows.
    let Surroundings { chardevs, clock, engine, virtio, flash: _ } = surroundings;
    let mut pc = pc_config(*kind, model, config, chardevs)?;
    pc.virtio = virtio.into_iter().map(virtio_config).collect();
    let machine = rhea_pc::build(&pc, clock)?;
    let vcpus = vcpus(config, model, &machine, engine)?;
    Ok(Built::Machine { board: Box::new(machine), vcpus: vcpus.group })
}

fn pc_config(
    kind: PcKind,
    model: &CpuModel,
    config: &SystemConfig,
    chardevs: &mut Chardevs,
) -> anyhow::Result<PcConfig> {
    let mut pc = PcConfig::new(kind, config.ram_size);
    pc.topology = topology(config.topology);
    let boot = &config.boot;
    pc.kernel.clone_from(&boot.kernel);
    pc.initrd.clone_from(&boot.initrd);
    pc.dtb.clone_from(&boot.dtb);
    pc.append.clone_from(&boot.append);
    pc.bios.clone_from(&boot.bios);
    pc.serials = chardevs.connect_serials(&config.serials)?;
    pc.rtc.base = match config.rtc.base {
        RtcBase::Utc => rhea_pc::RtcBase::Utc,
        RtcBase::LocalTime => rhea_pc::RtcBase::LocalTime(rhea_host::time::local_offset_seconds()),
        RtcBase::DateTime(seconds) => rhea_pc::RtcBase::Fixed(seconds),
    };
    pc.rtc.clock = match config.rtc.clock {
        RtcClock::Host => rhea_pc::RtcClock::Host,
        RtcClock::Rt => rhea_pc::RtcClock::Monotonic,
        RtcClock::Vm => rhea_pc::RtcClock::Virtual,
    };
    let debug_exit = config.debug_exit.iter();
    pc.debug_exit = debug_exit
        .map(|d| DebugExitProperties { iobase: d.iobase.into(), iosize: d.iosize.into() })
        .collect();
    if let Some(d) = &config.debugcon {
        // A console that goes nowhere (`none`) is no device.
        if let Some(backend) = chardevs.connect(&d.chardev).context("isa-debugcon")? {
            let properties = DebugConsoleProperties {
                iobase: d.iobase.into(),
                readback: d.readback.into(),
                chardev: String::new(),
            };
            pc.debugcon.push(DebugConsoleConfig { properties, backend });
        }
    }
    pc.loaders =
        config.loaders.iter().map(|l| LoaderRequest { file: l.file.clone(), addr: l.addr }).collect();
    pc.wide = model.features().has(Feature::LM);
    pc.x2apic = model.features().has(Feature::X2APIC);
    pc.physical_address_bits = model.physical_bits();
    Ok(pc)
}

fn virtio_config(part: VirtioPart) -> VirtioConfig {
    let place = match part.place {
        VirtioPlace::Pci(address) => rhea_pc::VirtioPlace::Pci(address),
        VirtioPlace::Mmio(version) => rhea_pc::VirtioPlace::Mmio(version),
    };
    VirtioConfig { name: part.name, place, device: part.device }
}

fn topology(t: Topology) -> CpuTopology {
    CpuTopology {
        cpus: t.cpus,
        maxcpus: t.maxcpus,
        sockets: t.sockets,
        dies: t.dies,
        cores: t.cores,
        threads: t.threads,
    }
}

/// The board's side of what a processor reports.
struct PcSide(Arc<PowerControl>);

impl cpu::Board for PcSide {
    fn triple_fault(&self, _index: u32) {
        self.0.request(PowerRequest::TripleFault);
    }

    fn smm_changed(&self, _index: u32, _in_smm: bool) {
        // Neither board hides memory outside system management mode: there is no SMRAM to open or close.
    }

    fn signal_ferr(&self, _index: u32) {
        // The boards have no FERR# logic (IRQ 13): x87 errors with CR0.NE clear are not reported.
    }
}

fn vcpus(
    config: &SystemConfig,
    model: &CpuModel,
    machine: &PcMachine,
    engine: EngineConfig,
) -> anyhow::Result<Vcpus> {
    let model = model.clone().with_topology(topology(config.topology).levels())?;
    let clock = machine.clock.clone();
    let settings = X86Settings {
        name: config.target.name,
        model: Arc::new(model),
        engine,
        board: Arc::new(PcSide(machine.power.clone())),
        clock: Arc::new(move || clock.now()),
        tsc_hz: TSC_HZ,
    };
    let wiring = machine.cpus.iter().map(|cpu| X86Wiring {
        memory: cpu.memory.clone(),
        io: cpu.io.clone(),
        apic: Arc::new(cpu.apic_port()),
    });
    let vcpus = x86::create(settings, wiring.collect())?;
    for (cpu, handle) in machine.cpus.iter().zip(&vcpus.handles) {
        let handle = handle.clone();
        cpu.apic.set_wake(Arc::new(move || handle.kick()));
    }
    Ok(vcpus)
}

impl Board for PcMachine {
    fn clock(&self) -> &Arc<VirtualClock> {
        &self.clock
    }

    fn power(&self) -> &Arc<PowerControl> {
        &self.power
    }

    fn reset(&self) -> io::Result<()> {
        PcMachine::reset(self)
    }

    fn power_button(&self) {
        PcMachine::power_button(self);
    }
}
