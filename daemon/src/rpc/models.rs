//! `hone.v1.ModelService`.

use crate::rpc::convert::Wire;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt as _};
use hone::v1::model_service_server::ModelService;
use hone::v1::{
    DeleteModelRequest, DeleteModelResponse, DownloadModelRequest, DownloadModelResponse, GetModelRequest,
    ListModelsRequest, ListModelsResponse, Model, PromoteModelRequest,
};
use tonic::{Request, Response, Status};

use super::turns::Turns;
use super::{blocking, lists};
use crate::serve::download;
use crate::serve::registry::Models;

/// The service.
pub struct ModelRpc {
    pub(super) models: Arc<Models>,
    /// Who may receive a model's files.
    pub(super) downloads: Turns,
    /// A download whose caller takes nothing for so long is given up.
    pub(super) idle: Duration,
}

#[tonic::async_trait]
impl ModelService for ModelRpc {
    async fn list(
        &self,
        request: Request<ListModelsRequest>,
    ) -> Result<Response<ListModelsResponse>, Status> {
        let (models, request) = (self.models.clone(), request.into_inner());
        Ok(Response::new(blocking(move || lists::models(&*models.list()?, &request)).await?))
    }

    async fn get(&self, request: Request<GetModelRequest>) -> Result<Response<Model>, Status> {
        let (models, name) = (self.models.clone(), request.into_inner().name);
        Ok(Response::new((&blocking(move || models.get(&name)).await?).wire()))
    }

    async fn promote(&self, request: Request<PromoteModelRequest>) -> Result<Response<Model>, Status> {
        let (models, request) = (self.models.clone(), request.into_inner());
        let model = blocking(move || models.promote(&request.model, &request.alias)).await?;
        Ok(Response::new((&model).wire()))
    }

    async fn delete(
        &self,
        request: Request<DeleteModelRequest>,
    ) -> Result<Response<DeleteModelResponse>, Status> {
        let (models, reference) = (self.models.clone(), request.into_inner().model);
        blocking(move || models.delete(&reference)).await?;
        Ok(Response::new(DeleteModelResponse {}))
    }

    type DownloadStream = Pin<Box<dyn Stream<Item = Result<DownloadModelResponse, Status>> + Send>>;

    async fn download(
        &self,
        request: Request<DownloadModelRequest>,
    ) -> Result<Response<Self::DownloadStream>, Status> {
        let turn = self.downloads.take().await?;
        let version = self.models.resolve(&request.into_inner().model).await?;
        let (models, wanted) = (self.models.clone(), version.clone());
        let folder = blocking(move || models.folder(&wanted)).await?;
        let pieces = download::stream(folder, version.files.clone(), self.idle, turn);
        Ok(Response::new(Box::pin(pieces.map(|piece| Ok(piece?.wire())))))
    }
}
