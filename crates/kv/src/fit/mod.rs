//! Fits the parameters of synthetic KV caches ([`crate::fitted`]) to a real one: [`estimate`] finds them, [`words`] tells the
//! words of the text apart, [`rope`] finds the rotation that the keys have.

pub mod estimate;
pub mod rope;
pub mod words;

pub use estimate::{FitOptions, fit, fit_until};
pub use rope::KnownRotation;
