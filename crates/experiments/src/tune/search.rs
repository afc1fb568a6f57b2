//! Finding the best choice of a space: every one where there are few, else coordinate descent by blocks with restarts, whose
//! finalists are compared in whole runs.
//!
//! A descent measures cheap runs (the first steps of a whole one). It begins at a choice, tries all settings of a block of knobs
//! together while the others stay, moves to the best, and goes on with the next block until no block moves. The choices of all
//! descents that came out best are run whole; then the best of them is compared, run whole, with every choice that differs from it
//! in one knob and was not far behind it in cheap runs, until none is better. Of equal costs the one with fewer changes is better,
//! then the earlier one, so that what is found does not depend on the number of threads.

use super::space::{KnobBlock, KnobChoice, Space};
use pimattn_core::error::Result;
use std::collections::BTreeMap;

/// How much of a run is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Extent {
    /// Its first steps.
    Begin,
    /// All of it.
    Whole,
}

/// How a space is searched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SearchMethod {
    /// Every choice, run whole.
    Exhaustive,
    /// Descents with restarts.
    Descent,
}

/// Choices above which a space is not searched exhaustively unless that is asked for.
pub const FEW: u64 = 48;
/// Descents from elsewhere than the default and the choices that are handed over.
const RESTARTS: u64 = 1;
/// Choices that are run whole behind the descents.
const FINALISTS: usize = 4;
/// How far behind the best in cheap runs a choice may be to be compared with it in whole ones.
const NEAR: f64 = 1.03;
/// Rounds of a descent, and of the comparison behind it, at most; both end by themselves long before.
const ROUNDS: usize = 8;

/// Runs choices and returns their costs, in order; none where a choice is impossible.
pub type Evaluate<'e> = &'e mut dyn FnMut(&[KnobChoice], Extent) -> Result<Vec<Option<f64>>>;

/// A search of a space.
pub struct Search<'s, 'e> {
    space: &'s Space,
    evaluate: Evaluate<'e>,
    known: BTreeMap<(Extent, KnobChoice), Option<f64>>,
}

/// What a search found.
#[derive(Debug, Clone, PartialEq)]
pub struct FoundChoice {
    /// The best choice; none where every choice is impossible.
    pub best: Option<KnobChoice>,
    /// Choices that were run whole, and those of which only the first steps were.
    pub runs: [u64; 2],
}

impl<'s, 'e> Search<'s, 'e> {
    /// A search that has not begun.
    pub fn new(space: &'s Space, evaluate: Evaluate<'e>) -> Self {
        Search { space, evaluate, known: BTreeMap::new() }
    }

    /// The best choice. A descent also begins at each of `starts`.
    ///
    /// # Errors
    /// Those of the evaluation.
    pub fn run(&mut self, method: SearchMethod, starts: &[KnobChoice]) -> Result<FoundChoice> {
        let best = match method {
            SearchMethod::Exhaustive => {
                let all: Vec<KnobChoice> = self.space.choices().collect();
                self.best_of(&all, Extent::Whole)?
            }
            SearchMethod::Descent => self.descend(starts)?,
        };
        let count = |extent| self.known.keys().filter(|(e, _)| *e == extent).count() as u64;
        Ok(FoundChoice { best, runs: [count(Extent::Whole), count(Extent::Begin)] })
    }

    fn descend(&mut self, starts: &[KnobChoice]) -> Result<Option<KnobChoice>> {
        let restarts = (1..=RESTARTS).map(|i| self.restart(i));
        let begins: Vec<KnobChoice> =
            [self.space.default_choice()].into_iter().chain(starts.iter().cloned()).chain(restarts).collect();
        for begin in begins {
            self.descent(begin)?;
        }
        let mut order: Vec<(f64, usize, KnobChoice)> = (self.known.iter())
            .filter(|((extent, _), _)| *extent == Extent::Begin)
            .filter_map(|((_, choice), cost)| Some(((*cost)?, self.space.changed(choice).len(), choice.clone())))
            .collect();
        order.sort_by(|a, b| a.0.total_cmp(&b.0).then_with(|| (a.1, &a.2).cmp(&(b.1, &b.2))));
        // Of choices that cost the same to the last digit, one stands for all.
        order.dedup_by_key(|(cost, ..)| cost.to_bits());
        let mut finalists: Vec<KnobChoice> = order.into_iter().map(|(.., choice)| choice).take(FINALISTS).collect();
        finalists.push(self.space.default_choice());
        let Some(mut best) = self.best_of(&finalists, Extent::Whole)? else { return Ok(None) };
        for _ in 0..ROUNDS {
            let moves = self.moves(&best);
            let choices: Vec<KnobChoice> = moves.iter().map(|(_, choice)| choice.clone()).collect();
            let costs = self.costs(&choices, Extent::Begin)?;
            let here = self.costs(std::slice::from_ref(&best), Extent::Begin)?[0];
            // Where row-blocks and heads go may matter only once rows are full; what else costs the same to the last digit in the
            // first steps differs in nothing that matters here.
            let near = |block: KnobBlock, cost: Option<f64>| match (cost, here) {
                (Some(c), Some(h)) => c <= h * NEAR && (c != h || block == KnobBlock::Placement),
                _ => false,
            };
            let rivals = moves.into_iter().zip(costs).filter(|((block, _), cost)| near(*block, *cost));
            let mut rivals: Vec<KnobChoice> = rivals.map(|((_, choice), _)| choice).collect();
            rivals.push(best.clone());
            match self.best_of(&rivals, Extent::Whole)? {
                Some(better) if better != best => best = better,
                _ => break,
            }
        }
        Ok(Some(best))
    }

    /// A choice far from the default, the same at every call.
    fn restart(&self, number: u64) -> KnobChoice {
        let knobs = self.space.knobs.iter().zip(1u64..);
        // A multiplicative hash spreads the settings; any other spread would do.
        let setting = |n: usize, i: u64| ((number * 31 + i).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 33) % n as u64;
        knobs.map(|(knob, i)| setting(knob.settings.len(), i) as u8).collect()
    }

    /// From a choice down to one that no block of knobs improves, in cheap runs.
    fn descent(&mut self, mut at: KnobChoice) -> Result<()> {
        for _ in 0..ROUNDS {
            let before = at.clone();
            for block in KnobBlock::ALL {
                let tried = self.block(&at, block);
                at = self.best_of(&tried, Extent::Begin)?.unwrap_or(at);
            }
            if at == before {
                break;
            }
        }
        Ok(())
    }

    /// A choice with all settings of a block of knobs.
    fn block(&self, at: &KnobChoice, block: KnobBlock) -> Vec<KnobChoice> {
        let mut out = vec![at.clone()];
        for (i, knob) in self.space.knobs.iter().enumerate().filter(|(_, knob)| knob.block == block) {
            let settings = 0..knob.settings.len() as u8;
            out = out.iter().flat_map(|c| settings.clone().map(move |s| Space::with(c, &[(i, s)]))).collect();
        }
        out
    }

    /// Choices that differ in one knob, with the block of it.
    fn moves(&self, at: &KnobChoice) -> Vec<(KnobBlock, KnobChoice)> {
        let knobs = self.space.knobs.iter().enumerate();
        let others = |(i, knob): (usize, &super::space::Knob)| {
            let settings = (0..knob.settings.len() as u8).filter(|s| *s != at[i]);
            settings.map(|s| (knob.block, Space::with(at, &[(i, s)]))).collect::<Vec<_>>()
        };
        knobs.flat_map(others).collect()
    }

    /// The cheapest of choices; none where all are impossible.
    fn best_of(&mut self, choices: &[KnobChoice], extent: Extent) -> Result<Option<KnobChoice>> {
        let costs = self.costs(choices, extent)?;
        let known = choices.iter().zip(costs).filter_map(|(choice, cost)| Some((cost?, choice)));
        let changes = |choice: &KnobChoice| (self.space.changed(choice).len(), choice.clone());
        let better = |a: &(f64, &KnobChoice), b: &(f64, &KnobChoice)| {
            a.0.total_cmp(&b.0).then_with(|| changes(a.1).cmp(&changes(b.1)))
        };
        Ok(known.min_by(better).map(|(_, choice)| choice.clone()))
    }

    /// Costs of choices, each run once.
    fn costs(&mut self, choices: &[KnobChoice], extent: Extent) -> Result<Vec<Option<f64>>> {
        let mut open: Vec<KnobChoice> =
            choices.iter().filter(|c| !self.known.contains_key(&(extent, (*c).clone()))).cloned().collect();
        open.sort();
        open.dedup();
        if !open.is_empty() {
            let costs = (self.evaluate)(&open, extent)?;
            self.known.extend(open.into_iter().map(|choice| (extent, choice)).zip(costs));
        }
        Ok(choices.iter().map(|choice| self.known[&(extent, choice.clone())]).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::super::space::{Knob, KnobSetting};
    use super::*;

    fn space(sizes: &[(usize, KnobBlock)]) -> Space {
        let setting = |i: usize| KnobSetting { text: i.to_string(), overrides: Vec::new() };
        let knob = |(n, block): &(usize, KnobBlock)| Knob {
            key: "k",
            settings: (0..*n).map(setting).collect(),
            block: *block,
        };
        Space { knobs: sizes.iter().map(knob).collect() }
    }

    /// A cost in which knobs of a block act on each other, and cheap runs are a few percent off.
    fn rugged(choice: &KnobChoice, extent: Extent, seed: u64) -> Option<f64> {
        let hash = |x: u64| {
            (x ^ seed).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29).wrapping_mul(0xBF58_476D_1CE4_E5B9) >> 40
        };
        let pair =
            |i: usize| hash(1000 * i as u64 + 16 * u64::from(choice[2 * i]) + u64::from(choice[2 * i + 1])) % 100;
        let off = match extent {
            Extent::Whole => 1.0,
            Extent::Begin => 1.0 + (hash(choice.iter().fold(7, |h, c| h * 5 + u64::from(*c))) % 100) as f64 * 1e-4,
        };
        Some((400 + (0..choice.len() / 2).map(pair).sum::<u64>()) as f64 * off)
    }

    #[test]
    fn a_descent_finds_what_all_choices_have_at_best() {
        use KnobBlock::{Keys, Placement, Schedule, Values};
        let sizes = [
            (3, Keys),
            (3, Keys),
            (4, Values),
            (3, Values),
            (2, Placement),
            (5, Placement),
            (2, Schedule),
            (2, Schedule),
        ];
        let space = space(&sizes);
        for seed in 0..40 {
            let found = |method| {
                let mut evaluate =
                    |choices: &[KnobChoice], e| Ok(choices.iter().map(|c| rugged(c, e, seed)).collect::<Vec<_>>());
                Search::new(&space, &mut evaluate).run(method, &[]).unwrap()
            };
            let (all, some) = (found(SearchMethod::Exhaustive), found(SearchMethod::Descent));
            let cost = |found: &FoundChoice| rugged(found.best.as_ref().unwrap(), Extent::Whole, seed).unwrap();
            assert!(cost(&some) <= cost(&all) * 1.01, "{seed}: {} for {}", cost(&some), cost(&all));
            assert!(all.runs == [space.size(), 0] && some.runs[0] < 60 && some.runs[1] < space.size() / 8, "{some:?}");
        }
    }

    #[test]
    fn of_equal_costs_the_default_wins_and_impossible_choices_never() {
        let space = space(&[(3, KnobBlock::Keys), (2, KnobBlock::Values)]);
        let best = |costs: &dyn Fn(&KnobChoice) -> Option<f64>, method| {
            let mut evaluate = |choices: &[KnobChoice], _| Ok(choices.iter().map(costs).collect::<Vec<_>>());
            Search::new(&space, &mut evaluate).run(method, &[]).unwrap().best
        };
        for method in [SearchMethod::Exhaustive, SearchMethod::Descent] {
            assert_eq!(best(&|_| Some(1.0), method), Some(vec![0, 0]));
            assert_eq!(best(&|c| (c[0] == 2).then_some(1.0), method), Some(vec![2, 0]));
            assert_eq!(best(&|_| None, method), None);
        }
    }
}
