//! JSON as QEMU prints it, byte for byte.
//!
//! QEMU keeps an object's members in a hash table of 512 buckets and prints them bucket by bucket, so that the order of
//! keys, though of no meaning, is the same in every run; scripts have come to compare it. The hash is that of the "trivial
//! database" (TDB). Members of one bucket come last-inserted first, which for the few that meet is backwards in the
//! alphabet.

use std::fmt::Write;

use serde_json::{Map, Value};

/// The buckets of QEMU's dictionaries.
const BUCKETS: u32 = 512;

fn bucket(key: &str) -> u32 {
    let mut value = 0x238f_13afu32.wrapping_mul(key.len() as u32);
    for (index, byte) in key.bytes().enumerate() {
        value = value.wrapping_add(u32::from(byte) << (index * 5 % 24));
    }
    1_103_515_243u32.wrapping_mul(value).wrapping_add(12345) % BUCKETS
}

/// An object's members in the order in which QEMU prints them.
pub fn ordered(object: &Map<String, Value>) -> Vec<(&str, &Value)> {
    let mut members: Vec<_> = object.iter().map(|(k, v)| (k.as_str(), v)).collect();
    members.sort_by(|(a, _), (b, _)| bucket(a).cmp(&bucket(b)).then_with(|| b.cmp(a)));
    members
}

fn quote(text: &str, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            ' '..='~' => out.push(c),
            _ => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    let _ = write!(out, "\\u{unit:04X}");
                }
            }
        }
    }
    out.push('"');
}

/// How the text is laid out.
#[derive(Clone, Copy)]
enum Layout {
    /// A member a line, indented by so many levels of four spaces.
    Lines(usize),
    OneLine,
}

impl Layout {
    fn deeper(self) -> Self {
        match self {
            Self::Lines(level) => Self::Lines(level + 1),
            Self::OneLine => Self::OneLine,
        }
    }

    fn line(self, out: &mut String) {
        if let Self::Lines(level) = self {
            out.push('\n');
            out.extend(std::iter::repeat_n("    ", level));
        }
    }

    fn separator(self, first: bool, out: &mut String) {
        if !first {
            out.push_str(if matches!(self, Self::OneLine) { ", " } else { "," });
        }
        self.deeper().line(out);
    }
}

fn render(value: &Value, layout: Layout, out: &mut String) {
    match value {
        Value::String(text) => quote(text, out),
        Value::Array(items) => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                layout.separator(index == 0, out);
                render(item, layout.deeper(), out);
            }
            layout.line(out);
            out.push(']');
        }
        Value::Object(object) => {
            out.push('{');
            for (index, (key, member)) in ordered(object).into_iter().enumerate() {
                layout.separator(index == 0, out);
                quote(key, out);
                out.push_str(": ");
                render(member, layout.deeper(), out);
            }
            layout.line(out);
            out.push('}');
        }
        other => {
            let _ = write!(out, "{other}");
        }
    }
}

/// The text with a member a line.
pub(crate) fn pretty(value: &Value) -> String {
    let mut out = String::new();
    render(value, Layout::Lines(0), &mut out);
    out
}

/// The text in one line, as in `json:{…}` file names.
pub(crate) fn one_line(value: &Value) -> String {
    let mut out = String::new();
    render(value, Layout::OneLine, &mut out);
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn keys_come_in_the_order_observed() {
        let value = json!({
            "filename": "a", "format": "qcow2", "dirty-flag": false, "actual-size": 1, "virtual-size": 2,
            "children": [], "backing-filename-format": "raw", "snapshots": [], "cluster-size": 3,
            "format-specific": {}, "full-backing-filename": "b", "backing-filename": "b", "encrypted": true,
        });
        let keys: Vec<&str> = ordered(value.as_object().unwrap()).into_iter().map(|(k, _)| k).collect();
        assert_eq!(
            keys,
            [
                "children",
                "backing-filename-format",
                "snapshots",
                "virtual-size",
                "filename",
                "cluster-size",
                "format",
                "actual-size",
                "format-specific",
                "full-backing-filename",
                "encrypted",
                "backing-filename",
                "dirty-flag",
            ]
        );
    }

    #[test]
    fn empty_collections_take_two_lines() {
        assert_eq!(
            pretty(&json!({"a": {}, "b": [1]})),
            "{\n    \"a\": {\n    },\n    \"b\": [\n        1\n    ]\n}"
        );
        assert_eq!(one_line(&json!({"a": {"b": "\u{e4}\""}})), r#"{"a": {"b": "\u00E4\""}}"#);
    }
}
