//! Any bytes are a vmdk disk or an error: opened, read, written, checked.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| rhea_vmdk::fuzz_image(bytes));
