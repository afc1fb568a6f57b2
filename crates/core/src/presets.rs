//! Presets: configurations, and a small KV cache, that a program holds inside. A preset has a path as its file has in the
//! sources, behind [`PREFIX`] (`preset:configs/workload/demo.toml`), and a name, which is that of the file without its
//! ending. Wherever a configuration is taken, by an option or by a key of another configuration, the name will do.
//!
//! This crate knows no preset. The crate that holds them says so with [`install`]; without it, there are none.

use crate::error::{Error, Result, suggest};
use std::borrow::Cow;
use std::path::{Component, Path, PathBuf};
use std::sync::OnceLock;

/// What the path of a preset begins with.
pub const PREFIX: &str = "preset:";

/// What a preset is; presets of different kinds may have the same name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PresetKind {
    /// What is generated: policy, mapping, cache.
    Workload,
    /// A device with its controller.
    System,
    /// A DRAM device: organisations, timings, commands, energies.
    Device,
    /// The shape of a language model.
    Model,
    /// GPUs, PIM devices and links.
    Platform,
    /// A grid of points.
    Grid,
    /// An experiment of a paper.
    Plan,
    /// Statistics of a real cache, of which synthetic ones are made.
    Fitted,
    /// A KV cache of a real model.
    Cache,
    /// Row budgets of a published artifact.
    Budgets,
}

impl PresetKind {
    /// All, in the order of a list.
    pub const ALL: [PresetKind; 10] = [
        PresetKind::Workload,
        PresetKind::System,
        PresetKind::Device,
        PresetKind::Model,
        PresetKind::Platform,
        PresetKind::Grid,
        PresetKind::Plan,
        PresetKind::Fitted,
        PresetKind::Cache,
        PresetKind::Budgets,
    ];

    /// The name of the kind, as lists and errors have it.
    pub fn name(self) -> &'static str {
        match self {
            PresetKind::Workload => "workload",
            PresetKind::System => "system",
            PresetKind::Device => "device",
            PresetKind::Model => "model",
            PresetKind::Platform => "platform",
            PresetKind::Grid => "grid",
            PresetKind::Plan => "plan",
            PresetKind::Fitted => "fitted",
            PresetKind::Cache => "cache",
            PresetKind::Budgets => "budgets",
        }
    }

    /// The kind of a configuration that has some of these keys on its first level; none where they are of no kind, or of several.
    pub fn with_keys(has: impl Fn(&str) -> bool) -> Option<PresetKind> {
        let signs: [(PresetKind, &[&str]); 8] = [
            (PresetKind::Workload, &["policy", "policies", "mapping"]),
            (PresetKind::System, &["dram", "controller"]),
            (PresetKind::Device, &["command", "organisation"]),
            (PresetKind::Model, &["kv_heads"]),
            (PresetKind::Platform, &["gpu"]),
            (PresetKind::Grid, &["axes"]),
            (PresetKind::Plan, &["claim", "grids"]),
            (PresetKind::Fitted, &["layer"]),
        ];
        let mut found = signs.into_iter().filter(|(_, signs)| signs.iter().any(|key| has(key)));
        let first = found.next()?.0;
        if found.next().is_some() { None } else { Some(first) }
    }

    /// Whether it is a configuration, not data.
    pub fn is_configuration(self) -> bool {
        !matches!(self, PresetKind::Cache | PresetKind::Budgets)
    }

    /// Where its files are, and what they end with. Presets without an ending are folders.
    fn place(self) -> (&'static str, &'static str) {
        match self {
            PresetKind::Workload => ("configs/workload", ".toml"),
            PresetKind::System => ("configs/system", ".toml"),
            PresetKind::Device => ("configs/dram", ".toml"),
            PresetKind::Model => ("configs/model", ".toml"),
            PresetKind::Platform => ("configs/platform", ".toml"),
            PresetKind::Grid => ("configs/sweep", ".toml"),
            PresetKind::Plan => ("configs/report", ".toml"),
            PresetKind::Fitted => ("configs/synthetic", ".toml"),
            PresetKind::Cache => ("traces", ".safetensors"),
            PresetKind::Budgets => ("traces", ""),
        }
    }
}

/// The files of the presets, by their paths without [`PREFIX`].
#[derive(Debug, Clone, Copy)]
pub struct PresetFiles {
    /// Paths of all files, sorted, so that names are found in order.
    pub paths: fn() -> Vec<Cow<'static, str>>,
    /// What a file holds.
    pub read: fn(&str) -> Option<Cow<'static, [u8]>>,
}

static FILES: OnceLock<PresetFiles> = OnceLock::new();

/// Makes files known as presets. Those of the first call stay; a program holds one set.
pub fn install(files: PresetFiles) {
    // A second call is that of another user of the same program.
    let _ = FILES.set(files);
}

/// Paths of the files of all presets, without [`PREFIX`], sorted.
pub fn paths() -> Vec<Cow<'static, str>> {
    FILES.get().map_or_else(Vec::new, |files| (files.paths)())
}

/// Names of the presets of a kind, sorted.
pub fn names(kind: PresetKind) -> Vec<String> {
    let (folder, ending) = kind.place();
    let name = |path: &str| {
        let rest = path.strip_prefix(folder)?.strip_prefix('/')?;
        match (ending, rest.split_once('/')) {
            ("", Some((folder, _))) => Some(folder.to_string()),
            ("", None) | (_, Some(_)) => None,
            (ending, None) => Some(rest.strip_suffix(ending)?.to_string()),
        }
    };
    let mut names: Vec<String> = paths().iter().filter_map(|path| name(path)).collect();
    names.dedup();
    names
}

/// The path of a preset.
pub fn find(kind: PresetKind, name: &str) -> Option<PathBuf> {
    let (folder, ending) = kind.place();
    names(kind).iter().any(|n| n == name).then(|| format!("{PREFIX}{folder}/{name}{ending}").into())
}

/// The path that is meant by the name of a preset or by a path from `folder`. A word without a separator that is a
/// preset's name means the preset, whatever files there are, so that the same command means the same everywhere.
///
/// # Errors
/// [`Error::Usage`] for what is neither, with the nearest name.
pub fn resolve(kind: PresetKind, given: &str, folder: &Path) -> Result<PathBuf> {
    if given.starts_with(PREFIX) {
        return Ok(given.into());
    }
    if let Some(preset) = find(kind, given) {
        return Ok(preset);
    }
    let path = join(folder, given);
    if exists(&path) {
        return Ok(path);
    }
    let names = names(kind);
    let (_, ending) = kind.place();
    let is_path = given.contains(['/', '\\']) || (!ending.is_empty() && given.ends_with(ending)) || names.is_empty();
    match is_path || Path::new(given).extension().is_some_and(|e| e == "json" || e == "npz") {
        true => Err(Error::NoInput(path)),
        false => {
            let others =
                PresetKind::ALL.into_iter().filter(|other| find(*other, given).is_some()).map(PresetKind::name);
            let others: Vec<&str> = others.collect();
            if !others.is_empty() {
                let (is, wanted) = (others.join(" and a "), kind.name());
                return Err(Error::Usage(format!("{given} is a {is} that the program has inside, not a {wanted}")));
            }
            let near = suggest(given, names.iter().map(String::as_str));
            Err(Error::Usage(format!(
                "{given}: neither a file nor a {} that the program has inside{near}",
                kind.name()
            )))
        }
    }
}

/// The preset that a path to a missing file may mean: one whose file has that name.
pub fn meant(kind: PresetKind, path: &Path) -> Option<String> {
    let stem = path.file_stem()?.to_str()?;
    names(kind).into_iter().find(|name| name == stem)
}

/// A path from a folder. Presets have no file system that would resolve `..`.
fn join(folder: &Path, given: &str) -> PathBuf {
    let path = folder.join(given);
    if !path.as_os_str().to_string_lossy().starts_with(PREFIX) {
        return path;
    }
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => {
                plain.pop();
            }
            Component::CurDir => {}
            // The first folder of a preset carries the prefix: one that climbs out of it comes back into another.
            part if plain.as_os_str().is_empty() => {
                let part = part.as_os_str().to_string_lossy();
                plain.push(format!("{PREFIX}{}", part.trim_start_matches(PREFIX)));
            }
            part => plain.push(part),
        }
    }
    plain
}

/// The path of a preset without [`PREFIX`]; none for the path of a file.
pub fn inside(path: &Path) -> Option<&str> {
    path.to_str()?.strip_prefix(PREFIX)
}

/// What the preset of a path holds; none for the path of a file.
///
/// # Errors
/// [`Error::NoInput`] where no preset has that path.
pub fn read(path: &Path) -> Result<Option<Cow<'static, [u8]>>> {
    let Some(name) = inside(path) else { return Ok(None) };
    match FILES.get().and_then(|files| (files.read)(name)) {
        Some(bytes) => Ok(Some(bytes)),
        None => Err(Error::NoInput(path.into())),
    }
}

/// Whether there is a file, a folder or a preset of that path.
pub fn exists(path: &Path) -> bool {
    let Some(name) = inside(path) else { return path.exists() };
    paths().iter().any(|p| p.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXTS: [(&str, &str); 4] = [
        ("configs/system/small.toml", "a = 1"),
        ("configs/workload/demo.toml", "system = \"../system/small.toml\""),
        ("traces/budgets/one.txt", "3"),
        ("traces/sample.safetensors", ""),
    ];

    fn install_texts() {
        install(PresetFiles {
            paths: || TEXTS.iter().map(|(path, _)| Cow::Borrowed(*path)).collect(),
            read: |name| TEXTS.iter().find(|(path, _)| *path == name).map(|(_, text)| Cow::Borrowed(text.as_bytes())),
        });
    }

    #[test]
    fn a_name_or_a_path_of_another_preset_leads_to_it() {
        install_texts();
        let demo = resolve(PresetKind::Workload, "demo", Path::new("somewhere")).unwrap();
        assert_eq!(demo, Path::new("preset:configs/workload/demo.toml"));
        let system = resolve(PresetKind::System, "../system/small.toml", demo.parent().unwrap()).unwrap();
        assert_eq!(system, Path::new("preset:configs/system/small.toml"));
        assert_eq!(read(&system).unwrap().unwrap().as_ref(), b"a = 1");
        let cache = resolve(PresetKind::Cache, "../../traces/sample.safetensors", demo.parent().unwrap()).unwrap();
        assert_eq!(cache, Path::new("preset:traces/sample.safetensors"));
        assert_eq!(names(PresetKind::Budgets), ["budgets"]);
        assert!(exists(&find(PresetKind::Budgets, "budgets").unwrap()));
        assert_eq!(read(Path::new("configs/system/small.toml")).unwrap(), None);
    }

    #[test]
    fn a_slip_is_told_the_nearest_name() {
        install_texts();
        let wrong = |kind, given| resolve(kind, given, Path::new("")).unwrap_err();
        assert!(wrong(PresetKind::Workload, "dema").to_string().contains("did you mean \"demo\"?"));
        assert_eq!(meant(PresetKind::Workload, Path::new("configs/workload/demo.toml")).as_deref(), Some("demo"));
        assert_eq!(
            wrong(PresetKind::System, "demo").to_string(),
            "demo is a workload that the program has inside, not a system"
        );
        assert!(matches!(wrong(PresetKind::Workload, "my/other.toml"), Error::NoInput(_)));
        assert!(matches!(wrong(PresetKind::Workload, "other.toml"), Error::NoInput(_)));
    }
}
