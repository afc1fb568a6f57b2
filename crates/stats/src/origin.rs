//! Where the trace of a run comes from, and what it ran on: `origins.csv`.

use super::tables::{RUN_KEYS, RunKey, Schema};
use pimattn_core::measures;
use pimattn_core::spec::System;
use pimattn_core::table::{TableLayout, Value};
use pimattn_trace::Header;
use std::sync::Arc;

/// A trace, and the system that it was replayed on.
#[derive(Debug, Clone, PartialEq)]
pub struct OriginRow {
    run: Arc<RunKey>,
    channels: u32,
    header: Header,
    settings: String,
    assumed: String,
}

/// The table.
pub const SCHEMA: Schema = Schema {
    file: "origins.csv",
    row: "a trace: where it comes from, as its header says, and what it was replayed on",
};

measures! {
    /// What a trace says of itself, and the system.
    pub ORIGIN_MEASURES of OriginRow {
        CHANNELS = "channels", "1", "channels of the system", |r| r.channels.into();
        GENERATOR = "generator", "-", "program and version that wrote the trace", |r| text(&r.header.generator);
        PROVENANCE = "provenance", "-", "where keys, values and queries come from", |r| text(&r.header.provenance);
        SEED = "seed", "1", "seed of everything random", |r| known(r, r.header.seed);
        SPEC_HASH = "spec_hash", "-",
            "CRC-32 of the geometry and the mapping that made the addresses, in hexadecimal",
            |r| Value::Text(format!("{:08x}", r.header.spec_hash));
        ELEMENT_BYTES = "element_bytes", "B",
            "bytes of an element of what is multiplied",
            |r| Some(r.header.element_bytes).filter(|b| *b > 0).into();
        WORKLOAD = "workload", "-", "the workload with overrides, as TOML", |r| text(&r.header.config);
        ASSUMED = "assumed", "-", "values of the device that have no source, by key", |r| text(&r.assumed);
        SETTINGS = "settings", "-", "the system file with overrides, as TOML", |r| text(&r.settings);
    }
}

/// Empty where there is none.
fn text(text: &String) -> Value {
    Some(text).filter(|t| !t.is_empty()).into()
}

/// Empty in a trace that says nothing of itself.
fn known(row: &OriginRow, n: u64) -> Value {
    Some(n).filter(|_| !row.header.generator.is_empty()).into()
}

impl OriginRow {
    /// Of the trace with this header.
    pub fn new(run: Arc<RunKey>, header: &Header, system: &System) -> Self {
        let (channels, settings) = (system.device.geometry.channels, system.settings.clone());
        OriginRow { run, channels, header: header.clone(), settings, assumed: system.device.assumed.join(", ") }
    }

    /// The columns of the table.
    pub fn layout() -> TableLayout<OriginRow> {
        TableLayout::of(&[]).with(|r: &OriginRow| &*r.run, RUN_KEYS).with(|r| r, ORIGIN_MEASURES)
    }
}
