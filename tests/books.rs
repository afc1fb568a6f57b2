//! The books of runs, by hand: what a table says is what was done, once, and in its unit.

use crate::common::{macs, one, run, system};
use pimattn::addr::{Address, Geometry};
use pimattn::op::Op;
use pimattn::spec::System;
use pimattn::stats::Collector;
use pimattn::stats::tables::{MEASURES, Rows};
use pimattn::trace::Request;

/// A measure of a run, as its cell says it.
fn cell(system: &System, collector: &Collector, column: &str) -> String {
    let row = Rows::new(system, "t").run(collector);
    let at = row.len() - MEASURES.len() + MEASURES.iter().position(|c| c.name == column).unwrap();
    row[at].to_string()
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
