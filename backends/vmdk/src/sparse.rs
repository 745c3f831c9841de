//! The header of a sparse extent, and where its tables lie: "Virtual Disk Format 5.0", Hosted Sparse Extents, ESXi Host
//! Sparse Extents (COWD) and Stream-Optimized Compressed.
//!
//! A grain directory has the places of grain tables; these have the places of grains, both in sectors of 512 bytes. A
//! hosted extent has two of each: the redundant ones are written along, and never read but by `check`.

use rhea_block::{BlockError, BlockNode, Result};

pub(crate) const SECTOR: u64 = 512;
pub(crate) const HOSTED_MAGIC: &[u8; 4] = b"KDMV";
pub(crate) const COWD_MAGIC: &[u8; 4] = b"COWD";
/// `gdOffset` of an extent whose directory a footer tells.
const GD_AT_END: u64 = u64::MAX;
/// Entries of grain directories, of all extents together: 4 bytes each, twice.
pub(crate) const MAX_DIRECTORY_ENTRIES: u64 = 4 << 20;
/// The largest grain, in sectors: 2 MiB.
const MAX_GRAIN: u64 = 4096;

pub(crate) const FLAG_NEWLINE: u32 = 1;
pub(crate) const FLAG_REDUNDANT: u32 = 1 << 1;
pub(crate) const FLAG_ZEROED_GRAIN: u32 = 1 << 2;
pub(crate) const FLAG_COMPRESSED: u32 = 1 << 16;
pub(crate) const FLAG_MARKERS: u32 = 1 << 17;
/// What guards against a transfer as text.
const NEWLINES: [u8; 4] = *b"\n \r\n";

fn le32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

pub(crate) fn le64(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

/// The header of a hosted sparse extent. Places and sizes are in sectors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) version: u32,
    pub(crate) flags: u32,
    pub(crate) capacity: u64,
    pub(crate) grain: u64,
    pub(crate) descriptor_offset: u64,
    pub(crate) descriptor_size: u64,
    pub(crate) entries_per_table: u32,
    pub(crate) redundant_directory: u64,
    pub(crate) directory: u64,
    pub(crate) overhead: u64,
    pub(crate) compressed: bool,
}

impl Header {
    pub(crate) const LEN: usize = 512;

    fn parse(bytes: &[u8; Self::LEN]) -> Result<Self> {
        if &bytes[..4] != HOSTED_MAGIC {
            return Err(BlockError::malformed("Image not in VMDK format"));
        }
        let (version, flags) = (le32(bytes, 4), le32(bytes, 8));
        if !(1..=3).contains(&version) {
            return Err(BlockError::unsupported(format!("Unsupported VMDK version {version}")));
        }
        if flags & FLAG_NEWLINE != 0 && bytes[73..77] != NEWLINES {
            return Err(BlockError::malformed(
                "vmdk header: the newline detection bytes are wrong: transferred as text?",
            ));
        }
        let algorithm = u16::from_le_bytes([bytes[77], bytes[78]]);
        if algorithm > 1 {
            return Err(BlockError::unsupported(format!("vmdk header: compression algorithm {algorithm}")));
        }
        let header = Self {
            version,
            flags,
            capacity: le64(bytes, 12),
            grain: le64(bytes, 20),
            descriptor_offset: le64(bytes, 28),
            descriptor_size: le64(bytes, 36),
            entries_per_table: le32(bytes, 44),
            redundant_directory: le64(bytes, 48),
            directory: le64(bytes, 56),
            overhead: le64(bytes, 64),
            compressed: algorithm == 1 && flags & FLAG_COMPRESSED != 0,
        };
        header.check()?;
        Ok(header)
    }

    fn check(&self) -> Result<()> {
        let bad = |field: &str, value: u64| {
            Err(BlockError::malformed(format!("vmdk header: {field} {value} is out of range")))
        };
        match self {
            _ if self.capacity > rhea_block::MAX_LENGTH / SECTOR => bad("capacity", self.capacity),
            _ if !self.grain.is_power_of_two() || self.grain > MAX_GRAIN => bad("grain size", self.grain),
            _ if self.entries_per_table == 0 || self.entries_per_table > 512 => {
                bad("number of grain table entries", u64::from(self.entries_per_table))
            }
            _ => Ok(()),
        }
    }

    pub(crate) fn encode(&self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[..4].copy_from_slice(HOSTED_MAGIC);
        bytes[4..8].copy_from_slice(&self.version.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.flags.to_le_bytes());
        for (at, value) in [
            (12, self.capacity),
            (20, self.grain),
            (28, self.descriptor_offset),
            (36, self.descriptor_size),
            (48, self.redundant_directory),
            (56, self.directory),
            (64, self.overhead),
        ] {
            bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
        }
        bytes[44..48].copy_from_slice(&self.entries_per_table.to_le_bytes());
        bytes[73..77].copy_from_slice(&NEWLINES);
        bytes[77..79].copy_from_slice(&u16::from(self.compressed).to_le_bytes());
        bytes
    }

    /// Reads the header, or the footer that it refers to.
    pub(crate) async fn read(file: &BlockNode) -> Result<Self> {
        let mut bytes = [0; Self::LEN];
        file.read_bytes(0, &mut bytes).await?;
        // Metadata comes first: a file without all of it was cut short, whatever else may seem wrong with it.
        let overhead = le64(&bytes, 64).saturating_mul(SECTOR);
        if file.length() < overhead {
            return Err(BlockError::malformed(format!(
                "File truncated, expecting at least {overhead} bytes"
            )));
        }
        let header = Self::parse(&bytes)?;
        if header.directory != GD_AT_END {
            return Ok(header);
        }
        // The footer is followed by the end-of-stream marker, and preceded by a marker of its own.
        let at = file.length() / SECTOR * SECTOR;
        let Some(at) = at.checked_sub(2 * SECTOR).filter(|at| *at >= 2 * SECTOR) else {
            return Err(BlockError::malformed("vmdk footer: the file is too short"));
        };
        file.read_bytes(at, &mut bytes).await?;
        let footer = Self::parse(&bytes)?;
        let same = |h: &Self| (h.capacity, h.grain, h.entries_per_table, h.compressed);
        if footer.directory == GD_AT_END || same(&footer) != same(&header) {
            return Err(BlockError::malformed("vmdk footer: it does not fit the header"));
        }
        Ok(Self {
            descriptor_offset: header.descriptor_offset,
            descriptor_size: header.descriptor_size,
            ..footer
        })
    }
}

/// A sparse extent's shape and directories.
#[derive(Debug)]
pub(crate) struct Sparse {
    /// Bytes of the disk's part.
    pub(crate) length: u64,
    /// Bytes of a grain.
    pub(crate) grain: u64,
    pub(crate) entries_per_table: u64,
    /// Places of the grain tables, in sectors; 0: none.
    pub(crate) directory: Vec<u32>,
    /// The same of the redundant tables; empty: there are none.
    pub(crate) redundant: Vec<u32>,
    pub(crate) compressed: bool,
    /// A marker precedes the data of compressed grains.
    pub(crate) markers: bool,
    /// Grain table entry 1 means zeroes.
    pub(crate) zeroed_grain: bool,
    /// Nothing of it is ever written.
    pub(crate) read_only: bool,
    /// A space-efficient extent: tables have entries of eight bytes ([`crate::sesparse`]), and grains start here, in bytes.
    pub(crate) grains_at: Option<u64>,
}

/// Reads a directory of four-byte entries.
async fn read_directory(file: &BlockNode, at: u64, entries: u64) -> Result<Vec<u32>> {
    let start = at.checked_mul(SECTOR).filter(|start| *start >= SECTOR);
    let Some(start) = start.filter(|s| s.saturating_add(entries * 4) <= file.length()) else {
        return Err(BlockError::malformed(format!(
            "vmdk header: the grain directory at sector {at} with {entries} entries is beyond the file's end"
        )));
    };
    let mut bytes = vec![0; entries as usize * 4];
    file.read_bytes(start, &mut bytes).await?;
    Ok(bytes.chunks_exact(4).map(|b| le32(b, 0)).collect())
}

pub(crate) fn directory_entries(length: u64, table_span: u64, budget: &mut u64) -> Result<u64> {
    let entries = length.div_ceil(table_span);
    *budget = budget.checked_sub(entries).ok_or_else(|| {
        BlockError::new(libc::EFBIG, format!("vmdk: a grain directory of {entries} entries is too large"))
    })?;
    Ok(entries)
}

impl Sparse {
    /// Opens a hosted extent.
    pub(crate) async fn open_hosted(file: &BlockNode, header: &Header, budget: &mut u64) -> Result<Self> {
        let length = header.capacity * SECTOR;
        let grain = header.grain * SECTOR;
        let entries_per_table = u64::from(header.entries_per_table);
        let entries = directory_entries(length, grain * entries_per_table, budget)?;
        let directory = read_directory(file, header.directory, entries).await?;
        let redundant = match header.flags & FLAG_REDUNDANT != 0 && header.redundant_directory != 0 {
            true if header.redundant_directory == header.directory => vec![],
            true => read_directory(file, header.redundant_directory, entries).await?,
            false => vec![],
        };
        Ok(Self {
            length,
            grain,
            entries_per_table,
            directory,
            redundant,
            compressed: header.compressed,
            markers: header.flags & FLAG_MARKERS != 0,
            zeroed_grain: header.flags & FLAG_ZEROED_GRAIN != 0,
            read_only: false,
            grains_at: None,
        })
    }

    /// Opens a COWD extent: tables of 4096 entries, no redundancy, tables made when they are needed.
    pub(crate) async fn open_cowd(file: &BlockNode, budget: &mut u64) -> Result<Self> {
        let mut bytes = [0; 512];
        file.read_bytes(0, &mut bytes).await?;
        if &bytes[..4] != COWD_MAGIC {
            return Err(BlockError::malformed("Image not in VMDK format"));
        }
        let (version, sectors, grain) =
            (le32(&bytes, 4), u64::from(le32(&bytes, 12)), u64::from(le32(&bytes, 16)));
        let (at, count) = (u64::from(le32(&bytes, 20)), u64::from(le32(&bytes, 24)));
        if version != 1 {
            return Err(BlockError::unsupported(format!("vmdk COWD header: version {version}")));
        }
        if !grain.is_power_of_two() || grain > MAX_GRAIN {
            return Err(BlockError::malformed(format!("vmdk COWD header: grain size {grain}")));
        }
        let (length, grain) = (sectors * SECTOR, grain * SECTOR);
        let entries = directory_entries(length, grain * 4096, budget)?;
        if count < entries {
            return Err(BlockError::malformed(format!(
                "vmdk COWD header: {count} grain directory entries, the disk needs {entries}"
            )));
        }
        Ok(Self {
            length,
            grain,
            entries_per_table: 4096,
            directory: read_directory(file, at, entries).await?,
            redundant: vec![],
            compressed: false,
            markers: false,
            zeroed_grain: false,
            read_only: true,
            grains_at: None,
        })
    }

    /// Bytes of a table's entry.
    pub(crate) fn entry_len(&self) -> u64 {
        if self.grains_at.is_some() { 8 } else { 4 }
    }

    /// How much more the entry of a grain is than that of the grain before it in the file.
    pub(crate) fn step(&self) -> u32 {
        match self.grains_at {
            Some(_) => 1,
            None => (self.grain / SECTOR) as u32,
        }
    }

    /// Bytes of the disk a grain table stands for.
    pub(crate) fn table_span(&self) -> u64 {
        self.grain * self.entries_per_table
    }
}
