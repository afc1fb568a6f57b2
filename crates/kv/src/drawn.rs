//! Elements of synthetic caches, drawn head by head: of a small cache into memory, of a large one into a file without a name.

use super::Elements;
use super::parts::IN_MEMORY;
use super::raw::{self, FloatType};
use super::stored::{StoredBytes, UnnamedFile};
use pimattn_core::error::Result;
use rayon::prelude::*;
use std::path::Path;
use std::sync::Arc;

/// Bytes of the heads that are drawn at the same time, at most, if these are several.
const TOGETHER: usize = 256 << 20;

/// What is drawn: so many KV heads, each with its query heads.
pub(super) struct DrawnShape {
    /// KV heads of all layers.
    pub heads: usize,
    /// Elements of the keys of a head, and of its values.
    pub rows: usize,
    /// Elements of the queries of its query heads.
    pub queries: usize,
    /// Bytes of one element: 2 (f16) or 4; what is drawn fits it.
    pub element_bytes: u32,
}

/// Keys, values and queries of all heads. `draw` fills those of a head, whichever thread asks for it.
pub(super) fn elements(
    shape: &DrawnShape,
    draw: impl Fn(usize, &mut [f32], &mut [f32], &mut [f32]) -> Result<()> + Sync,
) -> Result<[Elements; 3]> {
    let DrawnShape { heads, rows, queries, .. } = *shape;
    let of_head = 4 * (2 * rows + queries);
    if (heads as u64).saturating_mul(of_head as u64) <= IN_MEMORY {
        let (mut k, mut v) = (raw::zeros(heads * rows)?, raw::zeros(heads * rows)?);
        let mut q = raw::zeros(heads * queries)?;
        k.par_chunks_mut(rows)
            .zip(v.par_chunks_mut(rows))
            .zip(q.par_chunks_mut(queries))
            .enumerate()
            .try_for_each(|(head, ((k, v), q))| draw(head, k, v, q))?;
        return Ok([k, v, q].map(Elements::from));
    }
    let ty = if shape.element_bytes == 2 { FloatType::F16 } else { FloatType::F32 };
    let size = ty.size();
    let begins = [0, heads * rows, 2 * heads * rows].map(|first| (first * size) as u64);
    let mut file = UnnamedFile::new(Path::new("synthetic cache"))?;
    file.set_len((heads * (2 * rows + queries) * size) as u64)?;
    let file_of_all = &file;
    let one = |head: usize| -> Result<()> {
        let (mut k, mut v, mut q) = (raw::zeros(rows)?, raw::zeros(rows)?, raw::zeros(queries)?);
        draw(head, &mut k, &mut v, &mut q)?;
        for (x, begin) in [&k, &v, &q].into_iter().zip(begins) {
            let at = begin + (head * x.len() * size) as u64;
            write(file_of_all, at, x, ty)?;
        }
        Ok(())
    };
    let together = (TOGETHER / of_head.max(1)).max(1);
    if together >= rayon::current_num_threads() {
        (0..heads).into_par_iter().try_for_each(one)?;
    } else {
        for first in (0..heads).step_by(together) {
            (first..heads.min(first + together)).into_par_iter().try_for_each(one)?;
        }
    }
    let bytes: Arc<StoredBytes> = Arc::new(file.finish());
    let lengths = [rows, rows, queries].map(|n| heads * n);
    let of = |i: usize| Elements::stored(&bytes, ty, begins[i], lengths[i]);
    Ok([of(0), of(1), of(2)])
}

fn write(file: &UnnamedFile, mut at: u64, elements: &[f32], ty: FloatType) -> Result<()> {
    let mut bytes = Vec::with_capacity(raw::CHUNK.min(elements.len()) * ty.size());
    for part in elements.chunks(raw::CHUNK) {
        bytes.clear();
        match ty {
            FloatType::F16 => bytes.extend(part.iter().flat_map(|x| half::f16::from_f32(*x).to_le_bytes())),
            _ => bytes.extend(part.iter().flat_map(|x| x.to_le_bytes())),
        }
        file.write_at(at, &bytes)?;
        at += bytes.len() as u64;
    }
    Ok(())
}
