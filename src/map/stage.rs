//! Stages of a head's work, and how those of two heads go beside each other.
//!
//! A stage is the requests of one phase in epochs, with a barrier behind each. Array stages (MACs, loads and stores)
//! come one after the other; transfer stages (buffers, softmax) can go in the shadow of another head's array stage, a
//! part beside each of its epochs.

use crate::addr::Geometry;
use crate::op::Op;
use crate::trace::{Mark, Phase, Record, Request, Segment};

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
    /// Nothing yet.
    pub fn new(phase: Phase) -> Self {
        Stage { phase, ..Stage::default() }
    }

    /// Adds a request to the epoch that is open.
    pub fn push(&mut self, request: Request) {
        self.requests.push(request);
    }

    /// Ends the epoch that is open, if it has any request.
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
        self.requests.iter().map(|r| u64::from(r.count)).sum()
    }
}

/// What a head does in one channel at one decode step, in this order.
#[derive(Debug, Default)]
pub struct Plan {
    /// Whose work it is.
    pub segment: Segment,
    /// Writing, clustering and moving.
    pub upkeep: Vec<Stage>,
    /// Transfer: queries, and what the selection multiplies by.
    pub queries: Vec<Stage>,
    /// Array: what the selection reads, and the host's choice.
    pub scan: Stage,
    /// Array: scores of the selected keys.
    pub scores: Stage,
    /// Transfer: softmax, then probabilities.
    pub probabilities: Vec<Stage>,
    /// Array: outputs.
    pub context: Stage,
}

/// The lane of a head of a pair.
type Lane = u8;

/// Writes the plans of one channel, in pairs where `pipeline` asks for it.
pub fn write(plans: &[Plan], geometry: &Geometry, pipeline: bool, out: &mut Vec<Record>) {
    for pair in plans.chunks(if pipeline { 2 } else { 1 }) {
        let channel = pair[0].segment.channel;
        for (lane, plan) in (0..).zip(pair) {
            out.push(Record::Segment(Segment { lane, ..plan.segment }));
        }
        let mut writer = Writer { channel, base: geometry.channel_base(channel), label: None, out };
        match pair {
            [a, b] => writer.pair(a, b),
            _ => writer.single(&pair[0]),
        }
    }
}

struct Writer<'a> {
    channel: u32,
    base: u64,
    /// What the last mark said.
    label: Option<(Lane, Phase)>,
    out: &'a mut Vec<Record>,
}

impl Writer<'_> {
    fn single(&mut self, p: &Plan) {
        p.upkeep.iter().for_each(|s| self.alone(0, s));
        p.queries.iter().for_each(|s| self.alone(0, s));
        self.alone(0, &p.scan);
        self.alone(0, &p.scores);
        p.probabilities.iter().for_each(|s| self.alone(0, s));
        self.alone(0, &p.context);
    }

    fn pair(&mut self, a: &Plan, b: &Plan) {
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

    /// `array` with the transfers of another head in its shadow. Each transfer stage has epochs of its own, in order,
    /// as many as its share of the requests; where there are too few epochs, the last stages come behind.
    fn beside(&mut self, lane: Lane, array: &Stage, other: Lane, transfers: &[Stage]) {
        let mut epochs = array.epochs();
        let mut left: u64 = transfers.iter().map(Stage::size).sum();
        for (i, transfer) in transfers.iter().enumerate().filter(|(_, t)| !t.is_empty()) {
            let later = transfers.len() - i - 1;
            let free = epochs.len().saturating_sub(later);
            if free == 0 {
                // No epoch is left for it; what the array still has to do is not held up.
                self.alone(other, transfer);
                continue;
            }
            let size = transfer.size();
            let share = (epochs.len() as u64 * size / left.max(1)).clamp(1, free as u64);
            left -= size;
            let mut parts = Parts { requests: &transfer.requests, done: 0 };
            for k in 0..share {
                let Some(epoch) = epochs.next() else { break };
                let upto = size * (k + 1) / share;
                let before = size * k / share;
                parts.take(upto - before, |r| self.request(other, transfer.phase, r));
                epoch.iter().for_each(|r| self.request(lane, array.phase, *r));
                self.barrier();
            }
        }
        for epoch in epochs {
            epoch.iter().for_each(|r| self.request(lane, array.phase, *r));
            self.barrier();
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

/// A list of runs, taken apart.
struct Parts<'a> {
    requests: &'a [Request],
    /// Requests of the first run that are taken.
    done: u32,
}

impl Parts<'_> {
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
