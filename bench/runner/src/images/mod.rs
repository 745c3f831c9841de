//! The image tools beside QEMU's: the same command lines on the same files, in turns on the same host.
//!
//! Source files are in the page cache before each run, and the target's file is there from the run before: what is
//! measured is the tools, not how fast the host finds fresh memory. Each side's targets are compared with the source by
//! the other side's tool at the end.

mod cases;
mod material;
mod process;
mod serve;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use rhea_boot_tests::target_dir;

use crate::statistics::{Ratio, geometric_mean, median};
use cases::Case;
use process::Cost;

/// Whose tools.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Rhea,
    Qemu,
}

/// Where both sides' tools are.
#[derive(Debug)]
struct Tools {
    /// A folder with links to Rhea.
    rhea: PathBuf,
    /// The folder with QEMU's tools.
    qemu: Option<PathBuf>,
}

impl Tools {
    fn path(&self, side: Side, tool: &str) -> PathBuf {
        match (side, &self.qemu) {
            (Side::Qemu, Some(folder)) => folder.join(tool),
            _ => self.rhea.join(tool),
        }
    }

    fn sides(&self) -> &'static [Side] {
        if self.qemu.is_some() { &[Side::Rhea, Side::Qemu] } else { &[Side::Rhea] }
    }
}

/// What to measure.
#[derive(Debug, Clone)]
pub struct ImagePlan {
    /// Rhea's program.
    pub rhea: PathBuf,
    /// The folder with the peer's tools, if they are installed.
    pub qemu: Option<PathBuf>,
    /// How many times each runs.
    pub rounds: usize,
    /// Cases whose names begin so; all if empty.
    pub cases: Vec<String>,
}

/// A case's costs, round by round.
struct Measured {
    case: &'static str,
    rhea: Vec<Cost>,
    qemu: Vec<Cost>,
}

impl Measured {
    /// How many times faster than the peer, if there is one.
    fn ratio(&self) -> Option<Ratio> {
        let seconds = |costs: &[Cost]| costs.iter().map(|cost| cost.seconds).collect::<Vec<_>>();
        (!self.qemu.is_empty()).then(|| Ratio::new(&seconds(&self.rhea), &seconds(&self.qemu)))
    }
}

/// Measures and returns the report as Markdown.
pub fn run(plan: &ImagePlan) -> anyhow::Result<String> {
    let folder = target_dir().join("bench/images");
    std::fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let tools = Tools { rhea: links(&plan.rhea, &folder)?, qemu: plan.qemu.clone() };
    eprintln!("bench: making the images in {}", folder.display());
    material::make(&folder, &tools)?;
    let wanted = |case: &Case| {
        plan.cases.is_empty() || plan.cases.iter().any(|prefix| case.name.starts_with(prefix.as_str()))
    };
    let mut all = Vec::new();
    for case in cases::ALL.iter().filter(|case| wanted(case)) {
        let measured = measure(case, &folder, &tools, plan.rounds).with_context(|| case.name.to_owned())?;
        match measured.ratio() {
            Some(ratio) => eprintln!("bench: {}: {:.2} times faster", case.name, ratio.median),
            None => eprintln!("bench: {}", case.name),
        }
        all.push(measured);
    }
    ensure!(!all.is_empty(), "no such case");
    Ok(report(&all))
}

/// Links with the tools' names to Rhea.
fn links(rhea: &Path, folder: &Path) -> anyhow::Result<PathBuf> {
    let links = folder.join("tools");
    std::fs::create_dir_all(&links)?;
    for tool in ["qemu-img", "qemu-io", "qemu-nbd"] {
        let link = links.join(tool);
        let _ = std::fs::remove_file(&link);
        std::os::unix::fs::symlink(rhea, &link)
            .with_context(|| format!("cannot create {}", link.display()))?;
    }
    Ok(links)
}

fn measure(case: &Case, folder: &Path, tools: &Tools, rounds: usize) -> anyhow::Result<Measured> {
    let mut measured = Measured { case: case.name, rhea: Vec::new(), qemu: Vec::new() };
    // The first round warms caches up and makes the targets; it does not count.
    for round in 0..=rounds {
        let mut sides = tools.sides().to_vec();
        sides.rotate_left(round % tools.sides().len());
        for side in sides {
            let cost = case.run(side, folder, tools)?;
            if round > 0 {
                match side {
                    Side::Rhea => measured.rhea.push(cost),
                    Side::Qemu => measured.qemu.push(cost),
                }
            }
        }
    }
    case.verify(folder, tools)?;
    Ok(measured)
}

fn report(all: &[Measured]) -> String {
    let mut text = String::from(
        "| images | Rhea | QEMU | times faster (spread) | processor, of QEMU's | resident, Rhea | QEMU |\n\
         |---|---|---|---|---|---|---|\n",
    );
    let mut ratios = Vec::new();
    for measured in all {
        let figure = |costs: &[Cost], of: fn(&Cost) -> f64| median(&costs.iter().map(of).collect::<Vec<_>>());
        let (wall, processor, resident): (fn(&Cost) -> f64, fn(&Cost) -> f64, fn(&Cost) -> f64) =
            (|c| c.seconds, |c| c.processor, |c| c.resident as f64 / f64::from(1 << 20));
        let _ = write!(text, "| {} | {} | ", measured.case, time(figure(&measured.rhea, wall)));
        let Some(ratio) = measured.ratio() else {
            let _ = writeln!(text, "– | – | – | {:.1} MiB | – |", figure(&measured.rhea, resident));
            continue;
        };
        ratios.push((ratio.median, measured.case));
        let share = figure(&measured.rhea, processor) / figure(&measured.qemu, processor);
        let _ = writeln!(
            text,
            "{} | {:.2} ({:.2}–{:.2}) | {} | {:.1} MiB | {:.1} MiB |",
            time(figure(&measured.qemu, wall)),
            ratio.median,
            ratio.least,
            ratio.greatest,
            if share.is_finite() { format!("{share:.2}") } else { "–".into() },
            figure(&measured.rhea, resident),
            figure(&measured.qemu, resident),
        );
    }
    if let Some((worst, name)) = ratios.iter().min_by(|a, b| a.0.total_cmp(&b.0)) {
        let mean = geometric_mean(&ratios.iter().map(|(ratio, _)| *ratio).collect::<Vec<_>>());
        let _ = writeln!(
            text,
            "\nimages: {mean:.2} times faster in the geometric mean; worst {name} with {worst:.2}"
        );
    }
    text
}

fn time(seconds: f64) -> String {
    if seconds < 0.1 { format!("{:.2} ms", seconds * 1e3) } else { format!("{seconds:.2} s") }
}
