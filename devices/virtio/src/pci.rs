//! The PCI transport (section 4.1), as a modern device: its registers in BAR 4, MSI-X in BAR 1, and INTx.
//!
//! The legacy interface (an I/O BAR and the device IDs of before) is not offered.

mod common;
mod interrupts;

use crate::device::VirtioDevice;
use crate::registers::saved::RegistersSavedV1;
use crate::registers::{Interface, Registers};
use common::Common;
use interrupts::PciInterrupts;
use parking_lot::Mutex;
use rhea_device::{LoadError, MsiSink, Reset, ResetKind, SavedRecord, StateUnit, load_record, save_record};
use rhea_memory::{AccessSizes, AddressSpace, MmioHandler, Region, Topology};
use rhea_pci::msi::{MsixSavedV1, MsixTable};
use rhea_pci::{Attachment, Bar, BarKind, FunctionConfig, FunctionIdentity, PciFunction};
use std::sync::Arc;

/// PCI vendor ID of virtio devices, and of their subsystem.
const VENDOR: u16 = 0x1af4;
/// PCI device ID of device 0 (section 4.1.2).
const FIRST_DEVICE: u16 = 0x1040;
/// Subsystem ID, as QEMU's have it.
const SUBSYSTEM: u16 = 0x1100;
/// Vendor-specific capability.
const CAP_VENDOR: u8 = 0x09;

/// Where the parts lie in BAR 4; each takes a page.
mod part {
    pub(super) const BAR: u8 = 4;
    pub(super) const BAR_SIZE: u64 = 0x4000;
    pub(super) const COMMON: u64 = 0x0000;
    pub(super) const ISR: u64 = 0x1000;
    pub(super) const CONFIG: u64 = 0x2000;
    pub(super) const NOTIFY: u64 = 0x3000;
    pub(super) const SIZE: u64 = 0x1000;
    /// Bytes between the notification addresses of two queues.
    pub(super) const NOTIFY_MULTIPLIER: u32 = 4;
}

/// `cfg_type` of the capabilities (section 4.1.4).
mod cfg_type {
    pub(super) const COMMON: u8 = 1;
    pub(super) const NOTIFY: u8 = 2;
    pub(super) const ISR: u8 = 3;
    pub(super) const DEVICE: u8 = 4;
    pub(super) const PCI: u8 = 5;
}

/// BAR of the MSI-X table.
const MSIX_BAR: u8 = 1;

struct State {
    registers: Registers,
    common: Common,
}

/// The registers in BAR 4.
struct Front {
    state: Mutex<State>,
    interrupts: Arc<PciInterrupts>,
    config: Arc<FunctionConfig>,
}

/// A virtio device as a function of a PCI bus.
pub struct VirtioPci {
    front: Arc<Front>,
    table: Arc<MsixTable>,
    /// Offset of the capability by which configuration accesses reach the BAR.
    window: usize,
}

impl VirtioPci {
    /// A function with `device`, whose buffers lie in `memory`. Messages go to `msi`.
    pub fn new(
        device: Arc<dyn VirtioDevice>,
        topology: &Arc<Topology>,
        memory: Arc<AddressSpace>,
        msi: Arc<dyn MsiSink>,
    ) -> Arc<Self> {
        // One vector for the configuration, one for each queue.
        let vectors = (device.queue_sizes().len() as u16).saturating_add(1).min(VECTORS_MOST);
        let table = MsixTable::new(vectors, msi);
        let late = Arc::new(LateHandler::default());
        let registers_region = Region::mmio(topology, "virtio-pci", part::BAR_SIZE, late.clone());
        let table_size = table.size().next_power_of_two().max(0x1000);
        let table_region = Region::mmio(topology, "virtio-msix", table_size, table.clone());
        let identity = FunctionIdentity {
            vendor: VENDOR,
            device: FIRST_DEVICE + device.device_id() as u16,
            revision: 1,
            class: device.pci_class(),
            subsystem: (VENDOR, SUBSYSTEM),
            interrupt_pin: 1,
        };
        let registers_bar = Bar { kind: BarKind::Memory64 { prefetchable: true }, region: registers_region };
        let mut config = FunctionConfig::new(identity)
            .with_bar(MSIX_BAR.into(), Bar { kind: BarKind::Memory32, region: table_region })
            .with_bar(part::BAR.into(), registers_bar)
            .with_msix(table.clone(), MSIX_BAR, 0);
        let window = add_capabilities(&mut config);
        let config = Arc::new(config);
        let interrupts = PciInterrupts::new(config.clone(), table.clone());
        let registers = Registers::new(device, memory, interrupts.clone(), Interface::Modern);
        let state = Mutex::new(State { registers, common: Common::default() });
        let front = Arc::new(Front { state, interrupts, config });
        late.set(&front);
        Arc::new(Self { front, table, window })
    }

    /// Lets a configuration access through to BAR 4, where the driver set the window (section 4.1.4.9).
    fn access_window(&self, write: Option<u32>) {
        let config = &self.front.config;
        let field = |at: usize, size: usize| config.read(self.window + at, size);
        let (bar, offset, length) = (field(4, 1), u64::from(field(8, 4)), field(12, 4) as usize);
        let fits = matches!(length, 1 | 2 | 4) && offset.is_multiple_of(length as u64);
        if bar != u32::from(part::BAR) || !fits || offset >= part::BAR_SIZE {
            return;
        }
        match write {
            Some(value) => self.front.write(offset, length, value.into()),
            None => config.write(self.window + 16, 4, self.front.read(offset, length) as u32),
        }
    }

    fn is_window_data(&self, offset: usize) -> bool {
        (self.window + 16..self.window + 20).contains(&offset)
    }
}

/// Vectors that MSI-X can have.
const VECTORS_MOST: u16 = 2048;

/// Tells where the parts are; the offset of the last, the window.
fn add_capabilities(config: &mut FunctionConfig) -> usize {
    let body = |kind: u8, offset: u64, extra: &[u8]| {
        // Of the whole capability 16 bytes, two of which are its ID and link.
        let mut body = vec![16 + extra.len() as u8, kind, part::BAR, 0, 0, 0];
        body.extend_from_slice(&(offset as u32).to_le_bytes());
        body.extend_from_slice(&(part::SIZE as u32).to_le_bytes());
        body.extend_from_slice(extra);
        body
    };
    for (kind, offset) in
        [(cfg_type::COMMON, part::COMMON), (cfg_type::ISR, part::ISR), (cfg_type::DEVICE, part::CONFIG)]
    {
        config.add_capability(CAP_VENDOR, &body(kind, offset, &[]), &[]);
    }
    let multiplier = part::NOTIFY_MULTIPLIER.to_le_bytes();
    config.add_capability(CAP_VENDOR, &body(cfg_type::NOTIFY, part::NOTIFY, &multiplier), &[]);
    let mut window = vec![20, cfg_type::PCI];
    window.resize(18, 0);
    // BAR, offset, length and data are the driver's.
    let mut mask = vec![0, 0, 0xff, 0, 0, 0];
    mask.resize(18, 0xff);
    config.add_capability(CAP_VENDOR, &window, &mask)
}

/// The BAR's registers, which exist before the device that answers in them: it needs the configuration space, and that the
/// BAR.
#[derive(Default)]
struct LateHandler(std::sync::OnceLock<std::sync::Weak<Front>>);

impl LateHandler {
    fn set(&self, front: &Arc<Front>) {
        let _ = self.0.set(Arc::downgrade(front));
    }

    fn front(&self) -> Option<Arc<Front>> {
        self.0.get()?.upgrade()
    }
}

impl MmioHandler for LateHandler {
    fn read(&self, offset: u64, size: usize) -> u64 {
        self.front().map_or(0, |front| front.read(offset, size))
    }

    fn write(&self, offset: u64, size: usize, value: u64) {
        if let Some(front) = self.front() {
            front.write(offset, size, value);
        }
    }

    fn access_sizes(&self) -> AccessSizes {
        AccessSizes { min: 1, max: 4 }
    }
}

impl Front {
    fn read(&self, offset: u64, size: usize) -> u64 {
        let at = offset % part::SIZE;
        match offset - at {
            part::COMMON => {
                let state = self.state.lock();
                state.common.read(&state.registers, &self.interrupts, at, size).into()
            }
            part::ISR if at == 0 => self.interrupts.take_isr().into(),
            part::CONFIG => self.state.lock().registers.read_config(at, size),
            _ => 0,
        }
    }

    fn write(&self, offset: u64, size: usize, value: u64) {
        let at = offset % part::SIZE;
        match offset - at {
            part::COMMON => {
                let State { registers, common } = &mut *self.state.lock();
                common.write(registers, &self.interrupts, at, size, value as u32);
            }
            part::CONFIG => self.state.lock().registers.write_config(at, size, value),
            part::NOTIFY => {
                let queue = at / u64::from(part::NOTIFY_MULTIPLIER);
                // A function that is no bus master does not look into memory.
                if self.config.is_bus_master() {
                    self.state.lock().registers.notify(queue as u16);
                }
            }
            _ => {}
        }
    }
}

impl PciFunction for VirtioPci {
    fn config_read(&self, offset: usize, size: usize) -> u32 {
        if self.is_window_data(offset) {
            self.access_window(None);
        }
        self.front.config.read(offset, size)
    }

    fn config_write(&self, offset: usize, size: usize, value: u32) {
        let config = &self.front.config;
        let was_master = config.is_bus_master();
        config.write(offset, size, value);
        if self.is_window_data(offset) {
            self.access_window(Some(config.read(self.window + 16, 4)));
        }
        if !was_master && config.is_bus_master() {
            // What was notified before it could look.
            self.front.state.lock().registers.notify_all();
        }
    }

    fn interrupt_pin(&self) -> u8 {
        self.front.config.interrupt_pin()
    }

    fn attach(&self, attachment: Attachment) {
        self.front.config.attach(attachment);
    }
}

impl Reset for VirtioPci {
    fn reset(&self, _: ResetKind) {
        let mut state = self.front.state.lock();
        state.registers.reset();
        state.common = Common::default();
        self.front.interrupts.reset();
        self.front.config.reset();
    }
}

rhea_device::saved_record! { "virtio-pci", 1,
    /// Saved state of the function.
    pub struct PciSavedV1 {
        /// Configuration space.
        config: Vec<u8>,
        /// MSI-X table.
        msix: MsixSavedV1,
        /// ISR.
        isr: u8,
        /// MSI-X vector of the configuration.
        config_vector: u16,
        /// MSI-X vectors of the queues.
        queue_vectors: Vec<u16>,
        /// Selectors: features of the device, of the driver.
        feature_selectors: [u32; 2],
        /// Selected queue.
        queue_selector: u16,
        /// What all transports have.
        device: RegistersSavedV1,
    }
}

impl StateUnit for VirtioPci {
    fn save(&self) -> SavedRecord {
        let state = self.front.state.lock();
        let device = state.registers.save();
        // After the device has been paused, so that its last interrupts are in it.
        let (isr, config_vector, queue_vectors) = self.front.interrupts.saved();
        save_record(&PciSavedV1 {
            config: self.front.config.saved_bytes(),
            msix: self.table.saved(),
            isr,
            config_vector,
            queue_vectors,
            feature_selectors: [state.common.device_features, state.common.driver_features],
            queue_selector: state.common.queue,
            device,
        })
    }

    fn load(&self, record: &SavedRecord) -> Result<(), LoadError> {
        let saved: PciSavedV1 = load_record(record)?;
        let bad = |field| LoadError::BadValue { device: "virtio-pci", field };
        let mut state = self.front.state.lock();
        if saved.queue_vectors.len() != usize::from(state.registers.queue_count()) {
            return Err(bad("queue vectors"));
        }
        if !self.table.restore(&saved.msix) {
            return Err(bad("MSI-X table"));
        }
        self.front.config.restore_bytes("virtio-pci", &saved.config)?;
        self.front.interrupts.restore(saved.isr, saved.config_vector, &saved.queue_vectors);
        state.registers.load(&saved.device)?;
        let [device_features, driver_features] = saved.feature_selectors;
        state.common = Common { device_features, driver_features, queue: saved.queue_selector };
        Ok(())
    }
}

#[cfg(test)]
mod tests;
