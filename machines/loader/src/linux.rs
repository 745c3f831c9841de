//! Linux/x86 boot protocol: placement of kernel, initrd and device tree, and the zero page.

use crate::blob::{Blob, Segment, read_at};
use crate::bzimage::{Bzimage, HEADER};
use crate::elf::ElfImage;
use crate::low_memory::{self, COMMAND_LINE, COMMAND_LINE_SPACE, PAGE_TABLES, ZERO_PAGE};
use crate::{BootPlan, BootRequest, Entry, LoadError, MemoryLayout, open};

/// Where a bzImage's protected-mode part is loaded.
const KERNEL_ADDRESS: u64 = 0x10_0000;
const PAGE: u64 = 0x1000;

/// Fields of the zero page (struct boot_params), by offset.
mod zero_page {
    pub const EXT_MEM_K: usize = 0x002;
    pub const ACPI_RSDP: usize = 0x070;
    pub const ALT_MEM_K: usize = 0x1e0;
    pub const E820_ENTRIES: usize = 0x1e8;
    pub const BOOT_FLAG: usize = 0x1fe;
    pub const HEADER_MAGIC: usize = 0x202;
    pub const TYPE_OF_LOADER: usize = 0x210;
    pub const CODE32_START: usize = 0x214;
    pub const RAMDISK_IMAGE: usize = 0x218;
    pub const RAMDISK_SIZE: usize = 0x21c;
    pub const CMD_LINE_PTR: usize = 0x228;
    pub const SETUP_DATA: usize = 0x250;
    pub const E820_TABLE: usize = 0x2d0;
    pub const E820_MAX: usize = 128;
    pub const SIZE: usize = 0x1000;
    /// A boot loader without an assigned number.
    pub const LOADER_UNDEFINED: u8 = 0xff;
    /// Type of setup data: device tree.
    pub const SETUP_DTB: u32 = 2;
}

/// Memory taken so far from the top of low RAM downwards.
pub(crate) struct Placement {
    /// End of what is free.
    pub top: u64,
    /// Start of what is free: the end of the kernel.
    pub bottom: u64,
}

impl Placement {
    /// Takes `len` bytes, page-aligned, ending at or below `limit`.
    pub(crate) fn take(&mut self, what: &'static str, len: u64, limit: u64) -> Result<u64, LoadError> {
        let top = self.top.min(limit);
        let too_little = || LoadError::TooLittleMemory {
            what,
            needed: len,
            end: self.bottom.saturating_add(len),
            available: top,
        };
        let address = top.checked_sub(len).map(|at| at & !(PAGE - 1)).filter(|at| *at >= self.bottom);
        self.top = address.ok_or_else(too_little)?;
        Ok(self.top)
    }
}

pub(crate) fn plan_bzimage(
    request: &BootRequest,
    layout: &MemoryLayout,
    image: &Bzimage,
) -> Result<BootPlan, LoadError> {
    let mut blobs =
        vec![Blob::file("kernel", KERNEL_ADDRESS, &image.file, image.payload_offset, image.payload_len)];
    // The kernel decompresses itself to where it wants to run, and needs memory there.
    let loaded = KERNEL_ADDRESS.saturating_add(image.payload_len);
    let run = image.run_address.max(KERNEL_ADDRESS).saturating_add(image.run_size);
    let end = loaded.max(run);
    check_fits("kernel", end - KERNEL_ADDRESS, end, layout)?;
    let mut page = vec![0u8; zero_page::SIZE];
    let header_end = (HEADER + image.header.len()).min(zero_page::E820_TABLE);
    page[HEADER..header_end].copy_from_slice(&image.header[..header_end - HEADER]);
    let max = image.command_line_max;
    let limit = image.initrd_max.saturating_add(1);
    fill(
        &mut page,
        &mut blobs,
        request,
        layout,
        Limits { end, initrd: limit, command_line: max, version: image.version },
    )?;
    let wide = request.long_mode && image.has_64bit_entry;
    let (entry, format) = if wide {
        let entry = KERNEL_ADDRESS as u32 + 0x200;
        (Entry::Linux64 { entry, zero_page: ZERO_PAGE as u32 }, "bzImage, 64-bit boot protocol")
    } else {
        (
            Entry::Linux32 { entry: KERNEL_ADDRESS as u32, zero_page: ZERO_PAGE as u32 },
            "bzImage, 32-bit boot protocol",
        )
    };
    finish(blobs, page, entry, format)
}

/// An ELF kernel without PVH note: entered at its entry point with a zero page made from nothing.
pub(crate) fn plan_elf(
    request: &BootRequest,
    layout: &MemoryLayout,
    image: &ElfImage,
) -> Result<BootPlan, LoadError> {
    if image.is_64bit && !request.long_mode {
        let reason = "it is a 64-bit ELF file and the processor has no long mode";
        return Err(LoadError::Unsupported { path: image.path.clone(), reason });
    }
    let (mut blobs, end) = load_segments(layout, image)?;
    let mut page = vec![0u8; zero_page::SIZE];
    page[zero_page::BOOT_FLAG..][..2].copy_from_slice(&0xaa55u16.to_le_bytes());
    page[zero_page::HEADER_MAGIC..][..4].copy_from_slice(b"HdrS");
    let command_line = COMMAND_LINE_SPACE - 1;
    let limits = Limits { end, initrd: layout.low_ram_end, command_line, version: 0x20f };
    fill(&mut page, &mut blobs, request, layout, limits)?;
    let entry = entry_address(image)?;
    let (entry, format) = if image.is_64bit {
        (Entry::Linux64 { entry, zero_page: ZERO_PAGE as u32 }, "ELF, 64-bit boot protocol")
    } else {
        (Entry::Linux32 { entry, zero_page: ZERO_PAGE as u32 }, "ELF, 32-bit boot protocol")
    };
    finish(blobs, page, entry, format)
}

/// The entry address, which must be physical.
fn entry_address(image: &ElfImage) -> Result<u32, LoadError> {
    u32::try_from(image.entry).map_err(|_| LoadError::Unsupported {
        path: image.path.clone(),
        reason: "its entry point is above 4 GiB and it has no PVH note",
    })
}

/// Blobs for the segments of an ELF kernel, and where they end.
pub(crate) fn load_segments(layout: &MemoryLayout, image: &ElfImage) -> Result<(Vec<Blob>, u64), LoadError> {
    let (mut blobs, mut end) = (Vec::new(), 0);
    for segment in &image.segments {
        let stop = segment.address.saturating_add(segment.memory_size);
        check_fits("kernel", segment.memory_size, stop, layout)?;
        if segment.address < low_memory::END && stop > PAGE_TABLES {
            let reason = "a segment lies where the boot structures go (9000h to 2FFFFh)";
            return Err(LoadError::Unsupported { path: image.path.clone(), reason });
        }
        if segment.file_size > 0 {
            blobs.push(Blob::file("kernel", segment.address, &image.file, segment.offset, segment.file_size));
        }
        if segment.memory_size > segment.file_size {
            blobs.push(Blob {
                name: "kernel",
                address: segment.address + segment.file_size,
                source: crate::BlobSource::Zero(segment.memory_size - segment.file_size),
            });
        }
        end = end.max(stop);
    }
    Ok((blobs, end))
}

fn check_fits(what: &'static str, needed: u64, end: u64, layout: &MemoryLayout) -> Result<(), LoadError> {
    let available = layout.low_ram_end;
    if end > available { Err(LoadError::TooLittleMemory { what, needed, end, available }) } else { Ok(()) }
}

struct Limits {
    /// End of the kernel's memory.
    end: u64,
    /// End of the memory the initrd may take.
    initrd: u64,
    /// Longest command line.
    command_line: usize,
    /// Boot protocol version.
    version: u16,
}

/// The command line with its terminating zero.
pub(crate) fn command_line(request: &BootRequest, max: usize) -> Result<Vec<u8>, LoadError> {
    let max = max.min(COMMAND_LINE_SPACE - 1);
    let mut bytes = request.command_line.clone().into_bytes();
    if bytes.len() > max {
        return Err(LoadError::CommandLineTooLong { len: bytes.len(), max });
    }
    bytes.push(0);
    Ok(bytes)
}

/// Places the initrd; its range.
pub(crate) fn place_initrd(
    request: &BootRequest,
    blobs: &mut Vec<Blob>,
    placement: &mut Placement,
    limit: u64,
) -> Result<Option<Segment>, LoadError> {
    let Some(path) = &request.initrd else { return Ok(None) };
    let (file, len) = open("initrd", path)?;
    let start = placement.take("initrd", len, limit)?;
    blobs.push(Blob::file("initrd", start, &file, 0, len));
    Ok(Some(Segment { start, len }))
}

/// Fills in the zero page and places what it points to.
fn fill(
    page: &mut [u8],
    blobs: &mut Vec<Blob>,
    request: &BootRequest,
    layout: &MemoryLayout,
    limits: Limits,
) -> Result<(), LoadError> {
    let mut placement = Placement { top: layout.low_ram_end, bottom: limits.end.next_multiple_of(PAGE) };
    let mut put32 =
        |offset: usize, value: u64| page[offset..][..4].copy_from_slice(&(value as u32).to_le_bytes());
    if let Some(initrd) = place_initrd(request, blobs, &mut placement, limits.initrd)? {
        put32(zero_page::RAMDISK_IMAGE, initrd.start);
        put32(zero_page::RAMDISK_SIZE, initrd.len);
    }
    let line = command_line(request, limits.command_line)?;
    blobs.push(Blob::bytes("command line", COMMAND_LINE, line));
    put32(zero_page::CMD_LINE_PTR, COMMAND_LINE);
    put32(zero_page::CODE32_START, KERNEL_ADDRESS);
    // Memory above 1 MiB in KiB, for kernels that do not look at the map.
    let above = layout.low_ram_end.saturating_sub(KERNEL_ADDRESS) / 1024;
    put32(zero_page::ALT_MEM_K, above);
    page[zero_page::EXT_MEM_K..][..2].copy_from_slice(&(above.min(0xffff) as u16).to_le_bytes());
    page[zero_page::TYPE_OF_LOADER] = zero_page::LOADER_UNDEFINED;
    page[zero_page::ACPI_RSDP..][..8].copy_from_slice(&layout.rsdp.to_le_bytes());
    let data = device_tree(request, blobs, &mut placement, limits.version)?;
    page[zero_page::SETUP_DATA..][..8].copy_from_slice(&data.to_le_bytes());
    let entries = &layout.map[..layout.map.len().min(zero_page::E820_MAX)];
    page[zero_page::E820_ENTRIES] = entries.len() as u8;
    for (entry, slot) in entries.iter().zip(page[zero_page::E820_TABLE..].chunks_exact_mut(20)) {
        slot[..8].copy_from_slice(&entry.start.to_le_bytes());
        slot[8..16].copy_from_slice(&entry.len.to_le_bytes());
        slot[16..].copy_from_slice(&(entry.kind as u32).to_le_bytes());
    }
    Ok(())
}

/// Places the device tree as setup data; its address, or 0.
fn device_tree(
    request: &BootRequest,
    blobs: &mut Vec<Blob>,
    placement: &mut Placement,
    version: u16,
) -> Result<u64, LoadError> {
    let Some(path) = &request.dtb else { return Ok(0) };
    let bad = |reason| LoadError::BadDeviceTree { path: path.clone(), reason };
    if version < 0x209 {
        return Err(LoadError::Unsupported {
            path: request.kernel.clone(),
            reason: "its boot protocol (before 2.09) takes no device tree",
        });
    }
    let (file, len) = open("device tree", path)?;
    if !(40..=0x10_0000).contains(&len) {
        return Err(bad("its size is not between 40 bytes and 1 MiB"));
    }
    let tree = read_at(&file, 0, len as usize).map_err(|e| crate::file_error("device tree", path, e))?;
    // Devicetree specification 0.4, section 5.2: magic and total size, big-endian.
    if tree[..4] != [0xd0, 0x0d, 0xfe, 0xed] {
        return Err(bad("no magic number"));
    }
    let total = u32::from_be_bytes([tree[4], tree[5], tree[6], tree[7]]) as usize;
    if total < 40 || total > tree.len() {
        return Err(bad("its header gives a size beyond the file"));
    }
    let address = placement.take("device tree", 16 + total as u64, u64::MAX)?;
    let mut data = Vec::with_capacity(16 + total);
    data.extend_from_slice(&0u64.to_le_bytes());
    data.extend_from_slice(&zero_page::SETUP_DTB.to_le_bytes());
    data.extend_from_slice(&(total as u32).to_le_bytes());
    data.extend_from_slice(&tree[..total]);
    blobs.push(Blob::bytes("device tree", address, data));
    Ok(address)
}

fn finish(
    mut blobs: Vec<Blob>,
    page: Vec<u8>,
    entry: Entry,
    format: &'static str,
) -> Result<BootPlan, LoadError> {
    blobs.push(Blob::bytes("zero page", ZERO_PAGE, page));
    if matches!(entry, Entry::Linux64 { .. }) {
        blobs.push(Blob::bytes("page tables", PAGE_TABLES, low_memory::page_tables()));
    }
    Ok(BootPlan { blobs, entry, format })
}
