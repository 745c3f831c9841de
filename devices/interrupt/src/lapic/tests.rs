use super::*;
use crate::ioapic::IoApic;
use crate::pic::PicPair;
use rhea_device::{ClockSource, MsiSink, StateUnit};
use rhea_memory::MmioHandler;
use std::sync::atomic::AtomicUsize;

#[derive(Default)]
struct Counter(AtomicU64);

impl ClockSource for Counter {
    fn now_ns(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
    fn deadline_changed(&self, _: Option<u64>) {}
}

struct Rig {
    source: Arc<Counter>,
    clock: Arc<VirtualClock>,
    bus: Arc<ApicBus>,
    apics: Vec<Arc<LocalApic>>,
}

impl Rig {
    /// `count` APICs, enabled by software, flat logical IDs 1, 2, 4, …
    fn new(count: u32) -> Self {
        let source = Arc::new(Counter::default());
        let clock = VirtualClock::driven(source.clone());
        let bus = ApicBus::new();
        let apics: Vec<_> = (0..count)
            .map(|id| {
                let config = LocalApicConfig { id, bsp: id == 0, x2apic: true, physical_address_bits: 40 };
                LocalApic::new(config, &bus, &clock)
            })
            .collect();
        bus.connect(apics.clone());
        for apic in &apics {
            apic.write(0xf0, 4, 0x1ff);
            apic.write(0xd0, 4, 1 << (24 + apic.id()));
        }
        Self { source, clock, bus, apics }
    }

    fn advance(&self, ns: u64) {
        self.source.0.fetch_add(ns, Ordering::Relaxed);
        self.clock.run_due();
    }
}

#[test]
fn fixed_ipis_are_prioritized_nested_and_ended() {
    let rig = Rig::new(2);
    let (a, b) = (&rig.apics[0], &rig.apics[1]);
    a.write(0x310, 4, 1 << 24);
    a.write(0x300, 4, 0x4031);
    a.write(0x300, 4, 0x4052);
    assert_eq!((a.pending(), b.pending()), (0, pending::INTERRUPT));
    assert_eq!(b.acknowledge_interrupt(), Some(0x52));
    assert_eq!(b.read(0xa0, 4), 0x50, "PPR");
    assert_eq!(b.pending(), 0, "31h waits behind 52h");
    b.write(0xb0, 4, 0);
    assert_eq!(b.acknowledge_interrupt(), Some(0x31));
    assert_eq!(b.read(0x110, 4), 1 << 0x11, "ISR");
    b.set_tpr(0x40);
    b.eoi();
    a.write(0x300, 4, 0x4031);
    assert_eq!(b.pending(), 0, "held off by TPR");
    b.set_tpr(0x20);
    assert_eq!(b.acknowledge_interrupt(), Some(0x31));
}

#[test]
fn the_wake_is_called_once_for_each_thing_that_appears() {
    let rig = Rig::new(2);
    let wakes = Arc::new(AtomicUsize::new(0));
    let counter = wakes.clone();
    rig.apics[1].set_wake(Arc::new(move || {
        counter.fetch_add(1, Ordering::Relaxed);
    }));
    rig.apics[0].write(0x310, 4, 1 << 24);
    rig.apics[0].write(0x300, 4, 0x4031);
    rig.apics[0].write(0x300, 4, 0x4032);
    assert_eq!(wakes.load(Ordering::Relaxed), 1);
    rig.apics[0].write(0x300, 4, 0x4400);
    assert_eq!(wakes.load(Ordering::Relaxed), 2);
    assert!(rig.apics[1].take_nmi() && !rig.apics[1].take_nmi());
}

#[test]
fn init_sipi_starts_the_others() {
    let rig = Rig::new(3);
    rig.apics[0].write(0x300, 4, 0xc_4500);
    for ap in &rig.apics[1..] {
        assert!(ap.take_init());
        ap.init_reset();
        assert_eq!(ap.read(0xf0, 4), 0xff);
    }
    assert_eq!(rig.apics[0].pending(), 0);
    rig.apics[0].write(0x300, 4, 0xc_469a);
    assert_eq!(rig.apics[2].take_sipi(), Some(0x9a));
    // The start-up IPI may arrive while the processor still takes the INIT.
    rig.apics[0].write(0x300, 4, 0xc_4500);
    assert!(rig.apics[1].take_init());
    rig.apics[0].write(0x300, 4, 0xc_4677);
    rig.apics[1].init_reset();
    assert_eq!(rig.apics[1].take_sipi(), Some(0x77));
    rig.apics[2].take_sipi();
    assert_eq!(rig.apics[2].take_sipi(), None);
}

#[test]
fn logical_destinations_flat_cluster_and_x2apic() {
    let rig = Rig::new(4);
    let send = |destination: u64| rig.apics[0].write(0x310, 4, destination << 24);
    let hit = || -> Vec<u32> {
        rig.apics[0].write(0x300, 4, 0x4841);
        rig.apics
            .iter()
            .filter(|a| a.acknowledge_interrupt().inspect(|_| a.eoi()).is_some())
            .map(|a| a.id())
            .collect()
    };
    send(0b1010);
    assert_eq!(hit(), [1, 3]);
    for apic in &rig.apics {
        apic.write(0xe0, 4, 0x0fff_ffff);
        apic.write(0xd0, 4, u64::from((apic.id() / 2) << 4 | 1 << (apic.id() % 2)) << 24);
    }
    send(0x12);
    assert_eq!(hit(), [3]);
    for apic in &rig.apics {
        apic.set_base(apic.base() | spec::BASE_X2APIC).unwrap();
    }
    rig.apics[0].write_x2apic(0x830, 0b0101 << 32 | 0x4841).unwrap();
    let got: Vec<bool> = rig.apics.iter().map(|a| a.pending() != 0).collect();
    assert_eq!(got, [true, false, true, false]);
}

#[test]
fn lowest_priority_goes_to_one_idle_processor() {
    let rig = Rig::new(2);
    rig.apics[0].set_tpr(0x80);
    rig.bus.send(0xfee0_300c, 0x0161);
    assert_eq!((rig.apics[0].pending(), rig.apics[1].pending()), (0, pending::INTERRUPT));
}

#[test]
fn timer_modes() {
    let rig = Rig::new(1);
    let apic = &rig.apics[0];
    apic.write(0x3e0, 4, 0b1011);
    apic.write(0x320, 4, 0x40);
    apic.write(0x380, 4, 100_000);
    rig.advance(40_000);
    assert_eq!(apic.read(0x390, 4), 60_000);
    assert_eq!(apic.pending(), 0);
    rig.advance(60_000);
    assert_eq!(apic.acknowledge_interrupt(), Some(0x40));
    apic.eoi();
    assert_eq!(rig.clock.next_deadline(), None, "one shot");
    apic.write(0x320, 4, 0x2_0041);
    apic.write(0x380, 4, 100_000);
    for _ in 0..3 {
        rig.advance(100_000);
        assert_eq!(apic.acknowledge_interrupt(), Some(0x41));
        apic.eoi();
    }
    apic.write(0x320, 4, 0x3_0041);
    assert_eq!(rig.clock.next_deadline(), None, "masked: no wake-ups");
    apic.write(0x320, 4, 0x4_0042);
    apic.set_tsc_deadline(5_000, 2_000, 3_000_000_000);
    assert_eq!(apic.tsc_deadline(), 5_000);
    rig.advance(1_001);
    assert_eq!((apic.acknowledge_interrupt(), apic.tsc_deadline()), (Some(0x42), 0));
}

#[test]
fn divide_configuration_values() {
    let rig = Rig::new(1);
    let apic = &rig.apics[0];
    for (divide, divisor) in [(0u64, 2u64), (1, 4), (2, 8), (3, 16), (8, 32), (9, 64), (10, 128), (11, 1)] {
        apic.write(0x3e0, 4, divide);
        apic.write(0x380, 4, 1000);
        rig.source.0.fetch_add(divisor * 100, Ordering::Relaxed);
        assert_eq!(apic.read(0x390, 4), 900);
    }
}

#[test]
fn the_8259_reaches_the_processor_through_lint0() {
    let rig = Rig::new(1);
    let apic = &rig.apics[0];
    let pic = PicPair::new(apic.lint(0));
    let source: Arc<dyn ExtIntSource> = pic.clone();
    apic.set_ext_int_source(Arc::downgrade(&source));
    let master = pic.ports(false);
    for (offset, value) in [(0, 0x11), (1, 0x20), (1, 4), (1, 1), (1, 0)] {
        master.write(offset, 1, value);
    }
    pic.line(0).raise();
    assert_eq!(apic.pending(), pending::INTERRUPT);
    assert_eq!(apic.acknowledge_interrupt(), Some(0x20));
    assert_eq!(apic.pending(), 0);
    apic.write(0x350, 4, 0x1_0700);
    pic.line(1).raise();
    assert_eq!(apic.pending(), 0, "LINT0 masked");
}

#[test]
fn a_level_interrupt_comes_again_until_its_source_is_quiet() {
    let rig = Rig::new(1);
    let apic = &rig.apics[0];
    let ioapic = IoApic::new(rig.bus.clone());
    let window = |register: u64, value: u64| {
        ioapic.write(0, 4, register);
        ioapic.write(0x10, 4, value);
    };
    window(0x10 + 2 * 16, 0x8061);
    let line = ioapic.line(16);
    line.raise();
    assert_eq!(apic.acknowledge_interrupt(), Some(0x61));
    ioapic.write(0, 4, 0x10 + 2 * 16);
    assert_eq!(ioapic.read(0x10, 4), 0xc061, "remote IRR");
    apic.eoi();
    assert_eq!(apic.acknowledge_interrupt(), Some(0x61), "still asserted");
    line.lower();
    apic.eoi();
    assert_eq!(apic.pending(), 0);
    // Edge: a masked one is lost, an unmasked one comes once.
    let edge = ioapic.line(4);
    edge.raise();
    window(0x10 + 2 * 4, 0x0034);
    assert_eq!(apic.pending(), 0);
    edge.lower();
    edge.raise();
    assert_eq!(apic.acknowledge_interrupt(), Some(0x34));
    apic.eoi();
    assert_eq!(apic.pending(), 0);
    assert_eq!(IoApic::new(rig.bus.clone()).load(&ioapic.save()), Ok(()));
}

#[test]
fn apic_base_transitions_and_x2apic_faults() {
    let rig = Rig::new(1);
    let apic = &rig.apics[0];
    let moves = Arc::new(Mutex::new(Vec::new()));
    let log = moves.clone();
    apic.on_base_change(Box::new(move |base| log.lock().push(base)));
    let base = apic.base();
    assert_eq!(base, 0xfee0_0900);
    assert_eq!(apic.set_base(base | 1), Err(RegisterFault));
    assert_eq!(apic.set_base(base | 1 << 45), Err(RegisterFault));
    assert_eq!(apic.read_x2apic(0x802), Err(RegisterFault));
    apic.set_base(0xfec1_0900).unwrap();
    apic.set_base(0xfec1_0d00).unwrap();
    assert_eq!(apic.set_base(0xfec1_0900), Err(RegisterFault), "x2APIC to xAPIC");
    assert_eq!(apic.read_x2apic(0x802), Ok(0));
    assert_eq!(apic.read_x2apic(0x80b), Err(RegisterFault), "EOI is write-only");
    assert_eq!(apic.write_x2apic(0x80b, 1), Err(RegisterFault));
    assert_eq!(apic.write_x2apic(0x80d, 0), Err(RegisterFault), "LDR is read-only");
    assert_eq!(apic.write_x2apic(0x8ff, 0), Err(RegisterFault));
    apic.write_x2apic(0x83f, 0x77).unwrap();
    assert_eq!(apic.acknowledge_interrupt(), Some(0x77));
    apic.set_base(0xfee0_0100).unwrap();
    assert_eq!(apic.set_base(0xfee0_0d00), Err(RegisterFault), "disabled to x2APIC");
    assert_eq!(moves.lock()[..], [Some(0xfec1_0000), None, None]);
}

#[test]
fn errors_are_latched_by_a_write_of_esr() {
    let rig = Rig::new(1);
    let apic = &rig.apics[0];
    apic.write(0x370, 4, 0x50);
    apic.write(0x300, 4, 0x4_4005);
    assert_eq!(apic.read(0x280, 4), 0);
    apic.write(0x280, 4, 0);
    assert_eq!(apic.read(0x280, 4), u64::from(spec::ESR_SEND_ILLEGAL));
    assert_eq!(apic.acknowledge_interrupt(), Some(0x50));
}

#[test]
fn saved_state_comes_back() {
    let rig = Rig::new(2);
    let apic = &rig.apics[0];
    apic.write(0x320, 4, 0x2_0041);
    apic.write(0x380, 4, 1_000_000);
    apic.write(0x300, 4, 0x4_4066);
    apic.nmi();
    let record = apic.save();
    rig.apics[1].load(&record).unwrap();
    assert_eq!(rig.apics[1].save(), record);
    assert_eq!(rig.apics[1].pending(), pending::NMI | pending::INTERRUPT);
    assert!(rig.clock.next_deadline().is_some());
}
