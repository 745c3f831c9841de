//! Who may depend on whom: floors by the crate's folder, from `cargo metadata`.

use std::path::Path;

use anyhow::{Context, bail};
use rhea_boot_tests::debian::run;
use rhea_boot_tests::repository;
use serde_json::Value;

use crate::cargo::cargo;

/// Floors from the lowest. A crate may depend on its own floor and on those before it.
const FLOORS: &[&str] = &[
    "support",
    "vm",
    "translate",
    "guest",
    "accel",
    "backends",
    "devices",
    "machines",
    "control",
    "user",
    "tools",
    "app",
    "tests",
    "bench",
    "xtask",
];

/// Floors that may see less than what lies below them.
const NARROW: &[(&str, &[&str])] = &[
    ("support", &["support"]),
    ("vm", &["support", "vm"]),
    ("backends", &["support", "backends"]),
    ("devices", &["support", "vm", "backends", "devices"]),
];

/// A workspace crate and the workspace crates it depends on.
struct Crate {
    name: String,
    floor: String,
    dependencies: Vec<String>,
}

/// Returns a line for every forbidden dependency.
pub fn check() -> anyhow::Result<Vec<String>> {
    let text = run(cargo().args(["metadata", "--format-version", "1", "--no-deps"]))?;
    let metadata: Value = serde_json::from_str(&text)?;
    let crates = workspace(&metadata, &repository())?;
    Ok(violations(&crates))
}

fn workspace(metadata: &Value, root: &Path) -> anyhow::Result<Vec<Crate>> {
    let packages = metadata["packages"].as_array().context("cargo metadata lists no packages")?;
    packages
        .iter()
        .map(|package| {
            let name = package["name"].as_str().context("a package has no name")?;
            let manifest = package["manifest_path"].as_str().context("a package has no manifest")?;
            let floor = Path::new(manifest)
                .strip_prefix(root)
                .ok()
                .and_then(|p| p.components().next())
                .map(|c| c.as_os_str().to_string_lossy().into_owned())
                .with_context(|| format!("{manifest} lies outside the repository"))?;
            if !FLOORS.contains(&floor.as_str()) {
                bail!("crate {name} lies in {floor}/, which is no floor");
            }
            let dependencies = package["dependencies"].as_array().map(Vec::as_slice).unwrap_or_default();
            let dependencies = dependencies
                .iter()
                // Only dependencies by path are our own crates.
                .filter(|d| d["path"].is_string())
                .filter_map(|d| d["name"].as_str().map(str::to_owned))
                .collect();
            Ok(Crate { name: name.into(), floor, dependencies })
        })
        .collect()
}

fn violations(crates: &[Crate]) -> Vec<String> {
    let mut findings = Vec::new();
    for from in crates {
        for dependency in &from.dependencies {
            let Some(to) = crates.iter().find(|c| c.name == *dependency) else { continue };
            if !allowed(&from.floor, &to.floor) {
                findings.push(format!(
                    "layering: {} ({}/) must not depend on {} ({}/)",
                    from.name, from.floor, to.name, to.floor
                ));
            }
        }
    }
    findings
}

fn allowed(from: &str, to: &str) -> bool {
    if let Some((_, visible)) = NARROW.iter().find(|(floor, _)| *floor == from) {
        return visible.contains(&to);
    }
    let rank = |floor: &str| FLOORS.iter().position(|f| *f == floor);
    rank(to) <= rank(from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floors_see_only_what_lies_below() {
        assert!(allowed("guest", "translate"));
        assert!(!allowed("translate", "guest"));
        assert!(allowed("devices", "backends"));
        assert!(!allowed("devices", "machines"));
        assert!(!allowed("devices", "accel"));
        assert!(!allowed("devices", "guest"));
        assert!(allowed("app", "control"));
        assert!(!allowed("vm", "devices"));
    }

    #[test]
    fn a_violation_names_both_crates() {
        let make = |name: &str, floor: &str, dependency: &str| Crate {
            name: name.into(),
            floor: floor.into(),
            dependencies: vec![dependency.into()],
        };
        let crates = [make("a", "devices", "b"), make("b", "machines", "serde")];
        assert_eq!(violations(&crates), ["layering: a (devices/) must not depend on b (machines/)"]);
    }
}
