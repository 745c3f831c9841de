//! `cargo xtask bench`: Rhea beside QEMU, with ratios.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use rhea_bench::{ImagePlan, Machine, Plan};

use crate::cargo::build_rhea;
use crate::packages;

/// What is measured.
#[derive(PartialEq, Eq)]
enum Part {
    All,
    Machines,
    Riscv64,
    Images,
}

/// What the command line asks for.
struct Wanted {
    part: Part,
    rounds: usize,
    install_peer: bool,
    native: bool,
    cases: Vec<String>,
}

/// Parses the arguments, measures, prints the tables.
pub fn run(arguments: &[&str]) -> anyhow::Result<()> {
    let wanted = parse(arguments)?;
    packages::install(&["gcc", "libc6-dev"])?;
    let takes = |part| wanted.part == Part::All || wanted.part == part;
    if takes(Part::Riscv64) {
        packages::install(&["gcc-riscv64-linux-gnu", "libc6-dev-riscv64-cross"])?;
        packages::install_opensbi()?;
    }
    if wanted.install_peer {
        if takes(Part::Machines) {
            packages::install_peer("x86_64")?;
        }
        if takes(Part::Riscv64) {
            packages::install_peer("riscv64")?;
        }
        packages::install_image_tools()?;
    }
    let rhea = build_rhea()?;
    if takes(Part::Images) {
        images(&wanted, &rhea)?;
    }
    if takes(Part::Machines) {
        machines(&wanted, &rhea, Machine::Pc, "qemu-system-x86_64")?;
    }
    if takes(Part::Riscv64) {
        machines(&wanted, &rhea, Machine::Riscv64, "qemu-system-riscv64")?;
    }
    Ok(())
}

fn parse(arguments: &[&str]) -> anyhow::Result<Wanted> {
    let mut wanted =
        Wanted { part: Part::All, rounds: 3, install_peer: false, native: true, cases: Vec::new() };
    let mut words = arguments.iter();
    while let Some(word) = words.next() {
        match *word {
            "--rounds" => {
                let count = words.next().and_then(|n| n.parse().ok()).filter(|n| (1..=100).contains(n));
                wanted.rounds = count.context("--rounds: expects a number from 1 to 100")?;
            }
            "--install-peer" => wanted.install_peer = true,
            "--no-native" => wanted.native = false,
            "--machines" => wanted.part = Part::Machines,
            "--riscv64" => wanted.part = Part::Riscv64,
            "--images" => wanted.part = Part::Images,
            option if option.starts_with('-') => bail!("bench: unknown option {option}"),
            case => wanted.cases.push(case.into()),
        }
    }
    ensure!(
        wanted.cases.is_empty() || wanted.part != Part::All,
        "bench: cases are chosen with --machines, --riscv64 or --images"
    );
    Ok(wanted)
}

fn images(wanted: &Wanted, rhea: &Path) -> anyhow::Result<()> {
    let peer = find_in_path("qemu-img");
    match &peer {
        Some(path) => println!("peer: {} ({})", path.display(), version(path)?),
        None => println!("no qemu-img installed (--install-peer does): Rhea alone"),
    }
    let plan = ImagePlan {
        rhea: rhea.to_owned(),
        qemu: peer.and_then(|path| path.parent().map(Path::to_owned)),
        rounds: wanted.rounds,
        cases: wanted.cases.clone(),
    };
    println!("{}", rhea_bench::run_images(&plan)?);
    Ok(())
}

fn machines(wanted: &Wanted, rhea: &Path, machine: Machine, peer: &str) -> anyhow::Result<()> {
    let qemu = find_in_path(peer);
    match &qemu {
        Some(path) => println!("peer: {} ({})", path.display(), version(path)?),
        None => println!("no {peer} installed (--install-peer does): Rhea alone"),
    }
    let plan = Plan {
        rhea: rhea.to_owned(),
        qemu,
        rounds: wanted.rounds,
        cases: wanted.cases.clone(),
        native: wanted.native,
        machine,
    };
    println!("{}", rhea_bench::run(&plan)?);
    Ok(())
}

fn find_in_path(program: &str) -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?).map(|folder| folder.join(program)).find(|p| p.is_file())
}

fn version(program: &Path) -> anyhow::Result<String> {
    let text = rhea_boot_tests::debian::run(std::process::Command::new(program).arg("--version"))?;
    Ok(text.lines().next().unwrap_or_default().into())
}
