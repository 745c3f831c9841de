//! How a node is opened: common options, the driver, then the backing file.

use std::sync::Arc;

use rhea_options::Options;

use crate::driver::{DriverKind, OpenContext, PROBE_LENGTH, Registry, node_of};
use crate::graph::{BackingSlot, BlockNode, Role};
use crate::node::BackingFile;
use crate::options::OpenFlags;
use crate::{BlockError, Result, ResultExt};

/// A chain of backing files longer than this is a loop, or as bad as one.
const MAX_DEPTH: usize = 200;

/// The options every node has, taken out of its options.
struct Common {
    node_name: String,
    flags: OpenFlags,
}

fn take_flag(options: &mut Options, key: &str, flags: &mut OpenFlags, flag: OpenFlags) -> Result<()> {
    if let Some(value) = options.take::<bool>(key)? {
        flags.set(flag, value);
    }
    Ok(())
}

fn take_common(options: &mut Options, mut flags: OpenFlags) -> Result<Common> {
    let node_name: String = options.take("node-name")?.unwrap_or_default();
    if let Some(first) = node_name.chars().next() {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
        if !first.is_ascii_alphabetic() || !node_name.chars().all(plain) || node_name.len() > 31 {
            return Err(BlockError::invalid(format!("Invalid node-name: '{node_name}'")));
        }
    }
    take_flag(options, "read-only", &mut flags, OpenFlags::READ_ONLY)?;
    take_flag(options, "auto-read-only", &mut flags, OpenFlags::AUTO_READ_ONLY)?;
    take_flag(options, "force-share", &mut flags, OpenFlags::FORCE_SHARE)?;
    take_flag(options, "cache.direct", &mut flags, OpenFlags::DIRECT)?;
    take_flag(options, "cache.no-flush", &mut flags, OpenFlags::NO_FLUSH)?;
    if flags.contains(OpenFlags::FORCE_SHARE) && !flags.contains(OpenFlags::READ_ONLY) {
        return Err(BlockError::invalid("force-share=on can only be used with read-only images"));
    }
    if let Some(discard) = options.take::<String>("discard")? {
        match discard.as_str() {
            "unmap" | "on" => flags |= OpenFlags::UNMAP,
            "ignore" | "off" => flags -= OpenFlags::UNMAP,
            _ => return Err(BlockError::invalid(format!("Invalid discard option '{discard}'"))),
        }
    }
    if let Some(detect) = options.take::<String>("detect-zeroes")? {
        flags -= OpenFlags::DETECT_ZEROES | OpenFlags::DETECT_ZEROES_UNMAP;
        match detect.as_str() {
            "off" => {}
            "on" => flags |= OpenFlags::DETECT_ZEROES,
            "unmap" if flags.contains(OpenFlags::UNMAP) => flags |= OpenFlags::DETECT_ZEROES_UNMAP,
            "unmap" => {
                return Err(BlockError::invalid(
                    "setting detect-zeroes to unmap is not allowed without setting discard operation to unmap",
                ));
            }
            _ => return Err(BlockError::invalid(format!("Invalid parameter '{detect}' for detect-zeroes"))),
        }
    }
    Ok(Common { node_name, flags })
}

pub(crate) async fn open_node(
    registry: &Registry,
    mut options: Options,
    flags: OpenFlags,
    protocol: bool,
    filename: &str,
) -> Result<Arc<BlockNode>> {
    let describe = if filename.is_empty() {
        // A format opened by options goes by its file's name: names of backing files are relative to that.
        options.get("filename").or(options.get("file.filename")).unwrap_or_default().to_owned()
    } else {
        filename.to_owned()
    };
    let Common { node_name, flags } = take_common(&mut options, flags)?;
    if !node_name.is_empty() && registry.find(&node_name).is_some() {
        return Err(BlockError::invalid(format!("Duplicate nodes with node-name='{node_name}'")));
    }
    let mut probed = false;
    let driver_name = match options.take::<String>("driver")? {
        Some(name) => name,
        None if protocol => match options.get("filename") {
            // A member `file.filename` without a driver may have a protocol's prefix.
            Some(name) => {
                let named = registry.protocol_options(name)?;
                let driver = named.get("driver").unwrap_or("file").to_owned();
                let given = std::mem::take(&mut options);
                options = named;
                options.take::<String>("driver")?;
                for entry in given.entries().iter().filter(|e| e.key != "filename") {
                    options.set(&entry.key, entry.value.as_deref().unwrap_or("on"));
                }
                driver
            }
            None => return Err(BlockError::invalid("Must specify either driver or file")),
        },
        None => {
            probed = true;
            probe(registry, &mut options, flags, filename).await?
        }
    };
    let driver = registry
        .driver(&driver_name)
        .ok_or_else(|| BlockError::invalid(format!("Unknown driver '{driver_name}'")))?
        .clone();
    // A protocol named as the format (`-f nbd`): what was meant for its file is its own.
    if driver.kind() == DriverKind::Protocol && !protocol && options.get("filename").is_none() {
        let mut members = options.take_object("file");
        members.take::<String>("driver")?;
        options.merge(members);
    }
    let backing_name = take_backing_override(&mut options)?;
    let backing = Arc::new(BackingSlot::default());
    let context = OpenContext { registry, flags, filename, backing: backing.clone(), probed };
    let opened = driver.open(&context, &mut options).await;
    let node = match opened {
        Ok(node) => node,
        Err(error) => return Err(describe_failure(error, &describe)),
    };
    if let Some(entry) = options.entries().first() {
        let (name, key) = (driver.name(), &entry.key);
        return Err(BlockError::invalid(match driver.kind() {
            DriverKind::Protocol => format!("Block protocol '{name}' doesn't support the option '{key}'"),
            _ => format!("Block format '{name}' does not support the option '{key}'"),
        }));
    }
    let mut flags = flags;
    if flags.contains(OpenFlags::AUTO_READ_ONLY) {
        let below = node.children();
        let read_only = node.is_read_only() || below.iter().any(|edge| edge.node().is_read_only());
        flags.set(OpenFlags::READ_ONLY, read_only || flags.contains(OpenFlags::READ_ONLY));
    }
    let node = node_of(driver.name(), node_name.clone(), describe, flags, node, backing);
    open_backing(registry, &node, backing_name, flags).await?;
    if !node_name.is_empty() {
        registry.remember(&node)?;
    }
    Ok(node)
}

/// Errors that say what is wrong stay as they are (whoever opens the image says which one it is); a mere number of the
/// system's gets the file's name.
fn describe_failure(error: BlockError, filename: &str) -> BlockError {
    if filename.is_empty() || error.to_string() != crate::errno_text(error.errno()) {
        return error;
    }
    error.context(format!("Could not open '{filename}'"))
}

/// What the options say of the backing file: nothing, none (`backing=`), or options of their own.
enum BackingOverride {
    AsHeader(Options),
    None,
    Reference(String),
}

fn take_backing_override(options: &mut Options) -> Result<BackingOverride> {
    match options.take::<String>("backing")? {
        Some(name) if name.is_empty() || name == "null" => Ok(BackingOverride::None),
        Some(name) => Ok(BackingOverride::Reference(name)),
        None => Ok(BackingOverride::AsHeader(options.take_object("backing"))),
    }
}

async fn open_backing(
    registry: &Registry,
    node: &Arc<BlockNode>,
    wanted: BackingOverride,
    flags: OpenFlags,
) -> Result<()> {
    let header = node.driver().backing_file();
    let child = match wanted {
        BackingOverride::None => return Ok(()),
        BackingOverride::Reference(name) => registry.find(&name).ok_or_else(|| {
            BlockError::invalid(format!("Cannot find device='{name}' nor node-name='{name}'"))
        })?,
        BackingOverride::AsHeader(options) => {
            if flags.contains(OpenFlags::NO_BACKING) {
                return Ok(());
            }
            let named = options.get("driver").is_some()
                && (options.get("filename").is_some()
                    || options.entries().iter().any(|e| e.key.starts_with("file")));
            match header {
                Some(header) if !named => open_named_backing(registry, node, header, options, flags).await?,
                None if options.is_empty() => return Ok(()),
                _ => {
                    let opened = registry.open_node(options, flags.for_backing(), false).await;
                    opened.context("Could not open backing file")?
                }
            }
        }
    };
    if depth(&child) >= MAX_DEPTH {
        return Err(BlockError::new(libc::ELOOP, "the chain of backing files is too long"));
    }
    node.set_backing(Some(child)).await
}

async fn open_named_backing(
    registry: &Registry,
    node: &Arc<BlockNode>,
    header: BackingFile,
    extra: Options,
    flags: OpenFlags,
) -> Result<Arc<BlockNode>> {
    let filename = full_backing_filename(node.filename(), &header.filename);
    // A loop of backing files would never end: the chain's length is only known when it is open.
    let depth = DEPTH.get();
    if depth >= MAX_DEPTH {
        return Err(BlockError::new(
            libc::ELOOP,
            format!("the chain of backing files is too long at '{filename}'"),
        ));
    }
    let format = extra.get("driver").map(str::to_owned).or(header.format);
    let opened = at_depth(depth + 1, registry.open(&filename, format.as_deref(), flags.for_backing())).await;
    opened.context("Could not open backing file")
}

thread_local! {
    /// How deep in a chain of backing files the image lies that is being opened.
    static DEPTH: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

/// Sees to it that [`DEPTH`] is `depth` whenever the future runs, on whatever thread and however it ends, and what it was
/// before for others.
async fn at_depth<T>(depth: usize, future: impl Future<Output = T>) -> T {
    let mut future = std::pin::pin!(future);
    std::future::poll_fn(|cx| {
        let before = DEPTH.replace(depth);
        let polled = future.as_mut().poll(cx);
        DEPTH.set(before);
        polled
    })
    .await
}

fn depth(node: &Arc<BlockNode>) -> usize {
    let mut depth = 0;
    let mut at = Some(node.clone());
    while let Some(node) = at {
        depth += 1;
        at = node.backing();
    }
    depth
}

/// The name of a backing file as seen from here: relative names are relative to the image's folder.
pub fn full_backing_filename(image: &str, backing: &str) -> String {
    let relative = !backing.starts_with('/') && Registry::protocol_of(backing).is_none();
    match image.rfind('/') {
        Some(at) if relative => format!("{}{backing}", &image[..=at]),
        _ => backing.to_owned(),
    }
}

/// Opens the file to look at its start; the file stays open as the option `file` would have it.
async fn probe(
    registry: &Registry,
    options: &mut Options,
    flags: OpenFlags,
    filename: &str,
) -> Result<String> {
    let file = match options.get("file") {
        Some(name) => registry.find(name).ok_or_else(|| {
            BlockError::invalid(format!("Cannot find device='{name}' nor node-name='{name}'"))
        })?,
        None => {
            let mut members = options.clone();
            let members = members.take_object("file");
            if members.is_empty() {
                return Err(BlockError::invalid("Must specify either driver or file"));
            }
            let look = (flags.for_file() | OpenFlags::READ_ONLY | OpenFlags::FORCE_SHARE)
                - OpenFlags::AUTO_READ_ONLY;
            let opened = registry.open_node(members, look, true).await;
            opened.map_err(|error| describe_failure(error, filename))?
        }
    };
    let mut start = vec![0; PROBE_LENGTH.min(file.length() as usize)];
    let edge = crate::graph::Edge::new("probe", Role::File, file.clone());
    edge.set_permissions(crate::Permissions::CONSISTENT_READ, crate::Permissions::all()).await?;
    file.read_bytes(0, &mut start)
        .await
        .context(format!("Could not read image for determining its format: '{filename}'"))?;
    Ok(registry.probe(&start, filename).to_owned())
}
