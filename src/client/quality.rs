//! Estimates the quality of translations.

use tokio::time::sleep;

use super::{
    channel::Client,
    error::{ClientError, RpcError},
    stream::ItemResult,
};
use crate::proto::{
    EstimateQualityRequest, EstimateQualityResponse, QualityEstimate, QualityMetric, TranslationPair,
    quality_result::Result as PairResult, quality_service_client::QualityServiceClient,
};

/// The scores of pairs.
#[derive(Debug)]
pub struct QualityAnswer {
    /// The metric of the scores.
    pub metric: QualityMetric,
    /// `sha256:<hex>` of the estimator's weights.
    pub model_digest: String,
    /// One result for each pair, in their order.
    pub results: Vec<ItemResult<QualityEstimate>>,
}

impl Client {
    /// Scores up to 256 pairs of source and translation. Pairs that fail with a retryable error are sent again, with the
    /// retries of the policy.
    ///
    /// # Errors
    /// [`ClientError::Rpc`] when the call fails as a whole; [`ClientError::Protocol`] when pairs are left unanswered.
    pub async fn estimate_quality(
        &self,
        model: &str,
        pairs: &[(&str, &str)],
    ) -> Result<QualityAnswer, ClientError> {
        let mut answer = QualityAnswer {
            metric: QualityMetric::Unspecified,
            model_digest: String::new(),
            results: Vec::new(),
        };
        let unanswered = || Err(RpcError::local(tonic::Code::Unknown, "UNANSWERED", "no answer"));
        answer.results.resize_with(pairs.len(), unanswered);
        let mut open: Vec<usize> = (0..pairs.len()).collect();
        let mut failed = 0;
        loop {
            let response = self.one_estimate(model, pairs, &open).await?;
            answer.metric = response.metric();
            answer.model_digest = response.provenance.unwrap_or_default().model_digest;
            if response.results.len() != open.len() {
                let (found, sent) = (response.results.len(), open.len());
                return Err(ClientError::Protocol(format!("{found} results for {sent} pairs")));
            }
            for (index, result) in open.iter().zip(response.results) {
                answer.results[*index] = match result.result {
                    Some(PairResult::Estimate(estimate)) => Ok(estimate),
                    Some(PairResult::Error(error)) => Err(RpcError::from_item(error)),
                    None => return Err(ClientError::Protocol("a result that is empty".to_owned())),
                };
            }
            let retryable = |index: &usize| {
                let error = answer.results[*index].as_ref().err();
                error.is_some_and(RpcError::is_retryable)
            };
            open.retain(retryable);
            failed += 1;
            let hint = open
                .last()
                .and_then(|index| answer.results[*index].as_ref().err());
            let delay = hint.and_then(|error| {
                self.options
                    .retry
                    .delay(failed, error.hint, self.options.jitter.next())
            });
            match delay {
                Some(delay) => sleep(delay).await,
                None => return Ok(answer),
            }
        }
    }

    async fn one_estimate(
        &self,
        model: &str,
        pairs: &[(&str, &str)],
        open: &[usize],
    ) -> Result<EstimateQualityResponse, ClientError> {
        let sent = open.iter().filter_map(|index| pairs.get(*index));
        let request = EstimateQualityRequest {
            model: model.to_owned(),
            pairs: sent
                .map(|(source, translation)| TranslationPair {
                    id: String::new(),
                    source: (*source).to_owned(),
                    translation: (*translation).to_owned(),
                })
                .collect(),
            ..EstimateQualityRequest::default()
        };
        self.unary(request, async |channel, request| {
            QualityServiceClient::new(channel).estimate_quality(request).await
        })
        .await
    }
}
