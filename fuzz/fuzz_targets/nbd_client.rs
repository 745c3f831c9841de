//! Whatever a server says, a session of the NBD client ends.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| rhea_nbd::robustness::server_says(bytes));
