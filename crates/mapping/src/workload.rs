//! Schema of a workload file (`configs/workload/*.toml`): what `tracegen` runs.
//!
//! Counts of tokens, heads and layers are plain numbers. The tables of a synthetic source and of each policy belong to
//! the rooms that use them and are checked there.

use pimattn_core::error::{Error, Result};
use pimattn_core::presets::PresetKind;
use pimattn_core::spec::config::Document;
use pimattn_core::spec::model::Model;
use pimattn_core::spec::quantity::Duration;
use pimattn_core::spec::system::System;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// How much one row activation covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Addressing {
    /// The STARC artifact: R touched row-blocks are replayed as dense attention over R row-blocks. No real rows.
    Ideal,
    /// Every unit opens its own row; MACs run in all units with an open row.
    BankGroup,
    /// One row and one column for all banks.
    Broadcast,
}

/// Which unit, row and column a slot lies in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Layout {
    /// Slot i on unit i mod units.
    Interleaved,
    /// Consecutive slots fill a row of a unit; such row-blocks are dealt out to the units in turn.
    RowBlock,
    /// The tokens of a cluster spread over the units at one column place; a cluster begins at a new one.
    ClusterStriped,
}

/// Where clusters begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Align {
    /// Directly after the cluster before.
    None,
    /// At a new row.
    Row,
}

/// How a value vector lies in its unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ValueLayout {
    /// AttAcc: one column of it in each of d / (banks x lanes) stripes, every stripe in rows of its own.
    Stripe,
    /// All its columns in one row, as keys lie.
    Vector,
}

/// From selected tokens to addresses.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Mapping {
    /// How much one row activation covers.
    pub addressing: Addressing,
    /// Which unit, row and column a slot lies in.
    pub layout: Layout,
    /// Where clusters begin.
    pub align: Align,
    /// How values lie.
    pub values: ValueLayout,
    /// Whether columns of an open row in which no unit has a selected token are left out.
    pub skip_columns: bool,
    /// Bytes of an element in memory; 0 as the source has it. Accuracy is that of the source's numbers.
    #[serde(default)]
    pub element_bytes: u32,
    /// How the vectors that a policy keeps for selection are distributed over the units: one by one (`interleaved`, the
    /// default), or a row of a unit at a time (`row-block`).
    #[serde(default = "interleaved")]
    pub selection_layout: Layout,
    /// `addressing` of V, where it is not that of K.
    #[serde(default)]
    pub value_addressing: Option<Addressing>,
    /// `layout` of V, where it is not that of K.
    #[serde(default)]
    pub value_layout: Option<Layout>,
    /// `align` of V, where it is not that of K.
    #[serde(default)]
    pub value_align: Option<Align>,
}

/// How the tokens of K or of V lie, and are reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arrangement {
    /// How much one row activation covers.
    pub addressing: Addressing,
    /// Which unit, row and column a slot lies in.
    pub layout: Layout,
    /// Where clusters begin.
    pub align: Align,
}

/// Row-blocks, a row of a unit each, as the demo has them.
impl Default for Mapping {
    fn default() -> Self {
        Mapping {
            addressing: Addressing::BankGroup,
            layout: Layout::RowBlock,
            align: Align::None,
            values: ValueLayout::Stripe,
            skip_columns: true,
            element_bytes: 0,
            selection_layout: interleaved(),
            value_addressing: None,
            value_layout: None,
            value_align: None,
        }
    }
}

impl Mapping {
    /// Of K.
    pub fn of_keys(&self) -> Arrangement {
        Arrangement { addressing: self.addressing, layout: self.layout, align: self.align }
    }

    /// Of V.
    pub fn of_values(&self) -> Arrangement {
        Arrangement {
            addressing: self.value_addressing.unwrap_or(self.addressing),
            layout: self.value_layout.unwrap_or(self.layout),
            align: self.value_align.unwrap_or(self.align),
        }
    }

    /// Bytes of an element in memory, where the source has so many.
    pub fn element_bytes(&self, of_source: u32) -> u32 {
        if self.element_bytes == 0 { of_source } else { self.element_bytes }
    }
}

/// Whether work is charged, or left out as in the published simulators.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum OverheadCost {
    /// The work runs on the device, as PIM commands.
    #[default]
    Pim,
    /// It costs nothing.
    Free,
}

/// What clustering costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ClusteringCost {
    /// Clustering runs on the device, as PIM commands, in the step in which it happens.
    #[default]
    Pim,
    /// It costs nothing.
    Free,
    /// What the STARC artifact's generator writes ahead of its last decode step, whatever was clustered when. For
    /// [`Addressing::Ideal`] only.
    Artifact,
}

/// How the heads of a channel follow each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Schedule {
    /// Heads in pairs: the transfers and the softmax of one beside the MACs of the other (AttAcc).
    pub pipeline: bool,
    /// [`Addressing::Ideal`]: the artifact's schedule as its generator writes it, including its superfluous work.
    pub published: bool,
}

impl Default for Schedule {
    fn default() -> Self {
        Schedule { pipeline: true, published: false }
    }
}

/// How KV heads are assigned to channels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum HeadPlacement {
    /// In order of request and head, stack after stack, channel after channel (AttAcc).
    #[default]
    RoundRobin,
    /// The longest caches first, each where the fewest tokens are.
    Balanced,
}

/// How the row-blocks of a head are assigned to units.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum UnitPlacement {
    /// One after the other.
    #[default]
    RoundRobin,
    /// Each new block goes to the unit that has opened the fewest rows so far; those of the prefill are dealt out in turn.
    LoadAware,
}

/// Where heads and row-blocks go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Placement {
    /// Channels of the heads.
    pub heads: HeadPlacement,
    /// Channels that a head's tokens spread over, side by side.
    pub split: u32,
    /// Units of the row-blocks.
    pub units: UnitPlacement,
    /// Devices that the channels are divided into; each has the same share of the KV heads of every request.
    pub devices: u32,
    /// Stacks of a device that its channels are divided into.
    pub stacks: u32,
}

impl Default for Placement {
    fn default() -> Self {
        Placement {
            heads: HeadPlacement::RoundRobin,
            split: 1,
            units: UnitPlacement::RoundRobin,
            devices: 1,
            stacks: 1,
        }
    }
}

/// Work outside of the array, done by the host that sends the commands. Selection and clustering hand their scores to the
/// same host and wait for the same way back.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Host {
    /// Time from the last score handed to the host to the first command that depends on it, without the work on scores.
    pub latency: Duration,
    /// `latency` of a selection, where it is another.
    pub select_latency: Option<Duration>,
    /// Ranking one score of a selection.
    pub select_score: Duration,
    /// `latency` of a K-means assignment, where it is another.
    pub cluster_latency: Option<Duration>,
    /// Comparing one score of a K-means assignment.
    pub cluster_score: Duration,
}

impl Host {
    /// Latency of a selection.
    pub fn selecting(&self) -> &Duration {
        self.select_latency.as_ref().unwrap_or(&self.latency)
    }

    /// Latency of a K-means assignment.
    pub fn clustering(&self) -> &Duration {
        self.cluster_latency.as_ref().unwrap_or(&self.latency)
    }
}

impl Default for Host {
    fn default() -> Self {
        let ns = |value| Duration { value, in_ns: true, source: Some("assumed".into()) };
        Host {
            latency: ns(100.0),
            select_latency: None,
            select_score: ns(0.05),
            cluster_latency: None,
            cluster_score: ns(0.05),
        }
    }
}

/// The requests that are decoded together.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Batch {
    /// How many.
    pub requests: usize,
    /// Prefill tokens of each in turn, from the first again when there are more requests; a synthetic source makes
    /// them. Empty: all as the source has it.
    pub prefill: Vec<usize>,
}

impl Default for Batch {
    fn default() -> Self {
        Batch { requests: 1, prefill: Vec::new() }
    }
}

fn interleaved() -> Layout {
    Layout::Interleaved
}

fn free() -> OverheadCost {
    OverheadCost::Free
}

/// What the metrics call a row, whatever the device.
#[derive(Debug, Clone, Copy, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct MetricsFile {
    /// Slots of a row-block (the artifact's blk_row: 16).
    pub row_block: usize,
    /// Units that row-blocks go round.
    pub units: usize,
}

/// A workload.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Workload {
    /// Name, for reports.
    pub name: String,
    /// KV dump; `synthetic` is used when it is absent.
    #[serde(default)]
    pub kv: Option<String>,
    /// Layers of the dump that are decoded, by their numbers in the model; empty: all. Of a synthetic cache its own keys say it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub layers: Vec<u32>,
    /// Parameters of a synthetic KV cache.
    #[serde(default)]
    pub synthetic: Option<toml::Table>,
    /// Model file: its heads and their dimension are those of the synthetic cache, instead of `synthetic`'s.
    #[serde(default)]
    pub model: Option<String>,
    /// System file whose device the addresses are for.
    pub system: String,
    /// Selection policy.
    pub policy: String,
    /// Tokens that each query head may select.
    pub budget: usize,
    /// Number of the model's first layers that keep full attention.
    pub dense_layers: u32,
    /// Decode steps at most; 0 is all that the source has.
    #[serde(default)]
    pub steps: usize,
    /// Seed of everything random.
    pub seed: u64,
    /// Mapping.
    pub mapping: Mapping,
    /// What selecting tokens costs.
    #[serde(default)]
    pub selection_cost: OverheadCost,
    /// What writing the new token costs.
    #[serde(default)]
    pub append_cost: OverheadCost,
    /// What clustering costs: the K-means, and the move into cluster order.
    #[serde(default)]
    pub clustering_cost: ClusteringCost,
    /// What clustering the prefill costs, at the first step.
    #[serde(default = "free")]
    pub prefill_clustering_cost: OverheadCost,
    /// Schedule.
    #[serde(default)]
    pub schedule: Schedule,
    /// Placement.
    #[serde(default)]
    pub placement: Placement,
    /// Host.
    #[serde(default)]
    pub host: Host,
    /// Batch.
    #[serde(default)]
    pub batch: Batch,
    /// Metrics.
    pub metrics: MetricsFile,
    /// Parameters of policies, by policy.
    #[serde(default)]
    pub policies: BTreeMap<String, toml::Table>,
}

/// Units that the metrics can count rows of: a number for each is kept with every head.
const MOST_UNITS: usize = 1 << 16;

impl Workload {
    /// A workload without a file: a policy, the tokens that each query head may select, and for the rest what a file
    /// has that says nothing of it. Fields are public: `Workload { steps: 8, ..Workload::new("quest", 256) }`.
    pub fn new(policy: &str, budget: usize) -> Self {
        Workload {
            name: policy.into(),
            kv: None,
            layers: Vec::new(),
            synthetic: None,
            model: None,
            system: String::new(),
            policy: policy.into(),
            budget,
            dense_layers: 0,
            steps: 0,
            seed: 1,
            mapping: Mapping::default(),
            selection_cost: OverheadCost::default(),
            append_cost: OverheadCost::default(),
            clustering_cost: ClusteringCost::default(),
            prefill_clustering_cost: free(),
            schedule: Schedule::default(),
            placement: Placement::default(),
            host: Host::default(),
            batch: Batch::default(),
            metrics: MetricsFile { row_block: 16, units: 16 },
            policies: BTreeMap::new(),
        }
    }

    /// Loads a workload file with overrides; the document stays for errors about its parts.
    pub fn load(file: &Path, overrides: &[String]) -> Result<(Self, Document)> {
        let doc = Document::load(file, overrides)?;
        doc.expect(PresetKind::Workload)?;
        let workload = Workload::of(&doc)?;
        if workload.kv.is_none() && workload.synthetic.is_none() {
            return Err(doc.error("", "neither kv (a dump) nor [synthetic] is given"));
        }
        Ok((workload, doc))
    }

    /// The workload that a configuration says, checked, whether or not it names a source of its cache.
    ///
    /// # Errors
    /// [`Error::Config`] where a key is unknown, a value is out of range, or keys contradict each other.
    pub fn of(doc: &Document) -> Result<Self> {
        let workload: Workload = doc.decode()?;
        workload.check(doc)?;
        Ok(workload)
    }

    /// Refuses numbers out of range and keys that contradict each other.
    pub fn check(&self, doc: &Document) -> Result<()> {
        let MetricsFile { row_block, units } = self.metrics;
        let ranges = [("budget", self.budget, 1 << 30), ("metrics.row_block", row_block, 1 << 30)];
        for (key, n, most) in ranges.into_iter().chain([("metrics.units", units, MOST_UNITS)]) {
            if n == 0 || n > most {
                return Err(doc.error(key, format!("{key} = {n} is not in 1..={most}")));
            }
        }
        let refuse = |key: &str, what: String| Err(doc.error(key, what));
        let Placement { split, devices, stacks, units, .. } = self.placement;
        for (key, n) in [("split", split), ("devices", devices), ("stacks", stacks)] {
            if n == 0 || n > 1 << 12 {
                return refuse(&format!("placement.{key}"), format!("{key} = {n} is not in 1..=4096"));
            }
        }
        if !(1..=1 << 16).contains(&self.batch.requests) {
            return refuse("batch.requests", format!("requests = {} is not in 1..=65536", self.batch.requests));
        }
        if !self.batch.prefill.is_empty() && self.synthetic.is_none() {
            return refuse("batch.prefill", "a dump has one length; only a [synthetic] source can make others".into());
        }
        if self.model.is_some() && self.synthetic.is_none() {
            return refuse("model", "a dump has its own shape; only a [synthetic] source takes that of a model".into());
        }
        let (keys, values) = (self.mapping.of_keys(), self.mapping.of_values());
        if units == UnitPlacement::LoadAware && [keys, values].iter().any(|side| side.layout != Layout::RowBlock) {
            let what = "\"load-aware\" places row-blocks: it needs layout = \"row-block\", of K and of V";
            return refuse("placement.units", what.into());
        }
        if self.mapping.selection_layout == Layout::ClusterStriped {
            let what = "a policy's own vectors are in no clusters: \"interleaved\" or \"row-block\"";
            return refuse("mapping.selection_layout", what.into());
        }
        if (keys.addressing == Addressing::Ideal) != (values.addressing == Addressing::Ideal) {
            let what = "\"ideal\" is an account of K and V together: both have it, or neither";
            return refuse("mapping.value_addressing", what.into());
        }
        if ![0, 1, 2, 4].contains(&self.mapping.element_bytes) {
            let what = format!("element_bytes = {} is not 1, 2, 4, or 0 for the source's", self.mapping.element_bytes);
            return refuse("mapping.element_bytes", what);
        }
        let ideal = self.mapping.addressing == Addressing::Ideal;
        if ideal && (split, devices, units) != (1, 1, UnitPlacement::RoundRobin) {
            return refuse("placement", "addressing = \"ideal\" has no placement: its heads are all alike".into());
        }
        if self.schedule.published && !ideal {
            let what = "the published schedule is that of addressing = \"ideal\"";
            return refuse("schedule.published", what.into());
        }
        if self.clustering_cost == ClusteringCost::Artifact && !ideal {
            let what = "\"artifact\" clusters at addresses of the artifact's own: it needs addressing = \"ideal\"";
            return refuse("clustering_cost", what.into());
        }
        Ok(())
    }

    /// Loads the system whose device the addresses are for, with overrides of its own.
    pub fn load_system(&self, doc: &Document, overrides: &[String]) -> Result<System> {
        let file = doc.resolve_path(PresetKind::System, "system", &self.system)?;
        System::load(&file, overrides).map_err(|e| match e {
            Error::Io { path, source } => doc.error("system", format!("{}: {source}", path.display())),
            other => other,
        })
    }

    /// Loads the model that a synthetic source has the shape of.
    pub fn load_model(&self, doc: &Document) -> Result<Option<Model>> {
        self.model_path(doc)?.map(|file| Model::load(&file, &[])).transpose()
    }

    /// The file of the model that a synthetic source has the shape of.
    pub fn model_path(&self, doc: &Document) -> Result<Option<PathBuf>> {
        self.model.as_ref().map(|path| doc.resolve_path(PresetKind::Model, "model", path)).transpose()
    }

    /// The dump that the workload names.
    pub fn kv_path(&self, doc: &Document) -> Result<Option<PathBuf>> {
        self.kv.as_ref().map(|path| doc.resolve_path(PresetKind::Cache, "kv", path)).transpose()
    }

    /// The fitted statistics that the synthetic source is drawn from, if a dump does not take its place.
    pub fn fit_path(&self, doc: &Document) -> Result<Option<PathBuf>> {
        let path = self.synthetic.as_ref().and_then(|table| table.get("fit")).and_then(|fit| fit.as_str());
        path.map(|path| doc.resolve_path(PresetKind::Fitted, "synthetic.fit", path)).transpose()
    }
}
