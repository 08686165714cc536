//! Calls beside jobs: how long answers take while no job runs, and while jobs start, run and end. A daemon in this
//! process, over a socket.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use clap::{Args, Parser as _};
use hone::v1::inference_service_client::InferenceServiceClient;
use hone::v1::{ClassifyRequest, Input};
use hone_base::error::{Error, Result};
use hone_daemon::config::Config;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tonic::Status;

use crate::jobs::{Job, Jobs, Moment, channel};

/// The model that is called.
const SERVED: &str = "served";

/// The model that the jobs train.
const TRAINED: &str = "trained";

/// What a call asks, one after the other.
const TEXTS: [&str; 4] = [
    "Loud, eccentric, always late by three minutes, and the finest singing teacher I have ever had.",
    "He cancelled five drum lessons out of eight by text, each one minutes before I parked.",
    "My arches usually ache by noon at trade fairs, but in these loafers I stood for three days.",
    "The playground consists of a tyre, and the farm shop consists of a fridge.",
];

#[derive(Args)]
pub(crate) struct Lanes {
    /// A folder in Hugging Face layout.
    #[arg(long)]
    model: PathBuf,
    /// Threads of each lane; default: one a core.
    #[arg(long)]
    threads: Option<usize>,
    /// Jobs that start, run and end beside the calls.
    #[arg(long, default_value_t = 200)]
    jobs: usize,
    /// Training rows of a job, of the demonstration data.
    #[arg(long, default_value_t = 48)]
    rows: u64,
    /// Epochs of a job.
    #[arg(long, default_value_t = 1)]
    epochs: u32,
    /// Clients that call in a loop, each one call at a time.
    #[arg(long, default_value_t = 1)]
    callers: usize,
    /// Texts of a call.
    #[arg(long, default_value_t = 1)]
    texts: usize,
    /// Seconds of calls without a job, before the jobs and again after them.
    #[arg(long, default_value_t = 10)]
    quiet: u64,
}

/// Measures.
pub(crate) fn measure(of: &Lanes) -> Result<Value> {
    let runtime = tokio::runtime::Runtime::new().map_err(|error| Error::internal(error.to_string()))?;
    runtime.block_on(async {
        let folder = tempfile::tempdir().map_err(|error| Error::internal(error.to_string()))?;
        let daemon = Daemon::start(of, folder.path()).await?;
        let measured = beside_jobs(of, &daemon.address).await;
        daemon.stop().await?;
        measured.map_err(|status| Error::internal(status.to_string()))
    })
}

async fn beside_jobs(of: &Lanes, address: &str) -> Result<Value, Status> {
    let jobs = Jobs::connect(address)?;
    let job = |name| Job { name, rows: of.rows, epochs: of.epochs, seed: None };
    jobs.run(job(SERVED)).await?;
    let alone = jobs.run_and_delete(job(TRAINED)).await?;
    let quiet = Duration::from_secs(of.quiet);

    let callers = Callers::start(of, address);
    tokio::time::sleep(quiet).await;
    let mut without = callers.stop()?;
    let callers = Callers::start(of, address);
    let mut beside = Vec::new();
    for _ in 0..of.jobs {
        beside.push(jobs.run_and_delete(job(TRAINED)).await?);
    }
    let mut with = callers.stop()?;
    let moments: Vec<Moment> = beside.iter_mut().flat_map(|job| std::mem::take(&mut job.moments)).collect();
    let callers = Callers::start(of, address);
    tokio::time::sleep(quiet).await;
    without.append(&mut callers.stop()?);

    let (slowest, with, without) = (slowest(&mut with, &moments), summary(&with), summary(&without));
    let ratio = |a: &Value, b: &Value| Some(a.as_f64()? / b.as_f64()?);
    Ok(json!({
        "what": "lanes", "callers": of.callers, "texts": of.texts, "jobs": of.jobs, "rows": of.rows,
        "without_jobs_ms": without, "with_jobs_ms": with, "slowest_ms": slowest,
        "p99_ratio": ratio(&with["p99"], &without["p99"]),
        "max_by_median": ratio(&with["max"], &with["median"]),
        "max_by_median_without_jobs": ratio(&with["max"], &without["median"]),
        "job_seconds": { "alone": alone.seconds, "beside_calls": median(beside.iter().map(|job| job.seconds)) },
        "tokens_per_second": {
            "alone": alone.epoch.tokens_per_second,
            "beside_calls": median(beside.iter().map(|job| job.epoch.tokens_per_second)),
        },
    }))
}

/// A call: how long it took, and what the daemon says of it.
#[derive(Clone, Copy)]
struct Call {
    begun: Instant,
    milliseconds: f64,
    tokenize: f64,
    queue: f64,
    compute: f64,
}

fn summary(calls: &[Call]) -> Value {
    let mut times: Vec<f64> = calls.iter().map(|call| call.milliseconds).collect();
    times.sort_by(f64::total_cmp);
    let at =
        |share: f64| times.get(((times.len() as f64 * share) as usize).min(times.len().saturating_sub(1)));
    json!({ "calls": times.len(), "median": at(0.5), "p90": at(0.9), "p99": at(0.99), "p999": at(0.999), "max": times.last() })
}

/// The slowest calls, with where their time went, and what the job had done last when they began.
fn slowest(calls: &mut [Call], moments: &[Moment]) -> Vec<Value> {
    calls.sort_by(|a, b| b.milliseconds.total_cmp(&a.milliseconds));
    let told = |call: &Call| {
        let last = moments.iter().rfind(|moment| moment.at <= call.begun);
        let after = last.map(|last| json!([last.what, (call.begun - last.at).as_secs_f64() * 1e3]));
        json!({
            "all": call.milliseconds, "tokenize": call.tokenize, "queue": call.queue, "compute": call.compute,
            "begun_ms_after": after,
        })
    };
    calls.iter().take(10).map(told).collect()
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    super::median(&values.collect::<Vec<_>>())
}

/// Clients, each on a thread of its own, as they would be outside.
struct Callers {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Result<Vec<Call>, Status>>>,
}

impl Callers {
    fn start(of: &Lanes, address: &str) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let thread = |number: usize| {
            let (stop, address, texts) = (stop.clone(), address.to_owned(), of.texts);
            std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                let runtime = runtime.map_err(|error| Status::internal(error.to_string()))?;
                runtime.block_on(call_in_a_loop(&address, texts, number, &stop))
            })
        };
        let threads = (0..of.callers).map(thread).collect();
        Self { stop, threads }
    }

    fn stop(self) -> Result<Vec<Call>, Status> {
        self.stop.store(true, Ordering::Relaxed);
        let mut calls = Vec::new();
        for thread in self.threads {
            let joined = thread.join().map_err(|_| Status::internal("a caller has panicked"))?;
            calls.append(&mut joined?);
        }
        Ok(calls)
    }
}

async fn call_in_a_loop(
    address: &str,
    texts: usize,
    first: usize,
    stop: &AtomicBool,
) -> Result<Vec<Call>, Status> {
    let mut client = InferenceServiceClient::new(channel(address)?);
    let mut calls = Vec::new();
    for number in first.. {
        let text =
            |place: usize| TEXTS.get((number + place) % TEXTS.len()).copied().unwrap_or_default().to_owned();
        let inputs = (0..texts).map(|place| Input { text: text(place), text_pair: None }).collect();
        let request = ClassifyRequest { model: format!("{SERVED}@1"), inputs, ..Default::default() };
        let begin = Instant::now();
        let timings = client.classify(request).await?.into_inner().timings.unwrap_or_default();
        let call = Call {
            begun: begin,
            milliseconds: begin.elapsed().as_secs_f64() * 1e3,
            tokenize: timings.tokenize_ms,
            queue: timings.queue_ms,
            compute: timings.compute_ms,
        };
        if stop.load(Ordering::Relaxed) {
            break;
        }
        // The first ones open the connection and load the model.
        if number >= first + 20 {
            calls.push(call);
        }
    }
    Ok(calls)
}

struct Daemon {
    address: String,
    shutdown: oneshot::Sender<()>,
    task: tokio::task::JoinHandle<Result<()>>,
}

impl Daemon {
    async fn start(of: &Lanes, folder: &std::path::Path) -> Result<Self> {
        let failed = |error: std::io::Error| Error::internal(error.to_string());
        let mut arguments: Vec<std::ffi::OsString> =
            ["daemon", "--device", "cpu", "--data-dir"].map(Into::into).into();
        arguments.extend([folder.into(), "--model".into(), of.model.clone().into()]);
        if let Some(threads) = of.threads {
            arguments.extend(["--threads".into(), threads.to_string().into()]);
        }
        let config = Config::try_parse_from(arguments).map_err(|error| Error::invalid(error.to_string()))?;
        let listener = TcpListener::bind("127.0.0.1:0").await.map_err(failed)?;
        let address = format!("http://{}", listener.local_addr().map_err(failed)?);
        let (shutdown, stopped) = oneshot::channel();
        let task = tokio::spawn(hone_daemon::run(config, listener, async move {
            let _ = stopped.await;
        }));
        Ok(Self { address, shutdown, task })
    }

    async fn stop(self) -> Result<()> {
        let _ = self.shutdown.send(());
        self.task.await.map_err(|error| Error::internal(error.to_string()))?
    }
}
