//! `qemu-img`: what people do with disk images.
//!
//! Each command is a module: it takes its arguments apart, opens images through the block layer, and prints what QEMU's
//! tool prints for the same image, so that scripts made for one work with the other.

mod amend;
mod bench;
mod bitmap;
mod chain;
mod check;
mod commit;
mod compare;
mod convert;
mod create;
mod creation;
mod crew;
mod dd;
mod failure;
mod help;
mod info;
mod json;
mod map;
mod measure;
mod objects;
mod progress;
mod rebase;
mod resize;
mod session;
mod size;
mod snapshot;

pub use json::ordered;

use std::future::Future;
use std::pin::Pin;

use failure::{Failure, Outcome};
use rhea_options::Parsed;
use session::Session;

/// QEMU's version whose command lines and outputs these are.
const VERSION: &str = "10.0.2";

type Run = for<'a> fn(&'a Session, &'a Parsed) -> Pin<Box<dyn Future<Output = Outcome<u8>> + 'a>>;

/// A command of the tool.
struct Command {
    name: &'static str,
    about: &'static str,
    short: &'static str,
    long: &'static [rhea_options::LongOption],
    run: Run,
}

macro_rules! commands {
    ($($module:ident: $about:literal;)*) => {
        /// All commands, in the order of the help text.
        const COMMANDS: &[Command] = &[$(Command {
            name: stringify!($module),
            about: $about,
            short: $module::SHORT,
            long: $module::LONG,
            run: |session, parsed| Box::pin($module::run(session, parsed)),
        }),*];
    };
}

commands! {
    amend: "change format-specific options of an image";
    bench: "time simple requests to an image";
    bitmap: "change persistent dirty bitmaps of an image";
    check: "check an image's metadata, and repair it";
    commit: "move an image's data into its backing file";
    compare: "compare the contents of two images";
    convert: "copy images into a new one, of another format if wished";
    create: "make a new image";
    dd: "copy a part of an image";
    info: "tell what an image is";
    map: "tell where an image's data lies";
    measure: "tell how much storage a new image would take";
    rebase: "give an image another backing file";
    resize: "change the size of an image's disk";
    snapshot: "list, make, apply or delete snapshots in an image";
}

/// Runs the tool and returns its exit status. `program` is what messages begin with: `qemu-img`.
pub fn run(program: &str, arguments: &[String]) -> u8 {
    let mut session =
        Session { program: program.into(), command: "", registry: rhea_block_drivers::registry() };
    match dispatch(&mut session, arguments) {
        Ok(status) => status,
        Err(failure) => {
            failure.tell(&session.program, session.command);
            if failure.interrupted {
                progress::die_interrupted();
            }
            failure.status
        }
    }
}

fn dispatch(session: &mut Session, arguments: &[String]) -> Outcome<u8> {
    let at = match standard_options(session, arguments)? {
        Some(at) => at,
        None => return Ok(0),
    };
    let Some((word, rest)) = arguments[at..].split_first() else {
        return Err(Failure::usage("Not enough arguments"));
    };
    let Some(command) = COMMANDS.iter().find(|c| c.name == word) else {
        let failure = Failure::usage(format!("Command not found: {word}"));
        return Err(match rhea_options::closest(word, COMMANDS.iter().map(|c| c.name)) {
            Some(near) => failure.with_hint(format!("Did you mean '{near}'?")),
            None => failure,
        });
    };
    session.command = command.name;
    let (rest, size) = match command.name {
        "resize" => resize::split_size(rest),
        _ => (rest.to_vec(), None),
    };
    let mut parsed = session.parse(&rest, command.short, command.long)?;
    parsed.words.extend(size);
    if parsed.has('h') {
        print!("{}", help::command(&session.program, command));
        return Ok(0);
    }
    session.define_objects(&parsed)?;
    rhea_async_io::block_on((command.run)(session, &parsed))
}

/// The options before the command; `None`: all is done with them. Else where the command's word stands.
fn standard_options(session: &Session, arguments: &[String]) -> Outcome<Option<usize>> {
    // The command's own options are not looked at: this stops at its word.
    let at = arguments.iter().position(|a| !a.starts_with('-')).unwrap_or(arguments.len());
    let parsed = session.parse(
        &arguments[..at],
        "VT:",
        &[session::flag("version", 'V'), session::valued("trace", 'T')],
    );
    // A separate argument of -T is the word that was taken for the command.
    if let Some(last) = arguments[..at].last()
        && (last == "-T" || last == "--trace")
        && at < arguments.len()
    {
        return Err(Failure::new("-T: tracing is not supported"));
    }
    let parsed = parsed?;
    if parsed.has('h') {
        print!("{}", help::overview(session, COMMANDS));
        return Ok(None);
    }
    if parsed.has('V') {
        println!("{}", version_line(&session.program));
        return Ok(None);
    }
    match parsed.has('T') {
        true => Err(Failure::new("-T: tracing is not supported")),
        false => Ok(Some(at)),
    }
}

fn version_line(program: &str) -> String {
    format!("{program} version {VERSION} (Rhea {})", env!("CARGO_PKG_VERSION"))
}
