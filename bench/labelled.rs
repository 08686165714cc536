//! Classifies a labelled file as the serving daemon computes, and compares the scores with those at float32.

use std::path::Path;
use std::time::Instant;

use candle_core::Device;
use hone_base::cancel::Cancel;
use hone_base::error::{Error, Result};
use hone_data::dataset::Dataset;
use hone_data::tokenize::{Tokenizer, Tokens};
use hone_engine::batch::{Batch, by_tokens};
use hone_engine::kernels::Precision;
use hone_engine::model::classifier::Classifier;
use serde_json::{Value, json};

use crate::median;

/// Tokens of a batch.
const BATCH: usize = 2048;

/// Texts that are classified one at a time.
const ALONE: usize = 200;

/// How fast a classifier answers at a precision, how often it is right, and how far its scores are from those at float32.
pub(crate) fn measure(
    model: &Path,
    device: &Device,
    precision: Precision,
    file: &Path,
    limit: Option<u64>,
    passes: usize,
) -> Result<Value> {
    let dataset = Dataset::read(file, &file.display().to_string(), None, &Default::default(), limit)?;
    let begin = Instant::now();
    let classifier = Classifier::load_at(model, device, precision)?;
    let load = begin.elapsed().as_secs_f64();
    let tokenizer = Tokenizer::from_folder(model, classifier.max_length())?;
    let class = |label: &String| classifier.labels().iter().position(|known| known == label);
    let classes: Vec<Option<usize>> =
        dataset.examples.iter().map(|example| example.labels.first().and_then(class)).collect();
    let encode = || tokenizer.encode_examples(&dataset.examples, &Cancel::default());
    let rows = encode()?;
    let (mut seconds, mut scores) = (Vec::new(), Vec::new());
    for pass in 0..=passes {
        let begin = Instant::now();
        let rows = encode()?;
        let encoded = begin.elapsed().as_secs_f64();
        scores = all_scores(&classifier, &rows)?;
        if pass > 0 {
            seconds.push([begin.elapsed().as_secs_f64(), encoded]);
        }
    }
    let held = classifier.bytes();
    let mut alone = Vec::new();
    for tokens in rows.iter().take(ALONE) {
        let begin = Instant::now();
        classifier.scores(&Batch::pack([tokens]))?;
        alone.push(begin.elapsed().as_secs_f64() * 1e3);
    }
    let reference = all_scores(&Classifier::load_at(model, device, Precision::Fp32)?, &rows)?;
    let changes: Vec<f32> =
        scores.iter().flatten().zip(reference.iter().flatten()).map(|(x, y)| (x - y).abs()).collect();
    let flips = scores.iter().zip(&reference).filter(|(x, y)| best(x) != best(y)).count();
    let of = |part: usize| median(&seconds.iter().map(|seconds| seconds[part]).collect::<Vec<_>>());
    let (whole, encoding) = (of(0), of(1));
    let count = rows.len() as f64;
    Ok(json!({
        "what": "classify", "texts": rows.len(), "tokens": rows.iter().map(|row| row.ids.len()).sum::<usize>(),
        "texts_per_second": count / whole, "texts_per_second_without_tokenizing": count / (whole - encoding),
        "one_text_ms_p50": median(&alone), "load_seconds": load, "bytes": held,
        "accuracy": accuracy(&scores, &classes), "accuracy_fp32": accuracy(&reference, &classes),
        "largest_change": changes.iter().copied().fold(0.0, f32::max),
        "mean_change": changes.iter().map(|&x| f64::from(x)).sum::<f64>() / changes.len().max(1) as f64,
        "other_labels": flips,
    }))
}

/// The scores of each row, in order.
fn all_scores(classifier: &Classifier, rows: &[Tokens]) -> Result<Vec<Vec<f32>>> {
    let lengths: Vec<usize> = rows.iter().map(|tokens| tokens.ids.len()).collect();
    let mut scores = vec![Vec::new(); rows.len()];
    for group in by_tokens(&lengths, BATCH) {
        let of_group = classifier.scores(&Batch::pack(group.iter().filter_map(|&row| rows.get(row))))?;
        for (row, of_row) in group.into_iter().zip(of_group) {
            *scores.get_mut(row).ok_or_else(|| Error::internal("a batch has a row that is not there"))? =
                of_row;
        }
    }
    Ok(scores)
}

fn best(scores: &[f32]) -> Option<usize> {
    (0..scores.len()).max_by(|&a, &b| scores[a].total_cmp(&scores[b]))
}

/// The share of rows whose label has the highest score; none where the classifier knows no label of the file.
fn accuracy(scores: &[Vec<f32>], classes: &[Option<usize>]) -> Option<f64> {
    let right =
        scores.iter().zip(classes).filter(|(scores, class)| class.is_some() && best(scores) == **class);
    let known = classes.iter().any(Option::is_some);
    known.then(|| right.count() as f64 / classes.len() as f64)
}
