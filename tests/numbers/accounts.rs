//! Every cycle of a run has a cause and a phase: in each row of each table the causes sum to the cycles, the phases of a
//! step sum to the step, and nothing of the energy is lost between them.

use crate::common;

use common::root;
use pimattn_core::addr::Address;
use pimattn_core::op::Op;
use pimattn_engine::{self as engine, probe::Probe};
use pimattn_mapping::workload::Workload;
use pimattn_stats::account::Cause;
use pimattn_stats::{Collector, Step};
use pimattn_trace::{Header, MemoryTrace, Record, Request, Segment};
use pimattn_tracegen::generate::Generator;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

type Row = BTreeMap<String, String>;

fn table(file: &Path) -> Vec<Row> {
    let mut reader = csv::Reader::from_path(file).unwrap();
    let names = reader.headers().unwrap().clone();
    let row = |r: csv::StringRecord| names.iter().map(str::to_string).zip(r.iter().map(str::to_string)).collect();
    reader.records().map(|r| row(r.unwrap())).collect()
}

fn number(row: &Row, column: &str) -> f64 {
    row[column].parse().unwrap()
}

fn run(program: &str, args: &[&str]) {
    let out = Command::new(program).args(args).current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap();
    assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
}

fn check(set: &[&str], phases: &[&str]) {
    let dir = tempfile::tempdir().unwrap();
    let (trace, out) = (dir.path().join("t.ptrace"), dir.path().join("out"));
    let (trace, folder) = (trace.to_str().unwrap(), out.to_str().unwrap());
    let mut args = vec!["run", "--config", "configs/workload/demo.toml", "-q", "-o", trace];
    set.iter().for_each(|s| args.extend(["--set", s]));
    run(env!("CARGO_BIN_EXE_tracegen"), &args);
    run(env!("CARGO_BIN_EXE_pimsim"), &["run", trace, "--config", "configs/system/hbm3-pim.toml", "-q", "-o", folder]);
    for file in ["run", "steps", "heads", "channels", "phases", "layers"] {
        for row in table(&out.join(format!("{file}.csv"))) {
            let sum: f64 = Cause::ALL.iter().map(|c| number(&row, c.column().name)).sum();
            assert_eq!(sum, number(&row, "cycles"), "{set:?}: {file}.csv: {row:?}");
        }
    }
    let [steps, parts, layers] = ["steps.csv", "phases.csv", "layers.csv"].map(|file| table(&out.join(file)));
    for step in &steps {
        let own: Vec<&Row> = parts.iter().filter(|p| p["step"] == step["step"]).collect();
        let sum = |column: &str| own.iter().map(|p| number(p, column)).sum::<f64>();
        assert_eq!(sum("cycles"), number(step, "cycles"), "{set:?}: step {}", step["step"]);
        assert!((sum("energy_pj") - number(step, "energy_pj")).abs() < 1.0, "{set:?}: step {}", step["step"]);
        let own: Vec<&Row> = layers.iter().filter(|l| l["step"] == step["step"]).collect();
        let sum = |column: &str| own.iter().map(|l| number(l, column)).sum::<f64>();
        for whole in ["cycles", "busy_cycles", "activations", "selected_tokens", "kv_heads", "extents", "bytes_upkeep"]
        {
            assert_eq!(sum(whole), number(step, whole), "{set:?}: step {}: layers: {whole}", step["step"]);
        }
        assert!((sum("energy_pj") - number(step, "energy_pj")).abs() < 1.0, "{set:?}: step {}: layers", step["step"]);
        let sum =
            |column: &str| parts.iter().filter(|p| p["step"] == step["step"]).map(|p| number(p, column)).sum::<f64>();
        for requests in ["req_mac_ab", "req_mac_bg", "req_rd", "req_wr", "req_mv_sb"] {
            assert_eq!(sum(requests), number(step, requests), "{set:?}: step {}: {requests}", step["step"]);
        }
    }
    let run = &table(&out.join("run.csv"))[0];
    assert_eq!(steps.iter().map(|s| number(s, "cycles")).sum::<f64>(), number(run, "cycles"), "{set:?}");
    assert!(number(run, "bound_cycles") <= number(run, "cycles"), "{set:?}");
    for phase in phases {
        let spent: f64 = parts.iter().filter(|p| p["phase"] == *phase).map(|p| number(p, "cycles")).sum();
        assert!(spent > 0.0, "{set:?}: no time in phase {phase}");
    }
}

#[test]
fn every_cycle_has_a_cause_and_a_phase() {
    let attend = ["append", "attend-score", "softmax", "attend-context", "waiting"];
    check(&["policy=starc", "steps=70"], &[&attend[..], &["cluster", "remap", "select"]].concat());
    check(&["policy=quest", "mapping.addressing=broadcast", "steps=5"], &[&attend[..], &["select"]].concat());
    check(&["policy=sparq", "placement.split=4", "steps=5"], &[&attend[..], &["select"]].concat());
    check(&["policy=clusterkv", "batch.requests=12", "steps=5"], &attend);
    check(&["policy=h2o", "schedule.pipeline=false", "batch.requests=7", "steps=5"], &attend);
}

/// The requests of the phases that a switch takes out, and nothing else.
#[test]
fn costs_can_be_left_out() {
    for (switch, phase) in [("selection_cost=free", "select"), ("append_cost=free", "append")] {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name).to_str().unwrap().to_string();
        let mut tables = Vec::new();
        for (name, set) in [("with", "steps=3"), ("without", switch)] {
            let (trace, folder) = (at(&format!("{name}.ptrace")), at(name));
            let demo = "configs/workload/demo.toml";
            run(
                env!("CARGO_BIN_EXE_tracegen"),
                &["run", "--config", demo, "-q", "-o", &trace, "--set", "steps=3", "--set", set],
            );
            let system = "configs/system/hbm3-pim.toml";
            run(env!("CARGO_BIN_EXE_pimsim"), &["run", &trace, "--config", system, "-q", "-o", &folder]);
            tables.push(table(&Path::new(&folder).join("phases.csv")));
        }
        let has = |t: &[Row]| t.iter().any(|r| r["phase"] == phase && number(r, "cycles") > 0.0);
        assert!(has(&tables[0]) && !has(&tables[1]), "{switch}");
        let macs = |t: &[Row]| -> f64 {
            let context = t.iter().filter(|r| r["phase"] == "attend-context");
            context.map(|r| number(r, "req_mac_bg") + number(r, "req_mac_ab")).sum()
        };
        assert_eq!(macs(&tables[0]), macs(&tables[1]), "{switch}");
    }
}

/// InfiniGen has a rotation, and so a matrix, for each query head, however many share the keys: each is read by that head alone.
#[test]
fn a_matrix_of_each_query_head_is_scanned_once() {
    let macs = |query_heads: u32| {
        let dir = tempfile::tempdir().unwrap();
        let (trace, out) = (dir.path().join("t.ptrace"), dir.path().join("out"));
        let (trace, folder) = (trace.to_str().unwrap(), out.to_str().unwrap());
        let heads = format!("synthetic.query_heads={query_heads}");
        let mut args =
            vec!["run", "--config", "configs/workload/synthetic.toml", "--policy", "infinigen", "-q", "-o", trace];
        let set =
            ["budget=64", "steps=2", "mapping.addressing=broadcast", "synthetic.layers=1", "synthetic.kv_heads=1"];
        let short = ["synthetic.prefill=1024", "synthetic.decode_steps=2", &heads];
        set.iter().chain(&short).for_each(|s| args.extend(["--set", s]));
        run(env!("CARGO_BIN_EXE_tracegen"), &args);
        run(
            env!("CARGO_BIN_EXE_pimsim"),
            &["run", trace, "--config", "configs/system/hbm3-pim.toml", "-q", "-o", folder],
        );
        let rows = table(&out.join("phases.csv"));
        rows.iter().filter(|p| p["phase"] == "select").map(|p| number(p, "req_mac_ab")).sum::<f64>()
    };
    let one = macs(1);
    assert!(one > 0.0);
    for heads in [2, 3, 8] {
        assert_eq!(macs(heads), one * f64::from(heads), "{heads} query heads");
    }
}

/// When all channels met.
#[derive(Default)]
struct Meetings(Vec<u64>);

impl Probe for Meetings {
    fn sync(&mut self, cycle: u64) {
        self.0.push(cycle);
    }
}

/// The trace of the demo with overrides, and its generator.
fn demo(set: &[&str]) -> (MemoryTrace, Generator) {
    let set: Vec<String> = set.iter().map(|s| s.to_string()).collect();
    let (workload, doc) = Workload::load(&root().join("configs/workload/demo.toml"), &set).unwrap();
    let generator = Generator::load(workload, &doc, None).unwrap();
    let mut trace = MemoryTrace::new(generator.header().clone());
    generator.run(&mut trace, None, &mut |_| ()).unwrap();
    (trace, generator)
}

/// A layer of a step lasts from one sync to the next.
#[test]
fn layers_last_from_sync_to_sync() {
    for set in [&["policy=starc"][..], &["policy=quest", "placement.split=4"], &["policy=sparq", "batch.requests=7"]] {
        let (trace, generator) = demo(&[set, &["steps=4"]].concat());
        let system = generator.system();
        let mut probes = (Collector::with_steps(&system.device, Vec::new()), Meetings::default());
        engine::run(system, &mut trace.source().unwrap(), &mut probes, &mut |_| ()).unwrap();
        let (collector, Meetings(syncs)) = probes;
        let steps: Vec<Step> = collector.into_steps();
        let layers: Vec<u64> = steps.iter().flat_map(|s| s.layers.values().map(|l| l.cycles)).collect();
        let lasted: Vec<u64> = (0..syncs.len()).map(|i| syncs[i] - if i == 0 { 0 } else { syncs[i - 1] }).collect();
        assert_eq!(layers, lasted, "{set:?}");
        assert!(steps.iter().all(|s| s.layers.keys().copied().eq([9, 16])));
    }
}

/// Layers in channels of their own: those that have nothing to do wait for the one that has.
#[test]
fn channels_without_a_head_wait_for_the_layer_that_is_at_work() {
    let system = common::system("hbm3-pim", &[]);
    let g = system.device.geometry;
    let mut records = Vec::new();
    for (step, layer) in [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1)] {
        let channel = layer;
        records.push(Record::Segment(Segment { channel, step, layer, ..Segment::default() }));
        let addr = g.encode(&Address { channel, row: step, ..Address::default() });
        let count = 3 + 7 * layer + step;
        records.push(Record::Request(Request { op: Op::MacAb, addr, count, stride: g.column_bytes }));
        records.push(Record::Request(Request::one(Op::Sync, 0)));
    }
    let mut source = common::Memory { header: Header::foreign(g, "test"), records };
    let mut probes = (Collector::with_steps(&system.device, Vec::new()), Meetings::default());
    engine::run(&system, &mut source, &mut probes, &mut |_| ()).unwrap();
    let (collector, Meetings(syncs)) = probes;
    let steps: Vec<Step> = collector.into_steps();
    let layers: Vec<u64> = steps.iter().flat_map(|s| s.layers.values().map(|l| l.cycles)).collect();
    let lasted: Vec<u64> = (0..syncs.len()).map(|i| syncs[i] - if i == 0 { 0 } else { syncs[i - 1] }).collect();
    assert_eq!(layers, lasted);
    assert_eq!(
        steps.iter().map(|s| s.cycles).collect::<Vec<_>>(),
        lasted.chunks(2).map(|l| l[0] + l[1]).collect::<Vec<_>>()
    );
}

/// What segments say of upkeep are the loads and stores of the trace, and keys that are clustered: vectors of 64 elements fill
/// the columns that hold them.
#[test]
fn upkeep_is_what_is_loaded_and_stored() {
    for (set, clustered) in [
        (&["policy=full"][..], 0),
        (&["policy=quest"], 0),
        (&["policy=sparq"], 0),
        (&["policy=streaming", "placement.split=4"], 0),
        // A block of 64 new keys in 6 KV heads, and the 64 blocks of the prefill where they are charged.
        (&["policy=starc"], 6),
        (&["policy=starc", "placement.split=4"], 6),
        (&["policy=starc", "prefill_clustering_cost=pim"], 6 * (1 + 2048 / 64)),
        (&["policy=starc", "clustering_cost=free"], 0),
        (&["policy=starc", "append_cost=free", "clustering_cost=free"], 0),
    ] {
        let (trace, generator) = demo(&[set, &["steps=70", "dense_layers=0"]].concat());
        let (mut said, mut moved) = (0, 0);
        for record in trace.records() {
            match record {
                Record::Segment(s) => said += s.bytes_upkeep,
                Record::Request(r) if matches!(r.op, Op::Ld | Op::St) => moved += 32 * u64::from(r.count),
                _ => {}
            }
        }
        assert_eq!(said, moved + clustered * 64 * 128, "{set:?}");
        assert_eq!(generator.cache().dim, 64);
    }
}

/// What segments of the first step of the demo say of selection, by hand: 2,049 tokens, 3 query heads of 64 elements.
#[test]
fn segments_say_what_selection_reads() {
    // Policy, and bytes that a KV head reads to choose 256 tokens.
    let scans: &[(&[&str], u64)] = &[
        (&["policy=full"], 0),
        (&["policy=streaming"], 0),
        (&["policy=h2o"], 0),
        // Bounds of the 128 whole pages; the last one, of one token, is taken without.
        (&["policy=quest"], 128 * 2 * 64 * 2),
        // 16 dimensions for all query heads of the group; without a second copy, whole keys.
        (&["policy=sparq"], 2049 * 16 * 2),
        (&["policy=sparq", "policies.sparq.transposed=false"], 2049 * 64 * 2),
        // A fifth of 64 rotated columns, 12, for each of 3 query heads.
        (&["policy=infinigen"], 2049 * 12 * 3 * 2),
        // Centroids of 32 blocks; of 2,048 - 16 tokens, 80 to a cluster.
        (&["policy=starc"], 32 * 4 * 64 * 2),
        (&["policy=clusterkv"], 2032 / 80 * 64 * 2),
        (&["policy=starc", "selection_cost=free"], 0),
    ];
    for (set, scanned) in scans {
        let (trace, _) = demo(&[set, &["steps=1", "dense_layers=0"][..]].concat());
        let segments = trace.records().iter().filter_map(|r| if let Record::Segment(s) = r { Some(s) } else { None });
        for s in segments {
            assert_eq!((s.bytes_scanned, s.kv_heads, s.query_heads), (*scanned, 1, 3), "{set:?}");
            assert!((1..=s.distinct).contains(&s.extents), "{set:?}: {s:?}");
            match set[0] {
                "policy=full" => assert_eq!(s.extents, 1),
                "policy=streaming" => assert_eq!(s.extents, 2),
                // Pages of 16, of which neighbours may be taken; the last has one token.
                "policy=quest" => assert!(s.extents <= s.distinct.div_ceil(16), "{s:?}"),
                _ => {}
            }
        }
    }
}
