//! What every transport has of a device: status, features, queues (sections 2.1 to 2.7 and 3.1). Transports turn their own
//! registers into these calls.

use crate::device::{Activation, VirtioDevice};
use crate::queue::{Progress, Queue, QueueConfig, QueueEvents, RingAddresses};
use crate::spec::{QUEUE_SIZE_LIMIT, feature, status};
use rhea_memory::AddressSpace;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

/// The interrupts of a transport.
pub(crate) trait Interrupts: Send + Sync {
    /// Queue `index` has used buffers.
    fn used(&self, index: u16);
    /// The configuration space has changed, or the device needs a reset.
    fn config_changed(&self);
}

/// What a device tells its driver on its own account. It has no lock: queues call it from any thread.
pub(crate) struct Signals {
    interrupts: Arc<dyn Interrupts>,
    needs_reset: AtomicBool,
    generation: AtomicU32,
}

impl Signals {
    fn config_changed(&self) {
        self.generation.fetch_add(1, Ordering::SeqCst);
        self.interrupts.config_changed();
    }
}

impl QueueEvents for Signals {
    fn used(&self, index: u16) {
        self.interrupts.used(index);
    }

    fn broken(&self, _index: u16, _error: crate::queue::QueueError) {
        self.needs_reset.store(true, Ordering::SeqCst);
        self.interrupts.config_changed();
    }
}

/// A queue as the driver configures it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct QueueSetup {
    pub(crate) max_size: u16,
    pub(crate) size: u16,
    pub(crate) ready: bool,
    pub(crate) addresses: RingAddresses,
}

/// Which interface the driver uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Interface {
    /// The standard's.
    Modern,
    /// That of before (section 7.4).
    Legacy,
}

/// The state of a device that its driver sees.
pub(crate) struct Registers {
    device: Arc<dyn VirtioDevice>,
    memory: Arc<AddressSpace>,
    signals: Arc<Signals>,
    interface: Interface,
    status: u8,
    driver_features: u64,
    queues: Vec<QueueSetup>,
    active: Vec<Option<Arc<Queue>>>,
}

impl Registers {
    pub(crate) fn new(
        device: Arc<dyn VirtioDevice>,
        memory: Arc<AddressSpace>,
        interrupts: Arc<dyn Interrupts>,
        interface: Interface,
    ) -> Self {
        let signals =
            Signals { interrupts, needs_reset: AtomicBool::new(false), generation: AtomicU32::new(0) };
        let mut registers = Self {
            device,
            memory,
            signals: Arc::new(signals),
            interface,
            status: 0,
            driver_features: 0,
            queues: Vec::new(),
            active: Vec::new(),
        };
        registers.clear();
        registers
    }

    pub(crate) fn device(&self) -> &Arc<dyn VirtioDevice> {
        &self.device
    }

    fn clear(&mut self) {
        self.status = 0;
        self.driver_features = 0;
        self.signals.needs_reset.store(false, Ordering::SeqCst);
        let setup = |size: &u16| {
            let size = (*size).min(QUEUE_SIZE_LIMIT);
            QueueSetup { max_size: size, size, ..QueueSetup::default() }
        };
        self.queues = self.device.queue_sizes().iter().map(setup).collect();
    }

    /// Resets the device: waits until it has let go of the guest's memory.
    pub(crate) fn reset(&mut self) {
        self.device.reset();
        self.active.clear();
        self.clear();
    }

    /// Features offered.
    pub(crate) fn features(&self) -> u64 {
        let rings = feature::INDIRECT_DESC | feature::EVENT_IDX;
        let interface = match self.interface {
            Interface::Modern => feature::VERSION_1 | feature::RING_PACKED,
            Interface::Legacy => feature::ANY_LAYOUT,
        };
        self.device.features() | rings | interface
    }

    pub(crate) fn driver_features(&self) -> u64 {
        self.driver_features
    }

    /// The driver accepts features; not any more once they are agreed upon.
    pub(crate) fn set_driver_features(&mut self, features: u64) {
        if self.status & (status::FEATURES_OK | status::DRIVER_OK) == 0 {
            self.driver_features = features;
        }
    }

    pub(crate) fn status(&self) -> u8 {
        let needs_reset = self.signals.needs_reset.load(Ordering::SeqCst);
        self.status | if needs_reset { status::NEEDS_RESET } else { 0 }
    }

    /// The driver goes on, or (0) resets the device.
    pub(crate) fn set_status(&mut self, value: u8) {
        if value == 0 {
            return self.reset();
        }
        // Bits are only ever added (section 2.1.1); the device's own is not the driver's.
        let mut new = self.status | value & !status::NEEDS_RESET;
        let added = new & !self.status;
        if added & status::FEATURES_OK != 0 && !self.are_features_good() {
            new &= !status::FEATURES_OK;
        }
        if added & status::DRIVER_OK != 0 {
            let agreed = new & status::FEATURES_OK != 0;
            if self.interface == Interface::Modern && !agreed {
                new &= !status::DRIVER_OK;
            } else {
                self.activate(|_| None);
            }
        }
        self.status = new;
    }

    fn are_features_good(&self) -> bool {
        let version_1 = self.driver_features & feature::VERSION_1 != 0;
        self.driver_features & !self.features() == 0 && (version_1 || self.interface == Interface::Legacy)
    }

    fn activate(&mut self, progress: impl Fn(usize) -> Option<Progress>) {
        // A legacy driver does not say when it is done choosing.
        let features = self.driver_features & self.features();
        let queue = |(index, setup): (usize, &QueueSetup)| {
            setup.ready.then(|| {
                let config = QueueConfig {
                    index: index as u16,
                    size: setup.size,
                    addresses: setup.addresses,
                    features,
                    progress: progress(index),
                };
                Queue::new(&config, self.memory.clone(), self.signals.clone())
            })
        };
        self.active = self.queues.iter().enumerate().map(queue).collect();
        let signals = self.signals.clone();
        self.device.activate(Activation {
            features,
            queues: self.active.clone(),
            config_changed: Arc::new(move || signals.config_changed()),
        });
    }

    fn is_live(&self) -> bool {
        self.status & status::DRIVER_OK != 0
    }

    pub(crate) fn queue_count(&self) -> u16 {
        self.queues.len() as u16
    }

    /// A queue's setup; that of no queue (of size 0) if there is none of this number.
    pub(crate) fn queue(&self, index: u16) -> QueueSetup {
        self.queues.get(usize::from(index)).copied().unwrap_or_default()
    }

    /// Changes a queue's setup, as long as the device is not live. What no queue can be is not taken.
    pub(crate) fn set_up_queue(&mut self, index: u16, change: impl FnOnce(&mut QueueSetup)) {
        let live = self.is_live();
        let packed = self.driver_features & feature::RING_PACKED != 0;
        let Some(queue) = self.queues.get_mut(usize::from(index)) else { return };
        let mut new = *queue;
        change(&mut new);
        let size = new.size;
        let size_is_good = (1..=queue.max_size).contains(&size) && (packed || size.is_power_of_two());
        if !live && size_is_good {
            *queue = new;
        }
    }

    /// The driver has put something into a queue.
    pub(crate) fn notify(&self, index: u16) {
        if self.is_live() && index < self.queue_count() {
            self.device.notify(index);
        }
    }

    /// Tells the device of every queue, of which it may have missed notifications.
    pub(crate) fn notify_all(&self) {
        (0..self.queue_count()).for_each(|index| self.notify(index));
    }

    /// Counts changes of the configuration space.
    pub(crate) fn config_generation(&self) -> u32 {
        self.signals.generation.load(Ordering::SeqCst)
    }

    /// Reads 1 to 8 bytes of the configuration space.
    pub(crate) fn read_config(&self, offset: u64, size: usize) -> u64 {
        let mut bytes = [0; 8];
        self.device.read_config(offset, bytes.get_mut(..size).unwrap_or_default());
        u64::from_le_bytes(bytes)
    }

    /// Writes 1 to 8 bytes of the configuration space.
    pub(crate) fn write_config(&self, offset: u64, size: usize, value: u64) {
        self.device.write_config(offset, value.to_le_bytes().get(..size).unwrap_or_default());
    }
}

pub(crate) mod saved;
