//! `-machine`: the board and its properties.

use anyhow::{anyhow, bail};
use rhea_options::{FromOptions, Options, closest, options};

use super::Builder;
use crate::targets::{BoardSpec, MachineConfig, Target};

options! {
    /// What `-machine` takes for every board.
    struct CommonOptions(implied "type") {
        /// the board
        "type" => board: Option<String>,
        /// accelerators to try in order, separated by colons
        "accel" => accel: Option<String>,
    }
}

/// `-machine`: repeated ones add up.
pub fn take(builder: &mut Builder, text: &str) -> anyhow::Result<()> {
    let options = Options::parse(text, CommonOptions::IMPLIED)?;
    if options.wants_help() {
        builder.say = Some(match options.get("type") {
            None => list(builder.target),
            Some(name) => {
                let board = find(builder.target, name)?;
                format!("machine properties:\n{}{}", CommonOptions::help(), (board.help)())
            }
        });
        return Ok(());
    }
    if options.get("accel") == Some("") {
        bail!("parameter 'accel' needs a name");
    }
    let mut all = builder.machine.clone();
    all.merge(options);
    // Checked now, for an error that names this argument.
    if let Some(board) = chosen(builder.target, &all)? {
        configure(board, all.clone())?;
    }
    builder.machine = all;
    Ok(())
}

/// The board that is asked for, or the target's default.
fn chosen(target: Target, options: &Options) -> anyhow::Result<Option<&'static BoardSpec>> {
    match options.get("type").or(target.default_board) {
        None => Ok(None),
        Some(name) => find(target, name).map(Some),
    }
}

fn find(target: Target, name: &str) -> anyhow::Result<&'static BoardSpec> {
    target.board(name).ok_or_else(|| {
        let names = || target.boards.iter().map(|board| board.name);
        if (target.board_not_yet)(name) {
            let there: Vec<_> = names().collect();
            let verb = if there.len() == 1 { "is" } else { "are" };
            return anyhow!("machine '{name}' is not implemented yet; {} {verb}", there.join(" and "));
        }
        match closest(name, names()) {
            Some(near) => anyhow!("no machine '{name}'; did you mean '{near}'?"),
            None => anyhow!("no machine '{name}'; use -machine help to list them"),
        }
    })
}

fn configure(board: &BoardSpec, mut options: Options) -> anyhow::Result<MachineConfig> {
    options.take::<String>("type")?;
    options.take::<String>("accel")?;
    (board.take)(options)
}

/// The board with its properties, once every option is read.
pub fn finish(target: Target, options: &Options) -> anyhow::Result<(&'static BoardSpec, MachineConfig)> {
    let Some(board) = chosen(target, options)? else {
        let names: Vec<_> = target.boards.iter().map(|board| board.name).collect();
        bail!("this target has no default machine yet: name one with -machine ({})", names.join(", "));
    };
    Ok((board, configure(board, options.clone())?))
}

/// The accelerators that `accel=` names.
pub fn accelerators(options: &Options) -> Vec<String> {
    options.get("accel").iter().flat_map(|a| a.split(':')).map(str::to_owned).collect()
}

fn list(target: Target) -> String {
    let mut text = String::from("supported machines:\n");
    for board in target.boards {
        let default = if Some(board.name) == target.default_board { " (default)" } else { "" };
        text += &format!("{:<20} {}{default}\n", board.name, board.about);
    }
    text
}
