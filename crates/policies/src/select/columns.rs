//! Vectors stored element by element: a product with few elements of each reads only these.

use pimattn_kv::Rows;
use pimattn_kv::linalg::{LANES, simd};

/// Vectors that the kernel takes at a time.
const TILE: usize = LANES;
/// Queries that share the loads of a tile.
const QUERIES: usize = 4;

/// Vectors in blocks `[block, element, vector of the block]`.
///
/// A long block lets few of many elements be read in long runs; one of a single tile lets all of them be read in order.
pub struct Columns {
    data: Vec<f32>,
    elements: usize,
    /// Vectors of a block: whole tiles.
    block: usize,
    len: usize,
    /// Products `[query, vector]`, padded to whole tiles.
    products: Vec<f32>,
}

impl Columns {
    /// No vectors yet, of `elements` elements, in blocks of some tiles of 16 vectors; room for `capacity` vectors.
    pub fn new(elements: usize, tiles: usize, capacity: usize) -> Self {
        let block = tiles * TILE;
        let data = Vec::with_capacity(capacity.next_multiple_of(block) * elements);
        Self { data, elements, block, len: 0, products: Vec::new() }
    }

    /// Vectors stored.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Adds vectors.
    pub fn extend(&mut self, vectors: Rows<'_>) {
        let all = self.len + vectors.len();
        self.data.resize(all.next_multiple_of(self.block) * self.elements, 0.0);
        for vector in vectors.data.chunks_exact(vectors.dim) {
            let first = self.len / self.block * self.block * self.elements + self.len % self.block;
            for (to, x) in self.data[first..].iter_mut().step_by(self.block).zip(vector) {
                *to = *x;
            }
            self.len += 1;
        }
    }

    /// Products of all vectors with each query of `weights` `[query, element of elements]`, one query after the other.
    /// A product adds the elements one after the other, in their order in `elements`.
    pub fn products(&mut self, elements: &[u32], weights: &[f32]) -> impl Iterator<Item = &[f32]> {
        let mut products = std::mem::take(&mut self.products);
        self.multiply(self.len, elements, weights, &mut products);
        self.products = products;
        self.products.chunks_exact(self.len.next_multiple_of(TILE)).map(|products| &products[..self.len])
    }

    /// As [`Columns::products`], of the first `len` vectors, in memory of the caller's.
    pub fn products_into<'p>(
        &self,
        len: usize,
        elements: &[u32],
        weights: &[f32],
        products: &'p mut Vec<f32>,
    ) -> impl Iterator<Item = &'p [f32]> + use<'p> {
        self.multiply(len, elements, weights, products);
        products.chunks_exact(len.next_multiple_of(TILE)).map(move |products| &products[..len])
    }

    fn multiply(&self, len: usize, elements: &[u32], weights: &[f32], products: &mut Vec<f32>) {
        let padded = len.next_multiple_of(TILE);
        products.resize(padded * (weights.len() / elements.len()), 0.0);
        self::products(&self.data, self.elements, self.block, elements, weights, padded, products);
    }
}

simd! {
    fn products(
        data: &[f32], all: usize, block: usize, elements: &[u32], weights: &[f32], padded: usize, out: &mut [f32],
    ) {
        let n = elements.len();
        for first in (0..padded).step_by(TILE) {
            let at = first / block * block * all + first % block;
            let tiles = TileElements { data: &data[at..], block, elements };
            let (mut weights, mut out) = (weights, &mut *out);
            while weights.len() >= QUERIES * n {
                tiles.products::<QUERIES>(weights, padded, &mut out[first..]);
                (weights, out) = (&weights[QUERIES * n..], &mut out[QUERIES * padded..]);
            }
            while !weights.is_empty() {
                tiles.products::<1>(weights, padded, &mut out[first..]);
                (weights, out) = (&weights[n..], &mut out[padded..]);
            }
        }
    }
}

/// The chosen elements of one tile of vectors.
struct TileElements<'a> {
    data: &'a [f32],
    /// From one element to the next.
    block: usize,
    elements: &'a [u32],
}

impl TileElements<'_> {
    #[inline(always)]
    fn products<const Q: usize>(&self, weights: &[f32], padded: usize, out: &mut [f32]) {
        let weights: [&[f32]; Q] = std::array::from_fn(|q| &weights[q * self.elements.len()..][..self.elements.len()]);
        let mut sums = [[0f32; TILE]; Q];
        for (i, element) in self.elements.iter().enumerate() {
            let tile = &self.data[*element as usize * self.block..][..TILE];
            for q in 0..Q {
                for l in 0..TILE {
                    sums[q][l] += weights[q][i] * tile[l];
                }
            }
        }
        for (q, sums) in sums.iter().enumerate() {
            out[q * padded..][..TILE].copy_from_slice(sums);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn products_add_the_chosen_elements_in_order(
            dim in 1usize..9,
            len in 1usize..70,
            more in 0usize..20,
            tiles in 1usize..4,
            queries in 1usize..11,
            picks in proptest::collection::vec(any::<bool>(), 9),
            data in proptest::collection::vec(-3f32..3.0, 90 * 9 + 11 * 9),
        ) {
            let elements: Vec<u32> = (0..dim as u32).filter(|e| picks[*e as usize] || *e == 0).collect();
            let rows = Rows { data: &data[..dim * (len + more)], dim };
            let mut columns = Columns::new(dim, tiles, len + more);
            columns.extend(rows.range(0..len));
            (len..len + more).for_each(|t| columns.extend(rows.range(t..t + 1)));
            prop_assert_eq!(columns.len(), rows.len());
            let weights = &data[90 * 9..][..queries * elements.len()];
            let products = columns.products(&elements, weights);
            let mut count = 0;
            for (weights, products) in weights.chunks_exact(elements.len()).zip(products) {
                prop_assert_eq!(products.len(), rows.len());
                for (t, product) in products.iter().enumerate() {
                    let expected =
                        elements.iter().zip(weights).fold(0f32, |sum, (e, w)| sum + w * rows.row(t)[*e as usize]);
                    prop_assert_eq!(expected.to_bits(), product.to_bits());
                }
                count += 1;
            }
            prop_assert_eq!(count, queries);
            let mut some = Vec::new();
            let some: Vec<&[f32]> = columns.products_into(len, &elements, weights, &mut some).collect();
            let mut products = Vec::new();
            let all: Vec<&[f32]> = columns.products_into(len + more, &elements, weights, &mut products).collect();
            prop_assert!(some.iter().zip(&all).all(|(some, all)| *some == &all[..len]) && some.len() == queries);
        }
    }
}
