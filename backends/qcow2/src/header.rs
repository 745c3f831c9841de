//! The header: the first cluster of an image.
//!
//! Source: the qcow2 specification, "Header", "Additional fields", "Header extensions". Fields and extensions we do not
//! know are kept as they are when the header is rewritten.

use bitflags::bitflags;
use rhea_block::{BlockError, Result};

/// `QFI\xfb`
pub const MAGIC: u32 = 0x5146_49fb;

/// The largest L1 table, in bytes, as in QEMU.
pub const MAX_L1_BYTES: u64 = 32 << 20;
/// The largest refcount table, in bytes, as in QEMU.
pub const MAX_REFCOUNT_TABLE_BYTES: u64 = 8 << 20;
/// The most snapshots: a quarter of what QEMU takes, for what a list of them takes in memory.
pub const MAX_SNAPSHOTS: u32 = 16384;
/// The longest name of a backing file, in bytes.
pub const MAX_BACKING_NAME: usize = 1023;

const V2_LENGTH: usize = 72;
const V3_MIN_LENGTH: usize = 104;
const V3_LENGTH: usize = 112;

bitflags! {
    /// `incompatible_features`: who does not know a bit must not open the image.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub struct Incompatible: u64 {
        /// Refcounts may be wrong.
        const DIRTY = 1 << 0;
        /// Anything may be wrong; not to be written to.
        const CORRUPT = 1 << 1;
        /// Guest data lies in another file.
        const EXTERNAL_DATA = 1 << 2;
        /// `compression_type` is not zlib.
        const COMPRESSION = 1 << 3;
        /// L2 entries have subclusters.
        const EXTENDED_L2 = 1 << 4;
    }
}

bitflags! {
    /// `compatible_features`: may be ignored.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub struct Compatible: u64 {
        /// Refcounts may be written late, with the dirty bit set meanwhile.
        const LAZY_REFCOUNTS = 1 << 0;
        /// Those we do not know, kept.
        const _ = !0;
    }
}

bitflags! {
    /// `autoclear_features`: cleared by writers that do not know them.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub struct Autoclear: u64 {
        /// The bitmaps extension is consistent.
        const BITMAPS = 1 << 0;
        /// The external data file is a raw image of the disk.
        const RAW_EXTERNAL_DATA = 1 << 1;
        /// Those we do not know; cleared before the first write.
        const _ = !0;
    }
}

/// `crypt_method`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CryptMethod {
    /// Plain.
    #[default]
    None,
    /// AES-128-CBC with a password, the old way.
    Aes,
    /// LUKS, its header within the image.
    Luks,
}

/// `compression_type`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CompressionType {
    /// Raw deflate.
    #[default]
    Zlib,
    /// Zstandard.
    Zstd,
}

impl CompressionType {
    /// The word in options and `info`.
    pub fn word(self) -> &'static str {
        match self {
            Self::Zlib => "zlib",
            Self::Zstd => "zstd",
        }
    }
}

/// The bitmaps extension.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BitmapsExtension {
    /// How many.
    pub nb_bitmaps: u32,
    /// Bytes of the directory.
    pub directory_size: u64,
    /// Where the directory is in the file.
    pub directory_offset: u64,
}

/// Where the LUKS header is in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EncryptionHeader {
    /// Bytes from the file's start.
    pub offset: u64,
    /// Bytes.
    pub length: u64,
}

const EXT_END: u32 = 0;
const EXT_BACKING_FORMAT: u32 = 0xe279_2aca;
const EXT_FEATURE_NAMES: u32 = 0x6803_f857;
const EXT_BITMAPS: u32 = 0x2385_2875;
const EXT_ENCRYPTION: u32 = 0x0537_be77;
const EXT_DATA_FILE: u32 = 0x4441_5441;

/// The names in the feature name table: type, bit, name.
const FEATURE_NAMES: [(u8, u8, &str); 8] = [
    (0, 0, "dirty bit"),
    (0, 1, "corrupt bit"),
    (0, 2, "external data file"),
    (0, 3, "compression type"),
    (0, 4, "extended L2 entries"),
    (1, 0, "lazy refcounts"),
    (2, 0, "bitmaps"),
    (2, 1, "raw external data"),
];

/// The header's contents. [`Header::parse`] has checked each field by itself, and that tables lie at cluster boundaries
/// and within bounds; not what they contain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// 2 or 3.
    pub version: u32,
    /// 9 to 21.
    pub cluster_bits: u32,
    /// Bytes of the disk.
    pub size: u64,
    /// Encryption.
    pub crypt_method: CryptMethod,
    /// Entries of the active L1 table.
    pub l1_size: u32,
    /// Where it is.
    pub l1_table_offset: u64,
    /// Where the refcount table is.
    pub refcount_table_offset: u64,
    /// Its clusters.
    pub refcount_table_clusters: u32,
    /// Snapshots.
    pub nb_snapshots: u32,
    /// Where their table is; 0 if there are none.
    pub snapshots_offset: u64,
    /// Known bits only: others are refused.
    pub incompatible: Incompatible,
    /// All bits.
    pub compatible: Compatible,
    /// All bits.
    pub autoclear: Autoclear,
    /// Refcounts are `1 << refcount_order` bits wide; 0 to 6.
    pub refcount_order: u32,
    /// How clusters are compressed.
    pub compression_type: CompressionType,
    /// The backing file's name.
    pub backing_file: Option<String>,
    /// Its format.
    pub backing_format: Option<String>,
    /// The external data file's name.
    pub data_file: Option<String>,
    /// Bitmaps.
    pub bitmaps: Option<BitmapsExtension>,
    /// The LUKS header.
    pub encryption: Option<EncryptionHeader>,
    /// Header bytes from 112 up to `header_length`, which later versions may define.
    pub unknown_fields: Vec<u8>,
    /// Extensions we do not know: type and data.
    pub unknown_extensions: Vec<(u32, Vec<u8>)>,
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

fn malformed<T>(message: impl Into<String>) -> Result<T> {
    Err(BlockError::malformed(message))
}

/// A table of the file must start at a cluster and end within what an offset can say.
fn check_table(name: &str, offset: u64, entries: u64, entry: u64, max: u64, cluster_size: u64) -> Result<()> {
    let Some(bytes) = entries.checked_mul(entry).filter(|&bytes| bytes <= max) else {
        return Err(BlockError::new(libc::EFBIG, format!("{name} too large")));
    };
    let in_bounds = offset.checked_add(bytes).is_some_and(|end| end <= i64::MAX as u64);
    if !in_bounds || !offset.is_multiple_of(cluster_size) {
        return malformed(format!("{name} offset invalid"));
    }
    Ok(())
}

impl Header {
    /// Bytes from the image's start that are enough to know the cluster size ([`Header::cluster_size_of`]).
    pub const START: usize = V3_LENGTH;

    /// Whether an image starts like a qcow2 image of a version we may know.
    pub fn is_qcow2(start: &[u8]) -> bool {
        start.len() >= 8 && u32_at(start, 0) == MAGIC && u32_at(start, 4) >= 2
    }

    /// The size of the first cluster, from at least [`Header::START`] bytes.
    pub fn cluster_size_of(start: &[u8]) -> Result<u64> {
        if start.len() < V2_LENGTH || u32_at(start, 0) != MAGIC {
            return malformed("Image is not in qcow2 format");
        }
        let version = u32_at(start, 4);
        if !(2..=3).contains(&version) {
            return Err(BlockError::unsupported(format!("Unsupported qcow2 version {version}")));
        }
        match u32_at(start, 20) {
            bits @ 9..=21 => Ok(1 << bits),
            bits => malformed(format!("Unsupported cluster size: 2^{bits}")),
        }
    }

    /// How many bytes [`Header::parse`] looks at, as far as the image's first bytes tell: up to the end of the extensions
    /// and of the backing file's name.
    pub fn needs(start: &[u8]) -> usize {
        let version = if start.len() >= V3_MIN_LENGTH { u32_at(start, 4) } else { 2 };
        let mut at = if version >= 3 { u32_at(start, 100) as usize } else { V2_LENGTH };
        loop {
            if at.saturating_add(8) > start.len() {
                return usize::MAX;
            }
            let (kind, len) = (u32_at(start, at), u32_at(start, at + 4) as usize);
            at += 8;
            if kind == EXT_END {
                break;
            }
            at = at.saturating_add(len).saturating_add(7);
            at -= at % 8;
        }
        let name_end = u64_at(start, 8).saturating_add(u64::from(u32_at(start, 16)));
        at.max(usize::try_from(name_end).unwrap_or(usize::MAX))
    }

    /// Parses the first cluster (shorter if the file is).
    pub fn parse(cluster: &[u8]) -> Result<Self> {
        let cluster_size = Self::cluster_size_of(cluster)?;
        let cluster = &cluster[..cluster.len().min(cluster_size as usize)];
        let version = u32_at(cluster, 4);
        let mut header = Self {
            version,
            cluster_bits: cluster_size.trailing_zeros(),
            size: u64_at(cluster, 24),
            crypt_method: match u32_at(cluster, 32) {
                0 => CryptMethod::None,
                1 => CryptMethod::Aes,
                2 => CryptMethod::Luks,
                other => return malformed(format!("Unsupported encryption method {other}")),
            },
            l1_size: u32_at(cluster, 36),
            l1_table_offset: u64_at(cluster, 40),
            refcount_table_offset: u64_at(cluster, 48),
            refcount_table_clusters: u32_at(cluster, 56),
            nb_snapshots: u32_at(cluster, 60),
            snapshots_offset: u64_at(cluster, 64),
            incompatible: Incompatible::empty(),
            compatible: Compatible::empty(),
            autoclear: Autoclear::empty(),
            refcount_order: 4,
            compression_type: CompressionType::Zlib,
            backing_file: None,
            backing_format: None,
            data_file: None,
            bitmaps: None,
            encryption: None,
            unknown_fields: Vec::new(),
            unknown_extensions: Vec::new(),
        };
        let mut length = V2_LENGTH;
        let mut incompatible = 0;
        if version >= 3 {
            if cluster.len() < V3_MIN_LENGTH {
                return malformed("qcow2 header too short");
            }
            length = u32_at(cluster, 100) as usize;
            if length < V3_MIN_LENGTH {
                return malformed("qcow2 header too short");
            }
            if length > cluster.len() {
                return malformed("qcow2 header exceeds cluster size");
            }
            incompatible = u64_at(cluster, 72);
            header.compatible = Compatible::from_bits_retain(u64_at(cluster, 80));
            header.autoclear = Autoclear::from_bits_retain(u64_at(cluster, 88));
            header.refcount_order = u32_at(cluster, 96);
            header.unknown_fields = cluster[V3_LENGTH.min(length)..length].to_vec();
        }
        let backing_offset = u64_at(cluster, 8);
        let extensions_end = match backing_offset {
            0 => cluster.len(),
            at if at > cluster_size || at > cluster.len() as u64 => {
                return malformed("Invalid backing file offset");
            }
            at => at as usize,
        };
        let names = header.parse_extensions(cluster, length, extensions_end, incompatible)?;
        header.parse_features(cluster, length, incompatible, &names)?;
        header.parse_backing_file(cluster, backing_offset)?;
        header.check_tables()?;
        Ok(header)
    }

    /// Returns the feature name table, for messages.
    fn parse_extensions(
        &mut self,
        cluster: &[u8],
        start: usize,
        end: usize,
        incompatible: u64,
    ) -> Result<Vec<u8>> {
        let mut names = Vec::new();
        let mut at = start;
        while at + 8 <= end {
            let (kind, len) = (u32_at(cluster, at), u32_at(cluster, at + 4) as usize);
            at += 8;
            if kind == EXT_END {
                break;
            }
            if len > end - at {
                return malformed("Header extension too large");
            }
            let data = &cluster[at..at + len];
            self.parse_extension(kind, data, incompatible, &mut names)?;
            at += len.next_multiple_of(8);
        }
        Ok(names)
    }

    fn parse_extension(
        &mut self,
        kind: u32,
        data: &[u8],
        incompatible: u64,
        names: &mut Vec<u8>,
    ) -> Result<()> {
        let text = |what: &str| match std::str::from_utf8(data) {
            Ok(text) => Ok(text.trim_end_matches('\0').to_owned()),
            Err(_) => malformed(format!("{what} is not UTF-8")),
        };
        match kind {
            EXT_BACKING_FORMAT => {
                if data.len() >= 16 {
                    return malformed(format!(
                        "ERROR: ext_backing_format: len={} too large (>={})",
                        data.len(),
                        16
                    ));
                }
                self.backing_format = Some(text("ext_backing_format")?).filter(|name| !name.is_empty());
            }
            EXT_FEATURE_NAMES => *names = data.to_vec(),
            EXT_BITMAPS => {
                if data.len() != 24 {
                    return malformed("bitmaps_ext: Invalid extension length");
                }
                if u32_at(data, 4) != 0 {
                    return malformed("bitmaps_ext: Reserved field is not zero");
                }
                self.bitmaps = Some(BitmapsExtension {
                    nb_bitmaps: u32_at(data, 0),
                    directory_size: u64_at(data, 8),
                    directory_offset: u64_at(data, 16),
                });
            }
            EXT_ENCRYPTION => {
                if self.crypt_method != CryptMethod::Luks {
                    return malformed("CRYPTO header extension only expected with LUKS encryption method");
                }
                if data.len() != 16 {
                    return malformed(format!(
                        "CRYPTO header extension size {}, but expected size 16",
                        data.len()
                    ));
                }
                let at = EncryptionHeader { offset: u64_at(data, 0), length: u64_at(data, 8) };
                if !at.offset.is_multiple_of(1 << self.cluster_bits) {
                    return malformed(format!(
                        "Encryption header offset '{}' is not a multiple of cluster size '{}'",
                        at.offset,
                        1u64 << self.cluster_bits
                    ));
                }
                if at.offset.checked_add(at.length).is_none_or(|end| end > i64::MAX as u64) {
                    return malformed("Encryption header length is too large");
                }
                self.encryption = Some(at);
            }
            EXT_DATA_FILE if incompatible & Incompatible::EXTERNAL_DATA.bits() != 0 => {
                self.data_file = Some(text("data file name")?);
            }
            _ => self.unknown_extensions.push((kind, data.to_vec())),
        }
        Ok(())
    }

    fn parse_features(
        &mut self,
        cluster: &[u8],
        length: usize,
        incompatible: u64,
        names: &[u8],
    ) -> Result<()> {
        let unknown = incompatible & !Incompatible::all().bits();
        if unknown != 0 {
            return Err(BlockError::unsupported(format!(
                "Unsupported qcow2 feature(s): {}",
                feature_names(unknown, names)
            )));
        }
        self.incompatible = Incompatible::from_bits_retain(incompatible);
        if self.refcount_order > 6 {
            return malformed("Reference count entry width too large; may not exceed 64 bits");
        }
        let compression = if length > V3_MIN_LENGTH { cluster[V3_MIN_LENGTH] } else { 0 };
        self.compression_type = match compression {
            0 => CompressionType::Zlib,
            1 => CompressionType::Zstd,
            other => {
                return Err(BlockError::unsupported(format!("qcow2: unknown compression type: {other}")));
            }
        };
        let flagged = self.incompatible.contains(Incompatible::COMPRESSION);
        if flagged && self.compression_type == CompressionType::Zlib {
            return malformed(
                "qcow2: Compression type incompatible feature bit must not be set for compression type zlib",
            );
        }
        if !flagged && self.compression_type != CompressionType::Zlib {
            return malformed("qcow2: Compression type incompatible feature bit must be set");
        }
        if self.has_extended_l2() && self.cluster_bits < 14 {
            return malformed(format!(
                "Unsupported cluster size: 2^{} (extended L2 entries need at least 2^14)",
                self.cluster_bits
            ));
        }
        if self.autoclear.contains(Autoclear::RAW_EXTERNAL_DATA) && !self.has_external_data() {
            // The bit means nothing without a data file; a writer clears it.
            self.autoclear -= Autoclear::RAW_EXTERNAL_DATA;
        }
        if self.crypt_method == CryptMethod::Luks && self.encryption.is_none() {
            return malformed("Missing CRYPTO header for crypt method 2");
        }
        Ok(())
    }

    fn parse_backing_file(&mut self, cluster: &[u8], offset: u64) -> Result<()> {
        let len = u32_at(cluster, 16) as usize;
        if offset == 0 {
            return Ok(());
        }
        if len > MAX_BACKING_NAME || len > (1 << self.cluster_bits) - offset as usize {
            return malformed("Backing file name too long");
        }
        let Some(name) = cluster.get(offset as usize..offset as usize + len) else {
            return malformed("Could not read backing file name");
        };
        let Ok(name) = std::str::from_utf8(name) else {
            return malformed("Backing file name is not UTF-8");
        };
        self.backing_file = Some(name.trim_end_matches('\0').to_owned()).filter(|name| !name.is_empty());
        Ok(())
    }

    fn check_tables(&self) -> Result<()> {
        let cluster_size = 1u64 << self.cluster_bits;
        if self.refcount_table_clusters == 0 {
            return malformed("Image does not contain a reference count table");
        }
        check_table(
            "Reference count table",
            self.refcount_table_offset,
            u64::from(self.refcount_table_clusters),
            cluster_size,
            MAX_REFCOUNT_TABLE_BYTES,
            cluster_size,
        )?;
        if self.nb_snapshots > MAX_SNAPSHOTS {
            return Err(BlockError::new(libc::EFBIG, "Snapshot table too large"));
        }
        check_table(
            "Snapshot table",
            self.snapshots_offset,
            u64::from(self.nb_snapshots),
            40,
            u64::MAX,
            cluster_size,
        )?;
        check_table(
            "Active L1 table",
            self.l1_table_offset,
            u64::from(self.l1_size),
            8,
            MAX_L1_BYTES,
            cluster_size,
        )?;
        if self.size > rhea_block::MAX_LENGTH {
            return Err(BlockError::new(libc::EFBIG, "Image is too big"));
        }
        if u64::from(self.l1_size) < self.l1_entries_for(self.size) {
            return malformed("L1 table is too small");
        }
        Ok(())
    }

    /// Entries of an L1 table for a disk of `size` bytes.
    pub fn l1_entries_for(&self, size: u64) -> u64 {
        let l2_entry = if self.has_extended_l2() { 4 } else { 3 };
        let covered_bits = self.cluster_bits + self.cluster_bits - l2_entry;
        size.div_ceil(1 << covered_bits)
    }

    /// Whether L2 entries have subclusters.
    pub fn has_extended_l2(&self) -> bool {
        self.incompatible.contains(Incompatible::EXTENDED_L2)
    }

    /// Whether guest data lies in another file.
    pub fn has_external_data(&self) -> bool {
        self.incompatible.contains(Incompatible::EXTERNAL_DATA)
    }

    /// Whether that file is a raw image of the disk.
    pub fn is_data_file_raw(&self) -> bool {
        self.has_external_data() && self.autoclear.contains(Autoclear::RAW_EXTERNAL_DATA)
    }

    /// The bytes to store at the image's start; those up to the end of the first cluster that are missing may be
    /// anything. Fails if they do not fit a cluster.
    pub fn serialize(&self) -> Result<Vec<u8>> {
        let cluster_size = 1usize << self.cluster_bits;
        let extensions = self.extensions();
        let mut bytes = self.fixed_fields();
        for (kind, data) in &extensions {
            push_extension(&mut bytes, *kind, data);
        }
        // Behind the others, where its coming and going moves nothing.
        let backing_len = self.backing_file.as_ref().map_or(0, String::len);
        // The table of names is only a courtesy: it gives way to what is needed.
        let names = feature_name_table();
        if self.version >= 3 && bytes.len() + 8 + names.len() + 8 + backing_len < cluster_size {
            push_extension(&mut bytes, EXT_FEATURE_NAMES, &names);
        }
        push_extension(&mut bytes, EXT_END, &[]);
        if let Some(name) = &self.backing_file {
            let at = bytes.len() as u64;
            bytes[8..16].copy_from_slice(&at.to_be_bytes());
            bytes[16..20].copy_from_slice(&(name.len() as u32).to_be_bytes());
            bytes.extend_from_slice(name.as_bytes());
        }
        if bytes.len() > cluster_size {
            return Err(BlockError::new(libc::ENOSPC, "The image header does not fit into a cluster"));
        }
        Ok(bytes)
    }

    /// The bytes to store where `disk` is the image's start with the header `old`. What only changes numbers leaves
    /// everything but these numbers as it is, so that few sectors change.
    pub fn bytes_over(&self, old: &Self, disk: &[u8]) -> Result<Vec<u8>> {
        let same_names = self.backing_file == old.backing_file && self.unknown_fields == old.unknown_fields;
        if self.version != old.version || !same_names || self.extensions() != old.extensions() {
            return self.serialize();
        }
        let mut bytes = disk.to_vec();
        let fixed = self.fixed_fields();
        // Up to the backing file's name, whose place stays; behind it, up to the header's length, which stays as well.
        bytes[..8].copy_from_slice(&fixed[..8]);
        let end = match self.version {
            2 => V2_LENGTH,
            _ => V3_MIN_LENGTH - 4,
        };
        bytes[20..end].copy_from_slice(&fixed[20..end]);
        if self.compression_type != old.compression_type {
            return self.serialize();
        }
        Ok(bytes)
    }

    fn extensions(&self) -> Vec<(u32, Vec<u8>)> {
        let mut list = Vec::new();
        if let Some(format) = &self.backing_format {
            list.push((EXT_BACKING_FORMAT, format.clone().into_bytes()));
        }
        if let Some(name) = self.data_file.as_ref().filter(|_| self.has_external_data()) {
            list.push((EXT_DATA_FILE, name.clone().into_bytes()));
        }
        if let Some(at) = &self.encryption {
            list.push((EXT_ENCRYPTION, [at.offset.to_be_bytes(), at.length.to_be_bytes()].concat()));
        }
        if let Some(bitmaps) = &self.bitmaps {
            let mut data = bitmaps.nb_bitmaps.to_be_bytes().to_vec();
            data.extend_from_slice(&[0; 4]);
            data.extend_from_slice(&bitmaps.directory_size.to_be_bytes());
            data.extend_from_slice(&bitmaps.directory_offset.to_be_bytes());
            list.push((EXT_BITMAPS, data));
        }
        list.extend(self.unknown_extensions.iter().cloned());
        list
    }

    fn fixed_fields(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(1024);
        let crypt_method: u32 = match self.crypt_method {
            CryptMethod::None => 0,
            CryptMethod::Aes => 1,
            CryptMethod::Luks => 2,
        };
        bytes.extend_from_slice(&MAGIC.to_be_bytes());
        bytes.extend_from_slice(&self.version.to_be_bytes());
        bytes.extend_from_slice(&[0; 12]);
        bytes.extend_from_slice(&self.cluster_bits.to_be_bytes());
        bytes.extend_from_slice(&self.size.to_be_bytes());
        bytes.extend_from_slice(&crypt_method.to_be_bytes());
        bytes.extend_from_slice(&self.l1_size.to_be_bytes());
        bytes.extend_from_slice(&self.l1_table_offset.to_be_bytes());
        bytes.extend_from_slice(&self.refcount_table_offset.to_be_bytes());
        bytes.extend_from_slice(&self.refcount_table_clusters.to_be_bytes());
        bytes.extend_from_slice(&self.nb_snapshots.to_be_bytes());
        bytes.extend_from_slice(&self.snapshots_offset.to_be_bytes());
        debug_assert_eq!(bytes.len(), V2_LENGTH);
        if self.version >= 3 {
            let length = (V3_LENGTH + self.unknown_fields.len()).next_multiple_of(8);
            let compression = match self.compression_type {
                CompressionType::Zlib => 0,
                CompressionType::Zstd => 1,
            };
            bytes.extend_from_slice(&self.incompatible.bits().to_be_bytes());
            bytes.extend_from_slice(&self.compatible.bits().to_be_bytes());
            bytes.extend_from_slice(&self.autoclear.bits().to_be_bytes());
            bytes.extend_from_slice(&self.refcount_order.to_be_bytes());
            bytes.extend_from_slice(&(length as u32).to_be_bytes());
            bytes.push(compression);
            bytes.extend_from_slice(&[0; 7]);
            bytes.extend_from_slice(&self.unknown_fields);
            bytes.resize(length, 0);
        }
        bytes
    }
}

fn push_extension(bytes: &mut Vec<u8>, kind: u32, data: &[u8]) {
    bytes.extend_from_slice(&kind.to_be_bytes());
    bytes.extend_from_slice(&(data.len() as u32).to_be_bytes());
    bytes.extend_from_slice(data);
    bytes.resize(bytes.len().next_multiple_of(8), 0);
}

fn feature_name_table() -> Vec<u8> {
    let mut table = Vec::with_capacity(FEATURE_NAMES.len() * 48);
    for (kind, bit, name) in FEATURE_NAMES {
        table.push(kind);
        table.push(bit);
        table.extend_from_slice(name.as_bytes());
        table.resize(table.len().next_multiple_of(48), 0);
    }
    table
}

/// The names of incompatible features, as the image's own table has them.
fn feature_names(mut bits: u64, table: &[u8]) -> String {
    let mut names = Vec::new();
    for entry in table.chunks_exact(48) {
        let bit = 1u64.checked_shl(u32::from(entry[1])).unwrap_or(0);
        if entry[0] == 0 && bits & bit != 0 {
            bits &= !bit;
            let name = String::from_utf8_lossy(&entry[2..]);
            names.push(name.trim_end_matches('\0').to_owned());
        }
    }
    if bits != 0 {
        names.push(format!("Unknown incompatible feature: {bits:x}"));
    }
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Header {
        Header {
            version: 3,
            cluster_bits: 16,
            size: 1 << 30,
            crypt_method: CryptMethod::None,
            l1_size: 2,
            l1_table_offset: 0x30000,
            refcount_table_offset: 0x10000,
            refcount_table_clusters: 1,
            nb_snapshots: 0,
            snapshots_offset: 0,
            incompatible: Incompatible::COMPRESSION,
            compatible: Compatible::LAZY_REFCOUNTS,
            autoclear: Autoclear::BITMAPS,
            refcount_order: 4,
            compression_type: CompressionType::Zstd,
            backing_file: Some("base.img".into()),
            backing_format: Some("raw".into()),
            data_file: None,
            bitmaps: Some(BitmapsExtension { nb_bitmaps: 1, directory_size: 32, directory_offset: 0x50000 }),
            encryption: None,
            unknown_fields: vec![1, 2, 3, 4, 5, 6, 7, 8],
            unknown_extensions: vec![(0x1234, vec![9; 5])],
        }
    }

    #[test]
    fn what_is_written_is_read_back() {
        let header = sample();
        assert_eq!(Header::parse(&header.serialize().unwrap()).unwrap(), header);
        let v2 = Header {
            version: 2,
            incompatible: Incompatible::empty(),
            compatible: Compatible::empty(),
            autoclear: Autoclear::empty(),
            compression_type: CompressionType::Zlib,
            unknown_fields: vec![],
            ..header
        };
        assert_eq!(Header::parse(&v2.serialize().unwrap()).unwrap(), v2);
    }

    #[test]
    fn any_cut_or_changed_byte_is_an_error_or_a_header_but_no_panic() {
        let bytes = sample().serialize().unwrap();
        for len in 0..bytes.len() {
            let _ = Header::parse(&bytes[..len]);
        }
        for at in 0..bytes.len() {
            for value in [0, 1, 0x7f, 0x80, 0xff] {
                let mut changed = bytes.clone();
                changed[at] = value;
                let _ = Header::parse(&changed);
            }
        }
    }
}
