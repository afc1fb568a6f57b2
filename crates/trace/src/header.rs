//! What a trace says of itself.

use pimattn_core::addr::Geometry;

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
        }
    }
}

/// Hash of a geometry and a mapping.
pub fn spec_hash(geometry: &Geometry, mapping: &str) -> u32 {
    crc32fast::hash(format!("{geometry:?}\n{mapping}").as_bytes())
}
