//! Rotary position embedding (RoPE): pairs of elements of a vector, rotated by an angle in proportion to the position.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::f64::consts::TAU;

/// Which elements of a vector are rotated together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RotaryPairs {
    /// Elements `i` and `i + dim/2`, as in Hugging Face's Llama.
    Halves,
    /// Elements `2i` and `2i + 1`, as in the original Llama and in GGUF files.
    Interleaved,
}

impl RotaryPairs {
    /// The two elements of pair `i`.
    #[inline]
    pub fn elements(self, i: usize, dim: usize) -> (usize, usize) {
        match self {
            RotaryPairs::Halves => (i, i + dim / 2),
            RotaryPairs::Interleaved => (2 * i, 2 * i + 1),
        }
    }
}

/// Inverse frequencies: radians by which each pair is rotated from one token to the next, `theta^(-2i/dim)`.
pub fn inverse_frequencies(dim: usize, theta: f64) -> Vec<f64> {
    let half = dim / 2;
    (0..half).map(|i| theta.powf(-(i as f64) / half as f64)).collect()
}

/// How the rotation goes on in a context longer than the one that its frequencies are known to work in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RopeScaling {
    /// At the same pace, so that pairs reach angles that the model never had.
    None,
    /// By parts, as YaRN (Peng et al., arXiv 2309.00071; ramp over pairs as in Hugging Face's transformers): pairs that turn 32 times
    /// and more within the known context keep their pace, those that turn once or less are slowed down by the factor of the
    /// lengths, and those between in proportion. Queries and keys are longer by 0.1 ln(factor) + 1.
    #[default]
    Yarn,
}

impl RopeScaling {
    /// The inverse frequencies of pairs in a context of `tokens`, where `known` tokens are what they are known to work in,
    /// and the factor on the length of queries and keys.
    pub fn inverse_frequencies(self, dim: usize, theta: f64, known: usize, tokens: usize) -> (Vec<f64>, f64) {
        let plain = inverse_frequencies(dim, theta);
        if self == RopeScaling::None || tokens <= known || theta <= 1.0 {
            return (plain, 1.0);
        }
        let factor = tokens as f64 / known as f64;
        // The pair, counted in elements, that turns so often within the known context.
        let turns = |n: f64| dim as f64 * (known as f64 / (n * TAU)).ln() / (2.0 * theta.ln());
        let (low, high) = (turns(32.0).floor().max(0.0), turns(1.0).ceil().min(dim as f64 - 1.0));
        let slowed = |i: usize| ((i as f64 - low) / (high - low).max(1e-3)).clamp(0.0, 1.0);
        let scaled = plain.iter().enumerate().map(|(i, f)| f * (1.0 - slowed(i)) + f / factor * slowed(i)).collect();
        (scaled, 0.1 * factor.ln() + 1.0)
    }
}

/// Sines and cosines for tokens at positions 0, 1, 2, ...
pub struct Rotary {
    pairs: Vec<(usize, usize)>,
    inverse_frequencies: Vec<f64>,
    /// (sine, cosine) `[token, pair]`, times the factor on the length of vectors.
    table: Vec<(f32, f32)>,
}

impl Rotary {
    /// A table for `tokens` tokens of vectors of `dim` elements.
    pub fn new(dim: usize, theta: f64, pairs: RotaryPairs, tokens: usize) -> Self {
        Rotary::of(dim, pairs, tokens, (inverse_frequencies(dim, theta), 1.0))
    }

    /// As [`Rotary::new`], rescaled where `tokens` are more than the `known` ones of a model's context.
    pub fn rescaled(
        dim: usize,
        theta: f64,
        pairs: RotaryPairs,
        tokens: usize,
        (scaling, known): (RopeScaling, usize),
    ) -> Self {
        Rotary::of(dim, pairs, tokens, scaling.inverse_frequencies(dim, theta, known, tokens))
    }

    fn of(dim: usize, pairs: RotaryPairs, tokens: usize, (inverse_frequencies, length): (Vec<f64>, f64)) -> Self {
        let mut table = vec![(0.0, 0.0); tokens * inverse_frequencies.len()];
        table.par_chunks_mut(inverse_frequencies.len()).enumerate().for_each(|(t, row)| {
            for (entry, frequency) in row.iter_mut().zip(&inverse_frequencies) {
                let (sin, cos) = (t as f64 * frequency).sin_cos();
                *entry = ((length * sin) as f32, (length * cos) as f32);
            }
        });
        let pairs = (0..inverse_frequencies.len()).map(|i| pairs.elements(i, dim)).collect();
        Rotary { pairs, inverse_frequencies, table }
    }

    /// Radians by which each pair is rotated from one token to the next.
    pub fn inverse_frequencies(&self) -> &[f64] {
        &self.inverse_frequencies
    }

    /// Tokens that the table is for.
    pub fn tokens(&self) -> usize {
        self.table.len() / self.pairs.len()
    }

    /// Rotates a vector to a token's position.
    ///
    /// # Panics
    /// When the token is beyond the table, or the vector shorter than its dimension.
    pub fn rotate(&self, x: &mut [f32], token: usize) {
        let row = &self.table[token * self.pairs.len()..][..self.pairs.len()];
        for ((a, b), (sin, cos)) in self.pairs.iter().zip(row) {
            (x[*a], x[*b]) = (x[*a] * cos - x[*b] * sin, x[*a] * sin + x[*b] * cos);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What transformers' `_compute_yarn_parameters` gives for SmolLM2-135M's rotation and a factor of 4, worked out by hand in
    /// Python: pairs up to 10 keep their pace, those from 20 on have a quarter of it.
    #[test]
    fn pairs_are_rescaled_by_parts() {
        let (scaled, length) = RopeScaling::Yarn.inverse_frequencies(64, 1e5, 8192, 32768);
        let plain = inverse_frequencies(64, 1e5);
        for (pair, expected) in
            [(0, 1.0), (10, 0.027384196342643614), (15, 0.0028322397735005113), (20, 0.00018747355233311396)]
        {
            assert!((scaled[pair] / expected - 1.0).abs() < 1e-12, "{pair}: {}", scaled[pair]);
        }
        assert!(scaled[20..].iter().zip(&plain[20..]).all(|(s, p)| (s * 4.0 / p - 1.0).abs() < 1e-12));
        assert!((length - 1.138629436111989).abs() < 1e-12);
    }

    #[test]
    fn a_known_context_is_not_rescaled() {
        let plain = (inverse_frequencies(64, 1e5), 1.0);
        assert_eq!(RopeScaling::Yarn.inverse_frequencies(64, 1e5, 8192, 8192), plain);
        assert_eq!(RopeScaling::None.inverse_frequencies(64, 1e5, 8192, 1 << 20), plain);
        // All pairs of a rotation of base 1 turn alike.
        assert_eq!(RopeScaling::Yarn.inverse_frequencies(4, 1.0, 10, 100), (vec![1.0, 1.0], 1.0));
    }

    /// Pairs that are slowed down by the factor reach no angle between two tokens that they did not have before.
    #[test]
    fn slow_pairs_stay_within_the_angles_that_they_had() {
        for factor in [2usize, 4, 16] {
            let (scaled, _) = RopeScaling::Yarn.inverse_frequencies(128, 5e5, 8192, 8192 * factor);
            for (s, p) in scaled.iter().zip(inverse_frequencies(128, 5e5)) {
                let turns = p * 8192.0 / TAU;
                assert!(turns > 1.0 || s * (8192 * factor) as f64 <= p * 8192.0 * 1.0001, "{turns} turns: {s} of {p}");
            }
        }
    }
}
