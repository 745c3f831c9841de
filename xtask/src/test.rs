//! `cargo xtask test`: everything that proves Rhea right, in one command.

use std::time::{Duration, Instant};

use rhea_boot_tests::firmware::edk2_riscv64;
use rhea_boot_tests::kernels::Guest;

use crate::cargo::{build_rhea, cargo, run};
use crate::{demo, lint, packages};

/// Compilers for the guest programs, for 64 and 32 bits; disassemblers that ours are compared with; programs that talk to
/// our NBD server and client.
const PACKAGES: &[&str] = &[
    "gcc",
    "binutils",
    "binutils-riscv64-linux-gnu",
    "libc6-dev",
    "libc6-dev-i386",
    "gcc-riscv64-linux-gnu",
    "libc6-dev-riscv64-cross",
    "u-boot-qemu",
    "libnbd-bin",
    "nbdkit",
    "procps",
];

/// How often the boot that is repeated is repeated.
const REPETITIONS: &str = "RHEA_TEST_REPETITIONS";

/// What has been done and how long it took.
#[derive(Default)]
struct Steps(Vec<(&'static str, Duration)>);

impl Steps {
    /// Does a step; its time counts even if it fails.
    fn step<T>(&mut self, name: &'static str, act: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
        println!("test: {name}");
        let start = Instant::now();
        let result = act();
        self.0.push((name, start.elapsed()));
        result
    }

    fn print(&self) {
        let total: Duration = self.0.iter().map(|s| s.1).sum();
        println!("test: seconds by step");
        for (name, time) in self.0.iter().chain([&("in all", total)]) {
            println!("{:8.1}  {name}", time.as_secs_f64());
        }
    }
}

/// Installs what is needed, obtains the guests, and runs lints and tests; a filter selects tests by name.
pub fn run_tests(filter: Option<&str>) -> anyhow::Result<()> {
    let mut steps = Steps::default();
    let result = run_steps(filter, &mut steps);
    steps.print();
    result
}

fn run_steps(filter: Option<&str>, steps: &mut Steps) -> anyhow::Result<()> {
    steps.step("packages and guests", || {
        packages::install(PACKAGES)?;
        packages::install_32_bit_compiler()?;
        packages::install_image_tools()?;
        packages::install_ssh_server()?;
        packages::install_opensbi()?;
        packages::install_user_mode()?;
        for guest in Guest::ALL {
            println!("guest {}: {}, {}", guest.name(), guest.kernel()?.display(), guest.busybox()?.display());
        }
        println!("firmware: {}", edk2_riscv64()?[0].display());
        Ok(())
    })?;
    if filter.is_none() {
        steps.step("lint", || {
            packages::install_component("fmt", "rustfmt")?;
            lint::run()
        })?;
        steps.step("clippy", || {
            packages::install_component("clippy", "clippy")?;
            run(cargo().args([
                "clippy",
                "--workspace",
                "--all-targets",
                "--quiet",
                "--",
                "--deny",
                "warnings",
            ]))
        })?;
    }
    let rhea = steps.step("release build", build_rhea)?;
    steps.step("building the tests", || run(cargo().args(["test", "--workspace", "--no-run", "--quiet"])))?;
    let tests = |arguments: &[&str]| {
        let mut tests = cargo();
        tests.arg("test").args(arguments).args(filter);
        if std::env::var_os(REPETITIONS).is_none() {
            tests.env(REPETITIONS, "20");
        }
        run(tests.env("RHEA_BINARY", &rhea))
    };
    // There, what is ignored needs what we have just obtained; elsewhere it is a measurement.
    let boots = "rhea-boot-tests";
    steps.step("unit and integration tests", || tests(&["--workspace", "--exclude", boots, "--"]))?;
    steps.step("ROM programs and boots", || tests(&["--package", boots, "--", "--include-ignored"]))?;
    if filter.is_none() {
        steps.step("demo", || demo::run(demo::Mode::Check, false))?;
        steps.step("built-in demo", || demo::run(demo::Mode::Check, true))?;
    }
    Ok(())
}
