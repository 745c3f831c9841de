//! Saved state of what transports share.

use super::{QueueSetup, Registers};
use crate::queue::{Progress, RingAddresses};
use crate::spec::status;
use rhea_device::{LoadError, SavedRecord};
use std::sync::atomic::Ordering;

rhea_device::saved_record! { "virtio-queue", 1,
    /// One queue.
    pub struct QueueSavedV1 {
        /// Descriptors.
        size: u16,
        /// In use.
        ready: bool,
        /// Address of the descriptors.
        descriptors: u64,
        /// Address of the driver area.
        driver: u64,
        /// Address of the device area.
        device: u64,
        /// Next to take.
        available: u16,
        /// Next to give back.
        used: u16,
    }
}

rhea_device::saved_record! { "virtio-record", 1,
    /// The device's own record.
    pub struct DeviceSavedV1 {
        /// Name of the record.
        name: Vec<u8>,
        /// Its version.
        version: u32,
        /// Its fields.
        data: Vec<u8>,
    }
}

rhea_device::saved_record! { "virtio", 1,
    /// Device ID, negotiation and queues.
    pub struct RegistersSavedV1 {
        /// Device ID.
        device_id: u32,
        /// Device status.
        status: u8,
        /// Features that the driver accepted.
        driver_features: u64,
        /// Changes of the configuration space.
        generation: u32,
        /// Queues.
        queues: Vec<QueueSavedV1>,
        /// The device's own state.
        device: Option<DeviceSavedV1>,
    }
}

impl Registers {
    /// The state now. The device is paused meanwhile, and goes on afterwards.
    pub(crate) fn save(&self) -> RegistersSavedV1 {
        self.device.pause();
        let queue = |(index, setup): (usize, &QueueSetup)| {
            let active = self.active.get(index).and_then(Option::as_ref);
            let progress = active.map(|queue| queue.progress()).unwrap_or_default();
            let RingAddresses { descriptors, driver, device } = setup.addresses;
            let Progress { available, used } = progress;
            QueueSavedV1 {
                size: setup.size,
                ready: setup.ready,
                descriptors,
                driver,
                device,
                available,
                used,
            }
        };
        let record = |record: SavedRecord| DeviceSavedV1 {
            name: record.name.into_bytes(),
            version: record.version,
            data: record.data,
        };
        let saved = RegistersSavedV1 {
            device_id: self.device.device_id(),
            status: self.status(),
            driver_features: self.driver_features,
            generation: self.config_generation(),
            queues: self.queues.iter().enumerate().map(queue).collect(),
            device: self.device.save().map(record),
        };
        self.device.resume();
        saved
    }

    /// Takes on a state.
    ///
    /// # Errors
    /// It is another device's, or one that the device cannot be in; nothing has changed then but what the device itself
    /// refused.
    pub(crate) fn load(&mut self, saved: &RegistersSavedV1) -> Result<(), LoadError> {
        let bad = |field| LoadError::BadValue { device: "virtio", field };
        let sizes = self.device.queue_sizes();
        if saved.device_id != self.device.device_id() {
            return Err(bad("device ID"));
        }
        if saved.queues.len() != sizes.len() {
            return Err(bad("queues"));
        }
        let live = saved.status & status::DRIVER_OK != 0;
        let agreed = saved.status & status::FEATURES_OK != 0;
        if (live || agreed) && saved.driver_features & !self.features() != 0 {
            return Err(bad("features"));
        }
        if saved.queues.iter().zip(sizes).any(|(queue, most)| queue.size == 0 || queue.size > *most) {
            return Err(bad("queue size"));
        }
        let record = match &saved.device {
            None => None,
            Some(record) => Some(SavedRecord {
                name: String::from_utf8(record.name.clone()).map_err(|_| bad("device"))?,
                version: record.version,
                data: record.data.clone(),
            }),
        };
        self.reset();
        self.device.load(record.as_ref())?;
        self.driver_features = saved.driver_features;
        self.status = saved.status & !status::NEEDS_RESET;
        self.signals.needs_reset.store(saved.status & status::NEEDS_RESET != 0, Ordering::SeqCst);
        self.signals.generation.store(saved.generation, Ordering::SeqCst);
        for (queue, saved) in self.queues.iter_mut().zip(&saved.queues) {
            let (descriptors, driver, device) = (saved.descriptors, saved.driver, saved.device);
            queue.size = saved.size;
            queue.ready = saved.ready;
            queue.addresses = RingAddresses { descriptors, driver, device };
        }
        if live {
            let progress = |queue: &QueueSavedV1| Progress { available: queue.available, used: queue.used };
            self.activate(|index| saved.queues.get(index).map(progress));
        }
        Ok(())
    }
}
