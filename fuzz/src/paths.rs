//! The whole path, from bytes to tables. What is dear for what it is, a valid input as well as a hostile one, is left out.

use crate::parsers::{hbm3, records};
use arbitrary::{Result, Unstructured};
use pimattn::audit::audit;
use pimattn::stats::log::LogProbe;
use pimattn::trace::{Arrival, Mark};
use pimattn::{
    Account, Address, Align, Collector, Document, Engine, Generator, Header, KvCache, Layout, MemoryTrace, Op, Phase,
    Record, Request, Segment, System, Workload,
};
use pimattn::{engine, policies as policy_crate, simulate};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::OnceLock;

/// Requests of a trace that are replayed, at most.
const REQUESTS: u64 = 20_000;

/// All that the tables tell of a run.
#[derive(PartialEq, Debug)]
struct Told {
    cycles: u64,
    run: Account,
    channels: Vec<Account>,
    heads: BTreeMap<(u32, u32, u32), Account>,
}

/// Replays records, and the log of the plain engine.
fn told(engine: Engine, system: &System, trace: &MemoryTrace) -> pimattn::Result<(Told, Vec<u8>)> {
    let collector = Collector::with_steps(&system.device, Vec::new());
    let mut probe = (collector, LogProbe::new(Vec::new(), &system.device));
    let cycles = engine::run_with(engine, system, &mut trace.source()?, &mut probe, &mut |_| {})?;
    let (collector, log) = probe;
    let log = log.finish().expect("a log in memory");
    let told = Told {
        cycles,
        run: collector.run.clone(),
        channels: collector.channels.clone(),
        heads: collector.heads.clone(),
    };
    Ok((told, log))
}

/// Both engines tell the same of a trace, and what they do is allowed.
fn same_and_allowed(system: &System, trace: &MemoryTrace) {
    let plain = told(Engine::Plain, system, trace);
    let fast = told(Engine::Fast, system, trace);
    match (plain, fast) {
        (Ok((plain, log)), Ok((fast, _))) => {
            assert_eq!(plain, fast);
            let report = audit(&crate::file("plain.log", &log), system, 4).expect("a log that can be read");
            assert_eq!(report.broken, 0, "{}", report.render(&system.device, "log", false));
        }
        (plain, fast) => assert_eq!(plain.err().map(|e| e.to_string()), fast.err().map(|e| e.to_string())),
    }
}

/// A trace in any format, to tables.
pub fn replay(bytes: &[u8]) {
    let Some((header, records)) = records(bytes, 1 << 12) else { return };
    let requests: u64 = records.iter().map(|r| if let Record::Request(r) = r { u64::from(r.count) } else { 0 }).sum();
    let arrives = |r: &Record| matches!(r, Record::Arrival(a) if a.cycle > 1 << 32);
    if requests > REQUESTS || header.geometry != hbm3().device.geometry || records.iter().any(arrives) {
        return;
    }
    same_and_allowed(hbm3(), &MemoryTrace::of(header, records));
}

/// Text of a system file and of a device file, with a line `####` in between, to a short run.
pub fn system(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Some((system, device)) = text.split_once("\n####\n") else { return };
    let Ok(system) = System::from_toml(system, device) else { return };
    let geometry = &system.device.geometry;
    if geometry.channels > 32 {
        return;
    }
    let ops = [Op::Ld, Op::St, Op::MacAb, Op::WrGb, Op::Sync, Op::MacAb, Op::Ld];
    let known = |op: &Op| op.is_mark() || system.device.plans[*op as usize].is_some();
    let requests = ops.into_iter().filter(known).map(|op| Record::Request(Request::one(op, 0)));
    let trace = MemoryTrace::of(Header::foreign(*geometry, "fuzz"), requests.collect());
    let [plain, fast] = [Engine::Plain, Engine::Fast].map(|engine| told(engine, &system, &trace));
    assert_eq!(plain.ok().map(|(told, _)| told), fast.ok().map(|(told, _)| told));
}

/// A workload file with a synthetic cache, to a run.
pub fn workload(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(doc) = Document::parse(Path::new("w.toml"), text, &[]) else { return };
    let Ok(workload) = Workload::of(&doc) else { return };
    let Some(spec) = &workload.synthetic else { return };
    // A key that is not there has a default of some hundred or thousand.
    let of = |key: &str| spec.get(key).and_then(toml::Value::as_integer).unwrap_or(1 << 10).unsigned_abs();
    let parts = [of("layers"), of("kv_heads").max(of("query_heads")), of("prefill"), of("decode_steps"), of("dim")];
    let size = parts.iter().try_fold(1u64, |n, of| n.checked_mul(*of)).unwrap_or(u64::MAX);
    let dear = size > 1 << 18 || workload.batch.requests > 4 || workload.steps > 64;
    if dear || spec.contains_key("fit") || workload.kv.is_some() || workload.model.is_some() {
        return;
    }
    let Ok(generator) = Generator::load(workload, &doc, None) else { return };
    let _ = simulate(&generator);
}

/// Systems whose choices the engines treat differently.
fn systems_of_engines() -> &'static [System] {
    static SYSTEMS: OnceLock<Vec<System>> = OnceLock::new();
    SYSTEMS.get_or_init(|| {
        let of = |set: &[&str]| {
            let set: Vec<String> = set.iter().map(|s| s.to_string()).collect();
            let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs/system/hbm3-pim.toml");
            System::load(&file, &set).expect("a system")
        };
        vec![
            of(&[]),
            of(&["refresh=none"]),
            of(&["power=stagger"]),
            of(&["power=ignore", "refresh=none"]),
            of(&["scheduler.closes=first-ready"]),
            of(&["refresh=same-bank"]),
            of(&["refresh=per-bank", "refresh_order=together", "heads_per_read=64"]),
        ]
    })
}

fn record(u: &mut Unstructured<'_>, system: &System) -> Result<Record> {
    let g = &system.device.geometry;
    let channel = u.int_in_range(0..=1)?;
    let at = Address {
        channel,
        pseudo_channel: u.int_in_range(0..=g.pseudo_channels - 1)?,
        rank: u.int_in_range(0..=g.ranks - 1)?,
        bank_group: u.int_in_range(0..=g.bank_groups - 1)?,
        bank: u.int_in_range(0..=g.banks - 1)?,
        row: u.int_in_range(0..=3)?,
        column: u.int_in_range(0..=g.columns - 1)?,
        offset: 0,
    };
    Ok(match u.int_in_range(0..=9)? {
        0 => Record::Segment(Segment {
            channel,
            step: u.int_in_range(0..=2)?,
            lane: u.int_in_range(0..=1)?,
            ..Segment::default()
        }),
        1 => Record::Mark(Mark { channel, lane: 0, phase: *u.choose(&Phase::ALL)? }),
        2 => Record::Arrival(Arrival { channel, cycle: u.int_in_range(0..=30_000)? }),
        _ => {
            let op = *u.choose(Op::ALL)?;
            let count = match op.is_mark()
                || matches!(op, Op::Barrier | Op::Sfm | Op::ActBg | Op::PreBg | Op::Host | Op::Sync)
            {
                true => 1,
                false => u.int_in_range(1..=g.columns - at.column)?,
            };
            let stride = if count > 1 { g.column_bytes } else { 0 };
            Record::Request(Request { op, addr: g.encode(&at), count, stride })
        }
    })
}

/// A trace made of the bytes, on both engines; repeated, for what recurs is looked up.
pub fn engines(bytes: &[u8]) {
    let mut u = Unstructured::new(bytes);
    let _ = (|| -> Result<()> {
        let system = u.choose(systems_of_engines())?;
        let times = u.int_in_range(1..=4)?;
        let mut records = Vec::new();
        while !u.is_empty() && records.len() < 64 {
            let record = record(&mut u, system)?;
            if pimattn::trace::check(&record, &system.device.geometry).is_ok() {
                records.push(record);
            }
        }
        let records = records.repeat(times);
        same_and_allowed(system, &MemoryTrace::of(Header::foreign(system.device.geometry, "fuzz"), records));
        Ok(())
    })();
}

/// A cache, a policy and a mapping made of the bytes, to a trace on both engines.
pub fn policies(bytes: &[u8]) {
    let mut u = Unstructured::new(bytes);
    let _ = (|| -> Result<()> {
        let entry = u.choose(policy_crate::select::REGISTRY)?;
        let (layers, kv_heads, group) = (u.int_in_range(1..=2)?, u.int_in_range(1..=2)?, u.int_in_range(1..=3)?);
        let dim: usize = *u.choose(&[8, 16, 32])?;
        let (prefill, steps) = (u.int_in_range(1..=48)?, u.int_in_range(1..=5)?);
        let mut workload = Workload::new(entry.name, u.int_in_range(1..=64)?);
        workload.mapping.layout = *u.choose(&[Layout::RowBlock, Layout::Interleaved])?;
        workload.mapping.align = *u.choose(&[Align::None, Align::Row])?;
        workload.dense_layers = u.int_in_range(0..=1)?;
        workload.mapping.skip_columns = u.arbitrary()?;
        let tokens = prefill + steps;
        let mut values = |n: usize| -> Result<Vec<f32>> {
            (0..n).map(|_| Ok(f32::from(u.arbitrary::<i8>().unwrap_or(1)) / 16.0)).collect()
        };
        let (k, v) = (values(layers * kv_heads * tokens * dim)?, values(layers * kv_heads * tokens * dim)?);
        let q = values(layers * kv_heads * group * steps * dim)?;
        let cache = KvCache {
            layers: (0..layers as u32).collect(),
            kv_heads,
            query_heads: kv_heads * group,
            dim,
            tokens,
            prefill,
            query_start: prefill,
            queries: steps,
            element_bytes: 2,
            rope_scaling: None,
            provenance: "fuzz".into(),
            k: k.into(),
            v: v.into(),
            q: q.into(),
        };
        let Ok(generator) = Generator::new(hbm3().clone(), workload, cache) else { return Ok(()) };
        let mut trace = MemoryTrace::new(generator.header().clone());
        let mut keep = |row: &pimattn::tracegen::generate::MetricsRow| {
            let accuracy = &row.accuracy;
            assert!(accuracy.mass_recall.is_finite() && accuracy.mass_recall <= 1.0 + 1e-6);
            Ok(())
        };
        generator.run(&mut trace, Some(&mut keep), &mut |_| {}).expect("a trace of a valid workload");
        same_and_allowed(hbm3(), &trace);
        Ok(())
    })();
}
