//! The MMIO transport (section 4.2): the registers of a device in memory, with one interrupt line. Version 2 is the
//! standard's; version 1 is the legacy interface, whose queues are pages.

use crate::device::VirtioDevice;
use crate::queue::RingAddresses;
use crate::registers::saved::RegistersSavedV1;
use crate::registers::{Interface, Interrupts, QueueSetup, Registers};
use crate::spec::device_id;
use parking_lot::Mutex;
use rhea_device::{IrqLine, LoadError, Reset, ResetKind, SavedRecord, StateUnit, load_record, save_record};
use rhea_memory::{AccessSizes, AddressSpace, MmioHandler};
use std::sync::Arc;

/// Bytes of the registers: the configuration space ends where QEMU's does.
pub const MMIO_SIZE: u64 = 0x200;

/// Registers (section 4.2.2; legacy ones 4.2.4).
mod register {
    pub(super) const MAGIC: u64 = 0x000;
    pub(super) const VERSION: u64 = 0x004;
    pub(super) const DEVICE_ID: u64 = 0x008;
    pub(super) const VENDOR_ID: u64 = 0x00c;
    pub(super) const DEVICE_FEATURES: u64 = 0x010;
    pub(super) const DEVICE_FEATURES_SELECT: u64 = 0x014;
    pub(super) const DRIVER_FEATURES: u64 = 0x020;
    pub(super) const DRIVER_FEATURES_SELECT: u64 = 0x024;
    pub(super) const GUEST_PAGE_SIZE: u64 = 0x028;
    pub(super) const QUEUE_SELECT: u64 = 0x030;
    pub(super) const QUEUE_SIZE_MAX: u64 = 0x034;
    pub(super) const QUEUE_SIZE: u64 = 0x038;
    pub(super) const QUEUE_ALIGN: u64 = 0x03c;
    pub(super) const QUEUE_PAGE: u64 = 0x040;
    pub(super) const QUEUE_READY: u64 = 0x044;
    pub(super) const QUEUE_NOTIFY: u64 = 0x050;
    pub(super) const INTERRUPT_STATUS: u64 = 0x060;
    pub(super) const INTERRUPT_ACK: u64 = 0x064;
    pub(super) const STATUS: u64 = 0x070;
    pub(super) const QUEUE_DESCRIPTORS: u64 = 0x080;
    pub(super) const QUEUE_DRIVER: u64 = 0x090;
    pub(super) const QUEUE_DEVICE: u64 = 0x0a0;
    pub(super) const SHARED_MEMORY_LENGTH: u64 = 0x0b0;
    pub(super) const SHARED_MEMORY_BASE: u64 = 0x0b8;
    pub(super) const CONFIG_GENERATION: u64 = 0x0fc;
    pub(super) const CONFIG: u64 = 0x100;
}

/// "virt", little-endian.
const MAGIC: u32 = 0x7472_6976;
/// Vendor ID of QEMU's devices, which drivers may look for.
const VENDOR_ID: u32 = 0x554d_4551;
/// Interrupt status: a queue has used buffers.
const USED_BUFFER: u32 = 1;
/// Interrupt status: the configuration has changed.
const CONFIG_CHANGE: u32 = 2;

/// The interrupt status register and the line it drives.
struct Line {
    state: Mutex<u32>,
    out: IrqLine,
}

impl Line {
    fn change(&self, change: impl FnOnce(u32) -> u32) {
        let mut state = self.state.lock();
        *state = change(*state);
        self.out.set(*state != 0);
    }
}

impl Interrupts for Line {
    fn used(&self, _index: u16) {
        self.change(|status| status | USED_BUFFER);
    }

    fn config_changed(&self) {
        self.change(|status| status | CONFIG_CHANGE);
    }
}

/// Which registers a slot has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MmioVersion {
    /// Version 1.
    Legacy,
    /// Version 2.
    Modern,
}

#[derive(Clone, Copy, Default)]
struct Selection {
    device_features: u32,
    driver_features: u32,
    queue: u32,
    /// Legacy: bytes of a page, and of the alignment of the used ring in the selected queue.
    page_size: u32,
    align: u32,
}

struct State {
    registers: Registers,
    selection: Selection,
}

/// A place for a device in memory.
pub struct VirtioMmio {
    version: MmioVersion,
    line: Arc<Line>,
    /// `None`: an empty slot.
    state: Option<Mutex<State>>,
}

impl VirtioMmio {
    /// A slot with `device`, whose buffers lie in `memory`.
    pub fn new(
        device: Arc<dyn VirtioDevice>,
        version: MmioVersion,
        memory: Arc<AddressSpace>,
        irq: IrqLine,
    ) -> Arc<Self> {
        let line = Arc::new(Line { state: Mutex::new(0), out: irq });
        let interface = match version {
            MmioVersion::Legacy => Interface::Legacy,
            MmioVersion::Modern => Interface::Modern,
        };
        let registers = Registers::new(device, memory, line.clone(), interface);
        let state = Some(Mutex::new(State { registers, selection: Selection::default() }));
        Arc::new(Self { version, line, state })
    }

    /// A slot with nothing in it: device ID 0.
    pub fn empty(version: MmioVersion) -> Arc<Self> {
        let line = Arc::new(Line { state: Mutex::new(0), out: IrqLine::unconnected() });
        Arc::new(Self { version, line, state: None })
    }

    fn is_legacy(&self) -> bool {
        self.version == MmioVersion::Legacy
    }

    fn read_register(&self, state: &State, offset: u64) -> u32 {
        let State { registers, selection } = state;
        let queue = registers.queue(selection.queue.min(0xffff) as u16);
        match offset {
            register::DEVICE_ID => registers.device().device_id(),
            register::DEVICE_FEATURES => word(registers.features(), selection.device_features),
            register::QUEUE_SIZE_MAX => queue.max_size.into(),
            register::QUEUE_PAGE if self.is_legacy() && queue.ready => {
                (queue.addresses.descriptors / u64::from(selection.page_size.max(1))) as u32
            }
            register::QUEUE_READY if !self.is_legacy() => queue.ready.into(),
            register::INTERRUPT_STATUS => *self.line.state.lock(),
            register::STATUS => registers.status().into(),
            // There is no shared memory.
            register::SHARED_MEMORY_LENGTH..register::CONFIG_GENERATION
                if !self.is_legacy() && offset < register::SHARED_MEMORY_BASE + 8 =>
            {
                u32::MAX
            }
            register::CONFIG_GENERATION if !self.is_legacy() => registers.config_generation(),
            _ => 0,
        }
    }

    fn write_register(&self, state: &mut State, offset: u64, value: u32) {
        let State { registers, selection } = state;
        let queue = selection.queue.min(0xffff) as u16;
        match offset {
            register::DEVICE_FEATURES_SELECT => selection.device_features = value,
            register::DRIVER_FEATURES_SELECT => selection.driver_features = value,
            register::DRIVER_FEATURES if selection.driver_features < 2 => {
                let shift = 32 * selection.driver_features;
                let kept = registers.driver_features() & !(u64::from(u32::MAX) << shift);
                registers.set_driver_features(kept | u64::from(value) << shift);
            }
            register::QUEUE_SELECT => selection.queue = value,
            // A size of more than 16 bits is no size.
            register::QUEUE_SIZE => registers.set_up_queue(queue, |q| q.size = value.try_into().unwrap_or(0)),
            register::QUEUE_NOTIFY => registers.notify(value.min(0xffff) as u16),
            register::INTERRUPT_ACK => self.line.change(|status| status & !value),
            register::STATUS => {
                registers.set_status(value as u8);
                if value as u8 == 0 {
                    *selection = Selection::default();
                    self.line.change(|_| 0);
                }
            }
            _ if self.is_legacy() => write_legacy(registers, selection, queue, offset, value),
            _ => write_modern(registers, queue, offset, value),
        }
    }
}

/// One of the two halves of a 64-bit number.
fn word(value: u64, select: u32) -> u32 {
    match select {
        0 => value as u32,
        1 => (value >> 32) as u32,
        _ => 0,
    }
}

/// Version 2: the addresses of a queue's parts.
fn write_modern(registers: &mut Registers, queue: u16, offset: u64, value: u32) {
    let low = |address: &mut u64| *address = *address & !0xffff_ffff | u64::from(value);
    let high = |address: &mut u64| *address = *address & 0xffff_ffff | u64::from(value) << 32;
    registers.set_up_queue(queue, |setup| {
        let at = &mut setup.addresses;
        match offset {
            register::QUEUE_READY => setup.ready = value & 1 != 0,
            register::QUEUE_DESCRIPTORS => low(&mut at.descriptors),
            0x084 => high(&mut at.descriptors),
            register::QUEUE_DRIVER => low(&mut at.driver),
            0x094 => high(&mut at.driver),
            register::QUEUE_DEVICE => low(&mut at.device),
            0x0a4 => high(&mut at.device),
            _ => {}
        }
    });
}

/// Version 1: a queue is a number of pages from a page on.
fn write_legacy(registers: &mut Registers, selection: &mut Selection, queue: u16, offset: u64, value: u32) {
    match offset {
        register::GUEST_PAGE_SIZE => selection.page_size = value,
        register::QUEUE_ALIGN => selection.align = value,
        register::QUEUE_PAGE => {
            let (page, align) = (u64::from(selection.page_size), u64::from(selection.align));
            registers.set_up_queue(queue, |setup| {
                setup.ready = value != 0;
                setup.addresses = legacy_addresses(setup, u64::from(value) * page, align);
            });
        }
        _ => {}
    }
}

/// Where the parts of a legacy queue lie (section 2.7.2): the used ring at the next multiple of `align` behind the rest.
fn legacy_addresses(setup: &QueueSetup, start: u64, align: u64) -> RingAddresses {
    let size = u64::from(setup.size);
    let driver = start.wrapping_add(16 * size);
    let end = driver.wrapping_add(2 * (3 + size));
    let align = if align.is_power_of_two() { align } else { 1 };
    let device = end.wrapping_add(align - 1) & !(align - 1);
    RingAddresses { descriptors: start, driver, device }
}

impl MmioHandler for VirtioMmio {
    fn read(&self, offset: u64, size: usize) -> u64 {
        if offset >= register::CONFIG {
            let Some(state) = &self.state else { return 0 };
            return state.lock().registers.read_config(offset - register::CONFIG, size);
        }
        // Registers are read as 32 bits only.
        if size != 4 {
            return 0;
        }
        let value = match offset {
            register::MAGIC => MAGIC,
            register::VERSION => 1 + u32::from(!self.is_legacy()),
            register::VENDOR_ID => VENDOR_ID,
            _ => match &self.state {
                Some(state) => self.read_register(&state.lock(), offset),
                None if offset == register::DEVICE_ID => device_id::NONE,
                None => 0,
            },
        };
        value.into()
    }

    fn write(&self, offset: u64, size: usize, value: u64) {
        let Some(state) = &self.state else { return };
        if offset >= register::CONFIG {
            state.lock().registers.write_config(offset - register::CONFIG, size, value);
        } else if size == 4 {
            self.write_register(&mut state.lock(), offset, value as u32);
        }
    }

    fn access_sizes(&self) -> AccessSizes {
        AccessSizes { min: 1, max: 4 }
    }
}

impl Reset for VirtioMmio {
    fn reset(&self, _: ResetKind) {
        if let Some(state) = &self.state {
            let mut state = state.lock();
            state.registers.reset();
            state.selection = Selection::default();
        }
        self.line.change(|_| 0);
    }
}

rhea_device::saved_record! { "virtio-mmio", 1,
    /// Saved state of a slot.
    pub struct MmioSavedV1 {
        /// Version 1.
        legacy: bool,
        /// Selectors: features of the device, of the driver, and queue.
        selectors: [u32; 3],
        /// Legacy: page size.
        page_size: u32,
        /// Legacy: alignment.
        align: u32,
        /// Interrupt status.
        interrupt_status: u32,
        /// What all transports have; nothing of an empty slot.
        device: Option<RegistersSavedV1>,
    }
}

impl StateUnit for VirtioMmio {
    fn save(&self) -> SavedRecord {
        let state = self.state.as_ref().map(Mutex::lock);
        let selection = state.as_ref().map(|state| state.selection).unwrap_or_default();
        let device = state.as_ref().map(|state| state.registers.save());
        save_record(&MmioSavedV1 {
            legacy: self.is_legacy(),
            selectors: [selection.device_features, selection.driver_features, selection.queue],
            page_size: selection.page_size,
            align: selection.align,
            // After the device has been paused, so that its last interrupts are in it.
            interrupt_status: *self.line.state.lock(),
            device,
        })
    }

    fn load(&self, record: &SavedRecord) -> Result<(), LoadError> {
        let saved: MmioSavedV1 = load_record(record)?;
        let bad = |field| LoadError::BadValue { device: "virtio-mmio", field };
        if saved.legacy != self.is_legacy() {
            return Err(bad("version"));
        }
        match (&self.state, &saved.device) {
            (Some(state), Some(device)) => {
                let mut state = state.lock();
                self.line.change(|_| saved.interrupt_status & (USED_BUFFER | CONFIG_CHANGE));
                state.registers.load(device)?;
                let [device_features, driver_features, queue] = saved.selectors;
                let (page_size, align) = (saved.page_size, saved.align);
                state.selection = Selection { device_features, driver_features, queue, page_size, align };
                Ok(())
            }
            (None, None) => Ok(()),
            _ => Err(bad("device")),
        }
    }
}

#[cfg(test)]
mod tests;
