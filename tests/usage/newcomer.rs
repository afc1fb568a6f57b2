//! An afternoon with the programs alone, in an empty folder: presets, the first answer, slips, results that do not belong
//! together.

use std::path::Path;
use std::process::{Command, Output, Stdio};

const TRACEGEN: &str = env!("CARGO_BIN_EXE_tracegen");
const PIMSIM: &str = env!("CARGO_BIN_EXE_pimsim");

fn run(program: &str, dir: &Path, args: &[&str]) -> Output {
    Command::new(program).args(args).current_dir(dir).stdin(Stdio::null()).output().unwrap()
}

/// What a command prints, which ends so.
fn printed(program: &str, dir: &Path, args: &[&str], code: i32) -> [String; 2] {
    let out = run(program, dir, args);
    let texts = [out.stdout, out.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
    assert_eq!(out.status.code(), Some(code), "{args:?}: {}", texts[1]);
    texts
}

/// Two runs of the sample, with metrics.
fn runs(dir: &Path) {
    for (policy, budget) in [("quest", "128"), ("starc", "128"), ("starc", "256")] {
        let name = format!("{policy}-{budget}");
        let [trace, metrics] = ["ptrace", "metrics.csv"].map(|ending| format!("{name}.{ending}"));
        let of = ["--policy", policy, "--budget", budget, "--set", "steps=2", "-o", &trace, "--metrics", &metrics];
        printed(TRACEGEN, dir, &[&["run", "--config", "demo"][..], &of].concat(), 0);
        printed(PIMSIM, dir, &["run", &trace, "--config", "hbm3-pim", "-o", &name], 0);
    }
}

#[test]
fn presets_are_listed_shown_and_exported_for_editing() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    let [list, _] = printed(PIMSIM, dir, &["presets"], 0);
    for name in ["hbm3-pim", "smollm2-135m-rustbook-cut", "llama-3.1-8b", "kv_budget"] {
        assert!(list.lines().any(|line| line.trim_start().starts_with(name)), "{name}: {list}");
    }
    let [models, _] = printed(PIMSIM, dir, &["presets", "model"], 0);
    assert!(models.contains("LLaMA-3.1-8B: 32 layers, 32 query heads, 8 KV heads of 128 elements"), "{models}");
    let [shown, _] = printed(PIMSIM, dir, &["presets", "show", "system/hbm3-pim"], 0);
    assert_eq!(shown, std::fs::read_to_string(crate::common::root().join("configs/system/hbm3-pim.toml")).unwrap());
    printed(PIMSIM, dir, &["presets", "export", "mine"], 0);
    // What was edited is kept; the files name each other where they are.
    let demo = dir.join("mine/configs/workload/demo.toml");
    let text = std::fs::read_to_string(&demo).unwrap().replace("budget = 256", "budget = 64");
    std::fs::write(&demo, &text).unwrap();
    let [_, said] = printed(PIMSIM, dir, &["presets", "export", "mine"], 0);
    assert!(said.contains("not replaced") && said.contains("demo.toml"), "{said}");
    assert_eq!(std::fs::read_to_string(&demo).unwrap(), text);
    let edited = ["run", "--config", "mine/configs/workload/demo.toml", "--set", "steps=1", "-o", "t.ptrace"];
    printed(TRACEGEN, dir, &edited, 0);
    let [info, _] = printed(TRACEGEN, dir, &["info", "t.ptrace"], 0);
    assert!(info.contains("starc of 64 tokens"), "{info}");
}

#[test]
fn the_first_answer_fits_a_terminal_and_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    let args = ["try", "--policies", "quest,h2o", "--budgets", "64", "--steps", "3", "-o", "answer"];
    let [text, said] = printed(PIMSIM, dir, &args, 0);
    assert!(said.contains("6 points run, 0 kept"), "{said}");
    let tables: Vec<&str> = text.split("\n\n").collect();
    for table in &tables[..2] {
        assert_eq!(table.lines().count(), 2 + 3, "{table}");
        assert!(table.lines().all(|line| line.len() <= 100), "{table}");
    }
    for words in
        ["Fastest at a mean output error of at most 5 %", "What limits", "Try next", "Caution: h2o prepares", "Assumed"]
    {
        assert!(text.replace('\n', " ").contains(words), "{words}: {text}");
    }
    let page = std::fs::read_to_string(dir.join("answer/report.html")).unwrap();
    assert!(page.contains("Which policy for smollm2-135m-rustbook-cut") && page.contains("h2o prepares"));
    let [again, said] = printed(PIMSIM, dir, &args, 0);
    assert!(said.contains("0 points run, 6 kept"), "{said}");
    assert_eq!(again, text);
    // The table is that of the same points run one by one.
    let trace = ["run", "--config", "demo", "--policy", "quest", "--budget", "64", "--set", "steps=3"];
    printed(TRACEGEN, dir, &[&trace[..], &["--set", "placement.split=4", "-o", "t.ptrace"]].concat(), 0);
    let [table, _] = printed(PIMSIM, dir, &["run", "t.ptrace", "--config", "hbm3-pim"], 0);
    let mut lines = table.lines();
    let place = lines.next().unwrap().split(',').position(|name| name == "time_ns").unwrap();
    let ns: f64 = lines.next().unwrap().split(',').nth(place).unwrap().parse().unwrap();
    let row = tables[1].lines().find(|line| line.contains("quest")).unwrap();
    assert!(row.contains(&format!("{:.2}", ns / 3e3)), "{row}: {ns}");
}

/// A dump of 4-byte elements, and a device that opens rows in all banks alone, are taken as they are.
#[test]
fn the_first_answer_suits_the_dump_and_the_device() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    let (tokens, prefill, dim) = (96usize, 90usize, 32usize);
    let tensor = |heads: usize, rows: usize, phase: f32| -> Vec<u8> {
        (0..heads * rows * dim).flat_map(|i| (i as f32 * 0.37 + phase).sin().to_le_bytes()).collect()
    };
    let (k, v, q) = (tensor(2, tokens, 0.0), tensor(2, tokens, 1.0), tensor(4, tokens - prefill, 2.0));
    let view =
        |shape: Vec<usize>, bytes| safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape, bytes).unwrap();
    let tensors = [
        ("k", view(vec![1, 2, tokens, dim], &k)),
        ("v", view(vec![1, 2, tokens, dim], &v)),
        ("q", view(vec![1, 4, tokens - prefill, dim], &q)),
    ];
    let said = [("prefill_len".to_string(), prefill.to_string())].into_iter().collect();
    safetensors::serialize_to_file(tensors, Some(said), &dir.join("mine.safetensors")).unwrap();
    let args = ["try", "mine.safetensors", "--policies", "streaming", "--budgets", "16", "-o"];
    let [text, _] = printed(PIMSIM, dir, &[&args[..], &["a"]].concat(), 0);
    assert!(text.replace('\n', " ").contains("elements of 2 bytes, which the system multiplies"), "{text}");
    let [text, _] = printed(PIMSIM, dir, &[&args[..], &["b", "--system", "gddr6-aim"]].concat(), 0);
    assert!(text.replace('\n', " ").contains("opens a row in all banks alone"), "{text}");
}

/// Each slip ends with a code, and with words that say what would be right.
#[test]
fn slips_are_told_what_would_be_right() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    runs(dir);
    std::fs::write(dir.join("mine.toml"), "name = \"x\"\nchannels = 16\ncontroller = \"pim\"\n").unwrap();
    let slips: &[(&str, &[&str], i32, &str)] = &[
        (PIMSIM, &["run", "quest-128.ptrace", "--config", "hbm3-pin"], 2, "did you mean \"hbm3-pim\"?"),
        (PIMSIM, &["run", "quest-128.ptrace", "--config", "configs/system/hbm3-pim.toml"], 2, "by the name hbm3-pim"),
        (
            PIMSIM,
            &["run", "quest-128.ptrace", "--config", "demo"],
            2,
            "demo is a workload and a grid that the program has inside",
        ),
        (PIMSIM, &["run", "quest-128.ptrace", "--config", "none.toml"], 66, "none.toml: no such file"),
        (
            TRACEGEN,
            &["run", "--config", "mine.toml", "-o", "t"],
            78,
            "this is the file of a system; a workload is expected",
        ),
        (PIMSIM, &["sweep", "mine.toml", "-o", "s"], 78, "this is the file of a system; a grid is expected"),
        (PIMSIM, &["system", "--model", "llama-7", "--platform", "h100-attacc"], 2, "did you mean \"llama-7b\"?"),
        (TRACEGEN, &["run", "--config", "demo", "-o", "none/t.ptrace"], 74, "the folder none does not exist"),
        (TRACEGEN, &["run", "--config", "demo", "--set", "budget=abc", "-o", "t"], 78, "expected a whole number"),
        (TRACEGEN, &["run", "--config", "demo", "--policy", "starK", "-o", "t"], 78, "did you mean \"starc\"?"),
        (PIMSIM, &["explain", "quest-128.ptrace"], 65, "this is a trace; expected a table of runs"),
        (PIMSIM, &["summary", "quest-128/steps.csv"], 65, "this is a table of decode steps"),
        (
            PIMSIM,
            &["accuracy", "quest-128/run.csv"],
            65,
            "this is a table of runs (run.csv of pimsim run); expected accuracy",
        ),
        (PIMSIM, &["frontier", "quest-128/run.csv"], 65, "this is a table of runs"),
        (PIMSIM, &["audit", "quest-128.ptrace", "--config", "hbm3-pim"], 65, "this is a trace; expected a command log"),
        (
            PIMSIM,
            &["plot", "quest-128/steps.csv", "--x", "stp", "--y", "cycles", "-o", "x.svg"],
            2,
            "did you mean \"step\"?",
        ),
        (PIMSIM, &["compare", "quest-128", "starc-128", "--column", "cycels"], 2, "did you mean \"cycles\"?"),
        (PIMSIM, &["presets", "show", "demo"], 2, "workload/demo, grid/demo"),
        (PIMSIM, &["presets", "sistem"], 2, "did you mean \"system\"?"),
        (PIMSIM, &["try", "--policies", "starK"], 2, "did you mean \"starc\"?"),
        (PIMSIM, &["try", "none.safetensors"], 66, "none.safetensors: no such file"),
    ];
    for (program, args, code, words) in slips {
        let [_, said] = printed(program, dir, args, *code);
        assert!(said.contains(words), "{args:?}: {said}");
        assert!(!said.contains("panicked"), "{args:?}: {said}");
    }
}

#[test]
fn what_does_not_belong_together_is_not_joined() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    runs(dir);
    let of = |args: &[&str], code| printed(PIMSIM, dir, args, code);
    of(&["summary", "quest-128", "starc-128", "--metrics", "starc-128.metrics.csv", "quest-128.metrics.csv"], 0);
    // A name that suits and another budget.
    std::fs::rename(dir.join("starc-256.metrics.csv"), dir.join("starc-128.csv")).unwrap();
    let [_, said] = of(&["summary", "starc-128", "--metrics", "starc-128.csv"], 2);
    assert!(said.contains("another budget: 256, not 128"), "{said}");
    // Another seed of a policy's random start is another selection; another layer another cache.
    let other =
        ["run", "--config", "demo", "--policy", "starc", "--budget", "128", "--set", "steps=2", "-o", "o.ptrace"];
    for (set, why) in [("seed=2", "other parameters (selection_hash)"), ("layers=[9]", "another cache (cache_hash)")] {
        printed(TRACEGEN, dir, &[&other[..], &["--set", set, "--metrics", "o.csv"]].concat(), 0);
        let [_, said] = of(&["summary", "starc-128", "--metrics", "o.csv"], 2);
        assert!(said.contains(why), "{said}");
    }
    of(&["run", "o.ptrace", "--config", "hbm3-pim", "-o", "o"], 0);
    for command in ["summary", "explain", "compare"] {
        let [_, said] = of(&[command, "starc-128", "o"], 2);
        assert!(said.contains("of different caches") && said.contains("--unlike"), "{said}");
        of(&[command, "starc-128", "o", "--unlike"], 0);
    }
    let [_, said] = of(&["compare", "starc-128/phases.csv", "o/phases.csv"], 2);
    assert!(said.contains("of different caches"), "{said}");
    let [_, said] = of(&["accuracy", "quest-128.metrics.csv", "o.csv"], 65);
    assert!(said.contains("another cache (cache_hash)"), "{said}");
    // What a reader has to know is in the table itself.
    let [table, _] = of(&["run", "starc-128.ptrace", "--config", "hbm3-pim"], 0);
    assert!(table.contains("2 decode steps: no whole periods of starc (64 steps)"), "{table}");
}

#[test]
fn the_difference_of_two_runs_is_explained_within_a_screen() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    runs(dir);
    let [text, _] = printed(PIMSIM, dir, &["explain", "quest-128", "starc-128"], 0);
    assert!(text.lines().count() <= 40, "{text}");
    // The differences of each table add up to that of the whole.
    let mut sum = 0.0;
    let mut wholes = 0;
    for line in text.lines() {
        let cells: Vec<&str> = line.split_whitespace().collect();
        let difference = cells.iter().rev().nth(1).and_then(|cell| cell.parse::<f64>().ok());
        match (cells.first(), difference) {
            (Some(&"all"), Some(whole)) => {
                assert!((sum - whole).abs() < 1e-9, "{sum} {whole}: {text}");
                (sum, wholes) = (0.0, wholes + 1);
            }
            (_, Some(difference)) if cells.len() > 4 => sum += difference,
            _ => {}
        }
    }
    assert_eq!(wholes, 3, "{text}");
    let [each, _] = printed(PIMSIM, dir, &["explain", "quest-128", "starc-128", "--each"], 0);
    assert!(each.lines().count() > 60);
}

#[test]
fn shells_and_readers_have_scripts_and_pages() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    for (program, command) in [(PIMSIM, "presets"), (TRACEGEN, "convert")] {
        for shell in pimattn::cli::manual::shells() {
            let [script, _] = printed(program, dir, &["completions", &shell], 0);
            assert!(script.contains(command), "{shell}");
        }
        printed(program, dir, &["man", "-o", "man"], 0);
        let [version, _] = printed(program, dir, &["--version"], 0);
        assert!(version.contains(env!("CARGO_PKG_VERSION")), "{version}");
    }
    let page = std::fs::read_to_string(dir.join("man/pimsim-run.1")).unwrap();
    assert!(page.contains("config") && dir.join("man/tracegen-run.1").exists());
}
