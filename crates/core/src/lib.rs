//! What everything else stands on: errors, files, tables, units, and the device as data.

pub mod error;
pub mod fsio;
pub mod interrupt;
pub mod table;
pub mod units;

pub mod addr;
pub mod op;
pub mod order;
pub mod spec;
