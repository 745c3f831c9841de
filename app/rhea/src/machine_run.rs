//! From [`SystemConfig`] to a running machine: the one place that knows machine, accelerator and back ends together.

use std::fs::File;
use std::io::Write;
use std::sync::Arc;

use anyhow::{Context, bail};
use parking_lot::Mutex;
use rhea_accel_api::VcpuGroup;
use rhea_device::{PowerControl, PowerRequest, VirtualClock};
use rhea_engine::InstructionCounter;
use rhea_engine::code::{EngineConfig, Tier as EngineTier};
use rhea_engine::trace::{Trace, item};
use rhea_host::signals;
use rhea_x86_translate::disassembly;

use crate::chardevs::Chardevs;
use crate::config::{AccelConfig, IcountConfig, LogConfig, LogItem, SystemConfig, Threading, Tier};
use crate::disks::Disks;
use crate::monitor::{Identity, Monitor};
use crate::run_control::{self, Controller, End, Event, Events, Machine};
use crate::targets::{Board, Built, Surroundings};
use crate::virtio_parts;

/// Builds the machine, runs it to its end and returns the exit status.
pub fn run(program: &str, config: &SystemConfig) -> anyhow::Result<u8> {
    refuse_what_is_missing(config)?;
    let (controller, events) = Controller::new();
    // Before any thread starts, so that all of them leave these signals to the watching one.
    let on_signal = controller.clone();
    signals::watch(move |signal| on_signal.send(Event::Signal(signal))).context("cannot watch signals")?;
    let trace = trace(&config.log)?;

    // Terminals are opened last among the things that can fail: an error is then told on a terminal as it was.
    let disks = Disks::open(config)?;
    let end = run_with(config, &controller, events, trace, &disks);
    // Also where the machine could not be made: the images are open.
    disks.close(program).and(end).map(|end| match end {
        End::Status(status) => status,
        End::Signal(signal) => {
            eprintln!("{program}: terminating on {}", signal.name());
            0
        }
        End::Normal | End::Failure(_) => 0,
    })
}

/// Builds the machine with its disks and runs it to its end.
fn run_with(
    config: &SystemConfig,
    controller: &Controller,
    events: Events,
    trace: Trace,
    disks: &Disks,
) -> anyhow::Result<End> {
    let (clock, counter) = virtual_time(config.icount);
    let mut chardevs = Chardevs::open(config, controller)?;
    let engine = EngineConfig { icount: counter, ..engine_config(&config.accel, trace) };
    let virtio = virtio_parts::make(config, disks, &mut chardevs)?;
    let flash = disks.flash()?;
    let surroundings = Surroundings { chardevs: &mut chardevs, clock, engine, virtio, flash };
    let (board, vcpus) = match (config.target.build)(config, surroundings)? {
        Built::Machine { board, vcpus } => (board, vcpus),
        Built::Said(text) => {
            print!("{text}");
            return Ok(End::Normal);
        }
    };
    let identity = Identity { name: config.name.clone(), uuid: config.uuid };
    let mut monitors = chardevs.monitor_ports();
    if let Some(monitor) = &config.monitor {
        monitors.extend(chardevs.connect(monitor)?);
    }
    for port in monitors {
        Monitor::attach(port, controller.clone(), identity.clone());
    }
    forward_power_requests(board.power().clone(), controller.clone())?;

    let running = RunningMachine { board, vcpus: vcpus.clone(), controller: controller.clone() };
    let end = run_control::run(&running, controller, events, config.run);
    vcpus.shut_down();
    chardevs.flush();
    rhea_host::terminal::restore();
    match end {
        End::Failure(text) => bail!("{text}"),
        end => Ok(end),
    }
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
    board: Box<dyn Board>,
    vcpus: Arc<dyn VcpuGroup>,
    controller: Controller,
}

impl Machine for RunningMachine {
    fn pause(&self) {
        self.vcpus.pause();
        self.board.clock().pause();
    }

    fn resume(&self) {
        self.board.clock().resume();
        self.vcpus.resume();
    }

    fn reset(&self) {
        if let Err(error) = self.board.reset() {
            self.controller.send(Event::Failure(format!("cannot reset the machine: {error}")));
        }
        self.vcpus.reset();
    }

    fn power_button(&self) {
        self.board.power_button();
    }

    fn registers(&self) -> String {
        (0..self.vcpus.len()).map(|index| format!("CPU#{index}\n{}\n", self.vcpus.registers(index))).collect()
    }

    fn statistics(&self) -> String {
        self.vcpus.statistics()
    }
}
