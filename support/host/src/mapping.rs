//! Anonymous and shared memory mappings, and the two-view mapping that the code cache stands on.

use std::io;
use std::ptr::NonNull;

/// A private anonymous mapping, readable and writable, zero-filled, released on drop.
///
/// Pages are only backed by host memory once touched, so a large guest RAM costs what the guest uses.
#[derive(Debug)]
pub struct AnonymousMapping {
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: the mapping is plain memory owned by this value; it has no thread affinity, and shared access goes
// through raw pointers whose users take care of synchronization.
unsafe impl Send for AnonymousMapping {}
// SAFETY: as above; `&AnonymousMapping` only hands out a raw pointer and a length.
unsafe impl Sync for AnonymousMapping {}

fn map(len: usize, prot: i32, flags: i32, fd: i32) -> io::Result<NonNull<u8>> {
    // SAFETY: a fresh mapping at an address of the kernel's choice aliases nothing this process owns.
    let p = unsafe { libc::mmap(std::ptr::null_mut(), len, prot, flags, fd, 0) };
    if p == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    NonNull::new(p.cast()).ok_or_else(|| io::Error::other("mmap returned address zero"))
}

fn unmap(base: NonNull<u8>, len: usize) {
    // SAFETY: `base..base+len` was returned by mmap with this length and is unmapped exactly once, on drop.
    let r = unsafe { libc::munmap(base.as_ptr().cast(), len) };
    debug_assert_eq!(r, 0);
}

impl AnonymousMapping {
    /// Maps `len` bytes (rounded up to whole pages by the kernel). Address space is reserved without commit.
    pub fn new(len: usize) -> io::Result<Self> {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        let base = map(len, libc::PROT_READ | libc::PROT_WRITE, flags, -1)?;
        Ok(Self { base, len })
    }

    /// Asks the kernel to back the mapping with huge pages where it can. Advisory: failure is not an error.
    pub fn advise_huge_pages(&self) {
        // SAFETY: the range is our own live mapping; madvise(HUGEPAGE) changes no contents.
        let _ = unsafe { libc::madvise(self.base.as_ptr().cast(), self.len, libc::MADV_HUGEPAGE) };
    }

    /// First byte of the mapping.
    pub fn as_ptr(&self) -> *mut u8 {
        self.base.as_ptr()
    }

    /// Length in bytes as asked for.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True for a mapping of zero bytes (which `new` never makes: the kernel refuses it).
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl Drop for AnonymousMapping {
    fn drop(&mut self) {
        unmap(self.base, self.len);
    }
}

/// One memory object seen twice: writable at one address, executable at another (W^X).
///
/// No address is ever both writable and executable; code is written through [`DualMapping::writable`] and run
/// at the same offset from [`DualMapping::executable`].
#[derive(Debug)]
pub struct DualMapping {
    writable: NonNull<u8>,
    executable: NonNull<u8>,
    len: usize,
}

// SAFETY: as for `AnonymousMapping`: plain memory, no thread affinity, only raw pointers handed out.
unsafe impl Send for DualMapping {}
// SAFETY: as above.
unsafe impl Sync for DualMapping {}

impl DualMapping {
    /// Makes a memory object of `len` bytes named `name` (seen in /proc/PID/maps) and maps both views.
    pub fn new(name: &std::ffi::CStr, len: usize) -> io::Result<Self> {
        // SAFETY: `name` is a NUL-terminated string that outlives the call.
        let fd = unsafe { libc::memfd_create(name.as_ptr(), libc::MFD_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        let result = Self::map_both(fd, len);
        // SAFETY: `fd` was opened above, is owned here, and the mappings keep the object alive without it.
        unsafe { libc::close(fd) };
        result
    }

    fn map_both(fd: i32, len: usize) -> io::Result<Self> {
        let size = libc::off_t::try_from(len).map_err(io::Error::other)?;
        // SAFETY: `fd` is a live memfd of ours.
        if unsafe { libc::ftruncate(fd, size) } != 0 {
            return Err(io::Error::last_os_error());
        }
        let writable = map(len, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED, fd)?;
        match map(len, libc::PROT_READ | libc::PROT_EXEC, libc::MAP_SHARED, fd) {
            Ok(executable) => Ok(Self { writable, executable, len }),
            Err(e) => {
                unmap(writable, len);
                Err(e)
            }
        }
    }

    /// Base of the view that can be written and not executed.
    pub fn writable(&self) -> *mut u8 {
        self.writable.as_ptr()
    }

    /// Base of the view that can be executed and not written.
    pub fn executable(&self) -> *const u8 {
        self.executable.as_ptr()
    }

    /// Length of each view in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True for zero length (never made by `new`).
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Gives the pages of a range back to the system; they read as zero afterwards.
    pub fn discard(&self, offset: usize, len: usize) {
        assert!(offset.checked_add(len).is_some_and(|end| end <= self.len));
        // SAFETY: the range lies in our own writable view (asserted above). MADV_REMOVE frees the backing pages.
        let _ = unsafe { libc::madvise(self.writable.as_ptr().add(offset).cast(), len, libc::MADV_REMOVE) };
    }
}

impl Drop for DualMapping {
    fn drop(&mut self) {
        unmap(self.writable, self.len);
        unmap(self.executable, self.len);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_views_show_one_memory() {
        let m = DualMapping::new(c"test", 8192).unwrap();
        // SAFETY: both pointers are into live views of at least one byte.
        unsafe {
            *m.writable() = 0x5a;
            assert_eq!(*m.executable(), 0x5a);
        }
    }

    #[test]
    fn anonymous_memory_reads_as_zero() {
        let m = AnonymousMapping::new(4096).unwrap();
        // SAFETY: one byte inside a live mapping.
        assert_eq!(unsafe { *m.as_ptr().add(4095) }, 0);
    }
}
