//! Damaged configuration files: each is an error with exit code 78 that says where, none is a panic.
//!
//! The bundled files are changed in one respect at a time, line by line and then by hand.

mod values;

use pimattn::cli::exit::{EXIT_CONFIG, EXIT_DATA, EXIT_NO_INPUT, EXIT_USAGE, ExitStatus};
use pimattn_core::error::Error;
use pimattn_core::spec::System;
use pimattn_mapping::workload::Workload;
use pimattn_tracegen::generate::Generator;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use std::path::{Path, PathBuf};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    System,
    Device,
    Workload,
}
use Kind::{Device, System as Sys, Workload as Work};

impl Kind {
    fn path(self) -> &'static str {
        match self {
            Sys => "system/hbm3-pim.toml",
            Device => "dram/hbm3-pim.toml",
            Work => "workload/demo.toml",
        }
    }

    fn text(self) -> String {
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("configs").join(self.path())).unwrap()
    }
}

/// A copy of configs/ in which one file can be anything.
struct House {
    dir: tempfile::TempDir,
    errors: usize,
    still_valid: usize,
}

impl House {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for kind in [Sys, Device, Work] {
            let path = dir.path().join(kind.path());
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, kind.text()).unwrap();
        }
        House { dir, errors: 0, still_valid: 0 }
    }

    fn path(&self, kind: Kind) -> PathBuf {
        self.dir.path().join(kind.path())
    }

    /// Loads the file of `kind` with `text` in it, as far as its program does before it works.
    fn load(&mut self, kind: Kind, text: &[u8], set: &[&str]) -> Result<(), Error> {
        let path = self.path(kind);
        std::fs::write(&path, text).unwrap();
        let set: Vec<String> = set.iter().map(|s| s.to_string()).collect();
        let result = match kind {
            Work => Workload::load(&path, &set).and_then(|(w, doc)| {
                let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join("traces/smollm2-135m-rustbook-cut.safetensors");
                let kv = (w.kv.is_some()).then_some(sample.as_path());
                Generator::load(w, &doc, kv).map(drop)
            }),
            _ => System::load(&self.path(Sys), &set).map(drop),
        };
        std::fs::write(&path, kind.text()).unwrap();
        match &result {
            Ok(()) => self.still_valid += 1,
            Err(e) => {
                self.errors += 1;
                let given: usize = set.iter().map(String::len).sum();
                let length = e.to_string().len();
                assert!(length < 2000 + given, "a message of {length} bytes");
            }
        }
        result
    }

    /// The text must be refused with 78; returns the message.
    fn refuse(&mut self, kind: Kind, what: &str, text: &[u8]) -> String {
        match self.load(kind, text, &[]) {
            Ok(()) => panic!("{kind:?}: {what} was accepted"),
            Err(e) => {
                assert_eq!(e.exit_code(), EXIT_CONFIG, "{kind:?}: {what}: {e}");
                let text = e.to_string();
                assert!(text.contains(".toml"), "{kind:?}: {what}: \"{text}\" names no file");
                text
            }
        }
    }

    /// The text is refused or loads.
    fn survive(&mut self, kind: Kind, what: &str, text: &[u8]) {
        if let Err(e) = self.load(kind, text, &[]) {
            assert_eq!(e.exit_code(), EXIT_CONFIG, "{kind:?}: {what}: {e}");
        }
    }
}

/// Lines `key = value` with their table's header.
fn key_lines(text: &str) -> Vec<(usize, String, &str, &str)> {
    let mut table = String::new();
    let mut out = Vec::new();
    for (i, line) in text.lines().enumerate() {
        if line.starts_with('[') {
            table = line.into();
        } else if let Some((key, value)) = line.split_once(" = ").filter(|_| !line.starts_with([' ', '#'])) {
            out.push((i, table.clone(), key, value));
        }
    }
    out
}

/// The text with line `i` replaced, or without it.
fn with_line(text: &str, i: usize, line: Option<String>) -> Vec<u8> {
    let mut lines: Vec<String> = text.lines().map(String::from).collect();
    match line {
        Some(line) => lines[i] = line,
        None => drop(lines.remove(i)),
    }
    (lines.join("\n") + "\n").into_bytes()
}

/// The presets that the system file chooses.
const CHOSEN_TIMING: &str = "[timing.\"HBM3_5.2Gbps\"]";
const CHOSEN_ORGANISATION: &str = "[organisation.HBM3_8Gb_2R]";

/// Whether the file says the same without this key.
fn optional(kind: Kind, table: &str, key: &str) -> bool {
    match kind {
        Sys => false,
        Work => table.starts_with("[policies") || key == "steps",
        Device => match table {
            "[sources]" => key == "derived",
            "[[command]]" => ["serves", "opener", "closer", "path", "reach", "done", "done_per_entry"].contains(&key),
            "[pim]" => ["element", "accumulators", "heads_per_read"].contains(&key),
            "[refresh_time]" => !["source", "\"8 Gb\""].contains(&key),
            _ if table.starts_with("[timing") => {
                !["source", "rate", "tCK"].contains(&key)
                    // no constraint of this device uses it
                    && (table != CHOSEN_TIMING || key == "nRTW")
            }
            _ => false,
        },
    }
}

/// Whether a wrong name of this key is not noticed: what a device calls its timings is its own.
fn own_name(table: &str, key: &str) -> bool {
    optional(Device, table, key) && !["[[command]]", "[pim]"].contains(&table)
}

fn line_by_line(kind: Kind) -> House {
    let mut house = House::new();
    let text = kind.text();
    for (i, table, key, value) in key_lines(&text) {
        let at = |change: &str| format!("{table} {key}: {change}");
        // Presets that are not chosen are alike, and many: some of their lines.
        let preset = table.starts_with("[timing") || table.starts_with("[organisation");
        let brief = preset && ![CHOSEN_TIMING, CHOSEN_ORGANISATION].contains(&table.as_str());
        if brief && i % 4 != 0 {
            continue;
        }
        let removed = with_line(&text, i, None);
        if optional(kind, &table, key) {
            house.survive(kind, &at("removed"), &removed);
        } else {
            house.refuse(kind, &at("removed"), &removed);
        }
        let (bare, quote) = (key.trim_end_matches('"'), if key.ends_with('"') { "\"" } else { "" });
        let renamed = with_line(&text, i, Some(format!("{bare}_x{quote} = {value}")));
        if kind == Device && own_name(&table, key) {
            house.survive(kind, &at("renamed"), &renamed);
        } else {
            let message = house.refuse(kind, &at("renamed"), &renamed);
            // Where keys are fixed, the message names the place and the key that was meant.
            if ["[dram]", "[mapping]", "[metrics]", "[[command]]", "[pim]", "[energy]"].contains(&table.as_str()) {
                assert!(message.contains(&format!(".toml:{}: unknown key \"{key}_x\"", i + 1)), "{message}");
                assert!(message.contains(&format!("did you mean \"{key}\"?")), "{message}");
            }
        }
        let wrong_values =
            ["[]", "{}", "[[1]]", "nan", "-1", "true", "\"\\u0000\"", "{ a = { b = 1 } }", "=", "\"", "0x"];
        // The device file is long: some of them for each line.
        let some = if brief { 2 } else { 4 };
        let of_this_line =
            wrong_values.iter().cycle().skip(i).take(if kind == Device { some } else { wrong_values.len() });
        for wrong in of_this_line.copied() {
            let line = with_line(&text, i, Some(format!("{key} = {wrong}")));
            let free_text = ["name", "kv"].contains(&key) || table == "[sources]";
            let fits = wrong == "[]" && key == "path"
                || wrong == "{}" && key == "reach"
                || wrong == "true" && (value.starts_with("true") || value.starts_with("false"))
                || wrong.starts_with("\"\\u") && free_text;
            if fits {
                house.survive(kind, &at(wrong), &line);
            } else {
                house.refuse(kind, &at(wrong), &line);
            }
        }
        let twice = with_line(&text, i, Some(format!("{key} = {value}\n{key} = {value}")));
        if !brief && value != "[" {
            house.refuse(kind, &at("twice"), &twice);
        }
    }
    for cut in (0..text.len()).step_by(text.len() / 60) {
        house.survive(kind, &format!("cut to {cut} bytes"), &text.as_bytes()[..cut]);
    }
    for (what, text) in [
        ("nothing", &b""[..]),
        ("a comment", b"# nothing\n"),
        ("no TOML", b"<xml/>"),
        ("JSON", b"{\"name\": 1}"),
        ("not text", b"name = \"\xff\"\n"),
        ("UTF-16", b"\xff\xfen\0a\0m\0e\0"),
        ("a zero byte", b"name = \"a\"\0"),
        ("only a table", b"[dram]\n"),
    ] {
        house.refuse(kind, what, text);
    }
    let deep = [
        format!("a = {}", "[".repeat(100_000)),
        format!("a = {}", "{a=".repeat(100_000)),
        format!("{}a = 1", "a.".repeat(100_000)),
        format!("[{}a]", "a.".repeat(100_000)),
    ];
    for text in deep {
        house.refuse(kind, "deep nesting", text.as_bytes());
    }
    house
}

#[test]
fn every_line_of_the_system_file_matters() {
    let house = line_by_line(Sys);
    assert!(house.errors >= 100, "{}", house.errors);
}

#[test]
fn every_line_of_the_device_file_matters() {
    let house = line_by_line(Device);
    assert!(house.errors >= 1000, "{}", house.errors);
}

#[test]
fn every_line_of_the_workload_file_matters() {
    let house = line_by_line(Work);
    assert!(house.errors >= 100, "{}", house.errors);
}

#[test]
fn every_constraint_names_commands_timings_and_levels_that_exist() {
    let mut house = House::new();
    let text = Device.text();
    let edges: Vec<(usize, &str)> = text.lines().enumerate().filter(|(_, l)| l.starts_with("  { level")).collect();
    assert!(edges.len() > 50);
    for (i, line) in edges {
        let place = format!("hbm3-pim.toml:{}: ", i + 1);
        let mut turn = i;
        let mut check = |from: &str, to: &str, words: &str| {
            // three of the changes for each line, in turn
            turn += 1;
            if turn % 3 != 0 {
                return;
            }
            assert!(line.contains(from), "{line}: no {from}");
            let message = house.refuse(Device, line, &with_line(&text, i, Some(line.replacen(from, to, 1))));
            assert!(message.contains(&place) && message.contains(words), "{message}: not \"{words}\"");
        };
        check("from = [\"", "from = [\"X", "unknown command \"X");
        check("to = [\"", "to = [\"X", "unknown command \"X");
        check("latency = \"", "latency = \"nXYZ + ", "unknown timing \"nXYZ\"");
        check("latency = \"", "latency = \"+ ", "is not a sum of timing names");
        check("latency = \"", "latency = \"0 - nRC - ", "is negative");
        check("latency = \"", "latency = \"100000000 + ", "too long");
        check("level = \"", "level = \"x", "unknown value \"x");
        check("latency = ", "latencyy = ", "did you mean \"latency\"?");
        check("latency = ", "window = 0, latency = ", "");
    }
    assert!(house.errors > 150);
}

/// More bank groups than a mask of them has bits.
#[test]
fn a_device_too_wide_to_map_is_refused() {
    let mut house = House::new();
    let device = Device.text().replace(
        "density = \"8 Gb\"\npseudo_channels = 2\nranks = 2\nbank_groups = 4\nbanks = 4",
        "density = \"8 Gb\"\npseudo_channels = 2\nranks = 4\nbank_groups = 16\nbanks = 1",
    );
    let device = device.replace("rows = 16384", "rows = 8192");
    // With rows of their own for PIM_MAC_BG, the system is refused; else the mapping to it is.
    std::fs::write(house.path(Device), &device).unwrap();
    let message = System::load(&house.path(Sys), &[]).unwrap_err().to_string();
    assert!(message.contains("128 bank groups; PIM_MAC_BG works in 64 at most"), "{message}");
    std::fs::write(house.path(Device), device.replace("serves = \"PIM_MAC_BG\"\n", "")).unwrap();
    System::load(&house.path(Sys), &[]).unwrap();
    let work = Work.text().replace("addressing = \"bank-group\"", "addressing = \"broadcast\"");
    let message = house.refuse(Work, "128 bank groups", work.as_bytes());
    assert!(message.contains("128 bank groups in a channel; at most 64"), "{message}");
}

#[test]
fn overrides_are_checked_like_files() {
    let mut house = House::new();
    let (system, work) = (Sys.text(), Work.text());
    for bad in ["nonsense", "", "=", "=1", ".=1", "a..b=1", ".a=1", "a.=1", "name.x=1", "channels.x=1", "name.a.b=1"] {
        for (kind, text) in [(Sys, &system), (Work, &work)] {
            if kind == Work && bad.starts_with("channels") {
                continue;
            }
            let e = house.load(kind, text.as_bytes(), &[bad]).unwrap_err();
            assert_eq!(e.exit_code(), EXIT_USAGE, "{bad}: {e}");
            assert!(e.to_string().starts_with(&format!("--set {bad}: ")), "{bad}: {e}");
        }
    }
    let deep = format!("{}=1", vec!["a"; 50_000].join("."));
    assert_eq!(house.load(Sys, system.as_bytes(), &[&deep]).unwrap_err().exit_code(), EXIT_USAGE);
    for (kind, bad, words) in [
        (Sys, "channels=0", "channels = 0 is not in"),
        (Sys, "channels=many", "invalid type"),
        (Sys, "channels=", "invalid type"),
        (Sys, "channel=1", "did you mean \"channels\"?"),
        (Sys, "dram=1", "invalid type"),
        (Sys, "dram.timming=x", "did you mean \"timing\"?"),
        (Sys, "dram.timing=HBM3_5.2Gbp", "did you mean \"HBM3_5.2Gbps\"?"),
        (Sys, "dram.organisation=HBM3_9Gb_2R", "has no organisation"),
        (Sys, "dram.device=nowhere.toml", "does not exist"),
        (Sys, "refresh=sometimes", "unknown value"),
        (Sys, "queue_depth=1e9", "invalid type"),
        (Sys, "power=[1]", "power"),
        (Work, "budget=-1", "invalid value"),
        (Work, "budget=47", "budget 47 is below"),
        (Work, "policy=sta", "unknown policy"),
        (Work, "steps=1.5", "invalid type"),
        (Work, "mapping=ideal", "invalid type"),
        (Work, "mapping.adressing=ideal", "did you mean \"addressing\"?"),
        (Work, "mapping.layout=rowblock", "did you mean \"row-block\"?"),
        (Work, "policies.quest.pages=4", "did you mean \"page\"?"),
        (Work, "policies.stark.block=4", "did you mean \"starc\"?"),
        (Work, "metrics.units=0", "is not in"),
        (Work, "system=nowhere.toml", "does not exist"),
    ] {
        let text = if kind == Sys { &system } else { &work };
        let set: &[&str] = if bad == "budget=47" { &["policy=quest", bad] } else { &[bad] };
        let e = house.load(kind, text.as_bytes(), set).unwrap_err();
        assert_eq!(e.exit_code(), EXIT_CONFIG, "{bad}: {e}");
        let said = e.to_string();
        assert!(said.starts_with(&format!("--set {bad}: ")) && said.contains(words), "{bad}: {said}");
    }
}

#[test]
fn budgets_below_what_a_policy_needs_are_refused() {
    let mut house = House::new();
    for (policy, budget) in
        [("quest", 47), ("streaming", 4), ("starc", 15), ("starc-v1", 31), ("sparq", 15), ("clusterkv", 16), ("h2o", 1)]
    {
        let set = [format!("policy={policy}"), format!("budget={budget}")];
        let set: Vec<&str> = set.iter().map(String::as_str).collect();
        let entry = pimattn_policies::select::find(policy).unwrap();
        let needs = (entry.build)(&toml::Table::new()).unwrap().min_budget();
        let result = house.load(Work, Work.text().as_bytes(), &set);
        assert_eq!(result.is_err(), budget < needs, "{policy}: {budget} of {needs}");
        if let Err(e) = result {
            assert!(e.to_string().contains(&format!("the {needs} tokens that {policy} needs")), "{e}");
        }
    }
}

#[test]
fn random_damage_is_an_error_or_harmless() {
    let mut rng = ChaCha8Rng::seed_from_u64(7);
    let mut house = House::new();
    for (kind, rounds) in [(Sys, 600), (Device, 120), (Work, 200)] {
        let good = kind.text().into_bytes();
        for round in 0..rounds {
            let mut text = good.clone();
            for _ in 0..1 + rng.next_u32() % 3 {
                let at = rng.next_u32() as usize % text.len();
                match rng.next_u32() % 4 {
                    0 => text[at] = rng.next_u32() as u8,
                    1 => text[at] ^= 1 << (rng.next_u32() % 8),
                    2 => drop(text.remove(at)),
                    _ => text.insert(at, b"0919=.[]{}\"#\n-e"[rng.next_u32() as usize % 15]),
                }
            }
            house.survive(kind, &format!("round {round}"), &text);
        }
    }
    assert!(house.errors > 300 && house.still_valid > 100, "{} errors, {} valid", house.errors, house.still_valid);
}

#[test]
fn the_programs_exit_with_the_documented_codes() {
    let house = House::new();
    let dir = house.dir.path();
    std::fs::write(dir.join("t.txt"), "LD 0x0\n").unwrap();
    std::fs::write(dir.join("system/bad.toml"), Sys.text().replace("channels = 16", "chanels = 16")).unwrap();
    std::fs::write(dir.join("workload/bad.toml"), Work.text().replace("policy = \"starc\"", "policy = \"stark\""))
        .unwrap();
    std::fs::write(dir.join("dump.safetensors"), "not a dump").unwrap();
    let pimsim = env!("CARGO_BIN_EXE_pimsim");
    let tracegen = env!("CARGO_BIN_EXE_tracegen");
    let run = |program: &str, args: &str, code: u8, words: &str| {
        let out = std::process::Command::new(program).args(args.split(' ')).current_dir(dir).output().unwrap();
        let said = String::from_utf8_lossy(&out.stderr);
        assert_eq!(out.status.code(), Some(i32::from(code)), "{args}: {said}");
        assert!(said.contains(words) && !said.contains("panicked"), "{args}: {said}");
        assert!(!dir.join("out").exists(), "{args} left an output");
    };
    let good = "run --config system/hbm3-pim.toml t.txt";
    run(pimsim, good, 0, "");
    run(
        pimsim,
        "run --config system/bad.toml t.txt",
        EXIT_CONFIG,
        "bad.toml:4: unknown key \"chanels\"; did you mean \"channels\"?",
    );
    run(pimsim, "run --config system/none.toml t.txt", EXIT_NO_INPUT, "system/none.toml: no such file");
    run(pimsim, "run --config system/hbm3-pim.toml none.txt", EXIT_NO_INPUT, "none.txt: no such file");
    run(pimsim, &format!("{good} --set nonsense"), EXIT_USAGE, "--set nonsense: expected key=value");
    run(pimsim, &format!("{good} --set channels=0"), EXIT_CONFIG, "--set channels=0: channels = 0 is not in");
    let base = "run --config workload/bad.toml -o out";
    run(tracegen, base, EXIT_CONFIG, "bad.toml:7: unknown policy \"stark\"; did you mean \"starc\"?");
    let base = "run --config workload/demo.toml -o out";
    run(tracegen, base, EXIT_NO_INPUT, "smollm2-135m-rustbook-cut.safetensors: no such file");
    run(tracegen, &format!("{base} --kv none.npz"), EXIT_NO_INPUT, "none.npz: no such file");
    run(tracegen, &format!("{base} --kv dump.safetensors"), EXIT_DATA, "dump.safetensors");
    run(tracegen, &format!("{base} --kv t.txt"), EXIT_USAGE, "not a known form of KV dump");
    run(tracegen, &format!("{base} --policy sta"), EXIT_CONFIG, "--set policy=sta: unknown policy");
    run(tracegen, &format!("{base} --budget 1"), EXIT_CONFIG, "--set budget=1: budget 1 is below");
    run(tracegen, &format!("{base} --set =1"), EXIT_USAGE, "--set =1: ");
    run(tracegen, &format!("{base} --to attac"), EXIT_USAGE, "did you mean \"attacc\"?");
    run(tracegen, "run --config workload/none.toml -o out", EXIT_NO_INPUT, "none.toml: no such file");
}
