//! `POST /v1/chat/completions`.

use super::{
    answer::Endpoint,
    fields::{self, Fields, Only, Problem, Problems},
    messages,
    parameters::{self, AnswerRequest, ParamNames, Parameters},
};
use crate::{
    config::DoorSettings,
    proto::{self, generate_request::Prompt},
};

/// Reads a request.
///
/// # Errors
/// Everything that is wrong with its form. What its values may be is checked by the Generate that is made of it.
pub(super) fn read(body: &[u8], settings: &DoorSettings) -> Result<AnswerRequest, Vec<Problem>> {
    fields::read(body, |fields, problems| request(fields, settings, problems))
}

fn request(mut fields: Fields<'_>, settings: &DoorSettings, problems: &mut Problems) -> AnswerRequest {
    let model = fields.text("model", problems);
    let conversation = messages::conversation(&mut fields, problems);
    let Parameters {
        sampling,
        stopping,
        guard,
        delivery,
        limit_field,
    } = parameters::take(&mut fields, settings, problems);
    let logprobs = proto::LogprobOptions {
        generated: fields.flag("logprobs", problems).unwrap_or(false),
        top_n: fields.small("top_logprobs", problems).unwrap_or(0),
    };
    fields.only("tools", Only::Nothing, problems);
    fields.only("tool_choice", Only::Words(&["none", "auto"]), problems);
    fields.pass_over("parallel_tool_calls");
    if let Some(mut format) = fields.object("response_format", problems) {
        format.only("type", Only::Words(&["text"]), problems);
        format.finish(problems);
    }
    fields.finish(problems);
    AnswerRequest {
        endpoint: Endpoint::Chat,
        generate: proto::GenerateRequest {
            model: model.unwrap_or_default(),
            prompt: Some(Prompt::Conversation(conversation)),
            sampling: Some(sampling),
            stopping: Some(stopping),
            logprobs: Some(logprobs),
            guard,
            ..proto::GenerateRequest::default()
        },
        delivery,
        names: ParamNames {
            param_of,
            limit_field,
        },
    }
}

/// The parameter that a field of the Generate comes from.
pub(super) fn param_of(field: &str, limit_field: &str) -> String {
    match field {
        "logprobs.generated" => "logprobs".to_owned(),
        "logprobs.top_n" => "top_logprobs".to_owned(),
        _ => messages::param_of(field).unwrap_or_else(|| parameters::param_of(field, limit_field)),
    }
}

#[cfg(test)]
mod tests {
    use super::{super::parameters::Delivery, *};

    fn problems_of(body: &str) -> Vec<String> {
        let problems = read(body.as_bytes(), &DoorSettings::default()).err();
        let problems = problems.unwrap_or_default().into_iter();
        problems.map(|problem| problem.param).collect()
    }

    #[test]
    fn a_request_becomes_a_generate() {
        let body = br#"{"model": "smol", "messages": [{"role": "user", "content": "Hi"}], "logprobs": true, "top_logprobs": 2,
            "max_tokens": 5, "temperature": 0, "tools": [], "response_format": {"type": "text"}}"#;
        let request = read(body, &DoorSettings::default()).ok().unwrap();
        let wanted = proto::GenerateRequest {
            model: "smol".to_owned(),
            prompt: Some(Prompt::Conversation(proto::Conversation {
                messages: vec![proto::Message {
                    role: proto::Role::User.into(),
                    content: "Hi".to_owned(),
                    ..proto::Message::default()
                }],
            })),
            sampling: Some(proto::SamplingParams {
                temperature: Some(0.0),
                ..proto::SamplingParams::default()
            }),
            stopping: Some(proto::StoppingParams {
                max_new_tokens: 5,
                stop_sequences: Vec::new(),
            }),
            logprobs: Some(proto::LogprobOptions {
                generated: true,
                top_n: 2,
            }),
            ..proto::GenerateRequest::default()
        };
        assert_eq!(request.generate, wanted);
        assert_eq!(request.delivery, Delivery::Whole);
    }

    #[test]
    fn what_would_be_ignored_is_an_error_that_names_it() {
        let messages = r#""messages": [{"role": "user", "content": "Hi"}]"#;
        for (more, params) in [
            (r#""tools": [{"type": "function"}]"#, vec!["tools"]),
            (r#""tool_choice": "required""#, vec!["tool_choice"]),
            (
                r#""response_format": {"type": "json_object"}"#,
                vec!["response_format.type"],
            ),
            (r#""audio": {}"#, vec!["audio"]),
            (r#""reasoning_effort": "low""#, vec!["reasoning_effort"]),
            (r#""n": 3, "prompt": "a""#, vec!["n", "prompt"]),
        ] {
            assert_eq!(problems_of(&format!("{{{messages}, {more}}}")), params, "{more}");
        }
        assert_eq!(problems_of("{}"), ["messages"]);
    }

    #[test]
    fn errors_name_the_callers_fields() {
        for (field, param) in [
            ("conversation.messages[0].content", "messages[0].content"),
            ("logprobs.top_n", "top_logprobs"),
            ("sampling.top_p", "top_p"),
            ("guard.model", "babelward.guard"),
        ] {
            assert_eq!(param_of(field, "max_tokens"), param);
        }
    }
}
