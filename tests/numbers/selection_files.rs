//! A selection that was saved and read back is the policy's own run again; one that others made is priced as the policy's would be.

use crate::common::{root, trace};
use pimattn::core::spec::config::Document;
use pimattn::mapping::workload::Workload;
use pimattn::policies::select::REGISTRY;
use pimattn::trace::label::SelectionLabel;
use pimattn::tracegen::generate::MetricsRow;
use pimattn::{CacheSet, Cancel, Error, Generator, Granularity, KvCache, ScanRule, Selection, SyntheticSpec, kv};
use pimattn::{simulate, systems};
use std::path::Path;
use std::sync::Arc;

/// Two layers whose KV heads serve three query heads each, small enough for every policy to run over its periods.
const CACHE: &str = r#"
name = "round trip"
system = "../system/hbm3-pim.toml"
policy = "full"
budget = 56
dense_layers = 0
seed = 7
prefill_clustering_cost = "pim"
[synthetic]
layers = 2
kv_heads = 2
query_heads = 6
dim = 64
prefill = 150
decode_steps = 40
[mapping]
addressing = "bank-group"
layout = "row-block"
align = "none"
values = "stripe"
skip_columns = true
[metrics]
row_block = 16
units = 16
[policies.starc]
block = 16
clusters = 2
[policies.starc-v1]
buffer = 16
cluster_size = 8
[policies.clusterkv]
sinks = 4
cluster_size = 10
window = 20
window_clusters = 2
[policies.streaming]
positions = "cache"
rope_theta = 1e4
[policies.sparq]
r = 8
local = 8
per = "head"
"#;

fn workload(set: &[&str]) -> (Workload, Document) {
    let set: Vec<String> = set.iter().map(ToString::to_string).collect();
    let doc = Document::parse(&root().join("configs/workload/round-trip.toml"), CACHE, &set).unwrap();
    (Workload::of(&doc).unwrap(), doc)
}

/// Rows without the hash of the selection, which is that of the file's content where a file says it.
fn unlabelled(rows: Vec<MetricsRow>) -> Vec<MetricsRow> {
    let hash = |row: MetricsRow| {
        let label = Arc::new(SelectionLabel { selection_hash: 0, ..SelectionLabel::clone(&row.label) });
        MetricsRow { label, ..row }
    };
    rows.into_iter().map(hash).collect()
}

/// What a policy has selected, written to a file and read again.
fn saved(generator: &Generator, file: &Path) -> Selection {
    let selections = generator.select(&Cancel::new(), false, &|_| {}).unwrap();
    let selection = generator.selection(&selections).unwrap();
    selection.save(file).unwrap();
    let read = Selection::load(file).unwrap();
    assert_eq!(read.hash(), selection.hash());
    read
}

#[test]
fn every_policy_gives_the_same_run_from_its_saved_selection() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("selection.safetensors");
    for entry in REGISTRY {
        for dense in ["dense_layers=0", "dense_layers=1"] {
            let policy = format!("policy={}", entry.name);
            let (w, doc) = workload(&[&policy, dense]);
            let live = Generator::load(w, &doc, None).unwrap();
            let selection = saved(&live, &file);
            assert_eq!(selection.policy(), entry.name);
            // Another mapping, too: the selection knows nothing of it.
            for mapping in
                [&[][..], &["mapping.addressing=ideal"], &["mapping.layout=cluster-striped", "placement.split=2"]]
            {
                let (w, doc) = workload(&[&[policy.as_str(), dense], mapping].concat());
                let live = Generator::load(w.clone(), &doc, None).unwrap();
                let system = w.load_system(&doc, &[]).unwrap();
                // The file says who selected; the workload's policy takes no part.
                let other = Workload { policy: "nobody".into(), ..w };
                let again = Generator::load_imported(live.caches(), system, other, &doc, None, &selection).unwrap();
                let ((records, rows), (live_records, live_rows)) = (trace(&again), trace(&live));
                let what = format!("{policy} {dense} {mapping:?}");
                assert!(records == live_records, "{what}: {} and {} records", records.len(), live_records.len());
                assert_eq!(unlabelled(rows), unlabelled(live_rows), "{what}");
                if mapping.is_empty() {
                    let (again, live) = (simulate(&again).unwrap(), simulate(&live).unwrap());
                    assert_eq!((again.cycles, again.energy.total()), (live.cycles, live.energy.total()), "{what}");
                }
            }
        }
    }
}

/// The small cache of tests that need no policy of their own.
fn cache() -> KvCache {
    let shape = SyntheticSpec {
        layers: 1,
        kv_heads: 2,
        query_heads: 4,
        prefill: 100,
        decode_steps: 3,
        ..SyntheticSpec::default()
    };
    kv::synthetic::generate(&shape).unwrap()
}

/// A selection of `cache` of one layer: what `of` says of a query head and the token that is decoded.
fn chosen(cache: &KvCache, granularity: Granularity, of: impl Fn(usize, u32) -> Vec<u32>) -> Selection {
    let positions = cache.decode_positions();
    let (mut indices, mut ptr) = (Vec::new(), vec![0]);
    for head in 0..cache.query_heads {
        for position in positions.clone() {
            indices.extend(of(head, position as u32));
            ptr.push(indices.len() as u64);
        }
    }
    let shape = [cache.layers.len(), cache.query_heads, positions.len()];
    Selection::from_csr("elsewhere", positions.start, Some(shape), granularity, indices, ptr)
}

#[test]
fn sinks_and_a_window_that_another_program_chose_cost_what_streaming_does() {
    let cache = cache();
    let system = || systems::load("hbm3-pim").unwrap();
    let live = Generator::new(system(), Workload::new("streaming", 32), cache.clone()).unwrap();
    // Four sinks and the last 28 tokens, the newest first: a file does not have to be sorted.
    let elsewhere =
        chosen(&cache, Granularity::Token, |_, position| (position - 27..=position).rev().chain(0..4).collect());
    let again = Generator::with_selection(system(), Workload::new("streaming", 32), cache, &elsewhere).unwrap();
    let ((records, rows), (live_records, live_rows)) = (trace(&again), trace(&live));
    assert!(records == live_records);
    let measured = |rows: &[MetricsRow]| rows.iter().map(|row| row.accuracy).collect::<Vec<_>>();
    assert_eq!(measured(&rows), measured(&live_rows));
    assert_eq!((rows[0].label.policy.as_str(), live_rows[0].label.policy.as_str()), ("elsewhere", "streaming"));
    let (again, live) = (simulate(&again).unwrap(), simulate(&live).unwrap());
    assert_eq!((again.cycles, again.energy.total()), (live.cycles, live.energy.total()));
}

#[test]
fn known_pages_open_known_rows() {
    let cache = cache();
    // Pages 0, 3 and the last, of 16 tokens; the last one has tokens 96 to the decoded one, 100 at the first step.
    let pages =
        chosen(&cache, Granularity::Page(16), |head, position| vec![position / 16, if head < 2 { 0 } else { 2 }, 3]);
    let workload = Workload::new("pages", 48);
    let run = Generator::with_selection(systems::load("hbm3-pim").unwrap(), workload, cache, &pages).unwrap();
    let (_, rows) = trace(&run);
    for row in &rows {
        assert_eq!((row.accuracy.selected, row.accuracy.row_tokens), (32 + 5 + row.step, 48), "step {}", row.step);
    }
    let outcome = simulate(&run).unwrap();
    // The keys of 16 tokens of 128 elements fill a row of a unit, as a row-block does; each KV head opens three at a step.
    assert_eq!(run.keys_per_row(), 16);
    for account in outcome.collector.heads.values() {
        assert_eq!((account.wanted.row_blocks, account.wanted.row_tokens), (3 * 3, 3 * (32 + 5) + 1 + 2));
    }
    assert_eq!(outcome.collector.heads.len(), 2);
}

#[test]
fn what_selecting_reads_is_priced_where_the_file_says_it() {
    let cache = cache();
    let system = || systems::load("hbm3-pim").unwrap();
    let live = Generator::new(system(), Workload::new("quest", 48), cache.clone()).unwrap();
    let selections = live.select(&Cancel::new(), false, &|_| {}).unwrap();
    let quest = live.selection(&selections).unwrap();
    let shape = [1, cache.query_heads, cache.decode_positions().len()];
    // Its tokens alone, as another program would write them, with a word of what was read to choose them.
    let run = |scan: ScanRule| {
        let (indices, ptr) = (quest.indices().to_vec(), quest.pointers().to_vec());
        let plain = Selection::from_csr("mine", cache.prefill, Some(shape), Granularity::Token, indices, ptr);
        Generator::with_selection(system(), Workload::new("mine", 48), cache.clone(), &plain.with_scan(scan))
    };
    // Quest ranks 6 whole pages of 16 tokens, by two bounds of 128 elements each; the last page it takes anyway.
    let bounds = run(ScanRule::Vectors { matrices: 2, vectors: 6, elements: 128 }).unwrap();
    assert!(trace(&bounds).0 == trace(&live).0);
    let scanned = |generator: &Generator| simulate(generator).unwrap().collector.run.wanted.bytes_scanned;
    assert_eq!(scanned(&bounds), 2 * 3 * (2 * 6 * 256), "two KV heads, three steps");
    assert_eq!(scanned(&run(ScanRule::Nothing).unwrap()), 0);
    // 2.5 bytes are two elements of two bytes, for each of 101, 102 and 103 tokens.
    assert_eq!(scanned(&run(ScanRule::BytesPerToken(2.5)).unwrap()), 2 * (101 + 102 + 103) * 4);
    let refused = run(ScanRule::Vectors { matrices: 1, vectors: 1, elements: 1 << 16 }).err().unwrap();
    assert!(matches!(&refused, Error::Check(what) if what.contains("longer than a row of a unit")), "{refused}");
}

#[test]
fn a_run_is_cut_to_the_steps_of_its_selection_and_says_so() {
    let (w, doc) = workload(&["policy=quest", "steps=12"]);
    let first = Generator::load(w, &doc, None).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let selection = saved(&first, &dir.path().join("s"));
    let of = |set: &[&str]| {
        let (w, doc) = workload(set);
        let system = w.load_system(&doc, &[]).unwrap();
        let cached = CacheSet::load(&Cancel::new(), &w, &doc, None).unwrap();
        Generator::load_imported(&cached, system, w, &doc, None, &selection)
    };
    let cut = of(&[]).unwrap();
    assert_eq!(cut.steps(), 12);
    let caution = "the selection has 12 decode steps: the cache has queries of 40";
    assert_eq!(cut.label().cautions, [caution]);
    // Who asks for no more steps than the selection has is told nothing.
    for asked in [5, 12] {
        let within = of(&[&format!("steps={asked}")]).unwrap();
        assert_eq!((within.steps(), within.label().cautions.len()), (asked, 0));
    }
    let more = of(&["synthetic.decode_steps=8"]).err().unwrap();
    assert!(more.to_string().ends_with("it has 12 steps; the cache has queries of 8"), "{more}");
    let batch = of(&["batch.requests=2"]).err().unwrap();
    assert!(batch.to_string().ends_with("a selection is of one cache: a dump, or a batch of one"), "{batch}");
    // What was selected for one batch is not the selection of a single request.
    let (w, doc) = workload(&["policy=quest", "batch.requests=2", "steps=1"]);
    let two = Generator::load(w, &doc, None).unwrap();
    let selections = two.select(&Cancel::new(), false, &|_| {}).unwrap();
    assert!(matches!(two.selection(&selections), Err(Error::Usage(_))));
    assert!(matches!(of(&[]).unwrap().reuse(selections), Err(Error::Usage(_))));
}
