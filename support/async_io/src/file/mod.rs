//! Files, asynchronously.

mod device;
mod lock;
mod unattended;

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::{Duration, Instant};

use crate::executor::{is_dedicated, take_turns};
use crate::operation::{LARGE, Request, Submission};
use crate::pool::unblock_io;
use crate::{IoVector, IoView};

pub use device::DirectAlignment;
pub(crate) use unattended::Unattended;

/// How a file is opened. Always close-on-exec.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OpenOptions {
    /// For writing as well as reading.
    pub write: bool,
    /// Create it (with mode 0644, less the umask) if it is not there.
    pub create: bool,
    /// Around the page cache (`O_DIRECT`).
    pub direct: bool,
    /// Do not wait for a device to become ready (`O_NONBLOCK`).
    pub nonblocking: bool,
    /// Have all reads, writes and flushes done by threads, also where the kernel has io_uring.
    pub only_threads: bool,
}

/// An open file. Clones share it.
///
/// What blocks says so; the asynchronous operations go to the calling thread's ring, or to threads.
#[derive(Debug, Clone)]
pub struct File {
    open: Arc<OpenFile>,
}

/// A descriptor, and how to use it; kept by every operation under way.
#[derive(Debug)]
pub(crate) struct OpenFile {
    fd: OwnedFd,
    only_threads: bool,
    direct: bool,
    unattended: Unattended,
    /// Reading what is in the page cache (`RWF_NOWAIT`).
    cached_reads: QuickWay,
    /// Writing to the page cache, which takes no longer than to have another thread do it, unless the system makes
    /// writers wait.
    cached_writes: QuickWay,
}

impl OpenFile {
    pub(crate) fn only_threads(&self) -> bool {
        self.only_threads
    }

    /// Whether it is read and written through the page cache.
    pub(crate) fn is_cached(&self) -> bool {
        !self.direct
    }

    pub(crate) fn unattended(&self) -> &Unattended {
        &self.unattended
    }
}

impl AsRawFd for OpenFile {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

/// Whether the quick way to do something is worth a try: after it turned out not to be quick, the next few times are
/// done the other way at once, more each time.
#[derive(Debug, Default)]
struct QuickWay {
    skip: AtomicU32,
    misses: AtomicU32,
}

impl QuickWay {
    const NEVER: u32 = u32::MAX;

    /// Whether to try. Each question counts as a time.
    fn worth_a_try(&self) -> bool {
        match self.skip.load(Relaxed) {
            0 => true,
            Self::NEVER => false,
            skip => {
                self.skip.store(skip - 1, Relaxed);
                false
            }
        }
    }

    fn hit(&self) {
        if self.misses.load(Relaxed) != 0 {
            self.misses.store(0, Relaxed);
        }
    }

    /// Skips 1, 3, 7… times, up to 2 to the power of `most`, less one.
    fn missed(&self, most: u32) {
        let misses = (self.misses.load(Relaxed) + 1).min(most);
        self.misses.store(misses, Relaxed);
        self.skip.store((1 << misses) - 1, Relaxed);
    }

    fn give_up(&self) {
        self.skip.store(Self::NEVER, Relaxed);
    }
}

/// Longer writes are not done by the executor's own thread, which has better things to do than to copy them.
const QUICK_WRITE: usize = 64 << 10;

/// A write to the page cache that takes longer than this, and two nanoseconds a byte, waited for something.
const SLOW_WRITE: Duration = Duration::from_micros(500);

/// What the file system says of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileStatus {
    /// The file system's and the file's number.
    pub identity: (u64, u64),
    /// `st_mode`: type and permissions.
    pub mode: u32,
    /// Bytes; 0 for devices.
    pub size: u64,
    /// Bytes of storage taken.
    pub allocated: u64,
    /// The file's best I/O size in bytes.
    pub block_size: u64,
}

impl FileStatus {
    /// Whether it is a regular file.
    pub fn is_regular(&self) -> bool {
        self.mode & libc::S_IFMT == libc::S_IFREG
    }

    /// Whether it is a block device.
    pub fn is_block_device(&self) -> bool {
        self.mode & libc::S_IFMT == libc::S_IFBLK
    }

    /// Whether it is a character device.
    pub fn is_char_device(&self) -> bool {
        self.mode & libc::S_IFMT == libc::S_IFCHR
    }

    /// Whether it is a directory.
    pub fn is_directory(&self) -> bool {
        self.mode & libc::S_IFMT == libc::S_IFDIR
    }
}

/// What lies at an offset of a file; see [`File::extent`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// Data up to this offset.
    Data(u64),
    /// A hole up to this offset.
    Hole(u64),
    /// A hole up to the end, or the end itself.
    HoleToEnd,
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    match result {
        -1 => Err(io::Error::last_os_error()),
        value => Ok(value),
    }
}

fn retry<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.raw_os_error() == Some(libc::EINTR) => {}
            other => return other,
        }
    }
}

/// Has the kernel do something with a file. What a ring would not do without waiting, or was told to leave, a thread
/// does.
async fn perform(request: Request) -> (io::Result<usize>, Request) {
    let (result, request) = Submission::new(request).await;
    let (result, request) = match -result {
        libc::EINTR | libc::EAGAIN | libc::ECANCELED => Submission::in_pool(request).await,
        _ => (result, request),
    };
    let result = usize::try_from(result).map_err(|_| io::Error::from_raw_os_error(-result));
    (result, request)
}

fn offset_of(offset: u64) -> io::Result<libc::off_t> {
    libc::off_t::try_from(offset).map_err(|_| io::Error::from_raw_os_error(libc::EFBIG))
}

impl From<OwnedFd> for File {
    fn from(fd: OwnedFd) -> Self {
        Self::new(fd, OpenOptions::default())
    }
}

impl AsFd for File {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.open.fd.as_fd()
    }
}

impl AsRawFd for File {
    fn as_raw_fd(&self) -> RawFd {
        self.open.fd.as_raw_fd()
    }
}

impl File {
    /// Opens a file. Blocks.
    pub fn open(path: &Path, options: OpenOptions) -> io::Result<Self> {
        let path = CString::new(path.as_os_str().as_bytes())
            .map_err(|_| io::Error::from_raw_os_error(libc::ENOENT))?;
        let mut flags = libc::O_CLOEXEC | if options.write { libc::O_RDWR } else { libc::O_RDONLY };
        for (wanted, flag) in [
            (options.create, libc::O_CREAT),
            (options.direct, libc::O_DIRECT),
            (options.nonblocking, libc::O_NONBLOCK),
        ] {
            if wanted {
                flags |= flag;
            }
        }
        // SAFETY: the path ends with a zero; the mode is passed as `open` with O_CREAT wants it.
        let fd = retry(|| check(unsafe { libc::open(path.as_ptr(), flags, 0o644 as libc::mode_t) }))?;
        // SAFETY: a fresh descriptor that nobody else owns.
        let file = Self::new(unsafe { OwnedFd::from_raw_fd(fd) }, options);
        if options.nonblocking {
            // For the opening only: requests wait, and a ring would fail those that cannot be done at once.
            // SAFETY: our descriptor, no memory.
            retry(|| check(unsafe { libc::fcntl(fd, libc::F_SETFL, flags & !libc::O_NONBLOCK) }))?;
        }
        Ok(file)
    }

    /// Opens the same file once more, in another way; also if its name is gone, or another file's by now. Blocks.
    pub fn reopen(&self, options: OpenOptions) -> io::Result<Self> {
        let path = format!("/proc/self/fd/{}", self.as_raw_fd());
        Self::open(Path::new(&path), options)
    }

    fn new(fd: OwnedFd, options: OpenOptions) -> Self {
        let (cached_reads, cached_writes) = (QuickWay::default(), QuickWay::default());
        if options.direct || options.only_threads {
            cached_reads.give_up();
            cached_writes.give_up();
        }
        Self {
            open: Arc::new(OpenFile {
                fd,
                only_threads: options.only_threads,
                direct: options.direct,
                unattended: Unattended::default(),
                cached_reads,
                cached_writes,
            }),
        }
    }

    /// What the file system says of the file. Blocks.
    pub fn status(&self) -> io::Result<FileStatus> {
        // SAFETY: `stat` is plain numbers, for which zeroes are good.
        let mut stat: libc::stat = unsafe { std::mem::zeroed() };
        // SAFETY: our descriptor, and memory that lives through the call.
        retry(|| check(unsafe { libc::fstat(self.as_raw_fd(), &mut stat) }))?;
        Ok(FileStatus {
            identity: (stat.st_dev, stat.st_ino),
            mode: stat.st_mode,
            size: stat.st_size as u64,
            allocated: stat.st_blocks as u64 * 512,
            block_size: stat.st_blksize as u64,
        })
    }

    /// Where the file ends, by seeking there: good for devices too. Blocks.
    pub fn seek_end(&self) -> io::Result<u64> {
        self.seek(0, libc::SEEK_END)
    }

    fn seek(&self, offset: u64, whence: libc::c_int) -> io::Result<u64> {
        let offset = offset_of(offset)?;
        // SAFETY: our descriptor. No read or write of ours uses the file's position.
        let at = unsafe { libc::lseek(self.as_raw_fd(), offset, whence) };
        if at < 0 { Err(io::Error::last_os_error()) } else { Ok(at as u64) }
    }

    /// Whether there is data at an offset, and where the next change is. Blocks.
    pub fn extent(&self, offset: u64) -> io::Result<Extent> {
        let data = match self.seek(offset, libc::SEEK_DATA) {
            Ok(at) => at,
            Err(error) if error.raw_os_error() == Some(libc::ENXIO) => return Ok(Extent::HoleToEnd),
            Err(error) => return Err(error),
        };
        if data > offset {
            return Ok(Extent::Hole(data));
        }
        match self.seek(offset, libc::SEEK_HOLE) {
            Ok(hole) if hole > offset => Ok(Extent::Data(hole)),
            // The file changed between the two calls.
            Ok(_) => Ok(Extent::Data(offset + 1)),
            Err(error) if error.raw_os_error() == Some(libc::ENXIO) => Ok(Extent::HoleToEnd),
            Err(error) => Err(error),
        }
    }

    /// Moves the end of the file. Blocks.
    pub fn set_length(&self, length: u64) -> io::Result<()> {
        let length = offset_of(length)?;
        // SAFETY: our descriptor.
        retry(|| check(unsafe { libc::ftruncate(self.as_raw_fd(), length) })).map(drop)
    }

    /// `fallocate` with flags `FALLOC_FL_…`. Blocks.
    pub fn fallocate_now(&self, mode: libc::c_int, offset: u64, len: u64) -> io::Result<()> {
        let (offset, len) = (offset_of(offset)?, offset_of(len)?);
        // SAFETY: our descriptor.
        retry(|| check(unsafe { libc::fallocate(self.as_raw_fd(), mode, offset, len) })).map(drop)
    }

    /// Writes bytes at an offset. Blocks.
    pub fn write_now(&self, mut offset: u64, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let at = offset_of(offset)?;
            // SAFETY: the bytes are borrowed for the call.
            let written = unsafe { libc::pwrite(self.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), at) };
            match written {
                ..0 => match io::Error::last_os_error() {
                    error if error.raw_os_error() == Some(libc::EINTR) => {}
                    error => return Err(error),
                },
                0 => return Err(io::Error::from_raw_os_error(libc::ENOSPC)),
                written => {
                    bytes = &bytes[written as usize..];
                    offset += written as u64;
                }
            }
        }
        Ok(())
    }

    /// `fdatasync`. Blocks.
    pub fn sync_data_now(&self) -> io::Result<()> {
        // SAFETY: our descriptor.
        retry(|| check(unsafe { libc::fdatasync(self.as_raw_fd()) })).map(drop)
    }

    /// Fills `data` from the file; what lies beyond its end is zeroed. Answers how many bytes the file had.
    ///
    /// For a caller that gives up, the memory is gone: `data` is shorter, or empty.
    pub async fn read_vectored_at(&self, data: &mut IoVector, offset: u64) -> io::Result<usize> {
        self.settled().await;
        take_turns(data.len()).await;
        let mut done = self.read_cached(data, offset)?;
        while done < data.len() {
            let rest = data.split_off(done);
            offset_of(offset + done as u64)?;
            let request = Request::Read { file: self.open.clone(), data: rest, offset: offset + done as u64 };
            let (result, request) = perform(request).await;
            let Request::Read { data: mut rest, .. } = request else { unreachable!("comes back as it went") };
            if matches!(result, Ok(0)) {
                rest.fill(0..rest.len(), 0);
            }
            data.append(rest);
            let read = result?;
            done += read;
            if read == 0 {
                break;
            }
            if self.open.direct && done < data.len() {
                // Around the page cache, reading on from the file's end is an error if the end is not a block's.
                let size = self.status()?.size;
                if size > 0 && offset + done as u64 >= size {
                    data.fill(done..data.len(), 0);
                    break;
                }
            }
        }
        Ok(done)
    }

    /// Reads what is in the page cache, which takes no longer than to ask for it. Answers how many bytes from the
    /// start there were.
    fn read_cached(&self, data: &mut IoVector, offset: u64) -> io::Result<usize> {
        const MOST: u32 = 5;
        let quick = &self.open.cached_reads;
        if (data.len() >= LARGE && !is_dedicated()) || !quick.worth_a_try() {
            return Ok(0);
        }
        let iovecs = data.iovecs();
        let count = iovecs.len().min(libc::UIO_MAXIOV as usize) as libc::c_int;
        let offset = offset_of(offset)?;
        // SAFETY: the vectors describe memory that `data` keeps mapped, and that nobody else uses meanwhile.
        let read =
            unsafe { libc::preadv2(self.as_raw_fd(), iovecs.as_ptr(), count, offset, libc::RWF_NOWAIT) };
        if read as usize == data.len() {
            quick.hit();
            return Ok(data.len());
        }
        if read >= 0 {
            // Either the rest is not there, or the file ends: both are found out by the next, ordinary read.
            quick.missed(MOST);
            return Ok(read as usize);
        }
        match io::Error::last_os_error().raw_os_error() {
            Some(libc::EAGAIN | libc::EINTR) => quick.missed(MOST),
            // A file system without it; an error of the file itself is met again by the ordinary read.
            _ => quick.give_up(),
        }
        Ok(0)
    }

    /// Writes all of `data` to the file. On an error, or for a caller that gives up, any part of it may be written.
    pub async fn write_vectored_at(&self, data: &IoView<'_>, offset: u64) -> io::Result<()> {
        self.settled().await;
        take_turns(data.len()).await;
        let is_large = data.len() > QUICK_WRITE;
        let mut done = 0;
        if (!is_large || is_dedicated()) && self.open.cached_writes.worth_a_try() {
            if is_large {
                // Others may begin theirs while this thread copies.
                futures_lite::future::yield_now().await;
            }
            done = self.write_cached(data, offset)?;
        }
        while done < data.len() {
            let segments = if done == 0 { data.segments() } else { data.slice(done..data.len()).segments() };
            offset_of(offset + done as u64)?;
            let request =
                Request::Write { file: self.open.clone(), data: segments, offset: offset + done as u64 };
            match perform(request).await.0? {
                0 => return Err(io::Error::from_raw_os_error(libc::ENOSPC)),
                written => done += written,
            }
        }
        Ok(())
    }

    /// Writes to the page cache at once, and notes whether that was quick. Answers how many bytes were written.
    fn write_cached(&self, data: &IoView<'_>, offset: u64) -> io::Result<usize> {
        let quick = &self.open.cached_writes;
        let iovecs = data.iovecs();
        let count = iovecs.len().min(libc::UIO_MAXIOV as usize) as libc::c_int;
        let offset = offset_of(offset)?;
        let begin = Instant::now();
        // SAFETY: the vectors describe memory that `data` keeps mapped.
        let written = unsafe { libc::pwritev(self.as_raw_fd(), iovecs.as_ptr(), count, offset) };
        match begin.elapsed() > SLOW_WRITE + Duration::from_nanos(2 * data.len() as u64) {
            true => quick.missed(10),
            false => quick.hit(),
        }
        // An error of the file is met again by the ordinary write.
        Ok(usize::try_from(written).unwrap_or(0))
    }

    /// `fdatasync`: all data written before, and what is needed to find it, is on stable storage when this ends.
    pub async fn sync_data(&self) -> io::Result<()> {
        self.settled().await;
        perform(Request::SyncData { file: self.open.clone() }).await.0.map(drop)
    }

    /// `fallocate` with flags `FALLOC_FL_…`.
    pub async fn fallocate(&self, mode: libc::c_int, offset: u64, len: u64) -> io::Result<()> {
        offset_of(offset)?;
        offset_of(len)?;
        self.settled().await;
        perform(Request::Allocate { file: self.open.clone(), mode, offset, len }).await.0.map(drop)
    }

    /// Copies bytes to another file (or elsewhere in this one) without passing them through our memory. Answers how many,
    /// which may be fewer than asked for; 0 at the file's end. Errors of `copy_file_range`.
    pub async fn copy_range(&self, offset: u64, to: &Self, to_offset: u64, len: u64) -> io::Result<u64> {
        let (mut from_at, mut to_at) = (offset_of(offset)?, offset_of(to_offset)?);
        self.settled().await;
        let from = self.clone();
        let len = len.min(1 << 30) as usize;
        to.work_on(move |to| {
            retry(|| {
                // SAFETY: our descriptors, and two numbers that live through the call.
                let copied = unsafe {
                    libc::copy_file_range(from.as_raw_fd(), &mut from_at, to.as_raw_fd(), &mut to_at, len, 0)
                };
                u64::try_from(copied).map_err(|_| io::Error::last_os_error())
            })
        })
        .await
    }

    /// Waits until every change whose caller has given up has ended. The operations that are `async` do so themselves.
    pub async fn settled(&self) {
        if !self.is_settled() {
            self.open.unattended.none().await;
        }
    }

    /// Whether no change is under way whose caller has given up.
    pub fn is_settled(&self) -> bool {
        self.open.unattended.is_none()
    }

    /// Has a thread work on the file. If the caller gives up, the work is done all the same, and later operations wait
    /// for it.
    pub async fn work_on<T: Send + 'static>(&self, work: impl FnOnce(&Self) -> T + Send + 'static) -> T {
        self.settled().await;
        let file = self.clone();
        let (attended, worker) = unattended::attend(self.open.clone());
        let result = unblock_io(move || {
            let result = work(&file);
            drop(worker);
            result
        })
        .await;
        drop(attended);
        result
    }

    /// Asks the file system not to copy on write (`nocow`), and to allocate in pieces of `extent_size` bytes (0: no
    /// wish). Hints for an empty file, which file systems without such a thing do not heed. Blocks.
    pub fn set_hints(&self, nocow: bool, extent_size: u32) {
        const FS_NOCOW_FL: libc::c_int = 0x0080_0000;
        const FS_XFLAG_EXTSIZE: u32 = 0x0000_0800;
        const FS_IOC_FSGETXATTR: libc::c_ulong = 0x801c_581f;
        const FS_IOC_FSSETXATTR: libc::c_ulong = 0x401c_5820;
        /// `struct fsxattr` of linux/fs.h.
        #[repr(C)]
        #[derive(Default)]
        struct FsxAttr {
            xflags: u32,
            extsize: u32,
            nextents: u32,
            projid: u32,
            cowextsize: u32,
            pad: [u8; 8],
        }
        if nocow {
            let mut flags: libc::c_int = 0;
            // SAFETY: the kernel writes an int, in spite of the request's name.
            if unsafe { libc::ioctl(self.as_raw_fd(), libc::FS_IOC_GETFLAGS, &mut flags) } == 0 {
                flags |= FS_NOCOW_FL;
                // SAFETY: the kernel reads an int.
                unsafe { libc::ioctl(self.as_raw_fd(), libc::FS_IOC_SETFLAGS, &flags) };
            }
        }
        if extent_size > 0 {
            let mut attr = FsxAttr::default();
            // SAFETY: the kernel writes a `struct fsxattr`.
            if unsafe { libc::ioctl(self.as_raw_fd(), FS_IOC_FSGETXATTR, &mut attr) } == 0 {
                attr.xflags |= FS_XFLAG_EXTSIZE;
                attr.extsize = extent_size;
                // SAFETY: the kernel reads a `struct fsxattr`.
                unsafe { libc::ioctl(self.as_raw_fd(), FS_IOC_FSSETXATTR, &attr) };
            }
        }
    }
}
