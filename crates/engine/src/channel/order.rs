//! Which of the commands that could be next goes first.
//!
//! The first that can issue, that of the older request on a tie. But where it would hold back another one, both orders
//! are played through to the results, and that which is done first is taken: a read goes before a write, for the bus
//! turns round sooner that way; a narrow activation before a wide one that fills the tFAW window; of several banks,
//! that of the nearer round, or with more rows still to open ([`PimChannel::urgency`]); a row hit before the row is closed. No
//! request gives way more than some hundred times ([`PASSED`]). Where few requests wait, more than pairs is played ([`super::play`]).

use super::{ARRAY, Candidate, DATA, MOVES, OFFERS, PASSED, PimChannel, QueuedRun};
use crate::state::{CommandTarget, RowMatch, members};
use pimattn_core::op::Op;
use pimattn_core::spec::tables::Edge;
use pimattn_core::spec::{Command, CommandId, Device, Effect, Level, Plan, Scope};
use pimattn_core::units::Cycle;
use pimattn_trace::Request;
use std::cmp::{Ordering, Reverse};
use std::collections::VecDeque;

/// Cycles between the commands of an operation.
#[derive(Clone, Copy, Default)]
struct Lead {
    /// From opening a row, and from closing another one before, to the last command.
    opened: Cycle,
    closed: Cycle,
    /// From the last command to the one that closes the row.
    used: Cycle,
    /// From one opening of a bank to the next.
    cycle: Cycle,
}

/// Distances that a device keeps between commands, worked out once: bounds that settle most comparisons without a look at
/// single constraints.
#[derive(Clone)]
pub struct CommandOrder {
    leads: [Lead; Op::COUNT],
    /// Per pair of commands, the most that the first can hold back the second, wherever they are.
    most: Vec<Cycle>,
    /// Per command, the most that it can hold back any row command.
    most_rows: Vec<Cycle>,
    most_moves: Vec<Cycle>,
    /// Per command of a MAC, the distance of two of them at the same place, if nothing but the distance counts.
    own_gap: Vec<Option<Cycle>>,
    /// Per command of a buffer move, the distance of two of them by the nodes that they share
    /// ([`BankPath::shared`](crate::state::BankPath::shared)), if nothing but the distance counts.
    among_moves: Vec<Option<[Cycle; 5]>>,
    commands: usize,
    /// Whether a rank keeps two openings of bank groups further apart than the bus does.
    pub(super) ranks_bind: bool,
}

impl CommandOrder {
    /// Works out what the commands of a device keep apart.
    pub fn new(device: &Device) -> Self {
        let commands = device.commands.len();
        let mut most = vec![0; commands * commands];
        for (from, command) in device.commands.iter().enumerate() {
            for (to, other) in device.commands.iter().enumerate() {
                let edges = command.edges.iter().filter(|e| usize::from(e.to) == to).map(|e| Cycle::from(e.latency));
                let windows = command.counted_in.iter().filter(|w| other.held_by.contains(w));
                let windows = windows.map(|w| Cycle::from(device.windows[usize::from(*w)].latency));
                let bus = Cycle::from(command.bus == other.bus);
                most[from * commands + to] = edges.chain(windows).max().unwrap_or(0).max(bus);
            }
        }
        let ranks_bind = device.commands.iter().enumerate().any(|(id, c)| {
            let own = || c.edges.iter().filter(|e| usize::from(e.to) == id && e.level < Level::BankGroup);
            let bus = own().filter(|e| e.level == Level::Channel).map(|e| e.latency).max().unwrap_or(1);
            let fills = |w: &&u8| device.windows[usize::from(**w)].places(c) >= device.windows[usize::from(**w)].count;
            let opens = c.effect == Effect::Open && c.scope == Scope::BankGroup;
            opens && (own().any(|e| e.latency > bus) || c.held_by.iter().any(|w| fills(&w)))
        });
        let most_of = |of: &dyn Fn(Effect) -> bool| -> Vec<Cycle> {
            let to = |from: usize| (0..commands).filter(|to| of(device.commands[*to].effect)).map(move |to| (from, to));
            let longest = |from| to(from).map(|(from, to)| most[from * commands + to]).max().unwrap_or(0);
            (0..commands).map(longest).collect()
        };
        let most_rows = most_of(&Effect::is_row_command);
        let most_moves = most_of(&|effect| effect.class() as usize == MOVES);
        let own_gap = device.commands.iter().enumerate().map(|(id, c)| own_gap(id, c)).collect();
        let among_moves = device.commands.iter().enumerate().map(|(id, c)| among_moves(id, c)).collect();
        let leads = [Lead::default(); Op::COUNT];
        let mut order = CommandOrder { leads, most, most_rows, most_moves, own_gap, among_moves, commands, ranks_bind };
        order.leads = device.plans.map(|plan| plan.map_or(Lead::default(), |plan| order.lead(device, &plan)));
        order
    }

    fn lead(&self, device: &Device, plan: &Plan) -> Lead {
        let between = |from: Option<CommandId>, to: Option<CommandId>| {
            let (Some(from), Some(to)) = (from, to) else { return 0 };
            let edges = device.commands[usize::from(from)].edges.iter().filter(|e| e.to == to);
            edges.map(|e| Cycle::from(e.latency)).max().unwrap_or(0)
        };
        let opened = between(plan.opener, Some(plan.last));
        let opener = plan.opener.or(Some(plan.last));
        let closed = between(plan.closer, opener);
        Lead {
            opened,
            closed: closed + opened,
            used: between(Some(plan.last), plan.closer),
            cycle: between(opener, plan.closer) + closed,
        }
    }

    /// The distance of two MACs at the same place, if nothing but their distance counts.
    #[inline]
    pub(super) fn own_gap(&self, command: CommandId) -> Option<Cycle> {
        self.own_gap[usize::from(command)]
    }

    /// The distance of two buffer moves by the nodes that they share, if nothing but their distance counts.
    #[inline]
    pub(super) fn among_moves(&self, command: CommandId) -> Option<&[Cycle; 5]> {
        self.among_moves[usize::from(command)].as_ref()
    }

    /// The most that a command can hold back any buffer move, softmax or mode setting.
    #[inline]
    pub(super) fn holds_moves(&self, command: CommandId) -> Cycle {
        self.most_moves[usize::from(command)]
    }

    /// The most that a command can hold back any row command.
    #[inline]
    pub(super) fn holds_rows(&self, command: CommandId) -> Cycle {
        self.most_rows[usize::from(command)]
    }

    /// The most that a command can hold back another one, wherever they are.
    #[inline]
    pub(super) fn most(&self, from: CommandId, to: CommandId) -> Cycle {
        self.most[usize::from(from) * self.commands + usize::from(to)]
    }
}

/// The distance of two commands of a MAC at the same place; none where it takes several commands, or windows count them.
fn own_gap(id: usize, command: &Command) -> Option<Cycle> {
    let simple = command.passes == 1 && command.counted_in.is_empty() && command.held_by.is_empty();
    let own = || command.edges.iter().filter(|e| usize::from(e.to) == id);
    let reaches = own().all(|e| !e.siblings);
    let longest = own().map(|e| Cycle::from(e.latency)).max().unwrap_or(0).max(1);
    (simple && reaches && command.effect.multiplies()).then_some(longest)
}

/// The distance of two buffer moves of a kind by the nodes that they share; none where they take several commands or reach
/// several banks, or windows count them.
fn among_moves(id: usize, command: &Command) -> Option<[Cycle; 5]> {
    let simple = command.passes == 1 && command.counted_in.is_empty() && command.held_by.is_empty();
    let gap = |shared: usize| {
        let holds = |e: &&Edge| match e.siblings {
            true => e.level as usize == shared + 1,
            false => e.level as usize <= shared,
        };
        let own = command.edges.iter().filter(|e| usize::from(e.to) == id).filter(holds);
        own.map(|e| Cycle::from(e.latency)).max().unwrap_or(0).max(1)
    };
    let single = command.effect == Effect::Move && command.scope == Scope::Bank;
    (simple && single).then(|| std::array::from_fn(gap))
}

/// A request as far as it is known: its next command, and what follows.
struct PairedCommand<'a> {
    at: Cycle,
    command: CommandId,
    target: &'a CommandTarget,
    /// From this command to the (first) last one, from that to the last of several, and from that to the result.
    lead: Cycle,
    passes: Cycle,
    result: Cycle,
    /// From the last command to the result of the request that comes after it in its banks.
    rest: Cycle,
    last: CommandId,
    epoch: u32,
    /// The order of array work, whose MACs keep it; none for other requests.
    in_order: Option<u64>,
}

/// Bank groups by what they do for the MACs of a round.
#[derive(Clone, Copy)]
pub(super) struct MacRound {
    /// Open rows for it, and of these, have no row open.
    opens: u64,
    closed: u64,
    /// Open rows for the round behind it.
    opens_next: u64,
}

/// What row commands of a round are compared by ([`PimChannel::urgency`]).
pub(super) type Urgency = (Reverse<u32>, u32, bool, Cycle, u32);

impl PimChannel<'_> {
    /// The place of the offer to take, and those that give way to it or to one that is yet to come, a bit each.
    pub(super) fn pick(&self, offers: &[Option<Candidate>; OFFERS]) -> (Option<usize>, u8) {
        let mut held = 0u8;
        loop {
            let left = || offers.iter().enumerate().filter(|(place, _)| held >> place & 1 == 0);
            let left = || left().filter_map(|(place, c)| c.as_ref().map(|c| (place, c)));
            let Some((place, first)) = left().min_by_key(|(_, c)| (c.at, c.order)) else { return (None, held) };
            if !left().any(|(_, other)| self.gives_way(first, other)) {
                return (Some(place), held);
            }
            held |= 1 << place;
        }
    }

    /// Whether one goes before another: see [`PimChannel::gives_way`].
    pub(super) fn goes_before(&self, a: &Candidate, b: &Candidate) -> bool {
        if (a.at, a.order) < (b.at, b.order) { !self.gives_way(a, b) } else { self.gives_way(b, a) }
    }

    /// Whether the results are there sooner if `other` goes before `first`, which could issue before it.
    pub(super) fn gives_way(&self, first: &Candidate, other: &Candidate) -> bool {
        if other.order == first.order || self.classes[first.class][first.index].passed >= PASSED {
            return false;
        }
        // A command that does not hold the other one back gives way to none: that is settled by a bound, then by the
        // distance at their places. Two row commands are compared all the same, for their MACs or accesses may meet later.
        let (lead_first, lead_other) = (self.lead(first), self.lead(other));
        let both_rows = lead_first > 0 && lead_other > 0;
        let most = self.order_of.most(first.command, other.command);
        if !both_rows && first.at + most <= other.at {
            return false;
        }
        let gap = |a: &Candidate, b: &Candidate| self.state.apart((a.command, &a.target, a.at), (b.command, &b.target));
        if !both_rows && first.at + gap(first, other) <= other.at {
            return false;
        }
        // One closes the row that the other one hits.
        let closes = |c: &Candidate| self.device.commands[usize::from(c.command)].effect.closes();
        let meet = || self.state.meet(first.command, &first.target, other.command, &other.target);
        match (closes(first) && lead_other == 0, closes(other) && lead_first == 0) {
            // The hit goes first, if to open the row again afterwards took longer than to wait for it.
            (true, _) if meet() => {
                let cycle = self.order_of.leads[self.classes[other.class][other.index].request.op as usize].cycle;
                return other.at + gap(other, first) < first.at + cycle;
            }
            (_, true) if meet() => return false,
            _ => {}
        }
        // Both orders are played through, unless the two cannot differ.
        let (a, b) = (self.job(first, lead_first), self.job(other, lead_other));
        if (a.command, a.last, a.rest, a.epoch) == (b.command, b.last, b.rest, b.epoch) {
            return false;
        }
        let next = self.behind_barrier(a.epoch.max(b.epoch));
        self.in_turn(&b, &a, next) < self.in_turn(&a, &b, next)
    }

    /// Cycles from a command to the last one of its request.
    fn lead(&self, c: &Candidate) -> Cycle {
        let item = &self.classes[c.class][c.index];
        let lead = self.lead_of(item);
        match c.command {
            last if last == item.plan.last => 0,
            row if self.device.commands[usize::from(row)].effect.closes() => lead.closed,
            _ => lead.opened,
        }
    }

    fn job<'a>(&self, c: &'a Candidate, lead: Cycle) -> PairedCommand<'a> {
        let item = &self.classes[c.class][c.index];
        let last = item.plan.last;
        let more = Cycle::from(self.device.commands[usize::from(last)].passes - item.pass - 1);
        let between = || self.state.apart((last, &item.target, 0), (last, &item.target));
        PairedCommand {
            at: c.at,
            command: c.command,
            target: &c.target,
            lead,
            passes: if more == 0 { 0 } else { more * between() },
            result: self.device.done(last, &item.target.address),
            rest: self.rest(item, &c.target),
            last,
            // Row commands of their own may stand on either side of a barrier.
            epoch: if item.is_rows_only() { self.epoch } else { item.epoch },
            in_order: (c.class == ARRAY).then_some(item.order),
        }
    }

    /// When the last result is there, and the sum of the times of both requests, if `a` goes before `b`, and `next` is
    /// the first to come behind a barrier.
    fn in_turn(&self, a: &PairedCommand<'_>, b: &PairedCommand<'_>, next: Option<&QueuedRun>) -> (Cycle, Cycle) {
        let gap =
            |x: (CommandId, &CommandTarget, Cycle), y: CommandId, at: &CommandTarget| self.state.apart(x, (y, at));
        // `of_a` and `of_b` are the cycles of the requests' last commands.
        let free = if a.lead == 0 { a.at + a.passes } else { a.at };
        let second = b.at.max(free + gap((a.command, a.target, free), b.command, b.target));
        let (mut of_a, mut of_b) = (a.at + a.lead, second + b.lead);
        let result = |of_a: Cycle, of_b: Cycle| {
            let (end_a, end_b) = (of_a + a.passes, of_b + b.passes);
            let until = |j: &PairedCommand<'_>, end| {
                next.map_or(0, |n| end + gap((j.last, j.target, end), n.plan.last, &n.target))
            };
            let end = (end_a + a.rest).max(end_b + b.rest);
            (end.max(until(a, end_a)).max(until(b, end_b)), of_a + of_b)
        };
        // A barrier keeps the younger back until the result of the older is there.
        match a.epoch.cmp(&b.epoch) {
            Ordering::Less => of_b = of_b.max(of_a + a.passes + a.result),
            Ordering::Greater => of_a = of_a.max(of_b + b.passes + b.result),
            Ordering::Equal => {}
        }
        if (a.lead, b.lead) == (0, 0) {
            return result(of_a, of_b);
        }
        // With rows still to open, the last commands may come in the other order than the first ones; array work keeps its
        // own.
        let a_first = || result(of_a, of_b.max(of_a + a.passes + gap((a.last, a.target, of_a), b.last, b.target)));
        let b_first = || result(of_a.max(of_b + b.passes + gap((b.last, b.target, of_b), a.last, a.target)), of_b);
        match (a.in_order, b.in_order) {
            _ if a.epoch < b.epoch => a_first(),
            _ if a.epoch > b.epoch => b_first(),
            (Some(x), Some(y)) if x < y => a_first(),
            (Some(_), Some(_)) => b_first(),
            _ => a_first().min(b_first()),
        }
    }

    /// The oldest request behind a barrier that does more than open rows.
    fn behind_barrier(&self, epoch: u32) -> Option<&QueuedRun> {
        let later = |i: &&QueuedRun| i.epoch > epoch && !i.is_rows_only();
        // Reads, writes and moves stand in the order of their epochs, and may be many.
        let sorted = |queue: &'_ VecDeque<QueuedRun>| queue.partition_point(|i| i.epoch <= epoch);
        let [array, moves, data] = &self.classes;
        let all = [array.iter().find(later), moves.get(sorted(moves)), data.get(sorted(data))].into_iter().flatten();
        all.min_by_key(|i| i.order)
    }

    /// Cycles from the last command of a request to the result of what comes after it in its banks, at least.
    fn rest(&self, item: &QueuedRun, target: &CommandTarget) -> Cycle {
        let lead = self.lead_of(item);
        let done = self.device.done(item.plan.last, &item.target.address);
        let after = |next: &QueuedRun| {
            let gap = self.state.apart((item.plan.last, &item.target, 0), (next.plan.last, &next.target));
            gap + self.device.done(next.plan.last, &next.target.address)
        };
        let mut rows = self.rows_behind(item, target);
        let mut next = None;
        match item.effect {
            // Neither softmax nor mode settings pass it.
            Effect::Move => {
                let queue = &self.classes[MOVES];
                let of_epoch = queue.iter().take_while(|o| o.epoch == item.epoch);
                next = of_epoch.skip_while(|o| o.order <= item.order).find(|o| o.effect != Effect::Move);
            }
            Effect::Read | Effect::Write => {
                let bank = self.bank_set(Scope::Bank, &item.target);
                let elsewhere = |a: &QueuedRun| a.banks & bank != 0 && self.needs_other_row(a, &item.target);
                let mut array = self.classes[ARRAY].iter();
                rows += Cycle::from(array.any(|a| a.order > item.order && elsewhere(a)));
                let mut data = self.classes[DATA].iter();
                next = data.find(|o| o.order > item.order && o.request.addr == item.request.addr);
            }
            // Array work that comes after a MAC in its banks waits for it, as it does for a read or write.
            Effect::Mac if !self.classes[DATA].is_empty() => {
                let mut younger = self.classes[ARRAY].iter().filter(|a| a.order > item.order);
                let elsewhere = |a: &QueuedRun| a.banks & item.banks != 0 && self.needs_other_row(a, &item.target);
                rows += Cycle::from(younger.any(elsewhere));
            }
            _ => {}
        }
        let rest = done.max(next.map_or(0, after));
        match rows {
            0 => rest,
            _ => rest.max(lead.used + (rows - 1) * lead.cycle + lead.closed + done),
        }
    }

    /// Whether a younger request of more banks, which opens the row of `item` with them, has its result sooner that way
    /// than if `item` opened its row alone, and the other one all of them again.
    pub(super) fn opens_well(&self, item: &QueuedRun, wide: &QueuedRun) -> bool {
        if item.epoch == wide.epoch {
            return true;
        }
        let Some(opener) = wide.opener() else { return false };
        let (lead, lead_wide) = (self.lead_of(item), self.lead_of(wide));
        let done = self.device.done(item.plan.last, &item.target.address);
        let at_once = self.state.apart((opener, &wide.target, 0), (item.plan.last, &item.target));
        let alone = lead.opened + done.max(lead.used + lead_wide.closed);
        (at_once + done).max(lead_wide.opened) < alone
    }

    fn lead_of(&self, item: &QueuedRun) -> &Lead {
        &self.order_of.leads[item.request.op as usize]
    }

    /// Rows that the bank of a request, or a bank group, is yet to open after its own.
    pub(super) fn rows_behind(&self, item: &QueuedRun, target: &CommandTarget) -> Cycle {
        let rows = match item.effect {
            Effect::Read | Effect::Write => self.rows_of_data[item.target.bank() as usize],
            Effect::Open | Effect::Close | Effect::MacOpen => {
                self.rows_of_units[self.device.geometry.unit_of(&target.address) as usize]
            }
            _ => return 0,
        };
        Cycle::from(rows - u32::from(item.opens))
    }

    /// The round whose row commands begin at a place in the queue of array work.
    pub(super) fn round(&self, from: usize) -> MacRound {
        let (mut sets, mut place, mut macs) = ([0; 2], 0, false);
        for item in self.classes[ARRAY].range(from..) {
            if item.effect == Effect::Open && macs {
                (place, macs) = (place + 1, false);
            }
            let Some(set) = sets.get_mut(place) else { break };
            match item.effect {
                Effect::Open => {
                    *set |= 1u64.checked_shl(self.device.geometry.unit_of(&item.target.address)).unwrap_or(0)
                }
                Effect::MacOpen if place == 0 => *set |= item.units & !self.units.ready(),
                _ => {}
            }
            macs |= item.effect.multiplies();
        }
        let [opens, opens_next] = sets;
        let closed = |unit: &u32| !self.state.any_open(Scope::BankGroup, &self.unit_target(*unit, 0));
        let closed = members(if self.order_of.ranks_bind { opens } else { 0 }).filter(closed);
        MacRound { opens, opens_next, closed: closed.fold(0, |set, unit| set | 1 << unit) }
    }

    /// What a row command is weighed by among others that could issue at the same time for the same round; more is sooner. Where
    /// ranks keep openings apart: whether its rank has less to open at once, if it closes a row, and openings that the rank is
    /// yet to have in the round. Then whether its bank group opens another row for the next round, and rows that it is yet to
    /// open in all; and those of its rank.
    pub(super) fn urgency(
        &self,
        (item, c): (&QueuedRun, CommandId),
        target: &CommandTarget,
        round: &MacRound,
    ) -> Urgency {
        let g = &self.device.geometry;
        let (unit, behind) = (g.unit_of(&target.address), self.rows_behind(item, target));
        let again = round.opens_next.checked_shr(unit).unwrap_or(0) & 1 == 1;
        if !self.order_of.ranks_bind {
            return (Reverse(0), 0, again, behind, 0);
        }
        let first = unit / g.bank_groups * g.bank_groups;
        let of_rank =
            |set: u64| (set.checked_shr(first).unwrap_or(0) & !(u64::MAX << g.bank_groups.min(63))).count_ones();
        let closes = self.device.commands[usize::from(c)].effect.closes();
        let units = first as usize..(first + g.bank_groups) as usize;
        let in_all = self.rows_of_units[units].iter().sum();
        (Reverse(if closes { of_rank(round.closed) } else { 0 }), of_rank(round.opens), again, behind, in_all)
    }

    /// Counts the rows that a request opens, of a run each of its own, if it opens any that others of its bank need not.
    pub(super) fn count_in(&mut self, item: &QueuedRun) {
        let Request { addr, count, stride, .. } = item.request;
        for i in 0..if item.opens { u64::from(count) } else { 0 } {
            let target = self.state.target(self.device.geometry.decode(addr + i * u64::from(stride)));
            *self.rows_of(item.effect, &target) += 1;
        }
    }

    /// A request had its command while older ones wait for another row of its bank: these are not passed by for ever.
    pub(super) fn count_passed(&mut self, class: usize, index: usize) {
        let item = &self.classes[class][index];
        let (order, banks, target) = (item.order, item.banks, item.target);
        match class {
            DATA if !self.classes[ARRAY].is_empty() => {
                let bank = self.bank_set(Scope::Bank, &target);
                for i in 0..self.classes[ARRAY].len() {
                    let a = &self.classes[ARRAY][i];
                    if a.order < order && a.banks & bank != 0 && self.needs_other_row(a, &target) {
                        self.classes[ARRAY][i].passed = self.classes[ARRAY][i].passed.saturating_add(1);
                    }
                }
            }
            ARRAY => {
                for i in 0..self.classes[DATA].len() {
                    let d = &self.classes[DATA][i];
                    let waits = d.order < order && self.bank_set(Scope::Bank, &d.target) & banks != 0;
                    if waits && self.state.rows(Scope::Bank, &d.target) != RowMatch::Ready {
                        self.classes[DATA][i].passed = self.classes[DATA][i].passed.saturating_add(1);
                    }
                }
            }
            _ => {}
        }
    }

    /// The current request of an item is done: its row is no more to be opened.
    pub(super) fn count_out(&mut self, class: usize, index: usize) {
        let item = &self.classes[class][index];
        if item.opens {
            let (effect, target) = (item.effect, item.target);
            *self.rows_of(effect, &target) -= 1;
        }
    }

    /// A read or write has left: the oldest of its bank that is left opens no row after those of others.
    pub(super) fn count_oldest(&mut self, bank: u32) {
        if self.rows_of_data[bank as usize] == 0 {
            return;
        }
        let next = self.classes[DATA].iter_mut().find(|o| o.target.bank() == bank);
        if let Some(next) = next.filter(|n| n.opens) {
            next.opens = false;
            self.rows_of_data[bank as usize] -= 1;
        }
    }

    fn rows_of(&mut self, effect: Effect, target: &CommandTarget) -> &mut u32 {
        match effect {
            Effect::Read | Effect::Write => &mut self.rows_of_data[target.bank() as usize],
            _ => &mut self.rows_of_units[self.device.geometry.unit_of(&target.address) as usize],
        }
    }
}
