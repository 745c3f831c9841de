//! Rust names for the table's names.

/// `c.addi4spn` → `CAddi4spn`.
pub(crate) fn camel(name: &str) -> String {
    let parts = name.split(['.', '_']).filter(|part| !part.is_empty());
    let upper = parts.map(|part| {
        let mut letters = part.chars();
        letters.next().map(|first| first.to_ascii_uppercase()).into_iter().chain(letters).collect::<String>()
    });
    guarded(upper.collect())
}

/// `c.addi4spn` → `c_addi4spn`.
pub(crate) fn method(name: &str) -> String {
    guarded(name.replace('.', "_").to_ascii_lowercase())
}

fn guarded(name: String) -> String {
    const KEYWORDS: &[&str] = &[
        "as", "async", "await", "box", "break", "const", "continue", "crate", "do", "dyn", "else", "enum",
        "extern", "false", "final", "fn", "for", "gen", "if", "impl", "in", "let", "loop", "macro", "match",
        "mod", "move", "mut", "override", "priv", "pub", "ref", "return", "self", "Self", "static", "struct",
        "super", "trait", "true", "try", "type", "typeof", "union", "unsafe", "unsized", "use", "virtual",
        "where", "while", "yield",
    ];
    if KEYWORDS.contains(&name.as_str()) || name.starts_with(|c: char| c.is_ascii_digit()) || name.is_empty()
    {
        format!("_{name}")
    } else {
        name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_rust_names() {
        assert_eq!(camel("c.addi4spn"), "CAddi4spn");
        assert_eq!(camel("2.op"), "_2Op");
        assert_eq!(method("fence.i"), "fence_i");
        assert_eq!(method("return"), "_return");
    }
}
