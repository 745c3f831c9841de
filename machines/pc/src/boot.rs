//! What is booted: ROM contents and the blobs that are written at reset.

use crate::config::{BuildError, PcConfig};
use crate::memory_map::{GIB, LOW_ROM, LOW_ROM_SIZE, ROM_MAX, RamSplit};
use rhea_loader::{BOOT_ROM_CODE_SIZE, Blob, BootRequest, MemoryLayout, boot_rom, plan};
use rhea_memory::{AddressSpace, RamBlock, Target};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// ROM block and blobs of a machine.
pub struct BootMedia {
    /// ROM that ends at 4 GiB.
    pub rom: Arc<RamBlock>,
    /// Memory written at every reset.
    pub blobs: Vec<Blob>,
    /// How the kernel is booted, if one is.
    pub format: Option<&'static str>,
}

/// Firmware tables to stand in our own ROM, made for the address they will lie at.
pub struct FirmwareTables {
    /// Address of the RSDP.
    pub rsdp: u64,
    /// Bytes for the start of the ROM's low copy.
    pub rom: Vec<u8>,
    /// Memory the tables need in RAM.
    pub blobs: Vec<Blob>,
}

/// Reads what `config` boots. `tables` makes the firmware tables for our own ROM at the address given.
pub fn prepare(
    config: &PcConfig,
    split: RamSplit,
    tables: impl FnOnce(u64) -> FirmwareTables,
) -> Result<BootMedia, BuildError> {
    let Some(kernel) = &config.kernel else {
        let stray = [
            (config.initrd.is_some(), "an initrd (-initrd)"),
            (config.append.is_some(), "a kernel command line (-append)"),
            (config.dtb.is_some(), "a device tree (-dtb)"),
        ];
        if let Some((_, what)) = stray.iter().find(|(given, _)| *given) {
            return Err(BuildError::WithoutKernel(what));
        }
        return firmware(config);
    };
    if config.bios.is_some() {
        return Err(BuildError::KernelAndBios);
    }
    let mut tables = tables(LOW_ROM);
    let room = LOW_ROM_SIZE as usize - BOOT_ROM_CODE_SIZE;
    if tables.rom.len() > room {
        return Err(BuildError::TablesTooLarge { size: tables.rom.len(), room });
    }
    let request = BootRequest {
        kernel: kernel.clone(),
        initrd: config.initrd.clone(),
        dtb: config.dtb.clone(),
        command_line: config.append.clone().unwrap_or_default(),
        long_mode: config.wide,
    };
    let layout = MemoryLayout {
        map: split.memory_map(config.kind),
        low_ram_end: split.usable_low(),
        rsdp: tables.rsdp,
    };
    let plan = plan(&request, &layout)?;
    let rom = block("boot ROM", LOW_ROM_SIZE)?;
    rom.write_bytes(0, &tables.rom);
    rom.write_bytes(LOW_ROM_SIZE - BOOT_ROM_CODE_SIZE as u64, &boot_rom(&plan.entry));
    let mut blobs = plan.blobs;
    blobs.append(&mut tables.blobs);
    Ok(BootMedia { rom, blobs, format: Some(plan.format) })
}

/// A ROM image given by the user.
fn firmware(config: &PcConfig) -> Result<BootMedia, BuildError> {
    let Some(path) = &config.bios else { return Err(BuildError::NothingToBoot) };
    let failed = |source| BuildError::BiosFile { path: path.clone(), source };
    let file = File::open(path).map_err(failed)?;
    let size = file.metadata().map_err(failed)?.len();
    if size == 0 || size > ROM_MAX || !size.is_multiple_of(64 << 10) {
        return Err(BuildError::BiosSize { path: path.clone(), size });
    }
    let mut image = vec![0; size as usize];
    file.read_exact_at(&mut image, 0).map_err(failed)?;
    let rom = block("ROM", size)?;
    rom.write_bytes(0, &image);
    Ok(BootMedia { rom, blobs: Vec::new(), format: None })
}

fn block(name: &str, size: u64) -> Result<Arc<RamBlock>, BuildError> {
    RamBlock::new(name, size).map(Arc::new).map_err(|source| BuildError::Allocation { size, source })
}

/// Blobs for the loader devices. Each must lie in RAM as a whole.
pub fn loader_blobs(config: &PcConfig, memory: &AddressSpace) -> Result<Vec<Blob>, BuildError> {
    let mut blobs = Vec::new();
    for request in &config.loaders {
        let failed = |source| BuildError::LoaderFile { path: request.file.clone(), source };
        let file = Arc::new(File::open(&request.file).map_err(failed)?);
        let len = file.metadata().map_err(failed)?.len();
        let outside = || BuildError::LoaderRange { path: request.file.clone(), addr: request.addr };
        let end = request.addr.checked_add(len).ok_or_else(outside)?;
        let (mut at, view) = (request.addr, memory.view());
        while at < end {
            let range = view.lookup(at).ok_or_else(outside)?;
            if !matches!(range.target, Target::Ram { writable: true, .. }) {
                return Err(outside());
            }
            at = range.last() + 1;
        }
        blobs.push(Blob::file("loader file", request.addr, &file, 0, len));
    }
    Ok(blobs)
}

/// Where the ROM starts.
pub fn rom_base(rom: &RamBlock) -> u64 {
    4 * GIB - rom.size()
}
