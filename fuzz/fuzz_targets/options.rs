//! Any text is either options or an error; what was parsed prints and parses back.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| rhea_lockstep_tests::properties::options_text(text));
