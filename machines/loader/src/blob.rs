//! Pieces of guest memory that are written at every reset.

use rhea_memory::AddressSpace;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// Where a blob's bytes come from.
#[derive(Clone, Debug)]
pub enum BlobSource {
    /// Bytes made here.
    Bytes(Vec<u8>),
    /// Part of an open file.
    File {
        /// The file.
        file: Arc<File>,
        /// Offset of the first byte.
        offset: u64,
        /// Number of bytes.
        len: u64,
    },
    /// Zeros.
    Zero(u64),
}

/// A piece of guest memory and what to write there.
#[derive(Clone, Debug)]
pub struct Blob {
    /// What it is, for messages.
    pub name: &'static str,
    /// Guest physical address.
    pub address: u64,
    /// Contents.
    pub source: BlobSource,
}

/// An address range that a blob takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// First address.
    pub start: u64,
    /// Length in bytes.
    pub len: u64,
}

/// Bytes copied at a time: a file never stands in memory as a whole.
const CHUNK: usize = 1 << 20;

impl Blob {
    /// A blob of bytes.
    pub fn bytes(name: &'static str, address: u64, bytes: Vec<u8>) -> Self {
        Self { name, address, source: BlobSource::Bytes(bytes) }
    }

    /// A blob that is part of a file.
    pub fn file(name: &'static str, address: u64, file: &Arc<File>, offset: u64, len: u64) -> Self {
        Self { name, address, source: BlobSource::File { file: file.clone(), offset, len } }
    }

    /// The range of guest memory it takes.
    pub fn segment(&self) -> Segment {
        let len = match &self.source {
            BlobSource::Bytes(bytes) => bytes.len() as u64,
            BlobSource::File { len, .. } | BlobSource::Zero(len) => *len,
        };
        Segment { start: self.address, len }
    }

    /// Writes the blob into guest memory.
    ///
    /// # Errors
    /// The file cannot be read any more, or nothing answers at some address.
    pub fn write(&self, memory: &AddressSpace) -> io::Result<()> {
        let put = |address: u64, bytes: &[u8]| {
            memory.write_bytes(address, bytes).map_err(|e| io::Error::other(format!("{}: {e}", self.name)))
        };
        match &self.source {
            BlobSource::Bytes(bytes) => put(self.address, bytes),
            BlobSource::File { file, offset, len } => {
                let mut buffer = vec![0; CHUNK.min(*len as usize)];
                let mut done = 0;
                while done < *len {
                    let n = (buffer.len() as u64).min(len - done) as usize;
                    file.read_exact_at(&mut buffer[..n], offset + done)?;
                    put(self.address + done, &buffer[..n])?;
                    done += n as u64;
                }
                Ok(())
            }
            BlobSource::Zero(len) => {
                let zeros = vec![0; CHUNK.min(*len as usize)];
                let mut done = 0;
                while done < *len {
                    let n = (zeros.len() as u64).min(len - done) as usize;
                    put(self.address + done, &zeros[..n])?;
                    done += n as u64;
                }
                Ok(())
            }
        }
    }
}

/// Reads the first bytes of a file, at most `max`.
pub(crate) fn read_head(file: &File, len: u64, max: usize) -> io::Result<Vec<u8>> {
    let mut head = vec![0; len.min(max as u64) as usize];
    file.read_exact_at(&mut head, 0)?;
    Ok(head)
}

/// Reads `len` bytes at `offset`.
pub(crate) fn read_at(file: &File, offset: u64, len: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; len];
    file.read_exact_at(&mut bytes, offset)?;
    Ok(bytes)
}

/// Little-endian integers at offsets of a byte slice; `None` outside it.
pub(crate) trait Fields {
    fn u8_at(&self, offset: usize) -> Option<u8>;
    fn u16_at(&self, offset: usize) -> Option<u16>;
    fn u32_at(&self, offset: usize) -> Option<u32>;
    fn u64_at(&self, offset: usize) -> Option<u64>;
}

fn array<const N: usize>(bytes: &[u8], offset: usize) -> Option<[u8; N]> {
    bytes.get(offset..)?.first_chunk().copied()
}

impl Fields for [u8] {
    fn u8_at(&self, offset: usize) -> Option<u8> {
        self.get(offset).copied()
    }
    fn u16_at(&self, offset: usize) -> Option<u16> {
        array(self, offset).map(u16::from_le_bytes)
    }
    fn u32_at(&self, offset: usize) -> Option<u32> {
        array(self, offset).map(u32::from_le_bytes)
    }
    fn u64_at(&self, offset: usize) -> Option<u64> {
        array(self, offset).map(u64::from_le_bytes)
    }
}
