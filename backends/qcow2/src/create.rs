//! Making images.
//!
//! A new image begins with a header, a refcount table and a refcount block of a cluster each, and no disk; everything else
//! is what the open image does: its disk grows to the size asked for.

use std::sync::Arc;

use rhea_block::{
    BlockError, BlockNode, CreateContext, Edge, OpenFlags, Permissions, Preallocation, Result, ResultExt,
    Role, Truncate, WriteFlags,
};
use rhea_block_crypto::{LuksOptions, LuksVolume};
use rhea_options::{Options, Size};

use crate::driver::{Parts, assemble};
use crate::encryption::Encryption;
use crate::geometry::Geometry;
use crate::header::{
    Autoclear, Compatible, CompressionType, CryptMethod, EncryptionHeader, Header, Incompatible,
    MAX_BACKING_NAME,
};
use crate::image::Image;
use crate::node::Qcow2Node;
use crate::options::{take_cache_sizes, take_settings};
use crate::refcount_bits;

/// Bytes of L2 tables, and of refcount blocks, that are held while an image is made.
const CREATION_CACHE: u64 = 64 << 10;

/// How a new image is encrypted.
enum NewEncryption {
    None,
    Aes,
    Luks(Box<LuksOptions>),
}

/// The options of `create`, and of `measure`.
pub(crate) struct CreateRequest {
    pub(crate) size: Option<u64>,
    pub(crate) header: Header,
    pub(crate) preallocation: Preallocation,
    data_file: Option<String>,
    encryption: NewEncryption,
    key_secret: Option<String>,
}

fn v3_only<T>(what: &str) -> Result<T> {
    Err(BlockError::invalid(format!(
        "{what} only supported with compatibility level 1.1 and above (use version=v3 or greater)"
    )))
}

/// A word that is none of those an option can be; options are named as in QAPI's BlockdevCreateOptionsQcow2.
fn no_such_value(name: &str, word: &str) -> BlockError {
    BlockError::invalid(format!("Parameter '{name}' does not accept value '{word}'"))
}

fn take_version(options: &mut Options) -> Result<u32> {
    match options.take::<String>("compat")?.as_deref() {
        Some("0.10" | "v2") => Ok(2),
        None | Some("1.1" | "v3") => Ok(3),
        Some(other) => Err(no_such_value("version", other)),
    }
}

fn take_cluster_bits(options: &mut Options, extended_l2: bool) -> Result<u32> {
    let size = options.take::<Size>("cluster_size")?.map_or(65536, |s| s.0);
    if !size.is_power_of_two() || !(512..=2 << 20).contains(&size) {
        return Err(BlockError::invalid("Cluster size must be a power of two between 512 and 2048k"));
    }
    if extended_l2 && size < 1 << 14 {
        return Err(BlockError::invalid(
            "Extended L2 entries are only supported with cluster sizes of at least 16384 bytes",
        ));
    }
    Ok(size.trailing_zeros())
}

fn take_refcount_order(options: &mut Options, version: u32) -> Result<u32> {
    let bits = options.take::<u64>("refcount_bits")?.unwrap_or(16);
    if !bits.is_power_of_two() || bits > 64 {
        return Err(BlockError::invalid("Refcount width must be a power of two and may not exceed 64 bits"));
    }
    if version < 3 && bits != 16 {
        return Err(BlockError::invalid(
            "Different refcount widths than 16 bits require compatibility level 1.1 or above (use version=v3 or greater)",
        ));
    }
    Ok(bits.trailing_zeros())
}

fn take_compression(options: &mut Options, version: u32) -> Result<CompressionType> {
    match options.take::<String>("compression_type")?.as_deref() {
        None | Some("zlib") => Ok(CompressionType::Zlib),
        Some("zstd") if version < 3 => v3_only("Non-zlib compression type is"),
        Some("zstd") => Ok(CompressionType::Zstd),
        Some(other) => Err(no_such_value("compression-type", other)),
    }
}

impl CreateRequest {
    /// Takes all options; what is left over is the caller's fault.
    pub(crate) fn take(options: &mut Options) -> Result<Self> {
        let size = options.take::<Size>("size")?.map(|s| s.0);
        let size = match size {
            Some(size) if size > rhea_block::MAX_LENGTH - 512 => {
                return Err(BlockError::new(libc::EFBIG, "Image size is too large"));
            }
            size => size.map(|size| size.next_multiple_of(512)),
        };
        let version = take_version(options)?;
        let extended_l2 = options.take::<bool>("extended_l2")?.unwrap_or(false);
        if extended_l2 && version < 3 {
            return v3_only("Extended L2 entries are");
        }
        let cluster_bits = take_cluster_bits(options, extended_l2)?;
        let lazy = options.take::<bool>("lazy_refcounts")?.unwrap_or(false);
        if lazy && version < 3 {
            return v3_only("Lazy refcounts");
        }
        let refcount_order = take_refcount_order(options, version)?;
        let compression_type = take_compression(options, version)?;
        let word = options.take::<String>("preallocation")?.unwrap_or_else(|| "off".into());
        let mut preallocation =
            Preallocation::from_word(&word).ok_or_else(|| no_such_value("preallocation", &word))?;
        let data_file = options.take::<String>("data_file")?;
        let raw = options.take::<bool>("data_file_raw")?.unwrap_or(false);
        if data_file.is_some() && version < 3 {
            return v3_only("External data files are");
        }
        if raw && data_file.is_none() {
            return Err(BlockError::invalid("data-file-raw requires data-file"));
        }
        let backing_file = options.take::<String>("backing_file")?.filter(|name| !name.is_empty());
        let backing_format = options.take::<String>("backing_fmt")?.filter(|name| !name.is_empty());
        check_backing(&backing_file, &backing_format, raw, preallocation, extended_l2)?;
        if raw && preallocation == Preallocation::Off {
            // So that the data file says all there is to say.
            preallocation = Preallocation::Metadata;
        }
        let (encryption, key_secret) = take_encryption(options)?;
        let mut incompatible = Incompatible::empty();
        incompatible.set(Incompatible::EXTERNAL_DATA, data_file.is_some());
        incompatible.set(Incompatible::COMPRESSION, compression_type != CompressionType::Zlib);
        incompatible.set(Incompatible::EXTENDED_L2, extended_l2);
        let cluster_size = 1 << cluster_bits;
        let header = Header {
            version,
            cluster_bits,
            size: 0,
            crypt_method: CryptMethod::None,
            l1_size: 0,
            l1_table_offset: 0,
            refcount_table_offset: cluster_size,
            refcount_table_clusters: 1,
            nb_snapshots: 0,
            snapshots_offset: 0,
            incompatible,
            compatible: if lazy { Compatible::LAZY_REFCOUNTS } else { Compatible::empty() },
            autoclear: if raw { Autoclear::RAW_EXTERNAL_DATA } else { Autoclear::empty() },
            refcount_order,
            compression_type,
            backing_file,
            backing_format,
            data_file: data_file.clone(),
            bitmaps: None,
            encryption: None,
            unknown_fields: Vec::new(),
            unknown_extensions: Vec::new(),
        };
        Ok(Self { size, header, preallocation, data_file, encryption, key_secret })
    }

    /// Bytes of the LUKS header, 0 without one.
    pub(crate) fn luks_bytes(&self) -> u64 {
        match &self.encryption {
            NewEncryption::Luks(options) => options.header_bytes(),
            _ => 0,
        }
    }
}

fn check_backing(
    file: &Option<String>,
    format: &Option<String>,
    raw: bool,
    preallocation: Preallocation,
    extended_l2: bool,
) -> Result<()> {
    if file.is_none() {
        return match format {
            Some(_) => Err(BlockError::invalid("Backing format cannot be used without backing file")),
            None => Ok(()),
        };
    }
    if preallocation != Preallocation::Off && !extended_l2 {
        return Err(BlockError::invalid(
            "Backing file and preallocation can only be used at the same time if extended_l2 is enabled",
        ));
    }
    if raw {
        return Err(BlockError::invalid("Backing file and data-file-raw cannot be used at the same time"));
    }
    if file.as_ref().is_some_and(|name| name.len() > MAX_BACKING_NAME) {
        return Err(BlockError::invalid("Backing file name too long"));
    }
    if format.as_ref().is_some_and(|name| name.len() > 15) {
        return Err(BlockError::invalid("Backing format name too long"));
    }
    Ok(())
}

fn take_encryption(options: &mut Options) -> Result<(NewEncryption, Option<String>)> {
    let mut members = options.take_object("encrypt");
    let old = options.take::<bool>("encryption")?.unwrap_or(false);
    let format = members.take::<String>("format")?;
    let secret = members.take::<String>("key-secret")?;
    if old && format.is_some() {
        return Err(BlockError::invalid("Options encryption and encrypt.format are mutually exclusive"));
    }
    let format = if old { Some("aes".to_owned()) } else { format };
    let encryption = match format.as_deref() {
        None => NewEncryption::None,
        Some("aes") => NewEncryption::Aes,
        Some("luks") => NewEncryption::Luks(Box::new(LuksOptions::take(&mut members)?)),
        Some(other) => return Err(BlockError::invalid(format!("Unknown encryption format {other}"))),
    };
    if let Some(entry) = members.entries().first() {
        return Err(BlockError::invalid(format!("Invalid parameter 'encrypt.{}'", entry.key)));
    }
    Ok((encryption, secret))
}

pub(crate) async fn create(context: &CreateContext<'_>, filename: &str, mut options: Options) -> Result<()> {
    let request = CreateRequest::take(&mut options)?;
    if let Some(entry) = options.entries().first() {
        return Err(BlockError::invalid(format!("Invalid parameter '{}'", entry.key)));
    }
    let size = request.size.ok_or_else(|| BlockError::invalid("Parameter 'size' is missing"))?;
    let geometry = Geometry::new(&request.header);
    if geometry.l1_entries(size) * 8 > crate::header::MAX_L1_BYTES {
        return Err(BlockError::new(
            libc::EFBIG,
            "The image size is too large for file format 'qcow2' (try using a larger cluster size)",
        ));
    }
    let header_bytes = request.header.serialize()?;
    let data = match &request.data_file {
        Some(name) => Some(context.registry.create_file(name, 0).await?),
        None => None,
    };
    let file = context.registry.create_file(filename, 0).await?;
    let result = fill(context, &request, &header_bytes, file.clone(), data.clone(), size).await;
    let closed = close(file).await;
    let data_closed = match data {
        Some(data) => close(data).await,
        None => Ok(()),
    };
    result.and(closed).and(data_closed)
}

async fn close(node: Arc<BlockNode>) -> Result<()> {
    node.close().await
}

/// Holds a file for writing.
async fn hold(name: &str, role: Role, node: Arc<BlockNode>) -> Result<Arc<Edge>> {
    let edge = Edge::new(name, role, node);
    let needed = Permissions::CONSISTENT_READ | Permissions::WRITE | Permissions::RESIZE;
    edge.set_permissions(needed, Permissions::CONSISTENT_READ).await?;
    Ok(edge)
}

async fn fill(
    context: &CreateContext<'_>,
    request: &CreateRequest,
    header: &[u8],
    file: Arc<BlockNode>,
    data: Option<Arc<BlockNode>>,
    size: u64,
) -> Result<()> {
    let g = Geometry::new(&request.header);
    let file_edge = hold("file", Role::File, file.clone()).await?;
    let data_edge = match data {
        Some(data) => Some(hold("data-file", Role::Data, data).await?),
        None => None,
    };
    // Header, refcount table, refcount block: a cluster each, counted in the block.
    let cluster = g.cluster_size;
    if file.length() > 0 {
        // A device that had something else on it.
        file.write_zeroes(0, 3 * cluster, WriteFlags::empty()).await?;
    }
    file.write_bytes(cluster, &(2 * cluster).to_be_bytes()).await?;
    let mut counts = [0; 24];
    (0..3).for_each(|index| refcount_bits::set(&mut counts, g.refcount_order, index, 1));
    let used = refcount_bits::bytes_of(g.refcount_order, 0..3);
    file.write_bytes(2 * cluster, &counts[used]).await?;
    file.write_bytes(0, header).await?;
    let mut none = Options::default();
    let settings = take_settings(&mut none, &g, OpenFlags::UNMAP, false)?;
    let mut caches = take_cache_sizes(&mut none, &g, size, cluster)?;
    // Tables are filled from beginning to end, each entry once: more of them in memory would be of no use.
    caches.l2 = caches.l2.min(CREATION_CACHE);
    caches.refcounts = caches.refcounts.min(CREATION_CACHE);
    let parts = |header: Header, disk: Vec<u8>, encryption: Option<Encryption>| Parts {
        file: file_edge.clone(),
        data_file: data_edge.clone(),
        backing: Arc::default(),
        header,
        disk,
        settings: settings.clone(),
        caches,
        encryption,
        writable: true,
        unsafe_flush: true,
        secrets: context.registry.secrets().clone(),
    };
    let image = assemble(parts(request.header.clone(), header.to_vec(), None)).await?;
    // The end of the third cluster belongs to the block.
    image.refcounts.keep_untouched_from(3);
    encrypt(context, request, &image).await?;
    let how = Truncate { exact: true, preallocation: request.preallocation, zero: false };
    context.progress.set_total(size);
    image.truncate(size, how, Some(context.progress)).await.context("Could not resize image")?;
    image.settle_all().await?;
    let node = Qcow2Node { image };
    rhea_block::Node::close(&node).await?;
    node.image.unsafe_flush.store(false, std::sync::atomic::Ordering::SeqCst);
    node.image.flush_files(crate::write_back::Barrier::AfterEntries).await?;
    drop(node);
    let all = Permissions::all();
    file_edge.set_permissions(Permissions::empty(), all).await?;
    if let Some(edge) = data_edge {
        edge.set_permissions(Permissions::empty(), all).await?;
    }
    context.progress.set_done(size);
    Ok(())
}

/// Puts the encryption's header into a new image that has no disk yet.
async fn encrypt(context: &CreateContext<'_>, request: &CreateRequest, image: &Arc<Image>) -> Result<()> {
    let secrets = context.registry.secrets();
    match &request.encryption {
        NewEncryption::None => Ok(()),
        NewEncryption::Aes => {
            let Some(id) = &request.key_secret else {
                return Err(BlockError::invalid("Parameter 'encrypt.key-secret' is required for cipher"));
            };
            secrets.get(id)?;
            image.update_header(|header| header.crypt_method = CryptMethod::Aes).await
        }
        NewEncryption::Luks(options) => {
            let password = LuksOptions::password(secrets, request.key_secret.as_deref())?;
            let formatted = LuksVolume::format((**options).clone(), false, password).await?;
            let length = formatted.header.len() as u64;
            let offset = image.allocate(length).await?;
            let mut bytes = formatted.header;
            bytes.resize(image.geometry.cluster_end(length) as usize, 0);
            image.write_at(offset, &bytes).await?;
            image
                .update_header(|header| {
                    header.crypt_method = CryptMethod::Luks;
                    header.encryption = Some(EncryptionHeader { offset, length });
                })
                .await
        }
    }
}
