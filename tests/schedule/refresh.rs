//! Refreshes of single banks, of the same bank of every bank group, of ranks in turn, and at twice the rate: against
//! schedules by hand, and on random traces against the audit.

use crate::common;
use crate::schedule::audit::{Random, random_trace};

use common::{Memory, cycles, load, macs, one, root, run, system};
use pimattn_audit::{self as audit, why::why};
use pimattn_core::addr::{Address, Geometry};
use pimattn_core::op::Op;
use pimattn_core::spec::system::EnergyModel;
use pimattn_core::spec::{Effect, System};
use pimattn_engine::{self as engine, Engine};
use pimattn_stats::energy::Energy;
use pimattn_stats::log::LogProbe;
use pimattn_stats::{Collector, Counters};
use pimattn_trace::{Header, Record, Request};
use std::path::Path;

fn log(s: &System, requests: &[Request]) -> String {
    let records = requests.iter().map(|r| Record::Request(*r)).collect();
    let mut source = Memory { header: Header::foreign(s.device.geometry, "test"), records };
    let mut probe = LogProbe::new(Vec::new(), &s.device);
    engine::run_with(Engine::Plain, s, &mut source, &mut probe, &mut |_| ())
        .unwrap_or_else(|e| panic!("{} {}: {e}", s.name, s.device.preset));
    String::from_utf8(probe.finish().unwrap()).unwrap()
}

/// Clock, from 0, and name of every command of a log, and its bank.
fn commands(log: &str) -> Vec<(u64, String, [i64; 4])> {
    let of = |line: &str| {
        let words: Vec<&str> = line.split(", ").collect();
        let bank = [3, 4, 5, 6].map(|i| words[i].parse().unwrap());
        (words[0].parse::<u64>().unwrap() - 1, words[1].to_string(), bank)
    };
    log.lines().map(of).collect()
}

fn refreshes(s: &System, collector: &Collector) -> u64 {
    let is_refresh = |i: &usize| s.device.commands[*i].effect == Effect::Refresh;
    (0..s.device.commands.len()).filter(is_refresh).map(|i| collector.run.counters.issued[i]).sum()
}

/// Reads of one row of one bank, over and over.
fn loads(g: &Geometry, at: Address, n: u32) -> Vec<Request> {
    (0..n).map(|i| one(g, Op::Ld, Address { column: i % g.columns, ..at })).collect()
}

/// MACs of bank 0 of every group: its set is due after a quarter of 5,070 cycles, when 208 are through (19 + 6 x 207 =
/// 1,261). PRESB nRTPL later, REFsb nRP, ACTSB nRFCSB, MACSB nRCDRD; the other sets hold nothing.
#[test]
fn a_same_bank_refresh_holds_only_its_bank() {
    let set = ["refresh=same-bank", "channels=1"];
    let s = system("hbm3-pim", &set);
    let g = &s.device.geometry;
    let work = [Request { op: Op::MacSb, ..macs(g, 3, 30) }].repeat(30);
    assert_eq!(cycles(&s, &work), 1567 + 6 * (900 - 208 - 1) + 1);
    let found = commands(&log(&s, &work));
    let at = |name: &str| found.iter().filter(|(_, n, _)| n == name).map(|(at, ..)| *at).collect::<Vec<_>>();
    assert_eq!(at("PRESB"), [1269]);
    assert_eq!(at("ACTSB"), [0, 1548]);
    assert_eq!(at("REFsb"), [1288, 2535, 3802, 5070]);
    // A MAC of all banks waits for each of them; all closed by one PREA, they open again together.
    let all = commands(&log(&s, &[macs(g, 3, 30)].repeat(30)));
    let named = |name: &str| all.iter().filter(|(_, n, _)| n == name).count() as u64;
    assert!(named("REFsb") >= 3 && named("ACTAB") == 1 + named("REFsb"), "{}", named("ACTAB"));
}

/// Reads of one bank, the first of 64 to be refreshed: due after 79 cycles, when 15 are through (19 + 4 x 14 = 75). PRE nRTPL
/// later, REFpb nRP, ACT nRFCSB, RD nRCDRD.
#[test]
fn a_refresh_of_a_bank_holds_no_other() {
    let s = system("hbm3-pim", &["refresh=per-bank", "channels=1"]);
    let g = &s.device.geometry;
    let held = cycles(&s, &loads(g, Address::default(), 100));
    assert_eq!(held, 381 + 4 * 84 + 21);
    // The next one of the bank is due 5,070 cycles later; the bank before it in its group has had its turn.
    let other = Address { bank: 3, bank_group: 3, ..Address::default() };
    assert_eq!(cycles(&s, &loads(g, other, 100)), 19 + 4 * 99 + 21);
    let found = commands(&log(&s, &loads(g, other, 3000)));
    let turns: Vec<_> = found.iter().filter(|(_, n, _)| n == "REFpb").map(|(at, _, bank)| (*at, *bank)).collect();
    assert_eq!(turns[..3], [(79, [0, 0, 0, 0]), (158, [1, 0, 0, 0]), (237, [0, 1, 0, 0])]);
    assert!(turns.len() > 128);
    // An ACT takes two cycles of the row bus: where it comes a cycle before the refresh is due, that is one late.
    let timed = system("hbm3-pim", &["refresh=per-bank", "channels=1", "issue_interval=78 tCK"]);
    let aside = Address { pseudo_channel: 1, bank: 2, ..Address::default() };
    let work = [loads(g, Address { bank: 1, ..aside }, 1), loads(g, aside, 2)].concat();
    let late = commands(&log(&timed, &work));
    let at = |name: &str| late.iter().filter(|(_, n, _)| n == name).map(|(at, ..)| *at).collect::<Vec<_>>();
    assert_eq!((at("ACT"), at("REFpb")), (vec![0, 78], vec![80, 158]));
    let mut banks: Vec<_> = turns[..64].iter().map(|(_, bank)| *bank).collect();
    assert_eq!(banks, turns[64..128].iter().map(|(_, bank)| *bank).collect::<Vec<_>>());
    banks.sort_unstable();
    banks.dedup();
    assert_eq!(banks.len(), 64);
}

/// HBM3 with two ranks in each of two pseudo-channels: the first is due after 1,560 cycles, when 383 reads are through (31 + 4 x
/// 382 = 1,559). PRE nRTP later, REFrk nRP, ACT nRFC, RD nRCDRD. Those of other ranks hold nothing.
#[test]
fn ranks_in_turn_hold_one_rank_each() {
    let s = system("hbm3", &["refresh_order=in-turn", "channels=1"]);
    let g = &s.device.geometry;
    assert_eq!((g.pseudo_channels, g.ranks, s.device.nrefi), (2, 2, 6240));
    let work = loads(g, Address::default(), 1000);
    assert_eq!(cycles(&s, &work), 2185 + 4 * 616 + 22);
    let found = commands(&log(&s, &work));
    let at: Vec<_> =
        found.iter().filter(|(_, n, _)| n == "REFrk").map(|(at, _, bank)| (*at, bank[0], bank[1])).collect();
    assert_eq!(at, [(1594, 0, 0), (3120, 1, 0)]);
    // Four commands for one.
    let both: Vec<Request> = (0..8000)
        .flat_map(|i| [0, 1].map(|rank| Address { rank, bank: i / 32 % 4, column: i % 32, ..Address::default() }))
        .map(|a| one(g, Op::Ld, a))
        .collect();
    let (in_turn, collector) = run(&s, &both);
    assert!(refreshes(&s, &collector).abs_diff((in_turn - 1) * 4 / 6240) <= 1);
    let together = system("hbm3", &["channels=1"]);
    let (at_once, collector) = run(&together, &both);
    assert!(refreshes(&together, &collector).abs_diff((at_once - 1) / 6240) <= 1);
}

#[test]
fn a_hot_device_is_refreshed_twice_as_often() {
    for (name, refresh) in
        [("hbm3-pim", "all-bank"), ("hbm3-pim", "same-bank"), ("hbm3", "per-bank"), ("hbm2", "all-bank")]
    {
        let set = [format!("refresh={refresh}"), "channels=1".into()];
        let set: Vec<&str> = set.iter().map(String::as_str).collect();
        let cold = system(name, &set);
        let hot = system(name, &[&set[..], &["refresh_rate=2x"]].concat());
        assert_eq!(hot.device.nrefi, cold.device.nrefi / 2);
        let work = loads(&cold.device.geometry, Address { bank: 1, ..Address::default() }, 20_000);
        let sets = u64::from(cold.refreshes.unwrap().sets);
        for s in [&cold, &hot] {
            let (cycles, collector) = run(s, &work);
            let due = (cycles - 1) * sets / s.device.nrefi;
            // One may be due and not issued when the work is over.
            assert!((due - 1..=due).contains(&refreshes(s, &collector)), "{name} {refresh}");
            assert!(due > 2 * sets);
        }
        let (one, two) = (Energy::idle(&cold, 1e6), Energy::idle(&hot, 1e6));
        assert!((two.refresh / one.refresh - 2.0).abs() < 1e-3 && two.background == one.background);
    }
}

/// The rows of all banks are the same, however many commands they take: 64 x 2 rows x 909 pJ.
#[test]
fn every_bank_refreshed_once_costs_the_same_by_any_command() {
    let s = system("hbm3-pim", &[]);
    let device = &s.device;
    for (name, times) in [("REFab", 1), ("REFrk", 4), ("REFsb", 4), ("REFpb", 64)] {
        let id = usize::from(device.command(name).unwrap());
        let mut counters = Counters::default();
        counters.issued[id] = times;
        counters.banks[id] = 64;
        let energy = Energy::of(&counters, 0, device, EnergyModel::PerCommand);
        assert_eq!((energy.refresh, energy.total()), (64.0 * 2.0 * 909.0, energy.refresh), "{name}");
    }
    // Idle for nREFI, all channels: one refresh of every bank, by any command.
    let ns = device.clock.ns(device.nrefi);
    for set in [&["refresh=per-bank"][..], &["refresh=same-bank"], &["refresh_order=in-turn"], &[]] {
        let s = system("hbm3-pim", set);
        assert_eq!(Energy::idle(&s, ns).refresh, 16.0 * 64.0 * 2.0 * 909.0);
    }
}

/// What systems can ask for: system, and settings with which all operations of its device can go on.
const CHOICES: &[(&str, &[&str])] = &[
    ("hbm3-pim", &["refresh=same-bank"]),
    ("hbm3-pim", &["refresh=same-bank", "refresh_order=together"]),
    ("hbm3-pim", &["refresh=per-bank", "refresh_order=together"]),
    ("hbm3-pim", &["refresh_order=in-turn", "dram.organisation=HBM3_4Gb_1R"]),
    ("hbm3-pim", &["refresh_order=together", "refresh_rate=2x"]),
    ("hbm3", &["refresh=per-bank"]),
    ("hbm3", &["refresh=per-bank", "refresh_order=together"]),
    ("hbm3", &["refresh_order=in-turn"]),
    ("hbm2", &["refresh=per-bank"]),
    ("hbm3", &["refresh_order=in-turn", "refresh_rate=2x"]),
    ("hbm2-pim-samsung", &["refresh=per-bank", "refresh_order=together"]),
    ("gddr6-aim", &["refresh=per-bank", "refresh_order=together"]),
];

/// The choices, with nREFI so short that short traces meet some.
fn often_refreshed(folder: &Path) -> Vec<System> {
    let of = |(i, (name, set)): (usize, &(&str, &[&str]))| {
        let plain = system(name, set);
        let text = std::fs::read_to_string(root().join(format!("configs/system/{name}.toml"))).unwrap();
        let device = text.lines().find_map(|l| l.strip_prefix("device = \"../dram/")?.strip_suffix('"')).unwrap();
        let text = std::fs::read_to_string(root().join("configs/dram").join(device)).unwrap();
        let often = if set.contains(&"refresh_rate=2x") { 3000 } else { 1500 };
        let line = |l: &str| if l.starts_with("nREFI") { format!("nREFI = \"{often} tCK\"") } else { l.to_string() };
        let file = folder.join(format!("{i}.toml"));
        std::fs::write(&file, text.lines().map(line).collect::<Vec<_>>().join("\n")).unwrap();
        let device = format!("dram.device={}", file.display());
        let s = system(name, &[set, &["channels=2", &device][..]].concat());
        assert_eq!(s.refreshes.map(|r| r.sets), plain.refreshes.map(|r| r.sets));
        s
    };
    CHOICES.iter().enumerate().map(of).collect()
}

#[test]
fn random_traces_of_every_choice_audit_clean_and_are_explained() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("log");
    for (s, (name, set)) in often_refreshed(folder.path()).iter().zip(CHOICES) {
        let known = |r: &Request| {
            r.op.is_mark()
                || s.device.plans[r.op as usize].is_some() && s.device.geometry.same_row(r.addr, r.last_addr())
        };
        // Of a plain device little is left of a trace.
        let parts = if s.device.lanes == 0 { 16 } else { 4 };
        let (mut refreshed, mut rules, mut all) = (0, 0, 0);
        for seed in 0..40 {
            let mut r = Random(seed);
            let mut work: Vec<Request> = (0..parts).flat_map(|_| random_trace(&mut r, &s.device.geometry)).collect();
            work.retain(known);
            let text = log(s, &work);
            std::fs::write(&file, &text).unwrap();
            let (report, reasons) = why(&file, s, 5, &mut |_| {}).unwrap();
            let shown = report.render(&s.device, "log", false);
            assert_eq!(report.broken, 0, "{name} {set:?}, seed {seed}: {shown}");
            let command = &s.device.commands[usize::from(s.refreshes.unwrap().command)].name;
            refreshed += text.lines().filter(|l| l.split(", ").nth(1) == Some(command)).count();
            rules += reasons.rules().cycles;
            all += reasons.total().cycles;
        }
        println!("{name} {set:?}: {refreshed} refreshes, {rules} of {all} cycles held by rules alone");
        assert!(refreshed > 10, "{name} {set:?}: {refreshed}");
    }
}

#[test]
fn an_audit_notices_refreshes_that_are_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("log");
    let s = system("hbm3-pim", &["refresh=per-bank", "channels=1"]);
    let refresh = |clock: u64, bank: &str| format!("{clock}, REFpb, 0, {bank}, -1, -1, -1\n");
    let good = refresh(80, "0, 0, 0, 0") + &refresh(159, "1, 0, 0, 0");
    let open = "1, ACT, 0, 1, 0, 0, 0, 7, -1, 0\n".to_string();
    for (text, what) in [
        (good.clone(), "clean"),
        (good.clone() + &refresh(240, "1, 0, 0, 0"), "before all others have had their turn"),
        (good.clone() + &refresh(200, "0, 1, 0, 0"), "more refreshes than due"),
        (open.clone() + &good, "refresh with a bank open"),
        (good.clone() + "300, REFab, 0, 0, 0, 0, 0, -1, -1, -1\n", "more refreshes than due"),
        (good.clone() + "338, ACT, 0, 0, 0, 0, 0, 7, -1, 0\n", "REFpb -> ACT at bank nRFCSB = 260"),
        (refresh(5000, "0, 0, 0, 0") + &refresh(5010, "0, 1, 0, 0"), "REFpb -> REFpb at pseudo-channel nRREFD = 11"),
        (good.clone() + "50000, ACT, 0, 0, 0, 0, 0, 7, -1, 0\n", "more refreshes postponed than allowed"),
    ] {
        std::fs::write(&file, &text).unwrap();
        let got = audit::audit(&file, &s, 5).unwrap().render(&s.device, "log", false);
        assert!(got.contains(what), "{text}{got}");
    }
    // What held them: that they were not due, each set by its own time.
    std::fs::write(&file, &good).unwrap();
    let mut held = Vec::new();
    why(&file, &s, 5, &mut |h| held.push((h.reason.name(&s.device), h.since))).unwrap();
    assert_eq!(held, [("refresh due".into(), 1), ("refresh due".into(), 80)]);
}

/// Plain streams: refreshes cost, and those of a bank no more than those of all banks, where other banks are at work.
#[test]
fn refreshes_only_cost() {
    for (name, set) in CHOICES {
        let s = system(name, &[set, &["channels=1"][..]].concat());
        let without = system(name, &["channels=1", "refresh=none"]);
        let organisation: Vec<&str> = set.iter().copied().filter(|w| w.starts_with("dram")).collect();
        let without = if organisation.is_empty() {
            without
        } else {
            system(name, &[&organisation[..], &["channels=1", "refresh=none"]].concat())
        };
        let g = &s.device.geometry;
        let all = (0..g.units()).flat_map(|u| (0..g.banks).map(move |bank| (u, bank)));
        let spread: Vec<Address> = all.map(|(u, bank)| Address { bank, row: 5, ..g.unit_address(0, u) }).collect();
        let reads: Vec<Request> = (0..20_000)
            .map(|i| Address { column: i / 64 % g.columns, ..spread[i as usize % spread.len()] })
            .map(|a| one(g, Op::Ld, a))
            .collect();
        assert!(cycles(&without, &reads) <= cycles(&s, &reads), "{name} {set:?}");
        if s.device.plans[Op::MacAb as usize].is_some() {
            let work: Vec<Request> = (0..100).map(|row| macs(g, row, 30)).collect();
            assert!(cycles(&without, &work) <= cycles(&s, &work), "{name} {set:?}");
        }
    }
}

#[test]
fn what_a_device_or_controller_cannot_do_is_refused() {
    for (name, set, what) in [
        ("hbm2", &["refresh=same-bank"][..], "HBM2 has no refresh command of the same bank of every bank group"),
        ("hbm3", &["refresh=same-bank"], "HBM3 has no refresh command of the same bank"),
        ("gddr6-aim", &["refresh_order=in-turn"], "GDDR6-AiM has no refresh command of a rank"),
        ("attacc-compat", &["refresh=per-bank"], "\"all-bank\" or \"none\" only"),
        ("attacc-compat", &["refresh=same-bank"], "\"all-bank\" or \"none\" only"),
        ("attacc-compat", &["refresh_order=in-turn"], "the compat controller has no refresh_order"),
        ("attacc-compat", &["refresh_rate=2x"], "the compat controller has no refresh_rate"),
        ("hbm3-pim", &["refresh=perbank"], "unknown value"),
        ("hbm3-pim", &["refresh_order=in_turn"], "unknown value"),
        ("hbm3-pim", &["refresh_rate=3x"], "unknown value"),
    ] {
        let error = load(&root().join(format!("configs/system/{name}.toml")), set).unwrap_err().to_string();
        assert!(error.contains(what), "{name} {set:?}: {error}");
    }
    // Single banks in turn leave no cycle in which all of them are there.
    let s = system("hbm3-pim", &["refresh=per-bank", "channels=1"]);
    let work = [Record::Request(macs(&s.device.geometry, 0, 2000)); 4].to_vec();
    let mut source = Memory { header: Header::foreign(s.device.geometry, "test"), records: work };
    let error = engine::run(&s, &mut source, &mut (), &mut |_| ()).unwrap_err().to_string();
    assert!(error.contains("livelock") && error.contains("refresh_order = \"together\""), "{error}");
}
