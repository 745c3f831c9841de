//! An initramfs: a cpio archive in the "newc" format, as the kernel's `driver-api/early-userspace/buffer-format` describes
//! it, and the small system that tests and demo boot into.

use std::path::Path;

use anyhow::Context;

/// File type bits of the mode (POSIX `st_mode`).
mod kind {
    pub const DIRECTORY: u32 = 0o040_000;
    pub const FILE: u32 = 0o100_000;
    pub const SYMLINK: u32 = 0o120_000;
    pub const CHARACTER_DEVICE: u32 = 0o020_000;
}

/// A cpio archive under construction.
#[derive(Default)]
pub struct Archive {
    bytes: Vec<u8>,
    inode: u32,
}

impl Archive {
    fn entry(&mut self, path: &str, mode: u32, device: (u32, u32), data: &[u8]) {
        self.inode += 1;
        let size = u32::try_from(data.len()).expect("an initramfs file fits 4 GiB");
        let fields = [
            self.inode,
            mode,
            0, // uid
            0, // gid
            1, // nlink
            0, // mtime: the same archive every time
            size,
            0, // major and minor of the file system the entry came from
            0,
            device.0,
            device.1,
            path.len() as u32 + 1,
            0, // no checksum
        ];
        self.bytes.extend(b"070701");
        for field in fields {
            self.bytes.extend(format!("{field:08x}").bytes());
        }
        self.bytes.extend(path.bytes());
        self.bytes.push(0);
        self.align();
        self.bytes.extend(data);
        self.align();
    }

    fn align(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    /// Adds a folder; its parents must be there.
    pub fn directory(&mut self, path: &str) {
        self.entry(path, kind::DIRECTORY | 0o755, (0, 0), &[]);
    }

    /// Adds a file that anybody may read and execute.
    pub fn file(&mut self, path: &str, data: &[u8]) {
        self.entry(path, kind::FILE | 0o755, (0, 0), data);
    }

    /// Adds a symbolic link.
    pub fn symlink(&mut self, path: &str, target: &str) {
        self.entry(path, kind::SYMLINK | 0o777, (0, 0), target.as_bytes());
    }

    /// Adds a character device.
    pub fn character_device(&mut self, path: &str, major: u32, minor: u32) {
        self.entry(path, kind::CHARACTER_DEVICE | 0o600, (major, minor), &[]);
    }

    /// The archive's bytes.
    pub fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, (0, 0), &[]);
        self.bytes
    }
}

/// What the guest's shell prompts with: unlike anything a kernel prints.
pub const PROMPT: &str = "rhea-guest# ";

/// What init prints just before the shell, for whoever measures the time to get there.
pub const READY: &str = "rhea-guest: init";

const INIT: &str = "#!/bin/sh
echo 'rhea-guest: init'
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mount -t tmpfs tmpfs /tmp
export PATH=/bin:/sbin:/tests HOME=/ PS1='rhea-guest# ' TERM=vt100
[ -x /tests/start ] && . /tests/start
setsid cttyhack sh
poweroff -f
";

/// A busybox system with a shell on the console. `extra` are files to put under `/tests`.
pub fn busybox_system(busybox: &Path, extra: &[(String, Vec<u8>)]) -> anyhow::Result<Vec<u8>> {
    let busybox = std::fs::read(busybox).with_context(|| busybox.display().to_string())?;
    let mut archive = Archive::default();
    for folder in ["bin", "sbin", "dev", "proc", "sys", "tmp", "etc", "tests"] {
        archive.directory(folder);
    }
    // The kernel opens the console before init can mount anything on /dev.
    archive.character_device("dev/console", 5, 1);
    archive.character_device("dev/null", 1, 3);
    archive.file("bin/busybox", &busybox);
    for applet in ["sh", "mount", "setsid", "cttyhack", "poweroff", "echo"] {
        archive.symlink(&format!("bin/{applet}"), "busybox");
    }
    // The other applets are found by busybox's shell itself or through these links.
    for applet in APPLETS {
        archive.symlink(&format!("bin/{applet}"), "busybox");
    }
    archive.file("init", INIT.as_bytes());
    for (name, data) in extra {
        archive.file(&format!("tests/{name}"), data);
    }
    Ok(archive.finish())
}

const APPLETS: &[&str] = &[
    "[",
    "awk",
    "basename",
    "cat",
    "cmp",
    "cp",
    "cut",
    "date",
    "dd",
    "dmesg",
    "expr",
    "find",
    "free",
    "grep",
    "head",
    "kill",
    "ln",
    "ls",
    "md5sum",
    "mkdir",
    "mv",
    "nproc",
    "od",
    "ps",
    "reboot",
    "rm",
    "sed",
    "seq",
    "sha1sum",
    "sha256sum",
    "sleep",
    "sort",
    "sync",
    "tail",
    "tee",
    "test",
    "time",
    "top",
    "tr",
    "true",
    "uname",
    "uniq",
    "uptime",
    "wc",
    "xargs",
    "yes",
    "vi",
    "less",
    "gzip",
    "gunzip",
    "bzip2",
    "hexdump",
    "halt",
    "false",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_laid_out_as_newc_says() {
        let mut archive = Archive::default();
        archive.file("ab", b"hello");
        let bytes = archive.finish();
        assert_eq!(&bytes[..6], b"070701");
        assert_eq!(&bytes[14..22], b"000081ed", "mode: regular file, 0755");
        assert_eq!(&bytes[54..62], b"00000005", "size");
        assert_eq!(&bytes[94..102], b"00000003", "name size with its NUL");
        assert_eq!(&bytes[110..113], b"ab\0");
        assert_eq!(&bytes[116..121], b"hello", "data is aligned to 4");
        assert_eq!(&bytes[124..130], b"070701", "so is the next header");
        assert!(bytes.len() % 4 == 0 && bytes.windows(10).any(|w| w == b"TRAILER!!!"));
    }
}
