//! The targets under libFuzzer: `PIMATTN_FUZZ` names one, and all arguments are libFuzzer's.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pimattn_fuzz::{FuzzTarget, TARGETS};
use std::sync::OnceLock;

static TARGET: OnceLock<&FuzzTarget> = OnceLock::new();

fn named() -> &'static FuzzTarget {
    let name = std::env::var("PIMATTN_FUZZ").unwrap_or_default();
    TARGETS.iter().find(|target| target.name == name).unwrap_or_else(|| {
        let names: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
        panic!("PIMATTN_FUZZ={name}: expected one of {}", names.join(", "))
    })
}

fuzz_target!(|bytes: &[u8]| (TARGET.get_or_init(named).run)(bytes));
