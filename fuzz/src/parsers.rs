//! Everything that reads what somebody else has written. An error is an answer; what is read without one has to be usable.

use crate::file;
use pimattn::experiments::sweep::grid::Grid;
use pimattn::policies::selection::import::pages::{self, PageLogOptions};
use pimattn::report::accuracy::{AccuracyTable, Grouping};
use pimattn::report::cells::Cells;
use pimattn::report::compare::{CompareOptions, compare_files};
use pimattn::report::explain::Explanation;
use pimattn::report::frontier::Frontier;
use pimattn::report::sheet::Style;
use pimattn::report::summary::Summary;
use pimattn::{Document, KvCache, MemoryTrace, Model, Record, Selection, System};
use pimattn::{audit, kv, systems, trace};
use std::io::{Cursor, Read};
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock};

/// The system whose device inputs are for.
pub(crate) fn hbm3() -> &'static System {
    static SYSTEM: OnceLock<System> = OnceLock::new();
    SYSTEM.get_or_init(|| systems::load("hbm3-pim").expect("the preset"))
}

/// The records of a trace, if there are at most so many.
pub(crate) fn records(bytes: &[u8], most: usize) -> Option<(pimattn::Header, Vec<Record>)> {
    records_of(Box::new(Cursor::new(bytes.to_vec())), most)
}

fn records_of(input: Box<dyn Read + Send>, most: usize) -> Option<(pimattn::Header, Vec<Record>)> {
    let mut source = trace::open(input, "t.trace", Some(hbm3().addressing())).ok()?;
    let (mut all, mut block) = (Vec::new(), Vec::new());
    while source.next_block(&mut block).ok()? {
        for record in &block {
            trace::check(record, &source.header().geometry).expect("what a reader gives is a record");
        }
        all.append(&mut block);
        if all.len() > most {
            return None;
        }
    }
    Some((source.header().clone(), all))
}

/// A trace in any format; what was read is written as ptrace and read again.
pub fn trace(bytes: &[u8]) {
    let Some((header, all)) = records(bytes, 1 << 14) else { return };
    let memory = MemoryTrace::of(header.clone(), all);
    let out = SharedBytes::default();
    let format = &trace::ptrace::FORMAT;
    let mut sink = (format.create)(Box::new(out.clone()), &header, Default::default()).expect("a sink");
    memory.records().iter().try_for_each(|r| sink.push(*r)).expect("what was read can be written");
    sink.finish().expect("an end");
    let (again, records) = records(&out.bytes(), usize::MAX).expect("what was written can be read");
    assert_eq!((again.geometry, records.as_slice()), (header.geometry, memory.records()));
}

/// A trace in any format, on a system that reads a few bytes at a time, is interrupted in between, or fails; and to a disk that is full.
/// The first byte says how.
pub fn faults(bytes: &[u8]) {
    let Some((how, bytes)) = bytes.split_first() else { return };
    let whole = records(bytes, 1 << 12);
    let faulty =
        |fails_at| Box::new(FaultyInput { left: bytes.to_vec(), at: 0, size: 1 + usize::from(*how % 7), fails_at });
    let same = |a: &Option<(pimattn::Header, Vec<Record>)>, b: &Option<(pimattn::Header, Vec<Record>)>| {
        a.as_ref().map(|(_, records)| records) == b.as_ref().map(|(_, records)| records)
    };
    assert!(same(&records_of(faulty(usize::MAX), 1 << 12), &whole), "short reads change what is read");
    assert!(
        records_of(faulty(usize::from(*how) * bytes.len() / 256), 1 << 12).is_none(),
        "an error of a read is no end"
    );
    let Some((header, all)) = whole else { return };
    let room = usize::from(*how) * 16;
    let out = SharedBytes { room: Some(room), ..SharedBytes::default() };
    let format = &trace::FORMATS[usize::from(*how) % trace::FORMATS.len()];
    let Ok(mut sink) = (format.create)(Box::new(out.clone()), &header, Default::default()) else { return };
    let written = all.iter().try_for_each(|record| sink.push(*record)).and_then(|()| sink.finish());
    assert!(written.is_err() || !out.refused(), "what a full disk refused is said to be written");
}

/// An input in pieces, with interrupts in between, which fails at a byte.
struct FaultyInput {
    left: Vec<u8>,
    at: usize,
    size: usize,
    fails_at: usize,
}

impl Read for FaultyInput {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        self.size = self.size % 7 + 1;
        if self.at >= self.fails_at {
            return Err(std::io::Error::other("the disk is damaged here"));
        }
        if self.size == 3 {
            return Err(std::io::ErrorKind::Interrupted.into());
        }
        let read = buf.len().min(self.size).min(self.left.len() - self.at);
        buf[..read].copy_from_slice(&self.left[self.at..self.at + read]);
        self.at += read;
        Ok(read)
    }
}

/// Bytes that a writer owns and the caller looks at afterwards.
#[derive(Clone, Default)]
struct SharedBytes {
    bytes: Arc<Mutex<(Vec<u8>, bool)>>,
    /// Bytes that there is room for, if not for all.
    room: Option<usize>,
}

impl SharedBytes {
    fn bytes(&self) -> Vec<u8> {
        self.bytes.lock().expect("nobody panicked with it").0.clone()
    }

    /// Whether there was no room for all.
    fn refused(&self) -> bool {
        self.bytes.lock().expect("nobody panicked with it").1
    }
}

impl std::io::Write for SharedBytes {
    fn write(&mut self, buf: &[u8]) -> std::io::Result<usize> {
        let (bytes, refused) = &mut *self.bytes.lock().expect("nobody panicked with it");
        if self.room.is_some_and(|room| bytes.len() + buf.len() > room) {
            *refused = true;
            return Err(std::io::ErrorKind::StorageFull.into());
        }
        bytes.extend_from_slice(buf);
        Ok(buf.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A cache that was read is consistent: every head, step and query is where it has to be.
fn walk(cache: KvCache) {
    let Ok(cache) = cache.in_memory(&pimattn::Cancel::new()) else { return };
    let cache = cache.view().expect("all of it is in memory");
    for layer in 0..cache.layers.len() {
        for head in 0..cache.kv_heads {
            assert_eq!(cache.keys(layer, head).len(), cache.tokens);
            assert_eq!(cache.values(layer, head).len(), cache.tokens);
        }
        for head in 0..cache.query_heads {
            assert_eq!(cache.queries(layer, head).len(), cache.queries);
        }
    }
    assert!(cache.decode_positions().all(|position| position < cache.tokens));
}

/// A KV dump as safetensors.
pub fn safetensors(bytes: &[u8]) {
    if let Ok(cache) = kv::load(file("k.safetensors", bytes)) {
        walk(cache);
    }
}

/// A KV dump as npz.
pub fn npz(bytes: &[u8]) {
    if let Ok(cache) = kv::load(file("k.npz", bytes)) {
        walk(cache);
    }
}

/// A selection file; what was read is written and read again.
pub fn selection(bytes: &[u8]) {
    let Ok(selection) = Selection::from_bytes("s", bytes) else { return };
    let written = selection.to_bytes().expect("what was read can be written");
    let again = Selection::from_bytes("s", &written).expect("what was written can be read");
    assert_eq!(selection.hash(), again.hash());
}

/// A page log of LServe.
pub fn page_log(bytes: &[u8]) {
    let options =
        PageLogOptions { policy: "p".into(), page: 16, every: 4, group: 1, batch: None, unsaid: Some((2, 64)) };
    let _ = pages::import(&file("pages.csv", bytes), &options);
}

/// A log of commands.
pub fn log(bytes: &[u8]) {
    let path = file("commands.log", bytes);
    let _ = audit::audit(&path, hbm3(), 4);
    let _ = audit::why::why_until(&pimattn::Cancel::new(), &path, hbm3(), 4, &mut |held| {
        held.line(&hbm3().device);
    });
}

/// A table, as every reader of tables takes it.
pub fn table(bytes: &[u8]) {
    let _ = Cells::read(bytes, "t.csv");
    let mut summary = Summary::default();
    if summary.add_runs(bytes, "run.csv").is_ok() {
        let _ = summary.render(true, Style::Text);
    }
    let _ = Summary::default().add_metrics(bytes, "m.csv");
    let mut accuracy = AccuracyTable::new(Grouping::Head);
    if accuracy.add(bytes, "m.csv").is_ok() {
        accuracy.render(Style::Csv);
    }
    let mut explanation = Explanation::default();
    if explanation.add_runs(bytes, "run.csv").is_ok() {
        let _ = explanation.render(Style::Text);
    }
    if let Ok(frontier) = Frontier::read(bytes, "s.csv", "output_rel_err", None, &[]) {
        frontier.points(Style::Text);
        frontier.at_equal_error(&[0.1], Style::Text);
    }
    let path = file("t.csv", bytes);
    let options = CompareOptions { keys: Vec::new(), columns: Vec::new(), unlike: true };
    if let Ok(comparison) = compare_files(&path, std::slice::from_ref(&path), &options) {
        let _ = comparison.check(0.0);
        comparison.write_summary(&mut std::io::sink()).expect("a summary");
        comparison.write_csv(&mut std::io::sink()).expect("a table");
    }
}

/// A model file, ours or a config.json.
pub fn model(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes) {
        let _ = Model::parse(Path::new("m.toml"), text, &[]);
        let _ = Document::parse(Path::new("m.toml"), text, &["a.b=1".into()]);
    }
    let _ = Model::load(&file("config.json", bytes), &[]);
}

/// A grid.
pub fn grid(bytes: &[u8]) {
    let Ok(grid) = Grid::load(&file("grid.toml", bytes)) else { return };
    let points = grid.points();
    points.iter().take(64).for_each(|point| drop(point.name(&grid)));
}
