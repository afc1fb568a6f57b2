//! The commands of the README work. Blocks marked `sh` are run here, in order, in the checkout; blocks marked
//! `console` are make targets, which .ci/run runs.

use crate::common;

use common::{documented, root};
use std::path::Path;
use std::process::Command;

fn blocks<'a>(text: &'a str, kind: &str) -> Vec<&'a str> {
    let fence = format!("```{kind}\n");
    text.split(&fence).skip(1).filter_map(|rest| rest.split("\n```").next()).collect()
}

#[test]
fn every_command_of_the_readme_works() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let readme = std::fs::read_to_string(root.join("README.md")).unwrap();
    let bin = Path::new(env!("CARGO_BIN_EXE_tracegen")).parent().unwrap();
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    // Nothing is in the folder: what the commands need, the programs have inside.
    let scratch = tempfile::tempdir().unwrap();
    let blocks = blocks(&readme, "sh");
    assert!(blocks.len() >= 4, "the README shows how to use the programs");
    for block in blocks {
        let out = Command::new("bash")
            .args(["-euo", "pipefail", "-c", block])
            .current_dir(scratch.path())
            .env("PATH", &path)
            .output()
            .unwrap();
        assert!(out.status.success(), "{block}\n{}", String::from_utf8_lossy(&out.stderr));
        assert!(!out.stdout.is_empty() || block.contains("-o "), "{block}\nprinted nothing and wrote nothing");
    }
}

#[test]
fn make_targets_of_the_readme_are_run_by_ci() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |file: &str| std::fs::read_to_string(root.join(file)).unwrap();
    let (readme, ci, makefile) = (read("README.md"), read(".ci/run"), read("Makefile"));
    let blocks = blocks(&readme, "console");
    assert!(!blocks.is_empty());
    for line in blocks.iter().flat_map(|b| b.lines()) {
        let command = line.split('#').next().unwrap_or("").trim();
        match command.strip_prefix("make ") {
            Some("bench") => assert!(makefile.contains("\nbench:")),
            Some(_) => assert!(ci.contains(command), "{command} is not in .ci/run"),
            None => assert!(
                command.starts_with("git clone") || command.starts_with("cd ") || command.starts_with("cargo install"),
                "{command}"
            ),
        }
    }
}

#[test]
fn the_documented_columns_are_the_columns() {
    let expected = pimattn::cli::tables_document();
    let page = documented(&root().join("docs/tables.md"), &expected);
    assert!(page.is_ok(), "docs/tables.md is stale: `make docs` writes it");
}
