//! The policies that the paper is about. That its gains are STARC's, over these others, is a fact of the paper: columns
//! of its tables are named after them, and sentences of its claims compare them. The code spells them here and nowhere
//! else, by the registry, so that a policy that is not there does not compile. What a claim is set against is data
//! (`against` in `configs/report/starc.toml`), checked on load.

use pimattn_core::error::{Error, Result};
use pimattn_policies::select::{
    self, clusterkv, full, h2o, infinigen, oracle, quest, sparq, starc, starc_v1, streaming,
};

/// The policy whose gains are told.
pub const STARC: &str = starc::ENTRY.name;
/// All tokens: what gains are relative to, and what the first layers stay.
pub const FULL: &str = full::ENTRY.name;
/// Selection by pages.
pub const QUEST: &str = quest::ENTRY.name;
/// Selection token by token, by some elements of the query.
pub const SPARQ: &str = sparq::ENTRY.name;
/// Selection token by token, by speculation.
pub const INFINIGEN: &str = infinigen::ENTRY.name;
/// The same, with as many tokens as the budget holds.
pub const INFINIGEN_FILLED: &str = infinigen::FILLED.name;

/// Policies in the order of legends: each looks alike in all figures. Others come behind them.
pub const LEGEND: [&str; 11] = [
    FULL,
    QUEST,
    SPARQ,
    STARC,
    INFINIGEN,
    streaming::ENTRY.name,
    clusterkv::ENTRY.name,
    h2o::ENTRY.name,
    starc_v1::ENTRY.name,
    oracle::ENTRY.name,
    INFINIGEN_FILLED,
];

/// Whether the policy of this name has a use for a budget.
///
/// # Errors
/// [`Error::Usage`] with the nearest name where there is none.
pub fn heeds_budget(name: &str) -> Result<bool> {
    let entry = select::find(name).map_err(Error::Usage)?;
    let policy = (entry.build)(&Default::default()).map_err(|e| Error::Usage(format!("policy {name}: {e}")))?;
    Ok(policy.heeds_budget())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_attends_to_all_takes_no_notice_of_the_budget() {
        for name in LEGEND {
            assert_eq!(heeds_budget(name).unwrap(), name != FULL, "{name}");
        }
        assert!(heeds_budget("stark").unwrap_err().to_string().contains("did you mean \"starc\"?"));
    }
}
