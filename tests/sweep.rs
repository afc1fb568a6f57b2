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

/// The shipped experiment, made small: the same files, with fewer and shorter axes.
fn small_experiment() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let at = |path: &str| folder.path().join(path);
    std::fs::create_dir_all(at("configs/report")).unwrap();
    std::fs::create_dir_all(at("configs/sweep")).unwrap();
    for kept in ["workload", "model", "platform", "system", "dram"] {
        std::os::unix::fs::symlink(root().join("configs").join(kept), at("configs").join(kept)).unwrap();
    }
    std::os::unix::fs::symlink(root().join("traces"), at("traces")).unwrap();
    let copy = |file: &str, changes: &[(&str, &str)]| {
        let mut text = std::fs::read_to_string(root().join(file)).unwrap();
        for (from, to) in changes {
            assert!(text.contains(from), "{file} has no {from:?}");
            text = text.replace(from, to);
        }
        std::fs::write(at(file), text).unwrap();
    };
    copy(
        "configs/report/starc.toml",
        &[("[16000, 24000, 32000]", "[96, 192]"), ("window_every = 8000", "window_every = 96"), ("0.05, 0.1, ", "")],
    );
    let short = ("[axes]\n", "[axes]\nsynthetic.dim = [64]\nsynthetic.decode_steps = [4]\n");
    let positions = "[6016, 14016, 22016, 30016]";
    copy("configs/sweep/paper.toml", &[short, (positions, "[2094, 2190]"), ("[1024] ", "[256] ")]);
    copy(
        "configs/sweep/choices.toml",
        &[
            ("synthetic.decode_steps = [16]", "synthetic.decode_steps = [2]"),
            ("[4096, 8192, 16384, 32768]", "[1024]"),
            ("\"starc-v1\", \"clusterkv\", \"h2o\"", "\"h2o\""),
            ("[256, 512, 1024, 2048]", "[256, 1024]"),
            ("budget = [256, 512, 1024]", "budget = [256]"),
        ],
    );
    copy(
        "configs/sweep/recall.toml",
        &[
            ("[axes]\n", "[axes]\nsteps = [2]\n"),
            ("[64, 128, 256, 512, 1024]", "[128, 1024]"),
            ("budget = [64, 128, 256, 512]", "budget = [128]"),
            ("\"starc-v1\", \"clusterkv\", \"h2o\"", "\"h2o\""),
        ],
    );
    let ablation = std::fs::read_to_string(root().join("configs/sweep/ablation.toml")).unwrap();
    let few = ["\"base\"", "\"addressing: broadcast\"", "\"power: stagger\""];
    let kept = ablation.lines().filter(|line| {
        let variant = line.starts_with("  \"") || line.starts_with('"');
        !variant || few.iter().any(|f| line.starts_with(&format!("{f} =")))
    });
    let text: String = kept.map(|line| format!("{line}\n")).collect();
    let text = text.replace("variant = [\n", &format!("variant = [{}\n", few.join(", ")));
    let text = text.replace("[8192]", "[1024]").replace("decode_steps = [64]", "decode_steps = [2]");
    std::fs::write(at("configs/sweep/ablation.toml"), text).unwrap();
    folder
}

/// Names and bytes of a folder's files.
fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let entry = |e: std::io::Result<std::fs::DirEntry>| {
        let path = e.unwrap().path();
        (path.file_name().unwrap().to_string_lossy().into_owned(), std::fs::read(&path).unwrap())
    };
    std::fs::read_dir(folder).unwrap().map(entry).collect()
}

/// Every `number [file:line column]` of a text is the cell that it names.
fn check_citations(text: &str, tables: &BTreeMap<String, Vec<u8>>) -> usize {
    let mut checked = 0;
    for (i, _) in text.match_indices(" [") {
        let Some((place, _)) = text[i + 2..].split_once(']') else { continue };
        let Some((file, rest)) = place.split_once(".csv:") else { continue };
        let (line, column) = rest.split_once(' ').unwrap();
        let table = rows(&tables[&format!("{file}.csv")]);
        let cell: f64 = table[line.parse::<usize>().unwrap() - 2][column].parse().unwrap();
        let number = text[..i].trim_end_matches(" %").rsplit([' ', '(', '\n']).next().unwrap();
        let decimals = number.split_once('.').map_or(0, |(_, d)| d.len());
        assert_eq!(number, format!("{cell:.decimals$}"), "{place}");
        checked += 1;
    }
    checked
}

#[test]
fn the_papers_experiment_gives_the_same_bytes_and_names_the_cells_it_speaks_of() {
    let folder = small_experiment();
    let at = |name: &str| folder.path().join(name).display().to_string();
    let plan = at("configs/report/starc.toml");
    let run = |out: &str, work: &str, threads: &str| {
        vec![
            "reproduce".to_string(),
            plan.clone(),
            "-o".into(),
            at(out),
            "--work".into(),
            at(work),
            "--threads".into(),
            threads.into(),
        ]
    };
    let args = |v: &[String]| v.iter().map(String::as_str).collect::<Vec<_>>().join("\u{1}");
    let start = |v: &[String]| ok(&args(v).split('\u{1}').collect::<Vec<_>>());
    // Killed on its way, and gone on with another number of threads.
    let mut child =
        Command::new(env!("CARGO_BIN_EXE_pimsim")).args(run("one", "work", "1")).stderr(Stdio::null()).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(1500));
    child.kill().unwrap();
    child.wait().unwrap();
    start(&run("one", "work", "2"));
    start(&run("two", "elsewhere", "1"));
    let (one, two) = (files(&folder.path().join("one")), files(&folder.path().join("two")));
    assert_eq!(one.keys().collect::<Vec<_>>(), two.keys().collect::<Vec<_>>());
    for (name, bytes) in &one {
        assert!(*bytes == two[name], "{name} differs");
        let text = String::from_utf8_lossy(bytes);
        assert!(!text.contains(&*folder.path().display().to_string()), "{name} has a path of this machine");
    }
    let report = String::from_utf8(one["REPORT.md"].clone()).unwrap();
    assert!(check_citations(&report, &one) > 40);
    for figure in report.split("](").skip(1).map(|rest| rest.split_once(')').unwrap().0) {
        assert!(one.contains_key(figure), "{figure} is not there");
    }
    let claims = rows(&one["claims.csv"]);
    assert_eq!(claims.len(), 15);
    assert!(claims.iter().all(|c| !c["why"].is_empty() && !c["artifact"].is_empty() && !c["masks"].is_empty()));
    // A reduction is what its two cells say, and those are of the tables that they are from.
    let (reductions, artifact) = (rows(&one["reductions.csv"]), rows(&one["artifact.csv"]));
    let number = |row: &BTreeMap<String, String>, column: &str| row[column].parse::<f64>().unwrap();
    let same = |row: &BTreeMap<String, String>, key: &[(&str, &str)]| key.iter().all(|(c, v)| row[*c] == *v);
    let row = reductions.iter().find(|r| same(r, &[("measure", "latency"), ("against", "sparq")])).unwrap();
    let bar = |policy| artifact.iter().find(|r| same(r, &[("context", "96"), ("policy", policy)])).unwrap();
    assert_eq!(number(row, "starc"), number(bar("starc"), "step_ms"));
    let less = 100.0 * (1.0 - number(bar("starc"), "step_ms") / number(bar("sparq"), "step_ms"));
    assert!((number(row, "reduction_percent") - less).abs() < 1e-4);
}
