//! The programs of `examples/` run, and say what their heads promise.

use crate::common::root;
use std::path::PathBuf;
use std::process::Command;

/// The folder of this build, where the examples are beside the tests: `cargo test` builds both.
fn built() -> PathBuf {
    let deps = std::env::current_exe().unwrap();
    deps.parent().unwrap().parent().unwrap().join("examples")
}

/// What an example prints.
fn output(name: &str, arguments: &[&str]) -> String {
    let program = built().join(format!("{name}{}", std::env::consts::EXE_SUFFIX));
    // `cargo test --test all` alone builds no examples.
    if !program.exists() {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut build = Command::new(cargo);
        build.args(["build", "--locked", "--offline", "--examples"]).current_dir(root());
        // The same profile as that of this test.
        if built().parent().is_some_and(|profile| profile.ends_with("release")) {
            build.arg("--release");
        }
        assert!(build.status().unwrap().success(), "the examples do not build");
    }
    let out = Command::new(&program).args(arguments).output().unwrap();
    assert!(out.status.success(), "{name}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

/// The number before `word`.
fn number_before(line: &str, word: &str) -> f64 {
    let words: Vec<&str> = line.split_whitespace().collect();
    let at = words.iter().position(|w| w.trim_end_matches(',') == word).unwrap_or_else(|| panic!("no {word}: {line}"));
    words[at - 1].parse().unwrap_or_else(|e| panic!("{line}: {e}"))
}

#[test]
fn examples_run() {
    // Three reads of a row, and one of another row of the bank, which comes a row cycle (63) and a read (40) later, with the
    // cycle in between that the first activation takes.
    let replayed = output("replay_a_trace", &[]);
    assert!(replayed.starts_with("hbm3-pim: 104 cycles, "), "{replayed}");
    assert!(replayed.contains("rows: 2 hits, 1 misses, 1 conflicts"), "{replayed}");

    let watched = output("watch_commands", &[]);
    let second = watched.lines().nth(1).unwrap_or_default();
    assert!(number_before(second, "activate") > 0.0 && number_before(second, "cycles") >= 2.0, "{watched}");

    let policies = output("add_a_policy", &[]);
    let time = |name: &str| number_before(policies.lines().find(|l| l.starts_with(name)).unwrap(), "ns");
    // A budget of a quarter of the tokens is faster than all of them, by whatever policy.
    assert!(time("strided") < time("full") && time("quest") < time("full"), "{policies}");
    let selected = |name: &str| number_before(policies.lines().find(|l| l.starts_with(name)).unwrap(), "tokens");
    // 4 query heads, 2 steps.
    assert_eq!(selected("strided"), 128.0 * 4.0 * 2.0, "{policies}");

    let tokens = output("selected_tokens", &["sparq", "64", "128", "local=8"]);
    let lines: Vec<Vec<&str>> = tokens.lines().map(|line| line.split(',').collect()).collect();
    // 2 layers, 9 query heads, a step; the query heads of a KV head have the same tokens, the newest 8 among them.
    assert_eq!(lines.len(), 2 * 9, "{tokens}");
    assert_eq!((lines[0][..3].concat(), lines[17][..3].concat()), ("902048".into(), "1682048".into()));
    assert!(lines.iter().all(|l| l[3].split(' ').count() == 64 && l[3].ends_with("2047 2048")), "{tokens}");
    assert!(lines.chunks(3).all(|group| group.iter().all(|l| l[3] == group[0][3])));

    let folder = tempfile::tempdir().unwrap();
    let dump = folder.path().join("dump.safetensors");
    for zeros in [&[][..], &["--zeros"]] {
        let keys = [dump.to_str().unwrap(), "layers=2", "kv_heads=2", "query_heads=4", "prefill=60", "decode_steps=4"];
        output("large_dump", &[&keys[..], zeros].concat());
        let cache = pimattn::kv::load(&dump).unwrap();
        assert_eq!((cache.layers.len(), cache.tokens, cache.prefill, cache.element_bytes), (2, 64, 60, 2));
        assert_eq!(cache.k.in_memory().unwrap().iter().all(|x| *x == 0.0), !zeros.is_empty());
    }

    let built_in_code = output("build_in_code", &[]);
    let times: Vec<f64> = built_in_code.lines().map(|l| number_before(l, "ns")).collect();
    assert!(times.len() == 4 && times.iter().all(|t| *t > 0.0), "{built_in_code}");
}
