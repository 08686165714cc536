//! Attention over packed sequences (Vaswani et al. 2017): every token attends to the tokens of its own sequence.

use candle_core::{CpuStorage, CustomOp1, D, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use super::cross_entropy::softmax;
use super::matmul::{Matrix, Target, dot, multiply_here};
use super::{Dropout, Offsets, values};

/// Softmax attention: `qkv` is `[T, 3 H]`, queries, keys and values side by side, each head's columns together; the
/// result is `[T, H]`. Probabilities go through `dropout`.
pub fn attention(qkv: &Tensor, offsets: &Offsets, heads: usize, dropout: Option<Dropout>) -> Result<Tensor> {
    let (tokens, width) = qkv.dims2()?;
    if offsets.last().map(|&end| end as usize) != Some(tokens) || !width.is_multiple_of(3 * heads) {
        bail!("attention with {heads} heads does not fit {tokens} x {width} values");
    }
    let operation = Attention { offsets: offsets.clone(), heads, dropout };
    if !qkv.device().is_cpu() {
        return operation.reference(qkv);
    }
    qkv.contiguous()?.apply_op1(operation)
}

struct Attention {
    offsets: Offsets,
    heads: usize,
    dropout: Option<Dropout>,
}

/// One head of one sequence.
#[derive(Clone, Copy)]
struct Task {
    /// The sequence's first token.
    start: usize,
    /// Tokens of the sequence.
    length: usize,
    head: usize,
    /// The index of the first probability in the dropout's stream.
    probability: u64,
}

/// Where a head's queries, keys and values lie: columns per head, and columns of all heads.
#[derive(Clone, Copy)]
struct Shape3 {
    size: usize,
    width: usize,
}

/// Memory that is written by several tasks, each at places of its own.
#[derive(Clone, Copy)]
struct Shared(*mut f32);

// SAFETY: the tasks of one pass write disjoint rows or columns, and the pass ends before the memory is read.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Shared {
    /// A task's block of `task.length` rows that stand `row_stride` apart, from column `column` on.
    ///
    /// # Safety
    /// The block must lie inside the allocation, and no other task may use it.
    unsafe fn block(self, task: Task, column: usize, shape: Shape3, row_stride: usize) -> Target {
        // SAFETY: promised by the caller.
        unsafe {
            Target::at(self.0.add(task.start * row_stride + column), task.length, shape.size, row_stride)
        }
    }
}

impl Attention {
    /// Every head of every sequence, the longest first, so that threads end together.
    fn tasks(&self) -> Vec<Task> {
        let mut tasks = Vec::with_capacity(self.heads * self.offsets.len());
        let mut probability = 0;
        for pair in self.offsets.windows(2) {
            let (start, length) = (pair[0] as usize, (pair[1] - pair[0]) as usize);
            for head in 0..self.heads {
                tasks.push(Task { start, length, head, probability });
                probability += (length * length) as u64;
            }
        }
        tasks.sort_by_key(|task| std::cmp::Reverse(task.length));
        tasks
    }

    fn shape(&self, qkv_width: usize) -> Shape3 {
        Shape3 { size: qkv_width / 3 / self.heads, width: qkv_width / 3 }
    }

    /// A head's queries (0), keys (1) or values (2): `[length, size]`.
    fn part<'a>(&self, qkv: &'a [f32], task: Task, which: usize, shape: Shape3) -> Matrix<'a> {
        let stride = 3 * shape.width;
        let first = task.start * stride + which * shape.width + task.head * shape.size;
        Matrix::new(&qkv[first..], task.length, shape.size, stride)
    }

    /// The probabilities of a head before dropout: `[length, length]`.
    fn probabilities(&self, out: &mut [f32], qkv: &[f32], task: Task, shape: Shape3) {
        let (q, k) = (self.part(qkv, task, 0, shape), self.part(qkv, task, 1, shape));
        let scale = 1.0 / (shape.size as f32).sqrt();
        multiply_here(Target::of(out, task.length, task.length, task.length), q, k.t(), scale);
        out.chunks_mut(task.length).for_each(|row| {
            softmax(row);
        });
    }

    fn drop(&self, probabilities: &mut [f32], task: Task) {
        if let Some(dropout) = &self.dropout {
            dropout.apply(probabilities, task.probability);
        }
    }

    fn forward(&self, qkv: &[f32], shape: Shape3) -> Vec<f32> {
        let mut out = vec![0f32; qkv.len() / 3];
        let shared = Shared(out.as_mut_ptr());
        self.tasks().into_par_iter().with_max_len(1).for_each_init(Vec::new, |p, task| {
            p.resize(task.length * task.length, 0.0);
            self.probabilities(p, qkv, task, shape);
            self.drop(p, task);
            // SAFETY: the columns of this head in the rows of this sequence are this task's alone.
            let target = unsafe { { shared }.block(task, task.head * shape.size, shape, shape.width) };
            let p = Matrix::dense(p, task.length, task.length);
            multiply_here(target, p, self.part(qkv, task, 2, shape), 1.0);
        });
        out
    }

    fn backward(&self, qkv: &[f32], grad: &[f32], shape: Shape3) -> Vec<f32> {
        let mut out = vec![0f32; qkv.len()];
        let shared = Shared(out.as_mut_ptr());
        let scale = 1.0 / (shape.size as f32).sqrt();
        self.tasks().into_par_iter().with_max_len(1).for_each_init(Scratch::default, |scratch, task| {
            let n = task.length;
            let Scratch { p, dropped, grad_p } = scratch;
            for values in [&mut *p, &mut *dropped, &mut *grad_p] {
                values.resize(n * n, 0.0);
            }
            self.probabilities(p, qkv, task, shape);
            dropped.copy_from_slice(p);
            self.drop(dropped, task);
            // SAFETY: these columns of q, k and v in the rows of this sequence are this task's alone.
            let part = |which: usize| unsafe {
                let column = which * shape.width + task.head * shape.size;
                { shared }.block(task, column, shape, 3 * shape.width)
            };
            let grad_out = Matrix::new(
                &grad[task.start * shape.width + task.head * shape.size..],
                n,
                shape.size,
                shape.width,
            );
            multiply_here(part(2), Matrix::dense(dropped, n, n).t(), grad_out, 1.0);
            multiply_here(Target::of(grad_p, n, n, n), grad_out, self.part(qkv, task, 2, shape).t(), 1.0);
            self.drop(grad_p, task);
            for (grad_row, p_row) in grad_p.chunks_mut(n).zip(p.chunks(n)) {
                let along = dot(grad_row, p_row);
                grad_row.iter_mut().zip(p_row).for_each(|(g, p)| *g = p * (*g - along));
            }
            let grad_scores = Matrix::dense(grad_p, n, n);
            multiply_here(part(0), grad_scores, self.part(qkv, task, 1, shape), scale);
            multiply_here(part(1), grad_scores.t(), self.part(qkv, task, 0, shape), scale);
        });
        out
    }

    /// One sequence after the other, with candle's own differentiable operations.
    fn reference(&self, qkv: &Tensor) -> Result<Tensor> {
        let shape = self.shape(qkv.dim(1)?);
        let mut probability = 0;
        let mut outputs = Vec::with_capacity(self.offsets.len());
        for pair in self.offsets.windows(2) {
            let (start, length) = (pair[0] as usize, (pair[1] - pair[0]) as usize);
            let part = |which: usize| {
                qkv.narrow(0, start, length)?
                    .narrow(1, which * shape.width, shape.width)?
                    .reshape((length, self.heads, shape.size))?
                    .transpose(0, 1)?
                    .contiguous()
            };
            let scores = (part(0)?.matmul(&part(1)?.t()?)? / (shape.size as f64).sqrt())?;
            let mut p = candle_nn::ops::softmax(&scores, D::Minus1)?;
            let count = self.heads * length * length;
            if let Some(dropout) = &self.dropout {
                let mut mask = vec![1f32; count];
                dropout.apply(&mut mask, probability);
                p = (&p * Tensor::from_vec(mask, p.shape(), p.device())?)?;
            }
            probability += count as u64;
            outputs.push(p.matmul(&part(2)?)?.transpose(0, 1)?.reshape((length, shape.width))?);
        }
        Tensor::cat(&outputs, 0)
    }
}

#[derive(Default)]
struct Scratch {
    p: Vec<f32>,
    dropped: Vec<f32>,
    grad_p: Vec<f32>,
}

impl CustomOp1 for Attention {
    fn name(&self) -> &'static str {
        "packed-attention"
    }

    fn cpu_fwd(&self, qkv: &CpuStorage, at: &Layout) -> Result<(CpuStorage, Shape)> {
        let (tokens, width) = at.shape().dims2()?;
        let out = self.forward(values::of_storage(qkv, at)?, self.shape(width));
        Ok((CpuStorage::F32(out), (tokens, width / 3).into()))
    }

    fn bwd(&self, qkv: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let grad = grad.contiguous()?;
        let out = self.backward(&values::of(qkv)?, &values::of(&grad)?, self.shape(qkv.dim(1)?));
        Ok(Some(Tensor::from_vec(out, qkv.shape(), qkv.device())?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::testing::{assert_gradients, assert_same, in_pool, variable};
    use crate::random::{Purpose, Stream};

    fn some_dropout() -> Option<Dropout> {
        Dropout::new(0.25, Stream::new(5, Purpose::Dropout, 3, 1))
    }

    fn offsets(lengths: &[u32]) -> Offsets {
        let mut end = 0;
        std::iter::once(0)
            .chain(lengths.iter().map(|length| {
                end += length;
                end
            }))
            .collect()
    }

    #[test]
    fn agrees_with_the_reference() -> Result<()> {
        for (lengths, heads, size) in
            [(&[1u32][..], 1, 4), (&[5, 1, 17, 64], 4, 8), (&[512, 3], 2, 32), (&[2; 300], 2, 4)]
        {
            let offsets = offsets(lengths);
            let tokens: u32 = lengths.iter().sum();
            let qkv = variable(1, (tokens as usize, 3 * heads * size));
            for dropout in [None, some_dropout()] {
                assert_same(&[&qkv], &|v| attention(v[0], &offsets, heads, dropout), &|v| {
                    Attention { offsets: offsets.clone(), heads, dropout }.reference(v[0])
                })?;
            }
        }
        Ok(())
    }

    #[test]
    fn gradients_agree_with_finite_differences() -> Result<()> {
        let qkv = variable(1, (6, 3 * 2 * 3));
        assert_gradients(&[&qkv], &|v| attention(v[0], &offsets(&[4, 2]), 2, some_dropout()))
    }

    #[test]
    fn a_sequence_is_answered_alike_alone_and_in_a_batch() -> Result<()> {
        let qkv = variable(1, (40, 3 * 32));
        let together = attention(&qkv, &offsets(&[13, 27]), 4, None)?;
        let alone = attention(&qkv.narrow(0, 13, 27)?, &offsets(&[27]), 4, None)?;
        assert_eq!(together.narrow(0, 13, 27)?.to_vec2::<f32>()?, alone.to_vec2::<f32>()?);
        Ok(())
    }

    #[test]
    fn the_number_of_threads_changes_no_bit() -> Result<()> {
        let qkv = variable(1, (70, 3 * 32));
        let on = |threads| {
            in_pool(threads, || -> Result<_> {
                let out = attention(&qkv, &offsets(&[30, 1, 39]), 4, some_dropout())?;
                let grad = out.sqr()?.sum_all()?.backward()?.get(&qkv).cloned();
                Ok((out.to_vec2::<f32>()?, grad.map(|g| g.to_vec2::<f32>()).transpose()?))
            })
        };
        assert_eq!(on(1)?, on(3)?);
        Ok(())
    }
}
