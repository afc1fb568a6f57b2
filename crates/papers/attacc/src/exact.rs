//! AttAcc's pipelining: heads of a channel in pairs, so that the MACs of one hide the transfers and the softmax of the
//! other, each channel with its own heads only.
//!
//! For a pair:
//!
//! | MACs                    | beside them                                            |
//! |-------------------------|--------------------------------------------------------|
//! | scores of the first     | the second's query to the GEMV buffers                 |
//! | scores of the second    | the first's softmax, its probabilities to the buffers  |
//! | outputs of the first    | the second's softmax, its probabilities to the buffers |
//! | outputs of the second   |                                                        |
//!
//! A head without a partner does one after the other. MACs come in chunks, as many positions as an entry holds scores,
//! with a barrier of the channel between, and the results of a chunk are moved out beside the next one.
//!
//! Channels have either as many heads as the others or one less ([`super::Attention::groups`]). Those that have as many do the same:
//! each request goes to all of them before the next one does. From barrier to barrier the two groups take turns, so that
//! no group is held up where one stream feeds all channels.

use super::AttentionSchedule;
use super::layout::{AttaccLayout, HeadRound, Product, Transfer};
use super::schedule::ScheduleWriter;
use pimattn_core::cancel::Cancel;
use pimattn_core::error::Result;
use pimattn_core::op::Op;
use pimattn_trace::{Phase, Sink};
use std::iter::Peekable;
use std::ops::Range;

/// What each channel of a group does next.
enum ChannelStep<'l> {
    /// MACs of the matrix at this address.
    Macs(&'l Product, u64, Range<u64>),
    /// The results of a chunk to the softmax buffer.
    Results(&'l Product, u64),
    /// The softmax of a head.
    Softmax,
    /// A part of a transfer, counted in moves.
    Moves(&'l Transfer, u64, Range<u64>),
    /// What comes next waits for all of this.
    Barrier,
}

/// Writes the whole schedule, its requests marked with their phases if they are to be. Does not finish `sink`.
pub fn run(
    cancel: &Cancel,
    schedule: &AttentionSchedule,
    marked: bool,
    sink: &mut dyn Sink,
    progress: &mut dyn FnMut(u64),
) -> Result<()> {
    let AttentionSchedule { attention, geometry, layout, clustering, pipeline, .. } = schedule;
    let mut writer = ScheduleWriter::new(cancel, schedule, marked, sink);
    if let Some(clustering) = clustering {
        // One head a channel at most.
        writer.cluster(clustering, &layout.round(0, attention.heads))?;
    }
    let groups = attention.groups(geometry).into_iter().filter(|g| g.heads > 0 && !g.channels.is_empty());
    let mut groups: Vec<_> = groups.map(|g| (g.channels, heads(layout, g.heads.into(), *pipeline))).collect();
    // With one head a channel at most, those without one wait, too, as published: nothing is to be corrected there.
    let alone = groups.len() == 1;
    let mut rounds = 0;
    while !groups.is_empty() {
        cancel.check()?;
        for (channels, left) in &mut groups {
            let waiting = if alone { 0..geometry.channels } else { channels.clone() };
            for (head, work) in left.by_ref() {
                if head + 1 > rounds {
                    rounds = head + 1;
                    progress(rounds);
                }
                match work {
                    ChannelStep::Barrier => {
                        waiting.clone().try_for_each(|channel| writer.unmarked(Op::Barrier, 0, channel))?;
                        break;
                    }
                    work => write(&mut writer, schedule, &work, channels.clone())?,
                }
            }
        }
        groups.retain_mut(|(_, left)| left.peek().is_some());
    }
    writer.flush()
}

fn write(
    writer: &mut ScheduleWriter<'_>,
    schedule: &AttentionSchedule,
    work: &ChannelStep<'_>,
    channels: Range<u32>,
) -> Result<()> {
    let AttentionSchedule { layout, geometry, .. } = schedule;
    let mut all =
        |phase, op, address| channels.clone().try_for_each(|channel| writer.request(phase, op, address, channel));
    match work {
        ChannelStep::Macs(product, base, macs) => {
            macs.clone().try_for_each(|i| all(product.phase, layout.mac, base + layout.cell(geometry, i)))
        }
        ChannelStep::Results(product, base) => {
            product.results.iter().try_for_each(|unit| all(product.phase, Op::MvSb, base + unit))
        }
        ChannelStep::Softmax => all(Phase::Softmax, Op::Sfm, 0),
        ChannelStep::Moves(transfer, base, moves) => {
            moves.clone().try_for_each(|i| all(transfer.phase, transfer.op, base + transfer.address(i)))
        }
        ChannelStep::Barrier => Ok(()),
    }
}

/// The work of a channel's heads, each piece with the index of the last head that it is for.
fn heads(layout: &AttaccLayout, heads: u64, pipeline: bool) -> Peekable<impl Iterator<Item = (u64, ChannelStep<'_>)>> {
    let together = if pipeline { 2 } else { 1 };
    let work = (0..heads).step_by(together).flat_map(move |first| {
        let last = (first + together as u64).min(heads) - 1;
        let mut out = Vec::new();
        let [a, b] = [first, last].map(|index| layout.round(index, 0));
        if first == last {
            single(layout, &a, &mut out)
        } else {
            pair(layout, &a, &b, &mut out)
        }
        out.into_iter().map(move |work| (last, work))
    });
    work.peekable()
}

/// Two heads, one in the shadow of the other.
fn pair<'l>(layout: &'l AttaccLayout, first: &HeadRound, second: &HeadRound, out: &mut Vec<ChannelStep<'l>>) {
    let AttaccLayout { queries, scores, probabilities, outputs, .. } = layout;
    out.extend([ChannelStep::Moves(queries, first.keys, 0..queries.moves()), ChannelStep::Barrier]);
    product(scores, first.keys, false, Some(Spread { transfer: queries, base: second.keys, from: 0 }), out);
    // The later half of the chunks leaves the earlier half to the softmax that the transfer waits for.
    let spread = Spread { transfer: probabilities, base: first.values, from: scores.chunks() / 2 };
    product(scores, second.keys, true, Some(spread), out);
    let spread = Spread { transfer: probabilities, base: second.values, from: outputs.chunks() / 2 };
    product(outputs, first.values, true, Some(spread), out);
    product(outputs, second.values, false, None, out);
}

/// A head with nobody to hide behind.
fn single<'l>(layout: &'l AttaccLayout, head: &HeadRound, out: &mut Vec<ChannelStep<'l>>) {
    let AttaccLayout { queries, scores, probabilities, outputs, .. } = layout;
    out.extend([ChannelStep::Moves(queries, head.keys, 0..queries.moves()), ChannelStep::Barrier]);
    product(scores, head.keys, false, None, out);
    let probabilities = ChannelStep::Moves(probabilities, head.values, 0..probabilities.moves());
    out.extend([ChannelStep::Softmax, probabilities, ChannelStep::Barrier]);
    product(outputs, head.values, false, None, out);
}

/// A transfer spread evenly over the chunks of a product, from one on.
struct Spread<'l> {
    transfer: &'l Transfer,
    base: u64,
    from: u64,
}

impl Spread<'_> {
    /// The moves of a chunk of so many. Together they are all moves.
    fn share(&self, chunk: u64, chunks: u64) -> Range<u64> {
        let Some(past) = chunk.checked_sub(self.from) else { return 0..0 };
        let until = |past: u64| self.transfer.moves() * past / (chunks - self.from);
        until(past)..until(past + 1)
    }
}

/// All chunks of a product, a barrier behind each; beside the first, the other head's softmax if `softmax`. The results
/// of the last chunk come behind the last barrier, beside whatever follows.
fn product<'l>(
    product: &'l Product,
    base: u64,
    softmax: bool,
    spread: Option<Spread<'l>>,
    out: &mut Vec<ChannelStep<'l>>,
) {
    for chunk in 0..product.chunks() {
        out.push(ChannelStep::Macs(product, base, product.chunk(chunk)));
        if chunk > 0 {
            out.push(ChannelStep::Results(product, base));
        } else if softmax {
            out.push(ChannelStep::Softmax);
        }
        if let Some(spread) = &spread {
            out.push(ChannelStep::Moves(spread.transfer, spread.base, spread.share(chunk, product.chunks())));
        }
        out.push(ChannelStep::Barrier);
    }
    out.push(ChannelStep::Results(product, base));
}
