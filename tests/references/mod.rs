//! Do we come to what others publish: AttAcc's Ramulator and schedule, STARC's artifact, DRAM simulators, NumPy?

pub mod agreement;
mod artifact;
mod attacc_schedule;
mod ghosts;
mod ideal;
mod measured;
mod oracle_kv;
mod parity;
mod system;
mod system_parity;
mod tune;
