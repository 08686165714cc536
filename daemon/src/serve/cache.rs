//! Versions to the threads that have them loaded: a few at once.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use super::engine::Engine;
use super::options::RETRY;
use super::permits::Permits;
use super::worker::{Ready, Worker};
use hone_base::digest::FileDigest;
use hone_base::error::{Error, Kind, Result};
use hone_base::panic::lock;
use hone_engine::kernels::lane::Lane;
use hone_storage::{Blobs, Version};

/// Loaded models at most; the one that was not used for longest is unloaded first.
const MAX_LOADED: usize = 4;

/// Threads of models at most: those that answer, and those that wait for their turn to load or still answer what waited
/// when they were unloaded.
const MAX_THREADS: usize = 4 * MAX_LOADED;

/// The models that are loaded.
pub struct Cache {
    blobs: Arc<dyn Blobs>,
    engine: Arc<dyn Engine>,
    lane: Arc<Lane>,
    /// One is held while a model is loaded.
    loading: Arc<Permits>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The one that was used last stands last.
    loaded: Vec<(Arc<Version>, Arc<Worker>)>,
    threads: Vec<JoinHandle<()>>,
    closed: bool,
}

impl Cache {
    /// None is loaded before it is asked for. The lane is the one that answers.
    pub fn new(blobs: Arc<dyn Blobs>, engine: Arc<dyn Engine>, lane: Arc<Lane>) -> Self {
        Self { blobs, engine, lane, loading: Arc::new(Permits::new(MAX_LOADED)), state: Mutex::default() }
    }

    /// The thread that has a version loaded, or now loads it.
    pub fn worker(&self, version: &Arc<Version>) -> Result<Arc<Worker>> {
        let mut state = lock(&self.state);
        if state.closed {
            let why = "the daemon is going down; try again when it is back";
            return Err(Error::new(Kind::Unavailable, why).retry_after(RETRY));
        }
        let same = |other: &Version| (&other.name, other.version) == (&version.name, version.version);
        if let Some(place) = state.loaded.iter().position(|(other, _)| same(other)) {
            let entry = state.loaded.remove(place);
            if !entry.1.has_failed() {
                let worker = entry.1.clone();
                state.loaded.push(entry);
                return Ok(worker);
            }
        }
        let name = format!("{}@{}", version.name, version.version);
        state.threads.retain(|thread| !thread.is_finished());
        if state.threads.len() >= MAX_THREADS {
            let why = "as many models are being loaded as can be; try again, or call fewer models at once";
            return Err(Error::busy(RETRY, format!("the model {name} cannot be loaded now: {why}")));
        }
        let (engine, blobs, wanted) = (self.engine.clone(), self.blobs.clone(), version.clone());
        let (worker, thread) = Worker::start(
            &name.clone(),
            engine.limits(),
            self.lane.clone(),
            self.loading.clone(),
            move || {
                folder(&*blobs, &wanted)
                    .and_then(|folder| check_files(&folder, &wanted.files).map(|()| folder))
                    .and_then(|folder| engine.load(&folder))
                    .map_err(|error| unloadable(&error).within(format!("the model {name} cannot be loaded")))
            },
        )?;
        state.threads.push(thread);
        state.loaded.push((version.clone(), worker.clone()));
        if state.loaded.len() > MAX_LOADED {
            state.loaded.remove(0).1.close();
        }
        Ok(worker)
    }

    /// A version that is loaded, as soon as it is, with the thread that has it.
    pub async fn ready(&self, version: &Arc<Version>) -> Result<(Arc<Worker>, Arc<Ready>)> {
        loop {
            let worker = self.worker(version)?;
            // It may have been unloaded to make room before it was loaded.
            if let Some(ready) = worker.ready().await? {
                return Ok((worker, ready));
            }
        }
    }

    /// The versions that are loaded or being loaded, each with its thread.
    pub(super) fn loaded(&self) -> Vec<(Arc<Version>, Arc<Worker>)> {
        lock(&self.state).loaded.clone()
    }

    /// Unloads some versions.
    pub(super) fn unload(&self, which: impl Fn(&Version) -> bool) {
        lock(&self.state).loaded.retain(|(version, worker)| {
            let goes = which(version);
            if goes {
                worker.close();
            }
            !goes
        });
    }

    /// Unloads everything and waits for the threads. Blocking.
    pub fn shut_down(&self) {
        let threads = {
            let mut state = lock(&self.state);
            state.closed = true;
            for (_, worker) in state.loaded.drain(..) {
                worker.abort();
            }
            std::mem::take(&mut state.threads)
        };
        for thread in threads {
            if thread.join().is_err() {
                tracing::error!("a model's thread panicked");
            }
        }
    }
}

/// Where a version's files can be read. Blocking.
///
/// # Errors
/// `Corrupt` when they are gone.
pub(super) fn folder(blobs: &dyn Blobs, version: &Version) -> Result<PathBuf> {
    blobs.folder(&version.name, version.version).map_err(|error| match error.kind() {
        Kind::NotFound => Error::corrupt(format!("{}; restore it or delete the version", error.message())),
        _ => error,
    })
}

/// Checks that every file of a checkpoint is there and as long as when it was published.
fn check_files(folder: &Path, files: &[FileDigest]) -> Result<()> {
    for file in files {
        let path = folder.join(&file.name);
        let size = std::fs::metadata(&path).map(|metadata| metadata.len());
        match size {
            Ok(size) if size == file.size => {}
            Ok(size) => {
                return Err(Error::corrupt(format!(
                    "{} has {size} bytes instead of {}; restore the file or delete the version",
                    path.display(),
                    file.size
                )));
            }
            Err(error) => {
                return Err(Error::corrupt(format!(
                    "{} cannot be read ({error}); restore the file or delete the version",
                    path.display()
                )));
            }
        }
    }
    Ok(())
}

/// The caller asked for a model that exists: what is wrong with its files is not the caller's fault.
fn unloadable(error: &Error) -> Error {
    let kind = match error.kind() {
        Kind::Invalid | Kind::NotFound | Kind::Exists => Kind::Precondition,
        kind => kind,
    };
    Error::new(kind, error.message())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::testing::Bench;

    #[tokio::test]
    async fn a_model_that_is_deleted_leaves_nothing_loaded() {
        let bench = Bench::new();
        let mut workers = Vec::new();
        for _ in 0..22 {
            let version = bench.publish("reviews");
            let worker = bench.models.cache.worker(&version).unwrap();
            let ready = worker.ready().await.unwrap().unwrap();
            workers.push(Arc::downgrade(&ready));
        }
        bench.models.delete("reviews").unwrap();
        assert!(lock(&bench.models.cache.state).loaded.is_empty());
        let threads = std::mem::take(&mut lock(&bench.models.cache.state).threads);
        for thread in threads {
            thread.join().unwrap();
        }
        assert!(
            workers.iter().all(|ready| ready.upgrade().is_none()),
            "what a thread had loaded goes with it"
        );
    }

    #[tokio::test]
    async fn a_damaged_model_is_named_and_the_others_go_on() {
        let bench = Bench::new();
        let (damaged, fine) = (bench.publish("reviews"), bench.publish("topics"));
        let file = bench.data.version("reviews", 1).join("model.safetensors");
        std::fs::write(&file, "short").unwrap();
        let error = bench.models.cache.worker(&damaged).unwrap().ready().await.err().unwrap();
        assert_eq!(error.kind(), Kind::Corrupt);
        assert!(error.message().contains("model.safetensors has 5 bytes"), "{error}");
        bench.models.cache.worker(&fine).unwrap().ready().await.unwrap();
        std::fs::write(&file, "weights").unwrap();
        bench.models.cache.worker(&damaged).unwrap().ready().await.unwrap();
        bench.models.cache.shut_down();
        assert_eq!(bench.models.cache.worker(&fine).err().unwrap().kind(), Kind::Unavailable);
    }

    #[tokio::test]
    async fn the_model_that_was_not_used_for_longest_is_unloaded() {
        let bench = Bench::new();
        let versions: Vec<_> = (0..6).map(|_| bench.publish("reviews")).collect();
        for version in &versions {
            bench.models.cache.worker(version).unwrap().ready().await.unwrap();
            bench.models.cache.worker(&versions[0]).unwrap();
        }
        let loaded: Vec<u32> =
            lock(&bench.models.cache.state).loaded.iter().map(|(v, _)| v.version).collect();
        assert_eq!(loaded, [4, 5, 6, 1]);
        bench.models.cache.shut_down();
    }

    #[tokio::test]
    async fn only_so_many_models_are_loaded_at_once_and_only_so_many_wait() {
        let bench = Bench::new();
        let versions: Vec<_> = (0..=MAX_THREADS).map(|_| bench.publish("reviews")).collect();
        let workers: Vec<_> = {
            let _loading: Vec<_> = (0..MAX_LOADED).map(|_| bench.models.cache.loading.take()).collect();
            let mut workers: Vec<_> =
                versions.iter().map(|version| bench.models.cache.worker(version)).collect();
            let refused = workers.pop().unwrap().err().unwrap();
            assert_eq!(refused.kind(), Kind::Exhausted);
            assert!(refused.message().contains("as many models are being loaded as can be"), "{refused}");
            workers.into_iter().map(Result::unwrap).collect()
        };
        let (gone, there) = workers.split_at(MAX_THREADS - MAX_LOADED);
        for worker in there {
            assert!(worker.ready().await.unwrap().is_some());
        }
        for worker in gone {
            assert!(worker.ready().await.unwrap().is_none());
        }
        bench.models.cache.shut_down();
    }
}
