//! An open image.

use std::io::Read;
use std::sync::Arc;

use async_trait::async_trait;
use rhea_async_io::{IoVector, IoView, unblock};
use rhea_block::{
    BlockError, BlockStatus, Edge, FormatInfo, Node, Result, ResultExt, StatusFlags, WriteFlags,
};

use super::adc;
use super::chunks::{Chunk, Chunks, Kind};
use crate::inflate::{Decoder, inflate};
use crate::read_only::{LastPart, refuse_write};

pub(super) struct DmgImage {
    file: Arc<Edge>,
    length: u64,
    chunks: Chunks,
    last: LastPart,
}

/// Decompresses a chunk to exactly `len` bytes.
fn decompress(kind: Kind, bytes: &[u8], len: usize) -> Result<Vec<u8>> {
    let mut out = vec![0; len];
    let failed =
        |error: std::io::Error| BlockError::new(libc::EIO, format!("it does not decompress: {error}"));
    match kind {
        Kind::Lzfse => {
            let mut decoder = lzfse_rust::LzfseRingDecoder::default();
            decoder.reader_bytes(bytes).read_exact(&mut out).map_err(failed)?;
        }
        Kind::Adc => {
            out = adc::decompress(bytes, len)
                .ok_or_else(|| BlockError::new(libc::EIO, "it does not decompress: bad ADC data"))?;
        }
        Kind::Lzma => return Err(BlockError::unsupported("LZMA (type 0x80000008) is not supported")),
        // These are read, or decompressed piece by piece.
        Kind::Zero | Kind::Raw | Kind::Zlib | Kind::Bzip2 => {}
    }
    Ok(out)
}

impl DmgImage {
    pub(super) async fn open(file: Arc<Edge>) -> Result<Self> {
        let (length, chunks) = super::trailer::read(&file.node()).await?;
        Ok(Self { file, length, chunks, last: LastPart::default() })
    }

    async fn chunk(&self, number: u64, chunk: Chunk) -> Result<Arc<Vec<u8>>> {
        let _working = self.last.working.lock().await;
        if let Some(bytes) = self.last.get(number) {
            return Ok(bytes);
        }
        let file = self.file.node();
        if chunk.offset + chunk.stored > file.length() {
            return Err(BlockError::malformed(format!("chunk {number} lies beyond the file's end")));
        }
        self.last.forget();
        let Chunk { kind, offset, stored, len, .. } = chunk;
        let bytes = match kind {
            Kind::Zlib => inflate(&file, offset, stored, Decoder::zlib(), len as usize).await,
            Kind::Bzip2 => inflate(&file, offset, stored, Decoder::bzip2(), len as usize).await,
            _ => {
                let mut bytes = vec![0; stored as usize];
                file.read_bytes(offset, &mut bytes).await?;
                unblock(move || decompress(kind, &bytes, len as usize)).await
            }
        };
        let bytes = Arc::new(bytes.context(format!("Could not read chunk {number}"))?);
        self.last.put(number, bytes.clone());
        Ok(bytes)
    }

    async fn read_run(&self, at: u64, data: &mut IoVector) -> Result<()> {
        let Some((number, &chunk)) = self.chunks.find(at) else {
            return Err(BlockError::new(libc::EIO, format!("no chunk holds the sector {}", at / 512)));
        };
        let within = at - chunk.start;
        match chunk.kind {
            Kind::Zero => data.fill(0..data.len(), 0),
            Kind::Raw => {
                // What is stored may be shorter than the chunk.
                let stored = chunk.stored.saturating_sub(within).min(data.len() as u64);
                let mut rest = data.split_off(stored as usize);
                rest.fill(0..rest.len(), 0);
                let result = match stored {
                    0 => Ok(()),
                    _ => self.file.node().read(chunk.offset + within, data).await,
                };
                data.append(rest);
                result?;
            }
            _ => {
                let bytes = self.chunk(number, chunk).await?;
                let within = within as usize;
                data.write(0, &bytes[within..within + data.len()]);
            }
        }
        Ok(())
    }
}

#[async_trait]
impl Node for DmgImage {
    fn length(&self) -> u64 {
        self.length
    }

    fn children(&self) -> Vec<Arc<Edge>> {
        vec![self.file.clone()]
    }

    async fn read(&self, offset: u64, data: &mut IoVector) -> Result<()> {
        let mut rest = data.take();
        let mut at = offset;
        while !rest.is_empty() {
            let run = self.chunks.find(at).map_or(512, |(_, chunk)| chunk.start + chunk.len - at);
            let len = run.min(rest.len() as u64);
            let tail = rest.split_off(len as usize);
            self.read_run(at, &mut rest).await?;
            data.append(rest);
            rest = tail;
            at += len;
        }
        Ok(())
    }

    async fn write(&self, _: u64, _: IoView<'_>, _: WriteFlags) -> Result<()> {
        refuse_write()
    }

    async fn flush(&self) -> Result<()> {
        Ok(())
    }

    async fn block_status(&self, _: u64, len: u64, _: bool) -> Result<BlockStatus> {
        Ok(BlockStatus { len, flags: StatusFlags::DATA | StatusFlags::ALLOCATED, map: None })
    }

    async fn format_info(&self) -> Result<FormatInfo> {
        Ok(FormatInfo { compressed: true, ..FormatInfo::default() })
    }

    fn as_any(&self) -> &dyn std::any::Any {
        self
    }
}
