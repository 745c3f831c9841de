//! Every format with every set of options, in both directions: random writes, zeroes, discards and snapshots by both tools in
//! turn leave an image that both find sound, read alike, and report alike, in words and in JSON.

use rhea_image_tests::{Bench, Random, Whose};

const TOOL: &str = env!("CARGO_BIN_EXE_qemu-img");
const SIZE: u64 = 4 << 20;

/// Formats and the options of an image.
const IMAGES: &[(&str, &str)] = &[
    ("raw", ""),
    ("raw", "preallocation=falloc"),
    ("raw", "preallocation=full"),
    ("qcow2", "compat=0.10"),
    ("qcow2", "compat=0.10,cluster_size=512"),
    ("qcow2", "cluster_size=1k"),
    ("qcow2", "cluster_size=4k,refcount_bits=2"),
    ("qcow2", "cluster_size=64k,refcount_bits=4"),
    ("qcow2", "refcount_bits=8"),
    ("qcow2", "cluster_size=512,refcount_bits=32"),
    ("qcow2", "refcount_bits=64"),
    ("qcow2", "cluster_size=2M"),
    ("qcow2", "cluster_size=2M,extended_l2=on"),
    ("qcow2", "cluster_size=16k,extended_l2=on"),
    ("qcow2", "extended_l2=on,lazy_refcounts=on,refcount_bits=64"),
    ("qcow2", "lazy_refcounts=on,cluster_size=4k"),
    ("qcow2", "preallocation=metadata"),
    ("qcow2", "preallocation=falloc"),
    ("qcow2", "preallocation=full"),
    ("qcow2", "preallocation=metadata,extended_l2=on"),
    ("qcow2", "compression_type=zstd"),
    ("qcow2", "data_file=data"),
    ("qcow2", "data_file=data,data_file_raw=on"),
    ("qcow2", "data_file=data,extended_l2=on,cluster_size=32k"),
    ("qcow2", "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10"),
    ("qcow2", "encrypt.format=aes,encrypt.key-secret=s,cluster_size=4k"),
    ("vmdk", ""),
    ("vmdk", "zeroed_grain=on"),
    ("vmdk", "subformat=monolithicFlat"),
    ("vmdk", "subformat=twoGbMaxExtentSparse"),
    ("vmdk", "subformat=twoGbMaxExtentFlat"),
    ("vdi", ""),
    ("vdi", "static=on"),
    ("vhdx", ""),
    ("vhdx", "subformat=fixed"),
    ("vhdx", "block_size=1M,log_size=2M"),
    ("vpc", "force_size=on"),
    ("vpc", "subformat=fixed,force_size=on"),
    ("qed", ""),
    ("qed", "cluster_size=4k,table_size=2"),
    ("parallels", ""),
    ("parallels", "cluster_size=64k"),
    ("luks", "key-secret=s,iter-time=10"),
    ("qcow", ""),
    ("qcow", "encrypt.format=aes,encrypt.key-secret=s"),
];

/// What is asked of the image afterwards; `{i}` names it.
const QUESTIONS: &[&str] = &[
    "qemu-img info {i}",
    "qemu-img info --output=json {i}",
    "qemu-img map {i}",
    "qemu-img map --output=json {i}",
    "qemu-img check {i}",
    "qemu-img check --output=json {i}",
    "qemu-img snapshot -l {i}",
    "qemu-img measure -O qcow2 {i}",
    "qemu-img measure -O qcow2 --output=json {i}",
];

/// An image, and the file with what it is to hold.
struct Work {
    bench: Bench,
    random: Random,
    format: &'static str,
    /// The words that name the image.
    image: String,
    /// Names of snapshots; the file of that name has what it holds.
    snapshots: Vec<String>,
    /// Snapshots there may be.
    most: usize,
}

const SECRET: &str = "--object secret,id=s,data=secret";

impl Work {
    fn run(&self, whose: Whose, line: &str, well: &[i32]) -> Result<(), String> {
        let ran = self.bench.run(whose, line);
        match ran.status {
            Some(status) if well.contains(&status) => Ok(()),
            _ => Err(format!("{whose:?} {line}\n{}{}", ran.out, ran.err)),
        }
    }

    /// `qemu-io` on the image, and the same on the raw file beside it.
    fn io(&self, whose: Whose, commands: &[String]) -> Result<(), String> {
        let image: Vec<&str> = self.image.split_whitespace().collect();
        for (whose, image) in [(whose, image.as_slice()), (Whose::Theirs, &["-f", "raw", "shadow"])] {
            let mut tool = self.bench.command(whose, "qemu-io");
            for command in commands {
                tool.args(["-c", command]);
            }
            // A discard is a discard in the image.
            let output = tool.args(["-d", "unmap"]).args(image).output().unwrap();
            if !output.status.success() {
                return Err(format!("{whose:?} {commands:?}\n{}", String::from_utf8_lossy(&output.stderr)));
            }
        }
        Ok(())
    }

    fn step(&mut self, whose: Whose) -> Result<(), String> {
        let commands: Vec<String> = (0..8).flat_map(|_| request(&mut self.random)).collect();
        self.io(whose, &commands)?;
        let image = self.image.clone();
        match self.random.below(3) {
            0 if self.snapshots.len() < self.most => {
                let name = format!("s{}", self.random.below(1 << 40));
                self.run(whose, &format!("qemu-img snapshot -c {name} {image}"), &[0])?;
                std::fs::copy(self.bench.path("shadow"), self.bench.path(&name)).unwrap();
                self.snapshots.push(name);
            }
            1 if !self.snapshots.is_empty() => {
                let at = self.random.below(self.snapshots.len() as u64) as usize;
                let name = &self.snapshots[at];
                self.run(whose, &format!("qemu-img snapshot -a {name} {image}"), &[0])?;
                std::fs::copy(self.bench.path(name), self.bench.path("shadow")).unwrap();
            }
            _ if self.snapshots.len() > 2 => {
                let name = self.snapshots.remove(0);
                self.run(whose, &format!("qemu-img snapshot -d {name} {image}"), &[0])?;
            }
            _ => {}
        }
        Ok(())
    }

    /// Both tools read what is expected, of the disk and of its snapshots, and find it sound.
    fn verify(&mut self) -> Result<(), String> {
        let image = &self.image;
        for whose in [Whose::Theirs, Whose::Ours] {
            self.run(whose, &format!("qemu-img convert -O raw {image} out"), &[0])?;
            self.run(Whose::Theirs, "qemu-img compare -f raw -F raw out shadow", &[0])
                .map_err(|told| format!("as {whose:?} read it: {told}"))?;
            self.run(whose, &format!("qemu-img check {image}"), &[0, 63])?;
            for name in &self.snapshots {
                self.run(
                    whose,
                    &format!("qemu-img convert -l snapshot.name={name} -O raw {image} out"),
                    &[0],
                )?;
                self.run(Whose::Theirs, &format!("qemu-img compare -f raw -F raw out {name}"), &[0])?;
            }
        }
        for question in QUESTIONS {
            // Debian's names the key's secret in the image's name, and in an order of its own.
            if question.contains("info") && self.image.contains("encrypt.") {
                continue;
            }
            // It takes no objects, but the other commands tell of the snapshots as well.
            let image = if self.format == "raw" { "-f raw i".to_owned() } else { self.image.clone() };
            self.bench.same(&question.replace("{i}", &image));
        }
        Ok(())
    }
}

/// Commands of qemu-io. What is discarded is written as zeroes, so that all images read the same.
fn request(random: &mut Random) -> Vec<String> {
    let offset = random.below(SIZE / 512) * 512;
    let len = ((random.below(600) + 1) * 512).min(SIZE - offset);
    match random.below(8) {
        0 => vec![format!("write -z {offset} {len}")],
        1 => vec![format!("write -z -u {offset} {len}")],
        2 => vec![format!("discard {offset} {len}"), format!("write -z -u {offset} {len}")],
        3 => vec![
            format!("write -z {offset} {len}"),
            format!("discard {offset} {len}"),
            format!("write -P 9 {offset} {len}"),
        ],
        _ => vec![format!("write -P {} {offset} {len}", random.below(255) + 1)],
    }
}

fn work(seed: u64, format: &'static str, options: &str) -> Result<String, String> {
    let Some(bench) = Bench::new(TOOL) else { return Ok(String::new()) };
    let secret = options.contains("key-secret");
    let mut image = format!("--image-opts driver={format},file.filename=i");
    if secret {
        let prefix = if format == "luks" { "" } else { "encrypt." };
        image = format!("{SECRET} --image-opts driver={format},file.filename=i,{prefix}key-secret=s");
        if format == "qcow" {
            image += ",encrypt.format=aes";
        }
    }
    // What is shared by all of them is counted once more when one is applied.
    let most = match options {
        _ if format != "qcow2" || options.contains("data_file") => 0,
        _ if options.contains("refcount_bits=2") => 1,
        _ => 4,
    };
    let mut work = Work { bench, random: Random::new(seed), format, image, snapshots: vec![], most };
    let creator = [Whose::Ours, Whose::Theirs][(seed % 2) as usize];
    let objects = if secret { SECRET } else { "" };
    let options = if options.is_empty() { String::new() } else { format!("-o {options}") };
    work.run(creator, &format!("qemu-img create {objects} -f {format} {options} i {SIZE}"), &[0])?;
    work.run(Whose::Theirs, &format!("qemu-img create -f raw shadow {SIZE}"), &[0])?;
    if format == "luks" {
        // What was never written is not zero.
        work.io(creator, &[format!("write -P 0 0 {SIZE}")])?;
    }
    for round in 0..4 {
        let whose = [Whose::Ours, Whose::Theirs][round % 2];
        work.step(whose).and_then(|()| work.verify()).map_err(|told| {
            format!(
                "created by {creator:?}, round {round} of {whose:?}: {told}\n{}",
                work.bench.path("i").display()
            )
        })?;
    }
    Ok(work.bench.end())
}

/// The share of one test of four: they run side by side.
fn share(part: usize) {
    let mut differences = String::new();
    for (index, (format, options)) in IMAGES.iter().enumerate().filter(|(index, _)| index % 4 == part) {
        for seed in [2 * index as u64 + 2, 2 * index as u64 + 1] {
            let found = work(seed, format, options).unwrap_or_else(|told| told);
            if !found.is_empty() {
                differences += &format!("== {format} {options}\n{found}\n");
            }
        }
    }
    assert!(differences.is_empty(), "{differences}");
}

#[test]
fn both_directions_first_part() {
    share(0);
}

#[test]
fn both_directions_second_part() {
    share(1);
}

#[test]
fn both_directions_third_part() {
    share(2);
}

#[test]
fn both_directions_fourth_part() {
    share(3);
}
