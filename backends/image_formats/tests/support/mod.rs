//! Registries, folders and QEMU's tools for the tests of this folder.
#![allow(dead_code, reason = "each test uses a part")]

pub mod read_only;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use rhea_block::{BlockNode, Edge, FileDriver, OpenFlags, Permissions, Progress, RawDriver, Registry, Role};
use rhea_options::Options;

/// The formats that can be written, each with the option sets that are tried.
pub const WRITABLE: &[(&str, &[&str])] = &[
    ("vdi", &["", "static=on"]),
    ("vpc", &["", "subformat=fixed", "force_size=on", "subformat=fixed,force_size=on"]),
    // Tables of one cluster are valid, but QEMU 10.0 refuses to open them.
    ("qed", &["", "cluster_size=4096,table_size=2", "cluster_size=16384,table_size=8"]),
    ("parallels", &["", "cluster_size=4096", "cluster_size=65536"]),
    ("qcow", &[""]),
];

pub fn registry() -> Registry {
    let mut registry = Registry::new();
    registry.add(FileDriver);
    registry.add(RawDriver);
    rhea_image_formats::register(&mut registry);
    registry
}

/// A folder that is removed at the end.
pub struct Folder(PathBuf);

impl Folder {
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("rhea-formats-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).expect("temporary folder");
        Self(path)
    }

    pub fn file(&self, name: &str) -> String {
        self.0.join(name).to_str().expect("UTF-8").to_owned()
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

pub fn options(text: &str) -> Options {
    Options::parse(text, None).expect("options")
}

pub async fn create(registry: &Registry, format: &str, file: &str, set: &str, size: u64) {
    let mut options = options(set);
    options.set("size", &size.to_string());
    registry.create(format, file, options, &Progress::new()).await.expect("created");
}

pub struct Opened {
    pub node: Arc<BlockNode>,
    edge: Arc<Edge>,
}

impl Opened {
    pub async fn new(node: Arc<BlockNode>) -> Self {
        let edge = Edge::new("root", Role::Filtered, node.clone());
        let mut needed = Permissions::CONSISTENT_READ;
        if !node.is_read_only() {
            needed |= Permissions::WRITE | Permissions::RESIZE;
        }
        edge.set_permissions(needed, Permissions::all()).await.expect("permissions");
        Self { node, edge }
    }

    pub async fn close(self) {
        let Self { node, edge } = self;
        edge.set_permissions(Permissions::empty(), Permissions::all()).await.expect("permissions");
        drop(edge);
        node.close().await.expect("closed");
    }
}

pub async fn open(registry: &Registry, format: &str, file: &str, flags: OpenFlags) -> Opened {
    let node = registry.open(file, Some(format), flags | OpenFlags::UNMAP).await;
    Opened::new(node.unwrap_or_else(|error| panic!("{format} {file}: {error}"))).await
}

/// Whether QEMU's tools are there; says so if not.
pub fn have_qemu() -> bool {
    let found = Command::new("qemu-img").arg("--version").output().is_ok()
        && Command::new("qemu-io").arg("--version").output().is_ok();
    if !found {
        println!("skipped: qemu-img and qemu-io are not installed");
    }
    found
}

/// Runs a tool: standard output if it succeeded.
pub fn run(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().expect("runs");
    assert!(
        output.status.success(),
        "{program} {args:?}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// What QEMU says of an image's consistency, if the format has a check.
pub fn qemu_check(format: &str, file: &str) -> Option<serde_json::Value> {
    let output =
        Command::new("qemu-img").args(["check", "--output=json", "-f", format, file]).output().expect("runs");
    match output.status.code() {
        Some(63) => None,
        _ => Some(serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"))),
    }
}

/// Small pseudo-random numbers (SplitMix64).
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}
