//! Whatever a table says, the generator answers with Rust or with findings.

use proptest::prelude::*;

use crate::build::{Source, generate};

const TABLE: &str = include_str!("../../tests/golden/toy.isa");

/// Words that mean something somewhere.
const PIECES: &[&str] = &[
    "{",
    "}",
    "(",
    ")",
    "|",
    "{a|b}",
    "{|}",
    "\"",
    "\"{\"",
    ":",
    "=",
    "!=",
    "<<",
    "-",
    "+",
    "0b",
    "0b1",
    "99",
    "-1",
    "x",
    ".",
    "0x",
    "281474976710655",
    "field",
    "format",
    "first {",
    "over",
    "as",
    "where",
    "if",
    "in",
    "not",
    "or",
    "map 1",
    "from 3",
    "signed",
    "custom",
    "names",
    "kind",
    "cover",
    "reserved",
    "width 64",
    "exclusive",
    "when",
    "\\",
    "#",
    "é",
    "\n",
    "63:0",
    "<< 31 << 31 << 31",
    "always",
    "!!!!!!!!!!!!!!!!!!!!!!!!",
    "((((((((((((((((((((",
];

/// A change: where (a share of the text), how many characters go, what comes instead.
fn change() -> impl Strategy<Value = (usize, usize, &'static str)> {
    (0usize..TABLE.len(), 0usize..12, proptest::sample::select(PIECES))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn spoiled_tables_are_no_trouble(changes in proptest::collection::vec(change(), 1..6)) {
        let mut text: Vec<char> = TABLE.chars().collect();
        for (at, gone, new) in changes {
            let at = at.min(text.len());
            let end = (at + gone).min(text.len());
            text.splice(at..end, format!(" {new} ").chars());
        }
        let text: String = text.into_iter().collect();
        // Either is well; a panic is not.
        let _ = generate(&[Source { name: "t", text: &text }]);
    }

    #[test]
    fn any_text_is_no_trouble(text in "(width (16|32|64)\n)?[ -~\n]{0,200}") {
        let _ = generate(&[Source { name: "t", text: &text }]);
    }
}
