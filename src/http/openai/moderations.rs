//! `POST /v1/moderations`: each input is a message of the user, which a guard judges.

use serde::Serialize;
use tonic::{Code, Status};

use super::{
    error::OpenAiError,
    fields::{self, Fields, Kind, Problem, Problems, kind, list, text},
    messages,
    moderation_result::{ModerationResult, result},
    parameters::EXTENSION,
};
use crate::{
    config::DoorSettings,
    http::{
        limits::{MOST_NAME_BYTES, MOST_TEXTS},
        local::LocalChannel,
    },
    proto::{self, batch_classify_result, content_part::Part, safety_service_client::SafetyServiceClient},
};

/// Names of OpenAI's models, which callers send who do not know our guards: the server's own choice.
const DEFAULT_NAMES: [&str; 4] = [
    "omni-moderation-latest",
    "omni-moderation-2024-09-26",
    "text-moderation-latest",
    "text-moderation-stable",
];

/// A request that has been read.
pub(super) struct ModerationRequest {
    pub(super) classify: proto::BatchClassifyRequest,
    /// How the inputs were sent, for errors about them.
    input: InputForm,
}

/// How the inputs of a request are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum InputForm {
    /// One text.
    Text,
    /// A list of texts, each an input.
    Texts,
    /// A list of parts, together one input.
    Parts,
}

/// Reads a request.
///
/// # Errors
/// Everything that is wrong with its form.
pub(super) fn read(body: &[u8], settings: &DoorSettings) -> Result<ModerationRequest, Vec<Problem>> {
    fields::read(body, |fields, problems| request(fields, settings, problems))
}

fn request(mut fields: Fields<'_>, settings: &DoorSettings, problems: &mut Problems) -> ModerationRequest {
    let model = short_name(fields.text("model", problems), "model", problems);
    let model = model.filter(|name| !name.is_empty() && !DEFAULT_NAMES.contains(&name.as_str()));
    let (mut policy, mut category_probabilities) = (None, false);
    if let Some(mut extension) = fields.object(EXTENSION, problems) {
        let param = extension.path_of("policy");
        policy = short_name(extension.text("policy", problems), &param, problems);
        category_probabilities = extension
            .flag("category_probabilities", problems)
            .unwrap_or(false);
        extension.finish(problems);
    }
    let (input, messages) = inputs(&mut fields, problems);
    fields.finish(problems);
    let asked = proto::ClassifyRequest {
        model: model.or_else(|| settings.guard.clone()).unwrap_or_default(),
        priority: proto::Priority::Interactive.into(),
        policy_source: policy.map(proto::classify_request::PolicySource::Policy),
        category_probabilities,
        decision_policy: settings.decision_policy.clone().unwrap_or_default(),
        // A text that is too long for the guard is judged in windows, and the worst counts.
        windows: Some(proto::Windows::default()),
        ..proto::ClassifyRequest::default()
    };
    let item = |message| proto::BatchClassifyItem {
        id: String::new(),
        request: Some(proto::ClassifyRequest {
            conversation: Some(proto::Conversation {
                messages: vec![message],
            }),
            ..asked.clone()
        }),
    };
    ModerationRequest {
        classify: proto::BatchClassifyRequest {
            items: messages.into_iter().map(item).collect(),
        },
        input,
    }
}

/// The name of a guard or policy; one that is too long is noted and left out.
fn short_name(name: Option<String>, param: &str, problems: &mut Problems) -> Option<String> {
    let name = name?;
    if name.len() > MOST_NAME_BYTES {
        problems.note(param, format!("must have at most {MOST_NAME_BYTES} bytes"));
        return None;
    }
    Some(name)
}

/// The inputs, each as a message of the user.
fn inputs(fields: &mut Fields<'_>, problems: &mut Problems) -> (InputForm, Vec<proto::Message>) {
    let Some(value) = fields.value("input") else {
        problems.note("input", "is required");
        return (InputForm::Text, Vec::new());
    };
    let user = |content: String| proto::Message {
        role: proto::Role::User.into(),
        content,
        ..proto::Message::default()
    };
    let no_text = "must be a text, a list of texts, or a list of parts";
    if kind(value) == Kind::Text {
        match text(value) {
            Some(content) => return (InputForm::Text, vec![user(content)]),
            None => problems.note("input", no_text),
        }
        return (InputForm::Text, Vec::new());
    }
    let Some(of) = list(value, MOST_TEXTS) else {
        problems.note("input", no_text);
        return (InputForm::Text, Vec::new());
    };
    if of.count == 0 || of.count > MOST_TEXTS {
        problems.note("input", format!("must have 1..=256 texts, has {}", of.count));
        return (InputForm::Texts, Vec::new());
    }
    if of.first.iter().all(|one| kind(one) == Kind::Object) {
        let parts = messages::parts(value, "input", problems);
        for (index, part) in parts.iter().enumerate() {
            if matches!(part.part, Some(Part::Other(_))) {
                problems.note(
                    format!("input[{index}]"),
                    "is no text, and no guard here can judge it: leave it out",
                );
            }
        }
        let message = proto::Message {
            parts,
            ..user(String::new())
        };
        return (InputForm::Parts, vec![message]);
    }
    let mut messages = Vec::with_capacity(of.first.len());
    for (index, one) in of.first.into_iter().enumerate() {
        match text(one) {
            Some(content) => messages.push(user(content)),
            None => problems.note(format!("input[{index}]"), "must be a text, as all the others"),
        }
    }
    (InputForm::Texts, messages)
}

impl ModerationRequest {
    /// The parameter that a field of the call comes from: `input[3]` for `items[3].request.conversation.messages[0].content`.
    fn param_of(&self, field: &str) -> String {
        let Some(rest) = field.strip_prefix("items") else {
            return field.to_owned();
        };
        let index = rest.strip_prefix('[').and_then(|rest| rest.split(']').next());
        let Some(index) = index else {
            return "input".to_owned();
        };
        let inner = rest
            .split_once("].request")
            .map_or("", |(_, inner)| inner.trim_start_matches('.'));
        match inner {
            "model" => "model".to_owned(),
            "policy" | "category_probabilities" => format!("{EXTENSION}.{inner}"),
            _ => match self.input {
                InputForm::Text | InputForm::Parts => "input".to_owned(),
                InputForm::Texts => format!("input[{index}]"),
            },
        }
    }
}

/// An answer.
#[derive(Debug, Serialize)]
pub(super) struct Moderation {
    id: String,
    /// The guard's id.
    model: String,
    results: Vec<ModerationResult>,
}

/// Asks the guard, and answers with this id. With a threshold, a text is flagged where its unsafe score is at or above it.
///
/// # Errors
/// When any of the inputs has no verdict.
pub(super) async fn answer(
    channel: LocalChannel,
    id: String,
    mut request: ModerationRequest,
    threshold: Option<f64>,
) -> Result<Moderation, OpenAiError> {
    let mut client = SafetyServiceClient::new(channel).max_decoding_message_size(usize::MAX);
    let classify = std::mem::take(&mut request.classify);
    let asked = classify.items.len();
    let failed = |status: Status| OpenAiError::of_status(status, &|field| request.param_of(field));
    let answered = client
        .batch_classify(classify)
        .await
        .map_err(failed)?
        .into_inner();
    if answered.results.len() != asked {
        return Err(OpenAiError::broken());
    }
    let mut results = Vec::with_capacity(asked);
    let mut model = String::new();
    for (index, item) in answered.results.into_iter().enumerate() {
        let response = match item.result {
            Some(batch_classify_result::Result::Response(response)) => response,
            Some(batch_classify_result::Result::Error(error)) => return Err(failed(status_of(&error))),
            None => return Err(OpenAiError::broken()),
        };
        let verdict = response.verdict.as_ref();
        if let Some(provenance) = verdict.and_then(|verdict| verdict.provenance.as_ref()) {
            model.clone_from(&provenance.model);
        }
        let result = result(response, threshold);
        results.push(result.ok_or_else(|| {
            let field = format!("items[{index}].request");
            OpenAiError::undetermined(request.param_of(&field))
        })?);
    }
    Ok(Moderation { id, model, results })
}

/// An item's error as a status.
fn status_of(error: &proto::ItemStatus) -> Status {
    use prost::Message as _;
    Status::with_details(
        Code::from(error.code),
        error.message.clone(),
        error.encode_to_vec().into(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(body: &str) -> ModerationRequest {
        read(body.as_bytes(), &DoorSettings::default()).ok().unwrap()
    }

    fn texts(request: &ModerationRequest) -> Vec<String> {
        let items = request.classify.items.iter();
        items
            .map(|item| {
                let message = &item
                    .request
                    .as_ref()
                    .unwrap()
                    .conversation
                    .as_ref()
                    .unwrap()
                    .messages[0];
                let parts = message
                    .parts
                    .iter()
                    .map(|part| match part.part.as_ref().unwrap() {
                        Part::Text(text) => text.as_str(),
                        Part::Other(_) => "?",
                    });
                format!("{}{}", message.content, parts.collect::<Vec<_>>().join("|"))
            })
            .collect()
    }

    #[test]
    fn inputs_are_a_text_texts_or_parts() {
        assert_eq!(texts(&asked(r#"{"input": "a"}"#)), ["a"]);
        assert_eq!(texts(&asked(r#"{"input": ["a", "b"]}"#)), ["a", "b"]);
        let parts = r#"{"input": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}"#;
        assert_eq!(texts(&asked(parts)), ["a|b"]);
    }

    #[test]
    fn openais_names_stand_for_the_servers_guard() {
        let settings = DoorSettings {
            guard: Some("ward".to_owned()),
            ..DoorSettings::default()
        };
        let model_of = |body: &str| {
            let request = read(body.as_bytes(), &settings).ok().unwrap();
            request.classify.items[0].request.as_ref().unwrap().model.clone()
        };
        assert_eq!(model_of(r#"{"input": "a"}"#), "ward");
        assert_eq!(
            model_of(r#"{"input": "a", "model": "omni-moderation-latest"}"#),
            "ward"
        );
        assert_eq!(model_of(r#"{"input": "a", "model": ""}"#), "ward");
        assert_eq!(model_of(r#"{"input": "a", "model": "other"}"#), "other");
    }

    #[test]
    fn what_is_wrong_is_named() {
        let image = r#"{"type": "image_url", "image_url": {"url": "x"}}"#;
        let long = "x".repeat(MOST_NAME_BYTES + 1);
        for (body, params) in [
            ("{}".to_owned(), vec!["input"]),
            (
                format!(r#"{{"input": "a", "model": "{long}", "babelward": {{"policy": "{long}"}}}}"#),
                vec!["model", "babelward.policy"],
            ),
            (r#"{"input": 5}"#.to_owned(), vec!["input"]),
            (r#"{"input": []}"#.to_owned(), vec!["input"]),
            (r#"{"input": ["a", 5]}"#.to_owned(), vec!["input[1]"]),
            (r#"{"input": "a", "inputs": "b"}"#.to_owned(), vec!["inputs"]),
            (
                format!(r#"{{"input": [{{"type": "text", "text": "a"}}, {image}]}}"#),
                vec!["input[1]"],
            ),
        ] {
            let problems = read(body.as_bytes(), &DoorSettings::default())
                .err()
                .unwrap()
                .into_iter();
            let found: Vec<_> = problems.map(|problem| problem.param).collect();
            assert_eq!(found, params, "{body}");
        }
    }

    #[test]
    fn errors_name_the_callers_fields() {
        let several = asked(r#"{"input": ["a", "b"]}"#);
        for (field, param) in [
            ("items[1].request.conversation.messages[0].content", "input[1]"),
            ("items[1].request.conversation", "input[1]"),
            ("items[1].request", "input[1]"),
            ("items[0].request.model", "model"),
            ("items[0].request.policy", "babelward.policy"),
            (
                "items[0].request.category_probabilities",
                "babelward.category_probabilities",
            ),
            ("items", "input"),
        ] {
            assert_eq!(several.param_of(field), param);
        }
        let one = asked(r#"{"input": "a"}"#);
        assert_eq!(
            one.param_of("items[0].request.conversation.messages[0].content"),
            "input"
        );
    }
}
