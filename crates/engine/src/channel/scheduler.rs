//! The order of reads and writes: a seam of the controller.
//!
//! First-ready goes before any order: of the requests that may have a command ([`super::data`] says which), the one whose
//! command can issue soonest is taken. A [`DataOrder`] decides among those that can issue in the same cycle.
//!
//! To add an order: a file beside this one with its [`DataOrder`], a name for it in [`IssueOrder`] (the key `scheduler.order` of
//! a system), and its line in [`DataOrder::of`]. What an order has to remember belongs to [`DataSchedule`], which the replay
//! of recurring work compares and moves in time with the rest of a channel's state.

use super::data::DataSchedule;
use super::queues::QueuedRun;
use super::{DATA, PimChannel};
use crate::state::RowMatch;
use pimattn_core::spec::system::IssueOrder;

/// An order of reads and writes. Constants, resolved once for a channel; no command pays for what an order does not use.
pub(super) struct DataOrder {
    /// The rank of a request: the lowest goes first, of equal ones the oldest. None where the oldest always goes first,
    /// which lets the search along the queue end early.
    pub(super) rank: Option<fn(&DataSchedule, &QueuedRun) -> u32>,
    /// Whether reads and writes are weighed against each other while few wait ([`super::order`]).
    pub(super) weighs: bool,
}

/// The oldest request goes first.
const OLDEST: DataOrder = DataOrder { rank: None, weighs: false };

/// The bank that comes next after that of the last command goes first.
const BANKS_IN_TURN: DataOrder = DataOrder { rank: Some(banks_ahead), weighs: false };

/// Whichever makes the last result of all sooner goes first, while few requests wait; else the oldest.
const WEIGHED: DataOrder = DataOrder { rank: None, weighs: true };

impl DataOrder {
    /// The order that a system asks for.
    pub(super) fn of(order: IssueOrder) -> &'static DataOrder {
        match order {
            IssueOrder::Oldest => &OLDEST,
            IssueOrder::BanksInTurn => &BANKS_IN_TURN,
            IssueOrder::Weighed => &WEIGHED,
        }
    }
}

/// Banks between that of the last command and that of a request, in turn.
fn banks_ahead(schedule: &DataSchedule, item: &QueuedRun) -> u32 {
    (item.target.bank() + schedule.banks - 1 - schedule.last_bank) % schedule.banks
}

impl PimChannel<'_> {
    /// Which of two requests that can issue in the same cycle goes first: the lower. On a shared bus, column commands go
    /// before openings, and those before closings; then the order decides. Where requests leave their queue once a row is
    /// opened for them, those go before others.
    pub(super) fn place(&self, item: &QueuedRun, rows: RowMatch) -> (u32, u32) {
        let rules = self.schedule.rules();
        let kind = match rows {
            RowMatch::Ready => 0,
            RowMatch::Closed => 1,
            RowMatch::Conflict => 2,
        };
        let turn = match self.policies.order.rank {
            Some(rank) => rank(&self.schedule, item),
            None => u32::from(rules.opened_leave && !item.data.opened),
        };
        (if rules.one_bus { kind } else { 0 }, turn)
    }

    /// Makes the bank that comes next lose its turn, if it would have a command in the clock of the last one and for the same
    /// bus.
    pub(super) fn lose_turn(&mut self) {
        let Some((at, bus, asks @ true)) = &mut self.schedule.asks else { return };
        *asks = false;
        let (at, bus) = (*at, *bus);
        let free = std::mem::replace(&mut self.bus_free[bus], at);
        let next = self.first_ready(None).into_iter().flatten().min_by_key(|c| c.at).filter(|c| c.at == at);
        self.bus_free[bus] = free;
        if let Some(c) = next.filter(|c| self.bus(self.device.commands[usize::from(c.command)].bus) == bus) {
            self.schedule.last_bank = self.classes[DATA][c.index].target.bank();
            self.last[DATA] = at + 1;
        }
    }
}
