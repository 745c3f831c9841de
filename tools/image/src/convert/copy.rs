//! Moving the data of a conversion.
//!
//! ```text
//!            ┌▶ lane: read ─▶ look for zeroes ─▶ write ─┐
//!   plan ────┼▶ lane: …                                 ├─▶ target
//!            └▶ lane: …                                 ┘
//! ```
//!
//! The plan follows the sources' block status, so that holes cost nothing. Lanes take one piece of it after the other; they
//! are spread over threads, so that a piece stays in one core's cache from the read to the write. Unless any order will do
//! (`-W`), writes are *started* in the order of the disk, which gives formats that allocate as they go a target in order;
//! they need not have ended for the next to start, except for formats whose files are written from the front to the end.
//! Memory is bounded by a buffer a lane.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_lock::{Mutex as AsyncMutex, MutexGuardArc};
use futures_util::future::{poll_immediate, try_join_all};
use rhea_async_io::{IoVector, IoView, Timer};
use rhea_block::{BlockError, BlockNode, WriteFlags};

use super::source::{Kind, Sources};
use crate::crew::{self, Board};
use crate::failure::{Failure, Outcome};
use crate::progress::Meter;

/// Bytes that are read and written at a time.
const PIECE: u64 = 1 << 20;
/// … where they are compressed cluster by cluster: small, so that clusters end up next to their neighbours.
const COMPRESSED_PIECE: u64 = 64 << 10;
/// Zeroes are written in pieces of this size, so that progress is seen.
const ZERO_PIECE: u64 = 256 << 20;
/// The unit in which what can be read is salvaged.
const SECTOR: u64 = 512;

/// When a write may start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// At any time.
    Any,
    /// When the one before it has started.
    Started,
    /// When the one before it has ended.
    Ended,
}

/// A conversion's data, and how it is to be moved.
pub(super) struct Copier {
    pub sources: Sources,
    pub target: Arc<BlockNode>,
    /// The target has a backing file, and what the source's layer does not hold is left to it.
    pub keeps_backing: bool,
    /// The target reads as zeroes where nothing is written.
    pub is_zero: bool,
    /// Zeroes of this length are not stored; 0: all is.
    pub sparse: u64,
    /// Data is written compressed, in clusters of this size.
    pub cluster: Option<u64>,
    pub order: Order,
    pub offload: bool,
    pub salvage: bool,
    pub quiet: bool,
    /// Pieces under way at a time.
    pub lanes: usize,
    /// Bytes per second at most.
    pub rate: Option<u64>,
    pub program: String,
}

/// How far the plan has come.
struct Plan {
    at: u64,
    /// What is known of the bytes at `at`, and of how many.
    known: Option<(Kind, u64)>,
    /// Free when the last planned piece lets the next one write.
    turn: Arc<AsyncMutex<()>>,
    started: Instant,
}

/// A stretch to be moved.
struct Piece {
    at: u64,
    len: u64,
    kind: Kind,
    turn: Turn,
}

/// A piece's place in the order of writes.
struct Turn {
    /// Free when it is this piece's turn.
    mine: Arc<AsyncMutex<()>>,
    /// Held until it is the next one's.
    next: Option<MutexGuardArc<()>>,
}

/// A copier at work, shared by its threads.
struct Work {
    copier: Copier,
    plan: AsyncMutex<Plan>,
    board: Arc<Board>,
    threads: usize,
}

impl Copier {
    /// Copies everything.
    pub async fn run(self, meter: &Meter) -> Outcome<()> {
        let total = self.sources.length();
        let threads = crew::threads(total, self.lanes);
        let board = Arc::new(Board::default());
        let plan = Plan { at: 0, known: None, turn: Arc::default(), started: Instant::now() };
        let work =
            Arc::new(Work { copier: self, plan: AsyncMutex::new(plan), board: board.clone(), threads });
        let lanes = move || {
            let work = work.clone();
            async move { work.lanes().await }
        };
        crew::run(threads, &board, meter, total, lanes).await
    }
}

impl Work {
    /// What one thread does.
    async fn lanes(&self) -> Outcome<()> {
        let lanes = (0..self.copier.lanes.div_ceil(self.threads)).map(|_| self.lane());
        try_join_all(lanes).await.map(drop)
    }

    async fn lane(&self) -> Outcome<()> {
        let mut buffer = IoVector::default();
        while let Some(piece) = self.next().await? {
            let len = piece.len;
            self.copier.move_piece(piece, &mut buffer).await?;
            self.board.advance(len);
        }
        Ok(())
    }

    /// The next piece of the plan.
    async fn next(&self) -> Outcome<Option<Piece>> {
        let copier = &self.copier;
        let total = copier.sources.length();
        let mut plan = self.plan.lock().await;
        loop {
            let at = plan.at;
            if at >= total || self.board.is_stopped() {
                return Ok(None);
            }
            let (kind, len) = match plan.known.take() {
                Some(known) => known,
                None => copier.status(at).await.map_err(|failure| {
                    failure.context(format!("error while reading block status at offset {at}"))
                })?,
            };
            let piece = len.min(copier.piece_length(kind, at));
            plan.known = (len > piece).then_some((kind, len - piece));
            plan.at = at + piece;
            if copier.has_nothing_to_do(kind) {
                self.board.advance(piece);
                continue;
            }
            if let Some(rate) = copier.rate {
                // What is under way already goes on meanwhile; the next pieces wait.
                let due = Duration::from_secs_f64(at as f64 / rate as f64);
                if let Some(wait) = due.checked_sub(plan.started.elapsed()) {
                    Timer::after(wait).await;
                }
            }
            let after: Arc<AsyncMutex<()>> = Arc::default();
            let next = after.try_lock_arc();
            let mine = std::mem::replace(&mut plan.turn, after);
            return Ok(Some(Piece { at, len: piece, kind, turn: Turn { mine, next } }));
        }
    }
}

impl Copier {
    /// Whether the target has the right bytes already.
    fn has_nothing_to_do(&self, kind: Kind) -> bool {
        match kind {
            Kind::Behind => true,
            Kind::Zero => self.is_zero && self.sparse != 0,
            Kind::Data => false,
        }
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
        let data = match self.cluster {
            Some(cluster) => cluster.max(COMPRESSED_PIECE),
            None => PIECE,
        };
        let longest = match kind {
            Kind::Zero | Kind::Behind if self.sparse != 0 => ZERO_PIECE,
            _ => data,
        };
        // Pieces end at round offsets, where clusters and blocks of the target do.
        longest - at % longest
    }

    /// Reads a piece and writes it when it is its turn.
    async fn move_piece(&self, piece: Piece, buffer: &mut IoVector) -> Outcome<()> {
        let Piece { at, len, kind, mut turn } = piece;
        let is_copied = kind == Kind::Data && self.offload && self.offloaded(at, len).await?;
        if is_copied {
            return Ok(());
        }
        let has_data = kind == Kind::Data || self.sparse == 0;
        let rest = if has_data { self.load(at, len, kind, buffer).await? } else { IoVector::default() };
        if self.order != Order::Any {
            drop(turn.mine.lock().await);
        }
        let stored = {
            let mut storing = std::pin::pin!(self.store(at, len, has_data.then_some(&*buffer)));
            match self.order {
                Order::Started => match poll_immediate(&mut storing).await {
                    Some(stored) => stored,
                    None => {
                        // Under way: the next one may start.
                        turn.next = None;
                        storing.await
                    }
                },
                Order::Any | Order::Ended => storing.await,
            }
        };
        buffer.append(rest);
        stored.map_err(|error| Failure::new(format!("error while writing at byte {at}: {error}")))
    }

    /// Fills the buffer with a piece; returns the part of the buffer that was too much.
    async fn load(&self, at: u64, len: u64, kind: Kind, buffer: &mut IoVector) -> Outcome<IoVector> {
        if (buffer.len() as u64) < len {
            *buffer = IoVector::zeroed(len as usize);
        }
        let rest = buffer.split_off(len as usize);
        if kind != Kind::Data {
            buffer.fill(0..len as usize, 0);
            return Ok(rest);
        }
        let (node, offset) = self.sources.locate(at)?;
        if let Err(error) = node.read(offset, buffer).await {
            if !self.salvage {
                return Err(Failure::new(format!("error while reading at byte {at}: {error}")));
            }
            *buffer = self.salvaged(at, len).await?;
        }
        Ok(rest)
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

    /// Writes data, or zeroes.
    async fn store(&self, at: u64, len: u64, data: Option<&IoVector>) -> Result<(), BlockError> {
        match (data, self.cluster) {
            (None, _) => self.zero(at, len).await,
            (Some(data), None) => self.store_data(at, &data.view()).await,
            (Some(data), Some(cluster)) => {
                let data = data.view();
                let mut from = 0;
                while from < data.len() {
                    let here = at + from as u64;
                    let end = (cluster - here % cluster) as usize + from;
                    let part = data.slice(from..end.min(data.len()));
                    from += part.len();
                    self.store_compressed(here, &part).await?;
                }
                Ok(())
            }
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

    /// Writes one cluster, the last of which may be cut short.
    async fn store_compressed(&self, at: u64, data: &IoView<'_>) -> Result<(), BlockError> {
        let cluster = self.cluster.unwrap_or(1);
        let whole = cluster.min(self.target.length().saturating_sub(at));
        if self.sparse != 0 && data.is_zero() && (self.is_zero || self.order != Order::Ended) {
            return self.zero(at, data.len() as u64).await;
        }
        if data.len() as u64 >= whole {
            return self.target.write_compressed(at, data.slice(0..whole as usize)).await;
        }
        // The target is longer than the sources: zeroes fill the last cluster.
        let mut padded = IoVector::zeroed(whole as usize);
        padded.write_view(0, data);
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
