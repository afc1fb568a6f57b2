//! Dumps in the safetensors format.
//!
//! | tensor | shape | types |
//! |-|-|-|
//! | `k`, `v` | `[layer, kv_head, token, dim]` | F16, BF16, F32 |
//! | `q` or `q_late` | `[layer, query_head, query, dim]` | F16, BF16, F32 |
//! | `layers` (optional) | `[layer]` | I32, U32, I64: layer numbers in the model; without it 0, 1, 2, ... |
//!
//! Metadata (all values are strings): `prefill_len` is required; `query_start` or a range in `positions` says which
//! tokens the queries belong to (see [`KvCache::checked`]); `element_bytes` are those of an element as the model stores it, where
//! the dump is wider; `rope_scaling` says how the rotation was rescaled
//! ([`SaidScaling::read`]); `model` and `text` go into the provenance.

use super::parts::{KvParts, Tensor, check_names, short};
use super::raw::{self, FloatType, IntType};
use super::rope::SaidScaling;
use super::stored::StoredBytes;
use super::{Elements, KvCache};
use pimattn_core::cancel::Cancel;
use pimattn_core::error::{Error, Result};
use safetensors::tensor::{Dtype, Metadata, TensorInfo};
use serde::ser::{SerializeMap, Serializer};
use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

/// Reads a dump.
///
/// Errors: [`Error::Data`] when the header is damaged, a name, type or shape is not as documented above, or the
/// parts contradict each other; [`Error::NoInput`] and [`Error::Io`] when the file cannot be read.
pub fn load(cancel: &Cancel, path: &Path) -> Result<KvCache> {
    KvCache::checked_layers(cancel, &path.display().to_string(), parts(path)?, &[])
}

/// What a dump holds; its elements stay in the file.
pub(super) fn parts(path: &Path) -> Result<KvParts> {
    let bytes = Arc::new(StoredBytes::open(path)?);
    let bad = |what: String| Error::data(path, what);
    let header_bytes = header_len(&bytes.read(0..bytes.len().min(8))?, bytes.len()).map_err(bad)?;
    let data_at = 8 + header_bytes;
    let header = FileHeader::parse(&bytes.read(8..data_at)?, bytes.len() - data_at).map_err(bad)?;
    StoredDump { header, bytes, data_at }.parts(path)
}

/// A dump, of which the header is read.
struct StoredDump {
    header: FileHeader,
    bytes: Arc<StoredBytes>,
    /// Where the bytes behind the header begin.
    data_at: u64,
}

/// What the head of a file says.
struct FileHeader(Metadata);

/// A file in the safetensors format, of whatever content.
pub struct SafetensorsFile<'a> {
    header: FileHeader,
    data: &'a [u8],
}

/// A number that a tensor can hold.
pub trait TensorNumber: Sized {
    /// Its type in the file.
    const DTYPE: Dtype;
    /// Its bytes in the file, little-endian, one number after the other.
    fn to_bytes(numbers: &[Self]) -> Vec<u8>;
    /// The numbers of such bytes; a last incomplete one is left out.
    fn of_bytes(bytes: &[u8]) -> Vec<Self>;
}

macro_rules! tensor_number {
    ($number:ty, $dtype:ident) => {
        impl TensorNumber for $number {
            const DTYPE: Dtype = Dtype::$dtype;
            fn to_bytes(numbers: &[Self]) -> Vec<u8> {
                numbers.iter().flat_map(|n| n.to_le_bytes()).collect()
            }
            fn of_bytes(bytes: &[u8]) -> Vec<Self> {
                bytes.as_chunks().0.iter().map(|b| <$number>::from_le_bytes(*b)).collect()
            }
        }
    };
}

tensor_number!(u32, U32);
tensor_number!(u64, U64);
tensor_number!(f32, F32);

/// What the head of a file says of a tensor.
pub(super) struct TensorPlan {
    pub name: &'static str,
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    /// Bytes of all its numbers.
    pub bytes: usize,
}

/// A tensor to be written.
pub struct TensorBytes {
    name: &'static str,
    dtype: Dtype,
    shape: Vec<usize>,
    data: Vec<u8>,
}

impl TensorBytes {
    /// Numbers under a name; `shape` is theirs.
    pub fn new<T: TensorNumber>(name: &'static str, shape: &[usize], numbers: &[T]) -> Self {
        TensorBytes { name, dtype: T::DTYPE, shape: shape.to_vec(), data: T::to_bytes(numbers) }
    }

    /// Its name.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Hands name, shape and numbers to a hash, piece by piece.
    pub fn hash_into(&self, hash: &mut dyn FnMut(&[u8])) {
        hash(&(self.name.len() as u64).to_le_bytes());
        hash(self.name.as_bytes());
        hash(&(self.shape.len() as u64).to_le_bytes());
        self.shape.iter().for_each(|n| hash(&(*n as u64).to_le_bytes()));
        hash(&self.data);
    }
}

/// The head of a file: the metadata in the order of their names, then where the bytes of each tensor are. The crate's own writer
/// orders metadata by a hash that differs from run to run.
struct FileHead<'a> {
    metadata: &'a BTreeMap<String, String>,
    tensors: &'a [TensorPlan],
}

impl serde::Serialize for FileHead<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.tensors.len() + 1))?;
        map.serialize_entry("__metadata__", self.metadata)?;
        let mut offset = 0;
        for TensorPlan { name, dtype, shape, bytes } in self.tensors {
            let info = TensorInfo { dtype: *dtype, shape: shape.clone(), data_offsets: (offset, offset + bytes) };
            map.serialize_entry(name, &info)?;
            offset += bytes;
        }
        map.end()
    }
}

/// Writes a file: the same content, the same bytes. Tensors of the widest numbers come first, so that all are aligned.
///
/// # Errors
/// Those of `out`.
pub fn write(
    out: &mut dyn Write,
    metadata: &BTreeMap<String, String>,
    mut tensors: Vec<TensorBytes>,
) -> std::io::Result<()> {
    tensors.sort_by_key(|t| (std::cmp::Reverse(t.dtype), t.name));
    let plan =
        |t: &TensorBytes| TensorPlan { name: t.name, dtype: t.dtype, shape: t.shape.clone(), bytes: t.data.len() };
    write_head(out, metadata, &tensors.iter().map(plan).collect::<Vec<_>>())?;
    tensors.iter().try_for_each(|t| out.write_all(&t.data))
}

/// Writes the head of a file, behind which the numbers of the tensors follow in this order.
pub(super) fn write_head(
    out: &mut dyn Write,
    metadata: &BTreeMap<String, String>,
    tensors: &[TensorPlan],
) -> std::io::Result<()> {
    let mut head = serde_json::to_vec(&FileHead { metadata, tensors })?;
    // The format wants the numbers to begin at a multiple of eight bytes.
    head.resize(head.len().next_multiple_of(8), b' ');
    out.write_all(&(head.len() as u64).to_le_bytes())?;
    out.write_all(&head)
}

/// Length of each axis of a tensor, and its numbers.
pub type ShapedNumbers<T> = (Vec<usize>, Vec<T>);

/// Bytes of the longest header that the format allows.
const MOST_HEADER: u64 = 100_000_000;

/// Bytes of the header's text, of a file of so many bytes that begins so.
fn header_len(start: &[u8], file: u64) -> Result<u64, String> {
    let Some(length) = start.first_chunk::<8>() else {
        return Err(format!("{} bytes are too few for a safetensors file", start.len()));
    };
    let (length, rest) = (u64::from_le_bytes(*length), file - 8);
    match length {
        _ if length > rest => Err(format!("the header claims {length} bytes, but only {rest} follow")),
        _ if length > MOST_HEADER => {
            Err(format!("the header claims {length} bytes; at most {MOST_HEADER} are expected"))
        }
        _ => Ok(length),
    }
}

impl FileHeader {
    /// Of its text, in front of so many bytes of data.
    ///
    /// `SafeTensors::deserialize` adds header and data length without an overflow check, so the lengths are compared
    /// here and the crate parses and validates only the header.
    fn parse(text: &[u8], data: u64) -> Result<FileHeader, String> {
        let header: Metadata =
            serde_json::from_slice(text).map_err(|e| format!("damaged safetensors header: {}", brief(&e)))?;
        if header.data_len() as u64 != data {
            return Err(format!("the tensors take {} bytes, but the file has {data}", header.data_len()));
        }
        Ok(FileHeader(header))
    }

    fn said(&self, name: &str) -> Option<&str> {
        self.0.metadata().as_ref()?.get(name).map(String::as_str)
    }

    fn number(&self, name: &str) -> Result<Option<i64>, String> {
        let Some(text) = self.said(name) else { return Ok(None) };
        match text.trim().parse() {
            Ok(n) => Ok(Some(n)),
            Err(_) => Err(format!("metadata \"{name}\" is \"{}\"; expected an integer", short(text))),
        }
    }
}

impl<'a> SafetensorsFile<'a> {
    /// Splits a file into header and data.
    ///
    /// # Errors
    /// What is wrong with the header.
    pub fn parse(bytes: &'a [u8]) -> Result<SafetensorsFile<'a>, String> {
        let length = header_len(bytes, bytes.len() as u64)?;
        // No longer than the bytes that there are.
        let (header, data) = bytes[8..].split_at(length as usize);
        Ok(SafetensorsFile { header: FileHeader::parse(header, data.len() as u64)?, data })
    }

    /// What the metadata say under a name.
    pub fn said(&self, name: &str) -> Option<&str> {
        self.header.said(name)
    }

    /// Names of the metadata, ascending.
    pub fn said_names(&self) -> Vec<&str> {
        let metadata = self.header.0.metadata().iter().flatten();
        let mut names: Vec<&str> = metadata.map(|(name, _)| name.as_str()).collect();
        names.sort_unstable();
        names
    }

    /// Names of the tensors, ascending.
    pub fn names(&self) -> Vec<String> {
        let mut names = self.header.0.offset_keys();
        names.sort_unstable();
        names
    }

    /// Where the bytes of a tensor begin and end, counted behind the header; none where there is no such tensor.
    pub fn span(&self, name: &str) -> Option<(usize, usize)> {
        self.header.0.info(name).map(|info| info.data_offsets)
    }

    /// The shape and the numbers of a tensor; none where there is no such tensor.
    ///
    /// # Errors
    /// Where its numbers are of another type.
    pub fn numbers<T: TensorNumber>(&self, name: &str) -> Result<Option<ShapedNumbers<T>>, String> {
        let Some(info) = self.header.0.info(name) else { return Ok(None) };
        if info.dtype != T::DTYPE {
            return Err(format!("tensor \"{name}\" has type {}; expected {}", info.dtype, T::DTYPE));
        }
        let (start, end) = info.data_offsets;
        let bytes = self.data.get(start..end);
        let bytes = bytes.ok_or_else(|| format!("tensor data {start}..{end} lie outside the file"))?;
        Ok(Some((info.shape.clone(), T::of_bytes(bytes))))
    }

    /// The metadata under a name, as an integer; none where they say nothing.
    ///
    /// # Errors
    /// Where it is no integer.
    pub fn number(&self, name: &str) -> Result<Option<i64>, String> {
        self.header.number(name)
    }
}

impl StoredDump {
    fn parts(&self, path: &Path) -> Result<KvParts> {
        let bad = |what: String| Error::data(path, what);
        let header = &self.header;
        let names = header.0.offset_keys();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let q_name = check_names(&names, false).map_err(bad)?;
        let prefill = header
            .number("prefill_len")
            .map_err(bad)?
            .ok_or_else(|| bad("the metadata lack \"prefill_len\", the number of prefill tokens".to_string()))?;
        let query_start = header.number("query_start").map_err(bad)?;
        let stored = self.element_bytes().map_err(bad)?;
        let tensor = |name| {
            let tensor = self.tensor(name).map_err(bad)?;
            Ok::<_, Error>(Tensor { element_bytes: stored.unwrap_or(tensor.element_bytes), ..tensor })
        };
        let layers = match header.0.info("layers") {
            Some(info) => Some(self.layers(path, info)?),
            None => None,
        };
        let said = ["model", "text"].into_iter().filter_map(|name| header.said(name));
        Ok(KvParts {
            k: tensor("k")?,
            v: tensor("v")?,
            q: tensor(q_name)?,
            layers,
            prefill,
            query_start,
            positions: header.said("positions").map(str::to_string),
            rope_scaling: header.said("rope_scaling").and_then(SaidScaling::read),
            provenance: raw::provenance(path, said),
        })
    }

    /// Bytes of an element as the model stores it, where the metadata say them.
    fn element_bytes(&self) -> Result<Option<u32>, String> {
        match self.header.number("element_bytes")? {
            None => Ok(None),
            Some(n @ (1 | 2 | 4)) => Ok(Some(n as u32)),
            Some(n) => Err(format!("metadata \"element_bytes\" is {n}; expected 1, 2 or 4")),
        }
    }

    fn tensor(&self, name: &str) -> Result<Tensor, String> {
        let info = self.header.0.info(name).ok_or_else(|| format!("there is no \"{name}\""))?;
        let ty = match info.dtype {
            Dtype::F16 => FloatType::F16,
            Dtype::BF16 => FloatType::Bf16,
            Dtype::F32 => FloatType::F32,
            other => return Err(format!("tensor \"{name}\" has type {other}; expected F16, BF16 or F32")),
        };
        let (start, end) = info.data_offsets;
        let elements = Elements::stored(&self.bytes, ty, self.data_at + start as u64, (end - start) / ty.size());
        Ok(Tensor {
            name: name.to_string(),
            shape: info.shape.clone(),
            data: elements,
            element_bytes: ty.element_bytes(),
        })
    }

    fn layers(&self, path: &Path, info: &TensorInfo) -> Result<Vec<i64>> {
        let bad = |what: String| Error::data(path, what);
        let ty = match info.dtype {
            Dtype::I32 => IntType::I32,
            Dtype::U32 => IntType::U32,
            Dtype::I64 => IntType::I64,
            other => return Err(bad(format!("tensor \"layers\" has type {other}; expected I32, U32 or I64"))),
        };
        if info.shape.len() != 1 {
            return Err(bad(format!("tensor \"layers\" has {} axes; expected 1", info.shape.len())));
        }
        let (start, end) = info.data_offsets;
        let bytes = self.bytes.read(self.data_at + start as u64..self.data_at + end as u64)?;
        raw::integers(&bytes, ty).ok_or_else(|| bad("tensor \"layers\" holds a number too large".to_string()))
    }
}

/// serde's messages quote names from the file, which may be of any length.
fn brief(e: &serde_json::Error) -> String {
    let text = e.to_string();
    if text.len() <= 256 { text } else { format!("{} ... at line {} column {}", short(&text), e.line(), e.column()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file with `header` and `data` bytes, written to a temporary directory and loaded.
    fn load_text(header: &str, data: &[u8]) -> Result<KvCache> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.safetensors");
        let bytes = [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat();
        std::fs::write(&path, bytes).unwrap();
        load(&Cancel::new(), &path)
    }

    #[test]
    fn what_is_written_is_read_again_and_is_aligned() {
        let metadata = BTreeMap::from([("b", "2"), ("a", "1")].map(|(k, v)| (k.to_string(), v.to_string())));
        let mut bytes = Vec::new();
        let tensors = vec![
            TensorBytes::new("x", &[3], &[1u32, 2, 3]),
            TensorBytes::new("long", &[2, 1], &[u64::MAX, 7]),
            TensorBytes::new("y", &[1], &[0.5f32]),
        ];
        write(&mut bytes, &metadata, tensors).unwrap();
        let file = SafetensorsFile::parse(&bytes).unwrap();
        assert_eq!((file.said("a"), file.said("b"), file.said_names()), (Some("1"), Some("2"), vec!["a", "b"]));
        assert_eq!(file.names(), ["long", "x", "y"]);
        assert_eq!(file.numbers::<u32>("x"), Ok(Some((vec![3], vec![1, 2, 3]))));
        assert_eq!(file.numbers::<u64>("long"), Ok(Some((vec![2, 1], vec![u64::MAX, 7]))));
        assert_eq!(file.numbers::<f32>("y"), Ok(Some((vec![1], vec![0.5]))));
        assert_eq!(file.numbers::<f32>("z"), Ok(None));
        assert_eq!(file.numbers::<u64>("x").unwrap_err(), "tensor \"x\" has type U32; expected U64");
        assert_eq!(file.header.0.info("long").unwrap().data_offsets, (0, 16), "the widest numbers are first");
        // The crate's own reader takes it.
        assert_eq!(safetensors::SafeTensors::deserialize(&bytes).unwrap().len(), 3);
    }

    const SMALL: &str = r#"{"__metadata__":{"prefill_len":"1","model":"m","positions":"k 0..1; q 1..1"},
        "k":{"dtype":"BF16","shape":[1,1,2,1],"data_offsets":[0,4]},
        "q":{"dtype":"F32","shape":[1,2,1,1],"data_offsets":[4,12]},
        "v":{"dtype":"F16","shape":[1,1,2,1],"data_offsets":[12,16]},
        "layers":{"dtype":"I32","shape":[1],"data_offsets":[16,20]}}"#;

    fn small_data() -> Vec<u8> {
        let mut data = Vec::new();
        data.extend([1.0, 2.0].map(|x| half::bf16::from_f32(x).to_le_bytes()).concat());
        data.extend([3.0f32, 4.0].map(f32::to_le_bytes).concat());
        data.extend([5.0, 6.0].map(|x| half::f16::from_f32(x).to_le_bytes()).concat());
        data.extend(7i32.to_le_bytes());
        data
    }

    #[test]
    fn reads_mixed_types() {
        let kv = load_text(SMALL, &small_data()).unwrap();
        let of = |x: &Elements| x.in_memory().unwrap().to_vec();
        assert_eq!([of(&kv.k), of(&kv.q), of(&kv.v)], [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]);
        assert_eq!((&kv.layers[..], kv.element_bytes, kv.decode_positions()), (&[7][..], 2, 1..2));
        assert_eq!((kv.provenance.as_str(), kv.rope_scaling), ("t.safetensors; m", None));
        let said = SMALL.replace("\"model\":\"m\"", "\"rope_scaling\":\"yarn:4 from 8192 tokens\"");
        assert_eq!(load_text(&said, &small_data()).unwrap().rope_scaling, Some(SaidScaling::Yarn(4.0, Some(8192))));
    }

    #[test]
    fn messages_name_file_tensor_and_expectation() {
        let e = |from: &str, to: &str| load_text(&SMALL.replace(from, to), &small_data()).unwrap_err().to_string();
        assert!(e("\"prefill_len\":\"1\"", "\"prefill_len\":\"one\"").contains("\"one\"; expected an integer"));
        assert!(e("\"prefill_len\":\"1\",", "").contains("lack \"prefill_len\""));
        assert!(e("BF16", "I16").contains("t.safetensors: tensor \"k\" has type I16; expected F16, BF16 or F32"));
        assert!(e("\"I32\"", "\"F32\"").contains("tensor \"layers\" has type F32"));
        assert!(e("\"k\":", "\"keys\":").contains("did you mean \"k\"?"));
        assert!(e("[16,20]", "[16,24]").contains("damaged safetensors header"));
    }

    #[test]
    fn lengths_that_overflow_are_refused() {
        let tensors: Vec<String> = (0..8u64)
            .map(|i| {
                let (n, start) = ((1u64 << 61) - 1, i * ((1 << 61) - 1));
                format!(r#""t{i}":{{"dtype":"U8","shape":[{n}],"data_offsets":[{start},{}]}}"#, start + n)
            })
            .collect();
        let header = format!(r#"{{"__metadata__":{{}},{}}}"#, tensors.join(","));
        assert!(matches!(load_text(&header, &[]), Err(Error::Data { .. })));
    }
}
