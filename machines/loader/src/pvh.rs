//! PVH direct boot: struct hvm_start_info, version 1 (Xen public/arch-x86/hvm/start_info.h).

use crate::blob::Blob;
use crate::elf::ElfImage;
use crate::linux::{Placement, command_line, load_segments, place_initrd};
use crate::low_memory::{COMMAND_LINE, COMMAND_LINE_SPACE, START_INFO};
use crate::{BootPlan, BootRequest, Entry, LoadError, MemoryLayout};

const MAGIC: u32 = 0x336e_c578;
const VERSION: u32 = 1;
/// Bytes of the structure, of a module entry, and where the lists follow it.
const SIZE: u64 = 56;
const MODULE_SIZE: u64 = 32;

pub(crate) fn plan(
    request: &BootRequest,
    layout: &MemoryLayout,
    image: &ElfImage,
    entry: u32,
) -> Result<BootPlan, LoadError> {
    if request.dtb.is_some() {
        let reason = "PVH takes no device tree";
        return Err(LoadError::Unsupported { path: image.path.clone(), reason });
    }
    let (mut blobs, end) = load_segments(layout, image)?;
    let mut placement = Placement { top: layout.low_ram_end, bottom: end.next_multiple_of(0x1000) };
    let initrd = place_initrd(request, &mut blobs, &mut placement, u64::MAX)?;
    blobs.push(Blob::bytes("command line", COMMAND_LINE, command_line(request, COMMAND_LINE_SPACE - 1)?));

    let modules = START_INFO + SIZE;
    let map = modules + MODULE_SIZE;
    let mut info = Vec::new();
    let mut put32 = |value: u32| info.extend_from_slice(&value.to_le_bytes());
    [MAGIC, VERSION, 0, u32::from(initrd.is_some())].into_iter().for_each(&mut put32);
    let mut put64 = |value: u64| info.extend_from_slice(&value.to_le_bytes());
    let module_list = if initrd.is_some() { modules } else { 0 };
    [module_list, COMMAND_LINE, layout.rsdp, map].into_iter().for_each(&mut put64);
    // Entry count and reserved word.
    put64(layout.map.len() as u64);
    let (start, len) = initrd.map_or((0, 0), |initrd| (initrd.start, initrd.len));
    [start, len, 0, 0].into_iter().for_each(&mut put64);
    for entry in &layout.map {
        [entry.start, entry.len, u64::from(entry.kind as u32)].into_iter().for_each(&mut put64);
    }
    blobs.push(Blob::bytes("start info", START_INFO, info));
    let start_info = START_INFO as u32;
    Ok(BootPlan { blobs, entry: Entry::Pvh { entry, start_info }, format: "ELF, PVH" })
}
