//! Selections that were made before and are too many to be in memory: step by step in a file, of which the step that is being mapped
//! is read.

use super::recorded::{HeadRecording, RecordedScan, RecordedStep, RecordedTokens, ReplayedHead};
use super::{Clustering, HeadState, Scan, SlotOrder};
use pimattn_core::error::{Error, Result};
use pimattn_kv::UnnamedFile;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Takes the recordings of heads, from any thread, and gives them back.
#[derive(Debug)]
pub struct RecordingSpool {
    file: UnnamedFile,
    end: AtomicU64,
}

/// The selections of a KV head, step by step, in a file.
#[derive(Debug, Clone)]
pub struct SpooledRecording {
    spool: Arc<RecordingSpool>,
    prepared: Vec<Clustering>,
    /// Where each step begins, and where the last ends (bytes).
    begins: Vec<u64>,
}

impl RecordingSpool {
    /// An empty one, in the system's folder for temporary files.
    ///
    /// # Errors
    /// [`Error::Io`] where that takes no file.
    pub fn new() -> Result<Arc<Self>> {
        Ok(Arc::new(RecordingSpool { file: UnnamedFile::new(Path::new("selections"))?, end: AtomicU64::new(0) }))
    }

    /// Writes a recording.
    ///
    /// # Errors
    /// [`Error::Io`] where it cannot be written.
    pub fn put(self: &Arc<Self>, recording: &HeadRecording) -> Result<SpooledRecording> {
        let mut words = Vec::new();
        let mut ends = Vec::with_capacity(recording.steps.len());
        let mut last: Option<&Arc<SlotOrder>> = None;
        for step in &recording.steps {
            encode(step, last.is_some_and(|order| Arc::ptr_eq(order, &step.order)), &mut words);
            last = Some(&step.order);
            ends.push(words.len() as u64 * 4);
        }
        let at = self.end.fetch_add(words.len() as u64 * 4, Ordering::Relaxed);
        let mut bytes = Vec::new();
        for (i, part) in words.chunks(PART).enumerate() {
            bytes.clear();
            bytes.extend(part.iter().flat_map(|word| word.to_le_bytes()));
            self.file.write_at(at + (i * PART * 4) as u64, &bytes)?;
        }
        let begins = std::iter::once(at).chain(ends.into_iter().map(|end| at + end)).collect();
        Ok(SpooledRecording { spool: self.clone(), prepared: recording.prepared.clone(), begins })
    }
}

/// Words that are written together.
const PART: usize = 1 << 16;

impl SpooledRecording {
    /// The head as it was before the first step.
    pub fn replay(&self) -> SpooledHead<'_> {
        let before = HeadRecording { prepared: self.prepared.clone(), steps: Vec::new() };
        SpooledHead { recording: self, step: 0, current: ReplayedHead::owned(before), order: None }
    }

    /// All of it in memory.
    ///
    /// # Errors
    /// Those of the file.
    pub fn load(&self) -> Result<HeadRecording> {
        let mut steps: Vec<RecordedStep> = Vec::new();
        for at in 0..self.begins.len() - 1 {
            let step = self.step(at, steps.last().map(|step| step.order.clone()))?;
            steps.push(step);
        }
        Ok(HeadRecording { prepared: self.prepared.clone(), steps })
    }

    /// A step; `order` is that of the one before.
    fn step(&self, at: usize, order: Option<Arc<SlotOrder>>) -> Result<RecordedStep> {
        let damaged = || Error::data("selections", format!("step {at} is not as it was written"));
        let [begin, end] = self.begins.get(at..at + 2).and_then(|b| b.try_into().ok()).ok_or_else(damaged)?;
        let bytes = self.spool.file.read(begin..end)?;
        let mut words = StepWords(bytes.as_chunks().0);
        decode(&mut words, order).ok_or_else(damaged)
    }
}

/// A head that answers from a file.
pub struct SpooledHead<'r> {
    recording: &'r SpooledRecording,
    step: usize,
    /// The last step alone.
    current: ReplayedHead<'static>,
    order: Option<Arc<SlotOrder>>,
}

impl SpooledHead<'_> {
    /// Takes the next step, which sees so many tokens, and gives the tokens of each query head.
    ///
    /// # Errors
    /// Those of the file, and [`Error::Data`] where there is no such step.
    ///
    /// # Panics
    /// When the step sees another number of tokens.
    pub fn next(&mut self, len: usize, out: &mut [Vec<u32>]) -> Result<()> {
        let step = self.recording.step(self.step, self.order.take())?;
        self.step += 1;
        self.order = Some(step.order.clone());
        self.current = ReplayedHead::owned(HeadRecording { prepared: Vec::new(), steps: vec![step] });
        self.current.next(len, out);
        Ok(())
    }

    /// What it answered at the last step; before the first one, what its preparation clustered.
    pub fn state(&self) -> &dyn HeadState {
        &self.current
    }
}

/// In place of a count: all tokens.
const ALL: u32 = u32::MAX;

/// A step as words, floats by their bits; without its order where that is the one of the step before.
fn encode(step: &RecordedStep, same_order: bool, words: &mut Vec<u32>) {
    let RecordedStep { len, tokens, order, scan, clusterings, shares, scores } = step;
    let put = |list: &[u32], words: &mut Vec<u32>| {
        words.push(list.len() as u32);
        words.extend_from_slice(list);
    };
    let floats = |list: &[f32], words: &mut Vec<u32>| {
        words.push(list.len() as u32);
        words.extend(list.iter().map(|x| x.to_bits()));
    };
    words.extend([*len as u32, tokens.len() as u32]);
    for tokens in tokens {
        match tokens {
            RecordedTokens::All => words.push(ALL),
            RecordedTokens::Some(tokens) => put(tokens, words),
        }
    }
    words.push(u32::from(same_order));
    if !same_order {
        let SlotOrder { slot_of, cluster_starts, clustered, version } = &**order;
        put(slot_of, words);
        put(cluster_starts, words);
        words.extend([*clustered, *version]);
    }
    match scan.scan() {
        Scan::Nothing => words.push(0),
        Scan::Keys => words.push(1),
        Scan::Vectors { matrices, vectors, elements } => words.extend([2, matrices, vectors, elements]),
        Scan::HeadVectors { matrices, vectors, elements } => words.extend([3, matrices, vectors, elements]),
        Scan::Dimensions(dimensions) => {
            words.push(4);
            put(dimensions, words);
        }
    }
    words.push(clusterings.len() as u32);
    for Clustering { first, tokens, clusters, iterations } in clusterings {
        words.extend([*first, *tokens, *clusters, *iterations]);
    }
    floats(shares, words);
    words.push(scores.len() as u32);
    scores.iter().for_each(|scores| floats(scores, words));
}

/// Words that are left to be read.
struct StepWords<'a>(&'a [[u8; 4]]);

impl StepWords<'_> {
    fn one(&mut self) -> Option<u32> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(u32::from_le_bytes(*first))
    }

    fn some<T>(&mut self, count: u32, of: impl Fn(u32) -> T) -> Option<Vec<T>> {
        let (list, rest) = self.0.split_at_checked(count as usize)?;
        self.0 = rest;
        Some(list.iter().map(|word| of(u32::from_le_bytes(*word))).collect())
    }

    fn list<T>(&mut self, of: impl Fn(u32) -> T) -> Option<Vec<T>> {
        let count = self.one()?;
        self.some(count, of)
    }
}

fn decode(words: &mut StepWords<'_>, before: Option<Arc<SlotOrder>>) -> Option<RecordedStep> {
    let (len, heads) = (words.one()? as usize, words.one()?);
    let mut tokens = Vec::new();
    for _ in 0..heads {
        tokens.push(match words.one()? {
            ALL => RecordedTokens::All,
            count => RecordedTokens::Some(words.some(count, |word| word)?.into()),
        });
    }
    let order = match words.one()? {
        0 => {
            let (slot_of, cluster_starts) = (words.list(|word| word)?, words.list(|word| word)?);
            Arc::new(SlotOrder { slot_of, cluster_starts, clustered: words.one()?, version: words.one()? })
        }
        _ => before?,
    };
    let scan = match words.one()? {
        0 => RecordedScan::Plain(Scan::Nothing),
        1 => RecordedScan::Plain(Scan::Keys),
        kind @ (2 | 3) => {
            let (matrices, vectors, elements) = (words.one()?, words.one()?, words.one()?);
            RecordedScan::Plain(match kind {
                2 => Scan::Vectors { matrices, vectors, elements },
                _ => Scan::HeadVectors { matrices, vectors, elements },
            })
        }
        _ => RecordedScan::Dimensions(words.list(|word| word)?.into()),
    };
    let mut clusterings = Vec::new();
    for _ in 0..words.one()? {
        let (first, tokens, clusters, iterations) = (words.one()?, words.one()?, words.one()?, words.one()?);
        clusterings.push(Clustering { first, tokens, clusters, iterations });
    }
    let shares = words.list(f32::from_bits)?.into();
    let mut scores = Vec::new();
    for _ in 0..words.one()? {
        scores.push(words.list(f32::from_bits)?);
    }
    Some(RecordedStep { len, tokens, order, scan, clusterings, shares, scores: scores.into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_answers_from_a_file_as_from_memory() {
        let order = |version: u32| {
            let cluster_starts = (0..version).collect();
            Arc::new(SlotOrder { slot_of: vec![2, 0, 1], cluster_starts, clustered: 3, version })
        };
        let (first, second) = (order(1), order(2));
        let scans = [
            RecordedScan::Plain(Scan::Nothing),
            RecordedScan::Plain(Scan::Keys),
            RecordedScan::Plain(Scan::Vectors { matrices: 2, vectors: 5, elements: 7 }),
            RecordedScan::Plain(Scan::HeadVectors { matrices: 4, vectors: 6, elements: 8 }),
            RecordedScan::Dimensions([9, 11].into()),
        ];
        let clustering = |first| Clustering { first, tokens: 64, clusters: 4, iterations: 3 };
        let step = |(i, scan): (usize, RecordedScan)| RecordedStep {
            len: 10 + i,
            tokens: vec![RecordedTokens::of(&[1, 4, 7], 10 + i), RecordedTokens::All],
            order: if i < 3 { first.clone() } else { second.clone() },
            scan,
            clusterings: (0..i as u32).map(clustering).collect(),
            shares: vec![0.5; i % 3].into(),
            scores: vec![vec![-1.5, f32::MIN_POSITIVE]; i % 2].into(),
        };
        let steps = scans.into_iter().enumerate().map(step).collect();
        let recording = HeadRecording { prepared: vec![clustering(9)], steps };
        let spool = RecordingSpool::new().unwrap();
        // Another head comes first.
        let other = spool.put(&HeadRecording { prepared: Vec::new(), steps: recording.steps[4..].to_vec() }).unwrap();
        let spooled = spool.put(&recording).unwrap();
        let (mut here, mut there) = (recording.replay(), spooled.replay());
        assert_eq!(there.state().clusterings(), here.clusterings());
        for i in 0..5 {
            let (mut a, mut b) = (vec![Vec::new(); 2], vec![Vec::new(); 2]);
            here.next(10 + i, &mut a);
            there.next(10 + i, &mut b).unwrap();
            let state = there.state();
            assert_eq!((a, here.order(), here.scan()), (b, state.order(), state.scan()));
            assert_eq!(here.clusterings(), state.clusterings());
            assert_eq!((here.blend(), here.rescored()), (state.blend(), state.rescored()));
        }
        assert!(matches!(there.next(15, &mut []), Err(Error::Data { .. })), "there is no sixth step");
        let loaded = spooled.load().unwrap();
        assert!(Arc::ptr_eq(&loaded.steps[0].order, &loaded.steps[2].order), "steps share an order");
        assert_eq!(loaded.steps.len(), 5);
        assert_eq!(other.load().unwrap().steps[0].len, 14);
    }
}
