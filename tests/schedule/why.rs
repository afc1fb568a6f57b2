//! `pimsim audit --why`: each reason by a log written by hand, and that the cycles of every log add up.

use crate::common;
use crate::schedule::audit::{Random, choices, random_trace};

use common::Memory;
use pimattn::cli::exit::{EXIT_DATA, ExitStatus};
use pimattn_audit::log::LogMark;
use pimattn_audit::why::{HeldCommand, Reason, Reasons, why};
use pimattn_core::addr::{Address, Geometry};
use pimattn_core::error::Error;
use pimattn_core::op::Op;
use pimattn_core::spec::System;
use pimattn_engine::probe::Probe;
use pimattn_engine::{self as engine, Engine};
use pimattn_mapping::workload::Workload;
use pimattn_policies::select;
use pimattn_stats::log::LogProbe;
use pimattn_trace::{Header, Record, Request, Sink};
use pimattn_tracegen::generate::Generator;
use rayon::prelude::*;
use std::path::Path;

fn explain(system: &System, text: &str) -> Result<(Reasons, Vec<HeldCommand>), Error> {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    std::io::Write::write_all(&mut file, text.as_bytes()).unwrap();
    let mut held = Vec::new();
    let (report, reasons) = why(file.path(), system, 5, &mut |h| held.push(*h))?;
    assert_eq!(report.broken, 0, "{}", report.render(&system.device, "log", false));
    Ok((reasons, held))
}

/// When the work of each channel was done.
#[derive(Default)]
struct Ends(Vec<u64>);

impl Probe for Ends {
    fn channel_end(&mut self, _: u32, done: u64) {
        self.0.push(done);
    }
}

/// The log of a trace, and the lengths of its channels.
fn logged(system: &System, work: &[Request]) -> (String, Vec<u64>) {
    let records = work.iter().map(|r| Record::Request(*r)).collect();
    let mut source = Memory { header: Header::foreign(system.device.geometry, "test"), records };
    let mut probe = (LogProbe::new(Vec::new(), &system.device), Ends::default());
    engine::run_with(Engine::Plain, system, &mut source, &mut probe, &mut |_| ()).unwrap();
    (String::from_utf8(probe.0.finish().unwrap()).unwrap(), probe.1.0)
}

/// The last command of a log: what held it, in words, and since when; and the cycles of the log.
fn last(set: &[&str], text: &str) -> (String, u64, Reasons) {
    let system = common::system("hbm3-pim", &[&["refresh=none"], set].concat());
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let (reasons, held) = explain(&system, &(lines.join("\n") + "\n")).unwrap();
    let held = held.last().unwrap();
    (held.reason.name(&system.device), held.since, reasons)
}

#[test]
fn a_log_numbers_requests_and_marks_where_they_go_on() {
    let system = common::system("hbm3-pim", &["refresh=none", "channels=2"]);
    let g = &system.device.geometry;
    let at = |channel, row| g.encode(&Address { channel, row, ..Address::default() });
    let mark = |op: Op, channel| Request::one(op, at(channel, 0));
    let work = [
        common::macs(g, 7, 2),
        mark(Op::Barrier, 0),
        Request::one(Op::MvSb, at(0, 0)),
        Request { op: Op::Host, addr: at(0, 0), count: 100, stride: 0 },
        common::macs(g, 8, 1),
        mark(Op::Sync, 0),
        Request::one(Op::MvSb, at(1, 0)),
    ];
    let (text, _) = logged(&system, &work);
    let of = |channel: &str| text.lines().filter(|l| l.split(", ").nth(2) == Some(channel)).collect::<Vec<_>>();
    let mark = |clock, name, channel, first| format!("{clock}, {name}, {channel}, -1, -1, -1, -1, -1, -1, {first}");
    assert_eq!(
        of("0"),
        [
            "1, ACTAB, 0, 0, 0, 0, 0, 7, 0, 0",
            "20, MACAB, 0, 0, 0, 0, 0, 7, 0, 0",
            "26, MACAB, 0, 0, 0, 0, 0, 7, 1, 1",
            &mark(27, "BARRIER", 0, 2),
            "27, MVSB, 0, 0, 0, 0, 0, 0, 0, 2",
            // Row commands may come before what they are behind.
            "46, PREA, 0, 0, 0, 0, 0, 8, 0, 3",
            "65, ACTAB, 0, 0, 0, 0, 0, 8, 0, 3",
            &mark(128, "HOST", 0, 3),
            "128, MACAB, 0, 0, 0, 0, 0, 8, 0, 3",
            &mark(129, "SYNC", 0, 4),
        ]
    );
    assert_eq!(of("1"), [&mark(129, "SYNC", 1, 0), "129, MVSB, 1, 0, 0, 0, 0, 0, 0, 0"]);
}

#[test]
fn every_reason_is_found() {
    let units =
        "1, ACTBG, 0, 0, 0, 0, 0, 1, 0, 0\n3, ACTBG, 0, 0, 0, 1, 0, 1, 0, 1\n22, MACBG, 0, 0, 0, 0, 0, 0, 0, 2\n";
    let more =
        "28, MACBG, 0, 0, 0, 0, 0, 0, 1, 3\n34, MACBG, 0, 0, 0, 0, 0, 0, 2, 4\n40, MACBG, 0, 0, 0, 0, 0, 0, 3, 5\n";
    let close = "48, PREBG, 0, 0, 0, 0, 0, 0, 0, 6\n49, PREBG, 0, 0, 0, 1, 0, 0, 0, 7\n";
    let two_banks = "1, ACT, 0, 0, 0, 0, 0, 1, 0, 0\n";
    for (set, text, reason, since) in [
        (&[][..], "1, ACTAB, 0, 0, 0, 0, 0, 7, 0, 0", "start", 1),
        (
            &[],
            "1, ACTAB, 0, 0, 0, 0, 0, 7, 0, 0\n20, MACAB, 0, 0, 0, 0, 0, 7, 0, 0",
            "ACTAB -> MACAB at channel nRCDRD = 19",
            1,
        ),
        (&[], &format!("{units}{more}{close}"), "row bus", 48),
        (&[], "1, MVSB, 0, 0, 0, 0, 0, 0, 0, 0\n2, MVSB, 0, 1, 0, 0, 0, 0, 0, 1", "column bus", 1),
        (&[], "1, MVSB, 0, 0, 0, 0, 0, 0, 0, 0\n2, SFM, 0, 1, 0, 0, 0, 0, 0, 1", "order of moves and softmax", 1),
        (
            &[],
            "1, MVSB, 0, 0, 0, 0, 0, 0, 0, 0\n2, BARRIER, 0, -1, -1, -1, -1, -1, -1, 1\n2, MVSB, 0, 1, 0, 0, 0, 0, 0, 1",
            "barrier",
            2,
        ),
        (&[], "51, HOST, 0, -1, -1, -1, -1, -1, -1, 0\n51, MVSB, 0, 0, 0, 0, 0, 0, 0, 0", "host", 51),
        (&[], "31, SYNC, 0, -1, -1, -1, -1, -1, -1, 0\n31, ACTAB, 0, 0, 0, 0, 0, 7, 0, 0", "sync", 31),
        (&["issue_interval=77 ns"], "1, MVSB, 0, 0, 0, 0, 0, 0, 0, 0\n101, MVSB, 0, 0, 0, 0, 0, 0, 0, 1", "arrival", 1),
        (&["refresh=all-bank"], "5071, REFab, 0, -1, -1, -1, -1, -1, -1, -1", "refresh due", 1),
        // Where the controller sees one request, the next row opens no earlier than the first is done.
        (
            &["queue_depth=1"],
            &format!("{two_banks}20, RD, 0, 0, 0, 0, 0, 1, 0, 0\n20, ACT, 0, 1, 0, 0, 0, 1, 0, 1"),
            "queue depth",
            3,
        ),
        (
            &[],
            &format!(
                "{two_banks}3, ACT, 0, 1, 0, 0, 0, 1, 0, 1\n30, WR, 0, 0, 0, 0, 0, 1, 0, 0\n40, RD, 0, 1, 0, 0, 0, 1, 0, 1"
            ),
            "write turns",
            22,
        ),
        (
            &[],
            &format!(
                "{two_banks}3, ACT, 0, 1, 0, 0, 0, 1, 0, 1\n30, RD, 0, 0, 0, 0, 0, 1, 0, 0\n40, RD, 0, 1, 0, 0, 0, 1, 0, 1"
            ),
            "first-ready first-come",
            22,
        ),
        (&[], "1, MVSB, 0, 0, 0, 0, 0, 0, 0, 0\n20, MVSB, 0, 1, 0, 0, 0, 0, 0, 1", "unexplained", 2),
    ] {
        let (found, from, reasons) = last(set, text);
        assert!(found.starts_with(reason) && from == since, "{text}: {found}, since {from}");
        // Up to the last command, and its result.
        let clock: u64 = text.lines().last().unwrap().split(',').next().unwrap().parse().unwrap();
        let complete = !text.contains("REFab");
        assert!(!complete || (clock..clock + 21).contains(&reasons.total().cycles), "{text}: {reasons:?}");
    }
}

/// Sixteen bank groups change rows: one by one, and as soon as each can.
#[test]
fn a_command_that_could_have_come_between_others_was_held_by_a_rule() {
    let at = |unit: u32| format!("{}, {}, {}", unit / 8, unit / 4 % 2, unit % 4);
    let row = |clock: u32, name: &str, unit: u32, row, request: u32| {
        format!("{clock}, {name}, 0, {}, 0, {row}, 0, {request}\n", at(unit))
    };
    let mac = |clock: u32, request: u32| format!("{clock}, MACBG, 0, 0, 0, 0, 0, 0, 0, {request}\n");
    let opened: String = (0..16).map(|u| row(1 + 2 * u, "ACTBG", u, 1, u)).collect();
    let first = format!("{opened}{}{}", mac(50, 16), mac(56, 17));
    let serial = |u: u32| row(64 + 21 * u, "PREBG", u, 2, 18 + u) + &row(83 + 21 * u, "ACTBG", u, 2, 18 + u);
    let serial: String = (0..16).map(serial).collect();
    let slow = format!("{first}{serial}{}{}", mac(417, 34), mac(423, 35));
    let closed: String = (0..16).map(|u| row(64 + u, "PREBG", u, 2, 18 + u)).collect();
    let opened: String = (0..16).map(|u| row(83 + 2 * u, "ACTBG", u, 2, 18 + u)).collect();
    let fast = format!("{first}{closed}{opened}{}{}", mac(132, 34), mac(138, 35));
    let system = common::system("hbm3-pim", &["refresh=none"]);
    let (reasons, held) = explain(&system, &slow).unwrap();
    assert_eq!((reasons.total().cycles, reasons.total().commands), (423, 52));
    let rules = reasons.rules();
    assert!((280..320).contains(&rules.cycles) && rules.commands == 15, "{}", reasons.render(&system.device, "log"));
    assert!(held.iter().filter(|h| h.reason.is_rule()).all(|h| h.reason == Reason::Unexplained));
    let (reasons, _) = explain(&system, &fast).unwrap();
    assert_eq!(
        (reasons.total().cycles, reasons.rules().commands),
        (138, 0),
        "{}",
        reasons.render(&system.device, "log")
    );
}

/// Cycles of a command line by line: edges that follow on one another, then the result.
#[test]
fn cycles_are_told_along_the_critical_chain() {
    let text = "1, ACTAB, 0, 0, 0, 0, 0, 7, 0, 0\n20, MACAB, 0, 0, 0, 0, 0, 7, 0, 0\n26, MACAB, 0, 0, 0, 0, 0, 7, 1, 1
        27, BARRIER, 0, -1, -1, -1, -1, -1, -1, 2\n127, HOST, 0, -1, -1, -1, -1, -1, -1, 2\n137, MVSB, 0, 0, 0, 0, 0, 0, 0, 2
        138, SYNC, 0, -1, -1, -1, -1, -1, -1, 3\n188, SYNC, 0, -1, -1, -1, -1, -1, -1, 3";
    let (_, _, reasons) = last(&[], text);
    let by_kind = |kind: &str| -> u64 {
        let of_kind = reasons.0.iter().filter(|(reason, _)| reason.kind() == kind);
        of_kind.map(|(_, sum)| sum.cycles).sum()
    };
    let kinds = ["constraint", "results", "host", "controller", "sync", "barrier"].map(by_kind);
    assert_eq!((kinds, reasons.total().cycles), ([25, 2, 100, 10, 50, 0], 187));
    assert!(reasons.0.contains_key(&Reason::Mark(LogMark::Host)));
}

#[test]
fn the_cycles_of_random_traces_add_up() {
    let cases = std::env::var("PIMATTN_WHY_CASES").map_or(150, |n| n.parse().expect("a number"));
    for seed in 0..cases {
        let mut r = Random(seed);
        let set = choices(&mut r);
        let set: Vec<&str> = set.iter().map(String::as_str).collect();
        let system = common::system("hbm3-pim", &set);
        let g: &Geometry = &system.device.geometry;
        let mut work = random_trace(&mut r, g);
        if r.below(3) == 0 {
            let host = Request { op: Op::Host, addr: 0, count: 1 + r.below(9000), stride: 0 };
            work.insert(r.below(work.len() as u32) as usize, host);
        }
        // What channels wait for at a sync is theirs only where they work behind it.
        work.retain(|w| w.op != Op::Sync);
        let (text, ends) = logged(&system, &work);
        let (reasons, held) = explain(&system, &text).unwrap_or_else(|e| panic!("seed {seed} {set:?}: {e}"));
        let sum = reasons.total();
        let told = || reasons.render(&system.device, "log");
        assert_eq!(sum.cycles, ends.iter().sum::<u64>(), "seed {seed} {set:?}: {ends:?}\n{}", told());
        assert_eq!(sum.commands, held.len() as u64, "seed {seed} {set:?}");
    }
}

#[test]
fn logs_without_requests_are_refused() {
    let text = "1, ACTAB, 0, 0, 0, 0, 0, 7, 0\n";
    let e = explain(&common::system("hbm3-pim", &[]), text).unwrap_err();
    assert!(e.exit_code() == EXIT_DATA && e.to_string().contains("ACTAB without a request"), "{e}");
    let e = explain(&common::system("attacc-compat", &[]), text).unwrap_err();
    assert!(e.to_string().contains("PIM controller only"), "{e}");
}

#[test]
fn the_program_prints_a_table_or_the_commands() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    std::fs::write(&log, "1, ACTAB, 0, 0, 0, 0, 0, 7, 0, 0\n20, MACAB, 0, 0, 0, 0, 0, 7, 0, 0\n").unwrap();
    let config = common::root().join("configs/system/hbm3-pim.toml");
    let run = |args: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_pimsim"));
        let out = command.arg("audit").arg(&log).arg("--config").arg(&config).args(args).output().unwrap();
        (String::from_utf8(out.stdout).unwrap(), out.status.code())
    };
    let (csv, code) = run(&["--why", "--format", "csv"]);
    let rows: Vec<&str> = csv.lines().collect();
    assert_eq!((rows[0], code), ("reason,kind,commands,cycles", Some(0)));
    assert!(
        rows[1].starts_with("\"ACTAB -> MACAB at channel nRCDRD = 19") || rows[1].starts_with("ACTAB -> MACAB"),
        "{csv}"
    );
    assert!(
        rows[1].ends_with(",constraint,1,19") && rows[2..] == ["results of MACAB,results,0,1", "start,start,1,0"],
        "{csv}"
    );
    let (text, _) = run(&["--why", "--max", "1"]);
    assert!(text.starts_with("cycle 1, channel 0: ACTAB: start, since 1\n") && !text.contains("cycle 20"), "{text}");
    assert!(text.contains("95.00") && text.contains(": clean: 2 commands"), "{text}");
    assert!(run(&["--why", "-v"]).0.contains("cycle 20, channel 0: MACAB: ACTAB -> MACAB"));
    assert_eq!(run(&["--format", "csv"]).1, Some(2));
}

/// The trace of a shipped workload, or of another policy on it, and the system that it is for.
fn shipped(workload: &str, set: &[String]) -> (Header, Vec<Record>, String) {
    struct Keep(Vec<Record>);
    impl Sink for Keep {
        fn push(&mut self, record: Record) -> pimattn_core::error::Result<()> {
            self.0.push(record);
            Ok(())
        }
        fn finish(&mut self) -> pimattn_core::error::Result<()> {
            Ok(())
        }
    }
    let file = common::root().join(format!("configs/workload/{workload}.toml"));
    let (workload, doc) = Workload::load(&file, set).unwrap();
    let system = Path::new(&workload.system).file_stem().unwrap().to_str().unwrap().to_string();
    let generator = Generator::load(workload, &doc, None).unwrap();
    let mut keep = Keep(Vec::new());
    generator.run(&mut keep, None, &mut |_| {}).unwrap();
    (generator.header().clone(), keep.0, system)
}

const POWER: [&str; 4] = ["per-command", "stagger", "charge", "ignore"];

/// Policies whose traces rules of the controller alone hold back for more than a hundredth of the work. Waiting at syncs,
/// which most channels of the demo do most of the time, does not count as work.
fn held_by_rules(workload: &str, policies: &[&str], set: &[&str], power: &[&str]) -> Vec<String> {
    let mut wrong = Vec::new();
    for policy in policies {
        for addressing in ["bank-group", "broadcast"] {
            let own = [format!("policy={policy}"), format!("mapping.addressing={addressing}")];
            let set: Vec<String> = own.into_iter().chain(set.iter().map(|s| s.to_string())).collect();
            let (header, records, system) = shipped(workload, &set);
            for power in power {
                let system = common::system(&system, &[&format!("power={power}")]);
                let mut source = Memory { header: header.clone(), records: records.clone() };
                let mut log = LogProbe::new(Vec::new(), &system.device);
                engine::run_with(Engine::Plain, &system, &mut source, &mut log, &mut |_| ()).unwrap();
                let text = String::from_utf8(log.finish().unwrap()).unwrap();
                let (reasons, _) = explain(&system, &text).unwrap();
                let (rules, work) = (reasons.rules().cycles, reasons.total().cycles - reasons.waiting());
                assert!(work > 1000, "{workload} {policy}");
                if rules * 100 > work {
                    let share = 100.0 * rules as f64 / work as f64;
                    wrong.push(format!(
                        "{workload} {policy} {addressing} {power}: {rules} of {work} cycles, {share:.2} %"
                    ));
                }
            }
        }
    }
    wrong
}

fn every_policy() -> Vec<&'static str> {
    select::REGISTRY.iter().map(|p| p.name).collect()
}

#[test]
fn rules_of_the_controller_alone_hold_back_at_most_a_hundredth_of_the_work() {
    let wrong = held_by_rules("demo", &every_policy(), &["steps=2"], &POWER);
    assert!(wrong.is_empty(), "{} of them:\n{}", wrong.len(), wrong.join("\n"));
}

/// The other workloads, cut short; with PIMATTN_WHY=all every policy under every power policy, at more of their length.
#[test]
fn rules_alone_hold_back_little_of_any_shipped_workload() {
    let all = std::env::var("PIMATTN_WHY").is_ok_and(|v| v == "all");
    let policies = if all { every_policy() } else { vec!["full", "quest", "starc", "sparq"] };
    let power = if all { &POWER[..] } else { &POWER[..1] };
    let length = if all { "synthetic.prefill=8192" } else { "synthetic.prefill=2048" };
    let workloads: [(&str, &[&str]); 4] = [
        ("stack", &["steps=1", length, "synthetic.decode_steps=1", "synthetic.kv_heads=3", "synthetic.query_heads=3"]),
        ("fitted", &["steps=1", length]),
        ("serving", &["steps=1", "batch.requests=4"]),
        ("synthetic", &["steps=1", length, "synthetic.kv_heads=2", "synthetic.query_heads=8"]),
    ];
    let wrong: Vec<String> =
        workloads.par_iter().flat_map(|(name, set)| held_by_rules(name, &policies, set, power)).collect();
    assert!(wrong.is_empty(), "{} of them:\n{}", wrong.len(), wrong.join("\n"));
}
