//! Multiples of units: numbers on an axis are short, and its label says of what.

/// A multiple of a unit, such as ms of ns.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Multiple {
    /// Name of the multiple; empty where there is no unit.
    pub unit: String,
    /// The power of ten that a value in the declared unit is multiplied by.
    power: i32,
}

/// Names of a quantity's units, as tables declare them and as figures show them, with their powers of ten.
type Family = &'static [(&'static str, &'static str, i32)];

/// Quantities that come in multiples.
const FAMILIES: [(&str, Family); 4] = [
    ("time", &[("ps", "ps", -12), ("ns", "ns", -9), ("us", "µs", -6), ("ms", "ms", -3), ("s", "s", 0)]),
    ("energy", &[("pJ", "pJ", -12), ("nJ", "nJ", -9), ("uJ", "µJ", -6), ("mJ", "mJ", -3), ("J", "J", 0)]),
    ("power", &[("uW", "µW", -6), ("mW", "mW", -3), ("W", "W", 0), ("kW", "kW", 3)]),
    ("bytes", &[("B", "B", 0), ("kB", "kB", 3), ("MB", "MB", 6), ("GB", "GB", 9), ("TB", "TB", 12)]),
];

fn family(unit: &str) -> Option<(&'static str, Family)> {
    FAMILIES.into_iter().find(|(_, family)| family.iter().any(|(name, ..)| *name == unit))
}

impl Multiple {
    /// The multiple of a declared unit in which `size` has one to three digits before the point. Units that have no multiples
    /// stay; "1" and "-" are none.
    pub fn of(unit: &str, size: f64) -> Self {
        let Some((_, family)) = family(unit) else {
            let unit = if ["1", "-"].contains(&unit) { "" } else { unit };
            return Multiple { unit: unit.into(), power: 0 };
        };
        let declared = family.iter().find(|(name, ..)| *name == unit).map_or(0, |(_, _, power)| *power);
        let fits = |(_, _, power): &&(&str, &str, i32)| size >= 10f64.powi(power - declared) * (1.0 - 1e-9);
        // What is smaller than all is in the smallest; nothing at all stays as it is declared.
        let same = |(name, ..): &&(&str, &str, i32)| *name == unit;
        let chosen = match size > 0.0 {
            true => family.iter().rev().find(fits).or(family.first()),
            false => family.iter().find(same),
        };
        let (shown, power) = chosen.map_or((unit, declared), |(_, shown, power)| (*shown, *power));
        Multiple { unit: shown.into(), power: declared - power }
    }

    /// A value of the declared unit in this one.
    pub fn value(&self, x: f64) -> f64 {
        match self.power {
            up if up >= 0 => x * 10f64.powi(up),
            down => x / 10f64.powi(-down),
        }
    }
}

/// What is measured in a unit, in a word: time, energy, bytes; the unit itself where it has no other name.
pub fn quantity(unit: &str) -> &str {
    match unit {
        "tCK" | "cycles" => "time",
        other => family(other).map_or(other, |(name, _)| name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_multiple_makes_numbers_short() {
        let said = |unit, x: f64| {
            let m = Multiple::of(unit, x);
            format!("{} {}", m.value(x), m.unit)
        };
        let cases = [
            ("ns", 4e6, "4 ms"),
            ("ns", 999.0, "999 ns"),
            ("ns", 1000.0, "1 µs"),
            ("ns", 0.5, "500 ps"),
            ("us", 0.25, "250 ns"),
            ("pJ", 2.5e9, "2.5 mJ"),
            ("B", 12e9, "12 GB"),
            ("ns", 0.0, "0 ns"),
            ("tCK", 4e6, "4000000 tCK"),
        ];
        for (unit, x, want) in cases {
            assert_eq!(said(unit, x), want);
        }
        assert_eq!(said("1", 0.5), "0.5 ");
    }

    #[test]
    fn units_know_their_quantity() {
        let names = [("tCK", "time"), ("ms", "time"), ("pJ", "energy"), ("B", "bytes"), ("tokens", "tokens")];
        assert!(names.iter().all(|(unit, name)| quantity(unit) == *name));
    }
}
