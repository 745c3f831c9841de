//! Any bytes are a vhdx image or an error: opened, read, written, checked.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| rhea_vhdx::fuzz_image(bytes));
