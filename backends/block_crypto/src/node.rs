//! An open `luks` image.

use std::sync::Arc;

use async_trait::async_trait;
use rhea_async_io::{IoVector, IoView, unblock};
use rhea_block::{
    BlockError, BlockNode, Edge, FormatInfo, Limits, Node, OpenFlags, Preallocation, Progress, Result,
    Secrets, Truncate, WriteFlags,
};
use rhea_options::Options;
use serde_json::json;

use crate::luks_options::AmendOptions;
use crate::sector::SECTOR_SIZE;
use crate::volume::{HeaderStorage, LuksVolume};

/// A header at the start of a node.
pub(crate) struct NodeStorage(pub(crate) Arc<BlockNode>);

#[async_trait]
impl HeaderStorage for NodeStorage {
    async fn read(&self, offset: u64, bytes: &mut [u8]) -> Result<()> {
        self.0.read_bytes(offset, bytes).await
    }

    async fn write(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.0.write_bytes(offset, bytes).await
    }

    async fn flush(&self) -> Result<()> {
        self.0.flush().await
    }
}

/// Bytes encrypted and written at a time: bounds the memory a large write takes.
const WRITE_PIECE: usize = 1 << 20;

/// Requests from this size on are worth another thread.
const OFFLOAD: usize = 64 << 10;

pub(crate) struct LuksNode {
    file: Arc<Edge>,
    header: Option<Arc<Edge>>,
    volume: Arc<LuksVolume>,
    payload_offset: u64,
    secrets: Secrets,
}

/// Decrypts a request's memory, in place where it lies together.
fn decrypt(volume: &LuksVolume, offset: u64, data: &mut IoVector) -> Result<()> {
    let cipher = volume.cipher()?;
    match data.as_mut_slice() {
        Some(bytes) => cipher.decrypt(offset, bytes),
        None => {
            let mut bytes = data.to_vec();
            cipher.decrypt(offset, &mut bytes);
            data.write(0, &bytes);
        }
    }
    Ok(())
}

fn encrypt(volume: &LuksVolume, offset: u64, data: &mut IoVector) -> Result<()> {
    let bytes = data.as_mut_slice().expect("memory of our own, in one piece");
    volume.cipher()?.encrypt(offset, bytes);
    Ok(())
}

impl LuksNode {
    pub(crate) fn new(
        file: Arc<Edge>,
        header: Option<Arc<Edge>>,
        volume: LuksVolume,
        secrets: Secrets,
    ) -> Self {
        let payload_offset = volume.payload_offset();
        Self { file, header, volume: Arc::new(volume), payload_offset, secrets }
    }

    /// Where a byte of the disk lies in the file.
    fn below(&self, offset: u64) -> Result<u64> {
        self.payload_offset.checked_add(offset).ok_or_else(|| BlockError::os(libc::EIO))
    }

    async fn write_piece(&self, offset: u64, data: IoView<'_>, flags: WriteFlags) -> Result<()> {
        let mut encrypted = IoVector::zeroed(data.len());
        encrypted.write_view(0, &data);
        if data.len() < OFFLOAD {
            encrypt(&self.volume, offset, &mut encrypted)?;
        } else {
            let volume = self.volume.clone();
            encrypted = unblock(move || encrypt(&volume, offset, &mut encrypted).map(|()| encrypted)).await?;
        }
        self.file.node().write(self.below(offset)?, &encrypted, flags).await
    }
}

#[async_trait]
impl Node for LuksNode {
    fn limits(&self) -> Limits {
        let file = self.file.node().limits();
        Limits {
            // The file's node shapes what does not fit the file's own blocks: only there is it known where the file ends.
            request_alignment: SECTOR_SIZE as u32,
            optimal_transfer: file.optimal_transfer,
            native_write: WriteFlags::FUA,
            ..Limits::default()
        }
    }

    fn length(&self) -> u64 {
        // A file that was cut within a sector has the rest of it as zeroes.
        self.file.node().length().saturating_sub(self.payload_offset).next_multiple_of(SECTOR_SIZE as u64)
    }

    fn children(&self) -> Vec<Arc<Edge>> {
        std::iter::once(&self.file).chain(&self.header).cloned().collect()
    }

    async fn read(&self, offset: u64, data: &mut IoVector) -> Result<()> {
        self.file.node().read(self.below(offset)?, data).await?;
        if data.len() < OFFLOAD {
            return decrypt(&self.volume, offset, data);
        }
        let mut encrypted = data.take();
        let volume = self.volume.clone();
        let (plain, result) = unblock(move || {
            let result = decrypt(&volume, offset, &mut encrypted);
            (encrypted, result)
        })
        .await;
        *data = plain;
        result
    }

    async fn write(&self, offset: u64, data: IoView<'_>, flags: WriteFlags) -> Result<()> {
        let mut done = 0;
        while done < data.len() {
            let len = WRITE_PIECE.min(data.len() - done);
            self.write_piece(offset + done as u64, data.slice(done..done + len), flags).await?;
            done += len;
        }
        Ok(())
    }

    async fn flush(&self) -> Result<()> {
        if let Some(header) = &self.header {
            header.node().flush().await?;
        }
        self.file.node().flush().await
    }

    async fn truncate(&self, length: u64, how: Truncate) -> Result<()> {
        if how.preallocation == Preallocation::Metadata {
            return Err(BlockError::unsupported("Unsupported preallocation mode: metadata"));
        }
        if !length.is_multiple_of(SECTOR_SIZE as u64) {
            return Err(BlockError::invalid(format!(
                "a LUKS disk's size is a multiple of {SECTOR_SIZE} bytes"
            )));
        }
        let old = self.length();
        self.file.node().truncate(self.below(length)?, Truncate { zero: false, ..how }).await?;
        if how.zero && length > old {
            // Zeroes of the file would decrypt to noise.
            let zeroes = IoVector::zeroed(WRITE_PIECE);
            let mut at = old;
            while at < length {
                let len = (length - at).min(WRITE_PIECE as u64);
                self.write_piece(at, zeroes.view().slice(0..len as usize), WriteFlags::empty()).await?;
                at += len;
            }
        }
        Ok(())
    }

    async fn format_info(&self) -> Result<FormatInfo> {
        Ok(FormatInfo {
            encrypted: true,
            specific: Some(json!({ "type": "luks", "data": self.volume.info() })),
            ..FormatInfo::default()
        })
    }

    async fn amend(&self, mut options: Options, force: bool, _: &Progress) -> Result<()> {
        let amend = AmendOptions::take(&mut options, &self.secrets)?;
        if let Some(entry) = options.entries().first() {
            return Err(BlockError::invalid(format!("Invalid parameter '{}'", entry.key)));
        }
        let storage = self.header.as_ref().unwrap_or(&self.file).node();
        self.volume.amend(&NodeStorage(storage), amend, force).await
    }

    async fn reopen(&self, _: OpenFlags, options: Options) -> Result<()> {
        match options.entries().first() {
            Some(entry) => Err(BlockError::invalid(format!("Cannot change the option '{}'", entry.key))),
            None => Ok(()),
        }
    }

    fn as_any(&self) -> &dyn std::any::Any {
        self
    }
}
