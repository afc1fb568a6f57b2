//! Schema of a grid file (`configs/sweep/*.toml`), and its points.

use super::range::{BASE, HeldValues, RangePoint, ValueRange};
use pimattn_core::error::{Error, Result, suggest};
use pimattn_core::presets::PresetKind;
use pimattn_core::spec::System;
use pimattn_core::spec::config::Document;
use pimattn_core::table::Value as Cell;
use pimattn_mapping::workload::Workload;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use toml::Value;

/// Most points of a grid.
const MAX_POINTS: usize = 1 << 20;
/// The axis of workload files; every grid has it.
const WORKLOAD: &str = "workload";
/// The axis of system files; without it each workload is replayed on its own system.
const SYSTEM: &str = "system";
/// The axis of KV dumps, instead of the workload's own.
const KV: &str = "kv";
/// The axis of model files, whose shapes a synthetic source takes.
const MODEL: &str = "model";
/// Axes whose values are files.
const FILES: [&str; 4] = [WORKLOAD, SYSTEM, KV, MODEL];
/// The axis of variants: keys that change together, under a name.
const VARIANT: &str = "variant";
/// Keys of the system file begin so; all others are keys of the workload file.
const OF_SYSTEM: &str = "system.";

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct GridFile {
    name: String,
    #[serde(default = "yes")]
    accuracy: bool,
    axes: toml::Table,
    #[serde(default)]
    variants: BTreeMap<String, toml::Table>,
    #[serde(default)]
    skip: Vec<toml::Table>,
    #[serde(default)]
    range: Vec<ValueRange>,
    #[serde(default)]
    held: Vec<HeldValues>,
}

fn yes() -> bool {
    true
}

/// Whether a name is one of a folder beside others: none above, below or hidden, on any system.
fn is_folder_name(name: &str) -> bool {
    let is_odd = |c: char| c.is_control() || matches!(c, '/' | '\\' | ':');
    !name.is_empty() && !name.starts_with('.') && !name.contains(is_odd)
}

/// A loaded grid.
#[derive(Debug)]
pub struct Grid {
    /// Name, for reports.
    pub name: String,
    /// Whether accuracy is measured beside cost.
    pub accuracy: bool,
    /// A dump that all points read instead of what the grid says.
    pub kv: Option<PathBuf>,
    /// Layers of the dumps that all points run, instead of what the grid says.
    pub layers: Option<Vec<u32>>,
    /// Values that are moved, one at a time.
    pub ranges: Vec<ValueRange>,
    /// Assumed values that are not.
    pub held: Vec<HeldValues>,
    variants: BTreeMap<String, Vec<(String, Value)>>,
    doc: Document,
    axes: Vec<GridAxis>,
    /// By rule, axes and those of their values that it speaks of.
    skip: Vec<Vec<(usize, Vec<usize>)>>,
}

/// One dimension of the grid.
#[derive(Debug)]
struct GridAxis {
    key: String,
    values: Vec<Value>,
}

/// A point of the grid: for each axis, which of its values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Point {
    /// Place in the whole grid, from 0, whatever is left out.
    pub index: usize,
    choice: Vec<usize>,
}

/// A point made ready: everything that its result depends on, the dump's content aside.
pub struct Job {
    /// The workload.
    pub workload: Workload,
    /// Its file, with the point's overrides.
    pub doc: Document,
    /// The system, for addresses and for replay.
    pub system: System,
    /// The KV dump, if one is read.
    pub kv: Option<PathBuf>,
    /// The model file whose shape the cache has, if so.
    pub model: Option<PathBuf>,
    /// The fitted statistics that a synthetic cache has, if so.
    pub fit: Option<PathBuf>,
}

impl Job {
    /// A workload with its configuration, made ready: on its system with these overrides, with this dump instead of its own.
    ///
    /// # Errors
    /// Those of [`Workload::load_system`].
    pub fn of(workload: Workload, doc: Document, of_system: &[String], kv: Option<PathBuf>) -> Result<Self> {
        let system = workload.load_system(&doc, of_system)?;
        let kv = match kv {
            Some(kv) => Some(kv),
            None => workload.kv_path(&doc)?,
        };
        let model = workload.model_path(&doc)?;
        let fit = if kv.is_none() { workload.fit_path(&doc)? } else { None };
        Ok(Job { workload, doc, system, kv, model, fit })
    }

    /// What is read besides configurations, and what for.
    pub fn inputs(&self) -> impl Iterator<Item = (&'static str, PathBuf)> {
        let files = [("kv", &self.kv), ("model", &self.model), ("fit", &self.fit)];
        files.into_iter().filter_map(|(role, file)| Some((role, file.clone()?)))
    }
}

impl Grid {
    /// Loads a grid file.
    pub fn load(file: &Path) -> Result<Self> {
        Grid::load_with(file, &[])
    }

    /// Loads a grid file with overrides (`axes.budget=[64, 128]`).
    ///
    /// # Errors
    /// [`Error::Config`] for what is wrong in it.
    pub fn load_with(file: &Path, overrides: &[String]) -> Result<Self> {
        let doc = Document::load(file, overrides).map_err(|e| match e {
            // TOML has no key that is a value and a table.
            Error::Config { at, what } if what.contains("dotted key") => {
                Error::Config { at, what: format!("{what}: put it in quotes, such as \"system.power\"") }
            }
            other => other,
        })?;
        doc.expect(PresetKind::Grid)?;
        let GridFile { name, accuracy, axes, variants, skip, range: ranges, held } = doc.decode()?;
        if !is_folder_name(&name) {
            let what = format!("\"{name}\" cannot be the name of a folder, in which results of the grid may be kept");
            return Err(doc.error("name", what));
        }
        let axes = axes_of(&axes, &doc)?;
        let keys = |table: &toml::Table| {
            let mut flat = Vec::new();
            flatten(table, "", &mut flat);
            flat.into_iter().map(|(key, value)| (key, value.clone())).collect()
        };
        let variants = variants.iter().map(|(name, table)| (name.clone(), keys(table))).collect();
        let mut grid =
            Grid { name, accuracy, kv: None, layers: None, ranges, held, variants, axes, doc, skip: Vec::new() };
        grid.add_ranges()?;
        grid.check_variants()?;
        // In the order of the file: the first axis changes slowest.
        let line = |axis: &GridAxis| grid.doc.line(&format!("axes.{}", axis.key));
        grid.axes.sort_by_cached_key(|axis| (line(axis), axis.key.clone()));
        if !grid.axes.iter().any(|a| a.key == WORKLOAD) {
            return Err(grid.doc.error("axes", "no axis \"workload\": a list of workload files"));
        }
        if [KV, MODEL].iter().all(|key| grid.axes.iter().any(|a| a.key == *key)) {
            return Err(grid
                .doc
                .error("axes.model", "a dump of the axis \"kv\" has its own shape, not that of a model"));
        }
        let size = grid.axes.iter().try_fold(1usize, |n, axis| n.checked_mul(axis.values.len()));
        if size.is_none_or(|n| n > MAX_POINTS) {
            return Err(grid.doc.error("axes", format!("more than {MAX_POINTS} points")));
        }
        grid.skip = (0..).zip(&skip).map(|(i, table)| grid.rule(i, table)).collect::<Result<_>>()?;
        Ok(grid)
    }

    /// Each range is two variants, beside the base.
    fn add_ranges(&mut self) -> Result<()> {
        if self.ranges.is_empty() {
            return Ok(());
        }
        let mut added = vec![(BASE.to_string(), Vec::new())];
        for (i, range) in self.ranges.iter().enumerate() {
            let at = format!("range[{i}]");
            range.check(&self.doc, &at)?;
            for end in [RangePoint::Low, RangePoint::High] {
                let name = range.variant(end);
                if self.variants.contains_key(&name) || added.iter().any(|(n, _)| *n == name) {
                    return Err(self.doc.error(&format!("{at}.name"), format!("\"{}\" stands twice", range.name)));
                }
                added.push((name, range.values(end)));
            }
        }
        let place = self.axes.iter().position(|a| a.key == VARIANT).unwrap_or(self.axes.len());
        if place == self.axes.len() {
            self.axes.push(GridAxis { key: VARIANT.into(), values: Vec::new() });
        }
        for (name, keys) in added {
            let value = Value::String(name.clone());
            if !self.axes[place].values.contains(&value) {
                self.axes[place].values.push(value);
            }
            self.variants.entry(name).or_insert(keys);
        }
        Ok(())
    }

    /// An error at a key of the grid file.
    pub fn error(&self, key: &str, what: impl Into<String>) -> Error {
        self.doc.error(key, what)
    }

    /// The axis names every variant, and no other.
    fn check_variants(&self) -> Result<()> {
        let none = Vec::new();
        let named = self.axes.iter().find(|a| a.key == VARIANT).map_or(&none, |a| &a.values);
        for name in named {
            if !name.as_str().is_some_and(|n| self.variants.contains_key(n)) {
                let hint = suggest(&shown(name), self.variants.keys().map(String::as_str));
                let what = format!("no table [variants.{}]{hint}", shown(name));
                return Err(self.doc.error("axes.variant", what));
            }
        }
        match self.variants.keys().find(|n| !named.iter().any(|v| v.as_str() == Some(n))) {
            Some(name) => {
                let what = format!("the axis \"{VARIANT}\" does not name {name}");
                Err(self.doc.error(&format!("variants.{name}"), what))
            }
            None => Ok(()),
        }
    }

    /// One `[[skip]]`: by axis, the values that it speaks of.
    fn rule(&self, i: usize, table: &toml::Table) -> Result<Vec<(usize, Vec<usize>)>> {
        let at = |key: &str| format!("skip[{i}].{key}");
        let one = |(key, values): (String, &Value)| {
            let axis = self.axes.iter().position(|a| a.key == key).ok_or_else(|| {
                let hint = suggest(&key, self.axes.iter().map(|a| a.key.as_str()));
                self.doc.error(&at(&key), format!("no axis \"{key}\"{hint}"))
            })?;
            let values = values.as_array().cloned().unwrap_or_else(|| vec![values.clone()]);
            let which = |value: &Value| {
                self.axes[axis].values.iter().position(|v| v == value).ok_or_else(|| {
                    self.doc.error(&at(&key), format!("the axis \"{key}\" has no value {}", shown(value)))
                })
            };
            Ok((axis, values.iter().map(which).collect::<Result<_>>()?))
        };
        let mut flat = Vec::new();
        flatten(table, "", &mut flat);
        if flat.is_empty() {
            return Err(self.doc.error(&format!("skip[{i}]"), "an empty rule would leave nothing"));
        }
        flat.into_iter().map(one).collect()
    }

    /// Values of an axis, as text; none where there is no such axis.
    pub fn values(&self, axis: &str) -> Vec<String> {
        let values = self.axes.iter().find(|a| a.key == axis).map_or(&[][..], |a| &a.values);
        values.iter().map(shown).collect()
    }

    /// Names of the axes.
    pub fn axes(&self) -> impl Iterator<Item = &str> {
        self.axes.iter().map(|a| a.key.as_str())
    }

    /// The points that no rule leaves out, in order.
    pub fn points(&self) -> Vec<Point> {
        let size = self.axes.iter().map(|a| a.values.len()).product();
        (0..size).map(|index| self.point(index)).filter(|p| !self.skips(p)).collect()
    }

    fn point(&self, index: usize) -> Point {
        let (mut rest, mut choice) = (index, vec![0; self.axes.len()]);
        for (c, axis) in choice.iter_mut().zip(&self.axes).rev() {
            *c = rest % axis.values.len();
            rest /= axis.values.len();
        }
        Point { index, choice }
    }

    /// The values of a point, as the table shows them.
    pub fn shown(&self, point: &Point) -> impl Iterator<Item = String> {
        self.axes.iter().zip(&point.choice).map(|(axis, c)| shown(&axis.values[*c]))
    }

    /// The values of a point as cells of a table.
    pub fn cells(&self, point: &Point) -> impl Iterator<Item = Cell> {
        let cell = |value: &Value| match value {
            Value::Integer(n) => u64::try_from(*n).map_or_else(|_| Cell::Float(*n as f64, 0), Cell::Int),
            Value::Float(x) => Cell::Float(*x, f64::DIGITS as usize),
            other => Cell::Text(shown(other)),
        };
        self.axes.iter().zip(&point.choice).map(move |(axis, c)| cell(&axis.values[*c]))
    }

    fn skips(&self, point: &Point) -> bool {
        self.skip.iter().any(|rule| rule.iter().all(|(axis, values)| values.contains(&point.choice[*axis])))
    }

    /// Loads what a point runs; an error names the point.
    pub fn prepare(&self, point: &Point) -> Result<Job> {
        self.prepare_with(point, &[])
    }

    /// The same with more keys, which take precedence over the point's.
    pub(super) fn prepare_with(&self, point: &Point, more: &[(String, Value)]) -> Result<Job> {
        let (mut workload, mut kv, mut of_system, mut of_workload) = (None, None, Vec::new(), Vec::new());
        let mut put = |at: &str, key: &str, value: &Value| {
            let path = |kind| self.doc.resolve_path(kind, at, value.as_str().unwrap_or_default());
            let quoted = |path: PathBuf| format!("{key}={}", Value::String(path.display().to_string()));
            match key {
                WORKLOAD => workload = Some(path(PresetKind::Workload)?),
                KV => kv = Some(path(PresetKind::Cache)?),
                SYSTEM => of_workload.push(quoted(path(PresetKind::System)?)),
                MODEL => of_workload.push(quoted(path(PresetKind::Model)?)),
                key => match key.strip_prefix(OF_SYSTEM) {
                    Some(key) => of_system.push(format!("{key}={value}")),
                    None => of_workload.push(format!("{key}={value}")),
                },
            }
            Ok::<(), Error>(())
        };
        let chosen = || self.axes.iter().zip(&point.choice).map(|(axis, c)| (axis, &axis.values[*c]));
        for (axis, value) in chosen().filter(|(axis, _)| axis.key != VARIANT) {
            put("axes", &axis.key, value)?;
        }
        // Behind the axes: of two settings of a key, the variant's holds.
        for (_, name) in chosen().filter(|(axis, _)| axis.key == VARIANT) {
            let keys = name.as_str().and_then(|name| self.variants.get(name));
            keys.into_iter().flatten().try_for_each(|(key, value)| put("variants", key, value))?;
        }
        more.iter().try_for_each(|(key, value)| put("range", key, value))?;
        let kv = self.kv.clone().or(kv);
        of_workload.extend(self.layers.iter().map(|layers| format!("layers={layers:?}")));
        let load = || {
            let (workload, doc) = Workload::load(&workload.clone().unwrap_or_default(), &of_workload)?;
            Job::of(workload, doc, &of_system, kv.clone())
        };
        load().map_err(|e| match e {
            Error::Config { at, what } => Error::Config { at, what: format!("{what} (point {})", point.name(self)) },
            other => other,
        })
    }
}

impl Point {
    /// The values that make it.
    pub fn name(&self, grid: &Grid) -> String {
        let pairs = grid.axes.iter().zip(grid.shown(self)).filter(|(a, _)| a.values.len() > 1 || grid.axes.len() == 1);
        let pairs: Vec<_> = pairs.map(|(axis, value)| format!("{}={value}", axis.key)).collect();
        format!("{}: {}", self.index, pairs.join(" "))
    }
}

/// Values by dotted key.
pub(super) fn flatten<'t>(table: &'t toml::Table, prefix: &str, out: &mut Vec<(String, &'t Value)>) {
    for (name, value) in table {
        let key = format!("{prefix}{name}");
        match value {
            Value::Table(inner) => flatten(inner, &format!("{key}."), out),
            value => out.push((key, value)),
        }
    }
}

/// Keys with a list of values; a table holds keys of its own.
fn axes_of(table: &toml::Table, doc: &Document) -> Result<Vec<GridAxis>> {
    let (mut axes, mut flat) = (Vec::new(), Vec::new());
    flatten(table, "", &mut flat);
    for (key, value) in flat {
        let at = format!("axes.{key}");
        match value {
            Value::Array(values) if values.is_empty() => return Err(doc.error(&at, "an axis without values")),
            Value::Array(values) => {
                if FILES.contains(&key.as_str()) && !values.iter().all(Value::is_str) {
                    return Err(doc.error(&at, format!("\"{key}\" is a list of files")));
                }
                if let Some(twice) = values.iter().enumerate().find(|(i, v)| values[..*i].contains(v)) {
                    return Err(doc.error(&at, format!("{} stands twice", shown(twice.1))));
                }
                axes.push(GridAxis { key, values: values.clone() });
            }
            _ => return Err(doc.error(&at, format!("\"{key}\" is not a list of values"))),
        }
    }
    Ok(axes)
}

/// A value without quotes around a text.
pub(super) fn shown(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), String::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grid(text: &str) -> Result<Grid> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("grid.toml");
        std::fs::write(&file, text).unwrap();
        Grid::load(&file)
    }

    const AXES: &str =
        "name = \"t\"\n[axes]\nworkload = [\"w.toml\"]\npolicy = [\"full\", \"starc\"]\nbudget = [64, 128]\n";

    #[test]
    fn the_first_axis_changes_slowest_and_rules_leave_points_out() {
        let g = grid(AXES).unwrap();
        assert_eq!(g.axes().collect::<Vec<_>>(), ["workload", "policy", "budget"]);
        let values = |p| g.shown(p).skip(1).collect::<Vec<_>>().join(" ");
        let shown: Vec<_> = g.points().iter().map(values).collect();
        assert_eq!(shown, ["full 64", "full 128", "starc 64", "starc 128"]);
        let g = grid(&format!("{AXES}[[skip]]\npolicy = \"full\"\nbudget = [128]\n")).unwrap();
        assert_eq!(g.points().iter().map(|p| p.index).collect::<Vec<_>>(), [0, 2, 3]);
    }

    #[test]
    fn dotted_keys_are_axes_too() {
        let text = format!("{AXES}mapping.addressing = [\"ideal\"]\n\"system.power\" = [\"stagger\"]\n");
        let g = grid(&text).unwrap();
        assert_eq!(g.axes().skip(3).collect::<Vec<_>>(), ["mapping.addressing", "system.power"]);
    }

    #[test]
    fn variants_set_several_keys_under_a_name() {
        let text = format!(
            "{AXES}variant = [\"a\", \"b\"]\n[variants.a]\n[variants.b]\nbudget = 7\nsystem.power = \"ignore\"\n"
        );
        let g = grid(&text).unwrap();
        assert_eq!(g.points().len(), 8);
        assert_eq!(g.variants["b"].iter().map(|(k, _)| k.as_str()).collect::<Vec<_>>(), ["budget", "system.power"]);
        let e = grid(&text.replace("\"b\"]", "\"c\"]")).unwrap_err().to_string();
        assert!(e.contains("no table [variants.c]"), "{e}");
        let e = grid(&text.replace(", \"b\"]", "]")).unwrap_err().to_string();
        assert!(e.contains("does not name b"), "{e}");
    }

    #[test]
    fn what_makes_no_grid_is_an_error_with_its_line() {
        let bad = |from: &str, to: &str| grid(&AXES.replace(from, to)).unwrap_err().to_string();
        assert!(bad("workload = [\"w.toml\"]\n", "").contains("no axis \"workload\""));
        assert!(bad("[64, 128]", "64").contains("grid.toml:5: \"budget\" is not a list"));
        assert!(bad("[64, 128]", "[]").contains("grid.toml:5: an axis without values"));
        assert!(bad("[64, 128]", "[64, 64]").contains("64 stands twice"));
        assert!(bad("[\"w.toml\"]", "[1]").contains("is a list of files"));
        let e = grid(&format!("{AXES}[[skip]]\npolcy = \"full\"\n")).unwrap_err().to_string();
        assert!(e.contains("did you mean \"policy\""), "{e}");
        let e = grid(&format!("{AXES}[[skip]]\npolicy = \"quest\"\n")).unwrap_err().to_string();
        assert!(e.contains("has no value quest"), "{e}");
    }
}
