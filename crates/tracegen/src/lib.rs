//! From a KV cache to a trace: the workload as data, keys and values mapped to channels, banks and rows, the accesses of each
//! decode step.

pub mod agree;
pub mod generate;
pub mod live;
