//! `cargo xtask bench`: Rhea beside QEMU, with ratios.

use std::path::PathBuf;

use anyhow::{Context, bail};
use rhea_bench::Plan;
use rhea_boot_tests::kernels::Emulator;

use crate::cargo::build_rhea;
use crate::packages;

/// Parses the arguments, measures, prints the tables.
pub fn run(arguments: &[&str]) -> anyhow::Result<()> {
    let mut plan = Plan { rhea: PathBuf::new(), qemu: None, rounds: 3, cases: Vec::new(), native: true };
    let mut words = arguments.iter();
    let mut install_peer = false;
    while let Some(word) = words.next() {
        match *word {
            "--rounds" => {
                let count = words.next().and_then(|n| n.parse().ok()).filter(|n| (1..=100).contains(n));
                plan.rounds = count.context("--rounds: expects a number from 1 to 100")?;
            }
            "--install-peer" => install_peer = true,
            "--no-native" => plan.native = false,
            option if option.starts_with('-') => bail!("bench: unknown option {option}"),
            case => plan.cases.push(case.into()),
        }
    }
    packages::install(&["gcc", "libc6-dev"])?;
    if install_peer {
        packages::install_peer()?;
    }
    plan.rhea = build_rhea()?;
    plan.qemu = find_in_path("qemu-system-x86_64");
    match &plan.qemu {
        Some(path) => println!("peer: {} ({})", path.display(), version(&Emulator::Qemu(path.clone()))?),
        None => println!("no qemu-system-x86_64 installed (--install-peer does): Rhea alone"),
    }
    println!("{}", rhea_bench::run(&plan)?);
    Ok(())
}

fn find_in_path(program: &str) -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?).map(|folder| folder.join(program)).find(|p| p.is_file())
}

fn version(emulator: &Emulator) -> anyhow::Result<String> {
    let (Emulator::Rhea(path) | Emulator::Qemu(path)) = emulator;
    let text = rhea_boot_tests::debian::run(std::process::Command::new(path).arg("--version"))?;
    Ok(text.lines().next().unwrap_or_default().into())
}
