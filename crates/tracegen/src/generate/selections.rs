//! The selections of a run, made once, for as many mappings as wanted.

use super::Generator;
use super::choice::HeadChoice;
use super::chosen::Chosen;
use pimattn_core::cancel::Cancel;
use pimattn_core::error::{Error, Result};
use pimattn_core::memory;
use pimattn_core::spec::config::Document;
use pimattn_kv::{Elements, IN_MEMORY, KvCache};
use pimattn_mapping::workload::Workload;
use pimattn_policies::accuracy::{Accuracy, KeptAttention};
use pimattn_policies::select::recorded::HeadRecording;
use pimattn_policies::select::{HeadMemo, Preparation};
use pimattn_policies::selection::Selection;
use rayon::prelude::*;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// Keys of a workload, of the first level, on which no selection depends: where tokens lie, what work costs, and on what device.
/// `steps` is among them since a run may be cut short.
const OF_MAPPING: [&str; 11] = [
    "name",
    "system",
    "steps",
    "mapping",
    "placement",
    "schedule",
    "host",
    "selection_cost",
    "append_cost",
    "clustering_cost",
    "prefill_clustering_cost",
];

/// Bytes of the heads of caches in files that are selected for at the same time, at most, if these are several.
const TOGETHER: u64 = 384 << 20;

/// Keys of a workload, of the first level, on which its caches depend.
const OF_CACHES: [&str; 6] = ["kv", "layers", "synthetic", "model", "batch", "seed"];

/// The caches that are decoded, and which of them each request has.
pub struct CacheSet {
    caches: Vec<KvCache>,
    requests: Vec<usize>,
    hash: String,
    in_memory: bool,
    /// By cache, layer and KV head.
    memos: Vec<HeadMemo>,
    /// Likewise, by decode step, attention over all tokens; only where it is to be kept.
    attention: OnceLock<Vec<Vec<KeptAttention>>>,
}

impl CacheSet {
    /// Caches, of which each request has the one of its index.
    ///
    /// # Errors
    /// Those of reading their elements, which are hashed.
    pub fn new(caches: Vec<KvCache>, requests: Vec<usize>) -> Result<Self> {
        let hash = hash_of(&caches)?;
        let in_memory = caches.iter().all(KvCache::is_in_memory);
        let heads = caches.first().map_or(0, |c| c.layers.len() * c.kv_heads);
        let memos = (0..caches.len() * heads).map(|_| HeadMemo::default()).collect();
        Ok(CacheSet { caches, requests, hash, in_memory, memos, attention: OnceLock::new() })
    }

    /// Whether the elements of all caches are in memory.
    pub fn is_in_memory(&self) -> bool {
        self.in_memory
    }

    /// What was found of a KV head's prefill; `layer` is an index into the cache's. Requests of one cache share it.
    pub(super) fn memo(&self, request: usize, layer: usize, kv_head: usize) -> Option<&HeadMemo> {
        self.memos.get(self.index(request, layer, kv_head))
    }

    /// Keeps attention over all tokens from now on, so that what many runs select of these caches is judged against what one of them
    /// computes; unless that takes more than so many bytes.
    pub fn keep_attention(&self, most_bytes: u64) {
        let steps = |cache: &KvCache| cache.decode_positions().len();
        let bytes = |cache: &KvCache| {
            let heads = cache.layers.len() * cache.kv_heads;
            (heads * steps(cache)) as u64 * KeptAttention::bytes(cache.group(), cache.dim)
        };
        if self.caches.iter().map(bytes).sum::<u64>() <= most_bytes {
            self.attention.get_or_init(|| {
                let of_cache = |cache| {
                    let of_head = move |_| (0..steps(cache)).map(|_| KeptAttention::default()).collect();
                    (0..cache.layers.len() * cache.kv_heads).map(of_head)
                };
                self.caches.iter().flat_map(of_cache).collect()
            });
        }
    }

    /// By step, what is kept of a KV head's attention over all tokens; none where it is not kept.
    pub(super) fn kept_attention(&self, request: usize, layer: usize, kv_head: usize) -> Option<&[KeptAttention]> {
        self.attention.get()?.get(self.index(request, layer, kv_head)).map(Vec::as_slice)
    }

    /// Number of a request's KV head among those of all caches.
    fn index(&self, request: usize, layer: usize, kv_head: usize) -> usize {
        let cache = self.requests[request];
        let (layers, heads) = (self.caches[cache].layers.len(), self.caches[cache].kv_heads);
        (cache * layers + layer) * heads + kv_head
    }

    /// Hash of the keys, values and queries: a CRC-32 of each, over all caches, in hexadecimal digits. Caches that differ in it
    /// are not the same; that equal ones are is as good as certain where nobody makes them alike on purpose.
    pub fn hash(&self) -> &str {
        &self.hash
    }

    /// All caches.
    pub fn caches(&self) -> &[KvCache] {
        &self.caches
    }

    /// The cache that has the most tokens, the first of those.
    pub(super) fn longest(&self) -> Option<&KvCache> {
        self.caches.iter().rev().max_by_key(|cache| cache.tokens)
    }

    /// The cache of a request.
    pub fn of(&self, request: usize) -> &KvCache {
        &self.caches[self.requests[request]]
    }

    /// Requests.
    pub fn requests(&self) -> usize {
        self.requests.len()
    }
}

fn hash_of(caches: &[KvCache]) -> Result<String> {
    let tensors: [fn(&KvCache) -> &Elements; 3] = [|c| &c.k, |c| &c.v, |c| &c.q];
    let mut text = String::new();
    for tensor in tensors {
        let mut hash = crc32fast::Hasher::new();
        for cache in caches {
            let (crc, bytes) = tensor(cache).crc32(&Cancel::new())?;
            hash.combine(&crc32fast::Hasher::new_with_initial_len(crc, bytes));
        }
        text.push_str(&format!("{:08x}", hash.finalize()));
    }
    Ok(text)
}

/// What every head of a run selects at every step, kept beside the caches. Clones share it.
#[derive(Clone)]
pub struct Selections {
    cached: Arc<CacheSet>,
    /// By layer, request, KV head.
    heads: Arc<Vec<SelectedHead>>,
    /// What they depend on, as [`basis`] writes it.
    basis: String,
    steps: usize,
    measured: bool,
}

/// The selections of a head.
pub struct SelectedHead {
    /// What it selected.
    pub recording: HeadRecording,
    /// By step, what each query head kept of the attention; empty where it was not measured.
    pub accuracies: Vec<Vec<Accuracy>>,
}

impl Selections {
    /// The selections of a head, by its number among those of all layers and requests.
    pub fn head(&self, index: usize) -> &SelectedHead {
        &self.heads[index]
    }

    /// The caches.
    pub fn cached(&self) -> &Arc<CacheSet> {
        &self.cached
    }

    /// Whether what they keep of the attention was measured.
    pub fn is_measured(&self) -> bool {
        self.measured
    }

    /// Decode steps.
    pub fn steps(&self) -> usize {
        self.steps
    }

    /// Refuses a workload that would select something else.
    pub(super) fn check(&self, doc: &Document, kv: Option<&Path>) -> Result<()> {
        match basis(doc, kv)? == self.basis {
            true => Ok(()),
            false => Err(doc.error("", "selects otherwise than the run whose selections it is to use")),
        }
    }
}

/// What the selections of a workload depend on, as text: its configuration without what says where tokens lie and what work
/// costs, the folder that its paths begin in, and the dump that takes the place of its own.
///
/// # Errors
/// [`Error::Config`] where the configuration cannot be written as text.
pub fn basis(doc: &Document, kv: Option<&Path>) -> Result<String> {
    let mut table: toml::Table = doc.decode()?;
    for key in OF_MAPPING {
        table.remove(key);
    }
    text(doc, &table, kv)
}

/// What the caches of a workload depend on, as text.
///
/// # Errors
/// Those of [`basis`].
pub fn cache_basis(doc: &Document, kv: Option<&Path>) -> Result<String> {
    let mut table: toml::Table = doc.decode()?;
    table.retain(|key, _| OF_CACHES.contains(&key));
    text(doc, &table, kv)
}

/// A configuration as text, with the folder that its paths begin in, and the dump that takes the place of its own.
fn text(doc: &Document, table: &toml::Table, kv: Option<&Path>) -> Result<String> {
    let text = toml::to_string(table).map_err(|e| doc.error("", e.to_string()))?;
    let [folder, kv] = [doc.file().parent(), kv].map(|p| p.map_or_else(String::new, |p| p.display().to_string()));
    Ok(format!("{text}\n{folder}\n{kv}"))
}

/// Hash of what the selections of a workload depend on besides its caches: not its folders, since the same selection can be made
/// from many.
pub(super) fn selection_hash(workload: &Workload, doc: &Document) -> Result<u32> {
    let mut table: toml::Table = doc.decode()?;
    table.retain(|key, _| !OF_MAPPING.contains(&key) && (key == "seed" || !OF_CACHES.contains(&key)));
    if let Some(policies) = table.get_mut("policies").and_then(toml::Value::as_table_mut) {
        policies.retain(|name, _| *name == workload.policy);
    }
    let text = toml::to_string(&table).map_err(|e| doc.error("", e.to_string()))?;
    Ok(crc32fast::hash(text.as_bytes()))
}

/// Hash of what a run takes from a selection: its content, the layers that it is of, and the budget that it is measured by.
pub(super) fn imported_hash(selection: &Selection, workload: &Workload) -> u32 {
    let Workload { dense_layers, budget, .. } = workload;
    crc32fast::hash(format!("{:08x} {dense_layers} {budget}", selection.hash()).as_bytes())
}

/// Bytes of a KV head that is selected for, roughly: its rows, and as much again for what a policy makes of its keys.
fn head_bytes(cache: &KvCache, chosen: &Chosen, measure: bool) -> u64 {
    let rows = cache.tokens * if measure { 3 } else { 2 };
    let from_queries = chosen.prepares_from() == Preparation::Queries;
    let queries = if from_queries { cache.queries } else { cache.decode_positions().len() };
    let scores = 2 * cache.group() * cache.tokens;
    4 * ((rows + cache.group() * queries) * cache.dim + scores) as u64
}

/// What `work` makes of `0..count`, in order, no more than so many at the same time.
///
/// # Errors
/// The first of `work`, in order, of what was begun.
fn in_order<T: Send>(count: usize, together: usize, work: impl Fn(usize) -> Result<Vec<T>> + Sync) -> Result<Vec<T>> {
    let made: Vec<Vec<T>> = if together >= rayon::current_num_threads() {
        (0..count).into_par_iter().map(&work).collect::<Result<_>>()?
    } else {
        let next = AtomicUsize::new(0);
        let made = Mutex::new((0..count).map(|_| None).collect::<Vec<Option<Result<Vec<T>>>>>());
        rayon::scope(|scope| {
            for _ in 0..together {
                scope.spawn(|_| {
                    loop {
                        let at = next.fetch_add(1, Ordering::Relaxed);
                        if at >= count {
                            break;
                        }
                        let result = work(at);
                        if result.is_err() {
                            next.store(count, Ordering::Relaxed);
                        }
                        made.lock().unwrap_or_else(PoisonError::into_inner)[at] = Some(result);
                    }
                });
            }
        });
        made.into_inner().unwrap_or_else(PoisonError::into_inner).into_iter().flatten().collect::<Result<_>>()?
    };
    Ok(made.into_iter().flatten().collect())
}

impl Generator {
    /// Selects for all heads and steps, and maps nothing. With `measure`, what the selections keep of the attention is kept
    /// with them. `progress` hears how many heads are done.
    ///
    /// # Errors
    /// [`Error::Usage`] where it takes more memory than there is, those of reading the cache, and [`Error::Interrupted`].
    pub fn select(&self, cancel: &Cancel, measure: bool, progress: &(dyn Fn(u64) + Sync)) -> Result<Selections> {
        let (layers, requests) = (self.cache().layers.len(), self.requests());
        let places = (0..layers).flat_map(|l| (0..requests).map(move |r| (l, r)));
        // A layer at a time where its heads decide together, else a head.
        let units: Vec<(usize, usize, Range<usize>)> = places
            .flat_map(|(layer, request)| {
                let heads = self.cached.of(request).kv_heads;
                let size = if self.decides_together(layer, request) { heads } else { 1 };
                (0..heads).step_by(size).map(move |head| (layer, request, head..head + size))
            })
            .collect();
        self.check_memory(measure)?;
        let done = AtomicU64::new(0);
        let of_head = |mut choice: HeadChoice<'_>| {
            let mut recording = HeadRecording::of(choice.state());
            let mut accuracies = Vec::new();
            for step in 0..self.steps() {
                cancel.check()?;
                accuracies.extend(choice.step(step, measure));
                choice.record(&mut recording);
            }
            progress(done.fetch_add(1, Ordering::Relaxed) + 1);
            Ok(SelectedHead { recording, accuracies })
        };
        let of_unit = |at: usize| {
            let (layer, request, heads) = units[at].clone();
            cancel.check()?;
            let heads = HeadChoice::of_heads(self, layer, request, heads, measure)?;
            heads.into_par_iter().map(of_head).collect::<Result<Vec<_>>>()
        };
        let heads = in_order(units.len(), self.units_together(measure), of_unit)?;
        Ok(Selections {
            cached: self.cached.clone(),
            heads: Arc::new(heads),
            basis: self.basis.clone(),
            steps: self.steps(),
            measured: measure,
        })
    }

    /// What its heads have selected, as a selection that [`Selection::save`] writes and [`Generator::load_imported`] takes.
    ///
    /// # Errors
    /// [`Error::Usage`] where there are several requests: a selection is of one.
    pub fn selection(&self, selections: &Selections) -> Result<Selection> {
        if self.requests() != 1 {
            let what = format!("a selection file is of one request; the batch has {}", self.requests());
            return Err(Error::Usage(what));
        }
        let facts = self.chosen.facts(self.workload.budget);
        let heads: Vec<&HeadRecording> = selections.heads.iter().map(|head| &head.recording).collect();
        Ok(Selection::of_recordings(self.cache(), self.workload.dense_layers, facts, &heads))
    }

    /// Has the run take selections that it has made ([`Generator::select`]), in place of making them again.
    ///
    /// # Errors
    /// [`Error::Usage`] where another run has made them.
    pub fn reuse(&mut self, selections: Selections) -> Result<()> {
        let same = Arc::ptr_eq(&self.cached, &selections.cached)
            && self.basis == selections.basis
            && self.steps() <= selections.steps;
        if !same {
            return Err(Error::Usage("these selections are of another run".into()));
        }
        self.selections = Some(selections);
        Ok(())
    }

    /// Whether the KV heads of a layer decide together.
    fn decides_together(&self, layer: usize, request: usize) -> bool {
        match &self.chosen {
            Chosen::Policy(policy) => {
                !self.is_dense(self.cached.of(request).layers[layer]) && policy.decides_together()
            }
            Chosen::Imported(_) => false,
        }
    }

    /// Heads, or layers whose heads decide together, that are selected for at the same time: as many as there are threads, but of caches
    /// in files no more than [`TOGETHER`] bytes.
    fn units_together(&self, measure: bool) -> usize {
        if self.cached.is_in_memory() {
            return usize::MAX;
        }
        let most = self.cached.caches().iter().map(|cache| head_bytes(cache, &self.chosen, measure)).max();
        (TOGETHER / (self.heads_of_unit() * most.unwrap_or(1)).max(1)).max(1) as usize
    }

    /// An error where what is selected, and what it takes meanwhile, is more than there is memory.
    fn check_memory(&self, measure: bool) -> Result<()> {
        let cache = self.cache();
        let heads = (cache.layers.len() * self.requests() * cache.kv_heads) as u64;
        let queries = heads * cache.group() as u64 * self.steps() as u64;
        let measured = if measure { queries * size_of::<Accuracy>() as u64 } else { 0 };
        let meanwhile = match self.cached.is_in_memory() {
            true => 0,
            false => {
                let together = (rayon::current_num_threads() as u64).min(self.units_together(measure) as u64);
                let most = self.cached.caches().iter().map(|cache| head_bytes(cache, &self.chosen, measure)).max();
                together.min(heads) * self.heads_of_unit() * most.unwrap_or(0)
            }
        };
        let bytes = self.selection_bytes() + measured + meanwhile;
        if bytes <= IN_MEMORY {
            return Ok(());
        }
        let what = format!("what {} selects for {heads} KV heads in {} steps", self.chosen.name(), self.steps());
        memory::check(&format!("{what} (fewer steps or layers take less)"), bytes)
    }

    /// KV heads that are selected for together.
    fn heads_of_unit(&self) -> u64 {
        match &self.chosen {
            Chosen::Policy(policy) if policy.decides_together() => self.cache().kv_heads as u64,
            _ => 1,
        }
    }

    /// Bytes that [`Generator::select`] would keep, at most and roughly: tokens, and an order of tokens for each period of the
    /// policy.
    pub fn selection_bytes(&self) -> u64 {
        let cache = self.cache();
        let heads = (cache.layers.len() * self.requests() * cache.kv_heads) as u64;
        let (steps, len) = (self.steps() as u64, cache.tokens as u64);
        // A selection of all tokens is kept as such.
        let tokens = if self.chosen.heeds_budget() { len.min(self.workload.budget as u64) } else { 0 };
        let orders = if self.chosen.clusters() { steps.div_ceil(self.chosen.period() as u64) + 1 } else { 1 };
        heads * 4 * (steps * cache.group() as u64 * tokens + orders * len)
    }
}
