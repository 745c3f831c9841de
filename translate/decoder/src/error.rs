//! What is wrong with a table, and where.

use std::fmt;
use std::sync::Arc;

/// A line of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) file: Arc<str>,
    pub(crate) line: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

/// One finding, printed as `file:line: message`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// The table's file as it was named to the generator.
    pub file: String,
    /// Counted from one; zero where no line is to blame.
    pub line: usize,
    /// One sentence.
    pub message: String,
}

impl Error {
    pub(crate) fn new(place: &Place, message: impl Into<String>) -> Self {
        Self { file: place.file.to_string(), line: place.line, message: message.into() }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file, self.line, self.message)
    }
}

/// Everything found wrong in one run, one line each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Errors(pub Vec<Error>);

impl fmt::Display for Errors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.0.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            write!(f, "{error}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Errors {}

/// Collects findings, so that one run reports all of them.
#[derive(Default)]
pub(crate) struct Findings(Vec<Error>);

impl Findings {
    /// Notes a finding.
    pub(crate) fn add(&mut self, place: &Place, message: impl Into<String>) {
        self.0.push(Error::new(place, message));
    }

    /// Keeps a value, or notes why there is none.
    pub(crate) fn take<T>(&mut self, result: Result<T, Error>) -> Option<T> {
        result.map_err(|error| self.0.push(error)).ok()
    }

    /// An error if anything was found.
    pub(crate) fn finish(self) -> Result<(), Errors> {
        if self.0.is_empty() { Ok(()) } else { Err(Errors(self.0)) }
    }
}
