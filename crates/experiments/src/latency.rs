//! Latency of attention against context, as a line: what serving simulators take of a memory that computes.
//!
//! LLMServingSim 2 (casys-kaist/LLMServingSim, `serving/core/pim_model.py`, `docs/docs/reference/pim-config.md`) has of a PIM
//! device a DRAMsim3-like INI file and two numbers, for the attention of one layer of one request on one memory channel:
//!
//! ```text
//! latency_ns = (slope * (heads / kv_heads) / (32 / 8) * context + intercept * (heads * head_dim) / (32 * 128)) / channels
//! ```

use pimattn_core::error::{Error, Result};
use pimattn_core::spec::System;
use pimattn_core::units::Cycle;
use pimattn_stats::energy::Energy;
use std::fmt::Write;

/// The shape for which the formula's numbers are: Llama-3.1-8B, as LLMServingSim has it.
pub const BASE: AttentionShape = AttentionShape { heads: 32, kv_heads: 8, head_dim: 128 };

/// The shape of a layer's attention.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AttentionShape {
    /// Query heads of the model's layer.
    pub heads: u32,
    /// KV heads of the model's layer; each serves as many query heads.
    pub kv_heads: u32,
    /// Elements of a query, key or value.
    pub head_dim: u32,
}

impl AttentionShape {
    /// What the formula multiplies the slope by for this shape.
    fn slope_scale(&self) -> f64 {
        let group = |s: &AttentionShape| f64::from(s.heads) / f64::from(s.kv_heads);
        group(self) / group(&BASE)
    }

    /// What the formula multiplies the intercept by.
    fn intercept_scale(&self) -> f64 {
        let width = |s: &AttentionShape| f64::from(s.heads) * f64::from(s.head_dim);
        width(self) / width(&BASE)
    }
}

/// The attention of a layer at a context, as it was simulated.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LatencyPoint {
    /// Tokens in the cache, mean over the decode steps.
    pub context: f64,
    /// Time of a decode step in ns, mean over the steps.
    pub ns: f64,
    /// Mean power of the channel over the run, in mW.
    pub mw: f64,
}

/// Latency as a line over the context.
#[derive(Debug, Clone, PartialEq)]
pub struct LatencyModel {
    /// The shape that was simulated.
    pub shape: AttentionShape,
    /// What it was fitted to, by context.
    pub points: Vec<LatencyPoint>,
    /// ns for each token of context, for the shape that was simulated.
    pub slope: f64,
    /// ns at a context of none.
    pub intercept: f64,
}

impl LatencyModel {
    /// The line with the least sum of squared relative errors: a step at a short context counts like one at a long one.
    ///
    /// # Errors
    /// [`Error::Usage`] with fewer than two contexts.
    pub fn fit(shape: AttentionShape, points: Vec<LatencyPoint>) -> Result<Self> {
        let sum = |of: &dyn Fn(&LatencyPoint) -> f64| points.iter().map(|p| of(p) / (p.ns * p.ns)).sum::<f64>();
        let [n, x, y] = [sum(&|_| 1.0), sum(&|p| p.context), sum(&|p| p.ns)];
        let [xx, xy] = [sum(&|p| p.context * p.context), sum(&|p| p.context * p.ns)];
        let spread = n * xx - x * x;
        let distinct = points.iter().any(|p| p.context != points[0].context);
        if !distinct || spread <= 0.0 || !spread.is_finite() {
            return Err(Error::Usage("a line needs at least two different contexts".into()));
        }
        let slope = (n * xy - x * y) / spread;
        // Where every context takes the same, what is left is rounding, of either sign.
        let rounding = points.iter().all(|p| (slope * p.context).abs() < 1e-9 * p.ns);
        let slope = if rounding { 0.0 } else { slope };
        Ok(LatencyModel { shape, slope, intercept: (y - slope * x) / n, points })
    }

    /// Latency in ns at a context, for the shape that was simulated, on one channel.
    pub fn ns(&self, context: f64) -> f64 {
        self.slope * context + self.intercept
    }

    /// The line over what was simulated, less one, at a point.
    pub fn error(&self, point: &LatencyPoint) -> f64 {
        self.ns(point.context) / point.ns - 1.0
    }

    /// The largest error of all points, without sign.
    pub fn worst_error(&self) -> f64 {
        self.points.iter().map(|p| self.error(p).abs()).fold(0.0, f64::max)
    }

    /// Slope and intercept for the formula's own shape, [`BASE`].
    pub fn base(&self) -> [f64; 2] {
        [self.slope / self.shape.slope_scale(), self.intercept / self.shape.intercept_scale()]
    }

    /// The highest power of all points, in mW.
    pub fn peak_mw(&self) -> f64 {
        self.points.iter().map(|p| p.mw).fold(0.0, f64::max)
    }
}

/// Power of a system that is idle, in mW for each of its channels.
pub fn idle_mw(system: &System) -> f64 {
    Energy::idle(system, 1.0).total() / f64::from(system.device.geometry.channels)
}

/// What is said of a fit beside its numbers.
pub struct LatencySource {
    /// Name of the file without its ending, by which LLMServingSim finds the two numbers.
    pub stem: String,
    /// What was simulated: lines of text.
    pub about: Vec<String>,
}

/// A PIM configuration of LLMServingSim 2: the device, its power, and the fit, in comments and keys of their own.
pub fn pim_config(model: &LatencyModel, system: &System, source: &LatencySource) -> String {
    let device = &system.device;
    let g = &device.geometry;
    let timing = |name: &str| device.timings.get(name).copied();
    // Bits of a column of all pseudo-channels, in a burst of two transfers a cycle.
    let transfers = timing("nBL").map_or(1, |cycles: Cycle| 2 * cycles as u32).max(1);
    let width = (g.column_bytes * 8 / transfers).max(1);
    let bus_width = width * g.pseudo_channels;
    let ns = f64::from(device.clock.0) / 1000.0;
    let bits = f64::from(g.column_bytes * 8 * g.pseudo_channels);
    let rate = bits / (timing("nBL").unwrap_or(1) as f64 * ns) / f64::from(bus_width) * 1000.0;
    let mut out = String::new();
    let mut line = |text: String| {
        let _ = writeln!(out, "{text}");
    };
    for text in &source.about {
        line(format!("# {text}"));
    }
    let [slope, intercept] = model.base();
    line(format!(
        "# serving/core/pim_model.py, attn_model: \"{}\": {{\"slope\": {slope:.4}, \"intercept\": {intercept:.4}}},",
        source.stem
    ));
    line("# tokens, simulated ns, line's ns, error:".into());
    for p in &model.points {
        let (fitted, error) = (model.ns(p.context), 100.0 * model.error(p));
        line(format!("#   {:.1}, {:.1}, {fitted:.1}, {error:+.2} %", p.context, p.ns));
    }
    line("\n[dram_structure]".into());
    line(format!("protocol = {}", if device.name.contains("HBM") { "HBM" } else { "PIM" }));
    line(format!("bankgroups = {}", g.bank_groups));
    line(format!("banks_per_group = {}", g.banks));
    line(format!("rows = {}", g.rows));
    line(format!("columns = {}                # of device_width bits", g.row_bytes() * 8 / width));
    line(format!("device_width = {width}            # a pseudo-channel"));
    line(format!("BL = {transfers}"));
    line("pim_type = SINGLE".into());
    line(format!("\n[timing]\ntCK = {ns}"));
    line(format!("CL = {}", timing("nCL").unwrap_or(0)));
    line("\n[system]".into());
    let bytes = u64::from(g.banks_per_channel()) * u64::from(g.rows) * u64::from(g.row_bytes());
    let mb = bytes >> 20;
    line(format!("channel_size = {mb}          # MB"));
    line(format!("channels = 1\nbus_width = {bus_width}"));
    line("\n[other]".into());
    line(format!("data_rate = {rate:.1}          # MT/s"));
    line(format!("idle_power = {:.3}         # mW a channel: standing power and refresh", idle_mw(system)));
    line(format!(
        "peak_power = {:.3}         # mW a channel: the most of all contexts, while it attends",
        model.peak_mw()
    ));
    line("\n[pimattn]".into());
    line(format!("slope = {slope:.6}             # ns a token, for 32 query heads, 8 KV heads of 128"));
    line(format!("intercept = {intercept:.6}         # ns"));
    line(format!("fit_error = {:.6}          # largest, of the latency", model.worst_error()));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(context: f64, ns: f64) -> LatencyPoint {
        LatencyPoint { context, ns, mw: context }
    }

    #[test]
    fn a_line_is_found_and_scaled_as_the_formula_does() {
        let shape = AttentionShape { heads: 64, kv_heads: 8, head_dim: 64 };
        let points = [100.0, 300.0, 900.0].map(|x| point(x, 2.5 * x + 40.0)).to_vec();
        let model = LatencyModel::fit(shape, points).unwrap();
        assert!((model.slope - 2.5).abs() < 1e-9 && (model.intercept - 40.0).abs() < 1e-6, "{model:?}");
        assert!(model.worst_error() < 1e-9);
        // The formula multiplies by (64 / 8) / (32 / 8) = 2 and by 64 * 64 / (32 * 128) = 1.
        let [slope, intercept] = model.base();
        assert!((slope - 1.25).abs() < 1e-9 && (intercept - 40.0).abs() < 1e-6);
        assert_eq!(model.peak_mw(), 900.0);
    }

    /// A bent curve: no other line is better by a little.
    #[test]
    fn the_squared_relative_errors_are_least() {
        let points = [64.0, 256.0, 1024.0, 4096.0].map(|x: f64| point(x, 7.0 * x + 30.0 * x.sqrt())).to_vec();
        let model = LatencyModel::fit(BASE, points).unwrap();
        let squares = |m: &LatencyModel| m.points.iter().map(|p| m.error(p).powi(2)).sum::<f64>();
        for (slope, intercept) in [(1e-3, 0.0), (-1e-3, 0.0), (0.0, 0.1), (0.0, -0.1)] {
            let other =
                LatencyModel { slope: model.slope + slope, intercept: model.intercept + intercept, ..model.clone() };
            assert!(squares(&other) > squares(&model));
        }
        assert!(model.worst_error() > 0.01);
    }

    #[test]
    fn a_level_line_has_no_slope_of_rounding() {
        let points = [2080.5, 4128.5, 8224.5].map(|x| point(x, 38345.678)).to_vec();
        let model = LatencyModel::fit(BASE, points).unwrap();
        assert!(model.slope == 0.0 && model.slope.is_sign_positive(), "{}", model.slope);
        assert!((model.intercept - 38345.678).abs() < 1e-6 && model.worst_error() < 1e-9);
    }

    #[test]
    fn one_context_is_no_line() {
        assert!(LatencyModel::fit(BASE, vec![point(5.0, 1.0), point(5.0, 2.0)]).is_err());
        assert!(LatencyModel::fit(BASE, vec![point(5.0, 1.0)]).is_err());
        assert!(LatencyModel::fit(BASE, Vec::new()).is_err());
    }
}
