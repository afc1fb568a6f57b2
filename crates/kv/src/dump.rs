//! Writing dumps in the safetensors format that [`safetensors`] reads.

use super::safetensors::{self, TensorNumber, TensorPlan};
use super::{Elements, KvCache};
use ::safetensors::tensor::Dtype;
use half::{bf16, f16};
use pimattn_core::cancel::Cancel;
use pimattn_core::error::{Error, Result, suggest};
use pimattn_core::fsio::AtomicFile;
use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

/// How a dump stores an element.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DumpType {
    /// IEEE 754 with 32 bits.
    F32,
    /// IEEE 754 with 16 bits.
    F16,
    /// The upper half of an f32.
    Bf16,
}

impl DumpType {
    /// By its name: f32, f16 or bf16.
    ///
    /// # Errors
    /// [`Error::Usage`] for another name.
    pub fn parse(name: &str) -> Result<Self> {
        match name {
            "f32" => Ok(DumpType::F32),
            "f16" => Ok(DumpType::F16),
            "bf16" => Ok(DumpType::Bf16),
            other => Err(Error::Usage(format!(
                "dtype \"{other}\": expected f32, f16 or bf16{}",
                suggest(other, ["f32", "f16", "bf16"])
            ))),
        }
    }

    /// The narrowest type that holds every element of a cache as it is.
    ///
    /// # Errors
    /// Those of reading elements, and [`Error::Interrupted`].
    pub fn of(cancel: &Cancel, cache: &KvCache) -> Result<Self> {
        let holds = |kind: DumpType| move |x: &f32| kind.rounded(*x) == *x;
        let (mut half, mut brain) = (true, true);
        for elements in [&cache.k, &cache.v, &cache.q] {
            let of = |_: usize, part: &[f32]| [DumpType::F16, DumpType::Bf16].map(|kind| part.iter().all(holds(kind)));
            for [as_half, as_brain] in elements.map_parts(cancel, of)? {
                (half, brain) = (half && as_half, brain && as_brain);
            }
        }
        Ok(match (half, brain) {
            (true, _) => DumpType::F16,
            (false, true) => DumpType::Bf16,
            (false, false) => DumpType::F32,
        })
    }

    fn rounded(self, x: f32) -> f32 {
        match self {
            DumpType::F32 => x,
            DumpType::F16 => f16::from_f32(x).to_f32(),
            DumpType::Bf16 => bf16::from_f32(x).to_f32(),
        }
    }

    fn dtype(self) -> Dtype {
        match self {
            DumpType::F32 => Dtype::F32,
            DumpType::F16 => Dtype::F16,
            DumpType::Bf16 => Dtype::BF16,
        }
    }

    fn bytes(self) -> usize {
        if self == DumpType::F32 { 4 } else { 2 }
    }

    fn append(self, x: f32, out: &mut Vec<u8>) {
        match self {
            DumpType::F32 => out.extend(x.to_le_bytes()),
            DumpType::F16 => out.extend(f16::from_f32(x).to_le_bytes()),
            DumpType::Bf16 => out.extend(bf16::from_f32(x).to_le_bytes()),
        }
    }
}

/// Writes a dump, which is there whole or not at all. `metadata` are further texts; those that the format knows are written in any
/// case.
///
/// # Errors
/// [`Error::Usage`] where an element does not fit the type, [`Error::Io`] where the file cannot be written, [`Error::Interrupted`].
pub fn save(
    cancel: &Cancel,
    cache: &KvCache,
    path: &Path,
    kind: DumpType,
    metadata: &[(String, String)],
) -> Result<()> {
    if kind == DumpType::F16 {
        let beyond = |_: usize, part: &[f32]| part.iter().copied().find(|x| !f16::from_f32(*x).is_finite());
        for elements in [&cache.k, &cache.v, &cache.q] {
            if let Some(x) = elements.map_parts(cancel, beyond)?.into_iter().flatten().next() {
                return Err(Error::Usage(format!("{x:e} does not fit f16: write bf16 or f32")));
            }
        }
    }
    let (kv_heads, query_heads, dim) = (cache.kv_heads, cache.query_heads, cache.dim);
    let kv = [cache.layers.len(), kv_heads, cache.tokens, dim];
    let q = [cache.layers.len(), query_heads, cache.queries, dim];
    let tensors = [("k", kv, &cache.k), ("q", q, &cache.q), ("v", kv, &cache.v)];
    let mut said: BTreeMap<String, String> = metadata.iter().cloned().collect();
    said.insert("prefill_len".into(), cache.prefill.to_string());
    said.insert("query_start".into(), cache.query_start.to_string());
    said.insert("element_bytes".into(), cache.element_bytes.to_string());
    said.entry("text".into()).or_insert_with(|| cache.provenance.clone());
    let count = cache.layers.len();
    let layers = TensorPlan { name: "layers", dtype: Dtype::U32, shape: vec![count], bytes: 4 * count };
    let plan = |(name, shape, data): &(&'static str, [usize; 4], &Elements)| TensorPlan {
        name,
        dtype: kind.dtype(),
        shape: shape.to_vec(),
        bytes: data.len() * kind.bytes(),
    };
    let plans: Vec<TensorPlan> = std::iter::once(layers).chain(tensors.iter().map(plan)).collect();

    let mut out = AtomicFile::create(path)?;
    safetensors::write_head(&mut out, &said, &plans).map_err(|e| Error::io(path, e))?;
    let mut put = |bytes: &[u8]| out.write_all(bytes).map_err(|e| Error::io(path, e));
    put(&u32::to_bytes(&cache.layers))?;
    let mut bytes = Vec::new();
    for (_, _, elements) in tensors {
        elements.parts(cancel, |part| {
            bytes.clear();
            part.iter().for_each(|x| kind.append(*x, &mut bytes));
            put(&bytes)
        })?;
    }
    out.commit()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::synthetic::{SyntheticSpec, generate};

    #[test]
    fn a_dump_holds_what_was_written() {
        let shape = SyntheticSpec { layers: 2, dim: 8, prefill: 40, decode_steps: 3, ..SyntheticSpec::default() };
        let cache = generate(&shape).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("dump.safetensors");
        // The synthetic source rounds to f16.
        assert_eq!(DumpType::of(&Cancel::new(), &cache).unwrap(), DumpType::F16);
        let more = [("text".to_string(), "a \"text\"".to_string()), ("prefill_len".to_string(), "7".to_string())];
        save(&Cancel::new(), &cache, &path, DumpType::F16, &more).unwrap();
        let read = crate::load(&path).unwrap();
        assert!(read.k == cache.k && read.v == cache.v && read.q == cache.q);
        assert_eq!((read.prefill, read.query_start, &read.layers), (40, cache.query_start, &cache.layers));
        assert!(read.provenance.contains("a \"text\""), "{}", read.provenance);

        save(&Cancel::new(), &cache, &path, DumpType::F32, &[]).unwrap();
        // Bytes are those that the model stores, however wide the dump is.
        assert_eq!(crate::load(&path).unwrap().element_bytes, 2);
        let wide = |k: f32| KvCache { k: vec![k; cache.k.len()].into(), ..cache.clone() };
        assert_eq!(DumpType::of(&Cancel::new(), &wide(1.0 / 3.0)).unwrap(), DumpType::F32);
        let powers = |x: &Elements| -> Elements { vec![65536.0; x.len()].into() };
        let large = KvCache { k: powers(&cache.k), v: powers(&cache.v), q: powers(&cache.q), ..cache.clone() };
        assert_eq!(DumpType::of(&Cancel::new(), &large).unwrap(), DumpType::Bf16);
        let refused = save(&Cancel::new(), &large, &path, DumpType::F16, &[]).unwrap_err();
        assert!(refused.to_string().contains("does not fit f16"), "{refused}");
        assert!(DumpType::parse("fp16").unwrap_err().to_string().contains("did you mean \"f16\""));
    }
}
