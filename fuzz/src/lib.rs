//! What is fuzzed: every parser ([`parsers`]), and the whole path ([`paths`]). A target takes any bytes, and panics where the program has
//! a fault. `make fuzz` runs a coverage-guided fuzzer on it; `make test` runs it on the corpus, to which every input goes that once
//! made it panic.

pub mod parsers;
pub mod paths;

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// Something to fuzz.
pub struct FuzzTarget {
    /// Its name, which its folder of the corpus has, too.
    pub name: &'static str,
    /// Runs it on an input.
    pub run: fn(&[u8]),
}

/// All that is fuzzed.
pub const TARGETS: &[FuzzTarget] = &[
    FuzzTarget { name: "trace", run: parsers::trace },
    FuzzTarget { name: "faults", run: parsers::faults },
    FuzzTarget { name: "safetensors", run: parsers::safetensors },
    FuzzTarget { name: "npz", run: parsers::npz },
    FuzzTarget { name: "selection", run: parsers::selection },
    FuzzTarget { name: "page_log", run: parsers::page_log },
    FuzzTarget { name: "log", run: parsers::log },
    FuzzTarget { name: "table", run: parsers::table },
    FuzzTarget { name: "model", run: parsers::model },
    FuzzTarget { name: "grid", run: parsers::grid },
    FuzzTarget { name: "replay", run: paths::replay },
    FuzzTarget { name: "system", run: paths::system },
    FuzzTarget { name: "workload", run: paths::workload },
    FuzzTarget { name: "engines", run: paths::engines },
    FuzzTarget { name: "policies", run: paths::policies },
];

/// A file with these bytes, for what is read by name; the next one takes its place.
fn file(name: &str, bytes: &[u8]) -> PathBuf {
    static FOLDER: OnceLock<tempfile::TempDir> = OnceLock::new();
    let in_memory = Path::new("/dev/shm");
    let folder = FOLDER.get_or_init(|| {
        let folder = if in_memory.is_dir() { tempfile::tempdir_in(in_memory) } else { tempfile::tempdir() };
        folder.expect("a folder for scratch files")
    });
    // Tests run side by side.
    let path = folder.path().join(format!("{:?}-{name}", std::thread::current().id()));
    std::fs::write(&path, bytes).expect("a scratch file");
    path
}
