//! The stages of a head's work, and how the stages of two heads overlap.
//!
//! A stage holds the requests of one phase in epochs, with a barrier after each. Array stages (MACs, loads and stores) run
//! one after the other. Transfer stages (buffers, softmax) can overlap with the array stage of another head: they are
//! spread over its epochs.
//!
//! A pair of heads `a`, `b` runs in this order (a selection's scan, if there is one, comes before the scores of its head):
//!
//! | array | transfers that overlap with it |
//! |-|-|
//! | scores of `a` | queries of `b` |
//! | scores of `b` | softmax and probabilities of `a` |
//! | outputs of `a` | softmax and probabilities of `b` |
//! | outputs of `b` | |

use pimattn_core::addr::Geometry;
use pimattn_core::op::Op;
use pimattn_trace::{Mark, Phase, Record, Request, Segment};
use std::collections::VecDeque;

/// Requests of one phase, in epochs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stage {
    /// The phase.
    pub phase: Phase,
    requests: Vec<Request>,
    /// End of each epoch in `requests`.
    ends: Vec<usize>,
}

impl Stage {
    /// An empty stage.
    pub fn new(phase: Phase) -> Self {
        Stage { phase, ..Stage::default() }
    }

    /// Adds a request to the current epoch.
    pub fn push(&mut self, request: Request) {
        self.requests.push(request);
    }

    /// Ends the current epoch, if it has any request.
    pub fn barrier(&mut self) {
        if self.requests.len() > self.ends.last().copied().unwrap_or(0) {
            self.ends.push(self.requests.len());
        }
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.requests.is_empty()
    }

    fn epochs(&self) -> impl ExactSizeIterator<Item = &[Request]> {
        (0..self.ends.len()).map(|i| &self.requests[if i == 0 { 0 } else { self.ends[i - 1] }..self.ends[i]])
    }

    fn size(&self) -> u64 {
        size(&self.requests)
    }
}

/// The stages of a head in one channel at one decode step, in this order.
#[derive(Debug, Default)]
pub struct HeadPlan {
    /// Whose work it is.
    pub segment: Segment,
    /// Stages that write the new token, cluster keys and move tokens.
    pub upkeep: Vec<Stage>,
    /// Transfers: queries, and the vectors that the scan multiplies by.
    pub queries: Vec<Stage>,
    /// Array: the policy's scan, and the host's choice.
    pub scan: Stage,
    /// Array: scores of the selected keys.
    pub scores: Stage,
    /// Transfers: softmax, then probabilities.
    pub probabilities: Vec<Stage>,
    /// Array: outputs.
    pub context: Stage,
}

/// The lane of a head of a pair.
type Lane = u8;

/// Writes the plans of one channel, in pairs where `pipeline` asks for it.
pub fn write(plans: &[HeadPlan], geometry: &Geometry, pipeline: bool, out: &mut Vec<Record>) {
    for pair in plans.chunks(if pipeline { 2 } else { 1 }) {
        let channel = pair[0].segment.channel;
        for (lane, plan) in (0..).zip(pair) {
            out.push(Record::Segment(Segment { lane, ..plan.segment }));
        }
        let mut writer = StageWriter { channel, base: geometry.channel_base(channel), label: None, out };
        match pair {
            [a, b] => writer.pair(a, b),
            _ => writer.single(&pair[0]),
        }
    }
}

struct StageWriter<'a> {
    channel: u32,
    base: u64,
    /// Lane and phase of the last mark.
    label: Option<(Lane, Phase)>,
    out: &'a mut Vec<Record>,
}

impl StageWriter<'_> {
    fn single(&mut self, p: &HeadPlan) {
        p.upkeep.iter().for_each(|s| self.alone(0, s));
        p.queries.iter().for_each(|s| self.alone(0, s));
        self.alone(0, &p.scan);
        self.alone(0, &p.scores);
        p.probabilities.iter().for_each(|s| self.alone(0, s));
        self.alone(0, &p.context);
    }

    fn pair(&mut self, a: &HeadPlan, b: &HeadPlan) {
        for (lane, p) in [(0, a), (1, b)] {
            p.upkeep.iter().for_each(|s| self.alone(lane, s));
        }
        a.queries.iter().for_each(|s| self.alone(0, s));
        if a.scan.is_empty() {
            self.beside(0, &a.scores, 1, &b.queries);
            self.alone(1, &b.scan);
        } else {
            self.beside(0, &a.scan, 1, &b.queries);
            self.alone(1, &b.scan);
            self.alone(0, &a.scores);
        }
        self.beside(1, &b.scores, 0, &a.probabilities);
        self.beside(0, &a.context, 1, &b.probabilities);
        self.alone(1, &b.context);
    }

    fn alone(&mut self, lane: Lane, stage: &Stage) {
        for epoch in stage.epochs() {
            epoch.iter().for_each(|r| self.request(lane, stage.phase, *r));
            self.barrier();
        }
    }

    /// Writes `array` with the transfers of another head overlapping it.
    ///
    /// The transfer stages follow one another and share no epoch. Each gets consecutive epochs of `array`, until these have
    /// its share of the MACs (in proportion to its requests). Within its epochs its requests are spread in proportion to the
    /// MACs of each. If there are fewer epochs with MACs than transfer stages, epochs are cut in two: a barrier between two
    /// MACs costs nothing.
    fn beside(&mut self, lane: Lane, array: &Stage, other: Lane, transfers: &[Stage]) {
        let transfers: Vec<&Stage> = transfers.iter().filter(|t| !t.is_empty()).collect();
        let mut epochs: VecDeque<Vec<Request>> = array.epochs().map(<[Request]>::to_vec).collect();
        cut(&mut epochs, transfers.len());
        let mut left: u64 = transfers.iter().map(|t| t.size()).sum();
        for (i, transfer) in transfers.iter().enumerate() {
            let later = transfers.len() - i - 1;
            let free = epochs.len().saturating_sub(later);
            if free == 0 {
                // The array has no epoch left for this transfer, which therefore runs alone.
                self.alone(other, transfer);
                continue;
            }
            let size = transfer.size();
            let all: u64 = epochs.iter().map(|e| macs(e)).sum();
            let share = all * size / left.max(1);
            left -= size;
            let (mut own, mut weight) = (0, 0);
            while own < free && (own == 0 || weight < share || later == 0) {
                weight += macs(&epochs[own]);
                own += 1;
            }
            let mut parts = RunSplitter { requests: &transfer.requests, done: 0 };
            let (mut sent, mut before) = (0, 0);
            for (k, epoch) in epochs.drain(..own).enumerate() {
                before += macs(&epoch);
                let upto = match weight {
                    0 => size * (k as u64 + 1) / own as u64,
                    _ => size * before / weight,
                };
                self.mixed((lane, array.phase, &epoch), (other, transfer.phase, &mut parts), upto - sent);
                sent = upto;
                self.barrier();
            }
        }
        for epoch in epochs {
            epoch.iter().for_each(|r| self.request(lane, array.phase, *r));
            self.barrier();
        }
    }

    /// Writes an epoch with the next `count` transfers. The two kinds of requests alternate in pieces, because a controller
    /// sees only some requests ahead, and neither kind must hide the other from it.
    fn mixed(
        &mut self,
        (lane, phase, epoch): (Lane, Phase, &[Request]),
        (other, other_phase, transfers): (Lane, Phase, &mut RunSplitter<'_>),
        count: u64,
    ) {
        let mut array = RunSplitter { requests: epoch, done: 0 };
        let (pieces, size) = (count.div_ceil(IN_SIGHT).max(1), size(epoch));
        for k in 0..pieces {
            let share = |of: u64| of * (k + 1) / pieces - of * k / pieces;
            transfers.take(share(count), |r| self.request(other, other_phase, r));
            array.take(share(size), |r| self.request(lane, phase, r));
        }
    }

    fn request(&mut self, lane: Lane, phase: Phase, request: Request) {
        if self.label != Some((lane, phase)) {
            self.label = Some((lane, phase));
            self.out.push(Record::Mark(Mark { channel: self.channel, lane, phase }));
        }
        self.out.push(Record::Request(request));
    }

    fn barrier(&mut self) {
        self.out.push(Record::Request(Request::one(Op::Barrier, self.base)));
    }
}

/// Transfers in one piece between array requests: half of the requests that AttAcc's controller sees.
const IN_SIGHT: u64 = 16;

fn size(requests: &[Request]) -> u64 {
    requests.iter().map(|r| u64::from(r.count)).sum()
}

/// MACs among requests.
fn macs(requests: &[Request]) -> u64 {
    requests.iter().filter(|r| r.op.is_mac()).map(|r| u64::from(r.count)).sum()
}

/// Cuts epochs in two, the one with most MACs first, until `wanted` epochs have MACs or none has two of them.
fn cut(epochs: &mut VecDeque<Vec<Request>>, wanted: usize) {
    while epochs.iter().filter(|e| macs(e) > 0).count() < wanted {
        let most = (0..epochs.len()).max_by_key(|i| (macs(&epochs[*i]), std::cmp::Reverse(*i)));
        let Some(i) = most.filter(|i| macs(&epochs[*i]) > 1) else { return };
        let half = macs(&epochs[i]) / 2;
        let (mut seen, mut parts) = (0, [Vec::new(), Vec::new()]);
        for r in &epochs[i] {
            let n = if r.op.is_mac() { u64::from(r.count) } else { 0 };
            let first = half.saturating_sub(seen).min(n) as u32;
            seen += n;
            match first {
                0 => parts[usize::from(seen - n >= half)].push(*r),
                _ => {
                    parts[0].push(Request { count: first, ..*r });
                    if first < r.count {
                        let addr = r.addr + u64::from(r.stride) * u64::from(first);
                        parts[1].push(Request { addr, count: r.count - first, ..*r });
                    }
                }
            }
        }
        let [first, second] = parts;
        epochs[i] = first;
        epochs.insert(i + 1, second);
    }
}

/// A list of runs from which requests are taken in pieces.
struct RunSplitter<'a> {
    requests: &'a [Request],
    /// Number of requests already taken from the first run.
    done: u32,
}

impl RunSplitter<'_> {
    /// The next `n` requests, as runs.
    fn take(&mut self, mut n: u64, mut each: impl FnMut(Request)) {
        while n > 0
            && let Some(first) = self.requests.first()
        {
            let count = n.min(u64::from(first.count - self.done)) as u32;
            let addr = first.addr + u64::from(first.stride) * u64::from(self.done);
            each(Request { addr, count, ..*first });
            n -= u64::from(count);
            self.done += count;
            if self.done == first.count {
                (self.requests, self.done) = (&self.requests[1..], 0);
            }
        }
    }
}
