//! Synthetic KV caches: a small statistical model whose attention is sparse the way that of real models is.
//!
//! It is meant for studies of size, where no dump of the wanted shape is at hand. Accuracy figures belong on real
//! dumps: every number below is assumed, chosen so that the result looks like dumps of small Llama-style models.
//!
//! Before RoPE, with d = `dim` and unit directions drawn per (layer, KV head), a token's key is the sum of
//!
//! - a mean key, the same for all tokens of the head. It is most of a key's length and says nothing.
//! - the direction of the token's topic, times a log-normal strength. Text interleaves a few topics at a time: each
//!   token takes one of the `active_topics`, or strays to any with probability `stray`. The active ones walk at random
//!   on a ring of `topics` directions, one step of one of them after a segment of geometric length.
//! - a direction shared by keys and queries, in the dimension pairs that RoPE turns fast: after RoPE its product falls
//!   with distance, which is recency.
//! - noise whose size differs by dimension.
//!
//! Mean and topics lie in the pairs that RoPE turns slowly, so they survive distance, though keys drift with position.
//! The first `sinks` tokens have a key along the mean query and small values instead: attention sinks. A query is the
//! sum of the mean query, the direction of the topic that it is about for some steps (an active one, or any one that
//! it recalls), the recency direction and noise. A value is its token's topic and noise.
//!
//! All strengths are given as what they add to a score q·k/sqrt(d).

use super::drawn::{self, DrawnShape};
use super::raw;
use super::{Elements, KvCache, KvParts, Tensor};
use crate::rope::{Rotary, RotaryPairs, SaidScaling};
use pimattn_core::cancel::Cancel;
use pimattn_core::error::{Error, Result};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use rand_distr::{Distribution, StandardNormal};
use serde::{Deserialize, Serialize};

/// Shape and statistics of a synthetic cache. Every field has a default.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SyntheticSpec {
    /// Layers, numbered from 0. Default 4.
    pub layers: usize,
    /// KV heads per layer. Default 8 (Llama-3.1-8B, Mistral-7B).
    pub kv_heads: usize,
    /// Query heads per layer, a multiple of `kv_heads`. Default 32 (Llama-3.1-8B, Mistral-7B).
    pub query_heads: usize,
    /// Elements of a vector, an even number. Default 128 (Llama-3.1-8B, Mistral-7B).
    pub dim: usize,
    /// Tokens before decoding begins. Default 2048.
    pub prefill: usize,
    /// Decode steps: tokens after the prefill, each with its query. Default 64.
    pub decode_steps: usize,
    /// Bytes of one element: 2 (rounded to f16) or 4. Default 2.
    pub element_bytes: u32,
    /// Seed of all random numbers. Default 0.
    pub seed: u64,
    /// Base of the RoPE frequencies. Default 10000 (Llama-2).
    pub rope_theta: f64,
    /// Topics per head. Default 24 (assumed).
    pub topics: usize,
    /// Topics between which the text alternates at any place. Default 3 (assumed).
    pub active_topics: usize,
    /// Mean number of tokens after which an active topic gives way to another. Default 32 (assumed).
    pub segment_tokens: f64,
    /// Share of the tokens that are about any topic, active or not. Default 0.1 (assumed).
    pub stray: f64,
    /// Share of the topics that queries are about which are active; the others are recalled. Default 0.6 (assumed).
    pub query_active: f64,
    /// Score that a token gains by being about the query's topic. Default 7 (assumed).
    pub topic_score: f64,
    /// Spread of a token's topic strength: sigma of a log-normal distribution with median 1. Default 0.3 (assumed).
    pub topic_spread: f64,
    /// Tokens at the start that are attention sinks. Default 4 (StreamingLLM).
    pub sinks: usize,
    /// Score of a sink, for any query. Default 10 (assumed).
    pub sink_score: f64,
    /// Score that the current token gains by being recent. Default 4 (assumed).
    pub recency_score: f64,
    /// Standard deviation of the scores due to noise in the keys. Default 1 (assumed).
    pub noise_score: f64,
    /// Length of the mean key in units of sqrt(dim). Default 1.5 (dumps of SmolLM2-135M have 1.4 to 1.9).
    pub mean_key: f64,
}

impl Default for SyntheticSpec {
    fn default() -> Self {
        SyntheticSpec {
            layers: 4,
            kv_heads: 8,
            query_heads: 32,
            dim: 128,
            prefill: 2048,
            decode_steps: 64,
            element_bytes: 2,
            seed: 0,
            rope_theta: 10000.0,
            topics: 24,
            active_topics: 3,
            segment_tokens: 32.0,
            stray: 0.1,
            query_active: 0.6,
            topic_score: 7.0,
            topic_spread: 0.3,
            sinks: 4,
            sink_score: 10.0,
            recency_score: 4.0,
            noise_score: 1.0,
            mean_key: 1.5,
        }
    }
}

/// Elements of k, v and q together that a cache may have: 32 GiB in f16.
pub const MAX_ELEMENTS: u64 = 1 << 34;

/// Pairs that RoPE turns by less than a radian over this many tokens carry meaning, the faster ones position
/// (assumed; the share shifts gradually).
const MEANING_TOKENS: f64 = 256.0;
/// Length of the mean query in units of sqrt(dim) (assumed).
const MEAN_QUERY: f64 = 0.5;
/// Mean decode steps for which a query head stays with a topic (assumed).
const QUERY_STEPS: f64 = 4.0;
/// Chance that a segment's topic is any one, not a neighbour of the one before (assumed).
const JUMP: f64 = 0.2;
/// Values of sinks relative to those of other tokens (assumed).
const SINK_VALUE: f32 = 0.05;
/// Log-normal sigma of the noise by dimension (assumed).
const ANISOTROPY: f64 = 0.5;

impl SyntheticSpec {
    /// Checks sizes and ranges.
    ///
    /// Errors: [`Error::Config`] at `synthetic.<field>`.
    pub fn validate(&self) -> Result<()> {
        let bad = |field: &str, what: String| Err(Error::Config { at: format!("synthetic.{field}"), what });
        for (field, n) in [
            ("layers", self.layers),
            ("kv_heads", self.kv_heads),
            ("query_heads", self.query_heads),
            ("dim", self.dim),
            ("prefill", self.prefill),
            ("decode_steps", self.decode_steps),
            ("topics", self.topics),
            ("active_topics", self.active_topics),
        ] {
            if n == 0 || u32::try_from(n).is_err() {
                return bad(field, format!("{n} is out of range; expected 1 to {}", u32::MAX));
            }
        }
        if !self.query_heads.is_multiple_of(self.kv_heads) {
            return bad(
                "query_heads",
                format!("{} is not a multiple of kv_heads, {}", self.query_heads, self.kv_heads),
            );
        }
        if !self.dim.is_multiple_of(2) {
            return bad("dim", format!("{} is odd; RoPE turns pairs of elements", self.dim));
        }
        if self.element_bytes != 2 && self.element_bytes != 4 {
            return bad(
                "element_bytes",
                format!("{} is not supported; expected 2 (f16) or 4 (f32)", self.element_bytes),
            );
        }
        if self.sinks > self.prefill {
            return bad("sinks", format!("{} sinks do not fit a prefill of {} tokens", self.sinks, self.prefill));
        }
        if self.topics > 4096 {
            return bad("topics", format!("{} is out of range; expected 1 to 4096", self.topics));
        }
        for (field, x, range) in [
            ("rope_theta", self.rope_theta, 1.0..=1e12),
            ("segment_tokens", self.segment_tokens, 1.0..=1e9),
            ("stray", self.stray, 0.0..=1.0),
            ("query_active", self.query_active, 0.0..=1.0),
            ("topic_score", self.topic_score, 0.0..=100.0),
            ("topic_spread", self.topic_spread, 0.0..=1.0),
            ("sink_score", self.sink_score, 0.0..=100.0),
            ("recency_score", self.recency_score, 0.0..=100.0),
            ("noise_score", self.noise_score, 0.0..=10.0),
            ("mean_key", self.mean_key, 0.0..=10.0),
        ] {
            // NaN is in no range
            if !range.contains(&x) {
                return bad(field, format!("{x} is out of range; expected {} to {}", range.start(), range.end()));
            }
        }
        match self.elements() {
            Some(n) if n <= MAX_ELEMENTS => Ok(()),
            n => bad(
                "prefill",
                format!(
                    "{} layers, {} KV heads, {} query heads, {} + {} tokens and dim {} make {} elements; at most {MAX_ELEMENTS} are supported",
                    self.layers,
                    self.kv_heads,
                    self.query_heads,
                    self.prefill,
                    self.decode_steps,
                    self.dim,
                    n.map_or("more than 2^64".to_string(), |n| n.to_string())
                ),
            ),
        }
    }

    /// Bytes of the cache's elements as f32, which is in a file where they are more than [`IN_MEMORY`](crate::IN_MEMORY).
    pub fn bytes_in_memory(&self) -> u64 {
        self.elements().map_or(u64::MAX, |n| n.saturating_mul(4))
    }

    /// Elements of k, v and q together; `None` on overflow.
    fn elements(&self) -> Option<u64> {
        let (prefill, steps) = (self.prefill as u64, self.decode_steps as u64);
        let kv = (self.kv_heads as u64).checked_mul(2)?.checked_mul(prefill.checked_add(steps)?)?;
        let q = (self.query_heads as u64).checked_mul(steps)?;
        kv.checked_add(q)?.checked_mul(self.dim as u64)?.checked_mul(self.layers as u64)
    }
}

/// Makes up a cache. The same `spec` gives the same values for any number of threads.
///
/// Errors: [`Error::Config`] when `spec` is not valid.
pub fn generate(spec: &SyntheticSpec) -> Result<KvCache> {
    generate_until(&Cancel::new(), spec)
}

/// [`generate`], unless `cancel` is requested.
///
/// Errors: as there, and [`Error::Interrupted`].
pub fn generate_until(cancel: &Cancel, spec: &SyntheticSpec) -> Result<KvCache> {
    spec.validate()?;
    let group = spec.query_heads / spec.kv_heads;
    let tokens = spec.prefill + spec.decode_steps;
    let heads = spec.layers * spec.kv_heads;
    let rope = Rotary::new(spec.dim, spec.rope_theta, RotaryPairs::Halves, tokens);
    let shape = DrawnShape {
        heads,
        rows: tokens * spec.dim,
        queries: group * spec.decode_steps * spec.dim,
        element_bytes: spec.element_bytes,
    };
    let [k, v, q] = drawn::elements(&shape, |i, k, v, q| {
        let mut rng = ChaCha8Rng::seed_from_u64(spec.seed);
        // a stream of its own for each (layer, KV head): which thread fills it does not matter
        rng.set_stream(((i / spec.kv_heads) as u64) << 32 | (i % spec.kv_heads) as u64);
        HeadParameters::draw(spec, &rope, &mut rng).fill(cancel, &mut rng, k, v, q)
    })?;
    let tensor = |name: &str, shape: [usize; 4], data: Elements| Tensor {
        name: name.to_string(),
        shape: shape.to_vec(),
        data,
        element_bytes: spec.element_bytes,
    };
    let parts = KvParts {
        k: tensor("k", [spec.layers, spec.kv_heads, tokens, spec.dim], k),
        v: tensor("v", [spec.layers, spec.kv_heads, tokens, spec.dim], v),
        q: tensor("q", [spec.layers, spec.query_heads, spec.decode_steps, spec.dim], q),
        layers: None,
        prefill: spec.prefill as i64,
        query_start: None,
        positions: None,
        rope_scaling: Some(SaidScaling::None),
        provenance: format!("synthetic, seed {}", spec.seed),
    };
    KvCache::checked_layers(cancel, "synthetic", parts, &[])
}

/// The parameters of one KV head. Directions are scaled so that products of key and query parts give the scores of
/// the specification.
struct HeadParameters<'a> {
    spec: &'a SyntheticSpec,
    rope: &'a Rotary,
    mean_key: Vec<f32>,
    mean_query: Vec<f32>,
    sink_key: Vec<f32>,
    recency: Vec<f32>,
    topics: Vec<Vec<f32>>,
    topic_values: Vec<Vec<f32>>,
    noise: Vec<f32>,
}

impl<'a> HeadParameters<'a> {
    fn draw(spec: &'a SyntheticSpec, rope: &'a Rotary, rng: &mut ChaCha8Rng) -> HeadParameters<'a> {
        let root = (spec.dim as f64).sqrt();
        let slow: Vec<f64> =
            rope.inverse_frequencies().iter().map(|s| 1.0 / (1.0 + (s * MEANING_TOKENS).powi(2))).collect();
        let fast: Vec<f64> = slow.iter().map(|w| 1.0 - w).collect();
        // a product of two parts of this length is `score` once divided by sqrt(d)
        let length = |score: f64| (score * root).sqrt();

        let mean_key = direction(rng, &slow, spec.mean_key * root);
        // in the slowest pairs of all, so that sinks stay sinks at any distance
        let tokens = rope.tokens() as f64;
        let slowest: Vec<f64> = rope.inverse_frequencies().iter().map(|s| 1.0 / (1.0 + (s * tokens).powi(2))).collect();
        let query_mean = MEAN_QUERY * root;
        let mean_query = direction(rng, &slowest, query_mean);
        // along the mean query, so long that their product is sink_score * sqrt(d)
        let sink_length = spec.sink_score * root / query_mean;
        let sink_key = mean_query.iter().map(|x| (f64::from(*x) / query_mean * sink_length) as f32).collect();
        let recency = direction(rng, &fast, length(spec.recency_score));
        let topics = (0..spec.topics).map(|_| direction(rng, &slow, length(spec.topic_score))).collect();
        let even = vec![1.0; rope.inverse_frequencies().len()];
        let topic_values = (0..spec.topics).map(|_| direction(rng, &even, root)).collect();

        let mut noise: Vec<f64> = (0..spec.dim).map(|_| (ANISOTROPY * normal(rng)).exp()).collect();
        let query_length = (query_mean * query_mean + root * (spec.topic_score + spec.recency_score)).sqrt();
        let rms = (noise.iter().map(|x| x * x).sum::<f64>() / spec.dim as f64).sqrt();
        for x in &mut noise {
            *x *= spec.noise_score * root / query_length / rms;
        }
        let noise = noise.iter().map(|x| *x as f32).collect();
        HeadParameters { spec, rope, mean_key, mean_query, sink_key, recency, topics, topic_values, noise }
    }

    fn fill(&self, cancel: &Cancel, rng: &mut ChaCha8Rng, k: &mut [f32], v: &mut [f32], q: &mut [f32]) -> Result<()> {
        let SyntheticSpec { dim, prefill, decode_steps, topics, active_topics, .. } = *self.spec;
        let group = q.len() / (decode_steps * dim);
        let mut active: Vec<usize> = (0..active_topics.min(topics)).map(|_| below(rng, topics)).collect();
        // what each query head is about
        let mut about = vec![active[0]; group];
        for (t, (k, v)) in k.chunks_exact_mut(dim).zip(v.chunks_exact_mut(dim)).enumerate() {
            if t % 1024 == 0 {
                cancel.check()?;
            }
            if chance(rng, 1.0 / self.spec.segment_tokens) {
                let i = below(rng, active.len());
                active[i] = next_topic(rng, active[i], topics);
            }
            let topic =
                if chance(rng, self.spec.stray) { below(rng, topics) } else { active[below(rng, active.len())] };
            self.token(rng, t, topic, k, v);
            if t < prefill {
                continue;
            }
            for (h, about) in about.iter_mut().enumerate() {
                if t == prefill || chance(rng, 1.0 / QUERY_STEPS) {
                    let recall = !chance(rng, self.spec.query_active);
                    *about = if recall { below(rng, topics) } else { active[below(rng, active.len())] };
                }
                let at = (h * decode_steps + t - prefill) * dim;
                self.query(rng, t, *about, &mut q[at..at + dim]);
            }
        }
        Ok(())
    }

    fn token(&self, rng: &mut ChaCha8Rng, t: usize, topic: usize, k: &mut [f32], v: &mut [f32]) {
        let strength = (self.spec.topic_spread * normal(rng)).exp() as f32;
        let sink = t < self.spec.sinks;
        for d in 0..k.len() {
            let noise = self.noise[d] * normal(rng) as f32;
            let value = self.topic_values[topic][d] + normal(rng) as f32;
            if sink {
                k[d] = self.mean_key[d] + self.sink_key[d] + 0.1 * noise;
                v[d] = SINK_VALUE * value;
            } else {
                k[d] = self.mean_key[d] + strength * self.topics[topic][d] + self.recency[d] + noise;
                v[d] = value;
            }
        }
        self.rope.rotate(k, t);
        self.round(k);
        self.round(v);
    }

    fn query(&self, rng: &mut ChaCha8Rng, t: usize, topic: usize, q: &mut [f32]) {
        for (d, x) in q.iter_mut().enumerate() {
            let noise = 0.3 * self.noise[d] * normal(rng) as f32;
            *x = self.mean_query[d] + self.topics[topic][d] + self.recency[d] + noise;
        }
        self.rope.rotate(q, t);
        self.round(q);
    }

    fn round(&self, x: &mut [f32]) {
        if self.spec.element_bytes == 2 {
            raw::round_to_f16(x);
        }
    }
}

/// A vector of the given length, Gaussian in each pair in proportion to the pair's weight.
fn direction(rng: &mut ChaCha8Rng, weights: &[f64], length: f64) -> Vec<f32> {
    let x: Vec<f64> = weights.iter().chain(weights).map(|w| w.sqrt() * normal(rng)).collect();
    // a pair of weight 0 contributes nothing, and with theta = 1 all fast or slow weights may be 0
    let norm = x.iter().map(|a| a * a).sum::<f64>().sqrt().max(f64::MIN_POSITIVE);
    x.iter().map(|a| (a / norm * length) as f32).collect()
}

pub(super) fn normal(rng: &mut ChaCha8Rng) -> f64 {
    StandardNormal.sample(rng)
}

fn below(rng: &mut ChaCha8Rng, n: usize) -> usize {
    ((u64::from(rng.next_u32()) * n as u64) >> 32) as usize
}

fn chance(rng: &mut ChaCha8Rng, p: f64) -> bool {
    f64::from(rng.next_u32()) < p * 4_294_967_296.0
}

/// A neighbour on the ring of topics, or now and then any topic.
fn next_topic(rng: &mut ChaCha8Rng, topic: usize, topics: usize) -> usize {
    if chance(rng, JUMP) {
        return below(rng, topics);
    }
    let step = 1 + below(rng, 3);
    if chance(rng, 0.5) { (topic + step) % topics } else { (topic + topics * 3 - step) % topics }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn small() -> SyntheticSpec {
        SyntheticSpec {
            layers: 2,
            kv_heads: 2,
            query_heads: 4,
            dim: 64,
            prefill: 2048,
            decode_steps: 32,
            ..SyntheticSpec::default()
        }
    }

    #[test]
    fn shape_follows_the_specification() {
        let kv = generate(&SyntheticSpec { prefill: 100, ..small() }).unwrap();
        assert_eq!((kv.layers.len(), kv.kv_heads, kv.query_heads, kv.dim), (2, 2, 4, 64));
        assert_eq!((kv.tokens, kv.prefill, kv.decode_positions(), kv.element_bytes), (132, 100, 100..132, 2));
        assert!(kv.k.in_memory().unwrap().iter().all(|x| half::f16::from_f32(*x).to_f32() == *x));
    }

    #[test]
    fn same_bytes_for_any_thread_count() {
        let spec = SyntheticSpec { prefill: 200, ..small() };
        let with = |threads| {
            rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(|| generate(&spec).unwrap())
        };
        let one = with(1);
        assert_eq!(one, with(3));
        assert_ne!(one.k, generate(&SyntheticSpec { seed: 1, ..spec.clone() }).unwrap().k);
        let one = one.view().unwrap();
        assert_ne!(one.keys(0, 0).data, one.keys(0, 1).data);
        assert_ne!(one.keys(0, 0).data, one.keys(1, 0).data);
    }

    #[test]
    fn wrong_specifications_name_the_field() {
        let at = |edit: &dyn Fn(&mut SyntheticSpec)| {
            let mut spec = small();
            edit(&mut spec);
            match generate(&spec) {
                Err(Error::Config { at, .. }) => at,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(at(&|s| s.layers = 0), "synthetic.layers");
        assert_eq!(at(&|s| s.prefill = usize::MAX), "synthetic.prefill");
        assert_eq!(at(&|s| (s.prefill, s.layers, s.dim) = (1 << 31, 1 << 31, 1 << 31)), "synthetic.prefill");
        assert_eq!(at(&|s| s.prefill = 1 << 30), "synthetic.prefill");
        assert_eq!(at(&|s| s.query_heads = 3), "synthetic.query_heads");
        assert_eq!(at(&|s| s.dim = 63), "synthetic.dim");
        assert_eq!(at(&|s| s.element_bytes = 3), "synthetic.element_bytes");
        assert_eq!(at(&|s| s.sinks = 4000), "synthetic.sinks");
        assert_eq!(at(&|s| s.stray = f64::NAN), "synthetic.stray");
        assert_eq!(at(&|s| s.topic_score = 1e9), "synthetic.topic_score");
        let unknown = toml::from_str::<SyntheticSpec>("layer = 3").unwrap_err();
        assert!(unknown.to_string().contains("layers"), "{unknown}");
        assert_eq!(
            toml::from_str::<SyntheticSpec>("layers = 3").unwrap(),
            SyntheticSpec { layers: 3, ..Default::default() }
        );
    }

    #[test]
    fn degenerate_parameters_stay_finite() {
        let bare = SyntheticSpec {
            dim: 2,
            prefill: 1,
            decode_steps: 1,
            topics: 1,
            rope_theta: 1.0,
            sinks: 0,
            element_bytes: 4,
            noise_score: 0.0,
            ..small()
        };
        assert!(generate(&bare).is_ok());
        let strong = SyntheticSpec {
            prefill: 16,
            topic_score: 100.0,
            sink_score: 100.0,
            recency_score: 100.0,
            noise_score: 10.0,
            mean_key: 10.0,
            topic_spread: 1.0,
            ..small()
        };
        assert!(generate(&strong).is_ok());
    }

    fn dot(a: &[f32], b: &[f32]) -> f32 {
        a.iter().zip(b).map(|(x, y)| x * y).sum()
    }

    /// Indices of `scores`, best first.
    fn ranked(scores: &[f32]) -> Vec<usize> {
        let mut order: Vec<usize> = (0..scores.len()).collect();
        order.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]).then(a.cmp(b)));
        order
    }

    /// Groups of the first `blocks` blocks of 64 keys: four clusters by direction in each block.
    fn clusters(keys: super::super::Rows<'_>, blocks: usize) -> Vec<Vec<usize>> {
        let mut out = Vec::new();
        for block in 0..blocks {
            let unit: Vec<Vec<f32>> = (block * 64..(block + 1) * 64)
                .map(|t| {
                    let norm = dot(keys.row(t), keys.row(t)).sqrt();
                    keys.row(t).iter().map(|x| x / norm).collect()
                })
                .collect();
            let mut centroids = unit[..4].to_vec();
            let mut labels = vec![0usize; 64];
            for _ in 0..16 {
                for (label, x) in labels.iter_mut().zip(&unit) {
                    let distance = |c: &Vec<f32>| c.iter().zip(x).map(|(a, b)| (a - b).powi(2)).sum::<f32>();
                    *label =
                        (0..4).min_by(|a, b| distance(&centroids[*a]).total_cmp(&distance(&centroids[*b]))).unwrap();
                }
                for (c, centroid) in centroids.iter_mut().enumerate() {
                    let members: Vec<&Vec<f32>> =
                        unit.iter().zip(&labels).filter(|(_, l)| **l == c).map(|(x, _)| x).collect();
                    for (d, x) in centroid.iter_mut().enumerate() {
                        *x = members.iter().map(|m| m[d]).sum::<f32>() / members.len().max(1) as f32;
                    }
                }
            }
            out.extend((0..4).map(|c| (0..64).filter(|i| labels[*i] == c).map(|i| block * 64 + i).collect()));
        }
        out
    }

    /// Softmax mass of the top 5 % of the tokens and of the sinks, standard deviation of the scores, and for budgets
    /// of 128 and 256 tokens the mass of clusters of keys, of pages of 16 tokens, and of sinks and window.
    fn measure(spec: &SyntheticSpec) -> (f64, f64, f64, [[f64; 3]; 2]) {
        let kv = generate(spec).unwrap();
        let kv = kv.view().unwrap();
        let (mut top, mut sums, mut n) = (0.0, [[0.0f64; 3]; 2], 0.0);
        let (mut sinks, mut spread) = (0.0, 0.0);
        for (layer, head) in (0..kv.layers.len()).flat_map(|l| (0..kv.query_heads).map(move |h| (l, h))) {
            let keys = kv.keys(layer, head / kv.group());
            let clusters = clusters(keys, kv.prefill / 64);
            let centroid = |tokens: &[usize], q: &[f32]| {
                let sum: f32 =
                    tokens.iter().map(|t| dot(q, keys.row(*t)) / dot(keys.row(*t), keys.row(*t)).sqrt()).sum();
                sum / tokens.len().max(1) as f32
            };
            for i in 0..kv.queries {
                let q = kv.queries(layer, head).row(i);
                let len = kv.query_start + i + 1;
                let scores: Vec<f32> = (0..len).map(|t| dot(q, keys.row(t)) / (kv.dim as f32).sqrt()).collect();
                let max = scores.iter().copied().fold(f32::MIN, f32::max);
                let weights: Vec<f64> = scores.iter().map(|s| f64::from(s - max).exp()).collect();
                let total: f64 = weights.iter().sum();
                let mass = |tokens: &[usize]| tokens.iter().map(|t| weights[*t]).sum::<f64>() / total;
                top += mass(&ranked(&scores)[..len / 20]);
                sinks += mass(&[0, 1, 2, 3]);
                let mean = scores.iter().sum::<f32>() / len as f32;
                spread += f64::from(scores.iter().map(|s| (s - mean).powi(2)).sum::<f32>() / len as f32).sqrt();

                let pages: Vec<Vec<usize>> =
                    (0..len.div_ceil(16)).map(|p| (p * 16..len.min(p * 16 + 16)).collect()).collect();
                let bound = |page: &Vec<usize>| -> f32 {
                    (0..kv.dim).map(|d| page.iter().map(|t| q[d] * keys.row(*t)[d]).fold(f32::MIN, f32::max)).sum()
                };
                let page_order = ranked(&pages[..pages.len() - 1].iter().map(bound).collect::<Vec<_>>());
                let cluster_order = ranked(&clusters.iter().map(|c| centroid(c, q)).collect::<Vec<_>>());
                for (budget, sums) in [128, 256].into_iter().zip(&mut sums) {
                    let mut by_cluster: Vec<usize> = (kv.prefill..len).collect();
                    by_cluster.extend(cluster_order.iter().flat_map(|c| &clusters[*c]));
                    by_cluster.truncate(budget);
                    let mut by_page = pages[pages.len() - 1].clone();
                    by_page.extend(page_order[..budget / 16 - 1].iter().flat_map(|p| &pages[*p]));
                    let window: Vec<usize> = (0..4).chain(len + 4 - budget..len).collect();
                    for (sum, chosen) in sums.iter_mut().zip([by_cluster, by_page, window]) {
                        *sum += mass(&chosen);
                    }
                }
                n += 1.0;
            }
        }
        let sums = sums.map(|s| s.map(|x| x / n));
        (top / n, sinks / n, spread / n, sums)
    }

    #[test]
    fn attention_is_sparse_and_favours_clusters_over_pages_over_a_window() {
        for (seed, dim) in [(0, 64), (1, 64), (0, 128)] {
            let spec = SyntheticSpec { kv_heads: 8, query_heads: 16, dim, seed, ..small() };
            let (top, sinks, spread, masses) = measure(&spec);
            println!("top 5 % {top:.3}, sinks {sinks:.3}, score spread {spread:.2}, masses {masses:.3?}");
            assert!((0.85..0.99).contains(&top), "the top 5 % of the tokens hold {top}");
            assert!((0.02..0.3).contains(&sinks), "the sinks hold {sinks}");
            for [cluster, page, window] in masses {
                assert!(cluster > page + 0.03 && page > window + 0.03, "{masses:?}");
            }
        }
    }
}
