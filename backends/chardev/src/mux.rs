//! `mux`: one host back end shared by several front ends (a serial port and the monitor), with an escape key.
//!
//! Every front end may write; input goes to the one that has the focus. Ctrl-a is the escape:
//!
//! | keys | what happens |
//! |---|---|
//! | Ctrl-a h | this list |
//! | Ctrl-a x | ends the emulator |
//! | Ctrl-a c | input goes to the next front end (the monitor, and back) |
//! | Ctrl-a b | sends a break |
//! | Ctrl-a t | time stamps at the start of each line, on and off |
//! | Ctrl-a s | would save disk changes of a snapshot run; refused, there are none |
//! | Ctrl-a Ctrl-a | sends Ctrl-a |
//!
//! The escape is seen even while the focused front end takes no input, since each front end has its own bounded queue;
//! only when that is full (64 KiB typed ahead) does the host's input wait, and the escape with it.

use std::sync::{Arc, Weak};
use std::time::Instant;

use parking_lot::Mutex;

use crate::input::InputQueue;
use crate::{CharReceiver, CharSink, Chardev};

/// Ctrl-a.
const ESCAPE: u8 = 1;

const HELP: &str = "\n\
    C-a h    print this help\n\
    C-a x    exit emulator\n\
    C-a s    save disk data back to file (if -snapshot)\n\
    C-a t    toggle console timestamps\n\
    C-a b    send break (magic sysrq)\n\
    C-a c    switch between console and monitor\n\
    C-a C-a  sends C-a\n";

/// What the mux asks of its surroundings.
pub trait MuxControl: Send + Sync {
    /// Ctrl-a x: end the emulator.
    fn quit(&self);
}

/// One step that the escape filter found in the input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Event {
    Byte(u8),
    Help,
    Quit,
    Save,
    Timestamps,
    Break,
    NextFrontEnd,
}

/// Finds escapes in a stream of bytes. It keeps one bit: whether Ctrl-a was the last byte.
#[derive(Debug, Default)]
struct EscapeFilter {
    escaped: bool,
}

impl EscapeFilter {
    fn next(&mut self, byte: u8) -> Option<Event> {
        if !self.escaped {
            self.escaped = byte == ESCAPE;
            return (!self.escaped).then_some(Event::Byte(byte));
        }
        self.escaped = false;
        match byte {
            b'h' | b'?' => Some(Event::Help),
            b'x' => Some(Event::Quit),
            b's' => Some(Event::Save),
            b't' => Some(Event::Timestamps),
            b'b' => Some(Event::Break),
            b'c' => Some(Event::NextFrontEnd),
            ESCAPE => Some(Event::Byte(ESCAPE)),
            _ => None,
        }
    }
}

/// Writes a time stamp at each line's start when switched on.
struct Timestamps {
    on: bool,
    at_line_start: bool,
    since: Instant,
}

impl Timestamps {
    fn stamp(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(bytes.len() + 32);
        for &byte in bytes {
            if self.at_line_start {
                let t = self.since.elapsed();
                let (s, ms) = (t.as_secs(), t.subsec_millis());
                out.extend(format!("[{:02}:{:02}:{:02}.{ms:03}] ", s / 3600, s / 60 % 60, s % 60).bytes());
            }
            out.push(byte);
            self.at_line_start = byte == b'\n';
        }
        out
    }
}

struct State {
    ports: Vec<Arc<InputQueue>>,
    focus: usize,
    filter: EscapeFilter,
    timestamps: Timestamps,
}

/// The mux. Front ends are added with [`Mux::add_port`]; the first has the focus at the start.
pub struct Mux {
    base: Arc<dyn Chardev>,
    control: Arc<dyn MuxControl>,
    state: Mutex<State>,
}

impl Mux {
    /// Takes over `base`.
    pub fn new(base: Arc<dyn Chardev>, control: Arc<dyn MuxControl>) -> Arc<Self> {
        let timestamps = Timestamps { on: false, at_line_start: true, since: Instant::now() };
        let mux = Arc::new(Self {
            base,
            control,
            state: Mutex::new(State {
                ports: Vec::new(),
                focus: 0,
                filter: EscapeFilter::default(),
                timestamps,
            }),
        });
        mux.base.attach(Arc::new(FromBase(Arc::downgrade(&mux))));
        mux
    }

    /// A new front end's side of the mux.
    pub fn add_port(self: &Arc<Self>) -> Arc<MuxPort> {
        let input = Arc::new(InputQueue::new());
        let mut state = self.state.lock();
        state.ports.push(input.clone());
        drop(state);
        self.base.accept_input();
        Arc::new(MuxPort { mux: self.clone(), input })
    }

    fn write(&self, bytes: &[u8]) -> usize {
        let mut state = self.state.lock();
        if !state.timestamps.on {
            drop(state);
            return self.base.write(bytes);
        }
        let stamped = state.timestamps.stamp(bytes);
        drop(state);
        self.base.write(&stamped);
        bytes.len()
    }

    fn say(&self, text: &str) {
        self.base.write(text.replace('\n', "\r\n").as_bytes());
    }

    /// What fits whichever port the bytes turn out to be for: the focus may change among them.
    fn room(&self) -> usize {
        self.state.lock().ports.iter().map(|port| port.room()).min().unwrap_or(0)
    }

    fn handle_input(&self, bytes: &[u8]) {
        for &byte in bytes {
            let mut state = self.state.lock();
            let Some(event) = state.filter.next(byte) else { continue };
            match event {
                Event::Byte(byte) => {
                    let focus = state.focus;
                    if let Some(port) = state.ports.get(focus) {
                        port.push(&[byte]);
                    }
                }
                Event::Break => {
                    let focus = state.focus;
                    if let Some(port) = state.ports.get(focus) {
                        port.push_break();
                    }
                }
                Event::NextFrontEnd => {
                    state.focus = (state.focus + 1) % state.ports.len().max(1);
                    // A front end that prompts shows itself when it gets the focus: an empty line asks for that.
                    if state.focus != 0 {
                        let focus = state.focus;
                        state.ports[focus].push(b"\r");
                    }
                }
                Event::Timestamps => {
                    let on = !state.timestamps.on;
                    state.timestamps = Timestamps { on, at_line_start: false, since: state.timestamps.since };
                }
                Event::Help | Event::Save | Event::Quit => {
                    drop(state);
                    self.command(event);
                }
            }
        }
    }

    fn command(&self, event: Event) {
        match event {
            Event::Help => self.say(HELP),
            Event::Save => self.say("\nrhea: nothing to save: no disk runs with -snapshot\n"),
            _ => self.control.quit(),
        }
    }
}

/// The mux as the receiver of its base.
struct FromBase(Weak<Mux>);

impl CharReceiver for FromBase {
    fn can_receive(&self) -> usize {
        self.0.upgrade().map_or(0, |mux| mux.room())
    }

    fn receive(&self, bytes: &[u8]) {
        if let Some(mux) = self.0.upgrade() {
            mux.handle_input(bytes);
        }
    }
}

/// One front end's side of a [`Mux`].
pub struct MuxPort {
    mux: Arc<Mux>,
    input: Arc<InputQueue>,
}

impl CharSink for MuxPort {
    fn write(&self, bytes: &[u8]) -> usize {
        self.mux.write(bytes)
    }

    fn is_open(&self) -> bool {
        self.mux.base.is_open()
    }

    fn flush(&self) {
        self.mux.base.flush();
    }
}

impl Chardev for MuxPort {
    fn attach(&self, receiver: Arc<dyn CharReceiver>) {
        self.input.attach(receiver);
    }

    fn accept_input(&self) {
        self.input.accept_input();
        self.mux.base.accept_input();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    use super::*;

    #[derive(Default)]
    struct Base {
        out: Mutex<Vec<u8>>,
        receiver: Mutex<Option<Arc<dyn CharReceiver>>>,
    }

    impl Base {
        fn type_in(&self, bytes: &[u8]) {
            let receiver = self.receiver.lock().clone().unwrap();
            assert!(receiver.can_receive() >= bytes.len());
            receiver.receive(bytes);
        }
    }

    impl CharSink for Base {
        fn write(&self, bytes: &[u8]) -> usize {
            self.out.lock().extend(bytes);
            bytes.len()
        }

        fn is_open(&self) -> bool {
            true
        }
    }

    impl Chardev for Base {
        fn attach(&self, receiver: Arc<dyn CharReceiver>) {
            *self.receiver.lock() = Some(receiver);
        }

        fn accept_input(&self) {}
    }

    #[derive(Default)]
    struct Quit(AtomicBool);

    impl MuxControl for Quit {
        fn quit(&self) {
            self.0.store(true, Ordering::SeqCst);
        }
    }

    #[derive(Default)]
    struct Sink {
        bytes: Mutex<Vec<u8>>,
        breaks: Mutex<u32>,
    }

    impl Sink {
        fn wait_for(&self, want: &[u8]) {
            for _ in 0..10_000 {
                if *self.bytes.lock() == want {
                    return;
                }
                std::thread::sleep(Duration::from_millis(1));
            }
            panic!("got {:?}", self.bytes.lock());
        }
    }

    impl CharReceiver for Sink {
        fn can_receive(&self) -> usize {
            16
        }

        fn receive(&self, bytes: &[u8]) {
            self.bytes.lock().extend(bytes);
        }

        fn receive_break(&self) {
            *self.breaks.lock() += 1;
        }
    }

    struct Bench {
        base: Arc<Base>,
        quit: Arc<Quit>,
        _ports: [Arc<MuxPort>; 2],
        serial: Arc<Sink>,
        monitor: Arc<Sink>,
    }

    fn bench() -> Bench {
        let (base, quit) = (Arc::new(Base::default()), Arc::new(Quit::default()));
        let mux = Mux::new(base.clone(), quit.clone());
        let ports = [mux.add_port(), mux.add_port()];
        let (serial, monitor) = (Arc::new(Sink::default()), Arc::new(Sink::default()));
        ports[0].attach(serial.clone());
        ports[1].attach(monitor.clone());
        Bench { base, quit, _ports: ports, serial, monitor }
    }

    #[test]
    fn input_follows_the_focus() {
        let b = bench();
        b.base.type_in(b"ab\x01cq\x01cd");
        b.serial.wait_for(b"abd");
        b.monitor.wait_for(b"\rq");
    }

    #[test]
    fn a_doubled_escape_is_one_control_a() {
        let b = bench();
        b.base.type_in(b"\x01\x01z");
        b.serial.wait_for(b"\x01z");
    }

    #[test]
    fn an_unknown_escape_is_dropped() {
        let b = bench();
        b.base.type_in(b"\x01~z");
        b.serial.wait_for(b"z");
    }

    #[test]
    fn break_reaches_the_focused_front_end() {
        let b = bench();
        b.base.type_in(b"\x01bz");
        b.serial.wait_for(b"z");
        assert_eq!(*b.serial.breaks.lock(), 1);
    }

    #[test]
    fn x_quits_and_h_helps() {
        let b = bench();
        b.base.type_in(b"\x01h\x01x");
        assert!(String::from_utf8_lossy(&b.base.out.lock()).contains("exit emulator"));
        assert!(b.quit.0.load(Ordering::SeqCst));
    }

    #[test]
    fn time_stamps_stand_at_line_starts() {
        let b = bench();
        b.base.type_in(b"\x01t");
        b._ports[0].write(b"x\nyz\n");
        let out = String::from_utf8_lossy(&b.base.out.lock()).into_owned();
        assert!(out.starts_with("x\n[00:00:0") && out.ends_with("] yz\n"), "{out}");
    }
}
