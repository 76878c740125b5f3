//! Quality scores by an estimator that the server has, kept as they come.

use std::io;

use serde::{Deserialize, Serialize};

use super::{
    Metric,
    journal::{Answers, Journal, Pace},
};
use crate::{
    client::{Client, ClientError},
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
        let requests: Vec<String> = pairs.iter().map(|pair| self.request_digest(*pair)).collect();
        let pace = Pace {
            concurrency,
            per_call: PAIRS_PER_CALL,
            patience: 4,
        };
        let call = async |places: Vec<usize>| {
            let sent: Vec<_> = places.into_iter().map(|at| pairs[at]).collect();
            self.scores(&sent).await
        };
        journal.complete(&requests, pace, call, on_score).await
    }

    async fn scores(&self, pairs: &[(&str, &str)]) -> Answers<Estimate> {
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
