//! The driver: recognizing, opening, creating.

use std::sync::Arc;
use std::sync::Weak;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};

use async_trait::async_trait;
use parking_lot::{Mutex, RwLock};
use rhea_block::{
    BackingSlot, BlockError, BlockNode, CreateContext, CreateOption, CreateOptionType, Driver, DriverKind,
    Edge, Measure, Node, OpenContext, OpenFlags, Repair, Result, ResultExt, Role, Secrets,
};
use rhea_block_crypto::{LuksOptions, LuksVolume};
use rhea_options::Options;
use serde_json::Value;

use crate::cache::Slices;
use crate::encryption::{Encryption, HeaderClusters};
use crate::geometry::Geometry;
use crate::header::{Autoclear, Compatible, CryptMethod, Header, Incompatible};
use crate::image::{Exclusive, Image, L1Table, read_refcount_table, read_words};
use crate::node::Qcow2Node;
use crate::options::{CacheSizes, Settings, take_cache_sizes, take_settings};
use crate::overlap::{OverlapChecks, Protected, Sections};
use crate::refcount::Refcounts;
use crate::snapshot::table::Snapshot;
use crate::stored_header::{StoredHeader, read_header};
use crate::write_back::Barrier;

/// The format `qcow2`.
#[derive(Debug, Clone, Copy, Default)]
pub struct Qcow2Driver;

const fn option(
    name: &'static str,
    kind: CreateOptionType,
    help: &'static str,
    default: &'static str,
    amendable: bool,
) -> CreateOption {
    CreateOption { name, kind, help, default, amendable }
}

/// In the order in which `-o help` lists them.
static CREATE_OPTIONS: [CreateOption; 21] = {
    use CreateOptionType::{Bool, Number, Size, Text};
    [
        option("backing_file", Text, "File name of a base image", "", true),
        option("backing_fmt", Text, "Image format of the base image", "", true),
        option("cluster_size", Size, "qcow2 cluster size", "", false),
        option("compat", Text, "Compatibility level (v2 [0.10] or v3 [1.1])", "", true),
        option("compression_type", Text, "Compression method used for image cluster compression", "", false),
        option("data_file", Text, "File name of an external data file", "", true),
        option("data_file_raw", Bool, "The external data file must stay valid as a raw image", "", true),
        option("encrypt.cipher-alg", Text, "Name of encryption cipher algorithm", "", false),
        option("encrypt.cipher-mode", Text, "Name of encryption cipher mode", "", false),
        option("encrypt.format", Text, "Encrypt the image, format choices: 'aes', 'luks'", "", false),
        option("encrypt.hash-alg", Text, "Name of encryption hash algorithm", "", false),
        option("encrypt.iter-time", Number, "Time to spend in PBKDF in milliseconds", "", true),
        option("encrypt.ivgen-alg", Text, "Name of IV generator algorithm", "", false),
        option("encrypt.ivgen-hash-alg", Text, "Name of IV generator hash algorithm", "", false),
        option(
            "encrypt.key-secret",
            Text,
            "ID of secret providing qcow AES key or LUKS passphrase",
            "",
            false,
        ),
        option(
            "encryption",
            Bool,
            "Encrypt the image with format 'aes'. (Deprecated in favor of encrypt.format=aes)",
            "",
            false,
        ),
        option("extended_l2", Bool, "Extended L2 tables", "", false),
        option("lazy_refcounts", Bool, "Postpone refcount updates", "", true),
        option(
            "preallocation",
            Text,
            "Preallocation mode (allowed values: off, metadata, falloc, full)",
            "",
            false,
        ),
        option("refcount_bits", Number, "Width of a reference count entry in bits", "", true),
        option("size", Size, "Virtual disk size", "", true),
    ]
};

#[async_trait]
impl Driver for Qcow2Driver {
    fn name(&self) -> &'static str {
        "qcow2"
    }

    fn kind(&self) -> DriverKind {
        DriverKind::Format
    }

    fn probe(&self, start: &[u8], _: &str) -> u32 {
        if Header::is_qcow2(start) { 100 } else { 0 }
    }

    async fn open(&self, context: &OpenContext<'_>, options: &mut Options) -> Result<Box<dyn Node>> {
        let image = open_image(context, options).await?;
        Ok(Box::new(Qcow2Node { image }))
    }

    fn create_options(&self) -> &'static [CreateOption] {
        &CREATE_OPTIONS
    }

    async fn create(&self, context: &CreateContext<'_>, filename: &str, options: Options) -> Result<()> {
        crate::create::create(context, filename, options).await
    }

    async fn measure(&self, options: Options, source: Option<&Arc<BlockNode>>) -> Result<Measure> {
        crate::measure::measure(options, source).await
    }

    fn supports_backing(&self) -> bool {
        true
    }
}

/// What an image is made of, before it is one.
pub(crate) struct Parts {
    pub(crate) file: Arc<Edge>,
    pub(crate) data_file: Option<Arc<Edge>>,
    pub(crate) backing: Arc<BackingSlot>,
    pub(crate) header: Header,
    pub(crate) disk: Vec<u8>,
    pub(crate) settings: Settings,
    pub(crate) caches: CacheSizes,
    pub(crate) encryption: Option<Encryption>,
    pub(crate) writable: bool,
    pub(crate) unsafe_flush: bool,
    pub(crate) secrets: Secrets,
}

/// Reads the tables that are always in memory.
pub(crate) async fn assemble(parts: Parts) -> Result<Arc<Image>> {
    let header = &parts.header;
    let node = parts.file.node();
    let geometry = Geometry::new(header);
    let entries = read_words(&node, header.l1_table_offset, header.l1_size.into())
        .await
        .context("Could not read L1 table")?;
    let l1 = L1Table { offset: header.l1_table_offset, entries, dirty: Default::default() };
    let table = read_refcount_table(&node, header).await?;
    let file_clusters = geometry.clusters(node.length());
    let slice = parts.caches.slice as usize;
    let blocks = Slices::new(slice, parts.caches.refcounts);
    let (incompatible, size) = (header.incompatible, header.size);
    let image = Arc::new_cyclic(|me: &Weak<Image>| Image {
        me: me.clone(),
        grows_with_zeroes: node.limits().growable,
        geometry,
        length: AtomicU64::new(size),
        l1: RwLock::new(l1),
        l2: Slices::new(slice, parts.caches.l2),
        l2_growth: async_lock::Mutex::new(()),
        refcounts: Refcounts::new(table, blocks, file_clusters),
        releases: Default::default(),
        in_flight: Default::default(),
        overlap: OverlapChecks::new(parts.settings.overlap, file_clusters),
        compressed: Default::default(),
        encryption: parts.encryption,
        secrets: parts.secrets,
        bitmaps: Default::default(),
        requests: async_lock::RwLock::new(()),
        sync: async_lock::Mutex::new(()),
        barrier: AtomicBool::new(false),
        writable: AtomicBool::new(parts.writable),
        corrupt: AtomicBool::new(incompatible.contains(Incompatible::CORRUPT) && parts.writable),
        unusable: AtomicBool::new(false),
        orphans: Default::default(),
        dirty_at_open: AtomicBool::new(incompatible.contains(Incompatible::DIRTY)),
        unsafe_flush: AtomicBool::new(parts.unsafe_flush),
        preallocation: Default::default(),
        settings: Mutex::new(parts.settings),
        header_io: Arc::default(),
        header: Mutex::new(StoredHeader { header: parts.header, disk: parts.disk }),
        file: parts.file,
        data_file: parts.data_file,
        backing: parts.backing,
    });
    image.note_tables();
    Ok(image)
}

async fn open_image(context: &OpenContext<'_>, options: &mut Options) -> Result<Arc<Image>> {
    let file = context.open_child(options, "file", Role::File).await?;
    let node = file.node();
    let (header, disk) = read_header(&node).await?;
    let geometry = Geometry::new(&header);
    let writable = context.writable() && !node.is_read_only();
    let check = context.flags.contains(OpenFlags::CHECK);
    if header.incompatible.contains(Incompatible::CORRUPT) && writable && !check {
        return Err(BlockError::new(libc::EACCES, "qcow2: Image is corrupt; cannot be opened read/write"));
    }
    let lazy = header.compatible.contains(Compatible::LAZY_REFCOUNTS);
    let settings = take_settings(options, &geometry, context.flags, lazy)?;
    let tables =
        8 * u64::from(header.l1_size) + u64::from(header.refcount_table_clusters) * geometry.cluster_size;
    let caches = take_cache_sizes(options, &geometry, header.size, tables)?;
    let encryption = open_encryption(context, options, &node, &header).await?;
    let data_file = open_data_file(context, options, &header).await?;
    if header.backing_file.is_some() && header.is_data_file_raw() {
        return Err(BlockError::malformed("Backing file and data-file-raw cannot be used at the same time"));
    }
    let image = assemble(Parts {
        file,
        data_file,
        backing: context.backing.clone(),
        header,
        disk,
        settings,
        caches,
        encryption,
        writable,
        unsafe_flush: false,
        secrets: context.secrets().clone(),
    })
    .await?;
    image.protect_snapshots_and_bitmaps().await?;
    if writable && !check {
        let held = image.exclusive().await;
        image.become_writable(&held).await?;
    }
    Ok(image)
}

async fn open_data_file(
    context: &OpenContext<'_>,
    options: &mut Options,
    header: &Header,
) -> Result<Option<Arc<Edge>>> {
    if !header.has_external_data() {
        let given = options.get("data-file").is_some()
            || options.entries().iter().any(|e| e.key.starts_with("data-file."));
        return match given {
            true => {
                Err(BlockError::invalid("'data-file' can only be set for images with an external data file"))
            }
            false => Ok(None),
        };
    }
    if let Some(edge) = context.open_optional_child(options, "data-file", Role::Data).await? {
        return Ok(Some(edge));
    }
    let Some(name) = &header.data_file else {
        return Err(BlockError::invalid("'data-file' is required for this image"));
    };
    let named = context.registry.protocol_options(name)?;
    for entry in named.entries() {
        options.set(&format!("data-file.{}", entry.key), entry.value.as_deref().unwrap_or("on"));
    }
    context.open_optional_child(options, "data-file", Role::Data).await
}

async fn open_encryption(
    context: &OpenContext<'_>,
    options: &mut Options,
    file: &Arc<BlockNode>,
    header: &Header,
) -> Result<Option<Encryption>> {
    let mut members = options.take_object("encrypt");
    let format = members.take::<String>("format")?;
    let secret = members.take::<String>("key-secret")?;
    for entry in members.entries() {
        options.set(&format!("encrypt.{}", entry.key), entry.value.as_deref().unwrap_or("on"));
    }
    let expected = match header.crypt_method {
        CryptMethod::None => {
            return match format.or(secret) {
                Some(_) => Err(BlockError::invalid(
                    "No encryption in image header, but options specified format 'aes' or 'luks'",
                )),
                None => Ok(None),
            };
        }
        CryptMethod::Aes => "aes",
        CryptMethod::Luks => "luks",
    };
    if let Some(format) = format
        && format != expected
    {
        return Err(BlockError::invalid(format!(
            "Header reported '{expected}' encryption format but options specify '{format}'"
        )));
    }
    let no_io = context.flags.contains(OpenFlags::NO_IO);
    if header.crypt_method == CryptMethod::Aes {
        if no_io && secret.is_none() {
            return Ok(None);
        }
        let Some(secret) = secret else {
            return Err(BlockError::invalid("Parameter 'encrypt.key-secret' is required for cipher"));
        };
        return Ok(Some(Encryption::aes(&context.secrets().get(&secret)?)));
    }
    let clusters = header_clusters(file, header)?;
    let password = match (&secret, no_io) {
        (None, true) => None,
        (None, false) => {
            return Err(BlockError::invalid("Parameter 'encrypt.key-secret' is required for cipher"));
        }
        (Some(_), _) => Some(LuksOptions::password(context.secrets(), secret.as_deref())?),
    };
    Ok(Some(Encryption::luks(LuksVolume::open(&clusters, password).await?)))
}

pub(crate) fn header_clusters(file: &Arc<BlockNode>, header: &Header) -> Result<HeaderClusters> {
    match header.encryption {
        Some(at) => Ok(HeaderClusters { file: file.clone(), offset: at.offset, length: at.length }),
        None => Err(BlockError::malformed("Missing CRYPTO header for crypt method 2")),
    }
}

impl Image {
    /// What `info` tells of the LUKS header.
    pub(crate) async fn luks_info(&self) -> Result<Value> {
        if let Some(volume) = self.encryption.as_ref().and_then(Encryption::volume) {
            return Ok(volume.info());
        }
        let header = self.header();
        let clusters = header_clusters(&self.file(), &header)?;
        Ok(LuksVolume::open(&clusters, None).await?.info())
    }

    /// What is to be done before the first write: repairs what a crash left, and clears the bits of features we do not
    /// know, as their specification asks. Whoever calls has the image alone.
    pub(crate) async fn become_writable(&self, held: &Exclusive<'_>) -> Result<()> {
        let header = self.header();
        let known = Autoclear::BITMAPS | Autoclear::RAW_EXTERNAL_DATA;
        let unknown = header.autoclear.bits() & !known.bits() != 0;
        let stray = header.autoclear.contains(Autoclear::RAW_EXTERNAL_DATA) && !header.has_external_data();
        if unknown || stray {
            self.update_header(move |header| {
                header.autoclear &= known;
                if stray {
                    header.autoclear -= Autoclear::RAW_EXTERNAL_DATA;
                }
            })
            .await?;
            self.flush_file(Barrier::AfterHeader).await?;
        }
        if header.incompatible.contains(Incompatible::DIRTY) && self.dirty_at_open.load(SeqCst) {
            let repaired = crate::check::check_held(self, Repair { leaks: true, errors: true }, held)
                .await
                .context("Could not repair dirty image")?;
            if repaired.corruptions > 0 || repaired.check_errors > 0 {
                return Err(BlockError::new(libc::EIO, "Could not repair dirty image"));
            }
        }
        Ok(())
    }

    /// Tells the overlap checks of the tables of snapshots and bitmaps. What cannot be read is told by whoever needs it.
    pub(crate) async fn protect_snapshots_and_bitmaps(&self) -> Result<()> {
        let header = self.header();
        for section in [Sections::SNAPSHOT_TABLE, Sections::INACTIVE_L1, Sections::INACTIVE_L2] {
            self.protect(section, Vec::new());
        }
        self.protect_bitmaps(&header);
        if header.nb_snapshots == 0 {
            return Ok(());
        }
        let Ok(read) = crate::snapshot::read_table(self).await else { return Ok(()) };
        let table = Protected { offset: header.snapshots_offset, len: read.length };
        self.protect(Sections::SNAPSHOT_TABLE, vec![table]);
        let l1s = read
            .snapshots
            .iter()
            .map(|s| Protected { offset: s.l1_table_offset, len: 8 * u64::from(s.l1_size) });
        self.protect(Sections::INACTIVE_L1, l1s.collect());
        self.protect_inactive_l2(&header, &read.snapshots).await
    }

    /// Tells the overlap checks where the bitmap directory is.
    pub(crate) fn protect_bitmaps(&self, header: &Header) {
        let valid = header.autoclear.contains(Autoclear::BITMAPS);
        let ranges = match &header.bitmaps {
            Some(b) if valid => vec![Protected { offset: b.directory_offset, len: b.directory_size }],
            _ => Vec::new(),
        };
        self.protect(Sections::BITMAP_DIRECTORY, ranges);
    }

    async fn protect_inactive_l2(&self, header: &Header, snapshots: &[Snapshot]) -> Result<()> {
        /// Tables that are remembered; an image with more is checked for these only.
        const MAX: usize = 1 << 18;
        if !self.settings.lock().overlap.contains(Sections::INACTIVE_L2) {
            return Ok(());
        }
        let mut tables = std::collections::BTreeSet::new();
        for snapshot in snapshots {
            if snapshot.l1_problem(1 << header.cluster_bits).is_some() {
                continue;
            }
            let entries = read_words(&self.file(), snapshot.l1_table_offset, snapshot.l1_size.into()).await?;
            for entry in entries {
                let offset = entry & crate::geometry::OFFSET_MASK;
                // The active table may name it as well: it is not written in place then, unless the image is corrupt.
                if offset != 0 && tables.len() < MAX {
                    tables.insert(offset);
                }
            }
        }
        let len = self.geometry.cluster_size;
        self.protect(
            Sections::INACTIVE_L2,
            tables.into_iter().map(|offset| Protected { offset, len }).collect(),
        );
        Ok(())
    }
}
