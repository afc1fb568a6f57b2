//! Does it work as its pages say: commands, guides, examples, exchange, sweeps, reports?

mod assumptions;
mod cli;
mod examples;
mod exchange;
mod folders;
mod guides;
mod latency;
mod newcomer;
mod page;
mod readme;
mod roundtrip;
mod snapshots;
mod sources;
mod sweep;
mod timelines;
