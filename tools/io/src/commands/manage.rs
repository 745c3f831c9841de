//! Commands that open, close, resize, and control the tool itself.

use std::time::Duration;

use rhea_block::{BlockError, OpenFlags, Preallocation, Truncate};
use rhea_options::Options;

use super::{Call, Command, Outcome};
use crate::numbers;
use crate::session::HowToOpen;

const OPEN_DETAILS: &str = "
 opens a new file in the requested mode

 Example:
 'open -n -o driver=raw /tmp/data' - opens raw data file read-write, uncached

 -r, -- open file read-only
 -s, -- use snapshot file
 -C, -- use copy-on-read
 -n, -- disable host cache, short for -t none
 -U, -- force shared permissions
 -k, -- use kernel AIO implementation (Linux only, prefer use of -i)
 -i, -- use AIO mode (threads, native or io_uring)
 -t, -- use the given cache mode for the image
 -d, -- use the given discard mode for the image
 -o, -- options to be given to the block driver";

const REOPEN_DETAILS: &str = "
 Changes the open options of an already opened image

 Example:
 'reopen -o lazy-refcounts=on' - activates lazy refcount writeback on a qcow2 image

 -r, -- Reopen the image read-only
 -w, -- Reopen the image read-write
 -c, -- Change the cache mode to the given value
 -o, -- Changes block driver options (cf. 'open' command)
";

const SIGRAISE_DETAILS: &str = "
 sends the signal of that number to qemu-io itself

 Example:
 'sigraise 15' - raises SIGTERM
";

macro_rules! command {
    ($name:literal, $short:literal, $arguments:literal, $about:literal, $details:expr, $words:expr, $options:literal, $without:literal, $run:ident) => {
        Command {
            name: $name,
            short: $short,
            arguments: $arguments,
            about: $about,
            details: $details,
            words: $words,
            options: $options,
            without_image: $without,
            writes: false,
            run: |call| Box::pin($run(call)),
        }
    };
}

pub const COMMANDS: &[Command] = &[
    command!("abort", "", "", "simulate a program crash using abort(3)", "", (0, 0), "", true, abort),
    command!("close", "c", "", "close the current open file", "", (0, 0), "", false, close),
    command!("flush", "f", "", "flush all in-core file state to disk", "", (0, 0), "", false, flush),
    command!(
        "open",
        "o",
        "[-rsCnkU] [-t cache] [-d discard] [-o options] [path]",
        "open the file specified by path",
        OPEN_DETAILS,
        (1, super::MANY),
        "snCro:ki:t:d:U",
        true,
        open
    ),
    command!("quit", "q", "", "exit the program", "", (0, 0), "", true, quit),
    command!(
        "reopen",
        "",
        "[(-r|-w)] [-c cache] [-o options]",
        "reopens an image with new options",
        REOPEN_DETAILS,
        (0, super::MANY),
        "c:o:rw",
        false,
        reopen
    ),
    command!("sigraise", "", "signal", "raises a signal", SIGRAISE_DETAILS, (1, 1), "", true, sigraise),
    command!("sleep", "", "", "waits for the given value in milliseconds", "", (1, 1), "", true, sleep),
    Command {
        name: "truncate",
        short: "t",
        arguments: "[-m prealloc_mode] off",
        about: "truncates the current file at the given offset",
        details: "",
        words: (1, 3),
        options: "m:",
        without_image: false,
        writes: true,
        run: |call| Box::pin(truncate(call)),
    },
];

async fn abort(_: Call<'_>) -> Outcome {
    std::process::abort()
}

async fn quit(_: Call<'_>) -> Outcome {
    Outcome::Quit
}

fn complain(call: &Call<'_>, error: &BlockError) -> Outcome {
    eprintln!("{}: {error}", call.session.program);
    if let Some(hint) = error.hint() {
        eprintln!("{hint}");
    }
    Outcome::Failed
}

async fn close(call: Call<'_>) -> Outcome {
    match call.session.close().await {
        Ok(()) => Outcome::Done,
        Err(error) => complain(&call, &error),
    }
}

async fn flush(call: Call<'_>) -> Outcome {
    let Some(node) = call.session.node().cloned() else { return Outcome::Failed };
    match call.session.alongside(node.flush()).await {
        Ok(()) => Outcome::Done,
        Err(error) => complain(&call, &error),
    }
}

/// Takes one of the letters that say how an image is opened; an error is a line to print.
pub fn opening(how: &mut HowToOpen, letter: char, argument: Option<&str>) -> Result<bool, String> {
    let word = argument.unwrap_or_default();
    match letter {
        'r' => how.flags |= OpenFlags::READ_ONLY,
        's' => how.snapshot = true,
        'C' => how.flags |= OpenFlags::COPY_ON_READ,
        'n' => how.flags = (how.flags - OpenFlags::CACHE) | OpenFlags::DIRECT,
        'k' => how.flags |= OpenFlags::AIO_NATIVE,
        'U' => how.flags |= OpenFlags::FORCE_SHARE,
        'i' => {
            how.flags |= match word {
                "threads" => OpenFlags::AIO_THREADS,
                "native" => OpenFlags::AIO_NATIVE,
                "io_uring" => OpenFlags::AIO_IO_URING,
                _ => return Err(format!("Invalid aio option: {word}")),
            }
        }
        't' => {
            let cache = OpenFlags::cache(word).ok_or_else(|| format!("Invalid cache option: {word}"))?;
            how.flags = (how.flags - OpenFlags::CACHE) | cache;
        }
        'd' => match word {
            "unmap" | "on" => how.flags |= OpenFlags::UNMAP,
            "ignore" | "off" => how.flags -= OpenFlags::UNMAP,
            _ => return Err(format!("Invalid discard option: {word}")),
        },
        _ => return Ok(false),
    }
    Ok(true)
}

async fn open(call: Call<'_>) -> Outcome {
    let mut how = HowToOpen::new();
    for (letter, argument) in &call.options {
        match (letter, argument) {
            ('o', Some(text)) => match Options::parse(text, None) {
                Ok(options) => how.options.merge(options),
                Err(error) => return complain(&call, &error.into()),
            },
            (letter, argument) => {
                if let Err(message) = opening(&mut how, *letter, argument.as_deref()) {
                    eprintln!("{}: {message}", call.session.program);
                    return Outcome::Failed;
                }
            }
        }
    }
    let name = match call.words.as_slice() {
        [] if how.options.is_empty() => return call.usage(),
        [] => String::new(),
        [name] => name.clone(),
        _ => return call.usage(),
    };
    if call.session.node().is_some() {
        eprintln!("{}: file open already, try 'help close'", call.session.program);
        return Outcome::Failed;
    }
    match call.session.open(&name, &how).await {
        Ok(()) => Outcome::Done,
        Err(error) => {
            let device = if name.is_empty() { String::new() } else { format!(" {name}") };
            complain(
                &call,
                &error.context(format!("can't open{}{device}", if name.is_empty() { "" } else { " device" })),
            )
        }
    }
}

async fn reopen(call: Call<'_>) -> Outcome {
    let Some(node) = call.session.node().cloned() else { return Outcome::Failed };
    let mut flags = node.flags();
    let mut options = Options::default();
    let mut how_writable = 0;
    for (letter, argument) in &call.options {
        let word = argument.as_deref().unwrap_or_default();
        match letter {
            'r' => (flags, how_writable) = (flags | OpenFlags::READ_ONLY, how_writable + 1),
            'w' => (flags, how_writable) = (flags - OpenFlags::READ_ONLY, how_writable + 1),
            'c' => match OpenFlags::cache(word) {
                Some(cache) => flags = (flags - OpenFlags::CACHE) | cache,
                None => {
                    eprintln!("{}: Invalid cache option: {word}", call.session.program);
                    return Outcome::Failed;
                }
            },
            _ => match Options::parse(word, None) {
                Ok(given) => options.merge(given),
                Err(error) => return complain(&call, &error.into()),
            },
        }
    }
    if how_writable > 1 {
        eprintln!("{}: Only one -r/-w option may be given", call.session.program);
        return Outcome::Failed;
    }
    if !call.words.is_empty() {
        return call.usage();
    }
    match call.session.reopen(flags, options).await {
        Ok(()) => Outcome::Done,
        Err(error) => complain(&call, &error),
    }
}

async fn truncate(call: Call<'_>) -> Outcome {
    let Some(node) = call.session.node().cloned() else { return Outcome::Failed };
    let mut how = Truncate { exact: false, ..Truncate::default() };
    if let Some(mode) = call.argument('m') {
        let Some(preallocation) = Preallocation::from_word(mode) else {
            eprintln!("{}: Invalid preallocation mode '{mode}'", call.session.program);
            return Outcome::Failed;
        };
        how.preallocation = preallocation;
    }
    let [offset] = call.words.as_slice() else { return call.usage() };
    let offset = match numbers::parse(offset) {
        Ok(offset) => offset,
        Err(message) => {
            println!("{message}");
            return Outcome::Failed;
        }
    };
    // Where the end was when the command began holds for requests set going before it.
    call.session.settle().await;
    match node.truncate(offset, how).await {
        Ok(()) => Outcome::Done,
        Err(error) => complain(&call, &error),
    }
}

async fn sleep(call: Call<'_>) -> Outcome {
    match call.words[0].parse::<u64>() {
        Ok(milliseconds) => {
            let wait = async {
                rhea_async_io::Timer::after(Duration::from_millis(milliseconds)).await;
            };
            call.session.alongside(wait).await;
            Outcome::Done
        }
        Err(_) => {
            println!("{} is not a valid number", call.words[0]);
            Outcome::Failed
        }
    }
}

async fn sigraise(call: Call<'_>) -> Outcome {
    let word = &call.words[0];
    let signal = match numbers::parse(word) {
        Ok(signal) if signal <= 64 => signal,
        Ok(_) => {
            println!("signal argument '{word}' is too large to be a valid signal");
            return Outcome::Failed;
        }
        Err(message) => {
            println!("{message}");
            return Outcome::Failed;
        }
    };
    // As a command, as raising a signal is none of this crate's system calls.
    let number = signal.to_string();
    let process = std::process::id().to_string();
    match std::process::Command::new("kill").args([&format!("-{number}"), &process]).status() {
        Ok(status) if status.success() => Outcome::Done,
        _ => Outcome::Failed,
    }
}
