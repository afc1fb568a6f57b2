//! Numbers with a unit and a source, as configuration files write them: `"19 tCK"`, or
//! `{ value = "909 pJ", source = "FGDRAM" }` where the source differs from its table's.

use crate::error::suggest;
use crate::units::{ClockPeriod, Cycle};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::marker::PhantomData;

/// A physical dimension with its accepted units.
pub trait Dimension {
    /// Unit names with their factor to the base unit.
    const UNITS: &'static [(&'static str, f64)];
}

macro_rules! dimension {
    ($(#[$doc:meta])* $name:ident: $($unit:literal = $factor:expr),+) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq)]
        pub enum $name {}
        impl Dimension for $name {
            const UNITS: &'static [(&'static str, f64)] = &[$(($unit, $factor)),+];
        }
    };
}

dimension!(/** Periods of a clock, base ps. */ Period: "ps" = 1.0, "ns" = 1000.0);
dimension!(/** Sizes, base byte. */ Size: "B" = 1.0, "KB" = 1024.0, "MB" = 1048576.0);
dimension!(/** Density of one channel, base gigabit. */ Density: "Gb" = 1.0);
dimension!(/** Energy of one event, base pJ. */ Energy: "pJ" = 1.0, "nJ" = 1000.0);
dimension!(/** Energy per bit, base pJ/b. */ EnergyPerBit: "pJ/b" = 1.0, "pJ/B" = 0.125);
dimension!(/** Power, base mW (= pJ/ns). */ Power: "mW" = 1.0, "W" = 1000.0);
dimension!(/** Arithmetic, base operations per second. */ ComputeRate: "TFLOPS" = 1e12);
dimension!(/** Bandwidth, base B/s. */ Bandwidth: "GB/s" = 1e9);
dimension!(/** Latency of something large, base s. */ Latency: "us" = 1e-6, "ns" = 1e-9);
dimension!(/** Time of one more byte, base s/B. */ LatencyPerByte: "ps/B" = 1e-12, "ns/B" = 1e-9);
dimension!(/** Transfer rate of a data pin, base MT/s. */ Rate: "MT/s" = 1.0, "Gbps" = 1000.0);

/// A value of one dimension, in its base unit.
#[derive(Debug, Clone, PartialEq)]
pub struct Quantity<D> {
    /// The value in the base unit.
    pub value: f64,
    /// Where the value is from, when it says so itself.
    pub source: Option<String>,
    dimension: PhantomData<D>,
}

/// A duration, in clock cycles or nanoseconds.
#[derive(Debug, Clone, PartialEq)]
pub struct Duration {
    /// The number.
    pub value: f64,
    /// Whether it counts nanoseconds (else clock cycles).
    pub in_ns: bool,
    /// Where the value is from, when it says so itself.
    pub source: Option<String>,
}

impl Duration {
    /// As clock cycles, not rounded.
    pub fn in_cycles(&self, clock: ClockPeriod) -> f64 {
        if self.in_ns { self.value / clock.ns(1) } else { self.value }
    }

    /// As clock cycles; nanoseconds by JEDEC's rounding.
    pub fn cycles(&self, clock: ClockPeriod) -> Cycle {
        if self.in_ns { clock.cycles_jedec(self.value) } else { self.value as Cycle }
    }
}

/// Number and unit as written, and the source that the value names itself.
fn written<'de, D: Deserializer<'de>>(de: D, unit: &str) -> Result<(String, Option<String>), D::Error> {
    let bare = |n: String| <D::Error as de::Error>::custom(format!("{n} has no unit; write \"{n} {unit}\""));
    match toml::Value::deserialize(de)? {
        toml::Value::String(text) => Ok((text, None)),
        toml::Value::Integer(n) => Err(bare(n.to_string())),
        toml::Value::Float(n) => Err(bare(n.to_string())),
        toml::Value::Table(table) => {
            let keys = ["value", "source"];
            if let Some(wrong) = table.keys().find(|k| !keys.contains(&k.as_str())) {
                return Err(<D::Error as de::Error>::custom(format!(
                    "unknown key \"{wrong}\"{}",
                    suggest(wrong, keys)
                )));
            }
            let text = |key: &str| match table.get(key) {
                Some(toml::Value::String(s)) => Ok(s.clone()),
                Some(other) if key == "value" => Err(bare(other.to_string())),
                Some(_) => Err(<D::Error as de::Error>::custom(format!("{key} must be text"))),
                None => Err(<D::Error as de::Error>::custom(format!(
                    "{{ value = \"...\", source = \"...\" }} has no {key}"
                ))),
            };
            Ok((text("value")?, Some(text("source")?)))
        }
        other => Err(<D::Error as de::Error>::custom(format!("{other} is not a number with a unit"))),
    }
}

fn parse<'de, D: Deserializer<'de>>(de: D, units: &[(&str, f64)]) -> Result<(f64, usize, Option<String>), D::Error> {
    use de::Error as E;
    let expected = || units.iter().map(|(u, _)| *u).collect::<Vec<_>>().join(" or ");
    let (text, source) = written(de, units[0].0)?;
    let (number, unit) = match text.trim().split_once(char::is_whitespace) {
        Some((n, u)) => (n, u.trim()),
        None => {
            return Err(<D::Error as E>::custom(format!(
                "\"{text}\" needs a number, a space and a unit ({})",
                expected()
            )));
        }
    };
    let value: f64 = number.parse().map_err(|_| <D::Error as E>::custom(format!("\"{number}\" is not a number")))?;
    if !value.is_finite() || value < 0.0 {
        return Err(<D::Error as E>::custom(format!("\"{text}\" must be finite and not negative")));
    }
    match units.iter().position(|(u, _)| *u == unit) {
        Some(i) => Ok((value * units[i].1, i, source)),
        None => Err(<D::Error as E>::custom(format!("unknown unit \"{unit}\"; expected {}", expected()))),
    }
}

impl<'de, D: Dimension> Deserialize<'de> for Quantity<D> {
    fn deserialize<De: Deserializer<'de>>(de: De) -> Result<Self, De::Error> {
        let (value, _, source) = parse(de, D::UNITS)?;
        Ok(Quantity { value, source, dimension: PhantomData })
    }
}

/// As a configuration file writes it.
impl Serialize for Duration {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let text = format!("{} {}", self.value, if self.in_ns { "ns" } else { "tCK" });
        match &self.source {
            None => to.serialize_str(&text),
            Some(source) => std::collections::BTreeMap::from([("value", &text), ("source", source)]).serialize(to),
        }
    }
}

impl<'de> Deserialize<'de> for Duration {
    fn deserialize<De: Deserializer<'de>>(de: De) -> Result<Self, De::Error> {
        let (value, unit, source) = parse(de, &[("tCK", 1.0), ("ns", 1.0)])?;
        if unit == 0 && (value.fract() != 0.0 || value > 1e9) {
            return Err(de::Error::custom(format!("{value} tCK is not a whole number of cycles below 1e9")));
        }
        if value > 1e9 {
            return Err(de::Error::custom(format!("{value} ns is more than a second")));
        }
        Ok(Duration { value, in_ns: unit == 1, source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn duration(text: &str) -> Result<Duration, String> {
        #[derive(Deserialize, Debug)]
        struct T {
            x: Duration,
        }
        toml::from_str::<T>(text).map(|t| t.x).map_err(|e| e.message().to_string())
    }

    #[test]
    fn units_are_required_and_checked() {
        assert_eq!(duration("x = \"350 ns\"").unwrap().cycles(ClockPeriod(769)), 456);
        assert_eq!(duration("x = { value = \"19 tCK\", source = \"a\" }").unwrap().source.as_deref(), Some("a"));
        assert!(duration("x = { value = \"19 tCK\" }").unwrap_err().contains("has no source"));
        assert!(duration("x = 19").unwrap_err().contains("has no unit"));
        assert!(duration("x = \"19 furlongs\"").unwrap_err().contains("expected tCK or ns"));
        assert!(duration("x = \"1.5 tCK\"").unwrap_err().contains("whole number"));
        for text in ["350 ns", "19 tCK", "0.05 ns"] {
            let bare = Duration { source: None, ..duration(&format!("x = \"{text}\"")).unwrap() };
            let sourced = Duration { source: Some("a".into()), ..bare.clone() };
            for d in [bare, sourced] {
                let written = toml::to_string(&std::collections::BTreeMap::from([("x", &d)])).unwrap();
                assert_eq!(duration(&written), Ok(d), "{written}");
            }
        }
        assert!(duration("x = \"-1 ns\"").unwrap_err().contains("negative"));
    }
}
