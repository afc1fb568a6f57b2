//! The exponential and the weights of a softmax, the same bits on every processor, many at a time.
//!
//! The exponential of the C library is neither: platforms differ in its last bit, and it takes one number at a time.

use super::{LANES, fold, simd};

/// ln 2 in two parts: the first has so few bits that a product with a small integer is exact.
const LN2_HIGH: f32 = 0.693_359_4;
const LN2_LOW: f32 = (std::f64::consts::LN_2 - LN2_HIGH as f64) as f32;
/// Added to a small number, it rounds it to an integer, which the lowest bits of the sum then hold.
const ROUND: f32 = 12_582_912.0;
/// Below, e^x is taken as 0: the smallest exponent that is not subnormal.
const LOWEST: f32 = -87.0;

/// e^x for `x <= 0`, within 2e-7 of it relatively; 0 below -87.
#[inline(always)]
fn exp(x: f32) -> f32 {
    let clamped = if x > LOWEST { x } else { LOWEST };
    let rounded = clamped * std::f32::consts::LOG2_E + ROUND;
    let n = rounded - ROUND;
    let r = clamped - n * LN2_HIGH - n * LN2_LOW;
    // The exponential series; |r| <= ln 2 / 2, so that its eighth term is below 6e-9.
    let mut series = 1.0 / 5040.0;
    for term in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        series = series * r + term;
    }
    let power = f32::from_bits(rounded.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127) << 23);
    if x > LOWEST { series * power } else { 0.0 }
}

/// The highest score; -∞ of none. Part of `simd` functions.
#[inline(always)]
pub fn highest(scores: &[f32]) -> f32 {
    let (chunks, tail) = scores.as_chunks::<LANES>();
    let mut highest = [f32::NEG_INFINITY; LANES];
    for chunk in chunks {
        for l in 0..LANES {
            highest[l] = if chunk[l] > highest[l] { chunk[l] } else { highest[l] };
        }
    }
    highest.iter().chain(tail).copied().fold(f32::NEG_INFINITY, f32::max)
}

simd! {
    /// `exp(scale · (score − highest score))` of each score into `out`, and their sum, lane-ordered as
    /// [`dot`](super::dot); 0 of no scores.
    ///
    /// # Panics
    /// When `out` is not as long as `scores`.
    pub fn exp_weights(scores: &[f32], scale: f32, out: &mut [f32]) -> f32 {
        assert_eq!(scores.len(), out.len(), "scores and weights differ in number");
        let (chunks, tail) = scores.as_chunks::<LANES>();
        let (out_chunks, out_tail) = out.as_chunks_mut::<LANES>();
        let highest = highest(scores);
        let mut sums = [0f32; LANES];
        for (chunk, out) in chunks.iter().zip(out_chunks) {
            for l in 0..LANES {
                out[l] = exp(scale * (chunk[l] - highest));
                sums[l] += out[l];
            }
        }
        for (l, (score, out)) in tail.iter().zip(out_tail).enumerate() {
            *out = exp(scale * (score - highest));
            sums[l] += *out;
        }
        fold(sums)
    }
}

simd! {
    /// `exp(scale · (score − highest))` of each score into `out`; no score is above `highest`. The same bits as [`exp_weights`] gives
    /// where `highest` is the highest of the scores.
    ///
    /// # Panics
    /// When `out` is not as long as `scores`.
    pub fn exp_below(scores: &[f32], highest: f32, scale: f32, out: &mut [f32]) {
        assert_eq!(scores.len(), out.len(), "scores and weights differ in number");
        for (out, score) in out.iter_mut().zip(scores) {
            *out = exp(scale * (score - highest));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_exponential_is_within_its_bound() {
        let mut worst = 0f64;
        for i in 0..870_000 {
            let x = -(i as f32) * 1e-4;
            let exact = f64::from(x).exp();
            worst = worst.max((f64::from(exp(x)) / exact - 1.0).abs());
        }
        assert!(worst < 2e-7, "{worst}");
        assert_eq!((exp(0.0), exp(-87.5), exp(f32::NEG_INFINITY)), (1.0, 0.0, 0.0));
    }

    proptest! {
        #[test]
        fn weights_are_those_of_a_softmax(scores in proptest::collection::vec(-30f32..30.0, 1..90), scale in 0.01f32..2.0) {
            let mut out = vec![9.0; scores.len()];
            let sum = exp_weights(&scores, scale, &mut out);
            let mut below = vec![9.0; scores.len()];
            exp_below(&scores, highest(&scores), scale, &mut below);
            prop_assert_eq!(&below, &out);
            let highest = scores.iter().copied().fold(f32::MIN, f32::max);
            let exact: Vec<f64> = scores.iter().map(|s| (f64::from(scale) * f64::from(s - highest)).exp()).collect();
            for (got, exact) in out.iter().zip(&exact) {
                prop_assert!((f64::from(*got) - exact).abs() < 1e-5 * exact + 1e-37);
            }
            let total: f64 = exact.iter().sum();
            prop_assert!((f64::from(sum) / total - 1.0).abs() < 1e-5);
        }
    }

    #[test]
    fn no_scores_have_no_mass() {
        assert_eq!(exp_weights(&[], 1.0, &mut []), 0.0);
    }
}
