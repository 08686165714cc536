//! Attention over packed sequences (Vaswani et al. 2017): every query attends to the tokens of its own sequence.

mod answer;

use rayon::prelude::*;

use super::buffer::{Shared, with_scratch};
use super::calls::give_way;
use super::dropout::multiply;
use super::gemm::{Matrix, Packed, Rows, Scaled, multiply_here};
use super::isa::vectorised;
use super::math::{dot, exp, largest, replace, sum};
use super::{Buffer, Compute, Dropout, Precision};

/// What attends to what.
///
/// Queries are `[R, H]` and keys and values `[T, 2 H]`, side by side, each head's columns together. Of sequence `s`
/// they are the rows `queries[s]..queries[s + 1]` and `tokens[s]..tokens[s + 1]`; a layer whose other rows nobody
/// reads may compute some queries only.
#[derive(Clone, Copy)]
pub struct Attention<'a> {
    /// Where each sequence's queries start, and the end of the last.
    pub queries: &'a [u32],
    /// Where each sequence's tokens start, and the end of the last.
    pub tokens: &'a [u32],
    /// Heads.
    pub heads: usize,
    /// H.
    pub width: usize,
    /// Of the probabilities.
    pub dropout: Option<Dropout>,
}

/// One head of one sequence.
#[derive(Clone, Copy)]
struct Task {
    /// The first query.
    query: usize,
    queries: usize,
    /// The first token.
    token: usize,
    tokens: usize,
    /// The head's first column.
    column: usize,
    /// The index of the first probability in the dropout's stream.
    probability: u64,
}

impl Attention<'_> {
    /// Every head of every sequence, the longest first, so that threads end together.
    fn tasks(&self) -> Vec<Task> {
        let mut tasks = Vec::with_capacity(self.heads * self.tokens.len());
        let mut probability = 0;
        for (queries, tokens) in self.queries.windows(2).zip(self.tokens.windows(2)) {
            let (query, token) = (queries[0] as usize, tokens[0] as usize);
            let (queries, tokens) = (queries[1] as usize - query, tokens[1] as usize - token);
            for head in 0..self.heads {
                tasks.push(Task { query, queries, token, tokens, column: head * self.size(), probability });
                probability += Dropout::of_head(tokens);
            }
        }
        tasks.sort_by_key(|task| std::cmp::Reverse(task.tokens));
        tasks
    }

    /// Columns of a head.
    fn size(&self) -> usize {
        self.width / self.heads
    }

    fn scale(&self) -> f32 {
        1.0 / (self.size() as f32).sqrt()
    }

    fn check(&self, q: &[f32], kv: &[f32], out: &[f32]) {
        let end = |offsets: &[u32]| offsets.last().map_or(0, |&end| end as usize);
        assert!(
            self.heads > 0 && self.width.is_multiple_of(self.heads),
            "the heads do not share the columns equally"
        );
        // That no two tasks write to one place rests on this.
        assert!(self.queries.is_sorted() && self.tokens.is_sorted(), "sequences overlap");
        assert!(
            q.len() == end(self.queries) * self.width
                && kv.len() == end(self.tokens) * 2 * self.width
                && out.len() == q.len()
                && self.queries.len() == self.tokens.len(),
            "queries, keys and values do not fit"
        );
    }

    /// The rows of a head of queries, or of what has their shape: `[queries, size]`.
    fn of_queries<'v>(&self, values: &'v [f32], task: Task) -> Matrix<'v> {
        let first = task.query * self.width + task.column;
        Matrix::new(values.get(first..).unwrap_or_default(), task.queries, self.size(), self.width)
    }

    /// A head's keys (0) or values (1): `[tokens, size]`.
    fn of_tokens<'v>(&self, kv: &'v [f32], task: Task, which: usize) -> Matrix<'v> {
        let first = task.token * 2 * self.width + which * self.width + task.column;
        Matrix::new(kv.get(first..).unwrap_or_default(), task.tokens, self.size(), 2 * self.width)
    }

    /// The softmax of a head before dropout: `[queries, tokens]`.
    fn probabilities(&self, compute: Compute, q: &[f32], kv: &[f32], task: Task, work: &mut Work<'_>) {
        let p = work.p.reserve(task.queries * task.tokens);
        work.factor.pack_here(compute, self.of_tokens(kv, task, 0).t());
        let epilogue = Scaled { out: Rows::new(p, 0, task.tokens), scale: 1.0 };
        multiply_here(compute, self.of_queries(q, task), work.factor, work.scratch, epilogue);
        softmax_rows(compute.isa(), p, task.tokens, self.scale());
    }

    /// `out = dropout(softmax(q k^T / sqrt(size))) v`, `[R, H]`.
    ///
    /// # Panics
    /// When queries, keys, values or `out` do not have the shapes of [`Attention`], a sequence with queries has no
    /// token, sequences do not follow one another, or the heads do not share the columns equally.
    pub fn forward(&self, compute: Compute, q: &[f32], kv: &[f32], out: &mut [f32]) {
        self.check(q, kv, out);
        let (isa, compute) = (compute.isa(), compute.without_weights());
        if self.dropout.is_none() && compute.precision() == Precision::Fp32 {
            return self.answer(compute, q, kv, out);
        }
        let shared = Shared::new(out);
        let each = |task: Task| {
            give_way();
            Work::with(|work| {
                self.probabilities(compute, q, kv, task, work);
                if let Some(dropout) = self.dropout {
                    let factors = work.factors.reserve(work.p.len());
                    dropout.factors(isa, task.probability, factors);
                    multiply(isa, work.p, factors);
                }
                work.factor.pack_here(compute, self.of_tokens(kv, task, 1));
                // SAFETY: the columns of this head in the rows of this sequence are this task's alone.
                let out = unsafe { Rows::within(&shared, task.query * self.width + task.column, self.width) };
                let p = Matrix::dense(work.p, task.queries, task.tokens);
                multiply_here(compute, p, work.factor, work.scratch, Scaled { out, scale: 1.0 });
            });
        };
        match compute.is_alone {
            true => self.tasks().into_iter().for_each(each),
            false => self.tasks().into_par_iter().with_max_len(1).for_each(each),
        }
    }

    /// The gradients of queries, `[R, H]`, and of keys and values, `[T, 2 H]`, for the gradient `grad`, `[R, H]`, of the
    /// result.
    ///
    /// # Panics
    /// As [`Attention::forward`].
    pub fn backward(
        &self,
        compute: Compute,
        q: &[f32],
        kv: &[f32],
        grad: &[f32],
        grad_q: &mut [f32],
        grad_kv: &mut [f32],
    ) {
        self.check(q, kv, grad);
        self.check(grad_q, grad_kv, grad);
        let isa = compute.isa();
        let (grad_q, grad_kv) = (Shared::new(grad_q), Shared::new(grad_kv));
        self.tasks().into_par_iter().with_max_len(1).for_each(|task| {
            give_way();
            Work::with(|work| {
                let (rows, columns, width) = (task.queries, task.tokens, self.width);
                self.probabilities(compute, q, kv, task, work);
                // SAFETY: the columns of this head in the rows of this sequence are this task's alone.
                let grad_q = unsafe { Rows::within(&grad_q, task.query * width + task.column, width) };
                let of_tokens = |which: usize| {
                    let start = task.token * 2 * width + which * width + task.column;
                    // SAFETY: likewise; keys and values have columns of their own, and each are written once.
                    let out = unsafe { Rows::within(&grad_kv, start, 2 * width) };
                    Scaled { out, scale: 1.0 }
                };
                let dropped = work.dropped.reserve(work.p.len());
                dropped.copy_from_slice(work.p);
                let factors = match self.dropout {
                    Some(dropout) => {
                        let factors = work.factors.reserve(dropped.len());
                        dropout.factors(isa, task.probability, factors);
                        multiply(isa, dropped, factors);
                        &*factors
                    }
                    None => &[],
                };
                let grad = self.of_queries(grad, task);
                work.factor.pack_here(compute, grad);
                let turned = Matrix::dense(dropped, rows, columns).t();
                multiply_here(compute, turned, work.factor, work.scratch, of_tokens(1));

                let scores = dropped;
                work.factor.pack_here(compute, self.of_tokens(kv, task, 1).t());
                let out = Scaled { out: Rows::new(scores, 0, columns), scale: 1.0 };
                multiply_here(compute, grad, work.factor, work.scratch, out);
                softmax_rows_backward(isa, scores, work.p, factors, columns, self.scale());

                work.factor.pack_here(compute, self.of_tokens(kv, task, 0));
                let scores = Matrix::dense(scores, rows, columns);
                multiply_here(compute, scores, work.factor, work.scratch, Scaled { out: grad_q, scale: 1.0 });
                work.factor.pack_here(compute, self.of_queries(q, task));
                multiply_here(compute, scores.t(), work.factor, work.scratch, of_tokens(0));
            });
        });
    }
}

/// A thread's memory for a head.
struct Work<'a> {
    p: &'a mut Buffer,
    dropped: &'a mut Buffer,
    factors: &'a mut Buffer,
    scratch: &'a mut Buffer,
    factor: &'a mut Packed,
}

impl Work<'_> {
    fn with(work: impl FnOnce(&mut Work<'_>)) {
        thread_local! {
            static FACTOR: std::cell::RefCell<Packed> = std::cell::RefCell::default();
        }
        let mut factor = FACTOR.take();
        with_scratch(|[p, dropped, factors, scratch]| {
            work(&mut Work { p, dropped, factors, scratch, factor: &mut factor });
        });
        FACTOR.set(factor);
    }
}

vectorised! {
    /// The softmax of `scale` times each row.
    fn softmax_rows<FMA>(scores: &mut [f32], columns: usize, scale: f32) {
        for row in scores.chunks_mut(columns) {
            let most = largest(row);
            replace(row, |x| exp::<FMA>((x - most) * scale));
            let inverse = 1.0 / sum(row);
            row.iter_mut().for_each(|x| *x *= inverse);
        }
    }
}

vectorised! {
    /// From the gradient of the dropped probabilities to that of the products of queries and keys, in place.
    fn softmax_rows_backward<FMA>(grad: &mut [f32], p: &[f32], factors: &[f32], columns: usize, scale: f32) {
        for (row, (grad, p)) in grad.chunks_mut(columns).zip(p.chunks(columns)).enumerate() {
            if let Some(factors) = factors.get(row * columns..(row + 1) * columns) {
                grad.iter_mut().zip(factors).for_each(|(grad, f)| *grad *= f);
            }
            let along = dot::<FMA>(grad, p);
            grad.iter_mut().zip(p).for_each(|(grad, p)| *grad = (*grad - along) * (p * scale));
        }
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{D, Result, Tensor};

    use super::*;
    use crate::kernels::Isa;
    use crate::kernels::testing::{assert_close, computes, in_pool, normal, values, variable};
    use hone_base::random::{Purpose, Stream};

    const WIDTH: usize = 64;

    fn some_dropout() -> Option<Dropout> {
        Dropout::new(0.25, Stream::new(5, Purpose::Dropout, 3, 1))
    }

    fn run(compute: Compute, attention: Attention<'_>, q: &[f32], kv: &[f32], grad: &[f32]) -> [Vec<f32>; 3] {
        let (mut out, mut grad_q, mut grad_kv) =
            (vec![f32::NAN; q.len()], vec![f32::NAN; q.len()], vec![f32::NAN; kv.len()]);
        attention.forward(compute, q, kv, &mut out);
        attention.backward(compute, q, kv, grad, &mut grad_q, &mut grad_kv);
        [out, grad_q, grad_kv]
    }

    /// One sequence after the other, with candle's own differentiable operations.
    fn reference(attention: Attention<'_>, q: &Tensor, kv: &Tensor) -> Result<Tensor> {
        let (heads, size) = (attention.heads, attention.size());
        let mut outputs = Vec::new();
        let mut probability = 0;
        for (queries, tokens) in attention.queries.windows(2).zip(attention.tokens.windows(2)) {
            let (queries, tokens) =
                (queries[0] as usize..queries[1] as usize, tokens[0] as usize..tokens[1] as usize);
            let (rows, columns) = (queries.len(), tokens.len());
            let head = |x: Tensor, rows: usize| x.reshape((rows, heads, size))?.transpose(0, 1)?.contiguous();
            let part = |which: usize| kv.narrow(0, tokens.start, columns)?.narrow(1, which * WIDTH, WIDTH);
            let q = head(q.narrow(0, queries.start, rows)?, rows)?;
            let (k, v) = (head(part(0)?, columns)?, head(part(1)?, columns)?);
            let scores = (q.matmul(&k.t()?)? / (size as f64).sqrt())?;
            let mut p = candle_nn::ops::softmax(&scores, D::Minus1)?;
            if let Some(dropout) = attention.dropout {
                let mut mask = Vec::new();
                for _ in 0..heads {
                    mask.extend(
                        (0..(rows * columns) as u64).map(|index| dropout.factor(probability + index)),
                    );
                    probability += Dropout::of_head(columns);
                }
                p = (&p * Tensor::from_vec(mask, p.shape(), p.device())?)?;
            }
            outputs.push(p.matmul(&v)?.transpose(0, 1)?.reshape((rows, WIDTH))?);
        }
        Tensor::cat(&outputs, 0)
    }

    const TOKENS: [u32; 6] = [0, 1, 8, 41, 174, 176];

    fn all<'a>(queries: &'a [u32], dropout: Option<Dropout>) -> Attention<'a> {
        Attention { queries, tokens: &TOKENS, heads: 2, width: WIDTH, dropout }
    }

    #[test]
    fn agrees_with_candle_s_own_operations() -> Result<()> {
        for dropout in [None, some_dropout()] {
            for queries in [&TOKENS[..], &[0, 1, 2, 3, 4, 5]] {
                let attention = all(queries, dropout);
                let rows = queries[5] as usize;
                let (q, kv) = (variable(1, (rows, WIDTH)), variable(2, (176, 2 * WIDTH)));
                let grad = normal(3, rows * WIDTH);
                let result = reference(attention, q.as_tensor(), kv.as_tensor())?;
                let seed = Tensor::from_vec(grad.clone(), (rows, WIDTH), result.device())?;
                let gradients = (&result * seed)?.sum_all()?.backward()?;
                let of = |x: &Tensor| gradients.get(x).map(values).expect("a gradient");
                let expected = [values(&result), of(q.as_tensor()), of(kv.as_tensor())];
                for compute in computes() {
                    let found = run(compute, attention, &values(&q), &values(&kv), &grad);
                    for (what, (found, expected)) in found.iter().zip(&expected).enumerate() {
                        let tolerance = 1e-5_f64.max(3.0 * compute.epsilon());
                        assert_close(found, expected, tolerance, &format!("{compute:?}: {what}"));
                    }
                }
            }
        }
        Ok(())
    }

    #[test]
    fn is_the_same_to_the_bit_on_any_number_of_threads() {
        let (q, kv, grad) = (normal(1, 176 * WIDTH), normal(2, 176 * 2 * WIDTH), normal(3, 176 * WIDTH));
        for compute in computes() {
            let on =
                |threads| in_pool(threads, || run(compute, all(&TOKENS, some_dropout()), &q, &kv, &grad));
            assert_eq!(on(1), on(3), "{compute:?}");
        }
    }

    #[test]
    fn a_sequence_does_not_depend_on_its_neighbours() {
        let (q, kv, grad) = (normal(1, 176 * WIDTH), normal(2, 176 * 2 * WIDTH), normal(3, 176 * WIDTH));
        for compute in computes() {
            let together = run(compute, all(&TOKENS, None), &q, &kv, &grad);
            let alone = Attention { queries: &[0, 33], tokens: &[0, 33], ..all(&TOKENS, None) };
            let alone = run(
                compute,
                alone,
                &q[8 * WIDTH..41 * WIDTH],
                &kv[16 * WIDTH..82 * WIDTH],
                &grad[8 * WIDTH..41 * WIDTH],
            );
            assert_eq!(alone[0], together[0][8 * WIDTH..41 * WIDTH], "{compute:?}");
            assert_eq!(alone[2], together[2][16 * WIDTH..82 * WIDTH], "{compute:?}");
        }
    }

    #[test]
    #[should_panic(expected = "sequences overlap")]
    fn sequences_that_would_be_written_by_several_tasks_are_refused() {
        let compute = Compute::new(Isa::PORTABLE, Precision::Fp32);
        let offsets = [0, 4, 2, 6];
        let of = Attention { queries: &offsets, tokens: &offsets, heads: 1, width: 2, dropout: None };
        of.forward(compute, &normal(1, 12), &normal(2, 24), &mut [0.0; 12]);
    }
}
