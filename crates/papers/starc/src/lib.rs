//! The experiments of STARC (arXiv 2505.05772): its artifact, its plan, its claims, and the report on them.

pub mod artifact;
pub mod paper;
mod policies;
pub mod reproduce;
