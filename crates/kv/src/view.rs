//! What a cache gives of its elements: all of them where they are in memory, else those of one head at a time.

use super::{Elements, Heads, IN_MEMORY, KvCache, Rows};
use pimattn_core::cancel::Cancel;
use pimattn_core::error::{Error, Result};
use pimattn_core::memory;
use std::borrow::Cow;
use std::collections::BTreeSet;
use std::ops::Deref;

/// A cache whose elements are all in memory.
#[derive(Debug, Clone, Copy)]
pub struct KvView<'a> {
    cache: &'a KvCache,
    k: &'a [f32],
    v: &'a [f32],
    q: &'a [f32],
}

impl Deref for KvView<'_> {
    type Target = KvCache;

    fn deref(&self) -> &KvCache {
        self.cache
    }
}

impl<'a> KvView<'a> {
    /// Keys `[token, dim]` of a KV head; `layer` is an index into `layers`.
    pub fn keys(&self, layer: usize, kv_head: usize) -> Rows<'a> {
        self.rows(self.k, layer * self.kv_heads + kv_head, self.tokens)
    }

    /// Values `[token, dim]` of a KV head.
    pub fn values(&self, layer: usize, kv_head: usize) -> Rows<'a> {
        self.rows(self.v, layer * self.kv_heads + kv_head, self.tokens)
    }

    /// Queries `[query, dim]` of a query head.
    pub fn queries(&self, layer: usize, query_head: usize) -> Rows<'a> {
        self.rows(self.q, layer * self.query_heads + query_head, self.cache.queries)
    }

    /// The query of a token, of each query head of a layer (an index into `layers`).
    pub fn queries_at(&self, layer: usize, position: usize) -> Vec<&'a [f32]> {
        (0..self.query_heads).map(|head| self.queries(layer, head).row(position - self.query_start)).collect()
    }

    /// Queries `[query head of the group, query, dim]` of the query heads that share a KV head.
    pub fn group_queries(&self, layer: usize, kv_head: usize) -> Heads<'a> {
        let n = self.group() * self.cache.queries * self.dim;
        let first = (layer * self.kv_heads + kv_head) * n;
        Heads { data: &self.q[first..first + n], dim: self.dim, heads: self.group() }
    }

    fn rows(&self, of: &'a [f32], index: usize, rows: usize) -> Rows<'a> {
        let n = rows * self.dim;
        Rows { data: &of[index * n..(index + 1) * n], dim: self.dim }
    }
}

/// Rows of one head: borrowed of a cache that is in memory, else read for the occasion.
#[derive(Debug, Clone)]
pub struct CachedRows<'a> {
    data: Cow<'a, [f32]>,
    dim: usize,
}

impl CachedRows<'_> {
    /// All of them.
    pub fn rows(&self) -> Rows<'_> {
        Rows { data: &self.data, dim: self.dim }
    }
}

/// Queries of the decode steps of all query heads of a layer.
#[derive(Debug, Clone)]
pub struct LayerQueries<'a> {
    data: Cow<'a, [f32]>,
    dim: usize,
    /// Rows of a head, and the one of the first step.
    rows: usize,
    first: usize,
}

impl LayerQueries<'_> {
    /// The query of a step, of each query head.
    pub fn at(&self, step: usize) -> Vec<&[f32]> {
        let at = (self.first + step) * self.dim;
        self.data.chunks_exact(self.rows * self.dim).map(|head| &head[at..at + self.dim]).collect()
    }
}

/// Queries of the query heads that share a KV head, to prepare from.
#[derive(Debug, Clone)]
pub struct GroupQueries<'a> {
    data: Cow<'a, [f32]>,
    dim: usize,
    heads: usize,
    /// Token of the first query.
    pub start: usize,
}

impl GroupQueries<'_> {
    /// All of them.
    pub fn heads(&self) -> Heads<'_> {
        Heads { data: &self.data, dim: self.dim, heads: self.heads }
    }
}

impl KvCache {
    /// Whether all elements are in memory.
    pub fn is_in_memory(&self) -> bool {
        self.view().is_ok()
    }

    /// The cache with its rows, if all elements are in memory ([`KvCache::in_memory`]).
    ///
    /// # Errors
    /// [`Error::Usage`] where they are in a file.
    pub fn view(&self) -> Result<KvView<'_>> {
        match (self.k.in_memory(), self.v.in_memory(), self.q.in_memory()) {
            (Some(k), Some(v), Some(q)) => Ok(KvView { cache: self, k, v, q }),
            _ => Err(Error::Usage(format!("{}: the elements are in a file, not in memory", self.provenance))),
        }
    }

    /// The cache with all elements in memory.
    ///
    /// # Errors
    /// [`Error::Usage`] where there is not so much memory, those of [`Elements::read`], and [`Error::Interrupted`].
    pub fn in_memory(self, cancel: &Cancel) -> Result<KvCache> {
        let stored = [&self.k, &self.v, &self.q].into_iter().filter(|x| x.in_memory().is_none());
        let bytes = stored.map(|x| x.len() as u64 * 4).sum();
        if bytes > IN_MEMORY {
            memory::check(&format!("{}, all of it", self.provenance), bytes)?;
        }
        let loaded = |elements: &Elements| elements.loaded(cancel);
        let (k, v, q) = (loaded(&self.k)?, loaded(&self.v)?, loaded(&self.q)?);
        Ok(KvCache { k, v, q, ..self })
    }

    /// The cache with the elements of some layers, and of the first one, in memory, and where those layers are in it; all numbers are
    /// indices. A cache that is in memory is taken as it is.
    ///
    /// # Errors
    /// Those of [`KvCache::in_memory`].
    pub(crate) fn layers_in_memory(&self, cancel: &Cancel, layers: &[usize]) -> Result<(Cow<'_, KvCache>, Vec<usize>)> {
        if self.is_in_memory() {
            return Ok((Cow::Borrowed(self), layers.to_vec()));
        }
        let kept: BTreeSet<usize> = layers.iter().copied().chain([0]).collect();
        let numbers: Vec<u32> = kept.iter().map(|layer| self.layers[*layer]).collect();
        let loaded = self.clone().only_layers(&numbers)?.in_memory(cancel)?;
        let places = layers.iter().map(|layer| kept.range(..layer).count()).collect();
        Ok((Cow::Owned(loaded), places))
    }

    /// Bytes of all elements, as f32.
    pub fn bytes_in_memory(&self) -> u64 {
        [&self.k, &self.v, &self.q].iter().map(|x| x.len() as u64 * 4).sum()
    }

    /// Keys of a KV head; `layer` is an index into `layers`.
    ///
    /// # Errors
    /// Those of [`Elements::read`].
    pub fn read_keys(&self, layer: usize, kv_head: usize) -> Result<CachedRows<'_>> {
        self.read_rows(&self.k, layer * self.kv_heads + kv_head)
    }

    /// Values of a KV head.
    ///
    /// # Errors
    /// Those of [`Elements::read`].
    pub fn read_values(&self, layer: usize, kv_head: usize) -> Result<CachedRows<'_>> {
        self.read_rows(&self.v, layer * self.kv_heads + kv_head)
    }

    fn read_rows<'a>(&self, of: &'a Elements, index: usize) -> Result<CachedRows<'a>> {
        let n = self.tokens * self.dim;
        Ok(CachedRows { data: of.read(index * n..(index + 1) * n)?, dim: self.dim })
    }

    /// Queries of the query heads that share a KV head. With `prefill`, all that there are; else, of a cache in a file, none of tokens
    /// before the first decode step, which a policy that does not prepare from queries does not ask for.
    ///
    /// # Errors
    /// Those of [`Elements::read`].
    pub fn read_group_queries(&self, layer: usize, kv_head: usize, prefill: bool) -> Result<GroupQueries<'_>> {
        let (group, dim, n) = (self.group(), self.dim, self.queries * self.dim);
        let first = (layer * self.kv_heads + kv_head) * group;
        let (data, start) = match prefill || self.q.in_memory().is_some() {
            true => (self.q.read(first * n..(first + group) * n)?, self.query_start),
            false => {
                let start = self.decode_positions().start;
                let skipped = (start - self.query_start) * dim;
                let rows = |head: usize| self.q.read(head * n + skipped..(head + 1) * n);
                (Cow::Owned(joined((first..first + group).map(rows))?), start)
            }
        };
        Ok(GroupQueries { data, dim, heads: group, start })
    }

    /// Queries of the first `steps` decode steps, of all query heads of a layer.
    ///
    /// # Errors
    /// Those of [`Elements::read`].
    pub fn read_layer_queries(&self, layer: usize, steps: usize) -> Result<LayerQueries<'_>> {
        let (heads, dim, n) = (self.query_heads, self.dim, self.queries * self.dim);
        let first = self.decode_positions().start - self.query_start;
        let whole = layer * heads * n..(layer + 1) * heads * n;
        if self.q.in_memory().is_some() {
            return Ok(LayerQueries { data: self.q.read(whole)?, dim, rows: self.queries, first });
        }
        let steps = steps.min(self.queries - first);
        let rows = |head: usize| {
            let at = whole.start + head * n + first * dim;
            self.q.read(at..at + steps * dim)
        };
        Ok(LayerQueries { data: Cow::Owned(joined((0..heads).map(rows))?), dim, rows: steps, first: 0 })
    }
}

fn joined<'a>(parts: impl Iterator<Item = Result<Cow<'a, [f32]>>>) -> Result<Vec<f32>> {
    let mut all = Vec::new();
    for part in parts {
        all.extend_from_slice(&part?);
    }
    Ok(all)
}
