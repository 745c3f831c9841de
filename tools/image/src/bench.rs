//! `qemu-img bench`

use std::time::Instant;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use rhea_async_io::IoVector;
use rhea_block::{BlockError, OpenFlags, WriteFlags};
use rhea_options::{LongOption, Parsed};

use crate::failure::{Failure, Outcome};
use crate::session::{Image, Session, cache_flags, finish, flag, id, one_name, read_flags, valued};
use crate::size;

pub(crate) const SHORT: &str = "qf:t:c:d:o:s:S:i:nwU";
pub(crate) const LONG: &[LongOption] = &[
    flag("quiet", 'q'),
    valued("format", 'f'),
    flag("image-opts", id::IMAGE_OPTS),
    valued("cache", 't'),
    valued("count", 'c'),
    valued("depth", 'd'),
    valued("offset", 'o'),
    valued("buffer-size", 's'),
    valued("step-size", 'S'),
    valued("aio", 'i'),
    flag("native", 'n'),
    flag("write", 'w'),
    valued("pattern", id::PATTERN),
    valued("flush-interval", id::FLUSH_INTERVAL),
    flag("no-drain", id::NO_DRAIN),
    flag("force-share", 'U'),
];

const MAX: u64 = i32::MAX as u64;

/// The requests of a run.
struct Bench {
    count: u64,
    depth: u64,
    offset: u64,
    size: u64,
    step: u64,
    write: bool,
    pattern: u8,
    flush_interval: u64,
    /// Writes wait for a flush.
    drain: bool,
}

fn requests(parsed: &Parsed) -> Outcome<Bench> {
    let number = |id: char, what: &str, min: u64, max: u64, default: u64| {
        parsed.argument(id).map_or(Ok(default), |text| size::number(what, text, min, max))
    };
    let count = number('c', "request count", 1, MAX, 75000)?;
    let depth = number('d', "queue depth", 1, MAX, 64)?;
    let offset = number('o', "offset", 0, i64::MAX as u64, 0)?;
    let bytes = number('s', "buffer size", 1, MAX, 4096)?;
    let step = number('S', "step size", 0, MAX, 0)?;
    let pattern = number(id::PATTERN, "pattern byte", 0, 0xff, 0)?;
    let flush_interval = number(id::FLUSH_INTERVAL, "flush interval", 0, MAX, 0)?;
    let write = parsed.has('w');
    if !write && flush_interval != 0 {
        return Err(Failure::new("--flush-interval is only available in write tests"));
    }
    if flush_interval != 0 && flush_interval < depth {
        return Err(Failure::new("Flush interval can't be smaller than depth"));
    }
    Ok(Bench {
        count,
        depth,
        offset,
        size: bytes,
        step: if step == 0 { bytes } else { step },
        write,
        pattern: pattern as u8,
        flush_interval,
        drain: !parsed.has(id::NO_DRAIN),
    })
}

pub(crate) async fn run(session: &Session, parsed: &Parsed) -> Outcome<u8> {
    let mut flags = cache_flags(parsed.argument('t').unwrap_or("writeback"), "Invalid cache mode")?;
    let aio = if parsed.has('n') { Some("native") } else { parsed.argument('i') };
    flags |= match aio {
        None => OpenFlags::empty(),
        Some("threads") => OpenFlags::AIO_THREADS,
        Some("native") => OpenFlags::AIO_NATIVE,
        Some("io_uring") => OpenFlags::AIO_IO_URING,
        Some(other) => return Err(Failure::new(format!("Invalid aio option: {other}"))),
    };
    let bench = requests(parsed)?;
    let name = session.name(parsed, one_name(parsed)?)?;
    if bench.write {
        flags |= OpenFlags::UNMAP;
        if parsed.has('U') {
            return Err(Failure::new(format!(
                "Could not open '{}': force-share=on can only be used with read-only images",
                name.text
            )));
        }
    } else {
        flags |= read_flags(parsed);
    }
    let image = session.open(name, flags).await?;
    let result = bench.run(&image).await;
    finish(result, [image]).await
}

impl Bench {
    async fn run(&self, image: &Image) -> Outcome<u8> {
        println!(
            "Sending {} {} requests, {} bytes each, {} in parallel (starting at offset {}, step size {})",
            self.count,
            if self.write { "write" } else { "read" },
            self.size,
            self.depth,
            self.offset,
            self.step
        );
        if self.flush_interval != 0 {
            println!("Sending flush every {} requests", self.flush_interval);
        }
        let started = Instant::now();
        let failed = |error: BlockError| Failure::new(format!("Failed request: {error}"));
        self.send_all(image).await.map_err(failed)?;
        println!("Run completed in {:.3} seconds.", started.elapsed().as_secs_f64());
        Ok(0)
    }

    async fn send_all(&self, image: &Image) -> Result<(), BlockError> {
        let length = image.length();
        let mut spare: Vec<IoVector> = Vec::new();
        let mut under_way = FuturesUnordered::new();
        let (mut sent, mut offset, mut since_flush) = (0, self.offset, 0);
        loop {
            while sent < self.count && (under_way.len() as u64) < self.depth {
                // Past the end, requests start over, as aligned as they were; one that would reach across the end
                // goes to the beginning.
                if self.size > length || (sent == 0 && offset > length - self.size) {
                    return Err(BlockError::os(libc::EIO));
                }
                offset %= length;
                if offset > length - self.size {
                    offset = 0;
                }
                let buffer = spare.pop().unwrap_or_else(|| self.buffer());
                under_way.push(self.one(image, offset, buffer));
                offset += self.step;
                sent += 1;
                since_flush += 1;
                if self.flush_interval != 0 && since_flush == self.flush_interval {
                    since_flush = 0;
                    if self.drain {
                        while let Some(done) = under_way.next().await {
                            spare.push(done?);
                        }
                    }
                    image.node.flush().await?;
                }
            }
            match under_way.next().await {
                Some(done) => spare.push(done?),
                None => return Ok(()),
            }
        }
    }

    fn buffer(&self) -> IoVector {
        let mut buffer = IoVector::zeroed(self.size as usize);
        if self.write && self.pattern != 0 {
            buffer.fill(0..self.size as usize, self.pattern);
        }
        buffer
    }

    async fn one(&self, image: &Image, offset: u64, mut buffer: IoVector) -> Result<IoVector, BlockError> {
        match self.write {
            true => image.node.write(offset, &buffer, WriteFlags::empty()).await?,
            false => image.node.read(offset, &mut buffer).await?,
        }
        Ok(buffer)
    }
}
