use super::*;
use rhea_chardev::NullChardev;
use rhea_device::ClockSource;
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
        let name = format!("rhea-pc-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
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
const GIB: u64 = 1 << 30;

/// A ROM of 64 KiB whose bytes tell their offset.
fn rom() -> TempFile {
    TempFile::new(&(0..65536u32).map(|i| (i ^ i >> 8) as u8).collect::<Vec<u8>>())
}

fn rom_machine(kind: PcKind, ram: u64, change: impl FnOnce(&mut PcConfig)) -> PcMachine {
    let rom = rom();
    let mut config = PcConfig::new(kind, ram);
    config.bios = Some(rom.0.clone());
    config.serials = vec![Arc::new(NullChardev)];
    change(&mut config);
    build(&config, clock()).unwrap()
}

/// A kernel file that holds nothing but a valid header.
fn kernel() -> TempFile {
    let mut image = vec![0u8; 2048];
    for (at, bytes) in [
        (0x1f1, &[1u8][..]),
        (0x1fe, &[0x55, 0xaa, 0xeb, 0x6a]),
        (0x202, b"HdrS\x0f\x02"),
        (0x211, &[1]),
        (0x236, &[1]),
        (0x239, &[8]),
    ] {
        image[at..at + bytes.len()].copy_from_slice(bytes);
    }
    image[1024..].fill(0xcc);
    TempFile::new(&image)
}

fn kernel_machine(kind: PcKind, cpus: u32) -> PcMachine {
    let kernel = kernel();
    let mut config = PcConfig::new(kind, 64 * MIB);
    config.kernel = Some(kernel.0.clone());
    config.serials = vec![Arc::new(NullChardev)];
    config.topology = CpuTopology::flat(cpus);
    build(&config, clock()).unwrap()
}

#[test]
fn what_cannot_be_built_is_said() {
    let config = PcConfig::new(PcKind::Q35, 64 * MIB);
    let error = |config: &PcConfig| build(config, clock()).err().unwrap();
    assert!(matches!(error(&config), BuildError::NothingToBoot));
    let with = |change: fn(&mut PcConfig)| {
        let mut config = config.clone();
        change(&mut config);
        error(&config)
    };
    assert!(matches!(with(|c| c.append = Some("x".into())), BuildError::WithoutKernel(_)));
    assert!(matches!(with(|c| c.ram_size = 1000), BuildError::RamSize { .. }));
    assert!(matches!(with(|c| c.topology.cores = 3), BuildError::Topology(_)));
    assert!(matches!(with(|c| c.kernel = Some("/nonexistent".into())), BuildError::Load(_)));
    assert!(matches!(with(|c| c.bios = Some("/nonexistent".into())), BuildError::BiosFile { .. }));
    let odd = TempFile::new(&[0; 1000]);
    let config = PcConfig { bios: Some(odd.0.clone()), ..config };
    assert!(matches!(error(&config), BuildError::BiosSize { size: 1000, .. }));
}

#[test]
fn memory_is_split_around_the_hole() {
    let m = rom_machine(PcKind::Q35, 8 * GIB, |_| {});
    for (address, value) in
        [(0x1000, 1), (0xafff_f000, 2), (4 * GIB, 3), (4 * GIB + 5 * GIB + GIB / 4 - 8, 4)]
    {
        m.memory.write(address, 8, value);
        assert_eq!(m.memory.read(address, 8), value, "{address:#x}");
    }
    assert_eq!(m.memory.read(4 * GIB + 5 * GIB + GIB / 4, 8), u64::MAX);
    assert_eq!(m.ram.read(0xb000_0000, 8), 3);
    assert_eq!(m.memory.read(0xa_0000, 4), 0xffff_ffff, "video hole");
    m.memory.write(0xc_0000, 4, 5);
    assert_eq!(m.memory.read(0xc_0000, 4), 5);
}

#[test]
fn a_rom_ends_at_4_gib_and_is_seen_below_1_mib() {
    let m = rom_machine(PcKind::Q35, 64 * MIB, |_| {});
    let expected = m.memory.read(0xffff_fff0, 8);
    assert_ne!(expected, u64::MAX);
    assert_eq!(m.memory.read(0xf_fff0, 8), expected);
    m.memory.write(0xffff_fff0, 8, 0);
    assert_eq!(m.memory.read(0xffff_fff0, 8), expected);
}

#[test]
fn a_kernel_is_booted_from_the_reset_vector_and_written_again_at_reset() {
    for kind in [PcKind::Q35, PcKind::Microvm] {
        let m = kernel_machine(kind, 2);
        assert_eq!(m.memory.read(0xffff_fff0, 1), 0xe9, "jmp");
        assert_eq!(m.memory.read(0xe_0000, 8), u64::from_le_bytes(*b"RSD PTR "));
        assert_eq!(m.memory.read(0x10_0000, 4), 0xcccc_cccc);
        m.memory.write(0x10_0000, 4, 0);
        m.memory.write(0x1_01e8, 1, 0);
        m.cpus[0].apic.nmi();
        m.reset().unwrap();
        assert_eq!(m.memory.read(0x10_0000, 4), 0xcccc_cccc);
        assert!(m.memory.read(0x1_01e8, 1) >= 5, "memory map entries");
        assert_eq!(m.cpus[0].apic.pending(), 0);
    }
}

#[test]
fn each_processor_sees_its_own_apic_page_and_can_move_it() {
    let m = kernel_machine(PcKind::Q35, 2);
    let id = |cpu: usize, base: u64| m.cpus[cpu].memory.read(base + 0x20, 4);
    assert_eq!((id(0, 0xfee0_0000), id(1, 0xfee0_0000)), (0, 1 << 24));
    let before = m.cpus[0].memory.generation();
    m.cpus[1].apic.set_base(0xfed1_0800).unwrap();
    assert_eq!(id(1, 0xfed1_0000), 1 << 24);
    assert_eq!(id(1, 0xfee0_0000), 0xffff_ffff);
    assert_eq!((id(0, 0xfee0_0000), m.cpus[0].memory.generation()), (0, before));
    m.reset().unwrap();
    assert_eq!(id(1, 0xfee0_0000), 1 << 24);
}

#[test]
fn serial_interrupts_reach_both_controllers() {
    let m = kernel_machine(PcKind::Q35, 1);
    // Unmask IRQ 4 at the 8259 only.
    for (port, value) in [(0x20, 0x11), (0x21, 0x30), (0x21, 4), (0x21, 1), (0x21, 0xef)] {
        m.io.write(port, 1, value);
    }
    m.io.write(0x3fc, 1, 0x0b);
    m.io.write(0x3f9, 1, 2);
    assert_eq!(m.cpus[0].apic.acknowledge_interrupt(), Some(0x34));
    m.io.write(0x20, 1, 0x20);
    m.io.read(0x3fa, 1);
    // The same at the I/O APIC.
    m.io.write(0x21, 1, 0xff);
    m.cpus[0].memory.write(0xfee0_00f0, 4, 0x1ff);
    m.memory.write(0xfec0_0000, 4, 0x18);
    m.memory.write(0xfec0_0010, 4, 0x41);
    m.io.write(0x3f9, 1, 0);
    m.io.write(0x3f9, 1, 2);
    assert_eq!(m.cpus[0].apic.acknowledge_interrupt(), Some(0x41));
}

#[test]
fn power_off_reset_and_debug_exit_are_requested() {
    let m = rom_machine(PcKind::Q35, 64 * MIB, |c| {
        c.debug_exit = vec![DebugExitProperties::parse([("iobase", "0xf4"), ("iosize", "4")]).unwrap()];
    });
    m.io.write(0xf4, 4, 3);
    assert_eq!(m.power.take(), Some(PowerRequest::DebugExit(7)));
    m.io.write(0xcf9, 1, 6);
    assert_eq!(m.power.take(), Some(PowerRequest::Reset));
    m.io.write(0x64, 1, 0xfe);
    assert_eq!(m.power.take(), Some(PowerRequest::Reset));
    let m = kernel_machine(PcKind::Q35, 1);
    m.io.write(0x604, 2, 0x2000);
    assert_eq!(m.power.take(), Some(PowerRequest::Shutdown));
    assert!(!m.power_button());
    m.io.write(0x602, 2, 0x100);
    m.io.write(0xb2, 1, 2);
    assert!(m.power_button());
    let m = kernel_machine(PcKind::Microvm, 1);
    m.io.write(0x604, 2, 0x2000);
    assert_eq!(m.power.take(), Some(PowerRequest::Shutdown));
}

#[test]
fn files_are_loaded_where_asked_and_refused_outside_ram() {
    let file = TempFile::new(b"payload!");
    let place = |addr: u64| vec![LoaderRequest { file: file.0.clone(), addr }];
    let m = rom_machine(PcKind::Q35, 64 * MIB, |c| c.loaders = place(0x12_3456));
    assert_eq!(m.memory.read(0x12_3456, 8), u64::from_le_bytes(*b"payload!"));
    let rom = rom();
    for addr in [64 * MIB - 4, 0xffff_0000, u64::MAX - 2, 0xfec0_0000] {
        let mut config = PcConfig::new(PcKind::Q35, 64 * MIB);
        config.bios = Some(rom.0.clone());
        config.loaders = place(addr);
        assert!(matches!(build(&config, clock()), Err(BuildError::LoaderRange { .. })), "{addr:#x}");
    }
}

#[test]
fn saved_state_of_every_device_comes_back() {
    let (a, b) = (kernel_machine(PcKind::Q35, 2), kernel_machine(PcKind::Q35, 2));
    a.io.write(0x3ff, 1, 0x5a);
    a.io.write(0x21, 1, 0x5a);
    a.io.write(0xcf8, 4, 0x8000_f860);
    a.io.write(0xcfc, 1, 0x0b);
    for (from, to) in a.saved_units().iter().zip(b.saved_units()) {
        assert_eq!(from.path, to.path);
        to.unit.load(&from.unit.save()).unwrap();
        // The clock shows the host's time; all else is as it was.
        assert!(from.path == "rtc" || from.unit.save() == to.unit.save(), "{}", from.path);
    }
    assert_eq!((b.io.read(0x3ff, 1), b.io.read(0x21, 1), b.io.read(0xcfc, 1)), (0x5a, 0x5a, 0x0b));
}

#[test]
fn random_accesses_never_panic() {
    let source = Arc::new(Counter::default());
    let kernel = kernel();
    let mut config = PcConfig::new(PcKind::Q35, 64 * MIB);
    config.kernel = Some(kernel.0.clone());
    config.serials = vec![Arc::new(NullChardev)];
    config.topology = CpuTopology::flat(2);
    let clock = VirtualClock::driven(source.clone());
    let m = build(&config, clock.clone()).unwrap();
    let windows = [0xfec0_0000u64, 0xfed0_0000, 0xfee0_0000, 0xb000_0000, 0xb00f_8000, 0xfee0_0000];
    let ports = [0x20u64, 0x40, 0x60, 0x70, 0x90, 0xa0, 0xb0, 0x3f8, 0x4d0, 0x600, 0x620, 0xcf8];
    let mut seed = 0x1234_5678_9abc_def0u64;
    for round in 0..60_000u64 {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let size = 1 << (seed >> 62);
        let value = seed.rotate_left(17);
        let pick = (seed >> 33) as usize;
        let (space, address) = if seed >> 61 & 1 != 0 {
            (&m.cpus[pick & 1].memory, windows[pick % windows.len()] + (seed >> 40 & 0x3ff))
        } else {
            (&m.io, ports[pick % ports.len()] + (seed >> 40 & 0x1f))
        };
        if seed >> 60 & 1 != 0 {
            space.write(address, size, value);
        } else {
            space.read(address, size);
        }
        if round % 16 == 0 {
            source.0.fetch_add(seed >> 44, Ordering::Relaxed);
            // Bounded: a timer that a guest programs fires at most once for each arming.
            clock.run_due();
            m.cpus[0].apic.acknowledge_interrupt();
        }
    }
    m.reset().unwrap();
    assert_eq!(m.memory.read(0x10_0000, 4), 0xcccc_cccc);
}
