//! The text form with all our operations: as AttAcc's, but nothing is lowered, so that every request comes back.
//! Segments are not written.

use super::lower::write_error;
use super::manifest::{KEPT, Ledger, Manifest, Options, address_bits};
use super::{Format, Header, Record, Sink, attacc};
use crate::error::Result;
use serde_json::json;
use std::io::{BufWriter, Write};

/// Registry line. Reading is AttAcc's text's, which takes all our operations.
pub const FORMAT: Format = Format {
    name: "text",
    summary: "the same text with all our operations; for these programs",
    detect: |_| false,
    open: attacc::FORMAT.open,
    create: |output, header, options| Ok(Box::new(Writer::new(output, header, options))),
    reads: true,
    keeps_all: false,
    pim: true,
};

struct Writer {
    out: BufWriter<Box<dyn Write + Send>>,
    bits: serde_json::Value,
    ledger: Ledger,
}

impl Writer {
    fn new(out: Box<dyn Write + Send>, header: &Header, options: Options) -> Self {
        let bits = json!(address_bits(&header.geometry));
        Writer { out: BufWriter::with_capacity(1 << 16, out), bits, ledger: Ledger::new(header, options, false) }
    }
}

impl Sink for Writer {
    fn push(&mut self, record: Record) -> Result<()> {
        let Record::Request(r) = record else {
            self.ledger.segments += u64::from(matches!(record, Record::Segment(_)));
            return Ok(());
        };
        self.ledger.count(r.op, r.count.into(), r.count.into());
        (0..u64::from(r.count)).try_for_each(|i| {
            let addr = r.addr + i * u64::from(r.stride);
            writeln!(self.out, "{} 0x{addr:08x}", r.op.mnemonic()).map_err(write_error)
        })
    }

    fn finish(&mut self) -> Result<()> {
        self.out.flush().map_err(write_error)
    }

    fn manifest(&self) -> Option<Manifest> {
        let settings = json!({ "address_bits": self.bits });
        Some(self.ledger.manifest(FORMAT.name, env!("CARGO_PKG_NAME"), |_| KEPT, settings, Vec::new()))
    }
}
