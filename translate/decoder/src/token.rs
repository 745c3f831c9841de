//! Lines of a table: comments and continuations taken away, alternatives written out, cut into tokens.

use crate::error::{Error, Place};

/// Lines that one line's alternatives may become.
const MAX_ALTERNATIVES: usize = 256;

/// A piece of a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Token {
    /// A name, a number or a part of a picture.
    Word(String),
    /// The inside of a quoted text.
    Text(String),
    /// An operator or a bracket.
    Mark(&'static str),
}

/// Operators; those that begin like others stand first.
const MARKS: &[&str] = &["!=", "==", "<<", ":", "=", ",", "(", ")", "{", "}", "|", "&", "!", "+", "-"];

/// Joins lines that end in a backslash and takes comments away; returns the lines that say something.
pub(crate) fn logical_lines(text: &str) -> Vec<(usize, String)> {
    let mut lines: Vec<(usize, String)> = Vec::new();
    let mut open: Option<(usize, String)> = None;
    for (index, line) in text.lines().enumerate() {
        let line = strip_comment(line).trim();
        let (number, mut joined) = open.take().unwrap_or((index + 1, String::new()));
        let continued = line.strip_suffix('\\');
        joined.push_str(continued.unwrap_or(line));
        if continued.is_some() {
            joined.push(' ');
            open = Some((number, joined));
        } else if !joined.trim().is_empty() {
            lines.push((number, joined));
        }
    }
    lines.extend(open.filter(|(_, line)| !line.trim().is_empty()));
    lines
}

fn strip_comment(line: &str) -> &str {
    let mut quoted = false;
    for (at, c) in line.char_indices() {
        match c {
            '"' => quoted = !quoted,
            '#' if !quoted => return &line[..at],
            _ => {}
        }
    }
    line
}

/// Writes out `{a|b|c}`: the line once for each alternative; all lists of a line advance together.
pub(crate) fn alternatives(place: &Place, line: &str) -> Result<Vec<String>, Error> {
    let lists = lists_of(line);
    let Some((_, _, first)) = lists.first() else { return Ok(vec![line.to_owned()]) };
    let count = first.len();
    if let Some((_, _, other)) = lists.iter().find(|(_, _, items)| items.len() != count) {
        return Err(Error::new(
            place,
            format!(
                "lists of one line need as many items each: {{{}}} has {count}, {{{}}} has {}",
                first.join("|"),
                other.join("|"),
                other.len()
            ),
        ));
    }
    if count > MAX_ALTERNATIVES {
        return Err(Error::new(place, format!("a list has {count} items; {MAX_ALTERNATIVES} are the most")));
    }
    let write_out = |item: usize| {
        let mut written = String::new();
        let mut from = 0;
        for (start, end, items) in &lists {
            written.push_str(&line[from..*start]);
            written.push_str(items[item].trim());
            from = *end;
        }
        written + &line[from..]
    };
    Ok((0..count).map(write_out).collect())
}

/// Start, end and items of each list. Braces without a bar are not lists but fields in a text.
fn lists_of(line: &str) -> Vec<(usize, usize, Vec<&str>)> {
    let mut lists = Vec::new();
    let mut from = 0;
    while let Some(start) = line[from..].find('{').map(|at| from + at) {
        let Some(end) = line[start..].find('}').map(|at| start + at + 1) else { break };
        let inside = &line[start + 1..end - 1];
        if inside.contains('|') {
            lists.push((start, end, inside.split('|').collect()));
        }
        from = end;
    }
    lists
}

/// Cuts a line into tokens.
pub(crate) fn tokens(place: &Place, line: &str) -> Result<Vec<Token>, Error> {
    let mut found = Vec::new();
    let mut rest = line.trim_start();
    while let Some(c) = rest.chars().next() {
        if is_word(c) {
            let end = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
            found.push(Token::Word(rest[..end].to_owned()));
            rest = &rest[end..];
        } else if c == '"' {
            let Some(end) = rest[1..].find('"') else {
                return Err(Error::new(place, "a quoted text does not end on its line"));
            };
            found.push(Token::Text(rest[1..=end].to_owned()));
            rest = &rest[end + 2..];
        } else if let Some(mark) = MARKS.iter().find(|mark| rest.starts_with(**mark)) {
            found.push(Token::Mark(mark));
            rest = &rest[mark.len()..];
        } else {
            return Err(Error::new(place, format!("{c:?} means nothing in a table")));
        }
        rest = rest.trim_start();
    }
    Ok(found)
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || c == '.'
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place() -> Place {
        Place { file: "t".into(), line: 1 }
    }

    #[test]
    fn comments_and_continuations_are_taken_away() {
        let text = "# all\nadd : 01 \\\n  r \"#\" # why\n\nx";
        assert_eq!(logical_lines(text), [(2, "add : 01  r \"#\"".to_owned()), (5, "x".to_owned())]);
    }

    #[test]
    fn lists_advance_together_and_fields_are_no_lists() {
        let lines = alternatives(&place(), "v.{vv|vx} : {000|100} \"{vd}\"").unwrap();
        assert_eq!(lines, ["v.vv : 000 \"{vd}\"", "v.vx : 100 \"{vd}\""]);
    }

    #[test]
    fn lists_of_unequal_length_are_refused() {
        let error = alternatives(&place(), "{a|b} {c|d|e}").unwrap_err();
        assert_eq!(
            error.to_string(),
            "t:1: lists of one line need as many items each: {a|b} has 2, {c|d|e} has 3"
        );
    }

    #[test]
    fn what_is_no_token_is_refused() {
        assert_eq!(tokens(&place(), "a ; b").unwrap_err().to_string(), "t:1: ';' means nothing in a table");
        assert_eq!(
            tokens(&place(), "a \"b").unwrap_err().to_string(),
            "t:1: a quoted text does not end on its line"
        );
    }
}
