//! Generates the decoder from `tables/`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

fn main() -> ExitCode {
    let output = std::env::var_os("OUT_DIR").map(PathBuf::from).unwrap_or_default().join("instructions.rs");
    match rhea_decoder::build(Path::new("tables"), &output) {
        Ok(()) => ExitCode::SUCCESS,
        Err(errors) => {
            eprintln!("{errors}");
            ExitCode::FAILURE
        }
    }
}
