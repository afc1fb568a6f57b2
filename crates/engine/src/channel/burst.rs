//! The MACs of a run that follow one another at their shortest distance, in closed form.
//!
//! Once a MAC of a run has issued, the next one can as soon as the device lets MACs follow one another, and it is the next command
//! if nothing else comes before it or would be held back by it: no row command ([`super::standing`]), no buffer move, no
//! refresh that falls due. All other candidates can only be later than they were, so that one comparison serves for the
//! rest of the run. What MACs hold back they hold back until some time after the last of them, which alone is written down.
//! The plain engine issues one command after the other ([`PimChannel::chooses_each`]).

use super::queues::QueueKind;
use super::{ARRAY, Candidate, PimChannel};
use crate::probe::{CommandBurst, Completion, Probe, RowOutcome};
use pimattn_core::spec::Effect;
use pimattn_core::units::Cycle;

impl PimChannel<'_> {
    /// Issues more MACs of the run whose MAC `c` has just been issued, as long as each is the next command of the channel and the
    /// one before it is not beyond the horizon. Returns the cycle of the last one.
    pub(super) fn burst<P: Probe>(&mut self, c: &Candidate, horizon: Cycle, probe: &mut P) -> Option<Cycle> {
        let gap = self.order_of.own_gap(c.command)?;
        if !self.look_stands() || self.standing.column != Some(c.index) || self.is_timed() {
            return None;
        }
        let first = self.standing_column()?;
        let last_before = |from: Cycle, held: Cycle| from.checked_sub(held.max(1));
        let mut last = last_before(self.standing.rows_from, self.order_of.holds_rows(c.command))?
            .min(last_before(self.standing.moves_from, self.order_of.holds_moves(c.command))?);
        if let Some(due) = self.next_refresh {
            last = last.min(due.at.checked_sub(1)?);
        }
        let after = |from: Cycle, to: Cycle| to.checked_sub(from).map_or(0, |cycles| cycles / gap + 1);
        let left = u64::from(self.classes[ARRAY][c.index].request.count);
        let within = after(first.at, horizon) + 1;
        let count = left.min(after(first.at, last)).min(within).min(self.macs_before_input());
        if count == 0 {
            return None;
        }
        let item = &self.classes[ARRAY][c.index];
        let (label, number, request, effect) = (item.label, item.number, item.request, item.effect);
        let banks = match effect {
            Effect::MacOpen => item.units.count_ones() * self.device.geometry.banks,
            _ => self.device.commands[usize::from(c.command)].scope.banks(&self.device.geometry),
        };
        let completion = Completion { op: request.op, row: RowOutcome::Hit };
        let (stride, geometry) = (u64::from(request.stride), &self.device.geometry);
        let event = self.event(&first, banks, label, Some(completion), number);
        probe.burst(&CommandBurst { first: event, count, gap, addr: request.addr, stride, geometry });
        let mut mac = first;
        mac.at = first.at + (count - 1) * gap;
        mac.target.address = geometry.decode(request.addr + (count - 1) * stride);
        self.has_issued(&mac);
        let item = &mut self.classes[ARRAY][c.index];
        item.request.addr += (count - 1) * stride;
        item.request.count -= (count - 1) as u32;
        item.number += count - 1;
        self.held[QueueKind::Macs as usize] -= count - 1;
        let done = mac.at + self.device.done(c.command, &mac.target.address);
        self.complete(ARRAY, c.index, done, Some(completion), probe);
        Some(mac.at)
    }

    /// How many MACs may issue before the channel takes more in, or asks for more.
    fn macs_before_input(&mut self) -> u64 {
        if self.input_ended && self.input.is_empty() {
            return u64::MAX;
        }
        let macs = QueueKind::Macs as usize;
        let held = std::mem::take(&mut self.held[macs]);
        let others_have_room = self.has_room();
        self.held[macs] = held;
        match others_have_room {
            true => (held + 1).saturating_sub(self.most[macs]),
            false => u64::MAX,
        }
    }
}
