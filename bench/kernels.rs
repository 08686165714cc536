//! Times the kernels and products of a training step on a GPU, one by one, with the bytes that each must move and the
//! operations that it must do.

use std::time::Instant;

use hone_base::error::Result;
use hone_base::random::{Purpose, Stream as Random};
use hone_engine::kernels::adam::Update;
use hone_engine::kernels::cuda::adam::{Pieces, Values};
use hone_engine::kernels::cuda::attention::{Attention, Gradients, Sequences};
use hone_engine::kernels::cuda::embedding::{Lookups, Scatter};
use hone_engine::kernels::cuda::layer_norm::{LayerNorm, Normal};
use hone_engine::kernels::cuda::linear::{add_bias, add_columns, gelu_backward, gelu_forward};
use hone_engine::kernels::cuda::{Array, Real, Stream};
use hone_engine::kernels::linear::Gelu;
use hone_engine::kernels::{Dropout, Precision};
use serde_json::{Value, json};

/// Launches that are timed together.
const LAUNCHES: usize = 50;

/// The shape of a step.
pub(crate) struct Shape {
    pub(crate) batch: usize,
    pub(crate) length: usize,
    pub(crate) hidden: usize,
    pub(crate) inner: usize,
    pub(crate) heads: usize,
    pub(crate) words: usize,
    pub(crate) parameters: usize,
}

/// What the card can do, to compare with.
pub(crate) struct Limits {
    /// Bytes a second.
    pub(crate) bandwidth: f64,
    /// Operations a second in products.
    pub(crate) rate: f64,
}

struct Bench<'a> {
    stream: &'a Stream,
    limits: Limits,
    /// Read to wait for the work.
    end: Array<f32>,
    rows: Vec<Value>,
}

impl Bench<'_> {
    fn wait(&self) -> Result<()> {
        self.end.read(&mut [0.0])
    }

    /// Times one operation that moves `bytes` and does `flop`.
    fn time(
        &mut self,
        name: &str,
        bytes: f64,
        flop: f64,
        mut launch: impl FnMut(&Stream) -> Result<()>,
    ) -> Result<()> {
        launch(self.stream)?;
        self.wait()?;
        let begin = Instant::now();
        for _ in 0..LAUNCHES {
            launch(self.stream)?;
        }
        self.wait()?;
        let seconds = begin.elapsed().as_secs_f64() / LAUNCHES as f64;
        let floor = (bytes / self.limits.bandwidth).max(flop / self.limits.rate);
        self.rows.push(json!({
            "kernel": name, "microseconds": seconds * 1e6, "megabytes": bytes / 1e6, "gflop": flop / 1e9,
            "share_of_limit": floor / seconds,
        }));
        Ok(())
    }
}

fn reals(stream: &Stream, count: usize) -> Result<Array<Real>> {
    // Small numbers that are not all alike: products of zeros run faster than real ones.
    let random = Random::new(1, Purpose::Initialisation, 0, 0);
    let values: Vec<f32> = (0..count as u64).map(|index| random.uniform(index) as f32 - 0.5).collect();
    let (mut from, mut to) = (Array::new(stream), Array::new(stream));
    from.put(&values)?;
    to.reserve(count)?;
    hone_engine::kernels::cuda::linear::convert(stream, from.start(), to.start(), count)?;
    Ok(to)
}

fn floats(stream: &Stream, count: usize) -> Result<Array<f32>> {
    let mut array = Array::new(stream);
    array.put(&vec![0.5; count])?;
    Ok(array)
}

/// One row for each operation.
pub(crate) fn measure(stream: &Stream, of: &Shape, limits: Limits) -> Result<Vec<Value>> {
    let (tokens, width, inner) = (of.batch * of.length, of.hidden, of.inner);
    let size = match stream.precision() {
        Precision::Fp32 | Precision::Int8 => 4.0,
        Precision::Bf16 => 2.0,
    };
    let values = |count: usize| size * count as f64;
    let dropout = Dropout::new(0.1, Random::new(1, Purpose::Dropout, 0, 0));
    let mut bench = Bench { stream, limits, end: floats(stream, 1)?, rows: Vec::new() };
    let [x, grad, other] = [0, 1, 2].map(|_| reals(stream, tokens * width));
    let (x, grad, other) = (x?, grad?, other?);
    let (wide, of_wide) =
        (reals(stream, tokens * inner.max(3 * width))?, reals(stream, tokens * inner.max(3 * width))?);
    let weights = reals(stream, width * inner.max(3 * width))?;
    let of_weights = floats(stream, width * inner.max(3 * width))?;
    let bias = floats(stream, inner.max(3 * width))?;
    let mut parts = Array::new(stream);

    for (name, outputs) in
        [("query, key, value", 3 * width), ("attention output", width), ("intermediate", inner)]
    {
        let flop = 2.0 * (tokens * width * outputs) as f64;
        let moved = values(tokens * width) + values(tokens * outputs) + values(width * outputs);
        bench.time(&format!("product, {name}"), moved, flop, |stream| {
            let shape = [tokens, width, outputs];
            stream.product(shape, x.start().as_it_is(), weights.start().turned(), wide.start(), false)
        })?;
        bench.time(&format!("product, {name}: gradient of the input"), moved, flop, |stream| {
            let shape = [tokens, outputs, width];
            stream.product(shape, wide.start().as_it_is(), weights.start().as_it_is(), other.start(), false)
        })?;
        let moved = values(tokens * width) + values(tokens * outputs) + 8.0 * (width * outputs) as f64;
        bench.time(&format!("product, {name}: gradient of the weight"), moved, flop, |stream| {
            let shape = [outputs, tokens, width];
            stream.float_product(shape, wide.start().turned(), x.start().as_it_is(), of_weights.start(), true)
        })?;
    }
    bench.time("bias, 3 H", 2.0 * values(tokens * 3 * width), 0.0, |stream| {
        add_bias(stream, wide.start(), bias.start(), tokens, 3 * width)
    })?;
    bench.time("gradient of a bias, 3 H", values(tokens * 3 * width), 0.0, |stream| {
        add_columns(stream, wide.start(), of_weights.start(), tokens, 3 * width, &mut parts)
    })?;
    bench.time("bias and GELU", 3.0 * values(tokens * inner), 0.0, |stream| {
        gelu_forward(stream, wide.start(), bias.start(), of_wide.start(), tokens, inner, Gelu::Exact)
    })?;
    bench.time("GELU, backward", 3.0 * values(tokens * inner), 0.0, |stream| {
        gelu_backward(stream, of_wide.start(), wide.start(), tokens * inner, Gelu::Exact)
    })?;

    let norm = LayerNorm { weight: bias.start(), bias: bias.start(), eps: 1e-12, width };
    let mut normal = Normal::new(stream);
    normal.reserve(tokens, width)?;
    bench.time("bias, dropout, sum, layer norm", 4.0 * values(tokens * width), 0.0, |stream| {
        norm.forward(stream, &mut normal, Some(bias.start()), Some(x.start()), dropout, other.start())
    })?;
    let gradients = Some([of_weights.start(), of_weights.start()]);
    bench.time("the same, backward", 4.0 * values(tokens * width), 0.0, |stream| {
        norm.backward(stream, &normal, dropout, grad.start(), Some(other.start()), gradients, &mut parts)
    })?;

    let offsets: Vec<u32> = (0..=of.batch).map(|row| (row * of.length) as u32).collect();
    let mut sequences = Sequences::new(stream, of.heads, width / of.heads);
    sequences.put(&offsets, &offsets)?;
    let flop = 4.0 * (of.batch * of.length * of.length * width) as f64;
    for (name, dropout) in [("attention", None), ("attention with dropout", dropout)] {
        let attention = Attention {
            sequences: &sequences,
            q: (wide.start(), 3 * width),
            k: wide.part(width, width),
            v: wide.part(2 * width, width),
            kv_stride: 3 * width,
            width,
            dropout,
        };
        let to = Gradients {
            q: of_wide.start(),
            k: of_wide.part(width, width),
            v: of_wide.part(2 * width, width),
        };
        let (mut logsums, mut along) = (Array::new(stream), Array::new(stream));
        bench.time(name, values(tokens * 4 * width), flop, |stream| {
            attention.forward(stream, other.start(), &mut logsums)
        })?;
        let moved = values(tokens * 8 * width);
        bench.time(&format!("{name}, backward"), moved, 2.5 * flop, |stream| {
            attention.backward(stream, [other.start(), grad.start()], &logsums, &mut along, to)
        })?;
    }

    let random = Random::new(2, Purpose::Split, 0, 0);
    let ids: Vec<u32> = (0..tokens as u64).map(|token| random.word(token) % of.words as u32).collect();
    let positions: Vec<u32> = (0..tokens).map(|token| (token % of.length) as u32).collect();
    let (mut word_ids, mut position_ids) = (Array::new(stream), Array::new(stream));
    word_ids.put(&ids)?;
    position_ids.put(&positions)?;
    let (word_table, position_table) =
        (floats(stream, of.words * width)?, floats(stream, of.length * width)?);
    let lookups = Lookups {
        word_table: word_table.start(),
        position_table: position_table.start(),
        type_table: None,
        words: word_ids.start(),
        positions: position_ids.start(),
        types: position_ids.start(),
    };
    let moved = 4.0 * (tokens * width) as f64 + 2.0 * values(tokens * width);
    bench.time("embeddings, layer norm, dropout", moved, 0.0, |stream| {
        lookups.forward(stream, &norm, dropout, &mut normal, other.start())
    })?;
    let mut scatter = Scatter::new(stream);
    scatter.group(&ids)?;
    let moved = values(tokens * width) + 8.0 * (tokens * width) as f64;
    bench.time("gradient of the words", moved, 0.0, |stream| {
        scatter.add(stream, grad.start(), word_table.start(), width, &mut parts)
    })?;

    let [first, second, third, fourth] = [0, 1, 2, 3].map(|_| Array::zeros(stream, of.parameters));
    let (first, second, third, fourth) = (first?, second?, third?, fourth?);
    let copy = reals(stream, of.parameters)?;
    let mut pieces = Pieces::new(stream, [(0..of.parameters, 0)])?;
    let of_all = Values {
        values: first.start(),
        gradients: second.start(),
        m: third.start(),
        v: fourth.start(),
        copy: copy.start(),
    };
    let update = Update {
        rate: 1e-5,
        beta1: 0.9,
        beta2: 0.999,
        epsilon: 1e-8,
        decay: 0.01,
        decoupled: true,
        step: 1,
        scale: 1.0,
    };
    // The gradients are read twice: for the norm, and for the update.
    let moved = 32.0 * of.parameters as f64 + values(of.parameters);
    bench.time("norm, clipping and AdamW", moved, 0.0, |stream| {
        pieces.step(stream, of_all, &[update.coefficients()], Some(1.0)).map(drop)
    })?;
    Ok(bench.rows)
}
