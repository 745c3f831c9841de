//! Any text is either options or an error; what was parsed prints and parses back.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rhea_options::{Options, parse_size};

fuzz_target!(|text: &str| {
    let _ = parse_size(text, 1 << 20);
    let _ = Options::parse(text, Some("implied"));
    if let Ok(options) = Options::parse(text, None) {
        if !text.starts_with('{') {
            let printed = options.to_string();
            assert_eq!(Options::parse(&printed, None).ok().map(|o| o.to_string()), Some(printed));
        }
    }
});
