//! K-means of `starc-v1` beside that of other libraries: `cargo bench --bench kmeans -- DIR` writes the keys to `DIR/keys.npy`,
//! times this library on them, and writes that to `DIR/ours.json`; `tools/compare_kmeans.py DIR` does the rest.
//!
//! A layer of 8 KV heads with 32,768 keys of 128 elements each, normalised and shuffled; the first 1,024 keys of a head are
//! its first centroids; 15 iterations, one thread.

#[allow(dead_code, reason = "each benchmark uses a part")]
mod common;

use common::least_seconds;
use pimattn_core::cancel::Cancel;
use pimattn_kv::linalg;
use pimattn_kv::synthetic::{SyntheticSpec, generate};
use pimattn_policies::cluster::{Config, Start, kmeans::KMeans};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use std::path::Path;

const HEADS: usize = 8;
const KEYS: usize = 32 * 1024;
const DIM: usize = 128;
const ITERATIONS: usize = 15;

fn main() -> std::io::Result<()> {
    let Some(dir) = std::env::args().skip(1).find(|arg| !arg.starts_with("--")) else {
        println!("kmeans: give a folder to write to (cargo bench --bench kmeans -- DIR); nothing done");
        return Ok(());
    };
    let dir = Path::new(&dir);
    std::fs::create_dir_all(dir)?;
    let keys = keys();
    write_npy(&dir.join("keys.npy"), &keys)?;

    let config = |start| Config { clusters: KEYS / 32, max_iterations: ITERATIONS, start, ..Config::default() };
    let mut kmeans = KMeans::default();
    let mut layer = |start, runs| {
        least_seconds(runs, || {
            for keys in keys.chunks_exact(KEYS * DIM) {
                kmeans.fit(keys, DIM, &config(start), &mut ChaCha8Rng::seed_from_u64(1));
                assert_eq!(kmeans.iterations(), ITERATIONS, "stopped early: not comparable");
            }
        })
    };
    let seconds = layer(Start::First, 3);
    let seeded = layer(Start::PlusPlus, 2);
    let mut objective = 0.0;
    for keys in keys.chunks_exact(KEYS * DIM) {
        kmeans.fit(keys, DIM, &config(Start::First), &mut ChaCha8Rng::seed_from_u64(1));
        for (key, label) in keys.chunks_exact(DIM).zip(kmeans.labels()) {
            let centroid = &kmeans.centroids()[*label as usize * DIM..][..DIM];
            objective += key.iter().zip(centroid).map(|(x, c)| f64::from(x - c).powi(2)).sum::<f64>();
        }
    }
    let level = linalg::level();
    let json = format!(
        "{{\"seconds\": {seconds}, \"seconds_with_plus_plus\": {seeded}, \"objective\": {objective}, \
         \"iterations\": {ITERATIONS}, \"level\": \"{level:?}\"}}\n"
    );
    print!("{json}");
    std::fs::write(dir.join("ours.json"), json)
}

/// `[head, key, dim]`.
fn keys() -> Vec<f32> {
    let spec = SyntheticSpec {
        layers: 1,
        kv_heads: HEADS,
        query_heads: HEADS,
        dim: DIM,
        prefill: KEYS,
        decode_steps: 1,
        ..Default::default()
    };
    let cache = generate(&spec).and_then(|cache| cache.in_memory(&Cancel::new())).expect("a valid specification");
    let cache = cache.view().expect("in memory");
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let mut out = Vec::with_capacity(HEADS * KEYS * DIM);
    for head in 0..HEADS {
        let rows = cache.keys(0, head);
        let mut order: Vec<usize> = (0..KEYS).collect();
        for i in 0..KEYS {
            order.swap(i, i + (rng.next_u64() % (KEYS - i) as u64) as usize);
        }
        out.extend(order.into_iter().flat_map(|i| rows.row(i)));
    }
    out.chunks_exact_mut(DIM).for_each(linalg::normalize);
    out
}

fn write_npy(path: &Path, keys: &[f32]) -> std::io::Result<()> {
    let header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({HEADS}, {KEYS}, {DIM}), }}");
    // Magic, version and length take 10 bytes; the data begin at a multiple of 64.
    let length = (10 + header.len() + 1).next_multiple_of(64) - 10;
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend_from_slice(&(length as u16).to_le_bytes());
    bytes.extend_from_slice(format!("{header:<width$}\n", width = length - 1).as_bytes());
    bytes.extend(keys.iter().flat_map(|x| x.to_le_bytes()));
    std::fs::write(path, bytes)
}
