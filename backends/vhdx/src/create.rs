//! Creating images.

use rhea_block::{BlockError, BlockNode, CreateContext, CreateOption, CreateOptionType, Result, Truncate};
use rhea_options::{Options, Size};

use crate::bat::{Entry, State};
use crate::layout::{
    FILE_IDENTIFIER_LEN, FILE_SIGNATURE, Guid, HEADER_OFFSETS, Header, MAX_DISK_SIZE, MIB, Parameters,
    REGION_TABLE_OFFSETS, Region, RegionTable,
};

pub(crate) const OPTIONS: &[CreateOption] = &[
    CreateOption {
        name: "size",
        kind: CreateOptionType::Size,
        help: "Virtual disk size; max of 64TB.",
        default: "",
        amendable: false,
    },
    CreateOption {
        name: "log_size",
        kind: CreateOptionType::Size,
        help: "Log size; min 1MB.",
        default: "1048576",
        amendable: false,
    },
    CreateOption {
        name: "block_size",
        kind: CreateOptionType::Size,
        help: "Block Size; min 1MB, max 256MB. 0 means auto-calculate based on image size.",
        default: "0",
        amendable: false,
    },
    CreateOption {
        name: "subformat",
        kind: CreateOptionType::Text,
        help: "VHDX format type, can be either 'dynamic' or 'fixed'. Default is 'dynamic'.",
        default: "",
        amendable: false,
    },
    CreateOption {
        name: "block_state_zero",
        kind: CreateOptionType::Bool,
        help: "Force use of payload blocks of type 'ZERO'. Non-standard, but default.  Do not set to 'off' when using \
               'qemu-img convert' with subformat=dynamic.",
        default: "",
        amendable: false,
    },
];

/// The block size of a disk whose user leaves it to us.
fn default_block_size(disk_size: u64) -> u64 {
    const GIB: u64 = 1 << 30;
    match disk_size {
        size if size > 32 << 40 => 64 * MIB,
        size if size > 100 * GIB => 32 * MIB,
        size if size > GIB => 16 * MIB,
        _ => 8 * MIB,
    }
}

/// What the options ask for.
#[derive(Debug, PartialEq, Eq)]
struct Plan {
    parameters: Parameters,
    log: Region,
    regions: RegionTable,
    /// The state of blocks without data.
    empty: State,
    /// Blocks have their places from the start.
    placed: bool,
    /// Bytes of the file.
    file_length: u64,
}

impl Plan {
    fn new(options: &mut Options) -> Result<Self> {
        let size = options.take::<Size>("size")?.map_or(0, |size| size.0);
        let log_size = options.take::<Size>("log_size")?.map_or(MIB, |size| size.0);
        let block_size = options.take::<Size>("block_size")?.map_or(0, |size| size.0);
        let fixed = match options.take::<String>("subformat")?.as_deref() {
            None | Some("dynamic") => false,
            Some("fixed") => true,
            Some(other) => {
                return Err(BlockError::invalid(format!(
                    "Parameter 'subformat' does not accept value '{other}'"
                )));
            }
        };
        let zero = options.take::<bool>("block_state_zero")?;
        if size > MAX_DISK_SIZE {
            return Err(BlockError::invalid("Image size too large; max of 64TB"));
        }
        if log_size >= 1 << 32 {
            return Err(BlockError::invalid("Log size must be smaller than 4 GB"));
        }
        let log_size = log_size.max(1).next_multiple_of(MIB);
        if log_size >= 1 << 32 {
            return Err(BlockError::invalid("Log size must be smaller than 4 GB"));
        }
        let block_size = match block_size {
            0 => default_block_size(size),
            // As QEMU does: whole MiB, and no more than the format allows.
            given => given.min(256 * MIB).next_multiple_of(MIB),
        };
        if !block_size.is_power_of_two() {
            return Err(BlockError::invalid("Block size must be a power of two"));
        }
        let parameters = Parameters {
            disk_size: size.next_multiple_of(512),
            block_size,
            logical_sector_size: 512,
            leave_blocks_allocated: fixed,
        };
        let log = Region { offset: MIB, len: log_size };
        let table = parameters.bat_entries(parameters.disk_size) * 8;
        let bat = Region { offset: log.end(), len: table.max(1).next_multiple_of(MIB) };
        let metadata = Region { offset: bat.end(), len: MIB };
        let blocks = parameters.disk_size.div_ceil(block_size);
        let data = if fixed { blocks * block_size } else { 0 };
        Ok(Self {
            parameters,
            log,
            regions: RegionTable { bat, metadata },
            empty: if zero == Some(false) { State::NotPresent } else { State::Zero },
            // Only the word itself makes the blocks of a fixed image "zero", and so takes their places from them.
            placed: fixed && zero != Some(true),
            file_length: metadata.end() + data,
        })
    }

    /// The entry of the table at an index.
    fn entry(&self, index: u64) -> Entry {
        let ratio = self.parameters.chunk_ratio();
        if index % (ratio + 1) == ratio {
            return Entry(0);
        }
        let block = index - index / (ratio + 1);
        match self.placed {
            true => Entry::new(
                State::FullyPresent,
                self.regions.metadata.end() + block * self.parameters.block_size,
            ),
            false => Entry::new(self.empty, 0),
        }
    }

    async fn write_table(&self, file: &BlockNode) -> Result<()> {
        let entries = self.parameters.bat_entries(self.parameters.disk_size);
        if !self.placed && self.empty == State::NotPresent {
            return Ok(());
        }
        let mut at = 0;
        while at < entries {
            let stop = entries.min(at + MIB / 8);
            let bytes: Vec<u8> = (at..stop).flat_map(|index| self.entry(index).0.to_le_bytes()).collect();
            file.write_bytes(self.regions.bat.offset + at * 8, &bytes).await?;
            at = stop;
        }
        Ok(())
    }

    async fn write(&self, file: &BlockNode) -> Result<()> {
        file.truncate(self.file_length, Truncate { exact: true, ..Truncate::default() }).await?;
        file.write_bytes(self.regions.metadata.offset, &self.parameters.encode_metadata(Guid::random()?))
            .await?;
        self.write_table(file).await?;
        let table = self.regions.encode();
        for offset in REGION_TABLE_OFFSETS {
            file.write_bytes(offset, &table).await?;
        }
        let (file_write_guid, data_write_guid) = (Guid::random()?, Guid::random()?);
        for (offset, sequence) in HEADER_OFFSETS.into_iter().zip(0..) {
            let header =
                Header { sequence, file_write_guid, data_write_guid, log_guid: Guid::ZERO, log: self.log };
            file.write_bytes(offset, &header.encode()).await?;
        }
        // What makes it an image comes last.
        let mut identifier = vec![0; FILE_IDENTIFIER_LEN];
        identifier[..8].copy_from_slice(FILE_SIGNATURE);
        let creator = concat!("Rhea ", env!("CARGO_PKG_VERSION")).encode_utf16();
        for (slot, unit) in identifier[8..].chunks_exact_mut(2).zip(creator) {
            slot.copy_from_slice(&unit.to_le_bytes());
        }
        file.flush().await?;
        file.write_bytes(0, &identifier).await?;
        file.flush().await
    }
}

/// Creates an image in a new file.
pub(crate) async fn create(context: &CreateContext<'_>, filename: &str, mut options: Options) -> Result<()> {
    let plan = Plan::new(&mut options)?;
    let file = context.registry.create_file(filename, 0).await?;
    let result = plan.write(&file).await;
    let closed = file.close().await;
    result.and(closed)
}

/// Makes an image of a file that is open already.
pub(crate) async fn format(file: &BlockNode, options: &str) -> Result<()> {
    let mut options = Options::parse(options, None)?;
    Plan::new(&mut options)?.write(file).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(options: &str) -> Result<Plan> {
        Plan::new(&mut Options::parse(options, None).unwrap())
    }

    #[test]
    fn the_block_size_follows_the_disk_size() {
        let block = |size: &str| plan(&format!("size={size}")).unwrap().parameters.block_size / MIB;
        let sizes = ["1G", "1025M", "100G", "101G", "32T", "33T", "64T"];
        assert_eq!(sizes.map(block), [8, 16, 16, 32, 32, 64, 64]);
        assert!(plan("size=65T").is_err());
    }

    #[test]
    fn odd_sizes_are_rounded_as_qemu_rounds_them() {
        let block =
            |size: &str| plan(&format!("size=20M,block_size={size}")).unwrap().parameters.block_size / MIB;
        assert_eq!(["1", "512K", "1536K", "512M"].map(block), [1, 1, 2, 256]);
        assert!(plan("size=20M,block_size=3M").is_err());
        let log = |size: &str| plan(&format!("size=20M,log_size={size}")).unwrap().log.len / MIB;
        assert_eq!(["512K", "1536K", "5M", "3G"].map(log), [1, 2, 5, 3072]);
        assert!(plan("size=20M,log_size=4G").is_err());
        assert_eq!(plan("size=513").unwrap().parameters.disk_size, 1024);
    }
}
