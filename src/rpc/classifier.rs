//! What classifiers say of a message. A long one is read in windows, each a sequence of its own, so that the windows of all
//! callers share the engine's batches.

use std::sync::Arc;

use futures::{StreamExt as _, TryStreamExt as _, future, stream};

use super::{
    encode,
    error::{ServiceError, TextOrigin},
    provenance,
    sequence::{Sequence, WorkContext},
    token_quota::PromptLimit,
    usage,
    validate::{AskedBy, ClassifiedText, ClassifierWork},
};
use crate::{
    classifier::LabelOdds,
    engine::{Event, SequenceSummary},
    guard::Classified,
    proto,
};

/// Most windows of a text that are with the engine at the same time.
const WINDOWS_AT_ONCE: usize = 8;

/// What all classifiers say of a text.
#[derive(Default)]
pub(crate) struct Classifications {
    /// Of those that the request and its policy ask for.
    pub(crate) told: Vec<proto::Classification>,
    /// Of these and of those that observers ask for.
    pub(crate) classified: Vec<Classified>,
}

/// Asks all classifiers about a text. Where one fails that only observers ask for, its answer is left out.
pub(crate) async fn classify_all(
    context: &WorkContext,
    classifiers: Vec<ClassifierWork>,
    text: &ClassifiedText,
) -> Result<Classifications, ServiceError> {
    let asked = classifiers.into_iter().map(|asked| async move {
        let (asked_by, model) = (asked.asked_by, asked.lease.id.clone());
        let first_label = asked.classifier.labels().first().cloned().unwrap_or_default();
        match (classify(context, asked, text).await, asked_by) {
            (Ok(told), _) => Ok(Some(Answer {
                asked_by,
                first_label,
                told,
            })),
            (Err(error), AskedBy::Observer) => {
                context.shared.shadow_log.failed(&model, &error);
                Ok(None)
            }
            (Err(error), AskedBy::Request) => Err(error),
        }
    });
    let mut all = Classifications::default();
    for answer in future::try_join_all(asked).await?.into_iter().flatten() {
        let told = answer.told;
        all.classified.push(Classified {
            model: told.model.clone(),
            harmless_label: told.harmless_label.clone(),
            first_label: answer.first_label,
            harm_score: told.harm_score,
        });
        if answer.asked_by == AskedBy::Request {
            all.told.push(told);
        }
    }
    Ok(all)
}

/// What one classifier says of a text.
struct Answer {
    asked_by: AskedBy,
    first_label: String,
    told: proto::Classification,
}

/// Asks one classifier about a text.
async fn classify(
    context: &WorkContext,
    asked: ClassifierWork,
    text: &ClassifiedText,
) -> Result<proto::Classification, ServiceError> {
    let ClassifiedText { text, field } = text;
    let ClassifierWork {
        lease,
        classifier,
        harmless,
        asked_by: _,
    } = asked;
    context.record.note(|tally| tally.add_model(&lease.id));
    let size = encode::text_size(classifier.tokenizer(), text);
    let limit = PromptLimit::new(&context.shared, &context.tenant, classifier.most_tokens(), 0)?;
    let most = limit.tokens();
    let (encoder, owned, path) = (Arc::clone(&classifier), text.clone(), field.clone());
    let tokens = context.with_text(size, move |watch| {
        let tokens = encoder.encode_within(&owned, encode::allowance(most, watch));
        tokens.map_err(|error| {
            let origin = [(TextOrigin::Field(path), owned.as_str())];
            encode::token_error(&error, most, encoder.tokenizer(), origin)
        })
    });
    let tokens = tokens.await.map_err(|error| limit.explain(error))?;
    let windows = classifier.windows(tokens.len());
    let sequences: Vec<_> = windows
        .iter()
        .map(|window| classifier.sequence(&tokens[window.clone()]))
        .collect();
    let read = stream::iter(sequences).map(|sequence| async {
        let mut sequence = Sequence::submit(context, &lease, sequence, classifier.output_spec(), field)?;
        let mut odds = None;
        let summary = loop {
            match sequence.next().await? {
                Event::Probe(probe) => odds = Some(classifier.odds(&probe)),
                Event::Finished(summary) => break summary,
                Event::Started { .. } | Event::Score(_) | Event::Token(_) | Event::Failed(_) => {}
            }
        };
        // The sequence of a classifier always has a probe.
        let odds = odds.ok_or(ServiceError::DeviceFault)?;
        Ok::<_, ServiceError>(ReadWindow { odds, summary })
    });
    let read: Vec<ReadWindow> = read.buffered(WINDOWS_AT_ONCE).try_collect().await?;
    let (odds, summaries): (Vec<LabelOdds>, Vec<SequenceSummary>) = read
        .into_iter()
        .map(|window| (window.odds, window.summary))
        .unzip();
    let counted = classifier.worst(&odds, harmless);
    let harm = |odds: &LabelOdds| 1.0 - odds.probabilities.get(harmless).copied().unwrap_or(0.0);
    // There is always a window.
    let worst = odds.get(counted).ok_or(ServiceError::DeviceFault)?;
    let names = classifier.labels();
    let probabilities = names.iter().zip(&worst.probabilities);
    Ok(proto::Classification {
        model: lease.id.clone(),
        label: names.get(worst.most_probable()).cloned().unwrap_or_default(),
        harm_score: harm(worst),
        probabilities: probabilities
            .map(|(label, probability)| proto::LabelProbability {
                label: label.clone(),
                probability: *probability,
            })
            .collect(),
        windows: windows
            .iter()
            .zip(&odds)
            .map(|(window, odds)| proto::ClassifierWindow {
                first_token: provenance::count(window.start),
                tokens: provenance::count(window.len()),
                harm_score: harm(odds),
            })
            .collect(),
        counted_window: provenance::count(counted),
        usage: Some(usage::sum(summaries.iter().map(provenance::usage))),
        provenance: Some(provenance::provenance(&lease, "", None)),
        harmless_label: names.get(harmless).cloned().unwrap_or_default(),
    })
}

/// A window's probabilities, and what they took.
struct ReadWindow {
    odds: LabelOdds,
    summary: SequenceSummary,
}
