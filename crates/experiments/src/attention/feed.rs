//! Schedules as the engine reads them.

use pimattn_attacc::AttentionSchedule;
use pimattn_core::addr::Geometry;
use pimattn_core::cancel::Cancel;
use pimattn_core::error::{Error, Result};
use pimattn_trace::{Header, Record, Sink, Source};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

/// Records of a block.
const BLOCK: usize = 4096;
/// Blocks that wait at most.
const WAITING: usize = 4;

/// Runs `schedule` on a thread of its own while `replay` reads it, a few blocks behind, so that a long trace is never
/// in memory as a whole.
pub fn streamed<T>(
    cancel: &Cancel,
    schedule: &AttentionSchedule,
    replay: impl FnOnce(&mut dyn Source) -> Result<T>,
) -> Result<T> {
    let (blocks, source) = sync_channel(WAITING);
    std::thread::scope(|scope| {
        let written = scope.spawn(move || {
            let mut sink = BlockSender { blocks, block: Vec::with_capacity(BLOCK) };
            schedule.run_until(cancel, &mut sink, &mut |_| {})
        });
        // Dropped when it returns, so that a writer whose reader has failed stops.
        let mut source = Stream { header: header(schedule), blocks: source };
        let replayed = replay(&mut source);
        drop(source);
        let written = written.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        // What made the reader fail comes before what the writer makes of it.
        let replayed = replayed?;
        written.map(|()| replayed)
    })
}

/// A schedule's header without the width of its elements: a platform has one device for all widths, and what is asked of it
/// here are the cycles of its commands, as the published simulators have them.
fn header(schedule: &AttentionSchedule) -> Header {
    Header { element_bytes: 0, ..schedule.header() }
}

struct BlockSender {
    blocks: SyncSender<Vec<Record>>,
    block: Vec<Record>,
}

impl BlockSender {
    fn send(&mut self) -> Result<()> {
        let block = std::mem::replace(&mut self.block, Vec::with_capacity(BLOCK));
        self.blocks.send(block).map_err(|_| Error::data("trace", "its reader has stopped"))
    }
}

impl Sink for BlockSender {
    fn push(&mut self, record: Record) -> Result<()> {
        self.block.push(record);
        if self.block.len() == BLOCK { self.send() } else { Ok(()) }
    }

    fn finish(&mut self) -> Result<()> {
        if self.block.is_empty() { Ok(()) } else { self.send() }
    }
}

struct Stream {
    header: Header,
    blocks: Receiver<Vec<Record>>,
}

impl Source for Stream {
    fn header(&self) -> &Header {
        &self.header
    }

    fn next_block(&mut self, out: &mut Vec<Record>) -> Result<bool> {
        out.clear();
        if let Ok(block) = self.blocks.recv() {
            *out = block;
        }
        Ok(!out.is_empty())
    }
}

/// The records of some channels, in memory.
pub struct SomeChannels {
    header: Header,
    geometry: Geometry,
    channels: Vec<u32>,
    records: Vec<Record>,
}

impl SomeChannels {
    /// What `schedule` asks of these channels, in its order.
    pub fn of(cancel: &Cancel, schedule: &AttentionSchedule, channels: Vec<u32>) -> Result<Self> {
        let header = header(schedule);
        let mut out = SomeChannels { geometry: header.geometry, header, channels, records: Vec::new() };
        schedule.run_until(cancel, &mut out, &mut |_| {})?;
        Ok(out)
    }
}

impl Sink for SomeChannels {
    fn push(&mut self, record: Record) -> Result<()> {
        let here = match &record {
            Record::Request(r) => self.channels.contains(&self.geometry.channel_of(r.addr)),
            Record::Segment(_) | Record::Mark(_) | Record::Arrival(_) => false,
        };
        if here {
            self.records.push(record);
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<()> {
        Ok(())
    }
}

impl Source for SomeChannels {
    fn header(&self) -> &Header {
        &self.header
    }

    fn next_block(&mut self, out: &mut Vec<Record>) -> Result<bool> {
        *out = std::mem::take(&mut self.records);
        Ok(!out.is_empty())
    }
}
