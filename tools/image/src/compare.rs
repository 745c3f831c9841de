//! `qemu-img compare`

use futures_util::StreamExt;
use futures_util::stream;
use parking_lot::Mutex;
use rhea_async_io::{IoVector, IoView};
use rhea_block::StatusFlags;
use rhea_options::{LongOption, Parsed};

use crate::chain;
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
const PIECE: u64 = 1 << 20;
const AHEAD: usize = 6;

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
    let meter = Meter::start(parsed.has('p') && !quiet);
    let name = |text, format| Name { text, format, image_opts };
    let a = session.open(name(first, parsed.argument('f')), flags).await.map_err(trouble)?;
    let b = match session.open(name(second, parsed.argument('F')), flags).await {
        Ok(b) => b,
        Err(failure) => {
            a.close().await?;
            return Err(trouble(failure));
        }
    };
    let result = Comparison { a: &a, b: &b, strict: parsed.has('s'), quiet, meter: &meter }.run().await;
    finish(result, [a, b]).await
}

struct Comparison<'a> {
    a: &'a Image,
    b: &'a Image,
    strict: bool,
    quiet: bool,
    meter: &'a Meter,
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

impl Comparison<'_> {
    fn say(&self, words: &str) {
        if !self.quiet {
            println!("{words}");
        }
    }

    async fn run(&self) -> Outcome<u8> {
        let (size_a, size_b) = (self.a.length(), self.b.length());
        let total = size_a.max(size_b);
        if size_a != size_b {
            if self.strict {
                self.say("Strict mode: Image size mismatch!");
                return Ok(DIFFERENT);
            }
        }
        let buffers = Mutex::new(Vec::new());
        let pieces = stream::unfold(Some(0), |at| async move {
            let at = at.filter(|at| *at < total)?;
            match self.plan(at, total).await {
                Ok(piece) => Some((Ok(piece), Some(at + piece.len))),
                Err(failure) => Some((Err(failure), None)),
            }
        });
        let compared = pieces.map(|piece| async {
            let piece = piece?;
            Ok::<_, Failure>((piece, self.compare(piece, &buffers).await?))
        });
        let mut compared = std::pin::pin!(compared.buffered(AHEAD));
        let mut warned = false;
        while let Some(result) = compared.next().await {
            let (piece, difference) = result?;
            // The shorter image is taken to go on with zeroes.
            if piece.at >= size_a.min(size_b) && !std::mem::replace(&mut warned, true) {
                self.say("Warning: Image size mismatch!");
            }
            if let Some(at) = difference {
                self.say(&format!("Content mismatch at offset {at}!"));
                return Ok(DIFFERENT);
            }
            self.meter.advance(piece.at + piece.len, total)?;
        }
        self.say("Images are identical.");
        Ok(0)
    }

    /// What begins at `at`, and how much of it is alike.
    async fn plan(&self, at: u64, total: u64) -> Outcome<Piece> {
        let (zero_a, len_a) = self.status(self.a, at, total).await?;
        let (zero_b, len_b) = self.status(self.b, at, total).await?;
        let mut len = len_a.min(len_b);
        if !(zero_a && zero_b) {
            len = len.min(PIECE);
        }
        Ok(Piece { at, len, read_a: !zero_a, read_b: !zero_b })
    }

    /// Whether an image is known to read as zeroes at `at`, and for how many bytes that holds.
    async fn status(&self, image: &Image, at: u64, total: u64) -> Outcome<(bool, u64)> {
        if at >= image.length() {
            return Ok((true, total - at));
        }
        let asked = chain::status(&image.node, at, image.length() - at).await;
        let (status, _) = asked
            .told(format!("Sector allocation test failed for {}", image.name))
            .map_err(|f| f.with_status(NO_STATUS))?;
        Ok((status.flags.contains(StatusFlags::ZERO), status.len))
    }

    /// The first offset at which the images differ.
    async fn compare(&self, piece: Piece, buffers: &Mutex<Vec<IoVector>>) -> Outcome<Option<u64>> {
        let mut a = self.read(self.a, piece, piece.read_a, buffers).await?;
        let mut b = self.read(self.b, piece, piece.read_b, buffers).await?;
        let difference = match (&a, &b) {
            (Some(a), Some(b)) => first_difference(&a.view(), &b.view()),
            (Some(data), None) | (None, Some(data)) => first_nonzero(&data.view()),
            (None, None) => None,
        };
        let mut buffers = buffers.lock();
        buffers.extend(a.take());
        buffers.extend(b.take());
        // Told by sectors, as QEMU does.
        Ok(difference.map(|at| piece.at + (at / SECTOR * SECTOR) as u64))
    }

    async fn read(
        &self,
        image: &Image,
        piece: Piece,
        wanted: bool,
        buffers: &Mutex<Vec<IoVector>>,
    ) -> Outcome<Option<IoVector>> {
        if !wanted {
            return Ok(None);
        }
        let spare = buffers.lock().pop();
        let mut data = match spare {
            Some(data) if data.len() == piece.len as usize => data,
            _ => IoVector::zeroed(piece.len as usize),
        };
        let read = image.node.read(piece.at, &mut data).await;
        read.map_err(|error| {
            Failure::new(format!("Error while reading offset {} of {}: {error}", piece.at, image.name))
                .with_status(NO_READ)
        })?;
        Ok(Some(data))
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
