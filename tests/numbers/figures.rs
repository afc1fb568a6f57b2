//! Figures in the documentation are what a run gives: blocks of Markdown that a function here writes.
//!
//! A block lies between a line `<!-- figures: NAME -->` and a line `<!-- end -->`. The tests work each block out and compare
//! it with the page; with UPDATE_DOCS=1 they write the page (`make docs`). Figures of time and memory are not worked
//! out: their blocks show `docs/scale.csv`, which says what a machine took.

mod agreement;
mod audit;
mod devices;
mod exchange;
mod parity;
mod policies;
mod power;
mod scale;
mod serving;
mod synthetic;
mod system;
mod trial;
mod worth;

use crate::common::{documented, root};
use pimattn_core::spec::System;
use pimattn_mapping::workload::Workload;
use pimattn_trace::{Header, Record, Request, Sink, Source};
use pimattn_tracegen::generate::Generator;
use rayon::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// A block of figures.
struct Figure {
    /// Its name in the page.
    name: &'static str,
    /// What it says: lines, each ended. It is told what the page says now, of which it may keep what is no figure.
    write: fn(&str) -> String,
}

const FIGURES: &[Figure] = &[
    Figure { name: "agreement", write: agreement::cycles },
    Figure { name: "artifact", write: parity::artifact },
    Figure { name: "clustering-macs", write: parity::clustering_macs },
    Figure { name: "defects", write: audit::defects },
    Figure { name: "depths", write: agreement::depths },
    Figure { name: "devices", write: devices::closed_forms },
    Figure { name: "exports", write: exchange::exports },
    Figure { name: "controllers", write: parity::controllers },
    Figure { name: "ghost-head", write: system::ghost_head },
    Figure { name: "ghosts", write: system::ghosts },
    Figure { name: "long-contexts", write: synthetic::long_contexts },
    Figure { name: "parameters", write: policies::parameters },
    Figure { name: "peaks", write: devices::peaks },
    Figure { name: "pim-or-gpu", write: worth::sample },
    Figure { name: "pim-or-gpu-long", write: worth::long },
    Figure { name: "pim-or-gpu-full", write: worth::full },
    Figure { name: "power", write: power::policies },
    Figure { name: "sample", write: synthetic::sample },
    Figure { name: "scale-heads", write: scale::heads },
    Figure { name: "scale-requests", write: scale::requests },
    Figure { name: "scale-tokens", write: scale::tokens },
    Figure { name: "schedules", write: scale::schedules },
    Figure { name: "serving", write: serving::lines },
    Figure { name: "seeds", write: policies::seeds },
    Figure { name: "shared-reads", write: devices::shared_reads },
    Figure { name: "standing", write: system::standing },
    Figure { name: "supply", write: power::supply },
    Figure { name: "switches", write: system::switches },
    Figure { name: "switches-grouped", write: system::grouped },
    Figure { name: "try", write: trial::sample },
    Figure { name: "turns", write: devices::turns },
];

const OPEN: &str = "<!-- figures: ";
const CLOSE: &str = "<!-- end -->";

/// A block of a page: its name, and the bytes between its marks.
#[derive(Debug, PartialEq)]
struct Block<'a> {
    name: &'a str,
    at: std::ops::Range<usize>,
}

/// The blocks of a page; else which line is wrong, and how.
fn blocks(page: &str) -> Result<Vec<Block<'_>>, String> {
    let (mut out, mut open, mut at): (Vec<Block<'_>>, Option<(&str, usize)>, usize) = (Vec::new(), None, 0);
    for (i, line) in page.split_inclusive('\n').enumerate() {
        let wrong = |what: &str| Err(format!("line {}: {what}", i + 1));
        let (begin, text) = (at, line.trim_end());
        at += line.len();
        if text == CLOSE {
            let Some((name, from)) = open.take() else { return wrong("ends a block, and none is open") };
            out.push(Block { name, at: from..begin });
        } else if let Some(rest) = text.strip_prefix(OPEN) {
            let Some(name) = rest.strip_suffix(" -->") else { return wrong("begins a block without a closing -->") };
            if open.is_some() {
                return wrong("begins a block within another");
            }
            open = Some((name, at));
        } else if text.contains("<!-- figures") || text.contains("<!-- end") {
            return wrong("is nearly the mark of a block, and is none");
        }
    }
    match open {
        Some((name, _)) => Err(format!("{name} is not closed")),
        None => Ok(out),
    }
}

/// Every page of the project.
fn pages() -> Vec<PathBuf> {
    fn of(folder: &Path, out: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            if path.is_dir() {
                // What the programs and the compiler write is no documentation.
                if !name.starts_with('.') && !["target", "out", "report"].contains(&name) {
                    of(&path, out);
                }
            } else if name.ends_with(".md") {
                out.push(path);
            }
        }
    }
    let mut out = Vec::new();
    of(&root(), &mut out);
    out.sort();
    out
}

#[test]
fn the_documented_figures_are_those_of_a_run() {
    let pages: Vec<(PathBuf, String)> =
        pages().into_iter().map(|path| (path.clone(), std::fs::read_to_string(&path).unwrap())).collect();
    let known: BTreeMap<&str, &Figure> = FIGURES.iter().map(|f| (f.name, f)).collect();
    let mut wanted = Vec::new();
    for (path, text) in &pages {
        let blocks = blocks(text).unwrap_or_else(|e| panic!("{}, {e}", path.display()));
        let figure = |name| *known.get(name).unwrap_or_else(|| panic!("{}: no figure {name}", path.display()));
        wanted.extend(blocks.into_iter().map(|b| (path, text, figure(b.name), b.at)));
    }
    let written: Vec<String> = wanted.par_iter().map(|(_, text, f, at)| timed(f, &text[at.clone()])).collect();
    let mut wrong = Vec::new();
    // A page without a block is somebody else's, who may be writing it.
    for (path, text) in pages.iter().filter(|(path, _)| wanted.iter().any(|w| w.0 == path)) {
        let mut expected = text.clone();
        // From the last one on, so that the places of the others stay.
        for (w, block) in wanted.iter().zip(&written).rev().filter(|(w, _)| w.0 == path) {
            expected.replace_range(w.3.clone(), block);
        }
        if documented(path, &expected).is_err() {
            let stale = wanted.iter().zip(&written).filter(|(w, block)| w.0 == path && w.1[w.3.clone()] != **block);
            wrong.extend(stale.map(|(w, block)| format!("{}, {}:\n\n{block}", path.display(), w.2.name)));
        }
    }
    assert!(wrong.is_empty(), "stale figures; `make docs` writes them:\n{}", wrong.join("\n"));
}

fn timed(figure: &Figure, current: &str) -> String {
    let begun = std::time::Instant::now();
    let block = (figure.write)(current);
    println!("{}: {:.1} s", figure.name, begun.elapsed().as_secs_f64());
    assert!(block.ends_with('\n') && !block.contains("<!--"), "{}", figure.name);
    block
}

#[test]
fn every_figure_has_its_place_and_every_place_its_figure() {
    let known: BTreeSet<&str> = FIGURES.iter().map(|f| f.name).collect();
    assert_eq!(known.len(), FIGURES.len(), "two figures of one name");
    let mut seen = BTreeSet::new();
    for path in pages() {
        let text = std::fs::read_to_string(&path).unwrap();
        for block in blocks(&text).unwrap_or_else(|e| panic!("{}, {e}", path.display())) {
            let name = block.name.to_string();
            assert!(known.contains(block.name), "{}: no figure {name}", path.display());
            assert!(seen.insert(name.clone()), "{}: {name} is there twice", path.display());
        }
    }
    let homeless: Vec<&&str> = known.iter().filter(|name| !seen.contains(**name)).collect();
    assert!(homeless.is_empty(), "in no page: {homeless:?}");
}

#[test]
fn blocks_are_found_and_broken_marks_are_errors() {
    let page = "a\n<!-- figures: one -->\nx\ny\n<!-- end -->\nb\n<!-- figures: two -->\n<!-- end -->\n";
    let found = blocks(page).unwrap();
    let texts: Vec<(&str, &str)> = found.iter().map(|b| (b.name, &page[b.at.clone()])).collect();
    assert_eq!(texts, [("one", "x\ny\n"), ("two", "")]);
    for (page, what) in [
        ("a\n<!-- end -->\n", "line 2: ends a block"),
        ("<!-- figures: one -->\n", "one is not closed"),
        ("<!-- figures: one -->\n<!-- figures: two -->\n<!-- end -->\n", "line 2: begins a block within"),
        ("<!-- figures: one\n<!-- end -->\n", "line 1: begins a block without"),
        ("a <!-- figures: one -->\n", "line 1: is nearly"),
        ("<!-- figure: one -->\n<!-- ends -->\n", "line 2: is nearly"),
    ] {
        let error = blocks(page).unwrap_err();
        assert!(error.starts_with(what), "{page:?}: {error}");
    }
}

// ------------------------------------------------------------------------------------------------ what figures share

/// A table: cells of the head, whether each column has numbers, rows.
fn table(head: &[&str], numbers: &[bool], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut out = String::new();
    writeln!(out, "| {} |", head.join(" | ")).unwrap();
    let marks: Vec<&str> = numbers.iter().map(|n| if *n { "-:" } else { "-" }).collect();
    writeln!(out, "|{}|", marks.join("|")).unwrap();
    for row in rows {
        assert_eq!(row.len(), head.len(), "{row:?}");
        writeln!(out, "| {} |", row.join(" | ")).unwrap();
    }
    out
}

/// A whole number, with commas.
fn whole(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A sentence or more, broken into lines of the pages' width.
fn prose(text: &str) -> String {
    let (mut out, mut width) = (String::new(), 0);
    for word in text.split_whitespace() {
        if width > 0 && width + 1 + word.chars().count() > 120 {
            out.push('\n');
            width = 0;
        }
        if width > 0 {
            out.push(' ');
            width += 1;
        }
        out.push_str(word);
        width += word.chars().count();
    }
    out + "\n"
}

/// A trace in memory, which can be replayed more than once.
struct Trace {
    header: Header,
    records: Vec<Record>,
}

impl Sink for Trace {
    fn push(&mut self, record: Record) -> pimattn_core::error::Result<()> {
        self.records.push(record);
        Ok(())
    }
    fn finish(&mut self) -> pimattn_core::error::Result<()> {
        Ok(())
    }
}

impl Trace {
    /// What `tracegen run` writes.
    fn generate(workload: &str, set: &[&str]) -> Trace {
        let set: Vec<String> = set.iter().map(|s| s.to_string()).collect();
        let file = root().join(format!("configs/workload/{workload}.toml"));
        let (workload, doc) = Workload::load(&file, &set).unwrap();
        let generator = Generator::load(workload, &doc, None).unwrap();
        let mut trace = Trace { header: generator.header().clone(), records: Vec::new() };
        generator.run(&mut trace, None, &mut |_| {}).unwrap();
        trace
    }

    /// Requests in order, without whose work they are.
    fn requests(requests: &[Request]) -> Trace {
        let records = requests.iter().map(|r| Record::Request(*r)).collect();
        Trace { header: Header::foreign(pimattn_attacc::DEVICE, "figures"), records }
    }

    /// Cycles on a system.
    fn cycles(&self, system: &System) -> u64 {
        let mut source = Reading { trace: self, at: 0 };
        pimattn_engine::run(system, &mut source, &mut (), &mut |_| {}).unwrap()
    }
}

struct Reading<'t> {
    trace: &'t Trace,
    at: usize,
}

impl Source for Reading<'_> {
    fn header(&self) -> &Header {
        &self.trace.header
    }
    fn next_block(&mut self, out: &mut Vec<Record>) -> pimattn_core::error::Result<bool> {
        let rest = &self.trace.records[self.at..];
        out.clear();
        out.extend_from_slice(&rest[..rest.len().min(4096)]);
        self.at += out.len();
        Ok(!out.is_empty())
    }
}

/// A table that a program of the project prints, row by row, cells by column.
fn pimsim(args: &[&str]) -> Vec<BTreeMap<String, String>> {
    let out = std::process::Command::new(env!("CARGO_BIN_EXE_pimsim")).args(args).current_dir(root()).output().unwrap();
    assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
    csv::Reader::from_reader(&*out.stdout).deserialize().map(|row| row.unwrap()).collect()
}
