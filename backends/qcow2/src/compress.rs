//! Compressed clusters.
//!
//! Source: the qcow2 specification, "Compressed Clusters Descriptor" and "compression_type". Deflate streams are made with
//! a window of 4 KiB, which is all that QEMU gives their reader.

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use parking_lot::Mutex;
use rhea_async_io::{IoVector, IoView, unblock};
use rhea_block::{BlockError, Result, WriteFlags};
use zlib_rs::{Deflate, DeflateFlush, Inflate, InflateFlush, Status};

use crate::geometry::L2Entry;
use crate::header::CompressionType;
use crate::image::{Image, Release};
use crate::overlap::Sections;
use crate::read::Behind;
use crate::write::part_of;

/// Decompressed clusters that are remembered, for reads smaller than a cluster.
const REMEMBERED: usize = 4;

/// Where compressed clusters are put, and the last ones read.
#[derive(Default)]
pub(crate) struct CompressedClusters {
    /// Held while bytes are allocated; where the next ones may go (0: nowhere in particular).
    pub(crate) next: async_lock::Mutex<u64>,
    /// By their L2 entries.
    recent: Mutex<Vec<(u64, Arc<Vec<u8>>)>>,
}

impl CompressedClusters {
    /// Clusters were freed: what their bytes were means nothing any more.
    pub(crate) fn forget(&self) {
        self.recent.lock().clear();
    }

    fn recall(&self, entry: u64) -> Option<Arc<Vec<u8>>> {
        self.recent.lock().iter().find(|(e, _)| *e == entry).map(|(_, bytes)| bytes.clone())
    }

    fn remember(&self, entry: u64, bytes: Arc<Vec<u8>>) {
        let mut recent = self.recent.lock();
        if recent.len() >= REMEMBERED {
            recent.remove(0);
        }
        recent.push((entry, bytes));
    }
}

/// Deflate's window is 4 KiB.
const WINDOW_BITS: u8 = 12;
/// Deflate's default effort.
const LEVEL: i32 = 6;

/// Compresses a cluster; `None` if that makes it no smaller.
fn compress(method: CompressionType, cluster: &[u8]) -> Result<Option<Vec<u8>>> {
    // Room for the worst case: a stream that is cut short leaves its compressor in a state that zlib-rs 0.6 does not
    // reset fully.
    let mut out = vec![0; cluster.len() + cluster.len() / 8 + 64];
    let len = match method {
        CompressionType::Zlib => {
            thread_local! {
                static DEFLATE: std::cell::RefCell<Option<Deflate>> = const { std::cell::RefCell::new(None) };
            }
            DEFLATE.with_borrow_mut(|deflate| {
                // Making one allocates much; one for each thread is enough.
                let mut this = deflate.take().unwrap_or_else(|| Deflate::new(LEVEL, false, WINDOW_BITS));
                this.reset();
                match this.compress(cluster, &mut out, DeflateFlush::Finish) {
                    Ok(Status::StreamEnd) => {
                        let len = this.total_out() as usize;
                        *deflate = Some(this);
                        Ok(Some(len))
                    }
                    Ok(_) => Ok(None),
                    Err(error) => {
                        Err(BlockError::new(libc::EIO, format!("deflate failed: {}", error.as_str())))
                    }
                }
            })?
        }
        CompressionType::Zstd => {
            thread_local! {
                static CONTEXT: std::cell::RefCell<Option<zstd::bulk::Compressor<'static>>> =
                    const { std::cell::RefCell::new(None) };
            }
            let done = CONTEXT.with_borrow_mut(|context| {
                let context = match context {
                    Some(context) => context,
                    None => context.insert(zstd::bulk::Compressor::new(zstd::DEFAULT_COMPRESSION_LEVEL)?),
                };
                Ok::<_, std::io::Error>(context.compress_to_buffer(cluster, &mut out[..]))
            })?;
            // Too little room is the only way to fail with valid parameters.
            done.ok()
        }
    };
    // No smaller than the cluster is not worth it.
    Ok(len.filter(|len| *len < cluster.len()).map(|len| {
        out.truncate(len);
        out
    }))
}

/// Decompresses exactly a cluster; what follows the compressed data is not looked at.
fn decompress(method: CompressionType, data: &[u8], cluster: &mut [u8]) -> Result<()> {
    let broken = || BlockError::new(libc::EIO, "a compressed cluster cannot be decompressed");
    match method {
        CompressionType::Zlib => {
            thread_local! {
                static INFLATE: std::cell::RefCell<Option<Inflate>> = const { std::cell::RefCell::new(None) };
            }
            INFLATE.with_borrow_mut(|inflate| {
                // Other writers may have had a larger window.
                let inflate = inflate.get_or_insert_with(|| Inflate::new(false, 15));
                inflate.reset(false);
                let done = inflate.decompress(data, cluster, InflateFlush::Finish);
                match done.is_ok() && inflate.total_out() as usize == cluster.len() {
                    true => Ok(()),
                    false => Err(broken()),
                }
            })
        }
        CompressionType::Zstd => {
            use zstd::stream::raw::{Decoder, InBuffer, Operation, OutBuffer};
            let mut decoder = Decoder::new()?;
            let mut input = InBuffer::around(data);
            let len = cluster.len();
            let mut output = OutBuffer::around(cluster);
            while output.pos() < len {
                let before = (input.pos(), output.pos());
                decoder.run(&mut input, &mut output).map_err(|_| broken())?;
                if before == (input.pos(), output.pos()) {
                    return Err(broken());
                }
            }
            Ok(())
        }
    }
}

impl Image {
    fn compression(&self) -> CompressionType {
        self.header.lock().header.compression_type
    }

    /// Reads part of a compressed cluster.
    pub(crate) async fn read_compressed(&self, offset: u64, entry: u64, data: &mut IoVector) -> Result<()> {
        let within = self.geometry.in_cluster(offset) as usize;
        let cluster = match self.compressed.recall(entry) {
            Some(cluster) => cluster,
            None => {
                let cluster = Arc::new(self.load_compressed(entry).await?);
                if data.len() < cluster.len() {
                    self.compressed.remember(entry, cluster.clone());
                }
                cluster
            }
        };
        data.write(0, &cluster[within..within + data.len()]);
        Ok(())
    }

    async fn load_compressed(&self, entry: u64) -> Result<Vec<u8>> {
        let (at, len) = self.geometry.compressed_range(entry);
        let mut packed = IoVector::zeroed(len as usize);
        self.event("read_compressed").await;
        self.file().read(at, &mut packed).await?;
        let (size, method) = (self.geometry.cluster_size as usize, self.compression());
        unblock(move || {
            let mut cluster = vec![0; size];
            let view = packed.view();
            decompress(method, &view.contiguous(), &mut cluster)?;
            Ok(cluster)
        })
        .await
    }

    /// Writes whole clusters (the last may end with the disk) compressed, each on its own.
    pub(crate) async fn write_compressed(&self, offset: u64, data: IoView<'_>) -> Result<()> {
        self.check_writable()?;
        if self.has_data_file() {
            return Err(BlockError::os(libc::ENOTSUP));
        }
        if self.encryption.is_some() {
            return Err(BlockError::unsupported("encrypted images cannot hold compressed clusters"));
        }
        let size = self.geometry.cluster_size;
        let end = offset + data.len() as u64;
        let whole = self.geometry.in_cluster(end) == 0 || end == self.length();
        if self.geometry.in_cluster(offset) != 0 || !whole {
            return Err(BlockError::invalid("compressed writes must cover whole clusters"));
        }
        if self.releases.is_pressing() {
            self.flush().await?;
        }
        let _running = self.releases.begin_request();
        if data.len() as u64 <= size {
            return self.write_compressed_cluster(offset, data).await;
        }
        let mut all: FuturesUnordered<_> = (0..(data.len() as u64).div_ceil(size))
            .map(|number| {
                let from = number * size;
                let part = part_of(&data, from, size.min(data.len() as u64 - from));
                self.write_compressed_cluster(offset + from, part)
            })
            .collect();
        let mut result = Ok(());
        while let Some(ended) = all.next().await {
            result = result.and(ended);
        }
        result
    }

    async fn write_compressed_cluster(&self, offset: u64, data: IoView<'_>) -> Result<()> {
        let (size, method) = (self.geometry.cluster_size as usize, self.compression());
        let mut cluster = data.to_vec();
        cluster.resize(size, 0);
        let packed = unblock(move || compress(method, &cluster)).await?;
        let Some(packed) = packed else { return self.write_range(offset, data, Behind::Backing).await };
        let len = packed.len() as u64;
        let place = self.writable_l2(offset).await?;
        let number = offset >> self.geometry.cluster_bits;
        let _changing = self.in_flight.enter(number, number + 1).await;
        let host = self.allocate_bytes(len).await?;
        let Some(descriptor) = self.geometry.compressed_entry(host, len) else {
            self.release(host, len, Release::Silent);
            return Err(BlockError::new(libc::EFBIG, "The image file is too large for compressed clusters"));
        };
        self.event("write_compressed").await;
        let guard = self.releases.host_write(host..host + len);
        let written = self.file().write(host, &IoVector::from_slice(&packed), WriteFlags::empty()).await;
        guard.ended();
        if let Err(error) = written {
            self.release(host, len, Release::Silent);
            return Err(error);
        }
        self.event("l2_update_compressed").await;
        self.barrier.store(true, SeqCst);
        let entry = L2Entry { descriptor, bitmap: 0 };
        let old = loop {
            let swapped = self.l2.write(place.slice, |bytes| {
                let old = L2Entry::load(&self.geometry, bytes, place.index);
                entry.store(&self.geometry, bytes, place.index);
                let at = place.index * self.geometry.l2_entry_size as usize;
                (old, at..at + self.geometry.l2_entry_size as usize)
            });
            match swapped {
                Some(old) => break old,
                None => self.load_l2(place.slice).await?,
            }
        };
        self.release_entry(old, Release::Other);
        Ok(())
    }

    /// Room for compressed data, behind the last where that is possible. Each cluster it touches gets a reference.
    async fn allocate_bytes(&self, len: u64) -> Result<u64> {
        let g = &self.geometry;
        self.event("cluster_alloc_bytes").await;
        let mut next = self.compressed.next.lock().await;
        let at = *next;
        let left = if at == 0 { 0 } else { g.cluster_size - g.in_cluster(at) };
        // A full cluster leaves nothing to share.
        let left = if left == g.cluster_size { 0 } else { left };
        // Whatever happens below, these bytes are not handed out twice.
        *next = 0;
        let whole_sectors = |from: u64, len: u64| (from + len).next_multiple_of(512) - from;
        if left >= len && whole_sectors(at, len) <= left && self.add_reference_to_used(at).await? {
            *next = at + len;
            return Ok(at);
        }
        let new = self.allocate_some(1).await?.offset;
        let mut start = new;
        if left > 0 && new == g.cluster_end(at) && self.add_reference_to_used(at).await? {
            start = at;
        }
        if let Some(problem) = self.overlap_of(start, len, Sections::empty()) {
            return Err(self.mark_corrupt(problem).await);
        }
        *next = start + len;
        Ok(start)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_methods_return_what_they_were_given() {
        let cluster: Vec<u8> = (0..65536u32).map(|i| (i / 100 % 251) as u8).collect();
        for method in [CompressionType::Zlib, CompressionType::Zstd] {
            let mut packed = compress(method, &cluster).unwrap().expect("it repeats itself");
            assert!(packed.len() < 30_000, "{}", packed.len());
            packed.extend_from_slice(&[0xa5; 700]);
            let mut back = vec![0; cluster.len()];
            decompress(method, &packed, &mut back).unwrap();
            assert!(back == cluster, "{method:?}");
            assert!(decompress(method, &packed[..100], &mut back).is_err());
            assert!(decompress(method, &[0xff; 600], &mut back).is_err());
        }
    }

    #[test]
    fn noise_is_not_compressed() {
        let mut state = 1u64;
        let noise: Vec<u8> = std::iter::repeat_with(|| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) as u8
        })
        .take(4096)
        .collect();
        for method in [CompressionType::Zlib, CompressionType::Zstd] {
            assert_eq!(compress(method, &noise).unwrap(), None, "{method:?}");
        }
    }
}
