//! Help texts: made from the tables of options, with what each means.

use rhea_options::LongOption;

use crate::Command;
use crate::session::{Session, id};

/// `--help` before any command.
pub(crate) fn overview(session: &Session, commands: &[Command]) -> String {
    let program = &session.program;
    let mut text = format!(
        "{}\nDisk images: making, copying, checking, describing them.\n\n\
         Usage: {program} [-V | --version] [-h | --help] COMMAND [OPTION…] ARGUMENT…\n\nCommands ('{program} COMMAND --help' tells their options):\n\n",
        crate::version_line(program)
    );
    for command in commands {
        text += &format!("  {:<9} {}\n", command.name, command.about);
    }
    // Scripts read this list to learn what is there.
    text += "\nSupported image formats:\n";
    let mut names: Vec<&str> = session.registry.drivers().iter().map(|d| d.name()).collect();
    names.sort_unstable();
    let mut line = String::from(" ");
    for name in names {
        if line.len() + 1 + name.len() > 76 {
            text += &format!("{line}\n");
            line = String::from(" ");
        }
        line += &format!(" {name}");
    }
    text + &line + "\n"
}

/// What stands behind a command's options, and what its options mean where that differs from [`meaning`].
fn arguments(command: &str) -> &'static str {
    match command {
        "bitmap" => "FILENAME BITMAP",
        "compare" => "FILENAME1 FILENAME2",
        "convert" => "SOURCE [SOURCE2…] TARGET",
        "create" => "FILENAME [SIZE]",
        "dd" => "if=INPUT of=OUTPUT [bs=SIZE] [count=BLOCKS] [skip=BLOCKS]",
        "measure" => "[FILENAME]",
        "resize" => "FILENAME [+-]SIZE",
        _ => "FILENAME",
    }
}

/// The argument's name and the meaning of an option.
fn meaning(command: &str, option: char) -> (&'static str, &'static str) {
    match (command, option) {
        (_, 'h') => ("", "print this text"),
        (_, 'q') => ("", "say nothing but errors"),
        (_, 'p') => ("", "show progress"),
        (_, 'U') => ("", "open the image although others may be writing to it"),
        (_, id::IMAGE_OPTS) => {
            ("", "names are lists of options (driver=qcow2,file.filename=…), not of files")
        }
        (_, id::TARGET_IMAGE_OPTS) => ("", "the target's name is a list of options"),
        (_, id::OBJECT) => ("OBJECT", "define an object, such as secret,id=s0,file=…"),
        (_, id::OUTPUT) => ("human|json", "for people (the default) or for programs"),
        (_, id::FORCE) => ("", "allow what may be unsafe"),
        ("compare", 'f') => ("FORMAT", "the first image's format"),
        ("compare", 'F') => ("FORMAT", "the second image's format"),
        ("create", 'f') => ("FORMAT", "the new image's format (raw)"),
        ("convert", 'f') => ("FORMAT", "the sources' format, else it is guessed"),
        (_, 'f') => ("FORMAT", "the image's format, else it is guessed"),
        ("convert" | "dd", 'O') => ("FORMAT", "the target's format (raw)"),
        (_, 'O') => ("FORMAT", "the format to measure for (raw)"),
        ("bench", 'o') => ("OFFSET", "where the first request goes (0)"),
        (_, 'o') => ("KEY=VALUE,…", "options of the format; 'help' lists them"),
        ("convert" | "rebase", 'T') => ("CACHE", "cache mode of what is read"),
        (_, 't' | 'T') => ("CACHE", "cache mode: writeback, writethrough, none, directsync, unsafe"),
        ("bench", 'c') => ("COUNT", "requests in all (75000)"),
        ("bench", 's') => ("SIZE", "bytes of a request (4096)"),
        ("bench", 'S') => ("SIZE", "bytes from one request to the next (as -s)"),
        ("bench", 'd') => ("DEPTH", "requests at a time (64)"),
        ("bench", 'i') => ("threads|native|io_uring", "the way to the host's storage"),
        ("bench", 'n') => ("", "as -i native"),
        ("bench", 'w') => ("", "write instead of reading"),
        (_, id::PATTERN) => ("BYTE", "write this byte (0)"),
        (_, id::FLUSH_INTERVAL) => ("COUNT", "flush after so many writes"),
        (_, id::NO_DRAIN) => ("", "go on writing during a flush"),
        ("bitmap", id::ADD) => ("", "make the bitmap"),
        (_, id::REMOVE) => ("", "remove the bitmap"),
        (_, id::CLEAR) => ("", "forget what it has recorded"),
        (_, id::ENABLE) => ("", "record further writes"),
        (_, id::DISABLE) => ("", "record no further writes"),
        (_, id::MERGE) => ("SOURCE", "add what another bitmap has recorded"),
        ("bitmap", 'g') => ("SIZE", "bytes a bit of the new bitmap stands for"),
        ("bitmap", 'b') => ("FILENAME", "the image with the bitmap to merge"),
        ("bitmap", 'F') => ("FORMAT", "that image's format"),
        ("check", 'r') => ("leaks|all", "repair"),
        ("commit", 'b') => ("FILENAME", "the image of the chain to commit to (implies -d)"),
        ("commit", 'd') => ("", "leave the image as it is"),
        (_, 'r') => ("RATE", "bytes per second at most"),
        ("compare", 's') => ("", "images of different sizes are different"),
        ("convert", 'c') => ("", "compress the target"),
        ("convert", 'l') => ("SNAPSHOT", "copy a snapshot of the source"),
        ("convert", 'S') => ("SIZE", "zeroes of this length are not stored (4k); 0: all is"),
        ("convert", 'm') => ("COUNT", "copies at a time (8)"),
        ("convert", 'W') => ("", "write in any order"),
        ("convert", 'C') => ("", "let the file system copy"),
        ("convert", 'n') => ("", "the target is there already"),
        ("convert", 'B') => ("FILENAME", "the target's backing file"),
        (_, id::TARGET_IS_ZERO) => ("", "the target (of -n) reads as zeroes"),
        (_, id::SALVAGE) => ("", "read errors are not fatal: zeroes are written for what cannot be read"),
        (_, id::BITMAPS) => ("", "copy persistent bitmaps"),
        (_, id::SKIP_BROKEN) => ("", "… but for those that are inconsistent"),
        ("create", 'b') => ("FILENAME", "the backing file"),
        ("create", 'u') => ("", "do not look at the backing file"),
        (_, 'F') => ("FORMAT", "the backing file's format"),
        ("info", 'b') => ("", "tell of the whole chain of backing files"),
        ("map", 's') => ("OFFSET", "where to begin"),
        ("map", 'l') => ("LENGTH", "bytes to look at"),
        ("measure", 's') => ("SIZE", "the size of a new disk"),
        ("measure", 'l') => ("SNAPSHOT", "measure a snapshot"),
        ("rebase", 'b') => ("FILENAME", "the new backing file; '' for none"),
        ("rebase", 'u') => ("", "change the name only, and copy nothing"),
        ("rebase", 'c') => ("", "compress what is copied"),
        (_, id::SHRINK) => ("", "allow the disk to lose its end"),
        (_, id::PREALLOCATION) => ("MODE", "storage for what is new: off, metadata, falloc, full"),
        ("snapshot", 'l') => ("", "list all (as without option)"),
        ("snapshot", 'c') => ("NAME", "make one"),
        ("snapshot", 'a') => ("NAME", "go back to one"),
        ("snapshot", 'd') => ("NAME", "delete one"),
        _ => ("", ""),
    }
}

/// `--help` of a command.
pub(crate) fn command(program: &str, command: &Command) -> String {
    let mut text = format!(
        "{} {}: {}\n\nUsage: {program} {} [OPTION…] {}\n\nOptions:\n",
        program,
        command.name,
        command.about,
        command.name,
        arguments(command.name)
    );
    let mut seen = vec!['h'];
    text += "  -h, --help\n        print this text\n";
    for option in command.long {
        if !seen.contains(&option.id) {
            seen.push(option.id);
            text += &line(command, option);
        }
    }
    text
}

fn line(command: &Command, option: &LongOption) -> String {
    let (argument, meaning) = meaning(command.name, option.id);
    let short = match command.short.contains(option.id) {
        true => format!("-{}, ", option.id),
        false => String::new(),
    };
    let space = if argument.is_empty() { "" } else { " " };
    format!("  {short}--{}{space}{argument}\n        {meaning}\n", option.name)
}
