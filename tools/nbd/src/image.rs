//! The image that is served.

use std::sync::Arc;

use rhea_block::{
    BlockError, BlockNode, OpenFlags, Registry, Result, SnapshotInfo, TemporaryFile, warn_of_guess,
};
use rhea_options::Options;

use crate::command_line::{Config, SnapshotName};

/// An open image, perhaps with a temporary file for what is written.
pub struct Image {
    /// The disk.
    pub node: Arc<BlockNode>,
    _temporary: Option<TemporaryFile>,
}

impl Image {
    /// Opens the image that the command line names. Warnings go to standard error.
    pub async fn open(registry: &Registry, config: &Config) -> Result<Self> {
        let file = config.file.as_deref().unwrap_or_default();
        let mut flags = config.flags;
        if config.snapshot {
            flags |= OpenFlags::READ_ONLY;
        }
        let opened = match config.image_opts {
            true => match Options::parse(file, None) {
                Ok(options) => registry.open_node(options, flags, false).await,
                Err(error) => Err(error.into()),
            },
            false => registry.open(file, config.format.as_deref(), flags).await,
        };
        let mut node = opened.map_err(|error| error.context(format!("Failed to blk_new_open '{file}'")))?;
        if config.format.is_none()
            && !config.image_opts
            && node.driver_name() == "raw"
            && !config.flags.contains(OpenFlags::READ_ONLY)
        {
            warn_of_guess(file);
        }
        let mut temporary = None;
        if config.snapshot {
            let (overlay, file) = registry.overlay(&node, config.flags).await?;
            node = overlay;
            temporary = Some(file);
        }
        if let Some(name) = &config.load_snapshot {
            load_snapshot(&node, name).await.map_err(|error| error.context("Failed to load snapshot"))?;
        }
        Ok(Self { node, _temporary: temporary })
    }

    /// Writes out what only memory has.
    pub async fn close(self) -> Result<()> {
        self.node.clone().close().await
    }
}

async fn load_snapshot(node: &Arc<BlockNode>, wanted: &SnapshotName) -> Result<()> {
    let Some(snapshots) = node.driver().snapshots() else {
        return Err(BlockError::unsupported(format!(
            "Block format '{}' used by device '' does not support temporarily loading internal snapshots",
            node.driver_name()
        )));
    };
    let listed = snapshots.list().await?;
    let found: Option<&SnapshotInfo> = match wanted {
        SnapshotName::Either(word) => {
            listed.iter().find(|s| s.id == *word).or_else(|| listed.iter().find(|s| s.name == *word))
        }
        SnapshotName::Exact { id, name } => listed.iter().find(|s| {
            id.as_ref().is_none_or(|id| s.id == *id) && name.as_ref().is_none_or(|name| s.name == *name)
        }),
    };
    match found {
        Some(found) => snapshots.load(&found.id).await,
        None => Err(BlockError::new(libc::ENOENT, "Can't find snapshot")),
    }
}
