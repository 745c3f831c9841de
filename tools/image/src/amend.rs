//! `qemu-img amend`

use rhea_block::{BlockError, CreateOption, CreateOptionType, Driver, OpenFlags, Progress};
use rhea_options::Options;
use rhea_options::{LongOption, Parsed};
use std::sync::Arc;

use crate::create::option_words;
use crate::creation;
use crate::failure::{Failure, Outcome};
use crate::progress::Meter;
use crate::session::{Image, Session, cache_flags, finish, flag, id, valued};

pub(crate) const SHORT: &str = "o:f:t:pq";
pub(crate) const LONG: &[LongOption] = &[
    flag("quiet", 'q'),
    flag("progress", 'p'),
    valued("format", 'f'),
    flag("image-opts", id::IMAGE_OPTS),
    valued("cache", 't'),
    flag("force", id::FORCE),
    valued("options", 'o'),
    valued("object", id::OBJECT),
];

pub(crate) async fn run(session: &Session, parsed: &Parsed) -> Outcome<u8> {
    let words = option_words(parsed);
    if words.is_empty() {
        return Err(Failure::usage("Must specify options (-o)"));
    }
    if let (true, Some(format)) = (creation::wants_help(&words), parsed.argument('f')) {
        let driver = creation::format_driver(&session.registry, format)?;
        return print_help(driver);
    }
    let [filename] = parsed.words.as_slice() else {
        return Err(Failure::new("Expecting one image file name"));
    };
    let name = session.name(parsed, filename)?;
    let cache = parsed.argument('t').unwrap_or("writeback");
    let flags = cache_flags(cache, &format!("Invalid cache option: {cache}"))? | OpenFlags::UNMAP;
    let meter = Meter::start(parsed.has('p') && !parsed.has('q'));
    let image = session.open(name, flags).await?;
    let result = amend(session, parsed, &image, &words, &meter).await;
    finish(result, [image]).await
}

/// Options of key slots, which are there to be amended only: `(of luks, of qcow2, …)`.
const SLOTS: [(&str, &str, CreateOptionType, &str); 4] = [
    ("keyslot", "encrypt.keyslot", CreateOptionType::Number, "Select a single keyslot to modify explicitly"),
    (
        "new-secret",
        "encrypt.new-secret",
        CreateOptionType::Text,
        "New secret to set in the matching keyslots. Empty string to erase",
    ),
    (
        "old-secret",
        "encrypt.old-secret",
        CreateOptionType::Text,
        "Select all keyslots that match this password",
    ),
    (
        "state",
        "encrypt.state",
        CreateOptionType::Text,
        "Select new state of affected keyslots (active/inactive)",
    ),
];

/// The options `amend` takes of a driver.
fn amendable(driver: &Arc<dyn Driver>) -> Outcome<Vec<CreateOption>> {
    let mut options: Vec<CreateOption> =
        driver.create_options().iter().filter(|o| o.amendable).copied().collect();
    for (of_luks, of_qcow2, kind, help) in SLOTS {
        let name = match driver.name() {
            "luks" => of_luks,
            "qcow2" => of_qcow2,
            _ => continue,
        };
        if !options.is_empty() && !options.iter().any(|o| o.name == name) {
            options.push(CreateOption { name, kind, help, default: "", amendable: true });
        }
    }
    match options.is_empty() {
        true => {
            Err(Failure::new(format!("Format driver '{}' does not support option amendment", driver.name())))
        }
        false => Ok(options),
    }
}

fn print_help(driver: &Arc<dyn Driver>) -> Outcome<u8> {
    let options = amendable(driver)?;
    print!("Amend options for '{}':\n{}", driver.name(), creation::help(&options));
    Ok(0)
}

async fn amend(
    session: &Session,
    parsed: &Parsed,
    image: &Image,
    words: &[&str],
    meter: &Meter,
) -> Outcome<u8> {
    let driver = creation::format_driver(&session.registry, image.node.driver_name())?;
    if creation::wants_help(words) {
        return print_help(driver);
    }
    let known = amendable(driver)?;
    let mut options = Options::default();
    for word in words {
        for entry in Options::parse(word, None).map_err(BlockError::from)?.entries() {
            let Some(option) = known.iter().find(|o| o.name == entry.key) else {
                let failure = Failure::new(format!("Invalid parameter '{}'", entry.key));
                let made_with = driver.create_options().iter().any(|o| o.name == entry.key);
                return Err(match made_with {
                    true => failure.with_hint("This option is only supported for image creation"),
                    false => failure,
                });
            };
            options.set(&entry.key, &creation::normal_value(option, entry.value.as_deref())?);
        }
    }
    let progress = Progress::new();
    let work = image.node.driver().amend(options, parsed.has(id::FORCE), &progress);
    meter.watch(&progress, || progress.cancel(), work).await?;
    meter.complete();
    Ok(0)
}
