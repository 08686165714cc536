//! `hone.v1.TrainingService`.

use crate::rpc::convert::{Parse, Wire};
use std::pin::Pin;
use std::sync::Arc;

use futures::Stream;
use hone::v1::training_service_server::TrainingService;
use hone::v1::{
    CancelJobRequest, DeleteJobRequest, DeleteJobResponse, DryRunResponse, Event, GetJobRequest, Job,
    ListJobsRequest, ListJobsResponse, PauseJobRequest, ResumeJobRequest, StartJobRequest, WatchJobRequest,
};
use tonic::{Request, Response, Status};

use super::convert::{dry_run, event, start};
use super::stopping::Stopping;
use super::turns::Turns;
use super::{blocking, lists};
use crate::jobs::datasets::Datasets;
use crate::jobs::log::Cursor;
use crate::jobs::registry::Registry;
use crate::jobs::request::JobRequest;
use crate::jobs::trainer::Trainer;
use hone_storage::Blobs;

/// The service.
pub struct Training {
    pub(super) jobs: Arc<Registry>,
    pub(super) datasets: Arc<Datasets>,
    pub(super) trainer: Arc<dyn Trainer>,
    pub(super) blobs: Arc<dyn Blobs>,
    pub(super) encoder: String,
    pub(super) stopping: Stopping,
    /// Who may read files.
    pub(super) reading: Turns,
    /// One dry run at a time: each of them has a model in memory.
    pub(super) dry_runs: Turns,
}

#[tonic::async_trait]
impl TrainingService for Training {
    async fn start(&self, request: Request<StartJobRequest>) -> Result<Response<Job>, Status> {
        let request = request.into_inner();
        let once = start::request(&request)?;
        let request = JobRequest::parse(request.spec.unwrap_or_default())?;
        let (jobs, datasets, trainer) = (self.jobs.clone(), self.datasets.clone(), self.trainer.clone());
        let (blobs, encoder) = (self.blobs.clone(), self.encoder.clone());
        let cancel = self.stopping.cancel();
        let turn = self.reading.take().await?;
        let job = blocking(move || {
            let _turn = turn;
            if let Some(job) = once.as_ref().map(|once| jobs.of_request(once)).transpose()?.flatten() {
                return Ok(job);
            }
            let spec = request.resolve(&datasets, &encoder)?;
            trainer.check(&spec, &*blobs, &cancel)?;
            jobs.submit_once(&spec, once.as_ref())
        });
        Ok(Response::new(job.await?.wire()))
    }

    async fn dry_run(&self, request: Request<StartJobRequest>) -> Result<Response<DryRunResponse>, Status> {
        let request = JobRequest::parse(request.into_inner().spec.unwrap_or_default())?;
        let (datasets, trainer) = (self.datasets.clone(), self.trainer.clone());
        let (blobs, encoder) = (self.blobs.clone(), self.encoder.clone());
        let turn = tokio::select! {
            biased;
            () = self.stopping.begun() => return Err(Stopping::error().into()),
            turn = self.dry_runs.take() => turn?,
        };
        let cancel = self.stopping.cancel().child();
        let _caller = cancel.ask_on_drop();
        let response = blocking(move || {
            // Held to the end even if the caller goes away: that is soon then.
            let _turn = turn;
            let spec = request.resolve(&datasets, &encoder)?;
            let report = trainer.dry_run(&spec, &*blobs, &cancel)?;
            Ok(dry_run::response(&spec, report))
        });
        Ok(Response::new(response.await?))
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
        Ok(Response::new(blocking(move || jobs.get(&id)).await?.wire()))
    }

    async fn list(&self, request: Request<ListJobsRequest>) -> Result<Response<ListJobsResponse>, Status> {
        let (jobs, request) = (self.jobs.clone(), request.into_inner());
        Ok(Response::new(blocking(move || lists::jobs(&jobs, &request)).await?))
    }

    async fn cancel(&self, request: Request<CancelJobRequest>) -> Result<Response<Job>, Status> {
        let (jobs, id) = (self.jobs.clone(), request.into_inner().job_id);
        Ok(Response::new(blocking(move || jobs.cancel(&id)).await?.wire()))
    }

    async fn pause(&self, request: Request<PauseJobRequest>) -> Result<Response<Job>, Status> {
        let (jobs, id) = (self.jobs.clone(), request.into_inner().job_id);
        Ok(Response::new(blocking(move || jobs.pause(&id)).await?.wire()))
    }

    async fn resume(&self, request: Request<ResumeJobRequest>) -> Result<Response<Job>, Status> {
        let (jobs, id) = (self.jobs.clone(), request.into_inner().job_id);
        Ok(Response::new(blocking(move || jobs.resume(&id)).await?.wire()))
    }

    async fn delete(
        &self,
        request: Request<DeleteJobRequest>,
    ) -> Result<Response<DeleteJobResponse>, Status> {
        let (jobs, id) = (self.jobs.clone(), request.into_inner().job_id);
        blocking(move || jobs.delete(&id)).await?;
        Ok(Response::new(DeleteJobResponse {}))
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
