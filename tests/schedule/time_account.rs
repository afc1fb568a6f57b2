//! Where time goes: against closed forms on every timing preset, and on random traces cycle by cycle against a plain
//! account of the same rules.

use crate::common;

use common::{Memory, macs, one, root, system};
use pimattn_core::addr::{Address, Geometry};
use pimattn_core::op::Op;
use pimattn_core::spec::{Effect, System};
use pimattn_engine as engine;
use pimattn_engine::probe::{CommandEvent, Probe};
use pimattn_stats::account::{CAUSES, Cause, Time, apportion};
use pimattn_stats::books::{PARTS, WAITING};
use pimattn_stats::{Collector, Step};
use pimattn_trace::{Header, Mark, Phase, Record, Request, Segment};
use proptest::prelude::*;

type Causes = [u64; CAUSES];

fn replay<P: Probe>(s: &System, records: &[Record], mut probe: P) -> P {
    let header = Header::foreign(s.device.geometry, "test");
    let mut source = Memory { header, records: records.to_vec() };
    engine::run(s, &mut source, &mut probe, &mut |_| ()).unwrap_or_else(|e| panic!("{}: {e}", s.device.preset));
    probe
}

fn collect(s: &System, records: &[Record]) -> Collector<Vec<Step>> {
    replay(s, records, Collector::with_steps(&s.device, Vec::new()))
}

/// Cycles of channel 0 by cause, as far as they are whole.
fn spent(s: &System, requests: &[Request]) -> (u64, Causes) {
    let records: Vec<Record> = requests.iter().map(|r| Record::Request(*r)).collect();
    let c = collect(s, &records);
    let banks = u64::from(s.device.geometry.banks_per_channel());
    (c.cycles, apportion(c.channels[0].time.spent(), c.channels[0].time.total() / banks))
}

fn causes(parts: &[(Cause, u64)]) -> Causes {
    let mut out = [0; CAUSES];
    parts.iter().for_each(|(cause, n)| out[*cause as usize] += n);
    out
}

fn each_preset(set: &[&str], check: impl Fn(&System, &dyn Fn(&str) -> u64)) {
    for rate in ["4.8", "5.2", "5.6", "6.0", "6.4"] {
        for power in ["", "_NPC"] {
            let timing = format!("dram.timing=HBM3_{rate}Gbps{power}");
            let s = system("hbm3-pim", &[set, &[&timing]].concat());
            check(&s, &|name| s.device.timings[name]);
        }
    }
}

#[test]
fn macs_of_one_row_are_mac_bound_but_for_its_opening() {
    each_preset(&["refresh=none"], |s, t| {
        let (cycles, time) = spent(s, &[macs(&s.device.geometry, 0, 32)]);
        let mac = 31 * t("nCCDAB") + 1;
        assert_eq!(time, causes(&[(Cause::Mac, mac), (Cause::RowSwitch, t("nRCDRD"))]));
        assert_eq!(cycles, time.iter().sum::<u64>());
    });
}

#[test]
fn a_row_switch_is_what_the_macs_leave() {
    each_preset(&["refresh=none"], |s, t| {
        let g = &s.device.geometry;
        let (cycles, time) = spent(s, &[macs(g, 0, 32), macs(g, 1, 1)]);
        // The precharge waits for the last MAC's read, the activation for the precharge, the MAC for the activation.
        let switch = t("nRTPL").max(t("nCCDAB")) - t("nCCDAB") + t("nRP") + t("nRCDRD");
        let mac = 32 * t("nCCDAB") + 1;
        assert_eq!(time, causes(&[(Cause::Mac, mac), (Cause::RowSwitch, t("nRCDRD") + switch)]));
        assert_eq!(cycles, time.iter().sum::<u64>());
    });
}

#[test]
fn units_without_an_open_row_are_imbalance_of_macs_and_of_the_row_switch_before_them() {
    each_preset(&["refresh=none"], |s, t| {
        let g = &s.device.geometry;
        for open in [4, 8, 16] {
            let acts = (0..open).map(|u| one(g, Op::ActBg, g.unit_address(0, u)));
            let work: Vec<Request> = acts.chain([Request { op: Op::MacBg, ..macs(g, 0, 9) }]).collect();
            let records: Vec<Record> = work.iter().map(|r| Record::Request(*r)).collect();
            let c = collect(s, &records);
            let all = c.cycles * 64;
            let mac = 8 * t("nCCDAB") + 1;
            let of = |cause: Cause| c.channels[0].time.spent()[cause as usize];
            assert_eq!(of(Cause::Mac), mac * 4 * u64::from(open));
            assert_eq!(of(Cause::RowSwitch), (c.cycles - mac) * 4 * u64::from(open));
            assert_eq!(of(Cause::ImbalanceUnits), all - all / 16 * u64::from(open));
        }
    });
}

#[test]
fn a_refresh_takes_the_closing_before_it_and_nrfc() {
    each_preset(&[], |s, t| {
        let work: Vec<Request> = (0..s.device.nrefi / 100).map(|_| macs(&s.device.geometry, 0, 32)).collect();
        let c = collect(s, &work.iter().map(|r| Record::Request(*r)).collect::<Vec<_>>());
        let refreshes = (c.cycles - 1) / s.device.nrefi;
        assert!(refreshes > 0);
        let time = c.channels[0].time.spent();
        assert_eq!(time[Cause::Refresh as usize], refreshes * (t("nRP") + t("nRFC")) * 64);
        assert_eq!(time[Cause::Stall as usize] + time[Cause::Movement as usize], 0);
    });
}

#[test]
fn the_host_is_a_stall_and_the_other_channels_wait() {
    each_preset(&["refresh=none"], |s, t| {
        let g = &s.device.geometry;
        let host = Request { count: 700, ..one(g, Op::Host, Address::default()) };
        let (cycles, time) = spent(s, &[macs(g, 0, 8), host, macs(g, 0, 1)]);
        let mac = 7 * t("nCCDAB") + 2;
        assert_eq!(time, causes(&[(Cause::Mac, mac), (Cause::RowSwitch, t("nRCDRD")), (Cause::Stall, 700)]));
        let c = collect(s, &[Record::Request(macs(g, 0, 8)), Record::Request(host), Record::Request(macs(g, 0, 1))]);
        assert_eq!(c.run.time.spent()[Cause::ImbalanceChannels as usize], 15 * cycles * 64);
        assert_eq!(c.channels[3].time.spent()[Cause::ImbalanceChannels as usize], cycles * 64);
    });
}

#[test]
fn reads_and_moves_are_data_movement_until_their_data_is_there() {
    each_preset(&["refresh=none"], |s, t| {
        let g = &s.device.geometry;
        let (cycles, time) = spent(s, &[one(g, Op::Ld, Address::default())]);
        assert_eq!(cycles, t("nRCDRD") + t("nCL") + t("nBL"));
        assert_eq!(time, causes(&[(Cause::RowSwitch, t("nRCDRD")), (Cause::Movement, t("nCL") + t("nBL"))]));
        let (cycles, time) = spent(s, &[Request { op: Op::WrGb, addr: 0, count: 8, stride: 1 }]);
        assert_eq!(time, causes(&[(Cause::Movement, cycles)]));
        let barrier = one(g, Op::Barrier, Address::default());
        let sfm = Request { count: 3, ..one(g, Op::Sfm, Address::default()) };
        let (cycles, time) = spent(s, &[sfm, barrier]);
        assert_eq!(time, causes(&[(Cause::Softmax, cycles)]));
    });
}

#[test]
fn shares_are_rounded_to_their_sum() {
    assert_eq!(apportion(&[1, 1, 1], 10), [4, 3, 3]);
    assert_eq!(apportion(&[0, 5, 0], 7), [0, 7, 0]);
    assert_eq!(apportion(&[0, 0], 0), [0, 0]);
    assert_eq!(apportion(&[u64::MAX / 2, u64::MAX / 2, 1], u64::MAX), [u64::MAX / 2, u64::MAX / 2, 1]);
}

// ---------------------------------------------------------------- random traces

/// What a channel did, as it was told.
#[derive(Clone, Copy)]
enum Told {
    /// A command.
    Command(CommandEvent),
    /// It waited, from and to.
    Waited(u64, u64),
    /// The host worked, from and to.
    Host(u64, u64),
}

#[derive(Default)]
struct Tape(Vec<Vec<Told>>);

impl Tape {
    fn push(&mut self, channel: u32, told: Told) {
        self.0.resize(self.0.len().max(channel as usize + 1), Vec::new());
        self.0[channel as usize].push(told);
    }
}

impl Probe for Tape {
    fn command(&mut self, e: &CommandEvent) {
        self.push(e.address.channel, Told::Command(*e));
    }
    fn host(&mut self, channel: u32, _: u32, _: Phase, begin: u64, cycles: u64) {
        self.push(channel, Told::Host(begin, begin + cycles));
    }
    fn channel_waits(&mut self, channel: u32, done: u64, met: u64) {
        self.push(channel, Told::Waited(done, met));
    }
}

/// The account of one channel, cycle by cycle. Bank-cycles.
fn plainly(s: &System, tape: &[Told]) -> Causes {
    let commands = &s.device.commands;
    let effect = |e: &CommandEvent| commands[usize::from(e.command)].effect;
    let access = |e: Effect| matches!(e, Effect::Mac | Effect::MacOpen | Effect::Read | Effect::Write);
    let length = |e: &CommandEvent| {
        let c = &commands[usize::from(e.command)];
        let to = |wanted: &dyn Fn(usize) -> bool| {
            let edges = c.edges.iter().filter(|x| wanted(usize::from(x.to)));
            edges.map(|x| u64::from(x.latency)).max().unwrap_or(1)
        };
        match c.effect {
            Effect::Open => to(&|i| access(commands[i].effect)),
            Effect::Close | Effect::Refresh => to(&|i| commands[i].effect == Effect::Open),
            Effect::Softmax => to(&|i| i == usize::from(e.command)).max(c.done) + s.device.work(e.command, &e.address),
            _ => to(&|i| i == usize::from(e.command)),
        }
    };
    let partial = |e: &CommandEvent| effect(e) == Effect::Refresh && e.banks < s.device.geometry.banks_per_channel();
    let rank = |e: &CommandEvent| match effect(e) {
        Effect::Mac | Effect::MacOpen => 0,
        Effect::Refresh if partial(e) => 5,
        Effect::Refresh => 1,
        Effect::Softmax => 2,
        Effect::Open | Effect::Close => 4,
        _ => 3,
    };
    let banks = u64::from(s.device.geometry.banks_per_channel());
    let mut out = [0; CAUSES];
    let mut at = 0;
    for (i, told) in tape.iter().enumerate() {
        let Told::Waited(done, met) = *told else { continue };
        let begin = tape[..i].iter().rposition(|t| matches!(t, Told::Waited(..))).map_or(0, |i| i + 1);
        // What was told before the last meeting, of which a refresh may come after it, as where two meetings are one.
        let met_before = at;
        let told_before = |n: usize, e: &CommandEvent| n < begin && e.cycle <= met_before;
        let all = || {
            let commands = tape[..i].iter().enumerate();
            commands.filter_map(|(n, t)| if let Told::Command(e) = t { Some((n, e)) } else { None })
        };
        let events = || all().filter(|(n, e)| !told_before(*n, e)).map(|(_, e)| e);
        let last = events().map(|e| e.cycle).filter(|c| *c <= met).max().unwrap_or(0);
        let wait = done.max(last).min(met).max(at);
        for cycle in at..wait {
            let hosted = tape[begin..i].iter().any(|t| matches!(t, Told::Host(a, b) if (*a..*b).contains(&cycle)));
            // What came before the last meeting is over, but for a refresh.
            let running = all().filter(|(n, e)| {
                let ends = e.cycle + length(e);
                e.cycle <= cycle && cycle < ends && (!told_before(*n, e) || effect(e) == Effect::Refresh)
            });
            let first = running.map(|(_, e)| e).min_by_key(|e| rank(e));
            let next = events().find(|e| e.cycle > cycle && e.cycle <= met);
            let on_its_way = events().any(|e| {
                let data = matches!(effect(e), Effect::Read | Effect::Write | Effect::Move);
                data && e.cycle <= cycle && cycle < e.cycle + commands[usize::from(e.command)].done
            });
            let cause = match (hosted, first.map(rank), next.map(effect)) {
                (true, ..) => Cause::Stall,
                (_, Some(0), _) => Cause::Mac,
                (_, Some(1), _) => Cause::Refresh,
                (_, Some(2), _) => Cause::Softmax,
                (_, Some(3), _) => Cause::Movement,
                (_, Some(5), _) => {
                    if on_its_way {
                        Cause::Movement
                    } else {
                        Cause::Refresh
                    }
                }
                (_, Some(_), Some(Effect::Refresh)) if !next.is_some_and(partial) => Cause::Refresh,
                (_, Some(_), _) => Cause::RowSwitch,
                (_, None, Some(Effect::Open | Effect::Close)) => Cause::RowSwitch,
                (_, None, Some(Effect::Refresh)) => Cause::Refresh,
                (_, None, _) if on_its_way => Cause::Movement,
                (_, None, _) => Cause::Stall,
            };
            let active = |e: Option<&CommandEvent>| match e {
                Some(e) if effect(e) == Effect::MacOpen => u64::from(e.banks),
                _ => banks,
            };
            let n = match cause {
                Cause::Mac => active(events().rfind(|e| e.cycle <= cycle && rank(e) == 0)),
                Cause::RowSwitch => active(events().find(|e| e.cycle > cycle && access(effect(e)))),
                _ => banks,
            };
            out[cause as usize] += n;
            out[Cause::ImbalanceUnits as usize] += banks - n;
        }
        out[Cause::ImbalanceChannels as usize] += (met - wait) * banks;
        at = met;
    }
    out
}

/// A row switch and units that idle in it.
fn without_split(mut spent: Causes) -> Causes {
    spent[Cause::RowSwitch as usize] += std::mem::take(&mut spent[Cause::ImbalanceUnits as usize]);
    spent
}

/// Work of all kinds in two channels, in an order that no generator makes.
fn work(g: Geometry, labels: bool) -> impl Strategy<Value = Vec<Record>> {
    use Op::*;
    let some = [Ld, St, MacAb, MacSb, MacPb, WrGb, MvSb, MvGb, Sfm, Barrier, ActBg, PreBg, MacBg, Sync, Host];
    let item = (proptest::sample::select(some.to_vec()), any::<u32>(), 1u32..40, 0u32..4);
    prop::collection::vec(item, 1..60).prop_map(move |items| {
        let segment = |channel, step, lane| {
            let (kv_head, layer) = (step % 2, (step + u32::from(lane)) % 3);
            Record::Segment(Segment { channel, step, lane, layer, kv_head, ..Segment::default() })
        };
        let mut out = if labels { vec![segment(0, 0, 0), segment(1, 0, 0)] } else { Vec::new() };
        let mut step = 0;
        for (op, n, count, kind) in items {
            let (channel, lane) = (n % 2, (n >> 15 & 1) as u8);
            if labels && kind == 0 {
                step += u32::from(n >> 16 & 3 == 0);
                out.push(segment(channel, step, lane));
            }
            if labels && kind == 1 {
                let phase = Phase::ALL[n as usize >> 18 & 7];
                out.push(Record::Mark(Mark { channel, lane, phase }));
            }
            let address = Address {
                channel,
                pseudo_channel: n >> 1 & 1,
                rank: n >> 2 & 1,
                bank_group: n >> 3 & 3,
                bank: n >> 5 & 3,
                // The address of a softmax is its length, up to some hundred entries.
                row: n >> 7 & if op == Sfm { 15 } else { 3 },
                column: n >> 9 & 31,
                offset: 0,
            };
            let addr = g.encode(&address);
            if op == MacBg {
                // bank groups must be open for it
                out.push(Record::Request(Request::one(ActBg, addr)));
            }
            let count = match op {
                Host => count * 5,
                op if op.is_mark() || matches!(op, ActBg | PreBg) => 1,
                _ => count.min(32 - address.column),
            };
            let stride = 32 * u32::from(count > 1 && op != Host);
            out.push(Record::Request(Request { op, addr: if op == Sync { 0 } else { addr }, count, stride }));
        }
        out
    })
}

/// Short intervals, so that refreshes fall between everything; of all banks, or of some.
fn often_refreshed(kind: usize) -> System {
    let text = std::fs::read_to_string(root().join("configs/dram/hbm3-pim.toml")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("device.toml");
    let often = text.lines().map(|l| match l.trim_start().starts_with("nREFI") {
        true => "nREFI = \"1500 tCK\"\n".to_string(),
        false => format!("{l}\n"),
    });
    std::fs::write(&file, often.collect::<String>()).unwrap();
    let device = format!("dram.device={}", file.display());
    let refresh: &[&str] = match kind {
        0 => &["refresh=all-bank"],
        1 => &["refresh=same-bank"],
        _ => &["refresh=per-bank", "refresh_order=together"],
    };
    system("hbm3-pim", &[refresh, &["channels=2", &device][..]].concat())
}

fn whole(time: &Time) -> u64 {
    assert_eq!(time.total(), time.spent().iter().sum::<u64>(), "a row switch was never split");
    time.total()
}

/// The account of a trace against the plain one.
fn against_plain(s: &System, records: &[Record], labelled: bool) -> Result<(), String> {
    let (c, tape) = replay(s, records, (Collector::new(&s.device), Tape::default()));
    for (id, (channel, told)) in c.channels.iter().zip(&tape.0).enumerate() {
        let (mut ours, mut plain) = (*channel.time.spent(), plainly(s, told));
        if labelled {
            // Of a segment that ends with a row switch it is not said whose accesses that is for.
            (ours, plain) = (without_split(ours), without_split(plain));
        }
        if ours != plain {
            return Err(format!("channel {id}: {ours:?}, plainly {plain:?}"));
        }
    }
    Ok(())
}

/// Channel 0 waits for a long softmax, and a refresh of it falls due before the meeting and closes its banks behind it: that
/// is time of the refresh, also where a second meeting follows at once.
#[test]
fn a_refresh_behind_two_meetings_at_the_same_cycle_counts_once() {
    let s = often_refreshed(0);
    let g = &s.device.geometry;
    let softmax = |entries: u64| Address { channel: 1, ..g.softmax_addresses(entries).next().unwrap() };
    let sync = Record::Request(one(g, Op::Sync, Address::default()));
    for entries in 1440..1520 {
        for meetings in 1..4 {
            let mut records = vec![Record::Request(macs(g, 0, 8)), Record::Request(one(g, Op::Sfm, softmax(entries)))];
            records.extend(vec![sync; meetings]);
            records.push(Record::Request(one(g, Op::Ld, Address { row: 3, ..Address::default() })));
            assert_eq!(against_plain(&s, &records, false), Ok(()), "{entries} entries, {meetings} meetings");
        }
    }
}

/// A refresh of a part of the banks may end before data that are on their way beside it; what is next then counts.
#[test]
fn data_beside_a_refresh_of_some_banks_hide_it_no_longer_than_it_lasts() {
    let s = often_refreshed(1);
    let g = s.device.geometry;
    let at = |bank| Address { row: 3, bank, ..Address::default() };
    let host = |count| Record::Request(Request { count, ..one(&g, Op::Host, Address::default()) });
    for before in 300..700 {
        for bank in 0..2 {
            let read = Record::Request(one(&g, Op::Ld, at(bank)));
            let records = [host(before), read, host(300), read];
            assert_eq!(against_plain(&s, &records, false), Ok(()), "{before} {bank}");
        }
    }
}

/// How many random traces each; PROPTEST_CASES says otherwise.
fn cases() -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(200)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(cases()) })]

    #[test]
    fn every_cycle_has_the_cause_that_the_rules_say(
        (records, labelled) in {
            let g = often_refreshed(0).device.geometry;
            prop_oneof![work(g, false).prop_map(|r| (r, false)), work(g, true).prop_map(|r| (r, true))]
        },
        kind in 0..3usize,
    ) {
        let found = against_plain(&often_refreshed(kind), &records, labelled);
        prop_assert!(found.is_ok(), "{}", found.unwrap_err());
    }

    #[test]
    fn every_cycle_is_in_every_table_once(records in work(often_refreshed(0).device.geometry, true), kind in 0..3usize) {
        let s = often_refreshed(kind);
        let c = collect(&s, &records);
        let banks = u64::from(s.device.geometry.banks_per_channel());
        for channel in &c.channels {
            prop_assert_eq!(whole(&channel.time), c.cycles * banks);
        }
        prop_assert_eq!(whole(&c.run.time), 2 * c.cycles * banks);
        let heads: u64 = c.heads.values().map(|h| whole(&h.time)).sum();
        let (cycles, run, counters) = (c.cycles, c.run.time, c.run.counters.clone());
        let steps = c.into_steps();
        prop_assert_eq!(steps.iter().map(|s| s.cycles).sum::<u64>(), cycles);
        let (mut time, mut counted, mut waiting) = (Time::default(), pimattn_stats::Counters::default(), 0);
        for step in &steps {
            let sum = step.parts.sum();
            let mut of_layers = pimattn_stats::books::CountsByPhase::default();
            step.layers.values().for_each(|l| of_layers.add(&l.parts));
            prop_assert_eq!(&of_layers, &step.parts);
            prop_assert_eq!(step.layers.values().map(|l| l.cycles).sum::<u64>(), step.cycles);
            time.add(&sum.time);
            counted.add(&sum.counters);
            prop_assert!(step.parts.used().all(|(i, _)| i < PARTS));
            let waits = step.parts.used().find(|(i, _)| *i == WAITING).map_or(0, |(_, p)| whole(&p.time));
            prop_assert_eq!(waits, sum.time.spent()[Cause::ImbalanceChannels as usize]);
            waiting += waits;
        }
        prop_assert_eq!(time, run);
        prop_assert_eq!(counted, counters);
        prop_assert!(heads + waiting <= run.total());
    }
}
