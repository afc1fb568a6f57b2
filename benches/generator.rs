//! Clustering and selection of a layer of 8 KV heads (32 query heads) with 32,768 keys of 128 elements, on one core; then
//! the fast versions beside the plain ones. The ratios matter, not the clock.

#[allow(dead_code, reason = "each benchmark uses a part")]
mod common;

use common::{least_seconds, ratio};
use divan::Bencher;
use pimattn_core::cancel::Cancel;
use pimattn_kv::synthetic::{SyntheticSpec, generate};
use pimattn_kv::{KvCache, KvView, Rows};
use pimattn_policies::accuracy::exact_scores;
use pimattn_policies::cluster::{Config, Means, Precision, Start, TOLERANCE, kmeans::KMeans, plain};
use pimattn_policies::select::clusterkv::ClusterKv;
use pimattn_policies::select::infinigen::Infinigen;
use pimattn_policies::select::sparq::Sparq;
use pimattn_policies::select::{self, HeadView, Policy, REGISTRY, StepView};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use std::sync::OnceLock;

const KV_HEADS: usize = 8;
const GROUP: usize = 4;
const BUDGET: usize = 1024;

fn main() {
    divan::main();
    if common::everything() {
        processor_time();
        ratios();
    }
}

fn cache(kv_heads: usize, prefill: usize) -> KvCache {
    let spec = SyntheticSpec {
        layers: 1,
        kv_heads,
        query_heads: kv_heads * GROUP,
        dim: 128,
        prefill,
        decode_steps: 1,
        ..Default::default()
    };
    generate(&spec).and_then(|cache| cache.in_memory(&Cancel::new())).expect("a valid specification")
}

/// The layer, with one decode step.
fn layer() -> KvView<'static> {
    static LAYER: OnceLock<KvCache> = OnceLock::new();
    LAYER.get_or_init(|| cache(KV_HEADS, 32 * 1024)).view().expect("in memory")
}

/// Keys of the prefill.
fn prefill<'c>(cache: &KvView<'c>, head: usize) -> Rows<'c> {
    cache.keys(0, head).range(0..cache.prefill)
}

const STARC: Config = Config {
    clusters: 4,
    max_iterations: 16,
    tolerance: TOLERANCE,
    start: Start::First,
    means: Means::Unit,
    precision: Precision::F32,
};

/// As starc-v1 has it.
fn starc_v1(keys: usize) -> Config {
    Config { clusters: keys / 32, max_iterations: 15, start: Start::PlusPlus, ..STARC }
}

fn rng() -> ChaCha8Rng {
    ChaCha8Rng::seed_from_u64(1)
}

fn blocks(keys: Rows<'_>) -> impl Iterator<Item = Rows<'_>> {
    (0..keys.len() / 64).map(move |b| keys.range(b * 64..(b + 1) * 64))
}

/// Clusters the layer in blocks.
fn starc_layer(kmeans: &mut KMeans) {
    for head in 0..KV_HEADS {
        blocks(prefill(&layer(), head)).for_each(|b| kmeans.fit(b.data, b.dim, &STARC, &mut rng()));
    }
}

/// Clusters the layer, each head as a whole.
fn starc_v1_layer(kmeans: &mut KMeans) {
    for head in 0..KV_HEADS {
        let keys = prefill(&layer(), head);
        kmeans.fit(keys.data, keys.dim, &starc_v1(keys.len()), &mut rng());
    }
}

#[divan::bench(sample_count = 20)]
fn cluster_starc(bencher: Bencher<'_, '_>) {
    let mut kmeans = KMeans::default();
    layer();
    bencher.bench_local(|| starc_layer(&mut kmeans));
}

#[divan::bench(sample_count = 2, sample_size = 1)]
fn cluster_starc_v1(bencher: Bencher<'_, '_>) {
    let mut kmeans = KMeans::default();
    layer();
    bencher.bench_local(|| starc_v1_layer(&mut kmeans));
}

/// Of the clusters of the whole prefill, how good they are does not matter to selecting.
fn build(name: &str) -> Box<dyn Policy> {
    let quickly = name == "clusterkv" || name == "starc-v1";
    let table = if quickly { "max_iterations = 1\nstart = \"first\"" } else { "" };
    let entry = REGISTRY.iter().find(|e| e.name == name).expect("a registered policy");
    (entry.build)(&table.parse().expect("a table")).expect("valid parameters")
}

fn view<'c>(cache: &KvView<'c>, head: usize) -> HeadView<'c> {
    HeadView {
        keys: cache.keys(0, head),
        prefill: cache.prefill,
        queries: cache.group_queries(0, head),
        query_start: cache.query_start,
        seed: 1,
        memo: None,
    }
}

/// Queries of the last token, of the query heads that share a KV head.
fn queries<'c>(cache: &KvView<'c>, head: usize) -> Vec<&'c [f32]> {
    let last = cache.tokens - 1 - cache.query_start;
    (head * GROUP..(head + 1) * GROUP).map(|h| cache.queries(0, h).row(last)).collect()
}

/// A decode step of the layer. The scores of `oracle` are part of it: no accuracy metrics have computed them before.
fn step(name: &str) -> impl FnMut() {
    let (cache, policy) = (layer(), build(name));
    let head = |h| (policy.prepare(view(&cache, h)), cache.keys(0, h), queries(&cache, h));
    let mut heads: Vec<_> = (0..KV_HEADS).map(head).collect();
    let mut out = vec![Vec::new(); GROUP];
    let mut step = move || {
        for (state, keys, queries) in &mut heads {
            state.grow(*keys);
            let step = StepView { keys: *keys, budget: BUDGET, queries, layer_queries: queries, scores: &[] };
            state.select(step, &mut out);
        }
    };
    // What a first step does once for all is not a step's.
    step();
    step
}

#[divan::bench(args = REGISTRY.iter().map(|e| e.name), sample_count = 40)]
fn select_32k(bencher: Bencher<'_, '_>, name: &str) {
    bencher.bench_local(step(name));
}

/// The same in processor time, which other processes disturb less.
fn processor_time() {
    println!("\nThe layer, processor time of one thread, least of 5 clusterings (starc-v1: 2) or 100 steps:");
    let line = |name: &str, seconds: f64| println!("{name:44} {:9.3} ms", seconds * 1e3);
    let mut kmeans = KMeans::default();
    line("clustering, starc", least_seconds(5, || starc_layer(&mut kmeans)));
    line("clustering, starc-v1", least_seconds(2, || starc_v1_layer(&mut kmeans)));
    for entry in REGISTRY {
        line(&format!("selection, {}", entry.name), least_seconds(100, step(entry.name)));
    }
}

/// A prefill that the plain versions can bear.
const FEW: usize = 4096;

fn ratios() {
    let cache = cache(1, FEW);
    let cache = cache.view().expect("in memory");
    let keys = prefill(&cache, 0);
    println!("\nOne KV head of {FEW} keys, a group of {GROUP} query heads:");
    let mut kmeans = KMeans::default();
    ratio(
        "K-means, blocks of 64 (starc)",
        || blocks(keys).map(|b| plain::kmeans(b.data, b.dim, &STARC, &mut rng()).iterations).sum::<usize>(),
        || blocks(keys).for_each(|b| kmeans.fit(b.data, b.dim, &STARC, &mut rng())),
    );
    let whole = starc_v1(FEW);
    ratio(
        "K-means, all keys (starc-v1)",
        || plain::kmeans(keys.data, keys.dim, &whole, &mut rng()),
        || kmeans.fit(keys.data, keys.dim, &whole, &mut rng()),
    );

    let queries = queries(&cache, 0);
    let all = cache.keys(0, 0);
    let step = StepView { keys: all, budget: FEW / 32, queries: &queries, layer_queries: &queries, scores: &[] };
    let mut scores = vec![Vec::new(); GROUP];
    ratio(
        "scores of all tokens",
        || queries.iter().map(|q| all.data.chunks_exact(all.dim).map(|k| in_order(q, k)).sum::<f32>()).sum::<f32>(),
        || exact_scores(all, step.tokens(), &queries, &mut scores),
    );
    let select = |name: &str, plain: &mut dyn FnMut() -> Vec<Vec<u32>>| {
        let policy = build(name);
        let mut state = policy.prepare(view(&cache, 0));
        state.grow(all);
        let mut out = vec![Vec::new(); GROUP];
        state.select(step, &mut out);
        assert_eq!(plain(), out, "{name}: the versions differ");
        ratio(&format!("selection, {name}"), plain, || state.select(step, &mut out));
    };
    select("oracle", &mut || {
        let score =
            |q: &[f32]| all.data.chunks_exact(all.dim).map(|k| pimattn_kv::linalg::dot(q, k)).collect::<Vec<f32>>();
        queries.iter().map(|q| first(select::plain::ranking(&score(q)), step.budget)).collect()
    });
    select("sparq", &mut || select::plain::sparq(&Sparq::default(), all, step).tokens);
    select("infinigen", &mut || select::plain::infinigen(&Infinigen::default(), &[(view(&cache, 0), step)]).remove(0));
    let clusterkv = ClusterKv { max_iterations: 1, start: Start::First, ..ClusterKv::default() };
    let clusters = select::plain::clusterkv(&clusterkv, view(&cache, 0));
    select("clusterkv", &mut || clusters.select(step));
}

fn in_order(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).fold(0.0, |sum, (x, y)| sum + x * y)
}

fn first(mut ranking: Vec<usize>, count: usize) -> Vec<u32> {
    ranking.truncate(count);
    ranking.sort_unstable();
    ranking.into_iter().map(|t| t as u32).collect()
}
