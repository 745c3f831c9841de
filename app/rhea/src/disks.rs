//! The disks of a machine: nodes of the block layer, and the devices that the guest sees them by.

use std::sync::Arc;

use anyhow::Context;
use rhea_async_io::block_on;
use rhea_block::{BlockError, BlockNode, OpenFlags, Registry, TemporaryFile, warn_of_guess};
use rhea_virtio::{BlkConfig, VirtioBlk};

use crate::config::{DriveConfig, SystemConfig, VirtioBlkConfig, VirtioConfig, VirtioKind, VirtioPlace};
use crate::flash::{FlashDisk, FlashPart};

/// Most queues that a disk gets without being told.
const QUEUES_MOST: u32 = 64;

/// An open `-drive`.
struct Drive {
    id: String,
    node: Arc<BlockNode>,
    writethrough: bool,
    /// Goes when the node is closed.
    _temporary: Option<TemporaryFile>,
}

/// All disks.
pub struct Disks {
    registry: Registry,
    drives: Vec<Drive>,
    /// In the order of the command line, each with its drive.
    devices: Vec<(String, Arc<VirtioBlk>)>,
    /// Banks of flash memory.
    flash: Vec<(u32, FlashDisk)>,
}

/// The block layer's error as a line for the user, its hint behind it.
fn told(error: BlockError) -> anyhow::Error {
    match error.hint() {
        Some(hint) => anyhow::anyhow!("{error} ({hint})"),
        None => anyhow::anyhow!("{error}"),
    }
}

impl Disks {
    /// Opens the images and makes the devices.
    pub fn open(config: &SystemConfig) -> anyhow::Result<Self> {
        let mut disks = Self {
            registry: rhea_block_drivers::registry(),
            drives: Vec::new(),
            devices: Vec::new(),
            flash: Vec::new(),
        };
        match block_on(disks.fill(config)) {
            Ok(()) => Ok(disks),
            Err(error) => {
                // What is open already is closed in order.
                let _ = disks.close("");
                Err(error)
            }
        }
    }

    async fn fill(&mut self, config: &SystemConfig) -> anyhow::Result<()> {
        for object in &config.disks.objects {
            rhea_block_objects::add_object(self.registry.objects(), object)
                .map_err(told)
                .with_context(|| format!("-object {object}"))?;
        }
        for options in &config.disks.blockdevs {
            let name = options.get("node-name").unwrap_or_default().to_owned();
            self.registry
                .add_blockdev(options.clone())
                .await
                .map_err(told)
                .with_context(|| format!("-blockdev node-name={name}"))?;
        }
        for drive in &config.disks.drives {
            let opened =
                self.open_drive(drive).await.map_err(told).with_context(|| format!("-drive id={}", drive.id));
            self.drives.push(opened?);
        }
        for device in &config.virtio {
            let VirtioKind::Blk(blk) = &device.kind else { continue };
            let made = self.make_blk(device, blk, config.topology.cpus).await;
            let made = made.with_context(|| format!("-device {},drive={}", device.driver, blk.drive))?;
            self.devices.push((blk.drive.clone(), made));
        }
        for (bank, name) in &config.disks.flash {
            let disk = FlashDisk::new(name, self.find(name)?.0).await;
            self.flash
                .push((*bank, disk.map_err(told).with_context(|| format!("flash memory on '{name}'"))?));
        }
        Ok(())
    }

    async fn open_drive(&self, drive: &DriveConfig) -> Result<Drive, BlockError> {
        let mut flags = drive.flags;
        if drive.snapshot {
            flags |= OpenFlags::READ_ONLY;
        }
        let guessed = drive.options.get("driver").is_none();
        let mut options = drive.options.clone();
        let mut node = match &drive.file {
            None => self.registry.open_node(options, flags, false).await?,
            Some(file) => {
                let format = options.take::<String>("driver")?;
                self.registry.open_with(file, format.as_deref(), options, flags).await?
            }
        };
        if guessed && node.driver_name() == "raw" && !node.is_read_only() {
            warn_of_guess(node.filename());
        }
        let mut temporary = None;
        if drive.snapshot {
            let (overlay, file) = self.registry.overlay(&node, drive.flags).await?;
            node = overlay;
            temporary = Some(file);
        }
        if drive.flags.contains(OpenFlags::COPY_ON_READ) {
            node = rhea_block_filters::copy_on_read(node).await?;
        }
        Ok(Drive { id: drive.id.clone(), node, writethrough: drive.writethrough, _temporary: temporary })
    }

    async fn make_blk(
        &self,
        device: &VirtioConfig,
        blk: &VirtioBlkConfig,
        cpus: u32,
    ) -> anyhow::Result<Arc<VirtioBlk>> {
        let (node, writethrough) = self.find(&blk.drive)?;
        let usual = match device.place {
            VirtioPlace::Pci(_) => cpus.min(QUEUES_MOST) as u16,
            VirtioPlace::Mmio(_) => 1,
        };
        let config = BlkConfig {
            queues: blk.queues.unwrap_or(usual),
            writethrough: blk.write_cache.map_or(writethrough, |write_back| !write_back),
            ..blk.device.clone()
        };
        VirtioBlk::new(node, config).await.map_err(told)
    }

    /// The node of a drive or of this name, and whether devices on it start in write-through mode.
    fn find(&self, name: &str) -> anyhow::Result<(Arc<BlockNode>, bool)> {
        if let Some(drive) = self.drives.iter().find(|drive| drive.id == name) {
            return Ok((drive.node.clone(), drive.writethrough));
        }
        let node = self.registry.find(name);
        let node = node.with_context(|| {
            format!("no -drive has the id '{name}', and no -blockdev the node-name '{name}'")
        })?;
        Ok((node, false))
    }

    /// What the banks of flash memory hold.
    pub fn flash(&self) -> anyhow::Result<Vec<(u32, FlashPart)>> {
        let part = |(bank, disk): &(u32, FlashDisk)| {
            let part = block_on(disk.part()).map_err(told);
            Ok((*bank, part.with_context(|| format!("flash memory on '{}'", disk.name()))?))
        };
        self.flash.iter().map(part).collect()
    }

    /// The disks, in the order of the command line.
    pub fn devices(&self) -> impl Iterator<Item = &Arc<VirtioBlk>> {
        self.devices.iter().map(|(_, device)| device)
    }

    /// Ends the devices, writes out what only memory has, and closes the images. The processors are stopped.
    pub fn close(self, program: &str) -> anyhow::Result<()> {
        block_on(self.close_all(program))
    }

    async fn close_all(self, program: &str) -> anyhow::Result<()> {
        let mut result = Ok(());
        let mut note = |name: &str, closed: Result<(), BlockError>| {
            if let Err(error) = closed {
                eprintln!("{program}: {name}: {error}");
                result = Err(anyhow::anyhow!("a disk image could not be closed in order"));
            }
        };
        for (drive, device) in &self.devices {
            note(drive, device.finish().await);
        }
        drop(self.devices);
        for (_, disk) in &self.flash {
            note(disk.name(), disk.finish().await);
        }
        drop(self.flash);
        for drive in self.drives {
            note(&drive.id, drive.node.close().await);
        }
        let mut kept = Vec::new();
        let closed =
            self.registry.close_nodes(|name, error| kept.push((name.to_owned(), error.clone()))).await;
        for (name, error) in kept {
            note(&name, Err(error));
        }
        result.and(closed.map_err(told))
    }
}
