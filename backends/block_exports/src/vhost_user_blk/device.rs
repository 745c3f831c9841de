//! The device as rust-vmm's crates call it: features, configuration, and notifications of queues.

use std::io;
use std::sync::Arc;

use event_listener::Event;
use parking_lot::Mutex;
use rhea_async_io::{Executor, IoVector, block_on};
use rhea_virtio_disk::Disk;
use rhea_virtio_disk::spec::{Configuration, WRITEBACK_OFFSET, feature};
use vhost::vhost_user::message::{VhostUserProtocolFeatures, VhostUserVirtioFeatures};
use vhost_user_backend::{VhostUserBackend, VringRwLock, VringT};
use virtio_queue::{DescriptorChain, QueueOwnedT};
use vm_memory::{GuestAddressSpace, GuestMemoryAtomic, GuestMemoryLoadGuard, GuestMemoryMmap};
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::event::{EventConsumer, EventFlag, EventNotifier, new_event_consumer_and_notifier};

use super::MAX_QUEUE;
use super::memory::MappedMemory;

/// Segments of data in a request, beside header and status: as many as fit the queue that machines mostly have.
const SEG_MAX: u32 = 126;

/// VIRTIO_RING_F_INDIRECT_DESC
const INDIRECT_DESC: u64 = 1 << 28;
/// VIRTIO_RING_F_EVENT_IDX
const EVENT_IDX: u64 = 1 << 29;
/// VIRTIO_F_VERSION_1
const VERSION_1: u64 = 1 << 32;

type Memory = GuestMemoryAtomic<GuestMemoryMmap>;
type Chain = DescriptorChain<GuestMemoryLoadGuard<GuestMemoryMmap>>;

/// Requests of a queue under way.
#[derive(Default)]
struct Flights {
    count: Mutex<usize>,
    landed: Event,
}

impl Flights {
    fn start(self: &Arc<Self>) -> Flight {
        *self.count.lock() += 1;
        Flight(self.clone())
    }

    async fn idle(&self) {
        loop {
            let listener = self.landed.listen();
            if *self.count.lock() == 0 {
                return;
            }
            listener.await;
        }
    }
}

/// A request under way.
struct Flight(Arc<Flights>);

impl Drop for Flight {
    fn drop(&mut self) {
        *self.0.count.lock() -= 1;
        self.0.landed.notify(usize::MAX);
    }
}

/// The device.
pub(super) struct Device {
    pub(super) disk: Arc<Disk>,
    queues: Vec<Arc<Flights>>,
    memory: Mutex<Option<Memory>>,
    executor: Executor,
}

impl Device {
    pub(super) fn new(disk: Disk, queues: u16) -> io::Result<Self> {
        Ok(Self {
            disk: Arc::new(disk),
            queues: (0..queues).map(|_| Arc::default()).collect(),
            memory: Mutex::new(None),
            executor: Executor::start("vhost-user-blk")?,
        })
    }

    /// A new machine comes.
    pub(super) fn reset(&self) {
        *self.memory.lock() = None;
        self.disk.set_writeback(true);
    }

    /// Waits until no request is under way.
    pub(super) async fn idle(&self) {
        for flights in &self.queues {
            flights.idle().await;
        }
    }

    /// Takes the requests out of a queue.
    fn take_requests(&self, queue: usize, vring: &VringRwLock, memory: &Memory) {
        let memory = memory.memory();
        let chains: Vec<Chain> = {
            let mut state = vring.get_mut();
            match state.get_queue_mut().iter(memory.clone()) {
                Ok(chains) => chains.collect(),
                // The rings are not where they should be: nothing can be done for this machine.
                Err(_) => return,
            }
        };
        let mapped = Arc::new(MappedMemory(memory.into_inner()));
        for chain in chains {
            let head = chain.head_index();
            let flight = self.queues[queue].start();
            let (disk, vring) = (self.disk.clone(), vring.clone());
            let memory = gather(&mapped, chain);
            self.executor
                .spawn(async move {
                    let written = match memory {
                        Some((output, input)) => disk.perform(output, input).await,
                        // No place even for the status.
                        None => 0,
                    };
                    // A queue that cannot be written to has lost its machine.
                    let told = vring.add_used(head, written).and_then(|()| vring.needs_notification());
                    if !matches!(told, Ok(false)) {
                        let _ = vring.signal_used_queue();
                    }
                    drop(flight);
                })
                .detach();
        }
    }
}

/// The memory of a request: what the machine has for the device, and the room it has for the device's answer, which is at
/// least one byte. `None` if the chain is not that of a request.
fn gather(memory: &Arc<MappedMemory>, chain: Chain) -> Option<(IoVector, IoVector)> {
    let (mut output, mut input) = (IoVector::default(), IoVector::default());
    for descriptor in chain {
        let part = memory.range(descriptor.addr(), descriptor.len() as usize)?;
        if descriptor.is_write_only() {
            input.append(part);
        } else if input.is_empty() {
            output.append(part);
        } else {
            // What is read comes before what is written.
            return None;
        }
    }
    (!input.is_empty()).then_some((output, input))
}

impl VhostUserBackend for Device {
    type Bitmap = ();
    type Vring = VringRwLock;

    fn num_queues(&self) -> usize {
        self.queues.len()
    }

    fn max_queue_size(&self) -> usize {
        MAX_QUEUE
    }

    fn features(&self) -> u64 {
        let mut features = feature::SEG_MAX
            | feature::BLK_SIZE
            | feature::FLUSH
            | feature::TOPOLOGY
            | feature::CONFIG_WCE
            | INDIRECT_DESC
            | EVENT_IDX
            | VERSION_1
            | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits();
        if self.queues.len() > 1 {
            features |= feature::MQ;
        }
        features |= match self.disk.options().writable {
            true => feature::DISCARD | feature::WRITE_ZEROES,
            false => feature::RO,
        };
        features
    }

    fn acked_features(&self, features: u64) {
        // A machine that will not flush wants its writes to be safe at once.
        let flushes = features & (feature::FLUSH | feature::CONFIG_WCE) != 0;
        self.disk.set_writeback(flushes);
    }

    fn protocol_features(&self) -> VhostUserProtocolFeatures {
        VhostUserProtocolFeatures::MQ
            | VhostUserProtocolFeatures::CONFIG
            | VhostUserProtocolFeatures::REPLY_ACK
            | VhostUserProtocolFeatures::CONFIGURE_MEM_SLOTS
    }

    fn set_event_idx(&self, _enabled: bool) {}

    fn get_config(&self, offset: u32, size: u32) -> Vec<u8> {
        let block_size = self.disk.options().block_size;
        let configuration = Configuration {
            capacity: self.disk.capacity(),
            seg_max: SEG_MAX,
            block_size,
            physical_block_size: block_size,
            min_io_size: 0,
            opt_io_size: 0,
            queues: self.queues.len() as u16,
            writeback: self.disk.writeback(),
        };
        let bytes = configuration.encode();
        // Fields of later versions, which features would announce, are zero.
        (0..size)
            .map(|i| offset.checked_add(i).and_then(|at| bytes.get(at as usize)).copied().unwrap_or(0))
            .collect()
    }

    fn set_config(&self, offset: u32, bytes: &[u8]) -> io::Result<()> {
        match (offset, bytes) {
            (WRITEBACK_OFFSET, [writeback]) => {
                self.disk.set_writeback(*writeback != 0);
                Ok(())
            }
            _ => Err(io::Error::from_raw_os_error(libc::EINVAL)),
        }
    }

    fn update_memory(&self, memory: Memory) -> io::Result<()> {
        *self.memory.lock() = Some(memory);
        Ok(())
    }

    fn exit_event(&self, _thread: usize) -> Option<(EventConsumer, EventNotifier)> {
        new_event_consumer_and_notifier(EventFlag::NONBLOCK | EventFlag::CLOEXEC).ok()
    }

    fn stop_vring(&self, queue: u32) -> io::Result<()> {
        // The machine (which may be about to move elsewhere) wants to know where the queue stands.
        if let Some(flights) = self.queues.get(queue as usize) {
            block_on(flights.idle());
        }
        Ok(())
    }

    fn handle_event(
        &self,
        queue: u16,
        events: EventSet,
        vrings: &[VringRwLock],
        _thread: usize,
    ) -> io::Result<()> {
        let queue = usize::from(queue);
        let memory = self.memory.lock().clone();
        let (Some(vring), Some(memory)) = (vrings.get(queue), memory) else { return Ok(()) };
        if events != EventSet::IN {
            return Ok(());
        }
        loop {
            let _ = vring.disable_notification();
            self.take_requests(queue, vring, &memory);
            // What came before notifications were on again must not be overlooked.
            if !matches!(vring.enable_notification(), Ok(true)) {
                return Ok(());
            }
        }
    }
}
