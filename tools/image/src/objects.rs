//! `--object`

use rhea_block::Registry;
use rhea_block_objects::{add_object, object_help};

use crate::failure::{Failure, Outcome};

/// Defines one object, or prints what there is to define.
pub(crate) fn define(registry: &Registry, text: &str) -> Outcome<()> {
    if let Some(help) = object_help(text) {
        print!("{help}");
        // All was asked that there was to ask.
        return Err(Failure::silent(0));
    }
    add_object(registry.objects(), text)?;
    Ok(())
}
