//! Configuration files: TOML with a line number for every key, `--set` overrides, and errors that name the place
//! and the nearest valid name.

use crate::error::{Error, Result, suggest};
use crate::fsio;
use crate::presets::{self, PresetKind};
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Bytes of a configuration, at most: a model fitted to all heads of a large model has some ten million.
pub(super) const MOST_BYTES: u64 = 256 << 20;
/// Parts of a dotted key, at most.
const MAX_DEPTH: usize = 16;

/// A parsed configuration file, with overrides applied.
#[derive(Debug, Clone)]
pub struct Document {
    file: PathBuf,
    table: toml::Table,
    lines: BTreeMap<String, usize>,
    /// Where each key was set whose value is not the file's: as errors name the place.
    set: BTreeMap<String, String>,
}

/// A table as TOML: traces and the keys of sweeps are told apart by it, so that an empty text would be worse than none.
fn text_of(table: &toml::Table) -> String {
    toml::to_string(table).expect("a table of TOML can be written as TOML")
}

impl Document {
    /// Reads `file` and applies `overrides` (each `dotted.key=value`, the value in TOML or a bare word).
    pub fn load(file: &Path, overrides: &[String]) -> Result<Self> {
        let bytes = match presets::read(file)? {
            Some(bytes) => bytes,
            None => {
                let input = std::fs::File::open(file).map_err(|e| Error::io(file, e))?;
                fsio::read_all(file, input, MOST_BYTES)?.into()
            }
        };
        let text = String::from_utf8(bytes.into_owned())
            .map_err(|_| Error::Config { at: file.display().to_string(), what: "not UTF-8 text".into() })?;
        fsio::refuse_pointer(file, text.as_bytes())?;
        Self::parse(file, &text, overrides)
    }

    /// As [`Document::load`], from text.
    pub fn parse(file: &Path, text: &str, overrides: &[String]) -> Result<Self> {
        let spanned = toml::de::DeTable::parse(text).map_err(|e| Error::Config {
            at: format!("{}:{}", file.display(), line_of(text, e.span().map_or(0, |s| s.start))),
            what: e.message().to_string(),
        })?;
        let mut lines = BTreeMap::new();
        record_lines(spanned.get_ref(), "", &LineStarts::of(text), &mut lines);
        let table: toml::Table = toml::from_str(text).map_err(|e| Error::Config {
            at: format!("{}:{}", file.display(), line_of(text, e.span().map_or(0, |s| s.start))),
            what: e.message().to_string(),
        })?;
        let mut doc = Document { file: file.to_path_buf(), table, lines, set: BTreeMap::new() };
        for o in overrides {
            doc.apply(o)?;
        }
        Ok(doc)
    }

    /// A configuration that was made in code and has no lines; errors say `name` for the place.
    pub fn of_table(name: &str, table: toml::Table) -> Self {
        Document { file: name.into(), table, lines: BTreeMap::new(), set: BTreeMap::new() }
    }

    /// The configuration with further overrides, as those of [`Document::load`].
    ///
    /// # Errors
    /// [`Error::Usage`] where one is not `key=value`.
    pub fn with(&self, overrides: &[String]) -> Result<Self> {
        let mut doc = self.clone();
        overrides.iter().try_for_each(|o| doc.apply(o))?;
        Ok(doc)
    }

    /// The line of `key` (dotted).
    pub fn line(&self, key: &str) -> Option<usize> {
        self.lines.get(key).copied()
    }

    /// The file that this came from.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// The path that the value of a key means: a preset by its name, or a path from the file's folder; an overridden one is
    /// from the working directory.
    ///
    /// # Errors
    /// [`Error::Config`] at the key where there is no such file, and [`Error::NoInput`] where it is no configuration.
    pub fn resolve_path(&self, kind: PresetKind, key: &str, path: &str) -> Result<PathBuf> {
        let folder = match self.set.contains_key(key) {
            true => Path::new(""),
            false => self.file.parent().unwrap_or(Path::new("")),
        };
        presets::resolve(kind, path, folder).map_err(|e| match e {
            Error::Usage(what) => self.error(key, what),
            Error::NoInput(path) if kind.is_configuration() => {
                self.error(key, format!("{} file {} does not exist", kind.name(), path.display()))
            }
            other => other,
        })
    }

    /// The configuration as TOML text, overrides included, in sorted order.
    pub fn canonical(&self) -> String {
        text_of(&self.table)
    }

    /// The same, but that `key`, of the first level, has another value.
    pub fn canonical_with(&self, key: &str, value: &str) -> String {
        let mut table = self.table.clone();
        table.insert(key.into(), value.into());
        text_of(&table)
    }

    /// Refuses a configuration of another kind by name, where its keys tell.
    ///
    /// # Errors
    /// [`Error::Config`] that says what the file is, and what is wanted.
    pub fn expect(&self, kind: PresetKind) -> Result<()> {
        match PresetKind::with_keys(|key| self.table.contains_key(key)) {
            Some(other) if other != kind => {
                Err(self.error("", format!("this is the file of a {}; a {} is expected", other.name(), kind.name())))
            }
            _ => Ok(()),
        }
    }

    /// The whole document as a `T`.
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T> {
        serde_path_to_error::deserialize(toml::Value::Table(self.table.clone())).map_err(|e| {
            let path = e.path().to_string();
            self.serde_error(if path == "." { "" } else { &path }, e.inner().message())
        })
    }

    /// An error at `key` (dotted), with serde's message made readable and a nearest-name hint added.
    pub fn serde_error(&self, key: &str, message: &str) -> Error {
        let message = message.trim();
        let quoted: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
        let is_unknown = message.starts_with("unknown field") || message.starts_with("unknown variant");
        if let (true, Some((wrong, valid))) = (is_unknown, quoted.split_first()) {
            let kind = if message.starts_with("unknown field") { "key" } else { "value" };
            let at = match kind {
                "key" if !key.ends_with(wrong) => {
                    [key, wrong].iter().filter(|s| !s.is_empty()).copied().collect::<Vec<_>>().join(".")
                }
                _ => key.to_string(),
            };
            return self.error(&at, format!("unknown {kind} \"{wrong}\"{}", suggest(wrong, valid.iter().copied())));
        }
        let shown = if key.is_empty() { String::new() } else { format!("{key}: ") };
        // The types of the code mean nothing to a reader.
        let words = [
            ("expected usize", "expected a whole number"),
            ("expected u32", "expected a whole number"),
            ("expected u64", "expected a whole number"),
            ("expected i64", "expected a whole number"),
            ("expected f64", "expected a number"),
            ("expected a boolean", "expected true or false"),
            ("expected a sequence", "expected a list"),
            ("expected a map", "expected a table"),
            ("invalid type: string", "invalid type: text"),
            ("invalid type: map", "invalid type: a table"),
            ("invalid type: sequence", "invalid type: a list"),
        ];
        let message = words.iter().fold(message.replace('`', "\""), |text, (from, to)| text.replace(from, to));
        self.error(key, format!("{shown}{message}"))
    }

    /// An error at `key` (dotted).
    pub fn error(&self, key: &str, what: impl Into<String>) -> Error {
        let mut at = key;
        // A table that only overrides made has no line; one of them is the place.
        let inside = |(k, _): &(&String, &String)| k.strip_prefix(key).is_some_and(|rest| rest.starts_with('.'));
        if let (false, Some((_, at))) = (self.lines.contains_key(key), self.set.iter().find(inside)) {
            return Error::Config { at: at.clone(), what: what.into() };
        }
        loop {
            if let Some(at) = self.set.get(at) {
                return Error::Config { at: at.clone(), what: what.into() };
            }
            if let Some(line) = self.lines.get(at) {
                return Error::Config { at: format!("{}:{line}", self.file.display()), what: what.into() };
            }
            match at.rfind(['.', '[']) {
                Some(i) => at = &at[..i],
                None => return Error::Config { at: self.file.display().to_string(), what: what.into() },
            }
        }
    }

    fn apply(&mut self, text: &str) -> Result<()> {
        let wrong = |what: &str| Error::Usage(format!("--set {text}: {what}"));
        let (key, value) = text.split_once('=').ok_or_else(|| wrong("expected key=value"))?;
        let (key, value) = (key.trim(), value.trim());
        let value = match format!("v = {value}").parse::<toml::Table>() {
            Ok(mut t) if t.len() == 1 => t.remove("v").ok_or_else(|| wrong("no value"))?,
            _ => toml::Value::String(value.to_string()),
        };
        let parts: Vec<&str> = key.split('.').collect();
        if parts.iter().any(|p| p.is_empty()) {
            return Err(wrong("empty key"));
        }
        if parts.len() > MAX_DEPTH {
            return Err(wrong(&format!("a key of {} parts; at most {MAX_DEPTH}", parts.len())));
        }
        let (last, path) = parts.split_last().ok_or_else(|| wrong("empty key"))?;
        let mut at = &mut self.table;
        for p in path {
            at = at
                .entry(*p)
                .or_insert_with(|| toml::Value::Table(toml::Table::new()))
                .as_table_mut()
                .ok_or_else(|| wrong(&format!("\"{p}\" is not a table")))?;
        }
        let value = as_text_where(at.get(*last), value);
        at.insert((*last).to_string(), value);
        self.set.insert(key.to_string(), format!("--set {text}"));
        Ok(())
    }

    /// Puts the values of a table of another document, there below `from`, in place of those of the table at `path`; if
    /// there is none, nothing. Of a list of tables that have names, a key is the name of one. A number that names its
    /// source (`{ value = ..., source = ... }`) keeps it where only another number is given.
    ///
    /// # Errors
    /// [`Error::Config`] at the place in the other document, where a list has no table of a name, or a value is to be put
    /// in place of a table.
    pub fn replace_in(&mut self, path: &[&str], values: &toml::Table, other: &Document, from: &str) -> Result<()> {
        let Document { table, set, .. } = self;
        let at = path.iter().try_fold(table, |table, name| table.get_mut(*name)?.as_table_mut());
        let Some(table) = at else { return Ok(()) };
        let prefix: String = path.iter().map(|name| format!("{name}.")).collect();
        merge(table, values, "", &mut |key, at| {
            let Error::Config { at, .. } = other.error(&format!("{from}.{at}"), "") else { return };
            set.insert(format!("{prefix}{key}"), at);
        })
        .map_err(|(key, what)| other.error(&format!("{from}.{key}"), what))
    }
}

/// A number given for a key that holds a text is one: `dram.timing=5200` names a preset.
fn as_text_where(old: Option<&toml::Value>, value: toml::Value) -> toml::Value {
    match (old, value) {
        (Some(toml::Value::String(_)), v @ (toml::Value::Integer(_) | toml::Value::Float(_))) => {
            toml::Value::String(v.to_string())
        }
        (_, v) => v,
    }
}

/// Puts values in place of those of a table. `put` is told the key of each, here and in `values` (a list has places here
/// and names there).
fn merge(
    table: &mut toml::Table,
    values: &toml::Table,
    prefix: &str,
    put: &mut dyn FnMut(&str, &str),
) -> std::result::Result<(), (String, String)> {
    use toml::Value;
    for (name, value) in values {
        let key = format!("{prefix}{name}");
        match (table.get_mut(name), value) {
            (Some(Value::Table(inner)), Value::Table(values)) => {
                merge(inner, values, &format!("{key}."), put)?;
            }
            (Some(Value::Array(list)), Value::Table(values)) => {
                let names: Vec<String> =
                    list.iter().map(|v| v.get("name").and_then(Value::as_str).unwrap_or_default().into()).collect();
                for (of, values) in values {
                    let at = format!("{key}.{of}");
                    let Some(place) = names.iter().position(|n| n == of) else {
                        let what = format!("no {name} \"{of}\"{}", suggest(of, names.iter().map(String::as_str)));
                        return Err((at, what));
                    };
                    let (Some(inner), Some(values)) = (list[place].as_table_mut(), values.as_table()) else {
                        return Err((at, format!("a {name} is a table of keys")));
                    };
                    let (here, there) = (format!("{key}[{place}]."), format!("{at}."));
                    merge(inner, values, &there, &mut |k, at| put(&k.replacen(&there, &here, 1), at))?;
                }
            }
            (Some(Value::Table(inner)), value) if inner.contains_key("value") => {
                inner.insert("value".into(), value.clone());
                put(&key, &key);
            }
            (Some(Value::Table(_)), _) => return Err((key, format!("{name} is a table of keys"))),
            (old, value) => {
                let value = as_text_where(old.as_deref(), value.clone());
                table.insert(name.clone(), value);
                put(&key, &key);
            }
        }
    }
    Ok(())
}

fn line_of(text: &str, byte: usize) -> usize {
    1 + text.as_bytes()[..byte.min(text.len())].iter().filter(|b| **b == b'\n').count()
}

/// Where the lines of a text begin.
struct LineStarts(Vec<usize>);

impl LineStarts {
    fn of(text: &str) -> Self {
        LineStarts(std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect())
    }

    /// The line that a byte is in, from 1.
    fn line(&self, byte: usize) -> usize {
        self.0.partition_point(|start| *start <= byte)
    }
}

fn record_lines(table: &toml::de::DeTable<'_>, prefix: &str, text: &LineStarts, out: &mut BTreeMap<String, usize>) {
    use toml::de::DeValue;
    fn value(v: &DeValue<'_>, path: &str, text: &LineStarts, out: &mut BTreeMap<String, usize>) {
        match v {
            DeValue::Table(t) => record_lines(t, path, text, out),
            DeValue::Array(items) => {
                for (i, item) in items.iter().enumerate() {
                    let path = format!("{path}[{i}]");
                    out.insert(path.clone(), text.line(item.span().start));
                    value(item.get_ref(), &path, text, out);
                }
            }
            _ => {}
        }
    }
    for (k, v) in table.iter() {
        let path = if prefix.is_empty() { k.get_ref().to_string() } else { format!("{prefix}.{}", k.get_ref()) };
        out.insert(path.clone(), text.line(k.span().start));
        value(v.get_ref(), &path, text, out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Deserialize, Debug)]
    #[serde(deny_unknown_fields)]
    struct Inner {
        #[allow(dead_code)]
        timing: String,
    }

    #[derive(Deserialize, Debug)]
    #[serde(deny_unknown_fields)]
    struct Outer {
        #[allow(dead_code)]
        refresh: String,
        dram: Inner,
    }

    fn doc(text: &str, set: &[&str]) -> Result<Outer> {
        let set: Vec<String> = set.iter().map(|s| s.to_string()).collect();
        Document::parse(Path::new("x.toml"), text, &set)?.decode()
    }

    const GOOD: &str = "refresh = \"all\"\n[dram]\ntiming = \"HBM3_5.2Gbps\"\n";

    #[test]
    fn an_unknown_key_names_line_and_nearest() {
        let e = doc("refresh = \"all\"\n[dram]\ntimming = \"a\"\n", &[]).unwrap_err();
        assert_eq!(e.to_string(), "x.toml:3: unknown key \"timming\"; did you mean \"timing\"?");
        assert!(matches!(e, Error::Config { .. }));
    }

    #[test]
    fn a_wrong_type_names_the_key_and_line() {
        let e = doc("refresh = 3\n[dram]\ntiming = \"a\"\n", &[]).unwrap_err().to_string();
        assert!(e.starts_with("x.toml:1: refresh: invalid type"), "{e}");
    }

    #[test]
    fn overrides_apply_and_their_errors_name_them() {
        let o = doc(GOOD, &["dram.timing=HBM3_5.2Gbps_NPC", "refresh=none"]).unwrap();
        assert_eq!((o.dram.timing.as_str(), o.refresh.as_str()), ("HBM3_5.2Gbps_NPC", "none"));
        let e = doc(GOOD, &["dram.tming=x"]).unwrap_err().to_string();
        assert!(e.starts_with("--set dram.tming=x: unknown key"), "{e}");
        assert!(matches!(doc(GOOD, &["nonsense"]), Err(Error::Usage(_))));
    }

    #[test]
    fn values_of_another_document_take_the_place_of_this_ones() {
        let text =
            "a = \"1 ns\"\n[b]\nc = { value = 3, source = \"s\" }\n[[d]]\nname = \"x\"\n[[d]]\nname = \"y\"\nn = 1\n";
        let with = |other: &str| {
            let mut doc = Document::parse(Path::new("x.toml"), text, &[]).unwrap();
            let other = Document::parse(Path::new("y.toml"), &format!("[set]\n{other}\n"), &[]).unwrap();
            let values = other.table["set"].as_table().unwrap().clone();
            doc.replace_in(&[], &values, &other, "set").map(|()| doc)
        };
        let doc = with("a = \"2 ns\"\nb.c = 4\nd.y.n = 5\nd.y.m = 6").unwrap();
        let wanted = "a = \"2 ns\"\n\n[b.c]\nsource = \"s\"\nvalue = 4\n\n[[d]]\nname = \"x\"\n\n[[d]]\nm = 6\nn = 5\nname = \"y\"\n";
        assert_eq!(doc.canonical(), wanted);
        let at = |key: &str| doc.error(key, "?").to_string();
        assert_eq!([at("b.c"), at("d[1].m"), at("d[0].name")], ["y.toml:3: ?", "y.toml:5: ?", "x.toml:5: ?"]);
        let e = with("d.z.n = 1").unwrap_err().to_string();
        assert!(e.starts_with("y.toml:2: no d \"z\""), "{e}");
        assert!(with("b = 1").unwrap_err().to_string().contains("b is a table"));
    }

    #[test]
    fn a_syntax_error_names_its_line() {
        let e = doc("refresh = \"all\"\n[dram\n", &[]).unwrap_err().to_string();
        assert!(e.starts_with("x.toml:2: "), "{e}");
    }
}
