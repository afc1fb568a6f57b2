//! KV caches: keys, values and decode queries of a model, from a dump or from a seeded synthetic source.
//!
//! [`load`] reads a dump in any of its forms; [`synthetic::generate`] makes one up. Both end in
//! [`KvCache::checked`], the one place where the rules of a consistent cache are written. The elements of a large cache stay in a file
//! and are read head by head; those of a small one ([`IN_MEMORY`]) are in memory.

pub mod dump;
pub mod fit;
pub mod fitted;
pub mod linalg;
pub mod npy;
pub mod rope;
pub mod safetensors;
pub mod selection;
pub mod synthetic;

mod drawn;
mod elements;
mod parts;
mod raw;
mod stored;
mod view;
mod zip;

pub use elements::Elements;
pub use parts::{IN_MEMORY, KvParts, Tensor};
pub use stored::{StoredBytes, UnnamedFile, read_file};
pub use view::{CachedRows, GroupQueries, KvView, LayerQueries};

use pimattn_core::cancel::Cancel;
use pimattn_core::error::{Error, Result};
use pimattn_core::presets;
use std::ops::Range;
use std::path::Path;

/// Reads a dump: a `.safetensors` file, a `.npz` file, or a directory of `.npy` files.
///
/// Errors: [`Error::NoInput`] when `path` does not exist, [`Error::Usage`] when its form is not one of the three,
/// [`Error::Data`] when the dump is damaged or contradicts itself, [`Error::Io`] when it cannot be read.
pub fn load(path: impl AsRef<Path>) -> Result<KvCache> {
    load_until(&Cancel::new(), path)
}

/// [`load`], unless `cancel` is requested.
///
/// Errors: as there, and [`Error::Interrupted`].
pub fn load_until(cancel: &Cancel, path: impl AsRef<Path>) -> Result<KvCache> {
    load_layers(cancel, path, &[])
}

/// As [`load_until`], only these layers of the model, ascending; all where none is given. Nothing is read of the others.
///
/// Errors: as there, and [`Error::Config`] at `layers` where a layer is not there, or they are not ascending.
pub fn load_layers(cancel: &Cancel, path: impl AsRef<Path>, layers: &[u32]) -> Result<KvCache> {
    let path = path.as_ref();
    let origin = path.display().to_string();
    KvCache::checked_layers(cancel, &origin, parts(cancel, path)?, layers)
}

fn parts(cancel: &Cancel, path: &Path) -> Result<KvParts> {
    if presets::inside(path).is_none() && std::fs::metadata(path).map_err(|e| Error::io(path, e))?.is_dir() {
        return npy::parts_of_dir(cancel, path);
    }
    let extension = path.extension().and_then(|e| e.to_str()).unwrap_or("").to_ascii_lowercase();
    match extension.as_str() {
        "safetensors" => safetensors::parts(path),
        "npz" => npy::parts_of_npz(cancel, path),
        "npy" => Err(Error::Usage(format!(
            "{}: a .npy file holds one array only; give the directory that holds k.npy, v.npy, q.npy and prefill_len.npy",
            path.display()
        ))),
        _ => Err(Error::Usage(format!(
            "{}: not a known form of KV dump; expected a .safetensors file, a .npz file or a directory of .npy files",
            path.display()
        ))),
    }
}

/// Rows of equal length in one slice: `[row, dim]`.
#[derive(Debug, Clone, Copy)]
pub struct Rows<'a> {
    /// All rows, one after the other.
    pub data: &'a [f32],
    /// Length of one row.
    pub dim: usize,
}

impl<'a> Rows<'a> {
    /// Number of rows.
    pub fn len(&self) -> usize {
        self.data.len() / self.dim
    }

    /// No rows at all.
    pub fn is_empty(&self) -> bool {
        self.data.is_empty()
    }

    /// One row.
    #[inline]
    pub fn row(&self, i: usize) -> &'a [f32] {
        &self.data[i * self.dim..(i + 1) * self.dim]
    }

    /// Some rows.
    pub fn range(&self, r: Range<usize>) -> Rows<'a> {
        Rows { data: &self.data[r.start * self.dim..r.end * self.dim], dim: self.dim }
    }
}

/// Rows of several heads, as many of each: `[head, row, dim]`.
#[derive(Debug, Clone, Copy)]
pub struct Heads<'a> {
    /// All rows of the first head, then those of the next.
    pub data: &'a [f32],
    /// Length of one row.
    pub dim: usize,
    /// Number of heads.
    pub heads: usize,
}

impl<'a> Heads<'a> {
    /// Rows of one head.
    pub fn head(&self, head: usize) -> Rows<'a> {
        let n = self.data.len() / self.heads;
        Rows { data: &self.data[head * n..(head + 1) * n], dim: self.dim }
    }
}

/// Keys, values and queries of some layers of one sequence.
///
/// Token index `t` of `k` and `v` counts the cached tokens from 0; query `i` is the query of token
/// `query_start + i`, which attends to tokens `0..=query_start + i`.
#[derive(Debug, Clone, PartialEq)]
pub struct KvCache {
    /// Which layers of the model these are, ascending.
    pub layers: Vec<u32>,
    /// KV heads per layer.
    pub kv_heads: usize,
    /// Query heads per layer; a multiple of `kv_heads`. Query head `h` uses KV head `h / (query_heads / kv_heads)`.
    pub query_heads: usize,
    /// Elements of a key, value or query vector.
    pub dim: usize,
    /// Cached tokens.
    pub tokens: usize,
    /// Tokens that were there before decoding began.
    pub prefill: usize,
    /// Token index of the first query.
    pub query_start: usize,
    /// Queries per query head.
    pub queries: usize,
    /// Bytes of one element as the model stores it (2 for f16 and bf16).
    pub element_bytes: u32,
    /// What its source says of how the rotation was rescaled, if anything.
    pub rope_scaling: Option<rope::SaidScaling>,
    /// Where the data comes from, for reports and trace headers.
    pub provenance: String,
    /// Keys after RoPE `[layer, kv_head, token, dim]`.
    pub k: Elements,
    /// Values `[layer, kv_head, token, dim]`.
    pub v: Elements,
    /// Unscaled queries after RoPE `[layer, query_head, query, dim]`.
    pub q: Elements,
}

impl KvCache {
    /// Query heads that share one KV head.
    pub fn group(&self) -> usize {
        self.query_heads / self.kv_heads
    }

    /// Only these layers of the model, ascending.
    ///
    /// # Errors
    /// [`Error::Config`] at `layers` where one is not there, or they are not ascending.
    pub fn only_layers(mut self, wanted: &[u32]) -> Result<Self> {
        let indices = parts::indices_of(&self.layers, wanted)?;
        let layers = self.layers.len();
        for data in [&mut self.k, &mut self.v, &mut self.q] {
            let size = data.len() / layers;
            *data = data.pick(indices.iter().map(|i| i * size..(i + 1) * size));
        }
        self.layers = wanted.to_vec();
        Ok(self)
    }

    /// Token indices that are decode steps: from the prefill length on, wherever there is a query.
    pub fn decode_positions(&self) -> Range<usize> {
        self.prefill.max(self.query_start)..self.query_start + self.queries
    }
}
