//! What host code looks like, for a few units: `golden/*.txt` has the IR, a line of dashes and the code expected.
//! `RHEA_BLESS=1` rewrites the files.

use rhea_backend_x64::{Compiler, Features, HelperTarget, ThunkAddresses};
use std::path::Path;

/// A processor of the x86-64-v3 level, so that the code does not depend on the one that runs the test.
fn features() -> Features {
    Features {
        ssse3: true,
        sse41: true,
        sse42: true,
        avx: true,
        avx2: true,
        fma: true,
        f16c: true,
        bmi1: true,
        bmi2: true,
        lzcnt: true,
        popcnt: true,
        movbe: true,
        ..Features::default()
    }
}

#[test]
fn code_is_as_expected() {
    let mut layout = crate::world::layout(features(), 8);
    let base = 0x1_0000;
    layout.thunks = ThunkAddresses {
        enter: 0x8000,
        memory: 0x8100,
        leave: 0x8200,
        poll: 0x8300,
        lookup: 0x8400,
        chain: 0x8500,
    };
    let helpers = crate::world::HELPERS;
    let targets = helpers.iter().map(|&info| HelperTarget { info, address: 0x7700 }).collect();
    let mut compiler = Compiler::new(layout, targets);
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/host_code/golden");
    let mut files: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|f| f.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty());
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        let (ir, expected) = text.split_once("----\n").unwrap_or((&text, ""));
        let unit = rhea_ir::parser::parse(ir, &helpers).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        let compiled = compiler.compile(&unit, base, 0).unwrap();
        let got = crate::disassemble(compiled.code, base);
        if std::env::var("RHEA_BLESS").is_ok() {
            std::fs::write(&file, format!("{ir}----\n{got}")).unwrap();
        } else {
            assert_eq!(got, expected, "{}", file.display());
        }
    }
}
