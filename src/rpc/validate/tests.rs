use proptest::prelude::*;

use super::{
    checker::Checker,
    conversation,
    generation::generate_fields,
    request::{item_timeout, list_models},
    safety::batch,
};
use crate::{
    proto::{self, generate_request::Prompt as Wire},
    rpc::{deadline::Deadline, error::ServiceError, limits::Limits},
};

fn paths(result: Result<(), ServiceError>) -> Vec<String> {
    match result {
        Ok(()) => Vec::new(),
        Err(ServiceError::InvalidFields(list) | ServiceError::ConversationShape(list)) => {
            list.into_iter().map(|violation| violation.field).collect()
        }
        Err(other) => panic!("{other:?}"),
    }
}

fn check(request: proto::GenerateRequest, path: &str) -> Result<(), ServiceError> {
    let mut checker = Checker::at(path);
    generate_fields(&mut checker, request, &Limits::default());
    checker.finish()
}

fn text(sampling: proto::SamplingParams) -> proto::GenerateRequest {
    proto::GenerateRequest {
        prompt: Some(Wire::Text("x".to_owned())),
        sampling: Some(sampling),
        ..Default::default()
    }
}

#[test]
fn every_violation_is_reported_with_its_path() {
    let message = |role: i32, content: &str| proto::Message {
        role,
        content: content.to_owned(),
        ..proto::Message::default()
    };
    let request = proto::GenerateRequest {
        model: "m".repeat(129),
        prompt: Some(Wire::Conversation(proto::Conversation {
            messages: vec![message(2, ""), message(9, "hi"), message(0, &"x".repeat(262_145))],
        })),
        sampling: Some(proto::SamplingParams {
            temperature: Some(f64::NAN),
            top_p: Some(0.0),
            top_k: Some(0),
            repetition_penalty: Some(0.5),
            seed: None,
        }),
        stopping: Some(proto::StoppingParams {
            max_new_tokens: 4097,
            stop_sequences: vec![String::new(), "ok".to_owned(), "y".repeat(65)],
        }),
        logprobs: Some(proto::LogprobOptions {
            generated: false,
            top_n: 21,
        }),
        priority: 3,
        guard: None,
    };
    assert_eq!(
        paths(check(request, "items[3].request")),
        [
            "items[3].request.model",
            "items[3].request.conversation.messages[0].content",
            "items[3].request.conversation.messages[1].role",
            "items[3].request.conversation.messages[2].role",
            "items[3].request.conversation.messages[2].content",
            "items[3].request.sampling.temperature",
            "items[3].request.sampling.top_p",
            "items[3].request.sampling.repetition_penalty",
            "items[3].request.stopping.max_new_tokens",
            "items[3].request.stopping.stop_sequences[0]",
            "items[3].request.stopping.stop_sequences[2]",
            "items[3].request.logprobs.top_n",
            "items[3].request.logprobs.generated",
            "items[3].request.priority",
        ]
    );
}

#[test]
fn a_prompt_is_required() {
    assert_eq!(paths(check(proto::GenerateRequest::default(), "")), ["prompt"]);
    let empty = proto::GenerateRequest {
        prompt: Some(Wire::TokenIds(proto::TokenIds::default())),
        ..Default::default()
    };
    assert_eq!(paths(check(empty, "generate")), ["generate.token_ids.ids"]);
}

#[test]
fn a_score_ends_with_the_user() {
    let shape = |roles: &[proto::Role]| {
        let conversation = proto::Conversation {
            messages: roles
                .iter()
                .map(|role| proto::Message {
                    role: (*role).into(),
                    content: "x".to_owned(),
                    ..proto::Message::default()
                })
                .collect(),
        };
        let mut checker = Checker::at("conversation");
        conversation::ends_with_user(&mut checker, &conversation);
        paths(checker.finish())
    };
    use proto::Role::{Assistant, System, User};
    assert!(shape(&[User]).is_empty());
    assert!(shape(&[System, Assistant, User, User]).is_empty());
    assert_eq!(shape(&[User, Assistant]), ["conversation.messages[1].role"]);
    assert_eq!(shape(&[User, System]), ["conversation.messages[1].role"]);
}

#[test]
fn batches_number_items_without_ids_and_refuse_twins() {
    let batch_of = |ids: &[&str]| proto::BatchClassifyRequest {
        items: ids
            .iter()
            .map(|id| proto::BatchClassifyItem {
                id: (*id).to_owned(),
                request: None,
            })
            .collect(),
    };
    let limits = Limits::default();
    assert_eq!(
        batch(&batch_of(&["", "b", ""]), &limits),
        Ok(["0", "b", "2"].map(String::from).to_vec())
    );
    assert_eq!(
        batch(&batch_of(&["a", "b", "a"]), &limits),
        Err(ServiceError::ItemIdOpen {
            field: "items[2].id".to_owned()
        })
    );
    // An item without an id is named by its index, which another must not take.
    assert!(matches!(
        batch(&batch_of(&["1", ""]), &limits),
        Err(ServiceError::ItemIdOpen { .. })
    ));
    assert_eq!(paths(batch(&batch_of(&[]), &limits).map(drop)), ["items"]);
    assert_eq!(paths(batch(&batch_of(&["x"; 257]), &limits).map(drop)), ["items"]);
}

#[test]
fn item_timeouts_are_positive_durations() {
    let duration = |seconds, nanos| prost_types::Duration { seconds, nanos };
    assert_eq!(item_timeout(None), Ok(Deadline::default()));
    assert!(item_timeout(Some(&duration(0, 1))).is_ok());
    for wrong in [
        duration(0, 0),
        duration(-1, 0),
        duration(0, -1),
        duration(i64::MIN, i32::MIN),
    ] {
        assert_eq!(
            paths(item_timeout(Some(&wrong)).map(drop)),
            ["timeout"],
            "{wrong:?}"
        );
    }
}

#[test]
fn pages_begin_where_a_token_says() {
    let list = |page_size, page_token: &str, capability| {
        list_models(
            &proto::ListModelsRequest {
                page_size,
                page_token: page_token.to_owned(),
                capability,
            },
            3,
        )
    };
    let first = list(0, "", 0).unwrap();
    assert_eq!((first.start, first.page_size), (0, 50));
    let second = list(5000, "2", 2).unwrap();
    assert_eq!((second.start, second.page_size), (2, 1000));
    assert_eq!(
        paths(list(-1, "3", 77).map(drop)),
        ["page_size", "page_token", "capability"]
    );
}

proptest! {
    #[test]
    fn numbers_pass_exactly_when_they_are_in_range(
        temperature in prop::num::f64::ANY,
        top_p in prop::num::f64::ANY,
        repetition_penalty in prop::num::f64::ANY,
    ) {
        let request = text(proto::SamplingParams {
            temperature: Some(temperature),
            top_p: Some(top_p),
            repetition_penalty: Some(repetition_penalty),
            ..Default::default()
        });
        let mut wrong = Vec::new();
        for (field, fine) in [
            ("sampling.temperature", (0.0..=2.0).contains(&temperature)),
            ("sampling.top_p", top_p > 0.0 && top_p <= 1.0),
            ("sampling.repetition_penalty", (1.0..=2.0).contains(&repetition_penalty)),
        ] {
            if !fine {
                wrong.push(field.to_owned());
            }
        }
        prop_assert_eq!(paths(check(request, "")), wrong);
    }
}
