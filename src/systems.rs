//! The systems of `configs/system`, without their files.

use pimattn_core::error::{Error, Result, suggest};
use pimattn_core::spec::System;

macro_rules! systems {
    ($($name:literal on $device:literal),+) => {
        /// Name, system file and device file of each.
        const SYSTEMS: &[(&str, &str, &str)] = &[$((
            $name,
            include_str!(concat!("../configs/system/", $name, ".toml")),
            include_str!(concat!("../configs/dram/", $device, ".toml")),
        )),+];
    };
}

systems!(
    "attacc-compat" on "hbm3-pim",
    "attacc-platform" on "hbm3-pim",
    "gddr6-aim" on "gddr6-aim",
    "hbm2" on "hbm2",
    "hbm2-pim-samsung" on "hbm2-pim-samsung",
    "hbm3" on "hbm3-ramulator",
    "hbm3-pim" on "hbm3-pim"
);

/// Names of the systems.
pub fn names() -> impl Iterator<Item = &'static str> {
    SYSTEMS.iter().map(|(name, ..)| *name)
}

/// A system by its name; its fields can be changed before use.
///
/// # Errors
/// [`Error::Usage`] for a name that is not in [`names`].
pub fn load(name: &str) -> Result<System> {
    match SYSTEMS.iter().find(|(n, ..)| *n == name) {
        Some((_, system, device)) => System::from_toml(system, device),
        None => Err(Error::Usage(format!("unknown system \"{name}\"{}", suggest(name, names())))),
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
            assert_eq!(format!("{:?}", load(name).unwrap()), format!("{loaded:?}"), "{name}");
        }
        assert!(load("hbm3-pin").unwrap_err().to_string().contains("did you mean \"hbm3-pim\"?"));
    }
}
