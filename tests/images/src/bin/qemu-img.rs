//! The tool as a program of its own, for the tests.

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    ExitCode::from(rhea_image_tool::run("qemu-img", &arguments))
}
