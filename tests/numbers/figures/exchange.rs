//! docs/exchange.md.

use super::{Trace, table, whole};
use crate::common::{Shared, system};
use pimattn_trace::{self as trace, ExportOptions, Manifest};
use rayon::prelude::*;

/// Formats without multiply-accumulates, whose programs say how many requests they took.
const PLAIN: [&str; 3] = ["ramulator-ls", "ramulator-rw", "dramsim3"];

/// `tracegen convert`.
fn convert(trace: &Trace, format: &str) -> (Vec<u8>, Manifest) {
    let out = Shared::default();
    let format = trace::format(format).unwrap();
    let mut sink = (format.create)(Box::new(out.clone()), &trace.header, ExportOptions::default()).unwrap();
    trace.records.iter().try_for_each(|r| sink.push(*r)).unwrap();
    sink.finish().unwrap();
    let manifest = sink.manifest().unwrap();
    drop(sink);
    let bytes = std::mem::take(&mut *out.0.lock().unwrap());
    (bytes, manifest)
}

/// Counts of the manifests, and cycles of AttAcc's text on AttAcc's controller.
pub(super) fn exports(_: &str) -> String {
    let rows = [("bc", "broadcast"), ("bg", "bank-group")].par_iter().map(|(short, addressing)| {
        let addressing = format!("mapping.addressing={addressing}");
        let trace = Trace::generate("demo", &["policy=starc", "steps=2", "append_cost=free", &addressing]);
        let (text, attacc) = convert(&trace, "attacc");
        let compat = system("attacc-compat", &[]);
        let input = Box::new(std::io::Cursor::new(text));
        let mut source = trace::open(input, "trace", Some(compat.addressing())).unwrap();
        let cycles = pimattn_engine::run(&compat, source.as_mut(), &mut (), &mut |_| {}).unwrap();
        let barriers = attacc.operations.iter().filter(|o| ["PIM_BARRIER", "PIM_SYNC"].contains(&o.operation));
        let barriers: u64 = barriers.map(|o| o.written).sum();
        let plain: Vec<(u64, u64)> =
            PLAIN.iter().map(|format| convert(&trace, format).1).map(|m| (m.requests, m.reads)).collect();
        assert!(plain.iter().all(|p| *p == plain[0]), "the page has one row for {PLAIN:?}: {plain:?}");
        [
            vec![
                format!("{short}, attacc"),
                whole(attacc.requests),
                whole(attacc.requests - barriers),
                "-".into(),
                whole(cycles),
            ],
            vec![
                format!("{short}, {}", PLAIN.join(", ")),
                whole(plain[0].0),
                "-".into(),
                whole(plain[0].1),
                "-".into(),
            ],
        ]
    });
    let rows: Vec<[Vec<String>; 2]> = rows.collect();
    let head = ["trace, format", "requests in the manifest", "without barriers", "reads", "cycles, attacc-compat.toml"];
    table(&head, &[false, true, true, true, true], rows.into_iter().flatten())
}
