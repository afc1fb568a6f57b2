//! What every table reports of its rows: each measure once, with the number that it is of what was counted.

use super::account::{CAUSES, Cause, Time, apportion};
use super::energy::Energy;
use super::{Counters, RequestedWork};
use pimattn_core::columns;
use pimattn_core::op::Op;
use pimattn_core::spec::{Device, Effect, System};
use pimattn_core::table::{Measure, Value, item, joined, length, measure};
use pimattn_core::units::Cycle;

/// What was counted of the work that a row stands for.
pub(crate) struct RowCounts<'r> {
    pub counters: &'r Counters,
    pub time: &'r Time,
    /// What segments wanted and how long they took; phases do not have it.
    pub wanted: Option<(&'r RequestedWork, Cycle)>,
    pub cycles: Cycle,
    /// Channels among which the work could be spread.
    pub channels: u64,
    /// Of a run, the work of the fullest channel over the mean.
    pub imbalance_channels: Option<f64>,
}

/// What is measured of a row. What has no meaning in it is none.
#[derive(Debug, Clone, PartialEq)]
pub struct Measured {
    /// Commands and requests.
    pub counters: Counters,
    /// What segments wanted, where the trace says it.
    pub wanted: Option<RequestedWork>,
    /// Decode steps.
    pub steps: u64,
    /// Length of the row.
    pub cycles: Cycle,
    /// The same in ns.
    pub ns: f64,
    /// Cycles that segments took, summed.
    pub busy: Option<Cycle>,
    /// The row's cycles by cause; they add up to `cycles`.
    pub causes: [Cycle; CAUSES],
    /// Lower bound of the cycles.
    pub bound: Option<Cycle>,
    /// Energy by part.
    pub energy: Energy,
    /// Commands that opened rows.
    pub opens: u64,
    /// Rows that they opened, one per bank.
    pub activations: u64,
    /// Refresh commands.
    pub refreshes: u64,
    /// Share of the banks' time that these take.
    pub refresh_share: Option<f64>,
    /// Bytes that left open rows.
    pub bytes_fetched: u64,
    /// Unit-columns multiplied.
    pub slots: u64,
    /// Bank groups of a channel.
    pub units: u32,
    /// Of a run, the work of the fullest channel over the mean.
    pub imbalance_channels: Option<f64>,
}

/// `a / b`; none where b is 0.
pub(crate) fn over(a: f64, b: f64) -> Option<f64> {
    (b != 0.0).then_some(a / b)
}

/// Commands of some effects, and the banks that they acted on.
fn sum_of(counters: &Counters, device: &Device, which: impl Fn(Effect) -> bool) -> (u64, u64) {
    let ids = device.commands.iter().enumerate().filter(|(_, c)| which(c.effect)).map(|(i, _)| i);
    ids.fold((0, 0), |(n, banks), i| (n + counters.issued[i], banks + counters.banks[i]))
}

/// Cycles of the MACs of `slots` unit-columns, spread over all units of so many channels.
fn bound(device: &Device, slots: u64, channels: u64) -> Option<Cycle> {
    let g = &device.geometry;
    let columns_per_cycle = device.peak_bytes_per_cycle()? / f64::from(g.column_bytes);
    let command = &device.commands[usize::from(device.plans[Op::MacAb as usize]?.last)];
    let banks = u64::from(g.banks_per_channel() / command.passes);
    let gap = (banks as f64 / columns_per_cycle).round() as u64;
    Some((slots * u64::from(g.banks)).div_ceil(banks * channels * u64::from(device.heads_per_read)) * gap)
}

impl Measured {
    pub(crate) fn of(row: &RowCounts<'_>, system: &System) -> Measured {
        let (device, c) = (&system.device, row.counters);
        let g = &device.geometry;
        let channel_cycles = row.time.total() / u64::from(g.banks_per_channel());
        let (opens, activations) = sum_of(c, device, |e| e == Effect::Open);
        let (refreshes, _) = sum_of(c, device, |e| e == Effect::Refresh);
        let (_, mac_banks) = sum_of(c, device, |e| matches!(e, Effect::Mac | Effect::MacOpen));
        let (_, read_banks) = sum_of(c, device, |e| e == Effect::Read);
        // Bank-cycles; of commands for the whole channel, with nRFC.
        let refreshing = device.refreshes.iter().map(|(id, _)| {
            let banks = device.commands[usize::from(*id)].scope.banks(g);
            c.issued[usize::from(*id)] * device.refresh_cycles(*id) * u64::from(banks)
        });
        let refreshing: u64 = refreshing.sum();
        let wanted = row.wanted.map(|(w, _)| *w).filter(|w| w.segments > 0);
        Measured {
            counters: c.clone(),
            wanted,
            steps: row.wanted.map_or(1, |(w, _)| w.steps),
            cycles: row.cycles,
            ns: device.clock.ns(row.cycles),
            busy: row.wanted.map(|(_, busy)| busy),
            causes: apportion(row.time.spent(), row.cycles),
            bound: wanted.and_then(|w| bound(device, w.slots_used, row.channels)),
            energy: Energy::of(c, channel_cycles, device, system.energy),
            opens,
            activations,
            refreshes,
            refresh_share: over(refreshing as f64, channel_cycles as f64 * f64::from(g.banks_per_channel())),
            bytes_fetched: (mac_banks + read_banks) * u64::from(g.column_bytes),
            slots: (mac_banks + c.shared) / u64::from(g.banks),
            units: g.units(),
            imbalance_channels: row.imbalance_channels,
        }
    }

    fn wanted(&self, of: fn(&RequestedWork) -> u64) -> Value {
        self.wanted.as_ref().map(of).into()
    }

    fn wanted_over(&self, of: impl Fn(&RequestedWork) -> (f64, f64)) -> Value {
        self.wanted.as_ref().map(of).map_or(Value::Unknown, |(a, b)| Value::ratio(a, b))
    }
}

fn pj(x: f64) -> Value {
    Value::Float(x, 1)
}

fn share(x: Option<f64>) -> Value {
    x.map_or(Value::Unknown, |x| Value::Float(x, 6))
}

const LENGTH: &[Measure<Measured>] = &[
    measure(columns::STEPS, "1", "decode steps in the row (0 for traces without segments)", |r| r.steps.into()),
    measure(
        columns::CYCLES,
        "tCK",
        "length: of the run, also for a channel; of a step the cycles that channels spent on it, waits included, mean over channels (from sync to sync where syncs part steps), of a phase likewise; of a head the cycles that its channel spent on it and nothing else",
        |r| r.cycles.into(),
    ),
    measure(columns::TIME_NS, "ns", "cycles in time", |r| Value::Float(r.ns, 3)),
    measure(
        columns::BUSY_CYCLES,
        "tCK",
        "from a segment's first command to its last result, summed over the row's segments, which may overlap (a channel without segments: until its last result)",
        |r| r.busy.into(),
    ),
];

const BY_CAUSE: [Measure<Measured>; CAUSES] = {
    const fn of(cause: Cause) -> Measure<Measured> {
        item(cause.column(), cause as usize, |r: &Measured, i| r.causes[i].into())
    }
    let mut out = [of(Cause::ALL[0]); CAUSES];
    let mut i = 1;
    while i < CAUSES {
        out[i] = of(Cause::ALL[i]);
        i += 1;
    }
    out
};

const COST: &[Measure<Measured>] = &[
    measure(
        columns::BOUND_CYCLES,
        "tCK",
        "lower bound at perfect balance: the MACs of mac_slots_used spread over all units of all channels (heads, channels: of one), at the rate of PIM_MAC_AB",
        |r| r.bound.into(),
    ),
    measure(columns::ENERGY_PJ, "pJ", "sum of the energy parts", |r| pj(r.energy.total())),
    measure(columns::ENERGY_ACTIVATION_PJ, "pJ", "row activations with their precharges", |r| pj(r.energy.activation)),
    measure(columns::ENERGY_COLUMN_PJ, "pJ", "column accesses, cell to column decoder", |r| pj(r.energy.column)),
    measure(columns::ENERGY_MOVEMENT_PJ, "pJ", "wires beyond the column decoder", |r| pj(r.energy.movement)),
    measure(columns::ENERGY_COMPUTE_PJ, "pJ", "multiply-accumulate units and buffers", |r| pj(r.energy.compute)),
    measure(columns::ENERGY_REFRESH_PJ, "pJ", "refresh", |r| pj(r.energy.refresh)),
    measure(
        columns::ENERGY_BACKGROUND_PJ,
        "pJ",
        "standing power over the cycles of all channels that the row stands for",
        |r| pj(r.energy.background),
    ),
    measure(columns::ACTIVATIONS, "1", "rows opened, one per bank", |r| r.activations.into()),
    measure("activate_commands", "1", "commands that opened rows", |r| r.opens.into()),
    measure("row_hits", "1", "requests that needed a row and found it open", |r| r.counters.hits.into()),
    measure("row_misses", "1", "requests that found their banks closed", |r| r.counters.misses.into()),
    measure("row_conflicts", "1", "requests that found another row open", |r| r.counters.conflicts.into()),
    measure("refreshes", "1", "refresh commands", |r| r.refreshes.into()),
    measure(
        "refresh_share",
        "1",
        "refresh commands x cycles that each takes x banks that it reaches, over cycles x channels x banks",
        |r| share(r.refresh_share),
    ),
    measure(
        "latency_mean",
        "tCK",
        "LD: from its arrival to its data, mean; only where the system has an issue_interval or the trace arrivals",
        |r| Value::ratio(r.counters.read_latency as f64, r.counters.timed_reads as f64),
    ),
    measure("latency_max", "tCK", "LD: from its arrival to its data, longest", |r| {
        (r.counters.timed_reads > 0).then_some(r.counters.longest_read).into()
    }),
];

const BY_REQUEST: [Measure<Measured>; columns::REQUESTS.len()] = {
    const fn of(i: usize) -> Measure<Measured> {
        let (op, column) = columns::REQUESTS[i];
        item(column, op as usize, |r: &Measured, op| r.counters.requests[op].into())
    }
    let mut out = [of(0); columns::REQUESTS.len()];
    let mut i = 1;
    while i < out.len() {
        out[i] = of(i);
        i += 1;
    }
    out
};

const WORK: &[Measure<Measured>] = &[
    measure(
        columns::SELECTED_TOKENS,
        "tokens",
        "tokens selected, summed over query heads, heads, layers and steps of the row",
        |r| r.wanted(|w| w.selected),
    ),
    measure(
        columns::DISTINCT_TOKENS,
        "tokens",
        "tokens selected by at least one query head of their group, summed likewise",
        |r| r.wanted(|w| w.distinct),
    ),
    measure(
        columns::ROW_BLOCKS,
        "1",
        "row-blocks of K touched by a group (one row of one unit), summed likewise",
        |r| r.wanted(|w| w.row_blocks),
    ),
    measure(
        columns::ROW_TOKENS,
        "tokens",
        "tokens whose keys lie in those row-blocks, wanted or not; places that alignment leaves empty, or that nothing is written to yet, hold none",
        |r| r.wanted(|w| w.row_tokens),
    ),
    measure(columns::BYTES_USEFUL, "B", "bytes of K and V of the distinct tokens", |r| r.wanted(|w| w.bytes_useful)),
    measure(columns::KV_HEADS, "1", "KV heads that attended, summed over layers and steps of the row", |r| {
        r.wanted(|w| w.kv_heads)
    }),
    measure(columns::QUERY_HEADS, "1", "query heads that attended, summed likewise", |r| r.wanted(|w| w.query_heads)),
    measure(
        columns::EXTENTS,
        "1",
        "stretches without a gap of the distinct tokens, in the order in which the policy has them in memory: the pieces in which keys, or values, can be gathered; summed over KV heads likewise",
        |r| r.wanted(|w| w.extents),
    ),
    measure(
        columns::BYTES_SCANNED,
        "B",
        "bytes that the policy reads to choose, each once for the query heads of a group, whatever a device fetches for it",
        |r| r.wanted(|w| w.bytes_scanned),
    ),
    measure(
        columns::BYTES_UPKEEP,
        "B",
        "bytes read and written to keep the cache as the policy has it: new keys and values, what the policy keeps to choose by, keys that are clustered (once), keys and values that move",
        |r| r.wanted(|w| w.bytes_upkeep),
    ),
    measure(
        columns::BYTES_FETCHED,
        "B",
        "bytes that MACs and reads took from open rows; what is written is not fetched",
        |r| r.bytes_fetched.into(),
    ),
    measure("mac_slots_used", "1", "unit-columns multiplied for a token that the query head selected", |r| {
        r.wanted(|w| w.slots_used)
    }),
    measure("mac_slots_issued", "1", "unit-columns multiplied (a unit is one bank group)", |r| r.slots.into()),
    measure(columns::MAC_UTILISATION, "1", "mac_slots_used / mac_slots_issued", |r| {
        r.wanted_over(|w| (w.slots_used as f64, r.slots as f64))
    }),
    measure(
        columns::IMBALANCE_UNITS,
        "1",
        "row-blocks of the fullest unit over the mean of all units, weighted by row-blocks",
        |r| r.wanted_over(|w| (w.fullest_unit as f64 * f64::from(r.units), w.row_blocks as f64)),
    ),
    measure(
        columns::IMBALANCE_CHANNELS,
        "1",
        "work of the channel that has most over the mean of all channels (run only): MACs, reads and writes, each by the cycles until the next like it may come",
        |r| share(r.imbalance_channels),
    ),
];

const LISTS: &[&[Measure<Measured>]] = &[LENGTH, &BY_CAUSE, COST, &BY_REQUEST, WORK];

/// What every table reports of its rows.
pub const MEASURES: &[Measure<Measured>] = &joined::<_, { length(LISTS) }>(LISTS);

#[cfg(test)]
mod tests {
    use super::*;

    /// A row of which every number is another.
    fn measured() -> Measured {
        let mut counters = Counters { hits: 22, misses: 23, conflicts: 24, ..Counters::default() };
        (counters.timed_reads, counters.read_latency, counters.longest_read) = (4, 110, 29);
        let ops = [Op::Ld, Op::St, Op::MacAb, Op::MacSb, Op::MacPb, Op::MacBg];
        let others = [Op::ActBg, Op::PreBg, Op::WrGb, Op::MvSb, Op::MvGb, Op::Sfm];
        (30..).zip(ops.into_iter().chain(others)).for_each(|(n, op)| counters.requests[op as usize] = n);
        let mut wanted = RequestedWork::default();
        (wanted.segments, wanted.selected, wanted.distinct, wanted.bytes_useful) = (1, 42, 43, 46);
        (wanted.row_blocks, wanted.row_tokens) = (44, 45);
        (wanted.slots_used, wanted.fullest_unit) = (48, 11);
        (wanted.kv_heads, wanted.query_heads, wanted.extents) = (53, 54, 55);
        (wanted.bytes_scanned, wanted.bytes_upkeep) = (56, 57);
        Measured {
            counters,
            wanted: Some(wanted),
            steps: 1,
            cycles: 2,
            ns: 3.5,
            busy: Some(4),
            causes: [5, 6, 7, 8, 9, 10, 11, 12],
            bound: Some(13),
            energy: Energy {
                activation: 15.0,
                column: 16.0,
                movement: 17.0,
                compute: 18.0,
                refresh: 19.0,
                background: 20.0,
            },
            opens: 21,
            activations: 210,
            refreshes: 25,
            refresh_share: Some(0.26),
            bytes_fetched: 47,
            slots: 96,
            units: 8,
            imbalance_channels: Some(1.52),
        }
    }

    fn cells(row: &Measured) -> String {
        let cells = MEASURES.iter().map(|m| format!("{}={}", m.column.name, m.value(row)));
        cells.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn every_measure_has_its_own_value() {
        let want = "steps=1 cycles=2 time_ns=3.500 busy_cycles=4 \
            time_mac=5 time_row_switch=6 time_imbalance_units=7 time_imbalance_channels=8 time_data_movement=9 \
            time_softmax=10 time_refresh=11 time_stall=12 \
            bound_cycles=13 energy_pj=105.0 energy_activation_pj=15.0 energy_column_pj=16.0 energy_movement_pj=17.0 \
            energy_compute_pj=18.0 energy_refresh_pj=19.0 energy_background_pj=20.0 \
            activations=210 activate_commands=21 row_hits=22 row_misses=23 row_conflicts=24 \
            refreshes=25 refresh_share=0.260000 latency_mean=27.500000 latency_max=29 \
            req_rd=30 req_wr=31 req_mac_ab=32 req_mac_sb=33 req_mac_pb=34 req_mac_bg=35 req_act_bg=36 req_pre_bg=37 \
            req_wr_gb=38 req_mv_sb=39 req_mv_gb=40 req_sfm=41 \
            selected_tokens=42 distinct_tokens=43 row_blocks=44 row_tokens=45 bytes_useful=46 kv_heads=53 \
            query_heads=54 extents=55 bytes_scanned=56 bytes_upkeep=57 bytes_fetched=47 \
            mac_slots_used=48 mac_slots_issued=96 mac_utilisation=0.500000 imbalance_units=2.000000 \
            imbalance_channels=1.520000";
        let cells = cells(&measured());
        let missing: Vec<_> = want.split(' ').filter(|cell| !cells.split(' ').any(|c| c == *cell)).collect();
        assert!(missing.is_empty(), "{missing:?} of {cells}");
    }

    #[test]
    fn what_is_not_known_leaves_its_cells_empty() {
        let mut row = Measured { wanted: None, busy: None, bound: None, refresh_share: None, ..measured() };
        (row.imbalance_channels, row.counters.timed_reads) = (None, 0);
        let all = cells(&row);
        let empty: Vec<_> = all.split(' ').filter_map(|cell| cell.strip_suffix('=')).collect();
        let wanted = ["selected_tokens", "distinct_tokens", "row_blocks", "row_tokens", "bytes_useful"];
        let of_wanted = ["mac_slots_used", "mac_utilisation", "imbalance_units", "imbalance_channels"];
        let others = ["busy_cycles", "bound_cycles", "refresh_share", "latency_mean", "latency_max"];
        let unknown = [&others[..], &wanted[..], &of_wanted[..]].concat();
        assert!(unknown.iter().all(|name| empty.contains(name)), "{empty:?}");
        assert!(
            ["cycles", "energy_pj", "activations", "row_hits"].iter().all(|name| !empty.contains(name)),
            "{empty:?}"
        );
    }

    #[test]
    fn causes_are_numbered_in_the_order_of_their_list() {
        assert!(Cause::ALL.iter().enumerate().all(|(i, cause)| *cause as usize == i));
    }
}
