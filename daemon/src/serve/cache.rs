//! Versions to the threads that have them loaded: as many at once as the memory for models holds.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;

use super::dispatcher::Dispatcher;
use super::load::Loader;
use super::memory::{Held, leaving};
use super::options::{RETRY, going_down};
use super::permits::Permits;
use super::worker::{Ready, Stage, Worker};
use crate::metrics::Metrics;
use hone_base::digest::FileDigest;
use hone_base::error::{Error, Kind, Result};
use hone_base::panic::lock;
use hone_data::in_words;
use hone_storage::{Blobs, ServePrecision, Version};

/// Models that are loaded at the same time.
const LOADING: usize = 4;

/// Threads of models at most: those that load one, and those that wait for their turn.
const MAX_THREADS: usize = 4 * LOADING;

/// The models that are loaded.
pub struct Cache {
    blobs: Arc<dyn Blobs>,
    loader: Arc<Loader>,
    dispatcher: Arc<Dispatcher>,
    metrics: Arc<Metrics>,
    /// One is held while a model is loaded.
    loading: Arc<Permits>,
    /// Bytes of all models together.
    budget: u64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The one that was used last stands last.
    loaded: Vec<Entry>,
    /// Names and numbers of versions that stay when they are loaded.
    pinned: HashSet<(String, u32)>,
    /// What models by their names are to answer in, if they have a setting of their own.
    precisions: HashMap<String, ServePrecision>,
    /// Bytes that are taken beside the loaded models.
    beside: u64,
    threads: Vec<JoinHandle<()>>,
    closed: bool,
}

/// A version that is loaded or being loaded.
struct Entry {
    version: Arc<Version>,
    worker: Arc<Worker>,
}

impl Entry {
    fn is(&self, version: &Version) -> bool {
        (&self.version.name, self.version.version) == (&version.name, version.version)
    }

    /// What it takes; before it is loaded, what its files have.
    fn bytes(&self) -> u64 {
        match self.worker.stage() {
            Stage::Ready(ready) => ready.bytes,
            Stage::Loading => self.version.size(),
            Stage::Failed(_) | Stage::Unloaded => 0,
        }
    }
}

impl State {
    fn is_pinned(&self, version: &Version) -> bool {
        self.pinned.contains(&(version.name.clone(), version.version))
    }

    fn held(&self) -> Vec<Held> {
        let held = |entry: &Entry| Held {
            bytes: entry.bytes(),
            stays: entry.worker.is_in_use() || self.is_pinned(&entry.version),
        };
        self.loaded.iter().map(held).collect()
    }

    /// The loaded models in words, each with what keeps it.
    fn in_words(&self) -> String {
        let entry = |entry: &Entry| {
            let why = match (self.is_pinned(&entry.version), entry.worker.is_in_use()) {
                (true, _) => ", pinned",
                (false, true) => ", in use",
                (false, false) => "",
            };
            format!("{} ({}{why})", entry.version.reference(), in_words(entry.bytes()))
        };
        match self.loaded.is_empty() {
            true => "none is loaded".to_owned(),
            false => format!("loaded are {}", self.loaded.iter().map(entry).collect::<Vec<_>>().join(", ")),
        }
    }
}

impl Cache {
    /// None is loaded before it is asked for. The dispatcher has them computed; all models together take at most `budget`
    /// bytes.
    pub fn new(
        blobs: Arc<dyn Blobs>,
        loader: Loader,
        dispatcher: Arc<Dispatcher>,
        metrics: Arc<Metrics>,
        budget: u64,
    ) -> Self {
        let (loader, loading) = (Arc::new(loader), Arc::new(Permits::new(LOADING)));
        Self { blobs, loader, dispatcher, metrics, loading, budget, state: Mutex::default() }
    }

    /// The thread that has a version loaded, or now loads it.
    ///
    /// # Errors
    ///
    /// `Exhausted` when the models that are in use or pinned leave no room for it.
    pub fn worker(&self, version: &Arc<Version>) -> Result<Arc<Worker>> {
        let mut state = lock(&self.state);
        if state.closed {
            return Err(going_down());
        }
        if let Some(place) = state.loaded.iter().position(|entry| entry.is(version)) {
            let entry = state.loaded.remove(place);
            if !matches!(entry.worker.stage(), Stage::Failed(_)) {
                let worker = entry.worker.clone();
                state.loaded.push(entry);
                return Ok(worker);
            }
        }
        check_threads(&mut state, version)?;
        self.make_room(&mut state, version)?;
        let worker = self.start(&mut state, version)?;
        state.loaded.push(Entry { version: version.clone(), worker: worker.clone() });
        Ok(worker)
    }

    /// Unloads what was not used for longest until there is room for a version.
    fn make_room(&self, state: &mut MutexGuard<'_, State>, version: &Version) -> Result<()> {
        let wanted = version.size();
        let budget = self.budget.saturating_sub(state.beside);
        let Some(leaving) = leaving(&state.held(), wanted, budget) else {
            let why = format!(
                "there is no room for the model {}, which takes {}, among {} for all models (--model-memory): {}; try again, \
                 unload one, or give models more memory",
                version.reference(),
                in_words(wanted),
                in_words(budget),
                state.in_words()
            );
            return Err(Error::busy(RETRY, why));
        };
        for place in leaving.into_iter().rev() {
            state.loaded.remove(place).worker.close();
        }
        Ok(())
    }

    /// Starts the thread that loads a version.
    fn start(&self, state: &mut MutexGuard<'_, State>, version: &Arc<Version>) -> Result<Arc<Worker>> {
        let name = version.reference();
        let asked = state.precisions.get(&version.name).copied();
        let (loader, blobs, wanted) = (self.loader.clone(), self.blobs.clone(), version.clone());
        let metrics = self.metrics.models.model(&version.name);
        let (dispatcher, loading) = (self.dispatcher.clone(), self.loading.clone());
        let (worker, thread) = Worker::start(&name.clone(), dispatcher, loading, metrics, move || {
            folder(&*blobs, &wanted)
                .and_then(|folder| check_files(&folder, &wanted.files).map(|()| folder))
                .and_then(|folder| loader.load(&folder, &wanted, asked))
                .map_err(|error| unloadable(&error).within(format!("the model {name} cannot be loaded")))
        })?;
        state.threads.push(thread);
        Ok(worker)
    }

    /// A version that is loaded, as soon as it is. It stays loaded as long as what is returned is held.
    ///
    /// # Errors
    ///
    /// As [`Cache::worker`], and whatever failed the loading.
    pub async fn ready(&self, version: &Arc<Version>) -> Result<Arc<Ready>> {
        loop {
            let worker = self.worker(version)?;
            // It may have been unloaded to make room before it was loaded.
            if let Some(ready) = worker.ready().await? {
                return Ok(ready);
            }
        }
    }

    /// Loads a version anew, if it is loaded, and lets the new one answer once it is ready. Both are in memory meanwhile.
    pub(super) async fn reload(&self, version: &Arc<Version>) -> Result<()> {
        let worker = {
            let mut state = lock(&self.state);
            check_threads(&mut state, version)?;
            self.start(&mut state, version)?
        };
        let loaded = worker.ready().await;
        let mut state = lock(&self.state);
        match state.loaded.iter_mut().find(|entry| entry.is(version)).filter(|_| loaded.is_ok()) {
            Some(entry) => std::mem::replace(&mut entry.worker, worker).close(),
            None => worker.close(),
        }
        loaded.map(drop)
    }

    /// The versions of a model that are loaded.
    pub(super) fn loaded(&self, name: &str) -> Vec<Arc<Version>> {
        let state = lock(&self.state);
        let of_model = state.loaded.iter().filter(|entry| entry.version.name == name);
        of_model.map(|entry| entry.version.clone()).collect()
    }

    /// Keeps a version, once it is loaded, or lets it go when others need the room.
    pub(super) fn pin(&self, version: &Version, pinned: bool) {
        let (mut state, key) = (lock(&self.state), (version.name.clone(), version.version));
        match pinned {
            true => state.pinned.insert(key),
            false => state.pinned.remove(&key),
        };
    }

    /// What a model is to answer in from the next time on that it is loaded; `None` leaves it to the daemon.
    pub(super) fn set_precision(&self, name: &str, precision: Option<ServePrecision>) {
        let mut state = lock(&self.state);
        match precision {
            Some(precision) => state.precisions.insert(name.to_owned(), precision),
            None => state.precisions.remove(name),
        };
    }

    /// What a model is to answer in, if it has a setting of its own.
    pub(super) fn precision_of(&self, name: &str) -> Option<ServePrecision> {
        lock(&self.state).precisions.get(name).copied()
    }

    /// Leaves room for what takes memory beside the loaded models.
    pub(super) fn set_beside(&self, bytes: u64) {
        lock(&self.state).beside = bytes;
    }

    /// What loads models.
    pub(super) fn loader(&self) -> Arc<Loader> {
        self.loader.clone()
    }

    /// How far a version is, if somebody wanted it, and how many bytes it takes.
    pub(super) fn stage(&self, version: &Version) -> Option<(Stage, u64)> {
        let state = lock(&self.state);
        let entry = state.loaded.iter().find(|entry| entry.is(version))?;
        Some((entry.worker.stage(), entry.bytes()))
    }

    /// Unloads some versions. What was queued is answered first.
    pub(super) fn unload(&self, which: impl Fn(&Version) -> bool) {
        lock(&self.state).loaded.retain(|entry| {
            let goes = which(&entry.version);
            if goes {
                entry.worker.close();
            }
            !goes
        });
    }

    /// Unloads everything and waits for the threads. Blocking.
    pub fn shut_down(&self) {
        let threads = {
            let mut state = lock(&self.state);
            state.closed = true;
            for entry in state.loaded.drain(..) {
                entry.worker.close();
            }
            std::mem::take(&mut state.threads)
        };
        for thread in threads {
            if thread.join().is_err() {
                tracing::error!("a model's thread panicked");
            }
        }
        self.dispatcher.shut_down();
    }
}

/// Fails when no further thread may be started for a version.
fn check_threads(state: &mut State, version: &Version) -> Result<()> {
    state.threads.retain(|thread| !thread.is_finished());
    if state.threads.len() < MAX_THREADS {
        return Ok(());
    }
    let why = "as many models are being loaded as can be; try again, or call fewer models at once";
    Err(Error::busy(RETRY, format!("the model {} cannot be loaded now: {why}", version.reference())))
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

    /// The loaded versions, the one that was used last at the end.
    fn loaded(bench: &Bench) -> Vec<u32> {
        lock(&bench.models.cache.state).loaded.iter().map(|entry| entry.version.version).collect()
    }

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
    async fn the_model_that_was_not_used_for_longest_makes_room() {
        let bench = Bench::with_memory(40);
        let versions: Vec<_> = (0..6).map(|_| bench.publish_sized("reviews", 10)).collect();
        for version in &versions {
            drop(bench.models.cache.ready(version).await.unwrap());
            drop(bench.models.cache.ready(&versions[0]).await.unwrap());
        }
        assert_eq!(loaded(&bench), [4, 5, 6, 1]);
        bench.models.cache.shut_down();
    }

    #[tokio::test]
    async fn a_model_in_use_stays_and_one_without_room_is_refused_with_what_is_loaded() {
        let bench = Bench::with_memory(25);
        let [first, second, third] = [10, 10, 20].map(|bytes| bench.publish_sized("reviews", bytes));
        let used = bench.models.cache.ready(&first).await.unwrap();
        drop(bench.models.cache.ready(&second).await.unwrap());
        let error = bench.models.cache.ready(&third).await.err().unwrap();
        assert_eq!(error.kind(), Kind::Exhausted);
        for words in ["reviews@3, which takes 20 bytes", "reviews@1 (10 bytes, in use), reviews@2 (10 bytes)"]
        {
            assert!(error.message().contains(words), "{error}");
        }
        assert_eq!(loaded(&bench), [1, 2], "nothing leaves for one that finds no room all the same");
        drop(used);
        drop(bench.models.cache.ready(&third).await.unwrap());
        assert_eq!(loaded(&bench), [3]);
        let large = bench.publish_sized("reviews", 26);
        assert_eq!(bench.models.cache.ready(&large).await.err().unwrap().kind(), Kind::Exhausted);
        bench.models.cache.shut_down();
    }

    #[tokio::test]
    async fn only_so_many_models_are_loaded_at_once_and_only_so_many_wait() {
        let bench = Bench::new();
        let versions: Vec<_> = (0..=MAX_THREADS).map(|_| bench.publish("reviews")).collect();
        let workers: Vec<_> = {
            let _loading: Vec<_> = (0..LOADING).map(|_| bench.models.cache.loading.take()).collect();
            let mut workers: Vec<_> =
                versions.iter().map(|version| bench.models.cache.worker(version)).collect();
            let refused = workers.pop().unwrap().err().unwrap();
            assert_eq!(refused.kind(), Kind::Exhausted);
            assert!(refused.message().contains("as many models are being loaded as can be"), "{refused}");
            workers.into_iter().map(Result::unwrap).collect()
        };
        for worker in workers {
            assert!(worker.ready().await.unwrap().is_some());
        }
        bench.models.cache.shut_down();
    }
}
