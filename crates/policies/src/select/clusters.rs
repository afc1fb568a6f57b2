//! One KV head whose keys are clustered group by group and selected by cluster: what STARC's versions and ClusterKV
//! share, their parameters' limits included.

use super::topk::TopK;
use super::{
    Clustering, HeadState, HeadView, Policy, PolicyError, Preparation, Scan, SlotOrder, StepView, require, select_all,
    size,
};
use crate::cluster::{Config, kmeans::KMeans};
use pimattn_kv::Rows;
use pimattn_kv::linalg;
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};

/// Checks a number of clusters or of tokens in one: at least 1, at most the tokens of a group, given with its key.
pub fn sizes(key: &str, size: usize, group: Option<(&str, usize)>) -> Result<(), PolicyError> {
    match group {
        None => require(size > 0, key, "must be at least 1"),
        Some((name, tokens)) => {
            require(tokens > 0, name, "must be at least 1")?;
            require((1..=tokens).contains(&size), key, format!("must be 1 to {tokens}, the {name}"))
        }
    }
}

/// Checks when K-means stops: its most iterations, and how far a centroid that has stopped may move.
pub fn limits(max_iterations: usize, tolerance: f32) -> Result<(), PolicyError> {
    require(max_iterations > 0, "max_iterations", "must be at least 1")?;
    require(tolerance >= 0.0 && tolerance.is_finite(), "tolerance", "must be a number of at least 0")
}

/// Clusters of a mean size in `tokens` tokens, at least one.
pub fn count(tokens: usize, cluster_size: usize) -> usize {
    (tokens / cluster_size).max(1)
}

/// Tables in which `key`, a mean cluster size, is the whole number of rows next below and above what it is.
pub fn whole_rows(key: &str, cluster_size: usize, row_keys: usize) -> Vec<toml::Table> {
    let rows = cluster_size / row_keys;
    let sizes = [rows.max(1), rows + 1].map(|rows| rows * row_keys);
    let mut tables: Vec<_> = sizes.iter().filter(|n| **n != cluster_size).map(|n| size(&[(key, *n)])).collect();
    tables.dedup();
    tables
}

/// A policy whose memory of a head is a [`ClusteredHead`]: all of them are alike as [`Policy`].
pub trait Clusterer: Send + Sync {
    /// Name in the registry.
    const NAME: &'static str;
    /// The smallest budget, in tokens: what is selected whatever the queries are.
    fn least_budget(&self) -> usize;
    /// New tokens that are clustered together; 1 where none are.
    fn group(&self) -> usize;
    /// Whether the seed decides what it keeps.
    fn is_drawn(&self) -> bool {
        false
    }
    /// As [`Policy::sizes`]: clusters made for rows.
    fn row_sizes(&self, row_keys: usize) -> Vec<toml::Table>;
    /// A head with its prefill clustered.
    fn head(&self, head: HeadView<'_>) -> ClusteredHead;
}

impl<C: Clusterer> Policy for C {
    fn name(&self) -> &'static str {
        C::NAME
    }

    fn min_budget(&self) -> usize {
        self.least_budget()
    }

    fn clusters(&self) -> bool {
        true
    }

    /// It clusters when as many new tokens have come.
    fn period(&self) -> usize {
        self.group()
    }

    fn prepares_from(&self) -> Preparation {
        Preparation::Keys
    }

    fn seed_decides(&self) -> bool {
        self.is_drawn()
    }

    fn sizes(&self, row_keys: usize) -> Vec<toml::Table> {
        self.row_sizes(row_keys)
    }

    fn prepare(&self, head: HeadView<'_>) -> Box<dyn HeadState + Send> {
        Box::new(self.head(head))
    }
}

/// Tokens `0..order.clustered` lie in clusters; later ones wait until there is a whole group of them.
///
/// A query selects all waiting tokens, then clusters by descending q·centroid (of equal scores, the earlier cluster)
/// while they fit into the budget; of the first that does not fit, its first tokens. Should the waiting tokens alone
/// exceed the budget, only the most recent of them are taken.
///
/// The first tokens may be pinned: they are a cluster of their own that every query selects before all else.
pub struct ClusteredHead {
    /// Tokens that are clustered together.
    group: usize,
    /// How a group is clustered.
    config: Config,
    /// Where the prompt ends whose rest is clustered at once, until it is.
    prompt: Option<usize>,
    /// Tokens behind a group that have to be there before it is clustered.
    behind: usize,
    kmeans: KMeans,
    rng: ChaCha8Rng,
    order: SlotOrder,
    /// Token in each slot `0..order.clustered`; ascending within a cluster.
    tokens: Vec<u32>,
    /// Tokens pinned.
    pinned: usize,
    /// Whether waiting tokens count against the budget; else they come on top of it.
    charged: bool,
    /// Of each (non-empty) cluster but the pinned one `[cluster, dim]`.
    centroids: Vec<f32>,
    /// Scratch of [`Self::append`]: size, then next free slot of each cluster of the group.
    next_slot: Vec<u32>,
    /// Of the centroids, per query head.
    scores: Vec<Vec<f32>>,
    topk: TopK,
    /// A bit for each clustered token that a query selects.
    marks: Vec<u64>,
    scan: Scan<'static>,
    /// Since the last `grow`.
    clusterings: Vec<Clustering>,
}

impl ClusteredHead {
    /// A head without clusters.
    pub fn new(head: HeadView<'_>, group: usize, config: Config) -> Self {
        Self {
            group,
            config,
            prompt: None,
            behind: 0,
            kmeans: KMeans::default(),
            rng: ChaCha8Rng::seed_from_u64(head.seed),
            order: SlotOrder::default(),
            tokens: Vec::with_capacity(head.keys.len()),
            pinned: 0,
            charged: true,
            centroids: Vec::new(),
            next_slot: Vec::new(),
            scores: Vec::new(),
            topk: TopK::default(),
            marks: Vec::new(),
            scan: Scan::Nothing,
            clusterings: Vec::new(),
        }
    }

    /// Pins the first tokens, before anything is clustered; says whether waiting tokens are charged to the budget.
    pub fn pin(&mut self, tokens: usize, charged: bool) {
        self.pinned = tokens;
        self.charged = charged;
        self.order.clustered = tokens as u32;
        self.order.cluster_starts.extend((tokens > 0).then_some(0));
        self.order.slot_of.extend(0..tokens as u32);
        self.tokens.extend(0..tokens as u32);
    }

    /// Has the tokens before `end` that fill no group clustered among themselves, once all are there; groups begin there.
    pub fn close_prompt(&mut self, end: usize) {
        self.prompt = Some(end);
    }

    /// Has a group clustered only when so many tokens have come behind it.
    pub fn wait_behind(&mut self, tokens: usize) {
        self.behind = tokens;
    }

    /// Clusters the next `count` tokens of `keys`, if any, and frees the memory that it took, which is much for a large group.
    pub fn append_prefill(&mut self, keys: Rows<'_>, count: usize, config: &Config) {
        if count > 0 {
            self.append(keys, count, config);
            self.kmeans = KMeans::default();
        }
    }

    /// Clusters the next `count` tokens of `keys`.
    fn append(&mut self, keys: Rows<'_>, count: usize, config: &Config) {
        let first = self.order.clustered;
        let keys = keys.range(first as usize..first as usize + count);
        self.kmeans.fit(keys.data, keys.dim, config, &mut self.rng);

        self.next_slot.clear();
        self.next_slot.resize(config.clusters, 0);
        for label in self.kmeans.labels() {
            self.next_slot[*label as usize] += 1;
        }
        let mut start = first;
        for (next, centroid) in self.next_slot.iter_mut().zip(self.kmeans.centroids().chunks_exact(keys.dim)) {
            let size = std::mem::replace(next, start);
            if size > 0 {
                self.order.cluster_starts.push(start);
                self.centroids.extend_from_slice(centroid);
                start += size;
            }
        }
        self.tokens.resize(start as usize, 0);
        for (token, label) in (first..).zip(self.kmeans.labels()) {
            let next = &mut self.next_slot[*label as usize];
            self.order.slot_of.push(*next);
            self.tokens[*next as usize] = token;
            *next += 1;
        }
        self.order.clustered = start;
        self.clusterings.push(Clustering {
            first,
            tokens: count as u32,
            clusters: config.clusters as u32,
            iterations: self.kmeans.iterations() as u32,
        });
    }

    /// Clusters all whole groups of the tokens of `keys`, and the prompt's rest; whether there was anything to cluster.
    pub fn append_groups(&mut self, keys: Rows<'_>) -> bool {
        let before = self.order.clustered;
        let len = keys.len().saturating_sub(self.behind);
        if let Some(end) = self.prompt.take_if(|end| *end <= len) {
            self.append_whole(keys, end);
            let rest = end - self.order.clustered as usize;
            if rest > 0 {
                let clusters = (rest * self.config.clusters).div_ceil(self.group);
                self.append(keys, rest, &Config { clusters, ..self.config });
            }
        }
        self.append_whole(keys, len);
        self.order.clustered > before
    }

    fn append_whole(&mut self, keys: Rows<'_>, len: usize) {
        let groups = len.saturating_sub(self.order.clustered as usize) / self.group;
        let config = self.config;
        (0..groups).for_each(|_| self.append(keys, self.group, &config));
    }

    /// Tokens of a cluster that has a centroid, ascending.
    fn members(&self, cluster: usize) -> &[u32] {
        let starts = &self.order.cluster_starts[usize::from(self.pinned > 0)..];
        let end = starts.get(cluster + 1).copied().unwrap_or(self.order.clustered);
        &self.tokens[starts[cluster] as usize..end as usize]
    }
}

impl HeadState for ClusteredHead {
    fn grow(&mut self, keys: Rows<'_>) {
        self.clusterings.clear();
        self.order.version += u32::from(self.append_groups(keys));
    }

    fn select(&mut self, step: StepView<'_>, out: &mut [Vec<u32>]) {
        let clustered = self.order.clustered as usize;
        let pinned = self.pinned.min(step.budget);
        let mut room = step.budget - pinned;
        let mut waiting = clustered..step.tokens();
        let mut all = clustered <= step.budget;
        if self.charged {
            waiting.start = clustered.max(step.tokens().saturating_sub(room));
            room -= waiting.len();
            all = step.tokens() <= step.budget;
        }
        let mut scores = std::mem::take(&mut self.scores);
        let mut topk = std::mem::take(&mut self.topk);
        let mut marks = std::mem::take(&mut self.marks);
        marks.resize(clustered.div_ceil(64), 0);
        let count = self.centroids.len() / step.keys.dim;
        scores.resize(step.queries.len(), Vec::new());
        if all {
            self.scan = Scan::Nothing;
        } else {
            self.scan = Scan::vectors(1, count, step.keys.dim);
            scores.iter_mut().for_each(|scores| scores.resize(count, 0.0));
            linalg::all_dots(step.queries, &self.centroids, &mut scores);
        }
        for (scores, out) in scores.iter().zip(out) {
            if all {
                select_all(step.tokens(), out);
                continue;
            }
            out.clear();
            out.extend(0..pinned as u32);
            let mut room = room;
            for cluster in topk.sorted(scores) {
                let members = self.members(cluster as usize);
                let taken = members.len().min(room);
                members[..taken].iter().for_each(|token| marks[*token as usize / 64] |= 1 << (token % 64));
                room -= taken;
                if room == 0 {
                    break;
                }
            }
            for (marks, first) in marks.iter_mut().zip((0..).step_by(64)) {
                let mut left = std::mem::take(marks);
                while left != 0 {
                    out.push(first + left.trailing_zeros());
                    left &= left - 1;
                }
            }
            out.extend(waiting.start as u32..waiting.end as u32);
        }
        self.scores = scores;
        self.topk = topk;
        self.marks = marks;
    }

    fn order(&self) -> &SlotOrder {
        &self.order
    }

    fn scan(&self) -> Scan<'_> {
        self.scan
    }

    fn clusterings(&self) -> &[Clustering] {
        &self.clusterings
    }
}
