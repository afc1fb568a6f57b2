//! `pimsim system` as it is by default: closed forms, sums, orders, and refusals.

use crate::common;

use common::root;
use pimattn::cli::exit::{EXIT_CONFIG, EXIT_USAGE, ExitStatus};
use pimattn_attacc::{Attention, Form, UnitLevel};
use pimattn_core::error::{Error, Result};
use pimattn_core::spec::System;
use pimattn_core::table::{Measure, Value};
use pimattn_experiments::end_to_end::attention::StackCost;
use pimattn_experiments::end_to_end::cost::{Cost, EnergyComponent};
use pimattn_experiments::end_to_end::gpu::{Roofline, RooflineBound};
use pimattn_experiments::end_to_end::layer::{LayerPart, LayerWork};
use pimattn_experiments::end_to_end::table::STEP_MEASURES;
use pimattn_experiments::end_to_end::{
    Attend, Model, Platform, ReplayedStacks, Service, ServiceCost, Switch, Switches, TokenBudget, serve,
};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Mutex;

fn load(platform: &str, set: &[&str], switches: Switches) -> Result<Platform> {
    let set: Vec<String> = set.iter().map(|s| s.to_string()).collect();
    Platform::load(&root().join(format!("configs/platform/{platform}.toml")), &set, switches)
}

fn h100() -> Platform {
    load("h100-attacc", &[], Switches::default()).unwrap()
}

fn model(name: &str) -> Model {
    Model::load(&root().join(format!("configs/model/{name}.toml")), &[]).unwrap()
}

const SERVICE: Service = Service {
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

/// What stacks have replayed, for all tests, by system and power limit.
static STACKS: Mutex<BTreeMap<(PathBuf, bool), ReplayedStacks<'static>>> = Mutex::new(BTreeMap::new());

fn on_pim(platform: &Platform, model: &Model, service: &Service) -> ServiceCost {
    let (pim, limit) = (platform.pim.as_ref().unwrap(), service.power_limit);
    let mut all = STACKS.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let stacks = all
        .entry((pim.system.clone(), limit))
        .or_insert_with(|| ReplayedStacks::new(Box::leak(Box::new(pim.stack(limit).unwrap()))));
    serve(platform, model, service, Some(stacks)).unwrap()
}

fn weights(m: f64, n: f64, k: f64) -> LayerWork {
    let (ops, shared, bytes) = (1.0, 1.0, 2.0);
    LayerWork { part: LayerPart::Qkv, m, n, k, ops, shared, bytes, elementwise: (0.0, 0.0) }
}

fn close(a: f64, b: f64) -> bool {
    (a - b).abs() <= 1e-9 * a.abs().max(b.abs())
}

#[test]
fn one_row_is_bound_by_bandwidth_and_many_by_arithmetic() {
    let platform = h100();
    let mut roofline = Roofline::new(&platform.gpu, Switches::default());
    // Every weight read once for two operations: the matrix's bytes at 85 % of the bandwidth, in waves of thread blocks
    // as full as the cores allow.
    let thin = weights(1.0, 132.0 * 128.0, 4096.0);
    let (timed, share) = (roofline.cost(&thin), roofline.tiling(&thin).core_share);
    let bytes = (thin.n * thin.k + thin.k + thin.n) * 2.0;
    assert_eq!((timed.bound, share), (RooflineBound::Memory, 1.0));
    assert!(close(timed.seconds, bytes / (3352e9 * 0.85)), "{}", timed.seconds);
    assert!(close(timed.energy[EnergyComponent::Dram as usize], 8.0 * bytes * 8.0 * 3.59));
    let thick = weights(132.0 * 128.0, 4096.0, 4096.0);
    let (timed, share) = (roofline.cost(&thick), roofline.tiling(&thick).core_share);
    assert_eq!(timed.bound, RooflineBound::Compute);
    assert!(close(timed.seconds, thick.flops() / (989.4e12 * 0.8 * share)));
    assert!(close(timed.energy[EnergyComponent::Alu as usize], 8.0 * thick.flops() / 2.0 * 0.32));
}

#[test]
fn few_thread_blocks_leave_cores_idle() {
    let platform = h100();
    let mut roofline = Roofline::new(&platform.gpu, Switches::default());
    let score = |ops: f64| LayerWork { part: LayerPart::Score, ops, ..weights(1.0, 2048.0, 128.0) };
    let (one, all) = (roofline.cost(&score(1.0)).seconds, roofline.cost(&score(132.0)).seconds);
    assert!(close(one, all), "a head for each core takes as long as one head: {one}, {all}");
    assert!(close(roofline.cost(&score(133.0)).seconds, 2.0 * all), "one more begins another wave");
}

#[test]
fn grouped_heads_read_keys_once() {
    let platform = h100();
    let mut roofline = Roofline::new(&platform.gpu, Switches::default());
    let score = |shared: f64| LayerWork { part: LayerPart::Score, ops: 64.0, shared, ..weights(1.0, 2048.0, 128.0) };
    let (alone, grouped) = (roofline.tiling(&score(1.0)).dram, roofline.tiling(&score(4.0)).dram);
    assert!(close(alone - grouped, 64.0 * 2048.0 * 128.0 * 2.0 * 3.0 / 4.0));
}

/// All ways of serving.
fn services() -> Vec<Service> {
    let mut out = Vec::new();
    for mode in UnitLevel::ALL {
        for options in 0..8 {
            let on = |bit: u32| options >> bit & 1 == 1;
            let (power_limit, pipeline, coprocess) = (on(0), on(1), on(2));
            out.push(Service { mode, power_limit, pipeline, coprocess, prefill: 200, ..SERVICE });
        }
    }
    out
}

#[test]
fn parts_add_up_and_none_is_negative() {
    let platform = h100();
    for name in ["llama-7b", "mistral-7b"] {
        for service in services() {
            let outcome = on_pim(&platform, &model(name), &service);
            for cost in outcome.steps.iter().chain([&outcome.prefill]) {
                let parts: f64 = cost.energy.iter().flatten().sum();
                assert!(close(cost.total_energy(), parts) && close(cost.time(), cost.seconds.iter().sum()));
                assert!(cost.seconds.iter().chain(cost.energy.iter().flatten()).all(|x| *x >= 0.0), "{service:?}");
            }
            let exact = |m: &Measure<Cost>| match m.value(&outcome.steps[0]) {
                Value::Float(x, _) => x,
                other => panic!("{}: {other:?}", m.name()),
            };
            let columns: Vec<f64> = STEP_MEASURES.iter().map(exact).collect();
            assert!(close(columns[0], columns[1..11].iter().sum()), "times: {columns:?}");
            assert!(close(columns[12], columns[13..22].iter().sum()), "components: {columns:?}");
            assert!(close(columns[12], columns[20..28].iter().sum()), "work, standing and communication: {columns:?}");
        }
    }
}

#[test]
fn neither_pipelining_nor_sharing_is_slower() {
    let platform = h100();
    for name in ["llama-7b", "gpt-13b", "llama-3.1-8b"] {
        for plain in services().into_iter().filter(|s| !s.pipeline && !s.coprocess) {
            let time = |service: Service| on_pim(&platform, &model(name), &service).mean().time();
            let base = time(plain.clone());
            let piped = time(Service { pipeline: true, ..plain.clone() });
            let shared = time(Service { coprocess: true, ..plain.clone() });
            let both = time(Service { pipeline: true, coprocess: true, ..plain.clone() });
            assert!(piped <= base && shared <= base && both <= piped.min(shared), "{name} {plain:?}");
        }
    }
}

/// Stacks whose attention takes as long as they are told to.
struct Told {
    system: System,
    seconds: f64,
}

impl Attend for Told {
    fn system(&self) -> &System {
        &self.system
    }

    fn attend(&mut self, _: Form, wanted: &[Attention]) -> Result<Vec<StackCost>> {
        let (cycles, energy, seconds) = (1, Default::default(), self.seconds);
        Ok(vec![StackCost { cycles, seconds, energy, moves: 0.0, mac_requests: 0.0 }; wanted.len()])
    }
}

#[test]
fn of_overlapping_stages_the_longest_shows_whole_and_one_head_of_the_others() {
    let (platform, model) = (h100(), model("llama-7b"));
    let system = platform.pim.as_ref().unwrap().stack(true).unwrap();
    let mut told = Told { system, seconds: 0.0 };
    let parts = [LayerPart::Qkv, LayerPart::Projection, LayerPart::Score, LayerPart::Link];
    let mut layer = |seconds: f64, pipeline: bool| {
        told.seconds = seconds;
        let service = Service { pipeline, ..SERVICE };
        let cost: Cost = serve(&platform, &model, &service, Some(&mut told)).unwrap().mean();
        parts.map(|p| cost.seconds[p as usize] / 32.0)
    };
    let [qkv, projection, _, link] = layer(0.0, false);
    let (projections, head) = (qkv + projection, 1.0 / 4.0);
    // The link alone hides behind attention where heads are not pipelined.
    assert!(close(layer(1e-3, false).iter().sum(), projections + 1e-3 + link * head));
    for attention in [0.0, 1e-7, link, 2e-6, projections, 1e-5, 1e-3] {
        let stages = [projections, attention, link];
        let longest = stages.into_iter().fold(0.0, f64::max);
        let expected = longest + head * (stages.iter().sum::<f64>() - longest);
        let got = layer(attention, true);
        assert!(close(got.iter().sum(), expected), "{attention}: {got:?}, {expected}");
        assert_eq!(got[2], attention, "attention is never taken off");
        assert!(close(got[0] * projection, got[1] * qkv), "both projections hide the same share");
    }
}

#[test]
fn shared_matrices_end_on_both_sides_together() {
    let (platform, model) = (h100(), model("gpt-13b"));
    let alone = on_pim(&platform, &model, &SERVICE).mean();
    let shared = on_pim(&platform, &model, &Service { coprocess: true, ..SERVICE }).mean();
    let ff = LayerPart::FeedForward as usize;
    let kept = shared.seconds[ff] / alone.seconds[ff];
    // Each GPU's two matrices, read from the arrays for each of 16 rows, at 9 times the bandwidth of five stacks.
    let arrays = 40.0 * 16.0 * 2.0 * (5120.0 * 20480.0 / 8.0 * 2.0) / (9.0 * 5.0 * 670.4e9);
    let expected = arrays / (arrays + alone.seconds[ff]);
    assert!((kept / expected - 1.0).abs() < 0.02, "the GPUs keep {kept}; alone they would need {expected}");
    let energy = |cost: &Cost, component: EnergyComponent| cost.energy[ff][component as usize];
    assert!(close(energy(&shared, EnergyComponent::Alu) / energy(&alone, EnergyComponent::Alu), {
        let macs = |c: &Cost| energy(c, EnergyComponent::Alu) + energy(c, EnergyComponent::PimCompute);
        1.0 - energy(&shared, EnergyComponent::PimCompute) / macs(&alone)
    }));
    assert!(shared.seconds[LayerPart::Link as usize] > alone.seconds[LayerPart::Link as usize]);
}

#[test]
fn a_budget_costs_what_its_rows_cost() {
    let (platform, model) = (h100(), model("llama-7b"));
    let of = |budget: TokenBudget, prefill: u32| on_pim(&platform, &model, &Service { budget, prefill, ..SERVICE });
    let cycles = |outcome: &ServiceCost| outcome.steps.iter().map(|s| s.attention_cycles).collect::<Vec<_>>();
    let fixed = cycles(&of(TokenBudget::Tokens(1024), 16384));
    assert_eq!(fixed[0], fixed[1]);
    let table = cycles(&of(TokenBudget::PerStep(vec![1024, 2048]), 16384));
    assert_eq!(table[0], fixed[0]);
    assert!(table[1] > 1.8 * table[0], "{table:?}");
    assert_eq!(cycles(&of(TokenBudget::PerStep(vec![1024]), 16384)), fixed, "the last budget holds on");
    let (sparse, dense) = (of(TokenBudget::Tokens(1024), 4096).mean(), of(TokenBudget::Full, 4096).mean());
    assert!(sparse.time() < dense.time() && sparse.total_energy() < dense.total_energy());
}

#[test]
fn schedules_are_replayed_once() {
    let platform = h100();
    let system = platform.pim.as_ref().unwrap().stack(true).unwrap();
    let mut stacks = ReplayedStacks::new(&system);
    // 16 units: lengths 2049 to 2064 fill the same columns.
    let service = Service { steps: 17, ..SERVICE };
    let outcome = serve(&platform, &model("llama-7b"), &service, Some(&mut stacks)).unwrap();
    assert_eq!(stacks.replays(), 2);
    let cycles: Vec<f64> = outcome.steps.iter().map(|s| s.attention_cycles).collect();
    assert!(cycles[..16].iter().all(|c| *c == cycles[0]) && cycles[16] > cycles[0]);
}

#[test]
fn an_eighth_is_an_eighth() {
    let terms = [
        (Switch::EighthActivation, LayerPart::Activation),
        (Switch::EighthNorm, LayerPart::Norm),
        (Switch::EighthAllReduce, LayerPart::AllReduce),
    ];
    let model = model("llama-7b");
    let time = |switches: Switches, part: LayerPart| {
        let platform = load("h100-attacc", &[], switches).unwrap().gpus_only();
        serve(&platform, &model, &SERVICE, None).unwrap().mean().seconds[part as usize]
    };
    for (switch, part) in terms {
        let mut on = Switches::default();
        on.set(switch, true);
        assert!(close(8.0 * time(on, part), time(Switches::default(), part)), "{}", switch.name());
    }
}

#[test]
fn every_switch_changes_something() {
    let model = model("mistral-7b");
    // Enough of a batch that a core alone would be slow, a mode that has all the buses, and a full device.
    let service = Service { mode: UnitLevel::Buffer, pipeline: true, coprocess: true, prefill: 600, ..SERVICE };
    let outcome =
        |switches: Switches, service: &Service| on_pim(&load("h100-attacc", &[], switches).unwrap(), &model, service);
    let starc = Switches::of(pimattn_experiments::end_to_end::Reference::Starc);
    for switch in Switch::ALL {
        let mut services = vec![service.clone()];
        // Which is hidden where takes projections that are longer than attention.
        services.push(Service { mode: UnitLevel::Bank, prefill: 64, ..service.clone() });
        // The published schedule has its quirks where a channel has several heads.
        services.push(Service { batch: 21, ..service.clone() });
        let changes = |all: Switches| {
            let mut other = all;
            other.set(*switch, !all.has(*switch));
            services.iter().any(|s| outcome(all, s) != outcome(other, s))
        };
        assert!(changes(starc) || changes(Switches::default()), "{}", switch.name());
    }
}

#[test]
fn switches_are_off_unless_the_file_or_the_caller_says_so() {
    assert_eq!(h100().switches, Switches::default());
    let one = load("a100-attacc", &["reference.eighth_norm=true"], Switches::default()).unwrap();
    assert_eq!(one.switches.describe(), "eighth_norm");
}

fn refusal(result: Result<impl Sized>) -> Error {
    result.err().expect("must be refused")
}

#[test]
fn wrong_keys_are_named_with_their_place_and_the_nearest() {
    for (set, words) in [
        ("gpu.bandwith=\"1 GB/s\"", "did you mean \"bandwidth\""),
        ("gpu.bandwidth=3", "a unit (GB/s)"),
        ("gpu.bandwidth=\"0 GB/s\"", "must be more than 0"),
        ("gpu.utilisation.compute=1.5", "not a share"),
        ("gpu.source=attac", "did you mean \"attacc\""),
        ("gpu.peak={ value = \"1 TFLOPS\", source = \"h10\" }", "did you mean \"h100\""),
        ("pim.gain.source=nobody", "unknown source"),
        ("reference.eight_norm=true", "did you mean \"eighth_norm\""),
        ("gpu.tiles.sizes=[]", "must be more than 0"),
        ("pim.standing=always", "expected one of step, attention"),
    ] {
        let error = refusal(load("h100-attacc", &[set], Switches::default()));
        assert_eq!(error.exit_code(), EXIT_CONFIG, "{set}: {error}");
        assert!(error.to_string().contains(words), "{set}: {error}");
    }
    let wrong = |set: &str| refusal(Model::load(&root().join("configs/model/mistral-7b.toml"), &[set.into()]));
    for (set, words) in [
        ("head=3", "did you mean \"heads\""),
        ("kv_heads=5", "does not divide"),
        ("published.kv_heads=0", "does not divide"),
        ("layers=0", "not in 1..="),
        ("published.ffn_per_hidden=[1, 0]", "neither 0"),
    ] {
        let error = wrong(set);
        assert_eq!(error.exit_code(), EXIT_CONFIG);
        assert!(error.to_string().contains(words), "{set}: {error}");
    }
}

#[test]
fn impossible_services_are_refused() {
    let platform = h100().gpus_only();
    for (service, words) in [
        (Service { batch: 0, ..SERVICE }, "--batch is 0"),
        (Service { steps: 0, ..SERVICE }, "--steps is 0"),
        (Service { bytes: 4, ..SERVICE }, "--bytes is 4"),
        (Service { budget: TokenBudget::Tokens(0), ..SERVICE }, "budget is 0"),
        (Service { budget: TokenBudget::PerStep(vec![]), ..SERVICE }, "budget is 0"),
    ] {
        let error = refusal(serve(&platform, &model("llama-7b"), &service, None));
        assert_eq!(error.exit_code(), EXIT_USAGE);
        assert!(error.to_string().contains(words), "{error}");
    }
    let three = load("h100-attacc", &["gpu.devices=3"], Switches::default()).unwrap().gpus_only();
    let error = refusal(serve(&three, &model("llama-7b"), &SERVICE, None));
    assert!(error.to_string().contains("do not divide over 3 devices"), "{error}");
}

#[test]
fn every_model_and_platform_of_the_project_serves() {
    let files = |folder: &str| {
        let entries = std::fs::read_dir(root().join("configs").join(folder)).unwrap();
        let mut names: Vec<String> =
            entries.map(|e| e.unwrap().path().file_stem().unwrap().to_str().unwrap().to_string()).collect();
        names.sort();
        names
    };
    for platform in files("platform") {
        let all = load(&platform, &[], Switches::default()).unwrap();
        let one = load(&platform, &["gpu.devices=1"], Switches::default()).unwrap();
        for name in files("model") {
            let model = model(&name);
            // Small models have fewer heads than there are GPUs.
            let platform = if model.heads.is_multiple_of(all.gpu.devices as u32) { &all } else { &one };
            let outcome = on_pim(platform, &model, &Service { prefill: 100, ..SERVICE });
            assert!(outcome.mean().time() > 0.0, "{name}");
        }
    }
}
