//! Attention without dropout and in float32, as it is when a model answers: some heads of a sequence at a time, and of a
//! long sequence some queries, so that their probabilities stay in the cache.

use std::cell::RefCell;
use std::ops::Range;

use rayon::prelude::*;

use super::{Attention, Task};
use crate::kernels::buffer::{Shared, with_scratch};
use crate::kernels::calls::give_way;
use crate::kernels::gemm::{Matrix, Packed, RowScaled, Rows, Scaled, multiply_here};
use crate::kernels::isa::vectorised;
use crate::kernels::math::{VECTOR, exp_of_negative, largest_of_lanes, sum_of_lanes};
use crate::kernels::{Buffer, Compute};

/// Multiplications of a task at least: some microseconds of them.
const SMALLEST_TASK: usize = 1 << 17;

/// Queries whose probabilities are held at once.
const QUERIES: usize = 56;

/// Rows of probabilities are a whole number of so many values apart: a panel, of whatever instruction set.
const ALIGNED: usize = 32;

/// A thread's memory.
#[derive(Default)]
struct Work {
    keys: Packed,
    values: Packed,
    /// The softmax before it is divided by its sums.
    p: Buffer,
    /// One over each row's sum.
    inverse: Buffer,
}

impl Attention<'_> {
    /// `out = softmax(q k^T / sqrt(size)) v`, for shapes that were checked.
    pub(super) fn answer(&self, compute: Compute, q: &[f32], kv: &[f32], out: &mut [f32]) {
        let compute = compute.in_vectors();
        let shared = Shared::new(out);
        let each = |(heads, first): (Range<usize>, Task)| {
            give_way();
            thread_local! {
                static WORK: RefCell<Work> = RefCell::default();
            }
            let mut work = WORK.take();
            for head in heads {
                let task = Task { column: head * self.size(), ..first };
                self.head(compute, q, kv, task, &mut work, &shared);
            }
            WORK.set(work);
        };
        match compute.is_alone {
            true => self.pieces().into_iter().for_each(each),
            false => self.pieces().into_par_iter().with_max_len(1).for_each(each),
        }
    }

    /// Some heads of each sequence, the longest first, so that threads end together. The task is that of the first head.
    fn pieces(&self) -> Vec<(Range<usize>, Task)> {
        let mut pieces = Vec::with_capacity(self.tokens.len());
        for (queries, tokens) in self.queries.windows(2).zip(self.tokens.windows(2)) {
            let (query, token) = (queries[0] as usize, tokens[0] as usize);
            let (queries, tokens) = (queries[1] as usize - query, tokens[1] as usize - token);
            let task = Task { query, queries, token, tokens, column: 0, probability: 0 };
            let together = SMALLEST_TASK.div_ceil((queries * tokens * self.size()).max(1));
            let together = self.heads.div_ceil(self.heads.div_ceil(together));
            for head in (0..self.heads).step_by(together) {
                pieces.push((head..self.heads.min(head + together), task));
            }
        }
        pieces.sort_by_key(|(heads, task)| std::cmp::Reverse(heads.len() * task.queries * task.tokens));
        pieces
    }

    fn head(&self, compute: Compute, q: &[f32], kv: &[f32], task: Task, work: &mut Work, out: &Shared<'_>) {
        let Task { queries, tokens, column, .. } = task;
        let stride = tokens.next_multiple_of(ALIGNED);
        work.keys.pack_wide(compute, self.of_tokens(kv, task, 0).t());
        work.values.pack_here(compute, self.of_tokens(kv, task, 1));
        for first in (0..queries).step_by(QUERIES) {
            let rows = QUERIES.min(queries - first);
            let block = Task { query: task.query + first, queries: rows, ..task };
            let (p, inverse) = (work.p.reserve(rows * stride), work.inverse.reserve(rows));
            with_scratch(|[scratch]| {
                let scores = Scaled { out: Rows::new(p, 0, stride), scale: 1.0 };
                multiply_here(compute, self.of_queries(q, block), &work.keys, scratch, scores);
                exponentials(compute.isa(), p, tokens, stride, self.scale(), inverse);
                // SAFETY: the columns of this head in the rows of this sequence are this task's alone.
                let out = unsafe { Rows::within(out, block.query * self.width + column, self.width) };
                let p = Matrix::new(p, rows, tokens, stride);
                multiply_here(compute, p, &work.values, scratch, RowScaled { out, scales: inverse });
            });
        }
    }
}

vectorised! {
    /// Replaces the first `columns` of each `stride` values, scores, by the exponentials of `scale` times their distance from
    /// the row's largest, and writes one over their sum.
    fn exponentials<FMA>(scores: &mut [f32], columns: usize, stride: usize, scale: f32, inverse: &mut [f32]) {
        let (whole, rest) = (columns / VECTOR, columns % VECTOR);
        // Added to a row's last vector: what lies beyond the row does not count.
        let mut beyond = [0f32; VECTOR];
        beyond[rest..].fill(f32::NEG_INFINITY);
        for (row, inverse) in scores.chunks_exact_mut(stride).zip(inverse) {
            let (vectors, _) = row.as_chunks_mut::<VECTOR>();
            let (vectors, last) = vectors.split_at_mut(whole);
            let last = last.first_mut().filter(|_| rest > 0);
            let mut most = [f32::NEG_INFINITY; VECTOR];
            let mut look = |x: &[f32; VECTOR], beyond: &[f32; VECTOR]| {
                for lane in 0..VECTOR {
                    let x = x[lane] + beyond[lane];
                    most[lane] = if x > most[lane] { x } else { most[lane] };
                }
            };
            vectors.iter().for_each(|x| look(x, &[0.0; VECTOR]));
            last.iter().for_each(|x| look(x, &beyond));
            let most = largest_of_lanes(most);
            let mut sums = [0f32; VECTOR];
            let mut raise = |x: &mut [f32; VECTOR], beyond: &[f32; VECTOR]| {
                for lane in 0..VECTOR {
                    x[lane] = exp_of_negative::<FMA>((x[lane] + beyond[lane] - most) * scale);
                    sums[lane] += x[lane];
                }
            };
            vectors.iter_mut().for_each(|x| raise(x, &[0.0; VECTOR]));
            last.into_iter().for_each(|x| raise(x, &beyond));
            *inverse = 1.0 / sum_of_lanes(sums);
        }
    }
}
