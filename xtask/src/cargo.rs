//! Calling cargo.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, ensure};
use rhea_boot_tests::{repository, target_dir};

/// The cargo that runs us, in the repository's root.
pub fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(repository());
    // What cargo tells of us must not reach build scripts: some are run again when it changes, as it does between a call
    // from here and one by hand.
    for (name, _) in std::env::vars_os() {
        let is_ours = ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_CRATE_", "CARGO_BIN_", "CARGO_PRIMARY_"];
        if name.to_str().is_some_and(|name| is_ours.iter().any(|prefix| name.starts_with(prefix))) {
            command.env_remove(name);
        }
    }
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
