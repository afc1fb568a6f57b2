//! The tables of a run: their keys, and their rows from what was counted. `measures` has what all report.

use super::account::apportion;
use super::books::{CountsByPhase, PARTS, PhaseCounts, WAITING};
use super::energy::Energy;
pub use super::measures::{MEASURES, Measured};
use super::measures::{RowCounts, over};
use super::origin::{self, OriginRow};
use super::{Account, Collector, LayerOfStep, Step};
use pimattn_core::beyond::BeyondFit;
use pimattn_core::columns;
use pimattn_core::spec::System;
use pimattn_core::table::{Column, Measure, TableLayout, columns_of, markdown as markdown_of, measure};
use pimattn_core::units::Cycle;
use pimattn_trace::label::{CACHE_KEY, CHOICE_KEYS, LABEL_KEYS, SelectionLabel};
use pimattn_trace::{Header, Phase};
use std::sync::Arc;

/// Which run a row is of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunKey {
    /// The trace.
    pub trace: String,
    /// The system's name.
    pub system: String,
    /// Device and preset.
    pub device: String,
    /// What the trace says of a synthetic cache that is longer than the text that its statistics are of.
    pub beyond_fit: Option<BeyondFit>,
    /// What was selected, of which cache; empty where the trace does not say.
    pub selection: SelectionLabel,
    /// Hash of the trace's configuration and of the system's.
    pub config_hash: u32,
}

/// A decode step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StepKey {
    /// The step.
    pub step: u32,
    /// Index of the token that is decoded.
    pub position: u32,
}

/// A phase of a decode step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PhaseKey {
    /// The step.
    pub step: StepKey,
    /// The phase's name, or waiting.
    pub phase: &'static str,
}

/// A layer of a decode step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerKey {
    /// The step.
    pub step: StepKey,
    /// Layer of the model.
    pub layer: u32,
}

/// A KV head of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeadKey {
    /// Request within the batch.
    pub request: u32,
    /// Layer of the model.
    pub layer: u32,
    /// KV head within the layer.
    pub kv_head: u32,
}

/// A channel of the system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChannelKey {
    /// Its number.
    pub channel: u32,
}

/// A row of a table: of which run, which part of it, and what was measured.
#[derive(Debug, Clone, PartialEq)]
pub struct TableRow<K> {
    /// The run.
    pub run: Arc<RunKey>,
    /// Which part of the run.
    pub key: K,
    /// What was measured.
    pub measured: Measured,
}

/// Columns that say which run a row is of; first in every table.
pub const RUN_KEYS: &[Measure<RunKey>] = &[
    measure(columns::TRACE, "-", "the trace file, as named on the command line", |k| (&k.trace).into()),
    measure(columns::SYSTEM, "-", "name of the system file's system", |k| (&k.system).into()),
    DEVICE_KEY,
    measure(CACHE_KEY.column.name, CACHE_KEY.column.unit, CACHE_KEY.column.meaning, |k| CACHE_KEY.value(&k.selection)),
];

/// The device, among the [`RUN_KEYS`].
pub const DEVICE_KEY: Measure<RunKey> =
    measure(columns::DEVICE, "-", "device, organisation and timing preset", |k| (&k.device).into());

/// The columns of `run.csv` behind the [`RUN_KEYS`] and those of the selection.
pub const CACHE_KEYS: &[Measure<RunKey>] = &[
    measure(
        columns::CONFIG_HASH,
        "-",
        "hash of the trace's configuration and of the system's; runs that differ in it differ in more than their cache",
        |k| format!("{:08x}", k.config_hash).into(),
    ),
    measure(
        columns::FITTED_TOKENS,
        "tokens",
        "of the text that a synthetic cache is fitted to, where the cache is longer than it (docs/synthetic.md); else empty",
        |k| k.beyond_fit.map(|b| b.fitted).into(),
    ),
];

/// Key columns of `steps.csv`.
pub const STEP_KEYS: &[Measure<StepKey>] = &[
    measure(columns::STEP, "1", "decode step, from 0", |k| k.step.into()),
    measure(columns::POSITION, "tokens", "index of the token that is decoded", |k| k.position.into()),
];

/// The key column of `phases.csv` behind those of the step.
pub const PHASE_KEYS: &[Measure<PhaseKey>] = &[measure(
    columns::PHASE,
    "-",
    "what for: append, cluster, remap, select, attend-score, softmax, attend-context; other where the trace does not say, and for refreshes; waiting for channels that wait for others, and their refreshes meanwhile",
    |k| k.phase.into(),
)];

/// The key column of `layers.csv` behind those of the step.
pub const LAYER_KEYS: &[Measure<LayerKey>] = &[measure(columns::LAYER, "1", "layer of the model", |k| k.layer.into())];

/// Key columns of `heads.csv`.
pub const HEAD_KEYS: &[Measure<HeadKey>] = &[
    measure(columns::REQUEST, "1", "request within the batch", |k| k.request.into()),
    measure(columns::LAYER, "1", "layer of the model", |k| k.layer.into()),
    measure(columns::KV_HEAD, "1", "KV head within the layer", |k| k.kv_head.into()),
];

/// Key columns of `channels.csv`.
pub const CHANNEL_KEYS: &[Measure<ChannelKey>] =
    &[measure(columns::CHANNEL, "1", "channel of the system", |k| k.channel.into())];

/// A table of a run: its file, and what a row is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Schema {
    /// File name.
    pub file: &'static str,
    /// What a row is.
    pub row: &'static str,
}

/// What a row of a table may be of.
pub trait Key: Sized + 'static {
    /// The table.
    const SCHEMA: Schema;

    /// The table's columns between those of the run and the measures.
    fn keys() -> TableLayout<Self>;

    /// Their columns.
    fn key_columns() -> Vec<Column> {
        Self::keys().columns().to_vec()
    }

    /// The columns of the table.
    fn layout() -> TableLayout<TableRow<Self>> {
        TableLayout::of(&[])
            .with(|r: &TableRow<Self>| &*r.run, RUN_KEYS)
            .within(|r| &r.key, Self::keys())
            .with(|r| &r.measured, MEASURES)
    }
}

impl Key for () {
    const SCHEMA: Schema = Schema { file: "run.csv", row: "a trace" };

    fn keys() -> TableLayout<()> {
        TableLayout::of(&[])
    }

    fn key_columns() -> Vec<Column> {
        [columns_of(CHOICE_KEYS), columns_of(LABEL_KEYS), columns_of(CACHE_KEYS)].concat()
    }

    fn layout() -> TableLayout<TableRow<()>> {
        TableLayout::of(&[])
            .with(|r: &TableRow<()>| &*r.run, RUN_KEYS)
            .with(|r| &r.run.selection, CHOICE_KEYS)
            .with(|r| &r.run.selection, LABEL_KEYS)
            .with(|r| &*r.run, CACHE_KEYS)
            .with(|r| &r.measured, MEASURES)
    }
}

impl Key for StepKey {
    const SCHEMA: Schema =
        Schema { file: "steps.csv", row: "a decode step: all its layers, heads and channels, waits included" };

    fn keys() -> TableLayout<StepKey> {
        TableLayout::of(STEP_KEYS)
    }
}

impl Key for PhaseKey {
    const SCHEMA: Schema = Schema {
        file: "phases.csv",
        row: "a phase of a decode step; the rows of a step add up to its row in steps.csv, in cycles to the cycle",
    };

    fn keys() -> TableLayout<PhaseKey> {
        TableLayout::of(&[]).with(|k: &PhaseKey| &k.step, STEP_KEYS).with(|k| k, PHASE_KEYS)
    }
}

impl Key for LayerKey {
    const SCHEMA: Schema = Schema {
        file: "layers.csv",
        row: "a layer of a decode step, waits included (from sync to sync where syncs part layers); the rows of a step add up to its row in steps.csv, in cycles to the cycle",
    };

    fn keys() -> TableLayout<LayerKey> {
        TableLayout::of(&[]).with(|k: &LayerKey| &k.step, STEP_KEYS).with(|k| k, LAYER_KEYS)
    }
}

impl Key for HeadKey {
    const SCHEMA: Schema = Schema { file: "heads.csv", row: "a KV head of a layer, over all steps" };

    fn keys() -> TableLayout<HeadKey> {
        TableLayout::of(HEAD_KEYS)
    }
}

impl Key for ChannelKey {
    const SCHEMA: Schema = Schema { file: "channels.csv", row: "a channel, over the run" };

    fn keys() -> TableLayout<ChannelKey> {
        TableLayout::of(CHANNEL_KEYS)
    }
}

/// The documentation of all columns, as Markdown.
pub fn markdown() -> String {
    let mut out =
        String::from("# Tables of pimsim run\n\nAn empty cell means not known or without meaning in that row.\n");
    out.push_str("\nEvery table begins with:\n");
    out.push_str(&markdown_of(&columns_of(RUN_KEYS)));
    fn table<K: Key>(out: &mut String) {
        let Schema { file, row } = K::SCHEMA;
        out.push_str(&format!("\n## {file}\n\nA row is {row}."));
        match K::key_columns().as_slice() {
            [] => out.push('\n'),
            keys => {
                out.push_str(" Its key columns:\n");
                out.push_str(&markdown_of(keys));
            }
        }
    }
    table::<()>(&mut out);
    table::<StepKey>(&mut out);
    table::<PhaseKey>(&mut out);
    table::<LayerKey>(&mut out);
    table::<HeadKey>(&mut out);
    table::<ChannelKey>(&mut out);
    let Schema { file, row } = origin::SCHEMA;
    out.push_str(&format!("\n## {file}\n\nA row is {row}. It has these columns and no measures:\n"));
    out.push_str(&markdown_of(&columns_of(origin::ORIGIN_MEASURES)));
    out.push_str("\n## Measures\n\nAll tables but origins.csv end with:\n");
    out.push_str(&markdown_of(&columns_of(MEASURES)));
    out
}

/// The files of a run, and all columns of each.
pub fn documented() -> Vec<(&'static str, Vec<Column>)> {
    fn table<K: Key>() -> (&'static str, Vec<Column>) {
        (K::SCHEMA.file, [columns_of(RUN_KEYS), K::key_columns(), columns_of(MEASURES)].concat())
    }
    vec![
        table::<()>(),
        table::<StepKey>(),
        table::<PhaseKey>(),
        table::<LayerKey>(),
        table::<HeadKey>(),
        table::<ChannelKey>(),
        (origin::SCHEMA.file, [columns_of(RUN_KEYS), columns_of(origin::ORIGIN_MEASURES)].concat()),
    ]
}

/// Makes the rows of one trace on one system.
pub struct RunRows<'s> {
    system: &'s System,
    run: Arc<RunKey>,
}

impl<'s> RunRows<'s> {
    /// For a trace of this name.
    pub fn new(system: &'s System, trace: &str) -> Self {
        let device = format!("{} {}", system.device.name, system.device.preset);
        let (trace, system_name) = (trace.into(), system.name.clone());
        let (beyond_fit, selection, config_hash) = (None, SelectionLabel::default(), 0);
        RunRows {
            system,
            run: Arc::new(RunKey { trace, system: system_name, device, beyond_fit, selection, config_hash }),
        }
    }

    /// For a trace with this header.
    pub fn with_header(self, header: &Header) -> Self {
        let beyond_fit = BeyondFit::said_in(&header.provenance);
        let selection = header.selection.clone().unwrap_or_default();
        let config_hash = crc32fast::hash(format!("{}\n{}", header.config, self.system.settings).as_bytes());
        let run = RunKey { beyond_fit, selection, config_hash, ..RunKey::clone(&self.run) };
        RunRows { run: Arc::new(run), ..self }
    }

    /// The row of `origins.csv`, of a trace with this header.
    pub fn origin(&self, header: &Header) -> OriginRow {
        OriginRow::new(Arc::clone(&self.run), header, self.system)
    }

    /// The row of `run.csv`.
    pub fn run<S>(&self, c: &Collector<S>) -> TableRow<()> {
        let channels = c.channels.len() as u64;
        let work = |a: &Account| c.durations.work(&a.counters);
        let busiest = c.channels.iter().map(work).max().unwrap_or(0);
        let imbalance_channels = over(busiest as f64 * channels as f64, work(&c.run) as f64);
        self.row((), &RowCounts { imbalance_channels, ..RowCounts::of(&c.run, c.cycles, channels) })
    }

    /// The rows of `heads.csv`.
    pub fn heads<S>(&self, c: &Collector<S>) -> Vec<TableRow<HeadKey>> {
        let row = |((request, layer, kv_head), a): (&(u32, u32, u32), &Account)| {
            let cycles = a.time.total() / u64::from(self.system.device.geometry.banks_per_channel());
            let key = HeadKey { request: *request, layer: *layer, kv_head: *kv_head };
            self.row(key, &RowCounts::of(a, cycles, 1))
        };
        c.heads.iter().map(row).collect()
    }

    /// The rows of `channels.csv`.
    pub fn channels<S>(&self, c: &Collector<S>) -> Vec<TableRow<ChannelKey>> {
        let all = (0..).zip(&c.channels);
        all.map(|(channel, a)| self.row(ChannelKey { channel }, &RowCounts::of(a, c.cycles, 1))).collect()
    }

    /// The row of `steps.csv`.
    pub fn step(&self, step: &Step) -> TableRow<StepKey> {
        let PhaseCounts { counters, time } = step.parts.sum();
        let counted = RowCounts {
            counters: &counters,
            time: &time,
            wanted: Some((&step.wanted, step.busy)),
            cycles: step.cycles,
            channels: u64::from(self.system.device.geometry.channels),
            imbalance_channels: None,
        };
        self.row(StepKey { step: step.step, position: step.position }, &counted)
    }

    /// The rows of `phases.csv` of a step.
    pub fn phases(&self, step: &Step) -> Vec<TableRow<PhaseKey>> {
        let mut totals = [0; PARTS];
        step.parts.used().for_each(|(i, p)| totals[i] = p.time.total());
        let cycles = apportion(&totals, step.cycles);
        let row = |(i, part): (usize, &PhaseCounts)| {
            let counted = RowCounts {
                counters: &part.counters,
                time: &part.time,
                wanted: None,
                cycles: cycles[i],
                channels: u64::from(self.system.device.geometry.channels),
                imbalance_channels: None,
            };
            let phase = if i == WAITING { "waiting" } else { Phase::ALL[i].name() };
            let step = StepKey { step: step.step, position: step.position };
            self.row(PhaseKey { step, phase }, &counted)
        };
        step.parts.used().map(row).collect()
    }

    /// The rows of `layers.csv` of a step.
    pub fn layers(&self, step: &Step) -> Vec<TableRow<LayerKey>> {
        let row = |(layer, l): (&u32, &LayerOfStep)| {
            let PhaseCounts { counters, time } = l.parts.sum();
            let counted = RowCounts {
                counters: &counters,
                time: &time,
                wanted: Some((&l.wanted, l.busy)),
                cycles: l.cycles,
                channels: u64::from(self.system.device.geometry.channels),
                imbalance_channels: None,
            };
            self.row(LayerKey { step: StepKey { step: step.step, position: step.position }, layer: *layer }, &counted)
        };
        step.layers.iter().map(row).collect()
    }

    /// Time in ns and energy in pJ of each phase, and of waiting, that add up to those of a run of so many cycles.
    pub fn phase_sums(&self, parts: &CountsByPhase, cycles: Cycle) -> [(f64, f64); PARTS] {
        let device = &self.system.device;
        let (mut totals, mut out) = ([0; PARTS], [(0.0, 0.0); PARTS]);
        parts.used().for_each(|(i, p)| totals[i] = p.time.total());
        for (out, cycles) in out.iter_mut().zip(apportion(&totals, cycles)) {
            out.0 = device.clock.ns(cycles);
        }
        for (i, part) in parts.used() {
            let channel_cycles = part.time.total() / u64::from(device.geometry.banks_per_channel());
            out[i].1 = Energy::of(&part.counters, channel_cycles, device, self.system.energy).total();
        }
        out
    }

    fn row<K>(&self, key: K, counted: &RowCounts<'_>) -> TableRow<K> {
        TableRow { run: Arc::clone(&self.run), key, measured: Measured::of(counted, self.system) }
    }
}

impl<'r> RowCounts<'r> {
    fn of(a: &'r Account, cycles: Cycle, channels: u64) -> Self {
        let wanted = Some((&a.wanted, a.busy));
        RowCounts { counters: &a.counters, time: &a.time, wanted, cycles, channels, imbalance_channels: None }
    }
}
