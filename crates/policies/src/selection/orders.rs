//! Orders of tokens in memory that a selection gives, checked, so that the mapping can rely on them.

use super::{Selection, SelectionTables, Shaped};
use pimattn_kv::selection::SlotOrder;
use std::sync::Arc;

/// An order that is one.
#[derive(Debug)]
pub(super) struct CheckedOrder {
    pub order: Arc<SlotOrder>,
    /// Tokens that have to be there: those that are clustered, or lie elsewhere than at their position.
    needs: usize,
}

impl CheckedOrder {
    /// Slots of tokens from the first on; those behind them lie at their positions.
    fn of(slots: &[u32], starts: &[u32], clustered: u32, version: u32) -> Result<Self, String> {
        let moved = slots.iter().enumerate().rposition(|(token, slot)| *slot as usize != token).map_or(0, |t| t + 1);
        let mut taken = vec![false; moved];
        for (token, slot) in slots[..moved].iter().enumerate() {
            match taken.get_mut(*slot as usize) {
                Some(taken) if !*taken => *taken = true,
                _ => {
                    let why = if (*slot as usize) < moved { "twice" } else { "beyond them" };
                    return Err(format!(
                        "the order is no permutation: tokens 0 to {} have slots 0 to {0}, and slot {slot} of token {token} is {why}",
                        moved - 1
                    ));
                }
            }
        }
        let begins = starts.is_sorted_by(|a, b| a < b)
            && starts.first().is_none_or(|first| *first == 0)
            && starts.last().is_none_or(|last| *last < clustered)
            && starts.is_empty() == (clustered == 0);
        if !begins {
            return Err(format!(
                "the clusters of the order do not fill its {clustered} clustered slots one after the other"
            ));
        }
        if clustered > 0 && moved > clustered as usize {
            return Err(format!("token {} is in no cluster and does not lie at its position", moved - 1));
        }
        let needs = moved.max(clustered as usize);
        if needs > slots.len() {
            return Err(format!("{needs} tokens are clustered; the order has {}", slots.len()));
        }
        let order = SlotOrder { slot_of: slots[..needs].to_vec(), cluster_starts: starts.to_vec(), clustered, version };
        Ok(CheckedOrder { order: Arc::new(order), needs })
    }

    /// Refuses an order that a cache of `len` tokens cannot have, or that cannot follow the one `before`.
    pub fn check(&self, before: Option<&CheckedOrder>, len: usize) -> Result<(), String> {
        if self.needs > len {
            return Err(format!(
                "the order moves or clusters tokens up to {}; generated tokens lie at their positions until they are there",
                self.needs - 1
            ));
        }
        let Some(before) = before.filter(|before| !Arc::ptr_eq(&before.order, &self.order)) else { return Ok(()) };
        let (old, new) = (&before.order, &self.order);
        let grows = new.cluster_starts.strip_prefix(old.cluster_starts.as_slice());
        let follows = grows.is_some_and(|rest| match rest.first() {
            Some(first) => *first == old.clustered,
            None => new.clustered == old.clustered,
        });
        if !follows {
            return Err("the order changes clusters that were there; new ones come behind them".into());
        }
        let moved =
            (0..before.needs.max(self.needs) as u32).find(|t| *t + 1 < len as u32 && old.slot(*t) != new.slot(*t));
        match moved {
            Some(token) if old.version == new.version => {
                Err(format!("token {token} changes its slot, and the version of the order stays {}", new.version))
            }
            _ => Ok(()),
        }
    }
}

/// The orders of a selection, and which of them each head has at each step.
pub(super) enum CheckedOrders<'a> {
    /// One for each head, the same at all steps; a single one is of all heads.
    Fixed(Vec<CheckedOrder>),
    /// Any for each head and step.
    Changing(Vec<CheckedOrder>, &'a [u32]),
}

impl<'a> CheckedOrders<'a> {
    /// Those of a selection of so many layers, KV heads and steps.
    pub fn of(selection: &'a Selection, [layers, kv_heads, steps]: [usize; 3]) -> Result<Self, String> {
        let SelectionTables { order, orders, order_of, cluster_starts, cluster_ptr, clustered, order_version, .. } =
            &selection.tables;
        let parts = [orders.is_some(), order_of.is_some()];
        let rest = [cluster_starts.is_some(), cluster_ptr.is_some(), clustered.is_some(), order_version.is_some()];
        if let Some(order) = order {
            if parts.contains(&true) || rest.contains(&true) {
                return Err(
                    "there are both \"order\" and \"orders\" or what belongs to these; expected one of them".into()
                );
            }
            let tokens = order.shape.get(2).copied().unwrap_or(0);
            shape_is("order", order, &[layers, kv_heads, tokens])?;
            let of = |i: usize| {
                let place = || format!("tensor \"order\", layer index {}, KV head {}", i / kv_heads, i % kv_heads);
                let slots = &order.data[i * tokens..(i + 1) * tokens];
                CheckedOrder::of(slots, &[], 0, 0).map_err(|e| format!("{}: {e}", place()))
            };
            return Ok(CheckedOrders::Fixed((0..layers * kv_heads).map(of).collect::<Result<_, _>>()?));
        }
        let (Some(orders), Some(order_of)) = (orders, order_of) else {
            if parts.contains(&true) || rest.contains(&true) {
                return Err("orders that change need both \"orders\" and \"order_of\"".into());
            }
            return Ok(CheckedOrders::Fixed(vec![CheckedOrder::of(&[], &[], 0, 0)?]));
        };
        let (count, tokens) = match orders.shape[..] {
            [count, tokens] => (count, tokens),
            _ => return Err(format!("tensor \"orders\" has shape {:?}; expected [order, token]", orders.shape)),
        };
        shape_is("order_of", order_of, &[layers, kv_heads, steps])?;
        let versions = order_version.as_ref().map(|v| shape_is("order_version", v, &[count])).transpose()?;
        let clustered = clustered.as_ref().map(|c| shape_is("clustered", c, &[count])).transpose()?;
        let starts = match (cluster_starts, cluster_ptr, clustered) {
            (Some(starts), Some(ptr), Some(_)) => Some((starts, csr("cluster_ptr", ptr, count, starts.data.len())?)),
            (None, None, None) => None,
            _ => return Err("clusters need all of \"cluster_starts\", \"cluster_ptr\" and \"clustered\"".into()),
        };
        let of = |i: usize| {
            let starts = starts.as_ref().map_or(&[][..], |(starts, ptr)| &starts.data[ptr[i]..ptr[i + 1]]);
            let at = |numbers: Option<&Shaped<u32>>| numbers.map_or(0, |n| n.data[i]);
            let slots = &orders.data[i * tokens..(i + 1) * tokens];
            CheckedOrder::of(slots, starts, at(clustered), at(versions)).map_err(|e| format!("order {i}: {e}"))
        };
        let all = (0..count).map(of).collect::<Result<Vec<_>, _>>()?;
        if let Some(wrong) = order_of.data.iter().find(|i| **i as usize >= count) {
            return Err(format!("tensor \"order_of\" names order {wrong}; there are {count}"));
        }
        Ok(CheckedOrders::Changing(all, &order_of.data))
    }

    /// The order of a head, by its number among those of all layers, at one of `steps` steps.
    pub fn at(&self, head: usize, step: usize, steps: usize) -> &CheckedOrder {
        match self {
            CheckedOrders::Fixed(orders) => &orders[if orders.len() == 1 { 0 } else { head }],
            CheckedOrders::Changing(orders, of) => &orders[of[head * steps + step] as usize],
        }
    }
}

/// Refuses numbers of another shape.
pub(super) fn shape_is<'a, T>(name: &str, numbers: &'a Shaped<T>, expected: &[usize]) -> Result<&'a Shaped<T>, String> {
    match numbers.shape == expected {
        true => Ok(numbers),
        false => Err(format!("tensor \"{name}\" has shape {:?}; expected {expected:?}", numbers.shape)),
    }
}

/// Pointers of `rows` rows into `end` numbers.
pub(super) fn csr(name: &str, ptr: &Shaped<u64>, rows: usize, end: usize) -> Result<Vec<usize>, String> {
    shape_is(name, ptr, &[rows + 1])?;
    let ordered = ptr.data.is_sorted() && ptr.data[0] == 0 && ptr.data[rows] == end as u64;
    match ordered {
        true => Ok(ptr.data.iter().map(|n| *n as usize).collect()),
        false => Err(format!("tensor \"{name}\" does not ascend from 0 to {end}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_is_a_permutation_with_its_clusters_in_front() {
        let of = |slots: &[u32], starts: &[u32], clustered| CheckedOrder::of(slots, starts, clustered, 0);
        assert_eq!(of(&[2, 0, 1, 3, 4], &[], 0).unwrap().needs, 3);
        assert_eq!(of(&[2, 0, 1, 3, 4], &[0, 2], 4).unwrap().needs, 4);
        let wrong = |slots: &[u32], starts: &[u32], clustered| of(slots, starts, clustered).unwrap_err();
        assert!(wrong(&[1, 2, 1], &[], 0).ends_with("slot 1 of token 2 is twice"));
        assert!(wrong(&[3, 0, 1], &[], 0).ends_with("slot 3 of token 0 is beyond them"));
        for (starts, clustered) in [(&[1, 2][..], 3), (&[0, 2, 2], 3), (&[0, 3], 3), (&[], 2), (&[0], 0)] {
            assert!(wrong(&[2, 0, 1], starts, clustered).starts_with("the clusters of the order"), "{starts:?}");
        }
        assert_eq!(wrong(&[2, 0, 1], &[0], 2), "token 2 is in no cluster and does not lie at its position");
        assert_eq!(wrong(&[1, 0], &[0], 3), "3 tokens are clustered; the order has 2");
    }

    #[test]
    fn an_order_follows_one_whose_clusters_it_keeps() {
        let of = |slots: &[u32], starts: &[u32], clustered, version| {
            CheckedOrder::of(slots, starts, clustered, version).unwrap()
        };
        let first = of(&[1, 0, 2, 3], &[0], 2, 1);
        let grown = of(&[1, 0, 3, 2], &[0, 2], 4, 2);
        assert_eq!(first.check(None, 2), Ok(()));
        assert!(first.check(None, 1).unwrap_err().starts_with("the order moves or clusters tokens up to 1;"));
        assert_eq!(grown.check(Some(&first), 4), Ok(()));
        assert!(first.check(Some(&grown), 4).unwrap_err().starts_with("the order changes clusters"));
        assert!(of(&[1, 0, 3, 2], &[0, 3], 4, 2).check(Some(&first), 4).is_err(), "a gap between clusters");
        assert!(of(&[1, 0, 2], &[0], 3, 2).check(Some(&first), 4).is_err(), "the last cluster grows");
        let unsaid = of(&[1, 0, 3, 2], &[0, 2], 4, 1).check(Some(&first), 4).unwrap_err();
        assert_eq!(unsaid, "token 2 changes its slot, and the version of the order stays 1");
        // The new token has no slot before; where it goes is no change.
        assert_eq!(of(&[1, 0, 2, 3, 4], &[0, 2], 5, 1).check(Some(&first), 5), Ok(()));
    }
}
