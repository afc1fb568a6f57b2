//! The generator: a KV cache and a workload in, a trace and accuracy metrics out.
//!
//! KV heads are independent: each has its policy state, its scheduler and its scratch memory, and works through a few
//! decode steps at a time on whatever thread is free. Their results are put together in order of step, layer and head,
//! so that the same inputs give the same bytes for any number of threads.

use crate::accuracy::{self, Accuracy, RowShape};
use crate::error::{Error, Result};
use crate::interrupt;
use crate::kv::{self, KvCache};
use crate::map::layout::Shape;
use crate::map::schedule::{Home, Scheduler, Wanted};
use crate::op::Op;
use crate::select::{self, HeadState, HeadView, Policy, StepView};
use crate::spec::System;
use crate::spec::config::Document;
use crate::spec::workload::{Addressing, Workload};
use crate::table::{Column, Value, column};
use crate::trace::header::spec_hash;
use crate::trace::{Header, Record, Request, Segment, Sink};
use rayon::prelude::*;
use std::path::Path;

/// Decode steps that a head works through at a time.
const CHUNK: usize = 8;

/// Columns of the metrics table; a row is a query head of a layer at a decode step.
pub const METRICS: &[Column] = &[
    column("policy", "-", "selection policy of the run"),
    column("budget", "tokens", "tokens that a query head may select"),
    column("step", "1", "decode step, from 0"),
    column("position", "tokens", "index of the token that is decoded; it attends to 0..=position"),
    column("layer", "1", "layer of the model"),
    column("kv_head", "1", "KV head within the layer"),
    column("query_head", "1", "query head within the layer"),
    column("dense", "1", "1 where the layer stays full (dense_layers), else 0"),
    column("selected", "tokens", "tokens selected"),
    column(
        "row_tokens",
        "tokens",
        "metrics.row_block times the row-blocks of that many slots that hold a selected token",
    ),
    column(
        "unit_imbalance",
        "1",
        "touched row-blocks of the fullest unit over their mean; block b is on unit b mod metrics.units",
    ),
    column("mass_recall", "1", "true softmax mass on the selected tokens"),
    column("top_recall", "1", "share of the budget's tokens of highest score that is selected"),
    column(
        "output_rel_err",
        "1",
        "|o_selected - o| / |o|, the softmax renormalised over the selected tokens; sparq blends in the mean of all values",
    ),
];

/// A loaded workload: everything that generation needs.
pub struct Generator {
    workload: Workload,
    system: System,
    cache: KvCache,
    policy: Box<dyn Policy>,
    full: Box<dyn Policy>,
    shape: Shape,
    homes: Vec<Home>,
    header: Header,
}

/// Where rows of the metrics table go.
pub type RowSink<'a> = &'a mut dyn FnMut(&[Value]) -> Result<()>;

/// One head's metrics at one step, per query head.
struct Measured {
    step: usize,
    accuracies: Vec<Accuracy>,
}

/// One head at work.
struct HeadWork<'g> {
    generator: &'g Generator,
    layer: usize,
    kv_head: usize,
    dense: bool,
    state: Box<dyn HeadState + Send + 'g>,
    scheduler: Scheduler,
    scores: Vec<Vec<f32>>,
    tokens: Vec<Vec<u32>>,
    scratch: accuracy::Scratch,
    /// Results of the chunk: records of each step, one after the other, and where each step's end.
    records: Vec<Record>,
    ends: Vec<usize>,
    measured: Vec<Measured>,
}

impl Generator {
    /// Loads the workload's KV cache (or `kv` instead), system and policy, and checks that they fit together.
    pub fn load(workload: Workload, doc: &Document, kv: Option<&Path>) -> Result<Self> {
        let system = System::load(&workload.system_path(doc), &[]).map_err(|e| match e {
            Error::NoInput(p) => doc.error("system", format!("system file {} does not exist", p.display())),
            Error::Io { path, source } => doc.error("system", format!("{}: {source}", path.display())),
            other => other,
        })?;
        let policy = build_policy(&workload, doc, &workload.policy)?;
        let full = build_policy(&workload, doc, "full")?;
        for name in workload.policies.keys() {
            build_policy(&workload, doc, name)?;
        }
        if workload.budget < policy.min_budget() {
            let what = format!(
                "budget {} is below the {} tokens that {} needs",
                workload.budget,
                policy.min_budget(),
                policy.name()
            );
            return Err(doc.error("budget", what));
        }
        let cache = load_cache(&workload, doc, kv)?;
        let geometry = system.device.geometry;
        let shape =
            Shape::new(&geometry, cache.dim, cache.element_bytes, system.device.entry_bytes, workload.mapping.values)
                .map_err(|e| doc.error("mapping", e))?;
        let homes = homes(&cache, &system).map_err(|e| doc.error("system", e))?;
        let header = Header {
            generator: concat!("tracegen ", env!("CARGO_PKG_VERSION")).into(),
            geometry,
            spec_hash: spec_hash(&geometry, &format!("{:?} {shape:?}", workload.mapping)),
            seed: workload.seed,
            config: doc.canonical(),
            provenance: cache.provenance.clone(),
        };
        Ok(Generator { workload, system, cache, policy, full, shape, homes, header })
    }

    /// The header of the trace.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The cache that is decoded.
    pub fn cache(&self) -> &KvCache {
        &self.cache
    }

    /// The device that addresses are for.
    pub fn system(&self) -> &System {
        &self.system
    }

    /// Decode steps.
    pub fn steps(&self) -> usize {
        let all = self.cache.decode_positions().len();
        if self.workload.steps == 0 { all } else { all.min(self.workload.steps) }
    }

    /// Writes the trace to `sink`; a metrics row goes to `metrics`, when given, for each query head and step.
    /// `progress` hears how many steps are done.
    pub fn run(
        &self,
        sink: &mut dyn Sink,
        mut metrics: Option<RowSink<'_>>,
        progress: &mut dyn FnMut(u64),
    ) -> Result<()> {
        let measure = metrics.is_some();
        let heads = self.cache.kv_heads;
        let places: Vec<(usize, usize)> =
            (0..self.cache.layers.len()).flat_map(|l| (0..heads).map(move |h| (l, h))).collect();
        let mut work: Vec<HeadWork<'_>> = places.into_par_iter().map(|(l, h)| HeadWork::new(self, l, h)).collect();
        interrupt::check()?;
        let steps = self.steps();
        for first in (0..steps).step_by(CHUNK) {
            let chunk = first..steps.min(first + CHUNK);
            work.par_iter_mut().map(|w| w.run(chunk.clone(), measure)).collect::<Result<Vec<()>>>()?;
            for (i, step) in chunk.clone().enumerate() {
                for w in &work {
                    w.step_records(i).iter().try_for_each(|r| sink.push(*r))?;
                    if w.kv_head + 1 == heads {
                        sink.push(Record::Request(Request::one(Op::Sync, 0)))?;
                    }
                    if let Some(emit) = &mut metrics {
                        w.metric_rows(i, emit)?;
                    }
                }
                progress(step as u64 + 1);
            }
            interrupt::check()?;
        }
        sink.finish()
    }
}

fn build_policy(workload: &Workload, doc: &Document, name: &str) -> Result<Box<dyn Policy>> {
    let at = if workload.policies.contains_key(name) && workload.policy != name {
        format!("policies.{name}")
    } else {
        "policy".into()
    };
    let entry = select::find(name).map_err(|e| doc.error(&at, e))?;
    let none = toml::Table::new();
    let table = workload.policies.get(name).unwrap_or(&none);
    (entry.build)(table).map_err(|e| doc.serde_error(&format!("policies.{name}.{}", e.key), &e.message))
}

fn load_cache(workload: &Workload, doc: &Document, kv: Option<&Path>) -> Result<KvCache> {
    match (kv, &workload.kv, &workload.synthetic) {
        (Some(path), _, _) => kv::load(path),
        (None, Some(path), _) => kv::load(doc.resolve_path("kv", path)),
        (None, None, table) => {
            let value = toml::Value::Table(table.clone().unwrap_or_default());
            let mut spec: kv::synthetic::SyntheticSpec = serde_path_to_error::deserialize(value).map_err(|e| {
                doc.serde_error(
                    &format!("synthetic.{}", e.path()).replace("synthetic..", "synthetic"),
                    e.inner().message(),
                )
            })?;
            // The run's seed is the source's too, unless the source has one of its own.
            if !table.as_ref().is_some_and(|t| t.contains_key("seed")) {
                spec.seed = workload.seed;
            }
            kv::synthetic::generate(&spec).map_err(|e| match e {
                Error::Config { at, what } => doc.error(&at, what),
                other => other,
            })
        }
    }
}

/// A head of a layer on channel `head mod channels`; the layers and heads of a channel share its rows evenly.
fn homes(cache: &KvCache, system: &System) -> Result<Vec<Home>, String> {
    let g = &system.device.geometry;
    let per_channel = (cache.kv_heads as u32).div_ceil(g.channels);
    let shares = 2 * cache.layers.len() as u32 * per_channel;
    let rows = g.rows / shares;
    if rows == 0 {
        return Err(format!(
            "{} layers x {per_channel} KV heads a channel do not fit into {} rows a bank",
            cache.layers.len(),
            g.rows
        ));
    }
    let home = |layer: u32, head: u32| {
        let first = (layer * per_channel + head / g.channels) * 2 * rows;
        Home { channel: head % g.channels, key_row: first, value_row: first + rows, rows }
    };
    Ok((0..cache.layers.len() as u32).flat_map(|l| (0..cache.kv_heads as u32).map(move |h| home(l, h))).collect())
}

impl<'g> HeadWork<'g> {
    fn new(generator: &'g Generator, layer: usize, kv_head: usize) -> Self {
        let g = generator;
        let index = layer * g.cache.kv_heads + kv_head;
        let dense = g.cache.layers[layer] < g.workload.dense_layers;
        let policy = if dense { &g.full } else { &g.policy };
        // A large odd factor keeps the seeds of neighbouring heads apart.
        let seed = g.workload.seed ^ (index as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let group = g.cache.group();
        HeadWork {
            generator,
            layer,
            kv_head,
            dense,
            state: policy.prepare(HeadView {
                keys: g.cache.keys(layer, kv_head),
                prefill: g.cache.prefill,
                queries: g.cache.group_queries(layer, kv_head),
                query_start: g.cache.query_start,
                seed,
            }),
            scheduler: Scheduler::new(g.system.device.geometry, &g.workload.mapping, g.shape, g.homes[index], group),
            scores: vec![Vec::new(); group],
            tokens: vec![Vec::new(); group],
            scratch: accuracy::Scratch::default(),
            records: Vec::new(),
            ends: Vec::new(),
            measured: Vec::new(),
        }
    }

    fn run(&mut self, steps: std::ops::Range<usize>, measure: bool) -> Result<()> {
        self.records.clear();
        self.ends.clear();
        self.measured.clear();
        for step in steps {
            self.step(step, measure)?;
            self.ends.push(self.records.len());
        }
        Ok(())
    }

    fn step(&mut self, step: usize, measure: bool) -> Result<()> {
        let g = self.generator;
        let cache = &g.cache;
        let position = cache.decode_positions().start + step;
        let len = position + 1;
        let group = cache.group();
        let keys = cache.keys(self.layer, self.kv_head);
        let queries: Vec<&[f32]> = (0..group)
            .map(|h| cache.queries(self.layer, self.kv_head * group + h).row(position - cache.query_start))
            .collect();
        let policy = if self.dense { &g.full } else { &g.policy };
        let scored = measure || policy.needs_scores();
        if scored {
            accuracy::exact_scores(keys, len, &queries, &mut self.scores);
        }
        let budget = g.workload.budget;
        let scores = if scored { &self.scores[..] } else { &[] };
        self.state.grow(len);
        self.state.select(StepView { len, budget, queries: &queries, scores }, &mut self.tokens);

        let order = self.state.order();
        let shape = RowShape { row_block: g.workload.metrics.row_block, units: g.workload.metrics.units };
        if measure {
            let scale = 1.0 / (cache.dim as f32).sqrt();
            let values = cache.values(self.layer, self.kv_head);
            let shares = self.state.blend();
            let accuracies = (0..group)
                .map(|h| {
                    let share = shares.get(h).copied().unwrap_or(1.0);
                    let mut attention = self.scratch.attend(&self.scores[h], scale, values);
                    attention.measure_blend(&self.tokens[h], share, budget, order, shape)
                })
                .collect();
            self.measured.push(Measured { step, accuracies });
        }
        let row_blocks: Vec<u32> = match g.workload.mapping.addressing {
            Addressing::Ideal => {
                self.tokens.iter().map(|t| self.scratch.row_blocks(t, len, order, shape) as u32).collect()
            }
            Addressing::BankGroup | Addressing::Broadcast => Vec::new(),
        };
        let segment = Segment {
            step: step as u32,
            position: position as u32,
            layer: cache.layers[self.layer],
            kv_head: self.kv_head as u32,
            ..Segment::default()
        };
        let wanted = Wanted { tokens: &self.tokens, order, row_blocks: &row_blocks };
        self.scheduler.step(&wanted, segment, &mut self.records).map_err(|e| {
            let what = format!("layer {}, KV head {}, position {position}: {e}", segment.layer, self.kv_head);
            Error::Config { at: g.workload.name.clone(), what }
        })
    }

    fn step_records(&self, i: usize) -> &[Record] {
        let begin = if i == 0 { 0 } else { self.ends[i - 1] };
        &self.records[begin..self.ends[i]]
    }

    fn metric_rows(&self, i: usize, emit: &mut dyn FnMut(&[Value]) -> Result<()>) -> Result<()> {
        let (g, m) = (self.generator, &self.measured[i]);
        let int = |n: usize| Value::Int(n as u64);
        let ratio = |x: f64| Value::Float(x, 6);
        for (h, a) in m.accuracies.iter().enumerate() {
            emit(&[
                Value::Text(g.policy.name().into()),
                int(g.workload.budget),
                int(m.step),
                int(g.cache.decode_positions().start + m.step),
                Value::Int(u64::from(g.cache.layers[self.layer])),
                int(self.kv_head),
                int(self.kv_head * g.cache.group() + h),
                int(usize::from(self.dense)),
                int(a.selected),
                int(a.row_tokens),
                ratio(a.unit_imbalance),
                ratio(a.mass_recall),
                ratio(a.top_recall),
                ratio(a.output_rel_err),
            ])?;
        }
        Ok(())
    }
}
