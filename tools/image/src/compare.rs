//! `qemu-img compare`

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use async_lock::Mutex as AsyncMutex;
use futures_util::future::try_join_all;
use rhea_async_io::{IoVector, IoView};
use rhea_block::{BlockNode, StatusFlags};
use rhea_options::{LongOption, Parsed};

use crate::chain;
use crate::crew::{self, Board};
use crate::failure::{Failure, FailureExt, Outcome};
use crate::progress::Meter;
use crate::session::{Image, Name, Session, cache_flags, finish, flag, id, read_flags, valued};

pub(crate) const SHORT: &str = "qpf:F:T:sU";
pub(crate) const LONG: &[LongOption] = &[
    flag("quiet", 'q'),
    flag("progress", 'p'),
    valued("a-format", 'f'),
    valued("b-format", 'F'),
    flag("image-opts", id::IMAGE_OPTS),
    flag("strict", 's'),
    valued("cache", 'T'),
    flag("force-share", 'U'),
    valued("object", id::OBJECT),
];

/// The exit status of images that differ; that of trouble follows.
const DIFFERENT: u8 = 1;
const TROUBLE: u8 = 2;
const NO_STATUS: u8 = 3;
const NO_READ: u8 = 4;

/// Bytes read at a time from each image, and how many such pieces are under way.
const PIECE: u64 = 256 << 10;
const LANES: usize = 8;

const SECTOR: usize = 512;

pub(crate) async fn run(session: &Session, parsed: &Parsed) -> Outcome<u8> {
    let trouble = |failure: Failure| failure.with_status(TROUBLE);
    let [first, second] = parsed.words.as_slice() else {
        return Err(Failure::usage("Expecting two image file names"));
    };
    let image_opts = parsed.has(id::IMAGE_OPTS);
    if image_opts && (parsed.has('f') || parsed.has('F')) {
        return Err(trouble(Failure::new("--image-opts and --format are mutually exclusive")));
    }
    let cache = parsed.argument('T').unwrap_or("writeback");
    let cache = cache_flags(cache, &format!("Invalid source cache option: {cache}")).map_err(trouble)?;
    let flags = read_flags(parsed) | cache;
    let quiet = parsed.has('q');
    let shown = parsed.has('p') && !quiet;
    let name = |text, format| Name { text, format, image_opts };
    let open = async {
        let a = session.open(name(first, parsed.argument('f')), flags).await?;
        match session.open(name(second, parsed.argument('F')), flags).await {
            Ok(b) => Ok((a, b)),
            Err(failure) => {
                a.close().await?;
                Err(failure)
            }
        }
    };
    let (a, b) = open.await.map_err(|failure| {
        // The end of a line that does not begin.
        if shown {
            println!();
        }
        trouble(failure)
    })?;
    let meter = Meter::start(shown);
    let result = compare(&a, &b, parsed.has('s'), quiet, &meter).await;
    finish(result, [a, b]).await
}

/// Two disks, shared by the threads that compare them.
struct Comparison {
    a: Side,
    b: Side,
    total: u64,
    /// Where the next piece begins.
    next: AsyncMutex<u64>,
    /// Where to stop for now.
    end: AtomicU64,
    /// The first difference found so far.
    difference: AtomicU64,
    /// Differences in what is allocated count as well.
    strict: bool,
    /// Where the first of them is.
    unlike: AtomicU64,
    board: Arc<Board>,
}

struct Side {
    node: Arc<BlockNode>,
    name: String,
    length: u64,
}

impl Side {
    fn new(image: &Image) -> Self {
        Self { node: image.node.clone(), name: image.name.clone(), length: image.length() }
    }

    /// What is at `at`, and for how many bytes that holds. Beyond its end the disk is taken to go on with zeroes.
    async fn status(&self, at: u64, total: u64) -> Outcome<(StatusFlags, u64)> {
        if at >= self.length {
            return Ok((StatusFlags::ZERO, total - at));
        }
        let asked = chain::status(&self.node, at, self.length - at).await;
        let (status, _) = asked
            .told(format!("Sector allocation test failed for {}", self.name))
            .map_err(|f| f.with_status(NO_STATUS))?;
        Ok((status.flags, status.len))
    }

    async fn read(&self, at: u64, len: u64, buffer: &mut IoVector) -> Outcome<()> {
        if buffer.len() as u64 != len {
            *buffer = IoVector::zeroed(len as usize);
        }
        let read = self.node.read(at, buffer).await;
        read.map_err(|error| {
            Failure::new(format!("Error while reading offset {at} of {}: {error}", self.name))
                .with_status(NO_READ)
        })
    }
}

/// A stretch of both disks that is to be looked at.
#[derive(Debug, Clone, Copy)]
struct Piece {
    at: u64,
    len: u64,
    /// What has to be read to compare; what need not be reads as zeroes.
    read_a: bool,
    read_b: bool,
}

const NONE: u64 = u64::MAX;

async fn compare(a: &Image, b: &Image, strict: bool, quiet: bool, meter: &Meter) -> Outcome<u8> {
    let say = |words: &str| {
        if !quiet {
            println!("{words}");
        }
    };
    let (a, b) = (Side::new(a), Side::new(b));
    let (shorter, total) = (a.length.min(b.length), a.length.max(b.length));
    if strict && shorter != total {
        say("Strict mode: Image size mismatch!");
        return Ok(DIFFERENT);
    }
    let board = Arc::new(Board::default());
    let comparison = Arc::new(Comparison {
        a,
        b,
        total,
        next: AsyncMutex::new(0),
        end: AtomicU64::new(shorter),
        difference: AtomicU64::new(NONE),
        strict,
        unlike: AtomicU64::new(NONE),
        board: board.clone(),
    });
    let work = {
        let comparison = comparison.clone();
        move || {
            let comparison = comparison.clone();
            async move { comparison.work().await }
        }
    };
    let threads = crew::threads(total, LANES);
    crew::run(threads, &board, meter, total, work.clone()).await?;
    if shorter != total && comparison.difference.load(Relaxed) == NONE {
        say("Warning: Image size mismatch!");
        comparison.end.store(total, Relaxed);
        crew::run(threads, &board, meter, total, work).await?;
    }
    let difference = comparison.difference.load(Relaxed);
    let unlike = comparison.unlike.load(Relaxed);
    if unlike != NONE && unlike <= difference {
        say(&format!("Strict mode: Offset {unlike} block status mismatch!"));
        return Ok(DIFFERENT);
    }
    if difference != NONE {
        say(&format!("Content mismatch at offset {difference}!"));
        return Ok(DIFFERENT);
    }
    say("Images are identical.");
    Ok(0)
}

impl Comparison {
    async fn work(&self) -> Outcome<()> {
        let threads = crew::threads(self.total, LANES);
        let lanes = (0..LANES.div_ceil(threads)).map(|_| self.lane());
        try_join_all(lanes).await.map(drop)
    }

    /// Takes one piece after the other.
    async fn lane(&self) -> Outcome<()> {
        let (mut a, mut b) = (IoVector::default(), IoVector::default());
        while let Some(piece) = self.plan().await? {
            if piece.read_a {
                self.a.read(piece.at, piece.len, &mut a).await?;
            }
            if piece.read_b {
                self.b.read(piece.at, piece.len, &mut b).await?;
            }
            let difference = match (piece.read_a, piece.read_b) {
                (true, true) => first_difference(&a.view(), &b.view()),
                (true, false) => first_nonzero(&a.view()),
                (false, true) => first_nonzero(&b.view()),
                (false, false) => None,
            };
            if let Some(at) = difference {
                // Told by sectors, as QEMU does.
                self.difference.fetch_min(piece.at + (at / SECTOR * SECTOR) as u64, Relaxed);
                self.board.limit(piece.at);
            }
            self.board.advance(piece.len);
        }
        Ok(())
    }

    /// The next piece; `None` at the end, and behind a difference that was found.
    async fn plan(&self) -> Outcome<Option<Piece>> {
        let mut next = self.next.lock().await;
        let at = *next;
        let end = self.end.load(Relaxed);
        if at >= end.min(self.difference.load(Relaxed)) || self.board.is_stopped() {
            return Ok(None);
        }
        let (flags_a, len_a) = self.a.status(at, self.total).await?;
        let (flags_b, len_b) = self.b.status(at, self.total).await?;
        if self.strict && flags_a != flags_b {
            self.unlike.fetch_min(at, Relaxed);
            self.board.limit(at);
            *next = NONE;
            return Ok(None);
        }
        let (zero_a, zero_b) = (flags_a.contains(StatusFlags::ZERO), flags_b.contains(StatusFlags::ZERO));
        let mut len = len_a.min(len_b).min(end - at);
        if !(zero_a && zero_b) {
            len = len.min(PIECE - at % PIECE);
        }
        *next = at + len;
        Ok(Some(Piece { at, len, read_a: !zero_a, read_b: !zero_b }))
    }
}

fn first_difference(a: &IoView<'_>, b: &IoView<'_>) -> Option<usize> {
    let (a, b) = (a.contiguous(), b.contiguous());
    if a == b {
        return None;
    }
    a.iter().zip(b.iter()).position(|(x, y)| x != y)
}

fn first_nonzero(data: &IoView<'_>) -> Option<usize> {
    if data.is_zero() {
        return None;
    }
    data.contiguous().iter().position(|byte| *byte != 0)
}
