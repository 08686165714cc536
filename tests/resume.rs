//! A run that was cut off continues to the same weights, bit for bit, and the job's log has the same events, wherever it
//! was cut off and however often.
//!
//! A run is cut off by a token that says `Cancelled`: it ends at once and saves nothing, so the workspace is as a crash
//! leaves it. One test kills a process.

mod positions;
mod process;

use std::ops::ControlFlow;
use std::path::Path;
use std::time::Duration;

use hone_base::cancel::{Cancel, Reason};
use hone_base::error::Kind;
use hone_base::random::{Purpose, Stream};
use hone_train::event::{EpochMetrics, TrainEvent};
use hone_train::methods::{ClassWeights, Methods};
use hone_train::spec::{CheckpointEvery, Keep, Metric, Optimizer, Spec, Warmup};
use hone_train::{Control, Finished, Outcome};

use crate::harness::toy_rows;
use crate::methods::several;
use crate::training::{Job, newest_position};

fn steps(steps: u64) -> CheckpointEvery {
    CheckpointEvery::Steps(steps.try_into().expect("a number of steps"))
}

/// A job of two epochs of six steps.
fn short(spec: &mut Spec) {
    (spec.train_limit, spec.validation_limit) = (48.try_into().ok(), 16.try_into().ok());
    spec.hyperparameters.epochs = 2.try_into().expect("2");
    spec.hyperparameters.checkpoint_every = steps(2);
}

fn with(methods: Methods, change: impl FnOnce(&mut Spec)) -> Job {
    Job::new(|spec| {
        short(spec);
        spec.hyperparameters.methods = methods;
        change(spec);
    })
}

/// The same job with a file that is evaluated in several batches.
fn long(file: &str, job: Job) -> Job {
    std::fs::write(job.folder.path().join(file), toy_rows(1000, 3)).expect("a file");
    job
}

/// Every kind of run there is.
fn kinds() -> Vec<(&'static str, Job)> {
    let ema = || Methods { ema_decay: Some(0.9), ..Methods::default() };
    vec![
        ("plain", long("test.csv", with(Methods::default(), |_| {}))),
        (
            "moving average",
            long(
                "validation.csv",
                with(ema(), |spec| {
                    spec.validation_limit = None;
                    spec.hyperparameters.keep = Keep::Last;
                }),
            ),
        ),
        (
            "accumulation, R-Drop and weights",
            with(
                Methods {
                    r_drop: Some(1.0),
                    label_smoothing: 0.1,
                    focal_gamma: Some(1.0),
                    class_weights: ClassWeights::Balanced,
                    ..Methods::default()
                },
                |spec| {
                    spec.hyperparameters.batch_size = 3.try_into().expect("3");
                    spec.hyperparameters.gradient_accumulation = 3.try_into().expect("3");
                },
            ),
        ),
        (
            "frozen and new layers, layer decay, Adam with decay",
            with(
                Methods {
                    freeze_embeddings: true,
                    reinit_layers: 1,
                    layer_decay: Some(0.8),
                    gradient_checkpointing: true,
                    ..Methods::default()
                },
                |spec| {
                    spec.hyperparameters.optimizer = Optimizer::Adam;
                    spec.hyperparameters.weight_decay = 0.1;
                },
            ),
        ),
        (
            "several labels",
            several(|spec| {
                short(spec);
                spec.hyperparameters.metric = Metric::F1;
                spec.hyperparameters.methods = ema();
                spec.hyperparameters.checkpoint_every = CheckpointEvery::Epoch;
            }),
        ),
        (
            "early stopping, no test, a part held out",
            with(Methods::default(), |spec| {
                (spec.validation, spec.test) = (None, None);
                spec.hyperparameters.learning_rate = 1e-30;
                spec.hyperparameters.epochs = 9.try_into().expect("9");
                spec.hyperparameters.early_stopping = 1.try_into().ok();
                spec.hyperparameters.checkpoint_every = CheckpointEvery::Auto;
            }),
        ),
    ]
}

/// Everything is told.
fn control(log: &[TrainEvent], cancel: &Cancel) -> Control {
    Control { cancel: cancel.clone(), seen: log.iter().collect(), throttle: Duration::ZERO }
}

/// Goes on with a job, whose log grows by at most so many events before it is cut off.
fn go_on(job: &Job, workspace: &Path, log: &mut Vec<TrainEvent>, events: usize) -> Option<Finished> {
    let (cancel, mut left) = (Cancel::default(), events);
    let control = control(log, &cancel);
    let outcome = job.run_with(workspace, 2, control, &mut |event| {
        // What a run still says after it was cut off, nobody hears.
        if left == 0 {
            return ControlFlow::Break(());
        }
        log.push(event);
        left = left.saturating_sub(1);
        if left == 0 {
            cancel.ask(Reason::Cancelled);
        }
        ControlFlow::Continue(())
    });
    match outcome {
        Ok(Outcome::Finished(finished)) => Some(*finished),
        Ok(Outcome::Stopped) => None,
        Err(error) => panic!("{error}"),
    }
}

/// Begins a job, and pauses it after the first event that is such a one.
fn pause(job: &Job, workspace: &Path, at: impl Fn(&TrainEvent) -> bool + Sync) -> Vec<TrainEvent> {
    let (cancel, mut log) = (Cancel::default(), Vec::new());
    let outcome = job.run_with(workspace, 2, control(&[], &cancel), &mut |event| {
        if at(&event) {
            cancel.ask(Reason::Paused);
        }
        log.push(event);
        ControlFlow::Continue(())
    });
    assert!(matches!(outcome, Ok(Outcome::Stopped)), "{outcome:?}");
    log
}

/// A run that goes through.
fn whole(job: &Job) -> (Finished, Vec<TrainEvent>) {
    let mut log = Vec::new();
    let finished = go_on(job, &job.workspace("whole"), &mut log, usize::MAX).expect("an end");
    (finished, log)
}

fn timeless(epoch: &EpochMetrics) -> EpochMetrics {
    let (seconds, train_seconds, steps_per_second, tokens_per_second) = (0.0, 0.0, 0.0, 0.0);
    EpochMetrics { seconds, train_seconds, steps_per_second, tokens_per_second, ..epoch.clone() }
}

/// Events without what the clock says.
fn without_times(log: &[TrainEvent]) -> Vec<TrainEvent> {
    let event = |event: &TrainEvent| match event.clone() {
        TrainEvent::Step(mut step) => {
            (step.steps_per_second, step.tokens_per_second) = (0.0, 0.0);
            TrainEvent::Step(step)
        }
        TrainEvent::Epoch(epoch) => TrainEvent::Epoch(timeless(&epoch)),
        TrainEvent::Test(mut test) => {
            test.seconds = 0.0;
            TrainEvent::Test(test)
        }
        event => event,
    };
    log.iter().map(event).collect()
}

/// Both runs gave the same in every respect.
fn assert_same(name: &str, one: &(Finished, Vec<TrainEvent>), other: &(Finished, Vec<TrainEvent>)) {
    assert_eq!(without_times(&one.1), without_times(&other.1), "{name}: the log");
    let ((one, _), (other, _)) = (one, other);
    assert_eq!(one.weights_sha256, other.weights_sha256, "{name}: the weights");
    assert_eq!(timeless(&one.epoch), timeless(&other.epoch), "{name}: the kept epoch");
    let metrics = |finished: &Finished| finished.test.as_ref().map(|test| test.metrics.clone());
    assert_eq!(metrics(one), metrics(other), "{name}: the test");
    let bytes = |finished: &Finished, file: &str| std::fs::read(finished.folder.join(file)).expect("a file");
    for file in ["model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json"] {
        assert!(bytes(one, file) == bytes(other, file), "{name}: {file}");
    }
}

#[test]
fn a_run_that_is_cut_off_after_any_event_continues_as_if_it_had_not_been() {
    for (name, job) in kinds() {
        let whole = whole(&job);
        let count = whole.1.len();
        assert!(count > 10, "{name}: {count} events");
        for events in 1..count {
            let (workspace, mut log) = (job.workspace(&format!("after {events}")), Vec::new());
            assert!(go_on(&job, &workspace, &mut log, events).is_none(), "{name}: {events} of {count}");
            assert_eq!(log.len(), events, "{name}");
            let finished = go_on(&job, &workspace, &mut log, usize::MAX).expect("an end");
            assert_same(&format!("{name}, cut off after {events} events"), &whole, &(finished, log));
        }
    }
}

#[test]
fn a_run_that_is_cut_off_again_and_again_still_gets_there() {
    let kinds = kinds();
    let stream = Stream::new(10, Purpose::Split, 0, 0);
    let wholes: Vec<_> = kinds.iter().map(|(_, job)| whole(job)).collect();
    for case in 0..24 {
        let draw = |place: u64, below: u32| stream.word(64 * case + place) % below;
        let kind = draw(0, kinds.len() as u32) as usize;
        let every = match draw(1, 6) {
            0 => CheckpointEvery::Auto,
            1 => CheckpointEvery::Epoch,
            n => steps(u64::from(n - 1)),
        };
        let (name, job) = &kinds[kind];
        let job = job.with(|spec| spec.hyperparameters.checkpoint_every = every);
        let (workspace, mut log) = (job.workspace(&format!("case {case}")), Vec::new());
        let mut cut = Vec::new();
        let finished = loop {
            cut.push(1 + draw(2 + cut.len() as u64, 9) as usize);
            if let Some(finished) = go_on(&job, &workspace, &mut log, cut[cut.len() - 1]) {
                break finished;
            }
        };
        assert_same(
            &format!("{name}, saved every {every:?}, cut off after {cut:?}"),
            &wholes[kind],
            &(finished, log),
        );
    }
}

#[test]
fn a_run_that_is_paused_goes_on_at_the_step_where_it_was_and_on_any_number_of_threads() {
    let job = with(Methods::default(), |spec| {
        spec.hyperparameters.checkpoint_every = CheckpointEvery::Epoch;
    });
    let whole = whole(&job);
    for reason in [Reason::Paused, Reason::Shutdown] {
        let (workspace, mut log, cancel) = (job.workspace(&format!("{reason:?}")), vec![], Cancel::default());
        let outcome = job.run_with(&workspace, 2, control(&[], &cancel), &mut |event| {
            if matches!(&event, TrainEvent::Step(step) if step.step == 9) {
                cancel.ask(reason);
            }
            log.push(event);
            ControlFlow::Continue(())
        });
        assert!(matches!(outcome, Ok(Outcome::Stopped)), "{outcome:?}");
        let position =
            std::fs::read_to_string(newest_position(&workspace).join("position.json")).expect("json");
        let position: serde_json::Value = serde_json::from_str(&position).expect("json");
        assert_eq!((&position["step"], &position["step_in_epoch"]), (&9.into(), &3.into()));
        let outcome = job.run_with(&workspace, 1, control(&log, &Cancel::default()), &mut |event| {
            log.push(event);
            ControlFlow::Continue(())
        });
        let Ok(Outcome::Finished(finished)) = outcome else { panic!("{outcome:?}") };
        let Some(TrainEvent::Prepared(_)) = log.first() else { panic!("{log:?}") };
        assert_same("paused", &whole, &(*finished, log));
    }
}

#[test]
fn a_broken_stream_of_events_stops_the_run_at_the_step_and_saves_it() {
    let job = with(Methods::default(), |_| {});
    let (workspace, mut steps) = (job.workspace("broken"), 0);
    let outcome = job.run_with(&workspace, 2, control(&[], &Cancel::default()), &mut |event| match event {
        TrainEvent::Step(step) if step.step == 5 => ControlFlow::Break(()),
        TrainEvent::Step(_) => {
            steps += 1;
            ControlFlow::Continue(())
        }
        _ => ControlFlow::Continue(()),
    });
    assert!(matches!(outcome, Ok(Outcome::Stopped)), "{outcome:?}");
    assert_eq!(steps, 4);
    let position = std::fs::read_to_string(newest_position(&workspace).join("position.json")).expect("json");
    let position: serde_json::Value = serde_json::from_str(&position).expect("json");
    assert_eq!(position["step"], 5);
}

#[test]
fn a_run_ends_between_two_micro_batches_and_its_step_is_done_again_as_a_whole() {
    let job = Job::new(|spec| {
        let of = &mut spec.hyperparameters;
        // One step of very many micro-batches.
        (of.batch_size, of.gradient_accumulation) =
            (1.try_into().expect("1"), 5000.try_into().expect("5000"));
        (of.epochs, of.warmup) = (1.try_into().expect("1"), Warmup::Steps(0));
        (spec.validation, spec.test) = (None, None);
    });
    std::fs::write(job.folder.path().join("train.csv"), toy_rows(3000, 5)).expect("a file");
    let (workspace, cancel, mut log) = (job.workspace("run"), Cancel::default(), vec![]);
    let (told, hear) = std::sync::mpsc::channel();
    let asked = cancel.clone();
    let asking = std::thread::spawn(move || {
        hear.recv().expect("the run has begun");
        std::thread::sleep(Duration::from_millis(100));
        asked.ask(Reason::Paused);
    });
    let outcome = job.run_with(&workspace, 2, control(&[], &cancel), &mut |event| {
        if matches!(event, TrainEvent::Prepared(_)) {
            told.send(()).expect("somebody listens");
        }
        log.push(event);
        ControlFlow::Continue(())
    });
    asking.join().expect("a thread");
    assert!(matches!(outcome, Ok(Outcome::Stopped)), "{outcome:?}");
    assert!(!log.iter().any(|event| matches!(event, TrainEvent::Step(_))), "{log:?}");
    let finished = go_on(&job, &workspace, &mut log, usize::MAX).expect("an end");
    // Each row is counted once, although the step was begun twice.
    assert_same("in a step", &whole(&job), &(finished, log));
}

#[test]
fn nothing_is_read_or_written_for_a_job_that_was_cancelled_before_it_began() {
    let job = with(Methods::default(), |_| {});
    let cancel = Cancel::default();
    cancel.ask(Reason::Cancelled);
    let workspace = job.workspace("cancelled");
    let outcome = job.run_with(&workspace, 2, control(&[], &cancel), &mut |event| panic!("{event:?}"));
    assert!(matches!(outcome, Ok(Outcome::Stopped)), "{outcome:?}");
    assert_eq!(std::fs::read_dir(&workspace).expect("a folder").count(), 0);
    assert_eq!(job.plan_until(&cancel).expect_err("a plan").kind(), Kind::Cancelled);
}
