//! The output for a small table, as a whole: what changes in it should be looked at.

use rhea_decoder::{Source, generate};

const TABLE: &str = include_str!("golden/toy.isa");
const OUTPUT: &str = include_str!("golden/toy.rs.txt");

/// `RHEA_BLESS=1 cargo test -p rhea-decoder --test golden` writes the output anew.
#[test]
fn the_toy_becomes_what_it_became() {
    let output = generate(&[Source { name: "toy.isa", text: TABLE }]).expect("the toy's table is in order");
    if std::env::var_os("RHEA_BLESS").is_some() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/toy.rs.txt");
        std::fs::write(path, &output).expect("the source folder can be written");
        return;
    }
    assert!(output == OUTPUT, "the output differs from golden/toy.rs.txt; RHEA_BLESS=1 writes it anew");
}

#[test]
fn the_same_table_gives_the_same_output() {
    let output = || generate(&[Source { name: "toy.isa", text: TABLE }]);
    assert_eq!(output(), output());
}

/// The documentation's first table is a whole one.
#[test]
fn the_readme_teaches_what_builds() {
    let readme = include_str!("../README.md");
    let table =
        readme.split("```text\n").nth(1).and_then(|rest| rest.split("```").next()).expect("it has a table");
    let output = generate(&[Source { name: "README.md", text: table }]).expect("the table is in order");
    assert!(output.contains("Instruction::Addi(Ri::read(word))"));
}
