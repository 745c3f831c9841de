//! The sources of a conversion, one behind the other as one disk.

use std::sync::Arc;

use rhea_block::{BlockNode, StatusFlags};

use crate::failure::{Failure, Outcome};
use crate::session::Image;

/// Sources begin at sectors.
const SECTOR: u64 = 512;

/// One source.
struct Part {
    node: Arc<BlockNode>,
    start: u64,
    end: u64,
}

/// What is known of a stretch of the sources.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Bytes that have to be read.
    Data,
    /// Zeroes.
    Zero,
    /// Not held by the source's own layer.
    Behind,
}

/// All sources.
pub(super) struct Sources {
    parts: Vec<Part>,
    length: u64,
}

impl Sources {
    pub fn new(images: &[Image]) -> Self {
        let mut parts = Vec::new();
        let mut start = 0u64;
        for image in images {
            // A disk's last sector may be cut short; the next disk begins behind it.
            let end = start + image.length().div_ceil(SECTOR) * SECTOR;
            parts.push(Part { node: image.node.clone(), start, end });
            start = end;
        }
        Self { parts, length: start }
    }

    /// Bytes of the joined disk.
    pub fn length(&self) -> u64 {
        self.length
    }

    fn part(&self, at: u64) -> Outcome<&Part> {
        let part = self.parts.iter().find(|p| at < p.end);
        part.ok_or_else(|| Failure::new(format!("no source holds offset {at}")))
    }

    /// The node that holds an offset, and the offset in it.
    pub fn locate(&self, at: u64) -> Outcome<(&Arc<BlockNode>, u64)> {
        let part = self.part(at)?;
        Ok((&part.node, at - part.start))
    }

    /// What begins at `at`, and how many bytes of it there are (at least 1, within one source). With `own_layer`, what
    /// comes from backing files counts as [`Kind::Behind`].
    pub async fn status(&self, at: u64, own_layer: bool) -> Outcome<(Kind, u64)> {
        let part = self.part(at)?;
        let offset = at - part.start;
        let length = part.node.length();
        if offset >= length {
            return Ok((Kind::Zero, part.end - at));
        }
        let base = if own_layer { part.node.skip_filters().backing() } else { None };
        let (status, decided) = part.node.block_status_above(base.as_ref(), offset, length - offset).await?;
        if status.len == 0 {
            return Err(Failure::new(format!("no status of the source at offset {at}")));
        }
        let kind = match status.flags {
            _ if own_layer && decided.is_none() => Kind::Behind,
            flags if flags.contains(StatusFlags::ZERO) => Kind::Zero,
            flags if flags.contains(StatusFlags::DATA) || decided.is_some() => Kind::Data,
            // No layer has it, and nothing is said of what is read: it has to be read.
            _ => Kind::Data,
        };
        Ok((kind, status.len))
    }
}
