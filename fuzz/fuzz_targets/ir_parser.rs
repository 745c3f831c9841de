//! Any text is either a unit of the IR or an error; a well-formed unit prints and parses back.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| rhea_lockstep_tests::properties::ir_text(text));
