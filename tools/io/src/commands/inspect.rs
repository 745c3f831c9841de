//! Commands that look: `alloc`, `map`, `info`, `length`, `help`.

use rhea_block::StatusFlags;
use serde_json::Value;

use super::{Call, Command, Outcome, all, find};
use crate::numbers;

pub const COMMANDS: &[Command] = &[
    Command {
        name: "alloc",
        short: "a",
        arguments: "offset [count]",
        about: "checks if offset is allocated in the file",
        details: "",
        words: (1, 2),
        options: "",
        without_image: false,
        writes: false,
        run: |call| Box::pin(alloc(call)),
    },
    Command {
        name: "map",
        short: "",
        arguments: "",
        about: "prints the allocated areas of a file",
        details: "",
        words: (0, 0),
        options: "",
        without_image: false,
        writes: false,
        run: |call| Box::pin(map(call)),
    },
    Command {
        name: "info",
        short: "i",
        arguments: "",
        about: "prints information about the current file",
        details: "",
        words: (0, 0),
        options: "",
        without_image: false,
        writes: false,
        run: |call| Box::pin(info(call)),
    },
    Command {
        name: "length",
        short: "l",
        arguments: "",
        about: "gets the length of the current file",
        details: "",
        words: (0, 0),
        options: "",
        without_image: false,
        writes: false,
        run: |call| Box::pin(length(call)),
    },
    Command {
        name: "help",
        short: "?",
        arguments: "[command]",
        about: "help for one or all commands",
        details: "",
        words: (0, 1),
        options: "",
        without_image: true,
        writes: false,
        run: |call| Box::pin(help(call)),
    },
];

async fn help(call: Call<'_>) -> Outcome {
    let Some(name) = call.words.first() else {
        for command in all() {
            println!("{}", command.usage_line(command.name));
        }
        println!("\nUse 'help commandname' for extended help.");
        return Outcome::Done;
    };
    match find(name) {
        Some(command) => {
            println!("{}", command.usage_line(name));
            if !command.details.is_empty() {
                println!("{}", command.details);
            }
            Outcome::Done
        }
        None => {
            println!("command {name} not found");
            Outcome::Failed
        }
    }
}

async fn length(call: Call<'_>) -> Outcome {
    let Some(node) = call.session.node() else { return Outcome::Failed };
    println!("{}", numbers::bytes(node.length() as f64));
    Outcome::Done
}

async fn alloc(call: Call<'_>) -> Outcome {
    let Some(node) = call.session.node().cloned() else { return Outcome::Failed };
    let offset = match numbers::parse(&call.words[0]) {
        Ok(offset) => offset,
        Err(message) => {
            println!("{message}");
            return Outcome::Failed;
        }
    };
    let count = match call.words.get(1).map(|word| numbers::parse(word)) {
        None => 512,
        Some(Ok(count)) => count,
        Some(Err(message)) => {
            println!("{message}");
            return Outcome::Failed;
        }
    };
    // What lies beyond the end is not counted.
    let end = offset.saturating_add(count).min(node.length());
    let count = end.saturating_sub(offset);
    let (mut allocated, mut at) = (0, offset);
    while at < end {
        match node.block_status(at, end - at, false).await {
            Ok(status) if status.len == 0 => break,
            Ok(status) => {
                if status.flags.contains(StatusFlags::ALLOCATED) {
                    allocated += status.len;
                }
                at += status.len;
            }
            Err(error) => {
                println!("is_allocated failed: {error}");
                return Outcome::Failed;
            }
        }
    }
    println!("{allocated}/{count} bytes allocated at offset {}", numbers::bytes(offset as f64));
    Outcome::Done
}

async fn map(call: Call<'_>) -> Outcome {
    let Some(node) = call.session.node().cloned() else { return Outcome::Failed };
    let total = node.length();
    if total == 0 {
        return Outcome::Done;
    }
    let mut at = 0;
    // Neighbours that are alike are one line.
    let mut run: Option<(u64, u64, bool)> = None;
    while at < total {
        let status = match node.block_status(at, total - at, false).await {
            Ok(status) if status.len > 0 => status,
            Ok(_) => break,
            Err(error) => {
                println!("Failed to get allocation status: {error}");
                return Outcome::Failed;
            }
        };
        let allocated = status.flags.contains(StatusFlags::ALLOCATED);
        run = match run {
            Some((start, len, was)) if was == allocated => Some((start, len + status.len, was)),
            other => {
                print_run(other);
                Some((at, status.len, allocated))
            }
        };
        at += status.len;
    }
    print_run(run);
    Outcome::Done
}

fn print_run(run: Option<(u64, u64, bool)>) {
    if let Some((start, len, allocated)) = run {
        let word = if allocated { "    allocated" } else { "not allocated" };
        println!(
            "{} ({len:#x}) bytes {word} at offset {} ({start:#x})",
            numbers::bytes(len as f64),
            numbers::bytes(start as f64)
        );
    }
}

async fn info(call: Call<'_>) -> Outcome {
    let Some(node) = call.session.node().cloned() else { return Outcome::Failed };
    println!("format name: {}", node.driver_name());
    let info = match node.driver().format_info().await {
        Ok(info) => info,
        Err(error) => {
            println!("cannot get information: {error}");
            return Outcome::Failed;
        }
    };
    println!("cluster size: {}", numbers::bytes(info.cluster_size as f64));
    println!("vm state offset: {}", numbers::bytes(info.vm_state_offset as f64));
    if let Some(data) = info.specific.as_ref().and_then(|s| s.get("data")) {
        println!("Format specific information:");
        print_value(data, 4);
    }
    Outcome::Done
}

/// Prints a JSON object as indented lines, names with spaces for dashes.
fn print_value(value: &Value, indent: usize) {
    let pad = " ".repeat(indent);
    let entries: Vec<(String, &Value)> = match value {
        Value::Object(members) => {
            rhea_image_tool::ordered(members).into_iter().map(|(k, v)| (k.replace('-', " "), v)).collect()
        }
        Value::Array(items) => items.iter().enumerate().map(|(i, v)| (format!("[{i}]"), v)).collect(),
        _ => return,
    };
    for (name, value) in entries {
        match value {
            Value::Object(_) | Value::Array(_) => {
                println!("{pad}{name}:");
                print_value(value, indent + 4);
            }
            Value::String(text) => println!("{pad}{name}: {text}"),
            other => println!("{pad}{name}: {other}"),
        }
    }
}
