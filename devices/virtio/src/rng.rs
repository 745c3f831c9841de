//! The entropy device (section 5.4): random bytes of the host for the guest.

use crate::device::{Activation, VirtioDevice};
use crate::queue::{Chain, Queue};
use crate::server::{ChainHandler, Server};
use crate::spec::device_id;
use std::future::{Future, ready};
use std::io;
use std::pin::Pin;
use std::sync::Arc;

/// Bytes for a chain at most; a driver takes what it gets (section 5.4.6.1).
const MOST: usize = 4096;
/// Descriptors of its queue.
const QUEUE_SIZES: [u16; 1] = [8];

struct Entropy;

impl ChainHandler for Entropy {
    fn handle(&self, queue: &Queue, chain: &Chain) -> Pin<Box<dyn Future<Output = u32> + Send>> {
        let mut bytes = [0; MOST];
        let wanted = usize::try_from(chain.writable_len()).unwrap_or(MOST).min(MOST);
        let bytes = bytes.get_mut(..wanted).unwrap_or_default();
        // Nothing is better than bytes that are not random.
        let written = match getrandom::fill(bytes) {
            Ok(()) => chain.write(queue.memory(), bytes).unwrap_or(0),
            Err(_) => 0,
        };
        Box::pin(ready(written as u32))
    }
}

/// A virtio entropy device. Its bytes are those of the host's kernel.
pub struct VirtioRng {
    server: Server<Entropy>,
}

impl VirtioRng {
    /// A device with a thread of its own.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn new() -> io::Result<Arc<Self>> {
        Ok(Arc::new(Self { server: Server::start("virtio-rng", Arc::new(Entropy))? }))
    }
}

impl VirtioDevice for VirtioRng {
    fn device_id(&self) -> u32 {
        device_id::ENTROPY
    }

    fn pci_class(&self) -> [u8; 3] {
        // Without a class of its own.
        [0x00, 0xff, 0x00]
    }

    fn features(&self) -> u64 {
        0
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn read_config(&self, _offset: u64, out: &mut [u8]) {
        out.fill(0);
    }

    fn write_config(&self, _offset: u64, _data: &[u8]) {}

    fn activate(&self, activation: Activation) {
        self.server.activate(&activation);
    }

    fn notify(&self, index: u16) {
        self.server.notify(index);
    }

    fn reset(&self) {
        self.server.reset();
    }

    fn pause(&self) {
        self.server.pause();
    }

    fn resume(&self) {
        self.server.resume();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::tests::{Driver, Log, ram};
    use crate::queue::{QueueConfig, RingAddresses};

    #[test]
    fn a_driver_gets_random_bytes() {
        let memory = ram();
        let mut driver = Driver::new(&memory, 0x1_0000, 8, false);
        let addresses: RingAddresses = driver.at;
        let config = QueueConfig { index: 0, size: 8, addresses, features: 0, progress: None };
        let queue = Queue::new(&config, memory.clone(), Arc::new(Log::default()));
        let device = VirtioRng::new().unwrap();
        driver.offer(&[(0x100, 64, true), (0x200, 1 << 20, true)]);
        let config_changed: Arc<dyn Fn() + Send + Sync> = Arc::new(|| {});
        device.activate(Activation { features: 0, queues: vec![Some(queue)], config_changed });
        let used = loop {
            match driver.used() {
                Some(used) => break used,
                None => std::thread::yield_now(),
            }
        };
        assert_eq!(used, (0, MOST as u32));
        let mut bytes = [0; 64];
        memory.dma_read(0x100, &mut bytes).unwrap();
        assert_ne!(bytes, [0; 64]);
        device.reset();
        driver.offer(&[(0x100, 64, true)]);
        device.notify(0);
        device.pause();
        assert_eq!(driver.used(), None, "nothing after a reset");
    }
}
