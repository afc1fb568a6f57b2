//! Which files a command reads and writes: no result replaces what it is made of, and no two go to the same place.

use clap::builder::{MapValueParser, PathBufValueParser, TypedValueParser, ValueParserFactory};
use clap::{ArgMatches, Command};
use pimattn_core::error::{Error, Result};
use pimattn_stats::tables;
use std::any::TypeId;
use std::ops::Deref;
use std::path::{Path, PathBuf};

/// A file that a command writes. An argument of this type is checked against all others ([`check`]).
#[derive(Debug, Clone)]
pub struct WrittenFile(PathBuf);

impl Deref for WrittenFile {
    type Target = Path;

    fn deref(&self) -> &Path {
        &self.0
    }
}

impl AsRef<Path> for WrittenFile {
    fn as_ref(&self) -> &Path {
        &self.0
    }
}

impl From<PathBuf> for WrittenFile {
    fn from(path: PathBuf) -> Self {
        WrittenFile(path)
    }
}

impl ValueParserFactory for WrittenFile {
    type Parser = MapValueParser<PathBufValueParser, fn(PathBuf) -> WrittenFile>;

    fn value_parser() -> Self::Parser {
        PathBufValueParser::new().map(WrittenFile)
    }
}

/// What a command reads and writes.
#[derive(Default)]
struct Places {
    read: Vec<PathBuf>,
    /// With the names of their arguments.
    written: Vec<(String, WrittenFile)>,
}

/// Refuses a command that would replace what it reads, or write two results to the same place.
///
/// # Errors
/// [`Error::Usage`] with the names of the arguments.
pub fn check(command: &Command, matches: &ArgMatches) -> Result<()> {
    let mut places = Places::default();
    places.collect(command, matches);
    for (i, (name, file)) in places.written.iter().enumerate() {
        if let Some((other, _)) = places.written[..i].iter().find(|(_, other)| **other == **file) {
            return Err(Error::Usage(format!("{other} and {name} cannot go to the same place, {}", file.display())));
        }
        if let Some(input) = places.read.iter().find(|input| is_replaced(input, file)) {
            let (file, input) = (file.display(), input.display());
            return Err(Error::Usage(format!("{name} {file} would replace what is read, {input}")));
        }
    }
    Ok(())
}

impl Places {
    fn collect(&mut self, command: &Command, matches: &ArgMatches) {
        for arg in command.get_arguments() {
            let (id, kind) = (arg.get_id().as_str(), arg.get_value_parser().type_id());
            if kind == TypeId::of::<PathBuf>() {
                self.read.extend(matches.try_get_many(id).ok().flatten().into_iter().flatten().cloned());
            } else if kind == TypeId::of::<WrittenFile>() {
                let name = arg.get_long().map_or_else(|| id.to_uppercase(), |long| format!("--{long}"));
                let files = matches.try_get_many::<WrittenFile>(id).ok().flatten().into_iter().flatten();
                self.written.extend(files.map(|file| (name.clone(), file.clone())));
            }
        }
        if let Some((name, matches)) = matches.subcommand()
            && let Some(command) = command.find_subcommand(name)
        {
            self.collect(command, matches);
        }
    }
}

/// Whether a file that is written replaces an input: the same file by whatever name, or one of a folder that is read.
fn is_replaced(input: &Path, written: &Path) -> bool {
    if !written.is_file() {
        return false;
    }
    if input.is_dir() {
        let folder = written.parent().map(|p| if p.as_os_str().is_empty() { Path::new(".") } else { p });
        let of_dump = written.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("npy"));
        let of_run = tables::documented().iter().any(|(file, _)| written.ends_with(file));
        return (of_dump || of_run) && folder.is_some_and(|folder| is_same(folder, input));
    }
    input.is_file() && is_same(input, written)
}

/// Whether two paths are those of the same file or folder.
fn is_same(a: &Path, b: &Path) -> bool {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        let place = |path: &Path| path.metadata().map(|m| (m.dev(), m.ino())).ok();
        place(a).is_some() && place(a) == place(b)
    }
    #[cfg(not(unix))]
    {
        a.canonicalize().is_ok_and(|a| b.canonicalize().is_ok_and(|b| a == b))
    }
}
