//! Both programs from outside: what they print, what they leave behind, and how they end.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

const SYSTEM: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/configs/system/hbm3-pim.toml");
const DEMO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/configs/workload/demo.toml");

fn tracegen(dir: &Path) -> Command {
    program(env!("CARGO_BIN_EXE_tracegen"), dir)
}

fn pimsim(dir: &Path) -> Command {
    program(env!("CARGO_BIN_EXE_pimsim"), dir)
}

fn program(path: &str, dir: &Path) -> Command {
    let mut command = Command::new(path);
    command.current_dir(dir).stdin(Stdio::null());
    command
}

fn run(command: &mut Command, args: &[&str], code: i32) -> Output {
    let out = command.args(args).output().unwrap();
    let said = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(code), "{args:?}: {said}");
    assert!(!said.contains("panicked"), "{args:?}: {said}");
    out
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// `tracegen run` on the bundled sample, four steps of it.
fn generate(dir: &Path, output: &str, more: &[&str]) -> Output {
    let args = [&["run", "--config", DEMO, "--set", "steps=4", "-o", output], more].concat();
    run(&mut tracegen(dir), &args, 0)
}

/// Names in a folder, sorted.
fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn read(path: PathBuf) -> Vec<u8> {
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

#[test]
fn run_writes_a_trace_and_metrics_and_says_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let out = generate(dir.path(), "t.ptrace", &["--metrics", "m.csv", "-q"]);
    assert!(out.stdout.is_empty() && out.stderr.is_empty());
    assert_eq!(names(dir.path()), ["m.csv", "t.ptrace"]);
    let metrics = text(&read(dir.path().join("m.csv"))).to_string();
    let mut lines = metrics.lines();
    let header: Vec<&str> = lines.next().unwrap().split(',').collect();
    assert_eq!(header[..4], ["policy", "budget", "step", "position"]);
    let rows: Vec<Vec<&str>> = lines.map(|l| l.split(',').collect()).collect();
    assert_eq!(rows.len(), 4 * 2 * 9, "a row for each step, layer and query head");
    let column = |name| header.iter().position(|h| *h == name).unwrap();
    for row in &rows {
        assert_eq!(row.len(), header.len());
        assert_eq!((row[0], row[1]), ("starc", "256"));
        assert!(row[column("selected")].parse::<u32>().unwrap() <= 256);
        let recall: f64 = row[column("mass_recall")].parse().unwrap();
        assert!((0.0..=1.0).contains(&recall));
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = std::fs::metadata(dir.path().join("t.ptrace")).unwrap().permissions().mode();
        assert_eq!(mode & 0o444, 0o444, "others can read a result");
    }
}

#[test]
fn info_convert_list_and_schema_say_what_they_should() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    generate(d, "t.ptrace", &[]);
    let info = run(&mut tracegen(d), &["info", "t.ptrace"], 0).stdout;
    for words in [
        "generator    tracegen ",
        "SmolLM2-135M-Instruct",
        "16 channels x 2 pseudo-channels x 2 ranks x 4 bank groups x 4 banks",
        "seed         1\n",
        "segments     24: 4 steps, 2 layers, 3 KV heads\n",
        "channels     3 used\n",
        " PIM_MAC_BG\n",
        " 8 PIM_SYNC\n",
        "  steps = 4\n",
        "  policy = \"starc\"\n",
    ] {
        assert!(text(&info).contains(words), "no {words:?} in\n{}", text(&info));
    }

    let out = run(&mut tracegen(d), &["convert", "t.ptrace", "t.txt", "--to", "text"], 0);
    assert!(out.stdout.is_empty());
    assert!(
        text(&out.stderr).contains("warning: 0 requests were lowered or dropped, and 24 segment marks"),
        "{}",
        text(&out.stderr)
    );
    let lowered = run(&mut tracegen(d), &["convert", "t.ptrace", "a.txt", "--to", "attacc"], 0).stderr;
    assert!(text(&lowered).contains("a.txt.manifest.json says how"), "{}", text(&lowered));
    let lines = read(d.join("t.txt"));
    assert!(text(&lines).lines().all(|l| l.split_once(" 0x").is_some_and(|(op, a)| {
        op.bytes().all(|b| b.is_ascii_uppercase() || b == b'_') && a.len() == 8 && u64::from_str_radix(a, 16).is_ok()
    })));
    // the text says no device
    let e = run(&mut tracegen(d), &["info", "t.txt"], 2);
    assert!(text(&e.stderr).contains("name one with --config"));
    let from_text = run(&mut tracegen(d), &["info", "t.txt", "--config", SYSTEM], 0).stdout;
    let count = |info: &[u8]| {
        text(info).lines().find(|l| l.starts_with("requests")).unwrap().split_whitespace().nth(1).unwrap().to_string()
    };
    assert_eq!(count(&from_text), count(&info));
    assert_eq!(text(&lines).lines().count().to_string(), count(&info));
    run(&mut tracegen(d), &["convert", "t.txt", "u.ptrace", "--to", "ptrace", "--config", SYSTEM], 0);
    let out = run(&mut tracegen(d), &["convert", "u.ptrace", "-", "--to", "text", "-q"], 0);
    assert_eq!(out.stdout, lines);
    assert!(out.stderr.is_empty(), "-q silences warnings");

    let list = run(&mut tracegen(d), &["list"], 0).stdout;
    for name in pimattn_policies::select::REGISTRY.iter().map(|e| e.name).chain(["ptrace", "attacc"]) {
        assert!(text(&list).lines().any(|l| l.starts_with(&format!("  {name} "))), "{name}");
    }
    let schema = run(&mut pimsim(d), &["schema"], 0).stdout;
    for name in ["run.csv", "steps.csv", "heads.csv", "channels.csv", "cycles", "mac_utilisation"] {
        assert!(text(&schema).contains(name), "{name}");
    }
    for mut program in [tracegen(d), pimsim(d)] {
        let help = run(&mut program, &["--help"], 0);
        assert!(help.stderr.is_empty() && text(&help.stdout).contains("Exit codes: 0 done; 1 ran"));
    }
    for mut program in [tracegen(d), pimsim(d)] {
        assert!(text(&run(&mut program, &["--version"], 0).stdout).contains(env!("CARGO_PKG_VERSION")));
    }
}

#[test]
fn pimsim_tables_have_the_columns_that_the_schema_documents() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    generate(d, "t.ptrace", &[]);
    let out =
        run(&mut pimsim(d), &["run", "--config", SYSTEM, "t.ptrace", "-o", "tables", "--log", "log.txt", "-q"], 0);
    assert!(out.stdout.is_empty() && out.stderr.is_empty());
    assert_eq!(names(d), ["log.txt", "t.ptrace", "tables"]);
    assert_eq!(
        names(&d.join("tables")),
        ["channels.csv", "heads.csv", "layers.csv", "origins.csv", "phases.csv", "run.csv", "steps.csv"]
    );
    let schema = run(&mut pimsim(d), &["schema"], 0).stdout;
    let rows = |name: &str| {
        let table = read(d.join("tables").join(name));
        let header = text(&table).lines().next().unwrap().to_string();
        for column in header.split(',') {
            assert!(text(&schema).contains(&format!("\n| {column} | ")), "{name}: {column} is not documented");
        }
        text(&table).lines().count() - 1
    };
    assert_eq!((rows("run.csv"), rows("steps.csv"), rows("heads.csv")), (1, 4, 6));
    assert!([3, 16].contains(&rows("channels.csv")));
    let to_stdout = run(&mut pimsim(d), &["run", "--config", SYSTEM, "t.ptrace"], 0).stdout;
    assert_eq!(to_stdout, read(d.join("tables/run.csv")));
    let log = read(d.join("log.txt"));
    assert!(text(&log).lines().count() > 1000);
    let columns = |l: &str| if l.contains("MACBG") { 11 } else { 10 };
    assert!(text(&log).lines().all(|l| l.split(", ").count() == columns(l)));
}

/// One token more than the text that a synthetic cache is fitted to, and none more; of any request of a batch.
#[test]
fn a_cache_beyond_the_fitted_text_is_named_in_warnings_and_tables() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    let workload = concat!(env!("CARGO_MANIFEST_DIR"), "/configs/workload/fitted.toml");
    let few = ["--set", "synthetic.prefill_queries=0", "--set", "synthetic.decode_steps=1", "--policy", "streaming"];
    let alone = |tokens: u32| format!("synthetic.prefill={}", tokens - 1);
    let lengths = [
        (alone(8193), "batch.requests=1", true),
        (alone(8192), "batch.requests=1", false),
        ("batch.prefill=[1056, 8192, 2048]".into(), "batch.requests=3", true),
    ];
    for (prefill, requests, beyond) in lengths {
        let args = ["run", "--config", workload, "--set", &prefill, "--set", requests, "-o", "t.ptrace"];
        let args = [&args[..], &few].concat();
        let made = run(&mut tracegen(d), &args, 0);
        let replayed = run(&mut pimsim(d), &["run", "--config", SYSTEM, "t.ptrace"], 0);
        let words =
            "a synthetic cache of 8193 tokens is longer than the 8192 that it is fitted to (rotation rescaled)\n";
        let (of_run, of_replay) = match beyond {
            true => (format!("warning: {words}"), format!("warning: t.ptrace: {words}")),
            false => Default::default(),
        };
        assert_eq!((text(&made.stderr), text(&replayed.stderr)), (&*of_run, &*of_replay));
        let mut lines = text(&replayed.stdout).lines().map(|l| l.split(','));
        let (mut names, mut cells) = (lines.next().unwrap(), lines.next().unwrap());
        let column = names.position(|name| name == "fitted_tokens").unwrap();
        assert_eq!(cells.nth(column), Some(if beyond { "8192" } else { "" }));
    }
}

#[test]
fn usage_errors_exit_with_2() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    for args in [
        &[][..],
        &["rum"],
        &["run"],
        &["run", "--config", DEMO],
        &["run", "--config", DEMO, "-o", "t", "--budget", "many"],
        &["run", "--config", DEMO, "-o", "t", "--threads", "-1"],
        &["run", "--config", DEMO, "-o", "t", "-q", "-v"],
        &["run", "--config", DEMO, "-o", "t", "--metrics", "t"],
        &["run", "--config", DEMO, "-o", "-", "--metrics", "-"],
        &["run", "--config", DEMO, "-o", "t", "--to", "vcd"],
        &["convert", "t"],
        &["convert", "t", "u", "--to", "attac"],
        &["convert", "t", "u", "--to", "attacc", "--set", "channels=1"],
        &["list", "extra"],
    ] {
        let out = run(&mut tracegen(d), args, 2);
        assert!(out.stdout.is_empty() && !out.stderr.is_empty(), "{args:?}");
    }
    for args in [
        &[][..],
        &["run"],
        &["run", "t"],
        &["run", "--config", SYSTEM],
        &["run", "--config", SYSTEM, "t", "u", "--log", "log"],
        &["run", "--config", SYSTEM, "t", "--unknown"],
    ] {
        let out = run(&mut pimsim(d), args, 2);
        assert!(out.stdout.is_empty() && !out.stderr.is_empty(), "{args:?}");
    }
    assert_eq!(names(d), [""; 0], "nothing was written");
}

#[test]
fn programs_work_through_pipes() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    generate(d, "t.ptrace", &[]);
    let from_file = run(&mut pimsim(d), &["run", "--config", SYSTEM, "t.ptrace"], 0).stdout;
    for to in ["ptrace", "text"] {
        let mut source = tracegen(d);
        source.args(["run", "--config", DEMO, "--set", "steps=4", "-o", "-", "--to", to]).stdout(Stdio::piped());
        let mut source = source.spawn().unwrap();
        let pipe = source.stdout.take().unwrap();
        let mut sink = pimsim(d);
        let out = sink.args(["run", "-", "--config", SYSTEM]).stdin(pipe).output().unwrap();
        assert!(source.wait().unwrap().success());
        assert_eq!(out.status.code(), Some(0), "{}", text(&out.stderr));
        let cells = |table: &[u8]| text(table).lines().nth(1).unwrap().split(',').map(String::from).collect::<Vec<_>>();
        let (piped, direct) = (cells(&out.stdout), cells(&from_file));
        assert_eq!((piped[0].as_str(), direct[0].as_str()), ("-", "t.ptrace"));
        if to == "ptrace" {
            assert_eq!(piped[1..], direct[1..]);
        } else {
            let header = text(&from_file).lines().next().unwrap().to_string();
            let cycles = header.split(',').position(|c| c == "cycles").unwrap();
            assert_eq!(piped[cycles], direct[cycles], "cycles of the text form");
        }
    }
    assert_eq!(names(d), ["t.ptrace"]);
    // the trace on stdout is the trace in the file
    assert_eq!(generate(d, "-", &[]).stdout, read(d.join("t.ptrace")));
}

/// Starts a command, takes a few bytes of its output, and closes the pipe.
fn close_early(mut command: Command, args: &[&str], take: usize) -> (Option<i32>, String) {
    let mut child = command.args(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut pipe = child.stdout.take().unwrap();
    let mut bytes = vec![0; take];
    pipe.read_exact(&mut bytes).unwrap();
    drop(pipe);
    let out = child.wait_with_output().unwrap();
    (out.status.code(), text(&out.stderr).to_string())
}

#[test]
fn a_closed_pipe_is_not_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    generate(d, "t.ptrace", &[]);
    // text, so that there is far more than a pipe holds
    let run_args = ["run", "--config", DEMO, "--set", "steps=16", "-o", "-", "--to", "text", "-q"];
    let convert = ["convert", "t.ptrace", "-", "--to", "text", "-q"];
    let log = ["run", "t.ptrace", "--config", SYSTEM, "-o", "tables", "--log", "-", "-q"];
    for take in [0, 1, 1000] {
        assert_eq!(close_early(tracegen(d), &run_args, take), (Some(0), String::new()));
        assert_eq!(close_early(tracegen(d), &convert, take), (Some(0), String::new()));
        assert_eq!(close_early(pimsim(d), &log, take), (Some(0), String::new()));
    }
    for (program, args) in [(tracegen(d), ["list"]), (pimsim(d), ["schema"]), (tracegen(d), ["--help"])] {
        assert_eq!(close_early(program, &args, 0), (Some(0), String::new()));
    }
    let _ = std::fs::remove_dir_all(d.join("tables"));
    assert_eq!(names(d), ["t.ptrace"], "no temporary file stayed");
}

#[test]
fn the_same_inputs_give_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    for policy in ["starc", "starc-v1", "quest"] {
        let mut first: Option<Vec<(String, Vec<u8>)>> = None;
        for (name, threads) in [("a", "1"), ("b", "2"), ("c", "2"), ("d", "1")] {
            let folder = d.join(format!("{policy}-{name}"));
            std::fs::create_dir(&folder).unwrap();
            let seeded = ["--policy", policy, "--threads", threads, "--metrics", "m.csv", "--set", "seed=11"];
            let random = ["--set", "policies.starc.start=random"];
            generate(&folder, "t.ptrace", &[&seeded[..], &random].concat());
            let args = ["run", "t.ptrace", "--config", SYSTEM, "-o", ".", "--log", "log.txt"];
            run(&mut pimsim(&folder), &args, 0);
            let files: Vec<_> = names(&folder).into_iter().map(|n| (n.clone(), read(folder.join(&n)))).collect();
            let list: Vec<&str> = files.iter().map(|(n, _)| n.as_str()).collect();
            assert_eq!(
                list,
                [
                    "channels.csv",
                    "heads.csv",
                    "layers.csv",
                    "log.txt",
                    "m.csv",
                    "origins.csv",
                    "phases.csv",
                    "run.csv",
                    "steps.csv",
                    "t.ptrace"
                ]
            );
            match &first {
                None => first = Some(files),
                Some(first) => {
                    for ((name, a), (_, b)) in first.iter().zip(&files) {
                        assert!(a == b, "{policy}: {name} differs with {threads} threads");
                    }
                }
            }
        }
    }
    // and the seed matters
    let seed = |s: &str| generate(d, "-", &["--policy", "starc-v1", "--set", &format!("seed={s}")]).stdout;
    assert_ne!(seed("1"), seed("2"));
}

/// A workload that runs for minutes if it is let.
fn long_workload(dir: &Path) -> PathBuf {
    let text = std::fs::read_to_string(DEMO).unwrap();
    let text = text.replace("kv = ", "# kv = ").replace("../system/hbm3-pim.toml", SYSTEM);
    let synthetic =
        "\n[synthetic]\nlayers = 1\nkv_heads = 8\nquery_heads = 8\ndim = 64\nprefill = 64\ndecode_steps = 8000\n";
    let path = dir.join("long.toml");
    std::fs::write(&path, text + synthetic).unwrap();
    path
}

/// Waits until `ready`, or until the child ends by itself.
fn wait_until(child: &mut Child, mut ready: impl FnMut() -> bool) {
    while !ready() {
        assert!(child.try_wait().unwrap().is_none(), "ended too early");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[cfg(unix)]
fn interrupt(child: &Child) {
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
}

#[cfg(unix)]
#[test]
fn an_interrupt_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let work = long_workload(dir.path());
    let out = dir.path().join("out");
    std::fs::create_dir(&out).unwrap();
    std::fs::write(out.join("m.csv"), "as before").unwrap();
    let mut child = tracegen(&out)
        .args(["run", "--policy", "oracle", "-o", "t.ptrace", "--metrics", "m.csv", "--threads", "2", "--config"])
        .arg(&work)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // the trace and the metrics have begun
    wait_until(&mut child, || names(&out).iter().filter(|n| n.starts_with(".pimattn-part-")).count() == 2);
    interrupt(&child);
    let result = child.wait_with_output().unwrap();
    assert_eq!(result.status.code(), Some(130), "{}", text(&result.stderr));
    assert!(text(&result.stderr).contains("error: interrupted"), "{}", text(&result.stderr));
    assert_eq!(names(&out), ["m.csv"], "a file was left behind");
    assert_eq!(read(out.join("m.csv")), b"as before");
}

#[cfg(unix)]
#[test]
fn an_interrupted_replay_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    // work without end, as text through a pipe
    let mut child = pimsim(d)
        .args(["run", "-", "--config", SYSTEM, "-o", ".", "--log", "log.txt"])
        .args(["--timeline", "t.json", "--timeline", "t.ram2bin"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut pipe = child.stdin.take().unwrap();
    let feeder = std::thread::spawn(move || {
        let lines: String = (0..1000).map(|i| format!("LD {:#x}\n", i % 7 * 4096)).collect();
        while pipe.write_all(lines.as_bytes()).is_ok() {}
    });
    wait_until(&mut child, || names(d).iter().filter(|n| n.starts_with(".pimattn-part-")).count() == 8);
    interrupt(&child);
    let result = child.wait_with_output().unwrap();
    feeder.join().unwrap();
    assert_eq!(result.status.code(), Some(130), "{}", text(&result.stderr));
    assert_eq!(names(d), [""; 0], "a file was left behind");
}

#[test]
fn a_failed_run_leaves_older_files_alone() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    generate(d, "good.ptrace", &[]);
    let good = read(d.join("good.ptrace"));
    std::fs::write(d.join("bad.ptrace"), &good[..good.len() - 5]).unwrap();
    for name in ["t.ptrace", "m.csv", "run.csv", "log.txt", "t.txt"] {
        std::fs::write(d.join(name), "as before").unwrap();
    }
    let before = names(d);
    // a cache that outgrows its rows: fails in the middle of the run
    let rows = ["--set", "mapping.align=row", "--set", "mapping.layout=interleaved", "--set", "policies.starc.block=2"];
    let small = ["--set", "policies.starc.clusters=2", "--set", "system=small.toml"];
    let device = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/configs/dram/hbm3-pim.toml")).unwrap();
    let organisation = device.replace(
        "density = \"8 Gb\"\npseudo_channels = 2\nranks = 2",
        "density = \"0.0625 Gb\"\npseudo_channels = 2\nranks = 2",
    );
    let organisation = organisation.replace("rows = 16384", "rows = 128").replace("\"8 Gb\" =", "\"0.0625 Gb\" =");
    std::fs::write(d.join("small-device.toml"), organisation).unwrap();
    let system = std::fs::read_to_string(SYSTEM).unwrap().replace("../dram/hbm3-pim.toml", "small-device.toml");
    std::fs::write(d.join("small.toml"), system).unwrap();
    let args = [&["run", "--config", DEMO, "-o", "t.ptrace", "--metrics", "m.csv"], &rows[..], &small].concat();
    let out = run(&mut tracegen(d), &args, 78);
    assert!(text(&out.stderr).contains("rows in each bank, but its share"), "{}", text(&out.stderr));
    // a trace that ends too early
    run(&mut tracegen(d), &["convert", "bad.ptrace", "t.txt", "--to", "attacc"], 65);
    run(&mut pimsim(d), &["run", "good.ptrace", "bad.ptrace", "--config", SYSTEM, "-o", ".", "--replace"], 65);
    let out = run(&mut pimsim(d), &["run", "good.ptrace", "bad.ptrace", "--config", SYSTEM], 65);
    assert!(out.stdout.is_empty(), "half a table on standard output");
    run(&mut pimsim(d), &["run", "bad.ptrace", "--config", SYSTEM, "-o", ".", "--replace", "--log", "log.txt"], 65);
    run(&mut tracegen(d), &["run", "--config", DEMO, "-o", "t.ptrace", "--kv", "good.ptrace"], 2);
    std::fs::remove_file(d.join("small-device.toml")).unwrap();
    std::fs::remove_file(d.join("small.toml")).unwrap();
    assert_eq!(names(d), before, "a file more or less");
    for name in ["t.ptrace", "m.csv", "run.csv", "log.txt", "t.txt"] {
        assert_eq!(read(d.join(name)), b"as before", "{name}");
    }
    // where no file can be
    run(&mut tracegen(d), &["convert", "good.ptrace", "none/t.txt", "--to", "attacc"], 74);
    let out = run(&mut pimsim(d), &["run", "good.ptrace", "--config", SYSTEM, "-o", "t.txt"], 74);
    assert!(text(&out.stderr).contains("t.txt"), "{}", text(&out.stderr));
    assert_eq!(names(d), before);
}

#[test]
fn a_finished_run_replaces_an_older_file() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("t.ptrace"), "as before").unwrap();
    generate(dir.path(), "t.ptrace", &[]);
    assert_eq!(names(dir.path()), ["t.ptrace"]);
    assert_eq!(read(dir.path().join("t.ptrace")), generate(dir.path(), "-", &[]).stdout);
}
