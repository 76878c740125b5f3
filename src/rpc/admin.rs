//! AdminService: loads, unloads, pins and estimates models.

use std::{sync::Arc, time::Duration};

use tonic::{Request, Response, Status};

use super::{
    call::Call,
    error::ServiceError,
    provenance::{self, count},
    sequence::Shared,
};
use crate::{
    errors::with_causes,
    model::spec::Precision,
    proto::{self, estimate_model_response::Verdict},
    registry::{Declared, Feasibility, LoadAssessment},
};

/// How long open requests may go on when the request names no time.
const DEFAULT_DRAIN: Duration = Duration::from_secs(30);
/// Longest time that open requests may go on.
const LONGEST_DRAIN: Duration = Duration::from_secs(3600);

/// AdminService.
pub(crate) struct AdminApi(pub(crate) Arc<Shared>);

impl AdminApi {
    /// The model that a request names, if clients may manage models.
    fn admit(&self, name: &str) -> Result<Arc<Declared>, ServiceError> {
        if !self.0.allow_admin {
            return Err(ServiceError::AdminDisabled);
        }
        self.0.admit()?;
        if name.is_empty() {
            return Err(ServiceError::field("name", "is required"));
        }
        let found = self.0.registry.find(name);
        let found = found.map_err(|error| ServiceError::from_lookup(error, name))?;
        // What an endpoint computes is loaded and unloaded there.
        match found.remote {
            Some(_) => Err(ServiceError::RemoteUnsupported),
            None => Ok(Arc::clone(found)),
        }
    }

    fn model(&self, declared: &Declared) -> Option<proto::Model> {
        let registry = &self.0.registry;
        Some(provenance::model(registry, declared, registry.state(declared)))
    }

    async fn load(&self, request: proto::LoadModelRequest) -> Result<proto::LoadModelResponse, ServiceError> {
        let declared = self.admit(&request.name)?;
        let precision = precision(request.precision)?;
        let registry = &self.0.registry;
        if let Some(pinned) = request.pinned {
            registry.pin_model(&declared, pinned);
        }
        let loaded = if request.no_wait {
            registry.request_load(&declared, precision).await.map(drop)
        } else {
            registry.load_model(&declared, precision).await
        };
        loaded.map_err(ServiceError::from_load)?;
        Ok(proto::LoadModelResponse {
            model: self.model(&declared),
        })
    }

    async fn unload(
        &self,
        request: proto::UnloadModelRequest,
    ) -> Result<proto::UnloadModelResponse, ServiceError> {
        let declared = self.admit(&request.name)?;
        let limit = match request.drain_timeout.map(Duration::try_from) {
            None | Some(Ok(Duration::ZERO)) => DEFAULT_DRAIN,
            Some(Ok(limit)) => limit.min(LONGEST_DRAIN),
            Some(Err(_)) => return Err(ServiceError::field("drain_timeout", "must not be negative")),
        };
        self.0.registry.unload_model(&declared, limit).await;
        Ok(proto::UnloadModelResponse {
            model: self.model(&declared),
        })
    }

    fn pin(&self, request: &proto::PinModelRequest) -> Result<proto::PinModelResponse, ServiceError> {
        let declared = self.admit(&request.name)?;
        self.0.registry.pin_model(&declared, request.pinned);
        Ok(proto::PinModelResponse {
            model: self.model(&declared),
        })
    }

    async fn estimate(
        &self,
        request: proto::EstimateModelRequest,
    ) -> Result<proto::EstimateModelResponse, ServiceError> {
        let declared = self.admit(&request.name)?;
        let precision = precision(request.precision)?;
        let registry = Arc::clone(&self.0.registry);
        let span = tracing::Span::current();
        let read = move || span.in_scope(|| registry.estimate_model(&declared, precision));
        let read = tokio::task::spawn_blocking(read).await;
        match read {
            Ok(Ok(need)) => Ok(estimate(need)),
            Ok(Err(error)) => Err(ServiceError::ModelLoadFailed {
                cause: Some(with_causes(&error)),
            }),
            Err(_) => Err(ServiceError::ModelLoadFailed { cause: None }),
        }
    }
}

/// The precision that a request names; `None` when it names none.
fn precision(value: i32) -> Result<Option<Precision>, ServiceError> {
    proto::Precision::try_from(value).map(Into::into).map_err(|_| {
        let known = "is not a known value: there are PRECISION_MIXED, PRECISION_INT8, PRECISION_BF16 and PRECISION_F32";
        ServiceError::field("precision", known)
    })
}

fn estimate(model: LoadAssessment) -> proto::EstimateModelResponse {
    let (verdict, kv_proposed_bytes, would_evict, could_unload) = match model.feasibility {
        Feasibility::Resident { kv_bytes } => (Verdict::Resident, kv_bytes, Vec::new(), Vec::new()),
        Feasibility::Fits { kv_bytes, evict } if evict.is_empty() => {
            (Verdict::Fits, kv_bytes, evict, Vec::new())
        }
        Feasibility::Fits { kv_bytes, evict } => (Verdict::FitsAfterEviction, kv_bytes, evict, Vec::new()),
        Feasibility::Lacks(shortage) => (Verdict::DoesNotFit, 0, Vec::new(), shortage.could_unload),
    };
    proto::EstimateModelResponse {
        verdict: verdict.into(),
        weight_bytes: model.need.weights,
        scratch_bytes: model.need.scratch,
        kv_minimum_bytes: model.need.kv_min,
        kv_proposed_bytes,
        available_bytes: model.available,
        budget_bytes: model.budget,
        context_tokens: count(model.context_length),
        would_evict,
        could_unload,
    }
}

#[tonic::async_trait]
impl proto::admin_service_server::AdminService for AdminApi {
    async fn load_model(
        &self,
        request: Request<proto::LoadModelRequest>,
    ) -> Result<Response<proto::LoadModelResponse>, Status> {
        let call = Call::of(&request)?;
        let call = call.names_model(&self.0.registry, &request.get_ref().name);
        call.unary(self.load(request.into_inner())).await
    }

    async fn unload_model(
        &self,
        request: Request<proto::UnloadModelRequest>,
    ) -> Result<Response<proto::UnloadModelResponse>, Status> {
        let call = Call::of(&request)?;
        let call = call.names_model(&self.0.registry, &request.get_ref().name);
        call.unary(self.unload(request.into_inner())).await
    }

    async fn pin_model(
        &self,
        request: Request<proto::PinModelRequest>,
    ) -> Result<Response<proto::PinModelResponse>, Status> {
        let call = Call::of(&request)?;
        let call = call.names_model(&self.0.registry, &request.get_ref().name);
        call.unary(async { self.pin(request.get_ref()) }).await
    }

    async fn estimate_model(
        &self,
        request: Request<proto::EstimateModelRequest>,
    ) -> Result<Response<proto::EstimateModelResponse>, Status> {
        let call = Call::of(&request)?;
        let call = call.names_model(&self.0.registry, &request.get_ref().name);
        call.unary(self.estimate(request.into_inner())).await
    }
}
