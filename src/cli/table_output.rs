//! Where a table goes that was not given a file: CSV to a pipe, a table for people to a terminal.

use pimattn_core::error::Result;
use pimattn_core::fsio::Output;
use pimattn_report::sheet;
use std::io::{IsTerminal, Write};
use std::path::Path;

/// Columns of a terminal that everybody has.
pub const WIDTH: usize = 100;

/// A table on its way.
pub enum TableOutput {
    /// To a file or a pipe, as CSV.
    Csv(Output),
    /// To a terminal, once it is whole.
    Terminal(Vec<u8>),
}

impl TableOutput {
    /// Begins a table; `-` is standard output.
    ///
    /// # Errors
    /// Those of [`Output::create`].
    pub fn create(path: &Path) -> Result<Self> {
        match path.as_os_str() == "-" && std::io::stdout().is_terminal() {
            true => Ok(TableOutput::Terminal(Vec::new())),
            false => Output::create(path).map(TableOutput::Csv),
        }
    }

    /// Puts the table in its place, or prints it.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn commit(self) -> Result<()> {
        match self {
            TableOutput::Csv(output) => output.commit(),
            TableOutput::Terminal(csv) => super::print(&sheet::for_people(csv.as_slice(), WIDTH)?),
        }
    }
}

impl Write for TableOutput {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        match self {
            TableOutput::Csv(output) => output.write(bytes),
            TableOutput::Terminal(csv) => csv.write(bytes),
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        match self {
            TableOutput::Csv(output) => output.flush(),
            TableOutput::Terminal(_) => Ok(()),
        }
    }
}

/// A paragraph in lines of at most [`WIDTH`], unless a word is longer.
pub fn wrapped(text: &str) -> String {
    let (mut out, mut length) = (String::new(), 0);
    for word in text.split(' ') {
        if length > 0 && length + 1 + word.len() > WIDTH {
            out.push('\n');
            length = 0;
        } else if length > 0 {
            out.push(' ');
            length += 1;
        }
        out.push_str(word);
        length += word.len();
    }
    out.push('\n');
    out
}
