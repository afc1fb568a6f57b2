//! Queues of single banks, where the system has them: what moves to them, and when.

use super::data::DataSchedule;
use super::queues::{QueueKind, QueuedRun, arrival};
use super::{DATA, PimChannel};
use pimattn_core::spec::Effect;
use pimattn_core::units::Cycle;

impl PimChannel<'_> {
    /// Moves all requests to their banks' queues that find a place there, unless so many move in a clock.
    pub(super) fn feed_banks(&mut self) {
        while self.schedule.rules.bank_feed.is_none() && self.feed(Cycle::MAX) {}
    }

    /// Moves a request to its bank's queue, where so many do in a clock, if one can before a cycle. What there is to do then
    /// has to be looked at again.
    pub(super) fn feeds_before(&mut self, until: Cycle) -> bool {
        let Some(each) = self.schedule.rules.bank_feed else { return false };
        let (last, count) = self.schedule.fed;
        // Places are free from the last command on; before that, all that could have moved.
        let mut at = self.now.max(last + Cycle::from(count >= each));
        while at < until {
            if self.feed(at) {
                self.schedule.fed = (at, if at == last { count + 1 } else { 1 });
                return true;
            }
            let later = self.classes[DATA].iter().map(|i| self.arrival(i)).filter(|arrives| *arrives > at).min();
            let Some(next) = later else { break };
            at = next;
        }
        false
    }

    /// Moves a request of this epoch to its bank's queue, where banks have them, of those that have arrived: a read, but a write
    /// where as many wait as the high mark says, or where nothing else is to do; then all that wait, before reads do again.
    /// No write moves past an older read of its column, but lets it go first.
    pub(super) fn feed(&mut self, by: Cycle) -> bool {
        let rules = self.schedule.rules;
        let Some(depth) = rules.bank_depth else { return false };
        let interval = self.interval;
        let arrives = |i: &QueuedRun| interval.map_or(i.arrives, |cycles| arrival(i.number, cycles).max(i.arrives));
        let DataSchedule { turns, banked, in_banks, draining, .. } = &mut self.schedule;
        let queue = &self.classes[DATA];
        let of_now =
            |i: &&QueuedRun| !i.data.banked && i.data.is_held(&rules) && i.epoch == self.epoch && arrives(i) <= by;
        let waiting = |effect| queue.range(*in_banks..).filter(of_now).filter(move |i| i.effect == effect);
        if let Some(turns) = turns
            && *draining == 0
        {
            let writes = waiting(Effect::Write).count() as u64;
            let many = rules.idle_writes.is_some_and(|most| writes > u64::from(most));
            let idle = *in_banks == 0 && (many || waiting(Effect::Read).next().is_none());
            *draining = if writes >= turns.high || idle { writes } else { 0 };
        }
        let drains = *draining > 0;
        let of_column = |i: &QueuedRun, effect: Effect| {
            let addr = i.request.addr;
            move |o: &QueuedRun| o.effect == effect && o.request.addr == addr
        };
        let in_turn = |at: usize, i: &QueuedRun| match (i.effect, turns.is_some()) {
            (Effect::Write, turns) => {
                let reads = of_column(i, Effect::Read);
                (drains || !turns) && !queue.range(*in_banks..at).filter(of_now).any(reads)
            }
            (_, true) if drains => queue.range(at + 1..).filter(of_now).any(of_column(i, Effect::Write)),
            _ => true,
        };
        let has_place = |i: &QueuedRun| banked[i.target.bank() as usize] < depth;
        let moves = |(at, i): &(usize, &QueuedRun)| of_now(i) && has_place(i) && in_turn(*at, i);
        let next = queue.iter().enumerate().skip(*in_banks).find(moves).map(|(at, _)| at);
        let Some(mut item) = next.and_then(|index| self.classes[DATA].remove(index)) else { return false };
        banked[item.target.bank() as usize] += 1;
        *draining -= u64::from(drains && item.effect == Effect::Write);
        item.data.banked = true;
        self.held[QueueKind::of(item.effect, turns.is_some()) as usize] -= 1;
        self.classes[DATA].insert(*in_banks, item);
        *in_banks += 1;
        true
    }
}
