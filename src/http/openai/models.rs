//! `GET /v1/models`, and `GET /v1/models/{id}`.

use serde::Serialize;
use tonic::Status;

use super::error::OpenAiError;
use crate::{
    http::local::LocalChannel,
    proto::{self, model_service_client::ModelServiceClient},
};

/// Most models of a page of ListModels.
const PAGE: i32 = 1000;

/// The models of the server.
#[derive(Debug, Serialize)]
pub(super) struct ModelList {
    object: &'static str,
    data: Vec<ModelObject>,
}

/// A model.
#[derive(Debug, Serialize)]
pub(super) struct ModelObject {
    id: String,
    object: &'static str,
    /// When it was loaded, in seconds since 1970; 0 while it is not in memory.
    created: i64,
    owned_by: &'static str,
    babelward: ModelReport,
}

#[derive(Debug, Serialize)]
struct ModelReport {
    /// What it may be asked for: `generate`, `classify`, ...
    capabilities: Vec<String>,
    /// `ready`, `loading`, ...
    state: String,
    context_tokens: u32,
}

impl ModelObject {
    fn of(model: proto::Model) -> Self {
        let word = |name: &str, prefix: &str| name.trim_start_matches(prefix).to_lowercase();
        let capabilities = model
            .capabilities()
            .map(|one| word(one.as_str_name(), "CAPABILITY_"))
            .collect();
        Self {
            object: "model",
            created: model.ready_time.map_or(0, |time| time.seconds),
            owned_by: "babelward",
            babelward: ModelReport {
                capabilities,
                state: word(model.state().as_str_name(), "STATE_"),
                context_tokens: model.context_tokens,
            },
            id: model.name,
        }
    }
}

fn failed(status: Status) -> OpenAiError {
    // A model is named by the path, which is no parameter.
    OpenAiError::of_status(status, &|_| "model".to_owned())
}

/// All models.
pub(super) async fn list(channel: LocalChannel) -> Result<ModelList, OpenAiError> {
    let mut client = ModelServiceClient::new(channel).max_decoding_message_size(usize::MAX);
    let mut data = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = proto::ListModelsRequest {
            page_size: PAGE,
            page_token,
            ..proto::ListModelsRequest::default()
        };
        let page = client.list_models(request).await.map_err(failed)?.into_inner();
        data.extend(page.models.into_iter().map(ModelObject::of));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return Ok(ModelList { object: "list", data });
        }
    }
}

/// One model.
pub(super) async fn get(channel: LocalChannel, name: String) -> Result<ModelObject, OpenAiError> {
    let mut client = ModelServiceClient::new(channel).max_decoding_message_size(usize::MAX);
    let request = proto::GetModelRequest { name };
    let found = client.get_model(request).await.map_err(failed)?.into_inner();
    found.model.map(ModelObject::of).ok_or_else(OpenAiError::broken)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_model_says_what_it_may_be_asked_for() {
        let model = proto::Model {
            name: "smol".to_owned(),
            capabilities: vec![
                proto::Capability::Generate.into(),
                proto::Capability::Classify.into(),
            ],
            state: proto::model::State::Ready.into(),
            context_tokens: 2048,
            ready_time: Some(prost_types::Timestamp { seconds: 7, nanos: 5 }),
            ..proto::Model::default()
        };
        let wanted = json!({
            "id": "smol", "object": "model", "created": 7, "owned_by": "babelward",
            "babelward": {"capabilities": ["generate", "classify"], "state": "ready", "context_tokens": 2048},
        });
        assert_eq!(serde_json::to_value(ModelObject::of(model)).unwrap(), wanted);
    }
}
