//! What the stages of `tracegen run` take of one core on a dump of 1 GiB: 8 layers of 8 KV heads and 32 query heads, 32,768 tokens of 128
//! elements in f16, 8 decode steps, a budget of 1,024 tokens. The dump is synthetic, and written for the occasion to the folder of
//! temporary files.

#[allow(dead_code, reason = "each benchmark uses a part")]
mod common;

use common::{everything, thread_seconds};
use pimattn::kv::dump::{self, DumpType};
use pimattn::kv::{self, synthetic};
use pimattn::tracegen::generate::Selections;
use pimattn::{Cancel, Generator, KvCache, Record, Result, Sink, SyntheticSpec, Workload, systems};
use std::path::Path;

fn spec() -> SyntheticSpec {
    SyntheticSpec { layers: 8, prefill: 32_760, decode_steps: 8, ..SyntheticSpec::default() }
}

/// Counts the records of a trace.
#[derive(Default)]
struct RecordCount(u64);

impl Sink for RecordCount {
    fn push(&mut self, _: Record) -> Result<()> {
        self.0 += 1;
        Ok(())
    }
    fn finish(&mut self) -> Result<()> {
        Ok(())
    }
}

fn main() {
    if !everything() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder of temporary files");
    let path = folder.path().join("dump.safetensors");
    let drawn = synthetic::generate(&spec()).expect("a valid specification");
    dump::save(&Cancel::new(), &drawn, &path, DumpType::F16, &[]).expect("room for a dump of 1 GiB");
    drop(drawn);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().expect("a thread");
    pool.install(|| stages(&path)).expect("a run of a good dump");
}

fn timed<T>(work: impl FnOnce() -> Result<T>) -> Result<(T, f64)> {
    let start = thread_seconds();
    let made = work()?;
    Ok((made, thread_seconds() - start))
}

fn stages(path: &Path) -> Result<()> {
    println!("A dump of 1 GiB, 8 steps, processor time of one thread (s):");
    let line = |name: &str, seconds: f64| println!("{name:60} {seconds:7.3}");
    let (cache, load) = timed(|| kv::load(path))?;
    line("opened: read, checked and hashed", load);
    let rows = |cache: &KvCache| -> Result<f32> {
        let mut sum = 0.0;
        for (layer, head) in (0..cache.layers.len()).flat_map(|l| (0..cache.kv_heads).map(move |h| (l, h))) {
            sum += cache.read_keys(layer, head)?.rows().data[0];
        }
        Ok(sum)
    };
    let (_, read) = timed(|| rows(&cache))?;
    line("keys read again, head by head", read);
    let cancel = Cancel::new();
    for policy in ["quest", "starc"] {
        let workload = Workload::new(policy, 1024);
        let mut generator = Generator::new(systems::load("hbm3-pim")?, workload, cache.clone())?;
        let select = |measure| timed(|| generator.select(&cancel, measure, &|_| {}));
        let (_, selecting): (Selections, f64) = select(false)?;
        let (selections, measuring) = select(true)?;
        generator.reuse(selections)?;
        let mut count = RecordCount::default();
        let ((), mapping) = timed(|| generator.run(&mut count, None, &mut |_| {}))?;
        let whole = load + selecting + mapping;
        line(&format!("{policy}: selected, with its keys read"), selecting);
        line(&format!("{policy}: mapped, {} records", count.0), mapping);
        line(&format!("{policy}: accuracy of every step, values read"), measuring - selecting);
        for (stage, seconds) in [("opening", load), ("selecting", selecting), ("mapping", mapping)] {
            println!("    {:4.0} % of {whole:.3} s without accuracy: {stage}", 100.0 * seconds / whole);
        }
    }
    Ok(())
}
