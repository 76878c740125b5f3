//! Renderings of a conversation that a served model translates: one greedy answer to one prompt for each text, and where it is asked
//! for an estimate of its quality. What cannot be judged in place of the text is an error of the rendering, never a verdict.

use std::sync::Arc;

use futures::future;

use super::{
    error::{ServiceError, TextOrigin, TranslationFlaw},
    generation::{complete, prepare},
    judge::retry_when_full,
    pieces::Finished,
    provenance, quality,
    sequence::WorkContext,
    validate::{GenerateWork, Pair, Prompt, QualityWanted, SourceText, TargetLanguage, TranslationWork},
};
use crate::{
    engine::{Priority, Sampling},
    guard::{SentMessage, Speaker},
    proto::{self, QualityMetric, content_part::Part},
    registry::ModelAccess,
    translation_prompt,
};

/// A rendering that was translated.
pub(crate) struct TranslatedRendering {
    /// What the answer tells of it.
    pub(crate) told: proto::Translated,
    /// The request to judge it.
    pub(crate) request: Result<proto::ClassifyRequest, ServiceError>,
}

/// What became of one text.
struct TranslatedText {
    /// Absent where the translator failed.
    told: Option<proto::TranslatedText>,
    /// Of the translator.
    provenance: Option<proto::Provenance>,
    /// Why it cannot be judged.
    problem: Option<ServiceError>,
}

/// Translates the first rendering into one of the languages.
pub(crate) async fn translate(
    context: &WorkContext,
    work: &TranslationWork,
    language: &TargetLanguage,
    first: &proto::ClassifyRequest,
) -> TranslatedRendering {
    let context = WorkContext {
        priority: Priority::Interactive,
        ..context.clone()
    };
    let context = context.prioritised(first.priority(), Priority::Interactive);
    let texts = work
        .texts
        .iter()
        .map(|text| translated_text(&context, work, language, text));
    let texts = future::join_all(texts).await;
    let has_score = |text: &TranslatedText| {
        let told = text.told.as_ref();
        told.is_some_and(|told| told.quality_score.is_some())
    };
    let quality = work.quality.as_ref().filter(|_| texts.iter().any(has_score));
    let mut told = proto::Translated {
        quality_metric: quality
            .map_or(QualityMetric::Unspecified, |quality| {
                quality::metric(quality.encoder.kind())
            })
            .into(),
        quality_provenance: quality.map(|quality| provenance::provenance(&quality.estimator, "", None)),
        ..proto::Translated::default()
    };
    let mut problem = None;
    for text in texts {
        told.provenance = told.provenance.or(text.provenance);
        told.texts.extend(text.told);
        problem = problem.or(text.problem);
    }
    let request = match problem {
        None => Ok(with_texts(first.clone(), language, &told.texts)),
        Some(problem) => Err(problem),
    };
    TranslatedRendering { told, request }
}

/// The first rendering's request with the translations in place of its texts.
fn with_texts(
    mut request: proto::ClassifyRequest,
    language: &TargetLanguage,
    texts: &[proto::TranslatedText],
) -> proto::ClassifyRequest {
    request.language.clone_from(&language.tag);
    let conversation = request.conversation.as_mut();
    let messages = conversation.map_or(&mut [][..], |conversation| &mut conversation.messages[..]);
    for translated in texts {
        let message = usize::try_from(translated.message).ok();
        let Some(message) = message.and_then(|index| messages.get_mut(index)) else {
            continue;
        };
        match translated.part.and_then(|part| usize::try_from(part).ok()) {
            None => message.content.clone_from(&translated.text),
            Some(part) => {
                if let Some(part) = message.parts.get_mut(part) {
                    part.part = Some(Part::Text(translated.text.clone()));
                }
            }
        }
    }
    request
}

async fn translated_text(
    context: &WorkContext,
    work: &TranslationWork,
    language: &TargetLanguage,
    text: &SourceText,
) -> TranslatedText {
    let finished = match answer(context, work, language, text).await {
        Ok(finished) => finished,
        Err(error) => {
            return TranslatedText {
                told: None,
                provenance: None,
                problem: Some(located(error, work, text)),
            };
        }
    };
    let unusable = |flaw| {
        let field = text.field.clone();
        Some(ServiceError::TranslationUnusable { field, flaw })
    };
    let mut told = proto::TranslatedText {
        message: provenance::count(text.message),
        part: text.part.map(provenance::count),
        text: finished.text.trim().to_owned(),
        is_cut_off: matches!(
            finished.event.finish_reason(),
            proto::FinishReason::MaxTokens | proto::FinishReason::ContextWindow
        ),
        usage: finished.event.usage,
        quality_score: None,
    };
    let problem = if told.is_cut_off {
        unusable(TranslationFlaw::CutOff)
    } else if told.text.is_empty() {
        unusable(TranslationFlaw::Empty)
    } else {
        match &work.quality {
            None => None,
            Some(quality) => match estimate(context, quality, text, &told.text).await {
                Ok(score) => {
                    told.quality_score = Some(score);
                    match is_worse(quality, score) {
                        true => unusable(TranslationFlaw::Quality),
                        false => None,
                    }
                }
                Err(error) => Some(error),
            },
        }
    };
    TranslatedText {
        told: Some(told),
        provenance: Some(finished.provenance),
        problem,
    }
}

/// What the translator writes.
async fn answer(
    context: &WorkContext,
    work: &TranslationWork,
    language: &TargetLanguage,
    text: &SourceText,
) -> Result<Finished, ServiceError> {
    context.shared.count_request(&context.tenant)?;
    let prompt = translation_prompt::request(&text.text, &work.from, &language.name);
    let asked = Arc::new(SentMessage::plain(Speaker::User, prompt));
    let generate = GenerateWork {
        target: work.translator.clone(),
        prompt: Arc::new(Prompt::Conversation(vec![asked])),
        prompt_field: text.field.clone(),
        sampling: Sampling {
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            repetition_penalty: 1.0,
            seed: 0,
        },
        max_new_tokens: work.max_new_tokens,
        stop: Vec::new(),
        logprobs: None,
        // The context has it.
        priority: proto::Priority::Unspecified,
    };
    retry_when_full(context, || async {
        let prompt = prepare(context, &generate).await?;
        complete(context, generate.clone(), &prompt).await
    })
    .await
}

/// The error of the translator, about the caller's text in place of the prompt around it.
fn located(error: ServiceError, work: &TranslationWork, text: &SourceText) -> ServiceError {
    match (error, &work.translator) {
        (ServiceError::TextNotEncodable { .. }, ModelAccess::Local(entry)) => {
            match entry.resident.tokenizer.find_not_encodable(&text.text) {
                Some((character, position)) => ServiceError::TextNotEncodable {
                    origin: TextOrigin::Field(text.field.clone()),
                    character,
                    position,
                },
                None => ServiceError::TextFault,
            }
        }
        (ServiceError::ConversationShape(_), _) => {
            let reason = "has a chat template that does not take a request to translate as a user's message";
            ServiceError::field("translation.model", reason)
        }
        (error, _) => error,
    }
}

async fn estimate(
    context: &WorkContext,
    quality: &QualityWanted,
    text: &SourceText,
    translation: &str,
) -> Result<f64, ServiceError> {
    context.shared.count_request(&context.tenant)?;
    let QualityWanted {
        estimator, encoder, ..
    } = quality;
    context.record.note(|tally| tally.add_model(&estimator.id));
    let estimate = retry_when_full(context, || {
        let pair = Pair {
            source: text.text.clone(),
            translation: translation.to_owned(),
            field: text.field.clone(),
        };
        quality::score(context, estimator, encoder, Ok(pair))
    });
    Ok(estimate.await?.score)
}

/// Whether a score is worse than the request allows.
fn is_worse(quality: &QualityWanted, score: f64) -> bool {
    quality
        .bound
        .is_some_and(|bound| match quality::metric(quality.encoder.kind()) {
            QualityMetric::Metricx => score > bound,
            QualityMetric::CometKiwi | QualityMetric::Unspecified => score < bound,
        })
}
