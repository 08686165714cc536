//! Batches that are made while the ones before them are computed with.

use std::sync::mpsc::sync_channel;

use super::prepare::Rows;
use hone_engine::batch::Batch;
use hone_engine::targets::Targets;

/// Windows that wait for the loop, at most; one more is being made.
const AHEAD: usize = 1;

/// A batch of training rows and what they should give.
pub(super) struct MicroBatch {
    pub(super) batch: Batch,
    pub(super) targets: Targets,
}

impl MicroBatch {
    /// Some rows, each of which passes so many times.
    pub(super) fn pack(rows: &Rows, which: &[usize], passes: usize) -> Self {
        Self { batch: rows.batch(which, passes), targets: rows.targets.select(which) }
    }
}

/// Runs `work` over the micro-batches of each window, which a thread of their own makes ahead of it. The thread ends
/// with `work`.
pub(super) fn ahead<'a, R>(
    rows: &Rows,
    passes: usize,
    windows: impl Iterator<Item = &'a [&'a [usize]]> + Send,
    work: impl FnOnce(&mut dyn Iterator<Item = Vec<MicroBatch>>) -> R,
) -> R {
    std::thread::scope(|scope| {
        let (send, receive) = sync_channel(AHEAD);
        scope.spawn(move || {
            for window in windows {
                let packed = window.iter().map(|which| MicroBatch::pack(rows, which, passes)).collect();
                if send.send(packed).is_err() {
                    break;
                }
            }
        });
        work(&mut receive.into_iter())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use hone_data::tokenize::Tokens;

    fn rows(count: u32) -> Rows {
        let tokens =
            (0..count).map(|row| Tokens { ids: vec![row; 3], types: vec![0; 3], full_length: 3 }).collect();
        Rows { tokens, targets: Targets::Classes((0..count).collect()) }
    }

    #[test]
    fn windows_come_in_their_order_with_each_row_as_often_as_it_passes() {
        let order: Vec<usize> = (0..10).rev().collect();
        let batches: Vec<&[usize]> = order.chunks(3).collect();
        let seen = ahead(&rows(10), 2, batches.chunks(2), |windows| {
            windows
                .flatten()
                .map(|micro| (micro.batch.ids.iter().step_by(3).copied().collect(), micro.targets))
                .collect::<Vec<(Vec<u32>, Targets)>>()
        });
        let expected: [(&[u32], &[u32]); 4] = [
            (&[9, 8, 7, 9, 8, 7], &[9, 8, 7]),
            (&[6, 5, 4, 6, 5, 4], &[6, 5, 4]),
            (&[3, 2, 1, 3, 2, 1], &[3, 2, 1]),
            (&[0, 0], &[0]),
        ];
        let expected = expected.map(|(ids, classes)| (ids.to_vec(), Targets::Classes(classes.to_vec())));
        assert_eq!(seen, expected);
    }

    #[test]
    fn whoever_stops_early_does_not_wait_for_the_rest() {
        let order: Vec<usize> = (0..1000).collect();
        let batches: Vec<&[usize]> = order.chunks(1).collect();
        let first =
            ahead(&rows(1000), 1, batches.chunks(1), |windows| windows.next().map(|window| window.len()));
        assert_eq!(first, Some(1));
    }
}
