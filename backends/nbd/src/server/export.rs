//! A disk that clients see, under a name.

use std::sync::Arc;

use parking_lot::Mutex;
use rhea_async_io::IoVector;
use rhea_block::{
    BitmapInfo, BlockError, BlockNode, DirtyBitmap, Edge, Permissions, PersistentBitmaps, Result, Role,
    StatusFlags, WriteFlags,
};

use crate::protocol::{MAX_PAYLOAD, MAX_STRING, TransmissionFlags, allocation};

/// Lookups for one answer about a range.
const MAX_LOOKUPS: usize = 1 << 16;

/// What [`Export::new`] is told.
#[derive(Debug, Clone, Default)]
pub struct ExportOptions {
    /// The name clients ask for.
    pub name: String,
    /// A line for people.
    pub description: String,
    /// Clients may write.
    pub writable: bool,
    /// Bytes of the disk before the export's start.
    pub offset: u64,
    /// Bytes of the export; `None`: up to the disk's end.
    pub length: Option<u64>,
    /// Every write is on stable storage before it is acknowledged.
    pub writethrough: bool,
    /// Several clients may write at the same time and see each other's data.
    pub multi_conn: bool,
    /// Offer `qemu:allocation-depth`.
    pub allocation_depth: bool,
    /// Offer `qemu:dirty-bitmap:NAME` for each of these.
    pub bitmaps: Vec<String>,
}

/// What a client can ask about a range with `NBD_CMD_BLOCK_STATUS`.
#[derive(Clone)]
pub(crate) enum Context {
    Allocation,
    Depth,
    Bitmap { name: String, bitmap: Arc<ShownBitmap> },
}

/// A bitmap of a layer of the disk, which goes on being recorded for as long as it is shown.
pub(crate) struct ShownBitmap {
    layer: Arc<BlockNode>,
    bits: Arc<Mutex<DirtyBitmap>>,
}

impl ShownBitmap {
    /// The image's own record cannot be looked into while it is written: writes are recorded beside it from now on, and
    /// what was recorded until now is added.
    async fn new(layer: Arc<BlockNode>, bitmaps: &dyn PersistentBitmaps, info: &BitmapInfo) -> Result<Self> {
        let mut bits = DirtyBitmap::new(&info.name, info.granularity, layer.length())?;
        bits.enabled = info.enabled;
        let this = Self { bits: layer.add_bitmap(bits), layer };
        let recorded = bitmaps.load(&info.name).await?;
        this.bits.lock().merge(&recorded);
        Ok(this)
    }
}

impl Drop for ShownBitmap {
    fn drop(&mut self) {
        self.layer.remove_bitmap(&self.bits);
    }
}

impl Context {
    pub(crate) fn name(&self) -> String {
        match self {
            Self::Allocation => "base:allocation".into(),
            Self::Depth => "qemu:allocation-depth".into(),
            Self::Bitmap { name, .. } => format!("qemu:dirty-bitmap:{name}"),
        }
    }

    /// Whether a client's query asks for this context. Wildcards (an empty leaf) are for listing only.
    pub(crate) fn matches(&self, query: &str, listing: bool) -> bool {
        let name = self.name();
        let wildcard = query.ends_with(':') && !query.is_empty();
        match wildcard {
            true => listing && name.starts_with(query),
            false => name == query,
        }
    }
}

/// A disk that clients see, under a name.
pub struct Export {
    pub(crate) name: String,
    pub(crate) description: String,
    edge: Arc<Edge>,
    offset: u64,
    length: u64,
    writable: bool,
    writethrough: bool,
    multi_conn: bool,
    pub(crate) contexts: Vec<Context>,
}

impl std::fmt::Debug for Export {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Export('{}', {:?})", self.name, self.edge)
    }
}

/// A stretch of alike bytes, as a context sees them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Extent {
    pub(crate) length: u64,
    pub(crate) flags: u64,
}

impl Export {
    /// Offers a node. Holds it with the permissions that reading (and writing, if asked for) needs.
    pub async fn new(node: Arc<BlockNode>, options: ExportOptions) -> Result<Arc<Self>> {
        if options.name.len() > MAX_STRING {
            return Err(BlockError::invalid(format!("export name '{}' too long", options.name)));
        }
        if options.description.len() > MAX_STRING {
            return Err(BlockError::invalid(format!(
                "export description '{}' too long",
                options.description
            )));
        }
        if options.writable && node.is_read_only() {
            return Err(BlockError::new(libc::EPERM, "Cannot export read-only node as writable"));
        }
        let available = node
            .length()
            .checked_sub(options.offset)
            .ok_or_else(|| BlockError::invalid("the offset lies beyond the disk's end"))?;
        let length = options.length.unwrap_or(available);
        if length > available {
            return Err(BlockError::invalid("the export would reach beyond the disk's end"));
        }
        let mut contexts = vec![Context::Allocation];
        if options.allocation_depth {
            contexts.push(Context::Depth);
        }
        for name in &options.bitmaps {
            let bitmap = find_bitmap(&node, name, options.writable).await?;
            contexts.push(Context::Bitmap { name: name.clone(), bitmap });
        }
        let edge = Edge::new("nbd", Role::File, node);
        let mut needed = Permissions::CONSISTENT_READ;
        if options.writable {
            needed |= Permissions::WRITE;
        }
        // Clients were told a length: nobody may change it.
        edge.set_permissions(needed, Permissions::all() - Permissions::RESIZE).await?;
        Ok(Arc::new(Self {
            name: options.name,
            description: options.description,
            edge,
            offset: options.offset,
            length,
            writable: options.writable,
            writethrough: options.writethrough,
            multi_conn: options.multi_conn,
            contexts,
        }))
    }

    /// The name clients ask for.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The disk.
    pub fn node(&self) -> Arc<BlockNode> {
        self.edge.node()
    }

    /// Gives the disk back: others may do with it what the export did not allow.
    pub async fn release(&self) -> Result<()> {
        self.edge.set_permissions(Permissions::empty(), Permissions::all()).await
    }

    /// Bytes of the export.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Whether clients may write.
    pub fn is_writable(&self) -> bool {
        self.writable
    }

    /// What is offered to every client; the rest depends on what was negotiated.
    pub(crate) fn flags(&self) -> TransmissionFlags {
        use TransmissionFlags as F;
        let mut flags = F::HAS_FLAGS | F::SEND_FLUSH | F::SEND_FUA | F::SEND_CACHE;
        flags |= match self.writable {
            true => F::SEND_TRIM | F::SEND_WRITE_ZEROES | F::SEND_FAST_ZERO,
            false => F::READ_ONLY,
        };
        flags.set(F::CAN_MULTI_CONN, self.multi_conn);
        flags
    }

    /// `(minimum, preferred, maximum)` for `NBD_INFO_BLOCK_SIZE`, to a client that heeds them.
    pub(crate) fn block_sizes(&self) -> (u32, u32, u32) {
        let limits = self.node().limits();
        let minimum = limits.request_alignment.clamp(1, 65536);
        // Smaller requests work as well, only slower; a disk's ragged end must stay within reach.
        let fits = minimum.is_power_of_two()
            && self.length.is_multiple_of(u64::from(minimum))
            && self.offset.is_multiple_of(u64::from(minimum));
        let minimum = if fits { minimum } else { 1 };
        (minimum, minimum.max(4096), MAX_PAYLOAD)
    }

    /// Whether a range lies within the export.
    pub(crate) fn contains(&self, offset: u64, length: u64) -> bool {
        offset.checked_add(length).is_some_and(|end| end <= self.length)
    }

    pub(crate) async fn read(&self, offset: u64, data: &mut IoVector) -> Result<()> {
        self.node().read(self.offset + offset, data).await
    }

    pub(crate) async fn write(&self, offset: u64, data: &IoVector, fua: bool) -> Result<()> {
        let flags = if fua || self.writethrough { WriteFlags::FUA } else { WriteFlags::empty() };
        self.node().write(self.offset + offset, data, flags).await
    }

    pub(crate) async fn write_zeroes(&self, offset: u64, length: u64, mut flags: WriteFlags) -> Result<()> {
        flags.set(WriteFlags::FUA, self.writethrough || flags.contains(WriteFlags::FUA));
        self.node().write_zeroes(self.offset + offset, length, flags).await
    }

    pub(crate) async fn trim(&self, offset: u64, length: u64, fua: bool) -> Result<()> {
        let node = self.node();
        node.discard(self.offset + offset, length).await?;
        if fua { node.flush().await } else { Ok(()) }
    }

    pub(crate) async fn flush(&self) -> Result<()> {
        self.node().flush().await
    }

    /// Bytes from `offset` on, at most `length`, that are alike zeroes or not.
    pub(crate) async fn zeroes(&self, offset: u64, length: u64) -> Result<(u64, bool)> {
        let (status, _) = self.node().block_status_above(None, self.offset + offset, length).await?;
        Ok((status.len.clamp(1, length), status.flags.contains(StatusFlags::ZERO)))
    }

    /// What a context says of a range, in at most `max` extents that together are at most `length` long.
    pub(crate) async fn extents(
        &self,
        context: &Context,
        offset: u64,
        length: u64,
        max: usize,
    ) -> Result<Vec<Extent>> {
        let mut extents: Vec<Extent> = Vec::new();
        let end = offset + length;
        let mut at = offset;
        // Alike neighbours become one extent; on a long range, the search for its end is bounded.
        for _ in 0..MAX_LOOKUPS {
            if at == end {
                break;
            }
            let next = match context {
                Context::Bitmap { bitmap, .. } => self.dirty_extent(&bitmap.bits.lock(), at, end - at),
                _ => self.status_extent(context, at, end - at).await?,
            };
            let full = extents.len() == max;
            match extents.last_mut() {
                Some(last) if last.flags == next.flags => last.length += next.length,
                _ if full => break,
                _ => extents.push(next),
            }
            at += next.length;
        }
        Ok(extents)
    }

    async fn status_extent(&self, context: &Context, offset: u64, length: u64) -> Result<Extent> {
        let (status, depth) = self.node().block_status_above(None, self.offset + offset, length).await?;
        let flags = match context {
            Context::Depth => depth.map_or(0, |depth| depth as u64 + 1),
            _ => {
                let hole = if status.flags.contains(StatusFlags::DATA) { 0 } else { allocation::HOLE };
                let zero = if status.flags.contains(StatusFlags::ZERO) { allocation::ZERO } else { 0 };
                hole | zero
            }
        };
        Ok(Extent { length: status.len.clamp(1, length), flags })
    }

    fn dirty_extent(&self, bitmap: &DirtyBitmap, offset: u64, length: u64) -> Extent {
        let at = self.offset + offset;
        match bitmap.next_dirty(at) {
            Some((start, dirty)) if start <= at => Extent { length: dirty.min(length), flags: 1 },
            Some((start, _)) => Extent { length: (start - at).min(length), flags: 0 },
            None => Extent { length, flags: 0 },
        }
    }
}

/// A bitmap of the disk, or of a layer below it.
async fn find_bitmap(node: &Arc<BlockNode>, name: &str, writable: bool) -> Result<Arc<ShownBitmap>> {
    let mut layer = Some(node.skip_filters());
    while let Some(node) = layer {
        if let Some(bitmaps) = node.driver().bitmaps() {
            let listed = bitmaps.list().await?;
            if let Some(found) = listed.iter().find(|b| b.name == name) {
                if found.inconsistent {
                    return Err(BlockError::invalid(format!(
                        "Bitmap '{name}' is inconsistent and cannot be used"
                    )));
                }
                if found.enabled && !writable && !node.is_read_only() {
                    return Err(BlockError::invalid(format!(
                        "Enabled bitmap '{name}' incompatible with readonly export"
                    )));
                }
                return Ok(Arc::new(ShownBitmap::new(node.clone(), bitmaps, found).await?));
            }
        }
        layer = node.backing().map(|backing| backing.skip_filters());
    }
    Err(BlockError::new(libc::ENOENT, format!("Bitmap '{name}' is not found")))
}
