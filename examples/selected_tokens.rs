//! The tokens that a policy selects on a KV cache, one line per query head and step, to be set beside those of another
//! implementation.
//!
//! `cargo run --example selected_tokens -- POLICY BUDGET [EVERY [KEY=VALUE ...]] [--kv DUMP]`: of every EVERY-th decode step;
//! KEY is one of the policy's own, VALUE as in a workload file. Columns: layer (of the model), query head, position,
//! tokens. docs/policies-agreement.md says what was compared with it.

use pimattn::{Cancel, Error, HeadView, Result, StepView, kv};
use pimattn_policies::select;

fn main() -> Result<()> {
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    let mut dump = concat!(env!("CARGO_MANIFEST_DIR"), "/traces/smollm2-135m-rustbook-cut.safetensors").to_string();
    if let Some(at) = arguments.iter().position(|a| a == "--kv") {
        dump = arguments.drain(at..arguments.len().min(at + 2)).nth(1).unwrap_or_default();
    }
    let usage = |what: &str| Error::Usage(format!("{what}; POLICY BUDGET [EVERY [KEY=VALUE ...]] [--kv DUMP]"));
    let number = |at: usize, default: usize| match arguments.get(at) {
        None => Ok(default),
        Some(text) => text.parse().ok().filter(|n| *n > 0).ok_or_else(|| usage(&format!("\"{text}\" is no number"))),
    };
    let name = arguments.first().map_or("quest", String::as_str);
    let (budget, every) = (number(1, 256)?, number(2, 64)?);
    let table = arguments.iter().skip(3).fold(String::new(), |table, key| table + key + "\n");
    let table: toml::Table = table.parse().map_err(|e| usage(&format!("{e}")))?;
    let entry = select::find(name).map_err(|e| usage(&e))?;
    let policy = (entry.build)(&table).map_err(|e| usage(&e.to_string()))?;

    let cache = kv::load(dump)?.in_memory(&Cancel::new())?;
    let cache = cache.view()?;
    for (layer, of_model) in cache.layers.iter().enumerate() {
        let view = |head| HeadView {
            keys: cache.keys(layer, head),
            prefill: cache.prefill,
            queries: cache.group_queries(layer, head),
            query_start: cache.query_start,
            seed: 1,
            memo: None,
        };
        let views: Vec<HeadView<'_>> = (0..cache.kv_heads).map(view).collect();
        let mut states = policy.prepare_layer(&views);
        for position in cache.decode_positions() {
            let layer_queries = cache.queries_at(layer, position);
            for (kv_head, state) in states.iter_mut().enumerate() {
                let keys = cache.keys(layer, kv_head).range(0..position + 1);
                let queries = &layer_queries[kv_head * cache.group()..][..cache.group()];
                let mut selected = vec![Vec::new(); queries.len()];
                state.grow(keys);
                // A step that is not shown may be what a later one rests on.
                let step = StepView { keys, budget, queries, layer_queries: &layer_queries, scores: &[] };
                state.select(step, &mut selected);
                if (position - cache.prefill) % every > 0 {
                    continue;
                }
                for (g, tokens) in selected.iter().enumerate() {
                    let tokens: Vec<String> = tokens.iter().map(u32::to_string).collect();
                    println!("{of_model},{},{position},{}", kv_head * cache.group() + g, tokens.join(" "));
                }
            }
        }
    }
    Ok(())
}
