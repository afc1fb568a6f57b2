//! What a synthetic cache says of itself that is longer than the text that its statistics are of. It travels in the words of
//! a cache's provenance, which traces of any format hand on.

use std::fmt;

/// A length beyond the fitted one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BeyondFit {
    /// Tokens of the cache.
    pub tokens: u64,
    /// Tokens of the text that was fitted.
    pub fitted: u64,
    /// Whether the rotation is rescaled there, as long-context models have it.
    pub rescaled: bool,
}

const BEYOND: &str = " tokens, beyond the ";
const FITTED: &str = " fitted, rotation ";
const RESCALED: &str = "rescaled (YaRN)";
const NOT_RESCALED: &str = "not rescaled";

impl fmt::Display for BeyondFit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let how = if self.rescaled { RESCALED } else { NOT_RESCALED };
        write!(f, "{}{BEYOND}{}{FITTED}{how}", self.tokens, self.fitted)
    }
}

impl BeyondFit {
    /// Finds it in a provenance that has its words.
    pub fn said_in(provenance: &str) -> Option<BeyondFit> {
        let (ahead, behind) = provenance.split_once(BEYOND)?;
        let (fitted, how) = behind.split_once(FITTED)?;
        let tokens = ahead.rsplit(|c: char| !c.is_ascii_digit()).next()?;
        let rescaled = match (how.starts_with(RESCALED), how.starts_with(NOT_RESCALED)) {
            (false, false) => return None,
            (rescaled, _) => rescaled,
        };
        Some(BeyondFit { tokens: tokens.parse().ok()?, fitted: fitted.parse().ok()?, rescaled })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_found() {
        for rescaled in [false, true] {
            let beyond = BeyondFit { tokens: 32_776, fitted: 8192, rescaled };
            let provenance = format!("synthetic, seed 3, {beyond}, fitted to: dump.safetensors; layers 2");
            assert_eq!(BeyondFit::said_in(&provenance), Some(beyond), "{provenance}");
        }
        for other in [
            "",
            "synthetic, seed 3, fitted to: dump",
            "9 tokens, beyond the 8 fitted, rotation unknown",
            "many tokens, beyond the 8 fitted, rotation not rescaled",
            "9 tokens, beyond the end",
        ] {
            assert_eq!(BeyondFit::said_in(other), None, "{other}");
        }
    }
}
