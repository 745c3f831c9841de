use super::*;
use crate::memory_map as map;
use rhea_device::ClockSource;
use rhea_device_tree::Node;
use rhea_riscv_state::CpuModel;
use rhea_riscv_state::platform::Lines;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

#[derive(Default)]
struct Counter(AtomicU64);

impl ClockSource for Counter {
    fn now_ns(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
    fn deadline_changed(&self, _: Option<u64>) {}
}

fn clock() -> Arc<VirtualClock> {
    VirtualClock::driven(Arc::new(Counter::default()))
}

struct TempFile(PathBuf);

impl TempFile {
    fn new(contents: &[u8]) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("rhea-virt-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::File::create(&path).unwrap().write_all(contents).unwrap();
        Self(path)
    }
}

impl Drop for TempFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

const MIB: u64 = 1 << 20;

/// A machine with a flat binary as kernel and no firmware.
fn machine(change: impl FnOnce(&mut VirtConfig)) -> VirtMachine {
    let kernel = TempFile::new(b"kernel!!");
    let mut config = VirtConfig::new(64 * MIB);
    config.firmware = Firmware::None;
    config.kernel = Some(kernel.0.clone());
    change(&mut config);
    build(&config, clock()).unwrap()
}

fn tree(machine: &VirtMachine) -> Node {
    Node::from_blob(&machine.device_tree()).unwrap()
}

fn cells(node: &Node, name: &str) -> Vec<u32> {
    let bytes = node.get(name).unwrap();
    bytes.chunks(4).map(|cell| u32::from_be_bytes(cell.try_into().unwrap())).collect()
}

#[test]
fn what_cannot_be_built_is_said() {
    let error = |change: fn(&mut VirtConfig)| {
        let mut config = VirtConfig::new(64 * MIB);
        config.firmware = Firmware::None;
        change(&mut config);
        build(&config, clock()).err().unwrap()
    };
    assert!(matches!(error(|_| ()), BuildError::NothingToBoot));
    assert!(matches!(error(|c| c.append = Some("x".into())), BuildError::WithoutKernel(_)));
    assert!(matches!(error(|c| c.ram_size = 1000), BuildError::RamSize { .. }));
    assert!(matches!(error(|c| c.topology.cores = 0), BuildError::Topology(_)));
    assert!(matches!(error(|c| c.kernel = Some("/nonexistent".into())), BuildError::Load(_)));
    assert!(matches!(error(|c| c.firmware = Firmware::File("/nonexistent".into())), BuildError::Load(_)));
    let nodes = vec![NumaNode { memory: 32 * MIB, cpus: vec![0] }];
    let mut config = VirtConfig::new(64 * MIB);
    config.numa = Some(NumaConfig { nodes, distances: None });
    assert!(matches!(build(&config, clock()), Err(BuildError::Numa(_))));
    let kernel = TempFile::new(&vec![0; 30 << 20]);
    let initrd = TempFile::new(&vec![0; 40 << 20]);
    let mut config = VirtConfig::new(64 * MIB);
    config.firmware = Firmware::None;
    config.kernel = Some(kernel.0.clone());
    config.initrd = Some(initrd.0.clone());
    assert!(matches!(build(&config, clock()), Err(BuildError::Overlap { .. })));
}

#[test]
fn what_is_booted_lies_where_the_boot_rom_says() {
    let initrd = TempFile::new(b"initrd");
    let m = machine(|c| {
        c.initrd = Some(initrd.0.clone());
        c.append = Some("console=ttyS0".into());
    });
    let (entry, tree_at) = (m.memory.read(RESET_VECTOR + 0x18, 8), m.memory.read(RESET_VECTOR + 0x20, 8));
    assert_eq!(m.memory.read(entry, 8), u64::from_le_bytes(*b"kernel!!"));
    assert_eq!(m.memory.read(tree_at, 4), u64::from(0xd00d_feedu32.swap_bytes()));
    let tree = tree(&m);
    let chosen = tree.find("/chosen").unwrap();
    assert_eq!(chosen.get("bootargs"), Some(&b"console=ttyS0\0"[..]));
    let wide = |name: &str| u64::from_be_bytes(chosen.get(name).unwrap().try_into().unwrap());
    let (start, end) = (wide("linux,initrd-start"), wide("linux,initrd-end"));
    assert_eq!((end - start, m.memory.read(start, 4)), (6, u64::from(u32::from_le_bytes(*b"init"))));
    m.memory.write(RESET_VECTOR, 4, 0);
    assert_eq!(m.memory.read(RESET_VECTOR, 4), 0x297, "it is ROM");
}

#[test]
fn reset_writes_again_what_is_booted_with_new_random_bytes() {
    let m = machine(|_| ());
    let seed = |m: &VirtMachine| tree(m).find("/chosen").unwrap().get("rng-seed").unwrap().to_vec();
    let first = seed(&m);
    let tree_at = m.memory.read(RESET_VECTOR + 0x20, 8);
    m.memory.write(DRAM, 8, 0);
    m.memory.write(tree_at, 8, 0);
    m.memory.write(map::CLINT, 4, 1);
    assert_eq!(m.harts[0].lines.levels(), Lines::MSIP);
    m.reset().unwrap();
    assert_eq!(m.memory.read(DRAM, 8), u64::from_le_bytes(*b"kernel!!"));
    assert_eq!(m.memory.read(tree_at, 4), u64::from(0xd00d_feedu32.swap_bytes()));
    assert_eq!(m.harts[0].lines.levels(), Lines::empty());
    assert_ne!(seed(&m), first);
    let fixed = machine(|c| c.rng_seed = Some([7; 32]));
    fixed.reset().unwrap();
    assert_eq!(seed(&fixed), [7; 32]);
}

#[test]
fn each_hart_has_its_interrupts() {
    let m = machine(|c| {
        c.topology = HartTopology::flat(3);
        c.aclint = true;
    });
    m.memory.write(map::CLINT + 8, 4, 1);
    m.memory.write(map::MTIMER + 8, 8, 0);
    assert_eq!(m.harts[2].lines.levels(), Lines::MSIP);
    assert_eq!(m.harts[1].lines.levels(), Lines::MTIP);
    m.memory.write(map::SSWI, 4, 1);
    assert_eq!((m.harts[0].lines.edges(), m.harts[1].lines.edges()), (2, 0));
    // The serial port's transmitter interrupt, for the supervisor mode of hart 1: context 3.
    m.memory.write(map::PLIC + 4 * 10, 4, 1);
    m.memory.write(map::PLIC + 0x2000 + 0x80 * 3, 4, 1 << 10);
    m.memory.write(map::UART + 1, 1, 2);
    assert_eq!(m.harts[1].lines.levels(), Lines::MTIP | Lines::SEIP);
    assert_eq!(m.memory.read(map::PLIC + 0x20_3004, 4), 10);
    assert_eq!(m.harts[1].lines.levels(), Lines::MTIP);
}

#[test]
fn power_off_reset_and_exit_statuses_are_requested() {
    let m = machine(|_| ());
    let ask = |value| {
        m.memory.write(map::TEST, 4, value);
        m.power.take()
    };
    assert_eq!(ask(0x5555), Some(PowerRequest::Shutdown));
    assert_eq!(ask(0x7777), Some(PowerRequest::Reset));
    assert_eq!(ask(0x3_3333), Some(PowerRequest::DebugExit(3)));
    assert!(!m.power_button());
}

#[test]
fn the_tree_tells_harts_and_nodes() {
    let m = machine(|c| {
        c.topology = HartTopology { harts: 4, sockets: 2, clusters: 1, cores: 1, threads: 2 };
        let node = |cpus: [u32; 2]| NumaNode { memory: 32 * MIB, cpus: cpus.to_vec() };
        c.numa = Some(NumaConfig {
            nodes: vec![node([0, 1]), node([2, 3])],
            distances: Some(vec![10, 30, 20, 10]),
        });
        c.cpu = CpuModel::parse("rv64,zicboz=off,cbom_blocksize=128").unwrap();
    });
    let tree = tree(&m);
    let cpu = tree.find("/cpus/cpu@2").unwrap();
    assert_eq!(cells(cpu, "numa-node-id"), [1]);
    assert_eq!(cells(cpu, "riscv,cbom-block-size"), [128]);
    assert_eq!(cpu.get("riscv,cboz-block-size"), None);
    assert!(cpu.get("riscv,isa").unwrap().starts_with(b"rv64ima"));
    let leaf = tree.find("/cpus/cpu-map/socket1/cluster0/core0/thread0").unwrap();
    assert_eq!(cells(leaf, "cpu"), cells(cpu, "phandle"));
    assert_eq!(cells(tree.find("/memory@82000000").unwrap(), "reg"), [0, 0x8200_0000, 0, 32 << 20]);
    let distances = cells(tree.find("/distance-map").unwrap(), "distance-matrix");
    assert_eq!(distances, [0, 0, 10, 0, 1, 30, 1, 0, 20, 1, 1, 10]);
}

#[test]
fn a_given_tree_takes_the_place_of_the_board_s() {
    let mut root = Node::new("");
    root.text("model", "mine").child("chosen").text("bootargs", "old");
    let file = TempFile::new(&root.to_blob().unwrap());
    let m = machine(|c| {
        c.dtb = Some(file.0.clone());
        c.append = Some("new".into());
    });
    let tree = tree(&m);
    assert_eq!(tree.get("model"), Some(&b"mine\0"[..]));
    assert_eq!(tree.find("/chosen").unwrap().get("bootargs"), Some(&b"new\0"[..]));
    assert!(tree.find("/soc").is_none());
    let bad = TempFile::new(b"no tree");
    let mut config = VirtConfig::new(64 * MIB);
    config.dtb = Some(bad.0.clone());
    config.firmware = Firmware::File(bad.0.clone());
    assert!(matches!(build(&config, clock()), Err(BuildError::BadDeviceTree { .. })));
}

#[test]
fn saved_state_of_every_device_comes_back() {
    let (a, b) = (machine(|_| ()), machine(|_| ()));
    a.memory.write(map::UART + 7, 1, 0x5a);
    a.memory.write(map::PLIC + 4, 4, 3);
    a.memory.write(map::CLINT, 4, 1);
    a.memory.write(map::MTIMER, 8, 77);
    for (from, to) in a.saved_units().iter().zip(b.saved_units()) {
        assert_eq!(from.path, to.path);
        to.unit.load(&from.unit.save()).unwrap();
    }
    let read = |address, size| b.memory.read(address, size);
    assert_eq!((read(map::UART + 7, 1), read(map::PLIC + 4, 4)), (0x5a, 3));
    assert_eq!((read(map::CLINT, 4), read(map::MTIMER, 8)), (1, 77));
    assert_eq!(b.harts[0].lines.levels(), Lines::MSIP);
}

#[test]
fn empty_virtio_slots_say_so() {
    let m = machine(|_| ());
    assert_eq!(m.virtio_slots.len(), 8);
    for slot in &m.virtio_slots {
        let read = |offset| m.memory.read(slot.address + offset, 4);
        assert_eq!([read(0), read(4), read(8)], [0x7472_6976, 2, 0]);
    }
}

#[test]
fn firmware_in_flash_starts_the_kernel_itself() {
    let mut contents = vec![0; 32 << 20];
    contents[..8].copy_from_slice(b"firmware");
    let m = machine(|c| {
        c.flash[0] = Some(FlashConfig { contents, store: None, read_only: false });
        c.append = Some("quiet".into());
        c.fw_cfg = vec![("opt/x".into(), FwCfgItem::Bytes(vec![1]))];
    });
    let entry = m.memory.read(RESET_VECTOR + 0x18, 8);
    assert_eq!((entry, m.memory.read(entry, 8)), (0x2000_0000, u64::from_le_bytes(*b"firmware")));
    assert_eq!(tree(&m).find("/chosen").unwrap().get("bootargs"), None);
    let item = |key: u16, size: usize| {
        m.memory.write(map::FW_CFG + 8, 2, u64::from(key.swap_bytes()));
        m.memory.read(map::FW_CFG, size)
    };
    assert_eq!((item(0x08, 4), item(0x11, 8)), (8, u64::from_le_bytes(*b"kernel!!")));
    assert_eq!((item(0x14, 4), item(0x15, 4)), (6, u64::from(u32::from_le_bytes(*b"quie"))));
    assert_eq!(item(0x19, 4), 4 << 24, "the file and those of the ACPI tables");
    let short = FlashConfig { contents: vec![0; 100], store: None, read_only: true };
    let mut config = VirtConfig::new(64 * MIB);
    config.firmware = Firmware::None;
    config.flash[0] = Some(short);
    assert!(matches!(build(&config, clock()), Err(BuildError::FlashSize { size: 100 })));
}

#[test]
fn the_acpi_tables_are_there_for_each_interrupt_controller() {
    for aia in [Aia::None, Aia::Aplic, Aia::AplicImsic] {
        let m = machine(|c| c.aia = aia);
        // Sorted by name: the RSDP is the first file.
        m.memory.write(map::FW_CFG + 8, 2, u64::from(0x20u16.swap_bytes()));
        assert_eq!(m.memory.read(map::FW_CFG, 8), u64::from_le_bytes(*b"RSD PTR "), "{aia:?}");
    }
    let m = machine(|c| c.acpi = false);
    m.memory.write(map::FW_CFG + 8, 2, u64::from(0x19u16.swap_bytes()));
    assert_eq!(m.memory.read(map::FW_CFG, 4), 0);
}

/// Where a flash bank's changes go.
#[derive(Default)]
struct Kept(parking_lot::Mutex<Vec<(u64, Vec<u8>)>>);

impl FlashStore for Kept {
    fn write(&self, offset: u64, bytes: &[u8]) -> std::io::Result<()> {
        self.0.lock().push((offset, bytes.to_vec()));
        Ok(())
    }
}

#[test]
fn a_flash_store_gets_what_is_programmed() {
    let kept = Arc::new(Kept::default());
    let contents = vec![0xff; 32 << 20];
    let bank = FlashConfig { contents, store: Some(kept.clone()), read_only: false };
    let m = machine(|c| c.flash[1] = Some(bank));
    m.memory.write(map::FLASH + map::FLASH_SIZE + 8, 4, 0x40_0040);
    m.memory.write(map::FLASH + map::FLASH_SIZE + 8, 4, 0x1234_5678);
    assert_eq!(*kept.0.lock(), [(8, 0x1234_5678u32.to_le_bytes().to_vec())]);
}

#[test]
fn the_pci_host_is_there() {
    let m = machine(|_| ());
    assert_eq!(m.memory.read(map::PCI_ECAM, 4), 0x0008_1b36);
    assert_eq!(m.memory.read(map::PCI_ECAM + 0x8000, 4), 0xffff_ffff);
    assert_eq!(m.pci.functions().len(), 1);
}

#[test]
fn random_accesses_never_panic() {
    let source = Arc::new(Counter::default());
    let kernel = TempFile::new(b"kernel!!");
    let mut config = VirtConfig::new(64 * MIB);
    config.firmware = Firmware::None;
    config.kernel = Some(kernel.0.clone());
    config.aclint = true;
    config.topology = HartTopology::flat(2);
    let clock = VirtualClock::driven(source.clone());
    let m = build(&config, clock.clone()).unwrap();
    let windows = [
        map::TEST,
        map::RTC,
        map::CLINT,
        map::MTIMER,
        map::MTIMER + 0x7000,
        map::SSWI,
        map::PLIC,
        map::PLIC + 0x1000,
        map::PLIC + 0x2000,
        map::PLIC + 0x20_0000,
        map::UART,
        map::VIRTIO,
        map::FW_CFG,
        map::FLASH,
        map::PCI_ECAM,
        map::PCI_IO,
        map::PCI_MEMORY,
    ];
    let mut seed = 0x1234_5678_9abc_def0u64;
    for round in 0..60_000u64 {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let size = 1 << (seed >> 62);
        let address = windows[(seed >> 33) as usize % windows.len()] + (seed >> 40 & 0xfff);
        if seed >> 61 & 1 != 0 {
            m.memory.write(address, size, seed.rotate_left(17));
        } else {
            m.memory.read(address, size);
        }
        if round % 16 == 0 {
            source.0.fetch_add(seed >> 44, Ordering::Relaxed);
            clock.run_due();
        }
    }
    m.reset().unwrap();
    assert!(m.harts.iter().all(|hart| hart.lines.levels().is_empty()));
}
