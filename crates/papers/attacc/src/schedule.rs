//! AttAcc's pipelining as published: heads in pairs, so that the MACs of one hide the transfers and the softmax of the
//! other.
//!
//! A channel works on one head at a time, and all channels do the same to theirs; "head" here means the round of heads
//! that are one to a channel. For a pair:
//!
//! | MACs                    | beside them                                            |
//! |-------------------------|--------------------------------------------------------|
//! | scores of the first     | the second's query to the GEMV buffers                 |
//! | scores of the second    | the first's softmax, its probabilities to the buffers  |
//! | outputs of the first    | the second's softmax, its probabilities to the buffers |
//! | outputs of the second   |                                                        |
//!
//! A head without a partner does one after the other. MACs come in chunks with a barrier on every channel between,
//! and the results of a chunk are moved out beside the next one. Requests are written channel by channel: each is
//! sent to all channels that have a head before the next one is.

use super::AttentionSchedule;
use super::layout::{AttaccLayout, HeadRound, Product, Transfer};
use pimattn_core::addr::{Address, Geometry};
use pimattn_core::cancel::Cancel;
use pimattn_core::error::Result;
use pimattn_core::op::Op;
use pimattn_trace::text::extend;
use pimattn_trace::{Mark, Phase, Record, Request, Sink};
use std::ops::Range;

/// Writes the whole schedule, its requests marked with their phases if they are to be. Does not finish `sink`.
pub fn run(
    cancel: &Cancel,
    schedule: &AttentionSchedule,
    marked: bool,
    sink: &mut dyn Sink,
    progress: &mut dyn FnMut(u64),
) -> Result<()> {
    let AttentionSchedule { attention, geometry, layout, clustering, pipeline, .. } = schedule;
    let rounds = schedule.rounds();
    let round = |index: u64| {
        let before = index * u64::from(geometry.channels);
        let left = u64::from(attention.heads) - before;
        layout.round(index, left.min(geometry.channels.into()) as u32)
    };
    let mut writer = ScheduleWriter::new(cancel, schedule, marked, sink);
    if let Some(clustering) = clustering {
        writer.cluster(clustering, &round(0))?;
    }
    let mut done = 0;
    while done < rounds {
        if *pipeline && done + 1 < rounds {
            writer.pair(&round(done), &round(done + 1), done == 0)?;
            done += 2;
        } else {
            writer.single(&round(done))?;
            done += 1;
        }
        progress(done);
    }
    writer.flush()
}

/// What goes on beside the MACs of a product.
#[derive(Default)]
pub struct ConcurrentWork<'a> {
    /// The head whose softmax starts with the first chunk.
    softmax: Option<&'a HeadRound>,
    /// The transfer that is spread over chunks.
    transfer: Option<PublishedSpread<'a>>,
}

/// A transfer spread evenly over the chunks from `first_chunk` on.
struct PublishedSpread<'a> {
    transfer: &'a Transfer,
    base: u64,
    channels: u32,
    first_chunk: u64,
    per_chunk: u64,
}

impl<'a> PublishedSpread<'a> {
    /// Over all of `chunks`.
    fn all(transfer: &'a Transfer, base: u64, channels: u32, chunks: u64) -> Self {
        Self::from(0, transfer, base, channels, chunks)
    }

    /// Over the later half of `chunks`, which leaves the earlier half to the softmax that it waits for.
    fn later_half(transfer: &'a Transfer, base: u64, channels: u32, chunks: u64) -> Self {
        Self::from(chunks / 2, transfer, base, channels, chunks)
    }

    /// Quirk: a chunk's share, counted in requests to single channels, is rounded down. What is left over after the
    /// last chunk is never sent, shares smaller than 1 send nothing at all, and an entry's requests to the channels
    /// may be split between chunks.
    fn from(first_chunk: u64, transfer: &'a Transfer, base: u64, channels: u32, chunks: u64) -> Self {
        let per_chunk = transfer.paced_moves() * u64::from(channels) / (chunks - first_chunk);
        PublishedSpread { transfer, base, channels, first_chunk, per_chunk }
    }

    /// The requests of a chunk, counted over moves and, within them, channels.
    fn share(&self, chunk: u64) -> Range<u64> {
        let Some(past) = chunk.checked_sub(self.first_chunk) else { return 0..0 };
        let all = self.transfer.moves() * u64::from(self.channels);
        (past * self.per_chunk).min(all)..((past + 1) * self.per_chunk).min(all)
    }
}

/// Writes requests.
pub struct ScheduleWriter<'a> {
    cancel: &'a Cancel,
    geometry: &'a Geometry,
    layout: &'a AttaccLayout,
    sink: &'a mut dyn Sink,
    /// The run that further requests may join.
    run: Option<Request>,
    /// The phase that each channel was last marked with, if requests are marked.
    phases: Option<Vec<Phase>>,
}

impl<'a> ScheduleWriter<'a> {
    /// A writer of the schedule's requests, marked with their phases if they are to be.
    pub fn new(cancel: &'a Cancel, schedule: &'a AttentionSchedule, marked: bool, sink: &'a mut dyn Sink) -> Self {
        let AttentionSchedule { geometry, layout, .. } = schedule;
        let phases = marked.then(|| vec![Phase::Other; geometry.channels as usize]);
        ScheduleWriter { cancel, geometry, layout, sink, run: None, phases }
    }
}

impl ScheduleWriter<'_> {
    /// Two heads, one in the shadow of the other. `opening` is the very first pair.
    fn pair(&mut self, first: &HeadRound, second: &HeadRound, opening: bool) -> Result<()> {
        let AttaccLayout { queries, scores, probabilities, outputs, .. } = self.layout;
        self.transfer(queries, first.keys, first.channels)?;
        if opening {
            // Quirk: a dummy MAC opens the first row of keys while the very first query is written. It is counted
            // and it takes its time like any other. A schedule that starts with a single head has none.
            self.macs(scores.phase, first.keys, first.channels, 0..1)?;
        }
        self.barrier()?;

        let spread = PublishedSpread::all(queries, second.keys, second.channels, scores.chunks());
        self.product(scores, first.keys, first.channels, &ConcurrentWork { softmax: None, transfer: Some(spread) })?;

        let spread = PublishedSpread::later_half(probabilities, first.values, first.channels, scores.chunks());
        let beside = ConcurrentWork { softmax: Some(first), transfer: Some(spread) };
        self.product(scores, second.keys, second.channels, &beside)?;

        let spread = PublishedSpread::later_half(probabilities, second.values, second.channels, outputs.chunks());
        let beside = ConcurrentWork { softmax: Some(second), transfer: Some(spread) };
        self.product(outputs, first.values, first.channels, &beside)?;

        // Quirk: the outputs of the second head use the values, and the channels, of the first. Where these are one row
        // of each bank, no row is opened for them; and channels without a second head repeat the product of the first.
        self.product(outputs, first.values, first.channels, &ConcurrentWork::default())
    }

    /// A head with nobody to hide behind.
    fn single(&mut self, head: &HeadRound) -> Result<()> {
        let AttaccLayout { queries, scores, probabilities, outputs, .. } = self.layout;
        self.transfer(queries, head.keys, head.channels)?;
        self.barrier()?;
        self.product(scores, head.keys, head.channels, &ConcurrentWork::default())?;
        self.softmax(head)?;
        self.transfer(probabilities, head.values, head.channels)?;
        self.barrier()?;
        self.product(outputs, head.values, head.channels, &ConcurrentWork::default())
    }

    /// All chunks of a product, a barrier behind each. The results of the last chunk come behind the last barrier,
    /// beside whatever follows.
    pub fn product(&mut self, product: &Product, base: u64, channels: u32, beside: &ConcurrentWork<'_>) -> Result<()> {
        for chunk in 0..product.chunks() {
            self.cancel.check()?;
            self.macs(product.phase, base, channels, product.chunk(chunk))?;
            if chunk == 0 {
                beside.softmax.map_or(Ok(()), |head| self.softmax(head))?;
            } else {
                self.results(product, base, channels)?;
            }
            if let Some(spread) = &beside.transfer {
                self.moves(spread.transfer, spread.base, spread.channels, spread.share(chunk))?;
            }
            self.barrier()?;
        }
        self.results(product, base, channels)
    }

    /// MACs of the matrix at `base`.
    pub fn macs(&mut self, phase: Phase, base: u64, channels: u32, indices: Range<u64>) -> Result<()> {
        for index in indices {
            self.broadcast(phase, self.layout.mac, base + self.layout.cell(self.geometry, index), channels)?;
        }
        Ok(())
    }

    /// The results of a chunk to the softmax buffer.
    ///
    /// Quirk: the addresses carry the matrix's place in the bank, which means nothing to a buffer.
    pub fn results(&mut self, product: &Product, base: u64, channels: u32) -> Result<()> {
        product.results.iter().try_for_each(|unit| self.broadcast(product.phase, Op::MvSb, base + unit, channels))
    }

    fn softmax(&mut self, head: &HeadRound) -> Result<()> {
        self.broadcast(Phase::Softmax, Op::Sfm, 0, head.channels)
    }

    /// All moves of a transfer.
    pub fn transfer(&mut self, transfer: &Transfer, base: u64, channels: u32) -> Result<()> {
        self.moves(transfer, base, channels, 0..transfer.moves() * u64::from(channels))
    }

    /// A part of a transfer, as [`PublishedSpread::share`] counts. Addresses as in [`ScheduleWriter::results`].
    fn moves(&mut self, transfer: &Transfer, base: u64, channels: u32, part: Range<u64>) -> Result<()> {
        for i in part {
            let address = base + transfer.address(i / u64::from(channels));
            self.request(transfer.phase, transfer.op, address, (i % u64::from(channels)) as u32)?;
        }
        Ok(())
    }

    /// Every channel of the device waits, also those that have no head. A barrier is for no phase of its own.
    pub fn barrier(&mut self) -> Result<()> {
        (0..self.geometry.channels).try_for_each(|channel| self.unmarked(Op::Barrier, 0, channel))
    }

    /// A request to each of the first `channels` channels.
    fn broadcast(&mut self, phase: Phase, op: Op, address: u64, channels: u32) -> Result<()> {
        (0..channels).try_for_each(|channel| self.request(phase, op, address, channel))
    }

    /// A request to one channel, behind a mark where requests are marked and the channel's phase is another.
    pub fn request(&mut self, phase: Phase, op: Op, address: u64, channel: u32) -> Result<()> {
        let last = self.phases.as_mut().map(|phases| &mut phases[channel as usize]);
        if last.is_some_and(|last| std::mem::replace(last, phase) != phase) {
            self.flush()?;
            self.sink.push(Record::Mark(Mark { channel, lane: 0, phase }))?;
        }
        self.unmarked(op, address, channel)
    }

    /// A request to one channel. Joins the run before it where it can, which is where only one channel has a head.
    pub fn unmarked(&mut self, op: Op, address: u64, channel: u32) -> Result<()> {
        let base = self.geometry.encode(&Address { channel, ..Address::default() });
        let next = Request::one(op, base + address);
        if self.run.as_mut().is_some_and(|run| extend(run, next.op, next.addr, self.geometry)) {
            return Ok(());
        }
        match self.run.replace(next) {
            Some(run) => self.sink.push(Record::Request(run)),
            None => Ok(()),
        }
    }

    /// Writes the run that nothing joined so far.
    pub fn flush(&mut self) -> Result<()> {
        self.run.take().map_or(Ok(()), |run| self.sink.push(Record::Request(run)))
    }
}
