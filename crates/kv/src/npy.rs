//! Dumps in NumPy's formats: a `.npz` archive, or a directory of `.npy` files, with the same names in both.
//!
//! | array | shape | types |
//! |-|-|-|
//! | `k`, `v` | `[layer, kv_head, token, dim]` | f2, f4, f8 |
//! | `q` or `q_late` | `[layer, query_head, query, dim]` | f2, f4, f8 |
//! | `prefill_len` | one element | i4, i8, u4, u8 |
//! | `query_start` (optional) | one element | i4, i8, u4, u8 |
//! | `layers` (optional) | `[layer]` | i4, i8, u4, u8: layer numbers in the model; without it 0, 1, 2, ... |
//!
//! Little-endian, C or Fortran order. f2 counts as 2 bytes per element of the cache, f4 as 4, and f8 as 4 too: no
//! model serves with f8, it is how NumPy holds f4 data after a computation. NumPy has no bf16.

use super::parts::{KvParts, Tensor, check_names, short};
use super::raw::{self, FloatType, IntType};
use super::stored::StoredBytes;
use super::zip::{self, EntryFault};
use super::{Elements, IN_MEMORY, KvCache};
use nom::branch::alt;
use nom::bytes::complete::{tag, take_while};
use nom::character::complete::{char, digit1, multispace0};
use nom::combinator::{all_consuming, cut, opt, recognize};
use nom::multi::separated_list0;
use nom::sequence::{delimited, separated_pair, terminated};
use nom::{IResult, Parser};
use pimattn_core::cancel::Cancel;
use pimattn_core::error::{Error, Result};
use pimattn_core::memory;
use std::path::Path;
use std::sync::Arc;

/// Reads a `.npz` archive as `numpy.savez` and `numpy.savez_compressed` write it.
///
/// An entry may inflate to 64 times its compressed size (small ones further) and must have exactly the size that
/// its header declares; it is inflated into a file without a name.
///
/// Errors: [`Error::Data`] when the archive or an array is damaged, or name, type, shape or contents are not as
/// documented above; [`Error::NoInput`] and [`Error::Io`] when the file cannot be read.
pub fn load_npz(cancel: &Cancel, path: &Path) -> Result<KvCache> {
    KvCache::checked_layers(cancel, &path.display().to_string(), parts_of_npz(cancel, path)?, &[])
}

/// What an archive holds; its elements are not read.
pub(super) fn parts_of_npz(cancel: &Cancel, path: &Path) -> Result<KvParts> {
    let file = Arc::new(StoredBytes::open(path)?);
    let entries = zip::entries(&file)?;
    let names: Vec<&str> = entries.iter().map(|e| e.name.strip_suffix(".npy").unwrap_or(&e.name)).collect();
    let array = |name: &str| -> Result<StoredArray> {
        let bad = |what: String| Error::data(path, format!("array \"{name}\": {what}"));
        let i = names.iter().position(|n| *n == name).ok_or_else(|| bad("missing".into()))?;
        let fault = |fault: EntryFault| match fault {
            EntryFault::Damaged(what) => bad(what),
            EntryFault::Failed(error) => error,
        };
        let head = entries[i].head(&file, MAX_HEADER + 12).map_err(fault)?;
        let header = NpyHeader::parse(&head, entries[i].size).map_err(bad)?;
        let (bytes, at) = entries[i].open(cancel, &file).map_err(fault)?;
        Ok(StoredArray { at: at + header.payload_at as u64, header, bytes })
    };
    assemble(cancel, path, &names, array)
}

/// Reads a directory that holds `k.npy`, `v.npy`, `q.npy` (or `q_late.npy`), `prefill_len.npy` and optionally
/// `layers.npy` and `query_start.npy`. Files of other types are not looked at.
///
/// Errors: as [`load_npz`].
pub fn load_dir(cancel: &Cancel, dir: &Path) -> Result<KvCache> {
    KvCache::checked_layers(cancel, &dir.display().to_string(), parts_of_dir(cancel, dir)?, &[])
}

/// What a directory holds; its elements are not read.
pub(super) fn parts_of_dir(cancel: &Cancel, dir: &Path) -> Result<KvParts> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(|e| Error::io(dir, e))? {
        let file_name = entry.map_err(|e| Error::io(dir, e))?.file_name();
        if let Some(name) = file_name.to_str().and_then(|n| n.strip_suffix(".npy")) {
            names.push(name.to_string());
        }
    }
    // the order of a directory must not decide which complaint comes first
    names.sort();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    check_names(&names, true).map_err(|what| Error::data(dir, what))?;
    let array = |name: &str| -> Result<StoredArray> {
        let path = dir.join(format!("{name}.npy"));
        if !names.contains(&name) {
            return Err(Error::data(path, "missing"));
        }
        StoredArray::open(&path)
    };
    assemble(cancel, dir, &names, array)
}

/// An array in a file.
struct StoredArray {
    header: NpyHeader,
    bytes: Arc<StoredBytes>,
    /// Where its values begin.
    at: u64,
}

impl StoredArray {
    /// The array of a `.npy` file.
    fn open(path: &Path) -> Result<Self> {
        let bytes = StoredBytes::open(path)?;
        let bad = |what: String| Error::data(path, what);
        let file_len = usize::try_from(bytes.len()).map_err(|_| bad("too long for this machine".into()))?;
        let head = bytes.read(0..bytes.len().min((MAX_HEADER + 12) as u64))?;
        let header = NpyHeader::parse(&head, file_len).map_err(bad)?;
        Ok(StoredArray { at: header.payload_at as u64, header, bytes: Arc::new(bytes) })
    }

    /// Values of the array.
    fn len(&self) -> usize {
        self.header.shape.iter().product()
    }

    fn integers(&self, path: &Path, name: &str) -> Result<Vec<i64>> {
        let bad = |what: &str| Error::data(path, format!("array \"{name}\" {what}"));
        match self.header.ty {
            Type::Float(_) => Err(bad("holds floating-point numbers; expected i4, i8, u4 or u8")),
            Type::Bool => Err(bad("holds truth values; expected i4, i8, u4 or u8")),
            Type::Int(ty) => {
                let len = (self.len() * self.header.ty.size()) as u64;
                let numbers = raw::integers(&self.bytes.read(self.at..self.at + len)?, ty);
                numbers.ok_or_else(|| bad("holds a number too large"))
            }
        }
    }
}

/// Truth values of a `.npy` file, as NumPy writes an array of type bool.
pub struct MaskArray {
    /// Length of each axis.
    pub shape: Vec<usize>,
    array: StoredArray,
}

impl MaskArray {
    /// Hands over all values in C order (the last axis is the fastest), so many at a time: a byte for each, of which 0 is false.
    ///
    /// # Errors
    /// Those of reading the file, and of `take`.
    pub fn rows(&self, row: usize, mut take: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let mut values = vec![0; row];
        for i in 0..self.array.len() / row.max(1) {
            self.array.bytes.read_at(self.array.at + (i * row) as u64, &mut values)?;
            take(&values)?;
        }
        Ok(())
    }
}

/// Reads a `.npy` file of truth values, which stay in the file.
///
/// # Errors
/// [`Error::Data`] when it is damaged, of another type, or in Fortran order; [`Error::NoInput`] and [`Error::Io`] when it cannot
/// be read.
pub fn load_mask(path: &Path) -> Result<MaskArray> {
    let array = StoredArray::open(path)?;
    let bad = |what: &str| Error::data(path, what);
    if array.header.ty != Type::Bool {
        return Err(bad("holds numbers; expected truth values (b1)"));
    }
    if array.header.fortran {
        return Err(bad("is in Fortran order; expected C order (numpy.ascontiguousarray makes it)"));
    }
    Ok(MaskArray { shape: array.header.shape.clone(), array })
}

fn assemble(
    cancel: &Cancel,
    path: &Path,
    names: &[&str],
    array: impl Fn(&str) -> Result<StoredArray>,
) -> Result<KvParts> {
    let q_name = check_names(names, true).map_err(|what| Error::data(path, what))?;
    let integers = |name: &str| -> Result<Option<(Vec<usize>, Vec<i64>)>> {
        if !names.contains(&name) {
            return Ok(None);
        }
        let a = array(name)?;
        let numbers = a.integers(path, name)?;
        Ok(Some((a.header.shape, numbers)))
    };
    let scalar = |name: &str| -> Result<Option<i64>> {
        match integers(name)? {
            None => Ok(None),
            Some((_, numbers)) if numbers.len() == 1 => Ok(Some(numbers[0])),
            Some((shape, _)) => {
                Err(Error::data(path, format!("array \"{name}\" has shape {shape:?}; expected one element")))
            }
        }
    };
    let tensor = |name: &str| -> Result<Tensor> {
        let a = array(name)?;
        let ty = match a.header.ty {
            Type::Float(ty) => ty,
            Type::Int(_) => {
                return Err(Error::data(path, format!("array \"{name}\" holds integers; expected f2, f4 or f8")));
            }
            Type::Bool => {
                return Err(Error::data(path, format!("array \"{name}\" holds truth values; expected f2, f4 or f8")));
            }
        };
        let mut data = Elements::stored(&a.bytes, ty, a.at, a.len());
        if a.header.fortran {
            // Its heads lie nowhere together, so that all of it is in memory, whatever its size: once as it is, and once in order.
            if data.len() as u64 * 4 > IN_MEMORY {
                let what = format!("{}, array \"{name}\" in Fortran order", path.display());
                memory::check(&what, data.len() as u64 * 8)?;
            }
            let data_in_order = data.loaded(cancel)?;
            let elements = data_in_order.in_memory().unwrap_or_default();
            data = to_c_order(cancel, elements, &a.header.shape)?.into();
        }
        Ok(Tensor { name: name.to_string(), shape: a.header.shape, data, element_bytes: ty.element_bytes() })
    };
    let prefill = scalar("prefill_len")?.ok_or_else(|| Error::data(path, "there is no \"prefill_len\""))?;
    let query_start = scalar("query_start")?;
    let layers = match integers("layers")? {
        Some((shape, _)) if shape.len() != 1 => {
            return Err(Error::data(path, format!("array \"layers\" has {} axes; expected 1", shape.len())));
        }
        layers => layers.map(|(_, numbers)| numbers),
    };
    Ok(KvParts {
        k: tensor("k")?,
        v: tensor("v")?,
        q: tensor(q_name)?,
        layers,
        prefill,
        query_start,
        positions: None,
        rope_scaling: None,
        provenance: raw::provenance(path, []),
    })
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Type {
    Float(FloatType),
    Int(IntType),
    /// A byte each.
    Bool,
}

#[derive(Debug)]
struct NpyHeader {
    shape: Vec<usize>,
    ty: Type,
    fortran: bool,
    payload_at: usize,
}

impl Type {
    /// Bytes of a value.
    fn size(self) -> usize {
        match self {
            Type::Bool => 1,
            Type::Float(ty) => ty.size(),
            Type::Int(IntType::I64 | IntType::U64) => 8,
            Type::Int(_) => 4,
        }
    }
}

/// Bytes that the text of a `.npy` header may have; NumPy pads to 128 for the arrays of a dump.
const MAX_HEADER: usize = 4096;

impl NpyHeader {
    /// Parses the start of a `.npy` file of `file_len` bytes; the values must fill the rest of it exactly.
    fn parse(start: &[u8], file_len: usize) -> Result<NpyHeader, String> {
        let (text, payload_at) = header_text(start)?;
        let (descr, fortran, shape) = dictionary(text)?;
        let ty = element_type(descr)?;
        let size = ty.size();
        let elements = shape.iter().try_fold(1u64, |all, n| all.checked_mul((*n).max(1)));
        elements.ok_or("the npy header declares a shape that is too large")?;
        let sizes: Option<Vec<usize>> = shape.iter().map(|n| usize::try_from(*n).ok()).collect();
        let needed = sizes.as_ref().and_then(|s| s.iter().try_fold(size, |all: usize, n| all.checked_mul(*n)));
        match (sizes, needed) {
            (Some(shape), Some(needed)) if needed == file_len - payload_at => {
                Ok(NpyHeader { shape, ty, fortran, payload_at })
            }
            _ => Err(format!(
                "shape {shape:?} of {size}-byte elements does not fit the {} bytes that follow the header",
                file_len - payload_at
            )),
        }
    }
}

/// The text of the header, a Python dictionary, and the offset of the values behind it.
fn header_text(start: &[u8]) -> Result<(&str, usize), String> {
    let not_npy = || "not a .npy file, or a truncated one".to_string();
    let rest = start.strip_prefix(b"\x93NUMPY").ok_or_else(not_npy)?;
    let ([major, minor], rest) = rest.split_first_chunk::<2>().ok_or_else(not_npy)?;
    if !(1..=3).contains(major) || *minor != 0 {
        return Err(format!("version {major}.{minor} of the npy format; 1.0 to 3.0 are known"));
    }
    let (len, rest) = if *major == 1 {
        let (len, rest) = rest.split_first_chunk().ok_or_else(not_npy)?;
        (usize::from(u16::from_le_bytes(*len)), rest)
    } else {
        let (len, rest) = rest.split_first_chunk().ok_or_else(not_npy)?;
        (u32::from_le_bytes(*len) as usize, rest)
    };
    if len > MAX_HEADER {
        return Err(format!("the npy header claims {len} bytes; at most {MAX_HEADER} are expected"));
    }
    let text = rest.get(..len).ok_or_else(not_npy)?;
    let text = std::str::from_utf8(text).map_err(|_| "damaged npy header: not text".to_string())?;
    Ok((text, start.len() - rest.len() + len))
}

/// A value in the header's dictionary.
enum Literal<'a> {
    Text(&'a str),
    Flag(bool),
    Tuple(Vec<&'a str>),
    /// The fields of a structured type.
    List,
}

/// What the header's dictionary says: type, whether in Fortran order, and shape.
fn dictionary(text: &str) -> Result<(&str, bool, Vec<u64>), String> {
    let damaged = |what: &str| format!("damaged npy header: {what}");
    let (_, entries) = entries(text).map_err(|e| match e {
        nom::Err::Error(e) | nom::Err::Failure(e) if e.input.starts_with(['(', '[']) => damaged("nested too deeply"),
        nom::Err::Error(e) | nom::Err::Failure(e) if e.input.is_empty() => damaged("it ends early"),
        _ => damaged("unexpected character"),
    })?;
    let find = |key: &str| {
        let mut found = entries.iter().filter(|(name, _)| *name == key).map(|(_, value)| value);
        match (found.next(), found.next()) {
            (Some(value), None) => Ok(value),
            _ => Err(damaged(&format!("it should have one \"{key}\""))),
        }
    };
    let descr = match find("descr")? {
        Literal::Text(descr) => *descr,
        Literal::List => return Err(format!("records are not supported; {TYPES}")),
        _ => return Err(damaged("\"descr\" is no type")),
    };
    let Literal::Flag(fortran) = find("fortran_order")? else { return Err(damaged("\"fortran_order\" is no boolean")) };
    let Literal::Tuple(shape) = find("shape")? else { return Err(damaged("\"shape\" is no tuple")) };
    let axis = |digits: &&str| match digits.starts_with('-') {
        true => Err("the npy header declares a negative axis".to_string()),
        false => digits.parse::<u64>().map_err(|_| "the npy header declares an axis that is too long".to_string()),
    };
    Ok((descr, *fortran, shape.iter().map(axis).collect::<Result<_, _>>()?))
}

/// Parses a dictionary of strings, booleans, tuples of integers and lists of what has no brackets of its own: as NumPy
/// writes it for plain arrays, and near enough for others to say what is not supported.
fn entries(text: &str) -> IResult<&str, Vec<(&str, Literal<'_>)>> {
    let quoted = |text| {
        let of = |quote: char| delimited(char(quote), take_while(move |c| c != quote && c != '\\'), char(quote));
        alt((of('\''), of('"'))).parse(text)
    };
    let comma = || delimited(multispace0, char(','), multispace0);
    let integer = recognize((opt(char('-')), digit1));
    let tuple = delimited(
        (char('('), multispace0),
        terminated(separated_list0(comma(), integer), opt(comma())),
        cut((multispace0, char(')'))),
    );
    let value = alt((
        quoted.map(Literal::Text),
        tag("True").map(|_| Literal::Flag(true)),
        tag("False").map(|_| Literal::Flag(false)),
        tuple.map(Literal::Tuple),
        delimited(char('['), take_while(|c| c != ']'), char(']')).map(|_| Literal::List),
    ));
    let entry = separated_pair(quoted, (multispace0, char(':'), multispace0), cut(value));
    let list = terminated(separated_list0(comma(), entry), opt(comma()));
    let dictionary = delimited((char('{'), multispace0), list, (multispace0, char('}')));
    all_consuming(delimited(multispace0, dictionary, multispace0)).parse(text)
}

const TYPES: &str = "expected f2, f4, f8, i4, i8, u4 or u8, little-endian";

/// The type that NumPy writes as `<f2`: byte order, kind, and bytes.
fn element_type(descr: &str) -> Result<Type, String> {
    if descr == "|b1" {
        return Ok(Type::Bool);
    }
    match descr.strip_prefix('<') {
        Some("f2") => Ok(Type::Float(FloatType::F16)),
        Some("f4") => Ok(Type::Float(FloatType::F32)),
        Some("f8") => Ok(Type::Float(FloatType::F64)),
        Some("i4") => Ok(Type::Int(IntType::I32)),
        Some("i8") => Ok(Type::Int(IntType::I64)),
        Some("u4") => Ok(Type::Int(IntType::U32)),
        Some("u8") => Ok(Type::Int(IntType::U64)),
        _ if descr.starts_with('>') => Err(format!("big-endian type {}; {TYPES}", short(descr))),
        _ => Err(format!("type {}; {TYPES}", short(descr))),
    }
}

/// Reorders values from Fortran order (first axis fastest) to C order (last axis fastest).
fn to_c_order(cancel: &Cancel, data: &[f32], shape: &[usize]) -> Result<Vec<f32>> {
    let mut strides = Vec::with_capacity(shape.len());
    let mut stride = 1;
    for n in shape {
        strides.push(stride);
        stride *= n;
    }
    let mut out = Vec::with_capacity(data.len());
    let mut index = vec![0usize; shape.len()];
    let mut at = 0;
    for i in 0..data.len() {
        if i % (1 << 20) == 0 {
            cancel.check()?;
        }
        out.push(data[at]);
        for axis in (0..shape.len()).rev() {
            index[axis] += 1;
            at += strides[axis];
            if index[axis] < shape[axis] {
                break;
            }
            at -= shape[axis] * strides[axis];
            index[axis] = 0;
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn npy(text: &str, payload: &[u8]) -> Vec<u8> {
        [b"\x93NUMPY\x01\x00", &(text.len() as u16).to_le_bytes()[..], text.as_bytes(), payload].concat()
    }

    fn parse(text: &str, payload: &[u8]) -> Result<NpyHeader, String> {
        let bytes = npy(text, payload);
        NpyHeader::parse(&bytes, bytes.len())
    }

    #[test]
    fn reads_the_header_that_numpy_writes() {
        let text = "{'descr': '<f2', 'fortran_order': True, 'shape': (1, 2, 3), }   \n";
        let h = parse(text, &[0; 12]).unwrap();
        assert_eq!((h.shape, h.ty, h.fortran), (vec![1, 2, 3], Type::Float(FloatType::F16), true));
        let h = parse("{'descr': '<i8', 'fortran_order': False, 'shape': ()}\n", &[0; 8]).unwrap();
        assert_eq!((h.shape, h.ty, h.fortran), (vec![], Type::Int(IntType::I64), false));
    }

    #[test]
    fn refuses_hostile_headers() {
        let e = |shape: &str| {
            let text = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}}}\n");
            parse(&text, &[0; 16]).unwrap_err()
        };
        assert!(e("(-1, 4)").contains("negative"));
        assert!(e("(4294967296, 4294967296)").contains("too large"));
        assert!(e("(99999999999999999999,)").contains("too long"));
        assert!(e("(((((((1,),),),),),),)").contains("deeply"));
        assert!(e("(5,)").contains("does not fit the 16 bytes"));
        assert!(e("(4611686018427387904,)").contains("does not fit"));
        assert!(e("(4, 0x1)").contains("damaged"));
        assert!(e("4").contains("damaged"));
        assert!(e("(1e5,)").contains("damaged"));
        assert!(e("(2.0,)").contains("unexpected character"));
        let dtype = |d: &str| {
            parse(&format!("{{'descr': {d}, 'fortran_order': False, 'shape': (4,)}}\n"), &[0; 16]).unwrap_err()
        };
        assert!(dtype("'>f4'").contains("big-endian"));
        assert!(dtype("'<c8'").contains("type <c8"));
        assert!(dtype("'|O'").contains("type |O"));
        assert!(dtype("[('a', '<f4')]").contains("records"));
        assert!(dtype("'|U99999999999999999999'").contains("type |U9999"));
    }

    #[test]
    fn masks_are_read_as_they_lie_and_nothing_else_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.npy");
        let read = |descr: &str, fortran: &str, payload: &[u8]| {
            let text = format!("{{'descr': '{descr}', 'fortran_order': {fortran}, 'shape': (2, 3)}}\n");
            std::fs::write(&path, npy(&text, payload)).unwrap();
            load_mask(&path)
        };
        let mask = read("|b1", "False", &[1, 0, 0, 0, 1, 1]).unwrap();
        let mut rows = Vec::new();
        let take = |row: &[u8]| {
            rows.push(row.to_vec());
            Ok(())
        };
        mask.rows(3, take).unwrap();
        assert_eq!((mask.shape.as_slice(), rows), (&[2, 3][..], vec![vec![1, 0, 0], vec![0, 1, 1]]));
        let wrong = |descr, fortran, payload: &[u8]| read(descr, fortran, payload).err().unwrap().to_string();
        assert!(wrong("<f2", "False", &[0; 12]).ends_with("holds numbers; expected truth values (b1)"));
        assert!(wrong("|b1", "True", &[0; 6]).contains("Fortran order"));
        assert!(wrong("|b1", "False", &[0; 5]).contains("does not fit the 5 bytes"));
    }

    #[test]
    fn fortran_order_is_transposed() {
        // element (i, j, k) of a [2, 3, 2] array holds 100 i + 10 j + k
        let c: Vec<f32> = (0..12).map(|n| (n / 6 * 100 + n / 2 % 3 * 10 + n % 2) as f32).collect();
        let fortran: Vec<f32> = (0..12).map(|n| (n % 2 * 100 + n / 2 % 3 * 10 + n / 6) as f32).collect();
        assert_eq!(to_c_order(&Cancel::new(), &fortran, &[2, 3, 2]).unwrap(), c);
    }
}
