//! Events of a job: what its log holds, which is all that its training tells, and what became of it.

use serde::{Deserialize, Serialize};

use super::record::{decode, encode};
use hone_base::error::{Kind, Result};
use hone_train::diagnosis;
use hone_train::event::{EpochMetrics, Prepared, Split, StepMetrics, TestMetrics, TrainEvent};

/// Where a job is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Waits for the device.
    Queued,
    /// Has the device.
    Running,
    /// Ended with a published model.
    Succeeded,
    /// Ended with an error.
    Failed,
    /// Stopped by a user.
    Cancelled,
    /// The daemon stopped while the job ran; the job may continue.
    Interrupted,
    /// Stopped by a user for a while.
    Paused,
}

impl State {
    /// Every state that a job may be in.
    pub const ALL: [Self; 7] = [
        Self::Queued,
        Self::Running,
        Self::Succeeded,
        Self::Failed,
        Self::Cancelled,
        Self::Interrupted,
        Self::Paused,
    ];

    /// The state as it is stored.
    pub fn name(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Interrupted => "interrupted",
            Self::Paused => "paused",
        }
    }

    /// The state that is stored under this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.name() == name)
    }

    /// Whether nothing more will happen.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled)
    }
}

/// Why a job failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The kind of the error.
    pub kind: Kind,
    /// For people.
    pub message: String,
}

/// What a job's log holds: one thing that happened to it. Stored as JSON with the kind under `type`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum JobEvent {
    /// The job's state is now another one.
    StateChanged {
        /// The new state.
        state: State,
        /// Set when it is `Failed`.
        failure: Option<Failure>,
    },
    /// The data as the job will use it, before training starts.
    Prepared(Prepared),
    /// An optimizer step; throttled.
    Step(StepMetrics),
    /// How far the evaluation of a split is; throttled.
    Evaluation {
        /// The split under evaluation.
        split: Split,
        /// Rows done.
        rows_done: u64,
        /// Rows in all.
        rows: u64,
    },
    /// The end of an epoch.
    Epoch(EpochMetrics),
    /// The test result.
    Test(TestMetrics),
    /// The kept checkpoint became a version of a model.
    Published(Published),
    /// Something that the user should know and the job goes on after.
    Notice {
        /// For people.
        message: String,
    },
}

/// The version that the kept checkpoint became.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Published {
    /// The model's name.
    pub name: String,
    /// The version's number, from 1.
    pub version: u32,
    /// SHA-256 of `model.safetensors`, lower-case hexadecimal.
    pub weights_sha256: String,
    /// The epoch that was kept, from 1.
    pub epoch: u32,
}

/// Which sort of event it is: a column of its own, so that events are chosen without parsing them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// [`JobEvent::StateChanged`].
    StateChanged,
    /// [`JobEvent::Prepared`].
    Prepared,
    /// [`JobEvent::Step`].
    Step,
    /// [`JobEvent::Evaluation`].
    Evaluation,
    /// [`JobEvent::Epoch`].
    Epoch,
    /// [`JobEvent::Test`].
    Test,
    /// [`JobEvent::Published`].
    Published,
    /// [`JobEvent::Notice`].
    Notice,
}

impl EventKind {
    /// The kinds that hold what a job has achieved ([`Results`](super::Results)).
    pub const RESULTS: [Self; 3] = [Self::Epoch, Self::Test, Self::Published];

    /// The kind as it is stored.
    pub fn name(self) -> &'static str {
        match self {
            Self::StateChanged => "state_changed",
            Self::Prepared => "prepared",
            Self::Step => "step",
            Self::Evaluation => "evaluation",
            Self::Epoch => "epoch",
            Self::Test => "test",
            Self::Published => "published",
            Self::Notice => "notice",
        }
    }
}

impl JobEvent {
    /// The event of a change of state without a failure.
    pub fn state(state: State) -> Self {
        Self::StateChanged { state, failure: None }
    }

    /// Which sort of event it is.
    pub fn kind(&self) -> EventKind {
        match self {
            Self::StateChanged { .. } => EventKind::StateChanged,
            Self::Prepared(_) => EventKind::Prepared,
            Self::Step(_) => EventKind::Step,
            Self::Evaluation { .. } => EventKind::Evaluation,
            Self::Epoch(_) => EventKind::Epoch,
            Self::Test(_) => EventKind::Test,
            Self::Published(_) => EventKind::Published,
            Self::Notice { .. } => EventKind::Notice,
        }
    }

    /// The event as it is stored: its kind, and JSON. JSON has no number that is not finite, so an event with one is
    /// stored as a notice in words: it could not be read back, and must not be lost.
    ///
    /// # Errors
    ///
    /// When a notice cannot be written as JSON, which does not happen.
    pub fn encode(&self) -> Result<(EventKind, String)> {
        match encode(self) {
            Ok(body) => Ok((self.kind(), body)),
            Err(_) => {
                let notice = Self::Notice { message: in_words(self) };
                Ok((EventKind::Notice, encode(&notice)?))
            }
        }
    }

    /// The event that was stored as this JSON; in the place of one that cannot be read stands a notice that says so,
    /// so that a log's numbers have no gap.
    pub fn decode_or_notice(body: Result<String>) -> Self {
        body.and_then(|body| decode(&body)).unwrap_or_else(|error| Self::Notice {
            message: format!("this entry of the log is lost: {error}"),
        })
    }
}

impl JobEvent {
    /// What the training loop told, if this is that.
    pub fn into_told(self) -> Option<TrainEvent> {
        match self {
            Self::Prepared(prepared) => Some(TrainEvent::Prepared(prepared)),
            Self::Step(step) => Some(TrainEvent::Step(step)),
            Self::Evaluation { split, rows_done, rows } => {
                Some(TrainEvent::Evaluation { split, rows_done, rows })
            }
            Self::Epoch(epoch) => Some(TrainEvent::Epoch(epoch)),
            Self::Test(test) => Some(TrainEvent::Test(test)),
            Self::Notice { message } => Some(TrainEvent::Notice { message }),
            Self::StateChanged { .. } | Self::Published(_) => None,
        }
    }
}

impl From<TrainEvent> for JobEvent {
    fn from(event: TrainEvent) -> Self {
        match event {
            TrainEvent::Prepared(prepared) => Self::Prepared(prepared),
            TrainEvent::Step(step) => Self::Step(step),
            TrainEvent::Evaluation { split, rows_done, rows } => Self::Evaluation { split, rows_done, rows },
            TrainEvent::Epoch(epoch) => Self::Epoch(epoch),
            TrainEvent::Test(test) => Self::Test(test),
            TrainEvent::Notice { message } => Self::Notice { message },
        }
    }
}

/// What an event with a number that is not finite says.
fn in_words(event: &JobEvent) -> String {
    let (of, numbers) = match event {
        JobEvent::Step(step) => (
            format!("step {}", step.step),
            vec![
                ("loss", step.loss),
                ("learning rate", step.learning_rate),
                ("gradient norm", step.gradient_norm),
            ],
        ),
        JobEvent::Epoch(epoch) => (
            format!("epoch {}", epoch.epoch),
            vec![("training loss", epoch.train.loss), ("validation loss", epoch.validation.loss)],
        ),
        JobEvent::Test(test) => ("the test".to_owned(), vec![("loss", test.metrics.loss)]),
        _ => ("an event".to_owned(), Vec::new()),
    };
    match numbers.into_iter().find(|(_, value)| !value.is_finite()) {
        Some((what, value)) => format!("the {what} of {of} is {}", diagnosis::in_words(value)),
        None => format!("a number of {of} is not finite"),
    }
}
