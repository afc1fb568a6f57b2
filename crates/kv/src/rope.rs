//! Rotary position embedding (RoPE): pairs of elements of a vector, rotated by an angle in proportion to the position.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

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

/// Sines and cosines for tokens at positions 0, 1, 2, ...
pub struct Rotary {
    pairs: Vec<(usize, usize)>,
    inverse_frequencies: Vec<f64>,
    /// (sine, cosine) `[token, pair]`.
    table: Vec<(f32, f32)>,
}

impl Rotary {
    /// A table for `tokens` tokens of vectors of `dim` elements.
    pub fn new(dim: usize, theta: f64, pairs: RotaryPairs, tokens: usize) -> Self {
        let inverse_frequencies = inverse_frequencies(dim, theta);
        let mut table = vec![(0.0, 0.0); tokens * inverse_frequencies.len()];
        table.par_chunks_mut(inverse_frequencies.len()).enumerate().for_each(|(t, row)| {
            for (entry, frequency) in row.iter_mut().zip(&inverse_frequencies) {
                let (sin, cos) = (t as f64 * frequency).sin_cos();
                *entry = (sin as f32, cos as f32);
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
