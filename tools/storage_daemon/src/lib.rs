//! `qemu-storage-daemon`: block devices and their exports (NBD, FUSE, vhost-user-blk) without a machine.

mod chardevs;
mod exports;
mod help;
mod nbd_server;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use event_listener::Event;
use rhea_async_io::block_on;
use rhea_block::{BlockError, Registry, Result};
use rhea_host::daemon::{self, Forked, PidFile, Readiness};
use rhea_options::{LongOption, Options, getopt};

use crate::chardevs::Chardevs;
use crate::exports::{Exports, required};
use crate::nbd_server::NbdServer;

const fn long(name: &'static str, takes_argument: bool, id: char) -> LongOption {
    LongOption { name, takes_argument, id }
}

const LONG: &[LongOption] = &[
    long("blockdev", true, 'b'),
    long("chardev", true, 'c'),
    long("daemonize", false, 'd'),
    long("export", true, 'e'),
    long("help", false, 'h'),
    long("monitor", true, 'm'),
    long("nbd-server", true, 'n'),
    long("object", true, 'o'),
    long("pidfile", true, 'p'),
    long("trace", true, 'T'),
    long("version", false, 'V'),
];

/// Runs the tool and returns its exit status.
pub fn run(program: &str, arguments: &[String]) -> u8 {
    let parsed = match getopt(arguments, "hT:V", LONG) {
        Ok(parsed) => parsed,
        Err(error) => {
            eprintln!("{program}: {error}");
            return 1;
        }
    };
    let mut settings = Vec::new();
    for (letter, argument) in parsed.options {
        match letter {
            'h' => {
                print!("{}", help::text(program));
                return 0;
            }
            'V' => {
                print!("{}", help::version(program));
                return 0;
            }
            letter => settings.push((letter, argument.unwrap_or_default())),
        }
    }
    if let Some(word) = parsed.words.first() {
        eprintln!("{program}: {word}: Unexpected argument");
        return 1;
    }
    start(program, &settings)
}

/// A failed option, as it was given, with the reason.
struct Failed {
    option: String,
    error: BlockError,
}

fn start(program: &str, settings: &[(char, String)]) -> u8 {
    let wanted = |letter| settings.iter().any(|(l, _)| *l == letter);
    let readiness = match wanted('d') {
        true => match daemon::fork() {
            Ok(Forked::Parent(status)) => return status,
            Ok(Forked::Child(readiness)) => Some(readiness),
            Err(error) => {
                eprintln!("{program}: Failed to daemonize: {error}");
                return 1;
            }
        },
        false => None,
    };
    // Before other threads start, so that they leave these signals alone.
    let stop = Arc::new(Stop::default());
    let signalled = stop.clone();
    if let Err(error) = rhea_host::signals::watch(move |_| signalled.set()) {
        eprintln!("{program}: {error}");
        return 1;
    }
    let path = settings.iter().rev().find(|(l, _)| *l == 'p').map(|(_, path)| path.clone());
    block_on(serve(program, settings, readiness, path, &stop))
}

/// The wish to end.
#[derive(Default)]
struct Stop {
    wanted: AtomicBool,
    event: Event,
}

impl Stop {
    fn set(&self) {
        self.wanted.store(true, SeqCst);
        self.event.notify(usize::MAX);
    }

    async fn wait(&self) {
        loop {
            let listener = self.event.listen();
            if self.wanted.load(SeqCst) {
                return;
            }
            listener.await;
        }
    }
}

/// What the options have set up so far.
struct Daemon {
    registry: Registry,
    chardevs: Chardevs,
    nbd: Option<NbdServer>,
    exports: Exports,
}

async fn serve(
    program: &str,
    settings: &[(char, String)],
    readiness: Option<Readiness>,
    pid_path: Option<String>,
    stop: &Stop,
) -> u8 {
    let mut daemon = Daemon {
        registry: rhea_block_drivers::registry(),
        chardevs: Chardevs::default(),
        nbd: None,
        exports: Exports::default(),
    };
    let mut status = match daemon.set_up(settings).await {
        Ok(None) => {
            let waited = wait(program, readiness, pid_path.as_deref(), stop).await;
            u8::from(waited.is_err())
        }
        Ok(Some(text)) => {
            print!("{text}");
            0
        }
        Err(Failed { option, error }) => {
            eprintln!("{program}: {option}: {error}");
            if let Some(hint) = error.hint() {
                eprintln!("{hint}");
            }
            1
        }
    };
    if daemon.tear_down(program).await.is_err() {
        status = 1;
    }
    status
}

/// Tells that all is ready, and waits until it is time to end.
async fn wait(
    program: &str,
    readiness: Option<Readiness>,
    pid_path: Option<&str>,
    stop: &Stop,
) -> std::result::Result<(), ()> {
    let tell = |error: &dyn std::fmt::Display| eprintln!("{program}: {error}");
    let _pid_file = match pid_path {
        Some(path) => Some(
            PidFile::create(Path::new(path))
                .map_err(|error| tell(&format!("cannot create PID file: {error}")))?,
        ),
        None => None,
    };
    if let Some(readiness) = readiness {
        std::env::set_current_dir("/").map_err(|error| tell(&error))?;
        readiness.tell().map_err(|error| tell(&error))?;
    }
    stop.wait().await;
    Ok(())
}

impl Daemon {
    /// Does what the options say, in their order; text is for help that was asked for.
    async fn set_up(&mut self, settings: &[(char, String)]) -> std::result::Result<Option<String>, Failed> {
        for (letter, text) in settings {
            match self.set(*letter, text).await {
                Ok(None) => {}
                Ok(Some(help)) => return Ok(Some(help)),
                Err(error) => {
                    let name = LONG.iter().find(|o| o.id == *letter).map_or("", |o| o.name);
                    return Err(Failed { option: format!("--{name} {text}"), error });
                }
            }
        }
        Ok(None)
    }

    async fn set(&mut self, letter: char, text: &str) -> Result<Option<String>> {
        // A double comma is one within a value.
        let plain = text.replace(",,", "");
        let wants_help = !text.starts_with('{') && plain.split(',').any(|word| ["help", "?"].contains(&word));
        match letter {
            'c' if wants_help => return Ok(Some(chardevs::help())),
            'b' | 'e' | 'm' | 'n' if wants_help => {
                return Err(BlockError::invalid("Help is not available for this option"));
            }
            'b' => _ = self.registry.add_blockdev(Options::parse(text, Some("driver"))?).await?,
            'c' => self.chardevs.add(Options::parse(text, Some("backend"))?)?,
            'e' => {
                let options = Options::parse(text, Some("type"))?;
                self.exports.add(options, &self.registry, self.nbd.as_ref()).await?;
            }
            'm' => self.monitor(Options::parse(text, Some("chardev"))?)?,
            'n' => {
                if self.nbd.is_some() {
                    return Err(BlockError::invalid("NBD server already running"));
                }
                self.nbd = Some(NbdServer::start(Options::parse(text, None)?, &self.registry)?);
            }
            'o' => {
                if let Some(help) = rhea_block_objects::object_help(text) {
                    return Ok(Some(help));
                }
                rhea_block_objects::add_object(self.registry.objects(), text)?;
            }
            'T' => return Err(BlockError::unsupported("tracing is not supported")),
            _ => {}
        }
        Ok(None)
    }

    fn monitor(&self, mut options: Options) -> Result<()> {
        let chardev = required(&mut options, "chardev")?;
        if !self.chardevs.contains(&chardev) {
            return Err(BlockError::invalid(format!("chardev \"{chardev}\" not found")));
        }
        Err(BlockError::unsupported("monitors are not supported yet"))
    }

    /// Ends all in the reverse order of its making.
    async fn tear_down(self, program: &str) -> Result<()> {
        let Self { registry, nbd, exports, .. } = self;
        if let Some(nbd) = &nbd {
            nbd.server().stop().await;
        }
        let mut result = exports.stop(program).await;
        let closed = registry.close_nodes(|name, error| eprintln!("{program}: {name}: {error}")).await;
        result = result.and(closed);
        result
    }
}
