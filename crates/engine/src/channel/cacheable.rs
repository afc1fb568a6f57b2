//! What the replay cache needs of a channel of the PIM controller ([`crate::replay_cache`]).
//!
//! Its canonical form counts cycles from the last command, requests and epochs from the first that is still there, and
//! numbers rows. What counts requests from the beginning of the run is left out: arrivals, with which no channel is cached, and logs,
//! which are told that numbers end here.

use super::standing::Standing;
use super::{ARRAY, DATA, MOVES, PimChannel, QUEUES, QueuedRun};
use crate::replay_cache::rebase::Rebase;
use crate::replay_cache::{Cacheable, Milestones, mix};
use crate::segments::Segments;
use pimattn_core::units::Cycle;

impl QueuedRun {
    /// Whether two requests are the same to all that can follow. What their operation and address say is not compared again.
    fn equals(&self, other: &Self) -> bool {
        (
            self.request,
            self.units,
            self.epoch,
            self.label,
            self.order,
            self.arrives,
            self.pass,
            self.row,
            self.data,
            self.opens,
            self.passed,
        ) == (
            other.request,
            other.units,
            other.epoch,
            other.label,
            other.order,
            other.arrives,
            other.pass,
            other.row,
            other.data,
            other.opens,
            other.passed,
        )
    }
}

impl PimChannel<'_> {
    /// Whether rows close for no request ([`super::row_policy`]).
    pub fn closes_alone(&self) -> bool {
        self.policies.rows.closes_alone.is_some()
    }

    /// The cycle of the last command.
    pub fn now(&self) -> Cycle {
        self.now
    }
}

impl Cacheable for PimChannel<'_> {
    fn is_blank(&self) -> bool {
        let idle = self.input.is_empty() && !self.input_ended && self.held == [0; QUEUES];
        idle && !self.is_timed() && self.segments.is_unused()
    }

    fn milestones(&self) -> Milestones {
        Milestones { next_refresh: self.next_refresh, worked: self.worked, done: self.done }
    }

    fn set_milestones(&mut self, milestones: Milestones) {
        Milestones { next_refresh: self.next_refresh, worked: self.worked, done: self.done } = milestones;
    }

    fn rebase(&mut self, rebase: &mut Rebase<'_>) {
        let geometry = &self.device.geometry;
        self.standing = Standing::default();
        self.state.rebase(rebase);
        let mut orders: Vec<u64> = self.classes.iter().flatten().map(|i| i.order).collect();
        orders.sort_unstable();
        self.order = orders.len() as u64;
        for item in self.classes.iter_mut().flatten() {
            item.order = orders.partition_point(|o| *o < item.order) as u64 + 1;
            // Row commands of their own may be left of epochs that are over, which makes no difference to them.
            item.epoch = if item.is_rows_only() { 0 } else { item.epoch - self.epoch };
            (item.number, item.not_before) = (0, 0);
            let mut at = item.target.address;
            rebase.address(Some(item.request.op), &mut at, geometry);
            item.request.addr = geometry.encode(&at);
            item.target = self.state.target(at);
        }
        (self.epoch, self.requests, self.numbered) = (0, 0, false);
        self.epochs.iter_mut().for_each(|e| e.first = 0);
        self.units.rows().for_each(|row| rebase.row(row));
        rebase.exact(&mut self.epoch_open);
        rebase.exact(&mut self.epoch_done);
        rebase.exact(&mut self.last[ARRAY]);
        rebase.bound(&mut self.last[MOVES]);
        rebase.bound(&mut self.last[DATA]);
        self.bus_free.iter_mut().for_each(|at| rebase.bound(at));
        rebase.bound(&mut self.softmax_free);
        self.schedule.rebase(rebase);
        rebase.exact(&mut self.now);
    }

    fn renumber(&mut self, id: u32) {
        let geometry = &self.device.geometry;
        self.id = id;
        self.segments = Segments::new(id);
        for item in self.classes.iter_mut().flatten() {
            let own = item.request.addr & (geometry.channel_base(1) - 1);
            item.request.addr = geometry.channel_base(id) | own;
            item.target = self.state.target(geometry.decode(item.request.addr));
        }
    }

    fn digest(&self, digest: &mut u64) {
        self.state.digest(digest);
        for item in self.classes.iter().flatten() {
            mix(digest, item.request.addr ^ u64::from(item.request.count) << 40 ^ item.order << 56);
        }
        self.last.iter().chain(&self.bus_free).for_each(|at| mix(digest, *at));
    }

    fn equals(&self, other: &Self) -> bool {
        let items = |a: &Self, b: &Self| {
            let lengths = a.classes.iter().zip(&b.classes).all(|(a, b)| a.len() == b.len());
            lengths && a.classes.iter().flatten().zip(b.classes.iter().flatten()).all(|(a, b)| a.equals(b))
        };
        (self.held, self.order, self.epoch_open, self.epoch_done)
            == (other.held, other.order, other.epoch_open, other.epoch_done)
            && (self.bus_free, self.last, self.now, self.softmax_free)
                == (other.bus_free, other.last, other.now, other.softmax_free)
            && self.fruitless == other.fruitless
            && self.units == other.units
            && self.epochs == other.epochs
            && self.schedule == other.schedule
            && self.row_use == other.row_use
            && items(self, other)
            && self.state.equals(&other.state)
    }

    fn bytes(&self) -> usize {
        self.state.bytes() + self.classes.iter().map(|c| c.len() * size_of::<QueuedRun>()).sum::<usize>() + 1024
    }
}
