//! `hone.v1.DatasetService`.

use crate::rpc::convert::{Parse, Wire};
use std::sync::Arc;
use std::time::Duration;

use hone::v1::dataset_service_server::DatasetService;
use hone::v1::upload_dataset_request::Part;
use hone::v1::{
    Dataset, DeleteDatasetRequest, DeleteDatasetResponse, GetDatasetRequest, ListDatasetsRequest,
    ListDatasetsResponse, UploadDatasetRequest,
};
use tokio::time::timeout;
use tonic::{Request, Response, Status, Streaming};

use super::convert::dataset::file_name;
use super::turns::Turns;
use super::{blocking, lists};
use crate::jobs::datasets::{Datasets, Header};
use hone_base::error::Error;
use hone_data::Columns;

/// Bytes of a chunk at most.
const MAX_CHUNK: usize = 1 << 20;

/// The service.
pub struct DatasetRpc {
    pub(super) datasets: Arc<Datasets>,
    /// Who may read a file.
    pub(super) reading: Turns,
    /// Who may send one.
    pub(super) uploads: Turns,
    /// An upload that does not go on for so long is given up.
    pub(super) idle: Duration,
}

#[tonic::async_trait]
impl DatasetService for DatasetRpc {
    async fn upload(
        &self,
        request: Request<Streaming<UploadDatasetRequest>>,
    ) -> Result<Response<Dataset>, Status> {
        let _upload = self.uploads.take().await?;
        let mut messages = request.into_inner();
        let header = match self.next(&mut messages).await? {
            Some(Part::Header(header)) => Header::parse(header)?,
            Some(Part::Chunk(_)) | None => {
                return Err(Error::invalid("the first message of an upload must be the header").into());
            }
        };
        let datasets = self.datasets.clone();
        let mut upload = blocking(move || datasets.begin(header)).await?;
        // A caller that goes away drops this future, and the file with it.
        while let Some(part) = self.next(&mut messages).await? {
            let chunk = chunk(part)?;
            upload = blocking(move || upload.write(&chunk).map(|()| upload)).await?;
        }
        let (turn, datasets) = (self.reading.take().await?, self.datasets.clone());
        let record = blocking(move || {
            let _turn = turn;
            datasets.finish(upload)
        });
        Ok(Response::new((&record.await?).wire()))
    }

    async fn list(
        &self,
        request: Request<ListDatasetsRequest>,
    ) -> Result<Response<ListDatasetsResponse>, Status> {
        let (datasets, request) = (self.datasets.clone(), request.into_inner());
        Ok(Response::new(blocking(move || lists::datasets(&datasets, &request)).await?))
    }

    async fn get(&self, request: Request<GetDatasetRequest>) -> Result<Response<Dataset>, Status> {
        let GetDatasetRequest { id, columns, name } = request.into_inner();
        let name = name.map(file_name).transpose()?;
        let (datasets, columns) = (self.datasets.clone(), columns.map(Columns::parse).transpose()?);
        // Other columns need the file to be read again.
        let turn = if columns.is_some() { Some(self.reading.take().await?) } else { None };
        let record = blocking(move || {
            let _turn = turn;
            datasets.get(&id, columns.as_ref(), name)
        });
        Ok(Response::new((&record.await?).wire()))
    }

    async fn delete(
        &self,
        request: Request<DeleteDatasetRequest>,
    ) -> Result<Response<DeleteDatasetResponse>, Status> {
        let (datasets, id) = (self.datasets.clone(), request.into_inner().id);
        blocking(move || datasets.delete(&id)).await?;
        Ok(Response::new(DeleteDatasetResponse {}))
    }
}

impl DatasetRpc {
    /// The next part of an upload; `None` at its end.
    async fn next(&self, messages: &mut Streaming<UploadDatasetRequest>) -> Result<Option<Part>, Status> {
        let late = |_| {
            let seconds = self.idle.as_secs();
            Status::deadline_exceeded(format!(
                "nothing more of the upload has come for {seconds} s, so it was given up; send the file again"
            ))
        };
        let Some(message) = timeout(self.idle, messages.message()).await.map_err(late)?? else {
            return Ok(None);
        };
        match message.part {
            Some(part) => Ok(Some(part)),
            None => Err(Error::invalid("a message of an upload is empty").into()),
        }
    }
}

fn chunk(part: Part) -> Result<Vec<u8>, Status> {
    match part {
        Part::Chunk(chunk) if chunk.len() <= MAX_CHUNK => Ok(chunk),
        Part::Chunk(chunk) => Err(Error::invalid(format!(
            "a chunk has at most {MAX_CHUNK} bytes; this one has {}",
            chunk.len()
        ))
        .into()),
        Part::Header(_) => Err(Error::invalid("an upload has one header, and it comes first").into()),
    }
}
