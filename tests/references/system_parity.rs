//! `pimsim system` with the switches of the published simulators, against what those print.
//!
//! All latency and energy columns of every row of `golden/system.csv`, which does not ship with the sources: that test is
//! ignored unless `make test-golden` asks for it. A few rows stand here, carried over from the same runs.

use crate::common::golden;
use pimattn_attacc::UnitLevel;
use pimattn_experiments::end_to_end::cost::{Cost, EnergyComponent};
use pimattn_experiments::end_to_end::layer::LayerPart;
use pimattn_experiments::end_to_end::{
    Attend, Model, Platform, Reference, ReplayedStacks, Service, ServiceCost, Switches, TokenBudget, serve,
};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The agreement asked for.
const TOLERANCE: f64 = 1e-3;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// A row of a published simulator: its command line and the columns that say what was run.
struct Row<'r> {
    source: &'r str,
    flags: Vec<&'r str>,
    model: &'r str,
    bytes: u32,
    cores: u32,
    prefill: u32,
    steps: u32,
    batch: u32,
    /// FLOPs over bytes of the GPU's peaks: which GPU.
    sys_opb: f64,
}

impl Row<'_> {
    fn has(&self, flag: &str) -> bool {
        self.flags.contains(&flag)
    }

    fn after(&self, flag: &str) -> Option<&str> {
        self.flags.iter().position(|f| *f == flag).map(|i| self.flags[i + 1])
    }
}

/// Stacks, by system and power limit, with what they have replayed.
type Stacks = BTreeMap<(PathBuf, bool), ReplayedStacks<'static>>;

fn model(name: &str) -> Model {
    let file = root().join(format!("configs/model/{}.toml", name.to_lowercase()));
    Model::load(&file, &[]).unwrap_or_else(|e| panic!("{name}: {e}"))
}

fn run(row: &Row<'_>, budgets: Option<Vec<u32>>, stacks: &mut Stacks) -> ServiceCost {
    let reference = Reference::ALL.into_iter().find(|r| r.name() == row.source).unwrap();
    let gpu = if row.sys_opb > 200.0 { "h100" } else { "a100" };
    let file = root().join(format!("configs/platform/{gpu}-attacc.toml"));
    let set = [format!("gpu.devices={}", row.cores)];
    let platform = Platform::load(&file, &set, Switches::of(reference)).unwrap();
    let platform = if row.has("dgx") { platform.gpus_only() } else { platform };
    let service = Service {
        batch: row.batch,
        prefill: row.prefill,
        steps: row.steps,
        bytes: row.bytes,
        budget: budgets.map_or(TokenBudget::Full, TokenBudget::PerStep),
        mode: row.after("--pim").map_or(UnitLevel::Bank, |m| UnitLevel::parse(m).unwrap()),
        power_limit: row.has("--powerlimit"),
        pipeline: row.has("--pipeopt"),
        coprocess: row.has("--ffopt"),
    };
    let attend = platform.pim.as_ref().map(|pim| {
        let limit = service.power_limit;
        let key = (pim.system.clone(), limit);
        stacks.entry(key).or_insert_with(|| ReplayedStacks::new(Box::leak(Box::new(pim.stack(limit).unwrap()))))
            as &mut dyn Attend
    });
    serve(&platform, &model(row.model), &service, attend).unwrap()
}

/// The latency and energy columns of the published tables: ms and nJ.
fn columns(outcome: &ServiceCost) -> Vec<(&'static str, f64)> {
    use LayerPart::*;
    let (s, g) = (&outcome.prefill, &outcome.mean());
    let ms = |c: &Cost, parts: &[LayerPart]| c.time_of(parts) * 1e3;
    let nj = |parts: &[LayerPart], components: &[EnergyComponent]| g.energy_of(parts, components) * 1e-3;
    let all = [Qkv, Score, Softmax, Context, Projection, FeedForward, Activation, Norm, AllReduce, Link];
    let (fc, attention, etc) = ([Qkv, Projection, FeedForward], [Score, Context, Softmax], [Activation, Norm]);
    let (memory, compute) = (EnergyComponent::MEMORY, EnergyComponent::COMPUTE);
    vec![
        ("s_time", s.time() * 1e3),
        ("s_matmul", ms(s, &[Score, Context])),
        ("s_fc", ms(s, &fc)),
        ("s_comm", ms(s, &[AllReduce])),
        ("s_softmax", ms(s, &[Softmax])),
        ("s_act", ms(s, &[Activation])),
        ("s_lnorm", ms(s, &[Norm])),
        ("g_time (ms)", g.time() * 1e3),
        ("g_matmul", ms(g, &[Score, Context])),
        ("g_fc", ms(g, &fc)),
        ("g_comm", ms(g, &[AllReduce, Link])),
        ("g_etc", ms(g, &etc)),
        ("g_qkv_time", ms(g, &[Qkv])),
        ("g_prj_time", ms(g, &[Projection])),
        ("g_ff_time", ms(g, &[FeedForward])),
        ("g2g_comm", ms(g, &[AllReduce])),
        ("c2g_comm", ms(g, &[Link])),
        ("g_softmax", ms(g, &[Softmax])),
        ("g_act", ms(g, &[Activation])),
        ("g_lnorm", ms(g, &[Norm])),
        ("g_energy (nJ)", g.total_energy() * 1e-3),
        ("g_dram_energy", nj(&all, &memory)),
        ("g_l2_energy", nj(&all, &[EnergyComponent::L2])),
        ("g_l1_energy", nj(&all, &[EnergyComponent::L1])),
        ("g_reg_energy", nj(&all, &[EnergyComponent::Registers])),
        ("g_alu_energy", nj(&all, &[EnergyComponent::Alu, EnergyComponent::PimCompute])),
        ("g_fc_mem_energy", nj(&fc, &memory)),
        ("g_fc_comp_energy", nj(&fc, &compute)),
        ("g_attn_mem_energy", nj(&attention, &memory)),
        ("g_attn_comp_energy", nj(&attention, &compute)),
        ("g_etc_mem_energy", nj(&etc, &memory)),
        ("g_etc_comp_energy", nj(&etc, &compute)),
        ("g_comm_energy", nj(&all, &[EnergyComponent::Communication])),
    ]
}

/// What is further from the published value than the tolerance.
fn differences(name: &str, ours: &[(&str, f64)], published: impl Fn(&str) -> Option<f64>) -> Vec<String> {
    let off = |(column, ours): &(&str, f64)| {
        let theirs = published(column)?;
        let error = (ours - theirs).abs() / theirs.abs().max(f64::MIN_POSITIVE);
        (!(ours == &theirs || error <= TOLERANCE)).then(|| format!("{name}: {column} {ours}; published {theirs}"))
    };
    ours.iter().filter_map(off).collect()
}

type Carried = (&'static str, &'static str, &'static str, f64, [u32; 3], [f64; 15]);

/// Rows carried over: source, command line, model, GPU, prompt, steps, batch, and the values of [`CARRIED_COLUMNS`].
const CARRIED: [Carried; 4] = [
    (
        "attacc",
        "dgx H100",
        "LLAMA-65B",
        295.2,
        [4096, 15, 64],
        [
            1.264561e4,
            4.929860e1,
            3.140241e1,
            1.998834e0,
            5.199499e-1,
            5.312651e0,
            7.668004e0,
            0.000000e0,
            6.805950e-1,
            3.113669e10,
            2.404932e10,
            8.357580e8,
            2.008858e10,
            2.738962e9,
            1.395864e7,
        ],
    ),
    (
        "attacc",
        "dgx-attacc A100a --pim buffer --powerlimit",
        "GPT-175B",
        93.1,
        [512, 2, 4],
        [
            4.935237e2,
            2.829423e1,
            6.497250e-1,
            4.297764e0,
            1.435072e0,
            1.145822e1,
            8.293276e0,
            1.310720e-3,
            7.977969e-1,
            1.205941e10,
            1.021823e10,
            1.409321e8,
            1.996571e8,
            7.905028e5,
            1.962934e6,
        ],
    ),
    (
        "starc",
        "dgx-attacc --pim bank --powerlimit --ffopt --pipeopt",
        "LLAMA-7B",
        295.2,
        [12000, 3, 16],
        [
            2.256484e3,
            1.432200e0,
            5.983189e-1,
            4.927506e-2,
            1.257178e-2,
            3.348580e-1,
            3.448650e-1,
            1.747627e-3,
            3.326872e-2,
            9.891459e8,
            8.346391e8,
            2.088940e7,
            4.515750e8,
            8.211718e6,
            8.724152e5,
        ],
    ),
    (
        "starc",
        "dgx-attacc --pim bank --powerlimit",
        "Mistral-7B",
        295.2,
        [2048, 5, 16],
        [
            1.370683e2,
            1.150280e0,
            9.670944e-2,
            1.971002e-1,
            5.028713e-2,
            3.690208e-1,
            3.448650e-1,
            1.747627e-3,
            3.325513e-2,
            5.626671e8,
            4.286408e8,
            1.914965e7,
            7.761917e7,
            1.403286e6,
            8.724152e5,
        ],
    ),
];

const CARRIED_COLUMNS: [&str; 15] = [
    "s_time",
    "g_time (ms)",
    "g_matmul",
    "g_qkv_time",
    "g_prj_time",
    "g_ff_time",
    "g2g_comm",
    "c2g_comm",
    "g_act",
    "g_energy (nJ)",
    "g_dram_energy",
    "g_reg_energy",
    "g_attn_mem_energy",
    "g_attn_comp_energy",
    "g_comm_energy",
];

#[test]
fn carried_rows_agree() {
    let mut stacks = Stacks::new();
    for (source, flags, model, sys_opb, [prefill, steps, batch], values) in CARRIED {
        let flags = flags.split_whitespace().collect();
        let row = Row { source, flags, model, bytes: 2, cores: 8, prefill, steps, batch, sys_opb };
        let ours = columns(&run(&row, None, &mut stacks));
        let published = |column: &str| CARRIED_COLUMNS.iter().position(|c| *c == column).map(|i| values[i]);
        let wrong = differences(model, &ours, published);
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }
}

fn budgets(folder: &Path, file: &str) -> Vec<u32> {
    let path = folder.join("data/kv_budget").join(file);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    text.lines().map(|l| l.trim()).filter(|l| !l.is_empty()).map(|l| l.parse().unwrap()).collect()
}

#[test]
#[ignore = "needs golden results, which do not ship: make test-golden"]
fn every_published_row_agrees_in_every_column() {
    let shared = golden("golden/system.csv").parent().and_then(Path::parent).unwrap().to_path_buf();
    let mut stacks = Stacks::new();
    let mut wrong = Vec::new();
    let mut table = csv::Reader::from_path(shared.join("golden/system.csv")).unwrap();
    let names = table.headers().unwrap().clone();
    let mut rows = 0;
    for record in table.records() {
        let record = record.unwrap();
        let cell = |name: &str| &record[names.iter().position(|c| c == name).unwrap_or_else(|| panic!("{name}"))];
        let count = |name: &str| cell(name).parse::<u32>().unwrap();
        let row = Row {
            source: cell("source"),
            flags: cell("flags").split_whitespace().collect(),
            model: cell("model"),
            bytes: if cell("dtype") == "W8A8" { 1 } else { 2 },
            cores: count("cores"),
            prefill: count("Lin"),
            steps: count("Lout") - 1,
            batch: count("bs"),
            sys_opb: cell("sys_opb").parse().unwrap(),
        };
        let budgets = row.after("--kv_budget_table").map(|file| budgets(&shared, file));
        let name = format!("row {} ({} {} {})", rows + 2, row.source, row.model, cell("flags"));
        let ours = columns(&run(&row, budgets, &mut stacks));
        wrong.extend(differences(&name, &ours, |column| cell(column).parse().ok()));
        rows += 1;
    }
    assert!(rows > 0, "the table is empty");
    assert!(wrong.is_empty(), "{} of {rows} rows' columns differ:\n{}", wrong.len(), wrong.join("\n"));
}
