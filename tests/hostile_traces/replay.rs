//! Traces that a replay could not hold: what waits in an engine is bounded.

use super::*;

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
