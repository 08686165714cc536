//! Jobs on the demonstration data that a daemon carries, for what runs beside them or needs a trained model.

use std::time::Instant;

use hone::v1::event::Kind;
use hone::v1::model_service_client::ModelServiceClient;
use hone::v1::training_service_client::TrainingServiceClient;
use hone::v1::{
    DeleteJobRequest, DeleteModelRequest, EpochMetrics, Hyperparameters, JobSpec, StartJobRequest,
    WatchJobRequest,
};
use tonic::Status;
use tonic::transport::Channel;

/// What to train.
#[derive(Clone, Copy)]
pub(crate) struct Job<'a> {
    /// The model that it makes a version of.
    pub(crate) name: &'a str,
    /// Training rows.
    pub(crate) rows: u64,
    pub(crate) epochs: u32,
    pub(crate) seed: Option<u64>,
}

/// What a job has just done.
pub(crate) struct Moment {
    pub(crate) at: Instant,
    pub(crate) what: &'static str,
}

/// In a word.
fn in_a_word(kind: &Kind) -> &'static str {
    match kind {
        Kind::StateChanged(_) => "state",
        Kind::Notice(_) => "notice",
        Kind::Prepared(_) => "prepared",
        Kind::Step(_) => "step",
        Kind::Evaluation(_) => "evaluation",
        Kind::Epoch(_) => "epoch",
        Kind::Test(_) => "test",
        Kind::Published(_) => "published",
    }
}

/// A connection to this address, which opens with the first request.
pub(crate) fn channel(address: &str) -> Result<Channel, Status> {
    let endpoint =
        Channel::from_shared(address.to_owned()).map_err(|error| Status::internal(error.to_string()))?;
    Ok(endpoint.connect_lazy())
}

/// What runs jobs, one after the other.
pub(crate) struct Jobs {
    training: TrainingServiceClient<Channel>,
    models: ModelServiceClient<Channel>,
}

/// A job that has ended.
pub(crate) struct Ended {
    pub(crate) seconds: f64,
    pub(crate) moments: Vec<Moment>,
    pub(crate) epoch: EpochMetrics,
    /// The number of the version that it made.
    pub(crate) version: u32,
}

impl Jobs {
    /// The daemon at this address; the connection opens with the first request.
    pub(crate) fn connect(address: &str) -> Result<Self, Status> {
        let channel = channel(address)?;
        Ok(Self {
            training: TrainingServiceClient::new(channel.clone()),
            models: ModelServiceClient::new(channel),
        })
    }

    /// Starts a job and waits for its end. Of the job nothing but its model stays.
    pub(crate) async fn run(&self, job: Job<'_>) -> Result<Ended, Status> {
        let mut training = self.training.clone();
        let spec = JobSpec {
            name: Some(job.name.to_owned()),
            train_limit: Some(job.rows),
            validation_limit: Some(16),
            test_limit: Some(16),
            hyperparameters: Some(Hyperparameters {
                epochs: Some(job.epochs),
                max_length: Some(64),
                seed: job.seed,
                ..Hyperparameters::default()
            }),
            ..JobSpec::default()
        };
        let begin = Instant::now();
        let started = StartJobRequest { spec: Some(spec), request_id: None };
        let id = training.start(started).await?.into_inner().id;
        let request = WatchJobRequest { job_id: id.clone(), after: 0 };
        let mut events = training.watch(request).await?.into_inner();
        let (mut last, mut published) = (None, None);
        let mut moments = vec![Moment { at: begin, what: "asked for" }];
        while let Some(event) = events.message().await? {
            if let Some(kind) = &event.kind {
                moments.push(Moment { at: Instant::now(), what: in_a_word(kind) });
            }
            match event.kind {
                Some(Kind::Epoch(epoch)) => last = Some(epoch),
                Some(Kind::Published(model)) => published = Some(model.version),
                _ => {}
            }
        }
        let seconds = begin.elapsed().as_secs_f64();
        let (Some(epoch), Some(version)) = (last, published) else {
            return Err(Status::internal("a job has failed"));
        };
        training.delete(DeleteJobRequest { job_id: id }).await?;
        moments.push(Moment { at: Instant::now(), what: "deleted" });
        Ok(Ended { seconds, moments, epoch, version })
    }

    /// The same, and its model does not stay either.
    pub(crate) async fn run_and_delete(&self, job: Job<'_>) -> Result<Ended, Status> {
        let name = job.name.to_owned();
        let ended = self.run(job).await?;
        self.models.clone().delete(DeleteModelRequest { model: name }).await?;
        Ok(ended)
    }
}
