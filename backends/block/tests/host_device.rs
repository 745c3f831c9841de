//! Block devices, by a loop device where we may set one up; files that can only be read.

mod support;

use std::process::Command;

use rhea_async_io::block_on;
use rhea_block::{OpenFlags, Preallocation, Progress, StatusFlags, Truncate, WriteFlags};
use rhea_options::Options;
use support::{Folder, registry};

/// A loop device, detached when dropped.
struct Loop(String);

impl Loop {
    fn new(file: &str) -> Option<Self> {
        let output = Command::new("losetup").args(["--find", "--show", file]).output().ok()?;
        let name = String::from_utf8(output.stdout).ok()?.trim().to_owned();
        (output.status.success() && !name.is_empty()).then_some(Self(name))
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").args(["--detach", &self.0]).status();
    }
}

#[test]
fn a_block_device_is_a_disk() {
    let folder = Folder::new("loop");
    let path = folder.path("a.img");
    std::fs::File::create(&path).unwrap().set_len(8 << 20).unwrap();
    let Some(device) = Loop::new(&path) else {
        println!("skipped: no loop device can be set up here");
        return;
    };
    for flags in [OpenFlags::UNMAP, OpenFlags::UNMAP | OpenFlags::DIRECT] {
        block_on(async {
            let disk = registry().open(&device.0, Some("raw"), flags).await.unwrap();
            assert_eq!(disk.file().unwrap().driver_name(), "host_device");
            assert_eq!(disk.length(), 8 << 20);
            disk.write_bytes(1000, &[7; 100_000]).await.unwrap();
            disk.write_zeroes(5000, 20_000, WriteFlags::empty()).await.unwrap();
            disk.write_zeroes(40_960, 8192, WriteFlags::MAY_UNMAP).await.unwrap();
            disk.discard(4 << 20, 1 << 20).await.unwrap();
            disk.flush().await.unwrap();
            let mut bytes = vec![1; 102_000];
            disk.read_bytes(0, &mut bytes).await.unwrap();
            for (at, byte) in bytes.iter().enumerate() {
                let zeroed = (5000..25_000).contains(&at) || (40_960..49_152).contains(&at);
                let expected = if (1000..101_000).contains(&at) && !zeroed { 7 } else { 0 };
                assert_eq!(*byte, expected, "at {at}");
            }
            let status = disk.block_status(0, 8 << 20, true).await.unwrap();
            assert!(status.len == 8 << 20 && status.flags.contains(StatusFlags::DATA));
            assert!(disk.write_bytes(8 << 20, b"x").await.is_err());
            disk.truncate(4 << 20, Truncate::default()).await.unwrap();
            assert!(disk.truncate(4 << 20, Truncate { exact: true, ..Truncate::default() }).await.is_err());
            let error = disk.truncate(9 << 20, Truncate::default()).await.unwrap_err();
            assert_eq!(error.to_string(), "Cannot grow device files");
            let how = Truncate { preallocation: Preallocation::Full, ..Truncate::default() };
            assert!(disk.truncate(8 << 20, how).await.is_err());
        });
    }
    let create = |size: &str| {
        let options = Options::parse(&format!("size={size}"), None).unwrap();
        block_on(registry().create("raw", &device.0, options, &Progress::new()))
    };
    create("8M").unwrap();
    assert_eq!(create("9M").unwrap_err().to_string(), "Cannot grow device files");
}

#[test]
fn a_file_that_cannot_be_written_is_read() {
    use std::os::unix::fs::PermissionsExt;
    let folder = Folder::new("readonly");
    let path = folder.path("a.img");
    std::fs::write(&path, [5; 512]).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o444)).unwrap();
    if std::fs::OpenOptions::new().write(true).open(&path).is_ok() {
        println!("skipped: whoever runs this may write to every file");
        return;
    }
    block_on(async {
        assert!(registry().open(&path, Some("raw"), OpenFlags::empty()).await.is_err());
        let disk = registry().open(&path, Some("raw"), OpenFlags::AUTO_READ_ONLY).await.unwrap();
        assert!(disk.is_read_only() && disk.file().unwrap().is_read_only());
        let mut bytes = [0; 512];
        disk.read_bytes(0, &mut bytes).await.unwrap();
        assert_eq!(bytes, [5; 512]);
        assert!(disk.write_bytes(0, b"x").await.is_err());
    });
}
