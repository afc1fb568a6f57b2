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
        // Of the run's own columns, a point has those that are no name, and no remark on its cache; its key is the hash of its
        // configuration.
        let other = ["trace", "system", "policy", "budget", "fitted_tokens", "config_hash"];
        let same = run.iter().filter(|(name, _)| !other.contains(&name.as_str()));
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
    let edited = std::fs::read_to_string(&grid).unwrap().replace("128, 192", "128, 200");
    std::fs::write(scratch.path("edited.toml"), edited).unwrap();
    let out = pimsim(&["merge", "--grid", &scratch.path("edited.toml"), "-o", &scratch.path("part.csv"), &merged]);
    assert_eq!(out.status.code(), Some(1));
    assert!(String::from_utf8(out.stderr).unwrap().contains("another point 2: policy=full budget=200"));
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
        let whole = files.filter(|f| !f.file_name().to_string_lossy().starts_with(".pimattn-part-"));
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
    assert!(String::from_utf8(second.stderr).unwrap().contains("another run is writing to this folder"));
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
         synthetic.prefill = [40, 1100]\npolicy = [\"quest\", \"starc\"]\n\
         budget = [64, 96]\nmapping.layout = [\"row-block\", \"interleaved\"]\n\
         mapping.addressing = [\"bank-group\", \"broadcast\"]\n\"system.queue_depth\" = [4, 32]\n\
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

/// A range moves a value and nothing else: what a bar of a tornado is made of, by hand.
#[test]
fn an_end_of_a_range_costs_what_its_value_says() {
    let range = |name: &str, key: &str, values: [&str; 3]| {
        let [base, low, high] = values.map(|value| format!("{{ {key} = {value} }}"));
        format!("[[range]]\nname = \"{name}\"\nbase = {base}\nlow = {low}\nhigh = {high}\nwhy = \"by hand\"\n")
    };
    // A range may end where it ships: what the low end of some is.
    let axes = "policy = [\"quest\", \"full\"]\n\"system.refresh\" = [\"none\"]\nhost.select_score = [\"0 ns\"]\n\
        synthetic.decode_steps = [3]\n";
    let ranges = [
        range("wait", "host.latency", ["\"100 ns\"", "\"20 ns\"", "\"1000 ns\""]),
        range("standing", "system.dram.set.energy.background", ["\"66 mW\"", "\"0 mW\"", "\"132 mW\""]),
        range("lane", "system.dram.set.energy.mac", ["\"0.32 pJ\"", "\"0 pJ\"", "\"0.64 pJ\""]),
        range("slow", "system.dram.set.timing.nCCDAB", ["\"6 tCK\"", "\"4 tCK\"", "\"60 tCK\""]),
        range("softmax", "system.dram.set.command.SFM.done_per_entry", ["\"1\"", "\"20\"", "\"100\""]),
        range("lanes", "system.dram.set.pim.lanes", ["16", "16", "8"]),
        range("pace", "system.dram.set.timing.nCCDAB", ["\"6 tCK\"", "\"6 tCK\"", "\"8 tCK\""]),
        range("channels", "system.channels", ["16", "16", "20"]),
    ];
    let scratch = Scratch::small(&format!("{axes}{}", ranges.concat()));
    scratch.sweep("out", &[]);
    let table = rows(&scratch.table("out"));
    let cell = |variant: &str, policy: &str, column: &str| {
        let of = |r: &&BTreeMap<String, String>| r["variant"] == variant && r["policy"] == policy;
        table.iter().find(of).unwrap()[column].parse::<f64>().unwrap()
    };
    let moved = |name: &str, policy: &str, column: &str| {
        cell(&format!("{name}: high"), policy, column) - cell(&format!("{name}: low"), policy, column)
    };
    // Two heads, a channel each, wait at the same time: once a step, 1,301 cycles of 769 ps instead of 131. (Within 20 ns
    // they would do something else, too.) Full chooses nothing and waits for nobody.
    let longer = |policy: &str| cell("wait: high", policy, "cycles") - cell("base", policy, "cycles");
    assert_eq!((longer("quest"), longer("full")), (3.0 * (1301.0 - 131.0), 0.0));
    for policy in ["quest", "full"] {
        // 2 ranks in each of 16 channels; mW x ns = pJ.
        let standing = 132.0 * 2.0 * 16.0 * cell("base", policy, "time_ns");
        assert!((moved("standing", policy, "energy_pj") - standing).abs() < 1.0, "{policy}");
        assert_eq!(moved("standing", policy, "cycles"), 0.0);
        // 0.64 pJ for each of the multiplications that cost 0.32 as it ships; buffers cost what they did.
        let macs = 2.0 * (cell("base", policy, "energy_compute_pj") - cell("lane: low", policy, "energy_compute_pj"));
        assert!((moved("lane", policy, "energy_pj") - macs).abs() < 1.0 && macs > 1e5, "{policy}");
        assert!(moved("slow", policy, "cycles") > 0.0, "{policy}: MACs of all banks come further apart");
    }
    // 96 tokens and those generated are 7 entries of 16 scores; the unit works on the softmax of a head alone.
    assert_eq!(moved("softmax", "full", "cycles"), 3.0 * 7.0 * 80.0);
    for policy in ["quest", "full"] {
        // Half the lanes take two passes of nCCDL, 8 cycles, for a column.
        assert_eq!(moved("lanes", policy, "cycles"), moved("pace", policy, "cycles"), "{policy}");
        assert!(moved("lanes", policy, "cycles") > 0.0);
        // Channels that have no head stand by: two ranks each.
        let standing = 4.0 * 2.0 * 66.0 * cell("base", policy, "time_ns");
        assert_eq!(moved("channels", policy, "cycles"), 0.0);
        assert!((moved("channels", policy, "energy_background_pj") - standing).abs() < 1.0, "{policy}");
    }
}

/// The shipped experiment, made small: the same files, with fewer and shorter axes.
fn small_experiment() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let at = |path: &str| folder.path().join(path);
    std::fs::create_dir_all(at("configs/report")).unwrap();
    std::fs::create_dir_all(at("configs/sweep")).unwrap();
    for kept in ["workload", "synthetic", "model", "platform", "system", "dram"] {
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
        &[
            ("[16000, 24000, 32000]", "[32, 64]"),
            ("window_every = 8000", "window_every = 32"),
            (
                "[\"full\", \"quest\", \"sparq\", \"infinigen\", \"infinigen-filled\", \"starc\"]",
                "[\"full\", \"sparq\", \"starc\"]",
            ),
            ("[256, 512, 1024, 2048, 4096]", "[256, 512]"),
            ("tune_steps = 16", "tune_steps = 1"),
            ("layers = [16, 2, 9, 23, 29]", "layers = [16, 2]"),
            ("seeds = [1, 2, 3, 4, 5]", "seeds = [1, 2]"),
            ("prefill = 8192", "steps = 2\nprefill = 512"),
            ("budget = 1024\n", "budget = 128\n"),
            ("budget = 256\n", "budget = 256\nsteps = 2\n"),
            ("error = 0.05 ", "error = 0.3 "),
        ],
    );
    let short = ("[axes]\n", "[axes]\nsynthetic.dim = [64]\nsynthetic.decode_steps = [4]\n");
    let positions = "[6016, 14016, 22016, 30016]";
    copy(
        "configs/sweep/paper.toml",
        &[
            short,
            (positions, "[2062, 2094]"),
            ("[1024] ", "[256] "),
            ("[[16], [2], [9], [23], [29]]", "[[16], [2]]"),
            ("seed = [1, 2, 3, 4, 5]", "seed = [1, 2]"),
            ("seed = [2, 3, 4, 5]", "seed = [2]"),
            ("seed = [1, 3, 4, 5]", "seed = [1]"),
            ("[[skip]]\nsynthetic.layer_numbers = [[9]]\nseed = [1, 2, 4, 5]\n", ""),
            ("[[skip]]\nsynthetic.layer_numbers = [[23]]\nseed = [1, 2, 3, 5]\n", ""),
            ("[[skip]]\nsynthetic.layer_numbers = [[29]]\nseed = [1, 2, 3, 4]\n", ""),
        ],
    );
    copy(
        "configs/sweep/choices.toml",
        &[
            ("synthetic.decode_steps = [64]", "synthetic.decode_steps = [2]"),
            ("synthetic.prefill = [8192, 32768]", "synthetic.prefill = [1024]"),
            ("\"streaming\", ", ""),
            (", \"clusterkv\", \"h2o\"", ""),
            ("[256, 512, 1024, 2048]", "[256, 512]"),
            ("budget = [256, 512, 1024]", "budget = [256]"),
        ],
    );
    copy(
        "configs/sweep/recall.toml",
        &[
            ("[axes]\n", "[axes]\nsteps = [2]\n"),
            ("\"oracle\", \"streaming\", ", ""),
            (", \"clusterkv\", \"h2o\"", ""),
            ("policy = \"starc-v1\"\nbudget = 64", "policy = \"starc\"\nbudget = 256"),
            ("[64, 128, 256, 512, 1024]", "[128, 256]"),
            ("budget = [64, 128, 256, 512]", "budget = [128]"),
        ],
    );
    let ablation = std::fs::read_to_string(root().join("configs/sweep/ablation.toml")).unwrap();
    let few = ["\"base\"", "\"addressing: broadcast\""];
    let kept = ablation.lines().filter(|line| {
        let variant = line.starts_with("  \"") || line.starts_with('"');
        !variant || few.iter().any(|f| line.starts_with(&format!("{f} =")))
    });
    let text: String = kept.map(|line| format!("{line}\n")).collect();
    let text = text.replace("variant = [\n", &format!("variant = [{}\n", few.join(", ")));
    let text = text.replace("[8192]", "[1024]").replace("decode_steps = [64]", "decode_steps = [2]");
    std::fs::write(at("configs/sweep/ablation.toml"), text).unwrap();
    // The first two ranges.
    let tornado = std::fs::read_to_string(root().join("configs/sweep/tornado.toml")).unwrap();
    let parts: Vec<&str> = tornado.split("[[range]]").take(3).collect();
    let text = parts.join("[[range]]").replace("[8192]", "[1024]").replace("decode_steps = [64]", "decode_steps = [2]");
    std::fs::write(at("configs/sweep/tornado.toml"), text).unwrap();
    copy(
        "configs/sweep/design.toml",
        &[("[8192]", "[512]\nbudget = [128]"), ("decode_steps = [64]", "decode_steps = [2]")],
    );
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
            "--model".into(),
            "LLaMA-7B".into(),
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
    insta::assert_snapshot!("report_of_a_small_run", report);
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
    let bar = |policy| artifact.iter().find(|r| same(r, &[("context", "32"), ("policy", policy)])).unwrap();
    assert_eq!(number(row, "starc"), number(bar("starc"), "step_ms"));
    let less = 100.0 * (1.0 - number(bar("starc"), "step_ms") / number(bar("sparq"), "step_ms"));
    assert!((number(row, "reduction_percent") - less).abs() < 1e-4);
    // Two layers: the interval of each reduction of real-mask mode ends at what one of them gives alone, on either side of the mean.
    let masks = reductions.iter().filter(|r| r["mode"] == "masks").collect::<Vec<_>>();
    assert_eq!(masks.len(), 2 * 2 * 2 * 5);
    for row in masks {
        let [low, percent, high] = ["low_percent", "reduction_percent", "high_percent"].map(|c| number(row, c));
        assert!(low <= percent && percent <= high && row["caches"] == "2", "{row:?}");
        assert!(high - low < 60.0, "{row:?}");
    }
    assert!(reductions.iter().filter(|r| r["mode"] == "artifact").all(|r| r["low_percent"].is_empty()));
}
