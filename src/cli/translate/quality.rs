//! Scores of candidates by estimators that the server has.

use anyhow::Context as _;

use super::{
    CommandError,
    tell::progress,
    work::{Gathered, Work},
};
use crate::{
    bench::translation::{
        Candidate,
        estimated::{EstimatorInfo, ServedEstimator},
        flags::Flag,
        folder::TranslationFolder,
        journal::Journal,
    },
    client::Client,
    proto::Capability,
};

impl Work<'_> {
    /// Scores every candidate that is not empty with each estimator that was named.
    pub(super) async fn quality(
        &self,
        folder: &TranslationFolder,
        gathered: &mut Gathered,
    ) -> anyhow::Result<()> {
        if self.args.quality.is_empty() {
            return Ok(());
        }
        let client = self.global.connect().await?;
        let path = folder.file("quality.jsonl");
        let mut journal = Journal::open(&path).with_context(|| path.display().to_string())?;
        for name in &self.args.quality {
            let estimator = self.estimator(&client, name).await?;
            let mut candidates: Vec<&mut Candidate> = gathered
                .candidates
                .iter_mut()
                .filter(|candidate| !candidate.flags.contains(&Flag::Empty))
                .collect();
            let pairs: Vec<_> = candidates
                .iter()
                .map(|candidate| (candidate.source.clone(), candidate.text.clone()))
                .collect();
            let pairs: Vec<_> = pairs.iter().map(|(s, t)| (s.as_str(), t.as_str())).collect();
            let bar = progress(name, pairs.len(), self.global.quiet);
            let mut on_score = |done: usize| bar.set_position(done as u64);
            let concurrency = usize::from(self.args.concurrency);
            let scores = estimator.score_all(&pairs, &mut journal, concurrency, &mut on_score);
            let scores = scores.await.context("quality.jsonl")?;
            bar.finish_and_clear();
            let mut metric = None;
            for (candidate, score) in candidates.iter_mut().zip(scores) {
                match score {
                    Ok(estimate) => {
                        metric = Some(estimate.metric);
                        if candidate.scores.insert(estimate.metric, estimate.score).is_some() {
                            let message = format!(
                                "--quality {name}: candidates have {} scores already, of --scores or of another \
                                 --quality; scores of two origins cannot be compared",
                                estimate.metric.title()
                            );
                            return Err(CommandError::usage(message).into());
                        }
                    }
                    Err(error) => {
                        gathered.failures.extend((gathered.failed == 0).then_some(error));
                        gathered.failed += 1;
                    }
                }
            }
            gathered.quality.push(EstimatorInfo {
                model: estimator.model,
                digest: estimator.digest,
                metric,
            });
        }
        Ok(())
    }

    async fn estimator<'c>(&self, client: &'c Client, name: &str) -> anyhow::Result<ServedEstimator<'c>> {
        let model = client.get_model(name).await;
        let model = model.with_context(|| format!("--quality {name}"))?;
        if !model.capabilities().any(|can| can == Capability::EstimateQuality) {
            let message = format!("--quality {name}: that model is no quality estimator");
            return Err(CommandError::usage(message).into());
        }
        Ok(ServedEstimator {
            client,
            model: name.to_owned(),
            digest: model.digest,
        })
    }
}
