//! How nodes are opened: flags, and the options all drivers have in common.

use bitflags::bitflags;

bitflags! {
    /// How a node is open.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
    pub struct OpenFlags: u32 {
        /// Requests that change the disk are refused.
        const READ_ONLY = 1 << 0;
        /// Fall back to read-only where writing is not allowed (`auto-read-only=on`).
        const AUTO_READ_ONLY = 1 << 1;
        /// Go around the host's page cache (`cache.direct=on`, O_DIRECT).
        const DIRECT = 1 << 2;
        /// Flushes do nothing (`cache.no-flush=on`): fast, and unsafe if the host crashes.
        const NO_FLUSH = 1 << 3;
        /// Every write is followed by a flush (`cache=writethrough`).
        const WRITE_THROUGH = 1 << 4;
        /// Discards reach the storage (`discard=unmap`); else they are ignored.
        const UNMAP = 1 << 5;
        /// Leave the backing file alone.
        const NO_BACKING = 1 << 6;
        /// Open only to look at the metadata: no data is read or written, so secrets for it are not needed.
        const NO_IO = 1 << 7;
        /// Opened for `check`: a dirty or corrupt image is opened as it is, not repaired and not refused.
        const CHECK = 1 << 8;
        /// Look at an image that others may be writing to (`force-share=on`, `-U`).
        const FORCE_SHARE = 1 << 9;
        /// Detect zeroes in writes and write them as zeroes (`detect-zeroes=on`).
        const DETECT_ZEROES = 1 << 10;
        /// …and discard them where the node may (`detect-zeroes=unmap`).
        const DETECT_ZEROES_UNMAP = 1 << 11;
        /// Asynchronous I/O by io_uring was asked for (`aio=io_uring`).
        const AIO_IO_URING = 1 << 12;
        /// Asynchronous I/O by a thread pool was asked for (`aio=threads`).
        const AIO_THREADS = 1 << 13;
        /// Asynchronous I/O by Linux AIO was asked for (`aio=native`, which needs `cache.direct=on`).
        const AIO_NATIVE = 1 << 14;
        /// No byte locks (`locking=off`).
        const NO_LOCKING = 1 << 15;
        /// Copy what is read from the backing file (`copy-on-read=on`).
        const COPY_ON_READ = 1 << 16;
    }
}

impl OpenFlags {
    /// The flags of a cache mode: `none`, `off`, `writeback`, `writethrough`, `directsync` or `unsafe`.
    pub fn cache(mode: &str) -> Option<Self> {
        Some(match mode {
            "none" | "off" => Self::DIRECT,
            "directsync" => Self::DIRECT | Self::WRITE_THROUGH,
            "writeback" => Self::empty(),
            "unsafe" => Self::NO_FLUSH,
            "writethrough" => Self::WRITE_THROUGH,
            _ => return None,
        })
    }

    /// What a cache mode decides.
    pub const CACHE: Self = Self::DIRECT.union(Self::NO_FLUSH).union(Self::WRITE_THROUGH);

    /// The flags a format's file inherits from it.
    pub fn for_file(self) -> Self {
        // Formats do the write-through themselves, by flushing after each of their own writes.
        let inherited = self
            - (Self::NO_BACKING
                | Self::WRITE_THROUGH
                | Self::DETECT_ZEROES
                | Self::DETECT_ZEROES_UNMAP
                | Self::COPY_ON_READ);
        // The format decides what to discard; what it does should reach the storage.
        inherited | Self::UNMAP
    }

    /// The flags a backing file inherits from its overlay.
    pub fn for_backing(self) -> Self {
        (self.for_file() | Self::READ_ONLY) - (Self::AUTO_READ_ONLY | Self::CHECK) - Self::UNMAP
    }
}
