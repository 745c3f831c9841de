//! Calling cargo.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, ensure};
use rhea_boot_tests::{repository, target_dir};

/// The cargo that runs us, in the repository's root.
pub fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(repository());
    command
}

/// Runs a command on our own terminal.
pub fn run(command: &mut Command) -> anyhow::Result<()> {
    let name = command.get_program().to_string_lossy().into_owned();
    let status = command.status().with_context(|| format!("cannot run {name}"))?;
    let arguments: Vec<_> = command.get_args().map(|a| a.to_string_lossy().into_owned()).collect();
    ensure!(status.success(), "{name} {} failed ({status})", arguments.join(" "));
    Ok(())
}

/// Builds Rhea for release and returns the program's path.
pub fn build_rhea() -> anyhow::Result<PathBuf> {
    run(cargo().args(["build", "--release", "--package", "rhea"]))?;
    Ok(target_dir().join("release/rhea"))
}
