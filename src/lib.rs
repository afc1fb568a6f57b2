//! Simulator for sparse attention on HBM processing-in-memory.
//!
//! Two chains meet at the trace:
//!
//! ```text
//! KV cache -> cluster, select -> map -> TRACE -> engine -> stats -> report
//!  kv         policies         tracegen trace    engine    stats    report
//! ```
//!
//! The left chain (`tracegen`) decides what is accessed; the right chain (`pimsim`) decides when it happens and
//! what it costs. Both describe the device with [`pimattn_core::spec`]. ARCHITECTURE.md has the rules.

#[cfg(feature = "cli")]
#[doc(hidden)]
pub mod cli;
