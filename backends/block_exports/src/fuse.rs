//! A disk as a regular file: a FUSE file system whose root is that file, mounted over another regular file.
//!
//! The kernel's page cache is not used for the file (direct I/O), so that what others write to the disk is seen, and what
//! is written through the file is in the disk at once. Each request is a task on the export's executor.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use fuser::{
    BackgroundSession, BsdFileFlags, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags,
    INodeNo, InitFlags, KernelConfig, LockOwner, MountOption, OpenFlags as FileFlags, ReplyAttr, ReplyData,
    ReplyEmpty, ReplyEntry, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr, Request, Session,
    SessionACL, TimeOrNow, WriteFlags as FuseWriteFlags,
};
use parking_lot::Mutex;
use rhea_async_io::{Executor, IoVector};
use rhea_block::{
    BlockError, BlockNode, Preallocation, Result, ResultExt, StatusFlags, Truncate, WriteFlags,
};

use crate::hold::Hold;

/// Bytes of the longest write that the kernel may send; the longest read is bounded by the same number of pages.
const MAX_WRITE: u32 = 1 << 20;
/// The file's length may change at any time: the kernel asks anew for each use.
const NO_CACHE: Duration = Duration::ZERO;

/// Whether users other than the one who runs the server may use the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AllowOther {
    /// They may not.
    Off,
    /// They may, as far as the file's mode lets them; an error if the system forbids it.
    On,
    /// They may, if the system lets them.
    #[default]
    Auto,
}

/// What [`FuseExport::start`] is told.
#[derive(Debug, Clone, Default)]
pub struct FuseOptions {
    /// The regular file to mount over.
    pub mountpoint: PathBuf,
    /// The file may be written.
    pub writable: bool,
    /// Writes beyond the end make the disk longer.
    pub growable: bool,
    /// Who may use the file.
    pub allow_other: AllowOther,
    /// Every write is on stable storage before it is acknowledged.
    pub writethrough: bool,
}

/// A mounted disk.
pub struct FuseExport {
    file: Arc<DiskFile>,
    session: BackgroundSession,
    mountpoint: PathBuf,
}

impl std::fmt::Debug for FuseExport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "FuseExport({})", self.mountpoint.display())
    }
}

impl FuseExport {
    /// Mounts a disk.
    pub async fn start(node: Arc<BlockNode>, options: FuseOptions) -> Result<Self> {
        let path = options.mountpoint.display();
        let metadata = std::fs::metadata(&options.mountpoint).context(format!("Failed to stat '{path}'"))?;
        if !metadata.is_file() {
            return Err(BlockError::invalid(format!("'{path}' is not a regular file")));
        }
        let hold = Hold::take(node, "fuse", options.writable, options.growable, options.writethrough).await?;
        let file = Arc::new(DiskFile::new(hold, options.growable)?);
        let session = match mount(&file, &options) {
            Ok(session) => session,
            Err(error) => {
                let _ = file.hold.release().await;
                return Err(
                    BlockError::from(error).context(format!("Failed to mount FUSE session at '{path}'"))
                );
            }
        };
        Ok(Self { file, session, mountpoint: options.mountpoint.clone() })
    }

    /// Unmounts the file and waits for the requests under way.
    pub async fn stop(self) -> Result<()> {
        let Self { file, session, .. } = self;
        let unmounted = rhea_async_io::unblock_io(move || session.umount_and_join()).await;
        let flushed = match file.hold.writable {
            true => file.hold.node().flush().await,
            false => Ok(()),
        };
        let released = file.hold.release().await;
        unmounted.context("Failed to unmount")?;
        flushed.and(released)
    }
}

fn mount(file: &Arc<DiskFile>, options: &FuseOptions) -> std::io::Result<BackgroundSession> {
    let attempt = |acl| {
        let mut config = Config::default();
        config.mount_options = vec![
            MountOption::FSName("rhea".into()),
            MountOption::NoDev,
            MountOption::NoSuid,
            MountOption::NoAtime,
            MountOption::DefaultPermissions,
        ];
        config.acl = acl;
        Session::new(MountedFile(file.clone()), &options.mountpoint, &config)?.spawn()
    };
    match options.allow_other {
        AllowOther::Off => attempt(SessionACL::Owner),
        AllowOther::On => attempt(SessionACL::All),
        AllowOther::Auto => attempt(SessionACL::All).or_else(|_| attempt(SessionACL::Owner)),
    }
}

/// Who owns the file, and who may do what with it.
#[derive(Debug, Clone, Copy)]
struct Ownership {
    mode: u16,
    uid: u32,
    gid: u32,
}

struct DiskFile {
    hold: Hold,
    growable: bool,
    ownership: Mutex<Ownership>,
    mounted: SystemTime,
    executor: Executor,
}

impl DiskFile {
    fn new(hold: Hold, growable: bool) -> Result<Self> {
        // The file belongs to whoever runs us: as what /proc shows of the process does.
        let own = std::fs::metadata("/proc/self")?;
        use std::os::unix::fs::MetadataExt;
        let mode = if hold.writable { 0o600 } else { 0o400 };
        let ownership = Ownership { mode, uid: own.uid(), gid: own.gid() };
        Ok(Self {
            hold,
            growable,
            ownership: Mutex::new(ownership),
            mounted: SystemTime::now(),
            executor: Executor::start("fuse")?,
        })
    }

    async fn attributes(&self) -> FileAttr {
        let node = self.hold.node();
        let size = node.exact_length();
        let allocated = node.driver().allocated_size().await.unwrap_or(size);
        let owner = *self.ownership.lock();
        let now = SystemTime::now();
        FileAttr {
            ino: INodeNo::ROOT,
            size,
            blocks: allocated.div_ceil(512),
            atime: now,
            mtime: now,
            ctime: now,
            crtime: self.mounted,
            kind: FileType::RegularFile,
            perm: owner.mode,
            nlink: 1,
            uid: owner.uid,
            gid: owner.gid,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        }
    }

    fn check_writable(&self) -> Result<()> {
        match self.hold.writable {
            true => Ok(()),
            false => Err(BlockError::os(libc::EACCES)),
        }
    }

    async fn resize(&self, length: u64, preallocation: Preallocation) -> Result<()> {
        self.check_writable()?;
        let node = self.hold.node();
        if length == node.exact_length() {
            return Ok(());
        }
        let how = Truncate { exact: true, preallocation, zero: length > node.exact_length() };
        match self.growable {
            true => node.truncate(length, how).await,
            false => self.hold.resizing(node.truncate(length, how)).await,
        }
    }

    async fn read(&self, offset: u64, size: u32) -> Result<IoVector> {
        let node = self.hold.node();
        let available = node.exact_length().saturating_sub(offset).min(size.into());
        let mut data = IoVector::zeroed(available as usize);
        node.read(offset, &mut data).await?;
        Ok(data)
    }

    async fn write(&self, offset: u64, mut data: IoVector) -> Result<u32> {
        self.check_writable()?;
        let node = self.hold.node();
        let end = offset.checked_add(data.len() as u64).ok_or(BlockError::os(libc::EFBIG))?;
        let length = node.exact_length();
        if end > length {
            if self.growable {
                self.resize(end, Preallocation::Off).await?;
            } else if offset >= length {
                return Err(BlockError::os(libc::ENOSPC));
            } else {
                data.split_off((length - offset) as usize);
            }
        }
        node.write(offset, &data, self.hold.write_flags()).await?;
        Ok(data.len() as u32)
    }

    async fn allocate(&self, offset: u64, length: u64, mode: i32) -> Result<()> {
        self.check_writable()?;
        let node = self.hold.node();
        let end = offset.checked_add(length).ok_or(BlockError::os(libc::EFBIG))?;
        let keeps = mode & libc::FALLOC_FL_KEEP_SIZE != 0;
        match mode & !libc::FALLOC_FL_KEEP_SIZE {
            // Storage for what is there already cannot be promised by every format.
            0 if keeps || end <= node.exact_length() => Err(BlockError::os(libc::ENOTSUP)),
            0 => self.resize(end, Preallocation::Falloc).await,
            libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_ZERO_RANGE => {
                let punches = mode & libc::FALLOC_FL_PUNCH_HOLE != 0;
                if !keeps && end > node.exact_length() {
                    self.resize(end, Preallocation::Off).await?;
                }
                let end = end.min(node.exact_length());
                let mut flags = self.hold.write_flags();
                flags.set(WriteFlags::MAY_UNMAP, punches);
                match end > offset {
                    true => node.write_zeroes(offset, end - offset, flags).await,
                    false => Ok(()),
                }
            }
            _ => Err(BlockError::os(libc::ENOTSUP)),
        }
    }

    /// The next data (or the next hole) at or after an offset.
    async fn seek(&self, offset: u64, wants_data: bool) -> Result<u64> {
        let node = self.hold.node();
        let length = node.exact_length();
        if offset >= length {
            return Err(BlockError::os(libc::ENXIO));
        }
        let mut at = offset;
        while at < length {
            let (status, _) = node.block_status_above(None, at, length - at).await?;
            if status.flags.contains(StatusFlags::ZERO) != wants_data {
                return Ok(at);
            }
            at += status.len.max(1);
        }
        // The end of the file is a hole.
        if wants_data { Err(BlockError::os(libc::ENXIO)) } else { Ok(length) }
    }

    async fn flush(&self) -> Result<()> {
        match self.hold.writable {
            true => self.hold.node().flush().await,
            false => Ok(()),
        }
    }
}

fn errno(error: &BlockError) -> Errno {
    Errno::from_i32(error.errno())
}

/// The file as fuser calls it.
struct MountedFile(Arc<DiskFile>);

impl MountedFile {
    /// Runs a request as a task.
    fn task<F: Future<Output = ()> + Send + 'static>(&self, act: impl FnOnce(Arc<DiskFile>) -> F) {
        self.0.executor.spawn(act(self.0.clone())).detach();
    }
}

impl Filesystem for MountedFile {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        // A kernel that takes less says what it takes.
        if let Err(most) = config.set_max_write(MAX_WRITE) {
            let _ = config.set_max_write(most);
        }
        // Each that the kernel has is welcome, none is needed.
        for wanted in [InitFlags::FUSE_ASYNC_DIO, InitFlags::FUSE_PARALLEL_DIROPS, InitFlags::FUSE_MAX_PAGES]
        {
            let _ = config.add_capabilities(wanted);
        }
        Ok(())
    }

    fn lookup(&self, _: &Request, _: INodeNo, _: &OsStr, reply: ReplyEntry) {
        reply.error(Errno::ENOENT);
    }

    fn getattr(&self, _: &Request, _: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        self.task(|file| async move { reply.attr(&NO_CACHE, &file.attributes().await) });
    }

    fn setattr(
        &self,
        _: &Request,
        _: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        _atime: Option<TimeOrNow>,
        _mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        self.task(|file| async move {
            if let Some(size) = size
                && let Err(error) = file.resize(size, Preallocation::Off).await
            {
                return reply.error(errno(&error));
            }
            {
                let mut owner = file.ownership.lock();
                owner.mode = mode.map_or(owner.mode, |mode| mode as u16 & 0o7777);
                owner.uid = uid.unwrap_or(owner.uid);
                owner.gid = gid.unwrap_or(owner.gid);
            }
            reply.attr(&NO_CACHE, &file.attributes().await);
        });
    }

    fn open(&self, _: &Request, _: INodeNo, flags: FileFlags, reply: ReplyOpen) {
        if flags.0 & libc::O_ACCMODE != libc::O_RDONLY && !self.0.hold.writable {
            return reply.error(Errno::EACCES);
        }
        let how = FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_PARALLEL_DIRECT_WRITES;
        reply.opened(FileHandle(0), how);
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: FileFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        self.task(|file| async move {
            match file.read(offset, size).await {
                Ok(data) => reply.data(&data.view().contiguous()),
                Err(error) => reply.error(errno(&error)),
            }
        });
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: FuseWriteFlags,
        _: FileFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let data = IoVector::from_slice(data);
        self.task(|file| async move {
            match file.write(offset, data).await {
                Ok(count) => reply.written(count),
                Err(error) => reply.error(errno(&error)),
            }
        });
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        self.task(|file| async move { finish(file.flush().await, reply) });
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        self.task(|file| async move { finish(file.flush().await, reply) });
    }

    fn fallocate(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        self.task(|file| async move { finish(file.allocate(offset, length, mode).await, reply) });
    }

    fn lseek(&self, _: &Request, _: INodeNo, _: FileHandle, offset: i64, whence: i32, reply: ReplyLseek) {
        let wants_data = match whence {
            libc::SEEK_DATA => true,
            libc::SEEK_HOLE => false,
            _ => return reply.error(Errno::EINVAL),
        };
        let Ok(offset) = u64::try_from(offset) else { return reply.error(Errno::EINVAL) };
        self.task(|file| async move {
            match file.seek(offset, wants_data).await {
                Ok(at) => reply.offset(at as i64),
                Err(error) => reply.error(errno(&error)),
            }
        });
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        let blocks = self.0.hold.node().exact_length().div_ceil(512);
        reply.statfs(blocks, 0, 0, 1, 0, 512, 255, 512);
    }

    fn getxattr(&self, _: &Request, _: INodeNo, _: &OsStr, _: u32, reply: ReplyXattr) {
        reply.error(Errno::from_i32(libc::ENOTSUP));
    }
}

fn finish(result: Result<()>, reply: ReplyEmpty) {
    match result {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(errno(&error)),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Seek, SeekFrom, Write};
    use std::os::unix::fs::FileExt;
    use std::path::Path;

    use rhea_async_io::block_on;
    use rhea_block::{MemoryNode, OpenFlags};

    use super::*;

    /// Whether the device is there and may be opened.
    fn is_available() -> bool {
        std::fs::File::options().read(true).write(true).open(Path::new("/dev/fuse")).is_ok()
    }

    /// Mounts a disk and runs a test on the file, or says why not.
    fn mounted(name: &str, options: FuseOptions, bytes: Vec<u8>, test: impl FnOnce(&Path, &Arc<BlockNode>)) {
        let path = std::env::temp_dir().join(format!("rhea-fuse-{}-{name}", std::process::id()));
        std::fs::write(&path, b"").unwrap();
        let node = BlockNode::anonymous("memory", Box::new(MemoryNode::new(bytes)), OpenFlags::UNMAP);
        let options = FuseOptions { mountpoint: path.clone(), ..options };
        match block_on(FuseExport::start(node.clone(), options)) {
            Ok(export) => {
                let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| test(&path, &node)));
                block_on(export.stop()).unwrap();
                std::fs::remove_file(&path).unwrap();
                if let Err(panic) = result {
                    std::panic::resume_unwind(panic);
                }
            }
            Err(error) => {
                std::fs::remove_file(&path).unwrap();
                assert!(
                    !is_available() || matches!(error.errno(), libc::EPERM | libc::EACCES | libc::EIO),
                    "{error}"
                );
                eprintln!("skipped: {error}");
            }
        }
    }

    fn bytes_of(node: &Arc<BlockNode>) -> Vec<u8> {
        let mut bytes = vec![0; node.exact_length() as usize];
        block_on(node.read_bytes(0, &mut bytes)).unwrap();
        bytes
    }

    #[test]
    fn the_file_is_the_disk() {
        let contents: Vec<u8> = (0..1_000_000_u32).map(|i| (i * 7) as u8).collect();
        let options = FuseOptions { writable: true, ..FuseOptions::default() };
        mounted("disk", options, contents.clone(), |path, node| {
            assert!(std::fs::read(path).unwrap() == contents);
            let file = std::fs::File::options().read(true).write(true).open(path).unwrap();
            file.write_all_at(&[0xaa; 5000], 123_456).unwrap();
            file.sync_all().unwrap();
            let mut expected = contents.clone();
            expected[123_456..128_456].fill(0xaa);
            assert!(bytes_of(node) == expected);
            // The disk ends where it ends.
            assert_eq!(file.write_at(&[1; 100], 999_990).unwrap(), 10);
            let error = file.write_at(&[1; 100], 1_000_000).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::ENOSPC));
            // What others write is seen at once.
            block_on(node.write_bytes(0, b"changed")).unwrap();
            let mut start = [0; 7];
            file.read_exact_at(&mut start, 0).unwrap();
            assert_eq!(&start, b"changed");
            file.set_len(500_000).unwrap();
            assert_eq!(node.exact_length(), 500_000);
        });
    }

    #[test]
    fn a_growable_file_grows() {
        let options = FuseOptions { writable: true, growable: true, ..FuseOptions::default() };
        mounted("growable", options, vec![1; 100], |path, node| {
            let mut file = std::fs::File::options().append(true).read(true).open(path).unwrap();
            file.write_all(&[2; 50]).unwrap();
            assert_eq!(node.exact_length(), 150);
            file.seek(SeekFrom::Start(90)).unwrap();
            let mut rest = Vec::new();
            file.read_to_end(&mut rest).unwrap();
            assert_eq!(rest, [[1; 10].as_slice(), &[2; 50]].concat());
        });
    }

    #[test]
    fn a_read_only_file_is_not_written() {
        mounted("readonly", FuseOptions::default(), vec![5; 4096], |path, node| {
            assert!(std::fs::File::options().write(true).open(path).is_err());
            assert_eq!(std::fs::read(path).unwrap(), vec![5; 4096]);
            assert_eq!(bytes_of(node), vec![5; 4096]);
        });
    }

    #[test]
    fn a_folder_is_no_place_for_a_disk() {
        let node = BlockNode::anonymous("memory", Box::new(MemoryNode::new(vec![0; 512])), OpenFlags::UNMAP);
        let options = FuseOptions { mountpoint: std::env::temp_dir(), ..FuseOptions::default() };
        let error = block_on(FuseExport::start(node, options)).unwrap_err();
        assert!(error.to_string().ends_with("is not a regular file"), "{error}");
    }
}
