//! What says of a result whose it is: which policy selected how much, and of which cache.

use pimattn_core::columns;
use pimattn_core::table::{Measure, Value, measure};

/// What was selected, and of which cache. Tables of the same selection agree in it, and no others do.
#[derive(Debug, Clone, Default, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub struct SelectionLabel {
    /// Selection policy.
    pub policy: String,
    /// Tokens that a query head may select.
    pub budget: u64,
    /// Layers of the cache.
    pub layers: u32,
    /// Hash of the keys, values and queries: a CRC-32 of each, in hexadecimal digits.
    pub cache_hash: String,
    /// Hash of all that the selection depends on besides the cache (CRC-32 of its text).
    pub selection_hash: u32,
    /// What a reader of its results has to know, such as that the run is shorter than a period of the policy.
    pub cautions: Vec<String>,
}

impl SelectionLabel {
    /// A value of it; a trace that does not say what was selected has none.
    fn known(&self, value: impl Into<Value>) -> Value {
        if self.policy.is_empty() { Value::Unknown } else { value.into() }
    }
}

/// A policy and its budget, as all tables have them.
pub const CHOICE_KEYS: &[Measure<SelectionLabel>] = &[
    measure(columns::POLICY, "-", "selection policy", |l| (&l.policy).into()),
    measure(columns::BUDGET, "tokens", "tokens that a query head may select", |l| l.known(l.budget)),
];

/// The cache.
pub const CACHE_KEY: Measure<SelectionLabel> = measure(
    columns::CACHE_HASH,
    "-",
    "hash of the keys, values and queries; results that differ in it are of different caches",
    |l| (&l.cache_hash).into(),
);

/// What tells selections apart that have the same policy and budget, and what a reader has to know of them.
pub const LABEL_KEYS: &[Measure<SelectionLabel>] = &[
    measure(columns::LAYERS, "1", "layers of the cache", |l| l.known(l.layers)),
    measure(
        columns::SELECTION_HASH,
        "-",
        "hash of all else that the selection depends on: policy, its parameters, budget, dense layers, seed",
        |l| l.known(format!("{:08x}", l.selection_hash)),
    ),
    measure(
        columns::CAUTIONS,
        "-",
        "what to know before these numbers are set against others, such as fewer steps than a period of the policy; else empty",
        |l| l.cautions.join("; ").into(),
    ),
];
