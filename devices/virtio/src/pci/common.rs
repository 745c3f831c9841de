//! The common configuration (section 4.1.4.3).

use super::interrupts::PciInterrupts;
use crate::registers::Registers;

/// Fields.
pub(super) mod field {
    pub(crate) const DEVICE_FEATURE_SELECT: u64 = 0x00;
    pub(crate) const DEVICE_FEATURE: u64 = 0x04;
    pub(crate) const DRIVER_FEATURE_SELECT: u64 = 0x08;
    pub(crate) const DRIVER_FEATURE: u64 = 0x0c;
    pub(crate) const CONFIG_VECTOR: u64 = 0x10;
    pub(crate) const QUEUES: u64 = 0x12;
    pub(crate) const STATUS: u64 = 0x14;
    pub(crate) const CONFIG_GENERATION: u64 = 0x15;
    pub(crate) const QUEUE_SELECT: u64 = 0x16;
    pub(crate) const QUEUE_SIZE: u64 = 0x18;
    pub(crate) const QUEUE_VECTOR: u64 = 0x1a;
    pub(crate) const QUEUE_ENABLE: u64 = 0x1c;
    pub(crate) const QUEUE_NOTIFY_OFFSET: u64 = 0x1e;
    pub(crate) const QUEUE_DESCRIPTORS: u64 = 0x20;
    pub(crate) const QUEUE_DRIVER: u64 = 0x28;
    pub(crate) const QUEUE_DEVICE: u64 = 0x30;
}

/// What the driver has selected.
#[derive(Clone, Copy, Default)]
pub(super) struct Common {
    pub(super) device_features: u32,
    pub(super) driver_features: u32,
    pub(super) queue: u16,
}

/// One of the two halves of a 64-bit number.
fn word(value: u64, select: u32) -> u32 {
    if select < 2 { (value >> (32 * select)) as u32 } else { 0 }
}

impl Common {
    /// Reads a field; drivers read each with its own width, and 64 bits as two words (section 4.1.3.1).
    pub(super) fn read(
        &self,
        registers: &Registers,
        interrupts: &PciInterrupts,
        at: u64,
        size: usize,
    ) -> u32 {
        let queue = registers.queue(self.queue);
        let addresses = queue.addresses;
        let (width, value) = match at {
            field::DEVICE_FEATURE_SELECT => (4, self.device_features),
            field::DEVICE_FEATURE => (4, word(registers.features(), self.device_features)),
            field::DRIVER_FEATURE_SELECT => (4, self.driver_features),
            field::DRIVER_FEATURE => (4, word(registers.driver_features(), self.driver_features)),
            field::CONFIG_VECTOR => (2, interrupts.config_vector().into()),
            field::QUEUES => (2, registers.queue_count().into()),
            field::STATUS => (1, registers.status().into()),
            field::CONFIG_GENERATION => (1, registers.config_generation() & 0xff),
            field::QUEUE_SELECT => (2, self.queue.into()),
            field::QUEUE_SIZE => (2, queue.size.into()),
            field::QUEUE_VECTOR => (2, interrupts.queue_vector(self.queue).into()),
            field::QUEUE_ENABLE => (2, queue.ready.into()),
            field::QUEUE_NOTIFY_OFFSET => (2, self.queue.into()),
            field::QUEUE_DESCRIPTORS => (4, word(addresses.descriptors, 0)),
            0x24 => (4, word(addresses.descriptors, 1)),
            field::QUEUE_DRIVER => (4, word(addresses.driver, 0)),
            0x2c => (4, word(addresses.driver, 1)),
            field::QUEUE_DEVICE => (4, word(addresses.device, 0)),
            0x34 => (4, word(addresses.device, 1)),
            _ => (size, 0),
        };
        if width == size { value } else { 0 }
    }

    /// Writes a field, each with its own width.
    pub(super) fn write(
        &mut self,
        registers: &mut Registers,
        interrupts: &PciInterrupts,
        at: u64,
        size: usize,
        value: u32,
    ) {
        let low = |address: &mut u64| *address = *address & !0xffff_ffff | u64::from(value);
        let high = |address: &mut u64| *address = *address & 0xffff_ffff | u64::from(value) << 32;
        let queue = self.queue;
        match (at, size) {
            (field::DEVICE_FEATURE_SELECT, 4) => self.device_features = value,
            (field::DRIVER_FEATURE_SELECT, 4) => self.driver_features = value,
            (field::DRIVER_FEATURE, 4) if self.driver_features < 2 => {
                let shift = 32 * self.driver_features;
                let kept = registers.driver_features() & !(u64::from(u32::MAX) << shift);
                registers.set_driver_features(kept | u64::from(value) << shift);
            }
            (field::CONFIG_VECTOR, 2) => interrupts.set_config_vector(value as u16),
            (field::STATUS, 1) => {
                registers.set_status(value as u8);
                if value as u8 == 0 {
                    *self = Self::default();
                    interrupts.reset();
                }
            }
            (field::QUEUE_SELECT, 2) => self.queue = value as u16,
            (field::QUEUE_SIZE, 2) => registers.set_up_queue(queue, |q| q.size = value as u16),
            (field::QUEUE_VECTOR, 2) => interrupts.set_queue_vector(queue, value as u16),
            // A driver does not disable a queue but by a reset.
            (field::QUEUE_ENABLE, 2) if value == 1 => registers.set_up_queue(queue, |q| q.ready = true),
            (field::QUEUE_DESCRIPTORS, 4) => {
                registers.set_up_queue(queue, |q| low(&mut q.addresses.descriptors));
            }
            (0x24, 4) => registers.set_up_queue(queue, |q| high(&mut q.addresses.descriptors)),
            (field::QUEUE_DRIVER, 4) => registers.set_up_queue(queue, |q| low(&mut q.addresses.driver)),
            (0x2c, 4) => registers.set_up_queue(queue, |q| high(&mut q.addresses.driver)),
            (field::QUEUE_DEVICE, 4) => registers.set_up_queue(queue, |q| low(&mut q.addresses.device)),
            (0x34, 4) => registers.set_up_queue(queue, |q| high(&mut q.addresses.device)),
            _ => {}
        }
    }
}
