//! Plain DRAM: latency and throughput of LD and ST against closed forms, row hits, misses and conflicts, and the turns
//! of reads and writes.

use crate::common;

use common::{Memory, cycles, load, one, root, run, system};
use pimattn_audit::why::why;
use pimattn_core::addr::Address;
use pimattn_core::op::Op;
use pimattn_core::spec::System;
use pimattn_engine as engine;
use pimattn_engine::probe::{CommandEvent, Probe};
use pimattn_stats::log::LogProbe;
use pimattn_stats::{Collector, Counters};
use pimattn_trace::{self as trace, Arrival, Header, Record, Request};

const SYSTEMS: [&str; 5] = ["hbm3-pim", "hbm3", "hbm2", "hbm2-pim-samsung", "gddr6-aim"];

pub(crate) fn timed(name: &str, interval: u32, set: &[&str]) -> System {
    let interval = format!("issue_interval={interval} tCK");
    system(name, &[&[interval.as_str(), "channels=1"], set].concat())
}

/// The `i`-th read of a row of every bank group of one pseudo-channel, bank groups in turn.
fn interleaved(s: &System, op: Op, bank: u32, i: u32) -> Request {
    let g = &s.device.geometry;
    let column = i / g.bank_groups % g.columns;
    one(g, op, Address { bank_group: i % g.bank_groups, bank, row: 3, column, ..Default::default() })
}

/// Mean and longest latency of the reads.
pub(crate) fn latency(s: &System, work: &[Request]) -> (f64, u64, Counters) {
    let c = run(s, work).1.run.counters;
    assert_eq!(c.timed_reads, c.requests[Op::Ld as usize]);
    (c.read_latency as f64 / c.timed_reads as f64, c.longest_read, c)
}

#[test]
fn unloaded_latencies_of_misses_hits_and_conflicts() {
    for name in SYSTEMS {
        let s = timed(name, 1000, &["refresh=none"]);
        let (g, t) = (&s.device.geometry, |n: &str| s.device.timings[n]);
        let hit = t("nCL") + t("nBL");
        let miss = t("nRCDRD") + hit;
        let conflict = t("nRP") + miss;
        let every_bank: Vec<Request> = (0..g.banks_per_channel())
            .map(|b| one(g, Op::Ld, Address { bank: b % g.banks, row: 5, ..g.unit_address(0, b / g.banks) }))
            .collect();
        let (mean, longest, c) = latency(&s, &every_bank);
        assert_eq!((mean, longest), (miss as f64, miss), "{name}");
        assert_eq!((c.hits, c.misses, c.conflicts), (0, every_bank.len() as u64, 0));

        let row: Vec<Request> =
            (0..11).map(|column| one(g, Op::Ld, Address { column, ..Default::default() })).collect();
        let (mean, longest, c) = latency(&s, &row);
        assert_eq!((mean, longest), ((miss + 10 * hit) as f64 / 11.0, miss), "{name}");
        assert_eq!((c.hits, c.misses, c.conflicts), (10, 1, 0));

        let rows: Vec<Request> = (0..11).map(|row| one(g, Op::Ld, Address { row, ..Default::default() })).collect();
        let (mean, longest, c) = latency(&s, &rows);
        assert_eq!((mean, longest), ((miss + 10 * conflict) as f64 / 11.0, conflict), "{name}");
        assert_eq!((c.hits, c.misses, c.conflicts), (0, 1, 10));
    }
}

#[test]
fn arrivals_are_kept_by_runs_and_single_requests_alike() {
    let s = timed("hbm3", 7, &["refresh=none"]);
    let g = &s.device.geometry;
    let single: Vec<Request> = (0..30).map(|column| one(g, Op::Ld, Address { column, ..Default::default() })).collect();
    let whole = Request { count: 30, stride: g.column_bytes, ..single[0] };
    assert_eq!(latency(&s, &single), latency(&s, &[whole]));
    // The last arrives after 29 intervals and is a hit.
    let hit = s.device.timings["nCL"] + s.device.timings["nBL"];
    assert_eq!(cycles(&s, &[whole]), 29 * 7 + hit);
    let untimed = run(&system("hbm3", &[]), &single).1.run.counters;
    assert_eq!((untimed.timed_reads, untimed.longest_read), (0, 0));
}

#[test]
fn saturation_is_one_column_each_burst_across_bank_groups_and_each_nccdl_within_one() {
    for name in SYSTEMS {
        let s = system(name, &["refresh=none", "channels=1"]);
        let (g, t) = (&s.device.geometry, |n: &str| s.device.timings[n]);
        let opened = |n: u32| cycles(&s, &(0..n).map(|i| interleaved(&s, Op::Ld, 0, i)).collect::<Vec<_>>());
        // With the rows open, the reads follow one another on the data bus.
        let n = g.bank_groups * g.columns;
        let burst = t("nBL").max(t("nCCDS")).max(t("nCCDL").div_ceil(u64::from(g.bank_groups)));
        assert_eq!(opened(n) - opened(n / 2), u64::from(n / 2) * burst, "{name}");
        let within = |n: u32| {
            let one_bank = one(g, Op::Ld, Address { row: 3, ..Default::default() });
            cycles(&s, &[Request { count: n, stride: g.column_bytes, ..one_bank }])
        };
        assert_eq!(within(16) - within(1), 15 * t("nCCDL").max(t("nBL")), "{name}");
    }
}

#[test]
fn the_latency_throughput_curve_rises_to_the_peak_less_refresh() {
    for name in ["hbm3", "hbm2"] {
        let n = 20_000u32;
        let mut last = f64::INFINITY;
        for interval in [50, 10, 4, 3, 2, 1] {
            let s = timed(name, interval, &[]);
            let t = |n: &str| s.device.timings[n];
            let work: Vec<Request> = (0..n).map(|i| interleaved(&s, Op::Ld, 0, i)).collect();
            let (cycles, c) = run(&s, &work);
            let c = c.run.counters;
            let mean = c.read_latency as f64 / f64::from(n);
            // Throughput: what arrives, or the data bus less the time that refresh takes of it.
            let rate = f64::from(n) / cycles as f64;
            let offered = 1.0 / f64::from(interval);
            let around = t("nRP") + t("nRFC") + t("nRCDRD") + t("nRAS") + 8;
            let busy = 1.0 - around as f64 / t("nREFI") as f64;
            let ideal = 1.0 - t("nRFC") as f64 / t("nREFI") as f64;
            let bus = 1.0 / t("nBL") as f64;
            assert!(rate <= offered.min(bus * ideal) * 1.01, "{name} {interval}: {rate}");
            assert!(rate >= offered.min(bus * busy) * 0.99, "{name} {interval}: {rate}");
            // Latency: no less than a hit; it grows with the load, without bound past saturation.
            let hit = (t("nCL") + t("nBL")) as f64;
            assert!(
                mean >= hit && (mean > f64::from(n) / 50.0) == (offered > bus * ideal),
                "{name} {interval}: {mean}"
            );
            assert!(interval == 50 || mean >= last - 1.0, "{name} {interval}: {mean} after {last}");
            last = mean;
        }
    }
}

// ------------------------------------------------------------------------------------------------ reads and writes

/// Reads and writes in the order of their commands.
struct Order<'s>(&'s System, Vec<(Op, u64)>);

impl Probe for Order<'_> {
    fn command(&mut self, e: &CommandEvent) {
        if let Some(c) = e.completes {
            self.1.push((c.op, self.0.device.geometry.encode(&e.address)));
        }
    }
}

fn order(s: &System, work: &[Request]) -> Vec<(Op, u64)> {
    let text: String = work.iter().map(|r| format!("{} {:#x}\n", r.op.mnemonic(), r.addr)).collect();
    let input = Box::new(std::io::Cursor::new(text.into_bytes()));
    let mut source = trace::open(input, "trace", Some(s.addressing())).unwrap();
    let mut probe = Order(s, Vec::new());
    engine::run(s, source.as_mut(), &mut probe, &mut |_| ()).unwrap();
    probe.1
}

/// Lengths of the runs of one kind.
fn turns(order: &[(Op, u64)]) -> Vec<usize> {
    order.chunk_by(|a, b| a.0 == b.0).map(<[_]>::len).collect()
}

/// Reads of one bank of each bank group, and writes of another, in turn; all rows stay open.
pub(crate) fn alternating(s: &System, n: u32) -> Vec<Request> {
    (0..n).flat_map(|i| [interleaved(s, Op::Ld, 0, i), interleaved(s, Op::St, 1, i)]).collect()
}

#[test]
fn reads_go_first_until_the_writes_reach_the_high_mark() {
    for name in SYSTEMS {
        let s = system(name, &["refresh=none", "channels=1", "queue_depth=32", "writes.high=0.75", "writes.low=0.25"]);
        // Reads fill their queue before a write is in sight.
        let mut work: Vec<Request> = (0..32).map(|i| interleaved(&s, Op::Ld, 0, i)).collect();
        work.extend(alternating(&s, 200));
        let got = order(&s, &work);
        assert_eq!(got.len(), 432);
        let runs = turns(&got);
        // Each read served lets in a read and the write behind it. When 24 writes wait, 16 of them go, until 8 are left: the
        // reads' queue is full, so none comes meanwhile; and so on.
        assert_eq!(got[0].0, Op::Ld, "{name}");
        assert!((24..=56).contains(&runs[0]), "{name}: {runs:?}");
        let (middle, end) = runs[1..].split_at(runs.len() - 3);
        assert!(middle.len() > 4 && middle.iter().all(|n| (14..=32).contains(n)), "{name}: {runs:?}");
        assert!(end.iter().sum::<usize>() <= 64, "{name}: {runs:?}");
    }
}

#[test]
fn turns_save_the_turnarounds_of_the_data_bus() {
    for name in SYSTEMS {
        let s = system(name, &["refresh=none", "channels=1"]);
        let work = alternating(&s, 300);
        let in_order = System { writes: None, queue_depth: 1, ..s.clone() };
        let (a, b) = (cycles(&s, &work), cycles(&in_order, &work));
        assert!(2 * a < b, "{name}: {a} in turns, {b} one by one");
        let t = |n: &str| s.device.timings[n];
        // A turn costs no more than both turnarounds and the latencies of both kinds.
        let turns = turns(&order(&s, &work)).len() as u64;
        let turn = t("nCL") + t("nCWL") + 2 * t("nBL") + t("nWTRL") + t("nRCDRD");
        let burst = t("nBL").max(t("nCCDS")).max(t("nCCDL").div_ceil(4));
        assert!(a <= 600 * burst + (turns + 2) * turn, "{name}: {a} for {turns} turns");
    }
}

#[test]
fn reads_wait_less_when_they_go_first() {
    for name in SYSTEMS {
        for interval in [3, 4] {
            let s = timed(name, interval, &["refresh=none"]);
            let work = alternating(&s, 2000);
            let (mean, _, _) = latency(&s, &work);
            let (other, _, _) = latency(&System { writes: None, ..s.clone() }, &work);
            assert!(mean < 0.9 * other, "{name} {interval}: {mean} in turns, {other} first ready");
        }
    }
}

#[test]
fn a_read_gets_what_an_older_write_brought() {
    for name in SYSTEMS {
        let s = system(name, &["refresh=none", "channels=1"]);
        let g = &s.device.geometry;
        let place = Address { bank: 2, row: 6, column: 1, ..Default::default() };
        let (write, read) = (one(g, Op::St, place), one(g, Op::Ld, place));
        let mut work = vec![write, read];
        work.extend((0..40).map(|i| interleaved(&s, Op::Ld, 0, i)));
        let got = order(&s, &work);
        let when = |op| got.iter().position(|x| *x == (op, write.addr)).unwrap();
        assert!(when(Op::St) < when(Op::Ld), "{name}");
        assert!(when(Op::St) < 20, "{name}: the read does not wait for all others");
        assert_eq!(got.len(), work.len());
        // Nobody waits for it: the other reads go first.
        let unread = order(&s, &[&work[..1], &work[2..]].concat());
        assert!(unread.iter().position(|x| x.0 == Op::St).unwrap() > 20, "{name}");
    }
}

#[test]
fn marks_that_cannot_be_are_errors() {
    let file = root().join("configs/system/hbm3.toml");
    for (set, what) in [
        (&["writes.high=0.2"][..], "not 0 <= low = 0.2 < high = 0.2 <= 1"),
        (&["writes.high=2"][..], "high = 2"),
        (&["writes.hi=0.5"][..], "did you mean \"high\"?"),
        (&["issue_interval=4"][..], "4 has no unit"),
        (&["reads.depth=0"][..], "reads.depth = 0 is not in 1..=1024"),
        (&["writes.depth=1025"][..], "writes.depth = 1025 is not in 1..=1024"),
        (&["scheduler.row_hits=0"][..], "scheduler.row_hits = 0 is not in 1..=1024"),
        (&["scheduler.bank_depth=0", "scheduler.forward=true"][..], "scheduler.bank_depth = 0 is not in 1..=1024"),
        (&["scheduler.bank_depth=8"][..], "needs forward"),
        (&["scheduler.order=youngest"][..], "youngest"),
        (&["scheduler.bank_feed=1"][..], "bank_feed=1: without bank_depth"),
        (&["scheduler.idle_writes=8"][..], "idle_writes=8: without bank_depth"),
        (&["scheduler.bank_feed=0"][..], "scheduler.bank_feed = 0 is not in 1..=1024"),
        (&["scheduler.loses_turn=true"][..], "needs order = \"banks-in-turn\""),
    ] {
        let e = load(&file, set).unwrap_err().to_string();
        assert!(e.contains(what), "{e}");
    }
    let compat = root().join("configs/system/attacc-compat.toml");
    let e = load(&compat, &["issue_interval=4 tCK"]).unwrap_err().to_string();
    assert!(e.contains("the compat controller has no issue_interval"), "{e}");
    let e = load(&compat, &["scheduler.merge=true"]).unwrap_err().to_string();
    assert!(e.contains("the compat controller has no scheduler"), "{e}");
}

/// Reads of four banks behind so many writes of one.
fn behind_writes(s: &System, writes: u32) -> Vec<Request> {
    let g = &s.device.geometry;
    let write = |i| one(g, Op::St, Address { row: 7, column: i % g.columns, ..Default::default() });
    let read = |i| {
        let (bank_group, column) = (i % g.bank_groups, i / g.bank_groups % g.columns);
        let row = 8 + i / g.bank_groups / g.columns;
        one(g, Op::Ld, Address { bank_group, bank: 1, row, column, ..Default::default() })
    };
    (0..writes).map(write).chain((0..2048).map(read)).collect()
}

#[test]
fn writes_that_wait_do_not_keep_reads_out() {
    for name in SYSTEMS {
        let s = system(name, &["channels=1"]);
        let alone = cycles(&s, &behind_writes(&s, 0));
        for writes in [8, 16, 24, 25, 26, 32] {
            let with = cycles(&s, &behind_writes(&s, writes));
            assert!(
                with <= alone + alone / 50 + 40 * u64::from(writes),
                "{name}: {with} behind {writes}, {alone} alone"
            );
        }
    }
}

#[test]
fn each_kind_has_a_queue_of_its_own_depth() {
    let s = |set: &[&str]| system("hbm3", &[&["channels=1", "refresh=none"], set].concat());
    let rate = |set: &[&str]| {
        let s = s(set);
        let g = s.device.geometry;
        // Rows of many banks: the more are in sight, the more open at a time.
        let read =
            |i: u32| Address { bank: i / 4 % 4, bank_group: i % 4, rank: i / 16 % 2, row: i, ..Default::default() };
        let op = |i: u32| if i.is_multiple_of(2) { Op::Ld } else { Op::St };
        cycles(&s, &(0..1024).map(|i| one(&g, op(i), read(i))).collect::<Vec<_>>())
    };
    let (one_each, both) = (rate(&["reads.depth=1", "writes.depth=1"]), rate(&["reads.depth=32", "writes.depth=32"]));
    let reads = rate(&["reads.depth=32", "writes.depth=1"]);
    assert!(both < reads && reads <= one_each, "{both} {reads} {one_each}");
    assert_eq!(rate(&[]), both);
    assert_eq!(rate(&["queue_depth=8"]), rate(&["reads.depth=8", "writes.depth=8"]));
}

#[test]
fn a_deeper_queue_is_not_slower_when_reads_follow_writes() {
    let work = |s: &System| {
        let g = s.device.geometry;
        // New columns are written, and read again and again among others.
        let place = |i: u32| Address { bank: i % 4, row: 3, column: i / 4 % g.columns, ..Default::default() };
        let new = (0..16).map(|i| one(&g, Op::St, place(i)));
        let all = (0..4096).map(|i| {
            let again = i % 64 < 16;
            let other =
                Address { bank_group: 1 + i % 3, row: i / 192, column: i / 3 % g.columns, ..Default::default() };
            one(&g, Op::Ld, if again { place(i % 64) } else { other })
        });
        new.chain(all).collect::<Vec<_>>()
    };
    let mut last = u64::MAX;
    for depth in ["8", "16", "32", "64", "96", "128"] {
        let s = system("hbm3", &["channels=1", "refresh=none", &format!("queue_depth={depth}")]);
        let n = cycles(&s, &work(&s));
        assert!(n <= last.saturating_add(last / 100), "{depth}: {n} after {last}");
        last = n.min(last);
    }
}

#[test]
fn a_waiting_write_answers_reads_of_its_column_where_the_system_forwards() {
    for set in [&["scheduler.forward=true"][..], &["scheduler.forward=true", "scheduler.bank_depth=8"]] {
        let s = system("hbm3", &[&["refresh=none", "channels=1"], set].concat());
        let g = &s.device.geometry;
        let place = Address { bank: 2, row: 6, column: 1, ..Default::default() };
        let mut work = vec![one(g, Op::St, place), one(g, Op::Ld, place)];
        work.extend((0..40).map(|i| interleaved(&s, Op::Ld, 0, i)));
        let c = run(&s, &work).1.run.counters;
        // No command for it, so it counts for no row.
        assert_eq!((c.requests[Op::Ld as usize], c.requests[Op::St as usize]), (41, 1));
        assert_eq!(c.hits + c.misses + c.conflicts, 41, "{set:?}");
    }
}

#[test]
fn reads_of_one_column_are_one_read_where_the_system_merges() {
    let work = |s: &System| {
        let g = s.device.geometry;
        (0..64)
            .map(|i| interleaved(s, Op::Ld, 0, i / 4))
            .chain([one(&g, Op::Ld, Address::default())])
            .collect::<Vec<_>>()
    };
    let counters = |set: &[&str]| {
        let s = system("hbm3", &[&["refresh=none", "channels=1"], set].concat());
        run(&s, &work(&s)).1.run.counters
    };
    let (each, merged) = (counters(&[]), counters(&["scheduler.merge=true"]));
    assert_eq!((each.requests, each.hits + each.misses + each.conflicts), (merged.requests, 65));
    let commands = merged.hits + merged.misses + merged.conflicts;
    assert!((17..=24).contains(&commands), "{commands}");
}

#[test]
fn a_row_stays_open_for_so_many_hits() {
    // One read of a row and many of another, in turn: whoever is older closes the row, or only after four hits.
    let switches = |set: &[&str]| {
        let s = system("hbm3", &[&["refresh=none", "channels=1"], set].concat());
        let g = &s.device.geometry;
        let act = usize::from(s.device.plans[Op::Ld as usize].unwrap().opener.unwrap());
        let read = |i: u32| one(g, Op::Ld, Address { row: 5 + i % 2, column: i / 2 % g.columns, ..Default::default() });
        run(&s, &(0..64).map(read).collect::<Vec<_>>()).1.run.counters.issued[act]
    };
    assert!(switches(&["scheduler.row_hits=4"]) <= 64 / 4 + 1);
    assert!(switches(&["scheduler.row_hits=32"]) <= switches(&["scheduler.row_hits=4"]));
    assert!(switches(&["scheduler.closes=first-ready"]) >= 2);
}

#[test]
fn one_command_bus_carries_a_command_a_cycle() {
    #[derive(Default)]
    struct Cycles(Vec<u64>);
    impl Probe for Cycles {
        fn command(&mut self, e: &CommandEvent) {
            self.0.push(e.cycle);
        }
    }
    let commands = |set: &[&str]| {
        let s = system("hbm3", &[&["channels=1"], set].concat());
        let g = &s.device.geometry;
        let place = |i: u32| Address {
            pseudo_channel: i % 2,
            bank_group: i / 2 % 4,
            bank: i / 8 % 4,
            row: i / 32,
            ..Default::default()
        };
        let text: String = (0..2000).map(|i| format!("LD {:#x}\n", g.encode(&place(i)))).collect();
        let mut source =
            trace::open(Box::new(std::io::Cursor::new(text.into_bytes())), "trace", Some(s.addressing())).unwrap();
        let mut probe = Cycles::default();
        engine::run(&s, source.as_mut(), &mut probe, &mut |_| ()).unwrap();
        probe.0
    };
    let twice = |c: &[u64]| c.windows(2).filter(|w| w[0] == w[1]).count();
    assert!(twice(&commands(&[])) > 0);
    assert_eq!(twice(&commands(&["scheduler.one_bus=true"])), 0);
}

/// The commands of a log: when they came, which, and of the address the bank group, bank, row and column.
fn commands(log: &str) -> Vec<(u64, &str, [i64; 4])> {
    let line = |l| {
        let words: Vec<&str> = str::split(l, ", ").collect();
        let number = |i: usize| words[i].parse().unwrap();
        (words[0].parse().unwrap(), words[1], [number(5), number(6), number(7), number(8)])
    };
    log.lines().filter(|l| !l.contains("ARRIVAL")).map(line).collect()
}

/// What held the commands of a log, by name; the audit finds nothing wrong with it.
fn reasons(s: &System, log: &str) -> Vec<String> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), log).unwrap();
    let mut held = Vec::new();
    let (report, _) = why(file.path(), s, 5, &mut |h| held.push(h.reason.name(&s.device))).unwrap();
    assert_eq!(report.broken, 0, "{}", report.render(&s.device, "log", false));
    held
}

const BANKS: [&str; 5] = [
    "channels=1",
    "scheduler.forward=true",
    "scheduler.bank_depth=8",
    "scheduler.order=banks-in-turn",
    "writes.high=1.0",
];

fn of_banks(set: &[&str]) -> System {
    system("hbm2", &[&BANKS[..], &["writes.low=0.0"], set].concat())
}

#[test]
fn so_many_requests_a_clock_move_to_the_banks() {
    let cycles = |set: &[&str], reads: u32| {
        let s = of_banks(&[&["refresh=none"], set].concat());
        let g = &s.device.geometry;
        // All of one row, so that the last of them shows when it came.
        let work: Vec<_> = (0..reads).map(|i| one(g, Op::Ld, Address { column: i, ..Default::default() })).collect();
        cycles(&s, &work)
    };
    assert_eq!(cycles(&["scheduler.bank_feed=1"], 1), cycles(&[], 1) + 1);
    assert_eq!(cycles(&["scheduler.bank_feed=8"], 8), cycles(&[], 8) + 1);
    // Writes in ever other rows, among which few banks work at a time unless many are fed.
    let s = of_banks(&["scheduler.bank_feed=1", "writes.high=0.5"]);
    let g = &s.device.geometry;
    let place =
        |i: u32| Address { bank_group: i % 4, bank: i / 4 % 4, row: i / 64, column: i % 32, ..Default::default() };
    let op = |i: u32| if i.is_multiple_of(5) { Op::Ld } else { Op::St };
    let work: Vec<_> = (0..2000).map(|i| (0, one(g, op(i), place(i)))).collect();
    let (_, _, log) = arriving(&s, &work);
    let first = |request: u64| {
        let ends = format!(", {request}");
        log.lines()
            .find(|l| l.ends_with(&ends) && !l.contains("ARRIVAL"))
            .map(|l| l.split(',').next().unwrap().parse::<u64>().unwrap())
    };
    // Lines count from clock 1, and a request has a command from the clock after that in which it moved.
    let firsts: Vec<u64> = {
        let mut all: Vec<u64> = (0..2000).filter_map(first).collect();
        all.sort_unstable();
        all
    };
    assert!(firsts.iter().enumerate().all(|(i, at)| *at >= i as u64 + 2), "more than one a clock");
    assert!(reasons(&s, &log).iter().any(|r| r == "feed of the bank's queue"));
}

#[test]
fn writes_for_idle_banks_go_before_reads_where_many_wait() {
    let first = |set: &[&str], writes: u32| {
        let s = of_banks(&[&["scheduler.bank_feed=1", "refresh=none"], set].concat());
        let g = &s.device.geometry;
        let place = |i: u32| Address { bank_group: i % 4, bank: i / 4 % 4, row: 3, ..Default::default() };
        let op = |i: u32| if i < 4 { Op::Ld } else { Op::St };
        let work: Vec<_> = (0..4 + writes).map(|i| one(g, op(i), place(i))).collect();
        order(&s, &work)[0].0
    };
    assert_eq!(first(&[], 9), Op::Ld);
    assert_eq!(first(&["scheduler.idle_writes=8"], 9), Op::St);
    assert_eq!(first(&["scheduler.idle_writes=8"], 8), Op::Ld);
}

#[test]
fn a_write_does_not_move_past_an_older_read_of_its_column() {
    for feed in [&["scheduler.bank_depth=1"][..], &["scheduler.bank_depth=1", "scheduler.bank_feed=1"]] {
        let s = of_banks(&[&["refresh=none", "writes.high=0.1"], feed].concat());
        let g = &s.device.geometry;
        let at = |op, row, bank, column| (0, one(g, op, Address { bank, row, column, ..Default::default() }));
        let reads = [at(Op::Ld, 1, 0, 0), at(Op::Ld, 2, 0, 0), at(Op::Ld, 7, 0, 3)];
        let writes = (0..8).map(|i| at(Op::St, 7, i % 2, 3 + i / 2));
        let (_, collector, log) = arriving(&s, &reads.into_iter().chain(writes).collect::<Vec<_>>());
        assert_eq!(collector.run.counters.requests[Op::St as usize], 8);
        let place = |name: &str| commands(&log).iter().position(|c| c.1 == name && c.2 == [0, 0, 7, 3]).unwrap();
        assert!(place("RD") < place("WR"), "{feed:?}: {log}");
    }
}

#[test]
fn a_bank_loses_its_turn_where_it_wants_the_same_bus() {
    let closings = |set: &[&str]| {
        let s = of_banks(&[&["refresh=none"], set].concat());
        let g = &s.device.geometry;
        let read = |cycle, bank, row| (cycle, one(g, Op::Ld, Address { bank, row, ..Default::default() }));
        // Behind the opening of bank 0's row it is bank 1's turn to close one, and then bank 2's.
        let work = [read(0, 1, 1), read(0, 2, 1), read(1000, 0, 5), read(1000, 1, 2), read(1000, 2, 2)];
        let (_, _, log) = arriving(&s, &work);
        commands(&log).iter().filter(|c| c.1 == "PRE").map(|c| c.2[1]).collect::<Vec<_>>()
    };
    assert_eq!(closings(&[]), [1, 2]);
    assert_eq!(closings(&["scheduler.loses_turn=true"]), [2, 1]);
}

#[test]
fn rows_that_nothing_waits_for_are_closed() {
    for name in SYSTEMS {
        let run = |set: &[&str]| {
            let s = system(name, &[&["refresh=none", "channels=1"], set].concat());
            let g = s.device.geometry;
            let read = |cycle, bank, row| (cycle, one(&g, Op::Ld, Address { bank, row, ..Default::default() }));
            let (cycles, collector, log) = arriving(&s, &[read(0, 1, 5), read(5000, 1, 6), read(9000, 1, 6)]);
            (s, cycles, collector.run.counters, log)
        };
        let (_, kept, c, _) = run(&[]);
        assert_eq!((c.misses, c.conflicts, c.hits), (1, 1, 1), "{name}");
        let (s, closed, c, log) = run(&["scheduler.closes_idle=true"]);
        assert_eq!((c.misses, c.conflicts, c.hits), (3, 0, 0), "{name}: {log}");
        let t = |n: &str| s.device.timings[n];
        assert_eq!(closed, kept + t("nRCDRD"), "{name}: the last one is no hit");
        let close = commands(&log).iter().find(|c| c.1 == "PRE").unwrap().0;
        assert!(close < 200, "{name}: {close}");
        reasons(&s, &log);
    }
    // What waits for the row, or for the bus alone, keeps it from being closed.
    let s = system("hbm3", &["channels=1", "refresh=none", "scheduler.closes_idle=true"]);
    let work: Vec<_> = (0..256).map(|i| interleaved(&s, Op::Ld, 0, i)).collect();
    let c = run(&s, &work).1.run.counters;
    assert!(c.misses + c.conflicts <= 256 / s.device.geometry.columns as u64 + 8, "{} {}", c.misses, c.conflicts);
}

#[test]
fn reads_go_on_until_a_refresh_comes() {
    let run = |set: &[&str]| {
        let s = system("hbm2-pim-samsung", &[&["channels=1", "scheduler.one_bus=true"], set].concat());
        let g = s.device.geometry;
        let mut x = 1u64;
        let work: Vec<_> = (0..8000)
            .map(|_| {
                let n = common::splitmix64(&mut x) as u32;
                let (bank_group, bank) = (n % 4, n / 4 % 4);
                (
                    0,
                    one(
                        &g,
                        Op::Ld,
                        Address { bank_group, bank, row: n / 16 % 4096, column: n >> 20 & 31, ..Default::default() },
                    ),
                )
            })
            .collect();
        let (_, _, log) = arriving(&s, &work);
        reasons(&s, &log);
        let all = commands(&log);
        let refreshes: Vec<u64> = all.iter().filter(|c| c.1 == "REFab").map(|c| c.0).collect();
        let interval = s.device.timings["nREFI"];
        let reads = all.iter().filter(|c| c.1 == "RD" && c.0 > interval + 60 && c.0 < refreshes[0]).count();
        let late = refreshes.iter().zip(1..).map(|(at, n)| at - n * interval).max().unwrap();
        (refreshes.len(), reads, late / interval)
    };
    let (count, reads, late) = run(&[]);
    assert!(count >= 8 && reads == 0 && late == 0, "{count} {reads} {late}");
    let (count, reads, late) = run(&["scheduler.works_until_refresh=true"]);
    assert!(count >= 4 && reads > 100 && late < 9, "{count} {reads} {late}");
}

/// A trace with arrivals: when it was done, its counters and its log.
fn arriving(s: &System, work: &[(u64, Request)]) -> (u64, Collector, String) {
    let records = work.iter().flat_map(|(cycle, request)| {
        [Record::Arrival(Arrival { channel: 0, cycle: *cycle }), Record::Request(*request)]
    });
    let mut source = Memory { header: Header::foreign(s.device.geometry, "test"), records: records.collect() };
    let mut probe = (Collector::new(&s.device), LogProbe::new(Vec::new(), &s.device));
    let cycles = engine::run(s, &mut source, &mut probe, &mut |_| ()).unwrap();
    (cycles, probe.0, String::from_utf8(probe.1.finish().unwrap()).unwrap())
}

#[test]
fn requests_come_no_earlier_than_the_trace_says() {
    for name in SYSTEMS {
        let s = system(name, &["refresh=none", "channels=1"]);
        let (g, t) = (&s.device.geometry, |n: &str| s.device.timings[n]);
        let (hit, miss) = (t("nCL") + t("nBL"), t("nRCDRD") + t("nCL") + t("nBL"));
        let read = |column| one(g, Op::Ld, Address { row: 5, column, ..Default::default() });
        let work = [(0, read(0)), (5000, read(1)), (4000, read(2)), (90_000, read(3))];
        let (cycles, collector, log) = arriving(&s, &work);
        assert_eq!(cycles, 90_000 + hit, "{name}");
        let c = &collector.run.counters;
        // The third arrives with the second, and its data come behind.
        assert_eq!((c.timed_reads, c.longest_read), (4, miss), "{name}");
        assert_eq!(c.read_latency, miss + 3 * hit + t("nCCDL"), "{name}");
        assert!(log.contains("5001, ARRIVAL, 0, -1, -1, -1, -1, -1, -1, 1\n5001, RD,"), "{name}: {log}");
        // A read before it arrives is none that the audit lets pass.
        let early =
            log.replace("5001, ARRIVAL, 0, -1, -1, -1, -1, -1, -1, 1", "5001, ARRIVAL, 0, -1, -1, -1, -1, -1, -1, 0");
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), early).unwrap();
        assert_eq!(why(file.path(), &s, 5, &mut |_| ()).unwrap().0.broken, 1, "{name}");
        // What they waited for is in the log, and nothing else held the two.
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), log).unwrap();
        let mut held = Vec::new();
        let (report, _) = why(file.path(), &s, 5, &mut |h| held.push(h.reason.name(&s.device))).unwrap();
        assert_eq!(report.broken, 0, "{name}");
        assert_eq!((held[2].as_str(), held[4].as_str()), ("arrival", "arrival"), "{name}: {held:?}");
    }
    // Refreshes go on in between, as many as there is time for.
    let s = system("hbm3", &["channels=1"]);
    let row = |row| one(&s.device.geometry, Op::Ld, Address { row, ..Default::default() });
    let (cycles, collector, _) = arriving(&s, &[(0, row(1)), (1_000_000, row(2))]);
    assert!((1_000_000..1_001_000).contains(&cycles), "{cycles}");
    assert_eq!(
        collector.run.counters.issued[usize::from(s.device.command("REFab").unwrap())],
        1_000_000 / s.device.timings["nREFI"]
    );
    let compat = system("attacc-compat", &[]);
    let records = vec![Record::Arrival(Arrival { channel: 0, cycle: 5 })];
    let mut source = Memory { header: Header::foreign(compat.device.geometry, "test"), records };
    let e = engine::run(&compat, &mut source, &mut (), &mut |_| ()).unwrap_err().to_string();
    assert!(e.contains("arrival cycles"), "{e}");
}

/// Cycles of a text trace on hbm3 with an order of addresses.
fn in_order(order: Option<&str>, text: String) -> Result<u64, String> {
    let set = order.map(|o| format!("address_order={o}"));
    let s = system("hbm3", &set.as_deref().into_iter().collect::<Vec<_>>());
    let input = Box::new(std::io::Cursor::new(text.into_bytes()));
    let mut source = trace::open(input, "trace", Some(s.addressing())).map_err(|e| e.to_string())?;
    engine::run(&s, source.as_mut(), &mut Collector::new(&s.device), &mut |_| ()).map_err(|e| e.to_string())
}

#[test]
fn the_order_of_addresses_spreads_sequential_reads() {
    // 256 KiB from the beginning: one bank of one channel after the other, or all channels at once.
    let text: String = (0..8192).map(|i| format!("LD {:#x}\n", i * 32)).collect();
    let cycles = |order| in_order(order, text.clone()).unwrap();
    let s = system("hbm3", &[]);
    let g = &s.device.geometry;
    // A column of each pseudo-channel in nBL cycles is the peak.
    let peak = 8192 / u64::from(g.channels * g.pseudo_channels) * s.device.timings["nBL"];
    assert!(cycles(None) > 100 * peak / 2, "one bank group has a column each nCCDL");
    assert_eq!(cycles(Some("ChRaBaRoCo")), cycles(None));
    let spread = cycles(Some("RoRaBaCoBgPcCh"));
    assert!(spread < peak + 100, "{spread} cycles, {peak} at peak, and one row to open");
    // The same places, named in either order.
    let order: pimattn_core::order::AddressOrder = "RoRaBaCoBgPcCh".parse().unwrap();
    let place = |i: u64| order.to_default(i * 32, g).unwrap();
    let renamed: String = (0..8192).map(|i| format!("LD {:#x}\n", place(i))).collect();
    assert_eq!(in_order(None, renamed).unwrap(), spread);
}

#[test]
fn an_order_of_addresses_is_for_loads_and_stores() {
    let e = in_order(Some("RoBaRaCoCh"), "LD 0x0\nPIM_MAC_AB 0x0\n".into()).unwrap_err();
    assert!(e.contains("trace:2: PIM_MAC_AB is addressed channel first; address_order = \"RoBgBaRaCoChPc\""), "{e}");
    let e = in_order(Some("RoBaRaCoCh"), format!("LD {:#x}\n", 1u64 << 40)).unwrap_err();
    assert!(e.contains("trace:1: LD address 0x10000000000 in the order RoBgBaRaCoChPc is beyond the device"), "{e}");
}
