//! `pimsim system --run`: attention that runs have measured, on PIM and gathered on GPUs, against closed forms, the replayed
//! schedule, totals added by hand, and refusals of what does not fit.

use crate::common;

use common::root;
use pimattn::cli::exit::{EXIT_CONFIG, EXIT_DATA, EXIT_NO_INPUT, EXIT_USAGE};
use pimattn_attacc::UnitLevel;
use pimattn_core::cancel::Cancel;
use pimattn_core::spec::System;
use pimattn_experiments::end_to_end::cost::{Cost, EnergyComponent};
use pimattn_experiments::end_to_end::gpu::{PolicyWork, Roofline};
use pimattn_experiments::end_to_end::layer::{LayerPart, LayerWork};
use pimattn_experiments::end_to_end::measured::MeasuredLayer;
use pimattn_experiments::end_to_end::{
    FittedRun, MeasuredRun, Model, Platform, ReplayedStacks, Service, Switches, TokenBudget, serve, serve_measured,
};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

type Row = BTreeMap<String, String>;

/// On the sample's model: one GPU beside five stacks, of which the fullest holds the three KV heads of one of five requests.
const SERVED: &[&str] =
    &["--model", "configs/model/smollm2-135m.toml", "--platform", "configs/platform/h100-attacc.toml"];
const ONE_GPU: &[&str] = &["--set", "gpu.devices=1", "--batch", "5"];
const STEPS: usize = 5;

fn command(program: &str, args: &[&str]) -> Output {
    Command::new(program).args(args).current_dir(root()).output().unwrap()
}

fn done(program: &str, args: &[&str]) -> Vec<u8> {
    let out = command(program, args);
    assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
    out.stdout
}

fn rows(csv: &[u8]) -> Vec<Row> {
    csv::Reader::from_reader(csv).deserialize().map(|row| row.unwrap()).collect()
}

fn number(row: &Row, column: &str) -> f64 {
    row[column].parse().unwrap_or_else(|_| panic!("{column}: {:?}", row[column]))
}

fn close(a: f64, b: f64, share: f64) -> bool {
    (a - b).abs() <= share * a.abs().max(b.abs())
}

/// Folders with a run each of the demo, by name.
struct Runs(tempfile::TempDir);

impl Runs {
    fn new() -> Self {
        Runs(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).to_str().unwrap().to_string()
    }

    /// A run of a workload on a system, with overrides of both.
    fn add(&self, name: &str, workload: &[&str], system: &[&str]) -> String {
        let (trace, folder) = (self.path(&format!("{name}.ptrace")), self.path(name));
        let mut args = vec!["run", "--config", "configs/workload/demo.toml", "-q", "-o", &trace];
        let steps = format!("steps={STEPS}");
        args.extend(["--set", &steps]);
        workload.iter().for_each(|set| args.extend(["--set", set]));
        done(env!("CARGO_BIN_EXE_tracegen"), &args);
        let mut args = vec!["run", &trace, "--config", "configs/system/hbm3-pim.toml", "-q", "-o", &folder];
        system.iter().for_each(|set| args.extend(["--set", set]));
        done(env!("CARGO_BIN_EXE_pimsim"), &args);
        folder
    }

    fn policy(&self, policy: &str) -> String {
        self.add(policy, &[&format!("policy={policy}")], &[])
    }
}

fn served(more: &[&str]) -> Vec<Row> {
    rows(&done(env!("CARGO_BIN_EXE_pimsim"), &[&["system"], SERVED, ONE_GPU, more].concat()))
}

fn refused(args: &[&str], code: u8, words: &str) {
    let out = command(env!("CARGO_BIN_EXE_pimsim"), &[&["system"], args].concat());
    let said = String::from_utf8_lossy(&out.stderr).replace('\n', " ");
    assert_eq!(out.status.code(), Some(code.into()), "{args:?}: {said}");
    assert!(said.contains(words), "{args:?}: {said}, not {words}");
    assert!(out.stdout.is_empty());
}

fn h100(set: &[&str]) -> Platform {
    let set: Vec<String> = set.iter().map(|s| s.to_string()).collect();
    Platform::load(&root().join("configs/platform/h100-attacc.toml"), &set, Switches::default()).unwrap()
}

fn model(name: &str) -> Model {
    Model::load(&root().join(format!("configs/model/{name}.toml")), &[]).unwrap()
}

/// AttAcc's schedule of the fullest stack as a trace, run and put in place of attention, is the schedule that is replayed
/// for it: the first step to the cycle, the next but for the rows that the first left open, which close first (nRP, 19 cycles).
#[test]
fn a_run_of_the_schedule_costs_what_the_replayed_schedule_does() {
    let dir = Runs::new();
    let (trace, folder) = (dir.path("t.ptrace"), dir.path("run"));
    let schedule =
        ["attacc", "--mode", "bank", "--heads", "13", "--len", "2049", "--steps", "2", "--to", "ptrace", "-q"];
    done(env!("CARGO_BIN_EXE_tracegen"), &[&schedule[..], &["-o", &trace]].concat());
    let system = ["--config", "configs/system/hbm3-pim.toml", "--set", "refresh=none", "-q", "-o", &folder];
    done(env!("CARGO_BIN_EXE_pimsim"), &[&["run", &trace], &system[..]].concat());

    let (platform, model) = (h100(&[]), model("llama-7b"));
    let stack = common::system("hbm3-pim", &["refresh=none"]);
    let service = Service {
        batch: 16,
        prefill: 2048,
        steps: 2,
        bytes: 2,
        budget: TokenBudget::Full,
        mode: UnitLevel::Bank,
        power_limit: true,
        pipeline: false,
        coprocess: false,
    };
    let run = &MeasuredRun::load(Path::new(&folder)).unwrap()[0];
    assert_eq!(run.steps[0].layers[&0].kv_heads, 13.0);
    // A trace without a configuration does not say its dense layers.
    let unknown = run.fit(&model, &service, &platform, Some(&stack), None, &[]).unwrap_err().to_string();
    assert!(unknown.contains("--dense-layers"), "{unknown}");
    let fitted = run.fit(&model, &service, &platform, Some(&stack), Some(0), &[]).unwrap();
    assert_eq!((fitted.measured_layers, fitted.stacks, fitted.policy.as_deref()), (1, 40.0, None));
    for service in [service.clone(), Service { pipeline: true, coprocess: true, ..service }] {
        let got = serve_measured(&Cancel::new(), &platform, &model, &service, Some(&stack), &fitted).unwrap();
        let want = serve(&platform, &model, &service, Some(&mut ReplayedStacks::new(&stack))).unwrap();
        assert_eq!(got.prefill, want.prefill);
        for (step, closing) in [(0, 0.0), (1, 19.0)] {
            let (got, want): (&Cost, &Cost) = (&got.steps[step], &want.steps[step]);
            let later = got.attention_cycles - want.attention_cycles;
            assert!((0.0..=closing).contains(&later), "{got:?}, {want:?}");
            // Cells have a tenth of a pJ, and ps.
            let share = 1e-6 + later / want.attention_cycles;
            let parts = got.seconds.iter().zip(&want.seconds);
            assert!(parts.clone().all(|(a, b)| close(*a, *b, share)), "{:?}", parts.collect::<Vec<_>>());
            let energies = got.energy.iter().flatten().zip(want.energy.iter().flatten());
            assert!(energies.clone().all(|(a, b)| close(*a, *b, share)), "{:?}", energies.collect::<Vec<_>>());
        }
    }
}

/// Scores of a request whose 2 query heads share 32 tokens of 64 elements of 2 bytes.
fn score() -> LayerWork {
    LayerWork {
        part: LayerPart::Score,
        m: 1.0,
        n: 32.0,
        k: 64.0,
        ops: 2.0,
        shared: 2.0,
        bytes: 2.0,
        elementwise: (0.0, 0.0),
    }
}

/// By hand: 2 queries of 128 B and 2 x 32 scores of 2 B beside 32 keys of 128 B, 4,096 B. One GPU of 132 cores, of which
/// 2 work; 3352 GB/s x 0.85.
#[test]
fn gathered_bytes_and_their_time_by_hand() {
    let platform = h100(&["gpu.devices=1"]);
    let mut roofline = Roofline::new(&platform.gpu, Switches::default());
    let (others, keys, bandwidth) = (2.0 * 128.0 + 2.0 * 64.0, 4096.0, 3352e9 * 0.85 * 2.0 / 132.0);
    let dram = |cost: &pimattn_experiments::end_to_end::gpu::LayerCost| cost.energy[EnergyComponent::Dram as usize];
    let plain = roofline.cost(&score());
    assert!(close(plain.seconds, (others + keys) / bandwidth, 1e-12));
    assert!(close(dram(&plain), (others + keys) * 8.0 * 3.59, 1e-12));
    // Pieces, fetched bytes, bytes in time, rows paid for and not used.
    for (piece, fetched, as_long, unused) in [
        // Two pages of 16 keys: each is longer than a row, and than what the bandwidth takes.
        (2048.0, 4096.0, 4096.0, 0.0),
        // Pages of 4 keys use half a row each.
        (512.0, 4096.0, 4096.0, 8.0 * 0.5),
        // Keys on their own: 128 of 156 B, an eighth of a row each.
        (128.0, 4096.0, 4096.0 * 156.0 / 128.0, 32.0 * 0.875),
        // Keys of 48 B take two sectors of 32 B.
        (48.0, 4096.0 * 64.0 / 48.0, 4096.0 * 64.0 / 48.0 * 156.0 / 48.0, 4096.0 / 48.0 * (1.0 - 48.0 / 1024.0)),
    ] {
        let cost = roofline.gathered(&score(), piece);
        assert!(close(cost.seconds, (others + as_long) / bandwidth, 1e-12), "{piece}: {}", cost.seconds);
        let energy = (others + fetched) * 8.0 * 3.59 + unused * 909.0;
        assert!(close(dram(&cost), energy, 1e-12), "{piece}: {}, {energy}", dram(&cost));
    }
    // Idle cores share the caches of heads.
    let split = h100(&["gpu.devices=1", "gpu.split_attention=true"]);
    let shared = Roofline::new(&split.gpu, Switches::default()).gathered(&score(), 2048.0);
    assert!(close(shared.seconds, (others + keys) / (3352e9 * 0.85), 1e-12));
}

/// A cache of 160 tokens of one KV head, 2 query heads of 64 elements of 2 bytes, and what each policy reads of it to choose
/// 32 (docs/model.md): by hand.
#[test]
fn what_each_policy_reads_by_hand() {
    let platform = h100(&["gpu.devices=1"]);
    let roofline = Roofline::new(&platform.gpu, Switches::default());
    for (name, scanned, upkeep) in [
        ("full, streaming, h2o", 0.0, 256.0),
        ("quest: two bounds of each page of 16", 10.0 * 2.0 * 128.0, 256.0),
        ("sparq: 16 dimensions of every key", 160.0 * 16.0 * 2.0, 256.0),
        ("infinigen: 12 columns of every key, for each query head", 160.0 * 12.0 * 2.0 * 2.0, 256.0),
        ("starc: 4 centroids of each block of 64", 2.0 * 4.0 * 128.0, 256.0),
        ("starc, a block is clustered and moves", 3.0 * 4.0 * 128.0, 256.0 + 64.0 * 128.0 + 2.0 * 2.0 * 64.0 * 128.0),
    ] {
        let work = PolicyWork { scanned, upkeep, sharing: 2.0, bytes: 2.0 };
        let cost = roofline.policy(&work);
        let bytes = scanned + upkeep;
        let ranking = if scanned > 0.0 { 1e-6 } else { 0.0 };
        assert!(close(cost.seconds, bytes / (3352e9 * 0.85) + ranking, 1e-12), "{name}");
        assert!(close(cost.energy[EnergyComponent::Dram as usize], bytes * 8.0 * 3.59, 1e-12), "{name}");
        // Two query heads multiply each element of what is scanned.
        assert!(close(cost.energy[EnergyComponent::Alu as usize], scanned / 2.0 * 2.0 * 0.32, 1e-12), "{name}");
    }
}

/// Totals added up by hand from layers.csv: 28 sparse layers, of which 9 and 16 are measured and 26 are their mean, and two
/// dense ones, the mean of those of the run of full attention.
#[test]
fn steps_are_the_sum_of_their_layers() {
    let dir = Runs::new();
    let [full, quest] = ["full", "quest"].map(|policy| dir.policy(policy));
    let all = served(&["--run", &quest, &full, "--each-step"]);
    let of = |trace: &str, attention: &str| {
        let mine = all.iter().filter(|r| r["run"].ends_with(trace) && r["attention"] == attention);
        mine.cloned().collect::<Vec<_>>()
    };
    let layers = |folder: &str| rows(&std::fs::read(Path::new(folder).join("layers.csv")).unwrap());
    let (of_full, of_quest) = (layers(&full), layers(&quest));
    let got = of("quest.ptrace", "run");
    assert_eq!((got.len(), of_quest.len()), (STEPS, 2 * STEPS));
    for (step, row) in got.iter().enumerate() {
        let sum = |column: &str| {
            let two = |table: &[Row]| table[2 * step..2 * step + 2].iter().map(|l| number(l, column)).sum::<f64>();
            two(&of_full) + two(&of_quest) + 26.0 * two(&of_quest) / 2.0
        };
        assert_eq!((number(row, "step"), number(row, "dense_layers")), (step as f64, 2.0));
        assert_eq!(
            (&row["policy"], &row["kv_budget"], &row["layers_measured"]),
            (&"quest".into(), &"256".into(), &"2".into())
        );
        assert!(close(number(row, "attention_ms"), sum("time_ns") * 1e-6, 1e-7), "{step}");
        assert!(close(number(row, "attention_cycles"), sum("cycles") / 30.0, 1e-7), "{step}");
        // Five requests, each on a stack as this one.
        let arrays = ["energy_activation_pj", "energy_column_pj", "energy_movement_pj"].map(sum).iter().sum::<f64>();
        // Softmax reads and writes each probability in a buffer: 2 accesses of 16 b, 0.0034 pJ/B, and 5 operations.
        let softmax = 5.0 * sum("selected_tokens");
        let (buffers, operations) = (softmax * 2.0 * 2.0 * 0.0034, softmax * 5.0 / 2.0 * 0.32);
        let memory = number(row, "pim_memory_mj") * 1e9;
        assert!(close(memory, 5.0 * arrays + buffers, 1e-6), "{step}: {memory}, {}", 5.0 * arrays + buffers);
        let compute = number(row, "pim_compute_mj") * 1e9;
        assert!(close(compute, 5.0 * sum("energy_compute_pj") + operations, 1e-6), "{step}");
        assert!(close(number(row, "tokens_per_s"), 5e3 / number(row, "step_ms"), 1e-6));
        assert!(close(number(row, "token_mj"), number(row, "energy_mj") / 5.0, 1e-6));
    }
    // The GPUs of the service alone, and those that gather all tokens, differ in what is appended: 256 B in each of 3 x 5 KV
    // heads of 30 layers.
    let (alone, gathered) = (&all[..STEPS], of("full.ptrace", "gpu"));
    for (a, g) in alone.iter().zip(&gathered) {
        assert_eq!((a["run"].as_str(), g["policy"].as_str()), ("", "full"));
        for column in ["qkv_ms", "attention_ms", "softmax_ms", "feed_forward_ms", "prefill_ms"] {
            assert!(close(number(a, column), number(g, column), 1e-9), "{column}: {} {}", a[column], g[column]);
        }
        let appended = 30.0 * 15.0 * 256.0;
        assert!(close(number(g, "policy_ms"), appended / (3352e9 * 0.85) * 1e3, 2e-5), "{}", g["policy_ms"]);
        let dram = number(g, "gpu_dram_mj") - number(a, "gpu_dram_mj");
        assert!(close(dram, appended * 8.0 * 3.59 * 1e-9, 1e-4), "{dram}");
    }
    // Fewer tokens are fewer bytes, and what is read to choose them is counted.
    let (sparse, dense) = (&of("quest.ptrace", "gpu")[0], &gathered[0]);
    assert!(number(sparse, "attention_ms") < number(dense, "attention_ms"));
    assert!(number(sparse, "policy_ms") > 30.0 * 0.9e-3, "ranking alone takes 28 us: {}", sparse["policy_ms"]);
    // In the same table whatever the order of the runs, and without PIM rows for the GPUs only.
    let only = served(&["--run", &full, &quest, "--each-step", "--gpu-only"]);
    assert_eq!(only.len(), 3 * STEPS);
    assert!(only.iter().all(|r| all.contains(r) && r["attention"] == "gpu"));
}

/// A run of all heads on all stacks, and one of the fullest stack alone, cost the same.
#[test]
fn one_stack_stands_for_all_that_are_like_it() {
    let dir = Runs::new();
    // 5 requests of 3 heads on 80 channels: heads go round the stacks, three to each.
    let text = std::fs::read_to_string(root().join("configs/system/hbm3-pim.toml")).unwrap();
    let device = root().join("configs/dram/hbm3-pim.toml");
    let wide =
        text.replace("channels = 16 ", "channels = 80 ").replace("../dram/hbm3-pim.toml", device.to_str().unwrap());
    let system = dir.path("five-stacks.toml");
    std::fs::write(&system, wide).unwrap();
    let demo = std::fs::read_to_string(root().join("configs/workload/demo.toml")).unwrap();
    let kv = root().join("traces/smollm2-135m-rustbook-cut.safetensors");
    let demo = demo.replace("../../traces/smollm2-135m-rustbook-cut.safetensors", kv.to_str().unwrap());
    let workload = dir.path("five-stacks-workload.toml");
    std::fs::write(&workload, demo.replace("../system/hbm3-pim.toml", &system)).unwrap();
    let (trace, all) = (dir.path("all.ptrace"), dir.path("all"));
    let set = ["--set", "steps=5", "--set", "placement.stacks=5", "--set", "batch.requests=5", "--set", "policy=starc"];
    let args = ["run", "--config", &workload, "-q", "-o", &trace];
    done(env!("CARGO_BIN_EXE_tracegen"), &[&args[..], &set].concat());
    done(env!("CARGO_BIN_EXE_pimsim"), &["run", &trace, "--config", &system, "-q", "-o", &all]);
    let one = dir.policy("starc");
    let of = |folder: &str, more: &[&str]| {
        let args =
            [&["system"], SERVED, &["--set", "gpu.devices=1", "--dense-layers", "0", "--run", folder], more].concat();
        rows(&done(env!("CARGO_BIN_EXE_pimsim"), &args))
    };
    // The batch is that of the run.
    let (whole, stack) = (of(&all, &[]), of(&one, &["--batch", "5"]));
    assert_eq!(whole[1]["batch"], "5");
    for (a, b) in whole.iter().zip(&stack) {
        // Requests of the same cache cluster alike but for their seeds; STARC's first keys have none.
        for column in
            ["step_ms", "attention_ms", "policy_ms", "pim_memory_mj", "pim_compute_mj", "pim_standing_mj", "energy_mj"]
        {
            assert!(close(number(a, column), number(b, column), 1e-3), "{column}: {} {}", a[column], b[column]);
        }
    }
}

/// What does not fit is refused, and the message says what would.
#[test]
fn runs_that_do_not_fit_are_refused() {
    let dir = Runs::new();
    let quest = dir.policy("quest");
    let with = |base: &[&'static str], more: &[&str]| -> Vec<String> {
        base.iter().map(|s| s.to_string()).chain(more.iter().map(|s| s.to_string())).collect()
    };
    let fails = |more: &[&str], code: u8, words: &str| {
        let args = with(&[SERVED, &["--set", "gpu.devices=1"]].concat(), more);
        refused(&args.iter().map(String::as_str).collect::<Vec<_>>(), code, words);
    };
    let run = ["--run", quest.as_str(), "--batch", "5"];
    let and = |more: &[&'static str]| [&run[..], more].concat();
    fails(
        &run,
        EXIT_CONFIG,
        "the first 2 layers of the model stay full, and no run has measured any: add a run of full attention",
    );
    let plain = and(&["--dense-layers", "0"]);
    assert_eq!(served(&["--run", &quest, "--dense-layers", "0"]).len(), 3);
    fails(
        &and(&["--dense-layers", "12"]),
        EXIT_CONFIG,
        "layer 9 is one of the first 12, which stay full, and leaves tokens out",
    );
    fails(
        &["--run", &quest, "--dense-layers", "0"],
        EXIT_CONFIG,
        "3 KV heads a layer on 16 channels; SmolLM2-135M on H100+AttAcc has 48 on 80 at batch 16, and 10 on the 16 of the fullest stack",
    );
    fails(
        &and(&["--dense-layers", "0", "--prefill", "4096"]),
        EXIT_CONFIG,
        "5 steps behind 2048 tokens; the service has 5 steps behind 4096",
    );
    fails(&and(&["--dense-layers", "0", "--steps", "4"]), EXIT_CONFIG, "the service has 4 steps behind 2048");
    fails(&and(&["--dense-layers", "0", "--bytes", "1"]), EXIT_CONFIG, "elements of 2 bytes; --bytes is 1");
    fails(&and(&["--dense-layers", "0", "--no-power-limit"]), EXIT_CONFIG, "HBM3_5.2Gbps_NPC");
    fails(&and(&["--kv-budget", "9"]), EXIT_USAGE, "cannot be used with");
    fails(&["--dense-layers", "0"], EXIT_USAGE, "--run");
    fails(&["--run", "nowhere"], EXIT_NO_INPUT, "no such file");
    // Another model: fewer elements, other groups, fewer layers.
    let other = |file: &str, from: &str, to: &str, words: &str| {
        let text = std::fs::read_to_string(root().join("configs/model/smollm2-135m.toml")).unwrap();
        assert!(text.contains(from));
        let path = dir.path(file);
        std::fs::write(&path, text.replace(from, to)).unwrap();
        let args = ["--model", &path, "--platform", "configs/platform/h100-attacc.toml", "--set", "gpu.devices=1"];
        refused(&[&args[..], &plain].concat(), EXIT_CONFIG, words);
    };
    other(
        "dim.toml",
        "head_dim = 64",
        "head_dim = 128",
        "keys of 128 bytes in layer 9; SmolLM2-135M has 256 (128 elements of 2)",
    );
    other(
        "group.toml",
        "heads = 9",
        "heads = 6",
        "3 query heads share a KV head of layer 9; in SmolLM2-135M 2 do (3 KV heads)",
    );
    other("layers.toml", "layers = 30", "layers = 12", "layer 16 of SmolLM2-135M, which has 12");
    // Another system than a stack of the platform.
    let unlimited = dir.add("power", &["policy=quest"], &["power=ignore"]);
    fails(
        &["--run", &unlimited, "--batch", "5", "--dense-layers", "0"],
        EXIT_CONFIG,
        "its system has power = \"ignore\"; a stack of H100+AttAcc has power = \"per-command\"",
    );
    // On GPUs its system does not matter.
    let gpus = ["--run", &unlimited, "--batch", "5", "--dense-layers", "0", "--gpu-only"];
    assert_eq!(served(&[&gpus[..2], &gpus[4..]].concat()).len(), 2);
    // Other caches do not stand beside each other.
    let file = dir.path("quest/origins.csv");
    let text = std::fs::read_to_string(&file).unwrap();
    let copy = dir.path("copy");
    std::fs::create_dir(&copy).unwrap();
    let write = |name: &str, text: &str| std::fs::write(Path::new(&copy).join(name), text).unwrap();
    let layers = std::fs::read_to_string(dir.path("quest/layers.csv")).unwrap();
    write("layers.csv", &layers);
    write("origins.csv", &text.replace("SmolLM2", "Another"));
    fails(&["--run", &quest, &copy, "--batch", "5", "--dense-layers", "0"], EXIT_CONFIG, "of the cache \"");
    // Requests of several lengths.
    write("origins.csv", &text.replace("[metrics]", "[batch]\nprefill = [9, 8]\n\n[metrics]"));
    fails(&["--run", &copy, "--batch", "5"], EXIT_CONFIG, "its requests differ in length");
    // Damaged tables.
    write("origins.csv", &text);
    write("layers.csv", &layers.replace(",extents,", ",extent,"));
    fails(&["--run", &copy], EXIT_DATA, "no column \"extents\"; did you mean \"extent\"?");
    let lines: Vec<&str> = layers.lines().collect();
    write("layers.csv", &[lines[0], lines[1], lines[1]].join("\n"));
    fails(&["--run", &copy], EXIT_DATA, "layer 9 is there twice in step 0");
    write("layers.csv", &[lines[0], lines[1], lines[5]].join("\n"));
    fails(&["--run", &copy], EXIT_DATA, "step 2 does not follow the one before");
    write("layers.csv", lines[0]);
    fails(&["--run", &copy], EXIT_DATA, "no layers of");
    let positions = layers.replace(",0,2048,", ",0,4294967295,");
    write("layers.csv", &positions);
    fails(&["--run", &copy, "--batch", "5"], EXIT_CONFIG, "decodes token 2049 behind token 4294967295");
    write("layers.csv", &[lines[0], lines[1], lines[4]].join("\n"));
    fails(&["--run", &copy, "--batch", "5"], EXIT_CONFIG, "step 1 has other layers than step 0");
}

/// What becomes of the layers that a run has not measured.
#[test]
fn layers_that_are_not_measured_count_as_the_mean_of_those_that_are() {
    let (platform, model) = (h100(&["gpu.devices=1"]), model("smollm2-135m"));
    let stack: System = platform.pim.as_ref().unwrap().stack(true).unwrap();
    let layer = |seconds: f64, selected: f64| MeasuredLayer {
        seconds,
        kv_heads: 3.0,
        query_heads: 9.0,
        selected: 9.0 * selected,
        distinct: 3.0 * selected,
        extents: 3.0,
        useful: 3.0 * selected * 256.0,
        ..MeasuredLayer::default()
    };
    let run = |layers: &[(u32, f64, f64)]| {
        let mut run = MeasuredRun {
            device: format!("{} {}", stack.device.name, stack.device.preset),
            channels: 16,
            ..MeasuredRun::default()
        };
        let layers = layers.iter().map(|(l, seconds, selected)| (*l, layer(*seconds, *selected))).collect();
        run.steps.push(pimattn_experiments::end_to_end::measured::MeasuredStep { position: 99, layers });
        run
    };
    let service = Service {
        batch: 5,
        prefill: 99,
        steps: 1,
        bytes: 2,
        budget: TokenBudget::Full,
        mode: UnitLevel::Bank,
        power_limit: true,
        pipeline: false,
        coprocess: false,
    };
    let fit = |run: &MeasuredRun, dense: u32, others: &[MeasuredRun]| -> Result<Vec<f64>, String> {
        let fitted: FittedRun =
            run.fit(&model, &service, &platform, Some(&stack), Some(dense), others).map_err(|e| e.to_string())?;
        Ok(fitted.steps[0].iter().map(|l| l.seconds).collect())
    };
    let sparse = run(&[(5, 1.0, 20.0), (7, 3.0, 20.0)]);
    let mut want = vec![2.0; 30];
    (want[5], want[7]) = (1.0, 3.0);
    assert_eq!(fit(&sparse, 0, &[]).unwrap(), want);
    // Dense layers of a run of full attention, not of one that left a token out.
    let full = run(&[(5, 10.0, 100.0), (7, 20.0, 100.0)]);
    let nearly = run(&[(5, 50.0, 100.0), (7, 50.0, 99.0)]);
    assert!(full.is_full() && !nearly.is_full());
    (want[0], want[1]) = (15.0, 15.0);
    assert_eq!(fit(&sparse, 2, &[nearly.clone(), full.clone()]).unwrap(), want);
    assert!(fit(&sparse, 2, &[nearly]).unwrap_err().contains("no run has measured any"));
    // Its own, where it has them: here layers 5 and 7 are dense, and nothing is known of the others.
    let own = run(&[(0, 9.0, 100.0), (7, 3.0, 20.0)]);
    let mut want = vec![3.0; 30];
    (want[0], want[1]) = (9.0, 9.0);
    assert_eq!(fit(&own, 2, std::slice::from_ref(&full)).unwrap(), want);
    assert!(fit(&run(&[(0, 9.0, 100.0)]), 2, &[]).unwrap_err().contains("no layer behind the first 2"));
    // A run of full attention is dense throughout.
    let mut want = vec![15.0; 30];
    (want[5], want[7]) = (10.0, 20.0);
    assert_eq!(fit(&full, 2, &[]).unwrap(), want);
}

/// Where folders are, a path is a file too.
#[test]
fn tables_of_a_folder_say_where_the_trace_comes_from() {
    let dir = Runs::new();
    let folder = PathBuf::from(dir.policy("starc"));
    let [origin] = &rows(&std::fs::read(folder.join("origins.csv")).unwrap())[..] else { panic!("one trace") };
    assert_eq!(
        (&origin["channels"], &origin["element_bytes"], &origin["seed"]),
        (&"16".into(), &"2".into(), &"1".into())
    );
    assert!(origin["workload"].contains("policy = \"starc\"") && origin["workload"].contains("steps = 5"));
    assert!(origin["settings"].contains("refresh = \"all-bank\"") && origin["provenance"].contains("SmolLM2"));
    let run = &MeasuredRun::load(&folder).unwrap()[0];
    assert_eq!(
        (run.origin.policy(), run.origin.budget(), run.origin.dense_layers()),
        (Some("starc"), Some(256), Some(2))
    );
    assert_eq!(run.steps.iter().map(|s| s.position).collect::<Vec<_>>(), [2048, 2049, 2050, 2051, 2052]);
}
