//! Medians, means and ratios.

/// The middle value; the mean of the two in the middle of an even number. Zero for none.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => 0.0,
        n if n % 2 == 1 => sorted[n / 2],
        n => (sorted[n / 2 - 1] + sorted[n / 2]) / 2.0,
    }
}

/// The geometric mean; zero for none.
pub fn geometric_mean(values: &[f64]) -> f64 {
    if values.is_empty() {
        return 0.0;
    }
    (values.iter().map(|v| v.ln()).sum::<f64>() / values.len() as f64).exp()
}

/// How many times faster than the peer: the ratio of the medians, and the least and greatest of the single rounds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ratio {
    /// Peer's median over ours.
    pub median: f64,
    /// Least of one round.
    pub least: f64,
    /// Greatest of one round.
    pub greatest: f64,
}

impl Ratio {
    /// From our and the peer's seconds, round by round.
    pub fn new(ours: &[f64], peer: &[f64]) -> Self {
        let single = || ours.iter().zip(peer).map(|(o, p)| p / o);
        Self {
            median: median(peer) / median(ours),
            least: single().fold(f64::INFINITY, f64::min),
            greatest: single().fold(0.0, f64::max),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn middles_and_means() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!((geometric_mean(&[1.0, 4.0]) - 2.0).abs() < 1e-12);
    }

    #[test]
    fn a_ratio_above_one_means_faster() {
        let r = Ratio::new(&[1.0, 2.0, 1.0], &[3.0, 3.0, 4.0]);
        assert_eq!(r, Ratio { median: 3.0, least: 1.5, greatest: 4.0 });
    }
}
