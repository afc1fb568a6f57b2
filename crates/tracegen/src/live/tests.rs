use super::*;
use crate::generate::Generator;
use pimattn_kv::synthetic::{SyntheticSpec, generate as synthetic};
use pimattn_trace::MemoryTrace;
use std::path::PathBuf;

const PREFILL: usize = 200;
const STEPS: usize = 70;

fn cache() -> KvCache {
    let spec = SyntheticSpec {
        layers: 2,
        kv_heads: 2,
        query_heads: 4,
        dim: 16,
        prefill: PREFILL,
        decode_steps: STEPS,
        ..SyntheticSpec::default()
    };
    synthetic(&spec).unwrap()
}

fn document(workload: &Workload) -> Document {
    Document::of_table("workload", toml::Table::try_from(workload).unwrap())
}

fn shape(cache: &KvCache) -> LiveShape {
    let KvCache { layers, kv_heads, query_heads, dim, element_bytes, .. } = cache;
    LiveShape {
        layers: layers.clone(),
        kv_heads: *kv_heads,
        query_heads: *query_heads,
        dim: *dim,
        element_bytes: *element_bytes,
    }
}

/// Decodes a cache as a model would; the outputs by step and layer.
fn decode(cache: &KvCache, live: &mut LiveDecode) -> Vec<Vec<f32>> {
    let cache = cache.view().unwrap();
    let mut outputs = Vec::new();
    let early = cache.prefill - cache.query_start;
    let layers = || cache.layers.iter().copied().enumerate();
    for (at, layer) in layers() {
        let prefill = |head: Rows<'_>| head.data[..cache.prefill * cache.dim].to_vec();
        let keys: Vec<f32> = (0..cache.kv_heads).flat_map(|head| prefill(cache.keys(at, head))).collect();
        let values: Vec<f32> = (0..cache.kv_heads).flat_map(|head| prefill(cache.values(at, head))).collect();
        let first = |head| cache.queries(at, head).data[..early * cache.dim].to_vec();
        let queries: Vec<f32> = (0..cache.query_heads).flat_map(first).collect();
        live.prefill(layer, &keys, &values, &queries).unwrap();
    }
    for position in cache.decode_positions() {
        for (at, layer) in layers() {
            let key: Vec<f32> = (0..cache.kv_heads).flat_map(|h| cache.keys(at, h).row(position).to_vec()).collect();
            let value: Vec<f32> =
                (0..cache.kv_heads).flat_map(|h| cache.values(at, h).row(position).to_vec()).collect();
            let queries = cache.queries_at(at, position).concat();
            let mut out = vec![f32::NAN; queries.len()];
            live.step(layer, &key, &value, &queries, &mut out).unwrap();
            outputs.push(out);
        }
    }
    outputs
}

/// What a policy keeps of a cache is the same whether a model decodes it or it is read from a dump.
#[test]
fn a_model_that_decodes_selects_as_a_run_of_its_dump() {
    let mut cache = cache();
    // Some queries of the prefill, which h2o and infinigen prepare from.
    cache.prefill += 20;
    let system = pimattn_core::spec::System::load(
        &PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../configs/system/hbm3-pim.toml"),
        &[],
    )
    .unwrap();
    for entry in select::REGISTRY {
        let workload = Workload { dense_layers: 1, ..Workload::new(entry.name, 128) };
        let doc = document(&workload);
        let mut live = LiveDecode::new(workload.clone(), doc.clone(), shape(&cache)).unwrap();
        decode(&cache, &mut live);
        let decoded = live.cache(&cache.provenance).unwrap();
        for (tensor, [a, b]) in
            [("k", [&decoded.k, &cache.k]), ("v", [&decoded.v, &cache.v]), ("q", [&decoded.q, &cache.q])]
        {
            assert!(a == b, "{}: {tensor}", entry.name);
        }

        let cached = Arc::new(CacheSet::new(vec![cache.clone()], vec![0]).unwrap());
        let generator = Generator::load_on(&cached, system.clone(), workload, &doc, None).unwrap();
        let mut rows = Vec::new();
        let mut keep = |row: &MetricsRow| {
            rows.push(row.clone());
            Ok(())
        };
        let mut trace = MemoryTrace::new(generator.header().clone());
        generator.run(&mut trace, Some(&mut keep), &mut |_| ()).unwrap();
        assert_eq!(rows.len(), 50 * 2 * 4);
        assert_eq!(live.metrics(&cached).unwrap(), rows, "{}", entry.name);
    }
}

/// In full, and for a selection by hand, in the order of a plain sum.
#[test]
fn outputs_are_attention_over_what_is_selected() {
    let cache = cache();
    for (policy, budget) in [("full", 1), ("streaming", 32)] {
        let workload = Workload::new(policy, budget);
        let doc = document(&workload);
        let mut live = LiveDecode::new(workload, doc, shape(&cache)).unwrap();
        let outputs = decode(&cache, &mut live);
        let cache = cache.view().unwrap();
        for (i, out) in outputs.iter().enumerate() {
            let (position, layer) = (cache.decode_positions().start + i / 2, i % 2);
            for (head, out) in out.chunks_exact(cache.dim).enumerate() {
                let (keys, values) = (cache.keys(layer, head / 2), cache.values(layer, head / 2));
                let query = cache.queries_at(layer, position)[head];
                let selected = |t: &usize| policy == "full" || *t < 4 || *t + 28 > position;
                let weight = |t: usize| {
                    let score: f64 = query.iter().zip(keys.row(t)).map(|(q, k)| f64::from(*q) * f64::from(*k)).sum();
                    (score / (cache.dim as f64).sqrt()).exp()
                };
                let tokens: Vec<usize> = (0..=position).filter(selected).collect();
                let mass: f64 = tokens.iter().map(|t| weight(*t)).sum();
                for (d, out) in out.iter().enumerate() {
                    let sum: f64 = tokens.iter().map(|t| weight(*t) * f64::from(values.row(*t)[d])).sum();
                    assert!((sum / mass - f64::from(*out)).abs() < 1e-4, "{policy} {position} {head} {d}");
                }
            }
        }
    }
}

#[test]
fn what_does_not_fit_is_refused_with_its_layer() {
    let cache = cache();
    let new = |budget, layers: Vec<u32>| {
        let workload = Workload::new("quest", budget);
        let doc = document(&workload);
        LiveDecode::new(workload, doc, LiveShape { layers, ..shape(&cache) })
    };
    assert!(new(8, vec![0]).err().unwrap().to_string().contains("budget 8 is below the 48 tokens"));
    assert!(new(64, vec![1, 0]).err().unwrap().to_string().contains("ascending"));
    let mut live = new(64, vec![3]).unwrap();
    let has = |result: Result<()>, what: &str| {
        let said = result.unwrap_err().to_string();
        assert!(said.contains(what), "{said}");
    };
    let (kv, q) = (vec![0.0; 32], vec![0.0; 64]);
    let mut out = vec![0.0; 64];
    has(live.step(3, &kv, &kv, &q, &mut out), "layer 3 has no prefill");
    has(live.prefill(2, &kv, &kv, &[]), "no layer 2");
    has(live.prefill(3, &kv, &kv[..16], &[]), "values of layer 3");
    has(live.prefill(3, &kv, &vec![0.0; 64], &[]), "as many tokens");
    has(live.prefill(3, &kv, &[f32::NAN; 32], &[]), "finite");
    live.prefill(3, &kv, &kv, &[]).unwrap();
    has(live.prefill(3, &kv, &kv, &[]), "already");
    has(live.step(3, &kv, &kv, &kv, &mut out), "queries of 4");
    assert!(live.cache("x").unwrap_err().to_string().contains("no token"));
}
