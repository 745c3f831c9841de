//! The disassembler.

use crate::emit::extract::operand;
use crate::emit::{Output, camel, method};
use crate::table::{KindOf, Piece, Table};

pub(super) fn disassembly(table: &Table, out: &mut Output) {
    out.lines(&[
        "",
        "/// Where an instruction stands, for operands that count from there.",
        "#[derive(Clone, Copy, Debug)]",
        "struct At {",
        "address: u64,",
        "bits: u32,",
        "}",
        "",
        "impl At {",
        "#[allow(dead_code)]",
        "fn target(self, distance: i64) -> u64 {",
        "self.address.wrapping_add_signed(distance) & (u64::MAX >> (64 - self.bits.clamp(1, 64)))",
        "}",
        "}",
    ]);
    for format in table.formats.iter().filter(|format| !format.fields.is_empty()) {
        let (text, arguments) = formatted(table, &format.text, None);
        let at = if arguments.contains("at.") { "at" } else { "_at" };
        let name = if text.contains("{mnemonic}") { "mnemonic" } else { "_mnemonic" };
        out.line("");
        out.line(format!("impl {} {{", camel(&format.name)));
        out.line(format!(
            "fn text(&self, {name}: &str, {at}: At, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {{"
        ));
        if arguments.contains("a.") {
            out.line("let a = self;");
        }
        out.line(format!("write!(f, \"{text}\"{arguments})"));
        out.lines(&["}", "}"]);
    }
    instruction(table, out);
}

fn instruction(table: &Table, out: &mut Output) {
    out.lines(&[
        "",
        "impl Instruction {",
        "/// The instruction's name in the table.",
        "pub const fn name(&self) -> &'static str {",
    ]);
    out.line("match self {");
    for pattern in &table.patterns {
        let rest = if table.formats[pattern.format].fields.is_empty() { "" } else { "(_)" };
        out.line(format!("Instruction::{}{rest} => {:?},", camel(&pattern.name), pattern.name));
    }
    out.lines(&["}", "}", ""]);
    out.lines(&[
        "/// The instruction as assembly text. It stands at `address`; addresses have `bits` bits.",
        "pub fn display(self, address: u64, bits: u32) -> impl std::fmt::Display {",
        "Displayed { instruction: self, at: At { address, bits } }",
        "}",
        "",
        "fn text(&self, at: At, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {",
        "match self {",
    ]);
    for pattern in &table.patterns {
        let format = &table.formats[pattern.format];
        let variant = format!("Instruction::{}", camel(&pattern.name));
        let own = pattern.text.as_ref().unwrap_or(&format.text);
        if format.fields.is_empty() {
            let (text, _) = formatted(table, own, Some(&pattern.name));
            out.line(format!(
                "{variant} => f.write_str(\"{}\"),",
                text.replace("{{", "{").replace("}}", "}")
            ));
        } else if pattern.text.is_some() {
            let (text, arguments) = formatted(table, own, Some(&pattern.name));
            let a = if arguments.is_empty() { "_" } else { "a" };
            out.line(format!("{variant}({a}) => write!(f, \"{text}\"{arguments}),"));
        } else {
            out.line(format!("{variant}(a) => a.text({:?}, at, f),", pattern.name));
        }
    }
    out.lines(&["}", "}", "}"]);
    out.lines(&[
        "",
        "struct Displayed {",
        "instruction: Instruction,",
        "at: At,",
        "}",
        "",
        "impl std::fmt::Display for Displayed {",
        "fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {",
        "self.instruction.text(self.at, f)",
        "}",
        "}",
    ]);
}

/// A format string and its arguments. The mnemonic is an argument where it is not known.
fn formatted(table: &Table, pieces: &[Piece], mnemonic: Option<&str>) -> (String, String) {
    let (mut text, mut arguments) = (String::new(), String::new());
    for piece in pieces {
        match piece {
            Piece::Literal(literal) => {
                let escaped = literal.escape_default().to_string();
                text.push_str(&escaped.replace('{', "{{").replace('}', "}}"));
            }
            Piece::Mnemonic => text.push_str(mnemonic.unwrap_or("{mnemonic}")),
            Piece::Field(index) => {
                let field = &table.fields[*index];
                let place =
                    if matches!(field.kind, KindOf::Hexadecimal | KindOf::Target) { "{:#x}" } else { "{}" };
                text.push_str(place);
                let value = match field.kind {
                    KindOf::Target => format!("at.target({} as i64)", operand(table, *index)),
                    KindOf::Flag => format!("u8::from({})", operand(table, *index)),
                    _ => format!("a.{}", method(&field.name)),
                };
                arguments.push_str(", ");
                arguments.push_str(&value);
            }
        }
    }
    (text, arguments)
}
