//! Damaged and hostile traces: each ends in an error with exit code 65, none in a panic or a large allocation.
//!
//! The inputs are made from good files by a fixed schedule, so every run sees the same ones. Mutations come in two
//! kinds: as they are, which checksums must catch, and with the checksums made right again, which reach the decoder.

mod binary;
mod replay;

use binary::{good_file, request};
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
