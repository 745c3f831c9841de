//! What is booted: firmware, kernel, initial RAM disk and device tree, and where each lies in RAM.
//!
//! Firmware stands at the start of RAM and the kernel behind it, at the next multiple of its page table's large page.
//! The device tree stands at the end of the RAM that every kernel reaches early, the initial RAM disk below it.

use crate::config::{BuildError, Firmware, VirtConfig};
use crate::device_tree;
use crate::memory_map::{DRAM, FLASH, KIB, MIB, REACHABLE_END};
use crate::reset_vector::Handover;
use rhea_device_tree::Node;
use rhea_loader::riscv::{Image, Placement, load};
use rhea_loader::{Blob, LoadError};
use rhea_memory::{AddressSpace, Target};
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

/// Room behind the device tree, which firmware fills with what it reserves.
const DEVICE_TREE_ROOM: u64 = 64 * KIB;

/// Where OpenSBI's fw_dynamic.bin is looked for, by width of the harts: where QEMU has it, then where packages have it.
fn opensbi_paths(xlen: u32) -> Vec<PathBuf> {
    let abi = if xlen == 32 { "ilp32" } else { "lp64" };
    [
        format!("/usr/share/qemu/opensbi-riscv{xlen}-generic-fw_dynamic.bin"),
        format!("/usr/local/share/qemu/opensbi-riscv{xlen}-generic-fw_dynamic.bin"),
        format!("/usr/lib/riscv{xlen}-linux-gnu/opensbi/generic/fw_dynamic.bin"),
        format!("/usr/share/opensbi/{abi}/generic/firmware/fw_dynamic.bin"),
    ]
    .into_iter()
    .map(PathBuf::from)
    .collect()
}

/// What is booted and how.
pub(crate) struct BootMedia {
    /// Memory written at every reset, without the device tree.
    pub blobs: Vec<Blob>,
    /// The device tree blob and where it goes.
    pub device_tree: Vec<u8>,
    pub device_tree_address: u64,
    /// What the boot ROM hands over.
    pub handover: Handover,
    /// What the kernel file was found to be.
    pub format: Option<&'static str>,
    /// Addresses of the host-target interface's two words.
    pub htif: Option<(u64, u64)>,
    /// The random bytes in the device tree are to be renewed at reset.
    pub reseed: bool,
}

/// Random bytes from the host.
pub(crate) fn random_seed() -> Result<[u8; 32], getrandom::Error> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed)?;
    Ok(seed)
}

/// Reads what `config` boots and decides where it goes.
pub(crate) fn prepare(config: &VirtConfig) -> Result<BootMedia, BuildError> {
    if config.kernel.is_none() {
        let stray = [
            (config.initrd.is_some(), "an initrd (-initrd)"),
            (config.append.is_some(), "a kernel command line (-append)"),
        ];
        if let Some((_, what)) = stray.iter().find(|(given, _)| *given) {
            return Err(BuildError::WithoutKernel(what));
        }
    }
    let xlen = config.cpu.config().xlen;
    let ram = DRAM..DRAM + config.ram_size;
    let firmware = firmware(config, xlen, &ram)?;
    // What is in flash starts the kernel itself.
    let in_flash = config.flash[0].is_some();
    let kernel = if in_flash { None } else { kernel(config, xlen, &ram, firmware.as_ref())? };
    if firmware.is_none() && kernel.is_none() && !in_flash && config.loaders.is_empty() {
        return Err(BuildError::NothingToBoot);
    }
    let seed = match config.rng_seed {
        Some(seed) => seed,
        None => random_seed().map_err(BuildError::Random)?,
    };
    let base = match &config.dtb {
        Some(path) => device_tree::from_file(path)?,
        None => device_tree::board(config),
    };
    let tree = |initrd: Option<(u64, u64)>| -> Result<Vec<u8>, BuildError> {
        let mut tree: Node = base.clone();
        let append = config.append.as_deref().filter(|_| !in_flash);
        device_tree::choose(&mut tree, append, initrd, &seed);
        Ok(tree.to_blob()?)
    };
    let initrd = config.initrd.as_ref().filter(|_| !in_flash).map(|path| open("initrd", path)).transpose()?;
    // The addresses in it do not change its size.
    let size = tree(initrd.as_ref().map(|_| (0, 0)))?.len() as u64;
    let reachable = ram.end.min(REACHABLE_END);
    let device_tree_address = below(reachable, size + DEVICE_TREE_ROOM, 2 * MIB, "device tree")?;
    let mut blobs = Vec::new();
    let images = [("firmware", firmware.as_ref()), ("kernel", kernel.as_ref())];
    let mut taken: Vec<(&'static str, u64, u64)> =
        images.into_iter().filter_map(|(what, image)| image.map(|i| (what, i.low, i.end))).collect();
    taken.push(("device tree", device_tree_address, device_tree_address + size));
    let mut initrd_range = None;
    if let Some((file, len)) = initrd {
        let start = below(device_tree_address, len, 4 * KIB, "initrd")?;
        initrd_range = Some((start, start + len));
        taken.push(("initrd", start, start + len));
        blobs.push(Blob::file("initrd", start, &file, 0, len));
    }
    check_overlaps(&taken)?;
    let next = if in_flash { Some(FLASH) } else { kernel.as_ref().map(|image| image.entry) };
    let handover = Handover {
        xlen,
        entry: firmware.as_ref().map(|image| image.entry).or(next).unwrap_or(DRAM),
        device_tree: device_tree_address,
        next: next.unwrap_or(0),
    };
    let format = kernel.as_ref().map(|image| image.format);
    // For test programs, which run without firmware.
    let htif = kernel.as_ref().filter(|_| firmware.is_none()).and_then(|image| image.htif);
    blobs.extend(firmware.into_iter().chain(kernel).flat_map(|image| image.blobs));
    let (device_tree, reseed) = (tree(initrd_range)?, config.rng_seed.is_none());
    Ok(BootMedia { blobs, device_tree, device_tree_address, handover, format, htif, reseed })
}

fn open(what: &'static str, path: &PathBuf) -> Result<(Arc<File>, u64), LoadError> {
    let failed = |source| LoadError::File { what, path: path.clone(), source };
    let file = File::open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if metadata.is_dir() {
        return Err(failed(std::io::ErrorKind::IsADirectory.into()));
    }
    Ok((Arc::new(file), metadata.len()))
}

fn firmware(config: &VirtConfig, xlen: u32, ram: &std::ops::Range<u64>) -> Result<Option<Image>, BuildError> {
    let path = match &config.firmware {
        Firmware::None => return Ok(None),
        Firmware::File(path) => path.clone(),
        Firmware::OpenSbi => {
            let tried = opensbi_paths(xlen);
            let found = tried.iter().find(|path| path.is_file()).cloned();
            found.ok_or(BuildError::NoOpenSbi { tried })?
        }
    };
    Ok(Some(load("firmware", &path, &Placement { base: DRAM, ram: ram.clone(), xlen })?))
}

fn kernel(
    config: &VirtConfig,
    xlen: u32,
    ram: &std::ops::Range<u64>,
    firmware: Option<&Image>,
) -> Result<Option<Image>, BuildError> {
    let Some(path) = &config.kernel else { return Ok(None) };
    let large_page = if xlen == 32 { 4 * MIB } else { 2 * MIB };
    let base = firmware.map_or(DRAM, |image| image.end.next_multiple_of(large_page));
    Ok(Some(load("kernel", path, &Placement { base, ram: ram.clone(), xlen })?))
}

/// The highest multiple of `align` at which `size` bytes end at or below `end`.
fn below(end: u64, size: u64, align: u64, what: &'static str) -> Result<u64, LoadError> {
    let start = end.checked_sub(size).map(|start| start / align * align).filter(|start| *start >= DRAM);
    let needed = DRAM.saturating_add(size);
    start.ok_or(LoadError::TooLittleMemory { what, needed: size, end: needed, available: end })
}

fn check_overlaps(taken: &[(&'static str, u64, u64)]) -> Result<(), BuildError> {
    for (index, (first, low, end)) in taken.iter().enumerate() {
        for (second, other_low, other_end) in taken.iter().skip(index + 1) {
            if low < other_end && other_low < end {
                return Err(BuildError::Overlap { first, second, at: *low.max(other_low) });
            }
        }
    }
    Ok(())
}

/// Blobs for the loader devices. Each must lie in RAM as a whole.
pub(crate) fn loader_blobs(config: &VirtConfig, memory: &AddressSpace) -> Result<Vec<Blob>, BuildError> {
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
