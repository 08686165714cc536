//! Calls to a server: in a closed loop, where each caller waits for its answer, or in an open one, where calls come at a
//! rate, whatever is still open; and scenarios made of them.
//!
//! The latency of an open loop counts from when a call was meant to begin, so that a server which makes callers wait
//! cannot hide it. Requests are encoded once, before anything is measured, and one thread sends them; its own
//! processor time is in the report.

mod drive;
mod schedule;
mod tally;
mod wire;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use hone_base::error::{Error, Result};
use serde_json::{Map, Value, json};

use crate::daemon::Daemon;
use crate::jobs::{Job, Jobs};
use crate::process::{Process, Watch};
use crate::texts;
use drive::{Driver, Ended, Until, recovered, saturated};
use schedule::{Schedule, Spacing};
use wire::{Protocol, Server};

/// The model that a daemon gets that is started for the calls.
const SERVED: &str = "served";

/// Callers at most when saturation is looked for.
const MOST_CALLERS: usize = 256;

/// How long the recovery from overload is watched.
const RECOVERY: Duration = Duration::from_secs(30);

#[derive(Args)]
pub(crate) struct Load {
    /// A running server, for example http://127.0.0.1:50051.
    #[arg(long, required_unless_present = "model", conflicts_with = "model")]
    address: Option<String>,
    /// Start a daemon and let it train a small model on this encoder: a folder in Hugging Face layout.
    #[arg(long)]
    model: Option<PathBuf>,
    /// Threads of the daemon that is started; default: one a core.
    #[arg(long)]
    threads: Option<usize>,
    /// The server's process on this machine, whose memory and processor time are reported.
    #[arg(long)]
    pid: Option<u32>,
    /// The model that is called; default: the only one.
    #[arg(long)]
    name: Option<String>,
    #[arg(long, value_enum, default_value_t = Protocol::Hone)]
    protocol: Protocol,
    /// Where the texts are: a labelled file as jobs read it, or one text a line (.txt).
    #[arg(long)]
    texts: PathBuf,
    /// Only the first rows of the file.
    #[arg(long)]
    limit: Option<u64>,
    #[arg(long, default_value_t = 1)]
    texts_per_call: usize,
    /// Connections that the calls are spread over.
    #[arg(long, default_value_t = 1)]
    connections: usize,
    /// The deadline of each call.
    #[arg(long)]
    deadline_ms: Option<u64>,
    /// Closed loop: callers that each make one call at a time.
    #[arg(long, default_value_t = 1)]
    callers: usize,
    /// Open loop: calls a second.
    #[arg(long, conflicts_with_all = ["callers", "passes", "find_saturation", "open"])]
    rate: Option<f64>,
    /// How the calls of an open loop are spread.
    #[arg(long, value_enum, default_value_t = Spacing::Poisson)]
    spacing: Spacing,
    /// Of the times of open loops.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Seconds of each loop.
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// Instead of --seconds: how often a closed loop asks about every text.
    #[arg(long)]
    passes: Option<usize>,
    /// Seconds of calls before, which do not count.
    #[arg(long, default_value_t = 2.0)]
    warm_up: f64,
    /// Look for the rate at which more callers do not help. Before it, one caller alone is measured.
    #[arg(long, conflicts_with_all = ["callers", "passes"])]
    find_saturation: bool,
    /// The saturation that --open means, in calls a second, where it is known already.
    #[arg(long, conflicts_with = "find_saturation")]
    saturation: Option<f64>,
    /// Open loops at these multiples of saturation, and how the server recovers after each.
    #[arg(long, num_args = 1.., conflicts_with_all = ["callers", "passes"])]
    open: Vec<f64>,
    /// Seconds of one caller alone, and of each step when saturation is looked for.
    #[arg(long, default_value_t = 4.0)]
    step_seconds: f64,
}

/// Measures.
///
/// # Errors
///
/// Arguments that do not go together, a file without texts, or a server that answers no call.
pub(crate) fn measure(of: &Load) -> Result<Value> {
    for (flag, seconds) in
        [("--seconds", of.seconds), ("--warm-up", of.warm_up), ("--step-seconds", of.step_seconds)]
    {
        Duration::try_from_secs_f64(seconds).map_err(|error| Error::invalid(format!("{flag}: {error}")))?;
    }
    let rates = of.rate.iter().chain(&of.saturation).chain(&of.open);
    if rates.into_iter().any(|&rate| !(rate.is_finite() && rate > 0.0)) {
        return Err(Error::invalid("--rate, --saturation and --open must be above 0"));
    }
    if !of.open.is_empty() && !of.find_saturation && of.saturation.is_none() {
        return Err(Error::invalid("--open needs --find-saturation or --saturation"));
    }
    let texts = texts::read(&of.texts, of.limit)?;
    let folder = tempfile::tempdir().map_err(|error| Error::internal(error.to_string()))?;
    let started = of.model.as_deref().map(|encoder| Daemon::start(folder.path(), encoder, of.threads));
    let started = started.transpose()?;
    // One thread: it must leave the processor to a server on the same machine. It ends, and with it its connections,
    // before the daemon is told to stop.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Error::internal(error.to_string()))?;
    runtime.block_on(async {
        if let Some(daemon) = &started {
            train(daemon).await?;
        }
        let address = started.as_ref().map(Daemon::address).or(of.address.as_deref()).unwrap_or_default();
        let model = started.as_ref().map(|_| SERVED).or(of.name.as_deref()).unwrap_or_default();
        let driver = Arc::new(Driver {
            server: Server::new(address, of.protocol, of.connections)?,
            calls: of.protocol.calls(model, &texts, of.texts_per_call)?,
            deadline: of.deadline_ms.map(Duration::from_millis),
        });
        let process = started.as_ref().map(Daemon::id).or(of.pid).map(Process::new);
        let bench = Bench { of, driver, process };
        let mut report = bench.all().await?;
        report.extend([
            ("what".to_owned(), json!("load")),
            ("texts_per_call".to_owned(), json!(of.texts_per_call)),
            ("connections".to_owned(), json!(of.connections)),
            ("deadline_ms".to_owned(), json!(of.deadline_ms)),
            ("version".to_owned(), json!(env!("CARGO_PKG_VERSION"))),
        ]);
        Ok(Value::Object(report))
    })
}

/// Lets a daemon have a model that knows the demonstration data.
async fn train(daemon: &Daemon) -> Result<()> {
    let job = Job { name: SERVED, rows: 48, epochs: 1, seed: None };
    let failed = |status: tonic::Status| Error::internal(status.to_string());
    Jobs::connect(daemon.address()).map_err(failed)?.run(job).await.map_err(failed)?;
    Ok(())
}

struct Bench<'a> {
    of: &'a Load,
    driver: Arc<Driver>,
    process: Option<Process>,
}

impl Bench<'_> {
    async fn all(&self) -> Result<Map<String, Value>> {
        let of = self.of;
        self.warm_up().await?;
        let mut report = Map::new();
        let length = Duration::from_secs_f64(of.seconds);
        if let Some(rate) = of.rate {
            report.insert("open".to_owned(), self.open(rate, length).await);
        } else if of.find_saturation || !of.open.is_empty() {
            self.scenario(&mut report, length).await;
        } else {
            let until = of.passes.map_or(Until::Elapsed(length), |passes| self.passes(passes));
            report.insert("closed".to_owned(), self.closed(of.callers, until).await.1);
        }
        Ok(report)
    }

    /// One caller alone, saturation, then loops at multiples of it.
    async fn scenario(&self, report: &mut Map<String, Value>, length: Duration) {
        let step = Until::Elapsed(Duration::from_secs_f64(self.of.step_seconds));
        let (alone, told) = self.closed(1, step).await;
        let quiet = alone.tally.answered().percentile(0.5);
        report.insert("alone".to_owned(), told);
        let saturation = match self.of.saturation {
            Some(known) => known,
            None => self.saturation(report, step).await,
        };
        report.insert("saturation_calls_per_second".to_owned(), json!(saturation));
        for &share in &self.of.open {
            let told = self.overload(share, saturation * share, length, quiet).await;
            report.insert(format!("open_{share}"), told);
        }
    }

    async fn warm_up(&self) -> Result<()> {
        let first = self.driver.closed(1, Until::Calls(1)).await;
        if first.tally.answers() == 0 {
            let told = first.tally.report(first.seconds);
            return Err(Error::precondition(format!("the server does not answer: {}", told["errors"])));
        }
        self.driver.closed(self.of.callers, Until::Elapsed(Duration::from_secs_f64(self.of.warm_up))).await;
        Ok(())
    }

    /// So many calls that each text is asked about that often.
    fn passes(&self, passes: usize) -> Until {
        Until::Calls(self.driver.calls.len() * passes)
    }

    async fn closed(&self, callers: usize, until: Until) -> (Ended, Value) {
        let usage = Usage::start(self.process);
        let ended = self.driver.closed(callers, until).await;
        let mut told = ended.tally.report(ended.seconds);
        told["callers"] = json!(callers);
        usage.add_to(&mut told, ended.seconds);
        (ended, told)
    }

    /// Calls a second with as many callers as help.
    async fn saturation(&self, report: &mut Map<String, Value>, step: Until) -> f64 {
        let (mut callers, mut rates, mut steps) = (1, Vec::new(), Vec::new());
        while callers <= MOST_CALLERS && !saturated(&rates) {
            let (ended, told) = self.closed(callers, step).await;
            rates.push(ended.tally.answers() as f64 / ended.seconds);
            steps.push(json!({
                "callers": callers, "texts_per_second": told["texts_per_second"], "codes": told["codes"],
                "p50": told["latency_ms"]["p50"], "p99": told["latency_ms"]["p99"],
                "own_cpu_share": told["own_cpu_share"],
            }));
            callers *= 2;
        }
        report.insert("saturation".to_owned(), json!(steps));
        rates.into_iter().fold(0.0, f64::max)
    }

    async fn open(&self, rate: f64, length: Duration) -> Value {
        let usage = Usage::start(self.process);
        let schedule = Schedule::new(rate, self.of.spacing, self.of.seed);
        let ended = self.driver.open(schedule, length).await.ended().await;
        let mut told = ended.tally.report(ended.seconds);
        told["rate"] = json!(rate);
        usage.add_to(&mut told, ended.seconds);
        told
    }

    /// An open loop, and how long after its last call one caller alone is answered as fast as twice the quiet median.
    async fn overload(&self, share: f64, rate: f64, length: Duration, quiet: Option<f64>) -> Value {
        let usage = Usage::start(self.process);
        let schedule = Schedule::new(rate, self.of.spacing, self.of.seed);
        let mut draining = self.driver.open(schedule, length).await;
        let (stopped, still_open) = (draining.stopped, draining.still_open());
        let bound = 2.0 * quiet.unwrap_or(f64::INFINITY);
        let done = |probes: &[drive::Probe]| recovered(probes, bound).is_some();
        let probes = self.driver.probe(stopped, RECOVERY, done).await;
        let ended = draining.ended().await;
        let mut told = ended.tally.report(ended.seconds);
        told["share_of_saturation"] = json!(share);
        told["rate"] = json!(rate);
        told["open_when_it_stopped"] = json!(still_open);
        told["recovered_after_seconds"] = json!(recovered(&probes, bound));
        let p99 = ended.tally.answered().percentile(0.99);
        told["p99_by_median_alone"] = json!(p99.zip(quiet).map(|(p99, quiet)| p99 / quiet));
        usage.add_to(&mut told, ended.seconds);
        told["resident_bytes"]["after_recovery"] = json!(self.process.and_then(Process::resident));
        told
    }
}

/// What this program and the server take during a phase.
struct Usage {
    begun: Instant,
    own: Option<f64>,
    server: Option<(Process, Option<f64>, Option<u64>, Watch)>,
}

impl Usage {
    fn start(server: Option<Process>) -> Self {
        let server =
            server.map(|process| (process, process.cpu_seconds(), process.resident(), Watch::start(process)));
        Self { begun: Instant::now(), own: Process::own().cpu_seconds(), server }
    }

    fn add_to(self, told: &mut Value, seconds: f64) {
        let since = |now: Option<f64>, before: Option<f64>| now.zip(before).map(|(now, before)| now - before);
        let own = since(Process::own().cpu_seconds(), self.own);
        told["own_cpu_seconds"] = json!(own);
        told["own_cpu_share"] = json!(own.map(|own| own / self.begun.elapsed().as_secs_f64()));
        if let Some((process, cpu, resident, watch)) = self.server {
            let cpu = since(process.cpu_seconds(), cpu);
            told["server_cores"] = json!(cpu.map(|cpu| cpu / seconds));
            told["resident_bytes"] =
                json!({ "before": resident, "peak": watch.peak(), "after": process.resident() });
        }
    }
}
