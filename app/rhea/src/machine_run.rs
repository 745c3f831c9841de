//! From [`SystemConfig`] to a running machine: the one place that knows machine, accelerator and back ends together.

use std::fs::File;
use std::io::Write;
use std::sync::Arc;

use anyhow::{Context, bail};
use parking_lot::Mutex;
use rhea_accel_api::VcpuGroup;
use rhea_accel_translate::x86::{self, X86Settings, X86Vcpus, X86Wiring};
use rhea_engine::InstructionCounter;
use rhea_engine::code::{EngineConfig, Tier as EngineTier};
use rhea_engine::trace::{Trace, item};
use rhea_host::signals;
use rhea_pc::{
    CpuTopology, DebugConsoleConfig, DebugConsoleProperties, DebugExitProperties, LoaderRequest, PcConfig,
    PcKind, PcMachine, PowerControl, PowerRequest, VirtualClock,
};
use rhea_x86_state::features::Feature;
use rhea_x86_translate::cpu::Board;
use rhea_x86_translate::disassembly;

use crate::chardevs::Chardevs;
use crate::config::{
    AccelConfig, IcountConfig, LogConfig, LogItem, MachineKind, RtcBase, RtcClock, SystemConfig, Threading,
    Tier, Topology,
};
use crate::monitor::{Identity, Monitor};
use crate::run_control::{self, Controller, End, Event, Machine};

/// Frequency of the guest's time-stamp counter: one tick for each nanosecond of virtual time.
const TSC_HZ: u64 = 1_000_000_000;

/// Builds the machine, runs it to its end and returns the exit status.
pub fn run(program: &str, config: &SystemConfig) -> anyhow::Result<u8> {
    refuse_what_is_missing(config)?;
    let (controller, events) = Controller::new();
    // Before any thread starts, so that all of them leave these signals to the watching one.
    let on_signal = controller.clone();
    signals::watch(move |signal| on_signal.send(Event::Signal(signal))).context("cannot watch signals")?;
    let trace = trace(&config.log)?;

    // Terminals are opened last among the things that can fail: an error is then told on a terminal as it was.
    let (clock, counter) = virtual_time(config.icount);
    let mut chardevs = Chardevs::open(config, &controller)?;
    let pc = pc_config(config, &mut chardevs)?;
    let machine = Arc::new(rhea_pc::build(&pc, clock)?);
    let vcpus = vcpus(config, &machine, counter, trace)?;
    let identity = Identity { name: config.name.clone(), uuid: config.uuid };
    let mut monitors = chardevs.monitor_ports();
    if let Some(monitor) = &config.monitor {
        monitors.extend(chardevs.connect(monitor)?);
    }
    for port in monitors {
        Monitor::attach(port, controller.clone(), identity.clone());
    }
    forward_power_requests(machine.power.clone(), controller.clone())?;

    let running = RunningMachine { machine, vcpus: vcpus.group.clone(), controller: controller.clone() };
    let end = run_control::run(&running, &controller, events, config.run);
    vcpus.group.shut_down();
    chardevs.flush();
    rhea_host::terminal::restore();
    Ok(match end {
        End::Normal => 0,
        End::Status(status) => status,
        End::Signal(signal) => {
            eprintln!("{program}: terminating on {}", signal.name());
            0
        }
        End::Failure(text) => bail!("{text}"),
    })
}

/// What the command line takes and this version's machine or translator cannot do yet.
fn refuse_what_is_missing(config: &SystemConfig) -> anyhow::Result<()> {
    if config.icount.is_some() && config.topology.cpus > 1 {
        bail!("-icount: not implemented yet for more than one CPU (-smp {})", config.topology.cpus);
    }
    Ok(())
}

/// The machine's clock, and with `-icount` the counter that drives it.
fn virtual_time(icount: Option<IcountConfig>) -> (Arc<VirtualClock>, Option<Arc<InstructionCounter>>) {
    match icount {
        None => (VirtualClock::realtime(), None),
        Some(icount) => {
            let (counter, clock) = InstructionCounter::new(icount.shift.into(), icount.sleep);
            (clock, Some(counter))
        }
    }
}

fn pc_config(config: &SystemConfig, chardevs: &mut Chardevs) -> anyhow::Result<PcConfig> {
    let kind = match config.machine {
        MachineKind::Q35 => PcKind::Q35,
        MachineKind::Microvm => PcKind::Microvm,
    };
    let mut pc = PcConfig::new(kind, config.ram_size);
    pc.topology = topology(config.topology);
    let boot = &config.boot;
    pc.kernel.clone_from(&boot.kernel);
    pc.initrd.clone_from(&boot.initrd);
    pc.dtb.clone_from(&boot.dtb);
    pc.append.clone_from(&boot.append);
    pc.bios.clone_from(&boot.bios);
    for serial in &config.serials {
        pc.serials.extend(chardevs.connect(serial).context("-serial")?);
    }
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
    pc.wide = config.cpu.features().has(Feature::LM);
    pc.x2apic = config.cpu.features().has(Feature::X2APIC);
    pc.physical_address_bits = config.cpu.physical_bits();
    Ok(pc)
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
struct PcBoard(Arc<PowerControl>);

impl Board for PcBoard {
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
    machine: &Arc<PcMachine>,
    counter: Option<Arc<InstructionCounter>>,
    trace: Trace,
) -> anyhow::Result<X86Vcpus> {
    let model = config.cpu.clone().with_topology(topology(config.topology).levels())?;
    let clock = machine.clock.clone();
    let settings = X86Settings {
        name: config.target.name(),
        model: Arc::new(model),
        engine: EngineConfig { icount: counter.clone(), ..engine_config(&config.accel, trace) },
        board: Arc::new(PcBoard(machine.power.clone())),
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
    if let (Some(counter), [handle]) = (counter, vcpus.handles.as_slice()) {
        counter.wake_by(handle.clone());
    }
    Ok(vcpus)
}

fn engine_config(accel: &AccelConfig, trace: Trace) -> EngineConfig {
    let mut engine = EngineConfig::default();
    if let Some(bytes) = accel.tb_size {
        // Bounded by the option itself to 1 GiB.
        engine.code_bytes = bytes as usize;
    }
    engine.tier = match accel.tier {
        Tier::Interpreter => EngineTier::Interpreter,
        Tier::Baseline => EngineTier::Baseline,
    };
    if accel.one_insn_per_tb {
        engine.max_insns = 1;
    }
    engine.lockstep = accel.lockstep;
    engine.take_turns = accel.thread == Some(Threading::Single);
    engine.trace = trace;
    engine
}

fn trace(log: &LogConfig) -> anyhow::Result<Trace> {
    let mut trace = Trace {
        items: log.items.iter().map(|i| trace_item(*i)).fold(0, |all, bit| all | bit),
        ranges: log.ranges.iter().map(|(first, last)| *first..=*last).collect(),
        ..Trace::default()
    };
    if trace.items != 0 {
        let sink: Box<dyn Write + Send> = match &log.file {
            None => Box::new(std::io::stderr()),
            Some(path) => Box::new(File::create(path).with_context(|| format!("-D {}", path.display()))?),
        };
        // Translated code runs on x86-64 hosts only.
        trace.host_disassembler =
            Some(Arc::new(|address, _, code: &[u8]| disassembly::disassemble(64, address, code)));
        trace.sink = Some(Arc::new(Mutex::new(sink)));
    }
    Ok(trace)
}

fn trace_item(log_item: LogItem) -> u32 {
    match log_item {
        LogItem::InAsm => item::IN_ASM,
        LogItem::Op => item::OP,
        LogItem::OpOpt => item::OP_OPT,
        LogItem::OutAsm => item::OUT_ASM,
        LogItem::Int => item::INT,
        LogItem::Cpu => item::CPU,
        LogItem::Exec => item::EXEC,
        LogItem::Unimp => item::UNIMP,
        LogItem::GuestErrors => item::GUEST_ERRORS,
        LogItem::Mmu => item::MMU,
    }
}

/// Brings the guest's requests into the run loop's queue.
fn forward_power_requests(power: Arc<PowerControl>, controller: Controller) -> anyhow::Result<()> {
    std::thread::Builder::new().name("power".into()).spawn(move || {
        loop {
            // Without a time-out there is always a request.
            let Some(request) = power.wait(None) else { continue };
            controller.send(match request {
                PowerRequest::Shutdown => Event::GuestShutdown,
                PowerRequest::Reset | PowerRequest::TripleFault => Event::GuestReset,
                // The process's status has eight bits.
                PowerRequest::DebugExit(status) => Event::DebugExit(status as u8),
                PowerRequest::Quit => Event::Quit,
            });
        }
    })?;
    Ok(())
}

/// Machine and processors, as run control drives them.
struct RunningMachine {
    machine: Arc<PcMachine>,
    vcpus: Arc<dyn VcpuGroup>,
    controller: Controller,
}

impl Machine for RunningMachine {
    fn pause(&self) {
        self.vcpus.pause();
        self.machine.clock.pause();
    }

    fn resume(&self) {
        self.machine.clock.resume();
        self.vcpus.resume();
    }

    fn reset(&self) {
        if let Err(error) = self.machine.reset() {
            self.controller.send(Event::Failure(format!("cannot reset the machine: {error}")));
        }
        self.vcpus.reset();
    }

    fn power_button(&self) {
        self.machine.power_button();
    }

    fn registers(&self) -> String {
        (0..self.vcpus.len()).map(|index| format!("CPU#{index}\n{}\n", self.vcpus.registers(index))).collect()
    }

    fn statistics(&self) -> String {
        self.vcpus.statistics()
    }
}
