//! `qemu-img snapshot`, and the table of snapshots.

use std::time::{SystemTime, UNIX_EPOCH};

use rhea_block::{BlockError, OpenFlags, SnapshotInfo, Snapshots};
use rhea_options::{LongOption, Parsed};

use crate::failure::{Failure, FailureExt, Outcome};
use crate::session::{Image, Session, finish, flag, id, one_name, valued};
use crate::size;

pub(crate) const SHORT: &str = "qf:Ula:c:d:";
pub(crate) const LONG: &[LongOption] = &[
    flag("quiet", 'q'),
    valued("format", 'f'),
    flag("image-opts", id::IMAGE_OPTS),
    flag("force-share", 'U'),
    flag("list", 'l'),
    valued("create", 'c'),
    valued("apply", 'a'),
    valued("delete", 'd'),
    valued("object", id::OBJECT),
];

/// The table's first line.
pub(crate) const HEADING: &str =
    "ID      TAG               VM_SIZE                DATE        VM_CLOCK     ICOUNT";

/// A line of the table.
pub(crate) fn row(snapshot: &SnapshotInfo) -> String {
    let clock = snapshot.vm_clock_ns / 1_000_000;
    let (hours, minutes, seconds) = (clock / 3_600_000, clock / 60_000 % 60, clock / 1000 % 60);
    format!(
        "{:<7} {:<16} {:>8}{:>20}{:>16}{:>11}",
        snapshot.id,
        snapshot.name,
        size::human(snapshot.vm_state_size),
        local_time(snapshot.date.0),
        format!("{hours:04}:{minutes:02}:{seconds:02}.{:03}", clock % 1000),
        snapshot.icount.map_or_else(|| "--".into(), |count| count.to_string()),
    )
}

/// A time in the host's zone: `2024-02-29 12:00:00`.
fn local_time(seconds: u64) -> String {
    let time = i64::try_from(seconds).unwrap_or(0);
    let local = time.saturating_add(rhea_host::time::local_offset_at(time));
    let (days, rest) = (local.div_euclid(86400), local.rem_euclid(86400));
    let (year, month, day) = date(days);
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02}", rest / 3600, rest / 60 % 60, rest % 60)
}

/// The Gregorian date of a day counted from 1970-01-01, reckoned in years that begin in March, so that the leap day
/// comes last.
fn date(days: i64) -> (i64, i64, i64) {
    const DAYS_OF_400_YEARS: i64 = 146_097;
    let days = days + 719_468;
    let (era, day) = (days.div_euclid(DAYS_OF_400_YEARS), days.rem_euclid(DAYS_OF_400_YEARS));
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (era * 400 + year + i64::from(month <= 2), month, day)
}

#[derive(Clone, Copy)]
enum Action<'a> {
    List,
    Create(&'a str),
    Apply(&'a str),
    Delete(&'a str),
}

fn action(parsed: &Parsed) -> Outcome<Action<'_>> {
    let mut wanted = None;
    for (option, argument) in &parsed.options {
        let name = argument.as_deref().unwrap_or_default();
        let action = match option {
            'l' => Action::List,
            'c' => Action::Create(name),
            'a' => Action::Apply(name),
            'd' => Action::Delete(name),
            _ => continue,
        };
        if wanted.replace(action).is_some() {
            return Err(Failure::usage("Cannot mix '-l', '-a', '-c', '-d'"));
        }
    }
    Ok(wanted.unwrap_or(Action::List))
}

pub(crate) async fn run(session: &Session, parsed: &Parsed) -> Outcome<u8> {
    let action = action(parsed)?;
    let name = session.name(parsed, one_name(parsed)?)?;
    let mut flags = OpenFlags::UNMAP;
    if matches!(action, Action::List) {
        flags |= OpenFlags::READ_ONLY | OpenFlags::NO_BACKING | OpenFlags::NO_IO;
    }
    if parsed.has('U') {
        flags |= OpenFlags::FORCE_SHARE;
        if !flags.contains(OpenFlags::READ_ONLY) {
            return Err(Failure::new(format!(
                "Could not open '{}': force-share=on can only be used with read-only images",
                name.text
            )));
        }
    }
    let image = session.open(name, flags).await?;
    let result = act(&image, action).await;
    finish(result.map(|()| 0), [image]).await
}

/// The snapshot of an id, or else of a name.
pub(crate) async fn find(snapshots: &dyn Snapshots, text: &str) -> Outcome<Option<SnapshotInfo>> {
    let list = snapshots.list().await?;
    Ok(list.iter().find(|s| s.id == text).or_else(|| list.iter().find(|s| s.name == text)).cloned())
}

/// Snapshots are deleted by name; an id is no name.
async fn find_to_delete(snapshots: &dyn Snapshots, text: &str) -> Outcome<Option<SnapshotInfo>> {
    Ok(snapshots.list().await?.into_iter().find(|s| s.name == text))
}

async fn act(image: &Image, action: Action<'_>) -> Outcome<()> {
    let snapshots = image.node.driver().snapshots();
    match action {
        Action::List => {
            let list = match snapshots {
                Some(snapshots) => snapshots.list().await?,
                None => Vec::new(),
            };
            if !list.is_empty() {
                println!("Snapshot list:\n{HEADING}");
                list.iter().for_each(|snapshot| println!("{}", row(snapshot)));
            }
            Ok(())
        }
        Action::Create(name) => {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            let snapshot = SnapshotInfo {
                name: name.into(),
                // The header keeps microseconds' worth of precision.
                date: (now.as_secs(), now.subsec_micros() * 1000),
                icount: Some(0),
                disk_size: image.length(),
                ..SnapshotInfo::default()
            };
            let snapshots = snapshots.ok_or_else(|| BlockError::os(libc::ENOTSUP));
            let made = match snapshots {
                Ok(snapshots) => snapshots.create(&snapshot).await.map(drop),
                Err(error) => Err(error),
            };
            made.told(format!("Could not create snapshot '{name}'"))
        }
        Action::Apply(name) => {
            apply(image, snapshots, name).await.told(format!("Could not apply snapshot '{name}'"))
        }
        Action::Delete(name) => {
            let found = match snapshots {
                Some(snapshots) => find_to_delete(snapshots, name).await?.map(|s| (snapshots, s)),
                None => None,
            };
            let Some((snapshots, snapshot)) = found else {
                return Err(Failure::new(format!("Could not delete snapshot '{name}': snapshot not found")));
            };
            snapshots.delete(&snapshot.id).await.told(format!("Could not delete snapshot '{name}'"))
        }
    }
}

async fn apply(image: &Image, snapshots: Option<&dyn Snapshots>, name: &str) -> Outcome<()> {
    let Some(snapshots) = snapshots else {
        return Err(Failure::new("Block driver does not support snapshots"));
    };
    if let Some(bitmaps) = image.node.driver().bitmaps()
        && !bitmaps.list().await?.is_empty()
    {
        return Err(Failure::new("Device has active dirty bitmaps"));
    }
    let found = find(snapshots, name).await?;
    let Some(snapshot) = found else {
        return Err(BlockError::os(libc::ENOENT).context("Failed to load snapshot").into());
    };
    image.node.flush().await?;
    snapshots.apply(&snapshot.id).await.told("Failed to load snapshot")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_dates() {
        assert_eq!(date(0), (1970, 1, 1));
        assert_eq!(date(11016), (2000, 2, 29));
        assert_eq!(date(11017), (2000, 3, 1));
        assert_eq!(date(20513), (2026, 3, 1));
        assert_eq!(date(-1), (1969, 12, 31));
    }

    #[test]
    fn rows_stand_under_the_heading() {
        let snapshot =
            SnapshotInfo { id: "1".into(), name: "one".into(), icount: Some(0), ..SnapshotInfo::default() };
        assert_eq!(row(&snapshot).len(), HEADING.len());
        assert_eq!(&row(&snapshot)[..34], "1       one                   0 B ");
    }
}
