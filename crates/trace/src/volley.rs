//! Volleys: the same request to neighbouring channels in turn, again and again.
//!
//! All-bank schedules ask every channel for the same, one channel after the other, column by column. Written request by
//! request such a trace is long; as volleys it is short, and what reads it sees at once that channels are asked for the
//! same.

use super::{Arrival, Mark, Op, Record, Request, Segment};
use pimattn_core::addr::Geometry;
use std::ops::Range;

/// `count` rounds of the same operation: round i asks channels `channel, channel + 1, ...`, `channels` of them, one
/// after the other, for address `request.addr + i * request.stride`, which is that of the first channel. With one
/// channel it is the run that `request` is by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub struct Volley {
    /// What the first of the channels is asked for.
    pub request: Request,
    /// Channels; at least 1.
    pub channels: u32,
}

impl Volley {
    /// Requests in it.
    pub fn requests(&self) -> u64 {
        u64::from(self.request.count) * u64::from(self.channels)
    }

    /// The channels that it is for.
    pub fn channels_on(&self, geometry: &Geometry) -> Range<u32> {
        let first = geometry.channel_of(self.request.addr);
        first..first + self.channels
    }

    /// The run that it would be for one channel.
    pub fn to_channel(&self, geometry: &Geometry, channel: u32) -> Request {
        let own = self.request.addr & (geometry.channel_base(1) - 1);
        Request { addr: geometry.channel_base(channel) | own, ..self.request }
    }
}

/// One item of a trace in which requests are put together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Item {
    /// Work.
    Volley(Volley),
    /// Whose work follows.
    Segment(Segment),
    /// What it is for.
    Mark(Mark),
    /// When it arrives.
    Arrival(Arrival),
}

impl From<Record> for Item {
    fn from(record: Record) -> Self {
        match record {
            Record::Request(request) => Item::Volley(Volley { request, channels: 1 }),
            Record::Segment(s) => Item::Segment(s),
            Record::Mark(m) => Item::Mark(m),
            Record::Arrival(a) => Item::Arrival(a),
        }
    }
}

/// Puts the requests of a trace together; nothing changes their order.
#[derive(Debug, Default)]
pub struct Packer {
    /// What further requests may join.
    open: Option<Volley>,
    /// Channels that have had the round behind those of `open`, and its stride.
    begun: u32,
    stride: u32,
}

impl Packer {
    /// Takes a record; what is complete goes to `out`.
    pub fn push(&mut self, record: Record, geometry: &Geometry, mut out: impl FnMut(Item)) {
        let Record::Request(next) = record else {
            self.flush(geometry, &mut out);
            return out(record.into());
        };
        if !self.joins(&next, geometry) {
            self.flush(geometry, &mut out);
            self.open = Some(Volley { request: next, channels: 1 });
            self.stride = next.stride;
        }
    }

    /// The same with what may be put together already.
    #[inline]
    pub fn push_item(&mut self, item: Item, geometry: &Geometry, mut out: impl FnMut(Item)) {
        match item {
            Item::Volley(Volley { request, channels: 1 }) => self.push(Record::Request(request), geometry, out),
            other => {
                self.flush(geometry, &mut out);
                out(other);
            }
        }
    }

    /// What is still open goes to `out`.
    pub fn flush(&mut self, geometry: &Geometry, mut out: impl FnMut(Item)) {
        let Some(open) = self.open.take() else { return };
        out(Item::Volley(open));
        if self.begun > 0 {
            let addr = open.request.addr + u64::from(open.request.count) * u64::from(self.stride);
            debug_assert!(geometry.same_row(addr, open.request.addr));
            let request = Request { addr, count: 1, stride: 0, ..open.request };
            out(Item::Volley(Volley { request, channels: self.begun }));
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
        // The first round grows over the channels.
        let grows = first.count == 1 && first.stride == 0 && self.begun == 0;
        if grows && next.addr == first.addr + u64::from(open.channels) * channel_bytes {
            open.channels += 1;
            return true;
        }
        // Runs in one channel stay as they came, so that what is taken apart again is what was put together.
        if open.channels == 1 {
            return false;
        }
        let Some(step) = next.addr.checked_sub(first.addr) else { return false };
        let (rounds, behind) = (u64::from(first.count), u64::from(self.begun) * channel_bytes);
        let Some(step) = step.checked_sub(behind) else { return false };
        // The stride is that between the first two rounds.
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

/// Takes items apart into records again.
#[derive(Debug, Default)]
pub struct Unpacker {
    volley: Option<Volley>,
    round: u32,
    channel: u32,
}

impl Unpacker {
    /// Whether [`Unpacker::next`] has something.
    pub fn has_more(&self) -> bool {
        self.volley.is_some()
    }

    /// Gives up what is left, as volleys: that of the round begun, and the rounds behind it.
    pub fn rest(&mut self, geometry: &Geometry) -> [Option<Volley>; 2] {
        let Some(v) = self.volley.take() else { return [None; 2] };
        let rounds = |from: u32, channel: u32, rounds: u32, channels: u32| {
            let addr = v.request.addr + u64::from(from) * u64::from(v.request.stride) + geometry.channel_base(channel);
            (rounds > 0).then_some(Volley { request: Request { addr, count: rounds, ..v.request }, channels })
        };
        match self.channel {
            0 => [rounds(self.round, 0, v.request.count - self.round, v.channels), None],
            begun => [
                rounds(self.round, begun, 1, v.channels - begun),
                rounds(self.round + 1, 0, v.request.count - self.round - 1, v.channels),
            ],
        }
    }

    /// Begins with an item; the one before must be over.
    pub fn begin(&mut self, item: Item) -> Option<Record> {
        match item {
            Item::Segment(s) => Some(Record::Segment(s)),
            Item::Mark(m) => Some(Record::Mark(m)),
            Item::Arrival(a) => Some(Record::Arrival(a)),
            Item::Volley(Volley { request, channels: 1 }) => Some(Record::Request(request)),
            Item::Volley(v) => {
                *self = Unpacker { volley: Some(v), round: 0, channel: 0 };
                None
            }
        }
    }

    /// The next request of the volley begun with.
    #[inline]
    pub fn next(&mut self, geometry: &Geometry) -> Option<Record> {
        let v = self.volley?;
        let base = v.request.addr + u64::from(self.round) * u64::from(v.request.stride);
        let addr = base + geometry.channel_base(self.channel);
        self.channel += 1;
        if self.channel == v.channels {
            (self.channel, self.round) = (0, self.round + 1);
            if self.round == v.request.count {
                self.volley = None;
            }
        }
        Some(Record::Request(Request::one(v.request.op, addr)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check_volley;

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

    fn packed(records: &[Record]) -> Vec<Item> {
        let (mut packer, mut out) = (Packer::default(), Vec::new());
        records.iter().for_each(|r| packer.push(*r, &DEVICE, |i| out.push(i)));
        packer.flush(&DEVICE, |i| out.push(i));
        out
    }

    fn unpacked(items: &[Item]) -> Vec<Record> {
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
    fn rounds_over_channels_become_one_volley_and_come_apart_again() {
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
        let volleys: Vec<_> =
            items.iter().filter_map(|i| if let Item::Volley(v) = i { Some(*v) } else { None }).collect();
        assert_eq!(volleys[0].channels, 16);
        assert_eq!((volleys[0].request.count, volleys[0].request.stride), (32, 32));
        // Barriers are no runs; the write to the buffers joins that before it, as it is the same again.
        let shapes: Vec<_> = volleys[1..].iter().map(|v| (v.request.op, v.request.count, v.channels)).collect();
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
    fn volleys_that_mean_nothing_are_refused() {
        let refusal = |op, channel: u64, channels, count| {
            let request = Request { op, addr: channel << 30, count, stride: 32 };
            check_volley(&Volley { request, channels }, &DEVICE).unwrap_err()
        };
        assert_eq!(refusal(Op::MacAb, 0, 0, 1), "a volley to no channel");
        assert_eq!(refusal(Op::MacAb, 3, 14, 1), "channels 3 to 16 do not exist (16 channels)");
        assert_eq!(refusal(Op::MacAb, 0, u32::MAX, 1), "channels 0 to 4294967294 do not exist (16 channels)");
        assert_eq!(refusal(Op::MacAb, 0, 2, 0), "a run of no requests");
        assert_eq!(refusal(Op::MacAb, 0, 2, 33), "a run of PIM_MAC_AB leaves its row");
        assert_eq!(refusal(Op::Sync, 0, 2, 1), "PIM_SYNC is not for several channels");
        assert!(check_volley(&Volley { request: Request::one(Op::Barrier, 3 << 30), channels: 13 }, &DEVICE).is_ok());
    }
}
