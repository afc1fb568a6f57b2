//! Statistics of real KV caches: [`estimate`] fits the parameters of synthetic ones, [`words`] tells the words of the text
//! apart, [`measure`] says what matters of a cache, [`agree`] how two caches agree in it.

pub mod agree;
pub mod estimate;
pub mod measure;
pub mod rope;
pub mod words;

pub use estimate::{Options, fit, fit_until};
