//! What a receipt says, and whether it agrees with itself.

use std::collections::BTreeMap;

use prost::Message as _;
use serde::{Deserialize, Serialize};

use super::exact::Exact;
use crate::{
    client::PolicyChoice,
    digest,
    proto::{self, Conversation},
};

/// The version of the format.
const FORMAT: &str = "babelward-receipt/1";

/// By how much a sum of probabilities, such as `label_mass`, may be above 1. Each of them is an exponential of a logarithm near -40
/// to 0, whose last digits round.
const ROUNDING: f64 = 1e-9;

/// A verdict's receipt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Receipt {
    format: String,
    /// `sha256:<hex>` of `receipt` as compact JSON, so that damage shows. It is no signature.
    digest: String,
    receipt: ReceiptBody,
}

/// What a receipt says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReceiptBody {
    /// What was judged.
    pub input: InputReceipt,
    /// What was asked for.
    pub asked: Asked,
    /// What the guard said.
    pub verdict: VerdictReceipt,
    /// What it was computed by.
    pub computed_by: ComputedBy,
    /// What was decided; absent without a decision policy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decision: Option<DecisionReceipt>,
}

/// What was judged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InputReceipt {
    /// See [`input_digest`].
    pub digest: String,
    /// Who said each message: `user` or `assistant`.
    pub roles: Vec<String>,
    /// The messages themselves; absent unless the caller wanted to keep them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub messages: Option<Vec<KeptMessage>>,
}

/// A message that the caller wanted to keep.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeptMessage {
    /// `user` or `assistant`.
    pub role: String,
    /// The text.
    pub content: String,
}

/// What was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Asked {
    /// What to judge by.
    pub policy: PolicyChoice,
    /// BCP 47 tag of the conversation's language; empty where none was named.
    pub language: String,
    /// Whether the probabilities of categories were asked for.
    pub category_probabilities: bool,
}

/// What the guard said. Its text is named by its digest, because a guard may repeat what it judges.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VerdictReceipt {
    /// `safe`, `unsafe`, `controversial` or `undetermined`.
    pub label: String,
    /// `Verdict.unsafe_score`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unsafe_score: Option<Exact>,
    /// `Verdict.controversial_score`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub controversial_score: Option<Exact>,
    /// `Verdict.label_mass`.
    pub label_mass: Exact,
    /// `refused`, `answered`, or `unspecified` where the guard does not say it.
    pub refusal: String,
    /// The categories that the guard wrote.
    pub categories: Vec<String>,
    /// The probability of each category; empty where they were not computed.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub category_probabilities: BTreeMap<String, Exact>,
    /// `sha256:<hex>` of the guard's text.
    pub raw_output_digest: String,
}

/// What a verdict was computed by, as its provenance says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "each is the field of Provenance with this name")]
pub struct ComputedBy {
    pub model: String,
    pub model_digest: String,
    pub adapter_digest: String,
    pub tokenizer_digest: String,
    pub template_digest: String,
    pub policy: String,
    pub policy_digest: String,
    pub dtype: String,
    pub precision: String,
    pub instruction_set: String,
    pub device: String,
    pub determinism: String,
    pub server_version: String,
    /// Absent of a verdict that the server computed itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote: Option<RemoteReceipt>,
}

/// The endpoint that a verdict was computed by, as its provenance says, and what it was sent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "each is the field of RemoteEngine with this name")]
pub struct RemoteReceipt {
    pub endpoint: String,
    pub model: String,
    pub reported_model: String,
    pub reported_fingerprint: String,
    pub software: String,
    pub software_version: String,
    /// `tokens` or `text`.
    pub prompt_form: String,
}

/// What was decided.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DecisionReceipt {
    /// `allow`, `flag` or `block`.
    pub action: String,
    /// What asked for it.
    pub reasons: Vec<ReasonReceipt>,
    /// The decision policy's name.
    pub policy: String,
    /// Its version.
    pub policy_version: u32,
    /// Its digest.
    pub policy_digest: String,
    /// The digest of the calibrator that it uses; empty where it uses none.
    pub calibrator_digest: String,
    /// `Decision.calibrated_probability`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calibrated_probability: Option<Exact>,
    /// `Decision.calibrated_for`.
    pub calibrated_for: String,
    /// `safe`, `unsafe`, `both`, `neither`, or `unspecified` without a calibrator.
    pub prediction_set: String,
}

/// A reason of a decision.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReasonReceipt {
    /// What it asks for.
    pub action: String,
    /// What it is about.
    pub subject: String,
    /// The category's code; empty for other subjects.
    pub category: String,
    /// `DecisionReason.value`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<Exact>,
    /// `DecisionReason.threshold`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threshold: Option<Exact>,
}

/// Why an answer has no receipt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReceiptError {
    /// The request has no conversation, or the answer no verdict or provenance.
    #[error("the answer has no {0}, which a receipt needs")]
    Incomplete(&'static str),
    /// The conversation has more than messages of a role and a text, so that the receipt cannot keep it.
    #[error("the conversation has more than texts, so that the receipt cannot keep it")]
    NotKept,
    /// The request asks for more than a verdict on the last message as a whole, which a receipt does not say.
    #[error("a receipt is of one verdict on a whole message: leave {0} out")]
    MoreThanAVerdict(&'static str),
    /// The decision is also about what classifiers say, which a receipt does not hold.
    #[error(
        "a receipt is of one verdict and what was decided about it, and this decision is about classifiers as well: name a policy \
         without them"
    )]
    Classifiers,
}

/// What a request asks for that a receipt does not say, so that it could not be computed again by it.
fn beyond(request: &proto::ClassifyRequest) -> Option<&'static str> {
    let judges_one = matches!(
        request.judge(),
        proto::JudgeScope::Unspecified | proto::JudgeScope::LastMessage
    );
    let omits = request.unjudgeable() == proto::UnjudgeableParts::Omit;
    [
        (!judges_one, "judge"),
        (request.windows.is_some(), "windows"),
        (omits, "unjudgeable"),
        (!request.classifiers.is_empty(), "classifiers"),
    ]
    .into_iter()
    .find_map(|(is_asked, field)| is_asked.then_some(field))
}

/// What does not agree within a receipt.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unexplained {
    /// Another version of this program wrote it.
    #[error("the format is `{0}`, this program reads `{FORMAT}`")]
    Format(String),
    /// It was changed after it was written.
    #[error("the receipt was changed after it was written: its digest is {has}, not {stated}")]
    Altered {
        /// The digest that it states.
        stated: String,
        /// The digest of what it says.
        has: String,
    },
    /// A number's value is not that of its bits.
    #[error("the value of {0} is not that of its bits")]
    Bits(&'static str),
    /// A number is not a probability.
    #[error("{0} is not from 0 to 1")]
    Range(&'static str),
    /// The messages that it keeps are not those that it names.
    #[error("the messages in the receipt are not those of its input digest")]
    Messages,
}

/// `sha256:<hex>` of a conversation: of its encoding as a protobuf message, with the fields in the order of their numbers and without
/// those that have their default value.
pub fn input_digest(conversation: &Conversation) -> String {
    digest::of_bytes(conversation.encode_to_vec())
}

impl Receipt {
    /// The receipt of an answer to a request. The conversation's text is in it only if `keep_input`.
    ///
    /// # Errors
    /// [`ReceiptError`].
    pub fn of(
        request: &proto::ClassifyRequest,
        policy: &PolicyChoice,
        response: &proto::ClassifyResponse,
        keep_input: bool,
    ) -> Result<Self, ReceiptError> {
        if let Some(field) = beyond(request) {
            return Err(ReceiptError::MoreThanAVerdict(field));
        }
        if !response.classifications.is_empty() {
            return Err(ReceiptError::Classifiers);
        }
        let conversation = request
            .conversation
            .as_ref()
            .ok_or(ReceiptError::Incomplete("conversation"))?;
        let verdict = response
            .verdict
            .as_ref()
            .ok_or(ReceiptError::Incomplete("verdict"))?;
        let provenance = verdict
            .provenance
            .as_ref()
            .ok_or(ReceiptError::Incomplete("provenance"))?;
        let messages = conversation.messages.iter().map(|message| KeptMessage {
            role: role(message),
            content: message.content.clone(),
        });
        let body = ReceiptBody {
            input: InputReceipt {
                digest: input_digest(conversation),
                roles: conversation.messages.iter().map(role).collect(),
                messages: keep_input.then(|| messages.collect()),
            },
            asked: Asked {
                policy: policy.clone(),
                language: request.language.clone(),
                category_probabilities: request.category_probabilities,
            },
            verdict: VerdictReceipt::of(verdict),
            computed_by: ComputedBy::of(provenance, verdict.remote_reading.as_ref()),
            decision: response.decision.as_ref().map(DecisionReceipt::of),
        };
        if body.kept_conversation().is_some_and(|kept| kept != *conversation) {
            return Err(ReceiptError::NotKept);
        }
        Ok(Self::new(body))
    }

    pub(super) fn new(body: ReceiptBody) -> Self {
        Self {
            format: FORMAT.to_owned(),
            digest: body_digest(&body),
            receipt: body,
        }
    }

    /// What it says.
    pub fn body(&self) -> &ReceiptBody {
        &self.receipt
    }

    /// The content of its file.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).unwrap_or_default() + "\n"
    }

    /// What does not agree within it, which needs nothing else to be known.
    ///
    /// # Errors
    /// The first [`Unexplained`].
    pub fn check(&self) -> Result<(), Unexplained> {
        if self.format != FORMAT {
            return Err(Unexplained::Format(self.format.clone()));
        }
        let has = body_digest(&self.receipt);
        if has != self.digest {
            return Err(Unexplained::Altered {
                stated: self.digest.clone(),
                has,
            });
        }
        for (name, number) in self.receipt.probabilities() {
            if !number.is_consistent() {
                return Err(Unexplained::Bits(name));
            }
            if !(0.0..=1.0 + ROUNDING).contains(&number.value) {
                return Err(Unexplained::Range(name));
            }
        }
        match self.receipt.kept_conversation() {
            Some(kept) if input_digest(&kept) != self.receipt.input.digest => Err(Unexplained::Messages),
            _ => Ok(()),
        }
    }
}

fn body_digest(body: &ReceiptBody) -> String {
    // All keys are text, so that this cannot fail.
    digest::of_bytes(serde_json::to_vec(body).unwrap_or_default())
}

impl ReceiptBody {
    /// Everything that is from 0 to 1.
    fn probabilities(&self) -> impl Iterator<Item = (&'static str, &Exact)> {
        let verdict = &self.verdict;
        let named = [
            ("verdict.unsafe_score", verdict.unsafe_score.as_ref()),
            (
                "verdict.controversial_score",
                verdict.controversial_score.as_ref(),
            ),
            ("verdict.label_mass", Some(&verdict.label_mass)),
        ];
        let categories = verdict.category_probabilities.values();
        let decided = self.decision.iter().flat_map(|decision| {
            let calibrated = decision.calibrated_probability.iter();
            let reasons = decision.reasons.iter();
            let values = reasons.flat_map(|reason| reason.value.iter().chain(&reason.threshold));
            calibrated
                .map(|number| ("decision.calibrated_probability", number))
                .chain(values.map(|number| ("decision.reasons", number)))
        });
        named
            .into_iter()
            .filter_map(|(name, number)| Some((name, number?)))
            .chain(categories.map(|number| ("verdict.category_probabilities", number)))
            .chain(decided)
    }

    /// The conversation, where the receipt keeps it.
    pub fn kept_conversation(&self) -> Option<Conversation> {
        let messages = self
            .input
            .messages
            .as_ref()?
            .iter()
            .map(|message| proto::Message {
                role: proto::Role::from_str_name(&format!("ROLE_{}", message.role.to_uppercase()))
                    .unwrap_or_default()
                    .into(),
                content: message.content.clone(),
                ..proto::Message::default()
            });
        Some(Conversation {
            messages: messages.collect(),
        })
    }

    /// The verdict, as far as a decision depends on it.
    pub fn decided_verdict(&self) -> proto::Verdict {
        let label = format!("LABEL_{}", self.verdict.label.to_uppercase());
        let categories = self.verdict.category_probabilities.iter();
        proto::Verdict {
            label: proto::Label::from_str_name(&label).unwrap_or_default().into(),
            unsafe_score: self.verdict.unsafe_score.as_ref().map(|score| score.value),
            category_probabilities: categories
                .map(|(category, probability)| proto::CategoryProbability {
                    category: category.clone(),
                    probability: probability.value,
                    ..proto::CategoryProbability::default()
                })
                .collect(),
            ..proto::Verdict::default()
        }
    }
}

fn role(message: &proto::Message) -> String {
    word(message.role().as_str_name(), "ROLE_")
}

/// The name of a value of an enumeration without its prefix, in lower case.
fn word(name: &str, prefix: &str) -> String {
    name.strip_prefix(prefix).unwrap_or(name).to_lowercase()
}

impl VerdictReceipt {
    fn of(verdict: &proto::Verdict) -> Self {
        let categories = verdict.category_probabilities.iter();
        Self {
            label: word(verdict.label().as_str_name(), "LABEL_"),
            unsafe_score: verdict.unsafe_score.map(Exact::from),
            controversial_score: verdict.controversial_score.map(Exact::from),
            label_mass: verdict.label_mass.into(),
            refusal: word(verdict.refusal().as_str_name(), "REFUSAL_"),
            categories: verdict
                .categories
                .iter()
                .map(|one| one.category.clone())
                .collect(),
            category_probabilities: categories
                .map(|one| (one.category.clone(), one.probability.into()))
                .collect(),
            raw_output_digest: digest::of_bytes(&verdict.raw_output),
        }
    }
}

impl ComputedBy {
    fn of(provenance: &proto::Provenance, reading: Option<&proto::RemoteReading>) -> Self {
        let form = reading.map_or(proto::RemotePromptForm::Unspecified, |reading| {
            reading.prompt_form()
        });
        let remote = provenance.remote.as_ref().map(|remote| RemoteReceipt {
            endpoint: remote.endpoint.clone(),
            model: remote.model.clone(),
            reported_model: remote.reported_model.clone(),
            reported_fingerprint: remote.reported_fingerprint.clone(),
            software: remote.software.clone(),
            software_version: remote.software_version.clone(),
            prompt_form: word(form.as_str_name(), "REMOTE_PROMPT_FORM_"),
        });
        Self {
            remote,
            model: provenance.model.clone(),
            model_digest: provenance.model_digest.clone(),
            adapter_digest: provenance.adapter_digest.clone(),
            tokenizer_digest: provenance.tokenizer_digest.clone(),
            template_digest: provenance.template_digest.clone(),
            policy: provenance.policy.clone(),
            policy_digest: provenance.policy_digest.clone(),
            dtype: provenance.dtype.clone(),
            precision: provenance.precision.clone(),
            instruction_set: provenance.instruction_set.clone(),
            device: provenance.device.clone(),
            determinism: word(provenance.determinism().as_str_name(), "DETERMINISM_"),
            server_version: provenance.server_version.clone(),
        }
    }
}

impl DecisionReceipt {
    /// Whether both are the same decision. Reasons that ask for the same action stand in the order of the verdict's categories,
    /// which a receipt does not keep, so their order does not count.
    pub fn is_that_of(&self, other: &Self) -> bool {
        self.in_one_order() == other.in_one_order()
    }

    fn in_one_order(&self) -> Self {
        let mut sorted = self.clone();
        sorted
            .reasons
            .sort_by(|a, b| (&a.subject, &a.category).cmp(&(&b.subject, &b.category)));
        sorted
    }

    /// What a receipt says of a decision.
    pub fn of(decision: &proto::Decision) -> Self {
        let reason = |reason: &proto::DecisionReason| ReasonReceipt {
            action: word(reason.action().as_str_name(), "ACTION_"),
            subject: word(reason.subject().as_str_name(), "DECISION_SUBJECT_"),
            category: reason.category.clone(),
            value: reason.value.map(Exact::from),
            threshold: reason.threshold.map(Exact::from),
        };
        Self {
            action: word(decision.action().as_str_name(), "ACTION_"),
            reasons: decision.reasons.iter().map(reason).collect(),
            policy: decision.policy.clone(),
            policy_version: decision.policy_version,
            policy_digest: decision.policy_digest.clone(),
            calibrator_digest: decision.calibrator_digest.clone(),
            calibrated_probability: decision.calibrated_probability.map(Exact::from),
            calibrated_for: decision.calibrated_for.clone(),
            prediction_set: word(decision.prediction_set().as_str_name(), "PREDICTION_SET_"),
        }
    }
}
