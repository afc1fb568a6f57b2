//! Scales, and where their ticks are.

use super::unit::Multiple;
use pimattn_core::error::{Error, Result};

/// How values become places.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Scale {
    /// Equal steps; the axis begins at 0.
    #[default]
    FromZero,
    /// Equal steps.
    Linear,
    /// Equal factors.
    Log,
}

/// An axis: what it shows, with its unit, and how.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Axis {
    /// What it shows.
    pub label: String,
    /// Unit of the values, as tables declare it. Ticks are in the multiple of it that makes them short, and the label
    /// names that. Empty where the label says the unit, or there is none.
    pub unit: String,
    /// How.
    pub scale: Scale,
    /// Values that the axis holds beside those of its panel, so that panels can be compared.
    pub holds: Vec<f64>,
}

impl Axis {
    /// An axis whose label says the unit.
    pub fn new(label: impl Into<String>, scale: Scale) -> Self {
        Axis { label: label.into(), scale, ..Axis::default() }
    }

    /// The same of values in this unit.
    pub fn with_unit(mut self, unit: impl Into<String>) -> Self {
        self.unit = unit.into();
        self
    }

    /// The same, long enough for these values too.
    pub fn holding(mut self, values: impl IntoIterator<Item = f64>) -> Self {
        self.holds.extend(values);
        self
    }
}

/// An axis with its range and ticks.
#[derive(Debug, Clone, PartialEq)]
pub struct Ruler {
    /// What the axis shows, with the unit of its ticks.
    pub label: String,
    multiple: Multiple,
    scale: Scale,
    low: f64,
    high: f64,
    /// Values that are marked.
    pub ticks: Vec<f64>,
}

/// Most ticks of an axis.
const TICKS: f64 = 6.0;
/// Most values that are marked themselves.
const MARKED: usize = 8;
/// Powers of ten that are too few for ticks.
const FEW: usize = 4;

impl Ruler {
    /// A ruler that holds all values.
    ///
    /// # Errors
    /// When there is none, one is not finite, or one is not positive and the scale is of factors.
    pub fn over(axis: &Axis, values: impl Iterator<Item = f64>) -> Result<Self> {
        let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
        for x in values.chain(axis.holds.iter().copied()) {
            if !x.is_finite() || axis.scale == Scale::Log && x <= 0.0 {
                return Err(Error::Usage(format!("{x} has no place on the axis \"{}\"", axis.label)));
            }
            (low, high) = (low.min(x), high.max(x));
        }
        if low > high {
            return Err(Error::Usage(format!("no values for the axis \"{}\"", axis.label)));
        }
        let mut ruler = match axis.scale {
            Scale::Log => Self::of_factors(low, high),
            Scale::FromZero => Self::of_steps(axis.scale, low.min(0.0), high.max(0.0)),
            Scale::Linear => Self::of_steps(axis.scale, low, high),
        };
        let size = match axis.scale {
            Scale::Log => (low * high).sqrt(),
            _ => low.abs().max(high.abs()),
        };
        ruler.multiple = Multiple::of(&axis.unit, size);
        ruler.label = match ruler.multiple.unit.as_str() {
            "" => axis.label.clone(),
            unit => format!("{} ({unit})", axis.label),
        };
        Ok(ruler)
    }

    /// A value as ticks and bars show it, in the unit of the label.
    pub fn text(&self, x: f64) -> String {
        short(self.multiple.value(x))
    }

    /// A value with its unit, for those who read one.
    pub fn said(&self, x: f64) -> String {
        match self.multiple.unit.as_str() {
            "" => self.text(x),
            unit => format!("{} {unit}", self.text(x)),
        }
    }

    /// Steps of 1, 2 or 5 times a power of ten; the range ends on ticks.
    fn of_steps(scale: Scale, low: f64, high: f64) -> Self {
        let span = if high > low { high - low } else { high.abs().max(1.0) };
        let power = 10f64.powf((span / TICKS).log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].iter().map(|m| m * power).find(|s| span / s <= TICKS).unwrap_or(10.0 * power);
        let first = (low / step).floor() as i64;
        let last = if high > low { (high / step).ceil() as i64 } else { first + (span / step).ceil() as i64 };
        let ticks = (first..=last).map(|i| i as f64 * step).collect();
        let (low, high) = (first as f64 * step, last as f64 * step);
        Ruler { label: String::new(), multiple: Multiple::default(), scale, low, high, ticks }
    }

    /// Powers of ten, with 2 and 5 or 3 between where there are few; the range ends just outside the values.
    fn of_factors(low: f64, high: f64) -> Self {
        let (from, to) = (low.log10().floor() as i32, high.log10().ceil() as i32);
        let margin = (high / low).powf(0.04).max(1.1);
        let within = |x: &f64| (low / margin..=high * margin).contains(x);
        let with = |between: &[f64]| -> Vec<f64> {
            let all = (from..=to).flat_map(|e| between.iter().map(move |m| m * 10f64.powi(e)));
            all.filter(within).collect()
        };
        let every = (f64::from(to - from) / 8.0).ceil().max(1.0) as i32;
        let mut ticks =
            (from..=to).filter(|e| e % every == 0).map(|e| 10f64.powi(e)).filter(within).collect::<Vec<_>>();
        for between in [&[1.0, 3.0][..], &[1.0, 2.0, 5.0], &[1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]] {
            if ticks.len() < FEW {
                ticks = with(between);
            }
        }
        let (low, high) = (low / margin, high * margin);
        Ruler { label: String::new(), multiple: Multiple::default(), scale: Scale::Log, low, high, ticks }
    }

    /// Marks these values themselves, where they are few and far enough apart to be read.
    pub fn mark(&mut self, mut values: Vec<f64>) {
        values.sort_by(f64::total_cmp);
        values.dedup();
        let (Some(first), Some(last)) = (values.first(), values.last()) else { return };
        let mut own = self.clone();
        if self.scale == Scale::Linear && first < last {
            let margin = (last - first) * 0.06;
            (own.low, own.high) = (first - margin, last + margin);
        }
        let apart = values.windows(2).all(|pair| own.place(pair[1]) - own.place(pair[0]) > 0.09);
        if apart && values.len() > 1 && values.len() <= MARKED {
            own.ticks = values;
            *self = own;
        }
    }

    /// Place of a value, from 0 to 1.
    pub fn place(&self, x: f64) -> f64 {
        match self.scale {
            Scale::Log => (x / self.low).ln() / (self.high / self.low).ln(),
            _ => (x - self.low) / (self.high - self.low),
        }
    }
}

/// A number as ticks and bars show it: at most four digits, in thousands and so on by letters (k, M, G, T).
pub fn short(x: f64) -> String {
    let letters = [(1e12, "T"), (1e9, "G"), (1e6, "M"), (1e4, "k")];
    let (scaled, letter) = match letters.iter().find(|(least, _)| x.abs() >= *least) {
        Some((1e4, letter)) => (x / 1e3, *letter),
        Some((least, letter)) => (x / least, *letter),
        None => (x, ""),
    };
    if scaled != 0.0 && scaled.abs() < 1e-3 {
        return format!("{x:.0e}");
    }
    let decimals = (2 - scaled.abs().max(1e-3).log10().floor() as i32).clamp(0, 5) as usize;
    let text = format!("{scaled:.decimals$}");
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{text}{letter}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ruler(scale: Scale, values: &[f64]) -> Ruler {
        Ruler::over(&Axis::new("a", scale), values.iter().copied()).unwrap()
    }

    #[test]
    fn ticks_are_round_and_enclose_the_values() {
        let r = ruler(Scale::FromZero, &[0.3, 0.93]);
        assert_eq!(r.ticks.len(), 6);
        assert!(r.place(0.0) == 0.0 && r.place(0.93) <= 1.0 && (r.ticks[5] - 1.0).abs() < 1e-12);
        let r = ruler(Scale::Linear, &[16384.0, 32768.0]);
        assert!(r.place(16384.0) >= 0.0 && r.place(32768.0) <= 1.0 && r.ticks[0] >= 10000.0);
        assert_eq!(ruler(Scale::FromZero, &[0.0]).ticks.len(), 6);
    }

    #[test]
    fn factors_have_few_round_ticks() {
        assert_eq!(ruler(Scale::Log, &[1e4, 1e9]).ticks, [1e4, 1e5, 1e6, 1e7, 1e8, 1e9]);
        let near = ruler(Scale::Log, &[100.0, 800.0]);
        assert!(near.ticks.len() >= FEW && near.ticks.iter().all(|t| (0.0..=1.0).contains(&near.place(*t))));
        let r = ruler(Scale::Log, &[1.0, 100.0]);
        assert!((r.place(10.0) - 0.5).abs() < 1e-12);
    }

    #[test]
    fn few_values_are_marked_themselves_unless_they_crowd() {
        let mut r = ruler(Scale::Linear, &[16384.0, 32768.0]);
        r.mark(vec![32768.0, 16384.0, 24576.0, 16384.0]);
        assert_eq!(r.ticks, [16384.0, 24576.0, 32768.0]);
        assert!((r.place(24576.0) - 0.5).abs() < 1e-12 && r.place(16384.0) > 0.0);
        let before = r.clone();
        r.mark(vec![16384.0, 16400.0, 32768.0]);
        assert_eq!(r, before);
    }

    #[test]
    fn ticks_are_in_the_multiple_of_the_unit_that_the_label_names() {
        let over = |axis: Axis, values: &[f64]| Ruler::over(&axis, values.iter().copied()).unwrap();
        let r = over(Axis::new("time", Scale::FromZero).with_unit("ns"), &[1e6, 4e6]);
        assert_eq!((r.label.as_str(), r.text(4e6), r.said(4e6)), ("time (ms)", "4".into(), "4 ms".into()));
        // Of factors, the middle decides.
        let r = over(Axis::new("time", Scale::Log).with_unit("ns"), &[1e2, 1e7]);
        assert_eq!((r.label.as_str(), r.text(1e7)), ("time (µs)", "10k".into()));
        let r = over(Axis::new("budget", Scale::Linear).with_unit("tokens"), &[128.0, 32768.0]);
        assert_eq!((r.label.as_str(), r.text(32768.0)), ("budget (tokens)", "32.8k".into()));
        let r = over(Axis::new("share", Scale::FromZero).with_unit("1"), &[0.5]);
        assert_eq!(r.label, "share");
        let r = over(Axis::new("time", Scale::FromZero).with_unit("ns").holding([8e9]), &[1.0]);
        assert!(r.label == "time (s)" && r.place(8e9) <= 1.0);
    }

    #[test]
    fn what_has_no_place_is_refused() {
        let refused = |scale, values: &[f64]| Ruler::over(&Axis::new("time (s)", scale), values.iter().copied());
        for (scale, values) in [(Scale::Log, &[1.0, 0.0][..]), (Scale::Linear, &[f64::NAN]), (Scale::Linear, &[])] {
            assert!(refused(scale, values).unwrap_err().to_string().contains("time (s)"));
        }
    }

    #[test]
    fn numbers_are_short() {
        let cases = [(0.0, "0"), (0.25, "0.25"), (1.0, "1"), (12.345, "12.3"), (1024.0, "1024"), (32768.0, "32.8k")];
        let large = [(1e6, "1M"), (2.5e9, "2.5G"), (0.00001, "1e-5"), (-3.0, "-3")];
        for (x, want) in cases.into_iter().chain(large) {
            assert_eq!(short(x), want);
        }
    }
}
