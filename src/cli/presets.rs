//! `pimsim presets`: what the programs hold inside.

use super::CommonArgs;
use crate::presets::{self, PresetKind};
use pimattn_core::error::{Error, Result};
use pimattn_core::fsio::Output;
use pimattn_core::spec::model::Model;
use std::io::Write;
use std::path::{Path, PathBuf};

#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct PresetsArgs {
    /// Kind to list (workload, system, device, model, platform, grid, plan, fitted, cache, budgets), instead of all
    #[arg(value_name = "KIND", value_parser = presets::kind_named)]
    kind: Option<PresetKind>,
    #[command(subcommand)]
    command: Option<PresetsCommand>,
}

#[derive(Debug, clap::Subcommand)]
enum PresetsCommand {
    /// Print a preset: its name, or KIND/NAME where several kinds have it
    Show {
        /// Such as demo, system/hbm3-pim
        name: String,
    },
    /// Write all presets to a folder, laid out so that they name each other there. A file that was edited is kept
    Export {
        /// Folder to write; it is made
        #[arg(value_name = "DIR")]
        folder: PathBuf,
    },
}

/// Runs the command.
pub fn run(args: &PresetsArgs, common: &CommonArgs) -> Result<()> {
    match &args.command {
        None => super::print(&list(args.kind)?),
        Some(PresetsCommand::Show { name }) => show(name),
        Some(PresetsCommand::Export { folder }) => export(folder, common),
    }
}

/// Name and meaning of each, by kind.
fn list(kind: Option<PresetKind>) -> Result<String> {
    let kinds = match kind {
        Some(kind) => vec![kind],
        None => PresetKind::ALL.to_vec(),
    };
    let mut out = String::new();
    for kind in kinds {
        let names = presets::names(kind);
        let width = names.iter().map(String::len).max().unwrap_or(0);
        out.push_str(&format!("{}{}\n", if out.is_empty() { "" } else { "\n" }, kind.name()));
        for name in names {
            out.push_str(format!("  {name:width$}  {}", about(kind, &name)?).trim_end());
            out.push('\n');
        }
    }
    Ok(out)
}

fn about(kind: PresetKind, name: &str) -> Result<String> {
    let Some(path) = presets::find(kind, name) else { return Ok(String::new()) };
    Ok(match kind {
        PresetKind::Model => {
            let m = Model::load(&path, &[])?;
            let (layers, heads, kv_heads, dim) = (m.layers, m.heads, m.kv_heads, m.head_dim);
            format!("{}: {layers} layers, {heads} query heads, {kv_heads} KV heads of {dim} elements", m.name)
        }
        PresetKind::Cache => "KV cache of a real model; presets show traces/README.md says which".into(),
        PresetKind::Budgets => "Row budgets of the STARC artifact, by model and policy".into(),
        _ => presets::about(&path)?,
    })
}

/// Prints a text; of a folder, the names of its files.
fn show(name: &str) -> Result<()> {
    let path = match presets::paths().iter().any(|path| path == name) {
        true => PathBuf::from(format!("{}{name}", pimattn_core::presets::PREFIX)),
        false => presets::named(name)?,
    };
    let inside = presets::inside(&path).unwrap_or_default();
    let files: Vec<_> = presets::paths().into_iter().filter(|p| p.starts_with(&format!("{inside}/"))).collect();
    if !files.is_empty() {
        return super::print(&files.iter().map(|file| format!("{file}\n")).collect::<String>());
    }
    let bytes = presets::read(&path)?.unwrap_or_default();
    match std::str::from_utf8(&bytes) {
        Ok(text) => super::print(text),
        Err(_) => Err(Error::Usage(format!("{name} is no text; pimsim presets export DIR writes it"))),
    }
}

fn export(folder: &Path, common: &CommonArgs) -> Result<()> {
    let (mut written, mut kept) = (0, Vec::new());
    for path in presets::paths() {
        let bytes = presets::read(Path::new(&format!("{}{path}", pimattn_core::presets::PREFIX)))?.unwrap_or_default();
        let file = folder.join(path.as_ref());
        match std::fs::read(&file) {
            Ok(there) if there == *bytes => continue,
            Ok(_) => {
                kept.push(file.display().to_string());
                continue;
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => return Err(Error::io(&file, e)),
        }
        let parent = file.parent().unwrap_or(folder);
        std::fs::create_dir_all(parent).map_err(|e| Error::io(parent, e))?;
        let mut output = Output::create(&file)?;
        output.write_all(&bytes).map_err(|e| Error::io(&file, e))?;
        output.commit()?;
        written += 1;
    }
    common.note(&format!("{written} files written to {}", folder.display()));
    if !kept.is_empty() {
        common.warn(&format!("not replaced, since they differ from the presets: {}", kept.join(", ")));
    }
    Ok(())
}
