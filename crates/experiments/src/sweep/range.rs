//! Ranges of a grid file: values that are assumed, each moved to the ends of a stated range while all others stay.
//!
//! A `[[range]]` makes two variants of a grid, at its low and at its high end, beside the variant [`BASE`], in which nothing
//! is moved. A `[[held]]` names assumed values that stay, and why.

use super::grid::{Grid, Job, flatten, shown};
use pimattn_core::error::{Error, Result};
use pimattn_core::spec::System;
use pimattn_core::spec::config::Document;
use serde::Deserialize;
use toml::Value;

/// The variant in which every value is as it ships.
pub const BASE: &str = "base";

/// A value that is moved.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ValueRange {
    /// What it is.
    pub name: String,
    /// The keys as they ship, of the workload or, as `system.KEY`, of the system.
    base: toml::Table,
    /// The same keys at the low end.
    low: toml::Table,
    /// The same keys at the high end.
    high: toml::Table,
    /// The three as text, where keys have different values; without it, the values.
    said: Option<[String; 3]>,
    /// Why the range reaches so far, and no further.
    pub why: String,
}

/// Assumed values that are not moved.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeldValues {
    /// Their keys.
    pub keys: Vec<String>,
    /// Why they do not matter here, or cannot be moved.
    pub why: String,
}

/// Where a value is in its range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RangePoint {
    /// As it ships.
    Base,
    /// At the low end.
    Low,
    /// At the high end.
    High,
}

impl ValueRange {
    fn table(&self, at: RangePoint) -> &toml::Table {
        match at {
            RangePoint::Base => &self.base,
            RangePoint::Low => &self.low,
            RangePoint::High => &self.high,
        }
    }

    /// The keys with their values there.
    pub fn values(&self, at: RangePoint) -> Vec<(String, Value)> {
        let mut flat = Vec::new();
        flatten(self.table(at), "", &mut flat);
        flat.into_iter().map(|(key, value)| (key, value.clone())).collect()
    }

    /// The keys.
    pub fn keys(&self) -> Vec<String> {
        self.values(RangePoint::Base).into_iter().map(|(key, _)| key).collect()
    }

    /// The value there as text: one, if all keys have the same.
    pub fn shown(&self, at: RangePoint) -> String {
        if let Some(said) = &self.said {
            return said[at as usize].clone();
        }
        let mut values: Vec<String> = self.values(at).iter().map(|(_, value)| shown(value)).collect();
        values.dedup();
        values.join(", ")
    }

    /// The name of the variant with the value there.
    pub fn variant(&self, at: RangePoint) -> String {
        match at {
            RangePoint::Base => BASE.into(),
            RangePoint::Low => format!("{}: low", self.name),
            RangePoint::High => format!("{}: high", self.name),
        }
    }

    /// Refuses ends that are no other values of the same keys; `at` is the range's place in the document.
    pub(super) fn check(&self, doc: &Document, at: &str) -> Result<()> {
        let keys = self.keys();
        if keys.is_empty() {
            return Err(doc.error(&format!("{at}.base"), "no key to move"));
        }
        for (name, end) in [("low", RangePoint::Low), ("high", RangePoint::High)] {
            let values = self.values(end);
            if !values.iter().map(|(key, _)| key).eq(&keys) {
                return Err(
                    doc.error(&format!("{at}.{name}"), format!("expected the keys of base: {}", keys.join(", ")))
                );
            }
        }
        match self.values(RangePoint::Low) == self.values(RangePoint::High) {
            true => Err(doc.error(&format!("{at}.high"), "both ends are the same")),
            false => Ok(()),
        }
    }
}

/// What a job runs, whatever its values name for their sources.
fn resolved(job: &Job) -> Result<(Value, String)> {
    fn plain(value: Value) -> Value {
        match value {
            Value::Table(mut table) if table.contains_key("value") && table.contains_key("source") => {
                table.remove("value").unwrap_or(Value::Table(table))
            }
            Value::Table(table) => Value::Table(table.into_iter().map(|(key, value)| (key, plain(value))).collect()),
            other => other,
        }
    }
    let workload = Value::try_from(&job.workload).map_err(|e| Error::data(job.doc.file(), e.to_string()))?;
    // The settings of the system are text, in which an override shows whatever its value.
    let system = System { settings: String::new(), ..job.system.clone() };
    Ok((plain(workload), format!("{system:?}")))
}

impl Grid {
    /// Whether the ranges say truly what ships: each one's `base` changes nothing of a point in which nothing is moved.
    ///
    /// # Errors
    /// Names the first range whose `base` is another value.
    pub fn check_bases(&self) -> Result<()> {
        let Some(point) = self.points().into_iter().find(|p| self.shown(p).any(|value| value == BASE)) else {
            return Ok(());
        };
        let ships = resolved(&self.prepare(&point)?)?;
        for (i, range) in self.ranges.iter().enumerate() {
            if resolved(&self.prepare_with(&point, &range.values(RangePoint::Base))?)? != ships {
                let what = format!("{} = {} is not what ships", range.keys().join(", "), range.shown(RangePoint::Base));
                return Err(self.error(&format!("range[{i}].base"), what));
            }
        }
        Ok(())
    }
}
