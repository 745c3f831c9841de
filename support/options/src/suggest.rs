//! "Did you mean …?": the nearest known word.

/// Words longer than this are not compared: a hint for them helps nobody, and the work is quadratic.
const MAX_LEN: usize = 64;

/// The candidate nearest to `word` by edits (insert, delete, replace, swap neighbours), if it is near enough to be
/// what was meant: at most a third of the word's letters differ, and at least one edit is allowed.
pub fn closest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word: Vec<char> = word.chars().take(MAX_LEN + 1).collect();
    if word.len() > MAX_LEN {
        return None;
    }
    let limit = (word.len() / 3).max(1);
    candidates
        .into_iter()
        .filter(|c| c.len() <= MAX_LEN)
        .map(|c| (distance(&word, &c.chars().collect::<Vec<_>>()), c))
        .filter(|(d, c)| *d <= limit && *d < c.len().max(word.len()))
        .min_by_key(|(d, _)| *d)
        .map(|(_, c)| c)
}

/// Damerau–Levenshtein distance in its "optimal string alignment" form.
fn distance(a: &[char], b: &[char]) -> usize {
    let mut rows: [Vec<usize>; 3] = [vec![0; b.len() + 1], (0..=b.len()).collect(), vec![0; b.len() + 1]];
    for i in 1..=a.len() {
        let [before, last, row] = &mut rows;
        row[0] = i;
        for j in 1..=b.len() {
            let substitution = last[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            row[j] = substitution.min(last[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                row[j] = row[j].min(before[j - 2] + 1);
            }
        }
        rows.rotate_left(1);
    }
    rows[1][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_what_was_meant() {
        let keys = ["sockets", "cores", "threads", "maxcpus"];
        assert_eq!(closest("socket", keys), Some("sockets"));
        assert_eq!(closest("corse", keys), Some("cores"));
        assert_eq!(closest("maxcpu", keys), Some("maxcpus"));
        assert_eq!(closest("banana", keys), None);
        assert_eq!(closest("x", ["y"]), None);
    }
}
