//! Detectors of the FMS Guardrails Orchestrator: `POST /api/v1/text/contents`, `/chat` and `/generation`, by its Detectors API
//! (`docs/api/openapi_detector_api.yaml`). A guard is a detector: its model id is the `detector-id`.
//!
//! Spans count Unicode code points, as the orchestrator does that cuts them out of its text. A text without a verdict is an
//! error, and so are all texts of its request: a list without detections would say that nothing was found.

use std::{marker::PhantomData, sync::Arc};

use axum::{extract::State, response::Response};
use http::HeaderMap;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use super::{
    ask::{AskedGuard, Asker, NoVerdict, Questions, Told, ask, check_count},
    chat::{self, CallerMessage},
    dialogue::Dialogue,
    reply,
    ruling::{Because, Blocked},
};
use crate::{
    config::DoorSettings,
    http::{
        caller::Received,
        json,
        status::{Refusal, Unsupported},
    },
    proto::{CategoryResult, Label, Role, WindowVerdict},
    rpc::{Door, ServiceError, label_name},
};

pub(super) const DOOR: Door = Door("detectors");

/// The header that names the detector.
const DETECTOR_ID: &str = "detector-id";

/// How the detector is asked.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DetectorParams {
    /// The score from which on something is detected, 0 to 1.
    threshold: Option<f64>,
    /// A configured policy to judge by, in place of the guard's own categories.
    policy: Option<String>,
}

/// Texts of which nothing more is known.
#[derive(Debug, Deserialize)]
pub(super) struct ContentsRequest {
    contents: Vec<String>,
    #[serde(default)]
    detector_params: DetectorParams,
}

/// A conversation, judged at its end.
#[derive(Debug, Deserialize)]
pub(super) struct ChatRequest {
    messages: Vec<CallerMessage>,
    #[serde(default)]
    detector_params: DetectorParams,
}

/// An answer, judged with what it answers.
#[derive(Debug, Deserialize)]
pub(super) struct GenerationRequest {
    prompt: String,
    generated_text: String,
    #[serde(default)]
    detector_params: DetectorParams,
}

/// Something that was detected in a conversation.
#[derive(Debug, PartialEq, Serialize)]
struct Detection {
    /// `unsafe` or `controversial`.
    detection: &'static str,
    detection_type: &'static str,
    /// The guard's unsafe_score, or the harm_score of a classifier that decided; 1 without a score.
    score: f64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    evidence: Vec<Evidence>,
    metadata: Metadata,
}

/// Something that was detected in a text.
#[derive(Debug, PartialEq, Serialize)]
struct Span {
    /// The code points before it.
    start: usize,
    /// The code points up to its end.
    end: usize,
    text: String,
    #[serde(flatten)]
    detection: Detection,
}

/// A category that the guard names.
#[derive(Debug, PartialEq, Serialize)]
struct Evidence {
    name: &'static str,
    value: String,
}

/// What the guard said.
#[derive(Debug, PartialEq, Serialize)]
struct Metadata {
    guard: String,
    label: &'static str,
    reason: String,
}

/// A request to a detector.
pub(super) trait Detect: DeserializeOwned + Send {
    fn params(&self) -> &DetectorParams;

    /// What is judged.
    fn dialogues(&self) -> Result<Vec<Dialogue>, ServiceError>;

    /// The answer to the request.
    ///
    /// # Errors
    /// A text without a verdict.
    fn detected(&self, answers: Vec<Told>) -> Result<Value, NoVerdict>;
}

impl Detect for ContentsRequest {
    fn params(&self) -> &DetectorParams {
        &self.detector_params
    }

    fn dialogues(&self) -> Result<Vec<Dialogue>, ServiceError> {
        check_count("contents", self.contents.len())?;
        // Nothing can be detected in an empty text.
        let texts = self
            .contents
            .iter()
            .enumerate()
            .filter(|(_, text)| !text.is_empty());
        let dialogue = |(index, text): (usize, &String)| {
            Dialogue::of_text(Role::User, text.clone(), format!("contents[{index}]"))
        };
        Ok(texts.map(dialogue).collect())
    }

    fn detected(&self, answers: Vec<Told>) -> Result<Value, NoVerdict> {
        let mut answers = answers.into_iter();
        let found_in = |text: &String| {
            let told = match text.is_empty() {
                true => None,
                false => answers.next(),
            };
            match told {
                Some(Told::Blocked(blocked)) => Ok(spans(text, &blocked)),
                Some(Told::NoVerdict(no_verdict)) => Err(no_verdict),
                Some(Told::Passed) | None => Ok(Vec::new()),
            }
        };
        let detected = self.contents.iter().map(found_in);
        Ok(json!(detected.collect::<Result<Vec<Vec<Span>>, NoVerdict>>()?))
    }
}

impl Detect for ChatRequest {
    fn params(&self) -> &DetectorParams {
        &self.detector_params
    }

    fn dialogues(&self) -> Result<Vec<Dialogue>, ServiceError> {
        let conversation = chat::dialogue(self.messages.clone(), "messages")?;
        if conversation.is_empty() {
            return Err(chat::nothing_to_judge("messages"));
        }
        Ok(vec![conversation])
    }

    fn detected(&self, answers: Vec<Told>) -> Result<Value, NoVerdict> {
        detections(answers)
    }
}

impl Detect for GenerationRequest {
    fn params(&self) -> &DetectorParams {
        &self.detector_params
    }

    fn dialogues(&self) -> Result<Vec<Dialogue>, ServiceError> {
        let mut dialogue = Dialogue::default();
        if !self.prompt.is_empty() {
            dialogue.push_text(Role::User, self.prompt.clone(), "prompt".to_owned());
        }
        dialogue.push_text(
            Role::Assistant,
            self.generated_text.clone(),
            "generated_text".to_owned(),
        );
        Ok(vec![dialogue])
    }

    fn detected(&self, answers: Vec<Told>) -> Result<Value, NoVerdict> {
        detections(answers)
    }
}

pub(super) async fn detect<T: Detect>(
    State(settings): State<Arc<DoorSettings>>,
    headers: HeaderMap,
    received: Result<Received, Refusal>,
) -> Response {
    let answer = answer::<T>(&settings, &headers, received).await;
    answer.unwrap_or_else(|refusal| error(&reply::unprocessable(refusal)))
}

/// Detectors of documents, which no guard is.
pub(super) async fn documents() -> Response {
    let says = "no guard judges an answer by documents; use /api/v1/text/contents, chat or generation";
    error(&Refusal::unsupported(Unsupported::Path, says))
}

/// What a body asks about.
///
/// # Errors
/// When it is no such request, or asks about nothing.
pub(super) fn dialogues<T: Detect>(body: &[u8]) -> Result<Vec<Dialogue>, ServiceError> {
    json::parse(body, PhantomData::<T>)?.dialogues()
}

async fn answer<T: Detect>(
    settings: &DoorSettings,
    headers: &HeaderMap,
    received: Result<Received, Refusal>,
) -> Result<Response, Refusal> {
    let mut received = received?;
    let request: T = received.json()?;
    let asker = Asker {
        caller: &received.caller,
        settings,
        door: DOOR,
    };
    let wrong = |error| asker.refusal(&error);
    let named = reply::text_header(headers, DETECTOR_ID).map_err(wrong)?;
    let params = request.params();
    let guard = AskedGuard::of(named, DETECTOR_ID, settings);
    let dialogues = request.dialogues().map_err(wrong)?;
    let questions = Questions {
        unsafe_score: threshold(params, settings).map_err(wrong)?,
        policy: params.policy.clone(),
        ..Questions::new(guard, dialogues, settings)
    };
    let answers = ask(&asker, questions).await?;
    match request.detected(answers.each) {
        Ok(detected) => Ok(reply::told(&answers.notes, &detected)),
        Err(no_verdict) => Err(asker.without_verdict(no_verdict)),
    }
}

/// The score from which on something is detected.
fn threshold(params: &DetectorParams, settings: &DoorSettings) -> Result<Option<f64>, ServiceError> {
    match params.threshold {
        Some(threshold) if !(0.0..=1.0).contains(&threshold) => Err(ServiceError::field(
            "detector_params.threshold",
            "must be between 0 and 1",
        )),
        Some(threshold) => Ok(Some(threshold)),
        None => Ok(settings.unsafe_score),
    }
}

/// What was detected in a conversation.
fn detections(answers: Vec<Told>) -> Result<Value, NoVerdict> {
    let mut detected = Vec::new();
    for told in answers {
        match told {
            Told::Passed => {}
            Told::Blocked(blocked) => detected.push(detection(&blocked, blocked.score())),
            Told::NoVerdict(no_verdict) => return Err(no_verdict),
        }
    }
    Ok(json!(detected))
}

fn detection(blocked: &Blocked, score: Option<f64>) -> Detection {
    let verdict = &blocked.verdict;
    let category = |one: &CategoryResult| Evidence {
        name: "category",
        value: one.category.clone(),
    };
    Detection {
        detection: match (&blocked.because, verdict.label()) {
            (Because::Label, Label::Controversial) => "controversial",
            _ => "unsafe",
        },
        detection_type: "risk",
        score: score.unwrap_or(1.0),
        evidence: verdict.categories.iter().map(category).collect(),
        metadata: Metadata {
            guard: blocked.guard().to_owned(),
            label: label_name(verdict.label()),
            reason: blocked.reason(),
        },
    }
}

/// What was detected in a text: the whole of it, or the windows that it was judged in.
fn spans(text: &str, blocked: &Blocked) -> Vec<Span> {
    let counts = |window: &&WindowVerdict| match blocked.because {
        Because::Score(threshold) => window.unsafe_score.is_some_and(|score| score >= threshold),
        Because::Label | Because::Policy(_) => matches!(window.label(), Label::Unsafe | Label::Controversial),
    };
    let windows: Vec<Span> = blocked
        .verdict
        .windows
        .iter()
        .filter(counts)
        .filter_map(|window| {
            let place = usize::try_from(window.start_byte).ok()?..usize::try_from(window.end_byte).ok()?;
            let within = text.get(place.clone())?;
            let start = text.get(..place.start)?.chars().count();
            Some(Span {
                start,
                end: start + within.chars().count(),
                text: within.to_owned(),
                detection: detection(blocked, window.unsafe_score),
            })
        })
        .collect();
    if !windows.is_empty() {
        return windows;
    }
    vec![Span {
        start: 0,
        end: text.chars().count(),
        text: text.to_owned(),
        detection: detection(blocked, blocked.score()),
    }]
}

/// An error as detectors tell it: `code` is the HTTP status.
fn error(refusal: &Refusal) -> Response {
    let code = refusal.status.as_u16();
    refusal.respond(&json!({"code": code, "message": refusal.message, "reason": refusal.reason}))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::proto::{CategoryResult, Provenance, Verdict};

    fn blocked(because: Because, windows: Vec<WindowVerdict>) -> Blocked {
        Blocked {
            verdict: Verdict {
                label: Label::Unsafe.into(),
                unsafe_score: Some(0.875),
                categories: vec![CategoryResult {
                    category: "S1".to_owned(),
                    display_name: "Violent Crimes".to_owned(),
                }],
                provenance: Some(Provenance {
                    model: "ward".to_owned(),
                    ..Provenance::default()
                }),
                windows,
                ..Verdict::default()
            },
            because,
        }
    }

    fn window(bytes: std::ops::Range<u64>, label: Label, score: f64) -> WindowVerdict {
        WindowVerdict {
            start_byte: bytes.start,
            end_byte: bytes.end,
            label: label.into(),
            unsafe_score: Some(score),
        }
    }

    #[test]
    fn requests_are_those_that_the_orchestrator_sends() {
        // As fms-guardrails-orchestrator's own tests expect its requests.
        let request = json!({"contents": ["Here are 2 random phone numbers:"], "detector_params": {}});
        let request: ContentsRequest = serde_json::from_value(request).unwrap();
        assert_eq!(request.contents, ["Here are 2 random phone numbers:"]);
        let request = json!({"prompt": "This is my amazing prompt", "generated_text": "Some text", "detector_params": {"threshold": 0.5}});
        let request: GenerationRequest = serde_json::from_value(request).unwrap();
        assert_eq!(request.detector_params.threshold, Some(0.5));
        let unknown = json!({"contents": [], "detector_params": {"risk_name": "harm"}});
        let error = serde_json::from_value::<ContentsRequest>(unknown)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("risk_name") && error.contains("threshold"),
            "{error}"
        );
    }

    #[test]
    fn a_span_has_the_fields_of_the_detectors_api_and_counts_code_points() {
        let text = "👩‍👩 é";
        assert_eq!(
            serde_json::to_value(spans(text, &blocked(Because::Label, Vec::new()))).unwrap(),
            json!([{
                "start": 0, "end": 5, "text": text,
                "detection": "unsafe", "detection_type": "risk", "score": 0.875,
                "evidence": [{"name": "category", "value": "S1"}],
                "metadata": {
                    "guard": "ward", "label": "unsafe",
                    "reason": "guard ward says unsafe (S1 Violent Crimes), unsafe_score 0.875",
                },
            }])
        );
    }

    #[test]
    fn each_unsafe_window_is_a_span() {
        let text = "ééé safe ééé unsafe";
        let windows = vec![
            window(0..7, Label::Safe, 0.1),
            window(7..18, Label::Unsafe, 0.75),
            window(11..text.len() as u64, Label::Controversial, 0.625),
        ];
        let found: Vec<_> = spans(text, &blocked(Because::Label, windows.clone()))
            .into_iter()
            .map(|span| (span.start, span.end, span.text, span.detection.score))
            .collect();
        let cut = |start: usize, end: usize| text.chars().skip(start).take(end - start).collect::<String>();
        assert_eq!(found, [(4, 12, cut(4, 12), 0.75), (8, 19, cut(8, 19), 0.625)]);
        let by_score = spans(text, &blocked(Because::Score(0.7), windows));
        assert_eq!(by_score.len(), 1);
        // Places that are none in the text are not made up.
        let elsewhere = spans(
            text,
            &blocked(Because::Label, vec![window(1..500, Label::Unsafe, 0.5)]),
        );
        assert_eq!((elsewhere[0].start, elsewhere[0].end), (0, 19));
    }

    #[test]
    fn a_threshold_is_a_probability() {
        let settings = DoorSettings::default();
        let of = |threshold: f64| {
            let params = DetectorParams {
                threshold: Some(threshold),
                policy: None,
            };
            super::threshold(&params, &settings)
        };
        assert_eq!(of(0.5), Ok(Some(0.5)));
        for wrong in [-0.1, 1.5, f64::NAN] {
            let error = of(wrong).unwrap_err();
            assert!(
                matches!(&error, ServiceError::InvalidFields(fields) if fields[0].field == "detector_params.threshold"),
                "{error:?}"
            );
        }
    }
}
