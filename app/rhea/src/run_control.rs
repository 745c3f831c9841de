//! Running, stopped, shut down: the machine's life as one small state machine.
//!
//! ```text
//!            cont               guest powers off with -no-shutdown
//!   Stopped ──────▶ Running ──────────────────────────────▶ ShutDown
//!      ▲   ◀──────    │ ▲                                      │
//!      │     stop     └─┘ reset                                │
//!      └───────────────────────────────────────────────────────┘ reset
//!   Quit, signals, a power-off, -no-reboot's reset and the debug-exit port end the loop from any state.
//! ```
//!
//! Events come from the guest (power control), from the user (monitor, escape keys) and from the system (signals), over
//! one queue, and are carried out one at a time on the thread that calls [`run`], with the processors paused wherever
//! the machine is touched.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

use parking_lot::Mutex;
use rhea_host::signals::EndSignal;

use crate::config::RunConfig;

/// What the state machine drives.
pub trait Machine {
    /// Brings every processor to a halt between two instructions and stops virtual time. Returns when done.
    fn pause(&self);
    /// Lets virtual time and the processors go on.
    fn resume(&self);
    /// Resets every device and processor; called while paused.
    fn reset(&self);
    /// Presses the power button.
    fn power_button(&self);
    /// The processors' registers as text; called while paused.
    fn registers(&self) -> String {
        String::new()
    }
    /// The accelerator's counters as text; called while paused.
    fn statistics(&self) -> String {
        String::new()
    }
}

/// Where the machine stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Not started yet (`-S`).
    Prelaunch,
    /// Processors run.
    Running,
    /// Stopped by the user.
    Paused,
    /// The guest powered off (`-no-shutdown`); only a reset leads on.
    ShutDown,
}

impl Status {
    /// As `info status` says it.
    pub fn describe(self) -> &'static str {
        match self {
            Self::Prelaunch => "paused (prelaunch)",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::ShutDown => "paused (shutdown)",
        }
    }
}

/// What somebody asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The guest powered off.
    GuestShutdown,
    /// The guest, or a triple fault of it, reset the machine.
    GuestReset,
    /// The guest wrote the debug-exit port.
    DebugExit(u8),
    /// The monitor's `stop`.
    Stop,
    /// The monitor's `cont`.
    Cont,
    /// The monitor's `system_reset`.
    Reset,
    /// The monitor's `system_powerdown`.
    Powerdown,
    /// The monitor's `quit`, or Ctrl-a x.
    Quit,
    /// The monitor's `info registers`; the answer is the outcome.
    ShowRegisters,
    /// The monitor's `info jit`; the answer is the outcome.
    ShowStatistics,
    /// The system asks the process to end.
    Signal(EndSignal),
    /// The emulator found an error of its own or cannot go on.
    Failure(String),
}

struct Message {
    event: Event,
    /// Told the outcome once the event is carried out.
    done: Option<Sender<Result<String, String>>>,
}

/// The handle by which events reach the loop. Cheap to clone.
#[derive(Clone)]
pub struct Controller {
    events: Sender<Message>,
    status: Arc<Mutex<Status>>,
}

/// The loop's end of the queue.
pub struct Events(Receiver<Message>);

impl Controller {
    /// A controller and the queue that [`run`] takes.
    pub fn new() -> (Self, Events) {
        let (events, receiver) = channel();
        (Self { events, status: Arc::new(Mutex::new(Status::Prelaunch)) }, Events(receiver))
    }

    /// Where the machine stands.
    pub fn status(&self) -> Status {
        *self.status.lock()
    }

    /// Queues an event.
    pub fn send(&self, event: Event) {
        // The loop is gone only when the process is about to end.
        let _ = self.events.send(Message { event, done: None });
    }

    /// Queues an event and waits until it is carried out. Returns what it has to tell (mostly nothing); the error says
    /// why it was refused.
    pub fn carry_out(&self, event: Event) -> Result<String, String> {
        let (done, outcome) = channel();
        if self.events.send(Message { event, done: Some(done) }).is_err() {
            return Err("the machine is ending".into());
        }
        outcome.recv().unwrap_or_else(|_| Err("the machine is ending".into()))
    }
}

/// How the machine's run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// Powered off, or the user ended it: status 0.
    Normal,
    /// The guest chose the status.
    Status(u8),
    /// A signal; the process ends orderly.
    Signal(EndSignal),
    /// The emulator cannot go on.
    Failure(String),
}

/// Runs the machine until it ends. On return it is paused.
pub fn run(machine: &dyn Machine, controller: &Controller, events: Events, config: RunConfig) -> End {
    let mut control = Loop { machine, controller, config };
    if !config.start_stopped {
        control.set_running(true);
    }
    let end = loop {
        // The controller above keeps the queue open.
        let Ok(message) = events.0.recv() else { break End::Normal };
        match control.handle(message.event) {
            Step::Continue(outcome) => {
                if let Some(done) = message.done {
                    let _ = done.send(outcome);
                }
            }
            Step::End(end) => break end,
        }
    };
    if controller.status() == Status::Running {
        machine.pause();
    }
    end
}

struct Loop<'a> {
    machine: &'a dyn Machine,
    controller: &'a Controller,
    config: RunConfig,
}

enum Step {
    Continue(Result<String, String>),
    End(End),
}

impl Loop<'_> {
    fn handle(&mut self, event: Event) -> Step {
        let status = self.controller.status();
        Step::Continue(match event {
            Event::GuestShutdown if self.config.no_shutdown => {
                self.set_running(false);
                *self.controller.status.lock() = Status::ShutDown;
                Ok(String::new())
            }
            Event::GuestShutdown | Event::Quit => return Step::End(End::Normal),
            Event::GuestReset | Event::Reset if self.config.no_reboot => {
                return self.handle(Event::GuestShutdown);
            }
            Event::GuestReset | Event::Reset => {
                self.reset();
                Ok(String::new())
            }
            Event::DebugExit(status) => return Step::End(End::Status(status)),
            Event::Signal(signal) => return Step::End(End::Signal(signal)),
            Event::Failure(text) => return Step::End(End::Failure(text)),
            Event::Stop => {
                self.set_running(false);
                Ok(String::new())
            }
            Event::Cont if status == Status::ShutDown => {
                Err("the machine is shut down: system_reset comes first".into())
            }
            Event::Cont => {
                self.set_running(true);
                Ok(String::new())
            }
            Event::ShowRegisters => Ok(self.while_paused(|machine| machine.registers())),
            Event::ShowStatistics => Ok(self.while_paused(|machine| machine.statistics())),
            Event::Powerdown => {
                self.machine.power_button();
                Ok(String::new())
            }
        })
    }

    /// Looks at the machine with its processors halted, and lets them go on as they were.
    fn while_paused(&self, look: impl FnOnce(&dyn Machine) -> String) -> String {
        let running = self.controller.status() == Status::Running;
        if running {
            self.machine.pause();
        }
        let seen = look(self.machine);
        if running {
            self.machine.resume();
        }
        seen
    }

    fn set_running(&mut self, run: bool) {
        let status = self.controller.status();
        if run && status != Status::Running {
            *self.controller.status.lock() = Status::Running;
            self.machine.resume();
        } else if !run && status == Status::Running {
            self.machine.pause();
            *self.controller.status.lock() = Status::Paused;
        }
    }

    fn reset(&mut self) {
        let running = self.controller.status() == Status::Running;
        if running {
            self.machine.pause();
        }
        self.machine.reset();
        if running {
            self.machine.resume();
        } else if self.controller.status() == Status::ShutDown {
            *self.controller.status.lock() = Status::Paused;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes down what is done to it, and checks that only a paused machine is reset.
    #[derive(Default)]
    struct Recorder {
        calls: Mutex<Vec<&'static str>>,
        running: Mutex<bool>,
    }

    impl Machine for Recorder {
        fn pause(&self) {
            assert!(std::mem::replace(&mut *self.running.lock(), false), "paused twice");
            self.calls.lock().push("pause");
        }

        fn resume(&self) {
            assert!(!std::mem::replace(&mut *self.running.lock(), true), "resumed twice");
            self.calls.lock().push("resume");
        }

        fn reset(&self) {
            assert!(!*self.running.lock(), "reset while running");
            self.calls.lock().push("reset");
        }

        fn power_button(&self) {
            self.calls.lock().push("button");
        }
    }

    fn play(config: RunConfig, events: &[Event]) -> (End, Vec<&'static str>, Status) {
        let machine = Recorder::default();
        let (controller, queue) = Controller::new();
        events.iter().for_each(|e| controller.send(e.clone()));
        controller.send(Event::Failure("ran out".into()));
        let end = run(&machine, &controller, queue, config);
        let calls = machine.calls.lock().clone();
        (end, calls, controller.status())
    }

    fn ran_out() -> End {
        End::Failure("ran out".into())
    }

    #[test]
    fn a_power_off_ends_the_run() {
        let (end, calls, _) = play(RunConfig::default(), &[Event::GuestShutdown]);
        assert_eq!((end, calls), (End::Normal, vec!["resume", "pause"]));
    }

    #[test]
    fn a_reset_restarts_a_running_machine() {
        let (end, calls, _) = play(RunConfig::default(), &[Event::GuestReset]);
        assert_eq!((end, calls), (ran_out(), vec!["resume", "pause", "reset", "resume", "pause"]));
    }

    #[test]
    fn no_reboot_turns_a_reset_into_the_end() {
        let config = RunConfig { no_reboot: true, ..Default::default() };
        assert_eq!(play(config, &[Event::GuestReset]).0, End::Normal);
    }

    #[test]
    fn no_shutdown_stops_and_only_a_reset_leads_on() {
        let config = RunConfig { no_shutdown: true, ..Default::default() };
        let (end, calls, status) = play(config, &[Event::GuestShutdown, Event::Cont]);
        assert_eq!((end, calls, status), (ran_out(), vec!["resume", "pause"], Status::ShutDown));
        let (_, calls, _) = play(config, &[Event::GuestShutdown, Event::Reset, Event::Cont]);
        assert_eq!(calls, ["resume", "pause", "reset", "resume", "pause"]);
    }

    #[test]
    fn both_together_stop_on_a_reset() {
        let config = RunConfig { no_reboot: true, no_shutdown: true, start_stopped: false };
        assert_eq!(play(config, &[Event::GuestReset]).2, Status::ShutDown);
    }

    #[test]
    fn start_stopped_waits_for_cont() {
        let config = RunConfig { start_stopped: true, ..Default::default() };
        assert_eq!(play(config, &[]).1, Vec::<&str>::new());
        assert_eq!(play(config, &[Event::Stop, Event::Reset, Event::Cont]).1, ["reset", "resume", "pause"]);
    }

    #[test]
    fn the_guest_chooses_its_exit_status() {
        assert_eq!(play(RunConfig::default(), &[Event::DebugExit(33)]).0, End::Status(33));
    }
}
