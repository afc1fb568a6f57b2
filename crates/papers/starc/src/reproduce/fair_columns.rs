//! The tables of policies at several mappings: their rows, and what is measured of each.

use super::bootstrap::ReductionInterval;
use super::columns::decimal;
use pimattn_core::table::Value;
use pimattn_core::{columns, measures};

/// A policy at a mapping, over the caches of a source.
#[derive(Debug, Clone, PartialEq)]
pub struct MappingRow {
    /// What the caches are.
    pub source: &'static str,
    /// Selection policy.
    pub policy: String,
    /// Name of the mapping.
    pub mapping: &'static str,
    /// Tokens that a query head may select; empty where the policy takes no notice.
    pub budget: String,
    /// Caches.
    pub caches: u64,
    /// Time of a decode step of a layer (us), mean.
    pub us: f64,
    /// Its energy (uJ), mean.
    pub uj: f64,
    /// Median step (us), mean over caches.
    pub median_us: f64,
    /// Longest step of all caches (us).
    pub worst_us: f64,
    /// Tokens selected by a query head.
    pub selected: Option<f64>,
    /// Tokens in the row-blocks that it touches.
    pub row_tokens: Option<f64>,
    /// Relative error of the output.
    pub output_rel_err: Option<f64>,
    /// The mapping, as arguments.
    pub arguments: String,
}

/// What STARC takes less than another policy, and how sure that is.
#[derive(Debug, Clone, PartialEq)]
pub struct IntervalRow {
    /// What the caches are.
    pub source: &'static str,
    /// Name of the mapping.
    pub mapping: &'static str,
    /// What is compared.
    pub scope: &'static str,
    /// Latency or energy.
    pub measure: &'static str,
    /// The other policy.
    pub against: String,
    /// The reduction.
    pub found: ReductionInterval,
    /// Caches.
    pub caches: u64,
}

/// Columns of mappings.csv.
pub mod mappings {
    use super::*;

    fn known(x: Option<f64>) -> Value {
        x.map_or(Value::Unknown, decimal)
    }

    measures! {
        /// A row is a policy at a mapping.
        pub MAPPINGS of MappingRow {
            SOURCE = "source", "-", "real: layers of KV dumps; synthetic: fitted layers, drawn with several seeds", |r| r.source.into();
            POLICY = columns::POLICY, "-", "what chooses the tokens", |r| (&r.policy).into();
            MAPPING = "mapping", "-",
                "artifact: the artifact's account, without rows; default: the workload's own; best: what tuning finds for the policy; best-at-error: the same, at the smallest budget that keeps the plan's mean output error over all layers",
                |r| r.mapping.into();
            BUDGET = columns::BUDGET, "tokens", "that a query head may select; empty for full, which takes no notice of it",
                |r| (&r.budget).into();
            CACHES = "caches", "1", "caches that the row is the mean of: layers, times seeds where they are synthetic", |r| r.caches.into();
            TIME_US = "time_us", "us", "a decode step of a layer on a stack, mean over steps and caches", |r| decimal(r.us);
            ENERGY_UJ = "energy_uj", "uJ", "its energy", |r| decimal(r.uj);
            MEDIAN_US = "median_us", "us", "the median step, mean over caches", |r| decimal(r.median_us);
            WORST_US = "worst_us", "us", "the longest step of all caches: one that clusters, where the policy clusters", |r| decimal(r.worst_us);
            SELECTED = "selected", "tokens", "selected by a query head, mean", |r| known(r.selected);
            ROW_TOKENS = columns::ROW_TOKENS, "tokens", "in blocks of 16 slots with a selected token, of a query head, mean",
                |r| known(r.row_tokens);
            OUTPUT_REL_ERR = columns::OUTPUT_REL_ERR, "1", "relative error of the output, mean", |r| known(r.output_rel_err);
            ARGUMENTS = "arguments", "-", "the mapping, for tracegen run; empty where it is none that was tuned", |r| (&r.arguments).into();
        }
    }
}

/// Columns of intervals.csv.
pub mod intervals {
    use super::*;

    measures! {
        /// A row is a reduction and its interval.
        pub INTERVALS of IntervalRow {
            SOURCE = "source", "-", "as in mappings.csv", |r| r.source.into();
            MAPPING = "mapping", "-", "as in mappings.csv; both policies are at theirs", |r| r.mapping.into();
            SCOPE = "scope", "-",
                "attention: a layer on a stack; end-to-end: a decode step of the model whose sparse layers are like those measured",
                |r| r.scope.into();
            MEASURE = "measure", "-", "latency or energy", |r| r.measure.into();
            AGAINST = "against", "-", "the other policy", |r| (&r.against).into();
            REDUCTION_PERCENT = "reduction_percent", "%", "100 x (1 - starc / other), of the sums over all caches",
                |r| Value::Float(r.found.percent, 4);
            LOW = "low_percent", "%", "lower end of the 95 % interval (bootstrap over layers, and seeds within)",
                |r| Value::Float(r.found.low, 4);
            HIGH = "high_percent", "%", "upper end", |r| Value::Float(r.found.high, 4);
            CACHES = "caches", "1", "caches that are drawn from", |r| r.caches.into();
        }
    }
}
