//! The commands: their table, and how a line becomes a call.

mod breakpoints;
mod inspect;
pub mod manage;
mod request_help;
mod requests;
mod zones;

use futures_util::future::LocalBoxFuture;
use rhea_options::{Parsed, getopt};

pub use manage::opening;

use crate::session::Session;

/// What a command did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Its work.
    Done,
    /// It could not; a message is printed.
    Failed,
    /// Asked for the end.
    Quit,
}

/// A command's options and words, taken apart.
pub struct Call<'a> {
    /// The command.
    pub command: &'static Command,
    /// `-P pattern` and the like.
    pub options: Vec<(char, Option<String>)>,
    /// The other words.
    pub words: Vec<String>,
    /// What it works on.
    pub session: &'a mut Session,
}

impl Call<'_> {
    fn has(&self, letter: char) -> bool {
        self.options.iter().any(|(o, _)| *o == letter)
    }

    fn argument(&self, letter: char) -> Option<&str> {
        self.options.iter().rev().find(|(o, _)| *o == letter).and_then(|(_, a)| a.as_deref())
    }

    /// Says how the command is used.
    fn usage(&self) -> Outcome {
        println!("{}", self.command.usage_line(self.command.name));
        Outcome::Failed
    }
}

/// A command of the tool.
pub struct Command {
    /// Its name.
    pub name: &'static str,
    /// A short name.
    pub short: &'static str,
    /// What it takes, for the help.
    pub arguments: &'static str,
    /// What it does, in a few words.
    pub about: &'static str,
    /// More help; empty: none.
    pub details: &'static str,
    /// Words it takes, at least and at most (counting options, as the count comes before they are taken apart).
    pub words: (usize, usize),
    /// Its options, as for `getopt`.
    pub options: &'static str,
    /// Works without an open image.
    pub without_image: bool,
    /// Writes: refused on a read-only image before anything else.
    pub writes: bool,
    /// The work.
    pub run: for<'a> fn(Call<'a>) -> LocalBoxFuture<'a, Outcome>,
}

const MANY: usize = usize::MAX;

impl Command {
    fn usage_line(&self, name: &str) -> String {
        let arguments =
            if self.arguments.is_empty() { String::new() } else { format!(" {}", self.arguments) };
        format!("{name}{arguments} -- {}", self.about)
    }
}

/// All commands, in the order of their names.
pub fn all() -> impl Iterator<Item = &'static Command> {
    let mut commands: Vec<&Command> =
        [manage::COMMANDS, requests::COMMANDS, inspect::COMMANDS, breakpoints::COMMANDS, zones::COMMANDS]
            .into_iter()
            .flatten()
            .collect();
    commands.sort_by_key(|c| c.name);
    commands.into_iter()
}

fn find(name: &str) -> Option<&'static Command> {
    all().find(|c| c.name == name || (!c.short.is_empty() && c.short == name))
}

/// Runs a line.
pub async fn run_line(session: &mut Session, line: &str) -> Outcome {
    let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
    let Some((name, rest)) = words.split_first() else { return Outcome::Done };
    let Some(command) = find(name) else {
        eprintln!("command \"{name}\" not found");
        return Outcome::Failed;
    };
    let writable_lost = session.node().is_some_and(|node| node.is_read_only());
    if session.node().is_none() && !command.without_image {
        eprintln!("no file open, try 'help open'");
        return Outcome::Failed;
    }
    let (least, most) = command.words;
    if rest.len() < least || rest.len() > most {
        let expected = match most {
            MANY => format!("at least {least}"),
            _ if least == most => format!("{least}"),
            _ => format!("between {least} and {most}"),
        };
        eprintln!("bad argument count {} to {name}, expected {expected} arguments", rest.len());
        return Outcome::Failed;
    }
    if command.writes && writable_lost {
        eprintln!("{}: Block node is read-only", session.program);
        return Outcome::Failed;
    }
    let parsed = match command.options {
        // `-1` is a number to a command without options.
        "" => Ok(Parsed { options: Vec::new(), words: rest.to_vec() }),
        options => getopt(rest, options, &[]),
    };
    match parsed {
        Ok(parsed) => {
            (command.run)(Call { command, options: parsed.options, words: parsed.words, session }).await
        }
        Err(error) => {
            eprintln!("{name}: {error}");
            println!("{}", command.usage_line(command.name));
            Outcome::Failed
        }
    }
}
