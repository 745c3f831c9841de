//! The decision tree as functions.

use crate::check::Precedence;
use crate::condition::Condition;
use crate::emit::types::word_type;
use crate::emit::{Output, camel, method};
use crate::table::{Compared, Limit, Table};
use crate::tree::{Attempt, Node, build};

/// A subtree with more instructions than this is a function of its own.
const LARGE: usize = 20;

pub(super) fn decoders(table: &Table, precedence: &Precedence, out: &mut Output) {
    let mut widths: Vec<u32> = table.patterns.iter().map(|p| p.width).collect();
    widths.sort_unstable();
    widths.dedup();
    for width in widths {
        let tree = build(&table.patterns, &precedence.order, width);
        let mut writer = Writer { table, width, later: Vec::new() };
        out.line("");
        out.line(format!(
            "/// The instruction that a word of {width} bits is to a processor with these features."
        ));
        writer.function("pub fn", &tree, format!("decode{width}"), out);
        while let Some((name, node)) = writer.later.pop() {
            out.line("");
            writer.function("fn", &node, name, out);
        }
    }
}

struct Writer<'a> {
    table: &'a Table,
    width: u32,
    /// Functions still to be written.
    later: Vec<(String, Node)>,
}

impl Writer<'_> {
    fn function(&mut self, keyword: &str, node: &Node, name: String, out: &mut Output) {
        let mut body = Output { depth: 1, ..Output::default() };
        if !self.node(node, &name, &mut body) {
            body.line("None");
        }
        // What the body does not look at has an underscore.
        let parameter =
            |name: &str| if body.text.contains(name) { name.to_owned() } else { format!("_{name}") };
        out.line(format!(
            "{keyword} {name}({}: {}, {}: &Features) -> Option<Instruction> {{",
            parameter("word"),
            word_type(self.width),
            parameter("features"),
        ));
        out.text.push_str(&body.text);
        out.line("}");
    }

    /// Statements that return the instruction, if there is one; true if they always return.
    fn node(&mut self, node: &Node, name: &str, out: &mut Output) -> bool {
        match node {
            Node::Try(attempts) => {
                let mut certain = false;
                for attempt in attempts {
                    let (conditions, value) = self.attempt(attempt);
                    certain = conditions.is_empty();
                    if certain {
                        out.line(format!("return {value};"));
                    } else {
                        out.line(format!("if {conditions} {{"));
                        out.line(format!("return {value};"));
                        out.line("}");
                    }
                }
                certain
            }
            Node::Switch { low, bits, arms } => {
                let shifted = if *low == 0 { "word".to_owned() } else { format!("(word >> {low})") };
                out.line(format!("match {shifted} & {:#b} {{", crate::table::ones(*bits)));
                for (values, node) in arms {
                    self.arm(values, *bits, node, name, out);
                }
                out.lines(&["_ => {}", "}"]);
                false
            }
        }
    }

    fn arm(&mut self, values: &[u64], bits: u32, node: &Node, name: &str, out: &mut Output) {
        let digits = bits as usize;
        let listed: Vec<String> = values.iter().map(|value| format!("0b{value:0digits$b}")).collect();
        let listed = listed.join(" | ");
        // A leaf with one instruction is one line.
        if let Node::Try(attempts) = node
            && let [attempt] = attempts.as_slice()
        {
            let (conditions, value) = self.attempt(attempt);
            let guard = if conditions.is_empty() { String::new() } else { format!(" if {conditions}") };
            out.line(format!("{listed}{guard} => return {value},"));
            return;
        }
        if node.size() > LARGE {
            let inner = format!("{name}_{:0digits$b}", values[0]);
            out.line(format!("{listed} => return {inner}(word, features),"));
            self.later.push((inner, node.clone()));
        } else {
            out.line(format!("{listed} => {{"));
            self.node(node, &format!("{name}_{:0digits$b}", values[0]), out);
            out.line("}");
        }
    }

    /// What must hold, or nothing, and the instruction.
    fn attempt(&self, attempt: &Attempt) -> (String, String) {
        let pattern = &self.table.patterns[attempt.pattern];
        let format = &self.table.formats[pattern.format];
        let value = if format.fields.is_empty() {
            format!("Some(Instruction::{})", camel(&pattern.name))
        } else {
            format!("Some(Instruction::{}({}::read(word)))", camel(&pattern.name), camel(&format.name))
        };
        let mut conditions = Vec::new();
        if attempt.left.mask != 0 {
            let digits = self.width as usize / 4 + 2;
            conditions.push(format!(
                "word & {:#0digits$x} == {:#0digits$x}",
                attempt.left.mask, attempt.left.value
            ));
        }
        conditions.extend(pattern.limits.iter().map(|limit| self.limit(limit)));
        if pattern.condition != Condition::Always {
            let outer = if conditions.is_empty() { "" } else { "&&" };
            conditions.push(self.condition(&pattern.condition, outer));
        }
        (conditions.join(" && "), value)
    }

    /// `outer` is the operator around the condition, if there is one.
    fn condition(&self, condition: &Condition, outer: &str) -> String {
        let join = |parts: &[Condition], operator: &str, weaker: [&str; 2]| {
            let parts = parts.iter().map(|part| self.condition(part, operator)).collect::<Vec<_>>();
            let joined = parts.join(&format!(" {operator} "));
            if weaker.contains(&outer) { format!("({joined})") } else { joined }
        };
        match condition {
            Condition::Always => "true".to_owned(),
            Condition::Feature(feature) => {
                format!("features.has(Feature::{})", camel(&self.table.features[*feature].name))
            }
            Condition::Not(inner) => format!("!{}", self.condition(inner, "!")),
            Condition::All(parts) => join(parts, "&&", ["||", "!"]),
            Condition::Any(parts) => join(parts, "||", ["&&", "!"]),
        }
    }

    fn limit(&self, limit: &Limit) -> String {
        let tests: Vec<String> = limit.tests.iter().map(|test| self.test(test)).collect();
        if tests.len() == 1 { tests.concat() } else { format!("({})", tests.join(" || ")) }
    }

    fn test(&self, test: &Compared) -> String {
        let read = |field: &usize| format!("read_{}(word)", method(&self.table.fields[*field].name));
        match test {
            Compared::In(field, values) if values.len() == 1 => format!("{} == {}", read(field), values[0]),
            Compared::NotIn(field, values) if values.len() == 1 => {
                format!("{} != {}", read(field), values[0])
            }
            Compared::In(field, values) => format!("matches!({}, {})", read(field), alternatives(values)),
            Compared::NotIn(field, values) => format!("!matches!({}, {})", read(field), alternatives(values)),
            Compared::Same(a, b) => format!("{} == {}", read(a), read(b)),
            Compared::Differs(a, b) => format!("{} != {}", read(a), read(b)),
        }
    }
}

/// A list as a pattern of `matches!`, with ranges where numbers follow one another.
fn alternatives(values: &[i64]) -> String {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    sorted.dedup();
    let runs = sorted.chunk_by(|a, b| a + 1 == *b).map(|run| match run {
        [only] => only.to_string(),
        [a, b] => format!("{a} | {b}"),
        _ => format!("{}..={}", run[0], run[run.len() - 1]),
    });
    runs.collect::<Vec<_>>().join(" | ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_a_row_are_a_range() {
        assert_eq!(alternatives(&[7, 1, 3, 2, 9, 10, 1]), "1..=3 | 7 | 9 | 10");
    }
}
