//! The device and the system as data: configuration files in, dense tables out.
//!
//! [`config`] reads TOML with line numbers and overrides, [`device`] is the schema of a device file, [`system`] that
//! of a system file. [`resolve`] checks a device file and makes the [`tables`] that the engine runs on, with `commands`,
//! `edges` (constraints) and `sources`. [`effect`] says what commands do, [`scope`] in which banks, [`refresh`] when which banks
//! are refreshed; [`model`] is the shape of a transformer.

mod commands;
pub mod config;
pub mod device;
mod edges;
pub mod effect;
pub mod expr;
mod hugging_face;
pub mod model;
pub mod quantity;
pub mod refresh;
pub mod resolve;
pub mod scope;
mod sources;
pub mod system;
pub mod tables;

pub use effect::{Activity, Class, Effect};
pub use refresh::{Due, Refreshes};
pub use scope::{Level, Scope};
pub use system::{Controller, System};
pub use tables::{Command, CommandId, Device, Edge, Plan};
