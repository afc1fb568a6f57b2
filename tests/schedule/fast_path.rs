//! The fast engine against the plain one: the same length, the same commands in every channel, the same tables, on
//! random traces of every kind, and on those that `tracegen run` writes; and the slices of their timelines against the tables.
//! Most of the random ones repeat themselves, for what recurs is what the fast engine is about, and are disturbed now and then. PIMATTN_FAST_CASES is the number of traces, PIMATTN_FAST_FIRST the first seed.

use crate::common;

use common::Memory;
use pimattn_core::addr::{Address, Geometry};
use pimattn_core::op::Op;
use pimattn_core::spec::System;
use pimattn_core::spec::system::{Controller, IssueOrder};
use pimattn_engine::{self as engine, Engine};
use pimattn_mapping::workload::Workload;
use pimattn_stats::log::LogProbe;
use pimattn_stats::tally::ChannelTally;
use pimattn_stats::timeline::TimelineWindow;
use pimattn_stats::timeline::chrome::{ChromeOptions, ChromeTimeline};
use pimattn_stats::{Account, Collector, Step};
use pimattn_trace::{Arrival, Header, Mark, Phase, Record, Request, Segment};
use pimattn_tracegen::generate::Generator;
use std::collections::BTreeMap;

/// Numbers at random.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        common::splitmix64(&mut self.0)
    }

    fn below(&mut self, n: u32) -> u32 {
        (self.next() % u64::from(n)) as u32
    }

    fn of<T: Copy>(&mut self, some: &[T]) -> T {
        some[self.below(some.len() as u32) as usize]
    }
}

/// What channels are asked for, the row aside.
#[derive(Clone, Copy)]
struct Act {
    op: Op,
    at: Address,
    count: u32,
    channels: (u32, u32),
    /// All of it to one channel before the next one gets any.
    by_channel: bool,
    row: u32,
}

fn act(r: &mut Random, g: &Geometry, ops: &[Op]) -> Act {
    let op = r.of(ops);
    let column = r.below(g.columns);
    let at = Address {
        pseudo_channel: r.below(g.pseudo_channels),
        rank: r.below(g.ranks),
        bank_group: r.below(g.bank_groups),
        bank: r.below(g.banks),
        column,
        ..Address::default()
    };
    let first = if r.below(6) == 0 { r.below(g.channels) } else { 0 };
    let last = if r.below(5) == 0 { first + 1 + r.below(g.channels - first) } else { g.channels };
    let channels = if op == Op::Barrier && r.below(8) > 0 { (0, g.channels) } else { (first, last) };
    let count =
        if matches!(op, Op::Barrier | Op::Sfm | Op::ActBg | Op::PreBg) { 1 } else { 1 + r.below(g.columns - column) };
    Act { op, at, count, channels, by_channel: r.below(10) == 0, row: r.below(2) }
}

fn put(out: &mut Vec<Record>, g: &Geometry, act: &Act, row: u32) {
    let one = |channel, i| {
        let at = Address { channel, row: (row + act.row) % g.rows, column: act.at.column + i, ..act.at };
        Request::one(act.op, g.encode(&at))
    };
    let channels = act.channels.0..act.channels.1;
    if act.by_channel {
        let stride = if act.count > 1 { g.column_bytes } else { 0 };
        out.extend(channels.map(|c| Record::Request(Request { count: act.count, stride, ..one(c, 0) })));
    } else {
        out.extend((0..act.count).flat_map(|i| channels.clone().map(move |c| Record::Request(one(c, i)))));
    }
}

/// Something that does not recur.
fn disturb(r: &mut Random, g: &Geometry, is_pim: bool, out: &mut Vec<Record>) {
    let channel = r.below(g.channels);
    let at = Address { channel, row: r.below(4), bank: r.below(g.banks), ..Address::default() };
    let addr = g.encode(&at);
    match r.below(8) {
        7 if is_pim => out.push(Record::Arrival(Arrival { channel, cycle: u64::from(r.below(30_000)) })),
        0 => out.push(Record::Segment(Segment {
            channel,
            step: r.below(3),
            lane: r.below(2) as u8,
            ..Segment::default()
        })),
        1 => out.push(Record::Mark(Mark { channel, lane: 0, phase: r.of(&Phase::ALL) })),
        2 | 3 => {
            out.push(Record::Request(Request { op: r.of(&[Op::Ld, Op::St]), addr, count: 3, stride: g.column_bytes }))
        }
        4 if is_pim => out.push(Record::Request(Request { op: Op::Host, addr, count: 1 + r.below(500), stride: 0 })),
        _ => out.push(Record::Request(Request::one(Op::Sync, 0))),
    }
}

fn trace(r: &mut Random, system: &System) -> Vec<Record> {
    let g = &system.device.geometry;
    let is_pim = system.controller == Controller::Pim;
    // In the reference a same-bank MAC that meets another row never ends.
    let macs: &[Op] = match r.below(8) {
        0 => &[Op::MacPb],
        1 if is_pim => &[Op::MacSb],
        2 if is_pim => &[Op::MacAb, Op::MacSb, Op::MacPb],
        _ => &[Op::MacAb],
    };
    let ops: Vec<Op> = [macs, macs, &[Op::WrGb, Op::MvSb, Op::MvGb, Op::Sfm, Op::Barrier, Op::Barrier]].concat();
    let ops: Vec<Op> =
        ops.into_iter().filter(|op| op.is_mark() || system.device.plans[*op as usize].is_some()).collect();
    let quiet = r.below(3) > 0;
    let mut out = Vec::new();
    for _ in 0..1 + r.below(3) {
        let mut motif: Vec<Act> = (0..1 + r.below(7)).map(|_| act(r, g, &ops)).collect();
        if r.below(8) > 0 {
            motif.push(Act { op: Op::Barrier, count: 1, channels: (0, g.channels), ..act(r, g, &ops) });
        }
        let (row, step) = (r.below(4), r.below(3));
        for i in 0..1 + r.below(40) {
            motif.iter().for_each(|a| put(&mut out, g, a, (row + i * step) % g.rows));
            if !quiet && r.below(30) == 0 {
                disturb(r, g, is_pim, &mut out);
            }
        }
    }
    let known = |record: &Record| match record {
        Record::Request(q) => q.op.is_mark() || system.device.plans[q.op as usize].is_some(),
        _ => true,
    };
    out.retain(known);
    out
}

/// Rounds of bank groups, with buffer moves, and with reads and writes in any bank beside them, before barriers and behind.
fn rounds(r: &mut Random, g: &Geometry) -> Vec<Record> {
    let mut out = Vec::new();
    let one = |op, at: &Address| Request::one(op, g.encode(at));
    let run = |op, at: &Address, count| Request { count, stride: g.column_bytes, ..one(op, at) };
    // Now and then more than the queues hold.
    let count = if r.below(6) == 0 { 100 } else { 2 + r.below(16) };
    // Few bank groups leave banks to reads and writes.
    let (some, share) = r.of(&[(g.units(), 3), (g.units(), 3), (2, 1000)]);
    for channel in (0..count).map(|i| i % g.channels) {
        let here = Address { channel, ..Address::default() };
        let barrier = |r: &mut Random| (r.below(2) == 0).then(|| one(Op::Barrier, &here));
        let always = r.below(some);
        let units: Vec<u32> = (0..g.units()).filter(|unit| *unit == always || r.below(share) == 0).collect();
        let row = r.below(4);
        let rows = |op| units.iter().map(move |unit| one(op, &Address { row, ..g.unit_address(channel, *unit) }));
        out.extend(rows(Op::ActBg));
        for _ in 0..1 + r.below(4) {
            out.extend(barrier(r));
            out.extend((r.below(4) > 0).then(|| run(Op::MacBg, &here, 1 + r.below(24))));
            for _ in 0..r.below(3) * r.below(9) {
                let op = r.of(&[Op::MvSb, Op::MvSb, Op::MvGb, Op::WrGb]);
                out.push(one(op, &g.unit_address(channel, r.below(g.units()))));
            }
            if r.below(3) == 0 {
                out.extend(barrier(r));
                let (unit, row, bank) = (r.below(g.units()), r.below(4), r.below(g.banks));
                let at = Address { row, bank, ..g.unit_address(channel, unit) };
                out.push(run(r.of(&[Op::Ld, Op::St]), &at, 1 + r.below(3)));
            }
        }
        out.extend(rows(Op::PreBg).filter(|_| row > 1));
    }
    out.into_iter().map(Record::Request).collect()
}

/// A system of random choices; some refresh often.
fn random_system(r: &mut Random) -> System {
    let channels = format!("channels={}", r.of(&[1, 2, 3, 5, 16]));
    let refresh = format!("refresh={}", r.of(&["all-bank", "all-bank", "none"]));
    let depth = format!("queue_depth={}", r.of(&[1, 8, 32, 32, 32]));
    let name = r.of(&[
        "hbm3-pim",
        "hbm3-pim",
        "attacc-compat",
        "attacc-compat",
        "attacc-compat",
        "hbm2-pim-samsung",
        "gddr6-aim",
    ]);
    let mut set = vec![channels, refresh.clone(), depth];
    if name == "hbm3-pim" {
        set.push(format!("power={}", r.of(&["per-command", "stagger", "ignore", "charge"])));
    }
    if name.ends_with("pim") || name.ends_with("compat") {
        let npc = r.of(&["", "_NPC"]);
        set.push(format!("dram.timing=HBM3_{}Gbps{npc}", r.of(&["4.8", "5.2", "6.4"])));
    }
    // Refreshes of parts of the banks, and of hot devices: many, between everything.
    if !name.ends_with("compat") && refresh.ends_with("all-bank") && r.below(2) == 0 {
        set.push(format!("refresh_rate={}", r.of(&["1x", "2x"])));
        match r.below(4) {
            0 if name == "hbm3-pim" => set.push("refresh=same-bank".into()),
            1 => set.extend(["refresh=per-bank".into(), "refresh_order=together".into()]),
            2 if name == "hbm3-pim" => {
                set.extend(["refresh_order=in-turn".into(), "dram.organisation=HBM3_4Gb_1R".into()]);
            }
            _ => {}
        }
    }
    // MACs for as many query heads as their addresses say.
    if name != "attacc-compat" && r.below(3) == 0 {
        let one_rank = set.iter().any(|s| s.ends_with("1R"));
        set.push(format!("heads_per_read={}", if name != "hbm3-pim" { 16 } else { 64 >> u32::from(one_rank) }));
    }
    let set: Vec<&str> = set.iter().map(String::as_str).collect();
    let mut system = common::system(name, &set);
    // Reads and writes that are weighed, and played where few wait.
    if !name.ends_with("compat") && r.below(3) == 0 {
        (system.writes, system.scheduler.order) = (None, IssueOrder::Weighed);
    } else if !name.ends_with("compat") && r.below(3) == 0 {
        let rules = &mut system.scheduler;
        (rules.forward, rules.bank_depth, rules.bank_feed) = (true, Some(2), Some(1));
        (rules.order, rules.loses_turn) = (IssueOrder::BanksInTurn, r.below(2) == 0);
        (rules.closes_idle, rules.works_until_refresh) = (r.below(3) == 0, r.below(2) == 0);
    }
    system
}

/// All that can be told of a run.
#[derive(PartialEq)]
struct Told {
    cycles: u64,
    /// Commands, channel by channel.
    log: Vec<String>,
    run: Account,
    channels: Vec<Account>,
    heads: BTreeMap<(u32, u32, u32), Account>,
    steps: Vec<Step>,
    counted: Vec<pimattn_stats::Counters>,
    timeline: String,
}

fn told(engine: Engine, system: &System, records: &[Record]) -> Result<Told, String> {
    let mut source = Memory { header: Header::foreign(system.device.geometry, "test"), records: records.to_vec() };
    let collector = Collector::with_steps(&system.device, Vec::new());
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("t.json");
    let options = ChromeOptions { window: TimelineWindow::ALL, interval: 333, groups: 1, trace: "random".into() };
    let timeline = ChromeTimeline::create(&file, system, &source.header, options).unwrap();
    let log = LogProbe::new(Vec::new(), &system.device);
    let mut probe = (collector, (ChannelTally::new(&system.device), (log, timeline)));
    let cycles = engine::run_with(engine, system, &mut source, &mut probe, &mut |_| {}).map_err(|e| e.to_string())?;
    let (collector, (tally, (log, timeline))) = probe;
    timeline.finish().unwrap();
    let text = String::from_utf8(log.finish().unwrap()).unwrap();
    // Of what is looked up, requests have no numbers; marks, which name them, are left out with the column.
    let marks = ["BARRIER", "HOST", "SYNC", "ARRIVAL"];
    let of_bank = |line: &&str| !line.split(", ").nth(1).is_some_and(|name| marks.contains(&name));
    let nine = |line: &str| line.split(", ").take(9).collect::<Vec<_>>().join(", ");
    let is_pim = system.controller == Controller::Pim;
    let mut log: Vec<String> = text.lines().filter(|line| !is_pim || of_bank(line)).map(nine).collect();
    log.sort_by_key(|line| line.split(", ").nth(2).unwrap().parse::<u32>().unwrap());
    Ok(Told {
        cycles,
        log,
        run: collector.run.clone(),
        channels: collector.channels.clone(),
        heads: collector.heads.clone(),
        counted: tally.channels,
        steps: collector.into_steps(),
        timeline: std::fs::read_to_string(&file).unwrap(),
    })
}

/// Cycles of the slices of a timeline: by step and layer, and by request, layer and KV head.
type SliceCycles = (BTreeMap<(u64, u64), u64>, BTreeMap<(u64, u64, u64), u64>);

fn slice_cycles(timeline: &str) -> SliceCycles {
    let trace: serde_json::Value = serde_json::from_str(timeline).unwrap();
    let (mut layers, mut heads) = SliceCycles::default();
    let mut stacks: BTreeMap<u64, Vec<&serde_json::Value>> = BTreeMap::new();
    for e in trace["traceEvents"].as_array().unwrap() {
        let of = |e: &serde_json::Value, key: &str| e["args"][key].as_u64().unwrap();
        match e["ph"].as_str().unwrap() {
            "B" => stacks.entry(e["tid"].as_u64().unwrap()).or_default().push(e),
            "E" => {
                let stack = stacks.get_mut(&e["tid"].as_u64().unwrap()).unwrap();
                let (begun, cycles) = (stack.pop().unwrap(), of(e, "cycles"));
                match begun["cat"].as_str().unwrap() {
                    "layer" => *layers.entry((of(stack[0], "step"), of(begun, "layer"))).or_default() += cycles,
                    "head" => {
                        let head = (of(begun, "request"), of(begun, "layer"), of(begun, "kv_head"));
                        *heads.entry(head).or_default() += cycles;
                    }
                    _ => {}
                }
            }
            _ => {}
        }
    }
    assert!(stacks.values().all(Vec::is_empty), "a slice is left open");
    (layers, heads)
}

/// Whether the slices of the timeline have the cycles that the tables give to layers of steps, and to heads.
fn slices_differ(told: &Told, banks: u64) -> Option<String> {
    let (mut layers, mut heads) = SliceCycles::default();
    for step in &told.steps {
        for (layer, of) in &step.layers {
            let cycles: u64 = of.parts.used().map(|(_, p)| p.time.total()).sum();
            *layers.entry((u64::from(step.step), u64::from(*layer))).or_default() += cycles / banks;
        }
    }
    for ((request, layer, kv_head), account) in &told.heads {
        let head = (u64::from(*request), u64::from(*layer), u64::from(*kv_head));
        *heads.entry(head).or_default() += account.time.total() / banks;
    }
    layers.retain(|_, cycles| *cycles > 0);
    heads.retain(|_, cycles| *cycles > 0);
    let got = slice_cycles(&told.timeline);
    (got != (layers.clone(), heads.clone())).then(|| format!("slices {got:?}, tables {layers:?} {heads:?}"))
}

fn difference(a: &Told, b: &Told) -> Option<String> {
    if let Some(i) = (0..a.log.len().max(b.log.len())).find(|i| a.log.get(*i) != b.log.get(*i)) {
        return Some(format!("command {i}: plain {:?}, fast {:?}", a.log.get(i), b.log.get(i)));
    }
    let parts = [
        ("cycles", a.cycles == b.cycles),
        ("run", a.run == b.run),
        ("channels", a.channels == b.channels),
        ("heads", a.heads == b.heads),
        ("steps", a.steps == b.steps),
        ("tally", a.counted == b.counted),
        ("timelines", a.timeline == b.timeline),
    ];
    parts.iter().find(|(_, same)| !same).map(|(what, _)| format!("{what} differ"))
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |n| n.parse().expect("a number"))
}

/// Seeds of traces on which the engines once differed: by step, work of no segment depended on how far other channels were.
const ONCE_DIFFERENT: [u64; 6] = [2577, 2911, 3508, 4294, 6129, 7555];

#[test]
fn fast_is_plain_on_random_traces() {
    let (first, cases) = (setting("PIMATTN_FAST_FIRST", 0), setting("PIMATTN_FAST_CASES", 1000));
    let (mut wrong, mut commands, mut errors) = (Vec::new(), 0, 0);
    for seed in (first..first + cases).chain(ONCE_DIFFERENT) {
        let mut r = Random(seed);
        let system = random_system(&mut r);
        let records = trace(&mut r, &system);
        let about = || format!("seed {seed}: {} ({}), {} records", system.name, system.device.preset, records.len());
        match (told(Engine::Plain, &system, &records), told(Engine::Fast, &system, &records)) {
            (Ok(plain), Ok(fast)) => {
                commands += plain.log.len();
                wrong.extend(difference(&plain, &fast).map(|d| format!("{}: {d}", about())));
                let banks = u64::from(system.device.geometry.banks_per_channel());
                wrong.extend(slices_differ(&plain, banks).map(|d| format!("{}: {d}", about())));
            }
            (Err(plain), Err(fast)) if plain == fast => errors += 1,
            (plain, fast) => wrong.push(format!("{}: plain {:?}, fast {:?}", about(), plain.err(), fast.err())),
        }
    }
    println!("{cases} traces, {commands} commands, {errors} errors alike");
    assert!(wrong.is_empty(), "{} of {cases}:\n{}", wrong.len(), wrong[..wrong.len().min(8)].join("\n"));
}

#[test]
fn fast_is_plain_on_random_rounds_beside_reads_and_writes() {
    let mut wrong = Vec::new();
    for seed in 0..setting("PIMATTN_FAST_CASES", 1000) {
        let mut r = Random(seed);
        let power = format!("power={}", r.of(&["per-command", "stagger", "ignore", "charge"]));
        let channels = format!("channels={}", r.of(&[1, 2]));
        let depth = format!("queue_depth={}", r.of(&[1, 8, 32, 32]));
        let system = common::system("hbm3-pim", &[&power, &channels, &depth]);
        let records = rounds(&mut r, &system.device.geometry);
        let (plain, fast) = (told(Engine::Plain, &system, &records), told(Engine::Fast, &system, &records));
        wrong
            .extend(difference(&plain.unwrap(), &fast.unwrap()).map(|d| format!("seed {seed}, {power}, {depth}: {d}")));
    }
    assert!(wrong.is_empty(), "{}:\n{}", wrong.len(), wrong[..wrong.len().min(8)].join("\n"));
}

/// Heads of each layer on a channel of their own, so that the other channels wait for a step and a layer in which they have none.
#[test]
fn slices_of_channels_without_a_head_are_in_the_step_of_the_others() {
    let system = common::system("hbm3-pim", &["channels=4"]);
    let g = &system.device.geometry;
    let mut records = Vec::new();
    for (step, layer) in (0..4).flat_map(|step| (0..3).map(move |layer| (step, layer))) {
        let channel = (step + layer) % 4;
        let at = Address { channel, row: step, ..Address::default() };
        records.push(Record::Segment(Segment { channel, step, layer, kv_head: 1, ..Segment::default() }));
        records.push(Record::Mark(Mark { channel, lane: 0, phase: Phase::AttendScore }));
        let (count, stride) = (8 + step, g.column_bytes);
        records.push(Record::Request(Request { op: Op::MacAb, addr: g.encode(&at), count, stride }));
        records.push(Record::Request(Request::one(Op::Sync, 0)));
    }
    let told = told(Engine::Plain, &system, &records).unwrap();
    assert_eq!(slices_differ(&told, u64::from(g.banks_per_channel())), None);
    let waits: u64 = told.steps.iter().map(|s| s.parts.used().map(|(_, p)| p.time.total()).sum::<u64>()).sum();
    assert_eq!(waits, told.cycles * u64::from(g.banks_per_channel()) * 4, "all cycles belong to a step");
}

/// Traces as `tracegen run` writes them, with segments and phases: each policy and addressing, replayed under each power
/// policy.
#[test]
fn fast_is_plain_on_generated_traces() {
    let mut wrong = Vec::new();
    let mut compare = |policy: &str, power: &str, set: &[&str]| {
        let system = common::system("hbm3-pim", &[&format!("power={power}")]);
        let policy_key = format!("policy={policy}");
        let records = generated(&[&[policy_key.as_str(), "steps=2"], set].concat());
        let (plain, fast) = (told(Engine::Plain, &system, &records), told(Engine::Fast, &system, &records));
        let (plain, fast) = (plain.unwrap(), fast.unwrap());
        assert!(plain.run.wanted.segments > 0, "{policy}: a trace without segments");
        wrong.extend(difference(&plain, &fast).map(|d| format!("{policy}, {power}, {set:?}: {d}")));
    };
    let powers = ["per-command", "stagger", "ignore", "charge"];
    for (i, policy) in pimattn_policies::select::REGISTRY.iter().enumerate() {
        compare(policy.name, powers[i % powers.len()], &[]);
        compare(policy.name, powers[(i + 1) % powers.len()], &["mapping.addressing=broadcast"]);
    }
    for power in powers {
        compare("starc", power, &["mapping.layout=interleaved"]);
        compare("quest", power, &["mapping.values=vector"]);
    }
    compare("starc", "per-command", &["mapping.addressing=ideal"]);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The records of the demo workload with overrides.
fn generated(set: &[&str]) -> Vec<Record> {
    let set: Vec<String> = set.iter().map(|s| s.to_string()).collect();
    let (workload, doc) = Workload::load(&common::root().join("configs/workload/demo.toml"), &set).unwrap();
    let mut kept = common::Keep::default();
    Generator::load(workload, &doc, None).unwrap().run(&mut kept, None, &mut |_| {}).unwrap();
    kept.0
}
