//! docs/synthetic.md, and traces/README.md.

use super::{prose, table, whole};
use crate::common::root;
use pimattn_kv as kv;
use pimattn_mapping::workload::Workload;
use pimattn_tracegen::generate::{Generator, MetricsRow};
use rayon::prelude::*;

/// The bundled sample's shape.
pub(super) fn sample(_: &str) -> String {
    let kv = kv::load(root().join("traces/smollm2-135m-rustbook-cut.safetensors")).unwrap();
    prose(&format!(
        "It has {} layers, {} KV heads, {} query heads, head dimension {}, {} bytes an element, {} tokens, of which {} are \
         prefill, and {} queries.",
        kv.layers.len(),
        kv.kv_heads,
        kv.query_heads,
        kv.dim,
        kv.element_bytes,
        whole(kv.tokens as u64),
        whole(kv.prefill as u64),
        kv.queries
    ))
}

/// Row tokens of `starc` on contexts beyond the dump's.
pub(super) fn long_contexts(_: &str) -> String {
    let row = |prefill: &u32| {
        let set = [format!("synthetic.prefill={prefill}"), "policy=starc".into()];
        let (workload, doc) = Workload::load(&root().join("configs/workload/fitted.toml"), &set).unwrap();
        let generator = Generator::load(workload, &doc, None).unwrap();
        let mut means = [(0.0, 0u32); 2];
        let mut sink = super::Trace { header: generator.header().clone(), records: Vec::new() };
        let mut add = |row: &MetricsRow| {
            for (mean, x) in means.iter_mut().zip([row.accuracy.row_tokens as f64, row.accuracy.top_recall]) {
                *mean = (mean.0 + x, mean.1 + 1);
            }
            Ok(())
        };
        generator.run(&mut sink, Some(&mut add), &mut |_| {}).unwrap();
        let mean = |i: usize| means[i].0 / f64::from(means[i].1);
        vec![whole(u64::from(*prefill)), whole(mean(0).round() as u64), format!("{:.3}", mean(1))]
    };
    let rows: Vec<Vec<String>> = [8192, 32_768, 131_072].par_iter().map(row).collect();
    table(&["tokens", "row tokens, starc at 1,024", "top-budget recall"], &[true, true, true], rows)
}
