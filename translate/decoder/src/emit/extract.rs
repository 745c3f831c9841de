//! One small function for each field: its number in a word.

use crate::declaration::{Slice, Step};
use crate::emit::types::word_type;
use crate::emit::{Output, method};
use crate::table::{Field, KindOf, Number, Table, ones};

pub(super) fn fields(table: &Table, out: &mut Output) {
    for field in &table.fields {
        out.line("");
        out.line(format!(
            "const fn read_{}(word: {}) -> {} {{",
            method(&field.name),
            word_type(field.width),
            field.number.rust()
        ));
        out.line(expression(field));
        out.line("}");
    }
}

/// An expression under construction: bits are 32 or 64.
struct Sum {
    text: String,
    bits: u32,
    signed: bool,
}

impl Sum {
    fn rust(&self) -> &'static str {
        match (self.bits, self.signed) {
            (32, false) => "u32",
            (32, true) => "i32",
            (_, false) => "u64",
            (_, true) => "i64",
        }
    }

    fn cast(&mut self, bits: u32, signed: bool) {
        if (self.bits, self.signed) != (bits, signed) {
            (self.bits, self.signed) = (bits, signed);
            self.text = format!("({} as {})", self.text, self.rust());
        }
    }
}

fn expression(field: &Field) -> String {
    let word_bits = if field.width == 64 { 64 } else { 32 };
    let mut sum = Sum { text: joined(field, word_bits), bits: word_bits.max(wide(field)), signed: false };
    if field.signed {
        let shift = sum.bits - field.bits();
        sum.text = if shift == 0 { sum.text } else { format!("({} << {shift})", sum.text) };
        let bits = sum.bits;
        sum.cast(bits, true);
        if shift > 0 {
            sum.text = format!("({} >> {shift})", sum.text);
        }
    }
    for step in &field.steps {
        match step {
            Step::ShiftLeft(0) => {}
            Step::ShiftLeft(count) => {
                if field.range.1 > i128::from(u32::MAX) || field.range.0 < i128::from(i32::MIN) {
                    let signed = sum.signed;
                    sum.cast(64, signed);
                }
                sum.text = format!("({} << {count})", sum.text);
            }
            // The range is the whole field's: no step in between goes beyond it unless one goes back.
            Step::Add(number)
                if *number >= 0
                    && !sum.signed
                    && sum.bits == 32
                    && field.steps.len() == 1
                    && field.number <= Number::U32 =>
            {
                sum.text = format!("({} + {number})", sum.text);
            }
            Step::Add(number) => {
                sum.cast(64, true);
                let operator = if *number < 0 { '-' } else { '+' };
                sum.text = format!("({} {operator} {})", sum.text, number.abs());
            }
            Step::From(number) => {
                sum.cast(64, true);
                sum.text = format!("({number} - {})", sum.text);
            }
            Step::Map(list) => {
                // The first gives the others their type.
                let values: Vec<String> = list.iter().map(|value| format!("{value}i64")).collect();
                sum.text = format!("([{}][{} as usize])", values.join(", "), sum.text);
                (sum.bits, sum.signed) = (64, true);
            }
        }
    }
    let same = matches!(
        (field.number, sum.bits, sum.signed),
        (Number::U32, 32, false)
            | (Number::I32, 32, true)
            | (Number::U64, 64, false)
            | (Number::I64, 64, true)
    );
    let text = bare(&sum.text);
    if same { text.to_owned() } else { format!("({text}) as {}", field.number.rust()) }
}

/// 64 if the value before the steps needs more than 32 bits.
fn wide(field: &Field) -> u32 {
    if field.bits() > 32 { 64 } else { 32 }
}

/// The slices, put together.
fn joined(field: &Field, word_bits: u32) -> String {
    let mut parts = Vec::new();
    let mut above = field.bits();
    for slice in &field.slices {
        match *slice {
            Slice::Bits { high, low } => {
                let bits = high - low + 1;
                above -= bits;
                let word = if wide(field) > word_bits { "(word as u64)" } else { "word" };
                let shifted = if low == 0 { word.to_owned() } else { format!("{word} >> {low}") };
                // The word's highest bits need no mask.
                let masked = if high + 1 == word_bits && low > 0 {
                    format!("({shifted})")
                } else if low == 0 {
                    format!("({shifted} & {:#x})", ones(bits))
                } else {
                    format!("(({shifted}) & {:#x})", ones(bits))
                };
                parts.push(if above == 0 { masked } else { format!("({masked} << {above})") });
            }
            Slice::Fixed { bits, value } => {
                above -= bits;
                if value != 0 {
                    parts.push(format!("{:#x}", value << above));
                }
            }
        }
    }
    match parts.len() {
        0 => "0".to_owned(),
        1 => parts.remove(0),
        _ => format!("({})", parts.join(" | ")),
    }
}

/// Without brackets around the whole.
fn bare(text: &str) -> &str {
    let Some(inner) = text.strip_prefix('(').and_then(|t| t.strip_suffix(')')) else { return text };
    let mut depth = 0i32;
    for c in inner.chars() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        if depth < 0 {
            return text;
        }
    }
    inner
}

/// A field's value inside an expression, as its kind's inner number.
pub(super) fn operand(table: &Table, field: usize) -> String {
    let field = &table.fields[field];
    let inner = if let KindOf::Named(_) = field.kind { ".0" } else { "" };
    format!("a.{}{inner}", method(&field.name))
}
