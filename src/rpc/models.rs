//! ModelService: lists, describes and watches models, and counts tokens.

use std::sync::Arc;

use futures::stream;
use tokio::sync::broadcast::error::RecvError;
use tonic::{Request, Response, Status, codegen::BoxStream};

use super::{
    call::Call,
    clock::now,
    encode,
    error::{ServiceError, TextOrigin},
    provenance::{self, capability},
    sequence::Shared,
    server_stats,
    token_quota::PromptLimit,
    validate,
};
use crate::{
    proto,
    registry::{Declared, ModelState, StateChange, StateWatch},
};

/// ModelService.
pub(crate) struct ModelApi(pub(crate) Arc<Shared>);

impl ModelApi {
    fn list(&self, request: &proto::ListModelsRequest) -> Result<proto::ListModelsResponse, ServiceError> {
        let registry = &self.0.registry;
        let entries = registry.list();
        let work = validate::list_models(request, entries.len())?;
        let wanted = |entry: &Declared| {
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
            server_version: env!("CARGO_PKG_VERSION").to_owned(),
        })
    }

    async fn get(&self, request: &proto::GetModelRequest) -> Result<proto::GetModelResponse, ServiceError> {
        let registry = &self.0.registry;
        if request.name.is_empty() {
            return Err(ServiceError::field("name", "is required"));
        }
        let declared = registry
            .find(&request.name)
            .map_err(|error| ServiceError::from_lookup(error, &request.name))?;
        if let Some(remote) = &declared.remote {
            // Read anew if the last time is too long ago.
            remote.endpoint.description().await;
        }
        Ok(proto::GetModelResponse {
            model: Some(provenance::model(registry, declared, registry.state(declared))),
        })
    }

    async fn count(
        &self,
        call: &Call,
        request: proto::CountTokensRequest,
    ) -> Result<proto::CountTokensResponse, ServiceError> {
        self.0.admit()?;
        validate::count_tokens(&request, &self.0.limits)?;
        let entry = self
            .0
            .registry
            .any(&request.model)
            .await
            .map_err(|error| ServiceError::from_lookup(error, &request.model))?;
        let shared = &self.0;
        let limit = PromptLimit::new(shared, &call.tenant, usize::MAX, 0)?;
        let most = limit.tokens();
        let text = request.text;
        let size = encode::text_size(&entry.resident.tokenizer, &text);
        let tokens = shared
            .texts
            .run(size, call.deadline, &shared.stopping, move |watch| {
                let tokenizer = &entry.resident.tokenizer;
                let tokens = tokenizer.encode_plain_within(&text, encode::allowance(most, watch));
                let origin = TextOrigin::Field("text".to_owned());
                tokens
                    .map_err(|error| encode::token_error(&error, most, tokenizer, [(origin, text.as_str())]))
            });
        let tokens = tokens.await.map_err(|error| limit.explain(error))?.len();
        // Finding out takes about as much work of the processor as a prompt of so many tokens does.
        let reserved = shared.quotas.reserve_tokens(&call.tenant, tokens, now());
        reserved.map_err(ServiceError::quota)?.use_tokens(tokens);
        Ok(proto::CountTokensResponse {
            tokens: provenance::count(tokens),
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
        let call = call.names_model(&self.0.registry, &request.get_ref().name);
        call.unary(self.get(request.get_ref())).await
    }

    async fn count_tokens(
        &self,
        request: Request<proto::CountTokensRequest>,
    ) -> Result<Response<proto::CountTokensResponse>, Status> {
        let call = Call::of(&request)?;
        let call = call.names_model(&self.0.registry, &request.get_ref().model);
        let answer = self.count(&call, request.into_inner());
        call.clone().unary(answer).await
    }

    async fn get_server_stats(
        &self,
        request: Request<proto::GetServerStatsRequest>,
    ) -> Result<Response<proto::GetServerStatsResponse>, Status> {
        let call = Call::of(&request)?;
        call.unary(async { Ok(server_stats::of(&self.0)) }).await
    }

    async fn watch_models(
        &self,
        request: Request<proto::WatchModelsRequest>,
    ) -> Result<Response<Self::WatchModelsStream>, Status> {
        let call = Call::of(&request)?;
        let watcher = Watcher {
            watch: self.0.registry.watch(),
            sent: Vec::new(),
            shared: Arc::clone(&self.0),
            call: call.clone(),
        };
        let changes = stream::unfold(Some(watcher), |watcher| async move {
            let mut watcher = watcher?;
            match watcher.next().await {
                Some(Ok(response)) => Some((Ok(response), Some(watcher))),
                Some(Err(status)) => Some((Err(status), None)),
                None => None,
            }
        });
        Ok(call.stream(changes))
    }
}

/// Sends one client the state of each model, and then each change.
struct Watcher {
    watch: StateWatch,
    /// The states that the client has been sent.
    sent: Vec<ModelState>,
    shared: Arc<Shared>,
    call: Call,
}

impl Watcher {
    async fn next(&mut self) -> Option<Result<proto::WatchModelsResponse, Status>> {
        loop {
            if let Some(change) = self.next_unsent() {
                if let Err(error) = self.call.check_credential() {
                    return Some(Err(self.call.fail(&error)));
                }
                match self.sent.get_mut(change.position) {
                    Some(sent) => *sent = change.state,
                    None => self.sent.push(change.state),
                }
                let registry = &self.shared.registry;
                let model = registry.list().get(change.position)?;
                let model = Some(provenance::model(registry, model, change.state));
                return Some(Ok(proto::WatchModelsResponse { model }));
            }
            let change = tokio::select! {
                biased;
                change = self.watch.changes.recv() => change,
                // By then the client has been told that every model is draining.
                () = self.shared.draining.cancelled() => {
                    self.call.succeed();
                    return None;
                }
                () = self.call.deadline.passed() => {
                    let error = ServiceError::Deadline { stage: crate::engine::Stage::Queue };
                    return Some(Err(self.call.fail(&error)));
                }
            };
            match change {
                Ok(change) => {
                    if let Some(now) = self.watch.now.get_mut(change.position) {
                        *now = change.state;
                    }
                }
                Err(RecvError::Lagged(_)) => self.watch = self.shared.registry.watch(),
                Err(RecvError::Closed) => return Some(Err(self.call.fail(&ServiceError::draining()))),
            }
        }
    }

    /// The state of the first model whose present state has not been sent to the client.
    fn next_unsent(&self) -> Option<StateChange> {
        let now = self.watch.now.iter().copied().enumerate();
        let mut unsent = now.filter(|(position, state)| self.sent.get(*position) != Some(state));
        let (position, state) = unsent.next()?;
        Some(StateChange { position, state })
    }
}
