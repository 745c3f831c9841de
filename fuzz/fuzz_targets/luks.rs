//! Any bytes are either a LUKS volume or an error.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| rhea_block_crypto::fuzzing::open_volume(bytes));
