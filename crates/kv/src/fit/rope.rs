//! Which rotary embedding keys have: undone rightly, their mean is long; undone wrongly, it averages out.

use crate::KvCache;
use crate::rope::{RotaryPairs, inverse_frequencies};
use pimattn_core::cancel::Cancel;
use pimattn_core::error::{Error, Result};
use rayon::prelude::*;

/// Bases that published models use: Llama 2, SmolLM2-135M, SmolLM2-1.7B, SmolLM2 long, Llama 3, Mistral and Qwen 2, and
/// others.
const PUBLISHED: [f64; 12] = [1e4, 2.5e4, 5e4, 1e5, 1.3e5, 1.6e5, 2.5e5, 5e5, 1e6, 5e6, 8e6, 1e7];
/// By how much the right elements must win over the wrong ones to be believed (assumed).
const CLEAR: f64 = 1.1;
/// Share of the keys' squares that the mean must hold to be believed (assumed).
const COHERENT: f64 = 0.1;

/// The inverse of a rotary embedding, of tokens at given positions.
pub struct InverseRotary {
    pairs: Vec<(usize, usize)>,
    dim: usize,
    /// (sine, cosine) `[token, pair]`.
    table: Vec<(f64, f64)>,
}

impl InverseRotary {
    /// Of tokens at `positions`.
    pub fn new(dim: usize, theta: f64, pairs: RotaryPairs, positions: &[u32]) -> Self {
        let frequencies = inverse_frequencies(dim, theta);
        let table =
            positions.iter().flat_map(|t| frequencies.iter().map(move |s| (f64::from(*t) * s).sin_cos())).collect();
        InverseRotary { pairs: (0..dim / 2).map(|i| pairs.elements(i, dim)).collect(), dim, table }
    }

    /// Undoes it in rows that belong to tokens from `first` on.
    pub fn inverse_rotate(&self, rows: &mut [f32], first: usize) {
        let rotations = self.table.chunks_exact(self.pairs.len()).skip(first);
        for (row, rotations) in rows.chunks_exact_mut(self.dim).zip(rotations) {
            for ((a, b), (sin, cos)) in self.pairs.iter().zip(rotations) {
                let (x, y) = (f64::from(row[*a]), f64::from(row[*b]));
                row[*a] = (x * cos + y * sin) as f32;
                row[*b] = (y * cos - x * sin) as f32;
            }
        }
    }
}

/// Share of the squares of keys that their mean holds once RoPE is undone, over the heads of some layers.
pub fn coherence(kv: &KvCache, layers: &[usize], positions: &[u32], theta: f64, pairs: RotaryPairs) -> f64 {
    let rope = InverseRotary::new(kv.dim, theta, pairs, positions);
    let heads: Vec<(usize, usize)> = layers.iter().flat_map(|l| (0..kv.kv_heads).map(move |h| (*l, h))).collect();
    let parts: Vec<(f64, f64)> = heads
        .par_iter()
        .map(|(l, h)| {
            let mut keys = kv.keys(*l, *h).data.to_vec();
            rope.inverse_rotate(&mut keys, 0);
            let mut sums = vec![0.0f64; kv.dim];
            let mut squares = 0.0;
            for key in keys.chunks_exact(kv.dim) {
                sums.iter_mut().zip(key).for_each(|(s, x)| *s += f64::from(*x));
                squares += key.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>();
            }
            (sums.iter().map(|s| s * s).sum::<f64>() / kv.tokens as f64, squares)
        })
        .collect();
    let (means, squares) = parts.into_iter().fold((0.0, 0.0), |a, b| (a.0 + b.0, a.1 + b.1));
    if squares > 0.0 { means / squares } else { 0.0 }
}

/// The base and the pairs that are given or, where one is not, under which the mean key is longest.
///
/// Errors: [`Error::Data`] when keys do not tell, [`Error::Usage`] when the base is out of range.
pub fn settle(
    cancel: &Cancel,
    kv: &KvCache,
    layers: &[usize],
    positions: &[u32],
    theta: Option<f64>,
    pairs: Option<RotaryPairs>,
) -> Result<(f64, RotaryPairs)> {
    if let Some(theta) = theta.filter(|t| !(1.0..=1e12).contains(t)) {
        return Err(Error::Usage(format!("--rope-theta {theta} is out of range; expected 1 to 1e12")));
    }
    if let (Some(theta), Some(pairs)) = (theta, pairs) {
        return Ok((theta, pairs));
    }
    let candidates = pairs.map_or(vec![RotaryPairs::Halves, RotaryPairs::Interleaved], |p| vec![p]);
    let mut found = Vec::new();
    for pairs in candidates {
        let of = |theta: f64| coherence(kv, layers, positions, theta, pairs);
        let theta = match theta {
            Some(theta) => theta,
            None => search(cancel, of)?,
        };
        found.push((of(theta), theta, pairs));
    }
    found.sort_by(|a, b| b.0.total_cmp(&a.0));
    let (best, theta, pairs) = found[0];
    if best < COHERENT || found.get(1).is_some_and(|next| best < CLEAR * next.0) {
        let said: Vec<String> = found.iter().map(|(c, t, p)| format!("{p:?} with base {t}: {c:.3}")).collect();
        return Err(Error::Usage(format!(
            "the rotary embedding cannot be told from the keys (share of their squares that their mean holds: {}); say \
             --rope-theta and --rope-pairs",
            said.join("; ")
        )));
    }
    Ok((theta, pairs))
}

/// The base of the highest coherence: of the published ones, if none nearby is better.
fn search(cancel: &Cancel, of: impl Fn(f64) -> f64) -> Result<f64> {
    let mut best = (0.0, 1e4);
    let mut consider = |theta: f64, bonus: f64| -> Result<()> {
        cancel.check()?;
        let c = of(theta) * bonus;
        if c > best.0 {
            best = (c, theta);
        }
        Ok(())
    };
    // A little in favour of what is published: the peak is flat at its top.
    PUBLISHED.iter().try_for_each(|t| consider(*t, 1.02))?;
    (0..=80).try_for_each(|i| consider(1e3 * 10f64.powf(f64::from(i) / 16.0), 1.0))?;
    Ok(best.1)
}
