//! The normal form of a channel: time counted from its last command, requests and epochs from the first it holds, rows
//! numbered.

use super::{ARRAY, Channel, DATA, Item, MOVES, QUEUES};
use crate::memo::mix;
use crate::memo::shift::Shift;
use crate::segments::Segments;
use pimattn_core::addr::Geometry;
use pimattn_core::spec::Due;
use pimattn_core::units::Cycle;

impl Item {
    fn same(&self, other: &Self) -> bool {
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

impl<'d> Channel<'d> {
    /// Whether it has nothing to do, and what comes is nobody's, and comes whenever there is room for it.
    pub fn is_blank(&self) -> bool {
        let idle = self.input.is_empty() && !self.input_ended && self.held == [0; QUEUES];
        idle && !self.is_timed() && self.segments.is_unused()
    }

    /// Whether its rows close by themselves, which what is looked up knows nothing of.
    pub fn closes_alone(&self) -> bool {
        self.policies.rows.closes_alone.is_some()
    }

    /// The cycle of its last command.
    pub fn now(&self) -> Cycle {
        self.now
    }

    /// When its next refresh falls due, of which banks.
    pub fn next_refresh(&self) -> Option<Due> {
        self.next_refresh
    }

    /// Sets when its next refresh falls due.
    pub fn set_refresh(&mut self, due: Option<Due>) {
        self.next_refresh = due;
    }

    /// Sets until when it has worked, and when all of it is complete.
    pub fn set_done(&mut self, worked: Cycle, done: Cycle) {
        (self.worked, self.done) = (worked, done);
    }

    /// Moves it to another time, with other names. What it has done, and its next refresh, are left to the caller.
    pub fn shift(&mut self, shift: &mut Shift<'_>) {
        let geometry = &self.device.geometry;
        self.state.shift(shift);
        let mut orders: Vec<u64> = self.classes.iter().flatten().map(|i| i.order).collect();
        orders.sort_unstable();
        self.order = orders.len() as u64;
        for item in self.classes.iter_mut().flatten() {
            item.order = orders.partition_point(|o| *o < item.order) as u64 + 1;
            // Row commands of their own may be left of epochs that are over; it makes no difference to them.
            item.epoch = if item.is_rows_only() { 0 } else { item.epoch - self.epoch };
            // What counts requests are arrivals, and those are not plain, and logs, and those are told that it ends here.
            item.number = 0;
            let mut at = item.target.address;
            shift.address(Some(item.request.op), &mut at, geometry);
            item.request.addr = geometry.encode(&at);
            item.target = self.state.target(at);
        }
        (self.epoch, self.requests, self.numbered) = (0, 0, false);
        self.epochs.iter_mut().for_each(|e| e.first = 0);
        self.units.rows().for_each(|row| shift.row(row));
        shift.exact(&mut self.epoch_open);
        shift.exact(&mut self.epoch_done);
        shift.exact(&mut self.last[ARRAY]);
        shift.bound(&mut self.last[MOVES]);
        shift.bound(&mut self.last[DATA]);
        self.bus_free.iter_mut().for_each(|at| shift.bound(at));
        shift.bound(&mut self.softmax_free);
        self.schedule.shift(shift);
        shift.exact(&mut self.now);
    }

    /// Makes it another channel.
    pub fn renumber(&mut self, id: u32) {
        let geometry: &Geometry = &self.device.geometry;
        self.id = id;
        self.segments = Segments::new(id);
        for item in self.classes.iter_mut().flatten() {
            let own = item.request.addr & (geometry.channel_base(1) - 1);
            item.request.addr = geometry.channel_base(id) | own;
            item.target = self.state.target(geometry.decode(item.request.addr));
        }
    }

    /// Equal for equal states.
    pub fn digest(&self) -> u64 {
        let mut digest = self.held.iter().sum();
        self.state.digest(&mut digest);
        for item in self.classes.iter().flatten() {
            mix(&mut digest, item.request.addr ^ u64::from(item.request.count) << 40 ^ item.order << 56);
        }
        self.last.iter().chain(&self.bus_free).for_each(|at| mix(&mut digest, *at));
        digest
    }

    /// Whether two shifted states are the same.
    pub fn same(&self, other: &Self) -> bool {
        let items = |a: &Self, b: &Self| {
            let lengths = a.classes.iter().zip(&b.classes).all(|(a, b)| a.len() == b.len());
            lengths && a.classes.iter().flatten().zip(b.classes.iter().flatten()).all(|(a, b)| a.same(b))
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
            && self.state.same(&other.state)
    }

    /// Bytes that it takes, about.
    pub fn bytes(&self) -> usize {
        self.state.bytes() + self.classes.iter().map(|c| c.len() * size_of::<Item>()).sum::<usize>() + 1024
    }
}
