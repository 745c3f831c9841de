//! `qemu-img commit`: the data of an image goes into a backing file.

use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::stream;
use rhea_async_io::{IoVector, Timer};
use rhea_block::{BlockNode, OpenFlags, Truncate, WriteFlags, full_backing_filename};
use rhea_options::{LongOption, Parsed};
use std::time::{Duration, Instant};

use crate::chain;
use crate::failure::{Failure, FailureExt, Outcome};
use crate::progress::Meter;
use crate::session::{Image, Name, Session, cache_flags, finish, flag, id, one_name, rate_limit, valued};

pub(crate) const SHORT: &str = "qf:t:b:dpr:";
pub(crate) const LONG: &[LongOption] = &[
    flag("quiet", 'q'),
    flag("progress", 'p'),
    valued("format", 'f'),
    flag("image-opts", id::IMAGE_OPTS),
    valued("cache", 't'),
    flag("drop", 'd'),
    valued("base", 'b'),
    valued("rate", 'r'),
    valued("object", id::OBJECT),
];

/// Bytes moved at a time, and how many such pieces are under way.
const PIECE: u64 = 1 << 20;
const WIDTH: usize = 8;

pub(crate) async fn run(session: &Session, parsed: &Parsed) -> Outcome<u8> {
    let rate = rate_limit(parsed)?;
    let name = session.name(parsed, one_name(parsed)?)?;
    let cache = parsed.argument('t').unwrap_or("writeback");
    let flags = cache_flags(cache, &format!("Invalid cache option: {cache}"))? | OpenFlags::UNMAP;
    let meter = Meter::start(parsed.has('p') && !parsed.has('q'));
    let images = open_chain(session, name, flags, parsed.argument('b')).await?;
    let drop_data = !parsed.has('d') && !parsed.has('b');
    let result = commit(&images, drop_data, rate, &meter).await;
    finish(result, images).await?;
    meter.end();
    if !parsed.has('q') {
        println!("Image committed.");
    }
    Ok(0)
}

/// Opens an image and those behind it down to the one that is committed to, which is the last, and open for writing
/// with all that is behind it.
async fn open_chain(
    session: &Session,
    name: Name<'_>,
    flags: OpenFlags,
    base: Option<&str>,
) -> Outcome<Vec<Image>> {
    let mut images = vec![session.open(name, flags | OpenFlags::NO_BACKING).await?];
    match open_behind(session, &mut images, flags, base).await {
        Ok(()) => Ok(images),
        Err(failure) => {
            let failed: Outcome<()> = finish(Err(failure), images).await;
            failed.map(|()| Vec::new())
        }
    }
}

async fn open_behind(
    session: &Session,
    images: &mut Vec<Image>,
    flags: OpenFlags,
    base: Option<&str>,
) -> Outcome<()> {
    let top = images[0].name.clone();
    let missing = |base: &str| Failure::new(format!("Did not find '{base}' in the backing chain of '{top}'"));
    loop {
        let above = &images[images.len() - 1];
        let Some(backing) = above.node.driver().backing_file() else {
            return Err(match base {
                Some(base) if images.len() > 1 => missing(base),
                _ => Failure::new("Image does not have a backing file"),
            });
        };
        let filename = full_backing_filename(above.node.filename(), &backing.filename);
        let is_base = base.is_none_or(|base| base == filename || base == backing.filename);
        if !is_base && images.len() > 200 {
            return Err(missing(base.unwrap_or_default()));
        }
        let how = match is_base {
            true => flags,
            false => (flags | OpenFlags::READ_ONLY | OpenFlags::NO_BACKING) - OpenFlags::UNMAP,
        };
        let opened = session.registry.open(&filename, backing.format.as_deref(), how).await;
        let node = opened.told("Could not open backing file").told(format!("Could not open '{top}'"))?;
        above.node.set_backing(Some(node.clone())).await?;
        images.push(session.hold(node, filename).await?);
        if is_base {
            return Ok(());
        }
    }
}

async fn commit(images: &[Image], drop_data: bool, rate: Option<u64>, meter: &Meter) -> Outcome<()> {
    let (top, base) = (&images[0].node, &images[images.len() - 1].node);
    if base.length() < top.length() {
        let how = Truncate { exact: true, ..Truncate::default() };
        base.truncate(top.length(), how).await?;
    }
    copy_down(top, base, rate, meter).await?;
    // What the base has now must be there for good before the image gives it up.
    base.flush().await?;
    if drop_data {
        match top.driver().make_empty().await {
            Ok(()) => top.flush().await?,
            // Keeping the data does no harm.
            Err(error) if error.is_unsupported() => {}
            Err(error) => return Err(error).told(format!("Could not empty {}", images[0].name)),
        }
    }
    meter.complete();
    Ok(())
}

/// A stretch of the image that its own layers hold.
struct Piece {
    at: u64,
    len: u64,
    held: bool,
    zero: bool,
}

async fn copy_down(
    top: &Arc<BlockNode>,
    base: &Arc<BlockNode>,
    rate: Option<u64>,
    meter: &Meter,
) -> Outcome<()> {
    let length = top.length();
    let pieces = stream::unfold(Some(0), |at| async move {
        let at: u64 = at.filter(|at| *at < length)?;
        let longest = PIECE - at % PIECE;
        match chain::allocated_above(top, Some(base), at, length - at).await {
            Ok((len, held, zero)) => {
                let len = if held && !zero { len.min(longest) } else { len };
                Some((Ok(Piece { at, len, held, zero }), Some(at + len)))
            }
            Err(failure) => Some((Err(failure), None)),
        }
    });
    let moved = pieces.map(|piece| async move {
        let piece = piece?;
        move_piece(top, base, &piece).await?;
        Ok::<_, Failure>((piece.len, piece.held && !piece.zero))
    });
    let mut moved = std::pin::pin!(moved.buffer_unordered(WIDTH));
    let started = Instant::now();
    let (mut done, mut copied) = (0, 0);
    while let Some(result) = moved.next().await {
        let (len, was_copied) = result?;
        done += len;
        copied += if was_copied { len } else { 0 };
        meter.advance(done, length)?;
        if let Some(rate) = rate {
            let due = Duration::from_secs_f64(copied as f64 / rate as f64);
            if let Some(wait) = due.checked_sub(started.elapsed()) {
                Timer::after(wait).await;
            }
        }
    }
    Ok(())
}

async fn move_piece(top: &BlockNode, base: &BlockNode, piece: &Piece) -> Outcome<()> {
    if !piece.held {
        return Ok(());
    }
    if piece.zero {
        return Ok(base.write_zeroes(piece.at, piece.len, WriteFlags::MAY_UNMAP).await?);
    }
    let mut data = IoVector::zeroed(piece.len as usize);
    let read = top.read(piece.at, &mut data).await;
    read.told(format!("error while reading at byte {}", piece.at))?;
    let written = base.write(piece.at, &data, WriteFlags::empty()).await;
    written.told(format!("error while writing at byte {}", piece.at))
}
