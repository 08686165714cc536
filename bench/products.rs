//! Times the products of linear layers that only answer, one by one: shapes of MiniLM and of BERT-base, from one row to
//! thousands.

use std::time::Instant;

use hone_base::random::{Purpose, Stream};
use hone_engine::kernels::Compute;
use hone_engine::kernels::linear::{Linear, Prepared};
use serde_json::{Value, json};

/// Inputs and outputs.
const LAYERS: [(usize, usize); 7] =
    [(384, 384), (384, 768), (384, 1536), (1536, 384), (768, 768), (768, 3072), (3072, 768)];

const ROWS: [usize; 5] = [1, 10, 25, 64, 2048];

/// Seconds that a product is repeated for; the shortest run counts.
const SECONDS: f64 = 0.1;

/// One row for each shape: microseconds, and operations a second.
pub(crate) fn measure(compute: Compute) -> Vec<Value> {
    let mut measured = Vec::new();
    for (inputs, outputs) in LAYERS {
        let (weight, bias) = (normal(1, inputs * outputs), normal(2, outputs));
        let mut prepared = Prepared::default();
        prepared.forward(compute, Linear { weight: &weight, bias: &bias });
        for rows in ROWS {
            let (x, mut y) = (normal(3, rows * inputs), vec![0.0; rows * outputs]);
            let (mut shortest, begin) = (f64::INFINITY, Instant::now());
            while begin.elapsed().as_secs_f64() < SECONDS {
                let start = Instant::now();
                prepared.apply(compute, &x, &bias, &mut y);
                shortest = shortest.min(start.elapsed().as_secs_f64());
            }
            let flop = 2.0 * (rows * inputs * outputs) as f64;
            measured.push(json!({
                "rows": rows, "inputs": inputs, "outputs": outputs, "microseconds": shortest * 1e6,
                "gflop_per_second": flop / shortest / 1e9,
            }));
        }
    }
    measured
}

fn normal(seed: u64, count: usize) -> Vec<f32> {
    let stream = Stream::new(seed, Purpose::Initialisation, 0, 0);
    (0..count as u64).map(|index| stream.normal(index) as f32).collect()
}
