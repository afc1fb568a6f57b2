//! Tells the programs which commit they are built from, where that is known.

use std::path::Path;
use std::process::Command;

fn git(args: &[&str]) -> Option<String> {
    let out = Command::new("git").args(args).output().ok().filter(|out| out.status.success())?;
    Some(String::from_utf8_lossy(&out.stdout).trim().to_string())
}

fn main() {
    let version = env!("CARGO_PKG_VERSION");
    // A copy of the sources within somebody else's repository has no commit of its own.
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let own = git(&["rev-parse", "--show-toplevel"]).is_some_and(|top| Path::new(&top) == here);
    let commit = if own { git(&["rev-parse", "--short=10", "HEAD"]) } else { None };
    let text = commit.map_or(version.to_string(), |commit| format!("{version} ({commit})"));
    println!("cargo::rustc-env=PIMATTN_VERSION={text}");
    println!("cargo::rerun-if-changed=build.rs");
    if let Some(log) = git(&["rev-parse", "--git-path", "logs/HEAD"]).filter(|log| own && Path::new(log).exists()) {
        println!("cargo::rerun-if-changed={log}");
    }
}
