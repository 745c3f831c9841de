//! What the tests of files share.
#![allow(dead_code, reason = "each test program uses its part")]

use std::path::PathBuf;

use rhea_block::{FileDriver, HostDeviceDriver, NullDriver, RawDriver, Registry};

/// The drivers of this crate.
pub fn registry() -> Registry {
    let mut registry = Registry::new();
    registry.add(FileDriver);
    registry.add(HostDeviceDriver);
    registry.add(NullDriver::CO);
    registry.add(NullDriver::AIO);
    registry.add(RawDriver);
    registry
}

/// A folder that goes away with the test.
pub struct Folder(PathBuf);

impl Folder {
    /// In the system's folder for such.
    pub fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("rhea-raw-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a folder for the test");
        Self(path)
    }

    /// The path of a file in it.
    pub fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().expect("a name in UTF-8").to_owned()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
