use super::*;
use rhea_chardev::CharSink;
use rhea_device::ClockSource;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

#[derive(Default)]
struct Counter(AtomicU64);

impl ClockSource for Counter {
    fn now_ns(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
    fn deadline_changed(&self, _: Option<u64>) {}
}

/// A back end that takes `room` bytes and counts calls for input.
#[derive(Default)]
struct Host {
    out: Mutex<Vec<u8>>,
    room: AtomicUsize,
    asked: AtomicUsize,
}

impl CharSink for Host {
    fn write(&self, bytes: &[u8]) -> usize {
        let n = bytes.len().min(self.room.load(Ordering::Relaxed));
        self.room.fetch_sub(n, Ordering::Relaxed);
        self.out.lock().extend_from_slice(&bytes[..n]);
        n
    }
    fn is_open(&self) -> bool {
        true
    }
}

impl Chardev for Host {
    fn attach(&self, _: Arc<dyn CharReceiver>) {}
    fn accept_input(&self) {
        self.asked.fetch_add(1, Ordering::Relaxed);
    }
}

struct Rig {
    source: Arc<Counter>,
    clock: Arc<VirtualClock>,
    host: Arc<Host>,
    irq: IrqLine,
    uart: Arc<Uart16550>,
}

fn rig() -> Rig {
    let source = Arc::new(Counter::default());
    let clock = VirtualClock::driven(source.clone());
    let host = Arc::new(Host { room: AtomicUsize::new(1000), ..Host::default() });
    let irq = IrqLine::unconnected();
    let uart = Uart16550::new(&clock, irq.clone(), host.clone());
    uart.write(spec::MCR, 1, 0x0b);
    Rig { source, clock, host, irq, uart }
}

impl Rig {
    fn advance(&self, ns: u64) {
        self.source.0.fetch_add(ns, Ordering::Relaxed);
        self.clock.run_due();
    }
}

#[test]
fn transmit_with_interrupts_as_a_driver_does() {
    let r = rig();
    r.uart.write(spec::IER, 1, 2);
    assert!(r.irq.level(), "empty at once");
    assert_eq!(r.uart.read(spec::IIR_FCR, 1), 0x02);
    assert!(!r.irq.level(), "reading IIR clears it");
    b"hello".iter().for_each(|b| r.uart.write(spec::DATA, 1, u64::from(*b)));
    assert!(r.irq.level());
    assert_eq!(&*r.host.out.lock(), b"hello");
    assert_eq!(r.uart.read(spec::LSR, 1), 0x60);
}

#[test]
fn a_slow_back_end_holds_the_transmitter() {
    let r = rig();
    r.uart.write(spec::IIR_FCR, 1, 1);
    r.host.room.store(1, Ordering::Relaxed);
    b"abc".iter().for_each(|b| r.uart.write(spec::DATA, 1, u64::from(*b)));
    assert_eq!(r.uart.read(spec::LSR, 1) & 0x60, 0);
    r.host.room.store(100, Ordering::Relaxed);
    r.advance(RETRY_NS);
    assert_eq!(&*r.host.out.lock(), b"abc");
    assert_eq!(r.uart.read(spec::LSR, 1) & 0x60, 0x60);
    assert_eq!(r.clock.next_deadline(), None);
}

#[test]
fn receive_trigger_level_and_time_out() {
    let r = rig();
    r.uart.write(spec::IIR_FCR, 1, 0x81); // trigger at 8
    r.uart.write(spec::IER, 1, 1);
    assert_eq!(r.uart.can_receive(), 16);
    r.uart.receive(b"1234567");
    assert!(!r.irq.level());
    r.advance(10_000_000);
    assert_eq!(r.uart.read(spec::IIR_FCR, 1), 0xcc);
    r.uart.receive(b"8");
    assert_eq!(r.uart.read(spec::IIR_FCR, 1), 0xc4);
    let got: Vec<u8> = (0..8).map(|_| r.uart.read(spec::DATA, 1) as u8).collect();
    assert_eq!(got, b"12345678");
    assert!(!r.irq.level());
    assert_eq!(r.host.asked.load(Ordering::Relaxed), 3, "asks for more when empty");
    assert_eq!(r.clock.next_deadline(), None);
}

#[test]
fn overrun_and_break_raise_the_line_status_interrupt() {
    let r = rig();
    r.uart.write(spec::IER, 1, 5);
    r.uart.receive(b"a");
    r.uart.receive(b"b");
    assert_eq!(r.uart.read(spec::IIR_FCR, 1), 0x06);
    assert_eq!(r.uart.read(spec::LSR, 1), 0x63);
    assert_eq!(r.uart.read(spec::DATA, 1), u64::from(b'b'));
    r.uart.receive_break();
    assert_eq!(r.uart.read(spec::LSR, 1), 0x71);
    assert_eq!(r.uart.read(spec::DATA, 1), 0);
}

#[test]
fn loopback_wires_data_and_modem_lines() {
    let r = rig();
    r.uart.read(spec::MSR, 1);
    r.uart.write(spec::MCR, 1, 0x1a);
    assert_eq!(r.uart.read(spec::MSR, 1) & 0xf0, 0x90);
    r.uart.write(spec::DATA, 1, 0x5a);
    assert_eq!(r.uart.read(spec::DATA, 1), 0x5a);
    assert!(r.host.out.lock().is_empty());
    assert_eq!(r.uart.can_receive(), 0);
}

#[test]
fn divisor_scratch_and_interrupt_gate() {
    let r = rig();
    r.uart.write(spec::LCR, 1, 0x83);
    r.uart.write(spec::DATA, 1, 1);
    r.uart.write(spec::IER, 1, 0);
    assert_eq!((r.uart.read(0, 1), r.uart.read(1, 1)), (1, 0));
    r.uart.write(spec::LCR, 1, 3);
    r.uart.write(7, 1, 0xa5);
    assert_eq!(r.uart.read(7, 1), 0xa5);
    r.uart.write(spec::MCR, 1, 3);
    r.uart.write(spec::IER, 1, 2);
    assert!(!r.irq.level(), "OUT2 off");
    r.uart.write(spec::MCR, 1, 0x0b);
    assert!(r.irq.level());
}

#[test]
fn saved_state_comes_back() {
    let r = rig();
    r.uart.write(spec::IIR_FCR, 1, 0x81);
    r.uart.receive(b"xyz");
    let record = r.uart.save();
    let other = rig();
    other.uart.load(&record).unwrap();
    assert_eq!(other.uart.save(), record);
    assert_eq!(other.uart.read(0, 1), u64::from(b'x'));
}

#[test]
fn only_a_pc_gates_the_interrupt_with_out2() {
    let rig = rig();
    let direct = IrqLine::unconnected();
    let uart = Uart16550::ungated(&rig.clock, direct.clone(), rig.host.clone());
    uart.write(spec::IER, 1, 2);
    assert!(direct.level());
    rig.uart.write(spec::MCR, 1, 0);
    rig.uart.write(spec::IER, 1, 2);
    assert!(!rig.irq.level());
}
