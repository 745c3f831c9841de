//! Wiring of the boards.

use crate::apic_port::ApicPort;
use crate::boot::{self, BootMedia};
use crate::config::{BuildError, PcConfig, PcKind};
use crate::firmware;
use crate::memory_map::{self as map, RamSplit};
use crate::ports::{IrqInputs, OpenBus};
use rhea_chipset::{
    DebugConsole, DebugExit, FastReset, FpuError, KeyboardReset, PowerManagement, ResetControl,
};
use rhea_device::{IrqLine, PowerControl, Reset, ResetKind, StateUnit, VirtualClock};
use rhea_interrupt::{ApicBus, ExtIntSource, IoApic, LocalApic, LocalApicConfig, PicPair};
use rhea_loader::Blob;
use rhea_memory::{AddressSpace, MmioHandler, RamBlock, Region, Topology};
use rhea_pci::{HostBridge, LpcBridge, PciAddress, PciBus, PirqRouter, Q35Host};
use rhea_serial::Uart16550;
use rhea_timer::{Hpet, HpetLines, LegacyRoute, Pit, Rtc, hpet};
use std::io;
use std::sync::Arc;

/// I/O ports and ISA IRQs of the serial ports.
pub(crate) const SERIAL_PORTS: [(u64, usize); 4] = [(0x3f8, 4), (0x2f8, 3), (0x3e8, 4), (0x2e8, 3)];
/// I/O ports of the ICH9's power management block.
pub(crate) const PM_BASE: u64 = 0x600;
/// ISA IRQ of the SCI.
pub(crate) const SCI_IRQ: usize = 9;
/// ISA IRQ of x87 errors.
const FPU_IRQ: usize = 13;
/// I/O APIC input of PIRQ A.
pub(crate) const FIRST_PIRQ_GSI: usize = 16;

/// What one processor needs of the machine.
#[derive(Clone)]
pub struct PcCpu {
    /// Physical memory as this processor sees it: the system's, with its own local APIC page over it.
    pub memory: Arc<AddressSpace>,
    /// I/O ports.
    pub io: Arc<AddressSpace>,
    /// Its local APIC.
    pub apic: Arc<LocalApic>,
    /// Initial APIC ID.
    pub apic_id: u32,
}

impl PcCpu {
    /// The local APIC as the processor model takes it.
    pub fn apic_port(&self) -> ApicPort {
        ApicPort(self.apic.clone())
    }
}

/// A device whose state is saved, by its path in the machine.
pub struct SavedUnit {
    /// Path.
    pub path: String,
    /// The device.
    pub unit: Arc<dyn StateUnit>,
}

/// A machine, ready to run from its reset state.
pub struct PcMachine {
    /// Processors, the bootstrap processor first.
    pub cpus: Vec<PcCpu>,
    /// System memory as devices see it (DMA).
    pub memory: Arc<AddressSpace>,
    /// I/O ports.
    pub io: Arc<AddressSpace>,
    /// Virtual time.
    pub clock: Arc<VirtualClock>,
    /// Requests of the guest.
    pub power: Arc<PowerControl>,
    /// How the kernel is booted, for messages; `None` with a ROM image.
    pub boot_format: Option<&'static str>,
    /// Guest RAM.
    pub ram: Arc<RamBlock>,
    /// The PCI bus, where the board has one.
    pub pci: Option<Arc<PciBus>>,
    pm: Arc<PowerManagement>,
    fpu_error: Arc<FpuError>,
    resets: Vec<Arc<dyn Reset>>,
    saved: Vec<SavedUnit>,
    blobs: Vec<Blob>,
}

impl PcMachine {
    /// Resets all devices and local APICs and writes what is booted into memory again. The processors are
    /// stopped; the accelerator puts them into their reset state.
    ///
    /// # Errors
    /// A file that is booted cannot be read any more.
    pub fn reset(&self) -> io::Result<()> {
        self.reset_devices(ResetKind::Warm);
        self.write_blobs()
    }

    fn reset_devices(&self, kind: ResetKind) {
        self.resets.iter().for_each(|device| device.reset(kind));
        self.power.clear();
    }

    fn write_blobs(&self) -> io::Result<()> {
        self.blobs.iter().try_for_each(|blob| blob.write(&self.memory))
    }

    /// Presses the power button. True if the guest listens to it.
    pub fn power_button(&self) -> bool {
        self.pm.power_button()
    }

    /// A processor asserts FERR# (an x87 error with CR0.NE = 0): IRQ 13.
    pub fn assert_ferr(&self) {
        self.fpu_error.assert_ferr();
    }

    /// Raises an NMI at every processor.
    pub fn nmi(&self) {
        self.cpus.iter().for_each(|cpu| cpu.apic.nmi());
    }

    /// The devices whose state is saved.
    pub fn saved_units(&self) -> &[SavedUnit] {
        &self.saved
    }
}

/// Builds the machine that `config` describes, with what it boots already in memory.
///
/// # Errors
/// See [`BuildError`].
pub fn build(config: &PcConfig, clock: Arc<VirtualClock>) -> Result<PcMachine, BuildError> {
    config.topology.check()?;
    let (least, most) = (map::RAM_LEAST, map::RAM_MOST);
    if !(least..=most).contains(&config.ram_size) {
        return Err(BuildError::RamSize { size: config.ram_size, least, most });
    }
    if config.serials.len() > SERIAL_PORTS.len() {
        return Err(BuildError::SerialPorts { limit: SERIAL_PORTS.len(), asked: config.serials.len() });
    }
    let split = RamSplit::new(config.kind, config.ram_size);
    let media = boot::prepare(config, split, |address| firmware::tables(config, split, address))?;
    let mut board = Board::new(config, split, &media, clock)?;
    let interrupts = board.add_interrupt_controllers();
    board.add_timers(&interrupts);
    board.add_serial_ports(&interrupts);
    let chipset = board.add_chipset(&interrupts);
    board.add_debug_ports()?;
    board.add_virtio(&interrupts)?;
    board.finish(media, interrupts, chipset)
}

/// A board being wired.
pub(crate) struct Board<'a> {
    pub(crate) config: &'a PcConfig,
    clock: Arc<VirtualClock>,
    pub(crate) topology: Arc<Topology>,
    system: Arc<Region>,
    /// System memory as devices see it.
    pub(crate) memory: Arc<AddressSpace>,
    ports: Arc<Region>,
    ram: Arc<RamBlock>,
    power: Arc<PowerControl>,
    pub(crate) pci: Option<Arc<PciBus>>,
    resets: Vec<Arc<dyn Reset>>,
    saved: Vec<SavedUnit>,
}

/// Interrupt controllers and the inputs to them.
pub(crate) struct Interrupts {
    pub(crate) bus: Arc<ApicBus>,
    apics: Vec<Arc<LocalApic>>,
    pub(crate) inputs: IrqInputs,
}

/// What the machine keeps of the chipset.
struct Chipset {
    pm: Arc<PowerManagement>,
    fpu_error: Arc<FpuError>,
}

impl<'a> Board<'a> {
    fn new(
        config: &'a PcConfig,
        split: RamSplit,
        media: &BootMedia,
        clock: Arc<VirtualClock>,
    ) -> Result<Self, BuildError> {
        let topology = Topology::new();
        let system = Region::container(&topology, "system", 1 << 52);
        let ports = Region::container(&topology, "io", 1 << 16);
        let size = config.ram_size;
        let ram = RamBlock::new("ram", size).map_err(|source| BuildError::Allocation { size, source })?;
        let ram = Arc::new(ram);
        let whole = Region::ram(&topology, ram.clone());
        system.add(0, &Region::alias(&topology, "ram-below-4g", &whole, 0, split.low));
        if split.high > 0 {
            system
                .add(4 * map::GIB, &Region::alias(&topology, "ram-above-4g", &whole, split.low, split.high));
        }
        let video = Region::mmio(&topology, "legacy-video", map::VIDEO_SIZE, Arc::new(OpenBus));
        system.add_with_priority(map::VIDEO, &video, 1);
        let rom = Region::rom(&topology, media.rom.clone());
        system.add(boot::rom_base(&media.rom), &rom);
        let low = media.rom.size().min(map::LOW_ROM_SIZE);
        let low_rom = Region::alias(&topology, "rom-below-1m", &rom, media.rom.size() - low, low);
        system.add_with_priority(map::MIB - low, &low_rom, 1);
        let power = Arc::new(PowerControl::new());
        let (resets, saved) = (Vec::new(), Vec::new());
        let memory = AddressSpace::new("system", system.clone());
        Ok(Self { config, clock, topology, system, memory, ports, ram, power, pci: None, resets, saved })
    }

    /// Registers a device for reset and saved state.
    pub(crate) fn register<T: Reset + StateUnit + 'static>(
        &mut self,
        path: impl Into<String>,
        device: &Arc<T>,
    ) {
        self.resets.push(device.clone());
        self.saved.push(SavedUnit { path: path.into(), unit: device.clone() });
    }

    fn map_ports(&self, name: &str, base: u64, count: u64, handler: Arc<dyn MmioHandler>) {
        self.ports.add(base, &Region::mmio(&self.topology, name, count, handler));
    }

    pub(crate) fn map_memory(&self, name: &str, base: u64, size: u64, handler: Arc<dyn MmioHandler>) {
        self.system.add_with_priority(base, &Region::mmio(&self.topology, name, size, handler), 1);
    }

    fn add_interrupt_controllers(&mut self) -> Interrupts {
        let bus = ApicBus::new();
        let topology = self.config.topology;
        let apics: Vec<_> = (0..topology.cpus)
            .map(|index| {
                let config = LocalApicConfig {
                    id: topology.apic_id(index),
                    bsp: index == 0,
                    x2apic: self.config.x2apic,
                    physical_address_bits: self.config.physical_address_bits,
                };
                LocalApic::new(config, &bus, &self.clock)
            })
            .collect();
        bus.connect(apics.clone());
        let ioapic = IoApic::new(bus.clone());
        self.map_memory("ioapic", map::IOAPIC, 0x1000, ioapic.clone());
        self.map_memory("msi", map::MSI, map::MSI_SIZE, bus.msi_window());
        let pic = PicPair::new(IrqLine::fan_out(apics.iter().map(|apic| apic.lint(0)).collect()));
        let ext_int: Arc<dyn ExtIntSource> = pic.clone();
        apics.iter().for_each(|apic| apic.set_ext_int_source(Arc::downgrade(&ext_int)));
        self.map_ports("pic-master", 0x20, 2, pic.ports(false));
        self.map_ports("pic-slave", 0xa0, 2, pic.ports(true));
        self.map_ports("elcr", 0x4d0, 2, pic.elcr_ports());
        // Devices that deliver into others are reset after them.
        self.register("pic", &pic);
        self.register("ioapic", &ioapic);
        for (index, apic) in apics.iter().enumerate() {
            self.register(format!("cpu{index}/apic"), apic);
        }
        Interrupts { bus, apics, inputs: IrqInputs::new(Some(&pic), &ioapic) }
    }

    fn add_timers(&mut self, interrupts: &Interrupts) {
        let inputs = &interrupts.inputs;
        let route = LegacyRoute::new(inputs.isa(0), inputs.isa(8));
        let [irq0, irq8] = route.isa_lines();
        let pit = Pit::new(&self.clock, irq0);
        self.map_ports("pit", 0x40, 4, pit.ports());
        self.map_ports("nmi-status", 0x61, 1, pit.control_port());
        self.register("pit", &pit);
        let mut rtc_config = self.config.rtc.clone();
        rtc_config.cmos.extend(cmos_memory_sizes(self.config.ram_size, self.config.kind));
        let rtc = Rtc::new(rtc_config, &self.clock, irq8);
        self.map_ports("rtc", 0x70, 2, rtc.ports(false));
        self.map_ports("rtc-extended", 0x72, 2, rtc.ports(true));
        self.register("rtc", &rtc);
        if self.config.kind == PcKind::Q35 {
            let lines = HpetLines {
                gsi: (0..24).map(|gsi| inputs.gsi(gsi)).collect(),
                legacy: route.hpet_lines(),
                msi: interrupts.bus.clone(),
                route,
            };
            let hpet = Hpet::new(&self.clock, lines);
            self.map_memory("hpet", map::HPET, hpet::MMIO_SIZE, hpet.clone());
            self.register("hpet", &hpet);
        }
    }

    fn add_serial_ports(&mut self, interrupts: &Interrupts) {
        for (index, (backend, (base, irq))) in self.config.serials.iter().zip(SERIAL_PORTS).enumerate() {
            let uart = Uart16550::new(&self.clock, interrupts.inputs.isa(irq), backend.clone());
            self.map_ports("serial", base, 8, uart.clone());
            self.register(format!("serial{index}"), &uart);
        }
    }

    fn add_chipset(&mut self, interrupts: &Interrupts) -> Chipset {
        let inputs = &interrupts.inputs;
        let cf9 = ResetControl::new(self.power.clone());
        let reset_control = Region::mmio(&self.topology, "reset-control", 1, cf9.clone());
        self.ports.add_with_priority(0xcf9, &reset_control, 1);
        self.resets.push(cf9);
        let fast = FastReset::new(self.power.clone());
        self.map_ports("port92", 0x92, 1, fast.clone());
        self.resets.push(fast);
        self.map_ports("keyboard-reset", 0x64, 1, KeyboardReset::new(self.power.clone()));
        let fpu_error = FpuError::new(inputs.isa(FPU_IRQ));
        self.map_ports("fpu-error", 0xf0, 1, fpu_error.clone());
        self.register("fpu-error", &fpu_error);
        let pm = PowerManagement::new(&self.clock, inputs.isa(SCI_IRQ), self.power.clone(), None);
        self.map_ports("apm", 0xb2, 2, pm.apm_ports());
        self.register("pm", &pm);
        let block = Region::mmio(&self.topology, "acpi-pm", rhea_chipset::pm::PM_IO_SIZE, pm.clone());
        match self.config.kind {
            PcKind::Q35 => self.add_q35(interrupts, block),
            PcKind::Microvm => self.ports.add(PM_BASE, &block),
        }
        Chipset { pm, fpu_error }
    }

    /// PCI host and LPC bridge. What firmware would place is placed when there is none.
    fn add_q35(&mut self, interrupts: &Interrupts, pm: Arc<Region>) {
        let inputs = &interrupts.inputs;
        let placed = self.config.kernel.is_some();
        let gsi = std::array::from_fn(|pirq| inputs.gsi(FIRST_PIRQ_GSI + pirq));
        let isa = (0..16).map(|irq| inputs.isa(irq)).collect();
        let pirq = PirqRouter::new(gsi, isa);
        let bus = PciBus::new(self.system.clone(), self.ports.clone(), pirq.clone(), interrupts.bus.clone());
        let host = Q35Host::new(bus.clone());
        self.map_ports("pci-config", 0xcf8, 8, host.ports());
        self.register("pci-config", &host);
        let ecam = Region::mmio(&self.topology, "ecam", map::ECAM_SIZE, host.ecam());
        let bridge = HostBridge::new(self.system.clone(), ecam, placed.then_some(map::ECAM));
        self.register("pci/00.0", &bridge);
        let pm_base = placed.then_some(PM_BASE as u16);
        let lpc = LpcBridge::new(pirq, self.ports.clone(), pm, pm_base);
        self.register("pci/1f.0", &lpc);
        for (device, function) in [(0, bridge as Arc<dyn rhea_pci::PciFunction>), (0x1f, lpc)] {
            let plugged = bus.plug(PciAddress { device, function: 0 }, function);
            debug_assert!(plugged.is_ok(), "an empty bus has room");
        }
        self.pci = Some(bus);
    }

    fn add_debug_ports(&mut self) -> Result<(), BuildError> {
        let check = |device: &'static str, base: u64, count: u64| {
            let end = base + count;
            if count == 0 || end > 1 << 16 {
                Err(BuildError::PortRange { device, base, end })
            } else {
                Ok(())
            }
        };
        for exit in &self.config.debug_exit {
            check("isa-debug-exit", exit.iobase, exit.iosize)?;
            self.map_ports("isa-debug-exit", exit.iobase, exit.iosize, DebugExit::new(self.power.clone()));
        }
        for console in &self.config.debugcon {
            let properties = &console.properties;
            check("isa-debugcon", properties.iobase, 1)?;
            let device = DebugConsole::new(console.backend.clone(), properties.readback as u8);
            self.map_ports("isa-debugcon", properties.iobase, 1, device);
        }
        Ok(())
    }

    /// Makes each processor's address space and the machine.
    fn finish(
        self,
        media: BootMedia,
        interrupts: Interrupts,
        chipset: Chipset,
    ) -> Result<PcMachine, BuildError> {
        let memory = self.memory.clone();
        let io = AddressSpace::new("io", self.ports.clone());
        let cpus = interrupts
            .apics
            .iter()
            .enumerate()
            .map(|(index, apic)| PcCpu {
                memory: self.cpu_memory(index, apic),
                io: io.clone(),
                apic: apic.clone(),
                apic_id: apic.id(),
            })
            .collect();
        let mut blobs = media.blobs;
        blobs.extend(boot::loader_blobs(self.config, &memory)?);
        let machine = PcMachine {
            cpus,
            memory,
            io,
            clock: self.clock,
            power: self.power,
            boot_format: media.format,
            ram: self.ram,
            pci: self.pci,
            pm: chipset.pm,
            fpu_error: chipset.fpu_error,
            resets: self.resets,
            saved: self.saved,
            blobs,
        };
        machine.reset_devices(ResetKind::Cold);
        let written = machine.write_blobs();
        written.map_err(|source| BuildError::BootFiles { source })?;
        Ok(machine)
    }

    /// The system's memory with the processor's own local APIC page over it, which IA32_APIC_BASE moves.
    fn cpu_memory(&self, index: usize, apic: &Arc<LocalApic>) -> Arc<AddressSpace> {
        let root = Region::container(&self.topology, format!("cpu{index}"), 1 << 52);
        root.add(0, &self.system);
        let page = Region::mmio(&self.topology, "local-apic", 0x1000, apic.clone());
        root.add_with_priority(map::MSI, &page, 10);
        let space = AddressSpace::new(format!("cpu{index}"), root.clone());
        // Weak: the page holds the APIC, which holds this hook.
        let (root, page) = (Arc::downgrade(&root), Arc::downgrade(&page));
        apic.on_base_change(Box::new(move |base| {
            let (Some(root), Some(page)) = (root.upgrade(), page.upgrade()) else { return };
            root.topology().transaction(|| {
                page.set_enabled(base.is_some());
                if let Some(base) = base {
                    root.move_child(&page, base);
                }
            });
        }));
        space
    }
}

/// CMOS bytes that tell the memory size the way PC firmware does.
fn cmos_memory_sizes(ram_size: u64, kind: PcKind) -> Vec<(u8, u8)> {
    let split = RamSplit::new(kind, ram_size);
    let kib = (split.low.saturating_sub(map::MIB) / map::KIB).min(0xffff) as u16;
    // Above 16 MiB, in units of 64 KiB.
    let blocks = (split.low.saturating_sub(16 * map::MIB) / (64 * map::KIB)).min(0xffff) as u16;
    let high = (split.high / (64 * map::KIB)).min(0xff_ffff) as u32;
    let [kib_low, kib_high] = kib.to_le_bytes();
    let [blocks_low, blocks_high] = blocks.to_le_bytes();
    let [high0, high1, high2, _] = high.to_le_bytes();
    vec![
        (0x15, 0x80), // 640 KiB of conventional memory
        (0x16, 0x02),
        (0x17, kib_low),
        (0x18, kib_high),
        (0x30, kib_low),
        (0x31, kib_high),
        (0x34, blocks_low),
        (0x35, blocks_high),
        (0x5b, high0),
        (0x5c, high1),
        (0x5d, high2),
    ]
}
