//! `qemu-img measure`

use rhea_block::{Measure, OpenFlags};
use rhea_options::Options;
use rhea_options::{LongOption, Parsed};
use serde_json::json;

use crate::create::option_words;
use crate::creation::{self, Known};
use crate::failure::{Failure, FailureExt, Outcome};
use crate::session::{Image, Output, Session, finish, flag, id, read_flags, valued};
use crate::{json, size, snapshot};

pub(crate) const SHORT: &str = "O:s:f:l:o:U";
pub(crate) const LONG: &[LongOption] = &[
    valued("target-format", 'O'),
    valued("size", 's'),
    valued("format", 'f'),
    flag("image-opts", id::IMAGE_OPTS),
    valued("snapshot", 'l'),
    valued("options", 'o'),
    valued("output", id::OUTPUT),
    valued("object", id::OBJECT),
    flag("force-share", 'U'),
];

pub(crate) async fn run(session: &Session, parsed: &Parsed) -> Outcome<u8> {
    let output = session.output(parsed)?;
    let size = parsed.argument('s').map(|text| size::size("image size", text)).transpose()?;
    let filename = match parsed.words.as_slice() {
        [] => None,
        [one] => Some(one.as_str()),
        _ => return Err(Failure::new("At most one filename argument is allowed.")),
    };
    match (size, filename) {
        (Some(_), Some(_)) => return Err(Failure::new("--size N cannot be used together with a filename.")),
        (None, None) => return Err(Failure::new("Either --size N or one filename must be specified.")),
        _ => {}
    }
    if filename.is_none() && (parsed.has(id::IMAGE_OPTS) || parsed.has('f') || parsed.has('l')) {
        return Err(Failure::new("--image-opts, -f, and -l require a filename argument."));
    }
    let source = match filename {
        Some(filename) => Some(
            session.open(session.name(parsed, filename)?, read_flags(parsed) - OpenFlags::NO_BACKING).await?,
        ),
        None => None,
    };
    let result = measure(session, parsed, size, source.as_ref()).await;
    let measured = finish(result, source).await?;
    match output {
        Output::Human => {
            println!("required size: {}", measured.required);
            println!("fully allocated size: {}", measured.fully_allocated);
            if let Some(bitmaps) = measured.bitmaps {
                println!("bitmaps size: {bitmaps}");
            }
        }
        Output::Json => {
            let mut value =
                json!({"required": measured.required, "fully-allocated": measured.fully_allocated});
            if let Some(bitmaps) = measured.bitmaps {
                value["bitmaps"] = json!(bitmaps);
            }
            println!("{}", json::pretty(&value));
        }
    }
    Ok(0)
}

async fn measure(
    session: &Session,
    parsed: &Parsed,
    size: Option<u64>,
    source: Option<&Image>,
) -> Outcome<Measure> {
    if let (Some(wanted), Some(source)) = (parsed.argument('l'), source) {
        load_snapshot(source, wanted).await?;
    }
    let format = parsed.argument('O').unwrap_or("raw");
    let driver = creation::format_driver(&session.registry, format)?;
    let mut options = Options::default();
    let words = option_words(parsed);
    if !words.is_empty() {
        let known = Known::new(&session.registry, format, Some("measured"))?;
        let parsed = known.parse(&words);
        options = parsed.map_err(|f| f.then(format!("Invalid options for file format '{format}'")))?;
    }
    if let Some(size) = size {
        options.set("size", &size.to_string());
    }
    Ok(driver.measure(options, source.map(|s| &s.node)).await?)
}

/// `-l`: shows a snapshot instead of the present contents. The text is a name, an id, or `snapshot.id=…,snapshot.name=…`.
pub(crate) async fn load_snapshot(image: &Image, text: &str) -> Outcome<()> {
    let (mut by_id, mut by_name) = (None, None);
    if text.starts_with("snapshot.") {
        let parsed = Options::parse(text, None).map_err(rhea_block::BlockError::from)?;
        for entry in parsed.entries() {
            match entry.key.as_str() {
                "snapshot.id" => by_id.clone_from(&entry.value),
                "snapshot.name" => by_name.clone_from(&entry.value),
                other => {
                    return Err(Failure::new(format!("Invalid parameter '{other}'"))
                        .then(format!("Failed in parsing snapshot param '{text}'")));
                }
            }
        }
    }
    let missing = || Failure::new("Failed to load snapshot: Can't find snapshot");
    let Some(snapshots) = image.node.driver().snapshots() else {
        return Err(Failure::new(format!(
            "Failed to load snapshot: Block format '{}' used by device '' does not support temporarily loading internal snapshots",
            image.node.driver_name()
        )));
    };
    let found = match text.starts_with("snapshot.") {
        false => snapshot::find(snapshots, text).await?,
        true => {
            let fits = |wanted: &Option<String>, is: &str| wanted.as_deref().is_none_or(|w| w == is);
            let list = snapshots.list().await?;
            list.into_iter().find(|s| fits(&by_id, &s.id) && fits(&by_name, &s.name))
        }
    };
    let found = found.ok_or_else(missing)?;
    snapshots.load(&found.id).await.told("Failed to load snapshot")
}
