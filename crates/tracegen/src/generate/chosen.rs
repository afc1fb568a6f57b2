//! Who selects: a policy, or a selection that was made elsewhere.

use pimattn_policies::select::recorded::HeadRecording;
use pimattn_policies::select::{Policy, Preparation};
use pimattn_policies::selection::SelectionFacts;

/// What the layers that do not stay full select by.
pub enum Chosen {
    /// A policy, which sees the cache.
    Policy(Box<dyn Policy>),
    /// A selection from elsewhere.
    Imported(ImportedSelection),
}

/// A selection that fits the cache.
pub struct ImportedSelection {
    /// What it says of the policy that made it.
    pub facts: SelectionFacts,
    /// Hash of its content.
    pub hash: u32,
    /// By layer and KV head.
    pub heads: Vec<HeadRecording>,
    /// Steps that it has, where the run is cut to them.
    pub cut: Option<usize>,
}

impl Chosen {
    /// Name of the policy.
    pub fn name(&self) -> &str {
        match self {
            Chosen::Policy(policy) => policy.name(),
            Chosen::Imported(imported) => &imported.facts.policy,
        }
    }

    /// What its selection says of it, made with a budget.
    pub fn facts(&self, budget: usize) -> SelectionFacts {
        SelectionFacts {
            policy: self.name().into(),
            budget: Some(budget),
            beyond_budget: !self.heeds_budget(),
            clusters: self.clusters(),
            period: self.period(),
            prepares_from: self.prepares_from(),
        }
    }

    /// As [`Policy::clusters`].
    pub fn clusters(&self) -> bool {
        match self {
            Chosen::Policy(policy) => policy.clusters(),
            Chosen::Imported(imported) => imported.facts.clusters,
        }
    }

    /// As [`Policy::heeds_budget`].
    pub fn heeds_budget(&self) -> bool {
        match self {
            Chosen::Policy(policy) => policy.heeds_budget(),
            Chosen::Imported(imported) => !imported.facts.beyond_budget,
        }
    }

    /// As [`Policy::period`].
    pub fn period(&self) -> usize {
        match self {
            Chosen::Policy(policy) => policy.period(),
            Chosen::Imported(imported) => imported.facts.period,
        }
    }

    /// As [`Policy::prepares_from`].
    pub fn prepares_from(&self) -> Preparation {
        match self {
            Chosen::Policy(policy) => policy.prepares_from(),
            Chosen::Imported(imported) => imported.facts.prepares_from,
        }
    }
}
