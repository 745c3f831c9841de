//! Loads a kernel as the boot protocols ask, without firmware.
//!
//! [`plan`] looks at the kernel file and decides what goes where in guest memory ([`Blob`]s) and how the
//! processor enters ([`Entry`]); [`boot_rom`] makes the small ROM that brings a processor from its reset vector
//! to that entry. Files are kept open, not in memory: the blobs are written again at every machine reset.
//!
//! Protocols: Linux/x86 boot protocol (kernel documentation, arch/x86/boot.rst) for bzImage, 32-bit and 64-bit;
//! PVH (Xen documentation, misc/pvh.pandoc and hvm/start_info.h) for ELF kernels with the XEN_ELFNOTE_PHYS32_ENTRY note; ELF
//! kernels without it are entered at their entry point as the 32-bit or 64-bit Linux protocol says. What a RISC-V board
//! loads is in [`riscv`].

mod blob;
mod bzimage;
mod elf;
mod linux;
mod low_memory;
mod pvh;
pub mod riscv;
mod rom;

pub use blob::{Blob, BlobSource, Segment};
pub use low_memory::PAGE_TABLES;
pub use rom::{BOOT_ROM_CODE_SIZE, boot_rom};

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Type of a memory range as firmware reports it (ACPI specification 6.5, table 15.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemoryType {
    /// Usable RAM.
    Ram = 1,
    /// Not usable.
    Reserved = 2,
    /// ACPI tables, reclaimable.
    AcpiReclaim = 3,
    /// ACPI NVS.
    AcpiNvs = 4,
}

/// One entry of the memory map handed to the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryEntry {
    /// First address.
    pub start: u64,
    /// Length in bytes.
    pub len: u64,
    /// Type.
    pub kind: MemoryType,
}

/// What a kernel is loaded into.
#[derive(Clone, Debug)]
pub struct MemoryLayout {
    /// Memory map for the kernel.
    pub map: Vec<MemoryEntry>,
    /// End of the RAM below 4 GiB that blobs may use.
    pub low_ram_end: u64,
    /// Address of the ACPI RSDP; 0 if there are no tables.
    pub rsdp: u64,
}

/// What to load.
#[derive(Clone, Debug, Default)]
pub struct BootRequest {
    /// Kernel image.
    pub kernel: PathBuf,
    /// Initial RAM disk.
    pub initrd: Option<PathBuf>,
    /// Device tree blob.
    pub dtb: Option<PathBuf>,
    /// Command line.
    pub command_line: String,
    /// The processor has long mode.
    pub long_mode: bool,
}

/// How the processor enters the kernel. Addresses are physical and below 4 GiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// Linux 64-bit boot protocol: long mode, RSI holds the zero page's address.
    Linux64 {
        /// First instruction.
        entry: u32,
        /// Zero page (struct boot_params).
        zero_page: u32,
    },
    /// Linux 32-bit boot protocol: protected mode without paging, ESI holds the zero page's address.
    Linux32 {
        /// First instruction.
        entry: u32,
        /// Zero page (struct boot_params).
        zero_page: u32,
    },
    /// PVH: protected mode without paging, EBX holds the start info's address.
    Pvh {
        /// First instruction.
        entry: u32,
        /// struct hvm_start_info.
        start_info: u32,
    },
}

/// A kernel ready to be written into memory and entered.
#[derive(Debug)]
pub struct BootPlan {
    /// What to write, in order.
    pub blobs: Vec<Blob>,
    /// How to enter.
    pub entry: Entry,
    /// What the file was found to be, for messages.
    pub format: &'static str,
}

/// Why a kernel cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// A file cannot be opened or read.
    #[error("cannot read {what} '{}'", path.display())]
    File {
        /// Which file.
        what: &'static str,
        /// Its path.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The kernel file is of no known format.
    #[error("'{}' is not a kernel for this machine ({reason})", path.display())]
    NotAKernel {
        /// Path of the file.
        path: PathBuf,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The kernel file is of a known format but malformed.
    #[error("kernel '{}' is malformed: {reason}", path.display())]
    Malformed {
        /// Path of the file.
        path: PathBuf,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The kernel asks for something that is not offered.
    #[error("kernel '{}' cannot be booted: {reason}", path.display())]
    Unsupported {
        /// Path of the file.
        path: PathBuf,
        /// What is missing.
        reason: &'static str,
    },
    /// The device tree blob is not one.
    #[error("'{}' is not a device tree blob: {reason}", path.display())]
    BadDeviceTree {
        /// Path of the file.
        path: PathBuf,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// Compressed data cannot be expanded.
    #[error("cannot expand '{}'", path.display())]
    Compressed {
        /// Path of the file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The command line is too long for the kernel.
    #[error("the kernel command line has {len} bytes; this kernel takes {max}")]
    CommandLineTooLong {
        /// Bytes given.
        len: usize,
        /// Bytes the kernel takes.
        max: usize,
    },
    /// Something does not fit into the guest's memory.
    #[error(
        "too little guest memory: the {what} needs {needed:#x} bytes up to {end:#x}, RAM for it ends at {available:#x}"
    )]
    TooLittleMemory {
        /// What does not fit.
        what: &'static str,
        /// Its size.
        needed: u64,
        /// Where it would end.
        end: u64,
        /// Where usable RAM ends.
        available: u64,
    },
}

/// Decides how to boot what `request` names in a machine with `layout`.
///
/// # Errors
/// A file cannot be read, is malformed or of no known kind, or does not fit.
pub fn plan(request: &BootRequest, layout: &MemoryLayout) -> Result<BootPlan, LoadError> {
    let (file, len) = open("kernel", &request.kernel)?;
    let head = blob::read_head(&file, len, 0x1_0000).map_err(|e| file_error("kernel", &request.kernel, e))?;
    if head.starts_with(b"\x7fELF") {
        let image = elf::parse(&request.kernel, &file, len, &head, elf::X86)?;
        return match image.pvh_entry {
            Some(entry) => pvh::plan(request, layout, &image, entry),
            None => linux::plan_elf(request, layout, &image),
        };
    }
    let image = bzimage::parse(&request.kernel, file, len, &head)?;
    linux::plan_bzimage(request, layout, &image)
}

/// Opens a file and finds its length.
fn open(what: &'static str, path: &Path) -> Result<(Arc<File>, u64), LoadError> {
    let open = || {
        let file = File::open(path)?;
        let metadata = file.metadata()?;
        if metadata.is_dir() {
            return Err(std::io::Error::from(std::io::ErrorKind::IsADirectory));
        }
        Ok((Arc::new(file), metadata.len()))
    };
    open().map_err(|source| file_error(what, path, source))
}

fn file_error(what: &'static str, path: &Path, source: std::io::Error) -> LoadError {
    LoadError::File { what, path: path.to_owned(), source }
}

#[cfg(test)]
mod tests;
