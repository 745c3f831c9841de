//! What source files may look like: their length, where `unsafe` may stand, and what must stand above it.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use rhea_boot_tests::repository;

/// Lines of a file at most.
const MAX_LINES: usize = 2000;

/// Folders that are not ours to read.
const SKIPPED: &[&str] = &["target", ".git"];

/// Returns a line for every finding.
pub fn check() -> anyhow::Result<Vec<String>> {
    let root = repository();
    let mut files = Vec::new();
    collect(&root, &mut files)?;
    let mut findings = Vec::new();
    for file in files {
        let text = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
        let name = file.strip_prefix(&root).unwrap_or(&file).display().to_string();
        let unsafe_allowed = allows_unsafe(&file)?;
        findings.extend(check_file(&name, &text, unsafe_allowed));
    }
    Ok(findings)
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() && !path.is_symlink() && !SKIPPED.contains(&name.as_str()) {
            collect(&path, files)?;
        } else if path.extension().is_some_and(|e| e == "rs") {
            files.push(path);
        }
    }
    files.sort();
    Ok(())
}

/// A crate allows unsafe code by `unsafe_code = "allow"` in its manifest's lints, with a comment that says why; an
/// integration test, which is a crate of its own, by an attribute with a reason in its root file.
fn allows_unsafe(file: &Path) -> anyhow::Result<bool> {
    let roots = file.ancestors().take_while(|a| a.file_name().is_some_and(|n| n != "tests"));
    for root in roots.map(|a| if a.is_dir() { a.join("main.rs") } else { a.to_owned() }) {
        let in_tests = root.components().any(|c| c.as_os_str() == "tests");
        if in_tests && fs::read_to_string(&root).is_ok_and(|t| t.contains("#![allow(unsafe_code, reason")) {
            return Ok(true);
        }
    }
    let Some(manifest) = file.ancestors().map(|a| a.join("Cargo.toml")).find(|m| m.is_file()) else {
        return Ok(false);
    };
    let text = fs::read_to_string(&manifest)?;
    Ok(text.lines().any(|l| l.split_whitespace().collect::<String>() == "unsafe_code=\"allow\""))
}

fn check_file(name: &str, text: &str, unsafe_allowed: bool) -> Vec<String> {
    let mut findings = Vec::new();
    let lines: Vec<&str> = text.lines().collect();
    if lines.len() > MAX_LINES {
        findings.push(format!("{name}: {} lines; {MAX_LINES} are the most", lines.len()));
    }
    for (index, line) in lines.iter().enumerate() {
        let code = strip_comment_and_strings(line);
        if !opens_unsafe(&code) {
            continue;
        }
        if !unsafe_allowed {
            findings
                .push(format!("{name}:{}: unsafe code in a crate that does not allow it by name", index + 1));
        } else if !has_safety_comment(&lines, index) {
            findings.push(format!("{name}:{}: unsafe code without a SAFETY line", index + 1));
        }
    }
    findings
}

/// True for an unsafe block or implementation. An `unsafe fn` states its contract in its documentation (`# Safety`),
/// and `unsafe extern` or an attribute is no block.
fn opens_unsafe(code: &str) -> bool {
    let words: Vec<&str> = code.split(|c: char| !(c.is_alphanumeric() || c == '_' || c == '{')).collect();
    let joined: Vec<&str> = words.into_iter().filter(|w| !w.is_empty()).collect();
    joined.windows(2).any(|w| w[0] == "unsafe" && (w[1].starts_with('{') || w[1] == "impl"))
        || joined.contains(&"unsafe{")
}

fn strip_comment_and_strings(line: &str) -> String {
    let mut code = String::new();
    let mut in_string = false;
    let mut characters = line.chars().peekable();
    while let Some(c) = characters.next() {
        match c {
            '\\' if in_string => {
                characters.next();
            }
            '"' => in_string = !in_string,
            '/' if !in_string && characters.peek() == Some(&'/') => break,
            _ if !in_string => code.push(c),
            _ => {}
        }
    }
    code
}

/// Looks upwards through the statement and its comments for `SAFETY:`.
fn has_safety_comment(lines: &[&str], index: usize) -> bool {
    if lines[index].contains("SAFETY:") {
        return true;
    }
    for line in lines[..index].iter().rev().take(14) {
        if line.contains("SAFETY:") {
            return true;
        }
        let trimmed = line.trim();
        // The statement before ends here: what stands above it is not about this block.
        if !trimmed.starts_with("//") && (trimmed.ends_with(';') || trimmed == "}") {
            return false;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unsafe_needs_permission_and_a_reason() {
        let block = "fn f() {\n    unsafe { g() }\n}\n";
        assert_eq!(check_file("f", block, false).len(), 1);
        assert_eq!(check_file("f", block, true).len(), 1);
        assert!(check_file("f", "// SAFETY: g has no contract\nlet x = unsafe { g() };\n", true).is_empty());
        assert!(check_file("f", "// SAFETY: sure\nunsafe impl Send for X {}\n", true).is_empty());
        assert_eq!(check_file("f", "// SAFETY: about a\na();\nunsafe { b() }\n", true).len(), 1);
    }

    #[test]
    fn words_and_texts_are_no_unsafe_code() {
        for text in
            ["// unsafe {", "let s = \"unsafe { x }\";", "#![allow(unsafe_code)]", "pub unsafe fn f();"]
        {
            assert!(check_file("f", text, false).is_empty(), "{text}");
        }
    }

    #[test]
    fn long_files_are_found() {
        assert_eq!(check_file("f", &"x\n".repeat(MAX_LINES + 1), false).len(), 1);
    }
}
