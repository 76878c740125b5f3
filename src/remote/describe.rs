//! What an endpoint says of itself: its list of models, and the pages that vLLM, SGLang and llama-server have beside it.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use http::Method;
use serde::{Deserialize, de::DeserializeOwned};
use tokio::sync::Mutex as AsyncMutex;

use super::{
    error::{RemoteError, RemotePhase},
    json::{self, name},
    options::EndpointOptions,
    transport::{Allowed, AnswerBody, Sent, Transport, now},
};

/// Longest time for all pages together.
const PAGES_TIME: Duration = Duration::from_secs(2);

/// Most bytes of a page.
const PAGE_BYTES: usize = 1 << 20;

/// How long a description is used before the endpoint is asked again.
const FRESH: Duration = Duration::from_secs(60);

/// What an endpoint says of itself. What it does not say is absent.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EndpointDescription {
    /// Whether its list of models has ours; `None` where it has no list.
    pub lists_model: Option<bool>,
    /// Its software, as it names it: `vllm`, `sglang`, `llamacpp`.
    pub software: Option<String>,
    /// The version of its software.
    pub version: Option<String>,
    /// The model's window in tokens.
    pub context_tokens: Option<u32>,
}

#[derive(Deserialize)]
struct ModelPage {
    data: Vec<ListedModel>,
}

#[derive(Deserialize)]
struct ListedModel {
    id: String,
    #[serde(default)]
    owned_by: Option<String>,
    /// Of vLLM and SGLang.
    #[serde(default)]
    max_model_len: Option<u32>,
}

#[derive(Deserialize)]
struct VersionPage {
    version: String,
}

/// Of llama-server.
#[derive(Deserialize)]
struct PropsPage {
    #[serde(default)]
    build_info: Option<String>,
    #[serde(default)]
    default_generation_settings: Option<Settings>,
}

#[derive(Deserialize)]
struct Settings {
    #[serde(default)]
    n_ctx: Option<u32>,
}

/// The description that was read last.
#[derive(Default)]
pub(super) struct Described {
    last: Mutex<EndpointDescription>,
    /// When it was read; held while it is read again.
    read_at: AsyncMutex<Option<Instant>>,
}

impl Described {
    /// The description of not long ago, read now if there is none.
    pub(super) async fn get(&self, transport: &Transport, options: &EndpointOptions) -> EndpointDescription {
        let mut read_at = self.read_at.lock().await;
        let is_fresh = read_at.is_some_and(|at| now().saturating_duration_since(at) < FRESH);
        if !is_fresh {
            let description = read(transport, options).await.unwrap_or_default();
            *self.last.lock().unwrap_or_else(PoisonError::into_inner) = description;
            *read_at = Some(now());
        }
        self.known()
    }

    /// The description that was read last, empty before the first.
    pub(super) fn known(&self) -> EndpointDescription {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.clone()
    }
}

/// Asks the endpoint for all of its pages. That it has no page is no error, but that it has no list of models and cannot be reached
/// is.
pub(super) async fn read(
    transport: &Transport,
    options: &EndpointOptions,
) -> Result<EndpointDescription, RemoteError> {
    let url = &options.url;
    let allowed = Allowed {
        deadline: Some(now() + PAGES_TIME),
        stall: PAGES_TIME,
    };
    let models = page::<ModelPage>(transport, url.below("/models"), allowed).await;
    let models = match models {
        Ok(page) => Some(page.data),
        // It answers, only not this.
        Err(
            RemoteError::Status { code: 400..=499, .. }
            | RemoteError::Malformed { .. }
            | RemoteError::TooLarge { .. },
        ) => None,
        Err(error) => return Err(error),
    };
    let version = page::<VersionPage>(transport, url.beside("/version"), allowed)
        .await
        .ok();
    let props = page::<PropsPage>(transport, url.beside("/props"), allowed)
        .await
        .ok();
    let listed = models
        .as_ref()
        .and_then(|models| models.iter().find(|listed| listed.id == options.model));
    let settings = props
        .as_ref()
        .and_then(|props| props.default_generation_settings.as_ref()?.n_ctx);
    let build = props.as_ref().and_then(|props| props.build_info.as_deref());
    Ok(EndpointDescription {
        lists_model: models.as_ref().map(|_| listed.is_some()),
        software: listed.and_then(|listed| name(listed.owned_by.as_deref()?)),
        version: version
            .and_then(|page| name(&page.version))
            .or_else(|| name(build?)),
        context_tokens: listed.and_then(|listed| listed.max_model_len).or(settings),
    })
}

async fn page<T: DeserializeOwned>(
    transport: &Transport,
    url: String,
    allowed: Allowed,
) -> Result<T, RemoteError> {
    let sent = Sent {
        method: Method::GET,
        url,
        body: String::new(),
        accept: "application/json",
    };
    let answer = transport.send(&sent, allowed).await?;
    let mut body = AnswerBody::new(answer, PAGE_BYTES);
    json::read(&body.read_all(allowed, RemotePhase::Prefill).await?)
}
