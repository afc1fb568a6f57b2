//! docs/parity.md.

use super::{Trace, prose, table, whole};
use crate::common::{root, system};
use pimattn_attacc::{Attention, AttentionSchedule, DEVICE, ROW_TOKENS, UnitLevel};
use pimattn_core::addr::Address;
use pimattn_core::op::Op;
use pimattn_core::table::Value;
use pimattn_starc::artifact::bars::STEP_MS;
use pimattn_starc::artifact::{ArtifactBar, ArtifactData, BarRow, Budgets, Experiment};
use pimattn_trace::Request;
use rayon::prelude::*;
use std::sync::Arc;

const HEADS_16: Attention =
    Attention { mode: UnitLevel::Bank, heads: 16, len: 2048, dim: 128, bytes: 2, kv_budget: None, clustering: false };

/// How many MACs of the artifact's clustering are in its trace.
pub(super) fn clustering_macs(_: &str) -> String {
    let attention = Attention { heads: 13, len: 512, kv_budget: Some(256), clustering: true, ..HEADS_16 };
    let (written, made) = AttentionSchedule::new(attention, DEVICE).unwrap().clustering_macs().unwrap();
    prose(&format!(
        "For {} heads and {} tokens, {} of {} MACs of its lists reach the trace (`-v` says how many).",
        attention.heads,
        attention.len,
        whole(written),
        whole(made)
    ))
}

fn schedule(attention: Attention) -> Trace {
    let schedule = AttentionSchedule::new(attention, DEVICE).unwrap();
    let mut trace = Trace { header: schedule.header(), records: Vec::new() };
    schedule.run(&mut trace, &mut |_| {}).unwrap();
    trace
}

/// An LCG, of which the high bits are used.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u32) -> u32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) % u64::from(n)) as u32
    }

    /// Somewhere in six rows of the device.
    fn place(&mut self) -> Address {
        let unit = DEVICE.unit_address(self.below(DEVICE.channels), self.below(DEVICE.units()));
        Address { bank: self.below(DEVICE.banks), row: self.below(6), column: self.below(DEVICE.columns), ..unit }
    }
}

fn burst(op: Op, from: Address, columns: impl Iterator<Item = u32>) -> impl Iterator<Item = Request> {
    columns.map(move |c| Request::one(op, DEVICE.encode(&Address { column: c % DEVICE.columns, ..from })))
}

/// Runs of MACs over a row, and buffer moves.
fn random_macs(n: usize) -> Trace {
    let (mut r, mut requests) = (Random(1), Vec::new());
    while requests.len() < n {
        let place = r.place();
        let (op, most) = match r.below(4) {
            0 => ([Op::WrGb, Op::MvSb, Op::MvGb][r.below(3) as usize], 8),
            _ => (Op::MacAb, 32),
        };
        let count = 1 + r.below(most);
        requests.extend(burst(op, place, place.column..place.column + count));
    }
    Trace::requests(&requests)
}

/// A few loads or stores of a row, and then of another.
fn random_data(n: usize) -> Trace {
    let (mut r, mut requests) = (Random(1), Vec::new());
    while requests.len() < n {
        let (place, count) = (r.place(), 1 + r.below(5));
        let op = if r.below(10) < 3 { Op::St } else { Op::Ld };
        let columns: Vec<u32> = (0..count).map(|_| r.below(DEVICE.columns)).collect();
        requests.extend(burst(op, place, columns.into_iter()));
    }
    Trace::requests(&requests)
}

/// The two controllers on the same requests.
pub(super) fn controllers(_: &str) -> String {
    let starc = Attention { heads: 64, len: 16_000, kv_budget: Some(1448), ..HEADS_16 };
    let in_mode = |mode| schedule(Attention { mode, ..HEADS_16 });
    let traces = [
        ("bank mode, 16 heads, L = 2,048", schedule(HEADS_16)),
        ("bank mode, 16 heads, L = 16,384", schedule(Attention { len: 16_384, ..HEADS_16 })),
        ("bank-group mode, 16 heads, L = 2,048", in_mode(UnitLevel::BankGroup)),
        ("buffer mode, 16 heads, L = 2,048", in_mode(UnitLevel::Buffer)),
        ("STARC artifact, 64 heads, L = 16,000, budget 1,448", schedule(starc)),
        ("random PIM_MAC_AB and moves, 16 channels", random_macs(6000)),
        ("random loads and stores, 16 channels", random_data(6000)),
    ];
    let systems = [
        system("attacc-compat", &["refresh=none"]),
        system("hbm3-pim", &["refresh=none"]),
        system("attacc-compat", &[]),
        system("hbm3-pim", &[]),
    ];
    assert!(systems.iter().all(|s| s.device.preset.contains("HBM3_5.2Gbps")), "the page names the preset");
    let rows: Vec<Vec<String>> = traces
        .par_iter()
        .map(|(name, trace)| {
            let cycles = systems.par_iter().map(|s| trace.cycles(s));
            let cycles: Vec<u64> = cycles.collect();
            // The page says so, and why.
            assert!(
                !name.starts_with("random") || (cycles[1] < cycles[0] && cycles[3] < cycles[2]),
                "{name}: {cycles:?}"
            );
            [name.to_string()].into_iter().chain(cycles.into_iter().map(whole)).collect()
        })
        .collect();
    let head = ["trace", "compat, no refresh", "PIM", "compat, refresh", "PIM"];
    table(&head, &[false, true, true, true, true], rows)
}

/// The 36 bars of the artifact's experiment: `pimsim artifact` as the page calls it.
pub(super) fn artifact(_: &str) -> String {
    let (system, folder) = (system("attacc-compat", &[]), root().join("traces/kv_budget"));
    let contexts = [16_000, 24_000, 32_000];
    let mut bars = Vec::new();
    let ArtifactData { models, policies } = ArtifactData::load().unwrap();
    for model in &models {
        for policy in &policies {
            let path = policy.table_in(&folder, model);
            let budgets = path.map(|path| Arc::new(Budgets::read(&path).unwrap()));
            for context in contexts {
                let (budgets, clustering) = (budgets.clone(), policy.clusters);
                let (model, policy) = (model.clone(), policy.clone());
                bars.push(ArtifactBar { model, policy, batch: 16, prefill: 2048, context, budgets, clustering });
            }
        }
    }
    let mut experiment = Experiment::new(&pimattn_core::cancel::Cancel::new(), &system, &bars, &|_, _| {}).unwrap();
    let mut times = Vec::new();
    let mut keep = |row: &BarRow| {
        let Value::Float(ms, _) = STEP_MS.value(row) else { panic!("{row:?}") };
        times.push(format!("{ms:.4}"));
        Ok(())
    };
    experiment.rows(&mut keep, None).unwrap();
    let time = |model: usize, policy: usize, context: usize| {
        times[(model * policies.len() + policy) * contexts.len() + context].clone()
    };
    let mut rows = Vec::new();
    for (m, model) in models.iter().enumerate() {
        for (c, context) in contexts.iter().enumerate() {
            let cells = (0..policies.len()).map(|p| time(m, p, c));
            rows.push([format!("{}, {}", model.name, whole(u64::from(*context)))].into_iter().chain(cells).collect());
        }
    }
    let policies = policies.iter().map(|p| p.name.as_str());
    let head: Vec<&str> = ["ms per decode step, all layers"].into_iter().chain(policies).collect();
    let table = table(&head, &[false, true, true, true, true], rows);
    let steps: u64 = bars.iter().map(|b| u64::from(b.steps())).sum();
    let text = format!(
        "The {} bars have {} steps and {} schedules, each replayed once; a row of a budget is {ROW_TOKENS} tokens.",
        bars.len(),
        whole(steps),
        whole(experiment.replays() as u64)
    );
    format!("{table}\n{}", prose(&text))
}
