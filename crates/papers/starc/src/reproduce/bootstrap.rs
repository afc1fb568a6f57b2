//! Intervals of a reduction, by the bootstrap.
//!
//! What is measured varies with the layer of the model (or of a dump) and with the seed of a synthetic cache. Both are drawn again, with
//! replacement: first as many layers as there are, then in each drawn layer as many of its caches. Each draw gives a reduction of the
//! sums; the interval has the middle 95 % of them (percentile bootstrap; Efron and Tibshirani, An Introduction to the Bootstrap, 1993,
//! chapters 8 and 13). Policies are set against each other on the same caches, so both sides are drawn together.

/// Draws.
const DRAWS: usize = 2000;
/// The share of the draws that lies within.
const WITHIN: f64 = 0.95;

/// What both sides take on one cache.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PairedCost {
    /// What is drawn first: the layer, of its dump.
    pub layer: usize,
    /// What ours takes.
    pub ours: f64,
    /// What the other takes.
    pub other: f64,
}

/// A reduction with its interval, in percent.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ReductionInterval {
    /// Of the sums over all caches.
    pub percent: f64,
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

fn reduction(ours: f64, other: f64) -> f64 {
    100.0 * (1.0 - ours / other)
}

/// Random numbers, the same at every call (splitmix64; Steele, Lea, Flood, OOPSLA 2014).
struct Draws(u64);

impl Draws {
    /// A number below `n`. The bias of the remainder is below 1e-15 for the counts that occur.
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) % n as u64) as usize
    }
}

/// The reduction of `ours` against the other, and the interval that the bootstrap gives; none without costs.
pub fn interval(costs: &[PairedCost]) -> Option<ReductionInterval> {
    let mut layers: Vec<usize> = costs.iter().map(|c| c.layer).collect();
    layers.sort_unstable();
    layers.dedup();
    if layers.is_empty() {
        return None;
    }
    let of_layer: Vec<Vec<&PairedCost>> =
        layers.iter().map(|layer| costs.iter().filter(|c| c.layer == *layer).collect()).collect();
    let mut draws = Draws(1);
    let mut reductions: Vec<f64> = (0..DRAWS)
        .map(|_| {
            let (mut ours, mut other) = (0.0, 0.0);
            for _ in &of_layer {
                let caches = &of_layer[draws.below(of_layer.len())];
                for _ in caches {
                    let drawn = caches[draws.below(caches.len())];
                    (ours, other) = (ours + drawn.ours, other + drawn.other);
                }
            }
            reduction(ours, other)
        })
        .collect();
    reductions.sort_by(f64::total_cmp);
    // The draw below which a share of them lies.
    let at = |share: f64| reductions[((share * DRAWS as f64) as usize).min(DRAWS - 1)];
    let sum = |of: fn(&PairedCost) -> f64| costs.iter().map(of).sum::<f64>();
    let outside = (1.0 - WITHIN) / 2.0;
    Some(ReductionInterval {
        percent: reduction(sum(|c| c.ours), sum(|c| c.other)),
        low: at(outside),
        high: at(1.0 - outside),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn costs(of: &[(usize, f64, f64)]) -> Vec<PairedCost> {
        of.iter().map(|(layer, ours, other)| PairedCost { layer: *layer, ours: *ours, other: *other }).collect()
    }

    #[test]
    fn caches_that_agree_leave_no_doubt() {
        let found = interval(&costs(&[(2, 3.0, 4.0), (2, 3.0, 4.0), (9, 6.0, 8.0)])).unwrap();
        assert_eq!((found.percent, found.low, found.high), (25.0, 25.0, 25.0));
        assert_eq!(interval(&[]), None);
    }

    /// Two layers of one cache each: a quarter of the draws has the first twice, a quarter the second twice, so that both ends are
    /// those of a layer alone.
    #[test]
    fn two_caches_span_the_interval() {
        let found = interval(&costs(&[(0, 1.0, 2.0), (1, 9.0, 10.0)])).unwrap();
        assert!((found.percent - 100.0 * (1.0 - 10.0 / 12.0)).abs() < 1e-12);
        assert_eq!((found.low, found.high), (reduction(9.0, 10.0), 50.0));
    }

    /// Many layers of equal weight: the interval is close to the normal one, mean plus or minus 1.96 standard errors.
    #[test]
    fn many_layers_give_the_normal_interval() {
        let of: Vec<(usize, f64, f64)> = (0..64).map(|i| (i, 50.0 + (i * 37 % 64) as f64 / 3.2, 100.0)).collect();
        let found = interval(&costs(&of)).unwrap();
        let n = of.len() as f64;
        let mean = of.iter().map(|c| c.1).sum::<f64>() / n;
        let error = (of.iter().map(|c| (c.1 - mean).powi(2)).sum::<f64>() / n / n).sqrt();
        for (end, sign) in [(found.low, -1.0), (found.high, 1.0)] {
            let normal = 100.0 - mean + sign * 1.96 * error;
            assert!((end - normal).abs() < 0.15 * error, "{end} for {normal}, standard error {error}");
        }
    }
}
