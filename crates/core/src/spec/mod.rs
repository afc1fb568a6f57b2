//! The device and the system as data: configuration files in, dense tables out.
//!
//! [`config`] reads TOML with line numbers and overrides, [`device`] is the schema of a device file, [`system`] that
//! of a system file, [`refresh`] when which banks are refreshed, [`resolve`] checks them and makes the tables that the engine runs on, [`workload`] is what
//! `tracegen` runs on, [`model`] the shape of a transformer.

pub mod config;
pub mod device;
pub mod expr;
pub mod model;
pub mod quantity;
pub mod refresh;
pub mod resolve;
pub mod system;

pub use refresh::{Due, Refreshes};
pub use resolve::{Command, CommandId, Device, Edge, Effect, Level, Plan, Scope};
pub use system::{Controller, System};
