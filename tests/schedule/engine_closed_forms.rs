//! The engine against closed forms: what a designer can work out with a pencil must come out to the cycle, on every
//! timing preset.

use crate::common;

use common::Memory;
use pimattn::cli::exit::{EXIT_DATA, ExitStatus};
use pimattn_core::addr::{Address, Geometry};
use pimattn_core::op::Op;
use pimattn_core::spec::System;
use pimattn_engine as engine;
use pimattn_stats::Collector;
use pimattn_trace::{Header, Record, Request};
use std::path::Path;

const PRESETS: [&str; 10] = [
    "HBM3_4.8Gbps",
    "HBM3_4.8Gbps_NPC",
    "HBM3_5.2Gbps",
    "HBM3_5.2Gbps_NPC",
    "HBM3_5.6Gbps",
    "HBM3_5.6Gbps_NPC",
    "HBM3_6.0Gbps",
    "HBM3_6.0Gbps_NPC",
    "HBM3_6.4Gbps",
    "HBM3_6.4Gbps_NPC",
];

fn system(set: &[&str]) -> System {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/system/hbm3-pim.toml");
    System::load(&file, &set.iter().map(|s| s.to_string()).collect::<Vec<_>>()).unwrap()
}

fn run(system: &System, requests: &[Request]) -> (u64, Collector) {
    let records = requests.iter().map(|r| Record::Request(*r)).collect();
    let mut source = Memory { header: Header::foreign(system.device.geometry, "test"), records };
    let mut collector = Collector::new(&system.device);
    let cycles = engine::run(system, &mut source, &mut collector, &mut |_| ()).unwrap();
    (cycles, collector)
}

fn cycles(system: &System, requests: &[Request]) -> u64 {
    run(system, requests).0
}

fn at(g: &Geometry, address: Address) -> u64 {
    g.encode(&address)
}

/// `n` MACs over the columns of a row of channel 0.
fn macs(g: &Geometry, row: u32, n: u32) -> Request {
    let addr = at(g, Address { row, ..Default::default() });
    Request { op: Op::MacAb, addr, count: n, stride: g.column_bytes }
}

/// Calls `check` with each preset, its timings by name, and refresh off.
fn each_preset(check: impl Fn(&System, &dyn Fn(&str) -> u64)) {
    for preset in PRESETS {
        let system = system(&[&format!("dram.timing={preset}"), "refresh=none"]);
        let timings = system.device.timings.clone();
        check(&system, &|name| timings[name]);
    }
}

#[test]
fn one_mac_from_idle_takes_the_activation_and_itself() {
    each_preset(|s, t| assert_eq!(cycles(s, &[macs(&s.device.geometry, 5, 1)]), t("nRCDRD") + 1));
}

#[test]
fn back_to_back_macs_come_at_the_rate_of_nccdab() {
    each_preset(|s, t| {
        for n in [2, 7, 32] {
            let expected = t("nRCDRD") + u64::from(n - 1) * t("nCCDAB") + 1;
            assert_eq!(cycles(s, &[macs(&s.device.geometry, 0, n)]), expected);
        }
    });
}

#[test]
fn a_row_switch_costs_precharge_and_activation_but_not_before_nras_and_nrc() {
    each_preset(|s, t| {
        let g = &s.device.geometry;
        for n in [1, 32] {
            let last_mac = t("nRCDRD") + u64::from(n - 1) * t("nCCDAB");
            let precharge = (last_mac + t("nRTPL")).max(t("nRAS"));
            let activate = (precharge + t("nRP")).max(t("nRC"));
            assert_eq!(cycles(s, &[macs(g, 0, n), macs(g, 1, 1)]), activate + t("nRCDRD") + 1);
        }
    });
}

#[test]
fn the_peak_internal_bandwidth_is_that_of_all_banks_each_nccdab() {
    each_preset(|s, t| {
        let g = &s.device.geometry;
        let (short, a) = run(s, &[macs(g, 0, 8)]);
        let (long, b) = run(s, &[macs(g, 0, 32)]);
        let mac = usize::from(s.device.plans[Op::MacAb as usize].unwrap().last);
        let bytes = (b.run.counters.banks[mac] - a.run.counters.banks[mac]) * u64::from(g.column_bytes);
        let rate = bytes as f64 / (long - short) as f64;
        assert_eq!(rate, 64.0 * 32.0 / t("nCCDAB") as f64);
        assert_eq!(Some(rate), s.device.peak_bytes_per_cycle());
    });
}

#[test]
fn refresh_takes_nrfc_of_each_nrefi() {
    for preset in PRESETS {
        let s = system(&[&format!("dram.timing={preset}")]);
        let g = &s.device.geometry;
        let (nrefi, nrfc) = (s.device.nrefi, s.device.timings["nRFC"]);
        let work: Vec<Request> = (0..3000).map(|i| macs(g, i % 2, 32)).collect();
        let (cycles, c) = run(&s, &work);
        let (refresh, _) = s.device.refresh.unwrap();
        let per_channel = (cycles - 1) / nrefi;
        assert_eq!(c.run.counters.issued[usize::from(refresh)], per_channel * u64::from(g.channels));
        let share = (per_channel * nrfc) as f64 / cycles as f64;
        let expected = nrfc as f64 / nrefi as f64;
        // The run ends somewhere within a refresh interval.
        let cut = nrfc as f64 / cycles as f64;
        assert!((share - expected).abs() <= cut, "{preset}: {share} against {expected}");
    }
}

#[test]
fn a_refresh_stops_the_macs_for_precharge_refresh_and_activation() {
    let (on, off) = (system(&[]), system(&["refresh=none"]));
    let g = &on.device.geometry;
    let t = |name: &str| on.device.timings[name];
    // Rows long enough to meet exactly one refresh, in the middle of a row.
    let work: Vec<Request> = (0..30).map(|i| macs(g, i, 32)).collect();
    let (with, without) = (cycles(&on, &work), cycles(&off, &work));
    assert!(with > on.device.nrefi && with < 2 * on.device.nrefi);
    let least = t("nRP") + t("nRFC") + t("nRCDRD");
    let most = least + t("nRTPL") + t("nCCDAB") + t("nRAS");
    assert!((least..=most).contains(&(with - without)), "{} not in {least}..={most}", with - without);
}

#[test]
fn bank_groups_open_their_rows_one_after_the_other_then_multiply_together() {
    each_preset(|s, t| {
        let g = &s.device.geometry;
        let open = |unit: u32| {
            let address = Address { row: 100 + unit, ..g.unit_address(0, unit) };
            Request::one(Op::ActBg, at(g, address))
        };
        for units in [1, 4, 16] {
            let mut work: Vec<Request> = (0..units).map(open).collect();
            work.push(Request { op: Op::MacBg, ..macs(g, 0, 4) });
            // An activation takes the row bus for two cycles; four per rank fit into one tFAW, and there are four ranks.
            let last_activation = 2 * u64::from(units - 1);
            let expected = last_activation + t("nRCDRD") + 3 * t("nCCDAB") + 1;
            let (cycles, c) = run(s, &work);
            assert_eq!(cycles, expected);
            let mac = usize::from(s.device.plans[Op::MacBg as usize].unwrap().last);
            assert_eq!(c.run.counters.banks[mac], u64::from(4 * units * g.banks), "only opened units multiply");
        }
    });
}

#[test]
fn a_second_round_of_one_rank_waits_for_its_row_cycle() {
    each_preset(|s, t| {
        let g = &s.device.geometry;
        let round = |row: u32| {
            let open = Request::one(Op::ActBg, at(g, Address { row, ..g.unit_address(0, 3) }));
            [open, Request { op: Op::MacBg, ..macs(g, 0, 1) }]
        };
        let precharge = t("nRAS").max(t("nRCDRD") + t("nRTPL"));
        let activate = (precharge + t("nRP")).max(t("nRC"));
        assert_eq!(cycles(s, &[round(1), round(2)].concat()), activate + t("nRCDRD") + 1);
        assert_eq!(cycles(s, &[round(1), round(1)].concat()), t("nRCDRD") + t("nCCDAB") + 1, "the row is open already");
    });
}

/// `n` rounds of two MACs in all units, each at rows of its own; the units are asked for in the order of `unit`.
fn rounds(g: &Geometry, n: u32, unit: impl Fn(u32) -> u32) -> Vec<Request> {
    let open = |row: u32, i: u32| Request::one(Op::ActBg, at(g, Address { row, ..g.unit_address(0, unit(i)) }));
    let round =
        |row: u32| (0..g.units()).map(|i| open(row, i)).chain([Request { op: Op::MacBg, ..macs(g, 0, 2) }]).collect();
    (1..=n).flat_map(|row| -> Vec<Request> { round(row) }).collect()
}

#[test]
fn units_change_their_rows_beside_each_other() {
    each_preset(|s, t| {
        let g = &s.device.geometry;
        let last_mac = 15 * 2 + t("nRCDRD") + t("nCCDAB");
        // The first unit closes behind the last MAC, the others a cycle apart; then one opens every two cycles.
        let first_open = (last_mac + t("nRTPL")).max(t("nRAS")) + t("nRP");
        let second_round = first_open.max(t("nRC")) + 15 * 2 + t("nRCDRD") + t("nCCDAB") + 1;
        assert_eq!(cycles(s, &rounds(g, 2, |i| i)), second_round);
    });
    let s = system(&["refresh=none"]);
    assert_eq!(cycles(&s, &rounds(&s.device.geometry, 2, |i| i)), 138, "by hand, at 5.2 Gbps");
}

#[test]
fn the_order_in_which_units_are_asked_for_makes_no_difference() {
    for power in ["per-command", "ignore", "charge", "stagger"] {
        let s = system(&["refresh=none", &format!("power={power}")]);
        let g = &s.device.geometry;
        let in_order = cycles(&s, &rounds(g, 3, |i| i));
        for order in [|i| 15 - i, |i| i * 7 % 16, |i| i % 4 * 4 + i / 4] {
            assert_eq!(cycles(&s, &rounds(g, 3, order)), in_order, "{power}");
        }
        let one_mac: Vec<Request> = rounds(g, 1, |i| i).into_iter().map(|r| Request { count: 1, ..r }).collect();
        let expected = if power == "stagger" { 149 } else { 50 };
        assert_eq!(cycles(&s, &one_mac), expected, "{power}");
    }
}

#[test]
fn a_unit_that_a_round_leaves_out_opens_beside_its_macs() {
    each_preset(|s, t| {
        let g = &s.device.geometry;
        let open = |unit: u32| Request::one(Op::ActBg, at(g, Address { row: 7, ..g.unit_address(0, unit) }));
        let close = |unit: u32| Request::one(Op::PreBg, at(g, g.unit_address(0, unit)));
        let mac = |n| Request { op: Op::MacBg, ..macs(g, 0, n) };
        let (cycles, c) = run(s, &[open(0), mac(10), close(0), open(5), mac(1)]);
        let mac = |n: u64| t("nRCDRD") + n * t("nCCDAB");
        // Unit 5 is open by then, and unit 0 closes behind its last MAC.
        assert_eq!(cycles, mac(10).max(mac(9) + t("nRTPL")) + 1);
        let banks = c.run.counters.banks[usize::from(s.device.plans[Op::MacBg as usize].unwrap().last)];
        assert_eq!(banks, u64::from(11 * g.banks), "and has no part in the first round");
    });
}

#[test]
fn power_policies_order_as_their_physics() {
    let time = |policy: &str| {
        let s = system(&["refresh=none", &format!("power={policy}")]);
        let g = s.device.geometry;
        // One rank's four bank groups, then all banks at another row.
        let open = |unit: u32| Request::one(Op::ActBg, at(&g, Address { row: 9, ..g.unit_address(0, unit) }));
        let bank_groups =
            cycles(&s, &[open(0), open(1), open(2), open(3), Request { op: Op::MacBg, ..macs(&g, 0, 1) }]);
        (bank_groups, cycles(&s, &[macs(&g, 0, 1)]))
    };
    let t = system(&[]).device.timings;
    let (rcd, faw, rrd) = (t["nRCDRD"], t["nFAW"], t["nRRDS"]);
    assert_eq!(time("ignore"), (3 * 2 + rcd + 1, rcd + 1));
    assert_eq!(time("per-command"), (3 * rrd.max(2) + rcd + 1, rcd + 1));
    // Each ACTBG opens four banks and uses a whole window; ACTAB opens sixteen of each rank, four a window.
    assert_eq!(time("stagger"), (3 * faw + 3 * rrd + rcd + 1, 3 * faw + 3 * rrd + rcd + 1));
}

#[test]
fn a_read_from_idle_and_a_hit_behind_it() {
    each_preset(|s, t| {
        let g = &s.device.geometry;
        let read = |column: u32| Request::one(Op::Ld, at(g, Address { row: 3, column, ..Default::default() }));
        let first = t("nRCDRD") + t("nCL") + t("nBL");
        assert_eq!(cycles(s, &[read(0)]), first);
        assert_eq!(cycles(s, &[read(0), read(1)]), first + t("nCCDL"));
        let write = Request::one(Op::St, at(g, Address { row: 3, column: 1, ..Default::default() }));
        assert_eq!(cycles(s, &[write]), t("nRCDWR") + t("nCWL") + t("nBL"));
        let turn = t("nCL") + t("nBL") + 2 - t("nCWL");
        assert_eq!(cycles(s, &[read(0), Request::one(Op::Barrier, 0), write]).max(first), {
            // Behind a barrier the write waits for the read's data, which is later than the turnaround.
            let data = first.max(t("nRCDRD") + turn);
            data + t("nCWL") + t("nBL")
        });
    });
}

#[test]
fn buffer_moves_come_at_nccdl_within_and_nbl_across_bank_groups() {
    each_preset(|s, t| {
        let g = &s.device.geometry;
        let entry = |bank_group: u32| at(g, Address { bank_group, ..Default::default() });
        let same = Request { op: Op::WrGb, addr: entry(0), count: 8, stride: 1 };
        assert_eq!(cycles(s, &[same]), 7 * t("nCCDL") + 1);
        let across: Vec<Request> = (0..4).map(|bg| Request::one(Op::WrGb, entry(bg))).collect();
        assert_eq!(cycles(s, &across), 3 * t("nBL") + 1);
    });
}

#[test]
fn moves_run_beside_macs_and_barriers_keep_them_apart() {
    let s = system(&["refresh=none"]);
    let g = &s.device.geometry;
    let t = |name: &str| s.device.timings[name];
    let moves = Request { op: Op::WrGb, addr: 0, count: 8, stride: 1 };
    let alone = cycles(&s, &[macs(g, 0, 32)]);
    assert!(cycles(&s, &[moves, macs(g, 0, 32)]) <= alone + 1, "the column bus is shared, no more");
    let barrier = Request::one(Op::Barrier, 0);
    let moves_alone = 7 * t("nCCDL") + 1;
    // The row opens while the moves run; the MACs begin when the last move is done.
    assert_eq!(cycles(&s, &[moves, barrier, macs(g, 0, 32)]), moves_alone.max(t("nRCDRD")) + 31 * t("nCCDAB") + 1);
    assert_eq!(cycles(&s, &[macs(g, 0, 32), barrier, moves]), alone + moves_alone);
}

#[test]
fn channels_are_independent_until_they_meet() {
    let s = system(&["refresh=none"]);
    let g = &s.device.geometry;
    let on = |channel: u32, n: u32| Request { addr: at(g, Address { channel, ..Default::default() }), ..macs(g, 0, n) };
    let long = cycles(&s, &[on(0, 32)]);
    assert_eq!(cycles(&s, &[on(0, 32), on(1, 5), on(15, 32)]), long);
    let sync = Request::one(Op::Sync, 0);
    // Channel 1 is done early and waits; its row is still open.
    let after = cycles(&s, &[on(0, 32), on(1, 5), sync, on(1, 1)]);
    assert_eq!(after, long + 1);
    assert_eq!(cycles(&s, &[sync, sync, on(3, 32)]), long);
}

#[test]
fn an_operation_that_nothing_opened_is_an_error_not_a_hang() {
    let s = system(&[]);
    let mac = Request { op: Op::MacBg, ..macs(&s.device.geometry, 0, 1) };
    let records = vec![Record::Request(mac)];
    let mut source = Memory { header: Header::foreign(s.device.geometry, "test"), records };
    let e = engine::run(&s, &mut source, &mut (), &mut |_| ()).unwrap_err();
    assert_eq!(e.exit_code(), EXIT_DATA);
    assert!(e.to_string().contains("no bank group open"), "{e}");
}

#[test]
fn energy_is_the_sum_of_what_the_commands_do() {
    let s = system(&["refresh=none"]);
    let (cycles, c) = run(&s, &[macs(&s.device.geometry, 0, 32)]);
    let of = |model| pimattn_stats::energy::Energy::of(&c.run.counters, cycles * 16, &s.device, model);
    use pimattn_core::spec::system::EnergyModel::{PerByte, PerCommand};
    let (e, b) = (of(PerCommand), of(PerByte));
    let bits = 32.0 * 64.0 * 32.0 * 8.0;
    assert_eq!(e.activation, 64.0 * 909.0);
    assert!((e.column - bits * 0.44).abs() < 1e-6);
    assert!((e.compute - 32.0 * 64.0 * 16.0 * 0.32).abs() < 1e-6);
    assert!((e.background - 2.0 * 66.0 * 16.0 * cycles as f64 * 0.769).abs() < 1e-3);
    // A fully used row costs the same in both models, to the rounding of 909 pJ / 8192 b.
    assert!((b.activation / e.activation - 1.0).abs() < 0.01);
    assert_eq!((b.refresh, b.background, b.column), (0.0, 0.0, e.column));
}
