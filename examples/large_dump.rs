//! Writes a large KV dump for measurements: a synthetic cache in f16, of any size, drawn head by head; or, with `--zeros`, one of zeros,
//! which takes no room on a disk that keeps files with holes.
//!
//! `cargo run --release --example large_dump -- DUMP.safetensors [KEY=VALUE ...] [--zeros]`; a KEY is one of `[synthetic]`
//! (docs/synthetic.md), without any: 8 layers of 8 KV heads and 32 query heads, 32,760 tokens of prefill and 8 steps, a dump of 1 GiB.

use pimattn::kv::dump::{self, DumpType};
use pimattn::kv::synthetic::generate;
use pimattn::{Cancel, Error, KvCache, Result, SyntheticSpec};
use std::fs::File;
use std::path::Path;

fn main() -> Result<()> {
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    let zeros = arguments.iter().any(|a| a == "--zeros");
    arguments.retain(|a| a != "--zeros");
    let Some((path, keys)) = arguments.split_first() else {
        return Err(Error::Usage("DUMP.safetensors [KEY=VALUE ...] [--zeros]".into()));
    };
    let wrong = |e: toml::de::Error| Error::Usage(e.message().into());
    let mut table = toml::Table::new();
    for (key, value) in [("layers", 8), ("prefill", 32_760), ("decode_steps", 8)] {
        table.insert(key.into(), toml::Value::Integer(value));
    }
    for key in keys {
        table.extend(key.parse::<toml::Table>().map_err(wrong)?);
    }
    let spec: SyntheticSpec = table.try_into().map_err(wrong)?;
    spec.validate()?;
    let path = Path::new(path);
    match zeros {
        true => write_zeros(&spec, path),
        false => {
            let cancel = Cancel::new();
            let cache: KvCache = generate(&spec)?;
            dump::save(&cancel, &cache, path, DumpType::F16, &[])
        }
    }
}

/// The head of a dump, and a hole behind it.
fn write_zeros(spec: &SyntheticSpec, path: &Path) -> Result<()> {
    let SyntheticSpec { layers, kv_heads, query_heads, dim, prefill, decode_steps, .. } = *spec;
    let tokens = prefill + decode_steps;
    let kv = layers * kv_heads * tokens * dim * 2;
    let q = layers * query_heads * decode_steps * dim * 2;
    let tensor = |name: &str, heads: usize, rows: usize, begin: usize, end: usize| {
        format!(
            "\"{name}\":{{\"dtype\":\"F16\",\"shape\":[{layers},{heads},{rows},{dim}],\"data_offsets\":[{begin},{end}]}}"
        )
    };
    let header = format!(
        "{{\"__metadata__\":{{\"prefill_len\":\"{prefill}\"}},{},{},{}}}",
        tensor("k", kv_heads, tokens, 0, kv),
        tensor("q", query_heads, decode_steps, kv, kv + q),
        tensor("v", kv_heads, tokens, kv + q, 2 * kv + q)
    );
    let head = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes()].concat();
    let io = |e| Error::io(path, e);
    std::fs::write(path, &head).map_err(io)?;
    let file = File::options().write(true).open(path).map_err(io)?;
    file.set_len((head.len() + 2 * kv + q) as u64).map_err(io)
}
