//! Which rotary embedding keys have: undone rightly, their mean is long; undone wrongly, it averages out.
//!
//! Pairs are rotated independently, so the squares that the mean holds are a sum over pairs of what each holds at its frequency
//! (`KeySpectrum`). Candidates are plain rotations of any base, and those of published bases rescaled by YaRN.

use crate::KvView;
use crate::rope::{RotaryEmbedding, RotaryPairs, SaidScaling, YarnRotation};
use pimattn_core::cancel::Cancel;
use pimattn_core::error::{Error, Result};
use rayon::prelude::*;
use std::collections::BTreeMap;
use std::f64::consts::TAU;
use std::sync::Mutex;

/// Bases that published models use: Llama 2, SmolLM2-135M, SmolLM2-1.7B, SmolLM2 long, Llama 3, Mistral and Qwen 2, and
/// others.
const PUBLISHED: [f64; 12] = [1e4, 2.5e4, 5e4, 1e5, 1.3e5, 1.6e5, 2.5e5, 5e5, 1e6, 5e6, 8e6, 1e7];
/// Contexts (tokens) that published models are trained for.
const TRAINED: [usize; 7] = [2048, 4096, 8192, 16384, 32768, 65536, 131_072];
/// Factors of rescaled rotations that are looked for.
const FACTORS: [f64; 3] = [2.0, 4.0, 8.0];
/// By how much the right rotation must win over the wrong ones to be believed (assumed).
const CLEAR: f64 = 1.1;
/// By how much one that is rescaled must win over a plain one to be thought of, as a published base must lose against another
/// (assumed: peaks are flat at their tops).
const AS_GOOD: f64 = 1.02;
/// Share of the keys' squares that the mean must hold to be believed (assumed).
const COHERENT: f64 = 0.1;
/// Turns within the text up to which pairs are asked which frequency they have: a rescaled rotation leaves faster ones alone.
const SLOW: f64 = 32.0;
/// Frequencies that are tried for each turn: the nearest one then misses at most 5 % of the peak.
const FINE: f64 = 4.0;

/// The inverse of a rotary embedding, of tokens at given positions.
pub struct InverseRotary {
    pairs: Vec<(usize, usize)>,
    dim: usize,
    /// (sine, cosine) over the length of vectors `[token, pair]`.
    table: Vec<(f64, f64)>,
}

impl InverseRotary {
    /// Of tokens at `positions`.
    pub fn new(dim: usize, embedding: RotaryEmbedding, positions: &[u32]) -> Self {
        let (frequencies, length) = (embedding.inverse_frequencies(dim), embedding.length());
        let entry = |t: &u32, s: &f64| {
            let (sin, cos) = (f64::from(*t) * s).sin_cos();
            (sin / length, cos / length)
        };
        let table = positions.iter().flat_map(|t| frequencies.iter().map(move |s| entry(t, s))).collect();
        InverseRotary { pairs: (0..dim / 2).map(|i| embedding.pairs.elements(i, dim)).collect(), dim, table }
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

/// The keys of some layers, pair by pair: how much of their squares the mean holds once each pair is turned back.
struct KeySpectrum<'p> {
    positions: &'p [u32],
    dim: usize,
    /// `[pair][head, token]`.
    pairs: Vec<Vec<(f32, f32)>>,
    squares: f64,
    /// By pair and frequency (its bits), what was found.
    known: Vec<Mutex<BTreeMap<u64, f64>>>,
}

impl<'p> KeySpectrum<'p> {
    fn new(kv: KvView<'_>, layers: &[usize], positions: &'p [u32], pairs: RotaryPairs) -> Self {
        let heads: Vec<(usize, usize)> = layers.iter().flat_map(|l| (0..kv.kv_heads).map(move |h| (*l, h))).collect();
        let of = |i: usize| {
            let (a, b) = pairs.elements(i, kv.dim);
            let keys = |(l, h): &(usize, usize)| kv.keys(*l, *h).data.chunks_exact(kv.dim).map(|k| (k[a], k[b]));
            heads.iter().flat_map(keys).collect::<Vec<(f32, f32)>>()
        };
        let pairs: Vec<_> = (0..kv.dim / 2).into_par_iter().map(of).collect();
        let square =
            |pair: &Vec<(f32, f32)>| pair.iter().map(|(x, y)| f64::from(*x).powi(2) + f64::from(*y).powi(2)).sum();
        let squares: Vec<f64> = pairs.par_iter().map(square).collect();
        let known = pairs.iter().map(|_| Mutex::default()).collect();
        KeySpectrum { positions, dim: kv.dim, pairs, squares: squares.iter().sum(), known }
    }

    /// Squares that the mean of a pair holds, over all heads, once it is turned back by `frequency` radians a token.
    fn held(&self, pair: usize, frequency: f64) -> f64 {
        let known = || self.known[pair].lock().unwrap_or_else(|e| e.into_inner());
        if let Some(held) = known().get(&frequency.to_bits()) {
            return *held;
        }
        let turns: Vec<(f64, f64)> = self.positions.iter().map(|t| (f64::from(*t) * frequency).sin_cos()).collect();
        let mean = |head: &[(f32, f32)]| {
            let (mut x, mut y) = (0.0, 0.0);
            for ((a, b), (sin, cos)) in head.iter().zip(&turns) {
                let (a, b) = (f64::from(*a), f64::from(*b));
                x += a * cos + b * sin;
                y += b * cos - a * sin;
            }
            (x * x + y * y) / turns.len() as f64
        };
        let held = self.pairs[pair].chunks_exact(turns.len()).map(mean).sum();
        known().insert(frequency.to_bits(), held);
        held
    }

    /// Share of the squares of keys that their mean holds once each pair is turned back by its frequency.
    fn coherence(&self, frequencies: &[f64]) -> f64 {
        let held: Vec<f64> = frequencies.par_iter().enumerate().map(|(pair, f)| self.held(pair, *f)).collect();
        if self.squares > 0.0 { held.iter().sum::<f64>() / self.squares } else { 0.0 }
    }

    fn of(&self, embedding: RotaryEmbedding) -> f64 {
        self.coherence(&embedding.inverse_frequencies(self.dim))
    }

    /// The same where each slow pair has whatever frequency it holds most at, whether or not these make a rotation.
    fn at_best(&self, cancel: &Cancel, embedding: RotaryEmbedding) -> Result<f64> {
        let span = f64::from(self.positions[self.positions.len() - 1] - self.positions[0]) + 1.0;
        let turn = TAU / span;
        let mut best = embedding.inverse_frequencies(self.dim);
        let freed: Vec<f64> = best
            .par_iter()
            .enumerate()
            .map(|(pair, own)| {
                cancel.check()?;
                if *own > SLOW * turn {
                    return Ok(*own);
                }
                let tried = (0..=(2.0 * SLOW * FINE) as u32).map(|i| f64::from(i) * turn / FINE).chain([*own]);
                let held = tried.map(|f| (self.held(pair, f), f));
                Ok(held.max_by(|a, b| a.0.total_cmp(&b.0)).map_or(*own, |(_, f)| f))
            })
            .collect::<Result<_>>()?;
        best.copy_from_slice(&freed);
        Ok(self.coherence(&best))
    }
}

/// What is known of an embedding before the keys are asked.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct KnownRotation {
    /// Base of the frequencies.
    pub theta: Option<f64>,
    /// Which elements are rotated together.
    pub pairs: Option<RotaryPairs>,
    /// How it was rescaled; what the dump says, where this is not given.
    pub scaling: Option<SaidScaling>,
}

/// A rotation, and the share of the keys' squares that their mean holds with it.
#[derive(Debug, Clone, Copy)]
struct RotationCandidate {
    held: f64,
    embedding: RotaryEmbedding,
}

impl std::fmt::Display for RotationCandidate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {:.3}", self.embedding, self.held)
    }
}

/// The best plain and the best rescaled rotation for some pairs of elements.
struct BestCandidates<'p> {
    spectrum: KeySpectrum<'p>,
    plain: RotationCandidate,
    /// None where only plain ones are asked for.
    rescaled: Option<RotationCandidate>,
    /// The rescaled one that comes next.
    next: Option<RotationCandidate>,
}

impl BestCandidates<'_> {
    /// The one of the kind that is said, or else the better one; a rescaled one only where it wins clearly.
    fn chosen(&self, said: Option<SaidScaling>) -> RotationCandidate {
        match (said, self.rescaled) {
            (Some(SaidScaling::Yarn(..)), Some(rescaled)) => rescaled,
            (None, Some(rescaled)) if rescaled.held >= CLEAR * self.plain.held => rescaled,
            _ => self.plain,
        }
    }

    /// The one of the other kind.
    fn other(&self, chosen: RotationCandidate) -> Option<RotationCandidate> {
        if chosen.embedding.yarn.is_some() { Some(self.plain) } else { self.rescaled }
    }

    fn held(&self) -> f64 {
        self.rescaled.map_or(self.plain.held, |r| r.held.max(self.plain.held))
    }
}

/// The embedding that is known or, as far as it is not, under which the mean key is longest.
///
/// # Errors
/// [`Error::Usage`] when what is known is out of range, when the keys contradict what the dump says, and when they do not
/// tell: then it says what the candidates hold, and which options decide.
pub fn settle(
    cancel: &Cancel,
    kv: KvView<'_>,
    layers: &[usize],
    positions: &[u32],
    known: KnownRotation,
) -> Result<RotaryEmbedding> {
    if let Some(theta) = known.theta.filter(|t| !(1.0..=1e12).contains(t)) {
        return Err(Error::Usage(format!("--rope-theta {theta} is out of range; expected 1 to 1e12")));
    }
    let said = known.scaling.or(kv.rope_scaling);
    if let Some(SaidScaling::Yarn(factor, original)) = said {
        let yarn = YarnRotation { factor, original: original.unwrap_or(TRAINED[0]) };
        yarn.check().map_err(|e| Error::Usage(format!("the rescaled rotation: {e}")))?;
    }
    if let (Some(theta), Some(pairs), Some(scaling)) = (known.theta, known.pairs, known.scaling) {
        match scaling {
            SaidScaling::Yarn(_, None) => {}
            SaidScaling::Yarn(factor, Some(original)) => {
                return Ok(RotaryEmbedding { theta, pairs, yarn: Some(YarnRotation { factor, original }) });
            }
            SaidScaling::None | SaidScaling::Base(_) => return Ok(RotaryEmbedding { theta, pairs, yarn: None }),
        }
    }
    let pairs = known.pairs.map_or(vec![RotaryPairs::Halves, RotaryPairs::Interleaved], |p| vec![p]);
    let search = |pairs: &RotaryPairs| search(cancel, kv, layers, positions, *pairs, known);
    let mut found = pairs.iter().map(search).collect::<Result<Vec<_>>>()?;
    found.sort_by(|a, b| b.held().total_cmp(&a.held()));
    let (first, next) = (&found[0], found.get(1));
    let chosen = first.chosen(said);
    let undecided = |what: &str, candidates: &[RotationCandidate], ask: &str| {
        let candidates: Vec<String> = candidates.iter().map(RotationCandidate::to_string).collect();
        let held = candidates.join("; ");
        Err(Error::Usage(format!("{what} (share of their squares that their mean holds: {held}); say {ask}")))
    };
    if first.held() < COHERENT || next.is_some_and(|next| chosen.held < CLEAR * next.held()) {
        let best = |f: &BestCandidates<'_>| f.rescaled.filter(|r| r.held > f.plain.held).unwrap_or(f.plain);
        let all: Vec<RotationCandidate> = found.iter().map(best).collect();
        return undecided(
            "the rotary embedding cannot be told from the keys",
            &all,
            "--rope-theta and --rope-pairs and, where it is rescaled, --rope-scaling",
        );
    }
    let ask = "--rope-theta, and --rope-scaling: none, or yarn:FACTOR from TOKENS tokens";
    if let Some(other) = first.other(chosen) {
        if said.is_some() && known.scaling.is_none() && other.held >= CLEAR * chosen.held {
            return undecided("the keys are not rotated as the dump says", &[chosen, other], ask);
        }
        if said.is_none() && chosen.embedding.yarn.is_none() && other.held >= AS_GOOD * chosen.held {
            return undecided("the keys do not tell whether their rotation is rescaled", &[chosen, other], ask);
        }
    }
    if known.scaling.is_none() {
        let free = first.spectrum.at_best(cancel, chosen.embedding)?;
        if free >= CLEAR * chosen.held {
            let of_dump = "the keys are not rotated as the dump says";
            let what = if said.is_some() { of_dump } else { "no rotation that is known fits the keys" };
            return undecided(&format!("{what}; with each pair at its best, {free:.3}"), &[chosen], ask);
        }
    }
    if let Some(next) = first.next.filter(|next| chosen.embedding.yarn.is_some() && chosen.held < AS_GOOD * next.held) {
        return undecided("the keys do not tell how their rotation is rescaled", &[chosen, next], ask);
    }
    Ok(chosen.embedding)
}

/// The best rotations of the keys with these pairs of elements, of those that what is known allows.
fn search<'p>(
    cancel: &Cancel,
    kv: KvView<'_>,
    layers: &[usize],
    positions: &'p [u32],
    pairs: RotaryPairs,
    known: KnownRotation,
) -> Result<BestCandidates<'p>> {
    let spectrum = KeySpectrum::new(kv, layers, positions, pairs);
    let said = known.scaling.or(kv.rope_scaling);
    let theta = known.theta.or(match said {
        Some(SaidScaling::Base(base)) => Some(base),
        _ => None,
    });
    let candidate = |theta: f64, yarn: Option<YarnRotation>| -> Result<RotationCandidate> {
        cancel.check()?;
        let embedding = RotaryEmbedding { theta, pairs, yarn };
        Ok(RotationCandidate { held: spectrum.of(embedding), embedding })
    };
    // A little in favour of what is published: the peak is flat at its top.
    let bases: Vec<(f64, f64)> = match theta {
        Some(theta) => vec![(theta, 1.0)],
        None => {
            let others = (0..=80).map(|i| (1e3 * 10f64.powf(f64::from(i) / 16.0), 1.0));
            PUBLISHED.map(|theta| (theta, AS_GOOD)).into_iter().chain(others).collect()
        }
    };
    let mut plain = candidate(bases[0].0, None)?;
    let mut most = plain.held * bases[0].1;
    for (theta, bonus) in &bases[1..] {
        let c = candidate(*theta, None)?;
        if c.held * bonus > most {
            (plain, most) = (c, c.held * bonus);
        }
    }
    let mut rescaled: Vec<RotationCandidate> = Vec::new();
    let published = theta.map_or(PUBLISHED.to_vec(), |theta| vec![theta]);
    let (factors, originals) = match said {
        Some(SaidScaling::Yarn(factor, original)) => (vec![factor], original.map_or(TRAINED.to_vec(), |n| vec![n])),
        // What a user says needs no other candidate.
        Some(_) if known.scaling.is_some() => (Vec::new(), Vec::new()),
        _ => (FACTORS.to_vec(), TRAINED.to_vec()),
    };
    for base in &published {
        for factor in &factors {
            for original in &originals {
                rescaled.push(candidate(*base, Some(YarnRotation { factor: *factor, original: *original }))?);
            }
        }
    }
    rescaled.sort_by(|a, b| b.held.total_cmp(&a.held));
    let mut rescaled = rescaled.into_iter();
    Ok(BestCandidates { spectrum, plain, rescaled: rescaled.next(), next: rescaled.next() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::KvCache;
    use crate::fitted::{FittedShape, generate, testing};

    /// Keys of 16 elements of 3,000 tokens, rotated as `yarn` says, which the cache does not say.
    fn unsaid(yarn: Option<YarnRotation>) -> KvCache {
        let model = crate::fitted::FittedModel { yarn, ..testing::without_words(testing::model(16)) };
        let kv = generate(&model, &FittedShape { prefill: 2980, ..FittedShape::of(&model) }).unwrap();
        KvCache { rope_scaling: None, ..kv }
    }

    fn settled(kv: &KvCache, known: KnownRotation) -> Result<RotaryEmbedding, String> {
        let positions: Vec<u32> = (0..kv.tokens as u32).collect();
        settle(&Cancel::new(), kv.view().unwrap(), &[0, 1], &positions, known).map_err(|e| e.to_string())
    }

    const YARN: YarnRotation = YarnRotation { factor: 2.0, original: 2048 };
    const TRUTH: RotaryEmbedding = RotaryEmbedding { theta: 50_000.0, pairs: RotaryPairs::Halves, yarn: Some(YARN) };

    /// Plain bases alone would give 115,478 for this one.
    #[test]
    fn a_rescaled_rotation_is_told_from_the_keys() {
        let kv = unsaid(Some(YARN));
        let nothing = KnownRotation::default();
        assert_eq!(settled(&kv, nothing).unwrap(), TRUTH);
        let plain = unsaid(None);
        assert_eq!(settled(&plain, nothing).unwrap(), RotaryEmbedding { yarn: None, ..TRUTH });
        // The original context is found where the dump says the factor only.
        let said = |kv: &KvCache, scaling| settled(&KvCache { rope_scaling: Some(scaling), ..kv.clone() }, nothing);
        assert_eq!(said(&kv, SaidScaling::Yarn(2.0, None)).unwrap(), TRUTH);
        for (kv, wrong) in [
            (&kv, SaidScaling::None),
            (&kv, SaidScaling::Base(115_478.0)),
            (&plain, SaidScaling::Yarn(4.0, Some(2048))),
        ] {
            let e = said(kv, wrong).unwrap_err();
            assert!(e.starts_with("the keys are not rotated as the dump says"), "{wrong:?}: {e}");
            assert!(e.contains("say --rope-theta, and --rope-scaling"), "{wrong:?}: {e}");
        }
        // A user knows better than the dump, and than the keys.
        let scaling = Some(SaidScaling::None);
        let known = KnownRotation { theta: Some(1e4), pairs: Some(RotaryPairs::Halves), scaling };
        assert_eq!(settled(&kv, known).unwrap(), RotaryEmbedding { theta: 1e4, yarn: None, ..TRUTH });
        let known = KnownRotation { theta: Some(5e4), scaling: Some(SaidScaling::Yarn(2.0, Some(2048))), ..nothing };
        assert_eq!(settled(&plain, known).unwrap(), TRUTH);
    }

    /// In a short text, slow pairs hardly turn: plain and rescaled ones differ by a few percent.
    #[test]
    fn keys_that_do_not_tell_are_not_decided_for() {
        let model = crate::fitted::FittedModel { yarn: Some(YARN), ..testing::model(64) };
        let kv = generate(&model, &FittedShape { prefill: 380, ..FittedShape::of(&model) }).unwrap();
        let e = settled(&KvCache { rope_scaling: None, ..kv.clone() }, KnownRotation::default()).unwrap_err();
        assert!(e.starts_with("the keys do not tell whether their rotation is rescaled"), "{e}");
        assert!(e.contains("base 50000, Halves pairs: 0.") && e.contains("(YaRN, factor 2 of 2048 tokens): 0."), "{e}");
        // What the dump says decides.
        assert_eq!(settled(&kv, KnownRotation::default()).unwrap(), TRUTH);
    }

    #[test]
    fn a_rotation_that_is_none_of_the_known_is_not_taken_for_one() {
        let yarn = YarnRotation { factor: 3.0, ..YARN };
        let kv = unsaid(Some(yarn));
        let e = settled(&kv, KnownRotation::default()).unwrap_err();
        assert!(e.starts_with("no rotation that is known fits the keys"), "{e}");
        assert!(e.contains("say --rope-theta, and --rope-scaling"), "{e}");
        // Once it is said, it fits.
        let known = KnownRotation { scaling: Some(SaidScaling::Yarn(3.0, Some(2048))), ..KnownRotation::default() };
        assert_eq!(settled(&kv, known).unwrap(), RotaryEmbedding { yarn: Some(yarn), ..TRUTH });
    }
}
