//! A specification whose files were read and checked.

use std::num::{NonZeroU32, NonZeroU64};
use std::path::{Path, PathBuf};

use super::diagnosis;
use super::event::Split;
use super::host::{HostMemory, Room};
use super::schedule::Schedule;
use super::spec::{Source, Spec};
use super::{methods, objective};
use hone_base::cancel::Cancel;
use hone_base::error::{Error, Result};
use hone_data::dataset::{Dataset, Labels, Reading, split};
use hone_data::tokenize::Tokenizer;
use hone_data::{Columns, Example, Measure};
use hone_engine::model::checkpoint;
use hone_engine::model::config::Config;
use hone_engine::model::objective::Objective;
use hone_engine::targets::Targets;

/// The shortest `max_length`: two special tokens and one of the text.
const SHORTEST: u32 = 3;

/// Everything that a run needs: nothing that can be known without the device is wrong.
#[derive(Debug)]
pub struct Plan {
    /// What to do.
    pub spec: Spec,
    /// The encoder's folder.
    pub encoder: PathBuf,
    /// Of the training rows.
    pub labels: Labels,
    /// The class that precision, recall and F1 are of, when there are two.
    pub positive: usize,
    /// What training makes small.
    pub objective: Objective,
    /// Turns texts into tokens; its maximum length is that of the job.
    pub tokenizer: Tokenizer,
    /// Learned from.
    pub train: Part,
    /// Chooses the epoch.
    pub validation: Part,
    /// Scored once, at the end.
    pub test: Option<Part>,
    /// What the run may take of the host's memory.
    pub host: HostMemory,
}

/// How long the texts of a plan's files are, which need not be kept.
#[derive(Debug)]
pub(super) struct Measured {
    /// Of the training file, rows that are held out for validation included.
    pub(super) train: Measure,
    /// Of the other files.
    pub(super) others: Vec<Measure>,
}

/// The rows of one split.
#[derive(Debug)]
pub struct Part {
    /// Which split.
    pub split: Split,
    /// The file's name.
    pub name: String,
    /// The rows in use; none once they are tokens.
    pub examples: Vec<Example>,
    /// What each row is labelled with.
    pub targets: Targets,
    /// What is to be told of how the file was read.
    pub notes: Vec<String>,
}

impl Plan {
    /// Reads and checks everything that a job needs: the encoder's folder, and every data set of `spec` at the path
    /// that `path_of` gives for its digest.
    ///
    /// # Errors
    /// Fails for whatever is wrong with them, and with [`Kind::Cancelled`](hone_base::error::Kind::Cancelled) when `cancel` is
    /// asked.
    pub fn new(
        spec: Spec,
        encoder: &Path,
        path_of: &dyn Fn(&str) -> PathBuf,
        cancel: &Cancel,
    ) -> Result<Self> {
        let reading = Reading { cancel: cancel.clone(), ..Reading::default() };
        Self::read(spec, encoder, path_of, &reading).map(|(plan, _)| plan)
    }

    /// The same, read within the room that there is, which the run asks too before it takes memory.
    ///
    /// # Errors
    /// Those of [`Plan::new`]; `Exhausted` where the files have no room.
    pub fn within(
        room: &Room,
        spec: Spec,
        encoder: &Path,
        path_of: &dyn Fn(&str) -> PathBuf,
        cancel: &Cancel,
    ) -> Result<Self> {
        let reading =
            Reading { limits: room.limits_with_texts(), cancel: cancel.clone(), ..Reading::default() };
        let (plan, _) = Self::read(spec, encoder, path_of, &reading)?;
        Ok(Self { host: room.host.clone(), ..plan })
    }

    /// The same with what `reading` keeps of the rows; its limit is replaced by those of `spec`.
    pub(super) fn read(
        spec: Spec,
        encoder: &Path,
        path_of: &dyn Fn(&str) -> PathBuf,
        reading: &Reading,
    ) -> Result<(Self, Measured)> {
        let (config, tokenizer) = read_encoder(encoder, spec.hyperparameters.max_length)?;
        let tokenizer = tokenizer.with_truncation(spec.hyperparameters.truncation);
        let read = |source: &Source, columns: &Columns, limit: Option<NonZeroU64>| {
            let reading = Reading { limit: limit.map(NonZeroU64::get), ..reading.clone() };
            reading.cancel.check()?;
            Dataset::read_as(&path_of(&source.dataset), &source.name, None, columns, &reading)
        };
        let train = read(&spec.train, &spec.columns, spec.train_limit)?;
        let columns = train.used;
        let mut measured = Measured { train: train.measure, others: vec![] };
        let labels = Labels::of(&spec.train.name, &train.examples, &columns.label_names)?;
        let layers = config.architecture.own_layers();
        methods::check(&spec.hyperparameters.methods, layers)?;
        let positive = positive(spec.hyperparameters.positive_label.as_deref(), &labels)?;
        let train_notes = train.notes;
        let mut validation_notes = vec![];
        let (train, validation, validation_name) = match &spec.validation {
            Some(source) => {
                let validation = read(source, &columns, spec.validation_limit)?;
                validation_notes = validation.notes;
                measured.others.push(validation.measure);
                (train.examples, validation.examples, source.name.clone())
            }
            None => {
                let (train, mut validation) =
                    split(train.examples, spec.validation_split, spec.hyperparameters.seed)?;
                validation.truncate(spec.validation_limit.map_or(usize::MAX, |limit| limit.get() as usize));
                (train, validation, spec.train.name.clone())
            }
        };
        let part = |split: Split, name: String, examples: Vec<Example>, notes: Vec<String>| -> Result<Part> {
            let targets = labels.targets(&name, &examples, columns.label_separator.is_some())?;
            Ok(Part { split, name, examples, targets, notes })
        };
        let test = match &spec.test {
            Some(source) => {
                let test = read(source, &columns, spec.test_limit)?;
                measured.others.push(test.measure);
                Some(part(Split::Test, source.name.clone(), test.examples, test.notes)?)
            }
            None => None,
        };
        let train = part(Split::Train, spec.train.name.clone(), train, train_notes)?;
        let plan = Self {
            objective: objective::of(&spec.hyperparameters.methods, &labels, &train.targets)?,
            train,
            validation: part(Split::Validation, validation_name, validation, validation_notes)?,
            test,
            encoder: encoder.to_owned(),
            positive,
            tokenizer,
            labels,
            spec,
            host: HostMemory::default(),
        };
        match diagnosis::no_rate(&plan.schedule()) {
            Some(why) => Err(Error::invalid(why)),
            None => Ok((plan, measured)),
        }
    }

    /// The rate of each step.
    pub fn schedule(&self) -> Schedule {
        Schedule::new(&self.spec.hyperparameters, self.total_steps(), self.steps_per_epoch())
    }

    /// The same plan with these training rows alone, and nothing to evaluate.
    pub(super) fn excerpt(&self, rows: &[usize]) -> Self {
        let examples = rows.iter().filter_map(|&row| self.train.examples.get(row)).cloned().collect();
        let targets = self.train.targets.select(rows);
        let part = |split: Split, examples: Vec<Example>, targets: Targets| Part {
            split,
            name: self.train.name.clone(),
            examples,
            targets,
            notes: vec![],
        };
        Self {
            spec: self.spec.clone(),
            encoder: self.encoder.clone(),
            labels: self.labels.clone(),
            positive: self.positive,
            tokenizer: self.tokenizer.clone(),
            objective: self.objective.clone(),
            train: part(Split::Train, examples, targets),
            validation: part(Split::Validation, Vec::new(), self.train.targets.select(&[])),
            test: None,
            host: self.host.clone(),
        }
    }

    /// Every split that the job has.
    pub fn parts(&self) -> impl Iterator<Item = &Part> {
        [&self.train, &self.validation].into_iter().chain(&self.test)
    }

    /// Likewise.
    pub(super) fn parts_mut(&mut self) -> impl Iterator<Item = &mut Part> {
        [&mut self.train, &mut self.validation].into_iter().chain(&mut self.test)
    }

    /// Micro-batches of an epoch.
    pub fn batches_per_epoch(&self) -> u64 {
        (self.train.targets.len() as u64).div_ceil(u64::from(self.spec.hyperparameters.batch_size.get()))
    }

    /// Optimizer steps of an epoch; the last window of an epoch may be short.
    pub fn steps_per_epoch(&self) -> u64 {
        self.batches_per_epoch().div_ceil(u64::from(self.spec.hyperparameters.gradient_accumulation.get()))
    }

    /// Optimizer steps of the whole job.
    pub fn total_steps(&self) -> u64 {
        self.steps_per_epoch() * u64::from(self.spec.hyperparameters.epochs.get())
    }
}

/// The configuration and the tokenizer of an encoder's folder, which has all that training needs. `max_length` is that of
/// the job.
pub fn read_encoder(folder: &Path, asked: Option<NonZeroU32>) -> Result<(Config, Tokenizer)> {
    let config = checkpoint::check(folder).map_err(Error::of_named)?;
    let max_length = max_length(asked, config.architecture.max_length())?;
    let tokenizer = Tokenizer::from_folder(folder, max_length).map_err(Error::of_named)?;
    let (tokens, rows) = (tokenizer.vocab_size(), config.architecture.vocab_size);
    if tokens > rows {
        let folder = folder.display();
        let some = tokenizer.beyond(rows, 3);
        let some = if some.is_empty() { String::new() } else { format!(" (such as {})", some.join(", ")) };
        return Err(Error::precondition(format!(
            "the tokenizer in {folder} has {tokens} tokens, but the encoder has embeddings for {rows} (vocab_size){some}. \
             If tokens were added to it, give them rows: python3 -c \"from transformers import AutoModel as M, \
             AutoTokenizer as T; m = M.from_pretrained('{folder}'); \
             m.resize_token_embeddings(len(T.from_pretrained('{folder}'))); m.save_pretrained('{folder}')\"; else they do \
             not belong together"
        )));
    }
    Ok((config, tokenizer))
}

fn max_length(asked: Option<NonZeroU32>, positions: usize) -> Result<usize> {
    let Some(length) = asked.map(NonZeroU32::get) else { return Ok(positions) };
    if length < SHORTEST {
        return Err(Error::invalid(format!(
            "`max_length` is {length}, but a text needs at least {SHORTEST} tokens, the special ones included"
        )));
    }
    if length as usize > positions {
        return Err(Error::invalid(format!(
            "`max_length` is {length}, but the encoder has only {positions} positions; use at most {positions}"
        )));
    }
    Ok(length as usize)
}

fn positive(asked: Option<&str>, labels: &Labels) -> Result<usize> {
    let Some(asked) = asked else { return Ok(1) };
    labels.names().iter().position(|label| label == asked).ok_or_else(|| {
        Error::invalid(format!(
            "`positive_label` is \"{asked}\", but the labels are {}",
            labels.names().iter().take(10).map(|label| format!("\"{label}\"")).collect::<Vec<_>>().join(", ")
        ))
    })
}
