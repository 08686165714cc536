//! Whether a job fits into the host's memory, asked before the memory is taken: when the job is asked for, by the length of
//! its texts, and when it runs, by its tokens.

use std::path::{Path, PathBuf};

use candle_core::Device;

use super::host::{HostMemory, Room};
use super::plan::Plan;
use super::spec::{Hyperparameters, Spec};
use hone_base::cancel::Cancel;
use hone_base::error::{Error, Kind, Result};
use hone_data::dataset::{Keep, Reading};
use hone_data::{Measure, in_words, memory};
use hone_engine::model::backend;
use hone_engine::model::checkpoint;
use hone_engine::model::declaration::Declaration;
use hone_engine::model::memory::Memory;

/// Bytes of a row for what is found out about it before training: digests of texts in tables.
const QUALITY: u64 = 128;

/// Checks what can be checked of a job without the device: that its files can be read within the limits and make a plan,
/// and that the job, as far as the lengths of its texts tell, fits into memory. The plan has the texts if `keep` says so, and
/// can then be run; otherwise it tells how the job would go. Blocking.
///
/// # Errors
/// Those of [`Plan::new`]; `Exhausted` where the job does not fit, with what to lower.
pub fn check(
    spec: Spec,
    encoder: &Path,
    path_of: &dyn Fn(&str) -> PathBuf,
    device: &Device,
    room: &Room,
    keep: Keep,
    cancel: &Cancel,
) -> Result<Plan> {
    let limits = if keep == Keep::Texts { room.limits_ahead() } else { room.limits() };
    let reading = Reading { keep, limits, cancel: cancel.clone(), ..Reading::default() };
    let (plan, measured) = Plan::read(spec, encoder, path_of, &reading)?;
    let config = checkpoint::check(encoder).map_err(Error::of_named)?;
    let train = lengths(&plan, &measured.train)?;
    let mut rows = rows(&measured.train, &train, keep);
    for other in &measured.others {
        rows += self::rows(other, &lengths(&plan, other)?, keep);
    }
    let declaration = Declaration::new(&config.architecture, plan.labels.names().len());
    admit(&room.host, &plan, &declaration, device, train.into_iter(), rows)?;
    Ok(Plan { host: room.host.clone(), ..plan })
}

/// Fails where the device does not compute the encoder, or training does not fit into the memory that the host has left. `lengths` are those of the training rows in
/// tokens; `rows` are the bytes that texts and tokens take, as far as they are not there yet. What is computed on a GPU
/// takes no memory of the host.
pub(super) fn admit(
    host: &HostMemory,
    plan: &Plan,
    declaration: &Declaration,
    device: &Device,
    mut lengths: impl Iterator<Item = usize>,
    rows: u64,
) -> Result<()> {
    let of = &plan.spec.hyperparameters;
    let (platform, compute) = (backend::on(device)?, of.precision.compute(device)?);
    platform.check(declaration, compute.precision())?;
    let training = match device.is_cpu() {
        true => platform.estimate(declaration, &of.workload(), compute, &mut lengths),
        false => Memory::default(),
    };
    // Of a GPU the host has the numbers once more: they are brought there first.
    let copies = if device.is_cpu() { 1 } else { 2 };
    fits(host.available(), of, &Needs { training, position: copies * position(declaration, of), rows })
}

/// Bytes of the host's memory that a job takes.
#[derive(Clone, Copy)]
struct Needs {
    training: Memory,
    /// The copy of the run's numbers that is written as its position.
    position: u64,
    /// Texts and tokens.
    rows: u64,
}

/// Bytes of a run's position: each parameter, its two moments, and its moving average where there is one.
fn position(declaration: &Declaration, of: &Hyperparameters) -> u64 {
    let numbers = if of.workload().average { 4 } else { 3 };
    declaration.count(|_| true) * numbers * size_of::<f32>() as u64
}

fn fits(available: u64, of: &Hyperparameters, needs: &Needs) -> Result<()> {
    let &Needs { training, position, rows } = needs;
    let fixed = training.total() - training.activations + position;
    let needed = (fixed + training.activations).saturating_add(rows);
    if needed <= available {
        return Ok(());
    }
    let batch = u64::from(of.batch_size.get());
    let left = available.saturating_sub(fixed + rows);
    let smaller = (u128::from(left) * u128::from(batch) / u128::from(training.activations.max(1))) as u64;
    let advice = if smaller >= 1 {
        let smaller = 1 << smaller.ilog2();
        let accumulation = u64::from(of.gradient_accumulation.get()) * batch.div_ceil(smaller);
        format!(
            "Lower batch_size: {smaller}, with gradient_accumulation {accumulation}, takes as many rows a step; or lower \
             max_length, or turn gradient_checkpointing on"
        )
    } else if rows > available / 2 {
        "Take fewer rows (train_limit), or lower max_length".to_owned()
    } else {
        "Take a smaller encoder, freeze layers (freeze_layers), or lower max_length".to_owned()
    };
    Err(Error::new(
        Kind::Exhausted,
        format!(
            "the job takes about {} of memory, and the daemon can take {} more (--memory-limit): {} for the largest batch \
             (batch_size {batch}: {} tokens), {} for the model with its gradients and moments, {} for a copy of them that is \
             saved, {} for the rows. {advice}",
            in_words(needed),
            in_words(available),
            in_words(training.activations),
            training.batch_tokens,
            in_words(fixed - position),
            in_words(position),
            in_words(rows),
        ),
    ))
}

/// The length of each row in tokens, as a sample of the texts lets expect it.
fn lengths(plan: &Plan, measure: &Measure) -> Result<Vec<usize>> {
    let tokenizer = &plan.tokenizer;
    let special = tokenizer.special_tokens_count();
    let (mut tokens, mut bytes) = (0, 0);
    for text in measure.sample() {
        tokens += tokenizer.encode(text, None)?.full_length.saturating_sub(special);
        bytes += text.len();
    }
    let per_byte = tokens as f64 / bytes.max(1) as f64;
    let of = |&bytes: &u32| {
        let expected = (f64::from(bytes) * per_byte).ceil() as usize;
        (special + expected).min(tokenizer.max_length())
    };
    Ok(measure.row_bytes().iter().map(of).collect())
}

/// Bytes that the rows of a file take as texts and as tokens, beside what was kept of them.
fn rows(measure: &Measure, lengths: &[usize], kept: Keep) -> u64 {
    let text = |&bytes: &u32| memory::ROW + memory::allocation(u64::from(bytes));
    let texts: u64 = if kept == Keep::Texts { 0 } else { measure.row_bytes().iter().map(text).sum() };
    let tokens: u64 = lengths.iter().map(|&length| memory::of_tokens(length as u64)).sum();
    lengths.len() as u64 * QUALITY + texts + tokens
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;

    const MIB: u64 = 1 << 20;

    /// 300 MiB for the model and 200 for its position.
    fn needs(activations: u64, rows: u64) -> Needs {
        let training = Memory {
            parameters: 80 * MIB,
            gradients: 60 * MIB,
            moments: 160 * MIB,
            activations,
            batch_tokens: 2_097_152,
        };
        Needs { training, position: 200 * MIB, rows }
    }

    fn batches_of(rows: u32) -> Hyperparameters {
        Hyperparameters { batch_size: NonZeroU32::new(rows).unwrap(), ..Hyperparameters::default() }
    }

    #[test]
    fn a_job_that_fits_to_the_byte_is_admitted() {
        let needed = 1500 * MIB + 7;
        assert_eq!(fits(needed, &batches_of(4096), &needs(1000 * MIB, 7)), Ok(()));
        let error = fits(needed - 1, &batches_of(4096), &needs(1000 * MIB, 7)).unwrap_err();
        assert_eq!(error.kind(), Kind::Exhausted);
    }

    #[test]
    fn a_batch_that_does_not_fit_is_told_with_one_that_does() {
        let error = fits(4096 * MIB, &batches_of(4096), &needs(16_800 * MIB, 200 * MIB)).unwrap_err();
        assert_eq!(
            error.message(),
            "the job takes about 17.1 GiB of memory, and the daemon can take 4 GiB more (--memory-limit): 16.4 GiB for the \
             largest batch (batch_size 4096: 2097152 tokens), 300 MiB for the model with its gradients and moments, 200 MiB \
             for a copy of them that is saved, 200 MiB for the rows. Lower batch_size: 512, with gradient_accumulation 8, \
             takes as many rows a step; or lower max_length, or turn gradient_checkpointing on"
        );
        assert_eq!(fits(4096 * MIB, &batches_of(512), &needs(16_800 * MIB / 8, 200 * MIB)), Ok(()));
    }

    #[test]
    fn what_no_batch_size_mends_is_told_otherwise() {
        let error = fits(400 * MIB, &batches_of(8), &needs(MIB, 390 * MIB)).unwrap_err();
        assert!(error.message().ends_with("Take fewer rows (train_limit), or lower max_length"), "{error}");
        let error = fits(100 * MIB, &batches_of(8), &needs(MIB, MIB)).unwrap_err();
        assert!(error.message().contains("Take a smaller encoder"), "{error}");
    }
}
