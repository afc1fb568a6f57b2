//! Selection and accuracy on real KV caches: against the means of an independent numpy implementation, and every policy
//! against its plain version.
//!
//! The full dump and the means do not ship with the sources: all tests but that of the bundled sample are ignored unless
//! `make test-golden` asks for them.

use crate::common::golden;
use pimattn_kv::fit::{FitOptions, KnownRotation, fit};
use pimattn_kv::rope::{RotaryPairs, SaidScaling};
use pimattn_kv::selection::Scan;
use pimattn_kv::{KvCache, KvView};
use pimattn_policies::accuracy::{Accuracy, OutputOf, RowShape, Scratch, exact_scores};
use pimattn_policies::cluster::kmeans::KMeans;
use pimattn_policies::cluster::{Config, Start, plain};
use pimattn_policies::select::sparq::Sparq;
use pimattn_policies::select::{self, HeadState, HeadView, Policy, StepView};
use pimattn_tracegen::agree::measure::AgreementPlan;
use pimattn_tracegen::agree::{Agreement, AgreementFigure, before_decode, layers_of, stand_in};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use rayon::prelude::*;
use safetensors::SafeTensors;
use std::collections::BTreeMap;
use std::path::PathBuf;

const BUDGETS: [usize; 5] = [128, 256, 512, 1024, 2048];
/// Policies of oracle.csv and oracle_sparq.csv, and the tables with which they are those: the name there, that of the
/// registry, the parameters.
const POLICIES: [(&str, &str, &str); 7] = [
    ("oracle", "oracle", ""),
    ("quest", "quest", ""),
    ("streaming", "streaming", ""),
    ("starc", "starc", ""),
    // The figures are of the selected tokens alone.
    ("sparq", "sparq", "per = \"head\"\nmean_value = false"),
    ("sparq-blended", "sparq", "per = \"head\""),
    ("sparq-group", "sparq", ""),
];
/// Of the means of mass_recall, topB_recall and out_rel_err.
const ABSOLUTE_TOLERANCE: f64 = 0.002;
/// Of the means of row_tokens and unit_imbalance.
const RELATIVE_TOLERANCE: f64 = 0.005;
/// Half of the last digit in the file.
const ROUNDING: f64 = 0.5e-4;

/// Of row tokens of held-back layers, and of layers that the statistics are of.
const HELD: f64 = 0.10;
const OWN: f64 = 0.15;

/// The dump's.
const ROTATION: KnownRotation =
    KnownRotation { theta: Some(100_000.0), pairs: Some(RotaryPairs::Interleaved), scaling: Some(SaidScaling::None) };

fn load(folder: &std::path::Path) -> KvCache {
    let bytes = std::fs::read(folder.join("smollm2-135m_rustbook_8192.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let read = |name: &str, shape: [usize; 4]| -> Vec<f32> {
        let tensor = tensors.tensor(name).unwrap();
        assert_eq!((tensor.shape(), tensor.dtype()), (&shape[..], safetensors::Dtype::F16), "{name}");
        tensor.data().as_chunks::<2>().0.iter().map(|x| half::f16::from_le_bytes(*x).to_f32()).collect()
    };
    KvCache {
        layers: vec![2, 9, 16, 23, 29],
        kv_heads: 3,
        query_heads: 9,
        dim: 64,
        tokens: 8192,
        prefill: 7936,
        query_start: 7680,
        queries: 512,
        element_bytes: 2,
        rope_scaling: None,
        provenance: "SmolLM2-135M-Instruct".into(),
        k: read("k", [5, 3, 8192, 64]).into(),
        v: read("v", [5, 3, 8192, 64]).into(),
        q: read("q_late", [5, 9, 512, 64]).into(),
    }
}

fn head(kv: KvView<'_>, layer: usize, kv_head: usize) -> HeadView<'_> {
    HeadView {
        keys: kv.keys(layer, kv_head),
        prefill: kv.prefill,
        queries: kv.group_queries(layer, kv_head),
        query_start: kv.query_start,
        seed: 0,
        memo: None,
    }
}

fn columns(a: &Accuracy) -> [f64; 6] {
    let Accuracy { mass_recall, top_recall, output_rel_err, selected, row_tokens, unit_imbalance } = *a;
    [mass_recall, top_recall, output_rel_err.unwrap(), row_tokens as f64, unit_imbalance, selected as f64]
}

/// Means over all layers, query heads and every 16th decode position, for each policy and budget.
fn means(kv: KvView<'_>) -> BTreeMap<(&'static str, usize), [f64; 6]> {
    let mut sums = BTreeMap::new();
    let mut scratch = Scratch::default();
    let scale = (kv.dim as f32).sqrt().recip();
    let mut scores = vec![Vec::new(); kv.group()];
    let mut count = 0;
    for (layer, kv_head) in (0..kv.layers.len()).flat_map(|l| (0..kv.kv_heads).map(move |h| (l, h))) {
        let head = head(kv, layer, kv_head);
        let policies =
            POLICIES.map(|(_, name, table)| (select::find(name).unwrap().build)(&table.parse().unwrap()).unwrap());
        let mut states: Vec<Box<dyn HeadState + Send>> = policies.iter().map(|p| p.prepare(head)).collect();
        for position in kv.decode_positions().step_by(16) {
            let query = |g| kv.queries(layer, kv_head * kv.group() + g).row(position - kv.query_start);
            let queries: Vec<&[f32]> = (0..kv.group()).map(query).collect();
            let len = position + 1;
            let keys = head.keys.range(0..len);
            exact_scores(head.keys, len, &queries, &mut scores);
            let mut selections = BTreeMap::new();
            for ((name, ..), state) in POLICIES.iter().zip(&mut states) {
                state.grow(keys);
                for budget in BUDGETS {
                    let mut out = vec![Vec::new(); queries.len()];
                    let (queries, scores) = (&queries, &scores);
                    let step = StepView { keys, budget, queries, layer_queries: queries, scores };
                    state.select(step, &mut out);
                    selections.insert((*name, budget), (out, state.blend().to_vec()));
                }
            }
            for (g, scores) in scores.iter().enumerate() {
                let mut attention = scratch.attend(scores, scale, kv.values(layer, kv_head));
                for ((name, ..), state) in POLICIES.iter().zip(&states) {
                    for budget in BUDGETS {
                        let (selected, shares) = &selections[&(*name, budget)];
                        let of = OutputOf { share: shares.get(g).copied().unwrap_or(1.0), scores: None };
                        let measured =
                            attention.measure_output(&selected[g], of, budget, state.order(), RowShape::default());
                        let sum = sums.entry((*name, budget)).or_insert([0.0; 6]);
                        sum.iter_mut().zip(columns(&measured)).for_each(|(sum, x)| *sum += x);
                    }
                }
                count += 1;
            }
        }
    }
    assert_eq!(count, 5 * 9 * 16);
    sums.values_mut().flatten().for_each(|sum| *sum /= f64::from(count));
    sums
}

#[test]
#[ignore = "needs golden results, which do not ship: make test-golden"]
fn means_agree_with_the_independent_implementation() {
    let folder = golden("kv");
    let kv = load(&folder);
    let means = means(kv.view().unwrap());
    let columns = ["mass_recall", "topB_recall", "out_rel_err", "row_tokens", "unit_imbalance", "selected"];
    // The second file has sparq with its blend, and its set for each group.
    let lines = ["oracle.csv", "oracle_sparq.csv"].map(|file| {
        let mut lines = csv::Reader::from_path(folder.join(file)).unwrap();
        assert!(lines.headers().unwrap().iter().skip(2).eq(columns), "{file}");
        let blended = |line: (String, usize, [f64; 6])| match line.0.as_str() {
            "sparq" if file == "oracle_sparq.csv" => ("sparq-blended".into(), line.1, line.2),
            _ => line,
        };
        lines.deserialize().map(|line| blended(line.unwrap())).collect::<Vec<_>>()
    });
    let mut seen = 0;
    let mut largest = [0f64; 6];
    let mut wrong = Vec::new();
    println!("policy     budget  differences of {}", columns.join(", "));
    for (policy, budget, expected) in lines.concat() {
        let Some((name, ..)) = POLICIES.into_iter().find(|(name, ..)| *name == policy) else { continue };
        let got = means[&(name, budget)];
        print!("{policy:10} {budget:6}");
        for (column, (got, expected)) in got.iter().zip(&expected).enumerate() {
            let (difference, tolerance) = match columns[column] {
                "selected" => (got - expected, ROUNDING),
                "row_tokens" | "unit_imbalance" => (got / expected - 1.0, RELATIVE_TOLERANCE),
                _ => (got - expected, ABSOLUTE_TOLERANCE),
            };
            print!(" {difference:+.6}");
            largest[column] = largest[column].max(difference.abs());
            if difference.abs() > tolerance {
                wrong.push(format!("{policy} {budget} {}: {got}, expected {expected}", columns[column]));
            }
        }
        println!();
        seen += 1;
    }
    println!("largest          {}", largest.map(|d| format!(" {d:.6}")).concat());
    assert_eq!(seen, POLICIES.len() * BUDGETS.len());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));

    for budget in BUDGETS {
        let recall = |name| means[&(name, budget)][1];
        assert!(recall("starc") > recall("quest").max(recall("streaming")), "{budget}");
        assert!(recall("sparq") > recall("starc"), "{budget}");
    }
}

/// Policies of the registry against their plain versions, each on the KV heads `heads` (layer, KV head); a decode that
/// visits some positions. Returns how many selections of a query head were compared, and of how many tokens, by policy.
fn compare_with_plain(
    kv: KvView<'_>,
    heads: &[(usize, usize)],
    budget: usize,
    positions: &[usize],
) -> BTreeMap<&'static str, Vec<usize>> {
    let compare = |entry: &select::Entry, (layer, kv_head): (usize, usize)| -> Option<Vec<usize>> {
        // The plain K-means is slow.
        let brief = ["starc-v1", "clusterkv"].contains(&entry.name);
        let table: toml::Table = if brief { "max_iterations = 2" } else { "" }.parse().unwrap();
        let head = head(kv, layer, kv_head);
        let mut plain = select::plain::of(entry.name, &table, head).unwrap()?;
        let policy = (entry.build)(&table).unwrap();
        let mut state = policy.prepare(head);
        let mut sizes = Vec::new();
        for position in positions {
            let query = |g| kv.queries(layer, kv_head * kv.group() + g).row(position - kv.query_start);
            let queries: Vec<&[f32]> = (0..kv.group()).map(query).collect();
            let (mut scores, mut selected) = (vec![Vec::new(); queries.len()], vec![Vec::new(); queries.len()]);
            exact_scores(head.keys, position + 1, &queries, &mut scores);
            let keys = head.keys.range(0..position + 1);
            let step = StepView { keys, budget, queries: &queries, layer_queries: &queries, scores: &scores };
            state.grow(keys);
            state.select(step, &mut selected);
            assert!(selected == plain(step), "{}: layer {layer}, KV head {kv_head}, token {position}", entry.name);
            sizes.extend(selected.iter().map(Vec::len));
        }
        Some(sizes)
    };
    let of_entry = |entry: &'static select::Entry| {
        let sizes: Option<Vec<Vec<usize>>> = heads.par_iter().map(|at| compare(entry, *at)).collect();
        sizes.map(|sizes| (entry.name, sizes.concat()))
    };
    select::REGISTRY.par_iter().filter_map(of_entry).collect()
}

/// On both layers of the bundled sample, around the token that fills a block.
#[test]
fn policies_agree_with_their_plain_versions_on_the_sample() {
    let sample = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("traces/smollm2-135m-rustbook-cut.safetensors");
    let kv = pimattn_kv::load(sample).unwrap();
    for (layer, budget) in [(0, 128), (1, 400)] {
        let heads = [0, 1, 2].map(|head| (layer, head));
        let compared = compare_with_plain(kv.view().unwrap(), &heads, budget, &[2048, 2049, 2110, 2111, 2112, 2175]);
        assert!(compared.len() >= 10, "{:?}", compared.keys());
        assert!(compared.values().all(|sizes| sizes.len() == 9 * 6));
    }
}

/// On every layer of the dump, the KV heads in turn.
#[test]
#[ignore = "needs golden results, which do not ship: make test-golden"]
fn policies_agree_with_their_plain_versions_on_every_layer_of_the_dump() {
    let folder = golden("kv");
    let heads: Vec<_> = (0..5).map(|layer| (layer, layer % 3)).collect();
    let kv = load(&folder);
    let compared = compare_with_plain(kv.view().unwrap(), &heads, 512, &[7936, 7937, 7999, 8191]);
    assert!(compared.len() >= 10, "{:?}", compared.keys());
    assert!(compared.values().all(|sizes| sizes.len() == 5 * 3 * 4));
    assert!(compared["infinigen"].iter().any(|n| *n < 512), "the cap alone decides");
}

/// What `sparq` reads, and the share of the mean of all values.
#[test]
#[ignore = "needs golden results, which do not ship: make test-golden"]
fn sparq_reads_and_blends_as_its_plain_version_on_real_keys() {
    let folder = golden("kv");
    let (kv, policy) = (load(&folder), Sparq::default());
    let kv = kv.view().unwrap();
    for (layer, kv_head) in [(0, 1), (3, 2)] {
        let mut state = policy.prepare(head(kv, layer, kv_head));
        for position in [7936, 8191] {
            let query = |g| kv.queries(layer, kv_head * kv.group() + g).row(position - kv.query_start);
            let queries: Vec<&[f32]> = (0..kv.group()).map(query).collect();
            let keys = kv.keys(layer, kv_head).range(0..position + 1);
            let step = StepView { keys, budget: 512, queries: &queries, layer_queries: &queries, scores: &[] };
            let expected = select::plain::sparq(&policy, kv.keys(layer, kv_head), step);
            state.grow(keys);
            state.select(step, &mut vec![Vec::new(); queries.len()]);
            assert_eq!(state.scan(), Scan::Dimensions(&expected.dims));
            assert_eq!(state.blend().len(), expected.shares.len());
            for (got, expected) in state.blend().iter().zip(&expected.shares) {
                assert!((f64::from(*got) - expected).abs() < 1e-4 && *expected > 0.1, "{got} {expected}");
            }
        }
    }
}

#[test]
#[ignore = "needs golden results, which do not ship: make test-golden"]
fn both_kmeans_agree_on_real_keys() {
    let folder = golden("kv");
    let kv = load(&folder);
    let kv = kv.view().unwrap();
    let mut fast = KMeans::default();
    let mut check = |keys: &[f32], clusters, start| {
        let config = Config { clusters, start, ..Config::default() };
        let mut rng = ChaCha8Rng::seed_from_u64(5);
        let expected = plain::kmeans(keys, kv.dim, &config, &mut rng.clone());
        fast.fit(keys, kv.dim, &config, &mut rng);
        assert_eq!(fast.labels(), expected.labels);
        assert_eq!(fast.centroids(), expected.centroids);
        assert_eq!(fast.iterations(), expected.iterations);
    };
    for (layer, kv_head) in (0..kv.layers.len()).flat_map(|l| (0..kv.kv_heads).map(move |h| (l, h))) {
        let keys = kv.keys(layer, kv_head);
        for first in (0..kv.tokens).step_by(64) {
            check(keys.range(first..first + 64).data, 4, Start::First);
            check(keys.range(first..first + 64).data, 4, Start::Random);
        }
        check(keys.range(0..1024).data, 32, Start::PlusPlus);
    }
}

/// Layers that the model of a cache was not designed on, fitted before decoding began: rows of every policy while decoding,
/// and the order of policies that are more than 2 points apart.
#[test]
#[ignore = "needs golden results, which do not ship: make test-golden"]
fn statistics_of_the_prefill_foretell_what_policies_select_while_decoding() {
    let folder = golden("kv");
    let kv = load(&folder);
    let options = FitOptions { rotation: ROTATION, ..FitOptions::default() };
    let model = fit(&before_decode(&kv).unwrap(), &options).unwrap();
    assert_eq!(model.words.len(), 128);
    // Of the dump's layers, one has sinks beyond the first token; they are two words.
    assert_eq!(model.layers.iter().map(|l| l.sink_words.len()).collect::<Vec<_>>(), [0, 2, 0, 0, 0]);
    let real = layers_of(&kv, &[9, 23, 29]).unwrap();
    let policies = vec!["oracle", "sparq", "infinigen", "h2o", "starc", "starc-v1", "quest", "streaming"];
    let plan = AgreementPlan { policies, budgets: BUDGETS.to_vec(), every: 16, seed: 1 };
    let agreement = Agreement::new(&real, (1..4).map(|seed| stand_in(&model, &real, seed)), &plan, &|| ()).unwrap();
    for cell in agreement.cells.iter().filter(|c| c.layer.is_none() && c.measure == "row_tokens") {
        println!("{:?} {:?} {:+.3}", cell.policy, cell.at, cell.difference());
        assert!(cell.difference().abs() <= HELD, "{cell:?}: {}", cell.difference());
    }
    for order in agreement.orders.iter().filter(|o| o.layer.is_none() && o.measure == "top_recall") {
        assert!(order.swapped.iter().all(|(_, _, apart, _)| *apart <= 0.02), "{order:?}");
    }
}

/// Statistics of a model's other layers make a cache whose rows are those of held-back layers, and whose policies come in
/// the same order. docs/synthetic.md has all policies, budgets and splits, and what no statistics of other layers foretell:
/// how far the best tokens of a layer lie apart.
#[test]
#[ignore = "needs golden results, which do not ship: make test-golden"]
fn statistics_of_other_layers_foretell_the_rows_of_those_held_back() {
    let folder = golden("kv");
    let kv = load(&folder);
    let options = |layers: &[u32]| FitOptions {
        layers: layers.to_vec(),
        model_layers: Some(30),
        rotation: ROTATION,
        ..FitOptions::default()
    };
    let agreement = |fitted: &[u32], held: &[u32], policies: &[&'static str]| {
        let model = fit(&kv, &options(fitted)).unwrap();
        let real = layers_of(&kv, held).unwrap();
        let plan = AgreementPlan { policies: policies.to_vec(), budgets: BUDGETS.to_vec(), every: 32, seed: 1 };
        Agreement::new(&real, (1..4).map(|seed| stand_in(&model, &real, seed)), &plan, &|| ()).unwrap()
    };
    let held = agreement(&[2, 16, 29], &[9, 23], &["starc", "quest", "streaming", "full"]);
    let own = agreement(&[9, 23], &[9, 23], &["oracle", "sparq", "starc", "quest"]);
    for (agreement, tolerance) in [(&held, HELD), (&own, OWN)] {
        // Within 128 tokens, the few sinks of layer 9 decide, and where they happen to lie.
        let decided = |c: &&AgreementFigure| c.measure == "row_tokens" && (tolerance == HELD || c.at > Some(128));
        for cell in agreement.cells.iter().filter(|c| c.layer.is_none()).filter(decided) {
            println!("{:?} {:?} {:+.3}", cell.policy, cell.at, cell.difference());
            assert!(cell.difference().abs() <= tolerance, "{cell:?}: {}", cell.difference());
        }
    }
    for order in own.orders.iter().filter(|o| o.layer.is_none() && o.measure == "top_recall") {
        assert!(order.swapped.is_empty(), "{order:?}");
    }
}
