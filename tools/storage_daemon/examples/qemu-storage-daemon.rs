//! The tool as a program of its own, for its tests.

fn main() -> std::process::ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    rhea_storage_daemon::run("qemu-storage-daemon", &arguments).into()
}
