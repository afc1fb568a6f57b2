//! Exports hold to the rules of the programs that read them, their manifests count what they hold, and what those
//! programs write can be read. The rules are re-implemented here from the behaviour of each parser, named beside it.

use crate::common::Shared;
use pimattn::cli::exit::{EXIT_DATA, ExitStatus};
use pimattn_attacc::DEVICE;
use pimattn_core::addr::Address;
use pimattn_core::op::Op;
use pimattn_trace::{self as trace, ExportOptions, Header, MacReads, Manifest, Record, Request, Segment};
use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Output};

fn try_export(
    format: &str,
    records: &[Record],
    options: ExportOptions,
) -> pimattn_core::error::Result<(Vec<u8>, Manifest)> {
    let out = Shared::default();
    let header = Header::foreign(DEVICE, "test");
    let mut sink = (trace::format(format)?.create)(Box::new(out.clone()), &header, options)?;
    records.iter().try_for_each(|r| sink.push(*r))?;
    sink.finish()?;
    let manifest = sink.manifest().expect("an export has a manifest");
    drop(sink);
    let bytes = std::mem::take(&mut *out.0.lock().unwrap());
    Ok((bytes, manifest))
}

fn export(format: &str, records: &[Record]) -> (Vec<u8>, Manifest) {
    try_export(format, records, ExportOptions::default()).unwrap()
}

fn export_text(format: &str, records: &[Record]) -> (String, Manifest) {
    let (bytes, manifest) = export(format, records);
    (String::from_utf8(bytes).unwrap(), manifest)
}

fn import(format: &str, bytes: &[u8]) -> pimattn_core::error::Result<Vec<(Op, u64)>> {
    let input = Box::new(std::io::Cursor::new(bytes.to_vec()));
    let mut source = (trace::format(format)?.open)(input, "test", Some(DEVICE.into()))?;
    let (mut block, mut all) = (Vec::new(), Vec::new());
    while source.next_block(&mut block)? {
        all.extend(block.iter().flat_map(|r| match r {
            Record::Request(r) => expand(r),
            Record::Segment(_) | Record::Mark(_) | Record::Arrival(_) => Vec::new(),
        }));
    }
    Ok(all)
}

fn expand(r: &Request) -> Vec<(Op, u64)> {
    (0..u64::from(r.count)).map(|i| (r.op, r.addr + i * u64::from(r.stride))).collect()
}

fn at(channel: u32, unit: u32, bank: u32, row: u32, column: u32) -> u64 {
    DEVICE.encode(&Address { bank, row, column, ..DEVICE.unit_address(channel, unit) })
}

fn run(op: Op, addr: u64, count: u32) -> Record {
    Record::Request(Request { op, addr, count, stride: 32 })
}

/// Every operation there is.
fn everything() -> Vec<Record> {
    vec![
        Record::Segment(Segment { channel: 1, ..Segment::default() }),
        run(Op::SetModel, 0, 1),
        run(Op::SetHead, 0, 1),
        run(Op::WrGb, at(1, 0, 0, 0, 0), 4),
        run(Op::MacAb, at(1, 0, 0, 7, 2), 3),
        run(Op::ActBg, at(1, 3, 0, 9, 0), 1),
        run(Op::ActBg, at(1, 5, 0, 9, 0), 1),
        run(Op::ActBg, at(1, 6, 0, 4, 0), 1),
        run(Op::MacBg, at(1, 0, 0, 0, 8), 2),
        run(Op::PreBg, at(1, 5, 0, 0, 0), 1),
        run(Op::MacBg, at(1, 0, 0, 0, 30), 1),
        run(Op::MvSb, at(1, 0, 0, 0, 0), 5),
        run(Op::Barrier, at(1, 0, 0, 0, 0), 1),
        Record::Request(Request { op: Op::Host, addr: at(1, 0, 0, 0, 0), count: 9, stride: 0 }),
        run(Op::Sfm, at(1, 0, 0, 0, 0), 1),
        run(Op::MvGb, at(1, 0, 0, 0, 0), 6),
        run(Op::MacSb, at(2, 0, 3, 1, 1), 1),
        run(Op::MacPb, at(2, 2, 3, 1, 1), 2),
        run(Op::Sync, 0, 1),
        run(Op::Ld, at(15, 15, 3, 16382, 30), 2),
        run(Op::St, at(0, 0, 0, 0, 0), 1),
    ]
}

/// Reads of [`everything`] with a read in each bank: MAC_AB 3 x 64, MAC_BG 2 x 3 x 4 + 2 x 4, MAC_SB 16, MAC_PB 2 x 2,
/// and the two loads.
const READS: u64 = 3 * 64 + (2 * 3 + 2) * 4 + 16 + 4 + 2;

const PLAIN: [&str; 5] = ["ramulator-ls", "ramulator-rw", "dramsim3", "dramsys-stl", "sait-pimsim"];

/// Ramulator's `tokenize`: cut at every single blank, empty pieces kept. A line of other than two pieces is an error,
/// so that a blank line, a comment, a trailing blank or a second blank stops it.
fn two_tokens(line: &str) -> (&str, &str) {
    let tokens: Vec<&str> = line.split(' ').collect();
    assert_eq!(tokens.len(), 2, "{line:?}");
    (tokens[0], tokens[1])
}

/// `std::stoll` of what follows "0x", or of decimal digits; signed, so below 2^63.
fn stoll(text: &str) -> u64 {
    let n = match text.strip_prefix("0x") {
        Some(hex) => i64::from_str_radix(hex, 16),
        None => text.parse(),
    };
    u64::try_from(n.unwrap()).unwrap()
}

/// Lines as `std::getline` gives them: a last line break ends a line and begins none.
fn getlines(text: &str) -> Vec<&str> {
    assert!(!text.contains('\r'));
    text.strip_suffix('\n').unwrap_or(text).split('\n').collect()
}

#[test]
fn attacc_takes_every_line() {
    let (text, manifest) = export_text("attacc", &everything());
    let lines = getlines(&text);
    let mut counts = std::collections::BTreeMap::new();
    for line in &lines {
        let (name, addr) = two_tokens(line);
        // PIMLoadStoreTrace compares with these names and throws at any other.
        let known = "LD ST PIM_MAC_AB PIM_MAC_SB PIM_MAC_PB PIM_WR_GB PIM_MV_SB PIM_MV_GB PIM_SFM PIM_SET_MODEL \
                     PIM_SET_HEAD PIM_BARRIER";
        assert!(known.split(' ').any(|k| k == name), "{line:?}");
        assert!(DEVICE.contains(stoll(addr)));
        *counts.entry(name).or_insert(0u64) += 1;
    }
    assert_eq!(lines.len() as u64, manifest.lines);
    assert_eq!(manifest.requests, manifest.lines);
    // Two rows are open at the first two PIM_MAC_BG, two at the third; a sync is a barrier in each channel, and the
    // host's work one.
    assert_eq!(counts["PIM_MAC_AB"], 3 + 2 * 2 + 2);
    assert_eq!(counts["PIM_BARRIER"], 1 + 1 + 16);
    assert!(text.contains(&format!("PIM_MAC_AB 0x{:08x}\n", at(1, 0, 0, 4, 8))));
    assert!(text.contains(&format!("PIM_MAC_AB 0x{:08x}\n", at(1, 0, 0, 9, 30))));
}

#[test]
fn ramulator_takes_every_load_and_store() {
    let (text, manifest) = export_text("ramulator-ls", &everything());
    let lines = getlines(&text);
    for line in &lines {
        let (name, addr) = two_tokens(line);
        assert!(name == "LD" || name == "ST", "{line:?}");
        // CacheLineInterleave with the interleave_bits of the manifest finds our channel; ChRaBaRoCo cuts the rest from
        // the lowest bit up, column first.
        let shift = manifest.settings["interleave_bits"].as_u64().unwrap() + 5;
        let addr = stoll(addr);
        assert_eq!((addr >> shift) & 15, u64::from(DEVICE.channel_of(addr)));
    }
    assert_eq!((lines.len() as u64, manifest.lines), (READS + 1, READS + 1));
}

#[test]
fn ramulator_takes_every_address_vector() {
    let (text, manifest) = export_text("ramulator-rw", &everything());
    let (bytes, _) = export_text("ramulator-ls", &everything());
    let sizes = manifest.settings["level_sizes"].as_array().unwrap();
    assert_eq!(getlines(&text).len() as u64, manifest.lines);
    for (line, other) in getlines(&text).into_iter().zip(getlines(&bytes)) {
        let (name, vector) = two_tokens(line);
        let (load_store, addr) = two_tokens(other);
        assert_eq!((name, load_store), if name == "R" { ("R", "LD") } else { ("W", "ST") });
        let v: Vec<u64> = vector.split(',').map(|n| n.parse::<i32>().unwrap() as u64).collect();
        assert_eq!(v.len(), sizes.len());
        assert!(v.iter().zip(sizes).all(|(n, size)| *n < size.as_u64().unwrap()), "{line}");
        // Both forms mean the same place.
        let a = DEVICE.decode(stoll(addr));
        let levels = [a.channel, a.pseudo_channel, a.rank, a.bank_group, a.bank, a.row, a.column];
        assert_eq!(v, levels.map(u64::from));
    }
}

/// What DRAMsim3's TraceBasedCPU issues when every queue has room: before each step it asks whether the end of the file
/// has been met, then extracts `hex address, word, cycle`, and issues if the cycle has come. Extraction that fails
/// leaves address and cycle as they were, makes the operation a read, and is not noticed.
fn dramsim3_issues(text: &str) -> Vec<(u64, bool)> {
    let bytes = text.as_bytes();
    let (mut pos, mut eof) = (0, false);
    let mut token = |eof: &mut bool| -> Option<String> {
        while pos < bytes.len() && bytes[pos].is_ascii_whitespace() {
            pos += 1;
        }
        let start = pos;
        while pos < bytes.len() && !bytes[pos].is_ascii_whitespace() {
            pos += 1;
        }
        *eof |= pos == bytes.len();
        (pos > start).then(|| text[start..pos].to_string())
    };
    let (mut addr, mut cycle, mut issued) = (0, 0u64, Vec::new());
    while !eof {
        if let Some(t) = token(&mut eof) {
            addr = u64::from_str_radix(t.trim_start_matches("0x"), 16).unwrap();
        }
        let write = token(&mut eof).is_some_and(|op| ["WRITE", "write", "P_MEM_WR", "BOFF"].contains(&op.as_str()));
        if let Some(t) = token(&mut eof) {
            cycle = t.parse().unwrap();
        }
        if cycle <= 1 << 40 {
            issued.push((addr, write));
        }
    }
    issued
}

#[test]
fn dramsim3_issues_every_request_once() {
    let (text, manifest) = export_text("dramsim3", &everything());
    assert!(!text.ends_with('\n'));
    for line in getlines(&text) {
        let fields: Vec<&str> = line.split(' ').collect();
        // Anything but a known write is read without a word, so the word must be right.
        assert!(fields.len() == 3 && ["READ", "WRITE"].contains(&fields[1]), "{line:?}");
    }
    let issued = dramsim3_issues(&text);
    assert_eq!((issued.len() as u64, manifest.requests, manifest.lines), (READS + 1, READS + 1, READS + 2));
    let loads = export_text("ramulator-ls", &everything()).0;
    let expected: Vec<_> = getlines(&loads).into_iter().map(two_tokens).map(|(n, a)| (stoll(a), n == "ST")).collect();
    assert_eq!(issued, expected);
    // What the end mark is for: without it the last request is issued twice.
    let naive = text.rsplit_once('\n').unwrap().0.to_string() + "\n";
    assert_eq!(dramsim3_issues(&naive).len() as u64, READS + 2);
}

#[test]
fn dramsim3_is_told_enough_cycles() {
    let cycles = |records: &[Record]| -> u64 {
        let manifest = export("dramsim3", records).1;
        manifest.settings["arguments"].as_str().unwrap().strip_prefix("-c ").unwrap().parse().unwrap()
    };
    let conflicts: Vec<_> = (0..1000).map(|row| run(Op::Ld, at(0, 0, 0, row, 0), 1)).collect();
    // tRC of DRAMsim3's HBM2 is 48.
    assert!(cycles(&conflicts) > 48 * 1000);
    assert!(cycles(&conflicts[..1]) > 260, "a refresh must fit");
}

#[test]
fn dramsys_takes_every_line() {
    let (text, manifest) = export_text("dramsys-stl", &everything());
    // The player compares with lower case, ends the run at any other word, and skips lines of up to one character and
    // those that begin with '#'. The cycle is read by stoull, which ignores the colon; the address in base 16.
    for line in getlines(&text) {
        let fields: Vec<&str> = line.split_whitespace().collect();
        assert!(line.len() > 1 && fields.len() == 3, "{line:?}");
        assert_eq!(fields[0], "0:");
        assert!(fields[1] == "read" || fields[1] == "write");
        assert!(u64::from_str_radix(fields[2].strip_prefix("0x").unwrap(), 16).is_ok());
    }
    assert_eq!(getlines(&text).len() as u64, manifest.lines);
    assert_eq!(manifest.requests, READS + 1);
}

#[test]
fn sait_structures_have_their_fields_where_c_puts_them() {
    let (bytes, manifest) = export("sait-pimsim", &everything());
    let loads = export_text("ramulator-ls", &everything()).0;
    let mut expected = getlines(&loads).into_iter().map(|l| stoll(two_tokens(l).1));
    let (mut requests, mut barriers) = (0, Vec::new());
    // uint8_t data[32]; uint64_t addr; int block_id; int thread_id; char cmd; aligned to 8.
    assert_eq!(bytes.len() % 56, 0);
    for s in bytes.chunks(56) {
        let addr = u64::from_le_bytes(s[32..40].try_into().unwrap());
        let channel = u32::from_le_bytes(s[40..44].try_into().unwrap());
        match s[48] {
            b'R' | b'W' => {
                // Before it uses an address the simulator exchanges bits 32 and 33; its channel is a rank of our pseudo-channel.
                let differ = (addr >> 32 ^ addr >> 33) & 1;
                let meant = addr ^ (differ << 32 | differ << 33);
                assert_eq!(Some(meant), expected.next());
                assert_eq!(u64::from(channel), meant >> 28);
                requests += 1;
            }
            b'B' => barriers.push(channel),
            c => panic!("command {c}"),
        }
    }
    assert_eq!((requests, manifest.requests), (READS + 1, READS + 1));
    assert_eq!(bytes.len() as u64 / 56, manifest.lines);
    assert_eq!(barriers, (4..8).chain(4..8).chain(0..64).collect::<Vec<u32>>());
}

#[test]
fn manifests_account_for_every_operation() {
    for format in PLAIN.into_iter().chain(["attacc"]) {
        let (_, m) = export(format, &everything());
        assert_eq!(m.operations.len(), Op::COUNT, "{format}: every operation is in the trace");
        assert_eq!(m.segments_dropped, 1);
        let written: u64 = m.operations.iter().map(|o| o.written).sum();
        assert_eq!(m.lines - u64::from(format == "dramsim3"), written, "{format}");
        let ins: u64 = everything().iter().map(|r| if let Record::Request(r) = r { r.count.into() } else { 0 }).sum();
        assert_eq!(m.operations.iter().map(|o| o.requests).sum::<u64>(), ins, "{format}");
        for o in &m.operations {
            assert_eq!(o.how.starts_with("dropped"), o.written == 0, "{format}: {o:?}");
        }
        if format != "attacc" {
            assert_eq!((m.reads, m.writes), (READS, 1), "{format}");
        }
        let json = m.json().unwrap();
        assert_eq!(json, export(format, &everything()).1.json().unwrap());
        let keys = ["format", "target", "generator", "geometry", "options", "lines", "operations", "settings", "notes"];
        let found: Vec<_> = keys.iter().map(|k| json.find(&format!("\n  \"{k}\":")).unwrap()).collect();
        assert!(found.is_sorted(), "the keys keep their order");
    }
}

#[test]
fn a_mac_becomes_as_many_reads_as_asked_for() {
    let reads = |mac_reads| {
        let options = ExportOptions { mac_reads, ..ExportOptions::default() };
        PLAIN.map(|f| try_export(f, &everything(), options).unwrap().1.reads)
    };
    assert_eq!(reads(MacReads::Banks), [READS; 5]);
    assert_eq!(reads(MacReads::Units), [3 * 16 + 2 * 3 + 2 + 16 + 4 + 2; 5]);
    assert_eq!(reads(MacReads::One), [3 + 2 + 1 + 1 + 2 + 2; 5]);
}

#[test]
fn what_cannot_be_said_is_refused() {
    let strict = ExportOptions { strict: true, ..ExportOptions::default() };
    let plain = [run(Op::Ld, 0, 3), run(Op::St, 64, 1)];
    for format in PLAIN {
        assert_eq!(try_export(format, &plain, strict).unwrap().1.lowered(), 0);
        for op in Op::ALL.iter().filter(|o| !matches!(o, Op::Ld | Op::St)) {
            let e = try_export(format, &[run(*op, 0, 1)], strict).unwrap_err();
            assert!(e.exit_code() == 1 && e.to_string().contains(op.mnemonic()), "{format}: {e}");
        }
        let e = try_export(format, &[run(Op::Sfm, 0, 1)], ExportOptions::default()).unwrap_err();
        assert!(e.to_string().contains("nothing to write"), "{e}");
    }
    for op in Op::ALL {
        assert_eq!(try_export("attacc", &[run(*op, 0, 1)], strict).is_ok(), op.in_attacc());
    }
    let closed = [run(Op::ActBg, 0, 1), run(Op::MacAb, 0, 1), run(Op::MacBg, 0, 1)];
    for format in PLAIN.into_iter().chain(["attacc"]) {
        let e = try_export(format, &closed, ExportOptions::default()).unwrap_err();
        assert_eq!(e.exit_code(), EXIT_DATA, "{format}: {e}");
    }
    assert!(import("sait-pimsim", b"").unwrap_err().to_string().contains("written, not read"));
}

#[test]
fn plain_requests_come_back() {
    let mut state = 1u64;
    let mut random = move |n: u32| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 33) as u32 % n
    };
    let records: Vec<Record> = (0..5000)
        .map(|_| {
            let addr = at(random(16), random(16), random(4), random(1 << 14), random(24));
            run(if random(3) == 0 { Op::St } else { Op::Ld }, addr, 1 + random(8))
        })
        .collect();
    let sent: Vec<_> =
        records.iter().flat_map(|r| if let Record::Request(r) = r { expand(r) } else { Vec::new() }).collect();
    for format in ["attacc", "ramulator-ls", "ramulator-rw", "dramsim3"] {
        let (bytes, manifest) = export(format, &records);
        assert_eq!(manifest.requests, sent.len() as u64);
        assert_eq!(import(format, &bytes).unwrap(), sent, "{format}");
        if format != "ramulator-ls" {
            let mut opened = trace::open(Box::new(std::io::Cursor::new(bytes)), "t", Some(DEVICE.into())).unwrap();
            assert!(opened.next_block(&mut Vec::new()).unwrap(), "{format} is known by its first bytes");
        }
    }
}

#[test]
fn hostile_lines_are_data_errors() {
    let junk = "\n \n\t\n#\n# comment\n//\n;\n\0\n0\n0x\n0x0\n-\n+\n,\n.\n\u{feff}\n\u{a0}\nPTRACE\nLD\nST\nR\nW\nREAD\nWRITE\n\
                LD \nR \nLD LD LD\nnull\nNaN\n1e9\n{}\n[]\n\"LD\" 0x0\nLD,0x0\nLD;0x0\nLD\t0x0\nLD=0x0\nLD  0x0\n LD 0x0\nLD 0x0 \nLD 0x0 0 0\n\
                LD -1\nLD +1\nLD 0x-1\nLD 1.0\nLD 0xg\nLD \u{664}\nLD 0x10000000000000000\nLD 99999999999999999999\n\
                LD 0xffffffffffffffff\nLD 0x400000000\nld 0x0\nPIM_MAC_AX 0x0\nR 0\nR 0,0,0,0,0,0\nR 0,0,0,0,0,0,0,0\nR 0,0,0,0,0,0,0,\n\
                R ,0,0,0,0,0,0\nR 0,,0,0,0,0,0\nR 0, 0,0,0,0,0,0\nR 16,0,0,0,0,0,0\nR 0,2,0,0,0,0,0\nR 0,0,2,0,0,0,0\nR 0,0,0,4,0,0,0\n\
                R 0,0,0,0,4,0,0\nR 0,0,0,0,0,16384,0\nR 0,0,0,0,0,0,32\nR -1,0,0,0,0,0,0\nR 0x0,0,0,0,0,0,0\nX 0,0,0,0,0,0,0\n\
                r 0,0,0,0,0,0,0\nR 0,0,0,0,0,0,4294967296\n0x0 READ\n0x0 READ -1\n0x0 READ 0 0\n0x0 RAED 0\n0x0 Read 0\n0x0 0\n\
                READ 0x0 0\n0x400000000 READ 0\n0xg READ 0\n-1 READ 0\n0x0 READ 0x10\n0x0 READ 18446744073709551616\n0x0 READ 1.5\n0x0READ 0\n\
                0x10000000000000000 READ 0\n0x0, READ, 0\n 0x0 READ 0\n0x0 READ 0 \n0x0 PIM_MAC_AB 0";
    let valid = [
        ("attacc", "LD 0x0"),
        ("ramulator-ls", "ST 64"),
        ("ramulator-rw", "R 0,0,0,0,0,0,0"),
        ("dramsim3", "0x40 WRITE 3"),
    ];
    for (format, good) in valid {
        assert_eq!(import(format, good.as_bytes()).unwrap().len(), 1);
        let mut tried = BTreeSet::new();
        let long = format!("{good}{}", " ".repeat(300));
        let long_line = [long.as_str(), "PIM_SYNC"];
        let extra = if format == "attacc" { &long_line[..1] } else { &long_line[..] };
        for bad in junk.split('\n').chain(extra.iter().copied()) {
            for text in [format!("{good}\n{bad}\n{good}\n"), format!("{bad}\n")] {
                let e = import(format, text.as_bytes()).expect_err(&format!("{format} takes {bad:?}"));
                assert_eq!(e.exit_code(), EXIT_DATA, "{format}: {bad:?}: {e}");
            }
            tried.insert(bad);
        }
        assert!(tried.len() >= 50, "{format}: {} hostile inputs", tried.len());
        for bytes in [&b"\xff\xfe\n"[..], b"LD 0x\x80\n", &[0; 4096]] {
            assert_eq!(import(format, bytes).unwrap_err().exit_code(), EXIT_DATA);
        }
    }
    let behind = "0x0 READ 18446744073709551615\n0x0 READ 0\n";
    assert!(import("dramsim3", behind.as_bytes()).unwrap_err().to_string().contains("behind the end mark"));
}

fn tracegen(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_tracegen")).args(args).output().unwrap()
}

#[test]
fn the_command_writes_a_manifest_or_asks_where_to() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_string();
    let system = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/system/hbm3-pim.toml");
    let system = system.to_str().unwrap();
    let (text, out) = (path("in.trace"), path("out.ls"));
    std::fs::write(&text, "LD 0x40\nPIM_MAC_AB 0x80\n").unwrap();
    let convert = |more: &[&str]| tracegen(&[&["convert", &text, "--config", system], more].concat());

    assert!(convert(&[&out, "--to", "ramulator-ls"]).status.success());
    let manifest = std::fs::read_to_string(path("out.ls.manifest.json")).unwrap();
    let manifest: serde_json::Value = serde_json::from_str(&manifest).unwrap();
    assert_eq!(manifest["lines"], 65);
    assert_eq!(std::fs::read_to_string(&out).unwrap().lines().count(), 65);

    let asked = convert(&["-", "--to", "dramsim3"]);
    assert_eq!(asked.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&asked.stderr).contains("--manifest"));
    let elsewhere = path("elsewhere.json");
    let told = convert(&["-", "--to", "dramsim3", "--mac-reads", "one", "--manifest", &elsewhere]);
    assert!(told.status.success());
    assert_eq!(String::from_utf8(told.stdout).unwrap(), "0x40 READ 0\n0x80 READ 0\n0x0 READ 18446744073709551615");
    assert!(Path::new(&elsewhere).exists());

    let never = path("never");
    for (flags, code) in [
        (&["--to", "ramulator-ls", "--strict"][..], 1),
        (&["--to", "ramulator-ls", "--mac-reads", "bank"], 2),
        (&["--to", "ramulator-ls", "--manifest", &never], 2),
        (&["--to", "ptrace", "--manifest", &elsewhere], 2),
        (&["--to", "ramulator-ls", "--from", "ramulator-ls"], EXIT_DATA.into()),
        (&["--to", "ramulator-ls", "--from", "sait-pimsim"], 2),
        (&["--to", "ramulator-ls", "--from", "dramsys-stl"], EXIT_DATA.into()),
    ] {
        let refused = convert(&[&[never.as_str()], flags].concat());
        assert_eq!(refused.status.code(), Some(code), "{flags:?} {}", String::from_utf8_lossy(&refused.stderr));
        assert!(!Path::new(&never).exists() && !Path::new(&path("never.manifest.json")).exists());
    }
}

/// A trace in `from`, as `to`, with its manifest.
fn converted(
    from: &str,
    text: &str,
    to: &str,
    strict: bool,
) -> pimattn_core::error::Result<(Vec<u8>, Option<Manifest>)> {
    let mut source = (trace::format(from)?.open)(
        Box::new(std::io::Cursor::new(text.as_bytes().to_vec())),
        "test",
        Some(DEVICE.into()),
    )?;
    let out = Shared::default();
    let options = ExportOptions { strict, ..ExportOptions::default() };
    let mut sink = (trace::format(to)?.create)(Box::new(out.clone()), source.header(), options)?;
    let mut block = Vec::new();
    while source.next_block(&mut block)? {
        block.iter().try_for_each(|r| sink.push(*r))?;
    }
    sink.finish()?;
    let manifest = sink.manifest();
    drop(sink);
    let bytes = std::mem::take(&mut *out.0.lock().unwrap());
    Ok((bytes, manifest))
}

#[test]
fn arrival_cycles_come_in_and_go_out() {
    // Two channels; DRAMsim3 looks at no request before the one ahead of it, whatever its cycle.
    let theirs = "0x40 READ 0\n0x60 READ 0\n0x80 READ 7\n0x40000040 WRITE 900\n0xa0 READ 900\n0xc0 READ 900\n0xe0 READ 12\n0x40000060 READ 1000000";
    let through = |formats: &[&str], back: &str| {
        let (mut from, mut text) = ("dramsim3", theirs.to_string());
        for to in formats.iter().chain([&back]) {
            let (bytes, manifest) = converted(from, &text, to, false).unwrap();
            let dropped = manifest.is_some_and(|m| m.notes.iter().any(|n| n.starts_with("arrival cycles are dropped")));
            assert_eq!(dropped, ["ramulator-ls", "ramulator-rw", "attacc", "sait-pimsim"].contains(to), "{to}");
            (from, text) = (to, String::from_utf8(bytes).unwrap());
        }
        text
    };
    let expected = theirs.replace("READ 12", "READ 900") + "\n0x0 READ 18446744073709551615";
    assert_eq!(through(&[], "dramsim3"), expected);
    assert_eq!(through(&["text"], "dramsim3"), expected);
    assert_eq!(through(&["dramsys-stl", "text", "text"], "dramsim3"), expected);
    assert!(through(&[], "text").contains("ST 0x40000040 @900\nLD 0x000000a0 @900\n"));
    assert!(through(&[], "dramsys-stl").contains("\n900: write 0x40000040\n"));
    assert!(through(&[], "ramulator-ls").starts_with("LD 0x40\n"));
    through(&[], "ramulator-rw");
    through(&[], "attacc");
    assert!(converted("dramsim3", theirs, "ramulator-ls", true).unwrap_err().to_string().contains("no arrival cycles"));
    assert!(converted("dramsim3", theirs, "dramsys-stl", true).is_ok());
    // And the binary form.
    let (bytes, _) = converted("dramsim3", theirs, "ptrace", false).unwrap();
    let mut source = trace::open(Box::new(std::io::Cursor::new(bytes)), "test", None).unwrap();
    let (mut block, mut cycles) = (Vec::new(), Vec::new());
    while source.next_block(&mut block).unwrap() {
        cycles.extend(
            block.iter().filter_map(|r| if let Record::Arrival(a) = r { Some((a.channel, a.cycle)) } else { None }),
        );
    }
    assert_eq!(cycles, [(0, 7), (1, 900), (0, 900), (1, 1_000_000)]);
    // A bound that waits for the last.
    let (_, manifest) = converted("dramsim3", theirs, "dramsim3", false).unwrap();
    let arguments = manifest.unwrap().settings["arguments"].as_str().unwrap()[3..].parse::<u64>().unwrap();
    assert!(arguments > 1_000_000);
    assert!(
        converted("dramsim3", "0x40 READ 18446744073709551614", "text", false).unwrap_err().exit_code() == EXIT_DATA
    );
}
