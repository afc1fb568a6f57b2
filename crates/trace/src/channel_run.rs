//! Runs over channels: the same run of requests to several neighbouring channels.
//!
//! All-bank schedules ask every channel for the same, one channel after the other, column by column. Request by request such
//! a trace is long; packed into [`ChannelRun`]s it is short, and its reader sees at once that channels are asked for the
//! same. Packing changes neither the order of requests nor anything else of a trace: [`Packer`] puts together, [`Unpacker`]
//! takes apart.

use super::{Arrival, Mark, Op, Record, Request, Segment};
use pimattn_core::addr::Geometry;
use std::ops::Range;

/// A run of requests that neighbouring channels have in common. It consists of `request.count` rounds: round i asks channels
/// c, c + 1, ..., `channels` of them, one after the other, for address `request.addr + i * request.stride`, where c is the
/// channel of `request.addr`. With one channel it is the run `request`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub struct ChannelRun {
    /// The run of the first of the channels.
    pub request: Request,
    /// How many channels have it; at least 1.
    pub channels: u32,
}

impl ChannelRun {
    /// Requests of all channels.
    pub fn requests(&self) -> u64 {
        u64::from(self.request.count) * u64::from(self.channels)
    }

    /// The channels that have it.
    pub fn channels_on(&self, geometry: &Geometry) -> Range<u32> {
        let first = geometry.channel_of(self.request.addr);
        first..first + self.channels
    }

    /// The run of one of the channels, or of any other in its place.
    pub fn to_channel(&self, geometry: &Geometry, channel: u32) -> Request {
        let own = self.request.addr & (geometry.channel_base(1) - 1);
        Request { addr: geometry.channel_base(channel) | own, ..self.request }
    }
}

/// A record of a trace whose requests are packed into runs over channels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PackedRecord {
    /// Requests.
    Run(ChannelRun),
    /// Whose work the requests behind it are.
    Segment(Segment),
    /// Which phase the requests behind it are for.
    Mark(Mark),
    /// When the requests behind it arrive.
    Arrival(Arrival),
}

impl From<Record> for PackedRecord {
    fn from(record: Record) -> Self {
        match record {
            Record::Request(request) => PackedRecord::Run(ChannelRun { request, channels: 1 }),
            Record::Segment(s) => PackedRecord::Segment(s),
            Record::Mark(m) => PackedRecord::Mark(m),
            Record::Arrival(a) => PackedRecord::Arrival(a),
        }
    }
}

/// Packs the requests of a trace into runs over channels, in their order.
#[derive(Debug, Default)]
pub struct Packer {
    /// The run that the next request may join.
    open: Option<ChannelRun>,
    /// How many channels have had the round after those counted in `open`, and the stride of rounds.
    begun: u32,
    stride: u32,
}

impl Packer {
    /// Takes a record. Whatever cannot grow any more goes to `out`.
    pub fn push(&mut self, record: Record, geometry: &Geometry, mut out: impl FnMut(PackedRecord)) {
        let Record::Request(next) = record else {
            self.flush(geometry, &mut out);
            return out(record.into());
        };
        if !self.joins(&next, geometry) {
            self.flush(geometry, &mut out);
            self.open = Some(ChannelRun { request: next, channels: 1 });
            self.stride = next.stride;
        }
    }

    /// Takes a record that may be packed already, as [`Packer::push`] does.
    #[inline]
    pub fn push_item(&mut self, item: PackedRecord, geometry: &Geometry, mut out: impl FnMut(PackedRecord)) {
        match item {
            PackedRecord::Run(ChannelRun { request, channels: 1 }) => {
                self.push(Record::Request(request), geometry, out)
            }
            other => {
                self.flush(geometry, &mut out);
                out(other);
            }
        }
    }

    /// Sends the open run to `out`, and the round that it had begun as a run of its own.
    pub fn flush(&mut self, geometry: &Geometry, mut out: impl FnMut(PackedRecord)) {
        let Some(open) = self.open.take() else { return };
        out(PackedRecord::Run(open));
        if self.begun > 0 {
            let addr = open.request.addr + u64::from(open.request.count) * u64::from(self.stride);
            debug_assert!(geometry.same_row(addr, open.request.addr));
            let request = Request { addr, count: 1, stride: 0, ..open.request };
            out(PackedRecord::Run(ChannelRun { request, channels: self.begun }));
            self.begun = 0;
        }
    }

    #[inline]
    fn joins(&mut self, next: &Request, geometry: &Geometry) -> bool {
        let Some(open) = &mut self.open else { return false };
        let first = &mut open.request;
        let single = next.count == 1 && next.stride == 0;
        if first.op != next.op || !single || matches!(next.op, Op::Sync | Op::Host) {
            return false;
        }
        let channel_bytes = geometry.channel_base(1);
        // The first round grows channel by channel.
        let grows = first.count == 1 && first.stride == 0 && self.begun == 0;
        if grows && next.addr == first.addr + u64::from(open.channels) * channel_bytes {
            open.channels += 1;
            return true;
        }
        // A run of one channel stays as it came, so that unpacking gives back what was packed.
        if open.channels == 1 {
            return false;
        }
        let Some(step) = next.addr.checked_sub(first.addr) else { return false };
        let (rounds, behind) = (u64::from(first.count), u64::from(self.begun) * channel_bytes);
        let Some(step) = step.checked_sub(behind) else { return false };
        // The first two rounds give the stride.
        let stride = if rounds == 1 && self.begun == 0 { step } else { u64::from(self.stride) };
        let fits = !next.op.is_mark()
            && step == rounds * stride
            && u32::try_from(stride).is_ok()
            && first.count < u32::MAX
            && geometry.same_row(first.addr, next.addr - behind);
        if !fits {
            return false;
        }
        self.stride = stride as u32;
        self.begun += 1;
        if self.begun == open.channels {
            first.count += 1;
            first.stride = self.stride;
            self.begun = 0;
        }
        true
    }
}

/// Unpacks runs over channels into single requests again.
#[derive(Debug, Default)]
pub struct Unpacker {
    /// The run that is being unpacked, its current round, and the channel (from its first) that is next.
    run: Option<ChannelRun>,
    round: u32,
    channel: u32,
}

impl Unpacker {
    /// Gives up what is left of the run, packed: the rest of the round begun, and the rounds after it.
    pub fn rest(&mut self, geometry: &Geometry) -> [Option<ChannelRun>; 2] {
        let Some(v) = self.run.take() else { return [None; 2] };
        let rounds = |from: u32, channel: u32, rounds: u32, channels: u32| {
            let addr = v.request.addr + u64::from(from) * u64::from(v.request.stride) + geometry.channel_base(channel);
            (rounds > 0).then_some(ChannelRun { request: Request { addr, count: rounds, ..v.request }, channels })
        };
        match self.channel {
            0 => [rounds(self.round, 0, v.request.count - self.round, v.channels), None],
            begun => [
                rounds(self.round, begun, 1, v.channels - begun),
                rounds(self.round + 1, 0, v.request.count - self.round - 1, v.channels),
            ],
        }
    }

    /// Begins with a packed record, once the one before is over. Returns it, if it needs no unpacking.
    pub fn begin(&mut self, item: PackedRecord) -> Option<Record> {
        match item {
            PackedRecord::Segment(s) => Some(Record::Segment(s)),
            PackedRecord::Mark(m) => Some(Record::Mark(m)),
            PackedRecord::Arrival(a) => Some(Record::Arrival(a)),
            PackedRecord::Run(ChannelRun { request, channels: 1 }) => Some(Record::Request(request)),
            PackedRecord::Run(v) => {
                *self = Unpacker { run: Some(v), round: 0, channel: 0 };
                None
            }
        }
    }

    /// The next request of the run that was begun.
    #[inline]
    pub fn next(&mut self, geometry: &Geometry) -> Option<Record> {
        let v = self.run?;
        let base = v.request.addr + u64::from(self.round) * u64::from(v.request.stride);
        let addr = base + geometry.channel_base(self.channel);
        self.channel += 1;
        if self.channel == v.channels {
            (self.channel, self.round) = (0, self.round + 1);
            if self.round == v.request.count {
                self.run = None;
            }
        }
        Some(Record::Request(Request::one(v.request.op, addr)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check_channel_run;

    const DEVICE: Geometry = Geometry {
        channels: 16,
        pseudo_channels: 2,
        ranks: 2,
        bank_groups: 4,
        banks: 4,
        rows: 1 << 14,
        columns: 32,
        column_bytes: 32,
    };

    fn packed(records: &[Record]) -> Vec<PackedRecord> {
        let (mut packer, mut out) = (Packer::default(), Vec::new());
        records.iter().for_each(|r| packer.push(*r, &DEVICE, |i| out.push(i)));
        packer.flush(&DEVICE, |i| out.push(i));
        out
    }

    fn unpacked(items: &[PackedRecord]) -> Vec<Record> {
        let (mut unpacker, mut out) = (Unpacker::default(), Vec::new());
        for item in items {
            out.extend(unpacker.begin(*item));
            out.extend(std::iter::from_fn(|| unpacker.next(&DEVICE)));
        }
        out
    }

    fn singly(records: &[Record]) -> Vec<Record> {
        let each = |r: &Record| match r {
            Record::Request(r) if r.op != Op::Host => (0..u64::from(r.count))
                .map(|i| Record::Request(Request::one(r.op, r.addr + i * u64::from(r.stride))))
                .collect(),
            other => vec![*other],
        };
        records.iter().flat_map(each).collect()
    }

    #[test]
    fn rounds_over_channels_become_one_run_and_come_apart_again() {
        let round = |op, column: u64, channels: std::ops::Range<u64>| {
            channels.map(move |c| Record::Request(Request::one(op, (c << 30) + column * 32)))
        };
        let mut records: Vec<Record> = (0..32).flat_map(|column| round(Op::MacAb, column, 0..16)).collect();
        records.extend(round(Op::Barrier, 0, 0..16));
        records.extend(round(Op::Barrier, 0, 0..16));
        records.extend(round(Op::WrGb, 0, 0..16));
        records.extend(round(Op::WrGb, 1, 0..5));
        records.extend(round(Op::WrGb, 1, 5..16));
        records.extend((0..2).flat_map(|column| round(Op::MacAb, column, 3..4)));
        records.push(Record::Request(Request { op: Op::Host, addr: 0, count: 9, stride: 0 }));
        let items = packed(&records);
        let runs: Vec<_> =
            items.iter().filter_map(|i| if let PackedRecord::Run(v) = i { Some(*v) } else { None }).collect();
        assert_eq!(runs[0].channels, 16);
        assert_eq!((runs[0].request.count, runs[0].request.stride), (32, 32));
        // Barriers are no runs; the write to the buffers joins that before it, as it is the same again.
        let shapes: Vec<_> = runs[1..].iter().map(|v| (v.request.op, v.request.count, v.channels)).collect();
        let expected = [
            (Op::Barrier, 1, 16),
            (Op::Barrier, 1, 16),
            (Op::WrGb, 2, 16),
            (Op::MacAb, 1, 1),
            (Op::MacAb, 1, 1),
            (Op::Host, 9, 1),
        ];
        assert_eq!(shapes, expected);
        assert_eq!(singly(&unpacked(&items)), singly(&records));
    }

    #[test]
    fn a_round_that_is_cut_short_stands_alone() {
        let at = |column: u64, channel: u64| Record::Request(Request::one(Op::MacAb, (channel << 30) + column * 32));
        let mut records: Vec<Record> = (0..3).flat_map(|column| (0..4).map(move |c| at(column, c))).collect();
        records.extend([at(3, 0), at(3, 1), at(9, 2), at(2, 0)]);
        let items = packed(&records);
        assert_eq!(items.len(), 4);
        assert_eq!(singly(&unpacked(&items)), records);
    }

    #[test]
    fn runs_that_mean_nothing_are_refused() {
        let refusal = |op, channel: u64, channels, count| {
            let request = Request { op, addr: channel << 30, count, stride: 32 };
            check_channel_run(&ChannelRun { request, channels }, &DEVICE).unwrap_err()
        };
        assert_eq!(refusal(Op::MacAb, 0, 0, 1), "a run to no channel");
        assert_eq!(refusal(Op::MacAb, 3, 14, 1), "channels 3 to 16 do not exist (16 channels)");
        assert_eq!(refusal(Op::MacAb, 0, u32::MAX, 1), "channels 0 to 4294967294 do not exist (16 channels)");
        assert_eq!(refusal(Op::MacAb, 0, 2, 0), "a run of no requests");
        assert_eq!(refusal(Op::MacAb, 0, 2, 33), "a run of PIM_MAC_AB leaves its row");
        assert_eq!(refusal(Op::Sync, 0, 2, 1), "PIM_SYNC is not for several channels");
        assert!(
            check_channel_run(&ChannelRun { request: Request::one(Op::Barrier, 3 << 30), channels: 13 }, &DEVICE)
                .is_ok()
        );
    }
}
