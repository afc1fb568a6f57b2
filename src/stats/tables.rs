//! The tables of a run: their columns, and their rows from what was counted.

use super::energy::Energy;
use super::{Account, Collector, Counters};
use crate::op::Op;
use crate::spec::{Effect, System};
use crate::table::{Column, Value, column, markdown as markdown_of};
use crate::units::Cycle;

/// Columns that say which run a row is of; first in every table.
pub const RUN_KEYS: &[Column] = &[
    column("trace", "-", "the trace file, as named on the command line"),
    column("system", "-", "name of the system file's system"),
    column("device", "-", "device, organisation and timing preset"),
];

/// Key columns of `steps.csv`.
pub const STEP_KEYS: &[Column] =
    &[column("step", "1", "decode step, from 0"), column("position", "tokens", "index of the token that is decoded")];

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
        "length: of the run, of the step with its waits, of the head's segments summed, of the run for a channel",
    ),
    column("time_ns", "ns", "cycles in time"),
    column(
        "busy_cycles",
        "tCK",
        "cycles within segments, summed over the row's segments (a channel without segments: until its last result)",
    ),
    column("energy_pj", "pJ", "sum of the energy parts"),
    column("energy_activation_pj", "pJ", "row activations with their precharges"),
    column("energy_column_pj", "pJ", "column accesses, cell to column decoder"),
    column("energy_movement_pj", "pJ", "wires beyond the column decoder"),
    column("energy_compute_pj", "pJ", "multiply-accumulate units and buffers"),
    column("energy_refresh_pj", "pJ", "refresh"),
    column(
        "energy_background_pj",
        "pJ",
        "standing power: all channels in run and steps, one channel over its busy cycles in heads, one over the run in channels",
    ),
    column("activations", "1", "rows opened, one per bank"),
    column("activate_commands", "1", "commands that opened rows"),
    column("row_hits", "1", "requests that needed a row and found it open"),
    column("row_misses", "1", "requests that found their banks closed"),
    column("row_conflicts", "1", "requests that found another row open"),
    column("refreshes", "1", "REFab commands"),
    column("refresh_share", "1", "refreshes x nRFC over cycles x channels"),
    column(
        "latency_mean",
        "tCK",
        "LD: from its arrival to its data, mean; only where the system has an issue_interval",
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
    column("bytes_useful", "B", "bytes of K and V of the distinct tokens"),
    column("bytes_fetched", "B", "bytes that MACs and reads took from open rows"),
    column("mac_slots_used", "1", "unit-columns multiplied for a token that the query head selected"),
    column("mac_slots_issued", "1", "unit-columns multiplied (a unit is one bank group)"),
    column("mac_utilisation", "1", "mac_slots_used / mac_slots_issued"),
    column("imbalance_units", "1", "row-blocks of the fullest unit over the mean of all units, weighted by row-blocks"),
    column("imbalance_channels", "1", "busy cycles of the busiest channel over the mean of all channels (run only)"),
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

/// Rows of all tables, in the order of [`SCHEMAS`].
pub fn rows(collector: &Collector, system: &System, trace: &str) -> [Vec<Vec<Value>>; 4] {
    let make = |keys: Vec<Value>, account: &Account, extent: Extent| {
        let mut row = vec![
            Value::Text(trace.into()),
            Value::Text(system.name.clone()),
            Value::Text(format!("{} {}", system.device.name, system.device.preset)),
        ];
        row.extend(keys);
        row.extend(measures(account, system, &extent));
        row
    };
    let channels = u64::from(system.device.geometry.channels);
    let span = |a: &Account| a.end - a.begin.unwrap_or(a.end);
    let int = |n: u32| Value::Int(u64::from(n));
    let run = &collector.run;
    let busiest = collector.channels.iter().map(|c| c.busy).max().unwrap_or(0);
    let imbalance = Value::ratio(busiest as f64 * channels as f64, run.busy as f64);
    let whole = Extent { cycles: run.end, channels, imbalance_channels: imbalance };
    let steps = collector.steps.iter().filter(|(_, (_, a))| a.wanted.segments > 0).map(|(step, (position, a))| {
        make(
            vec![int(*step), int(*position)],
            a,
            Extent { cycles: span(a), channels, imbalance_channels: Value::Unknown },
        )
    });
    let heads = collector.heads.iter().map(|((request, layer, head), a)| {
        let extent = Extent { cycles: a.busy, channels: 1, imbalance_channels: Value::Unknown };
        make(vec![int(*request), int(*layer), int(*head)], a, extent)
    });
    let by_channel = (0..).zip(&collector.channels).map(|(id, a)| {
        make(vec![int(id)], a, Extent { cycles: run.end, channels: 1, imbalance_channels: Value::Unknown })
    });
    [vec![make(vec![], run, whole)], steps.collect(), heads.collect(), by_channel.collect()]
}

struct Extent {
    cycles: Cycle,
    channels: u64,
    imbalance_channels: Value,
}

fn sum_of(counters: &Counters, system: &System, which: impl Fn(Effect) -> bool) -> (u64, u64) {
    let ids = (0..).zip(&system.device.commands).filter(|(_, c)| which(c.effect)).map(|(i, _): (usize, _)| i);
    ids.fold((0, 0), |(n, banks), i| (n + counters.issued[i], banks + counters.banks[i]))
}

fn measures(a: &Account, system: &System, extent: &Extent) -> Vec<Value> {
    let (device, c, w) = (&system.device, &a.counters, &a.wanted);
    let g = &device.geometry;
    let e = Energy::of(c, extent.cycles * extent.channels, device, system.energy);
    let pj = |x: f64| Value::Float(x, 1);
    let (activates, activations) = sum_of(c, system, |e| e == Effect::Open);
    let (refreshes, _) = sum_of(c, system, |e| e == Effect::Refresh);
    let (_, mac_banks) = sum_of(c, system, |e| matches!(e, Effect::Mac | Effect::MacOpen));
    let (_, data_banks) = sum_of(c, system, |e| matches!(e, Effect::Read | Effect::Write));
    let rfc = device.timings.get("nRFC").copied().unwrap_or(0);
    let slots = mac_banks / u64::from(g.banks);
    let known = w.segments > 0;
    let wanted = |n: u64| if known { Value::Int(n) } else { Value::Unknown };
    let request = |op: Op| Value::Int(c.requests[op as usize]);
    vec![
        Value::Int(a.wanted.steps),
        Value::Int(extent.cycles),
        Value::Float(device.clock.ns(extent.cycles), 3),
        Value::Int(a.busy),
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
        Value::ratio((refreshes * rfc) as f64, (extent.cycles * extent.channels) as f64),
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
        wanted(w.selected),
        wanted(w.distinct),
        wanted(w.row_blocks),
        wanted(w.bytes_useful),
        Value::Int((mac_banks + data_banks) * u64::from(g.column_bytes)),
        wanted(w.slots_used),
        Value::Int(slots),
        if known { Value::ratio(w.slots_used as f64, slots as f64) } else { Value::Unknown },
        if known {
            Value::ratio(w.fullest_unit as f64 * f64::from(g.units()), w.row_blocks as f64)
        } else {
            Value::Unknown
        },
        extent.imbalance_channels.clone(),
    ]
}
