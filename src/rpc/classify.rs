//! Classify: a guard judges conversations, one at a time, in a batch, or on a stream.

use std::sync::Arc;

use futures::{FutureExt as _, StreamExt as _, future, stream};
use tonic::{Request, Response, Status, Streaming, codegen::BoxStream};

use super::{
    call::Call,
    classify_one::{classify, classify_item},
    decision,
    error::ServiceError,
    evidence, guard_stream, renderings,
    sequence::{Shared, WorkContext},
    stream::{Action, Envelope, ItemStream, StreamRpc, drive},
    validate,
};
use crate::{
    engine::Priority,
    guard::{Policy, PolicyCategory},
    proto::{self, batch_classify_result, classify_stream_request, classify_stream_response},
};

/// SafetyService.
pub(crate) struct SafetyApi(pub(crate) Arc<Shared>);

impl SafetyApi {
    fn list_policies(&self) -> Result<proto::ListPoliciesResponse, ServiceError> {
        self.0.admit()?;
        let category = |category: &PolicyCategory| proto::PolicyCategory {
            code: category.code.clone(),
            name: category.name.clone(),
            description: category.description.clone(),
        };
        let policy = |policy: &Arc<Policy>| proto::ConfiguredPolicy {
            policy: Some(proto::Policy {
                name: policy.name().to_owned(),
                categories: policy.categories().iter().map(category).collect(),
            }),
            digest: policy.digest().to_owned(),
        };
        let decisions = &self.0.decisions;
        Ok(proto::ListPoliciesResponse {
            policies: self.0.registry.policies().map(policy).collect(),
            decision_policies: decisions
                .iter()
                .map(|policy| decision::listed(policy, decisions))
                .collect(),
        })
    }

    async fn batch(
        &self,
        call: &Call,
        request: proto::BatchClassifyRequest,
    ) -> Result<proto::BatchClassifyResponse, ServiceError> {
        self.0.admit()?;
        // The call is a request also where it has no items, and its first item is no further one.
        self.0.count_request(&call.tenant)?;
        let ids = validate::batch(&request, &self.0.limits)?;
        let context = WorkContext::of(&self.0, call, Priority::Batch);
        let items = (0..).zip(request.items.into_iter().zip(ids));
        let results = items.map(|(number, (item, id))| {
            let request = item.request.unwrap_or_default();
            let path = format!("items[{number}].request");
            let judged = classify_item(call, &context, number, request, path);
            async move {
                proto::BatchClassifyResult {
                    id,
                    result: Some(match judged.await {
                        Ok(response) => batch_classify_result::Result::Response(response),
                        Err(error) => batch_classify_result::Result::Error(error),
                    }),
                }
            }
        });
        Ok(proto::BatchClassifyResponse {
            results: future::join_all(results).await,
        })
    }
}

#[tonic::async_trait]
impl proto::safety_service_server::SafetyService for SafetyApi {
    type ClassifyStreamStream = BoxStream<proto::ClassifyStreamResponse>;
    type GuardStreamStream = BoxStream<proto::GuardStreamResponse>;

    async fn classify(
        &self,
        request: Request<proto::ClassifyRequest>,
    ) -> Result<Response<proto::ClassifyResponse>, Status> {
        let call = Call::of(&request)?;
        let context = WorkContext::of(&self.0, &call, Priority::Urgent);
        let answer = classify(context, request.into_inner(), String::new());
        call.unary(answer).await
    }

    async fn batch_classify(
        &self,
        request: Request<proto::BatchClassifyRequest>,
    ) -> Result<Response<proto::BatchClassifyResponse>, Status> {
        let call = Call::of(&request)?;
        let answer = self.batch(&call, request.into_inner());
        call.clone().unary(answer).await
    }

    async fn list_policies(
        &self,
        request: Request<proto::ListPoliciesRequest>,
    ) -> Result<Response<proto::ListPoliciesResponse>, Status> {
        let call = Call::of(&request)?;
        call.unary(async { self.list_policies() }).await
    }

    async fn classify_renderings(
        &self,
        request: Request<proto::ClassifyRenderingsRequest>,
    ) -> Result<Response<proto::ClassifyRenderingsResponse>, Status> {
        let call = Call::of(&request)?;
        let answer = renderings::answer(&self.0, &call, request.into_inner());
        call.clone().unary(answer).await
    }

    async fn find_evidence(
        &self,
        request: Request<proto::FindEvidenceRequest>,
    ) -> Result<Response<proto::FindEvidenceResponse>, Status> {
        let call = Call::of(&request)?;
        let answer = evidence::answer(&self.0, &call, request.into_inner());
        call.clone().unary(answer).await
    }

    async fn classify_stream(
        &self,
        request: Request<Streaming<proto::ClassifyStreamRequest>>,
    ) -> Result<Response<Self::ClassifyStreamStream>, Status> {
        drive::<ClassifyItems>(&self.0, request)
    }

    async fn guard_stream(
        &self,
        request: Request<Streaming<proto::GuardStreamRequest>>,
    ) -> Result<Response<Self::GuardStreamStream>, Status> {
        guard_stream::drive(&self.0, request)
    }
}

/// The items of ClassifyStream.
struct ClassifyItems;

impl StreamRpc for ClassifyItems {
    type Request = proto::ClassifyStreamRequest;
    type Response = proto::ClassifyStreamResponse;
    type Work = proto::ClassifyRequest;
    type Output = proto::ClassifyResponse;

    fn unpack(request: Self::Request) -> Envelope<Self::Work> {
        Envelope {
            id: request.id,
            action: request.action.map(|action| match action {
                classify_stream_request::Action::Classify(work) => Action::Start(work),
                classify_stream_request::Action::Cancel(proto::CancelItem {}) => Action::Cancel,
            }),
            timeout: request.timeout,
        }
    }

    fn run(context: WorkContext, work: Self::Work) -> ItemStream<Self::Output> {
        stream::once(classify(context, work, "classify".to_owned()).boxed()).boxed()
    }

    fn pack(id: String, result: Result<Self::Output, proto::ItemStatus>) -> Self::Response {
        let result = match result {
            Ok(response) => classify_stream_response::Result::Response(response),
            Err(error) => classify_stream_response::Result::Error(error),
        };
        proto::ClassifyStreamResponse {
            id,
            result: Some(result),
        }
    }
}
