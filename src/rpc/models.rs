//! ModelService.

use std::sync::Arc;

use futures::stream;
use tokio::sync::watch;
use tonic::{Request, Response, Status, codegen::BoxStream};

use super::{
    call::Call,
    error::ServiceError,
    provenance::{self, capability},
    sequence::{Shared, with_text},
    validate,
};
use crate::{
    proto,
    registry::{ModelEntry, ModelState},
};

/// ModelService.
pub(crate) struct ModelApi(pub(crate) Arc<Shared>);

impl ModelApi {
    fn list(&self, request: &proto::ListModelsRequest) -> Result<proto::ListModelsResponse, ServiceError> {
        let registry = &self.0.registry;
        let entries = registry.list();
        let work = validate::list_models(request, entries.len(), &self.0.limits)?;
        let wanted = |entry: &ModelEntry| {
            work.capability == proto::Capability::Unspecified
                || entry
                    .roles
                    .iter()
                    .any(|role| capability(*role) == work.capability)
        };
        let mut matching = entries
            .iter()
            .enumerate()
            .skip(work.start)
            .filter(|(_, entry)| wanted(entry));
        let models = matching
            .by_ref()
            .take(work.page_size)
            .map(|(_, entry)| provenance::model(registry, entry, registry.state(entry)))
            .collect();
        let next_page_token = matching.next().map(|(position, _)| position.to_string());
        Ok(proto::ListModelsResponse {
            models,
            next_page_token: next_page_token.unwrap_or_default(),
        })
    }

    fn get(&self, request: &proto::GetModelRequest) -> Result<proto::GetModelResponse, ServiceError> {
        let registry = &self.0.registry;
        if request.name.is_empty() {
            return Err(ServiceError::field("name", "is required"));
        }
        let entry = registry
            .any(&request.name)
            .map_err(|error| ServiceError::from_lookup(error, &request.name))?;
        Ok(proto::GetModelResponse {
            model: Some(provenance::model(registry, &entry, registry.state(&entry))),
        })
    }

    async fn count(
        &self,
        request: proto::CountTokensRequest,
    ) -> Result<proto::CountTokensResponse, ServiceError> {
        validate::count_tokens(&request, &self.0.limits)?;
        let entry = self
            .0
            .registry
            .any(&request.model)
            .map_err(|error| ServiceError::from_lookup(error, &request.model))?;
        let tokens = with_text(request.text.len(), move || {
            let tokens = entry.resident.tokenizer.encode_plain(&request.text);
            tokens.map_err(|_| ServiceError::TextFault)
        });
        Ok(proto::CountTokensResponse {
            tokens: provenance::count(tokens.await?.len()),
        })
    }
}

#[tonic::async_trait]
impl proto::model_service_server::ModelService for ModelApi {
    type WatchModelsStream = BoxStream<proto::WatchModelsResponse>;

    async fn list_models(
        &self,
        request: Request<proto::ListModelsRequest>,
    ) -> Result<Response<proto::ListModelsResponse>, Status> {
        let call = Call::of(&request)?;
        call.unary(async { self.list(request.get_ref()) }).await
    }

    async fn get_model(
        &self,
        request: Request<proto::GetModelRequest>,
    ) -> Result<Response<proto::GetModelResponse>, Status> {
        let call = Call::of(&request)?;
        call.unary(async { self.get(request.get_ref()) }).await
    }

    async fn count_tokens(
        &self,
        request: Request<proto::CountTokensRequest>,
    ) -> Result<Response<proto::CountTokensResponse>, Status> {
        let call = Call::of(&request)?;
        call.unary(self.count(request.into_inner())).await
    }

    async fn watch_models(
        &self,
        request: Request<proto::WatchModelsRequest>,
    ) -> Result<Response<Self::WatchModelsStream>, Status> {
        let call = Call::of(&request)?;
        let watcher = Watcher {
            states: self.0.registry.watch(),
            told: Vec::new(),
            shared: Arc::clone(&self.0),
            call,
        };
        let changes = stream::unfold(Some(watcher), |watcher| async move {
            let mut watcher = watcher?;
            match watcher.next().await {
                Some(Ok(response)) => Some((Ok(response), Some(watcher))),
                Some(Err(status)) => Some((Err(status), None)),
                None => None,
            }
        });
        Ok(Response::new(Box::pin(changes)))
    }
}

/// Tells one client of states as they change. Changes that undo each other before they are sent are not sent.
struct Watcher {
    states: watch::Receiver<Vec<ModelState>>,
    /// What the client knows.
    told: Vec<ModelState>,
    shared: Arc<Shared>,
    call: Call,
}

impl Watcher {
    async fn next(&mut self) -> Option<Result<proto::WatchModelsResponse, Status>> {
        loop {
            if let Some(response) = self.news() {
                return Some(Ok(response));
            }
            // Once everything is told to be draining, nothing changes any more.
            if self.shared.draining.is_cancelled() && self.shared.registry.is_draining() {
                self.call.succeed();
                return None;
            }
            tokio::select! {
                changed = self.states.changed() => {
                    if changed.is_err() {
                        return Some(Err(self.call.fail(&ServiceError::draining())));
                    }
                }
                () = self.call.deadline.passed() => {
                    let error = ServiceError::Deadline { stage: crate::engine::Stage::Queue };
                    return Some(Err(self.call.fail(&error)));
                }
            }
        }
    }

    /// The first model whose state the client does not know.
    fn news(&mut self) -> Option<proto::WatchModelsResponse> {
        let registry = &self.shared.registry;
        let states = self.states.borrow_and_update().clone();
        for (position, (entry, state)) in registry.list().iter().zip(states).enumerate() {
            match self.told.get_mut(position) {
                Some(told) if *told == state => continue,
                Some(told) => *told = state,
                None => self.told.push(state),
            }
            return Some(proto::WatchModelsResponse {
                model: Some(provenance::model(registry, entry, state)),
            });
        }
        None
    }
}
