//! Schema of a model file (`configs/model/*.toml`).

use super::config::Document;
use super::hugging_face;
use crate::error::Result;
use crate::presets::PresetKind;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// The activation function of the feed-forward network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Activation {
    /// SiLU of one matrix's result times another's.
    Swiglu,
    /// GELU.
    Gelu,
    /// ReLU.
    Relu,
}

/// The model as AttAcc's simulator and the STARC artifact take it, where that is not what the model is.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Published {
    #[allow(dead_code, reason = "for readers of the file")]
    source: String,
    kv_heads: Option<u32>,
    /// Numerator and denominator of feed-forward width over hidden size.
    ffn_per_hidden: Option<[u32; 2]>,
    activation: Option<Activation>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct ModelFile {
    name: String,
    #[allow(dead_code, reason = "for readers of the file")]
    source: String,
    layers: u32,
    hidden: u32,
    heads: u32,
    head_dim: u32,
    kv_heads: u32,
    ffn: u32,
    activation: Activation,
    published: Option<Published>,
}

/// The shape of a decoder-only transformer.
#[derive(Debug, Clone, PartialEq)]
pub struct Model {
    /// Name, for reports.
    pub name: String,
    /// Decoder blocks.
    pub layers: u32,
    /// Hidden size.
    pub hidden: u32,
    /// Query heads.
    pub heads: u32,
    /// Elements of a query, key or value.
    pub head_dim: u32,
    /// Heads of keys and values.
    pub kv_heads: u32,
    /// Width of the feed-forward network; not whole in the published simulators.
    pub ffn: f64,
    /// Activation function.
    pub activation: Activation,
    published: Option<Published>,
}

impl Model {
    /// Loads a model file with overrides: ours, or the `config.json` of a Hugging Face model.
    pub fn load(file: &Path, overrides: &[String]) -> Result<Model> {
        match file.extension().is_some_and(|e| e.eq_ignore_ascii_case("json")) {
            true => Model::of(&hugging_face::document(file)?.with(overrides)?),
            false => Model::of(&Document::load(file, overrides)?),
        }
    }

    /// As [`Model::load`], from text.
    pub fn parse(file: &Path, text: &str, overrides: &[String]) -> Result<Model> {
        Model::of(&Document::parse(file, text, overrides)?)
    }

    fn of(doc: &Document) -> Result<Model> {
        doc.expect(PresetKind::Model)?;
        let f: ModelFile = doc.decode()?;
        let counts = [
            ("layers", f.layers),
            ("hidden", f.hidden),
            ("heads", f.heads),
            ("head_dim", f.head_dim),
            ("kv_heads", f.kv_heads),
            ("ffn", f.ffn),
        ];
        if let Some((key, n)) = counts.into_iter().find(|(_, n)| !(1..=1 << 20).contains(n)) {
            return Err(doc.error(key, format!("{key} = {n} is not in 1..={}", 1 << 20)));
        }
        let published_heads = f.published.as_ref().and_then(|p| p.kv_heads);
        for (key, n) in [("kv_heads", Some(f.kv_heads)), ("published.kv_heads", published_heads)] {
            if n.is_some_and(|n| n == 0 || !f.heads.is_multiple_of(n)) {
                let what = format!("{key} = {} does not divide heads = {}", n.unwrap_or(0), f.heads);
                return Err(doc.error(key, what));
            }
        }
        if f.published.as_ref().and_then(|p| p.ffn_per_hidden).is_some_and(|[a, b]| a == 0 || b == 0) {
            return Err(doc.error("published.ffn_per_hidden", "ffn_per_hidden is [numerator, denominator], neither 0"));
        }
        Ok(Model {
            name: f.name,
            layers: f.layers,
            hidden: f.hidden,
            heads: f.heads,
            head_dim: f.head_dim,
            kv_heads: f.kv_heads,
            ffn: f.ffn.into(),
            activation: f.activation,
            published: f.published,
        })
    }

    /// The model as the published simulators take it.
    pub fn as_published(&self) -> Model {
        let mut out = self.clone();
        if let Some(p) = &self.published {
            out.kv_heads = p.kv_heads.unwrap_or(self.kv_heads);
            out.activation = p.activation.unwrap_or(self.activation);
            if let Some([over, under]) = p.ffn_per_hidden {
                out.ffn = f64::from(self.hidden) * f64::from(over) / f64::from(under);
            }
        }
        out
    }

    /// KV heads that a device holds: its share, or one that others hold too when there are too few.
    pub fn kv_heads_of_device(&self, devices: u32) -> u32 {
        (self.kv_heads / devices).max(1)
    }
}
