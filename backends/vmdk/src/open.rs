//! Opening a disk: the descriptor, wherever it is, and the extents it names.

use std::sync::Arc;

use async_lock::Mutex as AsyncMutex;
use rhea_block::{BlockError, BlockNode, Edge, OpenContext, Registry, Result, ResultExt, Role};
use rhea_options::Options;

use crate::descriptor::{Access, Descriptor, ExtentLine, ExtentType, MAX_LEN};
use crate::image::{DescriptorPlace, Extent, Image, Storage};
use crate::sparse::{COWD_MAGIC, HOSTED_MAGIC, Header, MAX_DIRECTORY_ENTRIES, SECTOR, Sparse};

/// The kinds of disks whose descriptor is a file of its own.
const SPLIT_TYPES: [&str; 6] =
    ["monolithicFlat", "twoGbMaxExtentFlat", "twoGbMaxExtentSparse", "vmfs", "vmfsSparse", "seSparse"];

pub(crate) async fn open(context: &OpenContext<'_>, options: &mut Options) -> Result<Image> {
    let edge = context.open_child(options, "file", Role::File).await?;
    let file = edge.node();
    let mut magic = [0; 4];
    file.read_bytes(0, &mut magic).await?;
    let (extents, place, descriptor) = match &magic {
        HOSTED_MAGIC => open_monolithic(&edge).await?,
        COWD_MAGIC => {
            return Err(BlockError::unsupported(
                "a COWD extent can only be opened by the descriptor that names it",
            ));
        }
        _ => open_split(context, options, &edge).await?,
    };
    let read_only = |e: &Extent| e.sparse().is_some_and(|s| s.read_only);
    if context.writable() && extents.iter().any(read_only) {
        return Err(BlockError::new(
            libc::EROFS,
            "vmfsSparse and seSparse extents can only be opened read-only",
        ));
    }
    Ok(Image {
        file: edge,
        extents,
        tables: Default::default(),
        backing: context.backing.clone(),
        cid: descriptor.cid.into(),
        parent_cid: descriptor.parent_cid,
        parent: descriptor.parent,
        create_type: descriptor.create_type,
        descriptor: place,
        announced: AsyncMutex::new(false),
        announced_hint: false.into(),
        parent_is_valid: false.into(),
        committing: AsyncMutex::new(()),
    })
}

type Opened = (Vec<Extent>, DescriptorPlace, Descriptor);

/// A disk whose descriptor lies within its only extent.
async fn open_monolithic(edge: &Arc<Edge>) -> Result<Opened> {
    let file = edge.node();
    let header = Header::read(&file).await?;
    let offset = header.descriptor_offset.saturating_mul(SECTOR);
    let len = header.descriptor_size.saturating_mul(SECTOR);
    if offset == 0 || len == 0 {
        return Err(BlockError::malformed(
            "vmdk header: no descriptor is embedded; open the disk by its descriptor file",
        ));
    }
    if len > MAX_LEN || offset.saturating_add(len) > file.length().next_multiple_of(SECTOR) {
        return Err(BlockError::malformed(format!(
            "vmdk header: the descriptor at {offset:#x} with {len} bytes is out of range"
        )));
    }
    let mut text = vec![0; len as usize];
    file.read_bytes(offset, &mut text).await?;
    let descriptor = Descriptor::parse(&text, false)?;
    let mut budget = MAX_DIRECTORY_ENTRIES;
    let sparse = Sparse::open_hosted(&file, &header, &mut budget).await?;
    let extent = Extent {
        start: 0,
        length: sparse.length,
        access: Access::ReadWrite,
        kind: None,
        end: AsyncMutex::new(file.length().max(header.overhead.saturating_mul(SECTOR).min(1 << 40))),
        storage: Storage::Sparse(sparse),
        file: Some(edge.clone()),
    };
    Ok((vec![extent], DescriptorPlace { offset, len }, descriptor))
}

/// A disk whose descriptor is the file.
async fn open_split(context: &OpenContext<'_>, options: &mut Options, edge: &Arc<Edge>) -> Result<Opened> {
    let file = edge.node();
    let len = file.length();
    if len > MAX_LEN {
        return Err(BlockError::malformed("invalid VMDK image descriptor"));
    }
    let mut text = vec![0; len as usize];
    file.read_bytes(0, &mut text).await?;
    let descriptor = Descriptor::parse(&text, true)?;
    let kind = descriptor.create_type.as_str();
    if !SPLIT_TYPES.contains(&kind) {
        return Err(BlockError::unsupported(format!("Unsupported image type '{kind}'")));
    }
    let mut extents = vec![];
    let mut budget = MAX_DIRECTORY_ENTRIES;
    let mut start: u64 = 0;
    for (number, line) in descriptor.extents.iter().enumerate() {
        let extent = open_extent(context, options, &file, number, line, start, &mut budget).await?;
        start = start
            .checked_add(extent.length)
            .filter(|end| *end <= rhea_block::MAX_LENGTH)
            .ok_or_else(|| BlockError::new(libc::EFBIG, "vmdk descriptor: the extents are too large"))?;
        extents.push(extent);
    }
    Ok((extents, DescriptorPlace { offset: 0, len }, descriptor))
}

async fn open_extent(
    context: &OpenContext<'_>,
    options: &mut Options,
    descriptor: &BlockNode,
    number: usize,
    line: &ExtentLine,
    start: u64,
    budget: &mut u64,
) -> Result<Extent> {
    let role = match line.kind {
        ExtentType::Zero => {
            return Ok(Extent {
                start,
                length: line.sectors * SECTOR,
                access: line.access,
                kind: Some(line.kind),
                storage: Storage::Zero,
                file: None,
                end: AsyncMutex::new(0),
            });
        }
        ExtentType::Flat | ExtentType::Vmfs => Role::Data,
        ExtentType::Sparse | ExtentType::VmfsSparse | ExtentType::SeSparse => Role::Metadata,
    };
    let name = format!("extents.{number}");
    let edge = match context.open_optional_child(options, &name, role).await? {
        Some(edge) => edge,
        None => open_extent_file(context, descriptor, &name, role, line).await?,
    };
    let file = edge.node();
    let storage = match line.kind {
        ExtentType::Sparse => {
            let header = Header::read(&file).await?;
            Storage::Sparse(Sparse::open_hosted(&file, &header, budget).await?)
        }
        ExtentType::SeSparse => Storage::Sparse(crate::sesparse::open(&file, budget).await?),
        ExtentType::VmfsSparse => Storage::Sparse(Sparse::open_cowd(&file, budget).await?),
        _ => Storage::Flat(line.offset * SECTOR),
    };
    let length = match &storage {
        Storage::Sparse(sparse) => sparse.length,
        _ => line.sectors * SECTOR,
    };
    Ok(Extent {
        start,
        length,
        access: line.access,
        kind: Some(line.kind),
        storage,
        end: AsyncMutex::new(file.length()),
        file: Some(edge),
    })
}

/// Extents are plain files, named from the descriptor's folder; a name never asks for a protocol.
async fn open_extent_file(
    context: &OpenContext<'_>,
    descriptor: &BlockNode,
    name: &str,
    role: Role,
    line: &ExtentLine,
) -> Result<Arc<Edge>> {
    let base = descriptor.filename();
    let path = match line.filename.starts_with('/') {
        true => line.filename.clone(),
        false if base.is_empty() || Registry::protocol_of(base).is_some() => {
            return Err(BlockError::invalid(format!(
                "Cannot use relative extent paths with VMDK descriptor file '{base}'"
            )));
        }
        false => format!("{}{}", &base[..base.rfind('/').map_or(0, |at| at + 1)], line.filename),
    };
    let mut options = Options::default();
    options.set("driver", "file");
    options.set("filename", &path);
    let mut flags = context.flags.for_file();
    if line.access == Access::ReadOnly {
        flags |= rhea_block::OpenFlags::READ_ONLY;
    }
    let node = context.registry.open_node(options, flags, true).await.map_err(|error| {
        match error.to_string().starts_with("Could not open '") {
            true => error,
            false => error.context(format!("Could not open '{path}'")),
        }
    })?;
    let edge = Edge::new(name, role, node);
    context.hold(&edge).await.context(format!("Could not open '{path}'"))?;
    Ok(edge)
}
