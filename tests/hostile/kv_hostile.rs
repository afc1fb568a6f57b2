//! Damaged and hostile KV dumps: each ends in an error with exit code 65, none in a panic or a long wait.
//!
//! The inputs are made from good files by a fixed schedule, so every run sees the same ones.

use pimattn::cli::exit::{EXIT_DATA, ExitStatus};
use pimattn_core::error::Error;
use pimattn_kv::{self as kv, KvCache};
use std::path::Path;
use std::time::{Duration, Instant};

/// Longest time that one small input may take, with a wide margin for a busy machine.
const PATIENCE: Duration = Duration::from_secs(5);

/// Outcomes of a series of inputs.
#[derive(Default)]
struct Tally {
    errors: usize,
    still_valid: usize,
}

impl Tally {
    /// Loads `path`; a panic fails the test by itself.
    fn load(&mut self, what: &str, path: &Path) -> Option<Error> {
        let start = Instant::now();
        let result = kv::load(path);
        assert!(start.elapsed() < PATIENCE, "{what} took {:?}", start.elapsed());
        match result {
            Ok(kv) => {
                check_consistent(what, &kv);
                self.still_valid += 1;
                None
            }
            Err(e) => {
                assert_eq!(e.exit_code(), EXIT_DATA, "{what}: {e}");
                let text = e.to_string();
                assert!(text.len() < 1000, "{what}: message of {} bytes", text.len());
                self.errors += 1;
                Some(e)
            }
        }
    }

    fn load_bytes(&mut self, what: &str, path: &Path, bytes: &[u8]) -> Option<Error> {
        std::fs::write(path, bytes).unwrap();
        self.load(what, path)
    }

    fn must_fail(&mut self, what: &str, path: &Path, bytes: &[u8]) {
        assert!(self.load_bytes(what, path, bytes).is_some(), "{what} was accepted");
    }
}

fn check_consistent(what: &str, kv: &KvCache) {
    assert_eq!(kv.k.len(), kv.layers.len() * kv.kv_heads * kv.tokens * kv.dim, "{what}");
    assert_eq!(kv.v.len(), kv.k.len(), "{what}");
    assert_eq!(kv.q.len(), kv.layers.len() * kv.query_heads * kv.queries * kv.dim, "{what}");
    assert!(kv.query_start + kv.queries <= kv.tokens && kv.prefill <= kv.tokens, "{what}");
    assert!(!kv.decode_positions().is_empty(), "{what}");
}

/// Elements 0, 1, 2, ... scaled to stay finite in every type.
fn f16s(n: usize) -> Vec<u8> {
    (0..n).flat_map(|i| half::f16::from_f32(i as f32 * 0.25).to_le_bytes()).collect()
}

// ---------------------------------------------------------------- safetensors

const GOOD_HEADER: &str = concat!(
    r#"{"__metadata__":{"prefill_len":"4","model":"m","positions":"k,v 0..5; q 4..5, unscaled"},"#,
    r#""layers":{"dtype":"I32","shape":[1],"data_offsets":[0,4]},"#,
    r#""k":{"dtype":"F16","shape":[1,1,6,4],"data_offsets":[4,52]},"#,
    r#""q":{"dtype":"F16","shape":[1,2,2,4],"data_offsets":[52,84]},"#,
    r#""v":{"dtype":"F16","shape":[1,1,6,4],"data_offsets":[84,132]}}"#
);

fn safetensors(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()
}

fn good_data() -> Vec<u8> {
    [3i32.to_le_bytes().to_vec(), f16s(24), f16s(16), f16s(24)].concat()
}

#[test]
fn hostile_safetensors() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.safetensors");
    let mut tally = Tally::default();
    let data = good_data();
    let good = safetensors(GOOD_HEADER, &data);
    assert!(tally.load_bytes("the good file", &path, &good).is_none());
    let header_end = 8 + GOOD_HEADER.len();

    for len in (0..header_end).step_by(5).chain(header_end..good.len()).chain([0, 1, 7, 8, 9]) {
        tally.must_fail(&format!("truncation to {len} bytes"), &path, &good[..len]);
    }
    for extra in [1, 7, 4096] {
        tally.must_fail(&format!("{extra} bytes too many"), &path, &[&good[..], &vec![0; extra]].concat());
    }
    for bit in 0..header_end * 8 {
        // every bit of the length, then a spread over the text
        if bit < 64 || bit % 3 == 0 {
            let mut bytes = good.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            tally.load_bytes(&format!("bit {bit} flipped"), &path, &bytes);
        }
    }
    for length in [0, 1, 2, 1 << 20, 100_000_000, 100_000_001, 1 << 40, u64::MAX - 8, u64::MAX - 7, u64::MAX] {
        let mut bytes = good.clone();
        bytes[..8].copy_from_slice(&length.to_le_bytes());
        tally.must_fail(&format!("header length {length}"), &path, &bytes);
    }

    let edits: &[(&str, &str)] = &[
        // types
        (r#""k":{"dtype":"F16""#, r#""k":{"dtype":"F32""#),
        (r#""k":{"dtype":"F16""#, r#""k":{"dtype":"I16""#),
        (r#""k":{"dtype":"F16""#, r#""k":{"dtype":"F99""#),
        (r#""k":{"dtype":"F16""#, r#""k":{"dtype":16"#),
        (r#""q":{"dtype":"F16""#, r#""q":{"dtype":"U16""#),
        (r#""dtype":"I32","shape":[1]"#, r#""dtype":"F32","shape":[1]"#),
        (r#""dtype":"I32","shape":[1]"#, r#""dtype":"U8","shape":[4]"#),
        (r#""dtype":"I32","shape":[1]"#, r#""dtype":"I32","shape":[1,1]"#),
        (r#""dtype":"I32","shape":[1]"#, r#""dtype":"I16","shape":[2]"#),
        // shapes
        ("[1,2,2,4]", "[1,2,2,-4]"),
        ("[1,2,2,4]", "[1,2,2,4.0]"),
        ("[1,2,2,4]", "[1,2,2,1e1]"),
        ("[1,2,2,4]", "[]"),
        ("[1,2,2,4]", "[16]"),
        ("[1,2,2,4]", "[1,2,2,2,2]"),
        ("[1,2,2,4]", "[2,2,2,2]"),
        ("[1,2,2,4]", "[1,2,4,2]"),
        ("[1,2,2,4]", "[1,16,1,1]"),
        ("[1,2,2,4]", "[1,0,2,4]"),
        ("[1,2,2,4]", "[18446744073709551615,2,2,4]"),
        ("[1,2,2,4]", "[18446744073709551616,2,2,4]"),
        ("[1,2,2,4]", "[4294967296,4294967296,1,1]"),
        ("[1,2,2,4]", "[9223372036854775808,2,1,1]"),
        ("[1,2,2,4]", "[4611686018427387904,1,1,4]"),
        ("[1,2,2,4]", "null"),
        ("[1,2,2,4]", "{}"),
        ("[1,2,2,4]", "\"1,2,2,4\""),
        ("[1,1,6,4],\"data_offsets\":[4,52]", "[1,1,4,6],\"data_offsets\":[4,52]"),
        ("[1,1,6,4],\"data_offsets\":[84,132]", "[1,2,3,4],\"data_offsets\":[84,132]"),
        ("[1,1,6,4],\"data_offsets\":[84,132]", "[1,1,12,2],\"data_offsets\":[84,132]"),
        // offsets
        ("[84,132]", "[84,131]"),
        ("[84,132]", "[84,133]"),
        ("[84,132]", "[132,84]"),
        ("[84,132]", "[85,133]"),
        ("[84,132]", "[4,52]"),
        ("[84,132]", "[0,48]"),
        ("[84,132]", "[-48,0]"),
        ("[84,132]", "[84]"),
        ("[84,132]", "[84,132,132]"),
        ("[84,132]", "[1000000,1000048]"),
        ("[84,132]", "[18446744073709551567,18446744073709551615]"),
        ("[84,132]", "[84,18446744073709551616]"),
        ("[84,132]", "[1e300,1e301]"),
        // metadata
        (r#""prefill_len":"4","#, ""),
        (r#""prefill_len":"4""#, r#""prefill_len":4"#),
        (r#""prefill_len":"4""#, r#""prefill_len":"""#),
        (r#""prefill_len":"4""#, r#""prefill_len":"four""#),
        (r#""prefill_len":"4""#, r#""prefill_len":"4.0""#),
        (r#""prefill_len":"4""#, r#""prefill_len":"-1""#),
        (r#""prefill_len":"4""#, r#""prefill_len":"0""#),
        (r#""prefill_len":"4""#, r#""prefill_len":"6""#),
        (r#""prefill_len":"4""#, r#""prefill_len":"7""#),
        (r#""prefill_len":"4""#, r#""prefill_len":"9223372036854775807""#),
        (r#""prefill_len":"4""#, r#""prefill_len":"99999999999999999999""#),
        (r#""model":"m""#, r#""query_start":"3""#),
        (r#""model":"m""#, r#""query_start":"-4""#),
        (r#""model":"m""#, r#""query_start":"x""#),
        (r#""model":"m""#, r#""query_start":"18446744073709551615""#),
        ("q 4..5", "q 3..5"),
        ("q 4..5", "q 5..6"),
        ("q 4..5", "q 5..4"),
        ("q 4..5", "q 0..1"),
        ("q 4..5", "q 4.."),
        ("q 4..5", "q 0..18446744073709551615"),
        ("q 4..5", "q 18446744073709551614..18446744073709551615"),
        ("q 4..5", "q 4..99999999999999999999999"),
        (r#"{"__metadata__":{"prefill_len":"4","model":"m","positions":"k,v 0..5; q 4..5, unscaled"},"#, "{"),
        (r#"{"prefill_len":"4","model":"m","positions":"k,v 0..5; q 4..5, unscaled"}"#, "[]"),
        // names
        (r#""k":"#, r#""keys":"#),
        (r#""v":"#, r#""V":"#),
        (r#""q":"#, r#""query":"#),
        (r#""q":"#, r#""v":"#),
        (r#""layers":"#, r#""layer":"#),
        (r#""layers":"#, r#""q_late":"#),
        (r#""layers":"#, r#""":"#),
        (r#""layers":"#, "\"\\u0000\":"),
        // JSON
        (r#"{"__metadata__""#, r#"["__metadata__""#),
        (r#""k":{"#, r#""k":{{"#),
        (r#""k":{"#, r#"k:{"#),
        (r#""dtype":"F16","shape":[1,2,2,4],"#, ""),
        (r#""dtype":"F16","shape":[1,2,2,4],"#, r#""dtype":"F16","#),
        (r#""shape":[1,2,2,4],"data_offsets":[52,84]"#, r#""shape":[1,2,2,4]"#),
        (",", ""),
        ("}}", "}"),
        ("}}", "}}}"),
    ];
    for (from, to) in edits {
        assert!(GOOD_HEADER.contains(from), "{from}");
        let header = GOOD_HEADER.replacen(from, to, 1);
        tally.must_fail(&format!("{from} -> {to}"), &path, &safetensors(&header, &data));
    }
    for header in ["", "{}", "null", "[]", "0", "\"\"", "{\"__metadata__\":{}}", "\u{0}", "{\"k\":{}}"] {
        tally.must_fail(&format!("header {header:?}"), &path, &safetensors(header, &data));
        tally.must_fail(&format!("header {header:?} without data"), &path, &safetensors(header, &[]));
    }
    for deep in ["[", "{\"a\":", "[{\"a\":"] {
        tally.must_fail(&format!("nested {deep}"), &path, &safetensors(&deep.repeat(100_000), &[]));
    }
    let long_name = GOOD_HEADER.replace("\"k\"", &format!("\"{}\"", "ä".repeat(100_000)));
    tally.must_fail("a long name", &path, &safetensors(&long_name, &data));
    let long_type = GOOD_HEADER.replacen("F16", &"x".repeat(100_000), 1);
    tally.must_fail("a long type", &path, &safetensors(&long_type, &data));
    for (i, value) in [half::f16::NAN, half::f16::INFINITY, half::f16::NEG_INFINITY].into_iter().enumerate() {
        for at in [4, 60, 130] {
            let mut data = data.clone();
            data[at..at + 2].copy_from_slice(&value.to_le_bytes());
            tally.must_fail(&format!("value {i} at {at}"), &path, &safetensors(GOOD_HEADER, &data));
        }
    }
    for layer in [-1, i32::MIN] {
        let mut data = data.clone();
        data[..4].copy_from_slice(&i32::to_le_bytes(layer));
        tally.must_fail(&format!("layer {layer}"), &path, &safetensors(GOOD_HEADER, &data));
    }

    println!("safetensors: {} errors, {} still valid", tally.errors, tally.still_valid);
    assert!(tally.errors >= 100);
}

// ---------------------------------------------------------------- npy and npz

fn npy(descr: &str, shape: &str, payload: &[u8]) -> Vec<u8> {
    let text = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}");
    npy_text(&format!("{text:<117}\n"), payload)
}

fn npy_text(text: &str, payload: &[u8]) -> Vec<u8> {
    [b"\x93NUMPY\x01\x00", &(text.len() as u16).to_le_bytes()[..], text.as_bytes(), payload].concat()
}

/// Names of arrays and their `.npy` files.
type Arrays = Vec<(&'static str, Vec<u8>)>;

fn good_arrays() -> Arrays {
    vec![
        ("k", npy("<f2", "(1, 1, 6, 4)", &f16s(24))),
        ("v", npy("<f2", "(1, 1, 6, 4)", &f16s(24))),
        ("q", npy("<f2", "(1, 2, 2, 4)", &f16s(16))),
        ("layers", npy("<i4", "(1,)", &3i32.to_le_bytes())),
        ("prefill_len", npy("<i8", "()", &4i64.to_le_bytes())),
        ("query_start", npy("<u4", "(1,)", &4u32.to_le_bytes())),
    ]
}

fn with(name: &'static str, bytes: Vec<u8>) -> Arrays {
    let mut arrays = good_arrays();
    arrays.retain(|(n, _)| *n != name);
    arrays.push((name, bytes));
    arrays
}

/// Hostile forms of an array that stands for `q`.
fn bad_q() -> Vec<(String, Vec<u8>)> {
    let payload = f16s(16);
    let mut out: Vec<(String, Vec<u8>)> = Vec::new();
    let shapes = [
        "(1, 2, 2, -4)",
        "(-1, -2, 2, 4)",
        "(1, 2, 2, 5)",
        "(1, 2, 2)",
        "(16,)",
        "()",
        "(1, 0, 2, 4)",
        "(0,)",
        "(2, 2, 2, 2)",
        "(1, 16, 1, 1)",
        "(1, 2, 2, 4, 1)",
        "(18446744073709551615,)",
        "(18446744073709551616, 1)",
        "(4294967296, 4294967296)",
        "(4294967296, 4294967295, 2, 1)",
        "(9223372036854775808, 2, 1, 1)",
        "(0, 18446744073709551615, 18446744073709551615)",
        "(340282366920938463463374607431768211456,)",
        "(1, 2, 2, 4.0)",
        "(1, 2, 2, 1e400)",
        "(1, 2, 2, 4j)",
        "(1, 2, 2, 0x4)",
        "(1, 2, 2, 0xffffffffffffffff, 0xffffffffffffffff)",
        "(1, 2, 2, 8-4)",
        "(1, 2, 2, 4",
        "1, 2, 2, 4)",
        "((((((((((1,),),),),),),),),),)",
        "[[[[[[[[[[1]]]]]]]]]]",
        "{1: {2: {3: {4: 5}}}}",
        "'1'",
        "None",
        "True",
        "(1, 2, 2, None)",
        "b'\\xff'",
        "(1, 2, 2, '\\N{BULLET}')",
    ];
    for shape in shapes {
        out.push((format!("shape {shape}"), npy("<f2", shape, &payload)));
    }
    for descr in [
        ">f2",
        "<f16",
        "<i2",
        "<f3",
        "<c8",
        "|O",
        "|b1",
        "<U4",
        "|S2",
        "|V2",
        "<M8[us]",
        "f2",
        "",
        "<",
        "<f",
        "=f2",
        "<f-2",
        "<f99999999999999999999",
        "|V18446744073709551615",
        "<U18446744073709551615",
        "<f4",
        "<f8",
        "<i8",
        "\\x3cf2",
        "é",
    ] {
        out.push((format!("descr {descr}"), npy(descr, "(1, 2, 2, 4)", &payload)));
    }
    for text in [
        "",
        "{}",
        "{",
        "[]",
        "None",
        "{'descr': '<f2', 'fortran_order': False}",
        "{'descr': '<f2', 'shape': (1, 2, 2, 4)}",
        "{'fortran_order': False, 'shape': (1, 2, 2, 4)}",
        "{'descr': '<f2', 'fortran_order': 0, 'shape': (1, 2, 2, 4)}",
        "{'descr': '<f2', 'fortran_order': 'False', 'shape': (1, 2, 2, 4)}",
        "{'descr': 2, 'fortran_order': False, 'shape': (1, 2, 2, 4)}",
        "{'descr': [('a', '<f2')], 'fortran_order': False, 'shape': (1, 2, 2, 4)}",
        "{'descr': [('a', '<f2', (4294967296, 4294967296))], 'fortran_order': False, 'shape': (1,)}",
        "{'descr': [], 'fortran_order': False, 'shape': (1, 2, 2, 4)}",
        "{1: 2, 'descr': '<f2', 'fortran_order': False, 'shape': (1, 2, 2, 4)}",
        "{'descr': '<f2', 'fortran_order': False, 'shape': (1, 2, 2, 4)} + 1",
        "__import__('os').abort()",
        "\u{feff}{'descr': '<f2', 'fortran_order': False, 'shape': (1, 2, 2, 4)}",
    ] {
        out.push((format!("header {text:?}"), npy_text(text, &payload)));
    }
    for open in ["(", "[", "{", "{'a':", "{{", "([", "-", "1-", "'", "\""] {
        let text = open.repeat(60_000 / open.len());
        out.push((format!("many {open}"), npy_text(&text, &payload)));
        out.push((format!("some {open}"), npy_text(&open.repeat(4000 / open.len()), &payload)));
    }
    let good = npy("<f2", "(1, 2, 2, 4)", &payload);
    for version in [[0, 0], [1, 1], [4, 0], [255, 255]] {
        let mut bytes = good.clone();
        bytes[6..8].copy_from_slice(&version);
        out.push((format!("version {version:?}"), bytes));
    }
    for len in [0u16, 1, 60, 117, 119, 150, u16::MAX] {
        let mut bytes = good.clone();
        bytes[8..10].copy_from_slice(&len.to_le_bytes());
        out.push((format!("header length {len}"), bytes));
    }
    for len in [0u32, 118, 4097, 1 << 31, u32::MAX] {
        let bytes = [b"\x93NUMPY\x02\x00", &len.to_le_bytes()[..], &good[10..]].concat();
        if len != 118 {
            out.push((format!("header length {len} of version 2"), bytes));
        }
    }
    for extra in [1, 2, 100] {
        out.push((format!("{extra} bytes too many"), [&good[..], &vec![0; extra]].concat()));
    }
    for len in 0..good.len() {
        out.push((format!("truncation to {len} bytes"), good[..len].to_vec()));
    }
    let nan = [half::f16::NAN.to_le_bytes().to_vec(), f16s(15)].concat();
    out.push(("NaN".into(), npy("<f2", "(1, 2, 2, 4)", &nan)));
    let huge = [1e300f64; 16].map(f64::to_le_bytes).concat();
    out.push(("f64 beyond f32".into(), npy("<f8", "(1, 2, 2, 4)", &huge)));
    out
}

/// Bad sets of arrays that are fine one by one.
fn bad_sets() -> Vec<(String, Arrays)> {
    let i8s = |n: i64| npy("<i8", "()", &n.to_le_bytes());
    let mut out = vec![
        ("other shape of v".to_string(), with("v", npy("<f2", "(1, 1, 4, 6)", &f16s(24)))),
        ("other type of v".to_string(), with("v", npy("<f4", "(1, 1, 6, 4)", &[0; 96]))),
        ("integer keys".to_string(), with("k", npy("<i4", "(1, 1, 6, 4)", &[0; 96]))),
        ("float prefill_len".to_string(), with("prefill_len", npy("<f8", "()", &4f64.to_le_bytes()))),
        ("two prefill_len".to_string(), with("prefill_len", npy("<i4", "(2,)", &[4, 0, 0, 0, 4, 0, 0, 0]))),
        ("no prefill_len".to_string(), with("prefill_len", npy("<i4", "(0,)", &[]))),
        ("prefill_len beyond i64".to_string(), with("prefill_len", npy("<u8", "()", &u64::MAX.to_le_bytes()))),
        ("layers of two axes".to_string(), with("layers", npy("<i4", "(1, 1)", &[0; 4]))),
        ("too many layers".to_string(), with("layers", npy("<i4", "(2,)", &[0; 8]))),
        ("negative layer".to_string(), with("layers", npy("<i4", "(1,)", &[255; 4]))),
        ("unknown name".to_string(), with("keys", npy("<i4", "(1,)", &[0; 4]))),
        ("both q and q_late".to_string(), with("q_late", npy("<f2", "(1, 2, 2, 4)", &f16s(16)))),
    ];
    for n in [-1, 0, 6, 7, i64::MIN, i64::MAX] {
        out.push((format!("prefill_len {n}"), with("prefill_len", i8s(n))));
    }
    for n in [-1, 2, 5, i64::MIN, i64::MAX] {
        out.push((format!("query_start {n}"), with("query_start", i8s(n))));
    }
    for name in ["k", "v", "q", "prefill_len"] {
        let mut arrays = good_arrays();
        arrays.retain(|(n, _)| *n != name);
        out.push((format!("without {name}"), arrays));
    }
    out
}

#[test]
fn hostile_npy_directories() {
    let mut tally = Tally::default();
    let try_set = |tally: &mut Tally, what: &str, arrays: &[(&str, Vec<u8>)]| {
        let dir = tempfile::tempdir().unwrap();
        for (name, bytes) in arrays {
            std::fs::write(dir.path().join(format!("{name}.npy")), bytes).unwrap();
        }
        tally.load(what, dir.path()).is_some()
    };
    assert!(!try_set(&mut tally, "the good directory", &good_arrays()));
    for (what, bytes) in bad_q() {
        assert!(try_set(&mut tally, &what, &with("q", bytes)), "{what} was accepted");
    }
    for (what, arrays) in bad_sets() {
        assert!(try_set(&mut tally, &what, &arrays), "{what} was accepted");
    }
    assert!(try_set(&mut tally, "an empty directory", &[]));
    let good_q = npy("<f2", "(1, 2, 2, 4)", &f16s(16));
    for bit in 0..128 * 8 {
        let mut bytes = good_q.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        try_set(&mut tally, &format!("bit {bit} of q.npy flipped"), &with("q", bytes));
    }
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("k.npy")).unwrap();
    for (name, bytes) in good_arrays().into_iter().filter(|(n, _)| *n != "k") {
        std::fs::write(dir.path().join(format!("{name}.npy")), bytes).unwrap();
    }
    assert!(tally.load("a directory named k.npy", dir.path()).is_some());
    println!("npy: {} errors, {} still valid", tally.errors, tally.still_valid);
    assert!(tally.errors >= 100);
}

struct ZipFile {
    bytes: Vec<u8>,
    /// Offset of each record of the central directory.
    records: Vec<usize>,
    end: usize,
}

fn zip(arrays: &[(&str, Vec<u8>)], deflate: bool) -> ZipFile {
    let mut bytes = Vec::new();
    let mut directory = Vec::new();
    let mut records = Vec::new();
    for (name, contents) in arrays {
        let name = format!("{name}.npy");
        let stored = if deflate { deflated(contents) } else { contents.clone() };
        let mut common = vec![20, 0, 0, 0, if deflate { 8 } else { 0 }, 0, 0, 0, 0, 0];
        common.extend(crc32fast::hash(contents).to_le_bytes());
        common.extend((stored.len() as u32).to_le_bytes());
        common.extend((contents.len() as u32).to_le_bytes());
        common.extend((name.len() as u16).to_le_bytes());
        common.extend([0, 0]);
        records.push(directory.len());
        directory.extend(b"PK\x01\x02\x14\x00");
        directory.extend(&common);
        directory.extend([0; 10]);
        directory.extend((bytes.len() as u32).to_le_bytes());
        directory.extend(name.as_bytes());
        bytes.extend(b"PK\x03\x04");
        bytes.extend(&common);
        bytes.extend(name.as_bytes());
        bytes.extend(stored);
    }
    let start = bytes.len();
    records.iter_mut().for_each(|r| *r += start);
    bytes.extend(&directory);
    let end = bytes.len();
    bytes.extend(b"PK\x05\x06\0\0\0\0");
    bytes.extend([(arrays.len() as u16).to_le_bytes(), (arrays.len() as u16).to_le_bytes()].concat());
    bytes.extend((directory.len() as u32).to_le_bytes());
    bytes.extend((start as u32).to_le_bytes());
    bytes.extend([0, 0]);
    ZipFile { bytes, records, end }
}

fn deflated(contents: &[u8]) -> Vec<u8> {
    use std::io::Write;
    let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(contents).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn hostile_npz() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.npz");
    let mut tally = Tally::default();
    for deflate in [false, true] {
        let good = zip(&good_arrays(), deflate);
        assert!(tally.load_bytes("the good archive", &path, &good.bytes).is_none());
        for (what, bytes) in bad_q() {
            tally.must_fail(&format!("{what}, deflate {deflate}"), &path, &zip(&with("q", bytes), deflate).bytes);
        }
        for (what, arrays) in bad_sets() {
            tally.must_fail(&format!("{what}, deflate {deflate}"), &path, &zip(&arrays, deflate).bytes);
        }
        for len in (0..good.bytes.len()).step_by(7) {
            tally.must_fail(&format!("truncation to {len} bytes"), &path, &good.bytes[..len]);
        }
        for bit in (0..good.bytes.len() * 8).step_by(11) {
            let mut bytes = good.bytes.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            tally.load_bytes(&format!("bit {bit} flipped, deflate {deflate}"), &path, &bytes);
        }

        let patched = |at: usize, patch: &[u8]| {
            let mut bytes = good.bytes.clone();
            bytes[at..at + patch.len()].copy_from_slice(patch);
            bytes
        };
        let record = good.records[2];
        for (what, at, patch) in [
            ("signature of a record", record, &[0, 0, 0, 0][..]),
            ("encryption", record + 8, &[1, 0]),
            ("method bzip2", record + 10, &[12, 0]),
            ("method zstd", record + 10, &[93, 0]),
            ("method AES", record + 10, &[99, 0]),
            ("checksum", record + 16, &[1, 2, 3, 4]),
            ("compressed size 0", record + 20, &[0; 4]),
            ("compressed size 2^32 - 2", record + 20, &[254, 255, 255, 255]),
            ("compressed size in ZIP64", record + 20, &[255; 4]),
            ("size 0", record + 24, &[0; 4]),
            ("size 2^32 - 2", record + 24, &[254, 255, 255, 255]),
            ("size in ZIP64", record + 24, &[255; 4]),
            ("length of the name", record + 28, &[255, 255]),
            ("length of the extra field", record + 30, &[255, 255]),
            ("length of the comment", record + 32, &[255, 255]),
            ("offset of the header", record + 42, &[1, 0, 0, 0]),
            ("offset outside", record + 42, &[254, 255, 255, 255]),
            ("offset in ZIP64", record + 42, &[255; 4]),
            ("name k again", record + 46, b"k"),
            ("signature of the end", good.end, &[0; 4]),
            ("no entries", good.end + 10, &[0, 0]),
            ("too few entries", good.end + 10, &[2, 0]),
            ("too many entries", good.end + 10, &[254, 255]),
            ("entries in ZIP64", good.end + 10, &[255, 255]),
            ("directory at 0", good.end + 16, &[0; 4]),
            ("directory outside", good.end + 16, &[254, 255, 255, 255]),
            ("directory in ZIP64", good.end + 16, &[255; 4]),
        ] {
            tally.must_fail(&format!("{what}, deflate {deflate}"), &path, &patched(at, patch));
        }
        for offset in [0u64, 1 << 40, u64::MAX - 4, u64::MAX] {
            // a ZIP64 locator before the end record that leads nowhere
            let mut bytes = good.bytes[..good.end].to_vec();
            bytes.extend([b"PK\x06\x07\0\0\0\0", &offset.to_le_bytes()[..], &[1, 0, 0, 0]].concat());
            bytes.extend(&good.bytes[good.end..good.end + 8]);
            bytes.extend([255; 12]);
            bytes.extend([0, 0]);
            tally.must_fail(&format!("ZIP64 end at {offset}"), &path, &bytes);
        }
    }
    println!("npz: {} errors, {} still valid", tally.errors, tally.still_valid);
    assert!(tally.errors >= 100);
}

#[test]
fn zip_bombs_are_not_inflated() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.npz");
    let mut tally = Tally::default();
    // 256 MiB of zeros deflate to 256 KiB: honestly declared, declared as small, and with a header that wants less
    let zeros = vec![0u8; 256 << 20];
    for shape in ["(1, 2, 2, 33554432)", "(1, 2, 2, 4)"] {
        let bomb = zip(&with("q", npy("<f2", shape, &zeros)), true);
        let e = tally.load_bytes(shape, &path, &bomb.bytes).unwrap();
        assert!(e.to_string().contains("more than 64 times"), "{e}");
        let mut lying = bomb.bytes.clone();
        let record = *bomb.records.last().unwrap();
        lying[record + 24..record + 28].copy_from_slice(&160u32.to_le_bytes());
        tally.must_fail("declared small", &path, &lying);
    }
}
