//! Elements of a tensor, wherever they are.

use super::raw::{self, FloatType};
use super::stored::StoredBytes;
use crate::linalg::simd;
use pimattn_core::cancel::Cancel;
use pimattn_core::error::Result;
use rayon::prelude::*;
use std::borrow::Cow;
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, OnceLock};

/// Elements that are looked at together where all are: 1 MiB as f32.
const PART: usize = 1 << 18;

/// The elements of a tensor in C order: a vector, memory that something else keeps, such as an array of another language, or a part of
/// a file, which is read when it is wanted and widened to f32. Clones share them.
#[derive(Clone)]
pub struct Elements {
    source: ElementSource,
    summary: Arc<OnceLock<ElementSummary>>,
}

#[derive(Clone)]
enum ElementSource {
    Kept(Arc<dyn AsRef<[f32]> + Send + Sync>),
    Stored(Arc<StoredElements>),
}

/// Elements in a file.
struct StoredElements {
    bytes: Arc<StoredBytes>,
    ty: FloatType,
    pieces: Vec<StoredPiece>,
    len: usize,
}

/// Elements that lie one after the other.
#[derive(Clone, Copy)]
struct StoredPiece {
    /// Number of the first among all.
    first: usize,
    len: usize,
    /// Byte of the file at which the first is.
    at: u64,
}

/// What is known of all elements, once they have been looked at.
#[derive(Debug, Clone)]
pub(super) struct ElementSummary {
    /// CRC-32 of their bytes as f32, little-endian.
    crc: u32,
    /// Largest magnitude of all, which bounds the products of queries and keys.
    pub largest: f32,
    /// The first that is no finite number.
    pub not_finite: Option<usize>,
}

impl Elements {
    /// Elements that `keeper` keeps for as long as it lives, and nobody changes.
    pub fn kept_by(keeper: impl AsRef<[f32]> + Send + Sync + 'static) -> Self {
        Elements::of(ElementSource::Kept(Arc::new(keeper)))
    }

    /// So many elements of a file, from byte `at` on.
    pub(super) fn stored(bytes: &Arc<StoredBytes>, ty: FloatType, at: u64, len: usize) -> Self {
        let pieces = vec![StoredPiece { first: 0, len, at }];
        Elements::of(ElementSource::Stored(Arc::new(StoredElements { bytes: bytes.clone(), ty, pieces, len })))
    }

    fn of(source: ElementSource) -> Self {
        Elements { source, summary: Arc::default() }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        match &self.source {
            ElementSource::Kept(keeper) => (**keeper).as_ref().len(),
            ElementSource::Stored(stored) => stored.len,
        }
    }

    /// None at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All of them, where they are in memory.
    pub fn in_memory(&self) -> Option<&[f32]> {
        match &self.source {
            ElementSource::Kept(keeper) => Some((**keeper).as_ref()),
            ElementSource::Stored(_) => None,
        }
    }

    /// Some of them: those in memory as they are, those of a file read.
    ///
    /// # Panics
    /// Where there are not so many.
    ///
    /// # Errors
    /// Those of the file; [`Error::Data`](pimattn_core::error::Error::Data) where it is not as it was when it was opened.
    pub fn read(&self, range: Range<usize>) -> Result<Cow<'_, [f32]>> {
        match &self.source {
            ElementSource::Kept(keeper) => Ok(Cow::Borrowed(&(**keeper).as_ref()[range])),
            ElementSource::Stored(stored) => {
                let mut out = raw::zeros(range.len())?;
                stored.read(range.start, &mut out)?;
                Ok(Cow::Owned(out))
            }
        }
    }

    /// The same elements in memory.
    ///
    /// # Errors
    /// Those of [`Self::read`], and [`Error::Interrupted`](pimattn_core::error::Error::Interrupted).
    pub fn loaded(&self, cancel: &Cancel) -> Result<Elements> {
        let ElementSource::Stored(stored) = &self.source else { return Ok(self.clone()) };
        let mut out = raw::zeros(stored.len)?;
        out.par_chunks_mut(PART).enumerate().try_for_each(|(i, part)| {
            cancel.check()?;
            stored.read(i * PART, part)
        })?;
        Ok(Elements { source: ElementSource::Kept(Arc::new(out)), summary: self.summary.clone() })
    }

    /// Only the elements of these ranges, one after the other: copied where they are in memory, else left in their file.
    pub fn pick(&self, ranges: impl Iterator<Item = Range<usize>>) -> Elements {
        match &self.source {
            ElementSource::Kept(keeper) => {
                let all = (**keeper).as_ref();
                ranges.flat_map(|range| &all[range]).copied().collect::<Vec<f32>>().into()
            }
            ElementSource::Stored(stored) => {
                let mut pieces: Vec<StoredPiece> = Vec::new();
                let mut len = 0;
                for piece in ranges.flat_map(|range| stored.pieces_of(range)) {
                    match pieces.last_mut() {
                        Some(last) if last.at + (last.len * stored.ty.size()) as u64 == piece.at => {
                            last.len += piece.len
                        }
                        _ => pieces.push(StoredPiece { first: len, ..piece }),
                    }
                    len += piece.len;
                }
                let picked = StoredElements { bytes: stored.bytes.clone(), ty: stored.ty, pieces, len };
                Elements::of(ElementSource::Stored(Arc::new(picked)))
            }
        }
    }

    /// Hands over all elements, part by part, in order.
    ///
    /// # Errors
    /// Those of [`Self::read`] and of `take`, and [`Error::Interrupted`](pimattn_core::error::Error::Interrupted).
    pub fn parts(&self, cancel: &Cancel, mut take: impl FnMut(&[f32]) -> Result<()>) -> Result<()> {
        for at in (0..self.len()).step_by(PART) {
            cancel.check()?;
            take(&self.read(at..self.len().min(at + PART))?)?;
        }
        Ok(())
    }

    /// What `of` says of each part of all elements, in order; `of` hears which element is the part's first.
    ///
    /// # Errors
    /// Those of [`Self::read`], and [`Error::Interrupted`](pimattn_core::error::Error::Interrupted).
    pub(super) fn map_parts<T: Send>(&self, cancel: &Cancel, of: impl Fn(usize, &[f32]) -> T + Sync) -> Result<Vec<T>> {
        let starts: Vec<usize> = (0..self.len()).step_by(PART).collect();
        let part = |at: usize| {
            cancel.check()?;
            Ok(of(at, &self.read(at..self.len().min(at + PART))?))
        };
        starts.into_par_iter().map(part).collect()
    }

    /// The CRC-32 of all elements as f32, little-endian, and how many bytes these are.
    ///
    /// # Errors
    /// Those of [`Self::read`], and [`Error::Interrupted`](pimattn_core::error::Error::Interrupted).
    pub fn crc32(&self, cancel: &Cancel) -> Result<(u32, u64)> {
        Ok((self.summary(cancel)?.crc, self.len() as u64 * 4))
    }

    /// What there is to know of all elements; they are looked at once.
    pub(super) fn summary(&self, cancel: &Cancel) -> Result<&ElementSummary> {
        if let Some(known) = self.summary.get() {
            return Ok(known);
        }
        let of = |at: usize, part: &[f32]| {
            let largest = largest_bits(part);
            let not_finite = largest >= f32::INFINITY.to_bits();
            let first = not_finite.then(|| part.iter().position(|x| !x.is_finite()).map(|i| at + i)).flatten();
            (crc32_of(part), largest, first)
        };
        let mut whole = crc32fast::Hasher::new();
        let (mut largest, mut not_finite) = (0, None);
        for (crc, bits, first) in self.map_parts(cancel, of)? {
            whole.combine(&crc);
            largest = bits.max(largest);
            not_finite = not_finite.or(first);
        }
        let found = ElementSummary { crc: whole.finalize(), largest: f32::from_bits(largest), not_finite };
        Ok(self.summary.get_or_init(|| found))
    }
}

impl StoredElements {
    /// Where the elements of a range are.
    fn pieces_of(&self, range: Range<usize>) -> impl Iterator<Item = StoredPiece> {
        let from = self.pieces.partition_point(|p| p.first + p.len <= range.start);
        let size = self.ty.size();
        let cut = move |p: &StoredPiece| {
            let (first, end) = (p.first.max(range.start), (p.first + p.len).min(range.end));
            let at = p.at + ((first - p.first) * size) as u64;
            (first < end).then(|| StoredPiece { first, len: end - first, at })
        };
        self.pieces[from..].iter().map_while(cut)
    }

    fn read(&self, first: usize, out: &mut [f32]) -> Result<()> {
        assert!(first + out.len() <= self.len, "elements that there are");
        let size = self.ty.size();
        let mut bytes = vec![0; out.len().min(raw::CHUNK) * size];
        for piece in self.pieces_of(first..first + out.len()) {
            let out = &mut out[piece.first - first..][..piece.len];
            for (i, out) in out.chunks_mut(raw::CHUNK).enumerate() {
                let bytes = &mut bytes[..out.len() * size];
                self.bytes.read_at(piece.at + (i * raw::CHUNK * size) as u64, bytes)?;
                raw::widen(bytes, self.ty, out);
            }
        }
        Ok(())
    }
}

/// The CRC-32 of elements as f32, little-endian.
fn crc32_of(elements: &[f32]) -> crc32fast::Hasher {
    const TOGETHER: usize = 1024;
    let mut crc = crc32fast::Hasher::new();
    let mut bytes = [0; 4 * TOGETHER];
    for part in elements.chunks(TOGETHER) {
        bytes.as_chunks_mut::<4>().0.iter_mut().zip(part).for_each(|(to, x)| *to = x.to_le_bytes());
        crc.update(&bytes[..4 * part.len()]);
    }
    crc
}

simd! {
    /// The bits of the largest magnitude: magnitudes are ordered as their bits are, infinity and NaN above all numbers.
    fn largest_bits(elements: &[f32]) -> u32 {
        elements.iter().fold(0, |most, x| most.max(x.to_bits() & 0x7fff_ffff))
    }
}

impl From<Vec<f32>> for Elements {
    fn from(elements: Vec<f32>) -> Self {
        Elements::kept_by(elements)
    }
}

/// Elements that cannot be read are equal to none.
impl PartialEq for Elements {
    fn eq(&self, other: &Self) -> bool {
        let same = |at: usize| {
            let range = at..self.len().min(at + PART);
            matches!((self.read(range.clone()), other.read(range)), (Ok(a), Ok(b)) if a == b)
        };
        self.len() == other.len() && (0..self.len()).step_by(PART).all(same)
    }
}

impl fmt::Debug for Elements {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.source {
            ElementSource::Kept(keeper) if self.len() <= 64 => (**keeper).as_ref().fmt(f),
            ElementSource::Kept(_) => write!(f, "{} elements", self.len()),
            ElementSource::Stored(stored) => {
                write!(f, "{} elements of {}", stored.len, stored.bytes.name().display())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Elements 0, 1, 2, .. of a file, as f32 behind some bytes of something else.
    fn stored(n: usize, folder: &tempfile::TempDir) -> Elements {
        let path = folder.path().join("dump");
        let bytes: Vec<u8> = [9; 12].into_iter().chain((0..n).flat_map(|i| (i as f32).to_le_bytes())).collect();
        std::fs::write(&path, bytes).unwrap();
        Elements::stored(&Arc::new(StoredBytes::open(&path).unwrap()), FloatType::F32, 12, n)
    }

    #[test]
    fn elements_of_a_file_are_those_in_memory() {
        let folder = tempfile::tempdir().unwrap();
        let n = 2 * PART + 5;
        let there = stored(n, &folder);
        let here: Elements = (0..n).map(|i| i as f32).collect::<Vec<f32>>().into();
        assert!(there.in_memory().is_none() && there == here && there.len() == n);
        let loaded = there.loaded(&Cancel::new()).unwrap();
        assert_eq!(loaded.in_memory(), here.in_memory());
        let cancel = Cancel::new();
        let expected = here.in_memory().unwrap().iter().fold(crc32fast::Hasher::new(), |mut crc, x| {
            crc.update(&x.to_le_bytes());
            crc
        });
        assert_eq!(there.crc32(&cancel).unwrap(), (expected.finalize(), 4 * n as u64));
        assert_eq!(there.summary(&cancel).unwrap().largest, (n - 1) as f32);
        let mut all = Vec::new();
        let take = |part: &[f32]| {
            all.extend_from_slice(part);
            Ok(())
        };
        there.parts(&cancel, take).unwrap();
        assert_eq!(all, here.in_memory().unwrap());
    }

    #[test]
    fn what_is_picked_of_a_file_is_what_is_picked_of_memory() {
        let folder = tempfile::tempdir().unwrap();
        let there = stored(100, &folder);
        let here = there.loaded(&Cancel::new()).unwrap();
        let ranges = || [3..5, 5..9, 40..40, 90..100, 0..2].into_iter();
        let (a, b) = (there.pick(ranges()), here.pick(ranges()));
        assert_eq!(a, b);
        assert_eq!(a.read(5..10).unwrap(), b.read(5..10).unwrap());
        let again = || [1..4, 6..18].into_iter();
        assert_eq!(a.pick(again()), b.pick(again()));
        assert_ne!(a, b.pick(std::iter::once(0..17)));
        assert!(a.pick(std::iter::empty()).is_empty());
    }

    #[test]
    fn the_first_number_that_is_none_is_found() {
        let summary = |x: Vec<f32>| Elements::from(x).summary(&Cancel::new()).unwrap().clone();
        let fine = summary(vec![0.0, -3.0, 2.0, -0.0]);
        assert_eq!((fine.largest, fine.not_finite), (3.0, None));
        let mut long = vec![1.0; PART + 9];
        long[PART + 3] = f32::NAN;
        long[PART + 7] = f32::NEG_INFINITY;
        assert_eq!(summary(long).not_finite, Some(PART + 3));
        let mut early = vec![1.0; PART + 9];
        early[3] = -9.0;
        assert_eq!((summary(early).largest, summary(Vec::new()).largest), (9.0, 0.0));
    }
}
