//! How long decoding takes. `cargo test --release -p rhea-riscv-translate --test speed -- --ignored --nocapture`

use std::hint::black_box;
use std::time::Instant;

use rhea_riscv_translate::{ENCODINGS, Features, Xlen, decode16, decode32};

/// Words decoded in one measurement.
const WORDS: usize = 1 << 20;

/// Different words: so few that the processor learns what comes next, as in a guest's program, or so many that it cannot.
const DIFFERENT: [usize; 2] = [256, WORDS];

#[test]
#[ignore = "a measurement"]
fn nanoseconds_per_decoded_instruction() {
    let features = Features::everything(Xlen::Rv64);
    let mut state = 1u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state >> 32
    };
    for width in [16, 32] {
        let encodings: Vec<_> = ENCODINGS.iter().filter(|encoding| encoding.width == width).collect();
        let word = |_| {
            let encoding = encodings[next() as usize % encodings.len()];
            (encoding.value | next() & !encoding.mask) as u32
        };
        let words: Vec<u32> = (0..WORDS).map(word).collect();
        let decode = if width == 16 { decode16 } else { decode32 };
        for different in DIFFERENT {
            let words = words[..different].iter().cycle().take(WORDS);
            let start = Instant::now();
            let decoded =
                words.filter(|word| black_box(decode(black_box(**word), &features)).is_some()).count();
            let nanoseconds = start.elapsed().as_nanos() as f64 / WORDS as f64;
            println!("{width}-bit words, {different} different: {nanoseconds:.1} ns each");
            assert!(decoded > WORDS / 2);
        }
    }
}
