//! `qemu-img resize`

use rhea_block::{OpenFlags, Preallocation, Truncate};
use rhea_options::{LongOption, Parsed};

use crate::failure::{Failure, Outcome};
use crate::session::{Image, Name, Session, finish, flag, id, valued};
use crate::size;

pub(crate) const SHORT: &str = "qf:";
pub(crate) const LONG: &[LongOption] = &[
    flag("quiet", 'q'),
    valued("format", 'f'),
    flag("image-opts", id::IMAGE_OPTS),
    flag("shrink", id::SHRINK),
    valued("preallocation", id::PREALLOCATION),
    valued("object", id::OBJECT),
];

/// What the last argument asks for.
enum Wanted {
    Exactly(u64),
    More(u64),
    Less(u64),
}

/// Takes the size off the end of the arguments. `-1G` looks like an option, but is none.
pub(crate) fn split_size(arguments: &[String]) -> (Vec<String>, Option<String>) {
    match arguments.split_last() {
        Some((last, rest))
            if last.strip_prefix('-').is_some_and(|t| t.starts_with(|c: char| c.is_ascii_digit())) =>
        {
            (rest.to_vec(), Some(last.clone()))
        }
        _ => (arguments.to_vec(), None),
    }
}

pub(crate) async fn run(session: &Session, parsed: &Parsed) -> Outcome<u8> {
    let preallocation = match parsed.argument(id::PREALLOCATION) {
        None => Preallocation::Off,
        Some(word) => Preallocation::from_word(word)
            .ok_or_else(|| Failure::new(format!("Invalid preallocation mode '{word}'")))?,
    };
    let (filename, text) = match parsed.words.as_slice() {
        [filename, text] => (filename, text),
        [_, _, ..] => return Err(Failure::usage("Extra argument(s) in command line")),
        _ => return Err(Failure::usage("Expecting image file name and size")),
    };
    let wanted = match text.strip_prefix('+') {
        Some(more) => Wanted::More(size::option_size("size", more)?),
        None => match text.strip_prefix('-') {
            Some(less) => Wanted::Less(size::option_size("size", less)?),
            None => Wanted::Exactly(size::option_size("size", text)?),
        },
    };
    let name: Name<'_> = session.name(parsed, filename)?;
    let image = session.open(name, OpenFlags::UNMAP).await?;
    let result = resize(&image, wanted, preallocation, parsed.has(id::SHRINK)).await;
    let result = finish(result, [image]).await;
    result?;
    if !parsed.has('q') {
        println!("Image resized.");
    }
    Ok(0)
}

async fn resize(image: &Image, wanted: Wanted, preallocation: Preallocation, shrink: bool) -> Outcome<()> {
    let length = image.length();
    let target = match wanted {
        Wanted::Exactly(size) => Some(size),
        Wanted::More(by) => length.checked_add(by),
        Wanted::Less(by) => length.checked_sub(by),
    };
    let Some(target) = target.filter(|t| *t > 0 && *t <= i64::MAX as u64) else {
        return Err(Failure::new("New image size must be positive"));
    };
    if target <= length && preallocation != Preallocation::Off {
        return Err(Failure::new("Preallocation can only be used for growing images"));
    }
    if target < length && !shrink {
        return Err(Failure::new("Use the --shrink option to perform a shrink operation.").then(
            "warning: Shrinking an image will delete all data beyond the shrunken image's end. \
             Before performing such an operation, make sure there is no important data there.",
        ));
    }
    let how = Truncate { exact: true, preallocation, zero: false };
    match image.node.truncate(target, how).await {
        Err(error)
            if error.is_unsupported() && error.to_string() == rhea_block::errno_text(libc::ENOTSUP) =>
        {
            Err(Failure::new("Image format driver does not support resize"))
        }
        other => Ok(other?),
    }
}
