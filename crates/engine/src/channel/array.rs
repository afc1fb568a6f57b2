//! Array work of a channel: MACs, and the row commands of bank groups.
//!
//! Requests that share no bank do not wait for each other: a bank group closes and opens as soon as nothing older uses
//! it, whatever the others do. MACs are in order, for they accumulate, but that those of some banks may pass others in
//! other banks. A PIM_MAC_BG works in the bank groups that were enabled when it was asked for;
//! the others may open and close beside it.

use super::order::{MacRound, Urgency};
use super::queues::QueueKind;
use super::standing::Standing;
use super::{ARRAY, CLOSED, Candidate, DATA, OFFERS, PASSED, PimChannel, QueuedRun};
use crate::state::{CommandTarget, RowMatch, members};
use pimattn_core::addr::Address;
use pimattn_core::error::{Error, Result};
use pimattn_core::spec::{CommandId, Effect, Scope};
use pimattn_core::units::Cycle;

/// A set of banks of the channel; banks beyond 128 share bits, and so wait for each other.
pub type BankSet = u128;

/// The bank groups that PIM_MAC_BG works in.
#[derive(Clone, PartialEq)]
pub struct Units {
    /// Enabled by all requests taken in so far.
    enabled: u64,
    /// Row that each bank group should have open, by the requests completed so far.
    wanted: Vec<u32>,
    /// Bank groups that have the row open.
    ready: u64,
}

impl Units {
    /// No bank group is enabled.
    pub fn new(count: u32) -> Self {
        Units { enabled: 0, wanted: vec![CLOSED; count as usize], ready: 0 }
    }

    /// The bank groups that have the row open which they should have.
    pub fn ready(&self) -> u64 {
        self.ready
    }

    /// Rows that are wanted.
    pub fn rows(&mut self) -> impl Iterator<Item = &mut u32> {
        self.wanted.iter_mut()
    }
}

impl PimChannel<'_> {
    /// The banks in `scope` of a target.
    pub(super) fn bank_set(&self, scope: Scope, target: &CommandTarget) -> BankSet {
        match scope {
            Scope::Channel => BankSet::MAX,
            Scope::Bank => 1 << (target.bank() % 128),
            _ => self.state.banks(scope, target).fold(0, |set, bank| set | 1 << (bank % 128)),
        }
    }

    /// Takes the bank groups that a request enables or works in into account. Returns those that it works in, and its
    /// banks.
    pub(super) fn enlist(&mut self, effect: Effect, scope: Scope, target: &CommandTarget) -> Result<(u64, BankSet)> {
        let units = &mut self.units;
        let g = &self.device.geometry;
        match effect {
            Effect::Open => units.enabled |= 1 << g.unit_of(&target.address),
            Effect::Close => units.enabled &= !(1 << g.unit_of(&target.address)),
            Effect::Mac => units.enabled = 0,
            Effect::MacOpen if units.enabled == 0 => {
                let what = format!("channel {}: PIM_MAC_BG with no bank group open", self.id);
                return Err(Error::data("trace", what));
            }
            Effect::MacOpen => {
                let enabled = units.enabled;
                let set = |unit| self.bank_set(Scope::BankGroup, &self.unit_target(unit, 0));
                return Ok((enabled, members(enabled).fold(0, |all, unit| all | set(unit))));
            }
            _ => {}
        }
        Ok((0, self.bank_set(scope, target)))
    }

    pub(super) fn unit_target(&self, unit: u32, row: u32) -> CommandTarget {
        self.state.target(Address { row, ..self.device.geometry.unit_address(self.id, unit) })
    }

    fn unit_rows(&self, unit: u32) -> (CommandTarget, RowMatch) {
        let target = self.unit_target(unit, self.units.wanted[unit as usize]);
        (target, self.state.rows(Scope::BankGroup, &target))
    }

    /// Looks again which bank groups have the row that is wanted of them, after `scope` of a target has changed.
    pub(super) fn rows_changed(&mut self, scope: Scope, target: &CommandTarget) {
        self.standing.valid = false;
        let one = self.device.geometry.unit_of(&target.address);
        let of_one = matches!(scope, Scope::Bank | Scope::BankGroup);
        let all = 0..self.units.wanted.len() as u32;
        for unit in if of_one { one..one + 1 } else { all } {
            let open = self.units.wanted[unit as usize] != CLOSED && self.unit_rows(unit).1 == RowMatch::Ready;
            let bit = 1u64.checked_shl(unit).unwrap_or(0);
            self.units.ready = if open { self.units.ready | bit } else { self.units.ready & !bit };
        }
    }

    /// A bank group is wanted at another row.
    pub(super) fn want(&mut self, target: &CommandTarget, row: u32) {
        let unit = self.device.geometry.unit_of(&target.address);
        self.units.wanted[unit as usize] = row;
        self.rows_changed(Scope::BankGroup, target);
    }

    /// MACs of all banks at one row end the bank groups' own rounds, and which rows they were at is forgotten. (After
    /// narrower ones, too, no bank group is enabled; but others may have been asked for new rows meanwhile.)
    pub(super) fn end_rounds(&mut self) {
        self.units.wanted.fill(CLOSED);
        self.units.ready = 0;
    }

    /// Whether array work needs a bank at another row than `target`'s, or may yet close it.
    pub(super) fn needs_other_row(&self, item: &QueuedRun, target: &CommandTarget) -> bool {
        let row = match item.effect {
            Effect::Mac | Effect::Open => item.target.address.row,
            Effect::MacOpen => self.units.wanted[self.device.geometry.unit_of(&target.address) as usize],
            _ => CLOSED,
        };
        row != target.address.row
    }

    /// Offers the first row command and the first column command that array work in sight could issue, if any.
    pub(super) fn array_candidates(&self, offers: &mut [Option<Candidate>; OFFERS]) -> Result<ArrayLook> {
        let queue = &self.classes[ARRAY];
        let all = BankSet::MAX.checked_shr(128u32.saturating_sub(self.rows_of_data.len() as u32)).unwrap_or(0);
        let mut data = self.classes[DATA].iter().peekable();
        let mut look = Look::new();
        let (mut openings, mut closings, mut macs_seen) = (0, 0, 0);
        // Whether an older MAC is still to come, and one of the enabled bank groups.
        let (mut macs, mut of_groups) = (false, false);
        for (index, item) in queue.iter().enumerate() {
            if look.used == BankSet::MAX {
                break;
            }
            let (seen, most) = match item.effect {
                Effect::Open => (&mut openings, self.most[QueueKind::Openings as usize]),
                Effect::Close => (&mut closings, self.most[QueueKind::Closings as usize]),
                // MACs go in order, so that it is their rows alone that are looked for so far ahead.
                _ => (&mut macs_seen, self.most[QueueKind::Macs as usize]),
            };
            if *seen >= most {
                // MACs that are not in sight end rounds, too: a run of them is one item.
                if !item.is_rows_only() {
                    (look.from, look.round) = (index + 1, None);
                }
                look.used |= item.banks;
                look.stands = false;
                continue;
            }
            *seen += u64::from(item.request.count);
            // Row commands in banks that older requests keep wait for them, and keep no others.
            if item.is_rows_only() && item.banks & !look.used == 0 {
                continue;
            }
            // Most requests are of a round like the one before: they have nothing to open, and their turn has not come.
            if item.effect == Effect::MacOpen && macs && item.units & !look.units == 0 {
                (look.from, look.round) = (index + 1, None);
                continue;
            }
            while let Some(older) = data.next_if(|d| d.order < item.order) {
                let bank = self.bank_set(Scope::Bank, &older.target);
                look.reserved |= bank;
                if older.passed >= PASSED && self.state.rows(Scope::Bank, &older.target) != RowMatch::Ready {
                    look.unready |= bank;
                }
            }
            // Behind older array work of one of its banks; a round of bank groups goes on in the others.
            let waits = item.effect != Effect::MacOpen && look.used & item.banks != 0;
            match item.effect {
                _ if waits => {}
                Effect::Open | Effect::Close => {
                    let command = match (item.effect, self.state.rows(item.scope, &item.target)) {
                        (Effect::Open, RowMatch::Ready) => return Ok(ArrayLook::NeedsNoCommand(index)),
                        (Effect::Open, RowMatch::Closed) => Some(item.plan.last),
                        (Effect::Open, RowMatch::Conflict) => item.plan.closer,
                        _ if self.state.any_open(item.scope, &item.target) => Some(item.plan.last),
                        _ => return Ok(ArrayLook::NeedsNoCommand(index)),
                    };
                    if let Some(command) = command {
                        self.row_command(&mut look, index, command, item.target, item.banks);
                    }
                }
                Effect::MacOpen => {
                    let waiting = item.units & !self.units.ready;
                    // What an older request of bank groups works in, it opens itself.
                    for unit in members(waiting & !look.units) {
                        let (target, rows) = self.unit_rows(unit);
                        let banks = self.bank_set(Scope::BankGroup, &target);
                        let command = if rows == RowMatch::Closed { item.plan.opener } else { item.plan.closer };
                        if let Some(command) = command.filter(|_| look.used & banks == 0) {
                            self.row_command(&mut look, index, command, target, banks);
                        }
                    }
                    if waiting == 0 && !macs {
                        self.column_command(&mut look, index, item);
                    }
                }
                _ => match self.state.rows(item.scope, &item.target) {
                    RowMatch::Ready if of_groups => {}
                    RowMatch::Ready => self.column_command(&mut look, index, item),
                    rows => {
                        // Which request opens the row for it depends on how many MACs are left.
                        look.stands &= item.banks == BankSet::MAX;
                        let wide = self.wider(item, item.banks).unwrap_or(item);
                        let command = match rows {
                            RowMatch::Closed if self.state.rows(wide.scope, &wide.target) == RowMatch::Closed => {
                                wide.opener()
                            }
                            _ => wide.plan.closer,
                        };
                        let (target, banks) = (wide.target, wide.banks);
                        if let Some(command) = command {
                            self.row_command(&mut look, index, command, target, banks);
                        }
                    }
                },
            }
            let is_mac = item.effect.multiplies();
            macs |= is_mac;
            if is_mac {
                (look.from, look.round) = (index + 1, None);
            }
            of_groups |= item.effect == Effect::MacOpen;
            look.units |= item.units;
            look.used |= item.banks;
            // Behind those that keep every bank there is nothing to be had.
            if look.used & all == all {
                look.used = BankSet::MAX;
            }
        }
        (offers[0], offers[1]) = (look.row.map(|(c, ..)| c), look.column);
        Ok(ArrayLook::Offers(Standing {
            valid: look.stands,
            column: look.next,
            rows_from: look.rows_from,
            moves_from: 0,
            used: look.used,
            units: look.units,
            macs,
        }))
    }

    /// The widest younger request in sight that needs the row of `item` in other banks, too, which nothing older needs at
    /// another row: to open the row twice, first for the older one alone, would take longer.
    pub(super) fn wider(&self, item: &QueuedRun, banks: BankSet) -> Option<&QueuedRun> {
        if self.is_timed() || !self.is_mixed() {
            return None;
        }
        let row = item.target.address.row;
        let mut data = self.classes[DATA].iter().peekable();
        let mut widest: Option<&QueuedRun> = None;
        let (mut otherwise, mut seen) = (0, 0);
        for mac in &self.classes[ARRAY] {
            if seen >= self.depth {
                break;
            }
            seen += u64::from(mac.request.count);
            while let Some(older) = data.next_if(|d| d.order < mac.order) {
                if older.target.address.row != row {
                    otherwise |= self.bank_set(Scope::Bank, &older.target);
                }
            }
            let same = matches!(mac.effect, Effect::Mac | Effect::Open) && mac.target.address.row == row;
            let covers = mac.banks != banks && mac.banks & banks == banks && mac.order > item.order;
            if same && covers && mac.banks & otherwise == 0 && self.opens_well(item, mac) {
                widest = widest.filter(|w| w.banks.count_ones() >= mac.banks.count_ones()).or(Some(mac));
            }
            otherwise |= if same && mac.effect == Effect::Mac { 0 } else { mac.banks };
            if otherwise & banks != 0 {
                break;
            }
        }
        widest
    }

    /// A row command in banks that nothing older needs otherwise.
    fn row_command(&self, look: &mut Look, index: usize, command: CommandId, target: CommandTarget, banks: BankSet) {
        // A command that closes more banks than the request has waits for the others, too.
        let wide = self.device.commands[usize::from(command)].scope == Scope::Channel;
        let banks = if wide { BankSet::MAX } else { banks };
        if (look.used | look.reserved) & banks == 0 {
            look.consider_row(self, index, command, target);
        }
    }

    /// A MAC of the epoch, whose rows are open, in banks that nothing older needs at another row.
    fn column_command(&self, look: &mut Look, index: usize, item: &QueuedRun) {
        if look.used & item.banks != 0 || look.unready & item.banks != 0 {
            return;
        }
        look.stands &= look.next.replace(index).is_none();
        if item.epoch == self.epoch {
            look.consider_column(self, index, item.plan.last, item.target.in_units(item.units));
        }
    }
}

/// What comes of a look along the queue.
pub(super) enum ArrayLook {
    /// The request at this place needs no command.
    NeedsNoCommand(usize),
    /// Candidates were offered; what may be used of them after the next command.
    Offers(Standing),
}

/// A look along the queue.
struct Look {
    /// Banks of older array work, and the bank groups that older requests of bank groups work in.
    used: BankSet,
    units: u64,
    /// Banks of older reads and writes, and of those among them that have another row to open and were passed often.
    reserved: BankSet,
    unready: BankSet,
    /// The index in the queue where the row commands of the current round begin, behind the last MAC; and the round, once
    /// something asked for it.
    from: usize,
    round: Option<MacRound>,
    /// The best row command so far, where its round begins, and its urgency, once it was asked for.
    row: Option<(Candidate, usize, Option<Urgency>)>,
    column: Option<Candidate>,
    /// The commands for which nothing before the best is to be had.
    hopeless: u64,
    /// The MAC that comes next, once its epoch is open; the soonest of all row commands; and whether both stay the same as long as
    /// the queue and the rows do.
    next: Option<usize>,
    rows_from: Cycle,
    stands: bool,
}

impl Look {
    fn new() -> Self {
        Look {
            used: 0,
            units: 0,
            reserved: 0,
            unready: 0,
            from: 0,
            round: None,
            row: None,
            column: None,
            hopeless: 0,
            next: None,
            rows_from: Cycle::MAX,
            stands: true,
        }
    }

    /// Whether a row command goes before the best so far where both could issue at the same time. Rounds come in their order.
    fn is_more_urgent(
        &mut self,
        channel: &PimChannel<'_>,
        (index, command, target): (usize, CommandId, &CommandTarget),
        own: &mut Option<Urgency>,
    ) -> bool {
        let Some((b, from, best)) = &mut self.row else { return false };
        if *from != self.from {
            return false;
        }
        let round = self.round.get_or_insert_with(|| channel.round(*from));
        let weigh = |i: usize, c, at: &CommandTarget| channel.urgency((&channel.classes[ARRAY][i], c), at, round);
        let best = *best.get_or_insert_with(|| weigh(b.index, b.command, &b.target));
        *own.get_or_insert_with(|| weigh(index, command, target)) > best
    }

    fn consider_row(&mut self, channel: &PimChannel<'_>, index: usize, command: CommandId, target: CommandTarget) {
        let mut own = None;
        let hopeless = self.hopeless & 1 << command != 0;
        if hopeless && !self.is_more_urgent(channel, (index, command, &target), &mut own) {
            return;
        }
        let c = channel.candidate(ARRAY, index, command, target);
        self.rows_from = self.rows_from.min(c.at);
        if channel.is_held(&c) {
            return;
        }
        // Of two of a kind, or of which one closes rows, the first is that of the earlier round; then that of the rank with the most
        // openings to come, where ranks bind; then that with the most rows to come. To weigh closings, too, would hold an
        // opening back for the gain of a cycle, again and again.
        let closes = |c: CommandId| channel.device.commands[usize::from(c)].effect.closes();
        let before = match self.row {
            None => true,
            Some((b, ..)) if b.command == command || closes(b.command) || closes(command) => {
                let same = c.at == b.at;
                c.at < b.at || same && self.is_more_urgent(channel, (index, command, &target), &mut own)
            }
            Some((b, ..)) => channel.goes_before(&c, &b),
        };
        if before {
            self.row = Some((c, self.from, own));
        }
        if self.row.is_some_and(|(b, ..)| channel.soonest(command, ARRAY) >= b.at) {
            self.hopeless |= 1 << command;
        }
    }

    fn consider_column(&mut self, channel: &PimChannel<'_>, index: usize, command: CommandId, target: CommandTarget) {
        if self.hopeless & 1 << command != 0 {
            return;
        }
        let c = channel.candidate(ARRAY, index, command, target);
        if channel.is_held(&c) {
            return;
        }
        if self.column.is_none_or(|b| c.at < b.at) {
            self.column = Some(c);
        }
        if self.column.is_some_and(|b| channel.soonest(command, ARRAY) >= b.at) {
            self.hopeless |= 1 << command;
        }
    }
}
