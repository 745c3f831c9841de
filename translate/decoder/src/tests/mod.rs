//! Tests of the whole generator.

mod errors;
mod hostile;
mod property;

use crate::build::{Source, generate};

/// What a table with one file comes to: its findings, one line each, or nothing.
fn findings(text: &str) -> String {
    generate(&[Source { name: "t.isa", text }]).map_or_else(|errors| errors.to_string(), |_| String::new())
}
