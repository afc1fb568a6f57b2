//! Models and policies of the artifact: `configs/artifact/starc.toml`, which is in the program, as the shapes of
//! `configs/model` are that it names.

use super::{DEVICES, STACKS};
use pimattn_core::error::{Error, Result, suggest};
use pimattn_core::presets;
use pimattn_core::spec::config::Document;
use pimattn_core::spec::model;
use pimattn_policies::select;
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// The file, as errors name it.
const FILE: &str = "configs/artifact/starc.toml";
const TEXT: &str = include_str!("../../../../../configs/artifact/starc.toml");

macro_rules! shapes {
    ($($name:literal),+) => {
        /// Models of `configs/model` by name: file and text.
        const SHAPES: &[(&str, &str, &str)] = &[$((
            $name,
            concat!("configs/model/", $name, ".toml"),
            include_str!(concat!("../../../../../configs/model/", $name, ".toml")),
        )),+];
    };
}

shapes!("gpt-13b", "llama-7b", "mistral-7b");

/// A model, as far as its attention goes. It has K and V for every query head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArtifactModel {
    /// Name, the artifact's.
    pub name: String,
    /// Layers, all alike.
    pub layers: u32,
    /// Query heads.
    pub heads: u32,
    /// Elements of a key.
    pub dim: u32,
    /// What its budget tables are named after.
    pub table: String,
}

/// What tells how many tokens a step attends to.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ArtifactPolicy {
    /// Name in the registry of policies.
    pub name: String,
    /// What its budget tables are named after; all tokens where it has none.
    pub table: Option<String>,
    /// Whether it clusters.
    pub clusters: bool,
}

/// What the artifact has results of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArtifactData {
    /// The models.
    pub models: Vec<ArtifactModel>,
    /// The policies.
    pub policies: Vec<ArtifactPolicy>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PublishedFile {
    model: Vec<ArtifactModelEntry>,
    policy: Vec<ArtifactPolicy>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ArtifactModelEntry {
    name: String,
    shape: String,
    table: String,
}

impl ArtifactData {
    /// Loads the models and policies.
    ///
    /// # Errors
    /// [`Error::Config`] with file and line where a name is in no registry, or a key is wrong.
    pub fn load() -> Result<ArtifactData> {
        ArtifactData::parse(TEXT)
    }

    fn parse(text: &str) -> Result<ArtifactData> {
        let doc = Document::parse(Path::new(FILE), text, &[])?;
        let file: PublishedFile = doc.decode()?;
        let model = |(i, m): (usize, ArtifactModelEntry)| {
            let Some((_, file, text)) = SHAPES.iter().find(|(name, ..)| *name == m.shape) else {
                let hint = suggest(&m.shape, SHAPES.iter().map(|(name, ..)| *name));
                return Err(doc.error(&format!("model[{i}].shape"), format!("unknown model \"{}\"{hint}", m.shape)));
            };
            let shape = model::Model::parse(Path::new(file), text, &[])?;
            let (layers, heads, dim) = (shape.layers, shape.heads, shape.head_dim);
            Ok(ArtifactModel { name: m.name, layers, heads, dim, table: m.table })
        };
        let models = file.model.into_iter().enumerate().map(model).collect::<Result<Vec<_>>>()?;
        for (i, policy) in file.policy.iter().enumerate() {
            select::find(&policy.name).map_err(|what| doc.error(&format!("policy[{i}].name"), what))?;
        }
        Ok(ArtifactData { models, policies: file.policy })
    }

    /// The model of this name, in any case.
    ///
    /// # Errors
    /// [`Error::Usage`] with the nearest name where there is none.
    pub fn model(&self, name: &str) -> Result<&ArtifactModel> {
        let known = self.models.iter().find(|m| m.name.eq_ignore_ascii_case(name));
        let names = || self.models.iter().map(|m| m.name.as_str());
        known.ok_or_else(|| Error::Usage(format!("unknown model \"{name}\"{}", suggest(name, names()))))
    }

    /// The policy of this name.
    ///
    /// # Errors
    /// [`Error::Usage`] with the nearest name where there is none.
    pub fn policy(&self, name: &str) -> Result<&ArtifactPolicy> {
        let known = self.policies.iter().find(|p| p.name == name);
        let names = || self.policies.iter().map(|p| p.name.as_str());
        known.ok_or_else(|| Error::Usage(format!("unknown policy \"{name}\"{}", suggest(name, names()))))
    }
}

impl ArtifactModel {
    /// Heads of a batch of so many requests that a stack holds (rounded as the artifact rounds).
    pub fn heads_per_stack(&self, batch: u32) -> u32 {
        (u64::from(self.heads / DEVICES) * u64::from(batch)).div_ceil(STACKS.into()).try_into().unwrap_or(u32::MAX)
    }
}

impl ArtifactPolicy {
    /// Where the budgets for a model are in a folder: the artifact's file, or that compressed.
    pub fn table_in(&self, folder: &Path, model: &ArtifactModel) -> Option<PathBuf> {
        let plain = folder.join(self.table_name(model)?);
        let packed = folder.join(format!("{}.zst", self.table_name(model)?));
        Some(if !presets::exists(&plain) && presets::exists(&packed) { packed } else { plain })
    }

    /// File name of its budgets for a model, as the artifact has it.
    pub fn table_name(&self, model: &ArtifactModel) -> Option<String> {
        self.table.as_ref().map(|policy| format!("kv_budget_{}_{policy}.txt", model.table))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_name_is_said_with_its_line_and_the_nearest() {
        let wrong = |from: &str, to: &str| ArtifactData::parse(&TEXT.replacen(from, to, 1)).unwrap_err().to_string();
        let line = |of: &str| TEXT.lines().position(|l| l.starts_with(of)).unwrap() + 1;
        let at = format!("{FILE}:{}: ", line("shape = \"gpt-13b\""));
        assert_eq!(
            wrong("\"gpt-13b\"", "\"gpt-13\""),
            format!("{at}unknown model \"gpt-13\"; did you mean \"gpt-13b\"?")
        );
        let said = wrong("\"sparq\"", "\"spark\"");
        assert!(said.starts_with(&format!("{FILE}:{}: ", line("name = \"sparq\""))), "{said}");
        assert!(said.contains("did you mean \"sparq\"?"), "{said}");
        assert!(wrong("clusters", "cluster").contains("did you mean \"clusters\"?"));
    }
}
