//! What a guest implements: one method for each instruction that does not stand for another.

use crate::emit::types::field_type;
use crate::emit::{Output, camel, method};
use crate::table::{Expansion, Field, Format, KindOf, Source, Table};

pub(super) fn translation(table: &Table, out: &mut Output) {
    out.lines(&[
        "",
        "/// One method for each instruction, so that none is forgotten. Instructions that stand for others have none:",
        "/// their operands are rewritten and the other's method is called.",
        "pub trait Translate {",
        "/// What comes of an instruction.",
        "type Output;",
    ]);
    for pattern in table.patterns.iter().filter(|pattern| pattern.expansion.is_none()) {
        let format = &table.formats[pattern.format];
        let arguments =
            if format.fields.is_empty() { String::new() } else { format!(", a: {}", camel(&format.name)) };
        out.line("");
        out.line(format!("/// `{}`", pattern.name));
        out.line(format!("fn {}(&mut self{arguments}) -> Self::Output;", method(&pattern.name)));
    }
    out.lines(&["}", "", "impl Instruction {", "/// Calls the instruction's method."]);
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
