//! Calls that only the command line and the benchmark need.

use tonic::Streaming;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use super::{channel::Client, error::ClientError};
use crate::proto::{
    CountTokensRequest, EstimateModelRequest, EstimateModelResponse, GenerateRequest, GenerateResponse,
    GetModelRequest, ListModelsRequest, LoadModelRequest, Model, PinModelRequest, UnloadModelRequest,
    WatchModelsRequest, WatchModelsResponse, admin_service_client::AdminServiceClient,
    generation_service_client::GenerationServiceClient, model_service_client::ModelServiceClient,
};

impl Client {
    /// One model by its id.
    ///
    /// # Errors
    /// [`ClientError::Rpc`]; [`ClientError::Protocol`] for an empty answer.
    pub async fn get_model(&self, name: &str) -> Result<Model, ClientError> {
        let request = GetModelRequest {
            name: name.to_owned(),
        };
        let response = self
            .unary(request, async |channel, request| {
                ModelServiceClient::new(channel).get_model(request).await
            })
            .await?;
        response.model.ok_or_else(|| empty("GetModel"))
    }

    /// How many tokens a text has for a model; an empty id stands for the server's default target.
    ///
    /// # Errors
    /// [`ClientError::Rpc`].
    pub async fn count_tokens(&self, model: &str, text: &str) -> Result<u32, ClientError> {
        let request = CountTokensRequest {
            model: model.to_owned(),
            text: text.to_owned(),
        };
        let response = self
            .unary(request, async |channel, request| {
                ModelServiceClient::new(channel).count_tokens(request).await
            })
            .await?;
        Ok(response.tokens)
    }

    /// All models, and each one again whenever its state changes. `call_timeout` bounds the whole stream.
    ///
    /// # Errors
    /// [`ClientError::Rpc`].
    pub async fn watch_models(&self) -> Result<Streaming<WatchModelsResponse>, ClientError> {
        self.unary(WatchModelsRequest {}, async |channel, request| {
            ModelServiceClient::new(channel).watch_models(request).await
        })
        .await
    }

    /// Loads a configured model.
    ///
    /// # Errors
    /// [`ClientError::Rpc`]; [`ClientError::Protocol`] for an empty answer.
    pub async fn load_model(&self, request: LoadModelRequest) -> Result<Model, ClientError> {
        let response = self
            .unary(request, async |channel, request| {
                AdminServiceClient::new(channel).load_model(request).await
            })
            .await?;
        response.model.ok_or_else(|| empty("LoadModel"))
    }

    /// Unloads a model.
    ///
    /// # Errors
    /// [`ClientError::Rpc`]; [`ClientError::Protocol`] for an empty answer.
    pub async fn unload_model(&self, request: UnloadModelRequest) -> Result<Model, ClientError> {
        let response = self
            .unary(request, async |channel, request| {
                AdminServiceClient::new(channel).unload_model(request).await
            })
            .await?;
        response.model.ok_or_else(|| empty("UnloadModel"))
    }

    /// Sets whether a model is pinned, which means that it is never evicted.
    ///
    /// # Errors
    /// [`ClientError::Rpc`]; [`ClientError::Protocol`] for an empty answer.
    pub async fn pin_model(&self, name: &str, pinned: bool) -> Result<Model, ClientError> {
        let request = PinModelRequest {
            name: name.to_owned(),
            pinned,
        };
        let response = self
            .unary(request, async |channel, request| {
                AdminServiceClient::new(channel).pin_model(request).await
            })
            .await?;
        response.model.ok_or_else(|| empty("PinModel"))
    }

    /// What loading a model would take, and whether there is room.
    ///
    /// # Errors
    /// [`ClientError::Rpc`].
    pub async fn estimate_model(
        &self,
        request: EstimateModelRequest,
    ) -> Result<EstimateModelResponse, ClientError> {
        self.unary(request, async |channel, request| {
            AdminServiceClient::new(channel).estimate_model(request).await
        })
        .await
    }

    /// The version of the server; empty if it does not state it.
    ///
    /// # Errors
    /// [`ClientError::Rpc`].
    pub async fn server_version(&self) -> Result<String, ClientError> {
        let request = ListModelsRequest {
            page_size: 1,
            ..ListModelsRequest::default()
        };
        let response = self
            .unary(request, async |channel, request| {
                ModelServiceClient::new(channel).list_models(request).await
            })
            .await?;
        Ok(response.server_version)
    }

    /// Whether a service of the server serves, as `grpc.health.v1` reports.
    ///
    /// # Errors
    /// [`ClientError::Rpc`].
    pub async fn is_serving(&self, service: &str) -> Result<bool, ClientError> {
        let request = HealthCheckRequest {
            service: service.to_owned(),
        };
        let response = self
            .unary(request, async |channel, request| {
                HealthClient::new(channel).check(request).await
            })
            .await?;
        Ok(response.status() == ServingStatus::Serving)
    }

    /// One answer, as it is written. The call is retried until the answer begins, and never after that; `call_timeout` bounds
    /// the whole answer.
    ///
    /// # Errors
    /// [`ClientError::Rpc`].
    pub async fn generate(
        &self,
        request: GenerateRequest,
    ) -> Result<Streaming<GenerateResponse>, ClientError> {
        self.unary(request, async |channel, request| {
            GenerationServiceClient::new(channel).generate(request).await
        })
        .await
    }
}

fn empty(call: &str) -> ClientError {
    ClientError::Protocol(format!("{call} without a model"))
}
