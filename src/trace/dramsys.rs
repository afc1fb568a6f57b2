//! DRAMSys's `.stl`: `0: read 0x40` or `0: write 0x40` a line, in lower case, with the cycle from which on the request
//! may be issued. Written only.

use super::Format;
use super::lower::{Exporter, Target, powers_of_two};
use super::manifest::address_bits;
use crate::addr::Geometry;
use crate::error::Error;
use serde_json::{Value, json};
use std::io::Write;

/// Registry line.
pub const FORMAT: Format = Format {
    name: Stl::FORMAT,
    summary: "trace of DRAMSys: reads and writes at byte addresses; written only",
    detect: |_| false,
    open: |_, name, _| Err(Error::Usage(format!("{name}: {} is written, not read", Stl::FORMAT))),
    create: |output, header, options| {
        powers_of_two(&header.geometry, Stl::FORMAT)?;
        Ok(Box::new(Exporter::new(Stl(header.geometry), output, header, options)))
    },
    reads: false,
    keeps_all: false,
    pim: false,
};

struct Stl(Geometry);

impl Target for Stl {
    const FORMAT: &'static str = "dramsys-stl";
    const PROGRAM: &'static str = "DRAMSys (trace player)";

    fn access(&mut self, out: &mut Vec<u8>, addr: u64, write: bool) {
        let _ = writeln!(out, "0: {} 0x{addr:x}", if write { "write" } else { "read" });
    }

    fn settings(&self) -> (Value, Vec<String>) {
        let settings = json!({
            "tracesetup": { "dataLength": self.0.column_bytes },
            "simconfig": { "StoreMode": "NoStorage" },
            "address_bits": address_bits(&self.0),
        });
        let notes = [
            "the file name must end in .stl",
            "writes carry no data, so storage must be off",
            "every request may be issued from cycle 0 on: the player sends as fast as the memory takes them",
        ];
        (settings, notes.map(String::from).to_vec())
    }
}
