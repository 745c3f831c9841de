//! Commands that hold requests at events, by a `blkdebug` filter below the image.

use std::sync::Arc;

use rhea_block::{BlockError, BlockNode};
use rhea_block_filters::Blkdebug;

use super::{Call, Command, Outcome};

macro_rules! command {
    ($name:literal, $arguments:literal, $about:literal, $words:expr, $run:expr) => {
        Command {
            name: $name,
            short: "",
            arguments: $arguments,
            about: $about,
            details: "",
            words: $words,
            options: "",
            without_image: false,
            writes: false,
            run: |call| Box::pin($run(call)),
        }
    };
}

pub const COMMANDS: &[Command] = &[
    command!(
        "break",
        "event tag",
        "sets a breakpoint on event and tags the stopped request as tag",
        (2, 2),
        set
    ),
    command!("remove_break", "tag", "remove a breakpoint by tag", (1, 1), remove),
    command!("resume", "tag", "resumes the request tagged as tag", (1, 1), resume),
    command!("wait_break", "tag", "waits for the suspension of a request", (1, 1), wait),
];

/// The first `blkdebug` node at or below the image's file.
fn blkdebug(node: &Arc<BlockNode>) -> Option<Arc<BlockNode>> {
    let mut at = Some(node.clone());
    while let Some(node) = at {
        if node.downcast::<Blkdebug>().is_some() {
            return Some(node);
        }
        at = node.file().or_else(|| node.child(rhea_block::Role::Filtered));
    }
    None
}

fn on_filter(call: &Call<'_>, what: &str, act: impl FnOnce(&Blkdebug) -> Result<(), BlockError>) -> Outcome {
    let found = call.session.node().and_then(blkdebug);
    let result = match found.as_ref().and_then(|node| node.downcast::<Blkdebug>()) {
        Some(filter) => act(filter),
        None => Err(BlockError::os(libc::ENOTSUP)),
    };
    match result {
        Ok(()) => Outcome::Done,
        Err(error) => {
            println!("Could not {what}: {error}");
            Outcome::Failed
        }
    }
}

async fn set(call: Call<'_>) -> Outcome {
    on_filter(&call, "set breakpoint", |filter| {
        filter.announce_held(|tag| println!("blkdebug: Suspended request '{tag}'"));
        filter.set_breakpoint(&call.words[0], &call.words[1])
    })
}

async fn remove(call: Call<'_>) -> Outcome {
    let tag = call.words[0].clone();
    on_filter(&call, &format!("remove breakpoint {tag}"), |filter| filter.remove_breakpoint(&tag))
}

async fn resume(call: Call<'_>) -> Outcome {
    let tag = &call.words[0];
    on_filter(&call, "resume request", |filter| {
        let resumed = filter.resume(tag);
        if resumed.is_ok() {
            println!("blkdebug: Resuming request '{tag}'");
        }
        resumed
    })
}

async fn wait(call: Call<'_>) -> Outcome {
    let tag = call.words[0].clone();
    let Some(node) = call.session.node().and_then(blkdebug) else {
        println!("Could not wait for request: {}", BlockError::os(libc::ENOTSUP));
        return Outcome::Failed;
    };
    let Some(filter) = node.downcast::<Blkdebug>() else { return Outcome::Failed };
    match call.session.while_pending(filter.wait_suspended(&tag)).await {
        Some(()) => Outcome::Done,
        None => {
            println!("Could not wait for request: none is under way");
            Outcome::Failed
        }
    }
}
