//! Requests a second through the engine, from records in memory: dense attention as runs and request by request, and
//! sparse rounds of bank groups. `make bench` prints them beside each other; the ratios matter, not the clock.

#[allow(dead_code, reason = "each benchmark uses a part")]
mod common;

use common::{Memory, ratio};
use divan::Bencher;
use divan::counter::ItemsCount;
use pimattn_core::addr::{Address, Geometry};
use pimattn_core::op::Op;
use pimattn_core::spec::{Device, System};
use pimattn_engine::probe::Probe;
use pimattn_engine::{self as engine, Engine};
use pimattn_stats::Collector;
use pimattn_trace::{Header, Record, Request};
use std::path::Path;

fn main() {
    divan::main();
    if common::everything() {
        ratios();
    }
}

/// The fast engine beside the plain one, tables included.
fn ratios() {
    for name in ["hbm3-pim", "attacc-compat"] {
        let system = system(name);
        let records = dense(&system.device.geometry, 400);
        let once = |engine| {
            let mut source = Memory::new(Header::foreign(system.device.geometry, "bench"), &records);
            let mut collector = Collector::new(&system.device);
            engine::run_with(engine, &system, &mut source, &mut collector, &mut |_| ()).expect("it runs")
        };
        ratio(&format!("engine, dense rows, {name}"), || once(Engine::Plain), || once(Engine::Fast));
    }
}

fn system(name: &str) -> System {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("configs/system/{name}.toml"));
    System::load(&file, &[]).expect("the shipped configuration loads")
}

/// Rows of MACs with moves beside them, on every channel.
fn dense(g: &Geometry, rows: u32) -> Vec<Record> {
    let mut out = Vec::new();
    for row in 0..rows {
        for channel in 0..g.channels {
            let at = |a: Address| g.encode(&Address { channel, ..a });
            let mac = at(Address { row, ..Default::default() });
            let moves = (0..g.bank_groups)
                .map(|bg| Request::one(Op::MvSb, at(Address { bank_group: bg, ..Default::default() })));
            out.push(Request { op: Op::MacAb, addr: mac, count: g.columns, stride: g.column_bytes });
            out.extend(moves);
            out.push(Request::one(Op::Barrier, at(Address::default())));
        }
    }
    out.into_iter().map(Record::Request).collect()
}

/// The same, every run taken apart.
fn singly(records: &[Record]) -> Vec<Record> {
    let one = |r: &Request, i: u32| Record::Request(Request::one(r.op, r.addr + u64::from(i * r.stride)));
    records
        .iter()
        .flat_map(|r| match r {
            Record::Request(r) => (0..r.count).map(|i| one(r, i)).collect::<Vec<_>>(),
            other => vec![*other],
        })
        .collect()
}

/// Rounds in which half of the units open a row and multiply four columns.
fn sparse(g: &Geometry, rounds: u32) -> Vec<Record> {
    let mut out = Vec::new();
    for round in 0..rounds {
        for channel in 0..g.channels {
            for unit in (round % 2..g.units()).step_by(2) {
                let address = Address { row: round, ..g.unit_address(channel, unit) };
                out.push(Request::one(Op::ActBg, g.encode(&address)));
            }
            let addr = g.encode(&Address { channel, ..Default::default() });
            out.push(Request { op: Op::MacBg, addr, count: 4, stride: g.column_bytes });
        }
    }
    out.into_iter().map(Record::Request).collect()
}

fn replay<P: Probe>(bencher: Bencher<'_, '_>, make: impl Fn(&Geometry) -> Vec<Record>, probe: fn(&Device) -> P) {
    let system = system("hbm3-pim");
    let records = make(&system.device.geometry);
    let requests: u64 = records.iter().map(|r| if let Record::Request(r) = r { u64::from(r.count) } else { 0 }).sum();
    bencher.counter(ItemsCount::new(requests)).bench(|| {
        let header = Header::foreign(system.device.geometry, "bench");
        let mut source = Memory::new(header, &records);
        engine::run(&system, &mut source, &mut probe(&system.device), &mut |_| ())
    });
}

#[divan::bench]
fn dense_runs(bencher: Bencher<'_, '_>) {
    replay(bencher, |g| dense(g, 400), |_| ());
}

#[divan::bench]
fn dense_singly(bencher: Bencher<'_, '_>) {
    replay(bencher, |g| singly(&dense(g, 400)), |_| ());
}

#[divan::bench]
fn bank_group_rounds(bencher: Bencher<'_, '_>) {
    replay(bencher, |g| sparse(g, 1000), |_| ());
}

/// What the tables cost.
#[divan::bench]
fn dense_runs_counted(bencher: Bencher<'_, '_>) {
    replay(bencher, |g| dense(g, 400), Collector::new);
}

/// What the tables cost.
#[divan::bench]
fn bank_group_rounds_counted(bencher: Bencher<'_, '_>) {
    replay(bencher, |g| sparse(g, 1000), Collector::new);
}
