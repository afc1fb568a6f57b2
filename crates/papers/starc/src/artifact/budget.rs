//! Row budgets of decode steps, as the STARC artifact's files have them.

use pimattn_core::error::{Error, Result};
use pimattn_core::fsio;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

/// Tokens that a head may attend to at each decode step, before they are rounded up to rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Budgets {
    name: String,
    tokens: Vec<u32>,
}

impl Budgets {
    /// Reads a table: a whole number of tokens a line, the first for the first step; empty lines and lines that begin
    /// with `#` are none. A file whose name ends in `.zst` is compressed.
    ///
    /// # Errors
    /// When a line is something else. The artifact leaves such lines out with a warning, which gives every later step
    /// another's budget, and takes 0 for its ratio of a quarter of all rows.
    pub fn read(path: &Path) -> Result<Self> {
        let name = path.display().to_string();
        let mut tokens = Vec::new();
        let file = fsio::open(path)?;
        let text: Box<dyn Read> = match path.extension().is_some_and(|e| e == "zst") {
            true => Box::new(zstd::Decoder::new(file).map_err(|e| Error::io(path, e))?),
            false => Box::new(file),
        };
        for (i, line) in BufReader::new(text).split(b'\n').enumerate() {
            let line = line.map_err(|e| Error::data(&name, e.to_string()))?;
            let at = || format!("{name}:{}", i + 1);
            let text = std::str::from_utf8(&line).map_err(|_| Error::data(at(), "not text"))?.trim();
            if text.is_empty() || text.starts_with('#') {
                continue;
            }
            let wrong = || {
                let text: String = text.chars().take(40).collect();
                let what = format!("\"{text}\" is no budget: one whole number of tokens a line is expected");
                Error::data(at(), what)
            };
            match text.parse().map_err(|_| wrong())? {
                0 => return Err(Error::data(at(), "a budget of 0 tokens; a head attends to one at least")),
                n => tokens.push(n),
            }
        }
        match tokens.is_empty() {
            true => Err(Error::data(name, "no budget in it: one whole number of tokens a line is expected")),
            false => Ok(Budgets { name, tokens }),
        }
    }

    /// Those of the first `steps` steps.
    ///
    /// # Errors
    /// When there are fewer. The artifact repeats its last one.
    pub fn first(&self, steps: usize) -> Result<&[u32]> {
        self.tokens.get(..steps).ok_or_else(|| {
            let what = format!("{} budgets, but {steps} decode steps need one each", self.tokens.len());
            Error::data(&self.name, what)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &[u8]) -> Result<Budgets, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.txt");
        std::fs::write(&path, text).unwrap();
        let place = format!("{}/", folder.path().display());
        Budgets::read(&path).map_err(|e| e.to_string().replace(&place, ""))
    }

    #[test]
    fn a_table_is_a_number_a_line() {
        let budgets = read(b"# measured\n1448\r\n\n 1605 \n1599").unwrap();
        assert_eq!(budgets.first(3).unwrap(), [1448, 1605, 1599]);
        assert_eq!(budgets.first(1).unwrap(), [1448]);
        assert!(budgets.first(4).unwrap_err().to_string().ends_with("3 budgets, but 4 decode steps need one each"));
    }

    #[test]
    fn bad_lines_are_named() {
        for (text, why) in [
            (&b"1448\n\n16o5\n"[..], "t.txt:3: \"16o5\" is no budget"),
            (b"1448,1605\n", "t.txt:1: \"1448,1605\" is no budget"),
            (b"1448\n-3\n", "t.txt:2: \"-3\" is no budget"),
            (b"1448\n1605.5\n", "t.txt:2: \"1605.5\" is no budget"),
            (b"4294967296\n", "t.txt:1: \"4294967296\" is no budget"),
            (b"1448\n0\n", "t.txt:2: a budget of 0 tokens"),
            (b"1448\n\xff\n", "t.txt:2: not text"),
            (b"", "t.txt: no budget in it"),
            (b"# none\n\n", "t.txt: no budget in it"),
        ] {
            let said = read(text).unwrap_err();
            assert!(said.starts_with(why), "{said}");
        }
        assert!(matches!(Budgets::read(Path::new("/nowhere/t.txt")), Err(Error::NoInput(_))));
    }
}
