//! What the pages for contributors say of the tree is true: places in the glossary, links, keys, guides.

mod keys;

use crate::common::root;
use pimattn_core::op::Op;
use pimattn_core::spec::System;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Text between backquotes.
fn quoted(cell: &str) -> Vec<&str> {
    cell.split('`').skip(1).step_by(2).collect()
}

/// The file of a module such as `map::layout` below a crate's `src`.
fn module(src: &Path, path: &str) -> Option<PathBuf> {
    let file = src.join(path.replace("::", "/"));
    [file.with_extension("rs"), file.join("mod.rs")].into_iter().find(|f| f.is_file())
}

#[test]
fn every_place_of_the_glossary_exists() {
    let text = std::fs::read_to_string(root().join("docs/glossary.md")).unwrap();
    let rows = text.lines().filter(|l| l.starts_with("| ") && !l.starts_with("| term"));
    let (mut places, mut terms) = (0, Vec::new());
    for row in rows {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let [term, _, lives] = cells[..] else { panic!("three cells: {row}") };
        terms.push(term);
        // `crate` `module`, or `crate` `module` (`Item`); several are parted by commas.
        for place in lives.split(", ") {
            let names = quoted(place);
            let [krate, path, items @ ..] = &names[..] else { panic!("{term}: {place}: a crate and a module") };
            let src = root().join("crates").join(krate).join("src");
            let file = module(&src, path).unwrap_or_else(|| panic!("{term}: {krate} has no module {path}"));
            let text = match file.ends_with("mod.rs") {
                // An item of a folder is in any of its files.
                true => std::fs::read_dir(file.parent().unwrap())
                    .unwrap()
                    .filter_map(|f| std::fs::read_to_string(f.unwrap().path()).ok())
                    .collect(),
                false => std::fs::read_to_string(&file).unwrap(),
            };
            for item in items {
                let defines = ["struct", "enum", "trait", "fn", "const", "type"];
                assert!(
                    defines.iter().any(|d| text.contains(&format!("{d} {item}"))),
                    "{term}: {item} in {krate} {path}"
                );
            }
            places += 1;
        }
    }
    assert!(places >= 60, "{places}");
    let mut sorted = terms.clone();
    sorted.sort_unstable();
    sorted.dedup();
    assert_eq!(sorted.len(), terms.len(), "a term has one line");
}

#[test]
fn every_link_of_a_page_leads_somewhere() {
    let folders = [root(), root().join("docs")];
    let pages = folders.iter().flat_map(|f| std::fs::read_dir(f).unwrap()).map(|e| e.unwrap().path());
    for page in pages.filter(|p| p.extension().is_some_and(|e| e == "md")) {
        let text = std::fs::read_to_string(&page).unwrap();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let file = link.split('#').next().unwrap();
            if file.is_empty() || link.contains("://") {
                continue;
            }
            assert!(page.parent().unwrap().join(file).exists(), "{}: {link}", page.display());
        }
    }
}

#[test]
fn the_device_template_is_a_device_with_every_operation_that_attention_needs() {
    let template = std::fs::read_to_string(root().join("docs/device-template.toml")).unwrap();
    let guide = std::fs::read_to_string(root().join("docs/add-a-device.md")).unwrap();
    let system = guide.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    for timing in ["TOY_2Gbps", "TOY_4Gbps"] {
        let system = System::from_toml(&system.replace("TOY_2Gbps", timing), &template).unwrap();
        let attention = [Op::WrGb, Op::MacAb, Op::MvSb, Op::Sfm, Op::MvGb, Op::Ld, Op::St];
        assert!(attention.iter().all(|op| system.device.plans[*op as usize].is_some()));
        // Every value of it is assumed, and says so.
        assert!(template.lines().filter(|l| l.starts_with("source = ")).all(|l| l == "source = \"assumed\""));
    }
    let wrong = System::from_toml(&system.replace("TOY_2Gbps", "TOY_3Gbps"), &template).unwrap_err().to_string();
    assert!(wrong.starts_with("system:18: ") && wrong.contains("TOY_2Gbps"), "{wrong}");
    let wrong = System::from_toml(system, &template.replace("lanes = 16", "lames = 16")).unwrap_err().to_string();
    assert!(wrong.starts_with("device:") && wrong.contains("did you mean \"lanes\"?"), "{wrong}");
}

/// Type names of the sources, with their places.
fn types(folder: &Path, out: &mut BTreeMap<String, Vec<PathBuf>>) {
    for entry in std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()) {
        let name = entry.file_name().unwrap().to_str().unwrap();
        if entry.is_dir() && name != "target" && name != "tests" {
            types(&entry, out);
        } else if name.ends_with(".rs") {
            let text = std::fs::read_to_string(&entry).unwrap();
            // A test's own types are its own affair.
            for line in text.lines().take_while(|l| !l.trim_start().starts_with("mod tests {")) {
                let public = line.trim_start().strip_prefix("pub").map_or(line.trim_start(), |rest| {
                    rest.strip_prefix('(').and_then(|r| r.split_once(") ")).map_or(rest.trim_start(), |(_, r)| r)
                });
                // Aliases of traits and impls stand further in.
                let kinds: &[&str] = if line.starts_with(' ') {
                    &["struct ", "enum ", "trait "]
                } else {
                    &["struct ", "enum ", "trait ", "type "]
                };
                if let Some(rest) = kinds.iter().find_map(|k| public.strip_prefix(k)) {
                    let name: String = rest.chars().take_while(|c| c.is_alphanumeric()).collect();
                    if !name.is_empty() {
                        out.entry(name).or_default().push(entry.clone());
                    }
                }
            }
        }
    }
}

#[test]
fn a_type_has_one_name_in_the_workspace() {
    let mut found = BTreeMap::new();
    types(&root().join("crates"), &mut found);
    types(&root().join("src"), &mut found);
    assert!(found.len() >= 400, "{}", found.len());
    let twice: Vec<_> = found.iter().filter(|(_, places)| places.len() > 1).collect();
    assert!(twice.is_empty(), "{twice:#?}");
}
