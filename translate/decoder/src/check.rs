//! What only shows when instructions are seen together: overlaps, precedence, words that are taken by nobody.

use std::collections::HashMap;

use crate::cube::{intersect, subtract};
use crate::emit::{camel, method, trait_name};
use crate::error::{Error, Findings, Place};
use crate::table::{Pattern, Table};

/// Which instruction goes first where two take the same word.
pub(crate) struct Precedence {
    /// For each pattern, all that it goes before.
    beats: Vec<Vec<bool>>,
    /// All patterns, those that go before others first.
    pub(crate) order: Vec<usize>,
}

impl Precedence {
    /// Follows `first` groups and `over`, also by way of a third instruction; a circle is a finding.
    pub(crate) fn new(patterns: &[Pattern], findings: &mut Findings) -> Self {
        let mut next: Vec<Vec<usize>> = patterns.iter().map(|p| p.over.clone()).collect();
        for (index, pattern) in patterns.iter().enumerate() {
            let Some((group, place)) = pattern.group else { continue };
            let later = |other: &Pattern| other.group.is_some_and(|(g, at)| g == group && at > place);
            next[index].extend((0..patterns.len()).filter(|other| later(&patterns[*other])));
        }
        let beats: Vec<Vec<bool>> = (0..patterns.len()).map(|start| reachable(start, &next)).collect();
        for (index, pattern) in patterns.iter().enumerate() {
            if beats[index][index] {
                findings.add(
                    &pattern.place,
                    format!("{:?} is said to go before itself, by way of others", pattern.name),
                );
            }
        }
        Self { order: order(&next), beats }
    }

    fn beats(&self, this: usize, that: usize) -> bool {
        self.beats[this].get(that).copied().unwrap_or(false)
    }
}

/// Empty if nothing is reachable.
fn reachable(start: usize, next: &[Vec<usize>]) -> Vec<bool> {
    if next[start].is_empty() {
        return vec![false; next.len()];
    }
    let mut seen = vec![false; next.len()];
    let mut open = next[start].clone();
    while let Some(index) = open.pop() {
        if !seen[index] {
            seen[index] = true;
            open.extend(&next[index]);
        }
    }
    seen
}

/// A topological order that keeps the table's where it may.
fn order(next: &[Vec<usize>]) -> Vec<usize> {
    let mut before = vec![0; next.len()];
    next.iter().flatten().for_each(|index| before[*index] += 1);
    let mut ready: std::collections::BTreeSet<usize> = (0..next.len()).filter(|i| before[*i] == 0).collect();
    let mut order = Vec::new();
    while let Some(index) = ready.pop_first() {
        order.push(index);
        for later in &next[index] {
            before[*later] -= 1;
            if before[*later] == 0 {
                ready.insert(*later);
            }
        }
    }
    order
}

/// Notes everything wrong between instructions.
pub(crate) fn check(table: &Table, precedence: &Precedence, findings: &mut Findings) {
    let overlaps = overlaps(table, precedence, findings);
    unreachable(table, precedence, &overlaps, findings);
    areas(table, findings);
    needless(table, findings);
    identifiers(table, findings);
    unused(table, findings);
}

/// Formats and fields that nothing uses: most likely a line was forgotten.
fn unused(table: &Table, findings: &mut Findings) {
    for (index, format) in table.formats.iter().enumerate() {
        if !table.patterns.iter().any(|pattern| pattern.format == index) {
            findings.add(&format.place, format!("format {:?} is never used", format.name));
        }
    }
    for (index, field) in table.fields.iter().enumerate() {
        if !table.uses(index) {
            findings.add(&field.place, format!("field {:?} is never used", field.name));
        }
    }
}

/// Types that every generated decoder has.
const OWN_TYPES: &[&str] = &[
    "At",
    "Displayed",
    "Encoding",
    "Feature",
    "Features",
    "Instruction",
    "Option",
    "Translate",
    "Translator",
];

/// Names that differ in the table but not in Rust.
fn identifiers(table: &Table, findings: &mut Findings) {
    let mut types: HashMap<String, &str> = OWN_TYPES.iter().map(|name| ((*name).to_owned(), *name)).collect();
    let traits = table.patterns.iter().map(|pattern| trait_name(&pattern.place.file));
    types.extend(traits.map(|name| (name, "a table's trait")));
    let kinds = table.kinds.iter().map(|kind| (&kind.place, kind.name.as_str()));
    let formats = table.formats.iter().filter(|f| !f.fields.is_empty()).map(|f| (&f.place, f.name.as_str()));
    unique(kinds.chain(formats), camel, &mut types, findings);
    let patterns = table.patterns.iter().map(|pattern| (&pattern.place, pattern.name.as_str()));
    unique(patterns.clone(), camel, &mut HashMap::new(), findings);
    unique(patterns, method, &mut HashMap::new(), findings);
    unique(table.features.iter().map(|f| (&f.place, f.name.as_str())), camel, &mut HashMap::new(), findings);
    unique(table.fields.iter().map(|f| (&f.place, f.name.as_str())), method, &mut HashMap::new(), findings);
}

fn unique<'a>(
    names: impl Iterator<Item = (&'a Place, &'a str)>,
    rust: fn(&str) -> String,
    taken: &mut HashMap<String, &'a str>,
    findings: &mut Findings,
) {
    for (place, name) in names {
        let rust = rust(name);
        if let Some(other) = taken.get(&rust) {
            findings.add(place, format!("{name:?} becomes {rust} in Rust, as {other:?} does"));
        }
        taken.insert(rust, name);
    }
}

/// Pairs that share words. Those without precedence are findings.
fn overlaps(table: &Table, precedence: &Precedence, findings: &mut Findings) -> Vec<(usize, usize)> {
    let mut pairs = Vec::new();
    for (j, b) in table.patterns.iter().enumerate() {
        for (i, a) in table.patterns[..j].iter().enumerate() {
            if a.width != b.width || a.fixed.intersect(b.fixed).is_none() {
                continue;
            }
            let Some(shared) = intersect(&a.cubes, &b.cubes) else { continue };
            match table.exclusions.together(&b.place, &a.condition, &b.condition) {
                Ok(false) => continue,
                Ok(true) => {}
                Err(error) => {
                    findings.take::<()>(Err(error));
                    continue;
                }
            }
            pairs.push((i, j));
            if !precedence.beats(i, j) && !precedence.beats(j, i) {
                findings.add(&b.place, format!(
                    "{:?} and {:?} ({}) both take {}; say with \"over\" or in a \"first\" group which goes first",
                    b.name, a.name, a.place, shared.picture(a.width)
                ));
            }
        }
    }
    pairs
}

/// Instructions whose words are all taken by others that go first.
fn unreachable(table: &Table, precedence: &Precedence, overlaps: &[(usize, usize)], findings: &mut Findings) {
    for (index, pattern) in table.patterns.iter().enumerate() {
        let others = overlaps.iter().filter_map(|(i, j)| match (*i == index, *j == index) {
            (true, _) => Some(*j),
            (_, true) => Some(*i),
            _ => None,
        });
        // Only those count that are there whenever this one is.
        let first = |other: &usize| {
            let there = table.exclusions.possible(
                &pattern.place,
                &pattern.condition,
                &table.patterns[*other].condition,
            );
            precedence.beats(*other, index) && there == Ok(false)
        };
        let others: Vec<usize> = others.filter(first).collect();
        let taken = others.iter().flat_map(|other| &table.patterns[*other].cubes);
        if !others.is_empty() && subtract(&pattern.cubes, taken).is_some_and(|left| left.is_empty()) {
            let names: Vec<String> =
                others.iter().map(|other| format!("{:?}", table.patterns[*other].name)).collect();
            findings.add(
                &pattern.place,
                format!("{:?} is never reached: {} goes first everywhere", pattern.name, names.join(", ")),
            );
        }
    }
}

fn areas(table: &Table, findings: &mut Findings) {
    for area in &table.areas {
        let patterns = table.patterns.iter().filter(|p| p.width == area.width);
        if !area.covered {
            for pattern in patterns {
                if let Some(shared) = intersect(&pattern.cubes, &[area.cube]) {
                    findings.add(
                        &pattern.place,
                        format!(
                            "{:?} takes {}, which {} reserves",
                            pattern.name,
                            shared.picture(area.width),
                            area.place
                        ),
                    );
                }
            }
            continue;
        }
        let reserved = table.areas.iter().filter(|a| !a.covered && a.width == area.width).map(|a| &a.cube);
        let taken = patterns.flat_map(|p| &p.cubes).filter(|cube| cube.intersect(area.cube).is_some());
        match subtract(&[area.cube], taken.chain(reserved)) {
            None => findings.add(&area.place, "the area is too involved to be checked; split it"),
            Some(left) => {
                if let Some(gap) = left.iter().min_by_key(|cube| cube.mask.count_ones()) {
                    findings.add(
                        &area.place,
                        format!("nothing takes {} and nothing reserves it", gap.picture(area.width)),
                    );
                }
            }
        }
    }
}

/// An `over` that decides nothing is a mistake about one of the two.
fn needless(table: &Table, findings: &mut Findings) {
    for pattern in &table.patterns {
        for other in pattern.over.iter().map(|index| &table.patterns[*index]) {
            if pattern.width != other.width || intersect(&pattern.cubes, &other.cubes).is_none() {
                findings.take::<()>(Err(Error::new(
                    &pattern.place,
                    format!("{:?} goes over {:?}, but they share no word", pattern.name, other.name),
                )));
            }
        }
    }
}
