//! Selections that were made once serve any mapping, as if each run had made them itself.

use crate::common::{Keep, root, trace};
use pimattn::mapping::workload::Workload;
use pimattn::policies::select::REGISTRY;
use pimattn::{Cancel, Error, Generator};

fn workload(set: &[&str]) -> (Workload, pimattn::core::spec::config::Document) {
    let set: Vec<String> = ["steps=66", "budget=128"].iter().chain(set).map(ToString::to_string).collect();
    Workload::load(&root().join("configs/workload/demo.toml"), &set).unwrap()
}

#[test]
fn selections_made_once_give_the_traces_and_the_metrics_of_runs_that_select() {
    let mappings: [&[&str]; 3] = [
        &["mapping.addressing=broadcast", "mapping.layout=interleaved", "placement.split=2", "steps=65"],
        &["mapping.addressing=ideal", "schedule.pipeline=false"],
        &["mapping.layout=cluster-striped", "mapping.values=vector", "prefill_clustering_cost=pim", "name=other"],
    ];
    for entry in REGISTRY {
        let policy = format!("policy={}", entry.name);
        let (w, doc) = workload(&[&policy]);
        let first = Generator::load(w, &doc, None).unwrap();
        let selections = first.select(&Cancel::new(), true, &|_| {}).unwrap();
        for mapping in mappings {
            let (w, doc) = workload(&[&[policy.as_str()], mapping].concat());
            let system = w.load_system(&doc, &[]).unwrap();
            let kept = Generator::load_selected(&selections, system, w.clone(), &doc, None).unwrap();
            let live = Generator::load(w, &doc, None).unwrap();
            assert_eq!(kept.header(), live.header());
            let ((kept, kept_rows), (live, live_rows)) = (trace(&kept), trace(&live));
            assert!(kept == live, "{policy} {mapping:?}: {} and {} records", kept.len(), live.len());
            assert!(kept_rows == live_rows, "{policy} {mapping:?}: metrics differ");
        }
    }
}

#[test]
fn a_workload_that_would_select_otherwise_is_refused() {
    let (w, doc) = workload(&[]);
    let system = w.load_system(&doc, &[]).unwrap();
    let first = Generator::load(w, &doc, None).unwrap();
    let selections = first.select(&Cancel::new(), false, &|_| {}).unwrap();
    let of = |set: &[&str]| {
        let (w, doc) = workload(set);
        Generator::load_selected(&selections, system.clone(), w, &doc, None)
    };
    for other in ["budget=129", "policy=quest", "seed=2", "dense_layers=0", "policies.starc.block=32", "steps=67"] {
        assert!(matches!(of(&[other]), Err(Error::Config { .. })), "{other}");
    }
    let mapped = of(&["mapping.skip_columns=false"]).unwrap();
    let unmeasured = mapped.run(&mut Keep::default(), Some(&mut |_| Ok(())), &mut |_| {});
    assert!(matches!(unmeasured, Err(Error::Usage(_))));
}
