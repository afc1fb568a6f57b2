//! Selections with wrong numbers in them end in an error or in a run, never in a panic.

use crate::common::{Keep, splitmix64};
use pimattn::kv::safetensors::SafetensorsFile;
use pimattn::mapping::workload::Workload;
use pimattn::{Cancel, Error, Generator, KvCache, Selection, SyntheticSpec, kv, systems};

fn cache() -> KvCache {
    let shape = SyntheticSpec {
        layers: 1,
        kv_heads: 2,
        query_heads: 4,
        dim: 32,
        prefill: 90,
        decode_steps: 9,
        ..SyntheticSpec::default()
    };
    kv::synthetic::generate(&shape).unwrap()
}

fn workload(policy: &str) -> Workload {
    let mut workload = Workload::new(policy, 24);
    let table = |text: &str| text.parse::<toml::Table>().unwrap();
    workload.policies.insert("starc".into(), table("block = 8\nclusters = 2"));
    workload.policies.insert("clusterkv".into(), table("sinks = 2\ncluster_size = 8\nwindow = 4\nwindow_clusters = 2"));
    workload.policies.insert("sparq".into(), table("r = 4\nlocal = 4"));
    workload.policies.insert("streaming".into(), table("positions = \"cache\""));
    workload
}

/// The bytes of what a policy selects, with all tables that it has.
fn saved(policy: &str, cache: &KvCache) -> Vec<u8> {
    let generator = Generator::new(systems::load("hbm3-pim").unwrap(), workload(policy), cache.clone()).unwrap();
    let selections = generator.select(&Cancel::new(), false, &|_| {}).unwrap();
    generator.selection(&selections).unwrap().to_bytes().unwrap()
}

/// Loads and runs bytes; whether they were a selection of the cache.
fn attempt(bytes: &[u8], cache: &KvCache) -> bool {
    let run = || {
        let selection = Selection::from_bytes("hostile", bytes)?;
        // Without a cache, too, nothing goes wrong.
        selection.tokens(0, 3, 8);
        let generator =
            Generator::with_selection(systems::load("hbm3-pim")?, workload("hostile"), cache.clone(), &selection)?;
        generator.run(&mut Keep::default(), Some(&mut |_| Ok(())), &mut |_| {})
    };
    match run() {
        Ok(()) => true,
        Err(Error::Data { .. } | Error::Config { .. } | Error::Check(_) | Error::Usage(_)) => false,
        Err(other) => panic!("another cause: {other:?}"),
    }
}

#[test]
fn a_selection_with_wrong_numbers_is_refused_or_run() {
    let cache = cache();
    let (mut run, mut refused) = (0, 0);
    for policy in ["starc", "clusterkv", "sparq", "infinigen", "streaming"] {
        let good = saved(policy, &cache);
        assert!(attempt(&good, &cache), "{policy}");
        let file = SafetensorsFile::parse(&good).unwrap();
        let head = 8 + u64::from_le_bytes(good[..8].try_into().unwrap()) as usize;
        // A number of each tensor in turn becomes another one: small, near the old one, or any.
        let spans: Vec<(usize, usize)> = file.names().iter().map(|name| file.span(name).unwrap()).collect();
        let mut state = 7;
        for round in 0..160 {
            let mut bytes = good.clone();
            for _ in 0..=round % 3 {
                let (first, end) = spans[splitmix64(&mut state) as usize % spans.len()];
                let at = head + first + splitmix64(&mut state) as usize % ((end - first) / 4) * 4;
                let old = u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
                let new = match splitmix64(&mut state) % 4 {
                    0 => splitmix64(&mut state) as u32,
                    1 => splitmix64(&mut state) as u32 % 128,
                    2 => old.wrapping_add(1),
                    _ => old.wrapping_sub(1),
                };
                bytes[at..at + 4].copy_from_slice(&new.to_le_bytes());
            }
            match attempt(&bytes, &cache) {
                true => run += 1,
                false => refused += 1,
            }
        }
        // The head of the file, bit by bit.
        for _ in 0..60 {
            let mut bytes = good.clone();
            let at = splitmix64(&mut state) as usize % head;
            bytes[at] ^= 1 << (splitmix64(&mut state) % 8);
            attempt(&bytes, &cache);
        }
        for end in (0..head + 64).step_by(37) {
            let _ = attempt(&good[..end], &cache);
        }
    }
    assert!(run > 50 && refused > 300, "{run} run, {refused} refused");
}
