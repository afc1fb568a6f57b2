//! docs/device-keys.md: every key of a device file. Which keys and values there are, the deserialiser says; what they mean,
//! the comments of the schema; units, their dimensions.

use crate::common::{documented, root};
use pimattn_core::op::Op;
use pimattn_core::spec::device::{
    Bus, CommandFile, ConstraintSet, ConstraintsFile, Count, DeviceFile, EdgeFile, EnergyFile, OrganisationFile,
    PimFile, PowerBudgetFile, PowerPolicy, ReachFile, Wire,
};
use pimattn_core::spec::quantity::{Density, Dimension, Energy, EnergyPerBit, Period, Power, Rate, Size};
use pimattn_core::spec::{Effect, Level, Scope};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::fmt::Write;

/// The schema's source, in whichever file of it.
fn source() -> String {
    let spec = root().join("crates/core/src/spec");
    let mut files: Vec<_> = std::fs::read_dir(spec).unwrap().map(|e| e.unwrap().path()).collect();
    files.push(root().join("crates/core/src/op.rs"));
    files.sort();
    files
        .iter()
        .filter(|f| f.extension().is_some_and(|e| e == "rs"))
        .map(|f| std::fs::read_to_string(f).unwrap())
        .collect()
}

/// A field, a variant or an operation: name, type, comment, and whether it may be left out.
struct Member {
    name: String,
    kind: String,
    comment: String,
    optional: bool,
}

/// The members of `pub struct NAME` or `pub enum NAME`, or of the table of operations.
fn members(source: &str, head: &str) -> Vec<Member> {
    let (_, body) = source.split_once(&format!("\n{head} {{\n")).unwrap_or_else(|| panic!("no {head}"));
    let (mut out, mut comment, mut default) = (Vec::new(), Vec::new(), false);
    let mut rename = None;
    for line in body.lines().take_while(|l| *l != "}").map(str::trim) {
        if let Some(text) = line.strip_prefix("/// ") {
            comment.push(text);
        } else if line.starts_with("#[") {
            default |= line.contains("default");
            rename = line.split_once("rename = \"").and_then(|(_, r)| r.split('"').next()).or(rename);
        } else if !line.is_empty() {
            let line = line.trim_end_matches([',', ';']);
            let (name, kind) = line.split_once(':').or_else(|| line.split_once('=')).unwrap_or((line, ""));
            let name = rename.take().unwrap_or(name.trim().trim_start_matches("pub ")).to_string();
            let kind = kind.trim().to_string();
            let optional = default || kind.starts_with("Option<");
            out.push(Member { name, kind, comment: std::mem::take(&mut comment).join(" "), optional });
            default = false;
        }
    }
    out
}

/// Names between the backquotes of a complaint about `wrong`.
fn known(complaint: &str) -> Vec<String> {
    complaint.split('`').skip(1).step_by(2).filter(|name| *name != "wrong").map(String::from).collect()
}

/// The keys that a table of the file may have; none where other keys are free.
fn keys<T: DeserializeOwned>() -> Vec<String> {
    known(toml::from_str::<T>("wrong = 1").err().unwrap().message())
}

/// The values that a key may have.
fn values<T: DeserializeOwned>() -> Vec<String> {
    #[derive(Deserialize)]
    struct Of<T> {
        #[allow(dead_code)]
        value: T,
    }
    known(toml::from_str::<Of<T>>("value = \"wrong\"").err().unwrap().message())
}

fn free() -> Vec<String> {
    Vec::new()
}

/// Tables of the file: heading, type, keys.
type Table = (&'static str, &'static str, fn() -> Vec<String>);

const TABLES: [Table; 12] = [
    ("Top level", "DeviceFile", keys::<DeviceFile>),
    ("`[organisation.NAME]`", "OrganisationFile", keys::<OrganisationFile>),
    ("`[pim]`", "PimFile", keys::<PimFile>),
    ("`[timing.NAME]`", "TimingFile", free),
    ("`[refresh_time]`", "RefreshTimeFile", free),
    ("`[power_budget]`", "PowerBudgetFile", keys::<PowerBudgetFile>),
    ("`[[command]]`", "CommandFile", keys::<CommandFile>),
    ("`reach` of a command", "ReachFile", keys::<ReachFile>),
    ("`[[constraints]]`", "ConstraintsFile", keys::<ConstraintsFile>),
    ("An edge of `edges`", "EdgeFile", keys::<EdgeFile>),
    ("`[energy]`", "EnergyFile", keys::<EnergyFile>),
    ("A number that names its source", "Count", keys::<Count>),
];

const VALUES: [Table; 7] = [
    ("`bus`", "Bus", values::<Bus>),
    ("`scope`", "Scope", values::<Scope>),
    ("`effect`", "Effect", values::<Effect>),
    ("`path`", "Wire", values::<Wire>),
    ("`level`, `apart`, `reach`", "Level", values::<Level>),
    ("`set`", "ConstraintSet", values::<ConstraintSet>),
    ("`power`", "PowerPolicy", values::<PowerPolicy>),
];

/// How a value of a type is written.
fn written(kind: &str) -> String {
    fn units<D: Dimension>() -> String {
        let units: Vec<_> = D::UNITS.iter().map(|(unit, _)| format!("`\"1 {unit}\"`")).collect();
        units.join(" or ")
    }
    let inside = |outer: &str| kind.strip_prefix(outer).and_then(|k| k.strip_suffix('>'));
    if let Some(kind) = inside("Option<") {
        return written(kind);
    }
    if let Some(kind) = inside("Vec<") {
        return format!("list: {}", written(kind));
    }
    let name = kind.trim_start_matches("super::");
    if let Some((heading, ..)) = VALUES.iter().find(|(_, of, _)| *of == name) {
        return format!("a value of {}", heading.split(',').next().unwrap());
    }
    if let Some((heading, ..)) = TABLES.iter().find(|(_, of, _)| *of == name) {
        return format!("table: {}{}", heading[..1].to_lowercase(), &heading[1..]);
    }
    match kind {
        "String" => "text".into(),
        "u32" => "whole number".into(),
        "Duration" => "`\"1 tCK\"` or `\"1 ns\"`".into(),
        "Quantity<Density>" => units::<Density>(),
        "Quantity<Size>" => units::<Size>(),
        "Quantity<Rate>" => units::<Rate>(),
        "Quantity<Period>" => units::<Period>(),
        "Quantity<Energy>" => units::<Energy>(),
        "Quantity<EnergyPerBit>" => units::<EnergyPerBit>(),
        "Quantity<Power>" => units::<Power>(),
        "BTreeMap<String, String>" => "table: a text for each key".into(),
        "BTreeMap<String, Duration>" => "`\"1 tCK\"` or `\"1 ns\"`".into(),
        "BTreeMap<String, OrganisationFile>" => "table: `[organisation.NAME]`".into(),
        "BTreeMap<String, TimingFile>" => "table: `[timing.NAME]`".into(),
        other => panic!("{other} has no words yet"),
    }
}

/// Comments name items of the code; a page does not link them.
fn prose(comment: &str) -> String {
    comment.replace("[`", "`").replace("`]", "`").replace('|', "\\|")
}

fn page() -> String {
    let source = source();
    let mut out = String::from(
        "# Keys of a device file\n\nWritten by `make docs` from the schema (`crates/core/src/spec/device.rs`); \
         [add-a-device.md](add-a-device.md) uses them.\n\nEvery number with a unit may name a source of its own: \
         `{ value = \"909 pJ\", source = \"KEY\" }`. A latency expression is a sum or difference of timings of the preset and whole \
         numbers, in clock cycles (`\"nCL + nBL\"`); beside the preset's own there are `nRFC`, of `[refresh_time]`, and `nMAC`, \
         of `[pim]`.\n",
    );
    for (heading, of, keys) in TABLES {
        let _ = write!(out, "\n## {heading}\n\n| key | needed | value | |\n|-|-|-|-|\n");
        let members = members(&source, &format!("pub struct {of}"));
        let known = keys();
        let listed: Vec<String> = members.iter().map(|m| m.name.clone()).collect();
        assert!(known.is_empty() || known == listed, "{of}: {known:?} {listed:?}");
        for m in members {
            // Of a table whose other keys are free, they are the last member.
            let free = known.is_empty() && m.kind.starts_with("BTreeMap");
            let name = if free { "any other".into() } else { format!("`{}`", m.name) };
            let value = if m.name == "serves" { "a value of `serves`".into() } else { written(&m.kind) };
            let needed = if m.optional || free { "" } else { "yes" };
            let _ = writeln!(out, "| {name} | {needed} | {value} | {} |", prose(&m.comment));
        }
    }
    for (heading, of, values) in VALUES {
        let _ = write!(out, "\n## Values of {heading}\n\n| value | |\n|-|-|\n");
        let members = members(&source, &format!("pub enum {of}"));
        let known = values();
        assert_eq!(known.len(), members.len(), "{of}");
        for (value, m) in known.iter().zip(members) {
            let same = |a: &str| a.replace(['-', '_'], "").to_lowercase();
            assert_eq!(same(value), same(&m.name), "{of}: in the order of the schema");
            let _ = writeln!(out, "| `{value}` | {} |", prose(&m.comment));
        }
    }
    let _ = write!(out, "\n## Values of `serves`\n\n| value | |\n|-|-|\n");
    let operations = members(&source, "ops!");
    assert_eq!(operations.len(), Op::COUNT);
    // Marks order a trace, and no command serves them.
    for (op, m) in Op::ALL.iter().zip(operations).filter(|(op, _)| !op.is_mark()) {
        assert!(m.kind.starts_with(&format!("\"{}\"", op.mnemonic())), "{}", m.kind);
        let _ = writeln!(out, "| `{}` | {} |", op.mnemonic(), prose(&m.comment));
    }
    out
}

#[test]
fn the_documented_device_keys_are_those_of_the_schema() {
    let page = documented(&root().join("docs/device-keys.md"), &page());
    assert!(page.is_ok(), "docs/device-keys.md is stale: `make docs` writes it");
}
