//! The tables of a run: their columns, and their rows from what was counted.

use super::account::{CAUSES, Time, apportion};
use super::books::{PARTS, Part, Parts, WAITING};
use super::energy::Energy;
use super::{Account, Collector, Counters, Step, Wanted};
use pimattn_core::op::Op;
use pimattn_core::spec::{Device, Effect, System};
use pimattn_core::table::{Column, Value, column, markdown as markdown_of};
use pimattn_core::units::Cycle;
use pimattn_trace::Phase;

/// Columns that say which run a row is of; first in every table.
pub const RUN_KEYS: &[Column] = &[
    column("trace", "-", "the trace file, as named on the command line"),
    column("system", "-", "name of the system file's system"),
    column("device", "-", "device, organisation and timing preset"),
];

/// Key columns of `steps.csv`.
pub const STEP_KEYS: &[Column] =
    &[column("step", "1", "decode step, from 0"), column("position", "tokens", "index of the token that is decoded")];

/// Key columns of `phases.csv`.
pub const PHASE_KEYS: &[Column] = &[
    STEP_KEYS[0],
    STEP_KEYS[1],
    column(
        "phase",
        "-",
        "what for: append, cluster, remap, select, attend-score, softmax, attend-context; other where the trace does not say, and for refreshes; waiting for channels that wait for others, and their refreshes meanwhile",
    ),
];

/// Key columns of `heads.csv`.
pub const HEAD_KEYS: &[Column] = &[
    column("request", "1", "request within the batch"),
    column("layer", "1", "layer of the model"),
    column("kv_head", "1", "KV head within the layer"),
];

/// Key columns of `channels.csv`.
pub const CHANNEL_KEYS: &[Column] = &[column("channel", "1", "channel of the system")];

/// What every table reports of its rows.
pub const MEASURES: &[Column] = &[
    column("steps", "1", "decode steps in the row (0 for traces without segments)"),
    column(
        "cycles",
        "tCK",
        "length: of the run, also for a channel; of a step the cycles that channels spent on it, waits included, mean over channels (from sync to sync where syncs part steps), of a phase likewise; of a head the cycles that its channel spent on it and nothing else",
    ),
    column("time_ns", "ns", "cycles in time"),
    column(
        "busy_cycles",
        "tCK",
        "from a segment's first command to its last result, summed over the row's segments, which may overlap (a channel without segments: until its last result)",
    ),
    column(
        "time_mac",
        "tCK",
        "MAC bound: a MAC in progress, by the share of banks that multiply; with the columns down to time_stall it adds up to cycles",
    ),
    column(
        "time_row_switch",
        "tCK",
        "rows closing and opening (or waiting for their turn to) and no MAC, move, softmax or refresh in progress; before a MAC by the share of banks that it is for",
    ),
    column("time_imbalance_units", "tCK", "banks that idle in the two above: units with nothing open for PIM_MAC_BG"),
    column(
        "time_imbalance_channels",
        "tCK",
        "waiting for other channels at a sync or at the end, whatever else goes on",
    ),
    column(
        "time_data_movement",
        "tCK",
        "buffer moves, reads and writes in progress, or data on its way that nothing passes",
    ),
    column("time_softmax", "tCK", "softmax in progress"),
    column(
        "time_refresh",
        "tCK",
        "refresh of all banks, with the closing of rows that it demands; of a part of them where nothing else is in progress or on its way",
    ),
    column(
        "time_stall",
        "tCK",
        "nothing in progress: waiting for results, for arrivals, or for the host, whatever else goes on",
    ),
    column(
        "bound_cycles",
        "tCK",
        "lower bound at perfect balance: the MACs of mac_slots_used spread over all units of all channels (heads, channels: of one), at the rate of PIM_MAC_AB",
    ),
    column("energy_pj", "pJ", "sum of the energy parts"),
    column("energy_activation_pj", "pJ", "row activations with their precharges"),
    column("energy_column_pj", "pJ", "column accesses, cell to column decoder"),
    column("energy_movement_pj", "pJ", "wires beyond the column decoder"),
    column("energy_compute_pj", "pJ", "multiply-accumulate units and buffers"),
    column("energy_refresh_pj", "pJ", "refresh"),
    column("energy_background_pj", "pJ", "standing power over the cycles of all channels that the row stands for"),
    column("activations", "1", "rows opened, one per bank"),
    column("activate_commands", "1", "commands that opened rows"),
    column("row_hits", "1", "requests that needed a row and found it open"),
    column("row_misses", "1", "requests that found their banks closed"),
    column("row_conflicts", "1", "requests that found another row open"),
    column("refreshes", "1", "refresh commands"),
    column(
        "refresh_share",
        "1",
        "refresh commands x cycles that each takes x banks that it reaches, over cycles x channels x banks",
    ),
    column(
        "latency_mean",
        "tCK",
        "LD: from its arrival to its data, mean; only where the system has an issue_interval or the trace arrivals",
    ),
    column("latency_max", "tCK", "LD: from its arrival to its data, longest"),
    column("req_rd", "1", "LD requests"),
    column("req_wr", "1", "ST requests"),
    column("req_mac_ab", "1", "PIM_MAC_AB requests"),
    column("req_mac_sb", "1", "PIM_MAC_SB requests"),
    column("req_mac_pb", "1", "PIM_MAC_PB requests"),
    column("req_mac_bg", "1", "PIM_MAC_BG requests"),
    column("req_act_bg", "1", "PIM_ACT_BG requests"),
    column("req_pre_bg", "1", "PIM_PRE_BG requests"),
    column("req_wr_gb", "1", "PIM_WR_GB requests"),
    column("req_mv_sb", "1", "PIM_MV_SB requests"),
    column("req_mv_gb", "1", "PIM_MV_GB requests"),
    column("req_sfm", "1", "PIM_SFM requests"),
    column("selected_tokens", "tokens", "tokens selected, summed over query heads, heads, layers and steps of the row"),
    column("distinct_tokens", "tokens", "tokens selected by at least one query head of their group, summed likewise"),
    column("row_blocks", "1", "row-blocks of K touched by a group (one row of one unit), summed likewise"),
    column(
        "row_tokens",
        "tokens",
        "tokens whose keys lie in those row-blocks, wanted or not; places that alignment leaves empty, or that nothing is written to yet, hold none",
    ),
    column("bytes_useful", "B", "bytes of K and V of the distinct tokens"),
    column("bytes_fetched", "B", "bytes that MACs and reads took from open rows; what is written is not fetched"),
    column("mac_slots_used", "1", "unit-columns multiplied for a token that the query head selected"),
    column("mac_slots_issued", "1", "unit-columns multiplied (a unit is one bank group)"),
    column("mac_utilisation", "1", "mac_slots_used / mac_slots_issued"),
    column("imbalance_units", "1", "row-blocks of the fullest unit over the mean of all units, weighted by row-blocks"),
    column(
        "imbalance_channels",
        "1",
        "work of the channel that has most over the mean of all channels (run only): MACs, reads and writes, each by the cycles until the next like it may come",
    ),
];

/// One table: name, key columns behind [`RUN_KEYS`], what a row is.
pub struct Schema {
    /// File name.
    pub file: &'static str,
    /// Its own key columns.
    pub keys: &'static [Column],
    /// What a row is.
    pub row: &'static str,
}

/// The tables of a run.
pub const SCHEMAS: &[Schema] = &[
    Schema { file: "run.csv", keys: &[], row: "a trace" },
    Schema {
        file: "steps.csv",
        keys: STEP_KEYS,
        row: "a decode step: all its layers, heads and channels, waits included",
    },
    Schema {
        file: "phases.csv",
        keys: PHASE_KEYS,
        row: "a phase of a decode step; the rows of a step add up to its row in steps.csv, in cycles to the cycle",
    },
    Schema { file: "heads.csv", keys: HEAD_KEYS, row: "a KV head of a layer, over all steps" },
    Schema { file: "channels.csv", keys: CHANNEL_KEYS, row: "a channel, over the run" },
];

impl Schema {
    /// All columns.
    pub fn columns(&self) -> Vec<Column> {
        [RUN_KEYS, self.keys, MEASURES].concat()
    }
}

/// The documentation of all columns, as Markdown.
pub fn markdown() -> String {
    let mut out =
        String::from("# Tables of pimsim run\n\nAn empty cell means not known or without meaning in that row.\n");
    out.push_str("\nEvery table begins with:\n");
    out.push_str(&markdown_of(RUN_KEYS));
    for s in SCHEMAS {
        out.push_str(&format!("\n## {}\n\nA row is {}.", s.file, s.row));
        match s.keys {
            [] => out.push('\n'),
            keys => {
                out.push_str(" Its key columns:\n");
                out.push_str(&markdown_of(keys));
            }
        }
    }
    out.push_str("\n## Measures\n\nAll tables end with:\n");
    out.push_str(&markdown_of(MEASURES));
    out
}

/// Makes the rows of one trace on one system.
pub struct Rows<'s> {
    system: &'s System,
    trace: String,
}

/// What a row stands for.
struct Row<'r> {
    counters: &'r Counters,
    time: &'r Time,
    /// What segments wanted and how long they took; phases do not have it.
    wanted: Option<(&'r Wanted, Cycle)>,
    cycles: Cycle,
    /// Channels among which its work could be spread.
    channels: u64,
    imbalance_channels: Value,
}

impl<'s> Rows<'s> {
    /// For a trace of this name.
    pub fn new(system: &'s System, trace: &str) -> Self {
        Rows { system, trace: trace.into() }
    }

    /// The row of `run.csv`.
    pub fn run<S>(&self, c: &Collector<S>) -> Vec<Value> {
        let channels = c.channels.len() as u64;
        let work = |a: &Account| c.durations.work(&a.counters);
        let busiest = c.channels.iter().map(work).max().unwrap_or(0);
        let imbalance_channels = Value::ratio(busiest as f64 * channels as f64, work(&c.run) as f64);
        self.row(vec![], &Row { imbalance_channels, ..Row::of(&c.run, c.cycles, channels) })
    }

    /// The rows of `heads.csv`.
    pub fn heads<S>(&self, c: &Collector<S>) -> Vec<Vec<Value>> {
        let row = |((request, layer, head), a): (&(u32, u32, u32), &Account)| {
            let cycles = a.time.total() / u64::from(self.system.device.geometry.banks_per_channel());
            self.row([*request, *layer, *head].map(int).to_vec(), &Row::of(a, cycles, 1))
        };
        c.heads.iter().map(row).collect()
    }

    /// The rows of `channels.csv`.
    pub fn channels<S>(&self, c: &Collector<S>) -> Vec<Vec<Value>> {
        (0..).zip(&c.channels).map(|(id, a)| self.row(vec![int(id)], &Row::of(a, c.cycles, 1))).collect()
    }

    /// The row of `steps.csv`.
    pub fn step(&self, step: &Step) -> Vec<Value> {
        let Part { counters, time } = step.parts.sum();
        let row = Row {
            counters: &counters,
            time: &time,
            wanted: Some((&step.wanted, step.busy)),
            cycles: step.cycles,
            channels: u64::from(self.system.device.geometry.channels),
            imbalance_channels: Value::Unknown,
        };
        self.row(vec![int(step.step), int(step.position)], &row)
    }

    /// The rows of `phases.csv` of a step.
    pub fn phases(&self, step: &Step) -> Vec<Vec<Value>> {
        let mut totals = [0; PARTS];
        step.parts.used().for_each(|(i, p)| totals[i] = p.time.total());
        let cycles = apportion(&totals, step.cycles);
        let row = |(i, part): (usize, &Part)| {
            let row = Row {
                counters: &part.counters,
                time: &part.time,
                wanted: None,
                cycles: cycles[i],
                channels: u64::from(self.system.device.geometry.channels),
                imbalance_channels: Value::Unknown,
            };
            let name = if i == WAITING { "waiting" } else { Phase::ALL[i].name() };
            self.row(vec![int(step.step), int(step.position), Value::Text(name.into())], &row)
        };
        step.parts.used().map(row).collect()
    }

    /// Time in ns and energy in pJ of each phase, and of waiting, that add up to those of a run of so many cycles.
    pub fn phase_sums(&self, parts: &Parts, cycles: Cycle) -> [(f64, f64); PARTS] {
        let device = &self.system.device;
        let (mut totals, mut out) = ([0; PARTS], [(0.0, 0.0); PARTS]);
        parts.used().for_each(|(i, p)| totals[i] = p.time.total());
        for (out, cycles) in out.iter_mut().zip(apportion(&totals, cycles)) {
            out.0 = device.clock.ns(cycles);
        }
        for (i, part) in parts.used() {
            let channel_cycles = part.time.total() / u64::from(device.geometry.banks_per_channel());
            out[i].1 = Energy::of(&part.counters, channel_cycles, device, self.system.energy).total();
        }
        out
    }

    fn row(&self, keys: Vec<Value>, row: &Row<'_>) -> Vec<Value> {
        let device = format!("{} {}", self.system.device.name, self.system.device.preset);
        let mut out = [self.trace.clone(), self.system.name.clone(), device].map(Value::Text).to_vec();
        out.extend(keys);
        out.extend(measures(row, self.system));
        out
    }
}

impl<'r> Row<'r> {
    fn of(a: &'r Account, cycles: Cycle, channels: u64) -> Self {
        let wanted = Some((&a.wanted, a.busy));
        Row { counters: &a.counters, time: &a.time, wanted, cycles, channels, imbalance_channels: Value::Unknown }
    }
}

fn int(n: u32) -> Value {
    Value::Int(u64::from(n))
}

fn sum_of(counters: &Counters, system: &System, which: impl Fn(Effect) -> bool) -> (u64, u64) {
    let ids = (0..).zip(&system.device.commands).filter(|(_, c)| which(c.effect)).map(|(i, _): (usize, _)| i);
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

fn measures(row: &Row<'_>, system: &System) -> Vec<Value> {
    let (device, c) = (&system.device, row.counters);
    let g = &device.geometry;
    let channel_cycles = row.time.total() / u64::from(g.banks_per_channel());
    let e = Energy::of(c, channel_cycles, device, system.energy);
    let pj = |x: f64| Value::Float(x, 1);
    let (activates, activations) = sum_of(c, system, |e| e == Effect::Open);
    let (refreshes, _) = sum_of(c, system, |e| e == Effect::Refresh);
    let (_, mac_banks) = sum_of(c, system, |e| matches!(e, Effect::Mac | Effect::MacOpen));
    let (_, read_banks) = sum_of(c, system, |e| e == Effect::Read);
    // Bank-cycles; of commands for the whole channel, with nRFC.
    let refreshing = device.refreshes.iter().map(|(id, _)| {
        let banks = device.commands[usize::from(*id)].scope.banks(g);
        c.issued[usize::from(*id)] * device.refresh_cycles(*id) * u64::from(banks)
    });
    let refreshing: u64 = refreshing.sum();
    let slots = (mac_banks + c.shared) / u64::from(g.banks);
    let known = row.wanted.map(|(w, _)| w).filter(|w| w.segments > 0);
    let wanted = |of: fn(&Wanted) -> u64| known.map_or(Value::Unknown, |w| Value::Int(of(w)));
    let request = |op: Op| Value::Int(c.requests[op as usize]);
    let [mac, row_switch, units, channels, movement, softmax, refresh, stall]: [Value; CAUSES] =
        apportion(row.time.spent(), row.cycles).map(Value::Int);
    vec![
        Value::Int(row.wanted.map_or(1, |(w, _)| w.steps)),
        Value::Int(row.cycles),
        Value::Float(device.clock.ns(row.cycles), 3),
        row.wanted.map_or(Value::Unknown, |(_, busy)| Value::Int(busy)),
        mac,
        row_switch,
        units,
        channels,
        movement,
        softmax,
        refresh,
        stall,
        known.and_then(|w| bound(device, w.slots_used, row.channels)).map_or(Value::Unknown, Value::Int),
        pj(e.total()),
        pj(e.activation),
        pj(e.column),
        pj(e.movement),
        pj(e.compute),
        pj(e.refresh),
        pj(e.background),
        Value::Int(activations),
        Value::Int(activates),
        Value::Int(c.hits),
        Value::Int(c.misses),
        Value::Int(c.conflicts),
        Value::Int(refreshes),
        Value::ratio(refreshing as f64, channel_cycles as f64 * f64::from(g.banks_per_channel())),
        Value::ratio(c.read_latency as f64, c.timed_reads as f64),
        if c.timed_reads > 0 { Value::Int(c.longest_read) } else { Value::Unknown },
        request(Op::Ld),
        request(Op::St),
        request(Op::MacAb),
        request(Op::MacSb),
        request(Op::MacPb),
        request(Op::MacBg),
        request(Op::ActBg),
        request(Op::PreBg),
        request(Op::WrGb),
        request(Op::MvSb),
        request(Op::MvGb),
        request(Op::Sfm),
        wanted(|w| w.selected),
        wanted(|w| w.distinct),
        wanted(|w| w.row_blocks),
        wanted(|w| w.row_tokens),
        wanted(|w| w.bytes_useful),
        Value::Int((mac_banks + read_banks) * u64::from(g.column_bytes)),
        wanted(|w| w.slots_used),
        Value::Int(slots),
        known.map_or(Value::Unknown, |w| Value::ratio(w.slots_used as f64, slots as f64)),
        known.map_or(Value::Unknown, |w| {
            Value::ratio(w.fullest_unit as f64 * f64::from(g.units()), w.row_blocks as f64)
        }),
        row.imbalance_channels.clone(),
    ]
}
