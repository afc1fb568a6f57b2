//! Is the schedule right: is each command legal, does each wait have a reason, is the makespan the least?

pub mod audit;
mod devices;
mod engine_closed_forms;
mod fast_path;
mod laws;
mod optimum;
pub mod plain_dram;
mod probes;
mod refresh;
mod rounds;
mod time_account;
mod why;
