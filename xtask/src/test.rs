//! `cargo xtask test`: everything that proves Rhea right, in one command.

use rhea_boot_tests::kernels::Guest;

use crate::cargo::{build_rhea, cargo, run};
use crate::{lint, packages};

/// Compilers for the guest programs, for 64 and 32 bits.
const PACKAGES: &[&str] = &["gcc", "binutils", "libc6-dev", "gcc-multilib", "libc6-dev-i386"];

/// How often the boot that is repeated is repeated.
const REPETITIONS: &str = "RHEA_TEST_REPETITIONS";

/// Installs what is needed, obtains the guests, and runs lints and tests; a filter selects tests by name.
pub fn run_tests(filter: Option<&str>) -> anyhow::Result<()> {
    packages::install(PACKAGES)?;
    for guest in Guest::ALL {
        println!("guest {}: {}, {}", guest.name(), guest.kernel()?.display(), guest.busybox()?.display());
    }
    if filter.is_none() {
        lint::run()?;
        run(cargo().args(["clippy", "--workspace", "--all-targets", "--quiet", "--", "--deny", "warnings"]))?;
    }
    let rhea = build_rhea()?;
    let mut tests = cargo();
    tests.args(["test", "--workspace", "--", "--include-ignored"]);
    tests.args(filter);
    if std::env::var_os(REPETITIONS).is_none() {
        tests.env(REPETITIONS, "20");
    }
    run(tests.env("RHEA_BINARY", rhea))
}
