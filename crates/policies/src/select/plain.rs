//! Policies said plainly: the oracles of their fast versions. A step is answered for every query head; only where the
//! cache outgrows the budget, unless said.

use super::clusterkv::ClusterKv;
use super::infinigen::Infinigen;
use super::quest::Quest;
use super::sparq::Sparq;
use super::starc::{Starc, Tail};
use super::starc_v1::StarcV1;
use super::streaming::Streaming;
use super::{HeadView, Per, PolicyError, StepView, parse};
use crate::cluster::{Config, plain::kmeans};
use pimattn_kv::Rows;
use pimattn_kv::linalg;
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

/// What each query head selects at a step; steps come in order.
pub type Plain<'a> = Box<dyn FnMut(StepView<'_>) -> Vec<Vec<u32>> + 'a>;

/// The plain version of a policy of the registry with the parameters of `table`; none for a policy that has its oracle in
/// its own file.
///
/// # Errors
/// Where the policy refuses its table.
pub fn of<'a>(name: &str, table: &toml::Table, head: HeadView<'a>) -> Result<Option<Plain<'a>>, PolicyError> {
    let keys = head.keys;
    let mut chosen: Plain<'a> = match name {
        "full" => Box::new(|step| each(step, |_| ascending(0..step.tokens()))),
        "oracle" => Box::new(move |step| oracle(keys, step)),
        "streaming" => {
            let policy: Streaming = parse(table)?;
            Box::new(move |step| streaming(&policy, step))
        }
        "quest" => {
            let policy: Quest = parse(table)?;
            Box::new(move |step| quest(&policy, keys, step))
        }
        "sparq" => {
            let policy: Sparq = parse(table)?;
            Box::new(move |step| sparq(&policy, keys, step).tokens)
        }
        "infinigen" | "infinigen-filled" => {
            let mut policy: Infinigen = parse(table)?;
            policy.fill |= name == "infinigen-filled";
            Box::new(move |step| infinigen(&policy, &[(head, step)]).remove(0))
        }
        "h2o" => {
            let mut state = PlainH2o::new(&parse(table)?, head);
            return Ok(Some(Box::new(move |step| state.step(step))));
        }
        "clusterkv" => {
            let clustered = clusterkv(&parse(table)?, head);
            return Ok(Some(Box::new(move |step| clustered.select(step))));
        }
        "starc" => {
            let groups = starc(&parse(table)?, head);
            Box::new(move |step| groups.select(step))
        }
        "starc-v1" => {
            let groups = starc_v1(&parse(table)?, head);
            Box::new(move |step| groups.select(step))
        }
        _ => return Ok(None),
    };
    Ok(Some(Box::new(move |step| match step.tokens() <= step.budget {
        true => each(step, |_| ascending(0..step.tokens())),
        false => chosen(step),
    })))
}

fn each<T>(step: StepView<'_>, of: impl Fn(&[f32]) -> T) -> Vec<T> {
    step.queries.iter().map(|query| of(query)).collect()
}

/// `oracle`, one step.
pub fn oracle(keys: Rows<'_>, step: StepView<'_>) -> Vec<Vec<u32>> {
    each(step, |query| {
        let scores: Vec<f32> = (0..step.tokens()).map(|t| linalg::dot(query, keys.row(t))).collect();
        ascending(ranking(&scores).into_iter().take(step.budget))
    })
}

/// `streaming`, one step.
pub fn streaming(policy: &Streaming, step: StepView<'_>) -> Vec<Vec<u32>> {
    let sinks = policy.sinks.min(step.budget);
    each(step, |_| ascending((0..step.tokens()).filter(|t| *t < sinks || t + step.budget >= step.tokens() + sinks)))
}

/// `quest`, one step.
pub fn quest(policy: &Quest, keys: Rows<'_>, step: StepView<'_>) -> Vec<Vec<u32>> {
    let Quest { page, min_pages } = *policy;
    let pages: Vec<Vec<usize>> =
        (0..(step.tokens() - 1) / page).map(|p| (p * page..(p + 1) * page).collect()).collect();
    let last = pages.len() * page..step.tokens();
    each(step, |query| {
        let bound = |page: &Vec<usize>| {
            let products = query.iter().enumerate().map(|(d, q)| {
                let column = || page.iter().map(|t| keys.row(*t)[d]);
                let (min, max) = (column().fold(f32::INFINITY, f32::min), column().fold(f32::NEG_INFINITY, f32::max));
                (q * min).max(q * max)
            });
            // Their sum, in the documented order.
            linalg::dot(&products.collect::<Vec<f32>>(), &vec![1.0; query.len()])
        };
        let scores: Vec<f32> = pages.iter().map(bound).collect();
        let slots = (step.budget / page).max(min_pages) - 1;
        let best = ranking(&scores).into_iter().take(slots).flat_map(|p| pages[p].iter().copied());
        ascending(best.chain(last.clone()))
    })
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
    let scores = each(step, |query| {
        let score = |t: usize| dims.iter().map(|d| *d as usize).fold(0f32, |sum, d| sum + query[d] * keys.row(t)[d]);
        (0..step.tokens()).map(score).collect::<Vec<f32>>()
    });
    let choose = |scores: &[f32]| {
        let mut best = ranking(scores);
        // The local tokens first, then the others by score.
        best.sort_by_key(|t| t + policy.local.min(step.budget) < step.tokens());
        ascending(best.into_iter().take(step.budget))
    };
    let mut together = vec![0f32; step.tokens()];
    for (query, scores) in step.queries.iter().zip(&scores) {
        let scale = policy.scale(query, &dims);
        together.iter_mut().zip(scores).for_each(|(sum, score)| *sum += score * scale);
    }
    let (mut tokens, mut shares) = (Vec::new(), Vec::new());
    for (query, scores) in step.queries.iter().zip(&scores) {
        let selected = choose(if policy.per == Per::Group { &together } else { scores });
        let sum = |x: &mut dyn Iterator<Item = f32>| x.map(|x| f64::from(x.abs())).sum::<f64>();
        let read = sum(&mut dims.iter().map(|d| query[*d as usize]));
        let all = sum(&mut query.iter().copied());
        let scale = if read > 0.0 { 1.0 / (keys.dim as f64 * read / all).sqrt() } else { 1.0 };
        let highest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let weight = |t: usize| (scale * f64::from(scores[t] - highest)).exp();
        let mass: f64 = (0..step.tokens()).map(weight).sum();
        shares.push(selected.iter().map(|t| weight(*t as usize)).sum::<f64>() / mass);
        tokens.push(selected);
    }
    SparqStep { dims, tokens, shares }
}

/// `infinigen`, one step of the KV heads of a layer.
pub fn infinigen(policy: &Infinigen, layer: &[(HeadView<'_>, StepView<'_>)]) -> Vec<Vec<Vec<u32>>> {
    let scores: Vec<Vec<Vec<f32>>> = layer.iter().map(|(head, step)| speculated(policy, *head, *step)).collect();
    let near = |scores: &Vec<f32>| {
        let highest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        scores.iter().filter(|score| **score > highest - policy.alpha || **score == highest).count()
    };
    let mean = |heads: &[Vec<f32>]| heads.iter().map(near).sum::<usize>() / heads.len();
    let all = mean(&scores.concat());
    let select = |(heads, (_, step)): (&Vec<Vec<f32>>, &(HeadView<'_>, StepView<'_>))| {
        let n = match (policy.fill, policy.mean) {
            (true, _) => step.budget,
            (false, Per::Layer) => all,
            (false, _) => mean(heads),
        };
        heads.iter().map(|scores| ascending(ranking(scores).into_iter().take(n.min(step.budget)))).collect()
    };
    scores.iter().zip(layer).map(select).collect()
}

/// The scores of a KV head by which `infinigen` selects, of each query head.
fn speculated(policy: &Infinigen, head: HeadView<'_>, step: StepView<'_>) -> Vec<Vec<f32>> {
    let (keys, dim) = (head.keys, head.keys.dim);
    let rotation = |of: &[usize]| -> Vec<Vec<f32>> {
        let queries = of.iter().flat_map(|h| head.prefill_queries(*h).data.chunks_exact(dim));
        let mut source: Vec<&[f32]> = queries.collect();
        if source.is_empty() {
            source = keys.range(0..head.prefill).data.chunks_exact(dim).collect();
        }
        let between = |i: usize, j: usize| source.iter().fold(0.0, |sum, x| sum + f64::from(x[i]) * f64::from(x[j]));
        let gram = (0..dim * dim).map(|at| between(at / dim, at % dim)).collect();
        let (_, vectors) = linalg::eigenvectors(gram, dim);
        let vectors: Vec<f32> = vectors.into_iter().map(|x| x as f32).collect();
        let mut columns: Vec<Vec<f32>> = vectors.chunks_exact(dim).map(<[f32]>::to_vec).collect();
        let magnitude = |column: &[f32]| source.iter().map(|x| f64::from(linalg::dot(x, column).abs())).sum::<f64>();
        columns.sort_by(|a, b| magnitude(b).total_cmp(&magnitude(a)));
        columns.truncate(policy.kept(dim));
        columns
    };
    let all: Vec<usize> = (0..step.queries.len()).collect();
    let scale = (dim as f32).sqrt().recip();
    let of_head = |(h, query): (usize, &&[f32])| {
        let columns = rotation(if policy.rotation == Per::Head { &all[h..=h] } else { &all });
        let rotate = |x: &[f32]| columns.iter().map(|column| linalg::dot(x, column)).collect::<Vec<f32>>();
        let query: Vec<f32> = rotate(query).iter().map(|x| x * scale).collect();
        let score = |t| query.iter().zip(rotate(keys.row(t))).fold(0f32, |sum, (q, k)| sum + q * k);
        (0..step.tokens()).map(score).collect()
    };
    step.queries.iter().enumerate().map(of_head).collect()
}

/// `h2o`, step by step, from the prefill on.
#[derive(Debug, Clone)]
pub struct PlainH2o<'a> {
    policy: super::h2o::H2o,
    keys: Rows<'a>,
    /// Per query head and token: the sum of probabilities, or that it is evicted.
    sums: Vec<Vec<Option<f32>>>,
}

impl<'a> PlainH2o<'a> {
    /// After the prefill.
    pub fn new(policy: &super::h2o::H2o, head: HeadView<'a>) -> Self {
        let sums = vec![vec![Some(0.0); head.keys.len()]; head.queries.heads];
        let mut state = PlainH2o { policy: policy.clone(), keys: head.keys, sums };
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
            let there = self.there(h, step.tokens());
            if there.len() > step.budget {
                let others = &there[..there.len() - recent];
                let sums: Vec<f32> = others.iter().map(|t| self.sums[h][*t].expect("there")).collect();
                let least = ranking(&sums).split_off(self.policy.heavy_hitters(step.budget));
                least.into_iter().for_each(|i| self.sums[h][others[i]] = None);
            }
            self.attend(h, query, step.tokens());
            ascending(self.there(h, step.tokens()))
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

/// Members and centroid of a cluster that has any.
pub type Cluster = (Vec<usize>, Vec<f32>);

/// K-means of the tokens `from..to`; the clusters without members are left out.
fn cluster(keys: Rows<'_>, from: usize, to: usize, config: &Config, rng: &mut ChaCha8Rng) -> Vec<Cluster> {
    let found = kmeans(keys.range(from..to).data, keys.dim, config, rng);
    let members = |label: u32| (from..to).filter(|t| found.labels[t - from] == label).collect::<Vec<usize>>();
    let clusters =
        (0..).zip(found.centroids.chunks_exact(keys.dim)).map(|(l, centroid)| (members(l), centroid.to_vec()));
    clusters.filter(|(members, _)| !members.is_empty()).collect()
}

/// Tokens of clusters, the best of these first.
fn by_score<'c>(query: &[f32], clusters: &'c [Cluster]) -> impl Iterator<Item = usize> + use<'c> {
    let scores: Vec<f32> = clusters.iter().map(|(_, centroid)| linalg::dot(query, centroid)).collect();
    ranking(&scores).into_iter().flat_map(|c| clusters[c].0.iter().copied())
}

/// Clusters of `starc` and `starc-v1`: of groups of consecutive tokens, one after the other.
#[derive(Debug, Clone)]
pub struct Groups {
    /// Where each group ends: it is clustered once there are so many tokens.
    ends: Vec<usize>,
    /// In the order of their groups.
    clusters: Vec<Cluster>,
}

impl Groups {
    /// Groups that end where `ends` says, ascending; those beyond the keys are left out.
    fn new(head: HeadView<'_>, ends: impl Iterator<Item = usize>, config: impl Fn(usize) -> Config) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(head.seed);
        let mut groups = Groups { ends: vec![0], clusters: Vec::new() };
        for end in ends.take_while(|end| *end <= head.keys.len()) {
            let first = groups.ends[groups.ends.len() - 1];
            groups.clusters.extend(cluster(head.keys, first, end, &config(end - first), &mut rng));
            groups.ends.push(end);
        }
        groups
    }

    /// Of `len` tokens, those in whole groups.
    fn clustered(&self, len: usize) -> usize {
        self.ends[self.ends.partition_point(|end| *end <= len) - 1]
    }

    /// Clusters that there are when there are `len` tokens.
    pub fn before(&self, len: usize) -> &[Cluster] {
        &self.clusters[..self.clusters.partition_point(|(members, _)| members[0] < self.clustered(len))]
    }

    /// The selection of each query head.
    pub fn select(&self, step: StepView<'_>) -> Vec<Vec<u32>> {
        let waiting = self.clustered(step.tokens())..step.tokens();
        each(step, |query| {
            ascending(waiting.clone().rev().chain(by_score(query, self.before(step.tokens()))).take(step.budget))
        })
    }
}

/// `starc`, clustered.
pub fn starc(policy: &Starc, head: HeadView<'_>) -> Groups {
    let block = policy.block;
    let prompt = match policy.tail {
        Tail::Wait => 0,
        Tail::Permanent => head.prefill + policy.phase,
    };
    // Blocks from the first token on, then blocks from behind the prompt on.
    let rest = Some(prompt).filter(|prompt| prompt % block > 0);
    let ends = (1..).map(|i| i * block).take_while(|end| *end <= prompt).chain(rest);
    Groups::new(head, ends.chain((1..).map(|i| prompt + i * block)), |tokens| Config {
        clusters: (tokens * policy.clusters).div_ceil(block),
        ..policy.config()
    })
}

/// `starc-v1`, clustered.
pub fn starc_v1(policy: &StarcV1, head: HeadView<'_>) -> Groups {
    let prompt = Some(head.prefill).filter(|prompt| *prompt > 0);
    let ends = prompt.into_iter().chain((1..).map(|i| head.prefill + i * policy.buffer));
    Groups::new(head, ends, |tokens| policy.config(tokens))
}

/// The tokens of `clusterkv` behind its sinks.
#[derive(Debug, Clone)]
pub struct Clustered {
    policy: ClusterKv,
    prefill: usize,
    /// All but the sinks, in the order of their groups: the prefill's, and those of every window.
    clusters: Vec<Cluster>,
}

/// `clusterkv`, clustered.
pub fn clusterkv(policy: &ClusterKv, head: HeadView<'_>) -> Clustered {
    let sinks = policy.sinks.min(head.prefill);
    let mut rng = ChaCha8Rng::seed_from_u64(head.seed);
    let mut clusters = Vec::new();
    if sinks < head.prefill {
        clusters.extend(cluster(head.keys, sinks, head.prefill, &policy.config(head.prefill), &mut rng));
    }
    for end in (head.prefill + policy.window..head.keys.len()).step_by(policy.window) {
        clusters.extend(cluster(head.keys, end - policy.window, end, &policy.window_config(), &mut rng));
    }
    Clustered { policy: policy.clone(), prefill: head.prefill, clusters }
}

impl Clustered {
    /// Of `len` tokens, those that are sinks or clustered: of the generated ones, whole windows before the last token.
    pub fn clustered(&self, len: usize) -> usize {
        self.prefill + (len - 1 - self.prefill) / self.policy.window * self.policy.window
    }

    /// Clusters that there are when there are `len` tokens.
    pub fn before(&self, len: usize) -> &[Cluster] {
        &self.clusters[..self.clusters.partition_point(|(members, _)| members[0] < self.clustered(len))]
    }

    /// The selection of each query head; also where all tokens fit.
    pub fn select(&self, step: StepView<'_>) -> Vec<Vec<u32>> {
        each(step, |query| {
            let sinks = 0..self.policy.sinks.min(self.prefill);
            let generated = (self.clustered(step.tokens())..step.tokens()).rev();
            let clustered = by_score(query, self.before(step.tokens()));
            if self.policy.charge_generated {
                ascending(sinks.chain(generated).chain(clustered).take(step.budget))
            } else {
                ascending(sinks.chain(clustered).take(step.budget).chain(generated))
            }
        })
    }
}
