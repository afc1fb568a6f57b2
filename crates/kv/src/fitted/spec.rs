//! A workload's `[synthetic]` table that names a fitted model.

use super::{FittedModel, FittedShape};
use crate::rope::RopeScaling;
use pimattn_core::error::Result;
use serde::de::{Deserialize, Deserializer, Error, Unexpected, Visitor};

/// Layers of the deepest model.
const MOST_LAYERS: u32 = 1 << 16;

/// What is to be drawn of a fitted model. What is not said is as in the dump that it was fitted on.
#[derive(Debug, Clone, PartialEq, serde::Deserialize)]
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
    /// Tokens at the end of the prefill that have queries, too: a number, or `"all"`.
    #[serde(default)]
    pub prefill_queries: Option<PrefillQueries>,
    /// Bytes of one element: 2 (rounded to f16) or 4.
    #[serde(default)]
    pub element_bytes: Option<u32>,
    /// How the rotation goes on beyond the tokens that the model was fitted on: `yarn` or `none`.
    #[serde(default)]
    pub rope_scaling: RopeScaling,
    /// Seed of all random numbers.
    #[serde(default)]
    pub seed: Option<u64>,
}

/// Which tokens of a prefill have queries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PrefillQueries {
    /// So many last ones.
    Last(usize),
    /// All of them.
    All,
}

impl<'de> Deserialize<'de> for PrefillQueries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read;
        impl Visitor<'_> for Read {
            type Value = PrefillQueries;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a number of tokens, or \"all\"")
            }

            fn visit_i64<E: Error>(self, tokens: i64) -> Result<PrefillQueries, E> {
                let wrong = |_| E::invalid_value(Unexpected::Signed(tokens), &self);
                usize::try_from(tokens).map(PrefillQueries::Last).map_err(wrong)
            }

            fn visit_u64<E: Error>(self, tokens: u64) -> Result<PrefillQueries, E> {
                let wrong = |_| E::invalid_value(Unexpected::Unsigned(tokens), &self);
                usize::try_from(tokens).map(PrefillQueries::Last).map_err(wrong)
            }

            fn visit_str<E: Error>(self, word: &str) -> Result<PrefillQueries, E> {
                // `--set` over "all" gives text.
                match (word, word.parse()) {
                    ("all", _) => Ok(PrefillQueries::All),
                    (_, Ok(tokens)) => Ok(PrefillQueries::Last(tokens)),
                    _ => Err(E::invalid_value(Unexpected::Str(word), &self)),
                }
            }
        }
        deserializer.deserialize_any(Read)
    }
}

impl FittedSpec {
    /// What to draw of `model`, with this seed where the table has none.
    ///
    /// Errors: [`Error::Config`](pimattn_core::error::Error::Config) at `synthetic.layers` where there are more than any model has.
    pub fn shape(&self, model: &FittedModel, seed: u64) -> Result<FittedShape> {
        if let Some(layers) = self.layers.filter(|layers| !(1..=MOST_LAYERS).contains(layers)) {
            let what = format!("{layers} is out of range; expected 1 to {MOST_LAYERS}");
            return Err(pimattn_core::error::Error::Config { at: "synthetic.layers".into(), what });
        }
        let default = FittedShape::of(model);
        let numbered = || self.layers.map(|n| (0..n).collect());
        let kv_heads = self.kv_heads.unwrap_or(default.kv_heads);
        let prefill = self.prefill.unwrap_or(default.prefill);
        Ok(FittedShape {
            layers: self.layer_numbers.clone().or_else(numbered).unwrap_or(default.layers),
            model_layers: self.layers.unwrap_or(default.model_layers),
            kv_heads,
            query_heads: self.query_heads.unwrap_or(kv_heads.saturating_mul(model.group())),
            dim: self.dim.unwrap_or(default.dim),
            prefill,
            decode_steps: self.decode_steps.unwrap_or(default.decode_steps),
            prefill_queries: match self.prefill_queries {
                None => default.prefill_queries.min(prefill),
                Some(PrefillQueries::Last(tokens)) => tokens,
                Some(PrefillQueries::All) => prefill,
            },
            element_bytes: self.element_bytes.unwrap_or(default.element_bytes),
            rope_scaling: self.rope_scaling,
            seed: self.seed.unwrap_or(seed),
        })
    }
}
