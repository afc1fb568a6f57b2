//! Row budgets of decode steps, as the STARC artifact's files have them.

use pimattn_core::error::{Error, Result};
use pimattn_core::fsio;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

/// Bytes of a line, at most; comments are the longest.
const LINE: u64 = 4096;
/// Decode steps of a table, at most: sixteen times what models can generate today.
const STEPS: usize = 1 << 24;

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
        let (mut text, mut line, mut number) = (BufReader::new(text), Vec::new(), 0);
        loop {
            line.clear();
            let read = text.by_ref().take(LINE).read_until(b'\n', &mut line);
            if read.map_err(|e| Error::data(&name, e.to_string()))? == 0 {
                break;
            }
            number += 1;
            let at = || format!("{name}:{number}");
            if line.len() as u64 == LINE || tokens.len() > STEPS {
                let what =
                    format!("no table of budgets: lines are shorter than {LINE} bytes, and there are at most {STEPS}");
                return Err(Error::data(at(), what));
            }
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

    /// Lines that hold a budget, one for each step.
    pub fn lines(&self) -> usize {
        self.tokens.len()
    }

    /// From where on, and after how many lines, the table repeats itself to its end; none where most of it is new.
    pub fn repeat(&self) -> Option<BudgetRepeat> {
        repeat(&self.tokens)
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

/// How a table of budgets repeats itself: from line `offset + period` on, each line is the one `period` lines above it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BudgetRepeat {
    /// Lines ahead of those that repeat.
    pub offset: usize,
    /// Lines after which they repeat.
    pub period: usize,
}

/// The repeat that leaves the fewest lines new, of equal ones the shortest; none where these are more than half of all, as a
/// few equal lines at the end are chance.
fn repeat(lines: &[u32]) -> Option<BudgetRepeat> {
    let n = lines.len();
    let back = |i: usize| lines[n - 1 - i];
    // By period, how many lines at the end equal those a period above them (Z-function of the lines read backwards).
    let mut equal = vec![0usize; n];
    let (mut left, mut right) = (0, 0);
    for i in 1..n {
        if i < right {
            equal[i] = equal[i - left].min(right - i);
        }
        while i + equal[i] < n && back(equal[i]) == back(i + equal[i]) {
            equal[i] += 1;
        }
        if i + equal[i] > right {
            (left, right) = (i, i + equal[i]);
        }
    }
    let period = (1..n).max_by_key(|p| (equal[*p], std::cmp::Reverse(*p)))?;
    let new = n - equal[period];
    (new * 2 <= n).then(|| BudgetRepeat { offset: new - period, period })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By the definition: every offset and period, every line.
    fn plain_repeat(lines: &[u32]) -> Option<BudgetRepeat> {
        let n = lines.len();
        let all = (1..=n).flat_map(|period| (0..=n - period).map(move |offset| BudgetRepeat { offset, period }));
        let repeats = |r: &BudgetRepeat| (r.offset + r.period..n).all(|i| lines[i] == lines[i - r.period]);
        let few = |r: &BudgetRepeat| 2 * (r.offset + r.period) <= n;
        all.filter(|r| few(r) && repeats(r)).min_by_key(|r| (r.offset + r.period, r.period))
    }

    #[test]
    fn a_repeat_is_what_its_definition_finds() {
        for n in 0..=12u32 {
            for bits in 0..1u32 << n {
                let lines: Vec<u32> = (0..n).map(|i| bits >> i & 1).collect();
                assert_eq!(repeat(&lines), plain_repeat(&lines), "{lines:?}");
            }
        }
        // A decode of 5 steps behind 3 that do not come again, cut short in its third repeat.
        let lines = [9, 8, 7, 1, 2, 3, 4, 5, 1, 2, 3, 4, 5, 1, 2, 3, 4, 5, 1, 2];
        assert_eq!(repeat(&lines), Some(BudgetRepeat { offset: 3, period: 5 }));
        // One line that differs, in the last repeat, and nothing repeats to the end.
        assert_eq!(repeat(&[1, 2, 3, 1, 2, 3, 1, 2, 4]), None);
        assert_eq!(repeat(&[7]), None);
        assert_eq!(repeat(&[7; 9]), Some(BudgetRepeat { offset: 0, period: 1 }));
    }

    /// The authors' tables in the checkout; the periods were counted independently, by comparing lines in Python.
    #[test]
    fn the_authors_tables_are_short_decodes_repeated() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../traces/kv_budget");
        for (table, period) in [
            ("GPT_Quest", 1),
            ("GPT_STARC", 2610),
            ("GPT_SparQ", 2583),
            ("Llama_Quest", 1),
            ("Llama_STARC", 1910),
            ("Llama_SparQ", 1837),
            ("Mistral_Quest", 1),
            ("Mistral_STARC", 1888),
            ("Mistral_SparQ", 1812),
        ] {
            let budgets = Budgets::read(&folder.join(format!("kv_budget_{table}.txt.zst"))).unwrap();
            assert_eq!(
                (budgets.lines(), budgets.repeat()),
                (32_000, Some(BudgetRepeat { offset: 0, period })),
                "{table}"
            );
        }
    }

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
