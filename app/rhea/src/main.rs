//! `rhea`: the one binary.
//!
//! What it does is chosen by the name it was started with (`qemu-system-x86_64`, as `rhea links` creates them) or else
//! by its first word (`rhea system-x86_64 …`). Every front end takes the command line of the QEMU program it stands
//! for. Everything the user did wrong is one line on stderr and exit status 1.

mod chardevs;
mod command_line;
mod config;
mod disks;
mod dispatch;
mod flash;
mod machine_run;
mod monitor;
mod run_control;
mod targets;
mod virtio_parts;

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os();
    let program = arguments.next().unwrap_or_default();
    let program = dispatch::base_name(&program);
    let result = collect_text(arguments).and_then(|arguments| dispatch::run(&program, &arguments));
    match result {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            eprintln!("{program}: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The arguments as text. Option values that are no UTF-8 are refused: they could not be told back to the user.
fn collect_text(arguments: std::env::ArgsOs) -> anyhow::Result<Vec<String>> {
    arguments
        .map(|a| {
            a.into_string().map_err(|a| anyhow::anyhow!("argument '{}' is not valid UTF-8", a.display()))
        })
        .collect()
}
