//! Rhea and QEMU side by side: the same kernel, the same initramfs, the same machine, in turns on the same host.
//!
//! Each round runs every emulator once; a figure is the median over the rounds, and a ratio's spread is the least and
//! greatest ratio of one round. Guests time themselves (a case's own clock) and prove what they computed (a checksum
//! that must be the same everywhere). Nothing here passes or fails: it measures.

mod guest;
mod host;
mod images;
mod statistics;
mod table;

use std::path::PathBuf;

use anyhow::Context;
use rhea_boot_tests::kernels::Emulator;

pub use guest::{Machine, Round};
pub use images::{ImagePlan, run as run_images};
pub use statistics::{geometric_mean, median};

/// What to measure.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Rhea's program.
    pub rhea: PathBuf,
    /// The peer's program, if there is one.
    pub qemu: Option<PathBuf>,
    /// How many times each runs.
    pub rounds: usize,
    /// Cases by name; all if empty.
    pub cases: Vec<String>,
    /// Measure the host's own run of the cases too, where the guest has the host's architecture.
    pub native: bool,
    /// What is booted.
    pub machine: Machine,
}

/// Measures and returns the report as Markdown.
pub fn run(plan: &Plan) -> anyhow::Result<String> {
    let program = guest::build(plan.machine)?;
    let image = guest::initramfs(plan.machine, &program)?;
    let mut emulators = vec![Emulator::Rhea(plan.rhea.clone())];
    emulators.extend(plan.qemu.clone().map(Emulator::Qemu));
    let mut rounds: Vec<Vec<Round>> = vec![Vec::new(); emulators.len()];
    for round in 1..=plan.rounds {
        // In turns, and not always the same one first.
        let mut order: Vec<usize> = (0..emulators.len()).collect();
        order.rotate_left(round % emulators.len());
        for index in order {
            let name = guest::name(&emulators[index]);
            eprintln!("bench: round {round} of {}: {name}", plan.rounds);
            let measured = guest::measure(plan.machine, &emulators[index], &image, &plan.cases)
                .with_context(|| format!("round {round} of {name}"))?;
            rounds[index].push(measured);
        }
    }
    let native = if plan.native && plan.machine == Machine::Pc {
        Some(guest::native(&program, &plan.cases)?)
    } else {
        None
    };
    table::report(&rounds, native.as_ref())
}
