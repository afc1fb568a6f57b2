//! Binary traces, damaged at random and by design.

use super::*;

/// A binary trace taken apart, every field free to be wrong.
#[derive(Clone)]
struct File {
    magic: Vec<u8>,
    version: u32,
    header_length: Option<u32>,
    header: Vec<u8>,
    header_crc: Option<u32>,
    blocks: Vec<Block>,
    /// Records, requests and checksum of the end mark where they are not the right ones.
    end: [Option<u64>; 3],
    tail: Vec<u8>,
}

#[derive(Clone)]
struct Block {
    kind: u8,
    raw: Vec<u8>,
    records: u32,
    requests: u64,
    raw_length: Option<u32>,
    packed: Option<Vec<u8>>,
    packed_length: Option<u32>,
    crc: Option<u32>,
}

fn encode<T: bincode::Encode>(value: &T) -> Vec<u8> {
    bincode::encode_to_vec(value, bincode::config::standard()).unwrap()
}

impl Block {
    fn of(records: &[Record]) -> Self {
        let requests = records.iter().map(|r| if let Record::Request(r) = r { u64::from(r.count) } else { 0 }).sum();
        // The format has volleys before arrivals.
        let coded = |r: &Record| match r {
            Record::Arrival(a) => encode(&(4u32, *a)),
            _ => encode(r),
        };
        Block { requests, ..Block::raw(records.iter().flat_map(coded).collect(), records.len() as u32) }
    }

    fn raw(raw: Vec<u8>, records: u32) -> Self {
        Block { kind: 1, raw, records, requests: 0, raw_length: None, packed: None, packed_length: None, crc: None }
    }
}

impl File {
    fn new(blocks: Vec<Block>) -> Self {
        let header = Header { config: "seed = 1\n".into(), ..Header::foreign(GEOMETRY, "test") };
        File {
            magic: b"PTRACE\x1a\n".to_vec(),
            version: trace::ptrace::VERSION,
            header_length: None,
            header: encode(&header),
            header_crc: None,
            blocks,
            end: [None; 3],
            tail: Vec::new(),
        }
    }

    fn with_header(header: &Header) -> Self {
        File { header: encode(header), ..File::new(vec![]) }
    }

    fn bytes(&self) -> Vec<u8> {
        let mut out = self.magic.clone();
        out.extend(self.version.to_le_bytes());
        out.extend(self.header_length.unwrap_or(self.header.len() as u32).to_le_bytes());
        out.extend(&self.header);
        out.extend(self.header_crc.unwrap_or_else(|| crc32fast::hash(&self.header)).to_le_bytes());
        let mut sum = crc32fast::Hasher::new();
        for b in &self.blocks {
            let packed = b.packed.clone().unwrap_or_else(|| zstd::bulk::compress(&b.raw, 3).unwrap());
            let crc = b.crc.unwrap_or_else(|| crc32fast::hash(&packed));
            sum.update(&crc.to_le_bytes());
            out.push(b.kind);
            out.extend(b.records.to_le_bytes());
            out.extend(b.raw_length.unwrap_or(b.raw.len() as u32).to_le_bytes());
            out.extend(b.packed_length.unwrap_or(packed.len() as u32).to_le_bytes());
            out.extend(crc.to_le_bytes());
            out.extend(&packed);
        }
        let records: u64 = self.blocks.iter().map(|b| u64::from(b.records)).sum();
        let requests: u64 = self.blocks.iter().map(|b| b.requests).sum();
        out.push(0);
        out.extend(self.end[0].unwrap_or(records).to_le_bytes());
        out.extend(self.end[1].unwrap_or(requests).to_le_bytes());
        out.extend((self.end[2].unwrap_or_else(|| u64::from(sum.finalize())) as u32).to_le_bytes());
        out.extend(&self.tail);
        out
    }
}

pub fn request(op: Op, addr: u64, count: u32, stride: u32) -> Record {
    Record::Request(Request { op, addr, count, stride })
}

fn good_records() -> Vec<Record> {
    vec![
        Record::Segment(Segment {
            channel: 3,
            step: 1,
            position: 300,
            selected: 7,
            bytes_useful: 1 << 40,
            ..Segment::default()
        }),
        request(Op::ActBg, 3 * CHANNEL, 1, 0),
        request(Op::MacBg, 3 * CHANNEL, 32, 32),
        request(Op::Barrier, 0, 1, 0),
        request(Op::Ld, CHANNEL - 32, 1, 0),
        request(Op::Sync, 0, 1, 0),
    ]
}

fn good() -> File {
    let records = good_records();
    File::new(vec![Block::of(&records[..4]), Block::of(&records[4..])])
}

pub fn good_file() -> Vec<u8> {
    good().bytes()
}

/// Makes every checksum right, as far as the lengths let one find them.
fn repair(bytes: &mut [u8]) {
    let u32_at = |b: &[u8], at: usize| b.get(at..at + 4).map(|x| u32::from_le_bytes(x.try_into().unwrap()) as usize);
    let put = |b: &mut [u8], at: usize, crc: u32| {
        if let Some(place) = b.get_mut(at..at + 4) {
            place.copy_from_slice(&crc.to_le_bytes());
        }
    };
    let Some(length) = u32_at(bytes, 12) else { return };
    let Some(header) = bytes.get(16..16 + length) else { return };
    let crc = crc32fast::hash(header);
    put(bytes, 16 + length, crc);
    let mut sum = crc32fast::Hasher::new();
    let mut at = 20 + length;
    while bytes.get(at) == Some(&1) {
        let Some(packed) = u32_at(bytes, at + 9).and_then(|n| bytes.get(at + 17..at + 17 + n)) else { return };
        let (crc, next) = (crc32fast::hash(packed), at + 17 + packed.len());
        put(bytes, at + 13, crc);
        sum.update(&crc.to_le_bytes());
        at = next;
    }
    put(bytes, at + 17, sum.finalize());
}

#[test]
fn the_pieces_make_what_the_writer_makes() {
    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);
    impl Write for Shared {
        fn write(&mut self, b: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(b)
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let records = good_records();
    let out = Shared::default();
    let header = Header { config: "seed = 1\n".into(), ..Header::foreign(GEOMETRY, "test") };
    let mut writer = trace::ptrace::PtraceWriter::create(Box::new(out.clone()), &header).unwrap();
    records.iter().for_each(|r| writer.push(*r).unwrap());
    writer.finish().unwrap();
    let one_block = File::new(vec![Block::of(&records)]).bytes();
    assert_eq!(*out.0.lock().unwrap(), one_block);
    assert_eq!(read_from(Box::new(Cursor::new(good_file())), "t").unwrap(), records);
    let mut repaired = good_file();
    repair(&mut repaired);
    assert_eq!(repaired, good_file());
}

#[test]
fn damage_anywhere_in_a_binary_trace_is_noticed() {
    let mut tally = Tally::default();
    let bytes = good_file();
    assert!(tally.read("the good file", &bytes).is_none());
    for len in 0..bytes.len() {
        tally.must_fail(&format!("cut to {len} bytes"), &bytes[..len]);
        let mut cut = bytes[..len].to_vec();
        repair(&mut cut);
        tally.must_fail(&format!("cut to {len} bytes and repaired"), &cut);
    }
    for bit in 0..bytes.len() * 8 {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        tally.must_fail(&format!("bit {bit} flipped"), &flipped);
    }
    for at in 0..bytes.len() {
        let mut longer = bytes.clone();
        longer.insert(at, 0x55);
        tally.must_fail(&format!("a byte more at {at}"), &longer);
        let mut shorter = bytes.clone();
        shorter.remove(at);
        tally.must_fail(&format!("a byte less at {at}"), &shorter);
    }
    assert!(tally.errors > 1000);
}

#[test]
fn damage_under_right_checksums_does_no_harm() {
    let mut tally = Tally::default();
    let bytes = good_file();
    for bit in 0..bytes.len() * 8 {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        repair(&mut flipped);
        tally.read(&format!("bit {bit} flipped and repaired"), &flipped);
    }
    // below the compression: every bit, and every byte set to markers of bincode's longer numbers
    let records = good_records();
    let raw: Vec<u8> = records.iter().flat_map(encode).collect();
    let block = |raw: Vec<u8>| File::new(vec![Block { requests: 36, ..Block::raw(raw, 6) }]).bytes();
    assert!(tally.read("the good block", &block(raw.clone())).is_none());
    for bit in 0..raw.len() * 8 {
        let mut flipped = raw.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        tally.read(&format!("bit {bit} of the records"), &block(flipped));
    }
    for at in 0..raw.len() {
        for byte in [0, 250, 251, 252, 253, 254, 255] {
            let mut changed = raw.clone();
            changed[at] = byte;
            tally.read(&format!("record byte {at} = {byte}"), &block(changed));
        }
        tally.must_fail(&format!("records cut to {at} bytes"), &block(raw[..at].to_vec()));
    }
    let header = good().header;
    for at in 0..header.len() {
        for byte in [0, 1, 250, 251, 252, 253, 254, 255, header[at] ^ 1, header[at] ^ 128] {
            let mut file = good();
            file.header[at] = byte;
            tally.read(&format!("header byte {at} = {byte}"), &file.bytes());
        }
        let file = File { header: header[..at].to_vec(), ..good() };
        tally.must_fail(&format!("header cut to {at} bytes"), &file.bytes());
    }
    assert!(tally.errors > 1000 && tally.still_valid > 50, "{} errors, {} valid", tally.errors, tally.still_valid);
}

/// Wrong in one respect each, and right in all others.
fn crafted() -> Vec<(String, File, &'static str)> {
    let mut out: Vec<(String, File, &'static str)> = Vec::new();
    let mut add = |what: String, file: File, words: &'static str| out.push((what, file, words));

    // The header of version 6 ends before the selection, which is in this one.
    add("version 6".into(), File { version: 6, ..good() }, "bytes left over");
    for version in [0, 1, 2, 3, 4, 5, 8, 255, 256, u32::MAX] {
        let words = if version < trace::ptrace::VERSION { "write the trace again" } else { "use a newer version" };
        add(format!("version {version}"), File { version, ..good() }, words);
    }
    for magic in ["PTRACE\r\n", "ptrace\x1a\n", "PTRACE\x1a\r", "XTRACE\x1a\n"] {
        add(format!("magic {magic:?}"), File { magic: magic.into(), ..good() }, "not a trace of a known format");
    }
    for n in [(1 << 18) + 1, 1 << 24, 1 << 30, 1 << 31, u32::MAX] {
        add(format!("header of {n}"), File { header_length: Some(n), ..good() }, "header length");
    }
    for n in [1 << 16, 1 << 18] {
        add(format!("header of {n}"), File { header_length: Some(n), ..good() }, "cut off in the header");
    }
    for n in [0, 1, 10] {
        add(format!("header of {n}"), File { header_length: Some(n), ..good() }, "header checksum");
    }
    add("header checksum".into(), File { header_crc: Some(7), ..good() }, "header checksum does not match");
    let mut longer = good();
    longer.header.push(0);
    add("header with a byte left over".into(), longer, "bytes left over");
    // a string that announces more than there is: marker of an 8-byte length, then the length
    for length in [1u64 << 20, 1 << 32, 1 << 48, u64::MAX] {
        let header = [&[253u8][..], &length.to_le_bytes(), b"tracegen"].concat();
        add(format!("a name of {length} bytes"), File { header, ..good() }, "damaged header");
    }
    let not_utf8 = [&[2u8, 0xff, 0xfe][..], &good().header[1..]].concat();
    add("a name that is not text".into(), File { header: not_utf8, ..good() }, "damaged header");

    let g = GEOMETRY;
    for geometry in [
        Geometry { channels: 0, ..g },
        Geometry { channels: 4097, ..g },
        Geometry { channels: u32::MAX, ..g },
        Geometry { pseudo_channels: 0, ..g },
        Geometry { pseudo_channels: 3, ..g },
        Geometry { pseudo_channels: 32, ..g },
        Geometry { ranks: 0, ..g },
        Geometry { ranks: 17, ..g },
        Geometry { ranks: u32::MAX, ..g },
        Geometry { bank_groups: 0, ..g },
        Geometry { bank_groups: 3, ..g },
        Geometry { bank_groups: 64, ..g },
        Geometry { banks: 0, ..g },
        Geometry { banks: 5, ..g },
        Geometry { banks: 1 << 31, ..g },
        Geometry { rows: 0, ..g },
        Geometry { rows: 16383, ..g },
        Geometry { rows: 1 << 25, ..g },
        Geometry { columns: 0, ..g },
        Geometry { columns: 33, ..g },
        Geometry { columns: 128, ..g },
        Geometry { column_bytes: 0, ..g },
        Geometry { column_bytes: 48, ..g },
        Geometry { column_bytes: 2048, ..g },
        Geometry { ranks: 16, bank_groups: 32, banks: 32, ..g },
    ] {
        let header = Header { geometry, ..Header::foreign(g, "test") };
        add(format!("{geometry:?}"), File::with_header(&header), "impossible geometry");
    }

    let blocks = |b: Block| File::new(vec![b]);
    let records = good_records();
    for kind in [2, 3, 7, 127, 128, 255] {
        add(format!("block kind {kind}"), blocks(Block { kind, ..Block::of(&records) }), "unknown block kind");
    }
    for n in [0, 4097, 1 << 16, u32::MAX] {
        add(format!("{n} records"), blocks(Block { records: n, ..Block::of(&records) }), "impossible sizes");
    }
    for n in [7, 8, 4096] {
        add(format!("{n} records, not 6"), blocks(Block { records: n, ..Block::of(&records) }), "record ");
    }
    for n in [1, 5] {
        add(format!("{n} records, not 6"), blocks(Block { records: n, ..Block::of(&records) }), "bytes left over");
    }
    for n in [(4096 << 7) + 1, 1 << 24, 1 << 31, u32::MAX] {
        add(format!("{n} bytes"), blocks(Block { raw_length: Some(n), ..Block::of(&records) }), "impossible sizes");
        add(
            format!("{n} packed"),
            blocks(Block { packed_length: Some(n.saturating_add(4096)), ..Block::of(&records) }),
            "impossible sizes",
        );
    }
    for n in [0, 1, 10] {
        add(format!("{n} bytes announced"), blocks(Block { raw_length: Some(n), ..Block::of(&records) }), "block 0: ");
    }
    add("more bytes announced".into(), blocks(Block { raw_length: Some(4096), ..Block::of(&records) }), "announced");
    add("a longer packed length".into(), blocks(Block { packed_length: Some(4096), ..Block::of(&records) }), "cut off");
    add("a shorter packed length".into(), blocks(Block { packed_length: Some(5), ..Block::of(&records) }), "checksum");
    add("a wrong checksum".into(), blocks(Block { crc: Some(1), ..Block::of(&records) }), "checksum");

    // compressed bytes that are none, that end early, that swell
    let pack = |b: &[u8]| zstd::bulk::compress(b, 3).unwrap();
    let whole = pack(&Block::of(&records).raw);
    for (what, packed) in [
        ("nothing", Vec::new()),
        ("no zstd", b"these bytes are not zstd".to_vec()),
        ("half a frame", whole[..whole.len() / 2].to_vec()),
        ("a frame and more", [&whole[..], b"more"].concat()),
        ("zstd magic alone", whole[..4].to_vec()),
    ] {
        add(what.into(), blocks(Block { packed: Some(packed), ..Block::of(&records) }), "block 0: ");
    }
    for size in [1 << 20, 1 << 26, 1 << 28] {
        let bomb = pack(&vec![0; size]);
        for raw_length in [100, 4096 << 7] {
            let block = Block { packed: Some(bomb.clone()), raw_length: Some(raw_length), ..Block::of(&records) };
            add(format!("a bomb of {size} in {raw_length}"), blocks(block), "block 0: ");
        }
    }
    // a bomb of several frames
    let frames = [pack(&vec![0; 4096 << 7]), pack(&vec![0; 1 << 26])].concat();
    add(
        "two frames".into(),
        blocks(Block { packed: Some(frames), raw_length: Some(4096 << 7), ..Block::of(&records) }),
        "block 0: ",
    );

    // records that mean nothing
    let bad_raw: &[(&str, &[u8])] = &[
        ("an unknown record", &[3, 0, 0, 1, 0]),
        ("a record of number 255", &[255]),
        ("a record of number 2^32-1", &[252, 255, 255, 255, 255]),
        ("an unknown operation", &[0, 17, 0, 1, 0]),
        ("operation 250", &[0, 250, 0, 1, 0]),
        ("a number cut short", &[0, 0, 253, 1, 2]),
        ("a count of 2^64", &[0, 0, 0, 253, 255, 255, 255, 255, 255, 255, 255, 255, 0]),
        ("a stride of 2^33", &[0, 0, 0, 1, 253, 0, 0, 0, 0, 2, 0, 0, 0]),
        ("no bytes", &[]),
    ];
    for (what, raw) in bad_raw {
        add((*what).into(), blocks(Block::raw(raw.to_vec(), 1)), "record 0: ");
    }
    let most = u32::MAX;
    let mut bad_records = vec![
        (request(Op::Ld, 0, 0, 0), "a run of no requests"),
        (request(Op::Barrier, 0, 0, 1), "a run of no requests"),
        (request(Op::Sync, 0, 0, 0), "a run of no requests"),
        (request(Op::Ld, u64::MAX, 2, 1), "overflow"),
        (request(Op::Sync, u64::MAX, 2, 1), "overflow"),
        (request(Op::Ld, u64::MAX - 31, most, most), "overflow"),
        (request(Op::Ld, 0, most, most), "beyond the device"),
        (request(Op::Ld, 16 * CHANNEL - 32, 2, 32), "beyond the device"),
        (request(Op::MacAb, 15 * CHANNEL, (1 << 20) + 1, 1 << 10), "beyond the device"),
        (request(Op::Ld, CHANNEL - 32, 2, 32), "leaves its row"),
        (request(Op::MacBg, 0, 2, 1 << 30), "leaves its row"),
        (request(Op::MacAb, 0, (1 << 25) + 1, 32), "leaves its row"),
        (request(Op::Sync, 0, 2, 1 << 30), "leaves its row"),
    ];
    for op in Op::ALL.iter().filter(|o| **o != Op::Sync) {
        for addr in [16 * CHANNEL, 1 << 40, u64::MAX] {
            bad_records.push((request(*op, addr, 1, 0), "beyond the device"));
        }
    }
    for channel in [16, 17, 4096, most] {
        bad_records.push((Record::Segment(Segment { channel, ..Segment::default() }), "does not exist"));
        bad_records.push((Record::Mark(Mark { channel, lane: 0, phase: Phase::Other }), "does not exist"));
        bad_records.push((Record::Arrival(Arrival { channel, cycle: 0 }), "does not exist"));
    }
    bad_records.push((Record::Arrival(Arrival { channel: 0, cycle: u64::MAX }), "beyond the last"));
    for lane in [2, 255] {
        bad_records.push((Record::Segment(Segment { lane, ..Segment::default() }), "does not exist"));
        bad_records.push((Record::Mark(Mark { channel: 0, lane, phase: Phase::Other }), "does not exist"));
    }
    for (record, words) in bad_records {
        let with = [&records[..2], &[record]].concat();
        let block = Block { requests: 0, ..Block::of(&with) };
        add(format!("{record:?}"), blocks(block), words);
    }

    // the end
    for (i, what) in ["records", "requests", "checksum"].into_iter().enumerate() {
        for n in [0, 5, 38, u64::MAX] {
            let mut file = good();
            file.end[i] = Some(n);
            add(format!("end mark with {what} {n}"), file, "the end mark says");
        }
    }
    for tail in [vec![0], vec![1], vec![0; 21], good().bytes()] {
        add(format!("{} bytes behind the end", tail.len()), File { tail, ..good() }, "bytes behind the end mark");
    }
    let mut swapped = good();
    let sums: Vec<u8> = swapped.bytes();
    let end = u32::from_le_bytes(sums[sums.len() - 4..].try_into().unwrap());
    swapped.blocks.swap(0, 1);
    swapped.end[2] = Some(u64::from(end));
    add("blocks in another order".into(), swapped, "a block was exchanged");
    out
}

#[test]
fn crafted_binary_traces_say_what_is_wrong() {
    let mut tally = Tally::default();
    let cases = crafted();
    assert!(cases.len() >= 150, "{}", cases.len());
    for (what, file, words) in &cases {
        tally.must_say(what, &file.bytes(), words);
    }
}

/// A run stays in one row, so with three ranks it cannot reach the addresses of a fourth.
#[test]
fn a_run_does_not_pass_through_a_rank_that_does_not_exist() {
    let geometry = Geometry { ranks: 3, ..GEOMETRY };
    let rank = 1u64 << 28;
    for addr in [0, rank, 2 * rank, 4 * rank, 6 * rank] {
        assert!(geometry.contains(addr), "{addr:#x}");
    }
    assert!(!geometry.contains(3 * rank));
    let run = |addr, count, stride| request(Op::Ld, addr, count, stride);
    assert_eq!(trace::check(&run(2 * rank, 32, 32), &geometry), Ok(()));
    assert!(trace::check(&run(2 * rank, 33, 32), &geometry).is_err(), "the last request is in the next row");
    assert!(trace::check(&run(0, 3, rank as u32), &geometry).is_err());
    // text that jumps over the hole is the same work, in runs that keep to what exists
    let text = format!("LD {:#x}\nLD {:#x}\nLD {:#x}\n", 2 * rank, 4 * rank, 6 * rank);
    let mut source = trace::open(Box::new(Cursor::new(text.into_bytes())), "t", Some(geometry.into())).unwrap();
    let mut block = Vec::new();
    assert!(source.next_block(&mut block).unwrap());
    for record in &block {
        assert_eq!(trace::check(record, &geometry), Ok(()), "{record:?}");
    }
}

#[test]
fn reads_of_one_byte_at_a_time_give_the_same() {
    struct Trickle(Cursor<Vec<u8>>);
    impl Read for Trickle {
        fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
            let n = out.len().min(1);
            self.0.read(&mut out[..n])
        }
    }
    let records = read_from(Box::new(Trickle(Cursor::new(good_file()))), "t").unwrap();
    assert_eq!(records, good_records());
}

// ---------------------------------------------------------------- through the programs

#[test]
fn the_programs_exit_with_65() {
    let dir = tempfile::tempdir().unwrap();
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let system = root.join("configs/system/hbm3-pim.toml");
    let mut cases: Vec<(String, Vec<u8>)> =
        crafted().into_iter().step_by(9).map(|(what, file, _)| (what, file.bytes())).collect();
    let bytes = good_file();
    cases.extend([3, 15, 60, bytes.len() - 1].map(|n| (format!("cut to {n}"), bytes[..n].to_vec())));
    for text in ["LD 0x0\n\n", "LD 0x0\nLOAD 0x0\n", "LD 0xffffffffff\n", "LD 0x0\n\u{fffd}", "not a trace", ""] {
        cases.push((format!("{text:?}"), text.into()));
    }
    // whole, but for another device, or work that no command does
    let other = Header { geometry: Geometry { channels: 4, ..GEOMETRY }, ..Header::foreign(GEOMETRY, "test") };
    cases.push(("another device".into(), File::with_header(&other).bytes()));
    cases.push(("MAC_BG without a row".into(), b"PIM_MAC_BG 0x0\n".to_vec()));
    assert!(cases.len() >= 20);
    for (i, (what, bytes)) in cases.iter().enumerate() {
        let path = dir.path().join(format!("{i}.trace"));
        std::fs::write(&path, bytes).unwrap();
        let ours = ["another device", "MAC_BG without a row"].contains(&what.as_str());
        let mut runs = vec![(env!("CARGO_BIN_EXE_pimsim"), vec!["run"])];
        if !ours {
            runs.push((env!("CARGO_BIN_EXE_tracegen"), vec!["info"]));
        }
        for (program, args) in runs {
            let out = std::process::Command::new(program)
                .args(args)
                .arg(&path)
                .arg("--config")
                .arg(&system)
                .output()
                .unwrap();
            let said = String::from_utf8_lossy(&out.stderr);
            assert_eq!(out.status.code(), Some(65), "{what}: {said}");
            assert!(
                said.starts_with("error: ") && said.contains(".trace") && !said.contains("panicked"),
                "{what}: {said}"
            );
            // Whoever reads this table finds none, rather than one without rows.
            assert!(out.stdout.is_empty(), "{what}: {}", String::from_utf8_lossy(&out.stdout));
            assert!(!said.contains("Geometry {"), "{what}: {said}");
            assert!(said.lines().count() == 1, "{what}: {said}");
        }
    }
}
