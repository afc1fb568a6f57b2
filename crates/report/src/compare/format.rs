//! Counts, texts and numbers as messages and reports show them.

/// Longest text of a cell in a message, in characters.
pub(super) const SHOWN_CHARS: usize = 60;

/// `1 row`, `2 rows`
pub(super) fn count(n: usize, what: &str) -> String {
    if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") }
}

/// A text of a file as a message can show it: short and without control characters.
pub(super) fn shown(text: &str) -> String {
    let mut out = String::new();
    for (i, c) in text.chars().enumerate() {
        match c {
            _ if i == SHOWN_CHARS => return out + "…",
            c if c.is_control() => out.extend(c.escape_default()),
            c => out.push(c),
        }
    }
    out
}

/// Six significant digits without trailing zeros; empty if there is no number.
pub(super) fn digits(x: Option<f64>) -> String {
    let Some(x) = x else { return String::new() };
    let scientific = format!("{x:.5e}");
    let Some((mantissa, exponent)) = scientific.split_once('e') else { return scientific };
    match exponent.parse::<i32>() {
        _ if x == 0.0 => "0".to_string(),
        Ok(e) if (-5..=9).contains(&e) => without_zeros(&format!("{x:.*}", (5 - e).max(0) as usize)).to_string(),
        _ => format!("{}e{exponent}", without_zeros(mantissa)),
    }
}

fn without_zeros(number: &str) -> &str {
    if number.contains('.') { number.trim_end_matches('0').trim_end_matches('.') } else { number }
}

/// Like [`digits`], with a plus sign if positive.
pub(super) fn signed(x: Option<f64>) -> String {
    let sign = if x.is_some_and(|x| x > 0.0) { "+" } else { "" };
    format!("{sign}{}", digits(x))
}
