//! Calls of the command line that the benchmark does not need.

use tonic::Streaming;

use super::{Client, ClientError};
use crate::proto::{
    GenerateRequest, GenerateResponse, GetModelRequest, Model, WatchModelsRequest, WatchModelsResponse,
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
        response
            .model
            .ok_or_else(|| ClientError::Protocol("GetModel without a model".to_owned()))
    }

    /// Every model now, and each one again whenever its state changes. `call_timeout` bounds the whole stream.
    ///
    /// # Errors
    /// [`ClientError::Rpc`].
    pub async fn watch_models(&self) -> Result<Streaming<WatchModelsResponse>, ClientError> {
        self.unary(WatchModelsRequest {}, async |channel, request| {
            ModelServiceClient::new(channel).watch_models(request).await
        })
        .await
    }

    /// One answer as it is written. Retried until it begins, never after; `call_timeout` bounds the whole
    /// answer.
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
