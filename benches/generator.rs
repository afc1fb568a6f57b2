//! Clustering and selection: the fast K-means beside the plain one, and each policy's decode step on a synthetic head.

use divan::Bencher;
use pimattn::cluster::{Config, Start, TOLERANCE, kmeans::KMeans, plain};
use pimattn::kv::synthetic::{SyntheticSpec, generate};
use pimattn::kv::{KvCache, Rows};
use pimattn::select::{HeadView, REGISTRY, StepView};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

fn main() {
    divan::main();
}

fn spec() -> SyntheticSpec {
    SyntheticSpec {
        layers: 1,
        kv_heads: 1,
        query_heads: 4,
        dim: 128,
        prefill: 8192,
        decode_steps: 1,
        ..Default::default()
    }
}

fn cache() -> KvCache {
    generate(&spec()).expect("a valid specification")
}

const STARC: Config = Config { clusters: 4, max_iterations: 16, tolerance: TOLERANCE, start: Start::First };

fn blocks(keys: Rows<'_>) -> impl Iterator<Item = Rows<'_>> {
    (0..keys.len() / 64).map(move |b| keys.range(b * 64..(b + 1) * 64))
}

#[divan::bench]
fn starc_kmeans_fast(bencher: Bencher<'_, '_>) {
    let cache = cache();
    let mut kmeans = KMeans::default();
    bencher.bench_local(|| {
        blocks(cache.keys(0, 0)).for_each(|b| kmeans.fit(b.data, b.dim, &STARC, &mut ChaCha8Rng::seed_from_u64(1)));
    });
}

#[divan::bench]
fn starc_kmeans_plain(bencher: Bencher<'_, '_>) {
    let cache = cache();
    bencher.bench_local(|| {
        blocks(cache.keys(0, 0))
            .map(|b| plain::kmeans(b.data, b.dim, &STARC, &mut ChaCha8Rng::seed_from_u64(1)).iterations)
            .sum::<usize>()
    });
}

/// A decode step of a layer: 32 query heads, which share 8 KV heads of 32K tokens. (The KV heads have the same keys, but
/// each has a state of its own.)
#[divan::bench(args = REGISTRY.iter().map(|e| e.name))]
fn select_32k(bencher: Bencher<'_, '_>, name: &str) {
    let spec = SyntheticSpec { prefill: 32 * 1024, decode_steps: 1, ..spec() };
    let cache = generate(&spec).expect("a valid specification");
    let entry = REGISTRY.iter().find(|e| e.name == name).expect("a registered policy");
    // How good the clusters are does not matter to selecting.
    let quickly = name == "clusterkv" || name == "starc-v1";
    let table = if quickly { "max_iterations = 1\nstart = \"first\"" } else { "" };
    let policy = (entry.build)(&table.parse().expect("a table")).expect("valid parameters");
    let head = HeadView {
        keys: cache.keys(0, 0),
        prefill: cache.prefill,
        queries: cache.group_queries(0, 0),
        query_start: cache.query_start,
        seed: 1,
    };
    let mut states: Vec<_> = (0..8).map(|_| policy.prepare(head)).collect();
    let len = cache.prefill + 1;
    states.iter_mut().for_each(|state| state.grow(len));
    let queries: Vec<&[f32]> = (0..4).map(|h| cache.queries(0, h).row(len - 1 - cache.query_start)).collect();
    let mut scores = vec![Vec::new(); 4];
    pimattn::accuracy::exact_scores(cache.keys(0, 0), len, &queries, &mut scores);
    let mut out = vec![Vec::new(); 4];
    let step = StepView { len, budget: 1024, queries: &queries, scores: &scores };
    bencher.bench_local(|| states.iter_mut().for_each(|state| state.select(step, &mut out)));
}
