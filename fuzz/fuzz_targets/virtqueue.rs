//! Any bytes are a virtqueue's rings, or break the queue.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| rhea_virtio::fuzz::queue(bytes));
