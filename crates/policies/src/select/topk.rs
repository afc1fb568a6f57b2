//! Ranking by score, in one total order: higher scores first, of equal scores the lower index first.

use pimattn_kv::linalg;

/// A score and its index as one integer; a higher rank comes first in the order. −0 equals 0, and the order of NaN is
/// total but without meaning.
#[inline]
pub fn rank(score: f32, index: u32) -> u64 {
    u64::from(key(score) as u32 ^ 1 << 31) << 32 | u64::from(!index)
}

/// An integer that is larger where the score is higher.
#[inline(always)]
fn key(score: f32) -> i32 {
    // Adding 0 turns −0 into 0. Flipping all bits of negative numbers but the sign makes the order of the bits that of
    // the numbers.
    let bits = (score + 0.0).to_bits() as i32;
    bits ^ ((bits >> 31) as u32 >> 1) as i32
}

/// A score that has this [`key`].
fn score(key: i32) -> f32 {
    f32::from_bits((key ^ ((key >> 31) as u32 >> 1) as i32) as u32)
}

/// The index inside a rank.
#[inline]
pub fn index(rank: u64) -> u32 {
    !(rank as u32)
}

/// Scores in a sample.
const SAMPLE: usize = 512;

/// Finds the best of many scores.
#[derive(Debug, Clone, Default)]
pub struct TopK {
    ranks: Vec<u64>,
    sample: Vec<i32>,
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
        self.gather(scores, k);
        let place = self.ranks.len() - k;
        *self.ranks.select_nth_unstable(place).1
    }

    /// Adds the indices of the `k` best scores to `out`, ascending; all when there are no more.
    pub fn best(&mut self, scores: &[f32], k: usize, out: &mut Vec<u32>) {
        let k = k.min(scores.len());
        if k == 0 {
            return;
        }
        let first = out.len();
        out.extend(self.best_ranks(scores, k).iter().map(|rank| index(*rank)));
        out[first..].sort_unstable();
    }

    /// Ranks of the `k` best scores, in no order; `k` is at least 1 and at most their number.
    pub fn best_ranks(&mut self, scores: &[f32], k: usize) -> &[u64] {
        self.gather(scores, k);
        let place = self.ranks.len() - k;
        self.ranks.select_nth_unstable(place);
        &self.ranks[place..]
    }

    /// Gathers ranks among which are the `k` best, `k` being at least 1 and at most their number: of many scores, those
    /// that reach what a sample suggests.
    fn gather(&mut self, scores: &[f32], k: usize) {
        self.ranks.clear();
        let step = scores.len() / SAMPLE;
        let expected = k * SAMPLE / scores.len();
        // Three standard deviations more, so that the guess is rarely too high.
        let place = expected + 3 * expected.isqrt() + 4;
        if step >= 4 && place < SAMPLE / 2 {
            self.sample.clear();
            self.sample.extend(scores.iter().step_by(step).map(|score| key(*score)));
            let place = self.sample.len() - place;
            let limit = *self.sample.select_nth_unstable(place).1;
            linalg::reaching(scores, |_| score(limit), |i| self.ranks.push(rank(scores[i], i as u32)));
            if self.ranks.len() >= k {
                return;
            }
            self.ranks.clear();
        }
        self.ranks.extend(scores.iter().zip(0..).map(|(score, i)| rank(*score, i)));
    }

    /// All indices into `scores`, the best first. They are ranked as they are asked for: the first few of many cost little.
    pub fn sorted(&mut self, scores: &[f32]) -> impl Iterator<Item = u32> + '_ {
        self.ranks.clear();
        self.ranks.extend(scores.iter().zip(0..).map(|(score, i)| rank(*score, i)));
        Descending { ranks: &mut self.ranks, sorted: 0, portion: SAMPLE / 8 }
    }
}

/// Takes ranks from the highest to the lowest.
struct Descending<'a> {
    /// Those left; the highest last, as far as they are sorted.
    ranks: &'a mut [u64],
    sorted: usize,
    /// How many to sort next.
    portion: usize,
}

impl Iterator for Descending<'_> {
    type Item = u32;

    fn next(&mut self) -> Option<u32> {
        if self.sorted == 0 {
            let rest = self.ranks.len().saturating_sub(self.portion);
            if rest > 0 {
                self.ranks.select_nth_unstable(rest);
            }
            self.ranks[rest..].sort_unstable();
            self.sorted = self.ranks.len() - rest;
            self.portion *= 4;
        }
        let (last, left) = std::mem::take(&mut self.ranks).split_last_mut()?;
        (self.ranks, self.sorted) = (left, self.sorted - 1);
        Some(index(*last))
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
            prop_assert!(reached.eq(best.iter().copied()));
            let mut out = vec![7];
            topk.best(&scores, k, &mut out);
            prop_assert!(out[1..].iter().map(|i| *i as usize).eq(best));
        }

        #[test]
        fn finds_the_best_of_many_whatever_the_sample_says(
            len in 2048usize..6000,
            k in 1usize..1200,
            period in 1usize..20,
            levels in 1u32..2000,
            seed in any::<u32>(),
        ) {
            // Periodic scores: the sample may see only high ones or only low ones.
            let score = |i: usize| {
                let noise = (i as u32 ^ seed).wrapping_mul(0x9E37_79B9) >> 16;
                (noise % levels) as f32 - if i.is_multiple_of(period) { 500.0 } else { 0.0 }
            };
            let scores: Vec<f32> = (0..len).map(score).collect();
            let mut expected: Vec<u32> = testing::ranking(&scores).into_iter().take(k).map(|i| i as u32).collect();
            expected.sort_unstable();
            let (mut topk, mut out) = (TopK::default(), Vec::new());
            topk.best(&scores, k, &mut out);
            let all = testing::ranking(&scores);
            prop_assert!(topk.sorted(&scores).eq(all.iter().map(|i| *i as u32)));
            let threshold = topk.threshold(&scores, k);
            prop_assert!((0..).zip(&scores).filter(|(i, s)| rank(**s, *i) >= threshold).map(|(i, _)| i).eq(expected.iter().copied()));
            prop_assert_eq!(out, expected);
        }
    }
}
