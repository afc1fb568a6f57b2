//! The `config.json` of a Hugging Face model, as a model file.

use super::config::{Document, MOST_BYTES};
use super::model::Activation;
use crate::error::{Error, Result};
use crate::fsio;
use serde_json::Value;
use std::path::Path;

/// What a model has, under the names that its families give it; the first that is there counts.
const LAYERS: &[&str] = &["num_hidden_layers", "n_layer", "num_layers"];
const HIDDEN: &[&str] = &["hidden_size", "n_embd"];
const HEADS: &[&str] = &["num_attention_heads", "n_head"];
const KV_HEADS: &[&str] = &["num_key_value_heads"];
const HEAD_DIM: &[&str] = &["head_dim"];
const FFN: &[&str] = &["intermediate_size", "ffn_dim", "n_inner"];
const ACTIVATION: &[&str] = &["hidden_act", "hidden_activation", "activation_function"];

/// Keys of models that a model file cannot describe, and what they are.
const FOREIGN: &[(&str, &str)] = &[
    ("kv_lora_rank", "its cache holds latents (MLA), not keys and values of heads"),
    ("num_local_experts", "its feed-forward network is a mixture of experts"),
    ("num_experts", "its feed-forward network is a mixture of experts"),
    ("n_routed_experts", "its feed-forward network is a mixture of experts"),
    ("is_encoder_decoder", "it has an encoder"),
];

/// A model file with what the file says.
///
/// # Errors
/// [`Error::Config`] for what is missing, and for a model whose shape a model file cannot describe.
pub(super) fn document(file: &Path) -> Result<Document> {
    let input = std::fs::File::open(file).map_err(|e| Error::io(file, e))?;
    let text = fsio::read_all(file, input, MOST_BYTES)?;
    let wrong = |what: String| Error::Config { at: file.display().to_string(), what };
    let json: Value = serde_json::from_slice(&text).map_err(|e| wrong(format!("not JSON: {e}")))?;
    // Models of text and images keep the part for text apart.
    let config = json.get("text_config").unwrap_or(&json);
    let holds = |value: &Value| !matches!(value, Value::Null | Value::Bool(false)) && value.as_u64() != Some(0);
    for (key, what) in FOREIGN {
        if config.get(key).is_some_and(holds) {
            return Err(wrong(format!("{key}: {what}, which a model file cannot describe")));
        }
    }
    let number = |keys: &[&str]| {
        let (key, value) = keys.iter().find_map(|k| Some((k, config.get(k).filter(|v| holds(v))?)))?;
        Some(
            value
                .as_u64()
                .and_then(|n| u32::try_from(n).ok())
                .ok_or_else(|| wrong(format!("{key}: {value} is no count"))),
        )
    };
    let count = |keys: &[&str]| number(keys).transpose();
    let needed =
        |keys: &[&str]| count(keys)?.ok_or_else(|| wrong(format!("no {}: not the config.json of a decoder?", keys[0])));
    let (hidden, heads) = (needed(HIDDEN)?, needed(HEADS)?);
    let said = |keys: &[&str]| keys.iter().find_map(|k| config.get(k)?.as_str());
    let family = said(&["model_type"]).unwrap_or_default();
    let activation = match said(ACTIVATION) {
        Some("silu" | "swish" | "swiglu") => Activation::Swiglu,
        Some(gelu) if gelu.starts_with("gelu") && !family.starts_with("gemma") => Activation::Gelu,
        Some("relu") => Activation::Relu,
        Some(other) => return Err(wrong(format!("the activation {other} of {family} is none of silu, gelu and relu"))),
        None => return Err(wrong(format!("no {}", ACTIVATION[0]))),
    };
    let name = json.get("_name_or_path").and_then(Value::as_str).filter(|name| !name.is_empty());
    let ffn = match (count(FFN)?, family) {
        (Some(ffn), _) => ffn,
        // A GPT-2 that says nothing has four times its hidden size (transformers, GPT2Config.n_inner).
        (None, "gpt2") => 4 * hidden,
        (None, _) => needed(FFN)?,
    };
    let head_dim = match count(HEAD_DIM)? {
        Some(dim) => dim,
        None => hidden / heads.max(1),
    };
    let counts = [
        ("layers", needed(LAYERS)?),
        ("hidden", hidden),
        ("heads", heads),
        ("head_dim", head_dim),
        ("kv_heads", count(KV_HEADS)?.unwrap_or(heads)),
        ("ffn", ffn),
    ];
    let mut table: toml::Table =
        counts.into_iter().map(|(key, n)| (key.into(), toml::Value::from(i64::from(n)))).collect();
    let stem = file.parent().and_then(Path::file_name).unwrap_or(file.as_os_str()).to_string_lossy();
    table.insert("name".into(), name.unwrap_or(&stem).into());
    table.insert("source".into(), file.display().to_string().into());
    let activation = toml::Value::try_from(activation).map_err(|e| wrong(e.to_string()))?;
    table.insert("activation".into(), activation);
    Ok(Document::of_table(&file.display().to_string(), table))
}

#[cfg(test)]
mod tests {
    use super::super::model::Model;
    use super::*;

    fn model(text: &str) -> Result<Model> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("config.json");
        std::fs::write(&file, text).unwrap();
        Model::load(&file, &[])
    }

    #[test]
    fn a_llama_has_the_shape_of_its_own_file() {
        let text = r#"{"model_type": "llama", "_name_or_path": "x/y", "num_hidden_layers": 30, "hidden_size": 576,
            "num_attention_heads": 9, "num_key_value_heads": 3, "intermediate_size": 1536, "hidden_act": "silu", "kv_lora_rank": null}"#;
        let m = model(text).unwrap();
        let counts = [m.layers, m.hidden, m.heads, m.kv_heads, m.head_dim];
        assert_eq!((counts, m.ffn, m.activation), ([30, 576, 9, 3, 64], 1536.0, Activation::Swiglu));
        assert_eq!(m.name, "x/y");
    }

    #[test]
    fn other_shapes_are_refused_with_the_reason() {
        let base = r#""model_type": "x", "num_hidden_layers": 2, "hidden_size": 64, "num_attention_heads": 4, "hidden_act": "silu""#;
        let refused = |more: &str| model(&format!("{{{base}{more}}}")).unwrap_err().to_string();
        assert!(refused(r#", "intermediate_size": 8, "kv_lora_rank": 512"#).contains("MLA"));
        assert!(refused(r#", "intermediate_size": 8, "num_local_experts": 8"#).contains("mixture of experts"));
        assert!(refused("").contains("no intermediate_size"));
        assert!(refused(r#", "intermediate_size": 8, "num_key_value_heads": 3"#).contains("does not divide"));
        assert!(refused(r#", "intermediate_size": -8"#).contains("is no count"));
    }
}
