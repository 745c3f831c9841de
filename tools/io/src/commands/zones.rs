//! Commands for zoned block devices. No driver of Rhea's knows zones: they are refused, as QEMU refuses them where an image
//! has none.

use rhea_block::{BlockError, DriverKind};

use super::{Call, Command, Outcome};
use crate::numbers;

macro_rules! command {
    ($name:literal, $short:literal, $arguments:literal, $about:literal, $words:expr, $options:literal, $what:literal) => {
        Command {
            name: $name,
            short: $short,
            arguments: $arguments,
            about: $about,
            details: "",
            words: $words,
            options: $options,
            without_image: false,
            writes: false,
            run: |call| Box::pin(refuse(call, $what)),
        }
    };
}

pub const COMMANDS: &[Command] = &[
    command!(
        "zone_append",
        "zap",
        "offset len [len..]",
        "append write a number of bytes at a specified offset",
        (3, 4),
        "p",
        "zone append"
    ),
    command!(
        "zone_close",
        "zc",
        "offset len",
        "close a range of zones in zone block device",
        (2, 2),
        "",
        "zone close"
    ),
    command!(
        "zone_finish",
        "zf",
        "offset len",
        "finish a range of zones in zone block device",
        (2, 2),
        "",
        "zone finish"
    ),
    command!(
        "zone_open",
        "zo",
        "offset len",
        "explicit open a range of zones in zone block device",
        (2, 2),
        "",
        "zone open"
    ),
    command!("zone_report", "zrp", "offset number", "report zone information", (2, 2), "", "zone report"),
    command!(
        "zone_reset",
        "zrs",
        "offset len",
        "reset a zone write pointer in zone block device",
        (2, 2),
        "",
        "zone reset"
    ),
];

/// Whether the image lies on a device of the host.
fn is_on_device(call: &Call<'_>) -> bool {
    let mut at = call.session.node().cloned();
    while let Some(node) = at {
        if node.driver_name() == "host_device" {
            return true;
        }
        at = match call.session.registry.driver(node.driver_name()).map(|driver| driver.kind()) {
            Some(DriverKind::Protocol) => None,
            _ => node.file().or_else(|| node.child(rhea_block::Role::Filtered)),
        };
    }
    false
}

async fn refuse(call: Call<'_>, what: &str) -> Outcome {
    for word in &call.words {
        if let Err(message) = numbers::parse(word) {
            println!("{message}");
            return Outcome::Failed;
        }
    }
    println!("{what} failed: {}", BlockError::os(libc::ENOTSUP));
    if is_on_device(&call) {
        eprintln!("Rhea does not know zones; 'blkzone' of util-linux can show and change those of a device.");
    }
    Outcome::Failed
}
