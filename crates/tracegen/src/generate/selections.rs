//! The selections of a run, made once, for as many mappings as wanted.

use pimattn_core::cancel::Cancel;
use pimattn_core::error::Result;
use pimattn_core::spec::config::Document;
use pimattn_kv::{Elements, KvCache};
use pimattn_mapping::workload::Workload;
use pimattn_policies::accuracy::{Accuracy, KeptAttention};
use pimattn_policies::select::HeadMemo;
use pimattn_policies::select::recorded::HeadRecording;
use pimattn_policies::select::spooled::SpooledRecording;
use pimattn_policies::selection::Selection;
use std::borrow::Cow;
use std::path::Path;
use std::sync::{Arc, OnceLock};

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
    pub(super) cached: Arc<CacheSet>,
    /// By layer, request, KV head.
    pub(super) heads: Arc<Vec<SelectedHead>>,
    /// What they depend on, as [`basis`] writes it.
    pub(super) basis: String,
    pub(super) steps: usize,
    pub(super) measured: bool,
}

/// Where a recording is.
pub enum KeptRecording {
    /// In memory.
    InMemory(HeadRecording),
    /// In a file, with those of other heads.
    Spooled(SpooledRecording),
}

impl KeptRecording {
    /// The recording in memory.
    pub fn load(&self) -> Result<Cow<'_, HeadRecording>> {
        match self {
            KeptRecording::InMemory(recording) => Ok(Cow::Borrowed(recording)),
            KeptRecording::Spooled(recording) => recording.load().map(Cow::Owned),
        }
    }
}

/// The selections of a head.
pub struct SelectedHead {
    /// What it selected.
    pub recording: KeptRecording,
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
/// [`Error::Config`](pimattn_core::error::Error::Config) where the configuration cannot be written as text.
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
