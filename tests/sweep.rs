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

/// Points of a few milliseconds each.
const SMALL: &str = "name = \"small\"\nsystem = SYSTEM\npolicy = \"starc\"\nbudget = 64\ndense_layers = 0\nseed = 1\n\
[mapping]\naddressing = \"bank-group\"\nlayout = \"row-block\"\nalign = \"none\"\nvalues = \"stripe\"\nskip_columns = true\n\
[metrics]\nrow_block = 16\nunits = 16\n\
[synthetic]\nlayers = 1\nkv_heads = 2\nquery_heads = 2\ndim = 32\nprefill = 96\ndecode_steps = 1\n";

impl Scratch {
    fn new(axes: &str) -> Self {
        Scratch::on(&root().join("configs/workload/demo.toml"), axes)
    }

    /// As `new`, on the small workload.
    fn small(axes: &str) -> Self {
        let scratch = Scratch::on(Path::new("small.toml"), axes);
        let system = format!("{:?}", root().join("configs/system/hbm3-pim.toml").display().to_string());
        std::fs::write(scratch.path("small.toml"), SMALL.replace("SYSTEM", &system)).unwrap();
        scratch
    }

    fn on(workload: &Path, axes: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
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
    let grid = scratch.path("grid.toml");
    ok(&[&["merge", "--grid", &grid, "-o", &merged], &inputs[..]].concat());
    let out = pimsim(&["merge", "--grid", &grid, "-o", &scratch.path("part.csv"), &tables[0], &tables[2]]);
    assert_eq!(out.status.code(), Some(1));
    let said = String::from_utf8(out.stderr).unwrap();
    assert!(said.contains("4 of 12 points are missing, the first is point 1:"), "{said}");
    assert!(!Path::new(&scratch.path("part.csv")).exists());
    // A table that says otherwise is not merged in silence.
    let text = std::fs::read_to_string(&tables[0]).unwrap();
    let (head, last) = text.trim_end().rsplit_once(',').unwrap();
    std::fs::write(scratch.path("bad.csv"), format!("{head},1{last}\n")).unwrap();
    let out = pimsim(&["merge", "-o", &merged, &tables[0], &scratch.path("bad.csv")]);
    assert_eq!(out.status.code(), Some(65));
}

/// Moments after `PIMATTN_KILLS` (10) of which a sweep is killed, early and late within a point, and between points.
#[test]
fn a_sweep_killed_at_any_moment_goes_on_where_it_was() {
    let kills: usize = std::env::var("PIMATTN_KILLS").map_or(10, |n| n.parse().unwrap());
    let budgets: Vec<String> = (0..5 * kills).map(|i| (64 + i).to_string()).collect();
    let scratch = Scratch::small(&format!(
        "policy = [\"full\", \"streaming\", \"quest\", \"starc\"]\nbudget = [{}]",
        budgets.join(", ")
    ));
    let points = 4 * budgets.len();
    scratch.sweep("whole", &[]);
    let (grid, out) = (scratch.path("grid.toml"), scratch.path("killed"));
    let kept = PathBuf::from(&out).join("points");
    let finished = || {
        let files = std::fs::read_dir(&kept).into_iter().flatten().flatten();
        let whole = files.filter(|f| !f.file_name().to_string_lossy().starts_with(".part-"));
        whole.map(|f| (f.path(), f.metadata().unwrap().modified().unwrap())).collect::<BTreeMap<_, _>>()
    };
    // Xorshift: the moments differ, and are the same again.
    let mut state = 0x9E37_79B9_7F4A_7C15u64;
    let mut random = |below: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % below
    };
    let (mut before, mut advances) = (BTreeMap::new(), 0);
    for _ in 0..kills {
        let mut child = Command::new(env!("CARGO_BIN_EXE_pimsim"))
            .args(["sweep", &grid, "-o", &out, "-q"])
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let goal = before.len() + random(6) as usize;
        while finished().len() < goal && child.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(Duration::from_micros(random(20_000)));
        child.kill().unwrap();
        child.wait().unwrap();
        let now = finished();
        assert!(before.iter().all(|(file, time)| now.get(file) == Some(time)), "a finished point was lost or repeated");
        advances += usize::from(now.len() > before.len());
        // The table gained a row with each point, but for one that may have been about to be written.
        let table = std::fs::read_to_string(PathBuf::from(&out).join("sweep.csv")).unwrap_or_default();
        let rows = table.matches('\n').count().saturating_sub(1);
        assert!(rows <= now.len() && now.len() <= rows + 1, "{rows} rows of {} points", now.len());
        before = now;
    }
    assert!(advances > kills / 3, "{advances} of {kills} runs got anywhere: this tests little");
    assert!(before.len() < points, "all done before the last kill: this tests little");
    let last = scratch.sweep("killed", &[]);
    let said = format!("{} points run, {} kept, 0 failed", points - before.len(), before.len());
    assert!(last.contains(&said), "{last}: {said}");
    assert!(scratch.table("killed") == scratch.table("whole"));
    let left = std::fs::read_dir(&kept).unwrap().flatten().filter(|f| f.file_name().to_string_lossy().starts_with('.'));
    assert_eq!(left.count(), 0, "half-written files of the killed are still there");
}

#[test]
fn what_is_torn_is_noticed_and_made_again() {
    let scratch = Scratch::small("policy = [\"streaming\", \"quest\"]");
    scratch.sweep("out", &[]);
    let whole = scratch.table("out");
    let (table, points) = (scratch.path("out/sweep.csv"), PathBuf::from(scratch.path("out/points")));
    // A table is made of the points, whatever became of it. Shards are not merged while one of them is torn.
    for cut in [0, 1, whole.len() / 2, whole.len() - 1] {
        std::fs::write(&table, &whole[..cut]).unwrap();
        let merged = pimsim(&["merge", "-o", &scratch.path("merged.csv"), &table]);
        assert_eq!(merged.status.code(), Some(65), "cut at {cut}");
        assert!(scratch.sweep("out", &[]).contains("0 points run, 2 kept"));
        assert!(scratch.table("out") == whole, "cut at {cut}");
    }
    let file = std::fs::read_dir(&points).unwrap().next().unwrap().unwrap().path();
    let result = std::fs::read(&file).unwrap();
    for cut in [0, result.len() / 2, result.len() - 1] {
        std::fs::write(&file, &result[..cut]).unwrap();
        let said = scratch.sweep("out", &[]);
        assert!(said.contains("is damaged") && said.contains("1 points run, 1 kept"), "cut at {cut}: {said}");
        assert!(scratch.table("out") == whole && std::fs::read(&file).unwrap() == result, "cut at {cut}");
    }
}

#[test]
fn two_sweeps_do_not_write_to_one_folder() {
    let scratch = Scratch::new(&GRID.replace("64, 128", "64, 72, 80, 88, 96, 104, 112, 120, 128"));
    let (grid, out) = (scratch.path("grid.toml"), scratch.path("out"));
    let mut first =
        Command::new(env!("CARGO_BIN_EXE_pimsim")).args(["sweep", &grid, "-o", &out, "-q"]).spawn().unwrap();
    while !Path::new(&out).join("sweep.csv").exists() && first.try_wait().unwrap().is_none() {
        std::thread::sleep(Duration::from_millis(1));
    }
    let second = pimsim(&["sweep", &grid, "-o", &out]);
    let running = first.try_wait().unwrap().is_none();
    first.kill().unwrap();
    first.wait().unwrap();
    assert!(running, "the first sweep was done too soon for this test");
    assert_eq!(second.status.code(), Some(74));
    assert!(String::from_utf8(second.stderr).unwrap().contains("another sweep is at work here"));
}

/// Models, contexts, policies, budgets, layouts, addressings, devices; and keys of the workload and the system.
#[test]
fn everything_can_be_an_axis() {
    let scratch = Scratch::small("");
    for (name, heads, kv_heads) in [("grouped", 4, 2), ("ungrouped", 4, 4)] {
        let model = format!(
            "name = \"{name}\"\nsource = \"assumed\"\nlayers = 2\nhidden = 128\nheads = {heads}\nhead_dim = 32\n\
             kv_heads = {kv_heads}\nffn = 256\nactivation = \"swiglu\"\n"
        );
        std::fs::write(scratch.path(&format!("{name}.toml")), model).unwrap();
    }
    let config = |name: &str| format!("{:?}", root().join("configs").join(name).display().to_string());
    let (hbm, aim) = (config("system/hbm3-pim.toml"), config("system/gddr6-aim.toml"));
    let text = format!(
        "name = \"all\"\naccuracy = false\n[axes]\nworkload = [\"small.toml\"]\nmodel = [\"grouped.toml\", \"ungrouped.toml\"]\nsystem = [{hbm}, {aim}]\n\
         synthetic.prefill = [40, 160]\npolicy = [\"quest\", \"starc\"]\n\
         budget = [64, 96]\nmapping.layout = [\"row-block\", \"interleaved\"]\n\
         mapping.addressing = [\"bank-group\", \"broadcast\"]\n\"system.queue_depth\" = [16, 32]\n\
         [[skip]]\nsystem = {aim}\nmapping.addressing = \"bank-group\"\n\
         [[skip]]\nsynthetic.prefill = 40\nmapping.layout = \"interleaved\"\n",
    );
    std::fs::write(scratch.path("grid.toml"), text).unwrap();
    scratch.sweep("out", &[]);
    let table = rows(&scratch.table("out"));
    // 2 models x 3 devices with their addressings x 3 contexts with their layouts x 2 policies x 2 budgets x 2 depths.
    assert_eq!(table.len(), 2 * 3 * 3 * 2 * 2 * 2);
    // Each axis changes what comes out.
    let axes = ["model", "system", "synthetic.prefill", "policy", "budget", "mapping.layout", "mapping.addressing"];
    for axis in axes.iter().chain(&["system.queue_depth"]) {
        let others = |row: &BTreeMap<String, String>| {
            let keys = axes.iter().chain(&["system.queue_depth"]).filter(|a| *a != axis);
            keys.map(|a| row[*a].clone()).collect::<Vec<_>>()
        };
        let differ = table.iter().any(|a| {
            table.iter().any(|b| others(a) == others(b) && a[*axis] != b[*axis] && a["cycles"] != b["cycles"])
        });
        assert!(differ, "{axis} makes no difference");
    }
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
    let more = |line: &str| format!("{text}{line}\n");
    let changes = [more("budget = [65]"), more("\"system.queue_depth\" = [16]"), format!("accuracy = false\n{text}")];
    for change in &changes {
        std::fs::write(&grid, change).unwrap();
        let changed = scratch.sweep("out", &[]);
        assert!(changed.contains("1 points run, 0 kept"), "{change}: {changed}");
    }
    // Each of them is still there.
    for change in changes.iter().chain([&text]) {
        std::fs::write(&grid, change).unwrap();
        assert!(scratch.sweep("out", &[]).contains("0 points run, 1 kept"), "{change}");
    }
    // Another program is another matter, even if a single byte of it differs.
    let other = scratch.folder.path().join("pimsim");
    let mut program = std::fs::read(env!("CARGO_BIN_EXE_pimsim")).unwrap();
    program.push(0);
    std::fs::write(&other, program).unwrap();
    std::fs::set_permissions(&other, std::fs::metadata(env!("CARGO_BIN_EXE_pimsim")).unwrap().permissions()).unwrap();
    let out = Command::new(&other).args(["sweep", &grid, "-o", &scratch.path("out")]).output().unwrap();
    let said = String::from_utf8(out.stderr).unwrap();
    assert!(said.contains("1 points run, 0 kept"), "{said}");
}

#[test]
fn a_wrong_axis_names_the_nearest_key() {
    let scratch = Scratch::new("polcy = [\"full\"]");
    let out = pimsim(&["sweep", &scratch.path("grid.toml"), "-o", &scratch.path("out")]);
    assert_eq!(out.status.code(), Some(78));
    assert!(String::from_utf8(out.stderr).unwrap().contains("did you mean \"policy\""));
}
