//! The repository's own commands: `cargo xtask COMMAND`.

mod bench;
mod cargo;
mod debian_disk;
mod demo;
mod lint;
mod packages;
mod test;

use std::process::ExitCode;

const USAGE: &str = "\
usage: cargo xtask COMMAND

  demo [--check] [--builtin]
                     boot Debian's kernel to a shell (--check: unattended, exit 0 if the shell answered;
                     --builtin: the small guest that is booted where Debian's packages cannot be had)
  test [FILTER]      install what the tests need and run all of them
  bench [--rounds N] [--install-peer] [--no-native] [--machines | --riscv64 | --images]
        [CASE…]      measure Rhea beside QEMU, if that is installed: machines (qemu-system-x86_64), riscv64
                     (qemu-system-riscv64), images (qemu-img, qemu-nbd)
  debian-disk [--peer]
                     install Debian for riscv64 on a virtio disk, in the guest, and boot it to its login
                     (--peer: on QEMU)
  lint               layering, file sizes, unsafe code, formatting
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match words.as_slice() {
        ["demo", options @ ..] if options.iter().all(|o| ["--check", "--builtin"].contains(o)) => {
            let mode = if options.contains(&"--check") { demo::Mode::Check } else { demo::Mode::Interactive };
            demo::run(mode, options.contains(&"--builtin"))
        }
        ["test", filters @ ..] if filters.len() <= 1 => test::run_tests(filters.first().copied()),
        ["bench", options @ ..] => bench::run(options),
        ["debian-disk"] => debian_disk::run_disk(false),
        ["debian-disk", "--peer"] => debian_disk::run_disk(true),
        ["lint"] => lint::run(),
        ["help" | "--help" | "-h"] => {
            print!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        _ => {
            eprint!("{USAGE}");
            return ExitCode::FAILURE;
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
