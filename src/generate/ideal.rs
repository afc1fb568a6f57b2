//! `addressing = "ideal"`: the STARC artifact's account of a decode step.
//!
//! All query heads of the layer, of all requests, do a dense attention over as many row-blocks as they touch on average
//! (rounded up), in AttAcc's published schedule: one row count for all, no rows of their own, no selection.

use super::Generator;
use super::head::HeadWork;
use crate::attacc::{Attention, Mode, Schedule};
use crate::error::{Error, Result};
use crate::trace::{Segment, Sink};

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
    let cache = generator.cache();
    let position = (cache.decode_positions().start + step) as u32;
    let tokens = blocks.div_ceil(count.max(1)) * generator.workload.metrics.row_block;
    let attention = Attention {
        mode: Mode::Bank,
        heads: count as u32,
        len: position + 1,
        dim: cache.dim as u32,
        bytes: cache.element_bytes,
        kv_budget: (!dense).then_some(tokens as u32),
        clustering: false,
    };
    let schedule = Schedule::new(attention, generator.target.geometry).map_err(|e| {
        let what = format!("addressing = \"ideal\", layer {layer}, position {position}: {e}");
        Error::Config { at: generator.workload.name.clone(), what }
    })?;
    let template = Segment { step: step as u32, position, layer, ..Segment::default() };
    schedule.run_labelled(&schedule.segments(&template), sink)
}
