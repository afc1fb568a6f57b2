//! The segments of one channel: which one each request is for, and when the work of a segment is complete.

use super::probe::Probe;
use pimattn_core::units::Cycle;
use pimattn_trace::{LANES, Mark, Phase, Segment};
use std::collections::VecDeque;

/// The segment and the phase that a request is for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Label {
    /// The channel's segment, counted from 1; 0 is none.
    pub segment: u32,
    /// The phase.
    pub phase: Phase,
}

/// A segment that is not complete.
#[derive(Clone, Default)]
struct Owed {
    items: u32,
    /// Whether its lane has gone on to another.
    closed: bool,
    done: Cycle,
}

/// The segments of one channel.
#[derive(Clone)]
pub struct Segments {
    channel: u32,
    /// Taken up so far.
    taken: u32,
    /// The last of them that are not complete.
    owed: VecDeque<Owed>,
    /// Segment of each lane.
    lanes: [u32; LANES],
    label: Label,
}

impl Segments {
    /// No segment yet.
    pub fn new(channel: u32) -> Self {
        Segments { channel, taken: 0, owed: VecDeque::new(), lanes: [0; LANES], label: Label::default() }
    }

    /// The label of the requests that come now.
    pub fn label(&self) -> Label {
        self.label
    }

    /// Whether there has been none, nor a mark.
    pub fn is_unused(&self) -> bool {
        self.taken == 0 && self.label == Label::default()
    }

    /// The requests that come now are for a lane's segment, in some phase.
    pub fn mark(&mut self, mark: &Mark) {
        self.label = Label { segment: self.lanes[usize::from(mark.lane)], phase: mark.phase };
    }

    /// The lane's segment is a new one.
    pub fn take<P: Probe>(&mut self, segment: &Segment, probe: &mut P) {
        let before = self.lanes[usize::from(segment.lane)];
        if let Some(owed) = self.find(before) {
            owed.closed = true;
        }
        self.settle(probe);
        self.taken += 1;
        self.owed.push_back(Owed::default());
        self.lanes[usize::from(segment.lane)] = self.taken;
        self.label = Label { segment: self.taken, phase: Phase::Other };
        probe.segment_begin(self.taken, segment);
    }

    /// The segment of the requests that come now has one thing more to do.
    pub fn owe(&mut self) {
        if let Some(owed) = self.find(self.label.segment) {
            owed.items += 1;
        }
    }

    /// One thing of a segment is done.
    pub fn paid<P: Probe>(&mut self, segment: u32, done: Cycle, probe: &mut P) {
        if let Some(owed) = self.find(segment) {
            owed.items -= 1;
            owed.done = owed.done.max(done);
        }
        self.settle(probe);
    }

    /// Ends all segments with the work done so far.
    pub fn end<P: Probe>(&mut self, probe: &mut P) {
        self.lanes = [0; LANES];
        self.label = Label::default();
        self.owed.iter_mut().for_each(|o| o.closed = true);
        self.settle(probe);
    }

    /// Reports the segments that are complete, in order.
    fn settle<P: Probe>(&mut self, probe: &mut P) {
        while let Some(first) = self.owed.front().filter(|o| o.closed && o.items == 0) {
            let id = self.taken + 1 - self.owed.len() as u32;
            probe.segment_end(self.channel, id, first.done);
            self.owed.pop_front();
        }
    }

    fn find(&mut self, segment: u32) -> Option<&mut Owed> {
        let behind = (self.taken - segment) as usize;
        if segment == 0 { None } else { self.owed.iter_mut().rev().nth(behind) }
    }
}
