//! The books of one channel: counts and time by segment and phase.
//!
//! A segment is open from its first record until no more time can be credited to it. Work that belongs to no segment, and
//! waiting for other channels, is kept apart ([`Books::loose`]).

use super::account::{Ledger, Time, TimeOwner};
use super::counters::Counters;
use pimattn_core::units::Cycle;
use pimattn_trace::{Phase, Segment};
use std::collections::VecDeque;

/// Number of parts of a step, which are its rows in `phases.csv`: the phases of traces, and waiting for other channels.
pub const PARTS: usize = Phase::ALL.len() + 1;
/// Index of the part for waiting.
pub const WAITING: usize = Phase::ALL.len();

/// Counts and time of one phase.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PhaseCounts {
    /// Commands and requests.
    pub counters: Counters,
    /// Time, summed over channels.
    pub time: Time,
}

impl PhaseCounts {
    /// Adds another part to this one.
    pub fn add(&mut self, other: &PhaseCounts) {
        self.add_times(other, 1);
    }

    /// Adds another part, multiplied by `times`.
    pub fn add_times(&mut self, other: &PhaseCounts, times: u64) {
        self.counters.add_times(&other.counters, times);
        self.time.add_times(&other.time, times);
    }
}

/// Counts and time by phase; [`WAITING`] is the last.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct CountsByPhase {
    parts: [PhaseCounts; PARTS],
    touched: u16,
}

impl CountsByPhase {
    /// One part, to write to.
    #[inline]
    pub fn at(&mut self, part: usize) -> &mut PhaseCounts {
        self.touched |= 1 << part;
        &mut self.parts[part]
    }

    /// The parts that have been written to, each with its index.
    pub fn used(&self) -> impl Iterator<Item = (usize, &PhaseCounts)> {
        self.parts.iter().enumerate().filter(|(i, _)| self.touched >> i & 1 == 1)
    }

    /// The sum of all parts.
    pub fn sum(&self) -> PhaseCounts {
        let mut sum = PhaseCounts::default();
        self.used().for_each(|(_, p)| sum.add(p));
        sum
    }

    /// Adds other parts to these.
    pub fn add(&mut self, other: &CountsByPhase) {
        other.used().for_each(|(i, p)| self.at(i).add(p));
    }

    /// Ends the account: row switches that no access followed count as for all banks.
    pub fn close(&mut self, banks: u64) {
        self.settle(banks, banks);
    }

    fn settle(&mut self, active: u64, banks: u64) {
        let touched = self.touched;
        let parts = self.parts.iter_mut().enumerate().filter(|(i, _)| touched >> i & 1 == 1);
        parts.for_each(|(_, p)| p.time.settle(active, banks));
    }
}

/// A segment to which counts or time may still be added.
pub struct OpenSegment {
    /// Number of the segment in its channel.
    pub id: u32,
    /// The segment.
    pub segment: Segment,
    /// Cycle of its first command.
    pub begin: Option<Cycle>,
    /// Once it is complete, the cycle from which no more time can be credited to it.
    pub closes: Option<Cycle>,
    /// What was counted.
    pub parts: CountsByPhase,
}

/// The books of one channel.
#[derive(Default)]
pub struct Books {
    /// Work of no segment.
    pub loose: CountsByPhase,
    /// Open segments, in the order in which they began.
    pub open: VecDeque<OpenSegment>,
    /// Number of complete segments among them.
    pub complete: usize,
    /// Cycle at which the channel last met the others at a sync.
    pub met: Cycle,
    /// Step that the channel is in: that of its last segment, or after a sync, the latest.
    pub step: Option<u32>,
    /// Layer that the channel is in, likewise.
    pub layer: u32,
    /// Whether it has begun a segment since the last sync.
    pub began: bool,
}

impl Books {
    /// The work that a command counts for. A command of no segment, such as a refresh, counts for the oldest open segment.
    #[inline]
    pub fn work(&self, segment: u32, phase: Phase) -> TimeOwner {
        let segment = if segment == 0 { self.open.front().map_or(0, |o| o.id) } else { segment };
        TimeOwner { segment, phase }
    }

    /// The counters of some work at a cycle. Work of no segment before the last sync counts as waiting.
    #[inline]
    pub fn counters(&mut self, work: TimeOwner, cycle: Cycle) -> &mut Counters {
        let at = self.open.iter().position(|o| o.id == work.segment);
        let part = match at {
            Some(i) => {
                self.open[i].begin.get_or_insert(cycle);
                self.open[i].parts.at(work.phase as usize)
            }
            None if cycle < self.met => self.loose.at(WAITING),
            None => self.loose.at(work.phase as usize),
        };
        &mut part.counters
    }

    /// Counts and time of some work.
    pub fn part(&mut self, work: TimeOwner) -> &mut PhaseCounts {
        let at = self.open.iter().position(|o| o.id == work.segment);
        let parts = at.map_or(&mut self.loose, |i| &mut self.open[i].parts);
        parts.at(work.phase as usize)
    }

    /// An open segment.
    #[inline]
    pub fn find(&mut self, id: u32) -> Option<&mut OpenSegment> {
        self.open.iter_mut().find(|o| o.id == id)
    }

    /// The first step that the channel may still work for.
    pub fn first_step(&self) -> Option<u32> {
        self.open.iter().map(|o| o.segment.step).chain(self.step).min()
    }
}

impl Ledger for Books {
    #[inline]
    fn time(&mut self, work: TimeOwner) -> &mut Time {
        &mut self.part(work).time
    }

    fn settle(&mut self, active: u64, banks: u64) {
        self.open.iter_mut().map(|o| &mut o.parts).chain([&mut self.loose]).for_each(|p| p.settle(active, banks));
    }

    fn waiting(&mut self) -> &mut Time {
        &mut self.loose.at(WAITING).time
    }
}
