//! `-machine`.

use anyhow::{anyhow, bail};
use rhea_options::{FromOptions, Options, closest, options};

use super::Builder;
use crate::config::MachineKind;

options! {
    /// `-machine`
    #[derive(Default)]
    pub struct MachineOptions(implied "type") {
        /// the board
        "type" => board: Option<String>,
        /// accelerators to try in order, separated by colons
        "accel" => accel: Option<String>,
    }
}

/// Boards of QEMU for this target that people name most often, to tell "not yet" from "no such thing".
const NOT_YET: &[&str] = &["pc", "isapc", "x-remote", "none", "nitro-enclave"];

impl MachineOptions {
    /// The board, if one was named.
    pub fn kind(&self) -> anyhow::Result<Option<MachineKind>> {
        self.board.as_deref().map(parse_kind).transpose()
    }

    /// The accelerators that `accel=` names.
    pub fn accelerators(&self) -> Vec<String> {
        self.accel.iter().flat_map(|a| a.split(':')).map(str::to_owned).collect()
    }
}

fn parse_kind(name: &str) -> anyhow::Result<MachineKind> {
    let words = || MachineKind::WORDS.iter().map(|(word, _)| *word);
    <MachineKind as rhea_options::OptionValue>::from_text(name).ok_or_else(|| {
        if NOT_YET.contains(&name) || name.starts_with("pc-") {
            anyhow!("machine '{name}' is not implemented yet; q35 and microvm are")
        } else {
            match closest(name, words()) {
                Some(near) => anyhow!("no machine '{name}'; did you mean '{near}'?"),
                None => anyhow!("no machine '{name}'; use -machine help to list them"),
            }
        }
    })
}

/// `-machine`: repeated ones add up.
pub fn take(builder: &mut Builder, text: &str) -> anyhow::Result<()> {
    let options = Options::parse(text, MachineOptions::IMPLIED)?;
    if options.wants_help() {
        builder.say = Some(match options.get("type") {
            None => list(),
            Some(_) => format!("machine properties:\n{}", MachineOptions::help()),
        });
        return Ok(());
    }
    let options = MachineOptions::from_options(options)?;
    options.kind()?;
    if options.accel.as_deref() == Some("") {
        bail!("parameter 'accel' needs a name");
    }
    builder.machine.board = options.board.or(builder.machine.board.take());
    builder.machine.accel = options.accel.or(builder.machine.accel.take());
    Ok(())
}

fn list() -> String {
    let mut text = String::from("supported machines:\n");
    for (word, doc) in MachineKind::WORDS {
        let default = if *word == MachineKind::Q35.word() { " (default)" } else { "" };
        text += &format!("{word:<20} {}{default}\n", doc.concat().trim());
    }
    text
}
