//! Requests a second through the engine, from records in memory: dense attention as runs and request by request, and
//! sparse rounds of bank groups. `make bench` prints them beside each other; the ratios matter, not the clock.

use divan::Bencher;
use divan::counter::ItemsCount;
use pimattn::addr::{Address, Geometry};
use pimattn::engine;
use pimattn::engine::probe::Probe;
use pimattn::error::Result;
use pimattn::op::Op;
use pimattn::spec::{Device, System};
use pimattn::stats::Collector;
use pimattn::trace::{BLOCK, Header, Record, Request, Source};
use std::path::Path;

fn main() {
    divan::main();
}

struct Memory<'r> {
    header: Header,
    records: std::slice::Chunks<'r, Record>,
}

impl Source for Memory<'_> {
    fn header(&self) -> &Header {
        &self.header
    }
    fn next_block(&mut self, out: &mut Vec<Record>) -> Result<bool> {
        out.clear();
        out.extend(self.records.next().into_iter().flatten());
        Ok(!out.is_empty())
    }
}

fn system() -> System {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/system/hbm3-pim.toml");
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
    let system = system();
    let records = make(&system.device.geometry);
    let requests: u64 = records.iter().map(|r| if let Record::Request(r) = r { u64::from(r.count) } else { 0 }).sum();
    bencher.counter(ItemsCount::new(requests)).bench(|| {
        let header = Header::foreign(system.device.geometry, "bench");
        let mut source = Memory { header, records: records.chunks(BLOCK) };
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
