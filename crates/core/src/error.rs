//! The errors of the library, by cause. Exit codes are the command line's.

use std::path::{Path, PathBuf};

/// Result with the library's [`enum@Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong, by cause. Causes may be added: a `match` outside of this crate needs an arm for the others.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A check that the user asked for failed.
    #[error("{0}")]
    Check(String),
    /// The request makes no sense.
    #[error("{0}")]
    Usage(String),
    /// An input is damaged: the file, the place in it, what is wrong.
    #[error("{file}: {what}")]
    Data {
        /// File, with line or byte offset where known.
        file: String,
        /// What is wrong and what was expected.
        what: String,
    },
    /// An input does not exist.
    #[error("{}: no such file", .0.display())]
    NoInput(PathBuf),
    /// The operating system refused to read or write.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A configuration is wrong: `at` is "file:line" or "--set key=value".
    #[error("{at}: {what}")]
    Config {
        /// Where the wrong value stands.
        at: String,
        /// What is wrong, and the nearest valid name.
        what: String,
    },
    /// The work was asked to stop ([`Cancel`](crate::cancel::Cancel)), by Ctrl-C or by a program.
    #[error("interrupted; no unfinished file was kept")]
    Interrupted,
}

impl Error {
    /// An input-data error.
    pub fn data(file: impl AsRef<Path>, what: impl Into<String>) -> Self {
        Error::Data { file: file.as_ref().display().to_string(), what: what.into() }
    }

    /// An I/O error. A missing file becomes [`Error::NoInput`]; an error of ours that a writer has wrapped is unwrapped, so
    /// that its cause is not lost.
    pub fn io(path: impl AsRef<Path>, source: std::io::Error) -> Self {
        let source = match source.downcast::<Error>() {
            Ok(own) => return own,
            Err(source) => source,
        };
        let path = path.as_ref().to_path_buf();
        match source.kind() {
            std::io::ErrorKind::NotFound => Error::NoInput(path),
            std::io::ErrorKind::InvalidData => Error::data(path.display().to_string(), source.to_string()),
            _ => Error::Io { path, source },
        }
    }
}

/// `; did you mean "…"?` for the candidate nearest to `wrong`, or the list of all of them when none is near.
pub fn suggest<'a>(wrong: &str, candidates: impl IntoIterator<Item = &'a str>) -> String {
    let all: Vec<&str> = candidates.into_iter().collect();
    let wrong_lower = wrong.to_lowercase();
    let best =
        all.iter().map(|c| (strsim::damerau_levenshtein(&wrong_lower, &c.to_lowercase()), *c)).min_by_key(|(d, _)| *d);
    match best {
        Some((d, c)) if d <= 2.max(c.len() / 3) => format!("; did you mean \"{c}\"?"),
        _ if all.is_empty() => String::new(),
        _ => format!("; expected one of {}", all.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::suggest;

    #[test]
    fn suggests_the_nearest_name_or_lists_all() {
        assert_eq!(suggest("stark", ["starc", "quest"]), "; did you mean \"starc\"?");
        assert_eq!(suggest("zzzzzz", ["starc", "quest"]), "; expected one of starc, quest");
    }
}
