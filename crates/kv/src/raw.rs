//! Bytes of files and the numbers in them.

use pimattn_core::cancel::Cancel;
use pimattn_core::error::{Error, Result};
use pimattn_core::fsio;
use pimattn_core::presets;
use rayon::prelude::*;
use std::borrow::Cow;
use std::fs::File;
use std::ops::Deref;
use std::path::Path;

/// Floating-point types of a dump, little-endian.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FloatType {
    F16,
    Bf16,
    F32,
    F64,
}

impl FloatType {
    fn size(self) -> usize {
        match self {
            FloatType::F16 | FloatType::Bf16 => 2,
            FloatType::F32 => 4,
            FloatType::F64 => 8,
        }
    }

    /// Bytes of one element of the KV cache. No model serves with f64: such a dump is an analysis of f32 data.
    pub(super) fn element_bytes(self) -> u32 {
        match self {
            FloatType::F16 | FloatType::Bf16 => 2,
            FloatType::F32 | FloatType::F64 => 4,
        }
    }
}

/// Integer types of a dump, little-endian.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum IntType {
    I32,
    U32,
    I64,
    U64,
}

/// Elements decoded between two looks at the cancel token.
const CHUNK: usize = 1 << 16;

/// Widens `bytes` to f32; a last incomplete element is ignored.
pub(super) fn floats(cancel: &Cancel, bytes: &[u8], ty: FloatType) -> Result<Vec<f32>> {
    let size = ty.size();
    let mut out = vec![0.0f32; bytes.len() / size];
    out.par_chunks_mut(CHUNK).zip(bytes.par_chunks(CHUNK * size)).try_for_each(|(out, bytes)| {
        cancel.check()?;
        match ty {
            FloatType::F16 => fill(out, bytes, |b| half::f16::from_le_bytes(b).to_f32()),
            FloatType::Bf16 => fill(out, bytes, |b| half::bf16::from_le_bytes(b).to_f32()),
            FloatType::F32 => fill(out, bytes, f32::from_le_bytes),
            FloatType::F64 => fill(out, bytes, |b| f64::from_le_bytes(b) as f32),
        }
        Ok(())
    })?;
    Ok(out)
}

fn fill<const N: usize>(out: &mut [f32], bytes: &[u8], value: impl Fn([u8; N]) -> f32) {
    for (o, b) in out.iter_mut().zip(bytes.as_chunks::<N>().0) {
        *o = value(*b);
    }
}

/// Rounds values to what f16 can hold.
pub(super) fn round_to_f16(x: &mut [f32]) {
    for x in x {
        *x = half::f16::from_f32(*x).to_f32();
    }
}

/// Decodes integers; `None` when one does not fit i64.
pub(super) fn integers(bytes: &[u8], ty: IntType) -> Option<Vec<i64>> {
    match ty {
        IntType::I32 => bytes.as_chunks().0.iter().map(|b| Some(i64::from(i32::from_le_bytes(*b)))).collect(),
        IntType::U32 => bytes.as_chunks().0.iter().map(|b| Some(i64::from(u32::from_le_bytes(*b)))).collect(),
        IntType::I64 => bytes.as_chunks().0.iter().map(|b| Some(i64::from_le_bytes(*b))).collect(),
        IntType::U64 => bytes.as_chunks().0.iter().map(|b| i64::try_from(u64::from_le_bytes(*b)).ok()).collect(),
    }
}

/// The bytes of a dump.
pub enum DumpBytes {
    /// Of a file, mapped, so that only what is decoded takes memory.
    Mapped(memmap2::Mmap),
    /// Of a preset, which the program holds inside.
    Inside(Cow<'static, [u8]>),
}

impl Deref for DumpBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            DumpBytes::Mapped(map) => map,
            DumpBytes::Inside(bytes) => bytes,
        }
    }
}

/// A file mapped into memory, so that only what is decoded takes memory of its own; or a preset.
///
/// # Errors
/// [`Error::NoInput`] and [`Error::Io`] when it cannot be read, [`Error::Data`] when it is no regular file.
pub fn map(path: &Path) -> Result<DumpBytes> {
    if let Some(bytes) = presets::read(path)? {
        return Ok(DumpBytes::Inside(bytes));
    }
    let meta = std::fs::metadata(path).map_err(|e| Error::io(path, e))?;
    if !meta.is_file() {
        // opening a pipe would wait for its writer
        return Err(Error::data(path, "not a regular file"));
    }
    let file = File::open(path).map_err(|e| Error::io(path, e))?;
    // SAFETY: the map is read-only and private to this process. Another process that truncates the file while it is
    // read ends this one with SIGBUS; that is the usual contract of mapped model files.
    let map = unsafe { memmap2::Mmap::map(&file) }.map_err(|e| Error::io(path, e))?;
    fsio::refuse_pointer(path, &map)?;
    Ok(DumpBytes::Mapped(map))
}

/// Provenance of a file: its name and what the dump says about itself, on one line of bounded length.
pub(super) fn provenance<'a>(path: &Path, said: impl IntoIterator<Item = &'a str>) -> String {
    let mut text = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
    for s in said {
        text.push_str("; ");
        text.extend(s.chars().take(200).map(|c| if c.is_control() { ' ' } else { c }));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decodes_every_type() {
        let f = |b: &[u8], t| floats(&Cancel::new(), b, t).unwrap();
        assert_eq!(f(&half::f16::from_f32(1.5).to_le_bytes(), FloatType::F16), [1.5]);
        assert_eq!(f(&half::bf16::from_f32(-2.5).to_le_bytes(), FloatType::Bf16), [-2.5]);
        assert_eq!(f(&[1.25f32.to_le_bytes(), 3f32.to_le_bytes()].concat(), FloatType::F32), [1.25, 3.0]);
        assert_eq!(f(&0.5f64.to_le_bytes(), FloatType::F64), [0.5]);
        assert_eq!(integers(&(-3i32).to_le_bytes(), IntType::I32), Some(vec![-3]));
        assert_eq!(integers(&(-3i64).to_le_bytes(), IntType::I64), Some(vec![-3]));
        assert_eq!(integers(&3_000_000_000u32.to_le_bytes(), IntType::U32), Some(vec![3_000_000_000]));
        assert_eq!(integers(&u64::MAX.to_le_bytes(), IntType::U64), None);
    }

    #[test]
    fn chunks_join_without_seam() {
        let n = 2 * CHUNK + 5;
        let bytes: Vec<u8> = (0..n).flat_map(|i| (i as f32).to_le_bytes()).collect();
        let out = floats(&Cancel::new(), &bytes, FloatType::F32).unwrap();
        assert!(out.iter().enumerate().all(|(i, x)| *x == i as f32) && out.len() == n);
    }
}
