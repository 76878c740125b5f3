//! Turns requests into checked work. All checks of a request run before an error is returned, so that a caller learns of all
//! violations at once. Models are looked up after that.

mod checker;
mod classifier;
mod conversation;
mod decision;
mod evidence;
mod generation;
mod growing;
mod policy;
mod quality;
mod renderings;
mod request;
mod request_bytes;
mod safety;
mod translation;

pub use self::request_bytes::RequestChecks;
pub(crate) use self::{
    checker::ValidationContext,
    classifier::{AskedBy, ClassifiedText, ClassifierWork, MOST_CLASSIFIERS},
    evidence::{CheckedEvidence, find_evidence},
    generation::{CheckedGenerate, GenerateWork, Prompt, ScoreWork, generate, score},
    growing::{GuardWork, guard_chunk, guard_start},
    quality::{Pair, QualityWork, estimate_quality},
    renderings::{CheckedRenderings, MOST_RENDERINGS, renderings},
    request::{count_tokens, item_id, item_timeout, list_models, message_size},
    safety::{CheckedClassify, ClassifyWork, Judged, JudgedMessages, JudgedRange, Judging, batch, classify},
    translation::{MOST_LANGUAGES, QualityWanted, SourceText, TargetLanguage, TranslationWork},
};

#[cfg(test)]
mod tests;
