//! One daemon: what it owns, how it starts, how it stops.

use std::net::SocketAddr;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use crate::config::Config;
use crate::connections::{self, Connections};
use crate::jobs::datasets::{Datasets, READER, Reader};
use crate::jobs::log::Log;
use crate::jobs::promoter::Promoter;
use crate::jobs::registry::{Policy, Registry};
use crate::jobs::runner::Runner;
use crate::jobs::sweep::sweep;
use crate::jobs::trainer::{DeviceTrainer, Trainer};
use crate::lanes::Lanes;
use crate::observability::Observability;
use crate::rpc::draining::DrainingLayer;
use crate::rpc::health::Health;
use crate::rpc::stopping::Stopping;
use crate::rpc::{Bounds, Capacity, HoneRouter, Services, router};
use crate::serve::classify::Serving;
use crate::serve::dispatcher::Dispatcher;
use crate::serve::engine::{DeviceEngine, Engine};
use crate::serve::registry::{Models, Settings};
use hone_base::error::{Error, Result};
use hone_engine::kernels::Isa;
use hone_storage::data_dir::{DataDir, Lock};
use hone_storage::{Blobs, Catalog, Store, Unreadable, Version};

/// How often a daemon that stops says that it waits for a job to stop.
const REMINDER: Duration = Duration::from_secs(30);

/// How long connections may take to close when no call goes on.
const CLOSING: Duration = Duration::from_secs(5);

/// A daemon that is ready to serve.
pub struct Daemon {
    router: HoneRouter,
    health: Health,
    stopping: Stopping,
    jobs: Arc<Registry>,
    models: Arc<Models>,
    runner: JoinHandle<()>,
    /// Connections at once at most, and how long one may take to begin.
    connections: (usize, Duration),
    observability: Observability,
    store: Arc<dyn Catalog>,
    /// Who refuses calls when the daemon stops, and how long those that go on have.
    drain: (DrainingLayer, Duration),
    /// Held by the runner's thread too.
    lock: Arc<Lock>,
}

/// What computes: training, serving and their threads.
pub struct Compute {
    /// Trains.
    pub trainer: Arc<dyn Trainer>,
    /// Loads models.
    pub engine: Arc<dyn Engine>,
    /// The threads of both.
    pub lanes: Lanes,
    /// Reads labelled files.
    pub reader: Reader,
}

impl Compute {
    /// The same as [`Compute::new`], on a thread that may block.
    pub async fn open(config: &Config) -> Result<Self> {
        let config = config.clone();
        tokio::task::spawn_blocking(move || Self::new(&config)).await.map_err(crashed)?
    }

    /// Checks the encoder that the operator named, as far as it is on this machine.
    pub async fn check(&self, config: &Config) -> Result<()> {
        let (trainer, model) = (self.trainer.clone(), config.model.clone());
        let check = move || trainer.check_encoder(&model).map_err(|error| error.of_named().within("--model"));
        tokio::task::spawn_blocking(check).await.map_err(crashed)?
    }

    /// Computes on the device and with the threads that the operator chose.
    pub fn new(config: &Config) -> Result<Self> {
        let device = config.device.open()?;
        let lanes = Lanes::new(config.threads)?;
        let instructions = Isa::chosen()?.name();
        tracing::info!(device = ?device.location(), instructions, threads = config.threads, "computing");
        Ok(Self {
            trainer: Arc::new(DeviceTrainer::new(device.clone(), lanes.clone()).within(config.room())),
            engine: Arc::new(DeviceEngine::new(device, config.threads)),
            lanes,
            reader: READER,
        })
    }
}

/// What makes a version ready that a job has made, for the one thread that runs jobs.
struct Preparing {
    models: Arc<Models>,
    runtime: Handle,
}

impl Promoter for Preparing {
    fn prepare(&self, version: &Arc<Version>) -> Result<()> {
        self.runtime.block_on(self.models.prepare(version))
    }
}

/// The parts that need the disk to come into being.
struct Parts {
    data: DataDir,
    lock: Lock,
    store: Arc<dyn Catalog>,
    jobs: Arc<Registry>,
}

impl Parts {
    fn open(root: &Path, policy: Policy) -> Result<Self> {
        let (data, lock) = DataDir::open(root)?;
        let store: Arc<dyn Catalog> = Arc::new(Store::open(&data.database())?);
        sweep(&data, &*store)?;
        let damaged = [store.jobs()?.unreadable, store.results(None)?.1, store.datasets()?.unreadable];
        damaged.iter().flatten().chain(&store.models()?.unreadable).for_each(Unreadable::log);
        let jobs = Registry::open(store.clone(), Log::new(store.clone()), data.clone(), policy)?;
        let jobs = Arc::new(jobs);
        Ok(Self { data, lock, store, jobs })
    }
}

impl Daemon {
    /// Checks what the operator decided, takes the data folder, and starts to work off the queue.
    pub async fn open(config: &Config) -> Result<Self> {
        let compute = Compute::open(config).await?;
        compute.check(config).await?;
        Self::open_with(config, compute).await
    }

    /// The same with something that computes, and a configuration that is checked.
    pub async fn open_with(config: &Config, compute: Compute) -> Result<Self> {
        let Compute { trainer, engine, lanes, reader } = compute;
        let observability = Observability::open(config).await?;
        let (metrics, tracer) = (observability.metrics.clone(), observability.tracer.clone());
        let root = config.data_dir.clone();
        let policy = Policy { bound: config.max_jobs.get(), resume: config.resume_jobs };
        let parts = tokio::task::spawn_blocking(move || Parts::open(&root, policy));
        let Parts { data, lock, store, jobs } = parts.await.map_err(crashed)??;
        let blobs: Arc<dyn Blobs> = Arc::new(data.clone());
        let capacity = Capacity { batch: engine.limits(), threads: config.threads.get() };
        let dispatcher = Arc::new(Dispatcher::start(&lanes.serving, engine.limits(), config.queue_policy()));
        let settings = Settings { policy: config.precision_policy(), memory: config.model_memory() };
        let (computes, checks) = ((engine, dispatcher.clone()), lanes.checks.clone());
        let catalog = (blobs.clone(), store.clone());
        let models = Arc::new(Models::new(catalog, computes, checks, settings, metrics.clone()));
        let recalling = models.clone();
        tokio::task::spawn_blocking(move || recalling.recall()).await.map_err(crashed)??;
        let (health, stopping) = (Health::new().await, Stopping::default());
        let draining = DrainingLayer::new(stopping.clone());
        let idle = Duration::from_secs(config.idle_timeout.get().into());
        let connection_age = config.max_connection_age.map(|age| Duration::from_secs(age.get().into()));
        let services = Services {
            jobs: jobs.clone(),
            datasets: Arc::new(Datasets::new(
                blobs.clone(),
                store.clone(),
                config.max_upload.0,
                reader,
                config.room(),
            )),
            models: models.clone(),
            serving: Serving::new(models.clone(), dispatcher, lanes)
                .keeping(config.answer_cache.map_or(0, |size| size.0)),
            trainer: trainer.clone(),
            blobs: blobs.clone(),
            encoder: config.model.clone(),
            stopping: stopping.clone(),
            metrics: metrics.clone(),
            tracer: tracer.clone(),
            bounds: Bounds { idle, memory: config.room().host.available(), connection_age },
            capacity,
            draining: draining.clone(),
        };
        let router = router(services, &health)?;
        let connections = (connections::room_for(config.max_connections as usize), idle);
        let lock = Arc::new(lock);
        let runner = Runner {
            registry: jobs.clone(),
            store: store.clone(),
            data,
            blobs,
            trainer,
            promoter: Arc::new(Preparing { models: models.clone(), runtime: Handle::current() }),
            metrics,
            tracer,
        }
        .start(lock.clone())?;
        let drain = (draining, Duration::from_secs(config.drain_timeout.into()));
        Ok(Self {
            router,
            health,
            stopping,
            jobs,
            models,
            runner,
            connections,
            observability,
            store,
            drain,
            lock,
        })
    }

    /// Where the metrics are served, if they have an address of their own.
    pub fn metrics_address(&self) -> Option<SocketAddr> {
        self.observability.metrics_address()
    }

    /// Serves until `shutdown`, then stops: health says so, new calls are refused, running ones are finished within the
    /// time that they have for it, streams are cut off, the job stops at a step. Connections are taken until no call goes
    /// on, so that whoever comes late is told when to come back.
    ///
    /// The job is waited for as long as it takes. It writes in the data folder, so the folder must stay taken until it has
    /// stopped; and whoever has no more patience can end the process, which lets go of the folder and of the job at once
    /// and costs no more than the steps since the last saved position.
    pub async fn serve(self, listener: TcpListener, shutdown: impl Future<Output = ()>) -> Result<()> {
        let Self {
            router,
            health,
            stopping,
            jobs,
            models,
            runner,
            connections,
            observability,
            store,
            drain: (draining, drain),
            lock,
        } = self;
        let tracer = observability.tracer.clone();
        // It ends with this function, so that going down is seen too.
        let _observed = observability.start(store);
        let (most, idle) = connections;
        let incoming = Connections::new(listener, most, idle);
        let (close, closed) = oneshot::channel::<()>();
        let mut server = pin!(router.serve_with_incoming_shutdown(incoming, async { drop(closed.await) }));
        let loading = tokio::spawn(models.clone().load_pinned());
        health.set(true).await;
        let served = tokio::select! {
            served = &mut server => served.map_err(|error| Error::internal(format!("serving failed: {error}"))),
            () = shutdown => Ok(()),
        };
        loading.abort();
        tracing::info!("stopping");
        health.set(false).await;
        stopping.begin();
        let closing_jobs = tokio::task::spawn_blocking(move || jobs.close());
        if served.is_ok() {
            let drained = tokio::select! {
                // It ends by itself only when it fails.
                _ = &mut server => false,
                drained = tokio::time::timeout(drain, draining.idle()) => {
                    if drained.is_err() {
                        tracing::warn!("some calls have not ended after {} s; cutting them off", drain.as_secs());
                    }
                    true
                }
            };
            drop(close);
            if drained && tokio::time::timeout(CLOSING, server).await.is_err() {
                tracing::warn!("some connections do not close; cutting them off");
            }
        }
        closing_jobs.await.map_err(crashed)?;
        let mut joined = tokio::task::spawn_blocking(move || {
            models.shut_down();
            runner.join().is_ok()
        });
        loop {
            match tokio::time::timeout(REMINDER, &mut joined).await {
                Ok(Ok(true)) => break,
                Ok(_) => {
                    tracing::error!("the thread for jobs panicked");
                    break;
                }
                Err(_) => {
                    tracing::warn!("waiting for the job to stop; a second signal ends the process at once")
                }
            }
        }
        drop(lock);
        tokio::task::spawn_blocking(move || tracer.shut_down()).await.map_err(crashed)?;
        tracing::info!("stopped");
        served
    }
}

fn crashed(error: tokio::task::JoinError) -> Error {
    Error::internal(format!("internal error: {error}; this is a bug in Hone"))
}

#[cfg(test)]
mod tests;
