//! Creating disks.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use rhea_block::{
    BlockError, BlockNode, CreateContext, CreateOption, CreateOptionType, OpenFlags, Result, ResultExt,
    Truncate, full_backing_filename,
};
use rhea_options::{Options, Size};

use crate::descriptor::{Access, ExtentLine, ExtentType, NO_PARENT, NewDescriptor};
use crate::image::{Image, random_cid};
use crate::sparse::{
    FLAG_COMPRESSED, FLAG_MARKERS, FLAG_NEWLINE, FLAG_REDUNDANT, FLAG_ZEROED_GRAIN, Header,
    MAX_DIRECTORY_ENTRIES, SECTOR,
};

const fn text(name: &'static str, help: &'static str) -> CreateOption {
    CreateOption { name, kind: CreateOptionType::Text, help, default: "", amendable: false }
}

const fn flag(name: &'static str, help: &'static str, default: &'static str) -> CreateOption {
    CreateOption { name, kind: CreateOptionType::Bool, help, default, amendable: false }
}

pub(crate) const OPTIONS: &[CreateOption] = &[
    CreateOption {
        name: "size",
        kind: CreateOptionType::Size,
        help: "Virtual disk size",
        default: "",
        amendable: false,
    },
    text(
        "adapter_type",
        "Virtual adapter type, can be one of ide (default), lsilogic, buslogic or legacyESX",
    ),
    text("backing_file", "File name of a base image"),
    text("backing_fmt", "Must be 'vmdk' if present"),
    flag("compat6", "VMDK version 6 image", "off"),
    CreateOption {
        name: "hwversion",
        kind: CreateOptionType::Text,
        help: "VMDK hardware version",
        default: "undefined",
        amendable: false,
    },
    text("toolsversion", "VMware guest tools version"),
    text(
        "subformat",
        "VMDK flat extent format, can be one of {monolithicSparse (default) | monolithicFlat | twoGbMaxExtentSparse | \
         twoGbMaxExtentFlat | streamOptimized} ",
    ),
    flag("zeroed_grain", "Enable efficient zero writes using the zeroed-grain GTE feature", ""),
];

/// Sectors for an embedded descriptor, and where it is.
const DESCRIPTOR_SECTORS: u64 = 20;
/// Sectors of a grain.
const GRAIN: u64 = 128;
const ENTRIES_PER_TABLE: u64 = 512;
/// Sectors of a grain table.
const TABLE: u64 = ENTRIES_PER_TABLE * 4 / SECTOR;
/// Bytes of the longest extent of a disk in pieces.
const MAX_PIECE: u64 = 2 << 30;

/// What the options ask for.
struct Plan {
    size: u64,
    subformat: String,
    flat: bool,
    split: bool,
    compressed: bool,
    zeroed_grain: bool,
    adapter_type: String,
    hw_version: String,
    tools_version: String,
    backing: Option<String>,
    backing_format: Option<String>,
}

impl Plan {
    fn new(options: &mut Options) -> Result<Self> {
        let invalid = |value: &str| BlockError::invalid(format!("invalid parameter value: {value}"));
        let subformat = options.take::<String>("subformat")?.unwrap_or_else(|| "monolithicSparse".into());
        let (flat, split) = match subformat.as_str() {
            "monolithicSparse" | "streamOptimized" => (false, false),
            "monolithicFlat" => (true, false),
            "twoGbMaxExtentSparse" => (false, true),
            "twoGbMaxExtentFlat" => (true, true),
            other => return Err(invalid(other)),
        };
        let adapter_type = options.take::<String>("adapter_type")?.unwrap_or_else(|| "ide".into());
        if !["ide", "buslogic", "lsilogic", "legacyESX"].contains(&adapter_type.as_str()) {
            return Err(invalid(&adapter_type));
        }
        let compat6 = options.take::<bool>("compat6")?.unwrap_or(false);
        let hw_version = options.take::<String>("hwversion")?.filter(|version| version != "undefined");
        if compat6 && hw_version.is_some() {
            return Err(BlockError::invalid("compat6 cannot be enabled with hwversion set"));
        }
        let hw_version = hw_version.unwrap_or_else(|| if compat6 { "6".into() } else { "4".into() });
        let tools_version = options.take::<String>("toolsversion")?.unwrap_or_else(|| "2147483647".into());
        for word in [&hw_version, &tools_version] {
            if word.contains(['"', '\n', '\0']) {
                return Err(invalid(word));
            }
        }
        let zeroed_grain = options.take::<bool>("zeroed_grain")?.unwrap_or(false);
        let backing = options.take::<String>("backing_file")?.filter(|name| !name.is_empty());
        if flat && backing.is_some() {
            return Err(BlockError::unsupported("Flat image can't have backing file"));
        }
        if flat && zeroed_grain {
            return Err(BlockError::unsupported("Flat image can't enable zeroed grain"));
        }
        if backing.as_ref().is_some_and(|name| name.contains(['"', '\n', '\0'])) {
            return Err(BlockError::invalid(
                "vmdk: the name of a backing file cannot have quotes or line ends",
            ));
        }
        Ok(Self {
            size: options.take::<Size>("size")?.map_or(0, |size| size.0),
            compressed: subformat == "streamOptimized",
            subformat,
            flat,
            split,
            zeroed_grain,
            adapter_type,
            hw_version,
            tools_version,
            backing,
            backing_format: options.take("backing_fmt")?,
        })
    }

    /// Lays out a sparse extent: its header, and both directories.
    fn layout(&self, size: u64) -> Result<(Header, Vec<u8>, Vec<u8>)> {
        let capacity = size / SECTOR;
        let tables = size.div_ceil(GRAIN * SECTOR).div_ceil(ENTRIES_PER_TABLE);
        if tables > MAX_DIRECTORY_ENTRIES {
            return Err(BlockError::new(libc::EFBIG, "The image size is too large for a sparse VMDK extent"));
        }
        let directory_len = (tables * 4).div_ceil(SECTOR);
        let redundant = 1 + DESCRIPTOR_SECTORS;
        let directory = redundant + directory_len + tables * TABLE;
        let end = directory + directory_len + tables * TABLE;
        let entries = |start: u64| -> Vec<u8> {
            let first = start + directory_len;
            (0..tables).flat_map(|table| ((first + table * TABLE) as u32).to_le_bytes()).collect()
        };
        let mut flags = FLAG_NEWLINE | FLAG_REDUNDANT;
        let mut version = 1;
        if self.zeroed_grain {
            flags |= FLAG_ZEROED_GRAIN;
            version = 2;
        }
        if self.compressed {
            flags |= FLAG_COMPRESSED | FLAG_MARKERS;
            version = 3;
        }
        let header = Header {
            version,
            flags,
            capacity,
            grain: GRAIN,
            descriptor_offset: 1,
            descriptor_size: DESCRIPTOR_SECTORS,
            entries_per_table: ENTRIES_PER_TABLE as u32,
            redundant_directory: redundant,
            directory,
            overhead: end.next_multiple_of(GRAIN),
            compressed: self.compressed,
        };
        Ok((header, entries(redundant), entries(directory)))
    }

    async fn write_sparse(&self, file: &BlockNode, size: u64, descriptor: Option<&str>) -> Result<()> {
        let (header, redundant, directory) = self.layout(size)?;
        file.truncate(header.overhead * SECTOR, Truncate { exact: true, ..Truncate::default() }).await?;
        if !directory.is_empty() {
            file.write_bytes(header.redundant_directory * SECTOR, &redundant).await?;
            file.write_bytes(header.directory * SECTOR, &directory).await?;
        }
        if let Some(text) = descriptor {
            if text.len() as u64 > DESCRIPTOR_SECTORS * SECTOR {
                return Err(BlockError::invalid("vmdk: the names are too long for the descriptor"));
            }
            file.write_bytes(SECTOR, text.as_bytes()).await?;
        }
        file.flush().await?;
        // What makes it an extent comes last.
        file.write_bytes(0, &header.encode()).await?;
        file.flush().await
    }

    fn text(&self, cid: u32, parent_cid: u32, extents: &[ExtentLine]) -> String {
        NewDescriptor {
            cid,
            parent_cid,
            create_type: &self.subformat,
            parent: self.backing.as_deref(),
            extents,
            hw_version: &self.hw_version,
            tools_version: &self.tools_version,
            adapter_type: &self.adapter_type,
            size: self.size,
        }
        .text()
    }

    /// The lengths and names of the extents, without the folder.
    fn pieces(&self, name: &str) -> Vec<(u64, String)> {
        let (stem, suffix) =
            name.rsplit_once('.').map_or((name, String::new()), |(a, b)| (a, format!(".{b}")));
        if !self.split {
            return match self.flat {
                true => vec![(self.size, format!("{stem}-flat{suffix}"))],
                false => vec![(self.size, name.to_owned())],
            };
        }
        let letter = if self.flat { 'f' } else { 's' };
        (0..self.size.div_ceil(MAX_PIECE))
            .map(|n| {
                let length = MAX_PIECE.min(self.size - n * MAX_PIECE);
                (length, format!("{stem}-{letter}{:03}{suffix}", n + 1))
            })
            .collect()
    }
}

/// Opens the backing file: its content ID and length.
async fn look_at_backing(
    context: &CreateContext<'_>,
    filename: &str,
    plan: &Plan,
) -> Result<Option<(u32, u64)>> {
    let Some(name) = &plan.backing else { return Ok(None) };
    let full = full_backing_filename(filename, name);
    let format = plan.backing_format.as_deref().unwrap_or("vmdk");
    let flags = OpenFlags::READ_ONLY | OpenFlags::NO_BACKING;
    let node = context.registry.open(&full, Some(format), flags).await?;
    let found = node.downcast::<Image>().map(|image| (image.cid.load(Relaxed), node.length()));
    node.close().await?;
    found.map(Some).ok_or_else(|| BlockError::invalid("backing_file must be a vmdk image"))
}

/// Creates a disk: its extents, then its descriptor.
pub(crate) async fn create(context: &CreateContext<'_>, filename: &str, mut options: Options) -> Result<()> {
    let sized = options.get("size").is_some();
    let mut plan = Plan::new(&mut options)?;
    let mut parent_cid = NO_PARENT;
    if let Some((cid, length)) = look_at_backing(context, filename, &plan).await? {
        parent_cid = cid;
        if !sized {
            plan.size = length;
        }
    }
    plan.size = plan
        .size
        .checked_next_multiple_of(SECTOR)
        .filter(|size| *size <= rhea_block::MAX_LENGTH)
        .ok_or_else(|| BlockError::new(libc::EFBIG, "The image size is too large for a VMDK disk"))?;
    let (folder, name) = filename.split_at(filename.rfind('/').map_or(0, |at| at + 1));
    if name.contains(['"', '\n', '\0']) {
        return Err(BlockError::invalid("vmdk: the name of a disk cannot have quotes or line ends"));
    }
    let kind = if plan.flat { ExtentType::Flat } else { ExtentType::Sparse };
    let pieces = plan.pieces(name);
    let extents: Vec<ExtentLine> = pieces
        .iter()
        .map(|(length, name)| ExtentLine {
            access: Access::ReadWrite,
            sectors: length / SECTOR,
            kind,
            filename: name.clone(),
            offset: 0,
        })
        .collect();
    let text = plan.text(random_cid()?, parent_cid, &extents);
    if !plan.flat && !plan.split {
        let file = context.registry.create_file(filename, 0).await?;
        return finish(&file, plan.write_sparse(&file, plan.size, Some(&text)).await).await;
    }
    for (length, name) in &pieces {
        let path = format!("{folder}{name}");
        let file =
            context.registry.create_file(&path, if plan.flat { *length } else { 0 }).await.context(&path)?;
        let written = match plan.flat {
            true => Ok(()),
            false => plan.write_sparse(&file, *length, None).await,
        };
        finish(&file, written).await.context(&path)?;
    }
    let file = context.registry.create_file(filename, 0).await?;
    let written = match file.write_bytes(0, text.as_bytes()).await {
        Ok(()) => file.flush().await,
        error => error,
    };
    finish(&file, written).await
}

async fn finish(file: &Arc<BlockNode>, written: Result<()>) -> Result<()> {
    let closed = file.clone().close().await;
    written.and(closed)
}

/// Makes a monolithic sparse disk of a file that is open already.
pub(crate) async fn format(file: &BlockNode, options: &str) -> Result<()> {
    let plan = Plan::new(&mut Options::parse(options, None)?)?;
    let text = plan.text(1, NO_PARENT, &[]);
    plan.write_sparse(file, plan.size, Some(&text)).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_layout_is_that_of_other_writers() {
        let plan = Plan::new(&mut Options::parse("size=5G", None).unwrap()).unwrap();
        let (header, redundant, directory) = plan.layout(plan.size).unwrap();
        assert_eq!((header.redundant_directory, header.directory, header.overhead), (0x15, 0x297, 0x580));
        assert_eq!((redundant[0], directory.len()), (0x17, 640));
    }

    #[test]
    fn pieces_have_two_gib_and_numbers() {
        let options = "size=5G,subformat=twoGbMaxExtentFlat";
        let plan = Plan::new(&mut Options::parse(options, None).unwrap()).unwrap();
        let pieces = plan.pieces("a.b.vmdk");
        assert_eq!(pieces.len(), 3);
        assert_eq!(pieces[2], (1 << 30, "a.b-f003.vmdk".to_owned()));
    }
}
