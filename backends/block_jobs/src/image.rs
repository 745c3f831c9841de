//! `create` and `amend`: jobs that make an image, or change one's options.

use std::sync::Arc;

use rhea_block::{BlockNode, Registry, Result};
use rhea_options::Options;

use crate::job::{Control, run};

/// Creates an image (see [`Registry::create`]).
pub async fn create(
    control: &Arc<Control>,
    registry: &Registry,
    format: &str,
    filename: &str,
    options: Options,
) -> Result<()> {
    run(control, registry.create(format, filename, options, control.progress())).await
}

/// Changes an image's options; `force` allows what may make it unreadable (the last key of an encrypted disk).
pub async fn amend(
    control: &Arc<Control>,
    node: &Arc<BlockNode>,
    options: Options,
    force: bool,
) -> Result<()> {
    run(control, node.driver().amend(options, force, control.progress())).await
}
