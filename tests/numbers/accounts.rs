//! Every cycle of a run has a cause and a phase: in each row of each table the causes sum to the cycles, the phases of a
//! step sum to the step, and nothing of the energy is lost between them.

use pimattn_stats::account::Cause;
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
    for file in ["run", "steps", "heads", "channels", "phases"] {
        for row in table(&out.join(format!("{file}.csv"))) {
            let sum: f64 = Cause::ALL.iter().map(|c| number(&row, c.column().name)).sum();
            assert_eq!(sum, number(&row, "cycles"), "{set:?}: {file}.csv: {row:?}");
        }
    }
    let (steps, parts) = (table(&out.join("steps.csv")), table(&out.join("phases.csv")));
    for step in &steps {
        let own: Vec<&Row> = parts.iter().filter(|p| p["step"] == step["step"]).collect();
        let sum = |column: &str| own.iter().map(|p| number(p, column)).sum::<f64>();
        assert_eq!(sum("cycles"), number(step, "cycles"), "{set:?}: step {}", step["step"]);
        assert!((sum("energy_pj") - number(step, "energy_pj")).abs() < 1.0, "{set:?}: step {}", step["step"]);
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
