//! Data requests of a channel: reads and writes, first-ready, first-come, in turns.

use super::{ARRAY, Candidate, Channel, DATA, Item};
use crate::engine::state::Rows;
use crate::spec::system::WriteDrain;
use crate::spec::{Effect, Scope};

/// Reads and writes in turns.
#[derive(Clone)]
pub struct Turns {
    /// Writes waiting at which they go first, and at which reads do again.
    high: u64,
    low: u64,
    /// Whether it is the writes' turn.
    pub writes: bool,
}

impl Turns {
    /// Reads first, with the marks as shares of a queue.
    pub fn new(writes: &WriteDrain, queue_depth: u32) -> Self {
        let share = |part: f64| (part * f64::from(queue_depth)).round() as u64;
        Turns { high: share(writes.high).max(1), low: share(writes.low), writes: false }
    }
}

impl Channel<'_> {
    /// The next data command: of those whose turn it is, if reads and writes take turns and one of them can proceed.
    pub(super) fn data_candidate(&mut self) -> [Option<Candidate>; 4] {
        let Some(turn) = self.turn() else { return self.first_ready(None) };
        let other = if turn == Effect::Read { Effect::Write } else { Effect::Read };
        let of_turn = self.first_ready(Some(turn));
        if of_turn.iter().any(Option::is_some) { of_turn } else { self.first_ready(Some(other)) }
    }

    /// Whose turn it is, by the requests that wait now.
    fn turn(&mut self) -> Option<Effect> {
        let turns = self.turns.as_ref()?;
        let queue = &self.classes[DATA];
        let now = queue.front().map_or(0, |first| self.arrival(first)).max(self.last[DATA]);
        let (mut reads, mut writes) = (0, 0);
        for item in queue.iter().take_while(|i| i.epoch == self.epoch && self.arrival(i) <= now) {
            *(if item.effect == Effect::Read { &mut reads } else { &mut writes }) += 1;
        }
        let writes_first = match turns.writes {
            true => writes > 0 && (reads == 0 || writes > turns.low),
            false => writes > 0 && (reads == 0 || writes >= turns.high),
        };
        if let Some(turns) = &mut self.turns {
            turns.writes = writes_first;
        }
        Some(if writes_first { Effect::Write } else { Effect::Read })
    }

    /// First-ready, first-come among the data requests in sight, or those of one kind. A row command only for the
    /// oldest request of its kind and bank, and ahead of its epoch only for the oldest of all; nothing past an older
    /// request to the same column, nor past older array work that needs the bank at another row.
    fn first_ready(&self, kind: Option<Effect>) -> [Option<Candidate>; 4] {
        let queue = &self.classes[DATA];
        let of_kind = |i: &Item| kind.is_none_or(|k| i.effect == k);
        let mut all: [Option<Candidate>; 4] = [None; 4];
        // The commands for which nothing before the best is to be had.
        let mut hopeless = [0u64; 2];
        // Banks of older requests of this kind, and of any; more than 128 share bits.
        let (mut banks, mut banks_of_all) = (0u128, 0u128);
        // Banks, of the first 128, where an older request could read, or write, as soon.
        let mut tried = [0u128; 2];
        let mut seen = 0u64;
        for (index, item) in queue.iter().enumerate() {
            if seen >= self.depth {
                break;
            }
            seen += u64::from(item.request.count);
            let bit = 1 << (item.target.bank() % 128);
            let any_in_bank = banks_of_all & bit != 0;
            banks_of_all |= bit;
            if !of_kind(item) {
                continue;
            }
            let older = || queue.iter().take(index).filter(|o| o.target.bank() == item.target.bank());
            let same_bank = banks & bit != 0;
            banks |= bit;
            let rows = self.state.rows(Scope::Bank, &item.target);
            let needs = match rows {
                Rows::Ready => Some(item.plan.last),
                Rows::Closed => item.plan.opener,
                Rows::Conflict => item.plan.closer,
            };
            let Some(command) = needs else { continue };
            let needs_row = command != item.plan.last;
            let ahead = item.epoch != self.epoch;
            if ahead && (!needs_row || any_in_bank) {
                continue;
            }
            let row_is_anothers = || same_bank && older().any(of_kind);
            let tried = &mut tried[usize::from(item.effect == Effect::Write)];
            let as_soon = !needs_row && *tried & bit != 0 && item.target.bank() < 128;
            let slot = usize::from(item.effect == Effect::Write) + if needs_row { 2 } else { 0 };
            let mut best = all[slot];
            let rows_behind = |item: &Item| self.rows_behind(item, &item.target);
            let deeper = best.is_some_and(|b| rows_behind(item) > rows_behind(&queue[b.index]));
            let hopeless = &mut hopeless[usize::from(item.effect == Effect::Write)];
            if *hopeless & 1 << command != 0 && best.is_some() && !deeper || as_soon || needs_row && row_is_anothers() {
                continue;
            }
            if self.array_holds(item, needs_row) {
                continue;
            }
            let wide = if needs_row { self.wider(item, self.bank_set(Scope::Bank, &item.target)) } else { None };
            let (command, target) = match wide {
                None => (command, item.target),
                Some(mac) => match self.state.rows(mac.scope, &mac.target) {
                    Rows::Closed => (mac.opener().unwrap_or(command), mac.target),
                    _ => (mac.plan.closer.unwrap_or(command), mac.target),
                },
            };
            let c = self.candidate(DATA, index, command, target);
            let better = best.is_none_or(|b| match rows_behind(item) == rows_behind(&queue[b.index]) {
                true => c.at < b.at,
                false => self.goes_before(&c, &b),
            });
            if better && older().any(|o| o.request.addr == item.request.addr) {
                continue;
            }
            *tried |= if needs_row { 0 } else { bit };
            if better {
                all[slot] = Some(c);
                best = Some(c);
            }
            if best.is_some_and(|b| self.soonest(command, DATA) >= b.at) {
                *hopeless |= 1 << command;
            }
        }
        all
    }

    /// Whether older array work needs the bank of a data request: at all, or at another row.
    fn array_holds(&self, item: &Item, at_all: bool) -> bool {
        let bank = self.bank_set(Scope::Bank, &item.target);
        let older = self.classes[ARRAY].iter().take_while(|a| a.order < item.order);
        older
            .filter(|a| a.banks & bank != 0)
            .any(|a| at_all || item.order > a.order + self.depth && self.needs_other_row(a, &item.target))
    }
}
