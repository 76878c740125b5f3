//! Model ids that are endpoints: engines on other machines compute them.

use std::sync::Arc;

use super::{
    error::RegistryError,
    model::{Declared, RemoteModel, RemoteSpec},
    residency::Lease,
};
use crate::{config::LoadPolicy, remote::RemoteEndpoint};

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
        let endpoint = RemoteEndpoint::new(spec.endpoint).map_err(|source| RegistryError::Endpoint {
            id: id.clone(),
            source,
        })?;
        let group = first_group + index;
        Ok(Arc::new(Declared {
            id: id.clone(),
            roles: spec.roles,
            policy: LoadPolicy::Manual,
            adapter: None,
            remote: Some(Arc::new(RemoteModel { id, endpoint, group })),
            guard_kind: spec.guard_kind,
            position: first_position + index,
            group,
        }))
    });
    declared.collect()
}
