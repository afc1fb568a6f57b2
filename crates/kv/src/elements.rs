//! Elements of a tensor, whoever keeps them.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

/// The elements of a tensor in C order: a vector, or memory that something else keeps, such as an array of another language. Clones
/// share them.
#[derive(Clone)]
pub struct Elements(Arc<dyn AsRef<[f32]> + Send + Sync>);

impl Elements {
    /// Elements that `keeper` keeps for as long as it lives, and nobody changes.
    pub fn kept_by(keeper: impl AsRef<[f32]> + Send + Sync + 'static) -> Self {
        Elements(Arc::new(keeper))
    }
}

impl Deref for Elements {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        (*self.0).as_ref()
    }
}

impl From<Vec<f32>> for Elements {
    fn from(elements: Vec<f32>) -> Self {
        Elements::kept_by(elements)
    }
}

impl PartialEq for Elements {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl fmt::Debug for Elements {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}
