//! How long the mapping thinks that rounds of rows take, against the engine; and that it takes the quicker way.

use crate::common;

use common::{Memory, system};
use pimattn_core::spec::System;
use pimattn_engine as engine;
use pimattn_kv::selection::SlotOrder;
use pimattn_mapping::attend::{self, MatrixPart};
use pimattn_mapping::emit::{DeviceLayout, Matrix};
use pimattn_mapping::layout::{Shape, Side};
use pimattn_mapping::positions::Positions;
use pimattn_mapping::rounds::{RoundTiming, RoundWork, Rounds};
use pimattn_mapping::rows::HeadRows;
use pimattn_mapping::stage::{self, HeadPlan};
use pimattn_mapping::sweep::TouchedRows;
use pimattn_mapping::workload::{Layout, UnitPlacement, ValueLayout, Workload};
use pimattn_trace::{Header, Segment};

const TOKENS: u32 = 4096;
const ROWS: u32 = 64;

/// A number below another.
fn random(state: &mut u64, below: u32) -> u32 {
    (common::splitmix64(state) % u64::from(below)) as u32
}

/// The keys that some query heads select, as pages of `page` tokens, `pages` for each head.
fn select(shape: &Shape, layout: Layout, heads: usize, pages: u32, page: u32, seed: &mut u64) -> TouchedRows {
    let (workload, _) = Workload::load(&common::root().join("configs/workload/demo.toml"), &[]).unwrap();
    let mapping = pimattn_mapping::workload::Mapping { layout, ..workload.mapping };
    let mut positions = Positions::new(Side::Keys, &mapping, UnitPlacement::RoundRobin, shape, shape.units);
    let order = SlotOrder::default();
    positions.update(&order, TOKENS, &[], &mut Vec::new());
    let mut sweep = TouchedRows::new(shape.units, heads, shape.keys_per_row);
    for head in 0..heads {
        let mut tokens: Vec<u32> = (0..pages)
            .flat_map(|_| {
                let first = random(seed, TOKENS / page) * page;
                first..first + page
            })
            .collect();
        tokens.sort_unstable();
        tokens.dedup();
        sweep.add(head, &tokens, &order, &positions);
    }
    sweep.sort();
    sweep
}

/// Cycles that the engine takes for the scores, results included.
fn replay(system: &System, target: &DeviceLayout, rounds: &Rounds, sweep: &TouchedRows, work: RoundWork) -> u64 {
    let shape = &target.shape;
    let mut rows = HeadRows::new(0, ROWS);
    rows.reserve(0, ROWS).unwrap();
    let matrix = Matrix { id: 0, per_row: shape.keys_per_row, columns: shape.columns, stripes_in_row: 1 };
    let part = MatrixPart { sweep, cells: sweep.cells(), rounds, work, units: shape.units };
    let scores = attend::scores(&part, &rows, &matrix, target, 0);
    let mut records = Vec::new();
    let plan = HeadPlan { segment: Segment::default(), scores, ..HeadPlan::default() };
    stage::write(&[plan], &target.geometry, false, &mut records);
    let mut source = Memory { header: Header::foreign(target.geometry, "test"), records };
    engine::run(system, &mut source, &mut (), &mut |_| ()).unwrap()
}

#[test]
fn the_pace_of_rounds_is_that_of_the_engine() {
    let mut seed = 7;
    for power in ["per-command", "ignore", "charge", "stagger"] {
        let system = system("hbm3-pim", &["refresh=none", "heads_per_read=4", &format!("power={power}")]);
        let pace = RoundTiming::of(&system.device).unwrap();
        let geometry = system.device.geometry;
        for i in 0..60 {
            let dim = [64, 128, 256][i % 3];
            let shape = Shape::new(&geometry, dim, 2, system.device.entry_bytes, ValueLayout::Stripe).unwrap();
            let at_once = [1, 2, 4][i / 4 % 3];
            let target = DeviceLayout { geometry, shape, heads_per_read: at_once };
            let layout = [Layout::RowBlock, Layout::Interleaved][i / 3 % 2];
            let (heads, pages, page) = (1 + i % 4, 1 + random(&mut seed, 40), [1, 4, 16][i / 6 % 3]);
            let sweep = select(&shape, layout, heads, pages, page, &mut seed);
            let work = RoundWork {
                skip_columns: i % 5 > 0,
                columns: shape.columns,
                stripes: 1,
                heads_per_read: at_once as usize,
            };
            let cells = sweep.cells();
            let engine = |rounds: &Rounds| replay(&system, &target, rounds, &sweep, work);
            let quickest = Rounds::quickest(cells, &sweep, shape.units, &work, &pace);
            let broadcast = Rounds::broadcast(cells);
            for rounds in [&quickest, &broadcast] {
                let (said, took) = (pace.cycles(rounds, &sweep, shape.units, &work), engine(rounds));
                // The results of the last MACs, and closing the units, come on top; what the controller sees ahead is bounded.
                let (low, high) = (said as f64 * 0.98 - 8.0, said as f64 * 1.05 + 48.0);
                let took = took as f64;
                // Under `stagger` openings queue for their rank across rounds, which the pace takes one after the other.
                let known = power != "stagger" || took <= high;
                assert!(known && (power == "stagger" || took >= low), "{power} {i}: {took} cycles, not {said}");
            }
            let (chosen, wide) = (engine(&quickest) as f64, engine(&broadcast) as f64);
            // A run ends with its last command, which may be the closing of a unit.
            let closing = system.device.timings["nRTPL"] as f64 + f64::from(shape.units);
            assert!(chosen <= wide * 1.02 + closing, "{power} {i}: {chosen} cycles unit by unit, {wide} in all banks");
        }
    }
}
