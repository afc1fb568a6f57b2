//! Policies said plainly: the oracles of their fast versions. A step is answered for every query head; only where the
//! cache outgrows the budget, unless said.

use super::clusterkv::ClusterKv;
use super::infinigen::Infinigen;
use super::sparq::Sparq;
use super::{HeadView, StepView};
use crate::cluster::plain::kmeans;
use crate::kv::Rows;
use crate::linalg;
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};

/// Indices by descending score, ties by ascending index.
pub fn ranking(scores: &[f32]) -> Vec<usize> {
    let mut indices: Vec<usize> = (0..scores.len()).collect();
    indices.sort_by(|a, b| scores[*b].partial_cmp(&scores[*a]).expect("a number"));
    indices
}

fn ascending(tokens: impl IntoIterator<Item = usize>) -> Vec<u32> {
    let mut tokens: Vec<u32> = tokens.into_iter().map(|t| t as u32).collect();
    tokens.sort_unstable();
    tokens
}

/// A step of [`sparq`].
#[derive(Debug, Clone, PartialEq)]
pub struct SparqStep {
    /// Dimensions read, ascending.
    pub dims: Vec<u32>,
    /// Tokens selected, per query head.
    pub tokens: Vec<Vec<u32>>,
    /// Softmax mass of the approximate scores on them, per query head.
    pub shares: Vec<f64>,
}

/// `sparq`, one step.
pub fn sparq(policy: &Sparq, keys: Rows<'_>, step: StepView<'_>) -> SparqStep {
    let magnitudes: Vec<f32> =
        (0..keys.dim).map(|d| step.queries.iter().fold(0.0, |sum, q| sum + q[d].abs())).collect();
    let dims = ascending(ranking(&magnitudes).into_iter().take(policy.r));
    let (mut tokens, mut shares) = (Vec::new(), Vec::new());
    for query in step.queries {
        let score = |t: usize| dims.iter().map(|d| *d as usize).fold(0f32, |sum, d| sum + query[d] * keys.row(t)[d]);
        let scores: Vec<f32> = (0..step.len).map(score).collect();
        let mut best = ranking(&scores);
        // The local tokens first, then the others by score.
        best.sort_by_key(|t| t + policy.local.min(step.budget) < step.len);
        let selected = ascending(best.into_iter().take(step.budget));

        let sum = |x: &mut dyn Iterator<Item = f32>| x.map(|x| f64::from(x.abs())).sum::<f64>();
        let read = sum(&mut dims.iter().map(|d| query[*d as usize]));
        let all = sum(&mut query.iter().copied());
        let scale = if read > 0.0 { 1.0 / (keys.dim as f64 * read / all).sqrt() } else { 1.0 };
        let highest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let weight = |t: usize| (scale * f64::from(scores[t] - highest)).exp();
        let mass: f64 = (0..step.len).map(weight).sum();
        shares.push(selected.iter().map(|t| weight(*t as usize)).sum::<f64>() / mass);
        tokens.push(selected);
    }
    SparqStep { dims, tokens, shares }
}

/// `infinigen`, one step.
pub fn infinigen(policy: &Infinigen, head: HeadView<'_>, step: StepView<'_>) -> Vec<Vec<u32>> {
    let (keys, dim) = (head.keys, head.keys.dim);
    let queries = (0..head.queries.heads).flat_map(|h| head.prefill_queries(h).data.chunks_exact(dim));
    let mut source: Vec<&[f32]> = queries.collect();
    if source.is_empty() {
        source = keys.range(0..head.prefill).data.chunks_exact(dim).collect();
    }
    let between = |i: usize, j: usize| source.iter().fold(0.0, |sum, x| sum + f64::from(x[i]) * f64::from(x[j]));
    let gram = (0..dim * dim).map(|at| between(at / dim, at % dim)).collect();
    let (_, vectors) = linalg::eigenvectors(gram, dim);
    let vectors: Vec<f32> = vectors.into_iter().map(|x| x as f32).collect();
    let mut columns: Vec<&[f32]> = vectors.chunks_exact(dim).collect();
    let magnitude = |column: &[f32]| source.iter().map(|x| f64::from(linalg::dot(x, column).abs())).sum::<f64>();
    columns.sort_by(|a, b| magnitude(b).total_cmp(&magnitude(a)));
    columns.truncate(policy.kept(dim));

    let rotate = |x: &[f32]| columns.iter().map(|column| linalg::dot(x, column)).collect::<Vec<f32>>();
    let rotated: Vec<Vec<f32>> = (0..step.len).map(|t| rotate(keys.row(t))).collect();
    let scale = (dim as f32).sqrt().recip();
    let scores: Vec<Vec<f32>> = step
        .queries
        .iter()
        .map(|query| {
            let query: Vec<f32> = rotate(query).iter().map(|x| x * scale).collect();
            rotated.iter().map(|key| query.iter().zip(key).fold(0f32, |sum, (q, k)| sum + q * k)).collect()
        })
        .collect();
    let near = |scores: &Vec<f32>| {
        let highest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        scores.iter().filter(|score| **score > highest - policy.alpha || **score == highest).count()
    };
    let mean = scores.iter().map(near).sum::<usize>() / scores.len();
    scores.iter().map(|scores| ascending(ranking(scores).into_iter().take(mean.min(step.budget)))).collect()
}

/// `h2o`, step by step, from the prefill on.
#[derive(Debug, Clone)]
pub struct H2o<'a> {
    policy: super::h2o::H2o,
    keys: Rows<'a>,
    /// Per query head and token: the sum of probabilities, or that it is evicted.
    sums: Vec<Vec<Option<f32>>>,
}

impl<'a> H2o<'a> {
    /// After the prefill.
    pub fn new(policy: &super::h2o::H2o, head: HeadView<'a>) -> Self {
        let sums = vec![vec![Some(0.0); head.keys.len()]; head.queries.heads];
        let mut state = H2o { policy: policy.clone(), keys: head.keys, sums };
        for h in 0..head.queries.heads {
            for (i, query) in head.prefill_queries(h).data.chunks_exact(head.keys.dim).enumerate() {
                state.attend(h, query, head.query_start + i + 1);
            }
        }
        state
    }

    /// The selection of each query head; also where all tokens fit.
    pub fn step(&mut self, step: StepView<'_>) -> Vec<Vec<u32>> {
        let recent = step.budget - self.policy.heavy_hitters(step.budget);
        let answer = |(h, query): (usize, &&[f32])| {
            while self.there(h, step.len).len() > step.budget {
                let there = self.there(h, step.len);
                let candidates = there[..there.len() - recent].iter().rev();
                let sum = |t: &usize| self.sums[h][*t].expect("there");
                let least = candidates.min_by(|a, b| sum(a).total_cmp(&sum(b))).expect("more than recent tokens");
                self.sums[h][*least] = None;
            }
            self.attend(h, query, step.len);
            ascending(self.there(h, step.len))
        };
        step.queries.iter().enumerate().map(answer).collect()
    }

    fn there(&self, head: usize, len: usize) -> Vec<usize> {
        (0..len).filter(|t| self.sums[head][*t].is_some()).collect()
    }

    fn attend(&mut self, head: usize, query: &[f32], len: usize) {
        let there = self.there(head, len);
        let scores: Vec<f32> = there.iter().map(|t| linalg::dot(query, self.keys.row(*t))).collect();
        let mut weights = vec![0.0; scores.len()];
        let mass = linalg::exp_weights(&scores, (query.len() as f32).sqrt().recip(), &mut weights);
        for (token, weight) in there.into_iter().zip(weights) {
            self.sums[head][token] = self.sums[head][token].map(|sum| sum + weight / mass);
        }
    }
}

/// The prefill of `clusterkv`.
#[derive(Debug, Clone)]
pub struct Clustered {
    policy: ClusterKv,
    prefill: usize,
    /// Members and centroid of each.
    pub clusters: Vec<(Vec<usize>, Vec<f32>)>,
}

/// `clusterkv`, clustered.
pub fn clusterkv(policy: &ClusterKv, head: HeadView<'_>) -> Clustered {
    let (dim, sinks) = (head.keys.dim, policy.sinks.min(head.prefill));
    let mut clusters = Vec::new();
    if sinks < head.prefill {
        let asked = (head.prefill / policy.cluster_size).max(1).min(head.prefill - sinks);
        let config =
            crate::cluster::Config { clusters: asked, max_iterations: policy.max_iterations, start: policy.start };
        let keys = head.keys.range(sinks..head.prefill);
        let found = kmeans(keys.data, dim, &config, &mut ChaCha8Rng::seed_from_u64(head.seed));
        for (label, centroid) in found.centroids.chunks_exact(dim).enumerate() {
            let members = (0..keys.len()).filter(|i| found.labels[*i] == label as u32);
            let members: Vec<usize> = members.map(|i| sinks + i).collect();
            if !members.is_empty() {
                clusters.push((members, centroid.to_vec()));
            }
        }
    }
    Clustered { policy: policy.clone(), prefill: head.prefill, clusters }
}

impl Clustered {
    /// The selection of each query head; also where all tokens fit.
    pub fn select(&self, step: StepView<'_>) -> Vec<Vec<u32>> {
        let answer = |query: &&[f32]| {
            let scores: Vec<f32> = self.clusters.iter().map(|(_, centroid)| linalg::dot(query, centroid)).collect();
            let sinks = 0..self.policy.sinks.min(self.prefill);
            let generated = (self.prefill..step.len).rev();
            let clustered = ranking(&scores).into_iter().flat_map(|c| self.clusters[c].0.iter().copied());
            if self.policy.charge_generated {
                ascending(sinks.chain(generated).chain(clustered).take(step.budget))
            } else {
                ascending(sinks.chain(clustered).take(step.budget).chain(generated))
            }
        };
        step.queries.iter().map(answer).collect()
    }
}
