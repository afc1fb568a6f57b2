//! Timelines, from outside: read by parsers that share no code with what writes them, and held against the log and the
//! tables of the same run.

use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::{Command, Output, Stdio};

const SYSTEM: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/configs/system/hbm3-pim.toml");
const DEMO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/configs/workload/demo.toml");
const CHANNELS: u64 = 16;
const CLOCK_PS: u64 = 769;

fn run(program: &str, dir: &Path, args: &[&str], code: i32) -> Output {
    let out = Command::new(program).current_dir(dir).stdin(Stdio::null()).args(args).output().unwrap();
    let said = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(code), "{args:?}: {said}");
    out
}

fn pimsim(dir: &Path, args: &[&str]) -> Output {
    run(env!("CARGO_BIN_EXE_pimsim"), dir, &[args, &["--config", SYSTEM, "-q"]].concat(), 0)
}

/// A trace of three steps of the bundled sample.
fn generate(dir: &Path, policy: &str, more: &[&str]) {
    let args = ["run", "--config", DEMO, "--policy", policy, "--set", "steps=3", "-q", "-o", "t.ptrace"];
    run(env!("CARGO_BIN_EXE_tracegen"), dir, &[&args, more].concat(), 0);
}

fn events(dir: &Path, file: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(dir.join(file)).unwrap();
    let trace: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{file}: {e}"));
    assert_eq!(trace["otherData"]["clock_ps"], CLOCK_PS.to_string());
    trace["traceEvents"].as_array().unwrap().clone()
}

/// The cycle of an event; its time must be one to the picosecond.
fn cycle(event: &Value) -> u64 {
    let ps = (event["ts"].as_f64().unwrap() * 1e6).round() as u64;
    assert_eq!(ps % CLOCK_PS, 0, "{event}");
    ps / CLOCK_PS
}

/// A slice, with the slices that it is in.
struct Slice {
    track: u64,
    kind: String,
    name: String,
    begin: u64,
    end: u64,
    args: BTreeMap<String, u64>,
    around: BTreeMap<String, u64>,
}

/// The slices of all tracks, which nest; arrows end where they have begun.
fn slices(events: &[Value]) -> Vec<Slice> {
    let mut stacks: BTreeMap<u64, Vec<Slice>> = BTreeMap::new();
    let (mut done, mut at, mut arrows) = (Vec::new(), BTreeMap::new(), BTreeMap::new());
    let numbers = |e: &Value| -> BTreeMap<String, u64> {
        e["args"].as_object().unwrap().iter().map(|(k, v)| (k.clone(), v.as_u64().unwrap())).collect()
    };
    for e in events.iter().filter(|e| e["ph"] != "M" && e["ph"] != "C") {
        let (track, cycle) = (e["tid"].as_u64().unwrap(), cycle(e));
        let last = at.insert(track, cycle).unwrap_or(0);
        assert!(last <= cycle, "time goes back: {e}");
        let stack = stacks.entry(track).or_default();
        match e["ph"].as_str().unwrap() {
            "B" => {
                let around = stack.iter().flat_map(|s| s.args.clone()).collect();
                let [kind, name] = ["cat", "name"].map(|key| e[key].as_str().unwrap().to_string());
                stack.push(Slice { track, kind, name, begin: cycle, end: 0, args: numbers(e), around });
            }
            "E" => {
                let mut slice = stack.pop().expect("an end without a beginning");
                slice.end = cycle;
                slice.args.extend(numbers(e));
                assert_eq!(slice.args["cycles"], slice.end - slice.begin, "{e}");
                done.push(slice);
            }
            kind @ ("s" | "t" | "f") => {
                let on = &stack.last().expect("an arrow outside of any slice").name;
                assert_eq!(on, if kind == "f" { "attend-score" } else { "select" }, "{e}");
                let before = arrows.insert(e["id"].as_u64().unwrap(), kind.to_string());
                assert_eq!(kind == "s", before.is_none(), "{e}");
                assert_ne!(before.as_deref(), Some("f"), "{e}");
            }
            other => panic!("{other}: {e}"),
        }
    }
    assert!(stacks.values().all(Vec::is_empty), "a slice is left open");
    assert!(arrows.values().all(|kind| kind == "f"), "a selection that leads nowhere");
    done
}

/// The rows of a table, by column.
fn table(dir: &Path, file: &str) -> Vec<BTreeMap<String, String>> {
    let text = std::fs::read_to_string(dir.join(file)).unwrap();
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    reader.deserialize().map(|row| row.unwrap()).collect()
}

fn number(row: &BTreeMap<String, String>, column: &str) -> u64 {
    row[column].parse().unwrap()
}

/// Whole numbers in the ratio of the parts that add up to `total`: by largest remainder, the first on a tie.
fn share_out(parts: &[u64], total: u64) -> Vec<u64> {
    let whole: u64 = parts.iter().sum();
    let mut out: Vec<u64> = parts.iter().map(|p| p * total / whole).collect();
    let mut order: Vec<usize> = (0..parts.len()).collect();
    order.sort_by_key(|i| std::cmp::Reverse(parts[*i] * total % whole));
    let missing = total - out.iter().sum::<u64>();
    order.iter().take(missing as usize).for_each(|i| out[*i] += 1);
    out
}

#[test]
fn slices_nest_and_have_the_cycles_of_the_tables() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    for policy in ["quest", "starc", "streaming", "sparq"] {
        generate(dir, policy, &[]);
        pimsim(dir, &["run", "t.ptrace", "-o", "out", "--timeline", "t.json"]);
        let slices = slices(&events(dir, "t.json"));
        let sum = |kind: &str, of: &dyn Fn(&Slice) -> bool| -> u64 {
            slices.iter().filter(|s| s.kind == kind && of(s)).map(|s| s.args["cycles"]).sum()
        };
        let run = number(&table(dir, "out/run.csv")[0], "cycles");
        for track in slices.iter().map(|s| s.track).collect::<BTreeSet<_>>() {
            let of = |s: &Slice| s.track == track;
            assert_eq!(
                sum("phase", &of) + sum("wait", &of),
                run,
                "{policy}: cycles of a channel are for one thing each"
            );
        }
        let (mut spent, mut of_step) = (0, BTreeMap::new());
        for row in table(dir, "out/steps.csv") {
            let step = number(&row, "step");
            let before = spent / CHANNELS;
            spent += sum("step", &|s| s.args["step"] == step);
            assert_eq!(spent / CHANNELS - before, number(&row, "cycles"), "{policy}: step {step}");
            of_step.insert(step, number(&row, "cycles"));
        }
        let phases = table(dir, "out/phases.csv");
        for (step, cycles) in of_step {
            let rows: Vec<_> = phases.iter().filter(|r| number(r, "step") == step).collect();
            let in_step = |s: &Slice, name: &str| s.around.get("step") == Some(&step) && s.name == name;
            let part = |r: &&BTreeMap<String, String>| {
                sum("phase", &|s| in_step(s, &r["phase"])) + sum("wait", &|s| in_step(s, &r["phase"]))
            };
            let expected: Vec<u64> = rows.iter().map(|r| number(r, "cycles")).collect();
            assert_eq!(
                share_out(&rows.iter().map(part).collect::<Vec<_>>(), cycles),
                expected,
                "{policy}: step {step}"
            );
        }
        for row in table(dir, "out/heads.csv") {
            let head = ["request", "layer", "kv_head"];
            let of = |s: &Slice| head.iter().all(|key| s.args[*key] == number(&row, key));
            assert_eq!(sum("head", &of), number(&row, "cycles"), "{policy}: {row:?}");
        }
        let arrows = events(dir, "t.json").iter().filter(|e| e["ph"] == "f").count();
        let heads = slices.iter().filter(|s| s.kind == "phase" && s.name == "select");
        let selecting: BTreeSet<_> =
            heads.map(|s| (s.around["step"], s.around["layer"], s.around["kv_head"])).collect();
        assert_eq!(arrows, selecting.len(), "{policy}: an arrow for each head that selects, in each step");
    }
}

#[test]
fn counters_add_up_to_the_bytes_and_the_energy_of_the_run() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    generate(dir, "quest", &[]);
    pimsim(dir, &["run", "t.ptrace", "-o", "out", "--timeline", "t.json", "--sample", "700"]);
    let events = events(dir, "t.json");
    let run = &table(dir, "out/run.csv")[0];
    let end = number(run, "cycles");
    // A counter keeps its value until it says another.
    let held = |name: &str, series: &str, per_cycle: bool| -> f64 {
        let of: Vec<_> = events.iter().filter(|e| e["ph"] == "C" && e["name"] == name).collect();
        let until = of.iter().skip(1).map(|e| cycle(e)).chain([end]);
        let weight = |from: u64, to: u64| match per_cycle {
            true => (to - from) as f64,
            false => (to - from).div_ceil(700) as f64,
        };
        of.iter().zip(until).map(|(e, to)| e["args"][series].as_f64().unwrap() * weight(cycle(e), to)).sum()
    };
    let fetched = held("bytes moved", "multiplied", false) + held("bytes moved", "read and written", false);
    pimsim(dir, &["run", "t.ptrace", "--log", "t.log", "-o", "logged"]);
    let log = std::fs::read_to_string(dir.join("t.log")).unwrap();
    let writes = log.lines().filter(|l| l.contains(", WR, ")).count() as u64;
    assert_eq!(fetched as u64, number(run, "bytes_fetched") + 32 * writes, "bytes, with those written");
    for part in ["activation", "column", "movement", "compute", "refresh", "background"] {
        let pj = held("power in mW", part, true) * CLOCK_PS as f64 / 1000.0;
        let expected: f64 = run[&format!("energy_{part}_pj")].parse().unwrap();
        // A power is rounded to a microwatt, in each of the samples.
        let tolerance = 0.0005 * end as f64 * CLOCK_PS as f64 / 1000.0 + 0.1;
        assert!((pj - expected).abs() <= tolerance, "{part}: {pj} pJ, not {expected}");
    }
    // A MAC is followed by the next after six cycles (nCCDAB), in all 64 banks or in four of each bank group that it names.
    let macs: u64 = log
        .lines()
        .map(|l| match l {
            l if l.contains(", MACAB, ") => 64 * 6,
            l if l.contains(", MACBG, ") => {
                let units = u64::from_str_radix(l.split(", 0x").nth(1).unwrap(), 16).unwrap();
                u64::from(units.count_ones()) * 4 * 6
            }
            _ => 0,
        })
        .sum();
    let flying = held("MACs in flight", "banks", true);
    assert!((flying - macs as f64).abs() <= 0.0005 * end as f64 + 1.0, "{flying} bank-cycles of MACs, not {macs}");
    let open = held("open units", "units", true);
    assert!(open * 4.0 >= flying && open <= (end * CHANNELS * 16) as f64, "{open} unit-cycles open");
}

#[test]
fn either_engine_writes_the_same_timeline_and_gzip_keeps_it() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    generate(dir, "quest", &["--set", "mapping.addressing=broadcast"]);
    pimsim(dir, &["run", "t.ptrace", "--timeline", "fast.json", "--timeline", "fast.json.gz"]);
    pimsim(dir, &["run", "t.ptrace", "--timeline", "plain.json", "--engine", "plain"]);
    let read = |file: &str| std::fs::read(dir.join(file)).unwrap();
    assert!(read("fast.json") == read("plain.json"));
    let mut packed =
        pimattn_core::fsio::decompress("packed", Box::new(std::io::Cursor::new(read("fast.json.gz")))).unwrap();
    let mut unpacked = Vec::new();
    std::io::Read::read_to_end(&mut packed, &mut unpacked).unwrap();
    assert!(unpacked == read("fast.json"));
    assert!(read("fast.json.gz").len() * 4 < unpacked.len());
}

/// A file in RAM2BIN, read by its description alone.
struct Parsed {
    levels: Vec<(String, u32)>,
    commands: Vec<(String, u8)>,
    timings: BTreeMap<String, i32>,
    channel: u32,
    /// clk, arrive, command, type, source, address.
    entries: Vec<(i64, i64, usize, i8, i16, Vec<i32>)>,
}

fn parse(bytes: &[u8]) -> Parsed {
    let u16_at = |at: usize| usize::from(u16::from_le_bytes([bytes[at], bytes[at + 1]]));
    let u32_at = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
    let u64_at = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
    assert_eq!(&bytes[..12], b"RAM2BIN\0\x01\x01\0\0");
    let [levels, commands, timings] = [12, 14, 16].map(u16_at);
    let (width, prefetch) = (u16_at(18), u16_at(20));
    assert_eq!(width * prefetch, 32 * 8, "a burst is a column of 32 B");
    let (n, data) = (u64_at(32) as usize, u64_at(40) as usize);
    let mut at = 64;
    let mut names = |count: usize, size: usize, skip: usize| -> (Vec<String>, usize) {
        let mut names = Vec::new();
        for _ in 0..count {
            let end = at + bytes[at..].iter().position(|b| *b == 0).unwrap();
            names.push(String::from_utf8(bytes[at..end].to_vec()).unwrap());
            at = end + 1;
        }
        let values = at;
        at += count * size + skip;
        (names, values)
    };
    let (level_names, sizes) = names(levels, 4, 0);
    let (command_names, flags) = names(commands, 1, commands);
    let (timing_names, values) = names(timings, 4, 0);
    assert!(data % 8 == 0 && (at..at + 8).contains(&data), "the data begins on the next multiple of eight");
    assert_eq!(bytes.len(), data + n * (20 + 4 * levels), "the length is that of the entries");
    assert!(bytes[flags + commands..flags + 2 * commands].iter().all(|cycles| *cycles == 1));
    let entry = |i: usize| {
        let column = |offset: usize, size: usize| data + offset * n + size * i;
        let address = (0..levels).map(|k| u32_at(column(20 + 4 * k, 4)) as i32).collect();
        let source = i16::from_le_bytes([bytes[column(18, 2)], bytes[column(18, 2) + 1]]);
        let (command, kind) = (usize::from(bytes[column(16, 1)]), bytes[column(17, 1)] as i8);
        (u64_at(column(0, 8)) as i64, u64_at(column(8, 8)) as i64, command, kind, source, address)
    };
    Parsed {
        levels: level_names.into_iter().enumerate().map(|(i, name)| (name, u32_at(sizes + 4 * i))).collect(),
        commands: command_names.into_iter().enumerate().map(|(i, name)| (name, bytes[flags + i])).collect(),
        timings: timing_names.into_iter().enumerate().map(|(i, t)| (t, u32_at(values + 4 * i) as i32)).collect(),
        channel: u32_at(24),
        entries: (0..n).map(entry).collect(),
    }
}

fn parse_all(dir: &Path, stem: &str) -> Vec<Parsed> {
    (0..CHANNELS).map(|c| parse(&std::fs::read(dir.join(format!("{stem}.ch{c}.ram2bin"))).unwrap())).collect()
}

#[test]
fn ram2bin_has_the_commands_of_the_log() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    generate(dir, "quest", &[]);
    pimsim(dir, &["run", "t.ptrace", "-o", "out", "--timeline", "t.ram2bin", "--log", "t.log"]);
    let log = std::fs::read_to_string(dir.join("t.log")).unwrap();
    let marks = ["BARRIER", "HOST", "SYNC", "ARRIVAL"];
    let mut logged = vec![Vec::new(); CHANNELS as usize];
    for line in log.lines() {
        let fields: Vec<&str> = line.split(", ").collect();
        if !marks.contains(&fields[1]) {
            let address: Vec<i64> = fields[2..9].iter().map(|f| f.parse().unwrap()).collect();
            let request: i64 = fields[9].parse().unwrap();
            logged[address[0] as usize].push((
                fields[0].parse::<i64>().unwrap(),
                fields[1].to_string(),
                address,
                request,
            ));
        }
    }
    let files = parse_all(dir, "t");
    let mut seen = BTreeSet::new();
    for (channel, (file, logged)) in files.iter().zip(&logged).enumerate() {
        assert_eq!((file.channel as usize, file.entries.len()), (channel, logged.len()));
        let names: Vec<&str> = file.levels.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["Channel", "Rank", "BankGroup", "Bank", "Row", "Column"]);
        let sizes: Vec<u32> = file.levels.iter().map(|(_, size)| *size).collect();
        assert_eq!(sizes, [1, 4, 4, 4, 16384, 32]);
        assert_eq!((file.timings["nCL"], file.timings["nRCDRD"]), (19, 19));
        let mut first: BTreeMap<i64, i64> = BTreeMap::new();
        for ((clk, arrive, command, kind, source, address), (clock, name, logged, request)) in
            file.entries.iter().zip(logged)
        {
            assert_eq!((*clk + 1, &file.commands[*command].0), (*clock, name), "clocks of a log count from 1");
            let [pc, rank, bank_group, bank, row, column] = [1, 2, 3, 4, 5, 6].map(|i| logged[i] as i32);
            let of_rank = pc * 2 + rank;
            let whole = match name.as_str() {
                "PREA" | "REFab" => [-1, -1, -1, -1, -1],
                "ACTAB" => [-1, -1, -1, row, -1],
                "ACTBG" => [of_rank, bank_group, -1, row, -1],
                "PREBG" => [of_rank, bank_group, -1, -1, -1],
                "MACAB" | "MACBG" => [-1, -1, -1, row, column],
                "ACT" => [of_rank, bank_group, bank, row, -1],
                "PRE" => [of_rank, bank_group, bank, -1, -1],
                "RD" | "WR" => [of_rank, bank_group, bank, row, column],
                _ => [address[1], address[2], address[3], address[4], address[5]],
            };
            assert_eq!(address[..], [&[0], &whole[..]].concat(), "{name} at {clk}");
            // Opening, closing, accessing, refreshing; row bus, column bus.
            let flags = match name.as_str() {
                "ACT" | "ACTBG" | "ACTAB" => 0b01_0001,
                "PRE" | "PREBG" | "PREA" => 0b01_0010,
                "RD" | "WR" | "MACBG" | "MACAB" => 0b10_0100,
                "REFab" => 0b01_1000,
                _ => 0b10_0000,
            };
            assert_eq!(file.commands[*command].1, flags, "{name}");
            match *request {
                -1 => assert_eq!((*arrive, *kind, *source), (-1, -1, -1), "{name} serves no request"),
                request => {
                    assert_eq!(*arrive, *first.entry(request).or_insert(*clk), "{name} at {clk} of request {request}");
                    // Head h of the sample is on channel h.
                    assert_eq!((i32::from(*source), (0..8).contains(kind)), (channel as i32, true), "{name} at {clk}");
                }
            }
            seen.insert((name.clone(), *kind));
        }
    }
    // Select, attend-score and attend-context are phases 4, 5 and 7.
    for (name, phase) in [("MACAB", 4), ("MACBG", 5), ("MACBG", 7), ("ACTBG", 5), ("WR", 1), ("SFM", 6), ("REFab", -1)]
    {
        assert!(seen.contains(&(name.to_string(), phase)), "no {name} of phase {phase} among {seen:?}");
    }
}

#[test]
fn commands_of_a_ram2bin_obey_the_device() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    generate(dir, "starc", &["--set", "mapping.addressing=broadcast"]);
    pimsim(dir, &["run", "t.ptrace", "-o", "out", "--timeline", "t.ram2bin"]);
    let mut log = String::new();
    for file in parse_all(dir, "t") {
        for (clk, _, command, _, _, a) in &file.entries {
            let (pc, rank) = if a[1] < 0 { (-1, -1) } else { (a[1] / 2, a[1] % 2) };
            let (name, channel) = (&file.commands[*command].0, file.channel);
            log.push_str(&format!(
                "{}, {name}, {channel}, {pc}, {rank}, {}, {}, {}, {}\n",
                clk + 1,
                a[2],
                a[3],
                a[4],
                a[5]
            ));
        }
    }
    assert!(log.contains("MACAB") && log.contains("ACTAB"));
    std::fs::write(dir.join("again.log"), &log).unwrap();
    pimsim(dir, &["audit", "again.log"]);
    // One command less: a row that is never opened.
    let opened = log.lines().position(|l| l.contains("ACTAB")).unwrap();
    let without: String =
        log.lines().enumerate().filter(|(i, _)| *i != opened).map(|(_, l)| format!("{l}\n")).collect();
    std::fs::write(dir.join("again.log"), without).unwrap();
    run(env!("CARGO_BIN_EXE_pimsim"), dir, &["audit", "again.log", "--config", SYSTEM, "-q"], 1);
}

#[test]
fn a_window_shows_its_cycles_and_no_others() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    generate(dir, "quest", &[]);
    let both = |stem: &str| [format!("{stem}.json"), format!("{stem}.ram2bin")];
    let [json, ram2bin] = both("all");
    let whole = pimsim(dir, &["run", "t.ptrace", "--timeline", &json, "--timeline", &ram2bin]);
    let [json, ram2bin] = both("part");
    let part = pimsim(dir, &["run", "t.ptrace", "--timeline", &json, "--timeline", &ram2bin, "--window", "3000..9500"]);
    assert_eq!(whole.stdout, part.stdout, "the tables are of the whole run");
    let inside = |clk: i64| (3000..9500).contains(&clk);
    for (all, part) in parse_all(dir, "all").iter().zip(&parse_all(dir, "part")) {
        let expected: Vec<_> = all.entries.iter().filter(|e| inside(e.0)).collect();
        assert_eq!(part.entries.iter().collect::<Vec<_>>(), expected);
    }
    let cut = |stem: &str| -> BTreeSet<_> {
        let leaves =
            slices(&events(dir, &format!("{stem}.json"))).into_iter().filter(|s| s.kind == "phase" || s.kind == "wait");
        let clipped =
            leaves.map(|s| (s.track, s.begin.max(3000), s.end.min(9500), s.name, s.around.get("step").copied()));
        clipped.filter(|s| s.1 < s.2).collect()
    };
    let shown = cut("part");
    assert_eq!(shown, cut("all"));
    assert_eq!(shown.iter().map(|s| s.2 - s.1).sum::<u64>(), 6500 * CHANNELS);
    // In each cycle, the three channels that work multiply in so many banks as they have, at most.
    pimsim(dir, &["run", "t.ptrace", "--timeline", "fine.json", "--window", "3000..4500", "--sample", "1"]);
    let fine = events(dir, "fine.json");
    let flying = fine.iter().filter(|e| e["name"] == "MACs in flight").map(|e| e["args"]["banks"].as_f64().unwrap());
    let flying: Vec<f64> = flying.collect();
    assert!(flying.iter().all(|n| *n <= 3.0 * 64.0 && *n == n.round()) && flying.contains(&64.0), "{flying:?}");
    let outside = |e: &&Value| e.get("ts").is_some() && !(3000..=9500).contains(&cycle(e));
    assert_eq!(events(dir, "part.json").iter().filter(outside).count(), 0);
}

#[test]
fn slips_are_refused_before_the_run() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    generate(dir, "quest", &[]);
    let refuse = |args: &[&str], code: i32, says: &str| {
        let all = [&["run", "t.ptrace", "--config", SYSTEM], args].concat();
        let out = run(env!("CARGO_BIN_EXE_pimsim"), dir, &all, code);
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(said.contains(says), "{args:?}: {said}");
        assert!(out.stdout.is_empty(), "{args:?}");
    };
    refuse(&["--timeline", "t.txt"], 2, "expected .json, .json.gz (for Perfetto) or .ram2bin");
    refuse(&["t.ptrace", "--timeline", "t.json"], 2, "--timeline takes one trace");
    refuse(&["--window", "5..6"], 2, "--timeline");
    refuse(&["--timeline", "t.json", "--window", "6..5"], 2, "no cycle is from 6 on and before 5");
    refuse(&["--timeline", "t.json", "--sample", "0"], 2, "--sample");
    refuse(&["--timeline", "no/t.json"], 74, "no");
    refuse(&["--timeline", "no/t.ram2bin"], 74, "no");
    let left: Vec<_> = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["t.ptrace"]);
}
