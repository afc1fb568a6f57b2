//! What a selection asks of the memory that holds the cache, beyond the tokens that it selects: the order in which tokens lie,
//! what is read to choose among them, and which keys are clustered. Policies say it, the mapping makes accesses of it.

/// The order in which tokens `0..len` lie in memory: a permutation, and its cluster boundaries.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SlotOrder {
    /// Slot of each token; empty means position order (slot = token).
    pub slot_of: Vec<u32>,
    /// First slot of every cluster, ascending; empty where the policy does not cluster. Slots behind the last
    /// cluster's end (`clustered`) are in position order.
    pub cluster_starts: Vec<u32>,
    /// Tokens (= slots) that belong to clusters.
    pub clustered: u32,
    /// Grows by one whenever an existing token changes its slot, so that users know when to look again.
    pub version: u32,
}

impl SlotOrder {
    /// Slot of a token.
    #[inline]
    pub fn slot(&self, token: u32) -> u32 {
        self.slot_of.get(token as usize).copied().unwrap_or(token)
    }
}

/// What selecting reads of memory, per KV head and step, beyond the tokens selected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scan<'a> {
    /// Nothing: the choice follows from positions, or from probabilities that the softmax has seen anyway.
    Nothing,
    /// Every cached key, whole, against every query of the group.
    Keys,
    /// Vectors of the policy's own, in rows of their own.
    Vectors {
        /// Matrices; each is multiplied by one vector per query head.
        matrices: u32,
        /// Vectors of a matrix.
        vectors: u32,
        /// Elements of a vector.
        elements: u32,
    },
    /// As [`Scan::Vectors`], of a matrix for each query head, which is multiplied by a vector of that head alone.
    HeadVectors {
        /// Matrices: the query heads of the group.
        matrices: u32,
        /// Vectors of a matrix.
        vectors: u32,
        /// Elements of a vector.
        elements: u32,
    },
    /// These elements of every key, the same for all query heads of the group, from a second copy of K that lies
    /// dimension by dimension.
    Dimensions(&'a [u32]),
}

impl Scan<'_> {
    /// One or more matrices of `vectors` vectors of `elements` elements; nothing to read when there are no vectors.
    pub fn vectors(matrices: u32, vectors: usize, elements: usize) -> Self {
        match vectors {
            0 => Scan::Nothing,
            _ => Scan::Vectors { matrices, vectors: vectors as u32, elements: elements as u32 },
        }
    }

    /// Elements that are read, each once for all query heads, of a cache of `len` tokens whose keys have `dim` elements.
    pub fn elements(&self, len: u32, dim: u32) -> u64 {
        match *self {
            Scan::Nothing => 0,
            Scan::Keys => u64::from(len) * u64::from(dim),
            Scan::Vectors { matrices, vectors, elements } | Scan::HeadVectors { matrices, vectors, elements } => {
                u64::from(matrices) * u64::from(vectors) * u64::from(elements)
            }
            Scan::Dimensions(dims) => dims.len() as u64 * u64::from(len),
        }
    }
}

/// A K-means that a policy ran.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Clustering {
    /// First token (tokens are consecutive).
    pub first: u32,
    /// Tokens that were clustered.
    pub tokens: u32,
    /// Clusters asked for.
    pub clusters: u32,
    /// Lloyd iterations it took.
    pub iterations: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A cache of 10 keys of 8 elements.
    #[test]
    fn a_scan_reads_what_its_policy_says() {
        let read = |scan: Scan<'_>| scan.elements(10, 8);
        assert_eq!(read(Scan::Nothing), 0);
        assert_eq!(read(Scan::Keys), 80);
        // Bounds of 3 pages: two vectors each. 5 centroids. Of a query head's own 10 partial keys, 2 elements.
        assert_eq!(read(Scan::Vectors { matrices: 2, vectors: 3, elements: 8 }), 48);
        assert_eq!(read(Scan::Vectors { matrices: 1, vectors: 5, elements: 8 }), 40);
        assert_eq!(read(Scan::HeadVectors { matrices: 3, vectors: 10, elements: 2 }), 60);
        assert_eq!(read(Scan::Dimensions(&[0, 3, 7])), 30);
    }
}
