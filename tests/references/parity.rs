//! The compatibility controller against results of AttAcc's Ramulator: cycles and request counts of whole runs, and
//! command logs line by line.
//!
//! A few small runs are under `traces/golden`. The full set does not ship with the sources; its tests
//! are ignored unless `make test-golden` asks for them.

use crate::common::golden;
use pimattn::cli::exit::{EXIT_CONFIG, EXIT_DATA, ExitStatus};
use pimattn_core::op::Op;
use pimattn_core::spec::System;
use pimattn_engine::{self as engine, probe::Probe};
use pimattn_stats::Collector;
use pimattn_stats::log::LogProbe;
use pimattn_trace::{self as trace, Record, Request, Segment, Source};
use std::fmt::Write as _;
use std::fs::File;
use std::io::{Cursor, Read};
use std::path::{Path, PathBuf};

/// Mismatches shown of one comparison.
const SHOWN: usize = 20;

/// Request columns of the reference's results.
const REQUESTS: [(&str, Op); 9] = [
    ("rd", Op::Ld),
    ("wr", Op::St),
    ("mac_ab", Op::MacAb),
    ("mac_sb", Op::MacSb),
    ("mac_pb", Op::MacPb),
    ("wrgb", Op::WrGb),
    ("mvsb", Op::MvSb),
    ("mvgb", Op::MvGb),
    ("sfm", Op::Sfm),
];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn system(timing: &str, refresh: &str) -> System {
    let set = [format!("dram.timing={timing}"), format!("refresh={refresh}")];
    System::load(&root().join("configs/system/attacc-compat.toml"), &set).unwrap()
}

fn unpacked(path: &Path) -> Vec<u8> {
    let file = File::open(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    zstd::decode_all(file).unwrap()
}

fn replay<P: Probe>(system: &System, text: impl Into<Vec<u8>>, probe: &mut P) -> pimattn_core::error::Result<u64> {
    let input: Box<dyn Read + Send> = Box::new(Cursor::new(text.into()));
    let mut source = trace::open(input, "trace", Some(system.addressing()))?;
    engine::run(system, source.as_mut(), probe, &mut |_| {})
}

/// The first lines at which the channels' logs differ, and how many lines there are.
fn compare_logs(ours: &str, theirs: &str) -> (String, usize) {
    let channel = |line: &&str| -> u32 { line.split(", ").nth(2).unwrap().parse().unwrap() };
    let mut ours: Vec<&str> = ours.lines().collect();
    // The reference writes a log per channel; ours has the channels beside each other.
    ours.sort_by_key(channel);
    let theirs: Vec<&str> = theirs.lines().collect();
    let mut out = String::new();
    let differ = (0..ours.len().max(theirs.len())).filter(|i| ours.get(*i) != theirs.get(*i));
    for i in differ.take(3) {
        let (a, b) = (ours.get(i).unwrap_or(&"nothing"), theirs.get(i).unwrap_or(&"nothing"));
        writeln!(out, "  line {}: {a}; should be {b}", i + 1).unwrap();
    }
    (out, theirs.len())
}

/// Checks every row of a folder's golden.csv.
fn check_runs(golden: &Path) -> (usize, Vec<String>) {
    let mut wrong = Vec::new();
    let mut rows = 0;
    let mut table = csv::Reader::from_path(golden.join("golden.csv")).unwrap();
    let columns = table.headers().unwrap().clone();
    for row in table.records() {
        let row = row.unwrap();
        let cell = |name: &str| &row[columns.iter().position(|c| c == name).unwrap()];
        let number = |name: &str| cell(name).parse::<u64>().unwrap();
        let system = system(cell("timing"), cell("refresh"));
        let text = unpacked(&golden.join(format!("traces/{}.trace.zst", cell("trace"))));
        let mut collector = Collector::new(&system.device);
        rows += 1;
        let run = format!("{} {} {}", cell("trace"), cell("timing"), cell("refresh"));
        match replay(&system, text, &mut collector) {
            Err(e) => wrong.push(format!("{run}: {e}")),
            Ok(cycles) => {
                let requests = &collector.run.counters.requests;
                let ours = REQUESTS.iter().map(|(name, op)| (*name, requests[*op as usize]));
                for (name, ours) in ours.chain([("cycles", cycles)]) {
                    if ours != number(name) {
                        wrong.push(format!("{run}: {name} {ours}; should be {}", number(name)));
                    }
                }
            }
        }
    }
    (rows, wrong)
}

/// Checks every log of a folder.
fn check_logs(golden: &Path) -> (usize, Vec<String>) {
    let mut logs: Vec<PathBuf> = std::fs::read_dir(golden.join("logs")).unwrap().map(|e| e.unwrap().path()).collect();
    logs.sort();
    let system = system("HBM3_5.2Gbps", "AllBankHBM3");
    let mut wrong = Vec::new();
    for log in &logs {
        let name = log.file_name().unwrap().to_str().unwrap().strip_suffix(".log.zst").unwrap();
        let mut probe = LogProbe::new(Vec::new(), &system.device);
        let ran = replay(&system, unpacked(&golden.join(format!("traces/{name}.trace.zst"))), &mut probe);
        let ours = String::from_utf8(probe.finish().unwrap()).unwrap();
        let (differences, lines) = compare_logs(&ours, &String::from_utf8(unpacked(log)).unwrap());
        if let Err(e) = ran {
            wrong.push(format!("{name}: {e}"));
        }
        if !differences.is_empty() {
            wrong.push(format!("{name}, {lines} lines:\n{differences}"));
        }
    }
    (logs.len(), wrong)
}

fn none_wrong(what: &str, (checked, wrong): (usize, Vec<String>)) {
    assert!(checked > 0, "no {what} found");
    println!("{checked} {what}, {} mismatches", wrong.len());
    let more = wrong.len().saturating_sub(SHOWN);
    let shown = wrong.iter().take(SHOWN).fold(String::new(), |text, line| text + line + "\n");
    assert!(wrong.is_empty(), "of {checked} {what}:\n{shown}{more} more");
}

#[test]
fn small_runs_are_as_long_as_the_references() {
    none_wrong("runs", check_runs(&root().join("traces/golden")));
}

#[test]
fn small_runs_issue_the_references_commands() {
    none_wrong("logs", check_logs(&root().join("traces/golden")));
}

/// MAC_SB at row 1, asked for in the second bank group while row 0 opens: its precharge closes the second group's bank
/// again and again, before row 0 can be used there, and never the first group's.
const SAME_BANK_CONFLICT: &str = "PIM_MAC_SB 0x00000000\nPIM_MAC_SB 0x04000400\n";

#[test]
fn a_livelock_is_reported_with_its_bank_and_row() {
    for refresh in ["none", "all-bank"] {
        let error = replay(&system("HBM3_5.2Gbps", refresh), SAME_BANK_CONFLICT, &mut ()).unwrap_err();
        assert_eq!(error.exit_code(), EXIT_DATA);
        let text = error.to_string();
        for part in ["livelock", "PIM_MAC_SB", "channel 0", "bank group 0, bank 0, row 0"] {
            assert!(text.contains(part), "{text}");
        }
    }
}

#[test]
fn a_channel_that_has_waited_writes_first() {
    // Channel 0 fills its queue in the first cycle, so that channel 8 gets its requests in the second: idle until
    // then it was to write, and stays so for as many writes, though the read is older.
    let fill: String = (0..34).map(|i| format!("LD {}\n", i * 32)).collect();
    let system = system("HBM3_5.2Gbps", "none");
    let mut log = LogProbe::new(Vec::new(), &system.device);
    replay(&system, fill + "LD 0x200000000\n" + &"ST 0x200000400\n".repeat(7), &mut log).unwrap();
    let log = String::from_utf8(log.finish().unwrap()).unwrap();
    let first = log.lines().find(|line| line.split(", ").nth(2) == Some("8"));
    assert_eq!(first, Some("2, ACT, 8, 0, 0, 0, 0, 1, 0"));
}

#[test]
fn operations_that_the_reference_does_not_know_are_named() {
    for op in Op::ALL.iter().filter(|op| !op.in_attacc() && **op != Op::Sync) {
        let text = format!("{} 0x0\n", op.mnemonic());
        let error = replay(&system("HBM3_5.2Gbps", "none"), text, &mut ()).unwrap_err();
        assert!(error.to_string().contains(op.mnemonic()), "{error}");
        assert_eq!(error.exit_code(), EXIT_DATA);
    }
}

/// Records from memory.
struct Records(trace::Header, Vec<Record>);

impl Source for Records {
    fn header(&self) -> &trace::Header {
        &self.0
    }

    fn next_block(&mut self, out: &mut Vec<Record>) -> pimattn_core::error::Result<bool> {
        *out = std::mem::take(&mut self.1);
        Ok(!out.is_empty())
    }
}

#[test]
fn runs_count_as_requests_and_segments_as_nothing() {
    let system = system("HBM3_5.2Gbps", "none");
    let mut text = String::new();
    let mut records = Vec::new();
    for (op, addr) in [(Op::MacAb, 0x400), (Op::MvSb, 0x0100_0000), (Op::Ld, 0x0600_0000)] {
        let run = Request { op, addr, count: 40, stride: 32 };
        (0..40).for_each(|i| writeln!(text, "{} {}", op.mnemonic(), addr + 32 * i).unwrap());
        records.extend([Record::Segment(Segment::default()), Record::Request(run)]);
    }
    let mut by_run = LogProbe::new(Vec::new(), &system.device);
    let mut source = Records(trace::Header::foreign(system.device.geometry, "runs"), records);
    let cycles = engine::run(&system, &mut source, &mut by_run, &mut |_| {}).unwrap();
    let mut by_line = LogProbe::new(Vec::new(), &system.device);
    assert_eq!(replay(&system, text, &mut by_line).unwrap(), cycles);
    assert_eq!(by_run.finish().unwrap(), by_line.finish().unwrap());
}

#[test]
fn a_power_policy_that_the_reference_lacks_is_refused() {
    let config = root().join("configs/system/attacc-compat.toml");
    let error = System::load(&config, &["power=stagger".into()]).unwrap_err();
    assert_eq!(error.exit_code(), EXIT_CONFIG);
}

#[test]
#[ignore = "needs golden results, which do not ship: make test-golden"]
fn every_golden_run_is_as_long_as_the_references() {
    none_wrong("golden runs", check_runs(&golden("golden")));
}

#[test]
#[ignore = "needs golden results, which do not ship: make test-golden"]
fn every_golden_log_has_the_references_commands() {
    none_wrong("golden logs", check_logs(&golden("golden")));
}
