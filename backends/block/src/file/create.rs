//! Creating files, and giving them storage.

use std::path::Path;

use rhea_async_io::{File, OpenOptions};
use rhea_options::{Options, Size};

use super::lock::Locks;
use crate::driver::{CreateContext, CreateOption, CreateOptionType};
use crate::node::Preallocation;
use crate::permission::Permissions;
use crate::{BlockError, Result, ResultExt};

const SIZE: CreateOption = CreateOption {
    name: "size",
    kind: CreateOptionType::Size,
    help: "Virtual disk size",
    default: "",
    amendable: false,
};

/// What `file` takes; `raw` hands the same on.
pub(crate) const OPTIONS: &[CreateOption] = &[
    CreateOption {
        name: "extent_size_hint",
        kind: CreateOptionType::Size,
        help: "Extent size hint for the image file, 0 to disable",
        default: "",
        amendable: false,
    },
    CreateOption {
        name: "nocow",
        kind: CreateOptionType::Bool,
        help: "Turn off copy-on-write (valid only on btrfs)",
        default: "",
        amendable: false,
    },
    CreateOption {
        name: "preallocation",
        kind: CreateOptionType::Text,
        help: "Preallocation mode (allowed values: off, falloc, full)",
        default: "",
        amendable: false,
    },
    SIZE,
];

/// What `host_device` takes.
pub(crate) const DEVICE_OPTIONS: &[CreateOption] = &[SIZE];

/// Bytes the file system is asked to allocate at a time, where it takes such a hint.
const EXTENT_SIZE: u64 = 1 << 20;

/// Sectors: sizes of new files are whole ones.
const SECTOR: u64 = 512;

fn take_size(options: &mut Options) -> Result<u64> {
    let size = options.take::<Size>("size")?.map_or(0, |size| size.0);
    size.checked_next_multiple_of(SECTOR)
        .filter(|size| *size <= crate::MAX_LENGTH)
        .ok_or_else(|| BlockError::new(libc::EFBIG, "The image size is too large for a file"))
}

/// Creates a file, or empties the one that is there.
pub(super) async fn create(context: &CreateContext<'_>, filename: &str, mut options: Options) -> Result<()> {
    let size = take_size(&mut options)?;
    let preallocation = match options.take::<String>("preallocation")? {
        None => Preallocation::Off,
        Some(word) => Preallocation::from_word(&word)
            .ok_or_else(|| BlockError::invalid(format!("invalid parameter value: {word}")))?,
    };
    let nocow = options.take::<bool>("nocow")?.unwrap_or(false);
    let hint = options.take::<Size>("extent_size_hint")?.map_or(EXTENT_SIZE, |size| size.0);
    let hint = u32::try_from(hint).map_err(|_| BlockError::invalid("Extent size hint is too large"))?;
    options.finish(["size", "preallocation", "nocow", "extent_size_hint"])?;
    context.progress.set_total(size);
    let path = Path::new(filename);
    let open = OpenOptions { write: true, create: true, ..OpenOptions::default() };
    let file = File::open(path, open).context(format!("Could not create '{filename}'"))?;
    // Not before it is known that nobody uses it.
    let needed = Permissions::WRITE | Permissions::RESIZE;
    let locks = Locks::new(needed, Permissions::all() - Permissions::RESIZE);
    let locking = file.has_locks();
    if locking {
        Locks::NONE.change(locks, &file, filename)?;
    }
    let result = fill(&file, nocow, hint, size, preallocation).await;
    if locking {
        locks.give_back(&file);
    }
    context.progress.set_done(size);
    result
}

async fn fill(file: &File, nocow: bool, hint: u32, size: u64, preallocation: Preallocation) -> Result<()> {
    file.set_length(0).context("Could not clear file")?;
    file.set_hints(nocow, hint);
    grow(file, 0, size, preallocation).await
}

/// "Creates" an image on a device: it is there already, and must be large enough.
pub(super) fn use_device(filename: &str, mut options: Options) -> Result<()> {
    let size = take_size(&mut options)?;
    options.finish(["size"])?;
    let open = OpenOptions { write: true, nonblocking: true, ..OpenOptions::default() };
    let file = File::open(Path::new(filename), open).context(format!("Could not open '{filename}'"))?;
    let status = file.status()?;
    if !status.is_block_device() && !status.is_char_device() {
        return Err(BlockError::invalid(format!("'{filename}' is not a device")));
    }
    if file.seek_end().unwrap_or(0) < size {
        return Err(BlockError::new(libc::ENOSPC, "Cannot grow device files"));
    }
    Ok(())
}

/// Moves a file's end, with storage for what is new. On an error the end is where it was.
pub(super) async fn grow(file: &File, old: u64, length: u64, preallocation: Preallocation) -> Result<()> {
    if preallocation != Preallocation::Off && length < old {
        return Err(BlockError::unsupported("Cannot use preallocation for shrinking files"));
    }
    let back = move |file: &File| {
        // The first error is the one to tell.
        let _ = file.set_length(old);
    };
    match preallocation {
        Preallocation::Off => {
            file.settled().await;
            file.set_length(length).context("Could not resize file")
        }
        Preallocation::Metadata => Err(BlockError::unsupported("Unsupported preallocation mode: metadata")),
        Preallocation::Falloc | Preallocation::Full if length == old => Ok(()),
        Preallocation::Falloc => file
            .work_on(move |file| allocate(file, old, length).inspect_err(|_| back(file)))
            .await
            .context("Could not preallocate data for the new file"),
        Preallocation::Full => {
            file.work_on(move |file| write_zeroes(file, old, length).inspect_err(|_| back(file))).await
        }
    }
}

fn allocate(file: &File, old: u64, length: u64) -> std::io::Result<()> {
    match file.fallocate_now(0, old, length - old) {
        // No such call on this file system: blocks are there once they are written.
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => zero_fill(file, old, length),
        other => other,
    }
}

fn write_zeroes(file: &File, old: u64, length: u64) -> Result<()> {
    file.set_length(length).context("Could not resize file")?;
    zero_fill(file, old, length).context("Could not write zeros for preallocation")?;
    file.sync_data_now().context("Could not flush file to disk")
}

fn zero_fill(file: &File, mut from: u64, to: u64) -> std::io::Result<()> {
    let zeroes = vec![0; 1 << 20];
    while from < to {
        let piece = (to - from).min(zeroes.len() as u64);
        file.write_now(from, &zeroes[..piece as usize])?;
        from += piece;
    }
    Ok(())
}
