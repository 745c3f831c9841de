//! Any bytes are a qcow2 image or an error: opened, read, written, checked, repaired.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| rhea_qcow2::fuzz_image(bytes));
