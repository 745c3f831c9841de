//! `cargo xtask lint`: the rules of the repository that rustc and clippy do not know.

mod layering;
mod sources;

use anyhow::bail;

use crate::cargo::{cargo, run as run_command};

/// Runs every check and reports all findings together.
pub fn run() -> anyhow::Result<()> {
    let mut findings = layering::check()?;
    findings.extend(sources::check()?);
    for finding in &findings {
        eprintln!("{finding}");
    }
    let formatted = run_command(cargo().args(["fmt", "--all", "--", "--check", "-l"]));
    if !findings.is_empty() {
        bail!("lint: {} findings", findings.len());
    }
    formatted?;
    println!("lint: layering, file sizes, unsafe code and formatting are in order");
    Ok(())
}
