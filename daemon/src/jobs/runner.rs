//! The one thread that has the device: takes the next job, trains it, publishes what it made.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::thread::JoinHandle;

use super::promoter::{self, Promoter};
use super::registry::{End, Publication, Registry};
use super::trainer::Trainer;
use crate::metrics::{self, Metrics};
use crate::trace::Tracer;
use hone_base::cancel::{Cancel, Reason};
use hone_base::digest;
use hone_base::error::{Error, Result};
use hone_base::panic::guarded;
use hone_base::status;
use hone_engine::kernels::lane::aside;
use hone_engine::model::checkpoint::WEIGHTS;
use hone_storage::data_dir::{self, DataDir, Lock};
use hone_storage::{Blobs, Catalog, Job, Time, Version};
use hone_train::event::TrainEvent;
use hone_train::{Control, Finished, Outcome, diagnosis};

/// What the runner works with.
pub struct Runner {
    /// Where jobs come from and go.
    pub registry: Arc<Registry>,
    /// Where versions are recorded.
    pub store: Arc<dyn Catalog>,
    /// Where jobs work.
    pub data: DataDir,
    /// Where data sets are and checkpoints go.
    pub blobs: Arc<dyn Blobs>,
    /// What trains.
    pub trainer: Arc<dyn Trainer>,
    /// What makes a version ready that an alias is to point at.
    pub promoter: Arc<dyn Promoter>,
    /// Where the running job is told of.
    pub metrics: Arc<Metrics>,
    /// Where it is traced.
    pub tracer: Tracer,
}

/// How a run of a job ended that did not fail.
enum Ending {
    Published(Box<Publication>),
    Stopped(Reason),
}

impl Runner {
    /// Starts the thread. It ends after `Registry::close`, when its job has stopped; the caller joins it. It holds the data
    /// folder as long as it may write there, whatever becomes of the caller.
    pub fn start(self, lock: Arc<Lock>) -> Result<JoinHandle<()>> {
        std::thread::Builder::new()
            .name("jobs".into())
            .spawn(move || {
                let _lock = lock;
                while let Some((job, cancel)) = self.registry.take() {
                    let parent = self.registry.traces().of(&job.id);
                    let traced = Arc::new(self.tracer.job(&job.id, &job.spec.name, parent));
                    let code = traced.scope(|| self.run(&job, &cancel));
                    traced.end(code, code != metrics::OK && code != metrics::CANCELLED);
                }
            })
            .map_err(|error| Error::internal(format!("cannot start the thread for jobs: {error}")))
    }

    /// Runs a job to its end; the code that tells of it.
    fn run(&self, job: &Job, cancel: &Cancel) -> &'static str {
        tracing::info!(job = %job.id, model = %job.spec.name, "job started");
        let result = guarded(|| self.train(job, cancel));
        let mut code = metrics::OK;
        let end = match &result {
            Ok(Ending::Published(publication)) => {
                let version = &publication.version;
                tracing::info!(job = %job.id, model = %version.name, version = version.version, "job succeeded");
                End::Published(publication)
            }
            Ok(Ending::Stopped(reason)) => {
                tracing::info!(job = %job.id, ?reason, "job stopped");
                code = metrics::CANCELLED;
                End::Stopped(*reason)
            }
            Err(error) => {
                tracing::warn!(job = %job.id, %error, "job failed");
                code = metrics::code_name(status::code(error.kind()) as i32);
                End::Failed(error)
            }
        };
        if let Err(error) = self.registry.finish(&job.id, &end) {
            tracing::error!(job = %job.id, %error, "the end of a job cannot be logged");
            self.registry.abandon(&job.id);
        }
        code
    }

    fn train(&self, job: &Job, cancel: &Cancel) -> Result<Ending> {
        let workspace = self.data.workspace(&job.id);
        data_dir::create(&workspace)?;
        let mut unlogged = None;
        let seen = self.registry.log().seen(&job.id)?;
        let mut running = self.metrics.jobs.running(&job.spec.name, seen.step());
        let mut emit = |event: TrainEvent| {
            running.told(&event);
            if let Err(error) = self.registry.log().append(&job.id, &[event.into()]) {
                unlogged.get_or_insert(error);
                return ControlFlow::Break(());
            }
            if cancel.is_asked() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let control = Control { cancel: cancel.clone(), seen, ..Control::default() };
        let outcome = self.trainer.train(&job.spec, &*self.blobs, &workspace, control, &mut emit);
        if let Some(error) = unlogged {
            return Err(error.within("the job's log cannot be written"));
        }
        match outcome? {
            Outcome::Finished(finished) => {
                let version = self.place(job, *finished)?;
                let (alias, notice) = match &job.spec.promotion {
                    Some(promotion) => {
                        let (store, promoter) = (&*self.store, &*self.promoter);
                        let (alias, notice) = promoter::decide(promotion, &version, store, promoter)?;
                        (alias, Some(notice))
                    }
                    None => (None, None),
                };
                Ok(Ending::Published(Box::new(Publication { version, alias, notice })))
            }
            Outcome::Stopped => match cancel.reason() {
                Some(reason) => Ok(Ending::Stopped(reason)),
                None => {
                    Err(Error::internal("training stopped without being asked to; this is a bug in Hone"))
                }
            },
        }
    }

    /// Puts a finished checkpoint to where versions lie. It is not a version before it is recorded; until then the job's own
    /// folder stays whole, so that a job that is interrupted here continues like any other.
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
        // The weights were hashed when they were written.
        let known = [(WEIGHTS, finished.weights_sha256.as_str())];
        let files = aside(|| digest::of_folder_but(&finished.folder, &known))?;
        let version = self.store.reserve_version(name)?;
        self.blobs.put_folder(&finished.folder, name, version)?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jobs::log::Log;
    use crate::jobs::registry::{JobView, Policy};
    use crate::jobs::restart::ResumeJobs;
    use crate::jobs::testing::{FakePromoter, FakeTrainer, Home, spec};
    use hone_base::error::Kind;
    use hone_storage::{JobEvent, State};
    use hone_train::promotion::Promotion;

    struct Bench {
        registry: Arc<Registry>,
        store: Arc<dyn Catalog>,
        data: DataDir,
        thread: Option<JoinHandle<()>>,
        home: Home,
    }

    impl Bench {
        fn new() -> Self {
            let home = Home::new();
            let ((data, lock), store) = (DataDir::open(home.path()).unwrap(), home.store());
            let policy = Policy { bound: 8, resume: ResumeJobs::Auto };
            let log = Log::new(store.clone());
            let registry = Arc::new(Registry::open(store.clone(), log, data.clone(), policy).unwrap());
            let runner = Runner {
                registry: registry.clone(),
                store: store.clone(),
                data: data.clone(),
                blobs: Arc::new(data.clone()),
                trainer: Arc::new(FakeTrainer),
                promoter: Arc::new(FakePromoter),
                metrics: Arc::new(Metrics::new().unwrap()),
                tracer: Tracer::default(),
            };
            Self { registry, store, data, thread: Some(runner.start(Arc::new(lock)).unwrap()), home }
        }

        fn submit(&self, name: &str) -> String {
            self.registry.submit(&spec(name)).unwrap().job.id
        }

        fn wait(&self, id: &str, until: impl Fn(&JobView) -> bool) -> Job {
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
    fn a_running_job_is_cancelled_at_its_next_step_and_leaves_no_workspace() {
        let mut bench = Bench::new();
        let id = bench.submit("endless");
        bench.wait(&id, |view| view.job.last_event > 5);
        bench.registry.cancel(&id).unwrap();
        assert_eq!(bench.ended(&id).state, State::Cancelled);
        bench.stop();
        assert!(!bench.data.workspace(&id).exists());
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
    fn a_paused_job_leaves_the_device_to_the_next_one_and_keeps_its_workspace() {
        let mut bench = Bench::new();
        let (paused, next) = (bench.submit("endless"), bench.submit("reviews"));
        bench.wait(&paused, |view| view.job.last_event > 5);
        bench.registry.pause(&paused).unwrap();
        assert_eq!(bench.ended(&next).state, State::Succeeded);
        assert_eq!(bench.registry.get(&paused).unwrap().job.state, State::Paused);
        assert!(bench.data.workspace(&paused).exists());
        bench.registry.resume(&paused).unwrap();
        bench.wait(&paused, |view| view.job.state == State::Running);
        bench.stop();
        assert_eq!(bench.registry.get(&paused).unwrap().job.state, State::Interrupted);
    }

    #[test]
    fn the_data_folder_is_taken_as_long_as_a_job_runs() {
        let mut bench = Bench::new();
        let id = bench.submit("endless");
        bench.wait(&id, |view| view.job.last_event > 5);
        assert_eq!(DataDir::open(bench.home.path()).unwrap_err().kind(), Kind::Unavailable);
        bench.stop();
        DataDir::open(bench.home.path()).unwrap();
    }

    #[test]
    fn an_alias_points_at_the_result_if_its_condition_holds_and_the_decision_is_in_the_log() {
        let mut bench = Bench::new();
        let run = |name: &str, condition: &str| {
            let mut spec = spec(name);
            spec.promotion = Some(Promotion { condition: condition.parse().unwrap(), alias: "live".into() });
            let id = bench.registry.submit(&spec).unwrap().job.id;
            assert_eq!(bench.ended(&id).state, State::Succeeded);
            let page = bench.store.events_after(&id, 0, 100).unwrap().unwrap();
            let mut notices = page.entries.into_iter().filter_map(|entry| match entry.event {
                JobEvent::Notice { message } => Some(message),
                _ => None,
            });
            let model = bench.store.models().unwrap().records.into_iter().find(|model| model.name == name);
            let live = model.unwrap().aliases.into_iter().find(|alias| alias.name == "live");
            (live.map(|alias| alias.version), notices.next_back().unwrap())
        };
        let (live, notice) = run("reviews", "accuracy >= current");
        assert_eq!(live, Some(1));
        assert!(notice.starts_with("promoted (accuracy >= current): accuracy 0.9000"), "{notice}");
        let (live, notice) = run("reviews", "accuracy > current");
        assert_eq!(live, Some(1));
        let words = "not promoted (accuracy > current): accuracy 0.9000 is not > 0.9000 on the validation rows; \
                     reviews@live stays at version 1";
        assert_eq!(notice, words);
        assert_eq!(run("reviews", "accuracy > 0.5").0, Some(3));
        let (live, notice) = run("unloadable", "accuracy > 0.5");
        assert!(
            live.is_none() && notice.contains("although accuracy") && notice.contains("damaged"),
            "{notice}"
        );
        bench.stop();
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
