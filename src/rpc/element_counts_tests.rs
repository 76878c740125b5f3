//! Lists that are too long, at any depth of a message.

use super::*;
use crate::proto::{self, FILE_DESCRIPTOR_SET};

fn counts() -> ElementCounts {
    ElementCounts::new(FILE_DESCRIPTOR_SET, &Limits::default()).unwrap()
}

fn conversation(messages: usize) -> proto::Conversation {
    proto::Conversation {
        messages: vec![proto::Message::default(); messages],
    }
}

fn classify(messages: usize) -> proto::ClassifyRequest {
    proto::ClassifyRequest {
        conversation: Some(conversation(messages)),
        ..Default::default()
    }
}

fn violated(method: Method, message: &impl prost::Message) -> Option<String> {
    let violation = counts().check(method, &message.encode_to_vec()).err()?;
    Some(violation.field)
}

/// Fails when a list is added to a request without a limit for it.
#[test]
fn every_list_of_a_request_has_a_limit() {
    fn walk(name: &str, set: &FileDescriptorSet, seen: &mut Vec<String>, lists: &mut Vec<String>) {
        if seen.iter().any(|known| known == name) {
            return;
        }
        seen.push(name.to_owned());
        for file in &set.file {
            for message in &file.message_type {
                if format!(".{}.{}", file.package(), message.name()) != name {
                    continue;
                }
                for field in &message.field {
                    if field.label() == Label::Repeated {
                        lists.push(format!("{}.{}", name.trim_start_matches('.'), field.name()));
                    }
                    if field.r#type() == Type::Message {
                        walk(field.type_name(), set, seen, lists);
                    }
                }
            }
        }
    }
    let set = FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).unwrap();
    let (mut seen, mut lists) = (Vec::new(), Vec::new());
    for file in &set.file {
        for method in file.service.iter().flat_map(|service| &service.method) {
            walk(method.input_type(), &set, &mut seen, &mut lists);
        }
    }
    let without: Vec<_> = lists
        .iter()
        .filter(|name| limit(name, &Limits::default()).is_none())
        .collect();
    assert!(without.is_empty(), "{without:?}");
    assert_eq!(lists.len(), counts().lists);
}

#[test]
fn far_too_long_lists_are_named_with_their_path() {
    let at_most = classify(128);
    assert_eq!(violated(Method::Classify, &at_most), None);
    assert_eq!(
        violated(Method::Classify, &classify(129)).as_deref(),
        Some("conversation.messages")
    );
    let item = |messages| proto::BatchClassifyItem {
        request: Some(classify(messages)),
        ..Default::default()
    };
    // Each item has its own conversation.
    let many = proto::BatchClassifyRequest {
        items: vec![item(100); 200],
    };
    assert_eq!(violated(Method::BatchClassify, &many), None);
    let one = proto::BatchClassifyRequest {
        items: vec![item(1), item(200)],
    };
    assert_eq!(
        violated(Method::BatchClassify, &one).as_deref(),
        Some("items[1].request.conversation.messages")
    );
    let items = proto::BatchClassifyRequest {
        items: vec![proto::BatchClassifyItem::default(); 600],
    };
    assert_eq!(violated(Method::BatchClassify, &items).as_deref(), Some("items"));
    let pairs = proto::EstimateQualityRequest {
        pairs: vec![proto::TranslationPair::default(); 600],
        ..Default::default()
    };
    assert_eq!(
        violated(Method::EstimateQuality, &pairs).as_deref(),
        Some("pairs")
    );
    let policy = proto::ClassifyRequest {
        policy_source: Some(proto::classify_request::PolicySource::InlinePolicy(
            proto::Policy {
                categories: vec![proto::PolicyCategory::default(); 100],
                ..Default::default()
            },
        )),
        ..Default::default()
    };
    assert_eq!(
        violated(Method::Classify, &policy).as_deref(),
        Some("inline_policy.categories")
    );
}

#[test]
fn numbers_count_packed_and_not() {
    let ids = |ids: Vec<u32>| proto::GenerateRequest {
        prompt: Some(proto::generate_request::Prompt::TokenIds(proto::TokenIds { ids })),
        stopping: Some(proto::StoppingParams {
            stop_sequences: vec!["x".to_owned(); 16],
            ..Default::default()
        }),
        ..Default::default()
    };
    let most = 2 * Limits::default().token_ids;
    assert_eq!(violated(Method::Generate, &ids(vec![300; most])), None);
    assert_eq!(
        violated(Method::Generate, &ids(vec![300; most + 1])).as_deref(),
        Some("token_ids.ids")
    );
    // Field 1 of TokenIds, one number at a time.
    let single = [0x08, 0x05].repeat(most + 1);
    let mut message = Vec::new();
    let number = proto_field(&ids(vec![7]));
    prost::encoding::encode_key(number, prost::encoding::WireType::LengthDelimited, &mut message);
    prost::encoding::encode_varint(single.len() as u64, &mut message);
    message.extend(single);
    assert_eq!(
        counts().check(Method::Generate, &message).unwrap_err().field,
        "token_ids.ids"
    );
}

/// The number of the first field of a request.
fn proto_field(request: &proto::GenerateRequest) -> u32 {
    let request = proto::GenerateRequest {
        stopping: None,
        ..request.clone()
    };
    u32::from(request.encode_to_vec()[0] >> 3)
}

#[test]
fn a_field_that_is_given_many_times_counts_as_one() {
    let message = classify(40).encode_to_vec().repeat(4);
    assert_eq!(
        counts().check(Method::Classify, &message).unwrap_err().field,
        "conversation.messages"
    );
    // Unknown fields: as many as the fields of the largest request pass, and one more does not.
    let unknown = [0xf8, 0x01, 0x00].repeat(counts().most_fields);
    assert!(counts().check(Method::Classify, &unknown).is_ok());
    let unknown = [0xf8, 0x01, 0x00].repeat(counts().most_fields + 1);
    assert!(counts().check(Method::Classify, &unknown).is_err());
}

#[test]
fn the_id_is_found_wherever_it_stands() {
    let request = proto::ClassifyStreamRequest {
        id: "here".to_owned(),
        ..Default::default()
    };
    let mut message = vec![0x12, 0x00];
    message.extend(request.encode_to_vec());
    assert_eq!(first_id(&message), b"here");
    assert_eq!(first_id(&[0x12, 0x00]), b"");
    assert_eq!(first_id(&[0xff; 20]), b"");
}

proptest::proptest! {
    #[test]
    fn no_bytes_are_too_odd(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
        let counts = counts();
        for method in Method::ALL {
            let _ = counts.check(method, &bytes);
        }
        let _ = first_id(&bytes);
    }
}
