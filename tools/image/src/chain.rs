//! Chains of backing files: what is read through them, and how far down it was found.

use std::sync::Arc;

use rhea_block::{BlockNode, BlockStatus, StatusFlags};

use crate::failure::{Failure, Outcome};

/// The image behind another, below filters.
pub(crate) fn behind(node: &Arc<BlockNode>) -> Option<Arc<BlockNode>> {
    node.skip_filters().backing()
}

/// What is read at `offset`, and how many images down the last one that was asked lies. At least one byte.
pub(crate) async fn status(node: &Arc<BlockNode>, offset: u64, len: u64) -> Outcome<(BlockStatus, usize)> {
    let (mut status, decided) = node.block_status_above(None, offset, len).await?;
    if status.len == 0 {
        return Err(Failure::new("no status for a part of the image"));
    }
    let deepest = deepest(node, offset);
    let depth = match decided {
        // A backing file that ends before `offset` has nothing there: what was found is that nobody has it.
        Some(depth) if depth > deepest => {
            status.flags -= StatusFlags::ALLOCATED;
            deepest
        }
        Some(depth) => depth,
        None => deepest,
    };
    Ok((status, depth))
}

/// How many images down the last one lies that can be asked of `offset`: below it are none, or they are too short.
fn deepest(node: &Arc<BlockNode>, offset: u64) -> usize {
    let mut depth = 0;
    let mut at = behind(node);
    while let Some(below) = at.filter(|below| offset < below.length()) {
        depth += 1;
        at = behind(&below);
    }
    depth
}

/// Whether any image above `base` (all of the chain, if `None`) holds the bytes at `offset`, for how many bytes that is
/// so, and whether they are known to be zero.
pub(crate) async fn allocated_above(
    node: &Arc<BlockNode>,
    base: Option<&Arc<BlockNode>>,
    offset: u64,
    len: u64,
) -> Outcome<(u64, bool, bool)> {
    let (status, decided) = node.block_status_above(base, offset, len).await?;
    if status.len == 0 {
        return Err(Failure::new("no status for a part of the image"));
    }
    Ok((status.len, decided.is_some(), status.flags.contains(StatusFlags::ZERO)))
}
