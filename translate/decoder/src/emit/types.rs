//! Features, kinds of operands, formats, and the instruction itself.

use crate::declaration::Slice;
use crate::emit::{Output, camel, method};
use crate::table::{Field, Kind, KindOf, Table};

/// A line of documentation: what the table's author wrote, without what would end it.
fn doc(text: &str) -> String {
    format!("/// {}", text.replace(['[', ']'], ""))
}

pub(super) fn features(table: &Table, out: &mut Output) {
    out.lines(&[
        "",
        "/// What instructions may ask of a processor.",
        "#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]",
    ]);
    out.line("pub enum Feature {");
    for feature in &table.features {
        out.line(doc(feature.about.as_deref().unwrap_or(&feature.name)));
        out.line(format!("{},", camel(&feature.name)));
    }
    out.line("}");
    out.lines(&["", "impl Feature {", "/// All of them, in the order of the table."]);
    out.line("pub const ALL: &'static [Feature] = &[");
    for feature in &table.features {
        out.line(format!("Feature::{},", camel(&feature.name)));
    }
    out.lines(&["];", "", "/// As the table spells it.", "pub const fn name(self) -> &'static str {"]);
    if table.features.is_empty() {
        out.line("match self {}");
    } else {
        out.line("match self {");
        for feature in &table.features {
            out.line(format!("Feature::{} => {:?},", camel(&feature.name), feature.name));
        }
        out.line("}");
    }
    out.lines(&["}", "}"]);
    // An enum without variants cannot be cast, and there is nothing to do with it.
    let body = |body| if table.features.is_empty() { "match feature {}" } else { body };
    out.lines(&[
        "",
        "/// A set of features.",
        "#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]",
        "pub struct Features(u128);",
        "",
        "impl Features {",
        "/// No feature.",
        "pub const NONE: Features = Features(0);",
        "",
        "/// The set with one more.",
        "#[must_use]",
        "pub const fn with(self, feature: Feature) -> Features {",
        body("Features(self.0 | 1 << feature as u32)"),
        "}",
        "",
        "/// The set with one less.",
        "#[must_use]",
        "pub const fn without(self, feature: Feature) -> Features {",
        body("Features(self.0 & !(1 << feature as u32))"),
        "}",
        "",
        "/// True if the set has it.",
        "pub const fn has(&self, feature: Feature) -> bool {",
        body("self.0 >> (feature as u32) & 1 != 0"),
        "}",
        "}",
    ]);
}

pub(super) fn kinds(table: &Table, out: &mut Output) {
    for kind in &table.kinds {
        out.line("");
        out.line(format!("/// An operand of kind {}.", kind.name));
        out.line("#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]");
        out.line(format!("pub struct {}(pub {});", kind.name, kind.number.rust()));
        if let Some(names) = &kind.names {
            named(kind, names, out);
        }
    }
}

fn named(kind: &Kind, names: &[String], out: &mut Output) {
    out.line("");
    out.line(format!("impl {} {{", kind.name));
    out.lines(&["/// The names by number.", "pub const NAMES: &'static [&'static str] = &["]);
    for row in names.chunks(8) {
        let quoted: Vec<String> = row.iter().map(|name| format!("{name:?}")).collect();
        out.line(format!("{},", quoted.join(", ")));
    }
    out.lines(&["];", "}", ""]);
    out.line(format!("impl std::fmt::Display for {} {{", kind.name));
    out.lines(&[
        "fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {",
        "match Self::NAMES.get(self.0 as usize) {",
        "Some(name) => f.write_str(name),",
    ]);
    out.line(format!("None => write!(f, \"{}({{}})\", self.0),", kind.name));
    out.lines(&["}", "}", "}"]);
}

/// The type of a field in its format's struct.
pub(super) fn field_type(table: &Table, field: &Field) -> String {
    match field.kind {
        KindOf::Named(kind) => table.kinds[kind].name.clone(),
        KindOf::Flag => "bool".to_owned(),
        _ => field.number.rust().to_owned(),
    }
}

pub(super) fn word_type(width: u32) -> &'static str {
    // Narrow words travel in 32 bits: fields of theirs can be wider than they are.
    if width == 64 { "u64" } else { "u32" }
}

pub(super) fn formats(table: &Table, out: &mut Output) {
    for format in table.formats.iter().filter(|format| !format.fields.is_empty()) {
        let name = camel(&format.name);
        out.line("");
        out.line(format!("/// Operands of format {}, with their bits in the word.", format.name));
        out.line("#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]");
        out.line(format!("pub struct {name} {{"));
        for field in format.fields.iter().map(|index| &table.fields[*index]) {
            out.line(format!("/// {}", described(field)));
            out.line(format!("pub {}: {},", method(&field.name), field_type(table, field)));
        }
        out.lines(&["}", ""]);
        out.line(format!("impl {name} {{"));
        out.line(format!("const fn read(word: {}) -> Self {{", word_type(format.width)));
        out.line("Self {");
        for field in format.fields.iter().map(|index| &table.fields[*index]) {
            let get = format!("read_{}(word)", method(&field.name));
            let value = match field.kind {
                KindOf::Named(kind) if table.kinds[kind].number == field.number => {
                    format!("{}({get})", table.kinds[kind].name)
                }
                KindOf::Named(kind) => {
                    format!("{}({get} as {})", table.kinds[kind].name, table.kinds[kind].number.rust())
                }
                KindOf::Flag => format!("{get} != 0"),
                _ => get,
            };
            out.line(format!("{}: {value},", method(&field.name)));
        }
        out.lines(&["}", "}", "}"]);
    }
}

/// The field's bits as the table gives them.
fn described(field: &Field) -> String {
    let slices = field.slices.iter().map(|slice| match *slice {
        Slice::Bits { high, low } if high == low => high.to_string(),
        Slice::Bits { high, low } => format!("{high}:{low}"),
        Slice::Fixed { bits, value } => format!("0b{value:0width$b}", width = bits as usize),
    });
    let slices: Vec<String> = slices.collect();
    let (low, high) = field.range;
    format!("{}; {low} to {high}.", slices.join(" "))
}

pub(super) fn instruction(table: &Table, out: &mut Output) {
    out.lines(&[
        "",
        "/// An instruction and its operands.",
        "#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]",
    ]);
    out.line("pub enum Instruction {");
    for pattern in &table.patterns {
        let format = &table.formats[pattern.format];
        out.line(format!("/// `{}`", pattern.name));
        if format.fields.is_empty() {
            out.line(format!("{},", camel(&pattern.name)));
        } else {
            out.line(format!("{}({}),", camel(&pattern.name), camel(&format.name)));
        }
    }
    out.line("}");
    out.lines(&[
        "",
        "/// An instruction's fixed bits, for tests that make words.",
        "#[derive(Clone, Copy, Debug, PartialEq, Eq)]",
        "pub struct Encoding {",
        "/// The instruction's name in the table.",
        "pub name: &'static str,",
        "/// Bits of its word.",
        "pub width: u32,",
        "/// The fixed bits.",
        "pub mask: u64,",
        "/// Their values.",
        "pub value: u64,",
        "}",
        "",
        "/// All instructions, in the order of the table.",
    ]);
    out.line("pub const ENCODINGS: &[Encoding] = &[");
    for pattern in &table.patterns {
        let digits = pattern.width as usize / 4 + 2;
        out.line(format!(
            "Encoding {{ name: {:?}, width: {}, mask: {:#0digits$x}, value: {:#0digits$x} }},",
            pattern.name, pattern.width, pattern.fixed.mask, pattern.fixed.value
        ));
    }
    out.line("];");
}
