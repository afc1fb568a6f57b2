//! Devices as data: every shipped system loads and replays with every organisation and timing preset of its device,
//! closed forms hold on every device, one file is enough for a new one, and activations keep to the power policy.

use crate::common;

use common::{cycles, load, macs, one, root, run, system};
use pimattn::cli::exit::{EXIT_CONFIG, ExitStatus};
use pimattn_core::addr::Address;
use pimattn_core::op::Op;
use pimattn_core::spec::System;
use pimattn_core::spec::system::Controller;
use pimattn_engine::{self as engine, Engine};
use pimattn_trace::{Header, Record, Request};
use std::path::Path;

/// Systems on a device of their own.
const SYSTEMS: [&str; 5] = ["hbm3-pim", "hbm3", "hbm2", "hbm2-pim-samsung", "gddr6-aim"];

/// Shipped systems, with the presets of their devices: organisations times timings. A system that is not listed is
/// replayed with all presets that it has.
const PRESETS: [(&str, usize); 7] = [
    ("attacc-compat", 12 * 10),
    ("attacc-platform", 12 * 10),
    ("gddr6-aim", 1),
    ("hbm2", 1),
    ("hbm2-pim-samsung", 1),
    ("hbm3", 4 * 2),
    ("hbm3-pim", 12 * 10),
];

/// Every system file, with every organisation and timing preset of its device.
fn each_shipped(mut check: impl FnMut(&str, &[&str])) {
    let mut names: Vec<String> = std::fs::read_dir(root().join("configs/system"))
        .unwrap()
        .map(|e| e.unwrap().path().file_stem().unwrap().to_str().unwrap().to_string())
        .collect();
    names.sort();
    assert!(names.len() > SYSTEMS.len(), "{names:?}");
    let parse = |path: &Path| std::fs::read_to_string(path).unwrap().parse::<toml::Table>().unwrap();
    for name in names {
        let file = root().join(format!("configs/system/{name}.toml"));
        let device = parse(&file.parent().unwrap().join(parse(&file)["dram"]["device"].as_str().unwrap()));
        for organisation in device["organisation"].as_table().unwrap().keys() {
            for timing in device["timing"].as_table().unwrap().keys() {
                let set = [format!("dram.organisation={organisation}"), format!("dram.timing={timing}")];
                check(&name, &[&set[0], &set[1], "channels=2"]);
            }
        }
    }
}

/// Every operation that the device has, over several banks and both channels.
fn mixed(s: &System) -> Vec<Request> {
    let g = &s.device.geometry;
    let ops = [Op::WrGb, Op::MacAb, Op::MacSb, Op::MacPb, Op::MvSb, Op::Sfm, Op::MvGb, Op::Ld, Op::St];
    let mut out = Vec::new();
    for op in ops.into_iter().filter(|op| s.device.plans[*op as usize].is_some()) {
        for channel in 0..g.channels {
            for i in 0..8 {
                let address = Address {
                    channel,
                    bank_group: i % g.bank_groups,
                    rank: i / 4 % g.ranks,
                    column: i,
                    row: 7,
                    ..Default::default()
                };
                out.push(one(g, op, address));
            }
        }
        out.extend((0..g.channels).map(|channel| one(g, Op::Barrier, Address { channel, ..Default::default() })));
    }
    out
}

#[test]
fn every_system_replays_with_every_organisation_and_timing_preset() {
    let mut seen: Vec<String> = Vec::new();
    each_shipped(|name, set| {
        let s = system(name, set);
        let work = mixed(&s);
        let (cycles, c) = run(&s, &work);
        assert!(cycles > 0);
        for op in Op::ALL.iter().filter(|op| !op.is_mark()) {
            let wanted = work.iter().filter(|r| r.op == *op).count() as u64;
            assert_eq!(c.run.counters.requests[*op as usize], wanted, "{name} {set:?} {}", op.mnemonic());
        }
        seen.push(name.into());
    });
    for (name, presets) in PRESETS {
        assert_eq!(seen.iter().filter(|s| *s == name).count(), presets, "{name}");
    }
}

#[test]
fn peaks_and_assumptions_are_known() {
    each_shipped(|name, set| {
        let s = system(name, set);
        assert_eq!(s.device.peak_bytes_per_cycle().is_some(), s.device.lanes > 0, "{name}");
        let assumed = &s.device.assumed;
        // No source gives what the supply of a shipped device allows.
        let shipped = PRESETS.iter().any(|(shipped, _)| *shipped == name);
        assert!(!shipped || s.device.lanes == 0 || assumed.iter().any(|a| a == "power_budget"), "{name}: {assumed:?}");
    });
    // 1 TFLOPS a chip of two channels; 1.2 TFLOPS in a cube of 16 pseudo-channels at 300 MHz, so 1.024 at 250 MHz.
    let flops = |name: &str, channels: f64| {
        let d = system(name, &[]).device;
        let elements = d.peak_bytes_per_cycle().unwrap() / 2.0;
        2.0 * elements * channels * 1000.0 / d.clock.ns(1000)
    };
    assert_eq!(flops("gddr6-aim", 2.0), 1024.0);
    assert_eq!(flops("hbm2-pim-samsung", 16.0), 1024.0);
}

#[test]
fn reads_and_writes_from_idle_and_hits_behind_them() {
    for name in SYSTEMS {
        let s = system(name, &["refresh=none"]);
        let (g, t) = (&s.device.geometry, |n: &str| s.device.timings[n]);
        let at = |op, column| one(g, op, Address { row: 3, column, ..Default::default() });
        let first = t("nRCDRD") + t("nCL") + t("nBL");
        assert_eq!(cycles(&s, &[at(Op::Ld, 0)]), first, "{name}");
        let gap = t("nCCDL").max(t("nBL"));
        assert_eq!(cycles(&s, &[at(Op::Ld, 0), at(Op::Ld, 1), at(Op::Ld, 2)]), first + 2 * gap, "{name}");
        let first = t("nRCDWR") + t("nCWL") + t("nBL");
        assert_eq!(cycles(&s, &[at(Op::St, 0), at(Op::St, 1)]), first + gap, "{name}");
    }
}

#[test]
fn a_row_conflict_costs_precharge_and_activation() {
    for name in SYSTEMS {
        let s = system(name, &["refresh=none"]);
        let (g, t) = (&s.device.geometry, |n: &str| s.device.timings[n]);
        let at = |row| one(g, Op::Ld, Address { row, ..Default::default() });
        let to_precharge = t(if s.device.timings.contains_key("nRTP") { "nRTP" } else { "nRTPL" });
        let precharge = (t("nRCDRD") + to_precharge).max(t("nRAS"));
        let activate = (precharge + t("nRP")).max(t("nRC"));
        let (cycles, c) = run(&s, &[at(0), at(1)]);
        assert_eq!(cycles, activate + t("nRCDRD") + t("nCL") + t("nBL"), "{name}");
        assert_eq!((c.run.counters.misses, c.run.counters.conflicts), (1, 1), "{name}");
    }
}

#[test]
fn macs_from_idle_and_back_to_back() {
    // The activation's latency, the distance of two MAC commands, and commands for one column of all banks.
    for (name, rcd, ccd, passes) in [
        ("hbm3-pim", "nRCDRD", "nCCDAB", 1),
        ("hbm2-pim-samsung", "nRCDRD", "nCCDL", 2),
        ("gddr6-aim", "nRCDRDMAC", "nCCDL", 1),
    ] {
        let s = system(name, &["refresh=none"]);
        let (g, t) = (&s.device.geometry, |n: &str| s.device.timings[n]);
        for n in [1, 2, 16] {
            let (cycles, c) = run(&s, &[macs(g, 5, n)]);
            let commands = u64::from(n) * passes;
            assert_eq!(cycles, t(rcd) + (commands - 1) * t(ccd) + 1, "{name} {n}");
            let mac = usize::from(s.device.plans[Op::MacAb as usize].unwrap().last);
            let counters = &c.run.counters;
            assert_eq!(counters.requests[Op::MacAb as usize], u64::from(n));
            assert_eq!(counters.issued[mac], commands);
            assert_eq!(counters.banks[mac], u64::from(n * g.banks_per_channel()), "one column of every bank");
            assert_eq!((counters.hits, counters.misses), (u64::from(n) - 1, 1));
        }
    }
}

#[test]
fn a_mac_waits_for_what_was_written() {
    for (name, rcd) in [("hbm3-pim", "nRCDRD"), ("gddr6-aim", "nRCDRDMAC")] {
        let s = system(name, &["refresh=none"]);
        let (g, t) = (&s.device.geometry, |n: &str| s.device.timings[n]);
        let barrier = one(g, Op::Barrier, Address::default());
        let write = one(g, Op::St, Address { row: 5, ..Default::default() });
        // The row is open: the write waits for the column cycle of the MAC, the second MAC for the write.
        let turn = t("nCCDL") + t("nCWL") + t("nBL") + t("nWTRL");
        let work = [macs(g, 5, 1), barrier, write, barrier, macs(g, 5, 1)];
        assert_eq!(cycles(&s, &work), t(rcd) + turn + 1, "{name}");
    }
}

#[test]
fn moves_turn_the_data_path_and_change_ranks() {
    let s = system("hbm3-pim", &["refresh=none"]);
    let (g, t) = (&s.device.geometry, |n: &str| s.device.timings[n]);
    let at = |op, rank, bank_group| one(g, op, Address { rank, bank_group, ..Default::default() });
    let gap = |first: Request, second: Request| cycles(&s, &[first, second]) - 1;
    assert_eq!(gap(at(Op::MvSb, 0, 0), at(Op::MvSb, 0, 1)), t("nCCDS"), "one rank, one direction");
    assert_eq!(gap(at(Op::MvSb, 0, 0), at(Op::MvSb, 1, 0)), t("nBL") + 1, "another rank");
    assert_eq!(gap(at(Op::MvSb, 0, 0), at(Op::MvGb, 0, 1)), t("nBL") + 2, "another direction");
    assert_eq!(gap(at(Op::WrGb, 0, 0), at(Op::MvSb, 1, 1)), t("nBL") + 2);
    assert_eq!(gap(at(Op::WrGb, 0, 0), at(Op::MvGb, 0, 1)), t("nCCDS"));
    // The other pseudo-channel has a path of its own.
    let other = one(g, Op::MvGb, Address { pseudo_channel: 1, ..Default::default() });
    assert_eq!(gap(at(Op::MvSb, 0, 0), other), 1);
    // One rank has no other, and moves of one rank go before those that change it.
    let single = system("hbm3-pim", &["refresh=none", "dram.organisation=HBM3_4Gb_1R"]);
    let moves = |n: u32| (0..n).map(|i| at(Op::MvSb, i % 2, i / 2)).collect::<Vec<_>>();
    let one_rank: Vec<Request> = (0..4).map(|i| at(Op::MvSb, 0, i)).collect();
    assert_eq!(cycles(&single, &one_rank), 3 * t("nCCDS") + 1);
    assert_eq!(cycles(&s, &moves(8)), 6 * t("nCCDS") + t("nBL") + 1 + 1);
}

#[test]
fn a_column_that_heads_share_is_read_once_and_multiplied_for_each() {
    for name in ["hbm3-pim", "hbm2-pim-samsung", "gddr6-aim"] {
        let (alone, shared) = (system(name, &["channels=1"]), system(name, &["channels=1", "heads_per_read=4"]));
        let g = &shared.device.geometry;
        let macs = |heads: u32| {
            let at = g.mac_for(heads, Address { row: 5, ..Address::default() });
            Request { op: Op::MacAb, addr: g.encode(&at), count: 8, stride: g.column_bytes }
        };
        let (one_head, c) = run(&alone, &[macs(1)]);
        let energy =
            |s: &System, c: &pimattn_stats::Counters| pimattn_stats::energy::Energy::of(c, 0, &s.device, s.energy);
        let columns = f64::from(8 * g.banks_per_channel());
        let of_one = energy(&alone, &c.run.counters);
        for heads in 1..=4 {
            let (cycles, c) = run(&shared, &[macs(heads)]);
            let e = energy(&shared, &c.run.counters);
            assert_eq!(cycles, one_head, "{name}: {heads} heads");
            assert_eq!((e.column, e.movement, e.activation), (of_one.column, of_one.movement, of_one.activation));
            let by_hand = columns * f64::from(shared.device.elements) * shared.device.energy.mac * f64::from(heads);
            assert!((e.compute / by_hand - 1.0).abs() < 1e-12, "{name}: {heads} heads");
            // Of a device that multiplies for one head, the bank of the address means nothing, as in AttAcc's traces.
            assert_eq!(energy(&alone, &run(&alone, &[macs(heads)]).1.run.counters), of_one);
        }
        for controller in [Controller::Pim, Controller::Compat] {
            for mode in [Engine::Fast, Engine::Plain] {
                let mut source =
                    common::Memory { header: Header::foreign(*g, "test"), records: vec![Record::Request(macs(5))] };
                let system = System { controller, ..shared.clone() };
                let e = engine::run_with(mode, &system, &mut source, &mut (), &mut |_| ()).unwrap_err();
                assert!(e.to_string().contains("PIM_MAC_AB for 5 query heads; a column is multiplied for 4"), "{e}");
                assert_eq!(e.exit_code(), 65);
            }
        }
        // A trace for other units than the system has is refused, if it says so.
        for (ours, theirs, same) in [(&alone, 4, false), (&shared, 1, false), (&shared, 4, true), (&alone, 0, true)] {
            let header = Header { heads_per_read: theirs, ..Header::foreign(*g, "test") };
            let mut source = common::Memory { header, records: vec![Record::Request(macs(1))] };
            let result = engine::run(ours, &mut source, &mut (), &mut |_| ());
            assert_eq!(result.is_ok(), same, "{theirs}");
            let what = format!("heads_per_read = {theirs}");
            assert!(result.is_ok() || result.is_err_and(|e| e.to_string().contains(&what)));
        }
        let file = root().join(format!("configs/system/{name}.toml"));
        let e = load(&file, &["heads_per_read=0"]).unwrap_err();
        assert!(e.to_string().contains("heads_per_read=0: heads_per_read = 0 is not in 1..="), "{e}");
    }
}

#[test]
fn columns_of_narrow_elements_take_several_passes_of_the_lanes() {
    for name in ["hbm3-pim", "hbm2-pim-samsung", "gddr6-aim"] {
        // Of a column of 32 B: its elements, and passes of 16 lanes.
        for (bytes, elements, passes) in [(1, 32, 2), (2, 16, 1), (4, 8, 1)] {
            let s = system(name, &["refresh=none", "channels=1", &format!("element_bytes={bytes}")]);
            let (g, t) = (&s.device.geometry, |n: &str| s.device.timings[n]);
            let base = if name == "hbm3-pim" { t("nCCDAB") } else { t("nCCDL") };
            let shared = if name == "hbm2-pim-samsung" { 2 } else { 1 };
            let (cycles, c) = run(&s, &[macs(g, 5, 8)]);
            let activation = if name == "gddr6-aim" { t("nRCDRDMAC") } else { t("nRCDRD") };
            let gap = base.max(passes * t("nCCDL"));
            assert_eq!(cycles, activation + (8 * shared - 1) * gap + 1, "{name} {bytes}");
            // The energy of a multiplication is the same whatever the width, and the column is read once.
            let energy = pimattn_stats::energy::Energy::of(&c.run.counters, 0, &s.device, s.energy);
            let columns = f64::from(8 * g.banks_per_channel());
            assert!((energy.compute / (columns * f64::from(elements) * 0.32) - 1.0).abs() < 1e-12, "{name} {bytes}");
            assert!((energy.column / (columns * 256.0 * 0.44) - 1.0).abs() < 1e-12);
        }
        let file = root().join(format!("configs/system/{name}.toml"));
        let e = load(&file, &["element_bytes=3"]).unwrap_err();
        assert!(e.to_string().contains("element_bytes=3: a column of 32 B"), "{e}");
    }
    // A quarter of the lanes takes four passes.
    let text = std::fs::read_to_string(root().join("configs/dram/hbm3-pim.toml")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("few-lanes.toml");
    std::fs::write(&file, text.replace("lanes = 16 ", "lanes = 4 ")).unwrap();
    let s = system("hbm3-pim", &["refresh=none", &format!("dram.device={}", file.display())]);
    let t = |n: &str| s.device.timings[n];
    assert_eq!(cycles(&s, &[macs(&s.device.geometry, 5, 8)]), t("nRCDRD") + 7 * 4 * t("nCCDL") + 1);
}

#[test]
fn a_softmax_takes_as_long_as_it_has_entries() {
    let s = system("hbm3-pim", &["refresh=none"]);
    let g = &s.device.geometry;
    let softmax = |entries| one(g, Op::Sfm, g.softmax_addresses(entries).next().unwrap());
    let (barrier, back) = (one(g, Op::Barrier, Address::default()), one(g, Op::MvGb, Address::default()));
    for entries in [0, 1, 16, 4097] {
        // AttAcc's generator: 16 cycles for 256 scores; a cycle more until what follows may use them.
        let gap = (entries + 1).max(s.device.timings["nCCDL"]);
        assert_eq!(cycles(&s, &[softmax(entries), barrier, back]), gap + 1, "{entries}");
        // The unit takes one after the other.
        let second = entries.max(s.device.timings["nCCDL"]);
        assert_eq!(cycles(&s, &[softmax(entries), softmax(7)]), second + 8);
    }
    // A long one outlasts any number of refreshes.
    let s = system("hbm3-pim", &[]);
    let long = s.device.nrefi * 80;
    assert_eq!(cycles(&s, &[softmax(long), barrier, back]), long + 2);
    let host = Request { op: Op::Host, count: 1 << 20, ..barrier };
    assert_eq!(cycles(&s, &[back, host, back]), (1 << 20) + 2);
    for controller in ["samsung", "aim"] {
        let name = if controller == "aim" { "gddr6-aim" } else { "hbm2-pim-samsung" };
        let s = system(name, &["refresh=none"]);
        assert_eq!(
            cycles(&s, &[one(&s.device.geometry, Op::Sfm, Address { row: 9, ..Default::default() })]),
            1,
            "{name}"
        );
    }
}

#[test]
fn a_change_of_mode_takes_its_time() {
    let s = system("hbm2-pim-samsung", &["refresh=none"]);
    let (g, t) = (&s.device.geometry, |n: &str| s.device.timings[n]);
    let load = one(g, Op::Ld, Address { row: 5, ..Default::default() });
    let mode = t("nRCDWR") + t("nCWL") + t("nBL") + t("nWR") + t("nRP");
    // The row that the read opened must close for the activation of all banks, which waits for the mode.
    let activate = (t("nRCDRD") + mode).max(t("nRAS") + t("nRP"));
    let barrier = one(g, Op::Barrier, Address::default());
    assert_eq!(cycles(&s, &[load, barrier, macs(g, 5, 1)]), activate + t("nRCDRD") + t("nCCDL") + 1);
}

#[test]
fn refresh_takes_nrfc_of_each_nrefi() {
    for name in SYSTEMS {
        let s = system(name, &["channels=1"]);
        let g = &s.device.geometry;
        let (nrefi, nrfc) = (s.device.nrefi, s.device.timings["nRFC"]);
        let read = |i: u32| {
            let place =
                Address { bank_group: i % g.bank_groups, column: i / g.bank_groups % g.columns, ..Default::default() };
            one(g, Op::Ld, place)
        };
        let (cycles, c) = run(&s, &(0..20_000).map(read).collect::<Vec<_>>());
        let (refresh, _) = s.device.refresh.unwrap();
        let refreshes = c.run.counters.issued[usize::from(refresh)];
        assert!(refreshes >= 5, "{name}");
        assert_eq!(refreshes, (cycles - 1) / nrefi, "{name}");
        let share = (refreshes * nrfc) as f64 / cycles as f64;
        assert!((share - nrfc as f64 / nrefi as f64).abs() <= nrfc as f64 / cycles as f64, "{name}: {share}");
    }
}

// ------------------------------------------------------------------------------------------------ a new device

const TOY: &str = r#"
name = "Toy"
sources = { us = "made up for this test" }
organisation.small = { source = "us", density = "0.0625 Gb", pseudo_channels = 1, ranks = 1, bank_groups = 2, banks = 2, rows = 4096, columns = 16, column = "32 B" }
timing.slow = { source = "us", rate = "500 MT/s", tCK = "2 ns", nBL = "2 tCK", nCL = "10 ns", nCWL = "2 tCK", nRCD = "14 ns", nRP = "14 ns", nCCD = "3 tCK", nREFI = "1000 tCK" }
refresh_time = { source = "us", "0.0625 Gb" = "100 ns" }
pim = { source = "us", lanes = 8, element = "4 B", entry = "16 B" }
command = [
  { name = "OPEN", bus = "row", scope = "bank", effect = "open" },
  { name = "CLOSE", bus = "row", scope = "bank", effect = "close" },
  { name = "LOOK", bus = "column", scope = "bank", effect = "read", serves = "LD", opener = "OPEN", closer = "CLOSE", done = "nCL + nBL" },
  { name = "OPENALL", bus = "row", scope = "channel", effect = "open" },
  { name = "CLOSEALL", bus = "row", scope = "channel", effect = "close" },
  { name = "TIMES", bus = "column", scope = "channel", effect = "mac", serves = "PIM_MAC_AB", opener = "OPENALL", closer = "CLOSEALL", passes = 4 },
  { name = "REST", bus = "row", scope = "channel", effect = "refresh", closer = "CLOSEALL" },
]
energy = { source = "us", activation = "100 pJ", cell_column = "1 pJ/b", cell_activation = "0.2 pJ/b", mac = "1 pJ", background = "1 mW", refreshes_per_window = { value = 4096, source = "us" } }

[[constraints]]
set = "reference"
source = "us"
edges = [
  { level = "bank", from = ["OPEN", "OPENALL"], to = ["LOOK", "TIMES"], latency = "nRCD" },
  { level = "bank", from = ["CLOSE", "CLOSEALL"], to = ["OPEN", "OPENALL", "REST"], latency = "nRP" },
  { level = "channel", from = ["LOOK", "TIMES"], to = ["LOOK", "TIMES"], latency = "nCCD" },
  { level = "channel", from = ["REST"], to = ["OPEN", "OPENALL"], latency = "nRFC" },
]
"#;

const TOY_SYSTEM: &str = r#"
name = "toy"
channels = 3
controller = "pim"
queue_depth = 8
refresh = "all-bank"
power = "ignore"
energy = "per-command"
dram = { device = "toy.toml", organisation = "small", timing = "slow" }
"#;

/// A system on the toy device, of which one piece of text is replaced.
fn toy(from: &str, to: &str, set: &[&str]) -> Result<System, pimattn_core::error::Error> {
    let dir = tempfile::tempdir().unwrap();
    assert!(from.is_empty() || TOY.contains(from), "{from}");
    std::fs::write(dir.path().join("toy.toml"), if from.is_empty() { TOY.into() } else { TOY.replace(from, to) })
        .unwrap();
    let file = dir.path().join("system.toml");
    std::fs::write(&file, TOY_SYSTEM).unwrap();
    load(&file, set)
}

#[test]
fn one_file_is_enough_for_a_new_device() {
    let s = toy("", "", &[]).unwrap();
    let g = &s.device.geometry;
    assert_eq!((g.channels, g.banks_per_channel(), s.device.lanes, s.device.assumed.len()), (3, 4, 8, 0));
    // 14 ns are 7 cycles, 10 ns are 5.
    let read = one(g, Op::Ld, Address { channel: 2, row: 9, ..Default::default() });
    assert_eq!(cycles(&s, &[read]), 7 + 5 + 2);
    // Four banks share one unit: four commands for a column of all.
    let (cycles, c) = run(&s, &[macs(g, 1, 10)]);
    assert_eq!(cycles, 7 + 39 * 3 + 1);
    let energy = pimattn_stats::energy::Energy::of(&c.run.counters, 0, &s.device, s.energy);
    assert_eq!((energy.activation, energy.column), (400.0, 10.0 * 4.0 * 256.0));
    assert_eq!(energy.compute, 10.0 * 4.0 * 8.0);
    let (cycles, c) =
        run(&s, &[macs(g, 1, 16), macs(g, 2, 16), macs(g, 3, 16), macs(g, 4, 16), macs(g, 5, 16), macs(g, 6, 16)]);
    assert_eq!(c.run.counters.issued[6], 3 * ((cycles - 1) / 1000), "refreshes in three channels");
}

#[test]
fn a_device_may_have_no_refresh_and_no_processing_units() {
    let plain = TOY
        .lines()
        .filter(|l| !["pim =", "refresh_time"].iter().any(|k| l.starts_with(k)))
        .filter(|l| !l.contains("effect = \"mac\"") && !l.contains("effect = \"refresh\""))
        .map(|l| l.replace(", \"TIMES\"", "").replace(", \"REST\"", "").replace(", mac = \"1 pJ\"", ""))
        .filter(|l| !l.contains("from = [\"REST\"]"))
        .map(|l| l.replace(", cell_activation = \"0.2 pJ/b\"", "").replace(", nREFI = \"1000 tCK\"", ""))
        .map(|l| l.replace(", refreshes_per_window = { value = 4096, source = \"us\" }", ""))
        .collect::<Vec<_>>()
        .join("\n");
    let s = toy(TOY, &plain, &["refresh=none"]).unwrap();
    let read = one(&s.device.geometry, Op::Ld, Address::default());
    assert_eq!((cycles(&s, &[read]), s.device.lanes, s.device.refresh), (14, 0, None));
    let e = toy(TOY, &plain, &[]).unwrap_err();
    assert!(e.to_string().contains("Toy has no refresh command; use \"none\""), "{e}");
}

#[test]
fn what_a_device_file_lacks_is_said() {
    for (from, to, what) in [
        (", mac = \"1 pJ\"", "", "mac is missing"),
        ("pim = { source = \"us\", lanes = 8, element = \"4 B\", entry = \"16 B\" }", "", "no [pim]"),
        ("\"0.0625 Gb\" = \"100 ns\"", "\"1 Gb\" = \"100 ns\"", "no refresh time for a density of 0.0625 Gb"),
        ("density = \"0.0625 Gb\"", "density = \"1 Gb\"", "are 0.0625 Gb, not 1 Gb"),
        ("passes = 4", "passes = 3", "3 passes over 4 banks"),
        ("effect = \"read\", serves", "effect = \"read\", passes = 2, serves", "2 passes over 1 banks"),
        ("done = \"nCL + nBL\"", "path = [\"tsv\"]", "tsv is missing"),
        (", refreshes_per_window = { value = 4096, source = \"us\" }", "", "refreshes_per_window is missing"),
        ("latency = \"nCCD\"", "latency = \"nCCF\"", "did you mean \"nCCD\"?"),
        ("lanes = 8", "lines = 8", "did you mean \"lanes\"?"),
        ("lanes = 8", "lanes = 8, accumulators = { value = 0, source = \"us\" }", "accumulators = 0"),
        ("lanes = 8", "lanes = 8, heads_per_read = { value = 0, source = \"us\" }", "heads_per_read = 0"),
        (
            "lanes = 8",
            "lanes = 8, heads_per_read = { value = 99, source = \"us\" }",
            "heads_per_read = 99 is not in 1..=",
        ),
        ("effect = \"read\", serves", "effect = \"read\", done_per_entry = \"1\", serves", "only a softmax has this"),
        (
            "level = \"bank\", from = [\"OPEN\"",
            "level = \"rank\", apart = \"bank\", from = [\"OPEN\"",
            "level right below",
        ),
        (
            "level = \"channel\", from = [\"LOOK\"",
            "level = \"rank\", apart = \"bank-group\", from = [\"LOOK\"",
            "TIMES may reach",
        ),
    ] {
        let e = toy(from, to, &[]).unwrap_err();
        assert!(e.to_string().contains(what) && e.exit_code() == EXIT_CONFIG, "{from} -> {to}: {e}");
    }
}

// ------------------------------------------------------------------------------------------------ power

/// When the row commands of `requests` issue that open rows, from how long each prefix takes to its MAC.
fn opened_by(s: &System, units: u32) -> u64 {
    let g = &s.device.geometry;
    let open = |unit: u32| one(g, Op::ActBg, Address { row: 9, ..g.unit_address(0, unit) });
    let work: Vec<Request> = (0..units).map(open).chain([Request { op: Op::MacBg, ..macs(g, 0, 1) }]).collect();
    cycles(s, &work) - s.device.timings["nRCDRD"] - 1
}

#[test]
fn a_charge_budget_counts_banks_in_a_sliding_window() {
    let charge = |activations: u32, window: u32| {
        let set = [
            "refresh=none".to_string(),
            "power=charge".to_string(),
            "dram.organisation=HBM3_4Gb_1R".to_string(),
            format!("power_budget.activations={activations}"),
            format!("power_budget.window=\"{window} tCK\""),
        ];
        system("hbm3-pim", &set.iter().map(String::as_str).collect::<Vec<_>>())
    };
    // Bank groups of one rank open four banks each, two cycles apart, as many as the budget has room for.
    for (activations, last) in [(16, [0, 2, 4, 6]), (20, [0, 2, 4, 6])] {
        let s = charge(activations, 100);
        assert_eq!([1, 2, 3, 4].map(|n| opened_by(&s, n)), last);
    }
    // All banks of a rank at once fill a budget of 16: the next activation of anything waits for the window.
    let s = charge(16, 300);
    let (g, t) = (s.device.geometry, s.device.timings.clone());
    let rcd = t["nRCDRD"];
    let ld = |row| one(&g, Op::Ld, Address { row, ..Default::default() });
    assert_eq!(cycles(&s, &[macs(&g, 0, 1), macs(&g, 1, 1)]), 300 + rcd + 1);
    // With room for one bank more, one ACT fits beside it, and then none.
    let s = charge(17, 300);
    let barrier = one(&g, Op::Barrier, Address::default());
    let read = rcd + t["nCL"] + t["nBL"];
    assert_eq!(cycles(&s, &[macs(&g, 0, 1), barrier, ld(1)]), t["nRAS"] + t["nRP"] + read);
    let second = cycles(&s, &[macs(&g, 0, 1), barrier, ld(1), barrier, ld(2)]);
    assert_eq!(second, 300 + read, "the banks opened at 0 make room for the second ACT");
    // Room for two all-bank activations: the third waits for the first, wherever the second was.
    let s = charge(32, 300);
    let row_cycle = t["nRC"].max(t["nRAS"] + t["nRP"]);
    assert_eq!(cycles(&s, &[macs(&g, 0, 1), macs(&g, 1, 1)]), row_cycle + rcd + 1);
    assert_eq!(cycles(&s, &[macs(&g, 0, 1), macs(&g, 1, 1), macs(&g, 2, 1)]), 300 + rcd + 1);
}

#[test]
fn the_shipped_budget_lets_all_banks_open_once_in_each_tfaw() {
    let s = system("hbm3-pim", &["refresh=none", "power=charge"]);
    let per_command = system("hbm3-pim", &["refresh=none"]);
    let g = &s.device.geometry;
    let work: Vec<Request> = (0..64).map(|i| macs(g, i, 1)).collect();
    assert_eq!(cycles(&s, &work), cycles(&per_command, &work), "tRC is longer than the window");
    assert_eq!(opened_by(&s, 16), opened_by(&per_command, 16));
}

#[test]
fn an_impossible_budget_is_an_error() {
    let file = root().join("configs/system/hbm3-pim.toml");
    let error = |set: &[&str]| {
        let e = load(&file, set).unwrap_err();
        assert_eq!(e.exit_code(), EXIT_CONFIG);
        e.to_string()
    };
    let e = error(&["power=charge", "power_budget.activations=15"]);
    assert!(e.contains("--set power_budget.activations=15: ACTAB opens 16 banks of a rank; the budget is 15"), "{e}");
    let e = error(&["power=charge", "power_budget.window=0 tCK"]);
    assert!(e.contains("0 tCK"), "{e}");
    let e = toy("", "", &["power=charge"]).unwrap_err().to_string();
    assert!(e.contains("needs a [power_budget] here or in Toy"), "{e}");
    assert!(toy("", "", &["power=charge", "power_budget.activations=4", "power_budget.window=50 ns"]).is_ok());
}
