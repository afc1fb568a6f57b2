//! docs/power.md.

use super::{Trace, prose, table, whole};
use crate::common::system;
use pimattn_core::spec::System;
use rayon::prelude::*;
use std::fmt::Write as _;

/// Decode steps of the demo that are replayed.
const STEPS: &str = "steps=32";
const POLICIES: [&str; 4] = ["full", "quest", "starc", "sparq"];
const ADDRESSINGS: [&str; 2] = ["bank-group", "broadcast"];

/// Overrides of the system, with what the table calls them; per-command is the first.
fn supplies() -> Vec<(String, System)> {
    let charge = |n: u32, ns: u32| {
        let set = [format!("power_budget.activations={n}"), format!("power_budget.window={ns} ns")];
        (format!("charge {n} in {ns} ns"), system("hbm3-pim", &["power=charge", &set[0], &set[1]]))
    };
    let of = |name: &str| (name.to_string(), system("hbm3-pim", &[&format!("power={name}")]));
    let shipped = ("charge, shipped".to_string(), system("hbm3-pim", &["power=charge"]));
    let charges = [(16, 60), (16, 120), (32, 120)].map(|(n, ns)| charge(n, ns));
    [of("per-command"), of("ignore"), shipped].into_iter().chain(charges).chain([of("stagger")]).collect()
}

/// Change against per-command in percent.
fn change(cycles: u64, base: u64) -> f64 {
    (cycles as f64 / base as f64 - 1.0) * 100.0
}

/// With so many decimals that what differs does not look the same.
fn said(cycles: u64, base: u64) -> String {
    let percent = change(cycles, base);
    match percent.abs() {
        _ if cycles == base => "same".into(),
        x if x >= 0.05 => format!("{percent:+.1} %"),
        x if x >= 0.005 => format!("{percent:+.2} %"),
        _ => format!("{percent:+.4} %"),
    }
}

/// Cycles of policies, addressings and supplies, and what follows from them.
pub(super) fn policies(_: &str) -> String {
    let supplies = supplies();
    let points: Vec<(&str, &str)> = POLICIES.iter().flat_map(|p| ADDRESSINGS.map(|a| (*p, a))).collect();
    let cycles: Vec<Vec<u64>> = points
        .par_iter()
        .map(|(policy, addressing)| {
            let (policy, addressing) = (format!("policy={policy}"), format!("mapping.addressing={addressing}"));
            let trace = Trace::generate("demo", &[&policy, &addressing, STEPS]);
            supplies.par_iter().map(|(_, system)| trace.cycles(system)).collect()
        })
        .collect();
    let names: Vec<&str> = supplies.iter().map(|(name, _)| name.as_str()).collect();
    let head: Vec<&str> = ["policy, addressing"].into_iter().chain(names.iter().copied()).collect();
    let numbers: Vec<bool> = (0..head.len()).map(|i| i > 0).collect();
    let mut out = table(
        &head,
        &numbers,
        points.iter().zip(&cycles).map(|((policy, addressing), row)| {
            let cells = row[1..].iter().map(|c| said(*c, row[0]));
            [format!("{policy}, {addressing}"), whole(row[0])].into_iter().chain(cells).collect()
        }),
    );

    let column = |name: &str| names.iter().position(|n| *n == name).unwrap();
    let most = |columns: &[usize]| -> f64 {
        let changes = cycles.iter().flat_map(|row| columns.iter().map(|c| change(row[*c], row[0]).abs()));
        changes.fold(0.0, f64::max)
    };
    let lenient = most(&[column("ignore"), column("charge, shipped")]);
    let quarter = most(&[column("charge 16 in 120 ns")]);
    let mut text = match lenient {
        0.0 => "`per-command`, `ignore` and the shipped `charge` agree to the cycle in every row.".to_string(),
        x => format!("`ignore` and the shipped `charge` are within {x:.2} % of `per-command` in every row."),
    };
    write!(text, " A quarter of the shipped budget costs at most {quarter:.1} %.").unwrap();
    // What staggering costs, by addressing: of full attention, and of the sparse policies.
    for addressing in ADDRESSINGS {
        let stagger = |policy: &str| {
            let row = &cycles[points.iter().position(|p| *p == (policy, addressing)).unwrap()];
            change(row[column("stagger")], row[0])
        };
        let (full, sparse) = (stagger("full"), POLICIES[1..].iter().map(|p| stagger(p)).collect::<Vec<_>>());
        let least = sparse.iter().copied().fold(f64::INFINITY, f64::min);
        let most = sparse.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let verdict = match (least > full, most < full) {
            (true, _) => "more than full attention, every one",
            (_, true) => "less than full attention, every one",
            _ => "some more than full attention, some less",
        };
        write!(
            text,
            " Under {addressing} addressing `stagger` costs full attention {full:.1} % and the sparse policies {least:.1} to \
             {most:.1} %: {verdict}."
        )
        .unwrap();
    }
    out.push('\n');
    out + &prose(&text)
}

/// What activations and MACs draw, worked out from the device file.
pub(super) fn supply(_: &str) -> String {
    let device = system("hbm3-pim", &[]).device;
    let (g, ns) = (&device.geometry, |name: &str| device.clock.ns(device.timings[name]));
    let banks = f64::from(g.banks_per_channel() * g.channels);
    let ranks = f64::from(g.channels * g.pseudo_channels * g.ranks);
    let activation = device.energy.activation;
    let mac = f64::from(g.column_bytes * 8) * device.energy.cell_column + f64::from(device.lanes) * device.energy.mac;
    // pJ/ns are mW.
    let watts = |pj: f64, ns: f64| format!("{:.2}", pj / ns / 1000.0);
    let in_a_rank = f64::from(g.bank_groups * g.banks);
    let all_rows = ns("nRAS") + ns("nRP");
    let rows = [
        ("four activations in each tFAW, a rank", watts(4.0 * activation, ns("nFAW"))),
        ("the same in every rank", watts(4.0 * activation * ranks, ns("nFAW"))),
        ("all banks opened in each tRAS + tRP", watts(activation * banks, all_rows)),
        ("all banks of every rank opened in each tFAW", watts(activation * in_a_rank * ranks, ns("nFAW"))),
        ("MACs at the rate of nCCDAB, without activations", watts(mac * banks, ns("nCCDAB"))),
    ];
    table(&["a stack draws, if it does so all the time", "W"], &[false, true], rows.map(|(a, b)| vec![a.into(), b]))
}
