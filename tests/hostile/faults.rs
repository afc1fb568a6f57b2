//! Damage from outside, folders that others use, standard error that is full, inputs without an end, names that lead astray: what is
//! finished stays whole, nothing is replaced unasked, and every end has its exit code.
#![cfg(unix)]

use crate::common::root;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// A folder with a small workload, its trace, a grid of it, and a system by its path.
struct Place {
    folder: tempfile::TempDir,
}

const GRID: &str = "name = \"small\"\n[axes]\nworkload = [\"small.toml\"]\npolicy = [\"streaming\", \"quest\"]\n";

impl Place {
    fn new() -> Place {
        let place = Place { folder: tempfile::tempdir().unwrap() };
        let workload = "name = \"small\"\nsystem = SYSTEM\npolicy = \"quest\"\nbudget = 64\ndense_layers = 0\nseed = 1\n\
            [mapping]\naddressing = \"bank-group\"\nlayout = \"row-block\"\nalign = \"none\"\nvalues = \"stripe\"\n\
            skip_columns = true\n[metrics]\nrow_block = 16\nunits = 16\n[synthetic]\nlayers = 1\nkv_heads = 2\n\
            query_heads = 2\ndim = 32\nprefill = 96\ndecode_steps = 1\n";
        let system = format!("{:?}", root().join("configs/system/hbm3-pim.toml").display().to_string());
        place.write("small.toml", workload.replace("SYSTEM", &system));
        place.write("grid.toml", GRID);
        place.ok("tracegen", "run --config small.toml -o t.ptrace");
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        std::fs::write(self.path(name), bytes).unwrap();
    }

    fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
    }

    fn command(&self, program: &str, line: &str) -> Command {
        let program = match program {
            "tracegen" => env!("CARGO_BIN_EXE_tracegen"),
            _ => env!("CARGO_BIN_EXE_pimsim"),
        };
        let mut command = Command::new(program);
        command.args(line.split(' ')).current_dir(self.folder.path()).stdin(Stdio::null());
        command
    }

    /// Runs a command line, which ends with this code, and returns what it said on standard error.
    fn ends(&self, program: &str, line: &str, code: i32) -> String {
        said(&self.command(program, line).output().unwrap(), line, code)
    }

    fn ok(&self, program: &str, line: &str) -> String {
        self.ends(program, line, 0)
    }

    /// Files below, by name, but for those in `points`.
    fn files(&self, folder: &str) -> Vec<String> {
        let entries = std::fs::read_dir(self.path(folder)).unwrap().flatten();
        let mut names: Vec<String> = entries.map(|e| e.file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

fn said(out: &Output, line: &str, code: i32) -> String {
    let text = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!(out.status.code(), Some(code), "{line}: {text}");
    assert!(!text.contains("panicked"), "{line}: {text}");
    text
}

fn is_running(child: &mut Child) -> bool {
    child.try_wait().unwrap().is_none()
}

/// Waits for something, or for the child to end.
fn wait_for(child: &mut Child, what: impl Fn() -> bool) {
    let begun = Instant::now();
    while !what() {
        assert!(is_running(child), "it ended too soon");
        assert!(begun.elapsed() < Duration::from_secs(60), "it takes too long");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn interrupt(child: &Child) {
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
}

/// Every bit of every byte of a point's file, in turn.
#[test]
fn a_bit_that_flips_in_a_finished_point_is_noticed() {
    let place = Place::new();
    place.ok("pimsim", "sweep grid.toml -o out");
    let whole = place.read("out/sweep.csv");
    let file = format!("out/points/{}", place.files("out/points")[0]);
    let result = place.read(&file);
    let key = &file["out/points/".len()..file.len() - ".csv".len()];
    let cache = pimattn::experiments::sweep::cache::PointCache::open(&place.path("out/points")).unwrap();
    for at in 0..result.len() {
        let mut damaged = result.clone();
        damaged[at] ^= 1 << (at % 8);
        place.write(&file, &damaged);
        let found = cache.find(key).unwrap();
        assert_eq!(found, pimattn::experiments::sweep::cache::StoredResult::Damaged, "byte {at}");
    }
    let said = place.ok("pimsim", "sweep grid.toml -o out");
    assert!(said.contains("is damaged") && said.contains("1 points run, 1 kept"), "{said}");
    assert!(place.read("out/sweep.csv") == whole && place.read(&file) == result);
    // The result of one point under the name of another is not that other's.
    let other = format!("out/points/{}", place.files("out/points")[1]);
    place.write(&other, &result);
    assert!(place.ok("pimsim", "sweep grid.toml -o out").contains("1 points run, 1 kept"));
    assert!(place.read("out/sweep.csv") == whole);
}

#[test]
fn a_sweep_may_keep_its_points_beside_its_table() {
    let place = Place::new();
    place.ok("pimsim", "sweep grid.toml -o out");
    assert!(place.ok("pimsim", "sweep grid.toml -o both --cache both").contains("2 points run"));
    assert!(place.ok("pimsim", "sweep grid.toml -o both --cache both").contains("0 points run, 2 kept"));
    assert!(place.read("both/sweep.csv") == place.read("out/sweep.csv"));
}

#[test]
fn nobody_elses_unfinished_file_is_touched_and_those_of_the_dead_go() {
    let place = Place::new();
    std::fs::create_dir(place.path("shared")).unwrap();
    // A trace that is being written into the cache's folder: its input comes through a pipe, and has not come yet.
    let mut writer = place
        .command("tracegen", "convert - shared/x.txt --to text --config hbm3-pim")
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let mut pipe = writer.stdin.take().unwrap();
    let lines: String = (0..1000).map(|i| format!("LD {:#x}\n", i % 7 * 4096)).collect();
    std::io::Write::write_all(&mut pipe, lines.as_bytes()).unwrap();
    wait_for(&mut writer, || !place.files("shared").is_empty());
    let alive = place.files("shared");
    // One that a killed program left, and things of others with such names.
    for name in [".pimattn-part-dead", ".part-download"] {
        place.write(&format!("shared/{name}"), "half");
    }
    std::fs::create_dir(place.path("shared/.pimattn-part-folder")).unwrap();
    place.ok("pimsim", "sweep grid.toml -o out --cache shared");
    let left = place.files("shared");
    assert!(alive.iter().all(|name| left.contains(name)), "{left:?}");
    assert!(!left.contains(&".pimattn-part-dead".to_string()), "{left:?}");
    assert!([".part-download", ".pimattn-part-folder"].iter().all(|name| left.contains(&name.to_string())));
    std::io::Write::write_all(&mut pipe, lines.as_bytes()).unwrap();
    drop(pipe);
    assert!(writer.wait().unwrap().success());
    assert!(!place.read("shared/x.txt").is_empty());
}

#[test]
fn two_runs_do_not_write_to_one_folder() {
    let place = Place::new();
    for line in ["run - --config hbm3-pim -o out", "run - --config hbm3-pim -o out --replace"] {
        let mut first = place.command("pimsim", line).stdin(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        wait_for(&mut first, || place.path("out").exists());
        std::thread::sleep(Duration::from_millis(100));
        let said = place.ends("pimsim", "run t.ptrace --config hbm3-pim -o out", 74);
        assert!(said.contains("another run is writing to this folder"), "{said}");
        assert!(is_running(&mut first));
        first.kill().unwrap();
        first.wait().unwrap();
    }
    place.ok("pimsim", "run t.ptrace --config hbm3-pim -o out");
    assert!(place.files("out").iter().all(|name| name.ends_with(".csv")), "{:?}", place.files("out"));
}

#[test]
fn a_folder_holds_one_run() {
    let place = Place::new();
    std::fs::copy(place.path("t.ptrace"), place.path("u.ptrace")).unwrap();
    place.ok("pimsim", "run t.ptrace --config hbm3-pim -o out");
    let first = place.read("out/run.csv");
    place.ok("pimsim", "run t.ptrace --config hbm3-pim -o out");
    assert!(place.read("out/run.csv") == first);
    for line in [
        "run u.ptrace --config hbm3-pim -o out",
        "run t.ptrace u.ptrace --config hbm3-pim -o out",
        "run t.ptrace --config hbm3-pim --set refresh=none -o out",
    ] {
        let said = place.ends("pimsim", line, 2);
        assert!(said.contains("--replace"), "{line}: {said}");
        assert!(place.read("out/run.csv") == first, "{line}");
        place.ok("pimsim", &format!("{line} --replace"));
        assert!(place.read("out/run.csv") != first, "{line}");
        place.ok("pimsim", "run t.ptrace --config hbm3-pim -o out --replace");
    }
    // A table of somebody else's.
    std::fs::create_dir(place.path("theirs")).unwrap();
    place.write("theirs/run.csv", "mine\n1\n");
    place.ends("pimsim", "run t.ptrace --config hbm3-pim -o theirs", 2);
    assert!(place.read("theirs/run.csv") == b"mine\n1\n");
}

#[test]
fn no_result_replaces_what_it_is_made_of() {
    let place = Place::new();
    place.ok("pimsim", "run t.ptrace --config hbm3-pim -o out");
    place.ok("pimsim", "run t.ptrace --config hbm3-pim -o other");
    place.ok("pimsim", "sweep grid.toml -o swept");
    let sample = root().join("traces/smollm2-135m-rustbook-cut.safetensors");
    std::fs::copy(sample, place.path("k.safetensors")).unwrap();
    std::fs::hard_link(place.path("k.safetensors"), place.path("linked.safetensors")).unwrap();
    std::os::unix::fs::symlink("small.toml", place.path("link.toml")).unwrap();
    for (program, line, input) in [
        ("tracegen", "fit k.safetensors -o k.safetensors", "k.safetensors"),
        ("tracegen", "fit k.safetensors -o ./linked.safetensors", "k.safetensors"),
        ("tracegen", "run --config demo --kv k.safetensors -o k.safetensors", "k.safetensors"),
        ("tracegen", "run --config small.toml -o small.toml", "small.toml"),
        ("tracegen", "run --config small.toml -o link.toml", "small.toml"),
        ("tracegen", "run --config small.toml -o x.ptrace --metrics small.toml", "small.toml"),
        ("tracegen", "convert t.ptrace t.ptrace --to text", "t.ptrace"),
        ("tracegen", "convert t.ptrace x.txt --to attacc --manifest t.ptrace", "t.ptrace"),
        ("pimsim", "run t.ptrace --config hbm3-pim --log t.ptrace", "t.ptrace"),
        ("pimsim", "merge swept/sweep.csv -o swept/sweep.csv", "swept/sweep.csv"),
        ("pimsim", "plot swept/sweep.csv --x budget --y time_ns -o swept/sweep.csv", "swept/sweep.csv"),
        ("pimsim", "compare out other -o out/run.csv", "out/run.csv"),
        ("pimsim", "compare out/run.csv other -o other/run.csv", "other/run.csv"),
    ] {
        let before = place.read(input);
        let said = place.ends(program, line, 2);
        assert!(said.contains("would replace what is read"), "{line}: {said}");
        assert!(place.read(input) == before, "{line}");
    }
    for (program, line) in [
        ("tracegen", "run --config small.toml -o x --metrics x"),
        ("tracegen", "run --config small.toml -o x --save-selection x"),
        ("tracegen", "convert t.ptrace x --to attacc --manifest x"),
    ] {
        assert!(place.ends(program, line, 2).contains("cannot go to the same place"), "{line}");
        assert!(!place.path("x").exists());
    }
    let said = place.ends("pimsim", "run t.ptrace --config hbm3-pim -o new --log new/run.csv", 2);
    assert!(said.contains("two results cannot go to the same place"), "{said}");
}

/// The disk is full at any moment: the limit on the size of a file stands for it.
#[test]
fn a_full_disk_leaves_what_was_there() {
    let place = Place::new();
    std::fs::create_dir(place.path("there")).unwrap();
    for (program, line, result) in [
        ("tracegen", "run --config small.toml -o there/x.ptrace --metrics there/m.csv", "there/x.ptrace"),
        ("tracegen", "convert t.ptrace there/x.txt --to text", "there/x.txt"),
        ("pimsim", "run t.ptrace --config hbm3-pim -o there/run --log there/log", "there/run/run.csv"),
        ("pimsim", "sweep grid.toml -o there/sweep -q", "there/sweep/sweep.csv"),
    ] {
        let (mut stopped, mut done) = (0, 0);
        // Blocks of 512 bytes.
        for blocks in (0..12).chain((16..80).step_by(16)).chain([4096]) {
            place.write("there/x.ptrace", "as before");
            let script = format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$0\" {line}");
            let program = place.command(program, "").get_program().to_owned();
            let out =
                Command::new("sh").args(["-c", &script]).arg(program).current_dir(place.path(".")).output().unwrap();
            match out.status.code() {
                Some(0) => done += 1,
                Some(74) => stopped += 1,
                other => panic!("{line}: {other:?}: {}", String::from_utf8_lossy(&out.stderr)),
            }
            for folder in ["there", "there/run", "there/sweep", "there/sweep/points"] {
                let names = if place.path(folder).exists() { place.files(folder) } else { Vec::new() };
                assert!(!names.iter().any(|name| name.starts_with('.')), "{line}: {names:?}");
            }
            if out.status.code() == Some(74) && result == "there/x.ptrace" {
                assert!(place.read(result) == b"as before", "{line}");
            }
        }
        assert!(stopped > 0 && done > 0, "{line}: {stopped} stopped, {done} done");
        let last = place.read(result);
        std::fs::remove_dir_all(place.path("there")).unwrap();
        std::fs::create_dir(place.path("there")).unwrap();
        place.ok(program, line);
        assert!(place.read(result) == last, "{line}: another result after full disks");
    }
}

/// A log on a full disk, or a pipe that nobody reads, loses no work; a help text that could not be written was not shown.
#[test]
fn standard_error_may_be_full() {
    let place = Place::new();
    let full = || Stdio::from(std::fs::File::options().write(true).open("/dev/full").unwrap());
    for (program, line, code) in [
        ("tracegen", "info missing", 66),
        ("tracegen", "convert t.ptrace t.attacc --to attacc", 0),
        ("pimsim", "sweep grid.toml -o out", 0),
        ("pimsim", "sweep missing.toml -o out", 66),
        ("pimsim", "unknown", 2),
    ] {
        let out = place.command(program, line).stderr(full()).output().unwrap();
        assert_eq!(out.status.code(), Some(code), "{line}");
        let mut closed = place.command(program, line).stderr(Stdio::piped()).spawn().unwrap();
        drop(closed.stderr.take());
        assert_eq!(closed.wait().unwrap().code(), Some(code), "{line}");
    }
    let out = place.command("pimsim", "--help").stdout(full()).output().unwrap();
    said(&out, "--help", 74);
    let said = place.ends("tracegen", "info \u{1b}[31mred", 66);
    assert!(said.contains("\\u{1b}[31mred") && !said.contains('\u{1b}'), "{said:?}");
}

/// What waits for the other end of a pipe does not look at the request to stop.
#[test]
fn one_signal_ends_what_waits_in_the_kernel() {
    let place = Place::new();
    assert!(Command::new("mkfifo").arg(place.path("fifo")).status().unwrap().success());
    for (program, line) in [
        ("pimsim", "run t.ptrace --config fifo"),
        ("pimsim", "run fifo --config hbm3-pim -o out"),
        ("tracegen", "convert t.ptrace fifo --to text"),
    ] {
        let mut child = place.command(program, line).stderr(Stdio::piped()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(300));
        assert!(is_running(&mut child), "{line}");
        interrupt(&child);
        let begun = Instant::now();
        let out = child.wait_with_output().unwrap();
        assert!(begun.elapsed() < Duration::from_secs(20), "{line}");
        assert!(said(&out, line, 130).contains("interrupted"), "{line}");
    }
    assert!(!place.path("out").exists() || place.files("out").is_empty());
}

/// Inputs without a line end, and without an end.
#[test]
fn an_endless_line_is_an_error_and_not_the_end_of_memory() {
    let place = Place::new();
    std::fs::create_dir(place.path("zero")).unwrap();
    std::os::unix::fs::symlink("/dev/zero", place.path("zero/sweep.csv")).unwrap();
    for (program, line, code) in [
        ("pimsim", "frontier /dev/zero", 65),
        ("pimsim", "summary /dev/zero", 65),
        ("pimsim", "accuracy /dev/zero", 65),
        ("pimsim", "explain /dev/zero", 65),
        ("pimsim", "compare /dev/zero /dev/zero", 65),
        ("pimsim", "plot /dev/zero --x a --y b -o x.svg", 65),
        ("pimsim", "report zero -o x.html", 65),
        ("pimsim", "audit /dev/zero --config hbm3-pim", 65),
        ("pimsim", "merge /dev/zero -o x.csv", 65),
        ("pimsim", "run /dev/zero --config hbm3-pim", 65),
        ("pimsim", "run t.ptrace --config /dev/zero", 65),
        ("tracegen", "run --config /dev/zero -o x.ptrace", 65),
        ("tracegen", "import-selection /dev/zero --from page-log --page 16 --policy p -o x.sel", 65),
        ("pimsim", "artifact --config attacc-compat --kv-budget-table /dev/zero --model LLAMA-7B --policy quest", 65),
    ] {
        // What is read into memory is less than a GiB, whatever comes.
        let script = format!("ulimit -v 3000000; exec \"$0\" {line}");
        let program = place.command(program, "").get_program().to_owned();
        let mut shell = Command::new("sh");
        let out = shell.args(["-c", &script]).arg(program).current_dir(place.path(".")).output().unwrap();
        said(&out, line, code);
    }
}

#[test]
fn a_grid_from_elsewhere_writes_nowhere_else() {
    let place = Place::new();
    for name in ["../esc", "/abs", "", ".", "..", "a/b", "a\\\\b", ".hidden"] {
        place.write("strange.toml", GRID.replace("\"small\"\n[axes]", &format!("\"{name}\"\n[axes]")));
        let said = place.ends("pimsim", "sweep strange.toml -o out", 78);
        assert!(said.contains("strange.toml:1: ") && said.contains("name of a folder"), "{name}: {said}");
    }
    assert!(place.ends("pimsim", "sweep grid.toml -o out --threads 100000", 2).contains("--threads 100000"));
}
