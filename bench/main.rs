//! Measures training, evaluation and classification on this machine, one JSON object a line:
//! `hone-bench step | epoch | evaluate | classify`, on a GPU `kernels`, `lanes` (calls beside jobs), `load` (calls to a
//! server) and `promotions` (an alias that moves under load).
//!
//! `compare.py` runs it in turn with the same on PyTorch and prints the ratio, `compare_serving.py` `load` with other servers.

mod daemon;
mod jobs;
#[cfg(feature = "cuda")]
mod kernels;
mod lanes;
mod latency;
mod load;
mod process;
mod promotions;
mod texts;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Instant;

use candle_core::Device;
use clap::{Args, Parser, Subcommand, ValueEnum};
use hone_base::cancel::Cancel;
use hone_base::error::{Error, Result};
use hone_daemon::config::DeviceChoice;
use hone_data::dataset::Dataset;
use hone_data::tokenize::{Tokenizer, Tokens};
use hone_engine::batch::{Batch, by_tokens};
use hone_engine::kernels::{Compute, Isa};
use hone_engine::model::architecture::Architecture;
use hone_engine::model::backend::{self, Backend, Start};
use hone_engine::model::checkpoint::Checkpoint;
use hone_engine::model::classifier::{Setup, Trainable};
use hone_engine::model::declaration::Declaration;
use hone_engine::model::noise::{Mode, Noise};
use hone_engine::model::parameters::Parameters;
use hone_train::event::TrainEvent;
use hone_train::spec::{self, Hyperparameters, Source, Spec};
use hone_train::{Control, Outcome, Plan, run};
use serde_json::{Value, json};

#[derive(Parser)]
#[command(about)]
struct Cli {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Optimizer steps on sequences of one length.
    Step {
        #[command(flatten)]
        common: Common,
        /// Sequences in a batch.
        #[arg(long, default_value_t = 16)]
        batch: u32,
        /// Tokens of a sequence.
        #[arg(long, default_value_t = 128)]
        length: u32,
        /// Steps that are measured, after two that are not.
        #[arg(long, default_value_t = 7)]
        steps: usize,
    },
    /// One epoch on the first rows of a labelled file, as a job does it.
    Epoch {
        #[command(flatten)]
        common: Common,
        #[arg(long)]
        train: PathBuf,
        #[arg(long)]
        limit: Option<u64>,
        #[arg(long, default_value_t = 256)]
        max_length: u32,
        #[arg(long, default_value_t = 16)]
        batch: u32,
        #[arg(long, default_value_t = 1)]
        epochs: u32,
        /// Scored at the end.
        #[arg(long)]
        test: Option<PathBuf>,
        #[arg(long)]
        validation: Option<PathBuf>,
        #[arg(long, default_value_t = 2e-5)]
        lr: f64,
        #[arg(long, default_value_t = 42)]
        seed: u64,
        /// Save the position after so many steps; default: as a job does.
        #[arg(long)]
        checkpoint_every: Option<std::num::NonZeroU64>,
    },
    /// A pass without gradients over a labelled file.
    Evaluate {
        #[command(flatten)]
        common: Common,
        #[arg(long)]
        file: PathBuf,
        #[arg(long)]
        limit: Option<u64>,
        #[arg(long, default_value_t = 256)]
        max_length: u32,
        /// Passes that are measured, after one that is not.
        #[arg(long, default_value_t = 5)]
        passes: usize,
    },
    /// Passes without gradients over batches of sequences of one length.
    Classify {
        #[command(flatten)]
        common: Common,
        /// Sequences in a batch.
        #[arg(long, default_value_t = 32)]
        batch: u32,
        /// Tokens of a sequence.
        #[arg(long, default_value_t = 128)]
        length: u32,
        /// Passes that are measured, after two that are not.
        #[arg(long, default_value_t = 20)]
        passes: usize,
    },
    /// Calls to a daemon while no job runs, and while jobs start, run and end.
    Lanes(#[command(flatten)] lanes::Lanes),
    /// Calls to a running daemon, or to one that is started for them.
    Load(#[command(flatten)] load::Load),
    /// An alias that goes back and forth between two versions while it is called.
    Promotions(#[command(flatten)] promotions::Promotions),
    /// The daemon that other commands start.
    #[command(hide = true)]
    Daemon(#[command(flatten)] hone_daemon::config::Config),
    /// Each kernel and product of a training step of the model, on a GPU.
    #[cfg(feature = "cuda")]
    Kernels {
        #[command(flatten)]
        common: Common,
        #[arg(long, default_value_t = 16)]
        batch: usize,
        #[arg(long, default_value_t = 512)]
        length: usize,
        /// Gigabytes a second that the card moves.
        #[arg(long)]
        bandwidth: f64,
        /// Teraflop a second that it multiplies at, at this precision.
        #[arg(long)]
        rate: f64,
    },
}

#[derive(Args)]
struct Common {
    /// A folder in Hugging Face layout.
    #[arg(long)]
    model: PathBuf,
    #[arg(long, value_enum, default_value_t = Products::Auto)]
    precision: Products,
    /// Where to compute: auto (a GPU when there is one), cpu, cuda or cuda:N. `HONE_CUDA` chooses what computes there.
    #[arg(long, default_value = "cpu")]
    device: DeviceChoice,
    /// Threads that compute; default: one a core.
    #[arg(long)]
    threads: Option<usize>,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Products {
    Auto,
    Fp32,
    Bf16,
}

impl What {
    /// Of what is measured on one pool; a daemon has its own threads.
    fn common(&self) -> Option<&Common> {
        match self {
            Self::Step { common, .. }
            | Self::Epoch { common, .. }
            | Self::Evaluate { common, .. }
            | Self::Classify { common, .. } => Some(common),
            Self::Lanes(_) | Self::Load(_) | Self::Promotions(_) | Self::Daemon(_) => None,
            #[cfg(feature = "cuda")]
            Self::Kernels { common, .. } => Some(common),
        }
    }
}

impl Common {
    fn open(&self) -> Result<(Device, Compute)> {
        let device = self.device.open()?;
        let compute = self.precision.asked().compute(&device)?;
        Ok((device, compute))
    }
}

impl Products {
    fn asked(self) -> spec::Precision {
        match self {
            Self::Auto => spec::Precision::Auto,
            Self::Fp32 => spec::Precision::Fp32,
            Self::Bf16 => spec::Precision::Bf16,
        }
    }
}

fn main() -> Result<()> {
    let cli = Cli::parse();
    let measured = match cli.what.common() {
        Some(common) => on_a_pool(&cli.what, common)?,
        None => measure(&cli.what)?,
    };
    #[allow(clippy::print_stdout)]
    if !measured.is_null() {
        println!("{measured}");
    }
    Ok(())
}

fn on_a_pool(what: &What, common: &Common) -> Result<Value> {
    let threads =
        common.threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, Into::into));
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .build()
        .map_err(|error| Error::internal(error.to_string()))?;
    let mut measured = pool.install(|| measure(what))?;
    if let Value::Object(fields) = &mut measured {
        let (device, compute) = common.open()?;
        let precision = format!("{:?}", compute.precision()).to_lowercase();
        fields.insert("precision".into(), precision.into());
        fields.insert("device".into(), format!("{:?}", device.location()).to_lowercase().into());
        fields.insert("threads".into(), threads.into());
        fields.insert("isa".into(), Isa::chosen()?.name().into());
        fields.insert("peak_rss_bytes".into(), peak_memory().into());
        fields.insert("version".into(), env!("CARGO_PKG_VERSION").into());
    }
    Ok(measured)
}

fn measure(what: &What) -> Result<Value> {
    match what {
        What::Step { common, batch, length, steps } => step(common, *batch, *length, *steps),
        What::Epoch {
            common,
            train,
            limit,
            max_length,
            batch,
            epochs,
            test,
            validation,
            lr,
            seed,
            checkpoint_every,
        } => {
            let hyperparameters = Hyperparameters {
                learning_rate: *lr,
                seed: *seed,
                epochs: (*epochs).try_into().map_err(|_| Error::invalid("--epochs is 0"))?,
                batch_size: (*batch).try_into().map_err(|_| Error::invalid("--batch is 0"))?,
                max_length: std::num::NonZeroU32::new(*max_length),
                precision: common.precision.asked(),
                // The peer keeps its last epoch.
                keep: spec::Keep::Last,
                checkpoint_every: checkpoint_every.map(spec::CheckpointEvery::Steps).unwrap_or_default(),
                ..Hyperparameters::default()
            };
            epoch(common, hyperparameters, train, *limit, validation.as_deref(), test.as_deref())
        }
        What::Evaluate { common, file, limit, max_length, passes } => {
            evaluate(common, file, *limit, *max_length, *passes)
        }
        What::Classify { common, batch, length, passes } => classify(common, *batch, *length, *passes),
        What::Lanes(of) => lanes::measure(of),
        What::Load(of) => load::measure(of),
        What::Promotions(of) => promotions::measure(of),
        What::Daemon(config) => daemon::serve(config),
        #[cfg(feature = "cuda")]
        What::Kernels { common, batch, length, bandwidth, rate } => {
            let (device, compute) = common.open()?;
            let candle_core::DeviceLocation::Cuda { gpu_id } = device.location() else {
                return Err(Error::invalid("--device must be a GPU"));
            };
            let stream = hone_engine::kernels::cuda::card::open(gpu_id, compute.precision())?;
            let of = Checkpoint::open(&common.model)?.config().architecture.clone();
            let shape = kernels::Shape {
                batch: *batch,
                length: *length,
                hidden: of.hidden_size,
                inner: of.intermediate_size,
                heads: of.num_attention_heads,
                words: of.vocab_size,
                parameters: model(common)?.parameters()?.values().len(),
            };
            let limits = kernels::Limits { bandwidth: bandwidth * 1e9, rate: rate * 1e12 };
            let rows = kernels::measure(&stream, &shape, limits)?;
            Ok(json!({ "what": "kernels", "batch": batch, "length": length, "kernels": rows }))
        }
    }
}

fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// A classifier with two labels.
fn model(common: &Common) -> Result<Trainable> {
    let checkpoint = Checkpoint::open(&common.model)?;
    let labels = ["a".to_owned(), "b".to_owned()];
    let (device, compute) = common.open()?;
    Trainable::start(&checkpoint, &labels, &Setup::new(42, compute), &device)
}

/// Sequences of one length, other ones for each number.
fn sequences(architecture: &Architecture, batch: u32, length: u32, number: u32) -> Batch {
    let word = |place: u32| {
        let mixed = (place + 1).wrapping_mul(2_654_435_761).wrapping_add(number * 97);
        1000 + (mixed >> 8) % (architecture.vocab_size as u32 - 1000)
    };
    let tokens: Vec<Tokens> = (0..batch)
        .map(|row| Tokens {
            ids: (0..length).map(|place| word(row * length + place)).collect(),
            types: vec![0; length as usize],
            full_length: length as usize,
        })
        .collect();
    Batch::pack(&tokens)
}

fn step(common: &Common, batch: u32, length: u32, steps: usize) -> Result<Value> {
    let mut model = model(common)?;
    let architecture = model.config.architecture.clone();
    let mut times: [Vec<f64>; 4] = Default::default();
    for step in 0..steps + 2 {
        let packed = sequences(&architecture, batch, length, step as u32);
        let noise = Noise {
            seed: 42,
            position: step as u64,
            hidden: architecture.hidden_dropout_prob,
            attention: architecture.attention_probs_dropout_prob,
            head: architecture.head_dropout(),
        };
        let begin = Instant::now();
        let logits = model.forward(&packed, Mode::Train(noise))?;
        let forward = begin.elapsed();
        // Cross-entropy of the first label.
        let gradient: Vec<f32> = logits
            .chunks(2)
            .flat_map(|row| {
                let other = 1.0 / (1.0 + (row[0] - row[1]).exp());
                [-other / batch as f32, other / batch as f32]
            })
            .collect();
        model.backward(&gradient)?;
        let backward = begin.elapsed();
        model.step(2e-5)?;
        let all = begin.elapsed();
        if step >= 2 {
            let parts = [all, forward, backward - forward, all - backward];
            times.iter_mut().zip(parts).for_each(|(times, part)| times.push(part.as_secs_f64()));
        }
    }
    let gflop = flop(&architecture, f64::from(batch), f64::from(length)) / 1e9;
    let (memory, on_gpu) = (model.memory(), common.open()?.0.is_cuda());
    Ok(json!({
        "what": "step", "batch": batch, "length": length,
        "seconds_median": median(&times[0]), "seconds": times[0],
        "forward": median(&times[1]), "backward": median(&times[2]), "optimizer": median(&times[3]),
        "gflop": gflop, "gflop_per_second": gflop / median(&times[0]), "model_bytes": memory.total() - memory.moments,
        "peak_gpu_bytes": on_gpu.then(|| memory.total()),
    }))
}

/// Operations of a step's matrix products, counted as if the last layer computed every token, as the peer does.
fn flop(of: &Architecture, batch: f64, length: f64) -> f64 {
    let (hidden, inner, layers) =
        (of.hidden_size as f64, of.intermediate_size as f64, of.num_hidden_layers as f64);
    let linear = 2.0 * batch * length * (4.0 * hidden * hidden + 2.0 * hidden * inner);
    let attention = 4.0 * batch * length * length * hidden;
    3.0 * layers * (linear + attention)
}

fn epoch(
    common: &Common,
    hyperparameters: Hyperparameters,
    train: &Path,
    limit: Option<u64>,
    validation: Option<&Path>,
    test: Option<&Path>,
) -> Result<Value> {
    let source = |path: &Path| {
        let name = path.display().to_string();
        Source { dataset: name.clone(), name }
    };
    let spec = Spec {
        name: "bench".into(),
        encoder: common.model.display().to_string(),
        train: source(train),
        // Something must be validated; two rows do not count.
        validation: Some(source(validation.unwrap_or(train))),
        test: test.map(source),
        validation_split: 0.2,
        columns: Default::default(),
        train_limit: limit.and_then(std::num::NonZeroU64::new),
        validation_limit: if validation.is_some() { None } else { std::num::NonZeroU64::new(2) },
        test_limit: None,
        hyperparameters,
    };
    let plan = Plan::new(spec, &common.model, &|path| PathBuf::from(path), &Cancel::default())?;
    let workspace = tempfile::tempdir().map_err(|error| Error::internal(error.to_string()))?;
    let (mut epochs, mut memory) = (Vec::new(), Vec::new());
    let (device, _) = common.open()?;
    let (rows, steps) = (plan.train.examples.len() as f64, plan.total_steps());
    let outcome = run(plan, &device, workspace.path(), Control::default(), &mut |event| {
        if let TrainEvent::Epoch(epoch) = event {
            epochs.push(epoch);
            memory.push(peak_memory());
        }
        ControlFlow::Continue(())
    })?;
    let Outcome::Finished(finished) = outcome else { return Err(Error::internal("the run was stopped")) };
    let seconds: Vec<f64> = epochs.iter().map(|epoch| epoch.train_seconds).collect();
    let tokens: Vec<f64> = epochs.iter().map(|epoch| epoch.tokens_per_second * epoch.train_seconds).collect();
    Ok(json!({
        "what": "epoch", "rows": rows, "tokens": tokens.first().map(|tokens| tokens.round()),
        "samples_per_second": rows / median(&seconds), "seconds": median(&seconds),
        "seconds_of_each_epoch": seconds, "steps": steps,
        "peak_rss_bytes_after_each_epoch": memory,
        "validation_accuracy": epochs.iter().map(|epoch| epoch.validation.accuracy).collect::<Vec<_>>(),
        "test_accuracy": finished.test.map(|test| test.metrics.accuracy),
    }))
}

fn evaluate(
    common: &Common,
    file: &Path,
    limit: Option<u64>,
    max_length: u32,
    passes: usize,
) -> Result<Value> {
    let dataset = Dataset::read(file, &file.display().to_string(), None, &Default::default(), limit)?;
    let tokenizer = Tokenizer::from_folder(&common.model, max_length as usize)?;
    let rows = tokenizer.encode_examples(&dataset.examples, &Cancel::default())?;
    let lengths: Vec<usize> = rows.iter().map(|tokens| tokens.ids.len()).collect();
    let (mut backend, _) = backend(common)?;
    let mut seconds = Vec::new();
    for pass in 0..=passes {
        let begin = Instant::now();
        for group in by_tokens(&lengths, 4096) {
            backend.evaluate(&Batch::pack(group.iter().map(|&row| &rows[row])))?;
        }
        if pass > 0 {
            seconds.push(begin.elapsed().as_secs_f64());
        }
    }
    Ok(json!({
        "what": "evaluate", "rows": rows.len(), "tokens": lengths.iter().sum::<usize>(),
        "samples_per_second": rows.len() as f64 / median(&seconds), "seconds": median(&seconds),
    }))
}

/// What computes in the serving daemon, with weights that are prepared once and without what training needs.
fn backend(common: &Common) -> Result<(Box<dyn Backend>, Architecture)> {
    let (device, compute) = common.open()?;
    let checkpoint = Checkpoint::open(&common.model)?;
    let architecture = checkpoint.config().architecture.clone();
    let declaration = Declaration::new(&architecture, 2);
    let parameters = Parameters::build(&declaration, &mut |_, name| checkpoint.tensor(name), 42)?;
    let start = Start { declaration: declaration.into(), parameters, compute, learning: None };
    Ok((backend::on(&device)?.open(start)?, architecture))
}

/// As the serving daemon computes.
fn classify(common: &Common, batch: u32, length: u32, passes: usize) -> Result<Value> {
    let (mut backend, architecture) = backend(common)?;
    let mut seconds = Vec::new();
    for pass in 0..passes + 2 {
        let packed = sequences(&architecture, batch, length, pass as u32);
        let begin = Instant::now();
        backend.evaluate(&packed)?;
        if pass >= 2 {
            seconds.push(begin.elapsed().as_secs_f64());
        }
    }
    let gflop = flop(&architecture, f64::from(batch), f64::from(length)) / 3e9;
    let gpu_bytes = common.open()?.0.is_cuda().then(|| backend.memory().total());
    Ok(json!({
        "what": "classify", "batch": batch, "length": length,
        "seconds_median": median(&seconds), "samples_per_second": f64::from(batch) / median(&seconds),
        "gflop": gflop, "gflop_per_second": gflop / median(&seconds), "peak_gpu_bytes": gpu_bytes,
    }))
}

/// The most memory that this process has had, in bytes; 0 where the system does not tell.
fn peak_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}
