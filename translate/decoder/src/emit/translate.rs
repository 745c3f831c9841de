//! What a guest implements: one method for each instruction that does not stand for another.

use std::path::Path;

use crate::emit::types::field_type;
use crate::emit::{Output, camel, method};
use crate::table::{Expansion, Field, Format, KindOf, Source, Table};

pub(super) fn translation(table: &Table, out: &mut Output) {
    let parts = parts(table);
    out.lines(&[
        "",
        "/// What translates instructions: one trait for each table with one method for each instruction, so that none is",
        "/// forgotten. Instructions that stand for others have none: their operands are rewritten and the other's method is",
        "/// called.",
        "pub trait Translator {",
        "/// What comes of an instruction.",
        "type Output;",
        "}",
    ]);
    for part in &parts {
        out.lines(&["", &format!("/// The instructions of `{}`.", part.file)]);
        out.line(format!("pub trait {}: Translator {{", part.name));
        for pattern in &part.patterns {
            let pattern = &table.patterns[*pattern];
            let format = &table.formats[pattern.format];
            let arguments = if format.fields.is_empty() {
                String::new()
            } else {
                format!(", a: {}", camel(&format.name))
            };
            out.line(format!("/// `{}`", pattern.name));
            out.line(format!("fn {}(&mut self{arguments}) -> Self::Output;", method(&pattern.name)));
        }
        out.line("}");
    }
    let bounds: Vec<&str> = parts.iter().map(|part| part.name.as_str()).collect();
    let bounds = if bounds.is_empty() { "Translator".to_owned() } else { bounds.join(" + ") };
    out.lines(&["", "/// A translator of every instruction."]);
    out.line(format!("pub trait Translate: {bounds} {{}}"));
    out.line(format!("impl<T: {bounds}> Translate for T {{}}"));
    out.lines(&["", "impl Instruction {", "/// Calls the instruction's method."]);
    out.line("pub fn translate<T: Translate>(self, translator: &mut T) -> T::Output {");
    out.line("match self {");
    for pattern in &table.patterns {
        let format = &table.formats[pattern.format];
        let variant = format!("Instruction::{}", camel(&pattern.name));
        let bound = if format.fields.is_empty() { "" } else { "(a)" };
        let line = match &pattern.expansion {
            None => format!(
                "{variant}{bound} => translator.{}{},",
                method(&pattern.name),
                if bound.is_empty() { "()" } else { bound }
            ),
            Some(expansion) => {
                let target = &table.patterns[expansion.pattern];
                let operands = operands(table, expansion);
                let bound = bound_for(format, expansion);
                format!("{variant}{bound} => translator.{}({operands}),", method(&target.name))
            }
        };
        out.line(line);
    }
    out.lines(&["}", "}"]);
    parts.iter().for_each(|part| part_of_translation(table, part, out));
    out.lines(&["", "/// The instruction that this one stands for, or itself.", "#[must_use]"]);
    out.line("pub fn expanded(self) -> Instruction {");
    out.line("match self {");
    for pattern in &table.patterns {
        let Some(expansion) = &pattern.expansion else { continue };
        let target = &table.patterns[expansion.pattern];
        let operands = operands(table, expansion);
        let operands = if operands.is_empty() { operands } else { format!("({operands})") };
        let bound = bound_for(&table.formats[pattern.format], expansion);
        out.line(format!(
            "Instruction::{}{bound} => Instruction::{}{operands},",
            camel(&pattern.name),
            camel(&target.name)
        ));
    }
    out.lines(&["other => other,", "}", "}", "}"]);
}

/// A call for those who care for one table only.
fn part_of_translation(table: &Table, part: &Part, out: &mut Output) {
    let name = method(&format!("translate_{}", part.stem));
    out.lines(&[
        "",
        &format!("/// Calls the method of an instruction of `{}`; none for any other.", part.file),
    ]);
    out.line(format!("pub fn {name}<T: {}>(self, translator: &mut T) -> Option<T::Output> {{", part.name));
    out.line("Some(match self {");
    for pattern in &part.patterns {
        let pattern = &table.patterns[*pattern];
        let empty = table.formats[pattern.format].fields.is_empty();
        let bound = if empty { "" } else { "(a)" };
        let arguments = if empty { "()" } else { "(a)" };
        out.line(format!(
            "Instruction::{}{bound} => translator.{}{arguments},",
            camel(&pattern.name),
            method(&pattern.name)
        ));
    }
    if part.patterns.len() < table.patterns.len() {
        out.line("_ => return None,");
    }
    out.lines(&["})", "}"]);
}

/// The instructions of one file that do not stand for others.
struct Part {
    file: String,
    stem: String,
    /// `TranslateZi` for `tables/zi.isa`.
    name: String,
    patterns: Vec<usize>,
}

fn parts(table: &Table) -> Vec<Part> {
    let mut parts: Vec<Part> = Vec::new();
    for (index, pattern) in table.patterns.iter().enumerate() {
        if pattern.expansion.is_some() {
            continue;
        }
        let name = trait_name(&pattern.place.file);
        match parts.iter_mut().find(|part| part.name == name) {
            Some(part) => part.patterns.push(index),
            None => {
                let file = Path::new(&*pattern.place.file).file_name().unwrap_or_default();
                let (file, stem) = (file.to_string_lossy().into_owned(), stem(&pattern.place.file));
                parts.push(Part { file, stem, name, patterns: vec![index] });
            }
        }
    }
    parts
}

/// The name of a file's trait.
pub(crate) fn trait_name(file: &str) -> String {
    format!("Translate{}", camel(&stem(file)).trim_start_matches('_'))
}

/// The file's name without its ending, as a part of a Rust name.
fn stem(file: &str) -> String {
    let stem = Path::new(file).file_stem().unwrap_or_default().to_string_lossy();
    stem.replace(|c: char| !c.is_ascii_alphanumeric() && c != '_', "_")
}

/// How an instruction's operands are bound where its expansion is written.
fn bound_for(format: &Format, expansion: &Expansion) -> &'static str {
    let read = expansion.arguments.iter().any(|argument| matches!(argument, Source::Field(_)));
    match (format.fields.is_empty(), read) {
        (true, _) => "",
        (_, true) => "(a)",
        _ => "(_)",
    }
}

/// The operands of the other instruction; nothing if it has none.
fn operands(table: &Table, expansion: &Expansion) -> String {
    let format = &table.formats[table.patterns[expansion.pattern].format];
    if format.fields.is_empty() {
        return String::new();
    }
    let wanted = format.fields.iter().map(|field| &table.fields[*field]);
    let values = wanted.zip(&expansion.arguments).map(|(field, argument)| {
        let value = match argument {
            Source::Constant(value) => constant(table, field, *value),
            Source::Field(source) => passed(&table.fields[*source], field),
        };
        format!("{}: {value}", method(&field.name))
    });
    format!("{} {{ {} }}", camel(&format.name), values.collect::<Vec<_>>().join(", "))
}

fn constant(table: &Table, field: &Field, value: i64) -> String {
    match field.kind {
        KindOf::Named(_) => format!("{}({value})", field_type(table, field)),
        KindOf::Flag => (value != 0).to_string(),
        _ => value.to_string(),
    }
}

fn passed(from: &Field, to: &Field) -> String {
    let value = format!("a.{}", method(&from.name));
    let number = !matches!(to.kind, KindOf::Named(_) | KindOf::Flag);
    if number && from.number != to.number { format!("{value} as {}", to.number.rust()) } else { value }
}
