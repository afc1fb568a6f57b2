//! Boolean masks over the tokens of the cache, in their order in the text: a row for each query head and step, as evaluation code in
//! PyTorch makes them (`numpy.save` of `mask.cpu().numpy()`).
//!
//! A folder holds `layer_N.npy` for the layers N of the model, each `[query_head, step, token]`; a single file has an axis of layers in
//! front. An axis of one request in front of a layer's (`[1, query_head, step, token]`) is taken off. The last step sees all
//! tokens unless it is said where the prefill ends.

use super::Imported;
use crate::selection::{Granularity, Selection};
use pimattn_core::error::{Error, Result};
use pimattn_kv::npy::load_mask;
use std::path::{Path, PathBuf};

/// How masks are to be understood.
#[derive(Debug, Clone)]
pub struct MaskOptions {
    /// Name of the policy that made them.
    pub policy: String,
    /// Tokens before the first step, instead of as many as make the last step see all tokens.
    pub prefill: Option<usize>,
}

/// Reads a folder of `layer_N.npy`, or one `.npy` file of all layers.
///
/// # Errors
/// [`Error::Data`] where a file is no mask or is of another shape than the first; [`Error::NoInput`] where there is none.
pub fn import(path: &Path, options: &MaskOptions) -> Result<Imported> {
    let meta = std::fs::metadata(path).map_err(|e| Error::io(path, e))?;
    let (layers, masks) = match meta.is_dir() {
        true => {
            let files = layer_files(path)?;
            let (layers, paths): (Vec<u32>, Vec<PathBuf>) = files.into_iter().unzip();
            let masks = paths.into_iter().map(|p| Ok((load_mask(&p)?, p))).collect::<Result<Vec<_>>>()?;
            (Some(layers), masks)
        }
        false => (None, vec![(load_mask(path)?, path.to_path_buf())]),
    };
    let mut shape: Option<[usize; 3]> = None;
    for (mask, file) in &masks {
        let own = match (mask.shape.as_slice(), layers.is_some()) {
            ([heads, steps, tokens] | [1, heads, steps, tokens], true) => [*heads, *steps, *tokens],
            ([_, heads, steps, tokens], false) => [*heads, *steps, *tokens],
            (other, of_layer) => {
                let expected = if of_layer { "[query_head, step, token]" } else { "[layer, query_head, step, token]" };
                return Err(Error::data(file, format!("the mask has shape {other:?}; expected {expected}")));
            }
        };
        if own.contains(&0) || own[2] > 1 << 30 {
            return Err(Error::data(file, format!("the mask has shape {own:?}: nothing, or too many tokens")));
        }
        if *shape.get_or_insert(own) != own {
            return Err(Error::data(
                file,
                format!("the mask has shape {own:?}; that of the first layer is {:?}", shape.unwrap_or(own)),
            ));
        }
    }
    let Some([heads, steps, tokens]) = shape else {
        return Err(Error::data(path, "the folder holds no layer_N.npy"));
    };
    let prefill = match options.prefill {
        None if tokens < steps => {
            return Err(Error::data(
                path,
                format!("{steps} steps, and masks of {tokens} tokens: each step decodes one"),
            ));
        }
        None => tokens - steps,
        Some(prefill) if prefill + steps > tokens => {
            let what = format!("{steps} steps behind a prefill of {prefill} tokens; the masks have {tokens} tokens");
            return Err(Error::data(path, what));
        }
        Some(prefill) => prefill,
    };
    if prefill == 0 {
        return Err(Error::data(path, "the masks leave no prefill; --prefill says where it ends"));
    }
    let (mut indices, mut ptr) = (Vec::new(), vec![0]);
    for (mask, _) in &masks {
        mask.rows(tokens, |row| {
            indices.extend((0u32..).zip(row).filter(|(_, on)| **on != 0).map(|(token, _)| token));
            ptr.push(indices.len() as u64);
            Ok(())
        })?;
    }
    let count = (ptr.len() - 1) / (heads * steps);
    let mut selection =
        Selection::from_csr(&options.policy, prefill, Some([count, heads, steps]), Granularity::Token, indices, ptr);
    selection.layers = layers;
    selection.source = path.display().to_string();
    Ok(Imported { selection, notes: Vec::new() })
}

/// The layers of a folder with their files, ascending.
fn layer_files(folder: &Path) -> Result<Vec<(u32, PathBuf)>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(|e| Error::io(folder, e))? {
        let path = entry.map_err(|e| Error::io(folder, e))?.path();
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or("");
        if let Some(stem) = name.strip_suffix(".npy") {
            match stem.strip_prefix("layer_").and_then(|n| n.parse().ok()) {
                Some(layer) => files.push((layer, path)),
                None => return Err(Error::data(&path, "not the name of a layer's mask; expected layer_N.npy")),
            }
        }
    }
    files.sort();
    match files.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        Some(pair) => Err(Error::data(&pair[1].1, format!("layer {} is there twice", pair[1].0))),
        None => Ok(files),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A mask of `shape`, true where `on` says it of the place in C order.
    fn save(path: &Path, shape: &[usize], on: impl Fn(usize) -> bool) {
        let text = format!(
            "{{'descr': '|b1', 'fortran_order': False, 'shape': ({},)}}\n",
            shape.iter().map(usize::to_string).collect::<Vec<_>>().join(", ")
        );
        let values: Vec<u8> = (0..shape.iter().product()).map(|i| u8::from(on(i))).collect();
        let bytes = [b"\x93NUMPY\x01\x00", &(text.len() as u16).to_le_bytes()[..], text.as_bytes(), &values].concat();
        std::fs::write(path, bytes).unwrap();
    }

    fn options(prefill: Option<usize>) -> MaskOptions {
        MaskOptions { policy: "masked".into(), prefill }
    }

    #[test]
    fn a_folder_and_a_file_of_the_same_masks_give_the_same_tokens() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("masks");
        std::fs::create_dir(&folder).unwrap();
        // Two layers of 2 query heads, 3 steps, 8 tokens.
        let on = |i: usize| i.is_multiple_of(3) || i % 7 == 1;
        save(&folder.join("layer_10.npy"), &[2, 3, 8], on);
        save(&folder.join("layer_2.npy"), &[1, 2, 3, 8], |i| !on(i));
        let file = dir.path().join("all.npy");
        save(&file, &[2, 2, 3, 8], |i| if i < 48 { !on(i) } else { on(i - 48) });
        let many = import(&folder, &options(None)).unwrap().selection;
        let one = import(&file, &options(None)).unwrap().selection;
        assert_eq!((many.prefill(), many.layers(), many.query_heads(), many.steps()), (5, Some(2), Some(2), Some(3)));
        assert_eq!(many.layers, Some(vec![2, 10]));
        assert_eq!((&many.indices, &many.ptr), (&one.indices, &one.ptr));
        // Layer 10, query head 1, step 2: places 40 to 47.
        assert_eq!(many.tokens(1, 1, 2), Some(vec![2, 3, 5]));
        assert_eq!(import(&file, &options(Some(4))).unwrap().selection.prefill(), 4);
    }

    #[test]
    fn masks_that_do_not_go_together_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let wrong = |prefill| import(dir.path(), &options(prefill)).unwrap_err().to_string();
        assert!(wrong(None).ends_with("the folder holds no layer_N.npy"));
        save(&dir.path().join("layer_0.npy"), &[2, 3, 8], |_| true);
        assert!(wrong(Some(6)).ends_with("3 steps behind a prefill of 6 tokens; the masks have 8 tokens"));
        save(&dir.path().join("layer_1.npy"), &[2, 3, 9], |_| true);
        assert!(
            wrong(None).ends_with("layer_1.npy: the mask has shape [2, 3, 9]; that of the first layer is [2, 3, 8]")
        );
        save(&dir.path().join("layer_1.npy"), &[3, 8], |_| true);
        assert!(wrong(None).ends_with("the mask has shape [3, 8]; expected [query_head, step, token]"));
        save(&dir.path().join("mask_1.npy"), &[2, 3, 8], |_| true);
        assert!(wrong(None).contains("not the name of a layer's mask"));
    }
}
