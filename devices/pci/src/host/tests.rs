use super::*;
use crate::bus::PciAddress;
use crate::config::{Bar, BarKind};
use crate::lpc::LpcBridge;
use crate::msi::MsixTable;
use crate::msi::tests::Messages;
use crate::pirq::PirqRouter;
use rhea_device::IrqLine;
use rhea_memory::{AddressSpace, Topology};

struct Registers;

impl MmioHandler for Registers {
    fn read(&self, offset: u64, _: usize) -> u64 {
        0x1000 + offset
    }
    fn write(&self, _: u64, _: usize, _: u64) {}
}

/// A function with an I/O BAR, a memory BAR, a 64-bit BAR, MSI and MSI-X.
struct Sample(FunctionConfig);

impl PciFunction for Sample {
    fn config_read(&self, offset: usize, size: usize) -> u32 {
        self.0.read(offset, size)
    }
    fn config_write(&self, offset: usize, size: usize, value: u32) {
        self.0.write(offset, size, value);
    }
    fn interrupt_pin(&self) -> u8 {
        self.0.interrupt_pin()
    }
    fn attach(&self, attachment: Attachment) {
        self.0.attach(attachment);
    }
}

struct Board {
    memory: Arc<AddressSpace>,
    io: Arc<AddressSpace>,
    gsi: [IrqLine; 8],
    isa: Vec<IrqLine>,
    messages: Arc<Messages>,
    sample: Arc<Sample>,
}

fn board() -> Board {
    let topology = Topology::new();
    let system = Region::container(&topology, "system", 1 << 52);
    let ports = Region::container(&topology, "io", 1 << 16);
    let gsi: [IrqLine; 8] = std::array::from_fn(|_| IrqLine::unconnected());
    let isa: Vec<IrqLine> = (0..16).map(|_| IrqLine::unconnected()).collect();
    let pirq = PirqRouter::new(gsi.clone(), isa.clone());
    let messages = Arc::new(Messages::default());
    let bus = PciBus::new(system.clone(), ports.clone(), pirq.clone(), messages.clone());
    let host = Q35Host::new(bus.clone());
    ports.add(0xcf8, &Region::mmio(&topology, "config", 8, host.ports()));
    let ecam = Region::mmio(&topology, "ecam", 256 << 20, host.ecam());
    let bridge = HostBridge::new(system.clone(), ecam, Some(0xb000_0000));
    bus.plug(PciAddress { device: 0, function: 0 }, bridge).unwrap();
    let pm = Region::mmio(&topology, "pm", 128, Arc::new(Registers));
    let lpc = LpcBridge::new(pirq, ports.clone(), pm, Some(0x600));
    bus.plug(PciAddress { device: 31, function: 0 }, lpc).unwrap();
    let identity = FunctionIdentity {
        vendor: 0x1af4,
        device: 0x1041,
        revision: 1,
        class: [2, 0, 0],
        subsystem: (0x1af4, 1),
        interrupt_pin: 1,
    };
    let table = MsixTable::new(2, messages.clone());
    let mmio = |name: &str, size| Region::mmio(&topology, name, size, Arc::new(Registers));
    let config = FunctionConfig::new(identity)
        .with_bar(0, Bar { kind: BarKind::Io, region: mmio("io", 32) })
        .with_bar(
            1,
            Bar { kind: BarKind::Memory32, region: Region::mmio(&topology, "msix", 4096, table.clone()) },
        )
        .with_bar(4, Bar { kind: BarKind::Memory64 { prefetchable: true }, region: mmio("wide", 0x4000) })
        .with_msi(2)
        .with_msix(table, 1, 0);
    let sample = Arc::new(Sample(config));
    assert_eq!(bus.plug_anywhere(sample.clone()), Ok(PciAddress { device: 1, function: 0 }));
    Board {
        memory: AddressSpace::new("memory", system),
        io: AddressSpace::new("io", ports),
        gsi,
        isa,
        messages,
        sample,
    }
}

const ECAM: u64 = 0xb000_0000 + (1 << 15);

impl Board {
    fn config(&self, register: u64, size: usize) -> u64 {
        self.memory.read(ECAM + register, size)
    }
    fn set_config(&self, register: u64, size: usize, value: u64) {
        self.memory.write(ECAM + register, size, value);
    }
}

#[test]
fn both_configuration_mechanisms_find_the_functions() {
    let b = board();
    let ids = |device: u64| {
        b.io.write(0xcf8, 4, 0x8000_0000 | device << 11);
        b.io.read(0xcfc, 4)
    };
    assert_eq!((ids(0), ids(1), ids(31), ids(2)), (0x29c0_8086, 0x1041_1af4, 0x2918_8086, 0xffff_ffff));
    b.io.write(0xcf8, 4, 0x8000_0808);
    assert_eq!(b.io.read(0xcff, 1), 2, "class");
    assert_eq!(b.config(0, 4), 0x1041_1af4);
    assert_eq!(b.memory.read(0xb010_0000, 4), 0xffff_ffff, "bus 1");
    b.io.write(0xcf8, 1, 0);
    assert_eq!(b.io.read(0xcf8, 4), 0x8000_0808, "byte accesses are not for CONFIG_ADDRESS");
}

#[test]
fn bars_are_sized_mapped_moved_and_hidden() {
    let b = board();
    b.set_config(0x10, 4, 0xffff_ffff);
    b.set_config(0x14, 4, 0xffff_ffff);
    b.set_config(0x20, 4, 0xffff_ffff);
    b.set_config(0x24, 4, 0xffff_ffff);
    assert_eq!((b.config(0x10, 4), b.config(0x14, 4)), (0xffff_ffe1, 0xffff_f000));
    assert_eq!((b.config(0x20, 4), b.config(0x24, 4)), (0xffff_c00c, 0xffff_ffff));
    b.set_config(0x10, 4, 0xc000);
    b.set_config(0x20, 4, 0);
    b.set_config(0x24, 4, 0x8);
    assert_eq!(b.io.read(0xc004, 4), 0xffff_ffff);
    b.set_config(4, 2, 3);
    assert_eq!(b.io.read(0xc004, 4), 0x1004);
    assert_eq!(b.memory.read(0x8_0000_0010, 4), 0x1010);
    b.set_config(0x24, 4, 0x9);
    assert_eq!(b.memory.read(0x8_0000_0010, 4), 0xffff_ffff);
    assert_eq!(b.memory.read(0x9_0000_0010, 4), 0x1010);
    b.sample.0.reset();
    assert_eq!(b.io.read(0xc004, 4), 0xffff_ffff);
    assert_eq!(b.config(4, 2), 0);
}

#[test]
fn intx_goes_to_the_routed_inputs() {
    let b = board();
    b.sample.0.set_intx(true);
    assert_eq!(b.config(6, 2) & 8, 8);
    assert!(b.gsi[5].level(), "device 1 INTA is PIRQ F");
    assert!(!b.isa[11].level());
    b.memory.write(0xb000_0000 + (31 << 15) + 0x69, 1, 11);
    assert!(b.isa[11].level());
    b.set_config(4, 2, 0x400);
    assert!(!b.gsi[5].level() && !b.isa[11].level());
}

#[test]
fn msi_and_msix_replace_intx() {
    let b = board();
    b.sample.0.set_intx(true);
    let cap = b.config(0x34, 1);
    assert_eq!(b.config(cap, 1), 5);
    b.set_config(cap + 4, 4, 0xfee0_0000);
    b.set_config(cap + 12, 2, 0x40);
    b.set_config(cap + 2, 2, 1 | 2 << 4);
    assert!(!b.gsi[5].level());
    assert!(b.sample.0.notify(3));
    b.set_config(cap + 16, 4, 2);
    assert!(b.sample.0.notify(1));
    assert_eq!(b.messages.0.lock()[..], [(0xfee0_0000, 0x43)]);
    b.set_config(cap + 16, 4, 0);
    assert_eq!(b.messages.0.lock()[1..], [(0xfee0_0000, 0x41)]);
    let next = b.config(cap + 1, 1);
    assert_eq!((b.config(next, 1), b.config(next + 2, 2)), (0x11, 1));
    b.set_config(next + 2, 2, 0x8000);
    b.set_config(0x14, 4, 0xc000_0000);
    b.set_config(4, 2, 2);
    b.memory.write(0xc000_0010, 4, 0xfee0_1000);
    b.memory.write(0xc000_0018, 4, 0x55);
    b.memory.write(0xc000_001c, 4, 0);
    assert!(b.sample.0.notify(1));
    assert_eq!(b.messages.0.lock()[2..], [(0xfee0_1000, 0x55)]);
}

#[test]
fn pciexbar_and_pmbase_move_what_they_place() {
    let b = board();
    assert_eq!(b.io.read(0x604, 4), 0x1004);
    b.io.write(0xcf8, 4, 0x8000_f840);
    b.io.write(0xcfc, 4, 0xb001);
    assert_eq!((b.io.read(0x604, 4), b.io.read(0xb004, 4)), (0xffff_ffff, 0x1004));
    b.io.write(0xcf8, 4, 0x8000_0060);
    b.io.write(0xcfc, 4, 0xe000_0001);
    assert_eq!(b.memory.read(0xe000_0000, 4), 0x29c0_8086);
    assert_eq!(b.memory.read(0xb000_0000, 4), 0xffff_ffff);
}

#[test]
fn any_configuration_writes_leave_it_standing() {
    let b = board();
    let mut seed = 3u64;
    for _ in 0..5_000 {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let size = [1, 2, 4][(seed >> 60) as usize % 3];
        let register = (seed >> 40) & 0xfff & !(size as u64 - 1);
        b.io.write(0xcf8, 4, 0x8000_0800 | register & 0xfc);
        b.io.write(0xcfc + (register & 3), size, seed >> 8);
        b.sample.0.notify((seed >> 50) as u16);
    }
    let bytes = b.sample.0.saved_bytes();
    b.sample.0.restore_bytes("sample", &bytes).unwrap();
    assert!(b.sample.0.restore_bytes("sample", &bytes[1..]).is_err());
}
