//! Wiring of the board.

use crate::TIMEBASE;
use crate::boot::{self, BootMedia};
use crate::config::{Aia, BuildError, NumaConfig, VirtConfig};
use crate::empty_slot::EmptySlot;
use crate::firmware_config;
use crate::hart::{self, VirtHart};
use crate::interrupts::{self, Controller, Imsics};
use crate::memory_map as map;
use crate::pci::{self, NoMsi};
use crate::reset_vector::boot_rom;
use parking_lot::Mutex;
use rhea_chardev::NullChardev;
use rhea_chipset::htif::WORD_SIZE;
use rhea_chipset::{Htif, SifiveTest};
use rhea_device::{IrqLine, MsiSink, PowerControl, Reset, ResetKind, StateUnit, VirtualClock};
use rhea_firmware_devices::{Flash, FwCfg};
use rhea_interrupt::aplic::aplic_size;
use rhea_interrupt::imsic::IMSIC_PAGE;
use rhea_interrupt::{Mswi, Sswi};
use rhea_loader::Blob;
use rhea_memory::{AddressSpace, MmioHandler, RamBlock, Region, Topology};
use rhea_pci::PciBus;
use rhea_riscv_state::platform::Lines;
use rhea_riscv_state::{CpuModel, InterruptLines};
use rhea_serial::Uart16550;
use rhea_timer::{GoldfishRtc, Mtimer};
use std::io;
use std::sync::Arc;

/// A device whose state is saved, by its path in the machine.
pub struct SavedUnit {
    /// Path.
    pub path: String,
    /// The device.
    pub unit: Arc<dyn StateUnit>,
}

/// A place for a virtio-mmio transport.
pub struct VirtioSlot {
    /// Guest physical address of its registers.
    pub address: u64,
    /// The interrupt it drives.
    pub irq: IrqLine,
    taken: bool,
}

/// A machine, ready to run from its reset state.
pub struct VirtMachine {
    /// Harts, in order of their IDs.
    pub harts: Vec<VirtHart>,
    /// System memory, as harts and devices (DMA) see it.
    pub memory: Arc<AddressSpace>,
    /// What each hart is: the model asked for, with what the board brings along ([`VirtConfig::cpu_model`]).
    pub cpu: CpuModel,
    /// Virtual time.
    pub clock: Arc<VirtualClock>,
    /// Requests of the guest.
    pub power: Arc<PowerControl>,
    /// What the kernel file was found to be, for messages; `None` without kernel.
    pub boot_format: Option<&'static str>,
    /// Guest RAM.
    pub ram: Arc<RamBlock>,
    /// The PCI bus. Functions are plugged in before the machine runs, and registered with [`VirtMachine::register`].
    pub pci: Arc<PciBus>,
    /// Takes the messages of PCI functions (MSI): to the IMSICs, or nowhere without them.
    pub msi: Arc<dyn MsiSink>,
    /// Places for virtio-mmio transports; see [`VirtMachine::plug_virtio`].
    pub virtio_slots: Vec<VirtioSlot>,
    topology: Arc<Topology>,
    system: Arc<Region>,
    resets: Vec<Arc<dyn Reset>>,
    saved: Vec<SavedUnit>,
    blobs: Vec<Blob>,
    device_tree: Mutex<DeviceTree>,
}

/// The device tree blob.
struct DeviceTree {
    bytes: Vec<u8>,
    address: u64,
    /// Where the random bytes stand that are renewed at each reset.
    seed: Option<usize>,
}

impl VirtMachine {
    /// Resets all devices and writes what is booted into memory again. The harts are stopped; the accelerator puts
    /// them into their reset state.
    ///
    /// # Errors
    /// A file that is booted cannot be read any more, or the host has no random bytes.
    pub fn reset(&self) -> io::Result<()> {
        self.reset_devices(ResetKind::Warm);
        let mut tree = self.device_tree.lock();
        if let Some(at) = tree.seed {
            let seed = boot::random_seed().map_err(io::Error::other)?;
            if let Some(bytes) = tree.bytes.get_mut(at..at + seed.len()) {
                bytes.copy_from_slice(&seed);
            }
        }
        drop(tree);
        self.write_blobs()
    }

    fn reset_devices(&self, kind: ResetKind) {
        self.resets.iter().for_each(|device| device.reset(kind));
        self.power.clear();
    }

    fn write_blobs(&self) -> io::Result<()> {
        self.blobs.iter().try_for_each(|blob| blob.write(&self.memory))?;
        let tree = self.device_tree.lock();
        self.memory.write_bytes(tree.address, &tree.bytes).map_err(io::Error::other)
    }

    /// The power button: this board has none that a guest could see. Always false.
    pub fn power_button(&self) -> bool {
        false
    }

    /// The device tree as the guest gets it.
    pub fn device_tree(&self) -> Vec<u8> {
        self.device_tree.lock().bytes.clone()
    }

    /// The first slot that no transport has been put into.
    pub fn free_virtio_slot(&self) -> Option<usize> {
        self.virtio_slots.iter().position(|slot| !slot.taken)
    }

    /// Puts a virtio-mmio transport into a slot, with the device that is reset and saved under `path`. To be called
    /// before the machine runs. False: there is no such slot, or it is taken.
    pub fn plug_virtio<T: MmioHandler + Reset + StateUnit + 'static>(
        &mut self,
        index: usize,
        path: &str,
        device: Arc<T>,
    ) -> bool {
        let Some(slot) = self.virtio_slots.get_mut(index).filter(|slot| !slot.taken) else { return false };
        slot.taken = true;
        let region = Region::mmio(&self.topology, path, map::VIRTIO_STRIDE, device.clone());
        self.system.add_with_priority(slot.address, &region, 1);
        self.register(path, device);
        true
    }

    /// Registers a device that was added, for reset and saved state.
    pub fn register<T: Reset + StateUnit + 'static>(&mut self, path: &str, device: Arc<T>) {
        // Before the interrupt controllers, which look at its line.
        self.resets.insert(0, device.clone());
        self.saved.insert(0, SavedUnit { path: path.into(), unit: device });
    }

    /// The devices whose state is saved, those that drive lines before those that receive them.
    pub fn saved_units(&self) -> &[SavedUnit] {
        &self.saved
    }
}

/// Builds the machine that `config` describes, with what it boots already in memory.
///
/// # Errors
/// See [`BuildError`].
pub fn build(config: &VirtConfig, clock: Arc<VirtualClock>) -> Result<VirtMachine, BuildError> {
    config.topology.check()?;
    let (least, most) = (map::RAM_LEAST, map::ram_most(config.cpu.config().xlen));
    if !(least..=most).contains(&config.ram_size) {
        return Err(BuildError::RamSize { size: config.ram_size, least, most });
    }
    if let Some(numa) = &config.numa {
        check_numa(numa, config)?;
    }
    let media = boot::prepare(config)?;
    let mut board = Board::new(config, &media, clock)?;
    let imsics = board.imsics();
    let controller = board.controller(imsics.as_ref());
    board.add_devices(&controller);
    let virtio_slots = board.add_virtio_slots(&controller);
    let msi: Arc<dyn MsiSink> = match &imsics {
        Some(imsics) => imsics.messages.clone(),
        None => Arc::new(NoMsi),
    };
    let pci = board.add_pci(&controller, msi.clone());
    board.add_flash()?;
    let memory = AddressSpace::new("system", board.system.clone());
    board.add_fw_cfg(&memory)?;
    if let Some(words) = media.htif {
        board.add_htif(words, &memory);
    }
    let mtimer = board.add_local_interrupts();
    board.register_controllers(&controller, imsics.as_ref());
    board.finish(media, memory, (pci, msi), virtio_slots, &mtimer)
}

fn check_numa(numa: &NumaConfig, config: &VirtConfig) -> Result<(), BuildError> {
    let count = numa.nodes.len();
    let memory = numa.nodes.iter().fold(0u64, |sum, node| sum.saturating_add(node.memory));
    if memory != config.ram_size {
        return Err(BuildError::Numa("their memory does not add up to the machine's"));
    }
    let mut harts: Vec<u32> = numa.nodes.iter().flat_map(|node| node.cpus.iter().copied()).collect();
    harts.sort_unstable();
    if harts != (0..config.topology.harts).collect::<Vec<_>>() {
        return Err(BuildError::Numa("each hart must be in one node"));
    }
    if numa.distances.as_ref().is_some_and(|distances| distances.len() != count * count) {
        return Err(BuildError::Numa("there must be a distance from each node to each"));
    }
    Ok(())
}

/// A board being wired.
struct Board<'a> {
    config: &'a VirtConfig,
    clock: Arc<VirtualClock>,
    topology: Arc<Topology>,
    system: Arc<Region>,
    ram: Arc<RamBlock>,
    power: Arc<PowerControl>,
    lines: Vec<Arc<InterruptLines>>,
    resets: Vec<Arc<dyn Reset>>,
    saved: Vec<SavedUnit>,
}

fn block(name: &str, size: u64) -> Result<Arc<RamBlock>, BuildError> {
    RamBlock::new(name, size).map(Arc::new).map_err(|source| BuildError::Allocation { size, source })
}

impl<'a> Board<'a> {
    fn new(config: &'a VirtConfig, media: &BootMedia, clock: Arc<VirtualClock>) -> Result<Self, BuildError> {
        let topology = Topology::new();
        let system = Region::container(&topology, "system", 1 << 56);
        let ram = block("ram", config.ram_size)?;
        system.add(map::DRAM, &Region::ram(&topology, ram.clone()));
        let rom = block("boot ROM", map::BOOT_ROM_SIZE)?;
        rom.write_bytes(0, &boot_rom(&media.handover));
        system.add(map::RESET_VECTOR, &Region::rom(&topology, rom));
        let power = Arc::new(PowerControl::new());
        let lines = (0..config.topology.harts).map(|_| Arc::new(InterruptLines::new())).collect();
        let (resets, saved) = (Vec::new(), Vec::new());
        Ok(Self { config, clock, topology, system, ram, power, lines, resets, saved })
    }

    /// Registers a device for reset and saved state.
    fn register<T: Reset + StateUnit + 'static>(&mut self, path: &str, device: &Arc<T>) {
        self.resets.push(device.clone());
        self.saved.push(SavedUnit { path: path.into(), unit: device.clone() });
    }

    fn map(&self, name: &str, base: u64, size: u64, handler: Arc<dyn MmioHandler>) {
        self.system.add(base, &Region::mmio(&self.topology, name, size, handler));
    }

    /// A line into the same interrupt of each hart.
    fn hart_lines(&self, which: Lines) -> Vec<IrqLine> {
        self.lines.iter().map(|lines| hart::line(lines, which)).collect()
    }

    /// The IMSICs, where there are some.
    fn imsics(&mut self) -> Option<Imsics> {
        if self.config.aia != Aia::AplicImsic {
            return None;
        }
        let (machine, supervisor) = (self.hart_lines(Lines::MEIP), self.hart_lines(Lines::SEIP));
        let imsics = Imsics::new(&self.lines, machine, supervisor);
        for (base, files) in [(map::IMSIC_M, &imsics.machine), (map::IMSIC_S, &imsics.supervisor)] {
            for (address, file) in (base..).step_by(IMSIC_PAGE as usize).zip(files) {
                self.map("imsic", address, IMSIC_PAGE, file.clone());
            }
        }
        Some(imsics)
    }

    /// The controller that devices' lines go to.
    fn controller(&self, imsics: Option<&Imsics>) -> Controller {
        let (machine, supervisor) = (self.hart_lines(Lines::MEIP), self.hart_lines(Lines::SEIP));
        let controller = interrupts::controller(self.config.aia, imsics, machine, supervisor);
        match &controller {
            Controller::Plic(plic) => self.map("plic", map::PLIC, map::PLIC_SIZE, plic.clone()),
            Controller::Aplic(aplic) => {
                let size = aplic_size(self.lines.len() as u64);
                self.map("aplic-machine", map::APLIC_M, size, aplic.machine_domain());
                self.map("aplic-supervisor", map::APLIC_S, size, aplic.supervisor_domain());
            }
        }
        controller
    }

    /// Registers the controllers, after all that drives them: a reset of a device may change the level of its line.
    fn register_controllers(&mut self, controller: &Controller, imsics: Option<&Imsics>) {
        match controller {
            Controller::Plic(plic) => self.register("plic", plic),
            Controller::Aplic(aplic) => self.register("aplic", aplic),
        }
        for (name, files) in
            imsics.iter().flat_map(|i| [("machine", &i.machine), ("supervisor", &i.supervisor)])
        {
            for (hart, file) in files.iter().enumerate() {
                self.register(&format!("hart{hart}/imsic-{name}"), file);
            }
        }
    }

    fn add_devices(&mut self, controller: &Controller) {
        let test = SifiveTest::new(self.power.clone());
        self.map("test", map::TEST, 0x1000, test);
        let rtc = GoldfishRtc::new(&self.config.rtc, &self.clock, controller.input(map::RTC_IRQ));
        self.map("rtc", map::RTC, 0x1000, rtc.clone());
        self.register("rtc", &rtc);
        let backend = self.config.serial.clone().unwrap_or_else(|| Arc::new(NullChardev));
        let uart = Uart16550::ungated(&self.clock, controller.input(map::UART_IRQ), backend);
        self.map("serial", map::UART, map::UART_SIZE, uart.clone());
        self.register("serial0", &uart);
    }

    fn add_virtio_slots(&self, controller: &Controller) -> Vec<VirtioSlot> {
        let empty = Arc::new(EmptySlot);
        let slot = |index: u32| {
            let address = map::VIRTIO + u64::from(index) * map::VIRTIO_STRIDE;
            self.map("virtio-mmio", address, map::VIRTIO_STRIDE, empty.clone());
            VirtioSlot { address, irq: controller.input(map::VIRTIO_IRQ + index), taken: false }
        };
        (0..map::VIRTIO_SLOTS as u32).map(slot).collect()
    }

    /// Software interrupts and machine timers.
    fn add_local_interrupts(&mut self) -> Arc<Mtimer> {
        let base = map::mtimer(self.config);
        // Where the timer takes their place, software interrupts are messages.
        if base != map::CLINT {
            let mswi = Mswi::new(self.hart_lines(Lines::MSIP));
            self.map("mswi", map::CLINT, rhea_interrupt::aclint::SWI_SIZE, mswi.clone());
            self.register("mswi", &mswi);
        }
        let mtimer = Mtimer::new(&self.clock, TIMEBASE, self.hart_lines(Lines::MTIP));
        self.map("mtimer", base, rhea_timer::mtimer::MTIMER_SIZE, mtimer.clone());
        self.register("mtimer", &mtimer);
        if self.config.aclint && base != map::CLINT {
            let sswi = Sswi::new(self.lines.iter().map(hart::supervisor_software).collect());
            self.map("sswi", map::SSWI, rhea_interrupt::aclint::SWI_SIZE, sswi);
        }
        mtimer
    }

    fn add_pci(&mut self, controller: &Controller, msi: Arc<dyn MsiSink>) -> Arc<PciBus> {
        let lines = std::array::from_fn(|index| controller.input(map::PCI_IRQ + index as u32));
        let window = map::pci_high_memory(self.config.cpu.config().xlen, self.config.ram_size);
        let (bus, bridge) = pci::host(&self.topology, &self.system, lines, msi, window);
        self.register("pci/00.0", &bridge);
        bus
    }

    /// Both banks; one without image reads as zeros, and changes to it last until the machine ends.
    fn add_flash(&mut self) -> Result<(), BuildError> {
        for (index, config) in self.config.flash.iter().enumerate() {
            let name = format!("flash{index}");
            let block = block(&name, map::FLASH_SIZE)?;
            let (store, read_only) = match config {
                Some(config) if config.contents.len() as u64 != map::FLASH_SIZE => {
                    return Err(BuildError::FlashSize { size: config.contents.len() as u64 });
                }
                Some(config) => {
                    block.write_bytes(0, &config.contents);
                    (config.store.clone(), config.read_only)
                }
                None => (None, false),
            };
            let flash = Flash::new(&self.topology, block, store, read_only);
            self.system.add(map::FLASH + index as u64 * map::FLASH_SIZE, flash.region());
            self.register(&name, &flash);
        }
        Ok(())
    }

    fn add_fw_cfg(&mut self, memory: &Arc<AddressSpace>) -> Result<(), BuildError> {
        let device = FwCfg::new(firmware_config::contents(self.config)?, memory.clone());
        self.map("fw-cfg", map::FW_CFG, rhea_firmware_devices::fw_cfg::MMIO_SIZE, device.clone());
        self.register("fw-cfg", &device);
        Ok(())
    }

    /// The host-target interface, over two words of RAM. Words that overlap, lie elsewhere or are not aligned are left.
    fn add_htif(&mut self, (to_host, from_host): (u64, u64), memory: &Arc<AddressSpace>) {
        let ram = map::DRAM..map::DRAM + self.config.ram_size;
        let legal = |word: u64| word.is_multiple_of(WORD_SIZE) && ram.contains(&word);
        if to_host == from_host || !legal(to_host) || !legal(from_host) {
            return;
        }
        let console = self.config.serial.clone().unwrap_or_else(|| Arc::new(NullChardev));
        let htif = Htif::new(console, self.power.clone(), memory);
        for (name, address, handler) in
            [("tohost", to_host, htif.to_host()), ("fromhost", from_host, htif.from_host())]
        {
            let region = Region::mmio(&self.topology, name, WORD_SIZE, handler);
            self.system.add_with_priority(address, &region, 1);
        }
        self.register("htif", &htif);
    }

    fn finish(
        self,
        media: BootMedia,
        memory: Arc<AddressSpace>,
        (pci, msi): (Arc<PciBus>, Arc<dyn MsiSink>),
        virtio_slots: Vec<VirtioSlot>,
        mtimer: &Arc<Mtimer>,
    ) -> Result<VirtMachine, BuildError> {
        let hart = |(index, lines): (usize, &Arc<InterruptLines>)| VirtHart {
            hart_id: index as u64,
            memory: memory.clone(),
            lines: lines.clone(),
            timer: hart::timer(mtimer, lines),
        };
        let harts = self.lines.iter().enumerate().map(hart).collect();
        let mut blobs = media.blobs;
        blobs.extend(boot::loader_blobs(self.config, &memory)?);
        let seed = if media.reseed { find_seed(&media.device_tree) } else { None };
        let machine = VirtMachine {
            harts,
            memory,
            cpu: self.config.cpu_model(),
            clock: self.clock,
            power: self.power,
            boot_format: media.format,
            ram: self.ram,
            pci,
            msi,
            virtio_slots,
            topology: self.topology,
            system: self.system,
            resets: self.resets,
            saved: self.saved,
            blobs,
            device_tree: Mutex::new(DeviceTree {
                bytes: media.device_tree,
                address: media.device_tree_address,
                seed,
            }),
        };
        machine.reset_devices(ResetKind::Cold);
        machine.write_blobs().map_err(|source| BuildError::BootFiles { source })?;
        Ok(machine)
    }
}

/// Where in the blob the random bytes stand.
fn find_seed(blob: &[u8]) -> Option<usize> {
    let tree = rhea_device_tree::Node::from_blob(blob).ok()?;
    let seed = tree.find("/chosen")?.get(crate::device_tree::RNG_SEED)?;
    blob.windows(seed.len()).position(|window| window == seed)
}
