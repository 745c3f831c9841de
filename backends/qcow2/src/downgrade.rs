//! Clusters that read as zeroes, as version 2 can say it.
//!
//! Version 2 knows no zero clusters. Where nothing is behind the image, such a cluster becomes an unallocated one; else it
//! needs a cluster of zeroes in the file. What is read never changes: a cluster is filled with zeroes before its entry
//! loses the mark. So a crash leaves a sound image of version 3, of which a part is done.

use std::collections::BTreeMap;

use rhea_block::{Progress, Result, ResultExt, WriteFlags};

use crate::finish::finish;
use crate::geometry::{COPIED, L2Entry, OFFSET_MASK, ZERO};
use crate::image::{Exclusive, Image, Release};
use crate::snapshot;
use crate::structures::{read_vector, unsound, words};
use crate::write_back::Barrier;

/// The L2 tables of all L1 tables, and how many L1 entries name each. Tables of the active L1 table are marked.
async fn tables(image: &Image) -> Result<BTreeMap<u64, (u64, bool)>> {
    let header = image.header();
    let cluster_size = image.geometry().cluster_size;
    let mut l1_tables = vec![(header.l1_table_offset, header.l1_size, true)];
    for snapshot in snapshot::read_table(image).await?.snapshots {
        if let Some(problem) = snapshot.l1_problem(cluster_size) {
            return Err(unsound(problem));
        }
        l1_tables.push((snapshot.l1_table_offset, snapshot.l1_size, false));
    }
    let mut found = BTreeMap::new();
    for (offset, entries, active) in l1_tables {
        let bytes = read_vector(image.file(), offset, u64::from(entries) * 8)
            .await
            .context("Could not read an L1 table")?
            .to_vec();
        for table in words(&bytes).map(|entry| entry & OFFSET_MASK).filter(|&table| table != 0) {
            if !table.is_multiple_of(cluster_size) {
                return Err(unsound(format!("an L2 table is not cluster aligned: 0x{table:x}")));
            }
            let slot = found.entry(table).or_insert((0, false));
            slot.0 += 1;
            slot.1 |= active;
        }
    }
    Ok(found)
}

/// Tables that are done in one go, which ends even if its caller gives up.
const BATCH: usize = 64;

/// Does away with all zero clusters of an image without subclusters.
pub(crate) async fn expand_zero_clusters(image: &Image, progress: &Progress) -> Result<()> {
    let tables: Vec<(u64, (u64, bool))> = {
        let _held = image.exclusive().await;
        image.write_back().await?;
        tables(image).await?.into_iter().collect()
    };
    progress.set_total(tables.len() as u64);
    for batch in tables.chunks(BATCH) {
        let (this, tables) = (image.arc(), batch.to_vec());
        finish(async move { expand_tables(&this, &tables).await }).await?;
        progress.advance(batch.len() as u64);
    }
    Ok(())
}

async fn expand_tables(image: &Image, tables: &[(u64, (u64, bool))]) -> Result<()> {
    let held = image.exclusive().await;
    expand_held(image, tables, &held).await
}

/// Does away with the zero clusters that were made in the meantime.
pub(crate) async fn expand_rest(image: &Image, held: &Exclusive<'_>) -> Result<()> {
    image.write_back().await?;
    let tables: Vec<_> = tables(image).await?.into_iter().collect();
    expand_held(image, &tables, held).await
}

async fn expand_held(image: &Image, tables: &[(u64, (u64, bool))], _held: &Exclusive<'_>) -> Result<()> {
    image.write_back().await?;
    let mut result = Ok(());
    for &(table, (times, active)) in tables {
        result = expand_table(image, table, times, active).await;
        if result.is_err() {
            break;
        }
    }
    // Whatever happened, memory follows the disk.
    let written = image.write_back().await;
    let reloaded = image.reload().await;
    result.and(written).and(reloaded)
}

async fn expand_table(image: &Image, table: u64, times: u64, active: bool) -> Result<()> {
    let geometry = *image.geometry();
    let file = image.file();
    let mut bytes = read_vector(file.clone(), table, geometry.cluster_size)
        .await
        .context("Could not read an L2 table")?
        .to_vec();
    let backed = image.header().backing_file.is_some();
    let mut given_up = Vec::new();
    let mut changed = false;
    for index in 0..1usize << geometry.l2_bits {
        let entry = L2Entry::load(&geometry, &bytes, index);
        if entry.is_compressed() || entry.descriptor & ZERO == 0 {
            continue;
        }
        let old = entry.host_offset();
        // The cluster is this entry's own if nothing else counts in its refcount.
        let own = old != 0 && image.refcount(old).await? == times;
        let place = if !backed {
            // Nothing is behind the image: unallocated reads the same.
            if old != 0 {
                given_up.push(old);
            }
            None
        } else if own {
            Some(old)
        } else {
            if old != 0 {
                given_up.push(old);
            }
            let new = image.allocate(geometry.cluster_size).await?;
            for _ in 1..times {
                image.add_references(new, geometry.cluster_size).await?;
            }
            Some(new)
        };
        let descriptor = match place {
            None => 0,
            Some(place) => {
                file.write_zeroes(place, geometry.cluster_size, WriteFlags::empty()).await?;
                place | if active && times == 1 { COPIED } else { 0 }
            }
        };
        L2Entry { descriptor, bitmap: 0 }.store(&geometry, &mut bytes, index);
        changed = true;
    }
    if !changed {
        return Ok(());
    }
    // Zeroes and refcounts before the entries that rely on them.
    image.write_back().await?;
    image.flush_file(Barrier::BeforeEntries).await?;
    file.write_bytes(table, &bytes).await.context("Could not write an L2 table")?;
    image.flush_file(Barrier::AfterEntries).await?;
    for old in given_up {
        for _ in 0..times {
            image.release(old, geometry.cluster_size, Release::Other);
        }
    }
    image.write_back().await
}
