//! What tests, demo and bench need to boot real guests: Debian's packages, an initramfs, our own guest programs, and a
//! session with an emulator's serial port.
//!
//! The emulator is a path: Rhea is tested with it, and the same session on QEMU proves the harness and is the peer
//! that Rhea is measured against.

pub mod bare_metal;
pub mod debian;
pub mod firmware;
pub mod guest;
pub mod initramfs;
pub mod kernels;
pub mod modules;
pub mod riscv_programs;
pub mod session;

use std::path::{Path, PathBuf};

use anyhow::Context;

/// The repository's root.
pub fn repository() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here).to_owned()
}

/// Cargo's target directory, where caches live too.
pub fn target_dir() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| repository().join("target"), PathBuf::from)
}

/// The Rhea binary under test: `RHEA_BINARY`, or the release build.
pub fn rhea_binary() -> anyhow::Result<PathBuf> {
    let path = match std::env::var_os("RHEA_BINARY") {
        Some(path) => PathBuf::from(path),
        None => target_dir().join("release/rhea"),
    };
    path.canonicalize()
        .with_context(|| format!("{} (build it with 'cargo build --release -p rhea')", path.display()))
}
