//! Model ids that are endpoints: engines on other machines compute them.

use std::sync::Arc;

use super::{
    error::RegistryError,
    model::{Declared, ModelRole, RemoteModel, RemoteSpec},
    residency::Lease,
};
use crate::{
    config::LoadPolicy,
    guard::{Guard, GuardError, GuardKind},
    remote::RemoteEndpoint,
    text::{ChatTemplate, Tokenizer},
};

/// A model that a request may use.
#[derive(Clone)]
pub enum ModelAccess {
    /// It is in memory here.
    Local(Lease),
    /// An endpoint computes it.
    Remote(Arc<RemoteModel>),
}

impl ModelAccess {
    /// The name that callers use.
    pub fn id(&self) -> &str {
        match self {
            Self::Local(entry) => &entry.id,
            Self::Remote(model) => &model.id,
        }
    }

    /// What the model may be used for.
    pub fn roles(&self) -> &[ModelRole] {
        match self {
            Self::Local(entry) => &entry.roles,
            Self::Remote(model) => &model.roles,
        }
    }

    /// Builds prompts and reads verdicts, if the model is a guard.
    pub fn guard(&self) -> Option<&Arc<Guard>> {
        match self {
            Self::Local(entry) => entry.guard.as_ref(),
            Self::Remote(model) => model.guard.as_ref(),
        }
    }

    /// Whether an endpoint computes it.
    pub fn is_remote(&self) -> bool {
        matches!(self, Self::Remote(_))
    }
}

/// Opens the endpoints, whose ids and groups come behind those of the models that are loaded here.
pub(super) fn declare_remotes(
    specs: Vec<RemoteSpec>,
    first_position: usize,
    first_group: usize,
) -> Result<Vec<Arc<Declared>>, RegistryError> {
    let declared = specs.into_iter().enumerate().map(|(index, spec)| {
        let id = spec.endpoint.id.clone();
        if spec.roles.is_empty() {
            return Err(RegistryError::NoRole(id));
        }
        let guard = match spec.roles.contains(&ModelRole::Guard) {
            true => guard(&spec).map(|guard| Some(Arc::new(guard))),
            false => Ok(None),
        };
        let guard = guard.map_err(|source| RegistryError::Guard {
            id: id.clone(),
            source,
        })?;
        let endpoint = RemoteEndpoint::new(spec.endpoint).map_err(|source| RegistryError::Endpoint {
            id: id.clone(),
            source,
        })?;
        let group = first_group + index;
        Ok(Arc::new(Declared {
            id: id.clone(),
            roles: spec.roles.clone(),
            policy: LoadPolicy::Manual,
            adapter: None,
            remote: Some(Arc::new(RemoteModel {
                id,
                roles: spec.roles,
                endpoint,
                guard,
                group,
            })),
            guard_kind: spec.guard_kind,
            position: first_position + index,
            group,
        }))
    });
    declared.collect()
}

/// What builds a guard's prompts and reads its verdicts, with the tokenizer that the configuration names, if it names one.
fn guard(spec: &RemoteSpec) -> Result<Guard, GuardError> {
    let unsuitable = |reason: String| Err(GuardError::Unsuitable(reason));
    let Some(kind) = spec.guard_kind else {
        return unsuitable(format!(
            "an endpoint does not say which guard its model is; set guard_kind to one of {}",
            GuardKind::known()
        ));
    };
    if !spec.endpoint.api.has_completions() {
        return unsuitable(
            "a guard's prompt is sent to completions, which endpoint_api says that the endpoint does not have".to_owned(),
        );
    }
    match &spec.tokenizer {
        Some(path) => {
            let tokenizer = Arc::new(Tokenizer::open(path)?);
            Guard::new(kind, tokenizer, ChatTemplate::open(path)?.map(Arc::new))
        }
        None => Guard::of_texts(kind),
    }
}
