//! Images go back and forth between this driver and Debian's qemu-img and qemu-io.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use proptest::prelude::*;
use rhea_async_io::block_on;
use rhea_block::{
    BlockNode, FileDriver, OpenFlags, Progress, RawDriver, Registry, Repair, Result, Truncate, WriteFlags,
};
use rhea_options::Options;
use rhea_vhdx::VhdxDriver;

fn registry() -> Registry {
    let mut registry = Registry::new();
    registry.add(VhdxDriver);
    registry.add(FileDriver);
    registry.add(RawDriver);
    registry
}

/// A folder that goes with the test.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("rhea-vhdx-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn file(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Whether Debian's tools are there; says so if not.
fn tools() -> bool {
    let there = Path::new("/usr/bin/qemu-img").exists() && Path::new("/usr/bin/qemu-io").exists();
    if !there {
        println!("skipped: qemu-img and qemu-io (package qemu-utils) are not installed");
    }
    there
}

fn run(program: &str, arguments: &[&str]) -> (bool, String) {
    let output = Command::new(program).args(arguments).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&text).into_owned())
}

fn must(program: &str, arguments: &[&str]) -> String {
    let (success, text) = run(program, arguments);
    assert!(success, "{program} {arguments:?}: {text}");
    text
}

fn create(name: &str, options: &str) {
    let options = Options::parse(options, None).unwrap();
    block_on(registry().create("vhdx", name, options, &Progress::new())).unwrap();
}

fn open(name: &str, flags: OpenFlags) -> Result<Arc<BlockNode>> {
    block_on(registry().open(name, Some("vhdx"), flags))
}

/// Compares an image with what it should hold, by both.
fn compare(folder: &Folder, image: &str, model: &[u8]) {
    let raw = folder.file("model.raw");
    std::fs::write(&raw, model).unwrap();
    must("qemu-img", &["check", "-q", image]);
    let text = must("qemu-img", &["compare", "-f", "vhdx", "-F", "raw", image, &raw]);
    assert!(text.contains("Images are identical"), "{text}");
    let disk = open(image, OpenFlags::READ_ONLY).unwrap();
    assert_eq!(disk.length(), model.len() as u64);
    let mut data = vec![0; model.len()];
    block_on(disk.read_bytes(0, &mut data)).unwrap();
    assert!(data == model, "our own reading differs");
    let check = block_on(disk.driver().check(Repair::default())).unwrap();
    assert_eq!((check.corruptions, check.messages), (0, vec![]));
}

#[derive(Debug, Clone)]
enum Change {
    Write(u64, u64, u8),
    Zero(u64, u64),
    Discard(u64, u64),
}

fn changes(disk: u64) -> impl Strategy<Value = Vec<Change>> {
    let place = move || {
        (0..disk / 512, prop_oneof![1..16_u64, 1..6000_u64])
            .prop_map(move |(at, len)| (at * 512, (len * 512).min(disk - at * 512)))
    };
    let change = prop_oneof![
        5 => (place(), 1..=255_u8).prop_map(|((at, len), fill)| Change::Write(at, len, fill)),
        2 => place().prop_map(|(at, len)| Change::Zero(at, len)),
        1 => place().prop_map(|(at, len)| Change::Discard(at, len)),
    ];
    proptest::collection::vec(change, 1..8)
}

fn change_model(model: &mut [u8], change: &Change) {
    match *change {
        Change::Write(at, len, fill) => model[at as usize..(at + len) as usize].fill(fill),
        Change::Zero(at, len) => model[at as usize..(at + len) as usize].fill(0),
        Change::Discard(..) => {}
    }
}

fn change_by_us(image: &str, model: &mut [u8], changes: &[Change]) {
    let disk = open(image, OpenFlags::UNMAP).unwrap();
    block_on(async {
        for change in changes {
            match *change {
                Change::Write(at, len, fill) => {
                    disk.write_bytes(at, &vec![fill; len as usize]).await.unwrap()
                }
                Change::Zero(at, len) => disk.write_zeroes(at, len, WriteFlags::MAY_UNMAP).await.unwrap(),
                Change::Discard(at, len) => {
                    disk.discard(at, len).await.unwrap();
                    // Whatever a discard leaves is right.
                    let mut now = vec![0; len as usize];
                    disk.read_bytes(at, &mut now).await.unwrap();
                    model[at as usize..(at + len) as usize].copy_from_slice(&now);
                }
            }
            change_model(model, change);
        }
        disk.close().await.unwrap();
    });
}

fn change_by_qemu(image: &str, model: &mut [u8], changes: &[Change]) {
    let mut arguments = vec!["-f".to_owned(), "vhdx".to_owned()];
    for change in changes {
        let command = match *change {
            Change::Write(at, len, fill) => format!("write -P {fill} {at} {len}"),
            Change::Zero(at, len) => format!("write -z {at} {len}"),
            Change::Discard(..) => continue,
        };
        arguments.extend(["-c".to_owned(), command]);
        change_model(model, change);
    }
    arguments.push(image.to_owned());
    must("qemu-io", &arguments.iter().map(String::as_str).collect::<Vec<_>>());
}

const DISK: u64 = 20 << 20;
const OPTIONS: [&str; 7] = [
    "",
    "block_size=1M",
    "block_size=2M,log_size=2M",
    "subformat=fixed",
    "subformat=fixed,block_size=1M,block_state_zero=off",
    "subformat=fixed,block_state_zero=on",
    "block_state_zero=off,block_size=4M",
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 10, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn images_go_back_and_forth(
        options in 0..OPTIONS.len(),
        ours_first: bool,
        rounds in proptest::collection::vec((any::<bool>(), changes(DISK)), 1..4),
    ) {
        if tools() {
            let folder = Folder::new("back-and-forth");
            let image = folder.file("a.vhdx");
            let text = format!("size={DISK},{}", OPTIONS[options]);
            match ours_first {
                true => create(&image, text.trim_end_matches(',')),
                false => {
                    let text = text.trim_end_matches(',');
                    must("qemu-img", &["create", "-q", "-f", "vhdx", "-o", text, &image]);
                }
            }
            let mut model = vec![0; DISK as usize];
            compare(&folder, &image, &model);
            for (ours, changes) in &rounds {
                match ours {
                    true => change_by_us(&image, &mut model, changes),
                    false => change_by_qemu(&image, &mut model, changes),
                }
                compare(&folder, &image, &model);
            }
        }
    }
}

#[test]
fn every_option_set_makes_the_same_image() {
    if !tools() {
        return;
    }
    let folder = Folder::new("options");
    for options in OPTIONS {
        for size in ["513", "1M", "20M", "3G"] {
            if options.contains("fixed") && size == "3G" {
                continue;
            }
            let text = format!("size={size},{options}");
            let text = text.trim_end_matches(',');
            let (ours, theirs) = (folder.file("ours.vhdx"), folder.file("theirs.vhdx"));
            create(&ours, text);
            must("qemu-img", &["create", "-q", "-f", "vhdx", "-o", text, &theirs]);
            let facts = |name: &str| -> Vec<String> {
                let info = must("qemu-img", &["info", name]);
                let told = |line: &&str| line.starts_with("virtual") || line.starts_with("cluster");
                info.lines().filter(told).map(str::to_owned).collect()
            };
            assert_eq!(facts(&ours), facts(&theirs), "{text}");
            must("qemu-img", &["check", "-q", &ours]);
            let disk = open(&theirs, OpenFlags::READ_ONLY).unwrap();
            assert_eq!(disk.length(), open(&ours, OpenFlags::READ_ONLY).unwrap().length());
        }
    }
}

/// What a process leaves that was killed after a flush: the log names changes that may not be in their places.
fn leave_dirty(image: &str, crashed: &str) -> Vec<u8> {
    create(image, &format!("size={DISK},block_size=1M"));
    let mut model = vec![0; DISK as usize];
    let disk = open(image, OpenFlags::UNMAP).unwrap();
    block_on(async {
        for (at, fill) in [(0, 1), (5 << 20, 2), (19 << 20, 3)] {
            disk.write_bytes(at, &[fill; 65536]).await.unwrap();
            disk.flush().await.unwrap();
            model[at as usize..][..65536].fill(fill);
        }
    });
    std::fs::copy(image, crashed).unwrap();
    // The table as if nothing had reached its place: only the log has it.
    let mut bytes = std::fs::read(crashed).unwrap();
    for entry in bytes[2 << 20..][..8 * 20].chunks_exact_mut(8).skip(19) {
        entry.copy_from_slice(&2_u64.to_le_bytes());
    }
    std::fs::write(crashed, bytes).unwrap();
    block_on(disk.close()).unwrap();
    model
}

#[test]
fn qemu_replays_our_log() {
    if !tools() {
        return;
    }
    let folder = Folder::new("their-replay");
    let (image, crashed) = (folder.file("a.vhdx"), folder.file("crashed.vhdx"));
    let model = leave_dirty(&image, &crashed);
    let (success, text) = run("qemu-img", &["info", &crashed]);
    assert!(!success && text.contains("contains a log that needs to be replayed"), "{text}");
    println!("{text}");
    println!("{}", must("qemu-img", &["check", "-r", "all", &crashed]));
    compare(&folder, &crashed, &model);
    compare(&folder, &image, &model);
}

#[test]
fn we_replay_our_log_and_refuse_it_read_only() {
    let folder = Folder::new("our-replay");
    let (image, crashed) = (folder.file("a.vhdx"), folder.file("crashed.vhdx"));
    let model = leave_dirty(&image, &crashed);
    let error = open(&crashed, OpenFlags::READ_ONLY).unwrap_err();
    let message = format!(
        "VHDX image file '{crashed}' opened read-only, but contains a log that needs to be \
         replayed"
    );
    assert!(error.to_string().ends_with(&message), "{error}");
    assert_eq!(
        error.hint(),
        Some(format!("To replay the log, run:\nqemu-img check -r all '{crashed}'").as_str())
    );
    let disk = open(&crashed, OpenFlags::UNMAP).unwrap();
    let check = block_on(disk.driver().check(Repair { leaks: true, errors: true })).unwrap();
    assert_eq!((check.corruptions, check.corruptions_fixed), (0, 1));
    block_on(disk.close()).unwrap();
    if tools() {
        compare(&folder, &crashed, &model);
    }
}

#[test]
fn a_disk_grows_within_its_table() {
    let folder = Folder::new("grow");
    let image = folder.file("a.vhdx");
    create(&image, "size=1536K,block_size=1M,block_state_zero=off");
    let disk = open(&image, OpenFlags::UNMAP).unwrap();
    block_on(async {
        disk.write_bytes(0, &[7; 1536 << 10]).await.unwrap();
        disk.truncate(5 << 20, Truncate::default()).await.unwrap();
        disk.write_bytes(4 << 20, &[8; 4096]).await.unwrap();
        let error = disk.truncate(1 << 20, Truncate::default()).await.unwrap_err();
        assert!(error.to_string().contains("cannot be shrunk"), "{error}");
        let error = disk.truncate(1 << 40, Truncate::default()).await.unwrap_err();
        assert!(error.to_string().contains("no room"), "{error}");
        disk.close().await.unwrap();
    });
    let mut model = vec![0; 5 << 20];
    model[..1536 << 10].fill(7);
    model[4 << 20..][..4096].fill(8);
    if tools() {
        compare(&folder, &image, &model);
    }
}
