//! All tests but those with an allocator of their own, as one program: each program more is linked once more.
//!
//! `cargo test --test all parity::`.

mod common;

mod accounts;
mod agreement;
mod artifact;
mod attacc_schedule;
mod audit;
mod books;
mod cancel;
mod cli;
mod coverage;
mod devices;
mod engine_closed_forms;
mod examples;
mod exchange;
mod fast_path;
mod figures;
mod folders;
mod ghosts;
mod guides;
mod hostile_configs;
mod ideal;
mod kv_hostile;
mod kv_sample;
mod laws;
mod optimum;
mod oracle_kv;
mod parity;
mod plain_dram;
mod probes;
mod readme;
mod refresh;
mod rounds;
mod roundtrip;
mod snapshots;
mod sources;
mod sweep;
mod system;
mod system_parity;
mod time_account;
mod why;
