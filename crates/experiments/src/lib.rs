//! Experiments of no paper: grids of runs, policies at their best, the attention of a layer, its latency as a line, and decode steps of a model from end to end.

pub mod attention;
pub mod end_to_end;
pub mod latency;
pub mod sweep;
pub mod tune;
