//! Whatever a client says, a session of the NBD server ends.
#![no_main]

use libfuzzer_sys::fuzz_target;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

fuzz_target!(init: ignore_broken_pipes(), |bytes: &[u8]| rhea_nbd::robustness::client_says(bytes));

/// The standard library does so before `main`, which a fuzzer has not: a client that is gone is an error of a write.
fn ignore_broken_pipes() {
    let broken = Arc::new(AtomicBool::new(false));
    signal_hook::flag::register(signal_hook::consts::SIGPIPE, broken).expect("a handler of SIGPIPE");
}
