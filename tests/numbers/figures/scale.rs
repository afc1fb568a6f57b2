//! docs/performance.md: what a machine took, as `docs/scale.csv` has it, and the sizes of schedules.

use super::{table, whole};
use crate::common::root;
use pimattn_attacc::{Attention, DEVICE, Decode, UnitLevel};
use pimattn_core::error::Result;
use pimattn_trace::{Record, Sink};
use std::collections::BTreeMap;

type Row = BTreeMap<String, String>;

/// The rows of a series.
fn series(name: &str) -> Vec<Row> {
    let mut csv = csv::Reader::from_path(root().join("docs/scale.csv")).unwrap();
    let rows: Vec<Row> = csv.deserialize().map(|row| row.unwrap()).collect();
    let rows: Vec<Row> = rows.into_iter().filter(|row| row["series"] == name).collect();
    assert!(!rows.is_empty(), "docs/scale.csv has no {name}");
    rows
}

/// Time and memory of the row of a size and a program; empty where it was not measured.
fn cell(rows: &[Row], size: u64, program: &str) -> String {
    let found = rows.iter().find(|r| r["size"] == size.to_string() && r["program"] == program);
    found.map_or(String::new(), |r| {
        let (seconds, mib): (f64, f64) = (r["cpu_s"].parse().unwrap(), r["peak_mib"].parse().unwrap());
        // Three digits of what is measured to a tenth of a millisecond.
        let decimals = if seconds >= 10.0 { 1 } else { 2 + usize::from(seconds < 1.0) };
        format!("{seconds:.decimals$} s, {} MiB", whole(mib.round() as u64))
    })
}

fn figures(rows: &[Row], first: &str, sizes: &[u64], columns: &[(&str, &str)], name: impl Fn(u64) -> String) -> String {
    let head: Vec<&str> = [first].into_iter().chain(columns.iter().map(|c| c.0)).collect();
    let numbers: Vec<bool> = head.iter().map(|_| true).collect();
    let row = |size: &u64| {
        let cells = columns.iter().map(|(_, program)| cell(rows, *size, program));
        [name(*size)].into_iter().chain(cells).collect()
    };
    table(&head, &numbers, sizes.iter().map(row))
}

/// The sizes of a series.
fn sizes(rows: &[Row]) -> Vec<u64> {
    let mut sizes: Vec<u64> = rows.iter().map(|r| r["size"].parse().unwrap()).collect();
    sizes.dedup();
    sizes
}

pub(super) fn requests(_: &str) -> String {
    let rows = series("requests");
    let columns = [
        ("written", "tracegen attacc"),
        ("replayed, ptrace", "pimsim run FILE.ptrace"),
        ("replayed, text from a pipe", "pimsim run - (AttAcc text)"),
    ];
    // A size is what was asked for; the requests are those of the schedule next to it.
    let replayed = |size: u64| {
        let count = |r: &Row| r["requests"].parse::<u64>().unwrap();
        whole(rows.iter().filter(|r| r["size"] == size.to_string()).map(count).max().unwrap())
    };
    figures(&rows, "requests (`tracegen attacc`, without segments)", &sizes(&rows), &columns, replayed)
}

pub(super) fn tokens(_: &str) -> String {
    let columns = [
        ("generated", "tracegen run, starc"),
        ("replayed", "pimsim run, starc"),
        ("swept, in one process", "pimsim sweep, starc"),
    ];
    let first = "tokens (one KV head, 4 query heads, 128 dimensions, 2 steps, starc)";
    let rows = series("context");
    figures(&rows, first, &sizes(&rows), &columns, whole)
}

pub(super) fn heads(_: &str) -> String {
    let columns = [("generated", "tracegen run, starc"), ("replayed", "pimsim run, starc")];
    let rows = series("heads");
    figures(&rows, "heads of 4,096 tokens, starc", &sizes(&rows), &columns, whole)
}

/// Requests of a schedule.
struct Count(u64);

impl Sink for Count {
    fn push(&mut self, record: Record) -> Result<()> {
        if let Record::Request(r) = record {
            self.0 += u64::from(r.count);
        }
        Ok(())
    }
    fn finish(&mut self) -> Result<()> {
        Ok(())
    }
}

/// The schedules whose times the page has. Rounds are alike but for the first and the last, so that a difference of two
/// short ones says what the long ones have.
pub(super) fn schedules(_: &str) -> String {
    let count = |heads: u32, len: u32| {
        let attention =
            Attention { mode: UnitLevel::Bank, heads, len, dim: 128, bytes: 2, kv_budget: None, clustering: false };
        let mut count = Count(0);
        Decode::new(attention, DEVICE, 1).unwrap().run(&mut count, &mut |_| {}).unwrap();
        count.0
    };
    let lengths = [2048, 16_384].map(|len| {
        let (one, two, three) = (count(64, len), count(128, len), count(192, len));
        assert_eq!(three - two, two - one, "64 heads more are as many requests more");
        (len, one, two - one)
    });
    let mut rows = Vec::new();
    for (len, one, more) in lengths {
        for heads in [64u64, 640, 1280, 2560, 12_800] {
            let requests = one + (heads / 64 - 1) * more;
            rows.push(vec![whole(heads), whole(u64::from(len)), whole(requests)]);
        }
    }
    table(&["heads", "L", "requests"], &[true, true, true], rows)
}
