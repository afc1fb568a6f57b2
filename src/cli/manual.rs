//! Completion scripts and man pages, made of the same declarations as the options.

use clap::{Command, ValueEnum};
use clap_complete::Shell;
use pimattn_core::error::{Error, Result};
use std::path::PathBuf;

/// Arguments of `completions`.
#[derive(Debug, clap::Args)]
pub struct CompletionsArgs {
    /// Shell that will read the script
    #[arg(value_enum)]
    shell: Shell,
}

/// Arguments of `man`.
#[derive(Debug, clap::Args)]
pub struct ManArgs {
    /// Folder for the pages, one for each command; it is made
    #[arg(short, long, value_name = "DIR")]
    output: PathBuf,
}

/// Prints the script of a program's command.
pub fn completions(args: &CompletionsArgs, mut command: Command) -> Result<()> {
    let name = command.get_name().to_string();
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut command, name, &mut text);
    super::print(&String::from_utf8_lossy(&text))
}

/// Writes the pages of a program's command.
pub fn man(args: &ManArgs, command: Command) -> Result<()> {
    std::fs::create_dir_all(&args.output).map_err(|e| Error::io(&args.output, e))?;
    clap_mangen::generate_to(command, &args.output).map_err(|e| Error::io(&args.output, e))
}

/// Names of the shells, for tests and documentation.
pub fn shells() -> impl Iterator<Item = String> {
    Shell::value_variants().iter().map(ToString::to_string)
}
