//! Any bytes as an image of the smaller formats, the first byte says which: no panic, no hang, little memory.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rhea_image_formats::fuzz;

fuzz_target!(|bytes: &[u8]| {
    if let Some((&which, bytes)) = bytes.split_first() {
        fuzz::image(fuzz::FORMATS[usize::from(which) % fuzz::FORMATS.len()], bytes);
    }
});
