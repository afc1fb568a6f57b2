//! Latency expressions of constraint edges: sums and differences of timing names and whole numbers
//! (`"nCWL + nBL + nWR"`).

use crate::error::suggest;
use std::collections::BTreeMap;

/// The value of `text` with the timings given.
pub fn evaluate(text: &str, timings: &BTreeMap<String, u64>) -> Result<u64, String> {
    let mut total: i64 = 0;
    let mut sign = 1;
    let mut expect_term = true;
    let spaced = text.replace('+', " + ").replace('-', " - ");
    for word in spaced.split_whitespace() {
        match (word, expect_term) {
            ("+" | "-", false) => {
                sign = if word == "+" { 1 } else { -1 };
                expect_term = true;
            }
            (_, true) if word != "+" && word != "-" => {
                let value = match word.parse::<u32>() {
                    Ok(n) => i64::from(n),
                    Err(_) => match timings.get(word) {
                        Some(n) => i64::try_from(*n).map_err(|_| format!("{word} is too large"))?,
                        None => {
                            let hint = suggest(word, timings.keys().map(String::as_str));
                            return Err(format!("unknown timing \"{word}\" in \"{text}\"{hint}"));
                        }
                    },
                };
                total += sign * value;
                expect_term = false;
            }
            _ => return Err(format!("\"{text}\" is not a sum of timing names and whole numbers")),
        }
    }
    if expect_term {
        return Err(format!("\"{text}\" ends where a timing name was expected"));
    }
    u64::try_from(total).map_err(|_| format!("\"{text}\" is negative ({total})"))
}

#[cfg(test)]
mod tests {
    use super::evaluate;
    use std::collections::BTreeMap;

    #[test]
    fn sums_differences_and_errors() {
        let t = BTreeMap::from([("nCL".to_string(), 19), ("nBL".to_string(), 2), ("nCWL".to_string(), 6)]);
        assert_eq!(evaluate("nCL + nBL + 2 - nCWL", &t), Ok(17));
        assert!(evaluate("nCK", &t).unwrap_err().contains("did you mean"));
        assert!(evaluate("nBL - nCL", &t).unwrap_err().contains("negative"));
        assert!(evaluate("nCL +", &t).is_err());
        assert!(evaluate("nCL nBL", &t).is_err());
        assert!(evaluate("", &t).is_err());
    }
}
