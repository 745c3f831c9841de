//! Any bytes, under any mode: they translate to a well-formed unit, which compiles.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rhea_lockstep_tests::properties::X86;
use std::cell::RefCell;

thread_local!(static X86: RefCell<X86> = RefCell::default());

fuzz_target!(|data: &[u8]| X86.with_borrow_mut(|x86| x86.translates(data)));
