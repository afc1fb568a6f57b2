//! Divides the touched rows of a matrix into rounds, and estimates how long the rounds take.
//!
//! A round is the set of cells that are open at the same time: the same row in all banks ([`Opening::All`]), or a row of
//! its own in each unit that has one left ([`Opening::Own`]). An all-bank round costs one activation, but units that do not
//! want the row multiply for nothing. In a round of own rows every unit works on a row that it wants, but the units
//! activate one after the other. They hide part of that: a unit whose last wanted place has been multiplied precharges and
//! activates its row of the next round while the other units still multiply.
//!
//! So a row is cheaper in all banks if most units touch it. [`Rounds::quickest`] sorts the rows by the number of units
//! that touch them and compares a few lists: the first n rows in all banks, the rest unit by unit. [`RoundTiming`] estimates the
//! cycles of each list from the device's timing, and the quickest list is taken.

use super::heads;
use super::sweep::{TouchedRow, TouchedRows};
use pimattn_core::op::Op;
use pimattn_core::spec::{CommandId, Device, Level};
use pimattn_core::units::Cycle;
use std::ops::Range;

/// How a round activates its rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opening {
    /// The same row in all banks, by one command.
    All,
    /// A row of its own in each unit that has a cell.
    Own,
}

/// Cells that are open at the same time.
#[derive(Debug, Clone, Copy)]
pub struct Round<'a> {
    /// How they are opened.
    pub opening: Opening,
    /// The cells, by unit.
    pub cells: &'a [TouchedRow],
}

/// A list of rounds, in the order in which they are multiplied.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rounds {
    cells: Vec<TouchedRow>,
    /// Of each round, how it opens, and the end of its cells in `cells`.
    ends: Vec<(Opening, usize)>,
}

impl Rounds {
    /// The rounds.
    pub fn iter(&self) -> impl Iterator<Item = Round<'_>> {
        self.ends.iter().enumerate().map(|(i, (opening, end))| {
            let begin = if i == 0 { 0 } else { self.ends[i - 1].1 };
            Round { opening: *opening, cells: &self.cells[begin..*end] }
        })
    }

    fn push(&mut self, opening: Opening, cells: impl Iterator<Item = TouchedRow>) {
        self.cells.extend(cells);
        self.ends.push((opening, self.cells.len()));
    }

    /// One all-bank round for each touched row; `cells` are in order of row.
    pub fn broadcast(cells: &[TouchedRow]) -> Self {
        let mut out = Rounds::default();
        cells.chunk_by(|a, b| a.row == b.row).for_each(|row| out.push(Opening::All, row.iter().copied()));
        out
    }

    /// First an all-bank round for each row for which `all` holds. Then rounds of own rows: the r-th of them has the r-th
    /// remaining cell of each unit. `cells` are in order of row.
    fn mixed(cells: &[TouchedRow], units: u32, all: impl Fn(u32) -> bool) -> Self {
        let mut out = Rounds::default();
        let mut own: Vec<Vec<TouchedRow>> = vec![Vec::new(); units as usize];
        for row in cells.chunk_by(|a, b| a.row == b.row) {
            if all(row[0].row) {
                out.push(Opening::All, row.iter().copied());
            } else {
                row.iter().for_each(|c| own[(c.unit % units) as usize].push(*c));
            }
        }
        let most = own.iter().map(Vec::len).max().unwrap_or(0);
        (0..most).for_each(|r| out.push(Opening::Own, own.iter().filter_map(|cells| cells.get(r)).copied()));
        out
    }

    /// The quickest of several lists of rounds. Each list opens the rows that most units touch in all banks, and the others
    /// unit by unit; the lists differ in how many rows they open in all banks. `cells` are in order of row.
    pub fn quickest(
        cells: &[TouchedRow],
        sweep: &TouchedRows,
        units: u32,
        work: &RoundWork,
        pace: &RoundTiming,
    ) -> Self {
        let mut rows: Vec<(usize, u32)> =
            cells.chunk_by(|a, b| a.row == b.row).map(|row| (row.len(), row[0].row)).collect();
        rows.sort_by_key(|(cells, row)| (std::cmp::Reverse(*cells), *row));
        // The numbers of rows to open in all banks: none, all, and a few steps in between.
        let mut shares: Vec<usize> = (0..=SHARES).map(|i| rows.len() * i / SHARES).collect();
        shares.dedup();
        let list = |n: usize| {
            let mut wide: Vec<u32> = rows[..n].iter().map(|(_, row)| *row).collect();
            wide.sort_unstable();
            Rounds::mixed(cells, units, |row| wide.binary_search(&row).is_ok())
        };
        // `min_by_key` keeps the first of equal lists: the one with fewer rows in all banks.
        let best = shares.into_iter().map(list).min_by_key(|rounds| pace.cycles(rounds, sweep, units, work));
        best.unwrap_or_default()
    }
}

/// Steps from no row to every row in all banks; one more list than steps is compared.
const SHARES: usize = 8;

/// What is multiplied in a round.
#[derive(Debug, Clone, Copy)]
pub struct RoundWork {
    /// Whether places that no unit wants are left out.
    pub skip_columns: bool,
    /// Columns of a place, all stripes of a row together.
    pub columns: u32,
    /// Stripes of a row, each multiplied after the one before.
    pub stripes: u32,
    /// Query heads for which a unit multiplies a column that it reads once.
    pub heads_per_read: usize,
}

impl RoundWork {
    /// The query heads in lots: those of a lot share the reads of a column.
    pub fn lots(&self, sweep: &TouchedRows) -> impl Iterator<Item = Range<usize>> + use<> {
        heads::lots(sweep.heads(), self.heads_per_read)
    }

    /// The places of a round that are read for a lot of query heads, the same in all units.
    pub fn read(&self, sweep: &TouchedRows, cells: &[TouchedRow], lot: Range<usize>) -> u64 {
        lot.fold(0, |all, head| all | self.places(sweep, cells, head))
    }

    /// The places of a round that are multiplied for a query head: those that any unit wants, since the units multiply the
    /// same columns.
    pub fn places(&self, sweep: &TouchedRows, cells: &[TouchedRow], head: usize) -> u64 {
        let any = cells.iter().fold(0, |all, c| all | sweep.mask(*c, head));
        match self.skip_columns || any == 0 {
            true => any,
            false => u64::MAX >> (64 - sweep.per_row()),
        }
    }

    /// The last lot of query heads that wants anything of a cell, and the last place that this lot wants: after it the unit
    /// can close. None if the cell stays open to the end of its round.
    pub fn last(&self, sweep: &TouchedRows, cell: TouchedRow) -> Option<(usize, u32)> {
        let head = (0..sweep.heads()).rev().find(|h| sweep.mask(cell, *h) != 0)?;
        let lot = head / self.heads_per_read;
        let places = (lot * self.heads_per_read..=head).fold(0, |all, h| all | sweep.mask(cell, h));
        self.skip_columns.then(|| (lot, places.ilog2()))
    }
}

/// Cycles between the commands of a row change, for one kind of opening.
#[derive(Debug, Clone, Copy, Default)]
struct RowSwitch {
    /// From a MAC to the precharge of its row.
    close: Cycle,
    /// From a precharge to the next activation.
    open: Cycle,
    /// From an activation to a MAC.
    multiply: Cycle,
    /// From an activation to the precharge of the row, and (`cycle`) to another activation of the bank.
    least_open: Cycle,
    cycle: Cycle,
    /// At most `burst` activations of a rank in `window` cycles.
    burst: usize,
    window: Cycle,
}

/// The last activations of a rank, against tRRD and tFAW.
#[derive(Clone, Copy, Default)]
struct ActivationWindow {
    /// The cycle from which each activation no longer counts, the latest activation first.
    until: [Cycle; BURST],
}

/// Activations that are remembered; a window that allows more is treated as no limit.
const BURST: usize = 4;

impl ActivationWindow {
    /// The first cycle at which the window allows another activation.
    fn ready(&self, switch: &RowSwitch) -> Cycle {
        if switch.burst > BURST { 0 } else { self.until[switch.burst - 1] }
    }

    fn open(&mut self, at: Cycle, switch: &RowSwitch) {
        self.until.rotate_right(1);
        self.until[0] = at + switch.window;
    }
}

/// The timing of a device from which the cycles of rounds are estimated.
#[derive(Debug, Clone, Copy)]
pub struct RoundTiming {
    all: RowSwitch,
    own: Option<RowSwitch>,
    /// Cycles between two activations on the bus, and between two MACs.
    openings: Cycle,
    macs: Cycle,
    units_per_rank: u32,
}

/// Most units of a channel.
const UNITS: usize = 64;

impl RoundTiming {
    /// The timing of a device; none if it has no all-bank MAC.
    pub fn of(device: &Device) -> Option<Self> {
        let latency = |from: CommandId, to: CommandId, levels: &[Level]| {
            let edges = device.commands[usize::from(from)].edges.iter();
            let edges = edges.filter(|e| e.to == to && (levels.is_empty() || levels.contains(&e.level)));
            edges.map(|e| Cycle::from(e.latency)).max().unwrap_or(1)
        };
        let switch = |op: Op| {
            let plan = device.plans[op as usize]?;
            let (open, close) = (plan.opener?, plan.closer?);
            let opener = &device.commands[usize::from(open)];
            // An activation that takes more places than a window has needs several windows.
            let held = opener.held_by.iter().map(|w| &device.windows[usize::from(*w)]);
            let per_rank = latency(open, open, &[Level::Rank]);
            let windows = held.map(|w| {
                let burst = (w.count / w.places(opener)).max(1) as usize;
                (burst, Cycle::from(w.latency * w.places(opener).div_ceil(w.count)))
            });
            let pace = |(burst, window): &(usize, Cycle)| window / *burst as Cycle;
            // Under `stagger` an activation of many banks holds back the next one of its rank by an edge. The window or the
            // edge that allows the fewest activations per cycle binds.
            let (burst, window) = windows.chain([(1, per_rank)]).max_by_key(pace).unwrap_or((1, per_rank));
            Some(RowSwitch {
                close: latency(plan.last, close, &[]),
                open: latency(close, open, &[]),
                multiply: latency(open, plan.last, &[]),
                least_open: latency(open, close, &[]),
                cycle: latency(open, open, &[]),
                burst,
                window,
            })
        };
        let mac = device.plans[Op::MacAb as usize]?;
        let own = device.plans[Op::MacBg as usize].and_then(|p| p.opener);
        let between = |id: CommandId| latency(id, id, &[Level::Channel]);
        let g = &device.geometry;
        Some(RoundTiming {
            all: switch(Op::MacAb)?,
            own: switch(Op::MacBg),
            openings: own.map_or(1, between),
            macs: latency(mac.last, mac.last, &[]) * Cycle::from(device.commands[usize::from(mac.last)].passes),
            units_per_rank: g.bank_groups,
        })
    }

    /// Whether units can open rows of their own.
    pub fn has_own_rows(&self) -> bool {
        self.own.is_some()
    }

    /// Estimated cycles from the first activation to the end of the last MAC. The estimate plays the rounds through with the
    /// constraints, the row bus and the activation window, and leaves out refresh and moves.
    ///
    /// A round's rows activate as early as their units are free and the bus and the window allow. Its MACs begin when all of
    /// its rows are open and the MACs of the round before have ended. Each unit is used until the last MAC that it wants; from
    /// there on it can precharge for a later round.
    pub fn cycles(&self, rounds: &Rounds, sweep: &TouchedRows, units: u32, work: &RoundWork) -> Cycle {
        let own = self.own.unwrap_or(self.all);
        // Of each unit: its last MAC, its last activation, and whether a row is open.
        let (mut used, mut opened, mut is_open) = ([0; UNITS], [None::<Cycle>; UNITS], [false; UNITS]);
        let mut supply = [ActivationWindow::default(); UNITS];
        // The cycles from which the row bus is free, and from which the next MAC may come.
        let (mut bus, mut next) = (0, 0);
        for round in rounds.iter() {
            let mut ready = next;
            let switch = if round.opening == Opening::All { self.all } else { own };
            let units_of = |c: &TouchedRow| (c.unit % units) as usize;
            // The first cycle at which a unit may activate another row: after tRAS, the precharge and tRP if a row is open,
            // and in any case after tRC.
            let free = |unit: usize, used: &[Cycle; UNITS], opened: &[Option<Cycle>; UNITS], is_open: bool| {
                let since = opened[unit].unwrap_or(0);
                let closing = if is_open { (used[unit] + switch.close).max(since + switch.least_open) } else { 0 };
                let again = opened[unit].map_or(0, |at| at + switch.cycle);
                if is_open { (closing + switch.open).max(again) } else { again }
            };
            match round.opening {
                Opening::All => {
                    let all = (0..units as usize).map(|u| free(u, &used, &opened, is_open[u])).max().unwrap_or(0);
                    let ranks = (units / self.units_per_rank).max(1) as usize;
                    let at = all.max(bus).max(supply[..ranks].iter().map(|s| s.ready(&switch)).max().unwrap_or(0));
                    supply[..ranks].iter_mut().for_each(|s| s.open(at, &switch));
                    (bus, ready) = (at + self.openings, ready.max(at + switch.multiply));
                    opened[..units as usize].fill(Some(at));
                    is_open[..units as usize].fill(true);
                }
                Opening::Own => {
                    // The units activate in the order in which they become free.
                    let mut order: [(Cycle, usize); UNITS] = [(0, 0); UNITS];
                    let n = round.cells.len();
                    for (slot, cell) in order.iter_mut().zip(round.cells) {
                        let unit = units_of(cell);
                        *slot = (free(unit, &used, &opened, is_open[unit]), unit);
                    }
                    order[..n].sort_unstable();
                    for (free, unit) in &order[..n] {
                        let rank = *unit / self.units_per_rank as usize;
                        let at = (*free).max(bus).max(supply[rank].ready(&switch));
                        supply[rank].open(at, &switch);
                        (bus, ready) = (at + self.openings, ready.max(at + switch.multiply));
                        (opened[*unit], is_open[*unit]) = (Some(at), true);
                    }
                }
            }
            // MACs of the round so far, and of each unit that leaves early, the MACs until it does.
            let mut done = 0u64;
            let mut ends = [0u64; UNITS];
            for (number, lot) in work.lots(sweep).enumerate() {
                let places = work.read(sweep, round.cells, lot);
                for cell in round.cells {
                    if let Some((last, place)) = work.last(sweep, *cell)
                        && last == number
                    {
                        let upto = (places & (u64::MAX >> (63 - place))).count_ones();
                        let before = places.count_ones() * (work.stripes - 1);
                        ends[units_of(cell)] = done + u64::from((before + upto) * work.columns / work.stripes);
                    }
                }
                done += u64::from(places.count_ones() * work.columns);
            }
            for cell in round.cells {
                let unit = units_of(cell);
                let own = round.opening == Opening::Own && ends[unit] > 0;
                let macs = if own { ends[unit] } else { done };
                used[unit] = ready + macs.saturating_sub(1) * self.macs;
            }
            let last = ready + done.saturating_sub(1) * self.macs;
            if round.opening == Opening::All {
                used[..units as usize].fill(last);
            }
            next = last + self.macs;
        }
        next
    }
}
