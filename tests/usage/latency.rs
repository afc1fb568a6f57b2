//! `pimsim latency-model`, from outside: its file read as LLMServingSim reads it, its latencies held against runs of traces.

use crate::common::root;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};

fn run(program: &str, dir: &Path, args: &[&str], code: i32) -> String {
    let out = Command::new(program).current_dir(dir).stdin(Stdio::null()).args(args).output().unwrap();
    let said = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(code), "{args:?}: {said}");
    String::from_utf8(out.stdout).unwrap() + &said
}

/// Keys and numbers of a PIM configuration, sections and comments left out, as LLMServingSim's loader flattens it.
fn keys(text: &str) -> BTreeMap<String, f64> {
    let lines = text.lines().map(|l| l.split('#').next().unwrap().trim()).filter(|l| !l.starts_with('['));
    let pairs = lines.filter_map(|l| l.split_once('='));
    pairs.filter_map(|(k, v)| Some((k.trim().to_string(), v.trim().parse().ok()?))).collect()
}

/// The formula of LLMServingSim's pim_model.py, in ns.
fn formula(keys: &BTreeMap<String, f64>, [heads, kv_heads, dim]: [f64; 3], context: f64) -> f64 {
    keys["slope"] * (heads / kv_heads) / 4.0 * context + keys["intercept"] * (heads * dim) / 4096.0
}

fn config(file: &str) -> String {
    root().join("configs").join(file).display().to_string()
}

#[test]
fn the_formula_gives_the_latency_of_runs_within_the_error_that_is_stated() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    let [model, system] = [config("model/smollm2-135m.toml"), config("system/hbm3-pim.toml")];
    let one = std::fs::read_to_string(&system).unwrap().replace("channels = 16", "channels = 1");
    std::fs::write(dir.join("one.toml"), one.replace("../dram/", &format!("{}/", config("dram")))).unwrap();
    for policy in ["full", "quest"] {
        let more =
            ["--policy", policy, "--budget", "256", "--contexts", "512,1024,2048", "--steps", "4", "-o", "a.b.ini"];
        let said = run(
            env!("CARGO_BIN_EXE_pimsim"),
            dir,
            &[&["latency-model", "--model", &model, "--config", &system], &more[..]].concat(),
            0,
        );
        assert!(said.contains("ns a token"), "{said}");
        let text = std::fs::read_to_string(dir.join("a.b.ini")).unwrap();
        assert!(
            text.contains("attn_model: \"a\": {\"slope\""),
            "LLMServingSim takes the name up to the first dot: {text}"
        );
        let keys = keys(&text);
        let mut worst: f64 = 0.0;
        for prefill in [512, 1024, 2048] {
            let set = ["system=one.toml", "budget=256", "seed=1", "synthetic.layers=1", "synthetic.kv_heads=3"]
                .map(String::from);
            let more = ["synthetic.query_heads=9", "synthetic.dim=64", "synthetic.decode_steps=4"].map(String::from);
            let set = set.into_iter().chain(more).chain([format!("synthetic.prefill={prefill}")]);
            let set: Vec<String> = set.flat_map(|s| ["--set".into(), s]).collect();
            let set: Vec<&str> = set.iter().map(String::as_str).collect();
            let synthetic = config("workload/synthetic.toml");
            let args = ["run", "--config", &synthetic, "--policy", policy, "-o", "t.ptrace", "-q"];
            run(env!("CARGO_BIN_EXE_tracegen"), dir, &[&args, &set[..]].concat(), 0);
            run(env!("CARGO_BIN_EXE_pimsim"), dir, &["run", "t.ptrace", "--config", "one.toml", "-o", "out", "-q"], 0);
            let table = std::fs::read_to_string(dir.join("out/run.csv")).unwrap();
            let mut rows = csv::Reader::from_reader(table.as_bytes());
            let row: BTreeMap<String, String> = rows.deserialize().next().unwrap().unwrap();
            let ns = row["time_ns"].parse::<f64>().unwrap() / 4.0;
            let error = formula(&keys, [9.0, 3.0, 64.0], f64::from(prefill) + 2.5) / ns - 1.0;
            worst = worst.max(error.abs());
            let mw = row["energy_pj"].parse::<f64>().unwrap() / (4.0 * ns);
            assert!(mw <= keys["peak_power"] * 1.0001, "{policy} {prefill}: {mw} mW of {}", keys["peak_power"]);
            assert!(mw > keys["idle_power"], "{policy} {prefill}: {mw} mW, idle {}", keys["idle_power"]);
        }
        assert!((worst - keys["fit_error"]).abs() < 1e-4, "{policy}: off by {worst}, not {}", keys["fit_error"]);
        if policy == "full" {
            // 3 heads of 64 elements of 2 B, K and V, for 3 query heads each; 64 banks multiply 32 B every 6 cycles of 769 ps.
            let bound = 2.0 * 3.0 * 64.0 * 2.0 * 3.0 / (64.0 * 32.0) * 6.0 * 0.769;
            let slope = keys["slope"] * (9.0 / 3.0) / 4.0;
            assert!((bound..2.0 * bound).contains(&slope), "{slope} ns a token; MACs alone take {bound}");
            assert!(keys["fit_error"] < 0.05);
        }
        // The device as the formula's other parts have it: a channel of 1 GiB at 41.6 GB/s.
        let banks = keys["bankgroups"] * keys["banks_per_group"];
        let page = keys["columns"] * keys["device_width"] / 8.0;
        let rank = page * (keys["rows"] / 1024.0) / 1024.0 * banks * keys["bus_width"] / keys["device_width"];
        assert_eq!((keys["channel_size"], keys["channel_size"] / rank), (1024.0, 2.0));
        let gb_per_s = keys["bus_width"] / 8.0 * keys["data_rate"] / 1000.0;
        assert!((gb_per_s - 2.0 * 32.0 / (2.0 * 0.769)).abs() < 0.01, "{gb_per_s}");
        assert_eq!((keys["CL"], keys["tCK"]), (19.0, 0.769));
    }
}

#[test]
fn one_context_and_unknown_policies_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let [model, system] = [config("model/smollm2-135m.toml"), config("system/hbm3-pim.toml")];
    let refuse = |more: &[&str], code: i32, says: &str| {
        let args =
            [&["latency-model", "--model", &model, "--config", &system, "--steps", "1", "-o", "x.ini"], more].concat();
        let said = run(env!("CARGO_BIN_EXE_pimsim"), folder.path(), &args, code);
        assert!(said.contains(says), "{more:?}: {said}");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "nothing is left");
    };
    refuse(&["--contexts", "512"], 2, "at least two different contexts");
    refuse(&["--contexts", "0,512"], 2, "at least 1");
    refuse(&["--contexts", "512,1024", "--policy", "starK"], 78, "did you mean");
}
