//! The image tools side by side with Debian's (package qemu-utils).
//!
//! A test has a [`Bench`]: a folder of its own, and both sets of tools. Where Debian's are not installed, [`Bench::new`]
//! says so and the test does nothing. The tools run in the folder, so that messages name files alike.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// Whose tools run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whose {
    /// Rhea's.
    Ours,
    /// Debian's.
    Theirs,
}

/// What a program has printed, and how it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ran {
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
    /// The exit status; `None`: ended by a signal.
    pub status: Option<i32>,
}

impl Ran {
    /// Everything that can be seen of it.
    fn transcript(&self) -> String {
        format!("{}{}[{:?}]", self.out, self.err, self.status)
    }

    /// The same without what depends on the clock: times of requests, and progress marks but where each run of them begins
    /// and ends (which lie between depends on how a tool cuts its work into pieces, and with QEMU's jobs on time).
    fn timeless(&self) -> Self {
        let out: String = without_steps(&self.out).split_inclusive('\n').map(without_times).collect();
        Self { out, err: self.err.clone(), status: self.status }
    }
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        Self {
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
            status: output.status.code(),
        }
    }
}

/// A line of `qemu-io` or `qemu-img bench` with a mark for the times it tells.
fn without_times(line: &str) -> String {
    if let Some((what, times)) = line.split_once(" ops; ")
        && times.contains(" sec (")
        && times.ends_with(" ops/sec)\n")
    {
        return format!("{what} ops; TIME\n");
    }
    if let [len, operations, time, _, _] = line.split(',').collect::<Vec<_>>()[..]
        && time.starts_with("0:00:")
    {
        return format!("{len},{operations},TIME\n");
    }
    if line.starts_with("Run completed in ") && line.ends_with(" seconds.\n") {
        return "Run completed in TIME seconds.\n".into();
    }
    line.into()
}

/// The per cents of a progress mark as `-p` prints it in a pipe, without its carriage return: `    (12.34/100%)`.
fn progress_mark(text: &str) -> Option<f64> {
    let number = text.strip_prefix("    (")?.strip_suffix("/100%)")?;
    let (whole, decimals) = number.split_once('.')?;
    let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    (digits(whole) && digits(decimals) && decimals.len() == 2).then(|| number.parse().ok())?
}

fn without_steps(text: &str) -> String {
    let mut result = String::new();
    // Where the run of marks begins, and the last one.
    let mut run: Option<(f64, f64)> = None;
    for piece in text.split_inclusive('\r') {
        match (piece.strip_suffix('\r').and_then(progress_mark), run) {
            (Some(next), Some((first, last))) if next >= last => run = Some((first, next)),
            (Some(next), None) => run = Some((next, next)),
            (mark, _) => {
                if let Some((first, last)) = run.take() {
                    let _ = write!(result, "    ({first:.2} to {last:.2}/100%)\r");
                }
                match mark {
                    // Progress that goes backwards is another run.
                    Some(next) => run = Some((next, next)),
                    None => result.push_str(piece),
                }
            }
        }
    }
    if let Some((first, last)) = run {
        let _ = write!(result, "    ({first:.2} to {last:.2}/100%)\r");
    }
    result
}

/// Two texts without the lines they begin and end with in common.
fn differing_lines(a: &str, b: &str) -> (String, String) {
    let (mut a, mut b): (Vec<&str>, Vec<&str>) = (a.lines().collect(), b.lines().collect());
    let same = a.iter().zip(&b).take_while(|(x, y)| x == y).count();
    a.drain(..same);
    b.drain(..same);
    while a.len().min(b.len()) > 0 && a.last() == b.last() {
        a.pop();
        b.pop();
    }
    (a.join("\n"), b.join("\n"))
}

/// A test's folder and tools.
#[derive(Debug)]
pub struct Bench {
    folder: PathBuf,
    /// The folder with our tools.
    ours: PathBuf,
    differences: String,
}

/// How the version of the tools begins that ours are compared with: between releases of QEMU, texts change.
const PEER: &str = "qemu-img version 10.";

static NEXT: AtomicU32 = AtomicU32::new(0);

impl Bench {
    /// A new folder. `tool` is the path of one of our tools (`env!("CARGO_BIN_EXE_qemu-img")`). `None`: Debian's tools are
    /// not installed, or are of a version whose texts are not those that ours print.
    pub fn new(tool: &str) -> Option<Self> {
        let Ok(version) = Command::new("qemu-img").arg("-V").stderr(Stdio::null()).output() else {
            println!("skipped: qemu-img (package qemu-utils) is not installed");
            return None;
        };
        let version = String::from_utf8_lossy(&version.stdout).into_owned();
        if !version.starts_with(PEER) {
            println!("skipped: not {PEER}: {}", version.lines().next().unwrap_or_default());
            return None;
        }
        let name = format!("rhea-image-tests-{}-{}", std::process::id(), NEXT.fetch_add(1, Relaxed));
        let folder = std::env::temp_dir().join(name);
        fs::create_dir_all(&folder).expect("a folder for the test");
        let ours = Path::new(tool).parent().expect("a path").to_owned();
        Some(Self { folder, ours, differences: String::new() })
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// A file in the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// One of the tools (`qemu-img`), to be run in the folder.
    pub fn command(&self, whose: Whose, tool: &str) -> Command {
        let mut command = match whose {
            Whose::Ours => Command::new(self.ours.join(tool)),
            Whose::Theirs => Command::new(tool),
        };
        command.current_dir(&self.folder).stdin(Stdio::null()).env("LC_ALL", "C").env("TZ", "UTC");
        command
    }

    /// Runs a tool with arguments that are split at spaces; `''` is an empty one.
    pub fn run(&self, whose: Whose, line: &str) -> Ran {
        let mut words = line.split_whitespace().map(|word| if word == "''" { "" } else { word });
        let tool = words.next().expect("a tool");
        let output = self.command(whose, tool).args(words).output().expect("the tool runs");
        output.into()
    }

    /// Like [`Bench::run`], in a folder within the test's.
    pub fn run_in(&self, folder: &str, whose: Whose, line: &str) -> Ran {
        let inner =
            Self { folder: self.folder.join(folder), ours: self.ours.clone(), differences: String::new() };
        let ran = inner.run(whose, line);
        // The folder goes with the test's own.
        std::mem::forget(inner);
        ran
    }

    /// Runs Debian's tool in the folder `theirs` and ours in the folder `ours`, and notes where what they print differs.
    pub fn pair(&mut self, line: &str) {
        let theirs = self.run_in("theirs", Whose::Theirs, line);
        let ours = self.run_in("ours", Whose::Ours, line);
        self.note(line, &theirs, &ours);
    }

    /// Runs a tool that must succeed.
    #[track_caller]
    pub fn ok(&self, whose: Whose, line: &str) -> Ran {
        let ran = self.run(whose, line);
        assert!(ran.status == Some(0), "{whose:?} {line}\n{}", ran.transcript());
        ran
    }

    /// Runs both tools on the same files, which the command must not change, and notes where they differ.
    pub fn same(&mut self, line: &str) {
        let theirs = self.run(Whose::Theirs, line);
        let ours = self.run(Whose::Ours, line);
        self.note(line, &theirs, &ours);
    }

    /// Notes where what both tools have printed differs.
    pub fn note(&mut self, line: &str, theirs: &Ran, ours: &Ran) {
        let (theirs, ours) = (theirs.timeless(), ours.timeless());
        if theirs != ours {
            let (theirs, ours) = (theirs.transcript(), ours.transcript());
            let (theirs, ours) = differing_lines(&theirs, &ours);
            let _ = writeln!(self.differences, "$ {line}\n--- Debian's\n{theirs}\n--- ours\n{ours}");
        }
    }

    /// Ends the test's work here; what differed.
    pub fn end(mut self) -> String {
        std::mem::take(&mut self.differences)
    }

    /// Notes something else that is wrong.
    pub fn note_failure(&mut self, text: &str) {
        let _ = writeln!(self.differences, "{text}");
    }

    /// Fails if any differences were noted.
    #[track_caller]
    pub fn done(self) {
        assert!(self.differences.is_empty(), "{}", self.differences);
    }

    /// Writes a file of `len` bytes: stretches of noise, of one byte, and holes.
    pub fn data(&self, name: &str, len: u64, seed: u64) {
        use std::os::unix::fs::FileExt;
        let file = fs::File::create(self.path(name)).expect("a new file");
        file.set_len(len).expect("its length");
        let mut random = Random::new(seed);
        let mut at = 0;
        while at < len {
            let piece = (random.below(300_000) + 1).min(len - at);
            let bytes: Vec<u8> = match random.below(3) {
                0 => Vec::new(),
                1 => vec![random.below(256) as u8; piece as usize],
                _ => (0..piece).map(|_| random.below(256) as u8).collect(),
            };
            file.write_all_at(&bytes, at).expect("data");
            at += piece;
        }
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let _ = fs::remove_dir_all(&self.folder);
        }
    }
}

/// Numbers that look random and are the same in every run.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// Begins a sequence.
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// A number below `limit`.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_requests_are_not_compared() {
        let times = [
            ("1 KiB, 1 ops; 00.00 sec (14.2 MiB/sec and 14534.8 ops/sec)\n", "1 KiB, 1 ops; TIME\n"),
            ("1024,1,0:00:00.00,14883720.930,14534.884\n", "1024,1,TIME\n"),
            ("Run completed in 0.004 seconds.\n", "Run completed in TIME seconds.\n"),
            ("read 1024/1024 bytes at offset 0\n", "read 1024/1024 bytes at offset 0\n"),
            ("a, b, c, d, e\n", "a, b, c, d, e\n"),
        ];
        for (line, expected) in times {
            assert_eq!(without_times(line), expected);
        }
    }

    #[test]
    fn progress_is_compared_by_its_ends() {
        let theirs = "    (0.00/100%)\r    (33.30/100%)\r    (100.00/100%)\r\nDone.\n";
        let ours = "    (0.00/100%)\r    (100.00/100%)\r    (100.00/100%)\r\nDone.\n";
        assert_eq!(without_steps(theirs), "    (0.00 to 100.00/100%)\r\nDone.\n");
        assert_eq!(without_steps(theirs), without_steps(ours));
        for other in [
            "    (0.00/100%)\r    (99.00/100%)\r\nDone.\n",
            "    (1.00/100%)\r    (100.00/100%)\r\nDone.\n",
            "    (0.00/100%)\r    (50.00/100%)\r    (40.00/100%)\r    (100.00/100%)\r\nDone.\n",
            "    (0.00/100%)\n    (100.00/100%)\r\nDone.\n",
            "    (0.0/100%)\r    (100.00/100%)\r\nDone.\n",
            "(0.00/100%)\r    (100.00/100%)\r\nDone.\n",
            "Done.\n",
        ] {
            assert_ne!(without_steps(theirs), without_steps(other), "{other:?}");
        }
    }
}
