//! `-cpu MODEL[,+FEATURE][,-FEATURE][,FEATURE=on|off]…`.

use anyhow::bail;

use super::Builder;
use crate::targets::{CpuConfig, Target};

/// `-cpu`.
pub fn take(builder: &mut Builder, text: &str) -> anyhow::Result<()> {
    if text.split(',').any(|word| word == "help" || word == "?") {
        builder.say = Some((builder.target.cpu_help)());
        return Ok(());
    }
    builder.cpu = Some(parse(builder.target, text)?);
    Ok(())
}

/// The model with its features.
pub fn parse(target: Target, text: &str) -> anyhow::Result<CpuConfig> {
    if text.is_empty() {
        bail!("a processor model is needed; use -cpu help to list them");
    }
    (target.parse_cpu)(text)
}
