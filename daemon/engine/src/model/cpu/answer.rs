//! Passes of a model that only answers. The sequences of a batch go in groups; one thread takes a group through all layers,
//! so that hidden states stay in its core's cache, and no thread waits for another between two products. A batch of too few
//! sequences for that goes through the layers as a whole, and the threads share each product. Logits are the same to the bit:
//! no row of a product and no sequence depends on those beside it.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use rayon::prelude::*;

use super::super::parameters::Parameters;
use super::encoder::{Encoder, Tape};
use super::head::{Head, HeadTape};
use super::layer::{Layer, PRODUCTS, Product};
use crate::batch::Batch;
use crate::kernels::Buffer;
use crate::kernels::linear::Prepared;

/// Sequences are added to a group until it has so many tokens: its thread reads all weights for it, from memory or a cache
/// that is shared, which takes as long as this many rows; and its own cache is small.
pub(crate) const TOKENS: usize = 96;

/// Rows that go from the attention's result to that of the layer together.
const ROWS: usize = 48;

/// The memory of groups that are on their way, used again from pass to pass.
#[derive(Debug, Default)]
pub(super) struct Groups {
    tapes: Mutex<Vec<AnswerTape>>,
}

/// The memory of a pass of one thread.
#[derive(Debug, Default)]
struct AnswerTape {
    encoder: Tape,
    first: Buffer,
    head: HeadTape,
}

/// The memory of a layer's rows.
#[derive(Debug, Default)]
pub(super) struct LayerWork {
    asked: Buffer,
    query: Buffer,
    key_value: Buffer,
    context: Buffer,
    sum: Buffer,
    middle: Buffer,
    active: Buffer,
}

impl LayerWork {
    pub(super) fn bytes(&self) -> usize {
        let Self { asked, query, key_value, context, sum, middle, active } = self;
        [asked, query, key_value, context, sum, middle, active].into_iter().map(Buffer::bytes).sum()
    }
}

impl Groups {
    /// The last hidden state of each sequence's first token, `[B, H]`, if the batch has sequences for all threads of the
    /// current pool; else nothing is done.
    pub(super) fn first_states(
        &mut self,
        encoder: &Encoder,
        parameters: &Parameters,
        batch: &Batch,
        out: &mut Buffer,
    ) -> bool {
        let threads = rayon::current_num_threads();
        let Some(groups) = groups(batch, threads) else { return false };
        let width = encoder.architecture().hidden_size;
        let mut rest = out.reserve(batch.len() * width);
        let mut work = Vec::with_capacity(groups.len());
        for group in groups {
            let (of_group, after) = rest.split_at_mut(group.len() * width);
            work.push((group, of_group));
            rest = after;
        }
        // The longest first, so that threads end together.
        work.sort_by_key(|(group, _)| std::cmp::Reverse(tokens(batch, group)));
        work.into_par_iter().with_max_len(1).for_each(|(group, out)| {
            self.with_tape(|tape| encoder.answer(parameters, &part(batch, group), &mut tape.encoder, out));
        });
        true
    }

    /// The logits of each sequence, `[B, labels]` row by row, on this thread alone.
    pub(super) fn answer(
        &self,
        encoder: &Encoder,
        head: &Head,
        parameters: &Parameters,
        batch: &Batch,
    ) -> Vec<f32> {
        self.with_tape(|AnswerTape { encoder: tape, first, head: of_head }| {
            let states = first.reserve(batch.len() * encoder.architecture().hidden_size);
            encoder.answer(parameters, batch, tape, states);
            head.answer(parameters, states, of_head).to_vec()
        })
    }

    fn with_tape<T>(&self, work: impl FnOnce(&mut AnswerTape) -> T) -> T {
        let taken = self.tapes.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut tape = taken.unwrap_or_default();
        let result = work(&mut tape);
        self.tapes.lock().unwrap_or_else(PoisonError::into_inner).push(tape);
        result
    }

    /// Bytes that it takes.
    pub(super) fn bytes(&self) -> usize {
        let tapes = self.tapes.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes = |tape: &AnswerTape| tape.encoder.bytes() + tape.first.bytes() + tape.head.bytes();
        tapes.iter().map(bytes).sum()
    }
}

/// Tokens of some sequences.
fn tokens(batch: &Batch, sequences: &Range<usize>) -> usize {
    (batch.offsets[sequences.end] - batch.offsets[sequences.start]) as usize
}

/// Some sequences as a batch of their own.
fn part(batch: &Batch, sequences: Range<usize>) -> Batch {
    let offsets = &batch.offsets[sequences.start..=sequences.end];
    let (start, end) = (offsets[0] as usize, offsets[offsets.len() - 1] as usize);
    Batch {
        ids: batch.ids[start..end].to_vec(),
        types: batch.types[start..end].to_vec(),
        offsets: offsets.iter().map(|offset| offset - offsets[0]).collect(),
    }
}

/// Groups of sequences that follow one another, if threads that take one after the other end almost together.
fn groups(batch: &Batch, threads: usize) -> Option<Vec<Range<usize>>> {
    let mut groups: Vec<Range<usize>> = Vec::new();
    for sequence in 0..batch.len() {
        match groups.last_mut() {
            Some(group) if tokens(batch, group) < TOKENS => group.end += 1,
            _ => groups.push(sequence..sequence + 1),
        }
    }
    let mut sizes: Vec<usize> = groups.iter().map(|group| tokens(batch, group)).collect();
    sizes.sort_unstable_by_key(|&tokens| std::cmp::Reverse(tokens));
    let mut loads = vec![0; threads];
    for tokens in sizes {
        if let Some(load) = loads.iter_mut().min() {
            *load += tokens;
        }
    }
    let longest = loads.into_iter().max().unwrap_or_default();
    (4 * threads * longest <= 5 * batch.tokens()).then_some(groups)
}

impl Layer<'_> {
    /// From the hidden states `x` of all tokens to those that are asked for, for passes without a backward pass, on this thread
    /// alone.
    pub(super) fn answer(
        &self,
        prepared: &[Prepared; PRODUCTS],
        x: &[f32],
        work: &mut LayerWork,
        out: &mut [f32],
    ) {
        let (compute, width, rows) = (self.compute, self.width, self.rows());
        let product = |product: Product| &prepared[product as usize];
        let bias = |of| self.linear(of).bias;
        let (query_bias, key_value_bias) = bias(self.of.qkv).split_at(width);
        let asked = match self.is_partial() {
            true => &*self.gather(x, &mut work.asked),
            false => x,
        };
        let query = work.query.reserve(rows * width);
        product(Product::Query).apply(compute, asked, query_bias, query);
        let key_value = work.key_value.reserve(2 * x.len());
        product(Product::KeyValue).apply(compute, x, key_value_bias, key_value);
        let context = work.context.reserve(rows * width);
        self.attention().forward(compute, query, key_value, context);

        let inner = bias(self.of.intermediate);
        let rows = asked.chunks(ROWS * width).zip(context.chunks(ROWS * width));
        for ((asked, context), out) in rows.zip(out.chunks_mut(ROWS * width)) {
            let sum = work.sum.reserve(context.len());
            product(Product::AttentionOutput).apply(compute, context, bias(self.of.attention_output), sum);
            let middle = work.middle.reserve(context.len());
            self.norm(self.of.attention_norm).answer(compute, sum, asked, middle);
            let active = work.active.reserve(context.len() / width * inner.len());
            product(Product::Intermediate).answer_gelu(compute, middle, inner, self.gelu(), active);
            product(Product::Output).apply(compute, active, bias(self.of.output), sum);
            self.norm(self.of.output_norm).answer(compute, sum, middle, out);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(lengths: &[usize]) -> Batch {
        let mut batch = Batch { offsets: vec![0], ..Batch::default() };
        for &length in lengths {
            batch.ids.extend((0..length).map(|place| place as u32));
            batch.types.extend(std::iter::repeat_n(0, length));
            batch.offsets.push(batch.ids.len() as u32);
        }
        batch
    }

    #[test]
    fn groups_are_all_sequences_in_order_and_a_part_is_a_batch() {
        let batch = of(&[40; 21]);
        let groups = groups(&batch, 2).expect("groups");
        assert_eq!(groups.first().map(|group| group.start), Some(0));
        assert_eq!(groups.last().map(|group| group.end), Some(21));
        assert!(groups.windows(2).all(|pair| pair[0].end == pair[1].start));
        assert!(groups.iter().all(|group| (TOKENS..TOKENS + 40).contains(&tokens(&batch, group))));
        let part = part(&batch, 3..5);
        assert_eq!((part.offsets, part.ids.len(), part.types.len()), (vec![0, 40, 80], 80, 80));
        assert_eq!(part.ids[40..], batch.ids[160..200]);
    }

    #[test]
    fn a_batch_with_too_few_sequences_for_its_threads_is_not_cut() {
        for (lengths, threads, is_cut) in [
            (&[25][..], 1, true),
            (&[25], 2, false),
            (&[30, 30], 2, false),
            (&[60, 60, 60, 60], 2, true),
            (&[200, 30], 2, false),
            (&[256; 8], 2, true),
            (&[256; 8], 16, false),
            (&[], 2, true),
        ] {
            assert_eq!(groups(&of(lengths), threads).is_some(), is_cut, "{lengths:?} on {threads}");
        }
    }
}
