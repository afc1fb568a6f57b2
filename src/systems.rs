//! The systems of `configs/system`, without their files.

use crate::presets::{self, PresetKind};
use pimattn_core::error::{Error, Result, suggest};
use pimattn_core::spec::System;

/// Names of the systems.
pub fn names() -> Vec<String> {
    presets::install();
    presets::names(PresetKind::System)
}

/// A system by its name; its fields can be changed before use.
///
/// # Errors
/// [`Error::Usage`] for a name that is not in [`names`].
pub fn load(name: &str) -> Result<System> {
    presets::install();
    match presets::find(PresetKind::System, name) {
        Some(file) => System::load(&file, &[]),
        None => {
            let names = names();
            Err(Error::Usage(format!("unknown system \"{name}\"{}", suggest(name, names.iter().map(String::as_str)))))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn each_is_that_of_its_files() {
        for name in names() {
            let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("configs/system/{name}.toml"));
            let loaded = System::load(&file, &[]).unwrap();
            assert_eq!(format!("{:?}", load(&name).unwrap()), format!("{loaded:?}"), "{name}");
        }
        assert!(load("hbm3-pin").unwrap_err().to_string().contains("did you mean \"hbm3-pim\"?"));
    }
}
