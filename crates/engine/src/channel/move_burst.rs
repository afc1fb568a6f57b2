//! Buffer moves, and the MACs of a run beside them, chosen among themselves.
//!
//! Moves touch no bank. Once a move or a MAC has issued, the next command is another move of the epoch or the next MAC, if neither
//! a row command nor a refresh comes before it or would be held back by it: these can only be later than they were. So
//! nothing but the moves and one MAC is compared, command after command. The moves leave their queue together, after the last.
//! The plain engine issues one command after the other ([`PimChannel::chooses_each`]).

use super::queues::{QueueKind, QueuedRun};
use super::{ARRAY, Candidate, MOVES, PimChannel};
use crate::probe::{Completion, Probe, RowOutcome};
use crate::state::{BankPath, CommandTarget};
use pimattn_core::spec::device::Bus;
use pimattn_core::spec::{CommandId, Effect};
use pimattn_core::units::Cycle;

/// A run of moves that waits.
#[derive(Clone, Copy)]
pub(super) struct WaitingMove {
    /// Its place in the queue.
    index: usize,
    /// Moves that are left of it.
    count: u32,
    /// The first cycle at which its current move can issue.
    at: Cycle,
    /// The place of that one.
    place: BankPath,
}

/// What moves that were issued have yet to change.
#[derive(Default)]
struct IssuedMoves {
    /// Where and when they were issued, as far as they hold nothing back yet but each other.
    moves: Vec<(CommandTarget, Cycle)>,
    /// Runs that are over and still in their queue.
    count: usize,
    /// The place behind the last of them.
    past: usize,
    /// When the last result is there.
    done: Cycle,
}

impl PimChannel<'_> {
    /// Issues more moves and MACs behind a command that has just been issued, as long as each is the next command of the channel and
    /// the one before it is not beyond the horizon. Returns the cycle of the last one.
    pub(super) fn move_burst<P: Probe>(&mut self, horizon: Cycle, probe: &mut P) -> Option<Cycle> {
        let first = self.classes[MOVES].front().filter(|m| m.epoch == self.epoch && m.effect == Effect::Move)?;
        let command = first.plan.last;
        let simple = !self.policies.order.weighs && self.schedule.rules().bank_feed.is_none() && !self.is_timed();
        if !simple || !self.look_stands() {
            return None;
        }
        let gaps = *self.order_of.among_moves(command)?;
        let mut waiting = std::mem::take(&mut self.waiting_moves);
        let mut left = self.moves_alike(command, &mut waiting);
        let mut issued = IssuedMoves { moves: std::mem::take(&mut self.issued_moves), ..IssuedMoves::default() };
        let mut mac = self.standing_column();
        let mut end = None;
        while left > 0 && !self.takes_more_in() {
            let Some((place, next)) = self.next_move(command, &waiting) else { break };
            let Some(best) = self.move_or_mac(&next, mac.as_ref()) else { break };
            if best.class == ARRAY {
                self.issue(&best, probe);
                let from = self.first_move(command);
                let elsewhere = self.order_of.most(best.command, command) > 1;
                for one in &mut waiting {
                    let target = &self.classes[MOVES][one.index].target;
                    let held = if elsewhere { self.state.earliest(command, target) } else { 0 };
                    one.at = one.at.max(from).max(held);
                }
                mac = self.look_stands().then(|| self.standing_column()).flatten();
            } else {
                match self.issue_move(&best, &mut issued, probe) {
                    true => drop(waiting.remove(place)),
                    // The next one has the same bank: a run stays in its row.
                    false => waiting[place].count -= 1,
                }
                left -= 1;
                // All else that holds moves back is in their cycles already.
                let place = best.target.bank_path();
                let until = gaps.map(|gap| best.at + gap);
                for one in &mut waiting {
                    one.at = one.at.max(until[place.shared(one.place)]);
                }
                match &mut mac {
                    Some(mac) if self.order_of.most(command, mac.command) <= 1 => {
                        let bus = self.bus(self.device.commands[usize::from(mac.command)].bus);
                        mac.at = mac.at.max(self.bus_free[bus]);
                    }
                    Some(_) => {
                        self.moves_hold_back(command, &mut issued);
                        mac = self.standing_column();
                    }
                    None => {}
                }
            }
            end = Some(best.at);
            if best.at > horizon || !self.look_stands() {
                break;
            }
        }
        self.moves_hold_back(command, &mut issued);
        self.moves_leave(&issued);
        self.issued_moves = issued.moves;
        waiting.clear();
        self.waiting_moves = waiting;
        end
    }

    /// Whether requests that wait are taken in before the next command, or asked for.
    fn takes_more_in(&self) -> bool {
        !(self.input_ended && self.input.is_empty()) && self.has_room()
    }

    /// Finds the runs of moves of this epoch that are of one command. Returns how many moves may issue before another request comes in
    /// sight.
    fn moves_alike(&self, command: CommandId, waiting: &mut Vec<WaitingMove>) -> u64 {
        let mut moves = 0u64;
        let from = self.first_move(command);
        let of_epoch = self.classes[MOVES].iter().enumerate().take_while(|(_, i)| i.epoch == self.epoch);
        for (index, item) in of_epoch {
            // Neither softmax nor mode settings pass others.
            if item.effect != Effect::Move {
                break;
            }
            if item.plan.last != command {
                return moves.saturating_sub(self.depth);
            }
            let at = from.max(self.state.earliest(command, &item.target));
            waiting.push(WaitingMove { index, count: item.request.count, at, place: item.target.bank_path() });
            moves += u64::from(item.request.count);
        }
        moves
    }

    /// The move that can issue first, and its place among those that wait.
    #[inline]
    fn next_move(&self, command: CommandId, waiting: &[WaitingMove]) -> Option<(usize, Candidate)> {
        let mut best: Option<(Cycle, usize)> = None;
        let mut seen = 0;
        for (place, one) in waiting.iter().enumerate() {
            if seen >= self.depth {
                break;
            }
            seen += u64::from(one.count);
            if best.is_none_or(|(at, _)| one.at < at) {
                best = Some((one.at, place));
            }
        }
        best.map(|(at, place)| {
            let index = waiting[place].index;
            let QueuedRun { order, target, .. } = self.classes[MOVES][index];
            (place, Candidate { at, order, class: MOVES, index, command, target })
        })
    }

    /// The cycle before which no move can issue a command, wherever it goes.
    #[inline]
    pub(super) fn first_move(&self, command: CommandId) -> Cycle {
        let bus = self.device.commands[usize::from(command)].bus;
        // Only row commands may come before their epoch.
        let opens = if bus == Bus::Column { self.epoch_open } else { 0 };
        self.last[MOVES].max(self.now).max(self.schedule.entered()).max(self.bus_free[self.bus(bus)]).max(opens)
    }

    /// The next command: a move or a MAC. None where it may be another one.
    #[inline]
    fn move_or_mac(&mut self, next: &Candidate, mac: Option<&Candidate>) -> Option<Candidate> {
        let mac = mac.filter(|mac| self.comes_before_refresh(mac));
        let best = match mac {
            None => *next,
            Some(mac) => {
                let (first, other) =
                    if (mac.at, mac.order) < (next.at, next.order) { (mac, next) } else { (next, mac) };
                let apart = first.at + self.order_of.most(first.command, other.command) <= other.at;
                let gives_way = !apart && self.gives_way(first, other);
                if gives_way { *other } else { *first }
            }
        };
        let due = self.next_refresh.is_some_and(|due| best.at >= due.at);
        if due || !self.is_clear_of_rows(&best) {
            return None;
        }
        // The one that could have come before it gave way.
        for held in mac.into_iter().chain([next]).filter(|c| (c.at, c.order) < (best.at, best.order)) {
            let item = &mut self.classes[held.class][held.index];
            item.passed = item.passed.saturating_add(1);
        }
        Some(best)
    }

    /// Issues a move. Returns whether its run is over: it stays in the queue with no request left.
    #[inline]
    fn issue_move<P: Probe>(&mut self, c: &Candidate, issued: &mut IssuedMoves, probe: &mut P) -> bool {
        self.takes_bus(c);
        issued.moves.push((c.target, c.at));
        let item = &mut self.classes[MOVES][c.index];
        let (label, number, op) = (item.label, item.number, item.request.op);
        (item.request.count, item.number, item.passed) = (item.request.count - 1, number + 1, 0);
        let over = item.request.count == 0;
        if !over {
            item.request.addr += u64::from(item.request.stride);
            item.target = self.state.target(self.device.geometry.decode(item.request.addr));
        }
        let banks = self.device.commands[usize::from(c.command)].scope.banks(&self.device.geometry);
        self.report(c, banks, label, Some(Completion { op, row: RowOutcome::Hit }), number, probe);
        let done = c.at + self.device.done(c.command, &c.target.address);
        self.held[QueueKind::Moves as usize] -= 1;
        self.fruitless = 0;
        issued.done = issued.done.max(done);
        if over {
            (issued.count, issued.past) = (issued.count + 1, issued.past.max(c.index + 1));
            self.segments.paid(label.segment, done, probe);
        }
        over
    }

    /// Lets moves hold back what comes after them.
    fn moves_hold_back(&mut self, command: CommandId, issued: &mut IssuedMoves) {
        self.state.issue_moves(command, &issued.moves);
        issued.moves.clear();
    }

    /// Takes moves that were issued out of their queue.
    fn moves_leave(&mut self, issued: &IssuedMoves) {
        self.epoch_done = self.epoch_done.max(issued.done);
        self.done = self.done.max(issued.done);
        self.worked = self.worked.max(issued.done);
        if issued.count == 0 {
            return;
        }
        let queue = &mut self.classes[MOVES];
        if issued.count == issued.past {
            queue.drain(..issued.past);
        } else {
            for index in (0..issued.past).rev() {
                if queue[index].request.count == 0 {
                    queue.remove(index);
                }
            }
        }
        self.epochs[0].left -= issued.count as u32;
    }
}
