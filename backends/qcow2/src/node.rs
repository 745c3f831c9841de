//! The node: what the block layer calls.

use std::sync::Arc;
use std::sync::atomic::AtomicU8;
use std::sync::atomic::Ordering::SeqCst;

use async_trait::async_trait;
use rhea_async_io::{IoVector, IoView};
use rhea_block::{
    BackingFile, BlockError, BlockNode, BlockStatus, CheckResult, Edge, FormatInfo, Limits, Node, OpenFlags,
    PersistentBitmaps, Progress, Repair, Result, Snapshots, Truncate, WriteFlags,
};
use rhea_options::Options;
use serde_json::{Map, Value, json};

use crate::bitmap::directory::BitmapFlags;
use crate::geometry::Kind;
use crate::header::{Autoclear, CryptMethod, Header, Incompatible, MAX_BACKING_NAME};
use crate::image::Image;
use crate::options::take_settings;
use crate::read::Behind;
use crate::write_back::Barrier;

/// Whether the file's holes say more than the tables; see [`Image::is_preallocated`].
#[derive(Debug, Default)]
pub(crate) struct PreallocationGuess(AtomicU8);

/// An open qcow2 image.
pub(crate) struct Qcow2Node {
    pub(crate) image: Arc<Image>,
}

impl Qcow2Node {
    /// To be called before the disk changes.
    async fn begin_write(&self) -> Result<()> {
        let image = &self.image;
        image.check_writable()?;
        if image.bitmaps().must_begin() {
            let held = image.exclusive().await;
            crate::bitmap::tracking::begin(image, &held).await?;
        }
        Ok(())
    }
}

#[async_trait]
impl Node for Qcow2Node {
    fn limits(&self) -> Limits {
        let g = &self.image.geometry;
        Limits {
            request_alignment: if self.image.encryption.is_some() { 512 } else { 1 },
            write_zeroes_alignment: g.subcluster_size() as u32,
            discard_alignment: g.cluster_size as u32,
            native_write_zeroes: WriteFlags::MAY_UNMAP | WriteFlags::NO_FALLBACK,
            ..Limits::default()
        }
    }

    fn length(&self) -> u64 {
        self.image.length()
    }

    fn children(&self) -> Vec<Arc<Edge>> {
        let mut children = vec![self.image.file.clone()];
        children.extend(self.image.data_file.clone());
        children
    }

    async fn read(&self, offset: u64, data: &mut IoVector) -> Result<()> {
        let _share = self.image.share().await?;
        self.image.read(offset, data, Behind::Backing).await
    }

    async fn write(&self, offset: u64, data: IoView<'_>, _: WriteFlags) -> Result<()> {
        self.begin_write().await?;
        let _share = self.image.share().await?;
        self.image.bitmaps.mark(offset, data.len() as u64);
        self.image.write(offset, data, Behind::Backing).await
    }

    async fn write_zeroes(&self, offset: u64, len: u64, flags: WriteFlags) -> Result<()> {
        self.begin_write().await?;
        let _share = self.image.share().await?;
        self.image.bitmaps.mark(offset, len);
        self.image.write_zeroes(offset, len, flags).await
    }

    async fn write_compressed(&self, offset: u64, data: IoView<'_>) -> Result<()> {
        self.begin_write().await?;
        let _share = self.image.share().await?;
        self.image.bitmaps.mark(offset, data.len() as u64);
        self.image.write_compressed(offset, data).await
    }

    async fn discard(&self, offset: u64, len: u64) -> Result<()> {
        self.begin_write().await?;
        let _share = self.image.share().await?;
        self.image.bitmaps.mark(offset, len);
        self.image.discard(offset, len).await
    }

    async fn flush(&self) -> Result<()> {
        self.image.check_usable()?;
        self.image.flush().await
    }

    async fn block_status(&self, offset: u64, len: u64, want_zero: bool) -> Result<BlockStatus> {
        let _share = self.image.share().await?;
        self.image.block_status(offset, len, want_zero).await
    }

    async fn truncate(&self, length: u64, how: Truncate) -> Result<()> {
        self.begin_write().await?;
        self.image.resize(length, how).await
    }

    async fn copy_range_from(
        &self,
        offset: u64,
        to: &Arc<BlockNode>,
        to_offset: u64,
        len: u64,
        flags: WriteFlags,
    ) -> Result<()> {
        let image = &self.image;
        // To ourselves, we would have to enter twice, which whoever wants the image alone in between would not let us.
        if to.reaches(&image.file()) {
            return Err(BlockError::os(libc::ENOTSUP));
        }
        let _share = image.share().await?;
        let _running = image.releases.begin_request();
        if image.encryption.is_some() || image.is_encrypted() {
            return Err(BlockError::os(libc::ENOTSUP));
        }
        let mut done = 0;
        while done < len {
            let (at, target) = (offset + done, to_offset + done);
            let run = image.find_run(at, len - done, false).await?;
            let mut piece = run.len;
            match run.kind {
                Kind::Normal => {
                    // The last cluster need not be there whole.
                    let data = image.data();
                    let there = data.length().saturating_sub(run.host);
                    piece = if there == 0 { piece } else { piece.min(there) };
                    match there {
                        0 => to.write_zeroes(target, piece, flags).await?,
                        _ => data.copy_range(run.host, to, target, piece, flags).await?,
                    }
                }
                Kind::Compressed => return Err(BlockError::os(libc::ENOTSUP)),
                Kind::Unallocated | Kind::UnallocatedReserved if image.is_backed(at, Behind::Backing) => {
                    let Some(backing) = image.backing.load_full() else {
                        return Err(BlockError::os(libc::ENOTSUP));
                    };
                    let backing = backing.node();
                    piece = piece.min(backing.length() - at);
                    backing.copy_range(at, to, target, piece, flags).await?;
                }
                _ => to.write_zeroes(target, piece, flags).await?,
            }
            done += piece;
        }
        Ok(())
    }

    async fn copy_range_to(
        &self,
        from: &Arc<BlockNode>,
        from_offset: u64,
        offset: u64,
        len: u64,
        flags: WriteFlags,
    ) -> Result<()> {
        self.begin_write().await?;
        let image = &self.image;
        let _share = image.share().await?;
        if image.encryption.is_some() {
            return Err(BlockError::os(libc::ENOTSUP));
        }
        image.bitmaps.mark(offset, len);
        image.copy_in(from, from_offset, offset, len, flags).await
    }

    async fn format_info(&self) -> Result<FormatInfo> {
        let image = &self.image;
        let g = &image.geometry;
        let header = image.header();
        let encrypted = header.crypt_method != CryptMethod::None;
        Ok(FormatInfo {
            cluster_size: g.cluster_size,
            subcluster_size: if g.has_subclusters() { g.subcluster_size() } else { 0 },
            vm_state_offset: image.vm_state_offset(),
            dirty: header.incompatible.contains(Incompatible::DIRTY),
            unallocated_is_zero: true,
            needs_compressed_writes: false,
            encrypted,
            compressed: false,
            specific: Some(json!({ "type": "qcow2", "data": specific(image, &header).await? })),
        })
    }

    fn backing_file(&self) -> Option<BackingFile> {
        let header = self.image.header.lock();
        let filename = header.header.backing_file.clone()?;
        Some(BackingFile { filename, format: header.header.backing_format.clone() })
    }

    async fn change_backing_file(&self, backing: Option<BackingFile>) -> Result<()> {
        let image = &self.image;
        image.check_writable()?;
        let backing = backing.filter(|b| !b.filename.is_empty());
        if backing.as_ref().is_some_and(|b| b.filename.len() > MAX_BACKING_NAME) {
            return Err(BlockError::invalid("Backing file name too long"));
        }
        if backing.is_some() && image.header().is_data_file_raw() {
            return Err(BlockError::invalid(
                "Backing file and data-file-raw cannot be used at the same time",
            ));
        }
        let (name, format) = match backing {
            Some(backing) => (Some(backing.filename), backing.format),
            None => (None, None),
        };
        image
            .update_header(move |header| {
                header.backing_file = name;
                header.backing_format = format;
            })
            .await?;
        image.flush_files(Barrier::AfterHeader).await
    }

    async fn check(&self, repair: Repair) -> Result<CheckResult> {
        crate::check::check(&self.image, repair).await
    }

    async fn amend(&self, options: Options, force: bool, progress: &Progress) -> Result<()> {
        let image = &self.image;
        image.check_writable()?;
        let resize = async |size| self.truncate(size, Truncate { exact: true, ..Truncate::default() }).await;
        let encryption = async |options| crate::amend::amend_encryption(image, options, force).await;
        crate::amend::amend(image, options, progress, resize, encryption).await
    }

    async fn make_empty(&self) -> Result<()> {
        self.begin_write().await?;
        self.image.make_empty().await
    }

    fn snapshots(&self) -> Option<&dyn Snapshots> {
        Some(&*self.image)
    }

    fn bitmaps(&self) -> Option<&dyn PersistentBitmaps> {
        Some(&*self.image)
    }

    async fn load_vm_state(&self, offset: u64, data: &mut IoVector) -> Result<()> {
        let at = self.vm_state_at(offset, data.len())?;
        let _share = self.image.share().await?;
        self.image.event("vmstate_load").await;
        self.image.read(at, data, Behind::Nothing).await
    }

    async fn save_vm_state(&self, offset: u64, data: IoView<'_>) -> Result<()> {
        self.image.check_writable()?;
        let at = self.vm_state_at(offset, data.len())?;
        if data.is_empty() {
            return Ok(());
        }
        self.image.reach(at + data.len() as u64).await?;
        let _share = self.image.share().await?;
        self.image.event("vmstate_save").await;
        self.image.write(at, data, Behind::Nothing).await
    }

    async fn reopen(&self, flags: OpenFlags, mut options: Options) -> Result<()> {
        let image = &self.image;
        let held = image.exclusive().await;
        image.check_usable()?;
        let lazy = image.header().compatible.contains(crate::header::Compatible::LAZY_REFCOUNTS);
        let settings = take_settings(&mut options, &image.geometry, flags, lazy)?;
        rhea_block::refuse_changes(&options)?;
        let writable = !flags.contains(OpenFlags::READ_ONLY);
        let corrupt = image.header().incompatible.contains(Incompatible::CORRUPT);
        if writable && corrupt && !flags.contains(OpenFlags::CHECK) {
            return Err(BlockError::new(
                libc::EACCES,
                "qcow2: Image is corrupt; cannot be opened read/write",
            ));
        }
        let was_writable = image.writable.load(SeqCst);
        if was_writable && (!writable || (image.is_lazy() && !settings.lazy_refcounts)) {
            crate::bitmap::tracking::end(image, &held).await?;
            image.settle_all().await?;
        }
        image.overlap.set_sections(settings.overlap);
        let before = std::mem::replace(&mut *image.settings.lock(), settings);
        image.writable.store(writable, SeqCst);
        let ready = async {
            // Tables that nobody asked to protect before may not be known.
            image.protect_snapshots_and_bitmaps().await?;
            match writable && !was_writable {
                true => image.become_writable(&held).await,
                false => Ok(()),
            }
        };
        if let Err(error) = ready.await {
            image.writable.store(was_writable, SeqCst);
            image.overlap.set_sections(before.overlap);
            *image.settings.lock() = before;
            return Err(error);
        }
        Ok(())
    }

    async fn close(&self) -> Result<()> {
        let image = &self.image;
        if !image.writable.load(SeqCst) {
            return Ok(());
        }
        let held = image.exclusive().await;
        let stored = match image.corrupt.load(SeqCst) {
            false => crate::bitmap::tracking::end(image, &held).await,
            true => Ok(()),
        };
        let settled = image.settle_all().await;
        stored.and(settled)
    }

    fn as_any(&self) -> &dyn std::any::Any {
        self
    }
}

impl Qcow2Node {
    fn vm_state_at(&self, offset: u64, len: usize) -> Result<u64> {
        self.image
            .vm_state_offset()
            .checked_add(offset)
            .filter(|at| at.checked_add(len as u64).is_some_and(|end| end <= rhea_block::MAX_LENGTH))
            .ok_or_else(|| BlockError::os(libc::EFBIG))
    }
}

/// QAPI's ImageInfoSpecificQCow2.
async fn specific(image: &Image, header: &Header) -> Result<Value> {
    let mut data = Map::new();
    let v3 = header.version >= 3;
    data.insert("compat".into(), json!(if v3 { "1.1" } else { "0.10" }));
    data.insert("compression-type".into(), json!(header.compression_type.word()));
    if v3 {
        let lazy = header.compatible.contains(crate::header::Compatible::LAZY_REFCOUNTS);
        data.insert("lazy-refcounts".into(), json!(lazy));
    }
    data.insert("refcount-bits".into(), json!(1u32 << header.refcount_order));
    if header.has_external_data() {
        if let Some(name) = &header.data_file {
            data.insert("data-file".into(), json!(name));
        }
        data.insert("data-file-raw".into(), json!(header.is_data_file_raw()));
    }
    if v3 && header.bitmaps.is_some() && header.autoclear.contains(Autoclear::BITMAPS) {
        let mut bitmaps = Vec::new();
        for entry in crate::bitmap::read_directory(image).await? {
            let mut flags = Vec::new();
            if entry.flags.contains(BitmapFlags::IN_USE) {
                flags.push("in-use");
            }
            if entry.flags.contains(BitmapFlags::AUTO) {
                flags.push("auto");
            }
            let granularity = 1u64 << entry.granularity_bits;
            bitmaps.push(json!({ "flags": flags, "name": entry.name, "granularity": granularity }));
        }
        data.insert("bitmaps".into(), Value::Array(bitmaps));
    }
    match header.crypt_method {
        CryptMethod::None => {}
        CryptMethod::Aes => {
            data.insert("encrypt".into(), json!({ "format": "aes" }));
        }
        CryptMethod::Luks => {
            let mut encrypt = image.luks_info().await?;
            if let Some(fields) = encrypt.as_object_mut() {
                fields.insert("format".into(), json!("luks"));
            }
            data.insert("encrypt".into(), encrypt);
        }
    }
    if v3 {
        data.insert("corrupt".into(), json!(header.incompatible.contains(Incompatible::CORRUPT)));
        data.insert("extended-l2".into(), json!(header.has_extended_l2()));
    }
    Ok(Value::Object(data))
}

impl Image {
    /// Whether clusters count as allocated that the file has no storage for, as preallocated metadata makes it: then only
    /// the file knows whether they were ever written. Guessed from the storage it takes, as QEMU does.
    pub(crate) async fn is_preallocated(&self) -> Result<bool> {
        match self.preallocation.0.load(SeqCst) {
            1 => return Ok(false),
            2 => return Ok(true),
            _ => {}
        }
        let guess = self.guess_preallocation().await?;
        self.preallocation.0.store(1 + u8::from(guess), SeqCst);
        Ok(guess)
    }

    async fn guess_preallocation(&self) -> Result<bool> {
        let g = &self.geometry;
        let file = self.file();
        let Some(storage) = file.driver().allocated_size().await else { return Ok(false) };
        let clusters = g.clusters(file.length());
        let real = storage / g.cluster_size;
        // More than the file takes, with some leeway for what file systems add.
        let threshold = (real.saturating_mul(10) / 9).max(real.saturating_add(2));
        if clusters < threshold {
            return Ok(false);
        }
        let mut used = 0;
        let mut cluster = 0;
        while cluster < clusters {
            let index = (cluster >> g.refcount_block_bits) as usize;
            let block = self.refcounts.table.lock().entries.get(index).copied().unwrap_or(0);
            let end = ((index as u64 + 1) << g.refcount_block_bits).min(clusters);
            if block != 0 {
                used += self.used_clusters(cluster, end).await?;
            }
            if used >= threshold {
                return Ok(true);
            }
            cluster = end;
        }
        Ok(false)
    }
}
