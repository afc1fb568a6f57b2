//! Selections made elsewhere, or kept: which tokens each query head attends to at each step, as a file or as arrays.
//!
//! [`file`] reads and writes them, [`bind`] checks one against a cache and makes the recordings of which a generator
//! ([`Generator::load_imported`](crate::generate::Generator::load_imported)) makes accesses, [`keep`] makes one of recordings, [`import`]
//! reads what other programs log.

mod bind;
mod file;
pub mod import;
mod keep;
#[cfg(test)]
mod tests;

pub(crate) use keep::KeptShape;

use pimattn_core::error::{Error, Result};
use pimattn_kv::selection::{Clustering, SlotOrder};
use pimattn_policies::select::recorded::RecordedScan;
use std::fmt;
use std::str::FromStr;

/// What each query head of each layer selects at each step, in CSR form.
#[derive(Debug, Clone)]
pub struct Selection {
    /// Where it comes from, for errors.
    origin: String,
    policy: String,
    budget: Option<usize>,
    prefill: usize,
    granularity: Granularity,
    /// Tokens, or pages, list after list, in the order layer, query head, step.
    indices: Vec<u32>,
    /// Where each list begins in `indices`, and the last one's end.
    pointer: Vec<u64>,
    /// Slot of each token `[layer, kv_head, token]`.
    order: Option<([usize; 3], Vec<u32>)>,
    scan: SelectionScan,
    details: Option<SelectionDetails>,
}

/// What an index of a selection stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Granularity {
    /// A token.
    Token,
    /// So many consecutive tokens, the first of which is a multiple of their number.
    Page(usize),
}

/// What selecting reads of memory, at each step in which a query head does not select all tokens.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum SelectionScan {
    /// Nothing.
    Nothing,
    /// So many bytes of each token, such as a short key.
    BytesPerToken(f64),
    /// Matrices of so many vectors, each of so many elements.
    Vectors {
        /// Matrices, each multiplied by a vector per query head.
        matrices: u32,
        /// Vectors of a matrix.
        vectors: u32,
        /// Elements of a vector.
        elements: u32,
    },
}

/// What our own policies know of a selection besides its tokens, by layer, KV head and step.
#[derive(Debug, Clone, Default)]
struct SelectionDetails {
    kv_heads: usize,
    /// Orders of tokens in memory, and which of them each step has.
    orders: Vec<SlotOrder>,
    order_of: Vec<u32>,
    scans: Vec<RecordedScan>,
    /// Of the preparation, then of each step.
    clusterings: Vec<Vec<Clustering>>,
    /// Share of the selected tokens in the output, by list; empty where it is 1.
    shares: Vec<f32>,
    /// Scores that weigh the selected tokens, beside `indices`; empty where these are the true ones, NaN where those of a list are.
    scores: Vec<f32>,
}

/// A selection as arrays ([`Selection::from_csr`]).
#[derive(Debug, Clone)]
pub struct CsrSelection {
    /// Name of the policy, for tables.
    pub policy: String,
    /// Tokens before the first step.
    pub prefill: usize,
    /// What an index stands for.
    pub granularity: Granularity,
    /// Indices, list after list, in the order layer, query head, step; in any order within a list.
    pub indices: Vec<u32>,
    /// Where each list begins in `indices`, and the last one's end.
    pub pointer: Vec<u64>,
    /// Slot of each token in memory `[layer, kv_head, token]`, with its shape; position order without it.
    pub order: Option<([usize; 3], Vec<u32>)>,
    /// What selecting reads.
    pub scan: SelectionScan,
}

impl Selection {
    /// A selection made elsewhere; `origin` names it in errors.
    ///
    /// # Errors
    /// [`Error::Data`] where the pointers do not begin at 0, go back, or do not end at the number of indices, or the order does not fill
    /// its shape. Whether it fits a cache is found when it is used.
    pub fn from_csr(origin: &str, csr: CsrSelection) -> Result<Self> {
        let CsrSelection { policy, prefill, granularity, indices, pointer, order, scan } = csr;
        let selection = Selection {
            origin: origin.into(),
            policy,
            budget: None,
            prefill,
            granularity,
            indices,
            pointer,
            order,
            scan,
            details: None,
        };
        selection.check()?;
        Ok(selection)
    }

    /// Name of the policy that selected.
    pub fn policy(&self) -> &str {
        &self.policy
    }

    /// Tokens before the first step.
    pub fn prefill(&self) -> usize {
        self.prefill
    }

    /// What an index stands for.
    pub fn granularity(&self) -> Granularity {
        self.granularity
    }

    /// Lists: layers times query heads times steps.
    pub fn lists(&self) -> usize {
        self.pointer.len() - 1
    }

    /// The tokens or pages of a list.
    ///
    /// # Panics
    /// When there is no such list.
    pub fn list(&self, list: usize) -> &[u32] {
        &self.indices[self.pointer[list] as usize..self.pointer[list + 1] as usize]
    }

    /// All indices, list after list.
    pub fn indices(&self) -> &[u32] {
        &self.indices
    }

    /// Where each list begins in the indices, and the last one's end.
    pub fn pointer(&self) -> &[u64] {
        &self.pointer
    }

    /// The budget that it was made with, or the most tokens that a list has.
    pub fn budget(&self) -> usize {
        let longest = (0..self.lists()).map(|list| self.list(list).len()).max().unwrap_or(0);
        self.budget.unwrap_or(longest * self.granularity.tokens()).max(1)
    }

    /// Hash of all that it says.
    pub fn hash(&self) -> u32 {
        let mut hash = crc32fast::Hasher::new();
        self.pointer.iter().for_each(|x| hash.update(&x.to_le_bytes()));
        self.indices.iter().for_each(|x| hash.update(&x.to_le_bytes()));
        self.order.iter().flat_map(|(_, slots)| slots).for_each(|x| hash.update(&x.to_le_bytes()));
        let Selection { policy, budget, prefill, granularity, scan, details, .. } = self;
        hash.update(format!("{policy} {budget:?} {prefill} {granularity} {scan} {details:?}").as_bytes());
        hash.finalize()
    }

    fn error(&self, what: impl Into<String>) -> Error {
        Error::data(&self.origin, what)
    }

    /// What can be wrong without a cache to compare with.
    fn check(&self) -> Result<()> {
        let pointer = &self.pointer;
        if pointer.len() < 2 || pointer[0] != 0 {
            return Err(self.error("sel_ptr has to begin with 0 and to have a list at least"));
        }
        if let Some(at) = pointer.windows(2).position(|pair| pair[0] > pair[1]) {
            return Err(self.error(format!(
                "sel_ptr goes back behind list {at}: {} after {}",
                pointer[at + 1],
                pointer[at]
            )));
        }
        if pointer.last() != Some(&(self.indices.len() as u64)) {
            let end = pointer.last().copied().unwrap_or(0);
            return Err(
                self.error(format!("sel_ptr ends at {end}, and sel_indices has {} elements", self.indices.len()))
            );
        }
        if let Some((shape, slots)) = &self.order
            && shape.iter().product::<usize>() != slots.len()
        {
            return Err(self.error(format!("order has {} elements, which do not fill {shape:?}", slots.len())));
        }
        match self.granularity {
            Granularity::Page(0) => Err(self.error("granularity page:0: a page has a token at least")),
            _ => Ok(()),
        }
    }
}

impl Granularity {
    /// Tokens of an index.
    pub fn tokens(self) -> usize {
        match self {
            Granularity::Token => 1,
            Granularity::Page(tokens) => tokens,
        }
    }
}

impl fmt::Display for Granularity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Granularity::Token => f.write_str("token"),
            Granularity::Page(tokens) => write!(f, "page:{tokens}"),
        }
    }
}

impl FromStr for Granularity {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let page = |tokens: &str| tokens.parse().ok().filter(|n| *n > 0).map(Granularity::Page);
        match text.split_once(':') {
            None if text == "token" => Ok(Granularity::Token),
            Some(("page", tokens)) => {
                page(tokens).ok_or_else(|| format!("granularity \"{text}\": expected page:TOKENS"))
            }
            _ => Err(format!("granularity \"{text}\": expected token, or page:TOKENS")),
        }
    }
}

impl fmt::Display for SelectionScan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SelectionScan::Nothing => f.write_str("none"),
            SelectionScan::BytesPerToken(bytes) => write!(f, "bytes_per_token:{bytes}"),
            SelectionScan::Vectors { matrices, vectors, elements } => write!(f, "{matrices}x{vectors}x{elements}"),
        }
    }
}

impl FromStr for SelectionScan {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("scan \"{text}\": expected none, bytes_per_token:BYTES or MATRICESxVECTORSxELEMENTS");
        if text == "none" {
            return Ok(SelectionScan::Nothing);
        }
        if let Some(bytes) = text.strip_prefix("bytes_per_token:") {
            let bytes: f64 = bytes.parse().map_err(|_| wrong())?;
            let possible = bytes > 0.0 && bytes <= f64::from(u16::MAX);
            return if possible { Ok(SelectionScan::BytesPerToken(bytes)) } else { Err(wrong()) };
        }
        let numbers: Vec<u32> =
            text.split('x').map(|n| n.trim().parse()).collect::<Result<_, _>>().map_err(|_| wrong())?;
        match numbers[..] {
            [matrices, vectors, elements] if !numbers.contains(&0) => {
                Ok(SelectionScan::Vectors { matrices, vectors, elements })
            }
            _ => Err(wrong()),
        }
    }
}
