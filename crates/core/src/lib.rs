//! What everything else stands on: errors, files, tables, units, and the device as data.

pub mod beyond;
pub mod cancel;
pub mod columns;
pub mod error;
pub mod fsio;
pub mod memory;
pub mod presets;
pub mod spool;
pub mod table;
pub mod units;

pub mod addr;
pub mod op;
pub mod order;
pub mod spec;
