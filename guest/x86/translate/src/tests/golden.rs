//! Golden tests: the IR of representative instructions, in text files beside this one.
//!
//! A case is a line `# mode: assembler text`, a line of bytes in hexadecimal, and the unit they become. The bytes may
//! hold several instructions. With `RHEA_BLESS=1` in the environment the files are rewritten with what comes out; read
//! the difference before keeping it.

use super::translate;
use rhea_x86_state::mode::*;
use std::fmt::Write;
use std::path::Path;

fn mode(name: &str) -> u64 {
    let kernel64 = CS64 | SS32 | LMA | PE | IOPL_OK | OSFXSR;
    match name {
        "kernel64" => kernel64,
        "smap64" => kernel64 | SMAP,
        "user64" => CS64 | SS32 | LMA | PE | OSFXSR | FSGSBASE | 3,
        "flat32" => PE | CS32 | SS32 | IOPL_OK,
        "user32" => PE | CS32 | SS32 | 3,
        "segments32" => PE | CS32 | SS32 | CHECK_SEGMENTS | ADD_SEGMENT | 3,
        "real" => CHECK_SEGMENTS | ADD_SEGMENT | IOPL_OK,
        "step64" => kernel64 | TF,
        "shadow64" => kernel64 | SHADOW,
        _ => panic!("mode {name}"),
    }
}

fn run(file: &str, text: &str) {
    let mut out = String::new();
    for case in text.split("\n# ").map(|c| c.trim_start_matches("# ").trim_end()) {
        let mut lines = case.lines();
        let title = lines.next().unwrap_or_default();
        let bytes = lines.next().unwrap_or_default();
        let (name, _) = title.split_once(": ").expect("mode");
        let code: Vec<u8> =
            bytes.split_whitespace().map(|b| u8::from_str_radix(b, 16).expect("hexadecimal")).collect();
        // What follows the case's bytes must not become part of the unit.
        let count = count(&code, mode(name));
        let mut padded = code.clone();
        padded.resize(code.len() + 16, 0x90);
        let _ = write!(out, "# {title}\n{bytes}\n{}\n", translate(&padded, 0x1000, mode(name), count));
    }
    if std::env::var_os("RHEA_BLESS").is_some() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/tests/golden").join(file);
        std::fs::write(path, &out).expect("golden file");
        return;
    }
    for (want, got) in text.split("\n# ").zip(out.split("\n# ")) {
        assert_eq!(want.trim_end(), got.trim_end(), "in {file}");
    }
}

/// Instructions in `code`.
fn count(code: &[u8], mode: u64) -> u32 {
    let bits = if mode & CS64 != 0 {
        64
    } else if mode & CS32 != 0 {
        32
    } else {
        16
    };
    iced_x86::Decoder::new(bits, code, iced_x86::DecoderOptions::NONE).into_iter().count() as u32
}

#[test]
fn integer() {
    run("integer.txt", include_str!("golden/integer.txt"));
}

#[test]
fn flags() {
    run("flags.txt", include_str!("golden/flags.txt"));
}

#[test]
fn control() {
    run("control.txt", include_str!("golden/control.txt"));
}

#[test]
fn system() {
    run("system.txt", include_str!("golden/system.txt"));
}
