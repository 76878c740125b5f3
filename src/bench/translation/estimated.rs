//! Quality scores by an estimator that the server holds; each score is written to a journal as it arrives.

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

/// How many pairs of source and translation are sent in one call.
const PAIRS_PER_CALL: usize = 32;

/// The score that an estimator gives a candidate.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// What the score measures.
    pub metric: Metric,
    /// On the scale of the metric.
    pub score: f64,
}

/// A quality estimator that the server holds.
#[derive(Debug, Clone)]
pub struct ServedEstimator<'a> {
    /// Connection to the server.
    pub client: &'a Client,
    /// Model id.
    pub model: String,
    /// `sha256:<hex>` of its weights.
    pub digest: String,
}

/// An estimator, as `summary.json` lists it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EstimatorInfo {
    /// Model id.
    pub model: String,
    /// `sha256:<hex>` of its weights.
    pub digest: String,
    /// What its scores measure; absent when it has given none.
    pub metric: Option<Metric>,
}

/// A prompt and a translation of it.
#[derive(Debug, Clone, Copy)]
pub struct TextPair<'a> {
    /// The prompt.
    pub source: &'a str,
    /// Its translation.
    pub translation: &'a str,
}

impl ServedEstimator<'_> {
    /// Digest of everything that a score depends on: the weights and the two texts.
    fn request_digest(&self, pair: TextPair<'_>) -> String {
        let TextPair { source, translation } = pair;
        // The length keeps apart two pairs whose texts join to the same bytes.
        digest::of_bytes(format!(
            "{}\0{}\0{source}{translation}",
            self.digest,
            source.len()
        ))
    }

    /// Scores of all pairs, in their order. Pairs that the journal has a score of are not sent again, and each new score is
    /// in the journal before `on_score` is called with the number of scores so far. When several calls fail one after the
    /// other, the rest is not sent.
    ///
    /// # Errors
    /// When the journal cannot be written.
    pub async fn score_all(
        &self,
        pairs: &[TextPair<'_>],
        journal: &mut Journal<Estimate>,
        concurrency: usize,
        on_score: &mut dyn FnMut(usize),
    ) -> io::Result<Vec<Result<Estimate, ClientError>>> {
        let requests: Vec<String> = pairs.iter().map(|pair| self.request_digest(*pair)).collect();
        let pace = Pace {
            concurrency,
            per_call: PAIRS_PER_CALL,
            max_failed_calls: 4,
        };
        let call = async |indices: Vec<usize>| {
            let sent: Vec<_> = indices.into_iter().map(|at| pairs[at]).collect();
            self.scores(&sent).await
        };
        journal.complete(&requests, pace, call, on_score).await
    }

    async fn scores(&self, pairs: &[TextPair<'_>]) -> Answers<Estimate> {
        let texts: Vec<_> = pairs.iter().map(|pair| (pair.source, pair.translation)).collect();
        let answer = self.client.estimate_quality(&self.model, &texts).await?;
        if answer.model_digest != self.digest {
            let message = format!(
                "the weights of {} were exchanged meanwhile: they are now {}",
                self.model, answer.model_digest
            );
            return Err(ClientError::Protocol(message));
        }
        let metric = match answer.metric {
            QualityMetric::CometKiwi => Metric::Comet,
            QualityMetric::Metricx => Metric::MetricX,
            QualityMetric::Unspecified => {
                return Err(ClientError::Protocol(
                    "the scores are of a metric that this version does not know".to_owned(),
                ));
            }
        };
        let estimate = |score| Estimate { metric, score };
        let results = answer.results.into_iter();
        Ok(results
            .map(|result| result.map(|found| estimate(found.score)))
            .collect())
    }
}
