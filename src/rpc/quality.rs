//! EstimateQuality: every pair is a sequence of its own, so the pairs of all callers share the engine's batches.

use std::sync::Arc;

use futures::future;
use tonic::{Code, Request, Response, Status};

use super::{
    call::Call,
    encode,
    error::{ServiceError, TextOrigin},
    provenance,
    record::Record,
    sequence::{Sequence, Shared, WorkContext},
    token_quota::PromptLimit,
    validate::{self, Pair, QualityWork, ValidationContext},
};
use crate::{
    engine::{Event, OutputSpec, Priority},
    proto::{self, quality_result},
    quality::{EstimatorKind, PairEncoder},
    registry::{Lease, ModelRole},
};

/// QualityService.
pub(crate) struct QualityApi(pub(crate) Arc<Shared>);

impl QualityApi {
    async fn estimate(
        &self,
        call: &Call,
        request: proto::EstimateQualityRequest,
    ) -> Result<proto::EstimateQualityResponse, ServiceError> {
        let shared = &self.0;
        call.record.note_requested_model(&shared.registry, &request.model);
        shared.admit()?;
        // The call is a request also where it has no pairs, and its first pair is no further one.
        shared.count_request(&call.tenant)?;
        validate::message_size(prost::Message::encoded_len(&request), &shared.limits)?;
        let validation = ValidationContext::of(shared, call.deadline);
        let work = validate::estimate_quality(request, &validation).await?;
        let QualityWork {
            estimator,
            pairs,
            priority,
        } = work;
        let Some(encoder) = estimator.quality.clone() else {
            return Err(ServiceError::CapabilityMissing {
                has: estimator.roles.clone(),
                needs: ModelRole::Quality,
            });
        };
        call.record.note(|tally| tally.add_model(&estimator.id));
        let context = WorkContext::of(shared, call, Priority::Batch);
        let context = context.prioritised(priority, Priority::Interactive);
        let results = (0..).zip(pairs).map(|(number, (id, pair))| {
            let record = Record::item(&call.record, number, call.deadline);
            let context = context.item(&record);
            let (estimator, encoder) = (&estimator, &encoder);
            async move {
                let counted = match number {
                    0 => Ok(()),
                    _ => context.shared.count_request(&context.tenant),
                };
                let pair = counted.and(pair);
                let result = match score(&context, estimator, encoder, pair).await {
                    Ok(estimate) => {
                        record.finish(Code::Ok);
                        quality_result::Result::Estimate(estimate)
                    }
                    Err(error) => {
                        record.fail(&error);
                        quality_result::Result::Error(error.to_item())
                    }
                };
                proto::QualityResult {
                    id,
                    result: Some(result),
                }
            }
        });
        Ok(proto::EstimateQualityResponse {
            results: future::join_all(results).await,
            metric: metric(encoder.kind()).into(),
            provenance: Some(provenance::provenance(&estimator, "", None)),
        })
    }
}

/// Scores one pair.
pub(super) async fn score(
    context: &WorkContext,
    estimator: &Lease,
    encoder: &Arc<PairEncoder>,
    pair: Result<Pair, ServiceError>,
) -> Result<proto::QualityEstimate, ServiceError> {
    let Pair {
        source,
        translation,
        field,
    } = pair?;
    let encoder = Arc::clone(encoder);
    let lengths = [source.len(), translation.len()];
    let size = encode::parts_size(encoder.tokenizer(), lengths.into_iter());
    let model = encode::longest_prompt(&estimator.resident.limits, 0);
    let limit = PromptLimit::new(&context.shared, &context.tenant, model, 0)?;
    let most = limit.tokens();
    let path = field.clone();
    let tokens = context.with_text(size, move |watch| {
        let tokens = encoder.encode_within(&source, &translation, encode::allowance(most, watch));
        tokens.map_err(|error| {
            let origin = |name: &str| TextOrigin::Field(format!("{path}.{name}"));
            let fields = [
                (origin("source"), source.as_str()),
                (origin("translation"), translation.as_str()),
            ];
            encode::token_error(&error, most, encoder.tokenizer(), fields)
        })
    });
    let tokens = tokens.await.map_err(|error| limit.explain(error))?;
    let mut sequence = Sequence::submit(context, estimator, tokens, OutputSpec::score(), &field)?;
    let mut score = None;
    let summary = loop {
        match sequence.next().await? {
            Event::Score(read) => score = Some(read),
            Event::Finished(summary) => break summary,
            Event::Started { .. } | Event::Probe(_) | Event::Token(_) | Event::Failed(_) => {}
        }
    };
    Ok(proto::QualityEstimate {
        // The sequence of an estimator always has a row.
        score: f64::from(score.ok_or(ServiceError::DeviceFault)?),
        usage: Some(provenance::usage(&summary)),
        timing: Some(provenance::timing(&summary, sequence.elapsed())),
    })
}

/// What the scores of an estimator are.
pub(super) fn metric(kind: EstimatorKind) -> proto::QualityMetric {
    match kind {
        EstimatorKind::CometKiwi => proto::QualityMetric::CometKiwi,
        EstimatorKind::MetricX23 | EstimatorKind::MetricX24 => proto::QualityMetric::Metricx,
    }
}

#[tonic::async_trait]
impl proto::quality_service_server::QualityService for QualityApi {
    async fn estimate_quality(
        &self,
        request: Request<proto::EstimateQualityRequest>,
    ) -> Result<Response<proto::EstimateQualityResponse>, Status> {
        let call = Call::of(&request)?;
        let answer = self.estimate(&call, request.into_inner());
        call.clone().unary(answer).await
    }
}
