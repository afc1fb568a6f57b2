//! `addressing = "ideal"` end to end: a workload becomes a trace, the compat engine replays it, and the cycles are those
//! of the STARC artifact's simulator for the same row budget, with `schedule.published`. Without, see tests/references/ghosts.rs.
//!
//! The full comparison takes golden.csv, which does not ship with the sources: it is ignored unless `make test-golden` asks
//! for it. A few of its figures stand here.

use crate::common;

use common::{Keep, Memory, one, root, system};
use pimattn::cli::exit::{EXIT_CONFIG, EXIT_DATA, ExitStatus};
use pimattn_attacc::{Attention, AttentionSchedule, DEVICE, UnitLevel};
use pimattn_core::addr::Address;
use pimattn_core::error::{Error, Result};
use pimattn_core::op::Op;
use pimattn_core::spec::System;
use pimattn_engine::{self as engine, probe::Probe};
use pimattn_mapping::workload::Workload;
use pimattn_stats::{Collector, Step};
use pimattn_trace::{Header, Phase, Record, Request};
use pimattn_tracegen::generate::Generator;

fn requests(kept: Keep) -> Vec<Request> {
    let request = |r| if let Record::Request(r) = r { Some(r) } else { None };
    kept.0.into_iter().filter_map(request).collect()
}

fn load(set: &[String]) -> Result<Generator> {
    let ideal = ["mapping.addressing=ideal", "selection_cost=free"].map(String::from);
    let set: Vec<String> = ideal.iter().chain(set).cloned().collect();
    let (workload, doc) = Workload::load(&root().join("configs/workload/synthetic.toml"), &set)?;
    Generator::load(workload, &doc, None)
}

fn generate(set: &[String]) -> Vec<Record> {
    let mut kept = Keep::default();
    load(set).unwrap().run(&mut kept, None, &mut |_| {}).unwrap();
    kept.0
}

fn compat(timing: &str, refresh: &str) -> System {
    system("attacc-compat", &[&format!("dram.timing={timing}"), &format!("refresh={refresh}")])
}

fn replay<P: Probe>(system: &System, records: &[Record], probe: &mut P) -> u64 {
    let mut source = Memory { header: Header::foreign(DEVICE, "test"), records: records.to_vec() };
    engine::run(system, &mut source, probe, &mut |_| {}).unwrap()
}

/// A decode step of one layer: which tokens, of how many, by how many query heads.
#[derive(Debug, Clone, Copy)]
struct Case {
    heads: u32,
    len: u32,
    /// Tokens of the row budget; a full layer when there is none.
    budget: Option<u32>,
}

impl Case {
    /// A workload whose policy touches as many rows of 16 as the budget has. Query heads share keys only to keep the
    /// cache small.
    fn workload(&self) -> Vec<String> {
        let &Case { heads, len, budget } = self;
        let mut set = vec![
            "synthetic.layers=1".into(),
            "synthetic.kv_heads=1".into(),
            format!("synthetic.query_heads={heads}"),
            format!("synthetic.prefill={}", len - 1),
            "synthetic.decode_steps=1".into(),
            "schedule.published=true".into(),
        ];
        match budget.map(|b| b.div_ceil(16)) {
            None => set.extend(["policy=full".into(), "dense_layers=1".into()]),
            // Pages are rows.
            Some(rows) if len.is_multiple_of(16) && rows.is_multiple_of(2) => {
                set.extend(["policy=quest".into(), format!("budget={}", 16 * rows)]);
            }
            // The sinks' row, and the last ones.
            Some(rows) => {
                let recent = len - 16 * (len.div_ceil(16) - (rows - 1));
                set.extend(["policy=streaming".into(), format!("budget={}", 4 + recent)]);
            }
        }
        set
    }

    fn generated(&self) -> Vec<Record> {
        generate(&self.workload())
    }

    /// What `tracegen attacc --kv-budget` writes.
    fn attacc(&self) -> Vec<Record> {
        let &Case { heads, len, budget } = self;
        schedule(Attention {
            mode: UnitLevel::Bank,
            heads,
            len,
            dim: 128,
            bytes: 2,
            kv_budget: budget,
            clustering: false,
        })
    }
}

fn schedule(attention: Attention) -> Vec<Record> {
    let mut kept = Keep::default();
    AttentionSchedule::published(attention, DEVICE).unwrap().run(&mut kept, &mut |_| {}).unwrap();
    kept.0
}

/// Rows of golden.csv, all HBM3_5.2Gbps with AllBankHBM3: heads, tokens, budget, cycles.
const GOLDEN: [(Case, u64); 4] = [
    (Case { heads: 64, len: 4096, budget: Some(1024) }, 7861),
    (Case { heads: 26, len: 20000, budget: Some(1539) }, 6262),
    (Case { heads: 16, len: 2048, budget: None }, 3810),
    (Case { heads: 5, len: 128, budget: None }, 273),
];

#[test]
fn a_generated_step_takes_as_long_as_the_references() {
    for (case, cycles) in GOLDEN {
        assert_eq!(replay(&compat("HBM3_5.2Gbps", "all-bank"), &case.generated(), &mut ()), cycles, "{case:?}");
    }
}

#[test]
fn a_generated_step_is_the_schedule_of_its_row_budget() {
    for timing in ["HBM3_5.2Gbps", "HBM3_6.4Gbps_NPC"] {
        for (heads, len, budget) in [
            (1, 1000, Some(256)),
            (13, 1008, Some(1000)),
            (17, 4097, Some(2000)),
            (33, 2048, Some(160)),
            (48, 1536, Some(1200)),
            (16, 777, None),
            (80, 300, None),
        ] {
            let case = Case { heads, len, budget };
            let system = compat(timing, "all-bank");
            let ours = replay(&system, &case.generated(), &mut ());
            assert_eq!(ours, replay(&system, &case.attacc(), &mut ()), "{case:?}");
            assert!(ours > 0);
        }
    }
}

/// The step that a golden trace's name stands for, where a workload can ask for it.
fn parse(name: &str) -> Option<Case> {
    let mut case = Case { heads: 0, len: 0, budget: None };
    for word in name.strip_prefix("starc_bank_").or(name.strip_prefix("attacc_bank_"))?.split('_') {
        let (key, value) = word.split_at(word.find(|c: char| c.is_ascii_digit())?);
        let value = value.parse().ok()?;
        match (key, value) {
            ("nh", n) => case.heads = n,
            ("L", n) => case.len = n,
            ("kv", n) => case.budget = Some(n),
            ("dh", 128) | ("db", 2) => {}
            _ => return None,
        }
    }
    // A cache has a prefill.
    (case.len > 1).then_some(case)
}

#[test]
#[ignore = "needs golden results, which do not ship: make test-golden"]
fn generated_steps_take_the_golden_cycles() {
    let mut table = csv::Reader::from_path(common::golden("golden/golden.csv")).unwrap();
    let rows: Vec<csv::StringRecord> = table.records().map(|r| r.unwrap()).collect();
    let (mut budgets, mut dense) = (0, 0);
    for run in rows.chunk_by(|a, b| a[0] == b[0]) {
        // The dense ones are many; the first preset of each says it.
        let Some(case) = parse(&run[0][0]) else { continue };
        let run = if case.budget.is_some() { run } else { &run[..1] };
        let records = case.generated();
        for row in run {
            let refresh = if &row[2] == "No" { "none" } else { "all-bank" };
            let cycles = replay(&compat(&row[1], refresh), &records, &mut ());
            assert_eq!(cycles.to_string(), row[4], "{row:?}");
            *(if case.budget.is_some() { &mut budgets } else { &mut dense }) += 1;
        }
    }
    // Of the traces in bank mode, six have a single token and one has other elements.
    assert_eq!((budgets, dense), (4, 25));
}

/// Requests of an operation.
fn count(records: &[Record], op: Op) -> u64 {
    let of = |r: &Record| if let Record::Request(r) = r { Some(*r) } else { None };
    records.iter().filter_map(of).filter(|r| r.op == op).map(|r| u64::from(r.count)).sum()
}

#[test]
fn heads_in_pairs_are_an_option() {
    let case = Case { heads: 128, len: 2048, budget: None };
    let alone = generate(&[case.workload(), vec!["schedule.pipeline=false".into()]].concat());
    let pairs = case.generated();
    // The pairs have a MAC more in each channel, which opens the first row; their order hides transfers.
    assert_eq!(count(&alone, Op::MacAb) + 16, count(&pairs, Op::MacAb));
    assert_eq!(count(&alone, Op::Sfm), count(&pairs, Op::Sfm));
    let system = compat("HBM3_5.2Gbps", "none");
    let (alone, pairs) = (replay(&system, &alone, &mut ()), replay(&system, &pairs, &mut ()));
    assert!(alone > pairs + pairs / 50, "{alone} one after the other, {pairs} in pairs");
}

/// Two layers and three steps of a small model.
fn small(set: &[&str]) -> Vec<String> {
    let model = [
        "synthetic.layers=2",
        "synthetic.kv_heads=3",
        "synthetic.query_heads=9",
        "synthetic.prefill=400",
        "synthetic.decode_steps=3",
        "budget=160",
    ];
    model.iter().chain(set).map(|s| s.to_string()).collect()
}

#[test]
fn layers_and_steps_follow_each_other() {
    for refresh in ["none", "all-bank"] {
        let (system, records) = (compat("HBM3_5.2Gbps", refresh), generate(&small(&[])));
        let mut collector = Collector::with_steps(&system.device, Vec::new());
        let cycles = replay(&system, &records, &mut collector);
        let banks = u64::from(system.device.geometry.banks_per_channel() * system.device.geometry.channels);
        assert_eq!(collector.run.time.total(), cycles * banks, "every cycle has a cause");
        let steps: Vec<Step> = collector.into_steps();
        assert_eq!(steps.iter().map(|s| s.step).collect::<Vec<_>>(), [0, 1, 2]);
        assert_eq!(steps.iter().map(|s| s.cycles).sum::<u64>(), cycles);
        // Alone, each takes the same but for the rows that the one before has left open, and the refreshes' phase.
        let sync = |r: &Record| matches!(r, Record::Request(r) if r.op == Op::Sync);
        let alone: u64 = records.split(sync).map(|layer| replay(&system, layer, &mut ())).sum();
        assert!(cycles.abs_diff(alone) * 20 < alone, "{cycles} in a row, {alone} alone");
    }
}

/// The cycle and the channel of each MAC.
#[derive(Default)]
struct Macs(Vec<(u64, u32)>, Vec<u64>);

impl Probe for Macs {
    fn command(&mut self, e: &engine::probe::CommandEvent) {
        if e.completes.is_some_and(|c| c.op == Op::MacAb) {
            self.0.push((e.cycle, e.address.channel));
        }
    }
    fn sync(&mut self, cycle: u64) {
        self.1.push(cycle);
    }
}

#[test]
fn a_sync_holds_the_stream_until_every_channel_is_idle() {
    let on =
        |channel, column| Record::Request(one(&DEVICE, Op::MacAb, Address { channel, column, ..Address::default() }));
    let sync = Record::Request(Request::one(Op::Sync, 0));
    let system = compat("HBM3_5.2Gbps", "none");
    let work: Vec<Record> = [on(1, 0)].into_iter().chain((0..32).map(|c| on(0, c))).collect();
    let alone = replay(&system, &work, &mut ());
    let with = |ahead: &[Record], behind: &[Record]| [ahead, &work, behind].concat();

    let mut macs = Macs::default();
    let cycles = replay(&system, &with(&[], &[sync, on(1, 1)]), &mut macs);
    assert_eq!(macs.1, [alone]);
    assert_eq!(macs.0.last(), Some(&(alone, 1)), "its row is open: it needs no time but the stream's");
    assert_eq!(cycles, alone + 1);
    // Where nothing is to be waited for, a sync takes no time.
    assert_eq!(replay(&system, &with(&[], &[sync]), &mut ()), alone);
    assert_eq!(replay(&system, &with(&[sync, sync], &[sync, sync, sync]), &mut ()), alone);
    assert_eq!(replay(&system, &with(&[], &[sync, sync, on(1, 1), sync]), &mut ()), alone + 1);
}

#[test]
fn what_only_hosts_do_is_refused_with_a_way_out() {
    let records = vec![Record::Request(Request::one(Op::Host, 0))];
    let mut source = Memory { header: Header::foreign(DEVICE, "test"), records };
    let error = engine::run(&compat("HBM3_5.2Gbps", "none"), &mut source, &mut (), &mut |_| {}).unwrap_err();
    assert_eq!(error.exit_code(), EXIT_DATA);
    let said = error.to_string();
    assert!(said.contains("PIM_HOST") && said.contains("selection_cost") && said.contains("\"pim\""), "{said}");
}

/// The requests of each layer of each step, without its sync.
fn layers(records: Vec<Record>) -> Vec<Vec<Request>> {
    let requests = requests(Keep(records));
    requests.split(|r| r.op == Op::Sync).map(<[Request]>::to_vec).filter(|l| !l.is_empty()).collect()
}

#[test]
fn whoever_clusters_begins_the_last_step_with_the_artifacts_clustering() {
    for policy in ["starc", "starc-v1", "clusterkv"] {
        let set = |cost: &str| small(&[&format!("policy={policy}"), &format!("clustering_cost={cost}")]);
        let (with, without) = (layers(generate(&set("artifact"))), layers(generate(&set("free"))));
        assert_eq!(with.len(), 6);
        assert_eq!(with[..4], without[..4], "{policy}: only the last step clusters");
        for (with, without) in with[4..].iter().zip(&without[4..]) {
            let clustering = &with[..with.len() - without.len()];
            assert_eq!(with[clustering.len()..], without[..], "{policy}: ahead of the attention");
            let attention = Attention {
                mode: UnitLevel::Bank,
                heads: 9,
                len: 403,
                dim: 128,
                bytes: 2,
                kv_budget: Some(160),
                clustering: true,
            };
            let artifact = requests(Keep(schedule(attention)));
            assert_eq!(artifact[..clustering.len()], *clustering, "{policy}");
            assert_eq!(artifact[clustering.len()].op, Op::WrGb, "{policy}: all of it, up to the first query");
        }
    }
}

#[test]
fn the_artifacts_clustering_has_its_phases_and_its_time() {
    let cost = |cost: &str| {
        let system = compat("HBM3_5.2Gbps", "all-bank");
        let mut collector = Collector::with_steps(&system.device, Vec::new());
        let set = small(&["policy=starc", &format!("clustering_cost={cost}")]);
        let cycles = replay(&system, &generate(&set), &mut collector);
        let last = collector.into_steps().pop().unwrap();
        let work =
            |phase| last.parts.used().find(|(p, _)| *p == phase as usize).map_or(0, |(_, part)| part.time.total());
        (cycles, work(Phase::Cluster), work(Phase::Remap))
    };
    let (free, artifact) = (cost("free"), cost("artifact"));
    assert_eq!((free.1, free.2), (0, 0));
    assert!(artifact.0 > free.0 && artifact.1 > 0 && artifact.2 > 0, "{artifact:?}");
}

#[test]
fn whoever_does_not_cluster_pays_for_none() {
    for policy in ["quest", "sparq", "full"] {
        let set = |cost: &str| small(&[&format!("policy={policy}"), &format!("clustering_cost={cost}")]);
        assert!(generate(&set("artifact")) == generate(&set("free")), "{policy}");
    }
}

fn refusal(set: &[&str]) -> String {
    let set: Vec<String> = small(&[&["clustering_cost=artifact"], set].concat());
    let Err(error) = load(&set) else { panic!("{set:?} is no error") };
    assert_eq!(error.exit_code(), EXIT_CONFIG);
    let Error::Config { at, what } = error else { panic!("{error}") };
    format!("{at}: {what}")
}

#[test]
fn a_clustering_that_the_artifact_lacks_is_refused_before_anything_is_generated() {
    let many = refusal(&["policy=starc", "batch.requests=2"]);
    assert!(many.contains("clustering_cost") && many.contains("18 heads") && many.contains("malformed"), "{many}");
    let placed = refusal(&["policy=starc", "mapping.addressing=broadcast"]);
    assert!(placed.contains("clustering_cost") && placed.contains("ideal"), "{placed}");
    let other = refusal(&["policy=starc", "clustering_cost=artefact"]);
    assert!(other.contains("clustering_cost"), "{other}");
    // Dense layers are not clustered, nor are those of other policies.
    for set in [["policy=starc", "dense_layers=9"], ["policy=quest", "seed=1"]] {
        let set = [&set[..], &["clustering_cost=artifact", "batch.requests=2"]].concat();
        assert!(load(&small(&set)).is_ok(), "{set:?}");
    }
}
