//! The images that cases work on.

use std::fs::File;
use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::path::Path;

use anyhow::Context;

use super::{Side, Tools, process};

/// Size of the disk that most cases work on.
pub const DISK: u64 = 1 << 30;
const PIECE: usize = 1 << 20;

/// Makes what is not there yet:
///
/// * `disk.raw`: a quarter holes, a quarter random bytes, half of it text;
/// * `same.raw`: the same once more;
/// * `disk.qcow2`, the same as qcow2;
/// * `wide.qcow2`: 100 GiB, of which 800 MiB are there, in 4 MiB pieces all over;
/// * `written.raw`, `written.qcow2`: to be written to.
pub fn make(folder: &Path, tools: &Tools) -> anyhow::Result<()> {
    let raw = folder.join("disk.raw");
    // The last to be made: if it is there, all are.
    if folder.join("written.qcow2").exists() {
        return Ok(());
    }
    write_disk(&raw)?;
    let image = |arguments: &[&str]| -> anyhow::Result<()> {
        let side = *tools.sides().last().unwrap_or(&Side::Rhea);
        process::run(tools.path(side, "qemu-img"), arguments, folder).map(drop)
    };
    image(&["convert", "-f", "raw", "-O", "raw", "disk.raw", "same.raw"])?;
    image(&["convert", "-f", "raw", "-O", "raw", "disk.raw", "written.raw"])?;
    image(&["convert", "-f", "raw", "-O", "qcow2", "disk.raw", "disk.qcow2"])?;
    image(&["create", "-q", "-f", "qcow2", "wide.qcow2", "100G"])?;
    let writes: Vec<String> = (0..200).map(|i| format!("write -q -P 1 {}M 4M", i * 500)).collect();
    let commands: Vec<&str> = writes.iter().flat_map(|write| ["-c", write.as_str()]).collect();
    let side = *tools.sides().last().unwrap_or(&Side::Rhea);
    process::run(tools.path(side, "qemu-io"), &[&commands[..], &["wide.qcow2"]].concat(), folder)?;
    image(&["convert", "-f", "raw", "-O", "qcow2", "disk.raw", "written.qcow2"])
}

/// A small generator of numbers, so that every run has the same bytes (xorshift64*).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
}

fn write_disk(path: &Path) -> anyhow::Result<()> {
    let file = File::create(path).with_context(|| format!("cannot create {}", path.display()))?;
    let mut file = BufWriter::with_capacity(PIECE, file);
    let mut numbers = Numbers(88_172_645_463_325_252);
    let words = words(&mut numbers);
    for piece in 0..DISK / PIECE as u64 {
        match piece % 4 {
            0 => {
                file.seek(SeekFrom::Current(PIECE as i64))?;
            }
            3 => {
                let bytes: Vec<u8> = (0..PIECE / 8).flat_map(|_| numbers.next().to_le_bytes()).collect();
                file.write_all(&bytes)?;
            }
            _ => file.write_all(&text(&mut numbers, &words))?,
        }
    }
    let file = file.into_inner().map_err(|error| error.into_error())?;
    file.set_len(DISK)?;
    file.sync_all()?;
    Ok(())
}

fn words(numbers: &mut Numbers) -> Vec<Vec<u8>> {
    let word = |numbers: &mut Numbers| {
        let len = 2 + numbers.next() % 8;
        (0..len).map(|_| b'a' + (numbers.next() % 26) as u8).collect()
    };
    (0..4000).map(|_| word(numbers)).collect()
}

fn text(numbers: &mut Numbers, words: &[Vec<u8>]) -> Vec<u8> {
    let mut text = Vec::with_capacity(PIECE + 16);
    while text.len() < PIECE {
        text.extend_from_slice(&words[numbers.next() as usize % words.len()]);
        text.push(b' ');
    }
    text.truncate(PIECE);
    text
}
