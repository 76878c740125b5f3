//! Checks which classifiers look at a message.

use std::sync::Arc;

use super::checker::{Checker, ValidationContext};
use crate::{
    classifier::TextClassifier,
    proto,
    registry::{Lease, ModelRole},
    rpc::{error::ServiceError, limits::Limits},
};

/// Most classifiers of a request.
pub(crate) const MOST_CLASSIFIERS: usize = 8;

/// Longest name of a label, in bytes.
const LABEL_BYTES: usize = 128;

/// A checked question to a classifier that is in memory.
pub(crate) struct ClassifierWork {
    pub(crate) lease: Lease,
    pub(crate) classifier: Arc<TextClassifier>,
    /// Index of the label of texts without harm.
    pub(crate) harmless: usize,
}

/// A question that is valid without knowing the classifier.
pub(super) struct ClassifierQuestion {
    model: String,
    /// Empty for the first label.
    harmless_label: String,
    /// The question's field, which later errors name.
    field: String,
}

/// Checks the field `classifiers` of a request.
pub(super) fn questions(
    checker: &mut Checker,
    given: Vec<proto::ClassifierQuestion>,
    limits: &Limits,
) -> Vec<ClassifierQuestion> {
    if given.len() > MOST_CLASSIFIERS {
        let reason = format!("must have at most {MOST_CLASSIFIERS} items, has {}", given.len());
        checker.wrong("classifiers", reason);
        return Vec::new();
    }
    let mut questions: Vec<ClassifierQuestion> = Vec::with_capacity(given.len());
    for (index, question) in given.into_iter().enumerate() {
        let field = format!("classifiers[{index}]");
        checker.within(&field, |checker| {
            match question.model.is_empty() {
                true => checker.wrong("model", "is required"),
                false => checker.model_id("model", &question.model, limits),
            }
            if questions.iter().any(|other| other.model == question.model) {
                checker.wrong("model", "is asked twice in this request");
            }
            checker.bytes("harmless_label", question.harmless_label.len(), 0..=LABEL_BYTES);
        });
        questions.push(ClassifierQuestion {
            model: question.model,
            harmless_label: question.harmless_label,
            field: checker.path_of(&field),
        });
    }
    questions
}

/// Finds the classifiers. Waits while they are being loaded.
pub(super) async fn find(
    context: &ValidationContext<'_>,
    questions: Vec<ClassifierQuestion>,
) -> Result<Vec<ClassifierWork>, ServiceError> {
    let mut found = Vec::with_capacity(questions.len());
    for question in questions {
        let ClassifierQuestion {
            model,
            harmless_label,
            field,
        } = question;
        let lease = async {
            let lease = context.registry.classifier(&model).await;
            lease.map_err(|error| ServiceError::from_lookup(error, &model))
        };
        let lease = context.deadline.limit(lease).await?;
        let Some(classifier) = lease.classifier.clone() else {
            return Err(ServiceError::CapabilityMissing {
                has: lease.roles.clone(),
                needs: ModelRole::Classifier,
            });
        };
        let labels = classifier.labels();
        let harmless = match harmless_label.as_str() {
            "" => Some(0),
            name => labels.iter().position(|label| label == name),
        };
        let Some(harmless) = harmless else {
            let reason = format!(
                "is no label of the model {model}: its labels are {}",
                labels.join(", ")
            );
            return Err(ServiceError::field(format!("{field}.harmless_label"), reason));
        };
        found.push(ClassifierWork {
            lease,
            classifier,
            harmless,
        });
    }
    Ok(found)
}
