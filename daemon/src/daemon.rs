//! One daemon: what it owns, how it starts, how it stops.

use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::net::TcpListener;
use tonic::transport::server::TcpIncoming;

use crate::config::Config;
use crate::jobs::datasets::{Datasets, READER, Reader};
use crate::jobs::log::Log;
use crate::jobs::registry::Registry;
use crate::jobs::runner::{self, Runner};
use crate::jobs::trainer::{DeviceTrainer, Trainer};
use crate::lanes::Lanes;
use crate::rpc::health::Health;
use crate::rpc::stopping::Stopping;
use crate::rpc::{Bounds, HoneRouter, Services, router};
use crate::serve::classify::Serving;
use crate::serve::engine::{DeviceEngine, Engine};
use crate::serve::registry::Models;
use hone_base::error::{Error, Result};
use hone_engine::kernels::Isa;
use hone_storage::data_dir::{DataDir, Lock};
use hone_storage::{Store, Unreadable};

/// How long calls may go on, and a job may take to its next step, when the daemon stops.
const GRACE: Duration = Duration::from_secs(30);

/// A daemon that is ready to serve.
pub struct Daemon {
    router: HoneRouter,
    health: Health,
    stopping: Stopping,
    jobs: Arc<Registry>,
    models: Arc<Models>,
    runner: JoinHandle<()>,
    lock: Lock,
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
            engine: Arc::new(DeviceEngine::new(device)),
            lanes,
            reader: READER,
        })
    }
}

/// The parts that need the disk to come into being.
struct Parts {
    data: DataDir,
    lock: Lock,
    store: Arc<Store>,
    jobs: Arc<Registry>,
}

impl Parts {
    fn open(root: &Path, max_jobs: usize) -> Result<Self> {
        let (data, lock) = DataDir::open(root)?;
        let store = Arc::new(Store::open(&data.database())?);
        runner::sweep(&data, &store)?;
        let damaged = [store.jobs()?.unreadable, store.results(None)?.1, store.datasets()?.unreadable];
        damaged.iter().flatten().chain(&store.models()?.unreadable).for_each(Unreadable::log);
        let jobs = Arc::new(Registry::open(store.clone(), Log::new(store.clone()), max_jobs)?);
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
        let (root, max_jobs) = (config.data_dir.clone(), config.max_jobs.get());
        let parts = tokio::task::spawn_blocking(move || Parts::open(&root, max_jobs));
        let Parts { data, lock, store, jobs } = parts.await.map_err(crashed)??;
        let models = Arc::new(Models::new(data.clone(), store.clone(), engine, lanes.clone()));
        let (health, stopping) = (Health::new().await, Stopping::default());
        let services = Services {
            jobs: jobs.clone(),
            datasets: Arc::new(Datasets::new(
                data.clone(),
                store.clone(),
                config.max_upload.0,
                reader,
                config.room(),
            )),
            models: models.clone(),
            serving: Serving::new(models.clone(), lanes),
            trainer: trainer.clone(),
            data: data.clone(),
            encoder: config.model.clone(),
            stopping: stopping.clone(),
            bounds: Bounds {
                idle: Duration::from_secs(config.idle_timeout.get().into()),
                memory: config.room().host.available(),
            },
        };
        let router = router(services, &health)?;
        let runner = Runner { registry: jobs.clone(), store, data, trainer }.start()?;
        Ok(Self { router, health, stopping, jobs, models, runner, lock })
    }

    /// Serves until `shutdown`, then stops: running calls end, streams are cut off, the job stops at a step.
    pub async fn serve(self, listener: TcpListener, shutdown: impl Future<Output = ()>) -> Result<()> {
        let Self { router, health, stopping, jobs, models, runner, lock } = self;
        let incoming = TcpIncoming::from(listener)
            .with_nodelay(Some(true))
            .with_keepalive(Some(Duration::from_secs(60)));
        let mut server = pin!(router.serve_with_incoming_shutdown(incoming, stopping.begun()));
        health.set(true).await;
        let served = tokio::select! {
            served = &mut server => served.map_err(|error| Error::internal(format!("serving failed: {error}"))),
            () = shutdown => Ok(()),
        };
        tracing::info!("stopping");
        health.set(false).await;
        stopping.begin();
        tokio::task::spawn_blocking(move || jobs.close()).await.map_err(crashed)?;
        if served.is_ok() && tokio::time::timeout(GRACE, server).await.is_err() {
            tracing::warn!("some calls have not ended after {} s; cutting them off", GRACE.as_secs());
        }
        let joined = tokio::task::spawn_blocking(move || {
            models.shut_down();
            runner.join().is_ok()
        });
        match tokio::time::timeout(GRACE, joined).await {
            Ok(Ok(true)) => {}
            Ok(_) => tracing::error!("the thread for jobs panicked"),
            Err(_) => {
                tracing::warn!("the job has not stopped after {} s; its end is not logged", GRACE.as_secs());
            }
        }
        drop(lock);
        tracing::info!("stopped");
        served
    }
}

fn crashed(error: tokio::task::JoinError) -> Error {
    Error::internal(format!("internal error: {error}; this is a bug in Hone"))
}

#[cfg(test)]
mod tests;
