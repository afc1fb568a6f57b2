//! Timelines: pictures of a run for viewers that exist.
//!
//! [`chrome`] writes what each channel's cycles were for, and counters, as Chrome's trace events, which Perfetto opens.
//! [`ram2bin`] writes every command in the format of Ramulator 2.1's viewer. Both take a part of the run, a [`TimelineWindow`], and
//! need memory that does not depend on its length: text and columns wait in a [`Spool`](pimattn_core::spool::Spool).
//!
//! The slices of a channel are the cycles as [`account`](super::account) credits them, and tile the channel's time: each
//! cycle is for one phase of one head, or waiting. So the lengths of slices add up to the tables of the run.

pub mod chrome;
mod json;
pub mod ram2bin;
mod samples;
mod slices;
mod work;

use pimattn_core::units::Cycle;
use std::fmt;
use std::str::FromStr;

/// The cycles of a run that a timeline shows, from 0: those from `first` on and before `end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimelineWindow {
    first: Cycle,
    end: Cycle,
}

impl TimelineWindow {
    /// The whole run.
    pub const ALL: TimelineWindow = TimelineWindow { first: 0, end: Cycle::MAX };

    /// The cycles from `first` on and before `end`; none if there are none of these.
    pub fn new(first: Cycle, end: Cycle) -> Option<TimelineWindow> {
        (first < end).then_some(TimelineWindow { first, end })
    }

    /// The first cycle.
    pub fn first(&self) -> Cycle {
        self.first
    }

    /// The cycle behind the last one.
    pub fn end(&self) -> Cycle {
        self.end
    }

    /// Whether a cycle is in it.
    #[inline]
    pub fn contains(&self, cycle: Cycle) -> bool {
        (self.first..self.end).contains(&cycle)
    }

    /// The part of some cycles that is in it, if any.
    #[inline]
    pub fn clip(&self, from: Cycle, to: Cycle) -> Option<(Cycle, Cycle)> {
        let (from, to) = (from.max(self.first), to.min(self.end));
        (from < to).then_some((from, to))
    }
}

impl FromStr for TimelineWindow {
    type Err = String;

    /// `FIRST..END`, in cycles; the end may be left out.
    fn from_str(text: &str) -> Result<Self, String> {
        let expected = || format!("\"{text}\" is not FIRST..END, two numbers of cycles, as in 20000..40000");
        let (first, end) = text.split_once("..").ok_or_else(expected)?;
        let number = |part: &str| part.replace('_', "").parse::<Cycle>().map_err(|_| expected());
        let end = if end.is_empty() { Cycle::MAX } else { number(end)? };
        let first = number(first)?;
        TimelineWindow::new(first, end).ok_or_else(|| format!("no cycle is from {first} on and before {end}"))
    }
}

impl fmt::Display for TimelineWindow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.end {
            Cycle::MAX => write!(f, "{}..", self.first),
            end => write!(f, "{}..{end}", self.first),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_is_two_cycles_the_last_left_out() {
        let window: TimelineWindow = "10..12".parse().unwrap();
        assert_eq!((window.first(), window.end(), window.to_string()), (10, 12, "10..12".into()));
        assert_eq!([9, 10, 11, 12].map(|c| window.contains(c)), [false, true, true, false]);
        assert_eq!(
            (window.clip(0, 11), window.clip(11, 90), window.clip(12, 90)),
            (Some((10, 11)), Some((11, 12)), None)
        );
        assert_eq!("1_000..".parse(), Ok(TimelineWindow { first: 1000, end: Cycle::MAX }));
        for wrong in ["", "10", "..", "..5", "5..5", "7..5", "a..b", "1..2..3", "-1..5"] {
            assert!(wrong.parse::<TimelineWindow>().is_err(), "{wrong}");
        }
    }
}
