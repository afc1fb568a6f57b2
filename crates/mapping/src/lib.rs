//! From selected tokens to DRAM rows and columns, and to the requests of a decode step.
//!
//! [`placement`] says which channels a head has, [`layout`], [`positions`] and [`rows`] where its tokens lie in them;
//! [`sweep`] collects the rows and columns that a selection touches, [`rounds`] says which rows are open at the same time.
//! [`attend`], [`scan`] and [`upkeep`] are the phases of a step, made of what [`emit`] knows to ask for; [`schedule`] puts them together for one head, and [`stage`] those
//! of a channel's heads beside each other. [`heads`] says how many query heads a unit serves at a time.

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
