//! Selection policies of sparse attention, the clustering behind some of them, and what accuracy they keep.

pub mod accuracy;
pub mod cluster;
pub mod select;
pub mod selection;
