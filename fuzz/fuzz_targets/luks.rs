//! Any bytes are a LUKS volume or an error: opened, read, written, resized, amended.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    rhea_block_crypto::fuzzing::fuzz_volume(bytes);
});
