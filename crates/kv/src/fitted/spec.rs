//! A workload's `[synthetic]` table that names a fitted model.

use super::{Model, Shape};
use serde::Deserialize;

/// What is to be drawn of a fitted model. What is not said is as in the dump that it was fitted on.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FittedSpec {
    /// The model's file, beside the workload's.
    pub fit: String,
    /// Layers, numbered from 0, of a model that has so many.
    #[serde(default)]
    pub layers: Option<u32>,
    /// Of these layers, the ones to draw; all when missing. Without `layers`, by the fitted model's numbers.
    #[serde(default)]
    pub layer_numbers: Option<Vec<u32>>,
    /// KV heads per layer.
    #[serde(default)]
    pub kv_heads: Option<usize>,
    /// Query heads per layer, a multiple of `kv_heads`.
    #[serde(default)]
    pub query_heads: Option<usize>,
    /// Elements of a vector, a multiple of the fitted model's.
    #[serde(default)]
    pub dim: Option<usize>,
    /// Tokens before decoding begins.
    #[serde(default)]
    pub prefill: Option<usize>,
    /// Decode steps: tokens after the prefill, each with its query.
    #[serde(default)]
    pub decode_steps: Option<usize>,
    /// Tokens at the end of the prefill that have queries, too.
    #[serde(default)]
    pub prefill_queries: Option<usize>,
    /// Bytes of one element: 2 (rounded to f16) or 4.
    #[serde(default)]
    pub element_bytes: Option<u32>,
    /// Seed of all random numbers.
    #[serde(default)]
    pub seed: Option<u64>,
}

impl FittedSpec {
    /// What to draw of `model`, with this seed where the table has none.
    pub fn shape(&self, model: &Model, seed: u64) -> Shape {
        let default = Shape::of(model);
        let numbered = || self.layers.map(|n| (0..n).collect());
        let kv_heads = self.kv_heads.unwrap_or(default.kv_heads);
        let prefill = self.prefill.unwrap_or(default.prefill);
        Shape {
            layers: self.layer_numbers.clone().or_else(numbered).unwrap_or(default.layers),
            model_layers: self.layers.unwrap_or(default.model_layers),
            kv_heads,
            query_heads: self.query_heads.unwrap_or(kv_heads.saturating_mul(model.group())),
            dim: self.dim.unwrap_or(default.dim),
            prefill,
            decode_steps: self.decode_steps.unwrap_or(default.decode_steps),
            prefill_queries: self.prefill_queries.unwrap_or(default.prefill_queries.min(prefill)),
            element_bytes: self.element_bytes.unwrap_or(default.element_bytes),
            seed: self.seed.unwrap_or(seed),
        }
    }
}
