//! `hone.v1.ModelService`.

use crate::rpc::convert::Wire;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt as _};
use hone::v1::model_service_server::ModelService;
use hone::v1::{
    DeleteModelRequest, DeleteModelResponse, DownloadModelRequest, DownloadModelResponse, GetModelRequest,
    ListModelsRequest, ListModelsResponse, LoadModelRequest, Model, ModelHistoryRequest,
    ModelHistoryResponse, ModelReadyRequest, ModelReadyResponse, PinModelRequest, PromoteModelRequest,
    RollbackModelRequest, ServingState, SetModelRequest, UnloadModelRequest,
};
use tonic::{Request, Response, Status};

use super::convert::{all, model as convert};
use super::turns::Turns;
use super::{blocking, lists};
use crate::serve::download;
use crate::serve::registry::Models;
use hone_base::error::{Error, quoted};

/// Bytes of the name of a caller's program that are written down at most.
const MAX_AGENT: usize = 100;

/// The service.
pub struct ModelRpc {
    pub(super) models: Arc<Models>,
    /// Who may receive a model's files.
    pub(super) downloads: Turns,
    /// A download whose caller takes nothing for so long is given up.
    pub(super) idle: Duration,
}

impl ModelRpc {
    /// A model with how it is served.
    fn shown(&self, model: &hone_storage::Model) -> Response<Model> {
        Response::new(convert::served(&self.models, model))
    }
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
        Ok(self.shown(&blocking(move || models.get(&name)).await?))
    }

    async fn promote(&self, request: Request<PromoteModelRequest>) -> Result<Response<Model>, Status> {
        let by = caller(&request);
        let PromoteModelRequest { model, alias, canary, shadow } = request.into_inner();
        let model = match (canary, shadow) {
            (Some(_), Some(_)) => {
                let why =
                    "`canary` and `shadow` are two requests: a version takes calls, or is only compared";
                return Err(Error::invalid(why).into());
            }
            (Some(share), None) => self.models.canary(&model, &alias, share, &by).await?,
            (None, Some(begins)) => self.models.set_shadow(&model, &alias, begins).await?,
            (None, None) => self.models.promote(&model, &alias, &by).await?,
        };
        Ok(self.shown(&model))
    }

    async fn rollback(&self, request: Request<RollbackModelRequest>) -> Result<Response<Model>, Status> {
        let by = caller(&request);
        let RollbackModelRequest { name, alias } = request.into_inner();
        Ok(self.shown(&self.models.rollback(&name, &alias, &by).await?))
    }

    async fn history(
        &self,
        request: Request<ModelHistoryRequest>,
    ) -> Result<Response<ModelHistoryResponse>, Status> {
        let (models, name) = (self.models.clone(), request.into_inner().name);
        let moves = blocking(move || models.history(&name)).await?;
        Ok(Response::new(ModelHistoryResponse { moves: all(&moves) }))
    }

    async fn load(&self, request: Request<LoadModelRequest>) -> Result<Response<Model>, Status> {
        Ok(self.shown(&self.models.load(&request.into_inner().model).await?))
    }

    async fn unload(&self, request: Request<UnloadModelRequest>) -> Result<Response<Model>, Status> {
        let (models, reference) = (self.models.clone(), request.into_inner().model);
        Ok(self.shown(&blocking(move || models.unload(&reference)).await?))
    }

    async fn pin(&self, request: Request<PinModelRequest>) -> Result<Response<Model>, Status> {
        let PinModelRequest { model, pinned } = request.into_inner();
        Ok(self.shown(&self.models.pin(&model, pinned).await?))
    }

    async fn set(&self, request: Request<SetModelRequest>) -> Result<Response<Model>, Status> {
        let SetModelRequest { name, precision } = request.into_inner();
        let Some(precision) = precision else {
            return Err(Error::invalid("nothing to set: say the `precision` of the model").into());
        };
        let precision = match precision.as_str() {
            "" => None,
            text => Some(text.parse().map_err(|why| {
                Error::invalid_field("precision", format!("`precision`: {why}; got {}", quoted(text)))
            })?),
        };
        Ok(self.shown(&self.models.set_precision(&name, precision).await?))
    }

    async fn ready(
        &self,
        request: Request<ModelReadyRequest>,
    ) -> Result<Response<ModelReadyResponse>, Status> {
        let version = self.models.resolve(&request.into_inner().model).await?;
        let (models, wanted) = (self.models.clone(), version.clone());
        let model = blocking(move || models.get(&wanted.name)).await?;
        let serving = convert::serving(&self.models, &model, &version);
        let ready = serving.state() == ServingState::Ready;
        Ok(Response::new(ModelReadyResponse { ready, serving: Some(serving) }))
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

/// Who calls: an address, and what the program calls itself.
fn caller<T>(request: &Request<T>) -> String {
    let address =
        request.remote_addr().map_or_else(|| "somebody".to_owned(), |address| address.ip().to_string());
    let agent = request.metadata().get("user-agent").and_then(|agent| agent.to_str().ok());
    match agent.and_then(|agent| agent.get(..agent.len().min(MAX_AGENT))).filter(|agent| !agent.is_empty()) {
        Some(agent) => format!("{address} ({agent})"),
        None => address,
    }
}
