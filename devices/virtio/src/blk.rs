//! The block device (section 5.2) on a node of the block layer.
//!
//! Nothing that was acknowledged is lost: in write-back mode a write is safe once a later flush was acknowledged; in
//! write-through mode (chosen by the disk, by the driver through `writeback`, or because the driver accepted neither
//! flushes nor the choice) once it was acknowledged itself.
//!
//! Errors are reported to the driver as `VIRTIO_BLK_S_IOERR`.

use crate::device::{Activation, VirtioDevice, read_bytes};
use crate::queue::{Chain, Queue};
use crate::server::{ChainHandler, Server};
use crate::spec::device_id;
use rhea_block::{BlockError, BlockNode, Edge, Permissions, Role};
use rhea_device::{LoadError, SavedRecord, load_record, save_record};
use rhea_virtio_disk::spec::{Configuration, WRITEBACK_OFFSET, feature};
use rhea_virtio_disk::{Disk, DiskOptions};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

/// Sizes of a queue that QEMU takes, too.
const QUEUE_SIZES: std::ops::RangeInclusive<u16> = 4..=1024;
/// Queues at most.
const QUEUES_MOST: u16 = 64;

/// A block device to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlkConfig {
    /// Name, for permissions and messages.
    pub name: String,
    /// The guest cannot write, even if the node could be written.
    pub read_only: bool,
    /// Others may write, too.
    pub share_rw: bool,
    /// Every write is safe before it is acknowledged, until the driver chooses otherwise.
    pub writethrough: bool,
    /// What the guest sees as serial number; 20 bytes at most.
    pub serial: String,
    /// Request queues, from 1.
    pub queues: u16,
    /// Descriptors of a queue: a power of two from 4 to 1024.
    pub queue_size: u16,
    /// Bytes of a logical block: a power of two from 512 to 2 MiB.
    pub logical_block_size: u32,
    /// Bytes of a physical block: a power of two from `logical_block_size` to 2 MiB.
    pub physical_block_size: u32,
    /// Bytes of the least I/O that is not slow; 0 if not known.
    pub min_io_size: u32,
    /// Bytes of the best I/O; 0 if not known.
    pub opt_io_size: u32,
    /// Offers discards.
    pub discard: bool,
    /// Offers writes of zeroes.
    pub write_zeroes: bool,
    /// Offers the driver a choice of the write cache's mode.
    pub config_wce: bool,
}

impl Default for BlkConfig {
    fn default() -> Self {
        Self {
            name: "virtio-blk".into(),
            read_only: false,
            share_rw: false,
            writethrough: false,
            serial: String::new(),
            queues: 1,
            queue_size: 256,
            logical_block_size: 512,
            physical_block_size: 512,
            min_io_size: 0,
            opt_io_size: 0,
            discard: true,
            write_zeroes: true,
            config_wce: true,
        }
    }
}

impl BlkConfig {
    fn check(&self) -> Result<(), BlockError> {
        let block = |name: &str, size: u32| match size.is_power_of_two() && (512..=2 << 20).contains(&size) {
            true => Ok(()),
            false => Err(BlockError::invalid(format!("{name} must be a power of 2 between 512 and 2097152"))),
        };
        block("logical_block_size", self.logical_block_size)?;
        block("physical_block_size", self.physical_block_size)?;
        if self.physical_block_size < self.logical_block_size {
            return Err(BlockError::invalid("logical_block_size must not be above physical_block_size"));
        }
        for (name, size) in [("min_io_size", self.min_io_size), ("opt_io_size", self.opt_io_size)] {
            if !size.is_multiple_of(self.logical_block_size) {
                return Err(BlockError::invalid(format!("{name} must be a multiple of logical_block_size")));
            }
        }
        if !(1..=QUEUES_MOST).contains(&self.queues) {
            return Err(BlockError::invalid(format!("num-queues must be 1 to {QUEUES_MOST}")));
        }
        if !QUEUE_SIZES.contains(&self.queue_size) || !self.queue_size.is_power_of_two() {
            return Err(BlockError::invalid("queue-size must be a power of 2 between 4 and 1024"));
        }
        if self.serial.len() > rhea_virtio_disk::spec::ID_LENGTH {
            return Err(BlockError::invalid("serial has more than 20 bytes"));
        }
        Ok(())
    }
}

struct Requests(Arc<Disk>);

impl ChainHandler for Requests {
    fn handle(&self, queue: &Queue, chain: &Chain) -> Pin<Box<dyn Future<Output = u32> + Send>> {
        let (disk, memory) = (self.0.clone(), queue.memory().clone());
        let buffers = chain.memory(&memory);
        Box::pin(async move {
            // Without memory for the status there is nothing to be said.
            let Ok((output, input)) = buffers else { return 0 };
            let written = disk.perform(output.io_vector(), input.io_vector()).await;
            // A failed read may have written any part.
            memory.dma_written(&input, input.len());
            written
        })
    }
}

/// A virtio block device.
pub struct VirtioBlk {
    config: BlkConfig,
    sizes: Vec<u16>,
    disk: Arc<Disk>,
    server: Server<Requests>,
}

impl VirtioBlk {
    /// A device on `node`, with a thread for its requests.
    ///
    /// # Errors
    /// The configuration is wrong, the node is in use, or no thread can be started.
    pub async fn new(node: Arc<BlockNode>, mut config: BlkConfig) -> Result<Arc<Self>, BlockError> {
        config.check()?;
        config.read_only |= node.is_read_only();
        let edge = Edge::new(config.name.clone(), Role::File, node);
        let mut needed = Permissions::CONSISTENT_READ;
        needed.set(Permissions::WRITE, !config.read_only);
        let mut shared = Permissions::CONSISTENT_READ | Permissions::WRITE_UNCHANGED;
        shared.set(Permissions::WRITE, config.share_rw);
        edge.set_permissions(needed, shared).await?;
        let disk = Arc::new(Disk::new(DiskOptions {
            edge,
            writable: !config.read_only,
            writethrough: false,
            block_size: config.logical_block_size,
            id: config.serial.clone(),
        }));
        disk.set_writeback(!config.writethrough);
        let server = Server::start(&config.name, Arc::new(Requests(disk.clone())))?;
        let sizes = vec![config.queue_size; config.queues.into()];
        Ok(Arc::new(Self { config, sizes, disk, server }))
    }

    /// The node behind it.
    pub fn node(&self) -> Arc<BlockNode> {
        self.disk.node()
    }

    /// Waits for what is under way and makes everything safe that was written, as at the machine's end.
    ///
    /// # Errors
    /// The flush failed.
    pub async fn finish(&self) -> Result<(), BlockError> {
        self.server.reset();
        let flushed = match self.config.read_only {
            true => Ok(()),
            false => self.disk.node().flush().await,
        };
        let edge = &self.disk.options().edge;
        flushed.and(edge.set_permissions(Permissions::empty(), Permissions::all()).await)
    }

    fn configuration(&self) -> Configuration {
        Configuration {
            capacity: self.disk.capacity(),
            // Header and status take a descriptor each.
            seg_max: u32::from(self.config.queue_size - 2),
            block_size: self.config.logical_block_size,
            physical_block_size: self.config.physical_block_size,
            min_io_size: self.config.min_io_size,
            opt_io_size: self.config.opt_io_size,
            queues: self.config.queues,
            writeback: self.disk.writeback(),
        }
    }
}

impl VirtioDevice for VirtioBlk {
    fn device_id(&self) -> u32 {
        device_id::BLOCK
    }

    fn pci_class(&self) -> [u8; 3] {
        // SCSI controller: what drivers know virtio disks by.
        [0x01, 0x00, 0x00]
    }

    fn features(&self) -> u64 {
        let config = &self.config;
        let mut features = feature::SEG_MAX | feature::BLK_SIZE | feature::FLUSH | feature::TOPOLOGY;
        let optional = [
            (config.config_wce, feature::CONFIG_WCE),
            (config.queues > 1, feature::MQ),
            (config.read_only, feature::RO),
            (config.discard && !config.read_only, feature::DISCARD),
            (config.write_zeroes && !config.read_only, feature::WRITE_ZEROES),
        ];
        for (_, feature) in optional.iter().filter(|(offered, _)| *offered) {
            features |= feature;
        }
        features
    }

    fn queue_sizes(&self) -> &[u16] {
        &self.sizes
    }

    fn read_config(&self, offset: u64, out: &mut [u8]) {
        read_bytes(&self.configuration().encode(), offset, out);
    }

    fn write_config(&self, offset: u64, data: &[u8]) {
        if let (true, [writeback, ..]) =
            (self.config.config_wce && offset == u64::from(WRITEBACK_OFFSET), data)
        {
            self.disk.set_writeback(*writeback != 0);
        }
    }

    fn activate(&self, activation: Activation) {
        // A driver that will not flush wants its writes to be safe at once.
        if activation.features & (feature::FLUSH | feature::CONFIG_WCE) == 0 {
            self.disk.set_writeback(false);
        }
        self.server.activate(&activation);
    }

    fn notify(&self, index: u16) {
        self.server.notify(index);
    }

    fn reset(&self) {
        self.server.reset();
        self.disk.set_writeback(!self.config.writethrough);
    }

    fn pause(&self) {
        self.server.pause();
    }

    fn resume(&self) {
        self.server.resume();
    }

    fn save(&self) -> Option<SavedRecord> {
        Some(save_record(&BlkSavedV1 { writeback: self.disk.writeback() }))
    }

    fn load(&self, record: Option<&SavedRecord>) -> Result<(), LoadError> {
        let missing = LoadError::BadValue { device: "virtio-blk", field: "record" };
        let saved: BlkSavedV1 = load_record(record.ok_or(missing)?)?;
        self.disk.set_writeback(saved.writeback);
        Ok(())
    }
}

rhea_device::saved_record! { "virtio-blk", 1,
    /// Saved state of the device.
    pub struct BlkSavedV1 {
        /// Writes are safe only after a flush.
        writeback: bool,
    }
}
