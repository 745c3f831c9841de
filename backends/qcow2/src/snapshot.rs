//! Snapshots within an image.
//!
//! A snapshot is an L1 table that is not the active one. Each change is one [`Transaction`]: it happens, or not, wherever
//! a crash falls, and never writes to a table or to data that a snapshot uses. In particular a new snapshot takes over
//! the active L1 and L2 tables as they are, and the active ones are new: those L2 tables that say of a cluster that it is
//! theirs alone are copied.

pub(crate) mod table;

use async_trait::async_trait;
use rhea_block::{BlockError, Result, SnapshotInfo, Snapshots};

use self::table::{Leniency, Snapshot, TableLocation, TableRead};
use crate::finish::finish;
use crate::header::{Header, MAX_L1_BYTES, MAX_SNAPSHOTS};
use crate::image::{Exclusive, Image};
use crate::transaction::{Change, Transaction};

/// Reads the snapshot table.
pub(crate) async fn read_table(image: &Image) -> Result<TableRead> {
    let header = image.header();
    if header.nb_snapshots == 0 {
        return Ok(TableRead::default());
    }
    let location = TableLocation {
        offset: header.snapshots_offset,
        count: header.nb_snapshots,
        version: header.version,
        disk_size: header.size,
    };
    table::read(&image.file(), location, Leniency::Strict)
        .await
        .map_err(|error| error.context("Could not read snapshots"))
}

/// Puts another snapshot table in the place of the present one of `old_length` bytes.
pub(crate) async fn replace_table(
    image: &Image,
    snapshots: &[Snapshot],
    old_length: u64,
    held: &Exclusive<'_>,
) -> Result<()> {
    let mut transaction = Transaction::begin(image, held).await?;
    let change = replace_in(&mut transaction, snapshots, old_length).await?;
    transaction.commit(change).await
}

/// Writes the table, gives the old one up, and returns what is to be done to the header.
async fn replace_in(
    transaction: &mut Transaction<'_>,
    snapshots: &[Snapshot],
    old_length: u64,
) -> Result<impl FnOnce(&mut Header) + Send + use<>> {
    let bytes = table::serialize(snapshots)?;
    let count = snapshots.len() as u32;
    let offset = match bytes.is_empty() {
        true => 0,
        false => transaction.write_new(&bytes).await?,
    };
    let old = transaction.header.snapshots_offset;
    transaction.refer(Change::Remove, old, old_length)?;
    Ok(move |header: &mut Header| {
        header.snapshots_offset = offset;
        header.nb_snapshots = count;
    })
}

fn l1_bytes(l1: &[u64]) -> Vec<u8> {
    l1.iter().flat_map(|entry| entry.to_be_bytes()).collect()
}

fn info(snapshot: &Snapshot) -> SnapshotInfo {
    SnapshotInfo {
        id: String::from_utf8_lossy(&snapshot.id).into_owned(),
        name: String::from_utf8_lossy(&snapshot.name).into_owned(),
        vm_state_size: snapshot.vm_state_size,
        date: (snapshot.date_sec.into(), snapshot.date_nsec),
        vm_clock_ns: snapshot.vm_clock_nsec,
        icount: (snapshot.icount != u64::MAX).then_some(snapshot.icount),
        disk_size: snapshot.disk_size,
    }
}

fn find(snapshots: &[Snapshot], id: &str) -> Result<usize> {
    snapshots
        .iter()
        .position(|s| s.id == id.as_bytes())
        .ok_or_else(|| BlockError::new(libc::ENOENT, "Can't find the snapshot"))
}

fn check_l1(snapshot: &Snapshot, cluster_size: u64) -> Result<()> {
    match snapshot.l1_problem(cluster_size) {
        Some(problem) => Err(BlockError::malformed(format!(
            "Snapshot {}: {problem}",
            String::from_utf8_lossy(&snapshot.id)
        ))),
        None => Ok(()),
    }
}

fn refuse_external(header: &Header) -> Result<()> {
    match header.has_external_data() {
        true => Err(BlockError::unsupported("Snapshots are not supported with an external data file")),
        false => Ok(()),
    }
}

#[async_trait]
impl Snapshots for Image {
    async fn list(&self) -> Result<Vec<SnapshotInfo>> {
        Ok(read_table(self).await?.snapshots.into_iter().map(|snapshot| info(&snapshot)).collect())
    }

    async fn create(&self, wanted: &SnapshotInfo) -> Result<String> {
        let (this, wanted) = (self.arc(), wanted.clone());
        finish(async move { this.create_snapshot(&wanted).await }).await
    }

    async fn apply(&self, id: &str) -> Result<()> {
        let (this, id) = (self.arc(), id.to_owned());
        finish(async move { this.apply_snapshot(&id).await }).await
    }

    async fn delete(&self, id: &str) -> Result<()> {
        let (this, id) = (self.arc(), id.to_owned());
        finish(async move { this.delete_snapshot(&id).await }).await
    }

    async fn load(&self, id: &str) -> Result<()> {
        let _held = self.exclusive().await;
        let snapshots = read_table(self).await?.snapshots;
        let snapshot = &snapshots[find(&snapshots, id)?];
        check_l1(snapshot, self.geometry().cluster_size)?;
        self.show_snapshot(snapshot.l1_table_offset, snapshot.l1_size, snapshot.disk_size).await
    }
}

impl Image {
    /// Makes a snapshot; its ID.
    async fn create_snapshot(&self, wanted: &SnapshotInfo) -> Result<String> {
        let held = self.exclusive().await;
        self.check_writable()?;
        refuse_external(&self.header())?;
        let mut transaction = Transaction::begin(self, &held).await?;
        let TableRead { mut snapshots, length, .. } = read_table(self).await?;
        if snapshots.len() >= MAX_SNAPSHOTS as usize {
            return Err(BlockError::new(libc::EFBIG, "the image has as many snapshots as it can have"));
        }
        let id = match wanted.id.as_str() {
            "" => next_id(&snapshots),
            id => id.to_owned(),
        };
        if find(&snapshots, &id).is_ok() {
            return Err(BlockError::new(
                libc::EEXIST,
                format!("a snapshot with the ID '{id}' exists already"),
            ));
        }
        let header = transaction.header.clone();
        let mut l1 = transaction.read_l1(header.l1_table_offset, header.l1_size).await?;
        // Machine state, behind the disk, goes to the snapshot; the disk belongs to both.
        let disk = (header.l1_entries_for(header.size) as usize).min(l1.len());
        l1[disk..].fill(0);
        transaction.refer_tree(Change::Add, &l1).await?;
        transaction.settle(&mut l1).await?;
        let l1_table_offset = match l1.is_empty() {
            true => 0,
            false => transaction.write_new(&l1_bytes(&l1)).await?,
        };
        snapshots.push(Snapshot {
            l1_table_offset: header.l1_table_offset,
            l1_size: header.l1_size,
            id: id.clone().into_bytes(),
            name: wanted.name.clone().into_bytes(),
            date_sec: u32::try_from(wanted.date.0).unwrap_or(u32::MAX),
            date_nsec: wanted.date.1,
            vm_clock_nsec: wanted.vm_clock_ns,
            vm_state_size: wanted.vm_state_size,
            disk_size: header.size,
            icount: wanted.icount.unwrap_or(u64::MAX),
            unknown_extra: Vec::new(),
        });
        let replace = replace_in(&mut transaction, &snapshots, length).await?;
        transaction
            .commit(move |header| {
                header.l1_table_offset = l1_table_offset;
                replace(header);
            })
            .await?;
        Ok(id)
    }

    /// Makes a snapshot's state the present one.
    async fn apply_snapshot(&self, id: &str) -> Result<()> {
        let held = self.exclusive().await;
        self.check_writable()?;
        refuse_external(&self.header())?;
        // An enabled bitmap would have to tell what differs, and the others would not fit another size.
        if !crate::bitmap::read_directory(self).await?.is_empty() {
            return Err(BlockError::unsupported("Device has active dirty bitmaps"));
        }
        let mut transaction = Transaction::begin(self, &held).await?;
        let snapshots = read_table(self).await?.snapshots;
        let snapshot = &snapshots[find(&snapshots, id)?];
        check_l1(snapshot, transaction.geometry.cluster_size)?;
        let header = transaction.header.clone();
        let size = snapshot.disk_size;
        let entries = header.l1_entries_for(size).max(snapshot.l1_size.into());
        if entries * 8 > MAX_L1_BYTES || size > rhea_block::MAX_LENGTH {
            return Err(BlockError::malformed("Snapshot: the disk size is too large for an L1 table"));
        }
        let mut l1 = transaction.read_l1(snapshot.l1_table_offset, snapshot.l1_size).await?;
        let old = transaction.read_l1(header.l1_table_offset, header.l1_size).await?;
        transaction.refer_tree(Change::Add, &l1).await?;
        transaction.refer_tree(Change::Remove, &old).await?;
        transaction.refer(Change::Remove, header.l1_table_offset, u64::from(header.l1_size) * 8)?;
        transaction.settle(&mut l1).await?;
        l1.resize(entries as usize, 0);
        let l1_table_offset = match l1.is_empty() {
            true => 0,
            false => transaction.write_new(&l1_bytes(&l1)).await?,
        };
        transaction
            .commit(move |header| {
                header.l1_table_offset = l1_table_offset;
                header.l1_size = entries as u32;
                header.size = size;
            })
            .await
    }

    /// Removes a snapshot.
    async fn delete_snapshot(&self, id: &str) -> Result<()> {
        let held = self.exclusive().await;
        self.check_writable()?;
        refuse_external(&self.header())?;
        let mut transaction = Transaction::begin(self, &held).await?;
        let TableRead { mut snapshots, length, .. } = read_table(self).await?;
        let snapshot = snapshots.remove(find(&snapshots, id)?);
        check_l1(&snapshot, transaction.geometry.cluster_size)?;
        let header = transaction.header.clone();
        let gone = transaction.read_l1(snapshot.l1_table_offset, snapshot.l1_size).await?;
        transaction.refer_tree(Change::Remove, &gone).await?;
        transaction.refer(Change::Remove, snapshot.l1_table_offset, u64::from(snapshot.l1_size) * 8)?;
        let before = transaction.read_l1(header.l1_table_offset, header.l1_size).await?;
        let mut l1 = before.clone();
        transaction.settle(&mut l1).await?;
        let mut l1_table_offset = header.l1_table_offset;
        if l1 != before {
            l1_table_offset = transaction.write_new(&l1_bytes(&l1)).await?;
            transaction.refer(Change::Remove, header.l1_table_offset, u64::from(header.l1_size) * 8)?;
        }
        let replace = replace_in(&mut transaction, &snapshots, length).await?;
        transaction
            .commit(move |header| {
                header.l1_table_offset = l1_table_offset;
                replace(header);
            })
            .await
    }
}

/// The next free number.
fn next_id(snapshots: &[Snapshot]) -> String {
    let number = |s: &Snapshot| std::str::from_utf8(&s.id).ok()?.parse::<u64>().ok();
    let highest = snapshots.iter().filter_map(number).max().unwrap_or(0);
    highest.saturating_add(1).to_string()
}
