//! Whatever a server says, a session of the NBD client ends.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(init: ignore_broken_pipes(), |bytes: &[u8]| rhea_nbd::robustness::server_says(bytes));

/// As the standard library does before `main`, which a fuzzer has not: a server that is gone is an error of a write.
fn ignore_broken_pipes() {
    // SAFETY: no other thread runs yet, and ignoring a signal calls no code of ours.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
}
