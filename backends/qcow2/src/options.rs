//! The options of an open image.
//!
//! Names and meanings are those of QEMU's `BlockdevOptionsQcow2`.

use std::time::Duration;

use rhea_block::{BlockError, OpenFlags, Result};
use rhea_options::Options;

use crate::geometry::Geometry;
use crate::image::Release;
use crate::overlap::Sections;

/// Bytes of the L2 cache, at most, unless the options say otherwise: enough for 256 GiB with clusters of 64 KiB.
const MAX_L2_CACHE: u64 = 32 << 20;
/// Bytes of the refcount cache, at most, unless the options say otherwise.
const MAX_REFCOUNT_CACHE: u64 = 4 << 20;
/// What an image can make us allocate for its tables, all in all.
const MAX_METADATA: u64 = 64 << 20;
/// Bytes of a slice unless the options say otherwise: few enough to read for a single entry.
const SLICE: u64 = 16 << 10;
/// Bytes that a slice takes beside its own.
const SLICE_COST: u64 = 256;

/// What can change while the image is open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Settings {
    pub(crate) lazy_refcounts: bool,
    pub(crate) pass_discard_request: bool,
    pub(crate) pass_discard_snapshot: bool,
    pub(crate) pass_discard_other: bool,
    pub(crate) discard_no_unref: bool,
    pub(crate) overlap: Sections,
    /// Zero: never.
    pub(crate) cache_clean_interval: Duration,
}

impl Settings {
    /// Whether the file is told of clusters released for a reason.
    pub(crate) fn passes(&self, why: Release) -> bool {
        match why {
            Release::Silent => false,
            Release::Request => self.pass_discard_request,
            Release::Snapshot => self.pass_discard_snapshot,
            Release::Other => self.pass_discard_other,
        }
    }
}

/// Sizes of the caches, which stay while the image is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CacheSizes {
    pub(crate) l2: u64,
    pub(crate) slice: u64,
    pub(crate) refcounts: u64,
}

/// Takes the settings; `lazy_in_header` is the default of `lazy-refcounts`.
pub(crate) fn take_settings(
    options: &mut Options,
    geometry: &Geometry,
    flags: OpenFlags,
    lazy_in_header: bool,
) -> Result<Settings> {
    let lazy_refcounts = options.take::<bool>("lazy-refcounts")?.unwrap_or(lazy_in_header);
    if lazy_refcounts && geometry.version < 3 {
        return Err(BlockError::invalid(
            "Lazy refcounts require a qcow2 image with at least qcow2 compatibility level \"v3\"",
        ));
    }
    let discard_no_unref = options.take::<bool>("discard-no-unref")?.unwrap_or(false);
    if discard_no_unref && geometry.version < 3 {
        return Err(BlockError::invalid("discard-no-unref is only supported since qcow2 version 3"));
    }
    let interval = options.take::<u64>("cache-clean-interval")?.unwrap_or(600);
    if interval > u64::from(u32::MAX) {
        return Err(BlockError::invalid("Cache clean interval too big"));
    }
    Ok(Settings {
        lazy_refcounts,
        pass_discard_request: options
            .take::<bool>("pass-discard-request")?
            .unwrap_or(flags.contains(OpenFlags::UNMAP)),
        pass_discard_snapshot: options.take::<bool>("pass-discard-snapshot")?.unwrap_or(true),
        pass_discard_other: options.take::<bool>("pass-discard-other")?.unwrap_or(false),
        discard_no_unref,
        overlap: take_overlap(options)?,
        cache_clean_interval: Duration::from_secs(interval),
    })
}

fn take_overlap(options: &mut Options) -> Result<Sections> {
    let direct = options.take::<String>("overlap-check")?;
    let mut members = options.take_object("overlap-check");
    let template = members.take::<String>("template")?;
    if let (Some(a), Some(b)) = (&direct, &template)
        && a != b
    {
        return Err(BlockError::invalid(format!(
            "Conflicting values for qcow2 options 'overlap-check' ('{a}') and 'overlap-check.template' ('{b}')"
        )));
    }
    let word = direct.or(template).unwrap_or_else(|| "cached".into());
    let mut sections = Sections::from_word(&word).ok_or_else(|| {
        BlockError::invalid(format!(
            "Unsupported value '{word}' for qcow2 option 'overlap-check'. Allowed are any of the following: none, constant, cached, all"
        ))
    })?;
    for (section, name) in Sections::OPTIONS {
        if let Some(on) = members.take::<bool>(name)? {
            sections.set(section, on);
        }
    }
    // What nobody took is unknown, and is refused under its full name.
    for entry in members.entries() {
        options.set(&format!("overlap-check.{}", entry.key), entry.value.as_deref().unwrap_or("on"));
    }
    Ok(sections)
}

/// Takes the sizes of the caches. `disk` and `tables`: bytes of the disk, and of the L1 and refcount tables, which are
/// always in memory.
pub(crate) fn take_cache_sizes(
    options: &mut Options,
    geometry: &Geometry,
    disk: u64,
    tables: u64,
) -> Result<CacheSizes> {
    use rhea_options::Size;
    let total = options.take::<Size>("cache-size")?.map(|s| s.0);
    let l2 = options.take::<Size>("l2-cache-size")?.map(|s| s.0);
    let refcounts = options.take::<Size>("refcount-cache-size")?.map(|s| s.0);
    let slice = options.take::<Size>("l2-cache-entry-size")?.map(|s| s.0);
    if let Some(total) = total {
        if l2.is_some() && refcounts.is_some() {
            return Err(BlockError::invalid(
                "cache-size, l2-cache-size and refcount-cache-size may not be set at the same time",
            ));
        }
        if l2.is_some_and(|l2| l2 > total) {
            return Err(BlockError::invalid("l2-cache-size may not exceed cache-size"));
        }
        if refcounts.is_some_and(|refcounts| refcounts > total) {
            return Err(BlockError::invalid("refcount-cache-size may not exceed cache-size"));
        }
    }
    if let Some(slice) = slice
        && !(slice.is_power_of_two() && (512..=geometry.cluster_size).contains(&slice))
    {
        return Err(BlockError::invalid(format!(
            "L2 cache entry size must be a power of two between 512 and the cluster size ({})",
            geometry.cluster_size
        )));
    }
    let slice = slice.unwrap_or(SLICE.min(geometry.cluster_size));
    let enough = disk.div_ceil(geometry.cluster_size).saturating_mul(geometry.l2_entry_size);
    let enough = enough.saturating_add(2 * geometry.cluster_size);
    let room = MAX_METADATA.saturating_sub(tables);
    // What a slice takes beside its bytes counts where slices are small.
    let max_l2 = MAX_L2_CACHE.min(room / 4 * 3 / (slice + SLICE_COST) * slice);
    let max_refcounts = MAX_REFCOUNT_CACHE.min(room / 8);
    let (l2, refcounts) = match (l2, refcounts, total) {
        (Some(l2), Some(refcounts), _) => (l2, refcounts),
        (Some(l2), None, Some(total)) => (l2, total - l2),
        (None, Some(refcounts), Some(total)) => (total - refcounts, refcounts),
        (None, None, Some(total)) => {
            let l2 = enough.min(total.saturating_sub(4 * geometry.cluster_size)).max(total / 2);
            (l2, total - l2)
        }
        (l2, refcounts, None) => (l2.unwrap_or(enough.min(max_l2)), refcounts.unwrap_or(max_refcounts)),
    };
    Ok(CacheSizes { l2, slice, refcounts })
}
