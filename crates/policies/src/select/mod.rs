//! Selection policies: which cached tokens a query head attends to.
//!
//! A policy is one file and one line in the registry. It is built from its own table of the workload file, then
//! makes a [`HeadState`] for each (layer, KV head), which sees the cache grow and answers each decode step.
//!
//! Every policy but `full` selects all tokens when they fit the budget, and otherwise at most the budget, provided that
//! this is at least [`Policy::min_budget`]. Two differ by definition: `h2o` evicts, so that what an earlier step's budget
//! had no room for is gone, whatever fits later; `clusterkv` takes generated tokens on top of the budget, unless told not to.

pub mod clusterkv;
mod clusters;
mod columns;
/// The policy of docs/add-a-policy.md.
#[cfg(test)]
#[path = "../../../../docs/add-a-policy.rs"]
mod documented;
pub mod full;
pub mod h2o;
pub mod infinigen;
pub mod oracle;
#[cfg(any(test, feature = "oracles"))]
pub mod plain;
pub mod quest;
pub mod recorded;
mod shortlist;
pub mod sparq;
pub mod spooled;
pub mod starc;
pub mod starc_v1;
pub mod streaming;
#[cfg(test)]
mod testing;
pub mod topk;

use pimattn_core::error::suggest;
use pimattn_kv::selection::{Clustering, Scan, SlotOrder};
use pimattn_kv::{Heads, Rows};
use rayon::prelude::*;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::sync::OnceLock;

/// All policies, in the order in which reports list them.
pub const REGISTRY: &[Entry] = &[
    full::ENTRY,
    oracle::ENTRY,
    streaming::ENTRY,
    quest::ENTRY,
    sparq::ENTRY,
    infinigen::ENTRY,
    infinigen::FILLED,
    h2o::ENTRY,
    clusterkv::ENTRY,
    starc::ENTRY,
    starc_v1::ENTRY,
];

/// A policy that can be built.
#[derive(Debug, Clone, Copy)]
pub struct Entry {
    /// Name in workload files and reports.
    pub name: &'static str,
    /// What it selects, in one line.
    pub summary: &'static str,
    /// Builds the policy from its table of the workload file; missing keys have their defaults.
    ///
    /// # Errors
    /// When the table has an unknown key, or a value is of the wrong type or out of range.
    pub build: fn(&toml::Table) -> Result<Box<dyn Policy>, PolicyError>,
}

/// The policy of that name, or a message that names the nearest one.
pub fn find(name: &str) -> Result<&'static Entry, String> {
    REGISTRY
        .iter()
        .find(|entry| entry.name == name)
        .ok_or_else(|| format!("unknown policy \"{name}\"{}", suggest(name, REGISTRY.iter().map(|entry| entry.name))))
}

/// Whether the policy of that name, with its default parameters, can be ranked by one seed ([`Policy::seed_decides`]).
pub fn one_seed_ranks(name: &str) -> bool {
    let built = find(name).ok().and_then(|entry| (entry.build)(&toml::Table::new()).ok());
    built.is_none_or(|policy| !policy.seed_decides())
}

/// A policy's table is wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {message}")]
pub struct PolicyError {
    /// Path of the wrong key inside the table, such as `block`.
    pub key: String,
    /// What is wrong, and what would be right.
    pub message: String,
}

/// Reads a policy's parameters. Those that `table` does not mention have their defaults.
fn parse<P: Serialize + DeserializeOwned + Default>(table: &toml::Table) -> Result<P, PolicyError> {
    let known = toml::Table::try_from(P::default()).expect("parameters are a table");
    if let Some(key) = table.keys().find(|key| !known.contains_key(*key)) {
        let message = match known.is_empty() {
            true => "unknown key; this policy has no parameters".to_string(),
            false => format!("unknown key{}", suggest(key, known.keys().map(String::as_str))),
        };
        return Err(PolicyError { key: key.clone(), message });
    }
    serde_path_to_error::deserialize(table.clone())
        .map_err(|e| PolicyError { key: e.path().to_string(), message: e.inner().message().to_string() })
}

/// `Ok` when a parameter's value is in range; else an error that says what it must be.
fn require(in_range: bool, key: &str, must: impl Into<String>) -> Result<(), PolicyError> {
    match in_range {
        true => Ok(()),
        false => Err(PolicyError { key: key.to_string(), message: must.into() }),
    }
}

/// A table of sizes, for [`Policy::sizes`].
fn size(keys: &[(&str, usize)]) -> toml::Table {
    keys.iter().map(|(key, n)| (key.to_string(), toml::Value::Integer(*n as i64))).collect()
}

/// Whom a choice is made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Per {
    /// All KV heads of a layer.
    Layer,
    /// The query heads of a KV head.
    Group,
    /// Each query head.
    Head,
}

/// Selects tokens `0..len`.
fn select_all(len: usize, out: &mut Vec<u32>) {
    out.clear();
    out.extend(0..len as u32);
}

/// What a policy may know about one KV head before decoding begins.
#[derive(Debug, Clone, Copy)]
pub struct HeadView<'a> {
    /// The keys that are known `[token, dim]`: those of the prefill at least, those of later tokens where they are there already.
    /// A policy must not select by later ones before [`HeadState::grow`] brings them.
    pub keys: Rows<'a>,
    /// Tokens present before the first decode step.
    pub prefill: usize,
    /// All queries that there are, of the query heads that share the keys; see [`HeadView::prefill_queries`].
    pub queries: Heads<'a>,
    /// Token of the first query; a dump may hold only late ones.
    pub query_start: usize,
    /// Seed for this head, derived from the run's seed, the layer and the head.
    pub seed: u64,
    /// What was found of the head's prefill before, by whichever run needed it first.
    pub memo: Option<&'a HeadMemo>,
}

/// What policies find of the prefill of a KV head that depends on the cache alone, kept with it: runs of other budgets and mappings
/// need it again.
#[derive(Debug, Default)]
pub struct HeadMemo {
    /// By query head, the attention probabilities of each token of the prefill, summed over the queries of the prefill.
    prefill_sums: OnceLock<Vec<Vec<f32>>>,
    /// Of rotations of the group and of each query head, all columns `[column, dim]`, those first that keep most of the queries.
    rotations: [OnceLock<Vec<Vec<f32>>>; 2],
}

impl<'a> HeadView<'a> {
    /// Queries of a query head at positions before decoding, the only ones that a policy may prepare from: those of
    /// tokens `query_start..prefill`, none where the source has only later ones.
    pub fn prefill_queries(&self, head: usize) -> Rows<'a> {
        let queries = self.queries.head(head);
        queries.range(0..self.prefill.saturating_sub(self.query_start).min(queries.len()))
    }
}

/// One decode step of one KV head, for the query heads that share it.
#[derive(Debug, Clone, Copy)]
pub struct StepView<'a> {
    /// Keys `[token, dim]` of the tokens to attend to, the last one being the token being decoded.
    pub keys: Rows<'a>,
    /// Tokens each query head may select.
    pub budget: usize,
    /// Unscaled queries, one per query head of the group.
    pub queries: &'a [&'a [f32]],
    /// The same of all query heads of the layer, for policies whose KV heads decide together; those of its first KV head first.
    pub layer_queries: &'a [&'a [f32]],
    /// True unscaled scores q·k of all tokens, one slice per query head, in the order of [`linalg::dot`]. Empty unless
    /// accuracy metrics ask for them.
    ///
    /// [`linalg::dot`]: pimattn_kv::linalg::dot
    pub scores: &'a [Vec<f32>],
}

impl StepView<'_> {
    /// Tokens to attend to.
    pub fn tokens(&self) -> usize {
        self.keys.len()
    }
}

/// Seed of a KV head, from the run's seed and the head's number among those of all layers and requests.
pub fn head_seed(seed: u64, index: usize) -> u64 {
    // A large odd factor keeps the seeds of neighbouring heads apart.
    seed ^ (index as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

/// What of the prefill a policy prepares from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Preparation {
    /// Nothing: it has no state before decoding begins.
    Nothing,
    /// Keys.
    Keys,
    /// Keys and queries, which a dump has to hold.
    Queries,
}

/// A configured policy.
pub trait Policy: Send + Sync {
    /// Name in the registry.
    fn name(&self) -> &'static str;
    /// The smallest budget (tokens) with which the policy can honour its definition.
    fn min_budget(&self) -> usize {
        1
    }
    /// Whether what a step selected changes what later steps can select.
    fn remembers(&self) -> bool {
        false
    }
    /// Whether it clusters keys.
    fn clusters(&self) -> bool {
        false
    }
    /// Whether a step selects no more tokens than the budget: not where all are attended to.
    fn heeds_budget(&self) -> bool {
        true
    }
    /// Whether what it keeps depends so much on the seed that one seed is no figure to rank it by.
    fn seed_decides(&self) -> bool {
        false
    }
    /// Decode steps after which its work repeats, as clustering does once in a block of tokens: steps to measure, or a multiple.
    fn period(&self) -> usize {
        1
    }
    /// What it prepares from, of the prefill.
    fn prepares_from(&self) -> Preparation {
        Preparation::Nothing
    }
    /// Other sizes of what it selects by (pages, clusters), made for a row of a unit that holds so many keys: tables of parameters
    /// that change its own. None where it selects token by token.
    fn sizes(&self, row_keys: usize) -> Vec<toml::Table> {
        let _ = row_keys;
        Vec::new()
    }
    /// Work on the prefill of one KV head (clustering happens here).
    fn prepare(&self, head: HeadView<'_>) -> Box<dyn HeadState + Send>;
    /// Whether the KV heads of a layer decide together, so that [`Policy::prepare_layer`] does more than prepare each of them: they are
    /// then in memory together.
    fn decides_together(&self) -> bool {
        false
    }
    /// As [`Policy::prepare`], of all KV heads of a layer in their order. A policy whose heads decide together has them
    /// know of each other here; where their views have the keys of all steps, they may go through these on different threads, and
    /// at different times, else all of them grow before one selects.
    fn prepare_layer(&self, heads: &[HeadView<'_>]) -> Vec<Box<dyn HeadState + Send>> {
        heads.par_iter().map(|head| self.prepare(*head)).collect()
    }
}

/// A policy's memory of one KV head. It keeps no reference to the cache, which may grow while the model decodes.
pub trait HeadState {
    /// These are the keys `[token, dim]` now, of all tokens. Called before each step, with more of them each time.
    fn grow(&mut self, keys: Rows<'_>);
    /// For each query head of the step, the tokens selected, ascending, into `out` (one vector per query head,
    /// cleared first). `step.keys` are those last given to [`HeadState::grow`].
    fn select(&mut self, step: StepView<'_>, out: &mut [Vec<u32>]);
    /// The order in which tokens lie in memory.
    fn order(&self) -> &SlotOrder;
    /// What the last `select` had to read to choose: nothing where all tokens fit the budget.
    fn scan(&self) -> Scan<'_> {
        Scan::Nothing
    }
    /// What the last `grow` clustered; before the first one, what `prepare` did.
    fn clusterings(&self) -> &[Clustering] {
        &[]
    }
    /// Per query head, the share `a` (0 to 1) of the selected tokens' attention in the output of the last step:
    /// `a · attention(selected) + (1 - a) · mean(V of all tokens)`. Empty means 1 for all.
    fn blend(&self) -> &[f32] {
        &[]
    }
    /// Per query head, the unscaled scores by which the output of the last step weighs the selected tokens, in their
    /// order, where these are not the true ones. Empty means the true ones for all.
    fn rescored(&self) -> &[Vec<f32>] {
        &[]
    }
}

#[cfg(test)]
mod tests {
    use super::testing::{self, Case};
    use super::*;
    use proptest::prelude::*;

    fn build(name: &str, table: &str) -> Result<Box<dyn Policy>, PolicyError> {
        (entry(name).build)(&table.parse().unwrap())
    }

    /// Of the registry, or of the documentation.
    fn entry(name: &str) -> &'static Entry {
        if name == documented::ENTRY.name { &documented::ENTRY } else { find(name).unwrap() }
    }

    fn error(name: &str, table: &str) -> String {
        build(name, table).err().unwrap().to_string()
    }

    #[test]
    fn every_entry_builds_with_defaults_and_knows_its_name() {
        for entry in REGISTRY {
            assert_eq!(build(entry.name, "").unwrap().name(), entry.name);
            assert_eq!(find(entry.name).unwrap().summary, entry.summary);
        }
        let unranked: Vec<_> = REGISTRY.iter().map(|e| e.name).filter(|name| !one_seed_ranks(name)).collect();
        assert_eq!(unranked, ["starc-v1"]);
        assert_eq!(find("stark").unwrap_err(), "unknown policy \"stark\"; did you mean \"starc\"?");
    }

    #[test]
    fn the_documented_policy_is_the_one_that_is_tested_here() {
        let document = include_str!("../../../../docs/add-a-policy.md");
        assert!(document.contains(&format!("```rust\n{}```\n", include_str!("../../../../docs/add-a-policy.rs"))));
        assert_eq!(build("recent", "older = 16").unwrap().min_budget(), 17);
        assert_eq!(error("recent", "older = 0"), "older: must be at least 1");
        assert_eq!(error("recent", "oldest = 1"), "oldest: unknown key; did you mean \"older\"?");
    }

    #[test]
    fn wrong_parameters_are_errors_that_name_the_key() {
        assert_eq!(error("quest", "pages = 16"), "pages: unknown key; did you mean \"page\"?");
        assert_eq!(error("full", "page = 16"), "page: unknown key; this policy has no parameters");
        assert!(error("starc", "block = \"64\"").starts_with("block: invalid type: string"));
        assert!(error("starc", "block = -1").starts_with("block: invalid value"));
        assert!(error("starc", "start = \"last\"").starts_with("start: unknown variant `last`"));
        assert_eq!(error("starc", "block = 0"), "block: must be at least 1");
        assert_eq!(error("starc", "clusters = 65"), "clusters: must be 1 to 64, the block");
        assert_eq!(error("starc", "max_iterations = 0"), "max_iterations: must be at least 1");
        assert_eq!(error("quest", "page = 0"), "page: must be at least 1");
        assert_eq!(error("quest", "min_pages = 0"), "min_pages: must be at least 1");
        assert_eq!(error("starc-v1", "cluster_size = 129"), "cluster_size: must be 1 to 128, the buffer");
        assert_eq!(error("starc-v1", "buffer = 0"), "buffer: must be at least 1");
        assert_eq!(error("sparq", "r = 0"), "r: must be at least 1");
        assert!(error("sparq", "mean_value = 1").starts_with("mean_value: invalid type: integer"));
        let share_of_columns = "columns: must be above 0 and at most 1, a share of the columns";
        assert_eq!(error("infinigen", "columns = 0.0"), share_of_columns);
        assert_eq!(error("infinigen", "columns = 1.1"), share_of_columns);
        assert_eq!(error("infinigen", "columns = nan"), share_of_columns);
        assert_eq!(error("infinigen", "alpha = -1.0"), "alpha: must be a number of at least 0");
        assert_eq!(error("infinigen", "alpha = inf"), "alpha: must be a number of at least 0");
        assert!(error("infinigen", "fill = 1").starts_with("fill: invalid type"));
        assert_eq!(error("infinigen", "filled = true"), "filled: unknown key; did you mean \"fill\"?");
        assert_eq!(error("infinigen", "rotation = \"layer\""), "rotation: must be \"head\" or \"group\"");
        assert_eq!(error("infinigen", "mean = \"head\""), "mean: must be \"layer\" or \"group\"");
        assert_eq!(error("sparq", "per = \"layer\""), "per: must be \"group\" or \"head\"");
        assert!(error("sparq", "per = \"heads\"").starts_with("per: unknown variant `heads`"));
        assert!(error("starc", "tail = \"artifact\"").starts_with("tail: unknown variant `artifact`"));
        assert_eq!(error("starc", "phase = 1"), "phase: must be 0 where tail is \"wait\"");
        assert_eq!(error("starc", "phase = 65\ntail = \"permanent\""), "phase: must be 0 to 64, the block");
        assert!(error("starc", "precision = \"fp16\"").starts_with("precision: unknown variant `fp16`"));
        assert_eq!(error("streaming", "rope_theta = 0.0"), "rope_theta: must be a number above 1");
        assert_eq!(error("streaming", "position = \"cache\""), "position: unknown key; did you mean \"positions\"?");
        assert_eq!(error("clusterkv", "window = 0"), "window: must be at least 1");
        assert_eq!(error("clusterkv", "window_clusters = 321"), "window_clusters: must be 1 to 320, the window");
        assert_eq!(error("h2o", "heavy = 1.0"), "heavy: must be at least 0 and below 1, a share of the budget");
        assert_eq!(error("h2o", "heavy = -0.1"), "heavy: must be at least 0 and below 1, a share of the budget");
        for policy in ["starc", "starc-v1", "clusterkv"] {
            for wrong in ["-1e-4", "nan", "inf"] {
                assert_eq!(error(policy, &format!("tolerance = {wrong}")), "tolerance: must be a number of at least 0");
            }
        }
        assert_eq!(error("clusterkv", "cluster_size = 0"), "cluster_size: must be at least 1");
        assert_eq!(error("clusterkv", "max_iterations = 0"), "max_iterations: must be at least 1");
        assert_eq!(error("starc-v1", "max_iterations = 0"), "max_iterations: must be at least 1");
    }

    /// What must hold of every policy at every step.
    fn check_laws(name: &str, case: &Case) -> Result<(), TestCaseError> {
        let policy = build(name, "").unwrap();
        let mut version = None;
        let mut slots = Vec::new();
        let mut clustered_at = None;
        testing::run(policy.as_ref(), case, |step, selected, state| {
            let order = state.order();
            if step.tokens() <= step.budget {
                prop_assert_eq!(state.scan(), Scan::Nothing);
            }
            for tokens in selected {
                prop_assert!(tokens.is_sorted_by(|a, b| a < b), "{name}: not ascending");
                prop_assert!(tokens.iter().all(|t| (*t as usize) < step.tokens()));
                if step.tokens() <= step.budget || !policy.heeds_budget() {
                    prop_assert_eq!(tokens.len(), step.tokens());
                } else if step.budget >= policy.min_budget() {
                    // Generated tokens that are not yet clustered.
                    let generated = (step.tokens() - case.prefill - 1) % 320 + 1;
                    let most = step.budget + if name == "clusterkv" { generated } else { 0 };
                    prop_assert!(tokens.len() <= most, "{name}: {} of {most}", tokens.len());
                }
            }
            if step.tokens() > case.prefill + 1 && !state.clusterings().is_empty() {
                let since = clustered_at.replace(step.tokens()).map_or(0, |at| step.tokens() - at);
                prop_assert_eq!(since % policy.period(), 0, "{}: clustered after {} steps", name, since);
            }
            check_order(order, step.tokens())?;
            // Between two versions, no token that was there has moved.
            let now: Vec<u32> = (0..step.tokens() as u32).map(|t| order.slot(t)).collect();
            if version == Some(order.version) {
                prop_assert_eq!(&now[..slots.len()], &slots[..]);
            }
            version = Some(order.version);
            slots = now;
            Ok(())
        })
    }

    fn check_order(order: &SlotOrder, len: usize) -> Result<(), TestCaseError> {
        let mut slots: Vec<u32> = (0..len as u32).map(|t| order.slot(t)).collect();
        let clustered = order.clustered as usize;
        prop_assert!(clustered <= len);
        prop_assert!(slots[clustered..].iter().copied().eq(clustered as u32..len as u32));
        prop_assert!(order.cluster_starts.is_sorted_by(|a, b| a < b), "empty cluster");
        prop_assert_eq!(order.cluster_starts.is_empty(), clustered == 0);
        prop_assert!(order.cluster_starts.first().is_none_or(|first| *first == 0));
        prop_assert!(order.cluster_starts.last().is_none_or(|last| *last < order.clustered));
        slots.sort_unstable();
        prop_assert!(slots.into_iter().eq(0..len as u32), "not a permutation");
        Ok(())
    }

    /// What is clustered is said once, in order, when it happens.
    fn check_clusterings(name: &str, case: &Case) -> Result<(), TestCaseError> {
        let policy = build(name, "").unwrap();
        let queries = case.dumped_queries();
        let mut state = policy.prepare(case.head(&queries));
        let (mut clustered, mut clusters) = (0, 0);
        for len in case.prefill..=case.prefill + case.steps {
            if len > case.prefill {
                state.grow(Rows { data: &case.keys, dim: case.dim }.range(0..len));
            }
            for Clustering { first, tokens, clusters: asked, iterations } in state.clusterings().iter().copied() {
                prop_assert!(first == clustered || name == "clusterkv", "only sinks are left out");
                prop_assert!(asked > 0 && asked <= tokens && iterations > 0, "{name}");
                clustered = first + tokens;
                clusters += asked as usize;
            }
            // A cluster of sinks alone is not the work of a K-means.
            let sinks = usize::from(name == "clusterkv");
            prop_assert!(policy.clusters() || state.order().clustered == 0, "{name} clusters");
            prop_assert!(clustered == state.order().clustered || clusters == 0 && sinks == 1);
            prop_assert!(clusters + sinks >= state.order().cluster_starts.len());
        }
        Ok(())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn policies_honour_their_laws(case in testing::cases()) {
            for entry in REGISTRY.iter().chain([&documented::ENTRY]) {
                check_laws(entry.name, &case)?;
                check_clusterings(entry.name, &case)?;
            }
        }
    }
}
