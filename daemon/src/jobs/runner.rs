//! The one thread that has the device: takes the next job, trains it, publishes what it made.

use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

use super::registry::{Registry, change, failed};
use super::trainer::Trainer;
use hone_base::cancel::{Cancel, Reason};
use hone_base::digest;
use hone_base::error::{Error, Result};
use hone_base::panic::words;
use hone_engine::kernels::lane::aside;
use hone_storage::data_dir::{self, DataDir};
use hone_storage::{Job, Store, Time, Version};
use hone_train::event::{Event, Published, State};
use hone_train::{Control, Finished, Outcome, diagnosis};

/// What the runner works with.
pub struct Runner {
    /// Where jobs come from and go.
    pub registry: Arc<Registry>,
    /// Where versions are recorded.
    pub store: Arc<Store>,
    /// Where files lie.
    pub data: DataDir,
    /// What trains.
    pub trainer: Arc<dyn Trainer>,
}

/// How a job ended.
enum Ending {
    Published(Box<Version>),
    Stopped(Reason),
}

impl Runner {
    /// Starts the thread. It ends after `Registry::close`, when its job has stopped; the caller joins it.
    pub fn start(self) -> Result<JoinHandle<()>> {
        std::thread::Builder::new()
            .name("jobs".into())
            .spawn(move || {
                while let Some((job, cancel)) = self.registry.take() {
                    self.run(&job, &cancel);
                }
            })
            .map_err(|error| Error::internal(format!("cannot start the thread for jobs: {error}")))
    }

    fn run(&self, job: &Job, cancel: &Cancel) {
        tracing::info!(job = %job.id, model = %job.spec.name, "job started");
        let result = catch_unwind(AssertUnwindSafe(|| self.train(job, cancel))).unwrap_or_else(|panic| {
            Err(Error::internal(format!("internal error: {}; this is a bug in Hone", words(&*panic))))
        });
        let logged = self.registry.finish(&job.id, |log| match &result {
            Ok(Ending::Published(version)) => {
                let published = Published {
                    name: version.name.clone(),
                    version: version.version,
                    weights_sha256: version.weights_sha256.clone(),
                    epoch: version.epoch,
                };
                log.publish(version, &[Event::Published(published), change(State::Succeeded)])
            }
            Ok(Ending::Stopped(Reason::Cancelled)) => log.append(&job.id, &[change(State::Cancelled)]),
            Ok(Ending::Stopped(Reason::Shutdown | Reason::Paused)) => {
                log.append(&job.id, &[change(State::Interrupted)])
            }
            Err(error) => log.append(&job.id, &[failed(error)]),
        });
        match &result {
            Ok(Ending::Published(version)) => {
                tracing::info!(job = %job.id, model = %version.name, version = version.version, "job succeeded");
            }
            Ok(Ending::Stopped(reason)) => tracing::info!(job = %job.id, ?reason, "job stopped"),
            Err(error) => tracing::warn!(job = %job.id, %error, "job failed"),
        }
        if let Err(error) = logged {
            tracing::error!(job = %job.id, %error, "the end of a job cannot be logged");
            self.registry.abandon(&job.id);
        } else if !matches!(result, Ok(Ending::Stopped(_)))
            && let Err(error) = self.data.discard(&self.data.workspace(&job.id))
        {
            tracing::warn!(job = %job.id, %error, "the folder of a job that has ended stays");
        }
    }

    fn train(&self, job: &Job, cancel: &Cancel) -> Result<Ending> {
        let workspace = self.data.workspace(&job.id);
        data_dir::create(&workspace)?;
        let mut unlogged = None;
        let mut emit = |event: Event| {
            if let Err(error) = self.registry.log().append(&job.id, &[event]) {
                unlogged.get_or_insert(error);
                return ControlFlow::Break(());
            }
            cancel.reason().map_or(ControlFlow::Continue(()), |_| ControlFlow::Break(()))
        };
        let control = Control { cancel: cancel.clone(), ..Control::default() };
        let outcome = self.trainer.train(&job.spec, &self.data, &workspace, control, &mut emit);
        if let Some(error) = unlogged {
            return Err(error.within("the job's log cannot be written"));
        }
        match outcome? {
            Outcome::Finished(finished) => {
                let version = self.place(job, *finished)?;
                Ok(Ending::Published(Box::new(version)))
            }
            Outcome::Stopped => match cancel.reason() {
                Some(reason) => Ok(Ending::Stopped(reason)),
                None => {
                    Err(Error::internal("training stopped without being asked to; this is a bug in Hone"))
                }
            },
        }
    }

    /// Moves a finished checkpoint to where versions lie. It is not a version before it is recorded.
    fn place(&self, job: &Job, finished: Finished) -> Result<Version> {
        let name = &job.spec.name;
        // The last guard: whatever trained, a model with such a number is none.
        let metrics =
            std::iter::once(&finished.epoch.validation).chain(finished.test.as_ref().map(|t| &t.metrics));
        if let Some((what, value)) = metrics.filter_map(diagnosis::not_finite).next() {
            return Err(Error::precondition(format!(
                "the model is not kept, because its {what} is {}: training diverged; lower `learning_rate` (now {})",
                diagnosis::in_words(value),
                job.spec.hyperparameters.learning_rate
            )));
        }
        let files = aside(|| digest::of_folder(&finished.folder))?;
        let version = self.store.reserve_version(name)?;
        data_dir::publish_folder(&finished.folder, &self.data.version(name, version))?;
        Ok(Version {
            name: name.clone(),
            version,
            created: Time::now(),
            job: job.id.clone(),
            epoch: finished.epoch.epoch,
            weights_sha256: finished.weights_sha256,
            files,
            labels: finished.labels,
            max_length: finished.max_length,
            validation: finished.epoch.validation,
            test: finished.test.map(|test| test.metrics),
            encoder: job.spec.encoder.clone(),
        })
    }
}

/// Removes the folders of versions that were never recorded, or whose records were deleted when the daemon stopped.
pub fn sweep(data: &DataDir, store: &Store) -> Result<()> {
    // A version whose record cannot be read is a version all the same.
    let versions = store.version_numbers()?;
    let known = |name: &str, version: &str| {
        versions.iter().any(|(model, number)| model == name && number.to_string() == version)
    };
    for (name, folder) in folders(&data.models())? {
        for (version, folder) in folders(&folder)? {
            if !known(&name, &version) {
                tracing::info!(folder = %folder.display(), "removing a checkpoint that is no version");
                data.discard(&folder)?;
            }
        }
    }
    Ok(())
}

fn folders(folder: &Path) -> Result<Vec<(String, std::path::PathBuf)>> {
    let failed = |error| Error::io("list", folder, &error);
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if entry.path().is_dir() {
            found.push((entry.file_name().to_string_lossy().into_owned(), entry.path()));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jobs::log::Log;
    use crate::jobs::testing::{FakeTrainer, Home, spec};
    use hone_base::error::Kind;

    struct Bench {
        registry: Arc<Registry>,
        store: Arc<Store>,
        data: DataDir,
        thread: Option<JoinHandle<()>>,
        _home: Home,
    }

    impl Bench {
        fn new() -> Self {
            let home = Home::new();
            let (data, store) = (home.data(), Arc::new(home.store()));
            let registry = Arc::new(Registry::open(store.clone(), Log::new(store.clone()), 8).unwrap());
            let runner = Runner {
                registry: registry.clone(),
                store: store.clone(),
                data: data.clone(),
                trainer: Arc::new(FakeTrainer),
            };
            Self { registry, store, data, thread: Some(runner.start().unwrap()), _home: home }
        }

        fn submit(&self, name: &str) -> String {
            self.registry.submit(&spec(name)).unwrap().job.id
        }

        fn wait(&self, id: &str, until: impl Fn(&crate::jobs::registry::JobView) -> bool) -> Job {
            for _ in 0..1000 {
                let view = self.registry.get(id).unwrap();
                if until(&view) {
                    return view.job;
                }
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
            panic!("job {id} does not get there: {:?}", self.registry.get(id));
        }

        fn ended(&self, id: &str) -> Job {
            self.wait(id, |view| view.job.state.is_final())
        }

        fn stop(&mut self) {
            self.registry.close();
            self.thread.take().unwrap().join().unwrap();
        }
    }

    #[test]
    fn a_job_that_succeeds_publishes_a_version_and_leaves_no_workspace() {
        let mut bench = Bench::new();
        let id = bench.submit("reviews");
        assert_eq!(bench.ended(&id).state, State::Succeeded);
        let again = bench.submit("reviews");
        assert_eq!(bench.ended(&again).state, State::Succeeded);
        bench.stop();
        let model = bench.store.models().unwrap().records.remove(0);
        assert_eq!(model.versions.iter().map(|v| v.version).collect::<Vec<_>>(), [2, 1]);
        assert_eq!(model.aliases[0].version, 2);
        assert_eq!(model.versions[0].files[0].name, "config.json");
        assert!(bench.data.version("reviews", 2).join("model.safetensors").exists());
        assert!(!bench.data.workspace(&id).exists());
        let view = bench.registry.get(&id).unwrap();
        assert_eq!(view.results.published.unwrap().version, 1);
        assert_eq!(view.results.epochs.len(), 1);
    }

    #[test]
    fn a_failure_and_a_panic_end_their_job_and_nothing_else() {
        let mut bench = Bench::new();
        let (failing, panicking, fine) =
            (bench.submit("fail"), bench.submit("panic"), bench.submit("reviews"));
        let failure = bench.ended(&failing).failure.unwrap();
        assert_eq!((failure.kind, failure.message.as_str()), (Kind::Exhausted, "out of memory"));
        let failure = bench.ended(&panicking).failure.unwrap();
        assert_eq!(failure.kind, Kind::Internal);
        assert_eq!(failure.message, "internal error: index out of bounds; this is a bug in Hone");
        assert_eq!(bench.ended(&fine).state, State::Succeeded);
        bench.stop();
        assert!(!bench.data.workspace(&failing).exists());
    }

    #[test]
    fn a_running_job_is_cancelled_at_its_next_step_and_keeps_its_workspace() {
        let mut bench = Bench::new();
        let id = bench.submit("endless");
        bench.wait(&id, |view| view.job.last_event > 5);
        bench.registry.cancel(&id).unwrap();
        assert_eq!(bench.ended(&id).state, State::Cancelled);
        bench.stop();
        assert!(bench.data.workspace(&id).exists());
    }

    #[test]
    fn going_down_interrupts_the_running_job_and_leaves_the_queue() {
        let mut bench = Bench::new();
        let (running, queued) = (bench.submit("endless"), bench.submit("reviews"));
        bench.wait(&running, |view| view.job.last_event > 5);
        bench.stop();
        assert_eq!(bench.registry.get(&running).unwrap().job.state, State::Interrupted);
        assert_eq!(bench.registry.get(&queued).unwrap().job.state, State::Queued);
    }

    #[test]
    fn a_checkpoint_without_a_record_is_swept() {
        let mut bench = Bench::new();
        let id = bench.submit("reviews");
        bench.ended(&id);
        bench.stop();
        let orphan = bench.data.version("reviews", 7);
        data_dir::create(&orphan).unwrap();
        sweep(&bench.data, &bench.store).unwrap();
        assert!(!orphan.exists());
        assert!(bench.data.version("reviews", 1).exists());
    }

    #[test]
    fn a_version_whose_record_is_damaged_keeps_its_folder() {
        let mut bench = Bench::new();
        let id = bench.submit("reviews");
        bench.ended(&id);
        bench.stop();
        let database = rusqlite::Connection::open(bench.data.database()).unwrap();
        database.execute("UPDATE versions SET record = '{}'", []).unwrap();
        sweep(&bench.data, &bench.store).unwrap();
        assert!(bench.data.version("reviews", 1).exists());
    }

    #[test]
    fn a_model_whose_loss_is_no_number_is_not_published() {
        let mut bench = Bench::new();
        let id = bench.submit("nan");
        let failure = bench.ended(&id).failure.unwrap();
        assert_eq!(failure.kind, Kind::Precondition);
        assert!(
            failure.message.contains("its loss is NaN") && failure.message.contains("`learning_rate`"),
            "{failure:?}"
        );
        bench.stop();
        assert_eq!(bench.store.version_numbers().unwrap(), []);
    }
}
