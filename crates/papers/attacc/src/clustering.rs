//! K-means of the keys as the STARC artifact's generator writes it ahead of the attention of the last decode step.
//!
//! It makes lists of requests for normalising the keys, for 16 iterations of assigning them to one centroid per 64
//! tokens and updating the centroids, and for moving K and V to the order of their clusters. What of the lists reaches
//! the trace, and in what order, is reproduced here; comments marked "Quirk" name what the algorithm does not explain.
//! Beyond one head a channel the artifact's own trace is malformed, and there is nothing to reproduce.

use super::layout::{AttaccLayout, CHUNK, HeadRound, Product, Transfer};
use super::schedule::ScheduleWriter;
use super::{Attention, DEVICE, ROW_TOKENS};
use pimattn_core::addr::Geometry;
use pimattn_core::error::Result;
use pimattn_core::op::Op;
use pimattn_trace::Phase;

/// Iterations of K-means; the artifact knows no early stop.
const ITERATIONS: u64 = 16;
/// Tokens of a cluster on average.
const CLUSTER: u64 = 64;

/// The clustering of one head on each channel.
#[derive(Debug)]
pub struct ClusteringWork {
    heads: u64,
    /// MACs of a pass over all keys, in the chunks of scores.
    pass: Product,
    /// MACs beyond that pass that its last chunk writes, from the first key on.
    beyond: u64,
    /// Assignments of keys to centroids.
    assignment: Product,
    /// MACs that an iteration's assignments should have.
    all_assignments: u64,
    /// Norms, and later assignments, to the GEMV buffers.
    moves: Transfer,
    /// Centroids to the GEMV buffers, a row of them.
    centroids: Transfer,
    /// Rows of centroids.
    centroid_rows: u64,
    /// Rows of each of K and V that move.
    rows: u64,
}

/// Where the artifact has what it clusters, in bytes from the keys. Quirk: these are whole banks and halves of banks
/// further on, so that they fall on the second bank of a group, and the later ones on the third; and with the bank of a
/// buffer on top, on the next group.
mod places {
    use super::{DEVICE, Geometry};

    const fn bank(g: &Geometry) -> u64 {
        g.rows as u64 * g.columns as u64 * g.column_bytes as u64
    }
    /// Normalised keys.
    pub const NORMALISED: u64 = bank(&DEVICE);
    /// Centroids.
    pub const CENTROIDS: u64 = NORMALISED + bank(&DEVICE) / 4;
    /// Keys in the order of their clusters.
    pub const NEW_KEYS: u64 = NORMALISED + bank(&DEVICE) / 2;
    /// Values in the order of their clusters.
    pub const NEW_VALUES: u64 = NEW_KEYS + bank(&DEVICE) / 2;
}

impl ClusteringWork {
    /// The clustering of these heads; says why the artifact's cannot be reproduced.
    pub fn new(attention: &Attention, layout: &AttaccLayout, geometry: &Geometry) -> Result<ClusteringWork, String> {
        if *geometry != DEVICE {
            return Err("the artifact clusters on one device only, a stack of HBM3 \"8Gb 2R\" of 16 channels".into());
        }
        if attention.heads > geometry.channels {
            return Err(format!(
                "clustering of {} heads: of more than {}, one a channel, the artifact's trace is malformed (it writes the letters of requests line by line), so there is nothing to reproduce",
                attention.heads, geometry.channels
            ));
        }
        let len = u64::from(attention.len);
        let positions = len.div_ceil(layout.units);
        let chunks = positions.div_ceil(CHUNK);
        let columns = layout.dim_columns;
        // Quirk: counted in chunks of 16 positions, and in the elements of all banks of a group where the lists count
        // units; then every chunk gets a single position.
        let lanes = u64::from(geometry.column_bytes / attention.bytes);
        let assigned = (len * len).div_ceil(CLUSTER * u64::from(geometry.banks) * lanes * CHUNK);
        let transfer = |op, targets: &Vec<u64>, entries| Transfer {
            phase: Phase::Cluster,
            op,
            targets: targets.clone(),
            entries,
            paced: entries,
        };
        let product = |positions, chunk| Product {
            phase: Phase::Cluster,
            macs: positions * columns,
            per_chunk: chunk * columns,
            results: layout.scores.results.clone(),
        };
        let clustering = ClusteringWork {
            heads: attention.heads.into(),
            pass: product(positions, CHUNK),
            beyond: (chunks * CHUNK - positions).min(positions) * columns,
            assignment: product(assigned, 1),
            all_assignments: (len * len).div_ceil(CLUSTER * layout.units) * columns,
            moves: transfer(Op::MvGb, &layout.probabilities.targets, len.div_ceil(layout.units * lanes)),
            centroids: transfer(Op::WrGb, &layout.queries.targets, columns),
            centroid_rows: len.div_ceil(CLUSTER).div_ceil(ROW_TOKENS.into()),
            rows: len.div_ceil(ROW_TOKENS.into()),
        };
        clustering.check_fit(attention, geometry)?;
        Ok(clustering)
    }

    /// MACs of all heads in the trace, and in the lists that the artifact makes.
    pub fn macs(&self) -> (u64, u64) {
        let written = self.pass.macs + self.beyond + self.assignment.macs;
        // Normalising takes two passes: squares, and the division.
        let made = 2 * self.pass.macs + ITERATIONS * self.all_assignments;
        (self.heads * written, self.heads * made)
    }

    /// Beyond its channel an address would mean another channel's work.
    fn check_fit(&self, attention: &Attention, geometry: &Geometry) -> Result<(), String> {
        let macs = u128::from(self.pass.macs.max(self.assignment.macs)) * u128::from(geometry.column_bytes);
        let last_bank = self.centroids.targets.last().copied().unwrap_or(0) + self.centroids.entries;
        let moved = places::NEW_VALUES + last_bank + self.rows * u64::from(geometry.row_bytes());
        let end = (u128::from(places::NORMALISED) + macs).max(moved.into());
        if end > u128::from(geometry.channel_bytes()) {
            return Err(format!(
                "clustering of {} tokens of dimension {} does not fit: the artifact's addresses reach byte {end} of a channel of {} B",
                attention.len,
                attention.dim,
                geometry.channel_bytes()
            ));
        }
        Ok(())
    }
}

impl ScheduleWriter<'_> {
    /// The clustering of the heads of a round.
    pub fn cluster(&mut self, clustering: &ClusteringWork, head: &HeadRound) -> Result<()> {
        let (base, channels) = (head.keys + places::NORMALISED, head.channels);
        let ClusteringWork { assignment, moves, .. } = clustering;
        // Quirk: what to divide by is moved before it is computed.
        self.transfer(moves, base, channels)?;
        self.barrier()?;
        self.normalise(clustering, base, channels)?;
        // Quirk: all updates of all iterations, and the move to the new order, come before the first assignment.
        for _ in 0..ITERATIONS {
            self.transfer(moves, base, channels)?;
            self.centroids(clustering, head)?;
        }
        self.remap(clustering, head)?;
        self.barrier()?;
        // Quirk: a part of one iteration's assignments stands for all 16.
        self.product(assignment, base, channels, &Default::default())
    }

    /// Squares of the keys, chunk by chunk.
    ///
    /// Quirk: the division by the norms, another pass, is left out but for what fills the last chunk of the squares.
    fn normalise(&mut self, clustering: &ClusteringWork, base: u64, channels: u32) -> Result<()> {
        let ClusteringWork { pass, beyond, .. } = clustering;
        for chunk in 0..pass.chunks() {
            self.macs(pass.phase, base, channels, pass.chunk(chunk))?;
            if chunk + 1 == pass.chunks() {
                self.macs(pass.phase, base, channels, 0..*beyond)?;
            }
            if chunk > 0 {
                self.results(pass, base, channels)?;
            }
            self.barrier()?;
        }
        self.results(pass, base, channels)
    }

    /// Updated centroids to the GEMV buffers.
    ///
    /// Quirk: the addresses count rows of a bank, as if they were written to the array.
    fn centroids(&mut self, clustering: &ClusteringWork, head: &HeadRound) -> Result<()> {
        let base = head.keys + places::CENTROIDS;
        let row_bytes = u64::from(DEVICE.row_bytes());
        (0..clustering.centroid_rows)
            .try_for_each(|row| self.transfer(&clustering.centroids, base + row * row_bytes, head.channels))
    }

    /// K and V to the order of their clusters.
    ///
    /// Quirk: buffer commands throughout. No row opens, no array is read or written, and of each row as many entries
    /// move as one vector has.
    fn remap(&mut self, clustering: &ClusteringWork, head: &HeadRound) -> Result<()> {
        let matrices = [(head.keys, head.keys + places::NEW_KEYS), (head.values, head.keys + places::NEW_VALUES)];
        let entry = &clustering.centroids;
        for row in (0..clustering.rows).map(|row| row * u64::from(DEVICE.row_bytes())) {
            for (from, to) in matrices {
                for offset in (0..entry.moves()).map(|i| row + entry.address(i)) {
                    for channel in 0..head.channels {
                        self.request(Phase::Remap, Op::MvGb, from + offset, channel)?;
                        self.request(Phase::Remap, Op::WrGb, to + offset, channel)?;
                    }
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Attention, AttentionSchedule, DEVICE, UnitLevel};

    fn clustered(heads: u32, len: u32) -> Attention {
        Attention { mode: UnitLevel::Bank, heads, len, dim: 128, bytes: 2, kv_budget: Some(256), clustering: true }
    }

    fn refusal(attention: Attention) -> String {
        AttentionSchedule::new(attention, DEVICE).unwrap_err().to_string()
    }

    #[test]
    fn most_macs_never_reach_the_trace() {
        let macs = |heads, len| AttentionSchedule::new(clustered(heads, len), DEVICE).unwrap().clustering_macs();
        assert_eq!(macs(13, 512), Some((936, 108_160)));
        assert_eq!(macs(16, 1), Some((2 * 32 + 32, 2 * 32 + 16 * 32)));
    }

    #[test]
    fn what_the_artifact_cannot_write_is_refused() {
        assert!(refusal(clustered(17, 512)).contains("malformed"));
        assert!(refusal(clustered(13, 2_000_000)).contains("does not fit"));
        assert!(refusal(clustered(13, u32::MAX)).contains("does not fit"));
        assert!(refusal(Attention { kv_budget: None, ..clustered(13, 512) }).contains("--kv-budget"));
        assert!(refusal(Attention { mode: UnitLevel::BankGroup, ..clustered(13, 512) }).contains("--mode bank only"));
        let small = pimattn_core::addr::Geometry { channels: 8, ..DEVICE };
        let refused = AttentionSchedule::new(clustered(1, 512), small).unwrap_err();
        assert!(refused.to_string().contains("one device only"));
    }
}
