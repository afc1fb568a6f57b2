//! What people read: the tables of finished runs, set against each other.
//!
//! [`compare`] joins result tables row by row and says how much their numbers differ; [`summary`] puts runs side by
//! side; [`accuracy`] says what policies keep by layer and head; [`explain`] where the time of each run goes; [`frontier`]
//! what is worth choosing among the points of a sweep; [`chart`] makes figures of tables, which [`crate::plot`] draws;
//! [`page`] puts all that a folder says on one page.
//! Finished CSV files are all that it reads, and it never prints: a caller hands in the writer.

pub mod accuracy;
pub mod answer;
pub mod catalogue;
pub mod cells;
pub mod chart;
pub mod compare;
pub mod explain;
pub mod frontier;
pub mod identity;
pub mod kind;
pub mod page;
pub mod plot;
pub mod sheet;
pub mod summary;
