//! Ranking by score, in one total order: higher scores first, of equal scores the lower index first.

/// A score and its index as one integer; a higher rank comes first in the order. −0 equals 0, and the order of NaN is
/// total but without meaning.
#[inline]
pub fn rank(score: f32, index: u32) -> u64 {
    // Adding 0 turns −0 into 0. Flipping all bits of negative numbers and the sign bit of the others makes the order of
    // the bits that of the numbers.
    let bits = (score + 0.0).to_bits();
    let ordered = bits ^ ((bits as i32 >> 31) as u32 | 0x8000_0000);
    u64::from(ordered) << 32 | u64::from(!index)
}

/// The index inside a rank.
#[inline]
pub fn index(rank: u64) -> u32 {
    !(rank as u32)
}

/// Finds the best of many scores.
#[derive(Debug, Clone, Default)]
pub struct TopK {
    ranks: Vec<u64>,
}

impl TopK {
    /// The lowest rank among the `k` best scores: `i` is one of the `k` best if `rank(scores[i], i)` reaches it. All do
    /// when there are no more than `k`; none does when `k` is 0.
    pub fn threshold(&mut self, scores: &[f32], k: usize) -> u64 {
        if k == 0 {
            return u64::MAX;
        }
        if k >= scores.len() {
            return 0;
        }
        self.ranks.clear();
        self.ranks.extend(scores.iter().zip(0..).map(|(score, i)| rank(*score, i)));
        let place = self.ranks.len() - k;
        *self.ranks.select_nth_unstable(place).1
    }

    /// All indices into `scores`, the best first.
    pub fn sorted(&mut self, scores: &[f32]) -> impl Iterator<Item = u32> + '_ {
        self.ranks.clear();
        self.ranks.extend(scores.iter().zip(0..).map(|(score, i)| rank(*score, i)));
        self.ranks.sort_unstable();
        self.ranks.iter().rev().map(|rank| index(*rank))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing;
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn agrees_with_a_stable_sort(
            scores in proptest::collection::vec(prop_oneof![-2f32..2.0, Just(0.0), Just(-0.0), Just(-1.5)], 0..60),
            k in 0usize..70,
        ) {
            let expected = testing::ranking(&scores);
            let mut topk = TopK::default();
            prop_assert!(topk.sorted(&scores).eq(expected.iter().map(|i| *i as u32)));
            let threshold = topk.threshold(&scores, k);
            let mut best: Vec<usize> = expected.into_iter().take(k).collect();
            best.sort_unstable();
            let reached = (0..scores.len()).filter(|i| rank(scores[*i], *i as u32) >= threshold);
            prop_assert!(reached.eq(best));
        }
    }
}
