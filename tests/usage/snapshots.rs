//! What a reader sees, whole: help texts, reports for people, and (in `sweep`) the page of a small run of the paper's
//! experiment. A change of it is seen and accepted as a change of `tests/snapshots/`; CONTRIBUTING.md says how.

use crate::common::root;
use std::path::Path;
use std::process::{Command, Stdio};

const TRACEGEN: &str = env!("CARGO_BIN_EXE_tracegen");
const PIMSIM: &str = env!("CARGO_BIN_EXE_pimsim");

/// What a program prints on standard output, at the width of a page, in a folder from which all paths are short.
fn printed(program: &str, folder: &Path, args: &[&str]) -> String {
    let mut command = Command::new(program);
    command.args(args).current_dir(folder).stdin(Stdio::null()).env("COLUMNS", "120").env("NO_COLOR", "1");
    let out = command.output().unwrap();
    assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
    let text = String::from_utf8(out.stdout).unwrap();
    assert!(!text.contains(&*root().display().to_string()), "{args:?} prints a path of this machine");
    text
}

#[test]
fn help_texts_read_as_they_did() {
    let here = root();
    insta::assert_snapshot!("help_tracegen", printed(TRACEGEN, &here, &["--help"]));
    insta::assert_snapshot!("help_tracegen_run", printed(TRACEGEN, &here, &["run", "--help"]));
    insta::assert_snapshot!("help_pimsim", printed(PIMSIM, &here, &["--help"]));
    insta::assert_snapshot!("help_pimsim_run", printed(PIMSIM, &here, &["run", "--help"]));
    insta::assert_snapshot!("list_tracegen", printed(TRACEGEN, &here, &["list"]));
}

#[test]
fn reports_of_a_small_run_read_as_they_did() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let [workload, system] =
        ["workload/demo.toml", "system/hbm3-pim.toml"].map(|f| root().join("configs").join(f).display().to_string());
    for policy in ["full", "quest", "starc"] {
        let (trace, metrics) = (format!("{policy}.ptrace"), format!("{policy}.metrics.csv"));
        let run = ["run", "--config", &workload, "--policy", policy, "--set", "steps=4", "-o", &trace];
        printed(TRACEGEN, at, &[&run[..], &["--metrics", &metrics]].concat());
        printed(PIMSIM, at, &["run", &trace, "--config", &system, "-o", policy]);
    }
    let tables = ["full/run.csv", "quest/run.csv", "starc/run.csv"];
    let metrics = ["--metrics", "full.metrics.csv", "quest.metrics.csv", "starc.metrics.csv"];
    let summary = [&["summary"], &tables[..], &metrics].concat();
    insta::assert_snapshot!("summary", printed(PIMSIM, at, &summary));
    insta::assert_snapshot!(
        "summary_markdown",
        printed(PIMSIM, at, &[&summary[..], &["--format", "markdown"]].concat())
    );
    insta::assert_snapshot!("explain", printed(PIMSIM, at, &["explain", "quest", "starc"]));
    insta::assert_snapshot!("accuracy", printed(PIMSIM, at, &["accuracy", "quest.metrics.csv", "starc.metrics.csv"]));
    let steps = ["compare", "quest/steps.csv", "starc/steps.csv"];
    let columns = ["--column", "cycles", "--column", "energy_pj", "--column", "activations"];
    insta::assert_snapshot!("compare", printed(PIMSIM, at, &[&steps[..], &columns].concat()));
}
