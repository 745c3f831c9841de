//! A small human monitor: the commands that steer the machine's run. The full monitor (HMP, QMP) will attach to the
//! same [`Controller`].

use std::sync::Arc;

use parking_lot::Mutex;
use rhea_chardev::{CharReceiver, Chardev};

use crate::command_line::version_line;
use crate::run_control::{Controller, Event};

/// A line longer than this is refused.
const MAX_LINE: usize = 1024;

const COMMANDS: &[(&[&str], &str)] = &[
    (&["help", "?"], "print this list"),
    (&["info"], "info status|registers|jit|name|uuid|version"),
    (&["stop", "s"], "stop the machine"),
    (&["cont", "c"], "let the machine go on"),
    (&["system_reset"], "reset the machine"),
    (&["system_powerdown"], "press the power button"),
    (&["quit", "q"], "end the emulator"),
];

/// What `info` tells of the machine.
#[derive(Debug, Clone, Default)]
pub struct Identity {
    /// `-name`.
    pub name: Option<String>,
    /// `-uuid`.
    pub uuid: Option<[u8; 16]>,
}

/// A monitor on a character back end.
pub struct Monitor {
    port: Arc<dyn Chardev>,
    controller: Controller,
    identity: Identity,
    line: Mutex<Vec<u8>>,
}

impl Monitor {
    /// Connects a monitor to `port`.
    pub fn attach(port: Arc<dyn Chardev>, controller: Controller, identity: Identity) {
        let monitor = Arc::new(Self { port: port.clone(), controller, identity, line: Mutex::default() });
        port.attach(monitor);
    }

    fn print(&self, text: &str) {
        self.port.write(text.replace('\n', "\r\n").as_bytes());
    }

    fn key(&self, byte: u8) {
        let mut line = self.line.lock();
        match byte {
            b'\r' | b'\n' => {
                let text = String::from_utf8_lossy(&std::mem::take(&mut *line)).into_owned();
                drop(line);
                self.print("\n");
                self.print(&self.command(text.trim()));
                self.print("(rhea) ");
            }
            // Backspace and delete.
            8 | 0x7f if line.pop().is_some() => self.print("\x08 \x08"),
            // Ctrl-u clears the line.
            0x15 => {
                self.print(&"\x08 \x08".repeat(line.len()));
                line.clear();
            }
            b' '..=b'~' if line.len() < MAX_LINE => {
                line.push(byte);
                self.port.write(&[byte]);
            }
            _ => {}
        }
    }

    /// Carries out one line and returns what to print.
    fn command(&self, line: &str) -> String {
        let mut words = line.split_whitespace();
        let Some(name) = words.next() else { return String::new() };
        let rest: Vec<&str> = words.collect();
        let event = match (name, rest.as_slice()) {
            ("help" | "?", _) => return help(),
            ("info", [subject]) => return self.info(subject),
            ("stop" | "s", []) => Event::Stop,
            ("cont" | "c", []) => Event::Cont,
            ("system_reset", []) => Event::Reset,
            ("system_powerdown", []) => Event::Powerdown,
            ("quit" | "q", []) => {
                // Nobody is left to answer once it is carried out.
                self.controller.send(Event::Quit);
                return String::new();
            }
            _ if COMMANDS.iter().any(|(names, _)| names.contains(&name)) => {
                return format!("{name}: unexpected or missing argument; see 'help'\n");
            }
            _ => return format!("unknown command: '{name}' (the full monitor comes later; see 'help')\n"),
        };
        self.carry_out(event)
    }

    fn carry_out(&self, event: Event) -> String {
        match self.controller.carry_out(event) {
            Ok(said) => said,
            Err(why) => format!("Error: {why}\n"),
        }
    }

    fn info(&self, subject: &str) -> String {
        match subject {
            "status" => format!("VM status: {}\n", self.controller.status().describe()),
            "registers" => self.carry_out(Event::ShowRegisters),
            "jit" => self.carry_out(Event::ShowStatistics),
            "version" => format!("{}\n", version_line()),
            "name" => self.identity.name.iter().map(|n| format!("{n}\n")).collect(),
            "uuid" => {
                let hex: String =
                    self.identity.uuid.unwrap_or_default().iter().map(|b| format!("{b:02x}")).collect();
                let groups = [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]];
                format!("{}\n", groups.join("-"))
            }
            _ => format!("unknown info subject: '{subject}'; see 'help'\n"),
        }
    }
}

fn help() -> String {
    COMMANDS.iter().map(|(names, about)| format!("{:<20}{about}\n", names.join("|"))).collect()
}

impl CharReceiver for Monitor {
    fn can_receive(&self) -> usize {
        64
    }

    fn receive(&self, bytes: &[u8]) {
        bytes.iter().for_each(|b| self.key(*b));
    }
}

#[cfg(test)]
mod tests {
    use rhea_chardev::CharSink;

    use super::*;
    use crate::config::RunConfig;
    use crate::run_control::{self, End, Events, Machine};

    #[derive(Default)]
    struct Screen {
        text: Mutex<Vec<u8>>,
        keys: Mutex<Option<Arc<dyn CharReceiver>>>,
    }

    impl CharSink for Screen {
        fn write(&self, bytes: &[u8]) -> usize {
            self.text.lock().extend(bytes);
            bytes.len()
        }

        fn is_open(&self) -> bool {
            true
        }
    }

    impl Chardev for Screen {
        fn attach(&self, receiver: Arc<dyn CharReceiver>) {
            *self.keys.lock() = Some(receiver);
        }

        fn accept_input(&self) {}
    }

    struct Nothing;

    impl Machine for Nothing {
        fn pause(&self) {}
        fn resume(&self) {}
        fn reset(&self) {}
        fn power_button(&self) {}
    }

    /// Types lines into a monitor of a machine that only knows its state; returns what the screen shows.
    fn session(lines: &str) -> (End, String) {
        let screen = Arc::new(Screen::default());
        let (controller, events): (Controller, Events) = Controller::new();
        let identity = Identity { name: Some("box".into()), uuid: Some([0xab; 16]) };
        Monitor::attach(screen.clone(), controller.clone(), identity);
        let keys = screen.keys.lock().clone().unwrap();
        let typist = {
            let lines = format!("{lines}\rquit\r");
            std::thread::spawn(move || lines.bytes().for_each(|b| keys.receive(&[b])))
        };
        let end = run_control::run(&Nothing, &controller, events, RunConfig::default());
        drop(controller);
        let text = String::from_utf8_lossy(&screen.text.lock()).into_owned();
        typist.join().unwrap();
        (end, text)
    }

    #[test]
    fn stop_and_cont_show_in_the_status() {
        let (end, text) = session("cont\rinfo status\rstop\rinfo status\rcont\rinfo status");
        assert_eq!(end, End::Normal);
        let states: Vec<&str> = text.lines().filter(|l| l.starts_with("VM status")).map(str::trim).collect();
        assert_eq!(states, ["VM status: running", "VM status: paused", "VM status: running"]);
    }

    #[test]
    fn identity_is_told() {
        let (_, text) = session("info name\rinfo uuid");
        assert!(
            text.contains("\nbox\r\n") && text.contains("abababab-abab-abab-abab-abababababab"),
            "{text}"
        );
    }

    #[test]
    fn what_is_not_there_is_said() {
        let (_, text) = session("savevm x\rinfo block\rcont now\rhelp");
        assert!(text.contains("unknown command: 'savevm'"));
        assert!(text.contains("unknown info subject: 'block'"));
        assert!(text.contains("cont: unexpected"));
        assert!(text.contains("system_powerdown"));
    }

    #[test]
    fn lines_can_be_edited_and_are_bounded() {
        let (_, text) = session(&format!("infp\x7fo version\r{}\x15info name", "x".repeat(5000)));
        assert!(text.contains(&version_line()) && text.contains("\nbox\r\n"));
    }
}
