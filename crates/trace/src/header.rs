//! What a trace says of itself.

use super::label::SelectionLabel;
use pimattn_core::addr::Geometry;
use std::fmt::Display;

/// Header of a trace.
#[derive(Debug, Clone, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub struct Header {
    /// Program and version that wrote it.
    pub generator: String,
    /// The device that its addresses are for.
    pub geometry: Geometry,
    /// Hash of the geometry and of the mapping that made the addresses (CRC-32 of their text).
    pub spec_hash: u32,
    /// Seed of everything random.
    pub seed: u64,
    /// The generator's configuration with overrides, as TOML.
    pub config: String,
    /// Where the keys, values and queries came from.
    pub provenance: String,
    /// Bytes of an element of what is multiplied; 0 where the trace does not say.
    pub element_bytes: u32,
    /// Query heads for which one MAC may multiply a column; 0 where the trace does not say.
    pub heads_per_read: u32,
    /// What was selected; none where the trace does not say.
    pub selection: Option<SelectionLabel>,
}

/// Header of a trace, as version 6 of the binary format has it.
#[derive(bincode::Decode)]
pub(crate) struct UnlabelledHeader {
    generator: String,
    geometry: Geometry,
    spec_hash: u32,
    seed: u64,
    config: String,
    provenance: String,
    element_bytes: u32,
    heads_per_read: u32,
}

impl From<UnlabelledHeader> for Header {
    fn from(h: UnlabelledHeader) -> Self {
        Header {
            generator: h.generator,
            geometry: h.geometry,
            spec_hash: h.spec_hash,
            seed: h.seed,
            config: h.config,
            provenance: h.provenance,
            element_bytes: h.element_bytes,
            heads_per_read: h.heads_per_read,
            selection: None,
        }
    }
}

impl Header {
    /// The header of a trace that says nothing of itself.
    pub fn foreign(geometry: Geometry, provenance: &str) -> Self {
        Header {
            generator: String::new(),
            geometry,
            spec_hash: spec_hash(&geometry, ""),
            seed: 0,
            config: String::new(),
            provenance: provenance.into(),
            element_bytes: 0,
            heads_per_read: 0,
            selection: None,
        }
    }
}

/// Hash of a geometry and a mapping: CRC-32 of the geometry's text, a line feed, and `mapping`, which whoever made the
/// addresses writes with [`spelled`]. No name of the code is in it, so that renaming code leaves the hash of a trace as
/// it is.
pub fn spec_hash(geometry: &Geometry, mapping: &str) -> u32 {
    let Geometry { channels, pseudo_channels, ranks, bank_groups, banks, rows, columns, column_bytes } = geometry;
    let fields: &[(&str, &dyn Display)] = &[
        ("channels", channels),
        ("pseudo_channels", pseudo_channels),
        ("ranks", ranks),
        ("bank_groups", bank_groups),
        ("banks", banks),
        ("rows", rows),
        ("columns", columns),
        ("column_bytes", column_bytes),
    ];
    crc32fast::hash(format!("{}\n{mapping}", spelled("Geometry", fields)).as_bytes())
}

/// The text of a thing with named fields, as [`spec_hash`] has it: `Name { field: value, field: value }`.
pub fn spelled(name: &str, fields: &[(&str, &dyn Display)]) -> String {
    let fields: Vec<String> = fields.iter().map(|(field, value)| format!("{field}: {value}")).collect();
    format!("{name} {{ {} }}", fields.join(", "))
}
