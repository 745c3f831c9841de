use super::*;
use proptest::prelude::*;

#[derive(Default)]
struct Messages(Mutex<Vec<(u64, u32)>>);

impl MsiSink for Messages {
    fn send(&self, address: u64, data: u32) {
        self.0.lock().push((address, data));
    }
}

struct Rig {
    aplic: Arc<Aplic>,
    lines: [Vec<IrqLine>; 2],
    messages: Arc<Messages>,
}

fn rig() -> Rig {
    let lines: [Vec<IrqLine>; 2] =
        std::array::from_fn(|_| vec![IrqLine::unconnected(), IrqLine::unconnected()]);
    let messages = Arc::new(Messages::default());
    let aplic = Aplic::new(40, lines[0].clone(), lines[1].clone(), messages.clone());
    Rig { aplic, lines, messages }
}

impl Rig {
    fn read(&self, domain: usize, offset: u64) -> u32 {
        self.aplic.read(domain, offset)
    }
    fn write(&self, domain: usize, offset: u64, value: u32) {
        self.aplic.write(domain, offset, value);
    }
    fn source(&self, domain: usize, source: u64, mode: u32, target: u32) {
        self.write(domain, 4 * source, mode);
        self.write(domain, 0x3000 + 4 * source, target);
        self.write(domain, spec::SETIENUM, source as u32);
    }
    fn claim(&self, domain: usize, hart: u64) -> u32 {
        self.read(domain, spec::IDC + hart * spec::IDC_STRIDE + spec::CLAIMI)
    }
}

#[test]
fn direct_delivery_of_levels_and_edges() {
    let rig = rig();
    rig.write(0, spec::DOMAINCFG, spec::DOMAIN_IE);
    rig.source(0, 5, spec::MODE_LEVEL_HIGH, 1 << 18 | 3);
    rig.source(0, 6, spec::MODE_EDGE_RISING, 1 << 18 | 2);
    rig.write(0, spec::IDC + spec::IDC_STRIDE, 1);
    let (level, edge) = (rig.aplic.input(5), rig.aplic.input(6));
    level.raise();
    edge.pulse();
    assert!(rig.lines[0][1].level() && !rig.lines[0][0].level());
    assert_eq!(rig.claim(0, 1), 6 << 16 | 2, "the lower number is the higher priority");
    assert_eq!([rig.claim(0, 1), rig.claim(0, 1)], [5 << 16 | 3; 2], "a level stays");
    level.lower();
    assert_eq!(rig.claim(0, 1), 0);
    assert!(!rig.lines[0][1].level());
    level.raise();
    rig.write(0, spec::IDC + spec::IDC_STRIDE + spec::ITHRESHOLD, 3);
    assert!(!rig.lines[0][1].level(), "priorities at or above the threshold are hidden");
}

#[test]
fn a_delegated_source_is_the_child_s() {
    let rig = rig();
    rig.write(1, 4 * 7, spec::MODE_LEVEL_HIGH);
    assert_eq!(rig.read(1, 4 * 7), 0, "not delegated");
    rig.write(0, 4 * 7, spec::SOURCE_D | 3);
    assert_eq!(rig.read(0, 4 * 7), spec::SOURCE_D);
    rig.write(1, spec::DOMAINCFG, spec::DOMAIN_IE);
    rig.source(1, 7, spec::MODE_LEVEL_LOW, 1);
    rig.write(1, spec::IDC, 1);
    assert!(rig.lines[1][0].level(), "low is active");
    rig.aplic.input(7).raise();
    assert!(!rig.lines[1][0].level());
    rig.write(0, 4 * 7, 0);
    assert_eq!(rig.read(1, 4 * 7), 0);
}

#[test]
fn messages_go_where_the_addresses_say() {
    let rig = rig();
    rig.write(0, spec::MSIADDRCFG, 0x2_4000);
    rig.write(0, spec::MSIADDRCFG + 4, 3 << 12);
    rig.write(0, spec::MSIADDRCFG + 8, 0x2_8000);
    rig.write(0, spec::MSIADDRCFG + 12, 1 << 20);
    rig.write(0, 4 * 9, spec::SOURCE_D);
    rig.write(1, spec::DOMAINCFG, spec::DOMAIN_IE | spec::DOMAIN_DM);
    rig.source(1, 9, spec::MODE_LEVEL_HIGH, 2 << 18 | 1 << 12 | 77);
    let line = rig.aplic.input(9);
    line.raise();
    line.raise();
    // Hart 2, two pages a hart, the guest's file.
    assert_eq!(rig.messages.0.lock()[..], [(0x2800_5000, 77)]);
    assert_eq!(rig.read(1, spec::SETIP), 0, "forwarded");
    rig.write(1, spec::SETIPNUM_LE, 9);
    assert_eq!(rig.messages.0.lock().len(), 2, "the input is still high");
    line.lower();
    rig.write(1, spec::SETIPNUM_LE, 9);
    assert_eq!(rig.messages.0.lock().len(), 2);
    rig.write(0, spec::DOMAINCFG, spec::DOMAIN_IE | spec::DOMAIN_DM);
    rig.write(0, spec::GENMSI, 1 << 18 | 5);
    assert_eq!(rig.messages.0.lock()[2], (0x2400_1000, 5));
}

#[test]
fn reset_and_saved_state() {
    let rig = rig();
    rig.write(0, spec::DOMAINCFG, spec::DOMAIN_IE);
    rig.source(0, 5, spec::MODE_LEVEL_HIGH, 3);
    rig.write(0, spec::IDC, 1);
    rig.aplic.input(5).raise();
    let record = rig.aplic.save();
    rig.aplic.reset(ResetKind::Warm);
    assert!(!rig.lines[0][0].level());
    rig.aplic.load(&record).unwrap();
    assert!(rig.lines[0][0].level());
    assert_eq!(rig.aplic.save(), record);
    let other = Aplic::new(41, Vec::new(), Vec::new(), rig.messages.clone());
    assert!(other.load(&record).is_err());
}

proptest! {
    #[test]
    fn hostile_accesses_do_no_harm(steps in prop::collection::vec(
        (0usize..2, prop_oneof![0u64..0x200, 0x1bc0u64..0x2010, 0x3000u64..0x4080, 0u64..0x8000], any::<u32>(), 0u32..50, any::<bool>()), 1..60))
    {
        let rig = rig();
        for (domain, offset, value, pin, level) in steps {
            let offset = offset & !3;
            rig.write(domain, offset, value);
            rig.write(domain, spec::SETIPNUM, value % 50);
            rig.aplic.set_level(pin, level);
            rig.read(domain, offset);
            let record = rig.aplic.save();
            rig.aplic.load(&record).unwrap();
            prop_assert_eq!(rig.read(domain, spec::SETIP) & 1, 0, "there is no source 0");
        }
    }
}
