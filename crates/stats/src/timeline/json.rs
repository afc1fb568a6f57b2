//! Pieces of JSON text.

use pimattn_core::units::{ClockPeriod, Cycle};
use std::fmt;

/// A text in quotation marks, escaped.
pub(super) struct Quoted<'t>(pub &'t str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("\"")?;
        for c in self.0.chars() {
            match c {
                '"' => f.write_str("\\\"")?,
                '\\' => f.write_str("\\\\")?,
                c if c < ' ' => write!(f, "\\u{:04x}", u32::from(c))?,
                c => write!(f, "{c}")?,
            }
        }
        f.write_str("\"")
    }
}

/// A cycle as the microseconds that Chrome's format counts in, exact to the picosecond.
pub(super) struct Microseconds(pub Cycle, pub ClockPeriod);

impl fmt::Display for Microseconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ps = u128::from(self.0) * u128::from(self.1.0);
        write!(f, "{}.{:06}", ps / 1_000_000, ps % 1_000_000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_keep_their_picoseconds_and_texts_their_signs() {
        assert_eq!(Microseconds(3, ClockPeriod(769)).to_string(), "0.002307");
        assert_eq!(Microseconds(2_000_001, ClockPeriod(1000)).to_string(), "2000.001000");
        assert_eq!(Quoted("a\"b\\c\nd").to_string(), "\"a\\\"b\\\\c\\u000ad\"");
    }
}
