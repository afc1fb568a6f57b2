//! Attention as runs measured it: the tables that `pimsim run -o` wrote, layer by layer and step by step.
//!
//! A run knows its trace, the channels that it had, and of each layer of each step how long it took, what energy, and what
//! any memory would have to read for it. [`super::fit`] puts it in place of a model's attention.

use pimattn_core::columns;
use pimattn_core::error::{Error, Result};
use pimattn_core::fsio;
use pimattn_core::table::{CsvReader, CsvRow};
use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

/// A layer's attention at one step, over all its heads, requests and channels.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct MeasuredLayer {
    /// Cycles from the layer's first request to the sync behind it.
    pub cycles: f64,
    /// The same in s.
    pub seconds: f64,
    /// Energy in pJ of rows, columns and wires.
    pub memory: f64,
    /// Energy in pJ of multiply-accumulate units and buffers.
    pub compute: f64,
    /// Energy in pJ of refresh and standing power.
    pub standing: f64,
    /// KV heads of all requests whose attention was measured.
    pub kv_heads: f64,
    /// Query heads of all requests whose attention was measured.
    pub query_heads: f64,
    /// Tokens selected, summed over query heads.
    pub selected: f64,
    /// Distinct tokens, summed over KV heads.
    pub distinct: f64,
    /// Stretches without a gap in which these lie.
    pub extents: f64,
    /// Bytes of their keys and values.
    pub useful: f64,
    /// Bytes that the policy reads to choose.
    pub scanned: f64,
    /// Bytes read and written to keep the cache as the policy has it.
    pub upkeep: f64,
}

impl MeasuredLayer {
    fn numbers(&mut self) -> [&mut f64; 13] {
        let MeasuredLayer { cycles, seconds, memory, compute, standing, kv_heads, query_heads, .. } = self;
        let MeasuredLayer { selected, distinct, extents, useful, scanned, upkeep, .. } = self;
        [
            cycles,
            seconds,
            memory,
            compute,
            standing,
            kv_heads,
            query_heads,
            selected,
            distinct,
            extents,
            useful,
            scanned,
            upkeep,
        ]
    }

    /// The mean of some layers, number by number; none of none.
    pub fn mean(layers: &[MeasuredLayer]) -> Option<MeasuredLayer> {
        let mut sum = MeasuredLayer::default();
        for layer in layers {
            let mut layer = *layer;
            sum.numbers().into_iter().zip(layer.numbers()).for_each(|(a, b)| *a += *b);
        }
        sum.numbers().into_iter().for_each(|n| *n /= layers.len() as f64);
        (!layers.is_empty()).then_some(sum)
    }
}

/// A decode step of a run.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct MeasuredStep {
    /// Index of the token that is decoded.
    pub position: u32,
    /// Its layers, by their number in the model.
    pub layers: BTreeMap<u32, MeasuredLayer>,
}

impl MeasuredStep {
    /// Whether every query head attended to all tokens in this of its layers.
    pub fn is_full(&self, layer: &MeasuredLayer) -> bool {
        layer.selected == layer.query_heads * (f64::from(self.position) + 1.0)
    }
}

/// Where a run's trace comes from, as far as it says so.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct RunOrigin {
    /// Where keys, values and queries come from.
    pub provenance: Option<String>,
    /// Bytes of an element.
    pub element_bytes: Option<u32>,
    /// The workload that made the trace, as its header has it.
    pub workload: Option<toml::Table>,
    /// The system file that the trace was replayed on, with its overrides.
    pub settings: Option<toml::Table>,
}

impl RunOrigin {
    /// The selection policy.
    pub fn policy(&self) -> Option<&str> {
        self.workload.as_ref()?.get("policy")?.as_str()
    }

    /// Tokens that a query head may select.
    pub fn budget(&self) -> Option<u32> {
        u32::try_from(self.workload.as_ref()?.get("budget")?.as_integer()?).ok()
    }

    /// The model's first layers that stay full.
    pub fn dense_layers(&self) -> Option<u32> {
        u32::try_from(self.workload.as_ref()?.get("dense_layers")?.as_integer()?).ok()
    }

    /// Whether the requests of the batch differ in length.
    pub fn lengths_differ(&self) -> bool {
        let lengths = || self.workload.as_ref()?.get("batch")?.get("prefill")?.as_array();
        lengths().is_some_and(|all| all.windows(2).any(|pair| pair[0] != pair[1]))
    }
}

/// A run of a trace.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct MeasuredRun {
    /// The trace, as it was named.
    pub trace: String,
    /// Folder and trace, for errors.
    pub place: String,
    /// Device and preset.
    pub device: String,
    /// Channels of the system.
    pub channels: u32,
    /// Where the trace comes from.
    pub origin: RunOrigin,
    /// Its decode steps.
    pub steps: Vec<MeasuredStep>,
}

/// A table of a folder, whose columns are looked up by name.
struct RunTable {
    csv: CsvReader<Box<dyn Read + Send>>,
    columns: Vec<usize>,
}

impl RunTable {
    fn open(dir: &Path, file: &str, columns: &[&str]) -> Result<Self> {
        let path = dir.join(file);
        let csv = CsvReader::open(fsio::open(&path)?, &path.display().to_string())?;
        let columns = columns.iter().map(|c| csv.column(c)).collect::<Result<_>>()?;
        Ok(RunTable { csv, columns })
    }

    /// Hands each row to `take`, with the places of the columns.
    fn each(mut self, mut take: impl FnMut(&CsvRow<'_>, &[usize]) -> Result<()>) -> Result<()> {
        while let Some(row) = self.csv.read()? {
            take(&row, &self.columns)?;
        }
        Ok(())
    }
}

/// Columns of `origins.csv`.
const ORIGIN: [&str; 7] =
    [columns::TRACE, columns::DEVICE, "channels", "provenance", "element_bytes", "workload", "settings"];

/// Columns of `layers.csv`: keys, and what becomes of a layer's numbers.
const LAYER: [&str; 20] = [
    columns::TRACE,
    columns::STEP,
    columns::POSITION,
    columns::LAYER,
    columns::CYCLES,
    columns::TIME_NS,
    columns::ENERGY_ACTIVATION_PJ,
    columns::ENERGY_COLUMN_PJ,
    columns::ENERGY_MOVEMENT_PJ,
    columns::ENERGY_COMPUTE_PJ,
    columns::ENERGY_REFRESH_PJ,
    columns::ENERGY_BACKGROUND_PJ,
    columns::KV_HEADS,
    columns::QUERY_HEADS,
    columns::SELECTED_TOKENS,
    columns::DISTINCT_TOKENS,
    columns::EXTENTS,
    columns::BYTES_USEFUL,
    columns::BYTES_SCANNED,
    columns::BYTES_UPKEEP,
];

impl MeasuredRun {
    /// The runs of a folder that `pimsim run -o` wrote, in its order.
    ///
    /// # Errors
    /// [`Error::NoInput`] and [`Error::Io`] where a table cannot be read, [`Error::Data`] where it is damaged or says nothing
    /// of layers.
    pub fn load(dir: &Path) -> Result<Vec<MeasuredRun>> {
        let mut runs: Vec<MeasuredRun> = Vec::new();
        RunTable::open(dir, "origins.csv", &ORIGIN)?.each(|row, at| {
            let trace = row.cell(at[0]).to_string();
            if runs.iter().any(|r| r.trace == trace) {
                return Err(row.error(format!("{trace} is there twice: which of its steps are which is not known")));
            }
            let text = |i: usize| Some(row.cell(at[i]).to_string()).filter(|t| !t.is_empty());
            let table = |i: usize| {
                let parsed = text(i).map(|t| toml::from_str::<toml::Table>(&t)).transpose();
                parsed.map_err(|e| row.wrong(at[i], format!("not TOML: {}", e.message())))
            };
            runs.push(MeasuredRun {
                place: format!("{}: {trace}", dir.display()),
                trace,
                device: row.cell(at[1]).into(),
                channels: whole(row, at[2])?,
                origin: RunOrigin {
                    provenance: text(3),
                    element_bytes: text(4).map(|_| whole(row, at[4])).transpose()?,
                    workload: table(5)?,
                    settings: table(6)?,
                },
                steps: Vec::new(),
            });
            Ok(())
        })?;
        RunTable::open(dir, "layers.csv", &LAYER)?.each(|row, at| {
            let trace = row.cell(at[0]);
            let run = runs.iter_mut().find(|r| r.trace == trace);
            let run = run.ok_or_else(|| row.error(format!("origins.csv has no trace {trace}")))?;
            let (step, position, layer) = (whole(row, at[1])?, whole(row, at[2])?, whole(row, at[3])?);
            if step as usize == run.steps.len() {
                run.steps.push(MeasuredStep { position, layers: BTreeMap::new() });
            }
            let last = run.steps.len().checked_sub(1);
            let Some(of_step) = last.filter(|l| *l == step as usize).map(|l| &mut run.steps[l]) else {
                return Err(row.error(format!("step {step} does not follow the one before")));
            };
            // A layer that the trace does not say anything of leaves these cells empty.
            let n = |i: usize| row.known(at[i]).map(Option::unwrap_or_default);
            let measured = MeasuredLayer {
                cycles: n(4)?,
                seconds: n(5)? * 1e-9,
                memory: n(6)? + n(7)? + n(8)?,
                compute: n(9)?,
                standing: n(10)? + n(11)?,
                kv_heads: n(12)?,
                query_heads: n(13)?,
                selected: n(14)?,
                distinct: n(15)?,
                extents: n(16)?,
                useful: n(17)?,
                scanned: n(18)?,
                upkeep: n(19)?,
            };
            if of_step.layers.insert(layer, measured).is_some() {
                return Err(row.error(format!("layer {layer} is there twice in step {step}")));
            }
            Ok(())
        })?;
        let file = dir.join("layers.csv");
        if let Some(empty) = runs.iter().find(|r| r.steps.is_empty()) {
            let what = format!("no layers of {}: its trace does not say whose work it is", empty.trace);
            return Err(Error::data(&file, what));
        }
        match runs.is_empty() {
            true => Err(Error::data(dir.join("origins.csv"), "a table without a row")),
            false => Ok(runs),
        }
    }

    /// Whether every query head attended to all tokens, in every layer and step.
    pub fn is_full(&self) -> bool {
        self.steps.iter().all(|step| step.layers.values().all(|layer| step.is_full(layer)))
    }
}

/// A cell as a whole number.
fn whole(row: &CsvRow<'_>, column: usize) -> Result<u32> {
    let text = row.cell(column);
    text.parse().map_err(|_| row.wrong(column, format!("\"{text}\" is not a whole number")))
}
