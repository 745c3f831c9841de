//! The snapshot table on disk.
//!
//! Source: the qcow2 specification, "Snapshots". The table is a run of entries of variable length, so that it can only be
//! read from its start; its end is not known before.

use rhea_block::{BlockError, BlockNode, Result};

use crate::header::{MAX_L1_BYTES, MAX_SNAPSHOTS};

/// Bytes of an entry's fixed part.
const FIXED: usize = 40;
/// Bytes of the extra data that are defined: VM state size, disk size, icount.
const KNOWN_EXTRA: usize = 24;
/// Bytes of extra data that version 3 demands.
const V3_EXTRA: usize = 16;
/// The most extra data that is kept, as in QEMU.
pub(crate) const MAX_EXTRA: usize = 1024;
/// The longest snapshot table, in bytes: half a KiB for each of as many snapshots as there can be. It is in memory several
/// times while it is told of.
pub(crate) const MAX_TABLE: u64 = 512 * MAX_SNAPSHOTS as u64;
/// Bytes of the table that are read at a time; holds the longest entry (extra data up to [`MAX_EXTRA`], two strings
/// of up to 65535 bytes).
const WINDOW: usize = 256 << 10;

/// An entry of the snapshot table.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Snapshot {
    /// Where its L1 table is in the file.
    pub l1_table_offset: u64,
    /// Entries of its L1 table.
    pub l1_size: u32,
    /// Unique in the image; bytes, as no encoding is prescribed.
    pub id: Vec<u8>,
    /// What the user calls it.
    pub name: Vec<u8>,
    /// Seconds since 1970.
    pub date_sec: u32,
    /// And nanoseconds.
    pub date_nsec: u32,
    /// The machine's clock in nanoseconds.
    pub vm_clock_nsec: u64,
    /// Bytes of saved machine state.
    pub vm_state_size: u64,
    /// Bytes of the disk then.
    pub disk_size: u64,
    /// Instructions executed; `u64::MAX`: not counted.
    pub icount: u64,
    /// Extra data of later versions, kept as it is.
    pub unknown_extra: Vec<u8>,
}

impl Snapshot {
    /// Bytes of the entry on disk, with padding.
    pub fn length(&self) -> usize {
        let bytes = FIXED + KNOWN_EXTRA + self.unknown_extra.len() + self.id.len() + self.name.len();
        bytes.next_multiple_of(8)
    }

    /// Appends the entry. Fails if a string is too long to be stored.
    pub fn serialize(&self, to: &mut Vec<u8>) -> Result<()> {
        let too_long = |what| BlockError::new(libc::EFBIG, format!("the snapshot's {what} is too long"));
        let id = u16::try_from(self.id.len()).map_err(|_| too_long("ID"))?;
        let name = u16::try_from(self.name.len()).map_err(|_| too_long("name"))?;
        let extra = (KNOWN_EXTRA + self.unknown_extra.len()) as u32;
        to.extend(self.l1_table_offset.to_be_bytes());
        to.extend(self.l1_size.to_be_bytes());
        to.extend(id.to_be_bytes());
        to.extend(name.to_be_bytes());
        to.extend(self.date_sec.to_be_bytes());
        to.extend(self.date_nsec.to_be_bytes());
        to.extend(self.vm_clock_nsec.to_be_bytes());
        to.extend(u32::try_from(self.vm_state_size).unwrap_or(0).to_be_bytes());
        to.extend(extra.to_be_bytes());
        to.extend(self.vm_state_size.to_be_bytes());
        to.extend(self.disk_size.to_be_bytes());
        to.extend(self.icount.to_be_bytes());
        to.extend(&self.unknown_extra);
        to.extend(&self.id);
        to.extend(&self.name);
        to.resize(to.len().next_multiple_of(8), 0);
        Ok(())
    }

    /// What is wrong with where the entry says its L1 table is; `None`: nothing.
    pub fn l1_problem(&self, cluster_size: u64) -> Option<String> {
        if u64::from(self.l1_size) * 8 > MAX_L1_BYTES {
            return Some(format!("l1_size=0x{:x}: L1 table is too large", self.l1_size));
        }
        if !self.l1_table_offset.is_multiple_of(cluster_size) {
            return Some(format!("l1_offset=0x{:x}: L1 table is not cluster aligned", self.l1_table_offset));
        }
        None
    }
}

/// The whole table as bytes.
pub fn serialize(snapshots: &[Snapshot]) -> Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(snapshots.iter().map(Snapshot::length).sum());
    for snapshot in snapshots {
        // Entries begin at multiples of 8 bytes, as each is padded.
        snapshot.serialize(&mut bytes)?;
    }
    if snapshots.len() > MAX_SNAPSHOTS as usize || bytes.len() as u64 > MAX_TABLE {
        return Err(BlockError::new(libc::EFBIG, "the snapshot table would be too large"));
    }
    Ok(bytes)
}

/// What was found while reading a table, beyond its entries.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct TableRead {
    /// The entries.
    pub snapshots: Vec<Snapshot>,
    /// Bytes of the table.
    pub length: u64,
    /// Entries that lack what version 3 demands.
    pub incomplete: Vec<usize>,
    /// Entries with more extra data than is kept, and how much they had.
    pub overlong: Vec<(usize, u32)>,
    /// Entries left out, as the table got too long.
    pub left_out: u32,
}

/// How much of a damaged table is to be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leniency {
    /// What cannot be kept is an error.
    Strict,
    /// What cannot be kept is dropped, and told.
    Repair,
}

/// Where the table is, and what its entries refer to.
#[derive(Debug, Clone, Copy)]
pub struct TableLocation {
    /// Bytes from the file's start.
    pub offset: u64,
    /// Entries.
    pub count: u32,
    /// The image's version.
    pub version: u32,
    /// Bytes of the disk now: the default for entries that do not tell.
    pub disk_size: u64,
}

struct Reader<'a> {
    file: &'a BlockNode,
    window: Vec<u8>,
    /// Where the window starts in the file, and where the reader is within it.
    start: u64,
    at: usize,
}

impl Reader<'_> {
    /// The next bytes. What lies beyond the file's end is zero.
    async fn take(&mut self, len: usize) -> Result<&[u8]> {
        if self.window.len() - self.at < len {
            self.start = self.position()?;
            self.at = 0;
            let size = len.max(WINDOW);
            // Beyond the file's end there is nothing to read, and no need for room.
            let there = self.file.length().saturating_sub(self.start).min(size as u64) as usize;
            self.window.clear();
            self.window.resize(there, 0);
            self.file.read_bytes(self.start, &mut self.window).await?;
            self.window.resize(there.max(len), 0);
        }
        self.at += len;
        Ok(&self.window[self.at - len..self.at])
    }

    fn position(&self) -> Result<u64> {
        self.start
            .checked_add(self.at as u64)
            .ok_or_else(|| BlockError::malformed("snapshots_offset: the snapshot table is too large"))
    }

    async fn skip(&mut self, len: u64) -> Result<()> {
        let ahead = (self.window.len() - self.at) as u64;
        if len <= ahead {
            self.at += len as usize;
            return Ok(());
        }
        self.start = self
            .position()?
            .checked_add(len)
            .ok_or_else(|| BlockError::malformed("snapshots_offset: the snapshot table is too large"))?;
        self.window.clear();
        self.at = 0;
        Ok(())
    }
}

fn be16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn be32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn be64(bytes: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

/// Reads the snapshot table.
pub async fn read(file: &BlockNode, location: TableLocation, leniency: Leniency) -> Result<TableRead> {
    let mut read = TableRead::default();
    let mut reader = Reader { file, window: Vec::new(), start: location.offset, at: 0 };
    for index in 0..location.count {
        let before = reader.position()?;
        if before - location.offset > MAX_TABLE - FIXED as u64 {
            if leniency == Leniency::Strict {
                return Err(BlockError::new(libc::EFBIG, "Snapshot table is too large"));
            }
            read.left_out = location.count - index;
            break;
        }
        let snapshot = read_entry(&mut reader, location, index as usize, leniency, &mut read).await?;
        read.snapshots.push(snapshot);
        read.length = reader.position()? - location.offset;
    }
    Ok(read)
}

async fn read_entry(
    reader: &mut Reader<'_>,
    location: TableLocation,
    index: usize,
    leniency: Leniency,
    read: &mut TableRead,
) -> Result<Snapshot> {
    let fixed: [u8; FIXED] = reader.take(FIXED).await?.try_into().expect("as long as asked");
    let mut snapshot = Snapshot {
        l1_table_offset: be64(&fixed, 0),
        l1_size: be32(&fixed, 8),
        date_sec: be32(&fixed, 16),
        date_nsec: be32(&fixed, 20),
        vm_clock_nsec: be64(&fixed, 24),
        vm_state_size: be32(&fixed, 32).into(),
        disk_size: location.disk_size,
        icount: u64::MAX,
        ..Snapshot::default()
    };
    let (id, name, extra) = (be16(&fixed, 12), be16(&fixed, 14), be32(&fixed, 36));
    let kept = (extra as usize).min(MAX_EXTRA);
    if extra as usize > MAX_EXTRA {
        if leniency == Leniency::Strict {
            return Err(BlockError::new(
                libc::EFBIG,
                format!("Too much extra metadata in snapshot table entry {index}"),
            )
            .with_hint("You can force-remove this extra metadata with qemu-img check -r all"));
        }
        read.overlong.push((index, extra));
    }
    let data = reader.take(kept).await?;
    if kept >= 8 {
        snapshot.vm_state_size = be64(data, 0);
    }
    if kept >= V3_EXTRA {
        snapshot.disk_size = be64(data, 8);
    } else if location.version >= 3 {
        read.incomplete.push(index);
    }
    if kept >= KNOWN_EXTRA {
        snapshot.icount = be64(data, 16);
        snapshot.unknown_extra = match extra as usize > MAX_EXTRA {
            // A part of unknown data is worth nothing.
            true => Vec::new(),
            false => data[KNOWN_EXTRA..].to_vec(),
        };
    }
    reader.skip(u64::from(extra) - kept as u64).await?;
    snapshot.id = reader.take(id.into()).await?.to_vec();
    snapshot.name = reader.take(name.into()).await?.to_vec();
    let used = reader.position()? - location.offset;
    reader.skip(used.next_multiple_of(8) - used).await?;
    Ok(snapshot)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rhea_async_io::block_on;
    use rhea_block::{MemoryNode, OpenFlags};

    fn snapshot() -> impl Strategy<Value = Snapshot> {
        let strings =
            (proptest::collection::vec(any::<u8>(), 0..30), proptest::collection::vec(any::<u8>(), 0..300));
        let extra = proptest::collection::vec(any::<u8>(), 0..100);
        (any::<[u64; 4]>(), any::<[u32; 3]>(), any::<u64>(), strings, extra).prop_map(
            |([l1, clock, disk, icount], [entries, sec, nsec], vm, (id, name), unknown_extra)| Snapshot {
                l1_table_offset: l1,
                l1_size: entries,
                id,
                name,
                date_sec: sec,
                date_nsec: nsec,
                vm_clock_nsec: clock,
                vm_state_size: vm,
                disk_size: disk,
                icount,
                unknown_extra,
            },
        )
    }

    fn read_bytes(bytes: &[u8], count: u32, version: u32, leniency: Leniency) -> Result<TableRead> {
        let node = MemoryNode::new([&[0; 512], bytes].concat());
        let node = BlockNode::anonymous("memory", Box::new(node), OpenFlags::empty());
        block_on(read(&node, TableLocation { offset: 512, count, version, disk_size: 77 }, leniency))
    }

    proptest! {
        #[test]
        fn what_was_stored_is_read(snapshots in proptest::collection::vec(snapshot(), 0..20)) {
            let bytes = serialize(&snapshots).unwrap();
            prop_assert_eq!(bytes.len(), snapshots.iter().map(Snapshot::length).sum::<usize>());
            let read = read_bytes(&bytes, snapshots.len() as u32, 3, Leniency::Strict).unwrap();
            prop_assert_eq!(read.length, bytes.len() as u64);
            prop_assert_eq!(read.snapshots, snapshots);
            prop_assert!(read.incomplete.is_empty() && read.overlong.is_empty());
        }

        #[test]
        fn any_bytes_are_read_or_refused(
            bytes in proptest::collection::vec(any::<u8>(), 0..400),
            count in 0u32..100,
            repair: bool,
        ) {
            let leniency = if repair { Leniency::Repair } else { Leniency::Strict };
            let _ = read_bytes(&bytes, count, 3, leniency);
        }
    }

    #[test]
    fn short_extra_data_is_told_in_version_3_only() {
        let mut bytes = vec![0; 48];
        bytes[12..16].copy_from_slice(&[0, 1, 0, 2]);
        bytes[40..43].copy_from_slice(b"7ab");
        for (version, incomplete) in [(2, vec![]), (3, vec![0])] {
            let read = read_bytes(&bytes, 1, version, Leniency::Strict).unwrap();
            assert_eq!(read.incomplete, incomplete);
            assert_eq!((read.snapshots[0].disk_size, read.length), (77, 48));
            assert_eq!((&read.snapshots[0].id[..], &read.snapshots[0].name[..]), (&b"7"[..], &b"ab"[..]));
        }
    }

    #[test]
    fn too_much_extra_data_is_refused_or_dropped() {
        let mut bytes = vec![0; 40 + 2000 + 8];
        bytes[13] = 1;
        bytes[36..40].copy_from_slice(&2000u32.to_be_bytes());
        bytes[2040] = b'9';
        assert!(read_bytes(&bytes, 1, 3, Leniency::Strict).is_err());
        let read = read_bytes(&bytes, 1, 3, Leniency::Repair).unwrap();
        assert_eq!((read.overlong, read.snapshots[0].id.clone()), (vec![(0, 2000)], b"9".to_vec()));
        assert!(read.snapshots[0].unknown_extra.is_empty());
    }
}
