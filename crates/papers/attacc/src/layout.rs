//! Where AttAcc's generators put the matrices of a head and the entries of the buffers.
//!
//! Each bank holds keys in its lower half and values in its upper half, both from the same place in every bank. The
//! heads of a round are on different channels at the same place; the rounds follow each other.

use super::{Attention, Form, UnitLevel};
use pimattn_core::addr::{Address, Geometry};
use pimattn_core::op::Op;
use pimattn_trace::Phase;
use std::ops::Range;

/// Positions that a unit multiplies before it moves their results out, as published. AttAcc fixes 16, for any element
/// size; an entry holds 16 of 2 bytes.
pub const CHUNK: u64 = 16;

/// Tokens that AttAcc's generators keep room for in each round (default of their flag `--maxlen`).
const MAX_LEN: u64 = 4096;
/// The same of the artifact's generator.
const MAX_LEN_ARTIFACT: u64 = 409_600;

/// The heads that the channels work on at the same time: one each, on the first `channels` channels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeadRound {
    /// Byte address of the keys in a bank.
    pub keys: u64,
    /// Byte address of the values in a bank.
    pub values: u64,
    /// Channels that have a head.
    pub channels: u32,
}

/// The product of a vector with a matrix, in chunks whose results are moved out together.
#[derive(Debug)]
pub struct Product {
    /// What the product is for.
    pub phase: Phase,
    /// MACs of one head.
    pub macs: u64,
    /// MACs of one chunk; the last chunk may have fewer.
    pub per_chunk: u64,
    /// The units whose results are moved after each chunk, as bank addresses without a channel.
    pub results: Vec<u64>,
}

impl Product {
    /// Chunks of one head.
    pub fn chunks(&self) -> u64 {
        self.macs.div_ceil(self.per_chunk)
    }

    /// The MACs of a chunk.
    pub fn chunk(&self, index: u64) -> Range<u64> {
        index * self.per_chunk..((index + 1) * self.per_chunk).min(self.macs)
    }
}

/// A vector on its way to the GEMV buffers.
#[derive(Debug)]
pub struct Transfer {
    /// What the vector is for.
    pub phase: Phase,
    /// The command.
    pub op: Op,
    /// The buffers, as bank addresses without a channel.
    pub targets: Vec<u64>,
    /// Entries that each buffer gets.
    pub entries: u64,
    /// Entries that the schedule reckons with when it spreads the transfer over chunks.
    pub paced: u64,
}

impl Transfer {
    /// Moves of one head.
    pub fn moves(&self) -> u64 {
        self.targets.len() as u64 * self.entries
    }

    /// Moves of one head that the schedule reckons with.
    pub fn paced_moves(&self) -> u64 {
        self.targets.len() as u64 * self.paced
    }

    /// Bank address of the move with this index, target by target. Entries count in bytes.
    ///
    /// Quirk: nothing keeps an entry within the offset of a column, so over 32 entries run on into the column field.
    pub fn address(&self, index: u64) -> u64 {
        self.targets[(index / self.entries) as usize] + index % self.entries
    }
}

/// Everything that all heads have in common.
#[derive(Debug)]
pub struct AttaccLayout {
    pub(super) mode: UnitLevel,
    /// The MAC of this mode.
    pub mac: Op,
    /// Bytes of a bank between the keys of two rounds.
    pub(super) round_bytes: u64,
    /// Offset of the values in a bank.
    pub(super) values: u64,
    /// Queries to the GEMV buffers.
    pub queries: Transfer,
    /// Queries by keys.
    pub scores: Product,
    /// Probabilities to the GEMV buffers.
    pub probabilities: Transfer,
    /// Probabilities by values.
    pub outputs: Product,
    /// Units of a channel that hold different tokens.
    pub units: u64,
    /// Columns of one key or value in one unit.
    pub dim_columns: u64,
}

impl AttaccLayout {
    /// The layout of these heads; says what does not fit the device.
    pub fn new(attention: &Attention, form: Form, geometry: &Geometry) -> Result<AttaccLayout, String> {
        let tokens = attention.attended(form);
        let UnitShape { units, dim_columns, lanes } = UnitShape::new(attention, geometry);
        let positions = tokens.div_ceil(units);
        let entries = |tokens: u64| tokens.div_ceil(units * lanes);
        let targets = Targets::new(attention.mode, geometry);
        let max_len = if attention.kv_budget.is_some() { MAX_LEN_ARTIFACT } else { MAX_LEN };
        let chunk = if form == Form::Exact { lanes } else { CHUNK };
        let mut layout = AttaccLayout {
            mode: attention.mode,
            mac: match attention.mode {
                UnitLevel::Bank => Op::MacAb,
                UnitLevel::BankGroup => Op::MacSb,
                UnitLevel::Buffer => Op::MacPb,
            },
            // Quirk: room for the elements, not the bytes, of the reserved tokens: at 2 bytes an element the keys of
            // a round reach into the next one's from half the reserved length on, and longer ones further still.
            round_bytes: (max_len * u64::from(attention.dim)).div_ceil(geometry.banks_per_channel().into()),
            values: bank_bytes(geometry) / 2,
            queries: Transfer {
                phase: Phase::AttendScore,
                op: Op::WrGb,
                targets: targets.queries,
                entries: dim_columns,
                paced: dim_columns,
            },
            scores: Product {
                phase: Phase::AttendScore,
                macs: positions * dim_columns,
                per_chunk: chunk * dim_columns,
                results: targets.scores,
            },
            probabilities: Transfer {
                phase: Phase::AttendContext,
                op: Op::MvGb,
                targets: targets.probabilities,
                entries: entries(tokens),
                // Quirk: the artifact moves a budget's probabilities at the pace of the whole cache's, so that they
                // crowd into the first chunks.
                paced: entries(if form == Form::Exact { tokens } else { attention.len.into() }),
            },
            outputs: Product {
                phase: Phase::AttendContext,
                macs: dim_columns * positions,
                per_chunk: positions,
                results: targets.outputs,
            },
            units,
            dim_columns,
        };
        if form == Form::Exact {
            // No two heads share a row.
            let columns = layout.columns(geometry, layout.scores.macs).next_multiple_of(geometry.columns.into());
            layout.round_bytes = columns.saturating_mul(geometry.column_bytes.into());
        }
        layout.check_fit(attention, geometry)?;
        Ok(layout)
    }

    /// The heads of a round.
    pub fn round(&self, index: u64, channels: u32) -> HeadRound {
        let keys = index * self.round_bytes;
        HeadRound { keys, values: keys + self.values, channels }
    }

    /// Address, without channel and from the start of the matrix, of the MAC with this index.
    pub fn cell(&self, geometry: &Geometry, index: u64) -> u64 {
        let (bank, bank_group, column) = match self.mode {
            UnitLevel::Bank => (0, 0, index),
            // A row of each bank, one bank after the other, so that a bank opens its row while another is read.
            UnitLevel::BankGroup => {
                let (columns, banks) = (u64::from(geometry.columns), u64::from(geometry.banks));
                (index / columns % banks, 0, index / (columns * banks) * columns + index % columns)
            }
            // Successive columns from different bank groups, at the pace of the pseudo-channel's bus.
            UnitLevel::Buffer => {
                let groups = u64::from(geometry.ranks * geometry.bank_groups);
                let banks = u64::from(geometry.banks);
                (index / groups % banks, index % groups, index / (groups * banks))
            }
        };
        // Bank groups count on into the ranks.
        let unit = geometry.unit_address(0, bank_group as u32);
        geometry.encode(&Address { bank: bank as u32, ..unit }) + column * u64::from(geometry.column_bytes)
    }

    /// Columns of a bank that the first `macs` MACs of a matrix reach.
    fn columns(&self, geometry: &Geometry, macs: u64) -> u64 {
        let columns = u64::from(geometry.columns);
        let banks = u64::from(geometry.banks);
        match self.mode {
            UnitLevel::Bank => macs,
            UnitLevel::BankGroup => {
                let rows = (macs - 1) / (columns * banks);
                rows * columns + (macs - rows * columns * banks).min(columns)
            }
            UnitLevel::Buffer => macs.div_ceil(u64::from(geometry.ranks * geometry.bank_groups) * banks),
        }
    }

    /// The formulas add offsets without looking where a bank ends; beyond it the addresses would mean another bank.
    fn check_fit(&self, attention: &Attention, geometry: &Geometry) -> Result<(), String> {
        let last_round = u128::from((attention.heads - 1) / geometry.channels);
        let keys = last_round * u128::from(self.round_bytes);
        let reach = |from: u128, product: &Product, transfer: &Transfer| {
            let matrix = u128::from(self.columns(geometry, product.macs)) * u128::from(geometry.column_bytes);
            from + matrix.max(transfer.entries.into())
        };
        let end = reach(keys, &self.scores, &self.queries).max(reach(
            keys + u128::from(self.values),
            &self.outputs,
            &self.probabilities,
        ));
        let bank = bank_bytes(geometry);
        if end > u128::from(bank) {
            return Err(format!(
                "{} heads of {} tokens and dimension {} do not fit: their addresses reach byte {end} of banks of {bank} B",
                attention.heads, attention.len, attention.dim
            ));
        }
        Ok(())
    }
}

/// Bytes of one bank.
fn bank_bytes(geometry: &Geometry) -> u64 {
    u64::from(geometry.rows) * u64::from(geometry.row_bytes())
}

/// How a channel shares the work of a head.
pub struct UnitShape {
    /// Units that hold different tokens.
    pub units: u64,
    /// Columns of one key or value in one GEMV unit: the MACs of a position, and the stripes of the values.
    pub dim_columns: u64,
    /// Elements of one column: the lanes of a GEMV unit.
    pub lanes: u64,
}

impl UnitShape {
    /// Of these heads, whose parameters make sense.
    pub fn new(attention: &Attention, geometry: &Geometry) -> UnitShape {
        let lanes = u64::from(geometry.column_bytes / attention.bytes);
        // In bank mode the banks of a group share each vector, by dimension.
        let parts = if attention.mode == UnitLevel::Bank { geometry.banks } else { 1 };
        UnitShape {
            units: match attention.mode {
                UnitLevel::Bank | UnitLevel::BankGroup => geometry.units(),
                UnitLevel::Buffer => geometry.pseudo_channels,
            }
            .into(),
            dim_columns: u64::from(attention.dim).div_ceil(u64::from(parts) * lanes),
            lanes,
        }
    }
}

/// Which buffers a transfer or a move of results addresses, in order. A command serves both pseudo-channels, and
/// whatever else is not addressed here, at once.
struct Targets {
    queries: Vec<u64>,
    scores: Vec<u64>,
    probabilities: Vec<u64>,
    outputs: Vec<u64>,
}

impl Targets {
    fn new(mode: UnitLevel, geometry: &Geometry) -> Targets {
        let at = |rank, bank_group, bank| geometry.encode(&Address { rank, bank_group, bank, ..Address::default() });
        let ranks = || 0..geometry.ranks;
        let groups = || 0..geometry.bank_groups;
        let banks = || 0..geometry.banks;
        let group_by_rank = || groups().flat_map(|g| ranks().map(move |r| (r, g)));
        let rank_by_group = || ranks().flat_map(|r| groups().map(move |g| (r, g)));
        let one = || vec![0];
        match mode {
            UnitLevel::Bank => Targets {
                queries: banks().map(|b| at(0, 0, b)).collect(),
                scores: group_by_rank().map(|(r, g)| at(r, g, 0)).collect(),
                probabilities: rank_by_group().map(|(r, g)| at(r, g, 0)).collect(),
                outputs: banks().flat_map(|b| ranks().map(move |r| (r, b))).map(|(r, b)| at(r, 0, b)).collect(),
            },
            UnitLevel::BankGroup => Targets {
                queries: one(),
                scores: group_by_rank().map(|(r, g)| at(r, g, 0)).collect(),
                probabilities: rank_by_group().map(|(r, g)| at(r, g, 0)).collect(),
                outputs: ranks().map(|r| at(r, 0, 0)).collect(),
            },
            UnitLevel::Buffer => Targets { queries: one(), scores: one(), probabilities: one(), outputs: one() },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::DEVICE;
    use super::*;

    fn attention(mode: UnitLevel) -> Attention {
        Attention { mode, heads: 16, len: 2048, dim: 128, bytes: 2, kv_budget: None, clustering: false }
    }

    fn layout(mode: UnitLevel) -> AttaccLayout {
        AttaccLayout::new(&attention(mode), Form::Published, &DEVICE).unwrap()
    }

    #[test]
    fn consecutive_macs_go_where_the_mode_has_its_units() {
        let cells = |mode, indices: [u64; 4]| {
            let l = layout(mode);
            indices.map(|i| {
                let a = DEVICE.decode(l.cell(&DEVICE, i));
                (a.rank, a.bank_group, a.bank, a.row, a.column)
            })
        };
        let bank = cells(UnitLevel::Bank, [0, 1, 32, 33]);
        assert_eq!(bank, [(0, 0, 0, 0, 0), (0, 0, 0, 0, 1), (0, 0, 0, 1, 0), (0, 0, 0, 1, 1)]);
        let group = cells(UnitLevel::BankGroup, [1, 32, 127, 128]);
        assert_eq!(group, [(0, 0, 0, 0, 1), (0, 0, 1, 0, 0), (0, 0, 3, 0, 31), (0, 0, 0, 1, 0)]);
        let buffer = cells(UnitLevel::Buffer, [1, 4, 8, 32]);
        assert_eq!(buffer, [(0, 1, 0, 0, 0), (1, 0, 0, 0, 0), (0, 0, 1, 0, 0), (0, 0, 0, 0, 1)]);
    }

    #[test]
    fn the_columns_reached_are_those_of_the_cells() {
        for mode in UnitLevel::ALL {
            let l = layout(mode);
            let mut reached = 0;
            for macs in 1..1000 {
                let a = DEVICE.decode(l.cell(&DEVICE, macs - 1));
                reached = reached.max(u64::from(a.row) * 32 + u64::from(a.column) + 1);
                assert_eq!(l.columns(&DEVICE, macs), reached, "{mode:?} {macs}");
            }
        }
    }

    #[test]
    fn heads_that_leave_their_bank_are_refused() {
        for form in [Form::Exact, Form::Published] {
            let layout = |attention: Attention| AttaccLayout::new(&attention, form, &DEVICE);
            assert!(layout(Attention { len: 1 << 21, ..attention(UnitLevel::Bank) }).is_ok());
            let longer = Attention { len: (1 << 21) + 1, ..attention(UnitLevel::Bank) };
            assert!(layout(longer).unwrap_err().contains("do not fit"));
            let everything =
                Attention { heads: u32::MAX, len: u32::MAX, dim: u32::MAX, ..attention(UnitLevel::Buffer) };
            assert!(layout(everything).unwrap_err().contains("do not fit"));
        }
    }

    #[test]
    fn rounds_have_rows_of_their_own_but_as_published() {
        // 2,049 to 2,304 tokens are nine rows of a bank, where the published room is eight.
        let nine = Attention { heads: 32, len: 2300, ..attention(UnitLevel::Bank) };
        let rows = |form| {
            let l = AttaccLayout::new(&nine, form, &DEVICE).unwrap();
            let row = |address| DEVICE.decode(address).row;
            let last = row(l.round(0, 16).keys + l.cell(&DEVICE, l.scores.macs - 1));
            (last, row(l.round(1, 16).keys + l.cell(&DEVICE, 0)))
        };
        assert_eq!(rows(Form::Published), (8, 8));
        assert_eq!(rows(Form::Exact), (8, 9));
        // As many as fit a bank: halves of 8,192 rows, of a head of 9 each.
        let fits =
            |rounds: u32| AttaccLayout::new(&Attention { heads: 16 * rounds, ..nine }, Form::Exact, &DEVICE).is_ok();
        assert!(fits(8192 / 9) && !fits(8192 / 9 + 1));
    }
}
