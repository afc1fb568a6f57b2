//! Sweeps: the same numbers as the two programs one after the other, whatever stops them in between.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn pimsim(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_pimsim")).args(args).output().unwrap()
}

fn ok(args: &[&str]) -> String {
    let out = pimsim(args);
    let stderr = String::from_utf8(out.stderr).unwrap();
    assert!(out.status.success(), "{args:?}: {stderr}");
    stderr
}

/// A grid file in a scratch folder.
struct Scratch {
    folder: tempfile::TempDir,
}

impl Scratch {
    fn new(axes: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let workload = root().join("configs/workload/demo.toml");
        let text = format!("name = \"t\"\n[axes]\nworkload = [{:?}]\n{axes}\n", workload.display().to_string());
        std::fs::write(folder.path().join("grid.toml"), text).unwrap();
        Scratch { folder }
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    fn sweep(&self, out: &str, more: &[&str]) -> String {
        let (grid, out) = (self.path("grid.toml"), self.path(out));
        ok(&[&["sweep", &grid, "-o", &out], more].concat())
    }

    fn table(&self, out: &str) -> Vec<u8> {
        std::fs::read(self.folder.path().join(out).join("sweep.csv")).unwrap()
    }
}

fn rows(csv: &[u8]) -> Vec<BTreeMap<String, String>> {
    let mut reader = csv::Reader::from_reader(csv);
    let heads = reader.headers().unwrap().clone();
    reader.records().map(|r| heads.iter().zip(r.unwrap().iter()).map(|(a, b)| (a.into(), b.into())).collect()).collect()
}

#[test]
fn a_point_costs_what_its_trace_costs() {
    let axes = "steps = [3]\npolicy = [\"quest\", \"starc\"]\n\"mapping.addressing\" = [\"broadcast\"]\n\"system.power\" = [\"stagger\"]";
    let scratch = Scratch::new(axes);
    scratch.sweep("out", &[]);
    let table = rows(&scratch.table("out"));
    assert_eq!(table.len(), 2);
    let (workload, system) = (root().join("configs/workload/demo.toml"), root().join("configs/system/hbm3-pim.toml"));
    for row in table {
        let (trace, metrics) = (scratch.path("t.ptrace"), scratch.path("m.csv"));
        let generated = Command::new(env!("CARGO_BIN_EXE_tracegen"))
            .args(["run", "--config", workload.to_str().unwrap(), "--policy", &row["policy"], "--set", "steps=3"])
            .args(["--set", "mapping.addressing=broadcast", "-o", &trace, "--metrics", &metrics])
            .status()
            .unwrap();
        assert!(generated.success());
        let run = pimsim(&["run", &trace, "--config", system.to_str().unwrap(), "--set", "power=stagger"]);
        let run = rows(&run.stdout).remove(0);
        let same = run.iter().filter(|(name, _)| !["trace", "system"].contains(&name.as_str()));
        let mut compared = 0;
        for (name, value) in same {
            assert_eq!(&row[name], value, "{name}");
            compared += 1;
        }
        assert!(compared > 50, "{compared}");
        let metrics = rows(&std::fs::read(&metrics).unwrap());
        let mean = metrics.iter().map(|m| m["mass_recall"].parse::<f64>().unwrap()).sum::<f64>() / metrics.len() as f64;
        assert!((row["mass_recall"].parse::<f64>().unwrap() - mean).abs() < 2e-6);
    }
}

const GRID: &str = "steps = [2]\npolicy = [\"full\", \"streaming\", \"quest\", \"starc\"]\nbudget = [64, 128, 192]";

#[test]
fn shards_make_the_whole_with_any_number_of_threads() {
    let scratch = Scratch::new(GRID);
    scratch.sweep("one", &["--threads", "1"]);
    scratch.sweep("four", &["--threads", "4"]);
    let whole = scratch.table("one");
    assert_eq!(rows(&whole).len(), 12);
    assert!(whole == scratch.table("four"), "another number of threads, other bytes");
    let shards: Vec<String> = (1..=3).map(|i| format!("{i}/3")).collect();
    for shard in &shards {
        scratch.sweep(&shard.replace('/', "-"), &["--shard", shard]);
    }
    let tables: Vec<String> =
        shards.iter().map(|s| scratch.path(&format!("{}/sweep.csv", s.replace('/', "-")))).collect();
    let merged = scratch.path("merged.csv");
    let inputs: Vec<&str> = tables.iter().rev().map(String::as_str).collect();
    ok(&[&["merge", "-o", &merged], &inputs[..]].concat());
    assert!(std::fs::read(&merged).unwrap() == whole);
    // A table that says otherwise is not merged in silence.
    let text = std::fs::read_to_string(&tables[0]).unwrap();
    let (head, last) = text.trim_end().rsplit_once(',').unwrap();
    std::fs::write(scratch.path("bad.csv"), format!("{head},1{last}\n")).unwrap();
    let out = pimsim(&["merge", "-o", &merged, &tables[0], &scratch.path("bad.csv")]);
    assert_eq!(out.status.code(), Some(65));
}

#[test]
fn a_sweep_killed_at_any_moment_goes_on_where_it_was() {
    let scratch = Scratch::new(&GRID.replace("64, 128, 192", "64, 80, 96, 112, 128, 144, 160, 176, 192, 208"));
    scratch.sweep("whole", &[]);
    let (grid, out) = (scratch.path("grid.toml"), scratch.path("killed"));
    let points = PathBuf::from(&out).join("points");
    let finished = || {
        let files = std::fs::read_dir(&points).into_iter().flatten().flatten();
        let whole = files.filter(|f| !f.file_name().to_string_lossy().starts_with(".part-"));
        whole.map(|f| (f.path(), f.metadata().unwrap().modified().unwrap())).collect::<BTreeMap<_, _>>()
    };
    let mut before = BTreeMap::new();
    for round in 0..10u64 {
        let mut child = Command::new(env!("CARGO_BIN_EXE_pimsim"))
            .args(["sweep", &grid, "-o", &out])
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // Moments that are not multiples of each other, early and late.
        std::thread::sleep(Duration::from_millis(7 + (round * 61) % 97));
        child.kill().unwrap();
        child.wait().unwrap();
        let now = finished();
        assert!(before.iter().all(|(file, time)| now.get(file) == Some(time)), "a finished point was lost or repeated");
        before = now;
    }
    let last = scratch.sweep("killed", &[]);
    assert!(last.contains(&format!("{} kept", before.len())), "{last}: {} files", before.len());
    assert!(scratch.table("killed") == scratch.table("whole"));
}

#[test]
fn a_point_that_fails_stops_no_other_and_decides_the_exit_code() {
    let scratch = Scratch::new("steps = [1]\npolicy = [\"quest\"]\nbudget = [8, 64]");
    let out = pimsim(&["sweep", &scratch.path("grid.toml"), "-o", &scratch.path("out")]);
    let stderr = String::from_utf8(out.stderr).unwrap();
    assert_eq!(out.status.code(), Some(78), "{stderr}");
    assert!(stderr.contains("point 0: budget=8 failed") && stderr.contains("budget 8 is below"), "{stderr}");
    assert_eq!(rows(&scratch.table("out")).len(), 1);
}

#[test]
fn what_a_result_depends_on_changes_its_key() {
    let scratch = Scratch::new("steps = [1]\npolicy = [\"streaming\"]");
    scratch.sweep("out", &[]);
    let again = scratch.sweep("out", &[]);
    assert!(again.contains("0 points run, 1 kept"), "{again}");
    let grid = scratch.path("grid.toml");
    let text = std::fs::read_to_string(&grid).unwrap();
    for more in ["budget = [65]", "\"system.queue_depth\" = [16]"] {
        std::fs::write(&grid, format!("{text}{more}\n")).unwrap();
        let changed = scratch.sweep("out", &[]);
        assert!(changed.contains("1 points run, 0 kept"), "{more}: {changed}");
    }
}

#[test]
fn a_wrong_axis_names_the_nearest_key() {
    let scratch = Scratch::new("polcy = [\"full\"]");
    let out = pimsim(&["sweep", &scratch.path("grid.toml"), "-o", &scratch.path("out")]);
    assert_eq!(out.status.code(), Some(78));
    assert!(String::from_utf8(out.stderr).unwrap().contains("did you mean \"policy\""));
}
