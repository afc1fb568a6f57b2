//! docs/devices.md.

use super::table;
use crate::common::{cycles, macs, one, system};
use crate::plain_dram::{alternating, latency, timed};
use pimattn::addr::Address;
use pimattn::op::Op;
use pimattn::spec::System;

const SYSTEMS: [&str; 5] = ["hbm3-pim", "hbm3", "hbm2", "hbm2-pim-samsung", "gddr6-aim"];

/// Latencies and rates of each device, replayed; peak and refresh from its file.
pub(super) fn closed_forms(_: &str) -> String {
    let rows = SYSTEMS.map(|name| {
        let s = system(name, &["refresh=none"]);
        let at = |column| one(&s.device.geometry, Op::Ld, Address { row: 3, column, ..Default::default() });
        let barrier = one(&s.device.geometry, Op::Barrier, Address::default());
        let idle = cycles(&s, &[at(0)]);
        // The second read has the row open and the bus to itself.
        let open = cycles(&s, &[at(0), barrier, at(1)]) - idle;
        let mac = |n: u32| cycles(&s, &[macs(&s.device.geometry, 5, n)]);
        let [first, next, peak] = match s.device.plans[Op::MacAb as usize] {
            Some(_) => [mac(1), mac(17) - mac(16), s.device.peak_bytes_per_cycle().unwrap().round() as u64]
                .map(|n| n.to_string()),
            None => ["-", "-", "-"].map(String::from),
        };
        let refresh = s.device.timings["nRFC"] as f64 / s.device.timings["nREFI"] as f64 * 100.0;
        vec![name.into(), idle.to_string(), open.to_string(), first, next, peak, format!("{refresh:.1} %")]
    });
    let head = [
        "system",
        "LD from idle",
        "LD, row open",
        "PIM_MAC_AB from idle",
        "a column of all banks",
        "peak inside, B/cycle of a channel",
        "nRFC / nREFI",
    ];
    table(&head, &[false, true, true, true, true, true, true], rows)
}

/// TFLOPS of the two products.
pub(super) fn peaks(_: &str) -> String {
    let tflops = |s: &System, channels: f64| {
        let elements = s.device.peak_bytes_per_cycle().unwrap() / 2.0;
        format!("{:.3}", 2.0 * elements * channels / s.device.clock.ns(1000))
    };
    let (aim, cube) = (system("gddr6-aim", &[]), system("hbm2-pim-samsung", &[]));
    table(
        &["peak arithmetic, FP16", "here, TFLOPS", "its makers say"],
        &[false, true, false],
        [
            vec!["an AiM chip (two channels)".into(), tflops(&aim, 2.0), "1 TFLOPS".into()],
            vec![
                "a Samsung cube of 16 pseudo-channels, 1 ns clock".into(),
                tflops(&cube, 16.0),
                "1.2 TFLOPS at 300 MHz, not 250".into(),
            ],
        ],
    )
}

/// What reads wait where they go first, and where the first ready goes.
pub(super) fn turns(_: &str) -> String {
    let s = timed("hbm3-pim", 4, &["refresh=none"]);
    let work = alternating(&s, 2000);
    let first_ready = System { writes: None, ..s.clone() };
    let rows = [("reads first, with turns", &s), ("first ready alone", &first_ready)].map(|(name, s)| {
        let (mean, longest, _) = latency(s, &work);
        vec![name.into(), format!("{mean:.0}"), longest.to_string()]
    });
    table(&["hbm3-pim", "latency of LD, mean, cycles", "longest"], &[false, true, true], rows)
}
