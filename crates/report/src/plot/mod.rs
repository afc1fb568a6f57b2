//! Figures as SVG, for paper and screen.
//!
//! A [`Figure`] is panels in a grid under one legend; a panel has [`Lines`], stacked [`Bars`], [`Spans`] or a [`Heat`] map. It is a
//! document of its own ([`Figure::svg`]) or an element of a page ([`Figure::inline`]), whose marks say their values. Colours are Okabe and
//! Ito's, which people with any colour vision tell apart; dashes, markers and hatching tell series apart in grey. Layout
//! is arithmetic on the data alone, so the same figure is the same bytes.

mod axis;
mod bars;
mod figure;
mod heat;
mod lines;
mod pen;
mod spans;
mod style;
mod unit;

pub use axis::{Axis, Scale};
pub use bars::{Bar, BarGroup, Bars};
pub use figure::{Content, Figure, Panel};
pub use heat::Heat;
pub use lines::{Lines, Series};
pub use spans::{Span, Spans};
pub use unit::{Multiple, quantity};
