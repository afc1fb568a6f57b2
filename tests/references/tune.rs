//! What tuning finds, against every choice that there is, and against runs that were made without it.

use crate::common::root;
use pimattn::Cancel;
use pimattn::core::spec::config::Document;
use pimattn::core::table::CsvReader;
use pimattn::experiments::tune::search::SearchMethod;
use pimattn::experiments::tune::table::TunedRow;
use pimattn::experiments::tune::{ErrorLimit, Objective, TuneEvent, TunePlan, tune};
use pimattn::mapping::workload::Workload;
use std::path::Path;

/// A cache of one layer, two KV heads of two query heads.
const WORKLOAD: &str = r#"
name = "small"
system = "SYSTEM"
policy = "full"
budget = 48
dense_layers = 0
steps = 8
seed = 3
[synthetic]
layers = 1
kv_heads = 2
query_heads = 4
prefill = 120
decode_steps = 8
[mapping]
addressing = "bank-group"
layout = "row-block"
align = "none"
values = "stripe"
skip_columns = true
[metrics]
row_block = 16
units = 16
"#;

fn plan(policies: &[&str], set: &[&str]) -> TunePlan {
    let system = root().join("configs/system/hbm3-pim.toml");
    let text = WORKLOAD.replace("SYSTEM", system.to_str().unwrap());
    let set: Vec<String> = set.iter().map(ToString::to_string).collect();
    TunePlan {
        base: Document::parse(Path::new("small.toml"), &text, &set).unwrap(),
        of_system: Vec::new(),
        kv: None,
        policies: policies.iter().map(ToString::to_string).collect(),
        budgets: vec![48],
        objective: Objective::Time,
        at_most: None,
        capabilities: vec!["broadcast".into()],
        method: None,
    }
}

fn run(plan: &TunePlan, folder: &Path, workers: usize) -> (Vec<TunedRow>, [u64; 2]) {
    let outcome = tune(plan, folder, workers, &Cancel::new(), &mut |_| {}).unwrap();
    (outcome.rows, outcome.runs)
}

#[test]
fn no_choice_of_all_beats_the_one_that_was_found_by_more_than_a_percent() {
    for (policy, objective) in [("quest", Objective::Time), ("clusterkv", Objective::Edp)] {
        // Two channels leave few splits, so that all choices can be run.
        let mut plan = TunePlan { objective, of_system: vec!["channels=2".into()], ..plan(&[policy], &[]) };
        let folder = tempfile::tempdir().unwrap();
        let (found, _) = run(&plan, folder.path(), 2);
        plan.method = Some(SearchMethod::Exhaustive);
        let (best, _) = run(&plan, folder.path(), 2);
        let cost = |rows: &[TunedRow]| match objective {
            Objective::Edp => rows[0].best.ns * rows[0].best.pj,
            _ => rows[0].best.ns,
        };
        assert_eq!((found[0].method, best[0].method), ("descent", "exhaustive"));
        assert_eq!(best[0].runs[0], best[0].choices);
        assert!(found[0].runs[0] + found[0].runs[1] < best[0].choices / 4);
        assert!(cost(&found) <= 1.01 * cost(&best), "{policy}: {:?} for {:?}", found[0], best[0]);
        assert!(cost(&best) <= cost(&found) && found[0].gain > 1.0);
    }
}

#[test]
fn a_choice_costs_what_a_run_of_it_costs_and_the_default_what_the_workload_costs() {
    let plan = plan(&["quest"], &[]);
    let folder = tempfile::tempdir().unwrap();
    let (rows, runs) = run(&TunePlan { capabilities: Vec::new(), ..plan.clone() }, folder.path(), 2);
    assert_eq!(rows.iter().map(|r| r.capability).collect::<Vec<_>>(), ["broadcast", "bank-group", "ideal"]);
    let ns = |arguments: &str| {
        let set: Vec<String> =
            arguments.split("--set ").map(|s| s.trim().to_string()).filter(|s| !s.is_empty()).collect();
        let doc = plan.base.with(&set).unwrap();
        let generator = pimattn::Generator::load(Workload::of(&doc).unwrap(), &doc, None).unwrap();
        pimattn::simulate(&generator).unwrap().time_ns
    };
    for row in &rows {
        assert!((ns(&row.arguments) - row.best.ns).abs() < 1e-3, "{}", row.arguments);
    }
    assert!((ns("--set policy=quest") - rows[1].default.ns).abs() < 1e-3);
    // Hardware that can do more is no slower.
    assert!(rows[1].best.ns <= rows[0].best.ns);
    let (knob, gain) = rows[1].top.unwrap();
    assert!(gain >= 1.0 && rows[1].changed > 0, "{knob} {gain}");
    // What was run is kept, and the same bytes come of it with one worker.
    let bytes = || ["tune.csv", "runs.csv"].map(|file| std::fs::read(folder.path().join(file)).unwrap());
    let before = bytes();
    let (_, again) = run(&TunePlan { capabilities: Vec::new(), ..plan.clone() }, folder.path(), 1);
    assert!(runs[0] > 0 && again[0] == 0 && again[1] > 0, "{runs:?} {again:?}");
    let other = tempfile::tempdir().unwrap();
    run(&TunePlan { capabilities: Vec::new(), ..plan.clone() }, other.path(), 1);
    assert!(before == bytes());
    for (file, bytes) in ["tune.csv", "runs.csv"].iter().zip(before) {
        assert!(bytes == std::fs::read(other.path().join(file)).unwrap(), "{file}");
    }
}

#[test]
fn the_budget_is_the_smallest_that_keeps_the_loss_within_the_limit() {
    let limit = |most: &str| Some(ErrorLimit::parse(&format!("1-mass_recall={most}")).unwrap());
    let budgets = vec![112, 48, 64, 96];
    let plan = TunePlan { at_most: limit("0.2"), budgets, ..plan(&["full", "streaming", "quest"], &[]) };
    let folder = tempfile::tempdir().unwrap();
    let (rows, _) = run(&plan, folder.path(), 2);
    let runs = std::fs::File::open(folder.path().join("runs.csv")).unwrap();
    assert!(CsvReader::open(runs, "runs.csv").unwrap().read().unwrap().is_some());
    for row in &rows {
        assert!(1.0 - row.best.mass_recall.unwrap() <= 0.2, "{row:?}");
        let smaller = plan.budgets.iter().filter(|b| **b < row.budget).max();
        if let (Some(smaller), true) = (smaller, row.settings[0].is_none()) {
            let doc = plan.base.with(&[format!("policy={}", row.policy), format!("budget={smaller}")]).unwrap();
            let generator = pimattn::Generator::load(Workload::of(&doc).unwrap(), &doc, None).unwrap();
            let (mut n, mut kept) = (0.0, 0.0);
            let mut add = |r: &pimattn::tracegen::generate::MetricsRow| {
                (n, kept) = (n + 1.0, kept + r.accuracy.mass_recall);
                Ok(())
            };
            generator.run(&mut crate::common::Keep::default(), Some(&mut add), &mut |_| {}).unwrap();
            assert!(1.0 - kept / n > 0.2, "{} at {smaller} keeps {}", row.policy, kept / n);
        }
    }
    // A limit that no budget keeps is said, and leaves no row.
    let plan = TunePlan { at_most: limit("0"), policies: vec!["streaming".into()], budgets: vec![64], ..plan };
    let mut said = Vec::new();
    let outcome = tune(&plan, tempfile::tempdir().unwrap().path(), 1, &Cancel::new(), &mut |event| {
        if let TuneEvent::OutOfReach(policy) = event {
            said.push(policy.to_string());
        }
    });
    assert!(outcome.unwrap().rows.is_empty() && said == ["streaming"]);
    for (wrong, hint) in [
        ("output_rel_er=1", "did you mean \"output_rel_err\""),
        ("output_rel_err=-1", "at least 0"),
        ("x", "MEASURE=LIMIT"),
    ] {
        let e = ErrorLimit::parse(wrong).unwrap_err().to_string();
        assert!(e.contains(hint), "{e}");
    }
}
