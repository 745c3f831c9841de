//! `qemu-img bitmap`

use rhea_block::{BlockNode, DirtyBitmap, OpenFlags, PersistentBitmaps};
use rhea_options::{LongOption, Parsed};

use crate::failure::{Failure, FailureExt, Outcome};
use crate::session::{Image, Name, Session, finish, flag, id, valued};
use crate::size;

pub(crate) const SHORT: &str = "b:f:F:g:";
pub(crate) const LONG: &[LongOption] = &[
    valued("format", 'f'),
    flag("image-opts", id::IMAGE_OPTS),
    flag("add", id::ADD),
    valued("granularity", 'g'),
    flag("remove", id::REMOVE),
    flag("clear", id::CLEAR),
    flag("enable", id::ENABLE),
    flag("disable", id::DISABLE),
    valued("merge", id::MERGE),
    valued("source-file", 'b'),
    valued("source-format", 'F'),
    valued("object", id::OBJECT),
];

/// The granularity of a new bitmap, where the image's clusters do not say it: at least 4 KiB, at most 64 KiB.
const GRANULARITY: u64 = 65536;

#[derive(Clone, Copy)]
enum Action<'a> {
    Add,
    Remove,
    Clear,
    Enable,
    Disable,
    Merge(&'a str),
}

impl Action<'_> {
    fn word(self) -> &'static str {
        match self {
            Self::Add => "add",
            Self::Remove => "remove",
            Self::Clear => "clear",
            Self::Enable => "enable",
            Self::Disable => "disable",
            Self::Merge(_) => "merge",
        }
    }
}

pub(crate) async fn run(session: &Session, parsed: &Parsed) -> Outcome<u8> {
    let mut actions = Vec::new();
    for (option, argument) in &parsed.options {
        actions.push(match *option {
            id::ADD => Action::Add,
            id::REMOVE => Action::Remove,
            id::CLEAR => Action::Clear,
            id::ENABLE => Action::Enable,
            id::DISABLE => Action::Disable,
            id::MERGE => Action::Merge(argument.as_deref().unwrap_or_default()),
            _ => continue,
        });
    }
    let granularity = parsed.argument('g').map(|text| size::size("granularity", text)).transpose()?;
    let [filename, bitmap] = parsed.words.as_slice() else {
        return Err(Failure::new("Expecting filename and bitmap name"));
    };
    if actions.is_empty() {
        return Err(Failure::new(
            "Need at least one of --add, --remove, --clear, --enable, --disable, or --merge",
        ));
    }
    if granularity.is_some() && !actions.iter().any(|a| matches!(a, Action::Add)) {
        return Err(Failure::new("granularity only supported with --add"));
    }
    if parsed.has('F') && !parsed.has('b') {
        return Err(Failure::new("-F only supported with -b"));
    }
    if parsed.has('b') && !actions.iter().any(|a| matches!(a, Action::Merge(_))) {
        return Err(Failure::new("Merge bitmap source file only supported with --merge"));
    }
    let image = session.open(session.name(parsed, filename)?, OpenFlags::UNMAP).await?;
    let source = match parsed.argument('b') {
        None => None,
        Some(text) => {
            let name = Name { text, format: parsed.argument('F'), image_opts: false };
            match session.open(name, OpenFlags::READ_ONLY | OpenFlags::NO_IO | OpenFlags::NO_BACKING).await {
                Ok(source) => Some(source),
                Err(failure) => return finish(Err(failure), [image]).await,
            }
        }
    };
    let result = async {
        for action in &actions {
            let done = act(*action, &image, source.as_ref(), bitmap, granularity).await;
            done.told(format!("Operation {} on bitmap {bitmap} failed", action.word()))?;
        }
        Ok(0)
    }
    .await;
    finish(result, [image].into_iter().chain(source)).await
}

fn bitmaps(node: &BlockNode) -> Option<&dyn PersistentBitmaps> {
    node.driver().bitmaps()
}

fn not_found(name: &str) -> Failure {
    Failure::new(format!("Dirty bitmap '{name}' not found"))
}

/// Loads a bitmap that is there and whole.
async fn load(node: &BlockNode, name: &str) -> Outcome<DirtyBitmap> {
    let store = bitmaps(node).ok_or_else(|| not_found(name))?;
    let info = store.list().await?.into_iter().find(|b| b.name == name).ok_or_else(|| not_found(name))?;
    if info.inconsistent {
        return Err(Failure::new(format!("Bitmap '{name}' is inconsistent and cannot be used"))
            .with_hint("Try block-dirty-bitmap-remove to delete this bitmap from disk"));
    }
    Ok(store.load(name).await?)
}

/// The granularity a new bitmap has by itself.
async fn default_granularity(node: &BlockNode) -> Outcome<u64> {
    let cluster = node.driver().format_info().await?.cluster_size;
    Ok(if cluster == 0 { GRANULARITY } else { cluster.clamp(4096, GRANULARITY) })
}

async fn act(
    action: Action<'_>,
    image: &Image,
    source: Option<&Image>,
    name: &str,
    granularity: Option<u64>,
) -> Outcome<()> {
    let node = &*image.node;
    let stored = match action {
        Action::Add => {
            let granularity = match granularity {
                Some(granularity) => granularity,
                None => default_granularity(node).await?,
            };
            if !granularity.is_power_of_two() || granularity < 512 {
                return Err(Failure::new("Granularity must be power of 2 and at least 512"));
            }
            let Some(store) = bitmaps(node) else {
                return Err(Failure::new(format!(
                    "Can't store persistent bitmaps to {}: Operation not supported",
                    node.name()
                )));
            };
            if store.list().await?.iter().any(|b| b.name == name) {
                return Err(Failure::new(format!("Bitmap already exists: {name}")));
            }
            store.can_store(name, granularity)?;
            let mut bitmap = DirtyBitmap::new(name, granularity, node.length())?;
            bitmap.persistent = true;
            bitmap
        }
        Action::Remove => {
            let store = bitmaps(node).ok_or_else(|| not_found(name))?;
            if !store.list().await?.iter().any(|b| b.name == name) {
                return Err(not_found(name));
            }
            return Ok(store.remove(name).await?);
        }
        Action::Clear => {
            let mut bitmap = load(node, name).await?;
            bitmap.clear();
            bitmap
        }
        Action::Enable | Action::Disable => {
            let mut bitmap = load(node, name).await?;
            bitmap.enabled = matches!(action, Action::Enable);
            bitmap
        }
        Action::Merge(other) => {
            let mut bitmap = load(node, name).await?;
            let other = load(source.map_or(node, |s| &s.node), other).await?;
            if bitmap.length() != other.length() {
                return Err(Failure::new(format!(
                    "Bitmaps are of different sizes (destination size is {}, source size is {}) and can't be merged",
                    bitmap.length(),
                    other.length()
                )));
            }
            bitmap.merge(&other);
            bitmap
        }
    };
    let store = bitmaps(node).ok_or_else(|| not_found(name))?;
    Ok(store.store(&stored).await?)
}
