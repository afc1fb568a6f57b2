//! `addressing = "ideal"`: the STARC artifact's account of a decode step.
//!
//! All query heads of the layer, of all requests, do a dense attention over as many row-blocks as they touch on average
//! (rounded up), in AttAcc's schedule: one row count for all, no rows of their own, no selection. Each channel does the work
//! of its own heads; with `schedule.published` the schedule is the artifact's, quirks included. With `clustering_cost =
//! "artifact"` the last step of a policy that clusters begins with the artifact's clustering.

use super::Generator;
use super::head::HeadWork;
use pimattn_attacc::{Attention, AttentionSchedule, Form, UnitLevel};
use pimattn_core::error::{Error, Result};
use pimattn_mapping::workload::ClusteringCost;
use pimattn_trace::{Segment, Sink};

/// Writes one layer at the `i`-th step of the chunk.
pub fn layer<'a>(
    generator: &Generator,
    heads: impl Iterator<Item = &'a HeadWork<'a>>,
    i: usize,
    step: usize,
    sink: &mut dyn Sink,
) -> Result<()> {
    let (mut blocks, mut count, mut layer, mut dense) = (0, 0, 0, false);
    for head in heads {
        blocks += head.row_blocks(i).iter().sum::<usize>();
        count += head.row_blocks(i).len();
        (layer, dense) = (head.cache().layers[head.layer()], head.is_dense());
    }
    let position = generator.cache().decode_positions().start + step;
    let tokens = blocks.div_ceil(count.max(1)) * generator.workload.metrics.row_block;
    let sparse = attention(generator, position + 1, tokens);
    let attention = match dense {
        true => Attention { kv_budget: None, ..sparse },
        false => Attention { clustering: clusters(generator) && step + 1 == generator.steps(), ..sparse },
    };
    let form = if generator.workload.schedule.published { Form::Published } else { Form::Exact };
    let schedule = AttentionSchedule::of(form, attention, generator.target.geometry).map_err(|e| {
        let what = format!("addressing = \"ideal\", layer {layer}, position {position}: {e}");
        Error::Config { at: generator.workload.name.clone(), what }
    })?;
    let schedule = schedule.pipelined(generator.workload.schedule.pipeline);
    let template = Segment { step: step as u32, position: position as u32, layer, ..Segment::default() };
    schedule.run_labelled(&schedule.segments(&template), sink)
}

/// An error if the artifact's clustering is wanted where the artifact has none.
pub fn check_clustering(generator: &Generator) -> Result<()> {
    let cache = generator.cache();
    let dense = cache.layers.iter().all(|layer| *layer < generator.workload.dense_layers);
    if !clusters(generator) || dense || generator.steps() == 0 {
        return Ok(());
    }
    let last = attention(generator, cache.prefill + generator.steps(), generator.workload.budget);
    AttentionSchedule::new(Attention { clustering: true, ..last }, generator.target.geometry).map(drop)
}

/// Whether the artifact's clustering is wanted, and there is something to cluster.
fn clusters(generator: &Generator) -> bool {
    generator.workload.clustering_cost == ClusteringCost::Artifact && generator.chosen.clusters()
}

/// The query heads of a layer, of all requests, over so many of `len` tokens.
fn attention(generator: &Generator, len: usize, tokens: usize) -> Attention {
    let cache = generator.cache();
    Attention {
        mode: UnitLevel::Bank,
        heads: (cache.query_heads * generator.requests()) as u32,
        len: len as u32,
        dim: cache.dim as u32,
        bytes: generator.target.shape.element_bytes,
        kv_budget: Some(tokens as u32),
        clustering: false,
    }
}
