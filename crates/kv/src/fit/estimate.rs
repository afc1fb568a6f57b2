//! From a dump to the parameters of [`FittedModel`].

use super::rope::{self, InverseRotary, KnownRotation};
use super::words::{self, CommonWords};
use crate::fitted::{Component, FittedModel, Head, LAST_KNOT, Layer, Query, SinkWord, VERSION, Words};
use crate::linalg::{add_gram, eigenvectors};
use crate::{KvCache, KvView};
use pimattn_core::cancel::Cancel;
use pimattn_core::error::{Error, Result};
use rayon::prelude::*;

/// Mean lengths (tokens) of the segments over which parts of a vector may last: phrases, sentences, paragraphs, sections
/// (assumed; how much lasts for each is fitted).
const LIFETIMES: [f64; 4] = [3.0, 16.0, 100.0, 1000.0];
/// A token is a sink of a KV head where its key reaches less of the mean key than this share of what keys reach there
/// usually (assumed: sinks have short keys, so the two are far apart).
const SINK: f64 = 0.5;
/// Sinks beyond the first tokens that are believed to be more than chance (assumed).
const FEWEST: usize = 4;
/// Share of a common word's tokens that are sinks where it is more than chance that they are (assumed).
const SINK_WORD: f64 = 0.1;
/// Directions of the vectors of sinks (assumed).
const SINK_RANK: usize = 4;
/// Knots of a marginal (assumed).
const KNOTS: usize = 17;
/// Vectors that a marginal needs: its last knots are the 1 in 741 extremes (assumed).
const ENOUGH: usize = 256;
/// Sinks that one needs. Fewer, as what matters of it is where it ends: the sinks that attract most come near a bound, which
/// normal tails would exceed (assumed).
const ENOUGH_SINKS: usize = 64;
/// No marginals, however many vectors there are.
const NEVER: usize = usize::MAX;
/// Standard errors by which a correlation must differ from 0 to be believed (assumed: of 256, one is by chance).
const BELIEVED: f64 = 3.0;

/// How a model is fitted.
#[derive(Debug, Clone, PartialEq)]
pub struct FitOptions {
    /// Layers of the dump to fit, by their numbers; all when empty.
    pub layers: Vec<u32>,
    /// Layers of the model; by default, one more than the dump's last.
    pub model_layers: Option<u32>,
    /// Directions of keys, values and queries that are kept.
    pub rank: usize,
    /// The rotation of the keys; what is not given is found in them.
    pub rotation: KnownRotation,
    /// Position of each token in the text that the model saw; 0, 1, 2, ... when empty.
    pub positions: Vec<u32>,
}

impl Default for FitOptions {
    fn default() -> Self {
        FitOptions {
            layers: Vec::new(),
            model_layers: None,
            rank: 16,
            rotation: KnownRotation::default(),
            positions: Vec::new(),
        }
    }
}

/// Fits a model. The same dump gives the same bytes for any number of threads.
///
/// Errors: [`Error::Usage`] when an option does not fit the dump, [`Error::Data`] when RoPE cannot be told from the keys.
pub fn fit(kv: &KvCache, options: &FitOptions) -> Result<FittedModel> {
    fit_until(&Cancel::new(), kv, options)
}

/// [`fit`], unless `cancel` is requested.
///
/// Errors: as there, and [`Error::Interrupted`].
pub fn fit_until(cancel: &Cancel, kv: &KvCache, options: &FitOptions) -> Result<FittedModel> {
    let usage = |what: String| Err(Error::Usage(what));
    let mut wanted = options.layers.clone();
    wanted.sort_unstable();
    wanted.dedup();
    if let Some(missing) = wanted.iter().find(|l| !kv.layers.contains(l)) {
        return usage(format!("the dump has no layer {missing}; it has {:?}", kv.layers));
    }
    if !kv.dim.is_multiple_of(2) {
        return usage(format!("vectors of {} elements: RoPE turns pairs", kv.dim));
    }
    if options.rank == 0 || options.rank > kv.dim {
        return usage(format!("rank {} is not in 1 to {}, the elements of a vector", options.rank, kv.dim));
    }
    let positions: Vec<u32> = match options.positions.as_slice() {
        [] => (0..kv.tokens as u32).collect(),
        p if p.len() == kv.tokens && p.is_sorted_by(|a, b| a < b) => p.to_vec(),
        p => {
            let what = "positions are not ascending";
            return usage(match p.len() == kv.tokens {
                true => what.into(),
                false => format!("{} positions for {} tokens", p.len(), kv.tokens),
            });
        }
    };
    let last = kv.layers[kv.layers.len() - 1];
    let model_layers = options.model_layers.unwrap_or(last + 1);
    if model_layers <= last {
        return usage(format!("a model of {model_layers} layers has no layer {last}"));
    }
    if kv.tokens < 4 * kv.dim || kv.queries < 4 {
        return usage(format!(
            "{} tokens and {} queries are too few to fit vectors of {} elements; expected {} tokens and 4 queries",
            kv.tokens,
            kv.queries,
            kv.dim,
            4 * kv.dim
        ));
    }
    let fitted: Vec<usize> =
        (0..kv.layers.len()).filter(|l| wanted.is_empty() || wanted.contains(&kv.layers[*l])).collect();
    // The first layer says which words are common.
    let (loaded, fitted) = kv.layers_in_memory(cancel, &fitted)?;
    let kv = loaded.view()?;
    let embedding = rope::settle(cancel, kv, &fitted, &positions, options.rotation)?;
    let rope = InverseRotary::new(kv.dim, embedding, &positions);
    let common = words::find(cancel, &keys(kv, 0, &rope), kv.dim)?;
    let layers: Vec<Layer> =
        fitted.par_iter().map(|l| layer(cancel, kv, *l, &rope, &common, options.rank)).collect::<Result<Vec<_>>>()?;
    let numbers: Vec<String> = layers.iter().map(|l| l.layer.to_string()).collect();
    let model = FittedModel {
        version: VERSION,
        source: format!("{}; layers {}", kv.provenance, numbers.join(", ")),
        model_layers,
        dim: kv.dim,
        element_bytes: kv.element_bytes,
        rope_theta: embedding.theta,
        rope_pairs: embedding.pairs,
        yarn: embedding.yarn,
        tokens: kv.tokens,
        context: positions.last().map(|p| *p as usize + 1).filter(|n| *n > kv.tokens),
        queries: kv.queries,
        lifetimes: LIFETIMES.to_vec(),
        words: common.shares,
        layers,
    };
    // What is written is what is used.
    Ok(model.rounded())
}

/// Keys of a layer's heads before RoPE.
fn keys(kv: KvView<'_>, layer: usize, rope: &InverseRotary) -> Vec<Vec<f32>> {
    let of = |h| {
        let mut keys = kv.keys(layer, h).data.to_vec();
        rope.inverse_rotate(&mut keys, 0);
        keys
    };
    (0..kv.kv_heads).map(of).collect()
}

fn layer(
    cancel: &Cancel,
    kv: KvView<'_>,
    layer: usize,
    rope: &InverseRotary,
    common: &CommonWords,
    rank: usize,
) -> Result<Layer> {
    let keys = keys(kv, layer, rope);
    let sinks = sinks(&keys, kv.dim);
    let first_sinks = sinks.iter().take_while(|s| **s).count();
    let sink_words = sink_words(&sinks[first_sinks..], &common.of[first_sinks..], common.shares.len());
    let of: Vec<Option<usize>> = common
        .of
        .iter()
        .enumerate()
        .map(|(t, w)| sink_words.iter().position(|s| s.word + 1 == usize::from(*w) && t >= first_sinks))
        .collect();
    let plain = || sinks.iter().zip(&of).skip(first_sinks).filter(|(_, of)| of.is_none());
    let count = plain().filter(|(sink, _)| **sink).count();
    let text = PrefillText { cancel, sinks: &sinks, common, sink_words: &of };
    let heads = keys.par_iter().enumerate().map(|(h, keys)| head(kv, layer, h, keys, text, rope, rank));
    Ok(Layer {
        layer: kv.layers[layer],
        first_sinks,
        sink_rate: count as f64 / plain().count().max(1) as f64,
        heads: heads.collect::<Result<_>>()?,
        sink_words,
    })
}

/// Which tokens are sinks: those whose keys stand out in most KV heads of the layer.
fn sinks(keys: &[Vec<f32>], dim: usize) -> Vec<bool> {
    let tokens = keys[0].len() / dim;
    let mut votes = vec![0; tokens];
    for keys in keys {
        let mut column = vec![0.0f32; tokens];
        let typical: Vec<f32> = (0..dim)
            .map(|d| {
                column.iter_mut().zip(keys.chunks_exact(dim)).for_each(|(x, key)| *x = key[d]);
                median(&mut column)
            })
            .collect();
        let reach: Vec<f32> =
            keys.chunks_exact(dim).map(|key| key.iter().zip(&typical).map(|(k, m)| k * m).sum()).collect();
        let usual = f64::from(median(&mut reach.clone()));
        votes.iter_mut().zip(&reach).for_each(|(n, x)| *n += usize::from(f64::from(*x) < SINK * usual));
    }
    let sinks: Vec<bool> = votes.iter().map(|n| n * 2 > keys.len()).collect();
    // Where so many stand out, the mean key says nothing; of a few beyond the first there are no statistics.
    let first = sinks.iter().take_while(|s| **s).count();
    match sinks.iter().filter(|s| **s).count() {
        n if n * 20 > tokens => vec![false; tokens],
        n if n < first + FEWEST => (0..tokens).map(|t| t < first).collect(),
        _ => sinks,
    }
}

fn median(values: &mut [f32]) -> f32 {
    let middle = values.len() / 2;
    *values.select_nth_unstable_by(middle, f32::total_cmp).1
}

/// The common words that are sinks by more than chance, and as often as it takes to know their mean key.
fn sink_words(sinks: &[bool], of: &[u16], words: usize) -> Vec<SinkWord> {
    let mut counts = vec![(0usize, 0usize); words];
    for (sink, w) in sinks.iter().zip(of).filter(|(_, w)| **w > 0) {
        let (tokens, as_sinks) = &mut counts[usize::from(*w) - 1];
        *tokens += 1;
        *as_sinks += usize::from(*sink);
    }
    let rated = counts.iter().map(|(tokens, as_sinks)| (*as_sinks, *as_sinks as f64 / (*tokens).max(1) as f64));
    let often = rated.enumerate().filter(|(_, (as_sinks, rate))| *as_sinks >= words::OFTEN && *rate >= SINK_WORD);
    often.map(|(word, (_, rate))| SinkWord { word, rate }).collect()
}

/// What kinds of tokens a layer has.
#[derive(Clone, Copy)]
struct PrefillText<'a> {
    cancel: &'a Cancel,
    sinks: &'a [bool],
    common: &'a CommonWords,
    /// By token, which of the layer's sink words it is.
    sink_words: &'a [Option<usize>],
}

fn head(
    kv: KvView<'_>,
    layer: usize,
    h: usize,
    keys: &[f32],
    text: PrefillText<'_>,
    rope: &InverseRotary,
    rank: usize,
) -> Result<Head> {
    let PrefillText { cancel, sinks, common, sink_words } = text;
    let dim = kv.dim;
    let pick = |rows: &[f32], sink: bool| -> Vec<f32> {
        let rows = rows.chunks_exact(dim).zip(sinks).filter(|(_, s)| **s == sink);
        rows.flat_map(|(row, _)| row).copied().collect()
    };
    let values = kv.values(layer, h).data;
    let (key, words) = if common.shares.is_empty() {
        (component(&pick(keys, false), dim, rank, ENOUGH), None)
    } else {
        let of: Vec<u16> = common.of.iter().zip(sinks).filter(|(_, s)| !**s).map(|(w, _)| *w).collect();
        let (key, words) = with_words(&pick(keys, false), &of, common.shares.len(), dim, rank);
        (key, Some(words))
    };
    cancel.check()?;
    let value = component(&pick(values, false), dim, rank.div_ceil(2), NEVER);
    let of: Vec<Option<usize>> = sink_words.iter().zip(sinks).filter(|(_, s)| **s).map(|(w, _)| *w).collect();
    let any = sinks.contains(&true);
    let latents = scores(&key, &keys[kv.query_start * dim..]);
    let queries = (0..kv.group()).map(|g| {
        cancel.check()?;
        let mut queries = kv.queries(layer, h * kv.group() + g).data.to_vec();
        rope.inverse_rotate(&mut queries, kv.query_start);
        let vector = component(&queries, dim, rank, ENOUGH);
        let coupling = coupling(&scores(&vector, &queries), &latents, &sinks[kv.query_start..], [&vector, &key]);
        Ok(Query { vector, coupling })
    });
    let queries = queries.collect::<Result<_>>()?;
    let (sink_key, sink_words) = any.then(|| sink(&pick(keys, true), &of, dim)).unzip();
    let sink_value = any.then(|| sink(&pick(values, true), &vec![None; of.len()], dim).0);
    Ok(Head { key, words, value, sink_key, sink_words: sink_words.unwrap_or_default(), sink_value, queries })
}

/// The component of sinks, and how far the mean of each sink word is from its own. `of` has each row's sink word. What rows
/// differ by from the mean of their word is taken to be alike for all words and, where there are any, other sinks: those are
/// too few and, the first token among them, too unlike to tell.
fn sink(rows: &[f32], of: &[Option<usize>], dim: usize) -> (Component, Vec<Vec<f64>>) {
    let words = of.iter().flatten().max().map_or(0, |w| w + 1);
    let mean = |kind: &dyn Fn(Option<usize>) -> bool| -> Option<Vec<f64>> {
        let (mut sums, mut n) = (vec![0.0; dim], 0);
        for (row, _) in rows.chunks_exact(dim).zip(of).filter(|(_, w)| kind(**w)) {
            sums.iter_mut().zip(row).for_each(|(sum, x)| *sum += f64::from(*x));
            n += 1;
        }
        sums.iter_mut().for_each(|sum| *sum /= f64::from(n.max(1)));
        (n > 0).then_some(sums)
    };
    let usual = mean(&|w| w.is_none()).or_else(|| mean(&|_| true)).unwrap_or_else(|| vec![0.0; dim]);
    let means: Vec<Vec<f64>> = (0..words).map(|i| mean(&|w| w == Some(i)).unwrap_or_else(|| usual.clone())).collect();
    let centre = |(row, w): (&[f32], &Option<usize>)| -> Vec<f32> {
        let mean = w.map_or(&usual, |w| &means[w]);
        row.iter().zip(mean).map(|(x, m)| (f64::from(*x) - m) as f32).collect()
    };
    let alike = |(_, w): &(&[f32], &Option<usize>)| words == 0 || w.is_some();
    let within: Vec<f32> = rows.chunks_exact(dim).zip(of).filter(alike).flat_map(centre).collect();
    let mut c = component(&within, dim, SINK_RANK, ENOUGH_SINKS);
    let off = means.iter().map(|mean| mean.iter().zip(&usual).map(|(m, u)| m - u).collect()).collect();
    c.mean = usual;
    // Sinks are far between.
    c.persistence.iter_mut().for_each(|p| p.fill(0.0));
    (c, off)
}

/// Mean, leading directions, rest, persistence and, where there are enough vectors, marginals.
fn component(rows: &[f32], dim: usize, rank: usize, enough: usize) -> Component {
    let n = rows.len() / dim;
    let mut sums = vec![0.0f64; dim];
    rows.chunks_exact(dim).for_each(|row| sums.iter_mut().zip(row).for_each(|(s, x)| *s += f64::from(*x)));
    let mean: Vec<f64> = sums.iter().map(|s| s / n as f64).collect();
    let centred: Vec<f32> =
        rows.chunks_exact(dim).flat_map(|row| row.iter().zip(&mean).map(|(x, m)| (f64::from(*x) - m) as f32)).collect();
    let mut gram = vec![0.0; dim * dim];
    add_gram(&centred, dim, &mut gram);
    gram.iter_mut().for_each(|x| *x /= n as f64);
    let variance: Vec<f64> = (0..dim).map(|d| gram[d * dim + d]).collect();
    let (values, vectors) = eigenvectors(gram, dim);
    // No more than the vectors can tell apart, and none along which they do not differ.
    let floor = values[0].max(0.0) * 1e-9;
    let rank = (0..rank.min(n.saturating_sub(1) / 2)).take_while(|r| values[*r] > floor && values[*r] > 0.0).count();
    let directions: Vec<Vec<f64>> = vectors.chunks_exact(dim).take(rank).map(<[f64]>::to_vec).collect();
    let explained = |d: usize| (0..rank).map(|r| values[r] * directions[r][d].powi(2)).sum::<f64>();
    let mut c = Component {
        diagonal: (0..dim).map(|d| (variance[d] - explained(d)).max(0.0).sqrt()).collect(),
        persistence: Vec::new(),
        scales: values[..rank].iter().map(|x| x.sqrt()).collect(),
        mean,
        directions,
        marginals: Vec::new(),
    };
    let scores = scores(&c, rows);
    let columns: Vec<Vec<f64>> = (0..rank).map(|r| scores.iter().skip(r).step_by(rank).copied().collect()).collect();
    c.persistence = columns.iter().map(|x| persistence(x, 1)).collect();
    c.persistence.push(persistence(&rest(&c, &centred, &scores), dim));
    if n >= enough {
        c.marginals = columns.into_iter().map(marginal).collect();
    }
    c
}

/// The component of the keys that are no common word, and the keys of those that are one. `of` has each row's word, from 1 on,
/// or 0.
fn with_words(rows: &[f32], of: &[u16], words: usize, dim: usize, rank: usize) -> (Component, Words) {
    let tokens = || rows.chunks_exact(dim).zip(of);
    let others: Vec<f32> = tokens().filter(|(_, w)| **w == 0).flat_map(|(row, _)| row).copied().collect();
    let mut c = component(&others, dim, rank, ENOUGH);
    let (rank, n) = (c.scales.len(), of.len());
    let mut counts = vec![0usize; words];
    let mut vectors = vec![vec![0.0; dim]; words];
    for (row, w) in tokens().filter(|(_, w)| **w > 0) {
        counts[usize::from(*w) - 1] += 1;
        let sums = &mut vectors[usize::from(*w) - 1];
        sums.iter_mut().zip(row).zip(&c.mean).for_each(|((sum, x), m)| *sum += f64::from(*x) - m);
    }
    let means = vectors.iter_mut().zip(&counts);
    means.for_each(|(sums, n)| sums.iter_mut().for_each(|sum| *sum /= (*n).max(1) as f64));
    let mut within = rows.to_vec();
    for (row, w) in within.chunks_exact_mut(dim).zip(of).filter(|(_, w)| **w > 0) {
        row.iter_mut().zip(&vectors[usize::from(*w) - 1]).for_each(|(x, v)| *x = (f64::from(*x) - v) as f32);
    }
    let mut scores = scores(&c, &within);
    let centre = |row: &[f32]| row.iter().zip(&c.mean).map(|(x, m)| (f64::from(*x) - m) as f32).collect::<Vec<_>>();
    let centred: Vec<f32> = within.chunks_exact(dim).flat_map(centre).collect();
    let mut rest = rest(&c, &centred, &scores);
    // A word's mean is that of its own tokens: one of them tells nothing.
    let free = counts.iter().map(|n| n.saturating_sub(1)).sum::<usize>().max(1) as f64;
    let square = |values: &[f64], width: usize, word: bool, i: usize| -> f64 {
        let rows = values.chunks_exact(width).zip(of).filter(|(_, w)| (**w > 0) == word);
        rows.map(|(row, _)| if i < width { row[i].powi(2) } else { row.iter().map(|x| x * x).sum() }).sum()
    };
    let mut spread: Vec<f64> = (0..rank).map(|r| (square(&scores, rank, true, r) / free).sqrt()).collect();
    let usual = square(&rest, dim, false, dim) / (n - counts.iter().sum::<usize>()).max(1) as f64;
    let narrowed = square(&rest, dim, true, dim) / free / usual;
    spread.push(if narrowed.is_finite() { narrowed.sqrt() } else { 1.0 });
    // What lasts is measured of all tokens, one after the other.
    let widen = |values: &mut [f64], width: usize, spread: &[f64]| {
        for (row, _) in values.chunks_exact_mut(width.max(1)).zip(of).filter(|(_, w)| **w > 0) {
            row.iter_mut().zip(spread).for_each(|(x, s)| *x /= s.max(f64::MIN_POSITIVE.sqrt()));
        }
    };
    widen(&mut scores, rank, &spread);
    widen(&mut rest, dim, &vec![spread[rank]; dim]);
    let column = |r: usize| scores.iter().skip(r).step_by(rank).copied().collect::<Vec<f64>>();
    c.persistence = (0..rank).map(|r| persistence(&column(r), 1)).chain([persistence(&rest, dim)]).collect();
    (c, Words { spread, vectors })
}

/// Along each direction, how many standard deviations each row is from the mean `[row, rank]`.
fn scores(c: &Component, rows: &[f32]) -> Vec<f64> {
    let along = |row: &[f32], direction: &[f64]| -> f64 {
        row.iter().zip(&c.mean).zip(direction).map(|((x, m), d)| (f64::from(*x) - m) * d).sum()
    };
    rows.chunks_exact(c.mean.len())
        .flat_map(|row| c.directions.iter().zip(&c.scales).map(move |(d, s)| along(row, d) / s))
        .collect()
}

/// What the directions leave of centred rows.
fn rest(c: &Component, centred: &[f32], scores: &[f64]) -> Vec<f64> {
    let (dim, rank) = (c.mean.len(), c.scales.len());
    let mut rest: Vec<f64> = centred.iter().map(|x| f64::from(*x)).collect();
    for (i, row) in rest.chunks_exact_mut(dim).enumerate() {
        for ((score, scale), direction) in scores[i * rank..][..rank].iter().zip(&c.scales).zip(&c.directions) {
            row.iter_mut().zip(direction).for_each(|(x, d)| *x -= score * scale * d);
        }
    }
    rest
}

/// What standard normal scores at the knots become, from a sample of the outcome.
fn marginal(mut sample: Vec<f64>) -> Vec<f64> {
    sample.sort_unstable_by(f64::total_cmp);
    let last = (sample.len() - 1) as f64;
    (0..KNOTS)
        .map(|i| {
            let score = LAST_KNOT * (2.0 * i as f64 / (KNOTS - 1) as f64 - 1.0);
            // The plotting position of Hazen.
            let place = (normal_below(score) * sample.len() as f64 - 0.5).clamp(0.0, last);
            let low = place as usize;
            let high = (low + 1).min(sample.len() - 1);
            sample[low] + (place - low as f64) * (sample[high] - sample[low])
        })
        .collect()
}

/// Probability that a standard normal number is below `x`, within 1e-7 (Abramowitz and Stegun 26.2.17).
fn normal_below(x: f64) -> f64 {
    let t = 1.0 / (1.0 + 0.231_641_9 * x.abs());
    let series = [0.319_381_530, -0.356_563_782, 1.781_477_937, -1.821_255_978, 1.330_274_429];
    let sum = series.iter().rev().fold(0.0, |sum, c| (sum + c) * t);
    let above = sum * (-x * x / 2.0).exp() / std::f64::consts::TAU.sqrt();
    if x < 0.0 { above } else { 1.0 - above }
}

/// Shares of the variance that last for each of [`LIFETIMES`]: the combination of exponentials nearest to the measured
/// autocorrelation, no share negative.
fn persistence(rows: &[f64], dim: usize) -> Vec<f64> {
    let n = rows.len() / dim;
    let lags: Vec<usize> =
        [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64, 128, 256, 512].into_iter().filter(|l| l * 2 < n).collect();
    let variance = rows.iter().map(|x| x * x).sum::<f64>() / n.max(1) as f64;
    if variance <= 0.0 || lags.is_empty() {
        return vec![0.0; LIFETIMES.len()];
    }
    let correlation = |lag: &usize| {
        let sum: f64 = rows.iter().zip(&rows[lag * dim..]).map(|(a, b)| a * b).sum();
        sum / (n - lag) as f64 / variance
    };
    let measured: Vec<f64> = lags.iter().map(correlation).collect();
    let column = |t: f64| -> Vec<f64> { lags.iter().map(|l| (1.0 - 1.0 / t).powi(*l as i32)).collect() };
    let columns: Vec<Vec<f64>> = LIFETIMES.iter().map(|t| column(*t)).collect();
    let mut shares = nonnegative(&columns, &measured);
    let sum: f64 = shares.iter().sum();
    if sum > 1.0 {
        shares.iter_mut().for_each(|s| *s /= sum);
    }
    shares
}

/// Non-negative weights of the columns whose sum is nearest to the target: coordinate descent, which for these few columns
/// converges long before its last round.
fn nonnegative(columns: &[Vec<f64>], target: &[f64]) -> Vec<f64> {
    let mut weights = vec![0.0; columns.len()];
    let mut left = target.to_vec();
    for _ in 0..10_000 {
        let mut moved = 0.0f64;
        for (w, column) in weights.iter_mut().zip(columns) {
            let square: f64 = column.iter().map(|x| x * x).sum();
            let slope: f64 = column.iter().zip(&left).map(|(x, y)| x * y).sum();
            let next = (*w + slope / square.max(f64::MIN_POSITIVE)).max(0.0);
            left.iter_mut().zip(column).for_each(|(l, x)| *l -= (next - *w) * x);
            moved = moved.max((next - *w).abs());
            *w = next;
        }
        if moved < 1e-12 {
            break;
        }
    }
    weights
}

/// Correlations of query scores with the scores of their tokens' keys, sinks left out; 0 where they may be chance.
fn coupling(queries: &[f64], keys: &[f64], sinks: &[bool], [query, key]: [&Component; 2]) -> Vec<Vec<f64>> {
    let (rows, columns) = (query.scales.len(), key.scales.len());
    let tokens: Vec<usize> = (0..queries.len() / rows.max(1)).filter(|t| !sinks[*t]).collect();
    let n = tokens.len() as f64;
    (0..rows)
        .map(|r| {
            let of = |values: &[f64], rank: usize, i: usize| -> Vec<f64> {
                let x: Vec<f64> = tokens.iter().map(|t| values[t * rank + i]).collect();
                let mean = x.iter().sum::<f64>() / n;
                let sd = (x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n).sqrt().max(f64::MIN_POSITIVE);
                x.iter().map(|x| (x - mean) / sd).collect()
            };
            let q = of(queries, rows, r);
            let mut row: Vec<f64> = (0..columns)
                .map(|c| q.iter().zip(of(keys, columns, c)).map(|(a, b)| a * b).sum::<f64>() / n)
                .map(|c| if c.abs() < BELIEVED / n.sqrt() { 0.0 } else { c })
                .collect();
            // Scores of a few hundred tokens are not quite uncorrelated.
            let norm = row.iter().map(|c| c * c).sum::<f64>().sqrt();
            if norm > 0.95 {
                row.iter_mut().for_each(|c| *c *= 0.95 / norm);
            }
            row
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fitted::{FittedShape, generate, testing};
    use crate::rope::{RopeScaling, RotaryPairs, SaidScaling, YarnRotation};

    /// Of a component's covariance.
    fn covariance(c: &Component) -> Vec<f64> {
        let dim = c.mean.len();
        let at = |i: usize, j: usize| {
            let shared: f64 = c.scales.iter().zip(&c.directions).map(|(s, d)| s * s * d[i] * d[j]).sum();
            shared + if i == j { c.diagonal[i].powi(2) } else { 0.0 }
        };
        (0..dim * dim).map(|ij| at(ij / dim, ij % dim)).collect()
    }

    #[track_caller]
    fn near(what: &str, got: &[f64], expected: &[f64], tolerance: f64) {
        assert_eq!(got.len(), expected.len(), "{what}");
        for (g, e) in got.iter().zip(expected) {
            assert!((g - e).abs() <= tolerance, "{what}: {g}, not {e} +- {tolerance}");
        }
    }

    /// Fitting what a model makes up finds the model. Standard errors of 20,000 tokens, of which segments of 50 leave some
    /// hundreds of independent ones, are a few hundredths of a standard deviation; the bounds are some four of them.
    #[test]
    fn a_synthetic_cache_gives_its_parameters_back() {
        let truth = testing::without_words(testing::model(8));
        let shape =
            FittedShape { prefill: 19_000, decode_steps: 1000, prefill_queries: 18_000, ..FittedShape::of(&truth) };
        let kv = generate(&truth, &shape).unwrap();
        let options = FitOptions { rank: 2, model_layers: Some(8), ..FitOptions::default() };
        let got = fit(&kv, &options).unwrap();
        assert_eq!((got.rope_theta, got.rope_pairs), (truth.rope_theta, truth.rope_pairs));
        assert_eq!((got.dim, got.model_layers, got.tokens, got.queries), (8, 8, 20_000, 19_000));
        let lasting = |c: &Component| c.persistence.iter().map(|p| p.iter().sum()).collect::<Vec<f64>>();
        for (g, t) in got.layers.iter().zip(&truth.layers) {
            assert_eq!((g.layer, g.first_sinks), (t.layer, t.first_sinks));
            near("sink rate", &[g.sink_rate], &[t.sink_rate], 0.003);
            for (g, t) in g.heads.iter().zip(&t.heads) {
                let vectors = [(&g.key, &t.key), (&g.value, &t.value)];
                let queries = g.queries.iter().zip(&t.queries);
                for (g, t) in vectors.into_iter().chain(queries.clone().map(|(g, t)| (&g.vector, &t.vector))) {
                    near("mean", &g.mean, &t.mean, 0.25);
                    // Of values up to 9; a value's one direction at this rank leaves its second to the diagonal.
                    if g.scales.len() == 2 {
                        near("covariance", &covariance(g), &covariance(t), 0.8);
                        near("persistence", &lasting(g), &lasting(t), 0.1);
                    }
                }
                for (g, t) in queries {
                    // A direction may come out the other way round.
                    let size = |m: &Vec<Vec<f64>>| m.concat().iter().map(|c| c.abs()).collect::<Vec<f64>>();
                    near("coupling", &size(&g.coupling), &size(&t.coupling), 0.1);
                }
                if let (Some(g), Some(t)) = (&g.sink_key, &t.sink_key) {
                    near("sink", &g.mean, &t.mean, 0.1);
                }
            }
        }
        let rotation =
            KnownRotation { theta: Some(50_000.0), pairs: Some(RotaryPairs::Halves), scaling: Some(SaidScaling::None) };
        let known = FitOptions { rotation, ..options };
        let threads = |n| rayon::ThreadPoolBuilder::new().num_threads(n).build().unwrap().install(|| fit(&kv, &known));
        assert_eq!(threads(1).unwrap().render(), got.render());
    }

    /// A text of common words, one of which is mostly a sink, gives back their shares and keys.
    #[test]
    fn words_are_found_and_keep_their_keys() {
        let mut truth = testing::model(64);
        truth.words = vec![0.2, 0.04];
        for head in truth.layers.iter_mut().flat_map(|l| &mut l.heads) {
            // Keys spread over all dimensions, as those of real words do.
            head.key.diagonal.fill(2.0);
            head.key.scales = vec![6.0, 4.0];
            head.words.as_mut().unwrap().spread = vec![0.2, 0.3, 0.1];
            head.sink_words.iter_mut().flatten().for_each(|x| *x *= 0.2);
        }
        truth.layers[1].sink_words[0].rate = 0.8;
        let shape = FittedShape { prefill: 3000, decode_steps: 1000, prefill_queries: 100, ..FittedShape::of(&truth) };
        let options = FitOptions { rank: 2, model_layers: Some(8), ..FitOptions::default() };
        let got = fit(&generate(&truth, &shape).unwrap(), &options).unwrap();
        // Four standard errors of a share of 4,000 tokens.
        near("shares", &got.words, &truth.words, 0.025);
        assert!(got.layers[0].sink_words.is_empty());
        let [sink] = &got.layers[1].sink_words[..] else { panic!("{:?}", got.layers[1].sink_words) };
        assert_eq!(sink.word, 1);
        near("sink word", &[sink.rate, got.layers[1].sink_rate], &[0.8, 0.01], 0.08);
        for (g, t) in got.layers.iter().zip(&truth.layers).flat_map(|(g, t)| g.heads.iter().zip(&t.heads)) {
            let (own, expected) = (g.words.as_ref().unwrap(), t.words.as_ref().unwrap());
            near("spread", &own.spread, &expected.spread, 0.08);
            for (word, (g_own, t_own)) in own.vectors.iter().zip(&expected.vectors).enumerate() {
                let sum = |mean: &[f64], own: &[f64]| mean.iter().zip(own).map(|(a, b)| a + b).collect::<Vec<f64>>();
                near(&format!("word {word}"), &sum(&g.key.mean, g_own), &sum(&t.key.mean, t_own), 0.4);
            }
            for (g_own, t_own) in g.sink_words.iter().zip(&t.sink_words) {
                let (g_mean, t_mean) = (&g.sink_key.as_ref().unwrap().mean, &t.sink_key.as_ref().unwrap().mean);
                let sum = |mean: &[f64], own: &[f64]| mean.iter().zip(own).map(|(a, b)| a + b).collect::<Vec<f64>>();
                near("sink key", &sum(g_mean, g_own), &sum(t_mean, t_own), 0.1);
                assert!(!g.sink_key.as_ref().unwrap().marginals.is_empty(), "sinks are bounded");
            }
        }
    }

    #[test]
    fn options_that_do_not_fit_are_refused() {
        let kv = generate(&testing::model(8), &FittedShape::of(&testing::model(8))).unwrap();
        let rotation =
            KnownRotation { theta: Some(1e4), pairs: Some(RotaryPairs::Halves), scaling: Some(SaidScaling::None) };
        let known = FitOptions { rank: 2, rotation, ..FitOptions::default() };
        assert!(fit(&kv, &known).is_ok());
        let refused = |edit: &dyn Fn(&mut FitOptions)| {
            let mut options = known.clone();
            edit(&mut options);
            match fit(&kv, &options) {
                Err(e @ Error::Usage(_)) => e.to_string(),
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(refused(&|o| o.layers = vec![2]), "the dump has no layer 2; it has [1, 6]");
        assert!(refused(&|o| o.rank = 9).starts_with("rank 9"));
        assert!(refused(&|o| o.rank = 0).starts_with("rank 0"));
        assert!(refused(&|o| o.model_layers = Some(6)).contains("has no layer 6"));
        assert!(refused(&|o| o.positions = vec![1, 2]).contains("2 positions for 300 tokens"));
        assert!(refused(&|o| o.positions = vec![1; 300]).contains("not ascending"));
        assert!(refused(&|o| o.rotation.theta = Some(f64::NAN)).contains("out of range"));
    }

    /// A model fitted to a rescaled cache says so, and draws such caches; its means are those before the rotation, whose factor on
    /// lengths is undone.
    #[test]
    fn a_rescaled_cache_gives_its_rotation_back() {
        let yarn = Some(YarnRotation { factor: 4.0, original: 2048 });
        let truth = FittedModel { yarn, ..testing::without_words(testing::model(16)) };
        let kv = generate(&truth, &FittedShape { prefill: 3900, ..FittedShape::of(&truth) }).unwrap();
        let kv = KvCache { rope_scaling: None, ..kv };
        let got = fit(&kv, &FitOptions { rank: 2, ..FitOptions::default() }).unwrap();
        assert_eq!(got.embedding(), truth.embedding());
        assert!(got.render().contains("[yarn]\nfactor = 4.0\noriginal = 2048\n"), "{}", &got.render()[..600]);
        for (g, t) in got.layers.iter().zip(&truth.layers).flat_map(|(g, t)| g.heads.iter().zip(&t.heads)) {
            near("mean", &g.key.mean, &t.key.mean, 0.5);
        }
        // A cache of the fitted length is rotated as the dump is, a longer one from the same original context.
        let tokens = got.tokens;
        assert_eq!(got.embedding_of(tokens, RopeScaling::Yarn), truth.embedding());
        let longer = got.embedding_of(2 * tokens, RopeScaling::Yarn).yarn;
        assert_eq!(longer, Some(YarnRotation { factor: 8.0, original: 2048 }));
    }

    /// Keys that no embedding was applied to do not say which one it was.
    #[test]
    fn an_embedding_that_cannot_be_told_is_asked_for() {
        let mut kv = generate(&testing::model(8), &FittedShape::of(&testing::model(8))).unwrap();
        kv.k = (0..kv.k.len()).map(|i| (i as f32 * 12.9898).sin()).collect::<Vec<_>>().into();
        let e = fit(&kv, &FitOptions { rank: 2, ..FitOptions::default() }).unwrap_err();
        assert!(e.to_string().contains("say --rope-theta and --rope-pairs"), "{e}");
    }

    #[test]
    fn the_normal_distribution_is_that_of_tables() {
        for (x, expected) in [(0.0, 0.5), (1.0, 0.841_344_7), (-1.96, 0.024_997_9), (3.0, 0.998_650_1)] {
            assert!((normal_below(x) - expected).abs() < 1e-6, "{x}");
        }
    }

    #[test]
    fn nonnegative_weights_are_the_nearest() {
        let columns = [vec![1.0, 0.0, 1.0], vec![0.0, 1.0, 1.0]];
        near("inside", &nonnegative(&columns, &[0.3, 0.2, 0.5]), &[0.3, 0.2], 1e-9);
        // Without the bound, the second would be negative.
        near("at the edge", &nonnegative(&columns, &[1.0, -1.0, 0.0]), &[0.5, 0.0], 1e-9);
    }
}
