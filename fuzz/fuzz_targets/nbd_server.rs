//! Whatever a client says, a session of the NBD server ends.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| rhea_nbd::robustness::client_says(bytes));
