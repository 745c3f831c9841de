//! Moving the data of a conversion.
//!
//! ```text
//!   plan (block status) ──▶ read, several at a time ──▶ write, several at a time
//! ```
//!
//! The plan follows the sources' block status, so that holes cost nothing. Unless any order will do (`-W`), writes are
//! started in the order of the disk, which gives formats that allocate as they go (qcow2) a target in order; they need not
//! have ended for the next to start. Memory is bounded by the pieces under way: [`Width`] of at most [`PIECE`] bytes, as
//! much as QEMU takes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::stream::{self, Stream, StreamExt};
use parking_lot::Mutex;
use rhea_async_io::{IoVector, IoView, Timer};
use rhea_block::{BlockError, BlockNode, WriteFlags};

use super::source::{Kind, Sources};
use crate::failure::{Failure, Outcome};
use crate::progress::Meter;

/// Bytes that are read and written at a time.
const PIECE: u64 = 2 << 20;
/// Zeroes are written in pieces of this size, so that progress is seen.
const ZERO_PIECE: u64 = 256 << 20;
/// The unit in which what can be read is salvaged.
const SECTOR: u64 = 512;

/// How many pieces are under way.
#[derive(Debug, Clone, Copy)]
pub(super) struct Width {
    reads: usize,
    writes: usize,
}

impl Width {
    /// `wanted` is `-m`.
    pub fn new(wanted: Option<usize>, compress: bool) -> Self {
        let all = wanted.unwrap_or(8);
        if compress {
            // Writes are single clusters, each busy on a core.
            let cores = std::thread::available_parallelism().map_or(1, usize::from);
            let writes = wanted.unwrap_or_else(|| all.max(2 * cores));
            return Self { reads: all.div_ceil(2), writes };
        }
        Self { reads: all.div_ceil(2), writes: (all / 2).max(1) }
    }
}

/// A conversion's data, and how it is to be moved.
pub(super) struct Copier<'a> {
    pub sources: &'a Sources,
    pub target: Arc<BlockNode>,
    /// The target has a backing file, and what the source's layer does not hold is left to it.
    pub keeps_backing: bool,
    /// The target reads as zeroes where nothing is written.
    pub is_zero: bool,
    /// Zeroes of this length are not stored; 0: all is.
    pub sparse: u64,
    /// Data is written compressed, in clusters of this size.
    pub cluster: Option<u64>,
    /// Writes must follow each other.
    pub one_by_one: bool,
    pub any_order: bool,
    pub offload: bool,
    pub salvage: bool,
    pub quiet: bool,
    pub width: Width,
    /// Bytes per second at most.
    pub rate: Option<u64>,
    pub program: &'a str,
}

/// A stretch to be moved.
#[derive(Debug)]
struct Piece {
    at: u64,
    len: u64,
    kind: Kind,
}

/// A piece that has been read.
struct Loaded {
    at: u64,
    len: u64,
    /// `None`: nothing to write but zeroes, or nothing at all.
    contents: Contents,
}

enum Contents {
    Data(IoVector),
    Zero,
    /// Done, or nothing to do.
    Nothing,
}

/// Buffers that go round.
#[derive(Default)]
struct Buffers(Mutex<Vec<IoVector>>);

impl Buffers {
    fn take(&self, len: usize) -> IoVector {
        // Most pieces are as long as can be; for others a buffer is made.
        let spare = if len as u64 == PIECE { self.0.lock().pop() } else { None };
        spare.unwrap_or_else(|| IoVector::zeroed(len))
    }

    fn give(&self, buffer: IoVector) {
        if buffer.len() as u64 == PIECE {
            self.0.lock().push(buffer);
        }
    }
}

impl Copier<'_> {
    /// Copies everything.
    pub async fn run(&self, meter: &Meter) -> Outcome<()> {
        let total = self.sources.length();
        let buffers = Buffers::default();
        let started = Instant::now();
        let mut done = 0;
        let writes = if self.one_by_one { 1 } else { self.width.writes };
        let mut moved = std::pin::pin!(self.moved(&buffers, writes));
        while let Some(len) = moved.next().await {
            done += len?;
            meter.advance(done, total)?;
            if let Some(rate) = self.rate {
                // What is under way already goes on meanwhile; the next pieces wait.
                let due = Duration::from_secs_f64(done as f64 / rate as f64);
                let elapsed = started.elapsed();
                if due > elapsed {
                    Timer::after(due - elapsed).await;
                }
            }
        }
        Ok(())
    }

    /// The whole pipeline: the lengths of pieces as they are done.
    fn moved<'s>(&'s self, buffers: &'s Buffers, writes: usize) -> impl Stream<Item = Outcome<u64>> + 's {
        let loaded = self.pieces().map(move |piece| async move { self.load(piece?, buffers).await });
        let loaded = match self.any_order {
            true => loaded.buffer_unordered(self.width.reads).left_stream(),
            false => loaded.buffered(self.width.reads).right_stream(),
        };
        let parts = loaded.flat_map(move |loaded| match (loaded, self.cluster) {
            (Ok(loaded), Some(cluster)) => stream::iter(clusters(loaded, cluster)).map(Ok).left_stream(),
            (other, _) => stream::iter([other]).right_stream(),
        });
        parts.map(move |loaded| async move { self.store(loaded?, buffers).await }).buffer_unordered(writes)
    }

    /// The plan.
    fn pieces(&self) -> impl Stream<Item = Outcome<Piece>> + '_ {
        let total = self.sources.length();
        stream::unfold((Some(0), None::<(Kind, u64)>), move |(at, known)| async move {
            let at: u64 = at.filter(|at| *at < total)?;
            let known = match known {
                Some(known) => Ok(known),
                None => self.status(at).await,
            };
            let (kind, len) = match known {
                Ok(known) => known,
                Err(failure) => {
                    let told = failure.context(format!("error while reading block status at offset {at}"));
                    return Some((Err(told), (None, None)));
                }
            };
            let piece = len.min(self.piece_length(kind, at));
            let rest = (len > piece).then_some((kind, len - piece));
            Some((Ok(Piece { at, len: piece, kind }), (Some(at + piece), rest)))
        })
    }

    /// What begins at `at`; stretches that are written in clusters end where clusters do.
    async fn status(&self, at: u64) -> Outcome<(Kind, u64)> {
        let (mut kind, mut len) = self.sources.status(at, self.keeps_backing).await?;
        let Some(cluster) = self.cluster else { return Ok((kind, len)) };
        let total = self.sources.length();
        if at + len == total || len.is_multiple_of(cluster) {
            return Ok((kind, len));
        }
        if len > cluster {
            return Ok((kind, len / cluster * cluster));
        }
        // A cluster of several kinds: if a part of it is data, all of it is read.
        let end = (at + cluster).min(total);
        while at + len < end {
            let (next, more) = self.sources.status(at + len, self.keeps_backing).await?;
            if next != kind {
                kind = Kind::Data;
            }
            len += more.min(end - (at + len));
        }
        Ok((kind, len))
    }

    fn piece_length(&self, kind: Kind, at: u64) -> u64 {
        let longest = match kind {
            Kind::Data => PIECE,
            Kind::Zero if self.sparse == 0 => PIECE,
            Kind::Zero | Kind::Behind => ZERO_PIECE,
        };
        // Pieces end at round offsets, where clusters and blocks of the target do.
        longest - at % longest
    }

    async fn load(&self, piece: Piece, buffers: &Buffers) -> Outcome<Loaded> {
        let Piece { at, len, kind } = piece;
        let contents = match kind {
            Kind::Behind => Contents::Nothing,
            Kind::Zero if self.sparse == 0 => {
                let mut data = buffers.take(len as usize);
                data.fill(0..len as usize, 0);
                Contents::Data(data)
            }
            Kind::Zero => Contents::Zero,
            Kind::Data if self.offload && self.offloaded(at, len).await? => Contents::Nothing,
            Kind::Data => {
                let mut data = buffers.take(len as usize);
                let (node, offset) = self.sources.locate(at)?;
                if let Err(error) = node.read(offset, &mut data).await {
                    if !self.salvage {
                        return Err(Failure::new(format!("error while reading at byte {at}: {error}")));
                    }
                    data = self.salvaged(at, len).await?;
                }
                Contents::Data(data)
            }
        };
        Ok(Loaded { at, len, contents })
    }

    /// Whether the system has copied a piece for us.
    async fn offloaded(&self, at: u64, len: u64) -> Outcome<bool> {
        let (node, offset) = self.sources.locate(at)?;
        match node.copy_range(offset, &self.target, at, len, WriteFlags::empty()).await {
            Ok(()) => Ok(true),
            // Whatever the reason, reading and writing tells better.
            Err(_) => Ok(false),
        }
    }

    /// Reads what can be read, sector by sector; zeroes stand for the rest.
    async fn salvaged(&self, at: u64, len: u64) -> Outcome<IoVector> {
        let mut data = IoVector::zeroed(0);
        let mut done = 0;
        while done < len {
            let piece = (len - done).min(SECTOR);
            let mut sector = IoVector::zeroed(piece as usize);
            let (node, offset) = self.sources.locate(at + done)?;
            if let Err(error) = node.read(offset, &mut sector).await {
                if !self.quiet {
                    eprintln!("{}: warning: error while reading offset {}: {error}", self.program, at + done);
                }
                sector = IoVector::zeroed(piece as usize);
            }
            data.append(sector);
            done += piece;
        }
        let mut whole = IoVector::zeroed(len as usize);
        whole.write_view(0, &data.view());
        Ok(whole)
    }

    /// Writes a piece; its length.
    async fn store(&self, loaded: Loaded, buffers: &Buffers) -> Outcome<u64> {
        let Loaded { at, len, contents } = loaded;
        let stored = match contents {
            Contents::Nothing => Ok(()),
            Contents::Zero => self.zero(at, len).await,
            Contents::Data(data) => {
                let stored = match self.cluster {
                    Some(_) => self.store_compressed(at, &data).await,
                    None => self.store_data(at, &data.view()).await,
                };
                buffers.give(data);
                stored
            }
        };
        match stored {
            Ok(()) => Ok(len),
            Err(error) => Err(Failure::new(format!("error while writing at byte {at}: {error}"))),
        }
    }

    async fn zero(&self, at: u64, len: u64) -> Result<(), BlockError> {
        // The last sector of the sources may reach beyond the target's end.
        let len = len.min(self.target.length().saturating_sub(at));
        if self.is_zero || len == 0 {
            return Ok(());
        }
        let flags = if self.sparse == 0 { WriteFlags::empty() } else { WriteFlags::MAY_UNMAP };
        self.target.write_zeroes(at, len, flags).await
    }

    async fn store_compressed(&self, at: u64, data: &IoVector) -> Result<(), BlockError> {
        let cluster = self.cluster.unwrap_or(1);
        let whole = cluster.min(self.target.length().saturating_sub(at));
        if self.sparse != 0 && data.view().is_zero() && (self.is_zero || !self.one_by_one) {
            return self.zero(at, data.len() as u64).await;
        }
        let kept = (data.len() as u64).min(whole);
        if kept == whole {
            return self.target.write_compressed(at, data.view().slice(0..kept as usize)).await;
        }
        // The target is longer than the sources: zeroes fill the last cluster.
        let mut padded = IoVector::zeroed(whole as usize);
        padded.write_view(0, &data.view());
        self.target.write_compressed(at, &padded).await
    }

    /// Writes what is not zero; long stretches of zeroes are left out, or written as such.
    async fn store_data(&self, at: u64, data: &IoView<'_>) -> Result<(), BlockError> {
        if self.sparse == 0 {
            return self.target.write(at, data.clone(), WriteFlags::empty()).await;
        }
        let unit = self.sparse.max(u64::from(self.target.limits().request_alignment)) as usize;
        let bytes = data.contiguous();
        let mut from = 0;
        while from < bytes.len() {
            let zero = is_zero_unit(&bytes, at, from, unit);
            let mut to = unit_end(at, from, unit, bytes.len());
            while to < bytes.len() && is_zero_unit(&bytes, at, to, unit) == zero {
                to = unit_end(at, to, unit, bytes.len());
            }
            match zero {
                true => self.zero(at + from as u64, (to - from) as u64).await?,
                false => {
                    self.target.write(at + from as u64, data.slice(from..to), WriteFlags::empty()).await?;
                }
            }
            from = to;
        }
        Ok(())
    }
}

/// Where the unit ends that holds a position of the piece at `at`: units are counted from the disk's start.
fn unit_end(at: u64, position: usize, unit: usize, len: usize) -> usize {
    let inside = ((at + position as u64) % unit as u64) as usize;
    (position + unit - inside).min(len)
}

fn is_zero_unit(bytes: &[u8], at: u64, from: usize, unit: usize) -> bool {
    let part = &bytes[from..unit_end(at, from, unit, bytes.len())];
    // Most data shows in its first bytes.
    part[0] == 0 && part.chunks(256).all(|chunk| chunk.iter().fold(0, |all, byte| all | byte) == 0)
}

/// A piece cut into clusters, which are compressed one by one.
fn clusters(loaded: Loaded, cluster: u64) -> Vec<Loaded> {
    let Contents::Data(mut data) = loaded.contents else { return vec![loaded] };
    let mut parts = Vec::new();
    let mut at = loaded.at;
    while !data.is_empty() {
        let end = (at / cluster + 1) * cluster;
        let rest = data.split_off(((end - at) as usize).min(data.len()));
        let len = data.len() as u64;
        parts.push(Loaded { at, len, contents: Contents::Data(data) });
        at += len;
        data = rest;
    }
    parts
}
