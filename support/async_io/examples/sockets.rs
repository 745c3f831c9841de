//! How many messages a second two threads exchange over a Unix socket: `sockets [COUNT] [BYTES]`.

use std::os::unix::net::UnixStream;
use std::time::Instant;

use futures_lite::{AsyncReadExt, AsyncWriteExt};
use rhea_async_io::{Async, Executor, block_on};

fn main() {
    let numbers: Vec<usize> = std::env::args().filter_map(|a| a.parse().ok()).collect();
    let (count, bytes) = (numbers.first().copied().unwrap_or(100_000), numbers.get(1).copied().unwrap_or(64));
    let (mut here, mut there) = Async::<UnixStream>::pair().expect("a pair of sockets");
    let executor = Executor::start("echo").expect("a thread");
    let echo = executor.spawn(async move {
        let mut data = vec![0; bytes];
        while there.read_exact(&mut data).await.is_ok() {
            there.write_all(&data).await.expect("the other side reads");
        }
    });
    block_on(async {
        let mut data = vec![0; bytes];
        let begin = Instant::now();
        for _ in 0..count {
            here.write_all(&data).await.expect("the other side reads");
            here.read_exact(&mut data).await.expect("the other side writes");
        }
        let seconds = begin.elapsed().as_secs_f64();
        println!("{count} round trips: {seconds:.3} s, {:.1} µs each", seconds / count as f64 * 1e6);
        drop(here);
        echo.await;
    });
}
