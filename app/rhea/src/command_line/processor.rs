//! `-cpu MODEL[,+FEATURE][,-FEATURE][,FEATURE=on|off]…`.

use anyhow::bail;
use rhea_x86_state::model::{CpuModel, list_features, list_models};

use super::Builder;
use crate::config::Target;

/// `-cpu`.
pub fn take(builder: &mut Builder, text: &str) -> anyhow::Result<()> {
    if text.split(',').any(|word| word == "help" || word == "?") {
        builder.say = Some(help());
        return Ok(());
    }
    builder.cpu = Some(parse(builder.target, text)?);
    Ok(())
}

/// The model with its features; a 32-bit target has none with long mode.
pub fn parse(target: Target, text: &str) -> anyhow::Result<CpuModel> {
    if text.is_empty() {
        bail!("a processor model is needed; use -cpu help to list them");
    }
    Ok(match target {
        Target::X86_64 => CpuModel::parse(text)?,
        Target::I386 => CpuModel::parse(&format!("{text},-lm"))?,
    })
}

fn help() -> String {
    let mut text = String::from("processor models:\n");
    for (name, about) in list_models() {
        text += &format!("  {name:<20} {about}\n");
    }
    text += "\nfeatures (+NAME, -NAME, NAME=on|off):\n";
    let mut line = String::from(" ");
    for name in list_features() {
        if line.len() + name.len() > 90 {
            text += &line;
            text.push('\n');
            line = String::from(" ");
        }
        line.push(' ');
        line += name;
    }
    text + &line + "\n"
}
