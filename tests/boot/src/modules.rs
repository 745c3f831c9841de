//! Modules of Debian's kernels, for initramfs archives: each with what it depends on, in the order of loading.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail, ensure};

/// The modules of a kernel package, by name.
pub struct Modules {
    folder: PathBuf,
}

/// A module, ready for `insmod`.
pub struct Module {
    /// Its name, with underscores.
    pub name: String,
    /// The object file.
    pub object: Vec<u8>,
}

impl Modules {
    /// The modules that were unpacked beside the kernel image `boot/vmlinu*`.
    ///
    /// # Errors
    /// There are none.
    pub fn beside(kernel: &Path) -> anyhow::Result<Self> {
        let root = kernel.parent().and_then(Path::parent).context("the kernel lies in no package")?;
        let folders = ["usr/lib/modules", "lib/modules"].map(|path| root.join(path));
        let folder = folders.into_iter().find(|path| path.is_dir()).context("the kernel has no modules")?;
        Ok(Self { folder })
    }

    /// The named modules and all that they depend on, in the order of loading. What is built into the kernel is
    /// left out.
    ///
    /// # Errors
    /// A file cannot be unpacked.
    pub fn with_dependencies(&self, names: &[&str]) -> anyhow::Result<Vec<Module>> {
        let mut files = Vec::new();
        list(&self.folder, &mut files)?;
        let mut loaded = Vec::new();
        for name in names {
            self.add(name, &files, &mut loaded)?;
        }
        Ok(loaded)
    }

    fn add(&self, name: &str, files: &[PathBuf], loaded: &mut Vec<Module>) -> anyhow::Result<()> {
        let name = name.replace('-', "_");
        if name.is_empty() || loaded.iter().any(|module| module.name == name) {
            return Ok(());
        }
        let Some(file) = files.iter().find(|file| module_name(file).as_deref() == Some(&name)) else {
            return Ok(());
        };
        let object = unpack(file)?;
        for dependency in depends(&object)? {
            self.add(&dependency, files, loaded)?;
        }
        loaded.push(Module { name, object });
        Ok(())
    }
}

fn list(folder: &Path, files: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let entry = entry?;
        // Links lead to the kernel's sources.
        let kind = entry.file_type()?;
        if kind.is_dir() {
            list(&entry.path(), files)?;
        } else if kind.is_file() {
            files.push(entry.path());
        }
    }
    Ok(())
}

/// `virtio-blk.ko.xz` is `virtio_blk`.
fn module_name(file: &Path) -> Option<String> {
    let name = file.file_name()?.to_str()?;
    Some(name.split_once(".ko")?.0.replace('-', "_"))
}

fn unpack(file: &Path) -> anyhow::Result<Vec<u8>> {
    match file.extension().and_then(|e| e.to_str()) {
        Some("ko") => fs::read(file).with_context(|| file.display().to_string()),
        Some("xz") => {
            let output = Command::new("xz").arg("-dc").arg(file).output().context("cannot run xz")?;
            ensure!(output.status.success(), "xz cannot unpack {}", file.display());
            Ok(output.stdout)
        }
        _ => bail!("{}: packed in an unknown way", file.display()),
    }
}

/// What the module's `.modinfo` section says after `depends=`.
fn depends(object: &[u8]) -> anyhow::Result<Vec<String>> {
    const KEY: &[u8] = b"\0depends=";
    let at =
        object.windows(KEY.len()).position(|w| w == KEY).context("a module without dependencies line")?;
    let value = object[at + KEY.len()..].split(|b| *b == 0).next().unwrap_or_default();
    Ok(String::from_utf8_lossy(value).split(',').filter(|n| !n.is_empty()).map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependencies_are_read() {
        assert_eq!(depends(b"x\0license=GPL\0depends=jbd2,crc16\0y").unwrap(), ["jbd2", "crc16"]);
        assert!(depends(b"\0depends=\0").unwrap().is_empty());
        assert!(depends(b"").is_err());
        assert_eq!(module_name(Path::new("/a/virtio-rng.ko.xz")).as_deref(), Some("virtio_rng"));
    }
}
