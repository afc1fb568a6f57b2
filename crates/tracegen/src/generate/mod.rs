//! The generator: a KV cache and a workload in, a trace and accuracy metrics out.
//!
//! KV heads are independent until they share a channel: each has its policy state and its scheduler, and the heads of a
//! channel work through a few decode steps at a time on whatever thread is free, where their requests are put beside each
//! other. Results are put together in order of step, layer and channel, so that the same inputs give the same bytes for
//! any number of threads. Between two layers all channels meet.

mod choice;
mod chosen;
mod head;
mod ideal;
mod label;
mod load;
mod metrics;
mod select;
mod selections;
mod source;
mod spelled;

pub(crate) use chosen::Chosen;
pub(crate) use label::of as label;
pub(crate) use load::{check_budget, checked_policy as policy};
pub use metrics::{MetricsRow, MetricsSink, layout as metrics_layout};
pub use selections::{CacheSet, Selections, basis, cache_basis};

use head::HeadWork;
use pimattn_core::cancel::Cancel;
use pimattn_core::error::{Error, Result};
use pimattn_core::op::Op;
use pimattn_core::spec::System;
use pimattn_kv::KvCache;
use pimattn_mapping::emit::DeviceLayout;
use pimattn_mapping::placement::HeadRegion;
use pimattn_mapping::schedule::Costs;
use pimattn_mapping::stage::{self, HeadPlan};
use pimattn_mapping::workload::{Addressing, Workload};
use pimattn_policies::select::Policy;
use pimattn_trace::label::SelectionLabel;
use pimattn_trace::{Header, Record, Request, Sink};
use rayon::prelude::*;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

/// Decode steps that a channel works through at a time, at most.
const CHUNK: usize = 8;
/// Records of all channels that a chunk holds until they are written, if it has more than a step: about 75 MB.
const CHUNK_RECORDS: usize = 1 << 20;
/// Records that are written between two looks at the cancel token.
const BREATH: usize = 1 << 12;

/// A loaded workload: everything that generation needs.
pub struct Generator {
    workload: Workload,
    system: System,
    cached: Arc<CacheSet>,
    /// Selections that were made before, of these caches.
    selections: Option<Selections>,
    /// What the selections depend on, as [`basis`] writes it.
    basis: String,
    /// Whose results these are.
    label: Arc<SelectionLabel>,
    chosen: Chosen,
    full: Box<dyn Policy>,
    target: DeviceLayout,
    costs: Costs,
    /// By layer, request, KV head.
    homes: Vec<HeadRegion>,
    header: Header,
}

/// The heads of one layer that share a channel, or a group of channels.
struct ChannelWork<'g> {
    layer: usize,
    heads: Vec<HeadWork<'g>>,
    /// Records of each step of the chunk, one after the other, and where each step's end.
    records: Vec<Record>,
    ends: Vec<usize>,
}

impl Generator {
    /// The header of the trace.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The cache that is decoded: that of the first request.
    pub fn cache(&self) -> &KvCache {
        &self.cached.caches()[0]
    }

    /// All caches, for another generator of the same source ([`Generator::load_on`]).
    pub fn caches(&self) -> &Arc<CacheSet> {
        &self.cached
    }

    /// What is selected, of which cache.
    pub fn label(&self) -> &Arc<SelectionLabel> {
        &self.label
    }

    /// Keys that a row of a unit holds.
    pub fn keys_per_row(&self) -> usize {
        self.target.shape.keys_per_row as usize
    }

    /// Requests of the batch.
    pub fn requests(&self) -> usize {
        self.cached.requests()
    }

    /// The device that addresses are for.
    pub fn system(&self) -> &System {
        &self.system
    }

    /// Decode steps: those that every request has.
    pub fn steps(&self) -> usize {
        let all = self.cached.caches().iter().map(|c| c.decode_positions().len()).min().unwrap_or(0);
        if self.workload.steps == 0 { all } else { all.min(self.workload.steps) }
    }

    /// Writes the trace to `sink`; a metrics row goes to `metrics`, when given, for each query head and step.
    /// `progress` hears how many steps are done.
    pub fn run(
        &self,
        sink: &mut dyn Sink,
        metrics: Option<MetricsSink<'_>>,
        progress: &mut dyn FnMut(u64),
    ) -> Result<()> {
        self.run_until(&Cancel::new(), sink, metrics, progress)
    }

    /// Whether a run selects for all heads and steps before it maps anything, head by head, as it does where the caches are too large
    /// to be in memory: what it selects is, until it is mapped.
    pub fn selects_first(&self) -> bool {
        self.selections.is_none() && !self.cached.is_in_memory()
    }

    /// [`Generator::run`], unless `cancel` is requested: then it ends soon, with an error, and the trace is not finished.
    ///
    /// # Errors
    /// Those of `sink` and `metrics`, and [`Error::Interrupted`].
    pub fn run_until(
        &self,
        cancel: &Cancel,
        sink: &mut dyn Sink,
        mut metrics: Option<MetricsSink<'_>>,
        progress: &mut dyn FnMut(u64),
    ) -> Result<()> {
        let measure = metrics.is_some();
        if measure && self.selections.as_ref().is_some_and(|s| !s.is_measured()) {
            return Err(Error::Usage("what these selections keep of the attention was not measured".into()));
        }
        let made;
        let selections = match &self.selections {
            None if self.selects_first() => {
                made = self.select(cancel, measure, &|_| {})?;
                Some(&made)
            }
            selections => selections.as_ref(),
        };
        let mut work = self.work(selections, measure)?;
        cancel.check()?;
        let steps = self.steps();
        // How many records a step has shows at the first.
        let (mut first, mut most) = (0, 1);
        while first < steps {
            let chunk = first..steps.min(first + most);
            work.par_iter_mut().map(|w| w.run(chunk.clone(), measure)).collect::<Result<Vec<()>>>()?;
            for (i, step) in chunk.clone().enumerate() {
                for layer in work.chunk_by(|a, b| a.layer == b.layer) {
                    if self.workload.mapping.addressing == Addressing::Ideal {
                        ideal::layer(self, layer.iter().flat_map(|w| &w.heads), i, step, sink)?;
                    }
                    for w in layer {
                        for records in w.step_records(i).chunks(BREATH) {
                            cancel.check()?;
                            records.iter().try_for_each(|r| sink.push(*r))?;
                        }
                    }
                    sink.push(Record::Request(Request::one(Op::Sync, 0)))?;
                    if let Some(emit) = &mut metrics {
                        let mut heads: Vec<&HeadWork<'_>> = layer.iter().flat_map(|w| &w.heads).collect();
                        heads.sort_by_key(|h| (h.request(), h.kv_head()));
                        for h in heads {
                            let measured = &h.measured()[i];
                            metrics::rows(self, h.place(), measured.step, &measured.accuracies, emit)?;
                        }
                    }
                }
                progress(step as u64 + 1);
            }
            let records: usize = work.iter().map(|w| w.records.len()).sum();
            most = (CHUNK_RECORDS / (records / chunk.len()).max(1)).clamp(1, CHUNK);
            first = chunk.end;
            cancel.check()?;
        }
        sink.finish()
    }

    /// Number of a KV head among those of all layers and requests.
    fn index(&self, layer: usize, request: usize, kv_head: usize) -> usize {
        (layer * self.requests() + request) * self.cache().kv_heads + kv_head
    }

    /// Whether a layer of the model stays full.
    fn is_dense(&self, layer: u32) -> bool {
        layer < self.workload.dense_layers
    }

    /// The heads, ready for the first step, by layer and channel.
    fn work<'g>(&'g self, selections: Option<&'g Selections>, measure: bool) -> Result<Vec<ChannelWork<'g>>> {
        let c = self.cache();
        let (layers, requests) = (c.layers.len(), self.requests());
        let places: Vec<(usize, usize)> = (0..layers).flat_map(|l| (0..requests).map(move |r| (l, r))).collect();
        let of_layer = |(layer, request)| HeadWork::of_layer(self, layer, request, selections, measure);
        let heads: Vec<Vec<HeadWork<'_>>> = places.into_par_iter().map(of_layer).collect::<Result<_>>()?;
        let mut channels: BTreeMap<(usize, u32), Vec<HeadWork<'_>>> = BTreeMap::new();
        for head in heads.into_iter().flatten() {
            channels.entry((head.layer(), head.channel())).or_default().push(head);
        }
        let work = |((layer, _), heads)| ChannelWork { layer, heads, records: Vec::new(), ends: Vec::new() };
        Ok(channels.into_iter().map(work).collect())
    }
}

impl ChannelWork<'_> {
    fn run(&mut self, steps: Range<usize>, measure: bool) -> Result<()> {
        self.records.clear();
        self.ends.clear();
        self.heads.iter_mut().for_each(HeadWork::begin_chunk);
        for step in steps {
            // By channel of the group, the plans of its heads.
            let mut channels: Vec<Vec<HeadPlan>> = Vec::new();
            for head in &mut self.heads {
                for (i, plan) in head.step(step, measure)?.into_iter().enumerate() {
                    if i == channels.len() {
                        channels.push(Vec::new());
                    }
                    channels[i].push(plan);
                }
            }
            if let Some(head) = self.heads.first() {
                let (geometry, pipeline) = (head.geometry(), head.workload().schedule.pipeline);
                channels.iter().for_each(|plans| stage::write(plans, geometry, pipeline, &mut self.records));
            }
            self.ends.push(self.records.len());
        }
        Ok(())
    }

    fn step_records(&self, i: usize) -> &[Record] {
        let begin = if i == 0 { 0 } else { self.ends[i - 1] };
        &self.records[begin..self.ends[i]]
    }
}
