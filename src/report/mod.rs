//! What people read: the tables of finished runs, set against each other.
//!
//! [`compare`] joins result tables row by row and says how much their numbers differ; [`summary`] puts runs side by
//! side; [`explain`] says where the time of each goes. This folder imports
//! [`crate::error`] only, reads finished CSV files only and never prints: a caller hands in the writer.

pub mod compare;
pub mod explain;
pub mod sheet;
pub mod summary;
