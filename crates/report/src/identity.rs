//! Whose a result is, as tables say it: what does not belong together is not joined.

use pimattn_core::columns;
use std::fmt;

/// A policy, its budget, the cache and all else that the selection depends on.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ResultIdentity {
    /// Selection policy.
    pub policy: String,
    /// Tokens that a query head may select, as the table has it.
    pub budget: String,
    /// Hash of the cache.
    pub cache: String,
    /// Hash of the rest.
    pub selection: String,
}

impl ResultIdentity {
    /// Its columns.
    pub const COLUMNS: [&str; 4] = [columns::POLICY, columns::BUDGET, columns::CACHE_HASH, columns::SELECTION_HASH];

    /// From the cells below [`Self::COLUMNS`]; none where the table does not say.
    pub fn of([policy, budget, cache, selection]: [&str; 4]) -> Option<Self> {
        let known = !policy.is_empty() && !cache.is_empty();
        known.then(|| ResultIdentity {
            policy: policy.into(),
            budget: budget.into(),
            cache: cache.into(),
            selection: selection.into(),
        })
    }

    /// Why two results do not belong together, if they do not.
    pub fn differs_from(&self, other: &ResultIdentity) -> Option<String> {
        let pairs = [
            ("another cache (cache_hash)", &self.cache, &other.cache),
            ("another policy", &self.policy, &other.policy),
            ("another budget", &self.budget, &other.budget),
            ("other parameters (selection_hash)", &self.selection, &other.selection),
        ];
        let (what, a, b) = pairs.into_iter().find(|(_, a, b)| a != b)?;
        Some(format!("{what}: {a}, not {b}"))
    }
}

/// Why two runs are not to be set side by side as runs of the same work, if so: caches and numbers of steps.
pub fn unlike(a: (Option<&ResultIdentity>, f64), b: (Option<&ResultIdentity>, f64)) -> Option<String> {
    if let (Some(own), Some(other)) = (a.0, b.0)
        && own.cache != other.cache
    {
        return Some(format!("the runs are of different caches (cache_hash {} and {})", own.cache, other.cache));
    }
    (a.1 != b.1).then(|| format!("the runs have {} and {} steps", a.1, b.1))
}

impl fmt::Display for ResultIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ResultIdentity { policy, budget, cache, selection } = self;
        write!(f, "{policy} with budget {budget} on cache {cache}, parameters {selection}")
    }
}
