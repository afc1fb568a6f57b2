//! Keeps the cache in the policy's order: writes the new token, clusters keys, and moves tokens into the order of their
//! clusters.
//!
//! K-means as PIM commands follows STARC (ASPLOS 2026), table 1, with T = columns of a vector in a bank and N keys:
//!
//! 1. Normalising takes 2 T MACs and a result for each key.
//! 2. An iteration broadcasts each key, multiplies it with the centroids (which are spread over the units) and moves the
//!    scores out. The host compares them.
//! 3. Then the keys' weights go in, N T MACs add the keys up, and a centroid is written.
//!
//! Where the table counts a vector as one transfer, this counts its buffer entries. Moving a token reads and writes its key
//! and value as plain DRAM does.

use super::emit::{DeviceLayout, Emitter, Matrix, Results};
use super::layout::{Place, Side};
use super::rows::HeadRows;
use super::stage::Stage;
use pimattn_core::addr::Address;
use pimattn_core::op::Op;
use pimattn_trace::Phase;

/// A K-means of one block of keys.
#[derive(Debug, Clone, Copy)]
pub struct CentroidMeans {
    /// Clusters.
    pub clusters: u32,
    /// Iterations.
    pub iterations: u32,
    /// Cycles that the host takes to compare the scores of one iteration.
    pub host: u32,
    /// Number of the matrix that the centroids are kept in while iterating.
    pub centroids: usize,
}

/// Writes a K-means of the keys at `places`.
pub fn cluster(
    means: &CentroidMeans,
    places: &[Place],
    rows: &HeadRows,
    keys: &Matrix,
    target: &DeviceLayout,
    channel: u32,
) -> Stage {
    let mut emit = Emitter::new(target, channel, Phase::Cluster);
    let (g, columns) = (&target.geometry, target.shape.columns);
    let results = |emit: &mut Emitter<'_>, n: u32| {
        (0..n).for_each(|i| {
            let at = g.unit_address(0, i % (g.ranks * g.bank_groups));
            emit.defer(Address { pseudo_channel: 0, ..at });
        });
    };
    let key = |emit: &mut Emitter<'_>, p: &Place, times: u32| {
        let row = rows.at(keys.id, p.row);
        (0..times).for_each(|_| emit.macs(Op::MacAb, row, &[1 << p.index], keys, Results::Outputs, u64::MAX));
    };
    for p in places {
        key(&mut emit, p, 2);
        results(&mut emit, 1);
        emit.barrier();
    }
    emit.settle();
    let groups = means.clusters.div_ceil(g.units());
    let centroids = Matrix { id: means.centroids, ..*keys };
    for _ in 0..means.iterations {
        emit.vector(columns);
        emit.barrier();
        for i in 0..places.len() {
            // The next key is broadcast while this one is multiplied.
            if i + 1 < places.len() {
                emit.vector(columns);
            }
            for group in 0..groups {
                let (row, index) = (rows.at(centroids.id, group / keys.per_row), group % keys.per_row);
                emit.macs(Op::MacAb, row, &[1 << index], &centroids, Results::Outputs, u64::MAX);
            }
            results(&mut emit, groups);
            emit.barrier();
        }
        emit.host(means.host);
        for i in 0..places.len() as u32 {
            let at = g.unit_address(0, i % (g.ranks * g.bank_groups));
            emit.push(Op::MvGb, Address { pseudo_channel: 0, ..at }, 1, 0);
        }
        emit.barrier();
        places.iter().for_each(|p| key(&mut emit, p, 1));
        emit.barrier();
        emit.vector(columns);
        emit.settle();
    }
    emit.finish()
}

/// Reads (`LD`) or writes (`ST`) one vector, in all banks of its unit.
pub fn vector(op: Op, matrices: &[Matrix], p: Place, rows: &HeadRows, emit: &mut Emitter<'_>) {
    let g = emit.target.geometry;
    let at = g.unit_address(0, p.unit % g.units());
    for m in matrices {
        let row = rows.at(m.id, p.row);
        for bank in 0..g.banks {
            for stripe in 0..m.stripes_in_row {
                let column = stripe * m.per_row + p.index * m.columns;
                emit.push(op, Address { row, column, bank, ..at }, m.columns, g.column_bytes);
            }
        }
    }
}

/// The matrices of a head's keys and values.
#[derive(Debug, Clone)]
pub struct Cache {
    /// K, a single matrix.
    pub keys: Vec<Matrix>,
    /// V, a matrix for each stripe.
    pub values: Vec<Matrix>,
}

impl Cache {
    /// The matrices of a side.
    pub fn side(&self, side: Side) -> &[Matrix] {
        match side {
            Side::Keys => &self.keys,
            Side::Values => &self.values,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::layout::{Shape, tests::geometry};
    use super::super::stage::{HeadPlan, write};
    use super::*;
    use crate::workload::ValueLayout;
    use pimattn_trace::Record;

    /// Requests of K-means, by operation: STARC's table 1, with a vector's buffer entries where it counts a transfer.
    #[test]
    fn kmeans_has_the_commands_of_the_paper() {
        let geometry = geometry();
        for (dim, tokens, clusters, iterations) in [(128, 64, 4, 7), (80, 64, 4, 1), (256, 128, 40, 3), (64, 5, 1, 2)] {
            let target = DeviceLayout {
                geometry,
                shape: Shape::new(&geometry, dim, 2, 32, ValueLayout::Stripe).unwrap(),
                heads_per_read: 1,
            };
            let (columns, per_row) = (target.shape.columns, target.shape.keys_per_row);
            let keys = Matrix { id: 0, per_row, columns, stripes_in_row: 1 };
            let mut rows = HeadRows::new(0, 9);
            (0..2).for_each(|m| rows.reserve(m, 4).unwrap());
            let places: Vec<Place> =
                (0..tokens).map(|t| Place { unit: t / per_row, row: 0, index: t % per_row }).collect();
            let means = CentroidMeans { clusters, iterations, host: 11, centroids: 1 };
            let stage = cluster(&means, &places, &rows, &keys, &target, 0);
            let mut records = Vec::new();
            write(&[HeadPlan { upkeep: vec![stage], ..HeadPlan::default() }], &geometry, true, &mut records);
            let count = |op: Op| -> u64 {
                let runs = records.iter().filter_map(|r| if let Record::Request(r) = r { Some(r) } else { None });
                runs.filter(|r| r.op == op).map(|r| u64::from(r.count)).sum()
            };
            let (n, i) = (u64::from(tokens), u64::from(iterations));
            // A dot product of one key; K centroids lie over 16 units.
            let (t_d, t_k) = (dim.div_ceil(64) as u64, u64::from(clusters.div_ceil(16)));
            assert_eq!(count(Op::MacAb), 2 * n * t_d + i * (n * t_d * t_k + n * t_d), "{dim}");
            assert_eq!(count(Op::MvSb), n + i * n * t_k, "{dim}");
            assert_eq!(count(Op::WrGb), i * (n + 1) * t_d * u64::from(geometry.banks), "{dim}");
            assert_eq!(count(Op::MvGb), i * n, "{dim}");
            assert_eq!(count(Op::Host), i * 11, "{dim}");
            assert_eq!(count(Op::Ld) + count(Op::St), 0, "{dim}");
        }
    }
}
