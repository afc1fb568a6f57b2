//! A trace that is never written down: what makes it and what reads it run side by side, a few blocks apart.

use super::{BLOCK, Header, Record, Sink, Source};
use pimattn_core::error::{Error, Result};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

/// Blocks that may wait to be read.
const WAITING: usize = 8;

/// The end that is written to.
pub struct PipeSink {
    block: Vec<Record>,
    /// `None` marks the end of a finished trace.
    blocks: SyncSender<Option<Vec<Record>>>,
}

/// The end that is read.
pub struct PipeSource {
    header: Header,
    blocks: Receiver<Option<Vec<Record>>>,
    ended: bool,
    cut: bool,
}

/// Both ends of a trace.
pub fn pipe(header: Header) -> (PipeSink, PipeSource) {
    let (sender, receiver) = sync_channel(WAITING);
    let sink = PipeSink { block: Vec::with_capacity(BLOCK), blocks: sender };
    (sink, PipeSource { header, blocks: receiver, ended: false, cut: false })
}

impl PipeSink {
    fn send(&mut self, block: Option<Vec<Record>>) -> Result<()> {
        self.blocks.send(block).map_err(|_| Error::io("trace", std::io::ErrorKind::BrokenPipe.into()))
    }
}

impl Sink for PipeSink {
    fn push(&mut self, record: Record) -> Result<()> {
        self.block.push(record);
        if self.block.len() < BLOCK {
            return Ok(());
        }
        let full = std::mem::replace(&mut self.block, Vec::with_capacity(BLOCK));
        self.send(Some(full))
    }

    fn finish(&mut self) -> Result<()> {
        let rest = std::mem::take(&mut self.block);
        if !rest.is_empty() {
            self.send(Some(rest))?;
        }
        self.send(None)
    }
}

impl PipeSource {
    /// Whether the writing end was dropped before its trace was finished.
    pub fn was_cut(&self) -> bool {
        self.cut
    }
}

impl Source for PipeSource {
    fn header(&self) -> &Header {
        &self.header
    }

    fn next_block(&mut self, out: &mut Vec<Record>) -> Result<bool> {
        out.clear();
        if self.ended {
            return Ok(false);
        }
        match self.blocks.recv() {
            Ok(Some(block)) => {
                *out = block;
                Ok(true)
            }
            Ok(None) => {
                self.ended = true;
                Ok(false)
            }
            Err(_) => {
                self.cut = true;
                Err(Error::data("trace", "ended before it was finished"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Request;
    use pimattn_core::addr::Geometry;
    use pimattn_core::op::Op;

    fn header() -> Header {
        let geometry = Geometry {
            channels: 1,
            pseudo_channels: 1,
            ranks: 1,
            bank_groups: 1,
            banks: 1,
            rows: 4,
            columns: 4,
            column_bytes: 32,
        };
        Header::foreign(geometry, "test")
    }

    fn record(i: usize) -> Record {
        Record::Request(Request::one(Op::Ld, i as u64))
    }

    #[test]
    fn what_goes_in_comes_out_in_order() {
        let (mut sink, mut source) = pipe(header());
        let n = 3 * BLOCK + 1;
        let writer = std::thread::spawn(move || {
            (0..n).for_each(|i| sink.push(record(i)).unwrap());
            sink.finish().unwrap();
        });
        let (mut block, mut all) = (Vec::new(), Vec::new());
        while source.next_block(&mut block).unwrap() {
            all.append(&mut block);
        }
        writer.join().unwrap();
        assert_eq!(all, (0..n).map(record).collect::<Vec<_>>());
        assert!(!source.next_block(&mut block).unwrap(), "the end stays the end");
        assert!(!source.was_cut());
    }

    #[test]
    fn an_end_that_goes_away_is_an_error_at_the_other() {
        let (mut sink, mut source) = pipe(header());
        sink.push(record(0)).unwrap();
        drop(sink);
        assert!(source.next_block(&mut Vec::new()).is_err() && source.was_cut());
        let (mut sink, source) = pipe(header());
        drop(source);
        assert!(sink.finish().is_err());
    }
}
