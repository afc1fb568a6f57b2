//! Which tokens are the same common word: their keys of an early layer, before RoPE, are near-duplicates.

use crate::linalg::{add_gram, dot, dots};
use pimattn_core::cancel::Cancel;
use pimattn_core::error::Result;

/// Common words that are told apart at most (assumed: in the dump of docs/synthetic.md they are half of the text).
const MOST: usize = 128;
/// Tokens that a word needs: its key is their mean (assumed).
pub const OFTEN: usize = 8;
/// Keys of the same word are nearer to each other than this share of what keys differ from their mean by (root of mean
/// squares; assumed: keys of unlike words are mostly 1.2 to 1.6 of it apart).
const NEAR: f32 = 0.5;
/// Dimensions over which keys must spread for near ones to be no chance: in 16, one pair of normal keys in 100,000 is as
/// near (assumed).
const SPREAD: f64 = 16.0;
/// Words that are remembered. What is first met after so many others is not common.
const REMEMBERED: usize = 4096;
/// Share of the tokens that must stay without a word, to have statistics of (assumed).
const OTHERS: f64 = 1.0 / 3.0;

/// The common words of a text.
#[derive(Debug, Clone, PartialEq)]
pub struct CommonWords {
    /// By token, its word, counted from 1; 0 when that is not a common one.
    pub of: Vec<u16>,
    /// By word, the share of the tokens that it is, the most common first.
    pub shares: Vec<f64>,
}

/// Tells words apart by the keys of a layer `[head]`, RoPE undone: the earliest layer at hand knows the least of what stands
/// around a word. A token is the word met before whose first key is nearest to its own, if that is near, or else a new one.
pub fn find(cancel: &Cancel, keys: &[Vec<f32>], dim: usize) -> Result<CommonWords> {
    let tokens = keys[0].len() / dim;
    let none = || CommonWords { of: vec![0; tokens], shares: Vec::new() };
    let width = keys.len() * dim;
    let mut rows = vec![0.0f32; tokens * width];
    for (h, keys) in keys.iter().enumerate() {
        let mut mean = vec![0.0f64; dim];
        keys.chunks_exact(dim).for_each(|key| mean.iter_mut().zip(key).for_each(|(m, x)| *m += f64::from(*x)));
        mean.iter_mut().for_each(|m| *m /= tokens as f64);
        let off = |key: &[f32]| key.iter().zip(&mean).map(|(x, m)| (f64::from(*x) - m).powi(2)).sum::<f64>();
        let square = keys.chunks_exact(dim).map(off).sum::<f64>() / tokens as f64;
        if square.is_nan() || square <= 0.0 {
            return Ok(none());
        }
        let unit = (square * (width / dim) as f64).sqrt();
        for (row, key) in rows.chunks_exact_mut(width).zip(keys.chunks_exact(dim)) {
            let part = &mut row[h * dim..][..dim];
            part.iter_mut().zip(key).zip(&mean).for_each(|((to, x), m)| *to = ((f64::from(*x) - m) / unit) as f32);
        }
    }
    if dimensions(&rows, width) < SPREAD {
        return Ok(none());
    }
    let mut words: Vec<Option<usize>> = Vec::with_capacity(tokens);
    let (mut firsts, mut squares, mut products) = (Vec::new(), Vec::<f32>::new(), Vec::new());
    for (t, row) in rows.chunks_exact(width).enumerate() {
        if t % 256 == 0 {
            cancel.check()?;
        }
        products.resize(squares.len(), 0.0);
        dots(row, &firsts, &mut products);
        let square = dot(row, row);
        let distances = squares.iter().zip(&products).map(|(first, product)| first + square - 2.0 * product);
        let nearest = distances.enumerate().min_by(|a, b| a.1.total_cmp(&b.1));
        words.push(match nearest {
            Some((word, distance)) if distance < NEAR * NEAR => Some(word),
            _ if squares.len() == REMEMBERED => None,
            _ => {
                firsts.extend_from_slice(row);
                squares.push(square);
                Some(squares.len() - 1)
            }
        });
    }
    Ok(common(&words, squares.len()))
}

/// Over how many dimensions rows spread: the participation ratio of their covariance, of a sample of them.
fn dimensions(rows: &[f32], width: usize) -> f64 {
    let every = (rows.len() / width / 1024).max(1);
    let sample: Vec<f32> = rows.chunks_exact(width).step_by(every).flatten().copied().collect();
    let mut gram = vec![0.0; width * width];
    add_gram(&sample, width, &mut gram);
    let trace: f64 = (0..width).map(|i| gram[i * width + i]).sum();
    trace * trace / gram.iter().map(|x| x * x).sum::<f64>()
}

/// The most common of the words of all tokens; of equally common ones, those met first.
fn common(words: &[Option<usize>], count: usize) -> CommonWords {
    let mut counts = vec![0usize; count];
    words.iter().flatten().for_each(|w| counts[*w] += 1);
    let mut ranking: Vec<usize> = (0..count).filter(|w| counts[*w] >= OFTEN).collect();
    ranking.sort_by_key(|w| std::cmp::Reverse(counts[*w]));
    let mut left = words.len();
    let enough = |w: &usize| {
        left -= counts[*w];
        left as f64 >= OTHERS * words.len() as f64
    };
    let ranking: Vec<usize> = ranking.into_iter().take(MOST).take_while(enough).collect();
    let mut number = vec![0u16; count];
    ranking.iter().enumerate().for_each(|(i, w)| number[*w] = i as u16 + 1);
    CommonWords {
        of: words.iter().map(|w| w.map_or(0, |w| number[w])).collect(),
        shares: ranking.iter().map(|w| counts[*w] as f64 / words.len() as f64).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Words met 3, 6, 12, ... tokens apart, and between them tokens of words met once; of two heads.
    fn text(tokens: usize, dim: usize, flat: bool) -> (Vec<Vec<f32>>, Vec<usize>) {
        let noise = |seed: usize| {
            // Integer hash (splitmix64): as good as random.
            let mut x = (seed as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
            x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            ((x ^ (x >> 31)) >> 40) as f32 / (1 << 24) as f32 - 0.5
        };
        let word = |t: usize| (0..3).rev().find(|i| t.is_multiple_of(4 << i)).map_or(100 + t, |i| i);
        let words: Vec<usize> = (0..tokens).map(word).collect();
        let key = |h: usize, t: usize, d: usize| {
            let size = if flat && d > 1 { 0.01 } else { 1.0 };
            5.0 + size * noise(words[t] * 1000 + h * 100 + d) + 0.05 * size * noise(10_000_000 + t * 1000 + h * 100 + d)
        };
        let head = |h| (0..tokens).flat_map(|t| (0..dim).map(move |d| (t, d))).map(|(t, d)| key(h, t, d)).collect();
        ((0..2).map(head).collect(), words)
    }

    #[test]
    fn near_duplicates_are_a_word() {
        let (keys, words) = text(1000, 16, false);
        let common = find(&Cancel::new(), &keys, 16).unwrap();
        // The first, of every fourth token but for what the others take, is the most common: 125, 63 and 62 tokens.
        assert_eq!(common.shares, [0.125, 0.063, 0.062]);
        let numbers = [1, 3, 2];
        for (got, word) in common.of.iter().zip(&words) {
            assert_eq!(*got, if *word < 3 { numbers[*word] } else { 0 }, "{word}");
        }
    }

    /// In few dimensions keys come near each other by chance.
    #[test]
    fn keys_of_few_dimensions_have_no_words() {
        let (keys, _) = text(1000, 16, true);
        assert_eq!(find(&Cancel::new(), &keys, 16).unwrap(), CommonWords { of: vec![0; 1000], shares: Vec::new() });
        let same = vec![vec![1.0f32; 16 * 1000]; 2];
        assert!(find(&Cancel::new(), &same, 16).unwrap().shares.is_empty());
        let nan = vec![vec![f32::NAN; 16 * 1000]; 2];
        assert!(find(&Cancel::new(), &nan, 16).unwrap().shares.is_empty());
    }

    #[test]
    fn rare_words_are_not_common_and_some_tokens_stay_without_one() {
        let of = |counts: &[usize]| -> Vec<Option<usize>> {
            counts.iter().enumerate().flat_map(|(w, n)| std::iter::repeat_n(Some(w), *n)).collect()
        };
        let rare = of(&[OFTEN - 1, OFTEN, 85]);
        // The last one is all but a few: it stays.
        assert_eq!(common(&rare, 3).shares, Vec::<f64>::new());
        let some = of(&[OFTEN - 1, OFTEN, 30, 7, 7, 7, 7, 7, 7, 7, 6]);
        let got = common(&some, 11);
        assert_eq!(got.shares, [0.3, 0.08]);
        assert_eq!((got.of[0], got.of[OFTEN], got.of[2 * OFTEN], got.of[99]), (0, 2, 1, 0));
        let many: Vec<Option<usize>> = (0..200).flat_map(|w| [Some(w); OFTEN]).chain([None; 2000]).collect();
        assert_eq!(common(&many, 200).shares.len(), MOST);
    }
}
