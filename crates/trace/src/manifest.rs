//! Loss manifests: what an export could not express, and what stands for it.
//!
//! The formats of other simulators hold less than a trace of ours. An export counts what it does with every operation
//! and says so in a [`Manifest`], a JSON object with its keys in a fixed order, together with the settings under which
//! the target reads the addresses as they were meant.

use super::{Header, Op};
use pimattn_core::addr::Geometry;
use pimattn_core::error::{Error, Result, suggest};
use pimattn_core::order::AddressOrder;
use serde::Serialize;
use serde_json::{Map, Value, json};

/// What a multiply-accumulate becomes where there is only plain DRAM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum MacReads {
    /// A read in each bank that it works in: all the bytes that a processor without PIM would have to fetch.
    #[default]
    Banks,
    /// A read in the first of its banks in each unit (bank group).
    Units,
    /// One read: as many requests as PIM commands.
    One,
    /// A read in each bank that it works in, but each column once in a decode step of a KV head: what a processor fetches
    /// that computes all query heads of a group of what it fetched.
    Columns,
}

impl MacReads {
    /// The choice of this name.
    pub fn parse(name: &str) -> Result<Self> {
        match name {
            "banks" => Ok(MacReads::Banks),
            "units" => Ok(MacReads::Units),
            "one" => Ok(MacReads::One),
            "columns" => Ok(MacReads::Columns),
            _ => {
                let names = ["banks", "units", "one", "columns"];
                Err(Error::Usage(format!("unknown --mac-reads \"{name}\"{}", suggest(name, names))))
            }
        }
    }
}

/// How to export.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct ExportOptions {
    /// Refuse an operation that the target cannot express, instead of lowering it.
    pub strict: bool,
    /// What a multiply-accumulate becomes for plain DRAM.
    pub mac_reads: MacReads,
    /// The order of the fields of addresses; of formats that are not for plain DRAM the default.
    #[serde(skip_serializing_if = "AddressOrder::is_default")]
    pub order: AddressOrder,
}

/// What happened to one kind of operation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ExportedOperation {
    /// Mnemonic.
    pub operation: &'static str,
    /// Requests of the trace.
    pub requests: u64,
    /// Lines (or structures) of the export that stand for them.
    pub written: u64,
    /// What stands for one.
    pub how: &'static str,
}

/// What an export holds and what it lost.
#[derive(Debug, Clone, Serialize)]
pub struct Manifest {
    /// Name of the format.
    pub format: &'static str,
    /// Program that reads it.
    pub target: &'static str,
    /// The program that made the trace.
    pub generator: String,
    /// Where the data came from.
    pub provenance: String,
    /// Device that the addresses are for.
    pub geometry: Geometry,
    /// How the export was asked for.
    pub options: ExportOptions,
    /// Lines of the export, or structures of a binary one, end mark included.
    pub lines: u64,
    /// Of these, what the target takes for requests: all but the marks, and but the barriers in a trace of reads and
    /// writes.
    pub requests: u64,
    /// Of these, reads.
    pub reads: u64,
    /// Of these, writes.
    pub writes: u64,
    /// Every kind of operation in the trace, in the order of the binary format.
    pub operations: Vec<ExportedOperation>,
    /// Segment marks (whose work follows) dropped: no target has a place for them.
    pub segments_dropped: u64,
    /// What to tell the target, so that it means by an address what we mean.
    pub settings: Value,
    /// What else a user of the export must know.
    pub notes: Vec<String>,
}

impl Manifest {
    /// As JSON, ending in a newline.
    pub fn json(&self) -> Result<String> {
        let text = serde_json::to_string_pretty(self)
            .map_err(|e| Error::Io { path: "manifest".into(), source: std::io::Error::other(e) })?;
        Ok(text + "\n")
    }

    /// How many requests of the trace did not go over as they were.
    pub fn lowered(&self) -> u64 {
        self.operations.iter().filter(|o| o.how != KEPT).map(|o| o.requests).sum()
    }
}

/// Of an operation that the target has.
pub const KEPT: &str = "as it is";

/// Counts while an export is written.
#[derive(Debug)]
pub(crate) struct ExportCounts {
    /// Whether a multiply-accumulate is written as reads.
    plain: bool,
    header: Header,
    pub(crate) options: ExportOptions,
    requests: [u64; Op::COUNT],
    written: [u64; Op::COUNT],
    /// Lines that stand for no operation.
    pub(crate) marks: u64,
    pub(crate) segments: u64,
    /// Whether there were arrival cycles, and are no more.
    arrivals_dropped: bool,
}

impl ExportCounts {
    pub(crate) fn new(header: &Header, options: ExportOptions, plain: bool) -> Self {
        ExportCounts {
            plain,
            header: header.clone(),
            options,
            requests: [0; Op::COUNT],
            written: [0; Op::COUNT],
            marks: 0,
            segments: 0,
            arrivals_dropped: false,
        }
    }

    /// `requests` of `op` came in and `written` went out.
    pub(crate) fn count(&mut self, op: Op, requests: u64, written: u64) {
        self.requests[op as usize] += requests;
        self.written[op as usize] += written;
    }

    /// Refuses to lower `op` if nothing may be lost.
    pub(crate) fn allow(&self, op: Op, target: &str) -> Result<()> {
        match self.options.strict {
            true => Err(Error::Check(format!("--strict: {target} has no {}", op.mnemonic()))),
            false => Ok(()),
        }
    }

    /// An arrival cycle is dropped; refused if nothing may be lost.
    pub(crate) fn drop_arrival(&mut self, target: &str) -> Result<()> {
        if self.options.strict {
            return Err(Error::Check(format!("--strict: {target} has no arrival cycles")));
        }
        self.arrivals_dropped = true;
        Ok(())
    }

    /// Lines written for the operations of which `of` is true.
    pub(crate) fn written(&self, of: impl Fn(Op) -> bool) -> u64 {
        Op::ALL.iter().filter(|op| of(**op)).map(|op| self.written[*op as usize]).sum()
    }

    /// The manifest; `how` says what stands for an operation.
    pub(crate) fn manifest(
        &self,
        format: &'static str,
        target: &'static str,
        how: impl Fn(Op) -> &'static str,
        settings: Value,
        mut notes: Vec<String>,
    ) -> Manifest {
        if self.arrivals_dropped {
            notes.push("arrival cycles are dropped: every request is there from the beginning".into());
        }
        let fate = |&op: &Op| ExportedOperation {
            operation: op.mnemonic(),
            requests: self.requests[op as usize],
            written: self.written[op as usize],
            how: how(op),
        };
        Manifest {
            format,
            target,
            generator: self.header.generator.clone(),
            provenance: self.header.provenance.clone(),
            geometry: self.header.geometry,
            options: self.options,
            lines: self.written(|_| true) + self.marks,
            requests: self.written(|op| !(self.plain && op.is_mark())),
            reads: self.written(|op| op == Op::Ld || self.plain && op.is_mac()),
            writes: self.written(|op| op == Op::St),
            operations: Op::ALL.iter().filter(|op| self.requests[**op as usize] > 0).map(fate).collect(),
            segments_dropped: self.segments,
            settings,
            notes,
        }
    }
}

/// Where each field of a byte address lies: its lowest bit and its width.
pub(crate) fn address_bits(geometry: &Geometry, order: AddressOrder) -> Value {
    let mut bits = Map::new();
    for (name, lowest, width) in order.fields(geometry) {
        bits.insert(name.into(), json!([lowest, width]));
    }
    Value::Object(bits)
}
