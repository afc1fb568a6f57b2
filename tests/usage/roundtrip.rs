//! Traces survive a change of format, and a change of form does not change their cycles.

use crate::common::Shared;
use pimattn_core::addr::Geometry;
use pimattn_core::spec::System;
use pimattn_engine as engine;
use pimattn_engine::probe::{CommandEvent, Probe};
use pimattn_trace::label::SelectionLabel;
use pimattn_trace::{self as trace, Arrival, Header, Mark, Op, Phase, Record, Request, Segment};
use proptest::prelude::*;
use std::io::Cursor;
use std::path::Path;

fn write(format: &str, header: &Header, records: &[Record]) -> Vec<u8> {
    let out = Shared::default();
    let mut sink =
        (trace::format(format).unwrap().create)(Box::new(out.clone()), header, trace::ExportOptions::default())
            .unwrap();
    records.iter().for_each(|r| sink.push(*r).unwrap());
    sink.finish().unwrap();
    let bytes = out.0.lock().unwrap();
    bytes.clone()
}

fn read(bytes: &[u8], geometry: &Geometry) -> (Header, Vec<Record>) {
    let mut source = trace::open(Box::new(Cursor::new(bytes.to_vec())), "t", Some((*geometry).into())).unwrap();
    let (mut all, mut block) = (Vec::new(), Vec::new());
    while source.next_block(&mut block).unwrap() {
        all.append(&mut block);
    }
    assert!(!source.next_block(&mut block).unwrap() && block.is_empty(), "the end stays the end");
    (source.header().clone(), all)
}

/// Every request on its own, without segments.
fn expand(records: &[Record]) -> Vec<Request> {
    let requests = records.iter().filter_map(|r| if let Record::Request(r) = r { Some(*r) } else { None });
    requests
        .flat_map(|r| (0..u64::from(r.count)).map(move |i| Request::one(r.op, r.addr + i * u64::from(r.stride))))
        .collect()
}

fn singles(records: &[Record]) -> Vec<Record> {
    expand(records).into_iter().map(Record::Request).collect()
}

const GEOMETRY: Geometry = Geometry {
    channels: 5,
    pseudo_channels: 2,
    ranks: 3,
    bank_groups: 4,
    banks: 4,
    rows: 64,
    columns: 32,
    column_bytes: 32,
};

fn requests(longest: u32) -> impl Strategy<Value = Record> {
    let op = proptest::sample::select(Op::ALL);
    let stride = prop_oneof![Just(0u32), Just(32), 1u32..5000, any::<u32>()];
    (op, any::<u64>(), 1..longest, stride).prop_map(|(op, at, mut count, stride)| {
        let addr = GEOMETRY.encode(&pimattn_core::addr::Address {
            channel: at as u32 % 5,
            rank: (at >> 8) as u32 % 3,
            pseudo_channel: (at >> 16) as u32 % 2,
            bank_group: (at >> 17) as u32 % 4,
            row: (at >> 20) as u32 % 64,
            column: (at >> 28) as u32 % 32,
            bank: (at >> 34) as u32 % 4,
            offset: 0,
        });
        // the longest run that the device has room for
        let fits = |count| trace::check(&Record::Request(Request { op, addr, count, stride }), &GEOMETRY).is_ok();
        while !fits(count) {
            count = count.div_ceil(2).min(count - 1);
        }
        Record::Request(Request { op, addr, count, stride })
    })
}

fn marks() -> impl Strategy<Value = Record> {
    (0u32..5, 0u8..2, prop::sample::select(&Phase::ALL[..]))
        .prop_map(|(channel, lane, phase)| Record::Mark(Mark { channel, lane, phase }))
}

fn arrivals() -> impl Strategy<Value = Record> {
    (0u32..5, 0..=trace::LAST_ARRIVAL).prop_map(|(channel, cycle)| Record::Arrival(Arrival { channel, cycle }))
}

fn segments() -> impl Strategy<Value = Record> {
    (0u32..5, 0u8..2, any::<[u32; 13]>(), any::<[u64; 4]>()).prop_map(|(channel, lane, n, m)| {
        Record::Segment(Segment {
            channel,
            lane,
            step: n[0],
            position: n[1],
            layer: n[2],
            kv_head: n[3],
            request: n[4],
            selected: n[5],
            distinct: n[6],
            row_blocks: n[7],
            fullest_unit: n[8],
            row_tokens: n[9],
            slots_used: m[0],
            bytes_useful: m[1],
            kv_heads: n[10],
            query_heads: n[11],
            extents: n[12],
            bytes_scanned: m[2],
            bytes_upkeep: m[3],
        })
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(64) })]

    #[test]
    fn ptrace_keeps_everything(
        records in prop::collection::vec(prop_oneof![4 => requests(u32::MAX), 1 => segments(), 1 => marks(), 1 => arrivals()], 0..200),
        copies in 1usize..60,
        words in prop::array::uniform3(".{0,40}"),
        seed: u64,
    ) {
        // enough copies to fill several blocks now and then
        let records = records.repeat(copies);
        let [generator, config, provenance] = words;
        let header = Header { generator, config, seed, ..Header::foreign(GEOMETRY, &provenance) };
        let bytes = write("ptrace", &header, &records);
        let (read_header, read_records) = read(&bytes, &GEOMETRY);
        prop_assert_eq!(&read_header, &header);
        prop_assert!(read_records == records);
        prop_assert!(write("ptrace", &read_header, &read_records) == bytes, "not the same bytes again");
    }

    #[test]
    fn attacc_text_keeps_every_request(
        mut records in prop::collection::vec(prop_oneof![6 => requests(60), 1 => segments(), 1 => marks()], 0..200),
    ) {
        records.push(Record::Request(Request::one(Op::Sync, 0)));
        let header = Header::foreign(GEOMETRY, "t");
        let text = write("text", &header, &records);
        let (_, read_records) = read(&text, &GEOMETRY);
        prop_assert!(expand(&read_records) == expand(&records));
        for r in &read_records {
            prop_assert_eq!(trace::check(r, &GEOMETRY), Ok(()));
        }
        prop_assert!(write("text", &header, &read_records) == text);
        // what was read goes into the other format, too
        let (_, again) = read(&write("ptrace", &header, &read_records), &GEOMETRY);
        prop_assert!(again == read_records);
    }
}

#[test]
fn lines_become_runs_again() {
    let run = |op, addr, count, stride| Record::Request(Request { op, addr, count, stride });
    let records = [
        run(Op::MacAb, 0, 32, 32),
        run(Op::Barrier, 0, 1, 0),
        run(Op::Barrier, 0, 1, 0),
        run(Op::MvGb, 64, 9, 1),
        run(Op::Sfm, 0, 3, 0),
    ];
    let header = Header::foreign(GEOMETRY, "t");
    let (_, back) = read(&write("text", &header, &records), &GEOMETRY);
    assert_eq!(back, records);
}

/// A header that can be written can be read.
#[test]
fn long_headers_are_read_or_refused() {
    for length in [1000, 100_000, (1 << 18) - 200, (1 << 18) + 1, 1 << 19, 1 << 20] {
        let header = Header { config: "x".repeat(length), ..Header::foreign(GEOMETRY, "t") };
        let out = Shared::default();
        match trace::ptrace::PtraceWriter::create(Box::new(out.clone()), &header) {
            Err(e) => assert!(length > 1 << 18, "{length}: {e}"),
            Ok(mut writer) => {
                trace::Sink::finish(&mut writer).unwrap();
                let bytes = out.0.lock().unwrap().clone();
                let opened = trace::open(Box::new(Cursor::new(bytes)), "t", None);
                let source = opened.unwrap_or_else(|e| panic!("a header of {length} was written: {e}"));
                assert!(*source.header() == header, "{length}");
            }
        }
    }
}

// ---------------------------------------------------------------- cycles

fn config(path: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("configs").join(path)
}

/// Every command, and where a run ends.
#[derive(Default, PartialEq)]
struct Log(Vec<(u64, u8, pimattn_core::addr::Address)>);

impl Probe for Log {
    fn command(&mut self, e: &CommandEvent) {
        self.0.push((e.cycle, e.command, e.address));
    }
}

/// Length and commands, channel by channel: how far one channel is ahead of another when it is simulated means nothing.
fn replay(system: &System, bytes: &[u8]) -> (u64, Vec<(u64, u8, pimattn_core::addr::Address)>) {
    let mut source = trace::open(Box::new(Cursor::new(bytes.to_vec())), "t", Some(system.addressing())).unwrap();
    let mut log = Log::default();
    let cycles = engine::run(system, source.as_mut(), &mut log, &mut |_| {}).unwrap();
    log.0.sort_by_key(|(.., address)| address.channel);
    (cycles, log.0)
}

fn demo_trace(set: &[&str]) -> (Header, Vec<Record>) {
    use pimattn_mapping::workload::Workload;
    use pimattn_tracegen::generate::Generator;
    let set: Vec<String> = ["steps=3"].iter().chain(set).map(|s| s.to_string()).collect();
    let (workload, doc) = Workload::load(&config("workload/demo.toml"), &set).unwrap();
    let generator = Generator::load(workload, &doc, None).unwrap();
    let mut keep = crate::common::Keep::default();
    generator.run(&mut keep, None, &mut |_| {}).unwrap();
    (generator.header().clone(), keep.0)
}

/// The text form has no segments. A generated trace ends each segment with a barrier, so none is lost with them, and
/// the engine issues the same commands at the same cycles.
#[test]
fn a_generated_trace_takes_the_same_cycles_in_every_form() {
    for set in [
        &["policy=starc"][..],
        &["policy=quest", "mapping.addressing=broadcast"],
        &["policy=streaming", "mapping.addressing=ideal"],
        &["policy=full", "mapping.layout=interleaved"],
        &["policy=starc-v1", "mapping.align=row", "mapping.skip_columns=false"],
    ] {
        let (header, records) = demo_trace(set);
        for overrides in [&[][..], &["refresh=none"], &["queue_depth=4"], &["power=stagger"]] {
            let overrides: Vec<String> = overrides.iter().map(|s: &&str| s.to_string()).collect();
            let system = System::load(&config("system/hbm3-pim.toml"), &overrides).unwrap();
            let direct = replay(&system, &write("ptrace", &header, &records));
            assert!(direct.0 > 1000);
            let text = write("text", &header, &records);
            let (text_header, joined) = read(&text, &header.geometry);
            for (what, bytes) in [
                ("text", text),
                ("text made binary", write("ptrace", &text_header, &joined)),
                ("single requests", write("ptrace", &header, &singles(&records))),
            ] {
                let other = replay(&system, &bytes);
                assert_eq!(other.0, direct.0, "{set:?} {overrides:?}: {what}");
                assert!(other.1 == direct.1, "{set:?} {overrides:?}: {what} has other commands");
            }
        }
    }
}

/// Work of all kinds in one or two channels, in an order that no generator makes.
fn mixed_work() -> impl Strategy<Value = Vec<Record>> {
    let g = Geometry { channels: 16, ranks: 2, rows: 1 << 14, ..GEOMETRY };
    let ops = proptest::sample::select(
        &[
            Op::Ld,
            Op::St,
            Op::MacAb,
            Op::MacSb,
            Op::MacPb,
            Op::WrGb,
            Op::MvSb,
            Op::MvGb,
            Op::Sfm,
            Op::Barrier,
            Op::ActBg,
            Op::PreBg,
            Op::MacBg,
            Op::Sync,
        ][..],
    );
    prop::collection::vec((ops, any::<u32>(), 1u32..40), 1..60).prop_map(move |items| {
        let mut out = Vec::new();
        for (op, n, count) in items {
            let address = pimattn_core::addr::Address {
                channel: n % 2,
                pseudo_channel: n >> 1 & 1,
                rank: n >> 2 & 1,
                bank_group: n >> 3 & 3,
                bank: n >> 5 & 3,
                row: n >> 7 & 3,
                column: n >> 9 & 31,
                offset: 0,
            };
            let addr = g.encode(&address);
            if op == Op::MacBg {
                // bank groups must be open for it
                out.push(Record::Request(Request::one(Op::ActBg, addr)));
            }
            let single = op.is_mark() || matches!(op, Op::ActBg | Op::PreBg);
            let count = if single { 1 } else { count.min(32 - address.column) };
            let addr = if op == Op::Sync { 0 } else { addr };
            out.push(Record::Request(Request { op, addr, count, stride: 32 * u32::from(count > 1) }));
        }
        out
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(128) })]

    #[test]
    fn runs_take_the_cycles_of_single_requests(records in mixed_work(), depth in prop_oneof![Just(1u32), 2u32..40]) {
        let system = System::load(&config("system/hbm3-pim.toml"), &[format!("queue_depth={depth}")]).unwrap();
        let header = Header::foreign(system.device.geometry, "t");
        let (cycles, log) = replay(&system, &write("ptrace", &header, &records));
        let text = write("text", &header, &records);
        for (what, bytes) in [("single", write("ptrace", &header, &singles(&records))), ("text", text)] {
            let (other_cycles, other_log) = replay(&system, &bytes);
            prop_assert_eq!(other_cycles, cycles, "{}", what);
            prop_assert!(other_log == log, "{}: other commands", what);
        }
    }
}

/// A run of PIM_ACT_BG opens as many rows as it has requests: who has the most to come goes first.
#[test]
fn a_run_of_row_commands_counts_as_its_requests() {
    let system = System::load(&config("system/hbm3-pim.toml"), &["queue_depth=26".into()]).unwrap();
    let header = Header::foreign(system.device.geometry, "t");
    let run = |op, addr, count, stride| Record::Request(Request { op, addr, count, stride });
    let work = |open: &[Record]| {
        let mut all = vec![run(Op::MacSb, 0x6a00_05e0, 16, 32)];
        all.extend(open);
        all.extend([run(Op::MacBg, 0x4a00_0620, 15, 32), run(Op::Ld, 0x7200_0aa0, 11, 32)]);
        all.push(run(Op::MvGb, 0x4400_0280, 12, 32));
        all
    };
    let one_run = work(&[run(Op::ActBg, 0x4a00_0520, 2, 0x100)]);
    let singly = work(&[0x4a00_0520, 0x4a00_0620].map(|addr| run(Op::ActBg, addr, 1, 0)));
    let of_run = replay(&system, &write("ptrace", &header, &one_run));
    assert_eq!(of_run, replay(&system, &write("ptrace", &header, &singly)));
}

/// The same promise for a plain case of LD, which the controller may take out of order.
#[test]
fn runs_of_data_take_the_cycles_of_single_requests() {
    let system = System::load(&config("system/hbm3-pim.toml"), &[]).unwrap();
    let header = Header::foreign(system.device.geometry, "t");
    let other_bank = Record::Request(Request::one(Op::Ld, 1 << 24));
    let run = [Record::Request(Request { op: Op::Ld, addr: 0, count: 9, stride: 32 }), other_bank];
    let (cycles, _) = replay(&system, &write("ptrace", &header, &run));
    let (single_cycles, _) = replay(&system, &write("ptrace", &header, &singles(&run)));
    assert_eq!(cycles, single_cycles);
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// The bytes of docs/formats.md, written out. They do not change with a name or the order of fields in the code: whoever
/// makes this test fail has made a new version of the format, and old traces have to be refused.
#[test]
fn a_ptrace_has_these_bytes_whatever_the_code_calls_its_fields() {
    let geometry = pimattn::attacc::DEVICE;
    let header = Header {
        generator: "gen".into(),
        geometry,
        spec_hash: 0x0102_0304,
        seed: 7,
        config: "a = 1\n".into(),
        provenance: "p".into(),
        element_bytes: 2,
        heads_per_read: 4,
        selection: None,
    };
    let segment = Segment {
        channel: 3,
        lane: 1,
        step: 4,
        position: 5,
        layer: 6,
        kv_head: 7,
        request: 8,
        selected: 9,
        distinct: 10,
        row_blocks: 11,
        fullest_unit: 12,
        row_tokens: 13,
        slots_used: 14,
        bytes_useful: 15,
        kv_heads: 16,
        query_heads: 17,
        extents: 18,
        bytes_scanned: 19,
        bytes_upkeep: 20,
    };
    let mut records = vec![Record::Segment(segment)];
    records.extend(Phase::ALL.map(|phase| Record::Mark(Mark { channel: 2, lane: 1, phase })));
    let run = |op: &Op| Record::Request(Request { op: *op, addr: 32, count: *op as u32 + 1, stride: 32 });
    records.extend(Op::ALL.iter().map(run));
    records.push(Record::Arrival(Arrival { channel: 1, cycle: 300 }));
    records.extend([0, 1].map(|channel| Record::Request(Request::one(Op::Ld, geometry.channel_base(channel) + 64))));
    let bytes = write("ptrace", &header, &records);

    let number = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
    assert_eq!((&bytes[..8], number(8)), (&b"PTRACE\x1a\n"[..], 7));
    let end = 16 + number(12);
    // Strings behind their lengths; numbers from 251 on behind a byte that says their width.
    let device = "1002020404fb00402020";
    let want = format!("0367656e{device}fc0403020107{}0170{}", "0661203d20310a", "020400");
    assert_eq!(hex(&bytes[16..end]), want);
    // Version 6 ends its header before the selection.
    let mut older = bytes[..8].to_vec();
    older.extend(6u32.to_le_bytes());
    older.extend((end as u32 - 17).to_le_bytes());
    older.extend(&bytes[16..end - 1]);
    older.extend(crc32fast::hash(&bytes[16..end - 1]).to_le_bytes());
    older.extend(&bytes[end + 4..]);
    assert_eq!(read(&older, &geometry), read(&bytes, &geometry));
    let label = SelectionLabel {
        policy: "q".into(),
        budget: 8,
        layers: 2,
        cache_hash: "c".into(),
        selection_hash: 3,
        cautions: vec!["s".into()],
    };
    let labelled = Header { selection: Some(label), ..header };
    let bytes_labelled = write("ptrace", &labelled, &records);
    let end_labelled = 16 + u32::from_le_bytes(bytes_labelled[12..16].try_into().unwrap()) as usize;
    assert_eq!(hex(&bytes_labelled[end - 1..end_labelled]), "010171080201630301".to_string() + "0173");
    assert_eq!(read(&bytes_labelled, &geometry).0, labelled);
    let block = end + 4;
    assert_eq!((bytes[block], number(block + 1)), (1, 1 + 8 + 17 + 1 + 1));
    let packed = block + 17;
    let raw = zstd::bulk::decompress(&bytes[packed..packed + number(block + 9)], 1 << 16).unwrap();
    assert_eq!(raw.len(), number(block + 5));
    let want = [
        // A segment.
        "0103010405060708090a0b0c0d0e0f1011121314",
        // Marks: channel, lane, phase.
        "0202010002020101020201020202010302020104020201050202010602020107",
        // Requests: operation, address, count, stride.
        "0000200120000120022000022003200003200420000420052000052006200006200720000720082000082009200009200a20",
        "000a200b20000b200c20000c200d20000d200e20000e200f20000f2010200010201120",
        // An arrival: channel, cycle.
        "0401fb2c01",
        // A request to two channels.
        "030040010002",
    ];
    assert_eq!(hex(&raw), want.concat());
}
