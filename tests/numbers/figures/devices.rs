//! docs/devices.md.

use super::{Trace, table, whole};
use crate::common::{cycles, load, macs, one, root, system};
use crate::schedule::plain_dram::{alternating, latency, timed};
use pimattn_core::addr::Address;
use pimattn_core::op::Op;
use pimattn_core::spec::System;

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

/// The demo on units that multiply a column for one query head, and for all three of a group.
pub(super) fn shared_reads(_: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let device = root().join("configs/dram/hbm3-pim.toml").display().to_string();
    let text = std::fs::read_to_string(root().join("configs/system/hbm3-pim.toml")).unwrap();
    let rows = ["full", "quest", "starc"].map(|policy| {
        let [alone, shared] = [1, 3].map(|heads| {
            let file = folder.path().join(format!("{heads}.toml"));
            let text = text.replace("../dram/hbm3-pim.toml", &device);
            std::fs::write(&file, format!("heads_per_read = {heads}\n{text}")).unwrap();
            let set = [format!("system={}", file.display()), format!("policy={policy}"), "steps=8".into()];
            let set: Vec<&str> = set.iter().map(String::as_str).collect();
            Trace::generate("demo", &set).cycles(&load(&file, &[]).unwrap())
        });
        vec![policy.into(), whole(alone), whole(shared), format!("{:.2}", alone as f64 / shared as f64)]
    });
    let head = ["policy", "cycles, a read for each head", "a read for three heads", "times as fast"];
    table(&head, &[false, true, true, true], rows)
}
