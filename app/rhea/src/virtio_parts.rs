//! The virtio devices of a machine, made and ready to be plugged in.

use std::sync::Arc;

use anyhow::{Context, bail};
use rhea_virtio::{VirtioConsole, VirtioDevice, VirtioRng};

use crate::chardevs::Chardevs;
use crate::config::{SystemConfig, VirtioKind};
use crate::disks::Disks;
use crate::targets::VirtioPart;

/// Makes what the disks do not have already, in the order of the command line.
pub fn make(
    config: &SystemConfig,
    disks: &Disks,
    chardevs: &mut Chardevs,
) -> anyhow::Result<Vec<VirtioPart>> {
    let mut blk = disks.devices();
    let mut parts = Vec::new();
    for wanted in &config.virtio {
        let name = format!("-device {}", wanted.driver);
        let device: Arc<dyn VirtioDevice> = match &wanted.kind {
            VirtioKind::Blk(_) => match blk.next() {
                Some(device) => device.clone(),
                None => bail!("{name}: the disk was not made"),
            },
            VirtioKind::Rng => VirtioRng::new().with_context(|| name.clone())?,
            VirtioKind::Console(chardev) => match chardevs.connect(chardev).with_context(|| name.clone())? {
                Some(backend) => VirtioConsole::new(backend).with_context(|| name.clone())?,
                None => continue,
            },
        };
        parts.push(VirtioPart { name, place: wanted.place, device });
    }
    Ok(parts)
}
