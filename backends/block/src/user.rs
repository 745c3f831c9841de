//! What programs do alike with a user's disks: add nodes by name, lay a temporary image over a disk, and close all at the
//! end.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use rhea_options::Options;

use crate::driver::Registry;
use crate::graph::BlockNode;
use crate::options::OpenFlags;
use crate::progress::Progress;
use crate::{BlockError, Result};

/// A file that goes with its owner.
#[derive(Debug)]
pub struct TemporaryFile(PathBuf);

impl Drop for TemporaryFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Warns of a raw image whose format was not told but guessed.
pub fn warn_of_guess(filename: &str) {
    eprintln!(
        "WARNING: Image format was not specified for '{filename}' and probing guessed raw.\n         \
         Automatically detecting the format is dangerous for raw images, write operations on block 0 will be restricted.\n         \
         Specify the 'raw' format explicitly to remove the restrictions."
    );
}

impl Registry {
    /// Opens a node as `-blockdev` says, and keeps it by its name.
    pub async fn add_blockdev(&self, options: Options) -> Result<Arc<BlockNode>> {
        let driver =
            options.get("driver").ok_or_else(|| BlockError::invalid("Parameter 'driver' is missing"))?;
        if self.driver(driver).is_none() {
            return Err(BlockError::invalid(format!("Parameter 'driver' does not accept value '{driver}'")));
        }
        if options.get("node-name").is_none() {
            return Err(BlockError::invalid("'node-name' must be specified for the root node"));
        }
        self.open_node(options, OpenFlags::empty(), true).await
    }

    /// A temporary qcow2 image over a disk: what is written is gone at the end. `flags` are those of the disk.
    pub async fn overlay(
        &self,
        base: &Arc<BlockNode>,
        flags: OpenFlags,
    ) -> Result<(Arc<BlockNode>, TemporaryFile)> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let name = format!("rhea-{}-{}.qcow2", std::process::id(), NEXT.fetch_add(1, Relaxed));
        let path = std::env::temp_dir().join(name);
        let name =
            path.to_str().ok_or_else(|| BlockError::invalid("the temporary folder's name is no text"))?;
        // Nobody else may be made to write to a file of his own: it must be new.
        std::fs::File::options().write(true).create_new(true).open(&path)?;
        let file = TemporaryFile(path.clone());
        let mut options = Options::default();
        options.set("size", &base.length().to_string());
        self.create("qcow2", name, options, &Progress::new()).await?;
        // What is written is thrown away: it need not reach the disk.
        let flags = (flags | OpenFlags::NO_FLUSH) - OpenFlags::READ_ONLY;
        let node = self.open(name, Some("qcow2"), flags).await?;
        node.set_backing(Some(base.clone())).await?;
        Ok((node, file))
    }

    /// Closes all nodes that are kept by name, those that others stand on with them. Tells `failed` of each that could not
    /// write out what only memory had; the first error is returned.
    pub async fn close_nodes(&self, mut failed: impl FnMut(&str, &BlockError)) -> Result<()> {
        let nodes = self.nodes();
        let roots: Vec<_> = nodes
            .iter()
            .filter(|node| !nodes.iter().any(|other| !Arc::ptr_eq(other, node) && other.reaches(node)))
            .cloned()
            .collect();
        for node in &nodes {
            self.forget(node.name());
        }
        drop(nodes);
        let mut result = Ok(());
        for node in roots {
            let name = node.name().to_owned();
            if let Err(error) = node.close().await {
                failed(&name, &error);
                result = result.and(Err(error));
            }
        }
        result
    }
}
