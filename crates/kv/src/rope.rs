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

/// A rotation rescaled for a longer context, by parts, as YaRN has it (Peng et al., arXiv 2309.00071; ramp over pairs as in
/// Hugging Face's transformers): pairs that turn 32 times and more within the original context keep their pace, those that
/// turn once or less are slowed down by the factor, and those between in proportion. Queries and keys are longer by
/// 0.1 ln(factor) + 1.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct YarnRotation {
    /// How many times as long as the original the context may be.
    pub factor: f64,
    /// Tokens of the original context, for which the model was trained.
    pub original: usize,
}

impl YarnRotation {
    /// The inverse frequencies of the pairs.
    pub fn inverse_frequencies(self, dim: usize, theta: f64) -> Vec<f64> {
        let plain = inverse_frequencies(dim, theta);
        if theta <= 1.0 {
            return plain;
        }
        // The pair, counted in elements, that turns so often within the original context.
        let turns = |n: f64| dim as f64 * (self.original as f64 / (n * TAU)).ln() / (2.0 * theta.ln());
        let (low, high) = (turns(32.0).floor().max(0.0), turns(1.0).ceil().min(dim as f64 - 1.0));
        let slowed = |i: usize| ((i as f64 - low) / (high - low).max(1e-3)).clamp(0.0, 1.0);
        plain.iter().enumerate().map(|(i, f)| f * (1.0 - slowed(i)) + f / self.factor * slowed(i)).collect()
    }

    /// The factor on the length of queries and keys.
    pub fn length(self) -> f64 {
        0.1 * self.factor.ln() + 1.0
    }

    /// What is wrong with it, if anything.
    ///
    /// # Errors
    /// When the factor is not of 1 to 1024, or the original context not of 1 to 2^31 tokens.
    pub fn check(self) -> Result<(), String> {
        match ((1.0..=1024.0).contains(&self.factor), (1..=1 << 31).contains(&self.original)) {
            (true, true) => Ok(()),
            (false, _) => Err(format!("factor {} is out of range; expected 1 to 1024", self.factor)),
            (_, false) => {
                Err(format!("original {} is out of range; expected 1 to {} tokens", self.original, 1u64 << 31))
            }
        }
    }
}

impl std::fmt::Display for YarnRotation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "YaRN, factor {} of {} tokens", self.factor, self.original)
    }
}

/// The rotary embedding of a model.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RotaryEmbedding {
    /// Base of the frequencies.
    pub theta: f64,
    /// Which elements are rotated together.
    pub pairs: RotaryPairs,
    /// How it was rescaled, if it was.
    pub yarn: Option<YarnRotation>,
}

impl RotaryEmbedding {
    /// Radians by which each pair is rotated from one token to the next.
    pub fn inverse_frequencies(self, dim: usize) -> Vec<f64> {
        self.yarn.map_or_else(|| inverse_frequencies(dim, self.theta), |yarn| yarn.inverse_frequencies(dim, self.theta))
    }

    /// The factor on the length of queries and keys.
    pub fn length(self) -> f64 {
        self.yarn.map_or(1.0, YarnRotation::length)
    }
}

impl std::fmt::Display for RotaryEmbedding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RoPE base {}, {:?} pairs", self.theta, self.pairs)?;
        self.yarn.map_or(Ok(()), |yarn| write!(f, ", rescaled ({yarn})"))
    }
}

/// How the rotation goes on in a context longer than the one that its frequencies are known to work in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RopeScaling {
    /// At the same pace, so that pairs reach angles that the model never had.
    None,
    /// Rescaled by the factor of the lengths ([`YarnRotation`]).
    #[default]
    Yarn,
}

impl RopeScaling {
    /// The embedding in a context of `tokens`, where `known` tokens are what `of` is known to work in. One that is rescaled
    /// already is rescaled further, from the same original context.
    pub fn continued(self, of: RotaryEmbedding, known: usize, tokens: usize) -> RotaryEmbedding {
        if self == RopeScaling::None || tokens <= known {
            return of;
        }
        let YarnRotation { factor, original } = of.yarn.unwrap_or(YarnRotation { factor: 1.0, original: known });
        let factor = factor * (tokens as f64 / known as f64);
        RotaryEmbedding { yarn: Some(YarnRotation { factor, original }), ..of }
    }
}

/// What the source of a cache says of how its rotation was rescaled.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum SaidScaling {
    /// It was not.
    None,
    /// By YaRN with this factor, of an original context that it may name.
    Yarn(f64, Option<usize>),
    /// Another base, for all pairs.
    Base(f64),
}

impl SaidScaling {
    /// Reads the words of `tools/dump_kv.py`: `none`, `yarn:4 from 8192 tokens`, `yarn:4`, or `dynamic:4 from 8192 tokens: base
    /// 425000 in place of 100000`; other words say nothing.
    pub fn read(text: &str) -> Option<SaidScaling> {
        let (kind, rest) = text.split_once(':').unwrap_or((text, ""));
        let number = |text: &str| text.trim().parse::<f64>().ok().filter(|x| x.is_finite() && *x >= 1.0);
        match kind {
            "none" if rest.is_empty() => Some(SaidScaling::None),
            "yarn" => {
                let (factor, original) = match rest.split_once(" from ") {
                    Some((factor, tokens)) => (factor, Some(tokens.strip_suffix(" tokens")?.parse().ok()?)),
                    None => (rest, None),
                };
                Some(SaidScaling::Yarn(number(factor)?, original))
            }
            "dynamic" => {
                let (_, base) = rest.split_once("base ")?;
                Some(SaidScaling::Base(number(base.split(' ').next()?)?))
            }
            _ => None,
        }
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
        Rotary::of(dim, RotaryEmbedding { theta, pairs, yarn: None }, tokens)
    }

    /// A table for `tokens` tokens of vectors of `dim` elements.
    pub fn of(dim: usize, embedding: RotaryEmbedding, tokens: usize) -> Self {
        let (inverse_frequencies, length) = (embedding.inverse_frequencies(dim), embedding.length());
        let mut table = vec![(0.0, 0.0); tokens * inverse_frequencies.len()];
        table.par_chunks_mut(inverse_frequencies.len()).enumerate().for_each(|(t, row)| {
            for (entry, frequency) in row.iter_mut().zip(&inverse_frequencies) {
                let (sin, cos) = (t as f64 * frequency).sin_cos();
                *entry = ((length * sin) as f32, (length * cos) as f32);
            }
        });
        let pairs = (0..inverse_frequencies.len()).map(|i| embedding.pairs.elements(i, dim)).collect();
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

    const PLAIN: RotaryEmbedding = RotaryEmbedding { theta: 1e5, pairs: RotaryPairs::Halves, yarn: None };

    /// What transformers' `_compute_yarn_parameters` gives for SmolLM2-135M's rotation and a factor of 4, worked out by hand in
    /// Python: pairs up to 10 keep their pace, those from 20 on have a quarter of it.
    #[test]
    fn pairs_are_rescaled_by_parts() {
        let embedding = RopeScaling::Yarn.continued(PLAIN, 8192, 32768);
        let (scaled, plain) = (embedding.inverse_frequencies(64), inverse_frequencies(64, 1e5));
        for (pair, expected) in
            [(0, 1.0), (10, 0.027384196342643614), (15, 0.0028322397735005113), (20, 0.00018747355233311396)]
        {
            assert!((scaled[pair] / expected - 1.0).abs() < 1e-12, "{pair}: {}", scaled[pair]);
        }
        assert!(scaled[20..].iter().zip(&plain[20..]).all(|(s, p)| (s * 4.0 / p - 1.0).abs() < 1e-12));
        assert!((embedding.length() - 1.138629436111989).abs() < 1e-12);
    }

    #[test]
    fn a_known_context_is_not_rescaled() {
        assert_eq!(RopeScaling::Yarn.continued(PLAIN, 8192, 8192), PLAIN);
        assert_eq!(RopeScaling::None.continued(PLAIN, 8192, 1 << 20), PLAIN);
        assert_eq!((PLAIN.inverse_frequencies(64), PLAIN.length()), (inverse_frequencies(64, 1e5), 1.0));
        // All pairs of a rotation of base 1 turn alike.
        let alike = RopeScaling::Yarn.continued(RotaryEmbedding { theta: 1.0, ..PLAIN }, 10, 100);
        assert_eq!(alike.inverse_frequencies(4), [1.0, 1.0]);
    }

    /// From 8,192 to 16,384 tokens and then on to 32,768 is from 8,192 to 32,768.
    #[test]
    fn a_rescaled_rotation_goes_on_from_the_original_context() {
        let once = RopeScaling::Yarn.continued(PLAIN, 8192, 16384);
        assert_eq!(once.yarn, Some(YarnRotation { factor: 2.0, original: 8192 }));
        assert_eq!(RopeScaling::Yarn.continued(once, 16384, 4096), once);
        assert_eq!(RopeScaling::None.continued(once, 16384, 32768), once);
        assert_eq!(RopeScaling::Yarn.continued(once, 16384, 32768), RopeScaling::Yarn.continued(PLAIN, 8192, 32768));
    }

    #[test]
    fn what_a_dump_says_of_its_rotation_is_read() {
        for (text, said) in [
            ("none", Some(SaidScaling::None)),
            ("yarn:4 from 8192 tokens", Some(SaidScaling::Yarn(4.0, Some(8192)))),
            ("yarn:2.5", Some(SaidScaling::Yarn(2.5, None))),
            ("dynamic:4 from 8192 tokens: base 425000.5 in place of 100000", Some(SaidScaling::Base(425000.5))),
            ("dynamic:4", None),
            ("yarn:4 from here", None),
            ("yarn:inf", None),
            ("yarn:0.5", None),
            ("as the model's config has it", None),
            ("", None),
        ] {
            assert_eq!(SaidScaling::read(text), said, "{text}");
        }
    }

    /// Pairs that are slowed down by the factor reach no angle between two tokens that they did not have before.
    #[test]
    fn slow_pairs_stay_within_the_angles_that_they_had() {
        for factor in [2usize, 4, 16] {
            let yarn = YarnRotation { factor: factor as f64, original: 8192 };
            let scaled = yarn.inverse_frequencies(128, 5e5);
            for (s, p) in scaled.iter().zip(inverse_frequencies(128, 5e5)) {
                let turns = p * 8192.0 / TAU;
                assert!(turns > 1.0 || s * (8192 * factor) as f64 <= p * 8192.0 * 1.0001, "{turns} turns: {s} of {p}");
            }
        }
    }
}
