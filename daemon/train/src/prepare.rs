//! A plan's rows as tokens, and the report that is made of them before training starts.

use std::sync::Arc;

use candle_core::Device;

use super::event::{self, Overlap, Split, SplitReport};
use super::plan::{Part, Plan};
use hone_base::cancel::Cancel;
use hone_base::error::Result;
use hone_data::Quantiles;
use hone_data::quality::{Quality, overlap};
use hone_data::sample::Chosen;
use hone_data::tokenize::Tokens;
use hone_engine::batch::Batch;
use hone_engine::model::checkpoint::Checkpoint;
use hone_engine::targets::Targets;

/// Every split as tokens.
pub(super) struct Prepared {
    /// Shared with the thread that makes batches of it.
    pub(super) train: Arc<Rows>,
    pub(super) validation: Rows,
    pub(super) test: Option<Rows>,
    pub(super) report: event::Prepared,
    /// The validation rows that go with the checkpoint.
    pub(super) sample: Chosen,
}

/// The rows of a split: tokens and labels, in the file's order.
pub(super) struct Rows {
    pub(super) tokens: Vec<Tokens>,
    pub(super) targets: Targets,
}

impl Rows {
    fn new(part: &Part, plan: &Plan, cancel: &Cancel) -> Result<Self> {
        let tokens = plan.tokenizer.encode_examples(&part.examples, cancel);
        let tokens = tokens.map_err(|error| error.within(&part.name))?;
        Ok(Self { tokens, targets: part.targets.clone() })
    }

    /// Some rows, packed: all of them so many times, one time after the other.
    pub(super) fn batch(&self, rows: &[usize], times: usize) -> Batch {
        let rows = std::iter::repeat_n(rows, times).flatten();
        Batch::pack(rows.filter_map(|&row| self.tokens.get(row)))
    }
}

impl Prepared {
    /// The rows of a split.
    pub(super) fn rows(&self, split: Split) -> Option<&Rows> {
        match split {
            Split::Train => Some(&self.train),
            Split::Validation => Some(&self.validation),
            Split::Test => self.test.as_ref(),
        }
    }
}

/// Turns the plan's rows into tokens and reports what they are. The texts are given up: the plan's parts have none after
/// it.
pub(super) fn prepare(
    plan: &mut Plan,
    encoder: &Checkpoint,
    parameters: u64,
    warmup_steps: u64,
    device: &Device,
    cancel: &Cancel,
) -> Result<Prepared> {
    let train = Rows::new(&plan.train, plan, cancel)?;
    let validation = Rows::new(&plan.validation, plan, cancel)?;
    let test = plan.test.as_ref().map(|part| Rows::new(part, plan, cancel)).transpose()?;
    let all = [&train, &validation].into_iter().chain(&test);
    let mut splits = Vec::new();
    for (part, rows) in plan.parts().zip(all) {
        splits.push(split_report(part, rows, plan));
        cancel.check()?;
    }
    let report = event::Prepared {
        splits,
        labels: plan.labels.names().to_vec(),
        overlaps: overlaps(plan, cancel)?,
        total_steps: plan.total_steps(),
        steps_per_epoch: plan.steps_per_epoch(),
        warmup_steps,
        max_length: plan.tokenizer.max_length() as u32,
        parameters,
        device: describe(device),
        encoder: plan.spec.encoder.clone(),
        encoder_sha256: encoder.weights_sha256(),
    };
    let sample = Chosen::of(&plan.validation.examples, &plan.validation.targets);
    plan.parts_mut().for_each(|part| part.examples = Vec::new());
    Ok(Prepared { train: train.into(), validation, test, report, sample })
}

fn split_report(part: &Part, rows: &Rows, plan: &Plan) -> SplitReport {
    let full: Vec<u32> = rows.tokens.iter().map(|tokens| tokens.full_length as u32).collect();
    let kept: Vec<usize> = rows.tokens.iter().map(|tokens| tokens.ids.len()).collect();
    let quality = Quality::of(&part.examples);
    SplitReport {
        split: part.split,
        name: part.name.clone(),
        rows: part.examples.len() as u64,
        labels: plan.labels.counts(&part.targets),
        truncated: full.iter().zip(&kept).filter(|(full, kept)| **full as usize > **kept).count() as u64,
        tokens: Quantiles::of(full.into_iter().map(|x| x as usize)),
        total_tokens: kept.iter().map(|&length| length as u64).sum(),
        empty_texts: quality.empty_texts,
        duplicates: quality.duplicates,
        contradictions: quality.contradictions,
        unknown: rows.tokens.iter().filter(|tokens| plan.tokenizer.knows_nothing_of(tokens)).count() as u64,
        notes: part.notes.clone(),
    }
}

fn overlaps(plan: &Plan, cancel: &Cancel) -> Result<Vec<Overlap>> {
    let parts: Vec<&Part> = plan.parts().collect();
    let mut overlaps = Vec::new();
    for (index, first) in parts.iter().enumerate() {
        for second in parts.iter().skip(index + 1) {
            cancel.check()?;
            let (rows, contradictions) = overlap(&first.examples, &second.examples);
            if rows > 0 {
                overlaps.push(Overlap { first: first.split, second: second.split, rows, contradictions });
            }
        }
    }
    Ok(overlaps)
}

fn describe(device: &Device) -> String {
    match device.location() {
        candle_core::DeviceLocation::Cpu => format!("cpu ({} threads)", rayon::current_num_threads()),
        candle_core::DeviceLocation::Cuda { gpu_id } => format!("cuda:{gpu_id}"),
        candle_core::DeviceLocation::Metal { gpu_id } => format!("metal:{gpu_id}"),
    }
}
