//! Scores candidates with the quality estimators that the server holds.

use super::{
    Candidate, Metric,
    error::TranslateError,
    estimated::{Estimate, EstimatorInfo, ServedEstimator, TextPair},
    failures::Failures,
    flags::Flag,
    folder::TranslationFolder,
    journal::Journal,
    progress::TranslationProgress,
};
use crate::{client::Client, proto::Capability};

/// Name of the journal with scores in a translation's folder.
const JOURNAL: &str = "quality.jsonl";

/// Where estimators are, and where their scores are kept.
pub(super) struct Estimation<'a> {
    pub(super) client: &'a Client,
    pub(super) folder: &'a TranslationFolder,
    /// Most calls that are open at a time.
    pub(super) concurrency: usize,
}

impl Estimation<'_> {
    /// Opens the journal with the scores of earlier times.
    pub(super) fn journal(&self) -> Result<Journal<Estimate>, TranslateError> {
        let path = self.folder.file(JOURNAL);
        Journal::open(&path).map_err(|source| TranslateError::Io { path, source })
    }

    /// Scores every candidate that has a text with the estimator `name`.
    pub(super) async fn score(
        &self,
        name: &str,
        candidates: &mut [Candidate],
        journal: &mut Journal<Estimate>,
        failures: &mut Failures,
        progress: &mut dyn TranslationProgress,
    ) -> Result<EstimatorInfo, TranslateError> {
        let estimator = self.estimator(name).await?;
        let is_scored = |candidate: &Candidate| !candidate.flags.contains(&Flag::Empty);
        let scored = candidates.iter().filter(|candidate| is_scored(candidate));
        let pairs: Vec<_> = scored
            .map(|candidate| TextPair {
                source: &candidate.source,
                translation: &candidate.text,
            })
            .collect();
        progress.begin(name, pairs.len());
        let mut on_score = |scored| progress.advance(scored);
        let scores = estimator.score_all(&pairs, journal, self.concurrency, &mut on_score);
        let scores = scores.await.map_err(|source| TranslateError::Io {
            path: self.folder.file(JOURNAL),
            source,
        });
        progress.end();
        let mut metric: Option<Metric> = None;
        let scored = candidates.iter_mut().filter(|candidate| is_scored(candidate));
        for (candidate, score) in scored.zip(scores?) {
            match score {
                Ok(estimate) => {
                    metric = Some(estimate.metric);
                    if candidate.scores.insert(estimate.metric, estimate.score).is_some() {
                        return Err(TranslateError::ScoredTwice {
                            name: name.to_owned(),
                            metric: estimate.metric,
                        });
                    }
                }
                Err(error) => failures.add(error),
            }
        }
        Ok(EstimatorInfo {
            model: estimator.model,
            digest: estimator.digest,
            metric,
        })
    }

    async fn estimator(&self, name: &str) -> Result<ServedEstimator<'_>, TranslateError> {
        let model = self.client.get_model(name).await;
        let model = model.map_err(|source| TranslateError::Estimator {
            name: name.to_owned(),
            source: Box::new(source),
        })?;
        if !model.capabilities().any(|can| can == Capability::EstimateQuality) {
            return Err(TranslateError::NotAnEstimator(name.to_owned()));
        }
        Ok(ServedEstimator {
            client: self.client,
            model: name.to_owned(),
            digest: model.digest,
        })
    }
}
