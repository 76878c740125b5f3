//! Asks a guard, in this process, and says of each text whether it may pass. All doors of guardrail callers go through here, so
//! that what happens without a verdict is the same for all of them.

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use super::{
    dialogue::Dialogue,
    ruling::{Blocked, Ruling, ruling},
};
use crate::{
    config::{DoorSettings, OnFailure},
    http::{
        caller::Caller,
        limits::{MOST_NAME_BYTES, MOST_TEXTS},
        status::Refusal,
    },
    proto::{
        self, JudgeScope, UnjudgeableParts, batch_classify_result, safety_service_client::SafetyServiceClient,
    },
    rpc::{DOMAIN, Door, Reason, ServiceError},
};

/// Says that a text passed although there is no verdict on it, with the reason.
const PASSED_WITHOUT_VERDICT: HeaderName = HeaderName::from_static("x-babelward-passed-without-verdict");

/// Says which parts of the request were not judged, such as images.
const NOT_JUDGED: HeaderName = HeaderName::from_static("x-babelward-not-judged");

/// Says how many messages at the beginning of a conversation no guard has seen.
const MESSAGES_LEFT_OUT: HeaderName = HeaderName::from_static("x-babelward-messages-left-out");

/// The field that names a policy, in the one protocol that has it.
const POLICY_FIELD: &str = "detector_params.policy";

/// Most fields that an answer names one by one.
const MOST_FIELDS: usize = 8;

/// Checks the number of texts in a list, before anything is made of them.
///
/// # Errors
/// When there are too many to be read.
pub(super) fn check_count(field: &str, count: usize) -> Result<(), ServiceError> {
    match count > MOST_TEXTS {
        true => Err(ServiceError::field(
            field,
            format!("has {count} texts, which is far too many"),
        )),
        false => Ok(()),
    }
}

/// Who asks.
pub(super) struct Asker<'a> {
    pub(super) caller: &'a Caller,
    pub(super) settings: &'a DoorSettings,
    /// The door that the caller came through.
    pub(super) door: Door,
}

impl Asker<'_> {
    /// The refusal of the caller's request for this error.
    pub(super) fn refusal(&self, error: &ServiceError) -> Refusal {
        self.caller.refusal(error)
    }

    /// What is said about a text without a verdict: that it passes all the same, if the server is configured to fail open.
    fn told_without_verdict(&self, no_verdict: NoVerdict, notes: &mut Notes) -> Told {
        match self.settings.on_failure {
            OnFailure::Closed => Told::NoVerdict(no_verdict),
            OnFailure::Open => {
                metrics::counter!("babelward_door_passed_without_verdict_total", "door" => self.door.0)
                    .increment(1);
                notes.passed_without_verdict = Some(no_verdict.reason().to_owned());
                Told::Passed
            }
        }
    }

    /// The refusal of a request without a verdict, for protocols that tell it as an error.
    pub(super) fn without_verdict(&self, no_verdict: NoVerdict) -> Refusal {
        let message = no_verdict.message();
        let refusal = match no_verdict {
            NoVerdict::Failed(refusal) => return refusal,
            NoVerdict::Undetermined(_) => self.refusal(&ServiceError::VerdictUndetermined),
            NoVerdict::Unreadable(fields) => {
                self.refusal(&ServiceError::field(listed(&fields), "is no text"))
            }
        };
        Refusal { message, ..refusal }
    }
}

/// The guard that is asked.
pub(super) struct AskedGuard {
    /// Its model id; `None` where neither the caller nor the configuration says it.
    id: Option<String>,
    /// The field or header of the caller's request that names it; `None` where the server's configuration does.
    named_by: Option<&'static str>,
}

impl AskedGuard {
    /// The guard that the caller names in `field`, or else that of the server's configuration.
    pub(super) fn of(named: Option<String>, field: &'static str, settings: &DoorSettings) -> Self {
        match named.filter(|id| !id.is_empty()) {
            Some(id) => Self {
                id: Some(id),
                named_by: Some(field),
            },
            None => Self {
                id: settings.guard.clone(),
                named_by: None,
            },
        }
    }

    /// Its model id.
    pub(super) fn id(&self) -> Option<&str> {
        self.id.as_deref()
    }
}

/// What a door asks.
pub(super) struct Questions {
    pub(super) guard: AskedGuard,
    pub(super) dialogues: Vec<Dialogue>,
    /// Fields that no guard can read, besides those in the dialogues.
    pub(super) unreadable: Vec<String>,
    pub(super) judge: JudgeScope,
    /// The score from which on a verdict blocks, in place of the guard's label.
    pub(super) unsafe_score: Option<f64>,
    /// A configured policy to judge by, in place of the guard's own categories.
    pub(super) policy: Option<String>,
}

impl Questions {
    /// Questions about the last message of each dialogue, by the server's configuration.
    pub(super) fn new(guard: AskedGuard, dialogues: Vec<Dialogue>, settings: &DoorSettings) -> Self {
        Self {
            guard,
            dialogues,
            unreadable: Vec::new(),
            judge: JudgeScope::LastMessage,
            unsafe_score: settings.unsafe_score,
            policy: None,
        }
    }
}

/// Why there is no verdict on a text.
#[derive(Debug)]
pub(super) enum NoVerdict {
    /// The guard answered, and its answer is none. Asking again gives the same.
    Undetermined(String),
    /// The text has parts that no guard here can judge: their fields.
    Unreadable(Vec<String>),
    /// The guard could not be asked, or did not answer.
    Failed(Refusal),
}

impl NoVerdict {
    /// What a refusal leaves without a verdict.
    ///
    /// # Errors
    /// The refusal, where the caller did something wrong.
    fn of(mut refusal: Refusal, guard: &AskedGuard) -> Result<Self, Refusal> {
        if !leaves_without_verdict(&refusal, guard) {
            return Err(refusal);
        }
        if matches!(refusal.code, Code::NotFound | Code::FailedPrecondition) {
            // Nothing is wrong with the request: the guard is not there.
            refusal.status = StatusCode::SERVICE_UNAVAILABLE;
        }
        Ok(Self::Failed(refusal))
    }

    /// The reason that programs rely on.
    pub(super) fn reason(&self) -> &str {
        match self {
            Self::Undetermined(_) => Reason::VerdictUndetermined.name(),
            Self::Unreadable(_) => Reason::InvalidFields.name(),
            Self::Failed(refusal) => &refusal.reason,
        }
    }

    /// Says that there is no verdict and why, without anything of the text.
    pub(super) fn message(&self) -> String {
        let why = match self {
            Self::Undetermined(why) => why.clone(),
            Self::Unreadable(fields) => format!("no guard here can judge {}", listed(fields)),
            Self::Failed(refusal) => refusal.message.clone(),
        };
        format!("there is no verdict on this text ({}): {why}", self.reason())
    }
}

/// The first fields of a list, and how many more there are.
fn listed(fields: &[String]) -> String {
    let named = &fields[..fields.len().min(MOST_FIELDS)];
    match fields.len() - named.len() {
        0 => named.join(", "),
        more => format!("{} and {more} more", named.join(", ")),
    }
}

/// What is said about one text.
#[derive(Debug)]
pub(super) enum Told {
    Passed,
    Blocked(Box<Blocked>),
    NoVerdict(NoVerdict),
}

/// What is said about all texts of a request.
#[derive(Debug)]
pub(super) struct Answers {
    /// In the order of the dialogues.
    pub(super) each: Vec<Told>,
    pub(super) notes: Notes,
}

impl Answers {
    /// What is said about all texts as one: blocked if one is, else no verdict if one has none.
    pub(super) fn overall(self) -> Told {
        let rank = |told: &Told| match told {
            Told::Blocked(_) => 0,
            Told::NoVerdict(_) => 1,
            Told::Passed => 2,
        };
        self.each.into_iter().min_by_key(rank).unwrap_or(Told::Passed)
    }
}

/// What must be told beside the answer.
#[derive(Debug, Default, Clone, PartialEq)]
pub(super) struct Notes {
    /// The reason why a text has no verdict that passed all the same, because the server is configured to fail open.
    pub(super) passed_without_verdict: Option<String>,
    /// The fields that were not judged.
    pub(super) not_judged: Vec<String>,
    /// Messages at the beginning of conversations that no guard has seen.
    pub(super) messages_left_out: usize,
}

impl Notes {
    /// Tells them in the headers of the answer.
    pub(super) fn tell(&self, headers: &mut HeaderMap) {
        let mut tell = |name: HeaderName, value: String| {
            if let Ok(value) = HeaderValue::from_str(&value) {
                headers.insert(name, value);
            }
        };
        if let Some(reason) = &self.passed_without_verdict {
            tell(PASSED_WITHOUT_VERDICT, reason.clone());
        }
        if !self.not_judged.is_empty() {
            tell(NOT_JUDGED, listed(&self.not_judged));
        }
        if self.messages_left_out > 0 {
            tell(MESSAGES_LEFT_OUT, self.messages_left_out.to_string());
        }
    }

    /// The same in a sentence, for protocols with a place for one.
    pub(super) fn sentence(&self) -> Option<String> {
        let without = self.passed_without_verdict.as_ref();
        let without = without.map(|reason| {
            format!("passed without a verdict ({reason}): the server is configured to fail open")
        });
        let parts =
            (!self.not_judged.is_empty()).then(|| format!("not judged: {}", listed(&self.not_judged)));
        let messages = (self.messages_left_out > 0)
            .then(|| format!("the first {} messages were left out", self.messages_left_out));
        let told: Vec<String> = [without, parts, messages].into_iter().flatten().collect();
        (!told.is_empty()).then(|| told.join("; "))
    }
}

/// Asks the guard about each dialogue, all at once.
///
/// # Errors
/// When the request is wrong, or one that the caller may not make. That is never counted as being without a verdict.
pub(super) async fn ask(asker: &Asker<'_>, mut questions: Questions) -> Result<Answers, Refusal> {
    if questions
        .policy
        .as_ref()
        .is_some_and(|name| name.len() > MOST_NAME_BYTES)
    {
        let says = format!("must have at most {MOST_NAME_BYTES} bytes");
        return Err(asker.refusal(&ServiceError::field(POLICY_FIELD, says)));
    }
    let mut notes = Notes::default();
    for dialogue in &mut questions.dialogues {
        notes.messages_left_out += dialogue.leave_out_earliest();
    }
    let mut unreadable: Vec<String> = questions
        .dialogues
        .iter()
        .flat_map(Dialogue::unreadable)
        .collect();
    unreadable.append(&mut questions.unreadable);
    let mut each = Vec::with_capacity(questions.dialogues.len());
    if !unreadable.is_empty() {
        let no_verdict = NoVerdict::Unreadable(unreadable.clone());
        match asker.settings.on_failure {
            OnFailure::Closed => {
                each.push(Told::NoVerdict(no_verdict));
                return Ok(Answers { each, notes });
            }
            OnFailure::Open => notes.not_judged = unreadable,
        }
        if questions.dialogues.is_empty() {
            each.push(asker.told_without_verdict(no_verdict, &mut notes));
        }
    }
    let heard = hear(asker, &questions).await;
    if heard.len() != questions.dialogues.len() {
        // A text without an answer would count as one that passes.
        return Err(Status::internal("there are not as many answers as texts").into());
    }
    for (heard, dialogue) in heard.into_iter().zip(&questions.dialogues) {
        let no_verdict = match heard {
            Ok(response) => match ruling(&response, questions.unsafe_score) {
                Ruling::Passed => {
                    each.push(Told::Passed);
                    continue;
                }
                Ruling::Blocked(blocked) => {
                    each.push(Told::Blocked(blocked));
                    continue;
                }
                Ruling::Undetermined(why) => NoVerdict::Undetermined(why),
            },
            Err(status) => {
                let refusal = in_callers_words(Refusal::from(status), dialogue, &questions.guard);
                NoVerdict::of(refusal, &questions.guard)?
            }
        };
        each.push(asker.told_without_verdict(no_verdict, &mut notes));
    }
    Ok(Answers { each, notes })
}

/// The answer to each question.
async fn hear(asker: &Asker<'_>, questions: &Questions) -> Vec<Result<proto::ClassifyResponse, Status>> {
    let dialogues = &questions.dialogues;
    let Some(guard) = questions.guard.id() else {
        return dialogues.iter().map(|_| Err(no_guard())).collect();
    };
    let request = |dialogue| request(dialogue, guard, asker, questions);
    let mut safety =
        SafetyServiceClient::new(asker.caller.channel(asker.door)).max_decoding_message_size(usize::MAX);
    match dialogues.as_slice() {
        [] => return Vec::new(),
        [one] => {
            return vec![
                safety
                    .classify(request(one))
                    .await
                    .map(tonic::Response::into_inner),
            ];
        }
        _ => {}
    }
    let items = dialogues.iter().map(|dialogue| proto::BatchClassifyItem {
        request: Some(request(dialogue)),
        ..proto::BatchClassifyItem::default()
    });
    let batch = proto::BatchClassifyRequest {
        items: items.collect(),
    };
    match safety.batch_classify(batch).await {
        Ok(answer) => answer.into_inner().results.into_iter().map(item).collect(),
        Err(status) => dialogues.iter().map(|_| Err(status.clone())).collect(),
    }
}

/// Nobody has said which guard is asked.
fn no_guard() -> Status {
    let reason = Reason::NoDefaultModel;
    let says = "the server has several guards or none, and its configuration does not say which one is asked (doors.guard)";
    Status::with_error_details(
        reason.code(),
        says,
        ErrorDetails::with_error_info(reason.name(), DOMAIN, []),
    )
}

fn request(
    dialogue: &Dialogue,
    guard: &str,
    asker: &Asker<'_>,
    questions: &Questions,
) -> proto::ClassifyRequest {
    let policy = questions
        .policy
        .clone()
        .map(proto::classify_request::PolicySource::Policy);
    proto::ClassifyRequest {
        model: guard.to_owned(),
        conversation: Some(dialogue.conversation()),
        priority: proto::Priority::Interactive.into(),
        policy_source: policy,
        decision_policy: asker.settings.decision_policy.clone().unwrap_or_default(),
        judge: questions.judge.into(),
        // What no guard can read has been told.
        unjudgeable: UnjudgeableParts::Omit.into(),
        windows: Some(proto::Windows::default()),
        ..proto::ClassifyRequest::default()
    }
}

fn item(result: proto::BatchClassifyResult) -> Result<proto::ClassifyResponse, Status> {
    match result.result {
        Some(batch_classify_result::Result::Response(response)) => Ok(response),
        Some(batch_classify_result::Result::Error(error)) => {
            let details = prost::Message::encode_to_vec(&error);
            Err(Status::with_details(
                Code::from(error.code),
                error.message,
                details.into(),
            ))
        }
        None => Err(Status::internal("the item has no result")),
    }
}

/// Whether a refusal means that there is no verdict, and not that the caller did something wrong.
fn leaves_without_verdict(refusal: &Refusal, guard: &AskedGuard) -> bool {
    let reason = refusal.reason.as_str();
    match refusal.code {
        Code::Unavailable
        | Code::DeadlineExceeded
        | Code::Internal
        | Code::Unknown
        | Code::DataLoss
        | Code::Aborted
        | Code::Cancelled
        | Code::Unimplemented => true,
        // A quota is the caller's own; a full queue is not.
        Code::ResourceExhausted => {
            ![Reason::QuotaRequests.name(), Reason::QuotaTokens.name()].contains(&reason)
        }
        // A guard that the configuration names and that is not there is the server's fault; a policy is the caller's.
        Code::NotFound => guard.named_by.is_none() && reason == Reason::ModelNotFound.name(),
        // A text that the cache cannot hold is too long, as one is that the guard cannot hold.
        Code::FailedPrecondition if reason == Reason::CacheTooSmall.name() => false,
        // Who names the guard has to name one that judges, and that the decision policy is for.
        Code::FailedPrecondition => {
            let of_guard = [Reason::CapabilityMissing, Reason::CalibratorMismatch].map(Reason::name);
            guard.named_by.is_none() || !of_guard.contains(&reason)
        }
        Code::Ok
        | Code::InvalidArgument
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::OutOfRange
        | Code::Unauthenticated => false,
    }
}

/// The refusal with the fields of the caller's request in place of those of the ClassifyRequest.
fn in_callers_words(mut refusal: Refusal, dialogue: &Dialogue, guard: &AskedGuard) -> Refusal {
    if refusal.fields.is_empty() {
        return refusal;
    }
    for violation in &mut refusal.fields {
        let asked = violation
            .field
            .split_once(".request.")
            .map_or(violation.field.as_str(), |(_, rest)| rest);
        violation.field = match asked {
            "model" => guard.named_by.unwrap_or("doors.guard").to_owned(),
            "policy" => POLICY_FIELD.to_owned(),
            "items" => dialogue.list(),
            asked => dialogue.field(asked),
        };
    }
    let sentences: Vec<String> = refusal
        .fields
        .iter()
        .map(|one| format!("{}: {}", one.field, one.description))
        .collect();
    refusal.message = sentences.join("; ");
    refusal
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is made of an error where the caller names the guard in `named_by`, or the configuration does.
    fn no_verdict(error: &ServiceError, named_by: Option<&'static str>) -> Result<NoVerdict, Refusal> {
        let guard = AskedGuard {
            id: Some("ward".to_owned()),
            named_by,
        };
        NoVerdict::of(error.to_status("").into(), &guard)
    }

    #[test]
    fn what_the_caller_does_wrong_is_not_without_a_verdict() {
        let mismatch = ServiceError::CalibratorMismatch {
            policy: "chat@3".to_owned(),
            calibrator: String::new(),
            differences: Vec::new(),
        };
        assert!(no_verdict(&mismatch, Some("detector-id")).is_err());
        assert!(
            no_verdict(&mismatch, None).is_ok(),
            "both are the server's configuration"
        );
        let too_long = ServiceError::CacheTooSmall {
            needed_blocks: 9,
            available_blocks: 8,
        };
        for named_by in [None, Some("detector-id")] {
            assert!(no_verdict(&too_long, named_by).is_err());
            assert!(no_verdict(&ServiceError::NumericFault, named_by).is_ok());
        }
    }

    #[test]
    fn lists_that_no_call_takes_are_refused_before_they_are_read() {
        assert_eq!(check_count("contents", MOST_TEXTS), Ok(()));
        assert!(check_count("contents", MOST_TEXTS + 1).is_err());
    }
}
