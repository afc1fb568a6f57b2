//! Ramulator 2.1: a configuration in JSON, which is YAML too, with this device's constraints under its HBM3; and the same
//! as a class of its Python.
//!
//! Its HBM3 ticks twice a clock. A constraint there is between the ends of two commands: a command that takes more than a
//! tick moves the distance by its length, as the program's own Python does it.

use super::{Figures, FolderFile, FolderTrace, SHELL, readme};
use pimattn_core::error::{Error, Result};
use pimattn_core::spec::Level;
use pimattn_core::spec::System;
use pimattn_core::spec::tables::DeclaredConstraint;
use serde_json::{Value, json};

/// Commands of its HBM3, in order: our name, its name.
const COMMANDS: [(&str, &str); 11] = [
    ("ACT", "ACT"),
    ("PRE", "PREpb"),
    ("PREA", "PREab"),
    ("RD", "RD"),
    ("WR", "WR"),
    ("", "RDA"),
    ("", "WRA"),
    ("REFab", "REFab"),
    ("REFpb", "REFpb"),
    ("", "RFMab"),
    ("", "RFMpb"),
];
const LEVELS: [&str; 5] = ["Channel", "PseudoChannel", "Sid", "BankGroup", "Bank"];
/// Ticks of a clock.
const TICKS: u32 = 2;
/// Beats of a burst of its HBM3, by which it counts columns.
const BURST: u32 = 8;
/// Ticks that a command takes of its bus: of an HBM3, row commands of half clocks; else one clock each.
const HALF_CLOCKS: [u32; 11] = [3, 1, 1, 2, 2, 2, 2, 1, 1, 1, 1];
const WHOLE_CLOCKS: [u32; 11] = [2; 11];
const ROW: [usize; 7] = [0, 1, 2, 7, 8, 9, 10];
const COLUMN: [usize; 4] = [3, 4, 5, 6];

fn place(name: &str) -> Option<usize> {
    COMMANDS.iter().position(|(ours, _)| *ours == name)
}

/// Whether an activation takes the row bus for longer than a clock, as an HBM3's does.
fn half_clocks(system: &System) -> bool {
    system.device.declared.iter().any(|d| {
        let names = |ids: &[u8]| ids.iter().any(|c| system.device.commands[usize::from(*c)].name == "ACT");
        d.level == Level::Channel && d.window == 1 && d.latency > 1 && names(&d.from) && names(&d.to)
    })
}

/// A declared constraint with its commands by our names; none where it says what the target's command bus says.
struct ConstraintLine<'a> {
    level: usize,
    from: Vec<&'a str>,
    to: Vec<&'a str>,
    declared: &'a DeclaredConstraint,
    sibling: bool,
}

fn lines(system: &System) -> Vec<ConstraintLine<'_>> {
    let half = half_clocks(system);
    let names = |ids: &[u8]| -> Vec<&str> {
        ids.iter().map(|c| system.device.commands[usize::from(*c)].name.as_str()).collect()
    };
    let row = |names: &[&str]| names.iter().all(|n| matches!(*n, "ACT" | "PRE" | "PREA" | "REFab" | "REFpb" | "REFrk"));
    let all_banks = |name: &&str| matches!(*name, "PREA" | "REFab");
    let mut out = Vec::new();
    for declared in &system.device.declared {
        let (from, to) = (names(&declared.from), names(&declared.to));
        if half && declared.level == Level::Channel && row(&from) && row(&to) {
            continue;
        }
        let (level, sibling) = declared.apart.map_or((declared.level as usize, false), |apart| (apart as usize, true));
        let (from_all, from_some): (Vec<&str>, Vec<&str>) = from.into_iter().partition(all_banks);
        let (to_all, to_some): (Vec<&str>, Vec<&str>) = to.into_iter().partition(all_banks);
        // Commands of all banks of a pseudo-channel meet others there: the same constraint, levels up.
        let pairs = [
            (&from_some, &to_some, level),
            (&from_all, &to_some, 1),
            (&from_some, &to_all, 1),
            (&from_all, &to_all, 1),
        ];
        for (from, to, level) in pairs.into_iter().filter(|(from, to, _)| !from.is_empty() && !to.is_empty()) {
            out.push(ConstraintLine { level, from: from.clone(), to: to.clone(), declared, sibling });
        }
    }
    out
}

/// The constraint entries of its configuration: level, commands before, commands behind, ticks, window, siblings.
fn entries(system: &System) -> Vec<Value> {
    let half = half_clocks(system);
    let ticks = if half { HALF_CLOCKS } else { WHOLE_CLOCKS };
    let mut out = Vec::new();
    if half {
        out.push(json!([0, [0], ROW, ticks[0]]));
    } else {
        out.push(json!([0, ROW, ROW, TICKS]));
    }
    out.push(json!([0, COLUMN, COLUMN, TICKS]));
    for line in lines(system) {
        for f in line.from.iter().filter_map(|n| place(n)) {
            for t in line.to.iter().filter_map(|n| place(n)) {
                let latency = (TICKS * line.declared.latency + ticks[f]).saturating_sub(ticks[t]);
                out.push(match (line.sibling, line.declared.window) {
                    (true, window) => json!([line.level, [f], [t], latency, window, true]),
                    (false, 1) => json!([line.level, [f], [t], latency]),
                    (false, window) => json!([line.level, [f], [t], latency, window]),
                });
            }
        }
    }
    out
}

/// Its timing parameters in order, in ticks.
fn timing(system: &System, f: &Figures) -> Vec<(&'static str, u32)> {
    let g = &system.device.geometry;
    let refi = f.refi.unwrap_or(1_000_000);
    // Of what no constraint here asks for, what the device has; else something that binds nothing.
    let own = |name: &str, other: u32| {
        let cycles = system.device.timings.get(name).and_then(|cycles| u32::try_from(*cycles).ok());
        cycles.unwrap_or(other)
    };
    // Megatransfers: two beats a clock of our BL/2 cycles a burst.
    let rate = (4_000_000.0 / f64::from(f.tck_ps)).round() as u32;
    vec![
        ("rate", rate),
        ("nBL", f.bl),
        ("nCL", f.cl),
        ("nRCDRD", f.rcdrd),
        ("nRCDWR", f.rcdwr),
        ("nRP", f.rp),
        ("nRAS", f.ras),
        ("nRC", f.rc),
        ("nWR", f.wr),
        ("nRTP", f.rtp),
        ("nCWL", f.cwl),
        ("nCCDS", f.ccds),
        ("nCCDL", f.ccdl),
        ("nCCDR", f.bl + f.rank_gap),
        ("nRRDS", f.rrds),
        ("nRRDL", f.rrdl),
        ("nWTRS", f.wtrs),
        ("nWTRL", f.wtrl),
        ("nRTW", f.rtw),
        ("nFAW", f.faw.unwrap_or(1)),
        ("nPPD", own("nPPD", 1)),
        ("nRFC", f.rfc),
        ("nRFCpb", own("nRFCpb", f.rfc)),
        ("nRFMab", f.rfc),
        ("nRFMpb", f.rfc),
        ("nRREFD", own("nRREFD", f.rrdl)),
        ("nREFI", refi),
        ("nREFIpb", (refi / (g.bank_groups * g.banks * g.ranks)).max(1)),
        ("tCK_ps", f.tck_ps),
    ]
}

fn ticks_of(name: &str, value: u32) -> u32 {
    match name {
        "rate" => value,
        "tCK_ps" => value / TICKS,
        _ => value * TICKS,
    }
}

pub(super) fn files(system: &System, f: &Figures, parts: &[FolderTrace]) -> Result<Vec<FolderFile>> {
    let g = &system.device.geometry;
    let vector = parts[0].manifest.format == "ramulator-rw";
    let one = parts.iter().all(|p| p.channel.is_some());
    if one && vector {
        return Err(Error::Usage("--per-channel: a vector of ramulator-rw names its channel; use ramulator-ls".into()));
    }
    let width = g.column_bytes * 8 / BURST;
    let (low, high) = system.writes.map_or((0.2, 0.8), |w| (w.low, w.high));
    let refresh = match f.refi {
        Some(_) => json!({ "impl": "AllBank", "scatter_interval": 0, "debug": false }),
        None => json!({ "impl": "NoRefresh" }),
    };
    let ticks = if half_clocks(system) { HALF_CLOCKS } else { WHOLE_CLOCKS };
    let controller = json!({
        "impl": "HBM34",
        "wr_low_watermark": low,
        "wr_high_watermark": high,
        "read_buffer_size": system.read_depth,
        "write_buffer_size": system.writes.map_or(system.queue_depth, |w| w.depth),
        "priority_buffer_size": 1568,
        "scheduler": { "impl": "FRFCFS" },
        "refresh_manager": refresh,
        "row_policy": { "impl": "Open" },
        "addr_mapper": { "impl": if vector { "PassThroughAddrMapper" } else { "ChRaBaRoCo" } },
        "dram": {
            "impl": "HBM3",
            "org": {
                "dq": width,
                "count": [1, g.pseudo_channels, g.ranks, g.bank_groups, g.banks, g.rows, g.columns * BURST],
            },
            "timing": timing(system, f).into_iter().map(|(n, v)| ticks_of(n, v)).collect::<Vec<_>>(),
            "command_cycles": ticks,
            "channel_width": width,
            "read_latency": TICKS * (f.cl + f.bl),
            "timing_constraints": entries(system),
        },
    });
    let channels = if one { 1 } else { g.channels };
    let mapper = match vector {
        true => json!({ "impl": "PassThroughChannelMapper" }),
        false => json!({
            "impl": "CacheLineInterleave",
            "interleave_bits": g.fields()[0].1 - g.column_bytes.trailing_zeros(),
        }),
    };
    let config = json!({
        "frontend": {
            "impl": if vector { "ReadWriteTrace" } else { "LoadStoreTrace" },
            "clock_ratio": 1,
            "path": parts[0].name,
        },
        "memory_system": {
            "impl": "GenericDRAM",
            "clock_ratio": 1,
            "channel_mapper": mapper,
            "controllers": vec![controller; channels as usize],
        },
    });
    let config = serde_json::to_string_pretty(&config)
        .map_err(|e| Error::Io { path: "configuration".into(), source: std::io::Error::other(e) })?;
    let python = "import json, sys\n\nimport ramulator\n\nconfig = json.load(open(\"config.yaml\"))\n\
                  config[\"frontend\"][\"path\"] = sys.argv[1] if len(sys.argv) > 1 else config[\"frontend\"][\"path\"]\n\
                  sim = ramulator.Simulation(config[\"frontend\"], config[\"memory_system\"])\nsim.run()\nprint(sim.stats_yaml)\n";
    let mut run = SHELL.to_string();
    for part in parts {
        run += &format!("${{PYTHON:-python3}} run.py {} > {}.stats.yaml\n", part.name, part.name);
    }
    let mut notes = vec![
        "with its Python package: sh run.sh; with its library alone: config.yaml (JSON, which is YAML) as its main program's \
         configuration"
            .to_string(),
        "it ticks twice a clock: cycles that it prints are half-cycles".into(),
    ];
    if vector && parts.iter().any(|p| p.manifest.writes > 0) {
        notes.push("this trace has writes, whose counts are wrong in this form of the target: use ramulator-ls".into());
    }
    Ok(vec![
        FolderFile { name: "config.yaml", text: config + "\n" },
        FolderFile { name: "run.py", text: python.into() },
        FolderFile { name: "run.sh", text: run },
        readme(system, parts, "Ramulator 2.1", "sh run.sh", &notes),
    ])
}

/// A device as a class of Ramulator's Python: its plain part runs as HBM3 there as it is; the constraints of other
/// commands are in a list of their own.
///
/// Fails on a device without the commands of plain DRAM.
pub fn constraints(system: &System) -> Result<String> {
    let f = Figures::of(system)?;
    let g = &system.device.geometry;
    let mut out = format!(
        "# {} ({}): this device for Ramulator 2.1.\n\
         from ramulator.dram.hbm3 import HBM3\nfrom ramulator.dram.spec import TimingConstraint\n\n\n\
         class Device(HBM3):\n    # The compiled HBM3 has the commands of the plain part.\n    name = \"HBM3\"\n",
        system.device.name, system.device.preset
    );
    let half = half_clocks(system);
    if !half {
        let all: Vec<String> = COMMANDS.iter().map(|(_, theirs)| format!("\"{theirs}\": 1")).collect();
        out += &format!("    command_cycles = {{{}}}\n", all.join(", "));
    }
    let (mut plain, mut rest) = (Vec::new(), Vec::new());
    for line in lines(system) {
        let list = |names: &[&str]| {
            let theirs = |name: &&str| place(name).map_or(*name, |i| COMMANDS[i].1).to_string();
            names.iter().map(|n| format!("\"{}\"", theirs(n))).collect::<Vec<_>>().join(", ")
        };
        let write = |from: &[&str], to: &[&str]| {
            let d = line.declared;
            let window = if d.window == 1 { String::new() } else { format!(", window={}", d.window) };
            let sibling = if line.sibling { ", sibling=True" } else { "" };
            let (level, latency) = (LEVELS[line.level], TICKS * d.latency);
            format!(
                "TimingConstraint(level=\"{level}\", preceding=[{}], following=[{}], latency=\"{latency}\"{window}{sibling}),  \
                 # {}\n",
                list(from),
                list(to),
                d.expression
            )
        };
        let known = |n: &&str| place(n).is_some();
        let from: Vec<&str> = line.from.iter().copied().filter(known).collect();
        let to: Vec<&str> = line.to.iter().copied().filter(known).collect();
        if !from.is_empty() && !to.is_empty() {
            plain.push(write(&from, &to));
        }
        if from.len() < line.from.len() || to.len() < line.to.len() {
            rest.push(write(&line.from, &line.to));
        }
    }
    out += "    # Latencies are in ticks, two a clock; bus occupancy comes of command_cycles.\n    timing_constraints = [\n";
    plain.iter().for_each(|l| out += &format!("        {l}"));
    out += "    ]\n    # Of commands that HBM3 there does not have.\n    pim_constraints = [\n";
    rest.iter().for_each(|l| out += &format!("        {l}"));
    out += "    ]\n\n\n";
    let width = g.column_bytes * 8 / BURST;
    out += &format!(
        "Device.org_presets = {{\n    \"device\": {{\"density\": {}, \"dq\": {width}, \"channel_width\": {width}, \
         \"pseudochannel\": {}, \"sid\": {}, \"bankgroup\": {}, \"bank\": {}, \"row\": {}, \"column\": {}}},\n}}\n",
        g.channel_bytes() >> 17,
        g.pseudo_channels,
        g.ranks,
        g.bank_groups,
        g.banks,
        g.rows,
        g.columns * BURST
    );
    let pairs: Vec<String> = timing(system, &f).iter().map(|(n, v)| format!("\"{n}\": {v}")).collect();
    out += &format!("Device.timing_presets = {{\n    \"device\": {{{}}},\n}}\n", pairs.join(", "));
    Ok(out)
}
