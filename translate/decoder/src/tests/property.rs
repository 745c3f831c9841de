//! The tree says of every word what the table's definition says.

use proptest::prelude::*;

use crate::build::{Source, checked};
use crate::naive::{by_definition, by_tree};
use crate::tree::build;

/// A picture in which most bits of the upper half are fixed.
fn picture() -> impl Strategy<Value = String> {
    let upper = proptest::collection::vec(prop_oneof![4 => Just('0'), 4 => Just('1'), 1 => Just('x')], 6);
    let lower = proptest::collection::vec(prop_oneof![1 => Just('0'), 1 => Just('1'), 2 => Just('x')], 6);
    (upper, lower).prop_map(|(upper, lower)| upper.into_iter().chain(lower).chain("....".chars()).collect())
}

fn rest() -> impl Strategy<Value = &'static str> {
    prop_oneof![
        6 => Just(""),
        1 => Just(" if a"),
        1 => Just(" if !a & b"),
        1 => Just(" if a | b"),
        1 => Just(" where r != 3"),
        1 => Just(" where r in 1 2 7"),
        1 => Just(" where low != high"),
        1 => Just(" where low == high or r == 1"),
    ]
}

/// A table in which earlier lines go before later ones, without the lines that are never reached.
fn table(lines: &[(String, &str)]) -> String {
    let mut lines: Vec<String> = lines.iter().map(|(picture, rest)| format!("{picture} f{rest}")).collect();
    loop {
        let named =
            lines.iter().enumerate().map(|(index, line)| format!("i{index} : {line}\n")).collect::<String>();
        let text = format!(
            "feature a\nfeature b\nwidth 16\nfield r = 3:0\nfield low = 1:0\nfield high = 3:2\nformat f(r, low, high) \
             \"@ {{r}}\"\nfirst {{\n{named}}}\n"
        );
        match checked(&[Source { name: "t", text: &text }]) {
            Ok(_) => return text,
            Err(errors) => {
                assert!(errors.0.iter().all(|e| e.message.contains("never reached")), "{errors}");
                let unreached: Vec<usize> = errors.0.iter().map(|e| e.line - 9).collect();
                let mut index = 0;
                lines.retain(|_| {
                    index += 1;
                    !unreached.contains(&(index - 1))
                });
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn the_tree_agrees_with_the_definition(
        lines in proptest::collection::vec((picture(), rest()), 1..40),
        words in proptest::collection::vec(any::<u16>(), 300),
        features in 0usize..4,
    ) {
        let text = table(&lines);
        let (table, precedence) = checked(&[Source { name: "t", text: &text }]).expect("it was in order before");
        let tree = build(&table.patterns, &precedence.order, 16);
        let has = |feature: usize| features >> feature & 1 == 1;
        // Words of instructions, so that not nearly all are none; words from anywhere.
        let near = words.iter().enumerate().map(|(index, word)| {
            let fixed = table.patterns[index % table.patterns.len()].fixed;
            u64::from(*word) & !fixed.mask | fixed.value
        });
        for word in near.chain(words.iter().map(|word| u64::from(*word))) {
            let wanted = by_definition(&table, &precedence.order, 16, word, &has);
            prop_assert_eq!(by_tree(&table, &tree, word, &has), wanted, "{:016b} in\n{}", word, text);
        }
    }
}
