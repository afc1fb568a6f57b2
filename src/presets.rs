//! The presets of this package: all of `configs/`, a small sample of a real KV cache, and the STARC artifact's row budgets.
//! A development build reads them from the sources, a release build holds them inside.

use pimattn_core::error::{Error, Result, suggest};
pub use pimattn_core::presets::{PresetFiles, PresetKind, find, inside, meant, names, paths, read, resolve};
use rust_embed::Embed;
use std::borrow::Cow;
use std::path::{Path, PathBuf};

#[derive(Embed)]
#[folder = "configs"]
#[prefix = "configs/"]
struct Configurations;

#[derive(Embed)]
#[folder = "traces/kv_budget"]
#[prefix = "traces/kv_budget/"]
struct ArtifactBudgets;

/// Files that stand alone.
const SINGLE: [(&str, &[u8]); 2] = [
    ("traces/README.md", include_bytes!("../traces/README.md")),
    ("traces/smollm2-135m-rustbook-cut.safetensors", include_bytes!("../traces/smollm2-135m-rustbook-cut.safetensors")),
];

fn all() -> Vec<Cow<'static, str>> {
    let single = SINGLE.iter().map(|(path, _)| Cow::Borrowed(*path));
    let mut paths: Vec<_> = Configurations::iter().chain(ArtifactBudgets::iter()).chain(single).collect();
    paths.sort();
    paths
}

fn get(path: &str) -> Option<Cow<'static, [u8]>> {
    let single = || SINGLE.iter().find(|(p, _)| *p == path).map(|(_, bytes)| Cow::Borrowed(*bytes));
    Configurations::get(path).or_else(|| ArtifactBudgets::get(path)).map(|file| file.data).or_else(single)
}

/// Makes the presets of this package known to all that reads configurations. The programs and [`crate::systems`] do so
/// themselves.
pub fn install() {
    pimattn_core::presets::install(PresetFiles { paths: all, read: get });
}

/// A preset by its name, or by its kind and name (`system/hbm2`) where presets of several kinds have it.
///
/// # Errors
/// [`Error::Usage`] for an unknown name, and for one that several have.
pub fn named(name: &str) -> Result<PathBuf> {
    let (kinds, name) = match name.split_once('/') {
        None => (PresetKind::ALL.to_vec(), name),
        Some((kind, name)) => (vec![kind_named(kind)?], name),
    };
    let found: Vec<_> = kinds.iter().filter_map(|kind| Some((*kind, find(*kind, name)?))).collect();
    match &found[..] {
        [(_, path)] => Ok(path.clone()),
        [] => {
            let known: Vec<String> = kinds.iter().flat_map(|kind| names(*kind)).collect();
            Err(Error::Usage(format!("no preset \"{name}\"{}", suggest(name, known.iter().map(String::as_str)))))
        }
        several => {
            let list: Vec<String> = several.iter().map(|(kind, _)| format!("{}/{name}", kind.name())).collect();
            Err(Error::Usage(format!("several presets are called \"{name}\": {}", list.join(", "))))
        }
    }
}

/// A kind of presets by its name.
///
/// # Errors
/// [`Error::Usage`] for an unknown one.
pub fn kind_named(name: &str) -> Result<PresetKind> {
    PresetKind::ALL.into_iter().find(|kind| kind.name() == name).ok_or_else(|| {
        let known = PresetKind::ALL.iter().map(|kind| kind.name());
        Error::Usage(format!("no kind of presets is called \"{name}\"{}", suggest(name, known)))
    })
}

/// What a preset is about: the first sentence of the comment that its file begins with, on one line.
pub fn about(path: &Path) -> Result<String> {
    let Some(bytes) = read(path)? else { return Ok(String::new()) };
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(4096)]).into_owned();
    let comment = text.lines().map_while(|line| line.strip_prefix('#')).map(str::trim);
    let words = comment.take_while(|line| !line.is_empty()).collect::<Vec<_>>().join(" ");
    let end = words.find(". ").map_or(words.len(), |at| at + 1);
    Ok(words[..end].to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_of_a_checkout_are_those_inside() {
        install();
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut seen = 0;
        for path in paths() {
            let held = read(Path::new(&format!("preset:{path}"))).unwrap().unwrap();
            assert!(held.as_ref() == std::fs::read(root.join(path.as_ref())).unwrap(), "{path}");
            seen += 1;
        }
        assert!(seen > 40, "{seen}");
        assert!(names(PresetKind::Cache).contains(&"smollm2-135m-rustbook-cut".to_string()));
        assert_eq!(names(PresetKind::Budgets), ["kv_budget"]);
        assert_eq!(
            named("demo").unwrap_err().to_string(),
            "several presets are called \"demo\": workload/demo, grid/demo"
        );
        assert!(named("system/hbm3-pin").unwrap_err().to_string().contains("did you mean \"hbm3-pim\"?"));
        for kind in PresetKind::ALL.into_iter().filter(|kind| kind.is_configuration()) {
            for name in names(kind) {
                assert!(about(&find(kind, &name).unwrap()).unwrap().ends_with('.'), "{kind:?} {name}");
            }
        }
    }
}
