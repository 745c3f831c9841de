//! Changing the options of an image that is there (`qemu-img amend`).
//!
//! All that was asked for is looked at first; what cannot be is refused before anything is changed. Then the changes are
//! made one by one, each of which a crash makes happen or not:
//!
//! * to version 3: the snapshot table is completed, then one write of the header;
//! * the length: as any truncation;
//! * lazy refcounts, the name of the data file: one write of the header;
//! * key slots: as the LUKS header's own rules say;
//! * the width of refcounts: all are written anew beside the old ones, then one write of the header;
//! * to version 2: zero clusters become what version 2 can say, each change without consequence for what is read, and at
//!   last one write of the header.

use std::sync::atomic::Ordering::SeqCst;

use rhea_block::{BlockError, Progress, Result};
use rhea_block_crypto::AmendOptions;
use rhea_options::{Options, Size};

use crate::bitmap;
use crate::check;
use crate::downgrade;
use crate::encryption::HeaderClusters;
use crate::finish::finish;
use crate::header::{Autoclear, Compatible, CompressionType, CryptMethod, Header, Incompatible};
use crate::image::Image;
use crate::snapshot;
use crate::write_back::Barrier;

/// What is asked for.
#[derive(Debug, Default, PartialEq, Eq)]
struct Wanted {
    version: Option<u32>,
    size: Option<u64>,
    lazy_refcounts: Option<bool>,
    refcount_order: Option<u32>,
    data_file: Option<String>,
    data_file_raw: Option<bool>,
}

impl Wanted {
    fn take(options: &mut Options, header: &Header) -> Result<Self> {
        let version = match options.take::<String>("compat")?.as_deref() {
            None => None,
            Some("0.10" | "v2") => Some(2),
            Some("1.1" | "v3") => Some(3),
            Some(other) => return Err(BlockError::invalid(format!("Unknown compatibility level {other}"))),
        };
        let backing = (options.take::<String>("backing_file")?, options.take::<String>("backing_fmt")?);
        let present = (&header.backing_file, &header.backing_format);
        if backing != (None, None) && (&backing.0, &backing.1) != present {
            return Err(BlockError::invalid("Cannot amend the backing file")
                .with_hint("You can use 'qemu-img rebase' instead."));
        }
        let refcount_order = options.take::<u64>("refcount_bits")?.map(|bits| match bits {
            1..=64 if bits.is_power_of_two() => Ok(bits.trailing_zeros()),
            _ => Err(BlockError::invalid("Refcount width must be a power of two and may not exceed 64 bits")),
        });
        Ok(Self {
            version,
            size: options.take::<Size>("size")?.map(|size| size.0),
            lazy_refcounts: options.take("lazy_refcounts")?,
            refcount_order: refcount_order.transpose()?,
            data_file: options.take("data_file")?,
            data_file_raw: options.take("data_file_raw")?,
        })
    }

    fn check(&self, header: &Header) -> Result<()> {
        let version = self.version.unwrap_or(header.version);
        if version < 3 && self.lazy_refcounts == Some(true) {
            return Err(BlockError::invalid(
                "Lazy refcounts only supported with compatibility level 1.1 and above (use compat=1.1 or greater)",
            ));
        }
        if version < 3 && self.refcount_order.is_some_and(|order| order != 4) {
            return Err(BlockError::invalid(
                "Refcount widths other than 16 bits require compatibility level 1.1 or above (use compat=1.1 or \
                 greater)",
            ));
        }
        if self.data_file.is_some() && !header.has_external_data() {
            return Err(BlockError::invalid(
                "data-file can only be set for images that use an external data file",
            ));
        }
        if self.data_file_raw == Some(true) && !header.is_data_file_raw() {
            return Err(BlockError::invalid("data-file-raw cannot be set on existing images"));
        }
        Ok(())
    }

    /// Whether the image can be one of version 2.
    async fn check_downgrade(&self, image: &Image) -> Result<()> {
        let header = image.header();
        if header.has_external_data() {
            return Err(BlockError::unsupported("Cannot downgrade an image with a data file"));
        }
        if self.refcount_order.unwrap_or(header.refcount_order) != 4 {
            return Err(BlockError::unsupported("compat=0.10 requires refcount_bits=16"));
        }
        let features = header.incompatible - Incompatible::DIRTY;
        if !features.is_empty() {
            return Err(BlockError::unsupported(format!(
                "Cannot downgrade an image with incompatible features 0x{:x} set",
                features.bits()
            )));
        }
        // Version 2 has no place for them, and nobody would know that they are lost.
        if !bitmap::read_directory(image).await?.is_empty() {
            return Err(BlockError::unsupported("Cannot downgrade an image with persistent bitmaps")
                .with_hint("You can remove them by 'qemu-img bitmap --remove'."));
        }
        let size = self.size.unwrap_or(header.size);
        for snapshot in snapshot::read_table(image).await?.snapshots {
            if snapshot.disk_size != size || snapshot.vm_state_size > u64::from(u32::MAX) {
                return Err(BlockError::unsupported("Internal snapshots prevent downgrade of image"));
            }
        }
        Ok(())
    }
}

/// Changes the image's options. `resize` moves the end of the disk; `encryption` changes key slots, from the options
/// `encrypt.…` without their prefix.
pub(crate) async fn amend(
    image: &Image,
    mut options: Options,
    progress: &Progress,
    resize: impl AsyncFnOnce(u64) -> Result<()>,
    encryption: impl AsyncFnOnce(Options) -> Result<()>,
) -> Result<()> {
    let header = image.header();
    let wanted = Wanted::take(&mut options, &header)?;
    let slots = options.take_object("encrypt");
    if let Some(entry) = options.entries().first() {
        return Err(BlockError::invalid(format!("Invalid parameter '{}'", entry.key))
            .with_hint("This option is only supported for image creation"));
    }
    wanted.check(&header)?;
    let downgrade = wanted.version == Some(2) && header.version > 2;
    if downgrade {
        wanted.check_downgrade(image).await?;
    }
    if wanted.version == Some(3) && header.version < 3 {
        let this = image.arc();
        finish(async move { upgrade(&this).await }).await?;
    }
    if let Some(size) = wanted.size.filter(|&size| size != header.size) {
        resize(size).await?;
    }
    if !slots.is_empty() {
        encryption(slots).await?;
    }
    let order = wanted.refcount_order.filter(|&order| order != header.refcount_order);
    change_header(image, wanted, downgrade).await?;
    if downgrade {
        downgrade::expand_zero_clusters(image, progress).await?;
    }
    let this = image.arc();
    finish(async move {
        let held = this.exclusive().await;
        if downgrade || order.is_some() {
            bitmap::tracking::end(&this, &held).await?;
        }
        if downgrade {
            downgrade::expand_rest(&this, &held).await?;
        }
        if let Some(order) = order {
            check::change_refcount_order(&this, order, &held).await?;
        }
        if downgrade {
            this.write_back().await?;
            this.update_header(to_version_2).await?;
            this.flush_file(Barrier::AfterHeader).await?;
        }
        Ok::<_, BlockError>(())
    })
    .await?;
    if image.header().version != header.version || order.is_some() {
        // Table layouts are fixed while an image is open: the rest is for who opens it again.
        image.retire();
    }
    Ok(())
}

impl Image {
    /// No more writes until the image is opened again.
    fn retire(&self) {
        self.writable.store(false, SeqCst);
    }

    /// Writes the refcounts that were put off, and puts no more off. Needs [`Image::exclusive`].
    async fn stop_lazy_refcounts(&self) -> Result<()> {
        self.settings.lock().lazy_refcounts = false;
        self.settle_all().await
    }
}

/// Changes key slots, by the options `encrypt.…` without their prefix.
pub(crate) async fn amend_encryption(image: &Image, mut options: Options, force: bool) -> Result<()> {
    let header = image.header();
    let (Some(volume), Some(place)) =
        (image.encryption.as_ref().and_then(|encryption| encryption.volume()), header.encryption)
    else {
        return Err(BlockError::invalid(match header.crypt_method {
            CryptMethod::None => "Can't amend encryption options - encryption not present",
            _ => "Only LUKS encryption options can be amended for qcow2 with amend",
        }));
    };
    let wanted = AmendOptions::take(&mut options, &image.secrets)?;
    if let Some(entry) = options.entries().first() {
        return Err(BlockError::invalid(format!("Invalid parameter 'encrypt.{}'", entry.key)));
    }
    let storage = HeaderClusters { file: image.file(), offset: place.offset, length: place.length };
    volume.amend(&storage, wanted, force).await
}

async fn upgrade(image: &Image) -> Result<()> {
    let held = image.exclusive().await;
    let table = snapshot::read_table(image).await?;
    if !table.snapshots.is_empty() {
        // Version 3 demands what version 2 need not have; the table is written with all fields.
        snapshot::replace_table(image, &table.snapshots, table.length, &held).await?;
    }
    image.write_back().await?;
    image.update_header(|header| header.version = 3).await?;
    image.flush_file(Barrier::AfterHeader).await
}

async fn change_header(image: &Image, wanted: Wanted, downgrade: bool) -> Result<()> {
    let _held = image.exclusive().await;
    let lazy = if downgrade { Some(false) } else { wanted.lazy_refcounts };
    if lazy == Some(false) {
        image.stop_lazy_refcounts().await?;
    }
    image
        .update_header(move |header| {
            if let Some(lazy) = lazy {
                header.compatible.set(Compatible::LAZY_REFCOUNTS, lazy);
            }
            if let Some(name) = wanted.data_file {
                header.data_file = Some(name).filter(|name| !name.is_empty());
            }
            if let Some(raw) = wanted.data_file_raw {
                header.autoclear.set(Autoclear::RAW_EXTERNAL_DATA, raw);
            }
        })
        .await?;
    image.flush_file(Barrier::AfterHeader).await
}

/// What version 2 has no field for is gone, or was refused before.
fn to_version_2(header: &mut Header) {
    header.version = 2;
    header.incompatible = Incompatible::empty();
    header.compatible = Compatible::empty();
    header.autoclear = Autoclear::empty();
    header.compression_type = CompressionType::Zlib;
    header.bitmaps = None;
    header.unknown_fields.clear();
}
