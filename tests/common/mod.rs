//! What tests of the engine share: systems with overrides, traces in memory, one run.
#![allow(dead_code)]

use pimattn_core::addr::{Address, Geometry};
use pimattn_core::error::Result;
use pimattn_core::op::Op;
use pimattn_core::spec::System;
use pimattn_engine as engine;
use pimattn_stats::Collector;
use pimattn_trace::{Header, Record, Request, Sink, Source};
use pimattn_tracegen::generate::{Generator, MetricsRow};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

pub fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// A system file with overrides.
pub fn load(file: &Path, set: &[&str]) -> Result<System> {
    System::load(file, &set.iter().map(|s| s.to_string()).collect::<Vec<_>>())
}

/// A system of `configs/system` with overrides.
pub fn system(name: &str, set: &[&str]) -> System {
    load(&root().join(format!("configs/system/{name}.toml")), set).unwrap_or_else(|e| panic!("{name} {set:?}: {e}"))
}

/// A trace in memory, read in one block.
pub struct Memory {
    pub header: Header,
    pub records: Vec<Record>,
}

impl Source for Memory {
    fn header(&self) -> &Header {
        &self.header
    }
    fn next_block(&mut self, out: &mut Vec<Record>) -> Result<bool> {
        out.clear();
        out.append(&mut self.records);
        Ok(!out.is_empty())
    }
}

/// What is written, in memory.
#[derive(Default)]
pub struct Keep(pub Vec<Record>);

impl Sink for Keep {
    fn push(&mut self, record: Record) -> Result<()> {
        self.0.push(record);
        Ok(())
    }
    fn finish(&mut self) -> Result<()> {
        Ok(())
    }
}

/// Bytes that a writer and the test share.
#[derive(Clone, Default)]
pub struct Shared(pub Arc<Mutex<Vec<u8>>>);

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A file or folder of the golden results, which do not ship with the sources: `PIMATTN_SHARED` says where they are, or
/// they are in `../shared`. For tests that are ignored unless they are asked for.
pub fn golden(path: &str) -> PathBuf {
    let shared = std::env::var_os("PIMATTN_SHARED").map_or(root().join("../shared"), PathBuf::from);
    let path = shared.join(path);
    assert!(path.exists(), "no {}: PIMATTN_SHARED must name the folder of the golden results", path.display());
    path
}

/// SplitMix64. Each test makes of its numbers what it needs.
pub fn splitmix64(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

pub fn run(system: &System, requests: &[Request]) -> (u64, Collector) {
    let records = requests.iter().map(|r| Record::Request(*r)).collect();
    let mut source = Memory { header: Header::foreign(system.device.geometry, "test"), records };
    let mut collector = Collector::new(&system.device);
    let cycles = engine::run(system, &mut source, &mut collector, &mut |_| ())
        .unwrap_or_else(|e| panic!("{} {}: {e}", system.name, system.device.preset));
    (cycles, collector)
}

pub fn cycles(system: &System, requests: &[Request]) -> u64 {
    run(system, requests).0
}

/// One request at an address.
pub fn one(g: &Geometry, op: Op, address: Address) -> Request {
    Request::one(op, g.encode(&address))
}

/// `n` MACs over the columns of a row of channel 0.
pub fn macs(g: &Geometry, row: u32, n: u32) -> Request {
    let addr = g.encode(&Address { row, ..Default::default() });
    Request { op: Op::MacAb, addr, count: n, stride: g.column_bytes }
}

/// Whether a page says what it should; with UPDATE_DOCS set it is written instead.
pub fn documented(page: &Path, expected: &str) -> std::result::Result<(), ()> {
    if std::fs::read_to_string(page).is_ok_and(|got| got == expected) {
        return Ok(());
    }
    if std::env::var_os("UPDATE_DOCS").is_none() {
        return Err(());
    }
    std::fs::write(page, expected).unwrap();
    Ok(())
}

/// The records of a generator's trace, and its metrics.
pub fn trace(generator: &Generator) -> (Vec<Record>, Vec<MetricsRow>) {
    let (mut sink, mut rows) = (Keep::default(), Vec::new());
    let mut keep = |row: &MetricsRow| {
        rows.push(row.clone());
        Ok(())
    };
    generator.run(&mut sink, Some(&mut keep), &mut |_| {}).unwrap();
    (sink.0, rows)
}
