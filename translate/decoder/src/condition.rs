//! Which features an instruction asks for: expressions over feature names.

use crate::error::{Error, Place};

/// Features that one question about conditions may involve: it is answered by trying every combination.
const MAX_FEATURES: usize = 14;

/// An expression over features, by their index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Condition {
    Always,
    Feature(usize),
    Not(Box<Condition>),
    All(Vec<Condition>),
    Any(Vec<Condition>),
}

impl Condition {
    /// Both must hold.
    pub(crate) fn and(self, other: Condition) -> Condition {
        match (self, other) {
            (Condition::Always, other) => other,
            (this, Condition::Always) => this,
            (this, other) if this == other => this,
            (this, other) => Condition::All(vec![this, other]),
        }
    }

    /// Evaluates for a set of features.
    pub(crate) fn holds(&self, has: &dyn Fn(usize) -> bool) -> bool {
        match self {
            Condition::Always => true,
            Condition::Feature(feature) => has(*feature),
            Condition::Not(inner) => !inner.holds(has),
            Condition::All(parts) => parts.iter().all(|part| part.holds(has)),
            Condition::Any(parts) => parts.iter().any(|part| part.holds(has)),
        }
    }

    fn collect(&self, features: &mut Vec<usize>) {
        match self {
            Condition::Always => {}
            Condition::Feature(feature) if !features.contains(feature) => features.push(*feature),
            Condition::Feature(_) => {}
            Condition::Not(inner) => inner.collect(features),
            Condition::All(parts) | Condition::Any(parts) => parts.iter().for_each(|p| p.collect(features)),
        }
    }
}

/// What is known of all features: sets of which a processor has at most one.
#[derive(Default)]
pub(crate) struct Exclusions(pub(crate) Vec<Vec<usize>>);

impl Exclusions {
    /// True if some processor has `this` but not `that`.
    pub(crate) fn possible(&self, place: &Place, this: &Condition, that: &Condition) -> Result<bool, Error> {
        let mut features = Vec::new();
        this.collect(&mut features);
        that.collect(&mut features);
        if features.len() > MAX_FEATURES {
            return Err(Error::new(
                place,
                format!(
                    "the conditions compared here name {} features; {MAX_FEATURES} are the most",
                    features.len()
                ),
            ));
        }
        Ok((0..1u32 << features.len()).any(|chosen| {
            let has =
                |f: usize| features.iter().position(|x| *x == f).is_some_and(|at| chosen >> at & 1 == 1);
            let consistent = self.0.iter().all(|set| set.iter().filter(|f| has(**f)).count() <= 1);
            consistent && this.holds(&has) && !that.holds(&has)
        }))
    }

    /// True if some processor has both.
    pub(crate) fn together(&self, place: &Place, this: &Condition, that: &Condition) -> Result<bool, Error> {
        self.possible(place, this, &Condition::Not(Box::new(that.clone())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exclusive_features_never_meet() {
        let place = Place { file: "t".into(), line: 1 };
        let (a, b) = (Condition::Feature(0), Condition::Feature(1));
        let free = Exclusions::default();
        let apart = Exclusions(vec![vec![0, 1]]);
        assert!(free.together(&place, &a, &b).unwrap());
        assert!(!apart.together(&place, &a, &b).unwrap());
        assert!(!free.possible(&place, &a.clone().and(b.clone()), &a).unwrap());
        assert!(free.possible(&place, &Condition::Any(vec![a.clone(), b]), &a).unwrap());
    }
}
