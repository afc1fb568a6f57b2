//! From selected tokens to DRAM rows and columns, and to the requests of a decode step.
//!
//! [`layout`] says where a token lies, [`sweep`] collects the rows and columns that a selection touches, [`schedule`]
//! turns them into requests in order.

pub mod layout;
pub mod schedule;
pub mod sweep;
