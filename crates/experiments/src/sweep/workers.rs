//! Points side by side, on as many threads as wanted.

use pimattn_core::cancel::Cancel;
use pimattn_core::error::Result;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::sync_channel;

/// Does `work` for each of `places` on so many threads, which take the places up in order, and hands each result to `done` on the
/// thread of the caller, as it comes. Nobody takes up another place once `done` fails or `cancel` is requested; after a
/// failure, what is still being worked at is dropped.
///
/// # Errors
/// The first of `done`.
pub(super) fn side_by_side<T: Send>(
    cancel: &Cancel,
    workers: usize,
    places: &[usize],
    work: impl Fn(usize) -> T + Sync,
    mut done: impl FnMut(usize, T) -> Result<()>,
) -> Result<()> {
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        let (results, finished) = sync_channel(workers.max(1));
        for _ in 0..workers.clamp(1, places.len().max(1)) {
            let (results, next, work) = (results.clone(), &next, &work);
            scope.spawn(move || {
                while !cancel.is_requested() {
                    let Some(place) = places.get(next.fetch_add(1, Ordering::Relaxed)) else { break };
                    if results.send((*place, work(*place))).is_err() {
                        break;
                    }
                }
            });
        }
        drop(results);
        for (place, result) in finished {
            if let Err(e) = done(place, result) {
                next.store(places.len(), Ordering::Relaxed);
                return Err(e);
            }
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use pimattn_core::error::Error;

    #[test]
    fn each_place_is_worked_at_once_and_a_failure_stops_the_rest() {
        let places: Vec<usize> = (0..100).rev().collect();
        for workers in [0, 1, 3] {
            let mut sum = 0;
            let all = side_by_side(
                &Cancel::new(),
                workers,
                &places,
                |place| place * 2,
                |place, result| {
                    assert_eq!(result, 2 * place);
                    sum += place;
                    Ok(())
                },
            );
            assert!(all.is_ok() && sum == 4950, "{workers} workers: {sum}");
        }
        let worked = AtomicUsize::new(0);
        let work = |_| worked.fetch_add(1, Ordering::Relaxed);
        let failed = side_by_side(&Cancel::new(), 1, &places, work, |_, _| Err(Error::Usage("enough".into())));
        assert!(failed.is_err() && worked.into_inner() < 5, "nobody takes up another place");
        let cancel = Cancel::new();
        cancel.request();
        side_by_side(&cancel, 2, &places, |_| (), |_, ()| panic!("work after a cancel")).unwrap();
    }
}
