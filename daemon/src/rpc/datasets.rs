//! `hone.v1.DatasetService`.

use crate::rpc::convert::{Parse, Wire};
use std::sync::Arc;

use hone::v1::dataset_service_server::DatasetService;
use hone::v1::upload_dataset_request::Part;
use hone::v1::{
    Dataset, DeleteDatasetRequest, DeleteDatasetResponse, GetDatasetRequest, ListDatasetsRequest,
    ListDatasetsResponse, UploadDatasetRequest,
};
use tokio::sync::mpsc;
use tonic::{Request, Response, Status, Streaming};

use super::blocking;
use super::convert::all;
use super::convert::dataset::file_name;
use crate::jobs::datasets::{Datasets, Header};
use hone_base::error::Error;
use hone_data::Columns;

/// Bytes of a chunk at most.
const MAX_CHUNK: usize = 1 << 20;

/// Chunks that wait for the disk at most.
const AHEAD: usize = 4;

/// The service.
pub struct DatasetRpc {
    pub(super) datasets: Arc<Datasets>,
}

/// What the caller sent, for the thread that writes it.
enum Incoming {
    Chunk(Vec<u8>),
    End,
}

#[tonic::async_trait]
impl DatasetService for DatasetRpc {
    async fn upload(
        &self,
        request: Request<Streaming<UploadDatasetRequest>>,
    ) -> Result<Response<Dataset>, Status> {
        let mut messages = request.into_inner();
        let header = match messages.message().await?.and_then(|message| message.part) {
            Some(Part::Header(header)) => Header::parse(header)?,
            Some(Part::Chunk(_)) | None => {
                return Err(Error::invalid("the first message of an upload must be the header").into());
            }
        };
        let (sender, mut incoming) = mpsc::channel(AHEAD);
        let datasets = self.datasets.clone();
        // A caller that goes away drops the sender before the end is said, and the file with it.
        let written = blocking(move || {
            let mut upload = datasets.begin(header)?;
            while let Some(message) = incoming.blocking_recv() {
                match message {
                    Incoming::Chunk(chunk) => upload.write(&chunk)?,
                    Incoming::End => return datasets.finish(upload),
                }
            }
            Err(Error::new(hone_base::error::Kind::Cancelled, "the upload was given up before its end"))
        });
        let sent = async move {
            while let Some(message) = messages.message().await? {
                let chunk = chunk(message)?;
                if sender.send(Incoming::Chunk(chunk)).await.is_err() {
                    // The writer has failed, and says why.
                    return Ok(());
                }
            }
            let _ = sender.send(Incoming::End).await;
            Ok::<(), Status>(())
        };
        let (written, sent) = tokio::join!(written, sent);
        sent?;
        Ok(Response::new((&written?).wire()))
    }

    async fn list(&self, _: Request<ListDatasetsRequest>) -> Result<Response<ListDatasetsResponse>, Status> {
        let datasets = self.datasets.clone();
        let found = blocking(move || datasets.list()).await?;
        let (datasets, unreadable) = (all(&found.records), all(&found.unreadable));
        Ok(Response::new(ListDatasetsResponse { datasets, unreadable }))
    }

    async fn get(&self, request: Request<GetDatasetRequest>) -> Result<Response<Dataset>, Status> {
        let GetDatasetRequest { id, columns, name } = request.into_inner();
        let name = name.map(file_name).transpose()?;
        let (datasets, columns) = (self.datasets.clone(), columns.map(Columns::parse).transpose()?);
        let record = blocking(move || datasets.get(&id, columns.as_ref(), name)).await?;
        Ok(Response::new((&record).wire()))
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

fn chunk(message: UploadDatasetRequest) -> Result<Vec<u8>, Status> {
    match message.part {
        Some(Part::Chunk(chunk)) if chunk.len() <= MAX_CHUNK => Ok(chunk),
        Some(Part::Chunk(chunk)) => Err(Error::invalid(format!(
            "a chunk has at most {MAX_CHUNK} bytes; this one has {}",
            chunk.len()
        ))
        .into()),
        Some(Part::Header(_)) => Err(Error::invalid("an upload has one header, and it comes first").into()),
        None => Err(Error::invalid("a message of an upload is empty").into()),
    }
}
