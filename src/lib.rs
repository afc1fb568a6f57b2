//! Simulator for sparse attention on HBM processing-in-memory: what the tokens that a policy picks cost in time and
//! energy, and how much of the attention they keep.
//!
//! # Concepts
//!
//! - A [`KvCache`] holds keys, values and decode queries of some layers: a model's dump ([`kv::load`]), or one that is made
//!   up ([`kv::synthetic`]).
//! - A [`Policy`] selects tokens for each query head and decode step. A [`Workload`] names one with its budget and says how
//!   keys and values lie in memory ([`Mapping`]).
//! - A [`Selection`] is the same as data: of a policy's run, or of whoever selects elsewhere
//!   ([`Generator::load_imported`] takes it in place of a policy).
//! - A [`Generator`] puts the two together: it writes the accesses of every decode step to a [`Sink`], as [`Record`]s. What
//!   holds such a trace is a [`Source`]: a file in any of the [`trace::FORMATS`], a [`MemoryTrace`], a pipe.
//! - A [`System`] is a DRAM device with its controller, as data: [`systems`] has those of `configs/`, [`System::load`] and
//!   [`System::from_toml`] take others.
//! - The engine ([`engine::run`]) replays a source on a system. A [`Probe`] hears of every command; the [`Collector`] is
//!   the one that counts for the tables.
//!
//! ```text
//! KV cache -> cluster, select -> map -> TRACE -> engine -> stats -> report
//!  kv         policies         tracegen trace    engine    stats    report
//! ```
//!
//! # From a KV cache to a result
//!
//! ```
//! use pimattn::{Generator, SyntheticSpec, Workload, kv, simulate, systems};
//!
//! let shape = SyntheticSpec { layers: 1, kv_heads: 2, query_heads: 4, prefill: 512, decode_steps: 2, ..Default::default() };
//! for policy in ["full", "quest"] {
//!     let cache = kv::synthetic::generate(&shape)?;
//!     let generator = Generator::new(systems::load("hbm3-pim")?, Workload::new(policy, 128), cache)?;
//!     let outcome = simulate(&generator)?;
//!     println!("{policy}: {:.0} ns, {:.0} pJ", outcome.time_ns, outcome.energy.total());
//!     # assert!(outcome.cycles > 0 && outcome.energy.total() > 0.0);
//! }
//! # Ok::<(), pimattn::Error>(())
//! ```
//!
//! What takes long has a twin that ends in `_until` and takes a [`Cancel`]: whoever holds a clone of that token can stop
//! that work, and no other. Ctrl-C is one such holder, in the programs.
//!
//! `examples/` has more: a trace replayed, commands watched, a policy of one's own, a system and a workload made in code.
//!
//! # Crates and features
//!
//! Each layer is a crate, all of them re-exported here by name; ARCHITECTURE.md says which is for what. The feature `cli`, on by
//! default, is the programs `tracegen` and `pimsim`; without it no crate of theirs is compiled. Errors are [`enum@Error`]s by
//! cause; numbers carry their unit in their name or type, and every table documents its columns.

#[cfg(feature = "cli")]
#[doc(hidden)]
pub mod cli;
pub mod presets;
mod run;
mod simulate;
pub mod systems;

pub use run::{RunResult, run_until};
pub use simulate::{Outcome, replay, replay_until, simulate, simulate_until};

#[doc(no_inline)]
pub use {
    pimattn_attacc as attacc, pimattn_audit as audit, pimattn_core as core, pimattn_engine as engine,
    pimattn_experiments as experiments, pimattn_kv as kv, pimattn_mapping as mapping, pimattn_policies as policies,
    pimattn_report as report, pimattn_starc as starc, pimattn_stats as stats, pimattn_trace as trace,
    pimattn_tracegen as tracegen,
};

#[doc(no_inline)]
pub use pimattn_core::{
    addr::{Address, Geometry},
    cancel::Cancel,
    error::{Error, Result},
    op::Op,
    spec::{
        Command, CommandId, Controller, Device, Effect, Scope, System, config::Document, model::Model,
        system::EnergyModel,
    },
    units::Cycle,
};
#[doc(no_inline)]
pub use pimattn_engine::{
    Engine,
    probe::{CommandEvent, Probe, RowOutcome},
};
#[doc(no_inline)]
pub use pimattn_kv::{
    Elements, Heads, KvCache, KvView, Rows,
    selection::{Clustering, Scan, SlotOrder},
    synthetic::SyntheticSpec,
};
#[doc(no_inline)]
pub use pimattn_mapping::workload::{Addressing, Align, Layout, Mapping, Workload};
#[doc(no_inline)]
pub use pimattn_policies::{
    select::{HeadState, HeadView, Policy, StepView},
    selection::{Granularity, ScanRule, Selection},
};
#[doc(no_inline)]
pub use pimattn_stats::{Account, Collector, Counters, energy::Energy};
#[doc(no_inline)]
pub use pimattn_trace::{Header, MemoryTrace, Phase, Record, Request, Segment, Sink, Source};
#[doc(no_inline)]
pub use pimattn_tracegen::generate::{CacheSet, Generator};
