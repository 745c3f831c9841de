//! How many requests a second go through a raw disk: `requests FILE [write] [DEPTH] [COUNT] [BYTES] [FLAG…]`, flags being
//! `direct`, `threads` and `random`. `null-co://` instead of a file shows what the block layer itself takes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use rhea_async_io::{IoVector, block_on, spawn};
use rhea_block::{FileDriver, NullDriver, OpenFlags, RawDriver, Registry, WriteFlags};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let has = |word: &str| arguments.iter().any(|a| a == word);
    let numbers: Vec<u64> = arguments.iter().skip(1).filter_map(|a| a.parse().ok()).collect();
    let number = |at: usize, default: u64| numbers.get(at).copied().unwrap_or(default);
    let (depth, count, bytes) = (number(0, 1), number(1, 100_000), number(2, 4096));
    let mut registry = Registry::new();
    registry.add(FileDriver);
    registry.add(NullDriver::CO);
    registry.add(RawDriver);
    let mut flags = OpenFlags::UNMAP;
    flags.set(OpenFlags::DIRECT, has("direct"));
    flags.set(OpenFlags::AIO_THREADS, has("threads"));
    flags.set(OpenFlags::READ_ONLY, !has("write"));
    let (write, random) = (has("write"), has("random"));
    block_on(async {
        let disk = registry.open(&arguments[0], Some("raw"), flags).await.expect("the file opens");
        let blocks = disk.length() / bytes;
        let next = Arc::new(AtomicU64::new(0));
        let begin = Instant::now();
        let mut tasks = Vec::new();
        for _ in 0..depth {
            let (disk, next) = (disk.clone(), next.clone());
            tasks.push(spawn(async move {
                let mut data = IoVector::from_slice(&vec![0x5a; bytes as usize]);
                loop {
                    let index = next.fetch_add(1, Relaxed);
                    if index >= count {
                        return;
                    }
                    let block = if random { index.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20 } else { index };
                    let offset = block % blocks * bytes;
                    match write {
                        true => disk.write(offset, &data, WriteFlags::empty()).await,
                        false => disk.read(offset, &mut data).await,
                    }
                    .expect("the request succeeds");
                }
            }));
        }
        for task in tasks {
            task.await;
        }
        let seconds = begin.elapsed().as_secs_f64();
        println!("{count} requests, depth {depth}: {seconds:.3} s, {:.0} a second", count as f64 / seconds);
    });
}
