//! Bytes of files and the numbers in them.

use crate::linalg::simd;
use pimattn_core::error::{Error, Result};
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
    pub(super) fn size(self) -> usize {
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

/// Elements that are widened together.
pub(super) const CHUNK: usize = 1 << 16;

/// Widens the elements of `bytes` to f32.
pub(super) fn widen(bytes: &[u8], ty: FloatType, out: &mut [f32]) {
    match ty {
        FloatType::F16 => widen_f16(bytes, out),
        FloatType::Bf16 => fill(out, bytes, |b| half::bf16::from_le_bytes(b).to_f32()),
        FloatType::F32 => fill(out, bytes, f32::from_le_bytes),
        FloatType::F64 => fill(out, bytes, |b| f64::from_le_bytes(b) as f32),
    }
}

simd! {
    /// Widens f16 by moving its bits, eight or sixteen at a time where the processor can.
    fn widen_f16(bytes: &[u8], out: &mut [f32]) {
        for (out, bytes) in out.iter_mut().zip(bytes.as_chunks::<2>().0) {
            let half = u32::from(u16::from_le_bytes(*bytes));
            // Exponents begin at -15, not at -127.
            let bits = ((half & 0x7fff) << 13) + (112 << 23);
            let magnitude = match half & 0x7c00 {
                // A number without a leading one has been given one.
                0 => f32::from_bits(bits + (1 << 23)) - f32::from_bits(113 << 23),
                0x7c00 => f32::from_bits(bits + (112 << 23)),
                _ => f32::from_bits(bits),
            };
            *out = f32::from_bits(magnitude.to_bits() | (half & 0x8000) << 16);
        }
    }
}

fn fill<const N: usize>(out: &mut [f32], bytes: &[u8], value: impl Fn([u8; N]) -> f32) {
    for (o, b) in out.iter_mut().zip(bytes.as_chunks::<N>().0) {
        *o = value(*b);
    }
}

/// A vector of zeros, or an error where `vec!` would end the process.
pub(super) fn zeros(n: usize) -> Result<Vec<f32>> {
    let mut x = Vec::new();
    x.try_reserve_exact(n).map_err(|e| Error::Usage(format!("no memory for {n} elements of f32: {e}")))?;
    x.resize(n, 0.0);
    Ok(x)
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
        let f = |b: &[u8], t| {
            let mut out = [0.0];
            widen(b, t, &mut out);
            out[0]
        };
        assert_eq!(f(&half::bf16::from_f32(-2.5).to_le_bytes(), FloatType::Bf16), -2.5);
        assert_eq!(f(&1.25f32.to_le_bytes(), FloatType::F32), 1.25);
        assert_eq!(f(&0.5f64.to_le_bytes(), FloatType::F64), 0.5);
        assert_eq!(integers(&(-3i32).to_le_bytes(), IntType::I32), Some(vec![-3]));
        assert_eq!(integers(&(-3i64).to_le_bytes(), IntType::I64), Some(vec![-3]));
        assert_eq!(integers(&3_000_000_000u32.to_le_bytes(), IntType::U32), Some(vec![3_000_000_000]));
        assert_eq!(integers(&u64::MAX.to_le_bytes(), IntType::U64), None);
    }

    #[test]
    fn every_f16_is_widened_as_its_library_does() {
        let halves: Vec<u16> = (0..=u16::MAX).collect();
        let bytes: Vec<u8> = halves.iter().flat_map(|h| h.to_le_bytes()).collect();
        let mut out = vec![1.0; halves.len()];
        widen(&bytes, FloatType::F16, &mut out);
        for (half, x) in halves.into_iter().zip(out) {
            let expected = half::f16::from_bits(half).to_f32();
            assert!(x.to_bits() == expected.to_bits() || x.is_nan() && expected.is_nan(), "{half:#x}: {x}");
        }
    }
}
