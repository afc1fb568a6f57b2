//! docs/system.md: whether PIM is worth it, policy by policy.

use super::{pimsim, prose, table};
use crate::common::root;
use rayon::prelude::*;
use std::collections::BTreeMap;
use std::process::Command;

type ServiceCells = BTreeMap<String, String>;

/// Policies of the sample's table, and of that of long caches, whose generation takes longer.
const POLICIES: [&str; 7] = ["full", "streaming", "quest", "sparq", "infinigen", "clusterkv", "starc"];
const POLICIES_LONG: [&str; 5] = ["full", "streaming", "quest", "sparq", "starc"];

/// The rows of `pimsim system --run` for a workload and each of some policies.
fn rows(workload: &str, set: &[&str], policies: &[&str], served: &[&str]) -> Vec<ServiceCells> {
    let dir = tempfile::tempdir().unwrap();
    let trace = |policy: &str| dir.path().join(format!("{policy}.ptrace")).to_str().unwrap().to_string();
    policies.par_iter().for_each(|policy| {
        let (config, trace) = (format!("configs/workload/{workload}.toml"), trace(policy));
        let mut args = vec!["run", "--config", &config, "--policy", policy, "--threads", "1", "-q", "-o", &trace];
        set.iter().for_each(|set| args.extend(["--set", set]));
        let out = Command::new(env!("CARGO_BIN_EXE_tracegen")).args(&args).current_dir(root()).output().unwrap();
        assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
    });
    let folder = dir.path().join("runs").to_str().unwrap().to_string();
    let traces: Vec<String> = policies.iter().map(|policy| trace(policy)).collect();
    let mut args = vec!["run", "--config", "configs/system/hbm3-pim.toml", "-q", "-o", &folder];
    args.extend(traces.iter().map(String::as_str));
    pimsim(&args);
    pimsim(&[&["system", "--platform", "configs/platform/h100-attacc.toml", "--run", &folder], served].concat())
}

/// A row a policy and place: time of a step and of what the policy changes in it, tokens a second, energy of a token.
fn compared(rows: &[ServiceCells]) -> String {
    let number = |row: &ServiceCells, column: &str| row[column].parse::<f64>().unwrap();
    let line = |row: &ServiceCells| {
        let place = if row["attention"] == "gpu" { "GPU" } else { "PIM" };
        let attention = ["attention_ms", "softmax_ms", "policy_ms"].map(|c| number(row, c)).iter().sum::<f64>();
        let standing = number(row, "pim_standing_mj") / number(row, "batch");
        vec![
            row["policy"].clone(),
            place.into(),
            format!("{:.3}", number(row, "step_ms")),
            format!("{attention:.3}"),
            format!("{:.0}", number(row, "tokens_per_s")),
            format!("{:.2}", number(row, "token_mj")),
            format!("{:.2}", number(row, "token_mj") - standing),
        ]
    };
    let head =
        ["policy", "attention on", "step, ms", "attention, ms", "tokens/s", "mJ a token", "without standing power"];
    // The first row is the GPUs alone, which is that of full attention but for the token that is appended.
    table(&head, &[false, false, true, true, true, true, true], rows[1..].iter().map(line))
}

/// The bundled sample: five of its requests are what the fullest of five stacks has of 25.
pub(super) fn sample(_: &str) -> String {
    let model = ["--model", "configs/model/smollm2-135m.toml", "--set", "gpu.devices=1", "--batch", "25"];
    let served = [&model[..], &["--set", "gpu.split_attention=true"]].concat();
    compared(&rows("demo", &["batch.requests=5", "steps=64"], &POLICIES, &served))
}

/// What the fullest stack has of LLaMA-3.1-8B at batch 16, after 16,384 tokens.
const LONG: [&str; 6] = [
    "synthetic.kv_heads=4",
    "synthetic.query_heads=16",
    "synthetic.prefill_queries=0",
    "synthetic.decode_steps=2",
    "placement.split=4",
    "steps=2",
];
const SERVED_LONG: [&str; 6] = ["--model", "configs/model/llama-3.1-8b.toml", "--batch", "16", "--dense-layers", "0"];

pub(super) fn long(_: &str) -> String {
    let served = [&SERVED_LONG[..], &["--set", "gpu.split_attention=true"]].concat();
    compared(&rows("stack", &LONG, &POLICIES_LONG, &served))
}

/// What a thread block for each head costs the GPUs in the table of long caches.
pub(super) fn full(_: &str) -> String {
    let model = ["system", "--platform", "configs/platform/h100-attacc.toml", "--gpu-only", "--prefill", "16384"];
    let of = |set: &[&str]| pimsim(&[&model[..], &SERVED_LONG[..4], set].concat()).remove(0)["step_ms"].clone();
    let of = |set: &[&str]| format!("{:.3} ms", of(set).parse::<f64>().unwrap());
    prose(&format!(
        "In that service, full attention on the GPUs takes a step of {} where idle cores share the cache of a head, and of {} \
         with a thread block for each head.",
        of(&["--set", "gpu.split_attention=true"]),
        of(&[])
    ))
}
