//! One KV head at work.

use super::Generator;
use super::choice::HeadChoice;
use super::metrics::{HeadMetrics, HeadPlace};
use super::selections::Selections;
use pimattn_core::addr::Geometry;
use pimattn_core::error::{Error, Result};
use pimattn_kv::KvCache;
use pimattn_mapping::schedule::HeadPlanner;
use pimattn_mapping::stage::HeadPlan;
use pimattn_mapping::workload::{Addressing, OverheadCost, Workload};
use pimattn_trace::Segment;

/// The choices, the plans and the measurements of one head.
pub struct HeadWork<'g> {
    generator: &'g Generator,
    request: usize,
    channel: u32,
    choice: HeadChoice<'g>,
    scheduler: HeadPlanner,
    /// Of the chunk: one for each step.
    measured: Vec<HeadMetrics>,
    /// Of the chunk: row-blocks that each query head touches by the metrics' account; only `ideal` uses them.
    row_blocks: Vec<Vec<usize>>,
}

impl<'g> HeadWork<'g> {
    /// The heads of a layer (an index into the cache's) and a request, their prefill taken in, or as `selections` say.
    ///
    /// # Errors
    /// Those of reading the cache.
    pub fn of_layer(
        generator: &'g Generator,
        layer: usize,
        request: usize,
        selections: Option<&'g Selections>,
        measure: bool,
    ) -> Result<Vec<Self>> {
        let heads = 0..generator.cached.of(request).kv_heads;
        let choices = match selections {
            None => HeadChoice::of_heads(generator, layer, request, heads, measure)?,
            Some(selections) => {
                let replayed = |kv_head| {
                    let selected = selections.head(generator.index(layer, request, kv_head));
                    HeadChoice::replayed(generator, HeadPlace { layer, request, kv_head }, selected)
                };
                heads.map(replayed).collect()
            }
        };
        Ok(choices.into_iter().map(|choice| HeadWork::new(generator, request, choice)).collect())
    }

    fn new(generator: &'g Generator, request: usize, choice: HeadChoice<'g>) -> Self {
        let g = generator;
        let home = g.homes[g.index(choice.layer(), request, choice.kv_head())];
        let mut scheduler = HeadPlanner::new(g.target, &g.workload, g.costs, home, choice.cache().group());
        if g.workload.prefill_clustering_cost == OverheadCost::Pim {
            scheduler.owe(choice.state().clusterings());
        }
        HeadWork {
            generator,
            request,
            channel: home.channel,
            choice,
            scheduler,
            measured: Vec::new(),
            row_blocks: Vec::new(),
        }
    }

    /// Forgets the results of the chunk before.
    pub fn begin_chunk(&mut self) {
        self.measured.clear();
        self.row_blocks.clear();
    }

    /// Works through one step and returns its plans, one for each of the head's channels; none for `ideal`, where rows
    /// are only counted.
    pub fn step(&mut self, step: usize, measure: bool) -> Result<Vec<HeadPlan>> {
        let accuracies = self.choice.step(step, measure)?;
        self.measured.extend(accuracies.map(|accuracies| HeadMetrics { step, accuracies }));
        if self.workload().mapping.addressing == Addressing::Ideal {
            self.row_blocks.push(self.choice.row_blocks());
            return Ok(Vec::new());
        }
        let position = self.choice.position(step);
        let segment = Segment {
            step: step as u32,
            position: position as u32,
            layer: self.cache().layers[self.layer()],
            kv_head: self.kv_head() as u32,
            request: self.request as u32,
            ..Segment::default()
        };
        self.scheduler.step(&self.choice.demand(), segment).map_err(|e| {
            let what = format!("layer {}, KV head {}, position {position}: {e}", segment.layer, segment.kv_head);
            Error::Config { at: self.generator.workload.name.clone(), what }
        })
    }

    /// Index of its layer.
    pub fn layer(&self) -> usize {
        self.choice.layer()
    }

    /// Its request.
    pub fn request(&self) -> usize {
        self.request
    }

    /// Its number within the layer.
    pub fn kv_head(&self) -> usize {
        self.choice.kv_head()
    }

    /// The first of its channels.
    pub fn channel(&self) -> u32 {
        self.channel
    }

    /// Where it is among the heads of the run.
    pub fn place(&self) -> HeadPlace {
        HeadPlace { layer: self.layer(), request: self.request, kv_head: self.kv_head() }
    }

    /// Whether its layer stays full.
    pub fn is_dense(&self) -> bool {
        self.generator.is_dense(self.cache().layers[self.layer()])
    }

    /// Its cache.
    pub fn cache(&self) -> &'g KvCache {
        self.choice.cache()
    }

    /// The workload.
    pub fn workload(&self) -> &'g Workload {
        &self.generator.workload
    }

    /// The device.
    pub fn geometry(&self) -> &'g Geometry {
        &self.generator.target.geometry
    }

    /// Metrics of the chunk.
    pub fn measured(&self) -> &[HeadMetrics] {
        &self.measured
    }

    /// Row-blocks that each query head touches at the `i`-th step of the chunk.
    pub fn row_blocks(&self, i: usize) -> &[usize] {
        &self.row_blocks[i]
    }
}
