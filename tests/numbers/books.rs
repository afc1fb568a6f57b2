//! The books of runs, by hand: what a table says is what was done, once, and in its unit.

use crate::common::{Keep, Memory, Shared, macs, one, root, run, system};
use pimattn::cli::exit::ExitStatus;
use pimattn_attacc::{Attention, AttentionSchedule, Form, UnitLevel};
use pimattn_core::addr::{Address, Geometry};
use pimattn_core::op::Op;
use pimattn_core::spec::System;
use pimattn_engine::{self as engine, Engine};
use pimattn_mapping::workload::Workload;
use pimattn_stats::Collector;
use pimattn_stats::energy::Energy;
use pimattn_stats::tables::{MEASURES, RunRows};
use pimattn_stats::tally::ChannelTally;
use pimattn_trace::{self as trace, Header, Mark, Phase, Record, Request, Segment};
use pimattn_tracegen::generate::Generator;
use std::path::Path;
use std::process::{Command, Output};

/// A measure of a run, as its cell says it.
fn cell(system: &System, collector: &Collector, column: &str) -> String {
    let row = RunRows::new(system, "t").run(collector);
    let measure = MEASURES.iter().find(|m| m.column.name == column).unwrap();
    measure.value(&row.measured).to_string()
}

fn at(g: &Geometry, channel: u32, row: u32) -> u64 {
    g.encode(&Address { channel, row, ..Address::default() })
}

#[test]
fn what_is_written_is_not_fetched() {
    let system = system("hbm3-pim", &["refresh=none"]);
    let g = system.device.geometry;
    let access = |op, count| Request { op, addr: 0, count, stride: g.column_bytes };
    let (_, stores) = run(&system, &[access(Op::St, 2)]);
    assert_eq!(cell(&system, &stores, "bytes_fetched"), "0");
    // Three reads of 32 B, and a MAC of 64 banks.
    let (_, mixed) = run(&system, &[access(Op::St, 2), access(Op::Ld, 3), one(&g, Op::MacAb, Address::default())]);
    assert_eq!(cell(&system, &mixed, "bytes_fetched"), (3 * 32 + 64 * 32).to_string());
}

/// So many equal heads on 16 channels, one after the other in a channel or beside each other, as pairs are: the fullest
/// channel has ceil(heads / 16) of them, the mean is heads / 16.
#[test]
fn channels_are_as_full_as_their_heads() {
    let system = system("hbm3-pim", &["refresh=none"]);
    let g = system.device.geometry;
    for (heads, expected) in [(1, "16.000000"), (16, "1.000000"), (17, "1.882353"), (24, "1.333333"), (33, "1.454545")]
    {
        let head = |i: u32| Request { addr: at(&g, i % 16, i / 16), ..macs(&g, 0, 32) };
        let (_, collector) = run(&system, &(0..heads).map(head).collect::<Vec<_>>());
        assert_eq!(cell(&system, &collector, "imbalance_channels"), expected, "{heads} heads");
    }
    // A MAC takes 6 cycles, a read of one bank group 4: channel 0 has 12, channel 1 has 4, the mean of 16 is 1.
    let read = Request { addr: at(&g, 1, 0), ..one(&g, Op::Ld, Address::default()) };
    let (_, collector) = run(&system, &[macs(&g, 0, 2), read]);
    assert_eq!(cell(&system, &collector, "imbalance_channels"), "12.000000");
    let move_ = one(&g, Op::MvGb, Address::default());
    assert_eq!(cell(&system, &run(&system, &[move_]).1, "imbalance_channels"), "", "no array has any work");
}

fn replay(system: &System, engine: Engine, records: Vec<Record>) -> Collector {
    let mut source = Memory { header: Header::foreign(system.device.geometry, "test"), records };
    let mut collector = Collector::new(&system.device);
    engine::run_with(engine, system, &mut source, &mut collector, &mut |_| ()).unwrap();
    collector
}

/// Two rows of 32 columns in all 64 banks of a channel, at HBM3_5.2Gbps: 438 cycles (docs of the engine's closed forms).
#[test]
fn measures_of_two_rows_by_hand() {
    let system = system("hbm3-pim", &["refresh=none"]);
    let g = system.device.geometry;
    let segment = Segment {
        step: 3,
        selected: 7,
        distinct: 5,
        row_blocks: 4,
        fullest_unit: 1,
        row_tokens: 20,
        slots_used: 512,
        bytes_useful: 2560,
        ..Segment::default()
    };
    let mark = Mark { channel: 0, lane: 0, phase: Phase::AttendScore };
    let rows = [macs(&g, 0, 32), macs(&g, 1, 32)].map(Record::Request);
    let records = [Record::Segment(segment), Record::Mark(mark)].into_iter().chain(rows).collect();
    let collector = replay(&system, Engine::Fast, records);
    for (column, expected) in [
        ("steps", "1"),
        ("cycles", "438"),
        ("time_ns", "336.822"),
        ("busy_cycles", "438"),
        // 512 unit-columns of 4 banks over 1,024 banks are 2 MACs, 6 cycles apart.
        ("bound_cycles", "12"),
        // 909 pJ; 0.44 pJ/b; 16 lanes of 0.32 pJ; two ranks of 66 mW in 16 channels.
        ("energy_activation_pj", "116352.0"),
        ("energy_column_pj", "461373.4"),
        ("energy_movement_pj", "0.0"),
        ("energy_compute_pj", "20971.5"),
        ("energy_refresh_pj", "0.0"),
        ("energy_background_pj", "711368.1"),
        ("energy_pj", "1310065.0"),
        ("activations", "128"),
        ("activate_commands", "2"),
        ("row_hits", "62"),
        ("row_misses", "1"),
        ("row_conflicts", "1"),
        ("refreshes", "0"),
        ("req_mac_ab", "64"),
        ("req_rd", "0"),
        ("selected_tokens", "7"),
        ("distinct_tokens", "5"),
        ("row_blocks", "4"),
        ("row_tokens", "20"),
        ("bytes_useful", "2560"),
        ("bytes_fetched", "131072"),
        ("mac_slots_used", "512"),
        ("mac_slots_issued", "1024"),
        ("mac_utilisation", "0.500000"),
        // One in the fullest unit; the mean of 16 is a quarter.
        ("imbalance_units", "4.000000"),
        ("imbalance_channels", "16.000000"),
    ] {
        assert_eq!(cell(&system, &collector, column), expected, "{column}");
    }
}

/// A thousand MACs cross one refresh interval: all channels refresh once, for nRFC = 350 ns = 456 cycles of 6,510.
#[test]
fn measures_of_a_refresh_by_hand() {
    let system = system("hbm3-pim", &[]);
    let g = system.device.geometry;
    let rows: Vec<Request> = (0..32).map(|row| macs(&g, row, 32)).take(31).chain([macs(&g, 31, 8)]).collect();
    let (cycles, collector) = run(&system, &rows);
    let nrfc = system.device.timings["nRFC"];
    assert_eq!(nrfc, 456);
    let refreshes = 16 * (cycles / system.device.nrefi);
    assert_eq!(cell(&system, &collector, "refreshes"), refreshes.to_string());
    // All rows within 8,192 REFab: two rows of 64 banks each.
    let energy = refreshes as f64 * 2.0 * 64.0 * 909.0;
    assert_eq!(cell(&system, &collector, "energy_refresh_pj"), format!("{energy:.1}"));
    let share = (refreshes * nrfc) as f64 / (16 * cycles) as f64;
    assert_eq!(cell(&system, &collector, "refresh_share"), format!("{share:.6}"));
}

fn near(cell: &str, expected: f64) -> bool {
    (cell.parse::<f64>().unwrap() - expected).abs() < 0.051
}

/// 256 bits an entry; 1.01 + 1.23 + 0.5 pJ/b from a bank group to the buffer die. In both engines alike.
#[test]
fn buffer_moves_pay_for_every_entry_that_they_move() {
    let system = system("hbm3-pim", &["refresh=none"]);
    let g = system.device.geometry;
    let path = 256.0 * (1.01 + 1.23 + 0.5);
    // One entry over the interposer; vias of 2 pseudo-channels, global I/O of 4 ranks, 16 multiplexers.
    let broadcast = 256.0 * (0.3 + 2.0 * 0.5 + 4.0 * 1.23 + 16.0 * 1.01);
    let cases = [
        (Op::MvSb, Phase::Other, 2, 2.0 * path),
        (Op::MvSb, Phase::AttendScore, 2, 2.0 * path),
        (Op::MvSb, Phase::Select, 2, 2.0 * path),
        (Op::MvSb, Phase::AttendContext, 8, 8.0 * path),
        (Op::MvGb, Phase::Other, 2, 2.0 * path),
        (Op::MvGb, Phase::AttendContext, 2, 2.0 * path),
        (Op::WrGb, Phase::AttendScore, 16, broadcast),
    ];
    for (op, phase, entries, expected) in cases {
        for engine in [Engine::Fast, Engine::Plain] {
            let mark = Record::Mark(Mark { channel: 0, lane: 0, phase });
            let moves = Request { op, addr: 0, count: 3, stride: 1 };
            let collector = replay(&system, engine, vec![mark, Record::Request(moves)]);
            let what = format!("{op:?} {phase:?} {engine:?}");
            let moved = cell(&system, &collector, "energy_movement_pj");
            assert!(near(&moved, 3.0 * expected), "{what}: {moved}, not {}", 3.0 * expected);
            // 0.0034 pJ a byte, into or out of a buffer.
            let buffers = cell(&system, &collector, "energy_compute_pj");
            assert!(near(&buffers, f64::from(3 * entries) * 32.0 * 0.0034), "{what}: {buffers}");
        }
    }
    // AttAcc's model counts one entry a command.
    let attacc = crate::common::system("hbm3-pim", &["refresh=none", "energy=per-byte"]);
    let (_, collector) = run(&attacc, &[one(&g, Op::MvSb, Address::default())]);
    assert!(near(&cell(&attacc, &collector, "energy_movement_pj"), path));
    // A chip of GDDR6 has one buffer, and no vias.
    let aim = crate::common::system("gddr6-aim", &["refresh=none"]);
    let (_, collector) = run(&aim, &[one(&aim.device.geometry, Op::WrGb, Address::default())]);
    assert!(near(&cell(&aim, &collector, "energy_movement_pj"), 256.0 * (1.23 + 7.0)));
}

/// Cells of the moves' energy, by either engine, and of the fast one the same with the lightest probe.
fn movement(system: &System, records: &[Record]) -> String {
    let [fast, plain] = [Engine::Fast, Engine::Plain].map(|engine| {
        let collector = replay(system, engine, records.to_vec());
        ["energy_movement_pj", "energy_compute_pj"].map(|c| cell(system, &collector, c)).join(" ")
    });
    assert_eq!(fast, plain);
    let mut source = Memory { header: Header::foreign(system.device.geometry, "test"), records: records.to_vec() };
    let mut tally = ChannelTally::new(&system.device);
    engine::run(system, &mut source, &mut tally, &mut |_| ()).unwrap();
    let energy = Energy::of(&tally.total(), 0, &system.device, system.energy);
    assert_eq!(format!("{:.1} {:.1}", energy.movement, energy.compute), fast);
    fast
}

/// Records as they come back from AttAcc's text: without segments and phases.
fn through_text(g: &Geometry, records: &[Record]) -> Vec<Record> {
    let out = Shared::default();
    let format = trace::format("attacc").unwrap();
    let mut sink =
        (format.create)(Box::new(out.clone()), &Header::foreign(*g, "test"), trace::ExportOptions::default()).unwrap();
    records.iter().for_each(|r| sink.push(*r).unwrap());
    sink.finish().unwrap();
    drop(sink);
    let bytes = out.0.lock().unwrap().clone();
    let mut source = trace::open(Box::new(std::io::Cursor::new(bytes)), "test", Some((*g).into())).unwrap();
    let (mut all, mut block) = (Vec::new(), Vec::new());
    while source.next_block(&mut block).unwrap() {
        all.append(&mut block);
    }
    assert!(all.iter().all(|r| matches!(r, Record::Request(_))));
    all
}

/// A move in the upper half of a bank's rows, of 16,384, moves outputs if no phase is said; if one is, that counts.
#[test]
fn moves_without_a_phase_are_for_the_matrix_that_their_address_is_in() {
    let system = system("hbm3-pim", &["refresh=none"]);
    let g = system.device.geometry;
    let path = 256.0 * (1.01 + 1.23 + 0.5);
    let cases = [
        (8191, Phase::Other, 2.0),
        (8192, Phase::Other, 8.0),
        (16383, Phase::Other, 8.0),
        (8192, Phase::AttendScore, 2.0),
        (0, Phase::AttendContext, 8.0),
    ];
    for (row, phase, entries) in cases {
        let mark = Record::Mark(Mark { channel: 0, lane: 0, phase });
        let moved =
            movement(&system, &[mark, Record::Request(one(&g, Op::MvSb, Address { row, ..Address::default() }))]);
        let expected = entries * path;
        assert!(near(moved.split(' ').next().unwrap(), expected), "{row} {phase:?}: {moved}, not {expected}");
    }
    // Scores and outputs in turn, alike but for the half: what recurs is counted as often as it comes. Their rows are as
    // many as an address can number, and more.
    for rows in [3, 20_000] {
        let row = |i: u32| (i % rows) / 2 % 8192 + if i.is_multiple_of(2) { 0 } else { 8192 };
        let moves = (0..40_000).flat_map(|i| {
            let at = Address { row: row(i), bank_group: 1, ..Address::default() };
            [one(&g, Op::MvSb, at), Request::one(Op::Barrier, 0)].map(Record::Request)
        });
        let moved = movement(&system, &moves.collect::<Vec<_>>());
        let expected = 20_000.0 * (2.0 + 8.0) * path;
        assert!(near(moved.split(' ').next().unwrap(), expected), "{rows}: {moved}, not {expected}");
    }
}

/// AttAcc's text says the same of its moves as the phases of the schedule do: heads in pairs and alone, in all modes.
#[test]
fn texts_have_the_energy_of_their_traces() {
    let system = system("hbm3-pim", &["refresh=none"]);
    let g = system.device.geometry;
    let mut seen = Vec::new();
    for mode in UnitLevel::ALL {
        for (heads, len) in [(1, 128), (17, 300), (32, 2048), (80, 1000)] {
            for form in [Form::Exact, Form::Published] {
                let attention = Attention { mode, heads, len, dim: 128, bytes: 2, kv_budget: None, clustering: false };
                let schedule = AttentionSchedule::of(form, attention, g).unwrap();
                let (mut said, mut plain) = (Keep::default(), Keep::default());
                schedule.run_labelled(&[], &mut said).unwrap();
                schedule.run(&mut plain, &mut |_| {}).unwrap();
                let text = movement(&system, &through_text(&g, &plain.0));
                assert_eq!(text, movement(&system, &said.0), "{mode:?} {heads} {len} {form:?}");
                seen.push(text);
            }
        }
    }
    // One head of 128 tokens on units in all banks: 4 vectors of 2 entries each to the buffers; a chunk of 8 positions leaves
    // in 8 moves, its probabilities come in 8, and the outputs of 2 stripes leave in 8 moves each.
    let path = 256.0 * (1.01 + 1.23 + 0.5);
    let queries = 8.0 * 256.0 * (0.3 + 2.0 * 0.5 + 4.0 * 1.23 + 16.0 * 1.01);
    let expected = queries + (8.0 * 2.0 + 8.0 * 2.0 + 16.0 * 8.0) * path;
    assert!(near(seen[0].split(' ').next().unwrap(), expected), "{}, not {expected}", seen[0]);
    // A trace of ours, every policy's phases in it.
    for policy in ["full", "quest", "starc"] {
        let set = [&format!("policy={policy}"), "steps=2", "mapping.addressing=broadcast"].map(str::to_string);
        let file = root().join("configs/workload/demo.toml");
        let (workload, doc) = Workload::load(&file, &set).unwrap();
        let mut kept = Keep::default();
        Generator::load(workload, &doc, None).unwrap().run(&mut kept, None, &mut |_| {}).unwrap();
        assert_eq!(movement(&system, &through_text(&g, &kept.0)), movement(&system, &kept.0), "{policy}");
    }
}

#[test]
fn standing_power_is_that_of_all_ranks() {
    for (name, set, watts) in [
        ("hbm3-pim", "dram.organisation=HBM3_8Gb_1R", 0.066),
        ("hbm3-pim", "dram.organisation=HBM3_8Gb_2R", 0.132),
        ("hbm3-pim", "dram.organisation=HBM3_12Gb_3R", 0.198),
        ("hbm3-pim", "dram.organisation=HBM3_16Gb_4R", 0.264),
        // The part that the figure is from.
        ("hbm2", "power=per-command", 0.066),
        // A channel of this device is a pseudo-channel, half of one.
        ("hbm2-pim-samsung", "power=per-command", 0.033),
    ] {
        let system = system(name, &["refresh=none", set]);
        let request = Request { op: Op::Ld, addr: 0, count: 4, stride: system.device.geometry.column_bytes };
        let (cycles, collector) = run(&system, &[request]);
        let ns = system.device.clock.ns(cycles) * f64::from(system.device.geometry.channels);
        let found = cell(&system, &collector, "energy_background_pj");
        assert!(near(&found, watts * 1e3 * ns), "{name} {set}: {found}");
    }
}

const DEMO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/configs/workload/demo.toml");

fn system_file(name: &str) -> String {
    format!("{}/configs/system/{name}.toml", env!("CARGO_MANIFEST_DIR"))
}

fn program(program: &str, dir: &Path, args: &[&str], code: i32) -> Output {
    let program = match program {
        "tracegen" => env!("CARGO_BIN_EXE_tracegen"),
        _ => env!("CARGO_BIN_EXE_pimsim"),
    };
    let out = Command::new(program).args(args).current_dir(dir).output().unwrap();
    assert_eq!(out.status.code(), Some(code), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
    out
}

fn said(out: &Output) -> String {
    String::from_utf8_lossy(&out.stderr).into_owned()
}

/// A dump of one layer, two heads, 40 tokens of 64 elements, four of them decoded.
fn dump(file: &Path, k: impl Fn(usize, usize, usize) -> f32, v: impl Fn(usize, usize, usize) -> f32) {
    let (heads, tokens, dim, queries) = (2, 40, 64, 4);
    let tensor = |rows: usize, f: &dyn Fn(usize, usize, usize) -> f32| -> Vec<u8> {
        let all = (0..heads).flat_map(|h| (0..rows).flat_map(move |t| (0..dim).map(move |d| (h, t, d))));
        all.flat_map(|(h, t, d)| f(h, t, d).to_le_bytes()).collect()
    };
    let q = |h: usize, t: usize, d: usize| ((h + 3 * t + d) as f32).cos();
    let data = [tensor(tokens, &k), tensor(tokens, &v), tensor(queries, &q)];
    let (a, b) = (data[0].len(), 2 * data[0].len());
    let header = format!(
        r#"{{"__metadata__":{{"prefill_len":"36"}},"k":{{"dtype":"F32","shape":[1,2,40,64],"data_offsets":[0,{a}]}},"v":{{"dtype":"F32","shape":[1,2,40,64],"data_offsets":[{a},{b}]}},"q":{{"dtype":"F32","shape":[1,2,4,64],"data_offsets":[{b},{}]}}}}"#,
        b + data[2].len()
    );
    let bytes = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &data.concat()].concat();
    std::fs::write(file, bytes).unwrap();
}

/// A head of zero values loses nothing; one whose values cancel has no relative error. Every report reads that.
#[test]
fn outputs_of_zero_are_read_by_every_report() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    // Head 1 has equal scores, and values that cancel in each pair of tokens.
    let k = |h: usize, t: usize, d: usize| if h == 0 { ((t * 5 + d) as f32).sin() } else { 0.0 };
    let v = |h: usize, t: usize, _: usize| if h == 0 { 0.0 } else { [1.0, -1.0][t % 2] };
    dump(&dir.join("zero.safetensors"), k, v);
    let set = ["--set", "dense_layers=0", "--policy", "streaming", "--budget", "7"];
    let files = ["--kv", "zero.safetensors", "-o", "t.ptrace", "--metrics", "t.csv"];
    program("tracegen", dir, &[&["run", "--config", DEMO][..], &files, &set].concat(), 0);
    // Its elements are the dump's, of four bytes.
    let replay = ["run", "-q", "t.ptrace", "--config", &system_file("hbm3-pim"), "-o", "out"];
    let refusal = said(&program("pimsim", dir, &replay, 65));
    assert!(refusal.starts_with("error: t.ptrace: the trace has elements of 4 B; hbm3-pim multiplies"), "{refusal}");
    program("pimsim", dir, &[&replay[..], &["--set", "element_bytes=4"]].concat(), 0);
    let metrics = std::fs::read_to_string(dir.join("t.csv")).unwrap();
    let place = metrics.lines().next().unwrap().split(',').position(|name| name == "output_rel_err").unwrap();
    let error = |line: &str| line.split(',').nth(place).unwrap().to_string();
    let errors: Vec<String> = metrics.lines().skip(1).map(error).collect();
    assert_eq!(errors.len(), 8);
    assert!(errors.iter().step_by(2).all(|e| e == "0.000000"), "{errors:?}");
    // With 38 and 40 tokens the whole output is 0, that of 7 is not.
    assert_eq!([&errors[3], &errors[7]], ["", ""], "{errors:?}");
    assert!(!errors[1].is_empty() && !errors[5].is_empty(), "{errors:?}");
    for by in ["policy", "layer", "head"] {
        let out = program("pimsim", dir, &["accuracy", "t.csv", "--by", by, "--format", "csv"], 0);
        assert!(!String::from_utf8_lossy(&out.stdout).contains("NaN"));
    }
    let out = program("pimsim", dir, &["summary", "out/run.csv", "--metrics", "t.csv", "--format", "csv"], 0);
    assert!(!String::from_utf8_lossy(&out.stdout).contains("NaN"));
    program("pimsim", dir, &["compare", "t.csv", "t.csv", "--tolerance", "0"], 0);
    let plot = ["plot", "t.csv", "--x", "step", "--y", "output_rel_err", "--by", "query_head", "-o", "f.svg"];
    program("pimsim", dir, &plot, 0);
    assert!(!std::fs::read_to_string(dir.join("f.svg")).unwrap().contains("NaN"));
    // The trace says which dump it is of.
    let out = program("tracegen", dir, &["info", "t.ptrace"], 0);
    let info = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(info.contains("kv = \"zero.safetensors\"") && !info.contains("smollm2"), "{info}");
}

#[test]
fn products_beyond_f32_are_refused_with_their_place() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    // The last query, (1 + 9 + d).cos(), times keys of its signs.
    let k =
        |h: usize, t: usize, d: usize| if (h, t) == (1, 17) { 3e38f32.copysign(((10 + d) as f32).cos()) } else { 0.0 };
    dump(&dir.join("large.safetensors"), k, |_, _, _| 1.0);
    let args = ["run", "--config", DEMO, "--kv", "large.safetensors", "-o", "t.ptrace"];
    let error = said(&program("tracegen", dir, &args, 65));
    assert!(error.contains("layer 0, query head 1") && error.contains("key of token 17"), "{error}");
}

/// What Git leaves of a file whose content Git LFS has not fetched.
#[test]
fn pointers_of_git_lfs_are_named_wherever_a_file_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n";
    let names = ["p.safetensors", "p.npz", "p.ptrace", "p.csv", "p.toml", "k.npy", "v.npy", "q.npy", "prefill_len.npy"];
    names.iter().for_each(|name| std::fs::write(dir.join(name), pointer).unwrap());
    let system = system_file("hbm3-pim");
    for (name, args) in [
        ("tracegen", vec!["run", "--config", DEMO, "--kv", "p.safetensors", "-o", "t"]),
        ("tracegen", vec!["run", "--config", DEMO, "--kv", "p.npz", "-o", "t"]),
        ("tracegen", vec!["run", "--config", DEMO, "--kv", ".", "-o", "t"]),
        ("tracegen", vec!["run", "--config", "p.toml", "-o", "t"]),
        ("tracegen", vec!["info", "p.ptrace"]),
        ("tracegen", vec!["fit", "p.safetensors", "-o", "t"]),
        ("pimsim", vec!["run", "p.ptrace", "--config", &system]),
        ("pimsim", vec!["run", "p.ptrace", "--config", "p.toml"]),
        ("pimsim", vec!["audit", "p.csv", "--config", &system]),
        ("pimsim", vec!["summary", "p.csv"]),
        ("pimsim", vec!["accuracy", "p.csv"]),
        ("pimsim", vec!["explain", "p.csv"]),
        ("pimsim", vec!["compare", "p.csv", "p.csv"]),
        ("pimsim", vec!["frontier", "p.csv"]),
        ("pimsim", vec!["merge", "p.csv", "-o", "t"]),
        ("pimsim", vec!["plot", "p.csv", "--x", "a", "--y", "b", "-o", "t"]),
        ("pimsim", vec!["sweep", "p.toml", "-o", "t"]),
    ] {
        let error = said(&program(name, dir, &args, 65));
        assert!(error.contains("Git LFS pointer") && error.contains("git lfs pull"), "{args:?}: {error}");
    }
}

#[test]
fn a_device_is_asked_only_for_what_it_has() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    let generate = |system: &str, more: &[&str], code| {
        let device = format!("system={}", system_file(system));
        let args =
            [&["run", "--config", DEMO, "--set", "steps=1", "-o", "t.ptrace", "--set", &device][..], more].concat();
        said(&program("tracegen", dir, &args, code))
    };
    let error = generate("gddr6-aim", &[], 78);
    assert!(error.contains("demo.toml:14: GDDR6-AiM has no PIM_ACT_BG, which addressing = \"bank-group\""), "{error}");
    let broadcast = ["--set", "mapping.addressing=broadcast"];
    let error =
        generate("gddr6-aim", &[&broadcast[..], &["--set", "mapping.value_addressing=bank-group"]].concat(), 78);
    assert!(error.contains("--set mapping.value_addressing=bank-group: GDDR6-AiM has no PIM_ACT_BG"), "{error}");
    let error = generate("hbm2", &broadcast, 78);
    assert!(error.contains("HBM2 has no PIM_WR_GB"), "{error}");
    generate("gddr6-aim", &broadcast, 0);
    let system = system_file("hbm3-pim");
    let out = program("pimsim", dir, &["run", "-q", "t.ptrace", "--config", &system], 65);
    let error = said(&out);
    assert!(error.starts_with("error: t.ptrace: the trace is for another device: ") && !error.contains('{'), "{error}");
    assert!(out.stdout.is_empty());
    let attacc = ["attacc", "--mode", "bg", "--heads", "16", "--len", "64", "-o", "a.trace", "--config"];
    let error = said(&program("tracegen", dir, &[&attacc[..], &[&system_file("gddr6-aim")]].concat(), 2));
    assert!(error.contains("--mode bg: GDDR6-AiM has no PIM_MAC_SB"), "{error}");
    let error = said(&program("tracegen", dir, &["info", "t.ptrace", "--from", "sait-pimsim"], 2));
    assert!(error.contains("sait-pimsim is written, not read") && error.contains("dramsys-stl"), "{error}");
}

#[test]
fn a_trace_of_other_elements_than_the_system_multiplies_is_refused() {
    let g = system("hbm3-pim", &[]).device.geometry;
    let replayed = |set: &[&str], element_bytes: u32| {
        let system = system("hbm3-pim", set);
        let header = Header { element_bytes, ..Header::foreign(g, "test") };
        let mut source = Memory { header, records: vec![Record::Request(macs(&g, 0, 2))] };
        engine::run(&system, &mut source, &mut (), &mut |_| ()).map_err(|e| (e.to_string(), e.exit_code()))
    };
    for (set, bytes) in
        [(&[][..], 2), (&["element_bytes=1"], 1), (&["element_bytes=4"], 4), (&[], 0), (&["element_bytes=1"], 0)]
    {
        assert!(replayed(set, bytes).is_ok(), "{set:?} {bytes}");
    }
    for (set, bytes) in [(&[][..], 1), (&[], 4), (&["element_bytes=1"], 2)] {
        let (what, code) = replayed(set, bytes).unwrap_err();
        assert_eq!(code, 65);
        let ours = if set.is_empty() { 2 } else { 1 };
        let named = [
            format!("the trace has elements of {bytes} B"),
            format!("multiplies elements of {ours} B"),
            format!("element_bytes = {bytes}"),
            "mapping.element_bytes".into(),
        ];
        assert!(named.iter().all(|n| what.contains(n)), "{what}");
    }
}
