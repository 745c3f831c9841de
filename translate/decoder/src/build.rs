//! From files to Rust: all steps in order.

use std::fs;
use std::path::Path;

use crate::check::{Precedence, check};
use crate::declaration::Declarations;
use crate::emit::emit;
use crate::error::{Error, Errors, Findings};
use crate::parse::parse;
use crate::resolve::resolve;
use crate::table::Table;

/// One file of a table.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    /// How errors name it.
    pub name: &'a str,
    /// What it says.
    pub text: &'a str,
}

/// Generates the decoder that the files describe together. The order of the files is the order of the output.
pub fn generate(sources: &[Source<'_>]) -> Result<String, Errors> {
    let (table, precedence) = checked(sources)?;
    Ok(emit(&table, &precedence))
}

/// A table without findings.
pub(crate) fn checked(sources: &[Source<'_>]) -> Result<(Table, Precedence), Errors> {
    let mut declarations = Declarations::default();
    let mut findings = Findings::default();
    for source in sources {
        parse(source.name, source.text, &mut declarations, &mut findings);
    }
    let table = resolve(&declarations, &mut findings);
    // What is missing would only cause findings about other lines.
    findings.finish()?;
    let mut findings = Findings::default();
    let precedence = Precedence::new(&table.patterns, &mut findings);
    check(&table, &precedence, &mut findings);
    findings.finish()?;
    Ok((table, precedence))
}

/// For a crate's `build.rs`: reads the files of `folder` that end in `.isa`, in the order of their names, writes the
/// decoder to `output`, and tells Cargo when to do so again. Errors read like a compiler's.
pub fn build(folder: &Path, output: &Path) -> Result<(), Errors> {
    let failed = |path: &Path, error: std::io::Error| {
        Errors(vec![Error { file: path.display().to_string(), line: 0, message: error.to_string() }])
    };
    println!("cargo::rerun-if-changed={}", folder.display());
    let entries = fs::read_dir(folder).map_err(|e| failed(folder, e))?;
    let mut paths =
        entries.map(|e| e.map(|e| e.path())).collect::<Result<Vec<_>, _>>().map_err(|e| failed(folder, e))?;
    paths.retain(|path| path.extension().is_some_and(|e| e == "isa"));
    paths.sort();
    let read = |path: &std::path::PathBuf| {
        fs::read_to_string(path).map(|text| (path.display().to_string(), text)).map_err(|e| failed(path, e))
    };
    let files = paths.iter().map(read).collect::<Result<Vec<_>, _>>()?;
    let sources: Vec<Source<'_>> = files.iter().map(|(name, text)| Source { name, text }).collect();
    fs::write(output, generate(&sources)?).map_err(|e| failed(output, e))
}
