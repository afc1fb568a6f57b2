//! Clustering and selection: the fast K-means beside the plain one, and each policy's decode step on a synthetic head.

use divan::Bencher;
use pimattn::cluster::{Config, Start, kmeans::KMeans, plain};
use pimattn::kv::synthetic::{SyntheticSpec, generate};
use pimattn::kv::{KvCache, Rows};
use pimattn::select::{HeadView, REGISTRY, StepView};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

fn main() {
    divan::main();
}

fn cache() -> KvCache {
    let spec = SyntheticSpec {
        layers: 1,
        kv_heads: 1,
        query_heads: 4,
        dim: 128,
        prefill: 8192,
        decode_steps: 1,
        ..Default::default()
    };
    generate(&spec).expect("a valid specification")
}

const STARC: Config = Config { clusters: 4, max_iterations: 16, start: Start::First };

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

#[divan::bench(args = ["streaming", "quest", "starc", "oracle"])]
fn select(bencher: Bencher<'_, '_>, name: &str) {
    let cache = cache();
    let entry = REGISTRY.iter().find(|e| e.name == name).expect("a registered policy");
    let policy = (entry.build)(&toml::Table::new()).expect("defaults are valid");
    let mut state = policy.prepare(HeadView { keys: cache.keys(0, 0), prefill: cache.prefill, seed: 1 });
    let len = cache.prefill + 1;
    state.grow(len);
    let queries: Vec<&[f32]> = (0..4).map(|h| cache.queries(0, h).row(0)).collect();
    let mut scores = vec![Vec::new(); 4];
    pimattn::accuracy::exact_scores(cache.keys(0, 0), len, &queries, &mut scores);
    let mut out = vec![Vec::new(); 4];
    bencher.bench_local(|| state.select(StepView { len, budget: 512, queries: &queries, scores: &scores }, &mut out));
}
