//! The text form with all our operations: as AttAcc's, but nothing is lowered, so that every request comes back.
//! Segments are not written. A request that arrives later than at the beginning has ` @CYCLE` behind its address.

use super::lower::{Arrivals, write_error};
use super::manifest::{ExportCounts, ExportOptions, KEPT, Manifest, address_bits};
use super::{Format, Header, Record, Sink, attacc};
use pimattn_core::addr::Geometry;
use pimattn_core::error::Result;
use pimattn_core::order::AddressOrder;
use serde_json::json;
use std::io::{BufWriter, Write};

/// Registry line. Reading is AttAcc's text's, which takes all our operations.
pub const FORMAT: Format = Format {
    name: "text",
    summary: "the same text with all our operations; for these programs",
    detect: |_| false,
    open: attacc::FORMAT.open,
    create: |output, header, options| Ok(Box::new(TextWriter::new(output, header, options))),
    reads: true,
    keeps_all: false,
    pim: true,
};

struct TextWriter {
    out: BufWriter<Box<dyn Write + Send>>,
    geometry: Geometry,
    arrivals: Arrivals,
    ledger: ExportCounts,
}

impl TextWriter {
    fn new(out: Box<dyn Write + Send>, header: &Header, options: ExportOptions) -> Self {
        TextWriter {
            out: BufWriter::with_capacity(1 << 16, out),
            geometry: header.geometry,
            arrivals: Arrivals::default(),
            ledger: ExportCounts::new(header, options, false),
        }
    }
}

impl Sink for TextWriter {
    fn push(&mut self, record: Record) -> Result<()> {
        let r = match record {
            Record::Request(r) => r,
            Record::Segment(_) => {
                self.ledger.segments += 1;
                return Ok(());
            }
            Record::Mark(_) => return Ok(()),
            Record::Arrival(a) => {
                self.arrivals.take(&a);
                return Ok(());
            }
        };
        let cycle = if r.op.is_mark() { 0 } else { self.arrivals.of(self.geometry.channel_of(r.addr)) };
        self.ledger.count(r.op, r.count.into(), r.count.into());
        (0..u64::from(r.count)).try_for_each(|i| {
            let addr = r.addr + i * u64::from(r.stride);
            match cycle {
                0 => writeln!(self.out, "{} 0x{addr:08x}", r.op.mnemonic()),
                cycle => writeln!(self.out, "{} 0x{addr:08x} @{cycle}", r.op.mnemonic()),
            }
            .map_err(write_error)
        })
    }

    fn finish(&mut self) -> Result<()> {
        self.out.flush().map_err(write_error)
    }

    fn manifest(&self) -> Option<Manifest> {
        let settings = json!({ "address_bits": address_bits(&self.geometry, AddressOrder::default()) });
        Some(self.ledger.manifest(FORMAT.name, "pimattn", |_| KEPT, settings, Vec::new()))
    }
}
