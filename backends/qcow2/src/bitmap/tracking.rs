//! Enabled bitmaps while their image is written to.
//!
//! Before the first write, enabled bitmaps are read into memory and marked `in_use` on disk, so that a crash leaves them
//! marked as outdated, not silently wrong. Each write marks its range. When the image is closed they are stored again.

use std::sync::atomic::{AtomicU8, Ordering};

use parking_lot::Mutex;
use rhea_block::{DirtyBitmap, Result};

use super::directory::{self, BitmapFlags, FLAGS_OFFSET};
use super::{change, extension, read_bits, read_directory};
use crate::image::{Exclusive, Image};
use crate::overlap::Sections;
use crate::write_back::Barrier;

/// What is known of the image's enabled bitmaps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Phase {
    /// Nothing was written yet; nobody has looked.
    Untouched,
    /// There are none.
    None,
    /// They are in memory, and marked on disk.
    Tracked,
}

/// The enabled bitmaps of an open image.
#[derive(Debug)]
pub(crate) struct Tracking {
    phase: AtomicU8,
    bitmaps: Mutex<Vec<DirtyBitmap>>,
}

impl Default for Tracking {
    fn default() -> Self {
        Self { phase: AtomicU8::new(Phase::Untouched as u8), bitmaps: Mutex::default() }
    }
}

impl Tracking {
    fn is(&self, phase: Phase) -> bool {
        self.phase.load(Ordering::Acquire) == phase as u8
    }

    fn set(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Release);
    }

    /// Whether [`begin`] is to be called before the disk is changed.
    pub(crate) fn must_begin(&self) -> bool {
        self.is(Phase::Untouched)
    }

    /// Notes that a range of the disk has changed, or is about to.
    pub(crate) fn mark(&self, offset: u64, len: u64) {
        if self.is(Phase::Tracked) {
            self.bitmaps.lock().iter_mut().for_each(|bitmap| bitmap.set(offset, len));
        }
    }

    pub(crate) fn is_tracked(&self, name: &str) -> bool {
        self.bitmaps.lock().iter().any(|b| b.name() == name)
    }

    pub(crate) fn tracked(&self, name: &str) -> Option<DirtyBitmap> {
        self.bitmaps.lock().iter().find(|b| b.name() == name).cloned()
    }

    pub(crate) fn forget(&self, name: &str) {
        self.bitmaps.lock().retain(|b| b.name() != name);
    }
}

/// Reads the enabled bitmaps and marks them on disk, if that was not done yet. To be called before the disk is changed
/// for the first time.
pub(crate) async fn begin(image: &Image, _held: &Exclusive<'_>) -> Result<()> {
    let tracking = image.bitmaps();
    if !tracking.must_begin() {
        return Ok(());
    }
    let header = image.header();
    let Some(extension) = extension(&header) else {
        tracking.set(Phase::None);
        return Ok(());
    };
    let entries = read_directory(image).await?;
    let positions = directory::positions(&entries);
    let mut bitmaps = Vec::new();
    for (entry, position) in entries.iter().zip(positions) {
        if !entry.flags.contains(BitmapFlags::AUTO) || !entry.is_usable() {
            continue;
        }
        bitmaps.push(read_bits(&image.file(), image.geometry(), entry, header.size).await?);
        let flags = (entry.flags | BitmapFlags::IN_USE).bits().to_be_bytes();
        let at = extension.directory_offset + position + FLAGS_OFFSET;
        image.write_section(at, &flags, Sections::BITMAP_DIRECTORY).await?;
    }
    if bitmaps.is_empty() {
        tracking.set(Phase::None);
        return Ok(());
    }
    // Outdated bits may only be on disk with the mark before them.
    image.flush_file(Barrier::AfterBitmapMark).await?;
    *tracking.bitmaps.lock() = bitmaps;
    tracking.set(Phase::Tracked);
    Ok(())
}

/// Stores a bitmap. If it is enabled and the image is being written to, it is tracked from now on.
pub(crate) async fn store(image: &Image, bitmap: DirtyBitmap, held: &Exclusive<'_>) -> Result<()> {
    let tracking = image.bitmaps();
    if bitmap.inconsistent || !bitmap.enabled {
        change(image, std::slice::from_ref(&bitmap), None, held).await?;
        tracking.forget(bitmap.name());
        return Ok(());
    }
    if tracking.must_begin() {
        // The next write will find it on disk.
        return change(image, &[bitmap], None, held).await;
    }
    let mut on_disk = bitmap.clone();
    on_disk.inconsistent = true;
    change(image, &[on_disk], None, held).await?;
    tracking.forget(bitmap.name());
    tracking.bitmaps.lock().push(bitmap);
    tracking.set(Phase::Tracked);
    Ok(())
}

/// Stores what is tracked, when no more writes will come (or until the next one).
pub(crate) async fn end(image: &Image, held: &Exclusive<'_>) -> Result<()> {
    let tracking = image.bitmaps();
    if !tracking.is(Phase::Tracked) {
        return Ok(());
    }
    // Taken out only when they are stored: a failure leaves them marked on disk, and here.
    let bitmaps = tracking.bitmaps.lock().clone();
    change(image, &bitmaps, None, held).await?;
    tracking.bitmaps.lock().clear();
    tracking.set(Phase::Untouched);
    Ok(())
}

/// Makes all bitmaps fit a disk of another length. Called before the disk grows, and after it has shrunk: a table that is
/// larger than it must be does no harm.
pub(crate) async fn resize(image: &Image, size: u64, held: &Exclusive<'_>) -> Result<()> {
    let header = image.header();
    if extension(&header).is_none() {
        return Ok(());
    }
    let mut bitmaps = Vec::new();
    for entry in read_directory(image).await? {
        let tracked = image.bitmaps().is_tracked(&entry.name);
        let needed = directory::table_entries(image.geometry(), entry.granularity_bits, size).max(1);
        if tracked || !entry.is_usable() {
            continue;
        }
        let mut bitmap = read_bits(&image.file(), image.geometry(), &entry, header.size).await?;
        let before = bitmap.words().to_vec();
        bitmap.resize(size);
        let same = bitmap.words() == before && needed == u64::from(entry.table_size);
        if !same {
            bitmaps.push(bitmap);
        }
    }
    if !bitmaps.is_empty() {
        change(image, &bitmaps, None, held).await?;
    }
    image.bitmaps().bitmaps.lock().iter_mut().for_each(|bitmap| bitmap.resize(size));
    Ok(())
}
