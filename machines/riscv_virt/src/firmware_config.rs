//! What the firmware configuration device tells.

use crate::config::{BuildError, VirtConfig};
use crate::memory_map::MIB;
use rhea_firmware_devices::fw_cfg::key;
use rhea_firmware_devices::{FwCfgContents, FwCfgItem};
use rhea_loader::LoadError;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

/// Largest kernel or initial RAM disk: sizes are told in 32 bits.
const MOST: u64 = 4096 * MIB - 1;

/// The items for `config`. Kernel and initial RAM disk are among them where firmware in flash is to start the kernel.
pub(crate) fn contents(config: &VirtConfig) -> Result<FwCfgContents, BuildError> {
    let mut contents = FwCfgContents::default();
    let harts = config.topology.harts as u16;
    contents.bytes(key::NB_CPUS, harts.to_le_bytes()).bytes(key::MAX_CPUS, harts.to_le_bytes());
    contents.bytes(key::RAM_SIZE, config.ram_size.to_le_bytes());
    if config.flash[0].is_some() {
        if let Some(kernel) = &config.kernel {
            add(&mut contents, "kernel", kernel, key::KERNEL_SIZE, key::KERNEL_DATA)?;
        }
        if let Some(initrd) = &config.initrd {
            add(&mut contents, "initrd", initrd, key::INITRD_SIZE, key::INITRD_DATA)?;
        }
        if let Some(append) = &config.append {
            let mut line = append.clone().into_bytes();
            line.push(0);
            contents.bytes(key::CMDLINE_SIZE, (line.len() as u32).to_le_bytes());
            contents.bytes(key::CMDLINE_DATA, line);
        }
    }
    for (name, item) in &config.fw_cfg {
        contents.file(name, item.clone())?;
    }
    Ok(contents)
}

fn add(
    contents: &mut FwCfgContents,
    what: &'static str,
    path: &Path,
    size_key: u16,
    data_key: u16,
) -> Result<(), LoadError> {
    let failed = |source| LoadError::File { what, path: path.to_owned(), source };
    let file = File::open(path).map_err(failed)?;
    let len = file.metadata().map_err(failed)?.len();
    if len > MOST {
        return Err(LoadError::Unsupported { path: path.to_owned(), reason: "it is larger than 4 GiB" });
    }
    contents.bytes(size_key, (len as u32).to_le_bytes());
    contents.item(data_key, FwCfgItem::File { file: Arc::new(file), len });
    Ok(())
}
