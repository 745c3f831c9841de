//! The console (section 5.3) with one port, on a character back end. Several ports (`VIRTIO_CONSOLE_F_MULTIPORT`) are not
//! offered.

use crate::device::{Activation, VirtioDevice};
use crate::queue::{Chain, Queue};
use crate::server::{ChainHandler, Server};
use crate::spec::device_id;
use parking_lot::Mutex;
use rhea_chardev::{CharReceiver, Chardev};
use rhea_device::{LoadError, SavedRecord, load_record, save_record};
use std::collections::VecDeque;
use std::future::{Future, ready};
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Weak};

/// The queue for what the driver receives; the other one, 1, is for what it transmits.
const RECEIVE: u16 = 0;
const QUEUE_SIZES: [u16; 2] = [128, 128];
/// Input that waits for buffers.
const INPUT_MOST: usize = 4096;
/// Bytes of a chain that are sent; no driver has more in one.
const OUTPUT_MOST: u64 = 1 << 20;

/// Sends what the driver transmits.
struct Output(Arc<dyn Chardev>);

impl ChainHandler for Output {
    fn handle(&self, queue: &Queue, chain: &Chain) -> Pin<Box<dyn Future<Output = u32> + Send>> {
        let mut bytes = vec![0; chain.readable_len().min(OUTPUT_MOST) as usize];
        // Now, not in the future: chains are handed over in order. What the host does not take in time is dropped.
        if let Ok(count) = chain.read(queue.memory(), &mut bytes) {
            let mut rest = bytes.get(..count).unwrap_or_default();
            while !rest.is_empty() {
                match self.0.write(rest) {
                    0 => break,
                    taken => rest = rest.get(taken..).unwrap_or_default(),
                }
            }
        }
        Box::pin(ready(0))
    }
}

#[derive(Default)]
struct Input {
    queue: Option<Arc<Queue>>,
    bytes: VecDeque<u8>,
    paused: bool,
}

impl Input {
    /// Puts waiting bytes into the driver's buffers.
    fn deliver(&mut self) {
        let Some(queue) = self.queue.clone().filter(|_| !self.paused) else { return };
        // A queue has no more chains than this, unless the driver adds some meanwhile.
        for _ in 0..2 * QUEUE_SIZES[0] {
            if self.bytes.is_empty() {
                return;
            }
            let Some(chain) = queue.take() else {
                if queue.enable_notifications() {
                    continue;
                }
                return;
            };
            let room = usize::try_from(chain.writable_len()).unwrap_or(INPUT_MOST);
            let bytes: Vec<u8> = self.bytes.drain(..room.min(self.bytes.len())).collect();
            let written = chain.write(queue.memory(), &bytes).unwrap_or(0);
            queue.give_back(chain.id(), written as u32);
        }
    }
}

/// A virtio console.
pub struct VirtioConsole {
    backend: Arc<dyn Chardev>,
    input: Mutex<Input>,
    server: Server<Output>,
}

struct Receiver(Weak<VirtioConsole>);

impl CharReceiver for Receiver {
    fn can_receive(&self) -> usize {
        self.0.upgrade().map_or(0, |console| INPUT_MOST - console.input.lock().bytes.len().min(INPUT_MOST))
    }

    fn receive(&self, bytes: &[u8]) {
        let Some(console) = self.0.upgrade() else { return };
        let mut input = console.input.lock();
        let room = INPUT_MOST - input.bytes.len().min(INPUT_MOST);
        input.bytes.extend(bytes.iter().take(room));
        input.deliver();
    }
}

impl VirtioConsole {
    /// A console on `backend`, with a thread for its output.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn new(backend: Arc<dyn Chardev>) -> io::Result<Arc<Self>> {
        let server = Server::start("virtio-console", Arc::new(Output(backend.clone())))?;
        let console = Arc::new(Self { backend: backend.clone(), input: Mutex::default(), server });
        backend.attach(Arc::new(Receiver(Arc::downgrade(&console))));
        Ok(console)
    }

    /// Delivers, and says that there is room again.
    fn deliver(&self) {
        self.input.lock().deliver();
        self.backend.accept_input();
    }
}

impl VirtioDevice for VirtioConsole {
    fn device_id(&self) -> u32 {
        device_id::CONSOLE
    }

    fn pci_class(&self) -> [u8; 3] {
        // Other communication controller.
        [0x07, 0x80, 0x00]
    }

    fn features(&self) -> u64 {
        0
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn read_config(&self, _offset: u64, out: &mut [u8]) {
        // Size and number of ports are those of features that are not offered.
        out.fill(0);
    }

    fn write_config(&self, _offset: u64, _data: &[u8]) {}

    fn activate(&self, activation: Activation) {
        let Activation { features, mut queues, config_changed } = activation;
        self.input.lock().queue = queues.get_mut(usize::from(RECEIVE)).and_then(Option::take);
        self.server.activate(&Activation { features, queues, config_changed });
        self.deliver();
    }

    fn notify(&self, index: u16) {
        match index {
            RECEIVE => self.deliver(),
            _ => self.server.notify(index),
        }
    }

    fn reset(&self) {
        let mut input = self.input.lock();
        input.queue = None;
        input.bytes.clear();
        drop(input);
        self.server.reset();
    }

    fn pause(&self) {
        self.input.lock().paused = true;
        self.server.pause();
    }

    fn resume(&self) {
        self.input.lock().paused = false;
        self.server.resume();
        self.deliver();
    }

    fn save(&self) -> Option<SavedRecord> {
        let input = self.input.lock().bytes.iter().copied().collect();
        Some(save_record(&ConsoleSavedV1 { input }))
    }

    fn load(&self, record: Option<&SavedRecord>) -> Result<(), LoadError> {
        let bad = |field| LoadError::BadValue { device: "virtio-console", field };
        let saved: ConsoleSavedV1 = load_record(record.ok_or(bad("record"))?)?;
        if saved.input.len() > INPUT_MOST {
            return Err(bad("input"));
        }
        self.input.lock().bytes = saved.input.into();
        Ok(())
    }
}

rhea_device::saved_record! { "virtio-console", 1,
    /// Saved state of the console.
    pub struct ConsoleSavedV1 {
        /// Input that waits for buffers.
        input: Vec<u8>,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::QueueConfig;
    use crate::queue::tests::{Driver, Log, ram};
    use rhea_chardev::CharSink;

    #[derive(Default)]
    struct Host {
        output: Mutex<Vec<u8>>,
        receiver: Mutex<Option<Arc<dyn CharReceiver>>>,
    }

    impl CharSink for Host {
        fn write(&self, bytes: &[u8]) -> usize {
            // Three bytes at a time: a sluggish host.
            let taken = bytes.len().min(3);
            self.output.lock().extend_from_slice(&bytes[..taken]);
            taken
        }

        fn is_open(&self) -> bool {
            true
        }
    }

    impl Chardev for Host {
        fn attach(&self, receiver: Arc<dyn CharReceiver>) {
            *self.receiver.lock() = Some(receiver);
        }

        fn accept_input(&self) {}
    }

    #[test]
    fn bytes_go_both_ways_in_order() {
        let (memory, host) = (ram(), Arc::new(Host::default()));
        let console = VirtioConsole::new(host.clone()).unwrap();
        let receiver = host.receiver.lock().clone().unwrap();
        receiver.receive(b"early ");
        let mut drivers =
            [Driver::new(&memory, 0x1_0000, 8, false), Driver::new(&memory, 0x2_0000, 8, false)];
        let queue = |index: u16, driver: &Driver| {
            let config = QueueConfig { index, size: 8, addresses: driver.at, features: 0, progress: None };
            Some(Queue::new(&config, memory.clone(), Arc::new(Log::default())))
        };
        let queues = vec![queue(0, &drivers[0]), queue(1, &drivers[1])];
        let config_changed: Arc<dyn Fn() + Send + Sync> = Arc::new(|| {});
        console.activate(Activation { features: 0, queues, config_changed });
        let [receive, transmit] = &mut drivers;
        receive.offer(&[(0x100, 4, true), (0x200, 100, true)]);
        console.notify(0);
        assert_eq!(receive.used(), Some((0, 6)));
        receiver.receive(b"late");
        assert_eq!(receive.used(), None);
        receive.offer(&[(0x300, 100, true)]);
        console.notify(0);
        assert_eq!(receive.used(), Some((2, 4)));
        let mut bytes = [0; 4];
        memory.dma_read(0x300, &mut bytes).unwrap();
        assert_eq!(&bytes, b"late");
        memory.dma_write(0x400, b"hello, world").unwrap();
        transmit.offer(&[(0x400, 5, false), (0x405, 2, false)]);
        transmit.offer(&[(0x407, 5, false)]);
        console.notify(1);
        for _ in 0..2 {
            while transmit.used().is_none() {
                std::thread::yield_now();
            }
        }
        assert_eq!(host.output.lock()[..], *b"hello, world");
        assert_eq!(receiver.can_receive(), INPUT_MOST);
        receiver.receive(&[b'x'; 5000]);
        assert_eq!(receiver.can_receive(), 0);
        let saved = console.save();
        console.reset();
        assert_eq!(receiver.can_receive(), INPUT_MOST);
        console.load(saved.as_ref()).unwrap();
        assert_eq!(receiver.can_receive(), 0);
    }
}
