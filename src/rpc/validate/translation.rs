//! Checks what ClassifyRenderings says of renderings that a served model translates.

use std::sync::Arc;

use super::checker::{Checker, ValidationContext};
use crate::{
    guard::is_language_tag,
    proto,
    quality::PairEncoder,
    registry::{Lease, ModelAccess, ModelRole, Registry},
    rpc::{error::ServiceError, limits::Limits},
    translation_prompt::language_name,
};

/// Most languages that a conversation is translated into.
pub(crate) const MOST_LANGUAGES: usize = 15;

/// Most texts of a conversation that are translated. Each is translated into each language.
const MOST_TEXTS: usize = 16;

/// Most tokens of a translation where the request does not say.
const DEFAULT_TOKENS: u32 = 512;

/// Where the rendering is that is translated.
const FIRST: &str = "renderings[0]";

/// Checked renderings that are to be translated.
pub(crate) struct TranslationWork {
    pub(crate) translator: ModelAccess,
    /// The English name of the first rendering's language.
    pub(crate) from: String,
    pub(crate) into: Vec<TargetLanguage>,
    pub(crate) texts: Vec<SourceText>,
    /// Most tokens of the translation of one text.
    pub(crate) max_new_tokens: usize,
    pub(crate) quality: Option<QualityWanted>,
}

/// A language that is translated into.
#[derive(Clone)]
pub(crate) struct TargetLanguage {
    /// Its BCP 47 tag, as in the request.
    pub(crate) tag: String,
    /// Its English name.
    pub(crate) name: String,
}

/// A text of the first rendering.
pub(crate) struct SourceText {
    /// Index of its message.
    pub(crate) message: usize,
    /// Index of the part that it is; `None` for the message's content.
    pub(crate) part: Option<usize>,
    pub(crate) text: String,
    /// Its field in the request, which later errors name.
    pub(crate) field: String,
}

/// How the quality of translations is estimated.
pub(crate) struct QualityWanted {
    pub(crate) estimator: Lease,
    pub(crate) encoder: Arc<PairEncoder>,
    /// The worst score of a translation that is judged.
    pub(crate) bound: Option<f64>,
}

/// Options that are valid without knowing the models.
pub(super) struct TranslationFields {
    model: String,
    from: String,
    into: Vec<TargetLanguage>,
    texts: Vec<SourceText>,
    max_new_tokens: u32,
    quality: Option<proto::TranslationQuality>,
}

/// Checks options. `first` is the rendering that is translated; that it is missing has been reported already.
pub(super) fn translation_fields(
    checker: &mut Checker,
    options: proto::TranslationOptions,
    first: Option<&proto::ClassifyRequest>,
    limits: &Limits,
) -> TranslationFields {
    let from = first.map(|first| {
        let name = named(&first.language);
        if name.is_none() {
            let reason = "must be the BCP 47 tag of a language with an ISO 639-1 code, such as en: it is translated from";
            checker.wrong(&format!("{FIRST}.language"), reason);
        }
        (first.language.as_str(), name.unwrap_or_default())
    });
    let (from_tag, from) = from.unwrap_or_default();
    let texts = first.map_or_else(Vec::new, |first| texts(checker, first, limits));
    let into = checker.within("translation", |checker| {
        checker.model_id("model", &options.model, limits);
        if options.max_new_tokens > limits.max_new_tokens {
            let (most, given) = (limits.max_new_tokens, options.max_new_tokens);
            checker.wrong("max_new_tokens", format!("must be at most {most}, is {given}"));
        }
        if let Some(quality) = &options.quality {
            checker.within("quality", |checker| {
                checker.model_id("model", &quality.model, limits);
                if quality.bound.is_some_and(|bound| !bound.is_finite()) {
                    checker.wrong("bound", "must be a finite number");
                }
            });
        }
        languages(checker, options.languages, from_tag)
    });
    TranslationFields {
        model: options.model,
        from,
        into,
        texts,
        max_new_tokens: match options.max_new_tokens {
            0 => DEFAULT_TOKENS.min(limits.max_new_tokens),
            tokens => tokens,
        },
        quality: options.quality,
    }
}

/// The English name of the language of a tag.
fn named(tag: &str) -> Option<String> {
    language_name(tag).filter(|_| is_language_tag(tag))
}

fn languages(checker: &mut Checker, tags: Vec<String>, from: &str) -> Vec<TargetLanguage> {
    if !(1..=MOST_LANGUAGES).contains(&tags.len()) {
        let reason = format!("must have 1..={MOST_LANGUAGES}, has {}", tags.len());
        checker.wrong("languages", reason);
    }
    let mut into: Vec<TargetLanguage> = Vec::new();
    for (index, tag) in tags.into_iter().take(MOST_LANGUAGES).enumerate() {
        let field = format!("languages[{index}]");
        let Some(name) = named(&tag) else {
            let reason = "must be the BCP 47 tag of a language with an ISO 639-1 code, such as de or pt-BR";
            checker.wrong(&field, reason);
            continue;
        };
        if tag.eq_ignore_ascii_case(from) {
            checker.wrong(&field, "is the language that is translated from");
        }
        if into.iter().any(|other| other.tag.eq_ignore_ascii_case(&tag)) {
            checker.wrong(&field, "is there twice");
        }
        into.push(TargetLanguage { tag, name });
    }
    into
}

/// The texts of a rendering that are translated.
fn texts(checker: &mut Checker, first: &proto::ClassifyRequest, limits: &Limits) -> Vec<SourceText> {
    let conversation = first.conversation.as_ref();
    let messages = conversation.map_or(&[][..], |conversation| &conversation.messages);
    let mut texts = Vec::new();
    for (index, message) in messages.iter().enumerate() {
        if message.role() == proto::Role::System {
            continue;
        }
        let content = (None, "content".to_owned(), message.content.as_str());
        let parts = message.parts.iter().enumerate();
        let parts = parts.filter_map(|(part, given)| match &given.part {
            Some(proto::content_part::Part::Text(text)) => {
                Some((Some(part), format!("parts[{part}].text"), text.as_str()))
            }
            Some(proto::content_part::Part::Other(_)) | None => None,
        });
        let own = std::iter::once(content).chain(parts);
        for (part, name, text) in own.filter(|(_, _, text)| !text.trim().is_empty()) {
            let field = format!("{FIRST}.conversation.messages[{index}].{name}");
            checker.bytes(&field, text.len(), 1..=limits.content_bytes);
            texts.push(SourceText {
                message: index,
                part,
                text: text.to_owned(),
                field,
            });
        }
    }
    if texts.is_empty() || texts.len() > MOST_TEXTS {
        checker.wrong(
            &format!("{FIRST}.conversation"),
            format!(
                "must have 1..={MOST_TEXTS} texts to translate, has {}",
                texts.len()
            ),
        );
    }
    texts
}

impl TranslationFields {
    /// How many renderings are translated.
    pub(super) fn count(&self) -> usize {
        self.into.len()
    }

    /// Finds the models. Waits while they are being loaded.
    pub(super) async fn find(self, context: &ValidationContext<'_>) -> Result<TranslationWork, ServiceError> {
        let registry = context.registry;
        let found = async {
            let translator = registry.target(&self.model).await;
            let translator = translator.map_err(|error| ServiceError::from_lookup(error, &self.model))?;
            match &translator {
                ModelAccess::Local(entry) if entry.resident.template.is_none() => {
                    return Err(ServiceError::ChatTemplateMissing);
                }
                ModelAccess::Remote(model) if !model.endpoint.options().api.has_chat() => {
                    let reason = "names a model whose endpoint has no chat completions (models.ID.endpoint_api): name another";
                    return Err(ServiceError::field("translation.model", reason));
                }
                ModelAccess::Local(_) | ModelAccess::Remote(_) => {}
            }
            let quality = match self.quality {
                Some(quality) => Some(estimator(registry, &quality).await?),
                None => None,
            };
            Ok(TranslationWork {
                translator,
                from: self.from,
                into: self.into,
                texts: self.texts,
                max_new_tokens: usize::try_from(self.max_new_tokens).unwrap_or(usize::MAX),
                quality,
            })
        };
        context.deadline.limit(found).await
    }
}

async fn estimator(
    registry: &Registry,
    wanted: &proto::TranslationQuality,
) -> Result<QualityWanted, ServiceError> {
    let estimator = registry.estimator(&wanted.model).await;
    let estimator = estimator.map_err(|error| ServiceError::from_lookup(error, &wanted.model))?;
    let Some(encoder) = estimator.quality.clone() else {
        return Err(ServiceError::CapabilityMissing {
            has: estimator.roles.clone(),
            needs: ModelRole::Quality,
        });
    };
    Ok(QualityWanted {
        estimator,
        encoder,
        bound: wanted.bound,
    })
}
