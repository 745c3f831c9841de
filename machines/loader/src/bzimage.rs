//! The setup header of a bzImage (Linux/x86 boot protocol 2.02 and later).

use crate::LoadError;
use crate::blob::Fields;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

/// Offset of the setup header in the file and in the zero page.
pub(crate) const HEADER: usize = 0x1f1;

/// Flags of `loadflags`.
const LOADED_HIGH: u8 = 1;
/// Flag of `xloadflags`: the kernel has the 64-bit entry at 200h.
const XLF_KERNEL_64: u16 = 1;

/// A bzImage and what its setup header says.
#[derive(Debug)]
pub(crate) struct Bzimage {
    pub file: Arc<File>,
    /// The setup header, to be copied into the zero page at [`HEADER`].
    pub header: Vec<u8>,
    pub version: u16,
    /// Offset and length in the file of the protected-mode part.
    pub payload_offset: u64,
    pub payload_len: u64,
    /// Highest address the initrd may end at (inclusive).
    pub initrd_max: u64,
    /// Longest command line, without the terminating zero.
    pub command_line_max: usize,
    pub has_64bit_entry: bool,
    /// Where the kernel wants to run and how much memory it needs there; (0, 0) before protocol 2.10.
    pub run_address: u64,
    pub run_size: u64,
}

pub(crate) fn parse(path: &Path, file: Arc<File>, len: u64, head: &[u8]) -> Result<Bzimage, LoadError> {
    let not_a_kernel = |reason| LoadError::NotAKernel { path: path.to_owned(), reason };
    let malformed = |reason| LoadError::Malformed { path: path.to_owned(), reason };
    let unsupported = |reason| LoadError::Unsupported { path: path.to_owned(), reason };
    if head.u16_at(0x1fe) != Some(0xaa55) {
        return Err(not_a_kernel("no boot signature"));
    }
    if head.get(0x202..0x206) != Some(b"HdrS") {
        return Err(not_a_kernel("no setup header"));
    }
    let cut_short = || malformed("the setup header is cut short");
    let version = head.u16_at(0x206).ok_or_else(cut_short)?;
    if version < 0x202 {
        return Err(unsupported("its boot protocol is older than 2.02"));
    }
    let loadflags = head.u8_at(0x211).ok_or_else(cut_short)?;
    if loadflags & LOADED_HIGH == 0 {
        return Err(unsupported("it is a zImage, loaded below 640 KiB"));
    }
    // The jump at 200h ends the header: its displacement gives the length.
    let end = 0x202 + usize::from(head.u8_at(0x201).ok_or_else(cut_short)?);
    let header = head.get(HEADER..end.max(0x230)).ok_or_else(cut_short)?.to_vec();
    let setup_sectors = match head[HEADER] {
        0 => 4,
        n => u64::from(n),
    };
    let payload_offset = (setup_sectors + 1) * 512;
    let payload_len = len.checked_sub(payload_offset).filter(|n| *n > 0);
    let payload_len = payload_len.ok_or_else(|| malformed("it ends before its protected-mode part"))?;
    let since = |wanted: u16| version >= wanted;
    let field = |wanted: u16, offset: usize| if since(wanted) { head.u32_at(offset) } else { None };
    let (run_address, run_size) = match (since(0x20a), head.u64_at(0x258), head.u32_at(0x260)) {
        (true, Some(address), Some(size)) => (address, u64::from(size)),
        _ => (0, 0),
    };
    if run_address >= 1 << 32 {
        return Err(malformed("its preferred address is above 4 GiB"));
    }
    Ok(Bzimage {
        file,
        header,
        version,
        payload_offset,
        payload_len,
        initrd_max: u64::from(field(0x203, 0x22c).filter(|max| *max != 0).unwrap_or(0x37ff_ffff)),
        command_line_max: field(0x206, 0x238).filter(|max| *max != 0).unwrap_or(255) as usize,
        has_64bit_entry: since(0x20c) && head.u16_at(0x236).is_some_and(|flags| flags & XLF_KERNEL_64 != 0),
        run_address,
        run_size,
    })
}
