//! The structures at fixed places of a vhdx file: [MS-VHDX] sections 2.2 (header section) and 2.6 (metadata region).
//!
//! ```text
//!   0        file type identifier
//!   64 KiB   header 1            the valid one with the higher sequence number counts
//!   128 KiB  header 2
//!   192 KiB  region table 1      the first valid one counts
//!   256 KiB  region table 2
//!   1 MiB…   log, metadata region, block allocation table, payload blocks, in any order
//! ```

use rhea_block::{BlockError, Result};

use crate::crc32c::checksum_without;

/// Regions start at multiples of this and are as long.
pub(crate) const MIB: u64 = 1 << 20;
/// The longest disk: 64 TiB (section 2.6.2.2).
pub(crate) const MAX_DISK_SIZE: u64 = 64 << 40;

pub(crate) const FILE_SIGNATURE: &[u8; 8] = b"vhdxfile";
/// Bytes of the file type identifier that are written.
pub(crate) const FILE_IDENTIFIER_LEN: usize = 8 + 512;
pub(crate) const HEADER_OFFSETS: [u64; 2] = [64 << 10, 128 << 10];
pub(crate) const HEADER_LEN: usize = 4096;
pub(crate) const REGION_TABLE_OFFSETS: [u64; 2] = [192 << 10, 256 << 10];
pub(crate) const REGION_TABLE_LEN: usize = 64 << 10;
pub(crate) const METADATA_TABLE_LEN: usize = 64 << 10;
/// Entries of a region table or metadata table, at most.
const MAX_ENTRIES: usize = 2047;

/// A GUID, as its bytes lie in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Guid(pub [u8; 16]);

impl Guid {
    /// From the fields of its text form.
    const fn new(a: u32, b: u16, c: u16, d: [u8; 8]) -> Self {
        let (a, b, c) = (a.to_le_bytes(), b.to_le_bytes(), c.to_le_bytes());
        Self([a[0], a[1], a[2], a[3], b[0], b[1], c[0], c[1], d[0], d[1], d[2], d[3], d[4], d[5], d[6], d[7]])
    }

    pub(crate) const ZERO: Self = Self([0; 16]);

    /// A new one (version 4).
    pub(crate) fn random() -> Result<Self> {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes)
            .map_err(|error| BlockError::new(libc::EIO, format!("no random numbers for a GUID: {error}")))?;
        bytes[7] = bytes[7] & 0x0f | 0x40;
        bytes[8] = bytes[8] & 0x3f | 0x80;
        Ok(Self(bytes))
    }
}

impl std::fmt::Display for Guid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let b = &self.0;
        write!(
            f,
            "{:08X}-{:04X}-{:04X}-{:02X}{:02X}-",
            u32::from_le_bytes([b[0], b[1], b[2], b[3]]),
            u16::from_le_bytes([b[4], b[5]]),
            u16::from_le_bytes([b[6], b[7]]),
            b[8],
            b[9]
        )?;
        b[10..].iter().try_for_each(|byte| write!(f, "{byte:02X}"))
    }
}

const BAT_REGION: Guid =
    Guid::new(0x2dc2_7766, 0xf623, 0x4200, [0x9d, 0x64, 0x11, 0x5e, 0x9b, 0xfd, 0x4a, 0x08]);
const METADATA_REGION: Guid =
    Guid::new(0x8b7c_a206, 0x4790, 0x4b9a, [0xb8, 0xfe, 0x57, 0x5f, 0x05, 0x0f, 0x88, 0x6e]);

const FILE_PARAMETERS: Guid =
    Guid::new(0xcaa1_6737, 0xfa36, 0x4d43, [0xb3, 0xb6, 0x33, 0xf0, 0xaa, 0x44, 0xe7, 0x6b]);
const VIRTUAL_DISK_SIZE: Guid =
    Guid::new(0x2fa5_4224, 0xcd1b, 0x4876, [0xb2, 0x11, 0x5d, 0xbe, 0xd8, 0x3b, 0xf4, 0xb8]);
const VIRTUAL_DISK_ID: Guid =
    Guid::new(0xbeca_12ab, 0xb2e6, 0x4523, [0x93, 0xef, 0xc3, 0x09, 0xe0, 0x00, 0xc7, 0x46]);
const LOGICAL_SECTOR_SIZE: Guid =
    Guid::new(0x8141_bf1d, 0xa96f, 0x4709, [0xba, 0x47, 0xf2, 0x33, 0xa8, 0xfa, 0xab, 0x5f]);
const PHYSICAL_SECTOR_SIZE: Guid =
    Guid::new(0xcda3_48c7, 0x445d, 0x4471, [0x9c, 0xc9, 0xe9, 0x88, 0x52, 0x51, 0xc5, 0x56]);
const PARENT_LOCATOR: Guid =
    Guid::new(0xa8d3_5f2d, 0xb30b, 0x454d, [0xab, 0xf7, 0xd3, 0xd8, 0x48, 0x34, 0xab, 0x0c]);

/// Little-endian fields of bytes whose length the caller has checked.
pub(crate) fn le16(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

pub(crate) fn le32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

pub(crate) fn le64(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

fn guid(bytes: &[u8], at: usize) -> Guid {
    Guid(bytes[at..at + 16].try_into().expect("sixteen bytes"))
}

/// A range of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Region {
    pub(crate) offset: u64,
    pub(crate) len: u64,
}

impl Region {
    /// One whose end can be computed; regions and blocks lie below 2⁶³ and start beyond the header section.
    fn checked(offset: u64, len: u64, what: &str) -> Result<Self> {
        if offset < MIB || !offset.is_multiple_of(MIB) {
            return Err(BlockError::malformed(format!(
                "{what}: offset {offset:#x} is not a multiple of 1 MiB behind the headers"
            )));
        }
        if len == 0 || !len.is_multiple_of(MIB) {
            return Err(BlockError::malformed(format!("{what}: length {len:#x} is not a multiple of 1 MiB")));
        }
        if offset.checked_add(len).is_none_or(|end| end > rhea_block::MAX_LENGTH) {
            return Err(BlockError::malformed(format!("{what}: offset {offset:#x} is beyond any file")));
        }
        Ok(Self { offset, len })
    }

    pub(crate) fn end(self) -> u64 {
        self.offset + self.len
    }

    pub(crate) fn overlaps(self, other: Self) -> bool {
        self.offset < other.end() && other.offset < self.end()
    }
}

/// A header (section 2.2.2).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Header {
    pub(crate) sequence: u64,
    pub(crate) file_write_guid: Guid,
    pub(crate) data_write_guid: Guid,
    /// Zero: there is nothing in the log.
    pub(crate) log_guid: Guid,
    pub(crate) log: Region,
}

impl Header {
    /// `None` unless signature and checksum are right.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Result<Self>> {
        let bytes = bytes.get(..HEADER_LEN)?;
        if &bytes[..4] != b"head" || le32(bytes, 4) != checksum_without(bytes, 4) {
            return None;
        }
        Some(Self::parse_valid(bytes))
    }

    fn parse_valid(bytes: &[u8]) -> Result<Self> {
        let (log_version, version) = (le16(bytes, 64), le16(bytes, 66));
        if version != 1 {
            return Err(BlockError::unsupported(format!("vhdx header: version {version} is not supported")));
        }
        let log_guid = guid(bytes, 48);
        if log_version != 0 && log_guid != Guid::ZERO {
            return Err(BlockError::unsupported(format!("vhdx header: log version {log_version}")));
        }
        Ok(Self {
            sequence: le64(bytes, 8),
            file_write_guid: guid(bytes, 16),
            data_write_guid: guid(bytes, 32),
            log_guid,
            log: Region::checked(le64(bytes, 72), u64::from(le32(bytes, 68)), "vhdx header: log")?,
        })
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![0; HEADER_LEN];
        bytes[..4].copy_from_slice(b"head");
        bytes[8..16].copy_from_slice(&self.sequence.to_le_bytes());
        bytes[16..32].copy_from_slice(&self.file_write_guid.0);
        bytes[32..48].copy_from_slice(&self.data_write_guid.0);
        bytes[48..64].copy_from_slice(&self.log_guid.0);
        bytes[66..68].copy_from_slice(&1_u16.to_le_bytes());
        bytes[68..72].copy_from_slice(&(self.log.len as u32).to_le_bytes());
        bytes[72..80].copy_from_slice(&self.log.offset.to_le_bytes());
        let checksum = checksum_without(&bytes, 4);
        bytes[4..8].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// The header that counts, and which of the two it is.
    pub(crate) fn current(copies: [&[u8]; 2]) -> Result<(Self, usize)> {
        let parsed = copies.map(Self::parse);
        let sequence = |at: usize| match &parsed[at] {
            Some(Ok(header)) => Some(header.sequence),
            // An unsupported version with a right checksum must not be passed over for an older copy.
            Some(Err(_)) => Some(le64(copies[at], 8)),
            None => None,
        };
        let at = match (sequence(0), sequence(1)) {
            (None, None) => return Err(BlockError::malformed("No valid VHDX header found")),
            (Some(_), None) => 0,
            (None, Some(_)) => 1,
            (Some(a), Some(b)) if a == b => {
                if copies[0][..HEADER_LEN] != copies[1][..HEADER_LEN] {
                    return Err(BlockError::malformed(
                        "vhdx header: both copies have the same sequence number and differ",
                    ));
                }
                0
            }
            (Some(a), Some(b)) => usize::from(b > a),
        };
        let [first, second] = parsed;
        let header = if at == 0 { first } else { second };
        Ok((header.expect("one with a sequence number")?, at))
    }
}

/// What a region table (section 2.2.3) tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RegionTable {
    pub(crate) bat: Region,
    pub(crate) metadata: Region,
}

impl RegionTable {
    /// The first copy whose checksum is right.
    pub(crate) fn current(copies: [&[u8]; 2], log: Region) -> Result<Self> {
        let valid = |bytes: &&[u8]| {
            bytes.len() == REGION_TABLE_LEN
                && &bytes[..4] == b"regi"
                && le32(bytes, 4) == checksum_without(bytes, 4)
        };
        match copies.iter().find(|copy| valid(copy)) {
            Some(copy) => Self::parse(copy, log),
            None => Err(BlockError::malformed("vhdx region table: neither copy is valid")),
        }
    }

    fn parse(bytes: &[u8], log: Region) -> Result<Self> {
        let count = le32(bytes, 8) as usize;
        if count > MAX_ENTRIES {
            return Err(BlockError::malformed(format!("vhdx region table: {count} entries")));
        }
        let mut regions = vec![("log", log)];
        let (mut bat, mut metadata) = (None, None);
        for entry in bytes[16..].chunks_exact(32).take(count) {
            let id = guid(entry, 0);
            let (name, slot) = match id {
                BAT_REGION => ("BAT", &mut bat),
                METADATA_REGION => ("metadata", &mut metadata),
                _ if le32(entry, 28) & 1 == 1 => {
                    return Err(BlockError::unsupported(format!("vhdx region table: unknown region {id}")));
                }
                // An optional region of others; it is left alone, as nothing is ever allocated within the file.
                _ => continue,
            };
            let what = format!("vhdx region table: {name} region");
            let region = Region::checked(le64(entry, 16), u64::from(le32(entry, 24)), &what)?;
            if let Some((other, _)) = regions.iter().find(|(_, r)| r.overlaps(region)) {
                return Err(BlockError::malformed(format!("{what} overlaps the {other} region")));
            }
            regions.push((name, region));
            *slot = Some(region);
        }
        let missing = |name| BlockError::malformed(format!("vhdx region table: no {name} region"));
        Ok(Self {
            bat: bat.ok_or_else(|| missing("BAT"))?,
            metadata: metadata.ok_or_else(|| missing("metadata"))?,
        })
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![0; REGION_TABLE_LEN];
        bytes[..4].copy_from_slice(b"regi");
        bytes[8..12].copy_from_slice(&2_u32.to_le_bytes());
        let entries = [(BAT_REGION, self.bat), (METADATA_REGION, self.metadata)];
        for (slot, (id, region)) in bytes[16..].chunks_exact_mut(32).zip(entries) {
            slot[..16].copy_from_slice(&id.0);
            slot[16..24].copy_from_slice(&region.offset.to_le_bytes());
            slot[24..28].copy_from_slice(&(region.len as u32).to_le_bytes());
            slot[28..32].copy_from_slice(&1_u32.to_le_bytes());
        }
        let checksum = checksum_without(&bytes, 4);
        bytes[4..8].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }
}

/// Where an item of the metadata region lies, from the region's start.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct MetadataItem {
    pub(crate) offset: u32,
    len: u32,
}

/// Where the items of the metadata table (section 2.6.1) lie.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MetadataTable {
    pub(crate) file_parameters: MetadataItem,
    pub(crate) virtual_disk_size: MetadataItem,
    pub(crate) logical_sector_size: MetadataItem,
}

const ITEM_IS_USER: u32 = 1;
const ITEM_IS_REQUIRED: u32 = 4;

impl MetadataTable {
    /// From the first [`METADATA_TABLE_LEN`] bytes of a region.
    pub(crate) fn parse(bytes: &[u8], region: Region) -> Result<Self> {
        if &bytes[..8] != b"metadata" {
            return Err(BlockError::malformed("vhdx metadata table: wrong signature"));
        }
        let count = usize::from(le16(bytes, 10));
        if count > MAX_ENTRIES {
            return Err(BlockError::malformed(format!("vhdx metadata table: {count} entries")));
        }
        let (mut parameters, mut size, mut sector) = (None, None, None);
        for entry in bytes[32..].chunks_exact(32).take(count) {
            let id = guid(entry, 0);
            let flags = le32(entry, 24);
            let item = MetadataItem { offset: le32(entry, 16), len: le32(entry, 20) };
            let slot = match id {
                _ if flags & ITEM_IS_USER != 0 => continue,
                FILE_PARAMETERS => (&mut parameters, 8),
                VIRTUAL_DISK_SIZE => (&mut size, 8),
                LOGICAL_SECTOR_SIZE => (&mut sector, 4),
                // The parent locator belongs to differencing images, which the file parameters tell.
                VIRTUAL_DISK_ID | PHYSICAL_SECTOR_SIZE | PARENT_LOCATOR => continue,
                _ if flags & ITEM_IS_REQUIRED != 0 => {
                    return Err(BlockError::unsupported(format!("vhdx metadata table: unknown item {id}")));
                }
                _ => continue,
            };
            let end = u64::from(item.offset) + u64::from(item.len);
            if u64::from(item.offset) < METADATA_TABLE_LEN as u64 || end > region.len || item.len < slot.1 {
                return Err(BlockError::malformed(format!(
                    "vhdx metadata table: item {id} at {:#x} with {} bytes",
                    item.offset, item.len
                )));
            }
            if slot.0.replace(item).is_some() {
                return Err(BlockError::malformed(format!("vhdx metadata table: item {id} appears twice")));
            }
        }
        let missing = |name| BlockError::malformed(format!("vhdx metadata table: no {name}"));
        Ok(Self {
            file_parameters: parameters.ok_or_else(|| missing("file parameters"))?,
            virtual_disk_size: size.ok_or_else(|| missing("virtual disk size"))?,
            logical_sector_size: sector.ok_or_else(|| missing("logical sector size"))?,
        })
    }
}

/// The size and shape of a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Parameters {
    pub(crate) disk_size: u64,
    /// 1 MiB to 256 MiB, a power of two.
    pub(crate) block_size: u64,
    /// 512 or 4096.
    pub(crate) logical_sector_size: u32,
    /// A fixed image: blocks keep their storage.
    pub(crate) leave_blocks_allocated: bool,
}

impl Parameters {
    /// Checks what the items say.
    pub(crate) fn from_items(file_parameters: [u8; 8], disk_size: u64, sector_size: u32) -> Result<Self> {
        let block_size = u64::from(le32(&file_parameters, 0));
        let bits = le32(&file_parameters, 4);
        if !block_size.is_power_of_two() || !(MIB..=256 * MIB).contains(&block_size) {
            return Err(BlockError::malformed(format!("vhdx file parameters: block size {block_size}")));
        }
        if bits & 2 != 0 {
            return Err(BlockError::unsupported(
                "vhdx images with a parent (differencing) are not supported",
            ));
        }
        if sector_size != 512 && sector_size != 4096 {
            return Err(BlockError::malformed(format!("vhdx metadata: logical sector size {sector_size}")));
        }
        if disk_size > MAX_DISK_SIZE || !disk_size.is_multiple_of(u64::from(sector_size)) {
            return Err(BlockError::malformed(format!("vhdx metadata: virtual disk size {disk_size}")));
        }
        Ok(Self {
            disk_size,
            block_size,
            logical_sector_size: sector_size,
            leave_blocks_allocated: bits & 1 != 0,
        })
    }

    /// Payload blocks between two sector bitmap entries of the BAT (section 2.5).
    pub(crate) fn chunk_ratio(&self) -> u64 {
        (u64::from(self.logical_sector_size) << 23) / self.block_size
    }

    /// Entries of the BAT of a disk of this shape and `disk_size` bytes.
    pub(crate) fn bat_entries(&self, disk_size: u64) -> u64 {
        let blocks = disk_size.div_ceil(self.block_size);
        blocks + blocks.saturating_sub(1) / self.chunk_ratio()
    }

    /// The metadata region's first bytes of a new image: the table and the items behind it.
    pub(crate) fn encode_metadata(&self, disk_id: Guid) -> Vec<u8> {
        let parameters = [self.block_size as u32, u32::from(self.leave_blocks_allocated)];
        let parameters: Vec<u8> = parameters.iter().flat_map(|word| word.to_le_bytes()).collect();
        let items: [(Guid, Vec<u8>, u32); 5] = [
            (FILE_PARAMETERS, parameters, ITEM_IS_REQUIRED),
            (VIRTUAL_DISK_SIZE, self.disk_size.to_le_bytes().to_vec(), ITEM_IS_REQUIRED | 2),
            (VIRTUAL_DISK_ID, disk_id.0.to_vec(), ITEM_IS_REQUIRED | 2),
            (LOGICAL_SECTOR_SIZE, self.logical_sector_size.to_le_bytes().to_vec(), ITEM_IS_REQUIRED | 2),
            // What new images of this format have: the host's files take any alignment.
            (PHYSICAL_SECTOR_SIZE, self.logical_sector_size.to_le_bytes().to_vec(), ITEM_IS_REQUIRED | 2),
        ];
        let mut bytes = vec![0; METADATA_TABLE_LEN];
        bytes[..8].copy_from_slice(b"metadata");
        bytes[10..12].copy_from_slice(&(items.len() as u16).to_le_bytes());
        for (index, (id, item, flags)) in items.iter().enumerate() {
            let (at, len) = (bytes.len() as u32, item.len() as u32);
            bytes.extend_from_slice(item);
            let entry = &mut bytes[32 * (index + 1)..][..32];
            entry[..16].copy_from_slice(&id.0);
            entry[16..20].copy_from_slice(&at.to_le_bytes());
            entry[20..24].copy_from_slice(&len.to_le_bytes());
            entry[24..28].copy_from_slice(&flags.to_le_bytes());
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(sequence: u64) -> Header {
        Header { sequence, log: Region { offset: MIB, len: MIB }, ..Header::default() }
    }

    #[test]
    fn the_newer_valid_header_counts() {
        let (old, new) = (header(7).encode(), header(8).encode());
        assert_eq!(Header::current([&old, &new]).unwrap(), (header(8), 1));
        assert_eq!(Header::current([&new, &old]).unwrap(), (header(8), 0));
        let mut torn = new;
        torn[100] ^= 1;
        assert_eq!(Header::current([&old, &torn]).unwrap(), (header(7), 0));
        assert!(Header::current([&torn, &torn]).is_err());
    }

    #[test]
    fn the_bat_has_an_entry_for_each_whole_chunk_before_the_last_block() {
        let p = Parameters::from_items([0, 0, 0, 0x10, 0, 0, 0, 0], 0, 512).unwrap();
        assert_eq!((p.block_size, p.chunk_ratio()), (256 * MIB, 16));
        let entries = |blocks: u64| p.bat_entries(blocks * p.block_size);
        assert_eq!([0, 1, 16, 17, 32, 33].map(entries), [0, 1, 16, 18, 33, 35]);
    }

    #[test]
    fn guids_print_as_the_specification_spells_them() {
        assert_eq!(BAT_REGION.to_string(), "2DC27766-F623-4200-9D64-115E9BFD4A08");
    }

    #[test]
    fn regions_must_not_overlap() {
        let log = Region { offset: MIB, len: MIB };
        let table = RegionTable {
            bat: Region { offset: 2 * MIB, len: MIB },
            metadata: Region { offset: 3 * MIB, len: MIB },
        };
        let bytes = table.encode();
        assert_eq!(RegionTable::current([&[], &bytes], log).unwrap(), table);
        let error = RegionTable::current([&bytes, &bytes], Region { offset: MIB, len: 2 * MIB }).unwrap_err();
        assert!(error.to_string().contains("BAT region overlaps the log"), "{error}");
    }
}
