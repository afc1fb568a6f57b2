//! Damaged and hostile traces: each ends in an error with exit code 65, none in a panic or a large allocation.
//!
//! The inputs are made from good files by a fixed schedule, so every run sees the same ones. Mutations come in two
//! kinds: as they are, which checksums must catch, and with the checksums made right again, which reach the decoder.

use pimattn::cli::exit::{EXIT_DATA, EXIT_USAGE, ExitStatus};
use pimattn_core::addr::Geometry;
use pimattn_core::error::Error;
use pimattn_trace::{self as trace, Arrival, Header, Mark, Op, Phase, Record, Request, Segment, Sink};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::{Cursor, Read, Write};
use std::sync::{Arc, Mutex};

// ---------------------------------------------------------------- memory

/// Bytes that reading one hostile input may hold at most. (The C code of zstd is not seen here; it decompresses into
/// our buffer.)
const MOST_MEMORY: usize = 64 << 20;

thread_local! {
    static LIVE: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

/// Counts what each thread holds.
struct Counting;

fn count(bytes: isize) {
    let _ = LIVE.try_with(|live| {
        live.set(live.get() + bytes);
        let _ = PEAK.try_with(|peak| peak.set(peak.get().max(live.get())));
    });
}

// SAFETY: every call goes to the system's allocator unchanged; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        unsafe { System.alloc(layout) }
    }
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        unsafe { System.alloc_zeroed(layout) }
    }
    unsafe fn realloc(&self, p: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size as isize - layout.size() as isize);
        unsafe { System.realloc(p, layout, size) }
    }
    unsafe fn dealloc(&self, p: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        unsafe { System.dealloc(p, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The most that `f` held at once, on this thread.
fn peak<T>(f: impl FnOnce() -> T) -> (T, usize) {
    let before = LIVE.get();
    PEAK.set(before);
    let out = f();
    (out, (PEAK.get() - before) as usize)
}

#[test]
fn the_allocator_counts() {
    let ((), held) = peak(|| drop(std::hint::black_box(vec![1u8; 3 << 20])));
    assert!((3 << 20..4 << 20).contains(&held), "{held}");
}

// ---------------------------------------------------------------- reading

const GEOMETRY: Geometry = Geometry {
    channels: 16,
    pseudo_channels: 2,
    ranks: 2,
    bank_groups: 4,
    banks: 4,
    rows: 1 << 14,
    columns: 32,
    column_bytes: 32,
};
/// Bytes of one channel of [`GEOMETRY`].
const CHANNEL: u64 = 1 << 30;

fn read_from(input: Box<dyn Read + Send>, name: &str) -> Result<Vec<Record>, Error> {
    let mut source = trace::open(input, name, Some(GEOMETRY.into()))?;
    let (mut all, mut block) = (Vec::new(), Vec::new());
    while source.next_block(&mut block)? {
        assert!(!block.is_empty() && block.len() <= trace::BLOCK);
        for record in &block {
            assert_eq!(trace::check(record, &source.header().geometry), Ok(()));
        }
        all.append(&mut block);
    }
    Ok(all)
}

#[derive(Default)]
struct Tally {
    errors: usize,
    still_valid: usize,
}

impl Tally {
    /// Reads `bytes`; a panic fails the test by itself.
    fn read(&mut self, what: &str, bytes: &[u8]) -> Option<Error> {
        let input = Box::new(Cursor::new(bytes.to_vec()));
        let (result, held) = peak(|| read_from(input, "t.trace"));
        assert!(held < MOST_MEMORY, "{what} held {held} bytes");
        match result {
            Ok(_) => {
                self.still_valid += 1;
                None
            }
            Err(e) => {
                assert_eq!(e.exit_code(), EXIT_DATA, "{what}: {e}");
                let text = e.to_string();
                assert!(text.starts_with("t.trace") && text.len() < 500, "{what}: {text}");
                self.errors += 1;
                Some(e)
            }
        }
    }

    fn must_fail(&mut self, what: &str, bytes: &[u8]) -> String {
        self.read(what, bytes).unwrap_or_else(|| panic!("{what} was accepted")).to_string()
    }

    fn must_say(&mut self, what: &str, bytes: &[u8], words: &str) {
        let text = self.must_fail(what, bytes);
        assert!(text.contains(words), "{what}: \"{text}\" does not say \"{words}\"");
    }
}

// ---------------------------------------------------------------- text

#[test]
fn hostile_text() {
    let mut tally = Tally::default();
    let good = "LD 0x00000000\nPIM_MAC_AB 0x00000040\nPIM_BARRIER 0x0\nST 32\nPIM_SYNC 0x0\n";
    assert!(tally.read("the good file", good.as_bytes()).is_none());

    // A bad line behind good ones; the error names the file and the line.
    let bad_lines: Vec<Vec<u8>> = [
        // shape
        "",
        " ",
        "\t",
        "LD",
        "LD ",
        " LD 0x0",
        "LD 0x0 ",
        "LD  0x0",
        "LD\t0x0",
        "LD 0x0 1",
        "LD,0x0",
        "LD 0x0;",
        "LD 0x0#",
        "0x0 LD",
        "0x0",
        "# LD 0x0",
        "// LD",
        "LD 0x0 # comment",
        "LD 0x0\u{a0}",
        "\u{feff}LD 0x0",
        "LD\u{2003}0x0",
        "LD=0x0",
        "LD:0x0",
        "[LD 0x0]",
        "LD 0x0 LD 0x20",
        "LD LD 0x0",
        "LD\r0x0",
        "\0",
        "LD 0x0\0",
        "LD \0",
        "-",
        "_ 0x0",
        "é 0x0",
        "LD é",
        // numbers
        "LD 0x",
        "LD 0X",
        "LD x0",
        "LD 0xg",
        "LD 0x0g",
        "LD -1",
        "LD -0x1",
        "LD +1",
        "LD 1.0",
        "LD 1e3",
        "LD 0b1",
        "LD 0o7",
        "LD 0x1_0",
        "LD 1_000",
        "LD 1,000",
        "LD 40h",
        "LD NaN",
        "LD inf",
        "LD null",
        "LD 0x-1",
        "LD 0x 1",
        "LD 0x0x0",
        "LD ０",
        "LD 18446744073709551616",
        "LD 99999999999999999999999999999999",
        "LD 0x10000000000000000",
        "LD 0xffffffffffffffffffffffffffffffff",
        // names
        "ld 0x0",
        "Ld 0x0",
        "LDX 0x0",
        "L 0x0",
        "LOAD 0x0",
        "PIM 0x0",
        "PIM_ 0x0",
        "PIM_MAC 0x0",
        "PIM_MAC_ 0x0",
        "PIM_MAC_AX 0x0",
        "PIM_MAC_ABX 0x0",
        "pim_mac_ab 0x0",
        "PIM-MAC-AB 0x0",
        "PIM_MAC_AB0x0",
        "PIM_MAC_AB_0x0",
        "MACAB 0x0",
        "ACT 0x0",
        "NOP 0x0",
        "PIM_BARRIERS 0x0",
        "PIM_SYNC",
        "PIM_SYNC x",
        "PIM_SEGMENT 0x0",
        "PTRACE 0x0",
        // addresses beyond 16 channels of 1 GiB
        "LD 0x400000000",
        "ST 0x400000000",
        "LD 17179869184",
        "LD 0x1000000000",
        "LD 0xffffffffffffffff",
        "LD 18446744073709551615",
        "PIM_MAC_AB 0x400000000",
        "PIM_MAC_SB 0x400000000",
        "PIM_MAC_PB 0x400000000",
        "PIM_WR_GB 0x400000000",
        "PIM_MV_SB 0x400000000",
        "PIM_MV_GB 0x400000000",
        "PIM_SFM 0x400000000",
        "PIM_SET_MODEL 0x400000000",
        "PIM_SET_HEAD 0x400000000",
        "PIM_BARRIER 0x400000000",
        "PIM_ACT_BG 0x400000000",
        "PIM_PRE_BG 0x400000000",
        "PIM_MAC_BG 0x400000000",
    ]
    .iter()
    .map(|s| s.as_bytes().to_vec())
    .chain([
        // not text
        b"LD 0x\xff".to_vec(),
        b"\xff\xfe".to_vec(),
        b"LD 0x0\x80".to_vec(),
        b"\xc3\x28 0x0".to_vec(),
        b"LD \xed\xa0\x80".to_vec(),
        b"PTRACE\x1a".to_vec(),
        (0x80..=0xff).collect(),
        // overlong
        format!("LD {}1", "0".repeat(300)).into_bytes(),
        format!("LD 0x{}", "0".repeat(1 << 20)).into_bytes(),
        format!("{} 0x0", "A".repeat(250)).into_bytes(),
        vec![b' '; 255],
        vec![b'A'; 1 << 20],
        vec![0; 4096],
    ])
    .collect();
    for line in &bad_lines {
        let what = format!("line {:?}", String::from_utf8_lossy(&line[..line.len().min(40)]));
        let bytes = [b"LD 0x0\nST 0x20\n", &line[..], b"\nLD 0x40\n"].concat();
        tally.must_say(&what, &bytes, "t.trace:3: ");
        // as the first line, where it decides the format, and as the last, without its end
        tally.must_fail(&format!("first {what}"), &[&line[..], b"\nLD 0x40\n"].concat());
        if !line.is_empty() {
            tally.must_say(&format!("last {what}"), &[b"LD 0x0\n", &line[..]].concat(), "t.trace:2: ");
        }
    }
    assert!(bad_lines.len() >= 100, "{}", bad_lines.len());

    // every place at which a line can be cut
    let line = "PIM_MAC_AB 0x1040";
    for cut in 1..line.len() {
        let bytes = format!("LD 0x0\n{}\nLD 0x0\n", &line[..cut]);
        let whole = matches!(&line[..cut], "PIM_MAC_AB 0") || cut > "PIM_MAC_AB 0x".len();
        assert_eq!(tally.read(&format!("cut {cut}"), bytes.as_bytes()).is_none(), whole, "{bytes:?}");
    }
    // every bit of a small file
    for bit in 0..good.len() * 8 {
        let mut bytes = good.as_bytes().to_vec();
        bytes[bit / 8] ^= 1 << (bit % 8);
        tally.read(&format!("bit {bit}"), &bytes);
    }
    tally.must_say("a wrong name", b"LD 0x0\nPIM_MAC_AX 0x0\n", "did you mean \"PIM_MAC_AB\"?");
    tally.must_say("an empty file", b"", "not a trace of a known format (ptrace, attacc, text, ");
    tally.must_say(
        "a line too long",
        &[b"LD 0x0\nLD ", &[b'0'; 300][..]].concat(),
        "t.trace:2: a line of over 256 bytes",
    );
    tally.must_say("not text", b"LD 0x0\n\xff\n", "t.trace:2: not text");
    assert!(tally.errors > 500, "{}", tally.errors);
}

#[test]
fn line_ends_are_those_of_either_system() {
    let unix = "LD 0x0\nST 0x20\nPIM_SYNC 0x0\n";
    let read = |text: &str| read_from(Box::new(Cursor::new(text.as_bytes().to_vec())), "t").unwrap();
    assert_eq!(read(unix), read(&unix.replace('\n', "\r\n")));
    assert_eq!(read(unix), read(unix.trim_end()), "the last line may lack its end");
}

#[test]
fn a_text_trace_without_a_device_is_a_usage_error() {
    let e = trace::open(Box::new(Cursor::new(b"LD 0x0\n")), "t", None).err().unwrap();
    assert_eq!(e.exit_code(), EXIT_USAGE);
    assert!(e.to_string().contains("--config"), "{e}");
}

/// Good bytes, then the same byte for ever.
struct Endless(Cursor<Vec<u8>>, u8);

impl Read for Endless {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        match self.0.read(out)? {
            0 => {
                out.fill(self.1);
                Ok(out.len())
            }
            n => Ok(n),
        }
    }
}

#[test]
fn endless_inputs_end_in_an_error() {
    let mut binary = Vec::new();
    for cut in [8, 12, 16, 40] {
        binary.push(good_file()[..cut].to_vec());
    }
    for head in [b"LD ".to_vec(), b"LD 0x0\n".to_vec(), b"PIM_MAC_AB 0x".to_vec(), Vec::new()].into_iter().chain(binary)
    {
        for byte in [0, b'\n', b' ', b'0', b'A', 0xff] {
            let what = format!("{:?} and {byte:#x} for ever", String::from_utf8_lossy(&head));
            let input = Box::new(Endless(Cursor::new(head.clone()), byte));
            let (result, held) = peak(|| read_from(input, "t"));
            assert_eq!(result.unwrap_err().exit_code(), EXIT_DATA, "{what}");
            assert!(held < MOST_MEMORY, "{what} held {held} bytes");
        }
    }
}

// ---------------------------------------------------------------- binary

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

fn request(op: Op, addr: u64, count: u32, stride: u32) -> Record {
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

fn good_file() -> Vec<u8> {
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

    for version in [0, 1, 2, 3, 4, 6, 255, 256, u32::MAX] {
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

// ---------------------------------------------------------------- replay

/// A trace that is made up as it is read.
struct Made<F> {
    header: Header,
    blocks: usize,
    block: F,
}

impl<F: FnMut(&mut Vec<Record>)> trace::Source for Made<F> {
    fn header(&self) -> &Header {
        &self.header
    }
    fn next_block(&mut self, out: &mut Vec<Record>) -> Result<bool, Error> {
        out.clear();
        if self.blocks > 0 {
            self.blocks -= 1;
            (self.block)(out);
        }
        Ok(!out.is_empty())
    }
}

/// Memory that a replay of `blocks` blocks holds.
fn replayed(set: &[&str], blocks: usize, block: impl FnMut(&Geometry, &mut Vec<Record>)) -> usize {
    let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/system/hbm3-pim.toml");
    let set: Vec<String> = set.iter().map(|s| s.to_string()).collect();
    let system = pimattn_core::spec::System::load(&file, &set).unwrap();
    let geometry = system.device.geometry;
    let mut block = block;
    let header = Header::foreign(geometry, "test");
    let mut source = Made { header, blocks, block: |out: &mut Vec<Record>| block(&geometry, out) };
    let (cycles, held) = peak(|| pimattn_engine::run(&system, &mut source, &mut (), &mut |_| {}));
    assert!(cycles.unwrap() > 0);
    held
}

#[test]
fn work_of_the_host_behind_an_unfinished_request_takes_no_memory() {
    let waits = |blocks| {
        let mut first = Some(request(Op::MacAb, 0, 1, 0));
        replayed(&[], blocks, |_, out| {
            out.extend(first.take());
            out.extend((0..trace::BLOCK).map(|_| request(Op::Host, 0, 1, 0)));
        })
    };
    let (short, long) = (waits(4), waits(400));
    assert!(long < short + short / 4 && long < MOST_MEMORY, "{short} bytes, then {long}");
}

#[test]
fn records_that_wait_are_bounded_over_all_channels() {
    // No channel has many records, and there are many channels.
    let labels = |g: &Geometry, out: &mut Vec<Record>| {
        for channel in 0..g.channels {
            out.push(Record::Segment(Segment { channel, ..Segment::default() }));
            out.extend([Phase::Select, Phase::Softmax].map(|phase| Record::Mark(Mark { channel, lane: 0, phase })));
            out.push(request(Op::MacAb, g.channel_base(channel), 1, 0));
        }
    };
    let held = replayed(&["channels=640"], 1000, labels);
    assert!(held < 2 * MOST_MEMORY, "{held} bytes");
}
