//! The layers of the crate: who may import whom, who may print, who may use the crates of the command line.
//!
//! The test reads the source text, so a rule that is broken shows even in code that is not compiled.

use std::collections::BTreeSet;
use std::path::Path;

/// Rooms (modules of the crate's root) by layer, from the bottom. A room imports lower layers and earlier rooms of its
/// own row; rows of one layer never import each other. A new room is entered here, behind all that it imports.
const HOUSE: &[&[&[&str]]] = &[
    // L0: what everybody needs
    &[&["error", "fsio", "interrupt", "linalg", "table", "units"]],
    // L1: the device, as data
    &[&["op", "addr", "spec"]],
    // L2: where the chains meet
    &[&["trace"]],
    // L3a and L3b: the chain of tracegen and the chain of pimsim
    &[
        &["kv", "cluster", "select", "accuracy", "fit", "map", "attacc", "generate"],
        &["engine", "stats", "plot", "report", "audit"],
    ],
    // L3c: both chains in one process
    &[&["sweep"], &["decode", "artifact", "system"]],
    // L3d: an experiment, of all of them
    &[&["reproduce"]],
    // L4: the command line
    &[&["cli"]],
];

/// Imports that the order would allow, and that must not be all the same.
const NEVER: &[(&str, &str)] = &[
    ("plot", "engine"),
    ("plot", "stats"),
    ("report", "engine"),
    ("audit", "engine"),
    ("audit", "stats"),
    ("audit", "report"),
];

/// The room that prints.
const FRONT_ROOM: &str = "cli";
const FRONT_CRATES: &[&str] = &["clap", "indicatif", "anyhow"];
const PRINTING: &[&str] = &["println", "eprintln", "print", "eprint", "dbg"];

/// Layer, row and place of a room.
fn place(room: &str) -> Option<(usize, usize, usize)> {
    HOUSE.iter().enumerate().find_map(|(layer, rows)| {
        rows.iter().enumerate().find_map(|(row, rooms)| {
            let at = rooms.iter().position(|r| *r == room)?;
            Some((layer, row, at))
        })
    })
}

/// What is wrong with an import of `to` by `from`, if anything.
fn judge(from: &str, to: &str) -> Result<(), String> {
    let unknown = |room: &str| {
        format!(
            "room \"{room}\" is not in the list: enter it in HOUSE in tests/imports.rs, in its layer, behind the rooms \
             that it imports (and in ARCHITECTURE.md)"
        )
    };
    let (a, b) = (place(from).ok_or_else(|| unknown(from))?, place(to).ok_or_else(|| unknown(to))?);
    let allowed = from == to || b.0 < a.0 || (b.0, b.1) == (a.0, a.1) && b.2 < a.2;
    if !allowed || NEVER.contains(&(from, to)) {
        let why = match (a, b) {
            _ if allowed => "this pair is ruled out",
            (a, b) if b.0 > a.0 => "that is a higher layer",
            (a, b) if (b.0, b.1) != (a.0, a.1) => "that is the other chain; they meet at trace",
            _ => "that room comes later in the chain",
        };
        return Err(format!("{from} imports {to}: {why}"));
    }
    Ok(())
}

/// Words, `::` and single signs of Rust source, without comments, strings and characters.
fn tokens(source: &str) -> Vec<String> {
    let c: Vec<char> = source.chars().collect();
    let at = |i: usize| c.get(i).copied().unwrap_or('\0');
    let is_word = |ch: char| ch.is_alphanumeric() || ch == '_';
    let mut out = Vec::new();
    let mut i = 0;
    while i < c.len() {
        match c[i] {
            '/' if at(i + 1) == '/' => {
                while i < c.len() && c[i] != '\n' {
                    i += 1;
                }
            }
            '/' if at(i + 1) == '*' => {
                let mut depth = 0;
                loop {
                    match (at(i), at(i + 1)) {
                        ('/', '*') => (depth, i) = (depth + 1, i + 2),
                        ('*', '/') => (depth, i) = (depth - 1, i + 2),
                        _ => i += 1,
                    }
                    if depth == 0 || i >= c.len() {
                        break;
                    }
                }
            }
            '"' => {
                i += 1;
                while i < c.len() && c[i] != '"' {
                    i += if c[i] == '\\' { 2 } else { 1 };
                }
                i += 1;
            }
            // r"...", r#"..."#, br#"..."#
            'r' | 'b'
                if !(i > 0 && is_word(c[i - 1])) && {
                    let r = if c[i] == 'b' { i + 1 } else { i };
                    let hashes = c[(r + 1).min(c.len())..].iter().take_while(|ch| **ch == '#').count();
                    at(r) == 'r' && at(r + 1 + hashes) == '"'
                } =>
            {
                let r = if c[i] == 'b' { i + 1 } else { i };
                let hashes = c[r + 1..].iter().take_while(|ch| **ch == '#').count();
                i = r + 2 + hashes;
                while i < c.len() && !(c[i] == '"' && c[i + 1..].iter().take_while(|ch| **ch == '#').count() >= hashes)
                {
                    i += 1;
                }
                i += 1 + hashes;
            }
            // a character; else a lifetime
            '\'' if at(i + 1) == '\\' => {
                i += 3;
                while i < c.len() && c[i] != '\'' {
                    i += 1;
                }
                i += 1;
            }
            '\'' if at(i + 2) == '\'' => i += 3,
            ch if is_word(ch) => {
                let begin = i;
                while i < c.len() && is_word(c[i]) {
                    i += 1;
                }
                out.push(c[begin..i].iter().collect());
            }
            ':' if at(i + 1) == ':' => {
                out.push("::".into());
                i += 2;
            }
            ch if ch.is_whitespace() => i += 1,
            ch => {
                out.push(ch.to_string());
                i += 1;
            }
        }
    }
    out
}

/// What a piece of source reaches for.
#[derive(Debug, Default, PartialEq)]
struct Findings {
    /// Rooms named by paths from the crate's root; "*" for all of them at once.
    rooms: BTreeSet<String>,
    /// Crates of the command line.
    crates: BTreeSet<String>,
    /// Printing macros.
    printing: BTreeSet<String>,
}

/// First names of a path or of a group of paths that begins at `i`.
fn heads(t: &[String], i: usize, out: &mut BTreeSet<String>) {
    match t.get(i).map(String::as_str) {
        Some("{") => {
            let (mut depth, mut first, mut i) = (1, true, i + 1);
            while depth > 0 && i < t.len() {
                match t[i].as_str() {
                    "{" => depth += 1,
                    "}" => depth -= 1,
                    "," if depth == 1 => first = true,
                    word if first && depth == 1 => {
                        out.insert(word.into());
                        first = false;
                    }
                    _ => {}
                }
                i += 1;
            }
        }
        Some(word) => drop(out.insert(word.into())),
        None => {}
    }
}

/// Looks through source that lies `depth` modules below the crate's root.
fn scan(source: &str, depth: usize) -> Findings {
    let t = tokens(source);
    let is = |i: usize, text: &str| t.get(i).is_some_and(|w| w == text);
    let mut found = Findings::default();
    // one entry per open brace: whether it is that of a module, and whether code in it is for tests only
    let mut braces: Vec<(bool, bool)> = Vec::new();
    for i in 0..t.len() {
        let after_path = i > 0 && (is(i - 1, "::") || is(i - 1, "."));
        match t[i].as_str() {
            "{" => {
                let module = i >= 2 && is(i - 2, "mod");
                let cfg_test = ["cfg", "(", "test", ")", "]"];
                let marked = module && i >= 7 && cfg_test.iter().zip(i - 7..).all(|(word, at)| is(at, word));
                braces.push((module, marked || braces.last().is_some_and(|b| b.1)));
            }
            "}" => {
                braces.pop();
            }
            "crate" if is(i + 1, "::") && !after_path => heads(&t, i + 2, &mut found.rooms),
            "super" if is(i + 1, "::") && !(i > 1 && is(i - 1, "::") && is(i - 2, "super")) => {
                let ups = (0..).take_while(|n| is(i + 2 * n, "super") && is(i + 2 * n + 1, "::")).count();
                if ups >= depth + braces.iter().filter(|b| b.0).count() {
                    heads(&t, i + 2 * ups, &mut found.rooms);
                }
            }
            word if FRONT_CRATES.contains(&word)
                && !after_path
                && (is(i + 1, "::") || i > 0 && (is(i - 1, "use") || is(i - 1, "crate"))) =>
            {
                found.crates.insert(word.into());
            }
            // the test harness takes what tests print
            word if PRINTING.contains(&word) && is(i + 1, "!") && !braces.last().is_some_and(|b| b.1) => {
                found.printing.insert(word.into());
            }
            _ => {}
        }
    }
    found
}

/// Everything that breaks a rule in a file of `room`.
fn complaints(room: &str, findings: &Findings) -> Vec<String> {
    let mut out: Vec<String> = findings.rooms.iter().filter_map(|to| judge(room, to).err()).collect();
    if room != FRONT_ROOM {
        out.extend(findings.crates.iter().map(|c| format!("{room} uses {c}: only {FRONT_ROOM} does")));
        out.extend(findings.printing.iter().map(|p| format!("{room} calls {p}!: only {FRONT_ROOM} prints")));
    }
    out
}

/// The Rust files below `dir`, each with its depth below the crate's root.
fn files(dir: &Path, depth: usize, out: &mut Vec<(std::path::PathBuf, usize)>) {
    let mut entries: Vec<_> = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            files(&path, depth + 1, out);
        } else if path.extension().is_some_and(|e| e == "rs") {
            let own = usize::from(path.file_name().is_some_and(|n| n != "mod.rs"));
            out.push((path, depth + own));
        }
    }
}

#[test]
fn every_file_keeps_to_the_layers() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let (mut paths, mut seen, mut wrong) = (Vec::new(), BTreeSet::new(), Vec::new());
    files(&src, 0, &mut paths);
    for (path, depth) in &paths {
        let relative = path.strip_prefix(&src).unwrap();
        let first = relative.iter().next().unwrap().to_str().unwrap();
        let source = std::fs::read_to_string(path).unwrap();
        if first == "lib.rs" {
            let found = scan(&source, 0);
            assert!(found.crates.is_empty() && found.printing.is_empty(), "lib.rs: {found:?}");
            continue;
        }
        if first == "bin" {
            let names = tokens(&source);
            for (i, _) in names.iter().enumerate().filter(|(i, w)| *w == "pimattn" && names[i + 1] == "::") {
                assert_eq!(names[i + 2], FRONT_ROOM, "{}: binaries only call {FRONT_ROOM}", relative.display());
            }
            continue;
        }
        let room = first.trim_end_matches(".rs");
        seen.insert(room.to_string());
        if let Err(e) = judge(room, room) {
            wrong.push(format!("{}: {e}", relative.display()));
            continue;
        }
        let found = complaints(room, &scan(&source, *depth));
        wrong.extend(found.into_iter().map(|c| format!("{}: {c}", relative.display())));
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
    assert!(paths.len() > 40, "the scan found only {} files", paths.len());
    let listed: BTreeSet<String> =
        HOUSE.iter().flat_map(|l| l.iter()).flat_map(|r| r.iter()).map(|r| r.to_string()).collect();
    assert_eq!(listed, seen, "a room of the list has no source");
}

fn rooms(source: &str, depth: usize) -> Vec<String> {
    scan(source, depth).rooms.into_iter().collect()
}

#[test]
fn the_scanner_finds_imports_however_they_are_written() {
    assert_eq!(rooms("use crate::kv::KvCache;", 1), ["kv"]);
    assert_eq!(rooms("pub use crate::{addr::{self, Geometry}, trace, spec as s};", 1), ["addr", "spec", "trace"]);
    assert_eq!(rooms("use crate::*;", 1), ["*"]);
    assert_eq!(rooms("fn f() -> crate::engine::Probe { $crate::stats::new() }", 1), ["engine", "stats"]);
    assert_eq!(rooms("pub(crate) fn f() {}", 1), [""; 0]);
    // out of the room by `super`
    assert_eq!(rooms("use super::stats::Collector;", 1), ["stats"]);
    assert_eq!(rooms("use super::probe::Probe;", 2), [""; 0]);
    assert_eq!(rooms("use super::super::stats;", 2), ["stats"]);
    assert_eq!(rooms("mod tests { use super::*; use super::super::map; }", 1), ["map"]);
    assert_eq!(rooms("mod tests { fn f() { if x { super::super::g() } } }", 2), [""; 0]);
    // not code
    assert_eq!(rooms("// use crate::kv;\n/* crate::kv /* crate::map */ */ /// [`crate::kv`]", 1), [""; 0]);
    assert_eq!(rooms(r##"let a = "crate::kv"; let b = r#"" crate::kv"#; let c = '"'; use crate::op;"##, 1), ["op"]);
    assert_eq!(rooms("fn f<'a>(x: &'a str, y: char) { y == '\\'' ; crate::op::f() }", 1), ["op"]);
}

#[test]
fn the_scanner_finds_printing_and_the_crates_of_the_command_line() {
    let found =
        scan("use clap::Parser; #[derive(indicatif::Style)] use anyhow; fn f() { eprintln!(\"x\"); dbg!(1) }", 1);
    assert_eq!(found.crates.into_iter().collect::<Vec<_>>(), ["anyhow", "clap", "indicatif"]);
    assert_eq!(found.printing.into_iter().collect::<Vec<_>>(), ["dbg", "eprintln"]);
    let quiet = scan(
        "// println!(\"x\")\nfn print() { self.print(); writeln!(out, \"println!\") }\n#[cfg(test)] mod tests { fn f() { println!() } }",
        1,
    );
    assert_eq!(quiet, Findings::default());
}

#[test]
fn every_rule_has_a_complaint() {
    let complain = |room: &str, source: &str| complaints(room, &scan(source, 1));
    for (room, source) in [
        ("trace", "use crate::addr::Geometry; use crate::error::Result;"),
        ("generate", "use crate::{kv, map, select, accuracy, trace, units};"),
        ("stats", "use crate::engine::probe;"),
        ("cli", "use clap::Parser; use crate::{engine, generate, report}; fn f() { println!() }"),
    ] {
        assert_eq!(complain(room, source), [""; 0], "{room}");
    }
    for (room, source, words) in [
        ("spec", "use crate::trace::Record;", "spec imports trace: that is a higher layer"),
        ("op", "use crate::spec::Device;", "later in the chain"),
        ("select", "use crate::map::layout;", "later in the chain"),
        ("generate", "use crate::engine;", "the other chain"),
        ("engine", "use crate::kv;", "the other chain"),
        ("engine", "use crate::stats::Collector;", "later in the chain"),
        ("engine", "use crate::report;", "later in the chain"),
        ("report", "use crate::engine::probe;", "ruled out"),
        ("kv", "use crate::cli;", "a higher layer"),
        ("map", "use crate::*;", "room \"*\" is not in the list"),
        ("map", "use crate::cache::Lru;", "room \"cache\" is not in the list: enter it in HOUSE"),
        ("cache", "use crate::error::Error;", "room \"cache\" is not in the list: enter it in HOUSE"),
        ("engine", "fn f() { eprintln!() }", "engine calls eprintln!: only cli prints"),
        ("report", "use indicatif::ProgressBar;", "report uses indicatif: only cli does"),
    ] {
        let found = complain(room, source);
        assert!(found.len() == 1 && found[0].contains(words), "{room}: {source}: {found:?}");
    }
}

/// Files of tests that no program includes would never fail.
#[test]
fn every_file_of_tests_is_run() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let all = std::fs::read_to_string(folder.join("tests/all.rs")).unwrap();
    let manifest = std::fs::read_to_string(folder.join("Cargo.toml")).unwrap();
    for entry in std::fs::read_dir(folder.join("tests")).unwrap() {
        let path = entry.unwrap().path();
        let Some(name) = path.file_name().and_then(|n| n.to_str()?.strip_suffix(".rs")) else { continue };
        let alone = manifest.contains(&format!("path = \"tests/{name}.rs\""));
        assert!(alone || all.contains(&format!("\nmod {name};\n")), "tests/{name}.rs is run by nothing");
    }
}
