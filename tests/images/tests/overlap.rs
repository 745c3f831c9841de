//! Overlap checks of qcow2: a write that a corrupt image leads to other metadata is prevented, by each choice of
//! `overlap-check` for what Debian's prevents it for, with the same words, and the image is marked corrupt.

use rhea_image_tests::{Bench, Whose};

const TOOL: &str = env!("CARGO_BIN_EXE_qemu-img");
const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
const SECTIONS: &[&str] = &[
    "main-header",
    "active-l1",
    "active-l2",
    "refcount-table",
    "refcount-block",
    "snapshot-table",
    "inactive-l1",
    "inactive-l2",
    "bitmap-directory",
];

/// An image's bytes.
#[derive(Clone)]
struct Image(Vec<u8>);

impl Image {
    fn u32(&self, at: u64) -> u32 {
        u32::from_be_bytes(self.0[at as usize..at as usize + 4].try_into().unwrap())
    }

    fn u64(&self, at: u64) -> u64 {
        u64::from_be_bytes(self.0[at as usize..at as usize + 8].try_into().unwrap())
    }

    fn set(mut self, at: u64, value: u64) -> Self {
        self.0[at as usize..at as usize + 8].copy_from_slice(&value.to_be_bytes());
        self
    }

    fn bitmap_directory(&self) -> u64 {
        let mut at = u64::from(self.u32(100));
        while self.u32(at) != 0x2385_2875 {
            assert_ne!(self.u32(at), 0, "no bitmaps");
            at += 8 + u64::from(self.u32(at + 4)).next_multiple_of(8);
        }
        self.u64(at + 8 + 16)
    }

    /// Where each section is.
    fn place(&self, section: &str) -> u64 {
        let (l1, refcounts, snapshots) = (self.u64(40), self.u64(48), self.u64(64));
        match section {
            "main-header" => 0,
            "active-l1" => l1,
            "active-l2" => self.u64(l1) & OFFSET,
            "refcount-table" => refcounts,
            "refcount-block" => self.u64(refcounts),
            "snapshot-table" => snapshots,
            "inactive-l1" => self.u64(snapshots),
            "inactive-l2" => self.u64(self.u64(snapshots)) & OFFSET,
            _ => self.bitmap_directory(),
        }
    }
}

/// A disk of 4 MiB with a snapshot and a bitmap, whose second L2 table is missing.
fn sound(bench: &Bench) -> Image {
    bench.ok(Whose::Theirs, "qemu-img create -q -f qcow2 -o cluster_size=4k base 4M");
    write(bench, "write -P 1 0 8k");
    bench.ok(Whose::Theirs, "qemu-img snapshot -c one base");
    write(bench, "write -P 2 0 8k");
    bench.ok(Whose::Theirs, "qemu-img bitmap --add base b0");
    Image(std::fs::read(bench.path("base")).unwrap())
}

fn write(bench: &Bench, what: &str) {
    let output = bench.command(Whose::Theirs, "qemu-io").args(["-c", what, "base"]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

/// Corrupt images: what is wrong, the bytes, and the write that finds out.
fn corrupt_images(sound: &Image) -> Vec<(String, Image, &'static str)> {
    let (l1, l2) = (sound.u64(40), sound.place("active-l2"));
    let owned = |place: u64| place | 1 << 63;
    let mut images = vec![];
    for section in &SECTIONS[1..] {
        let place = sound.place(section);
        images.push((format!("data at {section}"), sound.clone().set(l2, owned(place)), "write 0 512"));
        // Debian's stops at the directory of bitmaps before it writes.
        if !matches!(*section, "active-l2" | "bitmap-directory") {
            images.push((format!("L2 at {section}"), sound.clone().set(l1, owned(place)), "write 512k 512"));
        }
    }
    images.push(("L1 at main-header".into(), sound.clone().set(40, 0), "write 3M 512"));
    let table = sound.place("refcount-table");
    images.push(("L1 at refcount-table".into(), sound.clone().set(40, table), "write 3M 512"));
    images
}

/// `overlap-check` in all ways.
fn choices() -> Vec<String> {
    let mut choices = vec![String::new()];
    choices.extend(["none", "constant", "cached", "all"].map(|word| format!(",overlap-check={word}")));
    for section in SECTIONS {
        choices.push(format!(",overlap-check.template=none,overlap-check.{section}=on"));
        choices.push(format!(",overlap-check.template=all,overlap-check.{section}=off"));
    }
    choices
}

#[test]
fn each_choice_prevents_what_debians_prevents() {
    let Some(mut bench) = Bench::new(TOOL) else { return };
    let sound = sound(&bench);
    let (mut prevented, mut seen) = (0, std::collections::BTreeSet::new());
    for (what, image, write) in corrupt_images(&sound) {
        for choice in choices() {
            // Without the check, data lands in the directory, and both tools then tell of the loss in words of their own.
            if what == "data at bitmap-directory" && !checks(&choice, "bitmap-directory") {
                continue;
            }
            let [theirs, ours] = [Whose::Theirs, Whose::Ours].map(|whose| {
                std::fs::write(bench.path("i"), &image.0).unwrap();
                let spec = format!("driver=qcow2,file.filename=i{choice}");
                let mut tool = bench.command(whose, "qemu-io");
                let ran: rhea_image_tests::Ran =
                    tool.args(["-c", write, "--image-opts", &spec]).output().unwrap().into();
                let marked = std::fs::read(bench.path("i")).unwrap()[79] & 2 != 0;
                assert_eq!(marked, ran.err.contains("Marking image as corrupt"), "{whose:?} {what} {choice}");
                ran
            });
            if let Some((_, section)) = theirs.err.split_once("overlaps with ") {
                prevented += 1;
                seen.insert(section.split(')').next().unwrap().to_owned());
            }
            bench.note(&format!("{what}{choice}: {write}"), &theirs, &ours);
        }
    }
    assert!(prevented > 100 && seen.len() == SECTIONS.len(), "{prevented} {seen:?}");
    bench.done();
}

/// Whether a choice has a section checked.
fn checks(choice: &str, section: &str) -> bool {
    let (on, off) = (format!("{section}=on"), format!("{section}=off"));
    match choice {
        "" => true,
        _ if choice.contains(&on) => true,
        _ if choice.contains(&off) => false,
        _ => !choice.contains("none"),
    }
}

#[test]
fn sections_asked_for_when_reopening_are_protected() {
    let Some(mut bench) = Bench::new(TOOL) else { return };
    let sound = sound(&bench);
    let (l1, place) = (sound.u64(40), sound.place("inactive-l2"));
    let image = sound.set(l1, place | 1 << 63);
    let [theirs, ours] = [Whose::Theirs, Whose::Ours].map(|whose| {
        std::fs::write(bench.path("i"), &image.0).unwrap();
        let mut tool = bench.command(whose, "qemu-io");
        tool.args(["-c", "reopen -o overlap-check=all", "-c", "write 512k 512", "i"]).output().unwrap().into()
    });
    bench.note("reopen -o overlap-check=all", &theirs, &ours);
    assert!(theirs.err.contains("overlaps with inactive L2 table"), "{theirs:?}");
    bench.done();
}
