use super::delta::Delta;
use super::format::{SHOWN_CHARS, digits, shown, signed};
use super::*;

fn read(name: &str, text: &[u8]) -> Result<TextTable> {
    let mut bytes_left = MAX_INPUT_BYTES;
    TextTable::read(name, text, &mut bytes_left)
}

fn run_with(base: &str, others: &[&str], keys: &[&str], columns: &[&str]) -> Result<Comparison> {
    let owned = |names: &[&str]| names.iter().map(|n| n.to_string()).collect();
    let options = CompareOptions { keys: owned(keys), columns: owned(columns), unlike: false };
    let tables = others.iter().enumerate().map(|(i, text)| read(&format!("o{i}.csv"), text.as_bytes()));
    compare(read("b.csv", base.as_bytes())?, tables.collect::<Result<_>>()?, &options)
}

fn run(base: &str, other: &str) -> Comparison {
    run_with(base, &[other], &[], &[]).unwrap()
}

fn long_form(comparison: &Comparison) -> String {
    let mut out = vec![];
    comparison.write_csv(&mut out).unwrap();
    String::from_utf8(out).unwrap()
}

fn summary(comparison: &Comparison) -> String {
    let mut out = vec![];
    comparison.write_summary(&mut out).unwrap();
    String::from_utf8(out).unwrap()
}

fn message<T: std::fmt::Debug>(result: Result<T>, code: u8) -> String {
    let error = result.unwrap_err();
    let kind = match &error {
        Error::Check(_) => 1,
        Error::Usage(_) => 2,
        Error::Data { .. } => 65,
        Error::NoInput(_) => 66,
        other => panic!("{other}"),
    };
    assert_eq!(kind, code, "{error}");
    error.to_string()
}

#[test]
fn joins_by_known_keys_in_the_order_of_the_base() {
    let c = run("step,layer,cycles,energy\n1,0,100,2\n0,0,50,4\n", "energy,layer,step,cycles\n4,0,0,75\n1,0,1,110\n");
    let want = "step,layer,file,column,base,other,ratio,change_pct\n\
                1,0,o0.csv,cycles,100,110,1.1,10\n1,0,o0.csv,energy,2,1,0.5,-50\n\
                0,0,o0.csv,cycles,50,75,1.5,50\n0,0,o0.csv,energy,4,4,1,0\n";
    assert_eq!(long_form(&c), want);
}

#[test]
fn a_constant_key_that_differs_is_a_label() {
    let c = run("policy,step,x\nquest,0,1\nquest,1,1\n", "policy,step,x\nstarc,0,2\nstarc,1,3\n");
    assert!(long_form(&c).starts_with("step,file,"));
    assert!(summary(&c).contains("other: o0.csv (2 rows, 2 joined by step)\n  policy: quest -> starc\n"));
    message(c.check(99.0), 1);
    c.check(200.0).unwrap();
}

#[test]
fn a_key_that_varies_in_one_table_joins() {
    let c = run("policy,step,x\nquest,0,1\n", "policy,step,x\nquest,0,1\nstarc,0,2\n");
    assert_eq!(long_form(&c).lines().count(), 2);
    assert!(message(c.check(0.0), 1).contains("1 row only in o0.csv: policy=starc step=0 (line 3)"));
}

#[test]
fn single_rows_join_whatever_their_keys() {
    let c = run("trace,step,x\na,0,1\n", "trace,step,x\nb,7,1\n");
    assert_eq!(long_form(&c), "file,column,base,other,ratio,change_pct\no0.csv,x,1,1,1,0\n");
    run("x\n1\n", "x\n1\n").check(0.0).unwrap();
}

#[test]
fn named_keys_replace_the_known_ones_and_labels_stay_labels() {
    let (base, other) = ("trace,id,step,x\na,p,0,1\na,q,0,2\n", "trace,id,step,x\nb,q,0,2\nb,p,0,1\n");
    let c = run_with(base, &[other], &["id"], &[]).unwrap();
    c.check(0.0).unwrap();
    assert!(long_form(&c).starts_with("id,file,"));
    assert!(long_form(&c).contains("p,o0.csv,step,0,0,1,0\n"));
    assert!(summary(&c).contains("trace: a -> b"));
}

#[test]
fn named_columns_are_the_only_ones() {
    let (base, other) = ("step,x,y,z\n0,1,1,1\n1,1,1,1\n", "step,x,y\n0,1,5\n1,1,5\n");
    let c = run_with(base, &[other], &[], &["x"]).unwrap();
    c.check(0.0).unwrap();
    assert!(!long_form(&c).contains(",y,"));
    let c = run_with("step,layer\n0,1\n1,1\n", &["step,layer\n0,2\n1,2\n"], &[], &["layer"]).unwrap();
    assert!(long_form(&c).contains("0,o0.csv,layer,1,2,2,100\n"));
}

#[test]
fn unknown_or_contradictory_names_are_usage_errors() {
    let (base, other) = ("step,cycles\n0,1\n", "step,cycles\n0,1\n");
    let run = |keys: &[&str], columns: &[&str]| message(run_with(base, &[other], keys, columns), 2);
    assert_eq!(run(&["stp"], &[]), "--key: b.csv has no column \"stp\"; did you mean \"step\"?");
    assert!(run(&[], &["cycle"]).starts_with("--column: b.csv has no column \"cycle\""));
    assert!(run(&["step"], &["step"]).contains("both --key and --column"));
    message(run_with(base, &[], &[], &[]), 2);
    let only_base = run_with("step,cycles,z\n0,1,1\n", &[other], &[], &["z"]);
    assert!(message(only_base, 2).contains("o0.csv has no column \"z\""));
}

#[test]
fn equal_keys_in_one_file_are_an_error_with_both_lines() {
    let (good, twice) = ("step,x\n0,1\n1,1\n", "step,x\n0,1\n1,1\n0,2\n0,3\n");
    let want = "same key as line 2: step=0 (line 4)";
    assert!(message(run_with(good, &[twice], &[], &[]), 65).starts_with(&format!("o0.csv:4: {want}")));
    assert!(message(run_with(twice, &[good], &[], &[]), 65).starts_with(&format!("b.csv:4: {want}")));
}

#[test]
fn tables_of_many_rows_need_a_key() {
    let error = run_with("id,x\n0,1\n1,1\n", &["id,x\n0,1\n1,1\n"], &[], &[]);
    assert!(message(error, 2).contains("with --key (b.csv has id, x)"));
}

#[test]
fn unknown_cells_are_skipped_and_counted() {
    let c = run("step,x\n0,\n1,4\n2,5\n", "step,x\n0,3\n1,\n2,5\n");
    c.check(0.0).unwrap();
    assert_eq!(long_form(&c).lines().count(), 2);
    let text = summary(&c);
    let x: Vec<_> = text.lines().last().unwrap().split_whitespace().collect();
    assert_eq!(x, ["x", "1", "0", "2", "1", "0", "0", "0"]);
}

#[test]
fn a_check_of_nothing_fails() {
    assert!(message(run("step,x\n0,\n", "step,x\n0,1\n").check(5.0), 1).contains("no cell is known in both"));
    message(run("step,x\n", "step,x\n").check(5.0), 1);
}

#[test]
fn a_zero_base_has_a_ratio_only_to_zero() {
    let c = run("step,x\n0,0\n1,0.0\n", "step,x\n0,0\n1,3\n");
    assert!(long_form(&c).ends_with("0,o0.csv,x,0,0,1,0\n1,o0.csv,x,0.0,3,,\n"));
    assert!(message(c.check(1e300), 1).contains("1 of 2 cells beyond"));
}

#[test]
fn odd_numbers() {
    let delta = |b, o| Delta::of_numbers(b, o);
    assert_eq!(delta("-2", "-1"), Delta { same: false, ratio: Some(0.5), change_pct: Some(50.0) });
    assert!(delta("nan", "NaN").same && delta("inf", "inf").same && !delta("1", "nan").same);
    assert!(delta("1", "inf").is_beyond(1e300) && !delta("nan", "nan").is_beyond(0.0));
    assert!(delta("5e-324", "1e300").is_beyond(1e300));
    assert!(delta("9007199254740992", "9007199254740993").is_beyond(0.0));
    assert!(!delta("1.0", "1.00").is_beyond(0.0));
}

#[test]
fn the_tolerance_is_inclusive() {
    assert!(!Delta::of_numbers("1.0", "1.1").is_beyond(10.0));
    assert!(!Delta::of_numbers("100", "99").is_beyond(1.0));
    assert!(Delta::of_numbers("100", "98.9").is_beyond(1.0));
}

#[test]
fn texts_that_differ_are_beyond_every_tolerance() {
    let c = run("step,kind,unit\n0,a,s\n1,7,s\n", "step,kind,unit\n0,a,s\n1,8,s\n");
    assert_eq!(long_form(&c).lines().skip(1).collect::<Vec<_>>(), ["1,o0.csv,kind,7,8,,"]);
    assert!(message(c.check(1e9), 1).contains("step=1 (line 3): kind 7 -> 8"));
    assert!(summary(&c).contains("kind (text)") && !summary(&c).contains("unit"));
}

#[test]
fn rows_and_columns_in_one_file_fail_the_check() {
    let c = run("step,x,y\n0,1,1\n1,1,1\n2,1,1\n", "step,x,z\n0,1,1\n2,1,1\n5,1,1\n");
    let text = message(c.check(0.0), 1);
    for want in ["b.csv: step=1 (line 3)", "o0.csv: step=5 (line 4)", "only in b.csv: y", "only in o0.csv: z"] {
        assert!(text.contains(want) && summary(&c).contains(want), "{want}");
    }
}

#[test]
fn the_check_names_the_first_cells_and_counts_all() {
    let table = |x: u32| (0..8).fold("step,x\n".to_string(), |text, step| text + &format!("{step},{x}\n"));
    let text = message(run(&table(100), &table(105)).check(1.5), 1);
    assert!(text.starts_with("o0.csv against b.csv: 8 of 8 cells beyond 1.5 %\n"));
    assert!(text.contains("\n  step=0 (line 2): x 100 -> 105 (+5 %)\n") && text.ends_with("\n  and 3 more"));
}

#[test]
fn the_tolerance_is_a_percentage() {
    let c = run("step,x\n0,1\n", "step,x\n0,1\n");
    for bad in [-1.0, f64::NAN, f64::INFINITY] {
        message(c.check(bad), 2);
    }
}

#[test]
fn several_others_share_one_long_form() {
    let base = "policy,step,x\nq,0,1\nq,1,1\n";
    let others = ["policy,step,x\ns,0,2\ns,1,2\n", "policy,step,x\nq,1,3\n"];
    let text = long_form(&run_with(base, &others, &[], &[]).unwrap());
    assert!(text.starts_with("policy,step,file,"));
    assert!(text.ends_with("q,1,o0.csv,x,1,2,2,100\nq,1,o1.csv,x,1,3,3,200\n"));
}

#[test]
fn a_key_may_be_called_like_a_column_of_the_long_form() {
    let c = run_with("file,x\na,1\nb,1\n", &["file,x\na,1\nb,1\n"], &["file"], &[]).unwrap();
    assert!(long_form(&c).starts_with("key_file,file,column,"));
}

#[test]
fn the_summary_is_aligned() {
    let c = run("step,cycles\n0,100\n1,300\n", "step,cycles\n0,150\n1,150\n");
    let want = "base: b.csv (2 rows)\n\nother: o0.csv (2 rows, 2 joined by step)\n  \
        column  rows  differ  unknown  ratio of sums  mean %  min %  max %\n  \
        cycles     2       2        0           0.75       0    -50    +50\n";
    assert_eq!(summary(&c), want);
}

#[test]
fn damaged_files_are_named_with_the_line() {
    let cases: [(&[u8], &str); 9] = [
        (b"", "b.csv:1: empty"),
        (b"\n\n", "b.csv:1: empty"),
        (b"1,2\n3,4\n", "b.csv:1: no header"),
        (b"a,b,a\n", "b.csv:1: two columns are called \"a\""),
        (b"a,b\n1,2\n3\n", "b.csv:3: 1 cell here, but 2 in the header"),
        (b"a,b\r\n1,2\r\n\r\n3,4,5\r\n", "b.csv:4: 3 cells here"),
        (b"a,b\n1,\xff\n", "b.csv:2: not UTF-8"),
        (b"a,b\n1,\0\n", "b.csv:2: not CSV: a zero byte"),
        (b"a,b\n1,2\n1,\"2\n3,4\n", "b.csv:3: not CSV: a quote"),
    ];
    for (text, want) in cases {
        let error = message(read("b.csv", text), 65);
        assert!(error.starts_with(want), "{error}");
    }
}

#[test]
fn accepts_quotes_blanks_and_a_byte_order_mark() {
    let table = read("b.csv", b"\xef\xbb\xbf\"a\", b\n\"x \"\"y\"\",\n z\",1 \n5\",\"\"").unwrap();
    assert_eq!(table.header, ["a", "b"]);
    assert_eq!([table.cell(0, 0), table.cell(0, 1), table.cell(1, 0)], ["x \"y\",\n z", "1", "5\""]);
    assert_eq!(table.lines, [2, 4]);
}

#[test]
fn missing_and_too_large_files() {
    let path = tempfile::tempdir().unwrap().path().join("none.csv");
    message(compare_files(&path, &[], &CompareOptions::default()), 66);
    assert!(message(TextTable::read("b.csv", &b"a,b\n"[..], &mut 3), 65).contains("too large"));
    let mut left = 10;
    TextTable::read("b.csv", &b"a,b\n"[..], &mut left).unwrap();
    assert_eq!(left, 6);
}

#[test]
fn numbers_have_six_digits() {
    let cases = [
        (1.0, "1"),
        (-0.0, "0"),
        (2.0 / 3.0, "0.666667"),
        (123456.7, "123457"),
        (-12.5, "-12.5"),
        (100.0, "100"),
        (1.5e12, "1.5e12"),
        (1e-9, "1e-9"),
    ];
    for (x, want) in cases {
        assert_eq!(digits(Some(x)), want);
    }
    assert_eq!([signed(Some(2.0)), signed(Some(-2.0)), digits(None)], ["+2", "-2", ""]);
}

#[test]
fn control_characters_and_long_texts_are_tamed() {
    assert_eq!(shown("a\x1b[2J"), "a\\u{1b}[2J");
    assert_eq!(shown(&"x".repeat(100)).chars().count(), SHOWN_CHARS + 1);
}
