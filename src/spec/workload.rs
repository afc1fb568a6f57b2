//! Schema of a workload file (`configs/workload/*.toml`): what `tracegen` runs.
//!
//! Counts of tokens, heads and layers are plain numbers. The tables of a synthetic source and of each policy belong to
//! the rooms that use them and are checked there.

use super::config::Document;
use crate::error::Result;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// How much one row activation covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Layout {
    /// Slot i on unit i mod units.
    Interleaved,
    /// Consecutive slots fill a unit's row; such row-blocks go round the units.
    RowBlock,
    /// The tokens of a cluster spread over the units at one column place; a cluster begins at a new one.
    ClusterStriped,
}

/// Where clusters begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Align {
    /// Right behind the one before.
    None,
    /// At a new row.
    Row,
}

/// How a value vector lies in its unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ValueLayout {
    /// AttAcc: one column of it in each of d / (banks x lanes) stripes, every stripe in rows of its own.
    Stripe,
    /// All its columns in one row, as keys lie.
    Vector,
}

/// From selected tokens to addresses.
#[derive(Debug, Clone, Deserialize)]
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
}

/// What the metrics call a row, whatever the device.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MetricsFile {
    /// Slots of a row-block (the artifact's blk_row: 16).
    pub row_block: usize,
    /// Units that row-blocks go round.
    pub units: usize,
}

/// A workload.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Workload {
    /// Name, for reports.
    pub name: String,
    /// KV dump; `synthetic` is used when it is absent.
    #[serde(default)]
    pub kv: Option<String>,
    /// Parameters of a synthetic KV cache.
    #[serde(default)]
    pub synthetic: Option<toml::Table>,
    /// System file whose device the addresses are for.
    pub system: String,
    /// Selection policy.
    pub policy: String,
    /// Tokens that each query head may select.
    pub budget: usize,
    /// Layers of the model, from the first, that stay full.
    pub dense_layers: u32,
    /// Decode steps at most; 0 is all that the source has.
    #[serde(default)]
    pub steps: usize,
    /// Seed of everything random.
    pub seed: u64,
    /// Mapping.
    pub mapping: Mapping,
    /// Metrics.
    pub metrics: MetricsFile,
    /// Parameters of policies, by policy.
    #[serde(default)]
    pub policies: BTreeMap<String, toml::Table>,
}

impl Workload {
    /// Loads a workload file with overrides; the document stays for errors about its parts.
    pub fn load(file: &Path, overrides: &[String]) -> Result<(Self, Document)> {
        let doc = Document::load(file, overrides)?;
        let w: Workload = doc.decode()?;
        let positive =
            [("budget", w.budget), ("metrics.row_block", w.metrics.row_block), ("metrics.units", w.metrics.units)];
        for (key, n) in positive {
            if n == 0 || n > 1 << 30 {
                return Err(doc.error(key, format!("{key} = {n} is not in 1..={}", 1 << 30)));
            }
        }
        if w.kv.is_none() && w.synthetic.is_none() {
            return Err(doc.error("", "neither kv (a dump) nor [synthetic] is given"));
        }
        Ok((w, doc))
    }

    /// The system file.
    pub fn system_path(&self, doc: &Document) -> PathBuf {
        doc.resolve_path("system", &self.system)
    }
}
