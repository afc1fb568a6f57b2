//! Simulator for sparse attention on HBM processing-in-memory.
//!
//! Two chains meet at the trace:
//!
//! ```text
//! KV cache -> cluster -> select -> map -> TRACE -> engine -> stats -> report
//!  kv/        cluster/   select/   map/   trace/   engine/   stats/   report/
//! ```
//!
//! The left chain (`tracegen`) decides what is accessed; the right chain (`pimsim`) decides when it happens and
//! what it costs. Both describe the device with [`spec`] and [`addr`]. ARCHITECTURE.md has the rules.

pub mod error;
pub mod fsio;
pub mod interrupt;
pub mod linalg;
pub mod table;
pub mod units;

pub mod addr;
pub mod op;
pub mod spec;
pub mod trace;

pub mod accuracy;
pub mod attacc;
pub mod cluster;
pub mod fit;
pub mod generate;
pub mod kv;
pub mod map;
pub mod select;

pub mod audit;
pub mod engine;
pub mod plot;
pub mod report;
pub mod stats;

pub mod artifact;
pub mod decode;
pub mod reproduce;
pub mod sweep;
pub mod system;

pub mod cli;
