//! What is said on standard error.

use std::io::Write;

/// Writes a line to standard error, where it can be written: a log on a full disk, or a pipe that nobody reads any more, is no reason to
/// lose work. Control characters, which names of files may have, are shown and not sent to the terminal.
pub fn say(text: &str) {
    let mut line = String::with_capacity(text.len() + 1);
    for c in text.chars() {
        match c.is_control() && !matches!(c, '\n' | '\t') {
            true => line.extend(c.escape_default()),
            false => line.push(c),
        }
    }
    line.push('\n');
    let _ = std::io::stderr().write_all(line.as_bytes());
}
