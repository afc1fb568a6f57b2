//! AttAcc's schedule against the request streams of AttAcc's own generators and of the STARC artifact's.
//!
//! Names are those of the golden traces: `<attacc|starc>_<mode>_nh<heads>_L<tokens>`, then `_dh<dimension>` and
//! `_db<bytes>` (128 and 2 where left out), then `_kv<budget>` for the artifact's row budget. Check sums and counts
//! stand here, so that equality is tested without the traces. The traces themselves, which say where a stream goes
//! wrong, do not ship with the sources: the comparison line by line is ignored unless `make test-golden` asks for it.

use crate::common::{Shared, golden};
use pimattn_attacc::{Attention, AttentionSchedule, DEVICE, Form, UnitLevel};
use pimattn_core::op::Op;
use pimattn_trace::{self as trace, Phase, Record, Request, Segment, Sink};
use std::path::Path;
use std::process::{Command, Output};

/// CRC-32 of the whole text of each golden trace.
const GOLDEN: [(&str, u32); 47] = [
    ("attacc_bank_nh16_L1000_dh128_db2", 0x7b1f0d95),
    ("attacc_bank_nh16_L16384_dh128_db2", 0x946e0bc9),
    ("attacc_bank_nh16_L16_dh128_db2", 0xbad34223),
    ("attacc_bank_nh16_L2048_dh128_db2", 0x057437f5),
    ("attacc_bank_nh16_L4096_dh128_db2", 0x6ec600a9),
    ("attacc_bank_nh17_L1000_dh128_db2", 0x806b97e5),
    ("attacc_bank_nh17_L128_dh128_db2", 0x9a73b004),
    ("attacc_bank_nh17_L1_dh128_db2", 0x1c97f427),
    ("attacc_bank_nh17_L2048_dh128_db2", 0x04e06dc1),
    ("attacc_bank_nh1_L1000_dh128_db2", 0xd84c24bb),
    ("attacc_bank_nh1_L128_dh128_db2", 0x849828d3),
    ("attacc_bank_nh1_L1_dh128_db2", 0x3893860a),
    ("attacc_bank_nh31_L128_dh128_db2", 0x37d0db2f),
    ("attacc_bank_nh31_L16_dh128_db2", 0x49c59d53),
    ("attacc_bank_nh32_L16_dh128_db2", 0x4ac0cadd),
    ("attacc_bank_nh32_L1_dh128_db2", 0x4ac0cadd),
    ("attacc_bank_nh32_L2048_dh128_db2", 0xe64ca116),
    ("attacc_bank_nh32_L777_dh128_db1", 0xf633be78),
    ("attacc_bank_nh32_L8192_dh128_db2", 0x51aba5e0),
    ("attacc_bank_nh33_L128_dh128_db2", 0xcc76a50e),
    ("attacc_bank_nh33_L16_dh128_db2", 0xb3e3e387),
    ("attacc_bank_nh33_L1_dh128_db2", 0xb3e3e387),
    ("attacc_bank_nh48_L1000_dh128_db2", 0xa49bb638),
    ("attacc_bank_nh48_L16_dh128_db2", 0xcaae852b),
    ("attacc_bank_nh5_L128_dh128_db2", 0xee0af732),
    ("attacc_bank_nh5_L1_dh128_db2", 0x8c950544),
    ("attacc_bank_nh5_L2048_dh128_db2", 0xed6acd47),
    ("attacc_bank_nh64_L1000_dh128_db2", 0x75ebd28f),
    ("attacc_bank_nh80_L1000_dh128_db2", 0x15e9909f),
    ("attacc_bank_nh80_L128_dh128_db2", 0x6ccbd443),
    ("attacc_bank_nh80_L16_dh128_db2", 0x2a9bc4bc),
    ("attacc_bank_nh80_L1_dh128_db2", 0x2a9bc4bc),
    ("attacc_bg_nh16_L2048_dh128_db2", 0x72bbde85),
    ("attacc_bg_nh1_L128_dh128_db2", 0x7228aa30),
    ("attacc_bg_nh32_L512_dh128_db2", 0x86095310),
    ("attacc_bg_nh33_L256_dh128_db2", 0x33f4c7d7),
    ("attacc_bg_nh64_L128_dh128_db2", 0xc8a0723f),
    ("attacc_buffer_nh16_L1000_dh128_db2", 0xa74955eb),
    ("attacc_buffer_nh16_L128_dh128_db2", 0x66c4c33b),
    ("attacc_buffer_nh16_L2048_dh128_db2", 0xb69f3340),
    ("attacc_buffer_nh1_L128_dh128_db2", 0x94defa58),
    ("attacc_buffer_nh32_L512_dh128_db2", 0x696edbe2),
    ("attacc_buffer_nh64_L128_dh128_db2", 0x2722ca58),
    ("starc_bank_nh26_L20000_kv1539", 0xbe3f41ec),
    ("starc_bank_nh64_L16000_kv1448", 0xafbaa8ed),
    ("starc_bank_nh64_L16000_kv4030", 0xf66e71d6),
    ("starc_bank_nh64_L4096_kv1024", 0xdda54c43),
];

/// The same of traces that the reference generators wrote for shapes of which there is no golden trace.
const OTHER_SHAPES: [(&str, u32); 9] = [
    ("attacc_bank_nh33_L700_dh64_db2", 0x5c35bfe3),
    ("attacc_bank_nh20_L300_dh80_db2", 0x29eb672e),
    ("attacc_bg_nh18_L1000_dh64_db2", 0x10c81dee),
    ("attacc_bg_nh16_L333_dh96_db1", 0x38116a63),
    ("attacc_buffer_nh19_L200_dh80_db2", 0xf951b5ff),
    ("attacc_buffer_nh33_L100_dh64_db4", 0xe344009e),
    ("starc_bank_nh48_L9000_dh64_db2_kv777", 0xf59a4117),
    ("starc_bank_nh35_L1001_dh128_db1_kv2000", 0x7bb022e6),
    ("attacc_bank_nh17_L600_dh256_db4", 0x8c393b6d),
];

/// The same, and the lines, of traces of the artifact's generator with its clustering.
const CLUSTERED: [(&str, u32, usize); 6] = [
    ("starc_bank_nh13_L512_dh128_db2_kv256_cluster", 0xcfe71e8e, 21645),
    ("starc_bank_nh16_L1000_dh64_db2_kv777_cluster", 0x9bd3b236, 32960),
    ("starc_bank_nh1_L17_dh128_db2_kv100_cluster", 0xc367abaf, 547),
    ("starc_bank_nh5_L2048_dh80_db4_kv1539_cluster", 0xf1a206b2, 59095),
    ("starc_bank_nh16_L4000_dh128_db1_kv1024_cluster", 0x95067623, 114752),
    ("starc_bank_nh3_L300_dh256_db8_kv5_cluster", 0x2129a35c, 22907),
];

/// Operations counted in [`COUNTS`], in order; everything else is barriers.
const COUNTED: [Op; 7] = [Op::MacAb, Op::MacSb, Op::MacPb, Op::WrGb, Op::MvSb, Op::MvGb, Op::Sfm];

/// Lines and requests of each kind that the reference simulator counted (golden.csv).
const COUNTS: [(&str, u64, [u64; 7]); 14] = [
    ("attacc_bank_nh1_L1_dh128_db2", 125, [4, 0, 0, 8, 24, 8, 1]),
    ("attacc_bank_nh17_L1000_dh128_db2", 8151, [6190, 0, 0, 136, 1056, 544, 17]),
    ("attacc_bank_nh16_L16384_dh128_db2", 83408, [65536, 0, 0, 128, 8448, 8192, 16]),
    ("attacc_bank_nh80_L1000_dh128_db2", 27840, [20176, 0, 0, 640, 3840, 2560, 80]),
    ("attacc_bank_nh33_L128_dh128_db2", 2617, [1072, 0, 0, 264, 792, 264, 33]),
    ("attacc_bank_nh32_L777_dh128_db1", 5280, [3152, 0, 0, 128, 1280, 512, 32]),
    ("attacc_bg_nh33_L256_dh128_db2", 10297, [0, 8464, 0, 264, 792, 264, 33]),
    ("attacc_bg_nh16_L2048_dh128_db2", 35504, [0, 32768, 0, 128, 1280, 1024, 16]),
    ("attacc_bg_nh1_L128_dh128_db2", 345, [0, 128, 0, 8, 24, 8, 1]),
    ("attacc_buffer_nh32_L512_dh128_db2", 133440, [0, 0, 131088, 256, 768, 512, 32]),
    ("attacc_buffer_nh1_L128_dh128_db2", 1273, [0, 0, 1024, 8, 12, 4, 1]),
    ("attacc_buffer_nh64_L128_dh128_db2", 67952, [0, 0, 65552, 512, 768, 256, 64]),
    ("starc_bank_nh64_L16000_kv1448", 31596, [23312, 0, 0, 508, 4096, 3072, 64]),
    ("starc_bank_nh26_L20000_kv1539", 15227, [11268, 0, 0, 205, 1968, 1456, 26]),
];

/// The parameters that a trace name stands for.
fn parse(name: &str) -> Attention {
    let mut words = name.split('_');
    assert!(matches!(words.next(), Some("attacc" | "starc")), "{name}");
    let mode = UnitLevel::parse(words.next().unwrap()).unwrap();
    let mut attention = Attention { mode, heads: 0, len: 0, dim: 128, bytes: 2, kv_budget: None, clustering: false };
    for word in words {
        if word == "cluster" {
            attention.clustering = true;
            continue;
        }
        let (key, value) = word.split_at(word.find(|c: char| c.is_ascii_digit()).unwrap());
        let value = value.parse().unwrap();
        match key {
            "nh" => attention.heads = value,
            "L" => attention.len = value,
            "dh" => attention.dim = value,
            "db" => attention.bytes = value,
            "kv" => attention.kv_budget = Some(value),
            _ => panic!("{name}: unknown part {word}"),
        }
    }
    attention
}

fn schedule(name: &str) -> AttentionSchedule {
    AttentionSchedule::published(parse(name), DEVICE).unwrap()
}

/// The schedule in AttAcc's text form.
fn text(name: &str) -> Vec<u8> {
    text_of(&schedule(name))
}

fn text_of(schedule: &AttentionSchedule) -> Vec<u8> {
    let out = Shared::default();
    let format = trace::format("attacc").unwrap();
    let mut sink = (format.create)(Box::new(out.clone()), &schedule.header(), trace::ExportOptions::default()).unwrap();
    schedule.run(sink.as_mut(), &mut |_| {}).unwrap();
    std::mem::take(&mut out.0.lock().unwrap())
}

/// The records as they are written.
#[derive(Default)]
struct Records {
    requests: Vec<Request>,
    finished: bool,
}

impl Sink for Records {
    fn push(&mut self, record: Record) -> pimattn_core::error::Result<()> {
        trace::check(&record, &DEVICE).unwrap();
        match record {
            Record::Request(r) => self.requests.push(r),
            label => panic!("{label:?}: the schedule has no segments"),
        }
        Ok(())
    }
    fn finish(&mut self) -> pimattn_core::error::Result<()> {
        self.finished = true;
        Ok(())
    }
}

fn records(name: &str) -> Vec<Request> {
    let mut records = Records::default();
    schedule(name).run(&mut records, &mut |_| {}).unwrap();
    assert!(records.finished);
    records.requests
}

#[test]
fn check_sums_are_the_golden_traces() {
    let wrong: Vec<_> = GOLDEN
        .into_iter()
        .chain(OTHER_SHAPES)
        .filter(|(name, crc)| crc32fast::hash(&text(name)) != *crc)
        .map(|(name, _)| name)
        .collect();
    assert_eq!(wrong, [""; 0], "differ from the reference");
}

#[test]
fn one_head_a_channel_is_published_without_quirks() {
    let clustered = CLUSTERED.map(|(name, crc, _)| (name, crc));
    let single = |a: Attention| a.heads <= 16 && a.bytes == 2;
    let names = GOLDEN.into_iter().chain(OTHER_SHAPES).chain(clustered).filter(|(name, _)| single(parse(name)));
    let differ = |(name, crc): &(&str, u32)| {
        let exact = crc32fast::hash(&text_of(&AttentionSchedule::new(parse(name), DEVICE).unwrap()));
        assert_eq!(exact, *crc, "{name}");
    };
    assert_eq!(names.inspect(differ).count(), 20);
}

#[test]
fn attentions_of_one_normal_form_write_the_same() {
    for (names, counts) in [
        (
            &[
                "starc_bank_nh13_L20000_kv1539",
                "starc_bank_nh13_L1549",
                "attacc_bank_nh13_L1537",
                "attacc_bank_nh13_L1552",
            ][..],
            [1, 1],
        ),
        (&["attacc_bank_nh16_L1000", "starc_bank_nh16_L1000_kv1000", "starc_bank_nh16_L1001_kv9000"], [1, 1]),
        (&["attacc_bg_nh3_L97_dh64", "attacc_bg_nh3_L112_dh64", "attacc_bg_nh3_L113_dh64"], [2, 2]),
        (&["attacc_buffer_nh16_L127", "attacc_buffer_nh16_L128", "attacc_buffer_nh16_L129"], [2, 2]),
        // As published, with more rounds the whole length sets the pace of the transfers, in steps of 256 tokens.
        (&["starc_bank_nh33_L5121_kv1000", "starc_bank_nh33_L5376_kv1008", "starc_bank_nh33_L5377_kv1000"], [1, 2]),
        (&["attacc_bank_nh33_L1000", "attacc_bank_nh33_L1008", "starc_bank_nh33_L1008_kv9000"], [1, 2]),
        (
            &["starc_bank_nh13_L512_kv256_cluster", "starc_bank_nh13_L511_kv256_cluster", "starc_bank_nh13_L512_kv256"],
            [3, 3],
        ),
    ] {
        for (form, count) in [Form::Exact, Form::Published].into_iter().zip(counts) {
            let mut streams: Vec<(Attention, Vec<u8>)> = Vec::new();
            for name in names {
                let normal = parse(name).normal_form(form, &DEVICE).unwrap();
                let stream = text_of(&AttentionSchedule::of(form, parse(name), DEVICE).unwrap());
                assert_eq!(normal.normal_form(form, &DEVICE).unwrap(), normal, "{name}");
                match streams.iter().find(|(known, _)| *known == normal) {
                    Some((_, known)) => assert!(*known == stream, "{name} is not like the others of {normal:?}"),
                    None => streams.push((normal, stream)),
                }
            }
            assert_eq!(streams.len(), count, "{form:?} {names:?}");
        }
    }
}

#[test]
fn clustering_is_the_artifacts_line_by_line() {
    for (name, crc, lines) in CLUSTERED {
        let text = text(name);
        let ours = (crc32fast::hash(&text), text.iter().filter(|b| **b == b'\n').count());
        assert_eq!(ours, (crc, lines), "{name}");
    }
}

#[test]
fn the_clustering_loses_most_of_its_macs() {
    let (schedule, mut all) = (schedule("starc_bank_nh13_L512_kv256_cluster"), All::default());
    schedule.run_labelled(&[], &mut all).unwrap();
    let (mut phases, mut macs, mut moved) = ([Phase::Other; 16], 0, 0);
    for record in all.0 {
        match record {
            Record::Segment(s) => panic!("{s:?}: none were given"),
            Record::Arrival(a) => panic!("{a:?}: nothing arrives later"),
            Record::Mark(m) => phases[m.channel as usize] = m.phase,
            Record::Request(r) => match (phases[DEVICE.channel_of(r.addr) as usize], r.op) {
                (Phase::Cluster, Op::MacAb) => macs += r.count,
                (Phase::Remap, Op::MvGb | Op::WrGb) => moved += r.count,
                (Phase::Remap, op) => assert_eq!(op, Op::Barrier, "the remap touches buffers only"),
                _ => {}
            },
        }
    }
    assert_eq!((u64::from(macs), 108_160), schedule.clustering_macs().unwrap());
    assert_eq!(macs, 936);
    // Of K and V each: 32 rows of 8 entries, from and to, on 13 channels.
    assert_eq!(moved, 2 * 32 * 8 * 2 * 13);
}

#[test]
fn requests_of_each_kind_are_as_many_as_the_reference_counted() {
    for (name, lines, counts) in COUNTS {
        let requests = records(name);
        let of = |op: Op| requests.iter().filter(|r| r.op == op).map(|r| u64::from(r.count)).sum::<u64>();
        assert_eq!(COUNTED.map(of), counts, "{name}");
        assert_eq!(counts.iter().sum::<u64>() + of(Op::Barrier), lines, "{name}");
    }
}

#[test]
fn a_channel_alone_makes_runs() {
    let requests = records("attacc_bank_nh1_L1000_dh128_db2");
    // A chunk of scores is one row of 32 columns, and the query of a bank two entries.
    assert!(requests.iter().any(|r| (r.op, r.count, r.stride) == (Op::MacAb, 32, 32)));
    assert!(requests.iter().any(|r| (r.op, r.count, r.stride) == (Op::WrGb, 2, 1)));
}

/// Everything that is written.
#[derive(Default)]
struct All(Vec<Record>);

impl Sink for All {
    fn push(&mut self, record: Record) -> pimattn_core::error::Result<()> {
        trace::check(&record, &DEVICE).unwrap();
        self.0.push(record);
        Ok(())
    }
    fn finish(&mut self) -> pimattn_core::error::Result<()> {
        panic!("another step may follow");
    }
}

#[test]
fn labels_say_what_each_request_is_for_and_change_none() {
    for name in ["attacc_bank_nh1_L1000_dh128_db2", "starc_bank_nh35_L1001_kv2000", "attacc_bg_nh18_L1000_dh64_db2"] {
        let schedule = schedule(name);
        let mut all = All::default();
        schedule.run_labelled(&schedule.segments(&Segment::default()), &mut all).unwrap();
        let (mut requests, mut phases) = (Vec::new(), [Phase::Other; 16]);
        for record in all.0 {
            match record {
                Record::Segment(s) => assert!(requests.is_empty() && s.lane == 0),
                Record::Arrival(a) => panic!("{a:?}: nothing arrives later"),
                Record::Mark(m) => {
                    assert_ne!(std::mem::replace(&mut phases[m.channel as usize], m.phase), m.phase, "a mark in vain");
                }
                Record::Request(r) => {
                    let (at, phase) = (DEVICE.decode(r.addr), phases[DEVICE.channel_of(r.addr) as usize]);
                    // Of heads this short, keys are in the lower half of each bank and values in the upper half.
                    let matrix = if at.row < DEVICE.rows / 2 { Phase::AttendScore } else { Phase::AttendContext };
                    match r.op {
                        Op::Barrier => {}
                        Op::Sfm => assert_eq!(phase, Phase::Softmax),
                        _ => assert_eq!(phase, matrix, "{name}: {r:?}"),
                    }
                    requests.push(r);
                }
            }
        }
        assert_eq!(requests, records(name), "{name}");
    }
}

#[test]
fn segments_add_up_the_heads_of_each_channel() {
    let template = Segment { step: 3, position: 999, layer: 7, request: 2, ..Segment::default() };
    let segments = schedule("starc_bank_nh35_L1000_kv500").segments(&template);
    let (tokens, attended) = (500, 512);
    for (channel, s) in (0..).zip(&segments) {
        let heads = if channel < 3 { 3 } else { 2 };
        let wanted = Segment {
            channel,
            kv_head: channel,
            selected: heads * tokens,
            distinct: heads * tokens,
            row_blocks: heads * attended / 16,
            // 32 positions of 2 columns, in rows of 32 columns.
            fullest_unit: heads * 2,
            row_tokens: heads * attended,
            slots_used: u64::from(heads * tokens * 2 * 2),
            bytes_useful: u64::from(heads * tokens * 2 * 256),
            kv_heads: heads,
            query_heads: heads,
            extents: heads,
            ..template
        };
        assert_eq!(*s, wanted);
    }
    assert_eq!(segments.len(), 16);
    assert_eq!(schedule("attacc_bank_nh5_L128").segments(&template).len(), 5, "only channels with work");
}

/// Where two texts differ first.
fn first_difference(name: &str, ours: &str, golden: &str) -> Option<String> {
    let (mut ours, mut golden) = (ours.lines(), golden.lines());
    for line in 1u64.. {
        match (ours.next(), golden.next()) {
            (None, None) => break,
            (o, g) if o == g => {}
            (o, g) => return Some(format!("{name}:{line}: {o:?}, should be {g:?}")),
        }
    }
    None
}

#[test]
#[ignore = "needs golden results, which do not ship: make test-golden"]
fn every_line_is_the_golden_one() {
    let folder = golden("golden/traces");
    let mut names: Vec<String> = std::fs::read_dir(&folder)
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().to_str()?.strip_suffix(".trace.zst").map(String::from))
        .filter(|name| name.starts_with("attacc_") || name.starts_with("starc_"))
        .collect();
    names.sort();
    assert_eq!(names.len(), GOLDEN.len());
    let read = |name: &str| {
        let file = std::fs::File::open(folder.join(format!("{name}.trace.zst"))).unwrap();
        String::from_utf8(zstd::decode_all(file).unwrap()).unwrap()
    };
    let differences: Vec<String> = names
        .iter()
        .filter_map(|name| first_difference(name, std::str::from_utf8(&text(name)).unwrap(), &read(name)))
        .collect();
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

fn tracegen(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_tracegen")).args(args).output().unwrap()
}

const SMALL: [&str; 9] = ["attacc", "--mode", "bank", "--heads", "17", "--len", "1000", "-o", "-"];

#[test]
fn the_command_writes_what_the_library_does() {
    let name = "attacc_bank_nh17_L1000_dh128_db2";
    let plain = tracegen(&SMALL);
    assert!(plain.status.success());
    assert_eq!(crc32fast::hash(&plain.stdout), crc32fast::hash(&text(name)));
    // The bundled system is the paper's device.
    let system = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/system/hbm3-pim.toml");
    let configured = tracegen(&[&SMALL[..], &["--config", system.to_str().unwrap()]].concat());
    assert!(configured.status.success());
    assert_eq!(configured.stdout, plain.stdout);
}

#[test]
fn a_binary_trace_says_what_it_is_and_becomes_the_same_text() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_string();
    let (binary, plain) = (path("a.ptrace"), path("a.trace"));
    let made = "attacc --mode bank --heads 26 --len 2000 --kv-budget 1539 --to ptrace -o".split(' ');
    let made: Vec<&str> = made.chain([binary.as_str()]).collect();
    assert!(tracegen(&made).status.success());
    let info = String::from_utf8(tracegen(&["info", &binary]).stdout).unwrap();
    for said in ["attacc\n", "no KV data", "mode = \"bank\"", "heads = 26", "len = 2000", "kv_budget = 1539"] {
        assert!(info.contains(said), "{said:?} is missing in\n{info}");
    }
    assert!(tracegen(&["convert", &binary, &plain, "--to", "attacc"]).status.success());
    assert_eq!(std::fs::read(&plain).unwrap(), text("starc_bank_nh26_L2000_kv1539"));
}

/// Requests of a binary trace, and the steps and positions of its segments.
fn requests_and_steps(path: &str) -> (Vec<Request>, Vec<(u32, u32)>) {
    let file = Box::new(std::fs::File::open(path).unwrap());
    let mut source = trace::open(file, path, None).unwrap();
    let (mut block, mut requests, mut steps) = (Vec::new(), Vec::new(), Vec::new());
    while source.next_block(&mut block).unwrap() {
        for record in &block {
            match record {
                Record::Request(r) => requests.push(*r),
                Record::Segment(s) => steps.push((s.step, s.position)),
                Record::Mark(_) | Record::Arrival(_) => {}
            }
        }
    }
    steps.dedup();
    (requests, steps)
}

#[test]
fn several_steps_are_the_schedules_of_growing_caches() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, len: u32, more: &str| {
        let path = folder.path().join(name).to_str().unwrap().to_string();
        let len = len.to_string();
        let args = ["attacc", "--mode", "bank", "--len", &len, "--to", "ptrace", "-o", &path];
        let out = tracegen(&[&args[..], &more.split_whitespace().collect::<Vec<_>>()].concat());
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        path
    };
    let decode = write("decode", 31, "--heads 20 --steps 3");
    let (requests, steps) = requests_and_steps(&decode);
    assert_eq!(steps, [(0, 30), (1, 31), (2, 32)]);
    // Marks of phases end runs, so that the same requests may be cut into others.
    let flat = |requests: &[Request]| -> Vec<(Op, u64)> {
        let each = |r: &Request| (0..u64::from(r.count)).map(|i| (r.op, r.addr + i * u64::from(r.stride))).collect();
        requests.iter().flat_map(|r| -> Vec<_> { each(r) }).collect()
    };
    let mut expected = Vec::new();
    for len in 31..34 {
        expected.extend(flat(&requests_and_steps(&write("single", len, "--heads 20")).0));
        expected.push((Op::Sync, 0));
    }
    assert!(flat(&requests) == expected);
    // The artifact clusters in the last step.
    let clustered = requests_and_steps(&write("clustered", 511, "--heads 13 --kv-budget 256 --steps 2 --clustering")).0;
    let last = requests_and_steps(&write("last", 512, "--heads 13 --kv-budget 256 --clustering")).0;
    let first = clustered.iter().position(|r| r.op == Op::Sync).unwrap();
    let budget = requests_and_steps(&write("budget", 511, "--heads 13 --kv-budget 256")).0;
    assert!(flat(&clustered[..first]) == flat(&budget));
    assert!(flat(&clustered[first + 1..clustered.len() - 1]) == flat(&last));
}

#[test]
fn senseless_parameters_are_usage_errors_and_leave_no_file() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("never").to_str().unwrap().to_string();
    for (flags, why) in [
        ("--mode bank --heads 0 --len 1", "--heads is 0"),
        ("--mode bank --heads 1 --len 0", "--len is 0"),
        ("--mode bank --heads 1 --len 1 --dim 0", "--dim is 0"),
        ("--mode bank --heads 1 --len 1 --bytes 3", "--bytes 3 does not divide a column"),
        ("--mode bnak --heads 1 --len 1", "did you mean \"bank\""),
        ("--mode bank --heads 1 --len 1 --to prose", "unknown trace format"),
        ("--mode bg --heads 1 --len 1 --kv-budget 16", "--mode bank only"),
        ("--mode bank --heads 32 --len 512 --kv-budget 256 --clustering", "malformed"),
        ("--mode bank --heads 13 --len 512 --clustering", "--kv-budget only"),
        ("--mode bg --heads 13 --len 512 --kv-budget 256 --clustering", "--mode bank only"),
        ("--mode bank --heads 1 --len 4000000", "do not fit"),
        ("--mode bank --heads 40000 --len 1", "do not fit"),
        ("--mode bank --heads 1 --len 1 --steps 0", "--steps 0 is not in 1..="),
        ("--mode bank --heads 1 --len 2097000 --steps 1000", "do not fit"),
        ("--mode bank --heads 1 --len 4294967295 --steps 2", "too many"),
        ("--mode bank --heads -1 --len 1", "unexpected argument"),
        ("--mode bank --len 1", "--heads"),
    ] {
        let args: Vec<&str> = ["attacc"].into_iter().chain(flags.split(' ')).chain(["-o", &out]).collect();
        let run = tracegen(&args);
        let said = String::from_utf8(run.stderr).unwrap();
        assert_eq!(run.status.code(), Some(2), "{flags}: {said}");
        assert!(said.contains(why), "{flags}: {said}");
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}
