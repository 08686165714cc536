//! What blocks on its own lane or thread holds nothing else up, on lanes of 1, 2 and 4 threads.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex};

use super::*;
use crate::jobs::trainer::Emit;
use crate::serve::engine::{Loaded, Score};
use crate::serve::precision::{Offer, Precision};
use crate::serve::queue::Limits;
use hone_base::cancel::Cancel;
use hone_base::panic::lock;
use hone_data::Columns;
use hone_data::dataset::{Format, Summary};
use hone_engine::batch::Batch;
use hone_engine::model::backend::Threads;
use hone_train::spec::Spec;
use hone_train::{Control, DryRun, Outcome};

const THREADS: [usize; 3] = [1, 2, 4];

/// A call with more texts than one task turns into tokens.
const TEXTS: [&str; 40] = ["good"; 40];

/// Whoever comes waits until it is opened.
#[derive(Clone, Default)]
struct Latch(Arc<(Mutex<bool>, Condvar)>);

impl Latch {
    fn open(&self) {
        *lock(&self.0.0) = true;
        self.0.1.notify_all();
    }

    fn wait(&self) {
        drop(self.0.1.wait_while(lock(&self.0.0), |open| !*open).unwrap());
    }

    async fn opened(&self) {
        let latch = self.clone();
        in_time(tokio::task::spawn_blocking(move || latch.wait())).await.unwrap();
    }
}

/// Opens a latch when a test ends, whatever its end.
struct OpenAtEnd(Latch);

impl Drop for OpenAtEnd {
    fn drop(&mut self) {
        self.0.open();
    }
}

/// Fails where something is held up.
async fn in_time<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), what).await.expect("held up")
}

/// What a test and its doubles tell each other.
#[derive(Clone, Default)]
struct Signals {
    /// A batch has all threads of its lane.
    crowded: Latch,
    /// What blocks has begun.
    blocked: Latch,
    /// It may go on.
    release: Latch,
}

/// Its job `blocked` blocks where it trains.
struct BlockedTrainer {
    lanes: Lanes,
    signals: Signals,
}

impl Trainer for BlockedTrainer {
    fn check_encoder(&self, _: &str) -> Result<()> {
        Ok(())
    }

    fn check(&self, _: &Spec, _: &dyn Blobs, _: &Cancel) -> Result<()> {
        Ok(())
    }

    fn dry_run(&self, spec: &Spec, data: &dyn Blobs, cancel: &Cancel) -> Result<DryRun> {
        FakeTrainer.dry_run(spec, data, cancel)
    }

    fn train(
        &self,
        spec: &Spec,
        data: &dyn Blobs,
        workspace: &Path,
        control: Control,
        emit: &mut Emit<'_>,
    ) -> Result<Outcome> {
        let blocks = spec.name == "blocked";
        let lane = &self.lanes.training;
        lane.run_asking(
            |ask| {
                if blocks {
                    self.signals.blocked.open();
                    self.signals.release.wait();
                }
                FakeTrainer.train(spec, data, workspace, control, ask)
            },
            emit,
        )
    }
}

/// Its batches have all threads of the lane, one of which waits for the others as rayon does: it takes whatever it
/// finds. They go on when something has blocked. Its model `heavy` blocks where it is loaded.
struct CrowdingEngine {
    engine: FakeEngine,
    signals: Signals,
}

impl Engine for CrowdingEngine {
    fn load(&self, folder: &Path, precision: Precision) -> Result<Loaded> {
        if folder.parent().unwrap().ends_with("heavy") {
            self.signals.blocked.open();
            self.signals.release.wait();
        }
        let Loaded { tokenizer, model, bytes } = self.engine.load(folder, precision)?;
        let model = Box::new(CrowdingModel { model, signals: self.signals.clone() });
        Ok(Loaded { tokenizer, model, bytes })
    }

    fn offer(&self) -> Result<Offer> {
        self.engine.offer()
    }

    fn limits(&self) -> Limits {
        self.engine.limits()
    }
}

struct CrowdingModel {
    model: Box<dyn Score>,
    signals: Signals,
}

impl Score for CrowdingModel {
    fn labels(&self) -> &[String] {
        self.model.labels()
    }

    fn thresholds(&self) -> Option<&[f32]> {
        self.model.thresholds()
    }

    fn logits(&self, batch: &Batch, threads: Threads) -> Result<Vec<f32>> {
        let others = rayon::current_num_threads() - 1;
        let busy = AtomicUsize::new(0);
        let Signals { crowded, blocked, .. } = &self.signals;
        rayon::scope(|scope| {
            for _ in 0..others {
                scope.spawn(|_| {
                    busy.fetch_add(1, Ordering::SeqCst);
                    blocked.wait();
                });
            }
            while busy.load(Ordering::SeqCst) < others {
                std::thread::yield_now();
            }
            crowded.open();
        });
        self.model.logits(batch, threads)
    }
}

/// Reads a file as the other double does; one that says `wait for PATH` once there is such a path.
fn read(
    path: &Path,
    name: &str,
    format: Option<Format>,
    columns: &Columns,
    limits: hone_data::Limits,
) -> Result<(Format, Summary)> {
    let text = std::fs::read_to_string(path).unwrap();
    if let Some(awaited) = text.strip_prefix("wait for ") {
        std::fs::write(format!("{awaited}.begun"), "").unwrap();
        while !Path::new(awaited).exists() {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    testing::read(path, name, format, columns, limits)
}

async fn start(home: &Home, threads: usize, signals: &Signals) -> Harness {
    let lanes = Lanes::new(threads.try_into().unwrap()).unwrap();
    let compute = Compute {
        trainer: Arc::new(BlockedTrainer { lanes: lanes.clone(), signals: signals.clone() }),
        engine: Arc::new(CrowdingEngine { engine: FakeEngine::default(), signals: signals.clone() }),
        lanes,
        reader: read,
    };
    let daemon = Harness::start_with(home, compute).await;
    daemon.train("reviews").await;
    daemon
}

async fn call(daemon: &Harness, model: &str) -> usize {
    let answer = in_time(daemon.inference().classify(texts(model, &TEXTS))).await;
    answer.unwrap().into_inner().predictions.len()
}

#[tokio::test]
async fn a_job_that_blocks_holds_no_request_up() {
    for threads in THREADS {
        let (home, signals) = (Home::new(), Signals::default());
        let _end = OpenAtEnd(signals.release.clone());
        let daemon = start(&home, threads, &signals).await;
        let (mut client, request) = (daemon.inference(), texts("reviews", &TEXTS));
        let before = tokio::spawn(async move { client.classify(request).await });
        signals.crowded.opened().await;
        let job = daemon.submit("blocked").await;
        signals.blocked.opened().await;
        assert_eq!(in_time(before).await.unwrap().unwrap().into_inner().predictions.len(), TEXTS.len());
        assert_eq!(call(&daemon, "reviews").await, TEXTS.len());
        signals.release.open();
        let mut events = daemon.watch(&job.id, 0).await;
        while in_time(events.message()).await.unwrap().is_some() {}
        daemon.stop().await;
    }
}

#[tokio::test]
async fn a_model_whose_loading_blocks_holds_no_other_request_and_no_job_up() {
    for threads in THREADS {
        let (home, signals) = (Home::new(), Signals::default());
        let _end = OpenAtEnd(signals.release.clone());
        let daemon = start(&home, threads, &signals).await;
        daemon.train("heavy").await;
        let (mut client, request) = (daemon.inference(), texts("heavy", &TEXTS));
        let waiting = tokio::spawn(async move { client.classify(request).await });
        signals.blocked.opened().await;
        assert_eq!(call(&daemon, "reviews").await, TEXTS.len());
        in_time(daemon.train("topics")).await;
        signals.release.open();
        assert_eq!(in_time(waiting).await.unwrap().unwrap().into_inner().predictions.len(), TEXTS.len());
        daemon.stop().await;
    }
}

#[tokio::test]
async fn a_file_whose_reading_blocks_holds_no_request_and_no_job_up() {
    for threads in THREADS {
        let (home, signals) = (Home::new(), Signals::default());
        signals.blocked.open();
        let daemon = start(&home, threads, &signals).await;
        let awaited = home.path().join("awaited");
        let content = format!("wait for {}", awaited.display());
        let daemon = Arc::new(daemon);
        let upload = tokio::spawn({
            let daemon = daemon.clone();
            async move { daemon.upload(vec![header("slow.csv"), chunk(content.as_bytes())]).await }
        });
        let begun = home.path().join("awaited.begun");
        in_time(async {
            while !begun.exists() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
        .await;
        let answered = tokio::time::timeout(Duration::from_secs(20), async {
            let count = call(&daemon, "reviews").await;
            daemon.train("topics").await;
            count
        });
        let answered = answered.await;
        std::fs::write(&awaited, "").unwrap();
        assert_eq!(answered.expect("held up"), TEXTS.len());
        in_time(upload).await.unwrap().unwrap();
        Arc::into_inner(daemon).unwrap().stop().await;
    }
}
