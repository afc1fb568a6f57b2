//! A decode step end to end: projections and feed-forward network on GPUs, attention on PIM devices, transfers between.
//!
//! ```text
//! model ──> layer ──> gpu (roofline) ──────────┐
//!                └──> pim <── attention <── engine, on AttAcc's schedule
//! platform ──┘                                 ├──> step ──> table
//! ```
//!
//! - [`Model`], [`platform`] (its file: `schema`): configuration files;
//! - [`layer`]: a decoder block as the work of one device;
//! - [`gpu`]: the roofline of AttAcc's published simulator, and its energies;
//! - [`attention`], [`pim`]: attention of a stack, replayed by the engine; softmax, links, co-processing;
//! - [`measured`], [`fit`]: runs in place of schedules, and whether they are of the model, the service and the platform;
//! - [`cost`], [`step`]: time and energy by part and component; overlap of heads; prefill and steps;
//! - [`switches`]: what the published simulators do otherwise, all off by default;
//! - [`table`]: the tables.
//!
//! docs/system.md has the formulas, their sources, and what each switch changes.

pub mod attention;
pub mod cost;
pub mod fit;
pub mod gpu;
pub mod layer;
pub mod measured;
pub mod pim;
pub mod platform;
mod schema;
pub mod step;
pub mod switches;
pub mod table;

pub use attention::{Attend, ReplayedStacks};
pub use fit::{FittedRun, RunShape, same_cache};
pub use measured::MeasuredRun;
pub use pimattn_core::spec::model::Model;
pub use platform::Platform;
pub use step::{Service, ServiceCost, TokenBudget, serve, serve_measured, serve_until};
pub use switches::{Reference, Switch, Switches};
