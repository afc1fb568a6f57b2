//! Synthetic KV caches whose statistics are fitted to a real dump: the parameters as data, and their file.
//!
//! [`FittedModel`] is what `tracegen fit` writes and a workload's `synthetic.fit` names; [`generate`] makes caches of it.
//! docs/synthetic.md says what the model claims, how it is fitted and how far it may be trusted.

mod draw;
mod spec;
#[cfg(any(test, feature = "oracles"))]
pub mod testing;

pub use draw::{FittedShape, generate, generate_until};
pub use spec::{FittedSpec, PrefillQueries};

use crate::rope::{RopeScaling, RotaryEmbedding, RotaryPairs, YarnRotation};
use pimattn_core::error::Result;
use pimattn_core::presets::PresetKind;
use pimattn_core::spec::config::Document;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// Version of the file's format.
pub const VERSION: u32 = 2;

/// Largest standard normal score at which a [`Component`]'s marginals have a knot; the knots are evenly spaced from minus
/// this to this.
pub const LAST_KNOT: f64 = 3.0;

/// Elements that one fitted vector may have, and directions of it.
const MAX_DIM: usize = 4096;

/// Common words that a model may have.
const MAX_WORDS: usize = 4096;

/// Largest number of a vector, such that no sum of an f16 cache overflows.
const MAX_NUMBER: f64 = 1000.0;
const OUT_OF_RANGE: &str = "a number is not within -1000 to 1000";

/// The statistics of a model's KV cache.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FittedModel {
    /// Version of the format.
    pub version: u32,
    /// Where the parameters come from.
    pub source: String,
    /// Layers that the model has; the fitted ones are some of them.
    pub model_layers: u32,
    /// Elements of a vector.
    pub dim: usize,
    /// Bytes of one element in the source.
    pub element_bytes: u32,
    /// Base of the RoPE frequencies.
    pub rope_theta: f64,
    /// Which elements RoPE turns together.
    pub rope_pairs: RotaryPairs,
    /// Tokens that keys and values were fitted on.
    pub tokens: usize,
    /// Length of the text that they are of, where the dump leaves some out: in a longer one, the rotation is rescaled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context: Option<usize>,
    /// Queries per head that queries were fitted on.
    pub queries: usize,
    /// Mean lengths (tokens) of the segments over which parts of a vector stay the same.
    pub lifetimes: Vec<f64>,
    /// Shares of the tokens that are each of the common words.
    pub words: Vec<f64>,
    /// How the rotation of the dump was rescaled, if it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub yarn: Option<YarnRotation>,
    /// The fitted layers, ascending.
    #[serde(rename = "layer")]
    pub layers: Vec<Layer>,
}

/// A fitted layer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Layer {
    /// Its number in the model.
    pub layer: u32,
    /// Tokens at the start of the text that are sinks.
    pub first_sinks: usize,
    /// Share of the other tokens that are sinks, words that are often sinks left out.
    pub sink_rate: f64,
    /// The common words that are often sinks, ascending.
    #[serde(default, skip_serializing_if = "Vec::is_empty", rename = "sink_word")]
    pub sink_words: Vec<SinkWord>,
    /// KV heads.
    #[serde(rename = "head")]
    pub heads: Vec<Head>,
}

/// A common word that is often a sink.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SinkWord {
    /// Which of the model's words, from 0.
    pub word: usize,
    /// Share of its tokens that are sinks.
    pub rate: f64,
}

/// A fitted KV head and the query heads that share it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Head {
    /// Keys before RoPE, of tokens that are neither sinks nor common words.
    pub key: Component,
    /// Keys before RoPE, of common words; missing where the model has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub words: Option<Words>,
    /// Values, of tokens that are not sinks.
    pub value: Component,
    /// Keys before RoPE, of sinks; missing where the layer has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sink_key: Option<Component>,
    /// How far the mean key of each sink word, where it is a sink, is from the mean of `sink_key` `[sink word][dim]`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sink_words: Vec<Vec<f64>>,
    /// Values of sinks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sink_value: Option<Component>,
    /// Queries before RoPE, by query head.
    #[serde(rename = "query")]
    pub queries: Vec<Query>,
}

/// A distribution of vectors, and of how they follow each other.
///
/// A vector is `mean + sum_r scales[r] · m_r(z_r) · directions[r] + diagonal ∘ e`, with `z` and `e` standard normal and
/// `m_r` the marginal. Each of `z` and `e` is the sum of independent normal parts: one for each lifetime, with the variance
/// that `persistence` says, which stays the same within a segment of the text, and the remainder, new at each token.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Component {
    /// `[dim]`.
    pub mean: Vec<f64>,
    /// Standard deviation of the rest in each dimension `[dim]`.
    pub diagonal: Vec<f64>,
    /// Standard deviation along each direction `[rank]`.
    pub scales: Vec<f64>,
    /// Share of the variance that lasts, by lifetime: of each direction, and then of the rest `[rank + 1][lifetimes]`.
    pub persistence: Vec<Vec<f64>>,
    /// Unit vectors `[rank][dim]`.
    pub directions: Vec<Vec<f64>>,
    /// By direction, what a standard normal score becomes, at evenly spaced knots `[rank][knots]`, linear between and
    /// beyond them. Missing: scores stay as they are.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub marginals: Vec<Vec<f64>>,
}

/// The keys of the common words.
///
/// The key of a word is the mean of the head's other keys, plus the word's vector, plus what those other keys differ by from
/// their mean (marginals left out), narrowed by `spread`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Words {
    /// Standard deviation within a word over that of other tokens, along each direction, and then of the rest `[rank + 1]`.
    pub spread: Vec<f64>,
    /// How far the mean key of each word is from `mean` `[word][dim]`.
    pub vectors: Vec<Vec<f64>>,
}

/// The queries of a query head.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Query {
    /// Their distribution.
    pub vector: Component,
    /// Correlation of each of their scores `z` with those of the key of the same token `[query rank][key rank]`.
    pub coupling: Vec<Vec<f64>>,
}

impl FittedModel {
    /// Reads and checks a file.
    ///
    /// Errors: [`NoInput`](pimattn_core::error::Error::NoInput), [`Io`](pimattn_core::error::Error::Io);
    /// [`Config`](pimattn_core::error::Error::Config) with file and line where a key is unknown or missing,
    /// or a value does not fit.
    pub fn load(path: &Path) -> Result<Self> {
        let doc = Document::load(path, &[])?;
        doc.expect(PresetKind::Fitted)?;
        let model: FittedModel = doc.decode()?;
        model.check().map_err(|(key, what)| doc.error(&key, what))?;
        Ok(model)
    }

    /// The file's text. Numbers have four significant digits, the vectors of words three.
    pub fn render(&self) -> String {
        let rounded = self.rounded();
        let text = toml::to_string(&rounded).expect("a model is a table");
        format!(
            "# Statistics of a KV cache, written by `tracegen fit`; docs/synthetic.md says what they mean. Vectors are\n\
             # unitless and before RoPE; lifetimes, tokens and queries are counts of tokens.\n\n{text}"
        )
    }

    /// As it is read from its own file.
    pub fn rounded(&self) -> Self {
        let mut model = self.clone();
        round_all(&mut model.words);
        for layer in &mut model.layers {
            layer.sink_rate = round(layer.sink_rate);
            layer.sink_words.iter_mut().for_each(|s| s.rate = round(s.rate));
            for head in &mut layer.heads {
                let sinks = [&mut head.sink_key, &mut head.sink_value];
                let parts = [&mut head.key, &mut head.value].into_iter().chain(sinks.into_iter().flatten());
                parts.chain(head.queries.iter_mut().map(|q| &mut q.vector)).for_each(Component::round);
                head.queries.iter_mut().for_each(|q| q.coupling.iter_mut().for_each(|row| round_all(row)));
                head.sink_words.iter_mut().for_each(|v| round_all(v));
                if let Some(words) = &mut head.words {
                    round_all(&mut words.spread);
                    words.vectors.iter_mut().flatten().for_each(|x| *x = round_to(*x, 3));
                }
            }
        }
        model
    }

    /// What is wrong, and at which key.
    fn check(&self) -> Result<(), (String, String)> {
        let bad = |key: &str, what: String| Err((key.to_string(), what));
        if self.version != VERSION {
            return bad("version", format!("version {} is not supported; expected {VERSION}", self.version));
        }
        if self.dim == 0 || !self.dim.is_multiple_of(2) || self.dim > MAX_DIM {
            return bad("dim", format!("{} is not an even number of 2 to {MAX_DIM}", self.dim));
        }
        if self.element_bytes != 2 && self.element_bytes != 4 {
            return bad("element_bytes", format!("{} is not supported; expected 2 or 4", self.element_bytes));
        }
        if !(1.0..=1e12).contains(&self.rope_theta) {
            return bad("rope_theta", format!("{} is out of range; expected 1 to 1e12", self.rope_theta));
        }
        if let Some(Err(what)) = self.yarn.map(YarnRotation::check) {
            return bad("yarn", what);
        }
        if self.context.is_some_and(|n| n < self.tokens || n > 1 << 31) {
            return bad("context", format!("expected at least the {} tokens, at most {}", self.tokens, 1u64 << 31));
        }
        if self.lifetimes.len() > 16 || !self.lifetimes.iter().all(|t| (1.0..=1e9).contains(t)) {
            return bad("lifetimes", "expected at most 16 lengths of 1 to 1e9 tokens".into());
        }
        let sum: f64 = self.words.iter().sum();
        // Four digits of each; NaN is in no range.
        if self.words.len() > MAX_WORDS || !self.words.iter().all(|p| (0.0..=1.0).contains(p)) || sum > 1.0 + 1e-3 {
            return bad("words", format!("expected at most {MAX_WORDS} shares of 0 to 1 that sum to at most 1"));
        }
        if self.layers.is_empty() || !self.layers.is_sorted_by(|a, b| a.layer < b.layer) {
            return bad("layer", "expected one [[layer]] or more, in ascending order".into());
        }
        let last = self.layers[self.layers.len() - 1].layer;
        if self.model_layers <= last {
            return bad("model_layers", format!("{} layers cannot include layer {last}", self.model_layers));
        }
        let group = self.layers[0].heads.first().map_or(0, |h| h.queries.len());
        let heads = self.layers[0].heads.len();
        for (l, layer) in self.layers.iter().enumerate() {
            let key = format!("layer[{l}]");
            if layer.heads.is_empty() || layer.heads.len() != heads {
                return bad(&key, "expected as many heads as the first layer has, and at least one".into());
            }
            if !(0.0..=1.0).contains(&layer.sink_rate) {
                return bad(&format!("{key}.sink_rate"), format!("{} is not in 0 to 1", layer.sink_rate));
            }
            let known = |s: &SinkWord| s.word < self.words.len() && (0.0..=1.0).contains(&s.rate);
            if !layer.sink_words.iter().all(known) || !layer.sink_words.is_sorted_by(|a, b| a.word < b.word) {
                let what =
                    format!("expected some of the {} common words, ascending, with rates of 0 to 1", self.words.len());
                return bad(&format!("{key}.sink_word"), what);
            }
            let has_sinks = layer.sink_rate > 0.0 || layer.first_sinks > 0 || !layer.sink_words.is_empty();
            for (h, head) in layer.heads.iter().enumerate() {
                let key = format!("{key}.head[{h}]");
                if head.queries.len() != group || group == 0 {
                    return bad(&key, "expected as many query heads as the first head has, and at least one".into());
                }
                if has_sinks && (head.sink_key.is_none() || head.sink_value.is_none()) {
                    return bad(&key, "sink_key and sink_value are missing, and the layer has sinks".into());
                }
                if head.sink_words.len() != layer.sink_words.len() {
                    let what = format!("expected {} rows, one for each sink_word of the layer", layer.sink_words.len());
                    return bad(&format!("{key}.sink_words"), what);
                }
                if head.sink_words.iter().any(|v| v.len() != self.dim || !v.iter().all(|x| x.abs() <= MAX_NUMBER)) {
                    let what = format!("expected rows of {} numbers of -1000 to 1000", self.dim);
                    return bad(&format!("{key}.sink_words"), what);
                }
                for (name, part) in head.parts() {
                    part.check(self.dim, self.lifetimes.len()).map_err(|e| (format!("{key}.{name}"), e))?;
                }
                match &head.words {
                    None if self.words.is_empty() => {}
                    None => return bad(&key, "words is missing, and the model has common words".into()),
                    Some(_) if self.words.is_empty() => {
                        return bad(&format!("{key}.words"), "the model has no common words".into());
                    }
                    Some(words) => words
                        .check(self.words.len(), self.dim, head.key.scales.len())
                        .map_err(|e| (format!("{key}.words"), e))?,
                }
                for (q, query) in head.queries.iter().enumerate() {
                    let key = format!("{key}.query[{q}]");
                    let vector = &query.vector;
                    vector.check(self.dim, self.lifetimes.len()).map_err(|e| (format!("{key}.vector"), e))?;
                    let (rows, columns) = (vector.scales.len(), head.key.scales.len());
                    if query.coupling.len() != rows || query.coupling.iter().any(|r| r.len() != columns) {
                        return bad(&format!("{key}.coupling"), format!("expected {rows} rows of {columns}"));
                    }
                    // NaN is in no range.
                    let square = |r: &Vec<f64>| r.iter().map(|c| c * c).sum::<f64>();
                    if !query.coupling.iter().all(|r| (0.0..=1.0).contains(&square(r))) {
                        return bad(&format!("{key}.coupling"), "a row's square is above 1".into());
                    }
                }
            }
        }
        Ok(())
    }

    /// Tokens of the text that it was fitted on, those between included.
    pub fn context(&self) -> usize {
        self.context.unwrap_or(self.tokens)
    }

    /// The rotary embedding of the dump.
    pub fn embedding(&self) -> RotaryEmbedding {
        RotaryEmbedding { theta: self.rope_theta, pairs: self.rope_pairs, yarn: self.yarn }
    }

    /// That of a cache of so many tokens.
    pub fn embedding_of(&self, tokens: usize, scaling: RopeScaling) -> RotaryEmbedding {
        scaling.continued(self.embedding(), self.context(), tokens)
    }

    /// Query heads that share a KV head.
    pub fn group(&self) -> usize {
        self.layers[0].heads[0].queries.len()
    }

    /// KV heads of a layer.
    pub fn kv_heads(&self) -> usize {
        self.layers[0].heads.len()
    }
}

impl Head {
    fn parts(&self) -> impl Iterator<Item = (&'static str, &Component)> {
        let sinks = [("sink_key", &self.sink_key), ("sink_value", &self.sink_value)];
        [("key", &self.key), ("value", &self.value)]
            .into_iter()
            .chain(sinks.into_iter().filter_map(|(name, part)| part.as_ref().map(|p| (name, p))))
    }
}

impl Words {
    fn check(&self, words: usize, dim: usize, rank: usize) -> Result<(), String> {
        if self.vectors.len() != words || self.vectors.iter().any(|v| v.len() != dim) {
            return Err(format!("vectors is not {words} rows of {dim}"));
        }
        if self.spread.len() != rank + 1 {
            return Err(format!("spread has {} entries; expected {}", self.spread.len(), rank + 1));
        }
        if !self.vectors.iter().flatten().chain(&self.spread).all(|x| x.abs() <= MAX_NUMBER) {
            return Err(OUT_OF_RANGE.into());
        }
        if self.spread.iter().any(|x| *x < 0.0) {
            return Err("a spread is negative".into());
        }
        Ok(())
    }
}

impl Component {
    fn check(&self, dim: usize, lifetimes: usize) -> Result<(), String> {
        let rank = self.scales.len();
        for (name, got, expected) in [
            ("mean", self.mean.len(), dim),
            ("diagonal", self.diagonal.len(), dim),
            ("persistence", self.persistence.len(), rank + 1),
            ("directions", self.directions.len(), rank),
        ] {
            if got != expected {
                return Err(format!("{name} has {got} entries; expected {expected}"));
            }
        }
        if rank > dim {
            return Err(format!("scales has {rank} entries; expected at most {dim}"));
        }
        if let Some(d) = self.directions.iter().find(|d| d.len() != dim) {
            return Err(format!("a direction has {} entries; expected {dim}", d.len()));
        }
        if let Some(p) = self.persistence.iter().find(|p| p.len() != lifetimes) {
            return Err(format!("a row of persistence has {} entries; expected {lifetimes}", p.len()));
        }
        let knots = self.marginals.first().map_or(2, Vec::len);
        let shaped = self.marginals.is_empty() || self.marginals.len() == rank;
        if !shaped || !(2..=257).contains(&knots) || self.marginals.iter().any(|m| m.len() != knots) {
            return Err(format!("marginals is not {rank} rows of as many knots, 2 to 257"));
        }
        if self.marginals.iter().any(|m| !m.is_sorted()) {
            return Err("a row of marginals is not ascending".into());
        }
        let every = [&self.mean, &self.diagonal, &self.scales].into_iter().chain(&self.persistence);
        if !every.chain(&self.directions).chain(&self.marginals).flatten().all(|x| x.abs() <= MAX_NUMBER) {
            return Err(OUT_OF_RANGE.into());
        }
        if self.diagonal.iter().chain(&self.scales).chain(self.persistence.iter().flatten()).any(|x| *x < 0.0) {
            return Err("a standard deviation or a share is negative".into());
        }
        // Four digits of each.
        if self.persistence.iter().any(|p| p.iter().sum::<f64>() > 1.0 + 1e-3) {
            return Err("a row of persistence sums to more than 1".into());
        }
        Ok(())
    }

    fn round(&mut self) {
        let Component { mean, diagonal, scales, persistence, directions, marginals } = self;
        let lists = [mean, diagonal, scales].into_iter().chain(persistence).chain(directions).chain(marginals);
        lists.for_each(|v| round_all(v));
    }
}

/// Four significant digits.
fn round(x: f64) -> f64 {
    round_to(x, 4)
}

fn round_to(x: f64, digits: usize) -> f64 {
    format!("{x:.*e}", digits - 1).parse().expect("a number's own text")
}

fn round_all(v: &mut [f64]) {
    v.iter_mut().for_each(|x| *x = round(*x));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Result<FittedModel> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("fitted.toml");
        std::fs::write(&path, text).unwrap();
        FittedModel::load(&path)
    }

    #[test]
    fn what_is_written_is_read() {
        let model = testing::model(8).rounded();
        assert_eq!(load(&model.render()).unwrap(), model);
        let rescaled = |factor| FittedModel { yarn: Some(YarnRotation { factor, original: 4096 }), ..model.clone() };
        assert_eq!(load(&rescaled(2.5).render()).unwrap(), rescaled(2.5));
        assert!(load(&rescaled(0.5).render()).unwrap_err().to_string().contains("expected 1 to 1024"));
        assert_eq!(model.rounded(), model);
    }

    #[test]
    fn wrong_files_name_line_and_reason() {
        let text = testing::model(8).rounded().render();
        let line_of = |text: &str, needle: &str| 1 + text[..text.find(needle).unwrap()].matches('\n').count();
        let edits = [
            ("rope_theta", "rope_teta", "did you mean \"rope_theta\"?", Some("rope_teta")),
            ("version = 2", "version = 1", "version 1 is not supported", Some("version")),
            ("dim = 8", "dim = 7", "not an even number", Some("dim")),
            ("\"halves\"", "\"half\"", "expected one of halves", None),
            ("rope_theta = 50000.0", "rope_theta = nan", "out of range", None),
            ("model_layers = 8", "model_layers = 6", "cannot include layer 6", None),
            ("lifetimes = [3.0, 50.0]", "lifetimes = [3.0, 0.0]", "lengths of 1 to", None),
            ("lifetimes = [3.0, 50.0]", "lifetimes = [3.0]", "row of persistence", Some("[layer.head.key]")),
            ("layer = 6", "layer = 1", "ascending", None),
            ("words = [0.1, 0.05]", "words = [0.1, 0.95]", "sum to at most 1", Some("words")),
            ("words = [0.1, 0.05]", "words = [0.1, nan]", "shares of 0 to 1", Some("words")),
            ("words = [0.1, 0.05]", "words = [0.1]", "vectors is not 1 rows of 8", Some("[layer.head.words]")),
            ("words = [0.1, 0.05]", "words = []", "no common words", Some("[layer.head.words]")),
            ("spread = [0.5, 0.8, 0.4]", "spread = [0.5, 0.8]", "spread has 2 entries; expected 3", None),
            ("spread = [0.5, 0.8, 0.4]", "spread = [0.5, -0.8, 0.4]", "a spread is negative", None),
            ("spread = [0.5, 0.8, 0.4]", "spread = [0.5, 0.8, inf]", "within -1000 to 1000", None),
            ("[layer.head.words]", "[layer.head.wrods]", "unknown key", None),
            ("word = 1\n", "word = 2\n", "some of the 2 common words", Some("[[layer.sink_word]]")),
            ("rate = 0.5", "rate = 1.5", "rates of 0 to 1", None),
            ("sink_words = [[", "sink_words = [[0.5], [", "one for each sink_word", Some("sink_words = [[0.5]")),
            ("sink_words = [[", "sink_words = [[0.5, ", "rows of 8 numbers", None),
            ("sink_rate = 0.01", "sink_rate = 2.0", "not in 0 to 1", Some("sink_rate = 2.0")),
            ("coupling = [[0.6", "coupling = [[1.1", "square is above 1", Some("coupling")),
            ("coupling = [[0.6", "coupling = [[nan", "square is above 1", None),
            ("coupling = [[0.6, 0.0], [", "coupling = [[", "expected 2 rows of 2", None),
            ("scales = [3.0, 1.5]", "scales = [3.0]", "entries; expected", Some("[layer.head.key]")),
            ("scales = [3.0, 1.5]", "scales = [3.0, -1.5]", "negative", None),
            ("scales = [3.0, 1.5]", "scales = [3.0, 1e9]", "within -1000 to 1000", None),
            ("[layer.head.sink_key]", "[layer.head.sink]", "unknown key", None),
        ];
        for (from, to, words, line) in edits {
            assert!(text.contains(from), "{from}");
            let wrong = text.replacen(from, to, 1);
            let e = load(&wrong).unwrap_err();
            assert!(matches!(e, pimattn_core::error::Error::Config { .. }), "{to}");
            assert!(e.to_string().contains(words), "{to}: {e}");
            if let Some(needle) = line {
                let place = format!("fitted.toml:{}:", line_of(&wrong, needle));
                assert!(e.to_string().contains(&place), "{to}: {e}, not {place}");
            }
        }
        assert!(load("").is_err() && load("version = 1").is_err() && load("[[layer]]").is_err());
        let mut wordless = testing::model(8);
        wordless.layers[0].heads[1].words = None;
        assert!(load(&wordless.render()).unwrap_err().to_string().contains("words is missing"));
        let wordless = testing::without_words(wordless);
        assert_eq!(load(&wordless.render()).unwrap(), wordless.rounded());
        let mut empty = testing::model(8);
        empty.layers[1].heads.clear();
        assert!(load(&empty.render()).is_err());
        empty.layers.clear();
        assert!(load(&empty.render()).is_err());
    }
}
