//! Selections as data: the tokens that each query head attends to at each decode step, whoever chose them.
//!
//! A [`Selection`] comes from a file ([`Selection::load`]), from arrays ([`Selection::from_csr`]), from another program's log
//! ([`import`]), or from a policy that has run ([`Selection::of_recordings`]). Whether it fits is a question of the cache:
//! [`Selection::recordings`] checks it against one, and gives what the generator replays. docs/selections.md has the format.

mod file;
mod fit;
pub mod import;
mod orders;
mod record;
#[cfg(test)]
mod tests;

pub use fit::SelectionFit;

use crate::select::Preparation;
use std::ops::Range;

/// Pieces of the cache that a selection chooses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Granularity {
    /// Tokens.
    Token,
    /// Pages of so many consecutive tokens; the last page has those that are there.
    Page(u32),
}

impl Granularity {
    /// Reads `token`, or `page:N`.
    ///
    /// # Errors
    /// What is expected, where it is neither.
    pub fn parse(text: &str) -> Result<Self, String> {
        let page = |text: &str| text.strip_prefix("page:")?.parse().ok().filter(|n| (1..=1 << 20).contains(n));
        match (text, page(text)) {
            ("token", _) => Ok(Granularity::Token),
            (_, Some(tokens)) => Ok(Granularity::Page(tokens)),
            _ => Err(format!("\"{text}\"; expected token, or page:N of 1 to 1048576 tokens")),
        }
    }

    /// As [`Granularity::parse`] reads it.
    pub fn text(self) -> String {
        match self {
            Granularity::Token => "token".into(),
            Granularity::Page(tokens) => format!("page:{tokens}"),
        }
    }

    /// Tokens of a whole piece.
    fn tokens(self) -> usize {
        match self {
            Granularity::Token => 1,
            Granularity::Page(tokens) => tokens as usize,
        }
    }
}

/// What selecting reads at a step at which a KV head does not attend to all tokens, in a word.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum ScanRule {
    /// Nothing.
    #[default]
    Nothing,
    /// So many bytes for each cached token.
    BytesPerToken(f64),
    /// Vectors that the policy keeps, in rows of their own.
    Vectors {
        /// Matrices; each is multiplied by one vector per query head.
        matrices: u32,
        /// Vectors of a matrix.
        vectors: u32,
        /// Elements of a vector.
        elements: u32,
    },
}

impl ScanRule {
    /// Reads `none`, `bytes_per_token:X` or `MATRICESxVECTORSxELEMENTS`.
    ///
    /// # Errors
    /// What is expected, where it is none of these.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!("\"{text}\" is neither none, nor bytes_per_token:X, nor as 2x128x64 (matrices, vectors, elements)")
        };
        if text == "none" {
            return Ok(ScanRule::Nothing);
        }
        if let Some(bytes) = text.strip_prefix("bytes_per_token:") {
            let bytes: f64 = bytes.parse().map_err(|_| wrong())?;
            return if bytes > 0.0 && bytes.is_finite() { Ok(ScanRule::BytesPerToken(bytes)) } else { Err(wrong()) };
        }
        let sizes: Option<Vec<u32>> = text.split('x').map(|n| n.parse().ok().filter(|n| *n > 0)).collect();
        match sizes.as_deref() {
            Some([matrices, vectors, elements]) => {
                Ok(ScanRule::Vectors { matrices: *matrices, vectors: *vectors, elements: *elements })
            }
            _ => Err(wrong()),
        }
    }

    /// As [`ScanRule::parse`] reads it.
    fn text(self) -> String {
        match self {
            ScanRule::Nothing => "none".into(),
            ScanRule::BytesPerToken(bytes) => format!("bytes_per_token:{bytes}"),
            ScanRule::Vectors { matrices, vectors, elements } => format!("{matrices}x{vectors}x{elements}"),
        }
    }
}

/// What a selection says of the policy that made it.
#[derive(Debug, Clone, PartialEq)]
pub struct SelectionFacts {
    /// Its name, for reports.
    pub policy: String,
    /// Tokens that each query head could select, where it is known.
    pub budget: Option<usize>,
    /// Whether it may select more tokens than the budget, as `full` does.
    pub beyond_budget: bool,
    /// Whether it clusters keys.
    pub clusters: bool,
    /// Decode steps after which its work repeats.
    pub period: usize,
    /// What of the prefill it prepares from.
    pub prepares_from: Preparation,
}

impl SelectionFacts {
    /// Of a policy of which only the name is known.
    pub fn named(policy: impl Into<String>) -> Self {
        SelectionFacts {
            policy: policy.into(),
            budget: None,
            beyond_budget: false,
            clusters: false,
            period: 1,
            prepares_from: Preparation::Nothing,
        }
    }
}

/// Numbers with the length of each axis.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Shaped<T> {
    pub shape: Vec<usize>,
    pub data: Vec<T>,
}

impl<T> Shaped<T> {
    fn flat(data: Vec<T>) -> Self {
        Shaped { shape: vec![data.len()], data }
    }
}

/// The optional tensors, each under its name in the file.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct SelectionTables {
    /// Slot of each token `[layer, kv_head, token]`, the same at all steps.
    pub order: Option<Shaped<u32>>,
    /// Orders that change over steps: slots of each `[order, token]`, and which order a step has `[layer, kv_head, step]`.
    pub orders: Option<Shaped<u32>>,
    pub order_of: Option<Shaped<u32>>,
    /// First slots of the clusters of each order, as CSR; clustered tokens and version of each.
    pub cluster_starts: Option<Shaped<u32>>,
    pub cluster_ptr: Option<Shaped<u64>>,
    pub clustered: Option<Shaped<u32>>,
    pub order_version: Option<Shaped<u32>>,
    /// Kind and three sizes `[layer, kv_head, step, 4]`; the dimensions of those that read dimensions, as CSR.
    pub scans: Option<Shaped<u32>>,
    pub scan_dims: Option<Shaped<u32>>,
    pub scan_dims_ptr: Option<Shaped<u64>>,
    /// First token, tokens, clusters, iterations `[n, 4]`, as CSR over layer, KV head, and preparation with steps.
    pub clusterings: Option<Shaped<u32>>,
    pub clustering_ptr: Option<Shaped<u64>>,
    /// Share of the selected tokens in the output `[layer, query_head, step]`.
    pub share: Option<Shaped<f32>>,
    /// Unscaled score of each selected token `[n]`; NaN: the true one.
    pub sel_scores: Option<Shaped<f32>>,
}

/// The selection of a run: CSR over layer, query head and step.
#[derive(Debug, Clone, PartialEq)]
pub struct Selection {
    /// File that it is from, for errors.
    source: String,
    facts: SelectionFacts,
    prefill: usize,
    granularity: Granularity,
    /// Layers, query heads and steps, where they are known without a cache.
    shape: Option<[usize; 3]>,
    /// Numbers of the layers in the model, where they are known.
    layers: Option<Vec<u32>>,
    scan: ScanRule,
    indices: Vec<u32>,
    ptr: Vec<u64>,
    tables: SelectionTables,
}

impl Selection {
    /// A selection from arrays: `indices` of tokens or pages, those of row `i` from `ptr[i]` to `ptr[i + 1]`; rows are in order of
    /// layer, query head and step, whose counts are `shape`, where they are known without a cache. Step `s` decodes token `prefill + s`. Whether the arrays are
    /// consistent and fit shows once there is a cache ([`Selection::recordings`]).
    pub fn from_csr(
        policy: impl Into<String>,
        prefill: usize,
        shape: Option<[usize; 3]>,
        granularity: Granularity,
        indices: Vec<u32>,
        ptr: Vec<u64>,
    ) -> Self {
        Selection {
            source: "selection".into(),
            facts: SelectionFacts::named(policy),
            prefill,
            granularity,
            shape,
            layers: None,
            scan: ScanRule::Nothing,
            indices,
            ptr,
            tables: SelectionTables::default(),
        }
    }

    /// The same, with what selecting reads.
    pub fn with_scan(mut self, scan: ScanRule) -> Self {
        self.scan = scan;
        self
    }

    /// The same, with the slot of each token `[layer, kv_head, token]`, whose counts are `shape`.
    pub fn with_order(mut self, shape: [usize; 3], slots: Vec<u32>) -> Self {
        self.tables.order = Some(Shaped { shape: shape.to_vec(), data: slots });
        self
    }

    /// The same, of these layers of the model.
    pub fn with_layers(mut self, layers: Vec<u32>) -> Self {
        self.layers = Some(layers);
        self
    }

    /// The same, with the tokens that each query head could select.
    pub fn with_budget(mut self, budget: usize) -> Self {
        self.facts.budget = Some(budget);
        self
    }

    /// Name of the policy that made it.
    pub fn policy(&self) -> &str {
        &self.facts.policy
    }

    /// What it says of that policy.
    pub fn facts(&self) -> &SelectionFacts {
        &self.facts
    }

    /// Tokens before the first step.
    pub fn prefill(&self) -> usize {
        self.prefill
    }

    /// The pieces that it chooses.
    pub fn granularity(&self) -> Granularity {
        self.granularity
    }

    /// Tokens or pages of all rows, one after the other.
    pub fn indices(&self) -> &[u32] {
        &self.indices
    }

    /// Where each row begins in the indices, and the end of the last.
    pub fn pointers(&self) -> &[u64] {
        &self.ptr
    }

    /// Layers, where it says how many.
    pub fn layers(&self) -> Option<usize> {
        self.shape.map(|[layers, _, _]| layers)
    }

    /// Query heads of a layer, where it says how many.
    pub fn query_heads(&self) -> Option<usize> {
        self.shape.map(|[_, heads, _]| heads)
    }

    /// Decode steps, where it says how many.
    pub fn steps(&self) -> Option<usize> {
        self.shape.map(|[_, _, steps]| steps)
    }

    /// Tokens of a query head at a step, in the order of the file; `layer` is an index. None where there is no such step, or the
    /// shape is not known.
    pub fn tokens(&self, layer: usize, query_head: usize, step: usize) -> Option<Vec<u32>> {
        let [layers, heads, steps] = self.shape?;
        if layer >= layers || query_head >= heads || step >= steps {
            return None;
        }
        let raw = self.indices.get(self.row((layer * heads + query_head) * steps + step)?)?;
        let (piece, len) = (self.granularity.tokens() as u32, (self.prefill + step + 1) as u32);
        let tokens = |index: u32| {
            let first = index.saturating_mul(piece);
            first..first.saturating_add(piece).min(len.max(first + 1))
        };
        Some(raw.iter().flat_map(|index| tokens(*index)).collect())
    }

    /// Where the indices of a row are, if the pointers say so.
    fn row(&self, row: usize) -> Option<Range<usize>> {
        let (first, end) = (*self.ptr.get(row)?, *self.ptr.get(row + 1)?);
        let range = usize::try_from(first).ok()?..usize::try_from(end).ok()?;
        (range.start <= range.end && range.end <= self.indices.len()).then_some(range)
    }
}
