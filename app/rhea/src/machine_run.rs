//! From [`SystemConfig`] to a running machine: the one place that knows machine, accelerator and back ends together.

use anyhow::bail;

use crate::config::{CpuConfig, SystemConfig, Target};

/// The text of `-cpu help`.
pub fn cpu_help(_target: Target) -> String {
    String::new()
}

/// Refuses unknown models and features.
pub fn check_cpu(_target: Target, _cpu: &CpuConfig) -> anyhow::Result<()> {
    Ok(())
}

/// Builds the machine, runs it to its end and returns the exit status.
pub fn run(_program: &str, _config: &SystemConfig) -> anyhow::Result<u8> {
    bail!("the machine is not wired to this front end yet")
}
