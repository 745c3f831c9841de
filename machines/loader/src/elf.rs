//! ELF kernels: loadable segments and the PVH note.
//!
//! Source: System V ABI (gABI chapters 4 and 5); Xen public/elfnote.h for the note.

use crate::LoadError;
use crate::blob::{Fields, read_at};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// e_machine of the x86 processors.
pub(crate) const X86: &[u16] = &[3, 62];
/// e_machine of RISC-V.
pub(crate) const RISCV: &[u16] = &[243];
const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;
/// XEN_ELFNOTE_PHYS32_ENTRY
const PHYS32_ENTRY: u32 = 18;
/// Notes are looked for in at most this many bytes of a segment.
const NOTES_MAX: u64 = 1 << 16;

/// A segment to load.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LoadSegment {
    pub offset: u64,
    pub address: u64,
    pub virtual_address: u64,
    pub file_size: u64,
    pub memory_size: u64,
}

/// An ELF kernel.
#[derive(Debug)]
pub(crate) struct ElfImage {
    pub path: PathBuf,
    pub file: Arc<File>,
    pub is_64bit: bool,
    pub entry: u64,
    pub segments: Vec<LoadSegment>,
    pub pvh_entry: Option<u32>,
}

/// Reads the header and the program headers of a file for one of `machines`.
pub(crate) fn parse(
    path: &Path,
    file: &Arc<File>,
    len: u64,
    head: &[u8],
    machines: &[u16],
) -> Result<ElfImage, LoadError> {
    let malformed = |reason| LoadError::Malformed { path: path.to_owned(), reason };
    let cut_short = || malformed("the ELF header is cut short");
    let is_64bit = match head.get(4..6).ok_or_else(cut_short)? {
        [1, 1] => false,
        [2, 1] => true,
        _ => return Err(malformed("not a little-endian ELF file")),
    };
    let machine = head.u16_at(18).ok_or_else(cut_short)?;
    if !machines.contains(&machine) {
        return Err(LoadError::NotAKernel {
            path: path.to_owned(),
            reason: "an ELF file for another processor",
        });
    }
    let (entry, table, entry_size, count) = if is_64bit {
        (head.u64_at(24), head.u64_at(32), head.u16_at(54), head.u16_at(56))
    } else {
        (head.u32_at(24).map(u64::from), head.u32_at(28).map(u64::from), head.u16_at(42), head.u16_at(44))
    };
    let entry = entry.ok_or_else(cut_short)?;
    let table = table.ok_or_else(cut_short)?;
    let (entry_size, count) = (entry_size.ok_or_else(cut_short)?, count.ok_or_else(cut_short)?);
    if usize::from(entry_size) < if is_64bit { 56 } else { 32 } {
        return Err(malformed("program headers are too small"));
    }
    let bytes = usize::from(entry_size) * usize::from(count);
    if table.checked_add(bytes as u64).is_none_or(|end| end > len) {
        return Err(malformed("the program header table lies outside the file"));
    }
    let headers = read_at(file, table, bytes).map_err(|e| crate::file_error("kernel", path, e))?;
    let mut image = ElfImage {
        path: path.to_owned(),
        file: file.clone(),
        is_64bit,
        entry,
        segments: Vec::new(),
        pvh_entry: None,
    };
    for header in headers.chunks_exact(entry_size.into()) {
        let (kind, segment) = program_header(header, is_64bit).ok_or_else(cut_short)?;
        let inside = segment.offset.checked_add(segment.file_size).is_some_and(|end| end <= len);
        match kind {
            PT_LOAD | PT_NOTE if !inside => return Err(malformed("a segment lies outside the file")),
            PT_LOAD if segment.memory_size < segment.file_size => {
                return Err(malformed("a segment is larger in the file than in memory"));
            }
            PT_LOAD if segment.memory_size > 0 => image.segments.push(segment),
            PT_NOTE => {
                let size = segment.file_size.min(NOTES_MAX) as usize;
                let notes =
                    read_at(file, segment.offset, size).map_err(|e| crate::file_error("kernel", path, e))?;
                image.pvh_entry = image.pvh_entry.or_else(|| find_pvh_entry(&notes));
            }
            _ => {}
        }
    }
    if image.segments.is_empty() {
        return Err(malformed("there is nothing to load in it"));
    }
    Ok(image)
}

/// Type and place of one program header.
fn program_header(header: &[u8], is_64bit: bool) -> Option<(u32, LoadSegment)> {
    let kind = header.u32_at(0)?;
    let segment = if is_64bit {
        LoadSegment {
            offset: header.u64_at(8)?,
            address: header.u64_at(24)?,
            virtual_address: header.u64_at(16)?,
            file_size: header.u64_at(32)?,
            memory_size: header.u64_at(40)?,
        }
    } else {
        LoadSegment {
            offset: header.u32_at(4)?.into(),
            address: header.u32_at(12)?.into(),
            virtual_address: header.u32_at(8)?.into(),
            file_size: header.u32_at(16)?.into(),
            memory_size: header.u32_at(20)?.into(),
        }
    };
    Some((kind, segment))
}

/// Looks for the PVH entry among the notes of a segment. Names and descriptors are padded to four bytes.
fn find_pvh_entry(notes: &[u8]) -> Option<u32> {
    let mut at = 0usize;
    loop {
        let name_size = notes.u32_at(at)? as usize;
        let desc_size = notes.u32_at(at + 4)? as usize;
        let kind = notes.u32_at(at + 8)?;
        let name = at + 12;
        let desc = name.checked_add(name_size.checked_next_multiple_of(4)?)?;
        if kind == PHYS32_ENTRY
            && notes.get(name..name.checked_add(name_size)?)? == b"Xen\0"
            && desc_size >= 4
        {
            return notes.u32_at(desc);
        }
        at = desc.checked_add(desc_size.checked_next_multiple_of(4)?)?;
    }
}
