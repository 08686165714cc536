//! A pass without gradients over the rows of a split, and its metrics.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use super::metrics::Tally;
use super::prepare::Rows;
use super::thresholds;
use hone_base::error::Result;
use hone_engine::batch::{Batch, by_tokens};
use hone_engine::kernels::calls::give_way;
use hone_engine::targets::Targets;

/// Tokens of a batch at most.
const TOKENS: usize = 4096;

/// What a pass over the rows of a split gave.
pub(super) struct Pass {
    pub(super) tally: Tally,
    /// Of each row, in the file's order.
    pub(super) logits: Vec<Vec<f32>>,
}

/// Counts a pass over all rows, each of which `answer` gives its logits for (`[B, labels]` row by row). Where rows
/// have several labels and no thresholds are given, they are those that are the best for these rows. `progress` is told
/// how many rows are done, once in a `throttle`; when it asks to stop, the result is `None`.
pub(super) fn evaluate(
    rows: &Rows,
    mut tally: Tally,
    labels: usize,
    given: Option<&[f32]>,
    throttle: Duration,
    answer: &mut dyn FnMut(&Batch) -> Result<Vec<f32>>,
    progress: &mut dyn FnMut(u64) -> ControlFlow<()>,
) -> Result<Option<Pass>> {
    let lengths: Vec<usize> = rows.tokens.iter().map(|tokens| tokens.ids.len()).collect();
    let (mut told, mut order, mut logits) = (Instant::now(), Vec::new(), Vec::new());
    for group in by_tokens(&lengths, TOKENS) {
        give_way();
        logits.extend(in_rows(&answer(&rows.batch(&group, 1))?, labels));
        order.extend(group);
        if told.elapsed() >= throttle {
            told = Instant::now();
            if progress(order.len() as u64).is_break() {
                return Ok(None);
            }
        }
    }
    let targets = rows.targets.select(&order);
    if let Targets::Sets(sets) = &targets {
        tally = match given {
            Some(given) => Tally::with_thresholds(given),
            None => Tally::with_thresholds(&thresholds::best(&logits, sets, labels)),
        };
    }
    tally.add(&logits, &targets);
    let mut by_row = vec![Vec::new(); order.len()];
    for (row, logits) in order.into_iter().zip(logits) {
        if let Some(place) = by_row.get_mut(row) {
            *place = logits;
        }
    }
    Ok(Some(Pass { tally, logits: by_row }))
}

/// Logits, `[B, labels]` row by row, each row for itself.
pub(super) fn in_rows(logits: &[f32], labels: usize) -> Vec<Vec<f32>> {
    logits.chunks(labels.max(1)).map(<[f32]>::to_vec).collect()
}
