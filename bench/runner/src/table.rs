//! The report.

use std::collections::BTreeMap;
use std::fmt::Write;

use anyhow::ensure;

use crate::guest::{Case, Round};
use crate::statistics::{Ratio, geometric_mean, median};

/// Writes the tables. The first emulator is ours, the second, if there is one, the peer.
pub fn report(rounds: &[Vec<Round>], native: Option<&BTreeMap<String, Case>>) -> anyhow::Result<String> {
    let ours = &rounds[0];
    let peer = rounds.get(1);
    let mut text = String::new();
    machine_table(&mut text, ours, peer)?;
    for suite in ["integer", "float", "system"] {
        suite_table(&mut text, suite, ours, peer, native)?;
    }
    Ok(text)
}

fn figure(rounds: &[Round], of: impl Fn(&Round) -> f64) -> Vec<f64> {
    rounds.iter().map(of).collect()
}

fn machine_table(text: &mut String, ours: &[Round], peer: Option<&Vec<Round>>) -> anyhow::Result<()> {
    writeln!(text, "| machine | Rhea | QEMU | Rhea / QEMU (spread) |\n|---|---|---|---|")?;
    let mib = |r: &Round| r.resident as f64 / (1 << 20) as f64;
    let rows: [(&str, &str, &dyn Fn(&Round) -> f64); 5] = [
        ("start to init", "s", &|r| r.to_init),
        ("of it, start to the kernel's banner", "s", &|r| r.to_banner),
        ("of it, banner to init", "s", &|r| r.to_init - r.to_banner),
        ("resident beyond guest RAM", "MiB", &mib),
        ("idle, of one core", "%", &|r| r.idle * 100.0),
    ];
    for (name, unit, of) in rows {
        let our = figure(ours, of);
        write!(text, "| {name} | {:.2} {unit} | ", median(&our))?;
        match peer {
            Some(peer) => {
                let other = figure(peer, of);
                // Cost, so ours over theirs: less is better.
                let r = Ratio::new(&other, &our);
                let spread = format!("{:.2} ({:.2}–{:.2})", r.median, r.least, r.greatest);
                writeln!(text, "{:.2} {unit} | {spread} |", median(&other))?;
            }
            None => writeln!(text, "– | – |")?,
        }
    }
    let costs: Vec<f64> = ours.iter().filter_map(|r| r.translation).map(|t| t.0).collect();
    if !costs.is_empty() {
        let count = ours.iter().filter_map(|r| r.translation).map(|t| t.1).max().unwrap_or(0);
        let cost = median(&costs) / 1000.0;
        writeln!(text, "| translation, a guest instruction ({count} translated) | {cost:.2} µs | – | – |")?;
    }
    writeln!(text)?;
    Ok(())
}

fn suite_table(
    text: &mut String,
    suite: &str,
    ours: &[Round],
    peer: Option<&Vec<Round>>,
    native: Option<&BTreeMap<String, Case>>,
) -> anyhow::Result<()> {
    let Some(first) = ours.first() else { return Ok(()) };
    let cases: Vec<&String> = first.cases.iter().filter(|(_, c)| c.suite == suite).map(|(n, _)| n).collect();
    if cases.is_empty() {
        return Ok(());
    }
    writeln!(
        text,
        "| {suite} | Rhea s | QEMU s | times faster (spread) | slower than native |\n|---|---|---|---|---|"
    )?;
    let mut ratios = Vec::new();
    for name in cases {
        check_sums(name, ours.iter().chain(peer.into_iter().flatten()), native)?;
        let seconds = |r: &Round| r.cases.get(name).map_or(f64::NAN, |c| c.seconds);
        let our = figure(ours, seconds);
        write!(text, "| {name} | {:.2} | ", median(&our))?;
        match peer {
            Some(peer) => {
                let other = figure(peer, seconds);
                let r = Ratio::new(&our, &other);
                write!(
                    text,
                    "{:.2} | {:.2} ({:.2}–{:.2}) | ",
                    median(&other),
                    r.median,
                    r.least,
                    r.greatest
                )?;
                ratios.push((r.median, name));
            }
            None => write!(text, "– | – | ")?,
        }
        match native.and_then(|n| n.get(name)) {
            Some(native) => writeln!(text, "{:.1}x |", median(&our) / native.seconds)?,
            None => writeln!(text, "– |")?,
        }
    }
    if let Some((worst, name)) = ratios.iter().min_by(|a, b| a.0.total_cmp(&b.0)) {
        let mean = geometric_mean(&ratios.iter().map(|(r, _)| *r).collect::<Vec<_>>());
        writeln!(
            text,
            "\n{suite}: {mean:.2} times faster in the geometric mean; worst {name} with {worst:.2}"
        )?;
    }
    writeln!(text)?;
    Ok(())
}

/// All runs must have computed the same.
fn check_sums<'a>(
    name: &str,
    rounds: impl Iterator<Item = &'a Round>,
    native: Option<&BTreeMap<String, Case>>,
) -> anyhow::Result<()> {
    let mut sums: Vec<&str> = rounds.filter_map(|r| r.cases.get(name)).map(|c| c.checksum.as_str()).collect();
    sums.extend(native.and_then(|n| n.get(name)).map(|c| c.checksum.as_str()));
    sums.sort_unstable();
    sums.dedup();
    ensure!(sums.len() == 1, "{name}: the runs computed different results: {}", sums.join(", "));
    Ok(())
}
