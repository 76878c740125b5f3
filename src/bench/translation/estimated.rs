//! Quality scores by an estimator that the server has, kept as they come.

use std::io;

use futures::StreamExt as _;
use serde::{Deserialize, Serialize};
use tonic::Code;

use super::{Metric, served::Journal};
use crate::{
    client::{Client, ClientError, RpcError},
    digest,
    proto::QualityMetric,
};

/// Pairs in one call.
const PAIRS_PER_CALL: usize = 32;

/// What an estimator says of a candidate.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// What the score is.
    pub metric: Metric,
    /// The score.
    pub score: f64,
}

/// An estimator of the server.
#[derive(Debug, Clone)]
pub struct ServedEstimator<'a> {
    /// Where it is.
    pub client: &'a Client,
    /// Model id.
    pub model: String,
    /// `sha256:<hex>` of its weights.
    pub digest: String,
}

/// An estimator as `summary.json` tells of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EstimatorInfo {
    /// Model id.
    pub model: String,
    /// `sha256:<hex>` of its weights.
    pub digest: String,
    /// What its scores are; absent when it has given none.
    pub metric: Option<Metric>,
}

impl ServedEstimator<'_> {
    /// What a score depends on: the weights and the two texts.
    fn request_digest(&self, (source, translation): (&str, &str)) -> String {
        // With the length, no two pairs are written alike.
        digest::of_bytes(format!(
            "{}\0{}\0{source}{translation}",
            self.digest,
            source.len()
        ))
    }

    /// Scores of all pairs of source and translation, in their order. What the journal has is not asked again, and each
    /// new score is in the journal before `on_score` hears how many are there. When call after call fails, the rest
    /// is not sent.
    ///
    /// # Errors
    /// When the journal cannot be written.
    pub async fn score_all(
        &self,
        pairs: &[(&str, &str)],
        journal: &mut Journal<Estimate>,
        concurrency: usize,
        on_score: &mut dyn FnMut(usize),
    ) -> io::Result<Vec<Result<Estimate, ClientError>>> {
        let digests: Vec<String> = pairs.iter().map(|pair| self.request_digest(*pair)).collect();
        let mut scores: Vec<Result<Estimate, ClientError>> = Vec::new();
        scores.resize_with(pairs.len(), || Err(not_sent()));
        let mut open = Vec::new();
        for (at, digest) in digests.iter().enumerate() {
            match journal.get(digest) {
                Some(estimate) => scores[at] = Ok(*estimate),
                None => open.push(at),
            }
        }
        let mut done = pairs.len() - open.len();
        on_score(done);
        let calls = open.chunks(PAIRS_PER_CALL).map(|chunk| async move {
            let sent: Vec<_> = chunk.iter().map(|at| pairs[*at]).collect();
            (chunk, self.scores(&sent).await)
        });
        let mut calls = futures::stream::iter(calls).buffer_unordered(concurrency.max(1));
        let mut failed_in_a_row = 0;
        while let Some((chunk, answers)) = calls.next().await {
            match answers {
                Ok(answers) => {
                    failed_in_a_row = 0;
                    for (&at, answer) in chunk.iter().zip(answers) {
                        if let Ok(estimate) = &answer {
                            journal.add(&digests[at], estimate)?;
                        }
                        scores[at] = answer.map_err(ClientError::Rpc);
                    }
                }
                Err(error) => {
                    failed_in_a_row += 1;
                    if let Some(&first) = chunk.first() {
                        scores[first] = Err(error);
                    }
                }
            }
            done += chunk.len();
            on_score(done);
            if failed_in_a_row >= concurrency.max(4) {
                break;
            }
        }
        Ok(scores)
    }

    async fn scores(&self, pairs: &[(&str, &str)]) -> Result<Vec<Result<Estimate, RpcError>>, ClientError> {
        let answer = self.client.estimate_quality(&self.model, pairs).await?;
        if answer.model_digest != self.digest {
            let message = format!("{} was exchanged meanwhile: {}", self.model, answer.model_digest);
            return Err(ClientError::Protocol(message));
        }
        let metric = match answer.metric {
            QualityMetric::CometKiwi => Metric::Comet,
            QualityMetric::Metricx => Metric::MetricX,
            QualityMetric::Unspecified => {
                return Err(ClientError::Protocol("scores of an unknown metric".to_owned()));
            }
        };
        let estimate = |score| Estimate { metric, score };
        let results = answer.results.into_iter();
        Ok(results
            .map(|result| result.map(|found| estimate(found.score)))
            .collect())
    }
}

fn not_sent() -> ClientError {
    let reason = "a call before it failed";
    ClientError::Rpc(RpcError::local(Code::Cancelled, "NOT_SENT", reason))
}
