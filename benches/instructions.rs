//! The guard: instructions that five fixed cases execute, counted by callgrind and held against `benches/instructions.toml`.
//! Counts do not depend on what else the machine does; they depend on the compiler, whose version the file has.
//!
//! `cargo bench --bench instructions` fails when a case takes over 5 % more than its record says; `-- --record` writes the
//! record anew. Needs valgrind, and an x86-64 processor with AVX2 (the level that all counts are for: callgrind knows no
//! AVX-512); without them it says so and checks nothing.

#[allow(dead_code, reason = "each benchmark uses a part")]
mod common;

use common::Memory;
use pimattn_attacc::{Attention, AttentionSchedule, UnitLevel};
use pimattn_core::addr::{Address, Geometry};
use pimattn_core::error::Result;
use pimattn_core::op::Op;
use pimattn_core::spec::System;
use pimattn_engine as engine;
use pimattn_kv::KvCache;
use pimattn_kv::linalg::{self, SimdLevel};
use pimattn_kv::synthetic::{SyntheticSpec, generate};
use pimattn_policies::cluster::{Config, Start, kmeans::KMeans};
use pimattn_policies::select::{HeadView, REGISTRY, StepView};
use pimattn_stats::Collector;
use pimattn_trace::{self as trace, Header, Record, Request, Sink};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use std::fmt::Write as _;
use std::io::Cursor;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

/// Growth that is let pass.
const TOLERANCE: f64 = 0.05;
/// The level of vector instructions that counts are for.
const LEVEL: SimdLevel = SimdLevel::Avx2;

/// A case: its name, and what makes its work ready.
type Case = (&'static str, fn() -> Box<dyn FnMut()>);

const CASES: &[Case] = &[
    ("engine_pim", engine_pim),
    ("engine_compat", engine_compat),
    ("trace_read", trace_read),
    ("kmeans", kmeans),
    ("selection", selection),
];

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--case", name] => {
            let (_, prepare) = CASES.iter().find(|case| case.0 == name).expect("a case");
            linalg::limit(LEVEL);
            counted(&mut *prepare());
            ExitCode::SUCCESS
        }
        [] => check(false),
        ["--record"] => check(true),
        _ => {
            eprintln!("instructions: takes no argument, or --record");
            ExitCode::from(2)
        }
    }
}

/// What callgrind counts: it looks for this name.
#[inline(never)]
fn counted(work: &mut dyn FnMut()) {
    work();
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn check(record: bool) -> ExitCode {
    let skip = |why: &str| {
        println!("instructions: SKIPPED, nothing is checked: {why}");
        ExitCode::SUCCESS
    };
    if linalg::detect() < LEVEL {
        return skip("the counts are for x86-64 with AVX2");
    }
    if !Command::new("valgrind").arg("--version").output().is_ok_and(|out| out.status.success()) {
        return skip("there is no valgrind");
    }
    let counts: Vec<(&str, u64)> = CASES.iter().map(|(name, _)| (*name, count(name))).collect();
    let rustc =
        Command::new("rustc").arg("--version").output().map(|out| String::from_utf8_lossy(&out.stdout).trim().into());
    let rustc: String = rustc.unwrap_or_else(|_| "unknown".into());

    let path = root().join("benches/instructions.toml");
    if record {
        let mut text = String::from(
            "# Instructions of the cases of benches/instructions.rs. `cargo bench --bench instructions -- --record` writes it.\n\n",
        );
        writeln!(text, "rustc = \"{rustc}\"\n\n[instructions]").expect("a string takes it");
        counts.iter().for_each(|(name, count)| writeln!(text, "{name} = {count}").expect("a string takes it"));
        std::fs::write(&path, &text).expect("the record can be written");
        print!("{text}");
        return ExitCode::SUCCESS;
    }
    let text = std::fs::read_to_string(&path).expect("there is a record");
    let table: toml::Table = text.parse().expect("the record is TOML");
    let recorded = |name: &str| table["instructions"].get(name).and_then(toml::Value::as_integer).unwrap_or(0) as f64;
    let mut grown = false;
    println!("{:20} {:>14} {:>14} {:>8}", "case", "recorded", "now", "change");
    for (name, count) in counts {
        let change = count as f64 / recorded(name) - 1.0;
        let verdict = match change {
            change if change.is_nan() || change > TOLERANCE => "GROWN",
            change if change < -TOLERANCE => "less: record it",
            _ => "",
        };
        grown |= verdict == "GROWN";
        println!("{name:20} {:>14} {count:>14} {:>+7.2}% {verdict}", recorded(name), change * 100.0);
    }
    let theirs = table["rustc"].as_str().unwrap_or("unknown");
    if theirs != rustc {
        println!("The record is of {theirs}; this is {rustc}, which may be the cause of any change.");
    }
    if grown {
        println!(
            "A case takes over {:.0} % more instructions than recorded. If that is meant: make record-instructions, and say why.",
            TOLERANCE * 100.0
        );
    }
    ExitCode::from(u8::from(grown))
}

/// Instructions of a case, counted in a process of its own.
fn count(name: &str) -> u64 {
    let out = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null", "--collect-atstart=no"])
        .arg("--toggle-collect=*instructions::counted*")
        .arg(std::env::current_exe().expect("this program has a path"))
        .args(["--case", name])
        .output()
        .expect("valgrind starts");
    let log = String::from_utf8_lossy(&out.stderr);
    let collected = log.lines().find_map(|line| line.split_once("Collected :")?.1.trim().parse().ok());
    match collected {
        Some(count) if out.status.success() && count > 0 => count,
        _ => panic!("callgrind counted nothing of case {name}:\n{log}"),
    }
}

/// Records kept.
struct Kept(Vec<Record>);

impl Sink for Kept {
    fn push(&mut self, record: Record) -> Result<()> {
        self.0.push(record);
        Ok(())
    }
    fn finish(&mut self) -> Result<()> {
        Ok(())
    }
}

fn replay(system: &System, records: &[Record]) {
    let header = Header::foreign(system.device.geometry, "bench");
    let mut source = Memory::new(header, records);
    engine::run(system, &mut source, &mut Collector::new(&system.device), &mut |_| ()).expect("it runs");
}

fn system(name: &str) -> System {
    System::load(&root().join("configs/system").join(name), &[]).expect("the shipped configuration loads")
}

/// Rows of MACs with moves beside them, then rounds in which half of the units open a row, on every channel.
fn engine_pim() -> Box<dyn FnMut()> {
    let system = system("hbm3-pim.toml");
    let g: Geometry = system.device.geometry;
    let mut records = Vec::new();
    let mut push = |op, address, count| {
        let addr = g.encode(&address);
        records.push(Record::Request(Request { op, addr, count, stride: if count > 1 { g.column_bytes } else { 0 } }));
    };
    for row in 0..40 {
        for channel in 0..g.channels {
            let at = Address { channel, ..Default::default() };
            push(Op::MacAb, Address { row, ..at }, g.columns);
            (0..g.bank_groups).for_each(|bank_group| push(Op::MvSb, Address { bank_group, ..at }, 1));
            push(Op::Barrier, at, 1);
        }
    }
    for row in 0..60 {
        for channel in 0..g.channels {
            let units = (row % 2..g.units()).step_by(2);
            units.for_each(|unit| push(Op::ActBg, Address { row, ..g.unit_address(channel, unit) }, 1));
            push(Op::MacBg, Address { channel, ..Default::default() }, 4);
        }
    }
    Box::new(move || replay(&system, &records))
}

/// AttAcc's schedule of 32 heads over 512 tokens.
fn attacc(geometry: Geometry) -> (AttentionSchedule, Vec<Record>) {
    let attention = Attention {
        mode: UnitLevel::Bank,
        heads: 32,
        len: 512,
        dim: 128,
        bytes: 2,
        kv_budget: None,
        clustering: false,
    };
    let schedule = AttentionSchedule::published(attention, geometry).expect("a valid schedule");
    let mut kept = Kept(Vec::new());
    schedule.run(&mut kept, &mut |_| ()).expect("memory takes it");
    (schedule, kept.0)
}

fn engine_compat() -> Box<dyn FnMut()> {
    let system = system("attacc-compat.toml");
    let (_, records) = attacc(system.device.geometry);
    Box::new(move || replay(&system, &records))
}

/// AttAcc's schedule from both formats that it comes in.
fn trace_read() -> Box<dyn FnMut()> {
    let geometry = system("attacc-compat.toml").device.geometry;
    let (schedule, records) = attacc(geometry);
    let dir = tempfile::tempdir().expect("a folder");
    let written = |format: &str| {
        let path = dir.path().join(format);
        let file = std::fs::File::create(&path).expect("a file");
        let create = trace::format(format).expect("a known format").create;
        let mut sink = create(Box::new(file), &schedule.header(), Default::default()).expect("a trace begins");
        records.iter().try_for_each(|record| sink.push(*record)).expect("the format takes it");
        sink.finish().expect("the file takes it");
        drop(sink);
        std::fs::read(&path).expect("what was written")
    };
    let traces = [written("ptrace"), written("attacc")];
    Box::new(move || {
        for bytes in &traces {
            let mut source =
                trace::open(Box::new(Cursor::new(bytes.clone())), "bench", Some(geometry.into())).expect("a trace");
            let mut block = Vec::new();
            while source.next_block(&mut block).expect("a valid trace") {
                std::hint::black_box(&block);
            }
        }
    })
}

fn cache() -> KvCache {
    let spec = SyntheticSpec {
        layers: 1,
        kv_heads: 1,
        query_heads: 4,
        dim: 128,
        prefill: 4096,
        decode_steps: 1,
        ..Default::default()
    };
    generate(&spec).expect("a valid specification")
}

/// Blocks as `starc` has them, and the whole prefill as `starc-v1` has it.
fn kmeans() -> Box<dyn FnMut()> {
    let cache = cache();
    Box::new(move || {
        let keys = cache.view().expect("a small cache").keys(0, 0).range(0..cache.prefill);
        let mut kmeans = KMeans::default();
        let mut fit = |keys: &[f32], clusters, max_iterations, start| {
            let config = Config { clusters, max_iterations, start, ..Config::default() };
            kmeans.fit(keys, 128, &config, &mut ChaCha8Rng::seed_from_u64(1));
        };
        keys.data.chunks_exact(64 * 128).for_each(|block| fit(block, 4, 16, Start::First));
        fit(keys.data, 128, 4, Start::PlusPlus);
    })
}

/// A step of every policy.
fn selection() -> Box<dyn FnMut()> {
    let cache: &'static KvCache = Box::leak(Box::new(cache()));
    let cache = cache.view().expect("a small cache");
    let queries: Vec<&[f32]> = (0..4).map(|h| cache.queries(0, h).row(cache.tokens - 1 - cache.query_start)).collect();
    let view = HeadView {
        keys: cache.keys(0, 0),
        prefill: cache.prefill,
        queries: cache.group_queries(0, 0),
        query_start: cache.query_start,
        seed: 1,
        memo: None,
    };
    let mut out = vec![Vec::new(); queries.len()];
    let mut states: Vec<_> = REGISTRY
        .iter()
        .map(|entry| (entry.build)(&toml::Table::new()).expect("defaults are valid").prepare(view))
        .collect();
    let mut step = move || {
        for state in &mut states {
            let keys = view.keys;
            state.grow(keys);
            let step = StepView { keys, budget: 256, queries: &queries, layer_queries: &queries, scores: &[] };
            state.select(step, &mut out);
        }
    };
    // What a first step does once for all is not a step's.
    step();
    Box::new(step)
}
