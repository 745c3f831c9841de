//! `-cpu MODEL[,+FEATURE][,-FEATURE][,FEATURE=on|off]…`.

use anyhow::bail;
use rhea_options::{OptionValue, Options};

use super::Builder;
use crate::config::CpuConfig;
use crate::machine_run;

/// `-cpu`.
pub fn take(builder: &mut Builder, text: &str) -> anyhow::Result<()> {
    let options = Options::parse(text, Some("model"))?;
    if options.wants_help() {
        builder.say = Some(machine_run::cpu_help(builder.target));
        return Ok(());
    }
    let mut entries = options.entries().iter();
    let Some(model) = entries.next().filter(|e| e.key == "model").and_then(|e| e.value.clone()) else {
        bail!("a processor model comes first; use -cpu help to list them");
    };
    let mut features = Vec::new();
    for entry in entries {
        let (name, on) = match (&entry.value, entry.key.as_bytes()[0]) {
            (None, b'+') => (&entry.key[1..], true),
            (None, b'-') => (&entry.key[1..], false),
            _ => (entry.key.as_str(), bool::from_entry(entry)?),
        };
        if name.is_empty() {
            bail!("expected a feature's name after '{}'", entry.key);
        }
        features.push((name.replace('_', "-"), on));
    }
    let config = CpuConfig { model, features };
    machine_run::check_cpu(builder.target, &config)?;
    builder.cpu = Some(config);
    Ok(())
}
