//! What the tests beside Debian's tools have in common: a folder, both programs' views of an image, and its bytes.
#![allow(dead_code, reason = "each test program uses a part")]

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use rhea_async_io::block_on;
use rhea_block::{BlockNode, CheckResult, FileDriver, OpenFlags, RawDriver, Registry, Repair, Result};
use rhea_qcow2::Qcow2Driver;

/// A test's folder.
pub struct Folder(PathBuf);

static NEXT: AtomicU32 = AtomicU32::new(0);

impl Folder {
    /// A new one; `None`: Debian's tools are not installed.
    pub fn new() -> Option<Self> {
        if Command::new("qemu-img").arg("-V").stdout(Stdio::null()).status().is_err() {
            println!("skipped: qemu-img (package qemu-utils) is not installed");
            return None;
        }
        let name = format!("rhea-qcow2-tests-{}-{}", std::process::id(), NEXT.fetch_add(1, Relaxed));
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&folder).expect("a folder for the test");
        Some(Self(folder))
    }

    /// The full name of a file.
    pub fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().expect("plain names").to_owned()
    }

    /// Runs one of Debian's tools; both outputs.
    pub fn run(&self, tool: &str, args: &[&str]) -> (bool, String, String) {
        let output = Command::new(tool).args(args).current_dir(&self.0).output().expect("the tool is there");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.success(), text(&output.stdout), text(&output.stderr))
    }

    /// Runs one of Debian's tools, which must succeed; its output.
    pub fn theirs(&self, tool: &str, args: &[&str]) -> String {
        let (ok, out, err) = self.run(tool, args);
        assert!(ok, "{tool} {args:?}: {err}{out}");
        out
    }

    /// Makes an image by Debian's tools, and has `qemu-io` do things to it.
    pub fn image(&self, name: &str, options: &str, size: &str, commands: &[&str]) -> String {
        let path = self.path(name);
        let mut args = vec!["create", "-q", "-f", "qcow2"];
        if !options.is_empty() {
            args.extend(["-o", options]);
        }
        args.extend([path.as_str(), size]);
        self.theirs("qemu-img", &args);
        self.io(&path, commands);
        path
    }

    /// Has Debian's `qemu-io` do things to an image.
    pub fn io(&self, path: &str, commands: &[&str]) {
        let mut args = vec!["-f", "qcow2"];
        commands.iter().for_each(|command| args.extend(["-c", command]));
        args.push(path);
        if !commands.is_empty() {
            let out = self.theirs("qemu-io", &args);
            assert!(!out.contains("ailed"), "{commands:?}: {out}");
        }
    }

    /// The disk's contents, or a snapshot's, as Debian's `qemu-img` reads them.
    pub fn contents(&self, path: &str, snapshot: Option<&str>) -> Vec<u8> {
        let raw = self.path("contents.raw");
        let select = snapshot.map(|id| format!("snapshot.id={id}"));
        let mut args = vec!["convert", "-f", "qcow2", "-O", "raw"];
        if let Some(select) = &select {
            args.extend(["-l", select]);
        }
        args.extend([path, &raw]);
        self.theirs("qemu-img", &args);
        std::fs::read(raw).expect("just written")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }
}

/// Opens an image by our driver.
pub fn open(path: &str, flags: OpenFlags) -> Result<Arc<BlockNode>> {
    let mut registry = Registry::new();
    registry.add(RawDriver);
    registry.add(Qcow2Driver);
    registry.add(FileDriver);
    block_on(registry.open(path, Some("qcow2"), flags))
}

/// Does something with an open image, and closes it.
pub fn with<T>(path: &str, flags: OpenFlags, work: impl AsyncFnOnce(&BlockNode) -> T) -> T {
    let disk = open(path, flags).unwrap_or_else(|error| panic!("{path}: {error}"));
    let answer = block_on(work(&disk));
    block_on(disk.close()).expect("closes");
    answer
}

/// Our check.
pub fn check(path: &str, repair: Repair) -> Result<CheckResult> {
    let read_only = if repair == Repair::default() { OpenFlags::READ_ONLY } else { OpenFlags::empty() };
    let disk = open(path, OpenFlags::CHECK | OpenFlags::UNMAP | read_only)?;
    let result = block_on(disk.driver().check(repair));
    block_on(disk.close())?;
    result
}

/// Findings and counts as `qemu-img check` prints them: standard error, standard output.
pub fn print(result: &CheckResult) -> (String, String) {
    let mut out = String::new();
    let CheckResult { corruptions, leaks, check_errors, .. } = result;
    if corruptions + leaks + check_errors == 0 {
        out += "No errors were found on the image.\n";
    }
    if *corruptions != 0 {
        let _ = writeln!(
            out,
            "\n{corruptions} errors were found on the image.\nData may be corrupted, or further writes to the image may \
             corrupt it."
        );
    }
    if *leaks != 0 {
        let _ = writeln!(
            out,
            "\n{leaks} leaked clusters were found on the image.\nThis means waste of disk space, but no harm to data."
        );
    }
    if *check_errors != 0 {
        let _ = writeln!(out, "\n{check_errors} internal errors have occurred during the check.");
    }
    let percent = |part: u64, whole: u64| part as f64 * 100.0 / whole as f64;
    if result.allocated_clusters != 0 {
        let _ = writeln!(
            out,
            "{}/{} = {:.2}% allocated, {:.2}% fragmented, {:.2}% compressed clusters",
            result.allocated_clusters,
            result.total_clusters,
            percent(result.allocated_clusters, result.total_clusters),
            percent(result.fragmented_clusters, result.allocated_clusters),
            percent(result.compressed_clusters, result.allocated_clusters),
        );
    }
    let _ = writeln!(out, "Image end offset: {}", result.image_end_offset);
    (result.messages.iter().map(|message| format!("{message}\n")).collect(), out)
}

/// An image's bytes, with the places of its tables.
pub struct Bytes(pub Vec<u8>);

impl Bytes {
    /// Reads an image.
    pub fn read(path: &str) -> Self {
        Self(std::fs::read(path).expect("an image"))
    }

    /// Writes it back.
    pub fn write(&self, path: &str) {
        std::fs::write(path, &self.0).expect("room for an image");
    }

    pub fn u32(&self, at: u64) -> u32 {
        let at = at as usize;
        u32::from_be_bytes(self.0[at..at + 4].try_into().expect("four bytes"))
    }

    pub fn u64(&self, at: u64) -> u64 {
        let at = at as usize;
        u64::from_be_bytes(self.0[at..at + 8].try_into().expect("eight bytes"))
    }

    pub fn set(&mut self, at: u64, bytes: &[u8]) {
        self.0[at as usize..at as usize + bytes.len()].copy_from_slice(bytes);
    }

    pub fn set16(&mut self, at: u64, value: u16) {
        self.set(at, &value.to_be_bytes());
    }

    pub fn set32(&mut self, at: u64, value: u32) {
        self.set(at, &value.to_be_bytes());
    }

    pub fn set64(&mut self, at: u64, value: u64) {
        self.set(at, &value.to_be_bytes());
    }

    /// Sets bits of an eight-byte field.
    pub fn or64(&mut self, at: u64, bits: u64) {
        self.set64(at, self.u64(at) | bits);
    }

    /// Where the L1 table is.
    pub fn l1(&self) -> u64 {
        self.u64(40)
    }

    /// Where the first L2 table's entry is; `size` bytes each.
    pub fn l2(&self, index: u64, size: u64) -> u64 {
        (self.u64(self.l1()) & 0x00ff_ffff_ffff_fe00) + index * size
    }

    /// Where the refcount table is.
    pub fn refcount_table(&self) -> u64 {
        self.u64(48)
    }

    /// Where a cluster's refcount of 16 bits is.
    pub fn refcount(&self, cluster: u64) -> u64 {
        self.u64(self.refcount_table()) + 2 * cluster
    }

    /// Where the snapshot table is.
    pub fn snapshots(&self) -> u64 {
        self.u64(64)
    }

    /// Where the data of a header extension is.
    pub fn extension(&self, kind: u32) -> u64 {
        let mut at = u64::from(self.u32(100));
        while self.u32(at) != kind {
            assert_ne!(self.u32(at), 0, "no such extension");
            at += 8 + u64::from(self.u32(at + 4)).next_multiple_of(8);
        }
        at + 8
    }

    /// Where the bitmap directory is.
    pub fn bitmaps(&self) -> u64 {
        self.u64(self.extension(0x2385_2875) + 16)
    }
}
