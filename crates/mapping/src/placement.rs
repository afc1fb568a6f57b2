//! Assigns channels, and rows in their banks, to each KV head.

use super::layout::{Shape, Side};
use crate::workload::{HeadPlacement, Placement};
use pimattn_core::addr::Geometry;

/// Where a KV head lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeadRegion {
    /// First channel.
    pub channel: u32,
    /// Number of channels, from `channel` on.
    pub channels: u32,
    /// First row in each bank.
    pub first_row: u32,
    /// Rows in each bank.
    pub rows: u32,
}

/// Heads to place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeadCounts {
    /// Layers whose heads are on the device.
    pub layers: u32,
    /// KV heads of a layer.
    pub kv_heads: u32,
}

/// The homes of all heads, by layer, then request, then KV head. `lengths` are the tokens of each request at the end.
///
/// - The channels are divided into devices, devices into stacks, and stacks into groups of `split` channels.
/// - A device has a consecutive share of the KV heads of every request. [`HeadPlacement::RoundRobin`] assigns these to its
///   stacks in turn, then to the groups of a stack in turn (AttAcc: heads per stack = ceil(heads / devices x batch /
///   stacks)). [`HeadPlacement::Balanced`] assigns each to the group with the fewest tokens; among equal groups, to the one
///   whose stack has the fewest.
/// - All layers are placed alike.
/// - The rows of a group are divided evenly among its layers and heads. If requests differ in length, heads share by length.
pub fn homes(
    heads: HeadCounts,
    lengths: &[usize],
    placement: &Placement,
    geometry: &Geometry,
) -> Result<Vec<HeadRegion>, String> {
    let Placement { heads: how, split, devices, stacks, .. } = *placement;
    let parts = devices * stacks * split;
    if !geometry.channels.is_multiple_of(parts) {
        return Err(format!(
            "{} channels are not a multiple of {devices} devices x {stacks} stacks x {split} channels for a head",
            geometry.channels
        ));
    }
    if devices > heads.kv_heads {
        return Err(format!("{devices} devices for {} KV heads: some would have none", heads.kv_heads));
    }
    let groups = geometry.channels / parts;
    let mut next = vec![0u32; devices as usize];
    let mut tokens = vec![0u64; (devices * stacks * groups) as usize];
    let mut of_stack = vec![0u64; (devices * stacks) as usize];
    let mut heads_of: Vec<Vec<usize>> = vec![Vec::new(); tokens.len()];
    let all: Vec<(usize, u32)> = (0..lengths.len()).flat_map(|r| (0..heads.kv_heads).map(move |h| (r, h))).collect();
    let mut order: Vec<usize> = (0..all.len()).collect();
    if how == HeadPlacement::Balanced {
        order.sort_by_key(|i| (std::cmp::Reverse(lengths[all[*i].0]), *i));
    }
    // The group of each head of a layer.
    let mut placed = vec![0usize; all.len()];
    for i in order {
        let (request, head) = all[i];
        let device = u64::from(head) * u64::from(devices) / u64::from(heads.kv_heads);
        let first = device as u32 * stacks * groups;
        let group = match how {
            HeadPlacement::RoundRobin => {
                let next = &mut next[device as usize];
                let n = std::mem::replace(next, *next + 1);
                first + n % stacks * groups + n / stacks % groups
            }
            HeadPlacement::Balanced => {
                let load = |g: &u32| (tokens[*g as usize], of_stack[(*g / groups) as usize], *g);
                (first..first + stacks * groups).min_by_key(load).unwrap_or(first)
            }
        } as usize;
        placed[i] = group;
        heads_of[group].push(i);
        tokens[group] += lengths[request] as u64;
        of_stack[group / groups as usize] += lengths[request] as u64;
    }
    // The first row and the number of rows of each head, within the rows of a layer.
    let of_layer = geometry.rows / heads.layers.max(1);
    let most = heads_of.iter().map(Vec::len).max().unwrap_or(0).max(1) as u32;
    let mut shares = vec![(0, 0); all.len()];
    for heads in &heads_of {
        let weight = |i: &usize| lengths[all[*i].0] as u64 + SHORTEST;
        let whole: u64 = heads.iter().map(weight).sum();
        let alike = lengths.iter().all(|l| *l == lengths[0]);
        let mut first = 0;
        for i in heads {
            let by_length = u64::from(of_layer) * weight(i) / whole;
            let rows = if alike { of_layer / most } else { by_length as u32 };
            shares[*i] = (first, rows);
            first += rows;
        }
    }
    if shares.iter().any(|(_, rows)| *rows == 0) {
        return Err(format!(
            "{} layers x {most} KV heads a channel do not fit into {} rows a bank",
            heads.layers, geometry.rows
        ));
    }
    let home = |layer: u32, (group, (first, rows)): (usize, (u32, u32))| HeadRegion {
        channel: group as u32 * split,
        channels: split,
        first_row: layer * of_layer + first,
        rows,
    };
    let placed: Vec<(usize, (u32, u32))> = placed.into_iter().zip(shares).collect();
    Ok((0..heads.layers).flat_map(|layer| placed.iter().map(move |p| home(layer, *p))).collect())
}

impl HeadRegion {
    /// Checks that `tokens` tokens fit in the best case, without gaps and without anything else. The error says what is wrong.
    pub fn holds(&self, tokens: usize, shape: &Shape) -> Result<(), String> {
        let units = u64::from(self.channels * shape.units);
        let rows = |side| (tokens as u64).div_ceil(u64::from(shape.per_row(side)) * units);
        let needed = rows(Side::Keys) + u64::from(shape.value_stripes) * rows(Side::Values);
        if needed <= u64::from(self.rows) {
            return Ok(());
        }
        Err(format!(
            "{tokens} tokens of a KV head take {needed} rows in each bank or more; its share of the device is {}: fewer \
             layers or heads a channel, more channels, or a head over several (split)",
            self.rows
        ))
    }
}

/// Tokens added to the length of every head before rows are divided by length: room for rows that are only begun, and for
/// a policy's own matrices.
const SHORTEST: u64 = 1024;

#[cfg(test)]
mod tests {
    use super::super::layout::tests::geometry;
    use super::*;

    fn channels(placement: Placement, kv_heads: u32, lengths: &[usize], channels: u32) -> Vec<u32> {
        let g = Geometry { channels, ..geometry() };
        homes(HeadCounts { layers: 1, kv_heads }, lengths, &placement, &g).unwrap().iter().map(|h| h.channel).collect()
    }

    #[test]
    fn heads_go_round_channels_stacks_and_devices() {
        let plain = Placement::default();
        assert_eq!(channels(plain, 3, &[9, 9], 4), [0, 1, 2, 3, 0, 1]);
        let split = Placement { split: 2, ..plain };
        assert_eq!(channels(split, 3, &[9], 4), [0, 2, 0]);
        // 2 devices x 2 stacks x 2 channels: head 0 and 1 on the first device, round its stacks first.
        let platform = Placement { devices: 2, stacks: 2, ..plain };
        assert_eq!(channels(platform, 4, &[9, 9], 8), [0, 2, 4, 6, 1, 3, 5, 7]);
    }

    /// domain: heads per stack = ceil(heads / 8 x batch / 5): 13 for 7B models, 16 for GPT-13B, at batch 16.
    #[test]
    fn the_papers_platform_has_as_many_heads_a_stack() {
        for (kv_heads, most) in [(32, 13), (40, 16)] {
            let platform = Placement { devices: 8, stacks: 5, ..Placement::default() };
            let mut count = [0; 40];
            channels(platform, kv_heads, &[9; 16], 640).iter().for_each(|c| count[*c as usize / 16] += 1);
            assert_eq!(count.iter().max(), Some(&most));
            assert_eq!(count.iter().sum::<u32>(), kv_heads * 16);
        }
    }

    #[test]
    fn balanced_heads_have_like_loads() {
        let balanced = Placement { heads: HeadPlacement::Balanced, ..Placement::default() };
        assert_eq!(channels(balanced, 1, &[100, 10, 40, 60], 2), [0, 0, 1, 1]);
        // 2 stacks of 2 channels: like channels of different stacks first.
        assert_eq!(channels(Placement { stacks: 2, ..balanced }, 1, &[9, 9, 9, 5], 4), [0, 2, 1, 3]);
    }

    #[test]
    fn long_caches_have_more_rows_and_too_long_ones_are_refused() {
        let heads = HeadCounts { layers: 2, kv_heads: 1 };
        let g = Geometry { channels: 1, ..geometry() };
        let homes = homes(heads, &[100_000, 1000], &Placement::default(), &g).unwrap();
        assert_eq!(homes[0].rows + homes[1].rows, (1 << 13) - 1, "rounded down");
        assert!(homes[1].rows > 100 && homes[0].rows > 8000, "{homes:?}");
        assert_eq!((homes[1].first_row, homes[2].first_row), (homes[0].rows, 1 << 13));
        let shape = Shape::new(&g, 128, 2, 32, crate::workload::ValueLayout::Stripe).unwrap();
        // 256 keys fill a row of all units, and 512 values one of each stripe.
        let most = HeadRegion { rows: 12, ..homes[0] };
        assert_eq!(most.holds(6 * 256, &shape), Ok(()));
        let said = most.holds(6 * 256 + 1, &shape).unwrap_err();
        assert!(said.contains("1537 tokens") && said.contains("15 rows") && said.contains("is 12"), "{said}");
    }

    #[test]
    fn homes_do_not_overlap_and_what_does_not_fit_is_refused() {
        let heads = HeadCounts { layers: 3, kv_heads: 5 };
        let all = homes(heads, &[7, 7], &Placement::default(), &Geometry { channels: 4, ..geometry() }).unwrap();
        for (i, a) in all.iter().enumerate() {
            assert!(a.first_row + a.rows <= 1 << 14);
            for b in &all[..i] {
                let apart = a.first_row + a.rows <= b.first_row || b.first_row + b.rows <= a.first_row;
                assert!(a.channel != b.channel || apart, "{a:?} {b:?}");
            }
        }
        let refuse =
            |p: Placement, h: u32| homes(HeadCounts { layers: 1, kv_heads: h }, &[1], &p, &geometry()).unwrap_err();
        assert!(refuse(Placement { split: 3, ..Placement::default() }, 1).contains("not a multiple"));
        assert!(refuse(Placement { devices: 4, ..Placement::default() }, 2).contains("some would have none"));
        let many = homes(HeadCounts { layers: 1 << 15, kv_heads: 1 }, &[1], &Placement::default(), &geometry());
        assert!(many.unwrap_err().contains("do not fit"));
    }
}
