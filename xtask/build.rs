//! Assembles the built-in guest of `cargo xtask demo` with rustc itself and cuts its ROM out of the object file.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

fn main() {
    let source = Path::new("../tests/guest/builtin/guest.rs");
    println!("cargo::rerun-if-changed={}", source.display());
    let folder = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let object = folder.join("guest.o");
    // The guest is x86 code whatever the host; a compiler for another host may lack that target, and then there is no
    // built-in guest.
    let mut rustc = Command::new(env::var_os("RUSTC").expect("cargo sets RUSTC"));
    rustc.args(["--edition", "2024", "--crate-type", "lib", "--emit", "obj", "-C", "panic=abort"]);
    rustc.args(["--target", "x86_64-unknown-linux-gnu", "-o"]).arg(&object).arg(source);
    let assembled = rustc.status().is_ok_and(|status| status.success());
    let rom = if assembled {
        let bytes = fs::read(&object).expect("rustc wrote the object");
        section(&bytes, ".rom").expect("the object has a .rom section")
    } else {
        println!("cargo::warning=this toolchain cannot assemble x86 code: the demo has no built-in guest");
        Vec::new()
    };
    fs::write(folder.join("guest.rom"), rom).expect("OUT_DIR is writable");
}

/// The contents of a section of a 64-bit little-endian ELF file (System V gABI, "Sections").
fn section(elf: &[u8], wanted: &str) -> Option<Vec<u8>> {
    let number = |at: usize, size: usize| -> Option<usize> {
        let bytes = elf.get(at..at + size)?;
        Some(bytes.iter().rev().fold(0, |value, byte| value << 8 | usize::from(*byte)))
    };
    let (table, entry, count) = (number(0x28, 8)?, number(0x3a, 2)?, number(0x3c, 2)?);
    let names = number(table + number(0x3e, 2)? * entry + 0x18, 8)?;
    (0..count).map(|index| table + index * entry).find_map(|header| {
        let name = elf.get(names + number(header, 4)?..)?;
        if name.split(|b| *b == 0).next()? != wanted.as_bytes() {
            return None;
        }
        let (offset, size) = (number(header + 0x18, 8)?, number(header + 0x20, 8)?);
        Some(elf.get(offset..offset + size)?.to_vec())
    })
}
