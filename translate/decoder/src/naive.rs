//! Decoding by the definition, one pattern after another, and by the tree without generated code: tests compare them.

use crate::table::{Compared, Limit, Pattern, Table};
use crate::tree::Node;

fn satisfied(table: &Table, limit: &Limit, word: u64) -> bool {
    let value = |field: &usize| table.fields[*field].value(word);
    limit.tests.iter().any(|test| match test {
        Compared::In(field, list) => list.iter().any(|v| i128::from(*v) == value(field)),
        Compared::NotIn(field, list) => list.iter().all(|v| i128::from(*v) != value(field)),
        Compared::Same(a, b) => value(a) == value(b),
        Compared::Differs(a, b) => value(a) != value(b),
    })
}

fn takes(table: &Table, pattern: &Pattern, word: u64, has: &dyn Fn(usize) -> bool) -> bool {
    pattern.limits.iter().all(|limit| satisfied(table, limit, word)) && pattern.condition.holds(has)
}

/// The first of `order` that takes the word.
pub(crate) fn by_definition(
    table: &Table,
    order: &[usize],
    width: u32,
    word: u64,
    has: &dyn Fn(usize) -> bool,
) -> Option<usize> {
    order.iter().copied().find(|index| {
        let pattern = &table.patterns[*index];
        pattern.width == width && pattern.fixed.contains(word) && takes(table, pattern, word, has)
    })
}

/// What the tree says.
pub(crate) fn by_tree(table: &Table, node: &Node, word: u64, has: &dyn Fn(usize) -> bool) -> Option<usize> {
    match node {
        Node::Try(attempts) => attempts.iter().find_map(|attempt| {
            let pattern = &table.patterns[attempt.pattern];
            (attempt.left.contains(word) && takes(table, pattern, word, has)).then_some(attempt.pattern)
        }),
        Node::Switch { low, bits, arms } => {
            let value = word >> low & crate::table::ones(*bits);
            let arm = arms.iter().find(|(values, _)| values.contains(&value))?;
            by_tree(table, &arm.1, word, has)
        }
    }
}
