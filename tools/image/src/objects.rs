//! `--object`

use rhea_block::{BlockError, Registry};
use rhea_options::Options;

use crate::failure::{Failure, Outcome};

/// Defines one object.
pub(crate) fn define(_registry: &Registry, text: &str) -> Outcome<()> {
    let mut options = Options::parse(text, Some("qom-type")).map_err(BlockError::from)?;
    let kind: String = options.take("qom-type").map_err(BlockError::from)?.unwrap_or_default();
    Err(Failure::new(format!("Parameter 'qom-type' does not accept value '{kind}'")))
}
