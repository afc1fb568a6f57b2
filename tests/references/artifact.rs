//! The STARC artifact's experiment: one replay for each schedule, exactly; tables of budgets as the artifact has them.
//!
//! Figures of the artifact itself stand here where its tables are not needed. Its own tables and
//! results do not ship with the sources: comparing them is ignored unless `make test-golden` asks for it.

use crate::common;

use common::{golden, root, system};
use pimattn_attacc::{Attention, Form, UnitLevel};
use pimattn_core::spec::System;
use pimattn_experiments::attention::{self, Layers};
use pimattn_starc::artifact::{ArtifactData, BARS, Budgets, STEPS};
use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Output};

const HEAD: Attention =
    Attention { mode: UnitLevel::Bank, heads: 1, len: 128, dim: 128, bytes: 2, kv_budget: None, clustering: false };

const FORMS: [Form; 2] = [Form::Exact, Form::Published];

/// A layer by the short cut, which must be what all channels take.
fn check(system: &System, attention: Attention) {
    for form in FORMS {
        let plain = attention::replay(system, form, &attention).unwrap();
        let layer = Layers::new(system).layer(form, attention).unwrap();
        assert_eq!(layer, plain, "{} {form:?} {attention:?}", system.name);
        assert_eq!(layer.energy(system), plain.energy(system));
    }
}

#[test]
fn one_channel_stands_for_all_in_lockstep() {
    for system in [
        system("attacc-compat", &[]),
        system("attacc-compat", &["refresh=none", "dram.timing=HBM3_6.4Gbps_NPC"]),
        system("hbm3-pim", &[]),
    ] {
        for heads in [1, 13, 16] {
            for len in [1, 17, 255, 2048, 5000] {
                check(&system, Attention { heads, len, ..HEAD });
            }
            check(&system, Attention { heads, len: 5000, kv_budget: Some(777), ..HEAD });
            check(&system, Attention { heads, len: 700, dim: 80, bytes: 1, ..HEAD });
            for mode in [UnitLevel::BankGroup, UnitLevel::Buffer] {
                check(&system, Attention { heads, len: 200, mode, ..HEAD });
            }
        }
    }
}

#[test]
fn what_is_not_in_lockstep_is_replayed_on_all_channels() {
    let system = system("attacc-compat", &[]);
    let device = &system.device.geometry;
    for attention in [
        Attention { heads: 17, len: 1000, ..HEAD },
        Attention { heads: 26, len: 3000, kv_budget: Some(1539), ..HEAD },
        Attention { heads: 13, len: 512, kv_budget: Some(256), clustering: true, ..HEAD },
    ] {
        assert!(!attention.is_in_lockstep(Form::Published, device));
        check(&system, attention);
    }
}

#[test]
fn a_schedule_is_replayed_once() {
    let system = system("attacc-compat", &[]);
    for form in FORMS {
        once(&system, form);
    }
}

fn once(system: &System, form: Form) {
    let mut layers = Layers::new(system);
    // 13 and 16 heads of 497 to 512 tokens, and as many of a longer cache, ask each channel for the same.
    let alike = |len| Attention { len, ..HEAD };
    let budget = Attention { len: 9000, kv_budget: Some(500), ..HEAD };
    let mut wanted: Vec<Attention> = (497..=512).map(alike).collect();
    wanted.extend([13, 16].map(|heads| Attention { heads, ..budget }));
    layers.learn(form, wanted.iter().copied(), &|done, all| assert_eq!((done, all), (1, 1))).unwrap();
    let cycles: BTreeSet<u64> = wanted.iter().map(|a| layers.layer(form, *a).unwrap().cycles).collect();
    assert_eq!((layers.replays(), cycles.len()), (1, 1));
    layers.layer(form, alike(513)).unwrap();
    assert_eq!(layers.replays(), 2);
    let error = layers.layer(form, Attention { kv_budget: Some(0), ..HEAD }).unwrap_err();
    assert!(error.to_string().contains("--kv-budget is 0"), "{error}");
}

fn pimsim(args: &[&str]) -> Output {
    let config = root().join("configs/system/attacc-compat.toml");
    let command = ["artifact", "--config", config.to_str().unwrap()];
    Command::new(env!("CARGO_BIN_EXE_pimsim")).args(command).args(args).output().unwrap()
}

/// The rows of a table by column.
struct Table(csv::StringRecord, Vec<csv::StringRecord>);

impl Table {
    fn new(text: &[u8]) -> Self {
        let mut table = csv::Reader::from_reader(text);
        let header = table.headers().unwrap().clone();
        Table(header, table.records().map(|r| r.unwrap()).collect())
    }

    fn of(args: &[&str]) -> Self {
        let out = pimsim(args);
        assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
        Table::new(&out.stdout)
    }

    fn column(&self, name: &str) -> Vec<&str> {
        let at = self.0.iter().position(|c| c == name).unwrap();
        self.1.iter().map(|row| &row[at]).collect()
    }

    fn numbers(&self, name: &str) -> Vec<f64> {
        self.column(name).into_iter().map(|cell| cell.parse().unwrap()).collect()
    }
}

#[test]
fn full_attention_takes_what_the_artifact_printed() {
    // Mean of its steps, ms: g_matmul of golden/system.csv.
    for (flags, model, step_ms) in [
        ("--prefill 2048 --context 6", "LLAMA-7B", 0.09670944),
        ("--prefill 2048 --context 6", "GPT-13B", 0.1208868),
        ("--prefill 12000 --context 4", "Mistral-7B", 0.598318912),
        ("--prefill 2048 --context 6 --set dram.timing=HBM3_5.2Gbps_NPC", "GPT-13B", 0.09024984),
    ] {
        let args: Vec<&str> = ["--policy", "full", "--model", model].into_iter().chain(flags.split(' ')).collect();
        assert_eq!(Table::of(&args).numbers("step_ms"), [step_ms], "{args:?}");
    }
}

/// A folder with a table in it, of budgets that come again and cross rows.
fn budgets(lines: usize) -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let text: String = (0..lines).map(|i| format!("{}\n", 150 + 7 * (i * i % 11))).collect();
    let path = folder.path().join("kv_budget_Llama_STARC.txt");
    std::fs::write(&path, text).unwrap();
    let path = path.to_str().unwrap().to_string();
    (folder, path)
}

#[test]
fn every_step_is_the_replay_of_its_budget() {
    let (folder, table) = budgets(60);
    let out = folder.path().join("out");
    let args = ["--kv-budget-table", &table, "--model", "LLAMA-7B", "--policy", "starc", "--batch", "5"];
    let args = [&args[..], &["--prefill", "200", "--context", "60", "-o", out.to_str().unwrap()]].concat();
    assert!(pimsim(&args).stdout.is_empty());
    let read = |name: &str| Table::new(&std::fs::read(out.join(name)).unwrap());
    let (bars, steps) = (read("bars.csv"), read("steps.csv"));

    let system = system("attacc-compat", &[]);
    let wanted = Budgets::read(Path::new(&table)).unwrap();
    let mut cycles = 0;
    for (i, budget) in wanted.first(59).unwrap().iter().enumerate() {
        let attention = Attention {
            // 4 heads of 5 requests for 5 stacks.
            heads: 4,
            len: 201 + i as u32,
            kv_budget: Some(*budget),
            clustering: i == 58,
            ..HEAD
        };
        let layer = attention::replay(&system, Form::Published, &attention).unwrap();
        let cell = |name: &str| steps.column(name)[i].to_string();
        assert_eq!(cell("cycles"), layer.cycles.to_string(), "step {i}");
        assert_eq!(cell("energy_pj"), format!("{:.1}", layer.energy(&system).total()));
        assert_eq!(cell("tokens"), (201 + i).to_string());
        assert_eq!(cell("budget"), budget.to_string());
        assert_eq!(
            cell("row_tokens"),
            (budget.div_ceil(16) * 16).min((201 + i as u32).next_multiple_of(16)).to_string()
        );
        assert_eq!(cell("clustering"), if i == 58 { "1" } else { "0" });
        cycles += layer.cycles;
    }
    assert_eq!(steps.1.len(), 59);
    assert_eq!((bars.column("steps"), bars.column("cycles")), (vec!["59"], vec![cycles.to_string().as_str()]));
    let ms = cycles as f64 * 0.769e-6 * 32.0;
    assert!((bars.numbers("attention_ms")[0] - ms).abs() < 1e-6);
    assert!((bars.numbers("step_ms")[0] - ms / 59.0).abs() < 1e-8);
    let energy: f64 = steps.numbers("energy_pj").iter().sum();
    assert!((bars.numbers("energy_mj")[0] / (energy * 32.0 * 40.0 * 1e-9) - 1.0).abs() < 1e-6);
}

#[test]
fn clustering_is_for_whom_it_is_asked() {
    let (_folder, table) = budgets(9);
    let cycles = |policy: &str, clustering: &str| {
        let args = ["--kv-budget-table", &table, "--model", "Mistral-7B", "--policy", policy, "--context", "4"];
        Table::of(&[&args[..], &["--clustering", clustering]].concat()).numbers("cycles")[0]
    };
    let none = cycles("starc", "none");
    assert_eq!(cycles("quest", "own"), none, "the same budgets");
    assert!(cycles("starc", "own") > none);
    assert_eq!(cycles("starc", "own"), cycles("quest", "all"));
}

#[test]
fn bars_come_by_model_context_and_policy_for_any_number_of_threads() {
    let (folder, table) = budgets(30);
    let ArtifactData { models, policies } = ArtifactData::load().unwrap();
    for model in &models {
        for policy in &policies {
            let Some(name) = policy.table_name(model) else { continue };
            let path = folder.path().join(name);
            if path != Path::new(&table) {
                std::fs::copy(&table, path).unwrap();
            }
        }
    }
    let tables = folder.path().to_str().unwrap();
    let args = ["--tables", tables, "--prefill", "300", "--context", "20", "--context", "31", "--threads"];
    let run = |threads: &str, more: &[&str]| pimsim(&[&args[..], &[threads], more].concat());
    let (one, three) = (run("1", &[]), run("3", &[]));
    assert!(one.status.success() && one.stdout == three.stdout);
    let table = Table::new(&one.stdout);
    assert_eq!(table.0, BARS.iter().map(|m| m.name()).collect::<Vec<_>>());
    assert_eq!(table.column("policy")[..5], ["full", "quest", "sparq", "starc", "full"]);
    assert_eq!(table.column("context")[..5], ["20", "20", "20", "20", "31"]);
    assert_eq!(table.column("model").iter().collect::<BTreeSet<_>>().len(), 3);
    assert_eq!(table.1.len(), 24);
    // More than one head a channel: no lockstep, and no clustering in the artifact.
    let many = run("2", &["--batch", "32"]);
    assert_eq!(many.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&many.stderr).contains("malformed"));
    let free = run("2", &["--batch", "32", "--clustering", "none", "--context", "3"]);
    assert_eq!(Table::new(&free.stdout).column("heads")[..2], ["26", "26"]);
}

#[test]
fn wrong_tables_and_flags_are_named() {
    let (folder, table) = budgets(5);
    let bad = folder.path().join("bad.txt");
    std::fs::write(&bad, "1024\n1024\nmany\n").unwrap();
    let (bad, tables) = (bad.to_str().unwrap(), folder.path().to_str().unwrap());
    let one = |file| ["--kv-budget-table", file, "--model", "LLAMA-7B", "--policy", "starc", "--context", "5"];
    let swapped = |file, at: usize, with| {
        let mut args = one(file);
        args[at] = with;
        args
    };
    for (args, code, why) in [
        (&one(bad)[..], 65, "bad.txt:3: \"many\" is no budget"),
        (&swapped(&table, 7, "7"), 65, "5 budgets, but 6 decode steps need one each"),
        (&one("/nowhere/t.txt"), 66, "/nowhere/t.txt: no such file"),
        (&swapped(&table, 3, "LLAMA-8B"), 2, "did you mean \"LLAMA-7B\""),
        (&swapped(&table, 5, "stark"), 2, "did you mean \"starc\""),
        (&swapped(&table, 5, "full"), 2, "other than full"),
        (&swapped(&table, 7, "1"), 2, "no decode step"),
        (&swapped(&table, 7, "4294967295"), 2, "too many"),
        (&["--kv-budget-table", &table, "--model", "LLAMA-7B"], 2, "--policy"),
        (&["--policy", "quest"], 2, "kv_budget_Llama_Quest.txt"),
        (&["--tables", tables, "--policy", "quest"], 66, "kv_budget_Llama_Quest.txt: no such file"),
        (&["--policy", "full", "--context", "3", "--batch", "0"], 2, "--heads is 0"),
        (&["--policy", "full", "--context", "3", "--prefill", "4000000"], 2, "do not fit"),
    ] {
        let out = pimsim(args);
        let said = String::from_utf8_lossy(&out.stderr);
        assert_eq!(out.status.code(), Some(code), "{args:?}: {said}");
        assert!(said.contains(why), "{args:?}: {said}");
        assert!(out.stdout.is_empty(), "{args:?} printed a table");
    }
    assert_eq!(STEPS[0].name(), "model");
}

#[test]
#[ignore = "needs golden results, which do not ship: make test-golden"]
fn the_artifacts_tables_give_the_artifacts_times() {
    let (tables, results) = (golden("data/kv_budget"), golden("golden/system.csv"));
    let tables = tables.to_str().unwrap();
    // The row that the artifact's README shows, clustering included.
    let args = ["--tables", tables, "--model", "Mistral-7B", "--policy", "starc", "--context", "16000"];
    assert_eq!(Table::of(&args).numbers("step_ms"), [0.075737878]);

    let results = Table::new(&std::fs::read(results).unwrap());
    let cells = |name: &str| results.column(name);
    let (flags, models, matmul) = (cells("flags"), cells("model"), cells("g_matmul"));
    let published = ArtifactData::load().unwrap();
    let mut checked = 0;
    for (i, source) in cells("source").into_iter().enumerate() {
        let known = published.models.iter().find(|m| m.name == models[i]);
        let (Some(model), "starc", true) = (known, source, flags[i].contains("--pim bank")) else { continue };
        let table = flags[i].split(' ').find(|word| word.ends_with(".txt"));
        let policy = published.policies.iter().find(|p| p.table_name(model).as_deref() == table).unwrap();
        let timing = if flags[i].contains("--powerlimit") { "HBM3_5.2Gbps" } else { "HBM3_5.2Gbps_NPC" };
        let timing = format!("dram.timing={timing}");
        let mut args = vec!["--tables", tables, "--model", &model.name, "--policy", &policy.name, "--set", &timing];
        // Its clustering was taken out.
        args.extend(["--clustering", "none", "--prefill", cells("Lin")[i], "--context", cells("Lout")[i]]);
        args.extend(["--batch", cells("bs")[i]]);
        let ours = Table::of(&args).numbers("step_ms")[0];
        let theirs: f64 = matmul[i].parse().unwrap();
        assert!((ours - theirs).abs() < 1e-9, "{args:?}: {ours}, should be {theirs}");
        checked += 1;
    }
    assert_eq!(checked, 14);
}
