//! Dumps that are larger than memory, or change while they are read: programs go through them head by head, and say it where they
//! cannot.

use crate::common::{root, trace};
use pimattn::kv::safetensors;
use pimattn::{CacheSet, Cancel, Generator, KvCache, SyntheticSpec, Workload, kv, systems};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

/// A dump of zeros in f16, of which nothing but the head takes room on a disk: layers, KV heads and query heads of 128 elements, tokens
/// and decode steps.
fn sparse(path: &Path, [layers, kv_heads, query_heads, tokens, steps]: [u64; 5]) {
    let (kv, q) = (layers * kv_heads * tokens * 256, layers * query_heads * steps * 256);
    let header = format!(
        r#"{{"__metadata__":{{"prefill_len":"{}"}},
        "k":{{"dtype":"F16","shape":[{layers},{kv_heads},{tokens},128],"data_offsets":[0,{kv}]}},
        "q":{{"dtype":"F16","shape":[{layers},{query_heads},{steps},128],"data_offsets":[{},{}]}},
        "v":{{"dtype":"F16","shape":[{layers},{kv_heads},{tokens},128],"data_offsets":[{kv},{}]}}}}"#,
        tokens - steps,
        2 * kv,
        2 * kv + q,
        2 * kv
    );
    let head = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes()].concat();
    std::fs::write(path, &head).unwrap();
    let file = std::fs::File::options().write(true).open(path).unwrap();
    file.set_len(head.len() as u64 + 2 * kv + q).unwrap();
}

/// `tracegen run` with so much address space (MiB); its exit code and what it says.
fn tracegen_within(mib: u64, arguments: &[&str]) -> (Option<i32>, String) {
    let program = env!("CARGO_BIN_EXE_tracegen");
    let limited = format!("ulimit -v {} && exec \"$0\" \"$@\"", mib << 10);
    let out = Command::new("sh").args(["-c", &limited, program, "run"]).args(arguments).output().unwrap();
    (out.status.code(), String::from_utf8_lossy(&out.stderr).into_owned())
}

/// 32 layers of 8 KV heads with 131,072 tokens are 16 GiB in f16.
#[test]
#[cfg(unix)]
fn a_layer_of_a_dump_of_16_gib_is_run_within_a_gib() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("dump.safetensors");
    sparse(&path, [32, 8, 32, 131_072, 2]);
    assert!(path.metadata().unwrap().len() > 16 << 30);
    let config = root().join("configs/workload/demo.toml");
    let (config, path) = (config.to_str().unwrap(), path.to_str().unwrap());
    let out = folder.path().join("out.ptrace");
    let given = ["--config", config, "--kv", path, "--policy", "quest", "-q", "--threads", "2", "-o"];
    let run = |mib, layers: &str| {
        let layers = ["--layers", layers, "--set", "dense_layers=0"];
        tracegen_within(mib, &[&given[..], &[out.to_str().unwrap()], &layers[..]].concat())
    };
    assert_eq!(run(1024, "17"), (Some(0), String::new()));
    assert!(out.metadata().unwrap().len() > 1000);
    let (code, said) = run(1024, "32");
    assert_eq!(code, Some(78));
    assert!(said.contains("no layer 32; there are [0, 1, 2"), "{said}");
    let (code, said) = run(1024, "3-1");
    assert_eq!(code, Some(2), "{said}");
}

/// The same heads, whether the cache is in memory or is read from its dump.
#[test]
fn a_dump_that_stays_in_its_file_gives_the_same_run() {
    // Above what is taken into memory.
    let spec =
        SyntheticSpec { layers: 2, kv_heads: 8, query_heads: 16, prefill: 8200, decode_steps: 3, ..Default::default() };
    let stored = kv::synthetic::generate(&spec).unwrap();
    assert!(!stored.is_in_memory());
    let memory = stored.clone().in_memory(&Cancel::new()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("dump.safetensors");
    kv::dump::save(&Cancel::new(), &stored, &path, kv::dump::DumpType::F16, &[]).unwrap();
    let dump = safetensors::load(&Cancel::new(), &path).unwrap();
    assert!(!dump.is_in_memory());
    let one = |cache: &KvCache| cache.clone().only_layers(&[1]).unwrap();
    let (a, b) = (one(&memory), one(&dump));
    assert!(a.k == b.k && a.v == b.v && a.q == b.q && b.layers == [1]);
    let hash = |cache: &KvCache| CacheSet::new(vec![cache.clone()], vec![0]).unwrap().hash().to_string();
    assert_eq!([hash(&stored), hash(&dump)], [hash(&memory), hash(&memory)]);
    let system = systems::load("hbm3-pim").unwrap();
    for policy in ["quest", "infinigen", "h2o", "starc"] {
        let workload = || Workload { dense_layers: 1, ..Workload::new(policy, 256) };
        let run = |cache: &KvCache, threads: usize, spooled: bool| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let mut generator = Generator::new(system.clone(), workload(), cache.clone()).unwrap();
            if spooled {
                let made = pool.install(|| generator.select_within(&Cancel::new(), true, 0, &|_| {})).unwrap();
                let again = generator.selection(&made).unwrap().to_bytes().unwrap();
                let kept = generator.select(&Cancel::new(), true, &|_| {}).unwrap();
                assert!(again == generator.selection(&kept).unwrap().to_bytes().unwrap(), "{policy}");
                generator.reuse(made).unwrap();
            }
            let (records, rows) = pool.install(|| trace(&generator));
            (records, rows.into_iter().map(|row| format!("{:?}", row.accuracy)).collect::<Vec<_>>())
        };
        let expected = run(&memory, 2, false);
        assert!(run(&dump, 1, false) == expected && run(&stored, 7, false) == expected, "{policy}");
        assert!(run(&dump, 3, true) == expected, "{policy}, selections in a file");
    }
}

#[test]
fn a_dump_that_is_cut_while_it_is_read_is_an_error_that_names_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("dump.safetensors");
    sparse(&path, [1, 8, 16, 20_000, 2]);
    let cache = kv::load(&path).unwrap();
    let cached = Arc::new(CacheSet::new(vec![cache], vec![0]).unwrap());
    let generator =
        Generator::new(systems::load("hbm3-pim").unwrap(), Workload::new("quest", 64), cached.caches()[0].clone())
            .unwrap();
    let length = path.metadata().unwrap().len();
    std::fs::File::options().write(true).open(&path).unwrap().set_len(length / 2).unwrap();
    let e = generator.select(&Cancel::new(), false, &|_| {}).err().unwrap();
    assert!(matches!(e, pimattn::Error::Data { .. }), "{e}");
    assert!(e.to_string().contains("dump.safetensors: the file changed while it was read"), "{e}");
}

/// What would need more memory than there is ends in an error that says both, before the work begins.
#[test]
#[cfg(unix)]
fn work_that_does_not_fit_memory_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let place = |name: &str| folder.path().join(name).to_str().unwrap().to_string();
    let dump = place("dump.safetensors");
    sparse(Path::new(&dump), [1, 1, 4, 600_000, 2]);
    let demo = root().join("configs/workload/demo.toml");
    let fit = root().join("configs/synthetic/smollm2-135m.toml");
    let fitted = place("fitted.toml");
    let text = std::fs::read_to_string(&demo).unwrap();
    let text = text.replace("kv = \"../../traces/smollm2-135m-rustbook-cut.safetensors\"\n", "");
    let system = root().join("configs/system/hbm3-pim.toml");
    let text = text.replace("../system/hbm3-pim.toml", system.to_str().unwrap());
    std::fs::write(&fitted, format!("{text}\n[synthetic]\nfit = {fit:?}\nprefill = 2000\ndecode_steps = 2\n")).unwrap();
    let run = |config: &str, more: &[&str]| {
        let output = place("out.ptrace");
        tracegen_within(512, &[&["--config", config, "--threads", "2", "-q", "-o", &output], more].concat())
    };
    // The keys of a head are 293 MiB as f32, and a policy makes of them what it selects by.
    let (code, said) = run(demo.to_str().unwrap(), &["--kv", &dump, "--policy", "quest", "--set", "dense_layers=0"]);
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("what quest selects for 1 KV heads in 2 steps"), "{said}");
    assert!(said.contains(" MiB of memory are needed, and ") && said.contains(" MiB are available"), "{said}");
    for (set, at) in [
        ("synthetic.layers=4294967295", "synthetic.layers=4294967295: 4294967295 is out of range; expected 1 to 65536"),
        ("metrics.units=1000000000", "metrics.units = 1000000000 is not in 1..=65536"),
        ("batch.requests=65535", "the caches of 65535 requests: about "),
    ] {
        let (code, said) = run(&fitted, &["--set", set]);
        assert_eq!(code, Some(78), "{set}: {said}");
        assert!(said.contains(at), "{set}: {said}");
    }
    assert_eq!(run(&fitted, &[]), (Some(0), String::new()));
}
