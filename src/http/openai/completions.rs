//! `POST /v1/completions`: a prompt that no template is applied to.

use serde_json::value::RawValue;

use super::{
    answer::Endpoint,
    fields::{self, Fields, Kind, Only, Problem, Problems, kind, list, text, token_ids},
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
    let prompt = match fields.value("prompt") {
        Some(value) => prompt(value, problems),
        None => {
            problems.note("prompt", "is required");
            None
        }
    };
    let Parameters {
        sampling,
        stopping,
        guard,
        delivery,
        limit_field,
    } = parameters::take(&mut fields, settings, problems);
    // The number of alternatives for each token.
    let logprobs = fields.small("logprobs", problems);
    fields.only("best_of", Only::Number(1.0), problems);
    fields.only("echo", Only::Flag(false), problems);
    fields.only("suffix", Only::Nothing, problems);
    fields.finish(problems);
    AnswerRequest {
        endpoint: Endpoint::Completion,
        generate: proto::GenerateRequest {
            model: model.unwrap_or_default(),
            prompt,
            sampling: Some(sampling),
            stopping: Some(stopping),
            logprobs: logprobs.map(|top_n| proto::LogprobOptions {
                generated: true,
                top_n,
            }),
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

/// A prompt: a text or token ids, or a list with one of these.
fn prompt(value: &RawValue, problems: &mut Problems) -> Option<Prompt> {
    let found = match kind(value) {
        Kind::Text => text(value).map(Prompt::Text),
        Kind::List => {
            let of = list(value, 1)?;
            match of.first.first() {
                Some(first) if matches!(kind(first), Kind::Text | Kind::List) => {
                    if of.count > 1 {
                        problems.note(
                            "prompt",
                            format!("must be one prompt, has {}: send a request for each", of.count),
                        );
                        return None;
                    }
                    match kind(first) {
                        Kind::Text => text(first).map(Prompt::Text),
                        _ => tokens(first),
                    }
                }
                _ => tokens(value),
            }
        }
        Kind::Null | Kind::Flag | Kind::Number | Kind::Object => None,
    };
    if found.is_none() {
        problems.note("prompt", "must be a text or a list of token ids");
    }
    found
}

fn tokens(value: &RawValue) -> Option<Prompt> {
    token_ids(value).map(|ids| Prompt::TokenIds(proto::TokenIds { ids }))
}

/// The parameter that a field of the Generate comes from.
pub(super) fn param_of(field: &str, limit_field: &str) -> String {
    match field {
        "text" => "prompt".to_owned(),
        "logprobs.generated" | "logprobs.top_n" => "logprobs".to_owned(),
        _ => match field.strip_prefix("token_ids.ids") {
            Some(index) => format!("prompt{index}"),
            None => parameters::param_of(field, limit_field),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems_of(body: &str) -> Vec<String> {
        let problems = read(body.as_bytes(), &DoorSettings::default()).err();
        let problems = problems.unwrap_or_default().into_iter();
        problems.map(|problem| problem.param).collect()
    }

    fn prompt_of(prompt: &str) -> Option<Prompt> {
        let body = format!("{{\"prompt\": {prompt}}}");
        let request = read(body.as_bytes(), &DoorSettings::default());
        request.ok()?.generate.prompt
    }

    #[test]
    fn a_prompt_is_a_text_or_token_ids() {
        let text = |text: &str| Some(Prompt::Text(text.to_owned()));
        let ids = |ids: &[u32]| Some(Prompt::TokenIds(proto::TokenIds { ids: ids.to_vec() }));
        assert_eq!(prompt_of(r#""a\nb""#), text("a\nb"));
        assert_eq!(prompt_of(r#"["a"]"#), text("a"));
        assert_eq!(prompt_of("[1, 2]"), ids(&[1, 2]));
        assert_eq!(prompt_of("[[1, 2]]"), ids(&[1, 2]));
        // The call says that there must be one token at least.
        assert_eq!(prompt_of("[]"), ids(&[]));
        for wrong in [
            r#"["a", "b"]"#,
            "[[1], [2]]",
            "[1, \"a\"]",
            "[-1]",
            "5",
            "{}",
            "null",
            "[null]",
        ] {
            assert_eq!(prompt_of(wrong), None, "{wrong}");
            assert_eq!(
                problems_of(&format!("{{\"prompt\": {wrong}}}")),
                ["prompt"],
                "{wrong}"
            );
        }
    }

    #[test]
    fn the_number_of_alternatives_is_logprobs() {
        let request = read(
            br#"{"prompt": "a", "logprobs": 3, "model": "m"}"#,
            &DoorSettings::default(),
        )
        .ok()
        .unwrap();
        let wanted = proto::LogprobOptions {
            generated: true,
            top_n: 3,
        };
        assert_eq!(request.generate.logprobs, Some(wanted));
        assert_eq!(request.generate.model, "m");
        let without = read(br#"{"prompt": "a"}"#, &DoorSettings::default())
            .ok()
            .unwrap();
        assert_eq!(without.generate.logprobs, None);
    }

    #[test]
    fn what_would_be_ignored_is_an_error_that_names_it() {
        for (body, params) in [
            (r#"{"prompt": "a", "echo": true}"#, vec!["echo"]),
            (r#"{"prompt": "a", "best_of": 3}"#, vec!["best_of"]),
            (r#"{"prompt": "a", "suffix": "b"}"#, vec!["suffix"]),
            (r#"{"prompt": "a", "messages": []}"#, vec!["messages"]),
            (r#"{"prompt": "a", "logprobs": true}"#, vec!["logprobs"]),
            ("{}", vec!["prompt"]),
        ] {
            assert_eq!(problems_of(body), params, "{body}");
        }
        assert_eq!(
            problems_of(r#"{"prompt": "a", "echo": false, "best_of": 1, "suffix": null}"#),
            [""; 0]
        );
    }

    #[test]
    fn errors_name_the_callers_fields() {
        for (field, param) in [
            ("text", "prompt"),
            ("token_ids.ids[3]", "prompt[3]"),
            ("token_ids.ids", "prompt"),
            ("logprobs.top_n", "logprobs"),
            ("stopping.max_new_tokens", "max_tokens"),
        ] {
            assert_eq!(param_of(field, "max_tokens"), param);
        }
    }
}
