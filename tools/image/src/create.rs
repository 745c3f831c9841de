//! `qemu-img create`

use std::sync::Arc;

use rhea_block::{BlockError, BlockNode, OpenFlags, Progress, Registry, full_backing_filename};
use rhea_options::Options;
use rhea_options::{LongOption, Parsed};

use crate::creation::{self, Known};
use crate::failure::{Failure, FailureExt, Outcome};
use crate::session::{Session, flag, id, valued};
use crate::size;

pub(crate) const SHORT: &str = "qf:o:b:F:u";
pub(crate) const LONG: &[LongOption] = &[
    flag("quiet", 'q'),
    valued("format", 'f'),
    valued("options", 'o'),
    valued("backing", 'b'),
    valued("backing-format", 'F'),
    flag("backing-unsafe", 'u'),
    valued("object", id::OBJECT),
];

pub(crate) async fn run(session: &Session, parsed: &Parsed) -> Outcome<u8> {
    let format = parsed.argument('f').unwrap_or("raw");
    let words = option_words(parsed);
    if creation::wants_help(&words) {
        creation::print_help(&session.registry, format, parsed.words.first().map(String::as_str))?;
        return Ok(0);
    }
    let (filename, size) = match parsed.words.as_slice() {
        [] => return Err(Failure::usage("Expecting image file name")),
        [filename] => (filename, None),
        [filename, size] => (filename, Some(size::size("image size", size)?)),
        [_, _, extra, ..] => return Err(Failure::usage(format!("Unexpected argument: {extra}"))),
    };
    create(session, parsed, format, filename, size, &words).await.told(filename)?;
    Ok(0)
}

/// The texts of all `-o`.
pub(crate) fn option_words(parsed: &Parsed) -> Vec<&str> {
    parsed.options.iter().filter(|(o, _)| *o == 'o').filter_map(|(_, a)| a.as_deref()).collect()
}

async fn create(
    session: &Session,
    parsed: &Parsed,
    format: &str,
    filename: &str,
    size: Option<u64>,
    words: &[&str],
) -> Outcome<()> {
    let known = Known::new(&session.registry, format, Some(filename))?;
    let mut options = known.parse(words)?;
    if let Some(size) = size {
        if options.get("size").is_some() {
            return Err(Failure::new("The image size must be specified only once"));
        }
        options.set("size", &size.to_string());
    }
    take_backing(parsed, &known, format, &mut options)?;
    check_backing(session, parsed, filename, &mut options).await?;
    if options.get("size").is_none() {
        return Err(Failure::new("Image creation needs a size parameter"));
    }
    if !parsed.has('q') {
        println!("{}", known.announcement(filename, &options));
    }
    make(session, format, filename, known.for_driver(&options)?, known.has("cluster_size")).await
}

/// Makes the image by its driver. What it could not finish of a file that nobody had before goes again.
pub(crate) async fn make(
    session: &Session,
    format: &str,
    filename: &str,
    options: Options,
    has_clusters: bool,
) -> Outcome<()> {
    let is_new = is_new_file(filename);
    let made = session.registry.create(format, filename, options, &Progress::new()).await;
    if made.is_err() && is_new {
        let _ = std::fs::remove_file(filename.strip_prefix("file:").unwrap_or(filename));
    }
    made.map_err(|error| {
        if error.errno() != libc::EFBIG {
            return error.into();
        }
        let hint = if has_clusters { " (try using a larger cluster size)" } else { "" };
        Failure::new(format!("The image size is too large for file format '{format}'{hint}"))
    })
}

/// `-b` and `-F` become options.
fn take_backing(parsed: &Parsed, known: &Known, format: &str, options: &mut Options) -> Outcome<()> {
    if let Some(backing) = parsed.argument('b') {
        if !known.has("backing_file") {
            return Err(Failure::new(format!("Backing file not supported for file format '{format}'")));
        }
        options.set("backing_file", backing);
    }
    if let Some(backing_format) = parsed.argument('F') {
        if !known.has("backing_fmt") {
            return Err(Failure::new(format!(
                "Backing file format not supported for file format '{format}'"
            )));
        }
        options.set("backing_fmt", backing_format);
    }
    Ok(())
}

/// Looks whether the backing file can be opened as what it is said to be, and takes its size if none was given.
async fn check_backing(
    session: &Session,
    parsed: &Parsed,
    filename: &str,
    options: &mut Options,
) -> Outcome<()> {
    let Some(backing) = options.get("backing_file").map(str::to_owned) else { return Ok(()) };
    if backing.is_empty() {
        return Err(Failure::new("Expected backing file name, got empty string"));
    }
    if backing == filename {
        return Err(Failure::new(
            "Error: Trying to create an image with the same filename as the backing file",
        ));
    }
    let format = options.get("backing_fmt").map(str::to_owned);
    if format.is_none() {
        let failure = Failure::new("Backing file specified without backing format");
        if parsed.has('u') {
            return Err(failure);
        }
        let opened = open_backing(session, &full_backing_filename(filename, &backing), None).await?;
        let hint = format!("Detected format of {}.", opened.driver_name());
        opened.close().await?;
        return Err(failure.with_hint(hint));
    }
    if parsed.has('u') {
        return Ok(());
    }
    let path = full_backing_filename(filename, &backing);
    let opened = open_backing(session, &path, format.as_deref()).await?;
    if options.get("size").is_none() {
        options.set("size", &opened.length().to_string());
    }
    Ok(opened.close().await?)
}

async fn open_backing(session: &Session, path: &str, format: Option<&str>) -> Outcome<Arc<BlockNode>> {
    let flags = OpenFlags::READ_ONLY | OpenFlags::NO_IO;
    let opened = session.registry.open(path, format, flags).await;
    opened.map_err(|error: BlockError| {
        let hint = error.hint().map(|hint| format!("{hint}\n")).unwrap_or_default();
        Failure::from(error).with_hint(format!("{hint}Could not open backing image."))
    })
}

/// Whether a name is that of an ordinary file which is not there yet.
pub(crate) fn is_new_file(filename: &str) -> bool {
    let path = match Registry::protocol_of(filename) {
        None => filename,
        Some("file") => &filename["file:".len()..],
        Some(_) => return false,
    };
    std::fs::symlink_metadata(path).is_err()
}

/// Fails if making a file of this name would empty a file that `node` reads from.
pub(crate) fn refuse_overwriting(node: &Arc<BlockNode>, filename: &str) -> Outcome<()> {
    use std::os::unix::fs::MetadataExt;
    let id = |name: &str| {
        let metadata = std::fs::metadata(name.strip_prefix("file:").unwrap_or(name)).ok()?;
        metadata.is_file().then(|| (metadata.dev(), metadata.ino()))
    };
    let Some(target) = id(filename) else { return Ok(()) };
    if !node.filename().is_empty() && id(node.filename()) == Some(target) {
        return Err(Failure::new("Failed to get \"write\" lock")
            .with_hint(format!("Is another process using the image [{filename}]?")));
    }
    node.edges().iter().try_for_each(|edge| refuse_overwriting(&edge.node(), filename))
}
