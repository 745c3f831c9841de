//! `qemu-img rebase`: an image gets another backing file, and keeps its contents.

use std::sync::Arc;

use rhea_async_io::{IoVector, IoView};
use rhea_block::{BackingFile, BlockError, BlockNode, OpenFlags, WriteFlags, full_backing_filename};
use rhea_options::{LongOption, Parsed};

use crate::chain;
use crate::failure::{Failure, FailureExt, Outcome};
use crate::progress::Meter;
use crate::session::{Image, Name, Session, cache_flags, finish, flag, id, one_name, read_flags, valued};

pub(crate) const SHORT: &str = "qpf:t:b:F:T:ucU";
pub(crate) const LONG: &[LongOption] = &[
    flag("quiet", 'q'),
    flag("progress", 'p'),
    valued("format", 'f'),
    flag("image-opts", id::IMAGE_OPTS),
    valued("cache", 't'),
    valued("backing", 'b'),
    valued("backing-format", 'F'),
    valued("backing-cache", 'T'),
    flag("backing-unsafe", 'u'),
    flag("compress", 'c'),
    flag("force-share", 'U'),
    valued("object", id::OBJECT),
];

/// Bytes looked at together.
const PIECE: u64 = 2 << 20;

pub(crate) async fn run(session: &Session, parsed: &Parsed) -> Outcome<u8> {
    let filename = one_name(parsed)?;
    let is_unsafe = parsed.has('u');
    if !is_unsafe && !parsed.has('b') {
        return Err(Failure::usage("Must specify backing file (-b) or use unsafe mode (-u)"));
    }
    let backing_cache = parsed.argument('T').unwrap_or("writeback");
    let backing_flags = cache_flags(backing_cache, &format!("Invalid source cache option: {backing_cache}"))?;
    let cache = parsed.argument('t').unwrap_or("writeback");
    let mut flags = cache_flags(cache, &format!("Invalid cache option: {cache}"))? | OpenFlags::UNMAP;
    if is_unsafe {
        flags |= OpenFlags::NO_BACKING;
    }
    // The image itself is written, and must be ours alone; those behind it may be shared.
    let backing_flags = backing_flags | (read_flags(parsed) & OpenFlags::FORCE_SHARE);
    let name = session.name(parsed, filename)?;
    if let Some(format) = parsed.argument('F')
        && session.registry.driver(format).is_none()
    {
        return Err(Failure::new(format!("Invalid format name: '{format}'")));
    }
    let meter = Meter::start(parsed.has('p') && !parsed.has('q'));
    let image = session.open(name, flags).await?;
    let new = parsed.argument('b').unwrap_or_default();
    let result = rebase(session, parsed, &image, new, backing_flags, &meter).await;
    finish(result, [image]).await
}

async fn rebase(
    session: &Session,
    parsed: &Parsed,
    image: &Image,
    new: &str,
    backing_flags: OpenFlags,
    meter: &Meter,
) -> Outcome<u8> {
    let format = parsed.argument('F');
    if !parsed.has('u') {
        let behind = match new {
            "" => None,
            _ => {
                let path = full_backing_filename(image.node.filename(), new);
                let name = Name { text: &path, format, image_opts: false };
                let opened =
                    session.registry.open(name.text, name.format, backing_flags | OpenFlags::READ_ONLY);
                let node = opened.await.told(format!("Could not open new backing file '{new}'"))?;
                Some(session.hold(node, path.clone()).await?)
            }
        };
        let cluster = image.node.driver().format_info().await?.cluster_size.max(1);
        let compress = parsed.has('c');
        let work = Rebase { image, new: behind.as_ref().map(|i| &i.node), cluster, compress };
        let copied = work.copy(meter).await;
        finish(copied, behind).await?;
        // Nobody may see the new name before what the old backing file had is in the image.
        image.node.flush().await?;
    }
    let backing = match new {
        "" => None,
        _ => Some(BackingFile { filename: new.into(), format: format.map(str::to_owned) }),
    };
    if let Some(BackingFile { format: None, .. }) = backing {
        return Err(Failure::new(format!(
            "Could not change the backing file to '{new}': backing format must be specified"
        )));
    }
    let changed = image.node.driver().change_backing_file(backing).await;
    changed.map_err(|error: BlockError| {
        let reason = match error.errno() {
            libc::ENOSPC => "No space left in the file header".to_owned(),
            _ => error.to_string(),
        };
        Failure::new(format!("Could not change the backing file to '{new}': {reason}"))
    })?;
    image.node.flush().await?;
    meter.complete();
    Ok(0)
}

struct Rebase<'a> {
    image: &'a Image,
    new: Option<&'a Arc<BlockNode>>,
    cluster: u64,
    compress: bool,
}

impl Rebase<'_> {
    /// Copies into the image what it takes from the old backing file and would not find in the new one.
    async fn copy(&self, meter: &Meter) -> Outcome<()> {
        let node = &self.image.node;
        let length = node.length();
        let Some(old) = chain::behind(node) else {
            return self.hide_new(meter).await;
        };
        let mut at = 0;
        while at < length {
            let (len, held, _) = chain::allocated_above(node, Some(&old), at, length - at).await?;
            let len = if held { len } else { len.min(PIECE - at % PIECE) };
            if !held {
                self.take_over(Some(&old), at, len).await?;
            }
            at += len;
            meter.advance(at, length)?;
        }
        Ok(())
    }

    /// There was no backing file: what the image does not hold read as zeroes, and must go on to.
    async fn hide_new(&self, meter: &Meter) -> Outcome<()> {
        let node = &self.image.node;
        let length = node.length();
        let mut at = 0;
        while self.new.is_some() && at < length {
            let status = node.skip_filters().block_status(at, length - at, false).await?;
            let held = status.flags.contains(rhea_block::StatusFlags::ALLOCATED);
            let len = if held { status.len } else { status.len.min(PIECE - at % PIECE) };
            if !held {
                self.take_over(None, at, len).await?;
            }
            at += len.max(1);
            meter.advance(at, length)?;
        }
        Ok(())
    }

    /// Writes into the image those clusters of a stretch that read differently with the new backing file.
    async fn take_over(&self, old: Option<&Arc<BlockNode>>, at: u64, len: u64) -> Outcome<()> {
        if is_zero_behind(old, at, len).await? && is_zero_behind(self.new, at, len).await? {
            return Ok(());
        }
        let was = read_behind(old, at, len).await.told("error while reading from old backing file")?;
        let will = read_behind(self.new, at, len).await.told("error while reading from new backing file")?;
        let mut from = 0;
        while from < len {
            let to = self.cluster_end(at + from).min(at + len) - at;
            if !differs(&was.view(), &will.view(), from, to) {
                from = to;
                continue;
            }
            // As many clusters as there are in a row.
            let mut end = to;
            while end < len && !self.compress {
                let next = self.cluster_end(at + end).min(at + len) - at;
                if !differs(&was.view(), &will.view(), end, next) {
                    break;
                }
                end = next;
            }
            self.write(at + from, was.view().slice(from as usize..end as usize)).await?;
            from = end;
        }
        Ok(())
    }

    fn cluster_end(&self, at: u64) -> u64 {
        (at / self.cluster + 1) * self.cluster
    }

    async fn write(&self, at: u64, data: IoView<'_>) -> Outcome<()> {
        let node = &self.image.node;
        let whole = at.is_multiple_of(self.cluster)
            && (data.len() as u64 == self.cluster || at + data.len() as u64 == node.length());
        let written = match () {
            () if data.is_zero() => node.write_zeroes(at, data.len() as u64, WriteFlags::empty()).await,
            () if self.compress && whole => node.write_compressed(at, data).await,
            () => node.write(at, data, WriteFlags::empty()).await,
        };
        written.told("Error while writing to COW image")
    }
}

fn differs(a: &IoView<'_>, b: &IoView<'_>, from: u64, to: u64) -> bool {
    let range = from as usize..to as usize;
    a.slice(range.clone()).contiguous() != b.slice(range).contiguous()
}

/// Whether what is behind an image is known to read as zeroes in all of a range.
async fn is_zero_behind(node: Option<&Arc<BlockNode>>, at: u64, len: u64) -> Outcome<bool> {
    let Some(node) = node else { return Ok(true) };
    let end = (at + len).min(node.length());
    let mut at = at;
    while at < end {
        let (status, _) = chain::status(node, at, end - at).await?;
        if !status.flags.contains(rhea_block::StatusFlags::ZERO) {
            return Ok(false);
        }
        at += status.len;
    }
    Ok(true)
}

async fn read_behind(node: Option<&Arc<BlockNode>>, at: u64, len: u64) -> Result<IoVector, BlockError> {
    let mut data = IoVector::zeroed(len as usize);
    if let Some(node) = node {
        node.read(at, &mut data).await?;
    }
    Ok(data)
}
