//! From selected tokens to DRAM rows and columns, and to the requests of a decode step.
//!
//! The modules, in the order in which a step passes through them:
//!
//! - [`placement`] assigns channels to a head; [`layout`], [`positions`] and [`rows`] place its tokens in them.
//! - [`sweep`] collects the rows and columns that a selection touches; [`rounds`] decides which of these rows are open at
//!   the same time.
//! - [`attend`], [`scan`] and [`upkeep`] write the phases of a step with the operations of [`emit`].
//! - [`schedule`] combines the phases of one head; [`stage`] interleaves the heads of a channel.
//! - [`heads`] computes how many query heads a unit serves at a time.

pub mod attend;
pub mod emit;
pub mod heads;
pub mod layout;
pub mod placement;
pub mod positions;
pub mod rounds;
pub mod rows;
pub mod scan;
pub mod schedule;
pub mod stage;
pub mod sweep;
pub mod upkeep;
pub mod workload;
