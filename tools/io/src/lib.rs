//! `qemu-io`: requests to a disk image by hand, for tests of images and drivers.
//!
//! Commands come from `-c` options or, one a line, from standard input. What they print is what Debian's `qemu-io`
//! prints, so that scripts can compare.

mod commands;
mod help;
mod numbers;
mod session;

use std::io::{BufRead, Write};
use std::sync::Arc;

use rhea_async_io::block_on;
use rhea_block_objects::{add_object, object_help};
use rhea_options::{LongOption, Options, getopt};

use crate::commands::{Outcome, run_line};
use crate::session::{HowToOpen, Session};

const SHORT: &str = "hVc:d:f:rsnCmki:t:T:U";

const fn long(name: &'static str, takes_argument: bool, id: char) -> LongOption {
    LongOption { name, takes_argument, id }
}

const LONG: &[LongOption] = &[
    long("help", false, 'h'),
    long("version", false, 'V'),
    long("cmd", true, 'c'),
    long("format", true, 'f'),
    long("read-only", false, 'r'),
    long("snapshot", false, 's'),
    long("nocache", false, 'n'),
    long("copy-on-read", false, 'C'),
    long("misalign", false, 'm'),
    long("native-aio", false, 'k'),
    long("aio", true, 'i'),
    long("discard", true, 'd'),
    long("cache", true, 't'),
    long("trace", true, 'T'),
    long("force-share", false, 'U'),
    long("object", true, '1'),
    long("image-opts", false, '2'),
];

/// What the command line asks for.
struct Invocation {
    how: HowToOpen,
    lines: Vec<String>,
    objects: Vec<String>,
    image: Option<String>,
    image_opts: bool,
    misalign: bool,
}

/// The version of QEMU whose command line and texts these are, for scripts that ask.
const VERSION: &str = "10.0.2";

/// A command line that cannot be carried out.
enum Refusal {
    /// For a reason that is told.
    Because(String),
    /// It makes no sense: the usage is printed.
    Usage,
}

impl From<String> for Refusal {
    fn from(reason: String) -> Self {
        Self::Because(reason)
    }
}

enum Parsed {
    Run(Invocation),
    Say(String),
}

/// Runs the tool and returns its exit status.
pub fn run(program: &str, arguments: &[String]) -> u8 {
    let invocation = match parse(program, arguments) {
        Ok(Parsed::Run(invocation)) => invocation,
        Ok(Parsed::Say(text)) => {
            print!("{text}");
            return 0;
        }
        Err(Refusal::Because(message)) => {
            eprintln!("{message}");
            return 1;
        }
        Err(Refusal::Usage) => {
            println!("{}", help::text(program));
            return 1;
        }
    };
    let registry = Arc::new(rhea_block_drivers::registry());
    for object in &invocation.objects {
        if let Some(help) = object_help(object) {
            print!("{help}");
            return 0;
        }
        if let Err(error) = add_object(registry.objects(), object) {
            eprintln!("{program}: {error}");
            if let Some(hint) = error.hint() {
                eprintln!("{hint}");
            }
            return 1;
        }
    }
    block_on(work(program, registry, invocation))
}

fn parse(program: &str, arguments: &[String]) -> Result<Parsed, Refusal> {
    let parsed = getopt(arguments, SHORT, LONG).map_err(|error| {
        eprintln!("{program}: {error}");
        Refusal::Usage
    })?;
    let mut how = HowToOpen::new();
    let (mut lines, mut objects, mut image_opts, mut misalign) = (Vec::new(), Vec::new(), false, false);
    for (letter, argument) in parsed.options {
        let word = argument.clone().unwrap_or_default();
        match letter {
            'h' => return Ok(Parsed::Say(help::text(program))),
            'V' => {
                let rhea = env!("CARGO_PKG_VERSION");
                return Ok(Parsed::Say(format!("{program} version {VERSION} (Rhea {rhea})\n")));
            }
            'c' => lines.push(word),
            'f' => how.format = Some(word),
            '1' => objects.push(word),
            '2' => image_opts = true,
            'm' => misalign = true,
            'T' => return Err(format!("{program}: --trace is not supported").into()),
            letter => {
                commands::opening(&mut how, letter, argument.as_deref())
                    .map_err(|m| format!("{program}: {m}"))?;
            }
        }
    }
    if image_opts && how.format.is_some() {
        return Err(format!("{program}: --image-opts and -f are mutually exclusive").into());
    }
    if parsed.words.len() > 1 {
        return Err(Refusal::Usage);
    }
    let image = parsed.words.into_iter().next();
    Ok(Parsed::Run(Invocation { how, lines, objects, image, image_opts, misalign }))
}

async fn work(program: &str, registry: Arc<rhea_block::Registry>, invocation: Invocation) -> u8 {
    let mut session = Session::new(program, registry);
    let Invocation { mut how, lines, image, image_opts, misalign, .. } = invocation;
    session.misalign = misalign;
    if let Some(image) = image {
        let mut name = image.clone();
        if image_opts {
            match Options::parse(&image, None) {
                Ok(options) => how.options = options,
                Err(error) => {
                    eprintln!("{program}: {error}");
                    return 1;
                }
            }
            name.clear();
        }
        if let Err(error) = session.open(&name, &how).await {
            let device = if name.is_empty() { String::new() } else { format!(" device {name}") };
            eprintln!("{program}: can't open{device}: {error}");
            if let Some(hint) = error.hint() {
                eprintln!("{hint}");
            }
            return 1;
        }
    }
    let failed = match lines.is_empty() {
        true => interactive(&mut session).await,
        false => all_of(&mut session, &lines).await,
    };
    match session.close().await {
        Ok(()) => u8::from(failed),
        Err(error) => {
            eprintln!("{program}: {error}");
            1
        }
    }
}

/// Runs the `-c` lines; a failed one does not stop the others.
async fn all_of(session: &mut Session, lines: &[String]) -> bool {
    let mut failed = false;
    for line in lines {
        match run_line(session, line).await {
            Outcome::Done => {}
            Outcome::Failed => failed = true,
            Outcome::Quit => break,
        }
    }
    failed
}

/// Runs what standard input says, with a prompt before each line.
async fn interactive(session: &mut Session) -> bool {
    let mut failed = false;
    loop {
        print!("{}> ", session.program);
        let _ = std::io::stdout().flush();
        let read = rhea_async_io::unblock(|| {
            let mut line = String::new();
            std::io::stdin().lock().read_line(&mut line).map(|n| (n, line))
        });
        let line = match session.alongside(read).await {
            Ok((count, line)) if count > 0 => line,
            _ => break,
        };
        match run_line(session, &line).await {
            Outcome::Done => {}
            Outcome::Failed => failed = true,
            Outcome::Quit => break,
        }
    }
    failed
}
