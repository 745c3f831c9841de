//! Firmware and kernels for RISC-V boards.
//!
//! Source: Linux kernel documentation, arch/riscv/boot-image-header.rst (Image) and arch/riscv/boot.rst; System V ABI for
//! ELF. The header of a compressed EFI image ("zboot") is that of Linux's drivers/firmware/efi/libstub/zboot-header.S.
//!
//! A file is one of these: an ELF file, whose segments go to their physical addresses; a Linux Image, as it is or
//! compressed with gzip; anything else is a flat binary. Whatever a file says of itself is checked against the RAM there is.

use crate::blob::{Blob, Fields, read_at, read_head};
use crate::elf::{self, ElfImage};
use crate::{LoadError, file_error, open};
use flate2::read::GzDecoder;
use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

/// What a file was found to be.
#[derive(Debug)]
pub struct Image {
    /// What to write, in order.
    pub blobs: Vec<Blob>,
    /// Where it is entered.
    pub entry: u64,
    /// First address it takes.
    pub low: u64,
    /// End of the memory it takes, with what it clears itself.
    pub end: u64,
    /// What it is, for messages.
    pub format: &'static str,
    /// Addresses of the symbols `tohost` and `fromhost`, if the file is an ELF file that has both.
    pub htif: Option<(u64, u64)>,
}

/// Where a file may go.
#[derive(Clone, Debug)]
pub struct Placement {
    /// Address of the first byte of a file that does not say where it belongs.
    pub base: u64,
    /// RAM.
    pub ram: Range<u64>,
    /// Width of the hart's integer registers: 32 or 64.
    pub xlen: u32,
}

/// Fields of the Image header.
mod image {
    /// Bytes that the kernel takes with what it clears; 0 in kernels before 5.3.
    pub const IMAGE_SIZE: usize = 16;
    pub const MAGIC: usize = 56;
    pub const MAGIC_VALUE: &[u8; 4] = b"RSC\x05";
    pub const SIZE: usize = 64;
}

/// Fields of the header of a compressed EFI image.
mod zboot {
    pub const MAGIC: usize = 4;
    pub const MAGIC_VALUE: &[u8; 4] = b"zimg";
    pub const PAYLOAD_OFFSET: usize = 8;
    pub const PAYLOAD_SIZE: usize = 12;
    /// Name of the compression, ended by a zero byte.
    pub const COMPRESSION: usize = 24;
}

/// Finds out what `path` is and where it goes. `what` names its part in messages and blobs.
///
/// # Errors
/// The file cannot be read, is malformed, for another processor, or does not fit into RAM.
pub fn load(what: &'static str, path: &Path, placement: &Placement) -> Result<Image, LoadError> {
    let (file, len) = open(what, path)?;
    let failed = |source| file_error(what, path, source);
    let head = read_head(&file, len, 4096).map_err(failed)?;
    if head.is_empty() {
        return Err(LoadError::Malformed { path: path.to_owned(), reason: "the file is empty" });
    }
    if head.starts_with(b"\x7fELF") {
        let image = elf::parse(path, &file, len, &head, elf::RISCV)?;
        let mut loaded = load_elf(what, &image, placement)?;
        let [to, from] = symbols::find(&file, len, &head, image.is_64bit, [b"tohost", b"fromhost"]);
        let physical = |address: u64| physical(&image, address);
        loaded.htif = to.map(physical).zip(from.map(physical));
        return Ok(loaded);
    }
    let (payload, size) = if head.get(zboot::MAGIC..zboot::MAGIC + 4) == Some(zboot::MAGIC_VALUE) {
        zboot_payload(path, len, &head)?
    } else {
        (0, len)
    };
    let packed = read_at(&file, payload, size.min(2) as usize).map_err(failed)?;
    if packed == [0x1f, 0x8b] {
        let bytes = expand(path, &file, payload, size, placement)?;
        let head = bytes.get(..image::SIZE).unwrap_or(&bytes).to_vec();
        return load_flat(what, bytes.len() as u64, &head, placement, |base| Blob::bytes(what, base, bytes));
    }
    load_flat(what, len, &head, placement, |base| Blob::file(what, base, &file, 0, len))
}

/// Offset and size of what a zboot image carries.
fn zboot_payload(path: &Path, len: u64, head: &[u8]) -> Result<(u64, u64), LoadError> {
    let malformed = |reason| LoadError::Malformed { path: path.to_owned(), reason };
    let fields = head.u32_at(zboot::PAYLOAD_OFFSET).zip(head.u32_at(zboot::PAYLOAD_SIZE));
    let (offset, size) = fields.ok_or_else(|| malformed("the header is cut short"))?;
    if head.get(zboot::COMPRESSION..zboot::COMPRESSION + 5) != Some(b"gzip\0") {
        let reason = "it is compressed with something else than gzip; unpack it first";
        return Err(LoadError::Unsupported { path: path.to_owned(), reason });
    }
    let (offset, size) = (u64::from(offset), u64::from(size));
    if offset + size > len {
        return Err(malformed("the compressed kernel lies outside the file"));
    }
    Ok((offset, size))
}

/// Expands gzip data, no further than RAM could hold.
fn expand(
    path: &Path,
    file: &Arc<File>,
    offset: u64,
    size: u64,
    placement: &Placement,
) -> Result<Vec<u8>, LoadError> {
    let compressed = |source| LoadError::Compressed { path: path.to_owned(), source };
    let source = FilePart { file, at: offset, end: offset.saturating_add(size) };
    let room = placement.ram.end.saturating_sub(placement.base);
    let mut bytes = Vec::new();
    let mut decoder = GzDecoder::new(std::io::BufReader::new(source)).take(room.saturating_add(1));
    decoder.read_to_end(&mut bytes).map_err(compressed)?;
    if bytes.is_empty() {
        return Err(LoadError::Malformed { path: path.to_owned(), reason: "there is nothing in it" });
    }
    Ok(bytes)
}

struct FilePart<'a> {
    file: &'a File,
    at: u64,
    end: u64,
}

impl Read for FilePart<'_> {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        use std::os::unix::fs::FileExt;
        let len = self.end.saturating_sub(self.at).min(out.len() as u64) as usize;
        let n = self.file.read_at(out.get_mut(..len).unwrap_or_default(), self.at)?;
        self.at += n as u64;
        Ok(n)
    }
}

/// A Linux Image or a flat binary of `len` bytes that starts with `head`.
fn load_flat(
    what: &'static str,
    len: u64,
    head: &[u8],
    placement: &Placement,
    blob: impl FnOnce(u64) -> Blob,
) -> Result<Image, LoadError> {
    let is_image = head.len() >= image::SIZE
        && head.get(image::MAGIC..image::MAGIC + 4) == Some(image::MAGIC_VALUE.as_slice());
    let asked = if is_image { head.u64_at(image::IMAGE_SIZE).unwrap_or(0) } else { 0 };
    let size = len.max(asked);
    let base = placement.base;
    let end = base.saturating_add(size);
    if end > placement.ram.end {
        return Err(too_little(what, size, end, placement));
    }
    let format = if is_image { "Linux Image" } else { "flat binary" };
    Ok(Image { blobs: vec![blob(base)], entry: base, low: base, end, format, htif: None })
}

fn too_little(what: &'static str, needed: u64, end: u64, placement: &Placement) -> LoadError {
    LoadError::TooLittleMemory { what, needed, end, available: placement.ram.end }
}

fn load_elf(what: &'static str, image: &ElfImage, placement: &Placement) -> Result<Image, LoadError> {
    let unsupported = |reason| LoadError::Unsupported { path: image.path.clone(), reason };
    if image.is_64bit != (placement.xlen == 64) {
        let reason = if image.is_64bit { "it is a 64-bit ELF file" } else { "it is a 32-bit ELF file" };
        return Err(unsupported(reason));
    }
    let (mut blobs, mut low, mut high) = (Vec::new(), u64::MAX, 0);
    for segment in &image.segments {
        if segment.address < placement.ram.start {
            return Err(unsupported("a segment lies below RAM"));
        }
        let end = segment.address.saturating_add(segment.memory_size);
        if end > placement.ram.end {
            return Err(too_little(what, segment.memory_size, end, placement));
        }
        (low, high) = (low.min(segment.address), high.max(end));
        let (file_size, zeros) = (segment.file_size, segment.memory_size - segment.file_size);
        if file_size > 0 {
            blobs.push(Blob::file(what, segment.address, &image.file, segment.offset, file_size));
        }
        if zeros > 0 {
            let source = crate::BlobSource::Zero(zeros);
            blobs.push(Blob { name: what, address: segment.address + file_size, source });
        }
    }
    Ok(Image { blobs, entry: physical(image, image.entry), low, end: high, format: "ELF", htif: None })
}

/// The physical address of what is linked at `address`: kernels are linked to virtual ones.
fn physical(image: &ElfImage, address: u64) -> u64 {
    let home = image.segments.iter().find(|segment| {
        address.checked_sub(segment.virtual_address).is_some_and(|at| at < segment.memory_size)
    });
    match home {
        // The difference is below the segment's size, whose end was checked against RAM.
        Some(segment) => segment.address.wrapping_add(address - segment.virtual_address),
        None => address,
    }
}

mod symbols;

#[cfg(test)]
mod tests;
