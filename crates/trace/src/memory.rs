//! A trace in memory: written once, read as often as wanted. For traces that fit; [`pipe`](super::pipe) is for the others.

use super::{BLOCK, Header, Record, Sink, Source};
use pimattn_core::error::{Error, Result};

/// A trace in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryTrace {
    header: Header,
    records: Vec<Record>,
    finished: bool,
}

impl MemoryTrace {
    /// An empty trace, to be written as a [`Sink`].
    pub fn new(header: Header) -> Self {
        MemoryTrace { header, records: Vec::new(), finished: false }
    }

    /// A trace of these records.
    pub fn of(header: Header, records: Vec<Record>) -> Self {
        MemoryTrace { header, records, finished: true }
    }

    /// The records so far.
    pub fn records(&self) -> &[Record] {
        &self.records
    }

    /// The trace from its beginning.
    ///
    /// # Errors
    /// [`Error::Data`] for a trace that is not finished: what was to write it failed.
    pub fn source(&self) -> Result<MemorySource<'_>> {
        match self.finished {
            true => Ok(MemorySource { trace: self, at: 0 }),
            false => Err(Error::data("trace", "ended before it was finished")),
        }
    }
}

impl Sink for MemoryTrace {
    fn push(&mut self, record: Record) -> Result<()> {
        self.records.push(record);
        Ok(())
    }

    fn finish(&mut self) -> Result<()> {
        self.finished = true;
        Ok(())
    }
}

/// A [`MemoryTrace`] that is being read.
#[derive(Debug, Clone)]
pub struct MemorySource<'t> {
    trace: &'t MemoryTrace,
    at: usize,
}

impl Source for MemorySource<'_> {
    fn header(&self) -> &Header {
        &self.trace.header
    }

    fn next_block(&mut self, out: &mut Vec<Record>) -> Result<bool> {
        let rest = &self.trace.records[self.at..];
        let block = &rest[..rest.len().min(BLOCK)];
        out.clear();
        out.extend_from_slice(block);
        self.at += block.len();
        Ok(!block.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Request;
    use pimattn_core::addr::Geometry;
    use pimattn_core::op::Op;

    #[test]
    fn a_finished_trace_is_read_as_often_as_wanted() {
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
        let mut trace = MemoryTrace::new(Header::foreign(geometry, "test"));
        let records: Vec<Record> =
            (0..2 * BLOCK as u64 + 1).map(|i| Record::Request(Request::one(Op::Ld, i))).collect();
        records.iter().for_each(|r| trace.push(*r).unwrap());
        assert!(trace.source().is_err(), "not finished");
        trace.finish().unwrap();
        for _ in 0..2 {
            let (mut source, mut block, mut all) = (trace.source().unwrap(), Vec::new(), Vec::new());
            while source.next_block(&mut block).unwrap() {
                assert!(block.len() <= BLOCK);
                all.append(&mut block);
            }
            assert!(all == records && !source.next_block(&mut block).unwrap());
        }
    }
}
