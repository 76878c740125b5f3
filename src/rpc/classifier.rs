//! What classifiers say of a message. A long one is read in windows, each a sequence of its own, so that the windows of all
//! callers share the engine's batches.

use std::{future::Future, sync::Arc};

use futures::{StreamExt as _, TryStreamExt as _, future, stream};

use super::{
    encode,
    error::{ServiceError, TextOrigin},
    provenance,
    sequence::{Sequence, WorkContext},
    token_quota::PromptLimit,
    usage,
    validate::{ClassifierWork, ClassifyWork},
};
use crate::{
    classifier::LabelOdds,
    engine::{Event, SequenceSummary},
    guard::Speaker,
    proto,
};

/// Most windows of a text that are with the engine at the same time.
const WINDOWS_AT_ONCE: usize = 8;

/// Asks all classifiers about the last message that a guard judges. The future does not borrow `work`.
pub(crate) fn classify_last<'a>(
    context: &'a WorkContext,
    classifiers: Vec<ClassifierWork>,
    work: &ClassifyWork,
) -> impl Future<Output = Result<Vec<proto::Classification>, ServiceError>> + use<'a> {
    // The system's messages are not judged.
    let last = work
        .messages
        .iter()
        .rposition(|message| message.speaker != Speaker::System)
        .unwrap_or_default();
    let text = match work.messages.get(last) {
        Some(message) if !classifiers.is_empty() => message.text(),
        Some(_) | None => String::new(),
    };
    let field = format!("{}.messages[{last}].content", work.fields.conversation);
    async move {
        let asked = classifiers.into_iter();
        future::try_join_all(asked.map(|asked| classify(context, asked, &text, &field))).await
    }
}

/// Asks one classifier about a text, which is in the field `field`.
async fn classify(
    context: &WorkContext,
    asked: ClassifierWork,
    text: &str,
    field: &str,
) -> Result<proto::Classification, ServiceError> {
    let ClassifierWork {
        lease,
        classifier,
        harmless,
    } = asked;
    context.record.note(|tally| tally.add_model(&lease.id));
    let size = encode::text_size(classifier.tokenizer(), text);
    let limit = PromptLimit::new(&context.shared, &context.tenant, classifier.most_tokens(), 0)?;
    let most = limit.tokens();
    let (encoder, owned, path) = (Arc::clone(&classifier), text.to_owned(), field.to_owned());
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
    })
}

/// A window's probabilities, and what they took.
struct ReadWindow {
    odds: LabelOdds,
    summary: SequenceSummary,
}
