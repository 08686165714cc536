//! `hone.v1.TrainingService`.

use std::pin::Pin;
use std::sync::Arc;

use futures::Stream;
use hone::v1::training_service_server::TrainingService;
use hone::v1::{
    CancelJobRequest, Event, GetJobRequest, Job, ListJobsRequest, ListJobsResponse, StartJobRequest,
    WatchJobRequest,
};
use tonic::{Request, Response, Status};

use super::blocking;
use super::convert::event;
use super::stopping::Stopping;
use crate::jobs::data_dir::DataDir;
use crate::jobs::datasets::Datasets;
use crate::jobs::log::Cursor;
use crate::jobs::registry::Registry;
use crate::jobs::request::JobRequest;
use crate::jobs::trainer::Trainer;

/// The service.
pub struct Training {
    pub(super) jobs: Arc<Registry>,
    pub(super) datasets: Arc<Datasets>,
    pub(super) trainer: Arc<dyn Trainer>,
    pub(super) data: DataDir,
    pub(super) encoder: String,
    pub(super) stopping: Stopping,
}

#[tonic::async_trait]
impl TrainingService for Training {
    async fn start(&self, request: Request<StartJobRequest>) -> Result<Response<Job>, Status> {
        let request = JobRequest::try_from(request.into_inner().spec.unwrap_or_default())?;
        let (jobs, datasets, trainer) = (self.jobs.clone(), self.datasets.clone(), self.trainer.clone());
        let (data, encoder) = (self.data.clone(), self.encoder.clone());
        let job = blocking(move || {
            let spec = request.resolve(&datasets, &encoder)?;
            trainer.check(&spec, &data)?;
            jobs.submit(&spec)
        });
        Ok(Response::new(job.await?.into()))
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<Event, Status>> + Send>>;

    async fn watch(&self, request: Request<WatchJobRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let WatchJobRequest { job_id, after } = request.into_inner();
        let (jobs, id) = (self.jobs.clone(), job_id.clone());
        let cursor = blocking(move || jobs.log().read(&id, after)).await?;
        Ok(Response::new(Box::pin(follow(job_id, cursor, self.stopping.clone()))))
    }

    async fn get(&self, request: Request<GetJobRequest>) -> Result<Response<Job>, Status> {
        let (jobs, id) = (self.jobs.clone(), request.into_inner().job_id);
        Ok(Response::new(blocking(move || jobs.get(&id)).await?.into()))
    }

    async fn list(&self, _: Request<ListJobsRequest>) -> Result<Response<ListJobsResponse>, Status> {
        let jobs = self.jobs.clone();
        let jobs = blocking(move || jobs.list()).await?.into_iter().map(Job::from).collect();
        Ok(Response::new(ListJobsResponse { jobs }))
    }

    async fn cancel(&self, request: Request<CancelJobRequest>) -> Result<Response<Job>, Status> {
        let (jobs, id) = (self.jobs.clone(), request.into_inner().job_id);
        Ok(Response::new(blocking(move || jobs.cancel(&id)).await?.into()))
    }
}

/// The entries that a cursor reads, until the job ends, the log fails or the daemon goes down.
fn follow(
    job: String,
    cursor: Cursor,
    stopping: Stopping,
) -> impl Stream<Item = Result<Event, Status>> + Send + 'static {
    let begun = Box::pin(stopping.begun());
    futures::stream::unfold(Some((cursor, begun)), move |state| {
        let job = job.clone();
        async move {
            let (mut cursor, mut begun) = state?;
            let next = tokio::select! {
                biased;
                () = &mut begun => Err(Stopping::error()),
                next = cursor.next() => next,
            };
            match next {
                Ok(Some(entry)) => Some((Ok(event::of(&job, entry)), Some((cursor, begun)))),
                Ok(None) => None,
                Err(error) => Some((Err(error.into()), None)),
            }
        }
    })
}
