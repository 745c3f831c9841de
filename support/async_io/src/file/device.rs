//! What block devices and O_DIRECT ask and offer.

use std::io;
use std::os::fd::AsRawFd;

use super::{File, check, retry};
use crate::IoVector;

/// What requests around the page cache must be multiples of, in bytes (powers of two).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DirectAlignment {
    /// Offsets and lengths.
    pub request: u32,
    /// Addresses.
    pub memory: u32,
}

const BLKDISCARD: libc::c_ulong = 0x1277;
/// Blocks are not smaller, whatever a device says.
const LEAST: u32 = 512;
/// What suits every device there is.
const SAFE: u32 = 4096;

impl File {
    /// Bytes in a logical block of a block device. Blocks.
    pub fn device_block_size(&self) -> io::Result<u32> {
        let mut size: libc::c_int = 0;
        // SAFETY: the kernel writes an int.
        retry(|| check(unsafe { libc::ioctl(self.as_raw_fd(), libc::BLKSSZGET, &mut size) }))?;
        u32::try_from(size)
            .ok()
            .filter(|size| size.is_power_of_two())
            .ok_or_else(|| io::Error::from_raw_os_error(libc::EINVAL))
    }

    /// Tells a block device that a range is not needed any more; what it reads as then is up to the device. Blocks.
    pub fn discard_blocks(&self, offset: u64, len: u64) -> io::Result<()> {
        let range = [offset, len];
        // SAFETY: the kernel reads two 64-bit numbers.
        retry(|| check(unsafe { libc::ioctl(self.as_raw_fd(), BLKDISCARD, &range) })).map(drop)
    }

    /// What the file, opened with O_DIRECT, asks of requests: as the kernel says it, or as found out by reading. Blocks.
    pub fn direct_alignment(&self) -> DirectAlignment {
        if let Some(alignment) = self.stated_alignment() {
            return alignment;
        }
        if let Ok(size) = self.device_block_size() {
            return DirectAlignment { request: size.max(LEAST), memory: size.max(LEAST) };
        }
        // A file system that does not say: a read at a block's start tells. An empty file tells nothing.
        let empty = self.status().map_or(true, |status| status.size == 0);
        let mut request = LEAST;
        while request < SAFE && (empty || !self.can_read(request)) {
            request *= 2;
        }
        DirectAlignment { request, memory: request }
    }

    fn stated_alignment(&self) -> Option<DirectAlignment> {
        const STATX_DIOALIGN: u32 = 0x2000;
        // SAFETY: `statx` is plain numbers, for which zeroes are good.
        let mut status: libc::statx = unsafe { std::mem::zeroed() };
        let flags = libc::AT_EMPTY_PATH;
        // SAFETY: our descriptor, an empty name that ends with a zero, and memory that lives through the call.
        let result =
            unsafe { libc::statx(self.as_raw_fd(), c"".as_ptr(), flags, STATX_DIOALIGN, &mut status) };
        let (memory, request) = (status.stx_dio_mem_align, status.stx_dio_offset_align);
        let known = result == 0
            && status.stx_mask & STATX_DIOALIGN != 0
            && memory.is_power_of_two()
            && request.is_power_of_two();
        known.then(|| DirectAlignment { request: request.max(LEAST), memory })
    }

    fn can_read(&self, len: u32) -> bool {
        let data = IoVector::zeroed(len as usize);
        let iovecs = data.iovecs();
        // SAFETY: the vector describes memory of `data`, which lives through the call.
        unsafe { libc::preadv(self.as_raw_fd(), iovecs.as_ptr(), 1, libc::off_t::from(len)) >= 0 }
    }
}
